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

use self::notice::Announcer;
use self::records::{History, Records, RecoveredEnds};
use crate::ast::AstEngine;
use crate::bus::EventBus;
use crate::cache::Cache;
use crate::fleet::{DrainReport, Fleet, IdempotencyKey, OutcomeKind, Task, TaskId};
use crate::state::{Abort, StateManager, Unacknowledged, Version};
use crate::sync::Mutex;
use crate::{Error, ErrorKind};

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
    /// Notices are published by the threads that submit, kill and run tasks. A blocking subscription that
    /// falls a full ring behind holds these up: read it on a thread that does none of that.
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
    /// [`ErrorKind::Closed`] after the shutdown.
    pub fn publish(&self, event: D::Event) -> Result<(), Error> {
        self.inner.announcer.host(event)
    }

    /// Hands out the tasks that an earlier process accepted durably and gave no outcome.
    ///
    /// They come in the order of their ids, those that wait for others after these, and once: a second call
    /// returns none. Submit one to run it again (it keeps its id), or end it with
    /// [`Coordinator::cancel_recovered`]; one that waits for another that was neither is refused with
    /// [`SubmitError::UnknownDependency`](crate::fleet::SubmitError::UnknownDependency). One that is dropped
    /// stays in the state, and the next process finds it. One that was for a single agent has
    /// [lost it](Task::lost_agent).
    #[must_use]
    pub fn take_recovered(&self) -> Vec<Task<D::Task>> {
        std::mem::take(&mut *self.inner.recovered.lock())
    }

    /// Ends recovered tasks as cancelled, in one durable commit, all or none: nobody will run them.
    ///
    /// One that was submitted again is not recovered any more: cancel it by its handle.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a task without an id, [`ErrorKind::NotFound`] for one that has
    /// ended, [`ErrorKind::Unsupported`] without durable tasks, and those of the state: of these
    /// [`ErrorKind::Poisoned`] may come once the tasks have ended in memory, and whether that survives is open.
    pub fn cancel_recovered(&self, tasks: Vec<Task<D::Task>>) -> Result<(), Error> {
        let Some(records) = &self.inner.records else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "nothing is recovered without durable tasks: build with `durable_tasks`",
            ));
        };
        let ids: Vec<TaskId> = tasks.iter().filter_map(Task::id).collect();
        if ids.len() < tasks.len() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "a recovered task has the id it was accepted under; this one has none",
            ));
        }
        let sequences: Vec<u64> = ids.iter().map(|_| self.inner.history.next_sequence()).collect();
        let mut ended = None;
        let committed = self.inner.state.transaction(|tx| {
            ended = None;
            for (&id, &sequence) in ids.iter().zip(&sequences) {
                let Some(row) = records.end(id, OutcomeKind::Cancelled, tx) else {
                    ended = Some(id);
                    return Err(Abort::new("a task has ended"));
                };
                self.inner.history.cancelled(sequence, id, Some(row), tx);
            }
            Ok(())
        });
        if let Some(id) = ended {
            let message = format!("task {id} has ended: only what has no outcome can be cancelled");
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        // One that took place and was not acknowledged has ended them too.
        if committed.as_ref().err().is_none_or(|error| Unacknowledged::of(error).is_some()) {
            for id in ids {
                self.inner.ends.tell(id, OutcomeKind::Cancelled);
            }
        }
        self.inner.state.wait_durable(committed?.1)
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

    /// How many notices were not published: the bus was closed, or a shutdown met a blocking subscription
    /// that was a full ring behind and not read in time.
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
    /// [`ErrorKind::Unsupported`] from a handler, and nothing was stopped; those of the state's flush, and
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
        Ok(ShutdownReport { drain, durable: flushed? })
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
