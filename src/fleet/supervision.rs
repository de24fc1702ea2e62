//! Agents under supervision: what they do when they fail, and when they are started again.
//!
//! The policies in [`supervise`](super::supervise) decide; here the fleet does what they say. All of it is
//! part of the tasks' state, under its lock. Rules that hold between any two times the lock is held:
//!
//! 1. A ward is a live agent. Whoever ends the agent takes its ward out in the same step, so nothing that is
//!    due later finds an agent that is gone, or another one in its place.
//! 2. A failure counts once: it names the incarnation in which its attempt began, and ends it. What began in
//!    an earlier incarnation fails nobody any more, and is counted.
//! 3. What an agent is fit for in the pool follows from its ward alone ([`Supervision::standing`]): what the host
//!    wants, whether it is down, and what the circuit of its type says. It changes in the step in which the ward changes, and before the lease of
//!    the attempt that failed is given back: so nobody is given an agent that has failed.
//! 4. A ward that is down has one alarm, at the moment at which it is started; no other has one.
//! 5. An agent that is to have a handler before it serves and has none is cold; see `supervision/prewarm.rs`.
//! 6. No handler of an earlier incarnation runs anything that begins later: idle ones are dropped in the step
//!    that ends their incarnation, the others when they come back.

mod circuit;
mod circuits;
mod group;
mod heartbeats;
mod prewarm;
mod restarts;
mod watches;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use self::circuit::Circuit;
use self::heartbeats::Heart;
use super::agent::{AgentSpec, Condition};
use super::by_slot::BySlot;
use super::id::AgentId;
use super::pool::OnCircuit;
use super::supervise::{Exit, RestartDecision, RestartStrategy, Supervisor};
use crate::clock::Timestamp;

pub(super) use group::Supervised;
/// Whether an agent in this condition serves, or will as soon as it is made ready.
const fn serves(condition: Condition) -> bool {
    matches!(condition, Condition::Fit | Condition::Degraded | Condition::Starting)
}

pub use group::SupervisionGroup;
pub use restarts::FailureReason;
pub use watches::StuckAction;
pub(super) use watches::{Hears, StuckRule, Watch};

/// The first incarnation of an agent.
pub(super) const FIRST: u32 = 1;

/// When an attempt began: in which incarnation of its agent, and in which era of the circuit of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tenure {
    /// Zero for an agent that nobody supervises.
    pub(super) incarnation: u32,
    pub(super) era: u32,
    /// Whether its handlers are heard while they run.
    pub(super) watched: bool,
}

impl Tenure {
    /// That of an agent that nobody supervises.
    pub(super) const NONE: Self = Self { incarnation: 0, era: 0, watched: false };

    pub(super) const fn is_supervised(self) -> bool {
        self.incarnation != 0
    }
}

/// The agents that are supervised, and when they are started again.
#[derive(Debug, Default)]
pub(super) struct Supervision {
    wards: HashMap<AgentId, Ward>,
    groups: BTreeMap<u64, Circle>,
    /// Rule 4.
    alarms: BTreeSet<(Timestamp, AgentId)>,
    /// When somebody's silence is to be noticed.
    hearts: BTreeSet<(Timestamp, AgentId)>,
    watches: watches::Watches,
    /// The agents whose handlers are to be made before they serve, wards or not, and what the host wants of those
    /// that are no wards.
    cold: BySlot<Condition>,
    /// Those of them whose making failed, and nobody says what follows.
    unmade: BTreeSet<AgentId>,
    /// For the life of the fleet.
    circuits: Vec<Circuit>,
}

/// One agent that is supervised.
#[derive(Debug)]
struct Ward {
    incarnation: u32,
    /// Who decides about restarts; `None` if there are none, and no failures.
    guard: Option<Guard>,
    /// The place of its type's circuit, if that has one.
    circuit: Option<usize>,
    /// How many leases it may hold.
    limit: u16,
    /// Whether an error that a handler returns is a failure of the agent.
    on_errors: bool,
    /// What the host says that it is fit for.
    wanted: Condition,
    /// When it is started again; `None` while it is up.
    down: Option<Timestamp>,
    heart: Option<Heart>,
    /// When its attempts are stuck.
    stuck: Option<StuckRule>,
    /// Whether its handler is made before it serves.
    prewarmed: bool,
}

