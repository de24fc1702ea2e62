//! The worker threads: take a task and an agent that fits it, run the handler, say what came of it.

use std::sync::Arc;

use super::agent::{AgentId, Factory, Handler};
use super::inner::{After, Inner, Phase, State};
use super::log::{FleetEvent, RequeueReason};
use super::pool::broken;
use super::task::{
    Attempt, Outcome, ReturnReason, Signal, Task, TaskContext, TaskError, TaskErrorKind, TaskId,
};
use super::wakers::guarded;
use crate::clock::Timestamp;

/// One attempt of a task, on an agent that is leased for it.
pub(super) struct Job<T, O> {
    id: TaskId,
    attempt: Attempt,
    task: Arc<Task<T>>,
    agent: AgentId,
    signal: Arc<Signal>,
    handler: Option<Handler<T, O>>,
    factory: Factory<T, O>,
}

impl<T, O> State<T, O> {
    /// The most urgent queued task that an available agent fits, with that agent leased for it.
    ///
    /// A `thorough` look is for a worker that has said that it starves: see rule 2 of the pool.
    pub(super) fn next_job(
        &mut self,
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
        let handler = behaviour.idle.pop();
        let factory = behaviour.factory.clone().expect("tasks ask for agents that run tasks");

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
            handler,
            factory,
        };
        self.wake_for_room(&mut after.wakes);
        Some(job)
    }
}

impl<T, O> State<T, O> {
    /// Takes back that workers starve, once none does.
    fn settle_hunger(&self) {
        if self.workers.sleeping == 0 || self.queue.len() == 0 {
            self.pool.set_starving(false);
        }
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
    pub(super) fn work(&self) {
        let _leave = Leave(self);
        let mut worked = false;
        loop {
            let mut asked = self.time_if_observed();
            let mut after = After::new();
            let mut state = self.state.lock();
            state.workers.occupied -= usize::from(worked);
            worked = true;
            let job = loop {
                if state.stopping {
                    return;
                }
                if let Some(job) = state.next_job(false, &mut after) {
                    break job;
                }
                if state.queue.len() > 0 {
                    // Rule 5 of the shared state.
                    self.pool.set_starving(true);
                    if let Some(job) = state.next_job(true, &mut after) {
                        state.settle_hunger();
                        break job;
                    }
                }
                state.workers.sleeping += 1;
                self.work.wait(&mut state);
                state.workers.sleeping -= 1;
                state.settle_hunger();
                asked = self.time_if_observed();
            };
            state.workers.occupied += 1;
            drop(state);
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
        }
    }

    /// The time costs more than the allocation, so it is read only if somebody is told.
    fn time_if_observed(&self) -> Option<Timestamp> {
        self.observer.as_ref().map(|_| self.clock.now())
    }

    /// Runs an attempt to its end.
    pub(super) fn run(&self, mut job: Job<T, O>) {
        let made = match job.handler.take() {
            Some(handler) => Ok(handler),
            None => guarded(|| (job.factory)()),
        };
        let (result, handler) = match made {
            Err(what) => (Err(TaskError::panicked(format!("the factory panicked: {what}"))), None),
            Ok(mut handler) => {
                let mut context = TaskContext {
                    task: job.id,
                    attempt: job.attempt,
                    agent: job.agent,
                    signal: &job.signal,
                };
                match guarded(|| handler.handle(&job.task, &mut context)) {
                    Ok(result) => (result, Some(handler)),
                    // Whatever state the panic left the handler in, no task meets it.
                    Err(what) => {
                        self.discard(handler);
                        (Err(TaskError::panicked(format!("the handler panicked: {what}"))), None)
                    }
                }
            }
        };
        self.conclude(job, result, handler);
    }

    /// Gives the agent back and decides, in one step, what the attempt's result means.
    fn conclude(
        &self,
        job: Job<T, O>,
        result: Result<O, TaskError>,
        mut handler: Option<Handler<T, O>>,
    ) {
        let Job { id, attempt, agent, task, factory, .. } = job;
        let mut after = After::new();
        let mut refused = None;
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            if let Err(error) = &result {
                state.counts.handler_panics += u64::from(error.kind() == TaskErrorKind::Panicked);
            }
            if state.pool.release(agent, &mut after.wakes).is_ok() {
                let slot = agent.slot() as usize;
                let behaviour = state.behaviours[slot].as_mut().expect("the agent lives");
                behaviour.running.retain(|running| *running != id);
                behaviour.idle.extend(handler.take());
            }
            let won = state.tasks.get(&id).is_some_and(|record| {
                record.attempt == attempt
                    && matches!(record.phase, Phase::Running { agent: on, .. } if on == agent)
            }) || broken("fleet.claim-unchecked");
            match result {
                Ok(output) if won => {
                    let claim = state.claim(id, Outcome::Completed(output));
                    after.claims.push(claim);
                }
                Err(error) if won => state.attempt_failed(id, error, &mut after),
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
            self.notify_workers(state, 1);
        }
        self.discard(refused);
        self.discard(handler);
        self.finish(after);
        self.discard(task);
        // The last one of an agent that was killed meanwhile, it may be.
        self.discard(factory);
    }
}

impl<T, O> State<T, O> {
    fn attempt_failed(&mut self, id: TaskId, error: TaskError, after: &mut After<T, O>) {
        let record = self.tasks.get_mut(&id).expect("the attempt won, so its task is in the table");
        record.attempts_lost += 1;
        let again = error.is_retryable() && record.attempts_lost < record.task.attempts().get();
        let outcome = if record.cancelled {
            Outcome::Cancelled
        } else if again && self.stopping {
            Outcome::Returned(ReturnReason::Shutdown)
        } else if again {
            return self.requeue(id, RequeueReason::AttemptFailed(error), after);
        } else {
            Outcome::Failed(error)
        };
        let claim = self.claim(id, outcome);
        after.claims.push(claim);
    }
}
