//! The shared publisher.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::error::{PublishError, PublishTimeoutError, TryPublishError};
use super::ring::{Claim, Refusal};
use super::shared::{Patience, Source};
use super::topic::Topic;

/// Publishes to an [`EventBus`](super::EventBus), beside any number of others.
///
/// Cheap to clone; clones and threads may publish at once. Events of one thread arrive in the order in which
/// it published them.
///
/// # Blocking
///
/// Publishing takes no lock while nobody is parked. It is lock-free among those who claim: one that loses the
/// race for a position lost it to another's success. See [the module](super) for what that does not mean.
pub struct Publisher<E> {
    source: Arc<Source<E>>,
}

impl<E> Publisher<E> {
    pub(super) fn new(source: Arc<Source<E>>) -> Self {
        Self { source }
    }

    /// Publishes an event and says its sequence; waits while the ring is full.
    ///
    /// # Errors
    ///
    /// [`PublishError::Closed`] hands the payload back, also when the bus is closed during the wait.
    ///
    /// # Blocking
    ///
    /// Waits while a blocking subscription is a full ring behind: briefly spinning, then parked. So a thread
    /// that publishes here from the handler of its own blocking subscription may wait for itself; let it use
    /// [`try_publish`](Self::try_publish).
    ///
    /// # Panics
    ///
    /// If the drop of the payload that is overwritten panics, or the waker of a future that waits for the
    /// event, that panic passes through; the event is published and everybody woken all the same.
    #[inline]
    pub fn publish(&self, topic: Topic, payload: E) -> Result<u64, PublishError<E>> {
        match self.claim_within(Patience::Forever) {
            Ok(claim) => Ok(self.source.shared().commit(claim, topic, payload)),
            Err(_) => Err(PublishError::Closed(payload)),
        }
    }

    /// Publishes an event and says its sequence, if there is room for it now. Never waits.
    ///
    /// # Errors
    ///
    /// [`TryPublishError::Full`] or [`TryPublishError::Closed`]; both hand the payload back.
    ///
    /// # Panics
    ///
    /// As [`publish`](Self::publish).
    #[inline]
    pub fn try_publish(&self, topic: Topic, payload: E) -> Result<u64, TryPublishError<E>> {
        let shared = self.source.shared();
        match shared.ring.claim() {
            Ok(claim) => Ok(shared.commit(claim, topic, payload)),
            Err(Refusal::Full) => {
                shared.count_refused();
                Err(TryPublishError::Full(payload))
            }
            Err(Refusal::Closed) => Err(TryPublishError::Closed(payload)),
        }
    }

    /// Publishes an event and says its sequence; waits for room for so long at most, by the clock of the bus.
    ///
    /// # Errors
    ///
    /// [`PublishTimeoutError::Timeout`] or [`PublishTimeoutError::Closed`]; both hand the payload back.
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
        let shared = self.source.shared();
        match self.claim_within(Patience::For(timeout)) {
            Ok(claim) => Ok(shared.commit(claim, topic, payload)),
            Err(Refusal::Full) => {
                shared.count_refused();
                Err(PublishTimeoutError::Timeout(payload))
            }
            Err(Refusal::Closed) => Err(PublishTimeoutError::Closed(payload)),
        }
    }

    #[inline]
    fn claim_within(&self, patience: Patience) -> Result<Claim, Refusal> {
        let shared = self.source.shared();
        match shared.ring.claim() {
            Err(Refusal::Full) => shared.claim_waiting(patience),
            done => done,
        }
    }
}

impl<E> Clone for Publisher<E> {
    fn clone(&self) -> Self {
        Self { source: Arc::clone(&self.source) }
    }
}

impl<E> fmt::Debug for Publisher<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("ring", &self.source.shared().ring).finish()
    }
}
