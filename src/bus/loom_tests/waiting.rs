//! Models of what ends a wait beside an event of interest: a tombstone, a new topic, the end of a write.

use std::future::Future;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::Context;

use super::super::position::Position;
use super::super::ring::Shape;
use super::super::{EventBus, Filter, Overflow, Publisher};
use super::{PREEMPTIONS, TOPIC, bus, each_twin_fails};
use crate::sync::{Parker, explore, thread, weakened};

/// Publishes what panics while it is made.
fn bury<E>(publisher: &Publisher<E>) {
    // Not by `panic!`, which would print each.
    let make = || resume_unwind(Box::new("a hostile maker"));
    let publish = || publisher.publish_with(TOPIC, make).is_ok();
    assert!(catch_unwind(AssertUnwindSafe(publish)).is_err());
}

/// A batch of one event that does not come.
struct Nothing;

impl Iterator for Nothing {
    type Item = u64;
    fn next(&mut self) -> Option<u64> {
        None
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (1, Some(1))
    }
}

impl ExactSizeIterator for Nothing {}

/// A publication whose maker panics buries the payload of one lap ago, while another publisher comes around.
fn tombstone_is_lapped() {
    let bus = bus::<Box<u64>>();
    for payload in 0..2 {
        bus.publisher().publish(TOPIC, Box::new(payload)).expect("open");
    }
    let publisher = bus.publisher();
    let burying = thread::spawn(move || bury(&publisher));
    let publisher = bus.publisher();
    for payload in 2..4 {
        let _ = publisher.try_publish(TOPIC, Box::new(payload));
    }
    burying.join().expect("no panic");
    assert_eq!(bus.stats().tombstones, 1);
}

#[test]
fn loom_a_slot_is_written_after_its_tombstone_is_done() {
    explore(PREEMPTIONS, tombstone_is_lapped);
}

#[test]
fn loom_twins_of_the_tombstone_fail() {
    each_twin_fails(&["bus.stamp.bury"], tombstone_is_lapped);
}

/// A reader waits while a batch that says that it has one event, and has none, leaves a tombstone at its cursor;
/// an event lies behind.
///
/// A maker that panics cannot be had here: the locks of the model take themselves for poisoned while anybody
/// unwinds.
fn event_behind_a_tombstone() {
    // Kept from being dropped where a twin ends in a deadlock: loom cannot run destructors then.
    let bus = ManuallyDrop::new(bus::<u64>());
    let mut reader = ManuallyDrop::new(bus.subscribe(Filter::all(), Overflow::Block));
    let publishers = [(); 2].map(|()| ManuallyDrop::new(bus.publisher()));
    let [burying, publisher] = publishers;
    let burying = thread::spawn(move || {
        assert_eq!(burying.publish_batch(TOPIC, &mut Nothing), Ok(0));
        drop(ManuallyDrop::into_inner(burying));
    });
    let publishing = thread::spawn(move || {
        publisher.publish(TOPIC, 7).expect("open");
        drop(ManuallyDrop::into_inner(publisher));
    });
    assert_eq!(reader.recv().expect("open").payload, 7);
    for thread in [burying, publishing] {
        thread.join().expect("no panic");
    }
    drop((ManuallyDrop::into_inner(reader), ManuallyDrop::into_inner(bus)));
}

#[test]
fn loom_an_event_behind_a_tombstone_is_not_slept_through() {
    explore(PREEMPTIONS, event_behind_a_tombstone);
}

#[test]
fn loom_twins_of_the_event_behind_a_tombstone_fail() {
    each_twin_fails(&["bus.batch.tell"], event_behind_a_tombstone);
}

/// A reader waits for a topic that there is not yet, while somebody makes it and publishes to it.
fn topic_is_made() {
    let bus = ManuallyDrop::new(wide_bus());
    let filter = Filter::topics(["new"]).expect("a valid pattern");
    let mut reader = ManuallyDrop::new(bus.subscribe(filter, Overflow::Block));
    let publisher = ManuallyDrop::new(bus.publisher());
    let publishing = thread::spawn(move || {
        let topic = bus.topic("new").expect("room");
        publisher.publish(topic, 7).expect("open");
        drop(ManuallyDrop::into_inner(publisher));
        bus
    });
    assert_eq!(reader.recv().expect("open").payload, 7);
    let bus = publishing.join().expect("no panic");
    drop((ManuallyDrop::into_inner(reader), ManuallyDrop::into_inner(bus)));
}

