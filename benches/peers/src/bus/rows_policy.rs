//! The rows in which readers do not all receive everything: for their own topics, asleep, uninterested, or not
//! there at all; and the one with more of them than cores.

use std::hint::black_box;
use std::time::Instant;

use phalanx::bus::{EventBus, Filter, Overflow, RecvError, Subscriber, Topic, TryRecvError};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast;

use super::Lineup;
use super::ours;
use super::payload::{Event, Payload, Received};
use super::peers_broadcast::{async_broadcast, bus, multiqueue2, tokio_broadcast};
use super::peers_channel::{
    array_queue, crossbeam, crossfire_spsc, flume, kanal, one, rtrb, thingbuf,
};
use super::peers_ring::{Yield, single, sleep};
use super::race::{Publish, Read, Shape, sample, together};
use crate::Settings;
use crate::measure::{Contestant, Sample};
use crate::row::{OURS, Row};

const EVENT_BYTES: usize = size_of::<Event>();

// Topics.

const TOPICS: u64 = 16;
const QUARTERS: u64 = 4;

fn topic_of(number: u64) -> u64 {
    number % TOPICS
}

/// The reader whose topic it is.
fn quarter_of(number: u64) -> u64 {
    topic_of(number) / (TOPICS / QUARTERS)
}

/// Whether a reader is handed the events of its topics, or all of them.
#[derive(Clone, Copy)]
enum Handed {
    Own,
    All,
}

pub fn topics_one_to_four(settings: &Settings) -> Row {
    let routed = Handed::Own;
    let mut work = Shape::new(1, 4).work(EVENT_BYTES);
    work.insert("topics".to_owned(), json!(TOPICS));
    work.insert("peers_of_one_ring".to_owned(), json!("hand all to each, who discards"));
    work.insert("peers_x4".to_owned(), json!("the publisher picks the queue of the one reader"));
    Lineup::of(settings, by_topic(OURS, Handed::Own, ours_by_topic))
        .and(by_topic("disruptor-yield", Handed::All, all(single(Yield))))
        .and(by_topic("disruptor-sleep", Handed::All, all(single(sleep()))))
        .and(by_topic("multiqueue2", Handed::All, all(multiqueue2)))
        .and(by_topic("rtrb-x4", routed, route(one(rtrb))))
        .and(by_topic("array-queue-x4", routed, route(one(array_queue))))
        .and(by_topic("crossfire-x4", routed, route(one(crossfire_spsc))))
        .and(by_topic("crossbeam-x4", routed, route(one(crossbeam))))
        .and(by_topic("thingbuf-x4", routed, route(one(thingbuf))))
        .and(by_topic("multiqueue2-x4", routed, route(multiqueue2)))
        .beside(by_topic("tokio-broadcast-x4", routed, route(tokio_broadcast)))
        .beside(by_topic("kanal-x4", routed, route(one(kanal))))
        .beside(by_topic("flume-x4", routed, route(one(flume))))
        .beside(by_topic("bus-x4", routed, route(bus)))
        .beside(by_topic("async-broadcast-x4", routed, route(async_broadcast)))
        .measure(
            "topics-1to4",
            "one exclusive publisher to 16 topics, four readers of four topics each",
            work,
            &[("best", 2.0)],
        )
}

