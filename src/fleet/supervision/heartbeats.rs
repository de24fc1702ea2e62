//! Agents that say now and then that they live, and what the fleet does about those that do not.
//!
//! Rules that hold between any two times the state's lock is held:
//!
//! 1. An agent is heard of when it beats, when the host does so for it, and when an attempt or a message of its
//!    present incarnation ends, whatever came of that.
//! 2. A ward with a heart that is up has an alarm for it, no later than its silence has to be noticed. One that is
//!    down has none, and a new heart when it is started.

use std::time::Duration;

use super::{FailureReason, Supervision};
use crate::clock::Timestamp;
use crate::fleet::Fleet;
use crate::fleet::agent::Condition;
use crate::fleet::id::AgentId;
use crate::fleet::inner::{After, Inner, State};
use crate::fleet::log::FleetEvent;
use crate::fleet::stop::gone;
use crate::fleet::supervise::{Health, Heartbeat, HeartbeatPolicy};
use crate::{Error, ErrorKind};

/// How an agent is heard of.
#[derive(Debug)]
pub(super) struct Heart {
    policy: HeartbeatPolicy,
    beats: Heartbeat,
    /// When it was heard of last.
    last: Timestamp,
    health: Health,
    /// Rule 2.
    pub(super) alarm: Option<Timestamp>,
}

impl Heart {
    pub(super) const fn new(policy: HeartbeatPolicy, now: Timestamp) -> Self {
        let beats = Heartbeat::new(policy, now);
        Self { policy, beats, last: now, health: Health::Healthy, alarm: None }
    }

    pub(super) const fn renewed(&self, now: Timestamp) -> Self {
        Self::new(self.policy, now)
    }

    /// What an agent is fit for that would be fit for this otherwise.
    pub(super) const fn condition(&self, condition: Condition) -> Condition {
        match (condition, self.health) {
            (Condition::Fit | Condition::Degraded, Health::Degraded) => Condition::Degraded,
            (Condition::Fit | Condition::Degraded | Condition::Starting, Health::Failed) => {
                Condition::Failed
            }
            _ => condition,
        }
    }

    pub(super) const fn has_failed(&self) -> bool {
        matches!(self.health, Health::Failed)
    }
}

impl Supervision {
    /// Has the alarm of a ward's heart be where it is to be.
    pub(super) fn arm(&mut self, agent: AgentId) {
        let Some(ward) = self.wards.get_mut(&agent) else { return };
        let up = ward.down.is_none();
        let Some(heart) = &mut ward.heart else { return };
        let alarm = heart.beats.next_check().filter(|_| up);
        if let Some(before) = std::mem::replace(&mut heart.alarm, alarm) {
            self.hearts.remove(&(before, agent));
        }
        self.hearts.extend(alarm.map(|at| (at, agent)));
    }

    /// An agent was heard of; whether it counts, or `None` for one without a heart.
    fn beat(&mut self, agent: AgentId, now: Timestamp) -> Option<bool> {
        let ward = self.wards.get_mut(&agent)?;
        let heart = ward.heart.as_mut()?;
        if ward.down.is_some() {
            return Some(false);
        }
        let counts = heart.beats.beat(now);
        if counts {
            heart.last = heart.last.max(now);
        }
        Some(counts)
    }

    /// How an agent is, if that is news, and how long it has been silent.
    fn check_heart(&mut self, agent: AgentId, now: Timestamp) -> Option<(Health, Duration)> {
        let ward = self.wards.get_mut(&agent).filter(|ward| ward.down.is_none())?;
        let heart = ward.heart.as_mut()?;
        let health = heart.beats.check(now)?;
        heart.health = health;
        Some((health, now.max(heart.last) - heart.last))
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Fleet<T, O> {
    /// Says that an agent lives, for one whose spec has a [heartbeat](super::super::AgentSpec::heartbeat). A
    /// handler does so for its own agent by a [`WeakFleet`](super::super::WeakFleet). Whether it counts: not if
    /// the agent has failed already, though nobody may have noticed yet. It takes the short lock of the tasks.
    ///
    /// # Errors
    /// `NotFound` if the agent is gone, `Unsupported` if its spec has no heartbeat.
    pub fn heartbeat(&self, agent: AgentId) -> Result<bool, Error> {
        let inner = self.inner();
        let mut after = After::new();
        let counts = {
            let mut guard = inner.state.lock();
            let state = &mut *guard;
            let counts = inner.heard_of(state, agent, &mut after);
            // It may have been on trial, and be silent for too long.
            inner.try_circuits(state, None, &mut after);
            inner.publish_alarm(state);
            counts
        };
        inner.finish(after);
        counts.ok_or_else(|| {
            if inner.pool.lives(agent) {
                let message = format!("agent {agent} has no heartbeat: its spec sets none");
                Error::new(ErrorKind::Unsupported, message)
            } else {
                gone(agent)
            }
        })
    }
}

impl<T, O> Inner<T, O> {
    /// Takes notice that an agent lives (rule 1).
    pub(super) fn heard_of(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        after: &mut After<T, O>,
    ) -> Option<bool> {
        let now = self.clock.now();
        let counts = state.supervision.beat(agent, now)?;
        self.look_at_heart(state, agent, now, after);
        Some(counts)
    }

    /// Notices agents that have been silent for too long.
    pub(super) fn ring_hearts(
        &self,
        state: &mut State<T, O>,
        now: Timestamp,
        after: &mut After<T, O>,
    ) {
        while !state.stopping
            && let Some((_, agent)) =
                state.supervision.hearts.first().copied().filter(|at| at.0 <= now)
        {
            self.look_at_heart(state, agent, now, after);
        }
    }

    fn look_at_heart(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        now: Timestamp,
        after: &mut After<T, O>,
    ) {
        if let Some((health, silent)) = state.supervision.check_heart(agent, now) {
            match health {
                Health::Healthy => {
                    after.events.push(FleetEvent::AgentRecovered { agent });
                    state.counts.agents_recovered += 1;
                }
                Health::Degraded => {
                    after.events.push(FleetEvent::AgentDegraded { agent, silent });
                    state.counts.agents_degraded += 1;
                }
                Health::Failed => {
                    state.supervision.arm(agent);
                    return self.heart_failed(state, agent, silent, after);
                }
            }
            self.apply(state, agent, after);
            state.supervision.check_trial(agent);
        }
        state.supervision.arm(agent);
    }

    fn heart_failed(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        silent: Duration,
        after: &mut After<T, O>,
    ) {
        let reason = FailureReason::Silent(silent);
        if let Some(incarnation) = state.supervision.can_fail(agent) {
            return self.agent_failed(state, agent, incarnation, reason, after);
        }
        // Nobody starts it again but the host.
        state.counts.agent_failures += 1;
        after.events.push(FleetEvent::AgentFailed { agent, reason, restart_at: None });
        state.supervision.check_trial(agent);
        self.apply(state, agent, after);
    }
}
