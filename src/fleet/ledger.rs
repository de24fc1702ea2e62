//! What a fleet keeps of tasks beside the tasks themselves, and how much of it.

use std::collections::HashMap;
use std::fmt;

use super::Fleet;
use super::builder::FleetBuilder;
use super::drain::Overdue;
use super::dues::Dues;
use super::graph::Graph;
use super::groups::Groups;
use super::handle::{OutcomeCell, TaskHandle};
use super::history::{History, Keys, Known};
use super::id::TaskId;
use super::leaving::Leaving;
use super::stream::Streams;
use super::witness::Witnesses;
use crate::sync::Shared;

const DEFAULT_HISTORY: usize = 0;
const DEFAULT_REMEMBERED_KEYS: usize = 1024;

/// What the host asked for; part of the builder.
#[derive(Clone, Copy)]
pub(super) struct Keeping {
    history: usize,
    remembered_keys: usize,
}

impl Default for Keeping {
    fn default() -> Self {
        Self { history: DEFAULT_HISTORY, remembered_keys: DEFAULT_REMEMBERED_KEYS }
    }
}

impl fmt::Debug for Keeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeping")
            .field("history", &self.history)
            .field("remembered_keys", &self.remembered_keys)
            .finish()
    }
}

/// See the file's head. It is part of the state, under its lock.
pub(super) struct Ledger<O> {
    pub(super) history: History<O>,
    pub(super) keys: Keys<O>,
    pub(super) graph: Graph,
    pub(super) streams: Streams<O>,
    /// What the tasks that have not ended hold of budgets.
    pub(super) dues: HashMap<TaskId, Dues>,
    /// Who waits for room in the budgets of groups.
    pub(super) groups: Groups,
    /// Who is told of what ends.
    pub(super) witnesses: Witnesses,
    /// Which agents begin nothing more.
    pub(super) overdue: Overdue,
    /// Which agents scaling takes away as their leases end.
    pub(super) leaving: Leaving,
}

impl<O> Ledger<O> {
    pub(super) fn new(keeping: Keeping) -> Self {
        Self {
            history: History::new(keeping.history),
            keys: Keys::new(keeping.remembered_keys),
            graph: Graph::default(),
            streams: Streams::none(),
            dues: HashMap::new(),
            groups: Groups::default(),
            witnesses: Witnesses::default(),
            overdue: Overdue::default(),
            leaving: Leaving::default(),
        }
    }
}

/// What was forgotten, to be dropped outside the lock: it may hold the last of an output.
pub(super) struct Forgotten<O> {
    _outcomes: [Option<Shared<OutcomeCell<O>>>; 2],
    _key: Option<Known<O>>,
}

impl<O> Ledger<O> {
    /// A task has ended, and its cell is filled. What was forgotten for it, if anything may have been.
    pub(super) fn settled<T>(
        &mut self,
        id: TaskId,
        task: &super::Task<T>,
        cell: &Shared<OutcomeCell<O>>,
    ) -> Option<Forgotten<O>> {
        let key = task.options.as_ref().and_then(|options| options.key);
        if key.is_none() && !self.history.is_kept() {
            return None;
        }
        Some(Forgotten {
            _outcomes: self.history.push(id, cell),
            _key: key.and_then(|key| {
                if cell.keeps_its_key() { self.keys.ended(key) } else { self.keys.withdraw(key) }
            }),
        })
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> FleetBuilder<T, O> {
    /// Sets how many ended tasks [`Fleet::task`] still finds. Default: 0. Costs a map entry and the outcome,
    /// output included, for each; the oldest goes first.
    pub fn history(mut self, tasks: usize) -> Self {
        self.keeping.history = tasks;
        self
    }

    /// Sets for how many ended tasks the [key](super::Task::idempotency_key) is still known. Default: 1024.
    /// Costs a map entry and the outcome, output included, for each task that had a key; the one that ended
    /// first goes first. With 0 a key is known until its task has ended.
    pub fn remembered_keys(mut self, keys: usize) -> Self {
        self.keeping.remembered_keys = keys;
        self
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Fleet<T, O> {
    /// Follows a task by its id: one that was accepted and has not ended, or one of those that ended last
    /// ([`FleetBuilder::history`]). O(1), under the lock.
    #[must_use]
    pub fn task(&self, id: TaskId) -> Option<TaskHandle<O>> {
        let inner = self.inner();
        let cell = {
            let state = inner.state.lock();
            let live = state.tasks.get(&id).map(|record| &record.cell);
            live.or_else(|| state.ledger.history.get(id)).cloned()
        };
        cell.map(|cell| TaskHandle::new(cell))
    }
}
