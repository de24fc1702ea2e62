//! The handlers of one agent: those that are not running, and what makes others.
//!
//! It is plain data, behind the lock of the agent's mailbox. Rules that hold between any two calls:
//!
//! 1. Idle handlers are of the incarnation that the tenure names; those of another are given out to be dropped.
//! 2. A crew that is not [prewarmed](Crew::new) is warm. One that is goes from cold, when somebody
//!    [calls](Crew::call), to lined; when a worker [begins](Crew::begin_to_warm), to making, or to cold if it is not to
//!    begin; and when that worker [ends](Crew::end_warming), to warm or to cold. An incarnation that ends has it be cold,
//!    but for one that is lined: workers were told. So they are told once, and one of them makes the handler.
//! 3. `made` is how many handlers there are, idle ones and others, with those that are being made: whoever is hired to
//!    make one counts. One of an incarnation that has ended counts until it is [lost](Crew::lost), which it is as it
//!    comes back, for it runs beside those of the present one. What is made ahead counts once it is there.

use std::fmt;

use super::agent::{AsyncHandler, Factory, Handler, Maker};
use super::supervision::Tenure;

/// What an agent runs, and the handlers that it has and that are not running.
pub(super) struct Crew<T, O> {
    factory: Option<Factory<T, O>>,
    idle: Idle<T, O>,
    /// Of which incarnation the handlers are, and in what era they work.
    tenure: Tenure,
    /// Whether nothing is to begin for now.
    down: bool,
    /// Whether a handler is made before the agent is in service.
    prewarmed: bool,
    warmth: Warmth,
    /// Rule 3.
    made: u16,
    /// Whether the agent's mailbox stands in the workers' line.
    in_line: bool,
}

/// How far the making of the first handler of an agent that is prewarmed is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Warmth {
    /// It is made, or is not to be made before somebody needs it.
    Warm,
    /// It is to be made, and nobody was told.
    Cold,
    /// Workers were told.
    Lined,
    /// A worker makes it.
    Making,
}

/// Handlers that are not running. Most agents have one, which takes no memory but its own.
enum Idle<T, O> {
    None,
    One(Handler<T, O>),
    More(Vec<Handler<T, O>>),
}

impl<T, O> Idle<T, O> {
    #[inline]
    fn pop(&mut self) -> Option<Handler<T, O>> {
        match self {
            Self::None => None,
            Self::More(handlers) => handlers.pop(),
            Self::One(_) => match std::mem::replace(self, Self::None) {
                Self::One(handler) => Some(handler),
                Self::None | Self::More(_) => unreachable!("it was one"),
            },
        }
    }

    #[inline]
    fn push(&mut self, handler: Handler<T, O>) {
        match self {
            Self::None => *self = Self::One(handler),
            Self::More(handlers) => handlers.push(handler),
            Self::One(_) => {
                let mut handlers = self.take();
                handlers.push(handler);
                *self = Self::More(handlers);
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::More(handlers) => handlers.len(),
        }
    }

    fn take(&mut self) -> Vec<Handler<T, O>> {
        match std::mem::replace(self, Self::None) {
            Self::None => Vec::new(),
            Self::One(handler) => vec![handler],
            Self::More(handlers) => handlers,
        }
    }
}

/// A handler, or what makes one.
pub(super) enum Hired<T, O> {
    Made(Handler<T, O>),
    ToMake(Factory<T, O>),
}

impl<T, O> Hired<T, O> {
    /// What begins a future, if the agent runs futures.
    pub(super) fn asynchronous(&self) -> Option<&AsyncHandler<T, O>> {
        match self {
            Self::ToMake(factory) => match &**factory {
                Maker::Async(handler) => Some(handler),
                Maker::Sync(_) => None,
            },
            Self::Made(_) => None,
        }
    }
}

impl<T, O> Crew<T, O> {
    /// The crew of no agent.
    pub(super) const fn none() -> Self {
        let (factory, idle, tenure, warmth) = (None, Idle::None, Tenure::NONE, Warmth::Warm);
        let (down, prewarmed, made, in_line) = (false, false, 0, false);
        Self { factory, idle, tenure, down, prewarmed, warmth, made, in_line }
    }

