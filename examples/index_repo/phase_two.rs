//! Phase two: find out what each file's imports refer to, and where it uses them.
//!
//! What a name refers to is worked out here, from the index alone; agents are asked only for the uses, which
//! need the tree, and only where something changed that the answer depends on.
//!
//! 1. When the phase is over, the references of every file are those that a fresh index would have.

use crate::agents::{IndexRepo, Step};
use crate::clerk::Verdict;
use crate::dispatch::{Dispatcher, dispatch, run_alone, task};
use crate::model::{Failure, Job};
use crate::resolve::{Files, Index};
use crate::store::Store;
use phalanx::Error;
use phalanx::coordinator::Coordinator;
use std::sync::atomic::{AtomicU64, Ordering};

/// What came of it.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Files whose references were made in this run.
    pub resolved: u64,
    /// Files whose references could not be made, with the reason.
    pub failed: Vec<(String, Failure)>,
}

/// Runs the phase.
pub fn run(coordinator: &Coordinator<IndexRepo>, store: &Store) -> Result<Resolved, Error> {
    let snapshot = store.state().snapshot();
    let files: Files<'_> =
        snapshot.iter(store.files()).map(|(path, entry)| (path.as_str(), entry)).collect();
    let index = Index::new(files);
    coordinator.publish(Step::Resolving(index.files().len() as u64))?;

    let settled = AtomicU64::new(0);
    let settle = |path: &str| {
        let settled = settled.fetch_add(1, Ordering::Relaxed) + 1;
        coordinator.publish(Step::Resolved { path: path.into(), settled })
    };
    let mut outcome = Resolved::default();
    let mut late = Vec::new();
    // Files that import nothing any more.
    let mut bare = Vec::new();

    let tell = |job: Job, verdict: Verdict| {
        settle(job.path())?;
        if verdict == Err(Failure::Deadline) {
            late.push(job);
        } else {
            outcome.count(&job, verdict);
        }
        Ok(())
    };
    dispatch(coordinator, tell, |dispatcher: &mut Dispatcher<'_>| {
        // The last files of phase one are those whose trees are still in the cache.
        for (&path, entry) in index.files().iter().rev() {
            let stored = snapshot.get_ref(store.references(), &path.to_owned());
            let bindings = index.bindings(path);
            if bindings.is_empty() {
                bare.extend(stored.map(|_| path.to_owned()));
                settle(path)?;
                continue;
            }
            let inputs = index.inputs(path, &bindings);
            if stored.is_some_and(|stored| stored.inputs == inputs) {
                settle(path)?;
                continue;
            }
            let (content, language) = (entry.content, entry.language);
            let path = path.to_owned();
            dispatcher.push(task(Job::Resolve { path, content, language, inputs, bindings }))?;
        }
        Ok(())
    })?;
    for job in late {
        let verdict = run_alone(coordinator, job.clone())?;
        outcome.count(&job, verdict);
    }
    bare.extend(outcome.failed.iter().map(|(path, _)| path.clone()));
    store.remove_references(&bare)?;
    Ok(outcome)
}

impl Resolved {
    fn count(&mut self, job: &Job, verdict: Verdict) {
        match verdict {
            Ok(()) => self.resolved += 1,
            Err(failure) => self.failed.push((job.path().to_owned(), failure)),
        }
    }
}
