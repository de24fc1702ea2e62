//! The two seams outwards: what records tasks, and what watches.

use std::sync::Arc;
use std::time::Duration;

use super::budget::Warning;
use super::id::{AgentId, Attempt, TaskId};
use super::supervise::Stuck;
use super::supervision::FailureReason;
use super::task::{Outcome, OutcomeKind, ReturnReason, Task, TaskError};
use crate::Error;
use crate::clock::Timestamp;

/// Where in the log an outcome stands. The fleet passes it on and reads nothing into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition(pub u64);

/// Records what the fleet accepts and how it ended, so that a restarted host can go on.
///
/// It is called outside the fleet's locks, from the thread that submits and from the threads that
/// run tasks, several at a time. A panic in it counts as an error.
pub trait TaskLog<T, O>: Send + Sync {
    /// Records that these tasks are accepted: all of them or none.
    ///
    /// It returns once the acceptance is as durable as the log promises; the submitter waits for it.
    /// An id given by the caller ([`Task::with_id`]) may have been accepted before.
    ///
    /// # Errors
    /// Whatever it says, the tasks are handed back and were never accepted.
    fn accept(&self, tasks: &[(TaskId, &Task<T>)]) -> Result<(), Error>;

    /// Records how a task ended, and commits what the attempt did.
    ///
    /// It is called at most once for a task, by the one attempt that won, and before anybody can see
    /// the outcome. A struck attempt never gets here.
    ///
    /// What took place is no error, even where it cannot be made durable any more: a task that is said to have
    /// failed may be done again.
    ///
    /// # Errors
    /// A completed task ends as failed, with [`TaskErrorKind::NotRecorded`](super::TaskErrorKind);
    /// any other outcome stands, and is counted as not recorded.
    fn settle(
        &self,
        task: TaskId,
        attempt: Attempt,
        payload: &Task<T>,
        outcome: &Outcome<O>,
    ) -> Result<Option<LogPosition>, Error>;
}

/// Is told what happens in the fleet.
///
/// It is called outside the fleet's locks by the thread that did what the event tells, so it should
/// be quick. [`FleetEvent::RequestsWait`] it should not wait for at all: that is told by
/// [`Fleet::allocate_timeout`](super::Fleet::allocate_timeout) and in the polls of futures that wait for agents. A panic in it is caught and counted. The events of one attempt come in their order;
/// those of different attempts of a task may overtake each other, and carry their attempt. So may those of
/// one agent that different threads tell: [`FleetEvent::AgentPrewarmed`] may come before
/// [`FleetEvent::AgentSpawned`].
pub trait Observer: Send + Sync {
    /// Takes notice of an event.
    fn notice(&self, event: &FleetEvent);
}

impl<F: Fn(&FleetEvent) + Send + Sync> Observer for F {
    fn notice(&self, event: &FleetEvent) {
        self(event);
    }
}

/// Why a task runs again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequeueReason {
    /// The agent that ran it was killed.
    AgentKilled,
    /// The attempt failed, and the task has attempts left.
    AttemptFailed(TaskError),
}

