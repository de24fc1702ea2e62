//! A number for each thread, by which threads keep to different places of what they share.

/// A model explores one order of numbers, whatever ran before it.
#[cfg(any(phalanx_loom, phalanx_shuttle))]
pub(crate) fn home() -> usize {
    0
}

/// The number of this thread, from one: threads that come one after the other get numbers that do.
#[cfg(not(any(phalanx_loom, phalanx_shuttle)))]
#[inline]
pub(crate) fn home() -> usize {
    use super::atomic::{AtomicUsize, Ordering};
    use std::cell::Cell;

    std::thread_local! {
        /// Zero for one that has none yet.
        static HOME: Cell<usize> = const { Cell::new(0) };
    }
    static NEXT: AtomicUsize = AtomicUsize::new(1);

    #[cold]
    fn first() -> usize {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // A thread that is ending has lost its own: then any number will do.
        let _ = HOME.try_with(|home| home.set(number));
        number
    }

    match HOME.try_with(Cell::get) {
        Ok(number) if number != 0 => number,
        _ => first(),
    }
}

/// A number for this thread that no other running thread has; never zero.
#[cfg(not(any(phalanx_loom, phalanx_shuttle)))]
#[inline]
pub(crate) fn me() -> usize {
    // What `home` keeps it in has nothing to drop, so a thread has it until its end.
    home()
}

/// The threads of a model are not the system's, so the model keeps it.
#[cfg(any(phalanx_loom, phalanx_shuttle))]
pub(crate) fn me() -> usize {
    #[cfg(phalanx_loom)]
    use loom::thread_local;
    #[cfg(phalanx_shuttle)]
    use shuttle::thread_local;

    thread_local! {
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
