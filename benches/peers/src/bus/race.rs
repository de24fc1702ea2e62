//! One race: so many publishers, so many readers that lose nothing, from the moment that all are there until
//! every reader has everything. Making the threads is not measured; waking them is.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::payload::{Payload, Received};
use crate::measure::{Contestant, Sample};

/// The ring of the peers, the size at which they were fastest; ours has the one it comes with.
pub const PEER_RING: usize = 65_536;

/// Enough for any of the threads, of which there may be a thousand.
const STACK_BYTES: usize = 256 << 10;

/// The end at which one thread publishes.
pub trait Publish<E>: Send {
    /// Publishes one event; waits while there is no room.
    fn publish(&mut self, event: E);

    /// Publishes some events at once, by the means that the contestant has for that.
    fn publish_batch(&mut self, events: impl ExactSizeIterator<Item = E>) {
        events.for_each(|event| self.publish(event));
    }
}

/// The end at which one thread reads.
pub trait Read<E>: Send {
    /// Hands on what is there, at least one event; waits for the first.
    fn read(&mut self, each: impl FnMut(&E));
}

/// Who takes part, and what is done.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub publishers: usize,
    pub readers: usize,
    /// What each publisher publishes in a unit; with one publisher a power of two.
    pub each: u64,
    /// How many events are published at once; one by one if `None`.
    pub batch: Option<usize>,
}

impl Shape {
    pub fn new(publishers: usize, readers: usize) -> Self {
        // About 65,536 events a unit.
        let each = (1_u64 << 16) / publishers as u64;
        Self { publishers, readers, each, batch: None }
    }

    pub fn in_batches(self, batch: usize) -> Self {
        let each = self.each.next_multiple_of(batch as u64);
        Self { each, batch: Some(batch), ..self }
    }

    /// Events in a unit.
    pub fn unit(self) -> u64 {
        self.each * self.publishers as u64
    }

    pub fn work(self, event_bytes: usize) -> Map<String, Value> {
        let Value::Object(work) = json!({
            "event_bytes": event_bytes,
            "events_a_unit": self.unit(),
            "publishers": self.publishers,
            "readers": self.readers,
            "batch": self.batch.unwrap_or(1),
            "peer_ring": PEER_RING,
        }) else {
            return Map::new();
        };
        work
    }

    /// What a reader of everything has received after one unit.
    pub fn received<E: Payload>(self) -> Received {
        let mut received = Received::default();
        (0..self.unit()).for_each(|number| received.event(&E::new(number)));
        received
    }
}

/// A contestant; `open` makes the ends of the publishers and readers.
pub fn contestant<E, P, R>(
    name: &'static str,
    shape: Shape,
    open: impl Fn(usize, usize) -> (Vec<P>, Vec<R>) + 'static,
) -> Contestant<'static>
where
    E: Payload,
    P: Publish<E>,
    R: Read<E>,
{
    let unit = shape.received::<E>();
    Contestant::timed(name, move |units| sample(shape, unit, units, &open))
}

/// One sample of so many units, in one of which a reader receives `unit`.
pub fn sample<E, P, R>(
    shape: Shape,
    unit: Received,
    units: u64,
    open: &impl Fn(usize, usize) -> (Vec<P>, Vec<R>),
) -> Sample
where
    E: Payload,
    P: Publish<E>,
    R: Read<E>,
{
    let (publishers, readers) = open(shape.publishers, shape.readers);
    let (elapsed, received) = run(shape, units, publishers, readers);
    for one in &received[1..] {
        assert_eq!(*one, received[0], "the readers do not agree");
    }
    Sample::new(elapsed, units * shape.unit(), Some(received[0].of_one(units, unit)))
}

fn run<E, P, R>(
    shape: Shape,
    units: u64,
    publishers: Vec<P>,
    readers: Vec<R>,
) -> (Duration, Vec<Received>)
where
    E: Payload,
    P: Publish<E>,
    R: Read<E>,
{
    let events = units * shape.unit();
    let readers = readers.into_iter().map(|mut reader| {
        move || {
            let mut received = Received::default();
            if shape.publishers == 1 {
                while received.count < events {
                    reader.read(|event| received.next(event, shape.unit()));
                }
            } else {
                while received.count < events {
                    reader.read(|event| received.event(event));
                }
            }
            received
        }
    });
    let publishers = (0_u64..).zip(publishers).map(|(at, mut publisher)| {
        move || {
            let first = at * shape.each;
            for _ in 0..units {
                match shape.batch {
                    None => {
                        for number in first..first + shape.each {
                            publisher.publish(E::new(number));
                        }
                    }
                    Some(batch) => {
                        for start in (first..first + shape.each).step_by(batch) {
                            // Of a `usize` range: only those know how many they are.
                            publisher.publish_batch((0..batch).map(|n| E::new(start + n as u64)));
                        }
                    }
                }
            }
        }
    });
    together(publishers.collect(), readers.collect())
}

/// Runs all of them at the same time; says how long it took the last one, and what the readers returned.
pub fn together<T: Send>(
    publishers: Vec<impl FnOnce() + Send>,
    readers: Vec<impl FnOnce() -> T + Send>,
) -> (Duration, Vec<T>) {
    let gate = Gate::default();
    thread::scope(|scope| {
        let gate = &gate;
        let (readers_len, publishers_len) = (readers.len(), publishers.len());
        let readers: Vec<_> = readers
            .into_iter()
            .map(|read| {
                let run = move || {
                    gate.pass();
                    read()
                };
                builder().spawn_scoped(scope, run).expect("there are threads enough")
            })
            .collect();
        let publishers: Vec<_> = publishers
            .into_iter()
            .map(|publish| {
                let run = move || {
                    gate.pass();
                    publish();
                };
                builder().spawn_scoped(scope, run).expect("there are threads enough")
            })
            .collect();
        gate.wait_for(readers_len + publishers_len);
        let start = Instant::now();
        let threads = readers.iter().map(|reader| reader.thread());
        gate.open(threads.chain(publishers.iter().map(|publisher| publisher.thread())));
        for publisher in publishers {
            publisher.join().expect("a publisher does not panic");
        }
        let read: Vec<_> = readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader does not panic"))
            .collect();
        (start.elapsed(), read)
    })
}

fn builder() -> thread::Builder {
    thread::Builder::new().stack_size(STACK_BYTES)
}

/// Where threads wait for the start.
#[derive(Default)]
struct Gate {
    there: AtomicUsize,
    open: AtomicBool,
}

impl Gate {
    fn pass(&self) {
        self.there.fetch_add(1, Ordering::AcqRel);
        while !self.open.load(Ordering::Acquire) {
            thread::park();
        }
    }

    fn wait_for(&self, threads: usize) {
        while self.there.load(Ordering::Acquire) < threads {
            thread::sleep(Duration::from_micros(50));
        }
        // The last one is about to park.
        thread::sleep(Duration::from_millis(1));
    }

    fn open<'a>(&self, threads: impl Iterator<Item = &'a thread::Thread>) {
        self.open.store(true, Ordering::Release);
        threads.for_each(thread::Thread::unpark);
    }
}
