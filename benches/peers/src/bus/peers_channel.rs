//! The ends of queues and channels, in which an event goes to one reader: `rtrb`, crossbeam's `ArrayQueue`
//! and channel, `crossfire`, `kanal`, `flume`, `thingbuf`.
//!
//! [`one`] is a queue with one reader; [`fan`] is a broadcast by as many queues as there are readers, to each
//! of which every publisher sends every event.

use std::hint;
use std::sync::Arc;
use std::thread;

use crossbeam::queue::ArrayQueue;

use thingbuf::mpsc::blocking as thingbuf_channel;
use thingbuf::{Recycle, ThingBuf};

use super::payload::Payload;
use super::race::{PEER_RING, Publish, Read};

/// What a queue without a wait of its own does when it is full or empty.
#[inline]
pub fn pause() {
    hint::spin_loop();
    thread::yield_now();
}

/// A queue to one reader.
pub fn one<P, R>(
    open: impl Fn(usize) -> (Vec<P>, R) + 'static,
) -> impl Fn(usize, usize) -> (Vec<P>, Vec<R>) {
    move |publishers, readers| {
        assert_eq!(readers, 1, "a queue has one reader");
        let (publishers, reader) = open(publishers);
        (publishers, vec![reader])
    }
}

/// A queue for each reader.
pub fn fan<P, R>(
    open: impl Fn(usize) -> (Vec<P>, R) + 'static,
) -> impl Fn(usize, usize) -> (Vec<Fan<P>>, Vec<R>) {
    move |publishers, readers| {
        let mut fans: Vec<_> = (0..publishers).map(|_| Fan(Vec::with_capacity(readers))).collect();
        let mut ends = Vec::with_capacity(readers);
        for _ in 0..readers {
            let (publishers, reader) = open(publishers);
            fans.iter_mut().zip(publishers).for_each(|(fan, publisher)| fan.0.push(publisher));
            ends.push(reader);
        }
        (fans, ends)
    }
}

/// Sends to each of some queues.
pub struct Fan<P>(pub Vec<P>);

impl<E: Payload, P: Publish<E>> Publish<E> for Fan<P> {
    #[inline(always)]
    fn publish(&mut self, event: E) {
        if let Some((last, others)) = self.0.split_last_mut() {
            others.iter_mut().for_each(|queue| queue.publish(event.clone()));
            last.publish(event);
        }
    }

    fn publish_batch(&mut self, events: impl ExactSizeIterator<Item = E>) {
        let events: Vec<_> = events.collect();
        for queue in &mut self.0 {
            queue.publish_batch(events.iter().cloned());
        }
    }
}

pub struct RtrbPublisher<E>(rtrb::Producer<E>);
pub struct RtrbReader<E>(rtrb::Consumer<E>);

impl<E: Payload> Publish<E> for RtrbPublisher<E> {
    #[inline(always)]
    fn publish(&mut self, mut event: E) {
        while let Err(rtrb::PushError::Full(back)) = self.0.push(event) {
            event = back;
            pause();
        }
    }

    #[inline(always)]
    fn publish_batch(&mut self, events: impl ExactSizeIterator<Item = E>) {
        loop {
            if let Ok(chunk) = self.0.write_chunk_uninit(events.len()) {
                chunk.fill_from_iter(events);
                return;
            }
            pause();
        }
    }
}

impl<E: Payload> Read<E> for RtrbReader<E> {
    #[inline(always)]
    fn read(&mut self, mut each: impl FnMut(&E)) {
        loop {
            let slots = self.0.slots();
            if slots == 0 {
                pause();
                continue;
            }
            // In parts, so that the publisher gets room before all of it is read.
            let chunk = self.0.read_chunk(slots.min(1024)).expect("the slots are there");
            let (first, second) = chunk.as_slices();
            first.iter().for_each(&mut each);
            second.iter().for_each(&mut each);
            chunk.commit_all();
            return;
        }
    }
}

