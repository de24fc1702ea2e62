//! The reading side of one subscription on one lane: its cursor, its gate, and one step at a time.
//!
//! 1. The gate of a reader that holds is set from joining to leaving and never after its cursor; a drop-oldest
//!    reader's is set only within a step, and only after a fenced look at the floor found the cursor not
//!    given up (invariant 4 of the ring).
//! 2. A step moves the cursor past what it took even if taking it panics; so an event whose handler or
//!    `Clone` panics is not met again, and counts as delivered.
//! 3. Whatever way a step or a batch ends, unwinding included, the gate ends where rule 1 wants it, the counts
//!    are published, and a publisher that waits for it is told.
//! 4. No code of the host but a payload's `Clone` runs under the pin of a drop-oldest reader.
#![expect(unsafe_code, reason = "payloads are read in place while the gate covers them")]

use std::sync::Arc;

use super::event::Event;
use super::filter::Matcher;
use super::header::Header;
use super::lane::Lane;
use super::position::Position;
use super::registry::{Counts, Hold, SharedCell};
use super::shared::Shared;
use super::source::Source;
use super::subscriber::Start;
use super::wait::{Panic, pass_on};
use crate::Error;
use crate::sync::atomic::Ordering;
use crate::sync::fence_site;

/// Events passed in one step at most, so that a step is short whatever the filter.
const SCAN_MAX: u64 = 256;
/// Events that a reader that holds handles in place before it moves its gate, at most.
const RELEASE_STRIDE_MAX: u64 = 64;
/// Events that match and are found ahead of the one that is handled, at most.
const FOUND_MAX: usize = 16;
/// Events that a drop-oldest reader clones out under one pin, at most.
pub(super) const PIN_MAX: usize = 32;

/// How many events a subscription lost, and from which sequence.
pub(super) type Gap = (u64, u64);

