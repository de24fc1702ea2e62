//! Groups: each event to one member, again until it is acknowledged or dead, and never held in the ring.

mod hostile;
mod oracle;
#[cfg(feature = "test-util")]
mod timeouts;
mod waiting;

use phalanx::bus::{
    Delivery, EventBus, Filter, Group, GroupBuilder, Member, Overflow, RecvError, Topic,
    TryPublishError, TryRecvError,
};

use super::bus;

/// A bus, a topic of it, and a group.
fn group(
    capacity: usize,
    overflow: Overflow,
    set: impl FnOnce(GroupBuilder<u64>) -> GroupBuilder<u64>,
) -> (EventBus<u64>, Topic, Group<u64>) {
    let (bus, topic) = bus(capacity);
    let group = set(bus.group(Filter::all(), overflow)).build().expect("valid");
    (bus, topic, group)
}

fn publish(bus: &EventBus<u64>, topic: Topic, events: std::ops::Range<u64>) {
    for event in events {
        bus.publisher().publish(topic, event).expect("room");
    }
}

fn take(member: &mut Member<u64>) -> Delivery<u64> {
    member.try_recv().expect("a delivery")
}

fn is_empty(member: &mut Member<u64>) -> bool {
    match member.try_recv() {
        Err(TryRecvError::Empty) => true,
        Err(other) => panic!("{other:?}"),
        Ok(_) => false,
    }
}

#[test]
fn each_event_goes_to_one_member() {
    let (bus, topic, group) = group(16, Overflow::Block, |group| group);
    let mut members: Vec<_> = (0..3).map(|_| group.member()).collect();
    publish(&bus, topic, 0..9);
    for event in 0..9 {
        let delivery = take(&mut members[event as usize % 3]);
        assert_eq!((*delivery.payload(), delivery.attempt()), (event, 1));
        assert_eq!(delivery.event().sequence, event);
        delivery.ack().expect("present");
    }
    assert!(members.iter_mut().all(is_empty));
    let stats = group.stats();
    assert_eq!((stats.delivered, stats.redelivered, stats.acknowledged), (9, 0, 9));
    assert_eq!((stats.pending, stats.members), (0, 3));
}

#[test]
fn what_is_not_acknowledged_goes_to_another_member_first_and_in_order() {
    let (bus, topic, group) = group(16, Overflow::Block, |group| group);
    let (mut first, mut second) = (group.member(), group.member());
    publish(&bus, topic, 0..4);
    let deliveries: Vec<_> = (0..3).map(|_| take(&mut first)).collect();
    let mut deliveries = deliveries.into_iter();
    let zero = deliveries.next().expect("three were taken");
    // In no order of theirs.
    drop(deliveries.next_back());
    deliveries.next().expect("one is left").nack();
    zero.nack();
    let mine = take(&mut first);
    assert_eq!(*mine.payload(), 3, "what came back from it goes to others");
    for event in 0..3 {
        let again = take(&mut second);
        assert_eq!((*again.payload(), again.attempt()), (event, 2));
        again.ack().expect("present");
    }
    assert!(is_empty(&mut second));
    mine.ack().expect("present");
    assert_eq!((group.stats().redelivered, group.stats().acknowledged), (3, 4));
}

#[test]
fn the_only_member_gets_back_what_it_returned() {
    let (bus, topic, group) = group(16, Overflow::Block, |group| group);
    let (mut first, second) = (group.member(), group.member());
    publish(&bus, topic, 0..1);
    take(&mut first).nack();
    assert!(is_empty(&mut first));
    drop(second);
    let again = take(&mut first);
    assert_eq!((*again.payload(), again.attempt()), (0, 2));
    again.nack();
    assert_eq!(take(&mut first).attempt(), 3);
}

#[test]
fn a_member_that_is_dropped_hands_on_what_it_had() {
    let (bus, topic, group) = group(16, Overflow::Block, |group| group);
    let (mut first, mut second) = (group.member(), group.member());
    publish(&bus, topic, 0..2);
    let (kept, other) = (take(&mut first), take(&mut first));
    std::mem::forget(other);
    drop(first);
    let (zero, one) = (take(&mut second), take(&mut second));
    assert_eq!((*zero.payload(), *one.payload()), (0, 1));
    assert!(kept.ack().is_err(), "it was taken back");
    zero.ack().expect("present");
    one.ack().expect("present");
    assert_eq!((group.stats().stale, group.stats().acknowledged), (1, 2));
    assert_eq!(group.stats().members, 1);
}

#[test]
fn an_event_is_dead_after_so_many_attempts() {
    let (bus, topic, group) = group(16, Overflow::Block, |group| group.attempts_max(3));
    let mut members = [group.member(), group.member()];
    publish(&bus, topic, 0..1);
    for attempt in 1..=3 {
        let delivery = take(&mut members[attempt as usize % 2]);
        assert_eq!(delivery.attempt(), attempt);
        delivery.nack();
    }
    assert!(members.iter_mut().all(is_empty));
    let stats = group.stats();
    assert_eq!((stats.delivered, stats.dead_lettered, stats.pending), (3, 1, 0));
}

