//! The ring: where events lie, who may write next, and what may be overwritten.
//!
//! Words that all share: `tail`, the next position to claim (flagged while no shared publisher may claim: the
//! lane is closing or has an exclusive publisher); `limit`, the first position for which no room is known;
//! `floor`, the first position that a drop-oldest reader may still read. Each slot has a header apart from
//! its payload, so that a filter touches headers alone.
//!
//! 1. *Claim.* A position is claimed by the one compare-and-swap that moves `tail` past it, or by the one
//!    exclusive publisher while the tail is flagged, who alone writes it then; and only while it is before
//!    `limit`. So a slot has at most one writer, and by 3 the earlier writer is done.
//! 2. *Publish.* The claimer writes the payload, then the header (Release). If what makes the payload panics,
//!    the header says that there is none: a tombstone. A reader reads a slot only after it has seen the lap
//!    of its own position and a payload in the header (Acquire). So a slot that is read is written.
//! 3. *Limit.* Every event more than a lap before `limit` is written, and will not be read again, by anybody,
//!    ever: `limit` is only set after its header was seen (an exclusive publisher knows what it wrote), and
//!    after a scan, behind a fence, found no gate on it (a cell's gate, see the registry), with `floor`
//!    moved past it first. `limit` and `floor` never go back, and no later than one lap after a `tail` read
//!    before the scan does `limit` stand: so a subscription that joins at the tail starts after all that
//!    may be overwritten.
//! 4. *Read.* A reader dereferences a payload only while its gate is at or before that position, and the gate
//!    was either kept there since it joined (blocking), or set, fenced, and followed by a look at `floor`
//!    that found the position not given up (pin). By 3 nobody writes that slot meanwhile.
//! 5. *Life.* A slot holds an initialised payload exactly if its header says that it has one, but for the
//!    slot's claimer between claim and header. The ring drops those payloads when it goes, a publisher the
//!    one that it overwrites.
#![expect(unsafe_code, reason = "slots are used in place, guarded by headers and gates")]

mod claim;
mod exclusive;
mod joining;
#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod validation;
mod view;

pub(super) use claim::Claim;
pub(super) use exclusive::ExclusiveTail;

use std::fmt;
use std::mem::{MaybeUninit, needs_drop};

use crossbeam::utils::CachePadded;

use super::header::{Header, Lap, NO_PAYLOAD};
use super::position::{BUSY, FLAG, Position};
use super::registry::{Registry, SharedCell};
use super::slots::{Slot, Slots};
use super::wait::discard;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{fence, fence_site, prefetch_write, site};
use crate::{Error, ErrorKind};

/// How far ahead a publisher clears the way at most, in events.
const STRIDE_MAX: u64 = 256;
/// How a header is looked at before its slot is given up: the fence of `Ring::refresh`, which comes after, has
/// the write of one lap ago come before. ThreadSanitizer knows no fences.
// Ordering: Acquire, pairs with the Release of `write` and of `bury`, for ThreadSanitizer.
const VACANT: Ordering = if cfg!(phalanx_tsan) { Ordering::Acquire } else { Ordering::Relaxed };
/// Headers in a cache line.
const HEADERS_A_LINE: usize = 8;
/// How far ahead of a claim its slots are called into the publisher's cache, in events.
const PREFETCH: u64 = 16;

pub(super) struct Ring<E> {
    tail: CachePadded<AtomicU64>,
    limit: CachePadded<AtomicU64>,
    floor: CachePadded<AtomicU64>,
    pub(super) registry: CachePadded<Registry>,
    headers: Box<[AtomicU64]>,
    slots: Slots<E>,
    mask: u64,
    /// The capacity is two to this power.
    shift: u32,
    /// How far ahead of the tail the way is cleared: a fence and a scan for so many events.
    stride: u64,
    start: Position,
}

/// Why nothing was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A reader that publishers wait for needs the slot.
    Held,
    /// The slot's last writer is not done.
    Unwritten,
    /// A subscription needs the slot whose policy is to fail the publish.
    Failed,
    /// No shared publisher may claim.
    Shut,
}

