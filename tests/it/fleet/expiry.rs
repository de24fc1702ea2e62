//! Time and leases: those that expire, that are renewed, that wait, and what agents are known for.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;
use std::{future::Future, pin::Pin};

use phalanx::ManualClock;
use phalanx::fleet::{
    AgentSpec, AllocateError, Allocation, Fleet, Lease, LeaseOutcome, Outcome, Priority, Request,
    Strategy, Task,
};

use super::support::{LONG, eventually, finish};

const SECOND: Duration = Duration::from_secs(1);

fn fleet_of(count: usize, strategies: &[Strategy]) -> (Fleet, ManualClock) {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::builder().strategies(strategies).clock(clock).build().unwrap();
    fleet.spawn_batch(&AgentSpec::new("agent"), count).unwrap();
    (fleet, hand)
}

fn poll(request: &mut Allocation) -> Option<Result<Lease, AllocateError>> {
    match Pin::new(request).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

#[test]
fn an_expired_lease_is_void_before_anybody_notices_and_cannot_be_completed() {
    let (fleet, hand) = fleet_of(1, &[Strategy::LeastLoaded]);
    let request = Request::any().ttl(SECOND);
    let lease = fleet.try_allocate(&request).unwrap();
    hand.advance(SECOND - Duration::from_nanos(1));
    assert!(!lease.is_revoked());
    hand.advance(Duration::from_nanos(1));
    assert!(lease.is_revoked());
    let stale = lease.complete(LeaseOutcome::Succeeded).unwrap_err();
    assert!(stale.expired);
    let stats = fleet.stats();
    assert_eq!((stats.leases_expired, stats.leases_stale, stats.leases_live), (1, 1, 0));
    assert_eq!(stats.leases_succeeded, 0);
}

#[test]
fn an_allocation_that_finds_nothing_notices_what_has_expired() {
    let (fleet, hand) = fleet_of(1, &[Strategy::LeastLoaded]);
    let late = fleet.try_allocate(&Request::any().ttl(SECOND)).unwrap();
    assert_eq!(fleet.try_allocate(&Request::any()).unwrap_err(), AllocateError::NoneIdle);
    hand.advance(2 * SECOND);
    let next = fleet.try_allocate(&Request::any()).unwrap();
    assert!(late.complete(LeaseOutcome::Succeeded).is_err());
    assert_eq!(fleet.agent(next.agent()).unwrap().load, 1, "the late one freed nobody");
    assert!(next.complete(LeaseOutcome::Succeeded).is_ok());
}

#[test]
fn a_tick_notices_what_has_expired_and_counts_it_once() {
    let (fleet, hand) = fleet_of(3, &[Strategy::LeastLoaded]);
    let request = Request::any().ttl(SECOND);
    let _leases: Vec<_> = (0..3).map(|_| fleet.try_allocate(&request).unwrap()).collect();
    assert_eq!(fleet.tick(), 0);
    hand.advance(2 * SECOND);
    assert_eq!((fleet.tick(), fleet.tick()), (3, 0));
    assert_eq!(fleet.stats().leases_expired, 3);
}

#[test]
fn a_renewed_lease_lives_on_and_an_expired_one_cannot_be_renewed() {
    let (fleet, hand) = fleet_of(1, &[Strategy::LeastLoaded]);
    let mut lease = fleet.try_allocate(&Request::any().ttl(SECOND)).unwrap();
    for _ in 0..5 {
        hand.advance(SECOND * 9 / 10);
        lease.renew(SECOND).unwrap();
    }
    hand.advance(SECOND);
    assert!(lease.renew(SECOND).unwrap_err().expired);

    let mut lasting = fleet.try_allocate(&Request::any()).unwrap();
    lasting.renew(SECOND).unwrap();
    hand.advance(SECOND);
    assert!(lasting.complete(LeaseOutcome::Succeeded).unwrap_err().expired);
}

#[test]
fn a_lease_whose_agent_was_killed_is_stale_and_does_not_expire() {
    let (fleet, hand) = fleet_of(1, &[Strategy::LeastLoaded]);
    let mut lease = fleet.try_allocate(&Request::any().ttl(SECOND)).unwrap();
    fleet.kill(lease.agent()).unwrap();
    assert!(!lease.renew(SECOND).unwrap_err().expired);
    fleet.spawn(AgentSpec::new("heir")).unwrap();
    let heir = fleet.try_allocate(&Request::any()).unwrap();
    hand.advance(2 * SECOND);
    assert_eq!(fleet.tick(), 0);
    assert!(!lease.complete(LeaseOutcome::Succeeded).unwrap_err().expired);
    assert!(heir.complete(LeaseOutcome::Succeeded).is_ok());
}

/// Of two threads the first to wait is served; that a lease expires wakes it, and nothing else does.
#[test]
fn a_thread_that_waits_wakes_when_a_lease_expires_even_one_that_began_later() {
    let (fleet, hand) = fleet_of(1, &[Strategy::LeastLoaded]);
    let mut held = fleet.try_allocate(&Request::any()).unwrap();
    let waiter = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.allocate(&Request::any()).map(|lease| lease.agent()))
    };
    while fleet.stats().requests_waiting == 0 {
        thread::yield_now();
    }
    // It sleeps without an end, and now there is one.
    held.renew(SECOND).unwrap();
    while hand.sleepers() == 0 {
        thread::yield_now();
    }
    hand.advance(2 * SECOND);
    assert_eq!(waiter.join().unwrap(), Ok(held.agent()));
    assert!(held.is_revoked());
}

