//! How well an agent has done lately: moving averages of its successes and of the time it takes.
//!
//! Rules that hold here:
//!
//! 1. An agent without a sample is in class 0, before all others, so everybody is tried.
//! 2. Two agents of one class differ by less than a quarter in what a success costs.

/// The weight of a new sample.
const WEIGHT: f32 = 1.0 / 8.0;
/// An agent that always fails costs so many times its latency, not infinitely more.
const SUCCESS_MIN: f32 = 1.0 / 64.0;
/// The greatest class.
const WORST: u32 = 255;

/// See the file's head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Score {
    success: f32,
    latency_ns: f32,
    class: u32,
}

impl Score {
    /// The lesser is the better.
    pub(super) const fn class(&self) -> u32 {
        self.class
    }

    /// Takes in how a lease went and how long it was held.
    #[inline]
    pub(super) fn add(&mut self, succeeded: bool, latency_ns: u64) {
        let success = if succeeded { 1.0 } else { 0.0 };
        // A float is as exact as the classes need.
        let latency = latency_ns.max(1) as f32;
        if self.class == 0 {
            (self.success, self.latency_ns) = (success, latency);
        } else {
            self.success += (success - self.success) * WEIGHT;
            self.latency_ns += (latency - self.latency_ns) * WEIGHT;
        }
        // To divide by one takes as long as by anything else, and most agents never fail.
        let is_perfect = self.success >= 1.0;
        self.class = class(if is_perfect {
            self.latency_ns
        } else {
            self.latency_ns / self.success.max(SUCCESS_MIN)
        });
    }
}

/// The class of a cost, which is at least one: four to each doubling, from 1.
fn class(cost: f32) -> u32 {
    // The exponent and the first two bits behind the point, of which those of 1.0 become class 1.
    let quarter = cost.to_bits() >> 21;
    (quarter.saturating_sub(1.0_f32.to_bits() >> 21) + 1).min(WORST)
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn costs_of_one_class_differ_by_less_than_a_quarter_and_a_worse_class_costs_more(
            a in 1.0_f32..1e15,
            b in 1.0_f32..1e15,
        ) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(class(low) <= class(high));
            prop_assert!(class(low) != class(high) || high <= low * 1.25);
            prop_assert!((1..=WORST).contains(&class(low)));
        }
    }

    #[test]
    fn one_without_a_sample_comes_first_and_a_failure_costs_more_than_a_success() {
        let (mut good, mut bad) = (Score::default(), Score::default());
        assert_eq!(good.class(), 0);
        good.add(true, 1000);
        bad.add(false, 1000);
        assert!(0 < good.class() && good.class() < bad.class());
        for _ in 0..100 {
            bad.add(true, 10);
        }
        assert!(bad.class() < good.class(), "what was long ago is forgotten");
    }

    #[test]
    fn the_cost_of_one_that_never_failed_is_its_latency() {
        let mut score = Score::default();
        for latency in [1, 1_000, 1_000_000, 3, 70_000] {
            score.add(true, latency);
            assert_eq!((score.success, score.class()), (1.0, class(score.latency_ns / 1.0)));
        }
        score.add(false, 1);
        assert_eq!(score.class(), class(score.latency_ns / 0.875));
        assert!(score.class() > class(score.latency_ns) && score.success == 0.875);
    }

    #[test]
    fn the_averages_are_those_that_the_definition_gives() {
        let mut score = Score::default();
        let (mut success, mut latency) = (1.0_f64, 100.0_f64);
        score.add(true, 100);
        for n in 1_u32..50 {
            let (ok, time) = (n % 3 != 0, n * 37 % 900 + 1);
            score.add(ok, time.into());
            let cost = score.latency_ns / score.success.max(SUCCESS_MIN);
            assert_eq!(score.class(), class(cost), "also where it was not divided");
            success = success * 7.0 / 8.0 + if ok { 1.0 / 8.0 } else { 0.0 };
            latency = latency * 7.0 / 8.0 + f64::from(time) / 8.0;
        }
        assert!((f64::from(score.success) - success).abs() < 1e-5);
        assert!((f64::from(score.latency_ns) - latency).abs() < 1e-2);
    }
}
