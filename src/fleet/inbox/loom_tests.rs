//! A task that comes in by the inbox, against a worker, a stop and a retirement; each with a twin.

use std::time::Duration;

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

/// A worker looks, sleeps and wakes while tasks come in.
fn submit_against_work() {
    let fleet = Fleet::<u32, u32>::builder().workers(1).build().expect("the thread starts");
    fleet.spawn(answering()).expect("there is room");
    fleet.inner().lend(&mut fleet.inner().state.lock());
    let handles = [1, 2].map(|number| fleet.submit(Task::new(number)).expect("there is room"));
    assert_eq!(*handles[0].wait(), Outcome::Completed(2));
    assert_eq!(*handles[1].wait(), Outcome::Completed(3));
    let report = fleet.shutdown(Duration::MAX).expect("this is no worker");
    assert_eq!((report.accepted, report.completed, report.workers_left), (2, 2, 0));
}

#[test]
fn loom_a_worker_finds_what_comes_in_by_the_inbox() {
    explore(2, submit_against_work);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_a_worker_that_nobody_tells_of_the_inbox_sleeps_on() {
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

fn submit_against_retirement() {
    let (fleet, agent) = open();
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
    explore(3, submit_against_retirement);
}

#[test]
#[should_panic(expected = "no agent is left for the task")]
fn loom_twin_a_retirement_that_begins_no_era_leaves_a_task_without_an_agent() {
    weakened("inbox.begin-era", || explore(3, submit_against_retirement));
}