#[derive(Debug)]
pub(super) struct Reader<E> {
    lane: Arc<Lane<E>>,
    cell: SharedCell,
    index: usize,
    cursor: Position,
    /// Up to where the gate of a reader that holds was moved.
    released: Position,
    hold: Hold,
    release_stride: u64,
    counts: Counts,
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

impl<R> Step<R> {
    /// The same outcome of something that takes another thing, if nothing was taken.
    pub(super) fn untaken<S>(self) -> Result<R, Step<S>> {
        match self {
            Self::Taken(taken) => Ok(taken),
            Self::Skipped => Err(Step::Skipped),
            Self::Empty => Err(Step::Empty),
            Self::Lagging => Err(Step::Lagging),
            Self::Closed => Err(Step::Closed),
        }
    }
}

impl<E> Reader<E> {
    /// Joins a lane; says how many events it missed of those that it asked for, and from which sequence. The
    /// caller [tells](Self::tell_released) of the gate.
    pub(super) fn join(
        lane: Arc<Lane<E>>,
        hold: Hold,
        start: Start,
    ) -> Result<(Self, Option<Gap>), Error> {
        let (index, cell, first, missed) = lane.ring.join(hold, start)?;
        let release_stride = (lane.ring.capacity() / 8).clamp(1, RELEASE_STRIDE_MAX);
        let mut reader = Self {
            lane,
            cell,
            index,
            cursor: first,
            released: first,
            hold,
            release_stride,
            counts: Counts::default(),
        };
        let gap = (missed > 0).then(|| {
            reader.counts.lagged = missed;
            reader.publish_counts();
            (missed, first.back(missed).sequence())
        });
        Ok((reader, gap))
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Takes the next event that matches; the gate is let go of before this returns. Only for readers that
    /// hold, unless `take` is a clone.
    #[inline]
    pub(super) fn take<R>(
        &mut self,
        matcher: &mut Matcher<E>,
        shared: &Shared<E>,
        take: impl FnOnce(Event<&E>) -> R,
    ) -> Step<R> {
        if let Err(step) = self.pin() {
            return step;
        }
        let mut batch = Batch::begin(self);
        match batch.seek(matcher, shared) {
            Ok(header) => Step::Taken(batch.hand(header, take)),
            Err(nothing) => batch.step_of(nothing),
        }
    }

    /// Handles events in place, in a row, `max` at most; only for readers that hold.
    ///
    /// The gate follows in strides. The outcome is of the step that ended the batch, or the count.
    #[inline]
    pub(super) fn take_batch(
        &mut self,
        matcher: &mut Matcher<E>,
        shared: &Shared<E>,
        max: u64,
        mut take: impl FnMut(Event<&E>),
    ) -> Step<u64> {
        debug_assert!(self.hold != Hold::Nothing, "a pin must not be held over a handler");
        if matcher.goes_by_header() {
            return self.take_found(matcher, shared, max, take);
        }
        let mut batch = Batch::begin(self);
        while batch.delivered < max {
            if matcher.accepts_all() && batch.hand_row(max, &mut take) {
                batch.release_by_stride();
                continue;
            }
            match batch.seek(matcher, shared) {
                Ok(header) => {
                    batch.hand(header, &mut take);
                    batch.release_by_stride();
                }
                // What ended the batch is met again by the next call.
                Err(_) if batch.delivered > 0 => break,
                Err(nothing) => return batch.step_of(nothing),
            }
        }
        Step::Taken(batch.delivered)
    }

    /// As above, where the header alone decides: finds a few events that match before it handles the first, so
    /// that their payloads, which lie apart, are all on their way.
    fn take_found(
        &mut self,
        matcher: &mut Matcher<E>,
        shared: &Shared<E>,
        max: u64,
        mut take: impl FnMut(Event<&E>),
    ) -> Step<u64> {
        let mut batch = Batch::begin(self);
        let mut found = [(batch.cursor, Header::of_word(0)); FOUND_MAX];
        while batch.delivered < max {
            let (first, few) = (batch.cursor, FOUND_MAX.min((max - batch.delivered) as usize));
            let (mut count, mut at) = (0, first);
            let ring = batch.reader.lane.ring.view();
            let last = first.forward(SCAN_MAX);
            while count < few
                && at != last
                && let Some(header) = ring.header_at(at)
            {
                if matcher.accepts_topic(header).unwrap_or_else(|| {
                    header.has_payload() && matcher.accepts(header, &shared.topics)
                }) {
                    ring.prefetch_payload(at);
                    found[count] = (at, header);
                    count += 1;
                }
                at = at.forward(1);
            }
            for &(position, header) in &found[..count] {
                batch.skip_to(position);
                batch.hand(header, &mut take);
                batch.release_by_stride();
            }
            batch.skip_to(at);
            // What ended the batch is met again by the next call.
            if at == first || (count == 0 && batch.delivered > 0) {
                break;
            }
            if count == 0 {
                return Step::Skipped;
            }
        }
        if batch.delivered > 0 {
            Step::Taken(batch.delivered)
        } else {
            batch.step_of(Nothing::There)
        }
    }

    /// Clones events out under one pin, in a row, `max` at most; only for drop-oldest readers.
    pub(super) fn take_clones(
        &mut self,
        matcher: &mut Matcher<E>,
        shared: &Shared<E>,
        max: usize,
        clone: fn(&E) -> E,
        out: &mut Vec<Event<E>>,
    ) -> Step<()> {
        if let Err(step) = self.pin() {
            return step;
        }
        let mut batch = Batch::begin(self);
        while batch.delivered < max as u64 {
            match batch.seek(matcher, shared) {
                Ok(header) => {
                    out.push(batch.hand(header, |event| event.with(clone(event.payload))));
                }
                Err(_) if batch.delivered > 0 => break,
                Err(nothing) => return batch.step_of(nothing),
            }
        }
        Step::Taken(())
    }

    /// Sets the gate of a drop-oldest reader, if there is something to read; that of others is set.
    #[inline]
    fn pin<R>(&mut self) -> Result<(), Step<R>> {
        if self.hold != Hold::Nothing {
            return Ok(());
        }
        self.pin_now()
    }

    fn pin_now<R>(&mut self) -> Result<(), Step<R>> {
        if self.lane.ring.view().header_at(self.cursor).is_none() {
            return Err(if self.is_lagging() { Step::Lagging } else { self.empty() });
        }
        self.cell.hold_from(self.cursor, Hold::Waiting);
        // Ordering: SeqCst, pairs with the fence of `Ring::refresh`: either that publisher's scan sees the
        // pin, or the look at the floor below sees what it gave up.
        fence_site("bus.pin.fence", Ordering::SeqCst);
        if self.is_lagging() {
            self.release();
            return Err(Step::Lagging);
        }
        Ok(())
    }

    /// What it means that nothing is at the cursor.
    #[cold]
    fn empty<R>(&self) -> Step<R> {
        if self.lane.is_end(self.cursor) { Step::Closed } else { Step::Empty }
    }

    #[inline]
    fn is_lagging(&self) -> bool {
        self.cursor.is_before(self.lane.ring.floor())
    }

    /// Moves on to what is left; says how many events were lost, and from which sequence.
    #[cold]
    pub(super) fn lag(&mut self) -> Gap {
        let floor = self.lane.ring.floor();
        let missed = floor.since(self.cursor);
        let from = self.cursor.sequence();
        self.cursor = floor;
        self.counts.lagged += missed;
        self.publish_counts();
        (missed, from)
    }

    /// One that was handed out did not match after all.
    pub(super) fn uncount(&mut self, events: u64) {
        self.counts.delivered -= events;
        self.counts.skipped += events;
        self.publish_counts();
    }

    /// Of the events that it passed, those from a position on were not handed out after all: so many, beside
    /// those that do not match.
    #[cold]
    pub(super) fn go_back(&mut self, to: Position, undelivered: u64) {
        let passed = self.cursor.since(to);
        self.cursor = to;
        self.counts.delivered -= undelivered;
        self.counts.skipped -= passed - undelivered;
        self.publish_counts();
    }

    /// Whether there is an event at the cursor, or a loss to be told.
    pub(super) fn has_news(&self) -> bool {
        self.lane.ring.view().header_at(self.cursor).is_some()
            || (self.hold == Hold::Nothing && self.is_lagging())
    }

    /// Whether the lane is closed and all of it was passed.
    pub(super) fn is_at_end(&self) -> bool {
        self.lane.is_end(self.cursor)
    }

    /// Whether the position at the cursor is claimed: if it has no event, somebody is about to write it.
    pub(super) fn is_before_tail(&self) -> bool {
        self.cursor.is_before(self.lane.ring.tail())
    }

    fn publish_counts(&self) {
        self.cell.publish_counts(&self.counts);
    }

    /// Moves or clears the gate, and tells a publisher that waits for it.
    #[inline]
    fn release(&mut self) {
        if self.hold == Hold::Nothing {
            if !self.cell.is_held() {
                return;
            }
            self.cell.let_go();
        } else {
            if self.released == self.cursor {
                return;
            }
            self.released = self.cursor;
            self.cell.hold_from(self.cursor, self.hold);
        }
        pass_on(self.lane.notify_released());
    }

    pub(super) fn counts(&self) -> Counts {
        Counts { blocked_ns: self.cell.counts().blocked_ns, ..self.counts }
    }

    pub(super) fn depth(&self) -> u64 {
        super::shared::depth(self.lane.ring.tail(), self.cursor)
    }

    /// Leaves the lane, and takes nothing any more; the caller [tells](Self::tell_released) of the gate.
    pub(super) fn leave(&self) {
        self.lane.ring.registry.leave(self.index, self.lane.ring.tail());
    }

    /// Tells a publisher that waits that the gate is gone, or (as it stood further back while this joined) that
    /// it moved. What a waker panicked with comes back.
    pub(super) fn tell_released(&self) -> Result<(), Panic> {
        self.lane.notify_released()
    }
}

/// Why there is nothing to take.
#[derive(Clone, Copy, Debug)]
enum Nothing {
    /// Nothing is there.
    There,
    /// Events were passed, and there may be more.
    More,
}

/// Events taken in a row: where they brought the cursor, and what they count (rules 2 and 3 of the file).
struct Batch<'a, E> {
    reader: &'a mut Reader<E>,
    cursor: Position,
    delivered: u64,
    skipped: u64,
}

impl<'a, E> Batch<'a, E> {
    #[inline]
    fn begin(reader: &'a mut Reader<E>) -> Self {
        Self { cursor: reader.cursor, reader, delivered: 0, skipped: 0 }
    }

