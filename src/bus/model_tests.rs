//! The bus against a naive oracle: a queue for each subscription, of everything published since it began.
//!
//! Every run starts a few events before the counters wrap.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;

use super::position::Position;
use super::ring::Shape;
use super::{EventBus, Filter, Overflow, Subscriber, Topic, TryPublishError, TryRecvError};

const TOPICS: usize = 3;
/// How many events before the wrap a run starts.
const BEFORE_WRAP: u64 = 20;
const SEQUENCE_MASK: u64 = (1 << 62) - 1;

#[derive(Clone, Debug)]
enum Op {
    Publish { topic: usize },
    Subscribe { drop_oldest: bool, topic: Option<usize> },
    Unsubscribe { which: usize },
    Receive { which: usize },
    Batch { which: usize },
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    let which = 0..8_usize;
    prop_oneof![
        20 => (0..TOPICS).prop_map(|topic| Op::Publish { topic }),
        2 => (any::<bool>(), proptest::option::of(0..TOPICS))
            .prop_map(|(drop_oldest, topic)| Op::Subscribe { drop_oldest, topic }),
        1 => which.clone().prop_map(|which| Op::Unsubscribe { which }),
        10 => which.clone().prop_map(|which| Op::Receive { which }),
        3 => which.prop_map(|which| Op::Batch { which }),
        1 => Just(Op::Close),
    ]
}

/// A payload that shows whether it was dropped once.
#[derive(Clone, Debug)]
struct Payload {
    number: u64,
    _alive: Arc<()>,
}

#[derive(Clone, Copy, Debug)]
struct Published {
    sequence: u64,
    topic: usize,
    number: u64,
}

struct Reader {
    subscriber: Subscriber<Payload>,
    topic: Option<usize>,
    /// All that was published since it began and not yet passed.
    pending: VecDeque<Published>,
    /// Passed so far: received, skipped, lost.
    passed: u64,
    joined_at: u64,
}

struct World {
    bus: EventBus<Payload>,
    topics: Vec<Topic>,
    readers: Vec<Reader>,
    alive: Arc<()>,
    published: u64,
    closed: bool,
    capacity: u64,
    stride: u64,
}

impl World {
    fn new(capacity: usize) -> Self {
        let shape = Shape {
            start: Position::from_sequence(SEQUENCE_MASK - BEFORE_WRAP + 1),
            ..Shape::new(capacity)
        };
        let bus = EventBus::builder().shape(shape).build().expect("valid");
        Self {
            topics: (0..TOPICS).map(|i| bus.topic(&format!("t/{i}")).expect("valid")).collect(),
            bus,
            readers: Vec::new(),
            alive: Arc::new(()),
            published: 0,
            closed: false,
            capacity: capacity as u64,
            stride: shape.stride,
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Publish { topic } => self.publish(topic),
            Op::Subscribe { drop_oldest, topic } => {
                let filter = match topic {
                    None => Filter::all(),
                    Some(topic) => Filter::topics([format!("t/{topic}")]).expect("valid"),
                };
                let overflow = if drop_oldest { Overflow::DropOldest } else { Overflow::Block };
                self.readers.push(Reader {
                    subscriber: self.bus.subscribe(filter, overflow),
                    topic,
                    pending: VecDeque::new(),
                    passed: 0,
                    joined_at: self.published,
                });
            }
            Op::Unsubscribe { which } => {
                if which < self.readers.len() {
                    self.readers.swap_remove(which);
                }
            }
            Op::Receive { which } => {
                let world = (self.capacity, self.stride, self.closed);
                if let Some(reader) = self.readers.get_mut(which) {
                    reader.receive(world);
                }
            }
            Op::Batch { which } => {
                if let Some(reader) = self.readers.get_mut(which) {
                    reader.batch();
                }
            }
            Op::Close => {
                self.bus.close();
                self.closed = true;
            }
        }
    }

