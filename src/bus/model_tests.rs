//! The bus against a naive oracle: a queue for each subscription and lane, of everything published since it began.
//!
//! Every run starts a few events before the counters wrap.

mod reading;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use proptest::prelude::*;

use super::position::Position;
use super::ring::Shape;
use super::{
    EventBus, ExclusivePublisher, Filter, Overflow, PublishBatchError, PublishError, RecvError,
    Source, Start, Topic, TryPublishError,
};

use self::reading::{Asks, Reading};

const TOPICS: usize = 3;
const SOURCES: u32 = 3;
/// How many events before the wrap a run starts.
const BEFORE_WRAP: u64 = 20;
const SEQUENCE_MASK: u64 = (1 << 62) - 1;

#[derive(Clone, Debug)]
enum Op {
    Publish {
        lane: usize,
        topic: usize,
        source: u32,
        shared: bool,
    },
    /// A batch of an iterator that says that it has so many more than it has.
    Batch {
        lane: usize,
        topic: usize,
        count: u64,
        lies: u64,
        shared: bool,
    },
    /// A publication whose maker panics.
    Bury {
        lane: usize,
        shared: bool,
    },
    Exclusive {
        lane: usize,
    },
    Subscribe {
        overflow: Overflow,
        asks: Asks,
        start: From,
    },
    Unsubscribe {
        which: usize,
    },
    Receive {
        which: usize,
    },
    Handle {
        which: usize,
        panics_at: Option<usize>,
    },
    Close,
}

/// Where a subscription starts: a sequence is one so far back.
#[derive(Clone, Copy, Debug)]
enum From {
    Now,
    Oldest,
    Back(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let which = 0..8_usize;
    let lane = 0..3_usize;
    let topic = 0..TOPICS;
    let shared = proptest::bool::weighted(0.3);
    let overflow = prop_oneof![3 => Just(Overflow::Block), 3 => Just(Overflow::DropOldest), 1 => Just(Overflow::Fail)];
    let start = prop_oneof![3 => Just(From::Now), 1 => Just(From::Oldest), 1 => (0..100_u64).prop_map(From::Back)];
    let asks = (
        proptest::option::of(topic.clone()),
        proptest::option::weighted(0.3, 0..SOURCES),
        proptest::bool::weighted(0.3),
    )
        .prop_map(|(topic, source, thirds)| Asks { topic, source, thirds });
    prop_oneof![
        20 => (lane.clone(), topic.clone(), 0..SOURCES, shared)
            .prop_map(|(lane, topic, source, shared)| Op::Publish { lane, topic, source, shared }),
        5 => (lane.clone(), topic, 0..12_u64, prop_oneof![4 => Just(0), 1 => 1..4_u64], shared)
            .prop_map(|(lane, topic, count, lies, shared)| {
                Op::Batch { lane, topic, count, lies, shared }
            }),
        2 => (lane.clone(), shared).prop_map(|(lane, shared)| Op::Bury { lane, shared }),
        2 => lane.prop_map(|lane| Op::Exclusive { lane }),
        3 => (overflow, asks, start)
            .prop_map(|(overflow, asks, start)| Op::Subscribe { overflow, asks, start }),
        1 => which.clone().prop_map(|which| Op::Unsubscribe { which }),
        12 => which.clone().prop_map(|which| Op::Receive { which }),
        4 => (which, proptest::option::weighted(0.1, 0..6_usize))
            .prop_map(|(which, panics_at)| Op::Handle { which, panics_at }),
        1 => proptest::bool::weighted(0.3).prop_map(|now| {
            if now { Op::Close } else { Op::Receive { which: 0 } }
        }),
    ]
}

/// A payload that shows whether it was dropped once.
#[derive(Clone, Debug)]
struct Payload {
    number: u64,
    _alive: Arc<()>,
}

/// What was published; a tombstone has no number.
#[derive(Clone, Copy, Debug)]
struct Published {
    sequence: u64,
    topic: usize,
    source: u32,
    number: Option<u64>,
}

#[derive(Default)]
struct LaneModel {
    published: Vec<Published>,
    exclusive: Option<ExclusivePublisher<Payload>>,
}

struct World {
    bus: EventBus<Payload>,
    topics: Vec<Topic>,
    lanes: Vec<LaneModel>,
    readers: Vec<Reading>,
    alive: Arc<()>,
    /// Of the payloads.
    next_number: u64,
    tombstones: u64,
    handler_panics: u64,
    /// What past subscriptions passed, or had before them when they ended.
    past: u64,
    closed: bool,
    capacity: u64,
    stride: u64,
}

impl World {
    fn new(capacity: usize, lanes: usize) -> Self {
        let shape = Shape {
            start: Position::from_sequence(SEQUENCE_MASK - BEFORE_WRAP + 1),
            ..Shape::new(capacity)
        };
        let bus = EventBus::builder().lanes(lanes).shape(shape).build().expect("valid");
        Self {
            topics: (0..TOPICS).map(|i| bus.topic(&format!("t/{i}")).expect("valid")).collect(),
            bus,
            lanes: (0..lanes).map(|_| LaneModel::default()).collect(),
            readers: Vec::new(),
            alive: Arc::new(()),
            next_number: 0,
            tombstones: 0,
            handler_panics: 0,
            past: 0,
            closed: false,
            capacity: capacity as u64,
            stride: shape.stride,
        }
    }

