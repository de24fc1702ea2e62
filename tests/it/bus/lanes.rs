//! Lanes: urgent events first, no lane starved, each in its own order.

use std::sync::Arc;
use std::thread;

use phalanx::ErrorKind;
use phalanx::bus::{
    EventBus, Filter, Overflow, PublishError, RecvError, Subscriber, Topic, TryPublishError,
    TryRecvError,
};

use super::{Woken, block_on, numbers, poll_once};

fn lanes(lanes: usize, capacity: usize) -> (EventBus<u64>, Topic) {
    let bus = EventBus::builder().capacity(capacity).lanes(lanes).build().expect("valid");
    let topic = bus.topic("t").expect("valid");
    (bus, topic)
}

fn publish(bus: &EventBus<u64>, topic: Topic, lane: u8, count: u64) {
    let publisher = bus.publisher_to(lane).expect("the lane is there");
    assert_eq!(publisher.publish_batch(topic, &mut numbers(0..count)), Ok(count));
}

/// The lanes of all that is there, one by one or in batches, each lane's events in order.
fn drain(reader: &mut Subscriber<u64>, batch: bool) -> Vec<u8> {
    let mut order = Vec::new();
    let mut next = [0; 8];
    let mut see = |lane: u8, sequence: u64, payload: u64| {
        let expected = &mut next[usize::from(lane)];
        assert_eq!((sequence, payload), (*expected, *expected), "lane {lane} is out of order");
        *expected += 1;
        order.push(lane);
    };
    loop {
        let end = if batch {
            reader.try_for_each_batch(|event| see(event.lane, event.sequence, *event.payload)).err()
        } else {
            match reader.try_recv() {
                Ok(event) => {
                    see(event.lane, event.sequence, event.payload);
                    None
                }
                Err(end) => Some(end),
            }
        };
        match end {
            None => {}
            Some(TryRecvError::Empty | TryRecvError::Closed) => return order,
            Some(error) => panic!("{error}"),
        }
    }
}

#[test]
fn what_is_urgent_comes_first() {
    for overflow in [Overflow::Block, Overflow::DropOldest, Overflow::Fail] {
        for batch in [false, true] {
            let (bus, topic) = lanes(3, 64);
            let mut reader = bus.subscribe(Filter::all(), overflow);
            for lane in [1, 0, 2] {
                publish(&bus, topic, lane, 10);
            }
            let expected: Vec<u8> = [[2; 10], [1; 10], [0; 10]].concat();
            assert_eq!(drain(&mut reader, batch), expected);
            let stats = reader.stats();
            assert_eq!((stats.delivered, stats.depth), (30, 0));
        }
    }
}

#[test]
fn no_lane_waits_for_more_than_64_urgent_events_and_as_many_for_each_further_lane() {
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        for batch in [false, true] {
            for count in [2_usize, 3, 4] {
                let (bus, topic) = lanes(count, 1024);
                let mut reader = bus.subscribe(Filter::all(), overflow);
                for lane in 0..count {
                    publish(&bus, topic, lane as u8, 900);
                }
                let order = drain(&mut reader, batch);
                assert_eq!(order.len(), 900 * count);
                for lane in 0..count as u8 {
                    let mut waited = 0;
                    let mut left = 900;
                    for &taken in &order {
                        waited += 1;
                        if taken == lane {
                            (waited, left) = (0, left - 1);
                        }
                        // A turn is one event, or one batch of 64.
                        let turns = if batch { 64 } else { 1 } * (count - 1);
                        let most = 64 * (count - 1) + turns;
                        assert!(left == 0 || waited <= most, "lane {lane} waited for {waited}");
                    }
                }
                let urgent = order.iter().take(64).filter(|lane| **lane as usize == count - 1);
                assert_eq!(urgent.count(), 64, "until then urgency counts");
                let mut row = 0;
                for &lane in &order[..700] {
                    row = if lane as usize == count - 1 { row + 1 } else { 0 };
                    assert!(row <= 64, "{row} urgent events in a row");
                }
            }
        }
    }
}

#[test]
fn batches_of_any_size_do_not_make_the_row_of_urgent_events_longer() {
    let (bus, topic) = lanes(2, 1024);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    publish(&bus, topic, 0, 100);
    publish(&bus, topic, 1, 500);
    let mut order = Vec::new();
    for _ in 0..40 {
        order.push(reader.try_recv().expect("there").lane);
    }
    for _ in 0..3 {
        reader.try_for_each_batch(|event| order.push(event.lane)).expect("there");
    }
    let first = order.iter().position(|lane| *lane == 0);
    assert_eq!(first, Some(64));
}

#[test]
fn a_lane_that_is_full_holds_up_no_other() {
    let (bus, topic) = lanes(2, 2);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let (normal, urgent) = (bus.publisher(), bus.publisher_to(1).expect("the lane is there"));
    for i in 0..2 {
        normal.publish(topic, i).expect("room");
    }
    assert!(matches!(normal.try_publish(topic, 2), Err(TryPublishError::Full(2))));
    assert_eq!(urgent.publish(topic, 0).expect("room"), 0);
    assert_eq!(drain(&mut reader, false), [1, 0, 0]);
    assert_eq!(bus.stats().refused_publishes, 1);
    assert_eq!((bus.capacity(), bus.lanes(), bus.stats().capacity), (2, 2, 4));
}

