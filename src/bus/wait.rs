//! Who is parked, and how they are woken.
//!
//! A [`WaitSet`] holds the wakers of parked threads and pending futures alike. The path of an event only
//! ever loads its count; the lock is taken by those who park and by whoever finds somebody parked.
//!
//! 1. Whoever parks: enters, fences, looks again, and only then sleeps. Whoever changes what is waited
//!    for: makes the change, fences, loads the count. One of the two sees the other (both fences are
//!    sequentially consistent), so no wake-up is lost.
//! 2. A waker is the code of somebody else: it is cloned, called and dropped outside the lock, and a panic
//!    in one does not keep the others from being woken: it is handed to whoever woke, to be passed on
//!    when nothing is left to do.
//! 3. An entry leaves the set by its owner or by the one who wakes it; the owner learns which it was.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// How many wakers are taken out in one go.
const WAKE_BATCH: usize = 8;

/// What a waker panicked with.
pub(super) type Panic = Box<dyn Any + Send>;

#[derive(Debug)]
pub(super) struct WaitSet {
    count: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    next_key: u64,
    entries: VecDeque<(u64, Waker)>,
}

/// Names an entry for its owner.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

impl WaitSet {
    pub(super) fn new() -> Self {
        Self { count: AtomicUsize::new(0), queue: Mutex::new(Queue::default()) }
    }

    /// Whether nobody waits. The caller fences before it asks (rule 1).
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Enters the set, behind the others or, for one that was woken in vain, before them.
    ///
    /// The caller fences and looks again before it sleeps (rule 1).
    pub(super) fn enter(&self, waker: Waker, in_front: bool) -> Ticket {
        let mut queue = self.queue.lock();
        let key = queue.next_key;
        queue.next_key = key.wrapping_add(1);
        if in_front {
            queue.entries.push_front((key, waker));
        } else {
            queue.entries.push_back((key, waker));
        }
        self.count.store(queue.entries.len(), Ordering::Relaxed);
        Ticket(key)
    }

    /// Leaves the set; `false` if the entry was woken before.
    pub(super) fn leave(&self, ticket: &Ticket) -> bool {
        let mut queue = self.queue.lock();
        let found = queue.entries.iter().position(|(key, _)| *key == ticket.0);
        let waker = found.and_then(|index| queue.entries.remove(index));
        self.count.store(queue.entries.len(), Ordering::Relaxed);
        drop(queue);
        waker.is_some()
    }

    /// Wakes the first in the set.
    #[cold]
    pub(super) fn wake_one(&self) {
        let waker = {
            let mut queue = self.queue.lock();
            let waker = queue.entries.pop_front();
            self.count.store(queue.entries.len(), Ordering::Relaxed);
            waker
        };
        if let Some((_, waker)) = waker {
            waker.wake();
        }
    }

    /// Wakes everybody who is in the set at this moment; the first panic of a waker comes back (rule 2).
    #[cold]
    pub(super) fn wake_all(&self) -> Result<(), Panic> {
        let mut left = usize::MAX;
        let mut panic = None;
        while left > 0 {
            let mut batch = [const { None }; WAKE_BATCH];
            {
                let mut queue = self.queue.lock();
                // Those who enter while this runs saw the change already.
                left = left.min(queue.entries.len());
                for place in batch.iter_mut().take(left) {
                    *place = queue.entries.pop_front();
                    left -= 1;
                }
                self.count.store(queue.entries.len(), Ordering::Relaxed);
            }
            for (_, waker) in batch.into_iter().flatten() {
                match (catch_unwind(AssertUnwindSafe(|| waker.wake())), &panic) {
                    (Ok(()), _) => {}
                    (Err(payload), None) => panic = Some(payload),
                    (Err(payload), Some(_)) => discard(payload),
                }
            }
        }
        panic.map_or(Ok(()), Err)
    }
}

/// Drops a value of somebody else's, whose drop may panic.
pub(super) fn discard<V>(value: V) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // What was thrown may throw again when it is dropped.
        std::mem::forget(payload);
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::task::Wake;

    #[derive(Default)]
    struct Counted {
        woken: AtomicUsize,
        panics: bool,
    }

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.woken.fetch_add(1, Ordering::Relaxed);
            assert!(!self.panics, "a hostile waker");
        }
    }

    #[test]
    fn wakers_are_woken_in_the_order_of_their_entry() {
        let set = WaitSet::new();
        let wakers: Vec<_> = (0..3).map(|_| Arc::new(Counted::default())).collect();
        set.enter(Arc::clone(&wakers[1]).into(), false);
        let last = set.enter(Arc::clone(&wakers[2]).into(), false);
        set.enter(Arc::clone(&wakers[0]).into(), true);
        for next in &wakers[..2] {
            set.wake_one();
            assert_eq!(next.woken.load(Ordering::Relaxed), 1);
        }
        assert!(set.leave(&last));
        assert!(!set.leave(&last));
        assert!(set.is_empty());
        assert!(set.wake_all().is_ok());
        assert_eq!(wakers[2].woken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_waker_that_panics_does_not_keep_the_others_asleep() {
        let set = WaitSet::new();
        let wakers: Vec<_> = (0..20)
            .map(|i| Arc::new(Counted { panics: i % 3 == 0, ..Counted::default() }))
            .collect();
        for waker in &wakers {
            set.enter(Arc::clone(waker).into(), false);
        }
        assert!(set.wake_all().is_err(), "the panic is passed on");
        assert!(wakers.iter().all(|waker| waker.woken.load(Ordering::Relaxed) == 1));
        assert!(set.is_empty());
    }
}
