//! Code of others that panics in the middle of a group.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};
use std::thread;

use phalanx::bus::{DeadLetterReason, EventBus, Filter, Overflow, WaitStrategy};

use super::super::{Woken, bus, poll_once};
use super::{group, publish, take};

#[test]
fn a_clone_that_panics_passes_the_event_and_leaves_the_group_whole() {
    #[derive(Debug)]
    struct Hostile(u64);
    impl Clone for Hostile {
        fn clone(&self) -> Self {
            assert_ne!(self.0, 1, "a hostile clone");
            Self(self.0)
        }
    }
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let (bus, topic) = bus(4);
        let group = bus.group(Filter::all(), overflow).build().expect("valid");
        let (mut first, mut second) = (group.member(), group.member());
        let mut future = second.recv_async();
        let woken = Arc::new(Woken::default());
        assert!(poll_once(&mut future, &woken).is_pending());
        drop(future);
        for event in 0..3 {
            bus.publisher().publish(topic, Hostile(event)).expect("room");
        }
        assert_eq!(take_payload(&mut first), 0);
        let mut future = second.recv_async();
        assert!(catch_unwind(AssertUnwindSafe(|| poll_once(&mut future, &woken))).is_err());
        drop(future);
        assert_eq!(take_payload(&mut first), 2);
        let stats = group.stats();
        assert_eq!((stats.delivered, stats.panicked, stats.acknowledged), (2, 1, 2));
    }
    fn take_payload(member: &mut phalanx::bus::Member<Hostile>) -> u64 {
        let delivery = member.try_recv().expect("a delivery");
        let payload = delivery.payload().0;
        delivery.ack().expect("present");
        payload
    }
}

#[test]
fn a_receive_that_panics_wakes_another_who_waits() {
    let (bus, topic) = bus(8);
    let filter = Filter::all().matching(|payload: &u64| {
        assert_ne!(*payload, 0, "a hostile predicate");
        true
    });
    let group = bus.group(filter, Overflow::Block).build().expect("valid");
    let (mut first, mut second) = (group.member(), group.member());
    let woken = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    let mut futures = (first.recv_async(), second.recv_async());
    assert!(poll_once(&mut futures.0, &woken.0).is_pending());
    assert!(poll_once(&mut futures.1, &woken.1).is_pending());
    publish(&bus, topic, 0..2);
    assert_eq!((woken.0.count(), woken.1.count()), (1, 0));
    let polled = catch_unwind(AssertUnwindSafe(|| poll_once(&mut futures.0, &woken.0)));
    assert!(polled.is_err(), "the panic passes through");
    assert_eq!(woken.1.count(), 1);
    assert!(poll_once(&mut futures.1, &woken.1).is_ready());
    assert_eq!(group.stats().panicked, 1);
}

#[test]
fn a_thread_that_panics_as_it_goes_to_wait_is_not_woken_in_the_place_of_others() {
    let bus = EventBus::builder().capacity(512).wait_strategy(WaitStrategy::Park);
    let bus = bus.build().expect("valid");
    let topic = bus.topic("test/topic").expect("valid");
    // Its first look ends before the last of these, its second one at it.
    let filter = Filter::all().matching(|payload: &u64| {
        assert_ne!(*payload, 256, "a hostile predicate");
        *payload > 256
    });
    let group = bus.group(filter, Overflow::Block).build().expect("valid");
    let mut first = group.member();
    let mut others: Vec<_> = (0..3).map(|_| group.member()).collect();
    let mut futures: Vec<_> = others.iter_mut().map(|member| member.recv_async()).collect();
    let woken = Arc::new(Woken::default());
    let mut wait = || futures.iter_mut().all(|future| poll_once(future, &woken).is_pending());
    assert!(wait());
    publish(&bus, topic, 0..257);
    assert!(catch_unwind(AssertUnwindSafe(|| first.recv())).is_err());
    assert_eq!(group.stats().panicked, 1);
    assert!(wait());
    let before = woken.count();
    publish(&bus, topic, 257..258);
    assert_eq!(woken.count(), before + 1);
    assert!(poll_once(&mut futures[0], &woken).is_ready());
}

#[test]
fn a_waker_that_panics_keeps_no_wake_from_another() {
    struct Hostile;
    impl Wake for Hostile {
        fn wake(self: Arc<Self>) {
            panic!("a hostile waker");
        }
    }
    let hostile = Arc::new(Hostile).into();
    let (bus, topic, group) = group(8, Overflow::Block, |group| group.pending_max(2));
    let (mut first, mut second, mut third) = (group.member(), group.member(), group.member());
    for step in 0..3 {
        // What both wait for: an event, one that comes back, room.
        if step > 0 {
            publish(&bus, topic, 0..step);
        }
        let mut held: Vec<_> = (0..step).map(|_| take(&mut first)).collect();
        let (mut one, mut other) = (second.recv_async(), third.recv_async());
        let mut cx = Context::from_waker(&hostile);
        assert!(Pin::new(&mut one).poll(&mut cx).is_pending());
        let woken = Arc::new(Woken::default());
        assert!(poll_once(&mut other, &woken).is_pending());
        let panicked = catch_unwind(AssertUnwindSafe(|| match step {
            0 => publish(&bus, topic, 0..1),
            1 => held.remove(0).nack(),
            _ => {
                publish(&bus, topic, 9..10);
                held.remove(0).ack().expect("present");
            }
        }));
        assert!(panicked.is_err(), "the panic passes through");
        assert!(woken.count() > 0, "step {step}: the wake-up is lost");
        let Poll::Ready(Ok(delivery)) = poll_once(&mut other, &woken) else { panic!("nothing") };
        delivery.ack().expect("present");
        for delivery in held {
            delivery.ack().expect("present");
        }
    }
}

