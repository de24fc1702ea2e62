//! This crate's fleet, as it comes.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;

use phalanx::Clock;
use phalanx::fleet::{
    Agent, AgentId, AgentSpec, Budgets, Fleet, Lease, Limit, Meter, Quota, Request, Scope,
    Strategy, Task, TaskContext, TaskError,
};

use super::tally::{Counter, Tally};

/// A fleet of so many workers, or one that the host drives.
pub fn fleet<T, O>(workers: Option<usize>) -> Fleet<T, O>
where
    T: Send + Sync + 'static,
    O: Send + Sync + 'static,
{
    let builder = match workers {
        Some(workers) => Fleet::builder().workers(workers),
        None => Fleet::builder().driven(),
    };
    builder.build().expect("the defaults are valid")
}

/// A fleet of which agents are only leased.
pub fn lease_only() -> Fleet<(), ()> {
    Fleet::builder().workers(0).build().expect("the defaults are valid")
}

/// The same, in one exact order.
pub fn strict() -> Fleet<(), ()> {
    Fleet::builder().workers(0).strict().build().expect("it is valid")
}

/// One that chooses by what agents did, with leases that are charged to the fleet, on this clock. The times of the
/// coarse one are those of the last timer tick, up to 10 ms behind.
pub fn charging_on(clock: Clock) -> Fleet<(), ()> {
    let budgets = Budgets::new(NonZeroUsize::MIN);
    let quota = Quota::new().limit(Meter::Leases, Limit::hard(1_000));
    budgets.set(Scope::Fleet, quota).expect("it is the first");
    let fleet = Fleet::builder().workers(0).strategies(&[Strategy::Performance]);
    fleet.clock(clock).budgets(budgets).build().expect("it is valid")
}

/// The same as [`lease_only`], which chooses by this strategy.
pub fn choosing(strategy: Strategy) -> Fleet<(), ()> {
    Fleet::builder().workers(0).strategies(&[strategy]).build().expect("it is valid")
}

/// The same on this clock. The times of the coarse one are those of the last timer tick, up to 10 ms behind.
pub fn choosing_on(strategy: Strategy, clock: Clock) -> Fleet<(), ()> {
    let fleet = Fleet::builder().workers(0).strategies(&[strategy]);
    fleet.clock(clock).build().expect("it is valid")
}

/// Agents that may hold so many leases each.
pub fn spec(max_leases: u32) -> AgentSpec<(), ()> {
    AgentSpec::new("agent").max_leases(NonZeroU32::new(max_leases).expect("it is not zero"))
}

/// Agents that answer with one more than they are given.
pub fn answering() -> AgentSpec<u64, u64> {
    AgentSpec::new("agent").handler_fn(|task, _| Ok(task.payload() + 1))
}

/// Agents that count what they are told, whose handlers are made as soon as they can be, and say that they are there.
pub fn starting(tally: &Arc<Tally>) -> AgentSpec<u64, ()> {
    let tally = Arc::clone(tally);
    let spec = AgentSpec::new("agent").handler(move || {
        let counter = Counter::new(&tally);
        counter.started();
        counter
    });
    spec.prewarmed()
}

/// Agents that count what they are told.
pub fn counting(tally: &Arc<Tally>) -> AgentSpec<u64, ()> {
    let tally = Arc::clone(tally);
    AgentSpec::new("agent").handler(move || Counter::new(&tally))
}

impl Agent<u64, ()> for Counter {
    #[inline(always)]
    fn handle(&mut self, task: &Task<u64>, _: &mut TaskContext<'_>) -> Result<(), TaskError> {
        self.handle(*task.payload());
        Ok(())
    }
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
