//! How a lease comes back, with the reference that it held.
//!
//! A lease owns an `Arc` of the pool. Counting references costs a locked instruction to take one and one to
//! give it back, as much as the allocation itself; so a lease that ends leaves its `Arc` in the shard,
//! where the next lease finds it. That leaves one problem: the lock of the shard is reached through the very
//! `Arc` that goes into the stash. Rules:
//!
//! 1. From the moment the `Arc` is in the stash until the lock is freed, nobody takes it out, since
//!    that is done under the same lock: the pool lives as long as the guard.
//! 2. Freeing the lock is one store, the last access through the guard.

#![expect(unsafe_code, reason = "the lock is reached through the reference that it takes in")]

use std::sync::Arc;

use super::{Gone, Grant, Pool};
use crate::fleet::lease::Release;

impl Pool {
    /// Ends a lease, and passes its place on to whoever waits for one like it.
    #[inline]
    pub(in crate::fleet) fn give_back(
        self: Arc<Self>,
        grant: Grant,
        how: Release,
    ) -> Result<(), Gone> {
        let at = self.shard_of(grant.agent);
        let pool = Arc::as_ptr(&self);
        // SAFETY: `self` is owned here until it goes into the stash, and after that rule 1 holds.
        let pool: &Self = unsafe { &*pool };
        let mut shard = pool.shards[at].lock();
        // Rule 2 of the pool: read under the lock.
        if pool.is_watched() || shard.is_wanted(grant.agent) {
            drop(shard);
            return self.give_back_watched(grant, how);
        }
        let released = shard.release(grant.agent).map(drop);
        shard.count(released.is_ok(), how);
        pool.publish(at, &mut shard);
        let spare = shard.keep_reference(self);
        drop(shard);
        // The last reference, it may be, of a fleet that has ended.
        drop(spare);
        released
    }

    #[cold]
    fn give_back_watched(self: Arc<Self>, grant: Grant, how: Release) -> Result<(), Gone> {
        let at = self.shard_of(grant.agent);
        let mut wakes = Vec::new();
        let mut wanted = false;
        let released = {
            let mut desk = self.desk.lock();
            let mut shard = self.shards[at].lock();
            let released = shard.release(grant.agent);
            shard.count(released.is_ok(), how);
            released.map(|local| {
                let hungry = self.pass_on(&mut desk, &mut shard, at, local, &mut wakes);
                wanted = shard.meet_want(local);
                hungry
            })
        };
        self.wake_all(wakes);
        if wanted {
            self.tell_freed(grant.agent);
        }
        if released == Ok(true) {
            self.tell_workers();
        }
        released.map(drop)
    }
}
