//! Whose turn it is among the lanes of a subscription.
//!
//! 1. The most urgent lane that has something goes first.
//! 2. But after [`RUN_MAX`] events in a row of that order, one other lane is asked first, each in its turn. So in a
//!    bus of n lanes at most (n - 1) * [`RUN_MAX`] events of that order, n - 2 turns of further lanes (one event
//!    each, or a batch of [`RUN_MAX`]), and what was passed because it did not match, go before the next event of
//!    any lane that has one.
//! 3. Within a lane the order is that of the lane.

use super::reader::{Reader, Step};

/// Events taken in the order of urgency before another lane's turn.
pub(super) const RUN_MAX: u64 = 64;

#[derive(Debug)]
pub(super) struct Turns {
    lanes: usize,
    /// Events since a less urgent lane was asked first.
    run: u64,
    /// The lane whose turn is next.
    next: usize,
    /// The lane that lost events, when a step came to that.
    lagging: usize,
}

impl Turns {
    pub(super) const fn new(lanes: usize) -> Self {
        Self { lanes, run: 0, next: 0, lagging: 0 }
    }

    /// The lane whose step came to [`Step::Lagging`] last.
    pub(super) const fn lagging(&self) -> usize {
        self.lagging
    }

    /// How many events to take at a time, if `most` are wanted.
    pub(super) fn batch_max(&self, most: u64) -> u64 {
        match RUN_MAX.saturating_sub(self.run) {
            _ if self.lanes == 1 => most,
            // Another lane's turn.
            0 => most.min(RUN_MAX),
            left => most.min(left),
        }
    }

    /// Takes one event.
    #[inline]
    pub(super) fn take<E, R>(
        &mut self,
        readers: &mut [Reader<E>],
        mut take: impl FnMut(&mut Reader<E>) -> Step<R>,
    ) -> Step<R> {
        match readers {
            [only] => take(only),
            _ => self.by_turns(readers, take, |_| 1),
        }
    }

    /// Takes several events of a lane, and their number.
    pub(super) fn take_many<E>(
        &mut self,
        readers: &mut [Reader<E>],
        mut take: impl FnMut(&mut Reader<E>) -> Step<u64>,
    ) -> Step<u64> {
        match readers {
            [only] => take(only),
            _ => self.by_turns(readers, take, |taken| *taken),
        }
    }

    fn by_turns<E, R>(
        &mut self,
        readers: &mut [Reader<E>],
        mut take: impl FnMut(&mut Reader<E>) -> Step<R>,
        count: impl Fn(&R) -> u64,
    ) -> Step<R> {
        let first = (self.run >= RUN_MAX).then_some(self.next);
        if first.is_some() {
            self.run = 0;
            // All but the most urgent have turns.
            self.next = (self.next + 1) % (self.lanes - 1).max(1);
        }
        let order =
            first.into_iter().chain((0..readers.len()).rev().filter(|lane| Some(*lane) != first));
        let (mut skipped, mut closed) = (false, 0);
        for lane in order {
            match take(&mut readers[lane]) {
                Step::Taken(taken) => {
                    if Some(lane) != first {
                        self.run += count(&taken);
                    }
                    return Step::Taken(taken);
                }
                Step::Lagging => {
                    self.lagging = lane;
                    return Step::Lagging;
                }
                Step::Skipped => skipped = true,
                Step::Empty => {}
                Step::Closed => closed += 1,
            }
        }
        if skipped {
            Step::Skipped
        } else if closed == readers.len() {
            Step::Closed
        } else {
            Step::Empty
        }
    }
}
