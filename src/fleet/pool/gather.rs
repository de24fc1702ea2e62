//! Batches that wait: how one begins to, is served, gets its answer, or gives up.
//!
//! Rules that hold here, beside rules 2 and 3 of the pool and those of the batches:
//!
//! 1. Who gathers is decided anew, and what that withdraws is passed on, whenever a batch comes or goes or is
//!    complete, and after agents came or went: by [`settle_batches`](Pool::settle_batches), outside all
//!    locks, where the step itself holds one of a shard or of the fleet. It is owed then, and done by the
//!    first of the wakers that the step brings, before anybody of the host's hears of the step.
//! 2. A batch is collected or given up once, and what it held and nobody collects is passed on.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;

use super::desk::Desk;
use super::waiting::{Place, Ticket};
use super::{Ask, Granted, Passed, Pool, nanoseconds};
use crate::fleet::budget::Asking;
use crate::fleet::id::AgentId;
use crate::fleet::lease::Lease;
use crate::fleet::request::{AllocateError, Request};
use crate::sync::atomic::Ordering;

/// The leases of a batch, or why there are none.
pub(in crate::fleet) type Batched = Result<Vec<Lease>, AllocateError>;

/// What is to be done outside the locks.
#[derive(Default)]
struct Later {
    wakes: Vec<Waker>,
    passed: Vec<Passed>,
    /// Agents that their circuits are to look at.
    idle: Vec<AgentId>,
    /// When the first of the leases is due that have just begun.
    due: Option<u64>,
    /// How many requests wait, if that is to be told.
    waiting: Option<usize>,
}

impl Pool {
    /// Takes all of a batch, or queues it. The waker is taken if it is needed.
    pub(in crate::fleet) fn batch_or_wait(
        self: &Arc<Self>,
        request: &Request,
        count: usize,
        waker: &mut Option<Waker>,
    ) -> Result<Result<Vec<Lease>, Place>, AllocateError> {
        match self.try_allocate_batch(request, count, true) {
            Ok(leases) => return Ok(Ok(leases)),
            Err(AllocateError::NoneIdle | AllocateError::OverBudget(_)) => {}
            Err(error) => return Err(error),
        }
        let ask = Ask { gathers: true, ..self.resolve(request)? };
        let mut later = Later::default();
        let (place, collected) = {
            let mut desk = self.desk.lock();
            if desk.closed {
                return Err(AllocateError::Closed);
            }
            if let Some(agent) = ask.agent {
                let shard = self.shards[self.shard_of(agent)].lock();
                let local = shard.find(agent).ok_or(AllocateError::AgentGone)?;
                // On trial it may hold fewer for now.
                let limit = desk.kind(shard.slot(local).kind).limit;
                if usize::from(limit) < count {
                    return Err(AllocateError::TooFewPlaces);
                }
            }
            if let Some(error) = desk.hopeless_batch(&ask, count) {
                return Err(error);
            }
            if desk.asking() >= self.max_waiting {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Err(AllocateError::TooManyWaiting);
            }
            let step = self.ageing_ns.map_or(0, |step| self.now() / step);
            let due = request.due().map(|due| nanoseconds(due.since_start()));
            let place = Place::new(request.urgency(), step, due, desk.tickets);
            desk.tickets += 1;
            let mut ticket = Ticket { ask, place };
            desk.learn_later(&mut ticket, request.names());
            desk.batches.insert(&ticket, count);
            later.waiting = desk.grows();
            // Rule 2 of the pool: first the word, then a look into every shard.
            self.say_who_waits(&desk);
            self.plan(&mut desk, Vec::new(), &mut later);
            (place, self.collect_from(&mut desk, place, waker, &mut later))
        };
        self.do_later(later);
        match collected {
            None => Ok(Err(place)),
            Some(batched) => batched.map(Ok),
        }
    }

    /// The answer to a batch that waited, if it has come; otherwise `waker` is who is told. The waker that is
    /// not needed any more comes back, to be dropped outside the lock.
    pub(in crate::fleet) fn collect_batch(
        self: &Arc<Self>,
        place: Place,
        waker: Waker,
    ) -> (Option<Batched>, Option<Waker>) {
        let mut waker = Some(waker);
        let mut later = Later::default();
        let batched = self.collect_from(&mut self.desk.lock(), place, &mut waker, &mut later);
        self.do_later(later);
        (batched, waker)
    }

    /// The same under the lock: what comes back in `waker` is not needed any more.
    fn collect_from(
        self: &Arc<Self>,
        desk: &mut Desk,
        place: Place,
        waker: &mut Option<Waker>,
        later: &mut Later,
    ) -> Option<Batched> {
        let Some(batch) = desk.batches.get_mut(place) else {
            return Some(Err(AllocateError::Closed));
        };
        if batch.waits() {
            std::mem::swap(&mut batch.waker, waker);
            return None;
        }
        let batch = desk.batches.remove(place).expect("it was just found");
        desk.forget_learner(place);
        let (batched, left) = match batch.refused {
            None => {
                // The desk is held, so the agents of the grants live until the leases have begun.
                let (ask, due) = (&batch.ask, &mut later.due);
                let leases = batch.grants.into_iter().map(|grant| self.start(grant, ask, due));
                (Ok(leases.collect()), Vec::new())
            }
            Some(error) => (Err(error), batch.grants),
        };
        self.plan(desk, left, later);
        Some(batched)
    }