/// Of one publisher; read in place and in chunks.
pub fn rtrb<E: Payload>(publishers: usize) -> (Vec<RtrbPublisher<E>>, RtrbReader<E>) {
    assert_eq!(publishers, 1, "this queue has one publisher");
    let (publisher, reader) = rtrb::RingBuffer::new(PEER_RING);
    (vec![RtrbPublisher(publisher)], RtrbReader(reader))
}

pub struct QueueEnd<E>(Arc<ArrayQueue<E>>);

impl<E: Payload> Publish<E> for QueueEnd<E> {
    #[inline(always)]
    fn publish(&mut self, mut event: E) {
        while let Err(back) = self.0.push(event) {
            event = back;
            pause();
        }
    }
}

impl<E: Payload> Read<E> for QueueEnd<E> {
    #[inline(always)]
    fn read(&mut self, mut each: impl FnMut(&E)) {
        loop {
            match self.0.pop() {
                Some(event) => return each(&event),
                None => pause(),
            }
        }
    }
}

pub fn array_queue<E: Payload>(publishers: usize) -> (Vec<QueueEnd<E>>, QueueEnd<E>) {
    let queue = Arc::new(ArrayQueue::new(PEER_RING));
    ((0..publishers).map(|_| QueueEnd(Arc::clone(&queue))).collect(), QueueEnd(queue))
}

/// The sending end of a channel whose `send` waits.
pub struct Sending<S>(pub S);
/// The receiving end of a channel whose `recv` waits.
pub struct Receiving<R>(pub R);

macro_rules! channel {
    ($sender:ty, $receiver:ty) => {
        impl<E: Payload> Publish<E> for Sending<$sender> {
            #[inline(always)]
            fn publish(&mut self, event: E) {
                assert!(self.0.send(event).is_ok(), "the reader is there");
            }
        }

        impl<E: Payload> Read<E> for Receiving<$receiver> {
            #[inline(always)]
            fn read(&mut self, mut each: impl FnMut(&E)) {
                each(&self.0.recv().expect("a publisher is there"));
            }
        }
    };
}

channel!(crossbeam::channel::Sender<E>, crossbeam::channel::Receiver<E>);
channel!(crossfire::Tx<crossfire::spsc::Array<E>>, crossfire::Rx<crossfire::spsc::Array<E>>);
channel!(crossfire::MTx<crossfire::mpsc::Array<E>>, crossfire::Rx<crossfire::mpsc::Array<E>>);
channel!(kanal::Sender<E>, kanal::Receiver<E>);
channel!(flume::Sender<E>, flume::Receiver<E>);

fn ends<S: Clone, R>(
    publishers: usize,
    (sender, receiver): (S, R),
) -> (Vec<Sending<S>>, Receiving<R>) {
    // The last of them is the one that was cloned: none is left over.
    (vec![sender; publishers].into_iter().map(Sending).collect(), Receiving(receiver))
}

/// Whose readers park, and whose publishers do when it is full.
pub fn crossbeam_parking<E: Payload>(
    publishers: usize,
) -> (Vec<Sending<crossbeam::channel::Sender<E>>>, Receiving<crossbeam::channel::Receiver<E>>) {
    ends(publishers, crossbeam::channel::bounded(PEER_RING))
}

pub struct CrossbeamPublisher<E>(crossbeam::channel::Sender<E>);
pub struct CrossbeamReader<E>(crossbeam::channel::Receiver<E>);

impl<E: Payload> Publish<E> for CrossbeamPublisher<E> {
    #[inline(always)]
    fn publish(&mut self, mut event: E) {
        while let Err(error) = self.0.try_send(event) {
            event = error.into_inner();
            pause();
        }
    }
}

impl<E: Payload> Read<E> for CrossbeamReader<E> {
    #[inline(always)]
    fn read(&mut self, mut each: impl FnMut(&E)) {
        loop {
            match self.0.try_recv() {
                Ok(event) => return each(&event),
                Err(_) => pause(),
            }
        }
    }
}

/// Whose ends give the processor up instead: with many publishers that is ten times faster.
pub fn crossbeam<E: Payload>(
    publishers: usize,
) -> (Vec<CrossbeamPublisher<E>>, CrossbeamReader<E>) {
    let (sender, receiver) = crossbeam::channel::bounded(PEER_RING);
    let publishers = vec![sender; publishers].into_iter().map(CrossbeamPublisher).collect();
    (publishers, CrossbeamReader(receiver))
}

