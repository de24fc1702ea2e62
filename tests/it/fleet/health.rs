//! What agents are fit for: who is routed to, who is emptied, and what the status says.

use std::thread;
use std::time::Duration;

use super::support::{LONG, Witness, finish};
use phalanx::fleet::{
    AgentSpec, AgentState, AllocateError, Condition, Fleet, FleetEvent, LeaseOutcome, Outcome,
    Request, Resources, Task,
};
use phalanx::{ErrorKind, ManualClock};

fn pair() -> (Fleet, [phalanx::fleet::AgentId; 2]) {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let agents = fleet.spawn_batch(&AgentSpec::new("agent"), 2).unwrap();
    (fleet, [agents[0], agents[1]])
}

fn state(fleet: &Fleet, agent: phalanx::fleet::AgentId) -> AgentState {
    fleet.agent(agent).unwrap().state
}

#[test]
fn an_agent_that_is_unrouted_is_not_allocated_and_its_lease_lives_on() {
    let (fleet, [first, second]) = pair();
    let held = fleet.try_allocate(&Request::any().agent(first)).unwrap();
    fleet.unroute(first).unwrap();
    fleet.unroute(second).unwrap();
    assert_eq!(
        (state(&fleet, first), state(&fleet, second)),
        (AgentState::Draining, AgentState::Draining)
    );
    assert_eq!(fleet.try_allocate(&Request::any()).unwrap_err(), AllocateError::NoneIdle);
    let named = Request::any().agent(second);
    assert_eq!(fleet.try_allocate(&named).unwrap_err(), AllocateError::NoneIdle);
    assert!(!held.is_revoked());
    assert!(held.complete(LeaseOutcome::Succeeded).is_ok());
    assert_eq!(fleet.try_allocate(&Request::any()).unwrap_err(), AllocateError::NoneIdle);
    assert_eq!(fleet.set_condition(second, Condition::Fit).unwrap(), Condition::Draining);
    assert_eq!(fleet.try_allocate(&Request::any()).unwrap().agent(), second);
}

#[test]
fn a_degraded_agent_is_taken_only_where_no_fit_one_would_do() {
    let (fleet, [first, second]) = pair();
    for degraded in [first, second] {
        fleet.set_condition(degraded, Condition::Degraded).unwrap();
        let other = if degraded == first { second } else { first };
        for _ in 0..8 {
            assert_eq!(fleet.try_allocate(&Request::any()).unwrap().agent(), other);
        }
        let _held = fleet.try_allocate(&Request::any()).unwrap();
        assert_eq!(fleet.try_allocate(&Request::any()).unwrap().agent(), degraded);
        assert_eq!(state(&fleet, degraded), AgentState::Degraded);
        fleet.set_condition(degraded, Condition::Fit).unwrap();
    }
}

#[test]
fn one_that_starts_is_given_to_who_waits_once_it_is_fit() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let spec = AgentSpec::new("slow").condition(Condition::Starting);
    let agent = fleet.spawn(spec).unwrap();
    assert_eq!(state(&fleet, agent), AgentState::Starting);
    let waiter = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.allocate(&Request::any()).map(|lease| lease.agent()))
    };
    while fleet.stats().requests_waiting == 0 {
        thread::yield_now();
    }
    fleet.set_condition(agent, Condition::Failed).unwrap();
    assert_eq!(state(&fleet, agent), AgentState::Failed);
    assert_eq!(fleet.stats().requests_waiting, 1);
    fleet.set_condition(agent, Condition::Fit).unwrap();
    assert_eq!(waiter.join().unwrap(), Ok(agent));
}

#[test]
fn a_drained_agent_ends_when_its_last_lease_does_and_loses_none() {
    let (fleet, [first, second]) = pair();
    let held = fleet.try_allocate(&Request::any().agent(first)).unwrap();
    let drainer = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.drain_agent(first, LONG))
    };
    while state(&fleet, first) != AgentState::Draining {
        thread::yield_now();
    }
    assert_eq!(fleet.try_allocate(&Request::any()).unwrap().agent(), second);
    assert!(held.complete(LeaseOutcome::Succeeded).is_ok());
    assert!(drainer.join().unwrap().unwrap().ended);
    assert_eq!(fleet.agent(first), None);
    let stats = fleet.stats();
    assert_eq!((stats.agents_stopped, stats.agents_killed, stats.leases_stale), (1, 0, 0));
    assert_eq!(fleet.drain_agent(first, LONG).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(fleet.drain_agent(second, Duration::ZERO).unwrap().ended, "an idle one ends at once");
}

