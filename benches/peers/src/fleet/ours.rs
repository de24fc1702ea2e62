//! This crate's fleet, as it comes.

use std::collections::HashMap;
use std::num::NonZeroU32;

use phalanx::fleet::{AgentId, AgentSpec, Fleet, Lease, Request};

/// A fleet of which agents are only leased.
pub fn lease_only() -> Fleet<(), ()> {
    Fleet::builder().workers(0).build().expect("the defaults are valid")
}

/// Agents that may hold so many leases each.
pub fn spec(max_leases: u32) -> AgentSpec<(), ()> {
    AgentSpec::new("agent").max_leases(NonZeroU32::new(max_leases).expect("it is not zero"))
}

/// A fleet with so many threads, of agents that answer with one more than they are given.
pub fn answering(threads: usize, agents: usize) -> Fleet<u64, u64> {
    let fleet = Fleet::builder().workers(threads).build().expect("the defaults are valid");
    spawn(&fleet, &AgentSpec::new("agent").handler_fn(|task, _| Ok(task.payload() + 1)), agents);
    fleet
}

pub fn spawn<T, O>(fleet: &Fleet<T, O>, spec: &AgentSpec<T, O>, agents: usize) -> Vec<AgentId>
where
    T: Send + Sync + 'static,
    O: Send + Sync + 'static,
{
    let ids = fleet.spawn_batch(spec, agents).expect("there is room");
    assert_eq!(ids.len(), agents);
    ids
}

/// Has every third agent hold no lease, one, or two, for as long as what it returns lives.
pub fn hold_unevenly(fleet: &Fleet<(), ()>, agents: &[AgentId]) -> Vec<Lease> {
    let request = Request::any();
    let mut held: Vec<_> = (0..2 * agents.len())
        .map(|_| fleet.try_allocate(&request).expect("there is room"))
        .collect();
    let mut keeps: HashMap<_, _> =
        agents.iter().enumerate().map(|(at, agent)| (*agent, at % 3)).collect();
    held.retain(|lease| {
        let keeps = keeps.get_mut(&lease.agent()).expect("it is one of them");
        let kept = *keeps > 0;
        *keeps = keeps.saturating_sub(1);
        kept
    });
    held
}
