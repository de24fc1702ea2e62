//! What must hold of a ring whenever nobody publishes to it or reads from it; for tests.

use super::super::header::Header;
use super::super::position::Position;
use super::Ring;
use crate::sync::atomic::Ordering;

impl<E> Ring<E> {
    /// Checks at rest what the invariants say of the words and headers.
    pub(in super::super) fn validate(&self) {
        let tail = self.tail();
        let floor = self.floor();
        let limit = Position::of_word(self.limit.load(Ordering::Relaxed));
        assert!(!tail.is_before(floor), "the floor is past the tail");
        assert!(!limit.is_before(tail), "a position was claimed beyond the limit");
        assert!(!floor.is_before(limit.back(self.capacity())), "the limit is ahead of the floor");
        assert!(!floor.is_before(tail.back(self.capacity())), "an event above the floor is gone");
        if let Some(gate) = self.registry.oldest_gate() {
            assert!(!gate.is_before(limit.back(self.capacity())), "a gate is not respected");
        }
        for back in 1..=self.capacity() {
            let position = tail.back(back);
            let header = self.headers[self.index(position)].load(Ordering::Relaxed);
            let lap = self.lap(position);
            assert!(Header::of_word(header).is_of(lap), "a slot of the last lap is not published");
        }
    }
}
