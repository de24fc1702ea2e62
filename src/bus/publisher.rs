//! The shared publisher.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::error::{PublishBatchError, PublishError, PublishTimeoutError, TryPublishError};
use super::lane::{Lane, Limit};
use super::publish::{Publish, Telling, finish, finish_batch, tell};
use super::ring::{Claim, Refusal};
use super::shared::Owner;
use super::source::Source;
use super::topic::Topic;
use crate::Clock;

/// Publishes to an [`EventBus`](super::EventBus), beside any number of others.
///
/// Cheap to clone; clones and threads may publish at once. Events of one thread on one lane arrive in the
/// order in which it published them.
///
/// # Blocking
///
/// Publishing takes no lock while nobody is parked. It is lock-free among those who claim: one that loses the
/// race for a position lost it to another's success. See [the module](super) for what that does not mean.
pub struct Publisher<E> {
    owner: Arc<Owner<E>>,
    lane: Arc<Lane<E>>,
    source: Source,
}

impl<E> Publisher<E> {
    pub(super) fn new(owner: Arc<Owner<E>>, lane: Arc<Lane<E>>, source: Source) -> Self {
        lane.add_handle();
        Self { owner, lane, source }
    }

    /// The same publisher under a source of its own, which its events carry. Default: [`Source::UNNAMED`].
    #[must_use]
    pub fn with_source(mut self, source: Source) -> Self {
        self.source = source;
        self
    }

    /// The source that its events carry.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// Publishes an event and says its sequence; waits while the ring is full.
    ///
    /// # Errors
    ///
    /// All hand the payload back: [`PublishError::Closed`], also when the bus is closed during the wait;
    /// [`PublishError::Full`] if a subscription that [fails](super::Overflow::Fail) is a full ring
    /// behind; [`PublishError::Exclusive`] while the lane has an exclusive publisher.
    ///
    /// # Blocking
    ///
    /// Waits while a blocking subscription is a full ring behind, as the [strategy](super::WaitStrategy) of the
    /// bus says. So a thread that publishes here from the handler of its own blocking subscription may wait
    /// for itself; let it use [`try_publish`](Self::try_publish).
    ///
    /// # Panics
    ///
    /// If the drop of the payload that is overwritten panics, or the waker of a future that waits for the
    /// event, that panic passes through; the event is published and everybody woken all the same.
    // Called, rather than inlined, it would pass the payload through memory on its way to the slot: a third of
    // the whole for 64 bytes.
    #[inline(always)]
    pub fn publish(&self, topic: Topic, payload: E) -> Result<u64, PublishError<E>> {
        match self.publish_now(topic, payload) {
            Ok(sequence) => Ok(sequence),
            Err(refused) => self
                .publish_waiting(topic, refused, Limit::Forever)
                .map_err(|(refusal, payload)| PublishError::new(refusal, &self.lane, payload)),
        }
    }

    /// Publishes an event and says its sequence, if there is room for it now. Never waits.
    ///
    /// # Errors
    ///
    /// [`TryPublishError::Full`], [`TryPublishError::Closed`] or [`TryPublishError::Exclusive`]; all hand the
    /// payload back.
    ///
    /// # Panics
    ///
    /// As [`publish`](Self::publish).
    #[inline]
    pub fn try_publish(&self, topic: Topic, payload: E) -> Result<u64, TryPublishError<E>> {
        match self.publish_now(topic, payload) {
            Ok(sequence) => Ok(sequence),
            Err((refusal, payload)) => Err(TryPublishError::new(refusal, &self.lane, payload)),
        }
    }

    /// Publishes an event and says its sequence; waits for room for so long at most, by the clock of the bus.
    ///
    /// # Errors
    ///
    /// [`PublishTimeoutError::Timeout`], or as [`publish`](Self::publish); all hand the payload back.
    ///
    /// # Blocking
    ///
    /// As [`publish`](Self::publish), within the timeout. A timeout of zero tries once.
    ///
    /// # Panics
    ///
    /// As [`publish`](Self::publish).
    pub fn publish_timeout(
        &self,
        topic: Topic,
        payload: E,
        timeout: Duration,
    ) -> Result<u64, PublishTimeoutError<E>> {
        self.publish_now(topic, payload)
            .or_else(|refused| self.publish_waiting(topic, refused, Limit::For(timeout)))
            .map_err(|(refusal, payload)| PublishTimeoutError::new(refusal, &self.lane, payload))
    }

