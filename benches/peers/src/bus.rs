//! The event bus beside its peers: 64-byte events, nobody loses any.

use std::hint;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use crossbeam::queue::ArrayQueue;
use disruptor::{Producer, Sequence};
use phalanx::bus::{EventBus, Filter};
use serde_json::{Map, Value, json};

use crate::measure::{Contestant, Sample, measure};
use crate::row::{OURS, Row, Spec, Time, Unit};
use crate::{RowFn, Settings};

pub const ROWS: &[RowFn] = &[one_to_one_shared];

/// Events in a unit of work.
const EVENTS: u64 = 1_000_000;
/// The ring of the peers, the size at which they were fastest; ours has the one it comes with.
const PEER_RING: usize = 65_536;

type Event = [u64; 8];

fn event(number: u64) -> Event {
    [number, number ^ 1, number ^ 2, number ^ 3, number ^ 4, number ^ 5, number ^ 6, number ^ 7]
}

/// Folds a received event in. Order counts, and so do all of its words.
#[inline]
fn fold(sum: u64, event: &Event) -> u64 {
    let words = event.iter().fold(0_u64, |sum, word| sum.wrapping_add(*word));
    sum.wrapping_mul(31).wrapping_add(words)
}

/// What one reader has received so far.
#[derive(Clone, Copy, Default)]
struct Received {
    count: u64,
    sum: u64,
    /// Of the first unit; of all of them if they were equal.
    unit: u64,
}

impl Received {
    #[inline]
    fn event(&mut self, event: &Event) {
        self.sum = fold(self.sum, event);
        self.count += 1;
        if self.count.is_multiple_of(EVENTS) {
            if self.count == EVENTS {
                self.unit = self.sum;
            } else if self.unit != self.sum {
                self.unit = u64::MAX;
            }
            self.sum = 0;
        }
    }
}

/// Runs a reader and a publisher from the moment that both are there until the reader has everything.
fn race(
    units: u64,
    publish: impl FnOnce(u64),
    read: impl FnOnce(u64) -> Received + Send,
) -> Sample {
    let events = units * EVENTS;
    let ready = Barrier::new(2);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            ready.wait();
            read(events)
        });
        ready.wait();
        let start = Instant::now();
        publish(events);
        let received = reader.join().expect("a reader does not panic");
        sample(start, events, received)
    })
}

fn sample(start: Instant, events: u64, received: Received) -> Sample {
    let elapsed = start.elapsed();
    assert_eq!(received.count, events, "events were lost");
    Sample { elapsed, operations: events, checksum: Some(received.unit) }
}

fn work() -> Map<String, Value> {
    let Value::Object(work) = json!({
        "event_bytes": size_of::<Event>(), "events_a_unit": EVENTS, "publishers": 1, "readers": 1,
        "peer_ring": PEER_RING,
    }) else {
        return Map::new();
    };
    work
}

/// Waits by giving the processor up: the strategy that does not collapse on few cores.
#[derive(Clone, Copy)]
struct Yield;

impl disruptor::wait_strategies::WaitStrategy for Yield {
    fn wait_for(&self, _sequence: Sequence) {
        thread::yield_now();
    }
}

fn one_to_one_shared(settings: &Settings) -> Row {
    let spec = Spec {
        part: "bus",
        id: "1to1-shared",
        what: "one shared publisher, one reader that loses nothing, 64-byte events one at a time",
        unit: Unit::PerSecond,
        time: Time::Wall,
        work: work(),
        targets: &[("disruptor-yield-multi", 1.3)],
    };
    measure(
        settings,
        spec,
        vec![
            Contestant::timed(OURS, ours),
            Contestant::timed("disruptor-yield-multi", disruptor_yield_multi),
            Contestant::timed("array-queue", array_queue),
            Contestant::timed("crossbeam", crossbeam_channel),
        ],
    )
}

fn ours(units: u64) -> Sample {
    let bus = EventBus::<Event>::builder().build().expect("the defaults are valid");
    let topic = bus.topic("events").expect("the name is valid");
    let publisher = bus.publisher();
    let mut subscriber = bus.subscribe_in_place(Filter::all());
    race(
        units,
        |events| {
            for number in 0..events {
                publisher.publish(topic, event(number % EVENTS)).expect("the bus is open");
            }
        },
        |events| {
            let mut received = Received::default();
            while received.count < events {
                subscriber
                    .for_each_batch(|event| received.event(event.payload))
                    .expect("the bus is open");
            }
            received
        },
    )
}

fn disruptor_yield_multi(units: u64) -> Sample {
    let events = units * EVENTS;
    let (done, result) = std::sync::mpsc::channel();
    let mut received = Received::default();
    let mut producer = disruptor::build_multi_producer(PEER_RING, || [0; 8], Yield)
        .handle_events_with(move |event: &Event, _: Sequence, _: bool| {
            received.event(event);
            if received.count == events {
                // The main thread is gone only if it panicked.
                let _ = done.send(received);
            }
        })
        .build();
    let start = Instant::now();
    for number in 0..events {
        producer.publish(|slot| *slot = event(number % EVENTS));
    }
    let received = result.recv().expect("the handler ends with the last event");
    sample(start, events, received)
}

fn array_queue(units: u64) -> Sample {
    let queue = ArrayQueue::<Event>::new(PEER_RING);
    race(
        units,
        |events| {
            for number in 0..events {
                let mut event = event(number % EVENTS);
                while let Err(back) = queue.push(event) {
                    event = back;
                    pause();
                }
            }
        },
        |events| {
            let mut received = Received::default();
            while received.count < events {
                match queue.pop() {
                    Some(event) => received.event(&event),
                    None => pause(),
                }
            }
            received
        },
    )
}

fn crossbeam_channel(units: u64) -> Sample {
    let (sender, receiver) = crossbeam::channel::bounded::<Event>(PEER_RING);
    race(
        units,
        |events| {
            for number in 0..events {
                sender.send(event(number % EVENTS)).expect("the receiver is there");
            }
        },
        |events| {
            let mut received = Received::default();
            while received.count < events {
                received.event(&receiver.recv().expect("the sender is there"));
            }
            received
        },
    )
}

/// What a queue without a wait of its own does when it is full or empty: as the disruptor above.
fn pause() {
    hint::spin_loop();
    thread::yield_now();
}
