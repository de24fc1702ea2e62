//! A lock that is nearly free for the one thread that takes it most: a biased lock.
//!
//! An uncontended compare-exchange costs some twenty cycles and lets nothing behind it begin, which is more than a
//! short section does. So a thread that takes the lock many times over with nobody in between becomes its owner, and
//! is favoured: from then on it enters with plain stores, and another thread that wants the lock first takes that
//! favour away, with a barrier that the kernel makes (see [`super::asymmetric`]). It is for sections as short as those
//! of [`Brief`](super::Brief), by the rules of that file. A thread is its number here (see [`super::home`]), which
//! passes on to another one when it ends. Rules that hold here:
//!
//! 1. Whoever takes `word` from free to taken and finds nobody favoured holds the lock; so does the one that is
//!    favoured and `inside`. Never both: the favoured one says that it is inside, makes a light fence and looks
//!    whether it is favoured still; another one, under the word, has nobody favoured, makes a heavy fence and waits
//!    until the one that was is not inside. One of the two sees the other.
//! 2. Each owner has an `inside` of its own, for the life of the lock, that nobody else writes: one that was favoured
//!    may store there late, which must not end the section of the next one. There are [`OWNERS`] at most; all other
//!    threads go by the word each time, as [`Brief`](super::Brief) does.
//! 3. Only an owner, under the word, makes itself favoured. So whatever it sees of that when it enters it has set
//!    itself, after it saw what those who held the word before it did. (Where a barrier fails, the one that took the
//!    favour puts it back before anybody has held the lock.)
//! 4. What a holder did is seen by the next one.
//! 5. Each time the favour is taken away, which costs microseconds, it takes twice as many sections to come back,
//!    up to [`PATIENCE_MAX`].
//! 6. Nobody takes the lock while he has it, or ends with it. One that is favoured would be given a second guard where
//!    [`Brief`](super::Brief) waits for ever: debug builds look. (To look costs the hot path as much again as the lock
//!    saves.) So that they see it in each section, one that becomes favoured is inside from then on.
//! 7. Somebody is favoured only where the kernel's barrier is the way of this process. So the fences need not ask.
//! 8. The favour and the `inside` of the one that has it have a cache line of their own, which those that take turns
//!    by the word only read.
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

use crossbeam::utils::CachePadded;

use super::asymmetric::{Asymmetric, heavy_fence, light_fence};
use super::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use super::brief::{Word, yield_or_nap};
use super::{left_out, site};

/// Nobody's number, and nobody's favour: numbers of threads start from one.
const NOBODY: usize = 0;
/// How many own a lock at most (rule 2): as many as work on a shard at once, and the one that set it up.
const OWNERS: usize = 4;
/// How many sections in a row, with nobody else's in between, make an owner: more than the thread that sets things up
/// usually has.
const PATIENCE: u32 = if cfg!(phalanx_loom) { 1 } else { 4_096 };
/// What that grows to.
const PATIENCE_MAX: u32 = if cfg!(phalanx_loom) { 1 } else { 1 << 16 };

/// The words of the rules. All of them are atomic: somebody else may free the lock as soon as one who leaves has made
/// its last store.
#[derive(Debug)]
struct Words {
    bias: CachePadded<Bias>,
    word: Word,
    // Written under `word`.
    /// The numbers of those that have an `inside`, each at its place.
    owners: [AtomicUsize; OWNERS],
    /// Who took the word last, and how often in a row.
    last: AtomicUsize,
    streak: AtomicU32,
    patience: AtomicU32,
}

/// What the favoured one looks at (rule 8).
#[derive(Debug)]
struct Bias {
    /// Its number times [`OWNERS`], and its place among the owners.
    favoured: AtomicUsize,
    inside: [AtomicBool; OWNERS],
}

/// How the lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// By the owner at this place.
    Favoured(u8),
    ByWord,
}

impl Words {
    #[cfg(not(any(phalanx_loom, phalanx_shuttle)))]
    const fn new() -> Self {
        Self {
            bias: CachePadded::new(Bias {
                favoured: AtomicUsize::new(NOBODY),
                inside: [const { AtomicBool::new(false) }; OWNERS],
            }),
            word: Word::new(),
            owners: [const { AtomicUsize::new(NOBODY) }; OWNERS],
            last: AtomicUsize::new(NOBODY),
            streak: AtomicU32::new(0),
            patience: AtomicU32::new(PATIENCE),
        }
    }

