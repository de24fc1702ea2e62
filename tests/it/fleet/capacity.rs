//! What scaling takes for capacity, and what for demand: who failed, drains or is held back is none, and what waits
//! for a budget is none.

use std::future::Future;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::support::{Gate, eager, eventually, finish};
use phalanx::fleet::scale::{Autoscaler, Refusal, Step, UpReason, WarmPool, WarmPools};
use phalanx::fleet::supervise::{BreakerPolicy, BreakerState, Restart, RestartPolicy};
use phalanx::fleet::{
    Agent, AgentSpec, Allocation, Backoff, Budgets, Condition, Fleet, GroupKey, LeaseOutcome,
    Limit, Meter, Outcome, Quota, Request, Scope, Task, TaskContext, TaskError,
};
use phalanx::{Clock, ErrorKind, ManualClock, Timestamp};

const SECOND: Duration = Duration::from_secs(1);

fn spec() -> AgentSpec<(), ()> {
    AgentSpec::new("one")
}

/// Has so many requests wait.
fn wait<T, O>(fleet: &Fleet<T, O>, request: &Request, count: usize) -> Vec<Pin<Box<Allocation>>>
where
    T: Send + Sync + 'static,
    O: Send + Sync + 'static,
{
    let mut waiting: Vec<_> = (0..count).map(|_| Box::pin(fleet.allocate_async(request))).collect();
    for one in &mut waiting {
        assert!(one.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    waiting
}

#[test]
fn agents_that_failed_are_no_capacity_and_have_their_places() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let agents = fleet.spawn_batch(&spec(), 10).unwrap();
    let lost = fleet.try_allocate(&Request::any().agent(agents[0])).unwrap();
    for agent in &agents[..9] {
        fleet.set_condition(*agent, Condition::Failed).unwrap();
    }
    let seen = fleet.observe(&spec());
    assert_eq!((seen.serving, seen.failed, seen.draining), (1, 9, 0));
    assert_eq!((seen.leases, seen.idle.as_slice()), (0, &agents[9..]), "of the one that serves");

    let _held = fleet.try_allocate(&Request::any()).unwrap();
    let waiting = wait(&fleet, &Request::any(), 2);
    let policy = eager().max(12).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec(), policy);
    let scaled = scaler.step().unwrap();
    assert_eq!(scaled.plan.step, Step::Spawn { agents: 2, reason: UpReason::Backlog });
    assert_eq!((scaled.plan.current, scaled.plan.wanted), (1, 5));
    assert_eq!(scaled.plan.refusals, [Refusal::AtMax, Refusal::Failed { agents: 9 }]);
    assert_eq!(fleet.stats().agents_live, 12, "the failed ones have their places");
    assert_eq!(scaler.step().unwrap().plan.step, Step::Hold);
    // Once they are back there are too many.
    for agent in &agents[..9] {
        fleet.set_condition(*agent, Condition::Fit).unwrap();
    }
    drop(waiting);
    drop(lost);
    assert_eq!(scaler.step().unwrap().retired.len(), 10, "one lease takes two agents");
}

#[test]
fn agents_that_drain_are_no_capacity() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let agents = fleet.spawn_batch(&spec(), 4).unwrap();
    let held = fleet.try_allocate(&Request::any().agent(agents[0])).unwrap();
    for agent in &agents[..3] {
        fleet.unroute(*agent).unwrap();
    }
    let seen = fleet.observe(&spec());
    assert_eq!((seen.serving, seen.draining, seen.failed), (1, 3, 0));
    assert_eq!((seen.leases, seen.idle.as_slice()), (0, &agents[3..]));
    let policy = eager().min(3).max(6).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec(), policy);
    let scaled = scaler.step().unwrap();
    assert_eq!(scaled.plan.step, Step::Spawn { agents: 2, reason: UpReason::BelowMin });
    held.complete(LeaseOutcome::Succeeded).expect("nobody takes it away");
}