#[test]
fn a_held_event_does_not_hold_the_ring() {
    for overflow in [Overflow::Block, Overflow::DropOldest, Overflow::Fail] {
        let (bus, topic, group) = group(2, overflow, |group| group);
        let mut member = group.member();
        let mut held = Vec::new();
        for event in 0..100 {
            publish(&bus, topic, event..event + 1);
            held.push(take(&mut member));
        }
        for (event, delivery) in held.into_iter().enumerate() {
            assert_eq!(*delivery.payload(), event as u64);
            delivery.ack().expect("present");
        }
    }
}

#[test]
fn a_full_pending_list_stops_the_taking_until_something_is_settled() {
    let (bus, topic, group) = group(2, Overflow::Block, |group| group.pending_max(2));
    let mut member = group.member();
    publish(&bus, topic, 0..2);
    let (zero, one) = (take(&mut member), take(&mut member));
    publish(&bus, topic, 2..4);
    assert!(is_empty(&mut member));
    assert!(matches!(bus.publisher().try_publish(topic, 9), Err(TryPublishError::Full(9))));
    assert_eq!(group.stats().pending, 2);
    zero.ack().expect("present");
    let two = take(&mut member);
    assert_eq!(*two.payload(), 2);
    assert!(is_empty(&mut member));
    one.nack();
    assert_eq!(*take(&mut member).payload(), 1, "what came back may be had");
}

#[test]
fn a_group_that_falls_behind_tells_one_member_what_it_lost() {
    let (bus, topic, group) = group(2, Overflow::DropOldest, |group| group);
    let (mut first, mut second) = (group.member(), group.member());
    publish(&bus, topic, 0..7);
    let told = first.try_recv().err();
    assert_eq!(told, Some(TryRecvError::Lagged { missed: 5, from: 0, lane: 0 }));
    let (five, six) = (take(&mut second), take(&mut first));
    assert_eq!((*five.payload(), *six.payload()), (5, 6));
    assert_eq!((group.stats().lagged, bus.stats().dead_letters), (5, 0));
}

#[test]
fn a_closed_bus_is_drained_and_what_comes_back_is_still_delivered() {
    let (bus, topic, group) = group(4, Overflow::Block, |group| group);
    let (mut first, mut second) = (group.member(), group.member());
    publish(&bus, topic, 0..2);
    bus.close();
    let zero = first.recv().expect("published before");
    let one = second.recv().expect("published before");
    assert!(is_empty(&mut first), "it may still come back");
    one.nack();
    let again = first.recv().expect("it came back");
    assert_eq!((*again.payload(), again.attempt()), (1, 2));
    again.ack().expect("present");
    assert!(is_empty(&mut second));
    zero.ack().expect("present");
    for member in [&mut first, &mut second] {
        assert_eq!(member.recv().err(), Some(RecvError::Closed));
        assert_eq!(member.try_recv().err(), Some(TryRecvError::Closed));
    }
    assert_eq!(bus.stats().subscribers, 0, "a drained group holds no place in the ring");
}

#[test]
fn the_group_ends_with_its_last_handle_and_member() {
    let (bus, topic, group) = group(2, Overflow::Block, |group| group);
    let member = group.member();
    drop(group.clone());
    drop(group);
    publish(&bus, topic, 0..2);
    assert!(bus.publisher().try_publish(topic, 2).is_err(), "it holds its place");
    drop(member);
    publish(&bus, topic, 2..9);
    assert_eq!((bus.stats().subscribers, bus.stats().dropped), (0, 2));
}

#[test]
fn a_filter_and_a_start_are_those_of_a_subscription() {
    let (bus, topic) = bus::<u64>(16);
    let keep = bus.subscribe(Filter::all(), Overflow::Block);
    publish(&bus, topic, 0..8);
    let odd = Filter::all().matching(|payload| payload % 2 == 1);
    let start = phalanx::bus::Start::Sequence(2);
    let group = bus.group(odd, Overflow::Block).start(start).build().expect("valid");
    let mut member = group.member();
    for event in [3, 5, 7] {
        let delivery = take(&mut member);
        assert_eq!(*delivery.payload(), event);
        delivery.ack().expect("present");
    }
    assert!(is_empty(&mut member));
    drop(keep);
}

#[test]
fn limits_of_zero_are_refused() {
    let (bus, _) = bus::<u64>(4);
    let group = || bus.group(Filter::all(), Overflow::Block);
    for refused in [
        group().pending_max(0),
        group().attempts_max(0),
        group().ack_timeout(std::time::Duration::ZERO),
        group().start(phalanx::bus::Start::Sequence(9)),
    ] {
        let error = refused.build().expect_err("out of range");
        assert_eq!(error.kind(), phalanx::ErrorKind::InvalidArgument);
    }
    assert_eq!(bus.stats().subscribers, 0);
}

#[test]
fn handles_of_groups_may_be_sent_and_shared() {
    fn sent_and_shared<T: Send + Sync>() {}
    sent_and_shared::<Group<String>>();
    sent_and_shared::<Member<String>>();
    sent_and_shared::<Delivery<String>>();
    sent_and_shared::<phalanx::bus::DeadLetters<String>>();
}
