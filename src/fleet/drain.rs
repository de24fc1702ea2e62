//! How one agent is drained: it takes nothing new, finishes what it has, and ends.
//!
//! Rules that hold here:
//!
//! 1. A drain begins in one step: the agent is allocated no more, its mailbox takes no newcomer, and what is left is
//!    counted. From then on it has turns of that mailbox alone, by rule 4 of the agents' health.
//! 2. Nothing is left of an agent that holds no lease, whose mailbox is idle, and of whose own tasks none is there
//!    any more: neither in the mailbox nor on the way there, nor waiting for others, for an attempt, for a budget or for
//!    the log. That it holds no lease is looked at once more in the step that ends it, under the locks that grant one: a
//!    drain revokes none.
//! 3. Who waits for that says so before it looks, in four places, each of which tells it of its own part: the pool of
//!    leases; the state of tasks; the turn of a mailbox that becomes idle with no lease to give back after that, as a
//!    future has it, or has given it back by then; and a stop, as it closes the mailboxes.
//! 4. At the deadline what no handler has begun is taken out and comes back in one step, wherever it waits. If the agent
//!    holds no lease it ends in the same step; otherwise it is overdue until it ends or serves again: what is for it
//!    alone and comes to it later, from the log, for another attempt or from what it waited for, comes back at once.
//!    A drain whose deadline has passed as it begins does that in the step of rule 1.
//! 5. An agent that the host has serve again takes newcomers again, and every drain of it is over in that step: it ends
//!    nothing, and nothing comes back by it.

#[cfg(all(test, phalanx_loom))]
mod loom_tests;

use std::collections::HashSet;
use std::mem::ManuallyDrop;
use std::task::Waker;
use std::time::Duration;

use super::Fleet;
use super::agent::Condition;
use super::id::{AgentId, TaskId};
use super::inner::{After, Inner, Phase, State};
use super::pool::Idler;
use super::post::Home;
use super::stop::gone;
use super::task::{Outcome, OutcomeKind, ReturnReason};
use super::tell::Remains;
use super::witness::{Call, Listening};
use crate::Error;
use crate::clock::Timestamp;
use crate::sync::{Parker, left_out};

/// What a drain of an agent came to; by [`Fleet::drain_agent`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentDrain {
    /// The agent.
    pub agent: AgentId,
    /// Whether it has ended, by this drain or by somebody else meanwhile. If not, it held leases at the deadline, those
    /// of its running handlers included, or the host had it serve again.
    pub ended: bool,
    /// Messages that no handler had begun as the drain did, and that its handler was given since, whatever came of them.
    pub messages_handled: u64,
    /// Messages that no handler had begun as the drain did, and that came back. What is in neither number is with the
    /// agent still, which serves on.
    pub messages_returned: u64,
    /// The tasks for [this agent alone](super::Task::to) that ended meanwhile, in the order in which they did, and how.
    pub tasks_ended: Vec<(TaskId, OutcomeKind)>,
}

/// Agents that live though a drain of them had no more time (rule 4). It is part of the state, under its lock.
#[derive(Debug, Default)]
pub(super) struct Overdue(HashSet<AgentId>);

impl Overdue {
    /// Whether what is for this agent alone, if it is for one, comes back at once.
    #[inline]
    pub(super) fn bars(&self, agent: Option<AgentId>) -> bool {
        !self.0.is_empty() && agent.is_some_and(|agent| self.0.contains(&agent))
    }

    /// It has ended, or serves again.
    #[inline]
    pub(super) fn forget(&mut self, agent: AgentId) {
        if !self.0.is_empty() {
            self.0.remove(&agent);
        }
    }
}

/// A call that drains an agent, until it is over.
pub(super) struct Draining<'a, T, O> {
    inner: &'a Inner<T, O>,
    agent: AgentId,
    idler: Idler,
    listening: Listening<'a, T, O>,
    /// Among those who wait for progress.
    key: u64,
    /// The messages that no handler had begun.
    waiting: u64,
}

impl<T, O> Drop for Draining<'_, T, O> {
    fn drop(&mut self) {
        self.inner.pool.stop_awaiting(self.idler);
        let waker = self.inner.state.lock().progress.remove(self.key);
        drop(waker);
    }
}

/// The same between two looks of a future, which has to take it up again.
#[derive(Debug)]
pub(super) struct Suspended {
    agent: AgentId,
    idler: Idler,
    call: Call,
    key: u64,
    waiting: u64,
}

impl<'a, T, O> Draining<'a, T, O> {
    /// Lets go of it without its end.
    fn suspend(self) -> Suspended {
        // What it holds goes with the call, and with who takes it up again.
        let own = ManuallyDrop::new(self);
        let Self { agent, idler, key, waiting, .. } = *own;
        let call = own.listening.call();
        Suspended { agent, idler, call, key, waiting }
    }

