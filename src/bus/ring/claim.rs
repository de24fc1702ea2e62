//! Positions that were claimed and are written one by one.
//!
//! 1. Every position of a claim gets a header, whatever becomes of what makes the payloads: what is not written
//!    is buried.
#![expect(unsafe_code, reason = "claimed slots are written in place")]

use super::exclusive::ExclusiveTail;
use super::{Header, NO_PAYLOAD, Position, Ring, discard};
use crate::sync::atomic::Ordering;
use crate::sync::site;

/// The right to write some positions in a row, which nobody else has (invariant 1 of the ring).
///
/// What is left unwritten when it is dropped becomes tombstones.
#[must_use]
pub(in super::super) struct Claim<'a, E> {
    pub(super) ring: &'a Ring<E>,
    pub(super) next: Position,
    pub(super) left: u64,
    /// Of the exclusive publisher, whose tail stands still until it has written.
    pub(super) tail: Option<&'a mut ExclusiveTail>,
}

impl<E> Claim<'_, E> {
    /// How many positions are left to write.
    #[inline]
    pub(in super::super) const fn left(&self) -> u64 {
        self.left
    }

    /// The sequence of the next position to write.
    #[inline]
    pub(in super::super) const fn next_sequence(&self) -> u64 {
        self.next.sequence()
    }

    /// Writes the next position; gives back its sequence, and in `old` the payload that was overwritten.
    ///
    /// If `make` panics, the position becomes a tombstone.
    ///
    /// # Panics
    ///
    /// If nothing is left to write.
    #[inline]
    pub(in super::super) fn fill(
        &mut self,
        topic: u32,
        source: u32,
        make: impl FnOnce() -> E,
        old: &mut Option<E>,
    ) -> u64 {
        let position = self.next;
        self.ring.prefetch(position);
        // Until the header is written, dropping the claim buries this position too.
        assert!(self.left > 0, "a claim is filled no further than it goes");
        let payload = make();
        // SAFETY: the position is the next one of the claim (1 of the ring).
        unsafe { self.ring.write(position, topic, source, payload, old) };
        self.next = position.forward(1);
        self.left -= 1;
        position.sequence()
    }

    #[cold]
    fn bury(&mut self) {
        while self.left > 0 {
            let (position, index) = (self.next, self.ring.index(self.next));
            let mut old = None;
            // SAFETY: the position is the next one of the claim (1 of the ring); its header is written next.
            unsafe { self.ring.take_old(index, &mut old) };
            let header = Header::new(self.ring.lap(position), NO_PAYLOAD, 0);
            // Ordering: Release, pairs with the fence of `refresh`: the payload of one lap ago was moved
            // out before.
            self.ring.header(index).store(header.word(), site("bus.stamp.bury", Ordering::Release));
            self.next = position.forward(1);
            self.left -= 1;
            // A claim is buried while another panic unwinds; two at once would end the process.
            discard(old);
        }
    }
}

impl<E> Drop for Claim<'_, E> {
    #[inline]
    fn drop(&mut self) {
        if self.left > 0 {
            self.bury();
        }
        if let Some(tail) = &mut self.tail {
            tail.next = self.next;
            self.ring.end_exclusive(tail);
        }
    }
}
