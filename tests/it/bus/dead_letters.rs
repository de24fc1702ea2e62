//! Dead letters: which events become one, who gets them, and what a full subscriber loses.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake};
use std::thread;

use phalanx::bus::{
    DeadLetterReason, DeadLetters, EventBus, Filter, Overflow, RecvError, RecvTimeoutError,
    Subscriber, Topic, TryRecvError,
};

use super::{Woken, block_on, bus, poll_once};

fn published(events: u64) -> (EventBus<u64>, Topic) {
    let (bus, topic) = bus(16);
    drop(bus.subscribe_in_place(Filter::all()));
    for event in 0..events {
        bus.publisher().publish(topic, event).expect("room");
    }
    (bus, topic)
}

/// Makes so many dead letters by rejection.
fn reject(bus: &EventBus<u64>, topic: Topic, events: std::ops::Range<u64>) {
    let group = bus.group(Filter::all(), Overflow::Block).build().expect("valid");
    let mut member = group.member();
    for event in events {
        bus.publisher().publish(topic, event).expect("room");
        member.recv().expect("there").reject().expect("present");
    }
}

fn next(letters: &mut DeadLetters<u64>) -> (u64, DeadLetterReason) {
    let letter = letters.try_recv().expect("a letter");
    (letter.event().payload, letter.reason())
}

#[test]
fn each_reason_is_told() {
    let (bus, topic) = bus(16);
    let mut letters = bus.dead_letters(16);
    let group = bus.group(Filter::all(), Overflow::Block).attempts_max(2).build().expect("valid");
    let mut member = group.member();
    for event in 0..4 {
        bus.publisher().publish(topic, event).expect("room");
    }
    member.recv().expect("there").reject().expect("present");
    member.recv().expect("there").nack();
    drop(member.recv().expect("again"));
    let held = member.recv().expect("there");
    assert_eq!(next(&mut letters), (0, DeadLetterReason::Rejected));
    assert_eq!(next(&mut letters), (1, DeadLetterReason::AttemptsExhausted { attempts: 2 }));
    assert_eq!(letters.try_recv().err(), Some(TryRecvError::Empty));
    drop((member, group));
    assert_eq!(next(&mut letters), (2, DeadLetterReason::Unacknowledged));
    assert_eq!(letters.try_recv().err(), Some(TryRecvError::Empty), "the last was never taken");
    assert!(held.ack().is_err(), "its group is gone");
    assert_eq!((bus.stats().dead_letters, bus.stats().dropped), (3, 1));
}

#[test]
fn the_event_whose_handler_panicked_is_a_dead_letter() {
    for overflow in [Overflow::Block, Overflow::DropOldest, Overflow::Fail] {
        for at in 0..12 {
            let (bus, topic) = bus(16);
            let mut letters = bus.dead_letters(16);
            let mut reader = bus.subscribe(Filter::all(), overflow);
            for event in 0..12_u64 {
                bus.publisher().publish(topic, event).expect("room");
            }
            let handler = AssertUnwindSafe(|| {
                reader.for_each_batch(|event| assert_ne!(*event.payload, at, "a bad one"))
            });
            assert!(catch_unwind(handler).is_err());
            let letter = letters.try_recv().expect("a letter");
            assert_eq!(letter.reason(), DeadLetterReason::HandlerPanicked);
            let event = letter.into_event();
            assert_eq!((event.payload, event.sequence, event.topic), (at, at, topic));
            assert_eq!(letters.try_recv().err(), Some(TryRecvError::Empty));
            assert_eq!(bus.stats().dead_letters, 1);
        }
    }
}

#[test]
fn a_payload_that_is_not_clone_dies_without_a_letter() {
    struct Unique;
    let (bus, topic) = bus(4);
    let mut letters = bus.dead_letters(4);
    let mut reader = bus.subscribe_in_place(Filter::all());
    bus.publisher().publish(topic, Unique).expect("room");
    let handler = AssertUnwindSafe(|| reader.for_each_batch(|_| panic!("a hostile handler")));
    assert!(catch_unwind(handler).is_err());
    assert_eq!(letters.try_recv().err(), Some(TryRecvError::Empty));
    assert_eq!((bus.stats().dead_letters, bus.stats().handler_panics), (0, 1));
}

