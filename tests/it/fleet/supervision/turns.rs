//! What runs on an agent that fails, is tried, or is started again just then.

use super::*;
use phalanx::fleet::SupervisionGroup;
use phalanx::fleet::supervise::{BreakerPolicy, BreakerState, HeartbeatPolicy, RestartStrategy};
use std::num::NonZeroU16;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn heartbeat() -> HeartbeatPolicy {
    HeartbeatPolicy::new(seconds(10), seconds(30)).unwrap()
}

/// One that runs when it is driven, on a clock of its own.
fn driven() -> (phalanx::fleet::FleetBuilder<u64, u64>, ManualClock) {
    let (clock, hand) = ManualClock::new();
    (Fleet::builder().driven().clock(clock), hand)
}

#[test]
fn where_several_trials_are_asked_for_each_message_of_a_mailbox_is_one() {
    let (builder, hand) = driven();
    let breaker = BreakerPolicy::new(NonZeroU16::MIN, seconds(10))
        .open_for(Backoff::constant(DELAY))
        .trials(2.try_into().unwrap());
    let fleet = builder.breaker("obedient", breaker).build().unwrap();
    let agent = fleet.spawn(obedient(&Arc::default())).unwrap();
    for payload in [ERROR, 9, 9, 9, 9, 9] {
        fleet.tell(agent, payload).unwrap();
    }
    fleet.run_ready(usize::MAX);
    assert!(matches!(fleet.circuit("obedient"), Some(BreakerState::Open { .. })));
    hand.advance(DELAY);
    fleet.tick();
    for handled in 1..=2 {
        assert_eq!(fleet.circuit("obedient"), Some(BreakerState::HalfOpen));
        fleet.run_ready(1);
        assert_eq!(fleet.stats().messages_handled, handled);
    }
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::Closed));
    fleet.run_ready(usize::MAX);
    assert_eq!((fleet.stats().messages_handled, fleet.stats().circuit_trials), (5, 2));
    finish(&fleet);
}

#[test]
fn a_task_whose_agent_fails_as_it_would_begin_waits_for_the_next_incarnation() {
    let (builder, hand) = driven();
    let fleet = builder.build().unwrap();
    let group = SupervisionGroup::new(policy().strategy(RestartStrategy::OneForAll));
    let spec = |name| AgentSpec::<u64, u64>::new(name).supervised_by(&group);
    let watched = fleet.spawn(spec("watched").heartbeat(heartbeat())).unwrap();
    let (clock, seen) = (hand.clone(), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&seen);
    let worker = fleet.spawn(spec("worker").handler_fn(move |task, _| {
        noted.lock().unwrap().push(*task.payload());
        if *task.payload() == 5 {
            clock.advance(seconds(30));
        }
        Ok(*task.payload())
    }));
    let worker = worker.unwrap();
    fleet.tell(worker, 5).unwrap();
    let task = fleet.submit(Task::new(9).to(worker)).unwrap();
    fleet.tell(worker, 7).unwrap();
    fleet.run_ready(usize::MAX);
    assert_eq!(state(&fleet, watched), (AgentState::Failed, 2));
    assert_eq!(state(&fleet, worker), (AgentState::Failed, 2));
    assert!(task.try_outcome().is_none());
    assert_eq!((fleet.stats().tasks_queued, fleet.stats().tasks_running), (1, 0));
    hand.advance(DELAY);
    fleet.run_ready(usize::MAX);
    assert_eq!(*task.wait(), Outcome::Completed(9));
    assert_eq!(*seen.lock().unwrap(), [5, 9, 7], "in the order in which they came");
    assert_eq!(fleet.stats().agent_failures, 2);
    finish(&fleet);
}

