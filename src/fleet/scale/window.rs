//! A sliding window over a measured value, in bounded memory.
//!
//! Samples are merged into buckets of a thirty-second of the window. Rules that hold here:
//!
//! 1. Buckets lie in the order of time, and each holds the extremes of the samples merged into it.
//! 2. The first bucket was opened no later than the window begins, once there is such a sample: the value
//!    that was in force when the window began counts.
//! 3. A question about the whole window is answered for one that is a thirty-second longer at most, so
//!    "all of it" is never said of less than the window.

use std::collections::VecDeque;
use std::time::Duration;

use crate::Timestamp;

const PARTS: u32 = 32;
/// One bucket a part, those that the ends of the window cut, and the one before it.
const BUCKETS: usize = PARTS as usize + 3;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    opened: Timestamp,
    least: f64,
    greatest: f64,
}

/// See the file's head.
#[derive(Clone, Debug, PartialEq, Default)]
pub(super) struct Window {
    buckets: VecDeque<Bucket>,
}

impl Window {
    /// Takes a sample in; `now` is no earlier than at the last one.
    pub(super) fn push(&mut self, now: Timestamp, value: f64, length: Duration) {
        let width = length / PARTS;
        let full = self.buckets.len() == BUCKETS;
        match self.buckets.back_mut() {
            Some(last) if now - last.opened < width || full => {
                last.least = last.least.min(value);
                last.greatest = last.greatest.max(value);
            }
            _ => {
                self.buckets.push_back(Bucket { opened: now, least: value, greatest: value });
            }
        }
        // Rule 2: the first one may go once the second was opened no later than the window begins.
        while self.buckets.get(1).is_some_and(|second| now - second.opened >= length) {
            self.buckets.pop_front();
        }
    }

    /// Since when every sample was above this; `None` if the last ones were not.
    pub(super) fn above_since(&self, value: f64) -> Option<Timestamp> {
        self.since(|bucket| bucket.least > value)
    }

    /// Since when every sample was below this; `None` if the last ones were not.
    pub(super) fn below_since(&self, value: f64) -> Option<Timestamp> {
        self.since(|bucket| bucket.greatest < value)
    }

    fn since(&self, holds: impl Fn(&Bucket) -> bool) -> Option<Timestamp> {
        self.buckets.iter().rev().take_while(|bucket| holds(bucket)).last().map(|run| run.opened)
    }

    /// The least sample of the window.
    pub(super) fn least(&self) -> f64 {
        self.buckets.iter().map(|bucket| bucket.least).fold(f64::INFINITY, f64::min)
    }

    /// The greatest sample of the window.
    pub(super) fn greatest(&self) -> f64 {
        self.buckets.iter().map(|bucket| bucket.greatest).fold(0.0, f64::max)
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(32);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn memory_is_bounded_however_many_samples_come() {
        let mut window = Window::default();
        for step in 0..100_000_u64 {
            let now = Timestamp::from_start(Duration::from_millis(step * 7));
            window.push(now, 1.0, LENGTH);
            assert!(window.buckets.len() <= BUCKETS);
        }
        assert!(window.buckets.len() >= PARTS as usize, "it is as fine as it says");
        assert_eq!(window.buckets.capacity().next_power_of_two(), 64);
    }

    #[test]
    fn a_sample_counts_until_the_window_has_passed_it_and_what_came_next() {
        let mut window = Window::default();
        window.push(at(0), 9.0, LENGTH);
        window.push(at(10), 1.0, LENGTH);
        window.push(at(41), 2.0, LENGTH);
        assert_eq!((window.least(), window.greatest()), (1.0, 9.0));
        window.push(at(42), 2.0, LENGTH);
        assert_eq!((window.least(), window.greatest()), (1.0, 2.0), "10 was 32 ago");
        window.push(at(73), 2.0, LENGTH);
        assert_eq!((window.least(), window.greatest()), (2.0, 2.0));
    }

    #[test]
    fn a_run_begins_with_its_first_sample_and_ends_with_one_that_is_not_of_it() {
        let mut window = Window::default();
        assert_eq!((window.above_since(0.0), window.below_since(9.0)), (None, None));
        window.push(at(0), 1.0, LENGTH);
        window.push(at(5), 3.0, LENGTH);
        window.push(at(9), 4.0, LENGTH);
        assert_eq!(window.above_since(2.0), Some(at(5)));
        assert_eq!(window.above_since(3.0), Some(at(9)), "above, not at");
        assert_eq!(window.below_since(5.0), Some(at(0)));
        assert_eq!(window.below_since(4.0), None, "below, not at");
    }

    #[test]
    fn samples_of_one_bucket_are_merged_by_their_extremes() {
        let mut window = Window::default();
        let millis = |millis| Timestamp::from_start(Duration::from_millis(millis));
        window.push(millis(0), 5.0, LENGTH);
        window.push(millis(500), 1.0, LENGTH);
        window.push(millis(999), 3.0, LENGTH);
        assert_eq!(window.buckets.len(), 1);
        assert_eq!((window.least(), window.greatest()), (1.0, 5.0));
        window.push(millis(1000), 3.0, LENGTH);
        assert_eq!(window.buckets.len(), 2);
    }

    #[test]
    fn a_window_of_no_length_holds_the_last_sample() {
        let mut window = Window::default();
        for value in [5.0, 1.0, 3.0] {
            window.push(at(1), value, Duration::ZERO);
            assert_eq!((window.least(), window.greatest()), (value, value));
            assert_eq!(window.above_since(value - 0.5), Some(at(1)));
        }
    }

    #[test]
    fn a_window_that_is_made_longer_forgets_nothing_it_has() {
        let mut window = Window::default();
        for second in 0..40 {
            window.push(at(second), second as f64, LENGTH);
        }
        for second in 40..400 {
            window.push(at(second), 50.0, LENGTH * 1000);
            assert!(window.buckets.len() <= BUCKETS);
        }
        assert_eq!(window.least(), 7.0);
    }
}
