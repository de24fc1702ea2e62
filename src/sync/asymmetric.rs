//! A pair of fences of which the one on the hot path is free.
//!
//! Two threads that each store one word, fence, and load the other's word must not both miss the other's
//! store; that takes a full fence on both sides. Where one side is rare, the kernel can make up for the
//! other's: `membarrier` interrupts every thread of the process that runs at this moment and has it fence.
//!
//! 1. A [`light_fence`] orders like a sequentially consistent fence against a [`heavy_fence`], and
//!    a heavy one against another heavy one. Two light ones, or a light one and an ordinary fence, order
//!    nothing.
//! 2. The way it is done is chosen once in a process, before anybody relies on it ([`Asymmetric::detect`]),
//!    and the token of that choice is passed to both sides: so there is no moment at which one side has
//!    a free fence and the other has no barrier.
//! 3. A barrier that the kernel refuses after it was chosen is a panic before anything was decided on the
//!    strength of it. The kernel does so only for a process that forbade itself the call later on (by a
//!    seccomp filter), or that has no memory for a set of processors. A child of `fork` keeps the choice
//!    and the registration; what `exec` starts makes its own.
//! 4. Models and ThreadSanitizer see two ordinary fences, each with its name.

use super::atomic::Ordering;
use super::fence_site;

/// How the fences of a pair are made in this process (rule 2 of the file).
///
/// Kept beside the words that it guards, so that the hot path branches on what it has at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asymmetric {
    barriers: bool,
}

impl Asymmetric {
    /// The way of this process: the first call chooses, which may take some milliseconds.
    pub(crate) fn detect() -> Self {
        Self { barriers: kernel::is_chosen() }
    }

    /// Whether the light side costs nothing.
    pub(crate) const fn is_free(self) -> bool {
        self.barriers
    }

    /// The way of a process where it is free, for those who do nothing by it unless [`detect`](Self::detect) gave it: they
    /// need not keep it. In models they have ordinary fences.
    pub(crate) const FREE: Self = Self { barriers: !cfg!(any(phalanx_loom, phalanx_shuttle)) };

    /// An ordinary fence on both sides.
    #[cfg(test)]
    pub(crate) const fn symmetric() -> Self {
        Self { barriers: false }
    }
}

/// The side of the hot path: nothing but a hint to the compiler where the kernel does the rest.
#[inline(always)]
pub(crate) fn light_fence(name: &'static str, way: Asymmetric) {
    if way.barriers {
        kernel::light();
    } else {
        // Ordering: SeqCst, pairs with the fence in `heavy_fence`.
        fence_site(name, Ordering::SeqCst);
    }
}

/// The rare side: some microseconds, and an interrupt for each processor that runs this process.
///
/// # Panics
///
/// If the kernel takes the barrier back (rule 3 of the file).
#[cold]
pub(crate) fn heavy_fence(name: &'static str, way: Asymmetric) {
    // Ordering: SeqCst, pairs with the fence in `light_fence` or, around the barrier, with that of another
    // heavy one: what this thread stored comes before the barrier.
    fence_site(name, Ordering::SeqCst);
    if way.barriers {
        #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
        assert!(!tests::REFUSED.get(), "the barrier is refused (rule 3)");
        kernel::barrier();
        // Ordering: SeqCst, as above: what this thread loads comes after the barrier.
        fence_site(name, Ordering::SeqCst);
    }
}

