//! Many publish and many read at once; every reader checks all that it can know.
//!
//! Each payload says which publisher made it, which of its events it is, and carries a checksum. For each
//! publisher a reader must see the numbers rise; a blocking one by one each time, a drop-oldest one with gaps
//! that its reported losses explain. At the end: seen and lost together are what was published.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use phalanx::bus::{
    Event, EventBus, Filter, Overflow, RecvError, RecvTimeoutError, Subscriber, Topic,
};

use super::{Any, block_on};

#[derive(Clone, Copy, Debug)]
struct Payload {
    publisher: u64,
    number: u64,
    filling: [u64; 5],
    checksum: u64,
}

impl Payload {
    fn new(publisher: u64, number: u64) -> Self {
        let filling = std::array::from_fn(|i| number.rotate_left(i as u32 * 7) ^ publisher);
        let mut payload = Self { publisher, number, filling, checksum: 0 };
        payload.checksum = payload.sum();
        payload
    }

    fn sum(&self) -> u64 {
        self.filling.iter().fold(self.publisher ^ self.number.wrapping_mul(0x9e37), |sum, word| {
            sum.rotate_left(5).wrapping_add(*word)
        })
    }
}

/// How a reader receives.
#[derive(Clone, Copy)]
enum How {
    Recv,
    Timed,
    Future,
    Batch,
}

#[derive(Default)]
struct Oracle {
    last: HashMap<u64, u64>,
    next_sequence: Option<u64>,
    seen: u64,
    lost: u64,
}

impl Oracle {
    fn see(&mut self, event: Event<&Payload>, overflow: Overflow) {
        let payload = event.payload;
        assert_eq!(payload.sum(), payload.checksum, "a torn payload");
        if let Some(next) = self.next_sequence {
            assert_eq!(event.sequence, next, "an unreported gap");
        }
        self.next_sequence = Some(event.sequence + 1);
        if let Some(last) = self.last.insert(payload.publisher, payload.number) {
            assert!(payload.number > last, "an event came twice or out of order");
            let gap = payload.number - last - 1;
            match overflow {
                Overflow::Block => assert_eq!(gap, 0, "a blocking reader lost events"),
                _ => assert!(gap <= self.lost, "more is missing than was reported"),
            }
        }
        self.seen += 1;
    }

    fn lose(&mut self, missed: u64, from: u64) {
        assert!(missed > 0);
        if let Some(next) = self.next_sequence {
            assert_eq!(from, next);
        }
        self.next_sequence = Some(from + missed);
        self.lost += missed;
    }
}

/// Receives until the end or, with a limit, until so many events were seen or lost.
fn read(mut reader: Subscriber<Payload>, how: How, limit: Option<u64>) -> Oracle {
    let overflow = reader.overflow();
    let mut oracle = Oracle::default();
    while limit.is_none_or(|limit| oracle.seen + oracle.lost < limit) {
        let one = |event: Event<Payload>| (vec![event], None);
        let (events, end) = match how {
            How::Recv => reader.recv().map_or_else(|end| (vec![], Some(end)), one),
            How::Future => {
                block_on(reader.recv_async()).map_or_else(|end| (vec![], Some(end)), one)
            }
            How::Timed => match reader.recv_timeout(Duration::from_micros(50)) {
                Ok(event) => one(event),
                Err(RecvTimeoutError::Timeout) => (vec![], None),
                Err(RecvTimeoutError::Lagged { missed, from, lane }) => {
                    (vec![], Some(RecvError::Lagged { missed, from, lane }))
                }
                Err(_) => (vec![], Some(RecvError::Closed)),
            },
            How::Batch => {
                let result = reader.for_each_batch(|event| oracle.see(event, overflow));
                (vec![], result.err())
            }
        };
        for event in &events {
            oracle.see(event.lend(), overflow);
        }
        match end {
            None => {}
            Some(RecvError::Lagged { missed, from, .. }) => oracle.lose(missed, from),
            Some(_) => break,
        }
    }
    let stats = reader.stats();
    assert_eq!((stats.delivered, stats.lagged), (oracle.seen, oracle.lost));
    oracle
}

