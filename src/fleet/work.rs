//! The worker threads: take a task and an agent that fits it, run the handler, say what came of it.

use std::sync::Arc;

use super::agent::{Handler, Hired};
use super::id::{AgentId, Attempt, TaskId};
use super::inner::{After, Inner, Phase, State};
use super::log::FleetEvent;
use super::pool::broken;
use super::post::Posts;
use super::runner::{Ready, Seat};
use super::task::{Outcome, ReturnReason, Signal, Task, TaskContext, TaskError, TaskErrorKind};
use super::wakers::guarded;
use crate::clock::Timestamp;

/// One attempt of a task, on an agent that is leased for it.
pub(super) struct Job<T, O> {
    id: TaskId,
    attempt: Attempt,
    task: Arc<Task<T>>,
    agent: AgentId,
    signal: Arc<Signal>,
    hired: Hired<T, O>,
    deadline: Option<Timestamp>,
}

/// An attempt that came back.
pub(super) struct Attempted<T> {
    pub(super) id: TaskId,
    pub(super) attempt: Attempt,
    pub(super) task: Arc<Task<T>>,
    pub(super) agent: AgentId,
    /// Whether the agent was leased for this attempt alone.
    pub(super) leased: bool,
    pub(super) deadline: Option<Timestamp>,
}

impl<T, O> State<T, O> {
    /// The most urgent queued task that an available agent fits, with that agent leased for it.
    ///
    /// A `thorough` look is for a worker that has said that it starves: see rule 2 of the pool.
    pub(super) fn next_job(
        &mut self,
        posts: &Posts<T, O>,
        thorough: bool,
        after: &mut After<T, O>,
    ) -> Option<Job<T, O>> {
        let pool = &self.pool;
        let (mask, place, grant) = self.queue.first(|mask| pool.take(mask, thorough))?;
        let id = self.queue.remove(mask, place).expect("it was just found");
        let agent = grant.agent();
        let slot = agent.slot() as usize;
        let behaviour = self.behaviours[slot].as_mut().expect("a live agent has a behaviour");
        behaviour.running.push(id);
        let post = posts.get(grant.agent().slot).expect("tasks ask for agents that run tasks");
        let hired = post.lock().crew.hire().expect("no agent ends but under the lock of the tasks");

        let record = self.tasks.get_mut(&id).expect("a queued task is in the table");
        record.attempt = Attempt(record.attempt.0.saturating_add(1));
        self.counts.reruns += u64::from(record.attempt.0 > 1);
        let signal = Arc::new(Signal::default());
        record.phase = Phase::Running { agent, signal: Arc::clone(&signal) };
        let job = Job {
            id,
            attempt: record.attempt,
            task: Arc::clone(&record.task),
            agent,
            signal,
            hired,
            deadline: record.deadline,
        };
        self.wake_for_room(&mut after.wakes);
        Some(job)
    }
}

