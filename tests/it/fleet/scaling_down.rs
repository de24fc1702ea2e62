//! Scaling down where agents hold several leases each and none is ever idle: unrouted, drained, ended; and what becomes
//! of them if the demand comes back, or the host has other plans.

use std::f64::consts::TAU;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::support::{Gate, eager, eventually, finish, held};
use phalanx::fleet::scale::{
    Autoscaler, DownReason, Observation, Refusal, ScalePolicy, Scaled, Step, UpReason,
};
use phalanx::fleet::supervise::HeartbeatPolicy;
use phalanx::fleet::{
    AgentId, AgentSpec, AgentState, Condition, Fleet, Lease, LeaseOutcome, Outcome, Request,
    SubmitError, Task, TaskContext, TellError,
};
use phalanx::{ErrorKind, ManualClock};

const SECOND: Duration = Duration::from_secs(1);

/// Agents that may hold four leases each.
fn spec() -> AgentSpec<(), ()> {
    AgentSpec::new("one").max_leases(NonZeroU32::new(4).unwrap())
}

fn policy() -> ScalePolicy {
    eager().min(1).max(100).build().unwrap()
}

fn lease_of<T, O>(fleet: &Fleet<T, O>, agent: AgentId) -> Lease
where
    T: Send + Sync + 'static,
    O: Send + Sync + 'static,
{
    fleet.try_allocate(&Request::any().agent(agent)).unwrap()
}

/// Ten agents, each with one lease, and what scales them.
fn ten() -> Scene<(), ()> {
    let fleet = Fleet::builder().build().unwrap();
    let agents = fleet.spawn_batch(&spec(), 10).unwrap();
    let leases = agents.iter().map(|agent| lease_of(&fleet, *agent)).collect();
    let scaler = Autoscaler::new(&fleet, spec(), policy());
    (fleet, agents, leases, scaler)
}

fn state(fleet: &Fleet, agent: AgentId) -> AgentState {
    fleet.agent_state(agent).unwrap()
}

fn end_of(leases: &mut Vec<Lease>, agent: AgentId) {
    let at = leases.iter().position(|lease| lease.agent() == agent).expect("it holds one");
    leases.swap_remove(at).complete(LeaseOutcome::Succeeded).expect("nobody took it away");
}

fn sorted(agents: &[AgentId]) -> Vec<AgentId> {
    let mut agents = agents.to_vec();
    agents.sort_unstable();
    agents
}

/// What a step does that does nothing.
fn is_quiet(scaled: &Scaled) -> bool {
    [&scaled.spawned, &scaled.restored, &scaled.retired, &scaled.unrouted, &scaled.kept]
        .iter()
        .all(|agents| agents.is_empty())
}

#[test]
fn where_every_agent_holds_leases_some_are_unrouted_and_end_with_the_last_of_theirs() {
    let (fleet, agents, mut leases, mut scaler) = ten();
    let scaled = scaler.step().unwrap();
    // 10 leases at a target of 0.7 take 4 agents of 4.
    assert_eq!(scaled.unrouted, agents[..6]);
    assert_eq!((scaled.retired.len(), scaled.kept.len()), (0, 0));
    assert_eq!(
        scaled.plan.step,
        Step::Retire { agents: Vec::new(), reason: DownReason::Utilisation }
    );
    assert!(agents[..6].iter().all(|agent| state(&fleet, *agent) == AgentState::Draining));
    let seen = fleet.observe(&spec());
    assert_eq!((seen.serving, seen.draining, seen.leases), (4, 6, 10));
    assert_eq!((seen.busy.as_slice(), seen.leaving.as_slice()), (&agents[6..], &agents[..6]));
    assert!(is_quiet(&scaler.step().unwrap()), "the demand is what it was");

    // What comes goes to the others. One after the other has its lease end, and ends.
    for (ended, agent) in agents[..6].iter().enumerate() {
        end_of(&mut leases, *agent);
        let lease = fleet.try_allocate(&Request::any()).unwrap();
        assert!(agents[6..].contains(&lease.agent()));
        leases.push(lease);
        let scaled = scaler.step().unwrap();
        assert_eq!(scaled.retired, [*agent]);
        assert_eq!(fleet.agent_state(*agent), Some(AgentState::Stopped));
        assert_eq!((scaled.unrouted.len(), scaled.plan.step), (0, Step::Hold));
        assert_eq!(fleet.stats().agents_live, 9 - ended as u64);
    }
    assert!(is_quiet(&scaler.step().unwrap()));
    for lease in leases {
        lease.complete(LeaseOutcome::Succeeded).unwrap();
    }
    let stats = fleet.stats();
    assert_eq!((stats.agents_retired, stats.leases_stale, stats.leases_live), (6, 0, 0));
    let stats = scaler.stats();
    assert_eq!((stats.unrouted, stats.retired, stats.restored, stats.kept), (6, 6, 0, 0));
}

