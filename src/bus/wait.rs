//! Who is parked, and how they are woken.
//!
//! A [`WaitSet`] holds the wakers of parked threads and pending futures alike, each with the interests that it
//! has, as bits. The path of an event only ever loads one word; the lock is taken by those who park and by
//! whoever finds somebody parked.
//!
//! 1. Whoever parks: enters, makes a heavy fence, looks again, and only then sleeps. Whoever changes what is
//!    waited for: makes the change, a light fence, and loads the word. One of the two sees the other, so no
//!    wake-up is lost.
//! 2. A waker is the code of somebody else: it is cloned, called and dropped outside the lock, and a panic
//!    in one does not keep the others from being woken: it is handed to whoever woke, to be passed on
//!    when nothing is left to do.
//! 3. An entry leaves the set by its owner or by the one who wakes it; the owner learns which it was.
//! 4. Whatever hears of the interests in the set hears of all of them, and perhaps of some that are gone.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Waker;

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, thread};

/// How many wakers are taken out in one go.
const WAKE_BATCH: usize = 8;

/// What a waker panicked with.
pub(super) type Panic = Box<dyn Any + Send>;

/// Every interest.
pub(super) const EVERYTHING: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct WaitSet {
    count: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    next_key: u64,
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    key: u64,
    interests: u64,
    waker: Waker,
}

/// Names an entry for its owner.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

impl Queue {
    fn interests(&self) -> u64 {
        self.entries.iter().fold(0, |all, entry| all | entry.interests)
    }
}

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
    /// `tell` hears of the interests that are new, under the lock. The caller fences and looks again before it
    /// sleeps (rule 1).
    pub(super) fn enter(
        &self,
        waker: Waker,
        interests: u64,
        in_front: bool,
        tell: impl FnOnce(u64),
    ) -> Ticket {
        let mut queue = self.queue.lock();
        let key = queue.next_key;
        queue.next_key = key.wrapping_add(1);
        let entry = Entry { key, interests, waker };
        if in_front {
            queue.entries.push_front(entry);
        } else {
            queue.entries.push_back(entry);
        }
        self.count.store(queue.entries.len(), Ordering::Relaxed);
        tell(interests);
        Ticket(key)
    }

    /// Has another waker in the place of an entry's; `false` if the entry was woken before.
    pub(super) fn renew(&self, ticket: &Ticket, waker: Waker) -> bool {
        let mut queue = self.queue.lock();
        let found = queue.entries.iter_mut().find(|entry| entry.key == ticket.0);
        let renewed = found.is_some();
        let old = match found {
            Some(entry) => std::mem::replace(&mut entry.waker, waker),
            None => waker,
        };
        drop(queue);
        drop(old);
        renewed
    }

    /// Leaves the set; `false` if the entry was woken before. If nobody is left, `tell` hears so.
    pub(super) fn leave(&self, ticket: &Ticket, tell: impl FnOnce()) -> bool {
        let mut queue = self.queue.lock();
        let found = queue.entries.iter().position(|entry| entry.key == ticket.0);
        let entry = found.and_then(|index| queue.entries.remove(index));
        self.count.store(queue.entries.len(), Ordering::Relaxed);
        if queue.entries.is_empty() {
            tell();
        }
        drop(queue);
        entry.is_some()
    }

    /// Wakes the first in the set; the next one too if its waker panics, as then nobody may come for what it
    /// was woken for. The first panic comes back (rule 2).
    #[cold]
    pub(super) fn wake_one(&self) -> Result<(), Panic> {
        let mut first = None;
        loop {
            let entry = {
                let mut queue = self.queue.lock();
                let entry = queue.entries.pop_front();
                self.count.store(queue.entries.len(), Ordering::Relaxed);
                entry
            };
            match entry.map(|entry| catch_unwind(AssertUnwindSafe(|| entry.waker.wake()))) {
                None | Some(Ok(())) => return first.map_or(Ok(()), Err),
                Some(Err(panic)) => keep_first(&mut first, panic),
            }
        }
    }

    /// Wakes everybody who is in the set at this moment and has one of these interests; the first panic of
    /// a waker comes back (rule 2). `tell` hears of the interests that are left, under the lock.
    #[cold]
    pub(super) fn wake(&self, interests: u64, mut tell: impl FnMut(u64)) -> Result<(), Panic> {
        // Those who enter while this runs saw the change already.
        let before = self.queue.lock().next_key;
        let mut panic = None;
        loop {
            let mut batch = [const { None }; WAKE_BATCH];
            {
                let mut queue = self.queue.lock();
                let mut found = 0;
                let mut index = 0;
                while index < queue.entries.len() && found < WAKE_BATCH {
                    let entry = &queue.entries[index];
                    let older = before.wrapping_sub(entry.key).cast_signed() > 0;
                    if older && entry.interests & interests != 0 {
                        batch[found] = queue.entries.remove(index);
                        found += 1;
                    } else {
                        index += 1;
                    }
                }
                self.count.store(queue.entries.len(), Ordering::Relaxed);
                tell(queue.interests());
            }
            let full = batch[WAKE_BATCH - 1].is_some();
            for entry in batch.into_iter().flatten() {
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| entry.waker.wake())) {
                    keep_first(&mut panic, payload);
                }
            }
            if !full {
                return panic.map_or(Ok(()), Err);
            }
        }
    }
}

