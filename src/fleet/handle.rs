//! The submitter's end of a task.
//!
//! Rules that hold here:
//!
//! 1. A cell is filled once, under the fleet's lock, so that the outcome and the counters become
//!    visible together. The cell's own lock is taken inside the fleet's and never the other way.
//! 2. Whoever registers a waker looks for the outcome under the same lock, so no wake-up is lost.
//! 3. The outcome is written while `ended` is not set, by the one who sets it; it is read by whoever has seen
//!    that set, and never changes again.
//! 4. A cell knows its fleet until it is filled, when there is nothing more to ask of that. Then the reference
//!    goes back to the fleet, for the next task: it costs as much as a lock to count one.

#![expect(unsafe_code, reason = "an outcome that is there is read without a lock")]

use std::fmt;
use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::id::TaskId;
use super::log::LogPosition;
use super::progress::Progress;
use super::task::{Outcome, OutcomeKind, TaskErrorKind};
use super::wakers::WakerSet;
use crate::clock::{Clock, Timestamp};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Brief, Parker, Shared, UnsafeCell, site, watch};

/// Where the outcome of one task appears.
pub(super) struct OutcomeCell<O> {
    state: Brief<CellState>,
    /// Whether the outcome is there (rule 3).
    ended: AtomicBool,
    outcome: UnsafeCell<Option<Recorded<O>>>,
    task: TaskId,
    clock: Clock,
}

/// An outcome, and where the log recorded it.
type Recorded<O> = (Arc<Outcome<O>>, Option<LogPosition>);

// SAFETY: the outcome is shared as by a lock for many readers (rule 3): it is written by one thread and read by
// others, which clone the `Arc` and read through it, so it has to be `Send` and `Sync`; the rest is both.
unsafe impl<O: Send + Sync> Sync for OutcomeCell<O> {}

struct CellState {
    /// Made when somebody waits: most outcomes are fetched once they are there.
    wakers: Option<Box<WakerSet>>,
    /// Rule 4.
    fleet: Option<Weak<dyn Cancels>>,
}

impl<O> OutcomeCell<O> {
    pub(super) fn new(task: TaskId, clock: Clock, fleet: Weak<dyn Cancels>) -> Self {
        let state = Brief::new(CellState { wakers: None, fleet: Some(fleet) });
        let (ended, outcome) = (AtomicBool::new(false), UnsafeCell::new(None));
        Self { state, ended, outcome, task, clock }
    }

    /// Fills it; what it knew its fleet by (rule 4).
    pub(super) fn fill(
        &self,
        outcome: Arc<Outcome<O>>,
        position: Option<LogPosition>,
        wakes: &mut Vec<Waker>,
    ) -> Option<Weak<dyn Cancels>> {
        let mut state = self.state.lock();
        // Rule 1. Relaxed: it is set under this lock alone.
        let filled = self.ended.load(Ordering::Relaxed);
        assert!(!filled, "rule 1: a cell is filled once");
        self.outcome.with_mut(|place| {
            // SAFETY: `ended` is not set, so nobody reads it, and this thread alone writes it, as it holds the
            // lock (rule 3).
            unsafe { *place = Some((outcome, position)) };
        });
        // Ordering: Release, pairs with the Acquire of `recorded`: who sees it set sees the outcome.
        self.ended.store(true, site("handle.ended", Ordering::Release));
        if let Some(wakers) = &mut state.wakers {
            wakers.take_into(wakes);
        }
        state.fleet.take()
    }

    /// The outcome, if it is there.
    #[inline]
    fn recorded<R>(&self, read: impl FnOnce(&Recorded<O>) -> R) -> Option<R> {
        // Ordering: Acquire, pairs with the Release of `fill`.
        if !self.ended.load(Ordering::Acquire) {
            return None;
        }
        self.outcome.with(|place| {
            // SAFETY: `ended` is set, so it was written, and is not written again (rule 3).
            let outcome = unsafe { &*place };
            outcome.as_ref().map(read)
        })
    }

    /// Its fleet, until it is filled.
    fn fleet(&self) -> Option<Arc<dyn Cancels>> {
        let fleet = self.state.lock().fleet.clone();
        fleet?.upgrade()
    }

    /// Watches for the outcome for a moment. A thread that waits for the tasks that it sent, one after the
    /// other, would else be woken for each.
    fn watch(&self) {
        watch(|| self.ended.load(Ordering::Relaxed));
    }

