//! What all handles of a fleet share: the one lock, the tasks' table, and what is done outside it.
//!
//! Rules that hold here:
//!
//! 1. One lock guards tasks and what agents run. The pool of agents and leases has locks of its own, which
//!    are taken under this one and never the other way round; what ends an agent or leases it for a task
//!    holds this one meanwhile, so a kill that requeues or an allocation for a task is one step, and every
//!    reading of the counters is consistent.
//! 2. User code (handlers, factories, log, observer, wakers, destructors) runs outside the lock; a
//!    panic in it is caught and counted. What is to be done outside is collected in an [`After`].
//! 3. A task's phase says who may end it. Queued: whoever takes it out of the queue under the lock.
//!    Running: its attempt, or whoever strikes that attempt. Committing: only the one who claimed it.
//!    So a task is settled once, and an attempt that was struck finds another phase than its own.
//!    Mailed, in the mailbox of the one agent that it is for: whoever changes the phase under the lock; what
//!    lies in the mailbox is its id, and says nothing.
//! 4. `queue` holds exactly the tasks whose phase is queued, and `mailed` counts those whose phase is mailed.
//! 5. If a queued task fits an available agent, and no budget of its group is in the way, then the queue of tasks is in the runner's line, or a worker
//!    looks into it, or whoever brought that about is on the way to line it up. A worker that finds no agent
//!    for a task says to the pool that workers starve, and looks once more, before it turns to other things.

use std::collections::{HashMap, VecDeque};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Weak};
use std::task::Waker;

use super::agent::Handler;
use super::backlog::Backlog;
use super::budget::Warning;
use super::by_slot::BySlot;
use super::carried::Carried;
use super::flight::{Flights, Launcher};
use super::handle::{Cancels, OutcomeCell};
use super::id::{AgentId, Attempt, TaskId};
use super::inbox::{Lent, Tasks};
use super::lanes::{Lanes, Mask, Place};
use super::ledger::{Forgotten, Ledger};
use super::log::{FleetEvent, LogPosition, Observer, RequeueReason, TaskLog};
use super::mailed::Mailed;
use super::pool::{Feed, Pool};
use super::post::{Counters, Posts, Station};
use super::progress::Progress;
use super::purse::WeakTreasury;
use super::runner::{Runner, Seat};
use super::signal::{Signals, Whose, Word};
use super::stats::FleetStats;
use super::stream::Ended;
use super::supervision::{Hears, Supervision};
use super::table::Table;
use super::task::{Outcome, OutcomeKind, ReturnReason, Task, TaskError};
use super::tell::{Remains, Returned};
use super::timers::{Alarm, Timers};
use super::verify::Verifier;
use super::wakers::{WakerSet, guarded};
use crate::clock::{Clock, Timestamp};
use crate::sync::{Shared, thread};
use crate::{Error, ErrorKind};

/// See the file's head.
pub(super) struct Inner<T, O> {
    pub(super) me: Weak<Self>,
    /// The same for what handlers spend.
    pub(super) treasury: WeakTreasury,
    /// The same, for what attempts say.
    pub(super) hears: Weak<dyn Hears>,
    pub(super) pool: Arc<Pool>,
    pub(super) state: Tasks<T, O>,
    pub(super) runner: Runner,
    pub(super) posts: Posts<T, O>,
    pub(super) stations: Box<[Station<T, O>]>,
    pub(super) signals: Signals,
    pub(super) counters: Counters,
    pub(super) flights: Flights<O>,
    pub(super) launcher: Option<Launcher<T, O>>,
    /// Who is given the payloads that come back.
    pub(super) returned: Option<Arc<dyn Returned<T>>>,
    /// How many messages the work lane of a mailbox holds.
    pub(super) mailbox_capacity: NonZeroU32,
    pub(super) clock: Clock,
    pub(super) log: Option<Arc<dyn TaskLog<T, O>>>,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) verifier: Option<Arc<dyn Verifier<T, O>>>,
    pub(super) queue_capacity: NonZeroUsize,
    /// Whether there are workers.
    pub(super) runs_tasks: bool,
    /// Whether some type of agents has a circuit breaker.
    pub(super) has_circuits: bool,
    /// Whether the host's threads are the workers.
    pub(super) driven: bool,
}

