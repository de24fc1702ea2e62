//! A worker's turn with one mailbox.
//!
//! Rules that hold here:
//!
//! 1. A turn holds a lease of the agent from before the first handler to after the last, so the agent's load
//!    is true. If all its leases are held there is no turn, and the release of one lines the mailbox up; but for one of
//!    the control lane alone, by rule 5.
//! 2. A turn takes [`TURN`] messages at most; then others that are ready come first.
//! 3. What a worker took out of the mailbox and has not begun is in its hand, where whoever closes the
//!    mailbox finds it (rule 2 of the posts).
//! 4. A turn of an agent that has failed, or was started again meanwhile, or whose trial is over, or that is to be made
//!    ready anew now that its handler has panicked, is over too: what
//!    its worker has in hand goes back to the head of the lane that it came from, for the next turn.
//! 5. Where no lease is to be had, a turn of what is in the control lane, and of nothing else, holds one beside those
//!    that the agent may hold. Of these there is one at a time, so its handlers are no more than its leases if each of
//!    those has its own: it begins only while fewer of them are at work than there may be leases, under
//!    the lock of the tasks, under which whoever takes an agent for a task takes its handler too. Whoever brings a
//!    handler back, or loses one, or has the agent serve again, lines up a mailbox in which control waits.

#[cfg(all(test, phalanx_loom))]
mod loom_tests;
#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;

use super::agent::{Factory, Handler};
use super::crew::Hired;
use super::hand::{RUN, Taker};
use super::id::{AgentId, Attempt, TaskId};
use super::inner::{After, Inner, State};
use super::log::FleetEvent;
use super::mailbox::Rest;
use super::pool::Taken;
use super::post::{Home, Message, Post, Station};
use super::reply::ReplyCell;
use super::runner::Seat;
use super::signal::Signal;
use super::supervision::{Tenure, Watch};
use super::task::{Outcome, Task, TaskContext, TaskError, TaskErrorKind};
use super::wakers::guarded;
use crate::sync::{MutexGuard, left_out};

/// How many messages an agent handles before others come.
const TURN: usize = 256;
/// How many a worker takes out at once: so many fewer times it takes the lock that senders want.
const CLAIM: usize = RUN;

/// What a turn works with.
pub(super) struct Turn<'a, T, O> {
    pub(super) agent: AgentId,
    post: &'a Post<T, O>,
    station: &'a Station<T, O>,
    worker: u16,
    taker: &'a mut Taker,
    /// What was hired; `None` before the first message of a turn and after a panic.
    handler: Option<Handler<T, O>>,
    factory: Option<Factory<T, O>>,
    /// The incarnation of the agent that it is a turn of.
    pub(super) tenure: Tenure,
    /// Whether the agent may have to do without this turn before it is done (rule 4).
    may_end: bool,
    /// Whether it is for the control lane alone (rule 5).
    beside: bool,
}

impl<T, O> Inner<T, O> {
    /// Runs a turn of an agent's mailbox, which a worker has taken out of the line, if there is one to run; whether it did.
    #[inline]
    pub(super) fn turn(&self, agent: AgentId, seat: &mut Seat) -> bool {
        self.take_and_turn(agent, seat, true)
    }

    #[inline]
    fn take_and_turn(&self, agent: AgentId, seat: &mut Seat, was_in_line: bool) -> bool {
        // If it has no room, the mailbox comes back into the line once it has.
        let taken = self.pool.take_agent(agent);
        self.pool.settle_dues();
        match taken {
            Some(taken) => self.turn_under(taken, None, None, seat, was_in_line),
            None => self.turn_anyhow(agent, seat, was_in_line),
        }
    }

    /// The same where the agent had no room a moment ago.
    #[cold]
    fn turn_anyhow(&self, agent: AgentId, seat: &mut Seat, was_in_line: bool) -> bool {
        let Some(post) = self.posts.get(agent.slot) else { return false };
        let mut taken = None;
        if was_in_line {
            post.lock().leave_line(agent.generation);
            // Whoever brought room before that took it to be in line.
            if !left_out("turn.look-once") {
                taken = self.pool.take_agent(agent);
                self.pool.settle_dues();
            }
        }
        let mut held = None;
        match taken.map(|taken| (taken, None)).or_else(|| self.take_beside(agent, &mut held)) {
            Some((taken, beside)) => self.turn_under(taken, beside, held, seat, false),
            None => {
                drop(held);
                // Of the leases that it has, some may have run out.
                self.look_for_expired(seat);
                false
            }
        }
    }