    /// Gives up a batch that waits. What was granted to it is passed on.
    pub(in crate::fleet) fn give_up_batch(&self, place: Place) {
        let mut later = Later::default();
        let waker = {
            let mut desk = self.desk.lock();
            let Some(batch) = desk.batches.remove(place) else { return };
            desk.forget_learner(place);
            self.say_who_waits(&desk);
            let left =
                if super::broken("fleet.batch-not-passed-on") { Vec::new() } else { batch.grants };
            self.plan(&mut desk, left, &mut later);
            batch.waker
        };
        self.do_later(later);
        self.discard(waker);
    }

    /// Decides anew who gathers (rule 1), if that is due.
    pub(in crate::fleet) fn settle_batches(&self) {
        let mut later = Later::default();
        {
            let mut desk = self.desk.lock();
            if desk.batches.len() == 0 {
                // Whoever left has planned last.
                return;
            }
            self.plan(&mut desk, Vec::new(), &mut later);
        }
        self.do_later(later);
    }

    /// Has those gather who may, and passes on what the others held, what was deferred and what else is
    /// `left`. Who gathers is decided first, so that nobody less urgent is given what is passed on; and again
    /// if one is complete with that, before anybody gets what it kept others from.
    fn plan(&self, desk: &mut Desk, mut left: Vec<Granted>, later: &mut Later) {
        let mut deferred = Vec::new();
        loop {
            left.extend(self.plan_batches(desk));
            left.retain(|granted| !self.hand_over(desk, *granted, later));
            deferred.extend(desk.batches.take_deferred());
            if !deferred.is_empty() {
                self.serve_in_turn(desk, &mut later.wakes);
            }
            // One that is complete lets others gather, and they are more urgent than some who wait.
            if desk.batches.is_unplanned() {
                continue;
            }
            for granted in left.drain(..) {
                self.put_back(desk, granted, later);
            }
            for agent in deferred.drain(..) {
                let at = self.shard_of(agent);
                let mut shard = self.shards[at].lock();
                if let Some(local) = shard.find(agent) {
                    let passed = self.pass_on(desk, &mut shard, at, local, &mut later.wakes);
                    later.passed.push(passed);
                }
            }
            if !desk.batches.is_unplanned() {
                for (place, ask) in desk.batches.gathering() {
                    self.fill(desk, place, &ask, &mut later.wakes);
                }
            }
            if !desk.batches.is_unplanned() {
                break;
            }
        }
        self.say_who_waits(desk);
        self.tell_by(&mut later.wakes);
    }

    /// Decides who gathers; what that withdraws.
    fn plan_batches(&self, desk: &mut Desk) -> Vec<Granted> {
        // Agents are asked for seldom, and each is looked at under the lock of its shard.
        let named: HashMap<_, _> = desk
            .batches
            .named()
            .map(|agent| {
                let shard = self.shards[self.shard_of(agent)].lock();
                let local = shard.find(agent);
                (agent, local.map_or(0, |local| desk.places_counted_on(shard.slot(local))))
            })
            .collect();
        let places_of = |agent| named.get(&agent).copied().unwrap_or(0);
        desk.plan_batches(places_of, self.budgets.is_some())
    }

    /// Gives a batch that gathers what there is for it.
    pub(super) fn fill(&self, desk: &mut Desk, place: Place, ask: &Ask, wakes: &mut Vec<Waker>) {
        self.follow_accounts_at(desk);
        while desk.batches.get_mut(place).is_some_and(|batch| batch.waits()) {
            let Some(granted) = self.take_asked(ask, Asking::Waiting, true) else { break };
            desk.batches.grant(place, granted, wakes);
        }
    }

    /// Gives a place that was granted and that nobody has got to the batch whose turn it is; whether there is
    /// one.
    fn hand_over(&self, desk: &mut Desk, granted: Granted, later: &mut Later) -> bool {
        if self.budgets.is_some() {
            // The other one pays from accounts of its own.
            return false;
        }
        let agent = granted.grant.agent();
        let have = {
            let shard = self.shards[self.shard_of(agent)].lock();
            shard.mask(shard.find(agent).expect("grants of removed agents are withdrawn"))
        };
        let single = desk.waiting.first_for(agent, have);
        let Some(place) = desk.batches.first_for(agent, have) else { return false };
        if single.is_some_and(|ticket| ticket.place < place) {
            return false;
        }
        desk.batches.grant(place, granted, &mut later.wakes);
        true
    }

    /// Gives back a place that was granted and that nobody has got.
    fn put_back(&self, desk: &mut Desk, granted: Granted, later: &mut Later) {
        let Granted { grant, charge } = granted;
        let at = self.shard_of(grant.agent());
        let mut shard = self.shards[at].lock();
        let local = shard
            .release(grant.agent(), charge, None, false)
            .expect("grants of removed agents are withdrawn");
        later.passed.push(self.pass_on(desk, &mut shard, at, local, &mut later.wakes));
        later.idle.extend(Self::heeded(&shard, local));
    }

    fn do_later(&self, later: Later) {
        self.tell_of_start(later.due);
        self.wake_all(later.wakes);
        let mut hungry = false;
        for passed in later.passed {
            self.tell_freed(passed.freed);
            hungry |= passed.hungry;
        }
        if hungry {
            self.tell_workers();
        }
        later.idle.into_iter().for_each(|agent| self.tell_idle(Some(agent)));
        self.tell_who_waits(later.waiting);
    }
}
