//! What survives: the trait of a store, and the keeper that fills one.
//!
//! A store holds its identity, an append-only table of groups of deltas, and one checkpoint. Rules that hold
//! here:
//!
//! 1. An append is all or nothing and returns after its one sync.
//! 2. A checkpoint is written in steps, between which groups are appended, and is valid from one atomic and
//!    synced step on: with it, the one before it is obsolete and the groups up to its version are covered. They
//!    are removed in steps afterwards, and whoever reads the store passes over what is left of them.
//! 3. A group starts with the version after the last one of what lies before it, and a checkpoint is of the last
//!    version of a group: no group is covered in part.
//! 4. The other steps need no sync: what is lost of them in a crash is written or removed again. But the sync of a
//!    group writes out what they have left, and frees what they have removed; so where no group came for
//!    [`UNSYNCED_BYTES_MAX`] a step syncs for itself. (Not where a store is filled that nobody uses yet: nobody waits
//!    for a group there, and what is not synced is the engine's to keep.)

pub(super) mod draft;
pub(super) mod identity;
pub(super) mod redb;

use std::sync::Arc;
use std::time::Duration;

use super::Version;
use super::block::{self, Kind, put_bytes};
use super::builder::Settings;
use super::codec::Codec;
use super::disk::Counters;
use super::export::ChunkSink;
use super::folder::Folder;
use super::journal::{Sink, Step};
use super::release::Held;
use crate::{Clock, Error};
use draft::{Draft, Part, Stage};

/// The most that the sync of a group finds unsynced of a checkpoint, and one step more.
const UNSYNCED_BYTES_MAX: u64 = 8 << 20;

/// What a row takes at least that is removed: a page of the engine is freed with it.
const PAGE_BYTES: u64 = 4 << 10;

/// What is written at once where nobody uses the store yet.
const FILL_BYTES: usize = 1 << 20;

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
    /// Writes a part of a checkpoint, which is not valid yet; synced if so asked.
    fn put(&mut self, version: Version, part: &Part, sync: bool) -> Result<(), Error>;
    /// Writes the last part and makes the checkpoint valid: rule 2 of the file.
    fn finish(&mut self, version: Version, part: &Part) -> Result<(), Error>;
    /// Removes some of what an unfinished checkpoint left, and of what the checkpoint of `version` has made
    /// obsolete or covers: up to so many bytes and a row more; synced if so asked.
    fn sweep(&mut self, version: Version, bytes: usize, sync: bool) -> Result<Swept, Error>;
}

/// What one step removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Swept {
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// Whether there is more.
    pub(super) more: bool,
}

/// Writes a checkpoint in one go, for a store that nobody else uses yet.
pub(super) fn fill(
    store: &mut dyn Store,
    version: Version,
    chunks: &mut Chunks<'_>,
) -> Result<(), Error> {
    while store.sweep(Version::ZERO, FILL_BYTES, false)?.more {}
    let (mut part, mut bytes) = (Part::new(), 0);
    chunks(&mut |index, block| {
        // The last part is never empty.
        if bytes >= FILL_BYTES {
            store.put(version, &std::mem::take(&mut part), false)?;
            bytes = 0;
        }
        bytes += block.len();
        part.push((index, block));
        Ok(())
    })?;
    store.finish(version, &part)
}

/// Takes what a store holds.
pub(super) trait Load {
    fn chunk(&mut self, version: Version, index: u64, block: &[u8]) -> Result<(), Error>;
    fn group(&mut self, first: Version, block: &[u8]) -> Result<(), Error>;
    /// The last group that the checkpoint covers, if one is left: so that it covers all of it (rule 3).
    fn covered(&mut self, first: Version, block: &[u8]) -> Result<(), Error>;
    /// What is there that counts no more, or not yet.
    fn leftovers(&mut self, leftovers: Leftovers);
}

/// What a store holds beside a valid checkpoint and the groups after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Leftovers {
    /// The version of a checkpoint that was not finished.
    pub(super) unfinished: Option<Version>,
    /// Groups that the checkpoint covers.
    pub(super) covered: u64,
    /// Whether there is anything to remove: these, or chunks of an older checkpoint.
    pub(super) any: bool,
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
    step_bytes: usize,
    checkpointed: Version,
    checkpoint_bytes: u64,
    clock: Clock,
    /// What an append takes, by the last few of them.
    append: Duration,
    /// Since the last checkpoint, and since the one that is being written was begun.
    delta: Deltas,
    delta_of_draft: Deltas,
    /// Of `delta`, what was there when a checkpoint was given up: the next one comes after as much again.
    delta_of_failed: Deltas,
    /// Written and removed by steps since the last sync.
    unsynced: u64,
    /// Whether an opening found something to remove.
    leftovers: bool,
}

