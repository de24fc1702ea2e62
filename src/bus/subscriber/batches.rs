//! Events handled many at a time, and what becomes of them if their handler panics.
//!
//! 1. A panic of the handler ends the subscription; one of a `Clone` or of a predicate does not.
//! 2. An event counts as delivered from the moment at which its handler is called. Clones that were taken beyond
//!    one that panicked were not, and the subscription goes back to where they lie.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::super::dead_letters::Died;
use super::super::event::Event;
use super::super::position::Position;
use super::super::reader::{PIN_MAX, Reader, Step};
use super::{Overflow, Subscriber};

/// Events handled in one call of [`Subscriber::for_each_batch`] at most.
const BATCH_MAX: u64 = 256;

impl<E> Subscriber<E> {
    /// Handles the events that are there, as many as fit into a batch.
    pub(super) fn batch(&mut self, f: &mut impl FnMut(Event<&E>)) -> Step<u64> {
        if let Some(step) = self.notice() {
            return step;
        }
        /// Rule 1 of the file.
        struct Handling<'a, E> {
            subscriber: &'a mut Subscriber<E>,
            panicked: &'a Cell<Option<Died<E>>>,
        }
        impl<E> Drop for Handling<'_, E> {
            fn drop(&mut self) {
                if let Some(died) = self.panicked.take() {
                    self.subscriber.shared.count_handler_panic();
                    self.subscriber.pen.bury(died);
                    self.subscriber.end();
                }
            }
        }
        let panicked = Cell::new(None);
        let clone = self.clone;
        let mut handle = |event: Event<&E>| {
            let panics = Panics { panicked: &panicked, event, clone };
            f(event);
            std::mem::forget(panics);
        };
        let max = self.turns.batch_max(BATCH_MAX);
        let handling = Handling { subscriber: self, panicked: &panicked };
        let this = &mut *handling.subscriber;
        match (this.overflow, this.clone) {
            (Overflow::DropOldest, Some(clone)) => this.batch_of_clones(max, clone, &mut handle),
            // A payload that is not cloned is only ever lent by a reader that holds.
            _ => {
                let Subscriber { turns, readers, matcher, shared, .. } = this;
                turns.take_many(readers, |reader| {
                    reader.take_batch(matcher, shared, max, &mut handle)
                })
            }
        }
    }

    /// Clones a few at a time, and handles the clones that match when nothing is pinned.
    fn batch_of_clones(
        &mut self,
        max: u64,
        clone: fn(&E) -> E,
        f: &mut impl FnMut(Event<&E>),
    ) -> Step<u64> {
        let mut clones = std::mem::take(&mut self.clones);
        let Self { turns, readers, matcher, shared, .. } = self;
        let step = turns.take_many(readers, |reader| {
            let mut handled = 0;
            while handled < max {
                let few = PIN_MAX.min((max - handled) as usize);
                // Those before a clone that panics are handled first: they were passed.
                let taken = catch_unwind(AssertUnwindSafe(|| {
                    reader.take_clones(matcher, shared, few, clone, &mut clones)
                }));
                let (step, panic) = match taken {
                    Ok(step) => (step, None),
                    Err(panic) => (Step::Taken(()), Some(panic)),
                };
                match step.untaken() {
                    Ok(()) => {}
                    // Met again by the next call.
                    Err(_) if handled > 0 => break,
                    Err(step) => return step,
                }
                let full = clones.len() == few;
                let before = handled;
                let mut unhandled = Unhandled::new(reader, clones.len(), panic.is_some());
                for event in clones.drain(..) {
                    unhandled.pass(event.sequence);
                    if matcher.predicate().is_none_or(|predicate| predicate(&event.payload)) {
                        f(event.lend());
                        handled += 1;
                    } else {
                        unhandled.reader.uncount(1);
                    }
                }
                std::mem::forget(unhandled);
                if let Some(panic) = panic {
                    resume_unwind(panic);
                }
                if handled == 0 {
                    return Step::Skipped;
                }
                if !full || handled == before {
                    break;
                }
            }
            Step::Taken(handled)
        });
        self.clones = clones;
        step
    }
}

/// Set by a handler that panics, while the event is still there to be cloned.
struct Panics<'a, E> {
    panicked: &'a Cell<Option<Died<E>>>,
    event: Event<&'a E>,
    clone: Option<fn(&E) -> E>,
}

impl<E> Drop for Panics<'_, E> {
    fn drop(&mut self) {
        self.panicked.set(Some(Died::of(self.event, self.clone)));
    }
}

/// Events that were taken and not handled yet: if a panic comes between, they were not delivered.
struct Unhandled<'a, E> {
    reader: &'a mut Reader<E>,
    /// Where they begin.
    from: Option<Position>,
    left: u64,
}

impl<'a, E> Unhandled<'a, E> {
    /// So many were cloned, and one more perhaps whose clone panicked.
    fn new(reader: &'a mut Reader<E>, cloned: usize, panicked: bool) -> Self {
        Self { reader, from: None, left: cloned as u64 + u64::from(panicked) }
    }

    /// The next one is handled, whatever comes of it.
    fn pass(&mut self, sequence: u64) {
        self.from = Some(Position::from_sequence(sequence).forward(1));
        self.left -= 1;
    }
}

impl<E> Drop for Unhandled<'_, E> {
    fn drop(&mut self) {
        if let Some(from) = self.from {
            self.reader.go_back(from, self.left);
        }
    }
}