    /// Takes the lock for the thread of this number.
    #[inline(always)]
    fn lock(&self, me: usize) -> Hold {
        let favoured = self.bias.favoured.load(Ordering::Relaxed);
        if favoured / OWNERS == me {
            let inside = self.inside(favoured);
            // Relaxed: only this thread writes it.
            debug_assert!(!inside.load(Ordering::Relaxed), "its owner has it (rule 6)");
            inside.store(true, Ordering::Relaxed);
            // Pairs with the heavy fence of `take_favour` (rules 1 and 7).
            light_fence("biased.enter.fence", Asymmetric::FREE);
            // Relaxed: what made it so was this thread (rule 3).
            if self.bias.favoured.load(Ordering::Relaxed) == favoured
                || left_out("biased.look-again")
            {
                return Hold::Favoured((favoured % OWNERS) as u8);
            }
            Self::go_out(inside);
        }
        self.lock_by_word(me)
    }

    /// That of the one that is favoured so.
    #[inline(always)]
    fn inside(&self, favoured: usize) -> &AtomicBool {
        let place = if left_out("biased.own-inside") { 0 } else { favoured % OWNERS };
        &self.bias.inside[place]
    }

    #[inline(always)]
    fn go_out(inside: &AtomicBool) {
        // Ordering: Release, pairs with the Acquire of `take_favour`: whoever sees the owner outside sees what it did
        // inside.
        inside.store(false, site("biased.leave", Ordering::Release));
    }

    #[inline(never)]
    fn lock_by_word(&self, me: usize) -> Hold {
        self.word.take();
        let favoured = self.bias.favoured.load(Ordering::Relaxed);
        if favoured / OWNERS == me {
            // Put back while this thread waited (rule 3): nobody else goes by it, so there is nobody to tell.
            self.bias.favoured.store(NOBODY, Ordering::Relaxed);
        } else if favoured != NOBODY {
            self.take_favour(favoured);
        }
        self.count(me)
    }

    /// Takes the lock by the word if nobody is favoured.
    fn try_lock(&self) -> Option<Hold> {
        if !self.word.try_take() {
            return None;
        }
        if self.bias.favoured.load(Ordering::Relaxed) != NOBODY {
            self.word.free();
            return None;
        }
        Some(Hold::ByWord)
    }

    /// Has nobody favoured, and waits until the one that was is outside. Under the word.
    #[cold]
    fn take_favour(&self, favoured: usize) {
        /// Puts things right if the barrier fails: the owner was not seen outside.
        struct Undo<'a>(&'a Words, usize);
        impl Drop for Undo<'_> {
            fn drop(&mut self) {
                self.0.bias.favoured.store(self.1, Ordering::Relaxed);
                self.0.word.free();
            }
        }
        self.bias.favoured.store(NOBODY, Ordering::Relaxed);
        let undo = Undo(self, favoured);
        // Pairs with the light fence of `lock` (rules 1 and 7).
        heavy_fence("biased.revoke.fence", Asymmetric::FREE);
        std::mem::forget(undo);
        let mut turns = 0;
        // Ordering: Acquire, pairs with the Release of `go_out` (rule 4).
        while self.inside(favoured).load(site("biased.wait", Ordering::Acquire)) {
            yield_or_nap(&mut turns);
        }
        let patience = self.patience.load(Ordering::Relaxed);
        self.patience.store((patience * 2).min(PATIENCE_MAX), Ordering::Relaxed);
    }

    /// Counts a section, and has an owner favoured (rules 3 and 5). Under the word.
    #[inline(always)]
    fn count(&self, me: usize) -> Hold {
        if self.last.load(Ordering::Relaxed) != me {
            self.last.store(me, Ordering::Relaxed);
            self.streak.store(0, Ordering::Relaxed);
            return Hold::ByWord;
        }
        let streak = self.streak.load(Ordering::Relaxed).saturating_add(1);
        self.streak.store(streak, Ordering::Relaxed);
        if streak < self.patience.load(Ordering::Relaxed) {
            return Hold::ByWord;
        }
        self.favour(me)
    }

    #[cold]
    fn favour(&self, me: usize) -> Hold {
        self.streak.store(0, Ordering::Relaxed);
        // Without the kernel's barrier the light fence would cost as much as the word (rule 7).
        let is_free = Asymmetric::detect().is_free() || cfg!(phalanx_loom);
        // The number that those share that have none can own nothing (rule 2 of `home`); it has no room for a place.
        if !is_free || me > usize::MAX / OWNERS {
            return Hold::ByWord;
        }
        match self.place(me) {
            Some(place) => self.go_in_from_word(me * OWNERS + place),
            None => Hold::ByWord,
        }
    }

    /// The place of this owner; a free one if it is none yet (rule 2).
    fn place(&self, me: usize) -> Option<usize> {
        let mut places = 0..OWNERS;
        let place = places.find(|place| {
            let owner = self.owners[*place].load(Ordering::Relaxed);
            owner == me || owner == NOBODY || left_out("biased.one-owner-a-place")
        })?;
        self.owners[place].store(me, Ordering::Relaxed);
        Some(place)
    }

    /// Holds the lock as the favoured one instead of by the word (rule 6).
    fn go_in_from_word(&self, favoured: usize) -> Hold {
        // Relaxed, both: freeing the word shows them to the next one that takes it.
        self.inside(favoured).store(true, Ordering::Relaxed);
        if left_out("biased.favour-under-word") {
            self.word.free();
            self.bias.favoured.store(favoured, Ordering::Relaxed);
        } else {
            self.bias.favoured.store(favoured, Ordering::Relaxed);
            self.word.free();
        }
        Hold::Favoured((favoured % OWNERS) as u8)
    }

    #[inline(always)]
    fn free(&self, hold: Hold) {
        match hold {
            Hold::Favoured(place) => Self::go_out(self.inside(usize::from(place))),
            Hold::ByWord => self.word.free(),
        }
    }
}

