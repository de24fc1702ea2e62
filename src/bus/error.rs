//! The errors of the path of an event: small, typed, and the payload comes back in them.

use std::fmt;

use thiserror::Error;

use super::lane::Lane;
use super::ring::Refusal;

/// Why [`Publisher::publish`](super::Publisher::publish) did not publish; holds the payload, or what was to
/// make it.
#[derive(Error)]
#[non_exhaustive]
pub enum PublishError<P> {
    /// The bus is closed.
    #[error("the bus is closed")]
    Closed(P),
    /// A subscription whose overflow policy is to fail the publisher is a full ring behind.
    #[error("the ring is full and a subscription asks to fail rather than wait")]
    Full(P),
    /// The lane has an exclusive publisher, which is not this one.
    #[error("the lane has an exclusive publisher")]
    Exclusive(P),
}

/// Why [`Publisher::try_publish`](super::Publisher::try_publish) did not publish; holds the payload.
#[derive(Error)]
#[non_exhaustive]
pub enum TryPublishError<P> {
    /// The slot to write is still needed: a subscription that is not to lose events is a full ring behind,
    /// or (for a moment) one is just beginning, a drop-oldest one is cloning out of it, or its last writer is
    /// not done.
    #[error("the ring is full")]
    Full(P),
    /// The bus is closed.
    #[error("the bus is closed")]
    Closed(P),
    /// The lane has an exclusive publisher, which is not this one.
    #[error("the lane has an exclusive publisher")]
    Exclusive(P),
}

/// Why [`Publisher::publish_timeout`](super::Publisher::publish_timeout) did not publish; holds the
/// payload.
#[derive(Error)]
#[non_exhaustive]
pub enum PublishTimeoutError<P> {
    /// The ring stayed full until the time ran out.
    #[error("the ring stayed full until the time ran out")]
    Timeout(P),
    /// The bus is closed.
    #[error("the bus is closed")]
    Closed(P),
    /// As [`PublishError::Full`].
    #[error("the ring is full and a subscription asks to fail rather than wait")]
    Full(P),
    /// The lane has an exclusive publisher, which is not this one.
    #[error("the lane has an exclusive publisher")]
    Exclusive(P),
}

/// Why [`Publisher::publish_batch`](super::Publisher::publish_batch) stopped; what was not published is still in
/// the iterator that it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishBatchError {
    /// The bus is closed.
    #[error("the bus is closed; {published} events of the batch were published before")]
    Closed {
        /// How many events of the batch were published before.
        published: u64,
    },
    /// As [`PublishError::Full`].
    #[error(
        "the ring is full and a subscription asks to fail rather than wait; {published} events of \
         the batch were published before"
    )]
    Full {
        /// How many events of the batch were published before.
        published: u64,
    },
    /// The lane has an exclusive publisher, which is not this one.
    #[error(
        "the lane has an exclusive publisher; {published} events of the batch were published before"
    )]
    Exclusive {
        /// How many events of the batch were published before.
        published: u64,
    },
}

impl<P> PublishError<P> {
    #[cold]
    pub(super) fn new<E>(refusal: Refusal, lane: &Lane<E>, payload: P) -> Self {
        match refusal {
            Refusal::Shut if lane.is_closing() => Self::Closed(payload),
            Refusal::Shut => Self::Exclusive(payload),
            Refusal::Failed | Refusal::Held | Refusal::Unwritten => {
                lane.count_refused();
                Self::Full(payload)
            }
        }
    }
}

impl<P> TryPublishError<P> {
    #[cold]
    pub(super) fn new<E>(refusal: Refusal, lane: &Lane<E>, payload: P) -> Self {
        match refusal {
            Refusal::Shut if lane.is_closing() => Self::Closed(payload),
            Refusal::Shut => Self::Exclusive(payload),
            Refusal::Failed | Refusal::Held | Refusal::Unwritten => {
                lane.count_refused();
                Self::Full(payload)
            }
        }
    }
}

impl<P> PublishTimeoutError<P> {
    #[cold]
    pub(super) fn new<E>(refusal: Refusal, lane: &Lane<E>, payload: P) -> Self {
        match refusal {
            Refusal::Shut if lane.is_closing() => Self::Closed(payload),
            Refusal::Shut => Self::Exclusive(payload),
            Refusal::Failed => {
                lane.count_refused();
                Self::Full(payload)
            }
            Refusal::Held | Refusal::Unwritten => {
                lane.count_refused();
                Self::Timeout(payload)
            }
        }
    }
}

