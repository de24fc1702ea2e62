//! Leases with a clock: those that expire, and those whose length becomes part of an agent's past.
//!
//! Rules that hold here:
//!
//! 1. A lease that expires is void from the moment it is due, whoever notices: its holder is refused, and the
//!    place goes to others once it was noticed, by an allocation that found nothing, by a thread that waits,
//!    by its holder, or by a tick.
//! 2. The time of a lease that was waited for starts when its holder gets it.
//! 3. `look_at` is no sooner than the first of the threads that sleep as they wait looks; it changes under the
//!    desk's lock. Who begins to sleep reads the wheels under it, and a lease that begins is told of after
//!    it is in its wheel: so either the thread sees when it is due or it is woken to look.
//! 4. `watch_at` is no later than the first lease is due, but for one that began and is about to be told of. Who
//!    looks takes it back before it looks into the wheels, under the locks of their shards, and a lease that begins
//!    reads it after it is in its wheel: so either it is seen or it finds that nobody watches for it.

use std::sync::Arc;
use std::time::Duration;

use super::buy::Bought;
use super::returns::Ending;
use super::shard::Shard;
use super::wheel::Key;
use super::{Ask, Charge, Gone, Grant, Granted, Pool, Terms, nanoseconds};
use crate::clock::Timestamp;
use crate::fleet::budget::Asking;
use crate::fleet::lease::{Lease, LeaseOutcome, Release};
use crate::fleet::request::{AllocateError, Request};
use crate::sync::atomic::Ordering;

