//! The agent pool: which agent gets this work, never two holders at once, and nothing lost when one dies.
//!
//! A [`Fleet`] knows its agents by what they can do, how much they may hold and how much they hold.
//! It is used in two ways, alone or together:
//!
//! - *Leases.* The host asks for an agent ([`Fleet::allocate`] and its `try_`, `_timeout` and `_async`
//!   forms), does the work itself, wherever it likes, and completes or drops the [`Lease`].
//! - *Tasks.* The host submits a [`Task`]; a worker thread of the fleet leases a fitting agent for it
//!   and runs that agent's [handler](Agent). The [`TaskHandle`] tells the [`Outcome`].
//!
//! What it guarantees:
//!
//! 1. The number of leases that are granted on an agent never exceeds its limit. Its [control lane](Fleet::tell_control)
//!    may be handled beside them, by a handler that does nothing else.
//! 2. Every accepted task gets exactly one [`Outcome`], and a [`TaskLog`] records it before anybody
//!    sees it; one that it could not record is no completion, and is counted. A handler may run more than
//!    once for a task; one attempt counts, the others are refused and counted.
//! 3. A [killed](Fleet::kill) agent is never allocated again. Its leases are void at once and its tasks
//!    run elsewhere at once, even while its handlers are still running; those that were for it alone come
//!    back as returned.
//! 4. An agent that comes free goes to the most urgent request that waits for one like it. A request
//!    that is cancelled passes on what was granted to it.
//! 5. A panic in a handler, a factory, the log, the observer, a waker or a destructor neither wedges
//!    the fleet nor ends a worker thread; it is counted. Under `panic = "abort"` it ends the process.
//! 6. A task that has a deadline has ended by then or fails, and what its handler brings later is refused. A
//!    task with an [`IdempotencyKey`] is done once as long as the key is known. A task that waits for others
//!    runs after they have ended, and cannot wait in a circle. What a [`Verifier`] rejects completes nothing.
//!
//! What it does not do: it cannot stop a handler that does not return; it does not undo what a struck
//! handler did elsewhere; waiting requests go before queued tasks of any priority when an agent comes
//! free.
//!
//! ```
//! use phalanx::fleet::{AgentSpec, Fleet, LeaseOutcome, Outcome, Request, Task};
//! use std::time::Duration;
//!
//! let fleet = Fleet::<String, usize>::builder().workers(2).build()?;
//! let counter = AgentSpec::<String, usize>::new("counter")
//!     .capability("text")
//!     .handler_fn(|task, _cx| Ok(task.payload().len()));
//! fleet.spawn_batch(&counter, 4)?;
//!
//! let handle = fleet.submit(Task::new("phalanx".to_owned()).capability("text"))?;
//! assert_eq!(*handle.wait(), Outcome::Completed(7));
//!
//! let lease = fleet.try_allocate(&Request::any().capability("text"))?;
//! lease.complete(LeaseOutcome::Succeeded)?;
//!
//! let report = fleet.shutdown(Duration::from_secs(5))?;
//! assert_eq!((report.completed, report.unfinished.len()), (1, 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod agent;
mod async_context;
mod backlog;
mod backoff;
mod batch;
mod budget;
mod builder;
mod by_slot;
mod carried;
mod crew;
mod dependencies;
mod drain;
mod drive;
mod dues;
mod ends;
mod expect;
mod flight;
mod graph;
mod groups;
mod hand;
mod handle;
mod history;
mod id;
mod inbox;
mod inner;
mod keyed;
mod lanes;
mod lease;
mod leaving;
mod ledger;
mod log;
#[cfg(all(test, phalanx_loom))]
mod loom_tests;
mod mailbox;
mod mailed;
mod options;
mod picker;
mod pool;
mod post;
mod progress;
mod purse;
mod record;
mod reply;
mod request;
mod runner;
pub mod scale;
#[cfg(all(test, phalanx_shuttle))]
mod shuttle_tests;
mod signal;
mod spawner;
mod stats;
mod stop;
mod stream;
mod submission;
mod submit;
pub mod supervise;
mod supervision;
mod table;
mod task;
mod tell;
mod timers;
mod turn;
mod verify;
mod wakers;
mod witness;
mod work;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::{Error, ErrorKind};
use crew::Crew;
use inner::{After, Inner};
use pool::Newcomers;
use submit::Patience;

