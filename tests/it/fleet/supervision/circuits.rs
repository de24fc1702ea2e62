//! A circuit breaker for the agents of a type: who is allocated while it is open, and who is tried.

use super::*;
use phalanx::fleet::supervise::{BreakerPolicy, BreakerState};
use phalanx::fleet::{BatchAllocation, Lease};
use std::num::NonZeroU16;
use std::pin::Pin;

/// Opens at three failures within 10 s, for 5 s; a trial keeps others out for 30 s.
pub(super) fn breaker() -> BreakerPolicy {
    BreakerPolicy::new(NonZeroU16::new(3).unwrap(), Duration::from_secs(10))
        .open_for(Backoff::constant(DELAY))
        .trial_timeout(Duration::from_secs(30))
}

fn guarded_fleet(workers: usize) -> (Fleet<u64, u64>, ManualClock, Arc<Witness>) {
    let (clock, hand) = ManualClock::new();
    let witness = Witness::new();
    let builder = Fleet::builder().workers(workers).clock(clock).observer(witness.clone());
    (builder.breaker("obedient", breaker()).build().unwrap(), hand, witness)
}

/// Has the circuit open by failures of this agent.
fn open(fleet: &Fleet<u64, u64>, agent: AgentId) {
    for failure in 1..=3 {
        assert!(fleet.agent(agent).unwrap().state != AgentState::Failed, "{failure}");
        assert!(matches!(fleet.ask(agent, ERROR).unwrap().wait(), Outcome::Failed(_)));
        idle(fleet, agent);
    }
    assert!(matches!(fleet.circuit("obedient"), Some(BreakerState::Open { .. })));
}

pub(super) fn tried(witness: &Witness) -> Vec<AgentId> {
    let tried = |event: FleetEvent| match event {
        FleetEvent::CircuitTried { agent, .. } => Some(agent),
        _ => None,
    };
    witness.events().into_iter().filter_map(tried).collect()
}

fn serving(fleet: &Fleet<u64, u64>, agents: &[AgentId]) -> Vec<AgentId> {
    let serves = |agent: &AgentId| fleet.agent(*agent).unwrap().state != AgentState::Failed;
    agents.iter().copied().filter(serves).collect()
}

#[test]
fn an_open_circuit_takes_its_type_out_of_service_and_one_good_trial_brings_it_back() {
    let (fleet, hand, witness) = guarded_fleet(3);
    let gate = Gate::new();
    let spec = {
        let gate = Arc::clone(&gate);
        let wide = AgentSpec::<u64, u64>::new("obedient").max_leases(4.try_into().unwrap());
        wide.capability("work").handler_fn(move |task, _| match *task.payload() {
            ERROR => Err(TaskError::permanent("as it was told")),
            payload => {
                gate.pass();
                Ok(payload)
            }
        })
    };
    let mut agents = fleet.spawn_batch(&spec, 2).unwrap();
    let other = fleet.spawn(AgentSpec::new("other")).unwrap();
    open(&fleet, agents[0]);
    // One that comes now is no better.
    agents.extend(fleet.spawn(spec));
    assert_eq!(serving(&fleet, &agents), []);
    assert_eq!(state(&fleet, other).0, AgentState::Ready);
    let request = Request::any().capability("work");
    assert_eq!(fleet.try_allocate(&request).unwrap_err(), AllocateError::NoneIdle);
    let tasks: Vec<_> =
        (10..14).map(|n| fleet.submit(Task::new(n).capability("work")).unwrap()).collect();
    hand.advance(DELAY);
    gate.await_arrivals(1);
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::HalfOpen));
    let stats = fleet.stats();
    assert_eq!((stats.leases_live, stats.tasks_queued, stats.circuit_trials), (1, 3, 1));
    assert_eq!(serving(&fleet, &agents), tried(&witness));
    assert_eq!(fleet.agent(agents[0]).unwrap().max_leases, 4, "that is what its spec says");
    assert_eq!(fleet.try_allocate(&request).unwrap_err(), AllocateError::NoneIdle, "one alone");
    gate.open();
    for (n, task) in (10..).zip(tasks) {
        assert_eq!(*task.wait(), Outcome::Completed(n));
    }
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::Closed));
    assert_eq!((serving(&fleet, &agents), fleet.circuit("other")), (agents, None));
    let stats = fleet.stats();
    assert_eq!((stats.circuits_opened, stats.circuits_closed, stats.circuit_trials), (1, 1, 1));
    finish(&fleet);
}