fn by_topic<P: Publish<Event>, R: Read<Event>>(
    name: &'static str,
    handed: Handed,
    open: impl Fn() -> (P, Vec<R>) + 'static,
) -> Contestant<'static> {
    let shape = Shape::new(1, QUARTERS as usize);
    let mut expected = [Received::default(); QUARTERS as usize];
    for number in 0..shape.unit() {
        expected[quarter_of(number) as usize].event(&Event::new(number));
    }
    Contestant::timed(name, move |units| {
        let (mut publisher, readers) = open();
        let publish = move || {
            for _ in 0..units {
                (0..shape.unit()).for_each(|number| publisher.publish(Event::new(number)));
            }
        };
        let readers = (0..QUARTERS).zip(readers).map(|(quarter, mut reader)| {
            move || {
                let mut received = Received::default();
                match handed {
                    Handed::Own => {
                        let own = units * shape.unit() / QUARTERS;
                        while received.count < own {
                            reader.read(|event| received.event(event));
                        }
                    }
                    Handed::All => {
                        let mut passed = 0;
                        while passed < units * shape.unit() {
                            reader.read(|event| {
                                passed += 1;
                                if quarter_of(event[0]) == quarter {
                                    received.event(event);
                                }
                            });
                        }
                    }
                }
                received
            }
        });
        let (elapsed, received) = together(vec![publish], readers.collect());
        let checksum = received
            .iter()
            .zip(&expected)
            .fold(0_u64, |sum, (one, unit)| sum.wrapping_mul(31) ^ one.of_one(units, *unit));
        Sample::new(elapsed, units * shape.unit(), Some(checksum))
    })
}

/// One ring, of which every reader is handed everything.
fn all<P, R>(open: impl Fn(usize, usize) -> (Vec<P>, Vec<R>)) -> impl Fn() -> (P, Vec<R>) {
    move || {
        let (mut publishers, readers) = open(1, QUARTERS as usize);
        (publishers.remove(0), readers)
    }
}

/// A queue for each reader, to one of which an event goes.
struct Routes<P>(Vec<P>);

impl<P: Publish<Event>> Publish<Event> for Routes<P> {
    #[inline(always)]
    fn publish(&mut self, event: Event) {
        self.0[quarter_of(event[0]) as usize].publish(event);
    }
}