#[test]
fn idle_agents_go_before_busy_ones_and_those_with_the_fewest_leases_before_others() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let agents = fleet.spawn_batch(&spec(), 5).unwrap();
    let _held: Vec<_> =
        [0, 0, 0, 1, 2, 2, 3, 3].iter().map(|agent| lease_of(&fleet, agents[*agent])).collect();
    let cap = NonZeroU32::new(3).unwrap();
    let policy = eager().min(2).utilisation(0.6, 0.7, 0.85).step_down(cap, 0.0).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec(), policy);
    let scaled = scaler.step_with(|seen| seen.with_leases(1)).unwrap();
    assert_eq!(
        (scaled.retired.as_slice(), scaled.unrouted.as_slice()),
        (&agents[4..], &[agents[1], agents[2]][..])
    );
    assert_eq!(fleet.observe(&spec()).leaving, [agents[2], agents[1]], "the first hold most");
}

#[test]
fn what_was_unrouted_serves_again_before_any_are_added() {
    let (fleet, agents, mut leases, mut scaler) = ten();
    assert_eq!(scaler.step().unwrap().unrouted, agents[..6]);
    end_of(&mut leases, agents[0]);
    // As many as the four can hold: 21 leases take 8 agents.
    leases.extend((0..12).map(|_| fleet.try_allocate(&Request::any()).unwrap()));
    assert!(fleet.try_allocate(&Request::any()).is_err(), "the others take none");
    let scaled = scaler.step().unwrap();
    assert_eq!(scaled.plan.step, Step::Spawn { agents: 0, reason: UpReason::Utilisation });
    assert_eq!((scaled.restored.as_slice(), scaled.spawned.len()), (&agents[1..5], 0));
    assert_eq!(scaled.retired, [agents[0]], "it is not needed, and idle");
    assert!(agents[1..5].iter().all(|agent| state(&fleet, *agent) == AgentState::Busy));
    leases.push(lease_of(&fleet, agents[1]));

    // 32 held of 32, and one that leaves: 12 agents are called for.
    leases.extend((0..11).map(|_| fleet.try_allocate(&Request::any()).unwrap()));
    let scaled = scaler.step().unwrap();
    assert_eq!((scaled.restored.as_slice(), scaled.spawned.len()), (&agents[5..6], 3));
    assert!(is_quiet(&scaler.step().unwrap()));
    for lease in leases {
        lease.complete(LeaseOutcome::Succeeded).unwrap();
    }
    let stats = scaler.stats();
    assert_eq!((stats.unrouted, stats.restored, stats.retired, stats.spawned), (6, 5, 1, 3));
}

#[test]
fn one_that_serves_again_is_what_the_host_wanted_it_to_be() {
    let (fleet, agents, _leases, mut scaler) = ten();
    fleet.set_condition(agents[0], Condition::Degraded).unwrap();
    assert_eq!(scaler.step().unwrap().unrouted, agents[..6]);
    let scaled = scaler.step_with(|seen| seen.with_leases(28)).unwrap();
    assert_eq!(scaled.restored, agents[..6]);
    assert_eq!(state(&fleet, agents[0]), AgentState::Degraded);
    assert_eq!(state(&fleet, agents[1]), AgentState::Busy);
}

