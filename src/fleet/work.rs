//! The worker threads: take a task and an agent that fits it, run the handler, say what came of it.
//!
//! Rules that hold here:
//!
//! 1. No attempt of a queued task begins on an agent while something waits in the control lane of its mailbox that no
//!    worker runs. Who takes the agent for a task looks at that under the lock under which it takes a handler, and gives
//!    the mailbox a turn, with that lease if nobody has paid for it; the task stays where it is. So control waits for what
//!    its agent's handlers are doing, and not for what is queued, however much that is.

use std::sync::Arc;

use super::agent::{Factory, Handler, Maker};
use super::carried::Carried;
use super::crew::Hired;
use super::flight::Cargo;
use super::groups::Paid;
use super::id::{AgentId, Attempt, TaskId};
use super::inner::{After, Inner, Phase, State};
use super::lanes::Sort;
use super::log::FleetEvent;
use super::pool::{Taken, broken};
use super::post::Posts;
use super::request::Priority;
use super::runner::{Ready, Seat};
use super::signal::{Signal, Whose, Word};
use super::supervision::Tenure;
use super::task::{Outcome, ReturnReason, Task, TaskContext, TaskError, TaskErrorKind};
use super::wakers::guarded;
use crate::clock::Timestamp;
use crate::sync::left_out;

/// How many tasks a worker runs, or handlers it makes, before it looks what else is ready. It looks sooner if it sees that
/// there is.
pub(super) const ROUND: usize = 64;

/// One attempt of a task, on an agent that is leased for it.
pub(super) struct Job<T, O> {
    id: TaskId,
    attempt: Attempt,
    task: Carried<T>,
    taken: Taken,
    signal: Whose,
    hired: Hired<T, O>,
    tenure: Tenure,
    deadline: Option<Timestamp>,
}

/// What a worker that came for a task does with the agent that it took.
pub(super) enum Next<T, O> {
    /// An attempt of that task.
    Job(Job<T, O>),
    /// A turn of the agent's mailbox, in whose control lane something waits: that goes first (rule 1).
    Control(Taken),
}

/// An attempt that came back.
pub(super) struct Attempted<T> {
    pub(super) id: TaskId,
    pub(super) attempt: Attempt,
    pub(super) task: Carried<T>,
    pub(super) agent: AgentId,
    /// What it holds of the agent and of its group.
    pub(super) paid: Paid,
    /// The incarnation of the agent that it began in.
    pub(super) tenure: Tenure,
    pub(super) deadline: Option<Timestamp>,
    /// When it began, where that becomes part of its agent's past.
    pub(super) began: Option<Timestamp>,
}

impl<T, O> State<T, O> {
    /// The most urgent queued task that an available agent fits, with that agent leased for it; or that agent, if its
    /// control lane goes first.
    ///
    /// A `thorough` look is for a worker that has said that it starves: see rule 2 of the pool. The job has the signal
    /// of the worker, unless it is a future.
    pub(super) fn next_job(
        &mut self,
        posts: &Posts<T, O>,
        thorough: bool,
        worker: usize,
        after: &mut After<T, O>,
    ) -> Option<Next<T, O>> {
        let pool = &self.pool;
        let mut urgent = None;
        let found = match pool.budgets() {
            None => self.queue.take_first(|sort| {
                if urgent.is_some() {
                    return None;
                }
                let taken = pool.take(sort.mask, thorough)?;
                let hired = hire(posts, taken.agent);
                if hired.is_none() {
                    urgent = Some(taken);
                }
                Some((taken, hired?))
            }),
            Some(budgets) => {
                let found = self.ledger.groups.first(&self.queue, pool, budgets, thorough);
                found.and_then(|(sort, place, taken)| {
                    let Some(hired) = hire(posts, taken.agent) else {
                        urgent = Some(taken);
                        return None;
                    };
                    let id = self.queue.remove(sort, place).expect("it was just found");
                    Some((id, (taken, hired)))
                })
            }
        };
        pool.tell_by(&mut after.wakes);
        if let Some(taken) = urgent {
            return Some(Next::Control(taken));
        }
        let (id, (taken, (hired, tenure))) = found?;
        let agent = taken.agent;
        let running = self.running.get_or_insert_with(agent, Vec::new);
        let at = running.len();
        running.push(id);

        let record = self.tasks.get_mut(&id).expect("a queued task is in the table");
        record.attempt = Attempt(record.attempt.0.saturating_add(1));
        self.counts.reruns += u64::from(record.attempt.0 > 1);
        let signal = match hired.asynchronous() {
            None => self.signals.renew(worker),
            Some(_) => Whose::Own(Arc::default()),
        };
        record.phase = Phase::Running { agent, at, signal: signal.clone() };
        let job = Job {
            id,
            attempt: record.attempt,
            task: record.task.split(),
            taken,
            signal,
            hired,
            tenure,
            deadline: record.deadline,
        };
        self.wake_for_room(&mut after.wakes);
        Some(Next::Job(job))
    }
}

