//! What all handles of a bus share: its lanes, its topics, and the readers that wait.
//!
//! 1. Readers wait in one set for all lanes; each lane's alert word says which topics somebody parked is
//!    interested in. Interests are added and taken back under the lock of the set.
//! 2. A reader that is parked learns of every event of its interest, of every topic that is new, of the close,
//!    and of each quarter of a lap that went by: so a filter that nothing matches neither holds up
//!    publishers nor falls behind unawares.
//! 3. The first panic of somebody's waker is passed on when everything else is done.
//! 4. No lock is held while a waker runs: it may subscribe, publish and end subscriptions itself.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::task::Waker;

use super::dead_letters::Letters;
use super::lane::Lane;
use super::position::Position;
use super::reader::{Gap, Reader};
use super::registry::Hold;
use super::ring::Shape;
use super::stats::{BusStats, SubscriberStats};
use super::strategy::WaitStrategy;
use super::subscriber::Start;
use super::topic::{Topic, Topics};
use super::wait::{EVERYTHING, Panic, Ticket, WaitSet, discard, first_of, pass_on};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Asymmetric, Mutex, heavy_fence, left_out};
use crate::{Clock, Error};

pub(super) struct Shared<E> {
    /// One at least; the last is the most urgent.
    lanes: Box<[Arc<Lane<E>>]>,
    readers: WaitSet,
    /// Held while a subscription joins or leaves, so that it has the same number on each lane.
    membership: Mutex<()>,
    handler_panics: AtomicU64,
    pub(super) letters: Arc<Letters<E>>,
    pub(super) topics: Topics,
    pub(super) clock: Clock,
    pub(super) strategy: WaitStrategy,
    way: Asymmetric,
}

