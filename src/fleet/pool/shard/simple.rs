//! The path of a lease through a [shard](super) of which one strategy is kept, above all where that decides alone among
//! agents that are alike (rule 6): the same steps as elsewhere, with what is known there left out.

use super::*;
use crate::fleet::pool::index::End;
use crate::fleet::pool::strategy::LOAD_STEP;

impl Shard {
    /// Whether its agents are all of one class, and nobody pays for them.
    #[inline(always)]
    pub(in crate::fleet::pool) fn is_uniform(&self) -> bool {
        matches!(&*self.classes, [Class { payer: None, .. }])
    }

    /// Decides rule 6 anew.
    pub(super) fn see_whether_simple(&mut self) {
        let alike = matches!(&*self.classes, [Class { payer: None, degraded: false, .. }]);
        self.sole = self.kept.sole().filter(|_| alike && !self.closed);
    }

    /// Drops classes at the end that count nobody (rule 2), so that agents that are alike again are of one class.
    pub(super) fn drop_empty_classes(&mut self) {
        let before = self.classes.len();
        while self.classes.len() > 1 && self.classes.last().is_some_and(|class| class.live == 0) {
            self.classes.pop();
        }
        self.lacking.truncate(self.classes.len());
        if self.classes.len() < before {
            self.see_whether_simple();
        }
    }

    #[inline(always)]
    pub(in crate::fleet::pool) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Grants nothing any more.
    pub(in crate::fleet::pool) fn close(&mut self) {
        self.closed = true;
        self.spare_max = 0;
        self.see_whether_simple();
    }

    /// Its floor, if one strategy decides alone, which that is. `None` too where a line has been empty: its lap
    /// follows from those of others.
    #[inline(always)]
    pub(in crate::fleet::pool) fn sole_floor(&mut self) -> Option<(Strategy, u64)> {
        let by = self.sole?;
        let index = &self.classes.first()?.index[by.index()];
        if by == Strategy::RoundRobin {
            let first = self.slots.get(index.first() as usize)?.turn;
            if self.lap_end == Stamp::FIRST {
                return None;
            }
            self.count_lap(first);
            return Some((by, self.lap));
        }
        let best = index.best();
        Some((by, if best == NOBODY { NO_FLOOR } else { u64::from(best) }))
    }

    /// Grants a lease on the best agent, for whoever asks for any; `None` if there is none or this strategy does not
    /// decide alone.
    #[inline(always)]
    pub(in crate::fleet::pool) fn lease_first(&mut self, by: Strategy) -> Option<Grant> {
        if self.sole != Some(by) {
            return None;
        }
        self.lease_first_of(0, by)
    }

    /// Grants a lease on an agent that was found for somebody.
    #[inline(always)]
    pub(in crate::fleet::pool) fn lease_found(&mut self, local: u32) -> Grant {
        if let Some(by) = self.only {
            let class = usize::from(self.slots[local as usize].class);
            // Unless it was asked for by name.
            if self.classes[class].index[by.index()].first() == local
                && let Some(grant) = self.lease_first_of(class, by)
            {
                return grant;
            }
        }
        self.lease(local)
    }

    /// Grants a lease on the best agent of a class by the one strategy that is kept, if it has one.
    #[inline(always)]
    fn lease_first_of(&mut self, class: usize, by: Strategy) -> Option<Grant> {
        let slots = self.slots.as_mut_slice();
        let index = &mut self.classes.get_mut(class)?.index[by.index()];
        let (local, rank, changed) = index.pop(slots, by.index())?;
        // Turns pass without a change of the best rank.
        self.stirred |= changed || by == Strategy::RoundRobin;
        let slot = &mut slots[local as usize];
        slot.load += 1;
        let load = slot.load;
        slot.stamp = self.clock;
        if by == Strategy::RoundRobin {
            slot.turn = self.clock;
        }
        self.clock = self.clock.next();
        let agent = AgentId { slot: local << self.bits | self.number, generation: slot.generation };
        // It is routed, or it would not have been there.
        if load < slot.limit {
            let rank = if by == Strategy::LeastLoaded { rank + LOAD_STEP } else { rank };
            self.stirred |= index.join(slots, by.index(), rank, local, End::Last);
        }
        Some(self.grant(agent))
    }