fn route<P, R>(
    open: impl Fn(usize, usize) -> (Vec<P>, Vec<R>),
) -> impl Fn() -> (Routes<P>, Vec<R>) {
    move || {
        let (mut routes, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..QUARTERS {
            let (publishers, readers) = open(1, 1);
            routes.extend(publishers);
            ends.extend(readers);
        }
        (Routes(routes), ends)
    }
}

struct ByTopic {
    publisher: ours::Exclusive<Event>,
    topics: Vec<Topic>,
}

impl Publish<Event> for ByTopic {
    #[inline(always)]
    fn publish(&mut self, event: Event) {
        let topic = self.topics[topic_of(event[0]) as usize];
        self.publisher.publish_to(topic, event);
    }
}

fn ours_by_topic() -> (ByTopic, Vec<ours::InPlace<Event>>) {
    let (bus, topic) = ours::bus();
    let name = |number| format!("quarter-{}/topic-{number}", quarter_of(number));
    let topics =
        (0..TOPICS).map(|number| bus.topic(&name(number)).expect("the name is valid")).collect();
    let readers = (0..QUARTERS)
        .map(|quarter| {
            let filter = Filter::topics([format!("quarter-{quarter}/*")]).expect("it is valid");
            ours::InPlace(bus.subscribe_in_place(filter))
        })
        .collect();
    (ByTopic { publisher: ours::exclusive_publisher(&bus, topic), topics }, readers)
}

// Drop-oldest.

pub fn stalled_reader(settings: &Settings) -> Row {
    Lineup::of(settings, drop_oldest(OURS, 3, true))
        .and(drop_oldest("self-1to4", 4, false))
        .measure(
            "stalled-reader",
            "one exclusive publisher, four drop-oldest readers, one of them asleep",
            Shape::new(1, 4).work(EVENT_BYTES),
            &[("self-1to4", 0.8)],
        )
}

/// What a drop-oldest reader has passed.
#[derive(Default)]
struct Passed {
    received: u64,
    lagged: u64,
    /// Events that were not where what was received and lost before says.
    misplaced: u64,
}

impl Passed {
    fn all(&self) -> u64 {
        self.received + self.lagged
    }

    fn event(&mut self, event: &Event, unit: u64) {
        self.misplaced += u64::from(event[0] != self.all() & (unit - 1));
        let mut fold = Received::default();
        fold.event(event);
        black_box(fold.sum);
        self.received += 1;
    }
}

/// `awake` readers that read all the while, and perhaps one that begins when they have ended.
fn drop_oldest(name: &'static str, awake: usize, asleep: bool) -> Contestant<'static> {
    let unit = Shape::new(1, 4).unit();
    Contestant::timed(name, move |units| {
        let (bus, topic) = ours::bus::<Event>();
        let events = units * unit;
        let mut publisher = ours::exclusive_publisher(&bus, topic);
        let subscribe = |_| bus.subscribe(Filter::all(), Overflow::DropOldest);
        let sleeper = asleep.then(|| subscribe(0));
        let publish = move || {
            for _ in 0..units {
                (0..unit).for_each(|number| publisher.publish(Event::new(number)));
            }
        };
        let readers =
            (0..awake).map(subscribe).map(|reader| move || read_lossy(reader, events, unit));
        let (elapsed, mut passed) = together(vec![publish], readers.collect());
        passed.extend(sleeper.map(|sleeper| read_lossy(sleeper, events, unit)));
        for one in &passed {
            assert_eq!(one.misplaced, 0, "a lag was not what was lost");
            assert_eq!(one.all(), events, "what was lagged and seen is what was published");
        }
        // What each has accounted for.
        Sample::new(elapsed, events, Some(passed[0].all() / units))
    })
}

fn read_lossy(mut reader: Subscriber<Event>, events: u64, unit: u64) -> Passed {
    let mut passed = Passed::default();
    while passed.all() < events {
        match reader.for_each_batch(|event| passed.event(event.payload, unit)) {
            Ok(_) => {}
            Err(RecvError::Lagged { missed, .. }) => passed.lagged += missed,
            Err(error) => panic!("the bus is open: {error}"),
        }
    }
    // Nothing more, and no lag that was not told.
    let more = reader.try_for_each_batch(|_| passed.misplaced += 1);
    assert!(
        matches!(more, Err(TryRecvError::Empty | TryRecvError::Closed)),
        "all was accounted for: {more:?}"
    );
    passed
}

// More readers than cores.

pub fn oversubscribed(settings: &Settings) -> Row {
    let mut work = Shape::new(1, 8).work(EVENT_BYTES);
    work.insert("operations".to_owned(), json!("events that a reader was handed"));
    Lineup::of(settings, deliveries(OURS, 8, ours::exclusive))
        .and(deliveries("self-2-readers", 2, ours::exclusive))
        .beside(deliveries("disruptor-yield", 8, single(Yield)))
        .beside(deliveries("disruptor-sleep", 8, single(sleep())))
        .beside(deliveries("multiqueue2", 8, multiqueue2))
        .beside(deliveries("tokio-broadcast", 8, tokio_broadcast))
        .measure(
            "oversubscribed",
            "one exclusive publisher, each event to eight busy readers; deliveries",
            work,
            &[("self-2-readers", 0.5)],
        )
}

fn deliveries<P: Publish<Event>, R: Read<Event>>(
    name: &'static str,
    readers: usize,
    open: impl Fn(usize, usize) -> (Vec<P>, Vec<R>) + 'static,
) -> Contestant<'static> {
    let shape = Shape::new(1, readers);
    let unit = shape.received::<Event>();
    Contestant::timed(name, move |units| {
        let sample = sample(shape, unit, units, &open);
        Sample { operations: sample.operations * readers as u64, ..sample }
    })
}

// Nobody there.

pub fn zero_subscribers(settings: &Settings) -> Row {
    Lineup::of(
        settings,
        unheard(OURS, || {
            let (bus, topic) = ours::bus::<Event>();
            let mut publisher = ours::exclusive_publisher(&bus, topic);
            move |event| publisher.publish(event)
        }),
    )
    .and(unheard("tokio-broadcast", || {
        let sender = broadcast::Sender::new(super::race::PEER_RING);
        // It hands the event back, as nobody is there.
        move |event| {
            let _ = black_box(sender.send(event));
        }
    }))
    .beside(unheard("async-broadcast", || {
        let (sender, reader) = ::async_broadcast::broadcast(super::race::PEER_RING);
        // As long as this is there it does not count as closed.
        let inactive = reader.deactivate();
        move |event| {
            let _ = &inactive;
            let _ = black_box(sender.try_broadcast(event));
        }
    }))
    .measure(
        "zero-subscribers",
        "one exclusive publisher, nobody subscribed",
        Shape::new(1, 0).work(EVENT_BYTES),
        &[("tokio-broadcast", 3.0)],
    )
}

fn unheard<F: FnMut(Event)>(
    name: &'static str,
    open: impl Fn() -> F + 'static,
) -> Contestant<'static> {
    let unit = Shape::new(1, 0).unit();
    Contestant::timed(name, move |units| {
        let mut publish = open();
        let start = Instant::now();
        for _ in 0..units {
            (0..unit).for_each(|number| publish(Event::new(black_box(number))));
        }
        Sample::new(start.elapsed(), units * unit, None)
    })
}

