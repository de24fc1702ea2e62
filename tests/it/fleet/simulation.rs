//! A seeded simulation of a whole fleet on one thread: driven, on the manual clock, with faults.
//!
//! Agents come and go, tasks of every sort are submitted and handled well, badly, late or not at all, leases
//! expire, requests wait and are dropped, messages go to and fro; the log, the verifier, the observer and wakers
//! fail. A seed decides everything, and a failing one is printed with how to run it alone.
//!
//! In some runs autoscalers bring and retire agents (`simulation/scale.rs`). What is known beside the fleet stands in
//! `simulation/books.rs`, kept by the handlers, the log and the observer as they are called; what is compared after each
//! step and at the end of each run stands in `simulation/checks.rs`.

mod acts;
mod batches;
mod books;
mod checks;
mod farewells;
mod handlers;
mod patience;
mod purses;
mod scale;
mod wards;
mod world;

use std::panic::{self, AssertUnwindSafe};

use books::Totals;
use world::World;

/// What every run of the ordinary test covers.
const SEEDS: u64 = 1_000;
/// What the long form covers.
const MANY: u64 = 10_000;

/// A small generator of numbers that are even enough; the same seed gives the same numbers.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // The steps of SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below the bound, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("it is below a usize")
    }

    /// Whether something that happens so many times in a hundred happens.
    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn pick<'a, V>(&mut self, of: &'a [V]) -> Option<&'a V> {
        if of.is_empty() { None } else { Some(&of[self.below(of.len())]) }
    }
}

/// Runs the seeds, and prints the first that fails.
fn run(seeds: std::ops::Range<u64>) -> Totals {
    let mut totals = Totals::default();
    for seed in seeds {
        let result = panic::catch_unwind(AssertUnwindSafe(|| World::new(seed).run()));
        match result {
            Ok(run) => totals.add(&run),
            Err(what) => {
                let what = what
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| what.downcast_ref::<&str>().copied())
                    .unwrap_or("no message");
                panic!("seed {seed} failed; replay it with `World::new({seed}).run()`: {what}");
            }
        }
    }
    totals
}

#[test]
fn whatever_befalls_a_fleet_every_accepted_task_gets_one_outcome() {
    run(0..SEEDS).assert_something_happened();
}

#[test]
#[ignore = "takes minutes unoptimized; the gate runs it with --release, in a section of its own"]
fn whatever_befalls_a_fleet_every_accepted_task_gets_one_outcome_for_many_seeds() {
    run(SEEDS..SEEDS + MANY).assert_something_happened();
}

#[test]
fn a_seed_replays_to_the_same_steps_on_any_thread() {
    let run = || (0..60).map(|seed| World::new(seed).run()).collect::<Vec<_>>();
    // They live at once, so each has a number of its own.
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(run);
        (run(), other.join().expect("it ran here too"))
    });
    for (seed, (one, other)) in one.iter().zip(&other).enumerate() {
        assert_eq!(one, other, "seed {seed}");
    }
}
