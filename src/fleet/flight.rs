//! Attempts whose handlers are futures: begun by a worker, run by the host's executor.
//!
//! Rules that hold here:
//!
//! 1. A flight is one attempt, or one message. It holds a lease of its agent and no worker, and ends exactly once:
//!    when its future resolves, panics or is dropped, whichever comes first, or at once if the handler panics
//!    before there is a future.
//! 2. It is in the table from before the handler is called until what came of it has been counted. Its future is
//!    live until it has ended, which is before anybody learns what came of it.
//! 3. What came of it passes the same checks as what a worker brings: a struck attempt brings nothing.
//! 4. The future knows the fleet weakly: an executor that never lets go of it keeps no fleet.
//! 5. Of a mailbox, one message flies for each lease of the agent, and they begin in the order of coming.
//! 6. A drain waits for messages that fly until it is known what comes of them: of a question that was struck that is so
//!    once the asker was told, however long its future is not dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::ops::RangeBounds;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use super::agent::{AsyncHandler, HandlerFuture};
use super::async_context::AsyncContext;
use super::groups::Paid;
use super::hand::Taker;
use super::id::{AgentId, Attempt, TaskId};
use super::inner::{After, Inner, Phase};
use super::pool::Taken;
use super::post::{Message, Post, Station};
use super::reply::ReplyCell;
use super::signal::{Signal, Whose, Word};
use super::spawner::{SpawnedFuture, Spawner};
use super::supervision::{Tenure, Watch};
use super::task::{ReturnReason, Task, TaskError};
use super::wakers::guarded;
use super::work::Attempted;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The flights of a fleet (rule 2).
pub(super) struct Flights<O> {
    table: Mutex<Table<O>>,
    /// How many futures have not ended.
    live: AtomicUsize,
    /// Messages that ended as handled, and as failed.
    pub(super) handled: AtomicU64,
    pub(super) failed: AtomicU64,
}

struct Table<O> {
    next: u64,
    /// By agent, and in the order in which they began.
    flying: BTreeMap<(AgentId, u64), Flight<O>>,
    messages: usize,
    /// Whether nobody waits for them any more.
    given_up: bool,
}

struct Flight<O> {
    task: Option<TaskId>,
    signal: Arc<Signal>,
    asker: Option<Arc<ReplyCell<O>>>,
    /// Whether it is of a message of which it is not known yet what comes (rule 6).
    is_open: bool,
}

/// What a flight is for.
pub(super) enum Cargo<T, O> {
    Task(Attempted<T>),
    /// The lease, and the incarnation of its agent that it began in.
    Message(Taken, Tenure, Arc<Task<T>>, Option<Arc<ReplyCell<O>>>),
}

impl<T, O> Cargo<T, O> {
    const fn agent(&self) -> AgentId {
        match self {
            Self::Task(attempted) => attempted.agent,
            Self::Message(taken, ..) => taken.agent,
        }
    }

    const fn tenure(&self) -> Tenure {
        match self {
            Self::Task(attempted) => attempted.tenure,
            Self::Message(_, tenure, ..) => *tenure,
        }
    }

    fn task(&self) -> Arc<Task<T>> {
        match self {
            Self::Task(attempted) => attempted.task.to_lend(),
            Self::Message(_, _, task, _) => Arc::clone(task),
        }
    }
}

impl<O> Flights<O> {
    pub(super) fn new() -> Self {
        let table = Table { next: 0, flying: BTreeMap::new(), messages: 0, given_up: false };
        Self {
            table: Mutex::new(table),
            live: AtomicUsize::new(0),
            handled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// How many futures have not ended.
    pub(super) fn len(&self) -> usize {
        // Relaxed: who has learnt what came of a future has learnt this (rule 2).
        self.live.load(Ordering::Relaxed)
    }

    /// How many messages fly that a drain waits for.
    pub(super) fn messages(&self) -> usize {
        let table = self.table.lock();
        if table.given_up { 0 } else { table.messages }
    }

    /// Counts a flight in; whether everybody has given up.
    fn begin(&self, agent: AgentId, flight: Flight<O>) -> (u64, bool) {
        self.live.fetch_add(1, Ordering::Relaxed);
        let mut table = self.table.lock();
        table.next += 1;
        let number = table.next;
        table.messages += usize::from(flight.is_open);
        table.flying.insert((agent, number), flight);
        (number, table.given_up)
    }

    /// Counts a flight out.
    fn end(&self, agent: AgentId, number: u64) {
        let flight = {
            let mut table = self.table.lock();
            let flight = table.flying.remove(&(agent, number));
            let is_open = flight.as_ref().is_some_and(|flight| flight.is_open);
            table.messages -= usize::from(is_open);
            flight
        };
        drop(flight);
    }

    /// It is known what comes of a message, which still flies.
    fn close(&self, agent: AgentId, number: u64) {
        let mut guard = self.table.lock();
        let table = &mut *guard;
        if let Some(flight) = table.flying.get_mut(&(agent, number)) {
            table.messages -= usize::from(std::mem::take(&mut flight.is_open));
        }
    }

    fn count(&self, handled: bool) {
        let counter = if handled { &self.handled } else { &self.failed };
        // Ordering: Release, pairs with the Acquire of `Counters::read`, as in `Station::count`.
        counter.fetch_add(1, Ordering::Release);
    }
}

impl<O> fmt::Debug for Flights<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("flying", &self.len()).finish_non_exhaustive()
    }
}

