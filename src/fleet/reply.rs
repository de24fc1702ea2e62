//! What comes of a question: the cell that the worker fills and the asker's end of it.
//!
//! Rules that hold here:
//!
//! 1. A cell is ended once: by the worker that ran the question, or by whoever struck it or handed it back.
//!    Who comes second is told so.
//! 2. Whoever leaves a waker looks for the outcome under the same lock, so no wake-up is lost.
//! 3. Whoever waits as a thread watches `told` for a moment before it leaves a waker. That is a hint: the lock says
//!    whether there is an outcome.
//! 4. Wakers and outcomes are user code: they are dropped and called outside the lock.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::task::Outcome;
use crate::clock::{Clock, Timestamp};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, Parker, watch};

/// See the file's head.
#[derive(Debug)]
pub(super) struct ReplyCell<O> {
    state: Mutex<CellState<O>>,
    /// Whether it has ended (rule 3).
    told: AtomicBool,
}

#[derive(Debug)]
struct CellState<O> {
    /// Rule 1. The outcome may have been taken since.
    ended: bool,
    /// Whether nobody wants to know any more.
    abandoned: bool,
    outcome: Option<Outcome<O>>,
    waker: Option<Waker>,
}

/// What became of an outcome that was to end a question.
#[derive(Debug)]
#[must_use = "what it holds is the host's, and is called and dropped with care"]
pub(super) enum Filled<O> {
    /// It did; the waker is to be called.
    Ended(Option<Waker>),
    /// It did, and nobody wants to know.
    Unwanted(Outcome<O>),
    /// Another one did before.
    Late(Outcome<O>),
}

impl<O> ReplyCell<O> {
    pub(super) fn new() -> Self {
        let state = CellState { ended: false, abandoned: false, outcome: None, waker: None };
        Self { state: Mutex::new(state), told: AtomicBool::new(false) }
    }

    /// Ends it, if nobody did; `count` is called under the lock if so, and before anybody sees the outcome.
    pub(super) fn fill(&self, outcome: Outcome<O>, count: impl FnOnce()) -> Filled<O> {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.ended, true) {
            return Filled::Late(outcome);
        }
        count();
        if state.abandoned {
            return Filled::Unwanted(outcome);
        }
        state.outcome = Some(outcome);
        let waker = state.waker.take();
        drop(state);
        // Relaxed: rule 3. After the lock was left, so that whoever watches need not wait for it.
        self.told.store(true, Ordering::Relaxed);
        Filled::Ended(waker)
    }

    /// Watches for the outcome for a moment: who asks one thing after the other would else be woken for each.
    fn watch(&self) {
        watch(|| self.told.load(Ordering::Relaxed));
    }

    fn poll(&self, waker: Waker) -> Poll<Outcome<O>> {
        let mut state = self.state.lock();
        if let Some(outcome) = state.outcome.take() {
            drop(state);
            drop(waker);
            return Poll::Ready(outcome);
        }
        let before = state.waker.replace(waker);
        drop(state);
        drop(before);
        Poll::Pending
    }

    fn take(&self) -> Option<Outcome<O>> {
        self.state.lock().outcome.take()
    }

    fn has_ended(&self) -> bool {
        self.state.lock().ended
    }

    fn abandon(&self) {
        let mut state = self.state.lock();
        state.abandoned = true;
        let left = (state.outcome.take(), state.waker.take());
        drop(state);
        drop(left);
    }
}

/// The asker's end of a question; made by [`Fleet::ask`](super::Fleet::ask).
///
/// It waits as a thread ([`wait`](Self::wait)) or as a future, on any runtime. The outcome goes to
/// whoever fetches it first.
///
/// # Cancel safety
/// Dropping it changes nothing for the question, which is still handled; what comes of it is dropped.
#[must_use = "the answer is told here; drop it explicitly if nobody wants to know"]
pub struct Reply<O> {
    cell: Arc<ReplyCell<O>>,
    clock: Clock,
}

impl<O> Reply<O> {
    pub(super) const fn new(cell: Arc<ReplyCell<O>>, clock: Clock) -> Self {
        Self { cell, clock }
    }

    /// Waits until the question was handled, for as long as that takes. The thread looks for some microseconds
    /// before it sleeps.
    ///
    /// On a worker thread of the fleet it may wait for ever: for a question to the agent that waits, it
    /// does.
    pub fn wait(self) -> Outcome<O> {
        loop {
            if let Some(outcome) = self.wait_until(None) {
                return outcome;
            }
        }
    }

    /// Waits until the question was handled, for so long at most. It can be waited for again.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Outcome<O>> {
        self.wait_until(Some(self.clock.now() + timeout))
    }

    /// What came of the question, if it was handled and nobody has fetched that. Never waits.
    pub fn try_outcome(&mut self) -> Option<Outcome<O>> {
        self.cell.take()
    }

    fn wait_until(&self, deadline: Option<Timestamp>) -> Option<Outcome<O>> {
        if deadline.is_none() {
            self.cell.watch();
        }
        if let Some(outcome) = self.cell.take() {
            return Some(outcome);
        }
        let parker = Parker::new();
        loop {
            if let Poll::Ready(outcome) = self.cell.poll(parker.waker()) {
                return Some(outcome);
            }
            if !self.clock.park_until(&parker, deadline) {
                return self.cell.take();
            }
        }
    }
}

impl<O> Future for Reply<O> {
    type Output = Outcome<O>;

    /// Pending for ever once the outcome was fetched.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let waker = cx.waker().clone();
        self.cell.poll(waker)
    }
}

impl<O> Drop for Reply<O> {
    fn drop(&mut self) {
        self.cell.abandon();
    }
}

impl<O> fmt::Debug for Reply<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("ended", &self.cell.has_ended()).finish()
    }
}
