//! A lane: a ring, who publishes to it, and who waits for room in it.
//!
//! 1. Whatever may make somebody's wait end looks for waiters afterwards, behind a fence (rule 1 of the wait
//!    sets): a publisher behind its events, a reader behind its gate, whoever closes behind the close.
//! 2. Room wakes one publisher; a publisher that waited and got in wakes the next if there is room for it, and
//!    one that gives up after it was woken does so too. So room and a sleeping publisher do not stay
//!    together. Nor do a sleeping publisher and a subscription that fails publishers: that counts as room.
//! 3. Either shared publishers claim, or one exclusive publisher writes; the flag of the tail says which, and is
//!    set and cleared under `control`. Once the lane is closed the flag stays.
//! 4. The end of a closed lane is where its tail is while nobody writes exclusively. `closed` is set when no
//!    publisher can begin any more: shared ones are shut out by the flag, and an exclusive one that did
//!    not see `CLOSING` is seen writing.

use std::fmt;
use std::task::Waker;
use std::time::Duration;

use crossbeam::utils::CachePadded;

use super::position::Position;
use super::registry::SharedCell;
use super::ring::{ExclusiveTail, Refusal, Ring, Shape};
use super::source::Source;
use super::strategy::{Patience, WaitStrategy};
use super::topic::Topic;
use super::wait::{EVERYTHING, Panic, Ticket, WaitSet, pass_on};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{
    Asymmetric, Mutex, Parker, fence, heavy_fence, left_out, light_fence, site, thread,
};
use crate::{Clock, Error, ErrorKind, Timestamp};

/// Alert: a publisher waits for the writer of a slot.
const UNWRITTEN: u64 = 1 << 62;
/// Alert: no publication may begin any more.
const CLOSING: u64 = 1 << 63;
/// The interests of readers in an alert word: topics, by the last bits of their numbers.
const TOPICS: u64 = (1 << TOPIC_BITS) - 1;
const TOPIC_BITS: u32 = 60;
/// Beside them: a reader is parked, be it for no topic that there is.
pub(super) const PARKED: u64 = 1 << TOPIC_BITS;

/// Handles: the exclusive publisher's, above the count of the shared ones.
const EXCLUSIVE: u64 = 1 << 63;

/// The interest of a reader in a topic.
#[inline]
pub(super) const fn interest(topic: Topic) -> u64 {
    1 << (topic.id() % TOPIC_BITS)
}

pub(super) struct Lane<E> {
    pub(super) ring: Ring<E>,
    /// What a publisher looks at after each event: who is parked, by interest, and the flags above.
    alert: CachePadded<AtomicU64>,
    /// Publishers that wait for room.
    publishers: CachePadded<WaitSet>,
    counters: CachePadded<Counters>,
    /// The number of the lane.
    index: u8,
    closed: AtomicBool,
    handles: AtomicU64,
    control: Mutex<()>,
    way: Asymmetric,
}

#[derive(Debug, Default)]
struct Counters {
    blocked: AtomicU64,
    blocked_ns: AtomicU64,
    refused: AtomicU64,
    tombstones: AtomicU64,
}

/// The counters of a lane's publishers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LaneStats {
    pub(super) blocked: u64,
    pub(super) blocked_ns: u64,
    pub(super) refused: u64,
    pub(super) tombstones: u64,
}

/// How long a publisher that found no room may wait.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    Forever,
    For(Duration),
}

impl<E> Lane<E> {
    pub(super) fn new(shape: Shape, index: u8, way: Asymmetric) -> Result<Self, Error> {
        Ok(Self {
            ring: Ring::new(shape)?,
            alert: CachePadded::new(AtomicU64::new(0)),
            publishers: CachePadded::new(WaitSet::new()),
            counters: CachePadded::default(),
            index,
            closed: AtomicBool::new(false),
            handles: AtomicU64::new(0),
            control: Mutex::new(()),
            way,
        })
    }

    pub(super) fn index(&self) -> u8 {
        self.index
    }

    // Publishing.

    /// Whether no publication may begin any more.
    #[inline]
    pub(super) fn is_closing(&self) -> bool {
        self.alert.load(Ordering::Relaxed) & CLOSING != 0
    }

    /// What somebody wants to be told of `count` events of this topic from a sequence on, now that they are
    /// written: interests and flags; zero if nobody does.
    #[inline]
    pub(super) fn alert_for(&self, topic: Topic, first: u64, count: u64) -> u64 {
        // Pairs with the heavy fences of those who park and of whoever closes: either they see the event, or
        // this sees them.
        light_fence("bus.publish.fence", self.way);
        let alert = self.alert.load(Ordering::Relaxed);
        if alert == 0 {
            return 0;
        }
        self.alert_of(alert, topic, first, count)
    }

