//! How a lease comes to its reference to the pool, and how it comes back with it.
//!
//! A lease owns an `Arc` of the pool. Counting references costs a locked instruction to take one and one to
//! give it back, as much as the allocation itself; so a lease that ends leaves its count with the
//! shard, where the next lease finds it. Rules:
//!
//! 1. A shard owns as many counts of the pool as its `spare` says, which changes under its lock alone. So the
//!    pool lives while one is spare, and what is taken off `spare` belongs to whoever took it.
//! 2. A grant that [`lend_reference`](Pool::lend_reference) was called for owns one count, until
//!    [`lease`](Pool::lease) makes a lease of it; nothing in between can fail.
//! 3. Freeing the lock of a shard is its last use by a lease that ends: the count that the lease left may be
//!    taken, and be the last, from then on.

#![expect(unsafe_code, reason = "counts of references change hands without a locked instruction")]

use std::mem::ManuallyDrop;
use std::sync::Arc;

use super::shard::Shard;
use super::{Charge, Gone, Grant, Key, Passed, Pool, Strategy};
use crate::fleet::lease::{Lease, Release};
use crate::sync::first_place;

/// How many counts a shard keeps at most.
pub(super) const SPARE_MAX: u32 = 256;

/// A lease that ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) grant: Grant,
    /// Names its time, if it may have expired by now.
    pub(super) key: Option<Key>,
    pub(super) charge: Option<Charge>,
    /// The time, if it has a clock.
    pub(super) now: u64,
    pub(super) how: Release,
    /// How it went and how long it was held, in nanoseconds, if that is known.
    pub(super) went: Option<(bool, u64)>,
}

impl Ending {
    /// That of a lease without a clock or a price.
    const fn plain(grant: Grant, how: Release) -> Self {
        Self { grant, key: None, charge: None, now: 0, how, went: None }
    }
}

impl Shard {
    /// Takes over the count of a lease that ends, unless it has enough of them (rule 1).
    #[inline(always)]
    fn keep_reference(&mut self) -> bool {
        let keeps = self.spare < self.spare_max;
        self.spare += u32::from(keeps);
        keeps
    }
}

impl Pool {
    /// Has a grant of this shard own a count of the pool (rule 2).
    #[inline(always)]
    pub(super) fn lend_reference(self: &Arc<Self>, shard: &mut Shard) {
        match shard.spare.checked_sub(1) {
            Some(rest) => shard.spare = rest,
            None => self.count_reference(),
        }
    }

    #[cold]
    fn count_reference(self: &Arc<Self>) {
        // A count without an owner, for the grant.
        let _ = ManuallyDrop::new(Arc::clone(self));
    }

    /// Takes an agent for whoever asks for any; `None` if that takes more than a look at one shard in which a strategy
    /// decides alone.
    #[inline(never)]
    pub(super) fn grant_any(self: &Arc<Self>) -> Option<Grant> {
        match self.sole? {
            // The same with what is known of the strategy.
            Strategy::LeastLoaded => self.grant_first(Strategy::LeastLoaded),
            by => self.grant_any_by(by),
        }
    }

    #[inline(never)]
    fn grant_any_by(self: &Arc<Self>, by: Strategy) -> Option<Grant> {
        self.grant_first(by)
    }

    #[inline(always)]
    pub(super) fn grant_first(self: &Arc<Self>, by: Strategy) -> Option<Grant> {
        let at = self.nearest(by);
        let mut shard = self.shards[at].lock();
        let grant = shard.lease_first(by)?;
        self.publish(at, &mut shard);
        self.lend_reference(&mut shard);
        Some(grant)
    }

    /// The shard to look into first.
    #[inline(always)]
    pub(super) fn nearest(&self, by: Strategy) -> usize {
        match self.shards.len() {
            1 => 0,
            shards => self.floors.nearest(by, first_place(), shards),
        }
    }

    /// Makes the lease of a grant that owns a count.
    #[inline(always)]
    pub(super) fn lease(self: &Arc<Self>, grant: Grant) -> Lease {
        // SAFETY: the pointer is that of an `Arc` of this pool, and the grant owns one count of it (rule 2).
        let reference = unsafe { Arc::from_raw(Arc::as_ptr(self)) };
        Lease::new(grant, reference)
    }