#[test]
fn what_the_host_says_of_an_agent_that_leaves_stands() {
    let (fleet, agents, mut leases, mut scaler) = ten();
    let own = fleet.spawn(spec()).unwrap();
    leases.push(lease_of(&fleet, own));
    fleet.unroute(own).unwrap();
    assert_eq!(scaler.step().unwrap().unrouted, agents[..6]);
    let [unrouted, fit, drained, killed, ..] = agents[..] else { panic!("there are ten") };
    fleet.unroute(unrouted).unwrap();
    fleet.set_condition(fit, Condition::Fit).unwrap();
    assert!(!fleet.drain_agent(drained, Duration::ZERO).unwrap().ended);
    fleet.kill(killed).unwrap();
    let seen = fleet.observe(&spec());
    assert_eq!((seen.serving, seen.draining, seen.leases), (5, 5, 7), "of the host's none count");
    assert_eq!(seen.leaving, agents[4..6]);
    for agent in [own, unrouted, fit, drained] {
        end_of(&mut leases, agent);
    }
    // Nobody but the one that serves is idle, and it is needed.
    let scaled = scaler.step_with(|seen| seen.with_leases(15)).unwrap();
    assert!(is_quiet(&scaled), "{scaled:?}");
    assert_eq!(state(&fleet, fit), AgentState::Ready);
    // More than all can do.
    let scaled = scaler.step_with(|seen| seen.with_leases(100)).unwrap();
    assert_eq!(scaled.restored, agents[4..6]);
    for agent in [own, unrouted, drained] {
        assert_eq!(state(&fleet, agent), AgentState::Draining);
    }
    assert!(fleet.drain_agent(drained, Duration::ZERO).unwrap().ended);
}

#[test]
fn an_autoscaler_that_goes_has_those_serve_again_that_it_unrouted() {
    let (fleet, agents, _leases, mut scaler) = ten();
    scaler.step().unwrap();
    fleet.unroute(agents[0]).unwrap();
    drop(scaler);
    assert_eq!(state(&fleet, agents[0]), AgentState::Draining, "it is the host's");
    assert!(agents[1..].iter().all(|agent| state(&fleet, *agent) == AgentState::Busy));
    let seen = fleet.observe(&spec());
    assert_eq!((seen.serving, seen.leaving.len()), (9, 0));
    let (fleet, _, _leases, mut scaler) = ten();
    scaler.step().unwrap();
    drop(fleet);
    drop(scaler);
}

#[test]
fn one_whose_heart_fails_while_it_leaves_does_not_serve_again() {
    for again in [false, true] {
        let (clock, hand) = ManualClock::new();
        let fleet = Fleet::<(), ()>::builder().clock(clock).build().unwrap();
        let spec = spec().heartbeat(HeartbeatPolicy::new(SECOND, SECOND * 2).unwrap());
        let agents = fleet.spawn_batch(&spec, 3).unwrap();
        let leases: Vec<_> = agents.iter().map(|agent| lease_of(&fleet, *agent)).collect();
        let mut scaler = Autoscaler::new(&fleet, spec.clone(), policy());
        assert_eq!(scaler.step().unwrap().unrouted.len(), 1);
        let [silent, others @ ..] = &agents[..] else { panic!("there are three") };
        assert_eq!(state(&fleet, *silent), AgentState::Draining);
        for _ in 0..3 {
            hand.advance(SECOND);
            for agent in others {
                fleet.heartbeat(*agent).unwrap();
            }
            fleet.tick();
        }
        let seen = fleet.observe(&spec);
        assert_eq!((seen.draining, seen.leases), (1, 2), "it holds one, and nobody waits for it");
        assert_eq!(seen.leaving, []);
        if again {
            let scaled = scaler.step_with(|seen| seen.with_leases(9)).unwrap();
            assert_eq!((scaled.restored.len(), scaled.spawned.len()), (0, 2));
        }
        drop(scaler);
        let served = state(&fleet, *silent);
        assert_eq!(served, AgentState::Failed, "it is silent still");
        drop(leases);
    }
}

#[test]
fn those_that_the_host_takes_meanwhile_are_not_replaced_by_others() {
    let (fleet, agents, leases, mut scaler) = ten();
    let scaled = scaler.step_with(|seen| {
        for agent in &agents[..2] {
            fleet.unroute(*agent).unwrap();
        }
        fleet.kill(agents[2]).unwrap();
        seen
    });
    let scaled = scaled.unwrap();
    assert_eq!((scaled.plan.unrouted.len(), scaled.unrouted), (6, agents[3..6].to_vec()));
    assert_eq!(scaled.kept, agents[..3]);
    assert_eq!(fleet.observe(&spec()).serving, 4);
    drop(leases);
}