/// Who decides about an agent.
#[derive(Debug)]
enum Guard {
    Own(Box<Supervisor>),
    Group(u64),
}

/// The agents of one group.
#[derive(Debug)]
struct Circle {
    supervisor: Supervisor,
    members: BTreeSet<AgentId>,
}

/// What is to be done about a failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: nobody supervises it, or the failure is not one of this incarnation's.
    Nothing,
    /// These are down until then: the one that failed first.
    Down(Vec<AgentId>, Timestamp),
    /// These end: the one that failed first.
    End(Vec<AgentId>),
}

/// What the pool is to know of an agent (rule 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) condition: Condition,
    /// What its circuit says of it, if its type has one.
    pub(super) circuit: Option<OnCircuit>,
    pub(super) tenure: Tenure,
    /// Whether its handler is still to be made.
    pub(super) cold: bool,
    /// Whether that is to be done now.
    pub(super) calls: bool,
    /// Whether it finishes what it has, if it is to be drained: it is neither down nor kept out by its circuit.
    pub(super) finishes: bool,
}

impl Standing {
    /// That of an agent that nobody supervises, of which the host wants this.
    #[inline(always)]
    fn unsupervised(wanted: Condition, cold: bool) -> Self {
        let condition = if cold { prewarm::until_warm(wanted) } else { wanted };
        Self {
            condition,
            circuit: None,
            tenure: Tenure::NONE,
            cold,
            calls: cold && condition == Condition::Starting,
            finishes: condition == Condition::Draining,
        }
    }

    /// Whether nothing is to begin for now. Of one that nobody supervises its crew is told no more once it is warm: that
    /// it has failed only the pool knows.
    pub(super) fn is_down(&self) -> bool {
        let fails = self.condition == Condition::Failed
            || self.condition == Condition::Draining && !self.finishes;
        self.cold || fails && self.tenure.is_supervised()
    }
}

impl Ward {
    /// What it would be fit for if it were not for its circuit.
    fn condition(&self, cold: bool) -> Condition {
        let wanted = match self.wanted {
            Condition::Fit | Condition::Degraded | Condition::Starting if self.down.is_some() => {
                Condition::Failed
            }
            wanted if cold => prewarm::until_warm(wanted),
            wanted => wanted,
        };
        self.heart.as_ref().map_or(wanted, |heart| heart.condition(wanted))
    }
}

impl Supervision {
    /// Takes in agents that were just made, that nobody supervises and whose handlers are to be made before they serve.
    pub(super) fn enrol_alone(&mut self, agents: &[AgentId], wanted: Condition) {
        for agent in agents {
            self.cold.insert(*agent, wanted);
        }
    }

    /// Takes in an agent that was just made and is supervised.
    pub(super) fn enrol<T, O>(&mut self, agent: AgentId, spec: &AgentSpec<T, O>, now: Timestamp) {
        if spec.is_prewarmed() {
            self.cold.insert(agent, spec.condition);
        }
        let circuit = self.circuit_of(&spec.name);
        if let Some(circuit) = circuit {
            self.circuits[circuit].members.insert(agent);
        }
        // Each has a jitter of its own, and the same one whenever the same things happen.
        let seed = u64::from(agent.generation) << 32 | u64::from(agent.slot);
        let guard = spec.supervised.as_ref().map(|supervised| match supervised {
            Supervised::Alone(policy) => {
                (Guard::Own(Box::new(Supervisor::new(*policy, seed))), *policy)
            }
            Supervised::Together(group) => {
                let circle = self.groups.entry(group.id()).or_insert_with(|| Circle {
                    supervisor: Supervisor::new(group.policy(), seed),
                    members: BTreeSet::new(),
                });
                circle.members.insert(agent);
                (Guard::Group(group.id()), group.policy())
            }
        });
        let on_errors = guard.as_ref().is_some_and(|(_, policy)| policy.counts_errors());
        let ward = Ward {
            incarnation: FIRST,
            guard: guard.map(|(guard, _)| guard),
            circuit,
            limit: u16::try_from(spec.max_leases.get()).unwrap_or(u16::MAX),
            on_errors,
            wanted: spec.condition,
            down: None,
            heart: spec.heartbeat.map(|policy| Heart::new(policy, now)),
            stuck: spec.stuck,
            prewarmed: spec.is_prewarmed(),
        };
        self.wards.insert(agent, ward);
        self.arm(agent);
        self.may_try(agent);
    }

