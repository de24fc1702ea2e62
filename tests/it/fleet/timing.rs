//! Time and tasks: attempts that wait for their backoff, and deadlines, on a clock that is moved by hand.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::support::{Gate, LONG, Witness, eventually, finish};
use phalanx::ManualClock;
use phalanx::fleet::{
    AgentSpec, Backoff, Fleet, FleetEvent, Outcome, Request, SubmitError, Task, TaskError,
    TaskErrorKind,
};

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn fleet(workers: usize) -> (Fleet<u64, u64>, ManualClock) {
    let (clock, hand) = ManualClock::new();
    (Fleet::builder().workers(workers).clock(clock).build().unwrap(), hand)
}

/// Fails so many times, and then says which attempt it is.
fn failing(times: u32) -> AgentSpec<u64, u64> {
    AgentSpec::new("failing").handler_fn(move |_, cx| {
        let attempt = cx.attempt().get();
        if attempt <= times { Err(TaskError::retryable("not yet")) } else { Ok(attempt.into()) }
    })
}

/// Waits until a worker sleeps until an alarm.
fn asleep(hand: &ManualClock) {
    eventually("a worker keeps the time", || hand.sleepers() == 1);
}

fn kind(outcome: &Outcome<u64>) -> Option<TaskErrorKind> {
    match outcome {
        Outcome::Failed(error) => Some(error.kind()),
        _ => None,
    }
}

#[test]
fn an_attempt_waits_for_its_backoff_and_not_longer() {
    let (fleet, hand) = fleet(2);
    fleet.spawn(failing(2)).unwrap();
    let backoff = Backoff::exponential(ms(100), ms(1000));
    let handle = fleet.submit(Task::new(0).retry_backoff(backoff)).unwrap();
    for wait in [ms(100), ms(200)] {
        asleep(&hand);
        let stats = fleet.stats();
        assert_eq!((stats.tasks_queued, stats.tasks_running), (1, 0));
        hand.advance(wait - ms(1));
        assert_eq!((hand.sleepers(), fleet.stats().reruns), (1, stats.reruns), "too early");
        hand.advance(ms(1));
        eventually("the next attempt", || fleet.stats().reruns == stats.reruns + 1);
    }
    assert_eq!(*handle.wait(), Outcome::Completed(3));
    assert_eq!(finish(&fleet).completed, 1);
    assert_eq!(hand.sleepers(), 0);
}

#[test]
fn all_that_become_due_together_run() {
    let (fleet, hand) = fleet(3);
    fleet.spawn_batch(&failing(1), 3).unwrap();
    let task = Task::new(0).retry_backoff(Backoff::constant(ms(50)));
    let handles: Vec<_> = (0..6).map(|_| fleet.submit(task.clone()).unwrap()).collect();
    eventually("all attempts are lost", || {
        let stats = fleet.stats();
        (stats.leases_granted, stats.leases_live, stats.tasks_running) == (6, 0, 0)
    });
    asleep(&hand);
    assert_eq!(fleet.stats().reruns, 0);
    hand.advance(ms(50));
    for handle in handles {
        assert_eq!(*handle.wait(), Outcome::Completed(2));
    }
    finish(&fleet);
}

#[test]
fn a_task_that_waits_for_an_agent_fails_at_its_deadline() {
    let (fleet, hand) = fleet(1);
    fleet.spawn(failing(0)).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    let handle = fleet.submit(Task::new(0).timeout(ms(100))).unwrap();
    asleep(&hand);
    hand.advance(ms(99));
    assert_eq!((handle.try_outcome(), hand.sleepers()), (None, 1));
    hand.advance(ms(1));
    assert_eq!(kind(&handle.wait()), Some(TaskErrorKind::DeadlineExceeded));
    drop(lease);
    assert_eq!(*fleet.submit(Task::new(0)).unwrap().wait(), Outcome::Completed(1));
    assert_eq!(finish(&fleet).failed, 1);
}

/// An agent that waits at a gate, and takes no other task meanwhile.
fn gated(gate: &Arc<Gate>) -> AgentSpec<u64, u64> {
    let gate = Arc::clone(gate);
    AgentSpec::new("gated").capability("gate").handler_fn(move |_, cx| {
        gate.pass();
        Ok(u64::from(cx.is_revoked()))
    })
}

