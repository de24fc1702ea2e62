//! `Overflow::Fail`, and where a subscription starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use phalanx::ErrorKind;
use phalanx::bus::{
    EventBus, Filter, Overflow, PublishBatchError, PublishError, PublishTimeoutError, RecvError,
    Start, TryPublishError, TryRecvError, WaitStrategy,
};

use super::{Woken, bus, each_kind, numbers, poll_once};

#[test]
fn a_failing_subscription_a_full_ring_behind_fails_every_way_to_publish() {
    for kind in each_kind() {
        for capacity in [2, 4, 64] {
            let (bus, topic) = bus(capacity);
            let ring = capacity as u64;
            let mut failing = bus.subscribe(Filter::all(), Overflow::Fail);
            let mut publisher = kind(&bus);
            for i in 0..ring {
                assert_eq!(publisher.publish(topic, i).expect("it is not behind yet"), i);
            }
            for _ in 0..2 {
                assert!(matches!(publisher.publish(topic, 70), Err(PublishError::Full(70))));
                assert!(matches!(publisher.try_publish(topic, 70), Err(TryPublishError::Full(70))));
                let timed = match &mut publisher {
                    super::Any::Shared(one) => one.publish_timeout(topic, 70, Duration::MAX),
                    super::Any::Exclusive(one) => one.publish_timeout(topic, 70, Duration::MAX),
                };
                assert!(matches!(timed, Err(PublishTimeoutError::Full(70))));
                let woken = Arc::new(Woken::default());
                let polled = poll_once(&mut publisher.publish_async(topic, 70), &woken);
                assert!(matches!(polled, Poll::Ready(Err(PublishError::Full(70)))));
                let mut batch = numbers(70..75);
                let refused = publisher.publish_batch(topic, &mut batch);
                assert_eq!(refused, Err(PublishBatchError::Full { published: 0 }));
                assert!(batch.eq(70..75));
            }
            assert_eq!(bus.stats().blocked_publishes, 0, "nobody waited");
            assert_eq!(failing.recv().expect("kept").payload, 0);
            let mut batch = numbers(ring..ring + 5);
            let partly = publisher.publish_batch(topic, &mut batch);
            assert_eq!(partly, Err(PublishBatchError::Full { published: 1 }));
            assert!(batch.eq(ring + 1..ring + 5));
            assert_eq!(bus.stats().refused_publishes, 2 * 5 + 1, "whatever way was refused");
            for i in 1..=ring {
                assert_eq!(failing.recv().expect("it lost nothing").payload, i);
            }
            assert_eq!(failing.try_recv(), Err(TryRecvError::Empty));
        }
    }
}

#[test]
fn a_failing_subscription_that_ends_fails_nobody() {
    let (bus, topic) = bus(2);
    let failing = bus.subscribe(Filter::all(), Overflow::Fail);
    let mut blocking = bus.subscribe(Filter::all(), Overflow::Block);
    let publisher = bus.publisher();
    assert_eq!(publisher.publish_batch(topic, &mut numbers(0..2)), Ok(2));
    assert!(matches!(publisher.publish(topic, 2), Err(PublishError::Full(2))), "both are behind");
    assert_eq!(blocking.for_each_batch(|_| {}), Ok(2));
    assert!(matches!(publisher.publish(topic, 2), Err(PublishError::Full(2))));
    drop(failing);
    publisher.publish(topic, 2).expect("room");
    assert_eq!(bus.stats().dropped, 2, "what lay before it");
}

#[test]
fn a_failing_subscription_fails_nobody_who_waits_for_another_one() {
    let (bus, topic) = bus(2);
    let mut failing = bus.subscribe(Filter::all(), Overflow::Fail);
    let mut blocking = bus.subscribe(Filter::all(), Overflow::Block);
    let publisher = bus.publisher();
    assert_eq!(publisher.publish_batch(topic, &mut numbers(0..2)), Ok(2));
    assert_eq!(failing.for_each_batch(|_| {}), Ok(2));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| publisher.publish(topic, 2));
        while bus.stats().blocked_publishes < 1 {
            thread::yield_now();
        }
        assert_eq!(blocking.recv().expect("there").payload, 0);
        assert_eq!(waiting.join().expect("no panic").expect("room"), 2);
    });
}

