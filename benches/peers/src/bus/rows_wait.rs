//! The rows about waiting: async tasks, latency while events flow and when the reader is parked, and what idle
//! readers cost.

use std::future::Future;
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use phalanx::bus::{Filter, Overflow, Subscriber};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::broadcast;

use super::Lineup;
use super::ours;
use super::payload::{Event, Payload, Received};
use super::peers_broadcast::{
    AsyncBroadcastPublisher, TokioPublisher, multiqueue2, tokio_broadcast,
};
use super::peers_channel::{
    Fan, Sending, array_queue, crossbeam, crossbeam_parking, crossfire_spsc, flume, kanal, one,
    rtrb, thingbuf, thingbuf_parking,
};
use super::peers_ring::{BusySpin, Yield, single, sleep};
use super::race::{PEER_RING, Publish, Read, Shape, together};
use crate::Settings;
use crate::measure::{Contestant, Sample, now};
use crate::row::{OURS, Row, Time, Unit, median};

const EVENT_BYTES: usize = size_of::<Event>();

// Tasks.

/// The end at which one task reads.
trait Receive: Send + 'static {
    fn receive(&mut self) -> impl Future<Output = Event> + Send;
}

pub fn async_one_to_four(settings: &Settings) -> Row {
    let mut work = Shape::new(1, 4).work(EVENT_BYTES);
    work.insert("host".to_owned(), json!("tokio, two workers; the publisher on a thread"));
    Lineup::of(settings, tasks(OURS, ours_async))
        .and(tasks("tokio-broadcast", tokio_async))
        .and(tasks("async-broadcast", async_broadcast_async))
        .beside(tasks("crossfire-x4", crossfire_async))
        .beside(tasks("kanal-x4", kanal_async))
        .beside(tasks("flume-x4", flume_async))
        .measure(
            "async-1to4",
            "one exclusive publisher, each event to four tasks that await it",
            work,
            &[("tokio-broadcast", 2.0), ("async-broadcast", 2.0)],
        )
}

fn tasks<P: Publish<Event>, R: Receive>(
    name: &'static str,
    open: impl Fn(usize) -> (P, Vec<R>) + 'static,
) -> Contestant<'static> {
    static HOST: LazyLock<Runtime> = LazyLock::new(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).build().expect("there are threads enough")
    });
    let shape = Shape::new(1, 4);
    let unit = shape.received::<Event>();
    Contestant::timed(name, move |units| {
        let events = units * shape.unit();
        let (mut publisher, readers) = open(shape.readers);
        let publish = move || {
            for _ in 0..units {
                (0..shape.unit()).for_each(|number| publisher.publish(Event::new(number)));
            }
        };
        let readers = readers.into_iter().map(|mut reader| {
            let task = HOST.spawn(async move {
                let mut received = Received::default();
                while received.count < events {
                    received.next(&reader.receive().await, shape.unit());
                }
                received
            });
            || HOST.block_on(task).expect("a reader does not panic")
        });
        let (elapsed, received) = together(vec![publish], readers.collect());
        for one in &received[1..] {
            assert_eq!(*one, received[0], "the readers do not agree");
        }
        Sample::new(elapsed, events, Some(received[0].of_one(units, unit)))
    })
}

impl Receive for Subscriber<Event> {
    async fn receive(&mut self) -> Event {
        self.recv_async().await.expect("the bus is open").payload
    }
}

fn ours_async(readers: usize) -> (ours::Exclusive<Event>, Vec<Subscriber<Event>>) {
    let (bus, topic) = ours::bus();
    let readers = (0..readers).map(|_| bus.subscribe(Filter::all(), Overflow::Block)).collect();
    (ours::exclusive_publisher(&bus, topic), readers)
}

impl Receive for broadcast::Receiver<Event> {
    async fn receive(&mut self) -> Event {
        self.recv().await.expect("nothing is lost")
    }
}

