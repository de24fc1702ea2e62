//! A subscription as a stream: what is an item, what ends it, and dropped at any poll.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use phalanx::bus::{Event, Filter, Overflow, RecvError, Subscriber};

use super::{Woken, bus};

fn poll_next(
    reader: &mut Subscriber<u64>,
    woken: &Arc<Woken>,
) -> Poll<Option<Result<Event<u64>, RecvError>>> {
    let waker = Arc::clone(woken).into();
    Pin::new(reader).poll_next(&mut Context::from_waker(&waker))
}

fn payload(item: Poll<Option<Result<Event<u64>, RecvError>>>) -> u64 {
    match item {
        Poll::Ready(Some(Ok(event))) => event.payload,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_yields_events_and_ends_with_the_bus() {
    for overflow in [Overflow::Block, Overflow::DropOldest, Overflow::Fail] {
        let (bus, topic) = bus(4);
        let mut reader = bus.subscribe(Filter::all(), overflow);
        let woken = Arc::new(Woken::default());
        bus.publisher().publish(topic, 1).expect("room");
        assert_eq!(payload(poll_next(&mut reader, &woken)), 1);
        assert!(poll_next(&mut reader, &woken).is_pending());
        assert_eq!(woken.count(), 0);
        bus.publisher().publish(topic, 2).expect("room");
        assert_eq!(woken.count(), 1);
        assert_eq!(payload(poll_next(&mut reader, &woken)), 2);
        assert!(poll_next(&mut reader, &woken).is_pending());
        bus.publisher().publish(topic, 3).expect("room");
        bus.close();
        assert_eq!(payload(poll_next(&mut reader, &woken)), 3, "published before the close");
        for _ in 0..2 {
            assert_eq!(poll_next(&mut reader, &woken), Poll::Ready(None));
        }
    }
}

#[test]
fn a_pending_stream_learns_of_the_close() {
    let (bus, _) = bus::<u64>(4);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let woken = Arc::new(Woken::default());
    assert!(poll_next(&mut reader, &woken).is_pending());
    bus.close();
    assert_eq!(woken.count(), 1);
    assert_eq!(poll_next(&mut reader, &woken), Poll::Ready(None));
}

#[test]
fn a_loss_is_an_item_and_the_stream_goes_on() {
    let (bus, topic) = bus(2);
    let mut reader = bus.subscribe(Filter::all(), Overflow::DropOldest);
    let woken = Arc::new(Woken::default());
    for i in 0..5 {
        bus.publisher().publish(topic, i).expect("never full");
    }
    match poll_next(&mut reader, &woken) {
        Poll::Ready(Some(Err(RecvError::Lagged { missed: 3, from: 0, lane: 0 }))) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(payload(poll_next(&mut reader, &woken)), 3);
    assert_eq!(payload(poll_next(&mut reader, &woken)), 4);
    assert!(poll_next(&mut reader, &woken).is_pending());
}

#[test]
fn a_handler_that_panicked_ends_the_stream() {
    let (bus, topic) = bus(4);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    bus.publisher().publish(topic, 1).expect("room");
    let handling = AssertUnwindSafe(|| reader.for_each_batch(|_| panic!("a hostile handler")));
    assert!(catch_unwind(handling).is_err());
    let woken = Arc::new(Woken::default());
    assert_eq!(poll_next(&mut reader, &woken), Poll::Ready(None));
}

#[test]
fn a_stream_dropped_at_any_poll_loses_nothing_and_wakes_nobody() {
    const EVENTS: u64 = 4;
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        // Each event comes before the poll, between two polls, or after the stream was given up for a receive.
        for script in 0..3_u32.pow(EVENTS as u32) {
            let (bus, topic) = bus(8);
            let mut reader = bus.subscribe(Filter::all(), overflow);
            let publisher = bus.publisher();
            for event in 0..EVENTS {
                let woken = Arc::new(Woken::default());
                match script / 3_u32.pow(event as u32) % 3 {
                    0 => {
                        publisher.publish(topic, event).expect("room");
                        assert_eq!(payload(poll_next(&mut reader, &woken)), event);
                    }
                    1 => {
                        assert!(poll_next(&mut reader, &woken).is_pending());
                        publisher.publish(topic, event).expect("room");
                        assert_eq!(woken.count(), 1);
                        assert_eq!(payload(poll_next(&mut reader, &woken)), event);
                    }
                    _ => {
                        assert!(poll_next(&mut reader, &woken).is_pending());
                        publisher.publish(topic, event).expect("room");
                        assert_eq!(reader.try_recv().expect("there").payload, event);
                    }
                }
            }
            let woken = Arc::new(Woken::default());
            assert!(poll_next(&mut reader, &woken).is_pending());
            drop(reader);
            publisher.publish(topic, EVENTS).expect("room");
            assert_eq!(woken.count(), 0, "a stream that is gone was woken");
        }
    }
}
