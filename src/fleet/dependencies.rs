//! Tasks that wait for other tasks: what they ask for, and how the fleet holds and releases them.
//!
//! The rules are those of the [graph](super::graph). Whether a dependency has ended is decided under the
//! lock under which outcomes become visible, so none is missed between looking and waiting.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::graph::{Fate, IfDependencyFails};
use super::handle::{Ends, Follows, OutcomeCell, TaskHandle};
use super::id::TaskId;
use super::inner::{After, Inner, Phase, State};
use super::lanes::Mask;
use super::task::{OutcomeKind, SubmitError, Task, TaskError};
use crate::sync::Shared;

/// How many tasks a task may wait for.
pub const MAX_DEPENDENCIES: usize = 1_024;

/// A task that another one waits for.
#[derive(Clone)]
pub(super) struct Dependency {
    id: TaskId,
    /// Where its outcome appears, if it was named by its handle.
    cell: Option<Arc<dyn Ends>>,
}

impl Dependency {
    /// One that a record names.
    pub(super) fn recorded(id: TaskId, end: Arc<dyn Ends>) -> Self {
        Self { id, cell: Some(end) }
    }

    /// Which task, and how it ended if this knows.
    pub(super) fn known(&self) -> (TaskId, Option<OutcomeKind>) {
        (self.id, self.cell.as_ref().and_then(|cell| cell.ended()))
    }

    /// The one that an id of a batch means; `None` if it means itself.
    fn meant<O: Send + Sync + 'static>(
        &self,
        aliases: &Aliases<O>,
        batch: &[(TaskId, Mask)],
    ) -> Option<Self> {
        match aliases.get(&self.id).filter(|_| self.is_by_id())? {
            Alias::New(place) => Some(Self { id: batch[*place].0, cell: None }),
            Alias::Known(id, cell) => Some(Self { id: *id, cell: Some(Follows::of(cell)) }),
        }
    }

    /// Whether whichever live task has this id is the one.
    fn is_by_id(&self) -> bool {
        self.cell.as_ref().is_none_or(|cell| cell.is_by_id())
    }
}

impl fmt::Debug for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl<T> Task<T> {
    /// Waits for another task of the same fleet to end before it is queued. Default: it waits for none.
    ///
    /// The other one may have ended already: its handle knows. While it waits it takes a place in the queue.
    /// A task can wait only for tasks that were accepted before it, so there are no cycles. The most:
    /// [`MAX_DEPENDENCIES`].
    #[must_use]
    pub fn after<O: Send + Sync + 'static>(self, other: &TaskHandle<O>) -> Self {
        let dependency = Dependency { id: other.id(), cell: Some(other.ends()) };
        self.set(|options| options.dependencies.push(dependency))
    }

    /// As [`after`](Self::after), for a task that is known by its id: one that has not ended, is still in the
    /// [history](super::FleetBuilder::history), or stands before it in the same batch under an id of the
    /// caller's own. If that one is known by its [key](Self::idempotency_key), the task of that key is meant.
    #[must_use]
    pub fn after_id(self, other: TaskId) -> Self {
        let dependency = Dependency { id: other, cell: None };
        self.set(|options| options.dependencies.push(dependency))
    }

    /// Sets what becomes of it if one that it waits for ends in any way but completed. Default:
    /// [`IfDependencyFails::Fail`]: it fails with
    /// [`TaskErrorKind::DependencyFailed`](super::TaskErrorKind::DependencyFailed) at once.
    #[must_use]
    pub fn if_dependency_fails(self, then: IfDependencyFails) -> Self {
        self.set(|options| options.if_dependency_fails = then)
    }

    pub(super) fn dependencies(&self) -> &[Dependency] {
        self.options.as_ref().map_or(&[], |options| &options.dependencies)
    }
}

/// Which task an id of a batch means that is not submitted, as its key is known.
pub(super) enum Alias<O> {
    Known(TaskId, Shared<OutcomeCell<O>>),
    /// The one at this place among those that are submitted.
    New(usize),
}

/// By the ids that the caller gave.
pub(super) type Aliases<O> = HashMap<TaskId, Alias<O>>;