fn tokio_async(readers: usize) -> (TokioPublisher<Event>, Vec<broadcast::Receiver<Event>>) {
    let sender = broadcast::Sender::new(PEER_RING);
    let readers = (0..readers).map(|_| sender.subscribe()).collect();
    (TokioPublisher::new(sender, 1), readers)
}

impl Receive for ::async_broadcast::Receiver<Event> {
    async fn receive(&mut self) -> Event {
        self.recv_direct().await.expect("nothing is lost")
    }
}

fn async_broadcast_async(
    readers: usize,
) -> (AsyncBroadcastPublisher<Event>, Vec<::async_broadcast::Receiver<Event>>) {
    let (sender, reader) = ::async_broadcast::broadcast(PEER_RING);
    (AsyncBroadcastPublisher(sender), vec![reader; readers])
}

type Crossfire = ::crossfire::spsc::Array<Event>;

impl Receive for ::crossfire::AsyncRx<Crossfire> {
    async fn receive(&mut self) -> Event {
        self.recv().await.expect("the publisher is there")
    }
}

fn crossfire_async(
    readers: usize,
) -> (Fan<Sending<::crossfire::Tx<Crossfire>>>, Vec<::crossfire::AsyncRx<Crossfire>>) {
    ::crossfire::detect_backoff_cfg();
    each(readers, || ::crossfire::spsc::bounded_blocking_async(PEER_RING))
}

impl Receive for ::kanal::AsyncReceiver<Event> {
    async fn receive(&mut self) -> Event {
        self.recv().await.expect("the publisher is there")
    }
}

fn kanal_async(
    readers: usize,
) -> (Fan<Sending<::kanal::Sender<Event>>>, Vec<::kanal::AsyncReceiver<Event>>) {
    each(readers, || {
        let (sender, receiver) = ::kanal::bounded(PEER_RING);
        (sender, receiver.to_async())
    })
}

impl Receive for ::flume::Receiver<Event> {
    async fn receive(&mut self) -> Event {
        self.recv_async().await.expect("the publisher is there")
    }
}

fn flume_async(
    readers: usize,
) -> (Fan<Sending<::flume::Sender<Event>>>, Vec<::flume::Receiver<Event>>) {
    each(readers, || ::flume::bounded(PEER_RING))
}

/// A channel for each reader.
fn each<S, R>(readers: usize, open: impl Fn() -> (S, R)) -> (Fan<Sending<S>>, Vec<R>) {
    let (senders, ends): (Vec<_>, _) = (0..readers).map(|_| open()).unzip();
    (Fan(senders.into_iter().map(Sending).collect()), ends)
}

// There and back.

/// Round trips in a unit.
const TRIPS: u64 = 256;

pub fn pingpong(settings: &Settings) -> Row {
    let mut work = Shape::new(1, 1).work(EVENT_BYTES);
    work.insert("events_a_unit".to_owned(), json!(TRIPS));
    Lineup::of(settings, bounced(OURS, ours::exclusive))
        .and(bounced("disruptor-yield", single(Yield)))
        .beside(bounced("disruptor-sleep", single(sleep())))
        .beside(bounced("disruptor-busy-spin", single(BusySpin)))
        .beside(bounced("rtrb", one(rtrb)))
        .beside(bounced("array-queue", one(array_queue)))
        .beside(bounced("crossbeam", one(crossbeam)))
        .beside(bounced("crossfire", one(crossfire_spsc)))
        .beside(bounced("multiqueue2", multiqueue2))
        .beside(bounced("thingbuf", one(thingbuf)))
        .beside(bounced("kanal", one(kanal)))
        .beside(bounced("flume", one(flume)))
        .beside(bounced("tokio-broadcast", tokio_broadcast))
        .measure_in(
            (Unit::Nanoseconds, Time::Wall),
            "pingpong",
            "an event there and one back between two threads that do nothing else; p50 of a round trip",
            work,
            &[("disruptor-yield", 0.8)],
        )
}

