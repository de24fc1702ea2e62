//! A minute of everything at once, after which the process is as large as before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use phalanx::bus::{EventBus, Filter, Overflow, RecvError, RecvTimeoutError};

use super::{Woken, block_on, poll_once};
use crate::resident::{GROWTH_MAX_BYTES, growth_of_a_minute};

/// What a payload takes beside its slot: enough for a leak of one in a thousand to be seen.
type Payload = Box<[u64; 32]>;

#[test]
#[ignore = "takes a minute by its nature; the gate runs it by itself"]
fn a_minute_of_everything_leaves_the_process_as_large_as_it_was() {
    let bus = EventBus::<Payload>::builder().capacity(1024).lanes(3).build().expect("valid");
    let topics: Vec<_> = (0..4).map(|i| bus.topic(&format!("soak/{i}")).expect("valid")).collect();
    let stop = AtomicBool::new(false);
    let stopped = || stop.load(Ordering::Relaxed);
    let mut letters = bus.dead_letters(16);
    let group = bus.group(Filter::all(), Overflow::DropOldest).attempts_max(2).build();
    let group = group.expect("valid");
    thread::scope(|scope| {
        for publisher in 0..3 {
            let (bus, topics) = (&bus, &topics);
            scope.spawn(move || {
                let handle = bus.publisher_to(publisher % 2).expect("there are two");
                let mut number = 0_u64;
                while !stopped() {
                    let topic = topics[number as usize % topics.len()];
                    let closed = if number.is_multiple_of(100) {
                        let mut few = (0..16_u32).map(|i| Box::new([number + u64::from(i); 32]));
                        handle.publish_batch(topic, &mut few).is_err()
                    } else {
                        handle.publish(topic, Box::new([number; 32])).is_err()
                    };
                    if closed {
                        break;
                    }
                    number += 1;
                }
            });
        }
        scope.spawn(|| {
            // The lane changes hands all the while.
            while !stopped() {
                let mut handle = bus.exclusive_publisher_to(2).expect("nobody else is there");
                for number in 0..1_000_u64 {
                    let make = || Box::new([number; 32]);
                    if handle.publish_with(topics[0], make).is_err() {
                        return;
                    }
                }
            }
        });
        scope.spawn(|| {
            let filter = Filter::all().matching(|payload: &Payload| payload[0].is_multiple_of(3));
            let mut subscriber = bus.subscribe(filter, Overflow::Block);
            let woken = Arc::new(Woken::default());
            loop {
                // Some futures are given up while they wait.
                drop(poll_once(&mut subscriber.recv_async(), &woken));
                match block_on(subscriber.recv_async()) {
                    Ok(event) => assert!(event.payload[0].is_multiple_of(3)),
                    Err(_) => break,
                }
            }
        });
        for (reader, overflow) in [Overflow::Block, Overflow::DropOldest].into_iter().enumerate() {
            let bus = &bus;
            scope.spawn(move || {
                // Subscriptions come and go all the while.
                while !stopped() {
                    let filter = Filter::topics([format!("soak/{reader}"), "soak/3".to_owned()]);
                    let mut subscriber = bus.subscribe(filter.expect("valid"), overflow);
                    for _ in 0..1_000 {
                        match subscriber.recv_timeout(Duration::from_millis(10)) {
                            Ok(event) => {
                                assert!(event.payload.iter().all(|w| *w == event.payload[0]))
                            }
                            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Lagged { .. }) => {}
                            Err(_) => return,
                        }
                    }
                }
            });
        }
        let mut member = group.member();
        // The letters end when nobody is left who could send one.
        drop(group);
        scope.spawn(move || {
            for number in 0_u64.. {
                match member.recv() {
                    Ok(delivery) if number.is_multiple_of(7) => delivery.nack(),
                    Ok(delivery) => drop(delivery.ack()),
                    Err(RecvError::Lagged { .. }) => {}
                    Err(_) => break,
                }
            }
        });
        scope.spawn(
            move || {
                while matches!(letters.recv(), Ok(_) | Err(RecvError::Lagged { .. })) {}
            },
        );
        let grown = growth_of_a_minute();
        stop.store(true, Ordering::Relaxed);
        bus.close();
        println!("{} events; grown by {grown} bytes", bus.stats().published);
        assert!(grown < GROWTH_MAX_BYTES, "grown by {grown} bytes in a minute");
    });
}