/// The dependencies of tasks of a batch as the caller named them, by the tasks' places.
pub(super) type Renamed = Vec<(usize, Vec<Dependency>)>;

/// Has the tasks of a batch name those that they wait for by the ids that these have, for who writes it down.
pub(super) fn rename<T, O: Send + Sync + 'static>(
    tasks: &mut [Task<T>],
    aliases: &Aliases<O>,
    batch: &[(TaskId, Mask)],
) -> Renamed {
    let mut renamed = Vec::new();
    if aliases.is_empty() {
        return renamed;
    }
    for (place, task) in tasks.iter_mut().enumerate() {
        let Some(options) = &mut task.options else { continue };
        let meant = |dependency: &Dependency| dependency.meant(aliases, batch);
        if options.dependencies.iter().all(|dependency| meant(dependency).is_none()) {
            continue;
        }
        let own = |dependency: &Dependency| meant(dependency).unwrap_or_else(|| dependency.clone());
        let dependencies = options.dependencies.iter().map(own).collect();
        renamed.push((place, std::mem::replace(&mut options.dependencies, dependencies)));
    }
    renamed
}

/// Undoes a [`rename`]: who gets tasks back gets what was handed in.
pub(super) fn name_back<T>(tasks: &mut [Task<T>], renamed: Renamed) {
    for (place, dependencies) in renamed {
        if let Some(options) = &mut tasks[place].options {
            options.dependencies = dependencies;
        }
    }
}

/// What is known of a dependency.
enum Standing {
    Live,
    Ended(OutcomeKind),
    Unknown,
}

impl<T, O> State<T, O> {
    fn standing(&self, dependency: &Dependency) -> Standing {
        let ended = |kind: Option<OutcomeKind>| kind.map_or(Standing::Unknown, Standing::Ended);
        let live = self.tasks.get(&dependency.id);
        match (&dependency.cell, live) {
            (Some(cell), _) if cell.ended().is_some() => ended(cell.ended()),
            // The handle may be another fleet's.
            (Some(cell), Some(record))
                if record.cell.address() == cell.address() || cell.is_by_id() =>
            {
                Standing::Live
            }
            (Some(_), _) => Standing::Unknown,
            (None, Some(_)) => Standing::Live,
            (None, None) => {
                ended(self.ledger.history.get(dependency.id).and_then(|cell| cell.kind()))
            }
        }
    }

    /// What is known of a dependency of a task of a batch, and which task is meant; `None` for one that is among
    /// those that are submitted, at the place that is said.
    fn resolve(
        &self,
        dependency: &Dependency,
        aliases: &Aliases<O>,
    ) -> (TaskId, Standing, Option<usize>) {
        let alias = dependency.is_by_id().then(|| aliases.get(&dependency.id)).flatten();
        match alias {
            None => (dependency.id, self.standing(dependency), None),
            Some(Alias::New(place)) => (dependency.id, Standing::Unknown, Some(*place)),
            Some(Alias::Known(id, cell)) => {
                let standing = cell.kind().map_or(Standing::Live, Standing::Ended);
                (*id, standing, None)
            }
        }
    }

    /// Refuses tasks that wait for what is not known.
    pub(super) fn check_dependencies(
        &self,
        tasks: &[Task<T>],
        aliases: &Aliases<O>,
    ) -> Result<(), SubmitError<()>> {
        if tasks.iter().all(|task| task.dependencies().is_empty()) {
            return Ok(());
        }
        let mut before = HashSet::new();
        for (at, task) in tasks.iter().enumerate() {
            if task.dependencies().len() > MAX_DEPENDENCIES {
                return Err(SubmitError::TooManyDependencies(()));
            }
            for dependency in task.dependencies() {
                let (id, standing, place) = self.resolve(dependency, aliases);
                let is_before = match place {
                    Some(place) => place < at,
                    None => dependency.is_by_id() && before.contains(&id),
                };
                if matches!(standing, Standing::Unknown) && !is_before {
                    return Err(SubmitError::UnknownDependency(()));
                }
            }
            before.extend(task.id());
        }
        Ok(())
    }

