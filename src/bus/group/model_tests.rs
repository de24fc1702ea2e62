//! A group against a naive model of it, with time moved by hand and wake-ups taken at their word.
//!
//! The state of the group is validated after each change (see `Inner::change`). Whoever waits is polled, at the
//! end of a run, only if it was woken: a lost wake-up leaves somebody waiting for what it could have.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use proptest::prelude::*;

use super::super::{
    DeadLetterReason, DeadLetters, Delivery, EventBus, Filter, Group, Member, Overflow, RecvError,
    Topic, TryRecvError,
};
use crate::ManualClock;

const CAPACITY: usize = 4;
const TIMEOUT: u64 = 3;

#[derive(Clone, Debug)]
enum Op {
    Publish,
    Join,
    Leave(usize),
    TryReceive(usize),
    Poll(usize),
    /// A future is dropped.
    GiveUp(usize),
    Ack(usize),
    Nack(usize),
    Drop(usize),
    Reject(usize),
    /// A delivery is forgotten.
    Forget(usize),
    Advance(u64),
    TakeBack,
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    let which = || 0..6_usize;
    prop_oneof![
        12 => Just(Op::Publish),
        3 => Just(Op::Join),
        2 => which().prop_map(Op::Leave),
        6 => which().prop_map(Op::TryReceive),
        12 => which().prop_map(Op::Poll),
        3 => which().prop_map(Op::GiveUp),
        6 => which().prop_map(Op::Ack),
        4 => which().prop_map(Op::Nack),
        2 => which().prop_map(Op::Drop),
        2 => which().prop_map(Op::Reject),
        1 => which().prop_map(Op::Forget),
        2 => (1..=TIMEOUT).prop_map(Op::Advance),
        1 => Just(Op::TakeBack),
        1 => Just(Op::Close),
    ]
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    attempts: u32,
    last: u64,
    held: bool,
    deadline: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Delivery { event: u64, attempt: u32 },
    Empty,
    Closed,
}

struct Seat {
    id: u64,
    member: Member<u64>,
    /// What wakes it, while it waits.
    waits: Option<Arc<Woken>>,
}

struct World {
    bus: EventBus<u64>,
    topic: Topic,
    hand: ManualClock,
    group: Group<u64>,
    letters: DeadLetters<u64>,
    seats: Vec<Seat>,
    deliveries: Vec<(Delivery<u64>, u64, u32)>,
    // The model.
    pending_max: usize,
    attempts_max: u32,
    timed: bool,
    now: u64,
    published: u64,
    is_closed: bool,
    ring: VecDeque<u64>,
    pending: BTreeMap<u64, Pending>,
    dead: Vec<(u64, DeadLetterReason)>,
    next_member: u64,
    acknowledged: u64,
    delivered: u64,
    timed_out: u64,
}

impl World {
    fn new(pending_max: usize, attempts_max: u32, timed: bool) -> Self {
        let (clock, hand) = ManualClock::new();
        let bus = EventBus::builder().capacity(CAPACITY).clock(clock).build().expect("valid");
        let topic = bus.topic("t").expect("valid");
        let group = bus.group(Filter::all(), Overflow::Block);
        let group = group.pending_max(pending_max).attempts_max(attempts_max);
        let group = if timed { group.ack_timeout(Duration::from_secs(TIMEOUT)) } else { group };
        Self {
            topic,
            hand,
            group: group.build().expect("valid"),
            letters: bus.dead_letters(1000),
            bus,
            seats: Vec::new(),
            deliveries: Vec::new(),
            pending_max,
            attempts_max,
            timed,
            now: 0,
            published: 0,
            is_closed: false,
            ring: VecDeque::new(),
            pending: BTreeMap::new(),
            dead: Vec::new(),
            next_member: 0,
            acknowledged: 0,
            delivered: 0,
            timed_out: 0,
        }
    }

    fn give_back(&mut self, event: u64) {
        let one = self.pending.get_mut(&event).expect("pending");
        one.held = false;
        if one.attempts == self.attempts_max {
            let reason = DeadLetterReason::AttemptsExhausted { attempts: one.attempts };
            self.pending.remove(&event);
            self.dead.push((event, reason));
        }
    }

