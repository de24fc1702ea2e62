//! What all handles of a bus share: the ring, and who waits for it.
//!
//! 1. Whatever may make somebody's wait end calls one of the `notify` functions afterwards: each fences
//!    and then looks for waiters (rule 1 of the wait sets).
//! 2. Room wakes one publisher; a publisher that got in wakes the next if there is room for it, and one
//!    that gives up after it was woken does so too. So room and a sleeping publisher do not stay together.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use super::position::Position;
use super::registry::Registry;
use super::ring::{Claim, Refusal, Ring, Shape};
use super::stats::{BusStats, SubscriberStats};
use super::topic::{Topic, Topics};
use super::wait::{Panic, WaitSet, discard};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Parker, fence_site, hint, thread};
use crate::{Clock, Error};

use crossbeam::utils::CachePadded;

/// Rounds of looking again before a waiter parks: first with a pause each, then yielding.
const PAUSES: u32 = if cfg!(any(phalanx_loom, phalanx_shuttle)) { 0 } else { 32 };
const YIELDS: u32 = if cfg!(any(phalanx_loom, phalanx_shuttle)) { 0 } else { 8 };

#[derive(Debug)]
pub(super) struct Shared<E> {
    pub(super) ring: Ring<E>,
    pub(super) topics: Topics,
    pub(super) clock: Clock,
    /// Both on one cache line: a publisher looks at both after each event.
    waiting: CachePadded<Waiting>,
    counters: CachePadded<Counters>,
}

#[derive(Debug)]
struct Waiting {
    readers: WaitSet,
    publishers: WaitSet,
}

#[derive(Debug, Default)]
struct Counters {
    blocked: AtomicU64,
    refused: AtomicU64,
}

/// Whether a publisher that was refused may wait, and how long.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    Forever,
    For(Duration),
}

/// Looks again for a while, without parking.
#[derive(Debug, Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    /// Whether to look again before parking.
    pub(super) fn again(&mut self) -> bool {
        if self.0 < PAUSES {
            hint::spin_loop();
        } else if self.0 < PAUSES + YIELDS {
            thread::yield_now();
        } else {
            return false;
        }
        self.0 += 1;
        true
    }
}

impl<E> Shared<E> {
    pub(super) fn new(shape: Shape, topics_max: usize, clock: Clock) -> Result<Self, Error> {
        Ok(Self {
            ring: Ring::new(shape)?,
            topics: Topics::new(topics_max),
            clock,
            waiting: CachePadded::new(Waiting {
                readers: WaitSet::new(),
                publishers: WaitSet::new(),
            }),
            counters: CachePadded::default(),
        })
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.ring.registry
    }

    pub(super) fn readers(&self) -> &WaitSet {
        &self.waiting.readers
    }

    /// Writes a claimed event and tells those who wait.
    #[inline]
    pub(super) fn commit(&self, claim: Claim, topic: Topic, payload: E) -> u64 {
        let (sequence, old) = self.ring.commit(claim, topic, payload);
        // Ordering: SeqCst, pairs with the fences of those who park: either they see the event, or this
        // sees them in the set.
        fence_site("bus.publish.fence", Ordering::SeqCst);
        let woken =
            if self.waiting.readers.is_empty() { Ok(()) } else { self.waiting.readers.wake_all() };
        self.wake_publisher();
        if let Err(panic) = woken {
            // Two panics at once would end the process.
            discard(old);
            resume_unwind(panic);
        }
        // The payload of one lap ago goes last: its drop is the code of somebody else, and may panic.
        drop(old);
        sequence
    }

    /// Tells a publisher, if one waits, that a gate moved.
    #[inline]
    pub(super) fn notify_released(&self) {
        // Ordering: SeqCst, pairs with the fence of a publisher that parks: either it sees the gate, or
        // this sees it in the set.
        fence_site("bus.release.fence", Ordering::SeqCst);
        self.wake_publisher();
    }

    /// Rule 2 of the file.
    #[inline]
    fn wake_publisher(&self) {
        if !self.waiting.publishers.is_empty() && self.ring.has_room() {
            self.waiting.publishers.wake_one();
        }
    }