pub(super) struct State<T, O> {
    pub(super) pool: Arc<Pool>,
    pub(super) signals: Signals,
    /// The tasks that run on the agents now, each where its phase says. An agent that never had one is not in it.
    pub(super) running: BySlot<Vec<TaskId>>,
    pub(super) queue: Lanes<TaskId>,
    /// When it is told that tasks wait, if anybody is.
    pub(super) backlog: Option<Backlog>,
    pub(super) timers: Timers,
    pub(super) ledger: Ledger<O>,
    pub(super) supervision: Supervision,
    pub(super) tasks: Table<Record<T, O>>,
    /// Tasks that wait in mailboxes.
    pub(super) mailed: Mailed,
    /// The ids that lie in mailboxes, or are on the way there or back, and whose tasks are not to run there.
    pub(super) stale: usize,
    pub(super) next_task: Option<u64>,
    pub(super) sequence: u64,
    /// Places in the queue held for tasks whose acceptance is being recorded.
    pub(super) reserved: usize,
    /// Room and ids that plain tasks come in by.
    pub(super) lent: Lent<T, O>,
    /// With the agent that each is for, if it is for one alone.
    pub(super) reserved_ids: HashMap<TaskId, Option<AgentId>>,
    /// Submitters that wait for room; wakers of this crate's own parkers.
    pub(super) room: WakerSet,
    /// Those that wait for tasks or workers to end; wakers of this crate's own parkers.
    pub(super) progress: WakerSet,
    /// Only the fields that count events are kept here; see [`State::stats`].
    pub(super) counts: FleetStats,
    pub(super) draining: bool,
    pub(super) stopping: bool,
    pub(super) workers: Workers,
}

/// The worker threads, by what they are doing.
#[derive(Debug, Default)]
pub(super) struct Workers {
    /// The seats of those that are still to be started; of a driven fleet, those that nobody has.
    pub(super) seats: Vec<Seat>,
    /// The host's threads that drive.
    pub(super) driving: Vec<thread::ThreadId>,
    /// How many wait for a seat, to drive a drain.
    pub(super) wait_for_seat: usize,
    pub(super) threads: Vec<thread::JoinHandle<()>>,
    pub(super) alive: usize,
    /// Whether the pool was told that tasks wait for an agent.
    pub(super) starve: bool,
    /// Threads that are ending and that somebody is waiting for: they may be calling the host's wakers still.
    pub(super) joining: Vec<thread::ThreadId>,
}

pub(super) struct Record<T, O> {
    pub(super) task: Carried<T>,
    pub(super) cell: Shared<OutcomeCell<O>>,
    pub(super) mask: Mask,
    /// Kept through all attempts: a task that runs again does not queue behind newer ones.
    pub(super) place: Place,
    pub(super) attempt: Attempt,
    /// Attempts lost to errors and panics; a killed agent does not count.
    pub(super) attempts_lost: u32,
    pub(super) deadline: Option<Timestamp>,
    pub(super) cancelled: bool,
    pub(super) phase: Phase,
}

pub(super) enum Phase {
    Queued,
    Mailed,
    /// Waits for other tasks to end.
    Held,
    /// Waits for its next attempt until then.
    Delayed {
        until: Timestamp,
    },
    Running {
        agent: AgentId,
        /// Where it is in the agent's list.
        at: usize,
        signal: Whose,
    },
    Committing,
}

/// The right to end a task, which is in phase committing.
pub(super) struct Claim<T, O> {
    pub(super) id: TaskId,
    pub(super) attempt: Attempt,
    pub(super) task: Carried<T>,
    pub(super) outcome: Outcome<O>,
}

