//! Members that wait: whom an event wakes, and that no wake-up is lost, whoever is dropped when.

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;

use phalanx::bus::{Delivery, Filter, Member, Overflow, RecvDelivery, RecvError};

use super::super::{Woken, block_on, bus, poll_once};
use super::{group, is_empty, publish, take};

fn waiting(future: &mut RecvDelivery<'_, u64>) -> Arc<Woken> {
    let woken = Arc::new(Woken::default());
    assert!(poll_once(future, &woken).is_pending());
    woken
}

fn ready(future: &mut RecvDelivery<'_, u64>) -> Delivery<u64> {
    match poll_once(future, &Arc::new(Woken::default())) {
        Poll::Ready(Ok(delivery)) => delivery,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_event_wakes_one_member() {
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let (bus, topic, group) = group(16, overflow, |group| group);
        let mut members: Vec<_> = (0..4).map(|_| group.member()).collect();
        let mut futures: Vec<_> = members.iter_mut().map(|member| member.recv_async()).collect();
        let woken: Vec<_> = futures.iter_mut().map(waiting).collect();
        let counts = || woken.iter().map(|woken| woken.count()).collect::<Vec<_>>();
        publish(&bus, topic, 0..1);
        assert_eq!(counts(), [1, 0, 0, 0]);
        let zero = ready(&mut futures[0]);
        assert_eq!(counts(), [1, 0, 0, 0], "there is no other event");
        publish(&bus, topic, 1..3);
        assert_eq!(counts(), [1, 1, 0, 0]);
        let one = ready(&mut futures[1]);
        assert_eq!(counts(), [1, 1, 1, 0], "who takes one sees to the next");
        let two = ready(&mut futures[2]);
        assert_eq!(counts(), [1, 1, 1, 0]);
        assert_eq!((*zero.payload(), *one.payload(), *two.payload()), (0, 1, 2));
        for delivery in [zero, one, two] {
            delivery.ack().expect("present");
        }
        assert_eq!(counts(), [1, 1, 1, 0], "nothing came that anybody could have");
        bus.close();
        assert_eq!(counts()[3], 1);
        assert!(matches!(
            poll_once(&mut futures[3], &woken[3]),
            Poll::Ready(Err(RecvError::Closed))
        ));
    }
}

#[test]
fn a_future_dropped_after_it_was_woken_wakes_another() {
    let (bus, topic, group) = group(16, Overflow::Block, |group| group);
    let (mut first, mut second, mut third) = (group.member(), group.member(), group.member());
    let (mut one, mut other) = (first.recv_async(), second.recv_async());
    let woken = (waiting(&mut one), waiting(&mut other));
    publish(&bus, topic, 0..1);
    assert_eq!((woken.0.count(), woken.1.count()), (1, 0));
    drop(one);
    assert_eq!(woken.1.count(), 1);
    let zero = ready(&mut other);
    drop(other);

    // The same for one that came back: only those are woken who may have it.
    let mut futures = (second.recv_async(), first.recv_async(), third.recv_async());
    let woken = (waiting(&mut futures.0), waiting(&mut futures.1), waiting(&mut futures.2));
    zero.nack();
    assert_eq!((woken.0.count(), woken.1.count(), woken.2.count()), (0, 1, 0));
    drop(futures.1);
    assert_eq!(woken.2.count(), 1);
    assert_eq!(*ready(&mut futures.2).payload(), 0);
}

#[test]
fn a_member_dropped_while_it_waits_wakes_another() {
    let (bus, topic, group) = group(16, Overflow::Block, |group| group);
    let (mut first, mut second) = (group.member(), group.member());
    let mut future = first.recv_async();
    waiting(&mut future);
    std::mem::forget(future);
    let mut future = second.recv_async();
    let woken = waiting(&mut future);
    publish(&bus, topic, 0..1);
    assert_eq!(woken.count(), 0, "the first was woken");
    drop(first);
    assert!(woken.count() > 0);
    assert_eq!(*ready(&mut future).payload(), 0);
}

#[test]
fn a_future_may_be_dropped_at_any_poll() {
    const EVENTS: u64 = 4;
    // What happens to the future of each event: taken at once; dropped unpolled; dropped while it waits; woken and
    // dropped; woken and polled.
    for script in 0..5_u32.pow(EVENTS as u32) {
        let (bus, topic, group) = group(8, Overflow::Block, |group| group);
        let (mut first, mut second) = (group.member(), group.member());
        let mut seen = Vec::new();
        for event in 0..EVENTS {
            let step = script / 5_u32.pow(event as u32) % 5;
            let before = Arc::new(Woken::default());
            let mut future = first.recv_async();
            if step >= 2 {
                assert!(poll_once(&mut future, &before).is_pending());
            }
            let mut other = second.recv_async();
            let bystander = waiting(&mut other);
            let taken = match step {
                0 => {
                    publish(&bus, topic, event..event + 1);
                    Some(ready(&mut future))
                }
                1 => {
                    drop(future);
                    publish(&bus, topic, event..event + 1);
                    None
                }
                2 => {
                    drop(future);
                    assert_eq!(bystander.count(), 0);
                    publish(&bus, topic, event..event + 1);
                    None
                }
                3 => {
                    publish(&bus, topic, event..event + 1);
                    assert_eq!((before.count(), bystander.count()), (1, 0));
                    drop(future);
                    None
                }
                _ => {
                    publish(&bus, topic, event..event + 1);
                    assert_eq!((before.count(), bystander.count()), (1, 0));
                    Some(ready(&mut future))
                }
            };
            let taken = taken.unwrap_or_else(|| {
                assert_eq!(bystander.count(), 1, "script {script}: the wake-up is lost");
                ready(&mut other)
            });
            seen.push(*taken.payload());
            taken.ack().expect("present");
        }
        assert!(seen.into_iter().eq(0..EVENTS), "script {script}");
        assert_eq!(group.stats().acknowledged, EVENTS);
    }
}

#[test]
fn room_in_a_full_list_wakes_one_who_waits_for_it() {
    let (bus, topic, group) = group(8, Overflow::Block, |group| group.pending_max(1));
    let (mut first, mut second, mut third) = (group.member(), group.member(), group.member());
    publish(&bus, topic, 0..3);
    let zero = take(&mut first);
    let mut futures = (second.recv_async(), third.recv_async());
    let woken = (waiting(&mut futures.0), waiting(&mut futures.1));
    assert_eq!(group.stats().full, 2);
    zero.ack().expect("present");
    assert_eq!((woken.0.count(), woken.1.count()), (1, 0));
    let one = ready(&mut futures.0);
    assert_eq!((woken.0.count(), woken.1.count()), (1, 0), "it is full again");
    one.reject().expect("present");
    assert_eq!(woken.1.count(), 1);
    assert_eq!(*ready(&mut futures.1).payload(), 2);
}

#[test]
fn who_waits_while_the_last_room_is_read_for_is_woken_when_nothing_was_found() {
    let (bus, topic) = bus(8);
    let woken = Arc::new(Woken::default());
    let beside = Arc::new(Mutex::new(None::<Member<u64>>));
    let (member, waker) = (Arc::clone(&beside), Arc::clone(&woken));
    let filter = Filter::all().matching(move |payload: &u64| {
        if *payload == 0 {
            let mut member = member.lock().expect("nothing panics");
            let mut future = member.as_mut().expect("it was put there").recv_async();
            assert!(poll_once(&mut future, &waker).is_pending());
            // It waits on.
            std::mem::forget(future);
        }
        *payload != 0
    });
    let group = bus.group(filter, Overflow::Block).pending_max(1).build().expect("valid");
    let mut first = group.member();
    *beside.lock().expect("nothing panics") = Some(group.member());
    publish(&bus, topic, 0..1);
    assert!(is_empty(&mut first));
    assert_eq!(woken.count(), 1, "nobody looks after what comes");
    assert_eq!(group.stats().full, 0);
    let mut second = beside.lock().expect("nothing panics").take().expect("it is there");
    let mut future = second.recv_async();
    let woken = waiting(&mut future);
    publish(&bus, topic, 1..2);
    assert_eq!(woken.count(), 1);
    assert_eq!(*ready(&mut future).payload(), 1);
}

#[test]
fn the_last_settlement_after_the_close_wakes_everybody() {
    let (bus, topic, group) = group(8, Overflow::Block, |group| group);
    let (mut first, mut second, mut third) = (group.member(), group.member(), group.member());
    publish(&bus, topic, 0..1);
    let zero = take(&mut first);
    bus.close();
    let mut futures = (second.recv_async(), third.recv_async());
    let woken = (waiting(&mut futures.0), waiting(&mut futures.1));
    zero.ack().expect("present");
    assert!(woken.0.count() > 0 && woken.1.count() > 0);
    for future in [&mut futures.0, &mut futures.1] {
        let polled = poll_once(future, &woken.0);
        assert!(matches!(polled, Poll::Ready(Err(RecvError::Closed))));
    }
}

#[test]
fn the_member_that_stays_alone_is_woken_for_what_it_had_before() {
    let (bus, topic, group) = group(8, Overflow::Block, |group| group);
    let (mut first, second) = (group.member(), group.member());
    publish(&bus, topic, 0..1);
    take(&mut first).nack();
    let mut future = first.recv_async();
    let woken = waiting(&mut future);
    drop(second);
    assert_eq!(woken.count(), 1);
    assert_eq!(ready(&mut future).attempt(), 2);
}

#[test]
fn threads_that_wait_share_out_what_comes() {
    const EVENTS: u64 = 20_000;
    for overflow in [Overflow::Block, Overflow::Fail] {
        let (bus, topic) = bus(64);
        let group = bus.group(Filter::all(), overflow).pending_max(8).build().expect("valid");
        let mut all: Vec<u64> = thread::scope(|scope| {
            let members: Vec<_> = (0..4)
                .map(|kind| {
                    let mut member = group.member();
                    scope.spawn(move || {
                        let mut seen = Vec::new();
                        loop {
                            let delivery = if kind % 2 == 0 {
                                member.recv()
                            } else {
                                block_on(member.recv_async())
                            };
                            let Ok(delivery) = delivery else { break };
                            seen.push(*delivery.payload());
                            delivery.ack().expect("present");
                        }
                        seen
                    })
                })
                .collect();
            let publisher = bus.publisher();
            for event in 0..EVENTS {
                while publisher.try_publish(topic, event).is_err() {
                    thread::yield_now();
                }
            }
            bus.close();
            members.into_iter().flat_map(|member| member.join().expect("no panic")).collect()
        });
        all.sort_unstable();
        assert!(all.into_iter().eq(0..EVENTS));
        assert_eq!(group.stats().delivered, EVENTS);
    }
}
