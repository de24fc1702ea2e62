//! Every interleaving of a drain with what it waits for and with what ends it, each with a twin.
//!
//! The worker of these fleets is a thread of the model, which takes a turn and goes: one that drives wakes all who wait
//! as it leaves its seat, and would hide who is not told.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::fleet::runner::Seat;
use crate::fleet::{
    AgentId, AgentSpec, Condition, Fleet, IfDependencyFails, LeaseOutcome, OutcomeKind, Request,
    SpawnedFuture, Task,
};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{thread, weakened};

fn explore(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(body);
}

/// An executor that runs what it is given there and then.
fn at_once(mut future: SpawnedFuture) {
    let ended = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(ended.is_ready(), "no future here waits");
}

/// A fleet whose one worker is the model's, and that worker's seat.
fn staffed() -> (Fleet<(), ()>, Seat) {
    let builder = Fleet::<(), ()>::builder().workers(1).spawner(Arc::new(at_once));
    let fleet = Fleet::from_inner(builder.into_inner().expect("the values are valid"));
    let seat = fleet.inner().state.lock().workers.seats.pop().expect("there is one worker");
    (fleet, seat)
}

/// Gives an agent a turn on a thread of its own.
fn turn(fleet: &Fleet<(), ()>, agent: AgentId, mut seat: Seat) -> thread::JoinHandle<()> {
    let fleet = fleet.clone();
    thread::spawn(move || {
        fleet.inner().turn(agent, &mut seat);
    })
}

fn idle() -> AgentSpec<(), ()> {
    AgentSpec::new("ends").handler_fn(|_, _| Ok(()))
}

/// An agent that is to end is waited for while its lease comes back.
fn drain_against_complete() {
    let fleet = Fleet::<(), ()>::builder().build().expect("the defaults are valid");
    let agent = fleet.spawn(AgentSpec::new("ends")).expect("there is room");
    let lease = fleet.try_allocate(&Request::any()).expect("it is idle");
    let holder = thread::spawn(move || lease.complete(LeaseOutcome::Succeeded));
    assert!(fleet.inner().drain_agent_until(agent, None).expect("it lives").ended);
    holder.join().expect("no panic").expect("it was held");
    assert_eq!(fleet.stats().leases_live, 0);
}

