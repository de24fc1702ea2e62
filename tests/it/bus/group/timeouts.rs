//! Deliveries that are held for too long, by a clock that the tests move.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use phalanx::ManualClock;
use phalanx::bus::{EventBus, Filter, Group, Overflow, RecvTimeoutError, Topic};

use super::super::{Woken, poll_once};
use super::{is_empty, publish, take};

const TIMEOUT: Duration = Duration::from_secs(10);

fn timed(attempts_max: u32) -> (EventBus<u64>, Topic, Group<u64>, ManualClock) {
    let (clock, hand) = ManualClock::new();
    let bus = EventBus::builder().capacity(16).clock(clock).build().expect("valid");
    let topic = bus.topic("test/topic").expect("valid");
    let group = bus.group(Filter::all(), Overflow::Block);
    let group = group.ack_timeout(TIMEOUT).attempts_max(attempts_max).build().expect("valid");
    (bus, topic, group, hand)
}

fn wait_for_sleepers(hand: &ManualClock, sleepers: usize) {
    while hand.sleepers() != sleepers {
        thread::yield_now();
    }
}

#[test]
fn a_delivery_that_is_held_for_too_long_goes_to_another_member() {
    let (bus, topic, group, hand) = timed(5);
    let (mut first, mut second) = (group.member(), group.member());
    publish(&bus, topic, 0..2);
    let (zero, one) = (take(&mut first), take(&mut first));
    assert_eq!(group.next_overdue(), Some(TIMEOUT));
    hand.advance(TIMEOUT - Duration::from_secs(1));
    assert!(is_empty(&mut second));
    assert_eq!(group.next_overdue(), Some(Duration::from_secs(1)));
    hand.advance(Duration::from_secs(1));
    zero.ack().expect("nobody took it back yet");
    let again = take(&mut second);
    assert_eq!((*again.payload(), again.attempt()), (1, 2));
    assert!(one.ack().is_err(), "another has it");
    again.ack().expect("present");
    let stats = group.stats();
    assert_eq!((stats.timed_out, stats.stale, stats.acknowledged), (1, 1, 2));
    assert_eq!(group.next_overdue(), None);
}

#[test]
fn a_late_rejection_or_return_changes_nothing() {
    let (bus, topic, group, hand) = timed(5);
    let (mut first, mut second) = (group.member(), group.member());
    publish(&bus, topic, 0..3);
    let late = [take(&mut first), take(&mut first), take(&mut first)];
    hand.advance(TIMEOUT);
    let now = [take(&mut second), take(&mut second), take(&mut second)];
    let [reject, nack, dropped] = late;
    assert!(reject.reject().is_err());
    nack.nack();
    drop(dropped);
    for delivery in now {
        delivery.ack().expect("still its own");
    }
    assert_eq!((group.stats().dead_lettered, group.stats().acknowledged), (0, 3));
}

#[test]
fn attempts_that_time_out_count() {
    let (bus, topic, group, hand) = timed(2);
    let mut letters = bus.dead_letters(4);
    let mut member = group.member();
    publish(&bus, topic, 0..1);
    let first = take(&mut member);
    hand.advance(TIMEOUT);
    let second = take(&mut member);
    assert_eq!(second.attempt(), 2);
    hand.advance(TIMEOUT);
    assert_eq!(group.take_back_overdue(), 1);
    assert_eq!(group.take_back_overdue(), 0);
    assert_eq!(letters.try_recv().expect("a letter").event().payload, 0);
    assert!(first.ack().is_err() && second.ack().is_err());
}

#[test]
fn a_thread_that_waits_takes_over_when_the_time_is_up() {
    let (bus, topic, group, hand) = timed(5);
    let (mut first, mut second) = (group.member(), group.member());
    publish(&bus, topic, 0..1);
    let held = take(&mut first);
    let waiting = thread::spawn(move || second.recv().expect("open").attempt());
    wait_for_sleepers(&hand, 1);
    hand.advance(TIMEOUT);
    assert_eq!(waiting.join().expect("no panic"), 2);
    assert!(held.ack().is_err());
}

#[test]
fn a_thread_that_waited_before_the_delivery_takes_over_too() {
    let (bus, topic, group, hand) = timed(5);
    let (mut first, mut second) = (group.member(), group.member());
    // The first in the queue, so the event is its own and the thread sleeps on.
    let woken = Arc::new(Woken::default());
    let mut future = first.recv_async();
    assert!(poll_once(&mut future, &woken).is_pending());
    let waiting = thread::spawn(move || second.recv().expect("open").attempt());
    wait_for_sleepers(&hand, 1);
    hand.advance(TIMEOUT / 2);
    publish(&bus, topic, 0..1);
    assert_eq!(woken.count(), 1);
    let held = poll_once(&mut future, &woken);
    assert!(held.is_ready());
    hand.advance(TIMEOUT / 2);
    wait_for_sleepers(&hand, 1);
    hand.advance(TIMEOUT / 2);
    assert_eq!(waiting.join().expect("no panic"), 2);
    drop(held);
}

#[test]
fn a_pending_future_is_woken_when_somebody_looks_after_what_is_overdue() {
    let (bus, topic, group, hand) = timed(5);
    let (mut first, mut second) = (group.member(), group.member());
    publish(&bus, topic, 0..1);
    let held = take(&mut first);
    let woken = Arc::new(Woken::default());
    let mut future = second.recv_async();
    assert!(poll_once(&mut future, &woken).is_pending());
    hand.advance(TIMEOUT);
    assert_eq!(group.take_back_overdue(), 1);
    assert_eq!(woken.count(), 1);
    assert!(poll_once(&mut future, &woken).is_ready());
    drop(held);
}

#[test]
fn a_wait_ends_by_the_clock_of_the_bus() {
    let (bus, _, group, hand) = timed(5);
    let mut member = group.member();
    let waiting = thread::spawn(move || member.recv_timeout(TIMEOUT * 3).err());
    for _ in 0..3 {
        wait_for_sleepers(&hand, 1);
        hand.advance(TIMEOUT);
    }
    assert_eq!(waiting.join().expect("no panic"), Some(RecvTimeoutError::Timeout));
    drop(bus);
}
