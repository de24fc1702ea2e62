//! One agent's row in the table of its shard: a cache line.

use super::Ask;
use super::strategy::STRATEGIES;
use crate::fleet::agent::Condition;
use crate::fleet::request::Priority;

/// No agent: the end of a list.
pub(super) const NIL: u32 = u32::MAX;

/// The neighbours of an agent in one list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) prev: u32,
    pub(super) next: u32,
}

/// See the file's head. All that a lease reads or writes of an agent is here, so that taking one of very
/// many touches one line that may be cold.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Slot {
    /// Goes up when the agent of the slot ends.
    pub(super) generation: u32,
    /// What the desk knows of agents of this sort.
    pub(super) kind: u32,
    pub(super) load: u16,
    pub(super) limit: u16,
    /// The place of its capabilities in the shard's list of classes.
    pub(super) class: u16,
    pub(super) priority: Priority,
    pub(super) standing: Standing,
    /// When its load last changed.
    pub(super) stamp: Stamp,
    /// When it last went to the end of the line for turns.
    pub(super) turn: Stamp,
    pub(super) links: [Link; STRATEGIES],
}

/// A moment, by a shard's count of changes; and whether what changed is that a lease came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp(u64);

impl Stamp {
    pub(super) const FIRST: Self = Self(0);
    const CAME_BACK: u64 = 1;

    /// The next moment, of another change.
    #[inline(always)]
    pub(super) const fn next(self) -> Self {
        Self(self.0 + 2)
    }

    /// The same moment, at which a lease came back.
    #[inline(always)]
    pub(super) const fn of_return(self) -> Self {
        Self(self.0 | Self::CAME_BACK)
    }

    #[inline(always)]
    pub(super) const fn is_of_return(self) -> bool {
        self.0 & Self::CAME_BACK != 0
    }

    /// The lesser, the longer ago.
    #[inline(always)]
    pub(super) const fn age(self) -> u64 {
        self.0
    }

    /// Lesser for those that came back, of these for the later ones, and of the others for the earlier ones.
    #[inline(always)]
    pub(super) const fn age_after_return(self) -> u64 {
        if self.is_of_return() { (1 << 63) - self.0 } else { 1 << 63 | self.0 }
    }

    /// The same, lesser than that of any agent that is not on trial: no shard lives to see 2^61 changes.
    #[inline(always)]
    pub(super) const fn age_on_trial(self) -> u64 {
        self.age_after_return() - (1 << 62)
    }
}

/// Whether work may come to an agent, whether it finishes what lies in its mailbox, whether it is on trial, whether its
/// mailbox waits for room and whether a circuit hears of its leases: one byte of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing(u8);

impl Standing {
    /// No agent has the slot.
    pub(super) const VACANT: Self = Self(0x0F);
    const WANTED: u8 = 0x80;
    const ON_TRIAL: u8 = 0x40;
    const HEEDED: u8 = 0x20;
    const FINISHING: u8 = 0x10;
    const CONDITION: u8 = 0x0F;

    pub(super) const fn new(condition: Condition) -> Self {
        Self(match condition {
            Condition::Fit => 0,
            Condition::Degraded => 1,
            Condition::Starting => 2,
            Condition::Draining => 3,
            Condition::Failed => 4,
        })
    }

    /// What the agent is fit for, if there is one.
    pub(super) const fn condition(self) -> Option<Condition> {
        Some(match self.0 & Self::CONDITION {
            0 => Condition::Fit,
            1 => Condition::Degraded,
            2 => Condition::Starting,
            3 => Condition::Draining,
            4 => Condition::Failed,
            _ => return None,
        })
    }

    /// Whether it is degraded, and whether on trial: agents in different classes.
    pub(super) const fn sort(self) -> (bool, bool) {
        (matches!(self.condition(), Some(Condition::Degraded)), self.is_on_trial())
    }

    /// Whether there is nothing else to know than that it is fit.
    #[inline(always)]
    pub(super) const fn is_plainly_fit(self) -> bool {
        self.0 == 0
    }

    /// Whether it is given leases.
    #[inline(always)]
    pub(super) const fn is_routed(self) -> bool {
        self.0 & Self::CONDITION <= 1
    }

    /// Whether a batch may gather for it: it is given leases, or is starting, whoever says so, and its one place is not that
    /// of a trial, which no batch is given.
    pub(super) const fn is_counted_on(self) -> bool {
        self.0 & Self::CONDITION <= 2 && !self.is_on_trial()
    }

