//! Drains that end otherwise than by the last work of their agent: the time has run out, or it is to serve again.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::drained::{await_draining, drain};
use super::support::{Gate, LONG, SlowLog, Witness, eventually, finish};
use phalanx::fleet::{
    AgentId, AgentSpec, Backoff, Budgets, Condition, Fleet, FleetEvent, GroupKey,
    IfDependencyFails, Limit, Meter, Outcome, OutcomeKind, Quota, Request, ReturnReason, Scope,
    Task, TaskError, TaskHandle,
};
use phalanx::{Clock, ManualClock};

const HOUR: Duration = Duration::from_secs(3600);
const GONE: Outcome<u64> = Outcome::Returned(ReturnReason::AgentGone);

type Notes = Arc<Mutex<Vec<u64>>>;

/// An agent that writes down what it is given, and fails, to be tried again, at all that is odd.
fn choosy(notes: &Notes) -> AgentSpec<u64, u64> {
    let notes = Arc::clone(notes);
    AgentSpec::new("choosy").handler_fn(move |task, _| {
        notes.lock().unwrap().push(*task.payload());
        let odd = task.payload() % 2 == 1;
        if odd { Err(TaskError::retryable("it is odd")) } else { Ok(*task.payload()) }
    })
}

fn again(payload: u64, agent: AgentId, backoff: Duration) -> Task<u64> {
    let attempts = NonZeroU32::new(9).unwrap();
    Task::new(payload).to(agent).max_attempts(attempts).retry_backoff(Backoff::constant(backoff))
}

/// A fleet of one worker whose one group may hold no lease.
fn fleet_without_room(clock: Clock) -> (Fleet<u64, u64>, GroupKey, Budgets) {
    let budgets = Budgets::new(NonZeroUsize::new(4).unwrap());
    let group = GroupKey::new(7);
    let none = Quota::new().limit(Meter::Leases, Limit::hard(0));
    budgets.set(Scope::Group(group), none).unwrap();
    let builder = Fleet::<u64, u64>::builder().workers(1).clock(clock).budgets(budgets.clone());
    let six = NonZeroUsize::new(6).unwrap();
    (builder.queue_capacity(six).build().unwrap(), group, budgets)
}

/// What waits for an agent elsewhere than in its mailbox: for its next attempt, for another task, and for a budget.
fn waiting_elsewhere(
    fleet: &Fleet<u64, u64>,
    agent: AgentId,
    group: GroupKey,
) -> (TaskHandle<u64>, Vec<TaskHandle<u64>>) {
    // Nobody who serves can do it.
    let other = AgentSpec::<u64, u64>::new("other").capability("other").handler_fn(|_, _| Ok(0));
    fleet.spawn(other.condition(Condition::Starting)).unwrap();
    let first = fleet.submit(Task::new(0).capability("other")).unwrap();
    let delayed = fleet.submit(again(1, agent, HOUR)).unwrap();
    let held = Task::new(2).to(agent).after(&first).if_dependency_fails(IfDependencyFails::Release);
    let held = fleet.submit(held).unwrap();
    let aside = fleet.submit(Task::new(4).to(agent).group(group)).unwrap();
    let after_that = fleet.submit(Task::new(6).to(agent).after(&aside)).unwrap();
    eventually("its attempt is lost, and nothing runs", || {
        let stats = fleet.stats();
        fleet.mailbox_len(agent) == Some(0) && (stats.tasks_queued, stats.leases_live) == (5, 0)
    });
    (first, vec![delayed, held, aside, after_that])
}

