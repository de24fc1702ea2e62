//! What scaling sees of a fleet.
//!
//! Rules that hold here:
//!
//! 1. Only agents that work may come to are capacity. Those that have failed or drain are counted apart, and so are
//!    those that a circuit holds back: it may be tried on them, and on those that failed for good never. What is held of
//!    those that scaling itself unrouted is demand all the same.
//! 2. Work that no agent could take for want of room in a budget is no demand: more agents would not help it.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::budget::{Budgets, Scope};
use super::super::id::{AgentId, GroupKey};
use super::super::pool::ByGroup;
use super::super::{AgentSpec, Fleet};
use super::observation::Observation;

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Fleet<T, O> {
    /// What is true of the agents of a spec's name, and of what is asked of agents like it.
    ///
    /// Each part of the fleet is read at one moment, one after the other, so that allocation goes on
    /// meanwhile: what moves from the queue to an agent during the reading may be seen twice, or not at
    /// all.
    ///
    /// - Agents that work may come to [serve](Observation::serving); those of them that hold no lease are idle. Agents
    ///   that are [starting](super::super::AgentState::Starting) and hold no lease are coming, and neither serve nor are
    ///   idle. Those that are [draining](super::super::AgentState::Draining) or have
    ///   [failed](super::super::AgentState::Failed) are counted as that, and their leases not at all, but for those that
    ///   an [`Autoscaler`](super::Autoscaler) unrouted, which are [leaving](Observation::leaving). Where the
    ///   [circuit](Fleet::circuit) of the type is not closed, those that are down for it alone, or until they are started
    ///   again, are [held back](Observation::held_back). Of those that failed for good because what makes their handlers did, those
    ///   of which nothing is asked are [unmade](Observation::unmade).
    /// - What waits is the tasks in the queue and the requests that an agent of the spec could take, and that budgets
    ///   have room for: of those on the budget of a group, of all on that of the fleet and on that of the spec's
    ///   type no more than these have room for leases now. What is left waits for a budget, and more agents would not
    ///   help it. Work that agents of several names could do counts for each of them; what is for one agent alone,
    ///   for none.
    /// - Of the batches that wait, the one that needs most places says how many are needed [at
    ///   once](Observation::at_once), as far as budgets have room for them.
    ///
    /// O(agents log agents + groups that wait).
    #[must_use]
    pub fn observe(&self, spec: &AgentSpec<T, O>) -> Observation {
        let inner = self.inner();
        let leaving: HashSet<AgentId> = {
            let state = inner.state.lock();
            let leaving = state.ledger.leaving.all();
            leaving.filter(|agent| state.supervision.could_serve(*agent)).collect()
        };
        let runs = spec.factory.is_some();
        let mut census = inner.pool.census(&spec.name, &spec.capabilities, runs, &leaving);
        let (held_back, unmade) = {
            let state = inner.state.lock();
            state.queue.count_fitting(census.mask, &mut census.waiting);
            (state.supervision.held_back(&spec.name), inner.unmade(&state, &census.failed))
        };
        let payer = Payer { budgets: inner.pool.budgets(), agent_type: &spec.name };
        // It may have changed since they were counted.
        let failed = census.failed.len();
        let (back, next_trial) = held_back.unwrap_or((0, None));
        let back = back.min(failed);
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let seen = Observation::new()
            .with_starting(number(census.starting.len()))
            .with_serving(number(census.serving))
            .with_draining(number(census.draining))
            .with_failed(number(failed - back))
            .with_unmade(unmade)
            .with_held_back(number(back))
            .with_circuit_open(held_back.is_some())
            .with_leases_per_agent(spec.max_leases.get())
            .with_leases(census.leases)
            .with_queued(payer.payable(&census.waiting))
            .with_at_once(payer.largest(&census.batches))
            .with_idle(census.idle)
            .with_busy(census.busy)
            .with_leaving(census.leaving);
        Observation { next_trial, ..seen }
    }
}

/// What pays for leases on agents of a type, beside the groups of those who ask.
struct Payer<'a> {
    budgets: Option<&'a Budgets>,
    agent_type: &'a Arc<str>,
}

impl Payer<'_> {
    fn room(&self, scope: &Scope) -> Option<u64> {
        self.budgets.and_then(|budgets| budgets.lease_room(scope))
    }

    /// How much of so much could be paid for, the budgets of groups apart (rule 2).
    fn in_common(&self, sum: u64) -> u64 {
        let scopes = [Scope::Fleet, Scope::Type(Arc::clone(self.agent_type))];
        scopes.iter().filter_map(|scope| self.room(scope)).fold(sum, u64::min)
    }

    fn of_group(&self, group: Option<GroupKey>, count: u64) -> u64 {
        let room = group.and_then(|group| self.room(&Scope::Group(group)));
        room.map_or(count, |room| room.min(count))
    }

    /// How much of what waits could be paid for.
    fn payable(&self, waiting: &ByGroup) -> u64 {
        let each = waiting.iter().map(|(group, count)| self.of_group(*group, *count));
        self.in_common(each.fold(0, u64::saturating_add))
    }

    /// How many places the batch that needs most could pay for, with those that it has gathered.
    fn largest(&self, batches: &[(Option<GroupKey>, u64, u64)]) -> u64 {
        let each = batches.iter().map(|(group, gathered, missing)| {
            gathered.saturating_add(self.in_common(self.of_group(*group, *missing)))
        });
        each.max().unwrap_or(0)
    }
}
