//! Tasks: what is submitted, how an attempt sees itself, and how a task can end.

use std::fmt;
use std::num::NonZeroU32;

use super::budget::Exceeded;
use super::dependencies::MAX_DEPENDENCIES;
use super::id::{AgentId, Attempt, TaskId};
use super::options::{DEFAULTS, Options};
use super::purse::{Purse, WeakTreasury};
use super::request::{Priority, Request};
use super::signal::{Signal, Word};
use super::supervision::Watch;

/// A piece of work: a payload, and which agents may do it.
///
/// Of those that have all capabilities that it asks for, and room, the first [strategy](super::Strategy) that the fleet keeps
/// chooses.
///
/// ```
/// use phalanx::fleet::{Priority, Task};
///
/// let task = Task::new("src/lib.rs").capability("rust").priority(Priority::HIGH);
/// assert_eq!(*task.payload(), "src/lib.rs");
/// assert_eq!(task.id(), None); // the fleet gives one when it accepts the task
/// ```
#[derive(Clone)]
pub struct Task<T> {
    payload: T,
    pub(super) id: Option<TaskId>,
    /// `None` for the defaults, which most tasks and all messages have.
    pub(super) options: Option<Box<Options>>,
}

impl<T> Task<T> {
    /// A task for any agent with a handler, of normal priority, with three attempts.
    #[must_use]
    pub const fn new(payload: T) -> Self {
        Self { payload, id: None, options: None }
    }

    /// For the next message: one has neither an id nor options.
    #[inline]
    pub(super) fn replace_payload(&mut self, payload: T) {
        self.payload = payload;
    }

    pub(super) fn options(&self) -> &Options {
        self.options.as_deref().unwrap_or(&DEFAULTS)
    }

    /// Changes an option.
    pub(super) fn set(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(self.options.get_or_insert_with(|| Box::new(DEFAULTS.clone())));
        self
    }

    /// Asks for one more capability; an agent must have all that are asked for.
    #[must_use]
    pub fn capability(self, name: impl AsRef<str>) -> Self {
        self.set(|options| {
            options.request = std::mem::take(&mut options.request).capability(name);
        })
    }

    /// Sets how urgent it is among those queued. Default: [`Priority::NORMAL`].
    #[must_use]
    pub fn priority(self, priority: Priority) -> Self {
        self.set(|options| {
            options.request = std::mem::take(&mut options.request).priority(priority);
        })
    }

    /// Sets how many attempts may be lost to panics and retryable errors before the task fails.
    /// Default: 3. An attempt lost because its agent was killed does not count.
    #[must_use]
    pub fn max_attempts(self, attempts: NonZeroU32) -> Self {
        self.set(|options| options.max_attempts = attempts)
    }

    /// Sends it to this agent and no other.
    ///
    /// It waits in the agent's mailbox, in the order of coming, whatever its priority and the agent's
    /// capabilities; the fleet's [queue](super::FleetBuilder::queue_capacity) bounds how many do. One that is
    /// cancelled or expires there gives its place back, but for one that a worker has taken up already, which keeps it
    /// until the worker comes to it. If the agent ends first, it ends as returned ([`ReturnReason::AgentGone`]). All
    /// else is as for any task. Default: any agent that fits.
    #[must_use]
    pub fn to(self, agent: AgentId) -> Self {
        self.set(|options| {
            options.agent = Some(agent);
            options.lost_agent = None;
        })
    }

    /// Gives it an id of the caller's own, for a task that was accepted in an earlier process.
    ///
    /// Ids that the fleet gives afterwards are greater than every id it was given. It refuses an id
    /// that a task of its has and that has not ended; that no id is used again later is up to the caller.
    #[must_use]
    pub const fn with_id(mut self, id: TaskId) -> Self {
        self.id = Some(id);
        self
    }

    /// The id: the caller's own before submission, always there once a handler sees it; a message that was
    /// told or asked has none.
    #[must_use]
    pub const fn id(&self) -> Option<TaskId> {
        self.id
    }

    /// What is to be worked on.
    #[must_use]
    pub const fn payload(&self) -> &T {
        &self.payload
    }