    /// Lets go of an agent that ends (rule 1).
    pub(super) fn dismiss(&mut self, agent: AgentId) {
        // Most fleets supervise nobody, and a map hashes the key of what it cannot have.
        if self.is_empty() {
            return;
        }
        self.cold.remove(agent);
        self.unmade.remove(&agent);
        let Some(ward) = self.wards.remove(&agent) else { return };
        if ward.stuck.is_some() {
            self.watches.dismiss(agent);
        }
        if let Some(until) = ward.down {
            self.alarms.remove(&(until, agent));
        }
        if let Some(at) = ward.heart.and_then(|heart| heart.alarm) {
            self.hearts.remove(&(at, agent));
        }
        if let Some(circuit) = ward.circuit {
            self.circuits[circuit].abandon(agent);
            self.circuits[circuit].members.remove(&agent);
        }
        if let Some(Guard::Group(id)) = ward.guard
            && let Some(circle) = self.groups.get_mut(&id)
        {
            circle.members.remove(&agent);
            if circle.members.is_empty() {
                self.groups.remove(&id);
            }
        }
    }

    /// Which incarnation of an agent it is; `None` for one that is no ward.
    pub(super) fn known(&self, agent: AgentId) -> Option<u32> {
        self.wards.get(&agent).map(|ward| ward.incarnation)
    }

    /// Which incarnation of an agent it is, if that can fail.
    fn can_fail(&self, agent: AgentId) -> Option<u32> {
        let ward = self.wards.get(&agent).filter(|ward| ward.guard.is_some())?;
        Some(ward.incarnation)
    }

    /// Whether an error that a handler of this agent returns is a failure of the agent.
    pub(super) fn counts_errors(&self, agent: AgentId) -> bool {
        self.wards.get(&agent).is_some_and(|ward| ward.on_errors)
    }

    pub(super) fn is_ward(&self, agent: AgentId) -> bool {
        self.wards.contains_key(&agent)
    }

    /// In what tenure the handlers of an agent work, and whether nothing is to begin for now.
    pub(super) fn appointment(&self, agent: AgentId) -> (Tenure, bool) {
        let standing = if self.is_empty() { None } else { self.standing(agent) };
        standing.map_or((Tenure::NONE, false), |standing| (standing.tenure, standing.is_down()))
    }

    /// Whether an agent is down.
    pub(super) fn is_down(&self, agent: AgentId) -> bool {
        self.wards.get(&agent).is_some_and(|ward| ward.down.is_some())
    }

    /// Whether there is nothing to know of any agent.
    fn is_empty(&self) -> bool {
        self.wards.is_empty() && self.cold.is_empty()
    }

    /// Notes what the host wants of an agent; what it wanted before. `None` for one that is neither ward nor cold.
    pub(super) fn want(
        &mut self,
        agent: AgentId,
        condition: Condition,
        now: Timestamp,
    ) -> Option<Condition> {
        self.unmade.remove(&agent);
        let Some(ward) = self.wards.get_mut(&agent) else {
            let wanted = self.cold.get_mut(agent)?;
            return Some(std::mem::replace(wanted, condition));
        };
        let before = std::mem::replace(&mut ward.wanted, condition);
        if let Some(heart) = &mut ward.heart
            && heart.has_failed()
            && ward.down.is_none()
            && serves(condition)
        {
            *heart = heart.renewed(now);
            self.arm(agent);
        }
        self.check_trial(agent);
        self.may_try(agent);
        Some(before)
    }

