//! Tasks and how they end: handlers, panics, kills, cancellation, the log.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};

use super::support::{Gate, Ledger, Witness, finish};
use phalanx::ErrorKind;
use phalanx::fleet::{
    AgentSpec, Attempt, Fleet, FleetEvent, LogPosition, Outcome, OutcomeKind, Task,
};

fn fleet(workers: usize) -> Fleet<u64, u64> {
    Fleet::builder().workers(workers).build().unwrap()
}

fn doubling() -> AgentSpec<u64, u64> {
    AgentSpec::<u64, u64>::new("doubling").handler_fn(|task, _| Ok(task.payload() * 2))
}

/// An agent whose handler waits at a gate; a struck attempt and its rerun both do.
fn gated(gate: &Arc<Gate>) -> AgentSpec<u64, u64> {
    let gate = Arc::clone(gate);
    AgentSpec::<u64, u64>::new("gated").handler_fn(move |task, cx| {
        gate.pass();
        Ok(task.payload() * 10 + u64::from(cx.attempt().get()))
    })
}

#[test]
fn a_submitted_task_runs_and_its_handle_tells_the_outcome() {
    let fleet = fleet(2);
    fleet.spawn_batch(&doubling(), 3).unwrap();
    let handles: Vec<_> = (0..50).map(|n| fleet.submit(Task::new(n)).unwrap()).collect();
    for (n, handle) in (0..).zip(&handles) {
        assert_eq!(*handle.wait(), Outcome::Completed(n * 2));
    }
    assert_eq!(finish(&fleet).completed, 50);
}

#[test]
fn a_kill_from_outside_reruns_the_task_at_once_and_refuses_the_late_result() {
    let (ledger, witness, gate) = (Arc::<Ledger>::default(), Witness::new(), Gate::new());
    let fleet = Fleet::builder()
        .workers(2)
        .task_log(ledger.clone())
        .observer(witness.clone())
        .build()
        .unwrap();
    let struck = fleet.spawn(gated(&gate)).unwrap();
    let handle = fleet.submit(Task::new(7).max_attempts(NonZeroU32::MIN)).unwrap();
    gate.await_arrivals(1);
    fleet.spawn(doubling()).unwrap();

    let killed = fleet.kill(struck).unwrap();
    assert_eq!((killed.leases_revoked, killed.tasks_struck.len()), (1, 1));
    // The struck handler still stands at the gate, and the task is done elsewhere.
    assert_eq!(*handle.wait(), Outcome::Completed(14));
    assert_eq!(fleet.stats().late_completions_refused, 0);

    gate.open();
    let late = FleetEvent::LateCompletionRefused {
        task: handle.id(),
        attempt: Attempt::new(1),
        agent: struck,
    };
    witness.await_event(|event| *event == late);
    let stats = fleet.stats();
    assert_eq!((stats.late_completions_refused, stats.reruns), (1, 1));
    assert_eq!(
        *ledger.settled.lock().unwrap(),
        [(handle.id(), Attempt::new(2), OutcomeKind::Completed)]
    );
    assert_eq!(*ledger.outputs.lock().unwrap(), [14], "the struck attempt committed nothing");
    assert_eq!(handle.log_position(), Some(LogPosition(1)));
    assert_eq!(finish(&fleet).completed, 1);
}

#[test]
fn a_handler_may_kill_its_own_agent_and_a_second_kill_finds_nobody() {
    let kills = Arc::new(Mutex::new(Vec::new()));
    let fleet = fleet(2);
    let weak = fleet.downgrade();
    let seen = Arc::clone(&kills);
    let spec = AgentSpec::<u64, u64>::new("suicidal").handler_fn(move |task, cx| {
        if cx.attempt() == Attempt::new(1) {
            let fleet = weak.upgrade().expect("the test holds it");
            assert!(!cx.is_revoked());
            let first = fleet.kill(cx.agent()).map(|killed| killed.tasks_struck);
            let second = fleet.kill(cx.agent()).map(|killed| killed.tasks_struck);
            assert!(cx.is_revoked());
            seen.lock().unwrap().push((first.unwrap(), second.unwrap_err().kind()));
        }
        Ok(*task.payload())
    });
    fleet.spawn_batch(&spec, 2).unwrap();
    let handle = fleet.submit(Task::new(3)).unwrap();
    assert_eq!(*handle.wait(), Outcome::Completed(3));
    let report = finish(&fleet);
    assert_eq!(report.completed, 1);
    assert_eq!(*kills.lock().unwrap(), [(vec![handle.id()], ErrorKind::NotFound)]);
    let stats = fleet.stats();
    assert_eq!((stats.agents_killed, stats.reruns, stats.late_completions_refused), (1, 1, 1));
}