#[test]
fn a_loss_names_its_lane() {
    let (bus, topic) = lanes(3, 2);
    let mut reader = bus.subscribe(Filter::all(), Overflow::DropOldest);
    publish(&bus, topic, 0, 1);
    publish(&bus, topic, 1, 5);
    publish(&bus, topic, 2, 2);
    assert_eq!(reader.recv().expect("urgent").lane, 2);
    assert_eq!(reader.recv().expect("urgent").lane, 2);
    assert_eq!(reader.recv(), Err(RecvError::Lagged { missed: 3, from: 0, lane: 1 }));
    assert_eq!(reader.recv().expect("kept").sequence, 3);
    assert_eq!(reader.recv().expect("kept").sequence, 4);
    assert_eq!(reader.recv().expect("kept").lane, 0);
    let stats = bus.stats();
    assert_eq!((stats.published, stats.delivered, stats.lagged), (8, 5, 3));
    assert_eq!(bus.subscriber_stats(), [reader.stats()]);
}

#[test]
fn a_reader_that_waits_is_woken_by_every_lane() {
    let (bus, topic) = lanes(3, 4);
    for lane in [0, 2, 1] {
        let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
        let woken = Arc::new(Woken::default());
        let mut future = reader.recv_async();
        assert!(poll_once(&mut future, &woken).is_pending());
        publish(&bus, topic, lane, 1);
        assert_eq!(woken.count(), 1);
        assert_eq!(block_on(future).expect("published").lane, lane);
    }
}

#[test]
fn a_close_ends_a_subscription_when_every_lane_is_drained() {
    for batch in [false, true] {
        let (bus, topic) = lanes(3, 64);
        let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
        for (lane, count) in [(0, 5), (1, 0), (2, 3)] {
            publish(&bus, topic, lane, count);
        }
        bus.close();
        for lane in 0..3 {
            let publisher = bus.publisher_to(lane).expect("the lane is there");
            assert!(matches!(publisher.publish(topic, 0), Err(PublishError::Closed(0))));
        }
        assert_eq!(drain(&mut reader, batch), [2, 2, 2, 0, 0, 0, 0, 0]);
        assert_eq!(reader.recv(), Err(RecvError::Closed));
    }
}

#[test]
fn an_exclusive_publisher_has_one_lane_and_leaves_the_others() {
    let (bus, topic) = lanes(2, 4);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let mut urgent = bus.exclusive_publisher_to(1).expect("nobody publishes there");
    let normal = bus.publisher();
    assert_eq!(bus.exclusive_publisher().expect_err("shared").kind(), ErrorKind::InUse);
    let shut_out = bus.publisher_to(1).expect("the lane is there");
    assert!(matches!(shut_out.publish(topic, 0), Err(PublishError::Exclusive(0))));
    normal.publish(topic, 0).expect("room");
    urgent.publish(topic, 0).expect("room");
    assert_eq!(drain(&mut reader, false), [1, 0]);
    assert_eq!(bus.publisher_to(2).expect_err("no such lane").kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_subscription_that_ends_frees_every_lane() {
    let (bus, topic) = lanes(3, 2);
    for round in 0..3 {
        let reader = bus.subscribe(Filter::all(), Overflow::Block);
        for lane in 0..3 {
            let publisher = bus.publisher_to(lane).expect("the lane is there");
            for i in 0..2 {
                publisher.try_publish(topic, i).expect("room");
            }
            assert!(publisher.try_publish(topic, 2).is_err());
        }
        let id = reader.stats().id;
        assert_eq!((id, reader.stats().depth), (0, 6), "round {round}");
        drop(reader);
        assert_eq!(bus.stats().dropped, 6 * (round + 1));
    }
}

#[test]
fn many_publish_to_all_lanes_and_each_lane_arrives_in_order() {
    const EVENTS: u64 = 4_000;
    let (bus, topic) = lanes(3, 4);
    let readers: Vec<_> = (0..2).map(|_| bus.subscribe(Filter::all(), Overflow::Block)).collect();
    thread::scope(|scope| {
        for mut reader in readers {
            scope.spawn(move || {
                let mut next = [0; 3];
                for _ in 0..3 * EVENTS {
                    let event = reader.recv().expect("open");
                    let next = &mut next[usize::from(event.lane)];
                    assert_eq!((event.sequence, event.payload), (*next, *next));
                    *next += 1;
                }
            });
        }
        for lane in 0..3 {
            let publisher = bus.publisher_to(lane).expect("the lane is there");
            scope.spawn(move || {
                for i in 0..EVENTS {
                    publisher.publish(topic, i).expect("open");
                }
            });
        }
    });
    assert_eq!(bus.stats().delivered, 6 * EVENTS);
}