fn keep_first(first: &mut Option<Panic>, panic: Panic) {
    match first {
        None => *first = Some(panic),
        Some(_) => discard(panic),
    }
}

/// The first panic of two outcomes.
pub(super) fn first_of(one: Result<(), Panic>, other: Result<(), Panic>) -> Result<(), Panic> {
    match (one, other) {
        (Err(first), Err(second)) => {
            discard(second);
            Err(first)
        }
        (one, other) => one.and(other),
    }
}

/// Passes a panic on, unless one is on its way already: two at once would end the process.
pub(super) fn pass_on(outcome: Result<(), Panic>) {
    match outcome {
        Err(panic) if !thread::panicking() => resume_unwind(panic),
        outcome => discard(outcome),
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
        let enter = |index: usize, in_front| {
            set.enter(Arc::clone(&wakers[index]).into(), EVERYTHING, in_front, |_| {})
        };
        enter(1, false);
        let last = enter(2, false);
        enter(0, true);
        for next in &wakers[..2] {
            assert!(set.wake_one().is_ok());
            assert_eq!(next.woken.load(Ordering::Relaxed), 1);
        }
        assert!(set.leave(&last, || {}));
        assert!(!set.leave(&last, || {}));
        assert!(set.is_empty());
        assert!(set.wake(EVERYTHING, |_| {}).is_ok());
        assert_eq!(wakers[2].woken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_waker_that_panics_does_not_keep_the_others_asleep() {
        let set = WaitSet::new();
        let wakers: Vec<_> = (0..20)
            .map(|i| Arc::new(Counted { panics: i % 3 == 0, ..Counted::default() }))
            .collect();
        for waker in &wakers {
            set.enter(Arc::clone(waker).into(), EVERYTHING, false, |_| {});
        }
        assert!(set.wake(EVERYTHING, |_| {}).is_err(), "the panic is passed on");
        assert!(wakers.iter().all(|waker| waker.woken.load(Ordering::Relaxed) == 1));
        assert!(set.is_empty());
    }

    #[test]
    fn room_goes_to_the_next_one_if_the_first_ones_waker_panics() {
        let set = WaitSet::new();
        let wakers: Vec<_> =
            (0..3).map(|i| Arc::new(Counted { panics: i < 2, ..Counted::default() })).collect();
        for waker in &wakers {
            set.enter(Arc::clone(waker).into(), EVERYTHING, false, |_| {});
        }
        assert!(set.wake_one().is_err(), "the panic is passed on");
        assert!(wakers.iter().all(|waker| waker.woken.load(Ordering::Relaxed) == 1));
        assert!(set.wake_one().is_ok(), "nobody is left");
    }

    #[test]
    fn only_those_are_woken_who_want_to_know() {
        let set = WaitSet::new();
        let wakers: Vec<_> = (0..20).map(|_| Arc::new(Counted::default())).collect();
        let mut told = 0;
        for (index, waker) in wakers.iter().enumerate() {
            set.enter(Arc::clone(waker).into(), 1 << (index % 2), false, |new| told |= new);
        }
        assert_eq!(told, 3);
        assert!(set.wake(2, |left| told = left).is_ok());
        assert_eq!(told, 1);
        for (index, waker) in wakers.iter().enumerate() {
            assert_eq!(waker.woken.load(Ordering::Relaxed), index % 2);
        }
    }
}
