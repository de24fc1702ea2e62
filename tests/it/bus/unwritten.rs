//! Waiting while another publisher is between its claim and the end of its write.

use std::sync::Arc;
use std::task::Poll;

use phalanx::bus::{EventBus, Filter, Overflow, RecvError};

use super::{Woken, bus, poll_once};

#[test]
fn an_event_behind_an_unwritten_one_of_another_topic_is_not_slept_through() {
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        // A large ring, so that no quarter of a lap goes by.
        let (bus, topic) = bus(1024);
        let other = bus.topic("other").expect("valid");
        let (slow, quick) = (bus.publisher(), bus.publisher());
        slow.publish(other, 0).expect("room");
        let filter = Filter::topics(["test/*"]).expect("valid");
        let mut reader = bus.subscribe(filter, overflow);
        let woken = Arc::new(Woken::default());
        let mut future = reader.recv_async();
        assert!(poll_once(&mut future, &woken).is_pending());
        let make = || {
            // Ahead of this event's own end; the reader cannot pass this one yet.
            quick.publish(topic, 2).expect("room");
            assert_eq!(woken.count(), 1);
            assert!(poll_once(&mut future, &woken).is_pending());
            1
        };
        slow.publish_with(other, make).map_err(drop).expect("room");
        assert_eq!(woken.count(), 2, "the reader sleeps on what is there");
        match poll_once(&mut future, &woken) {
            Poll::Ready(Ok(event)) => assert_eq!((event.sequence, event.payload), (2, 2)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_reader_of_two_lanes_waits_for_the_one_whose_last_event_is_being_written() {
    let bus = EventBus::builder().capacity(8).lanes(2).build().expect("valid");
    let topic = bus.topic("t").expect("valid");
    let publisher = bus.publisher_to(1).expect("two lanes");
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let woken = Arc::new(Woken::default());
    let mut future = reader.recv_async();
    let make = || {
        bus.close();
        // One lane is at its end, the other is not.
        assert!(poll_once(&mut future, &woken).is_pending());
        5
    };
    publisher.publish_with(topic, make).map_err(drop).expect("claimed before the close");
    assert_eq!(woken.count(), 1);
    match poll_once(&mut future, &woken) {
        Poll::Ready(Ok(event)) => assert_eq!(event.payload, 5),
        other => panic!("{other:?}"),
    }
    assert_eq!(poll_once(&mut future, &woken), Poll::Ready(Err(RecvError::Closed)));
}
