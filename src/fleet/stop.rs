//! How things end: an agent that is killed, a fleet that drains, a fleet that stops.
//!
//! Rules that hold here:
//!
//! 1. A kill is one step: the agent leaves the index, its leases become void, its tasks go back to
//!    the queue. Its handlers may still be running; what they return is refused.
//! 2. A stop is made of steps each of which is done once, by whoever comes first; any number of
//!    threads may stop the same fleet.
//! 3. A worker thread never waits for worker threads.

use std::fmt;
use std::time::Duration;

use super::agent::AgentId;
use super::inner::{After, Behaviour, Inner, State};
use super::log::FleetEvent;
use super::stats::DrainReport;
use super::task::{Outcome, ReturnReason, TaskId};
use crate::clock::Timestamp;
use crate::sync::{Parker, thread};
use crate::{Error, ErrorKind};

/// What a kill undid.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Killed {
    /// The agent that is gone.
    pub agent: AgentId,
    /// The leases that are void now, those of running tasks included.
    pub leases_revoked: u32,
    /// The tasks that ran on it and were taken away from it; they run again elsewhere, unless somebody
    /// had asked to cancel them.
    pub tasks_struck: Vec<TaskId>,
}

impl<T, O> State<T, O> {
    /// Rule 1, but for what is done outside the lock.
    fn remove_agent(
        &mut self,
        agent: AgentId,
        after: &mut After<T, O>,
    ) -> Option<(Killed, Behaviour<T, O>)> {
        let leases_revoked = self.pool.remove(agent, &mut after.wakes)?;
        // An agent for leases alone has none.
        let behaviour = self.behaviours.get_mut(agent.slot() as usize).and_then(Option::take);
        let mut behaviour = behaviour.unwrap_or_default();
        let tasks_struck = std::mem::take(&mut behaviour.running);
        for id in &tasks_struck {
            self.strike(*id, after);
        }
        Some((Killed { agent, leases_revoked, tasks_struck }, behaviour))
    }

    fn report(&self) -> DrainReport {
        let counts = &self.counts;
        let mut unfinished: Vec<_> = self.tasks.keys().copied().collect();
        unfinished.sort_unstable();
        DrainReport {
            accepted: counts.tasks_accepted,
            completed: counts.tasks_completed,
            failed: counts.tasks_failed,
            returned: counts.tasks_returned,
            cancelled: counts.tasks_cancelled,
            unfinished,
            workers_left: self.workers.alive,
        }
    }

    fn has_ended(&self) -> bool {
        self.tasks.is_empty() && self.reserved == 0
    }

    /// Whether the calling thread is one of the workers.
    fn on_worker(&self) -> bool {
        let current = thread::current().id();
        self.workers.threads.iter().any(|worker| worker.thread().id() == current)
    }
}