#[test]
fn a_trial_that_fails_opens_the_circuit_again_also_if_its_agent_fails_with_it() {
    let (fleet, hand, witness) = guarded_fleet(1);
    let made = Arc::default();
    let first = fleet.spawn(obedient(&made)).unwrap();
    open(&fleet, first);
    let supervised = fleet.spawn(obedient(&made).restart(policy())).unwrap();
    fleet.unroute(first).unwrap();
    let reply = fleet.ask(supervised, PANIC).unwrap();
    hand.advance(DELAY);
    assert!(matches!(reply.wait(), Outcome::Failed(_)));
    idle(&fleet, supervised);
    assert!(matches!(fleet.circuit("obedient"), Some(BreakerState::Open { .. })));
    assert_eq!((tried(&witness), failures(&witness)), (vec![supervised], vec![supervised]));
    // Both are over at the same time.
    hand.advance(DELAY);
    assert_eq!(fleet.ask(supervised, 9).unwrap().wait(), Outcome::Completed(2));
    eventually("it closes", || fleet.circuit("obedient") == Some(BreakerState::Closed));
    assert_eq!(fleet.stats().circuits_opened, 2);
    finish(&fleet);
}

#[test]
fn messages_wait_while_the_circuit_is_open_and_a_trial_is_one_of_them() {
    let (fleet, hand, witness) = guarded_fleet(1);
    let made = Arc::default();
    let agent = fleet.spawn(obedient(&made)).unwrap();
    let failing: Vec<_> = (0..5).map(|_| fleet.ask(agent, ERROR).unwrap()).collect();
    let good = fleet.ask(agent, 9).unwrap();
    let failed = |reply: phalanx::fleet::Reply<u64>| matches!(reply.wait(), Outcome::Failed(_));
    let mut failing = failing.into_iter();
    assert!(failing.by_ref().take(3).all(failed));
    idle(&fleet, agent);
    assert_eq!(fleet.mailbox_len(agent), Some(3), "none of the rest has begun");
    for left in [2, 1] {
        hand.advance(DELAY);
        assert!(failed(failing.next().unwrap()));
        idle(&fleet, agent);
        assert_eq!(fleet.mailbox_len(agent), Some(left));
    }
    hand.advance(DELAY);
    assert_eq!(good.wait(), Outcome::Completed(0));
    assert_eq!(tried(&witness), [agent; 3]);
    finish(&fleet);
}

#[test]
fn what_began_before_the_circuit_opened_says_nothing_about_it() {
    let (fleet, hand, witness) = guarded_fleet(3);
    let gates = [Gate::new(), Gate::new()];
    let spec = {
        let gates = gates.clone();
        let wide = AgentSpec::<u64, u64>::new("obedient").max_leases(3.try_into().unwrap());
        wide.handler_fn(move |task, _| {
            let payload = *task.payload();
            if let Some(gate) = payload.checked_sub(10).and_then(|n| gates.get(n as usize)) {
                gate.pass();
            }
            if payload == 11 { Ok(payload) } else { Err(TaskError::permanent("as it was told")) }
        })
    };
    let busy = fleet.spawn(spec.clone()).unwrap();
    let old = [10, 11].map(|payload| {
        let task = fleet.submit(Task::new(payload)).unwrap();
        gates[payload as usize - 10].await_arrivals(1);
        task
    });
    let failing = fleet.spawn(spec).unwrap();
    open(&fleet, failing);
    hand.advance(DELAY);
    fleet.tick();
    // The busy one has leases, of which nobody would know whether they are the trial.
    assert_eq!(tried(&witness), [failing]);
    let [bad, good] = old;
    gates[1].open();
    assert_eq!(*good.wait(), Outcome::Completed(11));
    gates[0].open();
    assert!(matches!(*bad.wait(), Outcome::Failed(_)));
    idle(&fleet, busy);
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::HalfOpen));
    assert_eq!(serving(&fleet, &[busy, failing]), [failing]);
    finish(&fleet);
}

