//! What happens to those who fall behind, and what the counters say of it.

use phalanx::ErrorKind;
use phalanx::bus::{
    BusStats, EventBus, Filter, Overflow, RecvError, SubscriberStats, TryPublishError, TryRecvError,
};

use super::bus;

#[test]
fn a_blocking_reader_holds_the_publisher_a_full_ring_behind_and_loses_nothing() {
    for capacity in [2, 4, 64] {
        let (bus, topic) = bus(capacity);
        let publisher = bus.publisher();
        let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
        let ring = capacity as u64;
        for i in 0..ring {
            assert_eq!(publisher.publish(topic, i).expect("room"), i);
        }
        match publisher.try_publish(topic, 7_000) {
            Err(error @ TryPublishError::Full(_)) => assert_eq!(error.into_payload(), 7_000),
            other => panic!("{other:?}"),
        }
        assert_eq!(reader.recv().expect("the first").payload, 0);
        assert_eq!(publisher.try_publish(topic, ring).expect("room again"), ring);
        for i in 1..=ring {
            assert_eq!(reader.try_recv().expect("there").payload, i);
        }
        assert_eq!(reader.try_recv(), Err(TryRecvError::Empty));
    }
}

#[test]
fn a_drop_oldest_reader_is_told_what_it_missed() {
    let (bus, topic) = bus(4);
    let publisher = bus.publisher();
    let mut reader = bus.subscribe(Filter::all(), Overflow::DropOldest);
    for i in 0..10_u64 {
        publisher.publish(topic, i).expect("never full");
    }
    assert_eq!(reader.recv(), Err(RecvError::Lagged { missed: 6, from: 0, lane: 0 }));
    for i in 6..10 {
        assert_eq!(reader.recv().expect("there").payload, i);
    }
    assert_eq!(reader.try_recv(), Err(TryRecvError::Empty));
    let stats = reader.stats();
    assert_eq!((stats.delivered, stats.lagged, stats.depth), (4, 6, 0));
}

#[test]
fn a_drop_oldest_reader_within_the_ring_loses_nothing() {
    for capacity in [2, 4, 16] {
        let (bus, topic) = bus(capacity);
        let mut reader = bus.subscribe(Filter::all(), Overflow::DropOldest);
        for round in 0..5 {
            for i in 0..capacity {
                bus.publisher().publish(topic, (round, i)).expect("never full");
            }
            for i in 0..capacity {
                assert_eq!(reader.recv().expect("kept").payload, (round, i));
            }
        }
    }
}

#[test]
fn a_loss_in_the_middle_of_a_batch_is_reported_by_the_next_one() {
    let (bus, topic) = bus(4);
    let mut reader = bus.subscribe(Filter::all(), Overflow::DropOldest);
    let publisher = bus.publisher();
    publisher.publish(topic, 0).expect("never full");
    let mut seen = Vec::new();
    let handled = reader.for_each_batch(|event| {
        seen.push(*event.payload);
        if *event.payload == 0 {
            // The handler holds no slot, so this laps the ring under it.
            for i in 1..10 {
                publisher.publish(topic, i).expect("never full");
            }
        }
    });
    assert_eq!((handled, seen), (Ok(1), vec![0]));
    let next = reader.try_for_each_batch(|_| unreachable!("the loss comes first"));
    assert_eq!(next, Err(TryRecvError::Lagged { missed: 5, from: 1, lane: 0 }));
    assert_eq!(reader.for_each_batch(|_| {}), Ok(4));
}

#[test]
fn a_subscription_that_ends_frees_the_ring() {
    let (bus, topic) = bus(2);
    let publisher = bus.publisher();
    let reader = bus.subscribe(Filter::all(), Overflow::Block);
    publisher.publish(topic, 0).expect("room");
    publisher.publish(topic, 1).expect("room");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| publisher.publish(topic, 2));
        while bus.stats().blocked_publishes == 0 {
            std::thread::yield_now();
        }
        drop(reader);
        assert_eq!(waiting.join().expect("no panic").expect("room"), 2);
    });
    publisher.try_publish(topic, 3).expect("nobody needs the ring");
}

#[test]
fn a_subscription_starts_at_the_present() {
    let (bus, topic) = bus(8);
    bus.publisher().publish(topic, "before").expect("room");
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let mut reader = bus.subscribe(Filter::all(), overflow);
        assert_eq!(reader.try_recv(), Err(TryRecvError::Empty));
        let sequence = bus.publisher().publish(topic, "after").expect("room");
        let event = reader.recv().expect("published");
        assert_eq!((event.sequence, event.payload), (sequence, "after"));
    }
}

