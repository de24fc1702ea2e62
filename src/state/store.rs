//! What survives: the trait of a store, and the keeper that fills one.
//!
//! A store holds its identity, an append-only table of groups of deltas, and one checkpoint. Rules that hold
//! here:
//!
//! 1. An append is all or nothing and returns after its one sync.
//! 2. A checkpoint and the removal of the groups it covers are one atomic step.
//! 3. A group starts with the version after the last one of what lies before it.

pub(super) mod redb;

use std::sync::Arc;
use std::time::Duration;

use super::Version;
use super::block::{self, Kind, put_bytes};
use super::builder::Settings;
use super::codec::Codec;
use super::disk::Counters;
use super::export::{self, ChunkSink};
use super::folder::Folder;
use super::journal::Sink;
use super::release::Held;
use crate::{Clock, Error};

/// Produces the chunks of a checkpoint.
pub(super) type Chunks<'a> = dyn FnMut(&mut ChunkSink<'_>) -> Result<(), Error> + 'a;

/// Where blocks are kept.
pub(super) trait Store: Send {
    /// The block that says what the store is; none in a store that was never written.
    fn identity(&self) -> Result<Option<Vec<u8>>, Error>;
    /// Hands over the chunks of the newest checkpoint in order, then the groups in order.
    fn load(&self, load: &mut dyn Load) -> Result<(), Error>;
    /// Rule 1 of the file.
    fn append(&mut self, first: Version, group: &[u8]) -> Result<(), Error>;
    /// Rule 2 of the file.
    fn checkpoint(&mut self, version: Version, chunks: &mut Chunks<'_>) -> Result<(), Error>;
}

/// Takes what a store holds.
pub(super) trait Load {
    fn chunk(&mut self, version: Version, index: u64, block: &[u8]) -> Result<(), Error>;
    fn group(&mut self, first: Version, block: &[u8]) -> Result<(), Error>;
}

/// Says what a store is: the same block stands in the folder's header and in the store.
pub(super) fn identity(codec: Codec) -> Result<Vec<u8>, Error> {
    block::seal(Kind::Store, codec, codec.name().as_bytes())
}

/// The payload of a group: `first version (8) | delta*`, each delta behind its length.
fn group(first: Version, deltas: &[Vec<u8>]) -> Vec<u8> {
    let bytes: usize = deltas.iter().map(|delta| delta.len() + 10).sum();
    let mut payload = Vec::with_capacity(8 + bytes);
    payload.extend_from_slice(&first.as_u64().to_le_bytes());
    for delta in deltas {
        put_bytes(&mut payload, delta);
    }
    payload
}

/// Where an append takes less, a leader waits for nobody: those who are woken need as long to come.
const PATIENT_FROM: Duration = Duration::from_micros(100);
/// A leader waits no longer, however long appends took: one that the disk held up for seconds says nothing of the
/// next one.
const PATIENCE_MAX: Duration = Duration::from_millis(5);

/// How long a leader waits for others where an append takes so long.
fn patience(append: Duration) -> Duration {
    if append < PATIENT_FROM { Duration::ZERO } else { (append / 2).min(PATIENCE_MAX) }
}

/// Fills a store: seals groups, and knows when a checkpoint is due.
pub(super) struct Keeper {
    // Before the folder: the engine closes its file while the lock is still held.
    store: Box<dyn Store>,
    folder: Option<Folder>,
    codec: Codec,
    counters: Arc<Counters>,
    every_bytes: u64,
    every_commits: u64,
    checkpointed: Option<Version>,
    checkpoint_bytes: u64,
    delta_bytes: u64,
    delta_commits: u64,
    clock: Clock,
    /// What an append takes, by the last few of them.
    append: Duration,
}

/// What recovery knows about the distance to the next checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    pub(super) checkpointed: Option<Version>,
    pub(super) checkpoint_bytes: u64,
    pub(super) delta_bytes: u64,
    pub(super) delta_commits: u64,
}

impl Keeper {
    pub(super) fn new(
        store: Box<dyn Store>,
        folder: Option<Folder>,
        codec: Codec,
        counters: Arc<Counters>,
        settings: &Settings,
        progress: Progress,
    ) -> Self {
        Self {
            store,
            folder,
            codec,
            counters,
            every_bytes: settings.checkpoint_every_bytes,
            every_commits: settings.checkpoint_every_commits,
            checkpointed: progress.checkpointed,
            checkpoint_bytes: progress.checkpoint_bytes,
            delta_bytes: progress.delta_bytes,
            delta_commits: progress.delta_commits,
            clock: settings.clock.clone(),
            append: Duration::ZERO,
        }
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}

impl Sink for Keeper {
    type Image = Held;

    fn append(&mut self, first: Version, deltas: &[Vec<u8>]) -> Result<(), Error> {
        let block = block::seal(Kind::Group, self.codec, &group(first, deltas))?;
        let start = self.clock.now();
        self.store.append(first, &block)?;
        let took = self.clock.now() - start;
        self.append = self.append * 3 / 4 + took / 4;
        self.delta_bytes += block.len() as u64;
        self.delta_commits += deltas.len() as u64;
        Ok(())
    }

    fn patience(&self) -> Duration {
        patience(self.append)
    }

    fn checkpoint_due(&self) -> bool {
        self.delta_bytes >= self.every_bytes.max(self.checkpoint_bytes)
            || self.delta_commits >= self.every_commits
    }

    fn checkpoint(&mut self, root: &Held) -> Result<bool, Error> {
        if self.checkpointed == Some(root.version) {
            return Ok(false);
        }
        let mut bytes = 0;
        let codec = self.codec;
        self.store.checkpoint(root.version, &mut |sink| {
            export::chunks(root, codec, &mut |index, block| {
                bytes += block.len() as u64;
                sink(index, block)
            })
        })?;
        self.checkpointed = Some(root.version);
        self.checkpoint_bytes = bytes;
        self.delta_bytes = 0;
        self.delta_commits = 0;
        Ok(true)
    }

    fn close(self) -> Result<(), Error> {
        let Self { store, folder, .. } = self;
        // All that was acknowledged is synced already; what the engine adds here only spares the next
        // opening a repair, so there is nothing to report.
        drop(store);
        drop(folder);
        Ok(())
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_leader_waits_for_half_of_an_append_and_never_for_long() {
        let patience_us = |append_us| patience(Duration::from_micros(append_us)).as_micros();
        assert_eq!(patience_us(99), 0);
        assert_eq!(patience_us(100), 50);
        assert_eq!(patience_us(4000), 2000);
        assert_eq!(patience(Duration::MAX), Duration::from_millis(5));
    }
}