#[test]
fn a_drain_that_takes_too_long_leaves_the_agent_unrouted_and_one_of_a_killed_agent_ends() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<(), ()>::builder().clock(clock).build().unwrap();
    let agent = fleet.spawn(AgentSpec::new("busy")).unwrap();
    let held = fleet.try_allocate(&Request::any()).unwrap();
    let drain = || {
        let fleet = fleet.clone();
        let drainer = thread::spawn(move || fleet.drain_agent(agent, Duration::from_secs(1)));
        while hand.sleepers() == 0 {
            thread::yield_now();
        }
        drainer
    };
    let drainer = drain();
    hand.advance(Duration::from_secs(1));
    assert!(!drainer.join().unwrap().unwrap().ended);
    assert_eq!(state(&fleet, agent), AgentState::Draining);
    assert!(!held.is_revoked());
    let drainer = drain();
    assert_eq!(fleet.kill(agent).unwrap().leases_revoked, 1);
    assert!(drainer.join().unwrap().unwrap().ended);
    assert!(held.is_revoked());
}

#[test]
fn a_task_goes_to_an_agent_that_becomes_fit_and_a_drain_waits_for_it() {
    let witness = Witness::new();
    let fleet = Fleet::<u32, u32>::builder().workers(1).observer(witness.clone()).build().unwrap();
    let spec = AgentSpec::<u32, u32>::new("runner")
        .condition(Condition::Starting)
        .handler_fn(|task, _| Ok(task.payload() + 1));
    let agent = fleet.spawn(spec).unwrap();
    let handle = fleet.submit(Task::new(1)).unwrap();
    fleet.set_condition(agent, Condition::Fit).unwrap();
    assert_eq!(*handle.wait(), Outcome::Completed(2));
    assert!(fleet.drain_agent(agent, LONG).unwrap().ended);
    witness.await_event(|event| matches!(event, FleetEvent::AgentStopped { .. }));
    finish(&fleet);
}

#[test]
fn labels_and_resources_are_shown_as_the_spec_gave_them() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let resources = Resources { memory_bytes: 1 << 20, cpu_millis: 250 };
    let spec = AgentSpec::new("a").label("zone", "x").label("tier", "1").label("zone", "y");
    let agent = fleet.spawn(spec.resources(resources)).unwrap();
    let other = fleet.spawn(AgentSpec::new("a")).unwrap();
    let status = fleet.agent(agent).unwrap();
    let labels: Vec<_> = status.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!((labels, status.resources), (vec![("zone", "y"), ("tier", "1")], resources));
    assert!(fleet.agent(other).unwrap().labels.is_empty());
}

#[test]
fn an_agent_that_has_ended_is_told_from_one_that_never_was() {
    let (fleet, [first, second]) = pair();
    assert_eq!(fleet.agent_state(first), Some(AgentState::Ready));
    fleet.kill(first).unwrap();
    fleet.retire(second).unwrap();
    // Their places are taken by others.
    let others = fleet.spawn_batch(&AgentSpec::new("agent"), 2).unwrap();
    let _held = fleet.try_allocate(&Request::any().agent(others[0])).unwrap();
    assert_eq!(fleet.agent_state(others[0]), Some(AgentState::Busy));
    for gone in [first, second] {
        assert_eq!((fleet.agent_state(gone), fleet.agent(gone)), (Some(AgentState::Stopped), None));
    }
    // Names of another fleet: a place that there is none of here, and an agent that has not come yet.
    let (other, [mut later, _]) = pair();
    let far = *other.spawn_batch(&AgentSpec::new("agent"), 200).unwrap().last().unwrap();
    assert_eq!(fleet.agent_state(far), None);
    for _ in 0..3 {
        other.kill(later).unwrap();
        later = other.spawn(AgentSpec::new("agent")).unwrap();
    }
    assert!(later.generation() > others[0].generation() && later.slot() < 2);
    assert_eq!(fleet.agent_state(later), None);
    fleet.shutdown(LONG).unwrap();
    assert_eq!(fleet.agent_state(others[0]), Some(AgentState::Stopped));
}
