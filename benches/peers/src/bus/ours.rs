//! The ends of this crate's bus, as it comes: the default ring, the counters on.

use phalanx::bus::{EventBus, ExclusivePublisher, Filter, Publisher, Subscriber, Topic};

use super::payload::Payload;
use super::race::{Publish, Read};

/// The publisher that shares the bus with others.
pub struct Shared<E> {
    publisher: Publisher<E>,
    topic: Topic,
}

/// The publisher that has the bus for itself.
pub struct Exclusive<E> {
    publisher: ExclusivePublisher<E>,
    topic: Topic,
}

impl<E: Payload> Exclusive<E> {
    #[inline(always)]
    pub fn publish_to(&mut self, topic: Topic, event: E) {
        done(self.publisher.publish(topic, event));
    }
}

impl<E: Payload> Publish<E> for Shared<E> {
    #[inline(always)]
    fn publish(&mut self, event: E) {
        done(self.publisher.publish(self.topic, event));
    }

    #[inline(always)]
    fn publish_batch(&mut self, mut events: impl ExactSizeIterator<Item = E>) {
        done(self.publisher.publish_batch(self.topic, &mut events));
    }
}

impl<E: Payload> Publish<E> for Exclusive<E> {
    #[inline(always)]
    fn publish(&mut self, event: E) {
        done(self.publisher.publish(self.topic, event));
    }

    #[inline(always)]
    fn publish_batch(&mut self, mut events: impl ExactSizeIterator<Item = E>) {
        done(self.publisher.publish_batch(self.topic, &mut events));
    }
}

#[inline]
fn done<T, R>(published: Result<T, R>) {
    assert!(published.is_ok(), "the bus is open");
}

/// A reader in place.
pub struct InPlace<E>(pub Subscriber<E>);

impl<E: Payload> Read<E> for InPlace<E> {
    #[inline(always)]
    fn read(&mut self, mut each: impl FnMut(&E)) {
        self.0.for_each_batch(|event| each(event.payload)).expect("the bus is open");
    }
}

pub fn bus<E>() -> (EventBus<E>, Topic) {
    let bus = EventBus::builder().build().expect("the defaults are valid");
    let topic = bus.topic("events").expect("the name is valid");
    (bus, topic)
}

pub fn exclusive_publisher<E>(bus: &EventBus<E>, topic: Topic) -> Exclusive<E> {
    let publisher = bus.exclusive_publisher().expect("no other publisher is there");
    Exclusive { publisher, topic }
}

/// The bus with one exclusive publisher.
pub fn exclusive<E: Payload>(
    publishers: usize,
    readers: usize,
) -> (Vec<Exclusive<E>>, Vec<InPlace<E>>) {
    assert_eq!(publishers, 1, "an exclusive publisher is the only one");
    let (bus, topic) = bus();
    let readers = subscribe(&bus, readers);
    (vec![exclusive_publisher(&bus, topic)], readers)
}

/// The bus with shared publishers.
pub fn shared<E: Payload>(publishers: usize, readers: usize) -> (Vec<Shared<E>>, Vec<InPlace<E>>) {
    let (bus, topic) = bus();
    let readers = subscribe(&bus, readers);
    let publishers =
        (0..publishers).map(|_| Shared { publisher: bus.publisher(), topic }).collect();
    (publishers, readers)
}

fn subscribe<E: Payload>(bus: &EventBus<E>, readers: usize) -> Vec<InPlace<E>> {
    (0..readers).map(|_| InPlace(bus.subscribe_in_place(Filter::all()))).collect()
}
