//! The reading side of one subscription: its cursor, its gate, and one step at a time.
//!
//! 1. A blocking reader's gate is set from joining to leaving and never after its cursor; a drop-oldest
//!    reader's is set only within a step, and only after a fenced look at the floor found the cursor not
//!    given up (invariant 4 of the ring).
//! 2. A step moves the cursor past what it took even if taking it panics; so an event whose handler or
//!    `Clone` panics is not met again, and counts as delivered.
//! 3. Whatever way a step or a batch ends, unwinding included, the gate ends where rule 1 wants it, and a
//!    publisher that waits for it is told.
#![expect(unsafe_code, reason = "payloads are read in place while the gate covers them")]

use std::sync::Arc;

use super::event::Event;
use super::filter::Matcher;
use super::position::Position;
use super::registry::{Counts, SharedCell};
use super::shared::{Shared, depth};
use super::stats::SubscriberStats;
use crate::sync::atomic::Ordering;
use crate::sync::fence_site;

/// Events passed in one step at most, so that a step is short whatever the filter.
const SCAN_MAX: u32 = 64;
/// Events that a blocking reader handles in place before it moves its gate, at most.
const RELEASE_STRIDE_MAX: u64 = 32;

#[derive(Debug)]
pub(super) struct Reader<E> {
    shared: Arc<Shared<E>>,
    cell: SharedCell,
    index: usize,
    cursor: Position,
    /// Up to where the gate of a blocking reader was moved.
    released: Position,
    matcher: Matcher,
    blocking: bool,
    release_stride: u64,
}

/// What a step came to.
#[derive(Debug)]
pub(super) enum Step<R> {
    Taken(R),
    /// Only events that do not match were there, and there may be more.
    Skipped,
    Empty,
    /// Events were lost; [`Reader::lag`] passes them and says how many.
    Lagging,
    Closed,
}

impl<E> Reader<E> {
    pub(super) fn join(shared: Arc<Shared<E>>, matcher: Matcher, blocking: bool) -> Self {
        let (index, cell, start) = shared.registry().join(shared.ring.tail_word(), blocking);
        if blocking {
            // The gate stood a little further back for a moment.
            shared.notify_released();
        }
        let release_stride = (shared.ring.capacity() / 8).clamp(1, RELEASE_STRIDE_MAX);
        Self {
            shared,
            cell,
            index,
            cursor: start,
            released: start,
            matcher,
            blocking,
            release_stride,
        }
    }

    #[inline]
    pub(super) fn shared(&self) -> &Arc<Shared<E>> {
        &self.shared
    }

    /// Takes the next event that matches; the gate is let go of before this returns.
    #[inline]
    pub(super) fn take<R>(&mut self, take: impl FnOnce(Event<&E>) -> R) -> Step<R> {
        let released = Releasing(self);
        released.0.step(take)
    }

    /// Takes a clone of the next event that matches.
    #[inline]
    pub(super) fn take_cloned(&mut self) -> Step<Event<E>>
    where
        E: Clone,
    {
        self.take(|event| event.cloned())
    }

    /// Handles events in place, in a row, `max` at most; only for blocking readers.
    ///
    /// The gate follows in strides. The outcome is of the step that ended the batch, or the count.
    pub(super) fn take_batch(&mut self, max: u64, mut take: impl FnMut(Event<&E>)) -> Step<u64> {
        debug_assert!(self.blocking, "a pin must not be held over a handler");
        let released = Releasing(self);
        let reader = &mut *released.0;
        let mut taken = 0;
        while taken < max {
            match reader.step(&mut take) {
                Step::Taken(()) => taken += 1,
                // Met again by the next call.
                _ if taken > 0 => break,
                Step::Skipped => return Step::Skipped,
                Step::Empty => return Step::Empty,
                Step::Lagging => return Step::Lagging,
                Step::Closed => return Step::Closed,
            }
            if reader.cursor.since(reader.released) >= reader.release_stride {
                reader.release();
            }
        }
        Step::Taken(taken)
    }

