//! The exclusive publisher: when there may be one, and what becomes of the others, of a close and of a wait.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use phalanx::ErrorKind;
use phalanx::bus::{
    EventBus, Filter, Overflow, PublishBatchError, PublishError, PublishTimeoutError, RecvError,
    TryPublishError, TryRecvError, WaitStrategy,
};

use super::{Woken, block_on, bus, poll_once};

#[test]
fn a_lane_has_one_exclusive_publisher_and_only_while_it_has_no_other() {
    let (bus, _) = bus::<u8>(4);
    let kind = || bus.exclusive_publisher().expect_err("the lane is in use").kind();
    let shared = bus.publisher();
    let clone = shared.clone();
    assert_eq!(kind(), ErrorKind::InUse);
    drop(shared);
    assert_eq!(kind(), ErrorKind::InUse, "a clone is a publisher");
    drop(clone);
    let exclusive = bus.exclusive_publisher().expect("nobody publishes");
    assert_eq!(kind(), ErrorKind::InUse);
    let beside = bus.publisher();
    drop(exclusive);
    assert_eq!(kind(), ErrorKind::InUse, "one that was made meanwhile");
    drop(beside);
    drop(bus.exclusive_publisher().expect("nobody publishes any more"));
    let missing = bus.exclusive_publisher_to(1).expect_err("no such lane");
    assert_eq!(missing.kind(), ErrorKind::InvalidArgument);
    bus.close();
    assert_eq!(kind(), ErrorKind::Closed);
}

#[test]
fn shared_publishers_are_refused_while_it_lives_and_admitted_after() {
    let (bus, topic) = bus(4);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let mut exclusive = bus.exclusive_publisher().expect("nobody publishes");
    let shared = bus.publisher();
    exclusive.publish(topic, 0).expect("room");
    for _ in 0..2 {
        assert!(matches!(shared.publish(topic, 1), Err(PublishError::Exclusive(1))));
        assert!(matches!(shared.try_publish(topic, 1), Err(TryPublishError::Exclusive(1))));
        let timed = shared.publish_timeout(topic, 1, Duration::MAX);
        assert!(matches!(timed, Err(PublishTimeoutError::Exclusive(1))));
        let made = shared.publish_with(topic, || unreachable!("nothing is made in vain"));
        assert!(matches!(made, Err(PublishError::Exclusive(_))));
        let awaited = block_on(shared.publish_async(topic, 1));
        assert!(matches!(awaited, Err(PublishError::Exclusive(1))));
        let mut batch = 1..4;
        let refused = shared.publish_batch(topic, &mut batch);
        assert_eq!(refused, Err(PublishBatchError::Exclusive { published: 0 }));
        assert_eq!(batch, 1..4, "it is all still there");
        exclusive.publish(topic, 0).expect("room");
    }
    drop(exclusive);
    assert_eq!(shared.publish(topic, 9).expect("admitted"), 3);
    for expected in [0, 0, 0, 9] {
        assert_eq!(reader.recv().expect("published").payload, expected);
    }
    assert_eq!(reader.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(bus.stats().published, 4, "what was refused is not counted as published");
}

#[test]
fn exclusive_and_shared_publishers_take_turns_over_many_laps() {
    for capacity in [2, 4, 64] {
        let (bus, topic) = bus(capacity);
        let mut blocking = bus.subscribe(Filter::all(), Overflow::Block);
        let mut dropping = bus.subscribe(Filter::all(), Overflow::DropOldest);
        let mut sequence = 0;
        for round in 0..50 {
            // Numbers that make the turns begin at every place of the ring.
            for _ in 0..round % 7 {
                if round % 2 == 0 {
                    let mut exclusive = bus.exclusive_publisher().expect("nobody publishes");
                    assert_eq!(exclusive.try_publish(topic, sequence).expect("room"), sequence);
                } else {
                    let shared = bus.publisher();
                    assert_eq!(shared.try_publish(topic, sequence).expect("room"), sequence);
                }
                for reader in [&mut blocking, &mut dropping] {
                    let event = reader.try_recv().expect("published");
                    assert_eq!((event.sequence, event.payload), (sequence, sequence));
                }
                sequence += 1;
            }
        }
    }
}

#[test]
fn a_full_ring_holds_it_until_there_is_room() {
    let (bus, topic) = bus(2);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let mut publisher = bus.exclusive_publisher().expect("nobody publishes");
    for i in 0..2 {
        publisher.try_publish(topic, i).expect("room");
    }
    assert!(matches!(publisher.try_publish(topic, 2), Err(TryPublishError::Full(2))));
    let timed = publisher.publish_timeout(topic, 2, Duration::ZERO);
    assert!(matches!(timed, Err(PublishTimeoutError::Timeout(2))));
    thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            publisher.publish(topic, 2).expect("open");
            publisher.publish_with(topic, || 3).expect("open");
            publisher.publish_batch(topic, &mut (4..20)).expect("open")
        });
        for expected in 0..20 {
            assert_eq!(reader.recv().expect("open").payload, expected);
        }
        assert_eq!(publishing.join().expect("no panic"), 16);
    });
}

