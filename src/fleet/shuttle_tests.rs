//! Models of the whole fleet under shuttle: more threads than loom can take, in random interleavings.
//!
//! Shuttle takes every ordering for `SeqCst`, so these models say nothing of orderings; those are loom's. What
//! they find is what goes wrong between many: a wake-up that is lost, a task that is lost or done twice, an
//! agent with two holders, books that do not balance. A failing schedule is printed, and `explore` says how to
//! run it again. Each model has twins in which one step is left out, and which must fail.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use super::{
    AgentDrain, AgentId, AgentSpec, AllocateError, Condition, Fleet, Lease, LeaseOutcome, Outcome,
    Request, ReturnReason, Strategy, Task,
};
use crate::clock::Timestamp;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, block_on, explore, thread, weakened};

const SCHEDULES: usize = 400;
/// Far beyond what a model takes.
const LONG: Duration = Duration::from_secs(1_000_000);

/// Who is held, counted beside the fleet.
#[derive(Default)]
struct Holders {
    held: Mutex<Vec<AgentId>>,
}

impl Holders {
    /// Uses an agent that may be used once at a time.
    fn use_it(&self, lease: Lease) {
        let agent = lease.agent();
        {
            let mut held = self.held.lock();
            assert!(!held.contains(&agent), "two holders of agent {agent}");
            held.push(agent);
        }
        thread::yield_now();
        self.held.lock().retain(|other| *other != agent);
        // An agent that was killed meanwhile is a stale lease.
        let _ = lease.complete(LeaseOutcome::Succeeded);
    }
}

/// Three threads wait for leases, two give up while they wait, and two agents come and go besides the one that
/// stays: by a kill and by a retirement.
fn leases_by(strategies: &[Strategy]) {
    let fleet = Fleet::<(), ()>::builder().strategies(strategies);
    let fleet = fleet.build().expect("the values are valid");
    fleet.spawn(AgentSpec::new("stays")).expect("there is room");
    let holders = Arc::new(Holders::default());
    let mut threads = Vec::new();
    for _ in 0..3 {
        let (fleet, holders) = (fleet.clone(), Arc::clone(&holders));
        threads.push(thread::spawn(move || {
            for _ in 0..2 {
                let lease = block_on(fleet.allocate_async(&Request::any()));
                holders.use_it(lease.expect("one agent stays"));
            }
        }));
    }
    for _ in 0..2 {
        let fleet = fleet.clone();
        threads.push(thread::spawn(move || {
            let mut request = fleet.allocate_async(&Request::any());
            let mut cx = Context::from_waker(Waker::noop());
            let first = Pin::new(&mut request).poll(&mut cx);
            thread::yield_now();
            drop((first, request));
        }));
    }
    let killer = fleet.clone();
    threads.push(thread::spawn(move || {
        let agent = killer.spawn(AgentSpec::new("is killed")).expect("there is room");
        thread::yield_now();
        killer.kill(agent).expect("nobody else kills it");
    }));
    let scaler = fleet.clone();
    threads.push(thread::spawn(move || {
        let agent = scaler.spawn(AgentSpec::new("is retired")).expect("there is room");
        while scaler.retire(agent).is_err() {
            thread::yield_now();
        }
    }));
    for thread in threads {
        thread.join().expect("no panic");
    }
    let stats = fleet.stats();
    assert_eq!((stats.agents_live, stats.leases_live, stats.requests_waiting), (1, 0, 0));
    assert_eq!(fleet.agents()[0].load, 0);
    assert!(!matches!(fleet.try_allocate(&Request::any()), Err(AllocateError::NoneIdle)));
}

fn leases() {
    leases_by(&[Strategy::LeastLoaded]);
}

#[test]
fn shuttle_leases_reach_those_who_wait_and_nobody_holds_an_agent_twice() {
    explore(SCHEDULES, leases);
}

#[test]
fn shuttle_leases_reach_those_who_wait_by_every_strategy() {
    for by in [Strategy::Priority, Strategy::RoundRobin, Strategy::Performance] {
        explore(SCHEDULES / 2, move || leases_by(&[by]));
    }
    explore(SCHEDULES / 2, || leases_by(&[Strategy::RoundRobin, Strategy::LeastLoaded]));
}