#[test]
fn an_agent_that_gives_up_as_it_is_told_at_a_deadline_has_not_failed() {
    let (fleet, hand, _witness) = fleet(1);
    let gate = Gate::new();
    let spec = {
        let gate = Arc::clone(&gate);
        AgentSpec::<u64, u64>::new("obedient").handler_fn(move |_, cx| {
            gate.pass();
            assert!(cx.is_revoked());
            Err(TaskError::permanent("it was told"))
        })
    };
    let agent = fleet.spawn(spec.restart(policy().on_errors(true))).unwrap();
    let task = fleet.submit(Task::new(9).timeout(DELAY)).unwrap();
    gate.await_arrivals(1);
    hand.advance(DELAY);
    fleet.tick();
    assert!(matches!(*task.wait(), Outcome::Failed(_)));
    gate.open();
    idle(&fleet, agent);
    assert_eq!((state(&fleet, agent), fleet.stats().agent_failures), ((AgentState::Ready, 1), 0));
    finish(&fleet);
}

#[test]
fn a_panic_of_an_agent_that_nobody_starts_again_is_no_failure_that_was_ignored() {
    let (builder, _hand) = driven();
    let fleet = builder.build().unwrap();
    let agent = fleet.spawn(obedient(&Arc::default()).heartbeat(heartbeat())).unwrap();
    fleet.tell(agent, PANIC).unwrap();
    fleet.run_ready(usize::MAX);
    let stats = fleet.stats();
    assert_eq!((stats.messages_failed, stats.agent_failures_ignored), (1, 0));
    finish(&fleet);
}

#[test]
fn a_failure_that_the_host_saw_of_an_incarnation_fails_no_later_one() {
    let (fleet, hand, _witness) = fleet(0);
    let agent = fleet.spawn(AgentSpec::new("reported").restart(policy())).unwrap();
    let seen = fleet.agent(agent).unwrap().incarnation;
    assert!(fleet.report_failure_of(agent, seen, "its process died").unwrap());
    hand.advance(DELAY);
    fleet.tick();
    assert!(!fleet.report_failure_of(agent, seen, "so it did").unwrap());
    assert_eq!(state(&fleet, agent), (AgentState::Ready, 2));
    assert_eq!(fleet.stats().agent_failures_ignored, 1);
    assert!(fleet.report_failure_of(agent, 2, "again").unwrap());
    assert_eq!(state(&fleet, agent), (AgentState::Failed, 3));
    finish(&fleet);
}

#[test]
fn an_attempt_of_an_earlier_incarnation_does_not_beat_for_the_present_one() {
    let (fleet, hand, _witness) = fleet(1);
    let gate = Gate::new();
    let spec = {
        let gate = Arc::clone(&gate);
        AgentSpec::<u64, u64>::new("obedient").heartbeat(heartbeat()).handler_fn(move |_, _| {
            gate.pass();
            Ok(9)
        })
    };
    let agent = fleet.spawn(spec.restart(policy())).unwrap();
    let task = fleet.submit(Task::new(9)).unwrap();
    gate.await_arrivals(1);
    assert!(fleet.report_failure(agent, "it is gone").unwrap());
    hand.advance(DELAY);
    fleet.tick();
    hand.advance(seconds(9));
    gate.open();
    assert_eq!(*task.wait(), Outcome::Completed(9));
    idle(&fleet, agent);
    hand.advance(seconds(1));
    fleet.tick();
    assert_eq!(state(&fleet, agent), (AgentState::Degraded, 2));
    finish(&fleet);
}

#[test]
fn a_message_that_comes_while_agents_are_made_is_handled_by_their_first_incarnation() {
    const MANY: usize = 1_000;
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    let made = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !made.load(Ordering::SeqCst) {
                let Ok(lease) = fleet.try_allocate(&Request::any()) else { continue };
                let agent = lease.agent();
                drop(lease);
                let _ = fleet.tell(agent, 9);
            }
        });
        for _ in 0..20 {
            let spec = obedient(&Arc::default()).restart(policy());
            let agents = fleet.spawn_batch(&spec, MANY).unwrap();
            for agent in agents {
                fleet.kill(agent).unwrap();
            }
        }
        made.store(true, Ordering::SeqCst);
    });
    finish(&fleet);
}