    /// The place of the agent that is [leased first](Self::lease_first), if nobody is to be told of its leases.
    #[inline(always)]
    pub(in crate::fleet::pool) fn first_plain(&self, by: Strategy) -> Option<u32> {
        if self.sole != Some(by) {
            return None;
        }
        let local = self.classes.first()?.index[by.index()].first();
        let slot = self.slots.get(local as usize)?;
        slot.standing.is_plainly_fit().then_some(local)
    }

    /// Gives a lease back that cost nothing; `None`, and nothing is done, if there is more to it or the load is not the
    /// one strategy that is kept.
    #[inline(always)]
    pub(in crate::fleet::pool) fn release_by_load(&mut self, agent: AgentId) -> Option<()> {
        let (local, by) = self.held_simply(agent)?;
        if by != Strategy::LeastLoaded {
            return None;
        }
        self.take_back(local, Strategy::LeastLoaded, None);
        Some(())
    }

    /// Ends a lease that is good, charged or not; the place of its agent. `None`, and nothing is done, if there is more
    /// to it.
    #[inline(always)]
    pub(in crate::fleet::pool) fn end_simply(
        &mut self,
        agent: AgentId,
        key: Option<Key>,
        charge: Option<Charge>,
        now: u64,
        went: Option<(bool, u64)>,
    ) -> Option<u32> {
        let (local, by) = self.held_simply(agent)?;
        if let Some(key) = key
            && !self.timed.as_mut()?.remove_before(key, now)
        {
            return None;
        }
        self.take_back(local, by, went);
        if let Some(charge) = charge {
            self.charges.give_back(local, charge);
        }
        Some(local)
    }

    /// Where the agent of a lease is, if it is there, is fit and nobody is to be told; and the one strategy that is kept.
    #[inline(always)]
    fn held_simply(&self, agent: AgentId) -> Option<(u32, Strategy)> {
        let by = self.only?;
        let local = agent.slot >> self.bits;
        let slot = self.slots.get(local as usize)?;
        let plain = slot.generation == agent.generation && slot.standing.is_plainly_fit();
        plain.then_some((local, by))
    }

    /// Takes a lease off an agent that is routed.
    #[inline(always)]
    fn take_back(&mut self, local: u32, by: Strategy, went: Option<(bool, u64)>) {
        let (slots, link) = (self.slots.as_mut_slice(), by.index());
        let slot = slots.get_mut(local as usize).expect("it was just looked at");
        // Where there is one class, what follows need not wait for the row.
        let class = match self.classes.as_mut_slice() {
            [class] => class,
            classes => &mut classes[usize::from(slot.class)],
        };
        let index = &mut class.index[link];
        self.counts.taken_back += 1;
        if by == Strategy::RoundRobin {
            slot.load -= 1;
            slot.stamp = self.clock.of_return();
            self.clock = self.clock.next();
            // Who had room stays where it is in the line.
            if slot.load + 1 == slot.limit {
                slot.turn = slot.stamp;
                index.join(slots, link, 0, local, End::Last);
                self.stirred = true;
            }
            return;
        }
        let mut score = match by {
            Strategy::Performance => self.scores.get_mut(local as usize),
            _ => None,
        };
        let rank = by.rank(slot, || score.as_ref().map_or(0, |score| score.class()));
        let (load, limit) = (slot.load, slot.limit);
        slot.load = load - 1;
        slot.stamp = self.clock.of_return();
        let end = by.end(slot.stamp);
        self.clock = self.clock.next();
        if let (Some(score), Some((succeeded, latency_ns))) = (&mut score, went) {
            score.add(succeeded, latency_ns);
        }
        let after = by.rank(slot, || score.map_or(0, |score| score.class()));
        if load < limit {
            self.stirred |= index.leave(slots, link, rank, local);
        }
        if load <= limit {
            self.stirred |= index.join(slots, link, after, local, end);
        }
    }
}