#[test]
fn a_clone_that_panics_beside_its_handler_ends_nothing_else() {
    struct Hostile(u64);
    impl Clone for Hostile {
        fn clone(&self) -> Self {
            panic!("a hostile clone")
        }
    }
    let (bus, topic) = bus(4);
    let mut letters = bus.dead_letters(4);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    bus.publisher().publish(topic, Hostile(1)).expect("room");
    let handler =
        AssertUnwindSafe(|| reader.for_each_batch(|event| panic!("handler {}", event.payload.0)));
    let panic = catch_unwind(handler).expect_err("the handler panicked");
    assert_eq!(panic.downcast_ref::<String>().map(String::as_str), Some("handler 1"));
    assert_eq!(letters.try_recv().err(), Some(TryRecvError::Empty));
    for _ in 0..10 {
        bus.publisher().publish(topic, Hostile(2)).expect("nothing is held");
    }
}

#[test]
fn without_a_subscriber_letters_are_counted_and_dropped() {
    let (bus, topic) = published(0);
    reject(&bus, topic, 0..3);
    assert_eq!(bus.stats().dead_letters, 3);
    let mut late = bus.dead_letters(4);
    assert_eq!(late.try_recv().err(), Some(TryRecvError::Empty));
    reject(&bus, topic, 3..4);
    assert_eq!(next(&mut late), (3, DeadLetterReason::Rejected));
    assert_eq!(bus.stats().dead_letters, 4);
}

#[test]
fn a_full_subscriber_loses_the_oldest_letters_and_is_told() {
    let (bus, topic) = published(0);
    let (mut small, mut large, mut none) =
        (bus.dead_letters(2), bus.dead_letters(9), bus.dead_letters(0));
    reject(&bus, topic, 0..3);
    assert_eq!(small.recv().err(), Some(RecvError::Lagged { missed: 1, from: 0, lane: 0 }));
    assert_eq!(next(&mut small).0, 1);
    reject(&bus, topic, 3..6);
    assert_eq!(small.recv().err(), Some(RecvError::Lagged { missed: 2, from: 2, lane: 0 }));
    assert_eq!((next(&mut small).0, next(&mut small).0), (4, 5));
    assert_eq!(small.try_recv().err(), Some(TryRecvError::Empty));
    for event in 0..6 {
        assert_eq!(next(&mut large).0, event, "each subscriber gets each letter");
    }
    assert_eq!(none.try_recv().err(), Some(TryRecvError::Lagged { missed: 6, from: 0, lane: 0 }));
    assert_eq!(none.try_recv().err(), Some(TryRecvError::Empty));
    assert_eq!((small.capacity(), none.capacity()), (2, 0));
}

#[test]
fn letters_end_when_nobody_is_left_who_could_send_one() {
    let (bus, topic) = bus::<u64>(16);
    let mut letters = bus.dead_letters(4);
    let reader: Subscriber<u64> = bus.subscribe(Filter::all(), Overflow::Block);
    let group = bus.group(Filter::all(), Overflow::Block).build().expect("valid");
    let mut member = group.member();
    bus.publisher().publish(topic, 1).expect("room");
    let delivery = member.recv().expect("there");
    let woken = Arc::new(Woken::default());
    let mut future = letters.recv_async();
    assert!(poll_once(&mut future, &woken).is_pending());
    bus.close();
    assert!(poll_once(&mut future, &woken).is_pending());
    drop(reader);
    assert!(poll_once(&mut future, &woken).is_pending());
    assert_eq!(woken.count(), 0);
    drop((group, member));
    assert_eq!(woken.count(), 1);
    match poll_once(&mut future, &woken) {
        Poll::Ready(Ok(letter)) => assert_eq!(letter.reason(), DeadLetterReason::Unacknowledged),
        other => panic!("{other:?}"),
    }
    drop((future, delivery));
    assert_eq!(letters.recv().err(), Some(RecvError::Closed));
    assert_eq!(letters.recv().err(), Some(RecvError::Closed));
}

