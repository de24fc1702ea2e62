//! What agents are fit for, and agents that are emptied before they end.
//!
//! Rules that hold here:
//!
//! 1. The condition of an agent is in its row, beside its load, and changes under the lock of its shard: who
//!    is allocated and what the status says cannot differ.
//! 2. Of an agent that gets no leases any more, what a batch had gathered and nobody has collected is taken back,
//!    in the step in which that becomes so.
//! 3. Who waits for an agent to be idle says so before it looks (rule 2 of the pool), so it is woken by
//!    whoever gives the last lease back, or ends the agent.
//! 4. An agent that drains is given to nobody but its own mailbox, and to that only while it
//!    [finishes](Fitness::finishes).

use std::task::Waker;

use super::{OnCircuit, Passed, Pool};
use crate::fleet::agent::Condition;
use crate::fleet::id::AgentId;
use crate::fleet::supervision::FIRST;

/// What the pool is told of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fleet) struct Fitness {
    pub(in crate::fleet) condition: Condition,
    /// Whether its mailbox has turns though it drains.
    pub(in crate::fleet) finishes: bool,
    /// What the circuit of its type says of it, if there is one.
    pub(in crate::fleet) circuit: Option<OnCircuit>,
    pub(in crate::fleet) incarnation: u32,
}

/// Who waits for an agent to hold no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fleet) struct Idler {
    agent: AgentId,
    key: u64,
}

impl Idler {
    pub(in crate::fleet) fn new(agent: AgentId) -> Self {
        Self { agent, key: crate::sync::unique() }
    }
}

impl Pool {
    /// What an agent is fit for.
    pub(in crate::fleet) fn condition(&self, agent: AgentId) -> Option<Condition> {
        let shard = self.shards[self.shard_of(agent)].lock();
        shard.slot(shard.find(agent)?).standing.condition()
    }

    /// Sets what an agent is fit for; what it was fit for before. Its places go to those who wait.
    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(in crate::fleet) fn set_condition(
        &self,
        agent: AgentId,
        condition: Condition,
    ) -> Option<Condition> {
        let mut wakes = Vec::new();
        let (finishes, circuit, incarnation) = (false, None, FIRST);
        let fitness = Fitness { condition, finishes, circuit, incarnation };
        let (old, passed) = self.change_condition(agent, fitness, &mut wakes)?;
        self.wake_all(wakes);
        self.tell_freed(passed.freed);
        if passed.hungry {
            self.tell_workers();
        }
        Some(old)
    }

    /// The same for one who holds other locks, and wakes and tells whom it concerns later. It may hold more leases than
    /// its circuit allows.
    pub(in crate::fleet) fn change_condition(
        &self,
        agent: AgentId,
        fitness: Fitness,
        wakes: &mut Vec<Waker>,
    ) -> Option<(Condition, Passed)> {
        let Fitness { condition, finishes, circuit, incarnation } = fitness;
        let mut desk = self.desk.lock();
        let at = self.shard_of(agent);
        let mut shard = self.shards[at].lock();
        let local = shard.find(agent)?;
        let old = shard.slot(local).standing.condition()?;
        if let Some(circuit) = circuit {
            shard.enter_era(local, circuit);
        }
        if incarnation != FIRST {
            shard.incarnations.insert(local, incarnation);
        }
        let counted_on = shard.slot(local).standing.is_counted_on();
        shard.set_condition(local, condition, circuit.is_some_and(|circuit| circuit.on_trial));
        desk.recount(&shard, local, counted_on);
        shard.set_finishing(local, finishes && condition == Condition::Draining);
        if let Some(circuit) = circuit {
            shard.set_limit(local, circuit.limit);
        }
        if !shard.slot(local).standing.is_routed() {
            for granted in desk.batches.withdraw(agent) {
                shard.release(agent, granted.charge, None, false).expect("it was just found");
            }
        }
        Some((old, self.pass_on(&mut desk, &mut shard, at, local, wakes)))
    }

    /// Whether an agent lives and holds no lease.
    pub(in crate::fleet) fn is_idle(&self, agent: AgentId) -> bool {
        let shard = self.shards[self.shard_of(agent)].lock();
        shard.find(agent).is_some_and(|local| shard.slot(local).load == 0)
    }

    /// Whether that is so, and nobody waits who names it.
    pub(in crate::fleet) fn is_unasked(&self, agent: AgentId) -> bool {
        let is_named = self.desk.lock().is_named(agent);
        !is_named && self.is_idle(agent)
    }

    /// How many leases an agent holds, `None` if it has ended. Whoever gives the last one back, or ends it, calls the
    /// waker, once (rule 3).
    pub(in crate::fleet) fn await_idle(&self, idler: Idler, waker: Waker) -> Option<u16> {
        let Idler { agent, key } = idler;
        let mut desk = self.desk.lock();
        desk.idlers.retain(|(known, ..)| *known != key);
        desk.idlers.push((key, agent, waker));
        self.say_who_waits(&desk);
        self.load(agent)
    }

    /// Ends such a wait.
    pub(in crate::fleet) fn stop_awaiting(&self, idler: Idler) {
        let mut desk = self.desk.lock();
        desk.idlers.retain(|(known, ..)| *known != idler.key);
        self.say_who_waits(&desk);
    }

    /// How many leases an agent holds; `None` if it has ended.
    pub(in crate::fleet) fn load(&self, agent: AgentId) -> Option<u16> {
        let shard = self.shards[self.shard_of(agent)].lock();
        shard.find(agent).map(|local| shard.slot(local).load)
    }
}
