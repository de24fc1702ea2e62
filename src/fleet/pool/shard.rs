//! A part of the agents under a lock of its own: their rows, their order by each strategy, their leases.
//!
//! It is plain data; nothing here blocks, wakes or calls user code. Rules that hold between any two
//! times the lock is held:
//!
//! 1. An agent is in the index of its class for each strategy kept, under the rank that it has now and among its
//!    equals by age, exactly if it has room. So who is taken is exact within the shard.
//! 2. A class counts the agents that have its set of capabilities and are degraded, or are not; one that
//!    counts none has an empty index and is used again for others, or is dropped if all that come after it are.
//!    The first one stays. No two classes with agents are alike.
//! 3. The generation of a slot goes up when its agent ends, so a lease of that agent matches no slot, and
//!    cannot be given back twice. A slot whose generations are used up stays vacant for good.
//! 4. What was granted less what was taken back is the sum of the loads: the leases that are held, grants not yet
//!    collected included.
//! 5. Laps of the round robin: a lap ends when everybody who takes part in it has been taken or has gone. Those take
//!    part who stood in line as the first lease of it was granted; without one there is no next lap, however many came and
//!    went. So where those who ask go to the shards that are furthest behind, no shard is two laps ahead of another.
//! 6. `only` is the strategy that is kept, if it is one. `sole` names it if it alone decides: if the shard is open and its
//!    agents are alike, none of them degraded or paid for by their type. Then the first agent of the one class is the best
//!    for whoever asks for any.
//! 7. `lacking` has the sketch of what each class has not, at its place.

mod expiry;
mod laps;
mod lists;
mod members;
mod places;
mod simple;
#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod validate;

use std::collections::HashMap;
use std::num::NonZeroU64;

use super::charge::{Charge, Charges, Refused};
use super::counts::Counts;
use super::desk::Leaver;
use super::heed::Era;
use super::index::{Index, NOBODY};
use super::returns::SPARE_MAX;
use super::score::Score;
use super::slot::{NIL, Slot, Stamp, Standing};
use super::strategy::{Kept, STRATEGIES, Strategy};
use super::wheel::{Key, Wheel};
use super::{Ask, Entrant, Gone, Grant};
use crate::fleet::agent::Condition;
use crate::fleet::budget::{Asking, Budgets, Meter, Payer};
use crate::fleet::id::AgentId;
use crate::fleet::lanes::Mask;
use crate::fleet::lease::Release;
use crate::fleet::request::Fit;
use lists::Lists;

/// The floor of a shard in which nobody has room.
pub(super) const NO_FLOOR: u64 = u64::MAX;

/// The agents of one shard with one set of capabilities.
#[derive(Debug)]
struct Class {
    mask: Mask,
    /// Its agents come after all that are fit.
    degraded: bool,
    /// Whether its agents are on trial.
    on_trial: bool,
    /// Who pays for its agents beside who asks: their type, or the one agent.
    payer: Option<Payer>,
    live: u32,
    index: [Index; STRATEGIES],
}

/// A part of a set, by which most that lack something of another one are known.
#[inline(always)]
const fn sketch(mask: Mask) -> u64 {
    mask as u64
}

/// What being degraded adds to a misfit: more than all else.
const PENALTY: u32 = 1 << 31;

/// What it adds to a floor of which nobody is fit.
pub(super) const FLOOR_PENALTY: u64 = 1 << 62;

impl Best {
    /// The floor of a shard in which nobody is better.
    pub(super) fn floor(&self) -> u64 {
        u64::from(self.rank) | self.penalty()
    }

    /// What makes it worse than all that are fit.
    pub(super) const fn penalty(&self) -> u64 {
        if self.misfit & PENALTY == 0 { 0 } else { FLOOR_PENALTY }
    }
}

impl Class {
    const fn penalty(&self) -> u32 {
        if self.degraded { PENALTY } else { 0 }
    }

    /// Whether nobody can pay for its agents now.
    #[inline]
    fn is_unpaid(&self) -> bool {
        self.payer.as_ref().is_some_and(|payer| !payer.has_room(Meter::Leases, 1))
    }

    /// How badly its agents match, or `None` if they are not for this.
    #[inline(always)]
    fn misfit(&self, ask: &Ask) -> Option<u32> {
        if self.on_trial && ask.gathers { None } else { ask.misfit(self.mask) }
    }