    /// Ends publishing and wakes everybody; what a waker panicked with comes back.
    pub(super) fn close(&self) -> Result<(), Panic> {
        if !self.ring.close() {
            return Ok(());
        }
        // No fence: the locks are taken in any case. Who enters the set before is woken, and who
        // enters after sees the flag.
        let readers = self.waiting.readers.wake_all();
        let publishers = self.waiting.publishers.wake_all();
        readers.and(publishers)
    }

    pub(super) fn count_refused(&self) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Claims a position, parked while the ring is full.
    #[cold]
    pub(super) fn claim_waiting(&self, patience: Patience) -> Result<Claim, Refusal> {
        self.counters.blocked.fetch_add(1, Ordering::Relaxed);
        let deadline = match patience {
            Patience::Forever => None,
            Patience::For(timeout) => Some(self.clock.now() + timeout),
        };
        let mut backoff = Backoff::default();
        while backoff.again() {
            match self.ring.claim() {
                Err(Refusal::Full) => {}
                done => return done,
            }
        }
        let parker = Parker::new();
        let mut woken = false;
        loop {
            let ticket = self.waiting.publishers.enter(parker.waker(), woken);
            // Ordering: SeqCst, pairs with the fences of `commit`, `notify_released` and `close`.
            fence_site("bus.publish.park.fence", Ordering::SeqCst);
            let overdue = deadline.is_some_and(|deadline| self.clock.now() >= deadline);
            match self.ring.claim() {
                Err(Refusal::Full) if !overdue => {}
                done => {
                    if !self.waiting.publishers.leave(&ticket) && done.is_err() {
                        // It was woken for room that it does not take: the next one shall (rule 2). One
                        // that got in passes on when it commits.
                        self.notify_released();
                    }
                    return done;
                }
            }
            self.clock.park_until(&parker, deadline);
            // Woken for room, for the close, or by the time: the next round finds out which.
            woken = !self.waiting.publishers.leave(&ticket);
        }
    }

    pub(super) fn stats(&self) -> BusStats {
        let tail = self.ring.tail().0;
        let mut subscribers = 0;
        let mut depth_max = 0;
        let totals = self.registry().totals(|_, _, cursor| {
            subscribers += 1;
            depth_max = depth_max.max(depth(tail, cursor));
        });
        BusStats {
            published: self.ring.claimed(),
            delivered: totals.delivered,
            skipped: totals.skipped,
            lagged: totals.lagged,
            blocked_publishes: self.counters.blocked.load(Ordering::Relaxed),
            refused_publishes: self.counters.refused.load(Ordering::Relaxed),
            subscribers,
            depth_max,
            capacity: self.ring.capacity() as usize,
        }
    }

    pub(super) fn subscriber_stats(&self) -> Vec<SubscriberStats> {
        let tail = self.ring.tail().0;
        let mut all = Vec::new();
        self.registry().totals(|id, counts, cursor| {
            all.push(SubscriberStats {
                id,
                delivered: counts.delivered,
                skipped: counts.skipped,
                lagged: counts.lagged,
                depth: depth(tail, cursor),
            });
        });
        all
    }
}

/// How far a reader is behind; a cursor newer than the tail that was read is not behind.
pub(super) fn depth(tail: Position, cursor: Position) -> u64 {
    if cursor.is_before(tail) { tail.since(cursor) } else { 0 }
}

/// Closes the bus when the last handle that could publish is gone.
#[derive(Debug)]
pub(super) struct Source<E>(Arc<Shared<E>>);

impl<E> Source<E> {
    pub(super) fn new(shared: Arc<Shared<E>>) -> Self {
        Self(shared)
    }

    #[inline]
    pub(super) fn shared(&self) -> &Arc<Shared<E>> {
        &self.0
    }
}

impl<E> Drop for Source<E> {
    fn drop(&mut self) {
        match self.0.close() {
            Err(panic) if !thread::panicking() => resume_unwind(panic),
            // Two panics at once would end the process.
            Err(panic) => discard(panic),
            Ok(()) => {}
        }
    }
}
