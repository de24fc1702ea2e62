//! Batches that wait for several places at once.
//!
//! A batch that waits gathers: places that come free are granted to it one after the other, until it has all
//! that it asked for. It is plain data on the desk. Rules that hold between any two times the desk's lock is
//! held, but for where a plan is due:
//!
//! 1. A batch gathers exactly if no more urgent one that waits could use an agent with the same set of
//!    capabilities as one that it could use. So no two batches hold what the other waits for, and the most
//!    urgent one always gathers. One that begins to since another is complete has not looked for what was free
//!    before, unless the plan was made that is due then.
//! 2. A batch that waits and does not gather holds nothing, unless the plan that withdraws it is due.
//!    Where leases are paid for one batch gathers at a time, as accounts are held too.
//! 3. A batch is granted no more than it asked for.

use std::collections::BTreeMap;
use std::task::Waker;

use super::waiting::{Place, Ticket};
use super::{Ask, Granted};
use crate::fleet::id::AgentId;
use crate::fleet::lanes::Mask;
use crate::fleet::request::AllocateError;

/// One batch, until its asker has collected it.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) ask: Ask,
    pub(super) count: usize,
    pub(super) grants: Vec<Granted>,
    pub(super) refused: Option<AllocateError>,
    pub(super) waker: Option<Waker>,
}

impl Batch {
    /// Whether it is neither complete nor refused.
    pub(super) const fn waits(&self) -> bool {
        self.refused.is_none() && self.grants.len() < self.count
    }
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Batches {
    rows: BTreeMap<Place, Batch>,
    /// How many of them wait.
    waiting: usize,
    /// Those that gather, by the last plan.
    gatherers: Vec<Place>,
    plan_is_due: bool,
}

impl Batches {
    /// How many are not collected.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// How many wait.
    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn insert(&mut self, ticket: &Ticket, count: usize) {
        let batch =
            Batch { ask: ticket.ask, count, grants: Vec::new(), refused: None, waker: None };
        self.rows.insert(ticket.place, batch);
        self.waiting += 1;
    }

    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut Batch> {
        self.rows.get_mut(&place)
    }

    /// Takes one out, whose grants are the caller's now; a plan is due.
    pub(super) fn remove(&mut self, place: Place) -> Option<Batch> {
        self.gatherers.retain(|other| *other != place);
        let batch = self.rows.remove(&place)?;
        self.waiting -= usize::from(batch.waits());
        Some(batch)
    }

    /// The most urgent batch that an agent with room is for.
    pub(super) fn first_for(&self, agent: AgentId, have: Mask) -> Option<Place> {
        let is_for = |place: &&Place| {
            self.rows.get(place).is_some_and(|batch| {
                let named = batch.ask.agent.is_none_or(|named| named == agent);
                batch.waits() && named && batch.ask.misfit(have).is_some()
            })
        };
        self.gatherers.iter().filter(is_for).min().copied()
    }

    /// Grants a place to a batch that waits.
    pub(super) fn grant(&mut self, place: Place, grant: Granted, wakes: &mut Vec<Waker>) {
        let batch = self.rows.get_mut(&place).expect("the caller found it");
        batch.grants.push(grant);
        if !batch.waits() {
            self.waiting -= 1;
            self.plan_is_due = true;
            wakes.extend(batch.waker.take());
        }
    }

    /// Whether a batch has become complete since the last plan.
    pub(super) const fn plan_is_due(&self) -> bool {
        self.plan_is_due
    }

