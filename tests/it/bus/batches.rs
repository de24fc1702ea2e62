//! `publish_with` and `publish_batch`: what is made in the slot, and what becomes of it if the maker fails.

use std::future::Future;
use std::iter::FusedIterator;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Wake};
use std::thread;

use phalanx::bus::{
    EventBus, Filter, Overflow, PublishBatchError, PublishError, RecvError, Subscriber, Topic,
    TryRecvError,
};

use super::{Any, Woken, block_on, bus, each_kind, numbers, panics, poll_once};

/// An iterator that says another length than it has.
struct Lying<I> {
    says: usize,
    items: I,
}

impl<I: Iterator> Iterator for Lying<I> {
    type Item = I::Item;
    fn next(&mut self) -> Option<I::Item> {
        self.items.next()
    }
}

impl<I: Iterator> ExactSizeIterator for Lying<I> {
    fn len(&self) -> usize {
        self.says
    }
}

impl<I: FusedIterator> FusedIterator for Lying<I> {}

#[test]
fn a_batch_goes_around_the_ring_as_often_as_it_must() {
    for kind in each_kind() {
        for capacity in [2, 4, 64] {
            let (bus, topic) = bus(capacity);
            let mut blocking = bus.subscribe(Filter::all(), Overflow::Block);
            let mut dropping = bus.subscribe(Filter::all(), Overflow::DropOldest);
            let mut publisher = kind(&bus);
            thread::scope(|scope| {
                let publishing =
                    scope.spawn(|| publisher.publish_batch(topic, &mut numbers(0..1000)));
                for expected in 0..1000 {
                    let event = blocking.recv().expect("open");
                    assert_eq!((event.sequence, event.payload), (expected, expected));
                }
                assert_eq!(publishing.join().expect("no panic"), Ok(1000));
            });
            let mut accounted = 0;
            while accounted < 1000 {
                accounted += match dropping.recv() {
                    Ok(event) => {
                        assert_eq!(event.payload, accounted);
                        1
                    }
                    Err(RecvError::Lagged { missed, .. }) => missed,
                    Err(error) => panic!("{error}"),
                };
            }
            let stats = bus.stats();
            assert_eq!((stats.published, stats.tombstones), (1000, 0));
            assert_eq!(
                publisher.publish_batch(topic, &mut numbers(0..0)),
                Ok(0),
                "nothing is nothing"
            );
        }
    }
}

#[test]
fn an_iterator_that_ends_early_leaves_tombstones_which_readers_pass() {
    for kind in each_kind() {
        let (bus, topic) = bus(16);
        let mut publisher = kind(&bus);
        let mut readers = readers(&bus);
        let mut lying = Lying { says: 5, items: 0..2 };
        assert_eq!(publisher.publish_batch(topic, &mut lying), Ok(2));
        let stats = bus.stats();
        assert_eq!(stats.published, 2 + stats.tombstones);
        assert!((1..=3).contains(&stats.tombstones), "{stats:?}");
        publisher.publish(topic, 9).expect("room");
        for reader in &mut readers {
            assert_eq!(drain(reader), [0, 1, 9]);
            let passed = reader.stats();
            assert_eq!((passed.delivered, passed.skipped), (3, stats.tombstones));
        }
    }
}

#[test]
fn an_iterator_that_says_too_little_keeps_the_rest() {
    for kind in each_kind() {
        let (bus, topic) = bus(16);
        let mut lying = Lying { says: 3, items: 0..8 };
        assert_eq!(kind(&bus).publish_batch(topic, &mut lying), Ok(3));
        assert_eq!(lying.items, 3..8);
        assert_eq!((bus.stats().published, bus.stats().tombstones), (3, 0));
    }
}

#[test]
fn an_iterator_that_panics_leaves_tombstones_and_nobody_asleep() {
    for kind in each_kind() {
        for capacity in [2, 4, 64] {
            let (bus, topic) = bus(capacity);
            let mut publisher = kind(&bus);
            let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
            for round in 0..40_u64 {
                let mut batch = numbers(0..2).map(|i| {
                    assert!(i != round % 2, "a hostile iterator");
                    round
                });
                assert!(panics(|| publisher.publish_batch(topic, &mut batch)));
                let seen = drain(&mut reader);
                assert_eq!(seen, vec![round; (round % 2) as usize]);
            }
            let stats = bus.stats();
            assert_eq!(stats.published, stats.delivered + stats.tombstones);
            assert_eq!((stats.delivered, stats.skipped), (20, stats.tombstones));
            assert!(stats.tombstones >= 40);
        }
    }
}

