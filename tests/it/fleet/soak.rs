//! A minute of agents, leases, tasks and messages that come and go, after which the process is as large as before.

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::support::{LONG, balanced, poll};
use crate::resident::{GROWTH_MAX_BYTES, growth_of_a_minute};
use phalanx::fleet::supervise::{Restart, RestartPolicy};
use phalanx::fleet::{
    AgentId, AgentSpec, Backoff, Budgets, Condition, Fleet, GroupKey, IdempotencyKey, LeaseOutcome,
    Priority, Request, Task, TaskError, TaskId,
};

/// What tasks and messages carry: enough for a leak of one message in ten to be seen.
type Payload = Box<[u64; 32]>;
type Soaked = Fleet<Payload, Payload>;

const NANOSECONDS: fn(u64) -> Duration = Duration::from_nanos;

fn payload(number: u64) -> Payload {
    Box::new([number; 32])
}

/// An agent of a name, a group and a label of its own, with one of eight capabilities.
fn spec(number: u64) -> AgentSpec<Payload, Payload> {
    let spec = AgentSpec::<Payload, Payload>::new(format!("agent {number}"))
        .capability(format!("capability {}", number % 8))
        .label("number", number.to_string())
        .group(GroupKey::new(number))
        .handler_fn(|task, cx| {
            cx.report_progress(0.5, "half of it");
            match task.payload()[0] % 97 {
                // As a panic does, but for the message.
                0 => resume_unwind(Box::new("a handler panics")),
                1 => Err(TaskError::retryable("not this time")),
                2 => Err(TaskError::permanent("never")),
                number => Ok(payload(number)),
            }
        });
    match number % 3 {
        0 => spec.restart(RestartPolicy::new(Restart::OnFailure)),
        1 => spec.prewarmed(),
        _ => spec,
    }
}

/// Agents come, are told things, and end in all ways there are.
fn churn(fleet: &Soaked, number: u64) {
    let Ok(agent) = fleet.spawn(spec(number)) else { return };
    for message in 0..number % 20 {
        drop(fleet.tell(agent, payload(message)));
    }
    drop(fleet.ask(agent, payload(number)));
    drop(fleet.submit(Task::new(payload(number)).to(agent)));
    for message in 0..number % 18 {
        drop(fleet.tell_control(agent, payload(message)));
    }
    end(fleet, agent, number);
}

fn end(fleet: &Soaked, agent: AgentId, number: u64) {
    match number % 5 {
        0 => drop(fleet.kill(agent)),
        1 => drop(fleet.drain_agent(agent, Duration::ZERO)),
        2 => drop(fleet.drain_agent(agent, Duration::from_millis(1))),
        3 => {
            // Out of service and in again, before it ends.
            drop(fleet.set_condition(agent, Condition::Failed));
            drop(fleet.set_condition(agent, Condition::Fit));
            drop(fleet.retire(agent));
        }
        _ => drop(poll(&mut fleet.drain_agent_async(agent))),
    }
    // Whatever it was, it ends.
    drop(fleet.kill(agent));
}

/// Tasks with all that a task can have.
fn submit(fleet: &Soaked, number: u64, last: &mut Option<TaskId>) {
    let task = Task::new(payload(number))
        .capability(format!("capability {}", number % 4))
        .priority(Priority::new((number % 256) as u8))
        .group(GroupKey::new(number))
        .retry_backoff(Backoff::constant(NANOSECONDS(1)));
    let task = match number % 5 {
        0 => task.idempotency_key(IdempotencyKey::new(u128::from(number / 2))),
        1 => task.timeout(Duration::from_millis(1)),
        2 => last.map_or_else(|| Task::new(payload(number)), |last| task.after_id(last)),
        _ => task,
    };
    if number.is_multiple_of(7) {
        // Some futures are given up while they wait.
        drop(poll(&mut fleet.submit_async(task)));
        return;
    }
    if let Ok(handle) = fleet.submit_timeout(task, Duration::from_millis(1)) {
        *last = Some(handle.id());
        if number.is_multiple_of(11) {
            handle.cancel();
        }
        if number.is_multiple_of(3) {
            drop(handle.wait_timeout(Duration::from_millis(1)));
        }
    }
}

/// Leases that are completed, dropped, or expire, and requests that are given up.
fn lease(fleet: &Soaked, number: u64) {
    let request = Request::any()
        .capability(format!("capability {}", number % 4))
        .group(GroupKey::new(number))
        .ttl(Duration::from_micros(number % 100 + 1));
    let mut waits = fleet.allocate_async(&request);
    drop(poll(&mut waits));
    drop(poll(&mut fleet.allocate_batch_async(&request, 3)));
    if let Ok(lease) = fleet.allocate_timeout(&request, NANOSECONDS(100_000)) {
        match number % 3 {
            0 => _ = lease.complete(LeaseOutcome::Succeeded),
            1 => drop(lease),
            _ => {
                thread::yield_now();
                fleet.tick();
                // It may be stale by now.
                let _ = lease.complete(LeaseOutcome::Failed);
            }
        }
    }
}

#[test]
#[ignore = "takes a minute by its nature; the gate runs it by itself"]
fn a_minute_of_agents_that_come_and_go_leaves_the_process_as_large_as_it_was() {
    let some = |number| NonZeroUsize::new(number).expect("it is not zero");
    let fleet = Fleet::<Payload, Payload>::builder()
        .workers(2)
        .queue_capacity(some(256))
        .max_agents(some(64))
        .history(100)
        .remembered_keys(100)
        .budgets(Budgets::new(some(100)))
        .build()
        .expect("it is valid");
    // Some stay, or nobody could take a task.
    let stays: Vec<_> = (0..8).map(|number| fleet.spawn(spec(number)).expect("room")).collect();
    let stop = AtomicBool::new(false);
    let until_stopped = |act: &mut dyn FnMut(u64)| {
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                return number;
            }
            act(number);
        }
        unreachable!("nobody counts so far")
    };
    thread::scope(|scope| {
        let churned = scope.spawn(|| until_stopped(&mut |number| churn(&fleet, number)));
        let submitted = scope.spawn(|| {
            let mut last = None;
            until_stopped(&mut |number| submit(&fleet, number, &mut last))
        });
        let leased = scope.spawn(|| until_stopped(&mut |number| lease(&fleet, number)));
        scope.spawn(|| {
            until_stopped(&mut |_| {
                // One that is slow, and is abandoned with what it has.
                let mut outcomes = fleet.outcomes(some(16));
                for _ in 0..100 {
                    drop(outcomes.next_timeout(Duration::from_millis(1)));
                }
            })
        });
        scope.spawn(|| {
            until_stopped(&mut |number| {
                // Those that stay do so though they panic.
                let agent = stays[number as usize % stays.len()];
                drop(fleet.set_condition(agent, Condition::Fit));
                drop((fleet.stats(), fleet.agents(), fleet.observe(&spec(number % 8))));
                thread::sleep(Duration::from_millis(1));
            })
        });
        let grown = growth_of_a_minute();
        stop.store(true, Ordering::Relaxed);
        let counts = [churned, submitted, leased].map(|act| act.join().expect("it does not panic"));
        let [churned, submitted, leased] = counts;
        println!("{churned} agents, {submitted} tasks, {leased} leases; grown by {grown} bytes");
        assert!(grown < GROWTH_MAX_BYTES, "grown by {grown} bytes in a minute");
        assert!(counts.iter().all(|count| *count > 1_000), "{counts:?}: one of them stood still");
    });
    let report = fleet.shutdown(LONG).expect("it is no worker");
    assert!(report.is_complete(), "{report:?}");
    balanced(&fleet.stats());
}
