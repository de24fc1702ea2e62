//! A commit: the turn, the step that makes it visible, and what follows that.
//!
//! The rules are those of `manager.rs`.

#[cfg(all(test, phalanx_loom))]
mod loom_tests;

use std::sync::Arc;

use super::changes::Changed;
use super::feed::Receipt;
use super::keep::LetGo;
use super::manager::Inner;
use super::release::Held;
use super::root::Root;
#[cfg(feature = "durable")]
use super::snapshot::no_codec;
use super::{Durability, Transaction, Version};
use crate::Error;
#[cfg(feature = "durable")]
use crate::ErrorKind;
use crate::sync::atomic::Ordering;
use crate::sync::left_out;

/// The most bytes that the delta of one transaction has.
#[cfg(feature = "durable")]
const DELTA_BYTES_MAX: usize = 1 << 30;

impl Inner {
    /// Commits a transaction that ran; `None` where it has to run again.
    pub(super) fn commit(&self, tx: Transaction) -> Result<Option<Version>, Error> {
        let level = self.level_of(&tx)?;
        let mut delta = self.delta(&tx)?;
        let mut stalled = false;
        loop {
            // It outlives the turn (rule 3): it may be the last to hold what it replaced.
            let now;
            let published = {
                let _turn = self.turn.take()?;
                now = Held::new(self.current());
                if !tx.holds_on(&now) && !left_out("state.commit.holds") {
                    return Ok(None);
                }
                self.step(&tx, &now, &mut delta, level)?
            };
            if let Some(published) = published {
                let version = self.settle(published);
                // Not held while the disk is waited for. It took place, so nothing unwinds any more.
                self.owner.let_go((now, tx));
                self.acknowledge(version, level)?;
                return Ok(Some(version));
            }
            drop(now);
            self.make_room(&mut stalled)?;
        }
    }

    /// Makes what comes after `now` the newest, which who has the turn may; none where there is no room.
    pub(super) fn step(
        &self,
        tx: &Transaction,
        now: &Arc<Root>,
        delta: &mut Vec<u8>,
        level: Durability,
    ) -> Result<Option<Published>, Error> {
        let (next, changes) = tx.apply(now, &self.rules, self.feed.0.is_on())?;
        let next = Arc::new(next);
        let Some(receipt) = self.publish(Arc::clone(&next), changes, delta, level)? else {
            return Ok(None);
        };
        self.owner.published(&next);
        Ok(Some(Published { version: next.version, receipt, gone: self.kept.committed(&next) }))
    }

    /// What follows a step once the turn has ended.
    pub(super) fn settle(&self, published: Published) -> Version {
        let Published { version, receipt, gone } = published;
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.feed.0.settle(receipt);
        drop(gone);
        version
    }

    #[cfg(feature = "durable")]
    pub(super) fn delta(&self, tx: &Transaction) -> Result<Vec<u8>, Error> {
        if self.durable.is_none() {
            return Ok(Vec::new());
        }
        let delta = tx.encode(self.codec.ok_or_else(no_codec)?)?;
        if delta.len() > DELTA_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::LimitReached,
                format!(
                    "the transaction writes {} bytes; at most {DELTA_BYTES_MAX} fit into one",
                    delta.len()
                ),
            ));
        }
        Ok(delta)
    }

    #[cfg(not(feature = "durable"))]
    pub(super) fn delta(&self, _tx: &Transaction) -> Result<Vec<u8>, Error> {
        Ok(Vec::new())
    }

    /// Makes `next` the current root, and what it changes known to who watches; none where the pending deltas
    /// leave no room for this one. Who calls it has the turn, and the root of before, so that nothing of the
    /// host's is dropped in here.
    fn publish(
        &self,
        next: Arc<Root>,
        changes: Option<Vec<Changed>>,
        delta: &mut Vec<u8>,
        level: Durability,
    ) -> Result<Option<Receipt>, Error> {
        let version = next.version;
        #[cfg(feature = "durable")]
        if let Some(durable) = &self.durable {
            let mut receipt = None;
            let swap = || {
                let image = Arc::clone(&next);
                let show = || self.show(next, || Ok(()));
                receipt = self.feed.0.publish(version, changes, show).ok();
                (version, Held::new(image))
            };
            durable.journal.publish(delta, level, swap)?;
            return Ok(receipt);
        }
        let _ = (delta, level);
        let show = || self.show(next, || self.check_open());
        self.feed.0.publish(version, changes, show).map(Some)
    }

    fn show(
        &self,
        next: Arc<Root>,
        check: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut root = self.root.write();
        check()?;
        if left_out("state.commit.cut") {
            let mut half = (**root).clone();
            half.version = next.version;
            *root = Arc::new(half);
            drop(root);
            root = self.root.write();
        }
        *root = next;
        Ok(())
    }

    /// Whether there is room for a delta, which stays so for who has the turn.
    pub(super) fn has_room(&self) -> Result<bool, Error> {
        #[cfg(feature = "durable")]
        if let Some(durable) = &self.durable {
            return durable.journal.has_room();
        }
        self.check_open().map(|()| true)
    }

    /// Writes what was committed at [`Durability::Buffered`] up to now: whether there was any that is written now,
    /// and whether the store has failed.
    pub(super) fn write_wanted(&self) -> (bool, bool) {
        #[cfg(feature = "durable")]
        if let Some(durable) = &self.durable {
            return durable.journal.write_wanted();
        }
        (false, false)
    }

    /// Waits until there may be room for a delta. Nobody's turn passes meanwhile.
    pub(super) fn make_room(&self, stalled: &mut bool) -> Result<(), Error> {
        let first = !std::mem::replace(stalled, true);
        #[cfg(feature = "durable")]
        if let Some(durable) = &self.durable {
            return durable.journal.make_room(first);
        }
        let _ = first;
        Ok(())
    }
}

/// A commit that took place, for [`Inner::settle`].
pub(super) struct Published {
    version: Version,
    receipt: Receipt,
    /// What the policy of kept snapshots let go of.
    gone: LetGo,
}
