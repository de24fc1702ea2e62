//! The rows of events published by so many and read by so many, until every reader has all of them.

use std::sync::Arc;

use super::payload::{BLOB_BYTES, Blob, Event};
use super::peers_broadcast::{async_broadcast, bus, multiqueue2, tokio_broadcast};
use super::peers_channel::{
    array_queue, crossbeam, crossfire, crossfire_spsc, fan, flume, kanal, one, rtrb, thingbuf,
};
use super::peers_ring::{BusySpin, Yield, multi, single, sleep};
use super::race::{Shape, contestant};
use super::{Lineup, ours};
use crate::Settings;
use crate::row::{OURS, Row};

pub fn one_to_one_exclusive(settings: &Settings) -> Row {
    let shape = Shape::new(1, 1);
    Lineup::of(settings, contestant(OURS, shape, ours::exclusive::<Event>))
        .and(contestant("disruptor-yield", shape, single::<Event, _>(Yield)))
        .and(contestant("disruptor-sleep", shape, single::<Event, _>(sleep())))
        .beside(contestant("disruptor-busy-spin", shape, single::<Event, _>(BusySpin)))
        .beside(contestant("rtrb", shape, one(rtrb::<Event>)))
        .beside(contestant("array-queue", shape, one(array_queue::<Event>)))
        .beside(contestant("crossbeam", shape, one(crossbeam::<Event>)))
        .beside(contestant("crossfire", shape, one(crossfire_spsc::<Event>)))
        .beside(contestant("thingbuf", shape, one(thingbuf::<Event>)))
        .beside(contestant("kanal", shape, one(kanal::<Event>)))
        .beside(contestant("flume", shape, one(flume::<Event>)))
        .beside(contestant("bus", shape, bus::<Event>))
        .beside(contestant("multiqueue2", shape, multiqueue2::<Event>))
        .beside(contestant("tokio-broadcast", shape, tokio_broadcast::<Event>))
        .beside(contestant("async-broadcast", shape, async_broadcast::<Event>))
        .measure(
            "1to1-exclusive",
            "one exclusive publisher, one reader",
            shape.work(size_of::<Event>()),
            &[("best-disruptor", 0.8)],
        )
}

pub fn one_to_one_shared(settings: &Settings) -> Row {
    let shape = Shape::new(1, 1);
    Lineup::of(settings, contestant(OURS, shape, ours::shared::<Event>))
        .and(contestant("disruptor-yield-multi", shape, multi::<Event, _>(Yield)))
        .and(contestant("disruptor-sleep-multi", shape, multi::<Event, _>(sleep())))
        .beside(contestant("disruptor-busy-spin-multi", shape, multi::<Event, _>(BusySpin)))
        .beside(contestant("array-queue", shape, one(array_queue::<Event>)))
        .beside(contestant("crossbeam", shape, one(crossbeam::<Event>)))
        .beside(contestant("crossfire", shape, one(crossfire::<Event>)))
        .beside(contestant("thingbuf", shape, one(thingbuf::<Event>)))
        .beside(contestant("kanal", shape, one(kanal::<Event>)))
        .beside(contestant("flume", shape, one(flume::<Event>)))
        .beside(contestant("multiqueue2", shape, multiqueue2::<Event>))
        .beside(contestant("tokio-broadcast", shape, tokio_broadcast::<Event>))
        .beside(contestant("async-broadcast", shape, async_broadcast::<Event>))
        .measure(
            "1to1-shared",
            "one shared publisher, one reader",
            shape.work(size_of::<Event>()),
            &[("best-disruptor", 1.3)],
        )
}

