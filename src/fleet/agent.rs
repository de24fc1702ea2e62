//! Agents: how one is described, what it runs, how it is named and seen.

use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::async_context::AsyncContext;
use super::id::{AgentId, GroupKey};
use super::request::{Priority, add_capability};
use super::supervise::{HeartbeatPolicy, RestartPolicy};
use super::supervision::{StuckAction, StuckRule, Supervised, SupervisionGroup};
use super::task::{Task, TaskContext, TaskError};

/// What runs tasks. A factory in the [`AgentSpec`] makes it, so that it can be made anew.
///
/// One handler runs one task at a time; an agent that may hold several leases gets as many handlers.
/// No lock of the fleet is held while it runs: it may submit, allocate and kill, its own agent
/// included. A panic is caught, the attempt is lost, and the next task gets a fresh handler.
pub trait Agent<T, O>: Send {
    /// Does the work of one attempt.
    ///
    /// # Errors
    /// [`TaskError::permanent`] fails the task; [`TaskError::retryable`] runs it again while it has
    /// attempts left.
    fn handle(&mut self, task: &Task<T>, cx: &mut TaskContext<'_>) -> Result<O, TaskError>;
}

impl<T, O, A: Agent<T, O> + ?Sized> Agent<T, O> for Box<A> {
    fn handle(&mut self, task: &Task<T>, cx: &mut TaskContext<'_>) -> Result<O, TaskError> {
        (**self).handle(task, cx)
    }
}

/// A closure as a handler.
struct Closure<F>(Arc<F>);

impl<T, O, F> Agent<T, O> for Closure<F>
where
    F: Fn(&Task<T>, &mut TaskContext<'_>) -> Result<O, TaskError> + Send + Sync,
{
    fn handle(&mut self, task: &Task<T>, cx: &mut TaskContext<'_>) -> Result<O, TaskError> {
        (self.0)(task, cx)
    }
}

pub(super) type Handler<T, O> = Box<dyn Agent<T, O>>;
/// What a handler that is a future resolves to.
pub(super) type HandlerFuture<O> =
    Pin<Box<dyn Future<Output = Result<O, TaskError>> + Send + 'static>>;
pub(super) type AsyncHandler<T, O> =
    Box<dyn Fn(Arc<Task<T>>, AsyncContext) -> HandlerFuture<O> + Send + Sync>;

/// What an agent runs.
pub(super) enum Maker<T, O> {
    /// Handlers, on worker threads.
    Sync(Box<dyn Fn() -> Handler<T, O> + Send + Sync>),
    /// Futures, on the host's executor.
    Async(AsyncHandler<T, O>),
}

/// Behind one pointer, since each agent has one.
pub(super) type Factory<T, O> = Arc<Maker<T, O>>;

/// How an agent is made: its name, what it can do, how many leases it may hold, what it runs.
///
/// ```
/// use phalanx::fleet::{AgentSpec, Priority, TaskError};
/// use std::num::NonZeroU32;
///
/// let lease_only: AgentSpec<(), ()> = AgentSpec::new("crawler").capability("http");
/// let counter = AgentSpec::<String, usize>::new("counter")
///     .priority(Priority::HIGH)
///     .max_leases(NonZeroU32::new(4).ok_or("zero")?)
///     .handler_fn(|task, _cx| Ok(task.payload().len()));
/// # let _ = (lease_only, counter);
/// # Ok::<(), &str>(())
/// ```
pub struct AgentSpec<T, O> {
    pub(super) name: Arc<str>,
    pub(super) capabilities: Vec<Arc<str>>,
    pub(super) priority: Priority,
    pub(super) max_leases: NonZeroU32,
    pub(super) labels: Vec<(Arc<str>, Arc<str>)>,
    pub(super) resources: Resources,
    pub(super) condition: Condition,
    pub(super) factory: Option<Factory<T, O>>,
    prewarmed: bool,
    pub(super) supervised: Option<Supervised>,
    pub(super) heartbeat: Option<HeartbeatPolicy>,
    pub(super) stuck: Option<StuckRule>,
    pub(super) group: Option<GroupKey>,
}

impl<T, O> AgentSpec<T, O> {
    /// An agent of this name (its type: many agents may share it), without capabilities or handler.
    #[must_use]
    pub fn new(name: impl AsRef<str>) -> Self {
        Self {
            name: Arc::from(name.as_ref()),
            capabilities: Vec::new(),
            priority: Priority::NORMAL,
            max_leases: NonZeroU32::MIN,
            labels: Vec::new(),
            resources: Resources::default(),
            condition: Condition::Fit,
            factory: None,
            prewarmed: false,
            supervised: None,
            heartbeat: None,
            stuck: None,
            group: None,
        }
    }

    /// Adds something that it can do. A fleet knows at most
    /// [`MAX_CAPABILITIES`](super::MAX_CAPABILITIES) names.
    #[must_use]
    pub fn capability(mut self, name: impl AsRef<str>) -> Self {
        add_capability(&mut self.capabilities, name.as_ref());
        self
    }

    /// Sets which agent is taken first among those of equal load. Default: [`Priority::NORMAL`].
    #[must_use]
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sets how many leases it may hold at once. Default: 1.
    #[must_use]
    pub const fn max_leases(mut self, limit: NonZeroU32) -> Self {
        self.max_leases = limit;
        self
    }

    /// Sets whose budget its [launch](super::Meter::Launches) is charged to, beside the fleet's and that of its type: an
    /// agent that is spawned for a swarm or a tenant. Default: nobody's. Who leases it is another matter.
    #[must_use]
    pub const fn group(mut self, group: GroupKey) -> Self {
        self.group = Some(group);
        self
    }

    /// Adds a label, or replaces the one of that name. The fleet shows labels and makes nothing of them.
    #[must_use]
    pub fn label(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        let (name, value) = (name.as_ref(), Arc::from(value.as_ref()));
        match self.labels.iter_mut().find(|(known, _)| &**known == name) {
            Some((_, known)) => *known = value,
            None => self.labels.push((Arc::from(name), value)),
        }
        self
    }

    /// Sets what it takes of the machine. Default: nothing.
    #[must_use]
    pub const fn resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// Sets the condition in which it begins. Default: [`Condition::Fit`]. One that begins as
    /// [`Condition::Starting`] is allocated once the host says that it is fit, whether its handler was
    /// [made ahead](Self::prewarmed) or not.
    #[must_use]
    pub const fn condition(mut self, condition: Condition) -> Self {
        self.condition = condition;
        self
    }

    /// Sets what makes the handler that runs tasks on this agent. Default: none, a lease-only agent.
    ///
    /// The factory is called on a worker thread, when a task first needs a handler and again after a
    /// handler panicked. A factory that panics loses that attempt of the task. For agents that are
    /// [prewarmed](Self::prewarmed) it is called before any task is there.
    #[must_use]
    pub fn handler<A>(mut self, factory: impl Fn() -> A + Send + Sync + 'static) -> Self
    where
        A: Agent<T, O> + 'static,
    {
        self.factory = Some(Arc::new(Maker::Sync(Box::new(move || Box::new(factory())))));
        self
    }

    /// Has the handler of each agent made from this be made before the agent is in service. Default: not; what the
    /// [factory](Self::handler) loads, a model client or a connection, is paid for by the first task or message.
    ///
    /// From its spawn on such an agent is [`Starting`](AgentState::Starting), and not allocated. A worker that comes
    /// to it, or whoever [drives](super::Fleet::run_ready) the fleet, calls the factory, outside every lock, and in
    /// the step in which the handler is there the agent is what the host [wants](super::Fleet::set_condition) it to
    /// be, most often [`Ready`](AgentState::Ready): requests that wait and queued tasks are served at once, and so is
    /// what it was told meanwhile, which waits in its mailbox.
    /// [`FleetEvent::AgentPrewarmed`](super::FleetEvent::AgentPrewarmed) says so. The same happens again before each
    /// [incarnation](AgentStatus::incarnation) after the first is in service, and after a panic by which an agent lost
    /// its last idle handler; a turn of its mailbox that met the panic is over then.
    ///
    /// - *Several leases.* One handler is made ahead. The others of an agent that
    ///   [may hold several](Self::max_leases) are made when they are needed.
    /// - *Nothing to make.* An agent without a handler, or with an [async](Self::handler_async) one, is ready at once.
    /// - *A factory that panics* is a failure of the agent: if it is [supervised](Self::restart), what its policy says
    ///   follows, backoff and budget included. Otherwise the agent is [`Failed`](AgentState::Failed), which
    ///   [`FleetEvent::AgentFailed`](super::FleetEvent::AgentFailed) and
    ///   [`FleetStats::prewarms_failed`](super::FleetStats::prewarms_failed) say, and keeps its mailbox. Nothing is
    ///   tried again until the host sets its condition anew.
    /// - *The host's word.* [`Draining`](Condition::Draining) and [`Failed`](Condition::Failed) hold at once and stay:
    ///   a handler that comes later changes nothing about them, and none is made if nobody has begun. Fit and degraded
    ///   hold from when the handler is there.
    /// - *The end.* A kill, a drain and the end of the fleet find an agent without a lease, and wait for no factory; a
    ///   handler that comes too late is dropped. [`Fleet::drain`](super::Fleet::drain) waits for what was accepted,
    ///   and so for a factory only if a task or a message needs the agent. A shutdown waits for a thread that is in
    ///   one as it does for one in a handler.
    /// - *Silence.* The time in a factory counts for [`heartbeat`](Self::heartbeat) and
    ///   [`stuck_after`](Self::stuck_after). A circuit breaker hears of failures, and holds no factory back.
    ///
    /// Costs a place in the line of the workers, an entry in a table until the handler is there, and two short locks of
    /// the tasks; no lease and nothing of a budget. So a batch of 100,000 agents takes a few megabytes until they
    /// are ready, and the workers as long as 100,000 calls of the factory; mailboxes and tasks that become ready
    /// meanwhile come after those that were in line before.
    ///
    /// ```
    /// use phalanx::fleet::{Agent, AgentSpec, AgentState, Fleet, Task, TaskContext, TaskError};
    ///
    /// struct Model(usize);
    ///
    /// impl Agent<String, usize> for Model {
    ///     fn handle(&mut self, task: &Task<String>, _cx: &mut TaskContext<'_>) -> Result<usize, TaskError> {
    ///         Ok(task.payload().len() * self.0)
    ///     }
    /// }
    ///
    /// let fleet = Fleet::<String, usize>::builder().driven().build()?;
    /// // It may take long to load one.
    /// let spec = AgentSpec::new("model").handler(|| Model(2)).prewarmed();
    /// let agent = fleet.spawn(spec)?;
    /// assert_eq!(fleet.agent(agent).ok_or("gone")?.state, AgentState::Starting);
    /// fleet.run_ready(usize::MAX);
    /// assert_eq!(fleet.agent(agent).ok_or("gone")?.state, AgentState::Ready);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn prewarmed(mut self) -> Self {
        self.prewarmed = true;
        self
    }

    /// Whether there is a handler to make ahead.
    pub(super) fn is_prewarmed(&self) -> bool {
        self.prewarmed && matches!(self.factory.as_deref(), Some(Maker::Sync(_)))
    }

    /// Has each agent made from this be supervised. Default: not, and an agent whose handler panics gets a new
    /// one and goes on.
    ///
    /// A panic of its handler, or of what makes it, is a failure of the agent; so is an error that the handler
    /// returns, if the policy [says so](RestartPolicy::on_errors), and what the host
    /// [reports](super::Fleet::report_failure). In the step in which it has failed, and before its lease is given
    /// back, it is allocated no more ([`AgentState::Failed`]) and its idle handlers are given up. What runs on it
    /// besides goes on; its mailbox keeps its messages and takes more. Once the delay of the policy is over it is
    /// in service again, with new handlers and a higher [incarnation](AgentStatus::incarnation). A failure of an
    /// earlier incarnation that comes late changes nothing, and is counted. A handler that
    /// [has its agent stop](super::TaskContext::stop_agent) is no failure, and starts it again where the policy says
    /// [`Always`](super::supervise::Restart::Always).
    ///
    /// If the policy does not have it started again, or its budget is used up, the agent ends: its tasks run
    /// elsewhere, or come back as returned if they were for it alone. The task whose attempt failed has lost an
    /// attempt in any case. While an agent is down, what the host [wants](super::Fleet::set_condition) of it
    /// takes effect when it is started. It is started by a worker, between attempts or as it sleeps, or by
    /// [`Fleet::tick`](super::Fleet::tick).
    ///
    /// ```
    /// use phalanx::fleet::supervise::{Restart, RestartPolicy};
    /// use phalanx::fleet::{AgentSpec, Backoff};
    /// use std::time::Duration;
    ///
    /// let policy = RestartPolicy::new(Restart::OnFailure)
    ///     .budget(5, Duration::from_secs(60))
    ///     .backoff(Backoff::exponential(Duration::from_millis(50), Duration::from_secs(5)));
    /// let spec = AgentSpec::<String, usize>::new("counter")
    ///     .handler_fn(|task, _cx| Ok(task.payload().len()))
    ///     .restart(policy);
    /// # let _ = spec;
    /// ```
    #[must_use]
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.supervised = Some(Supervised::Alone(policy));
        self
    }

    /// Sets how long each agent made from this may be silent. Default: as long as it likes.
    ///
    /// It is heard of when somebody says so ([`Fleet::heartbeat`](super::Fleet::heartbeat),
    /// [`TaskContext::heartbeat`](super::TaskContext::heartbeat)), and when an attempt or
    /// a message of its ends; one that has nothing to do and whose host says nothing is silent too. After the first
    /// threshold it is [`Degraded`](AgentState::Degraded) until it is heard of. After the second it has failed: it is
    /// started again as its [restart policy](Self::restart) says, or, without one, is left failed until the host
    /// [sets its condition](super::Fleet::set_condition) anew. Silence is noticed by workers, between attempts or as
    /// they sleep, and by [`Fleet::tick`](super::Fleet::tick). Costs a short lock for each message of such agents.
    #[must_use]
    pub const fn heartbeat(mut self, policy: HeartbeatPolicy) -> Self {
        self.heartbeat = Some(policy);
        self
    }

    /// Sets for how long an attempt or a message of each agent made from this may be without a
    /// [checkpoint](super::TaskContext::checkpoint), and what is done about one that is. Default: as long as it likes.
    ///
    /// The time counts from before its handler is called, or made for it. Each such silence is reported once, by
    /// [`FleetEvent::AttemptStuck`](super::FleetEvent::AttemptStuck), if somebody looks while it lasts: workers do, between
    /// attempts or as they sleep, and [`Fleet::tick`](super::Fleet::tick). Nobody else does: when every worker is
    /// in a handler, the host has to tick. A killed agent is not started again, whatever its
    /// [restart policy](Self::restart); its thread is not interrupted, and what the stuck handler returns after
    /// all is refused. Costs two short locks of the tasks for each attempt of such agents.
    ///
    /// ```
    /// use phalanx::fleet::{AgentSpec, StuckAction};
    /// use std::time::Duration;
    ///
    /// let spec = AgentSpec::<Vec<u32>, u32>::new("summer")
    ///     .stuck_after(Duration::from_secs(30), StuckAction::Kill)
    ///     .handler_fn(|task, cx| {
    ///         let mut sum = 0;
    ///         for number in task.payload() {
    ///             cx.checkpoint("sum");
    ///             sum += number;
    ///         }
    ///         Ok(sum)
    ///     });
    /// # let _ = spec;
    /// ```
    #[must_use]
    pub const fn stuck_after(mut self, silence: Duration, action: StuckAction) -> Self {
        self.stuck = Some((silence, action));
        self
    }

    /// Has the agents made from this be supervised [with others](SupervisionGroup). It takes the place of
    /// [`restart`](Self::restart), whose other rules hold.
    #[must_use]
    pub fn supervised_by(mut self, group: &SupervisionGroup) -> Self {
        self.supervised = Some(Supervised::Together(group.clone()));
        self
    }

    /// Sets a closure as the handler of every agent made from this.
    #[must_use]
    pub fn handler_fn<F>(self, handler: F) -> Self
    where
        F: Fn(&Task<T>, &mut TaskContext<'_>) -> Result<O, TaskError> + Send + Sync + 'static,
    {
        let handler = Arc::new(handler);
        self.handler(move || Closure(Arc::clone(&handler)))
    }

    /// Sets a function that returns a future as the handler of every agent made from this.
    ///
    /// A worker calls the function, outside the fleet's locks, and gives the future to the host's executor
    /// ([`FleetBuilder::spawner`](super::FleetBuilder::spawner)). From then on the attempt occupies no worker; it
    /// holds its lease until the future resolves or is dropped. So an agent has as many futures at once as it may
    /// hold leases, and messages of its mailbox begin in the order of coming.
    ///
    /// A panic, in the function or in the future, is caught and the attempt lost, as is that of a future that the
    /// executor drops before it has resolved ([`TaskErrorKind::Dropped`](super::TaskErrorKind::Dropped)).
    /// When the agent is killed or the deadline passed, the future is not dropped: it is told
    /// ([`AsyncContext::revoked`]), and what comes of it is refused as it would be of any handler. When the task
    /// is cancelled it is told too ([`AsyncContext::cancelled`]), and an output that it brings all the same counts.
    ///
    /// ```
    /// use phalanx::fleet::{AgentSpec, Fleet, Outcome, SpawnedFuture, Task};
    /// use std::sync::Arc;
    ///
    /// # let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
    /// let tokio = runtime.handle().clone();
    /// let spawner = Arc::new(move |future: SpawnedFuture| drop(tokio.spawn(future)));
    /// let fleet = Fleet::<String, usize>::builder().workers(1).spawner(spawner).build()?;
    /// let counter = AgentSpec::<String, usize>::new("counter").handler_async(|task, _cx| async move {
    ///     tokio::task::yield_now().await;
    ///     Ok(task.payload().len())
    /// });
    /// fleet.spawn(counter)?;
    /// let handle = fleet.submit(Task::new("phalanx".to_owned()))?;
    /// assert_eq!(*handle.wait(), Outcome::Completed(7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn handler_async<F, R>(mut self, handler: F) -> Self
    where
        F: Fn(Arc<Task<T>>, AsyncContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O, TaskError>> + Send + 'static,
    {
        let handler: AsyncHandler<T, O> = Box::new(move |task, cx| Box::pin(handler(task, cx)));
        self.factory = Some(Arc::new(Maker::Async(handler)));
        self
    }
}

impl<T, O> Clone for AgentSpec<T, O> {
    fn clone(&self) -> Self {
        Self {
            name: Arc::clone(&self.name),
            capabilities: self.capabilities.clone(),
            priority: self.priority,
            max_leases: self.max_leases,
            labels: self.labels.clone(),
            resources: self.resources,
            condition: self.condition,
            factory: self.factory.clone(),
            prewarmed: self.prewarmed,
            supervised: self.supervised.clone(),
            heartbeat: self.heartbeat,
            stuck: self.stuck,
            group: self.group,
        }
    }
}

impl<T, O> fmt::Debug for AgentSpec<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentSpec")
            .field("name", &self.name)
            .field("capabilities", &self.capabilities)
            .field("priority", &self.priority)
            .field("max_leases", &self.max_leases)
            .field("labels", &self.labels)
            .field("resources", &self.resources)
            .field("condition", &self.condition)
            .field("has_handler", &self.factory.is_some())
            .field("prewarmed", &self.prewarmed)
            .field("supervised", &self.supervised)
            .field("heartbeat", &self.heartbeat)
            .field("stuck_after", &self.stuck)
            .field("group", &self.group)
            .finish()
    }
}

/// What an agent is fit for, as the host says with [`Fleet::set_condition`](super::Fleet::set_condition).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Condition {
    /// It is being made ready, and not allocated yet.
    Starting,
    /// It is allocated.
    #[default]
    Fit,
    /// It is allocated where no agent that is fit would do.
    Degraded,
    /// It is not allocated any more; the leases that it holds live on.
    Draining,
    /// It is not allocated, since it does not work; the leases that it holds live on.
    Failed,
}

