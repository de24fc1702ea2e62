//! What the fleet does as the circuits of its types open and close.

use std::sync::Arc;

use super::circuit::{Circuit, Seeks, Turned};
use super::prewarm::until_warm;
use super::{Supervision, Tenure, serves};
use crate::clock::Timestamp;
use crate::fleet::Fleet;
use crate::fleet::agent::{AgentSpec, Condition};
use crate::fleet::id::AgentId;
use crate::fleet::inner::{After, Inner, State};
use crate::fleet::log::FleetEvent;
use crate::fleet::supervise::{BreakerPolicy, BreakerState};

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Fleet<T, O> {
    /// What the [circuit](super::super::FleetBuilder::breaker) of a type of agents does now; `None` for a type
    /// without one.
    #[must_use]
    pub fn circuit(&self, agent_type: &str) -> Option<BreakerState> {
        let now = self.inner().clock.now();
        let state = self.inner().state.lock();
        let circuit = state.supervision.circuit_of(agent_type)?;
        Some(state.supervision.circuits[circuit].state(now))
    }
}

impl Supervision {
    /// With these circuits.
    pub(in crate::fleet) fn with_circuits(policies: Vec<(Arc<str>, BreakerPolicy)>) -> Self {
        let circuit = |(seed, (name, policy))| Circuit::new(name, policy, seed);
        let circuits = (0..).zip(policies).map(circuit).collect();
        Self { circuits, ..Self::default() }
    }

    /// The place of the circuit of a type.
    pub(super) fn circuit_of(&self, name: &str) -> Option<usize> {
        self.circuits.iter().position(|circuit| *circuit.name == *name)
    }

    /// The era of the circuit of a type.
    pub(in crate::fleet) fn era_of(&self, name: &str) -> Option<u32> {
        self.circuit_of(name).map(|circuit| self.circuits[circuit].era)
    }

    /// In what condition an agent of a spec begins: not to be allocated while its circuit is not closed.
    pub(in crate::fleet) fn first_condition<T, O>(&self, spec: &AgentSpec<T, O>) -> Condition {
        let circuit = self.circuit_of(&spec.name);
        let held_back = circuit.is_some_and(|circuit| !self.circuits[circuit].is_closed());
        let cold = spec.is_prewarmed();
        let first = if cold { until_warm(spec.condition) } else { spec.condition };
        if held_back && serves(first) { Condition::Failed } else { first }
    }

    /// Ends the trial of an agent that does not serve any more.
    pub(super) fn check_trial(&mut self, agent: AgentId) {
        let circuit = self.wards.get(&agent).and_then(|ward| ward.circuit);
        if let Some(circuit) = circuit
            && !self.fitness(agent).is_some_and(can_try)
        {
            self.circuits[circuit].abandon(agent);
        }
    }

    /// Has the circuit of an agent that may be able to go on trial now look for somebody.
    pub(super) fn may_try(&mut self, agent: AgentId) {
        if let Some(circuit) = self.wards.get(&agent).and_then(|ward| ward.circuit) {
            self.circuits[circuit].look_again();
        }
    }

    /// How many agents of a type are down for its circuit alone, or until they are started again, and until when nobody
    /// is tried, if that is known; `None` if it has no circuit, or it is closed.
    pub(in crate::fleet) fn held_back(&self, name: &str) -> Option<(usize, Option<Timestamp>)> {
        let circuit = &self.circuits[self.circuit_of(name)?];
        let comes_back = |agent: &&AgentId| {
            let ward = self.wards.get(agent);
            let rises = ward.is_some_and(|ward| ward.down.is_some() && serves(ward.wanted));
            rises || self.fitness(**agent).is_some_and(serves)
        };
        let is_held_back = |agent: &&AgentId| !circuit.admits(**agent).0 && comes_back(agent);
        let count = || circuit.members.iter().filter(is_held_back).count();
        (!circuit.is_closed()).then(|| (count(), circuit.tries_again()))
    }

    /// Whether an agent of a circuit could go on trial, if it holds no lease.
    fn could_try(&self, circuit: usize, agent: AgentId) -> bool {
        let ward = self.wards.get(&agent).filter(|ward| ward.circuit == Some(circuit));
        ward.is_some() && self.fitness(agent).is_some_and(can_try)
    }

    /// Those of a circuit that could go on trial, if they hold no lease.
    fn candidates(&self, place: usize) -> impl Iterator<Item = AgentId> {
        let circuit = &self.circuits[place];
        // Who is on trial and was not taken stays so.
        let members = circuit.on_trial().chain(&circuit.members).copied();
        members.filter(move |agent| self.could_try(place, *agent))
    }
}

const fn can_try(condition: Condition) -> bool {
    matches!(condition, Condition::Fit | Condition::Degraded)
}

impl<T, O> Inner<T, O> {
    /// Takes notice of how an attempt went, before its lease is given back and the agent fails of it. `None` is
    /// neither well nor ill: somebody did not want it any more.
    pub(in crate::fleet) fn attempt_went(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        tenure: Tenure,
        well: Option<bool>,
        after: &mut After<T, O>,
    ) {
        if self.has_circuits && tenure.is_supervised() {
            self.circuit_hears(state, agent, Some(tenure.era), well, after);
        }
    }