fn doubler() -> AgentSpec<usize, usize> {
    AgentSpec::new("doubler").handler_fn(|task, _cx| Ok(task.payload() * 2))
}

/// One that counts its attempts, and lets others run in each.
fn counting_doubler(ran: &Arc<AtomicUsize>) -> AgentSpec<usize, usize> {
    let ran = Arc::clone(ran);
    AgentSpec::new("doubler").handler_fn(move |task, _cx| {
        ran.fetch_add(1, Ordering::SeqCst);
        thread::yield_now();
        Ok(task.payload() * 2)
    })
}

/// Two workers, two submitters, and agents that are killed, replaced and leased meanwhile.
fn tasks() {
    let fleet = Fleet::<usize, usize>::builder().workers(2).build().expect("threads start");
    let ran = Arc::default();
    let spec = counting_doubler(&ran);
    let first = fleet.spawn(spec.clone()).expect("there is room");
    let named = fleet.spawn(spec.clone()).expect("there is room");
    let mut threads = Vec::new();
    for submitter in 0..2 {
        let fleet = fleet.clone();
        threads.push(thread::spawn(move || {
            let queued = fleet.submit(Task::new(submitter)).expect("there is room");
            let mailed = fleet.submit(Task::new(submitter).to(named)).expect("there is room");
            for handle in [queued, mailed] {
                assert_eq!(*handle.wait(), Outcome::Completed(submitter * 2));
            }
        }));
    }
    let killer = fleet.clone();
    threads.push(thread::spawn(move || {
        killer.kill(first).expect("nobody else kills it");
        thread::yield_now();
        killer.spawn(spec).expect("there is room");
    }));
    let holder = fleet.clone();
    threads.push(thread::spawn(move || {
        let lease = holder.try_allocate(&Request::any());
        thread::yield_now();
        drop(lease);
    }));
    for thread in threads {
        thread.join().expect("no panic");
    }
    let stats = fleet.stats();
    assert_eq!((stats.tasks_accepted, stats.tasks_completed), (4, 4));
    assert_eq!((stats.tasks_queued, stats.tasks_running), (0, 0));
    // Its drop joins the workers.
    drop(fleet);
    assert!((4..=6).contains(&ran.load(Ordering::SeqCst)), "an attempt for each task and kill");
}

#[test]
fn shuttle_every_task_is_done_once_whoever_dies_meanwhile() {
    explore(SCHEDULES, tasks);
}

/// Two threads drive a fleet and stop when they find nothing, while a third drains it and a fourth holds its only
/// agent for a while.
fn driven() {
    let fleet =
        Fleet::<usize, usize>::builder().driven().workers(2).build().expect("the values are valid");
    let spec = doubler();
    fleet.spawn(spec).expect("there is room");
    let lease = fleet.try_allocate(&Request::any()).expect("it is idle");
    let handles: Vec<_> =
        (0..3).map(|n| fleet.submit(Task::new(n)).expect("there is room")).collect();
    let drivers: Vec<_> = (0..2)
        .map(|_| {
            let fleet = fleet.clone();
            thread::spawn(move || fleet.run_ready(1))
        })
        .collect();
    let drains = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.drain(LONG).expect("no handler runs"))
    };
    thread::yield_now();
    drop(lease);
    for driver in drivers {
        driver.join().expect("no panic");
    }
    let report = drains.join().expect("no panic");
    assert!(report.is_complete(), "{report:?}");
    for (n, handle) in handles.iter().enumerate() {
        assert_eq!(*handle.wait(), Outcome::Completed(n * 2));
    }
}

#[test]
fn shuttle_a_drain_drives_what_those_who_drove_have_left() {
    explore(SCHEDULES, driven);
}