#[test]
fn a_waiting_future_is_woken_by_the_end() {
    let (bus, _) = bus::<u64>(4);
    let mut letters = bus.dead_letters(4);
    let reader = bus.subscribe(Filter::all(), Overflow::Block);
    let woken = Arc::new(Woken::default());
    let mut future = letters.recv_async();
    bus.close();
    assert!(poll_once(&mut future, &woken).is_pending());
    drop(reader);
    assert_eq!(woken.count(), 1);
    assert!(matches!(poll_once(&mut future, &woken), Poll::Ready(Err(RecvError::Closed))));
    drop(future);

    let mut letters = bus.dead_letters(4);
    assert_eq!(letters.try_recv().err(), Some(TryRecvError::Closed), "it began at the end");
}

#[test]
fn a_future_dropped_at_any_poll_loses_no_letter() {
    let (bus, topic) = published(0);
    let mut letters = bus.dead_letters(4);
    for event in 0..8 {
        let woken = Arc::new(Woken::default());
        let mut future = letters.recv_async();
        if event % 2 == 0 {
            assert!(poll_once(&mut future, &woken).is_pending());
        }
        if event % 4 < 2 {
            drop(future);
            reject(&bus, topic, event..event + 1);
            assert_eq!(woken.count(), 0, "a future that is gone was woken");
        } else {
            reject(&bus, topic, event..event + 1);
            assert_eq!(woken.count(), usize::from(event % 2 == 0));
            drop(future);
        }
        assert_eq!(next(&mut letters).0, event);
    }
}

#[cfg(feature = "test-util")]
#[test]
fn a_wait_for_a_letter_ends_by_the_clock_of_the_bus() {
    use phalanx::ManualClock;
    use std::time::Duration;

    let (clock, hand) = ManualClock::new();
    let bus = EventBus::<u64>::builder().capacity(4).clock(clock).build().expect("valid");
    let mut letters = bus.dead_letters(4);
    let waiting = thread::spawn(move || letters.recv_timeout(Duration::from_secs(9)).err());
    while hand.sleepers() == 0 {
        thread::yield_now();
    }
    hand.advance(Duration::from_secs(9));
    assert_eq!(waiting.join().expect("no panic"), Some(RecvTimeoutError::Timeout));
}

#[test]
fn a_thread_and_a_future_wait_for_letters_while_members_make_them() {
    const EVENTS: u64 = 2_000;
    let (bus, topic) = published(0);
    let (mut first, mut second) = (bus.dead_letters(9_999), bus.dead_letters(9_999));
    thread::scope(|scope| {
        let threads = scope.spawn(move || {
            let mut seen = Vec::new();
            while let Ok(letter) = first.recv() {
                seen.push(letter.event().payload);
            }
            seen
        });
        let futures = scope.spawn(move || {
            let mut seen = Vec::new();
            while let Ok(letter) = block_on(second.recv_async()) {
                seen.push(letter.event().payload);
            }
            seen
        });
        reject(&bus, topic, 0..EVENTS);
        bus.close();
        for seen in [threads, futures] {
            assert!(seen.join().expect("no panic").into_iter().eq(0..EVENTS));
        }
    });
}

