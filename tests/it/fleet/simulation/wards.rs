//! Supervision in a simulated fleet: what the observer is told of failures, restarts, circuits and hearts, whether
//! it was right to, and how an agent is to be seen by that.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::time::Duration;

use super::books::{Body, Books, Token};
use super::purses::KINDS;
use super::world::World;
use phalanx::fleet::supervise::{
    BreakerPolicy, BreakerState, HeartbeatPolicy, Restart, RestartPolicy, RestartStrategy,
};
use phalanx::fleet::{
    AgentId, AgentSpec, AgentState, AgentStatus, Backoff, Condition, FailureReason, FleetEvent,
    SupervisionGroup,
};
use phalanx::{ErrorKind, Timestamp};

/// The kind of agents that a circuit breaker watches, in some fleets.
const GUARDED: &str = KINDS[1];
const FAILURES: u16 = 4;
const OPEN_FOR: Duration = Duration::from_millis(60);
const PATIENCE: Duration = Duration::from_millis(300);

const DELAY: Duration = Duration::from_millis(30);
const WINDOW: Duration = Duration::from_secs(1);
const RESTARTS: u16 = 2;

const DEGRADED_AFTER: Duration = Duration::from_millis(250);
const FAILED_AFTER: Duration = Duration::from_millis(600);

/// Who decides about the restarts of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Guard {
    Alone(AgentId),
    /// One of the groups of the world; of the first, all are started together.
    Team(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Healthy,
    Degraded,
    Failed,
}

/// What is known of a heart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heart {
    health: Health,
    /// When it was heard of last: for certain, and perhaps.
    heard: (Timestamp, Timestamp),
}

impl Heart {
    pub(super) const fn new(now: Timestamp) -> Self {
        Self { health: Health::Healthy, heard: (now, now) }
    }

    /// How it is: at best and at worst.
    fn bounds(&self, now: Timestamp) -> (Health, Health) {
        let health = |last: Timestamp| match now.saturating_since(last) {
            silence if silence >= FAILED_AFTER => Health::Failed,
            silence if silence >= DEGRADED_AFTER => Health::Degraded,
            _ => Health::Healthy,
        };
        (health(self.heard.1), health(self.heard.0))
    }
}

/// What is known of the circuit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Circuit {
    #[default]
    Closed,
    Open(Timestamp),
    HalfOpen,
}

/// What is known of supervision beside what is known of each agent.
#[derive(Debug, Default)]
pub(super) struct Wards {
    /// When restarts were due, by who decides.
    restarts: BTreeMap<Guard, Vec<Timestamp>>,
    /// Who is to fail as one of the group has.
    owed: BTreeSet<AgentId>,
    /// Whether there is a circuit breaker.
    is_guarded: bool,
    circuit: Circuit,
    /// Who was put on trial since it opened.
    tried: BTreeSet<AgentId>,
    /// Attempts and messages of the kind that came to nothing since the circuit changed.
    failures: u16,
}

const fn serves(condition: Condition) -> bool {
    matches!(condition, Condition::Fit | Condition::Degraded | Condition::Starting)
}

impl Body {
    /// What it is fit for by itself, were there no circuit.
    fn standing(&self) -> Condition {
        if !serves(self.condition) {
            return self.condition;
        }
        let health = self.heart.map_or(Health::Healthy, |heart| heart.health);
        match (self.down, health) {
            (Some(_), _) | (None, Health::Failed) => Condition::Failed,
            (None, Health::Degraded) if self.condition == Condition::Fit => Condition::Degraded,
            _ => self.condition,
        }
    }

    /// What is seen of one that is fit for this.
    fn state(condition: Condition, load: u32) -> AgentState {
        match condition {
            Condition::Starting => AgentState::Starting,
            Condition::Fit if load == 0 => AgentState::Ready,
            Condition::Fit => AgentState::Busy,
            Condition::Degraded => AgentState::Degraded,
            Condition::Draining => AgentState::Draining,
            _ => AgentState::Failed,
        }
    }
}

impl Books {
    /// The kind whose circuit is not closed, if there is one: an agent of it holds one lease at most.
    pub(super) fn is_on_trial(&self, agent: AgentId) -> bool {
        self.wards.circuit != Circuit::Closed
            && self.agents.get(&agent).is_some_and(|body| body.kind == GUARDED)
    }

    /// An agent is about to do something.
    pub(super) fn check_circuit(&mut self, agent: AgentId) {
        let admitted = !self.is_on_trial(agent)
            || self.wards.circuit == Circuit::HalfOpen && self.wards.tried.contains(&agent);
        let circuit = self.wards.circuit;
        self.must(admitted, || format!("{agent} begins something, and its circuit is {circuit:?}"));
        let down = self.agents.get(&agent).and_then(|body| body.down);
        self.must(down.is_none(), || format!("{agent} begins something, and is down: {down:?}"));
    }

