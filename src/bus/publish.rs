//! What shared and exclusive publishers do alike: write what was claimed, tell those who wait, and wait in
//! a future.
//!
//! 1. A claim is dropped, and so written to its end, before anybody is told of it.
//! 2. Whoever must be told is told even if the payload's maker panics: a tombstone may be what somebody waits
//!    for.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::error::PublishError;
use super::exclusive::ExclusivePublisher;
use super::lane::{Blocked, Lane};
use super::publisher::Publisher;
use super::ring::{Claim, Refusal};
use super::shared::Shared;
use super::source::Source;
use super::topic::Topic;
use super::wait::{Panic, Ticket, discard};
use crate::Clock;
use crate::sync::left_out;

/// Tells those who wait of an event that was written; if that panics, the payload that it overwrote is gone.
#[inline(always)]
pub(super) fn tell<E>(
    shared: &Shared<E>,
    lane: &Lane<E>,
    topic: Topic,
    sequence: u64,
    old: &mut Option<E>,
) {
    let alert = lane.alert_for(topic, sequence, 1);
    if alert != 0 {
        shared.announce(lane, alert, old.take());
    }
}

/// Writes a claimed event and tells those who wait.
pub(super) fn finish<E>(
    shared: &Shared<E>,
    lane: &Lane<E>,
    claim: Claim<'_, E>,
    topic: Topic,
    source: Source,
    make: impl FnOnce() -> E,
) -> u64 {
    let telling = Telling::new(shared, lane, topic, 1);
    let mut old = None;
    let mut claim = claim;
    let sequence = claim.fill(topic.id(), source.number(), make, &mut old);
    drop(claim);
    telling.done();
    tell(shared, lane, topic, sequence, &mut old);
    sequence
}

/// Writes a claim from an iterator and tells those who wait; says how many it wrote.
pub(super) fn finish_batch<E>(
    shared: &Shared<E>,
    lane: &Lane<E>,
    claim: Claim<'_, E>,
    topic: Topic,
    source: Source,
    payloads: &mut impl Iterator<Item = E>,
) -> u64 {
    let (first, claimed) = (claim.next_sequence(), claim.left());
    let mut telling = Telling::new(shared, lane, topic, claimed);
    let mut panic: Option<Panic> = None;
    let mut claim = claim;
    while claim.left() > 0
        && let Some(payload) = payloads.next()
    {
        let mut old = None;
        claim.fill(topic.id(), source.number(), || payload, &mut old);
        telling.tombstones -= 1;
        if let Some(old) = old
            && let Err(thrown) = catch_unwind(AssertUnwindSafe(|| drop(old)))
            && let Some(another) = panic.replace(thrown)
        {
            discard(another);
        }
    }
    let written = claimed - claim.left();
    drop(claim);
    if telling.tombstones > 0 {
        lane.count_tombstones(telling.tombstones);
    }
    telling.done();
    let alert = lane.alert_for(topic, first, claimed);
    if alert != 0 && !left_out("bus.batch.tell") {
        shared.announce(lane, alert, ());
    }
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
    written
}

/// Rule 2 of the file. The claim is a later local than this guard, and so buried before (rule 1).
pub(super) struct Telling<'a, E> {
    shared: &'a Shared<E>,
    lane: &'a Lane<E>,
    topic: Topic,
    /// What would be left unwritten if the maker panicked now.
    tombstones: u64,
}

impl<'a, E> Telling<'a, E> {
    pub(super) fn new(
        shared: &'a Shared<E>,
        lane: &'a Lane<E>,
        topic: Topic,
        claimed: u64,
    ) -> Self {
        Self { shared, lane, topic, tombstones: claimed }
    }

    /// So many positions are claimed by now.
    pub(super) fn expect(&mut self, claimed: u64) {
        self.tombstones = claimed;
    }

    /// Nobody panicked; the writer tells by itself.
    pub(super) fn done(self) {
        std::mem::forget(self);
    }
}

impl<E> Drop for Telling<'_, E> {
    fn drop(&mut self) {
        if self.tombstones > 0 {
            self.lane.count_tombstones(self.tombstones);
        }
        // As many as concern everybody: this is rare.
        let alert = self.lane.alert_for(self.topic, 0, u64::MAX / 2);
        let told = catch_unwind(AssertUnwindSafe(|| self.shared.announce(self.lane, alert, ())));
        // Two panics at once would end the process.
        discard(told);
    }
}

