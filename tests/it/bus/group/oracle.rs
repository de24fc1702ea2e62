//! Many members that acknowledge, return, drop, panic and leave at random; each event is dealt with once.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;

use phalanx::bus::{
    DeadLetterReason, Delivery, EventBus, Filter, Group, Member, Overflow, RecvError, TryRecvError,
};

use super::super::block_on;

/// A small generator, so that a run can be told by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// What the members saw.
#[derive(Default)]
struct Seen {
    /// Deliveries of each event.
    deliveries: HashMap<u64, u32>,
    acknowledged: HashMap<u64, u32>,
    rejected: HashMap<u64, u32>,
    lost: u64,
}

fn receive(member: &mut Member<u64>, random: &mut Random) -> Result<Delivery<u64>, RecvError> {
    match random.below(3) {
        0 => member.recv(),
        1 => block_on(member.recv_async()),
        _ => {
            // Dropped before it is ready, perhaps after it was woken.
            {
                let mut future = member.recv_async();
                let woken = std::sync::Arc::default();
                if let std::task::Poll::Ready(result) = super::super::poll_once(&mut future, &woken)
                {
                    return result;
                }
            }
            member.recv()
        }
    }
}

fn work(group: &Group<u64>, seed: u64, attempts_max: u32, seen: &Mutex<Seen>) {
    let mut random = Random(seed);
    let mut member = group.member();
    let mut held = Vec::new();
    loop {
        // Nobody is to wait with a delivery in hand: it may be the one that all wait for.
        if !held.is_empty() && random.below(2) == 0 {
            held.clear();
        }
        let received = if held.is_empty() {
            receive(&mut member, &mut random)
        } else {
            match member.try_recv() {
                Ok(delivery) => Ok(delivery),
                Err(TryRecvError::Lagged { missed, from, lane }) => {
                    Err(RecvError::Lagged { missed, from, lane })
                }
                Err(_) => {
                    held.clear();
                    continue;
                }
            }
        };
        let delivery = match received {
            Ok(delivery) => delivery,
            Err(RecvError::Lagged { missed, .. }) => {
                seen.lock().expect("no panic").lost += missed;
                continue;
            }
            Err(_) => break,
        };
        let event = *delivery.payload();
        {
            let mut seen = seen.lock().expect("no panic");
            let deliveries = seen.deliveries.entry(event).or_default();
            *deliveries += 1;
            assert_eq!(delivery.attempt(), *deliveries, "two had it at a time, or one never did");
            assert!(*deliveries <= attempts_max);
        }
        match random.below(16) {
            0 => delivery.nack(),
            1 => drop(delivery),
            2 => {
                let unwound = catch_unwind(AssertUnwindSafe(|| {
                    let _held = delivery;
                    std::panic::resume_unwind(Box::new("a hostile member"));
                }));
                assert!(unwound.is_err());
            }
            3 => {
                let rejected = delivery.reject().is_ok();
                let mut seen = seen.lock().expect("no panic");
                *seen.rejected.entry(event).or_default() += u32::from(rejected);
            }
            4 => {
                // It goes, and another comes in its place.
                drop(std::mem::replace(&mut member, group.member()));
                assert!(delivery.ack().is_err(), "its member is gone");
            }
            5 => held.push(delivery),
            _ => {
                delivery.ack().expect("there is no timeout");
                *seen.lock().expect("no panic").acknowledged.entry(event).or_default() += 1;
            }
        }
    }
}

fn run(seed: u64, capacity: usize, overflow: Overflow, pending_max: usize, attempts_max: u32) {
    const MEMBERS: u64 = 8;
    const EVENTS: u64 = 6_000;
    let bus = EventBus::builder().capacity(capacity).build().expect("valid");
    let topic = bus.topic("test/topic").expect("valid");
    let mut letters = bus.dead_letters(EVENTS as usize);
    let group = bus.group(Filter::all(), overflow);
    let group = group.pending_max(pending_max).attempts_max(attempts_max).build().expect("valid");
    let seen = Mutex::new(Seen::default());
    thread::scope(|scope| {
        let members: Vec<_> = (0..MEMBERS)
            .map(|member| {
                let (group, seen) = (&group, &seen);
                scope.spawn(move || work(group, seed * MEMBERS + member, attempts_max, seen))
            })
            .collect();
        let publishers: Vec<_> = (0..2)
            .map(|publisher| {
                let bus = &bus;
                scope.spawn(move || {
                    for event in (publisher..EVENTS).step_by(2) {
                        bus.publisher().publish(topic, event).expect("open");
                    }
                })
            })
            .collect();
        for publisher in publishers {
            publisher.join().expect("a publisher panicked");
        }
        bus.close();
        for member in members {
            member.join().expect("a member panicked");
        }
    });
    let stats = group.stats();
    drop(group);
    let mut dead: HashMap<u64, DeadLetterReason> = HashMap::new();
    while let Ok(letter) = letters.recv() {
        let before = dead.insert(letter.event().payload, letter.reason());
        assert!(before.is_none(), "an event died twice");
    }
    let seen = seen.into_inner().expect("no panic");
    let taken = seen.deliveries.len() as u64;
    assert_eq!(taken + seen.lost, EVENTS, "seed {seed}");
    for (event, deliveries) in &seen.deliveries {
        let acknowledged = seen.acknowledged.get(event).copied().unwrap_or_default();
        let rejected = seen.rejected.get(event).copied().unwrap_or_default();
        match dead.get(event) {
            None => assert_eq!((acknowledged, rejected), (1, 0), "event {event}, seed {seed}"),
            Some(DeadLetterReason::Rejected) => assert_eq!((acknowledged, rejected), (0, 1)),
            Some(DeadLetterReason::AttemptsExhausted { attempts }) => {
                assert_eq!((acknowledged, rejected), (0, 0));
                assert_eq!((*attempts, *deliveries), (attempts_max, attempts_max));
            }
            Some(other) => panic!("event {event}: {other}"),
        }
    }
    assert_eq!(stats.acknowledged, seen.acknowledged.len() as u64);
    assert_eq!(stats.dead_lettered, dead.len() as u64);
    assert_eq!(bus.stats().dead_letters, stats.dead_lettered);
    assert_eq!(stats.delivered, seen.deliveries.values().map(|n| u64::from(*n)).sum::<u64>());
    assert_eq!(stats.delivered - stats.redelivered, taken);
    assert_eq!((stats.lagged, stats.pending, stats.members), (seen.lost, 0, 0));
}

#[test]
fn every_event_is_acknowledged_once_or_dead() {
    for seed in 0..3 {
        run(seed, 64, Overflow::Block, 1024, 3);
    }
}

#[test]
fn every_event_is_acknowledged_once_or_dead_where_all_is_short() {
    for seed in 10..13 {
        run(seed, 2, Overflow::Block, 20, 2);
    }
    run(20, 4, Overflow::Block, 17, 1);
}

#[test]
fn every_event_is_acknowledged_once_or_dead_or_told_as_lost() {
    for seed in 30..33 {
        run(seed, 16, Overflow::DropOldest, 24, 3);
    }
}
