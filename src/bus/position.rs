//! Arithmetic on the sequence of the ring, which wraps.
//!
//! A [`Position`] is a sequence shifted left by one, so that a word in memory has room for a flag. All
//! comparisons are of distances, which are small (at most a ring, or a reader's lag); so the counters may
//! wrap, and the tests start them just before they do.
//!
//! 1. The lowest bit of a position is zero; of a word in memory it is a flag.
//! 2. Sequences count modulo 2^63.

/// A place in the sequence of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position(u64);

impl Position {
    const FLAG: u64 = 1;

    #[inline]
    pub(super) const fn from_sequence(sequence: u64) -> Self {
        Self(sequence << 1)
    }

    #[inline]
    pub(super) const fn sequence(self) -> u64 {
        self.0 >> 1
    }

    /// The place in a word, whatever its flag.
    #[inline]
    pub(super) const fn of_word(word: u64) -> Self {
        Self(word & !Self::FLAG)
    }

    #[inline]
    pub(super) const fn is_flagged(word: u64) -> bool {
        word & Self::FLAG != 0
    }

    /// The word without the flag.
    #[inline]
    pub(super) const fn word(self) -> u64 {
        self.0
    }

    /// The word with the flag.
    #[inline]
    pub(super) const fn flagged(self) -> u64 {
        self.0 | Self::FLAG
    }

    /// The word that is only a flag, for setting it.
    pub(super) const fn flag() -> u64 {
        Self::FLAG
    }

    #[inline]
    pub(super) const fn forward(self, by: u64) -> Self {
        Self(self.0.wrapping_add(by << 1))
    }

    #[inline]
    pub(super) const fn back(self, by: u64) -> Self {
        Self(self.0.wrapping_sub(by << 1))
    }

    /// How many events lie from `earlier` (inclusive) to here (exclusive).
    #[inline]
    pub(super) const fn since(self, earlier: Self) -> u64 {
        self.0.wrapping_sub(earlier.0) >> 1
    }

    #[inline]
    pub(super) const fn is_before(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0).cast_signed() < 0
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
        let last = Position::from_sequence((1 << 63) - 1);
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
        assert!(Position::is_flagged(position.flagged()));
        assert!(!Position::is_flagged(position.word()));
        assert_eq!(Position::of_word(position.flagged()), position);
    }
}