    /// Each quarter of a lap and the close concern everybody, an event those who are interested in its topic.
    #[cold]
    fn alert_of(&self, alert: u64, topic: Topic, first: u64, count: u64) -> u64 {
        let quarter = (self.ring.capacity() / 4).max(1);
        // How far the first is beyond the last boundary; the count reaches the next one or does not.
        let into = first.wrapping_sub(1) % quarter;
        if alert & CLOSING != 0 || into + count >= quarter {
            return alert;
        }
        alert & (interest(topic) | UNWRITTEN)
    }

    /// What somebody wants to be told of a lane that an exclusive publisher found closed.
    #[cold]
    pub(super) fn alert_of_end(&self) -> u64 {
        // Pairs with the heavy fence of a reader that parks: either it sees that nobody writes, or this sees it.
        light_fence("bus.shut.fence", self.way);
        self.alert.load(Ordering::Relaxed)
    }

    /// Readers became interested, or the interests that are left are these.
    pub(super) fn add_interests(&self, interests: u64) {
        self.alert.fetch_or(interests & (TOPICS | PARKED), Ordering::Relaxed);
    }

    pub(super) fn keep_interests(&self, interests: u64) {
        self.alert.fetch_and(interests | !(TOPICS | PARKED), Ordering::Relaxed);
    }

    /// Tells a publisher that waited for a writer.
    #[cold]
    pub(super) fn notify_written(&self) -> Result<(), Panic> {
        if self.alert.load(Ordering::Relaxed) & UNWRITTEN == 0 {
            return Ok(());
        }
        self.alert.fetch_and(!UNWRITTEN, Ordering::Relaxed);
        if left_out("bus.written.lock") && self.publishers.is_empty() {
            return Ok(());
        }
        // The set is not asked first whether anybody is there, but locked: who has seen the flag sees so who set
        // it. Nor is it asked whether a gate is in the way too: its reader may have let go before anybody waited,
        // which this thread need not see yet, and the flag is gone now.
        self.publishers.wake_one()
    }

    /// Tells a publisher, if one waits, that a gate moved.
    #[inline]
    pub(super) fn notify_released(&self) -> Result<(), Panic> {
        // Pairs with the heavy fence of a publisher that parks: either it sees the gate, or this sees it.
        light_fence("bus.release.fence", self.way);
        if self.publishers.is_empty() { Ok(()) } else { self.wake_publisher() }
    }

    /// Rule 2 of the file.
    #[cold]
    fn wake_publisher(&self) -> Result<(), Panic> {
        if self.publishers.is_empty() {
            return Ok(());
        }
        // Ordering: SeqCst, pairs with itself: of two readers whose gates both were in the way, one at least
        // sees below that the other's is gone too. A light fence orders nothing between them.
        fence(Ordering::SeqCst);
        if self.ring.may_end_wait() {
            return self.publishers.wake_one();
        }
        Ok(())
    }

    /// Enters the publishers that wait, so that the next look decides; see [`WaitSet::enter`].
    pub(super) fn enter_publishers(
        &self,
        waker: Waker,
        refusal: Refusal,
        in_front: bool,
    ) -> Ticket {
        let ticket = self.publishers.enter(waker, EVERYTHING, in_front, |_| {});
        if refusal == Refusal::Unwritten {
            self.alert.fetch_or(UNWRITTEN, Ordering::Relaxed);
        }
        // Pairs with the light fences of `notify_released` and `alert_for`. Whoever closes takes the lock of the set.
        heavy_fence("bus.publish.park.fence", self.way);
        ticket
    }

    /// Has another waker in its place among them; `false` if it was woken before.
    pub(super) fn renew_publisher(&self, ticket: &Ticket, waker: Waker) -> bool {
        self.publishers.renew(ticket, waker)
    }

    /// Leaves them to enter again; whether it was woken.
    pub(super) fn forget_publisher(&self, ticket: &Ticket) -> bool {
        !self.publishers.leave(ticket, || {})
    }

    /// Ends a publisher's wait: if it was woken, or got in, the next one may have room as well.
    pub(super) fn give_up(&self, pass_room_on: bool) {
        if pass_room_on {
            pass_on(self.wake_publisher());
        }
    }

