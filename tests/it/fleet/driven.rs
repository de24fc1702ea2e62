//! Fleets that have no threads: the host's run the handlers.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use super::support::{Gate, LONG, eventually, finish};
use phalanx::fleet::{
    AgentSpec, Backoff, Fleet, FleetBuilder, Outcome, OutcomeKind, Progress, Request, ReturnReason,
    Task, TaskError, TaskHandle, WeakFleet,
};
use phalanx::{ErrorKind, ManualClock};

const SECOND: Duration = Duration::from_secs(1);

fn driven() -> FleetBuilder<u64, u64> {
    Fleet::builder().driven()
}

fn doubler() -> AgentSpec<u64, u64> {
    AgentSpec::new("doubler").handler_fn(|task: &Task<u64>, _cx| Ok(task.payload() * 2))
}

#[test]
fn a_driven_fleet_runs_when_it_is_driven_and_never_else() {
    let fleet = driven().build().unwrap();
    let agent = fleet.spawn(doubler()).unwrap();
    let queued = fleet.submit(Task::new(1)).unwrap();
    let named = fleet.submit(Task::new(2).to(agent)).unwrap();
    let asked = fleet.ask(agent, 3).unwrap();
    fleet.tell(agent, 4).unwrap();
    assert_eq!(fleet.run_ready(0), 0);
    assert_eq!((fleet.stats().tasks_queued, fleet.stats().messages_handled), (2, 0));
    assert_eq!(fleet.run_ready(usize::MAX), 2, "one attempt, and one turn of the mailbox");
    assert_eq!(*queued.wait(), Outcome::Completed(2));
    assert_eq!(*named.wait(), Outcome::Completed(4));
    assert_eq!(asked.wait(), Outcome::Completed(6));
    assert_eq!(fleet.stats().messages_handled, 2);
    assert_eq!(fleet.run_ready(usize::MAX), 0);
    finish(&fleet);
}

#[test]
fn no_more_runs_than_the_limit() {
    let fleet = driven().build().unwrap();
    fleet.spawn_batch(&doubler(), 3).unwrap();
    let handles: Vec<_> = (0..5).map(|n| fleet.submit(Task::new(n)).unwrap()).collect();
    let done = || handles.iter().filter(|handle| handle.try_outcome().is_some()).count();
    assert_eq!((fleet.run_ready(2), done()), (2, 2));
    assert_eq!((fleet.run_ready(2), done()), (2, 4));
    assert_eq!((fleet.run_ready(2), done()), (1, 5));
    finish(&fleet);
}

#[test]
fn what_becomes_ready_while_it_is_driven_runs_too() {
    let own: Arc<OnceLock<WeakFleet<u64, u64>>> = Arc::default();
    let fleet = driven().build().unwrap();
    own.set(fleet.downgrade()).unwrap();
    let spec = AgentSpec::new("countdown").handler_fn(move |task: &Task<u64>, _cx| {
        let fleet = own.get().and_then(WeakFleet::upgrade).expect("it runs this");
        if let Some(less) = task.payload().checked_sub(1) {
            drop(fleet.submit(Task::new(less)).map_err(|_| TaskError::permanent("refused"))?);
        }
        Ok(0)
    });
    fleet.spawn(spec).unwrap();
    drop(fleet.submit(Task::new(9)).unwrap());
    assert_eq!(fleet.run_ready(usize::MAX), 10);
    finish(&fleet);
}

#[test]
fn what_is_lined_up_during_a_task_waits_for_one_other_at_most() {
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let own: Arc<OnceLock<WeakFleet<u64, u64>>> = Arc::default();
    let fleet = driven().build().unwrap();
    own.set(fleet.downgrade()).unwrap();
    let spec = {
        let seen = Arc::clone(&seen);
        AgentSpec::new("teller").handler_fn(move |task: &Task<u64>, _cx| {
            seen.lock().unwrap().push(*task.payload());
            if *task.payload() == 1 {
                let fleet = own.get().and_then(WeakFleet::upgrade).expect("it runs this");
                let other = fleet.agents()[1].id;
                fleet.tell(other, 10).expect("it has a mailbox");
            }
            Ok(0)
        })
    };
    fleet.spawn_batch(&spec, 2).unwrap();
    for number in 1..=3 {
        drop(fleet.submit(Task::new(number)).unwrap());
    }
    fleet.run_ready(usize::MAX);
    // The queue of tasks was in line before.
    assert_eq!(*seen.lock().unwrap(), [1, 2, 10, 3]);
    finish(&fleet);
}