    /// Of an agent that joins, with a handler made before it is in service or not.
    pub(super) const fn new(
        factory: Factory<T, O>,
        tenure: Tenure,
        down: bool,
        prewarmed: bool,
    ) -> Self {
        let factory = Some(factory);
        let warmth = if prewarmed { Warmth::Cold } else { Warmth::Warm };
        let (idle, made, in_line) = (Idle::None, 0, false);
        Self { factory, idle, tenure, down, prewarmed, warmth, made, in_line }
    }

    pub(super) const fn tenure(&self) -> Tenure {
        self.tenure
    }

    /// Whether nothing is to begin for now.
    pub(super) const fn is_down(&self) -> bool {
        self.down
    }

    /// Whether what is of that tenure may begin.
    pub(super) fn works_in(&self, tenure: Tenure) -> bool {
        self.tenure == tenure && !self.down
    }

    /// Begins a tenure, or has it wait; if that is one of another incarnation, the handlers of the one before are
    /// to be dropped outside the locks.
    pub(super) fn appoint(&mut self, tenure: Tenure, down: bool) -> Vec<Handler<T, O>> {
        let stale = tenure.incarnation != self.tenure.incarnation;
        (self.tenure, self.down) = (tenure, down);
        if !stale {
            return Vec::new();
        }
        if self.prewarmed && self.warmth != Warmth::Lined {
            self.warmth = Warmth::Cold;
        }
        let stale = self.idle.take();
        self.made = self.made.saturating_sub(u16::try_from(stale.len()).unwrap_or(u16::MAX));
        stale
    }

    /// Has a handler be made; whether workers are to be told.
    pub(super) fn call(&mut self) -> bool {
        let untold = self.warmth == Warmth::Cold;
        if untold {
            self.warmth = Warmth::Lined;
        }
        untold
    }

    /// Whether something stands in the workers' line for the agent: its mailbox, or that a handler is to be made.
    pub(super) const fn is_lined(&self) -> bool {
        self.in_line || matches!(self.warmth, Warmth::Lined)
    }

    /// Says that the agent's mailbox stands in line; whether it did not.
    pub(super) fn lines_up(&mut self) -> bool {
        !std::mem::replace(&mut self.in_line, true)
    }

    /// The agent's mailbox was taken out of the line.
    pub(super) const fn leave_line(&mut self) {
        self.in_line = false;
    }

    /// Whether its mailbox stands in line.
    pub(super) const fn is_in_line(&self) -> bool {
        self.in_line
    }

    /// Begins to make a handler, or waits for the next [call](Self::call); what to make it by.
    pub(super) fn begin_to_warm(&mut self, begins: bool) -> Option<&Factory<T, O>> {
        if self.warmth != Warmth::Lined {
            return None;
        }
        self.warmth = if begins { Warmth::Making } else { Warmth::Cold };
        if begins { self.factory.as_ref() } else { None }
    }

    /// The worker that makes a handler is done.
    pub(super) const fn end_warming(&mut self, made: bool) {
        self.warmth = if made { Warmth::Warm } else { Warmth::Cold };
        self.made = self.made.saturating_add(if made { 1 } else { 0 });
    }

    /// Whether it is to be made ready anew now that a handler was lost; then it is.
    pub(super) fn cools(&mut self) -> bool {
        let cools = self.prewarmed && self.warmth == Warmth::Warm && self.idle.len() == 0;
        if cools {
            self.warmth = Warmth::Cold;
        }
        cools
    }

    /// Whether it runs futures.
    pub(super) fn is_async(&self) -> bool {
        matches!(self.factory.as_deref(), Some(Maker::Async(_)))
    }

    /// A handler for one who leased the agent; `None` if the agent is gone.
    #[inline]
    pub(super) fn hire(&mut self) -> Option<Hired<T, O>> {
        match self.idle.pop() {
            Some(handler) => Some(Hired::Made(handler)),
            None => {
                self.made = self.made.saturating_add(1);
                self.factory.clone().map(Hired::ToMake)
            }
        }
    }