    /// Takes the payload back out.
    #[must_use]
    pub fn into_payload(self) -> T {
        self.payload
    }

    /// Which agents would do.
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.options().request
    }

    /// The agent that it is for, if it is for one alone.
    #[must_use]
    pub fn agent(&self) -> Option<AgentId> {
        self.options().agent
    }

    /// How many attempts may be lost before the task fails.
    #[must_use]
    pub fn attempts(&self) -> NonZeroU32 {
        self.options().max_attempts
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("id", &self.id)
            .field("options", self.options())
            .finish_non_exhaustive()
    }
}

/// What a handler knows of the attempt it runs.
#[derive(Debug)]
pub struct TaskContext<'a> {
    pub(super) task: Option<TaskId>,
    pub(super) attempt: Attempt,
    pub(super) agent: AgentId,
    pub(super) signal: &'a Signal,
    /// Who hears what it says, if somebody does.
    pub(super) watch: Option<&'a Watch>,
    /// What it pays with, if there are budgets.
    pub(super) purse: Option<Purse<&'a WeakTreasury>>,
}

impl TaskContext<'_> {
    /// Which task; `None` for a message that was told or asked, which has no id.
    #[must_use]
    pub const fn task_id(&self) -> Option<TaskId> {
        self.task
    }

    /// Which run of it; [`Attempt::NONE`] for a message.
    #[must_use]
    pub const fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The agent it runs on.
    #[must_use]
    pub const fn agent(&self) -> AgentId {
        self.agent
    }

    /// Whether this agent was killed or the task's deadline passed meanwhile, so that whatever comes of
    /// this attempt is refused.
    ///
    /// A long handler asks from time to time and returns early. It is a hint, not a fence: the agent
    /// may be killed right after it was asked.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.signal.is(Word::Revoked)
    }

    /// Whether somebody asked to cancel the task. An error returned now ends it as cancelled; a
    /// result returned now still completes it.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.signal.is(Word::Cancelled)
    }

    /// Has the agent end normally once this attempt, or this message, has ended: it has nothing more to do.
    ///
    /// What the handler returns counts as always. Then, before anything else begins on the agent, its
    /// [restart policy](super::AgentSpec::restart) is told of a normal [exit](super::supervise::Exit::Normal). One that
    /// has it started again (`Restart::Always`, within its budget) makes it anew as after a failure: it is down until
    /// its delay is over, keeps its mailbox, and comes back with new handlers and a higher incarnation. Otherwise, and
    /// without a policy, the agent ends as by a [kill](super::Fleet::kill): messages that are still in its mailbox, and
    /// tasks that were for it alone, come back as returned; tasks that run on it besides run again elsewhere.
    ///
    /// An attempt that panics after this has failed, and the failure is what counts where there is a policy; so is an
    /// error where the policy counts errors. It is no use once the attempt was lost with its agent. Told as
    /// [`FleetEvent::AgentExited`](super::FleetEvent::AgentExited), counted as `agent_exits`.
    ///
    /// ```
    /// use phalanx::fleet::{AgentSpec, Fleet, Outcome, Task};
    ///
    /// let fleet = Fleet::<u32, u32>::builder().driven().build()?;
    /// let once = fleet.spawn(AgentSpec::new("once").handler_fn(|task: &Task<u32>, cx| {
    ///     cx.stop_agent();
    ///     Ok(task.payload() * 2)
    /// }))?;
    /// let handle = fleet.submit(Task::new(21))?;
    /// fleet.run_ready(usize::MAX);
    /// assert_eq!(*handle.wait(), Outcome::Completed(42));
    /// assert!(fleet.agent(once).is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stop_agent(&self) {
        self.signal.stop_agent();
    }
}

/// What made an attempt or a task fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TaskErrorKind {
    /// The handler returned the error.
    Handler,
    /// The handler or its factory panicked.
    Panicked,
    /// The work was done, and the [`TaskLog`](super::TaskLog) could not record it.
    NotRecorded,
    /// The [`Verifier`](super::Verifier) did not accept the output.
    Rejected,
    /// It had not ended at its deadline ([`Task::timeout`]).
    DeadlineExceeded,
    /// A task that it waited for did not complete ([`Task::after`]).
    DependencyFailed,
    /// The future of an async handler was dropped before it had resolved: its executor ended, or refused it.
    Dropped,
}