    /// Attempts a claim until it gets one, parked in between.
    #[cold]
    pub(super) fn wait_for_room<C>(
        &self,
        limit: Limit,
        strategy: WaitStrategy,
        clock: &Clock,
        mut attempt: impl FnMut() -> Result<C, Refusal>,
    ) -> Result<C, Refusal> {
        let blocked = self.begin_wait(clock);
        let deadline = match limit {
            Limit::Forever => None,
            Limit::For(timeout) => Some(blocked.began + timeout),
        };
        let is_overdue = || deadline.is_some_and(|deadline| clock.now() >= deadline);
        let patience = Patience::new(strategy);
        let mut parker = None;
        let (woken, in_attempt) = (false, false);
        let mut turn = Turn { lane: self, clock, blocked, ticket: None, woken, in_attempt };
        loop {
            let mut backoff = patience.begin();
            let mut refusal = loop {
                match turn.attempt(&mut attempt) {
                    Err(refusal) if refusal.passes() => {
                        if is_overdue() {
                            return Err(refusal);
                        }
                        if !backoff.again() {
                            break refusal;
                        }
                    }
                    done => return done,
                }
            };
            let parker = parker.get_or_insert_with(Parker::new);
            loop {
                turn.enter(parker.waker(), refusal);
                match turn.attempt(&mut attempt) {
                    Err(again) if again.passes() => {
                        if again == refusal || again == Refusal::Held {
                            break;
                        }
                        // What it waits for is another thing now, which has to be announced.
                        refusal = again;
                        turn.leave();
                    }
                    done => return done,
                }
            }
            clock.park_until(parker, deadline);
            // Woken for room, for the close, or by the time: the next round finds out which.
            turn.woken = false;
            turn.leave();
        }
    }

    /// A publisher begins to wait.
    pub(super) fn begin_wait(&self, clock: &Clock) -> Blocked {
        self.counters.blocked.fetch_add(1, Ordering::Relaxed);
        Blocked { began: clock.now(), held_by: self.ring.holder() }
    }

    /// Counts how long a publisher waited.
    pub(super) fn end_wait(&self, blocked: &Blocked, clock: &Clock) {
        let waited = clock.now() - blocked.began;
        let waited_ns = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.counters.blocked_ns.fetch_add(waited_ns, Ordering::Relaxed);
        if let Some((cell, start)) = &blocked.held_by
            && cell.start() == *start
        {
            cell.blocked(waited_ns);
        }
    }

