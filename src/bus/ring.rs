//! The ring: where events lie, who may write next, and what may be overwritten.
//!
//! Words that all share: `tail`, the next position to claim (its flag: closed); `limit`, the first
//! position for which no room is known; `floor`, the first position that a drop-oldest reader may still
//! read. Each slot has a header, with the position of the event in it (its stamp) and the event's topic,
//! apart from the payload, so that a filter touches headers alone.
//!
//! 1. *Claim.* A position is claimed by the one compare-and-swap that moves `tail` past it, and only while
//!    it is before `limit` and the slot's stamp is the position one lap earlier. So a slot has at most one
//!    writer, and the earlier writer is done.
//! 2. *Publish.* The claimer writes topic and payload, then the stamp (Release), and nothing between the
//!    claim and the stamp can panic. A reader reads a slot only after it has seen its own position in the
//!    stamp (Acquire). So a slot that is read is written.
//! 3. *Limit.* Every event more than a lap before `limit` will not be read again, by anybody, ever: `limit`
//!    is only set after a scan, behind a fence, found no gate on them (a cell's gate, see the registry),
//!    with `floor` moved past them first. `limit` and `floor` never go back, and no later than one lap
//!    after a `tail` read before the scan does `limit` stand: so a subscription that joins at the tail
//!    starts after all that may be overwritten.
//! 4. *Read.* A reader dereferences a payload only while its gate is at or before that position, and the gate
//!    was either kept there since it joined (blocking), or set, fenced, and followed by a look at `floor`
//!    that found the position not given up (pin). By 3 nobody writes that slot meanwhile.
//! 5. *Life.* A slot holds an initialised payload exactly if its stamp is at or after `start`; the ring drops
//!    those payloads when it goes, a publisher the one that it overwrites.
#![expect(unsafe_code, reason = "slots are written and read in place, guarded by stamps and gates")]

use std::fmt;
use std::mem::{MaybeUninit, needs_drop};

use crossbeam::utils::CachePadded;

use super::position::Position;
use super::registry::Registry;
use super::topic::Topic;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{UnsafeCell, fence_site, site};
use crate::{Error, ErrorKind};

/// How far ahead a publisher clears the way at most, in events.
const STRIDE_MAX: u64 = 256;

pub(super) struct Ring<E> {
    tail: CachePadded<AtomicU64>,
    limit: CachePadded<AtomicU64>,
    floor: CachePadded<AtomicU64>,
    pub(super) registry: CachePadded<Registry>,
    headers: Box<[Header]>,
    slots: Box<[Slot<E>]>,
    mask: u64,
    /// How far ahead of the tail the way is cleared: a fence and a scan for so many events.
    stride: u64,
    start: Position,
}

struct Header {
    stamp: AtomicU64,
    topic: AtomicU32,
}

struct Slot<E>(UnsafeCell<MaybeUninit<E>>);

// SAFETY: a payload is moved in by one thread and dropped by another, which `E: Send` allows; it is read
// through shared references by several at once, which `E: Sync` allows; invariants 1 to 4 keep writers
// apart from readers and from each other.
unsafe impl<E: Send + Sync> Sync for Ring<E> {}
// SAFETY: the ring owns its payloads, and all else in it is atomics and locks.
unsafe impl<E: Send> Send for Ring<E> {}

/// The right to write one position (invariant 1). It must be committed.
#[must_use]
pub(super) struct Claim(Position);

/// Why nothing was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Full,
    Closed,
}

/// What a ring is made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// How many slots: a power of two, at least two.
    pub(super) capacity: usize,
    /// The first position.
    pub(super) start: Position,
    /// How far ahead a publisher clears the way: at least one event, at most a lap.
    pub(super) stride: u64,
}

impl Shape {
    pub(super) const fn new(capacity: usize) -> Self {
        let stride = capacity as u64 / 16;
        let stride = if stride > STRIDE_MAX { STRIDE_MAX } else { stride };
        let stride = if stride == 0 { 1 } else { stride };
        Self { capacity, start: Position::from_sequence(0), stride }
    }
}