/// A handler of an agent that was taken for a task, and its tenure; `None` if its control lane goes first (rule 1).
#[inline]
fn hire<T, O>(posts: &Posts<T, O>, agent: AgentId) -> Option<(Hired<T, O>, Tenure)> {
    let post = posts.get(agent.slot).expect("tasks ask for agents that run tasks");
    let mut home = post.lock();
    if home.mailbox.is_urgent(agent.generation) && !left_out("work.tasks-before-control") {
        return None;
    }
    let hired = home.crew.hire().expect("no agent ends but under the lock of the tasks");
    Some((hired, home.crew.tenure()))
}

impl<T, O> State<T, O> {
    /// What is next, after rule 5 of the shared state: who finds none though tasks are queued says so to
    /// the pool and looks once more, and takes that back once one is found.
    fn next_job_or_starve(
        &mut self,
        posts: &Posts<T, O>,
        worker: usize,
        after: &mut After<T, O>,
    ) -> Option<Next<T, O>> {
        let mut job = self.next_job(posts, false, worker, after);
        // What no live agent could do waits for one to join, which is told to the workers anyway.
        let groups = &self.ledger.groups;
        let could_serve = |sort: Sort| !groups.waits(sort) && self.pool.could_serve(sort.mask);
        let starve = job.is_none() && self.queue.sorts().any(could_serve);
        if starve && !self.workers.starve {
            self.workers.starve = true;
            self.pool.set_starving(true);
        }
        if starve {
            job = self.next_job(posts, true, worker, after);
        }
        if self.workers.starve && (job.is_some() || !starve) {
            self.workers.starve = false;
            self.pool.set_starving(false);
        }
        job
    }
}

/// Takes a worker off the books, however its thread ends.
struct Leave<'a, T, O>(&'a Inner<T, O>);

impl<T, O> Drop for Leave<'_, T, O> {
    fn drop(&mut self) {
        let mut wakes = Vec::new();
        {
            let mut state = self.0.state.lock();
            state.workers.alive -= 1;
            state.progress.take_into(&mut wakes);
        }
        self.0.wake_all(wakes);
    }
}

impl<T, O> Inner<T, O> {
    /// The life of a worker thread.
    pub(super) fn work(&self, mut seat: Seat) {
        let _leave = Leave(self);
        while let Some(ready) = self.runner.next(&mut seat) {
            match ready {
                Ready::Mailbox(agent) => {
                    self.turn(agent, &mut seat);
                }
                Ready::Prewarm(agent) => {
                    self.prewarm(agent, &mut seat, ROUND);
                }
                Ready::Tasks => {
                    self.run_next(&mut seat, ROUND);
                }
            }
        }
    }

