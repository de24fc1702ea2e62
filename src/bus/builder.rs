//! How a bus is made, and the defaults.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::EventBus;
use super::header::TOPICS_MAX;
use super::ring::Shape;
use super::shared::{Owner, Shared};
use super::strategy::WaitStrategy;
use super::topic::Topics;
use crate::{Clock, Error, ErrorKind};

/// A default ring is as many events as fit into so much memory: what a core's second-level cache holds.
const DEFAULT_RING_BYTES: usize = 1 << 21;
const DEFAULT_CAPACITY_MIN: usize = 1 << 12;
const DEFAULT_CAPACITY_MAX: usize = 1 << 16;
const CAPACITY_MAX: usize = 1 << 26;
const LANES_MAX: usize = 8;
const DEFAULT_TOPICS_MAX: usize = 1 << 16;
/// What a slot takes beside its payload.
const HEADER_BYTES: usize = 8;

/// Makes an [`EventBus`]; see [`EventBus::builder`].
#[must_use]
pub struct EventBusBuilder<E> {
    shape: Shape,
    lanes: usize,
    topics_max: usize,
    strategy: WaitStrategy,
    clock: Clock,
    payload: PhantomData<fn(E)>,
}

impl<E> EventBusBuilder<E> {
    pub(super) fn new() -> Self {
        let fitting = DEFAULT_RING_BYTES / (size_of::<E>() + HEADER_BYTES);
        let capacity = 1 << fitting.clamp(DEFAULT_CAPACITY_MIN, DEFAULT_CAPACITY_MAX).ilog2();
        Self {
            shape: Shape::new(capacity),
            lanes: 1,
            topics_max: DEFAULT_TOPICS_MAX,
            strategy: WaitStrategy::default(),
            clock: Clock::default(),
            payload: PhantomData,
        }
    }

    /// How many events the ring holds: a power of two from 2 to 2^26.
    ///
    /// Default: as many as fit into 2 MiB, but 4096 to 65,536. Each takes the size of the payload and 8
    /// bytes, allocated at once. A payload stays in the ring, and alive, until it is overwritten or the
    /// bus is gone, however soon everybody has read it.
    pub fn capacity(mut self, events: usize) -> Self {
        self.shape = Shape::new(events);
        self
    }

    /// How many lanes there are, 1 to 8. Default: 1.
    ///
    /// Each lane is a ring of its own, with its own sequence and of the whole capacity, and takes as much memory.
    /// Subscriptions take what came on a lane of a higher number first, but at most 64 events in a row (for each
    /// lane more than two, up to 128 more) while another lane has something for them.
    pub fn lanes(mut self, lanes: usize) -> Self {
        self.lanes = lanes;
        self
    }

    /// How those who wait spend the time, unless they choose for themselves. Default:
    /// [`WaitStrategy::SpinThenPark`].
    pub fn wait_strategy(mut self, strategy: WaitStrategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// How many topics there may be, 1 to 2^20 - 1. Default: 65,536. Each costs its name and some 60 bytes when
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
    /// range, or a number of topics or lanes that is; [`LimitReached`](ErrorKind::LimitReached) if there is no
    /// memory for the ring.
    pub fn build(self) -> Result<EventBus<E>, Error> {
        let capacity = self.shape.capacity;
        if !capacity.is_power_of_two() || !(2..=CAPACITY_MAX).contains(&capacity) {
            let message = format!(
                "the capacity of a bus is a power of two from 2 to {CAPACITY_MAX}, found {capacity}"
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if !(1..=TOPICS_MAX).contains(&self.topics_max) {
            let message =
                format!("a bus has room for 1 to {TOPICS_MAX} topics, found {}", self.topics_max);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if !(1..=LANES_MAX).contains(&self.lanes) {
            let message = format!("a bus has 1 to {LANES_MAX} lanes, found {}", self.lanes);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let topics = Topics::new(self.topics_max);
        let shared = Shared::new(self.shape, self.lanes, topics, self.clock, self.strategy)?;
        Ok(EventBus { owner: Arc::new(Owner::new(Arc::new(shared))) })
    }
}

impl<E> fmt::Debug for EventBusBuilder<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBusBuilder")
            .field("capacity", &self.shape.capacity)
            .field("lanes", &self.lanes)
            .field("wait_strategy", &self.strategy)
            .field("topics_max", &self.topics_max)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}
