//! An event as a reader sees it.

use super::topic::Topic;

/// One event: where it stands, what it is about, what it says.
///
/// `Event<E>` holds a payload of its own; `Event<&E>` lends the one that lies in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event<T> {
    /// Its number in the order of the bus: from zero on, without gaps, the same for every subscription.
    pub sequence: u64,
    /// What it was published under.
    pub topic: Topic,
    /// What was published.
    pub payload: T,
}

impl<T: Clone> Event<&T> {
    /// The event with a clone of the payload.
    #[must_use]
    pub fn cloned(self) -> Event<T> {
        Event { sequence: self.sequence, topic: self.topic, payload: self.payload.clone() }
    }
}

impl<T> Event<T> {
    /// The same event, its payload lent.
    #[must_use]
    pub fn lend(&self) -> Event<&T> {
        Event { sequence: self.sequence, topic: self.topic, payload: &self.payload }
    }
}