/// What is to be done once the lock is given back.
pub(super) struct After<T, O> {
    pub(super) wakes: Vec<Waker>,
    pub(super) events: Vec<FleetEvent>,
    pub(super) claims: Vec<Claim<T, O>>,
    /// Tasks to be put into the mailbox of their agent.
    pub(super) mail: Vec<(AgentId, TaskId)>,
    /// What is seldom left.
    pub(super) aside: Option<Box<Aside<T, O>>>,
}

/// What agents that failed leave behind.
pub(super) struct Aside<T, O> {
    /// To be dropped.
    pub(super) handlers: Vec<Handler<T, O>>,
    /// Agents that ended, and what was in their mailboxes.
    pub(super) ended: Vec<(AgentId, Option<Remains<T, O>>)>,
    /// Tasks for one agent that have ended, whose ids may lie in its mailbox.
    pub(super) strays: Vec<(AgentId, TaskId)>,
}

impl<T, O> After<T, O> {
    pub(super) const fn new() -> Self {
        Self {
            wakes: Vec::new(),
            events: Vec::new(),
            claims: Vec::new(),
            mail: Vec::new(),
            aside: None,
        }
    }

    /// Where what is seldom left goes.
    pub(super) fn aside(&mut self) -> &mut Aside<T, O> {
        self.aside.get_or_insert_with(|| {
            Box::new(Aside { handlers: Vec::new(), ended: Vec::new(), strays: Vec::new() })
        })
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.wakes.is_empty() && self.leaves_nothing()
    }

    /// Whether nothing but wakers is to be called.
    pub(super) const fn leaves_nothing(&self) -> bool {
        self.events.is_empty()
            && self.claims.is_empty()
            && self.mail.is_empty()
            && self.aside.is_none()
    }

    pub(super) fn requeued(&mut self, task: TaskId, attempt: Attempt, reason: RequeueReason) {
        self.events.push(FleetEvent::TaskRequeued { task, attempt, reason });
    }
}

impl<T, O> State<T, O> {
    pub(super) fn stats(&self) -> FleetStats {
        let queued = self.queued();
        let pool = self.pool.tally();
        FleetStats {
            agents_live: pool.live,
            tasks_queued: queued as u64,
            tasks_running: (self.tasks.len() - queued) as u64,
            leases_granted: pool.leases.granted(),
            leases_live: pool.leases.held(),
            leases_succeeded: pool.leases.succeeded(),
            leases_failed: pool.leases.failed(),
            leases_abandoned: pool.leases.abandoned(),
            leases_stale: pool.leases.stale,
            leases_expired: pool.leases.expired,
            requests_waiting: pool.waiting,
            requests_refused: pool.refused,
            picks_lost: pool.picks_lost,
            picks_declined: pool.picks_declined,
            other_panics: self.counts.other_panics + pool.panics,
            ..self.counts
        }
    }

    /// Claims a task that nobody else may end (rule 3); the caller says why that is so.
    pub(super) fn claim(&mut self, id: TaskId, outcome: Outcome<O>) -> Claim<T, O> {
        let record = self.commit(id);
        Claim { id, attempt: record.attempt, task: record.task.clone(), outcome }
    }

    /// As [`claim`](Self::claim), for one who ends the task in the same step.
    pub(super) fn commit(&mut self, id: TaskId) -> &Record<T, O> {
        let record = self.tasks.get_mut(&id).expect("the caller found the task");
        if let Some(deadline) = record.deadline {
            self.timers.remove(deadline, id, Alarm::Deadline);
        }
        match record.phase {
            Phase::Delayed { until } => self.timers.remove(until, id, Alarm::Retry),
            Phase::Mailed => {
                self.mailed.remove(record.task.agent());
                // Rule 5 of the groups.
                if !self.ledger.groups.forget(id) {
                    self.stale += 1;
                }
            }
            Phase::Held | Phase::Queued | Phase::Running { .. } | Phase::Committing => {}
        }
        // Whatever its phase: one that comes into a fleet that stops was held while it was accepted.
        if !record.task.dependencies().is_empty() {
            self.ledger.graph.forget(id);
        }
        record.phase = Phase::Committing;
        record
    }

