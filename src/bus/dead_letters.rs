//! Dead letters: events that were taken from the ring and that nobody could make use of, with the reason.
//!
//! 1. Every dead letter is counted, whether or not somebody subscribes to them.
//! 2. A subscriber of letters is bounded. When it is full its oldest letter goes, which it is told of before the
//!    next one that it gets.
//! 3. Whoever sends a letter never waits, and no lock is held while a payload is dropped or a waker runs. The
//!    first panic among these is handed back when everything else is done.
//! 4. The end has come when the bus is closed and nobody is left who could send a letter: each subscription and
//!    each group holds a [`Pen`] for as long as it may.
//! 5. Whoever waits leaves its waker first, looks then, and only then sleeps; who sends, or brings the end
//!    about, does that first and wakes then. So no wake-up is lost.

mod letters;
#[cfg(all(test, phalanx_loom))]
mod loom_tests;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::error::{RecvError, RecvTimeoutError, TryRecvError};
use super::event::Event;
use crate::Clock;
use crate::sync::Parker;

pub(super) use letters::{Died, Letters, Pen, attempt};

use letters::{Mailbox, Post};

/// Why an event became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadLetterReason {
    /// A group delivered it as often as it may, and no member acknowledged it.
    AttemptsExhausted {
        /// How often it was delivered.
        attempts: u32,
    },
    /// A member of a group [rejected](super::Delivery::reject) it.
    Rejected,
    /// Its group ended while it waited for a member or for an acknowledgement.
    Unacknowledged,
    /// The handler of a subscription panicked over it; see
    /// [`for_each_batch`](super::Subscriber::for_each_batch).
    HandlerPanicked,
}

impl fmt::Display for DeadLetterReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AttemptsExhausted { attempts } => {
                write!(f, "not acknowledged in {attempts} deliveries")
            }
            Self::Rejected => f.write_str("rejected by a member of a group"),
            Self::Unacknowledged => f.write_str("not acknowledged when the group ended"),
            Self::HandlerPanicked => f.write_str("the handler panicked"),
        }
    }
}

/// An event that nobody could make use of, and why. Clones share the payload.
pub struct DeadLetter<E> {
    event: Arc<Event<E>>,
    reason: DeadLetterReason,
}

impl<E> DeadLetter<E> {
    fn new(event: Arc<Event<E>>, reason: DeadLetterReason) -> Self {
        Self { event, reason }
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> &Event<E> {
        &self.event
    }

    /// Why it is dead.
    #[must_use]
    pub fn reason(&self) -> DeadLetterReason {
        self.reason
    }

    /// The event, to keep; cloned only if others still share it.
    #[must_use]
    pub fn into_event(self) -> Event<E>
    where
        E: Clone,
    {
        Arc::try_unwrap(self.event).unwrap_or_else(|shared| shared.lend().cloned())
    }
}

impl<E> Clone for DeadLetter<E> {
    fn clone(&self) -> Self {
        Self { event: Arc::clone(&self.event), reason: self.reason }
    }
}

/// The payload has its own debug form, or none.
impl<E> fmt::Debug for DeadLetter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("sequence", &self.event.sequence)
            .field("topic", &self.event.topic)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// A bounded subscriber of dead letters; see [`EventBus::dead_letters`](super::EventBus::dead_letters).
///
/// It gets every letter that is sent from its beginning on; several subscribers get each letter each. It holds
/// up nobody: when it is full, its oldest letter is dropped, and it is told of that as
/// [`Lagged`](RecvError::Lagged), where `missed` and `from` count its letters, from zero on, and the lane is zero.
///
/// It does not keep the bus open. It gets the letters that were sent, and then
/// [`Closed`](RecvError::Closed), once the bus is closed and all its subscriptions and groups are gone, as each of
/// them may still send one.
pub struct DeadLetters<E> {
    letters: Arc<Letters<E>>,
    mailbox: Arc<Mailbox<E>>,
    clock: Clock,
    /// Made when it first parks.
    parker: Option<Parker>,
}

impl<E> DeadLetters<E> {
    pub(super) fn new(letters: Arc<Letters<E>>, clock: Clock, capacity: usize) -> Self {
        let mailbox = letters.subscribe(capacity);
        Self { letters, mailbox, clock, parker: None }
    }