/// When it is woken it looks at once, from there, at how many events another subscription has before it.
struct Looking {
    reader: Mutex<Subscriber<u64>>,
    skipped: AtomicU64,
}

impl Wake for Looking {
    fn wake(self: Arc<Self>) {
        let mut reader = self.reader.lock().expect("no panic under it");
        assert!(reader.try_recv().is_err(), "there are only tombstones");
        self.skipped.store(reader.stats().skipped, Ordering::SeqCst);
    }
}

#[test]
fn who_is_woken_after_a_panic_finds_the_tombstones_there() {
    for kind in each_kind() {
        for batch in [true, false] {
            let (bus, topic) = bus(64);
            let mut publisher = kind(&bus);
            let mut waiting = bus.subscribe(Filter::all(), Overflow::Block);
            let looking = Arc::new(Looking {
                reader: Mutex::new(bus.subscribe(Filter::all(), Overflow::Block)),
                skipped: AtomicU64::new(0),
            });
            let waker = Arc::clone(&looking).into();
            let mut future = waiting.recv_async();
            let mut context = std::task::Context::from_waker(&waker);
            assert!(std::pin::Pin::new(&mut future).poll(&mut context).is_pending());
            assert!(panics(|| if batch {
                let mut hostile = (0..3).map(|_: u32| -> u64 { panic!("a hostile iterator") });
                publisher.publish_batch(topic, &mut hostile).is_ok()
            } else {
                publisher.publish_with(topic, || panic!("a hostile maker")).is_ok()
            }));
            assert_eq!(looking.skipped.load(Ordering::SeqCst), if batch { 3 } else { 1 });
        }
    }
}

/// A payload whose drop panics if it is armed.
struct Bomb(bool, Arc<AtomicUsize>);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::SeqCst);
        assert!(!self.0, "a hostile drop");
    }
}

#[test]
fn a_drop_that_panics_under_a_batch_costs_no_event() {
    for kind in each_kind() {
        let (bus, topic) = bus(64);
        let mut publisher = kind(&bus);
        let drops = Arc::new(AtomicUsize::new(0));
        let bomb = |armed| Bomb(armed, Arc::clone(&drops));
        let mut first = (0..64).map(|i| bomb(i == 1 || i == 2));
        assert_eq!(publisher.publish_batch(topic, &mut first), Ok(64));
        let mut second = (0..64).map(|_| bomb(false));
        assert!(panics(|| publisher.publish_batch(topic, &mut second)));
        let stats = bus.stats();
        assert_eq!(stats.published, 128 - second.len() as u64, "what is not out is still there");
        assert_eq!((stats.tombstones, drops.load(Ordering::SeqCst)), (0, 64 - second.len()));
        let left = second.len() as u64;
        assert_eq!(publisher.publish_batch(topic, &mut second), Ok(left));
        drop((bus, publisher));
        assert_eq!(drops.load(Ordering::SeqCst), 128, "each payload is dropped once");
    }
}

#[test]
fn a_close_midway_leaves_the_rest_in_the_iterator() {
    for kind in each_kind() {
        let (bus, topic) = bus(64);
        let mut publisher = kind(&bus);
        let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
        let mut batch = numbers(0..1000).inspect(|&i| {
            if i == 10 {
                bus.close();
            }
        });
        let Err(PublishBatchError::Closed { published }) =
            publisher.publish_batch(topic, &mut batch)
        else {
            panic!("the bus is closed")
        };
        assert!((11..=64).contains(&published), "what was claimed is written: {published}");
        assert_eq!(batch.len() as u64, 1000 - published);
        assert_eq!(drain(&mut reader), (0..published).collect::<Vec<_>>());
        assert_eq!(reader.try_recv(), Err(TryRecvError::Closed));
        let error = publisher.publish_batch(topic, &mut numbers(0..2)).expect_err("closed");
        assert_eq!(error.published(), 0);
    }
}

#[test]
fn a_length_that_panics_leaves_the_lane_as_it_was() {
    struct Hostile;
    impl Iterator for Hostile {
        type Item = u64;
        fn next(&mut self) -> Option<u64> {
            None
        }
    }
    impl ExactSizeIterator for Hostile {
        fn len(&self) -> usize {
            panic!("a hostile length")
        }
    }
    for kind in each_kind() {
        let (bus, topic) = bus(4);
        let mut publisher = kind(&bus);
        let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
        assert!(panics(|| publisher.publish_batch(topic, &mut Hostile)));
        publisher.publish(topic, 1).expect("room");
        assert!(panics(|| publisher.publish_batch(topic, &mut Hostile)));
        bus.close();
        assert_eq!(drain(&mut reader), [1]);
        assert_eq!(reader.try_recv(), Err(TryRecvError::Closed), "nobody writes");
    }
}