pub fn one_to_four(settings: &Settings) -> Row {
    let shape = Shape::new(1, 4);
    Lineup::of(settings, contestant(OURS, shape, ours::exclusive::<Event>))
        .and(contestant("disruptor-yield", shape, single::<Event, _>(Yield)))
        .beside(contestant("disruptor-sleep", shape, single::<Event, _>(sleep())))
        .beside(contestant("disruptor-busy-spin", shape, single::<Event, _>(BusySpin)))
        .and(contestant("rtrb-x4", shape, fan(rtrb::<Event>)))
        .and(contestant("crossfire-x4", shape, fan(crossfire_spsc::<Event>)))
        .and(contestant("array-queue-x4", shape, fan(array_queue::<Event>)))
        .and(contestant("multiqueue2", shape, multiqueue2::<Event>))
        .and(contestant("bus", shape, bus::<Event>))
        .beside(contestant("crossbeam-x4", shape, fan(crossbeam::<Event>)))
        .beside(contestant("thingbuf-x4", shape, fan(thingbuf::<Event>)))
        .beside(contestant("kanal-x4", shape, fan(kanal::<Event>)))
        .beside(contestant("flume-x4", shape, fan(flume::<Event>)))
        .beside(contestant("tokio-broadcast", shape, tokio_broadcast::<Event>))
        .beside(contestant("async-broadcast", shape, async_broadcast::<Event>))
        .measure(
            "1to4",
            "one exclusive publisher, each event to four readers",
            shape.work(size_of::<Event>()),
            &[("disruptor-yield", 0.85), ("best-other", 6.0)],
        )
}

pub fn four_to_one(settings: &Settings) -> Row {
    many_to_one(settings, 4, "4to1", "four publishers, one reader", &[("array-queue", 0.85)])
}

pub fn hundred_to_one(settings: &Settings) -> Row {
    many_to_one(settings, 100, "100to1", "100 publishers, one reader", &[("best", 0.9)])
}

fn many_to_one(
    settings: &Settings,
    publishers: usize,
    id: &'static str,
    what: &'static str,
    targets: &'static [(&'static str, f64)],
) -> Row {
    let shape = Shape::new(publishers, 1);
    Lineup::of(settings, contestant(OURS, shape, ours::shared::<Event>))
        .and(contestant("array-queue", shape, one(array_queue::<Event>)))
        .and(contestant("crossbeam", shape, one(crossbeam::<Event>)))
        .and(contestant("crossfire", shape, one(crossfire::<Event>)))
        .and(contestant("thingbuf", shape, one(thingbuf::<Event>)))
        .and(contestant("disruptor-yield", shape, multi::<Event, _>(Yield)))
        .and(contestant("disruptor-sleep", shape, multi::<Event, _>(sleep())))
        .beside(contestant("disruptor-busy-spin", shape, multi::<Event, _>(BusySpin)))
        .and(contestant("kanal", shape, one(kanal::<Event>)))
        .beside(contestant("flume", shape, one(flume::<Event>)))
        .and(contestant("multiqueue2", shape, multiqueue2::<Event>))
        .beside(contestant("tokio-broadcast", shape, tokio_broadcast::<Event>))
        .beside(contestant("async-broadcast", shape, async_broadcast::<Event>))
        .measure(id, what, shape.work(size_of::<Event>()), targets)
}

pub fn four_to_four(settings: &Settings) -> Row {
    many_to_four(
        settings,
        4,
        "4to4",
        "four publishers, each event to four readers",
        &[("best-disruptor", 1.0)],
    )
}

pub fn hundred_to_four(settings: &Settings) -> Row {
    many_to_four(
        settings,
        100,
        "100to4",
        "100 publishers, each event to four readers",
        &[("best", 0.9)],
    )
}

pub fn thousand_to_four(settings: &Settings) -> Row {
    many_to_four(
        settings,
        1000,
        "1000to4",
        "1000 publishers, each event to four readers",
        &[("best", 0.9)],
    )
}

