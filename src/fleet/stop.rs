//! How things end: an agent that is killed or retired, a fleet that drains, a fleet that stops.
//!
//! Rules that hold here:
//!
//! 1. A kill is one step: the agent leaves the index, its leases become void, its tasks go back to
//!    the queue, its mailbox is closed. Its handlers may still be running; what they return is refused.
//! 2. A stop is made of steps each of which is done once, by whoever comes first; any number of
//!    threads may stop the same fleet.
//! 3. A worker thread never waits for itself, nor for what worker threads run. One that leaves calls wakers of the host
//!    once it has left its loop: a stop that such a waker polls joins the other threads, which have left theirs too, and
//!    lets go of its own. A thread that is being joined is a worker still, to whoever asks.

use std::fmt;
use std::task::Waker;
use std::time::Duration;

use super::crew::Crew;
use super::id::{AgentId, TaskId};
use super::inner::{After, Inner, Record, State};
use super::lanes::Mask;
use super::log::FleetEvent;
use super::pool::{NotIdle, Part};
use super::post::{Home, MessageCounts, Post};
use super::stats::DrainReport;
use super::task::{Outcome, ReturnReason};
use super::tell::Remains;
use super::witness::{Listening, Witness};
use crate::clock::Timestamp;
use crate::sync::{Parker, left_out, thread};
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

/// Why an agent ends of which nothing is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unasked {
    /// It is idle.
    Retired,
    /// It could not be made. What others can do as well, or are expected to, asks nothing of it.
    Replaced,
    /// It [leaves](super::leaving), and so does what others can do ask nothing of it.
    Left,
}

/// What mailboxes leave that were closed.
struct Closed<T, O> {
    left: Vec<Remains<T, O>>,
    /// What the agents ran whose mailboxes were idle.
    crews: Vec<Crew<T, O>>,
}

impl<T, O> State<T, O> {
    /// The part of an agent's end that the pool and its mailbox have no part in.
    fn forget_agent(
        &mut self,
        agent: AgentId,
        leases_revoked: u32,
        after: &mut After<T, O>,
    ) -> Killed {
        self.supervision.dismiss(agent);
        self.ledger.overdue.forget(agent);
        self.ledger.leaving.forget(agent);
        let tasks_struck = self.running.remove(agent).unwrap_or_default();
        for id in &tasks_struck {
            self.strike(*id, after);
        }
        Killed { agent, leases_revoked, tasks_struck }
    }

    /// The agents that tasks for them alone wait for, whether those are being accepted or no handler has begun them:
    /// wherever they wait, on the way to a mailbox too. Some more than once. O(agents that tasks are mailed to, and tasks
    /// that are parked or being accepted).
    pub(super) fn expected(&self) -> impl Iterator<Item = AgentId> {
        let any = !left_out("state.expect-the-mailed");
        let mailed = any.then(|| self.mailed.agents()).into_iter().flatten();
        self.expected_elsewhere().chain(mailed)
    }

    /// Whether one of those is this agent. O(tasks that are parked or being accepted).
    pub(super) fn expects(&self, agent: AgentId) -> bool {
        let mailed = self.mailed.is_for(agent) && !left_out("state.expect-the-mailed");
        mailed || self.expected_elsewhere().any(|expected| expected == agent)
    }

    /// Those of tasks that were not mailed yet.
    fn expected_elsewhere(&self) -> impl Iterator<Item = AgentId> {
        let accepted = self.reserved_ids.values().copied().flatten();
        accepted.chain(self.parked().filter_map(|record| record.task.agent()))
    }

    /// The tasks that wait for others or for their next attempts.
    fn parked(&self) -> impl Iterator<Item = &Record<T, O>> {
        let parked = self.timers.delayed_ids().chain(self.ledger.graph.parked_ids());
        parked.filter_map(|id| self.tasks.get(&id))
    }

