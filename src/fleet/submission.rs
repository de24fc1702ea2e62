//! Submissions that wait for room without a thread.
//!
//! Rules that hold here:
//!
//! 1. A submission that is pending has a place in the line for room, or waits for what becomes of the keys of its tasks,
//!    and has its tasks. It was refused nothing yet, and nothing of it was accepted.
//! 2. Its place is spent by the answer or given up by the drop, and then it is the next one's turn.
//! 3. The host's wakers are behind a [`Relay`]: those that are cloned and dropped under locks are this crate's own.

#[cfg(all(test, phalanx_loom))]
mod loom_tests;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Fleet;
use super::handle::TaskHandle;
use super::inner::Inner;
use super::submit::{Patience, Places};
use super::task::{SubmitError, Task};
use super::wakers::Relay;
use crate::sync::left_out;

/// One who waits for room, or for what becomes of keys.
struct Line<T: Send + Sync + 'static, O: Send + Sync + 'static> {
    fleet: Fleet<T, O>,
    relay: Arc<Relay>,
    places: Places,
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Line<T, O> {
    fn new(fleet: &Fleet<T, O>) -> Self {
        Self { fleet: fleet.clone(), relay: Relay::new(), places: Places::default() }
    }

    fn is_waiting(&self) -> bool {
        self.places.room.is_some() || self.places.key.is_some()
    }

    /// Submits, if it may by now; `None` if it waits, and the tasks are back.
    fn poll<S, R>(
        &mut self,
        cx: &Context<'_>,
        tasks: &mut Option<S>,
        submit: impl FnOnce(&Inner<T, O>, S, Patience<'_>) -> Result<R, SubmitError<S>>,
    ) -> Poll<Result<R, SubmitError<S>>> {
        // One that was ready has nothing to submit any more.
        let Some(own) = tasks.take() else { return Poll::Pending };
        let inner = self.fleet.inner();
        // Before it looks, so that nobody who wakes it is missed.
        let late = left_out("submission.arm-late");
        if !late {
            inner.discard(self.relay.set(Some(cx.waker().clone())));
        }
        let waker = self.relay.waker();
        let submitted = submit(inner, own, Patience::Later(&mut self.places, &waker));
        if late {
            inner.discard(self.relay.set(Some(cx.waker().clone())));
        }
        match submitted {
            Err(refused) if self.is_waiting() => {
                *tasks = Some(refused.into_inner());
                Poll::Pending
            }
            answer => {
                inner.discard(self.relay.set(None));
                Poll::Ready(answer)
            }
        }
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Drop for Line<T, O> {
    fn drop(&mut self) {
        let inner = self.fleet.inner();
        inner.discard(self.relay.set(None));
        inner.leave_line(&mut self.places.room);
        if let Some(key) = self.places.key.take() {
            inner.state.lock().progress.remove(key);
        }
    }
}

/// A task that is being submitted; made by [`Fleet::submit_async`].
///
/// It keeps the fleet running, as a handle does.
///
/// # Cancel safety
/// It is in line from the first poll on. Dropping it gives up its place, and drops the task, which was not accepted.
/// A submission that is neither polled nor dropped holds up those who wait for room behind it. It is ready once, and pending if it is polled after that.
#[must_use = "futures do nothing unless polled"]
pub struct Submission<T: Send + Sync + 'static, O: Send + Sync + 'static> {
    line: Line<T, O>,
    task: Option<Task<T>>,
}

/// Several tasks that are being submitted, all or none; made by [`Fleet::submit_batch_async`].
///
/// What is said of a [`Submission`] is true of it.
#[must_use = "futures do nothing unless polled"]
pub struct BatchSubmission<T: Send + Sync + 'static, O: Send + Sync + 'static> {
    line: Line<T, O>,
    tasks: Option<Vec<Task<T>>>,
}

// Nothing of theirs is pinned.
impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Unpin for Submission<T, O> {}
impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Unpin for BatchSubmission<T, O> {}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Future for Submission<T, O> {
    type Output = Result<TaskHandle<O>, SubmitError<Task<T>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { line, task } = &mut *self;
        line.poll(cx, task, Inner::submit_one)
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Future for BatchSubmission<T, O> {
    type Output = Result<Vec<TaskHandle<O>>, SubmitError<Vec<Task<T>>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { line, tasks } = &mut *self;
        line.poll(cx, tasks, Inner::submit_many)
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> fmt::Debug for Submission<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submission")
            .field("waiting", &self.line.is_waiting())
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> fmt::Debug for BatchSubmission<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchSubmission")
            .field("waiting", &self.line.is_waiting())
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Fleet<T, O> {
    /// Submits a task, waiting for room without a thread: for async hosts.
    ///
    /// Room goes to those who wait in the order of coming, whether they wait in a future or on a thread; one that names a
    /// key that is being accepted waits for what becomes of it. To bound the wait, race it with a timer of your runtime
    /// and drop it. The budgets and the [log](super::TaskLog) are asked in the poll that finds room: a log that syncs
    /// holds up that poll for as long.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), but for `Full` and `KeyPending`, which are waited for.
    ///
    /// ```
    /// use phalanx::fleet::{AgentSpec, Fleet, Task};
    /// use std::num::NonZeroUsize;
    ///
    /// let room = NonZeroUsize::new(1).ok_or("no room")?;
    /// let fleet = Fleet::<u32, u32>::builder().driven().queue_capacity(room).build()?;
    /// fleet.spawn(AgentSpec::new("doubler").handler_fn(|task: &Task<u32>, _cx| Ok(task.payload() * 2)))?;
    /// let first = fleet.submit(Task::new(1))?;
    ///
    /// let mut second = fleet.submit_async(Task::new(2));
    /// // Poll it in an executor; here by hand.
    /// use std::{future::Future, pin::Pin, task::{Context, Poll, Waker}};
    /// let mut cx = Context::from_waker(Waker::noop());
    /// assert!(Pin::new(&mut second).poll(&mut cx).is_pending());
    /// fleet.run_ready(1);
    /// let Poll::Ready(second) = Pin::new(&mut second).poll(&mut cx) else { panic!("there is room") };
    /// assert!(first.try_outcome().is_some() && second?.try_outcome().is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_async(&self, task: Task<T>) -> Submission<T, O> {
        Submission { line: Line::new(self), task: Some(task) }
    }

    /// Submits several tasks, all of them or none, waiting for room for all of them without a thread.
    ///
    /// What is said of [`submit_async`](Self::submit_async) is true of it.
    ///
    /// # Errors
    /// As [`submit_batch`](Self::submit_batch); `Full` only for more tasks than the queue can ever hold.
    pub fn submit_batch_async(&self, tasks: Vec<Task<T>>) -> BatchSubmission<T, O> {
        BatchSubmission { line: Line::new(self), tasks: Some(tasks) }
    }
}
