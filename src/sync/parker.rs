//! The parker on which every wait of this crate sleeps.
//!
//! 1. A [`Parker`] holds at most one token: an unpark before the park makes that park return at once, and
//!    two unparks before it are one.
//! 2. The token is a word of the parker's own: no other user of the thread can take it or leave it, and the
//!    parker may park on another thread each time. One thread at a time parks on it: its owner.
//! 3. The word says `PARKED` from before the owner may sleep until its token comes or it gives up; the
//!    owner sleeps only while the word says so, and whoever leaves the token there ends that sleep. A sleep
//!    that ends for no reason is begun again.
//! 4. What happened before a token was left is seen by whoever takes it.

use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use super::atomic::{AtomicU32, Ordering};
use super::{left_out, site};

use bed::Bed;

const EMPTY: u32 = 0;
const PRESENT: u32 = 1;
/// One below `EMPTY`, so that parking is one subtraction.
const PARKED: u32 = u32::MAX;

/// Blocks its owner until a token arrives (rule 1 of the file).
///
/// One waiter type serves threads and futures: a thread hands out [`Parker::waker`], a future the waker
/// of its task, and whoever wakes does not know which it was.
#[derive(Debug, Default)]
pub(crate) struct Parker {
    token: Arc<Token>,
}

#[derive(Debug, Default)]
struct Token {
    /// At first `EMPTY`.
    word: AtomicU32,
    bed: Bed,
}

impl Parker {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A waker whose call leaves the token. Costs one reference count.
    pub(crate) fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.token))
    }

    /// Waits for the token and takes it.
    pub(crate) fn park(&self) {
        let mut taken = self.token.take_or_lie_down();
        while !taken {
            self.token.bed.sleep(&self.token.word, None);
            taken = self.token.take();
        }
    }

    /// Waits for the token for so long at most; whether it came.
    pub(crate) fn park_timeout(&self, timeout: Duration) -> bool {
        if timeout.is_zero() {
            return self.token.take();
        }
        // A timeout beyond what the clock can hold is no timeout.
        let end = Instant::now().checked_add(timeout);
        let mut taken = self.token.take_or_lie_down();
        while !taken {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return self.token.get_up();
            }
            self.token.bed.sleep(&self.token.word, left);
            taken = self.token.take();
        }
        true
    }
}

impl Token {
    /// Takes the token if it is there.
    fn take(&self) -> bool {
        // Ordering: Acquire, pairs with the Release of `wake_by_ref` (rule 4).
        let order = site("parker.take", Ordering::Acquire);
        self.word.compare_exchange(PRESENT, EMPTY, order, Ordering::Relaxed).is_ok()
    }

    /// Takes the token if it is there; the word says `PARKED` if it is not.
    fn take_or_lie_down(&self) -> bool {
        // Ordering: Acquire, as in `take`.
        self.word.fetch_sub(1, site("parker.take", Ordering::Acquire)) == PRESENT
    }

    /// Ends what `take_or_lie_down` began; whether the token came after all.
    fn get_up(&self) -> bool {
        // Ordering: Acquire, as in `take`.
        self.word.swap(EMPTY, site("parker.take", Ordering::Acquire)) == PRESENT
    }
}

impl Wake for Token {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        // Ordering: Release, pairs with the Acquire of those who take the token (rule 4).
        let before = self.word.swap(PRESENT, site("parker.leave", Ordering::Release));
        if before == PARKED && !left_out("parker.rouse") {
            self.bed.rouse(&self.word);
        }
    }
}

/// Sleeping by the kernel's own means, on the word alone.
#[cfg(all(target_os = "linux", not(any(phalanx_loom, phalanx_shuttle))))]
mod bed {
    use super::super::atomic::AtomicU32;
    use super::PARKED;
    use rustix::thread::{Timespec, futex};
    use std::time::Duration;

    #[derive(Debug, Default)]
    pub(super) struct Bed;

    impl Bed {
        /// Sleeps while the word says `PARKED`, for so long at most; may end for no reason.
        pub(super) fn sleep(&self, word: &AtomicU32, timeout: Option<Duration>) {
            // One beyond what the kernel can count is no timeout.
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            // Woken, too late to sleep, interrupted, or out of time: the caller looks in any case.
            let _ = futex::wait(word, futex::Flags::PRIVATE, PARKED, timeout.as_ref());
        }

        /// Ends the sleep of whoever sleeps on the word.
        pub(super) fn rouse(&self, word: &AtomicU32) {
            // It fails for a word that is not mapped, which this one is.
            let _ = futex::wake(word, futex::Flags::PRIVATE, 1);
        }
    }
}

/// The same with a lock and a condition variable.
#[cfg(not(all(target_os = "linux", not(any(phalanx_loom, phalanx_shuttle)))))]
mod bed {
    use super::super::atomic::{AtomicU32, Ordering};
    use super::super::{Condvar, Mutex};
    use super::PARKED;
    use std::time::Duration;

    #[derive(Debug, Default)]
    pub(super) struct Bed {
        made: Mutex<()>,
        roused: Condvar,
    }

