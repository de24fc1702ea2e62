//! Publishing as a future: on any executor, dropped at any poll, woken in order.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake};
use std::thread;

use phalanx::bus::{EventBus, Filter, Overflow, PublishError, RecvError, Subscriber, Topic};

use super::{Woken, block_on, bus, each_kind, numbers, panics, poll_once};

/// A ring of two events that a subscription needs, and that subscription.
fn full() -> (EventBus<u64>, Topic, Subscriber<u64>) {
    let (bus, topic) = bus(2);
    let reader = bus.subscribe(Filter::all(), Overflow::Block);
    assert_eq!(bus.publisher().publish_batch(topic, &mut numbers(0..2)), Ok(2));
    (bus, topic, reader)
}

#[test]
fn a_future_is_ready_at_once_if_there_is_room() {
    for kind in each_kind() {
        let (bus, topic) = bus(2);
        let mut publisher = kind(&bus);
        let woken = Arc::new(Woken::default());
        for i in 0..5 {
            match poll_once(&mut publisher.publish_async(topic, i), &woken) {
                Poll::Ready(Ok(sequence)) => assert_eq!(sequence, i),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(woken.count(), 0);
    }
}

#[test]
fn a_future_waits_for_room_and_is_woken_by_it() {
    for kind in each_kind() {
        let (bus, topic, mut reader) = full();
        let mut publisher = kind(&bus);
        let woken = Arc::new(Woken::default());
        let mut future = publisher.publish_async(topic, 2);
        for _ in 0..3 {
            assert!(poll_once(&mut future, &woken).is_pending());
        }
        assert_eq!((woken.count(), bus.stats().published), (0, 2));
        assert_eq!(reader.recv().expect("there").payload, 0);
        assert_eq!(woken.count(), 1);
        assert!(matches!(poll_once(&mut future, &woken), Poll::Ready(Ok(2))));
        drop(future);
        assert_eq!(reader.recv().expect("there").payload, 1);
        assert_eq!(reader.recv().expect("there").payload, 2);
        assert_eq!(woken.count(), 1);
    }
}

#[test]
fn futures_get_room_in_the_order_in_which_they_came() {
    let (bus, topic, mut reader) = full();
    let publisher = bus.publisher();
    let wakers: Vec<_> = (0..4).map(|_| Arc::new(Woken::default())).collect();
    let mut futures: Vec<_> = (2..6).map(|i| publisher.publish_async(topic, i)).collect();
    for (future, woken) in futures.iter_mut().zip(&wakers) {
        assert!(poll_once(future, woken).is_pending());
    }
    // Polled again for another reason, the first keeps its place, and its newest waker counts.
    let newest = Arc::new(Woken::default());
    assert!(poll_once(&mut futures[0], &newest).is_pending());
    let counts = || wakers.iter().map(|woken| woken.count()).collect::<Vec<_>>();

    assert_eq!(reader.recv().expect("there").payload, 0);
    assert_eq!((newest.count(), counts()), (1, vec![0, 0, 0, 0]));
    assert!(matches!(poll_once(&mut futures[0], &newest), Poll::Ready(Ok(2))));
    assert_eq!(counts(), [0, 0, 0, 0], "there is no room for the next");
    // Room for all: it wakes one, and who got in wakes the next.
    drop(reader);
    for next in 1..4 {
        let expected: Vec<_> = (0..4).map(|i| usize::from((1..=next).contains(&i))).collect();
        assert_eq!(counts(), expected);
        let done = poll_once(&mut futures[next], &wakers[next]);
        assert!(matches!(done, Poll::Ready(Ok(sequence)) if sequence == next as u64 + 2));
    }
}

#[test]
fn a_future_dropped_at_any_poll_loses_no_room() {
    // What becomes of the first of two that wait: dropped before it is woken, after it, polled before that or
    // not, or left to get in.
    for script in 0..6 {
        for kind in each_kind() {
            let (bus, topic) = bus(2);
            let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
            // Where this one is exclusive, the other one is refused, and so does not wait.
            let mut publisher = kind(&bus);
            assert_eq!(publisher.publish_batch(topic, &mut numbers(0..2)), Ok(2));
            let shared = bus.publisher();
            let exclusive = matches!(publisher, super::Any::Exclusive(_));
            let (first, second) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
            let mut one = publisher.publish_async(topic, 10);
            assert!(poll_once(&mut one, &first).is_pending());
            let mut other = shared.publish_async(topic, 11);
            let waits = poll_once(&mut other, &second).is_pending();
            assert_eq!(waits, !exclusive, "one that is refused does not wait");
            match script {
                0 => {
                    drop(one);
                    reader.recv().expect("there");
                    assert_eq!(first.count(), 0, "a dropped future wakes nobody");
                }
                1 => {
                    reader.recv().expect("there");
                    assert_eq!((first.count(), second.count()), (1, 0));
                    drop(one);
                }
                2 => {
                    assert!(poll_once(&mut one, &first).is_pending());
                    reader.recv().expect("there");
                    drop(one);
                }
                3 => {
                    reader.recv().expect("there");
                    assert!(matches!(poll_once(&mut one, &first), Poll::Ready(Ok(2))));
                    drop(one);
                    assert_eq!(second.count(), 0);
                    assert_eq!(reader.recv().expect("there").payload, 1);
                }
                4 => {
                    // Woken, and dropped only after another one took the room.
                    reader.recv().expect("there");
                    if waits {
                        assert!(shared.try_publish(topic, 12).is_ok());
                        assert!(poll_once(&mut one, &first).is_pending());
                        reader.recv().expect("there");
                    }
                    drop(one);
                }
                _ => {
                    drop(one);
                    drop(reader);
                    reader = bus.subscribe(Filter::all(), Overflow::Block);
                }
            }
            if waits {
                assert_eq!(second.count(), 1, "script {script}: the room goes to the next");
                assert!(poll_once(&mut other, &second).is_ready());
                drop(other);
            }
            drop((publisher, reader));
            assert!(shared.try_publish(topic, 13).is_ok(), "nothing is wedged");
        }
    }
}

#[test]
fn a_forgotten_future_holds_up_nobody() {
    let (bus, topic, mut reader) = full();
    let publisher = bus.publisher();
    let woken = Arc::new(Woken::default());
    let mut future = publisher.publish_async(topic, 2);
    assert!(poll_once(&mut future, &woken).is_pending());
    std::mem::forget(future);
    for i in 0..10 {
        reader.recv().expect("there");
        publisher.try_publish(topic, i).expect("room");
    }
}

#[test]
fn a_close_ends_every_future_with_its_payload() {
    let (bus, topic, mut reader) = full();
    let publisher = bus.publisher();
    let wakers: Vec<_> = (0..20).map(|_| Arc::new(Woken::default())).collect();
    let mut futures: Vec<_> = (0..20).map(|i| publisher.publish_async(topic, i)).collect();
    for (future, woken) in futures.iter_mut().zip(&wakers) {
        assert!(poll_once(future, woken).is_pending());
    }
    bus.close();
    for (i, (mut future, woken)) in (0..).zip(futures.into_iter().zip(&wakers)) {
        assert_eq!(woken.count(), 1);
        match poll_once(&mut future, woken) {
            Poll::Ready(Err(PublishError::Closed(payload))) => assert_eq!(payload, i),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(reader.for_each_batch(|_| {}), Ok(2));
    assert_eq!(reader.recv(), Err(RecvError::Closed));
}

#[test]
fn an_exclusive_publishers_future_ends_with_a_close_too() {
    let (bus, topic, _reader) = full();
    let mut publisher = bus.exclusive_publisher().expect("nobody publishes");
    let woken = Arc::new(Woken::default());
    let mut future = publisher.publish_async(topic, 7);
    assert!(poll_once(&mut future, &woken).is_pending());
    bus.close();
    assert_eq!(woken.count(), 1);
    assert!(matches!(poll_once(&mut future, &woken), Poll::Ready(Err(PublishError::Closed(7)))));
}

/// A waker of the host's that panics.
struct Hostile;

impl Wake for Hostile {
    fn wake(self: Arc<Self>) {
        panic!("a hostile waker");
    }
}

#[test]
fn a_waker_that_panics_does_not_keep_room_from_the_next() {
    let (bus, topic, mut reader) = full();
    let publisher = bus.publisher();
    let mut hostile = publisher.publish_async(topic, 2);
    let waker = Arc::new(Hostile).into();
    assert!(Pin::new(&mut hostile).poll(&mut Context::from_waker(&waker)).is_pending());
    let woken = Arc::new(Woken::default());
    let mut next = publisher.publish_async(topic, 3);
    assert!(poll_once(&mut next, &woken).is_pending());
    assert!(panics(|| reader.recv()), "the panic passes through");
    assert_eq!(reader.stats().delivered, 1);
    assert_eq!(woken.count(), 1);
    assert!(matches!(poll_once(&mut next, &woken), Poll::Ready(Ok(2))));
}

#[test]
fn a_waker_that_panics_does_not_end_a_process_that_unwinds() {
    #[derive(Debug)]
    struct HostileClone;
    impl Clone for HostileClone {
        fn clone(&self) -> Self {
            panic!("a hostile clone");
        }
    }
    for leaves in [false, true] {
        let bus = EventBus::builder().capacity(2).lanes(3).build().expect("valid");
        let topic = bus.topic("t").expect("valid");
        let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
        let publisher = bus.publisher();
        for _ in 0..2 {
            publisher.publish(topic, HostileClone).expect("room");
        }
        let mut hostile = publisher.publish_async(topic, HostileClone);
        let waker = Arc::new(Hostile).into();
        assert!(Pin::new(&mut hostile).poll(&mut Context::from_waker(&waker)).is_pending());
        if leaves {
            assert!(panics(|| drop(reader)), "the panic passes through");
            assert_eq!(bus.stats().subscribers, 0, "it has left every lane");
        } else {
            assert!(panics(|| reader.recv()), "one of the two passes through");
        }
        drop(hostile);
        for lane in 0..3 {
            let publisher = bus.publisher_to(lane).expect("there");
            publisher.try_publish(topic, HostileClone).expect("nothing is pinned");
        }
    }
}

#[test]
fn a_subscription_that_meets_a_waker_that_panics_does_not_begin() {
    let (bus, topic, reader) = full();
    let publisher = bus.publisher();
    let mut first = publisher.publish_async(topic, 2);
    let woken = Arc::new(Woken::default());
    assert!(poll_once(&mut first, &woken).is_pending());
    let mut hostile = publisher.publish_async(topic, 3);
    let waker = Arc::new(Hostile).into();
    assert!(Pin::new(&mut hostile).poll(&mut Context::from_waker(&waker)).is_pending());
    // The room wakes the first; whoever looks next finds that there is more.
    drop(reader);
    assert_eq!(woken.count(), 1);
    assert!(panics(|| bus.subscribe(Filter::all(), Overflow::Block)), "the panic passes through");
    assert_eq!(bus.stats().subscribers, 0);
    drop((first, hostile));
    for i in 2..10 {
        assert_eq!(publisher.try_publish(topic, i).expect("nothing is held"), i);
    }
}

/// A waker of the host's that subscribes, publishes, and drops a subscription.
struct Busy {
    bus: EventBus<u64>,
    topic: Topic,
    held: Mutex<Option<Subscriber<u64>>>,
    woken: AtomicUsize,
}

impl Wake for Busy {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::Relaxed);
        let held = self.held.lock().expect("not poisoned").take();
        drop(held);
        let mut reader = self.bus.subscribe(Filter::all(), Overflow::Block);
        let sequence = self.bus.publisher().try_publish(self.topic, 7).expect("room");
        assert_eq!(reader.try_recv().expect("there").sequence, sequence);
    }
}

#[test]
fn a_waker_may_use_the_bus_whoever_wakes_it() {
    for subscribes in [false, true] {
        let (bus, topic, reader) = full();
        let publisher = bus.publisher();
        let mut first = publisher.publish_async(topic, 2);
        let woken = Arc::new(Woken::default());
        if subscribes {
            assert!(poll_once(&mut first, &woken).is_pending());
        }
        let busy = Arc::new(Busy {
            bus: bus.clone(),
            topic,
            held: Mutex::new(Some(bus.subscribe(Filter::all(), Overflow::DropOldest))),
            woken: AtomicUsize::new(0),
        });
        let mut waits = publisher.publish_async(topic, 3);
        let waker = Arc::clone(&busy).into();
        assert!(Pin::new(&mut waits).poll(&mut Context::from_waker(&waker)).is_pending());
        drop(reader);
        if subscribes {
            assert_eq!((woken.count(), busy.woken.load(Ordering::Relaxed)), (1, 0));
            drop(bus.subscribe(Filter::all(), Overflow::Block));
        }
        assert_eq!(busy.woken.load(Ordering::Relaxed), 1);
        assert_eq!(bus.stats().subscribers, 0);
    }
}

#[test]
fn a_batch_whose_wait_ends_in_a_panic_leaves_no_reader_asleep() {
    // A thread waits for room; a future behind it has a hostile waker, which the thread meets as it gets in.
    for with in [true, false] {
        let (bus, topic, mut reader) = full();
        thread::scope(|scope| {
            let publisher = bus.publisher();
            let publishing = scope.spawn(move || {
                panics(|| {
                    if with {
                        publisher.publish_with(topic, || 2).is_ok()
                    } else {
                        publisher.publish_batch(topic, &mut numbers(2..3)).is_ok()
                    }
                })
            });
            while bus.stats().blocked_publishes < 1 {
                thread::yield_now();
            }
            // Parked or about to park; the future enters behind it in either case, or is the one that is woken.
            let shared = bus.publisher();
            let mut hostile = shared.publish_async(topic, 9);
            let waker = Arc::new(Hostile).into();
            assert!(Pin::new(&mut hostile).poll(&mut Context::from_waker(&waker)).is_pending());
            let met_here = panics(|| reader.try_for_each_batch(|_| {}).expect("two are there"));
            let met_there = publishing.join().expect("caught");
            assert!(met_here || met_there, "somebody woke it");
        });
        let stats = bus.stats();
        // Its event is out, or a tombstone that is counted.
        assert_eq!(stats.published, 3);
        for _ in 0..6 {
            let _ = reader.try_recv();
        }
        let read = reader.stats();
        assert_eq!((read.delivered + read.skipped, read.skipped), (3, stats.tombstones));
        assert_eq!(reader.stats().depth, 0);
    }
}

#[test]
fn futures_and_threads_publish_side_by_side() {
    const EVENTS: u64 = 5_000;
    let (bus, topic) = bus(4);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    thread::scope(|scope| {
        for kind in 0..4_u64 {
            let publisher = bus.publisher();
            scope.spawn(move || {
                for i in 0..EVENTS {
                    let published = if kind % 2 == 0 {
                        publisher.publish(topic, (kind, i))
                    } else {
                        block_on(publisher.publish_async(topic, (kind, i)))
                    };
                    published.expect("open");
                }
            });
        }
        let mut next = [0; 4];
        for _ in 0..4 * EVENTS {
            let (kind, i) = reader.recv().expect("open").payload;
            assert_eq!(i, std::mem::replace(&mut next[kind as usize], i + 1));
        }
    });
}

#[test]
fn a_future_runs_on_tokio() {
    let (bus, topic) = bus(2);
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
    runtime.expect("a runtime").block_on(async move {
        let publisher = bus.publisher();
        drop(bus);
        let task = tokio::spawn(async move {
            for i in 1..=100 {
                publisher.publish_async(topic, i).await.expect("open");
            }
        });
        let mut sum = 0;
        while let Ok(event) = reader.recv_async().await {
            sum += event.payload;
        }
        task.await.expect("no panic");
        assert_eq!(sum, 5050);
    });
}

#[test]
fn a_future_that_is_forgotten_costs_those_behind_it_one_turn_and_nothing_else() {
    for kind in each_kind() {
        let (bus, topic, mut reader) = full();
        let mut publisher = kind(&bus);
        let forgotten = Arc::new(Woken::default());
        {
            let mut future = publisher.publish_async(topic, 7);
            assert!(poll_once(&mut future, &forgotten).is_pending());
            std::mem::forget(future);
        }
        let woken = Arc::new(Woken::default());
        let mut next = publisher.publish_async(topic, 2);
        assert!(poll_once(&mut next, &woken).is_pending());
        assert_eq!(reader.recv().expect("there").payload, 0);
        assert_eq!((forgotten.count(), woken.count()), (1, 0), "its turn");
        assert_eq!(reader.recv().expect("there").payload, 1);
        assert_eq!((forgotten.count(), woken.count()), (1, 1));
        assert!(matches!(poll_once(&mut next, &woken), Poll::Ready(Ok(2))));
        drop(next);
        assert_eq!(reader.recv().expect("there").payload, 2);
        assert_eq!(bus.stats().published, 3, "what was forgotten was never published");
    }
}
