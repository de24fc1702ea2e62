//! Requests that wait: how one begins to, gets its answer, or gives up.
//!
//! Rules that hold here, beside rules 2 and 3 of the pool:
//!
//! 1. A ticket is spent by one [`collect`](Pool::collect) that brings an answer or by one
//!    [`give_up`](Pool::give_up), and a grant that nobody collects is passed on.

use std::sync::Arc;
use std::task::Waker;

use super::buy::Bought;
use super::desk::Desk;
use super::pick::PICKS;
use super::waiting::Place;
use super::{Ask, Granted, Passed, Pool, Ticket, broken, nanoseconds};
use crate::fleet::budget::Asking;
use crate::fleet::lease::Lease;
use crate::fleet::request::{AllocateError, Request};
use crate::sync::atomic::Ordering;
use crate::sync::left_out;

impl Pool {
    /// Takes an agent, or queues the request. A grant comes as an answer to the ticket. The waker is
    /// taken if it is needed; otherwise the caller drops it outside the lock.
    pub(in crate::fleet) fn allocate_or_wait(
        self: &Arc<Self>,
        request: &Request,
        waker: &mut Option<Waker>,
    ) -> Result<Result<Lease, Ticket>, AllocateError> {
        let ask = self.resolve(request)?;
        for _ in 0..PICKS {
            match self.try_allocate(request) {
                Ok(lease) => return Ok(Ok(lease)),
                Err(error) if error.is_picking() => return Err(error),
                Err(_) => {}
            }
            let mut told = None;
            let waits = self.wait_in_line(request, ask, waker, &mut told);
            self.settle_dues();
            self.tell_who_waits(told);
            if let Some(waits) = waits? {
                return Ok(waits);
            }
        }
        Err(AllocateError::PickLost)
    }

    /// Nothing comes back if an agent came free meanwhile that is for the request's picker to see.
    fn wait_in_line(
        self: &Arc<Self>,
        request: &Request,
        ask: Ask,
        waker: &mut Option<Waker>,
        told: &mut Option<usize>,
    ) -> Result<Option<Result<Lease, Ticket>>, AllocateError> {
        let mut desk = self.desk.lock();
        if desk.closed {
            return Err(AllocateError::Closed);
        }
        if ask.agent.is_none() && !desk.may_serve(&ask) {
            return Err(AllocateError::NoSuchCapability);
        }
        self.follow_accounts_at(&mut desk);
        // Rule 2: first the word, then a look into every shard.
        if !left_out("fleet.say-who-waits") {
            self.attention.fetch_add(2, Ordering::Relaxed);
        }
        let found = match self.buy(&ask, Asking::Waiting, true) {
            // It waits for room.
            Err(AllocateError::OverBudget(_)) => Ok(None),
            found => found,
        };
        let refusal = match found {
            Ok(Some(Bought { mut shard, granted })) if request.own_picker().is_some() => {
                let agent = granted.grant.agent();
                shard.undo(agent, granted.charge);
                self.publish(self.shard_of(agent), &mut shard);
                self.owe(&mut shard);
                drop(shard);
                self.attention.fetch_sub(2, Ordering::Relaxed);
                return Ok(None);
            }
            Ok(Some(Bought { shard, granted })) => {
                drop(shard);
                self.attention.fetch_sub(2, Ordering::Relaxed);
                drop(desk);
                let mut due = None;
                let lease = self.start(granted, &ask, &mut due);
                self.tell_of_start(due);
                return Ok(Some(Ok(lease)));
            }
            Err(error) => error,
            Ok(None) if desk.asking() >= self.max_waiting => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                AllocateError::TooManyWaiting
            }
            Ok(None) => {
                let step = self.ageing_ns.map_or(0, |step| self.now() / step);
                let due = request.due().map(|due| nanoseconds(due.since_start()));
                let place = Place::new(request.urgency(), step, due, desk.tickets);
                desk.tickets += 1;
                // With a picker the time of the lease begins once that has judged it.
                let ttl = ask.ttl.filter(|_| request.own_picker().is_none());
                let mut ticket = Ticket { ask: Ask { ttl, ..ask }, place };
                desk.learn_later(&mut ticket, request.names());
                desk.waiting.insert(ticket, waker.take());
                *told = desk.grows();
                self.say_who_waits(&desk);
                return Ok(Some(Err(ticket)));
            }
        };
        self.attention.fetch_sub(2, Ordering::Relaxed);
        Err(refusal)
    }

    /// Keeps rule 2 after the number of those who wait changed under the desk's lock.
    pub(super) fn say_who_waits(&self, desk: &Desk) {
        if left_out("fleet.say-who-waits") {
            return;
        }
        let waiting = (desk.waiting.len() + desk.batches.waiting() + desk.idlers.len()) << 1;
        // Only the bit of the workers changes without the desk's lock.
        let now = self.attention.load(Ordering::Relaxed) & !1;
        if waiting == now {
            return;
        }
        if waiting > now {
            self.attention.fetch_add(waiting - now, Ordering::Relaxed);
        } else {
            self.attention.fetch_sub(now - waiting, Ordering::Relaxed);
            // Who has left may be the one that was to look first.
            self.look_at.store(u64::MAX, Ordering::Relaxed);
        }
    }

    /// The answer to a ticket, if it has come; otherwise `waker` is who is told. The waker that is
    /// not needed any more comes back, to be dropped outside the lock.
    pub(in crate::fleet) fn collect(
        self: &Arc<Self>,
        ticket: &Ticket,
        waker: Waker,
    ) -> (Option<Result<Lease, AllocateError>>, Option<Waker>) {
        let mut desk = self.desk.lock();
        if let Some(answer) = desk.answers.remove(&ticket.place.sequence) {
            desk.forget_learner(ticket.place);
            // The desk is held, so the agent of a grant lives until the lease has begun.
            let (mut due, ask) = (None, &answer.ticket.ask);
            let lease = answer.result.map(|granted| self.start(granted, ask, &mut due));
            drop(desk);
            self.tell_of_start(due);
            return (Some(lease), Some(waker));
        }
        let ticket = desk.as_known(ticket);
        match desk.waiting.waker_mut(&ticket) {
            Some(known) => (None, known.replace(waker)),
            None => (Some(Err(AllocateError::Closed)), Some(waker)),
        }
    }

    /// Gives up a ticket. What was granted to it meanwhile is passed on.
    pub(in crate::fleet) fn give_up(&self, ticket: &Ticket) {
        let mut wakes = Vec::new();
        let (mut passed, mut idle) = (Passed::default(), None);
        let spare = {
            let mut desk = self.desk.lock();
            let known = desk.as_known(ticket);
            let waker = desk.waiting.remove(&known);
            desk.forget_learner(ticket.place);
            self.say_who_waits(&desk);
            if waker.is_none()
                && let Some(answer) = desk.answers.remove(&ticket.place.sequence)
                && let Ok(Granted { grant, charge }) = answer.result
                && !broken("fleet.grant-not-passed-on")
            {
                let at = self.shard_of(grant.agent());
                let mut shard = self.shards[at].lock();
                let local = shard
                    .release(grant.agent(), charge, None, false)
                    .expect("grants of removed agents are withdrawn");
                passed = self.pass_on(&mut desk, &mut shard, at, local, &mut wakes);
                idle = Self::heeded(&shard, local);
            }
            waker.flatten()
        };
        self.wake_all(wakes);
        self.discard(spare);
        self.tell_freed(passed.freed);
        if passed.hungry {
            self.tell_workers();
        }
        self.tell_idle(idle);
    }
}
