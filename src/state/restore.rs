//! Commits that were worked out without a closure: a diff done again, a snapshot brought back, an import.
//!
//! Rules that hold here:
//!
//! 1. Each is one commit, and a new version: nothing that was committed is rewritten.
//! 2. Only rows that change are written. Where there are none nothing is committed.
//! 3. A restore and an import are of the whole state, so they hold only on the version on which they were
//!    worked out. Where commits come in between [`TRIES`] times, the turn is held while it is done once
//!    more: a stream of small commits never keeps one out.
//! 4. Each try first waits for room, where there is none: what is worked out without is thrown away.

use std::sync::Arc;

use super::diff::{foreign, touched, writes};
use super::manager::Inner;
use super::release::Held;
use super::root::{Root, Slot};
use super::{Diff, Durability, Import, Snapshot, StateManager, Transaction, Version};
use crate::sync::atomic::Ordering;
use crate::{Error, ErrorKind};

/// How often a restore is worked out while others commit (rule 3).
const TRIES: u32 = 3;

impl StateManager {
    /// Does to the newest state what `diff` shows, as one commit, and returns its version.
    ///
    /// Each row that the diff shows must still be what its first side showed: the very value, or none. Rows
    /// and collections that it does not show may have changed. Where the diff shows no row nothing is
    /// committed, and the version is the newest.
    ///
    /// Costs what [`Diff::rows`] of each collection costs, and a commit of as many rows as changed.
    ///
    /// # Blocking
    /// Like [`StateManager::transaction`].
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] where a row is no longer what the diff's first side showed;
    /// [`ErrorKind::Rejected`] by the rule of a collection;
    /// [`ErrorKind::InvalidArgument`] for a diff of another manager; otherwise those of
    /// [`StateManager::transaction`], and after an error nothing was committed but where
    /// [`Unacknowledged::of`](super::Unacknowledged::of) says so.
    pub fn apply(&self, diff: &Diff) -> Result<Version, Error> {
        self.apply_at(diff, None)
    }

    /// [`apply`](Self::apply) as a commit of this level, whatever that of the state is. Where nothing differs, at
    /// [`Durability::Synced`], it waits until what is there is durable.
    ///
    /// # Errors
    /// Those of [`apply`](Self::apply).
    pub fn apply_with(&self, diff: &Diff, level: Durability) -> Result<Version, Error> {
        self.apply_at(diff, Some(level))
    }

    fn apply_at(&self, diff: &Diff, level: Option<Durability>) -> Result<Version, Error> {
        let inner = &*self.inner;
        if !inner.owns(&diff.from.root) {
            return Err(foreign());
        }
        inner.check_open()?;
        let (from, to) = (&diff.from.root, &diff.to.root);
        let parts = touched(from, to).filter_map(|(id, from, to)| writes(id, from, to));
        let mut tx = Transaction::of_writes(Arc::clone(from), parts, false);
        if tx.is_read_only() {
            return inner.unchanged(self.version(), level);
        }
        if let Some(level) = level {
            tx.set_durability(level);
        }
        inner.commit(tx)?.ok_or_else(|| {
            Error::new(
                ErrorKind::Conflict,
                format!(
                    "a row is no longer what it was at {}, which is where the diff starts",
                    diff.from_version()
                ),
            )
        })
    }

    /// Makes the state equal to `snapshot`, as one commit, and returns its version.
    ///
    /// It is a new version: what was committed since stays in older snapshots and on disk. Only rows that
    /// differ are written; where none does nothing is committed, and the version is the newest.
    /// Collections that were made since have no rows afterwards.
    ///
    /// Costs a lookup for each row of every collection that was touched since, and a commit of as many
    /// rows as differ.
    ///
    /// # Blocking
    /// Like [`StateManager::transaction`]. Where others commit meanwhile it is worked out again; the fourth
    /// time other commits wait until it is done, and the rows are encoded meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a snapshot of another manager, or of this store before it was
    /// opened again: export that one and [`StateManager::import`] it; [`ErrorKind::Rejected`] by the rule of
    /// a collection, which judges this commit like any other. Otherwise those of
    /// [`StateManager::transaction`], and after an error nothing was committed but where
    /// [`Unacknowledged::of`](super::Unacknowledged::of) says so.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<Version, Error> {
        self.restore_at(snapshot, None)
    }

    /// [`restore`](Self::restore) as a commit of this level, whatever that of the state is. Where nothing differs, at
    /// [`Durability::Synced`], it waits until what is there is durable.
    ///
    /// # Errors
    /// Those of [`restore`](Self::restore).
    pub fn restore_with(&self, snapshot: &Snapshot, level: Durability) -> Result<Version, Error> {
        self.restore_at(snapshot, Some(level))
    }

    fn restore_at(&self, snapshot: &Snapshot, level: Option<Durability>) -> Result<Version, Error> {
        if !self.inner.owns(&snapshot.root) {
            return Err(foreign());
        }
        self.inner.commit_whole(level, &mut |now| {
            let parts = touched(now, &snapshot.root).filter_map(|(id, now, then)| {
                // A collection that was made since is empty in it.
                writes(id, now, then)
            });
            Ok(Transaction::of_writes(Arc::clone(now), parts, true))
        })
    }

    /// Makes the state equal to an export, as one commit, and returns its version.
    ///
    /// Every collection that the export has rows of must have been opened in this process, because its
    /// types decode them, also where the state has no such collection yet; collections that it does not have are
    /// emptied, for which those with recovered rows must have been opened too. Only rows that differ are written,
    /// which the encoded forms tell; where none does nothing is committed, and the version is the newest.
    /// The export's own version stays what it is: the commit gets the next of this state.
    ///
    /// Costs decoding every key of the export, encoding every value of the state, and a commit of as many
    /// rows as differ.
    ///
    /// # Blocking
    /// Like [`StateManager::restore`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] where a collection has to be opened first (the message names it);
    /// [`ErrorKind::UnsupportedVersion`] where its
    /// [schema version](super::ExportHeader::schema_version) is newer than the host's;
    /// [`ErrorKind::Codec`] where a row does not decode to the types of its collection;
    /// [`ErrorKind::Corrupt`] where two rows have one key; otherwise those of
    /// [`StateManager::transaction`], and after an error nothing was committed but where
    /// [`Unacknowledged::of`](super::Unacknowledged::of) says so.
    pub fn import(&self, import: &Import) -> Result<Version, Error> {
        self.import_at(import, None)
    }

    /// [`import`](Self::import) as a commit of this level, whatever that of the state is. Where nothing differs, at
    /// [`Durability::Synced`], it waits until what is there is durable.
    ///
    /// # Errors
    /// Those of [`import`](Self::import).
    pub fn import_with(&self, import: &Import, level: Durability) -> Result<Version, Error> {
        self.import_at(import, Some(level))
    }

    fn import_at(&self, import: &Import, level: Option<Durability>) -> Result<Version, Error> {
        let codec = import.codec()?;
        import.check_schema(self.inner.schema_version)?;
        self.inner.commit_whole(level, &mut |now| {
            let unopened = |name: &str, why: &str| {
                let message = format!("open the collection {name:?} first: {why} needs its types");
                Error::new(ErrorKind::InvalidArgument, message)
            };
            let mut parts = Vec::new();
            for (name, rows) in import.collections() {
                let slot = now.slots.iter().enumerate().find(|(_, slot)| &*slot.name == name);
                let (id, table) = slot
                    .and_then(|(id, slot)| Some((id, slot.rows()?)))
                    .ok_or_else(|| unopened(name, "an import"))?;
                let part = table.writes_to_encoded(rows, codec, id, &now.slots[id].name)?;
                parts.extend(part);
            }
            for (id, slot) in now.slots.iter().enumerate() {
                if slot.len() > 0 && import.collections().all(|(name, _)| *slot.name != *name) {
                    slot.rows().ok_or_else(|| unopened(&slot.name, "to empty it"))?;
                    parts.extend(writes(id, Some(slot), None::<&Slot>));
                }
            }
            Ok(Transaction::of_writes(Arc::clone(now), parts, true))
        })
    }
}