#[test]
fn what_waits_elsewhere_for_an_agent_comes_back_as_its_drain_is_late_and_never_runs() {
    for (stays, at_once) in [(false, true), (true, true), (false, false), (true, false)] {
        let (clock, hand) = ManualClock::new();
        let (fleet, group, budgets) = fleet_without_room(clock);
        let notes = Notes::default();
        let two = NonZeroU32::new(2).unwrap();
        let agent = fleet.spawn(choosy(&notes).max_leases(two)).unwrap();
        let (first, tasks) = waiting_elsewhere(&fleet, agent, group);
        let lease = stays.then(|| fleet.try_allocate(&Request::any().agent(agent)).unwrap());
        let drained = if at_once {
            fleet.drain_agent(agent, Duration::ZERO).expect("it lives")
        } else {
            let drainer = drain(&fleet, agent, Duration::from_secs(1));
            await_draining(&fleet, agent);
            // The worker keeps watch for the next attempt, and the drain sleeps.
            eventually("both sleep", || hand.sleepers() == 2);
            hand.advance(Duration::from_secs(1));
            drainer.join().expect("a drain does not panic")
        };
        assert_eq!(drained.ended, !stays);
        assert_eq!((drained.messages_handled, drained.messages_returned), (0, 0));
        let ended = tasks.iter().map(|task| (task.id(), OutcomeKind::Returned));
        assert!(drained.tasks_ended.iter().copied().eq(ended), "{drained:?}");
        for task in &tasks {
            assert_eq!(*task.try_outcome().expect("it came back"), GONE);
        }
        assert_eq!(fleet.stats().tasks_queued, 1, "the one that is for nobody alone");
        let more = vec![0; 5].into_iter().map(|n| Task::new(n).capability("other")).collect();
        let more = fleet.submit_batch(more).expect("they take no room any more");
        assert!(more.iter().all(TaskHandle::cancel));

        // All that they waited for comes, and none of them begins.
        let enough = Quota::new().limit(Meter::Leases, Limit::hard(9));
        budgets.set(Scope::Group(group), enough).unwrap();
        assert!(first.cancel());
        hand.advance(2 * HOUR);
        fleet.tick();
        if let Some(lease) = lease {
            assert!(!lease.is_revoked());
            drop(lease);
            fleet.set_condition(agent, Condition::Fit).unwrap();
            let anew = fleet.submit(Task::new(8).to(agent)).unwrap();
            assert_eq!(*anew.wait(), Outcome::Completed(8));
            assert_eq!(*notes.lock().unwrap(), [1, 8]);
        } else {
            assert_eq!(*notes.lock().unwrap(), [1]);
        }
        finish(&fleet);
    }
}

#[test]
fn a_task_that_the_log_accepts_after_a_drain_was_late_comes_back_at_once() {
    for (stays, held) in [(false, true), (true, true), (false, false), (true, false)] {
        let log = SlowLog::new();
        let notes = Notes::default();
        let fleet = Fleet::builder().workers(1).task_log(log.clone()).build().unwrap();
        let two = NonZeroU32::new(2).unwrap();
        let agent = fleet.spawn(choosy(&notes).max_leases(two)).unwrap();
        let other = AgentSpec::<u64, u64>::new("other").capability("other");
        let other = other.handler_fn(|_, _| Ok(0)).condition(Condition::Starting);
        fleet.spawn(other).unwrap();
        log.gate.permit();
        let first = fleet.submit(Task::new(0).capability("other")).unwrap();
        let submitter = {
            let (fleet, first) = (fleet.clone(), first.clone());
            thread::spawn(move || {
                let task = Task::new(2).to(agent);
                fleet.submit(if held { task.after(&first) } else { task })
            })
        };
        log.gate.await_arrivals(2);
        let lease = stays.then(|| fleet.try_allocate(&Request::any().agent(agent)).unwrap());
        let drained = fleet.drain_agent(agent, Duration::ZERO).unwrap();
        assert_eq!((drained.ended, drained.tasks_ended.len()), (!stays, 0));
        log.gate.open();
        let task = submitter.join().unwrap().expect("the log accepts it");
        assert_eq!(*task.wait(), GONE);
        assert!(notes.lock().unwrap().is_empty());
        assert!(first.cancel());
        drop(lease);
        finish(&fleet);
    }
}

#[test]
fn an_attempt_that_fails_after_the_drain_of_its_agent_was_late_is_the_last() {
    for backoff in [Duration::ZERO, HOUR] {
        let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
        let gate = Gate::new();
        let spec = {
            let gate = Arc::clone(&gate);
            AgentSpec::<u64, u64>::new("fails").handler_fn(move |_, _| {
                gate.pass();
                Err(TaskError::retryable("not yet"))
            })
        };
        let agent = fleet.spawn(spec).unwrap();
        let task = fleet.submit(again(1, agent, backoff)).unwrap();
        gate.await_arrivals(1);
        let drained = fleet.drain_agent(agent, Duration::ZERO).unwrap();
        assert_eq!((drained.ended, drained.tasks_ended.len()), (false, 0));
        gate.open();
        assert_eq!(*task.wait(), GONE);
        let drained = fleet.drain_agent(agent, LONG).unwrap();
        assert!(drained.ended, "nothing is left of it");
        assert_eq!(fleet.stats().reruns, 0);
        finish(&fleet);
    }
}

#[test]
fn with_no_time_a_drain_begins_nothing_more_whatever_the_workers_do() {
    for _ in 0..20 {
        let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
        let notes = Notes::default();
        let agent = fleet.spawn(choosy(&notes)).unwrap();
        for message in 0..1_000 {
            fleet.tell(agent, 2 * message).unwrap();
        }
        let drained = fleet.drain_agent(agent, Duration::ZERO).unwrap();
        assert_eq!(drained.messages_handled, 0, "{drained:?}");
        let report = finish(&fleet);
        assert_eq!(report.messages_handled + drained.messages_returned, 1_000);
        assert_eq!(report.messages_handled, notes.lock().unwrap().len() as u64);
    }
}

