//! Which laps count: those before and after which the machine was left alone.
//!
//! A *lap* is a stretch of work of one contestant, some tenths of a millisecond long where its units allow it, with a
//! probe ([`super::probe`]) right before and right after it.
//!
//! 1. A lap counts if both probes are within [`BOUND`] of the best probe of this run, and if, in a row of one core, the
//!    thread that timed it did not wait for a core for more than [`WAITED_MAX`] of it; whoever ran it and whatever it
//!    came to: its own value is never looked at.
//! 2. The best is the one that is known at the end, so laps that looked calm beside a worse one are left out.
//! 3. The laps that count make the samples, as many for each contestant: each sample is the median of as many laps
//!    that follow each other.
//! 4. Who has fewer such laps than wanted decides nothing: neither for this crate nor against it.

use std::cell::{Cell, OnceCell};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::probe::{Second, Span};
use crate::row::median;

/// How many times as long as the best a probe may take for the machine to be calm.
///
/// Probes of a core that is left alone differ by less than 1 %; a busy neighbour makes them take 1.5 to 2 times as long.
pub const BOUND: f64 = 1.15;

/// What part of a lap its thread may have waited for a core that the system had given to somebody else's. It is what the
/// probes do not see of a lap that is longer than they are.
pub const WAITED_MAX: f64 = 0.02;

/// For how long the machine is probed before anything else.
const FIRST: Duration = Duration::from_millis(300);

/// A lap, and what was read before and after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lap {
    /// In the unit of its row.
    pub value: f64,
    pub before: f64,
    pub after: f64,
    /// The part of it in which its thread waited for a core.
    pub waited: f64,
}

impl Lap {
    /// Whether it counts beside this best probe.
    fn is_calm(&self, best: f64) -> bool {
        self.before.max(self.after) <= BOUND * best && self.waited <= WAITED_MAX
    }
}

/// The values of the laps that count.
pub fn kept(laps: &[Lap], best: f64) -> Vec<f64> {
    laps.iter().filter(|lap| lap.is_calm(best)).map(|lap| lap.value).collect()
}

/// So many samples of these values, which are in the order in which they were taken: the median of each part of them.
/// Fewer where there are not as many values.
pub fn samples(values: &[f64], wanted: usize) -> Vec<f64> {
    let parts = wanted.min(values.len());
    let bound = |part| part * values.len() / parts;
    (0..parts).map(|part| median(&values[bound(part)..bound(part + 1)])).collect()
}

/// How a contestant did in a row.
#[derive(Debug)]
pub struct Laps {
    pub name: &'static str,
    pub laps: Vec<Lap>,
    pub kept: usize,
    /// How many were to be kept.
    pub wanted: usize,
}

/// What was probed in a row, and what that left.
#[derive(Debug)]
pub struct Calmness {
    pub cores: usize,
    /// The best probe of so many cores, in nanoseconds a round.
    pub best: f64,
    /// Of each contestant that was timed.
    pub laps: Vec<Laps>,
}

impl Calmness {
    pub fn of(&self, name: &str) -> Option<&Laps> {
        self.laps.iter().find(|one| one.name == name)
    }

    /// All laps of all of them, with their probes.
    pub fn to_json(&self) -> Value {
        let laps: Map<_, _> = self
            .laps
            .iter()
            .map(|one| {
                let all: Vec<_> = one
                    .laps
                    .iter()
                    .map(|lap| json!([lap.value, lap.before, lap.after, lap.waited].map(short)))
                    .collect();
                let laps = json!({ "kept": one.kept, "wanted": one.wanted, "laps": all });
                (one.name.to_owned(), laps)
            })
            .collect();
        json!({
            "cores": self.cores,
            "best_probe_ns": self.best,
            "bound": BOUND,
            "waited_at_most": WAITED_MAX,
            "lap": "value, probe before, probe after, part in wait for a core",
            "of": laps,
        })
    }

    /// Why this one decides nothing, if it does not.
    pub fn lacks(&self, name: &str) -> Option<String> {
        let one = self.of(name).filter(|one| one.kept < one.wanted)?;
        let Laps { name, laps, kept, wanted } = one;
        Some(format!(
            "the machine was not calm: {kept} of {} laps of {name} count, {wanted} were wanted",
            laps.len()
        ))
    }
}