impl Inner {
    /// Rule 3 of the file.
    fn commit_whole(
        &self,
        level: Option<Durability>,
        work_out: &mut dyn FnMut(&Arc<Root>) -> Result<Transaction, Error>,
    ) -> Result<Version, Error> {
        let work_out = &mut |now: &Arc<Root>| {
            let mut tx = work_out(now)?;
            if let Some(level) = level {
                tx.set_durability(level);
            }
            Ok(tx)
        };
        for _ in 0..TRIES {
            // Rule 4.
            if !self.has_room()? {
                self.make_room(&mut false)?;
            }
            let now = Held::new(self.current());
            let tx = work_out(&now)?;
            if tx.is_read_only() {
                return self.unchanged(now.version, level);
            }
            // Not held while the disk is waited for; the transaction gives its own up before that.
            drop(now);
            if let Some(version) = self.commit(tx)? {
                return Ok(version);
            }
            self.reruns.fetch_add(1, Ordering::Relaxed);
        }
        self.unchanged(self.commit_held(work_out)?, level)
    }

    /// Where nothing differs there is no commit; who asked for one that is on disk is told once that version is.
    fn unchanged(&self, version: Version, level: Option<Durability>) -> Result<Version, Error> {
        if level == Some(Durability::Synced) {
            self.wait_durable(version)?;
        }
        Ok(version)
    }

    /// Commits what `work_out` makes of the newest root, while nobody else commits.
    fn commit_held(
        &self,
        work_out: &mut dyn FnMut(&Arc<Root>) -> Result<Transaction, Error>,
    ) -> Result<Version, Error> {
        let mut stalled = false;
        loop {
            // They outlive the turn, as in `commit`.
            let now;
            let mut tx = None;
            let published = {
                let _turn = self.turn.take()?;
                now = Held::new(self.current());
                // Before the work, which would be for nothing without. Nobody fills it during a turn.
                if self.has_room()? {
                    let tx = tx.insert(work_out(&now)?);
                    if tx.is_read_only() {
                        return Ok(now.version);
                    }
                    let level = self.level_of(tx)?;
                    let mut delta = self.delta(tx)?;
                    self.step(tx, &now, &mut delta, level)?.map(|published| (published, level))
                } else {
                    None
                }
            };
            if let Some((published, level)) = published {
                let version = self.settle(published);
                self.owner().let_go((tx, now));
                self.acknowledge(version, level)?;
                return Ok(version);
            }
            drop((tx, now));
            self.make_room(&mut stalled)?;
        }
    }
}