/// The host's executor, and how it is handed a future: what is handed is `Send`, as those who make one know.
pub(super) struct Launcher<T, O> {
    spawner: Arc<dyn Spawner>,
    boxed: fn(Flying<T, O>) -> SpawnedFuture,
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Launcher<T, O> {
    pub(super) fn new(spawner: Arc<dyn Spawner>) -> Self {
        Self { spawner, boxed: |flying| Box::pin(flying) }
    }
}

/// What the executor runs.
pub(super) struct Flying<T, O> {
    fleet: Weak<Inner<T, O>>,
    number: u64,
    signal: Arc<Signal>,
    watch: Option<Arc<Watch>>,
    future: Option<HandlerFuture<O>>,
    /// Until it has ended (rule 1).
    cargo: Option<Cargo<T, O>>,
}

// What it holds is behind pointers.
impl<T, O> Unpin for Flying<T, O> {}

impl<T, O> Future for Flying<T, O> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(future) = &mut self.future else { return Poll::Ready(()) };
        let result = match guarded(|| future.as_mut().poll(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => result,
            Err(what) => Err(TaskError::panicked(format!("the handler panicked: {what}"))),
        };
        self.land(result);
        Poll::Ready(())
    }
}

impl<T, O> Drop for Flying<T, O> {
    fn drop(&mut self) {
        self.land(Err(TaskError::dropped()));
    }
}

impl<T, O> Flying<T, O> {
    fn land(&mut self, result: Result<O, TaskError>) {
        let (future, cargo) = (self.future.take(), self.cargo.take());
        let Some(cargo) = cargo else { return };
        if let Some(inner) = self.fleet.upgrade() {
            // Before anybody sees the outcome, so that what the future held is free then.
            inner.discard(future);
            inner.unwatch(self.watch.take());
            inner.landed(self.number, cargo, &self.signal, result);
        } else {
            // The fleet is gone, and with it whoever would read the counters.
            let _ = guarded(|| drop(future));
            let _ = guarded(|| drop(result));
            let _ = guarded(|| drop(cargo));
        }
    }
}

impl<T, O> Inner<T, O> {
    /// Calls an async handler and gives what it returns to the executor. Outside every lock.
    pub(super) fn launch(
        &self,
        handler: &AsyncHandler<T, O>,
        cargo: Cargo<T, O>,
        signal: Arc<Signal>,
    ) {
        let (task, attempt, asker) = match &cargo {
            Cargo::Task(attempted) => (Some(attempted.id), attempted.attempt, None),
            Cargo::Message(.., cell) => (None, Attempt::NONE, cell.clone()),
        };
        let agent = cargo.agent();
        let flight = Flight { task, signal: Arc::clone(&signal), asker, is_open: task.is_none() };
        let (number, given_up) = self.flights.begin(agent, flight);
        let own = (agent, number)..=(agent, number);
        if given_up {
            self.strike_flights(own, |_| true, ReturnReason::Shutdown);
        } else if task.is_none() && !self.pool.lives(agent) {
            // Whoever ended the agent looked at the flights after that, and maybe before this one was there.
            self.strike_flights(own, |_| true, ReturnReason::AgentGone);
        }
        let watch = self.watch(agent, cargo.tenure(), task, attempt);
        let context = AsyncContext {
            task,
            attempt,
            agent,
            signal: Arc::clone(&signal),
            watch: watch.clone(),
            purse: self.weak_purse(cargo.task().request().named_group()),
        };
        let payload = cargo.task();
        let fleet = Weak::clone(&self.me);
        let mut flying = Flying { fleet, number, signal, watch, future: None, cargo: Some(cargo) };
        match guarded(|| handler(payload, context)) {
            Err(what) => {
                flying.land(Err(TaskError::panicked(format!("the handler panicked: {what}"))));
            }
            Ok(future) => {
                flying.future = Some(future);
                let launcher = self.launcher.as_ref().expect("no async agent without a spawner");
                let future = (launcher.boxed)(flying);
                if guarded(|| launcher.spawner.spawn(future)).is_err() {
                    self.state.lock().counts.other_panics += 1;
                }
            }
        }
    }
}

