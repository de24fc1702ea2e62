//! A subscription, and the ways to receive from it.
//!
//! 1. A subscription reads each lane of the bus with a [`Reader`] of its own. What it takes next is for
//!    [`turns`](super::turns) to say.
//! 2. A handler that panics ends the subscription, so that nothing waits for a reader that is broken; the panic
//!    passes through. A `Clone` that panics does not: the event is passed.
//! 3. A subscription that ended holds nothing back, and its counters stay what they were.

mod batches;
mod futures;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub use futures::{ForEachBatch, Recv};

use super::dead_letters::Pen;
use super::error::{RecvError, RecvTimeoutError, TryRecvError};
use super::event::Event;
use super::filter::{Filter, Matcher};
use super::reader::{Gap, Reader, Step};
use super::registry::Hold;
use super::shared::Shared;
use super::stats::SubscriberStats;
use super::strategy::{Backoff, Patience, WaitStrategy};
use super::turns::Turns;
use super::wait::{EVERYTHING, Ticket, first_of, pass_on};
use crate::sync::{Parker, left_out};
use crate::{Error, ErrorKind, Timestamp};

/// What happens when a subscription falls a full ring behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// Publishers wait for it. It loses nothing, and whoever holds it holds up the bus.
    Block,
    /// The oldest events are lost to it, counted, and reported to it. It holds nobody up, but for the
    /// moment in which it clones events out.
    ///
    /// Room is made for a stride of events at a time: a sixteenth of the ring, at least one and at most
    /// 256. So it may lose the oldest as soon as less than a stride of the ring is left ahead of it; in
    /// rings of up to 16 events it loses none before it is a full ring behind.
    DropOldest,
    /// Publishers get an error, and the event back. It loses nothing of what was published.
    Fail,
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Start {
    /// With the next event claimed after the call began, and at the latest with the first whose publication
    /// begins after it returned. What an exclusive publisher is in the midst of counts as not claimed yet: of a
    /// batch, what it wrote before in one go may be seen too.
    #[default]
    Now,
    /// With the oldest event that the ring still holds, of each lane.
    ///
    /// That is close to a full ring back: publishers clear the way for a stride of events ahead (see
    /// [`Overflow::DropOldest`]).
    Oldest,
    /// With the event of this sequence. What of it is gone by now is reported as
    /// [`Lagged`](RecvError::Lagged) by the first receive, whatever the overflow policy.
    ///
    /// Only for a bus of one lane, as each lane counts by itself.
    Sequence(u64),
}

/// One subscription of an [`EventBus`](super::EventBus); dropping it ends it.
///
/// It sees, in order, the events from its [`Start`] on, and passes over those that its filter does not match.
pub struct Subscriber<E> {
    shared: Arc<Shared<E>>,
    /// One for each lane; none once it ended.
    readers: Vec<Reader<E>>,
    turns: Turns,
    matcher: Matcher<E>,
    overflow: Overflow,
    /// How to clone a payload out; drop-oldest subscriptions always have it.
    clone: Option<fn(&E) -> E>,
    /// What it lost before it began, to be told first.
    gap: Option<Gap>,
    /// Whether clones are made before the filter has decided.
    asks_of_clones: bool,
    /// What it was when it ended.
    ended: Option<SubscriberStats>,
    patience: Patience,
    /// Made when it first parks.
    parker: Option<Parker>,
    /// Of the future or stream that waits.
    ticket: Option<Ticket>,
    /// Clones that a drop-oldest subscription took under one pin; empty between calls.
    clones: Vec<Event<E>>,
    /// For the event whose handler panics.
    pen: Pen<E>,
}

