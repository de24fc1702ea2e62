//! Models of the end: shared and exclusive publishers against a close, and who is told of it.

use std::mem::ManuallyDrop;

use super::super::{Filter, Overflow, RecvError, TryRecvError};
use super::{PREEMPTIONS, TOPIC, bus, each_twin_fails};
use crate::sync::{explore, thread};

/// The bus is closed while a reader waits.
fn close_wakes() {
    // Kept from being dropped where a twin ends in a deadlock: loom cannot run destructors then.
    let bus = ManuallyDrop::new(bus::<u64>());
    let mut reader = ManuallyDrop::new(bus.subscribe(Filter::all(), Overflow::Block));
    let closing = thread::spawn(move || {
        bus.publisher().publish(TOPIC, 0).expect("open");
        bus.close();
        bus
    });
    assert_eq!(reader.recv().expect("published before").payload, 0);
    assert_eq!(reader.recv(), Err(RecvError::Closed));
    let bus = closing.join().expect("no panic");
    drop((ManuallyDrop::into_inner(reader), ManuallyDrop::into_inner(bus)));
}

#[test]
fn loom_a_close_is_seen_by_a_reader_that_waits() {
    explore(PREEMPTIONS, close_wakes);
}

#[test]
fn loom_twins_of_the_close_that_wakes_fail() {
    each_twin_fails(&["bus.closed.fence"], close_wakes);
}

/// The bus is closed while a publisher is between its claim and the end of its write.
fn close_during_publish() {
    let bus = bus::<u64>();
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let publisher = bus.publisher();
    let publishing = thread::spawn(move || publisher.publish(TOPIC, 0).is_ok());
    bus.close();
    let mut seen = 0;
    while reader.recv().is_ok() {
        seen += 1;
    }
    assert_eq!(seen, u32::from(publishing.join().expect("no panic")));
}

#[test]
fn loom_what_was_claimed_before_the_close_is_received() {
    explore(PREEMPTIONS, close_during_publish);
}

/// Somebody publishes one event, somebody else closes, a third one looks for what is there: it is told of the
/// end when nothing can come any more, and not before.
fn look_for_the_end(
    publish: impl FnOnce(u64) -> bool + Send + 'static,
    close: impl FnOnce() + Send + 'static,
    mut look: impl FnMut() -> Result<u64, TryRecvError>,
) {
    let publishing = thread::spawn(move || publish(7));
    let closing = thread::spawn(close);
    let first = look();
    let published = publishing.join().expect("no panic");
    closing.join().expect("no panic");
    match first {
        Ok(payload) => assert_eq!(payload, 7),
        Err(TryRecvError::Closed) => assert!(!published, "an event comes behind the end"),
        Err(_) if published => assert_eq!(look(), Ok(7)),
        Err(_) => {}
    }
    assert_eq!(look(), Err(TryRecvError::Closed));
}

/// The publisher is a shared one.
fn shared_against_close() {
    let bus = bus::<u64>();
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let publisher = bus.publisher();
    look_for_the_end(
        move |payload| publisher.publish(TOPIC, payload).is_ok(),
        move || bus.close(),
        move || reader.try_recv().map(|event| event.payload),
    );
}

#[test]
fn loom_no_shared_publisher_gets_in_behind_the_end() {
    explore(PREEMPTIONS, shared_against_close);
}

#[test]
fn loom_twins_of_the_shared_end_fail() {
    each_twin_fails(&["bus.closed.read"], shared_against_close);
}

/// The publisher is an exclusive one, which asks nobody whether it may write.
fn exclusive_against_close() {
    let bus = bus::<u64>();
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let mut publisher = bus.exclusive_publisher().expect("no other publisher");
    look_for_the_end(
        move |payload| publisher.publish(TOPIC, payload).is_ok(),
        move || bus.close(),
        move || reader.try_recv().map(|event| event.payload),
    );
}

#[test]
fn loom_no_exclusive_publisher_gets_in_behind_the_end() {
    explore(PREEMPTIONS, exclusive_against_close);
}

#[test]
fn loom_twins_of_the_exclusive_end_fail() {
    each_twin_fails(&["bus.begin.fence", "bus.close.fence"], exclusive_against_close);
}

/// The bus is closed, and then a reader waits for the end, while an exclusive publisher looks as if it wrote:
/// it writes, or it finds the lane closed and must say so.
fn close_before_exclusive_publish() {
    let bus = ManuallyDrop::new(bus::<u64>());
    let mut reader = ManuallyDrop::new(bus.subscribe(Filter::all(), Overflow::Block));
    let publisher = bus.exclusive_publisher().expect("no other publisher");
    let mut publisher = ManuallyDrop::new(publisher);
    let publishing = thread::spawn(move || {
        let published = publisher.publish(TOPIC, 0).is_ok();
        drop(ManuallyDrop::into_inner(publisher));
        published
    });
    bus.close();
    let mut seen = 0;
    while reader.recv().is_ok() {
        seen += 1;
    }
    assert_eq!(seen, u32::from(publishing.join().expect("no panic")));
    drop((ManuallyDrop::into_inner(reader), ManuallyDrop::into_inner(bus)));
}

#[test]
fn loom_an_exclusive_publisher_that_finds_the_lane_closed_tells_who_waits() {
    explore(PREEMPTIONS, close_before_exclusive_publish);
}

#[test]
fn loom_twins_of_the_exclusive_publisher_that_tells_fail() {
    each_twin_fails(&["bus.shut.fence"], close_before_exclusive_publish);
}
