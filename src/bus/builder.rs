//! How a bus is made, and the defaults.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::EventBus;
use super::ring::Shape;
use super::shared::{Shared, Source};
use crate::{Clock, Error, ErrorKind};

/// A default ring is as many events as fit into so much memory: what a core's second-level cache holds.
const DEFAULT_RING_BYTES: usize = 1 << 20;
const DEFAULT_CAPACITY_MIN: usize = 1 << 12;
const DEFAULT_CAPACITY_MAX: usize = 1 << 16;
const CAPACITY_MAX: usize = 1 << 26;
const DEFAULT_TOPICS_MAX: usize = 1 << 16;
/// What a slot takes beside its payload.
const HEADER_BYTES: usize = 16;

/// Makes an [`EventBus`]; see [`EventBus::builder`].
#[must_use]
pub struct EventBusBuilder<E> {
    shape: Shape,
    topics_max: usize,
    clock: Clock,
    payload: PhantomData<fn(E)>,
}

impl<E> EventBusBuilder<E> {
    pub(super) fn new() -> Self {
        let fitting = DEFAULT_RING_BYTES / (size_of::<E>() + HEADER_BYTES);
        let capacity = 1 << fitting.clamp(DEFAULT_CAPACITY_MIN, DEFAULT_CAPACITY_MAX).ilog2();
        Self {
            shape: Shape::new(capacity),
            topics_max: DEFAULT_TOPICS_MAX,
            clock: Clock::default(),
            payload: PhantomData,
        }
    }

    /// How many events the ring holds: a power of two from 2 to 2^26.
    ///
    /// Default: as many as fit into 1 MiB, but 4096 to 65,536. Each takes the size of the payload and 16
    /// bytes, allocated at once. A payload stays in the ring, and alive, until it is overwritten or the
    /// bus is gone, however soon everybody has read it.
    pub fn capacity(mut self, events: usize) -> Self {
        self.shape = Shape::new(events);
        self
    }

    /// How many topics there may be, 1 to 2^32. Default: 65,536. Each costs its name and some 60 bytes when
    /// it is made.
    pub fn topics_max(mut self, topics: usize) -> Self {
        self.topics_max = topics;
        self
    }

    /// The clock that timeouts go by. Default: [`Clock::real`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Another shape, so that tests can start just before the counters wrap.
    #[cfg(test)]
    pub(super) fn shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// Makes the bus.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for a capacity that is no power of two or out of
    /// range, or for no topics; [`LimitReached`](ErrorKind::LimitReached) if there is no memory for the ring.
    pub fn build(self) -> Result<EventBus<E>, Error> {
        let capacity = self.shape.capacity;
        if !capacity.is_power_of_two() || !(2..=CAPACITY_MAX).contains(&capacity) {
            let message = format!(
                "the capacity of a bus is a power of two from 2 to {CAPACITY_MAX}, found {capacity}"
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if self.topics_max == 0 {
            let message = "a bus needs room for at least one topic";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let shared = Shared::new(self.shape, self.topics_max, self.clock)?;
        Ok(EventBus { source: Arc::new(Source::new(Arc::new(shared))) })
    }
}

impl<E> fmt::Debug for EventBusBuilder<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBusBuilder")
            .field("capacity", &self.shape.capacity)
            .field("topics_max", &self.topics_max)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}
