//! The path of a lease through a [shard](super) that is simple (rule 6): the same steps as elsewhere, with what is
//! known there left out.

use super::*;
use crate::fleet::pool::strategy::LOAD_STEP;

const BY_LOAD: Strategy = Strategy::LeastLoaded;

impl Shard {
    /// Decides rule 6 anew.
    pub(super) fn see_whether_simple(&mut self) {
        let alike = matches!(&*self.classes, [Class { payer: None, .. }]);
        self.is_simple = !self.closed && alike && self.kept.is_by_load_alone();
    }

    #[inline(always)]
    pub(in crate::fleet::pool) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Grants nothing any more.
    pub(in crate::fleet::pool) fn close(&mut self) {
        self.closed = true;
        self.see_whether_simple();
    }

    /// Grants a lease on the best agent, for whoever asks for any; `None` if there is none or the shard is not simple.
    #[inline(always)]
    pub(in crate::fleet::pool) fn lease_first(&mut self) -> Option<Grant> {
        if !self.is_simple {
            return None;
        }
        let slots = self.slots.as_mut_slice();
        let index = &mut self.classes.first_mut()?.index[BY_LOAD.index()];
        let (local, rank, changed) = index.pop(slots, BY_LOAD.index())?;
        self.stirred |= changed;
        let slot = &mut slots[local as usize];
        let load = slot.load + 1;
        slot.load = load;
        slot.stamp = self.clock;
        self.clock += 1;
        let agent = AgentId { slot: local << self.bits | self.number, generation: slot.generation };
        // It is routed, or it would not have been there.
        if load < slot.limit {
            self.stirred |= index.join(slots, BY_LOAD.index(), rank + LOAD_STEP, local);
        }
        Some(self.grant(agent))
    }

    /// Gives a lease back that cost nothing, on an agent that nobody wants; `None` if there is more to it or the shard is
    /// not simple.
    #[inline(always)]
    pub(in crate::fleet::pool) fn release_simply(&mut self, agent: AgentId) -> Option<()> {
        if !self.is_simple {
            return None;
        }
        let local = agent.slot >> self.bits;
        let slots = self.slots.as_mut_slice();
        let slot = slots.get_mut(local as usize)?;
        if slot.generation != agent.generation || !slot.standing.is_plainly_fit() {
            return None;
        }
        let link = BY_LOAD.index();
        let rank = BY_LOAD.rank(slot, || 0);
        let (load, limit) = (slot.load, slot.limit);
        let index = &mut self.classes.first_mut()?.index[link];
        slot.load = load - 1;
        slot.stamp = self.clock;
        self.clock += 1;
        if load < limit {
            self.stirred |= index.leave(slots, link, rank, local);
        }
        if load <= limit {
            self.stirred |= index.join(slots, link, rank - LOAD_STEP, local);
        }
        self.counts.taken_back += 1;
        Some(())
    }
}