/// A ring in which a quarter of a lap is two events, beginning at an odd sequence: readers are not told of the
/// first event unless they are interested in it.
fn wide_bus() -> EventBus<u64> {
    let shape = Shape { capacity: 8, start: Position::from_sequence(1), stride: 1 };
    EventBus::builder().shape(shape).build().expect("a valid bus")
}

#[test]
fn loom_a_reader_learns_of_a_topic_that_is_new() {
    explore(PREEMPTIONS, topic_is_made);
}

#[test]
fn loom_twins_of_the_new_topic_fail() {
    each_twin_fails(&["bus.topic.wake"], topic_is_made);
}

/// A reader waits for one topic; an event of another one is being written at its cursor, and the one that it
/// waits for lies behind.
fn event_behind_an_unwritten_one() {
    let bus = ManuallyDrop::new(wide_bus());
    let [other, topic] = ["other", "topic"].map(|name| bus.topic(name).expect("room"));
    let filter = Filter::topics(["topic"]).expect("a valid pattern");
    let mut reader = ManuallyDrop::new(bus.subscribe(filter, Overflow::Block));
    let publishing = [other, topic].map(|topic| {
        let publisher = ManuallyDrop::new(bus.publisher());
        thread::spawn(move || {
            publisher.publish(topic, 7).expect("open");
            drop(ManuallyDrop::into_inner(publisher));
        })
    });
    assert_eq!(reader.recv().expect("open").topic, topic);
    for thread in publishing {
        thread.join().expect("no panic");
    }
    drop((ManuallyDrop::into_inner(reader), ManuallyDrop::into_inner(bus)));
}

#[test]
fn loom_an_event_behind_an_unwritten_one_is_not_slept_through() {
    explore(PREEMPTIONS, event_behind_an_unwritten_one);
}

#[test]
fn loom_twins_of_the_unwritten_event_fail() {
    each_twin_fails(&["bus.wait.unwritten"], event_behind_an_unwritten_one);
}

/// A publisher waits for the writer of a slot, is overtaken, and then waits for the writer of another slot: it is
/// told by the first or by the second.
fn writer_is_waited_for_again() {
    // Kept from being dropped where a twin ends in a deadlock: loom cannot run destructors then.
    let bus = ManuallyDrop::new(bus::<u64>());
    let publishers = [(); 2].map(|()| ManuallyDrop::new(bus.publisher()));
    let [publisher, waiting] = publishers;
    let waiting = thread::spawn(move || {
        // A future, as the wait of a thread has destructors.
        let parker = Parker::new();
        let waker = parker.waker();
        let mut publish = ManuallyDrop::new(waiting.publish_async(TOPIC, 9));
        while Pin::new(&mut *publish).poll(&mut Context::from_waker(&waker)).is_pending() {
            parker.park();
        }
        drop(ManuallyDrop::into_inner(publish));
        drop(ManuallyDrop::into_inner(waiting));
    });
    for _ in 0..2 {
        let make = || {
            let _ = publisher.try_publish(TOPIC, 1);
            2
        };
        // Refused if the other one is about to write.
        let _ = publisher.publish_with(TOPIC, make).is_ok();
    }
    waiting.join().expect("no panic");
    drop((ManuallyDrop::into_inner(publisher), ManuallyDrop::into_inner(bus)));
}

#[test]
fn loom_who_waits_for_one_writer_after_another_is_woken() {
    // Three preemptions, which the twins need, take three minutes here and find no more.
    explore(PREEMPTIONS, writer_is_waited_for_again);
}

#[test]
fn loom_twins_of_waiting_for_writers_fail() {
    let twin = || weakened("bus.written.lock", || explore(3, writer_is_waited_for_again));
    assert!(catch_unwind(twin).is_err(), "the model holds although the set is asked first");
}