    fn report(
        &self,
        messages: MessageCounts,
        futures_left: usize,
        witness: Option<Witness>,
    ) -> DrainReport {
        let counts = &self.counts;
        let mut unfinished: Vec<_> = self.tasks.ids().collect();
        unfinished.sort_unstable();
        let MessageCounts { accepted, handled, failed, returned, .. } = messages;
        DrainReport {
            messages_accepted: accepted,
            messages_handled: handled,
            messages_failed: failed,
            messages_returned: returned,
            messages_unfinished: accepted - handled - failed - returned,
            futures_left,
            accepted: counts.tasks_accepted,
            completed: counts.tasks_completed,
            failed: counts.tasks_failed,
            returned: counts.tasks_returned,
            cancelled: counts.tasks_cancelled,
            ended: witness.map_or_else(Vec::new, |witness| witness.ended),
            unfinished,
            workers_left: self.workers.alive,
        }
    }

    /// Whether the calling thread is one of the workers.
    pub(super) fn on_worker(&self) -> bool {
        let current = thread::current().id();
        let workers = &self.workers;
        workers.threads.iter().any(|worker| worker.thread().id() == current)
            || workers.joining.contains(&current)
            || workers.driving.contains(&current)
    }
}

/// The error of an operation on an agent that is gone.
pub(super) fn gone(agent: AgentId) -> Error {
    Error::new(ErrorKind::NotFound, format!("agent {agent} is gone or never was"))
}

impl<T, O> Inner<T, O> {
    pub(super) fn has_ended(&self, state: &State<T, O>) -> bool {
        state.tasks.is_empty()
            && state.reserved == 0
            && self.runner.active() == 0
            && self.flights.messages() == 0
    }

    /// What came of a call, and how the fleet is now.
    pub(super) fn report(&self, listening: Option<Listening<'_, T, O>>) -> DrainReport {
        let mut state = self.state.lock();
        let witness = listening.as_ref().and_then(|listening| listening.end_in(&mut state));
        let messages = self.counters.read(&self.posts, &self.stations, &self.flights);
        state.report(messages, self.flights.len(), witness)
    }

    pub(super) fn kill(&self, agent: AgentId) -> Result<Killed, Error> {
        let mut after = After::new();
        let killed = {
            let mut guard = self.state.lock();
            let killed = self.end_in_step(&mut guard, agent, true, &mut after);
            killed.ok_or_else(|| gone(agent))?
        };
        self.finish(after);
        Ok(killed)
    }

    /// Ends an agent in one step: a kill, or a failure or an exit that nobody starts it again after.
    pub(super) fn end_in_step(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        killed_at_once: bool,
        after: &mut After<T, O>,
    ) -> Option<Killed> {
        let leases_revoked = self.pool.remove(agent, &mut after.wakes)?;
        Some(self.end_removed(state, agent, leases_revoked, killed_at_once, after))
    }

    /// Ends an agent that holds no lease, which is looked at in the same step: the last one of its drain.
    pub(super) fn end_unleased(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        after: &mut After<T, O>,
    ) -> Result<(), NotIdle> {
        self.pool.remove_unleased(agent, &mut after.wakes)?;
        self.end_removed(state, agent, 0, false, after);
        Ok(())
    }

    /// What is left of the step in which an agent has left the pool (rule 1), but for what is done outside the lock.
    fn end_removed(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        leases_revoked: u32,
        killed_at_once: bool,
        after: &mut After<T, O>,
    ) -> Killed {
        // The events of its tasks come after that of its end.
        let place = after.events.len();
        let killed = state.forget_agent(agent, leases_revoked, after);
        let event = if killed_at_once {
            state.counts.agents_killed += 1;
            FleetEvent::AgentKilled { agent, leases_revoked }
        } else {
            state.counts.agents_stopped += 1;
            FleetEvent::AgentStopped { agent, leases_revoked }
        };
        after.events.insert(place, event);
        self.notify_workers(state);
        // In the same step: the place may be the next agent's right after.
        let remains = self.close_mailbox(agent, true);
        if let Some(remains) = &remains {
            state.ledger.witnesses.messages_returned(agent, remains.count());
        }
        after.aside().ended.push((agent, remains));
        // It may have been on trial.
        self.try_circuits(state, None, after);
        self.publish_alarm(state);
        killed
    }

