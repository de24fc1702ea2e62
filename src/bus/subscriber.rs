//! A subscription, and the ways to receive from it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::error::{RecvError, RecvTimeoutError, TryRecvError};
use super::event::Event;
use super::reader::{Reader, Step};
use super::shared::Backoff;
use super::stats::SubscriberStats;
use super::wait::Ticket;
use crate::Timestamp;
use crate::sync::atomic::Ordering;
use crate::sync::{Parker, fence_site};

/// Events handled in one call of [`Subscriber::for_each_batch`] at most.
const BATCH_MAX: u64 = 256;

/// What happens when a subscription falls a full ring behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// Publishers wait for it. It loses nothing, and whoever holds it holds up the bus.
    Block,
    /// The oldest events are lost to it, counted, and reported to it. It holds nobody up, but for the
    /// moment in which it clones an event out.
    ///
    /// Room is made for a stride of events at a time: a sixteenth of the ring, at least one and at most
    /// 256. So it may lose the oldest as soon as less than a stride of the ring is left ahead of it; in
    /// rings of up to 16 events it loses none before it is a full ring behind.
    DropOldest,
}

/// One subscription of an [`EventBus`](super::EventBus); dropping it ends it.
///
/// It sees, in order, every event whose publication began after the call that made it returned, and passes
/// over those that its filter does not match.
pub struct Subscriber<E> {
    reader: Reader<E>,
    overflow: Overflow,
    /// How to clone a payload out; drop-oldest subscriptions always have it.
    clone: Option<fn(&E) -> E>,
    /// Made when it first parks.
    parker: Option<Parker>,
}

impl<E> Subscriber<E> {
    pub(super) fn new(reader: Reader<E>, overflow: Overflow, clone: Option<fn(&E) -> E>) -> Self {
        Self { reader, overflow, clone, parker: None }
    }

    /// Receives the next event; waits for it, parked when none comes for a moment.
    ///
    /// # Errors
    ///
    /// [`RecvError::Lagged`] for each run of events that this drop-oldest subscription lost, before the first
    /// event behind them; [`RecvError::Closed`] when the bus is closed and all was received.
    ///
    /// # Panics
    ///
    /// If the payload's `Clone` panics, that panic passes through; the event counts as delivered, and the
    /// next call goes on behind it.
    #[inline]
    pub fn recv(&mut self) -> Result<Event<E>, RecvError>
    where
        E: Clone,
    {
        loop {
            if let Some(event) = self.wait(None, |this| this.reader.take_cloned())? {
                return Ok(event);
            }
        }
    }

    /// Receives the next event if one is there. Never waits.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`], also after a run of 64 events that do not match; else as
    /// [`recv`](Self::recv).
    ///
    /// # Panics
    ///
    /// As [`recv`](Self::recv).
    #[inline]
    pub fn try_recv(&mut self) -> Result<Event<E>, TryRecvError>
    where
        E: Clone,
    {
        let step = self.reader.take_cloned();
        self.attempt(step)
    }

    /// Receives the next event; waits for it so long at most, by the clock of the bus.
    ///
    /// # Errors
    ///
    /// [`RecvTimeoutError::Timeout`]; else as [`recv`](Self::recv). A timeout of zero tries once.
    ///
    /// # Panics
    ///
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Event<E>, RecvTimeoutError>
    where
        E: Clone,
    {
        self.wait(Some(timeout), |this| this.reader.take_cloned())?.ok_or(RecvTimeoutError::Timeout)
    }

    /// Receives the next event; the future is ready when it is there, on any executor.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    ///
    /// An event is taken in the poll that returns it and in no other: dropping the future loses nothing.
    ///
    /// # Panics
    ///
    /// As [`recv`](Self::recv), within the poll.
    pub fn recv_async(&mut self) -> Recv<'_, E>
    where
        E: Clone,
    {
        Recv { subscriber: self, ticket: None }
    }

    /// Handles the events that are there, up to 256; waits for the first one. Says how many it handled.
    ///
    /// A blocking subscription lends the payloads where they lie, and frees their slots every few events
    /// (an eighth of the ring, 32 at most) and at the end of the batch. A drop-oldest one clones each out
    /// first, and lends the clone, so that no handler holds a publisher up.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), when there was nothing to handle before.
    ///
    /// # Panics
    ///
    /// A panic of the handler passes through. The event that it was handling counts as delivered; the
    /// subscription stays usable and goes on behind it.
    pub fn for_each_batch(&mut self, mut f: impl FnMut(Event<&E>)) -> Result<u64, RecvError> {
        loop {
            if let Some(handled) = self.wait(None, |this| this.batch(&mut f))? {
                return Ok(handled);
            }
        }
    }

    /// As [`for_each_batch`](Self::for_each_batch), without waiting.
    ///
    /// # Errors
    ///
    /// As [`try_recv`](Self::try_recv).
    ///
    /// # Panics
    ///
    /// As [`for_each_batch`](Self::for_each_batch).
    pub fn try_for_each_batch(
        &mut self,
        mut f: impl FnMut(Event<&E>),
    ) -> Result<u64, TryRecvError> {
        let step = self.batch(&mut f);
        self.attempt(step)
    }