type SpscEnds<E> = (
    Vec<Sending<crossfire::Tx<crossfire::spsc::Array<E>>>>,
    Receiving<crossfire::Rx<crossfire::spsc::Array<E>>>,
);

/// Of one publisher.
pub fn crossfire_spsc<E: Payload>(publishers: usize) -> SpscEnds<E> {
    assert_eq!(publishers, 1, "this channel has one publisher");
    crossfire::detect_backoff_cfg();
    let (sender, receiver) = crossfire::spsc::bounded_blocking(PEER_RING);
    (vec![Sending(sender)], Receiving(receiver))
}

type MpscEnds<E> = (
    Vec<Sending<crossfire::MTx<crossfire::mpsc::Array<E>>>>,
    Receiving<crossfire::Rx<crossfire::mpsc::Array<E>>>,
);

pub fn crossfire<E: Payload>(publishers: usize) -> MpscEnds<E> {
    crossfire::detect_backoff_cfg();
    ends(publishers, crossfire::mpsc::bounded_blocking(PEER_RING))
}

pub fn kanal<E: Payload>(
    publishers: usize,
) -> (Vec<Sending<kanal::Sender<E>>>, Receiving<kanal::Receiver<E>>) {
    ends(publishers, kanal::bounded(PEER_RING))
}

pub fn flume<E: Payload>(
    publishers: usize,
) -> (Vec<Sending<flume::Sender<E>>>, Receiving<flume::Receiver<E>>) {
    ends(publishers, flume::bounded(PEER_RING))
}

/// Leaves in a slot what is there, as nobody reads it again.
pub struct Leave;

impl<E: Payload> Recycle<E> for Leave {
    fn new_element(&self) -> E {
        E::empty()
    }

    #[inline]
    fn recycle(&self, _: &mut E) {}
}

pub struct ThingbufSender<E>(thingbuf_channel::Sender<E, Leave>);
pub struct ThingbufReceiver<E>(thingbuf_channel::Receiver<E, Leave>);

impl<E: Payload> Publish<E> for ThingbufSender<E> {
    #[inline(always)]
    fn publish(&mut self, event: E) {
        *self.0.send_ref().expect("the reader is there") = event;
    }
}

impl<E: Payload> Read<E> for ThingbufReceiver<E> {
    #[inline(always)]
    fn read(&mut self, mut each: impl FnMut(&E)) {
        each(&self.0.recv_ref().expect("a publisher is there"));
    }
}

/// Its channel, whose readers park; written and read in place.
pub fn thingbuf_parking<E: Payload>(
    publishers: usize,
) -> (Vec<ThingbufSender<E>>, ThingbufReceiver<E>) {
    let (sender, receiver) = thingbuf_channel::with_recycle(PEER_RING, Leave);
    let publishers = vec![sender; publishers].into_iter().map(ThingbufSender).collect();
    (publishers, ThingbufReceiver(receiver))
}

pub struct ThingbufEnd<E>(Arc<ThingBuf<E, Leave>>);

impl<E: Payload> Publish<E> for ThingbufEnd<E> {
    #[inline(always)]
    fn publish(&mut self, event: E) {
        loop {
            if let Ok(mut slot) = self.0.push_ref() {
                *slot = event;
                return;
            }
            pause();
        }
    }
}

impl<E: Payload> Read<E> for ThingbufEnd<E> {
    #[inline(always)]
    fn read(&mut self, mut each: impl FnMut(&E)) {
        loop {
            if let Some(event) = self.0.pop_ref() {
                return each(&event);
            }
            pause();
        }
    }
}

/// Its queue, faster than its channel; written and read in place.
pub fn thingbuf<E: Payload>(publishers: usize) -> (Vec<ThingbufEnd<E>>, ThingbufEnd<E>) {
    let queue = Arc::new(ThingBuf::with_recycle(PEER_RING, Leave));
    ((0..publishers).map(|_| ThingbufEnd(Arc::clone(&queue))).collect(), ThingbufEnd(queue))
}
