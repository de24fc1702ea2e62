//! Filters by source and by what the payload says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use phalanx::bus::{EventBus, Filter, Overflow, Source, Subscriber, TryRecvError};

use super::{block_on, bus, panics};

const OVERFLOWS: [Overflow; 3] = [Overflow::Block, Overflow::DropOldest, Overflow::Fail];

fn drain<E: Clone>(reader: &mut Subscriber<E>) -> Vec<E> {
    let mut seen = Vec::new();
    let mut looks = 0;
    // A look that only passes events says that nothing is there.
    while looks < 300 {
        match reader.try_recv() {
            Ok(event) => seen.push(event.payload),
            Err(TryRecvError::Empty) => looks += 1,
            Err(error) => panic!("{error}"),
        }
    }
    seen
}

#[test]
fn an_event_carries_the_source_of_its_publisher() {
    let (bus, topic) = bus(8);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    bus.publisher().publish(topic, 0).expect("room");
    let seven = bus.publisher().with_source(Source::new(7));
    let clone = seven.clone();
    clone.publish(topic, 1).expect("room");
    let most = clone.clone().with_source(Source::from(u32::MAX));
    assert_eq!((seven.source().number(), most.source().number()), (7, u32::MAX));
    assert_eq!(most.publish_batch(topic, &mut (2..4)), Ok(2));
    most.publish_with(topic, || 4).expect("room");
    drop((seven, clone, most));
    let mut exclusive =
        bus.exclusive_publisher().expect("nobody publishes").with_source(Source::new(9));
    assert_eq!(exclusive.source(), Source::new(9));
    exclusive.publish(topic, 5).expect("room");
    let max = Source::new(u32::MAX);
    let sources = [Source::UNNAMED, Source::new(7), max, max, max, Source::new(9)];
    for (payload, source) in (0..).zip(sources) {
        let event = reader.recv().expect("published");
        assert_eq!((event.payload, event.source), (payload, source));
    }
}

#[test]
fn a_subscription_may_ask_for_sources_beside_topics() {
    for overflow in OVERFLOWS {
        let (bus, topic) = bus(16);
        let other = bus.topic("other").expect("valid");
        let from = |sources: &[u32]| {
            let sources = sources.iter().map(|&number| Source::new(number));
            Filter::all().from_sources(sources.collect::<Vec<_>>())
        };
        let mut readers = [
            (from(&[1]), vec![1, 11]),
            (from(&[2, 0, 2]), vec![0, 2, 10, 12]),
            (from(&[]), vec![]),
            (from(&[5]), vec![]),
            (Filter::topics(["other"]).expect("valid").from_sources([Source::new(2)]), vec![12]),
            (from(&[1]).from_sources([Source::new(2)]), vec![2, 12]),
        ]
        .map(|(filter, expected)| (bus.subscribe(filter, overflow), expected));
        for (base, topic) in [(0, topic), (10, other)] {
            for source in 0..3 {
                let publisher = bus.publisher().with_source(Source::new(source));
                publisher.publish(topic, base + source).expect("room");
            }
        }
        for (reader, expected) in &mut readers {
            assert_eq!(&drain(reader), expected);
            let stats = reader.stats();
            assert_eq!(
                (stats.delivered, stats.delivered + stats.skipped),
                (expected.len() as u64, 6)
            );
        }
    }
}

#[test]
fn a_predicate_decides_by_the_payload_and_every_one_of_several_has_to_agree() {
    for overflow in OVERFLOWS {
        for batch in [false, true] {
            let (bus, topic) = bus(64);
            let other = bus.topic("other").expect("valid");
            let asked = Arc::new(AtomicUsize::new(0));
            let counting = Arc::clone(&asked);
            let filter = Filter::topics(["test/*"])
                .expect("valid")
                .matching(move |number: &u64| {
                    counting.fetch_add(1, Ordering::SeqCst);
                    number.is_multiple_of(2)
                })
                .matching(|number| number.is_multiple_of(3));
            let mut reader = bus.subscribe(filter, overflow);
            for i in 0..20 {
                bus.publisher().publish(topic, i).expect("room");
                bus.publisher().publish(other, i).expect("room");
            }
            let mut seen = Vec::new();
            if batch {
                for _ in 0..100 {
                    let _ = reader.try_for_each_batch(|event| seen.push(*event.payload));
                }
            } else {
                seen = drain(&mut reader);
            }
            assert_eq!(seen, [0, 6, 12, 18], "{overflow:?}");
            let stats = reader.stats();
            assert_eq!((stats.delivered, stats.skipped, stats.depth), (4, 36, 0));
            assert_eq!(asked.load(Ordering::SeqCst), 20, "it is asked of what the header lets by");
        }
    }
}

