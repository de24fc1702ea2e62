//! The ends of `disruptor`: one ring that every reader reads in place.
//!
//! The readers poll, and wait between polls as the wait strategy says, as the threads do that the crate
//! makes itself; so every contestant's readers run on the threads of the race. A publisher that finds the
//! ring full gives the processor up and tries again: the crate's own `publish` spins for it, which on few cores
//! takes from the readers the processor that they need to make room (1to4 and 4to4 at a quarter of the rate,
//! 100to4 at a twentieth).

use std::thread;
use std::time::Duration;

use disruptor::wait_strategies::WaitStrategy;
use disruptor::{
    EventPoller, MissingFreeSlots, MultiConsumerBarrier, MultiProducer, MultiProducerBarrier,
    Polling, Producer, RingBufferFull, Sequence, SingleProducer, SingleProducerBarrier,
    build_multi_producer, build_single_producer,
};

use super::payload::Payload;
use super::peers_channel::pause;
use super::race::{PEER_RING, Publish, Read};

/// Gives the processor up: one of the two strategies that do not collapse on few cores.
#[derive(Clone, Copy)]
pub struct Yield;

impl WaitStrategy for Yield {
    #[inline]
    fn wait_for(&self, _sequence: Sequence) {
        thread::yield_now();
    }
}

/// Sleeps as shortly as the system can.
pub fn sleep() -> disruptor::Sleep {
    disruptor::Sleep::new(Duration::from_nanos(1))
}

pub use disruptor::BusySpin;

pub struct RingPublisher<P>(P);

impl<E: Payload, P: Producer<E> + Send> Publish<E> for RingPublisher<P> {
    #[inline(always)]
    fn publish(&mut self, event: E) {
        let mut event = Some(event);
        while let Err(RingBufferFull) = self.0.try_publish(|slot| {
            if let Some(event) = event.take() {
                *slot = event;
            }
        }) {
            pause();
        }
    }

    #[inline(always)]
    fn publish_batch(&mut self, mut events: impl ExactSizeIterator<Item = E>) {
        let len = events.len();
        while let Err(MissingFreeSlots(_)) = self.0.try_batch_publish(len, |slots| {
            slots.zip(&mut events).for_each(|(slot, event)| *slot = event);
        }) {
            pause();
        }
    }
}

pub struct RingReader<E, B, W> {
    poller: EventPoller<E, B>,
    strategy: W,
}

/// A poller with whichever barrier: the crate does not name what barriers have in common.
trait Poll<E> {
    /// Hands on what is there; says whether there was anything.
    fn poll(&mut self, each: impl FnMut(&E)) -> bool;
}

macro_rules! poll_with {
    ($($barrier:ty),*) => { $(
        impl<E> Poll<E> for EventPoller<E, $barrier> {
            #[inline]
            fn poll(&mut self, each: impl FnMut(&E)) -> bool {
                match EventPoller::poll(self) {
                    Ok(mut events) => {
                        (&mut events).for_each(each);
                        true
                    }
                    Err(Polling::NoEvents) => false,
                    Err(Polling::Shutdown) => panic!("events were lost"),
                }
            }
        }
    )* };
}

poll_with!(SingleProducerBarrier, MultiProducerBarrier);

impl<E, B, W> Read<E> for RingReader<E, B, W>
where
    E: Payload,
    EventPoller<E, B>: Poll<E> + Send,
    W: WaitStrategy,
{
    #[inline(always)]
    fn read(&mut self, mut each: impl FnMut(&E)) {
        while !self.poller.poll(&mut each) {
            self.strategy.wait_for(0);
        }
    }
}

type Ends<P, E, B, W> = (Vec<RingPublisher<P>>, Vec<RingReader<E, B, W>>);

/// With the builder for a single producer.
pub fn single<E: Payload, W: WaitStrategy + 'static>(
    strategy: W,
) -> impl Fn(usize, usize) -> Ends<SingleProducer<E, MultiConsumerBarrier>, E, SingleProducerBarrier, W>
{
    move |publishers, readers| {
        assert_eq!(publishers, 1, "a single producer is the only one");
        let mut builder =
            build_single_producer(PEER_RING, E::empty, strategy).with_multi_consumer();
        let mut pollers = Vec::with_capacity(readers);
        for _ in 0..readers {
            let (poller, next) = builder.new_event_poller();
            pollers.push(RingReader { poller, strategy });
            builder = next;
        }
        (vec![RingPublisher(builder.build())], pollers)
    }
}

/// With the builder for more than one producer.
pub fn multi<E: Payload, W: WaitStrategy + 'static>(
    strategy: W,
) -> impl Fn(usize, usize) -> Ends<MultiProducer<E, MultiConsumerBarrier>, E, MultiProducerBarrier, W>
{
    move |publishers, readers| {
        let mut builder = build_multi_producer(PEER_RING, E::empty, strategy).with_multi_consumer();
        let mut pollers = Vec::with_capacity(readers);
        for _ in 0..readers {
            let (poller, next) = builder.new_event_poller();
            pollers.push(RingReader { poller, strategy });
            builder = next;
        }
        let producer = builder.build();
        (vec![producer; publishers].into_iter().map(RingPublisher).collect(), pollers)
    }
}