#[test]
fn a_thread_that_waits_wakes_when_a_lease_expires_that_another_one_had_waited_for() {
    let (fleet, hand) = fleet_of(1, &[Strategy::LeastLoaded]);
    let held = fleet.try_allocate(&Request::any()).unwrap();
    let mut first = fleet.allocate_async(&Request::any().ttl(SECOND));
    assert!(poll(&mut first).is_none());
    let second = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.allocate(&Request::any()).map(|lease| lease.agent()))
    };
    eventually("both wait", || fleet.stats().requests_waiting == 2);
    // The second sleeps without an end, and when the first has the agent there is one.
    drop(held);
    let late = poll(&mut first).unwrap().unwrap();
    eventually("the second knows when to look", || hand.sleepers() == 1);
    hand.advance(2 * SECOND);
    assert_eq!(second.join().unwrap(), Ok(late.agent()));
    assert!(late.is_revoked());
}

#[test]
fn a_lease_that_was_waited_for_expires_from_when_its_holder_has_it() {
    let (fleet, hand) = fleet_of(1, &[Strategy::LeastLoaded]);
    let first = fleet.try_allocate(&Request::any()).unwrap();
    let mut waiting = fleet.allocate_async(&Request::any().ttl(SECOND));
    assert!(poll(&mut waiting).is_none());
    drop(first);
    hand.advance(10 * SECOND);
    let lease = poll(&mut waiting).unwrap().unwrap();
    hand.advance(SECOND / 2);
    assert!(!lease.is_revoked());
    hand.advance(SECOND / 2);
    assert!(lease.is_revoked());
}

#[test]
fn who_waits_long_enough_goes_before_the_more_urgent_and_sooner_deadlines_before_later() {
    let (clock, hand) = ManualClock::new();
    let step = Some(Duration::from_millis(10));
    let fleet = Fleet::<(), ()>::builder().clock(clock.clone()).ageing(step).build().unwrap();
    fleet.spawn(AgentSpec::new("only")).unwrap();
    let mut held = Some(fleet.try_allocate(&Request::any()).unwrap());
    let ask = |priority: u8| Request::any().priority(Priority::new(priority));
    let mut waiting = Vec::new();
    let mut wait = |request: &Request| {
        let mut allocation = fleet.allocate_async(request);
        assert!(poll(&mut allocation).is_none());
        waiting.push(Some(allocation));
    };
    wait(&ask(10));
    hand.advance(Duration::from_millis(100));
    wait(&ask(19));
    wait(&ask(21));
    wait(&ask(19).deadline(clock.now() + 2 * SECOND));
    wait(&ask(19).deadline(clock.now() + SECOND));
    let mut order = Vec::new();
    while order.len() < waiting.len() {
        drop(held.take());
        for (index, slot) in waiting.iter_mut().enumerate() {
            if let Some(result) = slot.as_mut().and_then(poll) {
                held = Some(result.unwrap());
                order.push(index);
                *slot = None;
            }
        }
    }
    // The first has aged by ten levels, which puts it between 19 and 21.
    assert_eq!(order, [2, 0, 4, 3, 1]);
}

