//! Models of events that are handled many at a time, and of a subscription that ends.

use std::mem::ManuallyDrop;

use super::super::position::Position;
use super::super::{Event, Filter, Overflow, Subscriber, TryRecvError};
use super::{PREEMPTIONS, START, TOPIC, bus, each_twin_fails, full_ring};
use crate::sync::{explore, thread};

/// One publishes a lap and a half, waiting for the reader, which handles what is there where it lies.
pub(super) fn batches_where_they_lie() {
    let bus = bus();
    let mut reader = ManuallyDrop::new(bus.subscribe(Filter::all(), Overflow::Block));
    let publisher = ManuallyDrop::new(bus.publisher());
    let bus = ManuallyDrop::new(bus);
    let publishing = thread::spawn(move || {
        for payload in 0..3 {
            publisher.publish(TOPIC, payload).expect("open");
        }
        drop(ManuallyDrop::into_inner(publisher));
    });
    let mut next = 0;
    while next < 3 {
        let handle = |event: Event<&u64>| {
            assert_eq!(*event.payload, next);
            next += 1;
        };
        reader.for_each_batch(handle).expect("open");
    }
    publishing.join().expect("no panic");
    drop((ManuallyDrop::into_inner(reader), ManuallyDrop::into_inner(bus)));
}

#[test]
fn loom_a_batch_is_overwritten_after_it_was_handled() {
    explore(PREEMPTIONS, batches_where_they_lie);
}

#[test]
fn loom_twins_of_the_batch_fail() {
    each_twin_fails(&["bus.stamp.read", "bus.gate.hold"], batches_where_they_lie);
}

/// One overwrites while the other clones two out under one pin.
pub(super) fn batches_of_clones() {
    let bus = bus();
    let mut reader = bus.subscribe(Filter::all(), Overflow::DropOldest);
    let publisher = bus.publisher();
    for payload in 0..2 {
        publisher.publish(TOPIC, payload).expect("open");
    }
    let publishing = thread::spawn(move || {
        (2..4).filter(|&payload| publisher.try_publish(TOPIC, payload).is_ok()).count() as u64
    });
    let start = Position::from_sequence(START);
    let (mut seen, mut lost) = (0, 0);
    let mut look = |reader: &mut Subscriber<u64>| {
        let handle = |event: Event<&u64>| {
            assert_eq!(Position::from_sequence(event.sequence), start.forward(seen + lost));
            seen += 1;
        };
        match reader.try_for_each_batch(handle) {
            Ok(_) => true,
            Err(TryRecvError::Lagged { missed, .. }) => {
                lost += missed;
                true
            }
            Err(_) => false,
        }
    };
    look(&mut reader);
    let published = 2 + publishing.join().expect("no panic");
    while look(&mut reader) {}
    assert_eq!(seen + lost, published);
}

#[test]
fn loom_overwriting_waits_for_the_pin_of_a_batch() {
    explore(PREEMPTIONS, batches_of_clones);
}

#[test]
fn loom_twins_of_the_pin_of_a_batch_fail() {
    each_twin_fails(&["bus.pin.fence", "bus.gate.let_go"], batches_of_clones);
}

/// One waits for room, which the subscription that ends meanwhile makes.
pub(super) fn unsubscribe_during_publish() {
    let (bus, reader) = full_ring();
    let bus = ManuallyDrop::new(bus);
    let publisher = ManuallyDrop::new(bus.publisher());
    let leaving = thread::spawn(move || drop(reader));
    publisher.publish(TOPIC, 2).expect("open");
    leaving.join().expect("no panic");
    drop((ManuallyDrop::into_inner(publisher), ManuallyDrop::into_inner(bus)));
}

#[test]
fn loom_a_subscription_that_ends_wakes_the_publisher_that_waits_for_it() {
    explore(PREEMPTIONS, unsubscribe_during_publish);
}

#[test]
fn loom_twins_of_the_end_of_a_subscription_fail() {
    each_twin_fails(&["bus.release.fence", "bus.publish.park.fence"], unsubscribe_during_publish);
}