    /// Runs tasks of the queue, if agents are free for them, and nothing else is ready; up to so many attempts.
    /// Returns how many there were.
    pub(super) fn run_next(&self, seat: &mut Seat, most: usize) -> usize {
        self.look_for_expired(seat);
        let asked = self.time_if_observed();
        let mut after = After::new();
        let job = {
            let mut state = self.state.lock_to_look();
            if state.stopping {
                return 0;
            }
            if let Some(now) = self.time_if_alarmed(&state) {
                self.ring(&mut state, now, &mut after);
            }
            self.lend(&mut state);
            let job = state.next_job_or_starve(&self.posts, usize::from(seat.worker()), &mut after);
            // Another worker may find an agent for the next task; one that finds none looks no further.
            if job.is_some() {
                self.runner.occupy(seat);
                if state.queue.len() > 0 {
                    self.runner.tasks_are_ready();
                }
            } else if !after.is_empty() {
                // The log and the observer are the host's code too.
                self.runner.occupy(seat);
            }
            self.publish_alarm(&mut state);
            job
        };
        let mut job = match job {
            None => {
                self.finish(after);
                return 0;
            }
            Some(Next::Control(taken)) => {
                self.finish(after);
                return usize::from(self.turn_with(taken, seat));
            }
            Some(Next::Job(job)) => job,
        };
        if let Some(asked) = asked {
            after.events.push(FleetEvent::AttemptStarted {
                task: job.id,
                attempt: job.attempt,
                agent: job.taken.agent,
                allocation: self.clock.now() - asked,
            });
        }
        self.finish(after);
        let mut ran = 0;
        loop {
            ran += 1;
            match self.run(job, ran < most) {
                Some(Next::Job(next)) => job = next,
                Some(Next::Control(taken)) => {
                    return ran + usize::from(self.turn_with(taken, seat));
                }
                None => return ran,
            }
        }
    }

    /// The time costs more than the allocation, so it is read only if somebody is told.
    pub(super) fn time_if_observed(&self) -> Option<Timestamp> {
        self.observer.as_ref().map(|_| self.clock.now())
    }

    /// The time, if how attempts go is kept.
    pub(super) fn time_if_kept(&self) -> Option<Timestamp> {
        self.pool.keeps_pasts().then(|| self.clock.now())
    }

    /// The time at the end of an attempt, if its task has a deadline or waits before the next attempt, or
    /// when it began is known.
    fn time_if_needed(
        &self,
        deadline: Option<Timestamp>,
        task: &Task<T>,
        result: &Result<O, TaskError>,
    ) -> Timestamp {
        let needed = deadline.is_some() || (result.is_err() && task.options.is_some());
        if needed { self.clock.now() } else { Timestamp::ZERO }
    }

    /// Runs an attempt to its end; the next one if that is wanted and there is one.
    pub(super) fn run(&self, job: Job<T, O>, more: bool) -> Option<Next<T, O>> {
        let Job { id, attempt, task, taken, signal, hired, tenure, deadline } = job;
        let agent = taken.agent;
        let began = self.time_if_kept();
        if let Some(handler) = hired.asynchronous() {
            let paid = Paid { lease: Some(taken), group: None };
            let attempted = Attempted { id, attempt, task, agent, paid, tenure, deadline, began };
            let cargo = Cargo::Task(attempted);
            let Whose::Own(signal) = signal else {
                unreachable!("a future has a signal of its own")
            };
            self.launch(handler, cargo, signal);
            self.discard(hired);
            return None;
        }
        let worker = match signal {
            Whose::Worker(worker) => Some(worker),
            Whose::Own(_) => None,
        };
        let signal = self.signals.of(&signal);
        let watch = self.watch(agent, tenure, Some(id), attempt);
        let (result, handler) = match self.make(hired) {
            Err(error) => {
                self.handler_lost(agent, tenure);
                (Err(error), None)
            }
            Ok(mut handler) => {
                let (task_id, watch) = (Some(id), watch.as_deref());
                let purse = self.purse(task.request().named_group());
                let mut context =
                    TaskContext { task: task_id, attempt, agent, signal, watch, purse };
                let mut ran = (None, None);
                // Taken apart at once: a small output stays in registers.
                match guarded(|| match handler.handle(&task, &mut context) {
                    Ok(output) => ran.0 = Some(output),
                    Err(error) => ran.1 = Some(error),
                }) {
                    Ok(()) => {
                        let (output, error) = ran;
                        let error = || error.expect("it is the one or the other");
                        (output.ok_or_else(error), Some(handler))
                    }
                    // Whatever state the panic left the handler in, no task meets it.
                    Err(what) => {
                        self.discard(handler);
                        self.handler_lost(agent, tenure);
                        (Err(TaskError::panicked(format!("the handler panicked: {what}"))), None)
                    }
                }
            }
        };
        self.unwatch(watch);
        let result = if self.verifier.is_some() {
            self.verified(&task, attempt, signal, result)
        } else {
            result
        };
        let paid = Paid { lease: Some(taken), group: None };
        let attempted = Attempted { id, attempt, task, agent, paid, tenure, deadline, began };
        self.conclude(attempted, signal, result, handler, worker.filter(|_| more))
    }

