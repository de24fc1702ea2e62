//! What a record of a task keeps beside its payload, its request and its attempts, and how a task is made of
//! it again in a later process.
//!
//! Rules that hold here:
//!
//! 1. What a task asks for is in its record: no task comes back that asks for less than it did.
//! 2. Agents do not outlive their process. A task that was for one comes back for none, and is refused until
//!    somebody says where it may run.

use std::sync::Arc;
use std::time::Duration;

use super::backoff::Backoff;
use super::budget::Unit;
use super::dependencies::Dependency;
use super::graph::IfDependencyFails;
use super::handle::Ends;
use super::history::IdempotencyKey;
use super::id::{AgentId, GroupKey, TaskId};
use super::task::{OutcomeKind, Task};

/// See the file's head.
#[derive(Clone, Debug)]
pub(crate) struct TaskRecord {
    pub(crate) agent: Option<AgentId>,
    pub(crate) backoff: Backoff,
    pub(crate) timeout: Option<Duration>,
    pub(crate) key: Option<IdempotencyKey>,
    /// Each with how it ended, where that is known to the task.
    pub(crate) dependencies: Vec<(TaskId, Option<OutcomeKind>)>,
    pub(crate) if_dependency_fails: IfDependencyFails,
    pub(crate) group: Option<GroupKey>,
    pub(crate) costs: Vec<(Unit, u64)>,
}

impl<T> Task<T> {
    /// What is to be recorded of it.
    pub(crate) fn record(&self) -> TaskRecord {
        let options = self.options();
        TaskRecord {
            agent: options.agent,
            backoff: options.backoff,
            timeout: options.timeout,
            key: options.key,
            dependencies: options.dependencies.iter().map(Dependency::known).collect(),
            if_dependency_fails: options.if_dependency_fails,
            group: options.request.named_group(),
            costs: options.costs.clone(),
        }
    }

    /// Waits for a task that a record names; `end` knows whether it has ended.
    pub(crate) fn after_recorded(self, other: TaskId, end: Arc<dyn Ends>) -> Self {
        self.set(|options| options.dependencies.push(Dependency::recorded(other, end)))
    }

    /// Was for an agent of this name in an earlier process (rule 2).
    pub(crate) fn with_lost_agent(self, name: &str) -> Self {
        self.set(|options| options.lost_agent = Some(Arc::from(name)))
    }

    /// The name of the agent that it was for alone in an earlier process, if it was; empty if that was gone
    /// already.
    ///
    /// Such a task is refused with [`SubmitError::NoAgent`](super::SubmitError::NoAgent) until it is
    /// [for another](Self::to) or [for any that fits](Self::to_any).
    #[must_use]
    pub fn lost_agent(&self) -> Option<&str> {
        self.options().lost_agent.as_deref()
    }

    /// Is for any agent that fits, whichever it was for.
    #[must_use]
    pub fn to_any(self) -> Self {
        self.set(|options| {
            options.agent = None;
            options.lost_agent = None;
        })
    }
}
