//! The outcomes of a fleet's tasks, as a stream.
//!
//! Rules that hold here:
//!
//! 1. A stream is told of each task that ends while it is there, once, in the order in which they end, in the step
//!    in which the outcome becomes visible.
//! 2. It holds no more than it may. What it has no room for takes the place of the oldest, and is counted.
//! 3. It is over once the fleet takes no more tasks and none is left that has not ended; that is told in the same
//!    step as the last outcome.
//! 4. Whoever leaves a waker looks at what there is under the same lock, so no wake-up is lost. Outcomes and wakers
//!    are the host's: they are dropped and called outside the locks.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;

use super::Fleet;
use super::id::{Attempt, TaskId};
use super::inner::State;
use super::log::LogPosition;
use super::task::Outcome;
use crate::clock::{Clock, Timestamp};
use crate::sync::{Mutex, Parker};

/// A task that has ended.
#[non_exhaustive]
pub struct Ended<O> {
    /// Which task.
    pub task: TaskId,
    /// The attempt that ended it, or the last before; [`Attempt::NONE`] for a task that never ran.
    pub attempt: Attempt,
    /// How it ended.
    pub outcome: Arc<Outcome<O>>,
    /// Where the log recorded that, if it did.
    pub position: Option<LogPosition>,
}

impl<O> Clone for Ended<O> {
    fn clone(&self) -> Self {
        Self { outcome: Arc::clone(&self.outcome), ..*self }
    }
}

impl<O> fmt::Debug for Ended<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended")
            .field("task", &self.task)
            .field("attempt", &self.attempt)
            .field("outcome", &self.outcome.kind())
            .field("position", &self.position)
            .finish()
    }
}

/// The streams of a fleet; part of the state, under its lock.
pub(super) struct Streams<O>(Vec<Arc<Channel<O>>>);

struct Channel<O> {
    state: Mutex<ChannelState<O>>,
    capacity: usize,
    clock: Clock,
}

struct ChannelState<O> {
    ended: VecDeque<Ended<O>>,
    missed: u64,
    /// Rule 3.
    over: bool,
    /// Whether the stream is gone.
    abandoned: bool,
    waker: Option<Waker>,
}

impl<O> Streams<O> {
    pub(super) const fn none() -> Self {
        Self(Vec::new())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells all streams of a task that has ended; what was displaced, to be dropped outside the lock.
    pub(super) fn tell(&mut self, ended: Ended<O>, wakes: &mut Vec<Waker>) -> Vec<Ended<O>> {
        let mut displaced = Vec::new();
        self.0.retain(|channel| {
            let mut state = channel.state.lock();
            if state.abandoned {
                return false;
            }
            if state.ended.len() >= channel.capacity {
                displaced.extend(state.ended.pop_front());
                state.missed += 1;
            }
            state.ended.push_back(ended.clone());
            wakes.extend(state.waker.take());
            true
        });
        // The outcome lives on: its cell has it, or is going to.
        drop(ended);
        displaced
    }

    /// Tells all streams that nothing comes any more.
    fn end(&mut self, wakes: &mut Vec<Waker>) {
        for channel in self.0.drain(..) {
            let mut state = channel.state.lock();
            state.over = true;
            wakes.extend(state.waker.take());
        }
    }
}

impl<T, O> State<T, O> {
    /// Whether no task is there, and none comes any more.
    fn is_over(&self) -> bool {
        (self.draining || self.stopping) && self.tasks.is_empty() && self.reserved == 0
    }

