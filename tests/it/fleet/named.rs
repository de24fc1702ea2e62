//! Tasks to one agent: they wait in its mailbox, run there and nowhere else, and come back when it ends.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex};

use phalanx::fleet::{
    AgentSpec, Fleet, Outcome, OutcomeKind, ReturnReason, SubmitError, Task, TaskError,
};

use super::support::{Gate, LONG, Ledger, finish};

fn held(gate: &Arc<Gate>) -> AgentSpec<u64, u64> {
    let gate = Arc::clone(gate);
    AgentSpec::new("held").handler_fn(move |task, cx| {
        assert_eq!(cx.task_id(), task.id());
        gate.pass();
        Ok(*task.payload())
    })
}

#[test]
fn a_task_to_one_agent_runs_there_in_the_order_of_its_coming_and_is_logged() {
    let ledger = Arc::new(Ledger::default());
    let fleet = Fleet::builder().workers(3).task_log(ledger.clone()).build().unwrap();
    let notes = Arc::new(Mutex::new(Vec::new()));
    let spec = {
        let notes = Arc::clone(&notes);
        AgentSpec::<u64, u64>::new("one").handler_fn(move |task, cx| {
            notes.lock().unwrap().push((cx.agent(), *task.payload(), cx.attempt().get()));
            Ok(*task.payload())
        })
    };
    let agents = fleet.spawn_batch(&spec, 4).unwrap();
    let to = agents[2];
    let handles: Vec<_> =
        (0..50).map(|number| fleet.submit(Task::new(number).to(to)).unwrap()).collect();
    for (number, handle) in (0..).zip(handles) {
        assert_eq!(*handle.wait(), Outcome::Completed(number));
        assert!(handle.log_position().is_some());
    }
    let expected: Vec<_> = (0..50).map(|number| (to, number, 1)).collect();
    assert_eq!(*notes.lock().unwrap(), expected);
    assert_eq!(finish(&fleet).completed, 50);
    assert_eq!(ledger.settled.lock().unwrap().len(), 50);
}

#[test]
fn a_task_to_an_agent_that_ends_comes_back_with_a_reason_of_its_own() {
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    let gate = Gate::new();
    let agent = fleet.spawn(held(&gate)).unwrap();
    fleet.spawn(AgentSpec::new("other").handler_fn(|_, _| Ok(0))).unwrap();
    let running = fleet.submit(Task::new(1).to(agent)).unwrap();
    gate.await_arrivals(1);
    let queued: Vec<_> =
        (2..30).map(|number| fleet.submit(Task::new(number).to(agent)).unwrap()).collect();
    let stats = fleet.stats();
    assert_eq!((stats.tasks_running, stats.tasks_queued), (1, 28));
    let killed = fleet.kill(agent).unwrap();
    assert_eq!(killed.tasks_struck, [running.id()]);
    for handle in queued.iter().chain([&running]) {
        assert_eq!(*handle.wait(), Outcome::Returned(ReturnReason::AgentGone));
    }
    assert!(matches!(fleet.submit(Task::new(9).to(agent)), Err(SubmitError::NoAgent(_))));
    gate.open();
    let report = finish(&fleet);
    assert_eq!((report.accepted, report.returned), (29, 29));
    assert_eq!(fleet.stats().late_completions_refused, 1);
}

#[test]
fn a_task_to_one_agent_is_tried_again_there_and_can_be_cancelled() {
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    let gate = Gate::new();
    let held_up = Arc::clone(&gate);
    let agent = fleet
        .spawn(AgentSpec::new("moody").handler_fn(move |task, cx| match *task.payload() {
            0 => {
                held_up.pass();
                Ok(0)
            }
            1 if cx.attempt().get() < 3 => Err(TaskError::retryable("not yet")),
            2 if cx.attempt().get() < 2 => panic!("once"),
            other => Ok(other),
        }))
        .unwrap();
    fleet.spawn(AgentSpec::new("other").handler_fn(|_, _| Ok(99))).unwrap();
    let first = fleet.submit(Task::new(0).to(agent)).unwrap();
    gate.await_arrivals(1);
    let [again, panics, cancelled, last] =
        [1, 2, 3, 4].map(|number| fleet.submit(Task::new(number).to(agent)).unwrap());
    assert!(cancelled.cancel());
    assert_eq!(*cancelled.wait(), Outcome::Cancelled);
    gate.open();
    assert_eq!(*first.wait(), Outcome::Completed(0));
    assert_eq!(*again.wait(), Outcome::Completed(1));
    assert_eq!(*panics.wait(), Outcome::Completed(2));
    assert_eq!(*last.wait(), Outcome::Completed(4));
    let twice = NonZeroU32::new(2).unwrap();
    let hopeless = fleet.submit(Task::new(1).to(agent).max_attempts(twice)).unwrap();
    assert_eq!(hopeless.wait().kind(), OutcomeKind::Failed);
    assert_eq!(fleet.stats().reruns, 4);
    finish(&fleet);
}

