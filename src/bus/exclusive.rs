//! The exclusive publisher.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::error::{PublishBatchError, PublishError, PublishTimeoutError, TryPublishError};
use super::lane::{Lane, Limit};
use super::publish::{Publish, finish, finish_batch, tell};
use super::ring::{ExclusiveTail, Refusal};
use super::shared::{Owner, Shared};
use super::source::Source;
use super::topic::Topic;
use crate::{Clock, Error};

/// Publishes to a lane of an [`EventBus`](super::EventBus) alone, for less than a shared
/// [`Publisher`](super::Publisher) can: without a single atomic read-modify-write.
///
/// A lane has one at most, made while it has no other publisher. While it is there, shared publishers that are
/// made later are refused; dropping it lets them in.
pub struct ExclusivePublisher<E> {
    tail: ExclusiveTail,
    lane: Arc<Lane<E>>,
    source: Source,
    owner: Arc<Owner<E>>,
}

impl<E> ExclusivePublisher<E> {
    pub(super) fn new(owner: Arc<Owner<E>>, lane: Arc<Lane<E>>) -> Result<Self, Error> {
        let tail = lane.make_exclusive()?;
        Ok(Self { tail, lane, source: Source::UNNAMED, owner })
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

    /// As [`Publisher::publish`](super::Publisher::publish).
    ///
    /// # Errors
    ///
    /// [`PublishError::Closed`] or [`PublishError::Full`]; both hand the payload back.
    ///
    /// # Blocking
    ///
    /// Wait-free while there is room and nobody is parked.
    ///
    /// # Panics
    ///
    /// As [`Publisher::publish`](super::Publisher::publish).
    // Called, rather than inlined, it would pass the payload through memory on its way to the slot: a third of
    // the whole for 64 bytes.
    #[inline(always)]
    pub fn publish(&mut self, topic: Topic, payload: E) -> Result<u64, PublishError<E>> {
        match self.publish_now(topic, payload) {
            Ok(sequence) => Ok(sequence),
            Err(refused) => self
                .publish_waiting(topic, refused, Limit::Forever)
                .map_err(|(refusal, payload)| PublishError::new(refusal, &self.lane, payload)),
        }
    }

    /// As [`Publisher::try_publish`](super::Publisher::try_publish).
    ///
    /// # Errors
    ///
    /// [`TryPublishError::Full`] or [`TryPublishError::Closed`]; both hand the payload back.
    ///
    /// # Panics
    ///
    /// As [`Publisher::publish`](super::Publisher::publish).
    #[inline]
    pub fn try_publish(&mut self, topic: Topic, payload: E) -> Result<u64, TryPublishError<E>> {
        match self.publish_now(topic, payload) {
            Ok(sequence) => Ok(sequence),
            Err((refusal, payload)) => Err(TryPublishError::new(refusal, &self.lane, payload)),
        }
    }

    /// As [`Publisher::publish_timeout`](super::Publisher::publish_timeout).
    ///
    /// # Errors
    ///
    /// [`PublishTimeoutError::Timeout`], or as [`publish`](Self::publish); all hand the payload back.
    ///
    /// # Panics
    ///
    /// As [`Publisher::publish`](super::Publisher::publish).
    pub fn publish_timeout(
        &mut self,
        topic: Topic,
        payload: E,
        timeout: Duration,
    ) -> Result<u64, PublishTimeoutError<E>> {
        self.publish_now(topic, payload)
            .or_else(|refused| self.publish_waiting(topic, refused, Limit::For(timeout)))
            .map_err(|(refusal, payload)| PublishTimeoutError::new(refusal, &self.lane, payload))
    }

    /// As [`Publisher::publish_async`](super::Publisher::publish_async).
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    ///
    /// # Cancel safety
    ///
    /// As [`Publisher::publish_async`](super::Publisher::publish_async).
    ///
    /// # Panics
    ///
    /// As [`Publisher::publish`](super::Publisher::publish), within the poll.
    pub fn publish_async(&mut self, topic: Topic, payload: E) -> Publish<'_, E> {
        Publish::exclusive(self, topic, payload)
    }