    /// Claims a task that cannot be done.
    pub(super) fn fail(&mut self, id: TaskId, error: TaskError) -> Claim<T, O> {
        let cancelled = self.tasks.get(&id).is_some_and(|record| record.cancelled);
        let outcome = if cancelled { Outcome::Cancelled } else { Outcome::Failed(error) };
        self.claim(id, outcome)
    }

    /// Puts a task whose attempt was lost back to its place in the queue.
    pub(super) fn requeue(&mut self, id: TaskId, reason: RequeueReason, after: &mut After<T, O>) {
        let record = self.tasks.get_mut(&id).expect("the caller found the task");
        after.requeued(id, record.attempt, reason);
        self.line_up(id, after);
    }

    /// Whether a task is to run in the mailbox of this agent.
    pub(super) fn is_mailed(&self, id: TaskId, agent: AgentId) -> bool {
        self.tasks.get(&id).is_some_and(|record| {
            matches!(record.phase, Phase::Mailed) && record.task.agent() == Some(agent)
        })
    }

    /// Whether this attempt of this task runs, and was not struck. Its id may be the next task's by now, and
    /// the slot of its agent the next agent's: so the task itself is compared, which the attempt has kept.
    pub(super) fn runs_attempt(&self, id: TaskId, task: &Carried<T>, attempt: Attempt) -> bool {
        self.tasks.get(&id).is_some_and(|record| {
            Carried::is_same(&record.task, task)
                && record.attempt == attempt
                && matches!(record.phase, Phase::Running { .. })
        })
    }

    /// Takes a task that runs off the list of its agent.
    pub(super) fn leave_agent(&mut self, id: TaskId) {
        let record = self.tasks.get(&id).expect("the caller found the task");
        let &Phase::Running { agent, at, .. } = &record.phase else {
            unreachable!("the caller knows that it runs")
        };
        let running = self.running.get_mut(agent).expect("what runs is struck when its agent ends");
        debug_assert_eq!(running.get(at), Some(&id), "a task is where its phase says");
        running.swap_remove(at);
        if let Some(moved) = running.get(at).copied() {
            let record = self.tasks.get_mut(&moved).expect("what runs is in the table");
            let Phase::Running { at: place, .. } = &mut record.phase else {
                unreachable!("an attempt leaves its agent's list in the step that ends it")
            };
            *place = at;
        }
    }

    /// Takes a running task away from its attempt: to run again, or to end.
    pub(super) fn strike(&mut self, id: TaskId, after: &mut After<T, O>) {
        let record = self.tasks.get_mut(&id).expect("a running task is in the table");
        let Phase::Running { signal, .. } = &record.phase else {
            unreachable!("an attempt leaves its agent's list in the step that ends it")
        };
        self.signals.of(signal).say(Word::Revoked, &mut after.wakes);
        if record.cancelled {
            let claim = self.claim(id, Outcome::Cancelled);
            after.claims.push(claim);
        } else if self.stopping {
            let claim = self.claim(id, Outcome::Returned(ReturnReason::Shutdown));
            after.claims.push(claim);
        } else if record.task.agent().is_some() {
            let claim = self.claim(id, Outcome::Returned(ReturnReason::AgentGone));
            after.claims.push(claim);
        } else {
            self.requeue(id, RequeueReason::AgentKilled, after);
        }
    }

    /// How many tasks are queued, or are going to be.
    pub(super) fn queued(&self) -> usize {
        let parked = self.timers.delayed() + self.ledger.graph.parked();
        self.queue.len() + self.mailed.len() + parked
    }

    /// How many more tasks may be queued.
    pub(super) fn room(&self, capacity: NonZeroUsize) -> usize {
        // Tasks that run again may take the queue over its capacity, by no more than there are workers.
        // What is stale in a mailbox takes its place until the mailbox comes to it: so mailboxes are bounded.
        let taken = self.queued() + self.stale + self.reserved + self.lent.room();
        capacity.get().saturating_sub(taken)
    }