#[test]
fn an_agent_that_is_to_serve_again_is_ended_by_no_drain_and_keeps_what_it_has() {
    for (driven, drains) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
        let builder = Fleet::<u64, u64>::builder().workers(2);
        let builder = if driven { builder.driven() } else { builder };
        let witness = Witness::new();
        let fleet = builder.observer(witness.clone()).build().unwrap();
        let notes = Notes::default();
        let agent = fleet.spawn(choosy(&notes)).unwrap();
        let lease = fleet.try_allocate(&Request::any()).unwrap();
        for message in 0..5 {
            fleet.tell(agent, 2 * message).unwrap();
        }
        let task = fleet.submit(Task::new(10).to(agent)).unwrap();
        let drainers: Vec<_> = (0..drains)
            .map(|_| {
                let drainer = drain(&fleet, agent, LONG);
                await_draining(&fleet, agent);
                drainer
            })
            .collect();
        let before = fleet.set_condition(agent, Condition::Degraded).unwrap();
        assert_eq!(before, Condition::Draining);
        for drainer in drainers {
            // The second of two may have come after that, and drain the agent anew.
            eventually("it is over", || {
                fleet.set_condition(agent, Condition::Fit).unwrap();
                drainer.is_finished()
            });
            let drained = drainer.join().unwrap();
            assert!(!drained.ended && drained.tasks_ended.is_empty(), "{drained:?}");
            assert_eq!((drained.messages_handled, drained.messages_returned), (0, 0));
        }
        assert!(!lease.is_revoked());
        drop(lease);
        eventually("the rest is handled", || {
            fleet.run_ready(usize::MAX);
            notes.lock().unwrap().len() == 6
        });
        assert_eq!(*task.wait(), Outcome::Completed(10));
        assert_eq!(*notes.lock().unwrap(), [0, 2, 4, 6, 8, 10]);
        fleet.tell(agent, 12).expect("it takes messages again");
        let drained = fleet.drain_agent(agent, LONG).unwrap();
        assert!(drained.ended);
        let stopped = FleetEvent::AgentStopped { agent, leases_revoked: 0 };
        assert!(witness.events().contains(&stopped));
        finish(&fleet);
    }
}

#[test]
fn a_drain_ends_with_the_last_task_that_it_waits_for_if_that_is_cancelled() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<u64, u64>::builder().workers(1).clock(clock).build().unwrap();
    let agent = fleet.spawn(choosy(&Notes::default())).unwrap();
    let delayed = fleet.submit(again(1, agent, HOUR)).unwrap();
    let held = fleet.submit(Task::new(2).to(agent).after(&delayed)).unwrap();
    eventually("its attempt is lost", || hand.sleepers() == 1 && fleet.stats().leases_live == 0);
    let drainer = drain(&fleet, agent, LONG);
    eventually("both sleep", || hand.sleepers() == 2);
    assert!(held.cancel() && !drainer.is_finished());
    assert!(delayed.cancel());
    let drained = drainer.join().unwrap();
    assert!(drained.ended);
    let cancelled = [&held, &delayed].map(|task| (task.id(), OutcomeKind::Cancelled));
    assert_eq!(drained.tasks_ended, cancelled);
    finish(&fleet);
}

#[test]
fn a_drain_waits_for_the_log_to_accept_what_came_before_it() {
    for accepts in [true, false] {
        let log = SlowLog::new();
        let fleet = Fleet::builder().workers(1).task_log(log.clone()).build().unwrap();
        let agent = fleet.spawn(choosy(&Notes::default())).unwrap();
        let submitter = {
            let fleet = fleet.clone();
            thread::spawn(move || fleet.submit(Task::new(2).to(agent)))
        };
        log.gate.await_arrivals(1);
        let drainer = drain(&fleet, agent, LONG);
        await_draining(&fleet, agent);
        *log.ledger.refuse_accept.lock().unwrap() = !accepts;
        log.gate.open();
        let submitted = submitter.join().unwrap();
        let drained = drainer.join().unwrap();
        assert!(drained.ended);
        if let Ok(task) = submitted {
            assert!(accepts);
            assert_eq!(*task.wait(), Outcome::Completed(2));
            assert_eq!(drained.tasks_ended, [(task.id(), OutcomeKind::Completed)]);
        } else {
            assert!(!accepts && drained.tasks_ended.is_empty());
        }
        finish(&fleet);
    }
}
