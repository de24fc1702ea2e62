//! The errors of the path of an event: small, typed, and the payload comes back in them.

use std::fmt;

use thiserror::Error;

/// Why [`Publisher::publish`](super::Publisher::publish) did not publish; holds the payload.
#[derive(Error)]
#[non_exhaustive]
pub enum PublishError<E> {
    /// The bus is closed.
    #[error("the bus is closed")]
    Closed(E),
}

/// Why [`Publisher::try_publish`](super::Publisher::try_publish) did not publish; holds the payload.
#[derive(Error)]
#[non_exhaustive]
pub enum TryPublishError<E> {
    /// The slot to write is still needed: a blocking subscription is a full ring behind, or (for a
    /// moment) a drop-oldest one is cloning out of it or its last writer is not done.
    #[error("the ring is full")]
    Full(E),
    /// The bus is closed.
    #[error("the bus is closed")]
    Closed(E),
}

/// Why [`Publisher::publish_timeout`](super::Publisher::publish_timeout) did not publish; holds the
/// payload.
#[derive(Error)]
#[non_exhaustive]
pub enum PublishTimeoutError<E> {
    /// The ring stayed full until the time ran out.
    #[error("the ring stayed full until the time ran out")]
    Timeout(E),
    /// The bus is closed.
    #[error("the bus is closed")]
    Closed(E),
}

/// The payload has its own debug form, or none: what is told is which error it is.
macro_rules! opaque_debug {
    ($error:ident: $($variant:ident),+) => {
        impl<E> fmt::Debug for $error<E> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant(_) => f.write_str(concat!(stringify!($variant), "(..)")),)+
                }
            }
        }

        impl<E> $error<E> {
            /// The payload that was not published.
            pub fn into_payload(self) -> E {
                match self {
                    $(Self::$variant(payload))|+ => payload,
                }
            }
        }
    };
}

opaque_debug!(PublishError: Closed);
opaque_debug!(TryPublishError: Full, Closed);
opaque_debug!(PublishTimeoutError: Timeout, Closed);

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
    },
    /// The bus is closed and everything that was published was received.
    #[error("the bus is closed and drained")]
    Closed,
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
    },
    /// As [`RecvError::Closed`].
    #[error("the bus is closed and drained")]
    Closed,
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
    },
    /// As [`RecvError::Closed`].
    #[error("the bus is closed and drained")]
    Closed,
}

impl From<RecvError> for RecvTimeoutError {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Lagged { missed, from } => Self::Lagged { missed, from },
            RecvError::Closed => Self::Closed,
        }
    }
}