#[test]
fn a_trial_whose_agent_goes_is_followed_by_another() {
    let (fleet, hand, witness) = guarded_fleet(1);
    let made = Arc::default();
    let agents = fleet.spawn_batch(&obedient(&made), 4).unwrap();
    open(&fleet, agents[0]);
    hand.advance(DELAY);
    fleet.tick();
    let next = |count: usize| {
        let tried = tried(&witness);
        assert_eq!(tried.len(), count);
        tried[count - 1]
    };
    fleet.kill(next(1)).unwrap();
    let second = next(2);
    fleet.unroute(second).unwrap();
    let third = next(3);
    fleet.set_condition(second, Condition::Fit).unwrap();
    assert_eq!(serving(&fleet, &[second]), []);
    // Nobody takes the third, so it is still the one.
    hand.advance(Duration::from_secs(31));
    fleet.tick();
    assert_eq!(next(4), third);
    assert_eq!(serving(&fleet, &[second, third]), [third]);
    fleet.retire(third).unwrap();
    let last = next(5);
    assert_eq!(fleet.ask(last, 9).unwrap().wait(), Outcome::Completed(1));
    eventually("it closes", || fleet.circuit("obedient") == Some(BreakerState::Closed));
    finish(&fleet);
}

#[test]
fn a_trial_that_is_not_heard_of_lets_another_one_in_beside_it() {
    let (fleet, hand, witness) = guarded_fleet(2);
    let gate = Gate::new();
    let spec = {
        let gate = Arc::clone(&gate);
        AgentSpec::<u64, u64>::new("obedient").handler_fn(move |task, _| match *task.payload() {
            ERROR => Err(TaskError::permanent("as it was told")),
            5 => {
                gate.pass();
                Ok(5)
            }
            payload => Ok(payload),
        })
    };
    let agents = fleet.spawn_batch(&spec, 2).unwrap();
    open(&fleet, agents[0]);
    let hangs = fleet.submit(Task::new(5)).unwrap();
    hand.advance(DELAY);
    gate.await_arrivals(1);
    let waits = fleet.submit(Task::new(6)).unwrap();
    hand.advance(Duration::from_secs(30));
    assert_eq!(*waits.wait(), Outcome::Completed(6));
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::Closed));
    let tried = tried(&witness);
    assert_eq!((tried.len(), tried[0] == tried[1]), (2, false));
    gate.open();
    assert_eq!(*hangs.wait(), Outcome::Completed(5));
    finish(&fleet);
}

#[test]
fn an_error_of_a_task_that_was_cancelled_says_nothing() {
    let (fleet, _hand, _witness) = guarded_fleet(1);
    let gate = Gate::new();
    let spec = {
        let gate = Arc::clone(&gate);
        AgentSpec::<u64, u64>::new("obedient").handler_fn(move |_, cx| {
            gate.pass();
            assert!(cx.is_cancelled());
            Err(TaskError::permanent("it was cancelled"))
        })
    };
    let agent = fleet.spawn(spec.restart(policy().on_errors(true))).unwrap();
    for round in 1..=4 {
        let task = fleet.submit(Task::new(round)).unwrap();
        gate.await_arrivals(round as usize);
        assert!(task.cancel());
        gate.permit();
        assert_eq!(*task.wait(), Outcome::Cancelled);
    }
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::Closed));
    idle(&fleet, agent);
    assert_eq!(state(&fleet, agent), (AgentState::Ready, 1));
    finish(&fleet);
}

#[test]
fn failures_of_what_began_before_the_circuit_opened_do_not_open_it_again() {
    let (fleet, hand, _witness) = guarded_fleet(4);
    let gate = Gate::new();
    let spec = {
        let gate = Arc::clone(&gate);
        let wide = AgentSpec::<u64, u64>::new("obedient").max_leases(3.try_into().unwrap());
        wide.handler_fn(move |task, _| {
            if *task.payload() == 10 {
                gate.pass();
            }
            if *task.payload() == 9 { Ok(9) } else { Err(TaskError::permanent("as it was told")) }
        })
    };
    let busy = fleet.spawn(spec.clone()).unwrap();
    let old: Vec<_> = (0..3).map(|_| fleet.submit(Task::new(10)).unwrap()).collect();
    gate.await_arrivals(3);
    let failing = fleet.spawn(spec).unwrap();
    open(&fleet, failing);
    hand.advance(DELAY);
    assert_eq!(fleet.ask(failing, 9).unwrap().wait(), Outcome::Completed(9));
    eventually("it closes", || fleet.circuit("obedient") == Some(BreakerState::Closed));
    gate.open();
    for task in old {
        assert!(matches!(*task.wait(), Outcome::Failed(_)));
    }
    idle(&fleet, busy);
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::Closed));
    assert_eq!(fleet.stats().circuits_opened, 1);
    finish(&fleet);
}