pub use agent::{Agent, AgentSpec, AgentState, AgentStatus, Condition, Resources};
pub use async_context::{AsyncContext, Interruption};
pub use backoff::Backoff;
pub use batch::BatchAllocation;
pub use budget::{
    Account, Budgets, Exceeded, Limit, Meter, Payer, Quota, Reservation, Scope, UNIT_KINDS, Unit,
    Usage, Warning,
};
pub use builder::FleetBuilder;
pub use dependencies::MAX_DEPENDENCIES;
pub use drain::AgentDrain;
pub use ends::{AgentDraining, FleetDrain, FleetShutdown};
pub use expect::Expectation;
pub use graph::IfDependencyFails;
pub(crate) use handle::Ends;
pub use handle::TaskHandle;
pub use history::IdempotencyKey;
pub use id::{AgentId, Attempt, GroupKey, TaskId};
pub use lease::{Allocation, Lease, LeaseId, LeaseOutcome, Stale};
pub use log::{FleetEvent, LogPosition, Observer, RequeueReason, TaskLog};
pub use picker::{MAX_CANDIDATES, Picker};
pub use pool::{MAX_CAPABILITIES, MAX_CAPABILITY_SETS, MAX_LEASES_PER_AGENT, Strategy};
pub use progress::{MAX_NOTE_BYTES, Progress};
pub use reply::Reply;
pub use request::{AllocateError, Fit, Priority, Request};
pub use spawner::{SpawnedFuture, Spawner};
pub use stats::{DrainReport, FleetStats};
pub use stop::Killed;
pub use stream::{Ended, Outcomes};
pub use submission::{BatchSubmission, Submission};
pub use supervision::{FailureReason, StuckAction, SupervisionGroup};
pub use task::{
    Outcome, OutcomeKind, ReturnReason, SubmitError, Task, TaskContext, TaskError, TaskErrorKind,
};
pub use tell::{Returned, TellError};
pub use verify::Verifier;

/// A pool of agents, and the tasks that run on them.
///
/// `T` is what a task carries and `O` what comes of it; `Fleet<(), ()>` with no workers is a pool of
/// leases. It is a handle: clones are the same fleet.
///
/// When the last handle is dropped the fleet stops like a [`shutdown`](Self::shutdown) without a
/// timeout: queued tasks are returned, and the drop waits for handlers that run, but for async ones: what is in flight
/// is struck at once, as this may be the thread that would run it. Dropped on a worker thread it does not wait, and
/// the threads end by themselves. A handler that owns a handle keeps its
/// own fleet alive; give it a [`WeakFleet`], or call `shutdown`.
///
/// An allocation takes the lock of one shard of the agents, and choosing is O(different sets of
/// capabilities), whatever the number of agents. What concerns tasks takes one short lock.
pub struct Fleet<T = (), O = ()> {
    core: Arc<Core<T, O>>,
}

/// What the handles own together; its drop is the drop of the last handle. Workers, leases and task
/// handles hold the [`Inner`] instead, so they keep no fleet running.
struct Core<T, O> {
    inner: Arc<Inner<T, O>>,
}