#[test]
fn tasks_to_agents_count_against_the_capacity_of_the_queue_and_a_drain_waits_for_them() {
    let capacity = NonZeroUsize::new(3).unwrap();
    let fleet = Fleet::<u64, u64>::builder().workers(1).queue_capacity(capacity).build().unwrap();
    let gate = Gate::new();
    let agent = fleet.spawn(held(&gate)).unwrap();
    let running = fleet.submit(Task::new(0).to(agent)).unwrap();
    gate.await_arrivals(1);
    for number in 1..3 {
        drop(fleet.submit(Task::new(number).to(agent)).unwrap());
    }
    drop(fleet.submit(Task::new(3)).unwrap());
    assert!(matches!(fleet.submit(Task::new(4).to(agent)), Err(SubmitError::Full(_))));
    gate.open();
    assert_eq!(*running.wait(), Outcome::Completed(0));
    let report = fleet.drain(LONG).unwrap();
    assert_eq!((report.completed, report.is_complete()), (4, true));
    finish(&fleet);
}

#[test]
fn a_shutdown_returns_tasks_that_wait_in_mailboxes() {
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    let gate = Gate::new();
    let agent = fleet.spawn(held(&gate)).unwrap();
    let running = fleet.submit(Task::new(0).to(agent)).unwrap();
    gate.await_arrivals(1);
    let queued = fleet.submit(Task::new(1).to(agent)).unwrap();
    let stopping = {
        let fleet = fleet.clone();
        std::thread::spawn(move || fleet.shutdown(LONG).unwrap())
    };
    assert_eq!(*queued.wait(), Outcome::Returned(ReturnReason::Shutdown));
    gate.open();
    assert_eq!(*running.wait(), Outcome::Completed(0));
    let report = stopping.join().unwrap();
    assert_eq!((report.accepted, report.completed, report.returned), (2, 1, 1));
}

#[test]
fn tasks_that_are_cancelled_do_not_fill_a_mailbox_past_the_queue() {
    let capacity = NonZeroUsize::new(4).unwrap();
    let fleet = Fleet::<u64, u64>::builder().workers(1).queue_capacity(capacity).build().unwrap();
    let (first, gate) = (Gate::new(), Gate::new());
    let [before, agent] = [&first, &gate].map(|gate| fleet.spawn(held(gate)).unwrap());
    let blocks = fleet.submit(Task::new(0).to(before)).unwrap();
    first.await_arrivals(1);
    let tasks = [1, 2, 3].map(|number| fleet.submit(Task::new(number).to(agent)).unwrap());
    first.open();
    // The worker has all three in its hand now, and runs one of them.
    gate.await_arrivals(1);
    for taken_up in &tasks[1..] {
        assert!(taken_up.cancel());
    }
    assert_eq!(fleet.stats().tasks_queued, 0);
    let others = [4, 5].map(|number| fleet.submit(Task::new(number).to(agent)).unwrap());
    let full = fleet.submit(Task::new(6).to(agent));
    assert!(matches!(full, Err(SubmitError::Full(_))), "the worker has yet to come to them");
    assert!(others[0].cancel());
    let last = fleet.submit(Task::new(7).to(agent)).expect("it lay in the mailbox, and is gone");
    gate.open();
    assert_eq!([&blocks, &tasks[0]].map(|task| task.wait().kind()), [OutcomeKind::Completed; 2]);
    assert_eq!([&others[1], &last].map(|task| task.wait().kind()), [OutcomeKind::Completed; 2]);
    finish(&fleet);
}
