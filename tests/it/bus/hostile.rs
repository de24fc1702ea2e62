//! Payloads and handlers that panic: the panic passes through, and the bus goes on.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use futures_core::Stream;
use phalanx::bus::{Filter, Overflow, RecvError, RecvTimeoutError, TryRecvError};

use super::{block_on, bus, panics};

/// A payload whose clone panics for odd numbers.
#[derive(Debug)]
struct OddClone(u32);

impl Clone for OddClone {
    fn clone(&self) -> Self {
        assert!(self.0.is_multiple_of(2), "a hostile clone");
        Self(self.0)
    }
}

#[test]
fn a_clone_that_panics_costs_one_event_and_holds_up_nobody() {
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let (bus, topic) = bus(2);
        let publisher = bus.publisher();
        let mut reader = bus.subscribe(Filter::all(), overflow);
        for round in 0..3 {
            publisher.try_publish(topic, OddClone(2 * round + 1)).expect("room");
            publisher.try_publish(topic, OddClone(2 * round)).expect("room");
            match round {
                0 => assert!(panics(|| reader.recv())),
                1 => assert!(panics(|| reader.try_recv())),
                _ => assert!(panics(|| block_on(reader.recv_async()))),
            }
            assert_eq!(reader.recv().expect("the next").payload.0, 2 * round);
        }
        assert_eq!(reader.stats().delivered, 6);
    }
}

#[test]
fn what_was_skipped_before_a_clone_that_panics_is_counted() {
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let (bus, topic) = bus(8);
        let other = bus.topic("other").expect("valid");
        let mut reader = bus.subscribe(Filter::topics(["test/*"]).expect("valid"), overflow);
        for (topic, number) in [(other, 2), (other, 4), (topic, 1), (topic, 6)] {
            bus.publisher().publish(topic, OddClone(number)).expect("room");
        }
        assert!(panics(|| reader.recv()));
        let stats = reader.stats();
        assert_eq!((stats.delivered, stats.skipped, stats.depth), (1, 2, 1));
        assert_eq!(reader.recv().expect("the next").payload.0, 6);
    }
}

#[test]
fn a_clone_that_panics_within_a_batch_costs_one_event() {
    let (bus, topic) = bus(4);
    let mut reader = bus.subscribe(Filter::all(), Overflow::DropOldest);
    for i in [0, 1, 2] {
        bus.publisher().publish(topic, OddClone(i)).expect("room");
    }
    let mut seen = Vec::new();
    assert!(panics(|| reader.for_each_batch(|event| seen.push(event.payload.0))));
    assert_eq!(reader.for_each_batch(|event| seen.push(event.payload.0)), Ok(1));
    assert_eq!(seen, [0, 2]);
    for i in 0..8 {
        bus.publisher().try_publish(topic, OddClone(i)).expect("no pin was left");
    }
}

#[test]
fn a_handler_that_panics_ends_its_subscription_and_no_other() {
    for overflow in [Overflow::Block, Overflow::DropOldest, Overflow::Fail] {
        let (bus, topic) = bus(4);
        let publisher = bus.publisher();
        let mut reader = bus.subscribe(Filter::all(), overflow);
        let mut other = bus.subscribe(Filter::all(), Overflow::Block);
        for i in 0..4 {
            publisher.publish(topic, i).expect("room");
        }
        let mut seen = Vec::new();
        assert!(panics(|| reader.for_each_batch(|event| {
            seen.push(*event.payload);
            assert!(*event.payload != 1, "a hostile handler");
        })));
        assert_eq!(seen, [0, 1]);
        let stats = reader.stats();
        assert_eq!((stats.delivered, stats.dropped, stats.depth), (2, 2, 0), "{overflow:?}");
        let whole = bus.stats();
        assert_eq!((whole.handler_panics, whole.subscribers), (1, 1));
        assert_eq!((whole.delivered, whole.dropped), (2, 2));

        assert_eq!(reader.recv(), Err(RecvError::HandlerPanicked));
        assert_eq!(reader.try_recv(), Err(TryRecvError::HandlerPanicked));
        let timed = reader.recv_timeout(Duration::MAX);
        assert_eq!(timed, Err(RecvTimeoutError::HandlerPanicked));
        assert_eq!(block_on(reader.recv_async()), Err(RecvError::HandlerPanicked));
        assert_eq!(reader.for_each_batch(|_| {}), Err(RecvError::HandlerPanicked));

        assert_eq!(other.for_each_batch(|_| {}), Ok(4));
        for i in 4..8 {
            publisher.try_publish(topic, i).expect("what ended holds nothing");
        }
        assert_eq!(reader.stats(), stats, "its counters stay what they were");
        drop(reader);
        assert_eq!(bus.stats().dropped, 2, "it is not counted out twice");
    }
}

