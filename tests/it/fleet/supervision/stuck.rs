//! Attempts that say nothing any more.

use super::*;
use phalanx::fleet::supervise::{HeartbeatPolicy, Stuck};
use phalanx::fleet::{Attempt, SpawnedFuture, StuckAction};

const SILENCE: Duration = Duration::from_secs(10);

/// A handler that says where it is, waits at the gate, says so again and waits again.
fn two_steps(name: &str, gate: &Arc<Gate>) -> AgentSpec<u64, u64> {
    let gate = Arc::clone(gate);
    AgentSpec::new(name).handler_fn(move |task, cx| {
        cx.checkpoint("parse");
        gate.pass();
        cx.checkpoint("write");
        gate.pass();
        Ok(*task.payload())
    })
}

fn reports(witness: &Witness) -> Vec<(AgentId, Stuck)> {
    let stuck = |event: FleetEvent| match event {
        FleetEvent::AttemptStuck { agent, stuck } => Some((agent, *stuck)),
        _ => None,
    };
    witness.events().into_iter().filter_map(stuck).collect()
}

fn await_report(witness: &Witness) {
    witness.await_event(|event| matches!(event, FleetEvent::AttemptStuck { .. }));
}

#[test]
fn a_silent_attempt_is_reported_by_a_worker_that_sleeps_once_for_each_silence_and_with_its_place() {
    let (fleet, hand, witness) = fleet(2);
    let gate = Gate::new();
    let spec = two_steps("slow", &gate).stuck_after(SILENCE, StuckAction::Report);
    let agent = fleet.spawn(spec).unwrap();
    let handle = fleet.submit(Task::new(7)).unwrap();
    gate.await_arrivals(1);
    eventually("a worker keeps the watch", || hand.sleepers() == 1);
    hand.advance(SILENCE - Duration::from_nanos(1));
    fleet.tick();
    assert_eq!(reports(&witness), []);
    hand.advance(Duration::from_nanos(1));
    await_report(&witness);
    let [(of, first)] = &reports(&witness)[..] else { panic!("it is one") };
    assert_eq!((*of, first.task, first.attempt), (agent, Some(handle.id()), Attempt::new(1)));
    assert_eq!((first.checkpoint.as_deref(), first.checkpoints), (Some("parse"), 1));
    assert_eq!((first.silent, first.running), (SILENCE, SILENCE));
    hand.advance(SILENCE * 10);
    fleet.tick();
    assert_eq!(reports(&witness).len(), 1, "it was told");
    gate.permit();
    gate.await_arrivals(2);
    hand.advance(SILENCE - Duration::from_nanos(1));
    fleet.tick();
    assert_eq!(reports(&witness).len(), 1);
    hand.advance(Duration::from_nanos(1));
    fleet.tick();
    let [_, (_, second)] = &reports(&witness)[..] else { panic!("they are two") };
    assert_eq!((second.checkpoint.as_deref(), second.silent), (Some("write"), SILENCE));
    assert_eq!(second.running, SILENCE * 12);
    gate.open();
    assert_eq!(*handle.wait(), Outcome::Completed(7));
    idle(&fleet, agent);
    eventually("nothing is due any more", || hand.sleepers() == 0);
    hand.advance(SILENCE * 10);
    fleet.tick();
    let stats = fleet.stats();
    assert_eq!((stats.attempts_stuck, stats.agents_killed, stats.reruns), (2, 0, 0));
    assert_eq!(state(&fleet, agent), (AgentState::Ready, 1));
    finish(&fleet);
}