#[test]
fn a_type_whose_circuit_is_open_is_not_scaled_up() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<(), ()>::builder().clock(clock).breaker("one", breaker()).build().unwrap();
    fleet.spawn_batch(&spec(), 3).unwrap();
    let policy = eager().max(50).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec(), policy);
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    assert!(!fleet.observe(&spec()).circuit_open);
    lease.complete(LeaseOutcome::Failed).unwrap();
    let seen = fleet.observe(&spec());
    assert!(seen.circuit_open);
    assert_eq!((seen.serving, seen.failed, seen.held_back, seen.idle.len()), (0, 0, 3, 0));

    let mut waiting = wait(&fleet, &Request::any(), 8);
    let scaled = scaler.step().unwrap();
    assert_eq!((scaled.plan.step, scaled.plan.refusals), (Step::Hold, vec![Refusal::CircuitOpen]));
    // Without any there is nobody to try: one comes once it can be tried, and no more.
    for status in fleet.agents() {
        fleet.kill(status.id).unwrap();
    }
    let plan = scaler.step().unwrap().plan;
    let until = Timestamp::ZERO + SECOND;
    assert_eq!((plan.step, plan.refusals), (Step::Hold, vec![Refusal::NextTrial { until }]));
    hand.advance(SECOND);
    assert_eq!(scaler.step().unwrap().spawned.len(), 1);
    assert_eq!(scaler.step().unwrap().plan.step, Step::Hold);
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(tried)) = waiting.remove(0).as_mut().poll(&mut context) else {
        panic!("it is tried on who waits")
    };
    assert_eq!(fleet.circuit("one"), Some(BreakerState::HalfOpen));
    assert_eq!(scaler.step().unwrap().plan.step, Step::Hold);
    tried.complete(LeaseOutcome::Succeeded).unwrap();
    assert_eq!(fleet.circuit("one"), Some(BreakerState::Closed));
    assert_eq!(scaler.step().unwrap().spawned.len(), 9, "one lease and six that wait take ten");
}

/// One failure opens it for a second.
fn breaker() -> BreakerPolicy {
    BreakerPolicy::new(NonZeroU16::MIN, SECOND * 60).open_for(Backoff::constant(SECOND))
}

struct Doubling;

impl Agent<u32, u32> for Doubling {
    fn handle(&mut self, task: &Task<u32>, _: &mut TaskContext<'_>) -> Result<u32, TaskError> {
        Ok(task.payload() * 2)
    }
}

/// Makes no handler while it is told so.
fn prewarmed(down: &Arc<AtomicBool>) -> AgentSpec<u32, u32> {
    let down = Arc::clone(down);
    let factory = move || {
        assert!(!down.load(Ordering::Relaxed), "the model server is down");
        Doubling
    };
    AgentSpec::new("one").handler(factory).prewarmed()
}

/// A fleet that the test drives, with a breaker for the type.
fn driven(clock: Clock, breaker: BreakerPolicy) -> Fleet<u32, u32> {
    let fleet = Fleet::builder().driven().clock(clock).breaker("one", breaker);
    fleet.build().expect("the values are valid")
}

fn run_all(fleet: &Fleet<u32, u32>) {
    while fleet.run_ready(usize::MAX) > 0 {}
}

#[test]
fn a_type_all_of_whose_agents_failed_gets_one_on_whom_its_circuit_is_tried() {
    for min in [0, 2] {
        let (clock, hand) = ManualClock::new();
        let down = Arc::new(AtomicBool::new(true));
        let spec = prewarmed(&down);
        let fleet = driven(clock, breaker());
        let run = || run_all(&fleet);
        let policy = eager().min(min).max(9).build().unwrap();
        let mut scaler = Autoscaler::new(&fleet, spec.clone(), policy);
        let handle = fleet.submit(Task::new(1)).unwrap();
        assert!(!scaler.step().unwrap().spawned.is_empty());
        run();
        let failed = fleet.stats().agents_live as u32;
        let seen = fleet.observe(&spec);
        assert!(seen.circuit_open);
        assert_eq!((seen.current(), seen.failed, seen.held_back), (0, failed, 0), "for good");

        down.store(false, Ordering::Relaxed);
        hand.advance(SECOND);
        fleet.tick();
        let scaled = scaler.step().unwrap();
        assert_eq!(scaled.spawned.len(), 1, "of the failed ones none can be tried: {scaled:?}");
        run();
        assert_eq!(*handle.wait(), Outcome::Completed(2));
        assert_eq!(fleet.circuit("one"), Some(BreakerState::Closed));
        finish(&fleet);
    }
}

