//! What only some tasks ask for, kept out of those that do not.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::backoff::Backoff;
use super::budget::Unit;
use super::dependencies::Dependency;
use super::graph::IfDependencyFails;
use super::history::IdempotencyKey;
use super::id::AgentId;
use super::request::Request;
use super::task::Task;

/// The attempts a task has unless it says otherwise.
const DEFAULT_MAX_ATTEMPTS: NonZeroU32 = NonZeroU32::new(3).expect("three is not zero");

/// What a task asks for beside its payload.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) request: Request,
    pub(super) max_attempts: NonZeroU32,
    pub(super) agent: Option<AgentId>,
    /// The name of the one that it was for in an earlier process.
    pub(super) lost_agent: Option<Arc<str>>,
    pub(super) backoff: Backoff,
    pub(super) timeout: Option<Duration>,
    pub(super) key: Option<IdempotencyKey>,
    pub(super) dependencies: Vec<Dependency>,
    pub(super) if_dependency_fails: IfDependencyFails,
    pub(super) costs: Vec<(Unit, u64)>,
}

/// The options of a task that has none of its own.
pub(super) static DEFAULTS: Options = Options {
    request: Request::any(),
    max_attempts: DEFAULT_MAX_ATTEMPTS,
    agent: None,
    lost_agent: None,
    backoff: Backoff::NONE,
    timeout: None,
    key: None,
    dependencies: Vec::new(),
    if_dependency_fails: IfDependencyFails::Fail,
    costs: Vec::new(),
};

impl<T> Task<T> {
    /// Sets how long to wait before each further attempt after one was lost to a panic or a retryable
    /// error. Default: [`Backoff::NONE`]: it is queued again at once.
    ///
    /// The jitter's seed is the task's id. While it waits it counts as queued, and takes a place there.
    #[must_use]
    pub fn retry_backoff(self, backoff: Backoff) -> Self {
        self.set(|options| options.backoff = backoff)
    }

    /// Gives it a key, so that it is done once however often it is submitted. Default: none.
    ///
    /// A submission with the key of a task that has not ended, or is one of those that
    /// [ended last](super::FleetBuilder::remembered_keys) and were done, is not queued: it gets a handle of that task, with
    /// the same id and the same outcome, whatever else it asks for, and its payload is dropped. It needs no
    /// room, and is counted in [`FleetStats::tasks_repeated`](super::FleetStats::tasks_repeated). While the
    /// log records the first, the second waits for it as it would for room:
    /// [`submit`](super::Fleet::submit) does not, and is refused ([`SubmitError::KeyPending`](super::SubmitError)).
    /// A fleet that takes no more tasks still gives handles of those it knows.
    ///
    /// A task was not done if it was cancelled or returned, or failed because one that it waited for did
    /// ([`TaskErrorKind::DependencyFailed`](super::TaskErrorKind)). Then the next with its key is a new one. One that
    /// failed in any other way may have done a part, and stands for the key like one that completed.
    #[must_use]
    pub fn idempotency_key(self, key: IdempotencyKey) -> Self {
        self.set(|options| options.key = Some(key))
    }

    /// Sets how long it may take from its acceptance to its end. Default: as long as it takes.
    ///
    /// A task that has not ended by then fails with
    /// [`TaskErrorKind::DeadlineExceeded`](super::TaskErrorKind::DeadlineExceeded). If it runs, its attempt
    /// is struck: it is told ([`TaskContext::is_revoked`](super::TaskContext::is_revoked)), and what it
    /// returns is refused and counted. The workers watch the time between attempts and while they sleep; a
    /// fleet whose workers are all in handlers notices when the first comes back, or at
    /// [`Fleet::tick`](super::Fleet::tick). A result that comes after the deadline is refused either way.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.set(|options| options.timeout = Some(timeout))
    }
}