impl<E> Ring<E> {
    pub(super) fn new(shape: Shape) -> Result<Self, Error> {
        let Shape { capacity, start, stride } = shape;
        let capacity_u64 = capacity as u64;
        let mask = capacity_u64 - 1;
        let mut headers = reserve(capacity)?;
        let mut slots = reserve(capacity)?;
        for index in 0..capacity_u64 {
            // The slot's first position is one of the first lap; its stamp says one lap before.
            let first = start.forward(index.wrapping_sub(start.sequence()) & mask);
            let stamp = AtomicU64::new(first.back(capacity_u64).word());
            headers.push(Header { stamp, topic: AtomicU32::new(0) });
            slots.push(Slot(UnsafeCell::new(MaybeUninit::uninit())));
        }
        let word = |position: Position| CachePadded::new(AtomicU64::new(position.word()));
        Ok(Self {
            tail: word(start),
            limit: word(start.forward(capacity_u64)),
            floor: word(start),
            registry: CachePadded::new(Registry::new()),
            headers: headers.into_boxed_slice(),
            slots: slots.into_boxed_slice(),
            mask,
            stride,
            start,
        })
    }

    #[inline]
    pub(super) fn capacity(&self) -> u64 {
        self.mask + 1
    }

    #[inline]
    fn index(&self, position: Position) -> usize {
        // Below the capacity, which is a `usize`.
        (position.sequence() & self.mask) as usize
    }

    /// The next position to be claimed, and whether the ring is closed.
    #[inline]
    pub(super) fn tail(&self) -> (Position, bool) {
        let word = self.tail.load(Ordering::Relaxed);
        (Position::of_word(word), Position::is_flagged(word))
    }

    pub(super) fn tail_word(&self) -> &AtomicU64 {
        &self.tail
    }

    /// How many positions were claimed so far.
    pub(super) fn claimed(&self) -> u64 {
        self.tail().0.since(self.start)
    }

    /// The first position that a drop-oldest reader may still read.
    #[inline]
    pub(super) fn floor(&self) -> Position {
        Position::of_word(self.floor.load(Ordering::Relaxed))
    }

    /// Lets nobody claim from here on; whether this call was the one that did it.
    pub(super) fn close(&self) -> bool {
        !Position::is_flagged(self.tail.fetch_or(Position::flag(), Ordering::Relaxed))
    }