/// A subscription of each kind.
fn readers(bus: &EventBus<u64>) -> Vec<Subscriber<u64>> {
    let some = || Filter::topics(["test/**"]).expect("valid");
    vec![
        bus.subscribe(Filter::all(), Overflow::Block),
        bus.subscribe(Filter::all(), Overflow::DropOldest),
        bus.subscribe(Filter::all(), Overflow::Fail),
        bus.subscribe(some(), Overflow::Block),
        bus.subscribe(some(), Overflow::DropOldest),
        bus.subscribe(some().matching(|_| true), Overflow::Block),
        bus.subscribe(some().matching(|_| true), Overflow::DropOldest),
        bus.subscribe_in_place(Filter::all()),
    ]
}

/// Takes all that is there, one by one and in batches by turns.
fn drain(reader: &mut Subscriber<u64>) -> Vec<u64> {
    let mut seen = Vec::new();
    let mut empty = 0;
    // The first look may find only events to pass.
    while empty < 4 {
        let before = seen.len();
        if empty % 2 == 0 {
            seen.extend(reader.try_recv().map(|event| event.payload));
        } else {
            let _ = reader.try_for_each_batch(|event| seen.push(*event.payload));
        }
        empty = if seen.len() > before { 0 } else { empty + 1 };
    }
    seen
}

#[test]
fn a_maker_that_panics_leaves_a_tombstone_that_every_reader_passes() {
    for kind in each_kind() {
        for capacity in [2, 4, 16] {
            let (bus, topic) = bus(capacity);
            let mut publisher = kind(&bus);
            let mut readers = readers(&bus);
            for round in 1..=20 {
                assert!(panics(|| publisher.publish_with(topic, || panic!("a hostile maker"))));
                assert_eq!(bus.stats().tombstones, round);
                let sequence = publisher.publish_with(topic, || round).expect("room");
                assert_eq!(sequence, 2 * round - 1, "a tombstone has a number");
                for reader in &mut readers {
                    let event = loop {
                        match reader.try_recv() {
                            Ok(event) => break event,
                            Err(TryRecvError::Empty) => {}
                            Err(error) => panic!("{error}"),
                        }
                    };
                    assert_eq!((event.sequence, event.payload), (sequence, round));
                    let stats = reader.stats();
                    assert_eq!((stats.delivered, stats.skipped, stats.lagged), (round, round, 0));
                }
            }
        }
    }
}

#[test]
fn a_payload_that_a_tombstone_overwrites_is_dropped_once() {
    for kind in each_kind() {
        let (bus, topic) = bus(2);
        let mut publisher = kind(&bus);
        let drops = Arc::new(AtomicUsize::new(0));
        for _ in 0..2 {
            assert!(publisher.publish(topic, Bomb(false, Arc::clone(&drops))).is_ok());
        }
        assert!(panics(|| publisher.publish_with(topic, || panic!("a hostile maker")).is_ok()));
        assert_eq!(drops.load(Ordering::SeqCst), 1);
        assert!(publisher.publish(topic, Bomb(false, Arc::clone(&drops))).is_ok());
        assert!(publisher.publish(topic, Bomb(false, Arc::clone(&drops))).is_ok());
        assert_eq!(drops.load(Ordering::SeqCst), 2, "a tombstone holds nothing");
        drop((bus, publisher));
        assert_eq!(drops.load(Ordering::SeqCst), 4);
    }
}