#[test]
fn a_reader_dropped_by_a_panic_in_its_handler_frees_the_ring() {
    let (bus, topic) = bus(2);
    let publisher = bus.publisher();
    for _ in 0..3 {
        let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
        publisher.try_publish(topic, 0).expect("room");
        publisher.try_publish(topic, 1).expect("room");
        assert!(panics(move || reader.for_each_batch(|_| panic!("a hostile handler"))));
    }
    assert_eq!(bus.stats().subscribers, 0);
    assert_eq!(bus.stats().delivered, 3);
}

/// A payload whose drop panics once it is armed, and counts in any case.
#[derive(Clone)]
struct Bomb {
    armed: Arc<AtomicBool>,
    drops: Arc<AtomicUsize>,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::SeqCst);
        assert!(!self.armed.swap(false, Ordering::SeqCst), "a hostile drop");
    }
}

#[test]
fn a_drop_that_panics_in_a_publisher_leaves_its_event_published() {
    let (bus, topic) = bus(2);
    let publisher = bus.publisher();
    let mut reader = bus.subscribe_in_place(Filter::all());
    let drops = Arc::new(AtomicUsize::new(0));
    let bomb = |armed| Bomb { armed: Arc::new(AtomicBool::new(armed)), drops: Arc::clone(&drops) };
    publisher.try_publish(topic, bomb(true)).unwrap_or_else(|_| panic!("room"));
    publisher.try_publish(topic, bomb(false)).unwrap_or_else(|_| panic!("room"));
    assert_eq!(reader.for_each_batch(|_| {}), Ok(2));
    assert!(panics(|| publisher.try_publish(topic, bomb(false)).is_ok()));
    assert_eq!(bus.stats().published, 3);
    assert_eq!(reader.for_each_batch(|event| assert_eq!(event.sequence, 2)), Ok(1));
    assert!(publisher.try_publish(topic, bomb(false)).is_ok());
    assert_eq!(drops.load(Ordering::SeqCst), 2);
    drop((bus, publisher, reader));
    assert_eq!(drops.load(Ordering::SeqCst), 4, "each payload is dropped once");
}

#[test]
fn a_drop_that_panics_at_the_end_of_the_bus_does_not_keep_the_rest() {
    let (bus, topic) = bus(8);
    let drops = Arc::new(AtomicUsize::new(0));
    for i in 0..11 {
        let bomb = Bomb { armed: Arc::new(AtomicBool::new(i == 5)), drops: Arc::clone(&drops) };
        assert!(bus.publisher().try_publish(topic, bomb).is_ok());
    }
    assert_eq!(drops.load(Ordering::SeqCst), 3, "what was overwritten");
    assert!(panics(|| drop(bus)));
    assert_eq!(drops.load(Ordering::SeqCst), 11);
}

#[test]
fn a_handler_may_use_the_bus_that_it_is_called_from() {
    let (bus, topic) = bus(4);
    let publisher = bus.publisher();
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    publisher.publish(topic, 3_u32).expect("room");
    let mut handled = 0;
    while handled < 4 {
        handled += reader
            .for_each_batch(|event| {
                if let Some(next) = event.payload.checked_sub(1) {
                    publisher.try_publish(topic, next).expect("room for one at a time");
                }
                drop(bus.subscribe(Filter::all(), Overflow::Block));
                assert_eq!(bus.stats().subscribers, 1);
            })
            .expect("open");
    }
    assert_eq!(reader.try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn a_waker_whose_drop_panics_does_not_keep_a_subscription_from_ending() {
    struct HostileDrop;
    impl Wake for HostileDrop {
        fn wake(self: Arc<Self>) {}
    }
    impl Drop for HostileDrop {
        fn drop(&mut self) {
            panic!("a hostile drop");
        }
    }
    let (bus, topic) = bus(2);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    {
        let waker = Waker::from(Arc::new(HostileDrop));
        let mut cx = Context::from_waker(&waker);
        assert!(Pin::new(&mut reader).poll_next(&mut cx).is_pending());
    }
    assert!(panics(|| drop(reader)), "the panic passes through");
    assert_eq!(bus.stats().subscribers, 0);
    for i in 0..6 {
        bus.publisher().try_publish(topic, i).expect("nothing is held");
    }
}