    /// Has what the host wanted of an agent before be wanted again, which is no new word of the host: what has failed
    /// meanwhile stays failed. `None` for one that is neither ward nor cold.
    pub(super) fn want_back(&mut self, agent: AgentId, condition: Condition) -> Option<Condition> {
        let Some(ward) = self.wards.get_mut(&agent) else {
            let wanted = self.cold.get_mut(agent)?;
            return Some(std::mem::replace(wanted, condition));
        };
        let before = std::mem::replace(&mut ward.wanted, condition);
        self.check_trial(agent);
        self.may_try(agent);
        Some(before)
    }

    /// Whether an agent would serve if the host wanted it to: it is not down until it is started again, and its heart has
    /// not failed.
    pub(super) fn could_serve(&self, agent: AgentId) -> bool {
        self.wards.get(&agent).is_none_or(|ward| {
            ward.down.is_none() && !ward.heart.as_ref().is_some_and(Heart::has_failed)
        })
    }

    /// What an agent would be fit for if it were not for its circuit; `None` for one that is neither ward nor cold.
    fn fitness(&self, agent: AgentId) -> Option<Condition> {
        let wanted = self.cold.get(agent);
        match self.wards.get(&agent) {
            Some(ward) => Some(ward.condition(wanted.is_some())),
            None => wanted.copied().map(prewarm::until_warm),
        }
    }

    /// How all agents of a spec stand that were just made, where nobody supervises them; `None` where somebody does.
    pub(super) fn standing_alike<T, O>(&self, spec: &AgentSpec<T, O>) -> Option<Standing> {
        let cold = spec.is_prewarmed();
        self.supervises_none_of(spec).then(|| Standing::unsupervised(spec.condition, cold))
    }

    /// Whether agents of a spec are no wards.
    fn supervises_none_of<T, O>(&self, spec: &AgentSpec<T, O>) -> bool {
        let is_alone =
            spec.supervised.is_none() && spec.heartbeat.is_none() && spec.stuck.is_none();
        is_alone && self.circuit_of(&spec.name).is_none()
    }

    /// Rule 3; `None` for an agent that is neither ward nor cold.
    fn standing(&self, agent: AgentId) -> Option<Standing> {
        let wanted = self.cold.get(agent).copied();
        let Some(ward) = self.wards.get(&agent) else {
            return wanted.map(|wanted| Standing::unsupervised(wanted, true));
        };
        let cold = wanted.is_some();
        let condition = ward.condition(cold);
        // Whatever its circuit says: somebody is to be fit when that looks for one to try.
        let calls = cold && condition == Condition::Starting;
        let mut standing = Standing {
            condition,
            cold,
            calls,
            finishes: condition == Condition::Draining && ward.down.is_none(),
            circuit: None,
            tenure: Tenure {
                incarnation: ward.incarnation,
                era: 0,
                watched: ward.heart.is_some() || ward.stuck.is_some(),
            },
        };
        if let Some(circuit) = ward.circuit {
            let circuit = &self.circuits[circuit];
            let (admitted, one_alone) = circuit.admits(agent);
            if !admitted && serves(condition) {
                standing.condition = Condition::Failed;
            }
            standing.finishes &= admitted;
            let limit = if one_alone { 1 } else { ward.limit };
            let (on_trial, era) = (admitted && one_alone, circuit.era);
            standing.circuit = Some(OnCircuit { limit, on_trial, era });
            standing.tenure.era = era;
        }
        Some(standing)
    }

    /// When something is due: an agent is to be started, or a circuit to be looked at.
    pub(super) fn first_alarm(&self) -> Option<Timestamp> {
        let first = |alarms: &BTreeSet<(Timestamp, AgentId)>| alarms.first().map(|(at, _)| *at);
        let agents = first(&self.alarms).into_iter().chain(first(&self.hearts));
        let agents = agents.chain(self.watches.first_alarm());
        agents.chain(self.circuits.iter().filter_map(Circuit::alarm)).min()
    }

