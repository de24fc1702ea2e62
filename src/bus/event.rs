//! An event as a reader sees it.

use super::source::Source;
use super::topic::Topic;

/// One event: where it stands, what it is about, who said it, what it says.
///
/// `Event<E>` holds a payload of its own; `Event<&E>` lends the one that lies in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event<T> {
    /// Its number in the order of its lane: from zero on, the same for every subscription. A number is missing
    /// only where a publication panicked.
    pub sequence: u64,
    /// What it was published under.
    pub topic: Topic,
    /// Who published it.
    pub source: Source,
    /// The lane that it came on; zero on a bus without further ones.
    pub lane: u8,
    /// What was published.
    pub payload: T,
}

impl<T> Event<T> {
    /// The same event with another payload.
    #[inline]
    pub(super) fn with<U>(&self, payload: U) -> Event<U> {
        Event {
            sequence: self.sequence,
            topic: self.topic,
            source: self.source,
            lane: self.lane,
            payload,
        }
    }

    /// The same event, its payload lent.
    #[must_use]
    pub fn lend(&self) -> Event<&T> {
        self.with(&self.payload)
    }
}

impl<T: Clone> Event<&T> {
    /// The event with a clone of the payload.
    #[must_use]
    pub fn cloned(self) -> Event<T> {
        self.with(self.payload.clone())
    }
}
