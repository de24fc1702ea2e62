//! The turn of committers: who has it checks, applies and publishes, one at a time.
//!
//! Readers and snapshots never take it. Rules that hold here:
//!
//! 1. One thread has the turn, and `holder` is its number from before anything of the host runs until
//!    after.
//! 2. Whoever waits gets the turn: the lock is handed to who has waited longest at the latest when it has
//!    changed hands for a millisecond without that (the lock's own eventual fairness). Handing it over at
//!    every commit would cost each a wake-up.
//! 3. A thread that has the turn and asks for it again is told so. It would wait for itself.

use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard, left_out, me};
use crate::{Error, ErrorKind};

pub(super) struct Turn {
    lock: Mutex<()>,
    /// Rule 1; zero where nobody has it.
    holder: AtomicUsize,
    waiting: AtomicU64,
}

/// The turn, until it is dropped, by a panic as well.
#[must_use = "the turn ends when this is dropped"]
pub(super) struct TurnGuard<'a> {
    turn: &'a Turn,
    // After `drop` has taken the number away.
    _lock: Option<MutexGuard<'a, ()>>,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self { lock: Mutex::new(()), holder: AtomicUsize::new(0), waiting: AtomicU64::new(0) }
    }

    /// Blocks until it is this thread's turn.
    pub(super) fn take(&self) -> Result<TurnGuard<'_>, Error> {
        if self.is_mine() {
            return Err(Error::new(
                ErrorKind::Reentrant,
                "the state was changed from within a commit of the same thread, as by the `Hash`, \
                 `Eq`, `Clone` or `Drop` of a key; do that outside of them",
            ));
        }
        let lock = (!left_out("state.turn.take")).then(|| self.lock());
        self.holder.store(me(), Ordering::Relaxed);
        Ok(TurnGuard { turn: self, _lock: lock })
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        if let Some(lock) = self.lock.try_lock() {
            return lock;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let lock = self.lock.lock();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        lock
    }

    /// Whether this thread has it.
    pub(super) fn is_mine(&self) -> bool {
        // Relaxed: a thread finds its own number only where itself has put it and not taken it away.
        self.holder.load(Ordering::Relaxed) == me()
    }

    /// How many threads wait for it at this moment.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        self.turn.holder.store(0, Ordering::Relaxed);
    }
}