    /// Publishes an event and says its sequence; the future is ready when there was room, on any executor.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    ///
    /// # Cancel safety
    ///
    /// The event is published in the poll that says so and in no other. A future that is dropped before drops
    /// its payload, and room that it was woken for goes to the next who waits. One that was woken and then is
    /// neither polled nor dropped keeps that room from those behind it, until a reader makes more.
    ///
    /// # Panics
    ///
    /// As [`publish`](Self::publish), within the poll.
    pub fn publish_async(&self, topic: Topic, payload: E) -> Publish<'_, E> {
        Publish::shared(self, topic, payload)
    }

    /// Publishes the event that `make` makes, once there is room for it; waits while the ring is full.
    ///
    /// Nothing is made that is not published. While `make` runs, readers wait at its place in the order and
    /// publishers a lap later, so let it be short; and if it publishes to this bus itself, let it not wait.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish), with `make` handed back.
    ///
    /// # Panics
    ///
    /// If `make` panics, that panic passes through. Its place in the order becomes a tombstone, which readers
    /// pass over and [`BusStats::tombstones`](super::BusStats::tombstones) counts. Else as
    /// [`publish`](Self::publish).
    pub fn publish_with<F>(&self, topic: Topic, make: F) -> Result<u64, PublishError<F>>
    where
        F: FnOnce() -> E,
    {
        match self.claim_within(topic, 1, Limit::Forever) {
            Ok(claim) => {
                let shared = self.owner.shared();
                Ok(finish(shared, &self.lane, claim, topic, self.source, make))
            }
            Err(refusal) => Err(PublishError::new(refusal, &self.lane, make)),
        }
    }

    /// Publishes all events of an iterator and says how many; waits while the ring is full.
    ///
    /// They are claimed many at a time, which costs less than one by one, and come in their order; events of
    /// other publishers may come between. Payloads are taken from the iterator when there is room for them,
    /// so what was not published is still in it. While it makes one, or the drop of a payload that is overwritten
    /// runs, readers wait as for [`publish_with`](Self::publish_with): let neither wait for this bus.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish); the error says how many were published before.
    ///
    /// # Panics
    ///
    /// If the iterator panics, or ends before its `len`, what it was to make becomes tombstones (see
    /// [`publish_with`](Self::publish_with)). Else as [`publish`](Self::publish).
    pub fn publish_batch<I>(&self, topic: Topic, payloads: &mut I) -> Result<u64, PublishBatchError>
    where
        I: ExactSizeIterator<Item = E>,
    {
        let mut published = 0;
        // Asked once: it is the code of somebody else, and may say another thing each time.
        let mut left = payloads.len() as u64;
        while left > 0 {
            match self.claim_within(topic, left, Limit::Forever) {
                Ok(claim) => {
                    let (shared, claimed) = (self.owner.shared(), claim.left());
                    let written =
                        finish_batch(shared, &self.lane, claim, topic, self.source, payloads);
                    published += written;
                    if written < claimed {
                        break;
                    }
                    left -= claimed;
                }
                Err(refusal) => {
                    return Err(PublishBatchError::new(refusal, &self.lane, published));
                }
            }
        }
        Ok(published)
    }

    /// Publishes if there is room; takes the payload only then.
    pub(super) fn attempt(&self, topic: Topic, payload: &mut Option<E>) -> Result<u64, Refusal> {
        let given = payload.take().expect("a future is not polled after it was ready");
        self.publish_now(topic, given).map_err(|(refusal, back)| {
            *payload = Some(back);
            refusal
        })
    }

    pub(super) fn lane(&self) -> &Lane<E> {
        &self.lane
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.owner.shared().clock
    }

    /// Publishes if there is room.
    #[inline(always)]
    fn publish_now(&self, topic: Topic, payload: E) -> Result<u64, (Refusal, E)> {
        let mut old = None;
        let sequence =
            self.lane.ring.publish(topic.id(), self.source.number(), payload, &mut old)?;
        tell(self.owner.shared(), &self.lane, topic, sequence, &mut old);
        Ok(sequence)
    }

    #[cold]
    fn publish_waiting(
        &self,
        topic: Topic,
        (refusal, payload): (Refusal, E),
        limit: Limit,
    ) -> Result<u64, (Refusal, E)> {
        if !refusal.passes() {
            return Err((refusal, payload));
        }
        let (owner, lane) = (Arc::clone(&self.owner), Arc::clone(&self.lane));
        let shared = owner.shared();
        let mut payload = Some(payload);
        lane.wait_for_room(limit, shared.strategy, &shared.clock, || {
            self.attempt(topic, &mut payload)
        })
        .map_err(|refusal| {
            (refusal, payload.expect("an attempt that fails gives the payload back"))
        })
    }

    fn claim_within(
        &self,
        topic: Topic,
        wanted: u64,
        limit: Limit,
    ) -> Result<Claim<'_, E>, Refusal> {
        match self.lane.ring.claim(wanted) {
            Err(refusal) if refusal.passes() => self.claim_waiting(topic, wanted, limit),
            done => done,
        }
    }

    #[cold]
    fn claim_waiting(
        &self,
        topic: Topic,
        wanted: u64,
        limit: Limit,
    ) -> Result<Claim<'_, E>, Refusal> {
        let shared = self.owner.shared();
        // The end of the wait may panic, when the claim is made.
        let mut telling = Telling::new(shared, &self.lane, topic, 0);
        let mut claimed = None;
        let outcome = self.lane.wait_for_room(limit, shared.strategy, &shared.clock, || {
            let claim = self.lane.ring.claim(wanted)?;
            telling.expect(claim.left());
            claimed = Some(claim);
            Ok(())
        });
        telling.done();
        outcome?;
        Ok(claimed.expect("a wait that succeeds leaves a claim"))
    }
}

impl<E> Clone for Publisher<E> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.owner), Arc::clone(&self.lane), self.source)
    }
}

impl<E> Drop for Publisher<E> {
    fn drop(&mut self) {
        self.lane.remove_handle();
    }
}

impl<E> fmt::Debug for Publisher<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("source", &self.source).field("lane", &self.lane).finish()
    }
}