impl<E> Subscriber<E> {
    pub(super) fn new(
        shared: Arc<Shared<E>>,
        filter: Filter<E>,
        overflow: Overflow,
        start: Start,
        clone: Option<fn(&E) -> E>,
    ) -> Result<Self, Error> {
        if matches!(start, Start::Sequence(_)) && shared.lanes().len() > 1 {
            let message =
                "a subscription from a sequence needs a bus of one lane: each counts by itself";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let hold = match overflow {
            Overflow::Block => Hold::Waiting,
            Overflow::DropOldest => Hold::Nothing,
            Overflow::Fail => Hold::Failing,
        };
        let (readers, gap) = shared.join(hold, start)?;
        let matcher = filter.into_matcher();
        Ok(Self {
            turns: Turns::new(readers.len()),
            readers,
            asks_of_clones: hold == Hold::Nothing && matcher.predicate().is_some(),
            matcher,
            overflow,
            clone,
            gap,
            ended: None,
            patience: Patience::new(shared.strategy),
            parker: None,
            ticket: None,
            clones: Vec::new(),
            pen: Pen::new(&shared.letters),
            shared,
        })
    }

    /// The same subscription with a wait strategy of its own. Default: that of the bus.
    #[must_use]
    pub fn with_wait_strategy(mut self, strategy: WaitStrategy) -> Self {
        self.patience = Patience::new(strategy);
        self
    }

    /// Receives the next event; waits for it as the wait strategy says.
    ///
    /// # Errors
    ///
    /// [`RecvError::Lagged`] for each run of events that this drop-oldest subscription lost, before the first
    /// event behind them; [`RecvError::Closed`] when the bus is closed and all was received;
    /// [`RecvError::HandlerPanicked`] once a handler of this subscription has panicked.
    ///
    /// # Panics
    ///
    /// If the payload's `Clone` or the filter's predicate panics, that panic passes through; the event
    /// counts as delivered or skipped, and the next call goes on behind it. So does the panic of the waker of a
    /// future that was to publish where this made room; the event that was taken is lost with the call, and
    /// counts as delivered.
    #[inline]
    pub fn recv(&mut self) -> Result<Event<E>, RecvError>
    where
        E: Clone,
    {
        loop {
            if let Some(event) = self.wait(None, Self::take_cloned)? {
                return Ok(event);
            }
        }
    }

    /// Receives the next event if one is there. Never waits.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`], also after a run of 256 events that do not match; else as
    /// [`recv`](Self::recv).
    ///
    /// # Panics
    ///
    /// As [`recv`](Self::recv).
    #[inline]
    pub fn try_recv(&mut self) -> Result<Event<E>, TryRecvError>
    where
        E: Clone,
    {
        let step = self.take_cloned();
        self.attempt(step)
    }

    /// Receives the next event; waits for it so long at most, by the clock of the bus.
    ///
    /// # Errors
    ///
    /// [`RecvTimeoutError::Timeout`]; else as [`recv`](Self::recv). A timeout of zero tries once.
    ///
    /// # Panics
    ///
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Event<E>, RecvTimeoutError>
    where
        E: Clone,
    {
        self.wait(Some(timeout), Self::take_cloned)?.ok_or(RecvTimeoutError::Timeout)
    }

    /// Receives the next event; the future is ready when it is there, on any executor.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    ///
    /// An event is taken in the poll that returns it and in no other: dropping the future loses nothing.
    ///
    /// # Panics
    ///
    /// As [`recv`](Self::recv), within the poll.
    pub fn recv_async(&mut self) -> Recv<'_, E>
    where
        E: Clone,
    {
        Recv::new(self)
    }

    /// Handles the events that are there, up to 256; waits for the first one. Says how many it handled.
    ///
    /// A subscription that publishers wait for lends the payloads where they lie, and frees their slots every
    /// few events (an eighth of the ring, 64 at most) and at the end of the batch. A drop-oldest one clones
    /// a few at a time and lends the clones, so that no handler holds a publisher up.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), when there was nothing to handle before.
    ///
    /// # Panics
    ///
    /// A panic of the handler passes through. It ends the subscription: the event that was handled counts as
    /// delivered, those behind it as dropped, and every receive from then on says
    /// [`HandlerPanicked`](RecvError::HandlerPanicked). [`BusStats::handler_panics`] counts it, and a clone of
    /// the event becomes a [dead letter](super::DeadLetters), unless the subscription was begun for payloads
    /// that need not be `Clone`.
    ///
    /// [`BusStats::handler_panics`]: super::BusStats::handler_panics
    pub fn for_each_batch(&mut self, mut f: impl FnMut(Event<&E>)) -> Result<u64, RecvError> {
        loop {
            if let Some(handled) = self.wait(None, |this| this.batch(&mut f))? {
                return Ok(handled);
            }
        }
    }

    /// As [`for_each_batch`](Self::for_each_batch); the future is ready when a batch was handled, on any
    /// executor. So a payload that is not `Clone` can be awaited too.
    ///
    /// # Errors
    ///
    /// As [`for_each_batch`](Self::for_each_batch).
    ///
    /// # Cancel safety
    ///
    /// Events are handled in the poll that says how many and in no other: dropping the future loses nothing.
    ///
    /// # Panics
    ///
    /// As [`for_each_batch`](Self::for_each_batch), within the poll.
    pub fn for_each_batch_async<F: FnMut(Event<&E>)>(&mut self, f: F) -> ForEachBatch<'_, E, F> {
        ForEachBatch::new(self, f)
    }

