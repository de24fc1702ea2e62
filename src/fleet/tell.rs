//! Messages to named agents: told, asked, and what becomes of those that nobody handles.
//!
//! Rules that hold here:
//!
//! 1. A message that was accepted ends exactly once: it is handled, or fails, or is returned. The counters
//!    say how many of each; what was asked gets its [`Outcome`] too.
//! 2. What is refused is handed back whole, and is counted as refused.
//! 3. Payloads that are returned go to the [`Returned`] hook outside every lock.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::Fleet;
use super::crew::Crew;
use super::id::{AgentId, TaskId};
use super::inner::Inner;
use super::log::FleetEvent;
use super::mailbox::{Lane, Lanes, Leftovers, Letter, Refusal, Told};
use super::post::{Home, Message};
use super::reply::{Filled, Reply, ReplyCell};
use super::task::{Outcome, ReturnReason};
use super::wakers::guarded;
use crate::sync::left_out;

/// Why a message was not accepted. It carries the payload back.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum TellError<T> {
    /// The lane of the agent's mailbox has no room.
    #[error("the agent's mailbox is full")]
    Full(T),
    /// The agent is gone or never was.
    #[error("the agent is gone")]
    Gone(T),
    /// The agent is drained: it handles what it has and takes no more.
    #[error("the agent is drained and takes no more messages")]
    Draining(T),
    /// The agent has no handler, so it has no mailbox.
    #[error("the agent has no handler")]
    NoMailbox(T),
    /// The fleet drains or was shut down.
    #[error("the fleet takes no more messages")]
    Closed(T),
}

impl<T> TellError<T> {
    /// The payload.
    #[must_use]
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(payload)
            | Self::Gone(payload)
            | Self::Draining(payload)
            | Self::NoMailbox(payload)
            | Self::Closed(payload) => payload,
        }
    }
}

impl<T> fmt::Debug for TellError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Gone(_) => "Gone(..)",
            Self::Draining(_) => "Draining(..)",
            Self::NoMailbox(_) => "NoMailbox(..)",
            Self::Closed(_) => "Closed(..)",
        })
    }
}

/// Is given the payloads of messages that were accepted and that no handler began: those that lay in the
/// mailbox of an agent that ended, or of a fleet that was shut down.
///
/// It is called outside the fleet's locks, by the thread that ended the agent, once for each agent, with the
/// payloads in the order in which they would have been handled. A panic in it is caught and counted. A
/// closure is one.
pub trait Returned<T>: Send + Sync {
    /// Takes the payloads back.
    fn returned(&self, agent: AgentId, reason: ReturnReason, payloads: Vec<T>);
}