    /// Ends the streams if they are over (rule 3): after each step that may have been the last.
    pub(super) fn end_streams_if_over(&mut self, wakes: &mut Vec<Waker>) {
        if !self.ledger.streams.is_empty() && self.is_over() {
            self.ledger.streams.end(wakes);
        }
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Fleet<T, O> {
    /// The outcomes of all tasks that end from now on, as a stream that holds so many of them at most.
    ///
    /// Whoever does not keep up misses the oldest: [`Outcomes::missed`] counts them, and
    /// [`FleetStats::outcomes_missed`](super::FleetStats::outcomes_missed) those of all streams. Each stream is told
    /// of every task. It keeps no fleet running; it is over once the fleet drains or stops and all that was accepted
    /// has ended. What ended before is in the [history](Self::task). Costs a lock of its own for each task that ends.
    ///
    /// ```
    /// use phalanx::fleet::{AgentSpec, Fleet, Task};
    /// use std::num::NonZeroUsize;
    /// use std::time::Duration;
    ///
    /// let fleet = Fleet::<u64, u64>::builder().workers(1).build()?;
    /// fleet.spawn(AgentSpec::new("doubler").handler_fn(|task, _cx| Ok(task.payload() * 2)))?;
    /// let mut outcomes = fleet.outcomes(NonZeroUsize::new(100).ok_or("zero")?);
    /// for number in 1..=3 {
    ///     drop(fleet.submit(Task::new(number))?);
    /// }
    /// fleet.drain(Duration::from_secs(5))?;
    /// let sum: u64 = outcomes.iter().filter_map(|ended| ended.outcome.completed().copied()).sum();
    /// assert_eq!((sum, outcomes.missed()), (12, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn outcomes(&self, capacity: NonZeroUsize) -> Outcomes<O> {
        let inner = self.inner();
        let state = ChannelState {
            ended: VecDeque::new(),
            missed: 0,
            over: false,
            abandoned: false,
            waker: None,
        };
        let channel = Arc::new(Channel {
            state: Mutex::new(state),
            capacity: capacity.get(),
            clock: inner.clock.clone(),
        });
        let mut wakes = Vec::new();
        {
            let mut state = inner.state.lock();
            state.ledger.streams.0.retain(|channel| !channel.state.lock().abandoned);
            state.ledger.streams.0.push(Arc::clone(&channel));
            state.end_streams_if_over(&mut wakes);
        }
        inner.wake_all(wakes);
        Outcomes { channel }
    }
}

/// The outcomes of a fleet's tasks as they end; made by [`Fleet::outcomes`].
///
/// It is read by a thread ([`iter`](Self::iter), [`try_next`](Self::try_next),
/// [`next_timeout`](Self::next_timeout)) or as a `Stream`, on any runtime.
///
/// # Cancel safety
/// A read that is given up takes nothing out.
#[must_use = "nobody else reads what a stream holds"]
pub struct Outcomes<O> {
    channel: Arc<Channel<O>>,
}

impl<O> Outcomes<O> {
    /// The next task that has ended, if there is one. Never waits.
    pub fn try_next(&mut self) -> Option<Ended<O>> {
        self.channel.state.lock().ended.pop_front()
    }

    /// The next task that has ended, waiting on this thread for so long at most. `None` if none came, or the
    /// stream [is over](Self::is_over).
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Ended<O>> {
        let deadline = self.channel.clock.now() + timeout;
        self.next_until(Some(deadline))
    }

    /// The tasks as they end, waiting on this thread for each, until the stream is over.
    pub fn iter(&mut self) -> impl Iterator<Item = Ended<O>> {
        std::iter::from_fn(|| self.next_until(None))
    }

    /// How many tasks this stream was told of that it had no room for. Grows only.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.channel.state.lock().missed
    }

    /// Whether nothing is left and nothing comes any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let state = self.channel.state.lock();
        state.over && state.ended.is_empty()
    }

    fn next_until(&mut self, deadline: Option<Timestamp>) -> Option<Ended<O>> {
        let parker = Parker::new();
        loop {
            if let Poll::Ready(next) = self.poll(parker.waker()) {
                return next;
            }
            if !self.channel.clock.park_until(&parker, deadline) {
                return self.try_next();
            }
        }
    }

    fn poll(&self, waker: Waker) -> Poll<Option<Ended<O>>> {
        let mut state = self.channel.state.lock();
        let next = state.ended.pop_front();
        if next.is_some() || state.over {
            drop(state);
            drop(waker);
            return Poll::Ready(next);
        }
        let before = state.waker.replace(waker);
        drop(state);
        drop(before);
        Poll::Pending
    }
}

impl<O> Stream for Outcomes<O> {
    type Item = Ended<O>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Ended<O>>> {
        let waker = cx.waker().clone();
        self.poll(waker)
    }
}

impl<O> Drop for Outcomes<O> {
    fn drop(&mut self) {
        let left = {
            let mut state = self.channel.state.lock();
            state.abandoned = true;
            (std::mem::take(&mut state.ended), state.waker.take())
        };
        drop(left);
    }
}

impl<O> fmt::Debug for Outcomes<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.channel.state.lock();
        f.debug_struct("Outcomes")
            .field("held", &state.ended.len())
            .field("capacity", &self.channel.capacity)
            .field("missed", &state.missed)
            .field("over", &state.over)
            .finish_non_exhaustive()
    }
}