/// An agent with messages and a task of its own is drained by two threads, while a third has it serve again and a fourth
/// leases it again and again.
fn drains_and_service() {
    let fleet = Fleet::<usize, usize>::builder().workers(1).build().expect("a thread starts");
    let spec = doubler();
    let agent = fleet.spawn(spec).expect("there is room");
    for message in 0..2 {
        fleet.tell(agent, message).expect("there is room");
    }
    let task = fleet.submit(Task::new(3).to(agent)).expect("it lives");
    let drains: Vec<_> = (0..2)
        .map(|_| {
            let fleet = fleet.clone();
            thread::spawn(move || fleet.inner().drain_agent_until(agent, None))
        })
        .collect();
    let host = {
        let fleet = fleet.clone();
        thread::spawn(move || {
            for _ in 0..3 {
                if let Ok(lease) = fleet.try_allocate(&Request::any()) {
                    thread::yield_now();
                    assert!(lease.complete(LeaseOutcome::Succeeded).is_ok(), "a drain revoked it");
                }
                thread::yield_now();
            }
        })
    };
    let before = fleet.set_condition(agent, Condition::Fit);
    host.join().expect("no panic");
    // Those that begin only after that end the agent, and whoever drains it besides.
    let drains: Vec<_> = drains.into_iter().map(|drain| drain.join().expect("no panic")).collect();
    let reports: Vec<&AgentDrain> = drains.iter().filter_map(|drain| drain.as_ref().ok()).collect();
    let lives = fleet.agent(agent).is_some();
    assert_eq!(lives, reports.iter().all(|report| !report.ended), "{reports:?}");
    if lives {
        assert_eq!(before.expect("it lives"), Condition::Draining);
    }
    for report in &reports {
        assert!(report.messages_returned == 0 && report.messages_handled <= 2, "{report:?}");
    }
    assert_eq!(*task.wait(), Outcome::Completed(6));
    assert!(fleet.drain(LONG).expect("this is no worker").is_complete());
    assert_eq!((fleet.stats().messages_handled, fleet.stats().messages_returned), (2, 0));
}

/// One that began before an agent was to serve again ends it all the same, or nothing.
fn service_ends_a_drain() {
    let fleet = Fleet::<usize, usize>::builder().workers(1).build().expect("a thread starts");
    let spec = doubler();
    let agent = fleet.spawn(spec).expect("there is room");
    fleet.tell(agent, 1).expect("there is room");
    let drain = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.inner().drain_agent_until(agent, None))
    };
    thread::yield_now();
    let before = fleet.set_condition(agent, Condition::Fit);
    let drained = drain.join().expect("no panic");
    match (before, drained) {
        (Ok(Condition::Draining), Ok(drained)) => {
            assert!(!drained.ended && fleet.agent(agent).is_some(), "it was to serve: {drained:?}");
            let reply = fleet.ask(agent, 7).expect("it takes messages again");
            assert_eq!(reply.wait(), Outcome::Completed(14));
        }
        // It came before the drain, or after that.
        (Ok(_) | Err(_), Ok(drained)) => assert!(drained.ended, "{drained:?}"),
        (before, Err(error)) => panic!("{error}, and it was {before:?}"),
    }
}

/// The time of a drain has run out as it begins, or runs out later, while a worker comes to what the agent has.
fn late(from_the_first: bool) {
    let fleet = Fleet::<usize, usize>::builder().workers(1).build().expect("a thread starts");
    let ran = Arc::default();
    let agent = fleet.spawn(counting_doubler(&ran)).expect("there is room");
    let replies = [1, 2].map(|n| fleet.ask(agent, n).expect("there is room"));
    let task = fleet.submit(Task::new(3).to(agent)).expect("it lives");
    let inner = fleet.inner();
    let draining = inner.begin_drain(agent, from_the_first).expect("it lives");
    thread::yield_now();
    let drained = inner.see_out(draining, Some(Timestamp::ZERO), true);
    if from_the_first {
        assert_eq!(drained.messages_handled, 0, "it was late before that began");
    }
    let begun = drained.ended.then(|| ran.load(Ordering::SeqCst));
    if !drained.ended {
        // What runs then goes on, and nothing else begins.
        fleet.inner().drain_agent_until(agent, None).expect("it lives");
    }
    let ran = ran.load(Ordering::SeqCst);
    assert!(begun.is_none_or(|begun| begun == ran), "a handler began after the end");
    let outcomes = replies.map(|reply| reply.wait()).into_iter().chain([(*task.wait()).clone()]);
    let wanted = |place: usize| match place < ran {
        true => Outcome::Completed((place + 1) * 2),
        false => Outcome::Returned(ReturnReason::AgentGone),
    };
    for (place, outcome) in outcomes.enumerate() {
        assert_eq!(outcome, wanted(place), "{place} of {ran} that ran, and {drained:?}");
    }
}