/// Six digits, which is more than it is worth.
fn short(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// The probes of a run, and the best ones.
#[derive(Debug)]
pub struct Probes {
    /// Of one core, and of two at once.
    best: [Cell<f64>; 2],
    second: OnceCell<Second>,
}

impl Probes {
    /// Probes one core for a while.
    pub fn new() -> Self {
        let best = [const { Cell::new(f64::INFINITY) }; 2];
        let probes = Self { best, second: OnceCell::new() };
        probes.settle(1);
        probes
    }

    /// Probes so many cores for a while, if that has not been done yet.
    pub fn settle(&self, cores: usize) {
        let start = Instant::now();
        while start.elapsed() < FIRST {
            self.read(cores);
        }
    }

    /// Probes so many cores, one or two.
    pub fn read(&self, cores: usize) -> f64 {
        let read = match cores {
            1 => Span::here().read(),
            _ => self.second.get_or_init(Second::new).both().read(),
        };
        self.saw(cores, read);
        read
    }

    /// A probe that somebody else has read.
    pub fn saw(&self, cores: usize, read: f64) {
        let best = &self.best[cores - 1];
        best.set(best.get().min(read));
    }

    pub fn best(&self, cores: usize) -> f64 {
        self.best[cores - 1].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lap(value: f64, before: f64, after: f64) -> Lap {
        Lap { value, before, after, waited: 0.0 }
    }

    #[test]
    fn a_lap_whose_thread_waited_for_a_core_does_not_count() {
        let waited = |waited| Lap { waited, ..lap(waited, 10.0, 10.0) };
        assert_eq!(
            kept(&[waited(0.0), waited(0.03), waited(0.019), waited(0.9)], 10.0),
            [0.0, 0.019]
        );
    }

    #[test]
    fn a_lap_counts_if_both_of_its_probes_are_near_the_best() {
        let laps = [
            lap(1.0, 10.0, 10.0),
            lap(2.0, 11.4, 11.4),
            lap(3.0, 11.6, 10.0),
            lap(4.0, 10.0, 11.6),
            lap(5.0, 20.0, 20.0),
        ];
        assert_eq!(kept(&laps, 10.0), [1.0, 2.0]);
    }

    #[test]
    fn what_a_lap_came_to_is_not_looked_at() {
        let laps = [lap(1e9, 10.0, 10.0), lap(1e-9, 10.0, 10.0), lap(1.0, 12.0, 10.0)];
        assert_eq!(kept(&laps, 10.0), [1e9, 1e-9]);
    }

    #[test]
    fn a_better_probe_leaves_out_what_looked_calm_before() {
        let laps = [lap(1.0, 10.0, 10.0), lap(2.0, 8.0, 8.0), lap(3.0, 8.0, 9.0)];
        assert_eq!(kept(&laps, 10.0).len(), 3);
        assert_eq!(kept(&laps, 8.0), [2.0, 3.0]);
    }

    #[test]
    fn samples_are_the_medians_of_parts_in_their_order() {
        let values = [3.0, 1.0, 2.0, 40.0, 60.0, 50.0, 7.0, 8.0, 9.0];
        assert_eq!(samples(&values, 3), [2.0, 50.0, 8.0]);
        // As even as it gets, and each value in one part.
        assert_eq!(samples(&[1.0, 2.0, 3.0, 5.0], 3), [1.0, 2.0, 4.0]);
        assert_eq!(samples(&[1.0, 2.0], 3), [1.0, 2.0]);
        assert!(samples(&[], 3).is_empty());
    }

    #[test]
    fn who_has_fewer_laps_than_wanted_lacks_them_and_says_so() {
        let of = |name, kept| Laps { name, laps: vec![lap(1.0, 1.0, 1.0); 9], kept, wanted: 4 };
        let calmness =
            Calmness { cores: 1, best: 1.0, laps: vec![of("enough", 4), of("short", 3)] };
        assert_eq!(calmness.lacks("enough"), None);
        assert!(calmness.lacks("short").is_some_and(|why| why.contains("3 of 9 laps of short")));
        // One that was not timed, as a limit, is as good as ever.
        assert_eq!(calmness.lacks("limit-x"), None);
    }

    #[test]
    fn the_best_probe_is_the_least_and_one_core_is_apart_from_two() {
        let probes =
            Probes { best: [const { Cell::new(f64::INFINITY) }; 2], second: OnceCell::new() };
        for read in [3.0, 1.0, 2.0] {
            probes.saw(1, read);
        }
        assert_eq!((probes.best(1), probes.best(2)), (1.0, f64::INFINITY));
    }
}