/// Publishes its events in order: one by one, in batches, made in place, awaited, or by all these in turn.
fn publish_all(bus: &EventBus<Payload>, topic: Topic, publisher: u64, events: u64) {
    publish_by(&mut Any::Shared(bus.publisher()), publisher % 5, topic, publisher, events);
}

fn publish_by(by: &mut Any<Payload>, way: u64, topic: Topic, publisher: u64, events: u64) {
    const BATCH: u64 = 7;
    let mut number = 0;
    while number < events {
        let payload = || Payload::new(publisher, number);
        match if way == 4 { number % 4 } else { way } {
            0 => drop(by.publish(topic, payload()).expect("open")),
            1 => {
                let batch = number..events.min(number + BATCH);
                let all: Vec<_> = batch.map(|number| Payload::new(publisher, number)).collect();
                let published = by.publish_batch(topic, &mut all.into_iter()).expect("open");
                number += published - 1;
            }
            2 => drop(block_on(by.publish_async(topic, payload())).expect("open")),
            _ => drop(by.publish_with(topic, payload).expect("open")),
        }
        number += 1;
    }
}

/// Under ThreadSanitizer, which is slow and needs no great numbers, a tenth of the events will do.
const SHARE: u64 = if cfg!(phalanx_tsan) { 10 } else { 1 };

const HOWS: [How; 4] = [How::Recv, How::Timed, How::Future, How::Batch];

fn run(capacity: usize, publishers: u64, events: u64, blocking: bool, dropping: bool) {
    let events = events / SHARE;
    race(capacity, publishers * events, blocking, dropping, |bus, topic| {
        thread::scope(|scope| {
            for publisher in 0..publishers {
                scope.spawn(move || publish_all(bus, topic, publisher, events));
            }
        });
    });
}

/// Has `publish` publish so many events while readers of each kind and way read, and settles the accounts.
fn race(
    capacity: usize,
    total: u64,
    blocking: bool,
    dropping: bool,
    publish: impl FnOnce(&EventBus<Payload>, Topic),
) {
    let bus = EventBus::builder().capacity(capacity).build().expect("valid");
    let topic = bus.topic("t").expect("valid");
    thread::scope(|scope| {
        let mut readers = Vec::new();
        for how in HOWS {
            for (overflow, wanted) in
                [(Overflow::Block, blocking), (Overflow::DropOldest, dropping)]
            {
                if wanted {
                    let reader = bus.subscribe(Filter::all(), overflow);
                    readers.push(scope.spawn(move || (overflow, read(reader, how, None))));
                }
            }
        }
        publish(&bus, topic);
        bus.close();
        for reader in readers {
            let (overflow, oracle) = reader.join().expect("a reader panicked");
            assert_eq!(oracle.seen + oracle.lost, total);
            if overflow == Overflow::Block {
                assert_eq!(oracle.seen, total);
            }
        }
    });
    let stats = bus.stats();
    assert_eq!((stats.published, stats.tombstones), (total, 0));
    let readers = 4 * (u64::from(blocking) + u64::from(dropping));
    assert_eq!((stats.delivered + stats.lagged, stats.dropped), (readers * total, 0));
}

#[test]
fn blocking_readers_see_everything_once_and_in_order() {
    run(2, 3, 3_000, true, false);
    run(4, 1, 10_000, true, false);
    run(64, 4, 10_000, true, false);
}

#[test]
fn drop_oldest_readers_account_for_everything() {
    run(2, 3, 10_000, false, true);
    run(4, 2, 10_000, false, true);
    run(64, 4, 10_000, false, true);
}

#[test]
fn both_kinds_of_readers_side_by_side() {
    run(2, 2, 2_000, true, true);
    run(4, 3, 3_000, true, true);
    run(128, 4, 5_000, true, true);
}

