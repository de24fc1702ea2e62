//! One of each part, wired: the fleet's outcomes are committed to state and then told on the bus.
//!
//! ```text
//!   submit -> [task log: accepted, on disk] -> fleet: agent allocated -> handler (cache, engine)
//!          -> [one transaction: outcome + effects] -> handle, bus
//! ```
//!
//! The parts know nothing of each other; every arrow between them is made here. Rules that hold here:
//!
//! 1. A task's outcome and what it changes in state are one transaction, committed before anybody is told. A commit
//!    that took place counts, whether it could be written or not: the fleet waits for no disk.
//! 2. With durable tasks, an acceptance is on disk before the submission returns, and a task has a row
//!    exactly as long as it has no outcome.
//! 3. Nothing calls back up: a subscriber sees what was committed, and cannot hold up a commit but by a
//!    blocking subscription that it does not read; and a shutdown not even by that.
//! 4. Shutdown goes in the order of the data: the fleet, then the state, then the bus.

mod builder;
mod domain;
mod log;
mod notice;
mod records;
mod recovered;
mod stored;
#[cfg(feature = "tracing")]
mod trace;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::builder::CoordinatorBuilder;
pub use self::domain::Domain;
pub use self::notice::{Notice, topics};
pub use self::records::RecordedOutcome;
pub use self::recovered::Resumed;

use self::notice::Announcer;
use self::records::{History, Records, RecoveredEnds};
use crate::Error;
use crate::ast::AstEngine;
use crate::bus::EventBus;
use crate::cache::Cache;
use crate::fleet::{DrainReport, Fleet, IdempotencyKey, Task, TaskId};
use crate::state::{StateManager, Version};
use crate::sync::Mutex;

/// Owns one of each part and wires them. Cheap to clone; clones are the same coordinator.
///
/// Each part stays reachable and whole: what can be done with a [`Fleet`] or a [`StateManager`] alone can
/// be done with the one in here.
///
/// Dropping the last clone is no shutdown: unless the host kept a handle of the fleet, it returns the
/// queued tasks and waits for the running handlers, and for blocking subscriptions that are not read, as
/// long as that takes; it does not make the state durable, so what nobody waited for is lost like in a
/// crash. [`Coordinator::shutdown`] does, and says how every task ended, so call that.
///
/// ```
/// use phalanx::coordinator::{Coordinator, Domain};
/// use phalanx::fleet::{AgentSpec, Fleet, Task};
/// use phalanx::state::StateManager;
/// use std::time::Duration;
///
/// struct Lengths;
/// impl Domain for Lengths {
///     type Task = String;
///     type Output = usize;
///     type Event = ();
///     type Key = ();
///     type Value = ();
/// }
///
/// let state = StateManager::in_memory();
/// let lengths = state.collection::<String, u64>("lengths")?;
/// let committed = lengths.clone();
/// let coordinator = Coordinator::<Lengths>::builder()
///     .fleet(Fleet::builder().workers(2))
///     .state(state)
///     .effects(move |task, output, tx| {
///         tx.insert(&committed, task.payload().clone(), *output as u64);
///         Ok(())
///     })
///     .build()?;
///
/// let measurer = AgentSpec::new("measurer").handler_fn(|task: &Task<String>, _| Ok(task.payload().len()));
/// coordinator.fleet().spawn_batch(&measurer, 10)?;
/// let handle = coordinator.fleet().submit(Task::new("phalanx".to_owned()))?;
/// assert_eq!(handle.wait().completed(), Some(&7));
/// assert_eq!(lengths.get(&"phalanx".to_owned()), Some(7));
///
/// let report = coordinator.shutdown(Duration::from_secs(5))?;
/// assert_eq!(report.drain.completed, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Coordinator<D: Domain> {
    inner: Arc<Inner<D>>,
}

// The fleet comes first: its drop still needs the others.
struct Inner<D: Domain> {
    fleet: Fleet<D::Task, D::Output>,
    announcer: Arc<Announcer<D::Event>>,
    bus: EventBus<Notice<D::Event>>,
    cache: Cache<D::Key, D::Value>,
    state: StateManager,
    engine: Option<Arc<dyn AstEngine>>,
    history: Arc<History>,
    records: Option<Arc<dyn Records<D::Task>>>,
    ends: Arc<RecoveredEnds>,
    recovered: Mutex<Vec<Task<D::Task>>>,
}