    /// Closes a shard, and lets go of the counts that it owns. None of them is the last.
    pub(super) fn settle_references(self: &Arc<Self>, shard: &mut Shard) {
        shard.close();
        for _ in 0..std::mem::take(&mut shard.spare) {
            // SAFETY: the shard owned one count for each turn of this loop (rule 1).
            unsafe { Arc::decrement_strong_count(Arc::as_ptr(self)) };
        }
    }

    /// Ends a lease, and passes its place on to whoever waits for one like it.
    pub(in crate::fleet) fn give_back(
        self: Arc<Self>,
        grant: Grant,
        how: Release,
    ) -> Result<(), Gone> {
        if self.sole != Some(Strategy::LeastLoaded) {
            return self.give_back_any(grant, how);
        }
        let agent = grant.agent();
        let simply = |shard: &mut Shard| shard.release_by_load(agent).is_some();
        self.give_back_by(grant, how, simply, || Ending::plain(grant, how))
    }

    /// The same where the load does not decide alone.
    #[inline(never)]
    fn give_back_any(self: Arc<Self>, grant: Grant, how: Release) -> Result<(), Gone> {
        let agent = grant.agent();
        let simply = |shard: &mut Shard| shard.end_simply(agent, None, None, 0, None).is_some();
        self.give_back_by(grant, how, simply, || Ending::plain(grant, how))
    }

    /// Ends a lease in a way that has nobody to tell, or, if there is more to it, in whatever way that takes: in the
    /// same section of the shard's lock, unless somebody waits or is to be told.
    #[inline(always)]
    pub(super) fn give_back_by(
        self: Arc<Self>,
        grant: Grant,
        how: Release,
        simply: impl FnOnce(&mut Shard) -> bool,
        ending: impl FnOnce() -> Ending,
    ) -> Result<(), Gone> {
        let held = ManuallyDrop::new(self);
        let pool: &Self = &held;
        let at = pool.shard_of(grant.agent());
        let mut shard = pool.shards[at].lock();
        // Rule 2 of the pool: read under the lock.
        let is_watched = pool.is_watched();
        let mut result = Ok(());
        // The short ways are of those that went well.
        if is_watched || how.has_failed() || !simply(&mut shard) {
            if is_watched || shard.is_noted(grant.agent()) {
                drop(shard);
                return ManuallyDrop::into_inner(held).give_back_watched(ending());
            }
            (result, _) = shard.end(&ending());
        }
        shard.count(result.is_ok(), how);
        pool.publish(at, &mut shard);
        // Nothing else is due as a lease ends of which nobody is to be told.
        if shard.charges.dues.relieved {
            pool.owe(&mut shard);
            drop(shard);
            // What is owed is told before the reference goes.
            pool.settle_dues();
            drop(ManuallyDrop::into_inner(held));
            return result;
        }
        let kept = shard.keep_reference();
        drop(shard);
        if !kept {
            // The last reference, it may be, of a fleet that has ended.
            drop(ManuallyDrop::into_inner(held));
        }
        result
    }

    #[cold]
    #[inline(never)]
    fn give_back_watched(self: Arc<Self>, ending: Ending) -> Result<(), Gone> {
        let Ending { grant, key, now, how, .. } = ending;
        let at = self.shard_of(grant.agent());
        let key = self.hear(at, grant, key, now, how);
        let (mut wakes, mut passed, mut idle) = (Vec::new(), Passed::default(), None);
        let result = {
            let mut desk = self.desk.lock();
            let mut shard = self.shards[at].lock();
            let (result, freed) = shard.end(&Ending { key, ..ending });
            shard.count(result.is_ok(), how);
            if let Some(local) = freed {
                passed = self.pass_on(&mut desk, &mut shard, at, local, &mut wakes);
                idle = Self::heeded(&shard, local);
            }
            self.owe_by(&mut shard, &mut wakes);
            result
        };
        self.wake_all(wakes);
        self.tell_freed(passed.freed);
        if passed.hungry {
            self.tell_workers();
        }
        self.tell_idle(idle);
        result
    }
}
