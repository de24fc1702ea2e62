//! One circuit breaker for all agents of a type.
//!
//! Rules that hold between any two times the state's lock is held:
//!
//! 1. While a circuit is closed, its agents serve as they would without it. While it is open none does. While it
//!    is half-open those on trial do, with one lease each, and no others.
//! 2. An agent goes on trial when it holds no lease, so whatever it holds then is the trial. There is one on
//!    trial at a time, but for trials that were not heard of for as long as the policy waits. Whoever could go
//!    on trial is looked at as often, while all of them are busy.
//!    An agent whose handler could not be made is as good as one that failed on trial, where nobody is on trial.
//! 3. An outcome counts for the era in which its attempt began. Each change of the circuit begins one, so what
//!    began before the circuit opened says nothing about how things are after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::fleet::id::AgentId;
use crate::fleet::supervise::{Breaker, BreakerPolicy, BreakerState, Permit};

/// See the file's head.
#[derive(Debug)]
pub(super) struct Circuit {
    pub(super) name: Arc<str>,
    breaker: Breaker,
    pub(super) era: u32,
    phase: Phase,
    pub(super) members: BTreeSet<AgentId>,
    /// For how long it waits for a trial, and for somebody to try who is busy.
    patience: Duration,
    /// Those that are on trial.
    trials: BTreeMap<AgentId, Permit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open { until: Timestamp },
    HalfOpen { seeks: Seeks, until: Timestamp },
}

/// Whether a half-open circuit looks for somebody to go on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seeks {
    /// All that could are to be looked at in this step.
    All,
    /// All that could hold leases: whoever gives the last one back may. All are looked at again in time.
    Freed,
    /// Nobody, before it is time.
    Nobody,
}

/// What became of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fleet) enum Turned {
    Opened(Timestamp),
    Closed,
}

impl Circuit {
    pub(super) fn new(name: Arc<str>, policy: BreakerPolicy, seed: u64) -> Self {
        Self {
            name,
            patience: policy.patience(),
            breaker: Breaker::new(policy, seed),
            era: 0,
            phase: Phase::Closed,
            members: BTreeSet::new(),
            trials: BTreeMap::new(),
        }
    }

    /// Whether it lets an agent serve (rule 1), and whether with one lease alone.
    pub(super) fn admits(&self, agent: AgentId) -> (bool, bool) {
        match self.phase {
            Phase::Closed => (true, false),
            Phase::Open { .. } => (false, false),
            Phase::HalfOpen { .. } => (self.trials.contains_key(&agent), true),
        }
    }

    pub(super) fn state(&self, now: Timestamp) -> BreakerState {
        self.breaker.state(now)
    }

