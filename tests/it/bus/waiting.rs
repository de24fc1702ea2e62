//! How readers and publishers wait: by every strategy, for nothing but what concerns them, and what is counted.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use phalanx::bus::{
    EventBus, Filter, Overflow, Recv, RecvError, Subscriber, TryRecvError, WaitStrategy,
};

use super::{Woken, block_on, bus, each_kind, panics, poll_once};

const STRATEGIES: [WaitStrategy; 4] =
    [WaitStrategy::SpinThenPark, WaitStrategy::Park, WaitStrategy::Yield, WaitStrategy::Spin];

/// Receives by one of the ways to wait.
fn receive(reader: &mut Subscriber<u64>, way: usize, seen: &mut Vec<u64>) {
    match way {
        0 => seen.push(reader.recv().expect("open").payload),
        1 => seen.push(reader.recv_timeout(Duration::MAX).expect("open").payload),
        2 => seen.push(block_on(reader.recv_async()).expect("open").payload),
        _ => {
            reader.for_each_batch(|event| seen.push(*event.payload)).expect("open");
        }
    }
}

#[test]
fn every_strategy_delivers_by_every_way_to_receive() {
    const EVENTS: u64 = 100;
    for strategy in STRATEGIES {
        for way in 0..4 {
            for own in [false, true] {
                let builder = EventBus::builder().capacity(2);
                let builder = if own { builder } else { builder.wait_strategy(strategy) };
                let bus = builder.build().expect("valid");
                let topic = bus.topic("t").expect("valid");
                let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
                if own {
                    reader = reader.with_wait_strategy(strategy);
                }
                thread::scope(|scope| {
                    let publisher = bus.publisher();
                    scope.spawn(move || {
                        for i in 0..EVENTS {
                            publisher.publish(topic, i).expect("open");
                        }
                    });
                    let mut seen = Vec::new();
                    while seen.len() < EVENTS as usize {
                        receive(&mut reader, way, &mut seen);
                    }
                    assert!(seen.iter().copied().eq(0..EVENTS), "{strategy:?}, way {way}");
                });
            }
        }
    }
}

#[test]
fn every_strategy_sees_the_close_and_the_end_of_the_time() {
    for strategy in STRATEGIES {
        let bus = EventBus::<u64>::builder().wait_strategy(strategy).build().expect("valid");
        let mut reader = bus.subscribe(Filter::all(), Overflow::DropOldest);
        assert!(reader.recv_timeout(Duration::from_micros(1)).is_err());
        thread::scope(|scope| {
            let reading = scope.spawn(move || reader.recv());
            thread::yield_now();
            bus.close();
            assert_eq!(reading.join().expect("no panic"), Err(RecvError::Closed));
        });
    }
}

/// Polls until it does not ask for it by itself, which it does to pass what it did not ask for; says how
/// often it was woken by then.
fn settle(future: &mut Recv<'_, u64>, woken: &Arc<Woken>) -> usize {
    loop {
        let before = woken.count();
        assert!(poll_once(future, woken).is_pending());
        if woken.count() == before {
            return before;
        }
    }
}

#[test]
fn a_parked_reader_is_not_woken_by_what_it_did_not_ask_for_but_a_few_times_a_lap() {
    let (bus, noise) = bus(64);
    let signal = bus.topic("signal").expect("valid");
    let publisher = bus.publisher();
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let filter = Filter::topics(["signal"]).expect("valid");
        let mut reader = bus.subscribe(filter, overflow);
        let woken = Arc::new(Woken::default());
        let mut future = reader.recv_async();
        assert!(poll_once(&mut future, &woken).is_pending());
        let mut nudges = 0;
        for _ in 0..640 {
            let sequence = publisher.try_publish(noise, 0).expect("it follows the nudges");
            let quarter = sequence.is_multiple_of(16);
            nudges += usize::from(quarter);
            assert_eq!(woken.count(), nudges, "at {sequence}");
            if quarter {
                nudges = settle(&mut future, &woken);
            }
        }
        assert!(nudges >= 40);
        nudges = settle(&mut future, &woken);
        publisher.publish(signal, 5).expect("room");
        assert_eq!(woken.count(), nudges + 1);
        assert_eq!(block_on(future).expect("the one").payload, 5);
        assert_eq!(reader.stats().skipped, 640);
    }
}

#[test]
fn a_batch_that_crosses_a_quarter_of_the_ring_nudges_too() {
    let (bus, noise) = bus(64);
    bus.topic("signal").expect("valid");
    let publisher = bus.publisher();
    publisher.publish(noise, 0).expect("room");
    let mut reader =
        bus.subscribe(Filter::topics(["signal"]).expect("valid"), Overflow::DropOldest);
    let woken = Arc::new(Woken::default());
    let mut future = reader.recv_async();
    assert!(poll_once(&mut future, &woken).is_pending());
    publisher.publish_batch(noise, &mut (0..15)).expect("room");
    assert_eq!(woken.count(), 0, "up to the quarter");
    publisher.publish_batch(noise, &mut (0..4)).expect("room");
    assert_eq!(woken.count(), 1, "across it");
}

