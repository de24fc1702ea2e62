//! The memory of the payloads: slots in a row, the first at the start of a cache line.
//!
//! So a payload of 64 bytes lies in one line, not across two, and neighbours do not share one. The slots do
//! not know whether they hold a payload: their owner does, and drops what is in them.
#![expect(unsafe_code, reason = "an aligned allocation of slots that are written in place")]

use std::alloc::{Layout, alloc, dealloc};
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::ptr::NonNull;
use std::slice;

use crate::sync::UnsafeCell;
use crate::{Error, ErrorKind};

/// What a cache line is on the machines that matter.
const LINE_BYTES: usize = 64;

/// A place for one payload.
pub(super) type Slot<E> = UnsafeCell<MaybeUninit<E>>;

/// A boxed slice of slots, aligned to a cache line.
///
/// 1. `first` points to `count` initialised slots in one allocation of `layout`, which this owns.
pub(super) struct Slots<E> {
    first: NonNull<Slot<E>>,
    count: usize,
    layout: Layout,
}

impl<E> Slots<E> {
    /// Slots without payloads; `count` is not zero.
    pub(super) fn new(count: usize) -> Result<Self, Error> {
        let no_memory = || {
            let message = format!("no memory for a ring of {count} events");
            Error::new(ErrorKind::LimitReached, message)
        };
        let layout = Layout::array::<Slot<E>>(count)
            .and_then(|layout| layout.align_to(LINE_BYTES))
            .map_err(|_| no_memory())?;
        let first = if layout.size() == 0 {
            NonNull::dangling()
        } else {
            // SAFETY: the size of the layout is not zero.
            let memory = unsafe { alloc(layout) };
            NonNull::new(memory.cast::<Slot<E>>()).ok_or_else(no_memory)?
        };
        for index in 0..count {
            // SAFETY: the allocation holds `count` slots (or the slots have no size), and this is one of them.
            let slot = unsafe { first.add(index) };
            // SAFETY: the slot lies in the allocation, aligned, and nobody else has it yet.
            unsafe { slot.write(UnsafeCell::new(MaybeUninit::uninit())) };
        }
        Ok(Self { first, count, layout })
    }
}

impl<E> Deref for Slots<E> {
    type Target = [Slot<E>];

    #[inline]
    fn deref(&self) -> &[Slot<E>] {
        // SAFETY: by rule 1 these are so many initialised slots, which live as long as `self`.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl<E> Drop for Slots<E> {
    fn drop(&mut self) {
        for index in 0..self.count {
            // SAFETY: as in `new`.
            let slot = unsafe { self.first.add(index) };
            // SAFETY: each slot is initialised (rule 1) and dropped once; a payload in it is not dropped.
            unsafe { slot.drop_in_place() };
        }
        if self.layout.size() != 0 {
            // SAFETY: the allocation was made with this layout (rule 1).
            unsafe { dealloc(self.first.as_ptr().cast(), self.layout) };
        }
    }
}

// SAFETY: the slots are owned as by a `Box<[Slot<E>]>`, which is as free to be sent.
unsafe impl<E: Send> Send for Slots<E> {}
// SAFETY: as for `Box<[Slot<E>]>` whose cells are handed out as references: who may use a cell when is for the
// ring to say, which is what its own `Sync` rests on; without it, sharing is as little allowed as for a cell.
unsafe impl<E: Send + Sync> Sync for Slots<E> {}

impl<E> fmt::Debug for Slots<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("count", &self.count).finish_non_exhaustive()
    }
}
