//! Models of the whole bus under shuttle: more threads than loom can take, in random interleavings.
//!
//! Shuttle takes every ordering for `SeqCst` and does not watch the slots, so these models say nothing of
//! orderings and fences; those are loom's. What they find is what goes wrong between many: a wake-up that is
//! lost, an event that is lost, met twice or out of order, a count that does not add up. A failing schedule
//! is printed, and `explore` says how to run it again. Each model has a twin in which one step is left out,
//! and which must fail.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use super::{Event, EventBus, Filter, Overflow, Publisher, RecvError, Subscriber, TryRecvError};
use crate::sync::{block_on, explore, thread, weakened};

const PUBLISHERS: u64 = 8;
const EACH: u64 = 4;
const CAPACITY: usize = 4;
const SCHEDULES: usize = 2000;

#[derive(Clone, Debug)]
struct Payload {
    publisher: u64,
    number: u64,
    /// Made of the other two: a payload put together from two writes does not agree with itself.
    sum: u64,
}

fn sum(publisher: u64, number: u64) -> u64 {
    (publisher << 32 | number) ^ 0x0123_4567_89ab_cdef
}

/// Publishes its events in order, the odd ones to one topic and the even ones to another.
fn publish(bus: &EventBus<Payload>, publisher: u64) -> thread::JoinHandle<()> {
    let topics = [bus.topic("even").expect("room"), bus.topic("odd").expect("room")];
    let handle: Publisher<Payload> = bus.publisher();
    thread::spawn(move || {
        for number in 0..EACH {
            let payload = Payload { publisher, number, sum: sum(publisher, number) };
            handle.publish(topics[number as usize % 2], payload).expect("open");
        }
    })
}

/// What one subscription must be given: every event or a report of its loss, in order.
struct Oracle {
    subscriber: Subscriber<Payload>,
    /// The sequence of the next event, once it is known.
    next: Option<u64>,
    /// By publisher, the number of its next event at the earliest.
    numbers: [u64; PUBLISHERS as usize],
    seen: u64,
    lost: u64,
    filtered: bool,
}

impl Oracle {
    fn new(bus: &EventBus<Payload>, overflow: Overflow, filter: Filter<Payload>) -> Self {
        let subscriber = bus.subscribe(filter, overflow);
        let numbers = [0; PUBLISHERS as usize];
        Self { subscriber, next: None, numbers, seen: 0, lost: 0, filtered: false }
    }

    /// From before the first event on.
    fn from_the_start(mut self) -> Self {
        self.next = Some(0);
        self
    }

    /// Checks what was received; whether there may be more.
    fn check(&mut self, received: Result<Event<Payload>, RecvError>) -> bool {
        match received {
            Ok(Event { sequence, payload, .. }) => {
                let next = self.next.unwrap_or(sequence);
                assert!(sequence == next || self.filtered && sequence > next, "out of order");
                self.next = Some(sequence + 1);
                assert_eq!(payload.sum, sum(payload.publisher, payload.number), "a torn payload");
                let number = &mut self.numbers[payload.publisher as usize];
                assert!(payload.number >= *number, "a publisher's events are out of order");
                *number = payload.number + 1;
                self.seen += 1;
            }
            Err(RecvError::Lagged { missed, from, .. }) => {
                assert!(missed > 0, "a loss of nothing");
                let next = self.next.unwrap_or(from);
                assert!(from == next || self.filtered && from > next, "a loss out of order");
                self.next = Some(from + missed);
                self.lost += missed;
            }
            Err(RecvError::Closed | RecvError::HandlerPanicked) => return false,
        }
        true
    }

    fn receive(&mut self) -> bool {
        let received = self.subscriber.recv();
        self.check(received)
    }

    fn receive_async(&mut self) -> bool {
        let received = block_on(self.subscriber.recv_async());
        self.check(received)
    }

    /// Polls once and gives up; whether there may be more.
    fn poll_once(&mut self) -> bool {
        let received = block_on(poll_fn(|cx| {
            Poll::Ready(match pin!(self.subscriber.recv_async()).poll(cx) {
                Poll::Ready(received) => Some(received),
                Poll::Pending => None,
            })
        }));
        received.is_none_or(|received| self.check(received))
    }

    fn try_receive(&mut self) -> bool {
        let received = match self.subscriber.try_recv() {
            Ok(event) => Ok(event),
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Lagged { missed, from, lane }) => {
                Err(RecvError::Lagged { missed, from, lane })
            }
            Err(TryRecvError::Closed) => Err(RecvError::Closed),
            Err(TryRecvError::HandlerPanicked) => Err(RecvError::HandlerPanicked),
        };
        self.check(received)
    }

    /// The counters agree with what was received.
    fn settle(&self) {
        let stats = self.subscriber.stats();
        assert_eq!((stats.delivered, stats.lagged), (self.seen, self.lost));
    }

    /// As `settle`, of one that was there from the first event to the end.
    fn settle_all(&self) {
        self.settle();
        let stats = self.subscriber.stats();
        let sum = stats.delivered + stats.skipped + stats.lagged + stats.depth;
        assert_eq!((sum, stats.depth), (PUBLISHERS * EACH, 0));
    }
}

/// Eight publish; four read to the end, two of them as futures; others come, read a little, and go.
fn many() {
    let bus: EventBus<Payload> = EventBus::builder().capacity(CAPACITY).build().expect("valid");
    let mut readers = Vec::new();
    for (overflow, receive) in [
        (Overflow::Block, Oracle::receive as fn(&mut Oracle) -> bool),
        (Overflow::Block, Oracle::receive_async),
        (Overflow::DropOldest, Oracle::receive),
        (Overflow::DropOldest, Oracle::receive_async),
    ] {
        let mut oracle = Oracle::new(&bus, overflow, Filter::all()).from_the_start();
        readers.push(thread::spawn(move || {
            while receive(&mut oracle) {}
            oracle.settle_all();
            if overflow == Overflow::Block {
                assert_eq!((oracle.seen, oracle.lost), (PUBLISHERS * EACH, 0));
            }
        }));
    }
    let filter = Filter::topics(["odd"]).expect("a valid pattern");
    let mut odd = Oracle::new(&bus, Overflow::Block, filter).from_the_start();
    odd.filtered = true;
    readers.push(thread::spawn(move || {
        while odd.receive() {}
        odd.settle_all();
        assert_eq!(odd.seen, PUBLISHERS * EACH / 2);
    }));
    for publisher in 0..PUBLISHERS {
        readers.push(publish(&bus, publisher));
    }
    let closing = bus.clone();
    drop(bus);
    for round in 0..3 {
        let overflow = if round % 2 == 0 { Overflow::Block } else { Overflow::DropOldest };
        let mut oracle = Oracle::new(&closing, overflow, Filter::all());
        for receive in [Oracle::try_receive, Oracle::poll_once, Oracle::try_receive] {
            receive(&mut oracle);
        }
        oracle.settle();
    }
    // The last publisher to end closes the bus.
    drop(closing);
    for thread in readers {
        thread.join().expect("no panic");
    }
}

#[test]
fn shuttle_many_publish_and_each_subscription_adds_up() {
    explore(SCHEDULES, many);
}

#[test]
fn shuttle_twins_of_the_many_fail() {
    for step in ["parker.rouse"] {
        let twin = std::panic::catch_unwind(|| weakened(step, || explore(SCHEDULES, many)));
        assert!(twin.is_err(), "the model holds although {step} is left out");
    }
}