#[test]
fn where_no_work_waits_one_is_tried_only_for_a_min() {
    let down = Arc::new(AtomicBool::new(true));
    let spec = prewarmed(&down);
    for (min, more) in [(0, 0), (1, 1)] {
        let (clock, hand) = ManualClock::new();
        let fleet = driven(clock, breaker());
        let failed = fleet.spawn_batch(&spec, 2).unwrap();
        run_all(&fleet);
        let policy = eager().min(min).max(2).build().unwrap();
        let mut scaler = Autoscaler::new(&fleet, spec.clone(), policy);
        // Each that fails too is followed by another in its place, and none comes before it can be tried.
        for _ in 0..3 {
            let Some(BreakerState::Open { until }) = fleet.circuit("one") else {
                panic!("what fails has it open")
            };
            let plan = scaler.step().unwrap().plan;
            let later = if more > 0 { vec![Refusal::NextTrial { until }] } else { vec![] };
            assert_eq!((plan.step, plan.refusals), (Step::Hold, later));
            assert_eq!(scaler.next_check(), (more > 0).then_some(until));
            hand.advance(SECOND);
            fleet.tick();
            let scaled = scaler.step().unwrap();
            assert_eq!((scaled.spawned.len(), scaled.replaced.len()), (more, more));
            // While it is to be made ready and may be tried, no other comes.
            assert_eq!(scaler.step().unwrap().spawned.len(), 0);
            run_all(&fleet);
            if more == 0 {
                break;
            }
        }
        assert_eq!(fleet.stats().agents_live, 2);
        assert_eq!(scaler.stats().replaced, 3 * more as u64);
        assert_eq!(failed.iter().all(|agent| fleet.agent(*agent).is_some()), more == 0);
        finish(&fleet);
    }
}

#[test]
fn a_type_outlives_an_outage_however_long_and_is_scaled_up_again() {
    // With a min of four all that there may be have failed before the circuit is tried for the first time.
    for min in [0, 1, 4] {
        let (clock, hand) = ManualClock::new();
        let down = Arc::new(AtomicBool::new(true));
        let spec = prewarmed(&down);
        let breaker = breaker().open_for(Backoff::constant(SECOND * 60));
        let fleet = driven(clock, breaker);
        let run = || run_all(&fleet);
        let policy = eager().min(min).max(4).build().unwrap();
        let mut scaler = Autoscaler::new(&fleet, spec.clone(), policy);
        let handle = fleet.submit(Task::new(1)).unwrap();
        assert!(!scaler.step().unwrap().spawned.is_empty());
        run();
        let (mut trials, calls) = (0, fleet.stats().prewarms_failed);
        for second in 1..600 {
            hand.advance(SECOND);
            let spawned = scaler.step().unwrap().spawned.len() as u64;
            run();
            assert_eq!(spawned, u64::from(second % 60 == 0), "{min}: {second} s");
            trials += spawned;
            let stats = fleet.stats();
            assert_eq!(stats.circuits_opened, 1 + trials, "what fails is the trial");
            assert_eq!(stats.prewarms_failed, calls + trials);
            assert!(stats.agents_live <= 4);
        }
        assert_eq!(trials, 9);

        down.store(false, Ordering::Relaxed);
        hand.advance(SECOND);
        assert_eq!(scaler.step().unwrap().spawned.len(), 1);
        run();
        assert_eq!(*handle.wait(), Outcome::Completed(2));
        assert_eq!(fleet.circuit("one"), Some(BreakerState::Closed));
        // Those that could not be made keep no place from others.
        let handles: Vec<_> = (0..20).map(|task| fleet.submit(Task::new(task)).unwrap()).collect();
        assert_eq!(scaler.step().unwrap().spawned.len(), 3);
        assert_eq!(fleet.stats().agents_live, 4);
        run();
        assert!(handles.iter().all(|handle| handle.wait().completed().is_some()));
        assert_eq!(fleet.observe(&spec).serving, 4);
        finish(&fleet);
    }
}

