//! Whether to start again what has ended, when, and what with it.
//!
//! Rules that hold here:
//!
//! 1. Within any window there are no more restarts than the budget has; the next exit is given up. A
//!    restart counts from the moment at which it is due, so delays that differ do not crowd a window.
//! 2. The delay of a restart grows with the number of restarts in the window and ahead, so it is back at
//!    its start once things have been quiet for as long as the window.
//! 3. While a restart of all is due, what ends meanwhile is part of it and costs nothing.
//! 4. No moment is earlier than the latest one heard of.

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
    /// All: failures, and those of an agent that [had itself stop](super::super::TaskContext::stop_agent). What the host
    /// asks for, a kill, a drain, is no exit and starts nothing again.
    Always,
}

/// Who is started again when one has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RestartStrategy {
    /// Only the one that ended.
    OneForOne,
    /// All under this supervisor, because they do not work without each other.
    ///
    /// What ends before that restart is due belongs to it. With a delay of zero nothing does: of several
    /// that end together each costs a restart.
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
    strategy: RestartStrategy,
    max_restarts: u16,
    window: Duration,
    backoff: Backoff,
    on_errors: bool,
}

impl RestartPolicy {
    /// Starts again after these exits, one for one, 3 times within 60 s, after 100 ms doubled each
    /// time, up to 10 s.
    #[must_use]
    pub const fn new(when: Restart) -> Self {
        Self {
            when,
            strategy: RestartStrategy::OneForOne,
            max_restarts: 3,
            window: Duration::from_secs(60),
            backoff: Backoff::exponential(Duration::from_millis(100), Duration::from_secs(10)),
            on_errors: false,
        }
    }

    /// Sets who is started again. Default: [`RestartStrategy::OneForOne`].
    #[must_use]
    pub const fn strategy(mut self, strategy: RestartStrategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Sets how many restarts there may be within any window of this width. Default: 3 within 60 s.
    ///
    /// With 0 every exit that calls for a restart is given up; a window of zero never fills, and neither
    /// does one that is shorter than the delays add up to. Costs 16 bytes for each restart of the budget.
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

    /// Sets whether an error that a handler returns is a failure of its agent, and not of the task alone; and an
    /// output that a verifier rejects, and a future that the executor drops. Default: no; a panic always is. The fleet reads it; a [`Supervisor`] is told of exits only.
    #[must_use]
    pub const fn on_errors(mut self, counts: bool) -> Self {
        self.on_errors = counts;
        self
    }

    /// Whether errors count.
    pub(in crate::fleet) const fn counts_errors(&self) -> bool {
        self.on_errors
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
        strategy: RestartStrategy,
        /// Not before this moment.
        at: Timestamp,
        /// The restarts within the window and ahead, this one included.
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
    /// When restarts were due or will be.
    due: Window,
    /// The latest moment heard of (rule 4).
    now: Timestamp,
    /// When a restart of all is due.
    all_at: Option<Timestamp>,
}

impl Supervisor {
    /// One that has seen no exit. The seed decides the jitter of the delays.
    #[must_use]
    pub fn new(policy: RestartPolicy, seed: u64) -> Self {
        let due = Window::new(policy.window);
        Self { policy, seed, due, now: Timestamp::ZERO, all_at: None }
    }

    pub(in crate::fleet) const fn strategy(&self) -> RestartStrategy {
        self.policy.strategy
    }

    /// Decides about an exit.
    pub fn exited(&mut self, exit: Exit, now: Timestamp) -> RestartDecision {
        self.now = self.now.max(now);
        let now = self.now;
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
        let before = self.due.count(now);
        if before >= usize::from(self.policy.max_restarts) {
            return RestartDecision::GiveUp { relief: self.due.relief() };
        }
        let count = before as u16 + 1;
        let at = now + self.policy.backoff.delay(u32::from(count), self.seed);
        self.due.record(at);
        if self.policy.strategy == RestartStrategy::OneForAll {
            self.all_at = Some(at);
        }
        RestartDecision::Restart { strategy: self.policy.strategy, at, count }
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;
    use RestartDecision::{Covered, GiveUp, Leave};
    use proptest::prelude::*;

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(seconds))
    }

    fn policy(when: Restart) -> RestartPolicy {
        let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(3));
        RestartPolicy::new(when).budget(3, Duration::from_secs(100)).backoff(backoff)
    }