#[test]
fn a_subscription_that_publishers_wait_for_clones_nothing_that_it_does_not_want() {
    #[derive(Debug)]
    struct Counted(u64, Arc<AtomicUsize>);
    impl Clone for Counted {
        fn clone(&self) -> Self {
            self.1.fetch_add(1, Ordering::SeqCst);
            Self(self.0, Arc::clone(&self.1))
        }
    }
    let clones = Arc::new(AtomicUsize::new(0));
    let (bus, topic) = bus(64);
    let mut reader =
        bus.subscribe(Filter::all().matching(|one: &Counted| one.0 == 9), Overflow::Block);
    for i in 0..20 {
        bus.publisher().publish(topic, Counted(i, Arc::clone(&clones))).expect("room");
    }
    assert_eq!(reader.recv().expect("there").payload.0, 9);
    assert_eq!(clones.load(Ordering::SeqCst), 1);
}

#[test]
fn a_predicate_that_panics_costs_its_event_and_no_other() {
    for overflow in OVERFLOWS {
        for way in 0..4 {
            let (bus, topic) = bus(8);
            let filter = Filter::all().matching(|number: &u64| {
                assert!(*number != 2, "a hostile predicate");
                *number != 3
            });
            let mut reader = bus.subscribe(filter, overflow);
            for i in 0..6 {
                bus.publisher().publish(topic, i).expect("room");
            }
            let mut seen = Vec::new();
            let mut caught = 0;
            for _ in 0..12 {
                caught += usize::from(panics(|| match way {
                    0 => seen.extend(reader.try_recv().map(|event| event.payload)),
                    1 if seen.len() < 4 => {
                        seen.extend(reader.recv().map(|event| event.payload));
                    }
                    2 if seen.len() < 4 => {
                        seen.extend(block_on(reader.recv_async()).map(|event| event.payload));
                    }
                    3 => {
                        let _ = reader.try_for_each_batch(|event| seen.push(*event.payload));
                    }
                    _ => {}
                }));
            }
            assert_eq!((seen, caught), (vec![0, 1, 4, 5], 1), "{overflow:?}, way {way}");
            let stats = reader.stats();
            assert_eq!((stats.delivered + stats.skipped, stats.depth, stats.dropped), (6, 0, 0));
            assert_eq!(bus.stats().handler_panics, 0, "a predicate is no handler");
            for i in 10..18 {
                bus.publisher().try_publish(topic, i).expect("nothing is held");
            }
        }
    }
}

#[test]
fn long_runs_that_do_not_match_are_passed_by_every_way_to_receive() {
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let bus = EventBus::builder().capacity(1024).build().expect("valid");
        let (noise, signal) =
            (bus.topic("noise").expect("valid"), bus.topic("signal").expect("valid"));
        let filter = Filter::topics(["signal"]).expect("valid");
        let mut reader = bus.subscribe(filter, overflow);
        let publisher = bus.publisher();
        for way in 0..4 {
            publisher.publish_batch(noise, &mut (0..700)).expect("room");
            publisher.publish(signal, way).expect("room");
            let received = match way {
                0 => reader.recv().expect("there").payload,
                1 => reader.recv_timeout(std::time::Duration::MAX).expect("there").payload,
                2 => block_on(reader.recv_async()).expect("there").payload,
                _ => {
                    let mut received = 0;
                    let handled = reader.for_each_batch(|event| received = *event.payload);
                    assert_eq!(handled, Ok(1));
                    received
                }
            };
            assert_eq!(received, way);
        }
        assert_eq!((reader.stats().delivered, reader.stats().skipped), (4, 2800));
    }
}
