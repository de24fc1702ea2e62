//! How models search interleavings, and how their twins do without one ordering, fence or step.
//!
//! 1. Loom tries every interleaving of a few threads and knows orderings: [`site`] and [`fence_site`] are
//!    weakened for it.
//! 2. Shuttle tries random interleavings of many threads and takes every ordering for `SeqCst`: a twin under
//!    it leaves out a step ([`left_out`]). What a missing ordering or fence does, it cannot see.
//! 3. ThreadSanitizer watches the interleavings that happen, and knows orderings but no fences: a build of
//!    its own does without the ordering that `PHALANX_WEAKENED` names.

#[cfg(any(phalanx_loom, phalanx_shuttle))]
pub(crate) use of_models::{left_out, weakened};

#[cfg(any(phalanx_loom, phalanx_shuttle))]
mod of_models {
    use std::cell::Cell;

    std::thread_local! {
        // A model runs its threads on one thread of the system, so this reaches all of them.
        static WEAKENED: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Whether the step of this name is left out.
    pub(crate) fn left_out(name: &'static str) -> bool {
        WEAKENED.get() == Some(name)
    }

    /// Runs a model with one ordering weakened, or one fence or step left out: the twin of a test, which must
    /// panic.
    pub(crate) fn weakened(name: &'static str, model: impl FnOnce()) {
        struct Restore;
        impl Drop for Restore {
            fn drop(&mut self) {
                WEAKENED.set(None);
            }
        }
        WEAKENED.set(Some(name));
        let _restore = Restore;
        model();
    }
}

#[cfg(phalanx_loom)]
pub(crate) use of_loom::{explore, fence_site, site};

#[cfg(phalanx_loom)]
mod of_loom {
    use super::super::{atomic, fence};
    use super::left_out;

    pub(crate) fn site(name: &'static str, order: atomic::Ordering) -> atomic::Ordering {
        if left_out(name) { atomic::Ordering::Relaxed } else { order }
    }

    loom::lazy_static! {
        static ref FENCES: atomic::AtomicUsize = atomic::AtomicUsize::new(0);
    }

    pub(crate) fn fence_site(name: &'static str, order: atomic::Ordering) {
        if !left_out(name) {
            // Loom switches threads at accesses, not at fences: without this one a store and the fence
            // behind it would be one step, and the fence would stand in for the store's own ordering.
            FENCES.fetch_add(1, atomic::Ordering::Relaxed);
            fence(order);
        }
    }

    /// Runs a model in every interleaving of so many preemptions, or of `LOOM_MAX_PREEMPTIONS`.
    pub(crate) fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
        builder.check(model);
    }
}

#[cfg(phalanx_shuttle)]
pub(crate) use of_shuttle::explore;

#[cfg(phalanx_shuttle)]
mod of_shuttle {
    use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler};
    use shuttle::{Config, FailurePersistence, Runner};
    use std::sync::Arc;

    /// Where each search starts: the same interleavings in every run.
    const SEED: u64 = 0x5eed_0b05;
    /// Orderings of so many steps at most are what the second search is after.
    const DEPTH: usize = 3;

    /// Runs a model in so many interleavings chosen step by step, and in as many of few preemptions.
    ///
    /// One that fails is printed. To run it again, write what was printed between the quotation marks
    /// into a file, name that file in `PHALANX_SHUTTLE_SCHEDULE` and run the one test.
    pub(crate) fn explore(iterations: usize, model: impl Fn() + Send + Sync + 'static) {
        let mut config = Config::new();
        config.failure_persistence = FailurePersistence::Print;
        // Every ordering counts as `SeqCst` (rule 2 of the file).
        config.silence_warnings = true;
        config.stack_size = 1 << 18;
        let model = Arc::new(model);
        let again = Arc::clone(&model);
        if let Some(path) = std::env::var_os("PHALANX_SHUTTLE_SCHEDULE") {
            let scheduler = ReplayScheduler::new_from_file(path).expect("the file can be read");
            Runner::new(scheduler, config).run(move || model());
            return;
        }
        let random = RandomScheduler::new_from_seed(SEED, iterations);
        Runner::new(random, config.clone()).run(move || model());
        let few = PctScheduler::new_from_seed(SEED, DEPTH, iterations);
        Runner::new(few, config).run(move || again());
    }
}

#[cfg(phalanx_tsan)]
pub(crate) use of_sanitizer::site;

#[cfg(phalanx_tsan)]
mod of_sanitizer {
    use super::super::atomic;

    /// What this build does without. Said to the compiler, as looking it up would order threads.
    const WEAKENED: Option<&str> = option_env!("PHALANX_WEAKENED");

    pub(crate) fn site(name: &'static str, order: atomic::Ordering) -> atomic::Ordering {
        if WEAKENED == Some(name) { atomic::Ordering::Relaxed } else { order }
    }
}
