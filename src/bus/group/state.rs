//! What a group knows: its pending list, and who has what.
//!
//! Everything here runs under the lock of the group, so no code of the host runs here: what has to be woken,
//! sent or dropped is noted in an [`Aftermath`] that its caller runs when it holds no lock.
//!
//! 1. An event is pending from when it was taken from the ring until it is acknowledged or dead. It is either
//!    ready (then it is in `ready`) or held by one delivery (then, with a timeout, it is in `deadlines`).
//! 2. A delivery is named by its event's place in the order and by its attempt. It is the present one while the
//!    event is held and had just as many attempts; any other is stale.
//! 3. Places in the order are given out as events leave the ring, one event at a time; ready events go before
//!    those of the ring, the first place first.
//! 4. `pending` and the event that is being read have no more than `pending_max` places together.
//! 5. An event that becomes ready wakes one member that waits and may have it; room in a list that was full, one
//!    that waits; the end, and the second last member that leaves, all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::super::dead_letters::{DeadLetterReason, Pen, attempt};
use super::super::event::Event;
use super::super::subscriber::Subscriber;
use super::super::wait::{Panic, first_of};
use super::GroupStats;
use super::waiters::Waiters;
use crate::Timestamp;

/// What a group was built with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) pending_max: usize,
    pub(super) attempts_max: u32,
    pub(super) ack_timeout: Option<Duration>,
}

/// Where the group's subscription is.
pub(super) enum Source<E> {
    Here(Box<Subscriber<E>>),
    /// A member reads.
    Out,
    /// It had no more events, or the group ended.
    Ended,
}

pub(super) struct State<E> {
    pub(super) source: Source<E>,
    /// Somebody who waits found the subscription out.
    pub(super) wanted: bool,
    pub(super) limits: Limits,
    pub(super) stats: GroupStats,
    /// `None` once the group ended.
    pub(super) pen: Option<Arc<Pen<E>>>,
    pending: BTreeMap<u64, Pending<E>>,
    ready: BTreeSet<u64>,
    deadlines: BTreeSet<(Timestamp, u64)>,
    next_place: u64,
    next_member: u64,
    members: usize,
}

struct Pending<E> {
    event: Arc<Event<E>>,
    attempts: u32,
    /// Who holds it, or had it last.
    member: u64,
    is_held: bool,
    deadline: Option<Timestamp>,
}

/// An event that was handed to a member.
pub(super) struct Handed<E> {
    pub(super) event: Arc<Event<E>>,
    pub(super) place: u64,
    pub(super) attempt: u32,
}

/// What a member that asks is to do.
pub(super) enum Begin<E> {
    Take(Handed<E>),
    /// Read the ring; then check the subscription in. Whether there will be room for yet another event.
    Read(Box<Subscriber<E>>, bool),
    Nothing,
    Closed,
}

/// How a delivery ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settle {
    Acknowledged,
    Returned,
    Rejected,
}

impl<E> State<E> {
    pub(super) fn new(subscriber: Subscriber<E>, pen: Pen<E>, limits: Limits) -> Self {
        Self {
            source: Source::Here(Box::new(subscriber)),
            wanted: false,
            limits,
            stats: GroupStats::default(),
            pen: Some(Arc::new(pen)),
            pending: BTreeMap::new(),
            ready: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            next_place: 0,
            next_member: 0,
            members: 0,
        }
    }

    pub(super) fn stats(&self) -> GroupStats {
        GroupStats { pending: self.pending.len(), members: self.members, ..self.stats }
    }

    pub(super) fn join(&mut self) -> u64 {
        let member = self.next_member;
        self.next_member += 1;
        self.members += 1;
        member
    }

    /// A member is gone: what it held goes to others.
    pub(super) fn leave(&mut self, member: u64, after: &mut Aftermath<E>, waiters: &Waiters) {
        self.members -= 1;
        let held = self.pending.iter().filter(|(_, one)| one.is_held && one.member == member);
        let held: Vec<u64> = held.map(|(place, _)| *place).collect();
        for place in held {
            self.give_back(place, after, waiters);
        }
        if self.members == 1 {
            // It may have now what it had before.
            after.wakers.extend(waiters.all());
        }
    }

    /// The first deadline of a delivery.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes back what is overdue; says how much that was.
    pub(super) fn take_back_overdue(
        &mut self,
        now: Timestamp,
        after: &mut Aftermath<E>,
        waiters: &Waiters,
    ) -> usize {
        let mut overdue = 0;
        while let Some((deadline, place)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.stats.timed_out += 1;
            overdue += 1;
            self.give_back(place, after, waiters);
        }
        overdue
    }