    fn expire(&mut self) -> usize {
        let overdue = |one: &Pending| self.timed && one.held && one.deadline <= self.now;
        let mut overdue: Vec<(u64, u64)> = (self.pending.iter())
            .filter(|(_, one)| overdue(one))
            .map(|(event, one)| (one.deadline, *event))
            .collect();
        overdue.sort_unstable();
        for (_, event) in &overdue {
            self.give_back(*event);
        }
        self.timed_out += overdue.len() as u64;
        overdue.len()
    }

    /// What a member would get.
    fn offer(&self, member: u64) -> Outcome {
        let alone = self.seats.len() == 1;
        let ready = self.pending.iter().find(|(_, one)| !one.held && (alone || one.last != member));
        if let Some((event, one)) = ready {
            return Outcome::Delivery { event: *event, attempt: one.attempts + 1 };
        }
        match self.ring.front() {
            None if self.is_closed && self.pending.is_empty() => Outcome::Closed,
            Some(event) if self.pending.len() < self.pending_max => {
                Outcome::Delivery { event: *event, attempt: 1 }
            }
            _ => Outcome::Empty,
        }
    }

    /// What a member gets, and that it has it.
    fn expect(&mut self, member: u64) -> Outcome {
        self.expire();
        let outcome = self.offer(member);
        if let Outcome::Delivery { event, attempt } = outcome {
            if attempt == 1 {
                self.ring.pop_front();
            }
            let deadline = self.now + TIMEOUT;
            let one = Pending { attempts: attempt, last: member, held: true, deadline };
            self.pending.insert(event, one);
            self.delivered += 1;
        }
        outcome
    }

    fn got(&mut self, delivery: Delivery<u64>) -> Outcome {
        let (event, attempt) = (*delivery.payload(), delivery.attempt());
        assert_eq!(delivery.event().sequence, event);
        self.deliveries.push((delivery, event, attempt));
        Outcome::Delivery { event, attempt }
    }

    fn poll(&mut self, which: usize) -> Outcome {
        let expected = self.expect(self.seats[which].id);
        let seat = &mut self.seats[which];
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        seat.waits = None;
        let mut future = seat.member.recv_async();
        let polled = pin!(&mut future).poll(&mut Context::from_waker(&waker));
        if polled.is_pending() {
            // It waits on, although nothing here borrows the member.
            std::mem::forget(future);
            seat.waits = Some(woken);
        } else {
            drop(future);
        }
        let found = match polled {
            Poll::Ready(Ok(delivery)) => self.got(delivery),
            Poll::Ready(Err(RecvError::Closed)) => Outcome::Closed,
            Poll::Ready(Err(other)) => panic!("{other:?}"),
            Poll::Pending => Outcome::Empty,
        };
        assert_eq!(found, expected);
        found
    }

    /// Whether a delivery is still the present one.
    fn is_present(&self, event: u64, attempt: u32) -> bool {
        self.pending.get(&event).is_some_and(|one| one.held && one.attempts == attempt)
    }

