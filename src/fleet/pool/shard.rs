//! A part of the agents under a lock of its own: their rows, their order by each strategy, their leases.
//!
//! It is plain data; nothing here blocks, wakes or calls user code. Rules that hold between any two
//! times the lock is held:
//!
//! 1. An agent is in the index of its class for each strategy kept, under the rank that it has now,
//!    exactly if it has room. So who is taken is exact within the shard.
//! 2. A class counts the agents that have its set of capabilities; one that counts none has an empty index
//!    and is used again for another set. No two classes with agents have the same set.
//! 3. The generation of a slot goes up when its agent ends, so a lease of that agent matches no slot, and
//!    cannot be given back twice. A slot whose generations are used up stays vacant for good.
//! 4. `held` is the sum of the loads: the leases that are held, grants not yet collected included.
//! 5. Laps of the round robin: a lap ends when everybody who stood in line at its start has been taken or
//!    has gone.

use std::sync::Arc;

use super::index::{Index, NOBODY};
use super::slot::{NIL, Slot, Standing};
use super::strategy::{Kept, STRATEGIES, Strategy};
use super::{Ask, Entrant, Gone, Grant, Pool};
use crate::fleet::agent::AgentId;
use crate::fleet::lanes::Mask;
use crate::fleet::lease::{LeaseOutcome, Release};
#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
use crate::fleet::request::Fit;

/// The floor of a shard in which nobody has room.
pub(super) const NO_FLOOR: u64 = u64::MAX;

/// How many references to the pool a shard keeps for leases to come.
const STASH: usize = 256;

/// The agents of one shard with one set of capabilities.
#[derive(Debug)]
struct Class {
    mask: Mask,
    live: u32,
    index: [Index; STRATEGIES],
}

/// What a shard counts. All are sums over its life, but for `held`.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::fleet) struct Counts {
    pub(in crate::fleet) granted: u64,
    pub(in crate::fleet) held: u64,
    pub(in crate::fleet) succeeded: u64,
    pub(in crate::fleet) failed: u64,
    pub(in crate::fleet) abandoned: u64,
    pub(in crate::fleet) stale: u64,
}

impl Counts {
    pub(super) const fn add(&mut self, other: &Self) {
        self.granted += other.granted;
        self.held += other.held;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.abandoned += other.abandoned;
        self.stale += other.stale;
    }
}

/// Who would be taken, and what makes it the one: the lesser is the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Best {
    /// How badly the capabilities match, where that is asked.
    pub(super) misfit: u32,
    pub(super) rank: u32,
    age: u64,
    pub(super) local: u32,
}

/// See the file's head.
pub(super) struct Shard {
    pub(super) closed: bool,
    number: u32,
    /// How many bits of a slot's number name the shard.
    bits: u32,
    kept: Kept,
    /// Whether a floor may have changed since it was published.
    stirred: bool,
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    classes: Vec<Class>,
    clock: u64,
    lap: u64,
    /// The turn with which the lap ends.
    lap_end: u64,
    live: u32,
    pub(super) counts: Counts,
    /// References to the pool for leases to come: taking one here costs no locked instruction.
    stash: Vec<Arc<Pool>>,
}

impl Shard {
    pub(super) fn new(number: u32, bits: u32, kept: Kept) -> Self {
        Self {
            closed: false,
            number,
            bits,
            kept,
            stirred: false,
            slots: Vec::new(),
            vacant: Vec::new(),
            classes: Vec::new(),
            clock: 0,
            lap: 0,
            lap_end: 0,
            live: 0,
            counts: Counts::default(),
            stash: Vec::new(),
        }
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) const fn live(&self) -> u32 {
        self.live
    }

    pub(super) fn id(&self, local: u32) -> AgentId {
        let generation = self.slots[local as usize].generation;
        AgentId { slot: local << self.bits | self.number, generation }
    }