    /// The same with a lease that the worker took for a task.
    #[cold]
    pub(super) fn turn_with(&self, taken: Taken, seat: &mut Seat) -> bool {
        if taken.charge.is_none() {
            return self.turn_under(taken, None, None, seat, false);
        }
        // The group of the task has paid for it, which has nothing to do with the mailbox. Whoever takes the agent before
        // it is taken again sees what waits there, too.
        self.release(taken, true);
        self.take_and_turn(taken.agent, seat, false)
    }

    /// The same with a lease of the agent; one `beside` and with the lock of the tasks by rule 5. What was in line is
    /// so no more.
    #[inline]
    fn turn_under(
        &self,
        taken: Taken,
        beside: Option<u16>,
        held: Option<MutexGuard<'_, State<T, O>>>,
        seat: &mut Seat,
        was_in_line: bool,
    ) -> bool {
        let agent = taken.agent;
        let worker = seat.worker();
        let post = self.posts.get(agent.slot).expect("what is in line has a mailbox");
        let station = &self.stations[usize::from(worker)];
        let begun = {
            let mut home = post.lock();
            if was_in_line {
                home.leave_line(agent.generation);
            }
            if home.crew.is_down() {
                let lines_up = beside.is_none() && home.lines_up(agent.generation);
                drop((home, held));
                self.release(taken, false);
                if lines_up {
                    // It failed since it was taken; it is wanted, or up again, when somebody comes to it once more.
                    self.runner.reschedule(agent);
                }
                return false;
            }
            let may_begin = beside.is_none_or(|limit| {
                home.mailbox.is_urgent(agent.generation) && home.crew.has_spare(limit)
            });
            if may_begin && home.mailbox.begin(agent.generation, worker) {
                self.runner.occupy(seat);
                station.signal.reset();
                let most = match beside {
                    Some(_) => home.mailbox.control_len(),
                    // Each future needs a lease of its own.
                    None if home.crew.is_async() => 1,
                    None => CLAIM,
                };
                station.claim(&mut home.mailbox, &mut seat.taker, most);
                Some((home.crew.hire(), home.crew.tenure()))
            } else {
                None
            }
        };
        drop(held);
        let runs = begun.is_some();
        if let Some((hired, tenure)) = begun {
            let (taker, mut untold) = (&mut seat.taker, false);
            let asynchronous = hired.as_ref().and_then(Hired::asynchronous);
            let rest = if let Some(handler) = asynchronous {
                let flies = self.turn_async(taken, post, (station, taker), handler, tenure);
                self.discard(hired);
                let rest = {
                    let mailbox = &mut post.lock().mailbox;
                    // The lease may be back already: who drains the agent was told of that too early.
                    untold = flies && mailbox.is_finishing(agent.generation);
                    mailbox.rest(agent.generation, worker)
                };
                if !flies {
                    self.release(taken, true);
                }
                rest
            } else {
                let (handler, factory, may_end) = (None, None, tenure.is_supervised());
                let mut turn = Turn {
                    agent,
                    post,
                    station,
                    worker,
                    taker,
                    handler,
                    factory,
                    tenure,
                    may_end,
                    beside: beside.is_some(),
                };
                turn.take_on(hired);
                let rest = self.work_through(&mut turn);
                self.release(taken, true);
                rest
            };
            match rest {
                Rest::Again => self.line_up(agent),
                Rest::Idle | Rest::Closed => {
                    let last = self.runner.retire(1);
                    if last || (untold && !left_out("turn.tell-who-drains")) {
                        self.tell_progress();
                    }
                }
            }
        } else {
            self.release(taken, true);
        }
        runs
    }

