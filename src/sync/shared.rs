//! A counted reference, as `Arc` is one, for what two have from the beginning and both let go of.
//!
//! `Arc` takes a locked instruction for each reference that is made after the first, one for each that is dropped, and
//! one more for the weak references that it may have. Here two can be made at once, whoever has the only one makes
//! another without, there are no weak references, and the last to let go only looks. Rules that hold here:
//!
//! 1. `count` is the number of references. A block is freed by the one that lets go of the last of them.
//! 2. Only who has a reference makes another. So who has one for itself, borrowed by nobody, and reads a count of one
//!    has the block for itself; and so has who has two of them and reads a count of two.
//! 3. What others did with the value before they let go is seen by the one that frees it.

#![expect(unsafe_code, reason = "who lets go of the last reference frees what all point to")]

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::process::abort;
use std::ptr::NonNull;

use super::atomic::{AtomicUsize, Ordering};
use super::site;

/// More references than memory has room for: some were leaked.
const TOO_MANY: usize = usize::MAX / 2;

/// The value is as far in as in an `Arc`, so a task and its outcome are of one size more often: an allocator gives the next of
/// one what the last of the other has left.
#[repr(align(16))]
struct Block<T> {
    count: AtomicUsize,
    value: T,
}

/// See the file's head.
pub(crate) struct Shared<T> {
    block: NonNull<Block<T>>,
    /// It drops a value.
    owns: PhantomData<Block<T>>,
}

// SAFETY: as for `Arc`: references on several threads read one value, and any of them may drop it.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above; from a reference to one another can be made.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The only reference to a value.
    #[inline]
    pub(crate) fn new(value: T) -> Self {
        Self::counted(1, value)
    }

    /// Two references to a value.
    #[inline]
    pub(crate) fn pair(value: T) -> (Self, Self) {
        let one = Self::counted(2, value);
        let other = one.uncounted();
        (one, other)
    }

    #[inline(always)]
    fn counted(count: usize, value: T) -> Self {
        let block = Box::new(Block { count: AtomicUsize::new(count), value });
        Self { block: NonNull::from(Box::leak(block)), owns: PhantomData }
    }

    /// A reference that was counted, or is about to be.
    #[inline(always)]
    const fn uncounted(&self) -> Self {
        Self { block: self.block, owns: PhantomData }
    }

    /// Another reference; without a locked instruction if this is the only one.
    #[inline]
    pub(crate) fn split(&mut self) -> Self {
        let count = &self.block().count;
        // Ordering: Acquire, pairs with the Release of those that have let go: what follows this store is ordered after
        // it alone (rule 3).
        if count.load(site("shared.is-alone", Ordering::Acquire)) != 1 {
            return self.clone();
        }
        // Relaxed: nobody else knows of the block (rule 2).
        count.store(2, Ordering::Relaxed);
        self.uncounted()
    }

    /// Lets go of two references; without a locked instruction if they are the last.
    #[inline]
    pub(crate) fn let_go_of(one: Self, other: Self) {
        // Ordering: Acquire, pairs with the Release of those that have let go (rule 3).
        let count = one.block().count.load(site("shared.are-last", Ordering::Acquire));
        if count == 2 && Self::is_same(&one, &other) {
            std::mem::forget(other);
            // SAFETY: it came from a box, and these were the last references (rules 1 and 2).
            drop(unsafe { Box::from_raw(ManuallyDrop::new(one).block.as_ptr()) });
        }
    }

    /// Whether both are to the same value.
    #[inline]
    pub(crate) fn is_same(one: &Self, other: &Self) -> bool {
        one.block == other.block
    }

    /// Where the value is.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *const T {
        &raw const **self
    }

    #[inline]
    fn block(&self) -> &Block<T> {
        // SAFETY: this is a reference, so the block has not been freed (rule 1), and nobody changes it but its count.
        unsafe { self.block.as_ref() }
    }
}

impl<T> Clone for Shared<T> {
    #[inline]
    fn clone(&self) -> Self {
        // Relaxed: this reference keeps the block meanwhile.
        if self.block().count.fetch_add(1, Ordering::Relaxed) > TOO_MANY {
            abort();
        }
        self.uncounted()
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.block().value
    }
}