/// Why an attempt failed; in [`Outcome::Failed`], why the last one did.
///
/// A task that failed with an error that [is retryable](Self::is_retryable) had no attempts left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TaskError {
    kind: TaskErrorKind,
    message: String,
    retryable: bool,
}

impl TaskError {
    /// An error that another attempt would meet again: the task fails at once.
    #[must_use]
    pub fn permanent(message: impl Into<String>) -> Self {
        Self { kind: TaskErrorKind::Handler, message: message.into(), retryable: false }
    }

    /// An error that another attempt may not meet: the task runs again while it has attempts left.
    #[must_use]
    pub fn retryable(message: impl Into<String>) -> Self {
        Self { kind: TaskErrorKind::Handler, message: message.into(), retryable: true }
    }

    pub(super) fn panicked(message: impl Into<String>) -> Self {
        Self { kind: TaskErrorKind::Panicked, message: message.into(), retryable: true }
    }

    pub(super) fn dropped() -> Self {
        Self {
            kind: TaskErrorKind::Dropped,
            message: "the future of the handler was dropped before it had resolved".to_owned(),
            retryable: true,
        }
    }

    pub(super) fn dependency_failed(dependency: TaskId, outcome: OutcomeKind) -> Self {
        let how = match outcome {
            OutcomeKind::Completed => "completed",
            OutcomeKind::Failed => "failed",
            OutcomeKind::Returned => "was returned",
            OutcomeKind::Cancelled => "was cancelled",
        };
        Self {
            kind: TaskErrorKind::DependencyFailed,
            message: format!("task {dependency}, which it waited for, {how}"),
            retryable: false,
        }
    }

    pub(super) fn deadline_exceeded() -> Self {
        Self {
            kind: TaskErrorKind::DeadlineExceeded,
            message: "the task had not ended at its deadline".to_owned(),
            retryable: false,
        }
    }

    /// As the verdict of a verifier.
    pub(super) fn rejected(mut self) -> Self {
        self.kind = TaskErrorKind::Rejected;
        self
    }

    pub(super) fn not_recorded(message: impl Into<String>) -> Self {
        Self { kind: TaskErrorKind::NotRecorded, message: message.into(), retryable: false }
    }

    /// What sort of failure it was.
    #[must_use]
    pub const fn kind(&self) -> TaskErrorKind {
        self.kind
    }

    /// What happened, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether another attempt may help.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.retryable
    }
}

/// Why a task came back undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReturnReason {
    /// The fleet was shut down before the task was done.
    Shutdown,
    /// It was for one agent, which ended before it was done.
    AgentGone,
}

/// How an accepted task ended. Each gets exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome<O> {
    /// A handler did it, and the log recorded that.
    Completed(O),
    /// It cannot be done, or its attempts are used up.
    Failed(TaskError),
    /// It was not done and nobody will do it in this fleet; it may be submitted elsewhere.
    Returned(ReturnReason),
    /// Somebody asked for it to be cancelled, and it was not done.
    Cancelled,
}

impl<O> Outcome<O> {
    /// Which of the four it is.
    #[must_use]
    pub const fn kind(&self) -> OutcomeKind {
        match self {
            Self::Completed(_) => OutcomeKind::Completed,
            Self::Failed(_) => OutcomeKind::Failed,
            Self::Returned(_) => OutcomeKind::Returned,
            Self::Cancelled => OutcomeKind::Cancelled,
        }
    }

    /// The output of a completed task.
    #[must_use]
    pub const fn completed(&self) -> Option<&O> {
        match self {
            Self::Completed(output) => Some(output),
            _ => None,
        }
    }
}

/// The four ways in which a task can end, without what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OutcomeKind {
    /// See [`Outcome::Completed`].
    Completed,
    /// See [`Outcome::Failed`].
    Failed,
    /// See [`Outcome::Returned`].
    Returned,
    /// See [`Outcome::Cancelled`].
    Cancelled,
}