/// What was appended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deltas {
    pub(super) bytes: u64,
    pub(super) commits: u64,
}

/// What recovery knows about the distance to the next checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Zero where there is no checkpoint.
    pub(super) checkpointed: Version,
    pub(super) checkpoint_bytes: u64,
    pub(super) delta: Deltas,
    pub(super) leftovers: bool,
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
            step_bytes: settings.checkpoint_step_bytes,
            checkpointed: progress.checkpointed,
            checkpoint_bytes: progress.checkpoint_bytes,
            clock: settings.clock.clone(),
            append: Duration::ZERO,
            delta: progress.delta,
            delta_of_draft: Deltas::default(),
            delta_of_failed: Deltas::default(),
            unsynced: 0,
            leftovers: progress.leftovers,
        }
    }

    /// Whether a step that does so much more has to sync (rule 4 of the file).
    fn syncs(&mut self, bytes: u64) -> bool {
        self.unsynced += bytes;
        let syncs = self.unsynced >= UNSYNCED_BYTES_MAX;
        if syncs {
            self.unsynced = 0;
        }
        syncs
    }

    fn write(&mut self, draft: &mut Draft) -> Result<(Step, u64), Error> {
        let (part, last) = draft.take();
        let bytes = part.iter().map(|(_, block)| block.len() as u64).sum();
        if !last {
            let sync = self.syncs(bytes);
            self.store.put(draft.version, &part, sync)?;
            return Ok((Step::More, bytes));
        }
        self.store.finish(draft.version, &part)?;
        self.unsynced = 0;
        self.checkpointed = draft.version;
        self.checkpoint_bytes = draft.bytes;
        self.delta = self.delta_of_draft;
        self.delta_of_failed = Deltas::default();
        draft.stage = Stage::Sweep;
        Ok((Step::Valid, bytes))
    }

    fn remove(&mut self, draft: &Draft) -> Result<(Step, u64), Error> {
        // Before it is known how much it removes: that counts for the next one.
        let sync = self.syncs(0);
        let swept = self.store.sweep(self.checkpointed, self.step_bytes, sync)?;
        if !sync {
            self.unsynced += swept.bytes.max(swept.rows * PAGE_BYTES);
        }
        if swept.more {
            return Ok((Step::More, swept.bytes));
        }
        if draft.stage == Stage::Abandoned {
            self.delta_of_failed = self.delta;
        }
        Ok((Step::Done, swept.bytes))
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}

impl Sink for Keeper {
    type Image = Held;
    type Draft = Draft;

    fn append(&mut self, first: Version, deltas: &[Vec<u8>]) -> Result<u64, Error> {
        let block = block::seal(Kind::Group, self.codec, &group(first, deltas))?;
        let start = self.clock.now();
        self.store.append(first, &block)?;
        let took = self.clock.now() - start;
        self.append = self.append * 3 / 4 + took / 4;
        self.unsynced = 0;
        let bytes = block.len() as u64;
        for delta in [&mut self.delta, &mut self.delta_of_draft] {
            delta.bytes += bytes;
            delta.commits += deltas.len() as u64;
        }
        Ok(bytes)
    }

    fn patience(&self) -> Duration {
        patience(self.append)
    }

    fn checkpointed(&self) -> Version {
        self.checkpointed
    }

    fn is_due(&self) -> bool {
        self.is_past(1)
    }

    fn is_past(&self, times: u64) -> bool {
        let (delta, failed) = (self.delta, self.delta_of_failed);
        let every_bytes = self.every_bytes.max(self.checkpoint_bytes);
        delta.bytes.saturating_sub(failed.bytes) >= every_bytes.saturating_mul(times)
            || delta.commits.saturating_sub(failed.commits)
                >= self.every_commits.saturating_mul(times)
    }

    fn step_bytes(&self) -> usize {
        self.step_bytes
    }

    fn begin(&mut self, root: &Held) -> Option<Draft> {
        if self.checkpointed == root.version {
            // Also where there were no commits yet.
            return None;
        }
        self.delta_of_draft = Deltas::default();
        Some(Draft::new(root.clone(), self.codec, self.step_bytes))
    }

    fn sweep(&mut self) -> Option<Draft> {
        std::mem::take(&mut self.leftovers).then(|| Draft::sweep(self.checkpointed))
    }

    fn step(&mut self, draft: &mut Draft) -> Result<(Step, u64), Error> {
        if draft.stage == Stage::Write { self.write(draft) } else { self.remove(draft) }
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
mod tests;
