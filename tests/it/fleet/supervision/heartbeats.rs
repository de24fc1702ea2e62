//! Agents that are to be heard of.

use super::*;
use phalanx::fleet::supervise::HeartbeatPolicy;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Degraded after 10 s, failed after 30 s.
fn spec(name: &str) -> AgentSpec<u64, u64> {
    AgentSpec::new(name).heartbeat(HeartbeatPolicy::new(seconds(10), seconds(30)).unwrap())
}

#[test]
fn a_silent_agent_is_degraded_then_failed_and_started_again_as_its_policy_says() {
    let (fleet, hand, witness) = fleet(0);
    let silent = fleet.spawn(spec("silent").restart(policy())).unwrap();
    let beating = fleet.spawn(spec("beating")).unwrap();
    let pass = |time| {
        hand.advance(time);
        fleet.tick();
    };
    pass(seconds(9));
    assert!(fleet.heartbeat(beating).unwrap());
    pass(seconds(1));
    assert_eq!(state(&fleet, silent), (AgentState::Degraded, 1));
    assert_eq!(state(&fleet, beating), (AgentState::Ready, 1));
    assert!(fleet.heartbeat(silent).unwrap());
    assert!(fleet.heartbeat(beating).unwrap());
    assert_eq!(state(&fleet, silent), (AgentState::Ready, 1), "healed in the same step");
    for _ in 0..2 {
        pass(seconds(9));
        assert!(fleet.heartbeat(beating).unwrap());
    }
    assert_eq!(state(&fleet, silent), (AgentState::Degraded, 1));
    pass(seconds(9));
    assert!(fleet.heartbeat(beating).unwrap());
    hand.advance(seconds(3));
    assert!(!fleet.heartbeat(silent).unwrap(), "too late, though nobody had looked");
    assert_eq!(state(&fleet, silent), (AgentState::Failed, 2));
    let reason = witness.events().into_iter().find_map(|event| match event {
        FleetEvent::AgentFailed { agent, reason, .. } if agent == silent => Some(reason),
        _ => None,
    });
    assert_eq!(reason, Some(FailureReason::Silent(seconds(30))));
    assert!(!fleet.heartbeat(silent).unwrap(), "it is down");
    pass(DELAY);
    assert_eq!(state(&fleet, silent), (AgentState::Ready, 2));
    pass(seconds(9));
    assert_eq!(state(&fleet, silent), (AgentState::Ready, 2), "its silence begins anew");
    pass(seconds(1));
    assert_eq!(state(&fleet, silent), (AgentState::Degraded, 2));
    let stats = fleet.stats();
    assert_eq!((stats.agents_recovered, stats.agent_failures, stats.agent_restarts), (1, 1, 1));
    finish(&fleet);
}

#[test]
fn without_a_policy_a_silent_agent_stays_failed_until_the_host_wants_it_back() {
    let (fleet, hand, _witness) = fleet(0);
    let agent = fleet.spawn(spec("silent")).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    hand.advance(seconds(30));
    fleet.tick();
    assert_eq!(state(&fleet, agent), (AgentState::Failed, 1));
    assert!(lease.complete(phalanx::fleet::LeaseOutcome::Succeeded).is_ok(), "leases live on");
    assert!(!fleet.heartbeat(agent).unwrap());
    hand.advance(seconds(1_000));
    assert_eq!((fleet.tick(), fleet.stats().agent_failures), (0, 1));
    fleet.set_condition(agent, Condition::Fit).unwrap();
    assert_eq!(state(&fleet, agent), (AgentState::Ready, 1));
    hand.advance(seconds(10));
    fleet.tick();
    assert_eq!(state(&fleet, agent), (AgentState::Degraded, 1));
    let kind = |agent| fleet.heartbeat(agent).unwrap_err().kind();
    assert_eq!(kind(fleet.spawn(AgentSpec::new("free")).unwrap()), ErrorKind::Unsupported);
    fleet.kill(agent).unwrap();
    assert_eq!(kind(agent), ErrorKind::NotFound);
    hand.advance(seconds(1_000));
    fleet.tick();
    assert_eq!(fleet.stats().agent_failures, 1);
    finish(&fleet);
}

#[test]
fn an_agent_is_heard_of_by_what_it_ends_and_its_silence_is_noticed_by_workers() {
    let (fleet, hand, witness) = fleet(1);
    let handler = spec("worker").handler_fn(|task, _| Ok(*task.payload()));
    let agent = fleet.spawn(handler).unwrap();
    for round in 0..4 {
        hand.advance(seconds(9));
        fleet.tick();
        assert_eq!(fleet.stats().agents_degraded, 0, "it was heard of");
        if round % 2 == 0 {
            assert_eq!(*fleet.submit(Task::new(round)).unwrap().wait(), Outcome::Completed(round));
        } else {
            assert_eq!(fleet.ask(agent, round).unwrap().wait(), Outcome::Completed(round));
        }
        idle(&fleet, agent);
    }
    assert_eq!(fleet.stats().agents_degraded, 0);
    eventually("a worker keeps the watch", || hand.sleepers() == 1);
    hand.advance(seconds(10));
    witness.await_event(|event| *event == FleetEvent::AgentDegraded { agent, silent: seconds(10) });
    assert_eq!(fleet.ask(agent, 9).unwrap().wait(), Outcome::Completed(9), "the last to be taken");
    witness.await_event(|event| *event == FleetEvent::AgentRecovered { agent });
    finish(&fleet);
}

#[test]
fn however_many_fall_silent_at_once_each_is_started_again_in_the_same_step() {
    const MANY: usize = 20_000;
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<u64, u64>::builder()
        .clock(clock)
        .max_agents(MANY.try_into().unwrap())
        .build()
        .unwrap();
    let at_once = policy().backoff(Backoff::NONE);
    let agents = fleet.spawn_batch(&spec("silent").restart(at_once), MANY).unwrap();
    hand.advance(seconds(30));
    fleet.tick();
    let stats = fleet.stats();
    assert_eq!((stats.agent_failures, stats.agent_restarts), (MANY as u64, MANY as u64));
    assert_eq!(state(&fleet, agents[MANY - 1]), (AgentState::Ready, 2));
    finish(&fleet);
}