/// Why a task was not accepted. It carries back what was submitted.
///
/// `R` is a [`Task`], or a vector of them for a batch.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError<R> {
    /// The queue has no room (for all of it).
    #[error("the queue is full")]
    Full(R),
    /// The fleet drains or was shut down.
    #[error("the fleet takes no more tasks")]
    Closed(R),
    /// No live agent with a handler has the capabilities asked for, and none is [expected](super::Fleet::expect).
    #[error("no live agent could take the task")]
    NoAgent(R),
    /// A task of this id is in the fleet already.
    #[error("a task of this id was submitted already")]
    Duplicate(R),
    /// A task with the same key is being accepted, and it is not known yet whether it will be. Submitted again a little
    /// later it gets that task's handle, or is the first.
    #[error("a task with the same key is being accepted")]
    KeyPending(R),
    /// It waits for more tasks than [`MAX_DEPENDENCIES`](super::MAX_DEPENDENCIES).
    #[error("it waits for more than {MAX_DEPENDENCIES} tasks")]
    TooManyDependencies(R),
    /// A budget has no room for it.
    #[error("no budget for the task: {exceeded}")]
    OverBudget {
        /// What was submitted.
        returned: R,
        /// Which budget, and how it stands.
        #[source]
        exceeded: Box<Exceeded>,
    },
    /// It waits for a task that is not known: it was not accepted before, or has ended and is forgotten.
    #[error("a task that it waits for is not known")]
    UnknownDependency(R),
    /// The log could not record the acceptance.
    #[error("the acceptance was not recorded: {error}")]
    NotRecorded {
        /// What was submitted.
        returned: R,
        /// What the log said.
        #[source]
        error: crate::Error,
    },
}

impl<R> SubmitError<R> {
    /// What was submitted.
    #[must_use]
    pub fn into_inner(self) -> R {
        match self {
            Self::Full(returned)
            | Self::Closed(returned)
            | Self::NoAgent(returned)
            | Self::Duplicate(returned)
            | Self::KeyPending(returned)
            | Self::TooManyDependencies(returned)
            | Self::UnknownDependency(returned)
            | Self::OverBudget { returned, .. }
            | Self::NotRecorded { returned, .. } => returned,
        }
    }

    pub(crate) fn map<S>(self, f: impl FnOnce(R) -> S) -> SubmitError<S> {
        match self {
            Self::Full(returned) => SubmitError::Full(f(returned)),
            Self::Closed(returned) => SubmitError::Closed(f(returned)),
            Self::NoAgent(returned) => SubmitError::NoAgent(f(returned)),
            Self::Duplicate(returned) => SubmitError::Duplicate(f(returned)),
            Self::KeyPending(returned) => SubmitError::KeyPending(f(returned)),
            Self::TooManyDependencies(returned) => SubmitError::TooManyDependencies(f(returned)),
            Self::UnknownDependency(returned) => SubmitError::UnknownDependency(f(returned)),
            Self::OverBudget { returned, exceeded } => {
                SubmitError::OverBudget { returned: f(returned), exceeded }
            }
            Self::NotRecorded { returned, error } => {
                SubmitError::NotRecorded { returned: f(returned), error }
            }
        }
    }
}

impl<R> fmt::Debug for SubmitError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("Full(..)"),
            Self::Closed(_) => f.write_str("Closed(..)"),
            Self::NoAgent(_) => f.write_str("NoAgent(..)"),
            Self::Duplicate(_) => f.write_str("Duplicate(..)"),
            Self::KeyPending(_) => f.write_str("KeyPending(..)"),
            Self::TooManyDependencies(_) => f.write_str("TooManyDependencies(..)"),
            Self::UnknownDependency(_) => f.write_str("UnknownDependency(..)"),
            Self::OverBudget { exceeded, .. } => {
                f.debug_struct("OverBudget").field("exceeded", exceeded).finish_non_exhaustive()
            }
            Self::NotRecorded { error, .. } => {
                f.debug_struct("NotRecorded").field("error", error).finish_non_exhaustive()
            }
        }
    }
}