#[test]
fn time_that_has_passed_is_noticed_by_whoever_drives() {
    let (clock, hand) = ManualClock::new();
    let fleet = driven().clock(clock).build().unwrap();
    let spec = AgentSpec::new("second try").handler_fn(|task: &Task<u64>, cx| {
        if cx.attempt().get() == 1 { Err(TaskError::retryable("no")) } else { Ok(*task.payload()) }
    });
    fleet.spawn(spec).unwrap();
    let twice = Task::new(7).max_attempts(NonZeroU32::MAX).retry_backoff(Backoff::constant(SECOND));
    let twice = fleet.submit(twice).unwrap();
    assert_eq!(fleet.run_ready(usize::MAX), 1);
    let nobody = fleet.try_allocate(&Request::any()).unwrap();
    let late = fleet.submit(Task::new(8).timeout(SECOND)).unwrap();
    assert_eq!(fleet.run_ready(usize::MAX), 0, "its backoff is not over");
    hand.advance(SECOND);
    assert_eq!(fleet.run_ready(usize::MAX), 0, "the agent is leased");
    assert_eq!(late.try_outcome().expect("it was late").kind(), OutcomeKind::Failed);
    drop(nobody);
    assert_eq!(fleet.run_ready(usize::MAX), 1);
    assert_eq!(*twice.wait(), Outcome::Completed(7));
    finish(&fleet);
}

#[test]
fn a_handler_neither_drives_nor_stops_the_fleet_that_runs_it() {
    let own: Arc<OnceLock<WeakFleet<u64, u64>>> = Arc::default();
    let fleet = driven().workers(2).build().unwrap();
    own.set(fleet.downgrade()).unwrap();
    let spec = AgentSpec::new("inner").handler_fn(move |_task: &Task<u64>, _cx| {
        let fleet = own.get().and_then(WeakFleet::upgrade).expect("it runs this");
        assert_eq!(fleet.run_ready(usize::MAX), 0);
        let refused = fleet.drain(LONG).expect_err("it would wait for itself");
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        let refused = fleet.shutdown(LONG).expect_err("it would wait for itself");
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        Ok(1)
    });
    fleet.spawn_batch(&spec, 2).unwrap();
    let handles: Vec<_> = (0..2).map(|n| fleet.submit(Task::new(n)).unwrap()).collect();
    assert_eq!(fleet.run_ready(usize::MAX), 2);
    assert!(handles.iter().all(|handle| *handle.wait() == Outcome::Completed(1)));
    finish(&fleet);
}

#[test]
fn as_many_threads_drive_at_once_as_there_are_workers() {
    let gate = Gate::new();
    let fleet = driven().workers(2).build().unwrap();
    let passing = Arc::clone(&gate);
    let spec = AgentSpec::new("gated").handler_fn(move |task: &Task<u64>, _cx| {
        passing.pass();
        Ok(*task.payload())
    });
    fleet.spawn_batch(&spec, 3).unwrap();
    let handles: Vec<_> = (0..3).map(|n| fleet.submit(Task::new(n)).unwrap()).collect();
    let drivers: Vec<_> = (0..2)
        .map(|_| {
            let fleet = fleet.clone();
            // What is ready is not in line while another one that drives takes it.
            thread::spawn(move || {
                let mut ran = 0;
                while ran == 0 {
                    ran = fleet.run_ready(1);
                }
                ran
            })
        })
        .collect();
    gate.await_arrivals(2);
    assert_eq!(fleet.run_ready(usize::MAX), 0, "both seats are taken");
    gate.open();
    for driver in drivers {
        assert_eq!(driver.join().unwrap(), 1);
    }
    assert_eq!(fleet.run_ready(usize::MAX), 1);
    assert!(handles.iter().all(|handle| handle.try_outcome().is_some()));
    finish(&fleet);
}