    fn one(due: u64, count: u16) -> RestartDecision {
        RestartDecision::Restart { strategy: RestartStrategy::OneForOne, at: at(due), count }
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
        assert_eq!(supervisor.exited(Exit::Failed, at(30)), GiveUp { relief: Some(at(101)) });
        assert_eq!(supervisor.exited(Exit::Failed, at(100)), GiveUp { relief: Some(at(101)) });
        assert_eq!(supervisor.exited(Exit::Failed, at(101)), one(104, 3), "the first has left");
        assert_eq!(supervisor.exited(Exit::Failed, at(111)), GiveUp { relief: Some(at(112)) });
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
        let policy = policy(Restart::OnFailure).strategy(RestartStrategy::OneForAll);
        let mut supervisor = Supervisor::new(policy, 0);
        let all = |due, count| RestartDecision::Restart {
            strategy: RestartStrategy::OneForAll,
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
    fn a_restart_counts_from_the_moment_at_which_it_is_due() {
        let policy = policy(Restart::OnFailure)
            .budget(2, Duration::from_secs(10))
            .backoff(Backoff::exponential(Duration::from_secs(20), Duration::from_secs(50)));
        let mut supervisor = Supervisor::new(policy, 0);
        assert_eq!(supervisor.exited(Exit::Failed, at(0)), one(20, 1));
        assert_eq!(supervisor.exited(Exit::Failed, at(20)), one(60, 2), "it fails as it starts");
        assert_eq!(supervisor.exited(Exit::Failed, at(29)), GiveUp { relief: Some(at(30)) });
        assert_eq!(supervisor.exited(Exit::Failed, at(30)), one(70, 2));
    }

    #[test]
    fn time_that_goes_back_does_not_refill_the_budget() {
        let mut supervisor = Supervisor::new(policy(Restart::Always), 0);
        for moment in [50, 40, 30] {
            supervisor.exited(Exit::Failed, at(moment));
        }
        let relief = Some(at(151));
        assert_eq!(supervisor.exited(Exit::Failed, at(20)), GiveUp { relief });
        assert_eq!(supervisor.exited(Exit::Failed, at(150)), GiveUp { relief });
        assert_eq!(supervisor.exited(Exit::Failed, at(151)), one(154, 3));
    }

    #[test]
    fn the_seed_decides_the_jitter() {
        let policy = policy(Restart::Always)
            .backoff(Backoff::constant(Duration::from_secs(9)).jitter_percent(50));
        let first = |seed| Supervisor::new(policy, seed).exited(Exit::Failed, at(0));
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }

    proptest! {
        /// Rule 1, taken at its word, for exits at any time and delays of any size.
        #[test]
        fn no_window_has_more_restarts_than_the_budget(
            exits in proptest::collection::vec((0..9_u64, 0..40_u64), 1..150),
            (max, width, first, cap) in (0..5_u16, 0..50_u64, 0..40_u64, 0..90_u64),
            (jitter, seed) in (0..=100_u8, any::<u64>()),
        ) {
            let seconds = Duration::from_secs;
            let backoff = Backoff::exponential(seconds(first), seconds(cap)).factor(3);
            let policy = RestartPolicy::new(Restart::Always)
                .budget(max, seconds(width))
                .backoff(backoff.jitter_percent(jitter));
            let mut supervisor = Supervisor::new(policy, seed);
            let mut dues = Vec::new();
            let mut now = 0;
            for (often, pass) in exits {
                now += if often == 0 { pass } else { 0 };
                match supervisor.exited(Exit::Failed, at(now)) {
                    RestartDecision::Restart { at, count, .. } => {
                        prop_assert!(count >= 1 && count <= max);
                        dues.push(at);
                    }
                    GiveUp { relief } => {
                        prop_assert_eq!(relief.is_none(), max == 0);
                        prop_assert!(relief.is_none_or(|relief| relief > at(now)));
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
                prop_assert!(supervisor.due.len() <= usize::from(max), "memory is bounded");
            }
            dues.sort();
            for (index, due) in dues.iter().enumerate() {
                let within = dues[index..].iter().filter(|other| **other - *due < seconds(width));
                prop_assert!(within.count() <= usize::from(max));
            }
        }
    }
}