#[test]
fn payloads_that_are_not_clone_are_read_in_place() {
    struct Whole(u32);
    let (bus, topic) = bus(4);
    let mut reader = bus.subscribe_in_place(Filter::all());
    for i in 0..3 {
        bus.publisher().publish(topic, Whole(i)).expect("room");
    }
    let mut seen = Vec::new();
    assert_eq!(reader.for_each_batch(|event| seen.push(event.payload.0)), Ok(3));
    assert_eq!(seen, [0, 1, 2]);
}

#[test]
fn the_slots_of_a_batch_are_freed_while_it_goes_on() {
    let (bus, topic) = bus(64);
    let publisher = bus.publisher();
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    for i in 0..64_u64 {
        publisher.publish(topic, i).expect("room");
    }
    let mut left = 64;
    let mut refused = 0;
    while left > 0 {
        left -= reader
            .for_each_batch(|event| {
                if *event.payload < 64 && publisher.try_publish(topic, 1_000).is_err() {
                    refused += 1;
                }
            })
            .expect("there")
            .min(left);
    }
    // Of each stride of eight, the first is handled before any slot is free.
    assert!(refused <= 8, "{refused} publishes within the handler were refused");
}

#[test]
fn the_counters_account_for_every_event() {
    let (bus, topic) = bus(4);
    let other = bus.topic("other").expect("valid");
    let publisher = bus.publisher();
    let mut all = bus.subscribe(Filter::all(), Overflow::Block);
    let mut some = bus.subscribe(Filter::topics(["other"]).expect("valid"), Overflow::Block);
    let mut slow = bus.subscribe(Filter::all(), Overflow::DropOldest);
    for round in 0..3 {
        publisher.publish(topic, round).expect("room");
        publisher.publish(other, round).expect("room");
        assert_eq!(all.for_each_batch(|_| {}), Ok(2));
        assert_eq!(some.recv().expect("one of two").topic, other);
    }
    assert_eq!(slow.recv(), Err(RecvError::Lagged { missed: 2, from: 0, lane: 0 }));
    publisher.publish(topic, 9).expect("room");

    let stats = some.stats();
    assert_eq!((stats.delivered, stats.skipped, stats.lagged, stats.depth), (3, 3, 0, 1));
    let whole: BusStats = bus.stats();
    assert_eq!(whole.published, 7);
    assert_eq!(whole.delivered, 6 + 3);
    assert_eq!(whole.skipped, 3);
    assert_eq!(whole.lagged, 2);
    assert_eq!((whole.subscribers, whole.depth_max, whole.capacity), (3, 5, 4));
    assert_eq!((whole.blocked_publishes, whole.refused_publishes), (0, 0));
    let each: Vec<SubscriberStats> = bus.subscriber_stats();
    assert_eq!(each, [all.stats(), some.stats(), slow.stats()]);

    drop((all, some, slow));
    let after = bus.stats();
    assert_eq!((after.delivered, after.skipped, after.lagged), (9, 3, 2), "past ones count");
    assert_eq!((after.subscribers, after.depth_max), (0, 0));
}

#[test]
fn publishing_without_subscribers_is_never_full() {
    let (bus, topic) = bus(2);
    for i in 0..100_u64 {
        assert_eq!(bus.publisher().try_publish(topic, i).expect("nobody to wait for"), i);
    }
}

#[test]
fn nonsense_settings_are_refused() {
    for capacity in [0, 1, 3, 100, (1 << 26) + 1, 1 << 27, usize::MAX] {
        let error = EventBus::<u8>::builder().capacity(capacity).build().expect_err("nonsense");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    for topics in [0, 1 << 20, usize::MAX] {
        let error = EventBus::<u8>::builder().topics_max(topics).build().expect_err("nonsense");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    for lanes in [0, 9, usize::MAX] {
        let error = EventBus::<u8>::builder().lanes(lanes).build().expect_err("nonsense");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    assert_eq!(EventBus::<[u8; 64]>::builder().build().expect("defaults").capacity(), 16_384);
    assert_eq!(EventBus::<()>::builder().build().expect("defaults").capacity(), 65_536);
    assert_eq!(EventBus::<[u8; 4096]>::builder().build().expect("defaults").capacity(), 4096);
}