    /// Has the circuit of an agent's type, if it has one, take notice of what began in that era of it.
    pub(in crate::fleet) fn circuit_hears(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        era: Option<u32>,
        well: Option<bool>,
        after: &mut After<T, O>,
    ) {
        if state.stopping {
            return;
        }
        let circuit = state.supervision.wards.get(&agent).and_then(|ward| ward.circuit);
        let Some(circuit) = circuit else { return };
        let now = self.clock.now();
        let known = &mut state.supervision.circuits[circuit];
        let turned = match well {
            _ if era != Some(known.era) => None,
            Some(well) => known.went(agent, well, now),
            None => {
                known.abandon(agent);
                None
            }
        };
        match turned {
            Some(turned) => self.circuit_turned(state, circuit, turned, after),
            // It may have been a trial, and was not the last.
            None if known.seeks() == Seeks::All => self.apply(state, agent, after),
            None => {}
        }
    }

    /// Has the circuit of an agent's type, if it has one, take notice that a handler could not be made for the agent,
    /// which began in that era of it.
    pub(super) fn circuit_misses(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        era: u32,
        after: &mut After<T, O>,
    ) {
        let circuit = state.supervision.wards.get(&agent).and_then(|ward| ward.circuit);
        let Some(circuit) = circuit.filter(|_| !state.stopping) else { return };
        let now = self.clock.now();
        let known = &mut state.supervision.circuits[circuit];
        if era != known.era {
            return;
        }
        let Some(turned) = known.not_made(now) else { return };
        let agent_type = Arc::clone(&known.name);
        state.counts.circuit_trials += 1;
        after.events.push(FleetEvent::CircuitTried { agent_type, agent });
        self.circuit_turned(state, circuit, turned, after);
    }

    fn circuit_turned(
        &self,
        state: &mut State<T, O>,
        circuit: usize,
        turned: Turned,
        after: &mut After<T, O>,
    ) {
        let agent_type = Arc::clone(&state.supervision.circuits[circuit].name);
        after.events.push(match turned {
            Turned::Opened(until) => {
                state.counts.circuits_opened += 1;
                FleetEvent::CircuitOpened { agent_type, until }
            }
            Turned::Closed => {
                state.counts.circuits_closed += 1;
                FleetEvent::CircuitClosed { agent_type }
            }
        });
        self.apply_to_all(state, circuit, after);
    }

    /// Does something about circuits for one who holds no lock.
    pub(in crate::fleet) fn with_circuits(
        &self,
        step: impl FnOnce(&mut State<T, O>, &mut After<T, O>),
    ) {
        let mut after = After::new();
        {
            let mut state = self.state.lock();
            step(&mut state, &mut after);
            self.publish_alarm(&mut state);
        }
        if !after.is_empty() {
            self.finish(after);
        }
    }

    fn apply_to_all(&self, state: &State<T, O>, circuit: usize, after: &mut After<T, O>) {
        for agent in &state.supervision.circuits[circuit].members {
            self.apply(state, *agent, after);
        }
    }

    /// Has circuits become half-open whose time has come.
    pub(in crate::fleet) fn ring_circuits(
        &self,
        state: &mut State<T, O>,
        now: Timestamp,
        after: &mut After<T, O>,
    ) {
        if !self.has_circuits || state.stopping {
            return;
        }
        for place in 0..state.supervision.circuits.len() {
            if state.supervision.circuits[place].ring(now) {
                self.apply_to_all(state, place, after);
            }
        }
        self.try_circuits(state, None, after);
    }

    /// Puts agents on trial for circuits that look for one: after an agent has come, has ended, or was `freed` of
    /// a lease. O(circuits); O(agents of the type) where all of them are to be looked at: once as it becomes half-open,
    /// after each trial, and each time that it has waited for as long as for a trial.
    pub(in crate::fleet) fn try_circuits(
        &self,
        state: &mut State<T, O>,
        freed: Option<AgentId>,
        after: &mut After<T, O>,
    ) {
        if !self.has_circuits || state.stopping {
            return;
        }
        for place in 0..state.supervision.circuits.len() {
            let known = &state.supervision;
            let is_idle = |agent: &AgentId| self.pool.is_idle(*agent);
            // None but those on trial serves, so an idle one stays idle.
            let found = match known.circuits[place].seeks() {
                Seeks::Nobody => continue,
                Seeks::All => known.candidates(place).find(is_idle),
                Seeks::Freed => {
                    freed.filter(|agent| known.could_try(place, *agent) && is_idle(agent))
                }
            };
            let now = self.clock.now();
            let Some(agent) = found else {
                state.supervision.circuits[place].found_nobody(now);
                continue;
            };
            if state.supervision.circuits[place].try_with(agent, now) {
                let agent_type = Arc::clone(&state.supervision.circuits[place].name);
                state.counts.circuit_trials += 1;
                after.events.push(FleetEvent::CircuitTried { agent_type, agent });
                self.apply(state, agent, after);
            }
        }
    }
}
