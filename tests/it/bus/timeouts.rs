//! Waits that end by the clock, which these tests move by hand.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake};
use std::thread;
use std::time::Duration;

use futures_core::Stream;
use phalanx::bus::{EventBus, Filter, Overflow, PublishTimeoutError, RecvTimeoutError, Subscriber};
use phalanx::{Clock, ManualClock};

const MINUTE: Duration = Duration::from_secs(60);

fn bus(clock: Clock) -> EventBus<u32> {
    EventBus::builder().capacity(2).clock(clock).build().expect("valid")
}

fn wait_for_sleepers(hand: &ManualClock, count: usize) {
    while hand.sleepers() < count {
        thread::yield_now();
    }
}

#[test]
fn a_receive_ends_when_its_time_has_run_out_and_not_before() {
    let (clock, hand) = ManualClock::new();
    let bus = bus(clock);
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let mut reader = bus.subscribe(Filter::all(), overflow);
        thread::scope(|scope| {
            let reading = scope.spawn(move || reader.recv_timeout(MINUTE));
            wait_for_sleepers(&hand, 1);
            hand.advance(MINUTE - Duration::from_nanos(1));
            assert_eq!(hand.sleepers(), 1);
            hand.advance(Duration::from_nanos(1));
            assert_eq!(reading.join().expect("no panic"), Err(RecvTimeoutError::Timeout));
        });
    }
}

#[test]
fn an_event_ends_a_timed_receive_while_the_clock_stands_still() {
    let (clock, hand) = ManualClock::new();
    let bus = bus(clock);
    let topic = bus.topic("t").expect("valid");
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    thread::scope(|scope| {
        let reading = scope.spawn(move || reader.recv_timeout(MINUTE));
        wait_for_sleepers(&hand, 1);
        bus.publisher().publish(topic, 3).expect("room");
        assert_eq!(reading.join().expect("no panic").expect("in time").payload, 3);
    });
    assert_eq!(hand.sleepers(), 0);
}

#[test]
fn a_receive_that_waits_beside_a_stream_leaves_nothing_of_either_behind() {
    #[derive(Default)]
    struct Woken(AtomicUsize);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    for is_dropped in [false, true] {
        let (clock, hand) = ManualClock::new();
        let bus = bus(clock);
        let topic = bus.topic("t").expect("valid");
        let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        assert!(Pin::new(&mut reader).poll_next(&mut Context::from_waker(&waker)).is_pending());
        thread::scope(|scope| {
            let reading = scope.spawn(|| reader.recv_timeout(MINUTE));
            wait_for_sleepers(&hand, 1);
            hand.advance(MINUTE);
            assert_eq!(reading.join().expect("no panic"), Err(RecvTimeoutError::Timeout));
        });
        let reader = (!is_dropped).then_some(reader);
        bus.publisher().publish(topic, 3).expect("room");
        // The stream waits for as long as it is there.
        assert_eq!(woken.0.load(Ordering::SeqCst), usize::from(reader.is_some()));
    }
}

#[test]
fn a_publish_ends_when_its_time_has_run_out_and_hands_the_payload_back() {
    let (clock, hand) = ManualClock::new();
    let bus = bus(clock);
    let topic = bus.topic("t").expect("valid");
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let publisher = bus.publisher();
    for i in 0..2 {
        publisher.publish_timeout(topic, i, Duration::ZERO).expect("room needs no time");
    }
    let refused = publisher.publish_timeout(topic, 2, Duration::ZERO);
    assert!(matches!(refused, Err(PublishTimeoutError::Timeout(2))));
    thread::scope(|scope| {
        let late = scope.spawn(|| publisher.publish_timeout(topic, 2, MINUTE));
        let in_time = scope.spawn(|| publisher.publish_timeout(topic, 3, 2 * MINUTE));
        wait_for_sleepers(&hand, 2);
        hand.advance(MINUTE);
        let late = late.join().expect("no panic");
        assert!(matches!(late, Err(PublishTimeoutError::Timeout(2))), "{late:?}");
        assert_eq!(reader.recv().expect("there").payload, 0);
        assert_eq!(in_time.join().expect("no panic").expect("room in time"), 2);
    });
    let stats = bus.stats();
    assert_eq!((stats.published, stats.refused_publishes), (3, 2));
}