    /// Rule 5: the agent, and how many leases it may hold; with the lock of the tasks, until the turn has begun.
    #[cold]
    fn take_beside<'a>(
        &'a self,
        agent: AgentId,
        held: &mut Option<MutexGuard<'a, State<T, O>>>,
    ) -> Option<(Taken, Option<u16>)> {
        let post = self.posts.get(agent.slot)?;
        if !post.lock().mailbox.is_urgent(agent.generation) {
            return None;
        }
        if !left_out("turn.take-beside-unlocked") {
            *held = Some(self.state.lock());
        }
        // A place that is taken in vain and given back tells of room where there is none, and for ever. The simulated
        // fleet, which has budgets, bears this: without this look it does not come to an end.
        let limit = self.pool.limit_beside(agent)?;
        {
            let home = post.lock();
            let may_begin = home.mailbox.is_urgent(agent.generation)
                && home.crew.has_spare(limit)
                && !home.crew.is_down();
            if !may_begin {
                return None;
            }
        }
        Some((self.pool.take_beside(agent)?, Some(limit)))
    }

    /// Gives back the lease of a turn, that went well or not.
    pub(super) fn release(&self, taken: Taken, well: bool) {
        let mut wakes = Vec::new();
        // Of an agent that is gone it is void already.
        let hungry = self.pool.release(taken, well, &mut wakes).unwrap_or(false);
        self.wake_all(wakes);
        if hungry {
            self.notify_workers(&self.state.lock());
        }
        if self.has_circuits {
            self.with_circuits(|state, after| self.try_circuits(state, Some(taken.agent), after));
        }
    }

    /// Handles what was claimed and what else there is, as far as rule 2 goes, and ends the turn.
    fn work_through(&self, turn: &mut Turn<'_, T, O>) -> Rest {
        let Turn { agent, post, station, worker, .. } = *turn;
        let mut left = TURN;
        loop {
            let mut taken = station.take(turn.taker);
            while let Some(message) = taken.take() {
                let message = match message {
                    Message::Told(payload) if turn.may_run_on() => {
                        match self.run_on(turn, payload, &mut left) {
                            Some(message) => message,
                            None => break,
                        }
                    }
                    message => message,
                };
                self.handle(turn, message);
                left = left.saturating_sub(1);
                if turn.is_over() {
                    break;
                }
                taken = station.take(turn.taker);
            }
            let mut home = post.lock();
            let is_own = home.mailbox.is_run_by(agent.generation, worker);
            let (mut asker, mut put_back) = (None, Vec::new());
            if is_own && !home.crew.works_in(turn.tenure) {
                // Rule 4.
                let mut hand = station.hand.lock();
                let (control, messages) = hand.put_down(turn.taker);
                put_back.extend(messages.iter().filter_map(Message::task));
                home.mailbox.restore(control, messages);
                asker = hand.asker.take();
            } else if is_own && turn.taker.has_left() {
                // It was over for a moment only.
                continue;
            } else if is_own && left > 0 && !home.mailbox.is_empty() {
                let there = if turn.beside { home.mailbox.control_len() } else { CLAIM };
                if there > 0 {
                    station.claim(&mut home.mailbox, turn.taker, there.min(left));
                    continue;
                }
            }
            if !is_own && turn.taker.has_left() {
                // Whoever closed the mailbox has taken it.
                let (_, left) = station.hand.lock().put_down(turn.taker);
                debug_assert!(left.is_empty(), "rule 3");
            }
            if turn.factory.is_some() && home.mailbox.is_open(agent.generation) {
                home.crew.lost();
            }
            // Whoever has the mailbox next finds the handler.
            let handler = turn.handler.take();
            let spare =
                handler.and_then(|handler| home.take_back(agent.generation, turn.tenure, handler));
            let rest = home.mailbox.rest(agent.generation, worker);
            drop(home);
            // Rule 4 of the mailed tasks.
            self.take_strays(agent, &put_back);
            self.discard(asker);
            self.discard(spare);
            self.discard(turn.factory.take());
            return rest;
        }
    }

    /// Handles messages that were told, one after the other, with nothing done between two of them but what one
    /// may see: the next is taken out of the hand, and the last is counted. One that is of another kind is handed
    /// back, and a turn goes on as it would have after one whose handler failed or panicked.
    ///
    /// Only where [`Turn::may_run_on`] says so.
    #[inline]
    fn run_on(
        &self,
        turn: &mut Turn<'_, T, O>,
        payload: T,
        left: &mut usize,
    ) -> Option<Message<T, O>> {
        let (agent, station) = (turn.agent, turn.station);
        let Turn { handler, taker, .. } = turn;
        let handler = handler.as_mut().expect("it is there: who calls has looked");
        let mut task = Task::new(payload);
        let ran = guarded(|| {
            let signal = &station.signal;
            let (task_id, attempt, watch) = (None, Attempt::NONE, None);
            let purse = self.purse(None);
            let mut context = TaskContext { task: task_id, attempt, agent, signal, watch, purse };
            loop {
                *left = left.saturating_sub(1);
                // Neither payload nor output is anything to drop.
                handler.handle(&task, &mut context)?;
                Station::<T, O>::count(&station.handled);
                if signal.stops_agent() {
                    return Ok(None);
                }
                match station.take(taker) {
                    Some(Message::Told(payload)) => task.replace_payload(payload),
                    other => return Ok(other),
                }
            }
        });
        let error = match ran {
            Ok(Ok(None)) => {
                turn.stop_if_asked(self);
                // One that was asked to stop need not have ended: a fleet that stops sees to the rest itself.
                return station.take(turn.taker);
            }
            Ok(Ok(other)) => return other,
            Ok(Err(error)) => error,
            Err(what) => self.after_panic(turn, &what),
        };
        self.message_ended((agent, turn.tenure), Err(error), None, |_| {
            Station::<T, O>::count(&station.failed);
        });
        turn.stop_if_asked(self);
        if turn.is_over() { None } else { station.take(turn.taker) }
    }

    fn handle(&self, turn: &mut Turn<'_, T, O>, message: Message<T, O>) {
        let (payload, cell) = match message {
            Message::Told(payload) => (payload, None),
            Message::Asked(payload, cell) => (payload, Some(cell)),
            Message::Task(id) => return self.run_mailed(turn, id),
        };
        let task = Task::new(payload);
        let result = self.attempt(turn, &task, None);
        let station = turn.station;
        self.message_ended((turn.agent, turn.tenure), result, cell.as_deref(), |handled| {
            Station::<T, O>::count(if handled { &station.handled } else { &station.failed });
        });
        turn.stop_if_asked(self);
        // A message has no options.
        self.discard(task.into_payload());
    }

    /// Counts how a message ended, and tells whoever asked. Before the lease is given back under which that agent,
    /// in that incarnation, handled it.
    pub(super) fn message_ended(
        &self,
        (agent, tenure): (AgentId, Tenure),
        result: Result<O, TaskError>,
        cell: Option<&ReplyCell<O>>,
        count: impl FnOnce(bool),
    ) {
        match (result, cell) {
            (Ok(output), cell) if tenure.is_supervised() => {
                let mut after = After::new();
                {
                    let mut state = self.state.lock();
                    self.take_notice(&mut state, agent, tenure, None, false, &mut after);
                    self.publish_alarm(&mut state);
                }
                match cell {
                    None => {
                        count(true);
                        self.discard(output);
                    }
                    Some(cell) => self.answer(cell, Outcome::Completed(output), || count(true)),
                }
                self.finish(after);
            }
            (Ok(output), None) => {
                count(true);
                self.discard(output);
            }
            (Ok(output), Some(cell)) => {
                self.answer(cell, Outcome::Completed(output), || count(true));
            }
            (Err(error), cell) => {
                let mut after = After::new();
                if error.kind() != TaskErrorKind::Handler || tenure.is_supervised() {
                    let mut guard = self.state.lock();
                    let state = &mut *guard;
                    state.counts.attempt_lost(&error);
                    self.take_notice(state, agent, tenure, Some(&error), false, &mut after);
                    self.publish_alarm(state);
                }
                if self.observer.is_some() {
                    let error = error.clone();
                    self.notice(&FleetEvent::MessageFailed { agent, error });
                }
                match cell {
                    None => count(false),
                    Some(cell) => self.answer(cell, Outcome::Failed(error), || count(false)),
                }
                // The asker is told first of how its question went: the agent may have ended with it.
                self.finish(after);
            }
        }
    }

    /// Tells the asker, unless somebody struck the question meanwhile.
    fn answer(&self, cell: &ReplyCell<O>, outcome: Outcome<O>, count: impl FnOnce()) {
        let completed = matches!(outcome, Outcome::Completed(_));
        if !self.reply(cell, outcome, count) {
            let counts = &mut self.state.lock().counts;
            if completed {
                counts.late_completions_refused += 1;
            } else {
                counts.late_failures_ignored += 1;
            }
        }
    }

    #[inline]
    pub(super) fn attempt(
        &self,
        turn: &mut Turn<'_, T, O>,
        task: &Task<T>,
        followed: Option<(TaskId, Attempt, &Signal)>,
    ) -> Result<O, TaskError> {
        let (id, attempt) = followed.map_or((None, Attempt::NONE), |of| (Some(of.0), of.1));
        let watch = self.watch(turn.agent, turn.tenure, id, attempt);
        let result = self.attempt_watched(turn, task, followed, watch.as_deref());
        self.unwatch(watch);
        result
    }

    #[inline(always)]
    fn attempt_watched(
        &self,
        turn: &mut Turn<'_, T, O>,
        task: &Task<T>,
        followed: Option<(TaskId, Attempt, &Signal)>,
        watch: Option<&Watch>,
    ) -> Result<O, TaskError> {
        if turn.handler.is_none() {
            self.make_handler(turn)?;
        }
        let handler = turn.handler.as_mut().expect("it was just made");
        let mut context = TaskContext {
            task: followed.map(|(id, ..)| id),
            attempt: followed.map_or(Attempt::NONE, |(_, attempt, _)| attempt),
            agent: turn.agent,
            signal: followed.map_or(&turn.station.signal, |(.., signal)| signal),
            watch,
            purse: self.purse(task.request().named_group()),
        };
        guarded(|| handler.handle(task, &mut context))
            .unwrap_or_else(|what| Err(self.after_panic(turn, &what)))
    }

    #[cold]
    fn after_panic(&self, turn: &mut Turn<'_, T, O>, what: &str) -> TaskError {
        // Whatever state the panic left the handler in, no message meets it.
        self.discard(turn.handler.take());
        self.handler_lost(turn.agent, turn.tenure);
        turn.may_end = true;
        TaskError::panicked(format!("the handler panicked: {what}"))
    }

    #[cold]
    fn make_handler(&self, turn: &mut Turn<'_, T, O>) -> Result<(), TaskError> {
        if turn.factory.is_none() {
            let hired = turn.post.lock().hire(turn.agent.generation);
            turn.take_on(hired);
        }
        if let Some(factory) = turn.factory.take() {
            let made = self.make(Hired::ToMake(factory));
            if made.is_err() {
                self.handler_lost(turn.agent, turn.tenure);
                turn.may_end = true;
            }
            turn.handler = Some(made?);
        }
        if turn.handler.is_none() {
            // The agent ended between a panic and this.
            return Err(TaskError::permanent("the agent is gone"));
        }
        Ok(())
    }
}

