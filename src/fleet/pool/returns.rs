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
use super::{Gone, Grant, Key, Passed, Pool, Strategy};
use crate::fleet::lease::{Lease, Release};
use crate::sync::home;

/// How many counts a shard keeps at most.
const SPARE_MAX: u32 = 256;

impl Shard {
    /// Takes over the count of a lease that ends, unless it has enough of them (rule 1).
    #[inline(always)]
    fn keep_reference(&mut self) -> bool {
        let keeps = !self.is_closed() && self.spare < SPARE_MAX;
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
    fn grant_first(self: &Arc<Self>, by: Strategy) -> Option<Grant> {
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
            shards => self.floors.nearest(by, home(), shards),
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
        match self.give_back_simply(grant, how, simply) {
            None => Ok(()),
            Some(pool) => pool.give_back_whatever(grant, how),
        }
    }

    /// Ends a lease in a way that has nobody to tell; gives the reference back, and nothing is done, if there is more
    /// to it.
    #[inline(always)]
    pub(super) fn give_back_simply(
        self: Arc<Self>,
        grant: Grant,
        how: Release,
        end: impl FnOnce(&mut Shard) -> bool,
    ) -> Option<Arc<Self>> {
        let held = ManuallyDrop::new(self);
        let pool: &Self = &held;
        let at = pool.shard_of(grant.agent());
        let mut shard = pool.shards[at].lock();
        // Rule 2 of the pool: read under the lock.
        if pool.is_watched() || !end(&mut shard) {
            drop(shard);
            return Some(ManuallyDrop::into_inner(held));
        }
        shard.count(true, how);
        pool.publish(at, &mut shard);
        if shard.charges.dues.relieved {
            pool.owe(&mut shard);
            drop(shard);
            // What is owed is told before the reference goes.
            pool.settle_dues();
            drop(ManuallyDrop::into_inner(held));
            return None;
        }
        let kept = shard.keep_reference();
        drop(shard);
        if !kept {
            // The last reference, it may be, of a fleet that has ended.
            drop(ManuallyDrop::into_inner(held));
        }
        None
    }

    /// The same where there may be more to it.
    #[inline(never)]
    fn give_back_any(self: Arc<Self>, grant: Grant, how: Release) -> Result<(), Gone> {
        let simply =
            |shard: &mut Shard| shard.end_simply(grant.agent(), None, None, 0, None).is_some();
        let Some(pool) = self.give_back_simply(grant, how, simply) else { return Ok(()) };
        pool.give_back_whatever(grant, how)
    }

    #[inline(never)]
    fn give_back_whatever(self: Arc<Self>, grant: Grant, how: Release) -> Result<(), Gone> {
        self.give_back_by(grant, None, 0, how, |shard, key| {
            shard.end(grant.agent(), key, None, 0, None)
        })
    }

    /// Ends a lease in some way, which says what the holder is told and the place of the agent that has a
    /// place more; with its key, if it may have expired by now.
    #[inline(always)]
    pub(super) fn give_back_by(
        self: Arc<Self>,
        grant: Grant,
        key: Option<Key>,
        now: u64,
        how: Release,
        end: impl FnOnce(&mut Shard, Option<Key>) -> (Result<(), Gone>, Option<u32>),
    ) -> Result<(), Gone> {
        let held = ManuallyDrop::new(self);
        let pool: &Self = &held;
        let at = pool.shard_of(grant.agent());
        let mut shard = pool.shards[at].lock();
        // Rule 2 of the pool: read under the lock.
        if pool.is_watched() || shard.is_noted(grant.agent()) {
            drop(shard);
            return ManuallyDrop::into_inner(held).give_back_watched(grant, key, now, how, end);
        }
        let (result, _) = end(&mut shard, key);
        shard.count(result.is_ok(), how);
        pool.publish(at, &mut shard);
        if !shard.charges.dues.is_empty() {
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
            drop(ManuallyDrop::into_inner(held));
        }
        result
    }

    #[cold]
    fn give_back_watched(
        self: Arc<Self>,
        grant: Grant,
        key: Option<Key>,
        now: u64,
        how: Release,
        end: impl FnOnce(&mut Shard, Option<Key>) -> (Result<(), Gone>, Option<u32>),
    ) -> Result<(), Gone> {
        let at = self.shard_of(grant.agent());
        let key = self.hear(at, grant, key, now, how);
        let (mut wakes, mut passed, mut idle) = (Vec::new(), Passed::default(), None);
        let result = {
            let mut desk = self.desk.lock();
            let mut shard = self.shards[at].lock();
            let (result, freed) = end(&mut shard, key);
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
