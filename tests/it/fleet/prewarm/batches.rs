//! Many handlers that are made ahead one after the other: each as if it were alone.

use super::*;

#[test]
fn each_of_a_batch_serves_before_the_next_is_begun() {
    let gate = Gate::new();
    let workshop = Workshop::new([Order::Make, Order::Pass(Arc::clone(&gate))]);
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    let agents = fleet.spawn_batch(&spec(&workshop), 3).unwrap();
    gate.await_arrivals(1);
    let states = agents.iter().map(|agent| state(&fleet, *agent)).collect::<Vec<_>>();
    assert_eq!(states, [AgentState::Ready, AgentState::Starting, AgentState::Starting]);
    assert_eq!((workshop.calls(), fleet.stats().agents_prewarmed), (2, 1));
    gate.open();
    eventually("all are made", || fleet.stats().agents_prewarmed == 3);
    finish(&fleet);
}

#[test]
fn a_worker_that_has_made_some_leaves_the_next_to_others() {
    let gate = Gate::new();
    let slow = std::iter::repeat_with(|| Order::Pass(Arc::clone(&gate))).take(2);
    let workshop = Workshop::new(std::iter::repeat_with(|| Order::Make).take(50).chain(slow));
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    fleet.spawn_batch(&spec(&workshop), 100).unwrap();
    // Whoever had both in hand would make them one after the other.
    gate.await_arrivals(2);
    assert_eq!(workshop.calls(), 52);
    gate.open();
    eventually("all are made", || fleet.stats().agents_prewarmed == 100);
    finish(&fleet);
}

#[test]
fn those_of_a_batch_that_end_while_another_is_made_cost_nothing() {
    let gate = Gate::new();
    let workshop = Workshop::new([Order::Pass(Arc::clone(&gate))]);
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    let agents = fleet.spawn_batch(&spec(&workshop), 6).unwrap();
    gate.await_arrivals(1);
    drop(fleet.kill(agents[1]).unwrap());
    fleet.retire(agents[2]).unwrap();
    assert!(fleet.drain_agent(agents[3], LONG).unwrap().ended);
    fleet.set_condition(agents[4], Condition::Failed).unwrap();
    gate.open();
    eventually("the others are made", || fleet.stats().agents_prewarmed == 2);
    assert_eq!([agents[0], agents[5]].map(|agent| state(&fleet, agent)), [AgentState::Ready; 2]);
    assert_eq!((state(&fleet, agents[4]), workshop.calls()), (AgentState::Failed, 2));
    finish(&fleet);
    assert_eq!(workshop.live(), 0);
}

#[test]
fn a_shutdown_while_one_of_a_batch_is_made_begins_no_other() {
    let gate = Gate::new();
    let workshop = Workshop::new([Order::Pass(Arc::clone(&gate))]);
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    fleet.spawn_batch(&spec(&workshop), 10).unwrap();
    gate.await_arrivals(1);
    assert_eq!(fleet.shutdown(Duration::ZERO).unwrap().workers_left, 1);
    gate.open();
    finish(&fleet);
    assert_eq!((workshop.calls(), workshop.live()), (1, 0));
}

#[test]
fn a_factory_that_panics_in_a_batch_fails_its_own_agent_alone() {
    let workshop = Workshop::new([Order::Make, Order::Panic, Order::Make, Order::Panic]);
    let fleet = driven().build().unwrap();
    let agents = fleet.spawn_batch(&spec(&workshop), 6).unwrap();
    assert_eq!(fleet.run_ready(usize::MAX), 6);
    let failed = |agent: &AgentId| state(&fleet, *agent) == AgentState::Failed;
    assert_eq!(
        agents.iter().map(failed).collect::<Vec<_>>(),
        [false, true, false, true, false, false]
    );
    let stats = fleet.stats();
    assert_eq!((stats.agents_prewarmed, stats.prewarms_failed), (4, 2));
    finish(&fleet);
    assert_eq!(workshop.live(), 0);
}

#[test]
fn what_stands_in_line_between_two_batches_has_its_turn_between_them() {
    let workshop = Workshop::new([]);
    let fleet = driven().build().unwrap();
    let (seen, counts) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&workshop));
    let log = Arc::clone(&seen);
    let other = AgentSpec::new("other").handler_fn(move |task: &Task<u64>, _| {
        log.lock().unwrap().push(counts.calls());
        Ok(*task.payload())
    });
    let other = fleet.spawn(other).unwrap();
    fleet.spawn_batch(&spec(&workshop), 10).unwrap();
    fleet.tell(other, 1).unwrap();
    fleet.spawn_batch(&spec(&workshop), 10).unwrap();
    assert_eq!((fleet.run_ready(3), workshop.calls()), (3, 3), "as many as were wanted");
    assert_eq!(fleet.run_ready(usize::MAX), 18);
    assert_eq!((seen.lock().unwrap().clone(), workshop.calls()), (vec![10], 20));
    finish(&fleet);
}
