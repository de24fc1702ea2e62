//! Supervision in a simulated fleet: what the observer is told of failures, restarts, circuits and hearts, whether
//! it was right to, and how an agent is to be seen by that.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::time::Duration;

use super::Random;
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

const DELAY: Duration = Duration::from_millis(80);
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
    circuit: Circuit,
    /// Who was put on trial since it opened.
    tried: BTreeSet<AgentId>,
    /// Attempts, messages and leases of the kind that came to nothing since the circuit changed.
    failures: u16,
    /// Leases on the kind that the host holds and that may have expired, each a failure.
    pub(super) expiring: u16,
}

impl Wards {
    const fn most_failures(&self) -> u16 {
        self.failures + self.expiring
    }
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
            (None, _) if self.cold => Condition::Starting,
            (None, Health::Degraded) if self.condition == Condition::Fit => Condition::Degraded,
            _ => self.condition,
        }
    }

    /// Whether it would serve if the host wanted it to.
    pub(super) fn could_serve(&self) -> bool {
        self.down.is_none() && self.heart.is_none_or(|heart| heart.health != Health::Failed)
    }

    /// The host wants something else of it: one that was silent for too long has its silence begin anew.
    pub(super) fn revive(&mut self, now: Timestamp) {
        if let Some(heart) = &mut self.heart
            && heart.health == Health::Failed
            && self.down.is_none()
            && serves(self.condition)
        {
            *heart = Heart::new(now);
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
        let cold = self.agents.get(&agent).is_some_and(|body| body.cold);
        self.must(!cold, || format!("{agent} begins something, and its handler was not made"));
    }

    /// Whether what makes a handler of this kind panics now.
    pub(super) fn fails_to_make(&mut self, kind: &str) -> bool {
        let fails = !self.closing && self.fails(15);
        if fails && kind == GUARDED {
            self.wards.failures += 1;
        }
        fails
    }

    /// A handler of an agent, which began in this incarnation, is about to panic.
    pub(super) fn handler_lost(&mut self, agent: AgentId, incarnation: u32) {
        if let Some(body) = self.agents.get_mut(&agent)
            // A supervised agent fails of it.
            && body.guard.is_none()
            && body.incarnation == incarnation
            && body.prewarmed
        {
            body.cold = true;
            self.totals.count("cold after a panic");
        }
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

    /// The verifier did not want what an agent brought, or the host what came of a lease.
    pub(super) fn circuit_hears_of_a_failure(&mut self) {
        self.wards.failures += 1;
    }

    /// The host holds another lease that expires, or one less.
    pub(super) fn lease_expires(&mut self, agent: AgentId, more: bool) {
        if self.agents.get(&agent).is_none_or(|body| body.kind == GUARDED) {
            let now = self.wards.expiring;
            self.wards.expiring = if more { now + 1 } else { now.saturating_sub(1) };
        }
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
                self.must(
                    down.is_some_and(|until| until <= now) && *incarnation == expected,
                    || format!("{agent} was down until {down:?}: {event:?}, not {expected}"),
                );
            }
            FleetEvent::AgentPrewarmed { agent, .. } => {
                self.totals.count("prewarmed");
                let body = self.agents.get_mut(agent);
                let right = body.is_some_and(|body| {
                    body.down.is_none() && std::mem::replace(&mut body.cold, false)
                });
                self.must(right, || format!("{event:?}, and no handler was to be made"));
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
                    Circuit::Closed => self.wards.most_failures() >= FAILURES,
                    Circuit::HalfOpen => self.wards.most_failures() > 0,
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
            let silent = matches!(reason, FailureReason::Silent(_));
            let unmade = matches!(reason, FailureReason::Attempt(_)) && body.cold;
            if unmade {
                body.condition = Condition::Failed;
                self.totals.count("prewarm failed");
            }
            let right = (silent || unmade) && restart_at.is_none();
            return self.must(right, || format!("{at}: nobody supervises it"));
        };
        body.down = restart_at;
        body.is_doomed = restart_at.is_none();
        body.incarnation += 1;
        body.cold = body.prewarmed;
        let members = self.agents.iter().filter(|(_, body)| body.guard == Some(guard));
        let others: Vec<_> = members.map(|(id, _)| *id).filter(|id| *id != agent).collect();
        if let FailureReason::Together(_) = reason {
            self.totals.count("agent failed together");
            let owed = self.wards.owed.remove(&agent);
            return self.must(owed, || format!("{at}: it was not its turn"));
        }
        let (all, due) = (guard == Guard::Team(0), now + DELAY);
        let restarts = self.wards.restarts.entry(guard).or_default();
        if let Some(then) = restarts.last().copied().filter(|then| all && *then > now) {
            // All are about to be started, and it with them.
            self.totals.count("agent failed meanwhile");
            return self.must(restart_at == Some(then), || format!("{at}, and all at {then:?}"));
        }
        let recent = restarts.iter().filter(|then| **then + WINDOW > due).count();
        match restart_at {
            Some(then) => {
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
            self.wards.owed.extend(others);
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
            let waits = body.cold && body.down.is_none() && serves(body.condition);
            assert!(!waits, "nobody made the handler of {agent:?}");
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

/// For the agents of one kind, in some fleets.
pub(super) fn breaker(random: &mut Random) -> Option<(&'static str, BreakerPolicy)> {
    random.percent(50).then(|| {
        let failures = NonZeroU16::new(FAILURES).expect("it is not zero");
        let policy = BreakerPolicy::new(failures, Duration::from_secs(10));
        (GUARDED, policy.open_for(Backoff::constant(OPEN_FOR)).trial_timeout(PATIENCE))
    })
}

const fn policy() -> RestartPolicy {
    let policy = RestartPolicy::new(Restart::OnFailure).budget(RESTARTS, WINDOW);
    policy.backoff(Backoff::constant(DELAY))
}

/// The first is started together, of the second each for itself.
pub(super) fn teams() -> [SupervisionGroup; 2] {
    let strategies = [RestartStrategy::OneForAll, RestartStrategy::OneForOne];
    strategies.map(|strategy| SupervisionGroup::new(policy().strategy(strategy)))
}

impl World {
    /// Has agents be supervised, perhaps; by which group, and whether by one or each by itself.
    pub(super) fn supervise(
        &mut self,
        spec: AgentSpec<Token, Token>,
    ) -> (AgentSpec<Token, Token>, Option<Option<usize>>) {
        match self.random.below(100) {
            0..=19 => (spec.restart(policy()), Some(None)),
            20..=44 => (spec.supervised_by(&self.teams[0]), Some(Some(0))),
            45..=54 => (spec.supervised_by(&self.teams[1]), Some(Some(1))),
            _ => (spec, None),
        }
    }

    /// Has agents be heard of, perhaps.
    pub(super) fn give_heart(
        &mut self,
        spec: AgentSpec<Token, Token>,
    ) -> (AgentSpec<Token, Token>, Option<Heart>) {
        if !self.random.percent(30) {
            return (spec, None);
        }
        let policy = HeartbeatPolicy::new(DEGRADED_AFTER, FAILED_AFTER).expect("it is valid");
        (spec.heartbeat(policy), Some(Heart::new(self.now())))
    }

    /// Somebody says that an agent lives.
    pub(super) fn beat(&mut self) {
        if let Some(agent) = self.any_agent() {
            self.beat_for(agent);
        }
    }

    pub(super) fn beat_for_all(&self) {
        for agent in self.fleet.agents() {
            // Whoever beats has those found that were silent, and they may end with their group.
            let lives = self.core.books().agents.contains_key(&agent.id);
            if lives {
                self.beat_for(agent.id);
            }
        }
    }

    pub(super) fn beat_for(&self, agent: AgentId) {
        let now = self.now();
        let mut expected = None;
        {
            let mut books = self.core.books();
            let body = books.agents.get_mut(&agent).expect("it was just listed");
            if let Some(heart) = &mut body.heart {
                let (best, worst) = heart.bounds(now);
                let may = body.down.is_none() && best != Health::Failed;
                expected = Some((may && worst != Health::Failed, may));
                heart.heard.1 = if may { now } else { heart.heard.1 };
            }
        }
        let result = self.fleet.heartbeat(agent);
        let mut books = self.core.books();
        match (result, expected) {
            (Ok(counts), Some((surely, perhaps))) => {
                assert!(counts && perhaps || !counts && !surely, "{agent} beats: {counts}");
                let heart = books.agents.get_mut(&agent).and_then(|body| body.heart.as_mut());
                if let Some(heart) = heart.filter(|_| counts) {
                    heart.heard = (now, now);
                    books.totals.count("heartbeat");
                }
            }
            (Err(error), None) => assert_eq!(error.kind(), ErrorKind::Unsupported),
            other => panic!("{agent} beats: {other:?}"),
        }
    }

    /// Somebody says that an agent has failed.
    pub(super) fn report_failure(&mut self) {
        let up: Vec<_> = {
            let books = self.core.books();
            let mates = books.agents.iter().filter(|(_, body)| body.guard == Some(Guard::Team(0)));
            mates.filter(|(_, body)| body.down.is_none()).map(|(id, _)| *id).collect()
        };
        let mate = self.random.pick(&up).copied().filter(|_| self.random.percent(50));
        let Some(agent) = mate.or_else(|| self.any_agent()) else { return };
        let body = self.core.books().agents[&agent].clone();
        match self.fleet.report_failure(agent, "so they say") {
            Ok(news) => {
                assert!(body.guard.is_some());
                assert_eq!(news, body.down.is_none(), "{agent} has failed: {body:?}");
                self.core.books().totals.count("failure reported");
            }
            Err(error) => {
                assert!(body.guard.is_none(), "{error}");
                assert_eq!(error.kind(), ErrorKind::Unsupported);
            }
        }
    }

    /// Compares the state of the circuit with what is known of it.
    pub(super) fn check_circuit(&self) {
        let (known, now) = (self.core.books().wards.circuit, self.now());
        let agrees = match self.fleet.circuit(GUARDED) {
            None | Some(BreakerState::Closed) => known == Circuit::Closed,
            Some(BreakerState::Open { until }) => known == Circuit::Open(until) && now < until,
            // Nobody could be tried yet, perhaps.
            Some(BreakerState::HalfOpen) => match known {
                Circuit::Closed => false,
                Circuit::Open(until) => until <= now,
                Circuit::HalfOpen => true,
            },
            Some(_) => false,
        };
        assert!(agrees, "{:?}, and {known:?}", self.fleet.circuit(GUARDED));
    }
}