#[cfg(all(target_os = "linux", not(any(phalanx_loom, phalanx_shuttle, phalanx_tsan))))]
mod kernel {
    use super::super::OnceLock;
    use super::super::atomic::{Ordering, compiler_fence};
    use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier, membarrier_query};

    /// Whether the barrier is the way of this process (rule 2).
    pub(super) fn is_chosen() -> bool {
        static CHOSEN: OnceLock<bool> = OnceLock::new();
        *CHOSEN.get_or_init(register)
    }

    /// Whether this process may use the barrier from now on.
    fn register() -> bool {
        let needed =
            MembarrierQuery::PRIVATE_EXPEDITED | MembarrierQuery::REGISTER_PRIVATE_EXPEDITED;
        membarrier_query().contains(needed)
            && membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
            && membarrier(MembarrierCommand::PrivateExpedited).is_ok()
    }

    #[inline(always)]
    pub(super) fn light() {
        // Ordering: SeqCst for the compiler alone; pairs with `barrier`, which has this processor fence
        // before what it does above this line, after what it does below, or in between.
        compiler_fence(Ordering::SeqCst);
    }

    pub(super) fn barrier() {
        membarrier(MembarrierCommand::PrivateExpedited)
            .expect("a process that registered for membarrier may use it (rule 3)");
    }
}

#[cfg(not(all(target_os = "linux", not(any(phalanx_loom, phalanx_shuttle, phalanx_tsan)))))]
mod kernel {
    pub(super) fn is_chosen() -> bool {
        false
    }

    pub(super) fn light() {}

    pub(super) fn barrier() {}
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
pub(crate) use tests::refusing_barriers;

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::super::atomic::AtomicU32;
    use super::super::thread;
    use super::*;
    use crossbeam::utils::CachePadded;

    std::thread_local! {
        pub(super) static REFUSED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }

    /// Does something on this thread while the system refuses its barriers.
    pub(crate) fn refusing_barriers<R>(act: impl FnOnce() -> R) -> R {
        struct Restore;
        impl Drop for Restore {
            fn drop(&mut self) {
                REFUSED.set(false);
            }
        }
        REFUSED.set(true);
        let _restore = Restore;
        act()
    }

    /// How often the light side stores and looks.
    const STORES: u32 = if cfg!(phalanx_tsan) { 100_000 } else { 4_000_000 };

    /// Store, fence, look at the other's word, on two threads at once; how often both missed.
    ///
    /// The light side counts on without a break, so that whenever the heavy one fences there is a store
    /// on its way. What the heavy side then sees names the first store that it missed, and what the light
    /// side saw behind that very store must be what the heavy one had stored by then.
    fn both_missed(way: Asymmetric) -> usize {
        let light = &CachePadded::new(AtomicU32::new(0));
        let heavy = &CachePadded::new(AtomicU32::new(0));
        let (seen_by_light, seen_by_heavy) = thread::scope(|scope| {
            let counting = scope.spawn(move || {
                let count = |next| {
                    light.store(next, Ordering::Relaxed);
                    light_fence("test.light", way);
                    heavy.load(Ordering::Relaxed)
                };
                (0..=STORES).map(count).collect::<Vec<_>>()
            });
            let mut seen = Vec::new();
            while !counting.is_finished() {
                heavy.store(seen.len() as u32 + 1, Ordering::Relaxed);
                heavy_fence("test.heavy", way);
                seen.push(light.load(Ordering::Relaxed));
            }
            (counting.join().expect("counting does not panic"), seen)
        });
        let missed = |(stored, seen): &(u32, u32)| {
            seen_by_light.get(*seen as usize + 1).is_some_and(|behind| behind < stored)
        };
        (1..).zip(seen_by_heavy).filter(missed).count()
    }

    #[test]
    fn a_light_and_a_heavy_fence_never_let_both_sides_miss() {
        assert_eq!(both_missed(Asymmetric::detect()), 0);
    }

    #[test]
    fn without_the_kernel_two_ordinary_fences_never_let_both_sides_miss() {
        assert_eq!(both_missed(Asymmetric::symmetric()), 0);
    }

    #[test]
    fn a_process_keeps_the_way_it_chose() {
        let first = Asymmetric::detect();
        let others: Vec<_> = (0..4).map(|_| thread::spawn(Asymmetric::detect)).collect();
        for other in others {
            assert_eq!(other.join().expect("choosing does not panic"), first);
        }
    }
}