    pub(super) fn resume(inner: &'a Inner<T, O>, suspended: Suspended) -> Self {
        let Suspended { agent, idler, call, key, waiting } = suspended;
        Self { inner, agent, idler, listening: Listening::resume(inner, call), key, waiting }
    }

    /// Whether nothing is left of the agent but leases (rule 2).
    fn has_finished(&self, state: &State<T, O>) -> bool {
        self.inner.mailbox_is_idle(self.agent)
            && self.listening.tasks_left(state) == 0
            && !state.reserved_ids.values().any(|to| *to == Some(self.agent))
    }

    /// Whether the agent is ready to end, has ended or is to serve on; if not, whoever brings that about calls the waker
    /// (rule 3).
    fn poll(&self, state: &State<T, O>, waker: &Waker) -> bool {
        match self.inner.pool.await_idle(self.idler, waker.clone()) {
            None => true,
            Some(load) => self.is_called_off(state) || (load == 0 && self.has_finished(state)),
        }
    }

    /// Rule 5.
    fn is_called_off(&self, state: &State<T, O>) -> bool {
        self.listening.is_called_off(state) && !left_out("drain.hear-of-service")
    }

    /// Ends the agent if nothing is left of it, or if it is late and holds no lease; whether it has ended. `None` if it is
    /// to be waited for. What it gives out besides is to be [returned](Inner::return_messages) outside the locks.
    fn conclude(
        &self,
        state: &mut State<T, O>,
        late: bool,
        after: &mut After<T, O>,
    ) -> (Option<bool>, Option<Remains<T, O>>) {
        let (inner, agent) = (self.inner, self.agent);
        if inner.pool.load(agent).is_none() {
            return (Some(true), None);
        }
        if self.is_called_off(state) {
            return (Some(false), None);
        }
        if !late && !self.has_finished(state) {
            return (None, None);
        }
        let remains = if late { inner.cut_short(state, agent, after) } else { None };
        // Under the lock that it was seen under nobody else ends it.
        let ended = inner.end_unleased(state, agent, after).is_ok();
        ((ended || late).then_some(ended), remains)
    }

    /// What came of it.
    fn report(self, ended: bool) -> AgentDrain {
        let witness = self.listening.end_in(&mut self.inner.state.lock());
        let witness = witness.expect("a call is ended once");
        let messages_returned = witness.messages_returned.min(self.waiting);
        let handled = self.waiting - messages_returned;
        AgentDrain {
            agent: self.agent,
            ended,
            messages_handled: handled.saturating_sub(witness.messages_left()),
            messages_returned,
            tasks_ended: witness.ended,
        }
    }
}

impl<T, O> State<T, O> {
    /// The tasks for an agent alone, with or without those that a handler has begun or that have ended for whoever
    /// has won them.
    fn tasks_of(&self, agent: AgentId, begun: bool) -> impl Iterator<Item = TaskId> {
        self.tasks.ids().filter(move |id| {
            let record = self.tasks.get(id).expect("it was just listed");
            let waits = match record.phase {
                Phase::Mailed | Phase::Held | Phase::Delayed { .. } => true,
                Phase::Queued | Phase::Running { .. } | Phase::Committing => begun,
            };
            waits && record.task.agent() == Some(agent)
        })
    }

    /// Returns a task for an agent alone that no handler is to begin any more.
    pub(super) fn give_back(&mut self, id: TaskId, after: &mut After<T, O>) {
        let stopping = self.stopping;
        let reason = if stopping { ReturnReason::Shutdown } else { ReturnReason::AgentGone };
        let claim = self.claim(id, Outcome::Returned(reason));
        after.claims.push(claim);
        self.wake_for_room(&mut after.wakes);
    }
}

impl<T, O> Inner<T, O> {
    pub(super) fn drain_agent(
        &self,
        agent: AgentId,
        timeout: Duration,
    ) -> Result<AgentDrain, Error> {
        self.refuse_on_worker("drain an agent of")?;
        let deadline = self.clock.now() + timeout;
        self.drain_agent_until(agent, Some(deadline))
    }

    /// The same; without a deadline for as long as it takes.
    pub(super) fn drain_agent_until(
        &self,
        agent: AgentId,
        deadline: Option<Timestamp>,
    ) -> Result<AgentDrain, Error> {
        let late = self.is_past(deadline);
        let draining = self.begin_drain(agent, late).ok_or_else(|| gone(agent))?;
        Ok(self.see_out(draining, deadline, late))
    }

