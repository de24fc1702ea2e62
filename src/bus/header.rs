//! The header of a slot: all that a filter and a publisher need to know of an event, in one word.
//!
//! 1. A header is written and read whole: whoever sees the lap of a position sees its topic and source too.
//! 2. A slot holds a payload exactly if its header's topic is not [`NO_PAYLOAD`].

use super::position::Position;
use super::topic::Topic;

/// The topic of a slot that was never written, or whose publisher panicked: a tombstone.
pub(super) const NO_PAYLOAD: u32 = (1 << TOPIC_BITS) - 1;
/// Topics that a header has room for.
pub(super) const TOPICS_MAX: usize = NO_PAYLOAD as usize;

const TOPIC_BITS: u32 = 20;
const SOURCE_BITS: u32 = 32;
const LAP_SHIFT: u32 = TOPIC_BITS + SOURCE_BITS;

/// What a slot's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header(u64);

/// What the headers of one lap have in common: where the bits of the lap are, the others zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lap(u64);

impl Lap {
    /// The lap of a position in a ring of 2^`shift` slots. Laps repeat after 4096.
    #[inline]
    pub(super) const fn of(position: Position, shift: u32) -> Self {
        Self((position.sequence() >> shift) << LAP_SHIFT)
    }

    /// The lap before this one.
    #[inline]
    pub(super) const fn before(self) -> Self {
        Self(self.0.wrapping_sub(1 << LAP_SHIFT))
    }
}

impl Header {
    #[inline]
    pub(super) const fn new(lap: Lap, topic: u32, source: u32) -> Self {
        Self(lap.0 | ((topic as u64) << SOURCE_BITS) | source as u64)
    }

    #[inline]
    pub(super) const fn of_word(word: u64) -> Self {
        Self(word)
    }

    #[inline]
    pub(super) const fn word(self) -> u64 {
        self.0
    }

    /// Whether it is of that lap.
    #[inline]
    pub(super) const fn is_of(self, lap: Lap) -> bool {
        (self.0 ^ lap.0) >> LAP_SHIFT == 0
    }

    #[inline]
    pub(super) const fn topic_id(self) -> u32 {
        (self.0 >> SOURCE_BITS) as u32 & NO_PAYLOAD
    }

    #[inline]
    pub(super) const fn topic(self) -> Topic {
        Topic::from_id(self.topic_id())
    }

    #[inline]
    pub(super) const fn source(self) -> u32 {
        self.0 as u32
    }

    #[inline]
    pub(super) const fn has_payload(self) -> bool {
        self.topic_id() != NO_PAYLOAD
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_header_gives_back_what_it_was_made_of() {
        let lap = Lap::of(Position::from_sequence(5 << 3), 3);
        let header = Header::new(lap, 77, u32::MAX);
        assert_eq!((header.topic_id(), header.source()), (77, u32::MAX));
        assert!(header.is_of(lap) && header.has_payload());
        assert!(!header.is_of(lap.before()));
        assert!(!Header::new(lap, NO_PAYLOAD, 0).has_payload());
        assert_eq!(Header::of_word(header.word()), header);
    }

    #[test]
    fn laps_follow_each_other_across_the_wrap_of_the_sequence() {
        for shift in [1, 4, 16] {
            let first = Position::from_sequence(0);
            let last_lap = Lap::of(first.back(1), shift);
            assert_eq!(Lap::of(first, shift).before(), last_lap);
            assert_eq!(Lap::of(first.forward(1 << shift), shift).before(), Lap::of(first, shift));
        }
    }
}