    /// Decides about an exit (rule 2), and has those that go down be down. Those that are to end are wards
    /// until they do. And whether that is for want of budget.
    pub(super) fn exited(
        &mut self,
        agent: AgentId,
        incarnation: u32,
        exit: Exit,
        now: Timestamp,
    ) -> (Verdict, bool) {
        let nothing = (Verdict::Nothing, false);
        let Some(ward) = self.wards.get_mut(&agent) else { return nothing };
        if ward.incarnation != incarnation || ward.down.is_some() {
            return nothing;
        }
        let (supervisor, members) = match &mut ward.guard {
            None => return nothing,
            Some(Guard::Own(supervisor)) => (&mut **supervisor, None),
            Some(Guard::Group(id)) => {
                let circle = self.groups.get_mut(id).expect("a group lives as long as a member");
                (&mut circle.supervisor, Some(&circle.members))
            }
        };
        // The one that failed first, and each once.
        let all = || {
            let others = members.into_iter().flatten().copied().filter(|member| *member != agent);
            std::iter::once(agent).chain(others).collect::<Vec<_>>()
        };
        let together = supervisor.strategy() == RestartStrategy::OneForAll;
        match supervisor.exited(exit, now) {
            RestartDecision::Leave => (Verdict::End(vec![agent]), false),
            RestartDecision::GiveUp { .. } if together => (Verdict::End(all()), true),
            RestartDecision::GiveUp { .. } => (Verdict::End(vec![agent]), true),
            RestartDecision::Restart { strategy: RestartStrategy::OneForAll, at, .. } => {
                let all = all();
                (self.put_down(all, at), false)
            }
            RestartDecision::Restart { at, .. } | RestartDecision::Covered { at } => {
                (self.put_down(vec![agent], at), false)
            }
        }
    }

    fn put_down(&mut self, agents: Vec<AgentId>, until: Timestamp) -> Verdict {
        for agent in &agents {
            let ward = self.wards.get_mut(agent).expect("a member of a group is a ward");
            if let Some(before) = ward.down.replace(until) {
                self.alarms.remove(&(before, *agent));
            }
            // Four billion restarts of one agent take longer than it lives.
            ward.incarnation = ward.incarnation.saturating_add(1);
            if ward.prewarmed {
                self.cold.insert(*agent, ward.wanted);
                self.unmade.remove(agent);
            }
            self.alarms.insert((until, *agent));
            self.arm(*agent);
            self.check_trial(*agent);
        }
        Verdict::Down(agents, until)
    }

    /// The next of those that are to be started by now, which is up again, and its incarnation.
    pub(super) fn rise(&mut self, now: Timestamp) -> Option<(AgentId, u32)> {
        let (at, agent) = *self.alarms.first().filter(|(at, _)| *at <= now)?;
        self.alarms.remove(&(at, agent));
        let ward = self.wards.get_mut(&agent).expect("rule 4");
        ward.down = None;
        let incarnation = ward.incarnation;
        if let Some(heart) = &mut ward.heart {
            *heart = heart.renewed(now);
        }
        self.arm(agent);
        self.may_try(agent);
        Some((agent, incarnation))
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    fn validate(&self) {
        let mut alarms = BTreeSet::new();
        let mut members = 0;
        for (agent, ward) in &self.wards {
            assert!(ward.incarnation >= FIRST);
            alarms.extend(ward.down.map(|until| (until, *agent)));
            if let Some(Guard::Group(id)) = ward.guard {
                assert!(self.groups[&id].members.contains(agent));
                members += 1;
            }
        }
        assert_eq!(alarms, self.alarms, "rule 4");
        assert!(
            self.cold.agents().all(|agent| self.wards.contains_key(&agent)),
            "rule 5, of wards"
        );
        assert!(
            self.unmade.iter().all(|agent| self.cold.contains(*agent)),
            "rule 5, of those unmade"
        );
        let listed: usize = self.groups.values().map(|circle| circle.members.len()).sum();
        assert_eq!(listed, members, "rule 1");
        assert!(self.groups.values().all(|circle| !circle.members.is_empty()));
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;