/// What an agent is doing, derived from its condition and its leases and from nothing else, or that it has stopped,
/// which its id tells for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AgentState {
    /// It is being made ready.
    Starting,
    /// It is fit and holds no lease.
    Ready,
    /// It is fit and holds at least one lease; it may have room for more.
    Busy,
    /// It is degraded: the last to be allocated.
    Degraded,
    /// It is not allocated any more.
    Draining,
    /// It has failed.
    Failed,
    /// It has ended: it was killed, retired or drained, its restarts were used up, or its fleet has shut down. Only
    /// [`Fleet::agent_state`](super::Fleet::agent_state) says so: no [`AgentStatus`] is left of it.
    Stopped,
}

impl AgentState {
    pub(super) const fn of(condition: Condition, load: u32) -> Self {
        match condition {
            Condition::Starting => Self::Starting,
            Condition::Fit if load == 0 => Self::Ready,
            Condition::Fit => Self::Busy,
            Condition::Degraded => Self::Degraded,
            Condition::Draining => Self::Draining,
            Condition::Failed => Self::Failed,
        }
    }
}

/// What an agent takes of the machine, as its spec says; the fleet passes it on and measures nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Processor time, in thousandths of one processor.
    pub cpu_millis: u32,
}

/// What is true of a live agent at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentStatus {
    /// Which agent.
    pub id: AgentId,
    /// The name of its spec.
    pub name: Arc<str>,
    /// What it is doing.
    pub state: AgentState,
    /// The leases it holds; one more than it may while it handles its [control lane](super::Fleet::tell_control) beside
    /// them.
    pub load: u32,
    /// The leases it may hold.
    pub max_leases: u32,
    /// Its priority.
    pub priority: Priority,
    /// Whether it runs tasks, or is for leases alone.
    pub has_handler: bool,
    /// The labels of its spec, in their order.
    pub labels: Arc<[(Arc<str>, Arc<str>)]>,
    /// The resources of its spec.
    pub resources: Resources,
    /// Which incarnation it is of those that its [supervision](AgentSpec::restart) has made; 1 is the first. It
    /// goes up when the agent fails.
    pub incarnation: u32,
}

impl AgentStatus {
    /// The value of a label, if the agent has it.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(known, _)| &**known == name).map(|(_, value)| &**value)
    }
}