/// A fleet that runs when it is driven, with an agent of four places whose circuit is open.
fn opened_fleet(leased: bool) -> (Fleet<u64, u64>, ManualClock, AgentId, Option<Lease>) {
    let (clock, hand) = ManualClock::new();
    let builder = Fleet::builder().driven().clock(clock);
    let fleet = builder.breaker("obedient", breaker()).build().unwrap();
    let wide = AgentSpec::<u64, u64>::new("obedient").max_leases(4.try_into().unwrap());
    let spec = wide.handler_fn(|task, _| match *task.payload() {
        ERROR => Err(TaskError::permanent("as it was told")),
        payload => Ok(payload),
    });
    let agent = fleet.spawn(spec).unwrap();
    let request = Request::any().ttl(Duration::from_secs(20));
    let lease = leased.then(|| fleet.try_allocate(&request).unwrap());
    for _ in 1..=3 {
        fleet.tell(agent, ERROR).unwrap();
    }
    fleet.run_ready(usize::MAX);
    assert!(matches!(fleet.circuit("obedient"), Some(BreakerState::Open { .. })));
    (fleet, hand, agent, lease)
}

/// The same, half-open, while the host holds a lease of the agent.
fn held_at_half_open() -> (Fleet<u64, u64>, ManualClock, AgentId, Lease) {
    let (fleet, hand, agent, lease) = opened_fleet(true);
    hand.advance(DELAY);
    fleet.tick();
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::HalfOpen));
    assert_eq!(fleet.stats().circuit_trials, 0, "nobody would know which lease is the trial");
    (fleet, hand, agent, lease.unwrap())
}

#[test]
fn an_agent_whose_last_lease_the_host_gives_back_is_tried_at_once() {
    let (fleet, _hand, agent, lease) = held_at_half_open();
    drop(lease);
    assert_eq!(fleet.stats().circuit_trials, 1);
    fleet.tell(agent, 9).unwrap();
    fleet.run_ready(usize::MAX);
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::Closed));
    finish(&fleet);
}

#[test]
fn an_agent_that_an_expired_lease_kept_busy_is_tried_by_the_tick_that_finds_it() {
    let (fleet, hand, _agent, lease) = held_at_half_open();
    hand.advance(Duration::from_secs(30));
    assert_eq!((fleet.tick(), fleet.stats().circuit_trials), (1, 1));
    assert!(lease.is_revoked());
    finish(&fleet);
}

#[test]
fn an_agent_that_comes_while_all_of_its_type_are_busy_is_tried_at_once() {
    let (fleet, _hand, agent, _lease) = held_at_half_open();
    let newcomer = fleet.spawn(obedient(&Arc::default())).unwrap();
    assert_eq!(serving(&fleet, &[agent, newcomer]), [newcomer]);
    finish(&fleet);
}

#[test]
fn a_batch_that_gathers_does_not_keep_the_one_place_of_an_agent_on_trial() {
    for named in [false, true] {
        let (fleet, hand, agent, _) = opened_fleet(false);
        let request = if named { Request::any().agent(agent) } else { Request::any() };
        let poll = |batch: &mut BatchAllocation| {
            Pin::new(batch).poll(&mut Context::from_waker(Waker::noop()))
        };
        let mut before = fleet.allocate_batch_async(&request, 2);
        assert!(poll(&mut before).is_pending());
        hand.advance(DELAY);
        fleet.tick();
        assert_eq!((fleet.stats().circuit_trials, fleet.stats().leases_live), (1, 0));
        let mut later = fleet.allocate_batch_async(&request, 2);
        assert!(poll(&mut later).is_pending());
        assert_eq!(fleet.stats().leases_live, 0);
        fleet.tell(agent, 9).unwrap();
        fleet.run_ready(usize::MAX);
        assert_eq!(fleet.circuit("obedient"), Some(BreakerState::Closed));
        for mut batch in [before, later] {
            let Poll::Ready(Ok(leases)) = poll(&mut batch) else { panic!("it waits") };
            assert_eq!(leases.len(), 2);
        }
        finish(&fleet);
    }
}
