//! How tasks with an idempotency key come in: those that are known already get the handle of the first.
//!
//! Rules that hold here:
//!
//! 1. Which keys are new is decided when room is reserved, in that step; so of any number of submitters with
//!    one key, one submits and the others get its handle.
//! 2. While budgets and the log are asked, the others wait, as far as they would wait for room: a handle is given out only for a task that was accepted. If
//!    one of them refuses, the next of them submits its own.
//! 3. Of a batch, the new tasks are accepted together or not at all; whatever happens, a batch that is
//!    refused is handed back whole.

use std::collections::HashMap;
use std::task::Waker;

use super::dependencies::{Alias, Aliases};
use super::handle::{OutcomeCell, TaskHandle};
use super::history::{IdempotencyKey, Keys, Known};
use super::id::TaskId;
use super::inner::Inner;
use super::submit::{Patience, Places, Refused};
use super::task::{SubmitError, Task};
use crate::sync::{Parker, Shared};

/// A key is being accepted, and whoever came with it waits no longer.
struct KeyPending;

/// Where a task of a batch stands.
enum Standing<O> {
    New,
    /// As the one at this place among the new ones.
    Repeats(usize),
    Known(TaskId, Shared<OutcomeCell<O>>),
}

/// What the ids of those mean that are not submitted, for the tasks after them in the batch.
fn aliases<T, O>(tasks: &[Task<T>], standings: &[Standing<O>]) -> Aliases<O> {
    let alias = |(task, standing): (&Task<T>, &Standing<O>)| {
        let alias = match standing {
            Standing::New => return None,
            Standing::Repeats(first) => Alias::New(*first),
            Standing::Known(id, cell) => Alias::Known(*id, cell.clone()),
        };
        Some((task.id()?, alias))
    };
    tasks.iter().zip(standings).filter_map(alias).collect()
}

impl<O> Keys<O> {
    /// What is known of each task, none of whose keys is being accepted.
    fn standings<T>(&self, tasks: &[Task<T>]) -> Vec<Standing<O>> {
        let (mut firsts, mut new) = (HashMap::new(), 0);
        let standing = |task: &Task<T>| {
            let key = task.key();
            if let Some(first) = key.and_then(|key| firsts.get(&key)) {
                return Standing::Repeats(*first);
            }
            match key.and_then(|key| self.get(key)) {
                Some(Known::Task(id, cell)) => Standing::Known(*id, cell.clone()),
                _ => {
                    firsts.extend(key.map(|key| (key, new)));
                    new += 1;
                    Standing::New
                }
            }
        };
        tasks.iter().map(standing).collect()
    }
}

impl<T> Task<T> {
    pub(super) fn key(&self) -> Option<IdempotencyKey> {
        self.options.as_ref()?.key
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Inner<T, O> {
    pub(super) fn submit_keyed(
        &self,
        mut tasks: Vec<Task<T>>,
        mut patience: Patience<'_>,
    ) -> Result<Vec<TaskHandle<O>>, SubmitError<Vec<Task<T>>>> {
        loop {
            let standings = match self.standings(&tasks, &mut patience) {
                Ok(standings) => standings,
                Err(KeyPending) => {
                    self.count_refused(tasks.len(), &patience);
                    return Err(SubmitError::KeyPending(tasks));
                }
            };
            let aliases = aliases(&tasks, &standings);
            let mut new = Vec::new();
            let mut repeated = Vec::new();
            for (task, standing) in tasks.into_iter().zip(&standings) {
                match standing {
                    Standing::New => new.push(task),
                    _ => repeated.push(task),
                }
            }
            let refused = match self.accept(&mut new, &aliases, &mut patience) {
                Ok(named) => {
                    let mut fresh = Vec::with_capacity(new.len());
                    self.enqueue(new, &named, |handle| fresh.push(handle));
                    let handles = self.handles(standings, &fresh);
                    if !repeated.is_empty() {
                        self.state.lock().counts.tasks_repeated += repeated.len() as u64;
                    }
                    repeated.into_iter().for_each(|task| self.discard(task));
                    return Ok(handles);
                }
                Err(refused) => refused,
            };
            // Rule 3: all of them again, in their order.
            let (mut new, mut repeated) = (new.into_iter(), repeated.into_iter());
            let in_order = |standing| match standing {
                Standing::New => new.next(),
                _ => repeated.next(),
            };
            tasks = standings.into_iter().filter_map(in_order).collect();
            match refused {
                Refused::KeyTaken => {}
                Refused::Error(error) => {
                    self.count_refused(tasks.len(), &patience);
                    return Err(error.map(|()| tasks));
                }
            }
        }
    }

    /// Waits until the log has answered about every key among these; what is known of each task then.
    fn standings(
        &self,
        tasks: &[Task<T>],
        patience: &mut Patience<'_>,
    ) -> Result<Vec<Standing<O>>, KeyPending> {
        let deadline = match patience {
            Patience::None => return self.standings_or_place(tasks, &mut None, None),
            Patience::Later(places, waker) => {
                return self.standings_later(tasks, places, waker);
            }
            Patience::Until(deadline) => *deadline,
        };
        let parker = Parker::new();
        let (mut place, mut late) = (None, false);
        loop {
            let waker = (!late).then(|| parker.waker());
            match self.standings_or_place(tasks, &mut place, waker) {
                Err(KeyPending) if place.is_some() => {
                    late = !self.clock.park_until(&parker, deadline);
                }
                result => return result,
            }
        }
    }

    /// What is known of each task, if it is; if not, and there is a waker, it has a place among those who wait
    /// for progress. The waker is this crate's own.
    fn standings_or_place(
        &self,
        tasks: &[Task<T>],
        place: &mut Option<u64>,
        waker: Option<Waker>,
    ) -> Result<Vec<Standing<O>>, KeyPending> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let keys = &state.ledger.keys;
        let pending = |task: &Task<T>| {
            task.key().is_some_and(|key| matches!(keys.get(key), Some(Known::Pending)))
        };
        let is_pending = tasks.iter().any(pending);
        if let (true, Some(waker)) = (is_pending, waker) {
            let key = *place.get_or_insert_with(|| state.progress.key());
            state.progress.register(key, waker);
            return Err(KeyPending);
        }
        let known =
            if is_pending { Err(KeyPending) } else { Ok(state.ledger.keys.standings(tasks)) };
        if let Some(key) = place.take() {
            state.progress.remove(key);
        }
        known
    }

    /// The same for one that comes again. While it waits for keys it keeps no place in the line for room, where it would
    /// hold up others.
    fn standings_later(
        &self,
        tasks: &[Task<T>],
        places: &mut Places,
        waker: &Waker,
    ) -> Result<Vec<Standing<O>>, KeyPending> {
        let standings = self.standings_or_place(tasks, &mut places.key, Some(waker.clone()));
        if standings.is_err() {
            self.leave_line(&mut places.room);
        }
        standings
    }

    fn handles(&self, standings: Vec<Standing<O>>, fresh: &[TaskHandle<O>]) -> Vec<TaskHandle<O>> {
        let mut next = 0;
        let handle = |standing| match standing {
            Standing::New => {
                next += 1;
                fresh[next - 1].clone()
            }
            Standing::Repeats(first) => fresh[first].clone(),
            Standing::Known(_, cell) => TaskHandle::new(cell),
        };
        standings.into_iter().map(handle).collect()
    }
}