#[test]
fn a_waker_or_a_drop_that_panics_behind_a_maker_buries_nothing() {
    struct Hostile(AtomicBool);
    impl Wake for Hostile {
        fn wake(self: Arc<Self>) {
            assert!(self.0.swap(true, Ordering::SeqCst), "a hostile waker");
        }
    }
    for kind in each_kind() {
        let (bus, topic) = bus(4);
        let mut publisher = kind(&bus);
        let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
        let waker = Arc::new(Hostile(AtomicBool::new(false))).into();
        let mut future = reader.recv_async();
        let mut context = std::task::Context::from_waker(&waker);
        assert!(std::pin::Pin::new(&mut future).poll(&mut context).is_pending());
        assert!(panics(|| publisher.publish_with(topic, || 5_u64)));
        assert_eq!(block_on(future).expect("it is out").payload, 5);
        assert_eq!((bus.stats().published, bus.stats().tombstones), (1, 0));
    }
    for kind in each_kind() {
        let (bus, topic) = bus(2);
        let mut publisher = kind(&bus);
        let drops = Arc::new(AtomicUsize::new(0));
        for armed in [true, false] {
            assert!(publisher.publish(topic, Bomb(armed, Arc::clone(&drops))).is_ok());
        }
        let make = || Bomb(false, Arc::clone(&drops));
        assert!(panics(|| publisher.publish_with(topic, make).is_ok()));
        assert_eq!((bus.stats().published, bus.stats().tombstones), (3, 0));
    }
}

#[test]
fn a_maker_that_is_refused_comes_back_unused() {
    for kind in each_kind() {
        let (bus, topic) = bus(2);
        let mut publisher = kind(&bus);
        let failing = bus.subscribe(Filter::all(), Overflow::Fail);
        for i in 0..2 {
            publisher.publish(topic, i).expect("room");
        }
        let made = AtomicBool::new(false);
        let make = || {
            made.store(true, Ordering::SeqCst);
            2
        };
        let Err(PublishError::Full(make)) = publisher.publish_with(topic, make) else {
            panic!("there is no room")
        };
        assert!(!made.load(Ordering::SeqCst));
        drop(failing);
        assert_eq!(publisher.publish_with(topic, make).expect("room"), 2);
        assert!(made.load(Ordering::SeqCst));
    }
}

#[test]
fn a_reader_waits_for_what_is_being_made() {
    fn readers_wait(publisher: &mut Any<u64>, bus: &EventBus<u64>, topic: Topic) {
        let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
        let woken = Arc::new(Woken::default());
        let mut future = reader.recv_async();
        let sequence = publisher.publish_with(topic, || {
            assert!(poll_once(&mut future, &woken).is_pending());
            assert_eq!(bus.stats().depth_max, 1, "it is claimed");
            3
        });
        let sequence = sequence.ok();
        assert_eq!(woken.count(), 1);
        assert_eq!(block_on(future).ok().map(|event| event.sequence), sequence);
    }
    let (bus, topic) = bus(4);
    readers_wait(&mut Any::Shared(bus.publisher()), &bus, topic);
    let exclusive = bus.exclusive_publisher().expect("nobody publishes");
    // Its tail moves when it has written.
    let (mut exclusive, mut reader) =
        (Any::Exclusive(exclusive), bus.subscribe(Filter::all(), Overflow::Block));
    exclusive
        .publish_with(topic, || {
            assert_eq!(reader.try_recv(), Err(TryRecvError::Empty));
            4
        })
        .expect("room");
    assert_eq!(reader.recv().expect("made").payload, 4);
}

#[test]
fn a_payload_that_is_not_clone_is_awaited_a_batch_at_a_time() {
    struct Owned(u32);
    let bus = EventBus::builder().capacity(4).build().expect("valid");
    let topic = bus.topic("t").expect("valid");
    let publisher = bus.publisher();
    let mut reader = bus.subscribe_in_place(Filter::all().matching(|one: &Owned| one.0 != 1));
    let woken = Arc::new(Woken::default());
    let mut seen = Vec::new();
    for round in 0..3 {
        let base = round * 10;
        // Dropped while it waits, it takes nothing along, and nobody wakes it.
        let mut dropped = reader.for_each_batch_async(|_| unreachable!("there is no event yet"));
        assert!(poll_once(&mut dropped, &woken).is_pending());
        drop(dropped);
        let before = woken.count();
        let mut batch = reader.for_each_batch_async(|event| seen.push(event.payload.0));
        assert!(poll_once(&mut batch, &woken).is_pending());
        for number in base..base + 3 {
            assert!(publisher.try_publish(topic, Owned(number)).is_ok());
        }
        assert_eq!(woken.count(), before + 1);
        let handled = if round == 0 { 2 } else { 3 };
        assert_eq!(poll_once(&mut batch, &woken), Poll::Ready(Ok(handled)));
        drop(batch);
    }
    assert_eq!(seen, [0, 2, 10, 11, 12, 20, 21, 22]);
    bus.close();
    let mut batch = reader.for_each_batch_async(|_| unreachable!("it is closed"));
    assert_eq!(poll_once(&mut batch, &woken), Poll::Ready(Err(RecvError::Closed)));
}