    #[inline]
    fn step<R>(&mut self, take: impl FnOnce(Event<&E>) -> R) -> Step<R> {
        if !self.blocking {
            if self.shared.ring.topic_at(self.cursor).is_none() {
                return if self.is_lagging() { Step::Lagging } else { self.nothing() };
            }
            self.cell.hold_from(self.cursor);
            // Ordering: SeqCst, pairs with the fence of `Ring::refresh`: either that publisher's scan
            // sees the pin, or the look at the floor below sees what it gave up.
            fence_site("bus.pin.fence", Ordering::SeqCst);
            if self.is_lagging() {
                return Step::Lagging;
            }
        }
        let mut skipped = 0;
        let topic = loop {
            match self.shared.ring.topic_at(self.cursor) {
                None => break None,
                Some(topic) if self.matcher.accepts(topic, &self.shared.topics) => {
                    break Some(topic);
                }
                Some(_) if skipped == SCAN_MAX => break None,
                Some(_) => {
                    self.cursor = self.cursor.forward(1);
                    skipped += 1;
                }
            }
        };
        if skipped > 0 {
            self.count(Counts { skipped: skipped.into(), ..Counts::default() });
        }
        let Some(topic) = topic else {
            return if skipped == 0 { self.nothing() } else { Step::Skipped };
        };
        let sequence = self.cursor.sequence();
        let passed = Pass(self);
        let reader = &*passed.0;
        let read = |payload: &E| take(Event { sequence, topic, payload });
        // SAFETY: `topic_at` was `Some`; the gate has covered the cursor since before that and does until
        // `Releasing` moves it, which is after this (rules 1 and 3).
        Step::Taken(unsafe { reader.shared.ring.read(reader.cursor, read) })
    }

    #[inline]
    fn is_lagging(&self) -> bool {
        self.cursor.is_before(self.shared.ring.floor())
    }

    /// Moves on to what is left; says how many events were lost, and from which sequence.
    #[cold]
    pub(super) fn lag(&mut self) -> (u64, u64) {
        let floor = self.shared.ring.floor();
        let missed = floor.since(self.cursor);
        let from = self.cursor.sequence();
        self.cursor = floor;
        self.count(Counts { lagged: missed, ..Counts::default() });
        (missed, from)
    }

    /// Whether a step would come to anything but `Empty`.
    pub(super) fn is_ready(&self) -> bool {
        self.shared.ring.topic_at(self.cursor).is_some()
            || (!self.blocking && self.is_lagging())
            || matches!(self.nothing::<()>(), Step::Closed)
    }

    #[inline]
    fn nothing<R>(&self) -> Step<R> {
        let (tail, closed) = self.shared.ring.tail();
        if closed && tail == self.cursor { Step::Closed } else { Step::Empty }
    }

    #[inline]
    fn count(&self, counts: Counts) {
        self.cell.count(counts, self.cursor);
    }

    /// Moves or clears the gate, and tells a publisher that waits for it.
    #[inline]
    fn release(&mut self) {
        if self.blocking {
            if self.released == self.cursor {
                return;
            }
            self.released = self.cursor;
            self.cell.hold_from(self.cursor);
        } else {
            if !self.cell.is_held() {
                return;
            }
            self.cell.let_go();
        }
        self.shared.notify_released();
    }

    pub(super) fn stats(&self) -> SubscriberStats {
        let counts = self.cell.counts();
        SubscriberStats {
            id: self.index,
            delivered: counts.delivered,
            skipped: counts.skipped,
            lagged: counts.lagged,
            depth: depth(self.shared.ring.tail().0, self.cursor),
        }
    }
}

impl<E> Drop for Reader<E> {
    fn drop(&mut self) {
        self.shared.registry().leave(self.index);
        self.shared.notify_released();
    }
}

/// Rule 2 of the file.
struct Pass<'a, E>(&'a mut Reader<E>);

impl<E> Drop for Pass<'_, E> {
    #[inline]
    fn drop(&mut self) {
        self.0.cursor = self.0.cursor.forward(1);
        self.0.count(Counts { delivered: 1, ..Counts::default() });
    }
}

/// Rule 3 of the file.
struct Releasing<'a, E>(&'a mut Reader<E>);

impl<E> Drop for Releasing<'_, E> {
    #[inline]
    fn drop(&mut self) {
        self.0.release();
    }
}
