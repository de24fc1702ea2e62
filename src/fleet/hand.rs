//! What a worker took out of a mailbox and works through, while anybody may take the rest of it away.
//!
//! A run of payloads lies in slots; the worker begins one after the other with a plain store and a plain load,
//! and whoever cuts the run takes those that are not begun. What is seldom needed lies beside, under the lock
//! that a cut takes. Rules that hold here:
//!
//! 1. A run has one [`Taker`], made with it. Only the taker fills the run, under the lock, and only when it has
//!    nothing of it left: then no slot holds anything.
//! 2. Slots `begun..filled` hold payloads that nobody has taken; the taker owns those below `begun`, and takes
//!    slot `n` out right after it has said that `begun` is more than `n`. While the run is cut, slots from `cut_at` on are empty
//!    and nobody's, whatever `begun` says.
//! 3. The taker says what it begins, fences, and looks for a cut; whoever cuts says so, fences, and looks what was
//!    begun. So if the taker has seen no cut, whoever cuts has seen what it began; otherwise the taker asks under
//!    the lock whether it was in time.
//! 4. The slots are written only as the run is filled. Whoever cuts has the lock, so the run was filled before.

#![expect(unsafe_code, reason = "a message is taken without a locked instruction")]

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{
    Asymmetric, Brief, BriefGuard, UnsafeCell, heavy_fence, left_out, light_fence, unique,
};

#[cfg(all(test, phalanx_loom))]
mod loom_tests;
#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;

/// The most payloads of a run.
pub(super) const RUN: usize = 64;

/// See the file's head. `B` is what lies beside the run.
pub(super) struct Hand<T, B> {
    inside: Brief<Inside<B>>,
    slots: UnsafeCell<Box<[MaybeUninit<T>]>>,
    begun: AtomicUsize,
    cut: AtomicBool,
    way: Asymmetric,
    number: u64,
}

#[derive(Debug)]
struct Inside<B> {
    /// How many slots were filled; a cut takes what is not begun off it.
    filled: usize,
    beside: B,
}

/// The taker's own end of a hand (rule 1).
#[derive(Debug)]
pub(super) struct Taker {
    /// Of which hand; none has the number 0.
    hand: u64,
    next: usize,
    filled: usize,
    /// Whether something may lie beside the run, for whoever knows what that is.
    pub(super) has_more: bool,
}

/// A hand, locked.
pub(super) struct Held<'a, T, B> {
    hand: &'a Hand<T, B>,
    inside: BriefGuard<'a, Inside<B>>,
}

// SAFETY: payloads go from the thread that fills to the one that takes or cuts, which `T: Send` allows. Slots
// are shared by the rules of the file: each payload is taken out by one thread (2), and slots are written while
// nobody reads them (1, 4).
unsafe impl<T: Send, B: Send> Sync for Hand<T, B> {}

impl Taker {
    /// Of no hand.
    pub(super) const fn none() -> Self {
        Self { hand: 0, next: 0, filled: 0, has_more: false }
    }

    /// Whether there may be something left to take.
    pub(super) const fn has_left(&self) -> bool {
        self.next < self.filled || self.has_more
    }
}

impl<T, B> Hand<T, B> {
    pub(super) fn new(beside: B) -> (Self, Taker) {
        let hand = Self {
            inside: Brief::new(Inside { filled: 0, beside }),
            slots: UnsafeCell::new(Box::new([])),
            begun: AtomicUsize::new(0),
            cut: AtomicBool::new(false),
            way: Asymmetric::detect(),
            number: unique(),
        };
        let taker = Taker { hand: hand.number, ..Taker::none() };
        (hand, taker)
    }