    /// The handler, made if it is to be made.
    pub(super) fn make(&self, hired: Hired<T, O>) -> Result<Handler<T, O>, TaskError> {
        match hired {
            Hired::Made(handler) => Ok(handler),
            Hired::ToMake(factory) => {
                let made = self.make_by(&factory);
                // The last one of an agent that was killed meanwhile, it may be.
                self.discard(factory);
                made
            }
        }
    }

    /// Has a factory make a handler.
    pub(super) fn make_by(&self, factory: &Factory<T, O>) -> Result<Handler<T, O>, TaskError> {
        let Maker::Sync(maker) = &**factory else {
            unreachable!("who runs handlers has looked whether they are futures")
        };
        guarded(maker).map_err(|what| TaskError::panicked(format!("the factory panicked: {what}")))
    }

    /// Gives the agent back and decides, in one step, what the attempt's result means. If it leaves nothing to
    /// do outside the lock, the same step takes the next job for the worker that wants `more`.
    pub(super) fn conclude(
        &self,
        attempted: Attempted<T>,
        signal: &Signal,
        result: Result<O, TaskError>,
        mut handler: Option<Handler<T, O>>,
        more: Option<usize>,
    ) -> Option<Next<T, O>> {
        let Attempted { id, attempt, agent, task, paid, tenure, deadline, began } = attempted;
        let now = self.time_if_needed(deadline.or(began), &task, &result);
        let late = deadline.is_some_and(|deadline| deadline <= now);
        let mut after = After::new();
        let mut refused = None;
        let (ended, next) = {
            let mut guard = self.state.lock_for_attempt();
            let state = &mut *guard;
            if let Err(error) = &result {
                state.counts.attempt_lost(error);
            }
            // Before the lease, so that whoever has that next finds the handler.
            if let Some(made) = handler.take() {
                let post = self.posts.get(agent.slot).expect("it ran something");
                let mut home = post.lock();
                handler = home.take_back(agent.generation, tenure, made);
                if home.mailbox.is_urgent(agent.generation) && home.lines_up(agent.generation) {
                    // It waited for the handler.
                    self.runner.reschedule(agent);
                }
            }
            // Before the agent may be ended for it, which strikes what is on its list.
            let own = state.runs_attempt(id, &task, attempt);
            if own {
                state.leave_agent(id);
            }
            let lost = matches!(&result, Err(error) if error.kind() == TaskErrorKind::Panicked);
            let won = own || broken("fleet.claim-unchecked");
            if tenure.is_supervised() || began.is_some() {
                let cancelled = signal.is(Word::Cancelled);
                if let Some(began) = began
                    && (result.is_ok() || !cancelled)
                {
                    // An error of one that was asked to give up says nothing.
                    state.pool.attempt_went(agent, result.is_ok() && !late, now - began);
                }
                // By whoever cancelled the task, or took it away at its deadline.
                let told = cancelled || signal.is(Word::Revoked);
                let error = result.as_ref().err();
                self.take_notice(state, agent, tenure, error, told, &mut after);
            }
            // Before the lease, too: nobody is given an agent that is about to stop.
            if signal.stops_agent() {
                self.agent_exited(state, agent, tenure, &mut after);
            }
            if lost {
                // It waited for the handler that is gone. If the agent has failed by that, it is down by now.
                self.look_for_control(agent);
            }
            let well = result.is_ok() && !late || signal.is(Word::Cancelled);
            state.end_lease(agent, paid, well, &mut after.wakes);
            if paid.lease.is_some() {
                self.try_circuits(state, Some(agent), &mut after);
            }
            let ended = match result {
                Ok(output) if won && !late => {
                    if self.ends_at_once() {
                        state.commit(id);
                        let outcome = Arc::new(Outcome::Completed(output));
                        Some(self.end_task(state, id, outcome, None, &mut after))
                    } else {
                        let claim = state.claim(id, Outcome::Completed(output));
                        after.claims.push(claim);
                        None
                    }
                }
                Err(error) if won && !late => {
                    state.attempt_failed(id, error, now, &mut after);
                    None
                }
                // Struck, or past its deadline: rule 3 of the timers.
                late_or_struck => {
                    if won {
                        let claim = state.fail(id, TaskError::deadline_exceeded());
                        after.claims.push(claim);
                    }
                    refused = state.refuse(late_or_struck, id, attempt, agent, &mut after);
                    None
                }
            };
            let next = match more {
                Some(worker) if after.leaves_nothing() && self.may_go_on(state) => {
                    self.take_in_if_next(state);
                    state.next_job_or_starve(&self.posts, worker, &mut after)
                }
                _ => None,
            };
            self.notify_workers(state);
            self.publish_alarm(state);
            (ended, next)
        };
        if let Some(refused) = refused {
            self.discard(refused);
        }
        if let Some(handler) = handler {
            self.discard(handler);
        }
        self.finish(after);
        match ended {
            Some(ended) => self.discard_ended(ended, task),
            None => self.discard_task(task),
        }
        next
    }

