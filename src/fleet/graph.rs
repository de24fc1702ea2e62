//! Which tasks wait for which others.
//!
//! Rules that hold here:
//!
//! 1. A task can wait only for tasks that were accepted before it, or that stand before it in its own batch.
//!    So nothing waits for itself, over however many others: a cycle cannot be made.
//! 2. A task is held from the step that reserves its place until its fate is decided: all that it waits for
//!    has ended, or something has failed and it asked to fail with it. It is decided once.
//! 3. An edge goes when its dependency ends or its dependant is decided or forgotten, so there are never
//!    more edges than held tasks ask for.

use std::collections::{BTreeSet, HashMap};

use super::id::TaskId;
use super::task::OutcomeKind;

/// What becomes of a task when one that it waits for does not complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IfDependencyFails {
    /// It fails as well.
    #[default]
    Fail,
    /// It goes on as if the other one had completed.
    Release,
}

/// What was decided about a task that was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// All that it waited for has ended.
    Run,
    /// This one did not complete.
    Fail { dependency: TaskId, outcome: OutcomeKind },
}

#[derive(Debug)]
struct Held {
    dependencies: Vec<TaskId>,
    unmet: usize,
    if_fails: IfDependencyFails,
    /// Whether it is in the table of tasks.
    parked: bool,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// Dependency and dependant.
    edges: BTreeSet<(TaskId, TaskId)>,
    held: HashMap<TaskId, Held>,
    parked: usize,
    /// The tasks that fail as soon as they are in the table.
    doomed: HashMap<TaskId, Fate>,
}

impl Graph {
    /// Holds a task until so many others have ended. Those are live, each is named once.
    pub(super) fn hold(
        &mut self,
        task: TaskId,
        dependencies: Vec<TaskId>,
        if_fails: IfDependencyFails,
    ) {
        self.edges.extend(dependencies.iter().map(|dependency| (*dependency, task)));
        let unmet = dependencies.len();
        self.held.insert(task, Held { dependencies, unmet, if_fails, parked: false });
    }

    /// A task that is held has come into the table; whether it is held.
    pub(super) fn park(&mut self, task: TaskId) -> bool {
        let Some(held) = self.held.get_mut(&task) else { return false };
        held.parked = true;
        self.parked += 1;
        true
    }

    /// How many tasks of the table are held.
    pub(super) const fn parked(&self) -> usize {
        self.parked
    }

    /// Those tasks.
    pub(super) fn all_parked(&self) -> Vec<TaskId> {
        self.parked_ids().collect()
    }

    pub(super) fn parked_ids(&self) -> impl Iterator<Item = TaskId> {
        self.held.iter().filter(|(_, held)| held.parked).map(|(task, _)| *task)
    }

    /// Keeps a fate for a task that is not in the table yet.
    pub(super) fn doom(&mut self, task: TaskId, fate: Fate) {
        self.doomed.insert(task, fate);
    }

    /// What was kept for a task.
    pub(super) fn take_doom(&mut self, task: TaskId) -> Option<Fate> {
        self.doomed.remove(&task)
    }

    /// A task is held no more, and waits for nothing.
    pub(super) fn forget(&mut self, task: TaskId) {
        if let Some(held) = self.held.remove(&task) {
            self.parked -= usize::from(held.parked);
            for dependency in held.dependencies {
                self.edges.remove(&(dependency, task));
            }
        }
        self.doomed.remove(&task);
    }

    /// Whether any task waits for another.
    pub(super) fn has_edges(&self) -> bool {
        !self.edges.is_empty()
    }

    /// A task has ended; what that decides about others, in the order of their ids.
    pub(super) fn ended(
        &mut self,
        dependency: TaskId,
        outcome: OutcomeKind,
    ) -> Vec<(TaskId, Fate)> {
        if self.edges.is_empty() {
            return Vec::new();
        }
        let from = (dependency, TaskId::new(0));
        let to = (dependency, TaskId::new(u64::MAX));
        let waiting: Vec<_> = self.edges.range(from..=to).map(|(_, task)| *task).collect();
        let mut fates = Vec::new();
        for task in waiting {
            self.edges.remove(&(dependency, task));
            let held = self.held.get_mut(&task).expect("rule 3");
            held.unmet -= 1;
            let failed = outcome != OutcomeKind::Completed;
            if failed && held.if_fails == IfDependencyFails::Fail {
                fates.push((task, Fate::Fail { dependency, outcome }));
            } else if held.unmet == 0 {
                fates.push((task, Fate::Run));
            } else {
                continue;
            }
            self.forget(task);
        }
        fates
    }