impl<T, F: Fn(AgentId, ReturnReason, Vec<T>) + Send + Sync> Returned<T> for F {
    fn returned(&self, agent: AgentId, reason: ReturnReason, payloads: Vec<T>) {
        self(agent, reason, payloads);
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Fleet<T, O> {
    /// Leaves a message in an agent's mailbox. Never waits.
    ///
    /// The agent handles its messages one at a time, in the order in which they came, on a worker thread
    /// and under a lease of its own; between two of them it may do tasks of the queue. An agent all of whose
    /// leases are held handles none until one comes back. Nobody is told what comes of a message: it is
    /// counted as handled, as failed if the handler returned an error or panicked, or as returned if the
    /// agent or the fleet ended first ([`Returned`]). It is not tried again, and no log records it; work
    /// that needs that is a [`Task`](super::Task).
    ///
    /// # Errors
    /// The [`TellError`] hands the payload back, and says whether the mailbox is full, the agent is gone, is
    /// [drained](Self::drain_agent) or has no handler, or the fleet takes no more.
    ///
    /// # Complexity
    /// O(1): one short lock of the mailbox, and one of the line of agents if the mailbox was idle.
    ///
    /// ```
    /// use phalanx::fleet::{AgentSpec, Fleet};
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use std::sync::Arc;
    /// use std::time::Duration;
    ///
    /// let sum = Arc::new(AtomicU64::new(0));
    /// let fleet = Fleet::<u64>::builder().workers(1).build()?;
    /// let adder = {
    ///     let sum = Arc::clone(&sum);
    ///     AgentSpec::new("adder").handler_fn(move |task, _cx| {
    ///         sum.fetch_add(*task.payload(), Ordering::Relaxed);
    ///         Ok(())
    ///     })
    /// };
    /// let adder = fleet.spawn(adder)?;
    /// for number in 1..=10 {
    ///     fleet.tell(adder, number)?;
    /// }
    /// let report = fleet.drain(Duration::from_secs(5))?;
    /// assert_eq!((report.messages_handled, sum.load(Ordering::Relaxed)), (10, 55));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tell(&self, agent: AgentId, payload: T) -> Result<(), TellError<T>> {
        self.inner().put(agent, Lane::Work, Message::Told(payload))
    }

    /// Leaves a message in the control lane of an agent's mailbox. Never waits.
    ///
    /// It is handled before all that [`tell`](Self::tell) and [`ask`](Self::ask) left there and that no handler has
    /// begun, and before any task of the queue begins on the agent. Work does not block it: the lane has room for 16,
    /// which work cannot fill, and to handle it needs neither a lease of the agent nor room in a budget, but a handler
    /// that does nothing else. So it waits for a worker; for the message that runs, if one does, for an agent handles
    /// its messages one at a time, however many leases it may hold; and for one attempt that runs, if the
    /// agent may have no handler beside those that do ([`max_leases`](super::AgentSpec::max_leases)). While a message
    /// runs, tasks may begin on other handlers of the agent. A handler that ran as its agent failed counts until it ends,
    /// though the agent was started again. The agent holds one lease more than it may
    /// meanwhile, which nobody pays for. An agent with an async handler, and one that the circuit of its type is trying,
    /// need a lease for it as for any message; one that is not in service, or down, handles none.
    ///
    /// If the agent is handling messages, up to 64 that its worker had taken out go back: O(those), with a barrier among
    /// the processors.
    ///
    /// # Errors
    /// As [`tell`](Self::tell).
    pub fn tell_control(&self, agent: AgentId, payload: T) -> Result<(), TellError<T>> {
        self.inner().put(agent, Lane::Control, Message::Told(payload))
    }

    /// Asks an agent something. Never waits; the [`Reply`] does.
    ///
    /// A question is a message like any other ([`tell`](Self::tell)), and what the handler returns is its
    /// answer. It gets exactly one outcome: completed, failed, or returned if the agent or the fleet ended
    /// first, also while the handler was running.
    ///
    /// # Errors
    /// As [`tell`](Self::tell).
    ///
    /// ```
    /// use phalanx::fleet::{AgentSpec, Fleet, Outcome};
    ///
    /// let fleet = Fleet::<String, usize>::builder().workers(1).build()?;
    /// let spec = AgentSpec::<String, usize>::new("counter")
    ///     .handler_fn(|task, _cx| Ok(task.payload().len()));
    /// let counter = fleet.spawn(spec)?;
    /// let reply = fleet.ask(counter, "phalanx".to_owned())?;
    /// assert_eq!(reply.wait(), Outcome::Completed(7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ask(&self, agent: AgentId, payload: T) -> Result<Reply<O>, TellError<T>> {
        let cell = Arc::new(ReplyCell::new());
        let reply = Reply::new(Arc::clone(&cell), self.inner().clock.clone());
        self.inner().put(agent, Lane::Work, Message::Asked(payload, cell))?;
        Ok(reply)
    }

    /// How many messages lie in an agent's mailbox, those that a worker took out already not counted;
    /// `None` for an agent that is gone or has no handler.
    #[must_use]
    pub fn mailbox_len(&self, agent: AgentId) -> Option<usize> {
        let mailbox = &self.inner().posts.get(agent.slot)?.lock().mailbox;
        mailbox.is_open(agent.generation).then(|| mailbox.len())
    }
}

impl<T, O> Inner<T, O> {
    #[inline]
    fn put(&self, agent: AgentId, lane: Lane, message: Message<T, O>) -> Result<(), TellError<T>> {
        let mut put_back = Vec::new();
        let put = self.put_in(agent, lane, message, &mut put_back);
        // Rule 4 of the mailed tasks.
        self.take_strays(agent, &put_back);
        put
    }

    /// The same; which tasks went back into the mailbox out of the hand of its worker.
    #[inline(always)]
    fn put_in(
        &self,
        agent: AgentId,
        lane: Lane,
        message: Message<T, O>,
        put_back: &mut Vec<TaskId>,
    ) -> Result<(), TellError<T>> {
        if self.runner.takes_no_more() {
            return Err(self.refuse_message(TellError::Closed, message));
        }
        let Some(post) = self.posts.get(agent.slot) else {
            return self.put_absent(agent, lane, message);
        };
        let mut home = post.lock();
        if lane == Lane::Control {
            // Before it is put in: if the system refuses the fence of the cut, nothing has been accepted.
            self.make_way(agent, &mut home, put_back);
        }
        let told = match home.mailbox.push(agent.generation, lane, message) {
            Ok(told) => told,
            Err((refusal, message)) => {
                drop(home);
                return match refusal {
                    Refusal::Full => Err(self.refuse_message(TellError::Full, message)),
                    Refusal::Finishing => Err(self.refuse_message(TellError::Draining, message)),
                    Refusal::Gone => self.put_absent(agent, lane, message),
                };
            }
        };
        if told == Told::Already {
            post.accept();
            // If nobody runs it, somebody looks whether that may be, as it needs less than what waited there.
            let lines_up = lane == Lane::Control
                && home.mailbox.worker(agent.generation).is_none()
                && home.lines_up(agent.generation);
            drop(home);
            if lines_up {
                self.runner.reschedule(agent);
            }
            return Ok(());
        }
        let lined = if home.crew.is_in_line() {
            self.runner.activate(false).map(|()| None)
        } else {
            self.runner.schedule(agent).map(Some)
        };
        match lined {
            Ok(roused) => {
                home.crew.lines_up();
                post.accept();
                drop(home);
                if let Some(roused) = roused {
                    self.runner.rouse(roused);
                }
                Ok(())
            }
            Err(_ended) => {
                let message = home.mailbox.take_back(lane).expect("it was just put in");
                drop(home);
                Err(self.refuse_message(TellError::Closed, message))
            }
        }
    }

