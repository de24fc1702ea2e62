//! An event in the hands of a member, until it is settled.
//!
//! The rules are those of [the module](super).

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::super::event::Event;
use super::super::wait::pass_on;
use super::Inner;
use super::state::{Handed, Settle};

/// An event that one member of a group has to itself until it settles it.
///
/// Dropped without that, a panic that unwinds included, it goes to another member, as with
/// [`nack`](Self::nack). It may be sent to other threads, but not be kept for longer than its [`Member`](super::Member).
///
/// # Panics
///
/// Where settling or dropping a delivery wakes somebody whose waker panics, that panic passes through once
/// everything is done, or is dropped if another one is unwinding.
#[must_use = "a delivery that is dropped goes to another member"]
pub struct Delivery<E> {
    group: Arc<Inner<E>>,
    event: Arc<Event<E>>,
    place: u64,
    attempt: u32,
    is_settled: bool,
}

/// Why a delivery was not settled: it had been taken back, because its time ran out, or its member or its group
/// is gone. The event goes its way without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the delivery was taken back: its time ran out, or its member or group is gone")]
#[non_exhaustive]
pub struct StaleDelivery;

impl<E> Delivery<E> {
    pub(super) fn new(group: Arc<Inner<E>>, handed: Handed<E>) -> Self {
        let Handed { event, place, attempt } = handed;
        Self { group, event, place, attempt, is_settled: false }
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> &Event<E> {
        &self.event
    }

    /// The payload of the event.
    #[must_use]
    pub fn payload(&self) -> &E {
        &self.event.payload
    }

    /// Which delivery of the event this is, from 1 on.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The event is dealt with: nobody gets it again.
    ///
    /// # Errors
    ///
    /// [`StaleDelivery`] if it was taken back: another member gets it, or got it, or it is a dead letter.
    pub fn ack(mut self) -> Result<(), StaleDelivery> {
        self.settle(Settle::Acknowledged)
    }

    /// The event goes to another member, or is a dead letter if this was the last of its attempts. On a delivery
    /// that was taken back it does nothing: that has happened.
    pub fn nack(mut self) {
        // Stale is as good.
        let _ = self.settle(Settle::Returned);
    }

    /// The event is a dead letter at once, [`Rejected`](crate::bus::DeadLetterReason::Rejected).
    ///
    /// # Errors
    ///
    /// As [`ack`](Self::ack).
    pub fn reject(mut self) -> Result<(), StaleDelivery> {
        self.settle(Settle::Rejected)
    }

    fn settle(&mut self, how: Settle) -> Result<(), StaleDelivery> {
        self.is_settled = true;
        let group = &self.group;
        let (is_present, done) = group.change(|state, after| {
            state.settle(self.place, self.attempt, how, after, &group.waiters)
        });
        pass_on(done);
        if is_present { Ok(()) } else { Err(StaleDelivery) }
    }
}

impl<E> Drop for Delivery<E> {
    fn drop(&mut self) {
        if !self.is_settled {
            // Stale is as good.
            let _ = self.settle(Settle::Returned);
        }
    }
}

/// The payload has its own debug form, or none.
impl<E> fmt::Debug for Delivery<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("sequence", &self.event.sequence)
            .field("topic", &self.event.topic)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