    #[cfg(test)]
    fn validate(&self) {
        for (_, task) in &self.edges {
            assert!(self.held.contains_key(task), "rule 3");
        }
        for (task, held) in &self.held {
            let edges = self.edges.iter().filter(|(_, waiting)| waiting == task).count();
            assert_eq!(edges, held.unmet, "rule 3");
            assert!(held.unmet > 0, "rule 2");
        }
        assert_eq!(self.held.values().filter(|held| held.parked).count(), self.parked);
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use std::collections::BTreeMap;
    use std::collections::btree_map::Entry;

    use super::*;
    use proptest::prelude::*;

    const fn id(number: u64) -> TaskId {
        TaskId::new(number)
    }

    const FAILED: OutcomeKind = OutcomeKind::Failed;

    #[test]
    fn a_task_is_decided_when_the_last_it_waits_for_has_completed() {
        let mut graph = Graph::default();
        graph.hold(id(3), vec![id(1), id(2)], IfDependencyFails::Fail);
        assert_eq!(graph.ended(id(9), FAILED), []);
        assert_eq!(graph.ended(id(1), OutcomeKind::Completed), []);
        assert!(graph.park(id(3)));
        assert_eq!(graph.all_parked(), [id(3)]);
        assert_eq!(graph.ended(id(2), OutcomeKind::Completed), [(id(3), Fate::Run)]);
        assert_eq!((graph.park(id(3)), graph.parked()), (false, 0));
        graph.validate();
    }

    #[test]
    fn a_failed_dependency_fails_or_releases_as_asked() {
        let mut graph = Graph::default();
        graph.hold(id(3), vec![id(1), id(2)], IfDependencyFails::Fail);
        graph.hold(id(4), vec![id(1)], IfDependencyFails::Release);
        let fate = Fate::Fail { dependency: id(1), outcome: FAILED };
        assert_eq!(graph.ended(id(1), FAILED), [(id(3), fate), (id(4), Fate::Run)]);
        graph.validate();
        assert!(graph.edges.is_empty(), "nobody waits for the second one any more");
        assert_eq!(graph.ended(id(2), FAILED), []);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Hold { task: u64, on: BTreeSet<u64>, if_fails: IfDependencyFails },
        End { task: u64, completed: bool },
        Forget { task: u64 },
    }

    fn steps() -> impl Strategy<Value = Step> {
        let if_fails = prop_oneof![Just(IfDependencyFails::Fail), Just(IfDependencyFails::Release)];
        prop_oneof![
            3 => (10..30_u64, proptest::collection::btree_set(0..10_u64, 1..5), if_fails)
                .prop_map(|(task, on, if_fails)| Step::Hold { task, on, if_fails }),
            4 => (0..10_u64, any::<bool>()).prop_map(|(task, completed)| Step::End { task, completed }),
            1 => (10..30_u64).prop_map(|task| Step::Forget { task }),
        ]
    }

    proptest! {
        /// Against a model that keeps, for each held task, the set that it waits for.
        #[test]
        fn every_held_task_is_decided_once_and_rightly(
            script in proptest::collection::vec(steps(), 1..80),
        ) {
            let mut graph = Graph::default();
            let mut model: BTreeMap<u64, (BTreeSet<u64>, IfDependencyFails)> = BTreeMap::new();
            let ids = |set: &BTreeSet<u64>| set.iter().copied().map(id).collect::<Vec<_>>();
            for step in script {
                match step {
                    Step::Hold { task, on, if_fails } => {
                        if let Entry::Vacant(entry) = model.entry(task) {
                            graph.hold(id(task), ids(&on), if_fails);
                            if task % 2 == 0 {
                                prop_assert!(graph.park(id(task)));
                            }
                            entry.insert((on, if_fails));
                        }
                    }
                    Step::Forget { task } => {
                        model.remove(&task);
                        graph.forget(id(task));
                    }
                    Step::End { task: dependency, completed } => {
                        let outcome = if completed { OutcomeKind::Completed } else { FAILED };
                        let mut expected = Vec::new();
                        for (task, (on, if_fails)) in &mut model {
                            if on.remove(&dependency) {
                                if !completed && *if_fails == IfDependencyFails::Fail {
                                    let dependency = id(dependency);
                                    expected.push((id(*task), Fate::Fail { dependency, outcome }));
                                } else if on.is_empty() {
                                    expected.push((id(*task), Fate::Run));
                                }
                            }
                        }
                        prop_assert_eq!(graph.ended(id(dependency), outcome), expected.clone());
                        for (task, _) in expected {
                            model.remove(&task.get());
                        }
                    }
                }
                graph.validate();
                let held: BTreeSet<_> = graph.held.keys().map(|task| task.get()).collect();
                prop_assert_eq!(held, model.keys().copied().collect());
            }
        }
    }
}
