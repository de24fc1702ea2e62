//! What scaling sees of a fleet.
//!
//! Rules that hold here:
//!
//! 1. Only agents that work may come to are capacity. Those that have failed or drain are counted apart, and so are
//!    those that a circuit holds back.
//! 2. Work that no agent could take for want of room in a budget is no demand: more agents would not help it.

use super::super::budget::{Budgets, Scope};
use super::super::pool::ByGroup;
use super::super::supervise::BreakerState;
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
    ///   [failed](super::super::AgentState::Failed) are counted as that, and their leases not at all. Of a type whose
    ///   [circuit](Fleet::circuit) is not closed, all that it holds back have failed.
    /// - What waits is the tasks in the queue and the requests that an agent of the spec could take, and that budgets
    ///   have room for: of those on the budget of a group, of all on that of the fleet and on that of the spec's
    ///   type no more than these have room for leases now. What is left waits for a budget, and more agents would not
    ///   help it. Work that agents of several names could do counts for each of them; what is for one agent alone,
    ///   for none.
    ///
    /// O(agents + groups that wait).
    #[must_use]
    pub fn observe(&self, spec: &AgentSpec<T, O>) -> Observation {
        let inner = self.inner();
        let mut census = inner.pool.census(&spec.name, &spec.capabilities, spec.factory.is_some());
        inner.state.lock().queue.count_fitting(census.mask, &mut census.waiting);
        let queued = payable(inner.pool.budgets(), &spec.name, &census.waiting);
        let open = self.circuit(&spec.name).is_some_and(|state| state != BreakerState::Closed);
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Observation::new()
            .with_starting(number(census.starting.len()))
            .with_serving(number(census.serving))
            .with_draining(number(census.draining))
            .with_failed(number(census.failed))
            .with_circuit_open(open)
            .with_leases_per_agent(spec.max_leases.get())
            .with_leases(census.leases)
            .with_queued(queued)
            .with_idle(census.idle)
    }
}

/// How much of what waits could be paid for (rule 2).
fn payable(budgets: Option<&Budgets>, agent_type: &std::sync::Arc<str>, waiting: &ByGroup) -> u64 {
    let room = |scope: Scope| budgets.and_then(|budgets| budgets.lease_room(&scope));
    let of_group = |(group, count): (&Option<_>, &u64)| {
        let room = group.and_then(|group| room(Scope::Group(group)));
        room.map_or(*count, |room| room.min(*count))
    };
    let sum = waiting.iter().map(of_group).fold(0_u64, u64::saturating_add);
    let common = [Scope::Fleet, Scope::Type(std::sync::Arc::clone(agent_type))];
    common.into_iter().filter_map(room).fold(sum, u64::min)
}
