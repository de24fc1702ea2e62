//! Models of a group under loom: members that park, and who sees to whom.
//!
//! A lost wake-up is a deadlock, which loom sees. What members share among them goes through locks; the twins
//! weaken the fences by which a publisher learns that the group waits.

use super::super::position::Position;
use super::super::ring::Shape;
use super::super::{EventBus, Filter, Overflow, Topic};
use super::Member;
use crate::sync::{explore, thread, weakened};

const TOPIC: Topic = Topic::from_id(0);

const PREEMPTIONS: usize = 2;

fn bus() -> EventBus<u64> {
    let shape = Shape { capacity: 2, start: Position::from_sequence(0), stride: 2 };
    EventBus::builder().shape(shape).build().expect("a valid bus")
}

/// Receives one event and acknowledges it.
fn deal_with_one(member: &mut Member<u64>) -> u64 {
    let delivery = member.recv().expect("two are published, for two");
    let event = *delivery.payload();
    delivery.ack().expect("it is its own");
    event
}

/// Two members of a group that may have so many pending, and an event for each.
fn share(pending_max: usize) {
    let bus = bus();
    let group = bus.group(Filter::all(), Overflow::Block).pending_max(pending_max).build();
    let group = group.expect("valid");
    let (mut first, mut second) = (group.member(), group.member());
    let other = thread::spawn(move || deal_with_one(&mut second));
    let publisher = bus.publisher();
    let publishing = thread::spawn(move || {
        for event in 0..2 {
            publisher.publish(TOPIC, event).expect("room");
        }
    });
    let mine = deal_with_one(&mut first);
    let others = other.join().expect("no panic");
    publishing.join().expect("no panic");
    assert_eq!(mine + others, 1, "each got another one");
    assert_eq!(group.stats().acknowledged, 2);
}

#[test]
fn loom_members_that_park_share_out_what_comes() {
    explore(PREEMPTIONS, || share(2));
}

#[test]
fn loom_members_that_park_share_out_the_only_room() {
    explore(PREEMPTIONS, || share(1));
}

#[test]
fn loom_twins_of_members_that_park_fail() {
    for site in ["bus.recv.park.fence", "bus.publish.fence"] {
        let model = || explore(PREEMPTIONS, || share(2));
        let twin = std::panic::catch_unwind(|| weakened(site, model));
        assert!(twin.is_err(), "the model holds although {site} is weakened");
    }
}