    /// The place of a live agent.
    #[inline]
    pub(super) fn find(&self, agent: AgentId) -> Option<u32> {
        let local = agent.slot >> self.bits;
        let slot = self.slots.get(local as usize)?;
        let lives = slot.generation == agent.generation && slot.standing != Standing::Vacant;
        lives.then_some(local)
    }

    pub(super) fn slot(&self, local: u32) -> &Slot {
        &self.slots[local as usize]
    }

    pub(super) fn mask(&self, local: u32) -> Mask {
        self.classes[self.slots[local as usize].class as usize].mask
    }

    /// The live agents, in the order of their slots.
    pub(super) fn ids(&self) -> impl Iterator<Item = AgentId> {
        (0_u32..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.standing != Standing::Vacant)
            .map(|(local, _)| self.id(local))
    }

    /// Makes room for so many more agents in one step.
    pub(super) fn reserve(&mut self, count: usize) {
        self.slots.reserve(count.saturating_sub(self.vacant.len()));
    }

    /// Adds an agent, for which the desk found room.
    pub(super) fn insert(&mut self, entrant: &Entrant) -> AgentId {
        let class = self.class_of(entrant.mask);
        self.classes[class as usize].live += 1;
        self.live += 1;
        let local = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot::vacant());
            u32::try_from(self.slots.len() - 1).expect("max_agents fits in 32 bits")
        });
        let slot = &mut self.slots[local as usize];
        slot.kind = entrant.kind;
        slot.limit = entrant.limit;
        slot.priority = entrant.priority;
        slot.class = class;
        slot.load = 0;
        slot.standing = Standing::Routed;
        self.touch(local);
        self.line_up(local);
        self.join(local);
        self.id(local)
    }

    /// The class of a set of capabilities, new or used again if there is none (rule 2).
    fn class_of(&mut self, mask: Mask) -> u16 {
        let known = self.classes.iter().position(|class| class.live > 0 && class.mask == mask);
        let place = known.or_else(|| self.classes.iter().position(|class| class.live == 0));
        let place = place.unwrap_or_else(|| {
            let index = std::array::from_fn(|_| Index::new());
            self.classes.push(Class { mask, live: 0, index });
            self.classes.len() - 1
        });
        self.classes[place].mask = mask;
        u16::try_from(place).expect("the desk bounds the sets of capabilities")
    }

    /// Ends a live agent: its leases are void. How many those were, its kind and its capabilities.
    pub(super) fn remove(&mut self, local: u32) -> (u32, u32, Mask) {
        self.leave(local);
        let slot = &mut self.slots[local as usize];
        let load = slot.load;
        slot.standing = Standing::Vacant;
        slot.load = 0;
        // Rule 3.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.vacant.push(local);
        }
        self.live -= 1;
        self.counts.held -= u64::from(load);
        let class = &mut self.classes[slot.class as usize];
        class.live -= 1;
        (u32::from(load), slot.kind, class.mask)
    }

    /// The best agent for a request (rule 1).
    #[inline]
    pub(super) fn best(&self, ask: &Ask) -> Option<Best> {
        let link = ask.strategy.index();
        let mut best: Option<Best> = None;
        for class in &self.classes {
            let rank = class.index[link].best();
            if rank == NOBODY {
                continue;
            }
            let Some(misfit) = ask.misfit(class.mask) else { continue };
            if best.is_some_and(|best| (best.misfit, best.rank) < (misfit, rank)) {
                continue;
            }
            let local = class.index[link].first();
            let age = ask.strategy.age(&self.slots[local as usize]);
            let found = Best { misfit, rank, age, local };
            if best.is_none_or(|best| found < best) {
                best = Some(found);
            }
        }
        best
    }

    /// Grants a lease on an agent that has room.
    #[inline]
    pub(super) fn lease(&mut self, local: u32) -> Grant {
        self.leave(local);
        self.slots[local as usize].load += 1;
        self.touch(local);
        self.line_up(local);
        self.join(local);
        let lease = self.counts.granted << self.bits | u64::from(self.number);
        self.counts.granted += 1;
        self.counts.held += 1;
        Grant { agent: self.id(local), lease }
    }

    /// Remembers that somebody wants this agent as soon as it has room.
    pub(super) fn want(&mut self, local: u32) {
        self.slots[local as usize].standing = Standing::Wanted;
    }

    /// Whether somebody wants the agent of a lease that is about to come back.
    #[inline]
    pub(super) fn is_wanted(&self, agent: AgentId) -> bool {
        self.slots
            .get((agent.slot >> self.bits) as usize)
            .is_some_and(|slot| slot.standing == Standing::Wanted)
    }

    /// Whether somebody who is to be told now wanted this agent.
    pub(super) fn meet_want(&mut self, local: u32) -> bool {
        let slot = &mut self.slots[local as usize];
        let met = slot.has_room() && slot.standing == Standing::Wanted;
        if met {
            slot.standing = Standing::Routed;
        }
        met
    }

    /// Gives a lease back; the place of its agent.
    #[inline]
    pub(super) fn release(&mut self, agent: AgentId) -> Result<u32, Gone> {
        let local = match self.find(agent) {
            Some(local) => local,
            None if super::broken("fleet.release-unchecked") => agent.slot >> self.bits,
            None => return Err(Gone),
        };
        let was_full = !self.slots[local as usize].has_room();
        self.leave_but_line(local);
        self.slots[local as usize].load -= 1;
        self.touch(local);
        if was_full {
            self.line_up(local);
            self.join(local);
        } else {
            self.join_but_line(local);
        }
        self.counts.held -= 1;
        Ok(local)
    }

    pub(super) fn count(&mut self, released: bool, how: Release) {
        let counts = &mut self.counts;
        match how {
            _ if !released => counts.stale += 1,
            Release::Outcome(LeaseOutcome::Succeeded) => counts.succeeded += 1,
            Release::Outcome(LeaseOutcome::Failed) => counts.failed += 1,
            Release::Abandoned => counts.abandoned += 1,
        }
    }

    #[inline]
    fn touch(&mut self, local: u32) {
        self.slots[local as usize].stamp = self.clock;
        self.clock += 1;
    }

    /// Gives an agent the last turn; it is in no line.
    #[inline]
    fn line_up(&mut self, local: u32) {
        let slot = &mut self.slots[local as usize];
        slot.turn = slot.stamp;
    }

    #[inline]
    fn join(&mut self, local: u32) {
        self.change(local, true, Index::join);
    }

    #[inline]
    fn join_but_line(&mut self, local: u32) {
        self.change(local, false, Index::join);
    }

    #[inline]
    fn leave(&mut self, local: u32) {
        self.change(local, true, Index::leave);
    }

    #[inline]
    fn leave_but_line(&mut self, local: u32) {
        self.change(local, false, Index::leave);
    }

    /// Has an agent with room join or leave its lists (rule 1), the line for turns too or not.
    #[inline(always)]
    fn change(
        &mut self,
        local: u32,
        line: bool,
        step: impl Fn(&mut Index, &mut [Slot], usize, u32, u32) -> bool,
    ) {
        let slot = &self.slots[local as usize];
        if !slot.has_room() {
            return;
        }
        let class = &mut self.classes[slot.class as usize];
        for strategy in self.kept.iter() {
            if strategy == Strategy::RoundRobin {
                // Turns pass without a change of the best rank.
                self.stirred = true;
                if !line {
                    continue;
                }
            }
            let rank = strategy.rank(&self.slots[local as usize]);
            let index = &mut class.index[strategy.index()];
            self.stirred |= step(index, &mut self.slots, strategy.index(), rank, local);
        }
    }

    /// Whether the floors must be published anew.
    #[inline(always)]
    pub(super) fn is_stirred(&mut self) -> bool {
        std::mem::take(&mut self.stirred)
    }

    /// The best that a strategy finds here, or [`NO_FLOOR`]. For the round robin it is the lap, which is no
    /// earlier than `lap` when somebody comes into an empty line.
    pub(super) fn floor(&mut self, strategy: Strategy, lap: impl FnOnce() -> u64) -> u64 {
        let link = strategy.index();
        if strategy != Strategy::RoundRobin {
            let best = self.classes.iter().map(|class| class.index[link].best()).min();
            return best.filter(|best| *best != NOBODY).map_or(NO_FLOOR, u64::from);
        }
        let heads = self.classes.iter().map(|class| class.index[link].first());
        let turns = heads.filter(|head| *head != NIL).map(|head| self.slots[head as usize].turn);
        let Some(turn) = turns.min() else {
            self.lap_end = 0;
            return NO_FLOOR;
        };
        if self.lap_end == 0 {
            self.lap = self.lap.max(lap());
            self.lap_end = self.clock;
        } else if turn >= self.lap_end {
            // Rule 5.
            self.lap += 1;
            self.lap_end = self.clock;
        }
        self.lap
    }

    /// A reference for a lease, if one is kept.
    #[inline(always)]
    pub(super) fn take_reference(&mut self) -> Option<Arc<Pool>> {
        self.stash.pop()
    }

    /// Keeps the reference of a lease that has ended, or hands it back.
    #[inline(always)]
    pub(super) fn keep_reference(&mut self, pool: Arc<Pool>) -> Option<Arc<Pool>> {
        if self.closed || self.stash.len() >= STASH {
            return Some(pool);
        }
        self.stash.push(pool);
        None
    }

    /// Refuses leases from now on, and gives out the references that it keeps.
    pub(super) fn close(&mut self) -> Vec<Arc<Pool>> {
        self.closed = true;
        std::mem::take(&mut self.stash)
    }

    /// Checks the rules from scratch.
    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn validate(&self) {
        use std::collections::HashSet;

        let mut live = vec![0; self.classes.len()];
        let mut held = 0;
        for slot in self.slots.iter().filter(|slot| slot.standing != Standing::Vacant) {
            assert!(slot.load <= slot.limit, "an agent holds more than its limit");
            live[slot.class as usize] += 1;
            held += u64::from(slot.load);
        }
        assert_eq!(self.counts.held, held, "rule 4");
        assert_eq!(self.live, live.iter().sum::<u32>());
        let mut masks = HashSet::new();
        for (place, class) in self.classes.iter().enumerate() {
            assert_eq!(class.live, live[place], "rule 2");
            assert!(class.live == 0 || masks.insert(class.mask), "rule 2: a set twice");
            for strategy in Strategy::ALL {
                let members = class.index[strategy.index()].validate(&self.slots, strategy.index());
                let mut ages = Vec::new();
                for (rank, local) in &members {
                    let slot = &self.slots[*local as usize];
                    assert!(slot.has_room() && slot.class as usize == place, "rule 1");
                    assert_eq!(strategy.rank(slot), *rank, "rule 1");
                    ages.push((*rank, strategy.age(slot)));
                }
                assert!(ages.is_sorted(), "rule 1: {strategy:?} is out of order");
                let room = |slot: &&Slot| slot.has_room() && slot.class as usize == place;
                let expected = self.slots.iter().filter(room).count();
                let expected = if self.kept.has(strategy) { expected } else { 0 };
                assert_eq!(members.len(), expected, "rule 1: somebody is missing");
            }
        }
        for fit in [Fit::All, Fit::Tightest, Fit::BestFraction] {
            for strategy in self.kept.iter() {
                let ask = Ask { fit, ..Ask::any(strategy) };
                let naive = (0_u32..).zip(&self.slots).filter(|(_, slot)| slot.has_room());
                let naive = naive.map(|(local, slot)| {
                    let misfit = ask.misfit(self.mask(local)).expect("nothing is asked for");
                    (misfit, strategy.rank(slot), strategy.age(slot), local)
                });
                let best =
                    self.best(&ask).map(|best| (best.misfit, best.rank, best.age, best.local));
                assert_eq!(best, naive.min(), "rule 1: {fit:?} {strategy:?}");
            }
        }
    }
}