    fn settle(&mut self, op: &Op, which: usize) {
        if which >= self.deliveries.len() {
            return;
        }
        let (delivery, event, attempt) = self.deliveries.swap_remove(which);
        let present = self.is_present(event, attempt);
        match op {
            Op::Ack(_) => {
                assert_eq!(delivery.ack().is_ok(), present);
                if present {
                    self.pending.remove(&event);
                    self.acknowledged += 1;
                }
            }
            Op::Reject(_) => {
                assert_eq!(delivery.reject().is_ok(), present);
                if present {
                    self.pending.remove(&event);
                    self.dead.push((event, DeadLetterReason::Rejected));
                }
            }
            Op::Forget(_) => std::mem::forget(delivery),
            _ => {
                if matches!(op, Op::Nack(_)) {
                    delivery.nack();
                } else {
                    drop(delivery);
                }
                if present {
                    self.give_back(event);
                }
            }
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Publish => {
                let published = self.bus.publisher().try_publish(self.topic, self.published);
                assert_eq!(published.is_ok(), !self.is_closed && self.ring.len() < CAPACITY);
                if published.is_ok() {
                    self.ring.push_back(self.published);
                    self.published += 1;
                }
            }
            Op::Join if self.seats.len() < 5 => {
                let member = self.group.member();
                self.seats.push(Seat { id: self.next_member, member, waits: None });
                self.next_member += 1;
            }
            Op::Leave(which) if which < self.seats.len() => {
                let id = self.seats.remove(which).id;
                let held = self.pending.iter().filter(|(_, one)| one.held && one.last == id);
                for event in held.map(|(event, _)| *event).collect::<Vec<_>>() {
                    self.give_back(event);
                }
            }
            Op::TryReceive(which) if which < self.seats.len() => {
                let expected = self.expect(self.seats[which].id);
                self.seats[which].waits = None;
                let found = match self.seats[which].member.try_recv() {
                    Ok(delivery) => self.got(delivery),
                    Err(TryRecvError::Empty) => Outcome::Empty,
                    Err(TryRecvError::Closed) => Outcome::Closed,
                    Err(other) => panic!("{other:?}"),
                };
                assert_eq!(found, expected);
            }
            Op::Poll(which) if which < self.seats.len() => {
                self.poll(which);
            }
            Op::GiveUp(which) if which < self.seats.len() => {
                self.seats[which].waits = None;
                drop(self.seats[which].member.recv_async());
            }
            Op::Ack(which)
            | Op::Nack(which)
            | Op::Drop(which)
            | Op::Reject(which)
            | Op::Forget(which) => self.settle(op, which),
            Op::Advance(by) => {
                self.hand.advance(Duration::from_secs(by));
                self.now += by;
            }
            Op::TakeBack => {
                let overdue = self.expire();
                assert_eq!(self.group.take_back_overdue(), overdue);
            }
            Op::Close => {
                self.bus.close();
                self.is_closed = true;
            }
            _ => {}
        }
        self.validate();
    }

    fn validate(&mut self) {
        while let Ok(letter) = self.letters.try_recv() {
            let found = (letter.event().payload, letter.reason());
            assert!(!self.dead.is_empty(), "nothing died, but {found:?} came");
            assert_eq!(found, self.dead.remove(0));
        }
        assert!(self.dead.is_empty(), "no letter came of {:?}", self.dead);
        let stats = self.group.stats();
        assert_eq!((stats.pending, stats.members), (self.pending.len(), self.seats.len()));
        assert_eq!((stats.delivered, stats.acknowledged), (self.delivered, self.acknowledged));
        assert_eq!(stats.timed_out, self.timed_out);
        assert_eq!(stats.delivered - stats.redelivered, self.published - self.ring.len() as u64);
    }

    /// Polls those who are woken until nobody is; then nobody waits for what it could have.
    fn come_to_rest(&mut self) {
        loop {
            let woken = self.seats.iter().position(|seat| {
                seat.waits.as_ref().is_some_and(|woken| woken.0.load(Ordering::Relaxed))
            });
            let Some(woken) = woken else { break };
            self.poll(woken);
            self.validate();
        }
        for seat in self.seats.iter().filter(|seat| seat.waits.is_some()) {
            assert_eq!(self.offer(seat.id), Outcome::Empty, "member {} sleeps on", seat.id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_group_is_as_its_model(
        pending_max in 1..6_usize,
        attempts_max in 1..4_u32,
        timed: bool,
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let mut world = World::new(pending_max, attempts_max, timed);
        for (index, op) in ops.iter().enumerate() {
            world.apply(op);
            if index % 8 == 7 {
                world.come_to_rest();
            }
        }
        world.come_to_rest();
        while !world.seats.is_empty() {
            world.apply(&Op::Leave(0));
        }
        let World { bus, group, mut letters, pending, deliveries, .. } = world;
        drop(group);
        for event in pending.keys() {
            let letter = letters.try_recv().expect("a letter");
            prop_assert_eq!(letter.reason(), DeadLetterReason::Unacknowledged);
            prop_assert_eq!(letter.event().payload, *event);
        }
        prop_assert!(deliveries.into_iter().all(|(delivery, ..)| delivery.ack().is_err()));
        bus.close();
        prop_assert!(matches!(letters.try_recv(), Err(TryRecvError::Closed)));
    }
}