#[test]
fn a_running_task_fails_at_its_deadline_and_its_late_result_is_refused() {
    let (clock, hand) = ManualClock::new();
    let witness = Witness::new();
    let builder = Fleet::<u64, u64>::builder().workers(2).clock(clock);
    let fleet = builder.observer(witness.clone()).build().unwrap();
    let gate = Gate::new();
    let agent = fleet.spawn(gated(&gate)).unwrap();
    let handle = fleet.submit(Task::new(0).timeout(ms(100))).unwrap();
    gate.await_arrivals(1);
    asleep(&hand);
    hand.advance(ms(100));
    assert_eq!(kind(&handle.wait()), Some(TaskErrorKind::DeadlineExceeded), "it still runs");
    assert_eq!(fleet.agent(agent).unwrap().load, 1, "its agent is busy for as long as it runs");
    gate.open();
    witness.await_event(|event| matches!(event, FleetEvent::LateCompletionRefused { .. }));
    assert_eq!(*fleet.submit(Task::new(0)).unwrap().wait(), Outcome::Completed(0));
    assert_eq!(fleet.kill(agent).unwrap().tasks_struck, [], "that task had been taken away");
    assert_eq!(fleet.stats().late_completions_refused, 1);
    assert_eq!(finish(&fleet).failed, 1);
}

#[test]
fn an_agent_can_be_killed_while_it_runs_what_has_ended_at_its_deadline() {
    let (fleet, hand) = fleet(2);
    let gate = Gate::new();
    let agent = fleet.spawn(gated(&gate)).unwrap();
    let handle = fleet.submit(Task::new(0).timeout(ms(100))).unwrap();
    gate.await_arrivals(1);
    hand.advance(ms(100));
    fleet.tick();
    assert_eq!(kind(&handle.wait()), Some(TaskErrorKind::DeadlineExceeded));
    let killed = fleet.kill(agent).unwrap();
    assert_eq!((killed.leases_revoked, killed.tasks_struck), (1, vec![]));
    gate.open();
    assert_eq!(finish(&fleet).failed, 1);
}

#[test]
fn a_result_after_the_deadline_is_refused_though_nobody_had_looked() {
    let (fleet, hand) = fleet(1);
    let gate = Gate::new();
    fleet.spawn(gated(&gate)).unwrap();
    let late = fleet.submit(Task::new(0).timeout(ms(100))).unwrap();
    gate.await_arrivals(1);
    hand.advance(ms(100));
    gate.permit();
    assert_eq!(kind(&late.wait()), Some(TaskErrorKind::DeadlineExceeded));

    let early = fleet.submit(Task::new(0).timeout(ms(100))).unwrap();
    gate.await_arrivals(2);
    hand.advance(ms(99));
    gate.open();
    assert_eq!(*early.wait(), Outcome::Completed(0), "within the deadline");
    assert_eq!(fleet.stats().late_completions_refused, 1);
    finish(&fleet);
}

#[test]
fn an_error_after_the_deadline_is_ignored_and_counted_whether_anybody_had_looked_or_not() {
    let (fleet, hand) = fleet(1);
    let gate = Gate::new();
    let passing = Arc::clone(&gate);
    let fails = AgentSpec::new("failing").handler_fn(move |_, _| {
        passing.pass();
        Err(TaskError::retryable("too late"))
    });
    fleet.spawn(fails).unwrap();
    for (struck, number) in [false, true].into_iter().zip(1..) {
        let late = fleet.submit(Task::new(0).timeout(ms(100))).unwrap();
        gate.await_arrivals(number);
        hand.advance(ms(100));
        if struck {
            fleet.tick();
        }
        gate.permit();
        assert_eq!(kind(&late.wait()), Some(TaskErrorKind::DeadlineExceeded));
        let ignored = || fleet.stats().late_failures_ignored;
        eventually("it is counted", || ignored() == number as u64);
    }
    let stats = fleet.stats();
    assert_eq!((stats.late_completions_refused, stats.reruns), (0, 0));
    assert_eq!(finish(&fleet).failed, 2);
}