    fn apply(&mut self, op: &Op) {
        let kept = self.kept();
        let lane_of = |lane: usize| lane % self.lanes.len();
        match *op {
            Op::Publish { lane, topic, source, shared } => {
                self.publish(lane_of(lane), topic, source, shared);
            }
            Op::Batch { lane, topic, count, lies, shared } => {
                self.batch(lane_of(lane), topic, count, lies, shared);
            }
            Op::Bury { lane, shared } => self.bury(lane_of(lane), shared),
            Op::Exclusive { lane } => {
                let lane = lane_of(lane);
                if self.lanes[lane].exclusive.take().is_none() {
                    let publisher = self.bus.exclusive_publisher_to(lane as u8);
                    assert_eq!(publisher.is_ok(), !self.closed);
                    self.lanes[lane].exclusive = publisher.ok();
                }
            }
            Op::Subscribe { overflow, asks, start } => self.subscribe(overflow, asks, start),
            Op::Unsubscribe { which } => {
                if which < self.readers.len() {
                    self.past += self.readers.swap_remove(which).accounted();
                }
            }
            Op::Receive { which } => {
                if let Some(reader) = self.readers.get_mut(which) {
                    reader.receive(kept, self.closed);
                }
            }
            Op::Handle { which, panics_at } => {
                if let Some(reader) = self.readers.get_mut(which)
                    && reader.handle(panics_at)
                {
                    self.past += self.readers.swap_remove(which).accounted();
                    self.handler_panics += 1;
                }
            }
            Op::Close => {
                self.bus.close();
                self.closed = true;
            }
        }
    }

    /// Of a full ring, how many events are kept at most and at least. The way is cleared for a stride of them, of
    /// which one is published unless the lane turns out to be closed.
    fn kept(&self) -> (u64, u64) {
        (self.capacity, self.capacity - self.stride + u64::from(!self.closed))
    }

    /// For how many events there is room for sure, and whether what comes after them fails.
    fn room(&self, lane: usize) -> (u64, bool) {
        let holding =
            self.readers.iter().filter(|reader| reader.overflow() != Overflow::DropOldest);
        let room = |reader: &Reading| self.capacity - reader.depth(lane);
        let least = holding.clone().map(room).min().unwrap_or(u64::MAX);
        let fails = holding
            .filter(|reader| room(reader) == least)
            .any(|reader| reader.overflow() == Overflow::Fail);
        (least, fails)
    }

    fn payload(&self, number: u64) -> Payload {
        Payload { number, _alive: Arc::clone(&self.alive) }
    }

    fn published(&mut self, lane: usize, topic: usize, source: u32, number: Option<u64>) -> u64 {
        let before = self.lanes[lane].published.len() as u64;
        let sequence = (SEQUENCE_MASK - BEFORE_WRAP + 1 + before) & SEQUENCE_MASK;
        let published = Published { sequence, topic, source, number };
        self.lanes[lane].published.push(published);
        for reader in &mut self.readers {
            reader.published(lane, published);
        }
        self.tombstones += u64::from(number.is_none());
        sequence
    }

    /// Whether a publisher of this kind is shut out by an exclusive one.
    fn is_shut_out(&self, lane: usize, shared: bool) -> bool {
        shared && self.lanes[lane].exclusive.is_some()
    }