    /// Has a message of the control lane be the next that is handled but for those of its lane: the work that the worker
    /// which runs the mailbox has not begun goes back behind it.
    #[cold]
    fn make_way(&self, agent: AgentId, home: &mut Home<T, O>, put_back: &mut Vec<TaskId>) {
        if let Some(worker) = home.mailbox.worker(agent.generation)
            && !left_out("fleet.leave-what-is-in-hand")
        {
            let work = self.stations[usize::from(worker)].hand.lock().strip_work();
            put_back.extend(work.iter().filter_map(Message::task));
            home.mailbox.restore(0, work);
        }
    }

    /// Has a worker look at a mailbox, unless it stands in line.
    pub(super) fn line_up(&self, agent: AgentId) {
        let post = self.posts.get(agent.slot);
        if post.is_some_and(|post| post.lock().lines_up(agent.generation)) {
            self.runner.reschedule(agent);
        }
    }

    /// Has a worker look at a mailbox in whose control lane something waits, now that its agent may handle that.
    #[cold]
    pub(super) fn look_for_control(&self, agent: AgentId) {
        let post = self.posts.get(agent.slot);
        let lines_up = post.is_some_and(|post| {
            let mut home = post.lock();
            home.mailbox.is_urgent(agent.generation) && home.lines_up(agent.generation)
        });
        if lines_up {
            self.runner.reschedule(agent);
        }
    }

    #[cold]
    fn refuse_message(
        &self,
        error: impl FnOnce(T) -> TellError<T>,
        message: Message<T, O>,
    ) -> TellError<T> {
        self.counters.refuse();
        match message {
            Message::Told(payload) | Message::Asked(payload, _) => error(payload),
            Message::Task(_) => unreachable!("a task comes by another way"),
        }
    }

    /// For an agent that has no open mailbox. One that has just joined may be allocated before its mailbox
    /// opens, in the one step of whoever spawns it: after that step there is one, or the agent is gone.
    #[cold]
    fn put_absent(
        &self,
        agent: AgentId,
        lane: Lane,
        message: Message<T, O>,
    ) -> Result<(), TellError<T>> {
        match self.pool.status(agent).map(|status| status.has_handler) {
            None => Err(self.refuse_message(TellError::Gone, message)),
            Some(true) if !left_out("fleet.wait-for-the-mailbox") => {
                drop(self.state.lock());
                self.put(agent, lane, message)
            }
            Some(_) => Err(self.refuse_message(TellError::NoMailbox, message)),
        }
    }

    /// Ends an outcome's way: to the asker, or out of the world. Whether it was in time.
    pub(super) fn reply(
        &self,
        cell: &ReplyCell<O>,
        outcome: Outcome<O>,
        count: impl FnOnce(),
    ) -> bool {
        match cell.fill(outcome, count) {
            Filled::Ended(waker) => {
                if let Some(waker) = waker {
                    self.wake(waker);
                }
                true
            }
            Filled::Unwanted(outcome) => {
                self.discard(outcome);
                true
            }
            Filled::Late(outcome) => {
                self.discard(outcome);
                false
            }
        }
    }

    /// Takes out of an agent's mailbox all that no handler has begun, and closes it. What it gives back is
    /// to be [returned](Self::return_messages) outside the locks.
    pub(super) fn close_mailbox(&self, agent: AgentId, strike: bool) -> Option<Remains<T, O>> {
        let post = self.posts.get(agent.slot)?;
        let mut home = post.lock();
        let worker = home.mailbox.worker(agent.generation);
        let (mut taken, mut asker) = (VecDeque::new(), None);
        if let Some(worker) = worker {
            let station = &self.stations[usize::from(worker)];
            let mut hand = station.hand.lock();
            // Before it is closed: if the system refuses the fence of the cut, nothing has been taken out.
            taken = hand.strip();
            if left_out("fleet.leave-the-hand") {
                taken.clear();
            }
            if strike {
                station.signal.revoke();
                asker = hand.asker.take();
            }
        }
        let (Leftovers { messages: waiting, active }, crew) = home.close(agent.generation)?;
        drop(home);
        if crew.is_lined() {
            self.runner.forget(agent);
        }
        // Before any asker knows, and before a drain finds that nothing is left. Tasks are counted as such.
        let count = taken.iter().filter(|message| message.counts()).count() + waiting.counted();
        self.counters.give_back(count);
        // A mailbox that runs is retired by its worker.
        let last = active && worker.is_none() && self.runner.retire(1);
        Some(Remains { agent, taken, waiting, count, asker, crew, last })
    }