#[test]
fn a_tick_keeps_deadlines_while_all_workers_are_busy() {
    let (fleet, hand) = fleet(1);
    let gate = Gate::new();
    fleet.spawn_batch(&gated(&gate), 2).unwrap();
    let first = fleet.submit(Task::new(0)).unwrap();
    gate.await_arrivals(1);
    let second = fleet.submit(Task::new(0).timeout(ms(100))).unwrap();
    hand.advance(ms(99));
    fleet.tick();
    assert_eq!(second.try_outcome(), None);
    hand.advance(ms(1));
    fleet.tick();
    assert_eq!(
        second.try_outcome().as_deref().and_then(kind),
        Some(TaskErrorKind::DeadlineExceeded)
    );
    gate.open();
    assert_eq!(*first.wait(), Outcome::Completed(0));
    finish(&fleet);
}

#[test]
fn no_attempt_begins_after_the_deadline() {
    let (fleet, hand) = fleet(1);
    let gate = Gate::new();
    let runs = Arc::new(AtomicU32::new(0));
    fleet.spawn(gated(&gate)).unwrap();
    let counting = {
        let runs = Arc::clone(&runs);
        AgentSpec::new("counting").capability("count").handler_fn(move |_, _| {
            runs.fetch_add(1, Ordering::Relaxed);
            Ok(0)
        })
    };
    fleet.spawn(counting).unwrap();
    let blocking = fleet.submit(Task::new(0).capability("gate")).unwrap();
    gate.await_arrivals(1);
    let late = fleet.submit(Task::new(0).capability("count").timeout(ms(10))).unwrap();
    hand.advance(ms(10));
    gate.open();
    assert_eq!(*blocking.wait(), Outcome::Completed(0));
    assert_eq!(kind(&late.wait()), Some(TaskErrorKind::DeadlineExceeded));
    assert_eq!(runs.load(Ordering::Relaxed), 0);
    finish(&fleet);
}

/// The worker that wakes for one alarm takes the task itself: another one has to keep the time then.
#[test]
fn the_watch_is_passed_on() {
    let (fleet, hand) = fleet(2);
    let gate = Gate::new();
    let passing = Arc::clone(&gate);
    let tried = Arc::new(AtomicU32::new(0));
    let tries = Arc::clone(&tried);
    let spec = AgentSpec::new("slow").capability("slow").handler_fn(move |_, cx| {
        if cx.attempt().get() == 1 {
            tries.fetch_add(1, Ordering::Relaxed);
            return Err(TaskError::retryable("once"));
        }
        passing.pass();
        Ok(0)
    });
    fleet.spawn(spec).unwrap();
    fleet.spawn(failing(0).capability("quick")).unwrap();
    let lease = fleet.try_allocate(&Request::any().capability("quick")).unwrap();
    let slow = Task::new(0).capability("slow").retry_backoff(Backoff::constant(ms(10)));
    let slow = fleet.submit(slow).unwrap();
    let waiting = fleet.submit(Task::new(0).capability("quick").timeout(ms(20))).unwrap();
    eventually("the first attempt is lost", || {
        tried.load(Ordering::Relaxed) == 1 && fleet.stats().tasks_running == 0
    });
    asleep(&hand);
    hand.advance(ms(10));
    gate.await_arrivals(1);
    asleep(&hand);
    hand.advance(ms(10));
    assert_eq!(kind(&waiting.wait()), Some(TaskErrorKind::DeadlineExceeded));
    gate.open();
    assert_eq!(*slow.wait(), Outcome::Completed(0));
    drop(lease);
    finish(&fleet);
}

/// Whoever sets an earlier alarm than the one that is slept for wakes the sleeper.
#[test]
fn an_earlier_deadline_is_kept_too() {
    let (fleet, hand) = fleet(1);
    fleet.spawn(failing(0)).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    let later = fleet.submit(Task::new(0).timeout(ms(100))).unwrap();
    asleep(&hand);
    let earlier = fleet.submit(Task::new(0).timeout(ms(50))).unwrap();
    hand.advance(ms(50));
    eventually("the earlier deadline is kept", || earlier.try_outcome().is_some());
    assert_eq!(kind(&earlier.wait()), Some(TaskErrorKind::DeadlineExceeded));
    assert_eq!(later.try_outcome(), None);
    drop(lease);
    drop(later);
    finish(&fleet);
}