impl Pool {
    /// The time, in nanoseconds.
    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.clock.elapsed_ns()
    }

    /// Takes any agent for a lease whose length becomes part of the agent's past, with the time; no agent if that takes
    /// more than a look at one shard in which a strategy decides alone.
    #[inline(never)]
    pub(super) fn grant_any_now(self: &Arc<Self>) -> (Option<Grant>, u64) {
        let now = self.now();
        (self.sole.and_then(|by| self.grant_first(by)), now)
    }

    /// Takes any agent for a lease with a clock or a price; `None`, and nothing is done, if that takes more than a look
    /// at one shard in which a strategy decides alone and one account that has room; with the time, if it was read.
    #[inline(always)]
    pub(super) fn grant_any_timed(
        self: &Arc<Self>,
        request: &Request,
        read: &mut Option<u64>,
    ) -> Option<Terms> {
        let by = self.sole?;
        let ttl = request.time_to_live().map(nanoseconds);
        if ttl.is_some() && !self.expires.load(Ordering::Relaxed) {
            self.expires.store(true, Ordering::Relaxed);
        }
        self.follow_accounts();
        let is_timed = self.keeps_pasts || ttl.is_some();
        let now = if is_timed { self.now() } else { 0 };
        *read = is_timed.then_some(now);
        let due = ttl.map(|ttl| now.saturating_add(ttl));
        let at = self.nearest(by);
        let mut shard = self.shards[at].lock();
        let local = shard.first_plain(by)?;
        let charge = match &self.budgets {
            None => None,
            Some(budgets) => shard.charges.take_simply(local, request.named_group(), budgets)?,
        };
        let grant = shard.lease_first(by).expect("the first was just looked at");
        // No circuit heeds it, so its era means nothing.
        let key = due.map(|due| shard.wheel().insert(grant.agent(), charge, due, 0));
        self.publish(at, &mut shard);
        // Nothing else is due as a lease begins for somebody who does not wait.
        if !shard.charges.dues.warnings.is_empty() {
            self.owe(&mut shard);
        }
        self.lend_reference(&mut shard);
        drop(shard);
        // First: whoever is told of a budget may take its time.
        self.tell_of_start(due);
        self.settle_dues();
        let since = if is_timed { now.max(1) } else { 0 };
        Some(Terms { grant, key, charge, since })
    }

    /// Takes an agent for a lease with a clock, or one that is picked, or says why there is none. If the time has just
    /// been `read`, it is not read again.
    #[inline(never)]
    pub(super) fn grant_timed(
        self: &Arc<Self>,
        request: &Request,
        mut read: Option<u64>,
    ) -> Result<Terms, AllocateError> {
        if let Some(picker) = request.own_picker() {
            return self.try_allocate_picked(request, &**picker).map(Lease::into_terms);
        }
        let ask = self.resolve(request)?;
        if ask.ttl.is_some() {
            self.expires.store(true, Ordering::Relaxed);
        }
        if self.budgets.is_some() {
            return self.grant_paid(&ask, read).map_err(|error| self.refusing(error));
        }
        loop {
            let now = read.take().unwrap_or_else(|| self.now());
            if let Some((mut shard, at, local)) = self.find(&ask)? {
                let grant = shard.lease(local);
                let due = ask.ttl.map(|ttl| now.saturating_add(ttl));
                let key = due.and_then(|due| shard.arm(grant.agent(), None, due));
                self.publish(at, &mut shard);
                self.lend_reference(&mut shard);
                drop(shard);
                self.tell_of_start(due);
                return Ok(Terms { grant, key, charge: None, since: now.max(1) });
            }
            if self.expire_due() == 0 {
                return Err(self.why_none(&ask));
            }
        }
    }

    /// The same where leases are paid for.
    fn grant_paid(
        self: &Arc<Self>,
        ask: &Ask,
        mut read: Option<u64>,
    ) -> Result<Terms, AllocateError> {
        self.follow_accounts();
        let is_timed = self.keeps_pasts || ask.ttl.is_some();
        loop {
            let now = match read.take() {
                Some(now) => now,
                None if is_timed => self.now(),
                None => 0,
            };
            let refusal = match self.buy(ask, Asking::Looking, false) {
                Ok(Some(Bought { mut shard, granted: Granted { grant, charge } })) => {
                    let due = ask.ttl.map(|ttl| now.saturating_add(ttl));
                    let key = due.and_then(|due| shard.arm(grant.agent(), charge, due));
                    self.lend_reference(&mut shard);
                    drop(shard);
                    self.tell_of_start(due);
                    self.settle_dues();
                    let since = if is_timed { now.max(1) } else { 0 };
                    return Ok(Terms { grant, key, charge, since });
                }
                Ok(None) => None,
                Err(error @ AllocateError::OverBudget(_)) => Some(error),
                Err(error) => return Err(error),
            };
            self.settle_dues();
            if self.expire_due() == 0 {
                return Err(refusal.unwrap_or_else(|| self.why_none(ask)));
            }
        }
    }

    /// Starts the lease of a grant that was waited for (rule 2). When it is due, if that is sooner than `first`, is to
    /// be [told](Self::tell_of_start).
    pub(super) fn start(
        self: &Arc<Self>,
        granted: Granted,
        ask: &Ask,
        first: &mut Option<u64>,
    ) -> Lease {
        let Granted { grant, charge } = granted;
        let lease = Lease::new(grant, Arc::clone(self)).with_charge(charge);
        if !self.keeps_pasts && ask.ttl.is_none() {
            return lease;
        }
        let now = self.now();
        let due = ask.ttl.map(|ttl| now.saturating_add(ttl));
        let key = due.and_then(|due| self.arm(granted, due));
        *first = [*first, due].into_iter().flatten().min();
        lease.with_clock(key, now.max(1))
    }

    fn arm(&self, granted: Granted, due: u64) -> Option<Key> {
        self.expires.store(true, Ordering::Relaxed);
        let agent = granted.grant.agent();
        self.shards[self.shard_of(agent)].lock().arm(agent, granted.charge, due)
    }

    /// Tells those who wait of leases that have just [started](Self::start), outside the locks; when the first of them
    /// is due.
    #[inline]
    pub(super) fn tell_of_start(&self, first: Option<u64>) {
        if let Some(due) = first {
            self.tell_of_due(due);
        }
    }

    /// Wakes those who wait if a lease is due before they look again (rule 3), and the fleet if it is due before that
    /// looks (rule 4).
    #[inline]
    fn tell_of_due(&self, due: u64) {
        // Relaxed: the lock of the shard orders it (rule 4).
        if due < self.watch_at.load(Ordering::Relaxed) {
            self.watch_for(due);
        }
        // The lock of the shard, under which the lease began, shows who waited before.
        if self.attention.load(Ordering::Relaxed) >= 2 {
            self.tell_those_who_wait_of_due(due);
        }
    }

    #[cold]
    fn tell_those_who_wait_of_due(&self, due: u64) {
        let mut wakes = Vec::new();
        {
            let mut desk = self.desk.lock();
            if due >= self.look_at.load(Ordering::Relaxed) {
                return;
            }
            self.look_at.store(u64::MAX, Ordering::Relaxed);
            desk.waiting.take_wakers(&mut wakes);
            desk.batches.take_wakers(&mut wakes);
        }
        self.wake_all(wakes);
    }

    #[cold]
    fn watch_for(&self, due: u64) {
        let before = self.watch_at.fetch_min(due, Ordering::Relaxed);
        if due < before
            && let Some(feed) = self.feed()
        {
            feed.lease_due();
        }
    }

    /// When the fleet is to look for leases that have expired (rule 4).
    #[inline]
    pub(in crate::fleet) fn watch(&self) -> Option<Timestamp> {
        let at = self.watch_at.load(Ordering::Relaxed);
        (at != u64::MAX).then(|| Timestamp::from_start(Duration::from_nanos(at)))
    }

    /// Gives back the leases that have expired, and sees when the next is due; how many they were.
    pub(in crate::fleet) fn keep_watch(&self) -> usize {
        // Before the store: the first lease of all that expires may begin now, and without a shard's lock nothing would
        // order its word and this one.
        if !self.expires.load(Ordering::Relaxed) {
            return 0;
        }
        // Rule 4.
        self.watch_at.store(u64::MAX, Ordering::Relaxed);
        let count = self.expire_due();
        if let Some(first) = self.first_due() {
            self.watch_at.fetch_min(first, Ordering::Relaxed);
        }
        count
    }

    fn first_due(&self) -> Option<u64> {
        self.shards.iter().filter_map(|shard| shard.lock().timed.as_mut()?.next_due()).min()
    }

    /// Until when a thread that waits may sleep before it looks for leases that have expired.
    pub(in crate::fleet) fn next_due(&self) -> Option<Timestamp> {
        if !self.expires.load(Ordering::Relaxed) {
            return None;
        }
        let desk = self.desk.lock();
        let first = self.first_due()?;
        self.look_at.fetch_min(first, Ordering::Relaxed);
        drop(desk);
        Some(Timestamp::from_start(Duration::from_nanos(first)))
    }

    /// Gives back the leases that have expired; how many.
    pub(in crate::fleet) fn expire_due(&self) -> usize {
        if !self.expires.load(Ordering::Relaxed) {
            return 0;
        }
        let now = self.now();
        let (mut wakes, mut freed, mut hungry, mut count) = (Vec::new(), Vec::new(), false, 0);
        let mut heeded = Vec::new();
        {
            let mut desk = self.desk.lock();
            for (at, shard) in self.shards.iter().enumerate() {
                let mut shard = shard.lock();
                while let Some(overdue) = shard.pop_overdue(now) {
                    if Self::must_hear(&shard, &overdue) {
                        heeded.push(overdue);
                        continue;
                    }
                    let expired = shard.expire(overdue.agent, overdue.charge);
                    // The leases of agents that have ended are void already.
                    let Some(local) = expired else { continue };
                    let passed = self.pass_on(&mut desk, &mut shard, at, local, &mut wakes);
                    freed.extend(passed.freed);
                    hungry |= passed.hungry;
                    count += 1;
                }
            }
            self.look_at.store(u64::MAX, Ordering::Relaxed);
        }
        self.wake_all(wakes);
        freed.into_iter().for_each(|agent| self.tell_freed(Some(agent)));
        if hungry {
            self.tell_workers();
        }
        for overdue in heeded {
            count += usize::from(self.expire_heeded(overdue));
        }
        count
    }

    /// Ends a lease with a clock or a price, and passes its place on to whoever waits for one like it.
    pub(in crate::fleet) fn give_back_timed(
        self: Arc<Self>,
        grant: Grant,
        key: Option<Key>,
        charge: Option<Charge>,
        since: u64,
        how: Release,
    ) -> Result<(), Gone> {
        let now = if key.is_some() || since > 0 { self.now() } else { 0 };
        let held = now.saturating_sub(since);
        let went = match how {
            Release::Outcome(outcome) => Some((outcome == LeaseOutcome::Succeeded, held)),
            // Whoever drops a lease says nothing of how it went.
            Release::Abandoned => None,
        };
        let agent = grant.agent();
        let simply = |shard: &mut Shard| shard.end_simply(agent, key, charge, now, went).is_some();
        let ending = || Ending { grant, key, charge, now, how, went };
        self.give_back_by(grant, how, simply, ending)
    }

    /// Has a lease expire so long from now, and no sooner; refused if it is void.
    pub(in crate::fleet) fn renew(
        &self,
        grant: Grant,
        key: Option<Key>,
        charge: Option<Charge>,
        ttl: Duration,
    ) -> Result<Key, Gone> {
        let now = self.now();
        let due = now.saturating_add(nanoseconds(ttl));
        self.expires.store(true, Ordering::Relaxed);
        let renewed = {
            let mut shard = self.shards[self.shard_of(grant.agent())].lock();
            shard.check(grant.agent(), key, now)?;
            if let (Some(key), Some(wheel)) = (key, &mut shard.timed) {
                wheel.remove(key);
            }
            shard.arm(grant.agent(), charge, due).ok_or(Gone::Ended)?
        };
        self.tell_of_due(due);
        Ok(renewed)
    }

    /// Whether a lease is void.
    pub(in crate::fleet) fn is_void(&self, grant: Grant, key: Option<Key>) -> bool {
        let now = if key.is_some() { self.now() } else { 0 };
        let shard = self.shards[self.shard_of(grant.agent())].lock();
        shard.check(grant.agent(), key, now).is_err()
    }
}