    /// Takes out of an agent's mailbox all that no handler has begun, and leaves it open, for nothing new. What it gives
    /// back is to be [returned](Self::return_messages) outside the locks.
    pub(super) fn take_out(&self, agent: AgentId) -> Option<Remains<T, O>> {
        let mut home = self.posts.get(agent.slot)?.lock();
        home.mailbox.finish(agent.generation);
        let worker = home.mailbox.worker(agent.generation);
        let taken = worker.map_or_else(VecDeque::new, |worker| {
            self.stations[usize::from(worker)].hand.lock().strip()
        });
        let Leftovers { messages: waiting, active } = home.mailbox.sweep(agent.generation)?;
        drop(home);
        let count = taken.iter().filter(|message| message.counts()).count() + waiting.counted();
        self.counters.give_back(count);
        let last = active && self.runner.retire(1);
        Some(Remains { agent, taken, waiting, count, asker: None, crew: Crew::none(), last })
    }

    /// Ends the question that a worker is running, for a mailbox that is closed already.
    pub(super) fn strike_askers(&self, reason: ReturnReason) {
        for station in &self.stations {
            let asker = {
                let mut hand = station.hand.lock();
                station.signal.revoke();
                hand.asker.take()
            };
            self.strike_asker(asker, reason);
        }
    }

    pub(super) fn strike_asker(&self, asker: Option<Arc<ReplyCell<O>>>, reason: ReturnReason) {
        if let Some(cell) = asker {
            // If the handler was faster, the asker has its answer.
            self.reply(&cell, Outcome::Returned(reason), || self.counters.give_back(1));
        }
    }

    /// Gives messages back that nobody began (rules 1 and 3).
    pub(super) fn return_messages(&self, remains: Remains<T, O>, reason: ReturnReason) {
        let Remains { agent, taken, waiting, count, asker, crew, last } = remains;
        self.strike_asker(asker, reason);
        let all = taken.len() + waiting.len();
        let mut tasks = Vec::with_capacity(all - count);
        if all > 0 {
            let mut payloads = Vec::with_capacity(count);
            // What the worker took out came first.
            for message in taken.into_iter().chain(waiting.into_messages()) {
                match message {
                    Message::Told(payload) => payloads.push(payload),
                    Message::Asked(payload, cell) => {
                        payloads.push(payload);
                        self.reply(&cell, Outcome::Returned(reason), || ());
                    }
                    Message::Task(id) => tasks.push(id),
                }
            }
            if count > 0 {
                self.notice(&FleetEvent::MessagesReturned { agent, count, reason });
            }
            match &self.returned {
                Some(hook) if count > 0 => {
                    if guarded(|| hook.returned(agent, reason, payloads)).is_err() {
                        self.state.lock().counts.other_panics += 1;
                    }
                }
                _ => payloads.into_iter().for_each(|payload| self.discard(payload)),
            }
        }
        if !tasks.is_empty() {
            self.return_tasks(agent, &tasks, reason);
        }
        self.discard_crew(crew);
        if last {
            self.tell_progress();
        }
    }

    /// Drops what an agent ran.
    pub(super) fn discard_crew(&self, crew: Crew<T, O>) {
        let factory = crew.dissolve(|handler| self.discard(handler));
        self.discard(factory);
    }
}

/// What was left of an agent's mailbox, and what the agent ran.
#[derive(Debug)]
#[must_use = "the messages are to be returned"]
pub(super) struct Remains<T, O> {
    agent: AgentId,
    /// What its worker had in hand.
    taken: VecDeque<Message<T, O>>,
    /// What lay in the mailbox, as it lay there.
    waiting: Lanes<Message<T, O>>,
    /// How many of both are counted as messages.
    count: usize,
    /// Who asked what was running.
    asker: Option<Arc<ReplyCell<O>>>,
    crew: Crew<T, O>,
    /// Whether it was the last active mailbox, and somebody waits for that.
    last: bool,
}

impl<T, O> Remains<T, O> {
    pub(super) const fn agent(&self) -> AgentId {
        self.agent
    }

    /// How many messages there are.
    pub(super) const fn count(&self) -> usize {
        self.count
    }
}
