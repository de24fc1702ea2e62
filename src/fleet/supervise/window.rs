//! A sliding window: how many things happened within so much time.
//!
//! Rules that hold here:
//!
//! 1. What happened at `t`, or will, counts until just before `t + width`.
//! 2. A moment is kept until it is found to have left. Whoever records asks for the count each time, and
//!    stops at a limit: that is what bounds the memory.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Timestamp;

#[derive(Clone, Debug)]
pub(super) struct Window {
    width: Duration,
    /// In the order of time.
    moments: VecDeque<Timestamp>,
}

impl Window {
    pub(super) const fn new(width: Duration) -> Self {
        Self { width, moments: VecDeque::new() }
    }

    /// How many moments lie in the window that ends now, or ahead.
    pub(super) fn count(&mut self, now: Timestamp) -> usize {
        while self.moments.front().is_some_and(|moment| now - *moment >= self.width) {
            self.moments.pop_front();
        }
        self.moments.len()
    }

    /// Takes a moment in, which may be earlier than others or lie ahead.
    pub(super) fn record(&mut self, moment: Timestamp) {
        let place = self.moments.partition_point(|other| *other <= moment);
        self.moments.insert(place, moment);
    }

    /// When the first moment leaves the window.
    pub(super) fn relief(&self) -> Option<Timestamp> {
        self.moments.front().map(|moment| *moment + self.width)
    }

    pub(super) fn clear(&mut self) {
        self.moments.clear();
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn len(&self) -> usize {
        self.moments.len()
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn moments_leave_in_the_order_of_time_whatever_order_they_came_in() {
        let at = |seconds| Timestamp::from_start(Duration::from_secs(seconds));
        let mut window = Window::new(Duration::from_secs(10));
        assert_eq!((window.count(at(0)), window.relief()), (0, None));
        for moment in [25, 21, 23] {
            window.record(at(moment));
        }
        assert_eq!((window.count(at(0)), window.relief()), (3, Some(at(31))), "ahead");
        assert_eq!((window.count(at(30)), window.count(at(31))), (3, 2));
        assert_eq!((window.count(at(33)), window.relief()), (1, Some(at(35))));
        window.clear();
        assert_eq!(window.len(), 0);
    }
}