impl<T> Drop for Shared<T> {
    #[inline]
    fn drop(&mut self) {
        let count = &self.block().count;
        // Ordering: Acquire, pairs with the Release below of those that have let go (rule 3).
        if count.load(site("shared.is-last", Ordering::Acquire)) != 1 {
            // Ordering: Release, pairs with the Acquire of the one that frees it, above or below (rule 3).
            if count.fetch_sub(1, site("shared.let-go", Ordering::Release)) != 1 {
                return;
            }
            // Ordering: Acquire, as above.
            count.load(site("shared.was-last", Ordering::Acquire));
        }
        // SAFETY: it came from a box, and this was the last reference (rules 1 and 2).
        drop(unsafe { Box::from_raw(self.block.as_ptr()) });
    }
}

#[cfg(all(test, phalanx_loom))]
mod loom_tests {
    use super::*;
    use crate::sync::{UnsafeCell, thread, weakened};

    /// A value that loom watches: read while there are references, and written as it is dropped.
    struct Watched(UnsafeCell<u32>);

    // SAFETY: it is written in its drop alone.
    unsafe impl Sync for Watched {}

    impl Drop for Watched {
        fn drop(&mut self) {
            self.0.with_mut(|_| ());
        }
    }

    /// One that had a reference lets go of it; the other, once it is alone, makes another and lets go of both.
    fn split_and_let_go() {
        let (one, mut other) = Shared::pair(Watched(UnsafeCell::new(0)));
        let thread = thread::spawn(move || {
            let second = other.split();
            second.0.with(|_| ());
            Shared::let_go_of(other, second);
        });
        one.0.with(|_| ());
        drop(one);
        thread.join().expect("reading does not panic");
    }

    #[test]
    fn loom_who_is_alone_makes_another_reference_and_lets_go_of_both() {
        loom::model(split_and_let_go);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn loom_twin_a_reference_split_without_acquire_frees_what_is_read() {
        weakened("shared.is-alone", || loom::model(split_and_let_go));
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn loom_twin_two_last_references_that_look_without_acquire_free_what_is_read() {
        weakened("shared.are-last", || loom::model(split_and_let_go));
    }

    /// Three references, one of them made on the way, are let go of by two threads.
    fn let_go() {
        let (one, other) = Shared::pair(Watched(UnsafeCell::new(0)));
        let thread = thread::spawn(move || {
            let third = other.clone();
            drop(other);
            third.0.with(|_| ());
        });
        one.0.with(|_| ());
        drop(one);
        thread.join().expect("reading does not panic");
    }

    #[test]
    fn loom_the_last_reference_frees_what_the_others_have_done_with() {
        loom::model(let_go);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn loom_twin_a_last_reference_that_only_looks_without_acquire_frees_what_is_read() {
        weakened("shared.is-last", || loom::model(let_go));
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn loom_twin_a_reference_let_go_of_without_release_is_freed_as_it_is_read() {
        weakened("shared.let-go", || loom::model(let_go));
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn loom_twin_a_reference_that_turned_out_the_last_without_acquire_frees_what_is_read() {
        weakened("shared.was-last", || loom::model(let_go));
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sync::thread;

    #[test]
    fn the_value_is_dropped_once_and_by_the_last_reference() {
        let value = Arc::new(());
        let (one, other) = Shared::pair(Arc::clone(&value));
        let third = one.clone();
        assert_eq!(one.as_ptr(), third.as_ptr());
        for reference in [one, other] {
            drop(reference);
            assert_eq!(Arc::strong_count(&value), 2);
        }
        drop(third);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn who_has_the_only_reference_or_the_last_two_or_two_of_more_counts_right() {
        let value = Arc::new(());
        for others in [0, 1] {
            let mut one = Shared::new(Arc::clone(&value));
            let kept: Vec<_> = (0..others).map(|_| one.clone()).collect();
            let second = one.split();
            assert!(Shared::is_same(&one, &second));
            Shared::let_go_of(one, second);
            assert_eq!(Arc::strong_count(&value), 1 + kept.len());
            drop(kept);
            assert_eq!(Arc::strong_count(&value), 1);
        }
        // Two of different values.
        let [(one, other), (third, fourth)] = [(); 2].map(|()| Shared::pair(Arc::clone(&value)));
        Shared::let_go_of(one, third);
        assert_eq!(Arc::strong_count(&value), 3);
        drop((other, fourth));
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn references_on_several_threads_free_the_value_once() {
        for _ in 0..200 {
            let value = Arc::new(());
            let (one, other) = Shared::pair(Arc::clone(&value));
            let thread = thread::spawn(move || drop((other.clone(), other)));
            drop((one.clone(), one));
            thread.join().expect("dropping does not panic");
            assert_eq!(Arc::strong_count(&value), 1);
        }
    }
}