    /// Whether less than so many handlers are at work.
    pub(super) fn has_spare(&self, limit: u16) -> bool {
        !self.is_async() && usize::from(self.made) < usize::from(limit) + self.idle.len()
    }

    /// A handler is gone, or was not made after all.
    pub(super) const fn lost(&mut self) {
        self.made = self.made.saturating_sub(1);
    }

    /// Takes a handler back. Only while the agent lives.
    #[inline]
    pub(super) fn dismiss(&mut self, handler: Handler<T, O>) {
        self.idle.push(handler);
    }

    /// All that is to be dropped, each piece by `discard`, outside the locks.
    pub(super) fn dissolve(self, mut discard: impl FnMut(Handler<T, O>)) -> Option<Factory<T, O>> {
        match self.idle {
            Idle::None => {}
            Idle::One(handler) => discard(handler),
            Idle::More(handlers) => handlers.into_iter().for_each(discard),
        }
        self.factory
    }
}

impl<T, O> fmt::Debug for Crew<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("idle", &self.idle.len()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fleet::{Agent, Task, TaskContext, TaskError};

    struct Idler;

    impl Agent<(), ()> for Idler {
        fn handle(&mut self, _: &Task<()>, _: &mut TaskContext<'_>) -> Result<(), TaskError> {
            Ok(())
        }
    }

    fn tenure(incarnation: u32) -> Tenure {
        Tenure { incarnation, ..Tenure::NONE }
    }

    fn crew() -> Crew<(), ()> {
        let maker: Factory<(), ()> = Arc::new(Maker::Sync(Box::new(|| Box::new(Idler))));
        Crew::new(maker, tenure(1), false, false)
    }

    #[test]
    fn there_is_a_spare_handler_as_long_as_not_all_that_may_be_are_at_work() {
        let mut crew = crew();
        assert!(crew.has_spare(1), "none was made");
        assert!(matches!(crew.hire(), Some(Hired::ToMake(_))));
        assert!(!crew.has_spare(1) && crew.has_spare(2));
        crew.dismiss(Box::new(Idler));
        assert!(crew.has_spare(1), "it is idle");
        assert!(matches!(crew.hire(), Some(Hired::Made(_))));
        assert!(!crew.has_spare(1), "it counts while it works");
        crew.lost();
        assert!(crew.has_spare(1), "it is gone");
    }

    #[test]
    fn handlers_of_another_incarnation_count_as_long_as_they_run() {
        let mut crew = crew();
        assert!(crew.hire().is_some() && crew.hire().is_some() && crew.hire().is_some());
        crew.dismiss(Box::new(Idler));
        assert_eq!(crew.appoint(tenure(2), false).len(), 1, "the one that is idle is dropped");
        assert!(!crew.has_spare(2) && crew.has_spare(3), "two run");
        assert!(crew.hire().is_some());
        crew.lost();
        assert!(!crew.has_spare(2) && crew.has_spare(3), "one of either");
        crew.lost();
        assert!(!crew.has_spare(1) && crew.has_spare(2));
    }

    #[test]
    fn one_that_is_made_ahead_counts_from_then_on() {
        let maker: Factory<(), ()> = Arc::new(Maker::Sync(Box::new(|| Box::new(Idler))));
        let mut crew = Crew::new(maker, tenure(1), true, true);
        assert!(crew.call() && crew.begin_to_warm(true).is_some());
        crew.dismiss(Box::new(Idler));
        crew.end_warming(true);
        assert!(matches!(crew.hire(), Some(Hired::Made(_))));
        assert!(!crew.has_spare(1));
        // It runs on in an incarnation that has ended, and another one is made ahead.
        assert!(crew.appoint(tenure(2), false).is_empty());
        assert!(crew.call() && crew.begin_to_warm(true).is_some());
        crew.dismiss(Box::new(Idler));
        crew.end_warming(true);
        assert!(!crew.has_spare(1) && crew.has_spare(2));
    }
}