    /// As [`Publisher::publish_with`](super::Publisher::publish_with).
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish), with `make` handed back.
    ///
    /// # Panics
    ///
    /// As [`Publisher::publish_with`](super::Publisher::publish_with).
    pub fn publish_with<F>(&mut self, topic: Topic, make: F) -> Result<u64, PublishError<F>>
    where
        F: FnOnce() -> E,
    {
        if let Err(refusal) = self.clear(Limit::Forever) {
            return Err(PublishError::new(refusal, &self.lane, make));
        }
        let claim = self.lane.ring.claim_exclusive(&mut self.tail, 1);
        Ok(finish(self.owner.shared(), &self.lane, claim, topic, self.source, make))
    }

    /// As [`Publisher::publish_batch`](super::Publisher::publish_batch); the events come in a row.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish); the error says how many were published before.
    ///
    /// # Panics
    ///
    /// As [`Publisher::publish_batch`](super::Publisher::publish_batch).
    pub fn publish_batch<I>(
        &mut self,
        topic: Topic,
        payloads: &mut I,
    ) -> Result<u64, PublishBatchError>
    where
        I: ExactSizeIterator<Item = E>,
    {
        let mut published = 0;
        // Asked once, and not while it looks as if this wrote: it is the code of somebody else.
        let mut left = payloads.len() as u64;
        while left > 0 {
            if let Err(refusal) = self.clear(Limit::Forever) {
                return Err(PublishBatchError::new(refusal, &self.lane, published));
            }
            let claim = self.lane.ring.claim_exclusive(&mut self.tail, left);
            let (shared, claimed) = (self.owner.shared(), claim.left());
            let written = finish_batch(shared, &self.lane, claim, topic, self.source, payloads);
            published += written;
            if written < claimed {
                break;
            }
            left -= claimed;
        }
        Ok(published)
    }

    /// Publishes if there is room; takes the payload only then.
    pub(super) fn attempt(
        &mut self,
        topic: Topic,
        payload: &mut Option<E>,
    ) -> Result<u64, Refusal> {
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
    fn publish_now(&mut self, topic: Topic, payload: E) -> Result<u64, (Refusal, E)> {
        let mut old = None;
        let lane = &self.lane;
        match lane.publish_exclusive(&mut self.tail, topic, self.source, payload, &mut old) {
            Ok(sequence) => {
                tell(self.owner.shared(), lane, topic, sequence, &mut old);
                Ok(sequence)
            }
            Err(refused) => {
                tell_of_end(self.owner.shared(), lane, refused.0);
                Err(refused)
            }
        }
    }

    #[cold]
    fn publish_waiting(
        &mut self,
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

    /// Finds room for one event at least and begins to write, waiting if need be.
    fn clear(&mut self, limit: Limit) -> Result<(), Refusal> {
        let (lane, tail, shared) = (&self.lane, &mut self.tail, self.owner.shared());
        loop {
            match lane.clear_exclusive(tail) {
                // It begins to write when the wait is over, whose end may panic.
                Err(refusal) if refusal.passes() => {
                    lane.wait_for_room(limit, shared.strategy, &shared.clock, || {
                        lane.room_exclusive(tail)
                    })?;
                }
                done => return done.inspect_err(|refusal| tell_of_end(shared, lane, *refusal)),
            }
        }
    }
}

/// Tells those who wait, if the refusal is that of a closed lane: they may have taken it for one that is written to.
#[cold]
fn tell_of_end<E>(shared: &Shared<E>, lane: &Lane<E>, refusal: Refusal) {
    if refusal == Refusal::Shut {
        shared.announce(lane, lane.alert_of_end(), ());
    }
}

impl<E> Drop for ExclusivePublisher<E> {
    fn drop(&mut self) {
        self.lane.end_exclusive();
    }
}

impl<E> fmt::Debug for ExclusivePublisher<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExclusivePublisher")
            .field("source", &self.source)
            .field("lane", &self.lane)
            .finish()
    }
}