#[test]
fn a_panic_in_a_handler_gives_the_seat_back() {
    let fleet = driven().build().unwrap();
    let spec = AgentSpec::new("panics").handler_fn(|_task: &Task<u64>, _cx| panic!("a handler"));
    fleet.spawn(spec).unwrap();
    for n in 0..3 {
        let handle = fleet.submit(Task::new(n).max_attempts(NonZeroU32::MIN)).unwrap();
        assert_eq!(fleet.run_ready(usize::MAX), 1);
        assert_eq!(handle.wait().kind(), OutcomeKind::Failed);
    }
    assert_eq!(finish(&fleet).workers_left, 0);
}

#[test]
fn a_fleet_that_has_threads_is_not_driven() {
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    fleet.spawn(doubler()).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    let handle = fleet.submit(Task::new(4)).unwrap();
    assert_eq!(fleet.run_ready(usize::MAX), 0);
    drop(lease);
    assert_eq!(*handle.wait(), Outcome::Completed(8));
    finish(&fleet);
}

#[test]
fn a_drain_drives_until_all_has_ended() {
    let fleet = driven().build().unwrap();
    let agent = fleet.spawn(doubler()).unwrap();
    let handles: Vec<_> = (0..9).map(|n| fleet.submit(Task::new(n)).unwrap()).collect();
    fleet.tell(agent, 1).unwrap();
    let report = fleet.drain(LONG).unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((report.completed, report.messages_handled, report.workers_left), (9, 1, 0));
    assert!(handles.iter().all(|handle| handle.try_outcome().is_some()));
    finish(&fleet);
}

#[test]
fn a_drain_without_time_runs_nothing() {
    let (clock, _hand) = ManualClock::new();
    let fleet = driven().clock(clock).build().unwrap();
    fleet.spawn(doubler()).unwrap();
    drop(fleet.submit(Task::new(1)).unwrap());
    let report = fleet.drain(Duration::ZERO).unwrap();
    assert_eq!((report.completed, report.unfinished.len()), (0, 1));
    assert_eq!(fleet.run_ready(usize::MAX), 1, "it is closed to tasks alone");
    finish(&fleet);
}

#[test]
fn a_drain_that_found_nothing_ready_runs_what_another_thread_makes_ready() {
    let (clock, hand) = ManualClock::new();
    let fleet = driven().clock(clock).build().unwrap();
    fleet.spawn(doubler()).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    let handle = fleet.submit(Task::new(5)).unwrap();
    let drains = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.drain(LONG).unwrap())
    };
    eventually("the drain sleeps", || hand.sleepers() == 1);
    drop(lease);
    assert!(drains.join().unwrap().is_complete());
    assert_eq!(*handle.wait(), Outcome::Completed(10));
    finish(&fleet);
}

#[test]
fn a_drain_sleeps_until_the_next_attempt_is_due() {
    let (clock, hand) = ManualClock::new();
    let fleet = driven().clock(clock).build().unwrap();
    let spec = AgentSpec::new("third try").handler_fn(|_task: &Task<u64>, cx| {
        if cx.attempt().get() < 3 { Err(TaskError::retryable("no")) } else { Ok(3) }
    });
    fleet.spawn(spec).unwrap();
    let task = Task::new(7).max_attempts(NonZeroU32::MAX).retry_backoff(Backoff::constant(SECOND));
    let handle = fleet.submit(task).unwrap();
    let drains = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.drain(LONG).unwrap())
    };
    while !drains.is_finished() {
        if hand.sleepers() == 1 {
            hand.advance(SECOND);
        }
        thread::yield_now();
    }
    assert!(drains.join().unwrap().is_complete());
    assert_eq!(*handle.wait(), Outcome::Completed(3));
    finish(&fleet);
}

