//! A lock that is nearly free for the one thread that takes it most: a biased lock.
//!
//! An uncontended compare-exchange costs some twenty cycles and lets nothing behind it begin, which is more than a
//! short section does. So a thread that takes the lock many times over with nobody in between becomes its owner:
//! from then on it enters with plain stores, and another thread that wants the lock first takes that favour away,
//! with a barrier that the kernel makes (see [`super::asymmetric`]). It is for sections as short as those of
//! [`Brief`](super::Brief), by the rules of that file. Rules that hold here:
//!
//! 1. Whoever takes `word` from free to taken and finds nobody favoured holds the lock; so does the owner while it is
//!    favoured and `inside`. Never both: the owner says that it is inside, makes a light fence and looks whether it
//!    is favoured; another one, under the word, has it favoured no more, makes a heavy fence and waits until
//!    it is not inside. One of the two sees the other.
//! 2. `inside` is written by the owner alone, and there is one owner in the life of a lock: a late store of a
//!    thread that was the owner would otherwise free the lock of the next one. A lock whose owner's thread has
//!    ended works on by its word, as [`Brief`](super::Brief) does.
//! 3. Only the owner, under the word, makes itself favoured. So whatever it sees of that when it enters it has set
//!    itself, after it saw what those who held the word before it did.
//! 4. What a holder did is seen by the next one.
//! 5. Each time the favour is taken away, which costs microseconds, it takes twice as many sections to come back,
//!    up to [`PATIENCE_MAX`].
//! 6. Nobody takes the lock while he has it. The owner would be given a second guard where
//!    [`Brief`](super::Brief) waits for ever: debug builds look.
//!
//! What it gives: two sections with one addition each, by one thread on a Xeon, take 2.6 ns under this lock and
//! 23.8 under `Brief` in the same run (best of 50 runs of 100,000).

#[cfg(not(any(phalanx_loom, phalanx_shuttle)))]
pub(crate) use real::{Biased, BiasedGuard, biased};

/// The models check what is done under the lock with a lock of their own; the words have a model below.
#[cfg(any(phalanx_loom, phalanx_shuttle))]
pub(crate) use super::imp::{Mutex as Biased, MutexGuard as BiasedGuard};

/// A lock of the model's own around a value.
#[cfg(any(phalanx_loom, phalanx_shuttle))]
pub(crate) fn biased<T>(value: T) -> Biased<T> {
    Biased::new(value)
}

use super::asymmetric::{Asymmetric, heavy_fence, light_fence};
use super::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use super::brief::{Word, yield_or_nap};
use super::{left_out, site};

/// Nobody's number: those of threads start from one.
const NOBODY: usize = 0;
/// How many sections in a row, with nobody else's in between, make an owner: more than the thread that sets things up
/// usually has.
const PATIENCE: u32 = 4_096;
/// What that grows to.
const PATIENCE_MAX: u32 = 1 << 16;

/// The words of the rules.
#[derive(Debug)]
struct Words {
    /// The owner's number while it is favoured.
    favoured: AtomicUsize,
    inside: AtomicBool,
    way: Asymmetric,
    word: Word,
    // Written under `word`.
    owner: AtomicUsize,
    /// Who took the word last, and how often in a row.
    last: AtomicUsize,
    streak: AtomicU32,
    patience: AtomicU32,
}

/// How the lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Favoured,
    ByWord,
}

impl Words {
    #[cfg(not(phalanx_loom))]
    const fn new(way: Asymmetric) -> Self {
        Self {
            favoured: AtomicUsize::new(NOBODY),
            inside: AtomicBool::new(false),
            way,
            word: Word::new(),
            owner: AtomicUsize::new(NOBODY),
            last: AtomicUsize::new(NOBODY),
            streak: AtomicU32::new(0),
            patience: AtomicU32::new(PATIENCE),
        }
    }

    /// Takes the lock for the thread of this number.
    #[inline(always)]
    fn lock(&self, me: usize) -> Hold {
        if self.favoured.load(Ordering::Relaxed) == me {
            // Relaxed: only this thread writes it.
            debug_assert!(!self.inside.load(Ordering::Relaxed), "its owner has it (rule 6)");
            self.inside.store(true, Ordering::Relaxed);
            // Pairs with the heavy fence of `take_favour` (rule 1).
            light_fence("biased.enter.fence", self.way);
            // Relaxed: what made it so was this thread (rule 3).
            if self.favoured.load(Ordering::Relaxed) == me || left_out("biased.look-again") {
                return Hold::Favoured;
            }
            self.go_out();
        }
        self.lock_by_word(me)
    }

    #[inline(always)]
    fn go_out(&self) {
        // Ordering: Release, pairs with the Acquire of `take_favour`: whoever sees the owner outside sees what it did
        // inside.
        self.inside.store(false, site("biased.leave", Ordering::Release));
    }

