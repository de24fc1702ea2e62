//! Behaviour of `bus`.

use phalanx::bus::{EventBus, Filter, Overflow, RecvError, TryPublishError, TryRecvError};

#[test]
fn a_blocking_reader_holds_the_publisher_a_full_ring_behind_and_loses_nothing() {
    let bus = EventBus::builder().capacity(4).build().expect("valid");
    let topic = bus.topic("t").expect("valid");
    let publisher = bus.publisher();
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    for i in 0..4_u64 {
        assert_eq!(publisher.publish(topic, i).expect("room"), i);
    }
    assert!(matches!(publisher.try_publish(topic, 4), Err(TryPublishError::Full(4))));
    assert_eq!(reader.recv().expect("first").payload, 0);
    assert_eq!(publisher.try_publish(topic, 4).expect("room again"), 4);
    for i in 1..5 {
        assert_eq!(reader.try_recv().expect("there").payload, i);
    }
    assert_eq!(reader.try_recv(), Err(TryRecvError::Empty));
    bus.close();
    assert_eq!(reader.recv(), Err(RecvError::Closed));
}

#[test]
fn a_drop_oldest_reader_is_told_what_it_missed() {
    let bus = EventBus::builder().capacity(4).build().expect("valid");
    let topic = bus.topic("t").expect("valid");
    let publisher = bus.publisher();
    let mut reader = bus.subscribe(Filter::all(), Overflow::DropOldest);
    for i in 0..10_u64 {
        publisher.publish(topic, i).expect("never full");
    }
    assert_eq!(reader.recv(), Err(RecvError::Lagged { missed: 6, from: 0 }));
    for i in 6..10 {
        assert_eq!(reader.recv().expect("there").payload, i);
    }
    assert_eq!(reader.try_recv(), Err(TryRecvError::Empty));
}