fn bounced<P: Publish<Event>, R: Read<Event>>(
    name: &'static str,
    open: impl Fn(usize, usize) -> (Vec<P>, Vec<R>) + 'static,
) -> Contestant<'static> {
    let mut unit = Received::default();
    (0..TRIPS).for_each(|number| unit.event(&Event::new(number)));
    Contestant::timed(name, move |units| {
        let ((mut ping, mut there), (mut pong, mut back)) = (pair(&open), pair(&open));
        let trips = units * TRIPS;
        let bounce = move || {
            for _ in 0..trips {
                let mut came = None;
                there.read(|event| came = Some(*event));
                pong.publish(came.expect("it waits for an event"));
            }
        };
        let throw = move || {
            let mut nanos = Vec::with_capacity(trips as usize);
            let mut received = Received::default();
            let mut before = Instant::now();
            for number in 0..trips {
                ping.publish(Event::new(number % TRIPS));
                back.read(|event| received.next(event, TRIPS));
                let after = Instant::now();
                nanos.push((after - before).as_nanos() as f64);
                before = after;
            }
            (nanos, received)
        };
        let (elapsed, mut thrown) = together(vec![bounce], vec![throw]);
        let (nanos, received) = thrown.remove(0);
        let value = Some(median(&nanos));
        Sample { value, ..Sample::new(elapsed, trips, Some(received.of_one(units, unit))) }
    })
}

fn pair<P, R>(open: &impl Fn(usize, usize) -> (Vec<P>, Vec<R>)) -> (P, R) {
    let (mut publishers, mut readers) = open(1, 1);
    (publishers.remove(0), readers.remove(0))
}

// Woken up.

/// Events in a unit.
const WAKES: u64 = 16;
/// Between two events, so that the reader is parked by the second.
const PAUSE: Duration = Duration::from_micros(200);

pub fn parked_wake(settings: &Settings) -> Row {
    let mut work = Shape::new(1, 1).work(EVENT_BYTES);
    work.insert("events_a_unit".to_owned(), json!(WAKES));
    work.insert("pause_ns".to_owned(), json!(PAUSE.as_nanos() as u64));
    Lineup::of(settings, woken(OURS, ours::exclusive))
        .and(woken("tokio-broadcast", parked_tokio))
        .beside(woken("async-broadcast", parked_async_broadcast))
        .beside(woken("flume", one(flume)))
        .beside(woken("thingbuf", one(thingbuf_parking)))
        .beside(woken("crossbeam", one(crossbeam_parking)))
        .beside(woken("crossfire", one(crossfire_spsc)))
        .beside(woken("kanal", one(kanal)))
        .measure_in(
            (Unit::Nanoseconds, Time::Wall),
            "parked-wake",
            "an event to a reader that is parked; p50 from before it is published to its receipt",
            work,
            &[("tokio-broadcast", 0.8)],
        )
}

fn woken<P: Publish<Event>, R: Read<Event>>(
    name: &'static str,
    open: impl Fn(usize, usize) -> (Vec<P>, Vec<R>) + 'static,
) -> Contestant<'static> {
    let mut unit = Received::default();
    (0..WAKES).for_each(|number| unit.event(&Event::new(number)));
    Contestant::timed(name, move |units| {
        let (mut publisher, mut reader) = pair(&open);
        let events = units * WAKES;
        let epoch = Instant::now();
        let publish = move || {
            for number in 0..events {
                thread::sleep(PAUSE);
                let mut event = Event::new(number % WAKES);
                event[7] = epoch.elapsed().as_nanos() as u64;
                publisher.publish(event);
            }
        };
        let read = move || {
            let mut nanos = Vec::with_capacity(events as usize);
            let mut received = Received::default();
            while received.count < events {
                reader.read(|event| {
                    nanos.push((epoch.elapsed().as_nanos() as u64 - event[7]) as f64);
                    let mut event = *event;
                    event[7] = event[0] + 7;
                    received.next(&event, WAKES);
                });
            }
            (nanos, received)
        };
        let (elapsed, mut read) = together(vec![publish], vec![read]);
        let (nanos, received) = read.remove(0);
        let value = Some(median(&nanos));
        Sample { value, ..Sample::new(elapsed, events, Some(received.of_one(units, unit))) }
    })
}