#[test]
fn a_close_ends_its_wait_for_room() {
    for way in 0..4 {
        let bus = EventBus::builder().capacity(2).wait_strategy(WaitStrategy::Park).build();
        let bus = bus.expect("valid");
        let topic = bus.topic("t").expect("valid");
        let _behind = bus.subscribe(Filter::all(), Overflow::Block);
        let mut publisher = bus.exclusive_publisher().expect("nobody publishes");
        assert_eq!(publisher.publish_batch(topic, &mut (0..2)), Ok(2));
        thread::scope(|scope| {
            let waiting = scope.spawn(move || match way {
                0 => matches!(publisher.publish(topic, 2), Err(PublishError::Closed(2))),
                1 => matches!(publisher.publish_with(topic, || 2), Err(PublishError::Closed(_))),
                2 => {
                    let mut batch = 2..5;
                    let refused = publisher.publish_batch(topic, &mut batch);
                    refused == Err(PublishBatchError::Closed { published: 0 }) && batch == (2..5)
                }
                _ => {
                    let timed = publisher.publish_timeout(topic, 2, Duration::from_secs(3600));
                    matches!(timed, Err(PublishTimeoutError::Closed(2)))
                }
            });
            while bus.stats().blocked_publishes < 1 {
                thread::yield_now();
            }
            bus.close();
            assert!(waiting.join().expect("no panic"), "way {way}");
        });
        assert_eq!(bus.stats().published, 2);
    }
}

#[test]
fn a_close_while_it_is_idle_ends_readers_at_once() {
    let (bus, topic) = bus(4);
    let mut publisher = bus.exclusive_publisher().expect("nobody publishes");
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    publisher.publish(topic, 1).expect("room");
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            assert_eq!(reader.recv().expect("published").payload, 1);
            reader.recv()
        });
        bus.close();
        assert_eq!(reading.join().expect("no panic"), Err(RecvError::Closed));
    });
    assert!(matches!(publisher.publish(topic, 2), Err(PublishError::Closed(2))));
    assert!(matches!(publisher.try_publish(topic, 2), Err(TryPublishError::Closed(2))));
    drop(publisher);
    let shared = bus.publisher();
    assert!(matches!(shared.publish(topic, 2), Err(PublishError::Closed(2))), "it stays closed");
    assert_eq!(reader.try_recv(), Err(TryRecvError::Closed));
}

#[test]
fn an_event_that_it_is_writing_at_the_close_is_received_before_the_end() {
    let (bus, topic) = bus(4);
    let mut publisher = bus.exclusive_publisher().expect("nobody publishes");
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let woken = Arc::new(Woken::default());
    let mut future = reader.recv_async();
    assert!(poll_once(&mut future, &woken).is_pending());
    let sequence = publisher.publish_with(topic, || {
        bus.close();
        assert!(poll_once(&mut future, &woken).is_pending(), "an event is still to come");
        7
    });
    assert_eq!(sequence.expect("it had begun"), 0);
    assert!(woken.count() >= 2, "by the close, and by the event");
    assert_eq!(block_on(future).expect("the event").payload, 7);
    assert_eq!(reader.recv(), Err(RecvError::Closed));

    let mut late = bus.subscribe(Filter::all(), Overflow::DropOldest);
    assert_eq!(late.recv(), Err(RecvError::Closed));
}

#[test]
fn a_close_at_any_moment_leaves_no_reader_asleep() {
    for round in 0..400 {
        let bus = EventBus::builder().capacity(2).wait_strategy(WaitStrategy::Park).build();
        let bus = bus.expect("valid");
        let topic = bus.topic("t").expect("valid");
        let mut publisher = bus.exclusive_publisher().expect("nobody publishes");
        thread::scope(|scope| {
            let reading: Vec<_> = [Overflow::Block, Overflow::DropOldest]
                .map(|overflow| {
                    let mut reader = bus.subscribe(Filter::all(), overflow);
                    scope.spawn(move || {
                        loop {
                            match reader.recv() {
                                Err(RecvError::Closed) => break,
                                Err(RecvError::Lagged { .. }) | Ok(_) => {}
                                Err(error) => panic!("{error}"),
                            }
                        }
                        let stats = reader.stats();
                        stats.delivered + stats.lagged
                    })
                })
                .into_iter()
                .collect();
            let publishing = scope.spawn(move || {
                let mut published = 0;
                while publisher.publish(topic, round).is_ok() {
                    published += 1;
                }
                // What it finds closed it may try again.
                for _ in 0..3 {
                    assert!(publisher.try_publish(topic, round).is_err());
                }
                published
            });
            for _ in 0..round % 20 {
                thread::yield_now();
            }
            bus.close();
            let published = publishing.join().expect("no panic");
            for reader in reading {
                assert_eq!(reader.join().expect("no panic"), published);
            }
        });
    }
}

#[test]
fn it_keeps_the_bus_open_and_its_end_closes_it() {
    let (bus, topic) = bus(4);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let mut publisher = bus.exclusive_publisher().expect("nobody publishes");
    drop(bus);
    publisher.publish(topic, 1).expect("it is a handle that could publish");
    drop(publisher);
    assert_eq!(reader.recv().expect("published").payload, 1);
    assert_eq!(reader.recv(), Err(RecvError::Closed));
}
