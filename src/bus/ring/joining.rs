//! How a subscription enters a ring, and where it begins.
//!
//! 1. A subscription that holds has its gate set before it looks where it begins, and publishers only wait for
//!    it meanwhile, whatever its policy: what it asks for may be long gone.
//! 2. One that holds nothing sets no gate here: what it loses it is told of.

use super::super::position::Position;
use super::super::registry::{Hold, Joined};
use super::super::subscriber::Start;
use super::Ring;
use crate::sync::atomic::Ordering;
use crate::sync::fence_site;
use crate::{Error, ErrorKind};

impl<E> Ring<E> {
    /// Enters a subscription: its cell, where it begins, and how many events before that it asked for in vain.
    ///
    /// One that holds has its gate set. A publisher that looked at the gates before it saw this one had read a
    /// tail no later than where the subscription begins, or moved the floor there: so what it overwrites lies
    /// before.
    pub(in super::super) fn join(&self, hold: Hold, start: Start) -> Result<Joined, Error> {
        let wanted = match start {
            Start::Now => self.tail(),
            Start::Oldest => self.floor(),
            Start::Sequence(sequence) => self.kept(sequence)?,
        };
        Ok(self.registry.enter(|cell| {
            if hold != Hold::Nothing {
                cell.hold_from(wanted, Hold::Waiting);
            }
            // Ordering: SeqCst, pairs with the fence of `refresh`: either that scan sees the gate, or the
            // tail and the floor read below are no earlier than what it started from and gave up.
            fence_site("bus.join.fence", Ordering::SeqCst);
            let first = match start {
                Start::Now => self.tail(),
                _ => wanted.later(self.floor()),
            };
            let from = match start {
                Start::Sequence(_) => wanted,
                _ => first,
            };
            cell.begin(from);
            if hold != Hold::Nothing {
                cell.hold_from(first, hold);
            }
            (first, first.since(from))
        }))
    }

    /// The position of a sequence that was published, or is next.
    fn kept(&self, sequence: u64) -> Result<Position, Error> {
        let tail = self.tail();
        let position = Position::from_sequence(sequence);
        let published = tail.since(self.start);
        if position.sequence() == sequence && tail.since(position) <= published {
            return Ok(position);
        }
        let message = format!(
            "no event has the sequence {sequence} yet: expected {} at most",
            tail.sequence()
        );
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }
}