    fn is_like(&self, mask: Mask, state: (bool, bool), payer: Option<&Payer>) -> bool {
        let paid = match (&self.payer, payer) {
            (None, None) => true,
            (Some(one), Some(other)) => one.is_same(other),
            _ => false,
        };
        paid && self.mask == mask && (self.degraded, self.on_trial) == state
    }

    const fn floor_penalty(&self) -> u64 {
        if self.degraded { FLOOR_PENALTY } else { 0 }
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
    closed: bool,
    /// Rule 6.
    only: Option<Strategy>,
    sole: Option<Strategy>,
    number: u32,
    /// How many bits of a slot's number name the shard.
    bits: u32,
    kept: Kept,
    /// Whether a floor may have changed since it was published.
    stirred: bool,
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    classes: Vec<Class>,
    /// Rule 7.
    lacking: Vec<u64>,
    /// The moment of the next change.
    clock: Stamp,
    lap: u64,
    /// The turn with which the lap ends.
    lap_end: Stamp,
    /// How many leases had been granted when it began.
    lap_since: u64,
    live: u32,
    pub(super) counts: Counts,
    /// The pasts of the agents, if the strategy that needs them is kept.
    scores: Vec<Score>,
    /// The leases that expire, once there was one.
    pub(super) timed: Option<Box<Wheel>>,
    /// How many references to the pool the shard owns, for leases to come.
    pub(super) spare: u32,
    /// How many it may own: none any more once it is closed.
    pub(super) spare_max: u32,
    /// What leases were charged with.
    pub(super) charges: Charges,
    /// Since when the leases of each agent count for the circuit that heeds it.
    pub(super) eras: HashMap<u32, Era>,
    /// The incarnations of those that were started again.
    pub(super) incarnations: HashMap<u32, u32>,
}

/// What there was of an agent that was ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Removed {
    /// How many leases it held.
    pub(super) load: u32,
    pub(super) leaver: Leaver,
}

