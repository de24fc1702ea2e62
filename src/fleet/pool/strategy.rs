//! The strategies: what makes an agent better than another, as a rank of which the least is the best.
//!
//! Rules that hold here:
//!
//! 1. A rank is below `LIMIT` of the bits, and follows from the agent's own row and score alone.
//! 2. Within a shard the choice is exact: the best rank, and of those the one of the least [age](Strategy::age).
//!    Across shards a rank may be worse than the best by what [`exceeds`](Strategy::exceeds) allows, for
//!    requests that come one after the other.
//! 3. The rank by past performance follows from the agent's score, which changes as it leaves its list.

use super::index::End;
use super::slot::{Slot, Stamp};

/// How many strategies there are.
pub(super) const STRATEGIES: usize = 4;

/// How many leases an agent may be given at once.
pub const MAX_LEASES_PER_AGENT: u32 = 32_768;

/// What one lease more adds to the rank by load.
pub(super) const LOAD_STEP: u32 = CLASSES;

/// How many levels of priority count as one where the load decides first.
const LEVELS_A_CLASS: u32 = 32;
const CLASSES: u32 = 256 / LEVELS_A_CLASS;

/// Which of the agents that fit and have room is taken.
///
/// A fleet keeps an order for each strategy that its builder names, and a choice takes the same steps whatever
/// the number of agents. In a [strict](crate::fleet::FleetBuilder::strict) fleet each is exact. Otherwise agents
/// are dealt to shards, threads look at a shard of their own first, and the choice is as good as the
/// bound that each strategy states, for requests that do not run at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// The fewest leases; of those the higher priority, in steps of 32 levels; of those first the ones that are on trial
    /// for the circuit of their type, then the ones whose last change was a lease that came back, the latest first, and
    /// then the others, the longest unchanged first. A lease that failed, expired, or was granted to somebody who had
    /// given up waiting does not count as one that came back, so the next attempt is made elsewhere where somebody else
    /// is as free. So who asks for one agent after the other has few agents work and the rest stay idle, and what those
    /// few work with stays in the caches. Bound: one lease more than the fewest.
    #[default]
    LeastLoaded,
    /// The highest priority; of those the one whose load changed longest ago. Bound: none, the priority is
    /// always the highest; only the order among equals is that of a shard.
    Priority,
    /// Each in its turn: whoever is taken goes to the end of the line, and so does whoever has room again
    /// after it had none. Bound, for requests that ask for no capability: one lap, so of agents that were
    /// there from its start and always had room none is two turns behind another.
    ///
    /// A request that asks for capabilities takes the one whose turn it is among those that fit of one shard: of the
    /// shard that is furthest behind, by a lap of all its agents. What fits in one shard may so be taken any number of
    /// times before what fits in another, while agents that do not fit hold that one's lap up; and requests that ask for
    /// nothing keep their bound only where all do. Neither is there one for agents of types, or agents, whose
    /// [budget](crate::fleet::Budgets) of leases is at its limit. Where that matters the fleet has to be strict.
    RoundRobin,
    /// The best past: leases on it that the host completed as succeeded cost the least time each, as moving
    /// averages of success and latency see it (each new one weighs an eighth), in classes less than a
    /// quarter apart; of one class, the one whose load changed longest ago. Agents without a past come
    /// first, so that each is tried, and so do those on trial for the circuit of their type, whatever their past. Bound:
    /// none, the class is always the best. Each lease reads the clock
    /// twice. On [`Clock::coarse`](crate::Clock::coarse) that is cheap, and a duration counts to the resolution of that
    /// clock: agents that differ by less look alike.
    Performance,
}