#[test]
fn shuttle_a_drain_loses_nothing_and_revokes_nothing_whoever_has_the_agent_serve_again() {
    explore(SCHEDULES, drains_and_service);
    explore(SCHEDULES, service_ends_a_drain);
}

#[test]
fn shuttle_what_has_begun_as_a_drain_is_late_ends_and_the_rest_comes_back() {
    explore(SCHEDULES, || late(true));
    explore(SCHEDULES, || late(false));
}

/// A fleet is shut down while agents join, are killed, drained and retired, tasks come in for any of them and for one,
/// and somebody waits for a lease. Whatever was accepted or began to wait has one end, and that is what is said.
fn shutdown_in_the_thick() {
    let fleet = Fleet::<usize, usize>::builder().workers(2).build().expect("threads start");
    let ran = Arc::default();
    let spec = counting_doubler(&ran);
    let agents: Vec<_> =
        (0..3).map(|_| fleet.spawn(spec.clone()).expect("there is room")).collect();
    let submitter = {
        let (fleet, named) = (fleet.clone(), agents[0]);
        thread::spawn(move || {
            let mut handles = Vec::new();
            for n in 0..2 {
                handles.extend(fleet.submit(Task::new(n)).ok());
                handles.extend(fleet.submit(Task::new(n).to(named)).ok());
            }
            handles
        })
    };
    let waiter = {
        let fleet = fleet.clone();
        thread::spawn(move || block_on(fleet.allocate_async(&Request::any())).map(drop))
    };
    let changes = {
        let (fleet, agents) = (fleet.clone(), agents.clone());
        thread::spawn(move || {
            // Each may come too late.
            let _ = fleet.kill(agents[1]);
            let _ = fleet.spawn(spec);
            let _ = fleet.retire(agents[2]);
        })
    };
    let drain = {
        let (fleet, agent) = (fleet.clone(), agents[0]);
        thread::spawn(move || fleet.inner().drain_agent_until(agent, None).map(drop))
    };
    thread::yield_now();
    let report = fleet.shutdown(LONG).expect("this is no worker");
    let handles = submitter.join().expect("no panic");
    let waited = waiter.join().expect("no panic");
    assert!(matches!(waited, Ok(()) | Err(AllocateError::Closed)), "{waited:?}");
    changes.join().expect("no panic");
    let _ = drain.join().expect("no panic");
    let mut completed = 0;
    for handle in &handles {
        match *handle.try_outcome().expect("the shutdown has ended, and so has every task") {
            Outcome::Completed(_) => completed += 1,
            Outcome::Returned(ReturnReason::AgentGone | ReturnReason::Shutdown) => {}
            ref other => panic!("{other:?}"),
        }
    }
    assert!(report.is_complete() && report.workers_left == 0, "{report:?}");
    let stats = fleet.stats();
    assert_eq!((stats.tasks_accepted, stats.tasks_completed), (handles.len() as u64, completed));
    assert_eq!((stats.agents_live, stats.leases_live, stats.requests_waiting), (0, 0, 0));
    assert!(ran.load(Ordering::SeqCst) as u64 >= completed);
}

#[test]
fn shuttle_a_shutdown_in_the_thick_of_it_ends_everything_once() {
    explore(SCHEDULES, shutdown_in_the_thick);
}

/// The models and a step of each that they cannot do without.
#[test]
fn shuttle_twins_without_one_step_fail() {
    let twins: [(&str, fn()); 6] = [
        ("fleet.say-who-waits", leases),
        ("fleet.retire-the-busy", leases),
        ("runner.lie-down-without-a-look", tasks),
        ("inbox.withdraw-at-stop", shutdown_in_the_thick),
        ("drain.hear-of-service", service_ends_a_drain),
        ("drain.begin-late", || late(true)),
    ];
    for (step, model) in twins {
        let twin = std::panic::catch_unwind(|| weakened(step, || explore(SCHEDULES, model)));
        assert!(twin.is_err(), "nothing fails without {step}");
    }
}