    /// Whether its mailbox has turns though it is given no leases otherwise.
    pub(super) const fn is_finishing(self) -> bool {
        self.0 & Self::FINISHING != 0
    }

    /// The same, with turns of its mailbox or without.
    pub(super) const fn finishing(self, finishing: bool) -> Self {
        Self(if finishing { self.0 | Self::FINISHING } else { self.0 & !Self::FINISHING })
    }

    /// Whether it has one place, which the circuit of its type is to learn something by.
    #[inline(always)]
    pub(super) const fn is_on_trial(self) -> bool {
        self.0 & Self::ON_TRIAL != 0
    }

    /// The same, on trial or not.
    pub(super) const fn tried(self, on_trial: bool) -> Self {
        Self(if on_trial { self.0 | Self::ON_TRIAL } else { self.0 & !Self::ON_TRIAL })
    }

    pub(super) const fn is_wanted(self) -> bool {
        self.0 & Self::WANTED != 0
    }

    /// The same, with or without a mailbox that waits for room.
    pub(super) const fn wanted(self, wanted: bool) -> Self {
        Self(if wanted { self.0 | Self::WANTED } else { self.0 & !Self::WANTED })
    }

    /// Whether a circuit hears how its leases go.
    pub(super) const fn is_heeded(self) -> bool {
        self.0 & Self::HEEDED != 0
    }

    /// The same, with a circuit or without.
    pub(super) const fn heeded(self, heeded: bool) -> Self {
        Self(if heeded { self.0 | Self::HEEDED } else { self.0 & !Self::HEEDED })
    }

    /// Whether somebody is to be told as a lease comes back.
    #[inline(always)]
    pub(super) const fn is_noted(self) -> bool {
        self.0 & (Self::WANTED | Self::HEEDED) != 0
    }

    /// The same, noted as that one is.
    pub(super) const fn noted_as(self, other: Self) -> Self {
        let noted = Self::WANTED | Self::HEEDED;
        Self(self.0 & !noted | other.0 & noted)
    }
}

impl Slot {
    pub(super) const fn vacant() -> Self {
        Self {
            generation: 0,
            kind: 0,
            load: 0,
            limit: 0,
            class: 0,
            priority: Priority::NORMAL,
            standing: Standing::VACANT,
            stamp: Stamp::FIRST,
            turn: Stamp::FIRST,
            links: [Link { prev: NIL, next: NIL }; STRATEGIES],
        }
    }

    /// Whether the agent can be given another lease.
    #[inline(always)]
    pub(super) fn has_room(&self) -> bool {
        self.load < self.limit && self.standing.is_routed()
    }

    /// Whether its mailbox can have a turn.
    pub(super) fn has_room_for_a_turn(&self) -> bool {
        self.load < self.limit && self.takes_turns()
    }

    /// Whether its mailbox can have a turn beside the leases that it may hold: one at a time, and none of an agent on
    /// trial, which is tried by one lease alone.
    pub(super) fn has_place_beside(&self) -> bool {
        let has_place = self.load <= self.limit && self.load < u16::MAX;
        has_place && self.takes_turns() && !self.standing.is_on_trial()
    }

    fn takes_turns(&self) -> bool {
        self.standing.is_routed() || self.standing.is_finishing()
    }

    /// Whether it can be given for this.
    pub(super) fn has_room_for(&self, ask: &Ask) -> bool {
        self.has_room() && !(ask.gathers && self.standing.is_on_trial())
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_one_cache_line() {
        assert_eq!(size_of::<Slot>(), 64);
    }

    #[test]
    fn there_is_one_place_beside_the_leases_of_an_agent_that_takes_turns_and_none_on_trial() {
        let standing = Standing::new(Condition::Fit);
        let slot = |load, standing| Slot { load, limit: 2, standing, ..Slot::vacant() };
        assert!((0..=2).all(|load| slot(load, standing).has_place_beside()));
        assert!(!slot(3, standing).has_place_beside(), "it is taken");
        assert!(!slot(1, standing.tried(true)).has_place_beside());
        let drains = Standing::new(Condition::Draining);
        assert!(!slot(2, drains).has_place_beside());
        assert!(slot(2, drains.finishing(true)).has_place_beside());
        let full = Slot { limit: u16::MAX, ..slot(u16::MAX, standing) };
        assert!(!full.has_place_beside(), "it could not be counted");
    }
}
