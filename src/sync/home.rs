//! A number for each thread, by which threads keep to different places of what they share, and by which they own
//! locks (see [`super::biased`]). Rules that hold here:
//!
//! 1. A number is of one thread at a time. It passes on as its thread ends, and the next one that has it sees all that
//!    was done by that number: to a lock, the two are one thread.
//! 2. A thread that is ending gives its number back once, and goes by [`SHARED`] from then on, which many may do at
//!    once: that one owns nothing.
//! 3. None is zero, and each is the least that was free: numbers stay as small as threads that live are few.

use std::collections::BTreeSet;

use super::Mutex;

/// The number of those that have none any more (rule 2), out of reach of all others.
pub(super) const SHARED: usize = usize::MAX / 2;

/// The numbers that nobody has. The lock is what rule 1 rests on.
#[derive(Debug)]
pub(super) struct Numbers(Mutex<Free>);

#[derive(Debug)]
struct Free {
    given_back: BTreeSet<usize>,
    /// Nobody has had this one or any above it.
    next: usize,
}

impl Numbers {
    #[cfg(not(any(phalanx_loom, phalanx_shuttle)))]
    const fn new() -> Self {
        Self(Mutex::new(Free { given_back: BTreeSet::new(), next: 1 }))
    }

    /// All above these first ones.
    #[cfg(any(phalanx_loom, phalanx_shuttle))]
    pub(super) fn above(first: usize) -> Self {
        Self(Mutex::new(Free { given_back: BTreeSet::new(), next: first + 1 }))
    }

    pub(super) fn take(&self) -> usize {
        let mut free = self.0.lock();
        if let Some(number) = free.given_back.pop_first() {
            return number;
        }
        let number = free.next;
        free.next += 1;
        number
    }

    pub(super) fn give_back(&self, number: usize) {
        self.0.lock().given_back.insert(number);
    }
}

/// A model explores one order of numbers, whatever ran before it.
#[cfg(any(phalanx_loom, phalanx_shuttle))]
pub(crate) fn home() -> usize {
    0
}

#[cfg(not(any(phalanx_loom, phalanx_shuttle)))]
pub(crate) use real::home;

#[cfg(not(any(phalanx_loom, phalanx_shuttle)))]
mod real {
    use std::cell::Cell;

    use super::{Numbers, SHARED};

    static NUMBERS: Numbers = Numbers::new();

    std::thread_local! {
        /// Zero for one that has none yet. Nothing is to be done as it ends, so that to look at it is one load.
        static HOME: Cell<usize> = const { Cell::new(0) };
        static MINE: Mine = Mine(NUMBERS.take());
    }

    /// The number of a thread until it ends.
    struct Mine(usize);

    impl Drop for Mine {
        fn drop(&mut self) {
            // What is dropped after this may ask for a number yet (rule 2). Where the cell is gone already, `first`
            // answers, which finds this one gone.
            let _ = HOME.try_with(|home| home.set(SHARED));
            NUMBERS.give_back(self.0);
        }
    }

    /// The number of this thread, from one: threads that come one after the other get numbers that do.
    #[inline]
    pub(crate) fn home() -> usize {
        match HOME.try_with(Cell::get) {
            Ok(number) if number != 0 => number,
            _ => first(),
        }
    }

    #[cold]
    fn first() -> usize {
        let number = MINE.try_with(|mine| mine.0).unwrap_or(SHARED);
        let _ = HOME.try_with(|home| home.set(number));
        number
    }
}

/// Among which places of what threads share this one begins to look: by its number, if nobody has set it.
#[inline(always)]
pub(crate) fn first_place() -> usize {
    #[cfg(all(feature = "test-util", not(any(phalanx_loom, phalanx_shuttle))))]
    if let Some(place) = placed::get() {
        return place;
    }
    home()
}

#[cfg(all(feature = "test-util", not(any(phalanx_loom, phalanx_shuttle))))]
pub(crate) use placed::set as set_first_place;

