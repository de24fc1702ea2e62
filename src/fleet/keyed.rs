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

use super::dependencies::{Alias, Aliases};
use super::handle::{OutcomeCell, TaskHandle};
use super::history::{IdempotencyKey, Known};
use super::id::TaskId;
use super::inner::Inner;
use super::submit::{Patience, Refused};
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

impl<T> Task<T> {
    pub(super) fn key(&self) -> Option<IdempotencyKey> {
        self.options.as_ref()?.key
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Inner<T, O> {
    pub(super) fn submit_keyed(
        &self,
        mut tasks: Vec<Task<T>>,
        patience: Patience,
    ) -> Result<Vec<TaskHandle<O>>, SubmitError<Vec<Task<T>>>> {
        loop {
            let standings = match self.standings(&tasks, patience) {
                Ok(standings) => standings,
                Err(KeyPending) => {
                    self.state.lock().counts.tasks_refused += tasks.len() as u64;
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
            let refused = match self.accept(&mut new, &aliases, patience) {
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
                    self.state.lock().counts.tasks_refused += tasks.len() as u64;
                    return Err(error.map(|()| tasks));
                }
            }
        }
    }

    /// Waits until the log has answered about every key among these; what is known of each task then.
    fn standings(
        &self,
        tasks: &[Task<T>],
        patience: Patience,
    ) -> Result<Vec<Standing<O>>, KeyPending> {
        let parker = Parker::new();
        let mut turn = None;
        let mut late = matches!(patience, Patience::None);
        loop {
            {
                let mut guard = self.state.lock();
                let state = &mut *guard;
                let keys = &state.ledger.keys;
                let pending = |task: &Task<T>| {
                    task.key().is_some_and(|key| matches!(keys.get(key), Some(Known::Pending)))
                };
                if !tasks.iter().any(pending) {
                    let mut firsts = HashMap::new();
                    let mut new = 0;
                    let standings = tasks.iter().map(|task| {
                        let key = task.key();
                        if let Some(first) = key.and_then(|key| firsts.get(&key)) {
                            return Standing::Repeats(*first);
                        }
                        match key.and_then(|key| keys.get(key)) {
                            Some(Known::Task(id, cell)) => Standing::Known(*id, cell.clone()),
                            _ => {
                                firsts.extend(key.map(|key| (key, new)));
                                new += 1;
                                Standing::New
                            }
                        }
                    });
                    let standings = standings.collect();
                    if let Some(turn) = turn {
                        state.progress.remove(turn);
                    }
                    return Ok(standings);
                }
                if late {
                    if let Some(turn) = turn {
                        state.progress.remove(turn);
                    }
                    return Err(KeyPending);
                }
                let turn = *turn.get_or_insert_with(|| state.progress.key());
                state.progress.register(turn, parker.waker());
            }
            let Patience::Until(deadline) = patience else { continue };
            late = !self.clock.park_until(&parker, deadline);
        }
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