    fn publish(&mut self, topic: usize) {
        let full = self.readers.iter().any(|reader| {
            reader.subscriber.overflow() == Overflow::Block
                && reader.pending.len() as u64 == self.capacity
        });
        let number = self.published;
        let payload = Payload { number, _alive: Arc::clone(&self.alive) };
        match self.bus.publisher().try_publish(self.topics[topic], payload) {
            Ok(sequence) => {
                assert!(!self.closed && !full);
                let expected = (SEQUENCE_MASK - BEFORE_WRAP + 1 + number) & SEQUENCE_MASK;
                assert_eq!(sequence, expected);
                self.published += 1;
                for reader in &mut self.readers {
                    reader.pending.push_back(Published { sequence, topic, number });
                }
            }
            Err(TryPublishError::Full(payload)) => {
                assert!(full && !self.closed);
                assert_eq!(payload.number, number);
            }
            Err(TryPublishError::Closed(_)) => assert!(self.closed),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn validate(&self) {
        self.bus.shared().lanes()[0].ring.validate();
        let stats = self.bus.stats();
        assert_eq!(stats.published, self.published);
        assert_eq!(stats.subscribers, self.readers.len());
        let deepest = self.readers.iter().map(|reader| reader.pending.len()).max();
        assert_eq!(stats.depth_max, deepest.unwrap_or(0) as u64);
        assert_eq!(self.bus.is_closed(), self.closed);
        for reader in &self.readers {
            let stats = reader.subscriber.stats();
            assert_eq!(stats.delivered + stats.skipped + stats.lagged, reader.passed);
            assert_eq!(stats.depth, reader.pending.len() as u64);
            assert_eq!(reader.passed + stats.depth, self.published - reader.joined_at);
        }
    }
}

impl Reader {
    fn matches(&self, published: Published) -> bool {
        self.topic.is_none_or(|topic| topic == published.topic)
    }

    fn pass(&mut self) -> Published {
        self.passed += 1;
        self.pending.pop_front().expect("the bus delivers only what was published")
    }

    fn pass_what_does_not_match(&mut self) {
        while self.pending.front().is_some_and(|&front| !self.matches(front)) {
            self.pass();
        }
    }

    /// The losses that the policy allows: none within a ring less a stride, all beyond a ring.
    fn lose(&mut self, missed: u64, from: u64, capacity: u64, stride: u64) {
        assert_eq!(self.subscriber.overflow(), Overflow::DropOldest);
        assert_eq!(from, self.pending.front().expect("something to lose").sequence);
        assert!(missed > 0);
        for _ in 0..missed {
            self.pass();
        }
        let left = self.pending.len() as u64;
        assert!(left <= capacity && left > capacity - stride, "{left} of {capacity} are left");
    }

    fn receive(&mut self, (capacity, stride, closed): (u64, u64, bool)) {
        match self.subscriber.try_recv() {
            Ok(event) => {
                self.pass_what_does_not_match();
                let expected = self.pass();
                assert_eq!(event.sequence, expected.sequence);
                assert_eq!(event.payload.number, expected.number);
            }
            Err(TryRecvError::Lagged { missed, from, .. }) => {
                self.lose(missed, from, capacity, stride);
            }
            Err(end) => {
                assert!(self.pending.len() as u64 <= capacity, "a loss was not reported");
                let had_some = !self.pending.is_empty();
                self.pass_what_does_not_match();
                assert!(self.pending.is_empty(), "an event was withheld");
                match end {
                    TryRecvError::Closed => assert!(closed),
                    _ => assert!(!closed || had_some),
                }
            }
        }
    }

    fn batch(&mut self) {
        let mut seen = Vec::new();
        let handled = self
            .subscriber
            .try_for_each_batch(|event| seen.push((event.sequence, event.payload.number)));
        match handled {
            Ok(handled) => assert_eq!(handled, seen.len() as u64),
            Err(TryRecvError::Lagged { missed, .. }) => {
                for _ in 0..missed {
                    self.pass();
                }
            }
            Err(_) => {}
        }
        for (sequence, number) in seen {
            self.pass_what_does_not_match();
            let expected = self.pass();
            assert_eq!((sequence, number), (expected.sequence, expected.number));
        }
        // How much of what does not match a batch passes is its own affair; the counters say.
        let stats = self.subscriber.stats();
        while self.passed < stats.delivered + stats.skipped + stats.lagged {
            let passed = self.pass();
            assert!(!self.matches(passed), "a matching event was skipped");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_bus_agrees_with_a_queue_for_each_subscription(
        capacity in prop_oneof![Just(2_usize), Just(4), Just(16), Just(32), Just(64)],
        ops in proptest::collection::vec(op(), 1..300),
    ) {
        let mut world = World::new(capacity);
        for op in &ops {
            world.apply(op);
            world.validate();
        }
        let alive = Arc::clone(&world.alive);
        drop(world);
        prop_assert_eq!(Arc::strong_count(&alive), 1, "a payload was leaked or dropped twice");
    }
}