impl<T, O> Inner<T, O> {
    pub(super) fn kill(&self, agent: AgentId) -> Result<Killed, Error> {
        let mut after = After::new();
        let (killed, behaviour) = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let Some(removed) = state.remove_agent(agent, &mut after) else {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("agent {agent} is gone or never was"),
                ));
            };
            state.counts.agents_killed += 1;
            self.notify_workers(state, removed.0.tasks_struck.len());
            removed
        };
        let leases_revoked = killed.leases_revoked;
        after.events.insert(0, FleetEvent::AgentKilled { agent, leases_revoked });
        self.finish(after);
        self.discard_behaviour(behaviour);
        Ok(killed)
    }

    fn discard_behaviour(&self, behaviour: Behaviour<T, O>) {
        for handler in behaviour.idle {
            self.discard(handler);
        }
        self.discard(behaviour.factory);
    }

    pub(super) fn refuse_on_worker(&self, what: &str) -> Result<(), Error> {
        if self.state.lock().on_worker() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("a handler cannot {what} the fleet that runs it: it would wait for itself"),
            ));
        }
        Ok(())
    }

    /// Waits until something holds, or the deadline passes; whether it holds.
    fn wait_until(
        &self,
        deadline: Option<Timestamp>,
        mut holds: impl FnMut(&State<T, O>) -> bool,
    ) -> bool {
        let parker = Parker::new();
        let mut key = None;
        let mut late = false;
        loop {
            {
                let mut guard = self.state.lock();
                let state = &mut *guard;
                let done = holds(state);
                if done || late {
                    if let Some(key) = key {
                        state.progress.remove(key);
                    }
                    return done;
                }
                let key = *key.get_or_insert_with(|| state.progress.key());
                state.progress.register(key, parker.waker());
            }
            late = !self.clock.park_until(&parker, deadline);
        }
    }

    pub(super) fn drain(&self, timeout: Duration) -> Result<DrainReport, Error> {
        self.refuse_on_worker("drain")?;
        let deadline = self.clock.now() + timeout;
        let mut wakes = Vec::new();
        {
            let mut state = self.state.lock();
            state.draining = true;
            state.room.take_into(&mut wakes);
        }
        self.wake_all(wakes);
        self.wait_until(Some(deadline), State::has_ended);
        Ok(self.state.lock().report())
    }

    pub(super) fn shutdown(&self, timeout: Duration) -> Result<DrainReport, Error> {
        self.refuse_on_worker("shut down")?;
        let deadline = self.clock.now() + timeout;
        Ok(self.stop(Some(deadline)))
    }

    /// What the drop of the last handle does.
    pub(super) fn abandon(&self) {
        if self.state.lock().on_worker() {
            // The workers end by themselves, and the last of them frees what is left (rule 3).
            self.stop_taking();
        } else {
            self.stop(None);
        }
    }

    /// Stops, waits for what runs until the deadline, and strikes the rest.
    fn stop(&self, deadline: Option<Timestamp>) -> DrainReport {
        self.stop_taking();
        self.wait_until(deadline, State::has_ended);
        self.stop_agents();
        self.wait_until(deadline, |state| state.workers.alive == 0);
        // A worker outside the host's code ends by itself, so that wait needs no bound.
        self.wait_until(None, |state| state.workers.alive <= state.workers.occupied);
        self.join_workers();
        self.state.lock().report()
    }

    /// Refuses all that is new, and returns what is queued.
    fn stop_taking(&self) {
        let mut after = After::new();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            state.stopping = true;
            self.pool.close(&mut after.wakes);
            state.room.take_into(&mut after.wakes);
            for (_, _, id) in state.queue.take(|_| true) {
                let claim = state.claim(id, Outcome::Returned(ReturnReason::Shutdown));
                after.claims.push(claim);
            }
            self.work.notify_all();
        }
        self.finish(after);
    }

    fn stop_agents(&self) {
        let mut after = After::new();
        let mut behaviours = Vec::new();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            for agent in state.pool.ids() {
                let (killed, behaviour) =
                    state.remove_agent(agent, &mut after).expect("it was just listed");
                let leases_revoked = killed.leases_revoked;
                after.events.push(FleetEvent::AgentStopped { agent, leases_revoked });
                state.counts.agents_stopped += 1;
                behaviours.push(behaviour);
            }
        }
        self.finish(after);
        for behaviour in behaviours {
            self.discard_behaviour(behaviour);
        }
    }

    /// Joins the threads that have left their loop, so that none is there when a stop returns.
    fn join_workers(&self) {
        let ended = {
            let mut state = self.state.lock();
            if state.workers.alive > 0 {
                // Handlers that did not return in time: a later stop joins their threads.
                return;
            }
            let threads = std::mem::take(&mut state.workers.threads);
            state.workers.joining += threads.len();
            threads
        };
        let count = ended.len();
        for worker in ended {
            // A worker catches the panics of all user code; its own would be a bug seen elsewhere.
            let _ = worker.join();
        }
        let mut wakes = Vec::new();
        {
            let mut state = self.state.lock();
            state.workers.joining -= count;
            state.progress.take_into(&mut wakes);
        }
        self.wake_all(wakes);
        self.wait_until(None, |state| state.workers.joining == 0);
    }
}

impl<T, O> fmt::Debug for Inner<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Fleet")
            .field("agents", &state.pool.tally().live)
            .field("tasks", &state.tasks.len())
            .field("queued", &state.queue.len())
            .field("submitters_waiting", &state.room.len())
            .field("workers", &state.workers.alive)
            .field("sleeping", &state.workers.sleeping)
            .field("stopping", &state.stopping)
            .finish_non_exhaustive()
    }
}
