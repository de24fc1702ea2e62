//! How a fleet is made, and the defaults.

use std::collections::HashMap;
use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Fleet;
use super::backlog::Backlog;
use super::budget::Budgets;
use super::by_slot::BySlot;
use super::flight::{Flights, Launcher};
use super::id::TaskId;
use super::inbox::{Lent, Tasks};
use super::inner::{Inner, State, Workers};
use super::lanes::Lanes;
use super::ledger::{Keeping, Ledger};
use super::log::{Observer, TaskLog};
use super::mailed::Mailed;
use super::pool::{Feed, Kept, MAX_SHARDS, Pool, PoolConfig, Strategy};
use super::post::{Counters, Posts, Station};
use super::runner::Runner;
use super::signal::Signals;
use super::spawner::Spawner;
use super::stats::FleetStats;
use super::supervise::BreakerPolicy;
use super::supervision::Supervision;
use super::table::Table;
use super::tell::Returned;
use super::timers::Timers;
use super::verify::Verifier;
use super::wakers::WakerSet;
use crate::clock::Clock;
use crate::sync::{cores, thread};
use crate::{Error, ErrorKind};

const DEFAULT_QUEUE_CAPACITY: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");
const DEFAULT_MAX_AGENTS: NonZeroUsize = NonZeroUsize::new(1_048_576).expect("not zero");
const DEFAULT_MAX_WAITING: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");
const DEFAULT_MAILBOX_CAPACITY: NonZeroU32 = NonZeroU32::new(1_024).expect("not zero");
const DEFAULT_AGEING: Duration = Duration::from_millis(100);
const FIRST_TASK_ID: TaskId = TaskId::new(1);