    /// As [`for_each_batch`](Self::for_each_batch), without waiting.
    ///
    /// # Errors
    ///
    /// As [`try_recv`](Self::try_recv).
    ///
    /// # Panics
    ///
    /// As [`for_each_batch`](Self::for_each_batch).
    pub fn try_for_each_batch(
        &mut self,
        mut f: impl FnMut(Event<&E>),
    ) -> Result<u64, TryRecvError> {
        let step = self.batch(&mut f);
        self.attempt(step)
    }

    /// What becomes of it when it falls behind.
    #[must_use]
    pub fn overflow(&self) -> Overflow {
        self.overflow
    }

    /// The counters of this subscription.
    #[must_use]
    pub fn stats(&self) -> SubscriberStats {
        if let Some(ended) = self.ended {
            return ended;
        }
        let mut stats = SubscriberStats::default();
        for reader in &self.readers {
            stats.id = reader.index();
            stats.add(&reader.counts(), reader.depth());
        }
        stats
    }

    /// How far it is behind on each lane.
    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn depths(&self) -> Vec<u64> {
        self.readers.iter().map(Reader::depth).collect()
    }

    #[inline]
    pub(super) fn take_cloned(&mut self) -> Step<Event<E>>
    where
        E: Clone,
    {
        if self.is_special() {
            return self.take_special();
        }
        let Self { turns, readers, matcher, shared, .. } = self;
        turns.take(readers, |reader| reader.take(matcher, shared, |event| event.cloned()))
    }

    /// Whether there is more to a receive than to take what comes next.
    #[inline]
    fn is_special(&self) -> bool {
        self.gap.is_some() || self.ended.is_some() || self.asks_of_clones
    }

    #[cold]
    fn take_special(&mut self) -> Step<Event<E>>
    where
        E: Clone,
    {
        match self.notice() {
            Some(step) => step,
            None => self.take_matching(),
        }
    }

    /// What is to be told before anything is taken; see [`error`](Self::error).
    fn notice<R>(&self) -> Option<Step<R>> {
        if self.ended.is_some() {
            return Some(Step::Closed);
        }
        self.gap.is_some().then_some(Step::Lagging)
    }

    /// The error of a step that is one.
    #[cold]
    fn error<R>(&mut self, step: &Step<R>) -> RecvError {
        match step {
            Step::Lagging => {
                let lane = self.turns.lagging();
                let (missed, from) = self.gap.take().unwrap_or_else(|| self.readers[lane].lag());
                RecvError::Lagged { missed, from, lane: lane as u8 }
            }
            _ if self.ended.is_some() => RecvError::HandlerPanicked,
            _ => RecvError::Closed,
        }
    }

    /// Takes a clone and asks the predicate of it.
    fn take_matching(&mut self) -> Step<Event<E>>
    where
        E: Clone,
    {
        let Self { turns, readers, matcher, shared, .. } = self;
        turns.take(readers, |reader| {
            match reader.take(matcher, shared, |event| event.cloned()) {
                Step::Taken(event) => {
                    // If the predicate panics, the event was passed and counts as delivered.
                    if matcher.predicate().is_none_or(|predicate| predicate(&event.payload)) {
                        Step::Taken(event)
                    } else {
                        reader.uncount(1);
                        Step::Skipped
                    }
                }
                step => step,
            }
        })
    }

    /// Lets go of everything (rule 3).
    #[cold]
    fn end(&mut self) {
        let mut stats = self.stats();
        let woken = self.shared.leave(&self.readers);
        self.readers.clear();
        stats.dropped = std::mem::take(&mut stats.depth);
        self.ended = Some(stats);
        // A waker that is dropped is the code of somebody else, like those that were woken.
        let left = catch_unwind(AssertUnwindSafe(|| self.leave_waiting()));
        pass_on(first_of(woken, left));
    }

    /// What a step means to a caller who does not wait.
    #[inline]
    fn attempt<R>(&mut self, step: Step<R>) -> Result<R, TryRecvError> {
        match step {
            Step::Taken(taken) => Ok(taken),
            Step::Skipped | Step::Empty => Err(TryRecvError::Empty),
            step => Err(self.error(&step).into()),
        }
    }

    /// Steps until there is something to return; `None` if the time ran out first.
    #[inline]
    fn wait<R>(
        &mut self,
        timeout: Option<Duration>,
        mut step: impl FnMut(&mut Self) -> Step<R>,
    ) -> Result<Option<R>, RecvError> {
        let mut idle = None;
        loop {
            match step(self) {
                Step::Taken(taken) => {
                    if let Some(idle) = idle {
                        self.paid_off(idle);
                    }
                    return Ok(Some(taken));
                }
                // There may be more, and each step passes some.
                Step::Skipped if timeout.is_none() => {}
                Step::Skipped | Step::Empty => {
                    let idle = idle.get_or_insert_with(|| Idle::new(self.patience));
                    if !self.idle(idle, timeout) {
                        return Ok(None);
                    }
                }
                step => return Err(self.error(&step)),
            }
        }
    }