    /// Whether nobody waits for room.
    pub(super) fn room_is_free(&self) -> bool {
        self.room.first().is_none()
    }

    /// Wakes the submitter whose turn it is, after the queue became shorter or the turn changed.
    pub(super) fn wake_for_room(&self, wakes: &mut Vec<Waker>) {
        wakes.extend(self.room.first_waker());
    }
}

impl<T, O> Inner<T, O> {
    /// A task as this fleet keeps it.
    #[inline(always)]
    pub(super) fn carry(&self, task: Task<T>) -> Carried<T> {
        Carried::new(task, self.launcher.is_some())
    }

    /// Lines up the queue of tasks, in which one may have become runnable (rule 5).
    pub(super) fn notify_workers(&self, state: &State<T, O>) {
        if state.queue.len() > 0 {
            self.runner.tasks_are_ready();
        }
    }

    /// Wakes those that wait for tasks, messages or workers to end.
    pub(super) fn tell_progress(&self) {
        let mut wakes = Vec::new();
        self.state.lock().progress.take_into(&mut wakes);
        self.wake_all(wakes);
    }

    /// What the fleet has done so far.
    pub(super) fn stats(&self) -> FleetStats {
        let stats = self.state.lock().stats();
        let messages = self.counters.read(&self.posts, &self.stations, &self.flights);
        FleetStats {
            futures_live: self.flights.len() as u64,
            messages_accepted: messages.accepted,
            messages_refused: messages.refused,
            messages_handled: messages.handled,
            messages_failed: messages.failed,
            messages_returned: messages.returned,
            ..stats
        }
    }

    /// Whether payloads and outputs are dropped without any code.
    const IS_PLAIN: bool = !std::mem::needs_drop::<T>() && !std::mem::needs_drop::<O>();

    /// Drops a value of the host's outside the lock (rule 2).
    pub(super) fn discard<V>(&self, value: V) {
        if std::mem::needs_drop::<V>() {
            self.discard_by(|| drop(value));
        }
    }

    /// Has what drops values of the host's do so.
    fn discard_by(&self, drop: impl FnOnce()) {
        if guarded(drop).is_err() {
            self.state.lock().counts.other_panics += 1;
        }
    }

    pub(super) fn wake_all(&self, wakes: Vec<Waker>) {
        for waker in wakes {
            self.wake(waker);
        }
    }

    pub(super) fn wake(&self, waker: Waker) {
        if guarded(|| waker.wake()).is_err() {
            self.state.lock().counts.other_panics += 1;
        }
    }

    pub(super) fn notice(&self, event: &FleetEvent) {
        if let Some(observer) = &self.observer
            && guarded(|| observer.notice(event)).is_err()
        {
            self.state.lock().counts.observer_panics += 1;
        }
    }

    /// Drops an attempt's hold on its task, as [`discard`](Self::discard) does, but for what is no code of the
    /// host's.
    #[inline]
    pub(super) fn discard_task(&self, task: Carried<T>) {
        if Self::IS_PLAIN && task.options.is_none() { drop(task) } else { self.discard(task) }
    }

    /// Does what was collected under the lock.
    #[inline]
    pub(super) fn finish(&self, after: After<T, O>) {
        if !after.is_empty() {
            self.finish_some(after);
        }
    }

