//! What it takes to look at a ring again and again: an acquiring load has everything else be loaded anew that
//! is not at hand.
//!
//! 1. `headers` and `slots` are those of one ring, `mask + 1` of each.
#![expect(unsafe_code, reason = "the ring is read without checks of bounds")]

use super::{Header, Lap, Position, Ring, Slot};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{prefetch_read, site};

pub(in super::super) struct View<'a, E> {
    headers: &'a [AtomicU64],
    slots: &'a [Slot<E>],
    mask: u64,
    shift: u32,
}

impl<E> Ring<E> {
    #[inline(always)]
    pub(in super::super) fn view(&self) -> View<'_, E> {
        View { headers: &self.headers, slots: &self.slots, mask: self.mask, shift: self.shift }
    }
}

impl<E> View<'_, E> {
    #[inline(always)]
    fn index(&self, position: Position) -> usize {
        (position.sequence() & self.mask) as usize
    }

    /// The header of the event at this position, if it is published and not overwritten.
    ///
    /// It is the right one for as long as the caller's gate is on it (invariant 4 of the ring).
    #[inline(always)]
    pub(in super::super) fn header_at(&self, position: Position) -> Option<Header> {
        let index = self.index(position);
        debug_assert!(index < self.headers.len());
        // SAFETY: the index is at most `mask` (1).
        let header = unsafe { self.headers.get_unchecked(index) };
        // Ordering: Acquire, pairs with the Release of `write`: topic and payload are there.
        let header = Header::of_word(header.load(site("bus.stamp.read", Ordering::Acquire)));
        header.is_of(Lap::of(position, self.shift)).then_some(header)
    }

    #[inline(always)]
    fn slot(&self, position: Position) -> &Slot<E> {
        let index = self.index(position);
        debug_assert!(index < self.slots.len());
        // SAFETY: the index is at most `mask` (1).
        unsafe { self.slots.get_unchecked(index) }
    }

    /// Calls the payload at this position into this core's cache.
    #[inline(always)]
    pub(in super::super) fn prefetch_payload(&self, position: Position) {
        prefetch_read(self.slot(position));
    }

    /// Runs `read` on the payload at this position.
    ///
    /// # Safety
    ///
    /// The caller has seen a header with a payload at that position, and its gate covers the position from
    /// before that until this returns or unwinds, as invariant 4 of the ring says.
    #[inline(always)]
    pub(in super::super) unsafe fn read<R>(
        &self,
        position: Position,
        read: impl FnOnce(&E) -> R,
    ) -> R {
        self.slot(position).with(|slot| {
            // SAFETY: nobody writes the slot while the caller's gate covers it (3, 4 of the ring).
            let payload = unsafe { &*slot };
            // SAFETY: the header says that it was written (2 of the ring).
            read(unsafe { payload.assume_init_ref() })
        })
    }
}