    /// A wait ended in an event.
    #[cold]
    fn paid_off(&mut self, idle: Idle) {
        if !idle.parked {
            self.patience.paid_off(&idle.backoff);
        }
    }

    /// Lets a moment pass in which an event may come; `false` once the time ran out.
    #[cold]
    fn idle(&mut self, idle: &mut Idle, timeout: Option<Duration>) -> bool {
        if let Some(timeout) = timeout {
            let now = self.shared.clock.now();
            if now >= *idle.deadline.get_or_insert(now + timeout) {
                return false;
            }
        }
        if idle.backoff.again() {
            return true;
        }
        let waker = self.parker.get_or_insert_default().waker();
        // A stream that is pending stays so.
        let streaming = self.ticket.take();
        if self.enter_waiting(&waker) {
            let parker = self.parker.get_or_insert_default();
            self.shared.clock.park_until(parker, idle.deadline);
        }
        self.leave_waiting();
        self.ticket = streaming;
        self.patience.in_vain();
        *idle = Idle { parked: true, deadline: idle.deadline, backoff: self.patience.begin() };
        true
    }

    /// Enters those who wait; whether there is nothing to do but wait.
    fn enter_waiting(&mut self, waker: &Waker) -> bool {
        let (mut interests, known) = self.matcher.interests(&self.shared.topics);
        loop {
            self.ticket = Some(self.shared.enter_readers(waker.clone(), interests));
            if !self.matcher.knows(known, &self.shared.topics) || self.is_ready() {
                return false;
            }
            let unwritten =
                !left_out("bus.wait.unwritten") && self.readers.iter().any(Reader::is_before_tail);
            if interests == EVERYTHING || !unwritten {
                return true;
            }
            // What is being written at the cursor may be of any topic, and something of interest may lie
            // behind it already: its end is news, whatever it is about.
            self.leave_waiting();
            interests = EVERYTHING;
        }
    }

    /// Whether a step would come to anything but to wait.
    fn is_ready(&self) -> bool {
        self.readers.iter().any(Reader::has_news) || self.readers.iter().all(Reader::is_at_end)
    }

    fn leave_waiting(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.shared.leave_readers(&ticket);
        }
    }

    /// What comes next, without waiting for it.
    pub(super) fn poll_now(&mut self) -> Poll<Result<Event<E>, RecvError>>
    where
        E: Clone,
    {
        match self.take_cloned() {
            Step::Taken(event) => Poll::Ready(Ok(event)),
            Step::Skipped | Step::Empty => Poll::Pending,
            step => Poll::Ready(Err(self.error(&step))),
        }
    }

    /// Has a waker woken by what comes next; `false` if something is there.
    pub(super) fn arm(&mut self, waker: &Waker) -> bool {
        self.leave_waiting();
        let armed = self.enter_waiting(waker);
        if !armed {
            self.leave_waiting();
        }
        armed
    }

    /// What the futures and the stream do: a step, or waiting for what allows one.
    pub(super) fn poll<R>(
        &mut self,
        cx: &mut Context<'_>,
        mut step: impl FnMut(&mut Self) -> Step<R>,
    ) -> Poll<Result<R, RecvError>> {
        self.leave_waiting();
        loop {
            match step(self) {
                Step::Taken(taken) => return Poll::Ready(Ok(taken)),
                Step::Skipped => {
                    // Events that do not match may come without end: let others of the task's executor run.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Step::Empty => {}
                step => return Poll::Ready(Err(self.error(&step))),
            }
            if self.enter_waiting(cx.waker()) {
                return Poll::Pending;
            }
            self.leave_waiting();
        }
    }
}

/// What a call that waits remembers between its steps.
#[derive(Clone, Copy, Debug)]
struct Idle {
    backoff: Backoff,
    deadline: Option<Timestamp>,
    parked: bool,
}

impl Idle {
    fn new(patience: Patience) -> Self {
        Self { backoff: patience.begin(), deadline: None, parked: false }
    }
}

impl<E> Drop for Subscriber<E> {
    fn drop(&mut self) {
        let woken = self.shared.leave(&self.readers);
        // If the drop of the waker panics, publishers wait for nobody by now.
        self.leave_waiting();
        pass_on(woken);
    }
}

impl<E> fmt::Debug for Subscriber<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("overflow", &self.overflow)
            .field("matcher", &self.matcher)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