#[test]
fn without_a_breaker_those_that_could_not_be_made_are_made_up_for_after_the_cooldown() {
    let (clock, hand) = ManualClock::new();
    let down = Arc::new(AtomicBool::new(true));
    let spec = prewarmed(&down);
    let fleet = Fleet::<u32, u32>::builder().driven().clock(clock).build().unwrap();
    let run = || while fleet.run_ready(usize::MAX) > 0 {};
    let policy = eager().min(2).max(10).up_cooldown(SECOND).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec.clone(), policy);
    for round in 0..20 {
        let scaled = scaler.step().unwrap();
        run();
        assert_eq!(scaled.spawned.len(), if round % 2 == 0 { 2 } else { 0 }, "{round}");
        let seen = fleet.observe(&spec);
        assert_eq!((seen.failed, seen.unmade.len(), seen.current()), (2, 2, 0));
        hand.advance(SECOND / 2);
    }
    down.store(false, Ordering::Relaxed);
    assert_eq!(scaler.step().unwrap().spawned.len(), 2);
    run();
    assert_eq!(fleet.observe(&spec).serving, 2);
    assert_eq!(fleet.stats().agents_live, 2);
    finish(&fleet);
}

#[test]
fn one_that_could_not_be_made_keeps_its_place_while_something_is_asked_of_it() {
    let down = Arc::new(AtomicBool::new(true));
    let spec = prewarmed(&down);
    let fleet = Fleet::<u32, u32>::builder().driven().build().unwrap();
    let run = || while fleet.run_ready(usize::MAX) > 0 {};
    let agents = fleet.spawn_batch(&spec, 7).unwrap();
    run();
    let unmade = |fleet: &Fleet<u32, u32>| {
        let mut unmade = fleet.observe(&spec).unmade;
        unmade.sort_unstable();
        unmade
    };
    assert_eq!(unmade(&fleet), agents);
    let asked = fleet.ask(agents[0], 1).unwrap();
    // One waits for another task, one is asked for by its name, and one by a batch.
    let first = fleet.submit(Task::new(2).to(agents[0])).unwrap();
    let held = fleet.submit(Task::new(3).to(agents[4]).after(&first)).unwrap();
    let mut named = wait(&fleet, &Request::any().agent(agents[5]), 1);
    let by_name = Request::any().agent(agents[6]);
    let mut batch = Box::pin(fleet.allocate_batch_async(&by_name, 1));
    assert!(batch.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // What the host wants failed is to stay so, and what it wants fit is made again.
    fleet.set_condition(agents[1], Condition::Failed).unwrap();
    fleet.set_condition(agents[2], Condition::Fit).unwrap();
    assert_eq!(unmade(&fleet), agents[3..4]);
    run();
    assert_eq!(unmade(&fleet), agents[2..4], "it failed again");
    let policy = eager().min(7).max(7).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec.clone(), policy);
    let scaled = scaler.step().unwrap();
    assert_eq!((scaled.spawned.len(), scaled.replaced.len()), (2, 2));
    assert_eq!(scaled.plan.refusals, []);
    for (agent, lives) in agents.iter().zip([true, true, false, false, true, true, true]) {
        assert_eq!(fleet.agent(*agent).is_some(), lives);
    }
    for agent in &agents[4..] {
        let in_use = fleet.retire(*agent).unwrap_err().kind();
        assert_eq!(in_use, ErrorKind::InUse, "nor is it retired");
    }
    down.store(false, Ordering::Relaxed);
    for agent in [0, 4, 5, 6].map(|at| agents[at]) {
        fleet.set_condition(agent, Condition::Fit).unwrap();
    }
    run();
    assert_eq!(asked.wait().completed(), Some(&2));
    assert_eq!((first.wait().completed(), held.wait().completed()), (Some(&4), Some(&6)));
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(lease)) = named[0].as_mut().poll(&mut context) else {
        panic!("it is made, and who names it waits")
    };
    let Poll::Ready(Ok(leases)) = batch.as_mut().poll(&mut context) else {
        panic!("it is made, and a batch that names it waits")
    };
    drop((lease, leases));
    finish(&fleet);
}