impl Shard {
    pub(super) fn new(number: u32, bits: u32, kept: Kept) -> Self {
        Self {
            closed: false,
            only: kept.sole(),
            sole: None,
            number,
            bits,
            kept,
            stirred: false,
            slots: Vec::new(),
            vacant: Vec::new(),
            classes: Vec::new(),
            lacking: Vec::new(),
            clock: Stamp::FIRST,
            lap: 0,
            lap_end: Stamp::FIRST,
            lap_since: 0,
            live: 0,
            counts: Counts::default(),
            scores: Vec::new(),
            timed: None,
            spare: 0,
            spare_max: SPARE_MAX,
            charges: Charges::default(),
            eras: HashMap::new(),
            incarnations: HashMap::new(),
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
        let lives = slot.generation == agent.generation && slot.standing != Standing::VACANT;
        lives.then_some(local)
    }

    /// Whether an agent of this name has been here (rule 3): nobody has a name that was not given yet.
    pub(super) fn has_ended(&self, agent: AgentId) -> bool {
        self.slots.get((agent.slot >> self.bits) as usize).is_some_and(|slot| {
            // The last of all generations does not go up.
            let last = slot.generation == u32::MAX && slot.standing == Standing::VACANT;
            agent.generation < slot.generation || (last && agent.generation == slot.generation)
        })
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
            .filter(|(_, slot)| slot.standing != Standing::VACANT)
            .map(|(local, _)| self.id(local))
    }

    /// Who pays for agents that fit and have room, beside who asks.
    pub(super) fn payers_of_fitting(&self, ask: &Ask) -> impl Iterator<Item = &Payer> {
        let link = ask.strategy.index();
        let fitting = self
            .classes
            .iter()
            .filter(move |class| class.index[link].best() != NOBODY && class.misfit(ask).is_some());
        fitting.filter_map(|class| class.payer.as_ref())
    }

    /// Charges a lease that is about to be granted.
    pub(super) fn charge(
        &mut self,
        local: u32,
        ask: &Ask,
        budgets: &Budgets,
        asking: Asking,
    ) -> Result<Option<Charge>, Refused> {
        let agent = self.classes[self.slots[local as usize].class as usize].payer.as_ref();
        self.charges.take(local, ask.group, agent, budgets, asking)
    }

    /// The best agent for a request (rule 1).
    pub(super) fn best(&self, ask: &Ask) -> Option<Best> {
        match ask.fit {
            // The same with what is known of the fit.
            Fit::All => self.best_of_those(&Ask { fit: Fit::All, ..*ask }),
            Fit::Tightest | Fit::BestFraction => self.best_of_those(ask),
        }
    }

    #[inline(always)]
    fn best_of_those(&self, ask: &Ask) -> Option<Best> {
        let link = ask.strategy.index();
        let mut best: Option<Best> = None;
        // Most are passed over by this alone, where what is asked for is all that counts.
        let needed = if ask.fit == Fit::BestFraction { 0 } else { sketch(ask.mask) };
        for (place, lacking) in self.lacking.iter().enumerate() {
            if lacking & needed != 0 {
                continue;
            }
            let class = &self.classes[place];
            let rank = class.index[link].best();
            if rank == NOBODY {
                continue;
            }
            let Some(misfit) = class.misfit(ask) else { continue };
            if class.is_unpaid() {
                continue;
            }
            let misfit = misfit | class.penalty();
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

    /// So many of the best agents for a request, the best first, in place of what is in `several`: it does not
    /// grow beyond twice as many. O(sets of capabilities + agents that were among the best so far), the
    /// second times log(limit): those of a set are looked at until one is too bad.
    pub(super) fn several_best(&self, ask: &Ask, limit: usize, several: &mut Vec<Best>) {
        let link = ask.strategy.index();
        several.clear();
        // From then on it takes one that is better than this to be among them.
        let mut worst: Option<(u32, u32)> = None;
        for class in &self.classes {
            let Some(misfit) = class.misfit(ask) else { continue };
            if class.is_unpaid() {
                continue;
            }
            let misfit = misfit | class.penalty();
            for (rank, local) in class.index[link].in_order(&self.slots, link).take(limit) {
                if worst.is_some_and(|worst| worst < (misfit, rank)) {
                    break;
                }
                let age = ask.strategy.age(&self.slots[local as usize]);
                several.push(Best { misfit, rank, age, local });
                if several.len() == limit.saturating_mul(2) {
                    several.sort_unstable();
                    several.truncate(limit);
                    worst = several.last().map(|worst| (worst.misfit, worst.rank));
                }
            }
        }
        several.sort_unstable();
        several.truncate(limit);
    }

    /// An agent that is asked for by name, if it has room and fits.
    pub(super) fn best_named(&self, agent: AgentId, ask: &Ask) -> Option<Best> {
        let local = self.find(agent)?;
        let slot = &self.slots[local as usize];
        let misfit = ask.misfit(self.mask(local))?;
        slot.has_room_for(ask).then(|| Best { misfit, rank: 0, age: ask.strategy.age(slot), local })
    }

    /// Grants a lease on an agent that has room.
    #[inline(always)]
    pub(super) fn lease(&mut self, local: u32) -> Grant {
        self.leave(local, Lists::All);
        let slot = &mut self.slots[local as usize];
        slot.load += 1;
        self.touch(local, false);
        self.line_up(local);
        self.join(local, Lists::All);
        self.grant(self.id(local))
    }

    /// Counts a grant, and numbers it.
    #[inline(always)]
    fn grant(&mut self, agent: AgentId) -> Grant {
        self.counts.granted += 1;
        let lease = self.counts.granted << self.bits | u64::from(self.number);
        let lease = NonZeroU64::new(lease).expect("the number of a grant is not zero");
        Grant::new(agent, lease)
    }

    /// How many leases the shard had granted with this one.
    pub(super) const fn number_of(&self, grant: Grant) -> u64 {
        grant.lease() >> self.bits
    }

    /// Remembers that somebody wants this agent as soon as it has room.
    pub(super) fn want(&mut self, local: u32) {
        let slot = &mut self.slots[local as usize];
        slot.standing = slot.standing.wanted(true);
    }

    /// Has the mailbox of an agent that is given no leases have turns all the same, or none.
    pub(super) fn set_finishing(&mut self, local: u32, finishing: bool) {
        let slot = &mut self.slots[local as usize];
        slot.standing = slot.standing.finishing(finishing);
    }

    /// Whether somebody wants the agent of a lease that is about to come back.
    #[inline(always)]
    pub(super) fn is_wanted(&self, agent: AgentId) -> bool {
        let slot = self.slots.get((agent.slot >> self.bits) as usize);
        slot.is_some_and(|slot| slot.standing.is_wanted())
    }

    /// Whether somebody is to be told of a lease on this agent that is about to come back.
    #[inline(always)]
    pub(super) fn is_noted(&self, agent: AgentId) -> bool {
        let slot = self.slots.get((agent.slot >> self.bits) as usize);
        slot.is_some_and(|slot| slot.standing.is_noted())
    }

    /// Whether somebody who is to be told now wanted this agent.
    pub(super) fn meet_want(&mut self, local: u32) -> bool {
        let slot = &mut self.slots[local as usize];
        let met = slot.has_room_for_a_turn() && slot.standing.is_wanted();
        if met {
            slot.standing = slot.standing.wanted(false);
        }
        met
    }

    /// The place of the best agent for a request (rule 1).
    #[inline(always)]
    pub(super) fn first(&self, ask: &Ask) -> Option<u32> {
        let [class @ Class { payer: None, .. }] = &*self.classes else {
            return self.best(ask).map(|best| best.local);
        };
        // One set of capabilities, as many fleets have: its order is the whole order.
        let index = &class.index[ask.strategy.index()];
        let fits = index.best() != NOBODY && class.misfit(ask).is_some();
        fits.then(|| index.first())
    }

    /// Gives a lease back; the place of its agent. If it is known how the lease went and how long it was
    /// held, in nanoseconds, that becomes part of the agent's past. Where it did not go `well`, or nobody ever had it,
    /// the agent comes after its equals: what failed there is tried elsewhere.
    #[inline(always)]
    pub(super) fn release(
        &mut self,
        agent: AgentId,
        charge: Option<Charge>,
        went: Option<(bool, u64)>,
        well: bool,
    ) -> Result<u32, Gone> {
        let local = match self.find(agent) {
            Some(local) => local,
            None if super::broken("fleet.release-unchecked") => agent.slot >> self.bits,
            None => return Err(Gone::Ended),
        };
        let was_full = !self.slots[local as usize].has_room();
        self.leave(local, Lists::AllButLine);
        let load = &mut self.slots[local as usize].load;
        // Without the rule the lease may be of an agent that holds none.
        let unchecked = super::broken("fleet.release-unchecked");
        *load = if unchecked { load.saturating_sub(1) } else { *load - 1 };
        if let Some((succeeded, latency_ns)) = went
            && let Some(score) = self.scores.get_mut(local as usize)
        {
            score.add(succeeded, latency_ns);
        }
        self.touch(local, well);
        // Who had no room goes to the end of the line.
        let lists = if was_full { Lists::All } else { Lists::AllButLine };
        if was_full {
            self.line_up(local);
        }
        self.join(local, lists);
        self.counts.taken_back += 1;
        if let Some(charge) = charge {
            self.charges.give_back(local, charge);
        }
        Ok(local)
    }

    /// Has how something went be part of an agent's past, unless it has ended.
    pub(super) fn remember(&mut self, agent: AgentId, well: bool, latency_ns: u64) {
        let Some(local) = self.find(agent) else { return };
        self.leave(local, Lists::AllButLine);
        if let Some(score) = self.scores.get_mut(local as usize) {
            score.add(well, latency_ns);
        }
        // It comes last among its equals, as the order of the lists has it.
        self.touch(local, false);
        self.join(local, Lists::AllButLine);
    }

    pub(super) const fn count(&mut self, released: bool, how: Release) {
        self.counts.count(released, how);
    }

    /// Takes back a lease that was just granted and that nobody saw. Its agent comes as after one that went well: by load
    /// before its equals, where it was if nothing but that was asked for, and by any other strategy after them; and it
    /// has lost its turn. Of several the last one first, so that by load they come in the order in which they were taken.
    pub(super) fn undo(&mut self, agent: AgentId, charge: Option<Charge>) {
        if self.release(agent, charge, None, true).is_ok() {
            self.counts.undone += 1;
        }
    }

    /// Whether the floors must be published anew.
    #[inline(always)]
    pub(super) fn is_stirred(&mut self) -> bool {
        self.stirred && std::mem::take(&mut self.stirred)
    }
}