    /// Holds a task that waits for others, from the step in which its place is reserved.
    pub(super) fn hold(
        &mut self,
        id: TaskId,
        task: &Task<T>,
        batch: &[(TaskId, Mask)],
        aliases: &Aliases<O>,
    ) {
        let Some(options) = task.options.as_ref().filter(|it| !it.dependencies.is_empty()) else {
            return;
        };
        let mut live = Vec::new();
        for dependency in &options.dependencies {
            let (meant, standing, place) = self.resolve(dependency, aliases);
            let meant = place.map_or(meant, |place| batch[place].0);
            match standing {
                Standing::Ended(OutcomeKind::Completed) => {}
                Standing::Ended(outcome) => {
                    if options.if_dependency_fails == IfDependencyFails::Fail {
                        let fate = Fate::Fail { dependency: meant, outcome };
                        return self.ledger.graph.doom(id, fate);
                    }
                }
                // Unknown: it stands before this one in the batch.
                Standing::Live | Standing::Unknown => live.push(meant),
            }
        }
        live.sort_unstable();
        live.dedup();
        if !live.is_empty() {
            self.ledger.graph.hold(id, live, options.if_dependency_fails);
        }
    }

    /// Queues a task that has come into the table, unless it is to wait or cannot be done.
    pub(super) fn queue_or_park(&mut self, id: TaskId, after: &mut After<T, O>) {
        let record = self.tasks.get_mut(&id).expect("the caller found the task");
        if !record.task.dependencies().is_empty() {
            let agent = record.task.agent();
            let has_gone = agent.is_some_and(|agent| !self.pool.lives(agent));
            // Nobody waits for what nobody is to run.
            if has_gone || self.ledger.overdue.bars(agent) {
                return self.give_back(id, after);
            }
            let record = self.tasks.get_mut(&id).expect("it was just found");
            if let Some(fate) = self.ledger.graph.take_doom(id) {
                return self.decide(id, fate, after);
            }
            if self.ledger.graph.park(id) {
                record.phase = Phase::Held;
                return;
            }
        }
        self.line_up(id, after);
    }

    fn decide(&mut self, id: TaskId, fate: Fate, after: &mut After<T, O>) {
        match fate {
            Fate::Run => self.line_up(id, after),
            Fate::Fail { dependency, outcome } => {
                let claim = self.fail(id, TaskError::dependency_failed(dependency, outcome));
                after.claims.push(claim);
                self.wake_for_room(&mut after.wakes);
            }
        }
    }
}

impl<T, O> Inner<T, O> {
    /// A task has ended: releases and fails those that wait for it.
    pub(super) fn release_dependants(
        &self,
        state: &mut State<T, O>,
        id: TaskId,
        outcome: OutcomeKind,
        after: &mut After<T, O>,
    ) {
        if !state.ledger.graph.has_edges() {
            return;
        }
        let fates = state.ledger.graph.ended(id, outcome);
        let any = !fates.is_empty();
        for (task, fate) in fates {
            if state.tasks.contains_key(&task) {
                state.decide(task, fate, after);
            } else if fate != Fate::Run {
                state.ledger.graph.doom(task, fate);
            }
        }
        if any {
            self.notify_workers(state);
        }
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    fn ids(tasks: &[Task<u64>]) -> Vec<Vec<u64>> {
        let ids = |task: &Task<u64>| task.dependencies().iter().map(|one| one.id.get()).collect();
        tasks.iter().map(ids).collect()
    }

    #[test]
    fn tasks_name_those_that_are_meant_until_they_are_named_back() {
        let after =
            |ids: &[u64]| ids.iter().fold(Task::new(0), |task, id| task.after_id(TaskId::new(*id)));
        let mut tasks = [after(&[100]), after(&[100, 3]), after(&[3]), after(&[])];
        let aliases: Aliases<u64> = HashMap::from([(TaskId::new(100), Alias::New(1))]);
        let batch = [(TaskId::new(7), 0), (TaskId::new(8), 0)];
        let renamed = rename(&mut tasks, &aliases, &batch);
        assert_eq!(ids(&tasks), [vec![8], vec![8, 3], vec![3], vec![]]);
        assert_eq!(renamed.len(), 2, "the others name whom they mean");
        name_back(&mut tasks, renamed);
        assert_eq!(ids(&tasks), [vec![100], vec![100, 3], vec![3], vec![]]);
    }
}
