//! How the attempts of tasks went, as a part of their agents' pasts.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use super::support::finish;
use phalanx::fleet::{
    AgentId, AgentSpec, Fleet, LeaseOutcome, Outcome, Request, Strategy, Task, TaskError,
};
use phalanx::{Clock, ManualClock};

const FAILS: u64 = 1;

fn fleet(clock: Clock, strategy: Strategy) -> Fleet<u64, u64> {
    let builder = Fleet::builder().driven().clock(clock).shards(std::num::NonZeroUsize::MIN);
    builder.strategies(&[strategy]).build().unwrap()
}

/// An agent whose attempts take so long.
fn spawn(fleet: &Fleet<u64, u64>, hand: &ManualClock, name: &str, millis: u64) -> AgentId {
    let hand = hand.clone();
    let spec = AgentSpec::new(name).handler_fn(move |task: &Task<u64>, _| {
        hand.advance(Duration::from_millis(millis));
        if *task.payload() == FAILS { Err(TaskError::permanent("as told")) } else { Ok(millis) }
    });
    fleet.spawn(spec).unwrap()
}

/// How long the agent takes that a task came to.
fn run(fleet: &Fleet<u64, u64>) -> u64 {
    let handle = fleet.submit(Task::new(0)).unwrap();
    assert_eq!(fleet.run_ready(usize::MAX), 1);
    match *handle.wait() {
        Outcome::Completed(millis) => millis,
        ref other => panic!("it was {other:?}"),
    }
}

fn run_on(fleet: &Fleet<u64, u64>, agent: AgentId, payload: u64) {
    let handle = fleet.submit(Task::new(payload).to(agent)).unwrap();
    assert_eq!(fleet.run_ready(usize::MAX), 1);
    let _ = handle.wait();
}

#[test]
fn tasks_come_to_the_agent_whose_attempts_are_fast_once_each_was_tried() {
    for strategy in [Strategy::Performance, Strategy::LeastLoaded] {
        let (clock, hand) = ManualClock::new();
        let fleet = fleet(clock, strategy);
        for (name, millis) in [("slow", 80), ("fast", 10), ("slower", 300)] {
            spawn(&fleet, &hand, name, millis);
        }
        let mut first = [run(&fleet), run(&fleet), run(&fleet)];
        let then: Vec<_> = (0..6).map(|_| run(&fleet)).collect();
        if strategy == Strategy::Performance {
            first.sort_unstable();
            assert_eq!(first, [10, 80, 300], "everybody is tried");
            assert_eq!(then, [10; 6]);
        } else {
            assert_eq!((first, &*then), ([80; 3], &[80; 6][..]), "the one that came back last");
        }
        finish(&fleet);
    }
}

#[test]
fn what_failed_on_an_agent_is_tried_elsewhere_next() {
    let (clock, hand) = ManualClock::new();
    let fleet = fleet(clock, Strategy::LeastLoaded);
    let broken = AgentSpec::new("broken").handler_fn(|task: &Task<u64>, _| match *task.payload() {
        FAILS => Err(TaskError::retryable("as told")),
        _ => Ok(0),
    });
    let broken = fleet.spawn(broken).unwrap();
    for name in ["first", "second"] {
        fleet.spawn(AgentSpec::new(name).handler_fn(|_: &Task<u64>, _| Ok(1))).unwrap();
    }
    let lease = |request: &Request| fleet.try_allocate(request).unwrap();
    // The one that came back last, before each of them.
    let last = || {
        lease(&Request::any().agent(broken)).complete(LeaseOutcome::Succeeded).unwrap();
        assert_eq!(lease(&Request::any()).agent(), broken);
    };
    last();
    let task = fleet.submit(Task::new(FAILS)).unwrap();
    assert_eq!(
        fleet.run_ready(usize::MAX),
        2,
        "one attempt fails, and the next is made by another"
    );
    assert_eq!(*task.wait(), Outcome::Completed(1));
    last();
    lease(&Request::any()).complete(LeaseOutcome::Failed).unwrap();
    assert_ne!(lease(&Request::any()).agent(), broken);
    last();
    let brief = lease(&Request::any().ttl(Duration::from_secs(1)));
    hand.advance(Duration::from_secs(2));
    brief.complete(LeaseOutcome::Succeeded).unwrap_err();
    assert_ne!(lease(&Request::any()).agent(), broken);
    finish(&fleet);
}

#[test]
fn who_was_granted_to_somebody_who_had_given_up_comes_after_its_equals() {
    let fleet = fleet(ManualClock::new().0, Strategy::LeastLoaded);
    let other = fleet.spawn(AgentSpec::new("other")).unwrap();
    let wanted = fleet.spawn_batch(&AgentSpec::new("wanted").capability("rust"), 2).unwrap();
    let lease = |agent| fleet.try_allocate(&Request::any().agent(agent)).unwrap();
    let rust = Request::any().capability("rust");
    let mut cx = Context::from_waker(Waker::noop());
    for batch in [false, true] {
        let [given_back, held] = [wanted[0], wanted[1]].map(lease);
        let (mut one, mut two) = (None, None);
        if batch {
            let waits = two.insert(fleet.allocate_batch_async(&rust, 2));
            assert!(Pin::new(waits).poll(&mut cx).is_pending());
        } else {
            let waits = one.insert(fleet.allocate_async(&rust));
            assert!(Pin::new(waits).poll(&mut cx).is_pending());
        }
        given_back.complete(LeaseOutcome::Succeeded).unwrap();
        assert_eq!(fleet.agent(wanted[0]).unwrap().load, 1, "it was granted");
        drop((one, two));
        let next = fleet.try_allocate(&Request::any()).unwrap();
        assert_eq!(next.agent(), other, "a batch: {batch}");
        for lease in [next, held] {
            lease.complete(LeaseOutcome::Failed).unwrap();
        }
    }
    finish(&fleet);
}

#[test]
fn failures_count_against_an_agent_also_those_of_tasks_for_it_alone() {
    let (clock, hand) = ManualClock::new();
    let fleet = fleet(clock, Strategy::Performance);
    let fast = spawn(&fleet, &hand, "fast", 10);
    let slow = spawn(&fleet, &hand, "slow", 20);
    run_on(&fleet, fast, 0);
    run_on(&fleet, slow, 0);
    assert_eq!([run(&fleet), run(&fleet)], [10, 10]);
    for _ in 0..8 {
        run_on(&fleet, fast, FAILS);
    }
    assert_eq!([run(&fleet), run(&fleet)], [20, 20]);
    // It has become good again: leases of the host and attempts are one past.
    for _ in 0..40 {
        let lease = fleet.try_allocate(&Request::any().agent(fast)).unwrap();
        hand.advance(Duration::from_millis(2));
        lease.complete(LeaseOutcome::Succeeded).unwrap();
    }
    assert_eq!([run(&fleet), run(&fleet)], [10, 10]);
    finish(&fleet);
}
