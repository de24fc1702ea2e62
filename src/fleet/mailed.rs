//! Tasks to one agent: into its mailbox, out of it, and back when the agent ends.
//!
//! What lies in the mailbox is the id; the task stays in the table. Rules that hold here:
//!
//! 1. A task whose phase is mailed lies in the mailbox of its agent, or is in the hand of the worker that runs
//!    that mailbox, or is kept until its group has room, or whoever put it in that phase is on the way to the mailbox, or whoever closed the mailbox
//!    is on the way to end it.
//! 2. An id whose task is in another phase, or another agent's by now, is stale, and is passed over.
//! 3. An id counts as mailed or as stale from the step that sends it on its way until it is run, passed over or taken
//!    out, and takes a place in the queue as long; but for one that is kept until its group has room, which counts as
//!    mailed alone.
//! 4. Whoever ends a task that lies in a mailbox takes its id out of it right after that, and has the mailbox be idle if
//!    nothing else was there; one that is on the way there is not put in; and whoever puts ids back from the hand of a
//!    worker takes those out, right after that, whose tasks have ended meanwhile. So what is stale is in the hand of a
//!    worker, or on somebody's way, and nobody waits for a mailbox in which nothing is left to be done.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::task::Waker;

use super::groups::Paid;
use super::id::{AgentId, Attempt, TaskId};
use super::inner::{After, Inner, Phase, State};
use super::log::FleetEvent;
use super::mailbox::Told;
use super::post::{Home, Message};
use super::signal::{Signal, Whose};
use super::supervision::Tenure;
use super::task::{Outcome, ReturnReason};
use super::turn::Turn;
use super::work::Attempted;
use crate::sync::left_out;

impl<T, O> State<T, O> {
    /// Has a task go to the mailbox of the agent that it is for, outside the lock; or come back, if that agent begins
    /// nothing more.
    pub(super) fn send(&mut self, id: TaskId, agent: AgentId, after: &mut After<T, O>) {
        if self.ledger.overdue.bars(Some(agent)) {
            return self.give_back(id, after);
        }
        let record = self.tasks.get_mut(&id).expect("the caller found the task");
        record.phase = Phase::Mailed;
        self.mailed.add(agent);
        after.mail.push((agent, id));
    }

    /// Counts an id that is stale no more.
    fn pass_over(&mut self, wakes: &mut Vec<Waker>) {
        self.stale -= 1;
        self.wake_for_room(wakes);
    }

    /// Has the id of a task, which is about to be ended, be taken out of the mailbox that it may lie in (rule 4).
    pub(super) fn leaves_a_stray(&self, id: TaskId, after: &mut After<T, O>) {
        let Some(record) = self.tasks.get(&id) else { return };
        if let (Phase::Mailed, Some(agent)) = (&record.phase, record.task.agent())
            && !self.ledger.groups.keeps(id)
        {
            after.aside().strays.push((agent, id));
        }
    }
}

/// The tasks whose phase is mailed: how many, and how many for whom.
#[derive(Debug, Default)]
pub(super) struct Mailed {
    all: usize,
    to: HashMap<AgentId, usize>,
}

impl Mailed {
    pub(super) const fn len(&self) -> usize {
        self.all
    }

    pub(super) fn add(&mut self, agent: AgentId) {
        self.all += 1;
        *self.to.entry(agent).or_default() += 1;
    }

    /// One is mailed no more. It is for the agent that it was added for.
    pub(super) fn remove(&mut self, agent: Option<AgentId>) {
        self.all -= 1;
        if let Some(agent) = agent
            && let Entry::Occupied(mut entry) = self.to.entry(agent)
        {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    /// Whether one is for this agent.
    pub(super) fn is_for(&self, agent: AgentId) -> bool {
        self.to.contains_key(&agent)
    }

    /// Whom they are for, each once.
    pub(super) fn agents(&self) -> impl Iterator<Item = AgentId> {
        self.to.keys().copied()
    }
}

impl<T, O> Inner<T, O> {
    /// Whether an agent lives, runs tasks and takes new ones.
    pub(super) fn takes_tasks(&self, agent: AgentId) -> bool {
        self.posts.get(agent.slot).is_some_and(|post| {
            let mailbox = &post.lock().mailbox;
            mailbox.is_open(agent.generation) && !mailbox.is_finishing(agent.generation)
        })
    }

    /// Puts a task into the mailbox of its agent, or ends it if the agent is gone.
    pub(super) fn mail(&self, agent: AgentId, id: TaskId) {
        let told = {
            // Rule 4: whoever ends the task from now on finds it in the mailbox.
            let mut state = self.state.lock();
            if !state.is_mailed(id, agent) && !left_out("mailed.put-what-has-ended") {
                let mut wakes = Vec::new();
                state.pass_over(&mut wakes);
                drop(state);
                return self.wake_all(wakes);
            }
            self.posts.get(agent.slot).map(|post| {
                let mut home = post.lock();
                let told = home.mailbox.put_back(agent.generation, Message::Task(id));
                // The task was accepted, so a drain waits for it.
                told.map(|told| {
                    if told != Told::Schedule {
                        None
                    } else if home.lines_up(agent.generation) {
                        Some(self.runner.schedule_accepted(agent))
                    } else {
                        self.runner.activate(true).expect("it was accepted");
                        None
                    }
                })
            })
        };
        match told {
            Some(Ok(None)) => {}
            Some(Ok(Some(roused))) => self.runner.rouse(roused),
            Some(Err(_)) | None => self.return_tasks(agent, &[id], ReturnReason::AgentGone),
        }
    }

    /// Takes the ids of those of these tasks that have ended out of the mailbox of their agent, where they lie there
    /// (rule 4). O(what lies there and is not merely told) for each.
    pub(super) fn take_strays(&self, agent: AgentId, ids: &[TaskId]) {
        if ids.is_empty() {
            return;
        }
        let mut wakes = Vec::new();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let Some(post) = self.posts.get(agent.slot) else { return };
            for id in ids {
                // It is to be done; or it is another one by now, which has the same id, and what is stale is passed over
                // as the turn comes to it.
                if state.stale == 0 || state.is_mailed(*id, agent) {
                    continue;
                }
                let mut home = post.lock();
                let is_it = |message: &Message<T, O>| message.task() == Some(*id);
                while let Some((_, idles)) = home.mailbox.withdraw(agent.generation, is_it) {
                    state.pass_over(&mut wakes);
                    let last = idles && self.runner.retire(1);
                    if last || idles && home.mailbox.is_finishing(agent.generation) {
                        state.progress.take_into(&mut wakes);
                    }
                }
            }
        }
        self.wake_all(wakes);
    }

    /// Ends tasks that lay in a mailbox that was closed, and passes stale ids over.
    pub(super) fn return_tasks(&self, agent: AgentId, tasks: &[TaskId], reason: ReturnReason) {
        let mut after = After::new();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            for id in tasks {
                if state.is_mailed(*id, agent) {
                    let reason = if state.stopping { ReturnReason::Shutdown } else { reason };
                    let claim = state.claim(*id, Outcome::Returned(reason));
                    after.claims.push(claim);
                }
                // Rule 3.
                state.stale -= 1;
            }
            state.wake_for_room(&mut after.wakes);
        }
        self.finish(after);
    }