#[test]
fn the_agent_with_the_better_past_is_chosen_and_a_failure_counts_against_it() {
    let (fleet, hand) = fleet_of(3, &[Strategy::Performance]);
    let agents: Vec<_> = fleet.agents().iter().map(|agent| agent.id).collect();
    let run = |agent, millis, outcome| {
        let lease = fleet.try_allocate(&Request::any().agent(agent)).unwrap();
        hand.advance(Duration::from_millis(millis));
        lease.complete(outcome).unwrap();
    };
    let best = || {
        let lease = fleet.try_allocate(&Request::any()).unwrap();
        let agent = lease.agent();
        drop(lease);
        agent
    };
    run(agents[0], 100, LeaseOutcome::Succeeded);
    run(agents[1], 50, LeaseOutcome::Succeeded);
    assert_eq!(best(), agents[2], "one without a past is tried");
    run(agents[2], 200, LeaseOutcome::Succeeded);
    assert_eq!(best(), agents[1]);
    for _ in 0..8 {
        run(agents[1], 50, LeaseOutcome::Failed);
    }
    assert_eq!(best(), agents[0]);
}

#[test]
fn a_batch_is_taken_whole_or_not_at_all_and_up_to_takes_what_there_is() {
    let (fleet, _hand) = fleet_of(3, &[Strategy::LeastLoaded]);
    let one = fleet.try_allocate(&Request::any()).unwrap();
    let whole = fleet.try_allocate_batch(&Request::any(), 3);
    assert_eq!(whole.unwrap_err(), AllocateError::NoneIdle);
    assert_eq!(fleet.stats().leases_live, 1);
    assert_eq!(fleet.stats().leases_granted, 1, "what was not granted is not counted");
    let two = fleet.try_allocate_batch(&Request::any(), 2).unwrap();
    assert_ne!(two[0].agent(), two[1].agent());
    drop((one, two));
    let all = fleet.try_allocate_up_to(&Request::any(), 10).unwrap();
    assert_eq!(all.len(), 3);
    let none = fleet.try_allocate_up_to(&Request::any(), 10);
    assert_eq!(none.unwrap_err(), AllocateError::NoneIdle);
}

#[test]
fn a_request_for_a_named_agent_waits_for_that_one_and_ends_with_it() {
    let (fleet, _hand) = fleet_of(2, &[Strategy::LeastLoaded]);
    let named = fleet.agents()[1].id;
    let request = Request::any().agent(named);
    let held = fleet.try_allocate(&request).unwrap();
    assert_eq!(held.agent(), named);
    assert_eq!(fleet.try_allocate(&request).unwrap_err(), AllocateError::NoneIdle);
    let mut first = fleet.allocate_async(&request);
    let mut second = fleet.allocate_async(&request);
    assert!(poll(&mut first).is_none() && poll(&mut second).is_none());
    drop(held);
    let lease = poll(&mut first).unwrap().unwrap();
    assert_eq!(lease.agent(), named);
    fleet.kill(named).unwrap();
    assert_eq!(poll(&mut second).unwrap().unwrap_err(), AllocateError::AgentGone);
    assert_eq!(fleet.try_allocate(&request).unwrap_err(), AllocateError::AgentGone);
    assert_eq!(fleet.allocate(&request).unwrap_err(), AllocateError::AgentGone);
}

#[test]
fn a_strategy_that_is_not_kept_and_a_fleet_without_one_are_refused() {
    let (fleet, _hand) = fleet_of(1, &[Strategy::LeastLoaded]);
    let request = Request::any().strategy(Strategy::RoundRobin);
    assert_eq!(fleet.try_allocate(&request).unwrap_err(), AllocateError::StrategyNotKept);
    assert_eq!(fleet.allocate(&request).unwrap_err(), AllocateError::StrategyNotKept);
    assert!(Fleet::<(), ()>::builder().strategies(&[]).build().is_err());
    let too_many = NonZeroU32::new(32_769).unwrap();
    assert!(fleet.spawn(AgentSpec::new("greedy").max_leases(too_many)).is_err());
}

#[test]
fn a_request_remembers_its_capabilities_for_one_fleet_and_is_right_in_another() {
    let (first, _) = fleet_of(1, &[Strategy::LeastLoaded]);
    let (second, _) = fleet_of(1, &[Strategy::LeastLoaded]);
    first.spawn(AgentSpec::new("a").capability("x").capability("y")).unwrap();
    second.spawn(AgentSpec::new("b").capability("y")).unwrap();
    second.spawn(AgentSpec::new("c").capability("x")).unwrap();
    let request = Arc::new(Request::any().capability("y"));
    for fleet in [&first, &second, &first, &second] {
        let lease = fleet.try_allocate(&request).unwrap();
        let name = fleet.agent(lease.agent()).unwrap().name;
        assert_eq!(&*name == "a", std::ptr::eq(fleet, &first));
        assert_ne!(&*name, "c");
    }
}

