//! The futures of a subscription.
//!
//! 1. What comes of a poll is taken in the poll that says so and in no other, so a future may be dropped after any.
//! 2. A future that is dropped leaves those who wait.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::super::error::RecvError;
use super::super::event::Event;
use super::Subscriber;

/// The future of [`Subscriber::recv_async`].
#[must_use = "futures do nothing unless polled"]
pub struct Recv<'a, E> {
    waiting: Waiting<'a, E>,
}

/// The future of [`Subscriber::for_each_batch_async`].
#[must_use = "futures do nothing unless polled"]
pub struct ForEachBatch<'a, E, F> {
    waiting: Waiting<'a, E>,
    handle: F,
}

/// Rule 2 of the file.
struct Waiting<'a, E>(&'a mut Subscriber<E>);

impl<E> Drop for Waiting<'_, E> {
    fn drop(&mut self) {
        self.0.leave_waiting();
    }
}

impl<'a, E> Recv<'a, E> {
    pub(super) fn new(subscriber: &'a mut Subscriber<E>) -> Self {
        Self { waiting: Waiting(subscriber) }
    }
}

impl<'a, E, F> ForEachBatch<'a, E, F> {
    pub(super) fn new(subscriber: &'a mut Subscriber<E>, handle: F) -> Self {
        Self { waiting: Waiting(subscriber), handle }
    }
}

impl<E: Clone> Future for Recv<'_, E> {
    type Output = Result<Event<E>, RecvError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().waiting.0.poll(cx, Subscriber::take_cloned)
    }
}

impl<E, F: FnMut(Event<&E>)> Future for ForEachBatch<'_, E, F> {
    type Output = Result<u64, RecvError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { waiting, handle } = self.get_mut();
        waiting.0.poll(cx, |subscriber| subscriber.batch(handle))
    }
}

// The handler is called where it is and never pinned.
impl<E, F> Unpin for ForEachBatch<'_, E, F> {}

impl<E> fmt::Debug for Recv<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recv").field("subscriber", &self.waiting.0).finish_non_exhaustive()
    }
}

impl<E, F> fmt::Debug for ForEachBatch<'_, E, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForEachBatch").field("subscriber", &self.waiting.0).finish_non_exhaustive()
    }
}
