//! Batches that wait for several places at once.
//!
//! A batch that waits gathers: places that come free are granted to it one after the other, until it has all
//! that it asked for. It is plain data on the desk. Rules that hold between any two times the desk's lock is
//! held, but for where a plan is due:
//!
//! 1. A batch gathers only if the agents that it could use and that have neither failed nor drain nor are on trial have
//!    places enough for it, and no more urgent one of which that is true too could use an
//!    agent that it could use: of two that name their agents, the same agent; otherwise one
//!    with the same set of capabilities. So no two batches hold what the other waits for, the most urgent one that can be
//!    served always gathers, and one that cannot before others come keeps nobody out. One that is complete waits for
//!    nothing and keeps nobody out either, whether it is collected or not.
//! 2. A batch that waits and does not gather holds nothing, unless the plan that withdraws it is due.
//!    Where leases are paid for one batch gathers at a time, as accounts are held too.
//! 3. A batch is granted no more than it asked for.
//! 4. While a batch is complete, or has lost a grant, that no plan has seen yet, or agents have come that one may have
//!    waited for, it is not known who is to gather: agents that come free are `deferred`, and offered by that plan.

use std::collections::BTreeMap;
use std::task::Waker;

use super::waiting::{Place, Ticket};
use super::{Ask, Granted};
use crate::fleet::id::{AgentId, GroupKey};
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
    /// Those that gather, by the last plan. They wait, unless they were refused since.
    gatherers: Vec<Place>,
    /// Whether the last plan found one that waits for more places than there were.
    some_lack: bool,
    /// See rule 4.
    unplanned: bool,
    deferred: Vec<AgentId>,
    /// Whether somebody is about to plan.
    is_owed: bool,
}

/// What is spoken for by the more urgent, as a plan is made.
struct Claims {
    /// The sets that no batch can use, and those that none can use but such as name their agents.
    unclaimed: Vec<Mask>,
    claimed_by_name: Vec<Mask>,
    names: Vec<AgentId>,
}