    pub(super) fn count_refused(&self) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_tombstones(&self, count: u64) {
        self.counters.tombstones.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> LaneStats {
        LaneStats {
            blocked: self.counters.blocked.load(Ordering::Relaxed),
            blocked_ns: self.counters.blocked_ns.load(Ordering::Relaxed),
            refused: self.counters.refused.load(Ordering::Relaxed),
            tombstones: self.counters.tombstones.load(Ordering::Relaxed),
        }
    }

    // Handles.

    pub(super) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove_handle(&self) {
        // Ordering: Release, pairs with the Acquire of `begin_exclusive`: what the handle published is
        // published before.
        self.handles.fetch_sub(1, Ordering::Release);
    }

    /// Finds room for one event of the exclusive publisher at least.
    #[inline(always)]
    pub(super) fn room_exclusive(&self, tail: &mut ExclusiveTail) -> Result<(), Refusal> {
        self.ring.clear_exclusive(tail).map_err(|refusal| {
            // Who waits for room in a lane that is closed would wait for ever.
            if self.is_closing() { Refusal::Shut } else { refusal }
        })
    }

    /// Finds room for one event of the exclusive publisher at least, and begins to write.
    ///
    /// Refused as [`Refusal::Shut`], it may have looked for a moment as if it wrote: the caller tells those who
    /// wait (see [`Lane::alert_of_end`]).
    #[inline(always)]
    pub(super) fn clear_exclusive(&self, tail: &mut ExclusiveTail) -> Result<(), Refusal> {
        self.room_exclusive(tail)?;
        self.ring.begin_exclusive(tail);
        // Pairs with the heavy fence of `close`: either that sees the flag, or this sees the close.
        light_fence("bus.begin.fence", self.way);
        if self.is_closing() {
            self.ring.end_exclusive(tail);
            return Err(Refusal::Shut);
        }
        Ok(())
    }

    /// Publishes at the tail of the exclusive publisher, if there is room.
    #[inline(always)]
    pub(super) fn publish_exclusive(
        &self,
        tail: &mut ExclusiveTail,
        topic: Topic,
        source: Source,
        payload: E,
        old: &mut Option<E>,
    ) -> Result<u64, (Refusal, E)> {
        match self.clear_exclusive(tail) {
            Ok(()) => {
                Ok(self.ring.write_exclusive(tail, topic.id(), source.number(), payload, old))
            }
            Err(refusal) => Err((refusal, payload)),
        }
    }

    /// Makes way for an exclusive publisher, and says where it begins.
    pub(super) fn make_exclusive(&self) -> Result<ExclusiveTail, Error> {
        let _control = self.control.lock();
        if self.is_closing() {
            return Err(Error::new(ErrorKind::Closed, "the bus is closed"));
        }
        // Ordering: Acquire, pairs with the Release of `remove_handle`.
        self.handles
            .compare_exchange(0, EXCLUSIVE, Ordering::Acquire, Ordering::Relaxed)
            .map_err(|handles| {
                let message = if handles & EXCLUSIVE == 0 {
                    format!(
                        "an exclusive publisher needs a lane of its own: expected no publisher beside \
                         it, found {handles}; drop them first"
                    )
                } else {
                    "the lane has an exclusive publisher already; drop it first".to_owned()
                };
                Error::new(ErrorKind::InUse, message)
            })?;
        Ok(Ring::<E>::exclusive_tail(self.ring.shut()))
    }

    /// The exclusive publisher is gone.
    pub(super) fn end_exclusive(&self) {
        let _control = self.control.lock();
        if !self.is_closing() {
            self.ring.unshut();
        }
        // Ordering: Release, as in `remove_handle`.
        self.handles.fetch_and(!EXCLUSIVE, Ordering::Release);
    }

    // The end.

    /// Whether the lane is closed, and a reader that passed everything before `cursor` has passed everything.
    #[inline]
    pub(super) fn is_end(&self, cursor: Position) -> bool {
        // Ordering: Acquire, pairs with the Release of `close`: the tail has its flag by then, or the writing
        // of an exclusive publisher is seen.
        self.closed.load(site("bus.closed.read", Ordering::Acquire))
            && self.ring.end() == Some(cursor)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Lets no publication begin any more; whether this call was the one that did it. The caller wakes the readers.
    pub(super) fn close(&self) -> bool {
        {
            let _control = self.control.lock();
            if self.is_closing() {
                return false;
            }
            self.alert.fetch_or(CLOSING, Ordering::Relaxed);
            self.ring.shut();
            // Pairs with the light fences of an exclusive publisher: of `clear_exclusive` (either who sees `closed`
            // sees it writing, or it sees the close) and of `alert_for`.
            heavy_fence("bus.close.fence", self.way);
            // Ordering: Release, pairs with the Acquire of `is_end`.
            self.closed.store(true, Ordering::Release);
        }
        // Pairs with the heavy fence of a reader that parks: either it sees the close, or who wakes the readers next
        // sees it. An exclusive publisher that is still writing is fenced off above: it sees the alert when it is
        // done, or those who are woken next see that it is done.
        heavy_fence("bus.closed.fence", self.way);
        true
    }

    pub(super) fn wake_publishers(&self) -> Result<(), Panic> {
        self.publishers.wake(EVERYTHING, |_| {})
    }
}

/// A publisher's place among those who wait. However its wait ends, it leaves no entry behind, and passes on
/// what room it does not need (rule 2 of the file).
struct Turn<'a, E> {
    lane: &'a Lane<E>,
    clock: &'a Clock,
    blocked: Blocked,
    ticket: Option<Ticket>,
    /// Whether it was woken and found no room since, or got in.
    woken: bool,
    /// Whether an attempt runs; one that unwinds may have got in.
    in_attempt: bool,
}

impl<E> Turn<'_, E> {
    fn attempt<C>(
        &mut self,
        mut attempt: impl FnMut() -> Result<C, Refusal>,
    ) -> Result<C, Refusal> {
        self.in_attempt = true;
        let outcome = attempt();
        self.in_attempt = false;
        self.woken |= outcome.is_ok();
        outcome
    }

    fn enter(&mut self, waker: Waker, refusal: Refusal) {
        self.ticket = Some(self.lane.enter_publishers(waker, refusal, self.woken));
    }

    fn leave(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.woken |= self.lane.forget_publisher(&ticket);
        }
    }
}

impl<E> Drop for Turn<'_, E> {
    fn drop(&mut self) {
        if cfg!(phalanx_loom) && thread::panicking() {
            // A model that failed is gone by now, with its locks.
            return;
        }
        self.leave();
        self.lane.end_wait(&self.blocked, self.clock);
        self.lane.give_up(self.woken || self.in_attempt);
    }
}

/// A publisher's wait; [`Lane::end_wait`] counts it.
#[derive(Debug)]
pub(super) struct Blocked {
    began: Timestamp,
    /// Whom it waits for, and where that subscription began: a cell may be given to another one meanwhile.
    held_by: Option<(SharedCell, Position)>,
}

impl<E> fmt::Debug for Lane<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("index", &self.index)
            .field("ring", &self.ring)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;