impl<T, O> State<T, O> {
    /// The next job, after rule 5 of the shared state: who finds none though tasks are queued says so to
    /// the pool and looks once more, and takes that back once one is found.
    fn next_job_or_starve(
        &mut self,
        posts: &Posts<T, O>,
        after: &mut After<T, O>,
    ) -> Option<Job<T, O>> {
        let mut job = self.next_job(posts, false, after);
        let starve = job.is_none() && self.queue.len() > 0;
        if starve && !self.workers.starve {
            self.workers.starve = true;
            self.pool.set_starving(true);
        }
        if starve {
            job = self.next_job(posts, true, after);
        }
        if self.workers.starve && (job.is_some() || self.queue.len() == 0) {
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
                Ready::Mailbox(agent) => self.turn(agent, &mut seat),
                Ready::Tasks => self.run_next(&mut seat),
            };
        }
    }

    /// Runs an attempt of a task of the queue, if an agent is free for one; whether it ran one.
    pub(super) fn run_next(&self, seat: &mut Seat) -> bool {
        let asked = self.time_if_observed();
        let mut after = After::new();
        let job = {
            let mut state = self.state.lock();
            if state.stopping {
                return false;
            }
            if let Some(now) = self.time_if_alarmed(&state) {
                state.ring(now, &mut after);
            }
            let job = state.next_job_or_starve(&self.posts, &mut after);
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
        let Some(job) = job else {
            self.finish(after);
            return false;
        };
        if let Some(asked) = asked {
            after.events.push(FleetEvent::AttemptStarted {
                task: job.id,
                attempt: job.attempt,
                agent: job.agent,
                allocation: self.clock.now() - asked,
            });
        }
        self.finish(after);
        self.run(job);
        true
    }

    /// The time costs more than the allocation, so it is read only if somebody is told.
    pub(super) fn time_if_observed(&self) -> Option<Timestamp> {
        self.observer.as_ref().map(|_| self.clock.now())
    }

    /// The time at the end of an attempt, if its task has a deadline or waits before the next attempt.
    fn time_if_needed(
        &self,
        deadline: Option<Timestamp>,
        task: &Task<T>,
        result: &Result<O, TaskError>,
    ) -> Timestamp {
        let needed = deadline.is_some() || (result.is_err() && task.options.is_some());
        if needed { self.clock.now() } else { Timestamp::ZERO }
    }

    /// Runs an attempt to its end.
    pub(super) fn run(&self, job: Job<T, O>) {
        let Job { id, attempt, task, agent, signal, hired, deadline } = job;
        let (result, handler) = match self.make(hired) {
            Err(error) => (Err(error), None),
            Ok(mut handler) => {
                let mut context = TaskContext { task: Some(id), attempt, agent, signal: &signal };
                match guarded(|| handler.handle(&task, &mut context)) {
                    Ok(result) => (result, Some(handler)),
                    // Whatever state the panic left the handler in, no task meets it.
                    Err(what) => {
                        self.discard(handler);
                        (Err(TaskError::panicked(format!("the handler panicked: {what}"))), None)
                    }
                }
            }
        };
        let result = self.verified(&task, attempt, result);
        self.conclude(
            Attempted { id, attempt, task, agent, leased: true, deadline },
            result,
            handler,
        );
    }

    /// The handler, made if it is to be made.
    pub(super) fn make(&self, hired: Hired<T, O>) -> Result<Handler<T, O>, TaskError> {
        match hired {
            Hired::Made(handler) => Ok(handler),
            Hired::ToMake(factory) => {
                let made = guarded(|| factory())
                    .map_err(|what| TaskError::panicked(format!("the factory panicked: {what}")));
                // The last one of an agent that was killed meanwhile, it may be.
                self.discard(factory);
                made
            }
        }
    }

    /// Gives the agent back and decides, in one step, what the attempt's result means.
    pub(super) fn conclude(
        &self,
        attempted: Attempted<T>,
        result: Result<O, TaskError>,
        mut handler: Option<Handler<T, O>>,
    ) {
        let Attempted { id, attempt, agent, task, leased, deadline } = attempted;
        let now = self.time_if_needed(deadline, &task, &result);
        let late = deadline.is_some_and(|deadline| deadline <= now);
        let mut after = After::new();
        let mut refused = None;
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            if let Err(error) = &result {
                state.counts.handler_panics += u64::from(error.kind() == TaskErrorKind::Panicked);
            }
            // Before the lease, so that whoever has that next finds the handler.
            if let Some(made) = handler.take() {
                let post = self.posts.get(agent.slot).expect("it ran something");
                handler = post.lock().dismiss(agent.generation, made);
            }
            if leased {
                // Of an agent that is gone it is void already.
                let _ = state.pool.release(agent, &mut after.wakes);
            }
            // It may be the next agent's by now, which does not run this task.
            if let Some(behaviour) = &mut state.behaviours[agent.slot as usize] {
                behaviour.running.retain(|running| *running != id);
            }
            let won = state.tasks.get(&id).is_some_and(|record| {
                record.attempt == attempt
                    && matches!(record.phase, Phase::Running { agent: on, .. } if on == agent)
            }) || broken("fleet.claim-unchecked");
            match result {
                // Rule 3 of the timers.
                result if won && late => {
                    let claim = state.fail(id, TaskError::deadline_exceeded());
                    after.claims.push(claim);
                    if let Ok(output) = result {
                        state.counts.late_completions_refused += 1;
                        after.events.push(FleetEvent::LateCompletionRefused {
                            task: id,
                            attempt,
                            agent,
                        });
                        refused = Some(output);
                    }
                }
                Ok(output) if won => {
                    let claim = state.claim(id, Outcome::Completed(output));
                    after.claims.push(claim);
                }
                Err(error) if won => state.attempt_failed(id, error, now, &mut after),
                Ok(output) => {
                    state.counts.late_completions_refused += 1;
                    after.events.push(FleetEvent::LateCompletionRefused {
                        task: id,
                        attempt,
                        agent,
                    });
                    refused = Some(output);
                }
                Err(_) => state.counts.late_failures_ignored += 1,
            }
            self.notify_workers(state);
            self.publish_alarm(state);
        }
        self.discard(refused);
        self.discard(handler);
        self.finish(after);
        self.discard(task);
    }
}

impl<T, O> State<T, O> {
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
        } else if again {
            return self.try_again(id, error, now, after);
        } else {
            Outcome::Failed(error)
        };
        let claim = self.claim(id, outcome);
        after.claims.push(claim);
    }
}