    impl Bed {
        /// Sleeps while the word says `PARKED`, for so long at most; may end for no reason.
        pub(super) fn sleep(&self, word: &AtomicU32, timeout: Option<Duration>) {
            let mut made = self.made.lock();
            // The word is set before `rouse` takes the lock: it is seen here, or its call comes later.
            if word.load(Ordering::Relaxed) == PARKED {
                match timeout {
                    None => self.roused.wait(&mut made),
                    Some(timeout) => {
                        self.roused.wait_for(&mut made, timeout);
                    }
                }
            }
        }

        /// Ends the sleep of whoever sleeps on the word.
        pub(super) fn rouse(&self, _word: &AtomicU32) {
            drop(self.made.lock());
            self.roused.notify_one();
        }
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::super::thread;
    use super::*;

    #[test]
    fn a_token_left_before_the_park_ends_it_at_once_and_only_once() {
        let parker = Parker::new();
        parker.waker().wake();
        parker.waker().wake();
        parker.park();
        assert!(!parker.park_timeout(Duration::ZERO));
        assert!(!parker.park_timeout(Duration::from_nanos(1)));
    }

    #[test]
    fn a_token_is_found_by_a_park_with_a_timeout() {
        let parker = Parker::new();
        for timeout in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            parker.waker().wake_by_ref();
            assert!(parker.park_timeout(timeout), "{timeout:?}");
        }
    }

    #[test]
    fn a_park_that_gave_up_leaves_the_next_one_whole() {
        let parker = Parker::new();
        assert!(!parker.park_timeout(Duration::from_micros(1)));
        let waker = parker.waker();
        let other = thread::spawn(move || waker.wake());
        parker.park();
        other.join().expect("the waking thread does not panic");
    }

    #[test]
    fn a_park_ends_when_another_thread_wakes_and_may_move_between_threads() {
        let mut parker = Parker::new();
        for timeout in [None, Some(Duration::MAX)] {
            let (waker, sleeper) = (parker.waker(), thread::current());
            let parked = thread::spawn(move || {
                sleeper.unpark();
                match timeout {
                    None => parker.park(),
                    Some(timeout) => assert!(parker.park_timeout(timeout)),
                }
                parker
            });
            thread::park();
            waker.wake();
            parker = parked.join().expect("the parked thread does not panic");
        }
    }

    #[test]
    fn tokens_of_the_thread_are_neither_taken_nor_left() {
        let parker = Parker::new();
        thread::current().unpark();
        assert!(!parker.park_timeout(Duration::from_micros(1)));
        // Still there: this would wait for ever.
        thread::park();
        parker.waker().wake();
        parker.park();
    }

    #[test]
    fn a_sleep_that_ends_without_a_token_is_begun_again() {
        let parker = Parker::new();
        let (waker, token) = (parker.waker(), Arc::clone(&parker.token));
        let left = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&left);
        let parked = thread::spawn(move || {
            parker.park();
            seen.load(Ordering::Relaxed)
        });
        while token.word.load(Ordering::Relaxed) != PARKED {
            thread::yield_now();
        }
        for _ in 0..1000 {
            token.bed.rouse(&token.word);
            thread::yield_now();
        }
        left.store(1, Ordering::Relaxed);
        waker.wake();
        assert_eq!(parked.join().expect("the parked thread does not panic"), 1);
    }

    #[test]
    fn two_threads_hand_a_token_back_and_forth() {
        let (here, there) = (Parker::new(), Parker::new());
        let (wake_here, wake_there) = (here.waker(), there.waker());
        let other = thread::spawn(move || {
            for _ in 0..2000 {
                there.park();
                wake_here.wake_by_ref();
            }
        });
        for _ in 0..2000 {
            wake_there.wake_by_ref();
            here.park();
        }
        other.join().expect("the other thread does not panic");
    }
}

#[cfg(all(test, phalanx_loom))]
mod loom_tests {
    use super::super::{explore, thread, weakened};
    use super::*;

    /// One leaves two tokens, each after a store; the other takes the first and sees its store.
    fn hand_over() {
        let parker = Parker::new();
        let waker = parker.waker();
        let news = Arc::new(AtomicU32::new(0));
        let told = Arc::clone(&news);
        let other = thread::spawn(move || {
            for news in 1..=2 {
                told.store(news, Ordering::Relaxed);
                waker.wake_by_ref();
            }
        });
        parker.park();
        assert!(news.load(Ordering::Relaxed) >= 1, "the token came before what it stands for");
        other.join().expect("no panic");
    }

    #[test]
    fn loom_a_token_brings_what_came_before_it() {
        explore(3, hand_over);
    }

    #[test]
    fn loom_twins_of_the_token_fail() {
        for site in ["parker.leave", "parker.take", "parker.rouse"] {
            let twin = std::panic::catch_unwind(|| weakened(site, || explore(3, hand_over)));
            assert!(twin.is_err(), "the model holds although {site} is weakened");
        }
    }

    /// A park that gives up while the token comes: either it has it or the next park does.
    #[test]
    fn loom_a_token_is_not_lost_to_a_park_that_gives_up() {
        explore(3, || {
            let parker = Parker::new();
            let waker = parker.waker();
            let other = thread::spawn(move || waker.wake());
            if !parker.token.take_or_lie_down() && !parker.token.get_up() {
                parker.park();
            }
            other.join().expect("no panic");
            assert!(!parker.token.take(), "one token was taken twice");
        });
    }
}