    /// Passes what does not match, to the next event that does.
    #[inline(always)]
    fn seek(&mut self, matcher: &mut Matcher<E>, shared: &Shared<E>) -> Result<Header, Nothing> {
        let Some(header) = self.reader.lane.ring.view().header_at(self.cursor) else {
            return Err(Nothing::There);
        };
        if header.has_payload() && matcher.accepts_all() {
            return Ok(header);
        }
        self.seek_matching(header, matcher, shared)
    }

    /// As `seek`, where it has to be decided.
    fn seek_matching(
        &mut self,
        mut header: Header,
        matcher: &mut Matcher<E>,
        shared: &Shared<E>,
    ) -> Result<Header, Nothing> {
        let first = self.cursor;
        loop {
            if header.has_payload()
                && matcher.accepts(header, &shared.topics)
                && self.is_wanted(matcher)
            {
                return Ok(header);
            }
            self.cursor = self.cursor.forward(1);
            self.skipped += 1;
            if self.cursor.since(first) >= SCAN_MAX {
                return Err(Nothing::More);
            }
            header = self.reader.lane.ring.view().header_at(self.cursor).ok_or(Nothing::More)?;
        }
    }

    /// Whether the payload at the cursor satisfies the predicate, if that is asked of it here.
    fn is_wanted(&mut self, matcher: &Matcher<E>) -> bool {
        let Some(predicate) = matcher.predicate() else { return true };
        if self.reader.hold == Hold::Nothing {
            // A drop-oldest subscription asks it of the clone (rule 4).
            return true;
        }
        // If it panics, the event is passed.
        let position = self.cursor;
        self.cursor = position.forward(1);
        self.skipped += 1;
        // SAFETY: a header with a payload was seen at this position, and the gate covers it (rule 1).
        let yes = unsafe { self.reader.lane.ring.view().read(position, predicate) };
        self.cursor = position;
        self.skipped -= 1;
        yes
    }