    /// Decides anew who gathers, where agents with these sets of capabilities live (rule 1): one `alone` where
    /// batches may want the same budgets too. O(batches * sets).
    pub(super) fn decide(&mut self, sets: impl Iterator<Item = Mask>, alone: bool) {
        let sets: Vec<Mask> = sets.collect();
        let mut unclaimed = sets.clone();
        self.gatherers.clear();
        for (place, batch) in self.rows.iter().filter(|(_, batch)| batch.waits()) {
            let usable = |have: &Mask| batch.ask.misfit(*have).is_some();
            let wanted = sets.iter().filter(|have| usable(have)).count();
            let before = unclaimed.len();
            unclaimed.retain(|have| !usable(have));
            let free =
                if alone { self.gatherers.is_empty() } else { before - unclaimed.len() == wanted };
            if free {
                self.gatherers.push(*place);
            }
        }
    }

    /// [Decides](Self::decide) who gathers, and withdraws the grants of the others (rule 2), which are the
    /// caller's; who gathers is to look for what is free.
    pub(super) fn plan(&mut self, sets: impl Iterator<Item = Mask>, alone: bool) -> Vec<Granted> {
        self.decide(sets, alone);
        self.plan_is_due = false;
        let mut withdrawn = Vec::new();
        for (place, batch) in &mut self.rows {
            let lets_go = batch.waits() && !self.gatherers.contains(place);
            if lets_go || batch.refused.is_some() {
                withdrawn.append(&mut batch.grants);
            }
        }
        withdrawn
    }

    /// Those that gather and wait.
    pub(super) fn gathering(&self) -> Vec<(Place, Ask)> {
        let gathering = |place: &Place| {
            let batch = self.rows.get(place).filter(|batch| batch.waits())?;
            Some((*place, batch.ask))
        };
        self.gatherers.iter().filter_map(gathering).collect()
    }

    /// Takes back what an agent that is gone was to give; how many grants. A plan is due.
    pub(super) fn void(&mut self, agent: AgentId) -> usize {
        let mut void = 0;
        for batch in self.rows.values_mut() {
            let (before, waited) = (batch.grants.len(), batch.waits());
            batch.grants.retain(|granted| granted.grant.agent() != agent);
            void += before - batch.grants.len();
            self.waiting += usize::from(batch.waits() && !waited);
        }
        void
    }

    /// Refuses those that wait for which there is a reason. What they hold is withdrawn by the next plan.
    pub(super) fn refuse(
        &mut self,
        why: impl Fn(&Ask, usize) -> Option<AllocateError>,
        wakes: &mut Vec<Waker>,
    ) {
        for batch in self.rows.values_mut().filter(|batch| batch.waits()) {
            batch.refused = why(&batch.ask, batch.count);
            if batch.refused.is_some() {
                self.waiting -= 1;
                wakes.extend(batch.waker.take());
            }
        }
    }

    /// Takes the wakers of all; whoever is woken and looks leaves another.
    pub(super) fn take_wakers(&mut self, wakes: &mut Vec<Waker>) {
        wakes.extend(self.rows.values_mut().filter_map(|batch| batch.waker.take()));
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn rows(&self) -> impl Iterator<Item = (Place, &Batch)> {
        self.rows.iter().map(|(place, batch)| (*place, batch))
    }

    /// Checks the rules from scratch, where no plan is due.
    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn validate(&self, sets: &[Mask]) {
        assert_eq!(self.rows.values().filter(|batch| batch.waits()).count(), self.waiting);
        for (place, batch) in &self.rows {
            assert!(batch.grants.len() <= batch.count, "rule 3");
            let overlaps = |more_urgent: &Batch| {
                sets.iter().any(|have| {
                    more_urgent.ask.misfit(*have).is_some() && batch.ask.misfit(*have).is_some()
                })
            };
            let mut before = self.rows.range(..place).filter(|(_, row)| row.waits());
            let may = batch.waits() && !before.any(|(_, row)| overlaps(row));
            let gathers = batch.waits() && self.gatherers.contains(place);
            assert_eq!(gathers, may, "rule 1");
            let holds = !batch.grants.is_empty();
            assert!(!holds || gathers || !batch.waits(), "rule 2");
            assert!(!holds || batch.refused.is_none(), "rule 2: it was refused");
        }
    }
}