impl Refusal {
    /// Whether waiting may end it.
    #[inline]
    pub(super) const fn passes(self) -> bool {
        matches!(self, Self::Held | Self::Unwritten)
    }
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
        let (mask, shift) = (capacity_u64 - 1, capacity.ilog2());
        let mut headers = Vec::new();
        headers.try_reserve_exact(capacity).map_err(|error| {
            let message = format!("no memory for a ring of {capacity} events");
            Error::with_source(ErrorKind::LimitReached, message, error)
        })?;
        for index in 0..capacity_u64 {
            // The slot's first position is one of the first lap; its header says one lap before.
            let first = start.forward(index.wrapping_sub(start.sequence()) & mask);
            let header = Header::new(Lap::of(first, shift).before(), NO_PAYLOAD, 0);
            headers.push(AtomicU64::new(header.word()));
        }
        let word = |position: Position| CachePadded::new(AtomicU64::new(position.word()));
        Ok(Self {
            tail: word(start),
            limit: word(start.forward(capacity_u64)),
            floor: word(start),
            registry: CachePadded::new(Registry::new()),
            headers: headers.into_boxed_slice(),
            slots: Slots::new(capacity)?,
            mask,
            shift,
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

    #[inline]
    fn header(&self, index: usize) -> &AtomicU64 {
        debug_assert!(index < self.headers.len());
        // SAFETY: every index is one of `index`, at most `mask`; there are `mask + 1` headers.
        unsafe { self.headers.get_unchecked(index) }
    }

    #[inline]
    fn slot(&self, index: usize) -> &Slot<E> {
        debug_assert!(index < self.slots.len());
        // SAFETY: as for `header`; there are as many slots.
        unsafe { self.slots.get_unchecked(index) }
    }

    #[inline]
    fn lap(&self, position: Position) -> Lap {
        Lap::of(position, self.shift)
    }

    /// The next position to be claimed.
    #[inline]
    pub(super) fn tail(&self) -> Position {
        Position::of_word(self.tail.load(Ordering::Relaxed))
    }

    /// The end of what was published, once the lane is closed; nothing while an event is being written.
    pub(super) fn end(&self) -> Option<Position> {
        // Only where the end is matters, not what lies before: a reader that is there has seen each header. And
        // that it is no earlier word of the exclusive publisher is for the fences of the lane to see to.
        let word = self.tail.load(Ordering::Relaxed);
        (word & BUSY == 0).then(|| Position::of_word(word))
    }

    /// How many positions were claimed so far.
    pub(super) fn claimed(&self) -> u64 {
        self.tail().since(self.start)
    }

    /// The first position that a drop-oldest reader may still read.
    #[inline]
    pub(super) fn floor(&self) -> Position {
        Position::of_word(self.floor.load(Ordering::Relaxed))
    }

    /// Lets no shared publisher claim from here on; says where the tail is.
    ///
    /// The caller keeps others from setting or clearing the flag. Where it is set the exclusive publisher writes
    /// the word, and nobody else.
    pub(super) fn shut(&self) -> Position {
        let word = self.tail.load(Ordering::Relaxed);
        if word & FLAG != 0 {
            return Position::of_word(word);
        }
        Position::of_word(self.tail.fetch_or(FLAG, Ordering::Relaxed))
    }

    /// Lets shared publishers claim again.
    pub(super) fn unshut(&self) {
        self.tail.fetch_and(!FLAG, Ordering::Relaxed);
    }

    /// Claims the next positions, `wanted` at most. Never waits; a lost race means that another claim won.
    pub(super) fn claim(&self, wanted: u64) -> Result<Claim<'_, E>, Refusal> {
        let (first, count) = self.claim_by(|first| self.room(first, wanted))?;
        Ok(Claim { ring: self, next: first, left: count, tail: None })
    }

    #[inline]
    fn claim_one(&self) -> Result<Position, Refusal> {
        let room = |first| if self.known_room(first) > 0 { Ok(1) } else { self.room(first, 1) };
        Ok(self.claim_by(room)?.0)
    }

    #[inline(always)]
    fn claim_by(
        &self,
        room: impl Fn(Position) -> Result<u64, Refusal>,
    ) -> Result<(Position, u64), Refusal> {
        let mut word = self.tail.load(Ordering::Relaxed);
        loop {
            if word & FLAG != 0 {
                return Err(Refusal::Shut);
            }
            let first = Position::of_word(word);
            let count = match room(first) {
                Ok(count) => count,
                Err(refusal) => {
                    // What looked full may have been an old tail; then the newer one is tried.
                    // Ordering: Acquire, pairs with the Release of `write`: who saw the header of a later lap
                    // sees the tail that led there. Else an old tail would look full twice.
                    fence(Ordering::Acquire);
                    let now = self.tail.load(Ordering::Relaxed);
                    if now == word {
                        return Err(refusal);
                    }
                    word = now;
                    continue;
                }
            };
            // The swap orders nothing by itself: what the claimer writes comes after the acquiring load of
            // `limit`, or after the fence of its own `refresh`, and readers go by the header.
            match self.tail.compare_exchange_weak(
                word,
                first.forward(count).word(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok((first, count)),
                Err(now) => word = now,
            }
        }
    }

    /// How many positions from `first` on may be claimed: one at least, `wanted` at most.
    #[cold]
    fn room(&self, first: Position, wanted: u64) -> Result<u64, Refusal> {
        let known = match self.known_room(first) {
            0 => self.refresh(first, true)?,
            known => known,
        };
        Ok(wanted.min(known))
    }

    /// How many positions from `first` on are before the limit.
    #[inline]
    fn known_room(&self, first: Position) -> u64 {
        // Ordering: Acquire, pairs with the Release of `refresh`: the gates that were scanned there were
        // moved on after the reads that they covered, so the payload is overwritten after those.
        let limit = self.limit.load(site("bus.limit.read", Ordering::Acquire));
        let limit = Position::of_word(limit);
        if first.is_before(limit) { limit.since(first) } else { 0 }
    }

    /// How many positions in a row the writers of one lap ago are done with: one at least, `most` at most.
    fn vacant(&self, first: Position, most: u64) -> Result<u64, Refusal> {
        let mut count = 0;
        while count < most && self.is_vacant(first.forward(count)) {
            count += 1;
        }
        if count == 0 { Err(Refusal::Unwritten) } else { Ok(count) }
    }

    /// Whether the writer of one lap ago is done with the slot.
    #[inline]
    fn is_vacant(&self, position: Position) -> bool {
        let header = self.header(self.index(position));
        let header = Header::of_word(header.load(VACANT));
        header.is_of(self.lap(position).before())
    }

    /// Calls the slots into this core's cache that are next but a few.
    #[inline]
    fn prefetch(&self, position: Position) {
        let index = self.index(position.forward(PREFETCH));
        prefetch_write(self.slot(index));
        if index.is_multiple_of(HEADERS_A_LINE) {
            prefetch_write(self.header(index));
        }
    }

    /// Makes room known from `position` on, if there is any; says how much.
    ///
    /// A shared publisher has to look whether the writers of one lap ago are done.
    #[cold]
    pub(super) fn refresh(&self, position: Position, shared: bool) -> Result<u64, Refusal> {
        let lap_before = position.back(self.capacity());
        // A first look without a fence, so that nothing is given up while a gate is in the way.
        let gate = self.registry.oldest_gate();
        if gate.is_some_and(|gate| !lap_before.is_before(gate)) {
            let fails = self.registry.is_any_failing_at(lap_before);
            return Err(if fails { Refusal::Failed } else { Refusal::Held });
        }
        let ahead = lap_before.forward(self.stride);
        let mut target = gate.map_or(ahead, |gate| gate.earlier(ahead));
        if shared {
            target = lap_before.forward(self.vacant(position, target.since(lap_before))?);
        }
        // The order within the words `floor` and `limit` is all that their swaps need beside the fence.
        advance(&self.floor, target, Ordering::Relaxed);
        // Ordering: SeqCst, pairs with the fences of `Reader` (pin) and of `Ring::join`: whoever set a
        // gate and is not seen by the scan below sees the new floor, or the tail that led here; and with
        // the Release of `write` or `bury`, whose header `vacant` saw: the slot is overwritten after that one.
        fence_site("bus.refresh.fence", Ordering::SeqCst);
        let target = self.registry.oldest_gate().map_or(target, |gate| gate.earlier(target));
        // Ordering: Release, pairs with the Acquire of `known_room`.
        let order = site("bus.limit.write", Ordering::Release);
        advance(&self.limit, target.forward(self.capacity()), order);
        if lap_before.is_before(target) { Ok(target.since(lap_before)) } else { Err(Refusal::Held) }
    }

    /// The subscription that is in the way of the next claim, and where it began.
    pub(super) fn holder(&self) -> Option<(SharedCell, Position)> {
        self.registry.oldest_holder(self.tail().back(self.capacity()))
    }

    /// Whether the next claim may come to anything but to wait for a gate: it finds room, or fails. The caller
    /// fences before it asks.
    pub(super) fn may_end_wait(&self) -> bool {
        let mut tail = self.tail();
        loop {
            let lap_before = tail.back(self.capacity());
            if self.known_room(tail) > 0
                || self.registry.oldest_gate().is_none_or(|gate| lap_before.is_before(gate))
                || self.registry.is_any_failing_at(lap_before)
            {
                return true;
            }
            let now = self.tail();
            if now == tail {
                return false;
            }
            tail = now;
        }
    }

    /// Claims a position and writes an event there; gives back its sequence, and in `old` the payload that was
    /// overwritten. Never waits.
    #[inline(always)]
    pub(super) fn publish(
        &self,
        topic: u32,
        source: u32,
        payload: E,
        old: &mut Option<E>,
    ) -> Result<u64, (Refusal, E)> {
        match self.claim_one() {
            Ok(position) => {
                self.prefetch(position);
                // SAFETY: the position was claimed just now (1).
                unsafe { self.write(position, topic, source, payload, old) };
                Ok(position.sequence())
            }
            Err(refusal) => Err((refusal, payload)),
        }
    }

    /// Writes an event; leaves in `old` the payload that was overwritten.
    ///
    /// That goes by reference, since for a payload that needs no drop nothing is to be moved at all.
    ///
    /// # Safety
    ///
    /// The position is the caller's to write (1), and is written once.
    #[inline(always)]
    unsafe fn write(
        &self,
        position: Position,
        topic: u32,
        source: u32,
        payload: E,
        old: &mut Option<E>,
    ) {
        let (index, lap) = (self.index(position), self.lap(position));
        // SAFETY: as the caller says; the header is written below, and nothing between panics.
        unsafe { self.take_old(index, old) };
        self.slot(index).with_mut(|slot| {
            // SAFETY: the claim makes this thread the slot's only user (1, 3, 4).
            unsafe { slot.write(MaybeUninit::new(payload)) };
        });
        let word = Header::new(lap, topic, source).word();
        // Ordering: Release, pairs with the Acquire of `View::header_at` and the fence of `refresh`: the payload
        // is written before.
        self.header(index).store(word, site("bus.stamp.publish", Ordering::Release));
    }

    /// Moves the payload of one lap ago out of a slot, if there is one.
    ///
    /// # Safety
    ///
    /// The slot is the caller's to write (1); its header is written next, and nothing between panics.
    #[inline(always)]
    unsafe fn take_old(&self, index: usize, old: &mut Option<E>) {
        debug_assert!(old.is_none(), "what is overwritten here would be dropped before its time");
        if needs_drop::<E>()
            && Header::of_word(self.header(index).load(Ordering::Relaxed)).has_payload()
        {
            self.slot(index).with_mut(|slot| {
                // SAFETY: this thread is the slot's only user (1, 3, 4).
                let payload = unsafe { slot.read() };
                // SAFETY: its header says that it holds a payload (5); the copy left in the slot is
                // overwritten or buried next, without being dropped.
                *old = Some(unsafe { payload.assume_init() });
            });
        }
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

impl<E> Drop for Ring<E> {
    fn drop(&mut self) {
        /// Drops the payloads from an index on, the rest of them even if one panics.
        struct Rest<'a, E>(&'a Ring<E>, usize);
        impl<E> Drop for Rest<'_, E> {
            fn drop(&mut self) {
                while self.1 < self.0.headers.len() {
                    let index = self.1;
                    self.1 += 1;
                    let header = self.0.headers[index].load(Ordering::Relaxed);
                    if !Header::of_word(header).has_payload() {
                        continue;
                    }
                    let rest = Rest(self.0, self.1);
                    self.0.slots[index].with_mut(|slot| {
                        // SAFETY: nobody else uses a ring that is being dropped.
                        let payload = unsafe { &mut *slot };
                        // SAFETY: the header says that the slot holds a payload (5); each is visited once.
                        unsafe { payload.assume_init_drop() };
                    });
                    std::mem::forget(rest);
                }
            }
        }
        if needs_drop::<E>() {
            drop(Rest(self, 0));
        }
    }
}

impl<E> fmt::Debug for Ring<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("capacity", &self.capacity())
            .field("tail", &self.tail().sequence())
            .finish_non_exhaustive()
    }
}