    /// Claims the next position. Never waits; a lost race means that another claim won.
    #[inline]
    pub(super) fn claim(&self) -> Result<Claim, Refusal> {
        let mut word = self.tail.load(Ordering::Relaxed);
        loop {
            if Position::is_flagged(word) {
                return Err(Refusal::Closed);
            }
            let position = Position::of_word(word);
            if !(self.is_in_limit(position) || self.refresh(position)) || !self.is_vacant(position)
            {
                // What looked full may have been an old tail; then the newer one is tried.
                let now = self.tail.load(Ordering::Relaxed);
                if now == word {
                    return Err(Refusal::Full);
                }
                word = now;
                continue;
            }
            // The swap orders nothing by itself: what the claimer writes comes after the acquiring loads
            // of `limit` and the stamp, and readers go by the stamp.
            match self.tail.compare_exchange_weak(
                word,
                position.forward(1).word(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(Claim(position)),
                Err(now) => word = now,
            }
        }
    }

    #[inline]
    fn is_in_limit(&self, position: Position) -> bool {
        // Ordering: Acquire, pairs with the Release of `refresh`: the gates that were scanned there were
        // moved on after the reads that they covered, so the payload is overwritten after those.
        let limit = self.limit.load(site("bus.limit.read", Ordering::Acquire));
        position.is_before(Position::of_word(limit))
    }

    /// Whether the writer of one lap ago is done with the slot.
    #[inline]
    fn is_vacant(&self, position: Position) -> bool {
        let earlier = position.back(self.capacity());
        let stamp = &self.headers[self.index(position)].stamp;
        // Ordering: Acquire, pairs with the Release of `commit`: the write of one lap ago comes before.
        stamp.load(site("bus.stamp.vacant", Ordering::Acquire)) == earlier.word()
    }

    /// Makes room known from `position` on, if there is any.
    #[cold]
    fn refresh(&self, position: Position) -> bool {
        let lap_before = position.back(self.capacity());
        // A first look without a fence, so that nothing is given up while a gate is in the way.
        let gate = self.registry.oldest_gate();
        if gate.is_some_and(|gate| !lap_before.is_before(gate)) {
            return false;
        }
        let ahead = lap_before.forward(self.stride);
        let target = gate.map_or(ahead, |gate| gate.earlier(ahead));
        // The order within the words `floor` and `limit` is all that their swaps need beside the fence.
        advance(&self.floor, target, Ordering::Relaxed);
        // Ordering: SeqCst, pairs with the fences of `Reader` (pin) and of `Registry::join`: whoever set a
        // gate and is not seen by the scan below sees the new floor, or the tail that led here.
        fence_site("bus.refresh.fence", Ordering::SeqCst);
        let target = self.registry.oldest_gate().map_or(target, |gate| gate.earlier(target));
        // Ordering: Release, pairs with the Acquire of `is_in_limit`.
        let order = site("bus.limit.write", Ordering::Release);
        advance(&self.limit, target.forward(self.capacity()), order);
        lap_before.is_before(target)
    }

    /// Whether a claim would find room (or find the ring closed). The caller fences before it asks.
    pub(super) fn has_room(&self) -> bool {
        let mut word = self.tail.load(Ordering::Relaxed);
        loop {
            let position = Position::of_word(word);
            let lap_before = position.back(self.capacity());
            if Position::is_flagged(word) {
                return true;
            }
            let reachable = self.is_in_limit(position)
                || self.registry.oldest_gate().is_none_or(|gate| lap_before.is_before(gate));
            if reachable && self.is_vacant(position) {
                return true;
            }
            let now = self.tail.load(Ordering::Relaxed);
            if now == word {
                return false;
            }
            word = now;
        }
    }

    /// Checks at rest what the invariants say of the words and stamps.
    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn validate(&self) {
        let tail = self.tail().0;
        let floor = self.floor();
        let limit = Position::of_word(self.limit.load(Ordering::Relaxed));
        assert!(!tail.is_before(floor), "the floor is past the tail");
        assert!(!limit.is_before(tail), "a position was claimed beyond the limit");
        assert!(!floor.is_before(limit.back(self.capacity())), "the limit is ahead of the floor");
        assert!(!floor.is_before(tail.back(self.capacity())), "an event above the floor is gone");
        if let Some(gate) = self.registry.oldest_gate() {
            assert!(!gate.is_before(limit.back(self.capacity())), "a gate is not respected");
        }
        for back in 1..=self.capacity() {
            let position = tail.back(back);
            let stamp = self.headers[self.index(position)].stamp.load(Ordering::Relaxed);
            assert_eq!(stamp, position.word(), "a slot of the last lap is not published");
        }
    }

    /// Writes what was claimed; gives back the payload that was overwritten.
    #[inline]
    pub(super) fn commit(&self, claim: Claim, topic: Topic, payload: E) -> (u64, Option<E>) {
        let Claim(position) = claim;
        let index = self.index(position);
        let header = &self.headers[index];
        let has_old = needs_drop::<E>() && position.since(self.start) >= self.capacity();
        let old = self.slots[index].0.with_mut(|slot| {
            let old = has_old.then(|| {
                // SAFETY: the claim makes this thread the slot's only user (1, 3, 4).
                let old = unsafe { slot.read() };
                // SAFETY: the slot was written one lap ago, as `start` is further back than that (5);
                // the copy left in the slot is overwritten below without being dropped.
                unsafe { old.assume_init() }
            });
            // SAFETY: as above, this thread is the slot's only user (1, 3, 4).
            unsafe { slot.write(MaybeUninit::new(payload)) };
            old
        });
        header.topic.store(topic.id(), Ordering::Relaxed);
        // Ordering: Release, pairs with the Acquire of `topic_at` and of `is_vacant`: the payload and the
        // topic are written before.
        header.stamp.store(position.word(), site("bus.stamp.publish", Ordering::Release));
        (position.sequence(), old)
    }

    /// The topic of the event at this position, if it is published and not overwritten.
    ///
    /// It is the right one for as long as the caller's gate is on it (invariant 4).
    #[inline]
    pub(super) fn topic_at(&self, position: Position) -> Option<Topic> {
        let header = &self.headers[self.index(position)];
        // Ordering: Acquire, pairs with the Release of `commit`: topic and payload are there.
        let stamp = header.stamp.load(site("bus.stamp.read", Ordering::Acquire));
        (stamp == position.word()).then(|| Topic::from_id(header.topic.load(Ordering::Relaxed)))
    }

    /// Runs `read` on the payload at this position.
    ///
    /// # Safety
    ///
    /// The caller has seen `topic_at(position)` be `Some`, and its gate covers the position from before
    /// that until this returns or unwinds, as invariant 4 says.
    #[inline]
    pub(super) unsafe fn read<R>(&self, position: Position, read: impl FnOnce(&E) -> R) -> R {
        self.slots[self.index(position)].0.with(|slot| {
            // SAFETY: nobody writes the slot while the caller's gate covers it (3, 4).
            let payload = unsafe { &*slot };
            // SAFETY: the stamp says that it was written (2).
            read(unsafe { payload.assume_init_ref() })
        })
    }
}

/// Moves a word on to a position, never back.
fn advance(word: &AtomicU64, to: Position, order: Ordering) {
    let mut current = word.load(Ordering::Relaxed);
    while Position::of_word(current).is_before(to) {
        match word.compare_exchange_weak(current, to.word(), order, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => current = now,
        }
    }
}

fn reserve<T>(capacity: usize) -> Result<Vec<T>, Error> {
    let mut room = Vec::new();
    room.try_reserve_exact(capacity).map_err(|error| {
        let message = format!("no memory for a ring of {capacity} events");
        Error::with_source(ErrorKind::LimitReached, message, error)
    })?;
    Ok(room)
}

impl<E> Drop for Ring<E> {
    fn drop(&mut self) {
        /// Drops the payloads from a position on, the rest of them even if one panics.
        struct Rest<'a, E>(&'a Ring<E>, Position, Position);
        impl<E> Drop for Rest<'_, E> {
            fn drop(&mut self) {
                while self.1 != self.2 {
                    let position = self.1;
                    self.1 = position.forward(1);
                    let rest = Rest(self.0, self.1, self.2);
                    self.0.slots[self.0.index(position)].0.with_mut(|slot| {
                        // SAFETY: nobody else uses a ring that is being dropped.
                        let payload = unsafe { &mut *slot };
                        // SAFETY: every claim was committed, so the slot is written (2, 5); each
                        // position of the last lap is visited once.
                        unsafe { payload.assume_init_drop() };
                    });
                    std::mem::forget(rest);
                }
            }
        }
        if needs_drop::<E>() {
            let tail = self.tail().0;
            let held = tail.since(self.start).min(self.capacity());
            drop(Rest(self, tail.back(held), tail));
        }
    }
}

impl<E> fmt::Debug for Ring<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tail, closed) = self.tail();
        f.debug_struct("Ring")
            .field("capacity", &self.capacity())
            .field("tail", &tail.sequence())
            .field("closed", &closed)
            .finish_non_exhaustive()
    }
}
