//! Phase one: walk the tree, and have each file that is new or changed indexed.
//!
//! 1. Every file that the walk yields is counted once: skipped, failed, unchanged, or by the verdict on its
//!    one task.
//! 2. A file is acknowledged after its entry is durable, once, and only if it was indexed in this run.
//! 3. A parse that hit its deadline may have been slowed down by others; it is tried again alone, and only
//!    that verdict counts.
//! 4. When the phase is over, the index holds exactly the files that were indexed or unchanged.

use crate::agents::{Crew, IndexRepo, Step};
use crate::classify::{Kind, classify};
use crate::clerk::Verdict;
use crate::dispatch::{Dispatcher, dispatch, run_alone, task};
use crate::model::{Failure, Job};
use crate::store::Store;
use crate::summary::FileCounts;
use crate::walk::{Found, walk};
use phalanx::coordinator::Coordinator;
use phalanx::fleet::Task;
use phalanx::state::Snapshot;
use phalanx::{Error, ErrorKind};
use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the phase works with.
pub struct PhaseOne<'a> {
    /// The parts.
    pub coordinator: &'a Coordinator<IndexRepo>,
    /// What the agents share.
    pub crew: &'a Crew,
    /// The index.
    pub store: &'a Store,
    /// Whether the paths of acknowledged files go to stdout.
    pub print_acks: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Indexed {
    /// What became of each file.
    pub files: FileCounts,
    /// Tasks that an interrupted run left behind and nobody needs any more.
    pub cancelled: u64,
}

/// The walk's side of the phase.
struct Walker<'a> {
    phase: &'a PhaseOne<'a>,
    before: Snapshot,
    left_over: LeftOver,
    counts: FileCounts,
    kept: HashSet<String>,
    settled: &'a AtomicU64,
}

/// The clerk's side of the phase.
#[derive(Default)]
struct Verdicts {
    indexed: u64,
    failed: Vec<(String, Failure)>,
    late: Vec<Job>,
}

impl PhaseOne<'_> {
    /// Runs the phase.
    pub fn run(&self) -> Result<Indexed, Error> {
        let settled = AtomicU64::new(0);
        let mut verdicts = Verdicts::default();
        let mut walker = Walker {
            phase: self,
            before: self.store.state().snapshot(),
            left_over: LeftOver::take(self.coordinator),
            counts: FileCounts::default(),
            kept: HashSet::new(),
            settled: &settled,
        };
        let tell = |job, verdict| self.tell(&mut verdicts, &settled, job, verdict);
        dispatch(self.coordinator, tell, |dispatcher| walker.walk(dispatcher))?;
        let Walker { left_over, counts: mut files, mut kept, .. } = walker;

        for job in std::mem::take(&mut verdicts.late) {
            let verdict = run_alone(self.coordinator, job.clone())?;
            self.settle(&mut verdicts, &settled, &job, verdict)?;
        }
        files.indexed += verdicts.indexed;
        for (path, failure) in verdicts.failed {
            files.fail(failure);
            kept.remove(&path);
        }
        self.store.retain(|path| kept.contains(path))?;
        Ok(Indexed { files, cancelled: left_over.cancel(self.coordinator)? })
    }

    fn tell(
        &self,
        verdicts: &mut Verdicts,
        settled: &AtomicU64,
        job: Job,
        verdict: Verdict,
    ) -> Result<(), Error> {
        if verdict == Err(Failure::Deadline) {
            verdicts.late.push(job);
            return Ok(());
        }
        self.settle(verdicts, settled, &job, verdict)
    }

    fn settle(
        &self,
        verdicts: &mut Verdicts,
        settled: &AtomicU64,
        job: &Job,
        verdict: Verdict,
    ) -> Result<(), Error> {
        match verdict {
            Ok(()) => {
                verdicts.indexed += 1;
                self.acknowledge(job.path())?;
            }
            Err(failure) => verdicts.failed.push((job.path().to_owned(), failure)),
        }
        let settled = settled.fetch_add(1, Ordering::Relaxed) + 1;
        self.coordinator.publish(Step::Indexed(settled))
    }

    fn acknowledge(&self, path: &str) -> Result<(), Error> {
        if !self.print_acks {
            return Ok(());
        }
        // A line each, whatever a file is called.
        let line = path.replace('\n', "\\n");
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| {
            Error::with_source(ErrorKind::Io, "could not print an acknowledgement", error)
        })
    }
}

impl Walker<'_> {
    fn walk(&mut self, dispatcher: &mut Dispatcher<'_>) -> Result<(), Error> {
        let coordinator = self.phase.coordinator;
        for found in walk(&self.phase.crew.root) {
            self.counts.seen += 1;
            coordinator.publish(Step::Seen(self.counts.seen))?;
            match self.look(found) {
                Some(task) => dispatcher.push(task)?,
                None => {
                    let settled = self.settled.fetch_add(1, Ordering::Relaxed) + 1;
                    coordinator.publish(Step::Indexed(settled))?;
                }
            }
        }
        coordinator.publish(Step::Walked(self.counts.seen))
    }

    /// Counts what was found, or says what has to be done about it.
    fn look(&mut self, found: Found) -> Option<Task<Job>> {
        let (path, relative) = match found {
            Found::Skipped(_, reason) => {
                self.counts.skip(reason);
                return None;
            }
            Found::Failed(_, reason) => {
                self.counts.fail(reason);
                return None;
            }
            Found::File { path, relative } => (path, relative),
        };
        let (language, content) = match classify(&path, &self.phase.crew.taste) {
            Kind::Skipped(reason) => {
                self.counts.skip(reason);
                return None;
            }
            Kind::Failed(reason) => {
                self.counts.fail(reason);
                return None;
            }
            Kind::Source { language, content, .. } => (language, content),
        };
        self.kept.insert(relative.clone());
        let known = self.before.get_ref(self.phase.store.files(), &relative);
        if known.is_some_and(|entry| entry.content == content) {
            self.counts.unchanged += 1;
            return None;
        }
        let job = Job::Index { path: relative, content, language };
        Some(self.left_over.claim(&job).unwrap_or_else(|| task(job)))
    }
}

/// Tasks that an interrupted run had accepted and not brought to an end.
///
/// One that still fits its file is run under the id that it was accepted by; the others are cancelled,
/// since this run finds out by itself what is to be done.
struct LeftOver {
    by_path: HashMap<String, Task<Job>>,
    unneeded: Vec<Task<Job>>,
}

impl LeftOver {
    fn take(coordinator: &Coordinator<IndexRepo>) -> Self {
        let mut left_over = Self { by_path: HashMap::new(), unneeded: Vec::new() };
        for task in coordinator.take_recovered() {
            let earlier = match task.payload() {
                Job::Resolve { .. } => Some(task),
                Job::Index { path, .. } => left_over.by_path.insert(path.clone(), task),
            };
            left_over.unneeded.extend(earlier);
        }
        left_over
    }

    fn claim(&mut self, job: &Job) -> Option<Task<Job>> {
        let fits = self.by_path.get(job.path()).is_some_and(|task| task.payload() == job);
        if fits { self.by_path.remove(job.path()) } else { None }
    }

    fn cancel(mut self, coordinator: &Coordinator<IndexRepo>) -> Result<u64, Error> {
        self.unneeded.extend(self.by_path.into_values());
        let cancelled = self.unneeded.len() as u64;
        if cancelled > 0 {
            coordinator.cancel_recovered(self.unneeded)?;
        }
        Ok(cancelled)
    }
}