impl<E> Shared<E> {
    pub(super) fn new(
        shape: Shape,
        lanes: usize,
        topics: Topics,
        clock: Clock,
        strategy: WaitStrategy,
    ) -> Result<Self, Error> {
        let way = Asymmetric::detect();
        let lanes = (0..lanes)
            .map(|index| Ok(Arc::new(Lane::new(shape, index as u8, way)?)))
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            lanes,
            readers: WaitSet::new(),
            membership: Mutex::new(()),
            handler_panics: AtomicU64::new(0),
            letters: Arc::new(Letters::new()),
            topics,
            clock,
            strategy,
            way,
        })
    }

    pub(super) fn lanes(&self) -> &[Arc<Lane<E>>] {
        &self.lanes
    }

    // Those who read.

    /// Joins all lanes; says what was missed before, of the first lane.
    pub(super) fn join(
        &self,
        hold: Hold,
        start: Start,
    ) -> Result<(Vec<Reader<E>>, Option<Gap>), Error> {
        let mut gap = None;
        let mut readers = Vec::with_capacity(self.lanes.len());
        {
            let _membership = self.membership.lock();
            for lane in &self.lanes {
                let (reader, missed) = Reader::join(Arc::clone(lane), hold, start)?;
                gap = gap.or(missed);
                readers.push(reader);
            }
        }
        if hold != Hold::Nothing
            && let Err(panic) = tell_released(&readers)
        {
            // Nobody is going to have this subscription.
            discard(self.leave(&readers));
            resume_unwind(panic);
        }
        Ok((readers, gap))
    }

    /// Leaves all lanes; the first panic of a waker comes back.
    pub(super) fn leave(&self, readers: &[Reader<E>]) -> Result<(), Panic> {
        {
            let _membership = self.membership.lock();
            for reader in readers {
                reader.leave();
            }
        }
        tell_released(readers)
    }

    pub(super) fn count_handler_panic(&self) {
        self.handler_panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Enters the readers that wait; the caller looks again before it sleeps.
    pub(super) fn enter_readers(&self, waker: Waker, interests: u64) -> Ticket {
        let ticket = self.readers.enter(waker, interests, false, |new| {
            for lane in &self.lanes {
                lane.add_interests(new);
            }
        });
        // Pairs with the light fences of publishers and the heavy one of whoever closes.
        heavy_fence("bus.recv.park.fence", self.way);
        ticket
    }

    pub(super) fn leave_readers(&self, ticket: &Ticket) {
        self.readers.leave(ticket, || {
            for lane in &self.lanes {
                lane.keep_interests(0);
            }
        });
    }

    fn wake_readers(&self, interests: u64) -> Result<(), Panic> {
        if self.readers.is_empty() {
            return Ok(());
        }
        self.readers.wake(interests, |left| {
            for lane in &self.lanes {
                lane.keep_interests(left);
            }
        })
    }

    // Those who publish.

    /// Tells those whom an event alerts (see [`Lane::alert_for`]), and passes on a panic of theirs; `old` is
    /// dropped last, whatever happens.
    #[cold]
    pub(super) fn announce<O>(&self, lane: &Lane<E>, alert: u64, old: O) {
        let woken = first_of(self.wake_readers(alert), lane.notify_written());
        if let Err(panic) = woken {
            // Two panics at once would end the process.
            discard(old);
            resume_unwind(panic);
        }
        // The payload of one lap ago goes last: its drop is the code of somebody else, and may panic.
        drop(old);
    }

    /// The topic of a name, made if it is new; then those who wait look whether it is theirs.
    pub(super) fn intern(&self, name: &str) -> Result<Topic, Error> {
        let (topic, new) = self.topics.intern(name)?;
        if new && !left_out("bus.topic.wake") {
            // No fence: the lock of the topics is one for this. Either a reader that entered finds the topic when it
            // takes that lock to look again, or it took it before, and this sees that it entered.
            if let Err(panic) = self.wake_readers(EVERYTHING) {
                resume_unwind(panic);
            }
        }
        Ok(topic)
    }

    /// Ends publishing and wakes everybody; what a waker panicked with comes back.
    pub(super) fn close(&self) -> Result<(), Panic> {
        let mut woken = Ok(());
        for lane in &self.lanes {
            if lane.close() {
                woken = first_of(woken, lane.wake_publishers());
            }
        }
        let woken = first_of(woken, self.wake_readers(EVERYTHING));
        first_of(woken, self.letters.close())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lanes.iter().all(|lane| lane.is_closed())
    }

    // The counters.

    pub(super) fn stats(&self) -> BusStats {
        let mut stats = BusStats::default();
        for lane in &self.lanes {
            let tail = lane.ring.tail();
            let mut subscribers = 0;
            let totals = lane.ring.registry.totals(|_, _, cursor| {
                subscribers += 1;
                stats.depth_max = stats.depth_max.max(depth(tail, cursor));
            });
            stats.published += lane.ring.claimed();
            stats.capacity += lane.ring.capacity() as usize;
            stats.subscribers = subscribers;
            stats.add(&totals, &lane.stats());
        }
        stats.handler_panics = self.handler_panics.load(Ordering::Relaxed);
        stats.dead_letters = self.letters.sent();
        stats
    }

    pub(super) fn subscriber_stats(&self) -> Vec<SubscriberStats> {
        let mut all: Vec<SubscriberStats> = Vec::new();
        for lane in &self.lanes {
            let tail = lane.ring.tail();
            lane.ring.registry.totals(|id, counts, cursor| {
                let at = all.iter().position(|stats| stats.id == id).unwrap_or_else(|| {
                    all.push(SubscriberStats { id, ..SubscriberStats::default() });
                    all.len() - 1
                });
                all[at].add(&counts, depth(tail, cursor));
            });
        }
        all
    }
}

/// Tells the publishers of each lane that a gate moved or is gone; the first panic of a waker comes back.
fn tell_released<E>(readers: &[Reader<E>]) -> Result<(), Panic> {
    let mut woken = Ok(());
    for reader in readers {
        woken = first_of(woken, reader.tell_released());
    }
    woken
}

/// How far a reader is behind; a cursor newer than the tail that was read is not behind.
pub(super) fn depth(tail: Position, cursor: Position) -> u64 {
    if cursor.is_before(tail) { tail.since(cursor) } else { 0 }
}

impl<E> fmt::Debug for Shared<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("lanes", &self.lanes).finish_non_exhaustive()
    }
}

/// Closes the bus when the last handle that could publish is gone.
#[derive(Debug)]
pub(super) struct Owner<E>(Arc<Shared<E>>);

impl<E> Owner<E> {
    pub(super) fn new(shared: Arc<Shared<E>>) -> Self {
        Self(shared)
    }

    #[inline]
    pub(super) fn shared(&self) -> &Arc<Shared<E>> {
        &self.0
    }
}

impl<E> Drop for Owner<E> {
    fn drop(&mut self) {
        pass_on(self.0.close());
    }
}