/// Has as many leave as may, which is all but one.
fn press(scaler: &mut Autoscaler<u64, u64>) -> (Vec<AgentId>, Vec<AgentId>) {
    let scaled =
        scaler.step_with(|seen| seen.with_leases(0).with_queued(0).with_at_once(0)).unwrap();
    assert_eq!(scaled.plan.unrouted.len(), 2);
    (sorted(&scaled.unrouted), sorted(&scaled.kept))
}

/// A fleet, its agents, the leases on them, and what scales them.
type Scene<T, O> = (Fleet<T, O>, Vec<AgentId>, Vec<Lease>, Autoscaler<T, O>);

/// Three agents that run tasks and hold one lease each, for as long as the test likes, and what scales them.
fn three() -> Scene<u64, u64> {
    let fleet = Fleet::builder().driven().build().unwrap();
    let two = NonZeroU32::new(2).unwrap();
    let work = |task: &Task<u64>, _: &mut TaskContext<'_>| Ok(*task.payload());
    let spec = AgentSpec::new("one").max_leases(two).handler_fn(work);
    let agents = fleet.spawn_batch(&spec, 3).unwrap();
    let leases = agents.iter().map(|agent| lease_of(&fleet, *agent)).collect();
    let scaler = Autoscaler::new(&fleet, spec, policy());
    (fleet, agents, leases, scaler)
}

#[test]
fn one_of_which_more_is_asked_than_its_leases_is_not_unrouted_and_the_next_one_is() {
    let mut context = Context::from_waker(Waker::noop());
    // By a request.
    let (fleet, agents, mut leases, mut scaler) = three();
    leases.extend(agents.iter().map(|agent| lease_of(&fleet, *agent)));
    let request = Request::any().agent(agents[0]);
    let mut waits = pin!(fleet.allocate_async(&request));
    assert!(waits.as_mut().poll(&mut context).is_pending());
    assert_eq!(press(&mut scaler), (agents[1..].to_vec(), vec![agents[0]]));
    end_of(&mut leases, agents[0]);
    assert!(waits.poll(&mut context).is_ready());

    // By a batch that has gathered of all of them.
    let (fleet, agents, mut leases, mut scaler) = three();
    let four = Request::any();
    let mut waits = pin!(fleet.allocate_batch_async(&four, 4));
    assert!(waits.as_mut().poll(&mut context).is_pending());
    assert_eq!(press(&mut scaler), (vec![], agents.clone()));
    end_of(&mut leases, agents[0]);
    let Poll::Ready(Ok(all)) = waits.poll(&mut context) else {
        panic!("all that it needs is free")
    };
    assert_eq!(all.len(), 4);

    // By a batch that could not be served without it, and waits for all to have room.
    for (count, able) in [(4, 1), (6, 0)] {
        let (fleet, agents, mut leases, mut scaler) = three();
        leases.extend(agents.iter().map(|agent| lease_of(&fleet, *agent)));
        let mut waits = pin!(fleet.allocate_batch_async(&four, count));
        assert!(waits.as_mut().poll(&mut context).is_pending());
        assert_eq!(press(&mut scaler), (agents[..able].to_vec(), agents[able..].to_vec()));
        leases.clear();
        assert!(waits.poll(&mut context).is_ready());
    }

    // By a message that waits.
    let (fleet, agents, _leases, mut scaler) = three();
    fleet.tell(agents[0], 1).unwrap();
    assert_eq!(press(&mut scaler), (agents[1..].to_vec(), vec![agents[0]]));
    fleet.run_ready(9);
    assert_eq!(fleet.stats().messages_handled, 1);

    // By a task that waits for another.
    let (fleet, agents, _leases, mut scaler) = three();
    let first = fleet.submit(Task::new(1)).unwrap();
    let second = fleet.submit(Task::new(2).to(agents[0]).after(&first)).unwrap();
    assert_eq!(press(&mut scaler), (agents[1..].to_vec(), vec![agents[0]]));
    while fleet.run_ready(9) > 0 {}
    assert_eq!(second.try_outcome().as_deref(), Some(&Outcome::Completed(2)));

    // By what others of its name cannot do.
    let (fleet, agents, _leases, mut scaler) = three();
    let able = fleet.spawn(AgentSpec::new("one").capability("rust")).unwrap();
    let _held = lease_of(&fleet, able);
    let spec = AgentSpec::<u64, u64>::new("one").max_leases(NonZeroU32::new(2).unwrap());
    assert_eq!(
        fleet.observe(&spec).busy,
        [],
        "a spec without a handler asks for none that have one"
    );
    let scaled = scaler.step_with(|seen| seen.with_leases(0)).unwrap();
    assert_eq!((scaled.unrouted, scaled.kept), (agents, vec![]));
}