/// Something that happened in a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FleetEvent {
    /// An agent has joined. It can be allocated, unless it begins in another condition or is
    /// [prewarmed](super::AgentSpec::prewarmed) first.
    AgentSpawned {
        /// Which agent.
        agent: AgentId,
    },
    /// The handler of an agent was made [before it serves](super::AgentSpec::prewarmed). It can be allocated, unless
    /// the host wants it otherwise.
    AgentPrewarmed {
        /// Which agent.
        agent: AgentId,
        /// How long its factory took, on the fleet's clock.
        took: Duration,
    },
    /// An agent was killed.
    AgentKilled {
        /// Which agent.
        agent: AgentId,
        /// The leases it held, those of running tasks included.
        leases_revoked: u32,
    },
    /// An agent that held no lease was retired.
    AgentRetired {
        /// Which agent.
        agent: AgentId,
    },
    /// An agent that is supervised has failed, or one whose handler could not be made
    /// [ahead](super::AgentSpec::prewarmed). It is not allocated any more.
    AgentFailed {
        /// Which agent.
        agent: AgentId,
        /// Why.
        reason: FailureReason,
        /// When it is started again; `None` if it is not, and then it ends, or stays failed if it has no restart
        /// policy.
        restart_at: Option<Timestamp>,
    },
    /// The handler of an agent [had it stop](super::TaskContext::stop_agent): a normal exit.
    AgentExited {
        /// Which agent.
        agent: AgentId,
        /// When it is made anew; `None` if it is not, and then it ends.
        restart_at: Option<Timestamp>,
    },
    /// The circuit of a type has opened: none of its agents is allocated any more.
    CircuitOpened {
        /// The name of the type.
        agent_type: Arc<str>,
        /// When somebody is tried.
        until: Timestamp,
    },
    /// An agent is on trial for its type: it can be allocated once.
    CircuitTried {
        /// The name of the type.
        agent_type: Arc<str>,
        /// Which agent.
        agent: AgentId,
    },
    /// The circuit of a type has closed: its agents are allocated as before.
    CircuitClosed {
        /// The name of the type.
        agent_type: Arc<str>,
    },
    /// An agent was silent for a while: others are allocated first.
    AgentDegraded {
        /// Which agent.
        agent: AgentId,
        /// For how long it was not heard of.
        silent: Duration,
    },
    /// An agent that was degraded was heard of.
    AgentRecovered {
        /// Which agent.
        agent: AgentId,
    },
    /// An agent that had failed can be allocated again, unless the host wants it otherwise or it is
    /// [prewarmed](super::AgentSpec::prewarmed) first.
    AgentRestarted {
        /// Which agent.
        agent: AgentId,
        /// Its incarnation from now on.
        incarnation: u32,
    },
    /// An agent was drained, failed for good, stopped itself, or ended with its fleet.
    AgentStopped {
        /// Which agent.
        agent: AgentId,
        /// The leases it held to the end.
        leases_revoked: u32,
    },
    /// The use of a budget came up to its soft line.
    BudgetWarning {
        /// Whose, of which meter, and the line.
        warning: Warning,
    },
    /// A task was accepted and will get exactly one outcome.
    TaskAccepted {
        /// Which task.
        task: TaskId,
    },
    /// Tasks wait in the queue for an agent that fits: some where none did, or twice as many as when this was told last.
    /// It is told once they are queued, so whoever [observes](super::Fleet::observe) the fleet for it sees them, unless
    /// they were begun meanwhile.
    TasksWait {
        /// How many were queued, those that agents are free for included.
        tasks: usize,
    },
    /// Requests wait for an agent that fits: some where none did, or twice as many as when this was told last. It is
    /// told on the thread of the one that has begun to, in the poll of a future for example. One that waits anew as the
    /// agent that it was about to have was killed is told of by that alone.
    RequestsWait {
        /// How many did, a batch being one.
        requests: usize,
    },
    /// An agent was allocated to a task and its handler is about to run.
    AttemptStarted {
        /// Which task.
        task: TaskId,
        /// Which run of it.
        attempt: Attempt,
        /// The agent it runs on.
        agent: AgentId,
        /// The time from the worker's asking for work until it held the lease, on the fleet's clock,
        /// waiting for locks included and waiting for work excluded.
        allocation: Duration,
    },
    /// An attempt or a message says nothing any more. It may go on all the same; if its agent is killed for it, that
    /// comes next.
    AttemptStuck {
        /// The agent it runs on.
        agent: AgentId,
        /// Which attempt, where it was last, and for how long it has been silent.
        stuck: Box<Stuck>,
    },
    /// An attempt was lost and the task queued again, at once or once its backoff is over.
    TaskRequeued {
        /// Which task.
        task: TaskId,
        /// The attempt that was lost.
        attempt: Attempt,
        /// What it was lost to.
        reason: RequeueReason,
    },
    /// An attempt whose agent had been killed, or whose task was past its deadline, came back with a
    /// result, which was thrown away.
    LateCompletionRefused {
        /// Which task.
        task: TaskId,
        /// The struck attempt.
        attempt: Attempt,
        /// The agent it ran on.
        agent: AgentId,
    },
    /// The handler of an agent returned an error for a message, or panicked.
    MessageFailed {
        /// Which agent.
        agent: AgentId,
        /// What the handler said.
        error: TaskError,
    },
    /// Messages that were accepted and not begun came back.
    MessagesReturned {
        /// The agent whose mailbox they were in.
        agent: AgentId,
        /// How many.
        count: usize,
        /// Why.
        reason: ReturnReason,
    },
    /// A task ended. The outcome is in the log, and not yet visible in the handle.
    TaskSettled {
        /// Which task.
        task: TaskId,
        /// The attempt that won; [`Attempt::NONE`] for a task that never ran.
        attempt: Attempt,
        /// How it ended.
        outcome: OutcomeKind,
        /// Where the log recorded it, if it did.
        position: Option<LogPosition>,
    },
}