    pub(super) fn retire(&self, agent: AgentId) -> Result<(), Error> {
        self.end_unasked(agent, Unasked::Retired).map_err(|why| match why {
            NotIdle::Gone => gone(agent),
            NotIdle::Busy => {
                let message = format!("agent {agent} has work, or work waits for it");
                Error::new(ErrorKind::InUse, message)
            }
        })
    }

    /// Ends an agent that nothing is asked of. Whoever has a message, a task or a request for it comes
    /// either before, and then it stays, or after, and then is told that it is gone.
    pub(super) fn end_unasked(&self, agent: AgentId, why: Unasked) -> Result<(), NotIdle> {
        let replaced = why == Unasked::Replaced;
        let mut after = After::new();
        let crew = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            // Rule 5 of the inbox.
            self.state.withdraw(state);
            if replaced && (state.stopping || !state.supervision.is_unmade(agent)) {
                return Err(NotIdle::Busy);
            }
            if why == Unasked::Left && !state.ledger.leaving.has(agent) {
                return Err(NotIdle::Gone);
            }
            let mut post = self.posts.get(agent.slot()).map(Post::lock);
            let is_own = |home: &&mut Home<T, O>| home.mailbox.is_open(agent.generation());
            let mut home = post.as_deref_mut().filter(is_own);
            let has_messages = home.as_ref().is_some_and(|home| !home.mailbox.is_idle());
            let expects = has_messages || state.expects(agent);
            // A task that is being accepted was told that somebody can run it.
            let (queue, accepting) = (&state.queue, state.reserved > 0);
            let has_work = |mask: Mask, part: Part<'_>| {
                let is_parked = |fits: &dyn Fn(Mask) -> bool| {
                    state.parked().any(|task| task.task.agent().is_none() && fits(task.mask))
                };
                let alone = part.is_alone_for;
                let of_others = if replaced {
                    let is_queued = || queue.sorts().any(|sort| alone(sort.mask));
                    accepting && alone(mask) || is_queued() || is_parked(alone)
                } else {
                    let later = || accepting || is_parked(&|task| mask & task == task);
                    let is_kept = part.is_last || why == Unasked::Retired;
                    is_kept && queue.fitting(mask) > 0 || part.is_last && later()
                };
                expects || of_others
            };
            self.pool.remove_idle(agent, replaced, has_work, &mut after.wakes)?;
            self.state.begin_era();
            let closed = home.as_mut().and_then(|home| home.close(agent.generation()));
            state.supervision.dismiss(agent);
            state.ledger.overdue.forget(agent);
            state.ledger.leaving.forget(agent);
            let counts = &mut state.counts;
            *(if replaced { &mut counts.agents_stopped } else { &mut counts.agents_retired }) += 1;
            state.running.remove(agent);
            drop(post);
            // It may have been on trial.
            self.try_circuits(state, None, &mut after);
            self.publish_alarm(state);
            closed.map(|(left, crew)| {
                debug_assert!(left.messages.is_empty(), "it was idle");
                if crew.is_lined() {
                    self.runner.forget(agent);
                }
                crew
            })
        };
        after.events.push(if replaced {
            FleetEvent::AgentStopped { agent, leases_revoked: 0 }
        } else {
            FleetEvent::AgentRetired { agent }
        });
        self.finish(after);
        if let Some(crew) = crew {
            self.discard_crew(crew);
        }
        Ok(())
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

    /// Waits for so long on the fleet's clock, or until the fleet stops.
    pub(super) fn pause(&self, time: Duration) {
        self.wait_until(Some(self.clock.now() + time), |state| state.stopping);
    }

    /// Waits until something holds, or the deadline passes; whether it holds.
    pub(super) fn wait_until(
        &self,
        deadline: Option<Timestamp>,
        mut holds: impl FnMut(&State<T, O>) -> bool,
    ) -> bool {
        self.wait_until_told(deadline, |state, _| holds(state))
    }

    /// The same; whoever brings it about tells those who wait for progress, or calls the waker.
    pub(super) fn wait_until_told(
        &self,
        deadline: Option<Timestamp>,
        mut holds: impl FnMut(&State<T, O>, &Waker) -> bool,
    ) -> bool {
        let parker = Parker::new();
        let mut key = None;
        let mut late = false;
        loop {
            {
                let mut guard = self.state.lock();
                let state = &mut *guard;
                let done = holds(state, &parker.waker());
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
        let listening = self.begin_to_drain();
        if self.driven {
            self.drive_until(deadline, |state, _| self.has_ended(state));
        } else {
            self.wait_until(Some(deadline), |state| self.has_ended(state));
        }
        Ok(self.report(Some(listening)))
    }

    /// Refuses what is new; who is told of what ends from that step on.
    pub(super) fn begin_to_drain(&self) -> Listening<'_, T, O> {
        let mut wakes = Vec::new();
        let listening = {
            let mut state = self.state.lock();
            self.state.withdraw(&mut state);
            state.draining = true;
            self.runner.drain();
            state.room.take_into(&mut wakes);
            state.end_streams_if_over(&mut wakes);
            self.listen_in(&mut state, None)
        };
        self.wake_all(wakes);
        listening
    }

    pub(super) fn shutdown(&self, timeout: Duration) -> Result<DrainReport, Error> {
        self.refuse_on_worker("shut down")?;
        let deadline = self.clock.now() + timeout;
        let listening = self.stop_taking(true);
        self.stop_the_rest(Some(deadline));
        Ok(self.report(listening))
    }

    /// What the drop of the last handle does.
    pub(super) fn abandon(&self) {
        let on_worker = self.state.lock().on_worker();
        // Nobody is told of what ends.
        drop(self.stop_taking(false));
        self.give_up_flights();
        // The workers end by themselves, and the last of them frees what is left (rule 3).
        if !on_worker {
            self.stop_the_rest(None);
        }
    }

    /// Waits for what runs until the deadline, and strikes the rest.
    fn stop_the_rest(&self, deadline: Option<Timestamp>) {
        self.wait_until(deadline, |state| self.has_ended(state));
        self.stop_agents();
        self.wait_until(deadline, |state| state.workers.alive == 0);
        // A worker outside the host's code ends by itself, so that wait needs no bound.
        self.wait_until(None, |state| state.workers.alive <= self.runner.occupied());
        self.join_workers();
    }

    /// Refuses all that is new, and returns what is queued; who is told of what ends from that step on, if anybody
    /// listens.
    pub(super) fn stop_taking(&self, listens: bool) -> Option<Listening<'_, T, O>> {
        let mut after = After::new();
        let listening = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            if !left_out("inbox.withdraw-at-stop") {
                self.state.withdraw(state);
            }
            state.stopping = true;
            self.pool.close(&mut after.wakes);
            state.room.take_into(&mut after.wakes);
            state.progress.take_into(&mut after.wakes);
            for (_, _, id) in state.queue.take(|_| true) {
                let claim = state.claim(id, Outcome::Returned(ReturnReason::Shutdown));
                after.claims.push(claim);
            }
            for id in state.delayed().into_iter().chain(state.ledger.graph.all_parked()) {
                let claim = state.claim(id, Outcome::Returned(ReturnReason::Shutdown));
                after.claims.push(claim);
            }
            self.runner.stop();
            state.end_streams_if_over(&mut after.wakes);
            listens.then(|| self.listen_in(state, None))
        };
        self.finish(after);
        let mut wakes = Vec::new();
        let Closed { left, crews } = {
            let early = left_out("stop.close-and-tell").then(|| self.close_mailboxes());
            // In one step: who drains an agent takes a mailbox that is closed for one that was emptied.
            let mut state = self.state.lock();
            let closed = early.unwrap_or_else(|| self.close_mailboxes());
            for remains in &closed.left {
                state.ledger.witnesses.messages_returned(remains.agent(), remains.count());
            }
            state.progress.take_into(&mut wakes);
            closed
        };
        self.wake_all(wakes);
        for remains in left {
            self.return_messages(remains, ReturnReason::Shutdown);
        }
        for crew in crews {
            self.discard_crew(crew);
        }
        self.return_aside(None, ReturnReason::Shutdown);
        listening
    }

    /// Closes all mailboxes; what their handlers have begun goes on.
    fn close_mailboxes(&self) -> Closed<T, O> {
        let (mut left, mut crews) = (Vec::new(), Vec::new());
        for (slot, post) in self.posts.iter() {
            // None is opened any more.
            let generation = {
                let mut home = post.lock();
                let Some(generation) = home.mailbox.generation() else { continue };
                if home.mailbox.is_idle() {
                    crews.extend(home.close(generation).map(|(_, crew)| crew));
                    continue;
                }
                generation
            };
            left.extend(self.close_mailbox(AgentId { slot, generation }, false));
        }
        Closed { left, crews }
    }

    pub(super) fn stop_agents(&self) {
        let mut after = After::new();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let agents = state.pool.remove_all(&mut after.wakes);
            state.counts.agents_stopped += agents.len() as u64;
            for (agent, leases_revoked) in agents {
                state.forget_agent(agent, leases_revoked, &mut after);
                if self.observer.is_some() {
                    after.events.push(FleetEvent::AgentStopped { agent, leases_revoked });
                }
            }
        }
        self.finish(after);
        self.strike_askers(ReturnReason::Shutdown);
        self.strike_messages_in_flight();
    }

    /// Joins the threads that have left their loop, so that none is there when a stop returns.
    fn join_workers(&self) {
        if self.join_own_share() {
            self.wait_until(None, |state| state.workers.joining.is_empty());
        }
    }

    /// The same, but for threads that somebody else is joining; whether all threads have left their loop.
    pub(super) fn join_own_share(&self) -> bool {
        let current = thread::current().id();
        let (ended, own) = {
            let mut state = self.state.lock();
            if state.workers.alive > 0 {
                // Handlers that did not return in time: a later stop joins their threads.
                return false;
            }
            let mut threads = std::mem::take(&mut state.workers.threads);
            // Rule 3.
            let at = threads.iter().position(|worker| worker.thread().id() == current);
            let own = at.map(|at| threads.swap_remove(at));
            state.workers.joining.extend(threads.iter().map(|worker| worker.thread().id()));
            (threads, own)
        };
        drop(own);
        if ended.is_empty() {
            return true;
        }
        let _joining = Joining(self);
        for worker in ended {
            // A worker catches the panics of all user code; its own would be a bug seen elsewhere.
            let _ = worker.join();
        }
        true
    }
}

/// Takes threads that were joined off the books, however that ends. One call has all of them, as none starts once the
/// fleet is built.
struct Joining<'a, T, O>(&'a Inner<T, O>);

impl<T, O> Drop for Joining<'_, T, O> {
    fn drop(&mut self) {
        let mut wakes = Vec::new();
        {
            let mut state = self.0.state.lock();
            state.workers.joining.clear();
            state.progress.take_into(&mut wakes);
        }
        self.0.wake_all(wakes);
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
            .field("sleeping", &self.runner.sleeping())
            .field("mailboxes_active", &self.runner.active())
            .field("stopping", &state.stopping)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;