#[test]
fn one_that_leaves_takes_nothing_new_of_its_own_until_it_serves_again() {
    let (fleet, agents, mut leases, mut scaler) = three();
    assert_eq!(press(&mut scaler), (agents[..2].to_vec(), vec![]));
    assert!(matches!(fleet.tell(agents[0], 7), Err(TellError::Draining(7))));
    let refused = fleet.submit(Task::new(8).to(agents[0]));
    assert!(matches!(refused, Err(SubmitError::NoAgent(_))));
    let scaled = scaler.step_with(|seen| seen.with_leases(6)).unwrap();
    assert_eq!(scaled.restored.len(), 2);
    fleet.tell(agents[0], 7).unwrap();
    let done = fleet.submit(Task::new(8).to(agents[0])).unwrap();
    while fleet.run_ready(9) > 0 {}
    assert_eq!(done.try_outcome().as_deref(), Some(&Outcome::Completed(8)));
    assert_eq!(fleet.stats().messages_handled, 1);

    // A task that others can do keeps none that leaves; somebody who waits for it alone is told.
    assert_eq!(press(&mut scaler), (agents[..2].to_vec(), vec![]));
    let request = Request::any().agent(agents[0]);
    let mut waits = pin!(fleet.allocate_async(&request));
    let mut context = Context::from_waker(Waker::noop());
    assert!(waits.as_mut().poll(&mut context).is_pending());
    let queued = fleet.submit(Task::new(9)).unwrap();
    end_of(&mut leases, agents[0]);
    assert_eq!(fleet.retire(agents[0]).unwrap_err().kind(), ErrorKind::InUse);
    let scaled = scaler.step_with(|seen| seen.with_leases(1).with_queued(0)).unwrap();
    assert_eq!(scaled.retired, [agents[0]]);
    assert!(matches!(waits.poll(&mut context), Poll::Ready(Err(_))));
    while fleet.run_ready(9) > 0 {}
    assert_eq!(queued.try_outcome().as_deref(), Some(&Outcome::Completed(9)));
}

#[test]
fn a_task_that_runs_on_one_that_leaves_ends_there() {
    let gate = Gate::new();
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    let spec = held(&gate).max_leases(NonZeroU32::new(4).unwrap());
    let agents = fleet.spawn_batch(&spec, 2).unwrap();
    let running: Vec<_> =
        agents.iter().map(|agent| fleet.submit(Task::new(1).to(*agent)).unwrap()).collect();
    gate.await_arrivals(2);
    let mut scaler = Autoscaler::new(&fleet, spec, policy());
    // Of what comes by a mailbox an agent handles one after the other, and whoever has such work is kept.
    let scaled = scaler.step().unwrap();
    assert_eq!((scaled.unrouted.len(), scaled.kept.len()), (0, 2));
    gate.open();
    for task in &running {
        assert_eq!(*task.wait(), Outcome::Completed(1));
    }
    eventually("they are given back", || fleet.stats().leases_live == 0);

    let gate = Gate::new();
    let spec = AgentSpec::new("other").capability("other").max_leases(NonZeroU32::new(4).unwrap());
    let pass = std::sync::Arc::clone(&gate);
    let spec = spec.handler_fn(move |task: &Task<u64>, _| {
        pass.pass();
        Ok(*task.payload())
    });
    let agents = fleet.spawn_batch(&spec, 2).unwrap();
    // One lease each, of which one is that of a task.
    let task = fleet.submit(Task::new(2).capability("other")).unwrap();
    gate.await_arrivals(1);
    let loaded = |agent: &&AgentId| fleet.agent(**agent).is_some_and(|status| status.load > 0);
    let on = *agents.iter().find(loaded).expect("it runs there");
    let other = *agents.iter().find(|agent| **agent != on).expect("there are two");
    let _more = [lease_of(&fleet, other), lease_of(&fleet, other)];
    let mut scaler =
        Autoscaler::new(&fleet, spec, eager().min(1).utilisation(0.5, 0.8, 0.9).build().unwrap());
    assert_eq!(scaler.step().unwrap().unrouted, [on]);
    assert!(is_quiet(&scaler.step().unwrap()));
    gate.open();
    assert_eq!(*task.wait(), Outcome::Completed(2));
    eventually("it is given back", || fleet.agent(on).is_some_and(|status| status.load == 0));
    assert_eq!(scaler.step().unwrap().retired, [on]);
    drop(scaler);
    finish(&fleet);
}

