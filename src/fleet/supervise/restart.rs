//! Whether to start again what has ended, when, and what with it.
//!
//! Rules that hold here:
//!
//! 1. Within any window there are no more restarts than the budget has; the next exit is given up.
//! 2. The delay of a restart grows with the number of restarts in the window, so it is back at its start
//!    once things have been quiet for as long as the window.
//! 3. While a restart of all is due, what ends meanwhile is part of it and costs nothing.

use std::time::Duration;

use super::window::Window;
use crate::clock::Timestamp;
use crate::fleet::backoff::Backoff;

/// Which exits lead to a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Restart {
    /// None.
    Never,
    /// Those that were failures.
    OnFailure,
    /// All.
    Always,
}

/// Who is started again when one has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Restarts {
    /// Only the one that ended.
    OneForOne,
    /// All under this supervisor, because they do not work without each other.
    OneForAll,
}

/// How one ended. What the supervisor had ended itself is not told to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Exit {
    /// It had nothing more to do.
    Normal,
    /// A panic, an error, a failed heartbeat.
    Failed,
}

/// When and how often to start again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    when: Restart,
    restarts: Restarts,
    max_restarts: u16,
    window: Duration,
    backoff: Backoff,
}

impl RestartPolicy {
    /// Starts again after these exits, one for one, 3 times within 60 s, after 100 ms doubled each
    /// time, up to 10 s.
    #[must_use]
    pub const fn new(when: Restart) -> Self {
        Self {
            when,
            restarts: Restarts::OneForOne,
            max_restarts: 3,
            window: Duration::from_secs(60),
            backoff: Backoff::exponential(Duration::from_millis(100), Duration::from_secs(10)),
        }
    }

    /// Sets who is started again. Default: [`Restarts::OneForOne`].
    #[must_use]
    pub const fn restarts(mut self, restarts: Restarts) -> Self {
        self.restarts = restarts;
        self
    }

    /// Sets how many restarts there may be within any window of this width. Default: 3 within 60 s.
    ///
    /// With 0 every exit that calls for a restart is given up; a window of zero never fills. Costs 16
    /// bytes for each restart of the budget.
    #[must_use]
    pub const fn budget(mut self, max_restarts: u16, window: Duration) -> Self {
        self.max_restarts = max_restarts;
        self.window = window;
        self
    }

    /// Sets the delays. Default: from 100 ms to 10 s, doubled each time, without jitter.
    #[must_use]
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }
}

/// What to do about an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestartDecision {
    /// Let it be.
    Leave,
    /// Start again who ended, or all.
    Restart {
        /// Who.
        restarts: Restarts,
        /// Not before this moment.
        at: Timestamp,
        /// The restarts within the window, this one included.
        count: u16,
    },
    /// It will be started with all others, at the moment that was told before.
    Covered {
        /// That moment.
        at: Timestamp,
    },
    /// The budget is used up: whoever stands above has to decide.
    GiveUp {
        /// When the budget has room again; `None` for a budget of none.
        relief: Option<Timestamp>,
    },
}

/// Decides about the exits of one agent, or of several that are restarted together.
///
/// ```
/// use phalanx::Timestamp;
/// use phalanx::fleet::Backoff;
/// use phalanx::fleet::supervise::{Exit, Restart, RestartDecision, RestartPolicy, Supervisor};
/// use std::time::Duration;
///
/// let policy = RestartPolicy::new(Restart::OnFailure)
///     .budget(1, Duration::from_secs(60))
///     .backoff(Backoff::NONE);
/// let mut supervisor = Supervisor::new(policy, 0);
/// let now = Timestamp::ZERO;
/// assert_eq!(supervisor.exited(Exit::Normal, now), RestartDecision::Leave);
/// assert!(matches!(supervisor.exited(Exit::Failed, now), RestartDecision::Restart { .. }));
/// assert!(matches!(supervisor.exited(Exit::Failed, now), RestartDecision::GiveUp { .. }));
/// ```
#[derive(Clone, Debug)]
pub struct Supervisor {
    policy: RestartPolicy,
    seed: u64,
    recent: Window,
    /// When a restart of all is due.
    all_at: Option<Timestamp>,
}

impl Supervisor {
    /// One that has seen no exit. The seed decides the jitter of the delays.
    #[must_use]
    pub fn new(policy: RestartPolicy, seed: u64) -> Self {
        let recent = Window::new(policy.window, usize::from(policy.max_restarts));
        Self { policy, seed, recent, all_at: None }
    }