    /// How the task ended, if it has.
    pub(super) fn kind(&self) -> Option<OutcomeKind> {
        self.recorded(|(outcome, _)| outcome.kind())
    }

    /// Tells cells apart while they live.
    pub(super) const fn address(&self) -> *const () {
        std::ptr::from_ref(self).cast()
    }

    /// Whether whoever comes with the key of this task is to be given it: not if it was never done.
    pub(super) fn keeps_its_key(&self) -> bool {
        let keeps = self.recorded(|(outcome, _)| match &**outcome {
            Outcome::Completed(_) => true,
            Outcome::Failed(error) => error.kind() != TaskErrorKind::DependencyFailed,
            Outcome::Returned(_) | Outcome::Cancelled => false,
        });
        keeps.unwrap_or(true)
    }

    pub(super) fn outcome(&self) -> Option<Arc<Outcome<O>>> {
        self.recorded(|(outcome, _)| Arc::clone(outcome))
    }

    fn poll(&self, key: &mut Option<u64>, waker: Waker) -> Poll<Arc<Outcome<O>>> {
        let mut state = self.state.lock();
        if let Some(outcome) = self.outcome() {
            drop(state);
            return Poll::Ready(outcome);
        }
        let wakers = state.wakers.get_or_insert_default();
        let key = *key.get_or_insert_with(|| wakers.key());
        let replaced = wakers.register(key, waker);
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    fn forget(&self, key: Option<u64>) {
        if let Some(key) = key {
            let waker = self.state.lock().wakers.as_mut().and_then(|wakers| wakers.remove(key));
            drop(waker);
        }
    }
}

/// What a task that waits for another one asks of it.
pub(crate) trait Ends: Send + Sync {
    /// How it ended, if it has. Called under the fleet's lock.
    fn ended(&self) -> Option<OutcomeKind>;
    /// Tells cells apart.
    fn address(&self) -> *const ();
    /// Whether it is about whichever task has the id, and not about the one of a cell.
    fn is_by_id(&self) -> bool {
        false
    }
}

/// A task of this fleet, as one that waits for it sees it.
pub(super) struct Follows<O>(Shared<OutcomeCell<O>>);

impl<O: Send + Sync + 'static> Follows<O> {
    pub(super) fn of(cell: &Shared<OutcomeCell<O>>) -> Arc<dyn Ends> {
        Arc::new(Self(cell.clone()))
    }
}

impl<O: Send + Sync> Ends for Follows<O> {
    fn ended(&self) -> Option<OutcomeKind> {
        self.0.kind()
    }

    fn address(&self) -> *const () {
        self.0.address()
    }
}

/// What a handle asks of the fleet that has its task.
pub(super) trait Cancels: Send + Sync {
    /// The cell tells tasks apart that had the same id, one after the other.
    fn cancel(&self, task: TaskId, cell: *const ()) -> bool;
    fn progress(&self, task: TaskId, cell: *const ()) -> Option<Progress>;
}

/// A fleet that is gone, for cells without one.
#[cfg(test)]
pub(super) struct Nobody;

#[cfg(test)]
impl Cancels for Nobody {
    fn cancel(&self, _: TaskId, _: *const ()) -> bool {
        false
    }

    fn progress(&self, _: TaskId, _: *const ()) -> Option<Progress> {
        None
    }
}

/// Follows one accepted task to its outcome.
///
/// It waits as a thread ([`wait`](Self::wait)) or as a future, on any runtime. Dropping it changes
/// nothing for the task. Clones follow the same task.
#[must_use = "a task's outcome is told here; drop the handle explicitly if nobody wants to know"]
pub struct TaskHandle<O> {
    cell: Shared<OutcomeCell<O>>,
    /// Under which its waker is registered. Two words are moved in registers.
    key: Option<NonZeroU64>,
}

impl<O> TaskHandle<O> {
    pub(super) const fn new(cell: Shared<OutcomeCell<O>>) -> Self {
        Self { cell, key: None }
    }

