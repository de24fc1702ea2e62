//! Heartbeats: how long an agent may be silent before it is degraded, and before it has failed.
//!
//! Rules that hold here:
//!
//! 1. An agent is degraded from the moment its silence is as long as the first threshold, failed from
//!    the second on.
//! 2. A beat ends the silence and heals a degraded agent. A failed one stays failed: others may have
//!    taken its place.
//! 3. Each change is told once.
//! 4. No moment is earlier than the latest one heard of.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::{Error, ErrorKind};

/// How an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Health {
    /// It was heard of in time.
    Healthy,
    /// It has been silent for a while: others go first.
    Degraded,
    /// It has been silent for too long: it gets nothing more.
    Failed,
}

/// How long an agent may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatPolicy {
    degraded_after: Duration,
    failed_after: Duration,
}

impl HeartbeatPolicy {
    /// Degraded and failed after so long a silence.
    ///
    /// # Errors
    /// `InvalidArgument` if the first is zero or longer than the second.
    pub fn new(degraded_after: Duration, failed_after: Duration) -> Result<Self, Error> {
        if degraded_after.is_zero() || degraded_after > failed_after {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "an agent is degraded after {degraded_after:?} and failed after {failed_after:?}: \
                     the first must be more than zero, and no more than the second"
                ),
            ));
        }
        Ok(Self { degraded_after, failed_after })
    }
}

/// The heartbeat of one agent.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    policy: HeartbeatPolicy,
    /// The latest moment heard of (rule 4).
    now: Timestamp,
    last: Timestamp,
    told: Health,
}

impl Heartbeat {
    /// That of an agent that starts now.
    #[must_use]
    pub const fn new(policy: HeartbeatPolicy, now: Timestamp) -> Self {
        Self { policy, now, last: now, told: Health::Healthy }
    }

    /// It was heard of; whether it counts: a failed agent is not healed (rule 2).
    pub fn beat(&mut self, now: Timestamp) -> bool {
        self.now = self.now.max(now);
        if self.health(self.now) == Health::Failed {
            return false;
        }
        self.last = self.now;
        true
    }

    /// How it is now.
    #[must_use]
    pub fn health(&self, now: Timestamp) -> Health {
        let silence = self.now.max(now) - self.last;
        if silence >= self.policy.failed_after {
            Health::Failed
        } else if silence >= self.policy.degraded_after {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }

    /// How it is now, if that was not told yet.
    pub fn check(&mut self, now: Timestamp) -> Option<Health> {
        self.now = self.now.max(now);
        let health = self.health(self.now);
        let changed = health != self.told;
        self.told = health;
        changed.then_some(health)
    }

    /// When a [check](Self::check) will have something to tell if nothing is heard until then; `None`
    /// once it was told that it has failed. After a beat that healed the agent, or came too late, that is
    /// at once: whoever waits for this moment asks for it again after each beat.
    #[must_use]
    pub fn next_check(&self) -> Option<Timestamp> {
        if self.health(self.now) != self.told {
            return Some(self.now);
        }
        match self.told {
            Health::Healthy => Some(self.last + self.policy.degraded_after),
            Health::Degraded => Some(self.last + self.policy.failed_after),
            Health::Failed => None,
        }
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;
    use Health::{Degraded, Failed, Healthy};

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(seconds))
    }

    fn policy(degraded: u64, failed: u64) -> Result<HeartbeatPolicy, Error> {
        HeartbeatPolicy::new(Duration::from_secs(degraded), Duration::from_secs(failed))
    }

    fn heartbeat() -> Heartbeat {
        Heartbeat::new(policy(10, 30).expect("they are in order"), at(100))
    }

    #[test]
    fn silence_degrades_and_then_fails_at_its_thresholds() {
        let heartbeat = heartbeat();
        let healths = [100, 109, 110, 129, 130, 999].map(|moment| heartbeat.health(at(moment)));
        assert_eq!(healths, [Healthy, Healthy, Degraded, Degraded, Failed, Failed]);
    }

    #[test]
    fn each_change_is_told_once_and_foretold() {
        let mut heartbeat = heartbeat();
        assert_eq!((heartbeat.check(at(109)), heartbeat.next_check()), (None, Some(at(110))));
        assert_eq!(heartbeat.check(at(110)), Some(Degraded));
        assert_eq!((heartbeat.check(at(129)), heartbeat.next_check()), (None, Some(at(130))));
        assert_eq!(heartbeat.check(at(130)), Some(Failed));
        assert_eq!((heartbeat.check(at(131)), heartbeat.next_check()), (None, None));
    }

    #[test]
    fn a_beat_heals_a_degraded_agent() {
        let mut heartbeat = heartbeat();
        assert_eq!(heartbeat.check(at(115)), Some(Degraded));
        assert!(heartbeat.beat(at(129)));
        assert_eq!(heartbeat.check(at(129)), Some(Healthy));
        assert_eq!(heartbeat.next_check(), Some(at(139)));
    }

    #[test]
    fn a_beat_that_comes_too_late_heals_nobody() {
        let mut heartbeat = heartbeat();
        assert!(!heartbeat.beat(at(130)), "failed, though nobody had looked");
        assert_eq!(heartbeat.check(at(130)), Some(Failed));
        assert!(!heartbeat.beat(at(131)));
        assert_eq!(heartbeat.health(at(101)), Failed);
    }

    #[test]
    fn a_beat_from_the_past_shortens_no_silence_and_lengthens_none() {
        let mut heartbeat = heartbeat();
        assert!(heartbeat.beat(at(105)));
        assert!(heartbeat.beat(at(90)));
        assert_eq!(heartbeat.next_check(), Some(at(115)));
    }

    #[test]
    fn a_beat_that_heals_is_to_be_told_at_once() {
        let mut heartbeat = heartbeat();
        assert_eq!(heartbeat.check(at(115)), Some(Degraded));
        assert!(heartbeat.beat(at(116)));
        assert_eq!(heartbeat.next_check(), Some(at(116)), "or nobody learns that it is well again");
        assert_eq!(
            (heartbeat.check(at(116)), heartbeat.next_check()),
            (Some(Healthy), Some(at(126)))
        );
        assert!(!heartbeat.beat(at(146)));
        assert_eq!(heartbeat.next_check(), Some(at(146)), "the beat has found it failed");
        assert_eq!((heartbeat.check(at(146)), heartbeat.next_check()), (Some(Failed), None));
    }

    #[test]
    fn time_that_goes_back_heals_nobody() {
        let mut heartbeat = heartbeat();
        assert_eq!(heartbeat.check(at(110)), Some(Degraded));
        assert_eq!((heartbeat.check(at(109)), heartbeat.health(at(100))), (None, Degraded));
        assert!(!heartbeat.beat(at(130)));
        assert!(!heartbeat.beat(at(129)), "it had failed by then");
        assert_eq!(heartbeat.health(at(129)), Failed);
    }

    #[test]
    fn thresholds_out_of_order_are_refused() {
        for (degraded, failed) in [(0, 5), (6, 5)] {
            let refused = policy(degraded, failed).expect_err("they are not");
            assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
        }
        let both = policy(5, 5).expect("one threshold for both");
        assert_eq!(Heartbeat::new(both, at(0)).check(at(5)), Some(Failed));
    }
}
