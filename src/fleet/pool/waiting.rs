//! Requests that wait, by what would do for them and then by urgency.
//!
//! Requests that the same agents fit and the same budget pays for share a lane, so that the first one that an
//! agent can serve is found by looking at the head of each lane. Rules that hold between any two calls:
//!
//! 1. No lane is empty.
//! 2. A place is used once: its sequence is unique among all that ever waited.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::task::Waker;

use super::Ask;
use super::Granted;
use super::census::ByGroup;
use crate::fleet::id::AgentId;
use crate::fleet::id::GroupKey;
use crate::fleet::lanes::Mask;
use crate::fleet::request::{AllocateError, Fit, Priority};

/// What would do: requests with equal keys are served by the same agents. Those that name the same agent,
/// or none, are neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    agent: Option<AgentId>,
    mask: Mask,
    partial: bool,
    group: Option<GroupKey>,
}

impl Key {
    fn of(ask: &Ask) -> Self {
        let partial = ask.fit == Fit::BestFraction;
        Self { agent: ask.agent, mask: ask.mask, partial, group: ask.group }
    }

    /// All keys that name this agent, or none.
    fn naming(agent: Option<AgentId>) -> RangeInclusive<Self> {
        let group = Some(GroupKey::new(u64::MAX));
        Self { agent, mask: 0, partial: false, group: None }..=Self {
            agent,
            mask: Mask::MAX,
            partial: true,
            group,
        }
    }
}

/// Where a request stands: the lesser is served first. It never changes: who waits one step of ageing
/// longer is worth one level of priority more, whenever one looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::fleet) struct Place {
    /// The step of ageing in which it began to wait, less its level.
    rank: i64,
    /// In nanoseconds; the earlier is first among equals, and none is last.
    deadline: u64,
    pub(super) sequence: u64,
}

impl Place {
    pub(super) fn new(priority: Priority, step: u64, deadline: Option<u64>, sequence: u64) -> Self {
        let step = i64::try_from(step).unwrap_or(i64::MAX / 2);
        let rank = step - i64::from(priority.level());
        Self { rank, deadline: deadline.unwrap_or(u64::MAX), sequence }
    }
}

/// A waiting request's claim to its place.
#[derive(Clone, Copy, Debug)]
pub(in crate::fleet) struct Ticket {
    pub(super) ask: Ask,
    pub(super) place: Place,
}

#[derive(Debug)]
struct Waiter {
    ask: Ask,
    waker: Option<Waker>,
}

/// What came of a request that waited, until it is collected.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) ticket: Ticket,
    pub(super) result: Result<Granted, AllocateError>,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    lanes: BTreeMap<Key, BTreeMap<Place, Waiter>>,
    len: usize,
}

impl Waiting {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, ticket: Ticket, waker: Option<Waker>) {
        let waiter = Waiter { ask: ticket.ask, waker };
        let lane = self.lanes.entry(Key::of(&ticket.ask)).or_default();
        let old = lane.insert(ticket.place, waiter);
        debug_assert!(old.is_none(), "rule 2");
        self.len += 1;
    }

    pub(super) fn waker_mut(&mut self, ticket: &Ticket) -> Option<&mut Option<Waker>> {
        let lane = self.lanes.get_mut(&Key::of(&ticket.ask))?;
        lane.get_mut(&ticket.place).map(|waiter| &mut waiter.waker)
    }

    pub(super) fn remove(&mut self, ticket: &Ticket) -> Option<Option<Waker>> {
        let key = Key::of(&ticket.ask);
        let lane = self.lanes.get_mut(&key)?;
        let waiter = lane.remove(&ticket.place)?;
        if lane.is_empty() {
            self.lanes.remove(&key);
        }
        self.len -= 1;
        Some(waiter.waker)
    }

    /// Takes the wakers of all who wait; whoever is woken and looks leaves another.
    pub(super) fn take_wakers(&mut self, wakes: &mut Vec<Waker>) {
        for lane in self.lanes.values_mut() {
            wakes.extend(lane.values_mut().filter_map(|waiter| waiter.waker.take()));
        }
    }

    /// The most urgent request that an agent fits. Costs a look at each lane that names it or none,
    /// as this is done while its shard is locked.
    pub(super) fn first_for(&self, agent: AgentId, have: Mask) -> Option<Ticket> {
        let for_any = self.lanes.range(Key::naming(None));
        let lanes = for_any.chain(self.lanes.range(Key::naming(Some(agent))));
        let fitting = lanes.filter_map(|(_, lane)| {
            let (place, waiter) = lane.first_key_value()?;
            let fits = waiter.ask.misfit(have).is_some();
            fits.then_some(Ticket { ask: waiter.ask, place: *place })
        });
        fitting.min_by_key(|ticket| ticket.place)
    }

    /// Whether one waits that names this agent.
    pub(super) fn is_named(&self, agent: AgentId) -> bool {
        self.lanes.range(Key::naming(Some(agent))).next().is_some()
    }

    /// The most urgent request after a place among the first of their lanes. O(lanes).
    pub(super) fn head_after(&self, after: Option<Place>) -> Option<Ticket> {
        let heads = self.lanes.values().filter_map(|lane| {
            let (place, waiter) = lane.first_key_value()?;
            let is_after = after.is_none_or(|after| after < *place);
            is_after.then_some(Ticket { ask: waiter.ask, place: *place })
        });
        heads.min_by_key(|ticket| ticket.place)
    }

    /// Counts the requests that a new agent with these capabilities would serve.
    pub(super) fn fitting(&self, have: Mask, counts: &mut ByGroup) {
        for lane in self.lanes.values() {
            let (_, first) = lane.first_key_value().expect("rule 1");
            if first.ask.agent.is_none() && first.ask.misfit(have).is_some() {
                *counts.entry(first.ask.group).or_default() += lane.len() as u64;
            }
        }
    }

    /// What those ask for who wait, once for each lane.
    pub(super) fn kinds(&self) -> impl Iterator<Item = &Ask> {
        self.lanes.values().filter_map(|lane| Some(&lane.first_key_value()?.1.ask))
    }

    /// Takes out every request whose lane is one of those asked for, which is told by any of its asks.
    pub(super) fn take(
        &mut self,
        mut is: impl FnMut(&Ask) -> bool,
    ) -> Vec<(Ticket, Option<Waker>)> {
        let mut taken = Vec::new();
        self.lanes.retain(|_, lane| {
            let (_, first) = lane.first_key_value().expect("rule 1");
            if !is(&first.ask) {
                return true;
            }
            taken.extend(
                std::mem::take(lane)
                    .into_iter()
                    .map(|(place, waiter)| (Ticket { ask: waiter.ask, place }, waiter.waker)),
            );
            false
        });
        self.len -= taken.len();
        taken.sort_unstable_by_key(|(ticket, _)| ticket.place);
        taken
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn asks(&self) -> impl Iterator<Item = &Ask> {
        self.lanes.values().flat_map(|lane| lane.values().map(|waiter| &waiter.ask))
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn validate(&self) {
        assert!(self.lanes.values().all(|lane| !lane.is_empty()), "rule 1");
        assert_eq!(self.lanes.values().map(BTreeMap::len).sum::<usize>(), self.len);
    }
}