#[test]
fn a_reader_of_topics_that_there_are_not_is_woken_when_one_is_made() {
    for threads in [false, true] {
        let (bus, other) = bus(64);
        bus.publisher().publish(other, 0).expect("room");
        let filter = || Filter::topics(["made/*"]).expect("valid");
        let mut reader = bus.subscribe(filter(), Overflow::Block);
        if threads {
            thread::scope(|scope| {
                let reading = scope.spawn(|| reader.recv());
                for _ in 0..200 {
                    thread::yield_now();
                }
                let made = bus.topic("made/late").expect("valid");
                bus.publisher().publish(made, 7).expect("room");
                assert_eq!(reading.join().expect("no panic").expect("it").payload, 7);
            });
        } else {
            let woken = Arc::new(Woken::default());
            let mut future = reader.recv_async();
            assert!(poll_once(&mut future, &woken).is_pending());
            bus.publisher().publish(other, 0).expect("room");
            assert_eq!(woken.count(), 0, "what there is does not concern it");
            let made = bus.topic("made/late").expect("valid");
            assert_eq!(woken.count(), 1, "it looks whether the new one does");
            let before = settle(&mut future, &woken);
            bus.publisher().publish(made, 7).expect("room");
            assert_eq!(woken.count(), before + 1);
        }
    }
}

#[test]
fn a_reader_of_topics_that_there_are_not_holds_nobody_up_and_sees_the_close() {
    for strategy in [WaitStrategy::Park, WaitStrategy::SpinThenPark] {
        let bus = EventBus::builder().capacity(4).wait_strategy(strategy).build().expect("valid");
        let noise = bus.topic("noise").expect("valid");
        let filter = Filter::topics(["nothing"]).expect("valid");
        let mut reader = bus.subscribe(filter, Overflow::Block);
        thread::scope(|scope| {
            let reading = scope.spawn(move || (reader.recv(), reader.stats().skipped));
            let publisher = bus.publisher();
            for i in 0..1000 {
                publisher.publish(noise, i).expect("open");
            }
            bus.close();
            assert_eq!(reading.join().expect("no panic"), (Err(RecvError::Closed), 1000));
        });
    }
}

#[test]
fn the_counters_close_over_everything_that_may_become_of_an_event() {
    let (bus, topic) = bus(4);
    let other = bus.topic("other").expect("valid");
    let publisher = bus.publisher();
    let some = Filter::topics(["other"]).expect("valid");
    let mut readers = vec![
        bus.subscribe(Filter::all(), Overflow::DropOldest),
        bus.subscribe(some.clone(), Overflow::DropOldest),
        bus.subscribe(some.matching(|i| *i < 30), Overflow::DropOldest),
        bus.subscribe(Filter::all().matching(|i| i % 3 == 0), Overflow::Block),
    ];
    let mut panicking = bus.subscribe(Filter::all(), Overflow::Fail);
    let mut refused = 0;
    for i in 0..60_u64 {
        let on = if i % 2 == 0 { topic } else { other };
        refused += u64::from(publisher.try_publish(on, i).is_err());
        if i % 7 == 0 {
            assert!(
                panics(|| publisher.publish_with(topic, || panic!("a hostile maker"))) || i > 0
            );
        }
        for (which, reader) in readers.iter_mut().enumerate() {
            if (i as usize).is_multiple_of(which + 2) {
                let _ = reader.try_recv();
                let _ = reader.try_for_each_batch(|_| {});
            }
        }
        readers[3].try_for_each_batch(|_| {}).ok();
        if i < 20 {
            panicking.try_for_each_batch(|_| {}).ok();
        } else if i == 21 {
            let hostile = |_: phalanx::bus::Event<&u64>| panic!("a hostile handler");
            assert!(panics(|| panicking.try_for_each_batch(hostile)));
        }
    }
    let stats = bus.stats();
    assert_eq!(refused, stats.refused_publishes);
    assert!(stats.tombstones > 0 && stats.lagged > 0 && stats.dropped > 0 && stats.skipped > 0);
    let each = bus.subscriber_stats();
    assert_eq!(each, readers.iter().map(Subscriber::stats).collect::<Vec<_>>());
    for reader in &each {
        let all = reader.delivered + reader.skipped + reader.lagged + reader.dropped + reader.depth;
        assert_eq!(all, stats.published, "{reader:?}");
    }
    let depth: u64 = each.iter().map(|reader| reader.depth).sum();
    let gone = panicking.stats();
    assert_eq!(gone.depth, 0);
    let until_it_ended = gone.delivered + gone.skipped + gone.dropped;
    let accounted = stats.delivered + stats.skipped + stats.lagged + stats.dropped + depth;
    assert_eq!(accounted, 4 * stats.published + until_it_ended);
    drop(readers);
    drop(panicking);
    let after = bus.stats();
    assert_eq!(
        (after.delivered, after.lagged, after.skipped),
        (stats.delivered, stats.lagged, stats.skipped)
    );
    assert_eq!(after.dropped, stats.dropped + depth, "what lay before them");
}