    /// What becomes of it when it falls behind.
    #[must_use]
    pub fn overflow(&self) -> Overflow {
        self.overflow
    }

    /// The counters of this subscription.
    #[must_use]
    pub fn stats(&self) -> SubscriberStats {
        self.reader.stats()
    }

    fn batch(&mut self, f: &mut impl FnMut(Event<&E>)) -> Step<u64> {
        let clone = match (self.overflow, self.clone) {
            (Overflow::DropOldest, Some(clone)) => clone,
            // A payload that is not cloned is only ever lent by a blocking reader.
            _ => return self.reader.take_batch(BATCH_MAX, f),
        };
        let mut handled = 0;
        while handled < BATCH_MAX {
            let step = self.reader.take(|event| Event {
                sequence: event.sequence,
                topic: event.topic,
                payload: clone(event.payload),
            });
            match step {
                Step::Taken(event) => f(event.lend()),
                // Met again by the next call.
                _ if handled > 0 => break,
                Step::Skipped => return Step::Skipped,
                Step::Empty => return Step::Empty,
                Step::Lagging => return Step::Lagging,
                Step::Closed => return Step::Closed,
            }
            handled += 1;
        }
        Step::Taken(handled)
    }

    /// What a step means to a caller who does not wait.
    #[inline]
    fn attempt<R>(&mut self, step: Step<R>) -> Result<R, TryRecvError> {
        match step {
            Step::Taken(taken) => Ok(taken),
            Step::Skipped | Step::Empty => Err(TryRecvError::Empty),
            Step::Lagging => {
                let (missed, from) = self.reader.lag();
                Err(TryRecvError::Lagged { missed, from })
            }
            Step::Closed => Err(TryRecvError::Closed),
        }
    }

    /// Steps until there is something to return; `None` if the time ran out first.
    #[inline]
    fn wait<R>(
        &mut self,
        timeout: Option<Duration>,
        mut step: impl FnMut(&mut Self) -> Step<R>,
    ) -> Result<Option<R>, RecvError> {
        let mut idle = Idle::default();
        loop {
            match step(self) {
                Step::Taken(taken) => return Ok(Some(taken)),
                Step::Lagging => {
                    let (missed, from) = self.reader.lag();
                    return Err(RecvError::Lagged { missed, from });
                }
                Step::Closed => return Err(RecvError::Closed),
                Step::Skipped => idle.backoff = Backoff::default(),
                Step::Empty => {}
            }
            if !self.idle(&mut idle, timeout) {
                return Ok(None);
            }
        }
    }

    /// Lets a moment pass in which an event may come; `false` once the time ran out.
    #[cold]
    fn idle(&mut self, idle: &mut Idle, timeout: Option<Duration>) -> bool {
        let shared = self.reader.shared();
        if let Some(timeout) = timeout {
            let now = shared.clock.now();
            if now >= *idle.deadline.get_or_insert(now + timeout) {
                return false;
            }
        }
        if idle.backoff.again() {
            return true;
        }
        let parker = self.parker.get_or_insert_default();
        let ticket = shared.readers().enter(parker.waker(), false);
        // Ordering: SeqCst, pairs with the fences of `Shared::commit` and `Shared::close`.
        fence_site("bus.recv.park.fence", Ordering::SeqCst);
        if !self.reader.is_ready() {
            shared.clock.park_until(parker, idle.deadline);
        }
        shared.readers().leave(&ticket);
        true
    }
}

/// What a call that waits remembers between its steps.
#[derive(Debug, Default)]
struct Idle {
    backoff: Backoff,
    deadline: Option<Timestamp>,
}

impl<E> fmt::Debug for Subscriber<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("overflow", &self.overflow)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// The future of [`Subscriber::recv_async`].
#[must_use = "futures do nothing unless polled"]
pub struct Recv<'a, E> {
    subscriber: &'a mut Subscriber<E>,
    ticket: Option<Ticket>,
}

impl<E> Recv<'_, E> {
    fn leave(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.subscriber.reader.shared().readers().leave(&ticket);
        }
    }
}

impl<E: Clone> Future for Recv<'_, E> {
    type Output = Result<Event<E>, RecvError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.leave();
        loop {
            match this.subscriber.reader.take_cloned() {
                Step::Taken(event) => return Poll::Ready(Ok(event)),
                Step::Lagging => {
                    let (missed, from) = this.subscriber.reader.lag();
                    return Poll::Ready(Err(RecvError::Lagged { missed, from }));
                }
                Step::Closed => return Poll::Ready(Err(RecvError::Closed)),
                Step::Skipped => {
                    // Events that do not match may come without end: let others of the task's executor run.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Step::Empty => {}
            }
            let reader = &this.subscriber.reader;
            this.ticket = Some(reader.shared().readers().enter(cx.waker().clone(), false));
            // Ordering: SeqCst, pairs with the fences of `Shared::commit` and `Shared::close`.
            fence_site("bus.recv.poll.fence", Ordering::SeqCst);
            if !reader.is_ready() {
                return Poll::Pending;
            }
            this.leave();
        }
    }
}

impl<E> Drop for Recv<'_, E> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<E> fmt::Debug for Recv<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recv").field("subscriber", &self.subscriber).finish_non_exhaustive()
    }
}
