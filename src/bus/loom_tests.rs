//! Models of the ring under loom: every interleaving of a few threads, up to a bound of preemptions.
//!
//! Each model has twins in which one ordering is weakened, or one fence left out, at a named site; every
//! twin must fail, which shows that the model can see what that ordering is for. A payload that is read while
//! it is overwritten fails in loom's cell; a lost wake-up fails as a deadlock. What each site is for, by the
//! model whose twin fails without it:
//!
//! | Site | Models |
//! |---|---|
//! | `bus.stamp.publish`, `bus.stamp.read` | [`publish_and_receive`] |
//! | `bus.publish.fence`, `bus.recv.park.fence` | [`publish_and_receive`] |
//! | `bus.stamp.bury` | [`waiting::tombstone_is_lapped`] |
//! | `bus.limit.read`, `bus.limit.write` | [`limit_is_handed_on`] |
//! | `bus.gate.hold` | [`wrap_around_blocking`], [`batches::batches_where_they_lie`] |
//! | `bus.release.fence`, `bus.publish.park.fence` | [`wrap_around_blocking`], [`batches::unsubscribe_during_publish`] |
//! | `bus.gate.let_go`, `bus.gate.scan`, `bus.pin.fence` | [`wrap_around_drop_oldest`], [`batches::batches_of_clones`] |
//! | `bus.refresh.fence` | [`wrap_around_drop_oldest`], [`two_publishers_lap`] |
//! | `bus.refresh.fence`, `bus.join.fence` | [`join_during_publish`], [`join_at_the_oldest`] |
//! | `bus.join.fence` | [`join_during_exclusive_publish`] |
//! | `bus.written.lock` (a step) | [`waiting::writer_is_waited_for_again`] |
//! | `bus.closed.read` | [`closing::shared_against_close`] |
//! | `bus.closed.fence` | [`closing::close_wakes`] |
//! | `bus.begin.fence`, `bus.close.fence` | [`closing::exclusive_against_close`] |
//! | `bus.shut.fence` | [`closing::close_before_exclusive_publish`] |
//! | `bus.topic.wake` (a step) | [`waiting::topic_is_made`] |
//! | `bus.batch.tell` (a step) | [`waiting::event_behind_a_tombstone`] |
//! | `bus.wait.unwritten` (a step) | [`waiting::event_behind_an_unwritten_one`] |
//!
//! Three orderings have no name, as loom cannot see what they are for: the number of cells of the registry, whose
//! memory is made under a lock of the standard library's; the count of handles, since who takes a ring over
//! goes by headers and by a read-modify-write of the tail; and the fence between two readers that let go at once,
//! for which the light fences of a model do as well (the unit tests of the lane are after that one).

mod batches;
mod closing;
mod waiting;

use std::mem::ManuallyDrop;
use std::time::Duration;

use super::position::Position;
use super::ring::Shape;
use super::{EventBus, Filter, Overflow, Start, Subscriber, Topic, TryRecvError};
use crate::sync::{explore, thread, weakened};

const TOPIC: Topic = Topic::from_id(0);

/// A ring of two, in which the way is cleared for both slots at once: limits are then handed on.
fn bus<E: Send + Sync + 'static>() -> EventBus<E> {
    let shape = Shape { capacity: 2, start: Position::from_sequence(START), stride: 2 };
    EventBus::builder().shape(shape).build().expect("a valid bus")
}

/// Finds all that these models are after; three take minutes and find no more.
const PREEMPTIONS: usize = 2;

/// The second lap begins where the sequence wraps.
const START: u64 = (1 << 62) - 2;