    #[inline]
    pub(super) fn lock(&self) -> Held<'_, T, B> {
        Held { hand: self, inside: self.inside.lock() }
    }

    /// The next payload of the run.
    ///
    /// # Panics
    /// If the taker is another hand's.
    #[inline(always)]
    pub(super) fn take(&self, taker: &mut Taker) -> Option<T> {
        assert_eq!(taker.hand, self.number, "each hand has one taker");
        let at = taker.next;
        if at == taker.filled {
            return None;
        }
        taker.next = at + 1;
        // Relaxed, and so the load: the fences order the two (rule 3).
        self.begun.store(at + 1, Ordering::Relaxed);
        light_fence("hand.begin", self.way);
        if self.cut.load(Ordering::Relaxed) && !self.was_in_time(at) {
            taker.next = taker.filled;
            return None;
        }
        Some(self.slots.with(|slots| {
            // SAFETY: rule 4: only the taker has them filled, and it is here.
            let slots = unsafe { &*slots };
            // SAFETY: rule 2: the slot was filled, is the taker's by now, and is not read again.
            unsafe { slots[at].assume_init_read() }
        }))
    }

    /// Whether what was begun after a cut was begun before whoever cut looked.
    #[cold]
    fn was_in_time(&self, at: usize) -> bool {
        at < self.inside.lock().filled && !left_out("hand.ask-who-cut")
    }
}

impl<T, B> Held<'_, T, B> {
    /// Puts payloads into the hand, [`RUN`] at most.
    ///
    /// # Panics
    /// If the taker is another hand's, or has something left.
    #[inline]
    pub(super) fn fill(&mut self, taker: &mut Taker, payloads: impl ExactSizeIterator<Item = T>) {
        assert!(taker.hand == self.hand.number && taker.next == taker.filled, "rule 1");
        // Relaxed: under the lock, as is the cutting.
        self.hand.begun.store(0, Ordering::Relaxed);
        self.hand.cut.store(false, Ordering::Relaxed);
        (taker.next, taker.filled, self.inside.filled) = (0, 0, 0);
        if payloads.len() == 0 {
            return;
        }
        let filled = self.hand.slots.with_mut(|slots| {
            // SAFETY: rules 1 and 4: nobody reads a slot now.
            let slots = unsafe { &mut *slots };
            if slots.is_empty() {
                *slots = Box::new_uninit_slice(RUN);
            }
            let mut filled = 0;
            for (slot, payload) in slots.iter_mut().zip(payloads) {
                slot.write(payload);
                filled += 1;
            }
            filled
        });
        (taker.filled, self.inside.filled) = (filled, filled);
    }

    /// How many payloads are not begun, for all that is known here.
    pub(super) fn left(&self) -> usize {
        self.inside.filled.saturating_sub(self.hand.begun.load(Ordering::Relaxed))
    }

    /// Takes away what is not begun.
    pub(super) fn cut(&mut self, into: &mut VecDeque<T>) {
        if self.inside.filled > self.hand.begun.load(Ordering::Relaxed) {
            // Relaxed, and so the load: the fences order the two (rule 3).
            self.hand.cut.store(true, Ordering::Relaxed);
            heavy_fence("hand.cut", self.hand.way);
            self.take_from(self.hand.begun.load(Ordering::Relaxed), into);
        }
    }

    /// Takes back what the taker has not begun.
    ///
    /// # Panics
    /// If the taker is another hand's.
    pub(super) fn take_back(&mut self, taker: &mut Taker, into: &mut VecDeque<T>) {
        assert_eq!(taker.hand, self.hand.number, "each hand has one taker");
        self.take_from(taker.next, into);
        (taker.next, taker.has_more) = (taker.filled, false);
    }

    fn take_from(&mut self, first: usize, into: &mut VecDeque<T>) {
        let first = first.min(self.inside.filled);
        let rest = first..self.inside.filled;
        self.inside.filled = first;
        self.hand.slots.with(|slots| {
            // SAFETY: rule 4: it is written under the lock, which is held.
            let slots = unsafe { &*slots };
            // SAFETY: rule 2: they hold payloads that nobody has taken, and `filled` says now that they do not.
            into.extend(slots[rest].iter().map(|slot| unsafe { slot.assume_init_read() }));
        });
    }
}

impl<T, B> Deref for Held<'_, T, B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.inside.beside
    }
}

impl<T, B> DerefMut for Held<'_, T, B> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.inside.beside
    }
}

impl<T, B> Drop for Hand<T, B> {
    fn drop(&mut self) {
        let mut left = VecDeque::new();
        let begun = self.begun.load(Ordering::Relaxed);
        self.lock().take_from(begun, &mut left);
    }
}