    fn publish(&mut self, lane: usize, topic: usize, source: u32, shared: bool) {
        let number = self.next_number;
        self.next_number += 1;
        let (payload, on) = (self.payload(number), self.topics[topic]);
        let (full, shut_out) = (self.room(lane).0 == 0, self.is_shut_out(lane, shared));
        let (result, source) = match &mut self.lanes[lane].exclusive {
            Some(exclusive) if !shared => (exclusive.try_publish(on, payload), 0),
            _ => {
                let publisher = self.bus.publisher_to(lane as u8).expect("the lane is there");
                let publisher = publisher.with_source(Source::new(source));
                (publisher.try_publish(on, payload), source)
            }
        };
        match result {
            Ok(sequence) => {
                assert!(!self.closed && !full && !shut_out);
                assert_eq!(sequence, self.published(lane, topic, source, Some(number)));
            }
            Err(TryPublishError::Full(payload)) => {
                assert!(full && !self.closed && !shut_out);
                assert_eq!(payload.number, number);
            }
            Err(TryPublishError::Closed(_)) => assert!(self.closed),
            Err(TryPublishError::Exclusive(_)) => assert!(shut_out && !self.closed),
        }
    }

    fn batch(&mut self, lane: usize, topic: usize, count: u64, lies: u64, shared: bool) {
        let (room, fails) = self.room(lane);
        let shut_out = self.is_shut_out(lane, shared);
        // What would wait is not tried, nor a lie that would meet a failure midway.
        let whole = count + lies;
        if whole > room && (!fails || lies > 0) && !self.closed && !shut_out {
            return;
        }
        let first = self.next_number;
        self.next_number += count;
        let mut items = Saying {
            more: lies as usize,
            items: (first..first + count).map(|number| self.payload(number)).collect::<Vec<_>>(),
        };
        items.items.reverse();
        let on = self.topics[topic];
        let before = self.bus.stats().tombstones;
        let result = match &mut self.lanes[lane].exclusive {
            Some(exclusive) if !shared => exclusive.publish_batch(on, &mut items),
            _ => {
                let publisher = self.bus.publisher_to(lane as u8).expect("the lane is there");
                publisher.publish_batch(on, &mut items)
            }
        };
        let published = match result {
            Ok(published) => {
                assert!(whole == 0 || !self.closed && !shut_out);
                assert_eq!(published, count);
                published
            }
            Err(PublishBatchError::Full { published }) => {
                assert!(!self.closed && !shut_out && fails);
                assert_eq!(published, room);
                published
            }
            Err(PublishBatchError::Closed { published }) => {
                assert!(self.closed && published == 0);
                0
            }
            Err(PublishBatchError::Exclusive { published }) => {
                assert!(shut_out && published == 0);
                0
            }
        };
        assert_eq!(items.items.len() as u64, count - published, "the rest is still there");
        for number in first..first + published {
            self.published(lane, topic, 0, Some(number));
        }
        let buried = self.bus.stats().tombstones - before;
        let lied = lies > 0 && result.is_ok();
        assert!(if lied { (1..=lies).contains(&buried) } else { buried == 0 });
        for _ in 0..buried {
            self.published(lane, topic, 0, None);
        }
    }

    fn bury(&mut self, lane: usize, shared: bool) {
        let (room, fails) = self.room(lane);
        let shut_out = self.is_shut_out(lane, shared);
        if room == 0 && !fails && !self.closed && !shut_out {
            return;
        }
        let on = self.topics[0];
        let make = || panic!("a hostile maker");
        let bus = &self.bus;
        let exclusive = &mut self.lanes[lane].exclusive;
        // The hook would print each of them.
        let result = catch_unwind(AssertUnwindSafe(|| match exclusive {
            Some(exclusive) if !shared => exclusive.publish_with(on, make).map_err(drop_maker),
            _ => {
                let publisher = bus.publisher_to(lane as u8).expect("the lane is there");
                publisher.publish_with(on, make).map_err(drop_maker)
            }
        }));
        match result {
            Err(_) => {
                assert!(room > 0 && !self.closed && !shut_out);
                self.published(lane, 0, 0, None);
            }
            Ok(Err(PublishError::Full(()))) => assert!(room == 0 && fails && !self.closed),
            Ok(Err(PublishError::Closed(()))) => assert!(self.closed),
            Ok(Err(PublishError::Exclusive(()))) => assert!(shut_out && !self.closed),
            Ok(Ok(_)) => unreachable!("nothing is made"),
        }
    }

    fn subscribe(&mut self, overflow: Overflow, asks: Asks, start: From) {
        let published = &self.lanes[0].published;
        let start = match start {
            From::Now => Start::Now,
            From::Oldest => Start::Oldest,
            From::Back(back) => {
                let back = back.min(published.len() as u64);
                let next = SEQUENCE_MASK - BEFORE_WRAP + 1 + published.len() as u64;
                Start::Sequence(next.wrapping_sub(back) & SEQUENCE_MASK)
            }
        };
        let filter = asks.filter();
        match self.bus.subscribe_from(filter, overflow, start) {
            Ok(subscriber) => {
                let lanes = self.lanes.iter().map(|lane| lane.published.as_slice());
                let reading = Reading::begin(subscriber, asks, start, lanes, self.kept());
                self.readers.push(reading);
            }
            Err(_) => assert!(matches!(start, Start::Sequence(_)) && self.lanes.len() > 1),
        }
    }