#[test]
fn wakers_that_panic_keep_no_letter_from_anybody() {
    struct Hostile;
    impl Wake for Hostile {
        fn wake(self: Arc<Self>) {
            panic!("a hostile waker");
        }
    }
    let (bus, topic) = bus(4);
    let (mut first, mut second) = (bus.dead_letters(4), bus.dead_letters(4));
    let group = bus.group(Filter::all(), Overflow::Block).build().expect("valid");
    let mut member = group.member();
    for letters in [&mut first, &mut second] {
        let waker = Arc::new(Hostile).into();
        let mut future = letters.recv_async();
        assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
        // Its waker stays.
        std::mem::forget(future);
    }
    bus.publisher().publish(topic, 7).expect("room");
    let delivery = member.recv().expect("there");
    let rejected = catch_unwind(AssertUnwindSafe(|| delivery.reject()));
    assert!(rejected.is_err(), "the panic passes through");
    assert_eq!((bus.stats().dead_letters, group.stats().dead_lettered), (1, 1));
    for letters in [&mut first, &mut second] {
        assert_eq!(next(letters), (7, DeadLetterReason::Rejected));
    }
}

#[test]
fn a_payload_whose_drop_panics_makes_room_for_the_next_letter() {
    #[derive(Clone, Debug)]
    struct Hostile(u64, Arc<AtomicBool>);
    impl Drop for Hostile {
        fn drop(&mut self) {
            assert!(!self.1.load(Ordering::SeqCst), "a hostile drop");
        }
    }
    let armed = Arc::new(AtomicBool::new(false));
    let (bus, topic) = bus(4);
    let mut letters = bus.dead_letters(1);
    let group = bus.group(Filter::all(), Overflow::Block).build().expect("valid");
    let mut member = group.member();
    for event in 0..2 {
        bus.publisher().publish(topic, Hostile(event, Arc::clone(&armed))).expect("room");
    }
    member.recv().expect("there").reject().expect("present");
    let second = member.recv().expect("there");
    armed.store(true, Ordering::SeqCst);
    let rejected = catch_unwind(AssertUnwindSafe(|| second.reject()));
    assert!(rejected.is_err(), "the panic passes through");
    armed.store(false, Ordering::SeqCst);
    assert!(matches!(letters.try_recv(), Err(TryRecvError::Lagged { missed: 1, from: 0, .. })));
    assert_eq!(letters.try_recv().expect("a letter").event().payload.0, 1);
}

#[test]
fn a_payload_whose_drop_panics_keeps_nobody_from_the_end() {
    #[derive(Clone, Debug)]
    struct Hostile(Arc<AtomicBool>);
    impl Drop for Hostile {
        fn drop(&mut self) {
            assert!(!self.0.load(Ordering::SeqCst), "a hostile drop");
        }
    }
    /// Drops the letters of another when it is woken.
    struct Dropping(Mutex<Option<DeadLetters<Hostile>>>);
    impl Wake for Dropping {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().expect("nothing panics").take());
        }
    }
    let armed = Arc::new(AtomicBool::new(false));
    let (bus, topic) = bus(4);
    let (mut first, second, mut third) =
        (bus.dead_letters(1), bus.dead_letters(1), bus.dead_letters(0));
    let group = bus.group(Filter::all(), Overflow::Block).build().expect("valid");
    let mut member = group.member();
    bus.publisher().publish(topic, Hostile(Arc::clone(&armed))).expect("room");
    member.recv().expect("there").reject().expect("present");
    drop((member, group));
    drop(first.try_recv());
    assert!(matches!(third.try_recv(), Err(TryRecvError::Lagged { missed: 1, .. })));
    let waker = Arc::new(Dropping(Mutex::new(Some(second)))).into();
    let mut future = first.recv_async();
    assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
    let woken = Arc::new(Woken::default());
    let mut other = third.recv_async();
    assert!(poll_once(&mut other, &woken).is_pending());
    armed.store(true, Ordering::SeqCst);
    let closed = catch_unwind(AssertUnwindSafe(|| bus.close()));
    armed.store(false, Ordering::SeqCst);
    assert!(closed.is_err(), "the panic passes through");
    assert_eq!(woken.count(), 1);
    assert!(matches!(poll_once(&mut other, &woken), Poll::Ready(Err(RecvError::Closed))));
}