/// What a simulation says in place of a thread's number, which another run would not have.
#[cfg(all(feature = "test-util", not(any(phalanx_loom, phalanx_shuttle))))]
mod placed {
    use std::cell::Cell;

    std::thread_local! {
        static PLACE: Cell<Option<usize>> = const { Cell::new(None) };
    }

    pub(super) fn get() -> Option<usize> {
        PLACE.try_with(Cell::get).unwrap_or(None)
    }

    pub(crate) fn set(place: Option<usize>) {
        let _ = PLACE.try_with(|own| own.set(place));
    }
}

/// A number for this thread that no other thread has or had; never zero.
pub(crate) fn me() -> usize {
    // The threads of a model are not the system's, so the model keeps it.
    #[cfg(phalanx_loom)]
    use loom::thread_local;
    #[cfg(phalanx_shuttle)]
    use shuttle::thread_local;
    #[cfg(not(any(phalanx_loom, phalanx_shuttle)))]
    use std::thread_local;

    thread_local! {
        // There is nothing to drop, so a thread has it until its end.
        static ME: usize = unique() as usize;
    }
    ME.with(|me| *me)
}

/// A number that no other call in this process gets. No part of what a model explores.
pub(crate) fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};

    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// How many threads can run at once; a model has one place for all it shares.
pub(crate) fn cores() -> usize {
    if cfg!(any(phalanx_loom, phalanx_shuttle)) {
        return 0;
    }
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use std::cell::RefCell;
    use std::sync::{Barrier, mpsc};

    use super::super::thread;
    use super::*;

    /// Says by which number its thread goes as it is dropped, which may be before the number is given back or after.
    struct Last(mpsc::Sender<usize>);

    impl Drop for Last {
        fn drop(&mut self) {
            self.0.send(home()).expect("the test waits for it");
        }
    }

    std::thread_local! {
        static EARLY: RefCell<Option<Last>> = const { RefCell::new(None) };
        static LATE: RefCell<Option<Last>> = const { RefCell::new(None) };
    }

    #[test]
    fn a_thread_that_has_given_its_number_back_goes_by_the_one_that_owns_nothing() {
        let (says, hears) = mpsc::channel();
        let thread = thread::spawn(move || {
            // In whatever order a platform drops those of a thread, one of the two comes after the number.
            EARLY.with(|last| *last.borrow_mut() = Some(Last(says.clone())));
            let number = home();
            LATE.with(|last| *last.borrow_mut() = Some(Last(says)));
            number
        });
        let number = thread.join().expect("it does not panic");
        let told: Vec<_> = hears.iter().collect();
        assert_eq!(told.len(), 2);
        assert!(told.contains(&SHARED), "{told:?}");
        assert!(told.iter().all(|told| [number, SHARED].contains(told)), "{told:?}");
    }

    #[test]
    fn threads_that_live_at_once_have_different_numbers() {
        let threads = 8;
        let all_have_one = Barrier::new(threads);
        let mut numbers: Vec<_> = thread::scope(|scope| {
            let number = || {
                let number = home();
                all_have_one.wait();
                assert_eq!(home(), number);
                number
            };
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(number)).collect();
            running.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
        });
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), threads);
        assert!(numbers.iter().all(|number| (1..SHARED).contains(number)));
    }

    #[test]
    fn threads_that_come_one_after_the_other_have_the_numbers_of_those_that_ended() {
        let threads = 256;
        // To join a thread is to wait for what it drops as it ends, too.
        let number = || thread::spawn(home).join().expect("it does not panic");
        let mut numbers: Vec<_> = (0..threads).map(|_| number()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        // What else runs in this process may have one of them in between.
        assert!(numbers.len() < threads, "{numbers:?}");
    }

    #[test]
    fn the_least_number_that_was_given_back_is_had_next() {
        let numbers = Numbers::new();
        assert_eq!([(); 4].map(|()| numbers.take()), [1, 2, 3, 4]);
        for number in [3, 1] {
            numbers.give_back(number);
        }
        assert_eq!([(); 3].map(|()| numbers.take()), [1, 3, 5]);
    }
}