    fn finish_some(&self, after: After<T, O>) {
        self.wake_all(after.wakes);
        for event in &after.events {
            self.notice(event);
        }
        let mut claims = VecDeque::from(after.claims);
        let mut mail = after.mail;
        while let Some(claim) = claims.pop_front() {
            // The end of one task may be that of others, or have them lined up.
            let others = self.settle(claim);
            self.wake_all(others.wakes);
            for event in &others.events {
                self.notice(event);
            }
            claims.extend(others.claims);
            mail.extend(others.mail);
        }
        for (agent, id) in mail {
            self.mail(agent, id);
        }
        let Some(aside) = after.aside else { return };
        for (agent, id) in aside.strays {
            self.take_strays(agent, &[id]);
        }
        for handler in aside.handlers {
            self.discard(handler);
        }
        for (agent, remains) in aside.ended {
            self.strike_flights_of(agent, ReturnReason::AgentGone);
            self.return_aside(Some(agent), ReturnReason::AgentGone);
            if let Some(remains) = remains {
                self.return_messages(remains, ReturnReason::AgentGone);
            }
        }
    }

    /// Ends a task: the log first, then the observer, then everybody.
    fn settle(&self, claim: Claim<T, O>) -> After<T, O> {
        let Claim { id, attempt, task, outcome } = claim;
        let recorded = match &self.log {
            None => Ok(None),
            Some(log) => {
                guarded(|| log.settle(id, attempt, &task, &outcome)).unwrap_or_else(|what| {
                    Err(Error::new(ErrorKind::Internal, format!("the log panicked: {what}")))
                })
            }
        };
        let unrecorded = u64::from(recorded.is_err());
        let (outcome, position) = match recorded {
            Ok(position) => (outcome, position),
            Err(error) if outcome.kind() == OutcomeKind::Completed => {
                self.discard(outcome);
                (Outcome::Failed(TaskError::not_recorded(error.to_string())), None)
            }
            Err(_) => (outcome, None),
        };
        let kind = outcome.kind();
        self.notice(&FleetEvent::TaskSettled { task: id, attempt, outcome: kind, position });

        let mut after = After::new();
        let ended = {
            let mut state = self.state.lock();
            state.counts.outcomes_not_recorded += unrecorded;
            self.end_task(&mut state, id, Arc::new(outcome), position, &mut after)
        };
        self.wake_all(std::mem::take(&mut after.wakes));
        self.discard_ended(ended, task);
        after
    }

    /// Ends a claimed task for everybody, under the lock.
    pub(super) fn end_task(
        &self,
        state: &mut State<T, O>,
        id: TaskId,
        outcome: Arc<Outcome<O>>,
        position: Option<LogPosition>,
        after: &mut After<T, O>,
    ) -> EndedTask<T, O> {
        let kind = outcome.kind();
        let record = state.tasks.remove(&id).expect("rule 3: a claimed task is ended once");
        let Record { task, cell, attempt, .. } = record;
        state.settle_dues(id, attempt);
        let told = (!state.ledger.streams.is_empty()).then(|| Arc::clone(&outcome));
        let link = cell.fill(outcome, position, &mut after.wakes);
        state.lent.keep(link);
        let displaced = told.map_or_else(Vec::new, |outcome| {
            let ended = Ended { task: id, attempt, outcome, position };
            state.ledger.streams.tell(ended, &mut after.wakes)
        });
        let forgotten = state.ledger.settled(id, &task, &cell);
        state.counts.outcomes_missed += displaced.len() as u64;
        let counts = &mut state.counts;
        match kind {
            OutcomeKind::Completed => counts.tasks_completed += 1,
            OutcomeKind::Failed => counts.tasks_failed += 1,
            OutcomeKind::Returned => counts.tasks_returned += 1,
            OutcomeKind::Cancelled => counts.tasks_cancelled += 1,
        }
        self.release_dependants(state, id, kind, after);
        if state.ledger.witnesses.task_ended(id, task.agent(), kind) || state.tasks.is_empty() {
            state.progress.take_into(&mut after.wakes);
            state.end_streams_if_over(&mut after.wakes);
        }
        let rest = (forgotten.is_some() || !displaced.is_empty())
            .then(|| Box::new(Rest { forgotten, displaced }));
        EndedTask { task, cell, rest }
    }

