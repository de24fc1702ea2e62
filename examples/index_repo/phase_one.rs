//! Phase one: walk the tree, and have each file that is new or changed indexed.
//!
//! 1. Every file that the walk yields is settled once: by the walk itself, or by the verdict on its one task.
//! 2. A file is acknowledged after its entry is durable, once, and only if it was indexed in this run.
//! 3. A parse that hit its deadline may have been slowed down by others; it is tried again alone, and only
//!    that verdict counts.
//! 4. When the phase is over, the index holds exactly the files that were indexed or unchanged.

use crate::agents::{Crew, IndexRepo};
use crate::classify::{Kind, classify};
use crate::clerk::Verdict;
use crate::dispatch::{Dispatcher, dispatch, run_alone, task};
use crate::ledger::{Entries, Fate, Ledger};
use crate::model::{Failure, Job};
use crate::store::Store;
use crate::walk::{Found, walk};
use phalanx::coordinator::Coordinator;
use phalanx::fleet::Task;
use phalanx::state::Snapshot;
use phalanx::{Error, ErrorKind};
use std::collections::{HashMap, HashSet};
use std::io::Write;

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
    pub entries: Entries,
    /// Tasks that an interrupted run left behind and nobody needs any more.
    pub cancelled: u64,
}

impl PhaseOne<'_> {
    /// Runs the phase.
    pub fn run(&self) -> Result<Indexed, Error> {
        let ledger = Ledger::new(self.coordinator);
        let mut late = Vec::new();
        let mut walker = Walker {
            phase: self,
            ledger: &ledger,
            before: self.store.state().snapshot(),
            left_over: LeftOver::take(self.coordinator),
            kept: HashSet::new(),
        };
        let tell = |job: Job, verdict| {
            if verdict == Err(Failure::Deadline) {
                late.push(job);
                return Ok(());
            }
            self.settle(&ledger, &job, verdict)
        };
        dispatch(self.coordinator, tell, |dispatcher| walker.walk(dispatcher))?;
        let Walker { left_over, mut kept, .. } = walker;
        for job in late {
            let verdict = run_alone(self.coordinator, job.clone())?;
            self.settle(&ledger, &job, verdict)?;
        }

        let entries = ledger.close();
        for (path, _) in &entries.failed {
            kept.remove(path);
        }
        self.store.retain(|path| kept.contains(path))?;
        Ok(Indexed { entries, cancelled: left_over.cancel(self.coordinator)? })
    }

    fn settle(&self, ledger: &Ledger<'_>, job: &Job, verdict: Verdict) -> Result<(), Error> {
        let fate = match verdict {
            Ok(()) => {
                self.acknowledge(job.path())?;
                Fate::Indexed
            }
            Err(failure) => Fate::Failed(failure),
        };
        ledger.settle(job.path(), fate)
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

/// The walk's side of the phase; the clerk's is [`PhaseOne::settle`].
struct Walker<'a> {
    phase: &'a PhaseOne<'a>,
    ledger: &'a Ledger<'a>,
    before: Snapshot,
    left_over: LeftOver,
    kept: HashSet<String>,
}

/// What is to be done about a file.
enum Finding {
    Settled(String, Fate),
    ToDo(Task<Job>),
}

impl Walker<'_> {
    fn walk(&mut self, dispatcher: &mut Dispatcher<'_>) -> Result<(), Error> {
        for found in walk(&self.phase.crew.root) {
            self.ledger.see()?;
            match self.look(found) {
                Finding::ToDo(task) => dispatcher.push(task)?,
                Finding::Settled(path, fate) => self.ledger.settle(&path, fate)?,
            }
        }
        self.ledger.end_walk()
    }

    fn look(&mut self, found: Found) -> Finding {
        let (path, relative) = match found {
            Found::File { path, relative } => (path, relative),
            Found::Skipped(path, reason) => {
                return Finding::Settled(path.display().to_string(), Fate::Skipped(reason));
            }
            Found::Failed(path, reason) => {
                return Finding::Settled(path.display().to_string(), Fate::Failed(reason));
            }
        };
        let (language, content) = match classify(&path, &self.phase.crew.taste) {
            Kind::Source { language, content, .. } => (language, content),
            Kind::Skipped(reason) => return Finding::Settled(relative, Fate::Skipped(reason)),
            Kind::Failed(reason) => return Finding::Settled(relative, Fate::Failed(reason)),
        };
        self.kept.insert(relative.clone());
        let known = self.before.get_ref(self.phase.store.files(), &relative);
        if known.is_some_and(|entry| entry.content == content) {
            return Finding::Settled(relative, Fate::Unchanged);
        }
        let job = Job::Index { path: relative, content, language };
        Finding::ToDo(self.left_over.claim(&job).unwrap_or_else(|| task(job)))
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
