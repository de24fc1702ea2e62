//! The ends of the other broadcasts: tokio's, `async-broadcast`, `bus` and `multiqueue2`.

use async_broadcast::TrySendError;
use bus_crate::{Bus, BusReader};
use multiqueue2::wait::YieldingWait;
use multiqueue2::{BroadcastSender, BroadcastUniReceiver, broadcast_queue_with};
use tokio::sync::broadcast::{self, error::TryRecvError};

use super::payload::Payload;
use super::peers_channel::pause;
use super::race::{PEER_RING, Publish, Read};

/// Sends while the slowest reader is less than three quarters of the ring behind, which it asks for as
/// seldom as it can: this broadcast never waits by itself, but overwrites.
pub struct TokioPublisher<E> {
    sender: broadcast::Sender<E>,
    /// How many may be sent unasked.
    stride: usize,
    left: usize,
}

impl<E: Payload> TokioPublisher<E> {
    /// One of so many.
    pub fn new(sender: broadcast::Sender<E>, publishers: usize) -> Self {
        let stride = PEER_RING / 4 / publishers;
        Self { sender, stride, left: stride }
    }
}

impl<E: Payload> Publish<E> for TokioPublisher<E> {
    #[inline(always)]
    fn publish(&mut self, event: E) {
        if self.left == 0 {
            while self.sender.len() > PEER_RING / 4 * 3 {
                pause();
            }
            self.left = self.stride;
        }
        self.left -= 1;
        assert!(self.sender.send(event).is_ok(), "the readers are there");
    }
}

pub struct TokioReader<E>(broadcast::Receiver<E>);

impl<E: Payload> Read<E> for TokioReader<E> {
    #[inline(always)]
    fn read(&mut self, mut each: impl FnMut(&E)) {
        loop {
            match self.0.try_recv() {
                Ok(event) => return each(&event),
                Err(TryRecvError::Empty) => pause(),
                Err(error) => panic!("events were lost: {error}"),
            }
        }
    }
}

pub fn tokio_broadcast<E: Payload>(
    publishers: usize,
    readers: usize,
) -> (Vec<TokioPublisher<E>>, Vec<TokioReader<E>>) {
    let sender = broadcast::Sender::new(PEER_RING);
    let readers = (0..readers).map(|_| TokioReader(sender.subscribe())).collect();
    let ends = (0..publishers).map(|_| TokioPublisher::new(sender.clone(), publishers)).collect();
    (ends, readers)
}

pub struct AsyncBroadcastPublisher<E>(pub async_broadcast::Sender<E>);
pub struct AsyncBroadcastReader<E>(async_broadcast::Receiver<E>);

impl<E: Payload> Publish<E> for AsyncBroadcastPublisher<E> {
    #[inline(always)]
    fn publish(&mut self, mut event: E) {
        loop {
            match self.0.try_broadcast(event) {
                Ok(_) => return,
                Err(TrySendError::Full(back)) => event = back,
                Err(_) => panic!("the readers are there"),
            }
            pause();
        }
    }
}

impl<E: Payload> Read<E> for AsyncBroadcastReader<E> {
    #[inline(always)]
    fn read(&mut self, mut each: impl FnMut(&E)) {
        loop {
            match self.0.try_recv() {
                Ok(event) => return each(&event),
                Err(async_broadcast::TryRecvError::Empty) => pause(),
                Err(error) => panic!("events were lost: {error}"),
            }
        }
    }
}

pub fn async_broadcast<E: Payload>(
    publishers: usize,
    readers: usize,
) -> (Vec<AsyncBroadcastPublisher<E>>, Vec<AsyncBroadcastReader<E>>) {
    let (sender, reader) = async_broadcast::broadcast(PEER_RING);
    let readers = vec![reader; readers].into_iter().map(AsyncBroadcastReader).collect();
    (vec![sender; publishers].into_iter().map(AsyncBroadcastPublisher).collect(), readers)
}

pub struct BusPublisher<E>(Bus<E>);
pub struct BusEnd<E>(BusReader<E>);

impl<E: Payload> Publish<E> for BusPublisher<E> {
    #[inline(always)]
    fn publish(&mut self, event: E) {
        let mut event = Some(event);
        while let Err(back) = self.0.try_broadcast(event.take().expect("it came back")) {
            event = Some(back);
            pause();
        }
    }
}

impl<E: Payload> Read<E> for BusEnd<E> {
    #[inline(always)]
    fn read(&mut self, mut each: impl FnMut(&E)) {
        loop {
            match self.0.try_recv() {
                Ok(event) => return each(&event),
                Err(std::sync::mpsc::TryRecvError::Empty) => pause(),
                Err(error) => panic!("events were lost: {error}"),
            }
        }
    }
}

/// The crate `bus`, which has one publisher.
pub fn bus<E: Payload>(
    publishers: usize,
    readers: usize,
) -> (Vec<BusPublisher<E>>, Vec<BusEnd<E>>) {
    assert_eq!(publishers, 1, "this broadcast has one publisher");
    let mut bus = Bus::new(PEER_RING);
    let readers = (0..readers).map(|_| BusEnd(bus.add_rx())).collect();
    (vec![BusPublisher(bus)], readers)
}

pub struct Multiqueue2Publisher<E: Payload>(BroadcastSender<E>);
pub struct Multiqueue2Reader<E: Payload>(BroadcastUniReceiver<E>);

impl<E: Payload> Publish<E> for Multiqueue2Publisher<E> {
    #[inline(always)]
    fn publish(&mut self, mut event: E) {
        use std::sync::mpsc::TrySendError;
        while let Err(error) = self.0.try_send(event) {
            match error {
                TrySendError::Full(back) => event = back,
                TrySendError::Disconnected(_) => panic!("the readers are there"),
            }
            pause();
        }
    }
}

impl<E: Payload> Read<E> for Multiqueue2Reader<E> {
    #[inline(always)]
    fn read(&mut self, each: impl FnMut(&E)) {
        let read = self.0.recv_view(each);
        assert!(read.is_ok(), "a publisher is there");
    }
}

/// Read in place, by readers that have their streams for themselves.
pub fn multiqueue2<E: Payload>(
    publishers: usize,
    readers: usize,
) -> (Vec<Multiqueue2Publisher<E>>, Vec<Multiqueue2Reader<E>>) {
    let (sender, first) = broadcast_queue_with(PEER_RING as u64, YieldingWait::new());
    let mut streams: Vec<_> = (1..readers).map(|_| first.add_stream()).collect();
    streams.push(first);
    let readers = streams
        .into_iter()
        .map(|stream| match stream.into_single() {
            Ok(single) => Multiqueue2Reader(single),
            Err(_) => panic!("nobody else reads this stream"),
        })
        .collect();
    (vec![sender; publishers].into_iter().map(Multiqueue2Publisher).collect(), readers)
}