    /// Whether nobody is told of a task's end before it is seen.
    fn ends_at_once(&self) -> bool {
        self.log.is_none() && self.observer.is_none()
    }

    /// Takes in what came, unless the queue has a task that is before all of that.
    fn take_in_if_next(&self, state: &mut State<T, O>) {
        if !self.state.has_arrivals() {
            return;
        }
        let before =
            state.queue.head().is_some_and(|place| place.is_before_later(Priority::NORMAL));
        if !before {
            self.state.take_in(state);
            self.lend(state);
        }
    }

    /// Whether a worker may go on with the next task: nothing else is ready or due.
    fn may_go_on(&self, state: &State<T, O>) -> bool {
        let due = |at: Timestamp| at <= self.clock.now();
        self.ends_at_once()
            && !state.stopping
            && self.runner.has_only_tasks()
            && !state.first_alarm().is_some_and(due)
    }
}

impl<T, O> State<T, O> {
    /// Refuses what an attempt brings that was struck or is past its deadline; what is to be dropped outside the lock.
    #[cold]
    fn refuse(
        &mut self,
        result: Result<O, TaskError>,
        task: TaskId,
        attempt: Attempt,
        agent: AgentId,
        after: &mut After<T, O>,
    ) -> Option<O> {
        match result {
            Ok(output) => {
                self.counts.late_completions_refused += 1;
                after.events.push(FleetEvent::LateCompletionRefused { task, attempt, agent });
                Some(output)
            }
            Err(_) => {
                self.counts.late_failures_ignored += 1;
                None
            }
        }
    }

    fn attempt_failed(
        &mut self,
        id: TaskId,
        error: TaskError,
        now: Timestamp,
        after: &mut After<T, O>,
    ) {
        let record = self.tasks.get_mut(&id).expect("the attempt won, so its task is in the table");
        record.attempts_lost += 1;
        let again = error.is_retryable() && record.attempts_lost < record.task.attempts().get();
        let outcome = if record.cancelled {
            Outcome::Cancelled
        } else if again && self.stopping {
            Outcome::Returned(ReturnReason::Shutdown)
        } else if again && self.ledger.overdue.bars(record.task.agent()) {
            Outcome::Returned(ReturnReason::AgentGone)
        } else if again {
            return self.try_again(id, error, now, after);
        } else {
            Outcome::Failed(error)
        };
        let claim = self.claim(id, outcome);
        after.claims.push(claim);
    }
}