#[test]
fn an_exclusive_publisher_is_read_whole_by_both_kinds_of_readers() {
    for (capacity, events) in [(2, 3_000), (4, 3_000), (64, 20_000)] {
        for (way, (blocking, dropping)) in
            (0..5).zip([(true, false), (false, true), (true, true)].into_iter().cycle())
        {
            let events = events / SHARE;
            race(capacity, events, blocking, dropping, |bus, topic| {
                let exclusive = bus.exclusive_publisher().expect("nobody publishes");
                publish_by(&mut Any::Exclusive(exclusive), way, topic, 0, events);
            });
        }
    }
}

#[test]
fn exclusive_and_shared_publishers_take_turns_under_load() {
    let events = 2_000 / SHARE;
    race(4, 6 * 2 * events, true, true, |bus, topic| {
        for turn in 0..6 {
            let exclusive = bus.exclusive_publisher().expect("nobody publishes any more");
            publish_by(&mut Any::Exclusive(exclusive), 4, topic, 10 + turn, events);
            thread::scope(|scope| {
                for half in 0..2 {
                    let publisher = 100 + 2 * turn + half;
                    scope.spawn(move || publish_all(bus, topic, publisher, events / 2));
                }
            });
        }
    });
}

/// What this thread starts runs on one processor: every hand-over is one of the scheduler's.
#[cfg(target_os = "linux")]
#[test]
fn on_one_processor_everything_is_accounted_for() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let pinned = thread::spawn(|| {
        let all = sched_getaffinity(None).expect("it may be asked");
        let first = (0..CpuSet::MAX_CPU).find(|&cpu| all.is_set(cpu)).expect("this runs somewhere");
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(None, &one).expect("a part of what is allowed is allowed");
        run(2, 3, 1_000, true, true);
        run(64, 4, 5_000, true, false);
        race(4, 2_000, true, true, |bus, topic| {
            let exclusive = bus.exclusive_publisher().expect("nobody publishes");
            publish_by(&mut Any::Exclusive(exclusive), 4, topic, 0, 2_000);
        });
    });
    pinned.join().expect("no panic");
}

#[test]
fn subscriptions_that_come_and_go_see_whole_stretches() {
    for capacity in [2, 4, 64] {
        let bus = EventBus::builder().capacity(capacity).build().expect("valid");
        let topic = bus.topic("t").expect("valid");
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let visiting: Vec<_> = (0..4)
                .map(|visitor: usize| {
                    let (bus, done) = (&bus, &done);
                    scope.spawn(move || {
                        let mut visits = 0;
                        loop {
                            let overflow =
                                [Overflow::Block, Overflow::DropOldest][(visitor + visits) % 2];
                            let how = HOWS[(visitor + visits / 2) % 4];
                            let reader = bus.subscribe(Filter::all(), overflow);
                            read(reader, how, Some(1 + visits as u64 % 50));
                            visits += 1;
                            if done.load(Ordering::Relaxed) {
                                break;
                            }
                        }
                    })
                })
                .collect();
            let publishing: Vec<_> = (0..2)
                .map(|publisher| {
                    let bus = &bus;
                    scope.spawn(move || publish_all(bus, topic, publisher, 5_000 / SHARE))
                })
                .collect();
            for publisher in publishing {
                publisher.join().expect("a publisher panicked");
            }
            done.store(true, Ordering::Relaxed);
            bus.close();
            for visitor in visiting {
                visitor.join().expect("a visitor panicked");
            }
        });
        assert_eq!(bus.stats().published, 10_000 / SHARE);
        assert_eq!(bus.stats().subscribers, 0);
    }
}

#[test]
fn a_thousand_threads_publish_through_a_small_ring() {
    let bus = EventBus::builder().capacity(4).build().expect("valid");
    let topic = bus.topic("t").expect("valid");
    let reader = bus.subscribe(Filter::all(), Overflow::Block);
    thread::scope(|scope| {
        let reading = scope.spawn(move || read(reader, How::Recv, Some(5_000)));
        for publisher in 0..1_000 {
            let bus = &bus;
            scope.spawn(move || publish_all(bus, topic, publisher, 5));
        }
        assert_eq!(reading.join().expect("the reader panicked").seen, 5_000);
    });
}