/// The future of [`Publisher::publish_async`] and [`ExclusivePublisher::publish_async`].
#[must_use = "futures do nothing unless polled"]
pub struct Publish<'a, E> {
    publisher: By<'a, E>,
    topic: Topic,
    payload: Option<E>,
    ticket: Option<Ticket>,
    /// What those know of it who could end its wait.
    waits_for: Refusal,
    woken: bool,
    /// Its wait, from the first poll that found no room on.
    blocked: Option<Blocked>,
}

enum By<'a, E> {
    Shared(&'a Publisher<E>),
    Exclusive(&'a mut ExclusivePublisher<E>),
}

impl<E> By<'_, E> {
    fn lane(&self) -> &Lane<E> {
        match self {
            Self::Shared(publisher) => publisher.lane(),
            Self::Exclusive(publisher) => publisher.lane(),
        }
    }

    fn clock(&self) -> &Clock {
        match self {
            Self::Shared(publisher) => publisher.clock(),
            Self::Exclusive(publisher) => publisher.clock(),
        }
    }
}

impl<'a, E> Publish<'a, E> {
    pub(super) fn shared(publisher: &'a Publisher<E>, topic: Topic, payload: E) -> Self {
        Self::new(By::Shared(publisher), topic, payload)
    }

    pub(super) fn exclusive(
        publisher: &'a mut ExclusivePublisher<E>,
        topic: Topic,
        payload: E,
    ) -> Self {
        Self::new(By::Exclusive(publisher), topic, payload)
    }

    fn new(publisher: By<'a, E>, topic: Topic, payload: E) -> Self {
        Self {
            publisher,
            topic,
            payload: Some(payload),
            ticket: None,
            waits_for: Refusal::Held,
            woken: false,
            blocked: None,
        }
    }

    fn attempt(&mut self) -> Result<u64, Refusal> {
        match &mut self.publisher {
            By::Shared(publisher) => publisher.attempt(self.topic, &mut self.payload),
            By::Exclusive(publisher) => publisher.attempt(self.topic, &mut self.payload),
        }
    }

    /// Leaves those who wait, to enter again or for good.
    fn leave(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.woken |= self.publisher.lane().forget_publisher(&ticket);
        }
    }

    /// Ends the wait, if there was one; who was woken, or got in, passes on what room is left.
    fn end_wait(&mut self, got_in: bool) {
        let waited = self.ticket.is_some();
        self.leave();
        if let Some(blocked) = self.blocked.take() {
            self.publisher.lane().end_wait(&blocked, self.publisher.clock());
        }
        let woken = std::mem::take(&mut self.woken);
        self.publisher.lane().give_up(woken || (waited && got_in));
    }
}

impl<E> Future for Publish<'_, E> {
    type Output = Result<u64, PublishError<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let first = this.attempt();
        let mut refusal = match first {
            Err(refusal) if refusal.passes() => refusal,
            done => return Poll::Ready(this.end(done)),
        };
        let (lane, clock) = (this.publisher.lane(), this.publisher.clock());
        this.blocked.get_or_insert_with(|| lane.begin_wait(clock));
        // An entry of an earlier poll keeps its place, with the waker of this one.
        if let Some(ticket) = &this.ticket
            && (refusal == Refusal::Held || refusal == this.waits_for)
            && this.publisher.lane().renew_publisher(ticket, cx.waker().clone())
        {
            return Poll::Pending;
        }
        this.leave();
        loop {
            let waker = cx.waker().clone();
            let woken = std::mem::take(&mut this.woken);
            let lane = this.publisher.lane();
            this.ticket = Some(lane.enter_publishers(waker, refusal, woken));
            match this.attempt() {
                Err(again) if again.passes() => {
                    if again == refusal || again == Refusal::Held {
                        this.waits_for = refusal;
                        return Poll::Pending;
                    }
                    // What it waits for is another thing now, which has to be announced.
                    refusal = again;
                    this.leave();
                }
                done => return Poll::Ready(this.end(done)),
            }
        }
    }
}

impl<E> Publish<'_, E> {
    fn end(&mut self, done: Result<u64, Refusal>) -> Result<u64, PublishError<E>> {
        self.end_wait(done.is_ok());
        done.map_err(|refusal| {
            let payload = self.payload.take().expect("only a success takes the payload");
            PublishError::new(refusal, self.publisher.lane(), payload)
        })
    }
}

// The payload is moved, never pinned.
impl<E> Unpin for Publish<'_, E> {}

impl<E> Drop for Publish<'_, E> {
    fn drop(&mut self) {
        // One whose payload is gone got in, even if its poll panicked.
        self.end_wait(self.payload.is_none());
    }
}

impl<E> fmt::Debug for Publish<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish")
            .field("topic", &self.topic)
            .field("waits", &self.ticket.is_some())
            .finish_non_exhaustive()
    }
}