/// How a coordinator ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// How every task that was ever accepted ended.
    pub drain: DrainReport,
    /// The newest version on disk; `None` for a state in memory.
    pub durable: Option<Version>,
    /// Recovered tasks that nobody resumed, took or cancelled: they stay in the state, and the next process finds
    /// them.
    pub recovered_left: usize,
}

impl<D: Domain> Coordinator<D> {
    /// Starts to put one together.
    pub fn builder() -> CoordinatorBuilder<D> {
        CoordinatorBuilder::new()
    }

    /// The agent pool. Tasks are submitted here.
    #[must_use]
    pub fn fleet(&self) -> &Fleet<D::Task, D::Output> {
        &self.inner.fleet
    }

    /// The event bus, which carries the library's own notices and the host's events.
    ///
    /// Notices are published by the threads that submit, kill and run tasks, and by those that take or give back leases
    /// where that takes a budget up to its soft line or changes a circuit. A blocking subscription that falls a full ring
    /// behind holds these up: read it on a thread that does none of that. The hints under
    /// [`BACKLOG`](topics::BACKLOG) hold nobody up: who waits for an agent, however briefly, waits for it alone.
    #[must_use]
    pub fn bus(&self) -> &EventBus<Notice<D::Event>> {
        &self.inner.bus
    }

    /// The shared cache.
    #[must_use]
    pub fn cache(&self) -> &Cache<D::Key, D::Value> {
        &self.inner.cache
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> &StateManager {
        &self.inner.state
    }

    /// The engine that reads source code, where the host brought one.
    #[must_use]
    pub fn engine(&self) -> Option<&Arc<dyn AstEngine>> {
        self.inner.engine.as_ref()
    }

    /// Publishes an event of the host's own under [`topics::HOST`].
    ///
    /// Waits, parked, while a blocking subscriber is a full ring behind.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after the shutdown.
    pub fn publish(&self, event: D::Event) -> Result<(), Error> {
        self.inner.announcer.host(event)
    }

    /// How a task ended, if it is among the newest 1024 outcomes; on disk like the rest of the state.
    ///
    /// Complexity: a scan of these.
    #[must_use]
    pub fn outcome(&self, task: TaskId) -> Option<RecordedOutcome> {
        self.inner.history.of(task)
    }

    /// The task that a key stands for: a durable one that has not ended, or that completed or failed and whose
    /// outcome is [in the history](Self::outcome).
    #[must_use]
    pub fn task_of(&self, key: IdempotencyKey) -> Option<TaskId> {
        self.inner.history.task_of(key)
    }

    /// How many notices were not published: the bus was closed, a shutdown met a blocking subscription that was a full
    /// ring behind and not read in time, or a hint under [`BACKLOG`](topics::BACKLOG) met one at any time.
    #[must_use]
    pub fn notices_unpublished(&self) -> u64 {
        self.inner.announcer.unpublished()
    }

    /// Stops: returns what is queued, waits for running tasks for so long at most, makes the state durable
    /// and closes the bus. Subscribers can still read what was published.
    ///
    /// To let the queued tasks end first, [drain](Fleet::drain) the fleet before. A handler that outlasts
    /// the timeout is struck: its task is returned and its late result refused. A durable task that is
    /// returned keeps its place in the state, and the next process finds it
    /// ([`Coordinator::take_recovered`]). Calling it again is fine, and tells what has ended since.
    ///
    /// Its notices wait for blocking subscriptions that are a full ring behind, for so long at most once
    /// more; those that nobody takes are [counted](Self::notices_unpublished). A worker that such a
    /// subscription held up goes on when the bus is closed, and is counted as left until then.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) from a handler, and nothing was stopped; those of the state's flush, and
    /// everything was stopped.
    pub fn shutdown(&self, timeout: Duration) -> Result<ShutdownReport, Error> {
        self.inner.fleet.refuse_on_worker("shut down")?;
        self.inner.announcer.limit_patience(timeout);
        let drain = self.inner.fleet.shutdown(timeout)?;
        let flushed = if self.inner.state.is_durable() {
            self.inner.state.flush().map(Some)
        } else {
            Ok(None)
        };
        self.inner.bus.close();
        let recovered_left = self.recovered_waiting();
        Ok(ShutdownReport { drain, durable: flushed?, recovered_left })
    }
}

impl<D: Domain> Clone for Coordinator<D> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<D: Domain> fmt::Debug for Coordinator<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator")
            .field("fleet", &self.inner.fleet)
            .field("state", &self.inner.state)
            .field("engine", &self.inner.engine)
            .field("durable_tasks", &self.inner.records.is_some())
            .finish_non_exhaustive()
    }
}