    /// Drops what is left of a task, with what its last attempt or its claim had of it. What is the host's is dropped
    /// with care.
    pub(super) fn discard_ended(&self, ended: EndedTask<T, O>, own: Carried<T>) {
        let EndedTask { task, cell, rest } = ended;
        if Self::IS_PLAIN && task.options.is_none() {
            return Carried::let_go_of(task, own);
        }
        self.discard_by(|| Carried::let_go_of(task, own));
        self.discard(cell);
        let Some(rest) = rest else { return };
        let Rest { forgotten, displaced } = *rest;
        self.discard(forgotten);
        displaced.into_iter().for_each(|displaced| self.discard(displaced));
    }
}

/// What is left of a task that has ended; to be dropped outside the lock.
#[must_use = "it holds the last of the host's payload"]
pub(super) struct EndedTask<T, O> {
    task: Carried<T>,
    cell: Shared<OutcomeCell<O>>,
    rest: Option<Box<Rest<O>>>,
}

/// What is seldom left of one.
struct Rest<O> {
    forgotten: Option<Forgotten<O>>,
    /// What a stream had no room for.
    displaced: Vec<Ended<O>>,
}

impl<T: Send + Sync, O: Send + Sync> Cancels for Inner<T, O> {
    fn progress(&self, id: TaskId, cell: *const ()) -> Option<Progress> {
        let state = self.state.lock();
        let record = state.tasks.get(&id).filter(|record| record.cell.address() == cell)?;
        let Phase::Running { signal, .. } = &record.phase else { return None };
        // Under the lock: the signal may be the next attempt's afterwards.
        self.signals.of(signal).progress()
    }

    fn cancel(&self, id: TaskId, cell: *const ()) -> bool {
        let mut after = After::new();
        {
            let mut state = self.state.lock();
            let own = |record: &&mut Record<T, O>| record.cell.address() == cell;
            let Some(record) = state.tasks.get_mut(&id).filter(own) else { return false };
            match &record.phase {
                Phase::Committing => return false,
                Phase::Running { signal, .. } => {
                    record.cancelled = true;
                    self.signals.of(signal).say(Word::Cancelled, &mut after.wakes);
                }
                Phase::Queued | Phase::Mailed | Phase::Delayed { .. } | Phase::Held => {
                    if matches!(record.phase, Phase::Queued) {
                        let (sort, place) = (record.sort(&self.pool), record.place);
                        state.queue.remove(sort, place).expect("rule 4");
                    }
                    state.leaves_a_stray(id, &mut after);
                    let claim = state.claim(id, Outcome::Cancelled);
                    after.claims.push(claim);
                    state.wake_for_room(&mut after.wakes);
                }
            }
        }
        self.finish(after);
        true
    }
}

impl<T: Send + Sync, O: Send + Sync> Feed for Inner<T, O> {
    fn feed(&self) {
        let mut after = After::new();
        let mut state = self.state.lock();
        state.admit_groups(&mut after);
        if state.queue.len() == 0 && state.workers.starve {
            // What they starved for was cancelled: leases need not come back by the desk any more.
            state.workers.starve = false;
            self.pool.set_starving(false);
        }
        self.notify_workers(&state);
        drop(state);
        if !after.is_empty() {
            self.finish(after);
        }
    }

    fn warned(&self, warnings: Vec<Warning>) {
        for warning in warnings {
            self.notice(&FleetEvent::BudgetWarning { warning });
        }
    }

    fn requests_wait(&self, requests: usize) {
        self.notice(&FleetEvent::RequestsWait { requests });
    }

    fn freed(&self, agent: AgentId) {
        self.line_up(agent);
    }

    fn lease_due(&self) {
        if self.runs_tasks {
            self.publish_alarm(&mut self.state.lock());
        }
    }

    fn lease_went(&self, agent: AgentId, era: Option<u32>, well: Option<bool>) {
        self.with_circuits(|state, after| self.circuit_hears(state, agent, era, well, after));
    }

    fn lease_freed(&self, agent: AgentId) {
        self.with_circuits(|state, after| self.try_circuits(state, Some(agent), after));
    }
}
