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

use std::task::Waker;

use super::{OnCircuit, Passed, Pool};
use crate::clock::Timestamp;
use crate::fleet::agent::Condition;
use crate::fleet::id::AgentId;
use crate::fleet::supervision::FIRST;
use crate::sync::Parker;

/// How a wait for an agent to hold no lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fleet) enum Emptied {
    /// It holds none.
    Idle,
    /// It has ended.
    Gone,
    /// It still held some at the deadline.
    Late,
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
        let (old, passed) = self.change_condition(agent, condition, None, FIRST, &mut wakes)?;
        self.wake_all(wakes);
        self.tell_freed(passed.freed);
        if passed.hungry {
            self.tell_workers();
        }
        Some(old)
    }

    /// The same for one who holds other locks, and wakes and tells whom it concerns later; with what the circuit of
    /// its type says of it, if there is one, and which incarnation it is of. It may hold more leases than that allows.
    pub(in crate::fleet) fn change_condition(
        &self,
        agent: AgentId,
        condition: Condition,
        circuit: Option<OnCircuit>,
        incarnation: u32,
        wakes: &mut Vec<Waker>,
    ) -> Option<(Condition, Passed)> {
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
        shard.set_condition(local, condition, circuit.is_some_and(|circuit| circuit.on_trial));
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

    /// Waits on this thread until an agent holds no lease. For one that is not allocated: another may get
    /// leases again at once.
    pub(in crate::fleet) fn wait_idle(
        &self,
        agent: AgentId,
        deadline: Option<Timestamp>,
    ) -> Emptied {
        let parker = Parker::new();
        let key = crate::sync::unique();
        let mut late = false;
        loop {
            {
                let mut desk = self.desk.lock();
                desk.idlers.retain(|(known, ..)| *known != key);
                // Rule 3.
                if !late {
                    desk.idlers.push((key, agent, parker.waker()));
                }
                self.say_who_waits(&desk);
                let load = {
                    let shard = self.shards[self.shard_of(agent)].lock();
                    shard.find(agent).map(|local| shard.slot(local).load)
                };
                let ended = match load {
                    None => Some(Emptied::Gone),
                    Some(0) => Some(Emptied::Idle),
                    Some(_) => late.then_some(Emptied::Late),
                };
                if let Some(ended) = ended {
                    desk.idlers.retain(|(known, ..)| *known != key);
                    self.say_who_waits(&desk);
                    return ended;
                }
            }
            let until = [deadline, self.next_due()].into_iter().flatten().min();
            if !self.clock.park_until(&parker, until) {
                late = deadline.is_some_and(|deadline| self.clock.now() >= deadline);
                self.expire_due();
            }
        }
    }
}