impl<T, O> Drop for Core<T, O> {
    fn drop(&mut self) {
        self.inner.abandon();
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Fleet<T, O> {
    /// Starts to set one up.
    pub fn builder() -> FleetBuilder<T, O> {
        FleetBuilder::new()
    }

    fn from_inner(inner: Arc<Inner<T, O>>) -> Self {
        Self { core: Arc::new(Core { inner }) }
    }

    fn inner(&self) -> &Inner<T, O> {
        &self.core.inner
    }

    /// A handle that does not keep the fleet running; for handlers and observers.
    #[must_use]
    pub fn downgrade(&self) -> WeakFleet<T, O> {
        WeakFleet { core: Arc::downgrade(&self.core) }
    }

    /// Adds an agent.
    ///
    /// # Errors
    /// As [`spawn_batch`](Self::spawn_batch).
    pub fn spawn(&self, spec: AgentSpec<T, O>) -> Result<AgentId, Error> {
        Ok(self.spawn_batch(&spec, 1)?[0])
    }

    /// Adds several agents of one spec: all of them or none.
    ///
    /// # Errors
    /// `LimitReached` when there would be too many agents, capability names or sets of them, or when the budget of the
    /// fleet or of the type has no room for so many [launches](Meter::Launches);
    /// `InvalidArgument` for more than [`MAX_LEASES_PER_AGENT`] leases an agent; `Closed` after a shutdown;
    /// `Unsupported` for a spec with a handler in a fleet without workers, or with an async one in a fleet without
    /// a [`Spawner`].
    pub fn spawn_batch(&self, spec: &AgentSpec<T, O>, count: usize) -> Result<Vec<AgentId>, Error> {
        let limit = self.check_spec(spec)?;
        let inner = self.inner();
        let mut newcomers = Newcomers {
            name: &spec.name,
            capabilities: &spec.capabilities,
            runs_tasks: spec.factory.is_some(),
            priority: spec.priority,
            limit,
            labels: &spec.labels,
            resources: spec.resources,
            condition: spec.condition,
            era: None,
        };
        let prewarmed = spec.is_prewarmed();
        let launches = inner.charge_launches(&spec.name, spec.group, count)?;
        let (mut wakes, mut after) = (Vec::new(), After::new());
        let agents = {
            let mut guard = inner.state.lock();
            let state = &mut *guard;
            if state.stopping {
                return Err(Error::new(ErrorKind::Closed, "the fleet was shut down"));
            }
            newcomers.condition = state.supervision.first_condition(spec);
            newcomers.era = state.supervision.era_of(&spec.name);
            let agents = inner.pool.insert(&newcomers, count, &mut wakes)?;
            let agents = inner.pool.in_turn(agents);
            // Before their mailboxes open: what these take in is handled at once.
            let alike = inner.enrol(state, &agents, spec);
            for (agent, factory) in agents.iter().zip(std::iter::repeat(&spec.factory)) {
                let Some(factory) = factory else { break };
                let mut home = inner.posts.get_or_make(agent.slot).lock();
                let appointed = alike.map(|alike| (alike.tenure, alike.is_down()));
                let (tenure, down) =
                    appointed.unwrap_or_else(|| state.supervision.appointment(*agent));
                let mut crew = Crew::new(Arc::clone(factory), tenure, down, prewarmed);
                if alike.is_some_and(|alike| alike.calls) {
                    crew.call();
                }
                home.open(agent.generation, inner.mailbox_capacity, crew);
            }
            match alike {
                Some(alike) if alike.calls => inner.runner.prewarm(&agents),
                None if prewarmed => inner.call_to_prewarm(state, &agents),
                _ => {}
            }
            inner.try_circuits(state, None, &mut after);
            inner.publish_alarm(state);
            state.counts.agents_spawned += count as u64;
            inner.notify_workers(state);
            agents
        };
        dues::spend_launches(launches);
        inner.wake_all(wakes);
        if inner.observer.is_some() {
            for agent in &agents {
                inner.notice(&FleetEvent::AgentSpawned { agent: *agent });
            }
        }
        inner.finish(after);
        Ok(agents)
    }

    /// What is true of an agent now; `None` once it is gone.
    #[must_use]
    pub fn agent(&self, agent: AgentId) -> Option<AgentStatus> {
        self.core.inner.pool.status(agent)
    }

    /// What an agent is doing now, or that it has [stopped](AgentState::Stopped), however long ago; `None` if
    /// this fleet never had one of this id. (An id says nothing of which fleet it is of: that of another one may be one of
    /// this fleet's too.) O(1); it may wait for a step of the agent's shard.
    ///
    /// ```
    /// use phalanx::fleet::{AgentSpec, AgentState, Fleet};
    ///
    /// let fleet = Fleet::<(), ()>::builder().build()?;
    /// let agent = fleet.spawn(AgentSpec::new("worker"))?;
    /// assert_eq!(fleet.agent_state(agent), Some(AgentState::Ready));
    /// fleet.kill(agent)?;
    /// assert_eq!(fleet.agent_state(agent), Some(AgentState::Stopped));
    /// # Ok::<(), phalanx::Error>(())
    /// ```
    #[must_use]
    pub fn agent_state(&self, agent: AgentId) -> Option<AgentState> {
        self.core.inner.pool.state(agent)
    }

    /// What is true of all live agents at one moment, by slot. O(agents log agents), and no agent is
    /// allocated meanwhile.
    #[must_use]
    pub fn agents(&self) -> Vec<AgentStatus> {
        self.core.inner.pool.all()
    }

    /// Says what an agent is fit for; returns what it was fit for before. In one step it is allocated or
    /// not, and its free places go to those who wait. Leases that it holds live on.
    ///
    /// # Errors
    /// `NotFound` if the agent is gone.
    pub fn set_condition(&self, agent: AgentId, condition: Condition) -> Result<Condition, Error> {
        self.inner().set_condition(agent, condition).ok_or_else(|| stop::gone(agent))
    }

    /// Has an agent not be allocated any more: [`Condition::Draining`]. Its leases and running tasks live
    /// on; what lies in its mailbox waits, until it serves again or is [drained](Self::drain_agent).
    ///
    /// # Errors
    /// `NotFound` if the agent is gone.
    pub fn unroute(&self, agent: AgentId) -> Result<(), Error> {
        self.set_condition(agent, Condition::Draining).map(drop)
    }

    /// Ends an agent at once.
    ///
    /// In one step it is allocated no more, its leases are void, and the tasks that ran on it are
    /// queued again at their old places; that costs them no attempt. Handlers that are running are told
    /// ([`TaskContext::is_revoked`]) and not waited for; what they return is refused and counted. It may
    /// be called from anywhere, from a handler of that very agent too. An attempt whose outcome is
    /// being recorded has won already and is not struck.
    ///
    /// # Errors
    /// `NotFound` if the agent is gone, by an earlier kill for example.
    pub fn kill(&self, agent: AgentId) -> Result<Killed, Error> {
        self.inner().kill(agent)
    }

    /// Ends an agent that holds no lease and for which no work waits, in one step.
    ///
    /// That is how a fleet is made smaller without anybody noticing: there is no moment at which the agent
    /// is given work and is about to go. An agent that is busy is left as it is. So is one for which a task waits
    /// for other tasks, for its next attempt or for the log to accept it: if it is for this agent alone, or this is
    /// the last agent with its set of capabilities and none that could do as much is [expected](Self::expect).
    ///
    /// Of an agent that is [drained](Condition::Draining) no request keeps it, nor a batch: nothing would serve them there.
    /// They are told as it ends: those that name it that it is gone. A task for it alone does keep it, as that was
    /// accepted: [`drain_agent`](Self::drain_agent) has it run, or gives it back, and ends the agent.
    ///
    /// O(tasks that wait for others or for their next attempts), under the lock.
    ///
    /// # Errors
    /// `InUse` if it holds a lease, a task would run on it, or, unless it is drained, a request waits that names it or a
    /// batch that could be served with it and not without; `NotFound` if it is gone.
    pub fn retire(&self, agent: AgentId) -> Result<(), Error> {
        self.inner().retire(agent)
    }

    /// Takes an agent that fits, if there is one. Never waits.
    ///
    /// Which of those that fit and may hold another lease it is, the [`Strategy`] says.
    ///
    /// # Errors
    /// `NoneIdle`, `NoSuchCapability`, `AgentGone`, `StrategyNotKept`, `OverBudget` or `Closed`; with a
    /// [picker](Request::picker) `PickDeclined`, `PickLost` or `PickerFailed` too.
    #[inline]
    pub fn try_allocate(&self, request: &Request) -> Result<Lease, AllocateError> {
        self.core.inner.pool.try_allocate(request)
    }

    /// Takes several agents that fit, or several places of one, all of them or none. Never waits.
    ///
    /// They are chosen one after the other as by [`try_allocate`](Self::try_allocate), with the exactness of
    /// a strict fleet; no other allocation runs meanwhile. If there are fewer, those that were chosen are taken back
    /// unseen, and have had their [turn](Strategy::RoundRobin) all the same; by any strategy but the load they come
    /// after their equals.
    ///
    /// # Errors
    /// As [`try_allocate`](Self::try_allocate); `NoneIdle` if there are fewer, `PickerInBatch` if the request
    /// has a picker.
    pub fn try_allocate_batch(
        &self,
        request: &Request,
        count: usize,
    ) -> Result<Vec<Lease>, AllocateError> {
        self.core.inner.pool.try_allocate_batch(request, count, true)
    }

    /// Takes as many agents that fit, or places of one, as there are, up to so many. Never waits. Otherwise
    /// it is as [`try_allocate_batch`](Self::try_allocate_batch).
    ///
    /// # Errors
    /// As [`try_allocate`](Self::try_allocate); `NoneIdle` if there is none, `PickerInBatch` if the request has
    /// a picker.
    pub fn try_allocate_up_to(
        &self,
        request: &Request,
        count: usize,
    ) -> Result<Vec<Lease>, AllocateError> {
        self.core.inner.pool.try_allocate_batch(request, count, false)
    }

    /// Notices what time has brought about: gives back the agents of leases that have expired, ends the tasks
    /// that are past their deadlines, queues those whose backoff is over, starts agents again whose delay is over,
    /// notices those that have been silent, and has circuits try an agent. Returns how many leases had expired.
    ///
    /// What is due of leases and tasks the workers notice by themselves, between attempts and while they sleep; a host
    /// whose workers are all in handlers calls it for leases to come back and deadlines to be kept, and one whose
    /// fleet has no workers, or drives itself, calls it now and then; see [`Request::ttl`] for who notices expired
    /// leases besides. O(what is due), under the locks.
    pub fn tick(&self) -> usize {
        // First, as agents may go on trial that expired leases alone kept busy.
        let expired = self.core.inner.pool.keep_watch();
        self.inner().tick();
        expired
    }

    /// Takes an agent that fits, waiting on this thread for as long as it takes.
    ///
    /// Who waits is served by priority, with ageing (see [`FleetBuilder::ageing`]), then by
    /// [deadline](Request::deadline), then in the order of coming.
    ///
    /// # Errors
    /// `NoSuchCapability` as soon as no agent could serve it that lives or is [expected](Self::expect), `AgentGone` as soon as one that it names
    /// has ended, `StrategyNotKept`, `TooManyWaiting`, or `Closed`; with a [picker](Request::picker)
    /// `PickDeclined`, `PickLost` or `PickerFailed` too.
    pub fn allocate(&self, request: &Request) -> Result<Lease, AllocateError> {
        self.allocate_async(request).wait(&self.inner().clock, None)
    }

    /// Takes an agent that fits, waiting on this thread for so long at most.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate), or `Timeout`.
    pub fn allocate_timeout(
        &self,
        request: &Request,
        timeout: Duration,
    ) -> Result<Lease, AllocateError> {
        let clock = &self.inner().clock;
        self.allocate_async(request).wait(clock, Some(clock.now() + timeout))
    }

    /// Takes an agent that fits, as a future for any runtime; it resolves as
    /// [`allocate`](Self::allocate) would return.
    pub fn allocate_async(&self, request: &Request) -> Allocation {
        Allocation::new(request.clone(), Arc::clone(&self.core.inner.pool))
    }

    /// Takes several agents that fit, or several places of one, all of them or none, waiting on this thread
    /// for as long as it takes.
    ///
    /// A batch waits in the line of [`allocate`](Self::allocate), at one place of it. In its turn it gathers:
    /// a place that comes free and that nobody more urgent waits for is kept for it, and given to nobody else,
    /// until it has all. So it is not starved by those who come later and want less, and agents that it
    /// gathered are idle meanwhile. Of batches that the same agents could serve only the most urgent one that
    /// is not complete gathers, so no two of them hold what the other waits for. One for more places than the live agents
    /// have, which waits as others are [expected](Self::expect), gathers nothing until they come. What it gathered of an agent that
    /// is unrouted, fails or ends goes back.
    ///
    /// It costs O(batches that wait * sets of capabilities) under the desk's lock whenever a batch comes, goes or
    /// is complete, and while batches wait whenever agents are spawned, killed, retired or stopped.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate), or `TooFewPlaces` as soon as the live agents that fit may not hold so
    /// many leases together and no others are [expected](Self::expect), or no fleet of
    /// [that many agents](FleetBuilder::max_agents) could, or `PickerInBatch` if the request has a picker.
    pub fn allocate_batch(
        &self,
        request: &Request,
        count: usize,
    ) -> Result<Vec<Lease>, AllocateError> {
        self.allocate_batch_async(request, count).wait(&self.inner().clock, None)
    }

    /// Takes several agents that fit, waiting on this thread for so long at most; what was gathered until
    /// then goes on to others.
    ///
    /// # Errors
    /// As [`allocate_batch`](Self::allocate_batch), or `Timeout`.
    pub fn allocate_batch_timeout(
        &self,
        request: &Request,
        count: usize,
        timeout: Duration,
    ) -> Result<Vec<Lease>, AllocateError> {
        let clock = &self.inner().clock;
        self.allocate_batch_async(request, count).wait(clock, Some(clock.now() + timeout))
    }

    /// Takes several agents that fit, as a future for any runtime; it resolves as
    /// [`allocate_batch`](Self::allocate_batch) would return.
    pub fn allocate_batch_async(&self, request: &Request, count: usize) -> BatchAllocation {
        BatchAllocation::new(request.clone(), count, Arc::clone(&self.core.inner.pool))
    }

    /// Submits a task. Never waits for room.
    ///
    /// It returns once the task is accepted, which with a [`TaskLog`] means recorded. From then on the
    /// task gets exactly one outcome.
    ///
    /// # Errors
    /// The [`SubmitError`] hands the task back, and says why: the queue is full (`Full`), the fleet takes no more
    /// (`Closed`), no agent could take it that lives or is [expected](Self::expect) (`NoAgent`), its id is taken
    /// (`Duplicate`), a task of its key is being accepted (`KeyPending`), it waits for too many tasks or for one that
    /// is not known (`TooManyDependencies`, `UnknownDependency`), a budget has no room (`OverBudget`), or the log
    /// refused (`NotRecorded`).
    pub fn submit(&self, task: Task<T>) -> Result<TaskHandle<O>, SubmitError<Task<T>>> {
        self.inner().submit_one(task, Patience::None)
    }

    /// Submits a task, waiting on this thread for room for as long as it takes.
    ///
    /// Room goes to those who wait in the order of coming. A handler that waits for room would keep its
    /// worker from making some, and all of them for ever: on a worker thread of this fleet, one that drives it
    /// included, it does not wait, and says `Full`.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); `Full` on a worker thread of this fleet alone.
    pub fn submit_wait(&self, task: Task<T>) -> Result<TaskHandle<O>, SubmitError<Task<T>>> {
        self.inner().submit_one(task, Patience::Until(None))
    }

    /// Submits a task, waiting on this thread for room for so long at most.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); `Full` if there was no room in time.
    pub fn submit_timeout(
        &self,
        task: Task<T>,
        timeout: Duration,
    ) -> Result<TaskHandle<O>, SubmitError<Task<T>>> {
        let deadline = self.inner().clock.now() + timeout;
        self.inner().submit_one(task, Patience::Until(Some(deadline)))
    }

    /// Submits several tasks: all of them or none, with one call to the log. Never waits for room.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), for the first task that meets it; all are handed back.
    pub fn submit_batch(
        &self,
        tasks: Vec<Task<T>>,
    ) -> Result<Vec<TaskHandle<O>>, SubmitError<Vec<Task<T>>>> {
        self.inner().submit_many(tasks, Patience::None)
    }

    /// Submits several tasks, waiting on this thread until there is room for all of them.
    ///
    /// # Errors
    /// As [`submit_batch`](Self::submit_batch); `Full` only for more tasks than the queue can ever hold, and on a
    /// worker thread of this fleet, which [does not wait](Self::submit_wait).
    pub fn submit_batch_wait(
        &self,
        tasks: Vec<Task<T>>,
    ) -> Result<Vec<TaskHandle<O>>, SubmitError<Vec<Task<T>>>> {
        self.inner().submit_many(tasks, Patience::Until(None))
    }

    /// Submits several tasks, waiting on this thread for room for all of them, for so long at most.
    ///
    /// # Errors
    /// As [`submit_batch`](Self::submit_batch); `Full` if there was no room in time.
    pub fn submit_batch_timeout(
        &self,
        tasks: Vec<Task<T>>,
        timeout: Duration,
    ) -> Result<Vec<TaskHandle<O>>, SubmitError<Vec<Task<T>>>> {
        let deadline = self.inner().clock.now() + timeout;
        self.inner().submit_many(tasks, Patience::Until(Some(deadline)))
    }

    /// The budgets that leases are charged to, if it has any.
    #[must_use]
    pub fn budgets(&self) -> Option<&Budgets> {
        self.core.inner.pool.budgets()
    }

    /// What the fleet has done so far, in one consistent reading.
    #[must_use]
    pub fn stats(&self) -> FleetStats {
        self.inner().stats()
    }

    /// Takes no more tasks, and waits for those accepted to end, for so long at most.
    ///
    /// Leases are still granted. The fleet stays closed to tasks. Tasks that no live agent could take
    /// (the last one was killed) stay queued and are listed as unfinished.
    ///
    /// # Errors
    /// `Unsupported` on a worker thread of this fleet, which would wait for itself.
    pub fn drain(&self, timeout: Duration) -> Result<DrainReport, Error> {
        self.inner().drain(timeout)
    }

    /// Ends the fleet: returns queued tasks, waits for running ones for so long at most, strikes the
    /// rest, ends all agents and joins the threads.
    ///
    /// Requests that wait get `Closed`; leases that are still held become stale. A task whose handler
    /// did not return in time is returned, and its late result refused. A thread cannot be ended from
    /// outside: as long as a handler does not return, its thread stays and is counted in
    /// [`DrainReport::workers_left`]; call this again to wait for it. Otherwise no thread is left.
    /// Calling it again, or from several threads, is fine: each gets the report, and the shortest
    /// timeout decides when running tasks are struck.
    ///
    /// # Errors
    /// `Unsupported` on a worker thread of this fleet, which would wait for itself.
    pub fn shutdown(&self, timeout: Duration) -> Result<DrainReport, Error> {
        self.inner().shutdown(timeout)
    }
}

impl<T, O> Fleet<T, O> {
    /// The error of a [`shutdown`](Self::shutdown) on a worker thread, for whoever prepares one.
    pub(crate) fn refuse_on_worker(&self, what: &str) -> Result<(), Error> {
        self.core.inner.refuse_on_worker(what)
    }
}

impl<T, O> Clone for Fleet<T, O> {
    fn clone(&self) -> Self {
        Self { core: Arc::clone(&self.core) }
    }
}

impl<T, O> fmt::Debug for Fleet<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.inner.fmt(f)
    }
}

/// A handle that does not keep its fleet running; made by [`Fleet::downgrade`].
pub struct WeakFleet<T = (), O = ()> {
    core: Weak<Core<T, O>>,
}

impl<T, O> WeakFleet<T, O> {
    /// A full handle, if another one is still there.
    #[must_use]
    pub fn upgrade(&self) -> Option<Fleet<T, O>> {
        self.core.upgrade().map(|core| Fleet { core })
    }
}

impl<T, O> Clone for WeakFleet<T, O> {
    fn clone(&self) -> Self {
        Self { core: Weak::clone(&self.core) }
    }
}

impl<T, O> fmt::Debug for WeakFleet<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakFleet").field("alive", &(self.core.strong_count() > 0)).finish()
    }
}

/// Which shard this thread looks into first, in place of one by the number that the thread has in this process; `None`
/// for that again. For simulations of fleets with several [shards](FleetBuilder::shards), which do the same on any thread
/// then.
#[cfg(all(feature = "test-util", not(any(phalanx_loom, phalanx_shuttle))))]
pub fn set_first_shard(shard: Option<usize>) {
    crate::sync::set_first_place(shard);
}
