//! A worker's turn with one mailbox.
//!
//! Rules that hold here:
//!
//! 1. A turn holds a lease of the agent from before the first handler to after the last, so the agent's load
//!    is true. If all its leases are held there is no turn, and the release of one lines the mailbox up.
//! 2. A turn takes [`TURN`] messages at most; then others that are ready come first.
//! 3. What a worker took out of the mailbox and has not begun is in its hand, where whoever closes the
//!    mailbox finds it (rule 2 of the posts).

use super::agent::{AgentId, Factory, Handler};
use super::inner::Inner;
use super::log::FleetEvent;
use super::mailbox::Rest;
use super::post::{Message, Station};
use super::reply::ReplyCell;
use super::runner::Seat;
use super::task::{Attempt, Outcome, Task, TaskContext, TaskError, TaskErrorKind};
use super::wakers::guarded;

/// How many messages an agent handles before others come.
const TURN: usize = 256;
/// How many a worker takes out at once: so many fewer times it takes the lock that senders want.
const CLAIM: usize = 64;

/// What a turn works with.
struct Turn<'a, T, O> {
    agent: AgentId,
    station: &'a Station<T, O>,
    handler: Option<Handler<T, O>>,
    factory: Factory<T, O>,
}

impl<T, O> Inner<T, O> {
    /// Runs a turn of an agent's mailbox, if there is one to run.
    pub(super) fn turn(&self, agent: AgentId, seat: &mut Seat) {
        let worker = seat.worker();
        let post = self.posts.get(agent.slot).expect("what is in line has a mailbox");
        let leased = {
            let mut state = self.state.lock();
            // A stop closes the mailboxes itself.
            let leased = if state.stopping { None } else { state.lease_for_mailbox(agent) };
            if leased.is_some() {
                self.runner.occupy(seat);
            }
            leased
        };
        let Some((factory, handler)) = leased else { return };
        let station = &self.stations[usize::from(worker)];
        let mut turn = Turn { agent, station, handler, factory };
        let mut left = TURN;
        let begun = {
            let mut mailbox = post.lock();
            let begun = mailbox.begin(agent.generation, worker);
            if begun {
                station.signal.reset();
                mailbox.claim(CLAIM, &mut station.hand.lock().messages);
            }
            begun
        };
        while begun {
            while let Some(message) = station.take() {
                self.handle(&mut turn, message);
                left = left.saturating_sub(1);
            }
            let mut mailbox = post.lock();
            if left == 0 || mailbox.is_empty() || !mailbox.is_run_by(agent.generation, worker) {
                break;
            }
            mailbox.claim(CLAIM.min(left), &mut station.hand.lock().messages);
        }
        self.end_turn(turn);
        if begun {
            let rest = post.lock().rest(agent.generation, worker);
            match rest {
                Rest::Again => self.runner.reschedule(agent),
                Rest::Idle | Rest::Closed => {
                    if self.runner.retire(1) {
                        self.tell_progress();
                    }
                }
            }
        }
    }

    /// Gives the lease and the handler back.
    fn end_turn(&self, turn: Turn<'_, T, O>) {
        let Turn { agent, mut handler, factory, .. } = turn;
        let mut wakes = Vec::new();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            if state.pool.release(agent, &mut wakes).is_ok() {
                let behaviour = state.behaviours[agent.slot() as usize].as_mut();
                behaviour.expect("the agent lives").idle.extend(handler.take());
            }
            self.notify_workers(state);
        }
        self.wake_all(wakes);
        self.discard(handler);
        self.discard(factory);
    }

    fn handle(&self, turn: &mut Turn<'_, T, O>, message: Message<T, O>) {
        let (payload, cell) = match message {
            Message::Told(payload) => (payload, None),
            Message::Asked(payload, cell) => (payload, Some(cell)),
        };
        let task = Task::new(payload);
        let result = self.attempt(turn, &task);
        let station = turn.station;
        match (result, cell) {
            (Ok(output), None) => {
                Station::<T, O>::count(&station.handled);
                self.discard(output);
            }
            (Ok(output), Some(cell)) => self.answer(turn, &cell, Outcome::Completed(output)),
            (Err(error), cell) => {
                if error.kind() == TaskErrorKind::Panicked {
                    self.state.lock().counts.handler_panics += 1;
                }
                if self.observer.is_some() {
                    let error = error.clone();
                    self.notice(&FleetEvent::MessageFailed { agent: turn.agent, error });
                }
                match cell {
                    None => Station::<T, O>::count(&station.failed),
                    Some(cell) => self.answer(turn, &cell, Outcome::Failed(error)),
                }
            }
        }
        self.discard(task);
    }

    /// Tells the asker, unless somebody struck the question meanwhile.
    fn answer(&self, turn: &Turn<'_, T, O>, cell: &ReplyCell<O>, outcome: Outcome<O>) {
        let completed = matches!(outcome, Outcome::Completed(_));
        let station = turn.station;
        let counter = if completed { &station.handled } else { &station.failed };
        if !self.reply(cell, outcome, || Station::<T, O>::count(counter)) {
            let counts = &mut self.state.lock().counts;
            if completed {
                counts.late_completions_refused += 1;
            } else {
                counts.late_failures_ignored += 1;
            }
        }
    }

    fn attempt(&self, turn: &mut Turn<'_, T, O>, task: &Task<T>) -> Result<O, TaskError> {
        let mut handler = match turn.handler.take() {
            Some(handler) => handler,
            None => guarded(|| (turn.factory)())
                .map_err(|what| TaskError::panicked(format!("the factory panicked: {what}")))?,
        };
        let mut context = TaskContext {
            task: None,
            attempt: Attempt::NONE,
            agent: turn.agent,
            signal: &turn.station.signal,
        };
        match guarded(|| handler.handle(task, &mut context)) {
            Ok(result) => {
                turn.handler = Some(handler);
                result
            }
            // Whatever state the panic left the handler in, no message meets it.
            Err(what) => {
                self.discard(handler);
                Err(TaskError::panicked(format!("the handler panicked: {what}")))
            }
        }
    }
}