#[test]
fn a_drain_takes_the_seat_that_another_thread_leaves() {
    let gate = Gate::new();
    let fleet = driven().build().unwrap();
    let passing = Arc::clone(&gate);
    let spec = AgentSpec::new("gated").handler_fn(move |task: &Task<u64>, _cx| {
        passing.pass();
        Ok(*task.payload())
    });
    fleet.spawn(spec).unwrap();
    let handles: Vec<_> = (0..3).map(|n| fleet.submit(Task::new(n)).unwrap()).collect();
    let driver = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.run_ready(1))
    };
    gate.await_arrivals(1);
    let drains = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.drain(LONG).unwrap())
    };
    eventually("it drains", || fleet.submit(Task::new(9)).is_err());
    gate.open();
    assert_eq!(driver.join().unwrap(), 1);
    assert!(drains.join().unwrap().is_complete());
    assert!(handles.iter().all(|handle| handle.try_outcome().is_some()));
    finish(&fleet);
}

#[test]
fn a_shutdown_returns_what_nobody_drove_and_ends_a_drain_that_sleeps() {
    let (clock, hand) = ManualClock::new();
    let fleet = driven().clock(clock).build().unwrap();
    let agent = fleet.spawn(doubler()).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    let queued = fleet.submit(Task::new(5)).unwrap();
    let named = fleet.submit(Task::new(5).to(agent)).unwrap();
    let drains = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.drain(LONG).unwrap())
    };
    eventually("the drain sleeps", || hand.sleepers() == 1);
    let report = finish(&fleet);
    assert_eq!((report.returned, report.workers_left), (2, 0));
    for handle in [queued, named] {
        assert_eq!(*handle.wait(), Outcome::Returned(ReturnReason::Shutdown));
    }
    assert!(drains.join().unwrap().is_complete());
    assert_eq!(fleet.run_ready(usize::MAX), 0);
    drop(lease);
}

#[test]
fn a_shutdown_counts_a_thread_that_drives_and_does_not_come_back() {
    let gate = Gate::new();
    let fleet = driven().build().unwrap();
    let passing = Arc::clone(&gate);
    let spec = AgentSpec::new("gated").handler_fn(move |task: &Task<u64>, _cx| {
        passing.pass();
        Ok(*task.payload())
    });
    fleet.spawn(spec).unwrap();
    let handle = fleet.submit(Task::new(1)).unwrap();
    let driver = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.run_ready(1))
    };
    gate.await_arrivals(1);
    let report = fleet.shutdown(Duration::ZERO).unwrap();
    assert_eq!((report.workers_left, report.returned), (1, 1));
    assert_eq!(*handle.wait(), Outcome::Returned(ReturnReason::Shutdown));
    gate.open();
    assert_eq!(driver.join().unwrap(), 1);
    assert_eq!(fleet.stats().late_completions_refused, 1);
    finish(&fleet);
}

#[test]
fn many_threads_that_drive_run_each_task_once() {
    let ran = Arc::new(AtomicUsize::new(0));
    let order = Arc::new(Mutex::new(Vec::new()));
    let fleet = driven().workers(3).build().unwrap();
    let (counted, noted) = (Arc::clone(&ran), Arc::clone(&order));
    let spec = AgentSpec::new("counted").handler_fn(move |task: &Task<u64>, _cx| {
        counted.fetch_add(1, Ordering::Relaxed);
        noted.lock().unwrap().push(*task.payload());
        Ok(*task.payload())
    });
    fleet.spawn_batch(&spec, 3).unwrap();
    let drivers: Vec<_> = (0..3)
        .map(|_| {
            let fleet = fleet.clone();
            let ran = Arc::clone(&ran);
            thread::spawn(move || {
                let mut own = 0;
                while ran.load(Ordering::Relaxed) < 300 {
                    own += fleet.run_ready(7);
                    thread::yield_now();
                }
                own
            })
        })
        .collect();
    let handles: Vec<_> = (0..300).map(|n| fleet.submit(Task::new(n)).unwrap()).collect();
    let attempts: usize = drivers.into_iter().map(|driver| driver.join().unwrap()).sum();
    assert_eq!(attempts, 300);
    assert!(handles.iter().all(|handle| handle.wait().completed().is_some()));
    let mut order = order.lock().unwrap().clone();
    order.sort_unstable();
    assert!(order.into_iter().eq(0..300));
    finish(&fleet);
}

