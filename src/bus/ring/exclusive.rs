//! The tail of a ring while one publisher has it for itself: no claim by compare-and-swap, no look at headers.
//!
//! 1. While an [`ExclusiveTail`] is in use the tail is flagged, so that nobody else claims (invariant 1 of the ring),
//!    and busy from before an event is written until after: so whoever closes knows the end.
//! 2. A lap after its beginning all that it overwrites is its own, and so is written (invariant 3 of the ring).
#![expect(unsafe_code, reason = "slots before the limit are written in place")]

use super::claim::Claim;
use super::{BUSY, Position, Refusal, Ring};
use crate::sync::atomic::Ordering;

/// The tail of a ring in the hands of its exclusive publisher. There is one at most of each ring, from
/// [`Ring::shut`] on, and it is used with that ring alone.
#[derive(Debug)]
pub(in super::super) struct ExclusiveTail {
    start: Position,
    pub(super) next: Position,
    /// There is room up to here.
    limit: Position,
}

impl<E> Ring<E> {
    /// The tail for an exclusive publisher, of a ring that was shut for it.
    pub(in super::super) fn exclusive_tail(next: Position) -> ExclusiveTail {
        ExclusiveTail { start: next, next, limit: next }
    }

    /// Finds room for the exclusive publisher, if its tail has none left.
    #[inline]
    pub(in super::super) fn clear_exclusive(
        &self,
        tail: &mut ExclusiveTail,
    ) -> Result<(), Refusal> {
        if tail.next == tail.limit { self.extend_exclusive(tail) } else { Ok(()) }
    }

    #[cold]
    fn extend_exclusive(&self, tail: &mut ExclusiveTail) -> Result<(), Refusal> {
        let room = if tail.next.since(tail.start) < self.capacity() {
            // What a shared publisher claimed before may not be written yet.
            self.room(tail.next, self.stride)?
        } else {
            match self.known_room(tail.next) {
                0 => self.refresh(tail.next, false)?,
                known => known,
            }
        };
        tail.limit = tail.next.forward(room);
        Ok(())
    }

    /// Writes the event at the tail of the exclusive publisher, after it found room and began; gives back its
    /// sequence, and in `old` the payload that was overwritten.
    #[inline(always)]
    pub(in super::super) fn write_exclusive(
        &self,
        tail: &mut ExclusiveTail,
        topic: u32,
        source: u32,
        payload: E,
        old: &mut Option<E>,
    ) -> u64 {
        let position = tail.next;
        assert!(position != tail.limit, "the exclusive publisher found room before it writes");
        self.prefetch(position);
        // SAFETY: the position is the tail of the exclusive publisher, and before its limit (1 of the ring).
        unsafe { self.write(position, topic, source, payload, old) };
        tail.next = position.forward(1);
        self.end_exclusive(tail);
        position.sequence()
    }

    /// Says that the exclusive publisher is about to write.
    #[inline]
    pub(in super::super) fn begin_exclusive(&self, tail: &ExclusiveTail) {
        self.tail.store(tail.next.flagged() | BUSY, Ordering::Relaxed);
    }

    /// Says that the exclusive publisher does not write, and that its tail is here.
    #[inline]
    pub(in super::super) fn end_exclusive(&self, tail: &ExclusiveTail) {
        // The tail says nothing of the events before it: their headers do.
        self.tail.store(tail.next.flagged(), Ordering::Relaxed);
    }

    /// Claims the next positions for the exclusive publisher, `wanted` at most, after it found room and began.
    #[inline]
    pub(in super::super) fn claim_exclusive<'a>(
        &'a self,
        tail: &'a mut ExclusiveTail,
        wanted: u64,
    ) -> Claim<'a, E> {
        let left = tail.limit.since(tail.next).min(wanted);
        Claim { ring: self, next: tail.next, left, tail: Some(tail) }
    }
}