#[cfg(not(any(phalanx_loom, phalanx_shuttle)))]
mod real {
    #![expect(unsafe_code, reason = "the trait of locks is unsafe to implement")]

    use super::super::home;
    use super::{Asymmetric, AtomicBool, Hold, Ordering, Words};

    /// See the file's head.
    pub(crate) type Biased<T> = lock_api::Mutex<RawBiased, T>;
    pub(crate) type BiasedGuard<'a, T> = lock_api::MutexGuard<'a, RawBiased, T>;

    /// A lock around a value, that nobody owns yet.
    pub(crate) fn biased<T>(value: T) -> Biased<T> {
        // The first look may take long, which is not to be under the lock.
        Asymmetric::detect();
        Biased::new(value)
    }

    #[derive(Debug)]
    pub(crate) struct RawBiased(Words);

    /// How a guard holds the lock. It stays with its thread, which may be an owner (rule 2).
    pub(crate) struct Held(Hold, lock_api::GuardNoSend);

    // SAFETY: rules 1 and 6 of the file: one holder at a time has the lock, from `lock` or a `try_lock` that returned
    // something to `unlock`. That a number is one thread's at a time is rule 1 of `home`.
    unsafe impl lock_api::RawMutex for RawBiased {
        const INIT: Self = Self(Words::new());
        type Guard = Held;

        #[inline(always)]
        fn lock(&self) -> Held {
            Held(self.0.lock(home()), lock_api::GuardNoSend::new())
        }

        /// Fails too while some thread is favoured.
        fn try_lock(&self) -> Option<Held> {
            Some(Held(self.0.try_lock()?, lock_api::GuardNoSend::new()))
        }

        #[inline(always)]
        // SAFETY: the caller holds the lock, as the trait demands, so this frees its own hold (rule 1).
        unsafe fn unlock(&self, held: Held) {
            self.0.free(held.0);
        }

        fn is_locked(&self) -> bool {
            let is_inside = |inside: &AtomicBool| inside.load(Ordering::Relaxed);
            self.0.word.is_taken() || self.0.bias.inside.iter().any(is_inside)
        }
    }

    /// Whether some thread is favoured.
    #[cfg(test)]
    pub(super) fn is_biased<T>(lock: &Biased<T>) -> bool {
        // SAFETY: one who looks ends nobody's hold (rule 1).
        let raw = unsafe { lock.raw() };
        raw.0.bias.favoured.load(Ordering::Relaxed) != super::NOBODY
    }
}

#[cfg(all(test, phalanx_loom))]
mod loom_tests;

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;