#[test]
fn one_that_is_asked_before_it_is_replaced_stays_beside_those_that_are_added_if_there_is_room() {
    // In the place of the one that stays another would come.
    for (max, spawned) in [(9, 2), (2, 1)] {
        let down = Arc::new(AtomicBool::new(true));
        let spec = prewarmed(&down);
        let fleet = Fleet::<u32, u32>::builder().driven().build().unwrap();
        let agents = fleet.spawn_batch(&spec, 2).unwrap();
        while fleet.run_ready(usize::MAX) > 0 {}
        let policy = eager().min(2).max(max).build().unwrap();
        let mut scaler = Autoscaler::new(&fleet, spec, policy);
        let mut asked = None;
        let scaled = scaler.step_with(|seen| {
            assert_eq!(seen.unmade.len(), 2);
            asked = Some(fleet.ask(agents[0], 1).unwrap());
            seen
        });
        let scaled = scaled.unwrap();
        assert_eq!((scaled.plan.replaced.len(), scaled.replaced), (2, vec![agents[1]]));
        assert_eq!(scaled.spawned.len(), spawned, "at most {max}");
        assert!(fleet.agent(agents[0]).is_some());
        finish(&fleet);
        assert!(asked.is_some());
    }
}

#[test]
fn one_that_could_not_be_made_stays_while_none_but_it_could_do_what_waits() {
    let down = Arc::new(AtomicBool::new(true));
    let spec = prewarmed(&down);
    let gpu = spec.clone().capability("gpu");
    let slow = AgentSpec::new("slow").capability("slow").handler(|| Doubling);
    let mut context = Context::from_waker(Waker::noop());
    let other = AgentSpec::new("other").capability("gpu").handler(|| Doubling);
    // A task that is queued, one that waits for another, a request, a batch, a batch that another agent has a part in, and
    // a request that the other one could serve alone.
    for (asks, promised) in (0..6).flat_map(|asks| [(asks, false), (asks, true)]) {
        down.store(true, Ordering::Relaxed);
        let fleet = Fleet::<u32, u32>::builder().driven().build().unwrap();
        let run = || while fleet.run_ready(usize::MAX) > 0 {};
        let agent = fleet.spawn(gpu.clone()).unwrap();
        run();
        let _slow = fleet.expect(&slow).unwrap();
        let _promise = promised.then(|| fleet.expect(&gpu).unwrap());
        let task = || Task::new(2).capability("gpu");
        let first = fleet.submit(Task::new(1).capability("slow")).unwrap();
        let request = Request::any().capability("gpu");
        let tasks = match asks {
            0 => vec![fleet.submit(task()).unwrap()],
            1 => vec![fleet.submit(task().after(&first)).unwrap()],
            _ => vec![],
        };
        let leased = (asks > 3).then(|| fleet.spawn(other.clone()).unwrap());
        let leased = leased.map(|other| fleet.try_allocate(&Request::any().agent(other)).unwrap());
        let mut waiting = wait(&fleet, &request, usize::from(asks == 2 || asks == 5));
        let mut batch = (3..5)
            .contains(&asks)
            .then(|| Box::pin(fleet.allocate_batch_async(&request, asks - 2)));
        assert!(batch.as_mut().is_none_or(|batch| batch.as_mut().poll(&mut context).is_pending()));
        if (3..5).contains(&asks) {
            assert!(fleet.retire(agent).is_err(), "the batch waits for it, whoever is expected");
        }
        let mut scaler =
            Autoscaler::new(&fleet, spec.clone(), eager().min(1).max(9).build().unwrap());
        let scaled = scaler.step().unwrap();
        assert_eq!(scaled.plan.replaced, [agent]);
        assert_eq!(
            (scaled.spawned.len(), scaled.replaced.len()),
            (1, usize::from(promised || asks == 5)),
            "{asks}"
        );
        if !promised && asks < 5 {
            down.store(false, Ordering::Relaxed);
            fleet.spawn(slow.clone()).unwrap();
            fleet.set_condition(agent, Condition::Fit).unwrap();
            drop(leased);
            run();
            assert!(tasks.iter().all(|task| task.try_outcome().is_some()), "{asks}");
            for request in &mut waiting {
                assert!(matches!(request.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
            }
            if let Some(batch) = &mut batch {
                assert!(matches!(batch.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
            }
        }
        drop((waiting, batch));
        finish(&fleet);
    }
}

#[test]
fn agents_that_are_started_again_are_there_for_their_circuit() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<(), ()>::builder().clock(clock).breaker("one", breaker()).build().unwrap();
    let restarts = RestartPolicy::new(Restart::OnFailure).backoff(Backoff::constant(SECOND * 5));
    let spec = spec().restart(restarts);
    let agent = fleet.spawn(spec.clone()).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    lease.complete(LeaseOutcome::Failed).unwrap();
    assert!(fleet.report_failure(agent, "it hangs").unwrap());
    let seen = fleet.observe(&spec);
    assert_eq!((seen.failed, seen.held_back), (0, 1), "it comes back by itself");
    let _waiting = wait(&fleet, &Request::any(), 3);
    let mut scaler = Autoscaler::new(&fleet, spec.clone(), eager().max(9).build().unwrap());
    let plan = scaler.step().unwrap().plan;
    assert_eq!((plan.step, plan.refusals), (Step::Hold, vec![Refusal::CircuitOpen]));
    fleet.set_condition(agent, Condition::Failed).unwrap();
    let seen = fleet.observe(&spec);
    assert_eq!((seen.failed, seen.held_back), (1, 0), "the host wants it otherwise");
    assert_eq!(scaler.step().unwrap().plan.step, Step::Hold, "nobody can be tried yet");
    hand.advance(SECOND);
    let scaled = scaler.step().unwrap();
    assert_eq!((scaled.spawned.len(), scaled.replaced.len()), (1, 0), "it keeps its place");
}

#[test]
fn work_that_waits_for_a_budget_calls_for_no_agents() {
    let budgets = Budgets::new(8.try_into().unwrap());
    let leases = |most| Quota::new().limit(Meter::Leases, Limit::hard(most));
    let (team, other) = (GroupKey::new(1), GroupKey::new(2));
    budgets.set(Scope::Group(team), leases(1)).unwrap();
    let fleet = Fleet::<(), ()>::builder().budgets(budgets.clone()).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec(), eager().min(2).max(50).build().unwrap());
    scaler.step().unwrap();
    let own = Request::any().group(team);
    let _held = fleet.try_allocate(&own).unwrap();
    let _waiting = wait(&fleet, &own, 5);
    assert_eq!(fleet.stats().requests_waiting, 5);
    assert_eq!(fleet.observe(&spec()).queued, 0, "one agent is idle, and nobody may have it");
    assert_eq!(scaler.step().unwrap().plan.step, Step::Hold);

    // Those of another group wait for agents, and of the first as many as there is room for then.
    let _also = fleet.try_allocate(&Request::any().group(other)).unwrap();
    let _others = wait(&fleet, &Request::any().group(other), 4);
    assert_eq!(fleet.observe(&spec()).queued, 4);
    budgets.set(Scope::Group(team), leases(3)).unwrap();
    assert_eq!(fleet.observe(&spec()).queued, 6);
    let elsewhere = budgets.set(Scope::Type("two".into()), leases(0)).unwrap();
    assert_eq!(fleet.observe(&spec()).queued, 6, "{elsewhere:?} is none of it");
    budgets.set(Scope::Type("one".into()), leases(3)).unwrap();
    assert_eq!(fleet.observe(&spec()).queued, 3, "a type's new account knows of no lease");
    budgets.set(Scope::Fleet, leases(1)).unwrap();
    assert_eq!(fleet.observe(&spec()).queued, 1);
}

#[test]
fn tasks_that_wait_for_the_budget_of_their_group_call_for_no_agents() {
    let gate = Gate::new();
    let budgets = Budgets::new(2.try_into().unwrap());
    let team = GroupKey::new(1);
    let one = Quota::new().limit(Meter::Leases, Limit::hard(1));
    budgets.set(Scope::Group(team), one).unwrap();
    let fleet = Fleet::<u32, u32>::builder().workers(2).budgets(budgets).build().unwrap();
    let pass = Arc::clone(&gate);
    let spec = AgentSpec::new("one").handler_fn(move |task: &Task<u32>, _| {
        pass.pass();
        Ok(*task.payload())
    });
    fleet.spawn(spec.clone()).unwrap();
    let handles: Vec<_> =
        (0..5).map(|task| fleet.submit(Task::new(task).group(team)).unwrap()).collect();
    gate.await_arrivals(1);
    assert_eq!((fleet.stats().tasks_queued, fleet.observe(&spec).queued), (4, 0));
    let policy = eager().max(9).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec.clone(), policy);
    // One lease at a target of 0.7 takes two agents, and what waits takes none.
    assert_eq!(scaler.step().unwrap().spawned.len(), 1);
    let free = fleet.submit(Task::new(9)).unwrap();
    gate.await_arrivals(2);
    assert_eq!(fleet.observe(&spec).queued, 0);
    gate.open();
    assert!(handles.iter().chain([&free]).all(|handle| handle.wait().completed().is_some()));
    eventually("the agents are given back", || fleet.stats().leases_live == 0);
    finish(&fleet);
}

#[test]
fn a_warm_pool_makes_up_for_agents_that_drain_and_not_for_those_that_failed() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let mut warm = WarmPools::new(&fleet, 9).pool(spec(), WarmPool::new(3, 3)).unwrap();
    let first = warm.step().unwrap().spawned;
    for agent in &first {
        fleet.unroute(*agent).unwrap();
    }
    let second = warm.step().unwrap();
    assert_eq!((second.spawned.len(), second.retired.len(), second.failed), (3, 0, 0));
    for agent in &second.spawned[1..] {
        fleet.set_condition(*agent, Condition::Failed).unwrap();
    }
    let third = warm.step().unwrap();
    assert_eq!((third.spawned.len(), third.retired.len(), third.failed), (0, 0, 2));
    assert_eq!((third.missing, fleet.observe(&spec()).serving), (0, 1));
    // Draining and failed ones have their places: five of nine, and the one that is ready.
    let other = AgentSpec::new("other");
    let mut warm = WarmPools::new(&fleet, 9)
        .pool(spec(), WarmPool::new(3, 3))
        .and_then(|warm| warm.pool(other, WarmPool::new(5, 5)))
        .unwrap();
    let fourth = warm.step().unwrap();
    assert_eq!((fourth.spawned.len(), fourth.missing), (3, 2));
    // As they end, they are made up for.
    for agent in &second.spawned[1..] {
        fleet.kill(*agent).unwrap();
    }
    assert_eq!(warm.step().unwrap().spawned.len(), 2);
}