impl Claims {
    /// Claims what a batch can use; whether all of it was free.
    fn claim(&mut self, ask: &Ask, wanted: usize) -> bool {
        let is_other = |have: &Mask| ask.misfit(*have).is_none();
        let unclaimed = self.unclaimed.len();
        self.unclaimed.retain(is_other);
        let unclaimed = unclaimed - self.unclaimed.len();
        let Some(agent) = ask.agent else {
            self.claimed_by_name.retain(is_other);
            return unclaimed == wanted;
        };
        let others = self.claimed_by_name.iter().filter(|have| is_other(have)).count();
        let open = self.claimed_by_name.len() - others;
        let is_named = self.names.contains(&agent);
        self.names.push(agent);
        open == wanted && !is_named
    }
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
            self.unplanned |= self.waiting > 0;
            self.gatherers.retain(|other| *other != place);
            wakes.extend(batch.waker.take());
        }
    }

    /// Whether a plan is due before anything is granted (rule 4).
    pub(super) const fn is_unplanned(&self) -> bool {
        self.unplanned
    }

    /// Takes notice that agents come (rule 4). A plan is due.
    pub(super) const fn agents_come(&mut self) {
        self.unplanned |= self.some_lack || self.is_owed;
    }

    /// Takes notice that fewer are counted on (rule 1). A plan is due.
    pub(super) const fn agents_fail(&mut self) {
        self.unplanned |= self.waiting > 0;
    }

    /// Keeps an agent that has room for the plan that is due.
    pub(super) fn defer(&mut self, agent: AgentId) {
        self.deferred.push(agent);
    }

    pub(super) fn take_deferred(&mut self) -> Vec<AgentId> {
        std::mem::take(&mut self.deferred)
    }

    /// Whether nobody is about to plan yet; the caller is, then.
    pub(super) fn begin_to_owe(&mut self) -> bool {
        !std::mem::replace(&mut self.is_owed, true)
    }

    /// Decides anew who gathers, where agents with these sets of capabilities live and so many places are counted on
    /// (rule 1), or on the one agent that is asked for: one `alone` where batches may want the same budgets too. The grants that were withdrawn are the caller's (rule 2), and
    /// so are the agents that were deferred. O(batches * (sets + batches that name an agent)).
    pub(super) fn plan(
        &mut self,
        sets: impl Iterator<Item = (Mask, usize)>,
        places_of: impl Fn(AgentId) -> usize,
        alone: bool,
    ) -> Vec<Granted> {
        let mut withdrawn = Vec::new();
        let sets: Vec<(Mask, usize)> = sets.collect();
        let unclaimed: Vec<Mask> = sets.iter().map(|(have, _)| *have).collect();
        let claimed_by_name = unclaimed.clone();
        let mut claims = Claims { unclaimed, claimed_by_name, names: Vec::new() };
        self.gatherers.clear();
        (self.unplanned, self.is_owed, self.some_lack) = (false, false, false);
        for (place, batch) in &mut self.rows {
            if batch.refused.is_some() {
                withdrawn.append(&mut batch.grants);
                continue;
            }
            if !batch.waits() {
                continue;
            }
            let fitting = sets.iter().filter(|(have, _)| batch.ask.misfit(*have).is_some());
            let sum =
                |(sets, sum): (usize, usize), (_, places): &(Mask, usize)| (sets + 1, sum + places);
            let (wanted, places) = fitting.fold((0, 0), sum);
            if batch.ask.agent.map_or(places, &places_of) < batch.count {
                self.some_lack = true;
                withdrawn.append(&mut batch.grants);
                continue;
            }
            let is_free = claims.claim(&batch.ask, wanted);
            if if alone { self.gatherers.is_empty() } else { is_free } {
                self.gatherers.push(*place);
            } else {
                withdrawn.append(&mut batch.grants);
            }
        }
        withdrawn
    }

    /// The agents that those which wait ask for by name.
    pub(super) fn named(&self) -> impl Iterator<Item = AgentId> {
        self.rows.values().filter(|row| row.waits()).filter_map(|row| row.ask.agent)
    }

    /// Those that gather and wait.
    pub(super) fn gathering(&self) -> Vec<(Place, Ask)> {
        let gathering = |place: &Place| {
            let batch = self.rows.get(place).filter(|batch| batch.waits())?;
            Some((*place, batch.ask))
        };
        self.gatherers.iter().filter_map(gathering).collect()
    }

    /// Whether an agent gives, or gave, to a batch that has not been collected.
    pub(super) fn have_gathered(&self, agent: AgentId) -> bool {
        let grants = self.rows.values().flat_map(|batch| &batch.grants);
        grants.into_iter().any(|granted| granted.grant.agent() == agent)
    }

    /// Takes back what an agent that is gone, or gets no leases any more, was to give. A plan is due.
    pub(super) fn withdraw(&mut self, agent: AgentId) -> Vec<Granted> {
        let mut withdrawn = Vec::new();
        for batch in self.rows.values_mut() {
            let waited = batch.waits();
            let on_agent = |granted: &mut Granted| granted.grant.agent() == agent;
            withdrawn.extend(batch.grants.extract_if(.., on_agent));
            self.waiting += usize::from(batch.waits() && !waited);
        }
        self.unplanned |= !withdrawn.is_empty();
        withdrawn
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

    /// What those that wait ask for, and how many places of it.
    pub(super) fn waiting_rows(&self) -> impl Iterator<Item = (&Ask, usize)> {
        self.rows.values().filter(|row| row.waits()).map(|row| (&row.ask, row.count))
    }

    /// What the batches that wait and that a new agent with these capabilities would help have gathered, and what they
    /// lack of it, with whose budget they are on.
    pub(super) fn parts(&self, have: Mask) -> Vec<(Option<GroupKey>, u64, u64)> {
        let waiting = self.rows.values().filter(|batch| batch.waits());
        let fitting =
            waiting.filter(|batch| batch.ask.agent.is_none() && batch.ask.misfit(have).is_some());
        let part = |batch: &Batch| {
            let gathered = batch.grants.len();
            (batch.ask.group, gathered as u64, (batch.count - gathered) as u64)
        };
        fitting.map(part).collect()
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
    pub(super) fn validate(&self, sets: &[(Mask, usize)], places_of: impl Fn(AgentId) -> usize) {
        assert_eq!(self.rows.values().filter(|batch| batch.waits()).count(), self.waiting);
        assert!(!self.unplanned && self.deferred.is_empty(), "rule 4");
        let could_gather = |row: &Batch| {
            let fitting = sets.iter().filter(|(have, _)| row.ask.misfit(*have).is_some());
            let places: usize = fitting.map(|(_, places)| places).sum();
            row.waits() && row.count <= row.ask.agent.map_or(places, &places_of)
        };
        for (place, batch) in &self.rows {
            assert!(batch.grants.len() <= batch.count, "rule 3");
            let overlaps = |other: &Batch| match (other.ask.agent, batch.ask.agent) {
                (Some(other), Some(own)) => other == own,
                _ => sets.iter().any(|(have, _)| {
                    other.ask.misfit(*have).is_some() && batch.ask.misfit(*have).is_some()
                }),
            };
            let mut before = self.rows.range(..place).filter(|(_, row)| could_gather(row));
            let gathers = could_gather(batch) && !before.any(|(_, row)| overlaps(row));
            assert_eq!(self.gatherers.contains(place), gathers, "rule 1");
            let holds = !batch.grants.is_empty();
            assert!(!holds || gathers || !batch.waits(), "rule 2");
            assert!(!holds || batch.refused.is_none(), "rule 2: it was refused");
        }
    }
}