    fn is_past(&self, deadline: Option<Timestamp>) -> bool {
        deadline.is_some_and(|deadline| self.clock.now() >= deadline)
    }

    /// Waits for the end of a drain that has begun.
    pub(super) fn see_out(
        &self,
        draining: Draining<'_, T, O>,
        deadline: Option<Timestamp>,
        mut late: bool,
    ) -> AgentDrain {
        let parker = Parker::new();
        loop {
            if let (true, false, Some(deadline)) = (self.driven, late, deadline) {
                self.drive_until(deadline, |state, waker| draining.poll(state, waker));
                late = self.is_past(Some(deadline));
            }
            if let Some(ended) = self.look_at(&draining, late, &parker.waker()) {
                return draining.report(ended);
            }
            let until = [deadline, self.pool.next_due()].into_iter().flatten().min();
            if !self.clock.park_until(&parker, until) {
                late = self.is_past(deadline);
                self.pool.expire_due();
            }
        }
    }

    /// Ends the agent if that may be; whether it has ended, if the drain is over. If not, the waker is called once there is
    /// something to look at. It is this crate's own.
    fn look_at(&self, draining: &Draining<'_, T, O>, late: bool, waker: &Waker) -> Option<bool> {
        let mut after = After::new();
        let (ended, remains) = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let ready = late || draining.poll(state, waker);
            let concluded =
                if ready { draining.conclude(state, late, &mut after) } else { (None, None) };
            if concluded.0.is_none() {
                state.progress.register(draining.key, waker.clone());
            }
            concluded
        };
        self.finish(after);
        if let Some(remains) = remains {
            self.return_messages(remains, ReturnReason::AgentGone);
        }
        ended
    }

    /// Looks after a drain without a deadline; what came of it, or the drain, if it is not over.
    pub(super) fn look_after(
        &self,
        suspended: Suspended,
        waker: &Waker,
    ) -> Result<AgentDrain, Suspended> {
        let draining = Draining::resume(self, suspended);
        match self.look_at(&draining, false, waker) {
            Some(ended) => Ok(draining.report(ended)),
            None => Err(draining.suspend()),
        }
    }

    /// Begins a drain without a deadline.
    pub(super) fn begin_suspended(&self, agent: AgentId) -> Result<Suspended, Error> {
        self.refuse_on_worker("drain an agent of")?;
        let draining = self.begin_drain(agent, false).ok_or_else(|| gone(agent))?;
        Ok(draining.suspend())
    }

    /// Rule 1, and rule 4 of one that is late from the first; `None` if the agent is gone.
    pub(super) fn begin_drain(&self, agent: AgentId, late: bool) -> Option<Draining<'_, T, O>> {
        let (mut after, mut remains) = (After::new(), None);
        // It goes, should this unwind, after the lock, which it takes.
        let listening;
        let (waiting, key) = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            if !self.pool.lives(agent) {
                return None;
            }
            let tasks = state.tasks_of(agent, true).count();
            // Whoever drains it takes it over.
            state.ledger.leaving.forget(agent);
            listening = self.listen_in(state, Some((agent, tasks)));
            let waiting = if late && !left_out("drain.begin-late") {
                remains = self.cut_short(state, agent, &mut after);
                remains.as_ref().map_or(0, Remains::count)
            } else {
                self.refuse_newcomers(agent)
            };
            let before = self.want(state, agent, Condition::Draining, &mut after);
            debug_assert!(before.is_some(), "it was just seen, under the lock that it ends under");
            (waiting as u64, state.progress.key())
        };
        let idler = Idler::new(agent);
        let draining = Draining { inner: self, agent, idler, listening, key, waiting };
        self.finish(after);
        if let Some(remains) = remains {
            self.return_messages(remains, ReturnReason::AgentGone);
        }
        Some(draining)
    }

    /// Rule 4, but for the end of the agent. What it gives out is to be [returned](Self::return_messages) outside the
    /// locks.
    fn cut_short(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        after: &mut After<T, O>,
    ) -> Option<Remains<T, O>> {
        state.ledger.overdue.0.insert(agent);
        let mut waiting: Vec<_> = state.tasks_of(agent, false).collect();
        waiting.sort_unstable();
        for id in waiting {
            state.give_back(id, after);
        }
        let remains = self.take_out(agent);
        if let Some(remains) = &remains {
            state.ledger.witnesses.messages_returned(agent, remains.count());
        }
        // Others who drain it are told as its last lease comes back, or as it ends in this step.
        remains
    }

    /// Whether nothing lies in an agent's mailbox, if it has one, and nobody runs it.
    pub(super) fn mailbox_is_idle(&self, agent: AgentId) -> bool {
        self.posts.get(agent.slot).is_none_or(|post| {
            let mailbox = &post.lock().mailbox;
            !mailbox.is_open(agent.generation) || mailbox.is_idle()
        })
    }

    /// Has an agent's mailbox take nothing new; how many messages no handler has begun.
    pub(super) fn refuse_newcomers(&self, agent: AgentId) -> usize {
        let Some(post) = self.posts.get(agent.slot) else { return 0 };
        let mut home = post.lock();
        home.mailbox.finish(agent.generation);
        self.unbegun(&home, agent)
    }

    /// How many messages of an agent no handler has begun.
    fn unbegun(&self, home: &Home<T, O>, agent: AgentId) -> usize {
        if !home.mailbox.is_open(agent.generation) {
            return 0;
        }
        let worker = home.mailbox.worker(agent.generation);
        let in_hand =
            worker.map_or(0, |worker| self.stations[usize::from(worker)].hand.lock().counted());
        home.mailbox.counted() + in_hand
    }

    /// Rule 5, of an agent that lives and is to serve, in this very step.
    pub(super) fn call_off_drains(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        after: &mut After<T, O>,
    ) {
        let messages_left = self.posts.get(agent.slot).map_or(0, |post| {
            let mut home = post.lock();
            home.mailbox.go_on(agent.generation, self.mailbox_capacity);
            self.unbegun(&home, agent)
        });
        state.ledger.overdue.forget(agent);
        if state.ledger.witnesses.call_off(agent, messages_left)
            && !left_out("drain.tell-of-service")
        {
            state.progress.take_into(&mut after.wakes);
        }
    }

    /// Whether an agent's mailbox takes nothing new.
    pub(super) fn is_finishing(&self, agent: AgentId) -> bool {
        let post = self.posts.get(agent.slot);
        post.is_some_and(|post| post.lock().mailbox.is_finishing(agent.generation))
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Fleet<T, O> {
    /// Ends an agent as soon as nothing is left for it to do: it is [unrouted](Self::unroute), takes no more messages
    /// and tasks of its own, handles those that it has, and is ended once it holds no lease. It is waited for on this
    /// thread for so long at most; in a [driven](super::FleetBuilder::driven) fleet this thread drives meanwhile, as
    /// [`drain`](Self::drain) does.
    ///
    /// It waits for tasks of this agent alone that wait for others, for their next attempt or for a budget, too. An
    /// agent that is down, or whose circuit is open, handles nothing until that is over.
    ///
    /// At the deadline what no handler has begun is returned, wherever it waits: messages to the
    /// [`Returned`](super::Returned) hook and tasks as [`ReturnReason::AgentGone`]. If the agent holds no lease then, it
    /// ends; otherwise it stays, unrouted, with its leases and its running handler, and begins nothing more: a task of
    /// its own that an attempt fails, or that the log accepts, later on is returned as that happens, which may be after
    /// this call. It can be drained again, or [killed](Self::kill). Several threads may drain one agent: the shortest
    /// timeout decides what is returned. With a timeout of zero no message and no task is begun from the one step on in
    /// which the drain begins, workers or not; what they begin before that step is let run. (A worker that comes to the
    /// agent at the very deadline, whenever that is, and finds nothing holds a lease of it while it looks, and the agent
    /// stays; drained again, it ends.)
    ///
    /// [`set_condition`](Self::set_condition) can have it serve again, whether the drain is over or not: the agent takes
    /// messages again, and a drain that is under way ends nothing and returns nothing more
    /// ([`ended`](AgentDrain::ended) is `false`). No drain takes a lease away that somebody holds.
    ///
    /// O(tasks), as it begins and at the deadline, under the lock.
    ///
    /// # Errors
    /// `NotFound` if the agent is gone, `Unsupported` on a worker thread of this fleet, which would wait for itself.
    ///
    /// ```
    /// use phalanx::fleet::{AgentSpec, Fleet};
    /// use std::time::Duration;
    ///
    /// let fleet = Fleet::<u64, u64>::builder().driven().build()?;
    /// let agent = fleet.spawn(AgentSpec::<u64, u64>::new("worker").handler_fn(|task, _cx| Ok(*task.payload())))?;
    /// for number in 0..999 {
    ///     fleet.tell(agent, number)?;
    /// }
    /// let drain = fleet.drain_agent(agent, Duration::from_secs(5))?;
    /// assert_eq!((drain.ended, drain.messages_handled, drain.messages_returned), (true, 999, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain_agent(&self, agent: AgentId, timeout: Duration) -> Result<AgentDrain, Error> {
        self.inner().drain_agent(agent, timeout)
    }
}