// Nobody interested.

pub fn no_match(settings: &Settings) -> Row {
    Lineup::of(settings, Contestant::timed(OURS, ours_no_match))
        .and(discarding("tokio-broadcast", tokio_broadcast))
        .beside(discarding("disruptor-yield", single(Yield)))
        .beside(discarding("disruptor-sleep", single(sleep())))
        .beside(discarding("multiqueue2", multiqueue2))
        .measure(
            "no-match",
            "one exclusive publisher, four readers for none of which it is; peers hand on and discard",
            no_match_work(),
            &[("tokio-broadcast", 2.0)],
        )
}

fn no_match_work() -> Map<String, Value> {
    let mut work = Shape::new(1, 4).work(EVENT_BYTES);
    work.insert("checksum_of".to_owned(), json!("events that each reader has passed in a unit"));
    work
}

fn ours_no_match(units: u64) -> Sample {
    let shape = Shape::new(1, 4);
    let (bus, topic) = ours::bus::<Event>();
    let readers: Vec<_> = (0..shape.readers)
        .map(|_| {
            let filter = Filter::topics(["elsewhere/**"]).expect("it is valid");
            let mut reader = bus.subscribe_in_place(filter);
            move || {
                let end = reader.for_each_batch(|event| panic!("not for this reader: {event:?}"));
                assert_eq!(end, Err(RecvError::Closed));
                reader.stats().skipped
            }
        })
        .collect();
    let publish = publish_and_close(bus, topic, units * shape.unit());
    let (elapsed, passed) = together(vec![publish], readers);
    agreed(elapsed, units, &passed)
}

/// Ends the bus, so that readers who wait for what never comes get to know.
fn publish_and_close(bus: EventBus<Event>, topic: Topic, events: u64) -> impl FnOnce() + Send {
    let mut publisher = ours::exclusive_publisher(&bus, topic);
    move || {
        (0..events).for_each(|number| publisher.publish(Event::new(number)));
        bus.close();
    }
}

fn discarding<P: Publish<Event>, R: Read<Event>>(
    name: &'static str,
    open: impl Fn(usize, usize) -> (Vec<P>, Vec<R>) + 'static,
) -> Contestant<'static> {
    let shape = Shape::new(1, 4);
    Contestant::timed(name, move |units| {
        let events = units * shape.unit();
        let (publishers, readers) = open(shape.publishers, shape.readers);
        let publishers = publishers.into_iter().map(|mut publisher| {
            move || (0..events).for_each(|number| publisher.publish(Event::new(number)))
        });
        let readers = readers.into_iter().map(|mut reader| {
            move || {
                let (mut passed, mut matching) = (0, 0_u64);
                while passed < events {
                    reader.read(|event| {
                        passed += 1;
                        matching += u64::from(event[0] == u64::MAX);
                    });
                }
                assert_eq!(matching, 0);
                passed
            }
        });
        let (elapsed, passed) = together(publishers.collect(), readers.collect());
        agreed(elapsed, units, &passed)
    })
}

/// A sample in which every reader has passed every event.
fn agreed(elapsed: std::time::Duration, units: u64, passed: &[u64]) -> Sample {
    let events = units * Shape::new(1, 4).unit();
    assert!(passed.iter().all(|passed| *passed == events), "readers passed {passed:?}");
    Sample::new(elapsed, events, Some(passed[0] / units))
}
