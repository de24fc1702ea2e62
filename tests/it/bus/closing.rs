//! The end of a bus, and of those who use it.

use std::thread;

use phalanx::bus::{
    Filter, Overflow, PublishError, PublishTimeoutError, RecvError, RecvTimeoutError,
    TryPublishError, TryRecvError,
};
use std::time::Duration;

use super::bus;

#[test]
fn readers_get_what_was_published_before_the_close_and_then_the_end() {
    let (bus, topic) = bus(4);
    let publisher = bus.publisher();
    let mut blocking = bus.subscribe(Filter::all(), Overflow::Block);
    let mut dropping = bus.subscribe(Filter::all(), Overflow::DropOldest);
    publisher.publish(topic, 1).expect("open");
    bus.close();
    bus.close();
    assert!(bus.is_closed());
    assert!(matches!(publisher.publish(topic, 2), Err(PublishError::Closed(2))));
    assert!(matches!(publisher.try_publish(topic, 2), Err(TryPublishError::Closed(2))));
    let late = publisher.publish_timeout(topic, 2, Duration::ZERO);
    assert!(matches!(late, Err(PublishTimeoutError::Closed(2))));
    for reader in [&mut blocking, &mut dropping] {
        assert_eq!(reader.recv().expect("published before").payload, 1);
        for _ in 0..2 {
            assert_eq!(reader.recv(), Err(RecvError::Closed));
        }
        assert_eq!(reader.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(reader.recv_timeout(Duration::MAX), Err(RecvTimeoutError::Closed));
        assert_eq!(reader.for_each_batch(|_| {}), Err(RecvError::Closed));
    }
    let mut late = bus.subscribe(Filter::all(), Overflow::Block);
    assert_eq!(late.recv(), Err(RecvError::Closed));
}

#[test]
fn a_close_wakes_those_who_wait() {
    let (bus, topic) = bus(2);
    let mut behind = bus.subscribe(Filter::all(), Overflow::Block);
    bus.publisher().publish(topic, 0).expect("room");
    bus.publisher().publish(topic, 1).expect("room");
    let mut idle = bus.subscribe(Filter::all(), Overflow::DropOldest);
    thread::scope(|scope| {
        let publishing: Vec<_> = (0..3)
            .map(|_| {
                let publisher = bus.publisher();
                scope.spawn(move || publisher.publish(topic, 2))
            })
            .collect();
        let reading = scope.spawn(move || idle.recv());
        while bus.stats().blocked_publishes < 3 {
            thread::yield_now();
        }
        bus.close();
        for publisher in publishing {
            let refused = publisher.join().expect("no panic");
            assert!(matches!(refused, Err(PublishError::Closed(2))), "{refused:?}");
        }
        assert_eq!(reading.join().expect("no panic"), Err(RecvError::Closed));
    });
    assert_eq!(behind.recv().expect("kept").payload, 0);
    assert_eq!(behind.recv().expect("kept").payload, 1);
    assert_eq!(behind.recv(), Err(RecvError::Closed));
}

#[test]
fn the_last_handle_that_could_publish_closes_the_bus() {
    let (bus, topic) = bus(4);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let publisher = bus.publisher();
    let clone = publisher.clone();
    drop((bus, publisher));
    clone.publish(topic, 5).expect("one handle is left");
    drop(clone);
    assert_eq!(reader.recv().expect("published before").payload, 5);
    assert_eq!(reader.recv(), Err(RecvError::Closed));
}

#[test]
fn a_reader_parked_when_the_last_publisher_goes_is_woken() {
    let (bus, _) = bus::<u32>(4);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let publisher = bus.publisher();
    drop(bus);
    thread::scope(|scope| {
        let reading = scope.spawn(move || reader.recv());
        drop(publisher);
        assert_eq!(reading.join().expect("no panic"), Err(RecvError::Closed));
    });
}