impl Strategy {
    /// All of them, by index.
    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) const ALL: [Self; STRATEGIES] =
        [Self::LeastLoaded, Self::Priority, Self::RoundRobin, Self::Performance];

    #[inline(always)]
    pub(super) const fn index(self) -> usize {
        self as usize
    }

    /// The rank of an agent (rule 1). Its past is asked for only where it counts.
    #[inline(always)]
    pub(super) fn rank(self, slot: &Slot, past: impl FnOnce() -> u32) -> u32 {
        let priority = u32::from(slot.priority.level());
        match self {
            Self::LeastLoaded => {
                u32::from(slot.load) * CLASSES + (CLASSES - 1 - priority / LEVELS_A_CLASS)
            }
            Self::Priority => 255 - priority,
            // The order of the line is all.
            Self::RoundRobin => 0,
            Self::Performance => past(),
        }
    }

    /// What decides between agents of equal rank: the lesser is taken first.
    #[inline(always)]
    pub(super) const fn age(self, slot: &Slot) -> u64 {
        match self {
            Self::RoundRobin => slot.turn.age(),
            Self::LeastLoaded if slot.standing.is_on_trial() => slot.stamp.age_on_trial(),
            Self::LeastLoaded => slot.stamp.age_after_return(),
            Self::Priority | Self::Performance => slot.stamp.age(),
        }
    }

    /// Where an agent that has just changed comes among its equals, as its age has it.
    #[inline(always)]
    pub(super) const fn end(self, changed: Stamp) -> End {
        match self {
            Self::LeastLoaded if changed.is_of_return() => End::First,
            _ => End::Last,
        }
    }

    /// Whether one floor is so much worse than another that the bound would be broken (rule 2).
    #[inline(always)]
    pub(super) const fn exceeds(self, floor: u64, best: u64) -> bool {
        match self {
            Self::LeastLoaded => {
                floor / (CLASSES as u64) > (best / CLASSES as u64).saturating_add(1)
            }
            Self::Priority | Self::RoundRobin | Self::Performance => floor > best,
        }
    }

    /// Whether nothing can be so much better than this floor, so that nobody needs to look.
    #[inline(always)]
    pub(super) const fn is_good_enough(self, floor: u64) -> bool {
        match self {
            Self::LeastLoaded => floor < 2 * CLASSES as u64,
            Self::Priority | Self::RoundRobin | Self::Performance => floor == 0,
        }
    }
}

/// The strategies that a fleet keeps an order for, the first of them for requests that name none.
#[derive(Clone, Copy, Debug)]
pub(in crate::fleet) struct Kept {
    order: [Strategy; STRATEGIES],
    count: usize,
}

impl Kept {
    /// Each of them once; `None` if there is none.
    pub(in crate::fleet) fn new(strategies: &[Strategy]) -> Option<Self> {
        let mut kept = Self { order: [*strategies.first()?; STRATEGIES], count: 0 };
        for strategy in strategies {
            if !kept.has(*strategy) {
                kept.order[kept.count] = *strategy;
                kept.count += 1;
            }
        }
        Some(kept)
    }

    pub(super) const fn first(&self) -> Strategy {
        self.order[0]
    }

    pub(in crate::fleet) fn has(&self, strategy: Strategy) -> bool {
        self.iter().any(|kept| kept == strategy)
    }

    /// The one strategy, if it is one.
    #[inline(always)]
    pub(super) fn sole(&self) -> Option<Strategy> {
        (self.count == 1).then_some(self.order[0])
    }

    /// Whether the load is all that counts, as it is by default.
    #[inline(always)]
    pub(super) fn is_by_load_alone(&self) -> bool {
        self.count == 1 && self.order[0] == Strategy::LeastLoaded
    }

    #[inline(always)]
    pub(super) fn iter(&self) -> impl Iterator<Item = Strategy> + use<> {
        self.order.into_iter().take(self.count)
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;
    use crate::fleet::request::Priority;

    #[test]
    fn by_load_two_leases_more_are_too_many_whatever_the_priorities() {
        let by = Strategy::LeastLoaded;
        let rank = |load, level| {
            let slot = Slot { load, priority: Priority::new(level), ..Slot::vacant() };
            u64::from(by.rank(&slot, || unreachable!("its past does not count")))
        };
        for (level, other) in [(0, 255), (255, 0), (128, 128)] {
            for (load, best) in (0..6).flat_map(|load| (0..6).map(move |best| (load, best))) {
                let exceeds = by.exceeds(rank(load, level), rank(best, other));
                assert_eq!(exceeds, load > best + 1, "{load} leases and {best}");
            }
            assert_eq!(
                [0, 1, 2, 3].map(|load| by.is_good_enough(rank(load, level))),
                [true, true, false, false]
            );
        }
    }

    #[test]
    fn by_the_other_strategies_whatever_is_worse_is_too_bad() {
        for by in [Strategy::Priority, Strategy::RoundRobin, Strategy::Performance] {
            assert_eq!([4, 5, 6].map(|floor| by.exceeds(floor, 5)), [false, false, true]);
            assert!(by.is_good_enough(0) && !by.is_good_enough(1));
        }
    }
}
