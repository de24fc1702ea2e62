//! Panics of the host, kept away from who is not concerned.
//!
//! 1. What runs in [`contained`] lets nothing unwind, not even what was thrown as it is dropped.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

/// Runs `f`; none if it panicked.
pub(super) fn contained<R>(f: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(f)).map_err(discard).ok()
}

/// Wakes all of them and returns how many panicked.
pub(super) fn wake(waiters: impl IntoIterator<Item = Waker>) -> u64 {
    let woken = waiters.into_iter().map(|waker| contained(|| waker.wake()));
    woken.filter(Option::is_none).count() as u64
}

/// Drops what was thrown, which may panic again.
fn discard(thrown: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(thrown))) {
        std::mem::forget(again);
    }
}