    /// Which task.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.cell.task
    }

    /// Where others look whether it has ended.
    pub(super) fn ends(&self) -> Arc<dyn Ends>
    where
        O: Send + Sync + 'static,
    {
        Follows::of(&self.cell)
    }

    /// Waits until the task has ended.
    ///
    /// It waits for as long as that takes; on a worker thread of the fleet it may wait for ever.
    #[must_use]
    pub fn wait(&self) -> Arc<Outcome<O>> {
        loop {
            if let Some(outcome) = self.wait_until(None) {
                return outcome;
            }
        }
    }

    /// Waits until the task has ended, for so long at most.
    #[must_use]
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Arc<Outcome<O>>> {
        let deadline = self.cell.clock.now() + timeout;
        self.wait_until(Some(deadline))
    }

    fn wait_until(&self, deadline: Option<Timestamp>) -> Option<Arc<Outcome<O>>> {
        if deadline.is_none() {
            self.cell.watch();
        }
        if let Some(outcome) = self.try_outcome() {
            return Some(outcome);
        }
        let parker = Parker::new();
        let mut key = None;
        loop {
            if let Poll::Ready(outcome) = self.cell.poll(&mut key, parker.waker()) {
                return Some(outcome);
            }
            if !self.cell.clock.park_until(&parker, deadline) {
                self.cell.forget(key);
                return self.try_outcome();
            }
        }
    }

    /// The outcome, if the task has ended. Never waits.
    #[must_use]
    pub fn try_outcome(&self) -> Option<Arc<Outcome<O>>> {
        self.cell.outcome()
    }

    /// Where the log recorded the outcome; `None` before that, and for a log without positions.
    #[must_use]
    pub fn log_position(&self) -> Option<LogPosition> {
        self.cell.recorded(|(_, position)| *position).flatten()
    }

    /// What the attempt that runs now has reported last; `None` if it has reported nothing, or none runs.
    ///
    /// O(1), under the fleet's lock.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        self.cell.fleet()?.progress(self.id(), self.cell.address())
    }

    /// Asks for the task not to be done; whether that was in time to matter.
    ///
    /// A queued task ends as cancelled before this returns. A running one is told
    /// ([`TaskContext::is_cancelled`](super::TaskContext::is_cancelled)) and not run again: it ends as
    /// cancelled if its attempt fails or its agent is killed, and as completed if the handler finishes
    /// the work all the same. `false` means that its outcome stood already.
    pub fn cancel(&self) -> bool {
        self.cell.fleet().is_some_and(|fleet| fleet.cancel(self.id(), self.cell.address()))
    }
}

impl<O> Clone for TaskHandle<O> {
    fn clone(&self) -> Self {
        Self::new(self.cell.clone())
    }
}

impl<O> Future for TaskHandle<O> {
    type Output = Arc<Outcome<O>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut key = self.key.map(NonZeroU64::get);
        let poll = self.cell.poll(&mut key, cx.waker().clone());
        // Keys begin with one.
        self.key = key.and_then(NonZeroU64::new);
        poll
    }
}

impl<O> Drop for TaskHandle<O> {
    fn drop(&mut self) {
        self.cell.forget(self.key.take().map(NonZeroU64::get));
    }
}

impl<O> fmt::Debug for TaskHandle<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = self.try_outcome().map(|outcome| outcome.kind());
        f.debug_struct("TaskHandle").field("id", &self.id()).field("outcome", &ended).finish()
    }
}

#[cfg(all(test, phalanx_loom))]
mod loom_tests {
    use super::*;
    use crate::sync::{explore, thread, weakened};

    /// Two look without the lock while one fills the cell.
    fn fill_against_looks() {
        let (cell, second) =
            Shared::pair(OutcomeCell::new(TaskId::new(1), Clock::real(), Weak::<Nobody>::new()));
        let third = cell.clone();
        let look = |cell: &OutcomeCell<u32>| {
            let outcome = cell.outcome();
            assert!(outcome.is_none_or(|outcome| *outcome == Outcome::Completed(1)));
        };
        let other = thread::spawn(move || look(&second));
        let filler = thread::spawn(move || {
            third.fill(Arc::new(Outcome::Completed(1)), None, &mut Vec::new());
        });
        look(&cell);
        other.join().expect("it only looks");
        filler.join().expect("it is filled once");
        assert_eq!(cell.kind(), Some(OutcomeKind::Completed));
    }

    #[test]
    fn loom_an_outcome_that_is_seen_is_whole() {
        explore(3, fill_against_looks);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn loom_twin_an_outcome_that_is_not_released_is_read_as_it_is_written() {
        weakened("handle.ended", || explore(3, fill_against_looks));
    }
}