/// What an attempt finds as it begins: whether it is cancelled or revoked, and what it is said to have reported.
type Found = (bool, bool, Option<Progress>);

#[test]
fn the_next_attempt_is_not_told_what_the_one_before_was() {
    let fleet = Fleet::<u64, u64>::builder().driven().build().unwrap();
    let handles = Arc::new(Mutex::new(Vec::<TaskHandle<u64>>::new()));
    let found = Arc::new(Mutex::new(Vec::<Found>::new()));
    let spec = {
        let (fleet, handles, found) = (fleet.downgrade(), Arc::clone(&handles), Arc::clone(&found));
        AgentSpec::<u64, u64>::new("agent").handler_fn(move |task, cx| {
            let number = *task.payload();
            let own = handles.lock().unwrap()[usize::try_from(number).unwrap()].clone();
            found.lock().unwrap().push((cx.is_cancelled(), cx.is_revoked(), own.progress()));
            cx.report_progress(0.5, "begun");
            assert!(own.progress().is_some_and(|progress| progress.note == "begun"));
            match number {
                0 => assert!(own.cancel() && cx.is_cancelled()),
                1 if cx.attempt().get() == 1 => {
                    fleet.upgrade().unwrap().kill(cx.agent()).unwrap();
                    assert!(cx.is_revoked() && own.progress().is_none());
                }
                _ => {}
            }
            Ok(number)
        })
    };
    fleet.spawn_batch(&spec, 2).unwrap();
    let submit = |number| fleet.submit(Task::new(number)).unwrap();
    handles.lock().unwrap().extend((0..4).map(submit));
    assert_eq!(fleet.run_ready(usize::MAX), 5, "the second runs twice");
    assert_eq!(*found.lock().unwrap(), vec![(false, false, None); 5]);
    for (handle, number) in handles.lock().unwrap().iter().zip(0..) {
        assert_eq!(*handle.try_outcome().unwrap(), Outcome::Completed(number));
    }
    let report = fleet.shutdown(LONG).unwrap();
    assert_eq!(report.completed, 4);
}

/// Drains for so many seconds a fleet whose handlers take as many as their messages say; how many were left.
fn left_by_a_drain_for(seconds: u32, messages: &[u64]) -> u64 {
    let (clock, hand) = ManualClock::new();
    let fleet = driven().clock(clock).build().unwrap();
    let spec = AgentSpec::new("slow").handler_fn(move |task: &Task<u64>, _cx| {
        hand.advance(Duration::from_secs(*task.payload()));
        Ok(0)
    });
    let agents = fleet.spawn_batch(&spec, messages.len()).unwrap();
    for (agent, message) in agents.into_iter().zip(messages) {
        fleet.tell(agent, *message).unwrap();
    }
    let report = fleet.drain(SECOND * seconds).unwrap();
    assert_eq!(report.messages_handled + report.messages_unfinished, messages.len() as u64);
    report.messages_unfinished
}

#[test]
fn a_drain_that_drives_is_late_by_one_turn() {
    assert_eq!(left_by_a_drain_for(1, &[1; 64]), 63);
    assert_eq!(left_by_a_drain_for(5, &[2; 64]), 61, "the third began in time");
    // One that takes long, where those before took no time.
    let mut messages = vec![0; 200];
    messages.extend([1; 64]);
    let left = left_by_a_drain_for(1, &messages);
    assert!((48..64).contains(&left), "{left}");
}