    #[inline(never)]
    fn lock_by_word(&self, me: usize) -> Hold {
        self.word.take();
        let favoured = self.favoured.load(Ordering::Relaxed);
        if favoured != NOBODY && favoured != me {
            self.take_favour(favoured);
        }
        self.count(me);
        Hold::ByWord
    }

    /// Has the owner favoured no more, and waits until it is outside. Under the word.
    #[cold]
    fn take_favour(&self, owner: usize) {
        /// Puts things right if the barrier fails: the owner was not seen outside.
        struct Undo<'a>(&'a Words, usize);
        impl Drop for Undo<'_> {
            fn drop(&mut self) {
                self.0.favoured.store(self.1, Ordering::Relaxed);
                self.0.word.free();
            }
        }
        self.favoured.store(NOBODY, Ordering::Relaxed);
        let undo = Undo(self, owner);
        // Pairs with the light fence of `lock` (rule 1).
        heavy_fence("biased.revoke.fence", self.way);
        std::mem::forget(undo);
        let mut turns = 0;
        // Ordering: Acquire, pairs with the Release of `go_out` (rule 4).
        while self.inside.load(site("biased.wait", Ordering::Acquire)) {
            yield_or_nap(&mut turns);
        }
        let patience = self.patience.load(Ordering::Relaxed);
        self.patience.store((patience * 2).min(PATIENCE_MAX), Ordering::Relaxed);
    }

    /// Counts a section, and makes an owner or has it favoured again (rules 2 and 3). Under the word.
    #[inline(always)]
    fn count(&self, me: usize) {
        if self.last.load(Ordering::Relaxed) != me {
            self.last.store(me, Ordering::Relaxed);
            self.streak.store(0, Ordering::Relaxed);
            return;
        }
        let streak = self.streak.load(Ordering::Relaxed).saturating_add(1);
        self.streak.store(streak, Ordering::Relaxed);
        if streak >= self.patience.load(Ordering::Relaxed) {
            self.favour(me);
        }
    }

    #[cold]
    fn favour(&self, me: usize) {
        self.streak.store(0, Ordering::Relaxed);
        let owner = self.owner.load(Ordering::Relaxed);
        // Without the kernel's barrier the light fence costs as much as the word.
        if (self.way.is_free() || cfg!(phalanx_loom)) && (owner == NOBODY || owner == me) {
            self.owner.store(me, Ordering::Relaxed);
            self.favoured.store(me, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn free(&self, hold: Hold) {
        match hold {
            Hold::Favoured => self.go_out(),
            Hold::ByWord => self.word.free(),
        }
    }
}

#[cfg(not(any(phalanx_loom, phalanx_shuttle)))]
mod real {
    #![expect(unsafe_code, reason = "the trait of locks is unsafe to implement")]

    use super::super::home;
    use super::{Asymmetric, Hold, NOBODY, Ordering, Words};

    /// See the file's head.
    pub(crate) type Biased<T> = lock_api::Mutex<RawBiased, T>;
    pub(crate) type BiasedGuard<'a, T> = lock_api::MutexGuard<'a, RawBiased, T>;

    /// A lock around a value, that nobody owns yet.
    pub(crate) fn biased<T>(value: T) -> Biased<T> {
        Biased::from_raw(RawBiased(Words::new(Asymmetric::detect())), value)
    }

    #[derive(Debug)]
    pub(crate) struct RawBiased(Words);

    /// How a guard holds the lock. It stays with its thread, which may be the owner (rule 2).
    pub(crate) struct Held(Hold, lock_api::GuardNoSend);

    // SAFETY: rules 1 and 6 of the file: one holder at a time has the lock, from `lock` or a `try_lock` that returned
    // something to `unlock`.
    unsafe impl lock_api::RawMutex for RawBiased {
        const INIT: Self = Self(Words::new(Asymmetric::symmetric()));
        type Guard = Held;

        #[inline(always)]
        fn lock(&self) -> Held {
            Held(self.0.lock(home()), lock_api::GuardNoSend::new())
        }

        /// Fails too while some thread is favoured.
        fn try_lock(&self) -> Option<Held> {
            if !self.0.word.try_take() {
                return None;
            }
            if self.0.favoured.load(Ordering::Relaxed) != NOBODY {
                self.0.word.free();
                return None;
            }
            Some(Held(Hold::ByWord, lock_api::GuardNoSend::new()))
        }

        #[inline(always)]
        // SAFETY: the caller holds the lock, as the trait demands, so this frees its own hold (rule 1).
        unsafe fn unlock(&self, held: Held) {
            self.0.free(held.0);
        }

        fn is_locked(&self) -> bool {
            self.0.word.is_taken() || self.0.inside.load(Ordering::Relaxed)
        }
    }
}

#[cfg(all(test, phalanx_loom))]
mod loom_tests {
    use std::sync::Arc;

    use super::super::{UnsafeCell, thread, weakened};
    use super::*;

    struct Both {
        words: Words,
        cell: UnsafeCell<u32>,
    }

    impl Both {
        fn section(&self, me: usize) -> Hold {
            let hold = self.words.lock(me);
            self.cell.with_mut(|_| ());
            self.words.free(hold);
            hold
        }
    }

    /// The owner takes the lock twice while another one takes the favour away and has its own section; then the owner
    /// comes back to be favoured. Loom's cell sees whether the sections are ordered.
    fn owner_and_other() {
        let words = Words {
            favoured: AtomicUsize::new(1),
            inside: AtomicBool::new(false),
            way: Asymmetric::symmetric(),
            word: Word::new(),
            owner: AtomicUsize::new(1),
            last: AtomicUsize::new(NOBODY),
            streak: AtomicU32::new(0),
            patience: AtomicU32::new(1),
        };
        let both = Arc::new(Both { words, cell: UnsafeCell::new(0) });
        let other = {
            let both = Arc::clone(&both);
            thread::spawn(move || both.section(2))
        };
        both.section(1);
        both.section(1);
        assert_eq!(other.join().expect("it does not panic"), Hold::ByWord);
        both.section(1);
    }

    #[test]
    fn loom_one_at_a_time_holds_a_biased_lock_and_sees_what_the_last_did() {
        super::super::explore(3, owner_and_other);
    }

    #[test]
    #[should_panic(expected = "Concurrent write accesses to `UnsafeCell`")]
    fn loom_twin_an_owner_without_its_fence_shares_the_lock() {
        weakened("biased.enter.fence", || super::super::explore(3, owner_and_other));
    }

    #[test]
    #[should_panic(expected = "Concurrent write accesses to `UnsafeCell`")]
    fn loom_twin_a_favour_taken_without_a_fence_shares_the_lock() {
        weakened("biased.revoke.fence", || super::super::explore(3, owner_and_other));
    }

    #[test]
    #[should_panic(expected = "Concurrent write accesses to `UnsafeCell`")]
    fn loom_twin_an_owner_that_does_not_look_again_shares_the_lock() {
        weakened("biased.look-again", || super::super::explore(3, owner_and_other));
    }

    #[test]
    #[should_panic(expected = "Concurrent write accesses to `UnsafeCell`")]
    fn loom_twin_an_owner_that_leaves_without_release_does_not_show_what_it_did() {
        weakened("biased.leave", || super::super::explore(3, owner_and_other));
    }

    #[test]
    #[should_panic(expected = "Concurrent write accesses to `UnsafeCell`")]
    fn loom_twin_a_favour_taken_without_acquire_does_not_see_what_the_owner_did() {
        weakened("biased.wait", || super::super::explore(3, owner_and_other));
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use std::sync::Arc;

    use super::super::thread;
    use super::*;

    #[test]
    fn a_thread_alone_becomes_the_owner_and_loses_the_favour_to_another_and_wins_it_back() {
        let words = Words::new(Asymmetric::detect());
        if !words.way.is_free() {
            return;
        }
        let section = |me| {
            let hold = words.lock(me);
            words.free(hold);
            hold
        };
        let first = (0..=PATIENCE).map(|_| section(7)).collect::<Vec<_>>();
        assert!(first.iter().all(|hold| *hold == Hold::ByWord));
        assert_eq!(section(7), Hold::Favoured);
        assert_eq!(section(8), Hold::ByWord);
        assert_eq!(words.favoured.load(Ordering::Relaxed), NOBODY);
        let back = (0..).take_while(|_| section(7) == Hold::ByWord).count();
        assert_eq!(back, 2 * PATIENCE as usize + 1, "rule 5");
        // Nobody else becomes the owner.
        for _ in 0..4 * PATIENCE {
            assert_eq!(section(8), Hold::ByWord);
        }
        assert_eq!(words.owner.load(Ordering::Relaxed), 7, "rule 2");
    }

    #[test]
    fn threads_that_take_the_favour_from_its_owner_lose_no_step() {
        let sum = Arc::new(biased(0_u64));
        let steps = |rounds: u32, pause: bool| {
            let sum = Arc::clone(&sum);
            move || {
                for round in 0..rounds {
                    *sum.lock() += 1;
                    if pause && round % 16 == 0 {
                        thread::yield_now();
                    }
                }
            }
        };
        let threads = [
            thread::spawn(steps(400_000, false)),
            thread::spawn(steps(2_000, true)),
            thread::spawn(steps(2_000, true)),
        ];
        for thread in threads {
            thread.join().expect("adding does not panic");
        }
        assert_eq!(*sum.lock(), 404_000);
    }

    #[test]
    fn a_panic_frees_the_lock_however_it_is_held() {
        let value = Arc::new(biased(0_u64));
        let other = Arc::clone(&value);
        let panicked = thread::spawn(move || {
            for _ in 0..2 * PATIENCE {
                *other.lock() += 1;
            }
            let _held = other.lock();
            panic!("under the lock");
        });
        assert!(panicked.join().is_err());
        assert_eq!(*value.lock(), u64::from(2 * PATIENCE));
    }
}