    /// Decides about an exit.
    pub fn exited(&mut self, exit: Exit, now: Timestamp) -> RestartDecision {
        let wanted = match self.policy.when {
            Restart::Never => false,
            Restart::OnFailure => exit == Exit::Failed,
            Restart::Always => true,
        };
        if let Some(at) = self.all_at.filter(|at| now < *at) {
            return RestartDecision::Covered { at };
        }
        if !wanted {
            return RestartDecision::Leave;
        }
        let before = self.recent.count(now);
        if before >= usize::from(self.policy.max_restarts) {
            return RestartDecision::GiveUp { relief: self.recent.relief() };
        }
        self.recent.push(now);
        let count = before as u16 + 1;
        let at = now + self.policy.backoff.delay(u32::from(count), self.seed);
        if self.policy.restarts == Restarts::OneForAll {
            self.all_at = Some(at);
        }
        RestartDecision::Restart { restarts: self.policy.restarts, at, count }
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;
    use RestartDecision::{Covered, GiveUp, Leave};

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(seconds))
    }

    fn policy(when: Restart) -> RestartPolicy {
        let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(3));
        RestartPolicy::new(when).budget(3, Duration::from_secs(100)).backoff(backoff)
    }

    fn one(due: u64, count: u16) -> RestartDecision {
        RestartDecision::Restart { restarts: Restarts::OneForOne, at: at(due), count }
    }

    #[test]
    fn a_policy_restarts_after_the_exits_it_names() {
        let decide = |when, exit| Supervisor::new(policy(when), 0).exited(exit, at(5));
        assert_eq!(decide(Restart::Never, Exit::Normal), Leave);
        assert_eq!(decide(Restart::Never, Exit::Failed), Leave);
        assert_eq!(decide(Restart::OnFailure, Exit::Normal), Leave);
        assert_eq!(decide(Restart::OnFailure, Exit::Failed), one(6, 1));
        assert_eq!(decide(Restart::Always, Exit::Normal), one(6, 1));
        assert_eq!(decide(Restart::Always, Exit::Failed), one(6, 1));
    }

    #[test]
    fn the_budget_slides_and_the_delay_grows_within_it() {
        let mut supervisor = Supervisor::new(policy(Restart::OnFailure), 0);
        assert_eq!(supervisor.exited(Exit::Failed, at(0)), one(1, 1));
        assert_eq!(supervisor.exited(Exit::Failed, at(10)), one(12, 2));
        assert_eq!(supervisor.exited(Exit::Failed, at(20)), one(23, 3));
        assert_eq!(supervisor.exited(Exit::Failed, at(30)), GiveUp { relief: Some(at(100)) });
        assert_eq!(supervisor.exited(Exit::Failed, at(99)), GiveUp { relief: Some(at(100)) });
        assert_eq!(supervisor.exited(Exit::Failed, at(100)), one(103, 3), "the first has left");
        assert_eq!(supervisor.exited(Exit::Failed, at(109)), GiveUp { relief: Some(at(110)) });
        assert_eq!(supervisor.exited(Exit::Failed, at(300)), one(301, 1), "all quiet since");
    }

    #[test]
    fn what_is_not_restarted_costs_no_budget() {
        let mut supervisor = Supervisor::new(policy(Restart::OnFailure), 0);
        for _ in 0..10 {
            assert_eq!(supervisor.exited(Exit::Normal, at(0)), Leave);
        }
        assert_eq!(supervisor.exited(Exit::Failed, at(0)), one(1, 1));
    }

    #[test]
    fn a_budget_of_none_gives_up_at_once() {
        let policy = policy(Restart::Always).budget(0, Duration::from_secs(1));
        let mut supervisor = Supervisor::new(policy, 0);
        assert_eq!(supervisor.exited(Exit::Failed, at(0)), GiveUp { relief: None });
    }

    #[test]
    fn one_for_all_restarts_all_once_for_those_that_end_together() {
        let policy = policy(Restart::OnFailure).restarts(Restarts::OneForAll);
        let mut supervisor = Supervisor::new(policy, 0);
        let all = |due, count| RestartDecision::Restart {
            restarts: Restarts::OneForAll,
            at: at(due),
            count,
        };
        assert_eq!(supervisor.exited(Exit::Normal, at(9)), Leave, "nothing is due");
        assert_eq!(supervisor.exited(Exit::Failed, at(10)), all(11, 1));
        assert_eq!(supervisor.exited(Exit::Failed, at(10)), Covered { at: at(11) });
        assert_eq!(supervisor.exited(Exit::Normal, at(10)), Covered { at: at(11) });
        assert_eq!(supervisor.exited(Exit::Failed, at(11)), all(13, 2), "it had been started");
    }

    #[test]
    fn one_for_one_covers_nobody_else() {
        let mut supervisor = Supervisor::new(policy(Restart::Always), 0);
        assert_eq!(supervisor.exited(Exit::Failed, at(0)), one(1, 1));
        assert_eq!(supervisor.exited(Exit::Failed, at(0)), one(2, 2));
    }

    #[test]
    fn time_that_goes_back_does_not_refill_the_budget() {
        let mut supervisor = Supervisor::new(policy(Restart::Always), 0);
        for moment in [50, 40, 30] {
            supervisor.exited(Exit::Failed, at(moment));
        }
        assert!(matches!(supervisor.exited(Exit::Failed, at(20)), GiveUp { .. }));
        assert!(matches!(supervisor.exited(Exit::Failed, at(149)), GiveUp { .. }));
    }

    #[test]
    fn the_seed_decides_the_jitter() {
        let policy = policy(Restart::Always)
            .backoff(Backoff::constant(Duration::from_secs(9)).jitter_percent(50));
        let first = |seed| Supervisor::new(policy, seed).exited(Exit::Failed, at(0));
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }
}
