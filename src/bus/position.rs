//! Arithmetic on the sequence of the ring, which wraps.
//!
//! A [`Position`] is a sequence shifted left by two, so that a word in memory has room for two flags. All
//! comparisons are of distances, which are small (at most a ring, or a reader's lag); so the counters may
//! wrap, and the tests start them just before they do.
//!
//! 1. The two lowest bits of a position are zero; of a word in memory they are flags.
//! 2. Sequences count modulo 2^62.

/// A place in the sequence of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position(u64);

/// The flag that a gate is set, or that a tail is shut to shared publishers.
pub(super) const FLAG: u64 = 1;
/// The flag that the exclusive publisher is writing.
pub(super) const BUSY: u64 = 2;
const SHIFT: u32 = 2;

impl Position {
    #[inline]
    pub(super) const fn from_sequence(sequence: u64) -> Self {
        Self(sequence << SHIFT)
    }

    #[inline]
    pub(super) const fn sequence(self) -> u64 {
        self.0 >> SHIFT
    }

    /// The place in a word, whatever its flags.
    #[inline]
    pub(super) const fn of_word(word: u64) -> Self {
        Self(word & !(FLAG | BUSY))
    }

    /// The word without flags.
    #[inline]
    pub(super) const fn word(self) -> u64 {
        self.0
    }

    /// The word with [`FLAG`].
    #[inline]
    pub(super) const fn flagged(self) -> u64 {
        self.0 | FLAG
    }

    #[inline]
    pub(super) const fn forward(self, by: u64) -> Self {
        Self(self.0.wrapping_add(by << SHIFT))
    }

    #[inline]
    pub(super) const fn back(self, by: u64) -> Self {
        Self(self.0.wrapping_sub(by << SHIFT))
    }

    /// How many events lie from `earlier` (inclusive) to here (exclusive).
    #[inline]
    pub(super) const fn since(self, earlier: Self) -> u64 {
        self.0.wrapping_sub(earlier.0) >> SHIFT
    }

    #[inline]
    pub(super) const fn is_before(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0).cast_signed() < 0
    }

    #[inline]
    pub(super) const fn later(self, other: Self) -> Self {
        if other.is_before(self) { self } else { other }
    }

    #[inline]
    pub(super) const fn earlier(self, other: Self) -> Self {
        if other.is_before(self) { other } else { self }
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn distances_and_order_hold_across_the_wrap() {
        let last = Position::from_sequence((1 << 62) - 1);
        let first = last.forward(1);
        assert_eq!(first.sequence(), 0);
        assert!(last.is_before(first));
        assert!(!first.is_before(last));
        assert_eq!(first.forward(3).since(last), 4);
        assert_eq!(first.back(1), last);
        assert_eq!(first.earlier(last), last);
    }

    #[test]
    fn a_flag_does_not_move_a_position() {
        let position = Position::from_sequence(7);
        assert_eq!(position.flagged() & FLAG, FLAG);
        assert_eq!(position.word() & (FLAG | BUSY), 0);
        assert_eq!(Position::of_word(position.flagged() | BUSY), position);
    }
}