fn many_to_four(
    settings: &Settings,
    publishers: usize,
    id: &'static str,
    what: &'static str,
    targets: &'static [(&'static str, f64)],
) -> Row {
    let shape = Shape::new(publishers, 4);
    Lineup::of(settings, contestant(OURS, shape, ours::shared::<Event>))
        .and(contestant("disruptor-yield", shape, multi::<Event, _>(Yield)))
        .and(contestant("disruptor-sleep", shape, multi::<Event, _>(sleep())))
        .beside(contestant("disruptor-busy-spin", shape, multi::<Event, _>(BusySpin)))
        .and(contestant("multiqueue2", shape, multiqueue2::<Event>))
        .and(contestant("crossfire-x4", shape, fan(crossfire::<Event>)))
        .beside(contestant("crossbeam-x4", shape, fan(crossbeam::<Event>)))
        .beside(contestant("array-queue-x4", shape, fan(array_queue::<Event>)))
        .and(contestant("thingbuf-x4", shape, fan(thingbuf::<Event>)))
        .beside(contestant("kanal-x4", shape, fan(kanal::<Event>)))
        .beside(contestant("flume-x4", shape, fan(flume::<Event>)))
        .beside(contestant("tokio-broadcast", shape, tokio_broadcast::<Event>))
        .beside(contestant("async-broadcast", shape, async_broadcast::<Event>))
        .measure(id, what, shape.work(size_of::<Event>()), targets)
}

pub fn batch_256_four_to_four(settings: &Settings) -> Row {
    let shape = Shape::new(4, 4).in_batches(256);
    batches(settings, shape, "batch256-4to4", "four publishers of 256 events at once, four readers")
}

pub fn batch_32_hundred_to_four(settings: &Settings) -> Row {
    let shape = Shape::new(100, 4).in_batches(32);
    batches(settings, shape, "batch32-100to4", "100 publishers of 32 events at once, four readers")
}

/// Only the disruptor publishes many at once; the others publish them one by one.
fn batches(settings: &Settings, shape: Shape, id: &'static str, what: &'static str) -> Row {
    Lineup::of(settings, contestant(OURS, shape, ours::shared::<Event>))
        .and(contestant("disruptor-yield", shape, multi::<Event, _>(Yield)))
        .and(contestant("disruptor-sleep", shape, multi::<Event, _>(sleep())))
        .beside(contestant("disruptor-busy-spin", shape, multi::<Event, _>(BusySpin)))
        .beside(contestant("multiqueue2", shape, multiqueue2::<Event>))
        .beside(contestant("crossfire-x4", shape, fan(crossfire::<Event>)))
        .beside(contestant("tokio-broadcast", shape, tokio_broadcast::<Event>))
        .measure(id, what, shape.work(size_of::<Event>()), &[("best-disruptor", 0.85)])
}

pub fn arc_500_one_to_four(settings: &Settings) -> Row {
    type Shared = Arc<Blob>;
    let shape = Shape::new(1, 4);
    Lineup::of(settings, contestant(OURS, shape, ours::exclusive::<Shared>))
        .and(contestant("disruptor-yield", shape, single::<Shared, _>(Yield)))
        .and(contestant("disruptor-sleep", shape, single::<Shared, _>(sleep())))
        .beside(contestant("disruptor-busy-spin", shape, single::<Shared, _>(BusySpin)))
        .and(contestant("crossfire-x4", shape, fan(crossfire_spsc::<Shared>)))
        .and(contestant("rtrb-x4", shape, fan(rtrb::<Shared>)))
        .and(contestant("kanal-x4", shape, fan(kanal::<Shared>)))
        .beside(contestant("array-queue-x4", shape, fan(array_queue::<Shared>)))
        .beside(contestant("crossbeam-x4", shape, fan(crossbeam::<Shared>)))
        .beside(contestant("thingbuf-x4", shape, fan(thingbuf::<Shared>)))
        .beside(contestant("flume-x4", shape, fan(flume::<Shared>)))
        .and(contestant("bus", shape, bus::<Shared>))
        .and(contestant("multiqueue2", shape, multiqueue2::<Shared>))
        .beside(contestant("tokio-broadcast", shape, tokio_broadcast::<Shared>))
        .beside(contestant("async-broadcast", shape, async_broadcast::<Shared>))
        .measure(
            "arc500-1to4",
            "one exclusive publisher of 500 bytes behind an `Arc`, each to four readers",
            shape.work(BLOB_BYTES),
            &[("best-disruptor", 0.85), ("best-other", 2.5)],
        )
}