#[test]
fn a_replay_starts_with_the_oldest_event_of_the_ring() {
    for overflow in [Overflow::Block, Overflow::DropOldest, Overflow::Fail] {
        for capacity in [2, 4, 16] {
            let (bus, topic) = bus(capacity);
            let subscribe = || {
                bus.subscribe_from(Filter::all(), overflow, Start::Oldest).expect("always valid")
            };
            let publisher = bus.publisher();
            assert_eq!(subscribe().try_recv(), Err(TryRecvError::Empty));
            let ring = capacity as u64;
            for published in 1..4 * ring {
                publisher.publish(topic, published - 1).expect("room");
                let mut reader = subscribe();
                // These rings are small enough for the way to be cleared for one event at a time.
                let oldest = published.saturating_sub(ring);
                for expected in oldest..published {
                    assert_eq!(reader.recv().expect("kept").payload, expected);
                }
                assert_eq!(reader.try_recv(), Err(TryRecvError::Empty));
                assert_eq!(reader.stats().lagged, 0, "it asked for no more than there was");
            }
        }
    }
}

#[test]
fn a_replay_holds_the_ring_like_any_other_subscription() {
    let (bus, topic) = bus(4);
    let publisher = bus.publisher();
    assert_eq!(publisher.publish_batch(topic, &mut numbers(0..6)), Ok(6));
    let mut blocking =
        bus.subscribe_from(Filter::all(), Overflow::Block, Start::Oldest).expect("valid");
    assert!(matches!(publisher.try_publish(topic, 6), Err(TryPublishError::Full(6))));
    assert_eq!(blocking.recv().expect("kept").payload, 2);
    publisher.try_publish(topic, 6).expect("room");
}

#[test]
fn a_replay_from_a_sequence_reports_what_is_gone() {
    for overflow in [Overflow::Block, Overflow::DropOldest, Overflow::Fail] {
        let (bus, topic) = bus(4);
        let publisher = bus.publisher();
        assert_eq!(publisher.publish_batch(topic, &mut numbers(0..10)), Ok(10));
        for from in 0..=10 {
            let start = Start::Sequence(from);
            let mut reader = bus.subscribe_from(Filter::all(), overflow, start).expect("published");
            let first = from.max(6);
            if from < first {
                let gap = RecvError::Lagged { missed: first - from, from, lane: 0 };
                match from % 3 {
                    0 => assert_eq!(reader.recv(), Err(gap)),
                    1 => assert_eq!(reader.for_each_batch(|_| {}), Err(gap)),
                    _ => assert_eq!(super::block_on(reader.recv_async()), Err(gap)),
                }
            }
            for expected in first..10 {
                assert_eq!(reader.recv().expect("kept").sequence, expected);
            }
            assert_eq!(reader.try_recv(), Err(TryRecvError::Empty));
            let stats = reader.stats();
            assert_eq!((stats.delivered, stats.lagged, stats.depth), (10 - first, first - from, 0));
        }
        for future in [11, 12, 1 << 61, (1 << 62) - 1, 1 << 62, u64::MAX] {
            let start = Start::Sequence(future);
            let error = bus.subscribe_from(Filter::all(), overflow, start).expect_err("not yet");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
        assert_eq!(bus.stats().subscribers, 0, "one that is refused leaves nothing behind");
        for i in 0..8 {
            publisher.try_publish(topic, i).expect("nobody holds the ring");
        }
    }
}

#[test]
fn a_gap_is_told_once_and_counted_at_once() {
    let (bus, topic) = bus(2);
    let publisher = bus.publisher();
    assert_eq!(publisher.publish_batch(topic, &mut numbers(0..5)), Ok(5));
    let start = Start::Sequence(1);
    let mut reader = bus.subscribe_from(Filter::all(), Overflow::DropOldest, start).expect("valid");
    assert_eq!(bus.stats().lagged, 2);
    // It loses more before it is told.
    assert_eq!(publisher.publish_batch(topic, &mut numbers(5..7)), Ok(2));
    assert_eq!(reader.recv(), Err(RecvError::Lagged { missed: 2, from: 1, lane: 0 }));
    assert_eq!(reader.recv(), Err(RecvError::Lagged { missed: 2, from: 3, lane: 0 }));
    assert_eq!(reader.recv().expect("kept").payload, 5);
    assert_eq!(bus.stats().lagged, 4);
}

#[test]
fn a_sequence_says_nothing_on_a_bus_of_several_lanes() {
    let bus = EventBus::<u8>::builder().capacity(4).lanes(2).build().expect("valid");
    let start = Start::Sequence(0);
    let error = bus.subscribe_from(Filter::all(), Overflow::Block, start).expect_err("no");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    bus.subscribe_from(Filter::all(), Overflow::Block, Start::Oldest).expect("each lane has one");
}

#[test]
fn replays_that_begin_while_a_publisher_waits_do_not_leave_it_asleep() {
    for overflow in [Overflow::DropOldest, Overflow::Block] {
        let bus = EventBus::builder().capacity(2).wait_strategy(WaitStrategy::Park).build();
        let bus = bus.expect("valid");
        let topic = bus.topic("t").expect("valid");
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let replaying = scope.spawn(|| {
                let mut rounds = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    let start =
                        if rounds.is_multiple_of(2) { Start::Oldest } else { Start::Sequence(0) };
                    let reader = bus.subscribe_from(Filter::all(), overflow, start).expect("valid");
                    if overflow == Overflow::DropOldest {
                        // Its end would wake the publisher.
                        std::mem::forget(reader);
                    }
                    rounds += 1;
                    if rounds > 2_000 {
                        break;
                    }
                }
            });
            let publisher = bus.publisher();
            for i in 0..10_000 {
                publisher.publish(topic, i).expect("open");
            }
            done.store(true, Ordering::Relaxed);
            replaying.join().expect("no panic");
        });
    }
}