/// A reader that parks, as the one that gives the processor up does not.
struct Parked<R>(R);

impl Read<Event> for Parked<broadcast::Receiver<Event>> {
    fn read(&mut self, mut each: impl FnMut(&Event)) {
        each(&self.0.blocking_recv().expect("nothing is lost"));
    }
}

fn parked_tokio(
    _: usize,
    readers: usize,
) -> (Vec<TokioPublisher<Event>>, Vec<Parked<broadcast::Receiver<Event>>>) {
    let (publisher, readers) = tokio_async(readers);
    (vec![publisher], readers.into_iter().map(Parked).collect())
}

impl Read<Event> for Parked<::async_broadcast::Receiver<Event>> {
    fn read(&mut self, mut each: impl FnMut(&Event)) {
        each(&self.0.recv_blocking().expect("nothing is lost"));
    }
}

fn parked_async_broadcast(
    _: usize,
    readers: usize,
) -> (Vec<AsyncBroadcastPublisher<Event>>, Vec<Parked<::async_broadcast::Receiver<Event>>>) {
    let (publisher, readers) = async_broadcast_async(readers);
    (vec![publisher], readers.into_iter().map(Parked).collect())
}

// Idle.

/// How long a unit is idle.
const IDLE: Duration = Duration::from_millis(10);
/// The least idle time before it counts, so that nobody is about to park.
const SETTLE: Duration = Duration::from_millis(50);
/// The most cores that four idle readers may use.
const IDLE_CORES_MAX: f64 = 0.01;

pub fn idle_cpu(settings: &Settings) -> Row {
    let mut work = Shape::new(1, 4).work(EVENT_BYTES);
    work.insert("limit-idle".to_owned(), json!("the most that is allowed: 0.01 cores"));
    let limit = Contestant::timed("limit-idle", |units| Sample {
        value: Some(IDLE_CORES_MAX),
        ..Sample::new(IDLE * units as u32, units, None)
    });
    Lineup::of(settings, idle(OURS, ours::exclusive))
        .and(limit)
        .and(idle("tokio-broadcast", parked_tokio))
        .and(idle("disruptor-sleep", single(sleep())))
        .and(idle("disruptor-yield", single(Yield)))
        .beside(idle("disruptor-busy-spin", single(BusySpin)))
        .beside(idle("async-broadcast", parked_async_broadcast))
        .measure_in(
            (Unit::Cores, Time::Cpu),
            "idle-cpu",
            "four readers to whom nothing comes; CPU time of the process by wall time",
            work,
            &[("limit-idle", 1.0)],
        )
}

fn idle<P: Publish<Event>, R: Read<Event>>(
    name: &'static str,
    open: impl Fn(usize, usize) -> (Vec<P>, Vec<R>) + 'static,
) -> Contestant<'static> {
    Contestant::timed(name, move |units| {
        let (publishers, readers) = open(1, 4);
        let used = Mutex::new((Duration::ZERO, Duration::ZERO));
        let publishers = publishers.into_iter().map(|mut publisher| {
            let used = &used;
            move || {
                thread::sleep(SETTLE);
                let start = (now(Time::Cpu), now(Time::Wall));
                thread::sleep(IDLE * units as u32);
                let (cpu, wall) = (now(Time::Cpu) - start.0, now(Time::Wall) - start.1);
                *used.lock().expect("nobody panicked") = (cpu, wall);
                publisher.publish(Event::new(0));
            }
        });
        let readers = readers.into_iter().map(|mut reader| move || reader.read(|_| {}));
        let (publishers, readers) = (publishers.collect(), readers.collect());
        together(publishers, readers);
        let (cpu, wall) = *used.lock().expect("nobody panicked");
        let value = Some(cpu.as_secs_f64() / wall.as_secs_f64());
        Sample { value, ..Sample::new(wall, units, None) }
    })
}
