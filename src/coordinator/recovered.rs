//! Tasks that an earlier process accepted durably and gave no outcome: resumed, handed out, or cancelled.
//!
//! Rules that hold here:
//!
//! 1. Each is in the list, or was handed out, or is in the fleet. What the fleet refuses goes back into the list; so
//!    does all that is not submitted, should the one that is unwind. Whoever takes takes the whole list, so what two calls
//!    put back is never mixed.
//! 2. Whatever becomes of the list, its tasks stay in the state until they have an outcome.
//! 3. Those that wait for others come after these.

use super::{Coordinator, Domain};
use crate::fleet::{OutcomeKind, SubmitError, Task, TaskHandle, TaskId};
use crate::state::{Abort, Unacknowledged};
use crate::sync::Mutex;
use crate::{Error, ErrorKind};

/// What became of recovered tasks; from [`Coordinator::resume_recovered`].
#[derive(Debug)]
#[non_exhaustive]
#[must_use = "it says which tasks were refused"]
pub struct Resumed<O> {
    /// Those that run again, in the order of the list.
    pub handles: Vec<TaskHandle<O>>,
    /// Those that the fleet refused, and why. They wait on.
    pub refused: Vec<(TaskId, SubmitError<()>)>,
}

/// The list, while its tasks are submitted: what is left of it goes back with this, whatever happens (rule 1).
struct Taken<'a, T> {
    list: &'a Mutex<Vec<T>>,
    left: std::vec::IntoIter<T>,
    refused: Vec<T>,
}

impl<'a, T> Taken<'a, T> {
    fn all(list: &'a Mutex<Vec<T>>) -> Self {
        let left = std::mem::take(&mut *list.lock()).into_iter();
        Self { list, left, refused: Vec::new() }
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        let mut waiting = std::mem::take(&mut self.refused);
        waiting.extend(&mut self.left);
        let mut list = self.list.lock();
        // Another call may have put back what it was refused.
        waiting.append(&mut list);
        *list = waiting;
    }
}

impl<D: Domain> Coordinator<D> {
    /// Submits all tasks that an earlier process accepted durably and gave no outcome, to be run again.
    ///
    /// Each keeps its id and all that it asked for. One that the fleet refuses waits on, for the next call or
    /// for [`take_recovered`](Self::take_recovered): because no live agent could take it yet
    /// ([`SubmitError::NoAgent`]: spawn the agents first), it was for a single agent, which is
    /// [gone](Task::lost_agent) (the same), the queue is full, or it waits for another that was refused. A task that
    /// began before the crash begins anew, so its handler runs at least once and perhaps twice.
    ///
    /// Like [`Fleet::submit`](crate::fleet::Fleet::submit) for each of them: what was recorded once is not
    /// recorded again.
    ///
    /// ```no_run
    /// # fn f<D: phalanx::coordinator::Domain>(coordinator: &phalanx::coordinator::Coordinator<D>) {
    /// // Once the agents are there.
    /// let resumed = coordinator.resume_recovered();
    /// for (task, why) in &resumed.refused {
    ///     eprintln!("{task} is not running again: {why}");
    /// }
    /// assert_eq!(coordinator.recovered_waiting(), resumed.refused.len());
    /// # }
    /// ```
    pub fn resume_recovered(&self) -> Resumed<D::Output> {
        let mut resumed = Resumed { handles: Vec::new(), refused: Vec::new() };
        let mut taken = Taken::all(&self.inner.recovered);
        for task in taken.left.by_ref() {
            match self.inner.fleet.submit(task) {
                Ok(handle) => resumed.handles.push(handle),
                Err(refused) => {
                    let mut id = None;
                    let why = refused.map(|task| {
                        id = task.id();
                        taken.refused.push(task);
                    });
                    resumed.refused.extend(id.map(|id| (id, why)));
                }
            }
        }
        resumed
    }

    /// How many recovered tasks were neither resumed nor taken; those that another thread is about to resume do not
    /// count. Zero where nothing was recovered.
    #[must_use]
    pub fn recovered_waiting(&self) -> usize {
        self.inner.recovered.lock().len()
    }

    /// Hands out the tasks that an earlier process accepted durably and gave no outcome.
    ///
    /// They come in the order of their ids, those that wait for others after these, and once: a second call
    /// returns none; [`resume_recovered`](Self::resume_recovered) submits all of them instead. Submit one to run it again
    /// (it keeps its id), or end it with [`Coordinator::cancel_recovered`]; one that waits for another that was
    /// neither is refused with [`SubmitError::UnknownDependency`]. One that is dropped stays in the state, and the
    /// next process finds it. One that was for a single agent has [lost it](Task::lost_agent).
    #[must_use]
    pub fn take_recovered(&self) -> Vec<Task<D::Task>> {
        std::mem::take(&mut *self.inner.recovered.lock())
    }

    /// Ends recovered tasks as cancelled, in one durable commit, all or none: nobody will run them.
    ///
    /// One that was submitted again is not recovered any more: cancel it by its handle.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a task without an id, [`ErrorKind::NotFound`] for one that has
    /// ended, [`ErrorKind::Unsupported`] without durable tasks, and those of the state: of these
    /// [`ErrorKind::Poisoned`] may come once the tasks have ended in memory, and whether that survives is open.
    pub fn cancel_recovered(&self, tasks: Vec<Task<D::Task>>) -> Result<(), Error> {
        let Some(records) = &self.inner.records else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "nothing is recovered without durable tasks: build with `durable_tasks`",
            ));
        };
        let ids: Vec<TaskId> = tasks.iter().filter_map(Task::id).collect();
        if ids.len() < tasks.len() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "a recovered task has the id it was accepted under; this one has none",
            ));
        }
        let sequences: Vec<u64> = ids.iter().map(|_| self.inner.history.next_sequence()).collect();
        let mut ended = None;
        let committed = self.inner.state.transaction(|tx| {
            ended = None;
            for (&id, &sequence) in ids.iter().zip(&sequences) {
                let Some(row) = records.end(id, OutcomeKind::Cancelled, tx) else {
                    ended = Some(id);
                    return Err(Abort::new("a task has ended"));
                };
                self.inner.history.cancelled(sequence, id, Some(row), tx);
            }
            Ok(())
        });
        if let Some(id) = ended {
            let message = format!("task {id} has ended: only what has no outcome can be cancelled");
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        // One that took place and was not acknowledged has ended them too.
        if committed.as_ref().err().is_none_or(|error| Unacknowledged::of(error).is_some()) {
            for id in ids {
                self.inner.ends.tell(id, OutcomeKind::Cancelled);
            }
        }
        self.inner.state.wait_durable(committed?.1)
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::Taken;
    use crate::sync::Mutex;

    #[test]
    fn what_a_resume_that_unwinds_has_not_submitted_is_in_the_list_again() {
        let list = Mutex::new(vec![1, 2, 3, 4, 5]);
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let mut taken = Taken::all(&list);
            for task in taken.left.by_ref() {
                match task {
                    1 | 2 => taken.refused.push(task),
                    _ => panic!("the submission of {task} unwinds"),
                }
            }
        }));
        assert!(unwound.is_err());
        assert_eq!(*list.lock(), [1, 2, 4, 5], "all but the one that was lost on the way");
    }
}
