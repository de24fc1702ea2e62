//! How a coordinator is put together.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::log::{Effects, StateLog};
use super::notice::Announcer;
use super::records::{History, Records, RecoveredEnds, TaskRows};
use super::{Coordinator, Domain, Inner, Notice};
use crate::ast::AstEngine;
use crate::bus::EventBus;
use crate::cache::Cache;
use crate::fleet::{Fleet, FleetBuilder, Task};
use crate::state::{Abort, StateManager, Transaction};
use crate::sync::{Mutex, OnceLock};
use crate::{Error, ErrorKind};

/// What the cache holds unless the host brings its own: the default weigher counts one an entry.
const DEFAULT_CACHE_ENTRIES: u64 = 65_536;

type OpenRecords<T> = fn(&StateManager) -> Result<Arc<dyn Records<T>>, Error>;

/// Puts a [`Coordinator`] together out of parts that their own builders made.
///
/// Every part has a default: a fleet without workers, a bus and a cache of their default sizes, a state in
/// memory, no engine. Nothing is started but what the fleet's builder was asked for.
#[must_use = "a builder does nothing until `build`"]
pub struct CoordinatorBuilder<D: Domain> {
    fleet: FleetBuilder<D::Task, D::Output>,
    bus: Option<EventBus<Notice<D::Event>>>,
    cache: Option<Cache<D::Key, D::Value>>,
    state: Option<StateManager>,
    engine: Option<Arc<dyn AstEngine>>,
    effects: Option<Effects<D>>,
    open_records: Option<OpenRecords<D::Task>>,
}

impl<D: Domain> CoordinatorBuilder<D> {
    pub(super) fn new() -> Self {
        Self {
            fleet: Fleet::builder(),
            bus: None,
            cache: None,
            state: None,
            engine: None,
            effects: None,
            open_records: None,
        }
    }

    /// Sets how the fleet is built. Default: [`Fleet::builder`], which has no worker threads.
    ///
    /// Its task log and its observer are the coordinator's: what was set for these is replaced. Its first
    /// task id is raised where the state knows of an id as great.
    pub fn fleet(mut self, fleet: FleetBuilder<D::Task, D::Output>) -> Self {
        self.fleet = fleet;
        self
    }

    /// Brings the bus. Default: [`EventBus::builder`] as it is.
    pub fn bus(mut self, bus: EventBus<Notice<D::Event>>) -> Self {
        self.bus = Some(bus);
        self
    }

    /// Brings the cache. Default: one of 65,536 entries, each of weight one.
    pub fn cache(mut self, cache: Cache<D::Key, D::Value>) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Brings the state. Default: [`StateManager::in_memory`].
    pub fn state(mut self, state: StateManager) -> Self {
        self.state = Some(state);
        self
    }

    /// Brings the engine that reads source code. Default: none.
    pub fn engine(mut self, engine: Arc<dyn AstEngine>) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Sets what a completed task changes in state.
    ///
    /// It runs in the transaction that commits the task's outcome, for the one attempt that won: an
    /// attempt whose agent was killed never gets here, and there is no moment at which the outcome is
    /// recorded and its effects are not. Like every transaction's closure it runs again when another
    /// commit came in between, so it does nothing but read and write through the transaction. An abort, a
    /// panic, or a write that the state refuses makes the task's outcome failed.
    pub fn effects(
        mut self,
        effects: impl Fn(&Task<D::Task>, &D::Output, &mut Transaction) -> Result<(), Abort>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.effects = Some(Arc::new(effects));
        self
    }

    /// Makes acceptance durable: a submitted task is on disk before the submission returns.
    ///
    /// Costs a sync a submission, so submit in batches. What was accepted and has no outcome when the
    /// process ends is found by the next one: [`Coordinator::take_recovered`]. A task that was handed back
    /// because the disk failed while it was accepted may be found as well. Needs a state on disk.
    ///
    /// The record holds all that a task asks for, and in the next process:
    ///
    /// - A key is known again, that of a task that completed or failed too, as long as its outcome is
    ///   [in the history](Coordinator::outcome), whatever the fleet's `remembered_keys` says: another task with
    ///   it is refused as `AlreadyExists`, and [`Coordinator::task_of`] tells which one has it.
    /// - A task that waits for others knows how they ended, whether before the end of the process or since.
    ///   One that ended before it was submitted is named by its handle, or its outcome is in the history.
    /// - A task that was for one agent alone says [for which](Task::lost_agent), since agents do not outlive
    ///   their process, and is refused until somebody says where it may run.
    /// - The time of a timeout begins again when the task is submitted again.
    /// - A group and costs are charged again when it is submitted again.
    pub fn durable_tasks(mut self) -> Self
    where
        D::Task: Serialize + DeserializeOwned,
    {
        self.open_records = Some(|state| Ok(Arc::new(TaskRows::open(state)?)));
        self
    }

    /// Builds and wires the parts.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for durable tasks over a state in memory, and what the parts' own
    /// builders say; the state's where the coordinator's collections cannot be read.
    pub fn build(self) -> Result<Coordinator<D>, Error> {
        let state = self.state.unwrap_or_else(StateManager::in_memory);
        if self.open_records.is_some() && !state.is_durable() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "durable tasks need a state on disk: open one with `StateManager::builder`",
            ));
        }
        let bus = match self.bus {
            Some(bus) => bus,
            None => EventBus::builder().build()?,
        };
        let cache = match self.cache {
            Some(cache) => cache,
            None => Cache::builder().capacity_weight(DEFAULT_CACHE_ENTRIES).build()?,
        };
        let records = self.open_records.map(|open| open(&state)).transpose()?;
        let history = Arc::new(History::open(&state)?);
        let announcer = Arc::new(Announcer::new(&bus)?);
        let ends = Arc::<RecoveredEnds>::default();
        let named = Arc::new(OnceLock::new());
        let log = StateLog::<D> {
            state: state.clone(),
            effects: self.effects,
            records: records.clone(),
            history: Arc::clone(&history),
            ends: Arc::clone(&ends),
            fleet: Arc::clone(&named),
        };
        let mut fleet = self.fleet.task_log(Arc::new(log)).observer(announcer.clone());
        fleet = fleet.ids_from(history.next_id());
        let mut recovered = Vec::new();
        if let Some(records) = &records {
            recovered = records.pending(&ends)?;
            fleet = fleet.ids_from(records.next_id());
        }
        let fleet = fleet.build()?;
        // It was just made, and nobody else sets it.
        let _ = named.set(fleet.downgrade());
        Ok(Coordinator {
            inner: Arc::new(Inner {
                fleet,
                announcer,
                bus,
                cache,
                state,
                engine: self.engine,
                history,
                records,
                ends,
                recovered: Mutex::new(recovered),
            }),
        })
    }
}

impl<D: Domain> fmt::Debug for CoordinatorBuilder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoordinatorBuilder")
            .field("state", &self.state)
            .field("engine", &self.engine)
            .field("effects", &self.effects.is_some())
            .field("durable_tasks", &self.open_records.is_some())
            .finish_non_exhaustive()
    }
}