#[test]
fn one_that_comes_on_is_never_reported_and_nobody_watches_where_it_was_not_asked_for() {
    for asked in [true, false] {
        let (fleet, hand, witness) = fleet(2);
        let gate = Gate::new();
        let passed = Arc::clone(&gate);
        let spec = AgentSpec::<u64, u64>::new("steady").handler_fn(move |task, cx| {
            assert!(!cx.heartbeat(), "it has none");
            for _ in 0..5 {
                cx.checkpoint("step");
                passed.pass();
            }
            Ok(*task.payload())
        });
        let spec = if asked { spec.stuck_after(SILENCE, StuckAction::Kill) } else { spec };
        fleet.spawn(spec).unwrap();
        let handle = fleet.submit(Task::new(7)).unwrap();
        for step in 1..=5 {
            gate.await_arrivals(step);
            hand.advance(if asked { SILENCE - Duration::from_nanos(1) } else { SILENCE * 100 });
            fleet.tick();
            assert_eq!(reports(&witness), []);
            gate.permit();
        }
        assert_eq!(*handle.wait(), Outcome::Completed(7));
        assert_eq!((reports(&witness), fleet.stats().attempts_stuck), (vec![], 0));
        finish(&fleet);
    }
}

#[test]
fn the_agent_of_a_stuck_attempt_is_killed_if_that_was_asked_for_and_its_task_runs_elsewhere() {
    let (fleet, hand, witness) = fleet(2);
    let gate = Gate::new();
    let bad = two_steps("bad", &gate);
    let bad = fleet.spawn(bad.stuck_after(SILENCE, StuckAction::Kill)).unwrap();
    let handle = fleet.submit(Task::new(7)).unwrap();
    gate.await_arrivals(1);
    let good = AgentSpec::<u64, u64>::new("good").handler_fn(|task, _| Ok(*task.payload() + 1));
    let good = fleet.spawn(good).unwrap();
    eventually("a worker keeps the watch", || hand.sleepers() == 1);
    hand.advance(SILENCE);
    assert_eq!(*handle.wait(), Outcome::Completed(8), "while the stuck one is stuck");
    assert_eq!(fleet.agent(bad), None);
    let task = Some(handle.id());
    let told = witness.events().into_iter().filter_map(|event| match event {
        FleetEvent::AttemptStuck { agent, stuck } if agent == bad && stuck.task == task => {
            Some("stuck")
        }
        FleetEvent::AgentKilled { agent, leases_revoked: 1 } if agent == bad => Some("killed"),
        FleetEvent::TaskRequeued { attempt, .. } if attempt == Attempt::new(1) => Some("requeued"),
        FleetEvent::AttemptStarted { agent, .. } if agent == good => Some("elsewhere"),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told, ["stuck", "killed", "requeued", "elsewhere"]);
    gate.open();
    eventually("it came back", || fleet.stats().late_completions_refused == 1);
    hand.advance(SILENCE * 10);
    fleet.tick();
    let stats = fleet.stats();
    assert_eq!((stats.attempts_stuck, stats.agents_killed, stats.reruns), (1, 1, 1));
    assert_eq!(stats.tasks_completed, 1);
    finish(&fleet);
}

#[test]
fn a_message_without_a_checkpoint_is_stuck_at_its_start_and_its_asker_hears_that_the_agent_is_gone()
{
    let (fleet, hand, witness) = fleet(1);
    let gate = Gate::new();
    let passed = Arc::clone(&gate);
    let spec = AgentSpec::<u64, u64>::new("mute").handler_fn(move |task, _| {
        passed.pass();
        Ok(*task.payload())
    });
    let agent = fleet.spawn(spec.stuck_after(SILENCE, StuckAction::Kill)).unwrap();
    let replies = [1, 2].map(|payload| fleet.ask(agent, payload).unwrap());
    gate.await_arrivals(1);
    hand.advance(SILENCE);
    fleet.tick();
    for reply in replies {
        assert_eq!(reply.wait(), Outcome::Returned(ReturnReason::AgentGone));
    }
    let [(of, stuck)] = &reports(&witness)[..] else { panic!("it is one") };
    assert_eq!((*of, stuck.task, stuck.attempt), (agent, None, Attempt::NONE));
    assert_eq!((&stuck.checkpoint, stuck.checkpoints, stuck.silent), (&None, 0, SILENCE));
    gate.open();
    finish(&fleet);
}

#[test]
fn attempts_of_handlers_that_panic_are_watched_no_longer() {
    let (fleet, hand, witness) = fleet(2);
    let made = Arc::default();
    let agent = fleet.spawn(obedient(&made).stuck_after(SILENCE, StuckAction::Kill)).unwrap();
    assert_eq!(*fleet.submit(Task::new(PANIC)).unwrap().wait(), Outcome::Completed(1));
    assert!(matches!(fleet.ask(agent, PANIC).unwrap().wait(), Outcome::Failed(_)));
    idle(&fleet, agent);
    hand.advance(SILENCE);
    fleet.tick();
    assert_eq!(reports(&witness), []);
    finish(&fleet);
}

/// Futures that were spawned and not polled.
type Spawned = Arc<Mutex<Vec<SpawnedFuture>>>;

#[test]
fn a_future_is_stuck_until_it_says_something_and_is_watched_no_longer_once_it_has_resolved() {
    let (clock, hand) = ManualClock::new();
    let (witness, spawned) = (Witness::new(), Spawned::default());
    let there = Arc::clone(&spawned);
    let spawner = Arc::new(move |future: SpawnedFuture| there.lock().unwrap().push(future));
    let builder = Fleet::<u64, u64>::builder().workers(1).clock(clock).observer(witness.clone());
    let fleet = builder.spawner(spawner).build().unwrap();
    let spec = AgentSpec::new("future").handler_async(|task, cx| {
        let mut polls = 0;
        std::future::poll_fn(move |_| {
            polls += 1;
            cx.checkpoint("polled");
            if polls == 3 { Poll::Ready(Ok(*task.payload())) } else { Poll::Pending }
        })
    });
    let agent = fleet.spawn(spec.stuck_after(SILENCE, StuckAction::Report)).unwrap();
    let handle = fleet.submit(Task::new(7)).unwrap();
    eventually("it was spawned", || spawned.lock().unwrap().len() == 1);
    let mut future = spawned.lock().unwrap().pop().unwrap();
    let mut poll = || future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    eventually("a worker keeps the watch", || hand.sleepers() == 1);
    hand.advance(SILENCE);
    await_report(&witness);
    assert!(poll().is_pending());
    hand.advance(SILENCE);
    eventually("the next silence", || reports(&witness).len() == 2);
    assert!(poll().is_pending());
    assert!(poll().is_ready());
    assert_eq!(*handle.wait(), Outcome::Completed(7));
    hand.advance(SILENCE * 10);
    fleet.tick();
    let told: Vec<_> = reports(&witness)
        .into_iter()
        .map(|(of, stuck)| (of, stuck.task, stuck.checkpoint))
        .collect();
    let task = Some(handle.id());
    assert_eq!(told, [(agent, task, None), (agent, task, Some("polled".into()))]);
    finish(&fleet);
}

#[test]
fn a_handler_says_that_its_agent_lives_and_not_that_the_next_incarnation_does() {
    let (fleet, hand, witness) = fleet(1);
    let (gate, counted) = (Gate::new(), Arc::new(Mutex::new(Vec::new())));
    let (passed, noted) = (Arc::clone(&gate), Arc::clone(&counted));
    let spec = AgentSpec::<u64, u64>::new("long").handler_fn(move |task, cx| {
        for _ in 0..3 {
            passed.pass();
            noted.lock().unwrap().push(cx.heartbeat());
        }
        Ok(*task.payload())
    });
    let heart = HeartbeatPolicy::new(SILENCE, SILENCE * 3).unwrap();
    let agent = fleet.spawn(spec.heartbeat(heart).restart(policy())).unwrap();
    let handle = fleet.submit(Task::new(7)).unwrap();
    for step in 1..=3 {
        gate.await_arrivals(step);
        if step == 3 {
            assert!(fleet.report_failure(agent, "its other half has died").unwrap());
            hand.advance(DELAY);
            fleet.tick();
            assert_eq!(state(&fleet, agent).1, 2);
        } else {
            hand.advance(SILENCE - Duration::from_nanos(1));
            fleet.tick();
        }
        gate.permit();
    }
    assert_eq!(*handle.wait(), Outcome::Completed(7));
    assert_eq!(*counted.lock().unwrap(), [true, true, false]);
    assert_eq!((fleet.stats().agents_degraded, restarts(&witness)), (0, vec![(agent, 2)]));
    finish(&fleet);
}
