//! A sliding window: how many things happened within so much time.
//!
//! Rules that hold here:
//!
//! 1. What happened at `t` counts until just before `t + width`.
//! 2. No more moments are kept than anybody asks about; the oldest go first.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Timestamp;

#[derive(Clone, Debug)]
pub(super) struct Window {
    width: Duration,
    capacity: usize,
    moments: VecDeque<Timestamp>,
}

impl Window {
    /// A window that can tell up to `capacity` moments.
    pub(super) const fn new(width: Duration, capacity: usize) -> Self {
        Self { width, capacity, moments: VecDeque::new() }
    }

    /// How many moments lie in the window that ends now.
    pub(super) fn count(&mut self, now: Timestamp) -> usize {
        while self.moments.front().is_some_and(|moment| now - *moment >= self.width) {
            self.moments.pop_front();
        }
        self.moments.len()
    }

    pub(super) fn push(&mut self, now: Timestamp) {
        self.moments.push_back(now);
        if self.moments.len() > self.capacity {
            self.moments.pop_front();
        }
    }

    /// When the oldest moment leaves the window.
    pub(super) fn relief(&self) -> Option<Timestamp> {
        self.moments.front().map(|moment| *moment + self.width)
    }

    pub(super) fn clear(&mut self) {
        self.moments.clear();
    }
}