    /// Receives the next letter; parks until there is one.
    ///
    /// # Errors
    ///
    /// [`RecvError::Lagged`] before the first letter behind those that were dropped because this was full;
    /// [`RecvError::Closed`] at the end.
    pub fn recv(&mut self) -> Result<DeadLetter<E>, RecvError> {
        loop {
            if let Some(letter) = self.wait(None)? {
                return Ok(letter);
            }
        }
    }

    /// Receives the next letter if one is there. Never waits.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`]; else as [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<DeadLetter<E>, TryRecvError> {
        match self.take() {
            Post::Letter(letter) => Ok(letter),
            Post::None => Err(TryRecvError::Empty),
            Post::Missed { missed, from } => Err(lagged(missed, from).into()),
            Post::End => Err(TryRecvError::Closed),
        }
    }

    /// Receives the next letter; waits for it so long at most, by the clock of the bus.
    ///
    /// # Errors
    ///
    /// [`RecvTimeoutError::Timeout`]; else as [`recv`](Self::recv). A timeout of zero tries once.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<DeadLetter<E>, RecvTimeoutError> {
        self.wait(Some(timeout))?.ok_or(RecvTimeoutError::Timeout)
    }

    /// Receives the next letter; the future is ready when it is there, on any executor.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    ///
    /// A letter is taken in the poll that returns it and in no other: dropping the future loses nothing.
    pub fn recv_async(&mut self) -> RecvDeadLetter<'_, E> {
        RecvDeadLetter { subscriber: self }
    }

    /// How many letters it holds at most.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.mailbox.capacity()
    }

    fn take(&mut self) -> Post<E> {
        self.mailbox.take(&self.letters)
    }

    /// Takes what there is to take; `None` if the time ran out first.
    fn wait(&mut self, timeout: Option<Duration>) -> Result<Option<DeadLetter<E>>, RecvError> {
        let mut deadline = None;
        let mut listening = false;
        loop {
            match self.take() {
                Post::Letter(letter) => return Ok(Some(letter)),
                Post::Missed { missed, from } => return Err(lagged(missed, from)),
                Post::End => return Err(RecvError::Closed),
                Post::None => {}
            }
            if let Some(timeout) = timeout {
                let now = self.clock.now();
                if now >= *deadline.get_or_insert(now + timeout) {
                    return Ok(None);
                }
            }
            let parker = self.parker.get_or_insert_default();
            if listening {
                self.clock.park_until(parker, deadline);
            }
            self.mailbox.listen(parker.waker());
            // Looks once more before it sleeps.
            listening = true;
        }
    }
}

fn lagged(missed: u64, from: u64) -> RecvError {
    RecvError::Lagged { missed, from, lane: 0 }
}

impl<E> Drop for DeadLetters<E> {
    fn drop(&mut self) {
        self.letters.unsubscribe(&self.mailbox);
    }
}

impl<E> fmt::Debug for DeadLetters<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters")
            .field("capacity", &self.capacity())
            .field("held", &self.mailbox.len())
            .finish_non_exhaustive()
    }
}

/// The future of [`DeadLetters::recv_async`].
#[must_use = "futures do nothing unless polled"]
pub struct RecvDeadLetter<'a, E> {
    subscriber: &'a mut DeadLetters<E>,
}

impl<E> Future for RecvDeadLetter<'_, E> {
    type Output = Result<DeadLetter<E>, RecvError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let subscriber = &mut *self.get_mut().subscriber;
        let mut post = subscriber.take();
        if matches!(post, Post::None) {
            subscriber.mailbox.listen(cx.waker().clone());
            post = subscriber.take();
        }
        match post {
            Post::Letter(letter) => Poll::Ready(Ok(letter)),
            Post::Missed { missed, from } => Poll::Ready(Err(lagged(missed, from))),
            Post::End => Poll::Ready(Err(RecvError::Closed)),
            Post::None => Poll::Pending,
        }
    }
}

impl<E> Drop for RecvDeadLetter<'_, E> {
    fn drop(&mut self) {
        self.subscriber.mailbox.stop_listening();
    }
}

impl<E> fmt::Debug for RecvDeadLetter<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvDeadLetter").field("subscriber", &self.subscriber).finish()
    }
}