    fn validate(&self) {
        for lane in self.bus.shared().lanes() {
            lane.ring.validate();
        }
        let stats = self.bus.stats();
        let published = self.lanes.iter().map(|lane| lane.published.len() as u64).sum::<u64>();
        assert_eq!((stats.published, stats.tombstones), (published, self.tombstones));
        assert_eq!(stats.handler_panics, self.handler_panics);
        assert_eq!(stats.subscribers, self.readers.len());
        assert_eq!(self.bus.is_closed(), self.closed);
        let mut accounted = self.past;
        let (mut depth, mut deepest) = (0, 0);
        for reader in &self.readers {
            reader.validate();
            accounted += reader.accounted();
            for lane in 0..self.lanes.len() {
                depth += reader.depth(lane);
                deepest = deepest.max(reader.depth(lane));
            }
        }
        assert_eq!(stats.depth_max, deepest);
        let passed = stats.delivered + stats.skipped + stats.lagged + stats.dropped;
        assert_eq!(passed + depth, accounted);
    }
}

fn drop_maker<F>(error: PublishError<F>) -> PublishError<()> {
    match error {
        PublishError::Closed(_) => PublishError::Closed(()),
        PublishError::Full(_) => PublishError::Full(()),
        PublishError::Exclusive(_) => PublishError::Exclusive(()),
    }
}

/// Payloads from the last to the first, and a length that may be a lie.
struct Saying {
    more: usize,
    items: Vec<Payload>,
}

impl Iterator for Saying {
    type Item = Payload;
    fn next(&mut self) -> Option<Payload> {
        self.items.pop()
    }
}

impl ExactSizeIterator for Saying {
    fn len(&self) -> usize {
        self.items.len() + self.more
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_bus_agrees_with_a_queue_for_each_subscription(
        capacity in prop_oneof![Just(2_usize), Just(4), Just(16), Just(32), Just(64)],
        lanes in prop_oneof![3 => Just(1_usize), 1 => Just(2), 1 => Just(3)],
        ops in proptest::collection::vec(op(), 1..300),
    ) {
        let mut world = World::new(capacity, lanes);
        for op in &ops {
            world.apply(op);
            world.validate();
        }
        let alive = Arc::clone(&world.alive);
        drop(world);
        prop_assert_eq!(Arc::strong_count(&alive), 1, "a payload was leaked or dropped twice");
    }
}

/// Threads on both sides while the sequence wraps, and the laps of the headers with it.
#[test]
fn threads_publish_and_read_across_the_wrap_of_the_sequence() {
    const EVENTS: u64 = 3_000;
    for capacity in [2_usize, 4, 64] {
        let start = (SEQUENCE_MASK - EVENTS + 1) & SEQUENCE_MASK;
        let shape = Shape { start: Position::from_sequence(start), ..Shape::new(capacity) };
        let bus = EventBus::builder().shape(shape).build().expect("valid");
        let topic = bus.topic("t").expect("valid");
        let readers = [Overflow::Block, Overflow::DropOldest, Overflow::Block]
            .map(|overflow| bus.subscribe(Filter::all(), overflow));
        std::thread::scope(|scope| {
            for mut reader in readers {
                scope.spawn(move || {
                    let (mut next, mut of_each) = (start, [0, 0]);
                    while next != EVENTS {
                        match reader.recv() {
                            Ok(event) => {
                                let (publisher, number): (usize, u64) = event.payload;
                                assert_eq!(event.sequence, next);
                                assert!(number >= of_each[publisher], "out of order");
                                of_each[publisher] = number + 1;
                                next = (next + 1) & SEQUENCE_MASK;
                            }
                            Err(RecvError::Lagged { missed, from, .. }) => {
                                assert_eq!(from, next);
                                next = next.wrapping_add(missed) & SEQUENCE_MASK;
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                    let stats = reader.stats();
                    assert_eq!(stats.delivered + stats.lagged, 2 * EVENTS);
                });
            }
            for publisher in 0..2 {
                let handle = bus.publisher();
                scope.spawn(move || {
                    for number in 0..EVENTS {
                        handle.publish(topic, (publisher, number)).expect("open");
                    }
                });
            }
        });
        bus.shared().lanes()[0].ring.validate();
    }
}