    /// When it is to be looked at.
    pub(super) const fn alarm(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Closed | Phase::HalfOpen { seeks: Seeks::All, .. } => None,
            Phase::Open { until } | Phase::HalfOpen { until, .. } => Some(until),
        }
    }

    pub(super) fn on_trial(&self) -> impl Iterator<Item = &AgentId> {
        self.trials.keys()
    }

    /// Whom it looks for to go on trial.
    pub(super) const fn seeks(&self) -> Seeks {
        match self.phase {
            Phase::HalfOpen { seeks, .. } => seeks,
            Phase::Closed | Phase::Open { .. } => Seeks::Nobody,
        }
    }

    /// Until when nobody is put on trial, if it is not closed and does not look for somebody now.
    pub(super) const fn tries_again(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Open { until } | Phase::HalfOpen { seeks: Seeks::Nobody, until } => Some(until),
            Phase::Closed | Phase::HalfOpen { .. } => None,
        }
    }

    pub(super) const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// There is somebody who may be able to go on trial and was not when it looked.
    pub(super) fn look_again(&mut self) {
        if self.seeks() == Seeks::Freed {
            self.seek();
        }
    }

    /// Nobody who could go on trial is idle.
    pub(super) fn found_nobody(&mut self, now: Timestamp) {
        if self.seeks() == Seeks::All {
            self.phase = Phase::HalfOpen { seeks: Seeks::Freed, until: now + self.patience };
        }
    }

    /// Takes notice of the time; whether it has become half-open.
    pub(super) fn ring(&mut self, now: Timestamp) -> bool {
        match &mut self.phase {
            Phase::Open { until } if *until <= now => {
                self.era += 1;
                self.phase = Phase::HalfOpen { seeks: Seeks::All, until: now };
                true
            }
            Phase::HalfOpen { seeks, until } if *until <= now => {
                *seeks = Seeks::All;
                false
            }
            _ => false,
        }
    }

    /// Puts an agent that holds no lease on trial, if it is time.
    pub(super) fn try_with(&mut self, agent: AgentId, now: Timestamp) -> bool {
        if self.seeks() == Seeks::Nobody {
            return false;
        }
        if let Some(unused) = self.trials.remove(&agent) {
            // It is on trial and nobody took it: it stays so.
            self.breaker.abandoned(unused);
        }
        match self.breaker.admit(now) {
            Ok(permit) => {
                self.trials.insert(agent, permit);
                let until = self.breaker.admit(now).err();
                let until = until.unwrap_or(now);
                self.phase = Phase::HalfOpen { seeks: Seeks::Nobody, until };
                true
            }
            Err(until) => {
                self.phase = Phase::HalfOpen { seeks: Seeks::Nobody, until };
                false
            }
        }
    }

    /// An agent is no candidate any more, or its trial came to nothing.
    pub(super) fn abandon(&mut self, agent: AgentId) {
        if let Some(permit) = self.trials.remove(&agent) {
            self.breaker.abandoned(permit);
            self.seek();
        }
    }

    fn seek(&mut self) {
        if let Phase::HalfOpen { seeks, .. } = &mut self.phase {
            *seeks = Seeks::All;
        }
    }

    /// Takes notice of an outcome of the present era (rule 3).
    pub(super) fn went(&mut self, agent: AgentId, well: bool, now: Timestamp) -> Option<Turned> {
        let permit = match self.phase {
            Phase::Open { .. } => return None,
            Phase::Closed if well => return None,
            Phase::Closed => self.breaker.admit(now).ok()?,
            Phase::HalfOpen { .. } => self.trials.remove(&agent)?,
        };
        if well {
            self.breaker.succeeded(permit);
            if self.breaker.state(now) != BreakerState::Closed {
                self.seek();
                return None;
            }
            self.turn(Phase::Closed);
            return Some(Turned::Closed);
        }
        self.failed(permit, now)
    }

    /// Takes notice that somebody who could have gone on trial could not be made ready in the present era: as of a trial
    /// that failed, if it is half-open and nobody is on trial.
    pub(super) fn not_made(&mut self, now: Timestamp) -> Option<Turned> {
        let Phase::HalfOpen { .. } = self.phase else { return None };
        let permit = self.breaker.admit(now).ok()?;
        self.failed(permit, now)
    }

    fn failed(&mut self, permit: Permit, now: Timestamp) -> Option<Turned> {
        if !self.breaker.failed(permit, now) {
            return None;
        }
        let until = match self.breaker.state(now) {
            BreakerState::Open { until } => until,
            // It is open for no time at all.
            _ => now,
        };
        self.turn(Phase::Open { until });
        Some(Turned::Opened(until))
    }

    fn turn(&mut self, phase: Phase) {
        self.era += 1;
        self.trials.clear();
        self.phase = phase;
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::fleet::Backoff;

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn a_circuit_looks_for_somebody_to_try_while_it_is_half_open_and_at_all_in_time() {
        // Opens at the first failure, for 4 s; a trial keeps others out for 5 s.
        let open_for = Backoff::exponential(Duration::from_secs(4), Duration::from_secs(10));
        let policy = BreakerPolicy::new(NonZeroU16::MIN, Duration::from_secs(10));
        let policy = policy.open_for(open_for).trial_timeout(Duration::from_secs(5));
        let mut circuit = Circuit::new("worker".into(), policy, 0);
        let agent = AgentId { slot: 0, generation: 1 };
        circuit.found_nobody(at(0));
        assert!(!circuit.try_with(agent, at(0)) && circuit.is_closed(), "it tries nobody");
        assert_eq!(circuit.went(agent, false, at(0)), Some(Turned::Opened(at(4))));
        assert!(!circuit.try_with(agent, at(3)) && circuit.ring(at(4)));
        assert_eq!((circuit.seeks(), circuit.alarm()), (Seeks::All, None));
        // However often nobody is found meanwhile, all are looked at again at that time.
        for seconds in [4, 6, 8] {
            circuit.found_nobody(at(seconds));
            assert_eq!((circuit.seeks(), circuit.alarm()), (Seeks::Freed, Some(at(9))));
        }
        assert!(!circuit.ring(at(9)), "it was half-open before");
        assert_eq!(circuit.seeks(), Seeks::All);
        assert!(circuit.try_with(agent, at(9)));
        assert_eq!((circuit.seeks(), circuit.alarm()), (Seeks::Nobody, Some(at(14))));
        assert!(!circuit.try_with(agent, at(10)), "one is on trial");
    }
}
