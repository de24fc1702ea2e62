//! What is true of agents, as it is told.

use std::sync::Arc;

use super::desk::Kind;
use super::shard::Shard;
use super::slot::Slot;
use super::{Ask, Mask, Pool, RUNS_TASKS};
use crate::fleet::agent::{AgentState, AgentStatus};
use crate::fleet::id::AgentId;
use crate::fleet::supervision::FIRST;

impl Pool {
    /// Whether a live agent, with room or not, can do what these capabilities are asked for.
    pub(in crate::fleet) fn could_serve(&self, mask: Mask) -> bool {
        let ask = Ask { mask, ..Ask::any(self.kept.first()) };
        self.desk.lock().could_serve(&ask)
    }

    /// Whether the agent lives.
    pub(in crate::fleet) fn lives(&self, agent: AgentId) -> bool {
        self.shards[self.shard_of(agent)].lock().find(agent).is_some()
    }

    pub(in crate::fleet) fn status(&self, agent: AgentId) -> Option<AgentStatus> {
        let desk = self.desk.lock();
        let shard = self.shards[self.shard_of(agent)].lock();
        let local = shard.find(agent)?;
        Some(status(&shard, local, desk.kind(shard.slot(local).kind)))
    }

    /// What the agent is doing, or that it has ended; `None` if there never was one of this name. O(1).
    pub(in crate::fleet) fn state(&self, agent: AgentId) -> Option<AgentState> {
        let shard = self.shards.get(self.shard_of(agent))?.lock();
        if let Some(local) = shard.find(agent) {
            return Some(state(shard.slot(local)));
        }
        shard.has_ended(agent).then_some(AgentState::Stopped)
    }

    /// The live agents at one moment, in the order of their slots.
    pub(in crate::fleet) fn all(&self) -> Vec<AgentStatus> {
        let desk = self.desk.lock();
        let shards = self.lock_all();
        let mut all = Vec::with_capacity(desk.live);
        for shard in &shards {
            all.extend(shard.ids().map(|agent| {
                let local = shard.find(agent).expect("it was just listed");
                status(shard, local, desk.kind(shard.slot(local).kind))
            }));
        }
        drop(shards);
        drop(desk);
        all.sort_unstable_by_key(|status| status.id);
        all
    }

    pub(in crate::fleet) fn ids(&self) -> Vec<AgentId> {
        let mut ids: Vec<_> = self.lock_all().iter().flat_map(|shard| shard.ids()).collect();
        ids.sort_unstable();
        ids
    }
}

pub(super) fn status(shard: &Shard, local: u32, kind: &Kind) -> AgentStatus {
    let (slot, mask) = (shard.slot(local), shard.mask(local));
    AgentStatus {
        id: shard.id(local),
        name: Arc::clone(&kind.name),
        state: state(slot),
        load: u32::from(slot.load),
        // On trial it may hold fewer for now.
        max_leases: u32::from(kind.limit),
        priority: slot.priority,
        has_handler: mask & RUNS_TASKS != 0,
        labels: Arc::clone(&kind.labels),
        resources: kind.resources,
        incarnation: shard.incarnations.get(&local).copied().unwrap_or(FIRST),
    }
}

fn state(slot: &Slot) -> AgentState {
    AgentState::of(slot.standing.condition().unwrap_or_default(), u32::from(slot.load))
}