/// Runs the twins of a model: each must fail.
fn each_twin_fails(sites: &[&'static str], model: fn()) {
    for site in sites {
        let twin = std::panic::catch_unwind(|| weakened(site, || explore(PREEMPTIONS, model)));
        assert!(twin.is_err(), "the model holds although {site} is weakened");
    }
}

/// One publishes two events, one receives them, parked if need be.
fn publish_and_receive() {
    let bus = bus();
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let publisher = bus.publisher();
    let publishing = thread::spawn(move || {
        for payload in 0..2 {
            publisher.publish(TOPIC, payload).expect("open");
        }
    });
    for payload in 0..2 {
        assert_eq!(reader.recv().expect("open").payload, payload);
    }
    publishing.join().expect("no panic");
    assert_eq!(bus.stats().delivered, 2);
}

#[test]
fn loom_what_is_published_is_received_whole() {
    explore(PREEMPTIONS, publish_and_receive);
}

#[test]
fn loom_twins_of_publish_and_receive_fail() {
    each_twin_fails(
        &["bus.stamp.publish", "bus.stamp.read", "bus.publish.fence", "bus.recv.park.fence"],
        publish_and_receive,
    );
}

/// Two publish at once; one receives both events.
fn two_publishers() {
    let bus = bus();
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    let publishing: Vec<_> = (0..2)
        .map(|payload| {
            let publisher = bus.publisher();
            thread::spawn(move || publisher.publish(TOPIC, payload).expect("open"))
        })
        .collect();
    let received: Vec<_> = (0..2).map(|_| reader.recv().expect("open").payload).collect();
    assert!(received == [0, 1] || received == [1, 0], "{received:?}");
    for thread in publishing {
        thread.join().expect("no panic");
    }
}

#[test]
fn loom_two_publishers_never_write_the_same_slot() {
    explore(PREEMPTIONS, two_publishers);
}

/// One publishes a lap and a half, waiting for the reader.
fn wrap_around_blocking() {
    let bus = bus();
    // Kept from being dropped where a twin ends in a deadlock: loom cannot run destructors then.
    let mut reader = ManuallyDrop::new(bus.subscribe(Filter::all(), Overflow::Block));
    let publisher = ManuallyDrop::new(bus.publisher());
    let bus = ManuallyDrop::new(bus);
    let publishing = thread::spawn(move || {
        for payload in 0..3 {
            publisher.publish(TOPIC, payload).expect("open");
        }
        drop(ManuallyDrop::into_inner(publisher));
    });
    for payload in 0..3 {
        assert_eq!(reader.recv().expect("open").payload, payload);
    }
    publishing.join().expect("no panic");
    drop((ManuallyDrop::into_inner(reader), ManuallyDrop::into_inner(bus)));
}

#[test]
fn loom_a_full_ring_waits_for_the_reader_and_is_woken() {
    explore(PREEMPTIONS, wrap_around_blocking);
}

#[test]
fn loom_twins_of_the_full_ring_fail() {
    each_twin_fails(
        &["bus.gate.hold", "bus.release.fence", "bus.publish.park.fence"],
        wrap_around_blocking,
    );
}

/// One overwrites while the other clones out under its pin.
fn wrap_around_drop_oldest() {
    let bus = bus();
    let mut reader = bus.subscribe(Filter::all(), Overflow::DropOldest);
    let publisher = bus.publisher();
    for payload in 0..2 {
        publisher.publish(TOPIC, payload).expect("open");
    }
    let publishing = thread::spawn(move || {
        // The pin may refuse one for a moment, so what is published is counted.
        (2..4).filter(|&payload| publisher.try_publish(TOPIC, payload).is_ok()).count() as u64
    });
    let start = Position::from_sequence(START);
    let mut seen = 0;
    let mut lost = 0;
    let mut look = |reader: &mut Subscriber<u64>| match reader.try_recv() {
        Ok(event) => {
            assert_eq!(Position::from_sequence(event.sequence), start.forward(seen + lost));
            seen += 1;
            true
        }
        Err(TryRecvError::Lagged { missed, .. }) => {
            lost += missed;
            true
        }
        Err(_) => false,
    };
    look(&mut reader);
    let published = 2 + publishing.join().expect("no panic");
    while look(&mut reader) {}
    assert_eq!(seen + lost, published);
}

#[test]
fn loom_overwriting_waits_for_the_pin() {
    explore(PREEMPTIONS, wrap_around_drop_oldest);
}

#[test]
fn loom_twins_of_the_pin_fail() {
    each_twin_fails(
        &["bus.pin.fence", "bus.refresh.fence", "bus.gate.let_go", "bus.gate.scan"],
        wrap_around_drop_oldest,
    );
}

/// A publisher that finds room by the limit that another one set, while a reader clones out.
fn limit_is_handed_on() {
    let bus = bus();
    let mut reader = bus.subscribe(Filter::all(), Overflow::DropOldest);
    for payload in 0..2 {
        bus.publisher().publish(TOPIC, payload).expect("open");
    }
    let publishing: Vec<_> = (0..2)
        .map(|_| {
            let publisher = bus.publisher();
            thread::spawn(move || publisher.try_publish(TOPIC, 2).is_ok())
        })
        .collect();
    let _ = reader.try_recv();
    for thread in publishing {
        thread.join().expect("no panic");
    }
}

#[test]
fn loom_a_limit_set_by_another_publisher_is_good() {
    explore(PREEMPTIONS, limit_is_handed_on);
}

#[test]
fn loom_twins_of_the_limit_fail() {
    each_twin_fails(&["bus.limit.write", "bus.limit.read"], limit_is_handed_on);
}

/// Two publishers lap each other; nobody reads.
fn two_publishers_lap() {
    let bus = bus();
    bus.publisher().publish(TOPIC, 0).expect("open");
    let publisher = bus.publisher();
    let publishing = thread::spawn(move || publisher.try_publish(TOPIC, 1).is_ok());
    let published = (0..2).filter(|_| bus.publisher().try_publish(TOPIC, 2).is_ok()).count() as u64;
    let published = published + u64::from(publishing.join().expect("no panic"));
    assert_eq!(bus.stats().published, 1 + published);
}

#[test]
fn loom_a_slot_is_written_after_its_last_writer_is_done() {
    explore(PREEMPTIONS, two_publishers_lap);
}

#[test]
fn loom_twins_of_the_vacant_slot_fail() {
    each_twin_fails(&["bus.refresh.fence"], two_publishers_lap);
}

/// A subscription begins while two other threads lap the ring.
fn join_during_publish() {
    let bus = bus();
    bus.publisher().publish(TOPIC, 0).expect("open");
    let publish = |count| {
        let publisher = bus.publisher();
        move || {
            for _ in 0..count {
                let _ = publisher.try_publish(TOPIC, 0);
            }
        }
    };
    let publishing = [thread::spawn(publish(1)), thread::spawn(publish(2))];
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    for thread in publishing {
        thread.join().expect("no panic");
    }
    while reader.try_recv().is_ok() {}
    assert_eq!(reader.stats().depth, 0, "the subscription began at an event that was gone");
}

#[test]
fn loom_a_subscription_begins_at_an_event_that_is_kept_for_it() {
    explore(PREEMPTIONS, join_during_publish);
}

#[test]
fn loom_twins_of_joining_fail() {
    each_twin_fails(&["bus.join.fence", "bus.refresh.fence"], join_during_publish);
}

/// A subscription begins while the exclusive publisher, whose claims are plain stores, laps the ring.
fn join_during_exclusive_publish() {
    let bus = bus();
    let mut publisher = bus.exclusive_publisher().expect("no other publisher");
    publisher.publish(TOPIC, 0).expect("open");
    let publishing = thread::spawn(move || {
        for _ in 0..3 {
            let _ = publisher.try_publish(TOPIC, 0);
        }
    });
    let mut reader = bus.subscribe(Filter::all(), Overflow::Block);
    publishing.join().expect("no panic");
    while reader.try_recv().is_ok() {}
    assert_eq!(reader.stats().depth, 0, "the subscription began at an event that was gone");
}

#[test]
fn loom_a_subscription_begins_where_the_exclusive_publisher_keeps_an_event_for_it() {
    explore(PREEMPTIONS, join_during_exclusive_publish);
}

#[test]
fn loom_twins_of_joining_an_exclusive_publisher_fail() {
    each_twin_fails(&["bus.join.fence"], join_during_exclusive_publish);
}

/// A subscription begins with the oldest event while somebody gives that one up.
fn join_at_the_oldest() {
    let bus = bus();
    for payload in 0..2 {
        bus.publisher().publish(TOPIC, payload).expect("open");
    }
    let publisher = bus.publisher();
    let publishing = thread::spawn(move || publisher.try_publish(TOPIC, 2).is_ok());
    let reader = bus.subscribe_from(Filter::all(), Overflow::Block, Start::Oldest);
    let mut reader = reader.expect("a valid start");
    let mut seen = Vec::from_iter(reader.try_recv().ok());
    let published = publishing.join().expect("no panic");
    seen.extend(std::iter::from_fn(|| reader.try_recv().ok()));
    let all = if published { 3 } else { 2 };
    let seen: Vec<_> = seen.into_iter().map(|event| event.payload).collect();
    assert!(seen.iter().copied().eq(all - seen.len() as u64..all), "{seen:?} of {all}");
    assert_eq!(reader.stats().depth, 0, "the subscription began at an event that was gone");
}

#[test]
fn loom_a_subscription_begins_at_the_oldest_event_that_is_not_given_up() {
    explore(PREEMPTIONS, join_at_the_oldest);
}

#[test]
fn loom_twins_of_joining_at_the_oldest_fail() {
    each_twin_fails(&["bus.join.fence", "bus.refresh.fence"], join_at_the_oldest);
}

/// A full ring of two events, and who would publish the next ones.
fn full_ring() -> (EventBus<u64>, Subscriber<u64>) {
    let bus = bus();
    let reader = bus.subscribe(Filter::all(), Overflow::Block);
    for payload in 0..2 {
        bus.publisher().publish(TOPIC, payload).expect("open");
    }
    (bus, reader)
}

/// Two publishers wait; the reader leaves, which wakes one of them: that one must wake the other.
fn publishers_pass_on() {
    let (bus, reader) = full_ring();
    let first = bus.publisher();
    let first = thread::spawn(move || first.publish(TOPIC, 2).is_ok());
    let leaving = thread::spawn(move || drop(reader));
    assert!(bus.publisher().publish(TOPIC, 3).is_ok());
    assert!(first.join().expect("no panic"));
    leaving.join().expect("no panic");
}

#[test]
fn loom_room_for_two_wakes_two_publishers() {
    explore(PREEMPTIONS, publishers_pass_on);
}

/// One publisher gives up just when room is given to it; the one behind it must get that room.
fn giving_up_passes_on() {
    let (bus, mut reader) = full_ring();
    let patient = bus.publisher();
    let patient = thread::spawn(move || patient.publish(TOPIC, 3).is_ok());
    let reading = thread::spawn(move || {
        reader.recv().expect("there");
        reader
    });
    let hasty = bus.publisher().publish_timeout(TOPIC, 2, Duration::ZERO).is_ok();
    let mut reader = reading.join().expect("no panic");
    if hasty {
        reader.recv().expect("there");
    }
    assert!(patient.join().expect("no panic"));
}

#[test]
fn loom_room_that_one_publisher_gives_up_goes_to_the_next() {
    explore(PREEMPTIONS, giving_up_passes_on);
}