impl<T, O> Inner<T, O> {
    /// Ends a flight (rule 3).
    fn landed(
        &self,
        number: u64,
        cargo: Cargo<T, O>,
        signal: &Signal,
        result: Result<O, TaskError>,
    ) {
        // Relaxed: as in `Flights::len`.
        self.flights.live.fetch_sub(1, Ordering::Relaxed);
        let agent = cargo.agent();
        match cargo {
            Cargo::Task(attempted) => {
                let Attempted { task, attempt, .. } = &attempted;
                let result = self.verified(task, *attempt, signal, result);
                let next = self.conclude(attempted, signal, result, None, None);
                debug_assert!(next.is_none(), "none was wanted");
                self.flights.end(agent, number);
            }
            Cargo::Message(taken, tenure, task, cell) => {
                let count = |handled| self.flights.count(handled);
                let well = result.is_ok();
                self.message_ended((agent, tenure), result, cell.as_deref(), count);
                if signal.stops_agent() {
                    self.stop_agent(agent, tenure);
                }
                self.discard(task);
                self.flights.end(agent, number);
                self.release(taken, well);
            }
        }
        // Whoever drains or stops says so before it looks at the table.
        if self.runner.takes_no_more() {
            self.tell_progress();
        }
    }

    /// Strikes the flights of an agent that is gone. Its tasks are struck elsewhere.
    pub(super) fn strike_flights_of(&self, agent: AgentId, reason: ReturnReason) {
        let of_agent = (agent, 0)..=(agent, u64::MAX);
        self.strike_flights(of_agent, |flight| flight.task.is_none(), reason);
    }

    /// Strikes all flights, and those that come later: for a fleet whose last handle is gone, which may be dropped
    /// on the very thread that would run them.
    pub(super) fn give_up_flights(&self) {
        self.flights.table.lock().given_up = true;
        self.strike_flights(.., |_| true, ReturnReason::Shutdown);
    }

    /// Strikes the messages in flight, for a fleet whose agents have ended.
    pub(super) fn strike_messages_in_flight(&self) {
        self.strike_flights(.., |flight| flight.task.is_none(), ReturnReason::Shutdown);
    }

    fn strike_flights(
        &self,
        among: impl RangeBounds<(AgentId, u64)>,
        which: impl Fn(&Flight<O>) -> bool,
        reason: ReturnReason,
    ) {
        let struck: Vec<_> = {
            let mut table = self.flights.table.lock();
            let flights = table.flying.range_mut(among).filter(|(_, flight)| which(flight));
            let strike = |(key, flight): (&(AgentId, u64), &mut Flight<O>)| {
                let asker = flight.asker.take().map(|asker| (*key, asker));
                (flight.task, Arc::clone(&flight.signal), asker)
            };
            flights.map(strike).collect()
        };
        if struck.is_empty() {
            return;
        }
        let mut after = After::new();
        let mut askers = Vec::new();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            for (task, signal, asker) in struck {
                signal.say(Word::Revoked, &mut after.wakes);
                askers.extend(asker);
                let Some(id) = task else { continue };
                // Another attempt of it may run by now, or none.
                let runs = state.tasks.get(&id).is_some_and(|record| {
                    matches!(
                        &record.phase,
                        Phase::Running { signal: Whose::Own(of), .. } if Arc::ptr_eq(of, &signal)
                    )
                });
                if runs {
                    state.leave_agent(id);
                    state.strike(id, &mut after);
                }
            }
            self.notify_workers(state);
        }
        self.finish(after);
        if askers.is_empty() {
            return;
        }
        for ((agent, number), asker) in askers {
            self.strike_asker(Some(asker), reason);
            // Rule 6.
            self.flights.close(agent, number);
        }
        if self.runner.takes_no_more() {
            self.tell_progress();
        }
    }
}

impl<T, O> Inner<T, O> {
    /// A turn with the mailbox of an agent whose handler is a future (rule 5). `true` means that the lease of the
    /// turn flies now.
    pub(super) fn turn_async(
        &self,
        taken: Taken,
        post: &Post<T, O>,
        (station, taker): (&Station<T, O>, &mut Taker),
        handler: &AsyncHandler<T, O>,
        tenure: Tenure,
    ) -> bool {
        let signal = Arc::new(Signal::default());
        let (payload, cell) = match station.take(taker) {
            // Whoever closed the mailbox took it back.
            None => return false,
            Some(Message::Task(id)) => return self.launch_mailed(taken, tenure, id, handler),
            Some(Message::Told(payload)) => (payload, None),
            Some(Message::Asked(payload, cell)) => (payload, Some(cell)),
        };
        let task = Arc::new(Task::new(payload));
        self.launch(handler, Cargo::Message(taken, tenure, task, cell), signal);
        let asker = {
            // In one step with the mailbox, which is this worker's until the turn ends, or closed.
            let _home = post.lock();
            station.hand.lock().asker.take()
        };
        drop(asker);
        true
    }

    fn launch_mailed(
        &self,
        taken: Taken,
        tenure: Tenure,
        id: TaskId,
        handler: &AsyncHandler<T, O>,
    ) -> bool {
        let Some((attempted, signal)) = self.begin_mailed(taken.agent, tenure, id, |_| false)
        else {
            return false;
        };
        let paid = Paid { lease: Some(taken), ..attempted.paid };
        let attempted = Attempted { paid, ..attempted };
        self.launch(handler, Cargo::Task(attempted), signal);
        true
    }
}