    /// An attempt or a message of an agent that began in this incarnation has ended; `sure` if the fleet takes notice.
    pub(super) fn went(
        &mut self,
        agent: AgentId,
        incarnation: u32,
        sure: bool,
        well: bool,
        now: Timestamp,
    ) {
        let Some(body) = self.agents.get_mut(&agent) else { return };
        if body.kind == GUARDED && !well {
            self.wards.failures += 1;
        }
        let counts = sure && body.incarnation == incarnation && body.down.is_none();
        if let Some(heart) = &mut body.heart {
            heart.heard.1 = now;
            if counts && now.saturating_since(heart.heard.0) < FAILED_AFTER {
                heart.heard.0 = now;
            }
        }
    }

    /// The verifier did not want what such an agent brought.
    pub(super) fn circuit_hears_of_a_rejection(&mut self) {
        self.wards.failures += 1;
    }

    /// An agent has gone.
    pub(super) fn dismiss(&mut self, body: &Body) {
        let Some(guard) = body.guard else { return };
        if !self.agents.values().any(|other| other.guard == Some(guard)) {
            // The budget begins anew with the next member.
            self.wards.restarts.remove(&guard);
        }
    }

    /// The observer is told something; whether it was right to.
    pub(super) fn notice_wards(&mut self, event: &FleetEvent, now: Timestamp) {
        match event {
            FleetEvent::AgentFailed { agent, reason, restart_at } => {
                self.totals.count("agent failed");
                self.failed(*agent, reason, *restart_at, now);
            }
            FleetEvent::AgentRestarted { agent, incarnation } => {
                self.totals.count("agent restarted");
                let Some(body) = self.agents.get_mut(agent) else {
                    return self.wrong.push(format!("{agent} is gone, and was started again"));
                };
                let down = body.down.take();
                let expected = body.incarnation;
                if let Some(heart) = &mut body.heart {
                    *heart = Heart::new(now);
                }
                self.must(down.is_some_and(|until| until <= now) && *incarnation == expected, || {
                    format!("{agent} was down until {down:?}: {event:?}, not {expected}")
                });
            }
            FleetEvent::AgentDegraded { agent, .. } => {
                self.totals.count("agent degraded");
                self.heart_is(*agent, Health::Degraded, now);
            }
            FleetEvent::AgentRecovered { agent } => {
                self.totals.count("agent recovered");
                self.heart_is(*agent, Health::Healthy, now);
            }
            FleetEvent::CircuitOpened { until, .. } => {
                self.totals.count("circuit opened");
                let enough = match self.wards.circuit {
                    Circuit::Closed => self.wards.failures >= FAILURES,
                    Circuit::HalfOpen => self.wards.failures > 0,
                    Circuit::Open(_) => false,
                };
                let known = format!("{:?} at {now:?}", self.wards);
                self.must(enough && *until == now + OPEN_FOR, || format!("{event:?}: {known}"));
                self.turn_circuit(Circuit::Open(*until));
            }
            FleetEvent::CircuitTried { agent, .. } => {
                self.totals.count("circuit tried");
                let due = match self.wards.circuit {
                    Circuit::Closed => false,
                    Circuit::Open(until) => until <= now,
                    Circuit::HalfOpen => true,
                };
                self.must(due, || format!("{event:?} at {now:?}"));
                self.wards.circuit = Circuit::HalfOpen;
                self.wards.tried.insert(*agent);
            }
            FleetEvent::CircuitClosed { .. } => {
                self.totals.count("circuit closed");
                let tried = self.wards.circuit == Circuit::HalfOpen;
                self.must(tried, || format!("{event:?}, and nobody was tried"));
                self.turn_circuit(Circuit::Closed);
            }
            _ => {}
        }
    }

    fn turn_circuit(&mut self, to: Circuit) {
        self.wards.circuit = to;
        self.wards.tried.clear();
        self.wards.failures = 0;
    }

    fn heart_is(&mut self, agent: AgentId, health: Health, now: Timestamp) {
        let heart = self.agents.get_mut(&agent).and_then(|body| body.heart.as_mut());
        let Some(heart) = heart else {
            return self.wrong.push(format!("{agent} has no heart, and is {health:?}"));
        };
        heart.health = health;
        let (best, worst) = heart.bounds(now);
        self.must((best..=worst).contains(&health), || {
            format!("{agent} is {health:?} at {now:?}: it is {best:?} to {worst:?}")
        });
    }