/// Sets up a [`Fleet`]; made by [`Fleet::builder`].
#[must_use = "a builder does nothing until it builds"]
pub struct FleetBuilder<T, O> {
    workers: usize,
    pub(super) driven: bool,
    queue_capacity: NonZeroUsize,
    max_agents: NonZeroUsize,
    max_waiting: NonZeroUsize,
    strategies: Vec<Strategy>,
    shards: Option<NonZeroUsize>,
    mailbox_capacity: NonZeroU32,
    returned: Option<Arc<dyn Returned<T>>>,
    ageing: Option<Duration>,
    budgets: Option<Budgets>,
    clock: Clock,
    task_log: Option<Arc<dyn TaskLog<T, O>>>,
    observer: Option<Arc<dyn Observer>>,
    verifier: Option<Arc<dyn Verifier<T, O>>>,
    spawner: Option<Arc<dyn Spawner>>,
    breakers: Vec<(Arc<str>, BreakerPolicy)>,
    first_task_id: TaskId,
    pub(super) keeping: Keeping,
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> FleetBuilder<T, O> {
    pub(super) fn new() -> Self {
        Self {
            workers: 0,
            driven: false,
            queue_capacity: DEFAULT_QUEUE_CAPACITY,
            max_agents: DEFAULT_MAX_AGENTS,
            max_waiting: DEFAULT_MAX_WAITING,
            strategies: vec![Strategy::default()],
            shards: None,
            mailbox_capacity: DEFAULT_MAILBOX_CAPACITY,
            returned: None,
            ageing: Some(DEFAULT_AGEING),
            budgets: None,
            clock: Clock::real(),
            task_log: None,
            observer: None,
            verifier: None,
            spawner: None,
            breakers: Vec::new(),
            first_task_id: FIRST_TASK_ID,
            keeping: Keeping::default(),
        }
    }

    /// Sets how many threads run handlers. Default: 0, a lease-only fleet that starts no thread and
    /// takes no task. Handlers that compute want about one a core; those that wait want more.
    pub const fn workers(mut self, threads: usize) -> Self {
        self.workers = threads;
        self
    }

    /// Sets how many accepted tasks may wait for an agent. Default: 65,536. Tasks that run again may
    /// exceed it, by no more than there are workers.
    pub const fn queue_capacity(mut self, tasks: NonZeroUsize) -> Self {
        self.queue_capacity = tasks;
        self
    }

    /// Sets how many agents may live at once. Default: 1,048,576. The most: `u32::MAX`.
    pub const fn max_agents(mut self, agents: NonZeroUsize) -> Self {
        self.max_agents = agents;
        self
    }

    /// Sets how many requests for an agent may wait at once, those counted that were answered and have
    /// not looked. Default: 65,536.
    pub const fn max_waiting(mut self, requests: NonZeroUsize) -> Self {
        self.max_waiting = requests;
        self
    }

    /// Sets for which strategies the fleet keeps its agents in order, the first for requests that name
    /// none. Default: [`Strategy::LeastLoaded`] alone. Each costs some nanoseconds an allocation; at least
    /// one is needed.
    pub fn strategies(mut self, strategies: &[Strategy]) -> Self {
        self.strategies = strategies.to_vec();
        self
    }

    /// Keeps all agents in one exact order, whatever thread asks. Default: not, so that threads need not
    /// wait for each other; see [`Strategy`] for what that means.
    pub const fn strict(mut self) -> Self {
        self.shards = Some(NonZeroUsize::MIN);
        self
    }

    /// Sets into how many shards the agents are dealt; rounded up to a power of two. Default: twice the
    /// processors. The most: 16. Many let many threads allocate at once; few find a better agent sooner.
    pub const fn shards(mut self, shards: NonZeroUsize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Sets how many messages the work lane of an agent's mailbox holds. Default: 1,024. The most:
    /// `u32::MAX`. An empty mailbox takes no room for them.
    pub const fn mailbox_capacity(mut self, messages: NonZeroU32) -> Self {
        self.mailbox_capacity = messages;
        self
    }

    /// Sets who is given the payloads of messages that were accepted and come back. Default: nobody, and
    /// they are dropped.
    pub fn returned(mut self, hook: Arc<dyn Returned<T>>) -> Self {
        self.returned = Some(hook);
        self
    }

    /// Sets how long a request waits for an agent until that is worth one level of priority, so that urgent
    /// requests do not keep the others waiting for ever. Default: 100 ms, so that a request of normal
    /// priority goes before a new one of high priority after 6.4 s. `None`: priority alone counts.
    pub const fn ageing(mut self, level: Option<Duration>) -> Self {
        self.ageing = level;
        self
    }

    /// Sets the budgets that leases, tasks and launches are charged to. Default: none, and nothing is.
    ///
    /// Each lease, those of tasks included, takes one of [`Meter::Leases`](super::Meter::Leases) from the
    /// accounts of the fleet, of the [group](super::Request::group) that asks, of the agent's type (its name)
    /// and of the agent, as far as they have one that meters leases: from all of them or from none, so no
    /// limit is ever overshot. It is given back when the lease ends: completed, dropped, expired, or void
    /// as its agent ended. Agents whose own account or whose type's has no room are passed over; a request
    /// that waits is served when there is room again, by whoever gives it back, in the order of those who
    /// wait. Soft lines are told to the observer. An account that comes later counts the leases that
    /// begin after it.
    ///
    /// Each task takes one of [`Meter::QueuedTasks`](super::Meter::QueuedTasks) from its submission to its end, and
    /// the units that it [costs](super::Task::cost), from the accounts of the fleet and of its
    /// [group](super::Task::group), and, if it is for one agent alone, of that agent's type and of the agent. One that
    /// finds no room is refused ([`SubmitError::OverBudget`](super::SubmitError::OverBudget)); nobody waits for
    /// it, by whatever way it is submitted. Each agent that is spawned uses up one of
    /// [`Meter::Launches`](super::Meter::Launches) of the fleet and of its type.
    ///
    /// Costs an allocation one atomic step for each account and one when it ends, and two for each payer.
    /// When an account of a type or an agent comes or goes, the next allocation looks at each agent once.
    /// Agents of more sorts than a shard can tell apart (65,535 combinations of capabilities and payers) are
    /// taken for failed. Several fleets may share one `Budgets`.
    pub fn budgets(mut self, budgets: Budgets) -> Self {
        self.budgets = Some(budgets);
        self
    }

    /// Sets the clock that timeouts and latencies are read from. Default: [`Clock::real`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets what records acceptances and outcomes. Default: nothing does. Costs a call for each
    /// submission, and one for each outcome.
    pub fn task_log(mut self, log: Arc<dyn TaskLog<T, O>>) -> Self {
        self.task_log = Some(log);
        self
    }

    /// Sets who is told of events. Default: nobody. Costs a call for each event, and two readings of
    /// the clock for each attempt.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Sets who checks what agents say they have done. Default: nobody, and a handler's word is enough.
    /// Costs a call for each attempt that returned an output; the agent is busy meanwhile.
    pub fn verifier(mut self, verifier: Arc<dyn Verifier<T, O>>) -> Self {
        self.verifier = Some(verifier);
        self
    }

    /// Sets the executor that runs the futures of [async handlers](super::AgentSpec::handler_async). Default: none,
    /// and agents that have such a handler are refused. Costs nothing by itself.
    pub fn spawner(mut self, spawner: Arc<dyn Spawner>) -> Self {
        self.spawner = Some(spawner);
        self
    }

    /// Has a circuit breaker watch all agents of a type (of one name). Default: none.
    ///
    /// An attempt, or a message, that panics, returns an error or is not verified is a failure; one that returns
    /// an error after its task was cancelled says nothing. Once the policy has the circuit open, all agents of the
    /// type are allocated no more, in the step in which it opens, new ones included; what runs goes on, and says
    /// nothing any more. When it is half-open, one agent that holds no lease is allocated once: the trial, after
    /// which the circuit closes or opens again. As for the mailbox of an agent, a trial is one message of it.
    ///
    /// The agent on trial comes before its equals where the [load](super::Strategy::LeastLoaded) decides, and before all
    /// where the [past](super::Strategy::Performance) does, so that what others do well does not keep a circuit half-open;
    /// by priority and in turn it comes when it is next among its equals. It waits behind agents of a higher priority,
    /// and in a fleet that is not [strict](Self::strict) for somebody who looks into its shard: those that find agents as
    /// free in theirs do not.
    ///
    /// Of the leases that the host holds one that is completed counts as its
    /// [outcome](super::LeaseOutcome) says, and one that is dropped in a panic, or expires, is a failure. One that is
    /// dropped otherwise, or whose agent has ended, says nothing; if it was the trial, another agent is tried.
    /// The circuit hears of it before anybody else is given the place.
    ///
    /// What makes the handler of a [prewarmed](super::AgentSpec::prewarmed) agent and fails is a failure too, and where the
    /// circuit is half-open and nobody is on trial, a trial that failed.
    ///
    /// Costs a short lock of the tasks for each message of those agents, and two for each lease of the host's on
    /// one. The last policy for a type is the one that holds.
    ///
    /// While a circuit is open its agents show as [`AgentState::Failed`](super::AgentState).
    pub fn breaker(mut self, agent_type: impl AsRef<str>, policy: BreakerPolicy) -> Self {
        let name = agent_type.as_ref();
        self.breakers.retain(|(known, _)| **known != *name);
        self.breakers.push((Arc::from(name), policy));
        self
    }

    /// Sets the id of the first task that comes without one. Default: 1. A host whose log survived
    /// goes on behind the greatest id in it.
    pub const fn first_task_id(mut self, id: TaskId) -> Self {
        self.first_task_id = id;
        self
    }

    /// Starts the ids no lower than here, whatever was set.
    pub(crate) fn ids_from(mut self, least: TaskId) -> Self {
        self.first_task_id = self.first_task_id.max(least);
        self
    }

    /// Makes the fleet and starts its threads.
    ///
    /// # Errors
    /// `InvalidArgument` for more agents than a slot number can name, for no strategy, for too many
    /// shards or for more workers than 65,535; `Io` if a thread does not start.
    pub fn build(self) -> Result<Fleet<T, O>, Error> {
        let workers = self.workers;
        let inner = self.into_inner()?;
        // From here on a failure drops the fleet, which ends the threads that did start.
        let fleet = Fleet::from_inner(Arc::clone(&inner));
        if inner.driven {
            return Ok(fleet);
        }
        let seats = std::mem::take(&mut inner.state.lock().workers.seats);
        for (index, seat) in seats.into_iter().enumerate() {
            let worker = Arc::clone(&inner);
            inner.state.lock().workers.alive += 1;
            let started = thread::Builder::new()
                .name(format!("fleet-{index}"))
                .spawn(move || worker.work(seat));
            match started {
                Ok(handle) => inner.state.lock().workers.threads.push(handle),
                Err(error) => {
                    inner.state.lock().workers.alive -= 1;
                    let message = format!("worker thread {index} of {workers} did not start");
                    return Err(Error::with_source(ErrorKind::Io, message, error));
                }
            }
        }
        Ok(fleet)
    }

    /// The fleet without its threads.
    pub(super) fn into_inner(self) -> Result<Arc<Inner<T, O>>, Error> {
        if u32::try_from(self.max_agents.get()).is_err() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("max_agents is {}, and may be {} at most", self.max_agents, u32::MAX),
            ));
        }
        let kept = Kept::new(&self.strategies).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "a fleet needs at least one strategy")
        })?;
        if self.shards.is_some_and(|shards| shards.get() > MAX_SHARDS) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("a fleet has {MAX_SHARDS} shards at most"),
            ));
        }
        let shards =
            self.shards.map_or_else(|| (2 * cores()).clamp(1, MAX_SHARDS), NonZeroUsize::get);
        let pool = Pool::new(PoolConfig {
            max_agents: self.max_agents,
            max_waiting: self.max_waiting,
            shards: shards.next_power_of_two(),
            kept,
            clock: self.clock.clone(),
            ageing: self.ageing,
            budgets: self.budgets,
        });
        let workers = self.workers.max(usize::from(self.driven));
        let workers = u16::try_from(workers).map_err(|_| {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("workers is {}, and may be {} at most", self.workers, u16::MAX),
            )
        })?;
        let (runner, mut seats) = Runner::new(workers, self.clock.clone());
        let mut stations = Vec::with_capacity(seats.len());
        for seat in &mut seats {
            let (station, taker) = Station::new();
            stations.push(station);
            seat.taker = taker;
        }
        let has_circuits = !self.breakers.is_empty();
        let signals = Signals::new(workers);
        let state = State {
            pool: Arc::clone(&pool),
            signals: signals.clone(),
            running: BySlot::default(),
            queue: Lanes::new(),
            backlog: self.observer.is_some().then(Backlog::default),
            mailed: Mailed::default(),
            stale: 0,
            timers: Timers::default(),
            ledger: Ledger::new(self.keeping),
            supervision: Supervision::with_circuits(self.breakers),
            tasks: Table::new(),
            next_task: Some(self.first_task_id.get()),
            sequence: 0,
            reserved: 0,
            lent: Lent::nothing(),
            reserved_ids: HashMap::new(),
            room: WakerSet::default(),
            progress: WakerSet::default(),
            counts: FleetStats::default(),
            draining: false,
            stopping: false,
            workers: Workers { seats, ..Workers::default() },
        };
        let inner = Arc::new_cyclic(|me| Inner {
            me: me.clone(),
            treasury: me.clone(),
            hears: me.clone(),
            pool,
            state: Tasks::new(state),
            runner,
            posts: Posts::new(),
            stations: stations.into(),
            signals,
            counters: Counters::new(),
            flights: Flights::new(),
            launcher: self.spawner.map(Launcher::new),
            returned: self.returned,
            mailbox_capacity: self.mailbox_capacity,
            clock: self.clock,
            log: self.task_log,
            observer: self.observer,
            verifier: self.verifier,
            queue_capacity: self.queue_capacity,
            has_circuits,
            runs_tasks: workers > 0,
            driven: self.driven,
        });
        let feed: Weak<dyn Feed> = inner.me.clone();
        inner.pool.set_feed(feed);
        Ok(inner)
    }
}

impl<T, O> fmt::Debug for FleetBuilder<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetBuilder")
            .field("workers", &self.workers)
            .field("driven", &self.driven)
            .field("queue_capacity", &self.queue_capacity)
            .field("max_agents", &self.max_agents)
            .field("max_waiting", &self.max_waiting)
            .field("strategies", &self.strategies)
            .field("shards", &self.shards)
            .field("mailbox_capacity", &self.mailbox_capacity)
            .field("returned", &self.returned.is_some())
            .field("ageing", &self.ageing)
            .field("budgets", &self.budgets)
            .field("clock", &self.clock)
            .field("task_log", &self.task_log.is_some())
            .field("observer", &self.observer.is_some())
            .field("verifier", &self.verifier.is_some())
            .field("spawner", &self.spawner.is_some())
            .field("breakers", &self.breakers)
            .field("first_task_id", &self.first_task_id)
            .field("keeping", &self.keeping)
            .finish()
    }
}
