//! The ledger: what became of each file, counted once and told on the bus.

use crate::agents::{IndexRepo, Step};
use crate::model::{Failure, Skip};
use crate::summary::FileCounts;
use phalanx::Error;
use phalanx::coordinator::Coordinator;
use std::sync::{Mutex, PoisonError};

/// What became of a file that the walk yielded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Parsed and committed in this run.
    Indexed,
    /// Indexed earlier, same bytes.
    Unchanged,
    /// Left out by choice.
    Skipped(Skip),
    /// Should have been indexed, and could not be.
    Failed(Failure),
}

/// Counts for the walk and the clerk alike.
#[derive(Debug)]
pub struct Ledger<'a> {
    coordinator: &'a Coordinator<IndexRepo>,
    entries: Mutex<Entries>,
}

/// What the ledger holds.
#[derive(Debug, Default)]
pub struct Entries {
    /// The counts.
    pub files: FileCounts,
    /// The files that failed, in the order in which that was known.
    pub failed: Vec<(String, Failure)>,
    settled: u64,
}

impl<'a> Ledger<'a> {
    /// An empty one, which tells what is entered on the coordinator's bus.
    pub fn new(coordinator: &'a Coordinator<IndexRepo>) -> Self {
        Self { coordinator, entries: Mutex::default() }
    }

    /// Enters that the walk yielded one more file.
    pub fn see(&self) -> Result<(), Error> {
        let seen = self.with(|entries| {
            entries.files.seen += 1;
            entries.files.seen
        });
        self.coordinator.publish(Step::Seen(seen))
    }

    /// Enters that the walk has come to its end.
    pub fn end_walk(&self) -> Result<(), Error> {
        let seen = self.with(|entries| entries.files.seen);
        self.coordinator.publish(Step::Walked(seen))
    }

    /// Enters what became of a file.
    pub fn settle(&self, path: &str, fate: Fate) -> Result<(), Error> {
        let settled = self.with(|entries| {
            match fate {
                Fate::Indexed => entries.files.indexed += 1,
                Fate::Unchanged => entries.files.unchanged += 1,
                Fate::Skipped(reason) => entries.files.skip(reason),
                Fate::Failed(reason) => {
                    entries.files.fail(reason);
                    entries.failed.push((path.to_owned(), reason));
                }
            }
            entries.settled += 1;
            entries.settled
        });
        self.coordinator.publish(Step::Settled { path: path.into(), fate, settled })
    }

    /// Closes the ledger.
    pub fn close(self) -> Entries {
        self.entries.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<R>(&self, enter: impl FnOnce(&mut Entries) -> R) -> R {
        enter(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