#[test]
fn loom_who_waits_for_an_agent_to_be_idle_is_woken_by_its_last_lease() {
    explore(3, drain_against_complete);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_who_does_not_say_that_it_waits_for_an_agent_sleeps_beside_it() {
    weakened("fleet.say-who-waits", || explore(3, drain_against_complete));
}

/// An agent that has a message before it is drained while a worker comes to it.
fn drain_against_turn(spec: AgentSpec<(), ()>) {
    let (fleet, seat) = staffed();
    let agent = fleet.spawn(spec).expect("there is room");
    fleet.tell(agent, ()).expect("there is room");
    let worker = turn(&fleet, agent, seat);
    let drained = fleet.inner().drain_agent_until(agent, None).expect("it lives");
    worker.join().expect("a turn does not panic");
    assert_eq!((drained.ended, drained.messages_returned), (true, 0), "it is handled first");
    assert_eq!(fleet.stats().messages_handled, 1, "it is handled first");
}

#[test]
fn loom_who_waits_for_a_mailbox_to_be_idle_is_woken_by_its_last_message() {
    explore(2, || drain_against_turn(idle()));
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_who_does_not_say_that_it_drains_an_agent_sleeps_beside_its_last_turn() {
    weakened("fleet.say-who-waits", || explore(2, || drain_against_turn(idle())));
}

fn futures() -> AgentSpec<(), ()> {
    AgentSpec::new("flies").handler_async(|_, _| async { Ok(()) })
}

#[test]
fn loom_who_waits_for_a_mailbox_is_woken_by_the_turn_whose_future_has_given_the_lease_back() {
    explore(2, || drain_against_turn(futures()));
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_a_turn_whose_lease_is_back_and_that_tells_nobody_is_waited_for() {
    weakened("turn.tell-who-drains", || explore(2, || drain_against_turn(futures())));
}

/// The last task of an agent, which waits for another, is cancelled while the agent is drained.
fn drain_against_cancel() {
    let (fleet, _seat) = staffed();
    let agent = fleet.spawn(idle()).expect("there is room");
    let other = fleet.submit(Task::new(())).expect("there is room");
    let held = fleet.submit(Task::new(()).to(agent).after(&other)).expect("there is room");
    let id = held.id();
    let canceller = thread::spawn(move || assert!(held.cancel(), "nobody else ends it"));
    let drained = fleet.inner().drain_agent_until(agent, None).expect("it lives");
    canceller.join().expect("it is cancelled");
    assert!(drained.ended);
    let ended = drained.tasks_ended;
    assert!(ended.is_empty() || ended == [(id, OutcomeKind::Cancelled)], "{ended:?}");
}

#[test]
fn loom_who_waits_for_the_tasks_of_an_agent_is_woken_by_the_end_of_the_last() {
    explore(2, drain_against_cancel);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_the_end_of_the_last_task_that_nobody_is_told_of_is_waited_for() {
    weakened("witness.tell-of-the-last", || explore(2, drain_against_cancel));
}

/// An agent that is drained and holds a lease is to serve again.
fn drain_against_service() {
    let fleet = Fleet::<(), ()>::builder().build().expect("the defaults are valid");
    let agent = fleet.spawn(AgentSpec::new("serves on")).expect("there is room");
    let lease = fleet.try_allocate(&Request::any()).expect("it is idle");
    let draining = fleet.inner().begin_drain(agent, false).expect("it lives");
    let host = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.set_condition(agent, Condition::Fit))
    };
    let drained = fleet.inner().see_out(draining, None, false);
    assert_eq!(host.join().expect("no panic").expect("it lives"), Condition::Draining);
    assert!(!drained.ended);
    assert!(lease.complete(LeaseOutcome::Succeeded).is_ok(), "it was revoked");
}

#[test]
fn loom_who_drains_an_agent_is_told_that_it_is_to_serve_again() {
    explore(3, drain_against_service);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_who_is_not_told_that_its_agent_serves_drains_on() {
    weakened("drain.tell-of-service", || explore(3, drain_against_service));
}

/// A mailbox is given a lease for a turn as the time of a drain runs out.
fn late_drain_against_lease() {
    let fleet = Fleet::<(), ()>::builder().workers(1);
    let fleet = Fleet::from_inner(fleet.into_inner().expect("the values are valid"));
    let agent = fleet.spawn(idle()).expect("there is room");
    let revoked = Arc::new(AtomicU32::new(0));
    let mailbox = {
        let (fleet, revoked) = (fleet.clone(), Arc::clone(&revoked));
        thread::spawn(move || {
            let pool = &fleet.inner().pool;
            let Some(taken) = pool.take_agent(agent) else { return };
            let went = pool.release(taken, true, &mut Vec::new());
            // Relaxed: the join brings it.
            revoked.fetch_add(u32::from(went.is_err()), Ordering::Relaxed);
        })
    };
    let drained = fleet.inner().drain_agent_until(agent, Some(Timestamp::ZERO)).expect("it lives");
    mailbox.join().expect("no panic");
    assert_eq!(revoked.load(Ordering::Relaxed), 0, "a drain revoked a lease");
    assert_eq!(drained.ended, fleet.agent(agent).is_none());
}

#[test]
fn loom_a_drain_that_is_late_revokes_no_lease() {
    explore(3, late_drain_against_lease);
}

#[test]
#[should_panic(expected = "a drain revoked a lease")]
fn loom_twin_a_drain_that_looks_and_ends_in_two_steps_revokes_a_lease() {
    weakened("fleet.end-the-leased", || explore(3, late_drain_against_lease));
}

/// A fleet is shut down while an agent is drained that nobody gives a turn.
fn drain_against_shutdown() {
    let (fleet, _seat) = staffed();
    let agent = fleet.spawn(idle()).expect("there is room");
    fleet.tell(agent, ()).expect("there is room");
    let drain = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.inner().drain_agent_until(agent, None))
    };
    fleet.shutdown(Duration::ZERO).expect("this is no worker");
    // Or it came too late.
    if let Ok(drained) = drain.join().expect("no panic") {
        assert_eq!(drained.messages_handled, 0, "nobody has handled it");
        // None where the shutdown had taken it out before.
        assert!(drained.ended && drained.messages_returned <= 1, "{drained:?}");
    }
}

#[test]
fn loom_a_drain_beside_a_shutdown_counts_what_came_back() {
    explore(2, drain_against_shutdown);
}

#[test]
#[should_panic(expected = "nobody has handled it")]
fn loom_twin_a_shutdown_that_tells_later_what_it_took_out_has_it_counted_as_handled() {
    weakened("stop.close-and-tell", || explore(2, drain_against_shutdown));
}

/// A task is submitted for an agent whose handler is still to be made, while it is drained and a worker comes to it.
fn drain_against_submit() {
    let builder = Fleet::<(), ()>::builder().driven();
    let fleet = Fleet::from_inner(builder.into_inner().expect("the values are valid"));
    let agent = fleet.spawn(idle().prewarmed()).expect("there is room");
    let submitter = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.submit(Task::new(()).to(agent)).is_ok())
    };
    let draining = fleet.inner().begin_drain(agent, false).expect("it lives");
    fleet.run_ready(usize::MAX);
    let accepted = submitter.join().expect("no panic");
    fleet.run_ready(usize::MAX);
    // Nobody drives any more, so it would wait for what is not done by now.
    let drained = fleet.inner().see_out(draining, Some(Timestamp::ZERO), true);
    assert!(drained.ended);
    assert_eq!(fleet.stats().tasks_completed, u64::from(accepted), "it is run first");
}