impl PublishBatchError {
    #[cold]
    pub(super) fn new<E>(refusal: Refusal, lane: &Lane<E>, published: u64) -> Self {
        match refusal {
            Refusal::Shut if lane.is_closing() => Self::Closed { published },
            Refusal::Shut => Self::Exclusive { published },
            Refusal::Failed | Refusal::Held | Refusal::Unwritten => {
                lane.count_refused();
                Self::Full { published }
            }
        }
    }

    /// How many events of the batch were published before.
    #[must_use]
    pub const fn published(&self) -> u64 {
        match self {
            Self::Closed { published }
            | Self::Full { published }
            | Self::Exclusive { published } => *published,
        }
    }
}

/// The payload has its own debug form, or none: what is told is which error it is.
macro_rules! opaque_debug {
    ($error:ident: $($variant:ident),+) => {
        impl<P> fmt::Debug for $error<P> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant(_) => f.write_str(concat!(stringify!($variant), "(..)")),)+
                }
            }
        }

        impl<P> $error<P> {
            /// The payload that was not published.
            pub fn into_payload(self) -> P {
                match self {
                    $(Self::$variant(payload))|+ => payload,
                }
            }
        }
    };
}

opaque_debug!(PublishError: Closed, Full, Exclusive);
opaque_debug!(TryPublishError: Full, Closed, Exclusive);
opaque_debug!(PublishTimeoutError: Timeout, Closed, Full, Exclusive);

/// Why [`Subscriber::recv`](super::Subscriber::recv) has no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecvError {
    /// This drop-oldest subscription fell behind and lost events. It goes on behind them; call again.
    #[error("fell behind and missed {missed} events from sequence {from} on")]
    Lagged {
        /// How many events were lost, of any topic: what they were about is lost with them.
        missed: u64,
        /// The sequence of the first one lost.
        from: u64,
        /// The lane of those events, which counts by itself.
        lane: u8,
    },
    /// The bus is closed and everything that was published was received.
    #[error("the bus is closed and drained")]
    Closed,
    /// A handler of this subscription panicked, which ended it.
    #[error("the subscription ended when its handler panicked")]
    HandlerPanicked,
}

/// Why [`Subscriber::try_recv`](super::Subscriber::try_recv) has no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TryRecvError {
    /// Nothing is there at the moment.
    #[error("no event is there")]
    Empty,
    /// As [`RecvError::Lagged`].
    #[error("fell behind and missed {missed} events from sequence {from} on")]
    Lagged {
        /// How many events were lost, of any topic: what they were about is lost with them.
        missed: u64,
        /// The sequence of the first one lost.
        from: u64,
        /// The lane of those events, which counts by itself.
        lane: u8,
    },
    /// As [`RecvError::Closed`].
    #[error("the bus is closed and drained")]
    Closed,
    /// As [`RecvError::HandlerPanicked`].
    #[error("the subscription ended when its handler panicked")]
    HandlerPanicked,
}

/// Why [`Subscriber::recv_timeout`](super::Subscriber::recv_timeout) has no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecvTimeoutError {
    /// Nothing came until the time ran out.
    #[error("no event came until the time ran out")]
    Timeout,
    /// As [`RecvError::Lagged`].
    #[error("fell behind and missed {missed} events from sequence {from} on")]
    Lagged {
        /// How many events were lost, of any topic: what they were about is lost with them.
        missed: u64,
        /// The sequence of the first one lost.
        from: u64,
        /// The lane of those events, which counts by itself.
        lane: u8,
    },
    /// As [`RecvError::Closed`].
    #[error("the bus is closed and drained")]
    Closed,
    /// As [`RecvError::HandlerPanicked`].
    #[error("the subscription ended when its handler panicked")]
    HandlerPanicked,
}

impl From<RecvError> for RecvTimeoutError {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Lagged { missed, from, lane } => Self::Lagged { missed, from, lane },
            RecvError::Closed => Self::Closed,
            RecvError::HandlerPanicked => Self::HandlerPanicked,
        }
    }
}

impl From<RecvError> for TryRecvError {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Lagged { missed, from, lane } => Self::Lagged { missed, from, lane },
            RecvError::Closed => Self::Closed,
            RecvError::HandlerPanicked => Self::HandlerPanicked,
        }
    }
}
