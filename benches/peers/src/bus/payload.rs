//! What is published, and what a reader makes of it.
//!
//! Every reader folds every event into the same sum: the square of the sum of its eight words, whatever the
//! order. With one publisher it looks at the order as well. Everybody pays the same for it.

use std::sync::Arc;

/// What an event carries.
pub trait Payload: Clone + Send + Sync + 'static {
    /// The event of a number.
    fn new(number: u64) -> Self;

    /// What a ring that is filled in advance is filled with.
    fn empty() -> Self;

    fn words(&self) -> &[u64; 8];
}

/// 64 bytes.
pub type Event = [u64; 8];

impl Payload for Event {
    #[inline(always)]
    fn new(number: u64) -> Self {
        std::array::from_fn(|at| number + at as u64)
    }

    fn empty() -> Self {
        [0; 8]
    }

    #[inline(always)]
    fn words(&self) -> &[u64; 8] {
        self
    }
}

/// 500 bytes, of which readers look at the first 64.
#[repr(C)]
pub struct Blob {
    words: [u64; 8],
    rest: [u32; 109],
}

pub const BLOB_BYTES: usize = 500;

impl Payload for Arc<Blob> {
    #[inline(always)]
    fn new(number: u64) -> Self {
        Arc::new(Blob { words: Event::new(number), rest: [number as u32; 109] })
    }

    fn empty() -> Self {
        <Self as Payload>::new(0)
    }

    #[inline(always)]
    fn words(&self) -> &[u64; 8] {
        &self.words
    }
}

/// What one reader has received so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    pub count: u64,
    pub sum: u64,
    /// Events that were not the next ones of the one publisher.
    pub misplaced: u64,
}

impl Received {
    #[inline(always)]
    pub fn event(&mut self, event: &impl Payload) {
        let words = event.words();
        let sum = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(*word));
        self.sum = self.sum.wrapping_add(sum.wrapping_mul(sum));
        self.count += 1;
    }

    /// As [`event`](Self::event), where the numbers go up by one, and over again after so many (a power of two).
    #[inline(always)]
    pub fn next(&mut self, event: &impl Payload, unit: u64) {
        self.misplaced += u64::from(event.words()[0] != self.count & (unit - 1));
        self.event(event);
    }

    /// What was received in each of so many units, if it was the same in all of them: what one unit is, or
    /// else something that no other contestant has.
    pub fn of_one(self, units: u64, unit: Received) -> u64 {
        assert_eq!(self.misplaced, 0, "events were out of order");
        assert_eq!(self.count, unit.count * units, "events were lost");
        if self.sum == unit.sum.wrapping_mul(units) { unit.sum } else { !self.sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_as_large_as_it_says_but_for_its_alignment() {
        assert_eq!(size_of::<Blob>(), BLOB_BYTES.next_multiple_of(8));
    }

    #[test]
    fn what_was_lost_or_came_twice_changes_the_sum() {
        let of = |numbers: &[u64]| {
            let mut received = Received::default();
            numbers.iter().for_each(|number| received.event(&Event::new(*number)));
            received.sum
        };
        assert_eq!(of(&[0, 1, 2, 3]), of(&[3, 1, 0, 2]));
        assert_ne!(of(&[0, 1, 2, 3]), of(&[0, 1, 1, 3]));
        assert_ne!(of(&[0, 1, 2, 3]), of(&[1, 1, 1, 3]));
        assert_ne!(of(&[0, 1, 2, 3]), of(&[0, 1, 2]));
    }

    #[test]
    fn an_event_out_of_its_place_is_noticed() {
        let mut received = Received::default();
        for number in [0, 1, 2, 3, 0, 1, 3] {
            received.next(&Event::new(number), 4);
        }
        assert_eq!(received.misplaced, 1);
    }
}