#[test]
fn a_task_that_waits_for_its_next_attempt_can_be_cancelled_and_returned_and_takes_its_place() {
    let (clock, hand) = ManualClock::new();
    let builder = Fleet::<u64, u64>::builder().workers(1).clock(clock);
    let fleet = builder.queue_capacity(2.try_into().unwrap()).build().unwrap();
    fleet.spawn(failing(9)).unwrap();
    let backoff = Backoff::constant(Duration::from_secs(3600));
    let task = Task::new(0).retry_backoff(backoff).timeout(Duration::from_secs(7200));
    let first = fleet.submit(task.clone()).unwrap();
    let second = fleet.submit_timeout(task.clone(), LONG).unwrap();
    eventually("both attempts are lost", || {
        fleet.stats().tasks_running == 0 && hand.sleepers() == 1
    });
    assert!(matches!(fleet.submit(task.clone()), Err(SubmitError::Full(_))));
    assert!(first.cancel());
    assert_eq!(*first.wait(), Outcome::Cancelled);
    let third = fleet.submit(task.max_attempts(NonZeroU32::MIN)).expect("there is room again");
    assert_eq!(kind(&third.wait()), Some(TaskErrorKind::Handler));
    let report = finish(&fleet);
    assert_eq!((report.cancelled, report.failed, report.returned), (1, 1, 1));
    assert!(matches!(*second.wait(), Outcome::Returned(_)));
}

/// An agent for messages, whose handler waits at a gate.
fn messenger(gate: &Arc<Gate>) -> AgentSpec<u64, u64> {
    let gate = Arc::clone(gate);
    AgentSpec::new("messenger").handler_fn(move |task, _| {
        gate.pass();
        Ok(*task.payload())
    })
}

#[test]
fn a_task_that_becomes_due_as_a_mailbox_passes_over_another_one_is_run() {
    let (fleet, hand) = fleet(1);
    fleet.spawn(failing(1).capability("retry")).unwrap();
    let gate = Gate::new();
    let agent = fleet.spawn(messenger(&gate)).unwrap();
    let delayed =
        Task::new(0).capability("retry").retry_backoff(Backoff::exponential(ms(5), ms(5)));
    let delayed = fleet.submit(delayed).unwrap();
    asleep(&hand);
    fleet.tell(agent, 1).unwrap();
    gate.await_arrivals(1);
    let gone = fleet.submit(Task::new(2).to(agent)).unwrap();
    assert!(gone.cancel());
    hand.advance(ms(5));
    gate.open();
    let outcome = delayed.wait_timeout(LONG).expect("its time has come");
    assert_eq!(*outcome, Outcome::Completed(2));
    finish(&fleet);
}

#[test]
fn alarms_ring_beside_messages_that_never_end() {
    let (fleet, hand) = fleet(1);
    fleet.spawn(failing(1).capability("retry")).unwrap();
    let weak = fleet.downgrade();
    let told = Arc::new(AtomicU32::new(0));
    let heard = Arc::clone(&told);
    let talker = AgentSpec::new("talker").handler_fn(move |_: &Task<u64>, cx| {
        heard.fetch_add(1, Ordering::SeqCst);
        if let Some(fleet) = weak.upgrade() {
            let _ = fleet.tell(cx.agent(), 0);
        }
        Ok(0)
    });
    let talker = fleet.spawn(talker).unwrap();
    let delayed =
        Task::new(0).capability("retry").retry_backoff(Backoff::exponential(ms(5), ms(5)));
    let delayed = fleet.submit(delayed).unwrap();
    asleep(&hand);
    fleet.tell(talker, 0).unwrap();
    eventually("it talks", || told.load(Ordering::SeqCst) > 100);
    hand.advance(ms(5));
    let outcome = delayed.wait_timeout(LONG).expect("its time has come");
    assert_eq!(*outcome, Outcome::Completed(2));
    fleet.kill(talker).unwrap();
    finish(&fleet);
}