#[test]
fn a_publisher_that_waits_fails_once_a_failing_subscription_is_all_that_is_in_its_way() {
    for kind in each_kind() {
        let (bus, topic) = bus(2);
        let blocking = bus.subscribe(Filter::all(), Overflow::Block);
        let mut publisher = kind(&bus);
        for i in 0..2 {
            publisher.publish(topic, i).expect("there is room");
        }
        let woken = Arc::new(Woken::default());
        let mut waiting = publisher.publish_async(topic, 2);
        assert!(poll_once(&mut waiting, &woken).is_pending());
        let failing = bus
            .subscribe_from(Filter::all(), Overflow::Fail, Start::Oldest)
            .expect("the oldest is there");
        drop(blocking);
        assert_eq!(woken.count(), 1, "it may as well fail as get room");
        let polled = poll_once(&mut waiting, &woken);
        assert!(matches!(polled, Poll::Ready(Err(PublishError::Full(2)))), "{polled:?}");
        drop((waiting, failing));
    }
}

#[test]
fn all_publishers_that_wait_fail_with_the_first() {
    let (bus, topic) = bus(2);
    let _blocking = bus.subscribe(Filter::all(), Overflow::Block);
    let publisher = bus.publisher();
    assert_eq!(publisher.publish_batch(topic, &mut numbers(0..2)), Ok(2));
    let wakers: Vec<_> = (0..3).map(|_| Arc::new(Woken::default())).collect();
    let mut waiting: Vec<_> = (2..5).map(|i| publisher.publish_async(topic, i)).collect();
    for (future, woken) in waiting.iter_mut().zip(&wakers) {
        assert!(poll_once(future, woken).is_pending());
    }
    let _failing = bus
        .subscribe_from(Filter::all(), Overflow::Fail, Start::Oldest)
        .expect("the oldest is there");
    for (future, woken) in waiting.iter_mut().zip(&wakers) {
        assert_eq!(woken.count(), 1);
        assert!(matches!(poll_once(future, woken), Poll::Ready(Err(PublishError::Full(_)))));
    }
}