/// A fleet of one agent for one lease that runs tasks, on a clock of its own.
fn working_fleet(driven: bool) -> (Fleet<u64, u64>, ManualClock) {
    let (clock, hand) = ManualClock::new();
    let builder = Fleet::builder().clock(clock);
    let builder = if driven { builder.driven() } else { builder.workers(1) };
    let fleet = builder.build().unwrap();
    fleet
        .spawn(AgentSpec::new("agent").handler_fn(|task: &Task<u64>, _| Ok(*task.payload())))
        .unwrap();
    (fleet, hand)
}

#[test]
fn workers_notice_that_a_lease_has_expired_for_tasks_and_for_those_who_wait() {
    let (fleet, hand) = working_fleet(false);
    let held = fleet.try_allocate(&Request::any().ttl(SECOND)).unwrap();
    let task = fleet.submit(Task::new(7)).unwrap();
    eventually("the worker sleeps", || hand.sleepers() > 0);
    hand.advance(SECOND);
    assert_eq!(*task.wait(), Outcome::Completed(7));
    assert!(held.is_revoked());
    let held = fleet.try_allocate(&Request::any().ttl(SECOND)).unwrap();
    let mut waits = fleet.allocate_async(&Request::any());
    assert!(poll(&mut waits).is_none());
    eventually("the worker sleeps", || hand.sleepers() > 0);
    hand.advance(SECOND);
    eventually("the lease comes back", || fleet.stats().leases_expired == 2);
    let lease = poll(&mut waits).expect("it was granted").unwrap();
    assert!(held.complete(LeaseOutcome::Succeeded).is_err());
    drop(lease);
    finish(&fleet);
}

#[test]
fn workers_wake_for_the_first_lease_that_is_due_however_they_come_and_are_renewed() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<u64, u64>::builder().clock(clock).workers(2).build().unwrap();
    let spec = AgentSpec::new("agent").max_leases(NonZeroU32::new(9).unwrap());
    fleet.spawn(spec.handler_fn(|task: &Task<u64>, _| Ok(*task.payload()))).unwrap();
    let take = |seconds| fleet.try_allocate(&Request::any().ttl(seconds * SECOND)).unwrap();
    let expired = |count| {
        eventually("so many have expired", || fleet.stats().leases_expired == count);
        eventually("they sleep", || hand.sleepers() > 0);
    };
    let (mut renewed, late, early) = (take(2), take(9), take(1));
    renewed.renew(5 * SECOND).unwrap();
    hand.advance(SECOND);
    expired(1);
    assert!(early.is_revoked());
    // One that comes as they sleep for a later one.
    let next = take(1);
    hand.advance(SECOND);
    expired(2);
    assert!(next.is_revoked() && !renewed.is_revoked());
    renewed.renew(SECOND).unwrap();
    hand.advance(SECOND);
    expired(3);
    assert!(renewed.is_revoked() && !late.is_revoked());
    hand.advance(6 * SECOND);
    eventually("all have expired", || fleet.stats().leases_expired == 4);
    assert!(fleet.drain(LONG).unwrap().is_complete());
    finish(&fleet);
}

#[test]
fn who_drives_a_fleet_notices_what_has_expired() {
    let (fleet, hand) = working_fleet(true);
    let held = fleet.try_allocate(&Request::any().ttl(SECOND)).unwrap();
    let task = fleet.submit(Task::new(7)).unwrap();
    assert_eq!(fleet.run_ready(usize::MAX), 0);
    hand.advance(SECOND);
    assert_eq!(fleet.run_ready(usize::MAX), 1);
    assert_eq!(*task.wait(), Outcome::Completed(7));
    assert!(held.is_revoked());
    let held = fleet.try_allocate(&Request::any().ttl(SECOND)).unwrap();
    hand.advance(SECOND);
    assert_eq!((fleet.run_ready(usize::MAX), fleet.stats().leases_expired), (0, 2));
    assert!(held.is_revoked());
    finish(&fleet);
}