#[cfg(feature = "test-util")]
#[test]
fn the_time_that_publishers_wait_is_counted_on_the_bus_and_on_who_held_them_up() {
    const MINUTE: Duration = Duration::from_secs(60);
    let (clock, hand) = phalanx::ManualClock::new();
    let bus = EventBus::builder().capacity(2).clock(clock).build().expect("valid");
    let topic = bus.topic("t").expect("valid");
    let mut slow = bus.subscribe(Filter::all(), Overflow::Block);
    let mut quick = bus.subscribe(Filter::all(), Overflow::Block);
    let publisher = bus.publisher();
    for i in 0..2 {
        publisher.publish(topic, i).expect("room");
    }
    assert_eq!(quick.for_each_batch(|_| {}), Ok(2));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| publisher.publish_timeout(topic, 2, 9 * MINUTE));
        while hand.sleepers() < 1 {
            thread::yield_now();
        }
        hand.advance(MINUTE);
        assert_eq!(slow.recv().expect("there").payload, 0);
        waiting.join().expect("no panic").expect("room in time");
    });
    let stats = bus.stats();
    assert_eq!((stats.blocked_publishes, stats.blocked_time), (1, MINUTE));
    assert_eq!((slow.stats().blocked_time, quick.stats().blocked_time), (MINUTE, Duration::ZERO));
    assert_eq!(quick.recv().expect("there").payload, 2);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| publisher.publish_timeout(topic, 3, MINUTE).is_err());
        while hand.sleepers() < 1 {
            thread::yield_now();
        }
        hand.advance(MINUTE);
        assert!(waiting.join().expect("no panic"), "the time is over");
    });
    let stats = bus.stats();
    assert_eq!((stats.blocked_publishes, stats.blocked_time), (2, 2 * MINUTE));
    assert_eq!((stats.refused_publishes, slow.stats().blocked_time), (1, 2 * MINUTE));
    drop(slow);
    assert_eq!(quick.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(
        bus.stats().blocked_time,
        2 * MINUTE,
        "it is the publishers' time, not the reader's"
    );
}

#[cfg(feature = "test-util")]
#[test]
fn the_time_that_a_future_waits_to_publish_is_counted_however_its_wait_ends() {
    const MINUTE: Duration = Duration::from_secs(60);
    let both = |kind| [(kind, false), (kind, true)];
    for (kind, ends) in each_kind().into_iter().flat_map(both) {
        let (clock, hand) = phalanx::ManualClock::new();
        let bus = EventBus::builder().capacity(2).clock(clock).build().expect("valid");
        let topic = bus.topic("t").expect("valid");
        let mut slow = bus.subscribe(Filter::all(), Overflow::Block);
        let mut publisher = kind(&bus);
        for i in 0..2 {
            publisher.publish(topic, i).expect("room");
        }
        let woken = Arc::new(Woken::default());
        let mut future = publisher.publish_async(topic, 2);
        for _ in 0..3 {
            assert!(poll_once(&mut future, &woken).is_pending());
            hand.advance(MINUTE);
        }
        assert_eq!(bus.stats().blocked_publishes, 1);
        if ends {
            slow.recv().expect("there");
            assert!(poll_once(&mut future, &woken).is_ready());
        }
        drop(future);
        assert_eq!((bus.stats().blocked_publishes, bus.stats().blocked_time), (1, 3 * MINUTE));
        assert_eq!(slow.stats().blocked_time, 3 * MINUTE);
    }
}

#[cfg(feature = "test-util")]
#[test]
fn a_wait_for_a_writer_is_laid_on_no_subscription() {
    const MINUTE: Duration = Duration::from_secs(60);
    let (clock, hand) = phalanx::ManualClock::new();
    let bus = EventBus::builder().capacity(2).clock(clock).build().expect("valid");
    let topic = bus.topic("t").expect("valid");
    let (publisher, woken) = (bus.publisher(), Arc::new(Woken::default()));
    let (mut future, mut late) = (None, None);
    let make = || {
        publisher.publish(topic, 1).expect("room");
        late = Some(bus.subscribe(Filter::all(), Overflow::Block));
        let waits = future.insert(publisher.publish_async(topic, 2));
        assert!(poll_once(waits, &woken).is_pending());
        hand.advance(MINUTE);
        0
    };
    assert_eq!(publisher.publish_with(topic, make).expect("room"), 0);
    assert!(poll_once(&mut future.expect("made"), &woken).is_ready());
    assert_eq!(bus.stats().blocked_time, MINUTE);
    assert_eq!(late.expect("made").stats().blocked_time, Duration::ZERO);
}
