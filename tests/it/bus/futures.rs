//! Receiving as a future: on any executor, dropped at any poll.

use std::sync::Arc;
use std::task::Poll;
use std::thread;

use phalanx::bus::{Filter, Overflow, RecvError};

use super::{Woken, block_on, bus, poll_once};

#[test]
fn a_future_is_woken_by_the_event_it_waits_for() {
    let (bus, topic) = bus(4);
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let mut reader = bus.subscribe(Filter::all(), overflow);
        let woken = Arc::new(Woken::default());
        let mut future = reader.recv_async();
        assert!(poll_once(&mut future, &woken).is_pending());
        assert_eq!(woken.count(), 0);
        bus.publisher().publish(topic, 7).expect("room");
        assert_eq!(woken.count(), 1);
        match poll_once(&mut future, &woken) {
            Poll::Ready(Ok(event)) => assert_eq!(event.payload, 7),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn only_the_waker_of_the_last_poll_is_woken() {
    let (bus, topic) = bus(4);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let (first, last) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    let mut future = reader.recv_async();
    assert!(poll_once(&mut future, &first).is_pending());
    assert!(poll_once(&mut future, &last).is_pending());
    bus.publisher().publish(topic, 1).expect("room");
    assert_eq!((first.count(), last.count()), (0, 1));
}

#[test]
fn a_future_dropped_at_any_poll_loses_neither_events_nor_wake_ups() {
    const EVENTS: u64 = 4;
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        // Each event may come before the first poll, between two polls, or after the drop.
        for script in 0..1_u32 << (2 * EVENTS) {
            let (bus, topic) = bus(8);
            let mut reader = bus.subscribe(Filter::all(), overflow);
            let mut other = bus.subscribe(Filter::all(), overflow);
            let publisher = bus.publisher();
            let mut received = Vec::new();
            for event in 0..EVENTS {
                let publish = || publisher.publish(topic, event).expect("room");
                let woken = Arc::new(Woken::default());
                let bystander = Arc::new(Woken::default());
                let mut others = other.recv_async();
                assert!(poll_once(&mut others, &bystander).is_pending());
                {
                    let mut future = reader.recv_async();
                    match (script >> (2 * event)) & 3 {
                        0 => {
                            publish();
                        }
                        1 => {
                            assert!(poll_once(&mut future, &woken).is_pending());
                            publish();
                            assert_eq!(woken.count(), 1);
                        }
                        2 => {
                            assert!(poll_once(&mut future, &woken).is_pending());
                            publish();
                            match poll_once(&mut future, &woken) {
                                Poll::Ready(Ok(event)) => received.push(event.payload),
                                other => panic!("{other:?}"),
                            }
                        }
                        _ => {
                            assert!(poll_once(&mut future, &woken).is_pending());
                            drop(future);
                            publish();
                            assert_eq!(woken.count(), 0, "a dropped future wakes nobody");
                        }
                    }
                }
                assert_eq!(bystander.count(), 1, "another one's future was not woken");
                assert!(poll_once(&mut others, &bystander).is_ready());
                drop(others);
                while let Ok(event) = reader.try_recv() {
                    received.push(event.payload);
                }
            }
            assert_eq!(received, [0, 1, 2, 3], "script {script:b}");
        }
    }
}

#[test]
fn a_forgotten_future_wedges_nothing() {
    let (bus, topic) = bus(2);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let woken = Arc::new(Woken::default());
    let mut future = reader.recv_async();
    assert!(poll_once(&mut future, &woken).is_pending());
    std::mem::forget(future);
    for i in 0..10 {
        bus.publisher().publish(topic, i).expect("room");
        assert_eq!(reader.recv().expect("there").payload, i);
    }
}

#[test]
fn a_pending_future_learns_of_loss_and_close() {
    let (bus, topic) = bus(2);
    let mut reader = bus.subscribe(Filter::all(), Overflow::DropOldest);
    let woken = Arc::new(Woken::default());
    let mut future = reader.recv_async();
    assert!(poll_once(&mut future, &woken).is_pending());
    for i in 0..5 {
        bus.publisher().publish(topic, i).expect("never full");
    }
    match poll_once(&mut future, &woken) {
        Poll::Ready(Err(RecvError::Lagged { missed: 3, from: 0, lane: 0 })) => {}
        other => panic!("{other:?}"),
    }
    drop(future);
    assert_eq!(block_on(reader.recv_async()).expect("left").payload, 3);
    assert_eq!(block_on(reader.recv_async()).expect("left").payload, 4);
    let mut future = reader.recv_async();
    assert!(poll_once(&mut future, &woken).is_pending());
    let before = woken.count();
    bus.close();
    assert_eq!(woken.count(), before + 1);
    assert!(matches!(poll_once(&mut future, &woken), Poll::Ready(Err(RecvError::Closed))));
}

#[test]
fn futures_and_threads_receive_side_by_side() {
    const EVENTS: u64 = if cfg!(phalanx_tsan) { 2_000 } else { 20_000 };
    let (bus, topic) = bus(4);
    let publisher = bus.publisher();
    thread::scope(|scope| {
        for kind in 0..4 {
            let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
            scope.spawn(move || {
                for expected in 0..EVENTS {
                    let event =
                        if kind % 2 == 0 { reader.recv() } else { block_on(reader.recv_async()) };
                    assert_eq!(event.expect("open").payload, expected);
                }
            });
        }
        for i in 0..EVENTS {
            publisher.publish(topic, i).expect("open");
        }
    });
}

#[test]
fn a_future_runs_on_tokio() {
    let (bus, topic) = bus(4);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
    runtime.expect("a runtime").block_on(async move {
        let task = tokio::spawn(async move {
            let mut sum = 0;
            while let Ok(event) = reader.recv_async().await {
                sum += event.payload;
            }
            sum
        });
        for i in 1..=100 {
            while bus.publisher().try_publish(topic, i).is_err() {
                tokio::task::yield_now().await;
            }
        }
        bus.close();
        assert_eq!(task.await.expect("no panic"), 5050);
    });
}