    /// What a member that asks for an event is to do (rule 3).
    pub(super) fn begin(&mut self, member: u64, waits: bool, now: Timestamp) -> Begin<E> {
        let mut ready = self.ready.iter();
        let place = ready.find(|place| self.members == 1 || self.pending[place].member != member);
        if let Some(place) = place.copied() {
            self.ready.remove(&place);
            self.stats.redelivered += 1;
            return Begin::Take(self.hand(place, member, now));
        }
        if matches!(self.source, Source::Ended) {
            return if self.is_over() { Begin::Closed } else { Begin::Nothing };
        }
        if self.pending.len() >= self.limits.pending_max {
            self.stats.full += u64::from(waits);
            return Begin::Nothing;
        }
        // Room that a member reads for counts as taken, but what it reads may come to nothing.
        match std::mem::replace(&mut self.source, Source::Out) {
            Source::Here(subscriber) => Begin::Read(subscriber, !self.is_full()),
            out => {
                self.source = out;
                self.wanted |= waits;
                Begin::Nothing
            }
        }
    }

    /// The subscription is back, or at its end; then it is given up. `follows`: an event follows that somebody
    /// who waits may have.
    pub(super) fn put_back(
        &mut self,
        subscriber: Option<Box<Subscriber<E>>>,
        is_end: bool,
        follows: bool,
        after: &mut Aftermath<E>,
        waiters: &Waiters,
    ) -> Option<Box<Subscriber<E>>> {
        let wanted = std::mem::take(&mut self.wanted);
        if is_end {
            self.source = Source::Ended;
            after.wakers.extend(waiters.all());
            return subscriber;
        }
        self.source = subscriber.map_or(Source::Ended, Source::Here);
        if wanted || follows {
            after.wakers.extend(waiters.first());
        }
        None
    }