    fn failed(
        &mut self,
        agent: AgentId,
        reason: &FailureReason,
        restart_at: Option<Timestamp>,
        now: Timestamp,
    ) {
        let at = format!("{agent} failed at {now:?} ({reason:?}), to start at {restart_at:?}");
        if matches!(reason, FailureReason::Silent(_)) {
            self.heart_is(agent, Health::Failed, now);
            self.totals.count("agent silent");
        }
        let Some(body) = self.agents.get_mut(&agent) else {
            return self.wrong.push(format!("{at}: it is gone"));
        };
        let Some(guard) = body.guard else {
            let silent = matches!(reason, FailureReason::Silent(_)) && restart_at.is_none();
            return self.must(silent, || format!("{at}: nobody supervises it"));
        };
        body.down = restart_at;
        body.is_doomed = restart_at.is_none();
        body.incarnation += 1;
        let others = |body: &&Body| body.guard == Some(guard);
        let down: Vec<_> = self
            .agents
            .iter()
            .filter(|(id, body)| **id != agent && others(body))
            .map(|(id, body)| (*id, body.down))
            .collect();
        if let FailureReason::Together(_) = reason {
            self.totals.count("agent failed together");
            let owed = self.wards.owed.remove(&agent);
            return self.must(owed, || format!("{at}: it was not its turn"));
        }
        let all = guard == Guard::Team(0);
        let covered = all && restart_at.is_some() && down.iter().any(|(_, until)| *until == restart_at);
        if covered && restart_at != Some(now + DELAY) {
            self.totals.count("agent failed meanwhile");
            return;
        }
        let due = now + DELAY;
        let restarts = self.wards.restarts.entry(guard).or_default();
        let recent = restarts.iter().filter(|then| **then + WINDOW > due).count();
        match restart_at {
            Some(then) => {
                // One that is part of a restart that was ordered at this very moment costs nothing.
                let known = covered && restarts.last() == Some(&then);
                if known {
                    return;
                }
                restarts.push(then);
                self.must(then == due, || format!("{at}: not after the delay"));
                self.must(recent < usize::from(RESTARTS), || format!("{at}: {recent} restarts"));
            }
            None => {
                let recent = restarts.iter().filter(|then| **then + WINDOW >= now).count();
                self.must(recent >= usize::from(RESTARTS), || format!("{at}: {recent} restarts"));
            }
        }
        if all {
            self.wards.owed.extend(down.iter().map(|(other, _)| *other));
        }
    }

    /// After each step: nobody is left who was to fail or to end with another.
    pub(super) fn check_wards(&mut self, agents: &[AgentStatus]) {
        self.wards.owed.retain(|agent| self.agents.contains_key(agent));
        assert!(self.wards.owed.is_empty(), "of its group others failed: {:?}", self.wards.owed);
        for agent in agents {
            let body = &self.agents[&agent.id];
            assert!(!body.is_doomed, "nobody has ended {agent:?}");
            assert_eq!(agent.incarnation, body.incarnation, "{agent:?}");
            let standing = body.standing();
            let expected = Body::state(standing, agent.load);
            let held_back = serves(standing) && self.is_on_trial(agent.id);
            let seen = match self.wards.circuit {
                // Whether it is time for a trial depends on who has looked.
                Circuit::HalfOpen if held_back => {
                    agent.state == AgentState::Failed
                        || agent.state == expected && self.wards.tried.contains(&agent.id)
                }
                Circuit::Open(_) if held_back => agent.state == AgentState::Failed,
                _ => agent.state == expected,
            };
            assert!(seen, "{agent:?}: {body:?} with {:?}", self.wards);
        }
    }

    /// When nothing is ready: what time has brought was noticed.
    pub(super) fn check_wards_in_time(&self, now: Timestamp, agents: &[AgentStatus]) {
        for agent in agents {
            let body = &self.agents[&agent.id];
            assert!(body.down.is_none_or(|until| now < until), "nobody started {body:?}");
            if let Some(heart) = body.heart.filter(|_| body.down.is_none()) {
                let (best, worst) = heart.bounds(now);
                let known = (best..=worst).contains(&heart.health);
                // Who has failed stays so.
                assert!(known || heart.health == Health::Failed, "{now:?}: {agent:?} {heart:?}");
            }
            let is_candidate = body.kind == GUARDED
                && matches!(body.standing(), Condition::Fit | Condition::Degraded)
                && agent.load == 0;
            if let Circuit::Open(until) = self.wards.circuit {
                assert!(!is_candidate || now < until, "nobody was put on trial: {agent:?}");
            }
        }
    }
}

impl World {
    pub(super) fn breaker(&mut self) -> Option<(&'static str, BreakerPolicy)> {
        let is_guarded = self.random.percent(50);
        is_guarded.then(|| {
            let failures = NonZeroU16::new(FAILURES).expect("it is not zero");
            let policy = BreakerPolicy::new(failures, Duration::from_secs(10));
            (GUARDED, policy.open_for(Backoff::constant(OPEN_FOR)).trial_timeout(PATIENCE))
        })
    }
}