impl<T, O> Turn<'_, T, O> {
    /// Has the agent stop if the handler has just said so.
    #[inline]
    fn stop_if_asked(&self, inner: &Inner<T, O>) {
        if self.station.signal.stops_agent() {
            self.station.signal.reset_stop();
            inner.stop_agent(self.agent, self.tenure);
        }
    }

    /// Puts a task that it was about to begin back into its worker's hand, under the lock of the mailbox, before all
    /// that is there; whether the mailbox is the worker's still.
    pub(super) fn take_back(&mut self, home: &Home<T, O>, id: TaskId) -> bool {
        let is_own = home.mailbox.is_run_by(self.agent.generation, self.worker);
        if is_own {
            self.station.take_back(self.taker, id);
        }
        is_own
    }

    /// Whether nothing more is to begin in it (rule 4).
    fn is_over(&self) -> bool {
        self.may_end && !self.post.lock().crew.works_in(self.tenure)
    }

    /// Whether messages may be handled one after the other under one guard against panics: there is a handler,
    /// nobody supervises each message of it, and no destructor of the host's can panic between two of them.
    #[inline]
    const fn may_run_on(&self) -> bool {
        self.handler.is_some()
            && !self.tenure.is_supervised()
            && !std::mem::needs_drop::<T>()
            && !std::mem::needs_drop::<O>()
    }

    fn take_on(&mut self, hired: Option<Hired<T, O>>) {
        match hired {
            Some(Hired::Made(handler)) => self.handler = Some(handler),
            Some(Hired::ToMake(factory)) => self.factory = Some(factory),
            None => {}
        }
    }
}