#[test]
fn loom_a_drained_agent_is_made_ready_for_a_task_that_comes_meanwhile() {
    explore(2, drain_against_submit);
}

#[test]
#[should_panic(expected = "it is run first")]
fn loom_twin_a_task_that_is_on_its_way_and_not_looked_for_is_waited_for() {
    weakened("state.expect-the-mailed", || explore(2, drain_against_submit));
}

/// A task is submitted for an agent that is retired.
fn retire_against_submit() {
    let (fleet, _seat) = staffed();
    let agent = fleet.spawn(idle()).expect("there is room");
    let submitter = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.submit(Task::new(()).to(agent)).is_ok())
    };
    let retired = fleet.retire(agent).is_ok();
    let accepted = submitter.join().expect("no panic");
    assert!(retired != accepted, "it was retired over a task");
}

#[test]
fn loom_an_agent_is_retired_or_given_a_task_and_never_both() {
    explore(3, retire_against_submit);
}

#[test]
#[should_panic(expected = "it was retired over a task")]
fn loom_twin_an_agent_that_a_task_is_on_its_way_to_is_retired_where_that_is_not_looked_for() {
    weakened("state.expect-the-mailed", || explore(3, retire_against_submit));
}

/// A task is cancelled while it is on its way to an agent that gives its mailbox no turns.
fn cancel_against_mail() {
    let (fleet, _seat) = staffed();
    let agent = fleet.spawn(idle()).expect("there is room");
    fleet.set_condition(agent, Condition::Failed).expect("it lives");
    let first = fleet.submit(Task::new(()).to(agent)).expect("there is room");
    let then =
        Task::new(()).to(agent).after(&first).if_dependency_fails(IfDependencyFails::Release);
    let then = fleet.submit(then).expect("there is room");
    let sender = thread::spawn(move || first.cancel());
    assert!(then.cancel(), "nobody has begun it");
    assert!(sender.join().expect("no panic"));
    let has_ended = {
        let state = fleet.inner().state.lock();
        state.stale == 0 && fleet.inner().has_ended(&state)
    };
    assert!(has_ended, "a drain would wait for what nobody does");
}

#[test]
fn loom_what_is_cancelled_on_its_way_to_a_mailbox_is_not_waited_for() {
    explore(3, cancel_against_mail);
}

#[test]
#[should_panic(expected = "a drain would wait for what nobody does")]
fn loom_twin_a_task_that_has_ended_and_is_put_into_a_mailbox_is_waited_for() {
    weakened("mailed.put-what-has-ended", || explore(3, cancel_against_mail));
}