#[test]
fn a_member_that_panics_hands_on_what_it_had() {
    let (bus, topic, group) = group(8, Overflow::Block, |group| group.attempts_max(2));
    let mut letters = bus.dead_letters(8);
    let (mut first, mut second) = (group.member(), group.member());
    publish(&bus, topic, 0..3);
    let unwound = thread::spawn(move || {
        let held = [take(&mut first), take(&mut first)];
        panic!("a hostile member with {} deliveries", held.len());
    });
    assert!(unwound.join().is_err());
    let (zero, one) = (take(&mut second), take(&mut second));
    assert_eq!((*zero.payload(), zero.attempt()), (0, 2));
    assert_eq!((*one.payload(), one.attempt()), (1, 2));
    zero.ack().expect("present");
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _held = one;
        panic!("again");
    }));
    assert!(unwound.is_err());
    let letter = letters.try_recv().expect("a letter");
    assert_eq!(letter.reason(), DeadLetterReason::AttemptsExhausted { attempts: 2 });
    assert_eq!(letter.into_event().payload, 1);
    assert_eq!(*take(&mut second).payload(), 2);
}

#[test]
fn a_publishers_waker_that_panics_costs_one_event_which_is_counted() {
    struct Hostile;
    impl Wake for Hostile {
        fn wake(self: Arc<Self>) {
            panic!("a hostile waker");
        }
    }
    let (bus, topic, group) = group(2, Overflow::Block, |group| group);
    let mut member = group.member();
    publish(&bus, topic, 0..2);
    let publisher = bus.publisher();
    let mut third = publisher.publish_async(topic, 2);
    let waker = Arc::new(Hostile).into();
    assert!(Pin::new(&mut third).poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(catch_unwind(AssertUnwindSafe(|| member.try_recv())).is_err());
    assert!(poll_once(&mut third, &Arc::new(Woken::default())).is_ready());
    for event in 1..3 {
        let delivery = take(&mut member);
        assert_eq!(*delivery.payload(), event);
        delivery.ack().expect("present");
    }
    let stats = group.stats();
    assert_eq!((stats.delivered, stats.acknowledged, stats.panicked), (2, 2, 1));
}

#[test]
fn a_waker_whose_drop_panics_does_not_keep_its_member_from_leaving() {
    struct Hostile;
    impl Wake for Hostile {
        fn wake(self: Arc<Self>) {}
    }
    impl Drop for Hostile {
        fn drop(&mut self) {
            panic!("a hostile drop");
        }
    }
    let (bus, topic, group) = group(8, Overflow::Block, |group| group);
    let (mut first, mut second) = (group.member(), group.member());
    publish(&bus, topic, 0..1);
    let held = take(&mut first);
    let waker = Arc::new(Hostile).into();
    let mut future = first.recv_async();
    assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
    // The member waits on, with the last of its waker.
    std::mem::forget(future);
    drop(waker);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(first))).is_err(), "the panic passes through");
    assert_eq!((group.stats().members, group.stats().pending), (1, 1));
    assert_eq!(take(&mut second).attempt(), 2);
    assert!(held.ack().is_err(), "its member is gone");
}

#[test]
fn a_waker_that_panics_undoes_nothing() {
    struct Hostile;
    impl Wake for Hostile {
        fn wake(self: Arc<Self>) {
            panic!("a hostile waker");
        }
    }
    let (bus, topic, group) = group(8, Overflow::Block, |group| group);
    let (mut first, mut second, mut third) = (group.member(), group.member(), group.member());
    publish(&bus, topic, 0..2);
    let (zero, one) = (take(&mut first), take(&mut first));
    let waker = Arc::new(Hostile).into();
    let mut cx = Context::from_waker(&waker);
    let mut future = second.recv_async();
    assert!(Pin::new(&mut future).poll(&mut cx).is_pending());
    let returned = catch_unwind(AssertUnwindSafe(|| zero.nack()));
    assert!(returned.is_err(), "the panic passes through");
    let again = take(&mut third);
    assert_eq!((*again.payload(), again.attempt()), (0, 2));
    again.ack().expect("present");
    // While another panic unwinds it does not end the process.
    assert!(Pin::new(&mut future).poll(&mut cx).is_pending());
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _held = one;
        panic!("the first panic");
    }));
    let panic = unwound.expect_err("it panicked");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"the first panic"));
    drop(future);
    assert_eq!((*take(&mut third).payload(), group.stats().redelivered), (1, 2));
}

#[test]
fn a_payload_whose_drop_panics_is_settled_all_the_same() {
    #[derive(Clone, Debug)]
    struct Hostile(Arc<AtomicBool>);
    impl Drop for Hostile {
        fn drop(&mut self) {
            assert!(!self.0.load(Ordering::SeqCst), "a hostile drop");
        }
    }
    let armed = Arc::new(AtomicBool::new(false));
    let (bus, topic) = bus(4);
    let group = bus.group(Filter::all(), Overflow::Block).pending_max(1).build().expect("valid");
    let mut member = group.member();
    for _ in 0..2 {
        bus.publisher().publish(topic, Hostile(Arc::clone(&armed))).expect("room");
    }
    for settle in 0..2 {
        let delivery = member.try_recv().expect("a delivery");
        armed.store(true, Ordering::SeqCst);
        let settled = catch_unwind(AssertUnwindSafe(|| {
            if settle == 0 { delivery.ack() } else { delivery.reject() }
        }));
        assert!(settled.is_err(), "the panic passes through");
        armed.store(false, Ordering::SeqCst);
    }
    let stats = group.stats();
    assert_eq!((stats.acknowledged, stats.dead_lettered, stats.pending), (1, 1, 0));
}