/// How many leases are wanted at a time, by the second.
type Shape = fn(f64) -> f64;

#[test]
fn a_fleet_of_agents_with_several_leases_settles_after_steps_ramps_and_sines() {
    const SHAPES: [(&str, Shape, usize); 3] = [
        ("steps", |at| if (30.0..150.0).contains(&at) { 60.0 } else { 12.0 }, 3),
        ("ramps", |at| 12.0 + 0.6 * (90.0 - (at - 90.0).abs()).max(0.0), 3),
        ("sines", |at| if at < 180.0 { 30.0 + 25.0 * (at / 15.0 * TAU).sin() } else { 20.0 }, 3),
    ];
    for (name, shape, most_turns) in SHAPES {
        let (clock, hand) = ManualClock::new();
        let fleet = Fleet::<(), ()>::builder().clock(clock).build().unwrap();
        let policy = ScalePolicy::builder()
            .min(1)
            .max(100)
            .down_window(SECOND * 20)
            .down_cooldown(SECOND * 3);
        let mut scaler = Autoscaler::new(&fleet, spec(), policy.build().unwrap());
        let mut leases: Vec<(u32, Lease)> = Vec::new();
        let (mut directions, mut last_move, mut least_load) = (Vec::new(), 0, u32::MAX);
        for second in 0..300_u32 {
            // Each lease lasts for some seconds, longer ones too.
            leases.retain(|(until, _)| *until > second);
            let wanted = shape(f64::from(second)).round() as usize;
            while leases.len() < wanted
                && let Ok(lease) = fleet.try_allocate(&Request::any())
            {
                leases.push((second + 2 + (leases.len() as u32 * 7) % 11, lease));
            }
            let missing = wanted.saturating_sub(leases.len()) as u64;
            let scaled = scaler.step_with(|seen: Observation| seen.with_queued(missing)).unwrap();
            let up = scaled.spawned.len() + scaled.restored.len();
            let down = scaled.unrouted.len()
                + usize::from(matches!(scaled.plan.step, Step::Retire { .. }));
            if up + down > 0 {
                directions.push(up > 0);
                last_move = second;
            }
            let serving = fleet.observe(&spec()).serving;
            least_load = least_load.min(serving);
            hand.advance(SECOND);
        }
        directions.dedup();
        assert!(directions.len() <= most_turns, "{name}: {directions:?}");
        assert!(last_move < 260, "{name}: it does not settle, {last_move}");
        let demand = shape(299.0).round();
        let fewest = (demand / (0.7 * 4.0)).ceil() as u64;
        let seen = fleet.observe(&spec());
        assert!(seen.leaving.is_empty() && seen.draining == 0, "{name}: {seen:?}");
        let most = (demand / (0.4 * 4.0)).floor() as u64;
        assert!((fewest..=most).contains(&u64::from(seen.serving)), "{name}: {seen:?}");
        assert!(scaler.stats().unrouted > 0, "{name}: {:?}", scaler.stats());
        assert_eq!(fleet.stats().leases_stale, 0, "{name}");
    }
}

#[test]
fn those_that_may_not_be_unrouted_are_said_to_be_busy() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let able = spec().capability("rust");
    let agents = fleet.spawn_batch(&able, 4).unwrap();
    let _held: Vec<_> = agents.iter().map(|agent| lease_of(&fleet, *agent)).collect();
    let mut scaler = Autoscaler::new(&fleet, spec(), policy());
    let scaled = scaler.step().unwrap();
    assert!(is_quiet(&scaled));
    assert_eq!(scaled.plan.refusals, [Refusal::Busy { agents: 2 }]);
}
