//! A task that comes in by the inbox, against a worker, a stop and a retirement; each with a twin.

use std::time::Duration;

use crate::fleet::runner::{Ready, Seat};
use crate::fleet::work::ROUND;
use crate::fleet::{AgentId, AgentSpec, Fleet, Outcome, ReturnReason, SubmitError, Task};
use crate::sync::{explore, thread, weakened};

fn answering() -> AgentSpec<u32, u32> {
    AgentSpec::<u32, u32>::new("worker").handler_fn(|task, _| Ok(task.payload() + 1))
}

/// A fleet without its worker, whose inbox has credit; and its agent.
fn open() -> (Fleet<u32, u32>, AgentId) {
    let builder = Fleet::<u32, u32>::builder().workers(1);
    let fleet = Fleet::from_inner(builder.into_inner().expect("the values are valid"));
    let agent = fleet.spawn(answering()).expect("there is room");
    fleet.inner().lend(&mut fleet.inner().state.lock());
    (fleet, agent)
}

/// Does what is in line, as a worker does that does not wait.
fn do_what_is_ready(fleet: &Fleet<u32, u32>, seat: &mut Seat) {
    while let Some(ready) = fleet.inner().runner.try_next(seat) {
        assert_eq!(ready, Ready::Tasks);
        fleet.inner().run_next(seat, ROUND);
    }
}

/// Two tasks come in, one of them by each thread, while a worker looks into the queue.
fn submit_against_work() {
    let (fleet, _) = open();
    let mut seats = std::mem::take(&mut fleet.inner().state.lock().workers.seats);
    let mut seat = seats.pop().expect("there is one worker");
    let worker = {
        let fleet = fleet.clone();
        thread::spawn(move || {
            do_what_is_ready(&fleet, &mut seat);
            seat
        })
    };
    let submitter = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.submit(Task::new(1)).expect("there is room"))
    };
    let second = fleet.submit(Task::new(2)).expect("there is room");
    let first = submitter.join().expect("submitting does not panic");
    let mut seat = worker.join().expect("a worker does not panic");
    do_what_is_ready(&fleet, &mut seat);
    let ended = [first, second].map(|handle| handle.try_outcome().is_some());
    assert_eq!(ended, [true, true], "nobody was told of a task");
}

#[test]
fn loom_a_worker_finds_what_comes_in_by_the_inbox() {
    explore(2, submit_against_work);
}

#[test]
#[should_panic(expected = "nobody was told of a task")]
fn loom_twin_a_worker_that_nobody_tells_of_the_inbox_leaves_a_task_there() {
    weakened("inbox.line-up", || explore(2, submit_against_work));
}

fn submit_against_stop() {
    let (fleet, _) = open();
    let submitter = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.submit(Task::new(1)))
    };
    let report = fleet.shutdown(Duration::ZERO).expect("this is no worker");
    match submitter.join().expect("submitting does not panic") {
        Ok(handle) => {
            let outcome = handle.try_outcome().expect("what was accepted has ended");
            assert_eq!(*outcome, Outcome::Returned(ReturnReason::Shutdown));
            assert_eq!((report.accepted, report.returned), (1, 1), "before the stop began");
        }
        Err(refused) => {
            assert!(matches!(refused, SubmitError::Closed(_)), "{refused:?}");
            assert_eq!(report.accepted, 0);
        }
    }
}

#[test]
fn loom_what_comes_in_as_the_fleet_stops_is_refused_or_ends() {
    explore(3, submit_against_stop);
}

#[test]
#[should_panic(expected = "what was accepted has ended")]
fn loom_twin_a_stop_that_leaves_the_inbox_its_credit_loses_a_task() {
    weakened("inbox.withdraw-at-stop", || explore(3, submit_against_stop));
}

fn submit_against_retirement(known: bool) {
    let (fleet, agent) = open();
    if known {
        // An agent was found then.
        let before = fleet.submit(Task::new(0)).expect("there is room");
        assert!(before.cancel());
    }
    let submitter = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.submit(Task::new(1)).map(drop).is_ok())
    };
    let retired = fleet.retire(agent).is_ok();
    // As a worker does.
    fleet.inner().lend(&mut fleet.inner().state.lock());
    let accepted = submitter.join().expect("submitting does not panic");
    assert!(!(accepted && retired), "no agent is left for the task");
}

#[test]
fn loom_the_last_agent_is_not_retired_as_a_task_comes_in_for_it() {
    explore(3, || submit_against_retirement(false));
}

#[test]
#[should_panic(expected = "no agent is left for the task")]
fn loom_twin_a_retirement_that_begins_no_era_leaves_a_task_without_an_agent() {
    weakened("inbox.begin-era", || explore(3, || submit_against_retirement(false)));
}

#[test]
fn loom_the_last_agent_is_not_retired_as_a_task_comes_in_after_another() {
    explore(3, || submit_against_retirement(true));
}

#[test]
#[should_panic(expected = "no agent is left for the task")]
fn loom_twin_a_retirement_that_nobody_counts_leaves_a_task_without_an_agent() {
    weakened("desk.count-who-leaves", || explore(3, || submit_against_retirement(true)));
}