    /// Begins an attempt of a task that a turn has come to, if there is one to begin. One that is to wait for the
    /// agent's next incarnation is put back to the end of its mailbox, unless `keep` says that the turn has kept it.
    pub(super) fn begin_mailed(
        &self,
        agent: AgentId,
        tenure: Tenure,
        id: TaskId,
        keep: impl FnOnce(&Home<T, O>) -> bool,
    ) -> Option<(Attempted<T>, Arc<Signal>)> {
        let asked = self.time_if_observed();
        let mut after = After::new();
        let (attempt, task, signal, deadline, group) = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            if let Some(now) = self.time_if_alarmed(state) {
                self.ring(state, now, &mut after);
                self.notify_workers(state);
                self.publish_alarm(state);
            }
            // Rule 2, in this very step: its id may be another task's right after, or may be already, whose own is put
            // aside.
            if !state.is_mailed(id, agent) || state.ledger.groups.keeps(id) {
                state.pass_over(&mut after.wakes);
                drop(guard);
                self.finish(after);
                return None;
            }
            // A kill may have come between.
            if !self.pool.lives(agent) {
                drop(guard);
                self.finish(after);
                self.return_tasks(agent, &[id], ReturnReason::AgentGone);
                return None;
            }
            if tenure.is_supervised() {
                let post = self.posts.get(agent.slot).expect("a turn is of a mailbox");
                let home = post.lock();
                if !home.crew.works_in(tenure) {
                    // It failed in this very step, and the task is for its next incarnation.
                    if !keep(&home) {
                        after.mail.push((agent, id));
                    }
                    drop((home, guard));
                    self.finish(after);
                    return None;
                }
            }
            let Ok(charge) = state.charge_mailed(id, agent, &mut after.wakes) else {
                // Who stops has looked for what is put aside already, maybe.
                let stopping = state.stopping;
                drop(guard);
                self.finish(after);
                if stopping {
                    self.return_aside(None, ReturnReason::Shutdown);
                }
                return None;
            };
            let record = state.tasks.get_mut(&id).expect("it was just found");
            record.attempt = Attempt(record.attempt.0.saturating_add(1));
            state.counts.reruns += u64::from(record.attempt.0 > 1);
            let signal = Arc::new(Signal::default());
            let running = state.running.get_or_insert_with(agent, Vec::new);
            let own = Whose::Own(Arc::clone(&signal));
            record.phase = Phase::Running { agent, at: running.len(), signal: own };
            running.push(id);
            state.mailed.remove(Some(agent));
            let task = record.task.split();
            let begun = (record.attempt, task, signal, record.deadline, charge);
            state.wake_for_room(&mut after.wakes);
            begun
        };
        if let Some(asked) = asked {
            let allocation = self.clock.now() - asked;
            let event = FleetEvent::AttemptStarted { task: id, attempt, agent, allocation };
            after.events.push(event);
        }
        self.finish(after);
        let (paid, began) = (Paid { lease: None, group }, self.time_if_kept());
        Some((Attempted { id, attempt, task, agent, paid, tenure, deadline, began }, signal))
    }

    /// Runs an attempt of a task that a turn has come to.
    pub(super) fn run_mailed(&self, turn: &mut Turn<'_, T, O>, id: TaskId) {
        let (agent, tenure) = (turn.agent, turn.tenure);
        // What was told later is in the hand, or was, and goes after it.
        let keep = |home: &Home<T, O>| turn.take_back(home, id);
        let Some((attempted, signal)) = self.begin_mailed(agent, tenure, id, keep) else {
            return;
        };
        let Attempted { attempt, task, .. } = &attempted;
        let result = self.attempt(turn, task, Some((id, *attempt, &signal)));
        let result = self.verified(task, *attempt, &signal, result);
        // A turn is of one mailbox, so what is next is its own.
        let next = self.conclude(attempted, &signal, result, None, None);
        debug_assert!(next.is_none(), "none was wanted");
    }
}