    /// Whether anything may still come from the ring, or come back.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.source, Source::Ended) && self.pending.is_empty()
    }

    /// Whether there is no room (rule 4).
    fn is_full(&self) -> bool {
        let reading = usize::from(matches!(self.source, Source::Out));
        self.pending.len() + reading >= self.limits.pending_max
    }

    /// An event was taken from the ring for a member.
    pub(super) fn taken(&mut self, event: Arc<Event<E>>, member: u64, now: Timestamp) -> Handed<E> {
        let place = self.next_place;
        self.next_place += 1;
        let one = Pending { event, attempts: 0, member, is_held: false, deadline: None };
        self.pending.insert(place, one);
        self.hand(place, member, now)
    }

    fn hand(&mut self, place: u64, member: u64, now: Timestamp) -> Handed<E> {
        let one = self.pending.get_mut(&place).expect("what is handed out is pending (rule 1)");
        one.attempts += 1;
        one.member = member;
        one.is_held = true;
        one.deadline = self.limits.ack_timeout.map(|timeout| now + timeout);
        if let Some(deadline) = one.deadline {
            self.deadlines.insert((deadline, place));
        }
        self.stats.delivered += 1;
        Handed { event: Arc::clone(&one.event), place, attempt: one.attempts }
    }

    /// Ends a delivery; `false` if it is stale (rule 2).
    pub(super) fn settle(
        &mut self,
        place: u64,
        attempt: u32,
        how: Settle,
        after: &mut Aftermath<E>,
        waiters: &Waiters,
    ) -> bool {
        let present = |one: &Pending<E>| one.is_held && one.attempts == attempt;
        if !self.pending.get(&place).is_some_and(present) {
            self.stats.stale += u64::from(how != Settle::Returned);
            return false;
        }
        match how {
            Settle::Acknowledged => {
                self.stats.acknowledged += 1;
                after.acknowledged = self.remove(place, after, waiters);
            }
            Settle::Returned => self.give_back(place, after, waiters),
            Settle::Rejected => self.bury(place, DeadLetterReason::Rejected, after, waiters),
        }
        true
    }

    /// A delivery ended without success: the event is ready again, or dead.
    fn give_back(&mut self, place: u64, after: &mut Aftermath<E>, waiters: &Waiters) {
        let one = self.pending.get_mut(&place).expect("what is given back is pending (rule 1)");
        let (attempts, member) = (one.attempts, one.member);
        one.is_held = false;
        if let Some(deadline) = one.deadline.take() {
            self.deadlines.remove(&(deadline, place));
        }
        if attempts >= self.limits.attempts_max {
            let reason = DeadLetterReason::AttemptsExhausted { attempts };
            self.bury(place, reason, after, waiters);
            return;
        }
        self.ready.insert(place);
        let waker = if self.members == 1 { waiters.first() } else { waiters.first_but(member) };
        after.wakers.extend(waker);
    }

    fn bury(
        &mut self,
        place: u64,
        reason: DeadLetterReason,
        after: &mut Aftermath<E>,
        waiters: &Waiters,
    ) {
        self.stats.dead_lettered += 1;
        let event = self.remove(place, after, waiters);
        after.letters.extend(event.map(|event| (event, reason)));
    }

    /// Takes an event off the list (rule 5).
    fn remove(
        &mut self,
        place: u64,
        after: &mut Aftermath<E>,
        waiters: &Waiters,
    ) -> Option<Arc<Event<E>>> {
        let was_full = self.is_full();
        let one = self.pending.remove(&place)?;
        self.ready.remove(&place);
        if let Some(deadline) = one.deadline {
            self.deadlines.remove(&(deadline, place));
        }
        if self.is_over() {
            after.wakers.extend(waiters.all());
        } else if was_full {
            after.wakers.extend(waiters.first());
        }
        Some(one.event)
    }

    /// Somebody who was woken will not look: others are woken for all that it may have been woken for.
    pub(super) fn pass_on(&self, after: &mut Aftermath<E>, waiters: &Waiters) {
        for place in &self.ready {
            let member = self.pending[place].member;
            let waker = if self.members == 1 { waiters.first() } else { waiters.first_but(member) };
            after.wakers.extend(waker);
        }
        after.wakers.extend(waiters.first());
    }

    /// The group ends: what is pending is dead, and what is left of its subscription comes back.
    pub(super) fn end(&mut self, after: &mut Aftermath<E>) -> Source<E> {
        self.ready.clear();
        self.deadlines.clear();
        for (_, one) in std::mem::take(&mut self.pending) {
            self.stats.dead_lettered += 1;
            after.letters.push((one.event, DeadLetterReason::Unacknowledged));
        }
        std::mem::replace(&mut self.source, Source::Ended)
    }

    /// Panics unless the rules of the file hold.
    #[cfg(test)]
    pub(super) fn validate(&self) {
        let reading = usize::from(matches!(self.source, Source::Out));
        assert!(self.pending.len() + reading <= self.limits.pending_max, "the list is too long");
        for (place, one) in &self.pending {
            assert_eq!(self.ready.contains(place), !one.is_held, "neither ready nor held, or both");
            assert_eq!(one.deadline.is_some(), one.is_held && self.limits.ack_timeout.is_some());
            if let Some(deadline) = one.deadline {
                assert!(self.deadlines.contains(&(deadline, *place)), "a deadline is forgotten");
            }
            assert!(one.attempts >= 1 && one.attempts <= self.limits.attempts_max);
        }
        assert!(self.ready.iter().all(|place| self.pending.contains_key(place)));
        let held = self.pending.values().filter(|one| one.deadline.is_some()).count();
        assert_eq!(held, self.deadlines.len(), "a deadline of nothing");
        let stats = self.stats();
        let taken = stats.delivered - stats.redelivered;
        let settled = stats.acknowledged + stats.dead_lettered + stats.pending as u64;
        assert_eq!(taken, settled, "an event is neither pending nor settled");
    }
}

/// The code of others that a change brings about; to be run when no lock is held.
pub(super) struct Aftermath<E> {
    pub(super) wakers: Vec<Waker>,
    letters: Vec<(Arc<Event<E>>, DeadLetterReason)>,
    acknowledged: Option<Arc<Event<E>>>,
    /// To send the letters with.
    pen: Option<Arc<Pen<E>>>,
}

impl<E> Aftermath<E> {
    pub(super) fn new() -> Self {
        Self { wakers: Vec::new(), letters: Vec::new(), acknowledged: None, pen: None }
    }

    /// The change is made.
    pub(super) fn complete(&mut self, state: &State<E>) {
        if !self.letters.is_empty() && self.pen.is_none() {
            self.pen = state.pen.clone();
        }
    }

    /// Runs all of it; the first panic comes back.
    pub(super) fn run(self) -> Result<(), Panic> {
        let mut first = Ok(());
        for waker in self.wakers {
            first = first_of(first, attempt(|| waker.wake()));
        }
        for (event, reason) in self.letters {
            let pen = self.pen.as_ref().expect("a group that has events has its pen");
            first = first_of(first, pen.send(event, reason));
        }
        first = first_of(first, attempt(|| drop(self.acknowledged)));
        first
    }
}