    /// Passes what does not match, up to a position.
    #[inline(always)]
    fn skip_to(&mut self, position: Position) {
        self.skipped += position.since(self.cursor);
        self.cursor = position;
    }

    /// Moves the gate on if it is a stride behind.
    #[inline(always)]
    fn release_by_stride(&mut self) {
        if self.cursor.since(self.reader.released) >= self.reader.release_stride {
            self.release();
        }
    }

    /// Hands out the event at the cursor, and passes it whatever happens (rule 2).
    #[inline(always)]
    fn hand<R>(&mut self, header: Header, take: impl FnOnce(Event<&E>) -> R) -> R {
        let position = self.cursor;
        self.cursor = position.forward(1);
        self.delivered += 1;
        let lane = &*self.reader.lane;
        let read = |payload: &E| take(event(position, header, lane.index(), payload));
        // SAFETY: the header was seen at this position and has a payload; the gate has covered the position
        // since before that and does until `release` moves it, which is after this (rules 1, 3).
        unsafe { lane.ring.view().read(position, read) }
    }

    /// Hands out what lies in a row at the cursor, for one to whom everything matches, until its gate has to
    /// follow; whether anything lay there. Each is passed whatever happens (rule 2).
    #[inline(always)]
    fn hand_row(&mut self, max: u64, take: &mut impl FnMut(Event<&E>)) -> bool {
        /// Where the row has come to: in a register, which what the batch says is not.
        struct Row<'a> {
            at: Position,
            cursor: &'a mut Position,
            delivered: &'a mut u64,
        }
        impl Drop for Row<'_> {
            #[inline(always)]
            fn drop(&mut self) {
                *self.delivered += self.at.since(*self.cursor);
                *self.cursor = self.at;
            }
        }
        let Self { reader, cursor, delivered, .. } = self;
        let (first, lane) = (*cursor, &*reader.lane);
        let (ring, index) = (lane.ring.view(), lane.index());
        let to_release = reader.release_stride.saturating_sub(first.since(reader.released));
        let end = first.forward(to_release.clamp(1, max - *delivered));
        let mut row = Row { at: first, cursor, delivered };
        while row.at != end
            && let Some(header) = ring.header_at(row.at)
            && header.has_payload()
        {
            let position = row.at;
            row.at = position.forward(1);
            // SAFETY: as in `hand`.
            unsafe { ring.read(position, |payload| take(event(position, header, index, payload))) }
        }
        row.at != first
    }

    fn step_of<R>(&self, nothing: Nothing) -> Step<R> {
        match nothing {
            Nothing::More => Step::Skipped,
            Nothing::There if self.reader.lane.is_end(self.cursor) => Step::Closed,
            Nothing::There => Step::Empty,
        }
    }

    /// Moves the gate on; see [`Reader::release`].
    #[inline]
    fn release(&mut self) {
        self.reader.cursor = self.cursor;
        self.reader.release();
    }
}

#[inline(always)]
fn event<E>(position: Position, header: Header, lane: u8, payload: &E) -> Event<&E> {
    Event {
        sequence: position.sequence(),
        topic: header.topic(),
        source: Source::new(header.source()),
        lane,
        payload,
    }
}

impl<E> Drop for Batch<'_, E> {
    #[inline]
    fn drop(&mut self) {
        if self.delivered | self.skipped != 0 {
            self.reader.counts.delivered += self.delivered;
            self.reader.counts.skipped += self.skipped;
            self.reader.publish_counts();
        }
        self.release();
    }
}
