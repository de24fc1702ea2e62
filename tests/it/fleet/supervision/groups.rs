//! Agents that are supervised together.

use super::*;
use phalanx::fleet::SupervisionGroup;
use phalanx::fleet::supervise::RestartStrategy;

fn reasons(witness: &Witness) -> Vec<(AgentId, FailureReason)> {
    let reason = |event: FleetEvent| match event {
        FleetEvent::AgentFailed { agent, reason, .. } => Some((agent, reason)),
        _ => None,
    };
    witness.events().into_iter().filter_map(reason).collect()
}

#[test]
fn one_for_all_takes_all_of_the_group_down_and_starts_them_together() {
    let (fleet, hand, witness) = fleet(0);
    let policy = policy().strategy(RestartStrategy::OneForAll).budget(1, LONG);
    let group = SupervisionGroup::new(policy);
    let spec = |name| AgentSpec::<u64, u64>::new(name).supervised_by(&group);
    let left = fleet.spawn(spec("left")).unwrap();
    let right = fleet.spawn(spec("right")).unwrap();
    let other = fleet.spawn(AgentSpec::new("other")).unwrap();
    assert!(fleet.report_failure(right, "first").unwrap());
    assert!(!fleet.report_failure(left, "it is down with it").unwrap());
    for agent in [left, right] {
        assert_eq!(state(&fleet, agent), (AgentState::Failed, 2));
    }
    assert_eq!(state(&fleet, other), (AgentState::Ready, 1));
    let reported = FailureReason::Reported("first".to_owned());
    let first = [(right, reported), (left, FailureReason::Together(right))];
    assert_eq!(reasons(&witness), first);
    // One that comes meanwhile is part of it if it fails as well.
    let late = fleet.spawn(spec("late")).unwrap();
    assert_eq!(state(&fleet, late), (AgentState::Ready, 1));
    assert!(fleet.report_failure(late, "second").unwrap());
    hand.advance(DELAY);
    fleet.tick();
    for agent in [left, right, late] {
        assert_eq!(state(&fleet, agent), (AgentState::Ready, 2));
    }
    assert_eq!(restarts(&witness).len(), 3);
    assert!(fleet.report_failure(left, "the budget is used up").unwrap());
    for agent in [left, right, late] {
        assert_eq!(fleet.agent(agent), None);
    }
    let stats = fleet.stats();
    assert_eq!((stats.agents_given_up, stats.agents_stopped), (3, 3));
    assert_eq!((stats.agents_live, stats.agent_failures), (1, 6));
    // The group has no members, so it begins anew.
    let anew = fleet.spawn(spec("anew")).unwrap();
    assert!(fleet.report_failure(anew, "once").unwrap());
    assert_eq!(state(&fleet, anew), (AgentState::Failed, 2));
    finish(&fleet);
}

#[test]
fn one_for_one_in_a_group_shares_the_budget_alone() {
    let (fleet, hand, witness) = fleet(0);
    let group = SupervisionGroup::new(policy().budget(2, Duration::from_secs(3600)));
    let spec = AgentSpec::<u64, u64>::new("member").supervised_by(&group);
    let agents = fleet.spawn_batch(&spec, 3).unwrap();
    assert!(fleet.report_failure(agents[0], "first").unwrap());
    assert_eq!(state(&fleet, agents[1]), (AgentState::Ready, 1));
    assert!(fleet.report_failure(agents[1], "second").unwrap());
    hand.advance(DELAY);
    fleet.tick();
    assert_eq!(restarts(&witness), [(agents[0], 2), (agents[1], 2)]);
    assert!(fleet.report_failure(agents[2], "third").unwrap());
    assert_eq!(fleet.agent(agents[2]), None);
    assert_eq!(state(&fleet, agents[0]), (AgentState::Ready, 2));
    finish(&fleet);
}

#[test]
fn members_that_run_as_another_fails_finish_and_are_renewed() {
    let (fleet, hand, witness) = fleet(2);
    let group = SupervisionGroup::new(policy().strategy(RestartStrategy::OneForAll));
    let (gate, made) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let spec = {
        let (gate, made) = (Arc::clone(&gate), Arc::clone(&made));
        AgentSpec::<u64, u64>::new("member").supervised_by(&group).handler(move || {
            let (gate, number) = (Arc::clone(&gate), made.fetch_add(1, Ordering::SeqCst) as u64);
            Closure(move |task: &Task<u64>| {
                if *task.payload() == 5 {
                    gate.pass();
                }
                assert_ne!(*task.payload(), PANIC, "as it was told");
                Ok(number)
            })
        })
    };
    let [slow, failing] = [0, 1].map(|_| fleet.spawn(spec.clone()).unwrap());
    let running = fleet.submit(Task::new(5).to(slow)).unwrap();
    gate.await_arrivals(1);
    assert!(matches!(fleet.ask(failing, PANIC).unwrap().wait(), Outcome::Failed(_)));
    await_failure(&witness, slow);
    hand.advance(DELAY);
    await_restart(&witness, slow);
    gate.open();
    assert_eq!(*running.wait(), Outcome::Completed(0), "it was not struck");
    assert_eq!(fleet.ask(slow, 9).unwrap().wait(), Outcome::Completed(2), "a new handler");
    assert_eq!(fleet.kill(slow).unwrap().tasks_struck, []);
    // One that is gone is no member any more.
    assert!(matches!(fleet.ask(failing, PANIC).unwrap().wait(), Outcome::Failed(_)));
    hand.advance(DELAY);
    eventually("it was started", || restarts(&witness).len() == 3);
    assert_eq!(fleet.ask(failing, 9).unwrap().wait(), Outcome::Completed(4));
    finish(&fleet);
}