#[test]
fn a_close_or_an_end_of_a_subscription_wakes_those_who_are_parked() {
    for close in [true, false] {
        let (clock, hand) = ManualClock::new();
        let bus = bus(clock);
        let topic = bus.topic("t").expect("valid");
        let behind = bus.subscribe(Filter::all(), Overflow::Block);
        let publisher = bus.publisher();
        for i in 0..2 {
            publisher.publish(topic, i).expect("room");
        }
        let mut idle = bus.subscribe(Filter::all(), Overflow::DropOldest);
        thread::scope(|scope| {
            let publishing = scope.spawn(|| publisher.publish_timeout(topic, 2, MINUTE));
            // The reader is kept until the publisher is back: its end would wake the publisher too.
            let reading = scope.spawn(move || (idle.recv_timeout(MINUTE), idle));
            wait_for_sleepers(&hand, 2);
            if close {
                bus.close();
                let refused = publishing.join().expect("no panic");
                assert!(matches!(refused, Err(PublishTimeoutError::Closed(2))), "{refused:?}");
                assert_eq!(reading.join().expect("no panic").0, Err(RecvTimeoutError::Closed));
            } else {
                drop(behind);
                assert_eq!(publishing.join().expect("no panic").expect("room"), 2);
                let (event, _idle) = reading.join().expect("no panic");
                assert_eq!(event.expect("published").payload, 2);
            }
        });
    }
}

#[test]
fn room_given_to_a_publisher_whose_time_is_over_goes_to_the_next() {
    // One slot is freed at the moment at which the first waiter's time runs out: whichever of the two
    // gets it, the slot is not left empty while one still waits.
    for _ in 0..200 {
        let (clock, hand) = ManualClock::new();
        let bus = bus(clock);
        let topic = bus.topic("t").expect("valid");
        let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
        let publisher = bus.publisher();
        for i in 0..2 {
            publisher.publish(topic, i).expect("room");
        }
        thread::scope(|scope| {
            let short = scope.spawn(|| publisher.publish_timeout(topic, 10, MINUTE).is_ok());
            wait_for_sleepers(&hand, 1);
            let long = scope.spawn(|| publisher.publish(topic, 11).is_ok());
            while bus.stats().blocked_publishes < 2 {
                thread::yield_now();
            }
            let moving = scope.spawn(|| hand.advance(MINUTE));
            reader.recv().expect("there");
            moving.join().expect("no panic");
            if short.join().expect("no panic") {
                reader.recv().expect("there");
            }
            assert!(long.join().expect("no panic"));
        });
    }
}

/// A waker of the host's that panics.
struct Hostile;

impl Wake for Hostile {
    fn wake(self: Arc<Self>) {
        panic!("a hostile waker");
    }
}

/// Fills a ring of two, has a reader that keeps up wait with a hostile waker and so many publishers wait
/// for room, and then acts. Says how each of the publishers ended; `None` for a panic.
fn publish_beside_a_hostile_waker(
    publishers: usize,
    act: impl FnOnce(&EventBus<u32>, &mut Option<Subscriber<u32>>),
) -> Vec<Option<bool>> {
    let (clock, hand) = ManualClock::new();
    let bus = bus(clock);
    let topic = bus.topic("t").expect("valid");
    let mut slow = Some(bus.subscribe(Filter::all(), Overflow::Block));
    let mut quick = bus.subscribe(Filter::all(), Overflow::Block);
    for i in 0..2 {
        bus.publisher().publish(topic, i).expect("room");
        quick.recv().expect("it is there");
    }
    let waker = Arc::new(Hostile).into();
    let mut waits = quick.recv_async();
    assert!(Pin::new(&mut waits).poll(&mut Context::from_waker(&waker)).is_pending());
    let (tell, told) = mpsc::channel();
    for i in 0..publishers {
        let (tell, publisher) = (tell.clone(), bus.publisher());
        thread::spawn(move || {
            let published = catch_unwind(AssertUnwindSafe(|| {
                publisher.publish_timeout(topic, i as u32, MINUTE).is_ok()
            }));
            let _ = tell.send(published.ok());
        });
    }
    wait_for_sleepers(&hand, publishers);
    act(&bus, &mut slow);
    // The clock stands still, so a publisher that nobody wakes is missed here.
    let ends = (0..publishers).map(|_| told.recv_timeout(MINUTE));
    ends.collect::<Result<_, _>>().expect("every publisher is woken")
}

#[test]
fn a_waker_that_panics_in_a_publisher_does_not_keep_the_next_one_from_its_room() {
    let mut ends = publish_beside_a_hostile_waker(2, |_, slow| *slow = None);
    ends.sort_unstable();
    assert_eq!(ends, [None, Some(true)], "the first of them met the panic, and its event is out");
}

#[test]
fn a_waker_that_panics_does_not_keep_a_close_from_the_publishers() {
    let ends = publish_beside_a_hostile_waker(1, |bus, _| {
        assert!(catch_unwind(AssertUnwindSafe(|| bus.close())).is_err());
        assert!(bus.is_closed());
    });
    assert_eq!(ends, [Some(false)]);
}
