//! Agents that are drained: they take nothing new, finish what they have, and end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::support::{Gate, LONG, eventually, finish, held};
use phalanx::fleet::supervise::{Restart, RestartPolicy};
use phalanx::fleet::{
    Agent, AgentDrain, AgentId, AgentSpec, AgentState, Backoff, Condition, Fleet, Outcome,
    OutcomeKind, Request, ReturnReason, SubmitError, Task, TaskContext, TaskError, TaskHandle,
    TellError, WeakFleet,
};
use phalanx::{ErrorKind, ManualClock};

const MANY: u64 = 999;

type Notes = Arc<Mutex<Vec<u64>>>;

/// An agent that writes down what it handles.
fn scribe(notes: &Notes) -> AgentSpec<u64, u64> {
    let notes = Arc::clone(notes);
    AgentSpec::new("scribe").handler_fn(move |task, _| {
        notes.lock().unwrap().push(*task.payload());
        Ok(*task.payload() + 1)
    })
}

pub(super) fn drain(
    fleet: &Fleet<u64, u64>,
    agent: AgentId,
    timeout: Duration,
) -> JoinHandle<AgentDrain> {
    let fleet = fleet.clone();
    thread::spawn(move || fleet.drain_agent(agent, timeout).expect("the agent lives"))
}

pub(super) fn await_draining(fleet: &Fleet<u64, u64>, agent: AgentId) {
    eventually("it drains", || {
        let state = fleet.agent(agent).map(|status| status.state);
        state == Some(AgentState::Draining)
    });
}

/// 999 messages and nine tasks of the agent's own.
fn load(fleet: &Fleet<u64, u64>, agent: AgentId) -> Vec<TaskHandle<u64>> {
    for message in 0..MANY {
        fleet.tell(agent, message).expect("there is room");
    }
    (1..=9).map(|n| fleet.submit(Task::new(MANY + n).to(agent)).expect("it lives")).collect()
}

#[test]
fn a_drained_agent_handles_999_messages_and_9_tasks_before_it_ends() {
    for workers in [1, 3] {
        let fleet = Fleet::<u64, u64>::builder().workers(workers).build().unwrap();
        let notes = Notes::default();
        let agent = fleet.spawn(scribe(&notes)).unwrap();
        // So nothing begins before the drain does.
        let lease = fleet.try_allocate(&Request::any()).unwrap();
        let tasks = load(&fleet, agent);
        let reply = fleet.ask(agent, 7_000).unwrap();
        let drainer = drain(&fleet, agent, LONG);
        await_draining(&fleet, agent);
        assert!(matches!(fleet.tell(agent, 1), Err(TellError::Draining(1))));
        assert!(matches!(fleet.tell_control(agent, 2), Err(TellError::Draining(2))));
        assert!(matches!(fleet.ask(agent, 3), Err(TellError::Draining(3))));
        let refused = fleet.submit(Task::new(4).to(agent)).unwrap_err();
        assert!(matches!(refused, SubmitError::NoAgent(_)));
        drop(lease);

        let drained = drainer.join().unwrap();
        assert!(drained.ended);
        assert_eq!((drained.messages_handled, drained.messages_returned), (MANY + 1, 0));
        assert_eq!(reply.wait(), Outcome::Completed(7_001));
        let ended: Vec<_> = tasks.iter().map(|task| (task.id(), OutcomeKind::Completed)).collect();
        assert_eq!(drained.tasks_ended, ended);
        let all = (0..MANY).chain(MANY + 1..=MANY + 9).chain([7_000]);
        assert!(notes.lock().unwrap().iter().copied().eq(all));
        assert_eq!(fleet.agent(agent), None);
        assert!(matches!(fleet.tell(agent, 5), Err(TellError::Gone(5))));
        let stats = fleet.stats();
        assert_eq!((stats.agents_stopped, stats.messages_refused), (1, 4));
        finish(&fleet);
    }
}

#[test]
fn a_drain_drives_a_driven_fleet_and_leaves_the_rest_of_it_as_it_was() {
    let fleet = Fleet::<u64, u64>::builder().driven().build().unwrap();
    let notes = Notes::default();
    let [agent, other] = [0, 1].map(|_| fleet.spawn(scribe(&notes)).unwrap());
    load(&fleet, agent);
    let drained = fleet.drain_agent(agent, LONG).unwrap();
    assert_eq!((drained.ended, drained.messages_handled), (true, MANY));
    assert_eq!(drained.tasks_ended.len(), 9);
    fleet.tell(other, 1).unwrap();
    assert_eq!(fleet.run_ready(usize::MAX), 1);
    assert!(fleet.drain_agent(other, Duration::ZERO).unwrap().ended);
    finish(&fleet);
}

#[test]
fn with_no_time_a_drain_gives_back_all_that_has_not_begun() {
    let fleet = Fleet::<u64, u64>::builder().driven().build().unwrap();
    let notes = Notes::default();
    let agent = fleet.spawn(scribe(&notes)).unwrap();
    let tasks = load(&fleet, agent);
    let drained = fleet.drain_agent(agent, Duration::ZERO).unwrap();
    assert!(drained.ended);
    assert_eq!((drained.messages_handled, drained.messages_returned), (0, MANY));
    assert_eq!(drained.tasks_ended.len(), 9);
    for task in tasks {
        assert_eq!(*task.wait(), Outcome::Returned(ReturnReason::AgentGone));
    }
    assert_eq!(fleet.run_ready(usize::MAX), 0);
    assert!(notes.lock().unwrap().is_empty());
    finish(&fleet);
}

#[test]
fn a_drain_that_is_late_gives_the_rest_back_and_lets_the_handler_finish() {
    let (clock, hand) = ManualClock::new();
    let returned = Notes::default();
    let hook = {
        let returned = Arc::clone(&returned);
        move |_, reason, payloads: Vec<u64>| {
            assert_eq!(reason, ReturnReason::AgentGone);
            returned.lock().unwrap().extend(payloads);
        }
    };
    let fleet = Fleet::<u64, u64>::builder()
        .workers(1)
        .clock(clock)
        .returned(Arc::new(hook))
        .build()
        .unwrap();
    let gate = Gate::new();
    let agent = fleet.spawn(held(&gate)).unwrap();
    let first = fleet.ask(agent, 0).unwrap();
    gate.await_arrivals(1);
    // Some are in the worker's hand, and more than it takes lie in the mailbox.
    for message in 1..200 {
        fleet.tell(agent, message).unwrap();
    }
    let task = fleet.submit(Task::new(200).to(agent)).unwrap();
    gate.permit();
    gate.await_arrivals(2);
    let drainer = drain(&fleet, agent, Duration::from_secs(1));
    eventually("it sleeps", || hand.sleepers() == 1);
    hand.advance(Duration::from_secs(1));
    let drained = drainer.join().unwrap();
    assert!(!drained.ended, "its handler runs");
    assert_eq!((drained.messages_handled, drained.messages_returned), (0, 198));
    assert_eq!(drained.tasks_ended, [(task.id(), OutcomeKind::Returned)]);
    assert!(returned.lock().unwrap().iter().copied().eq(2..200));
    assert_eq!(fleet.mailbox_len(agent), Some(0));
    assert!(matches!(fleet.tell(agent, 9), Err(TellError::Draining(9))));
    assert_eq!(first.wait(), Outcome::Completed(0));
    gate.open();
    let again = fleet.drain_agent(agent, LONG).unwrap();
    assert!(again.ended);
    assert_eq!((again.messages_handled, again.messages_returned), (0, 0));
    let report = finish(&fleet);
    assert_eq!((report.messages_handled, report.messages_returned), (2, 198));
}

#[test]
fn an_agent_that_is_to_serve_again_takes_messages_again() {
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    let notes = Notes::default();
    let agent = fleet.spawn(scribe(&notes)).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    fleet.tell(agent, 1).unwrap();
    let drained = fleet.drain_agent(agent, Duration::ZERO).unwrap();
    assert_eq!((drained.ended, drained.messages_returned), (false, 1));
    assert!(!lease.is_revoked());
    fleet.unroute(agent).unwrap();
    assert!(matches!(fleet.tell(agent, 2), Err(TellError::Draining(2))));
    fleet.set_condition(agent, Condition::Fit).unwrap();
    fleet.tell(agent, 3).unwrap();
    drop(lease);
    assert_eq!(fleet.ask(agent, 4).unwrap().wait(), Outcome::Completed(5));
    assert_eq!(*notes.lock().unwrap(), [3, 4]);
    // One that is unrouted and not drained keeps what it has, once its turn is over.
    eventually("it rests", || fleet.agent(agent).unwrap().load == 0);
    fleet.unroute(agent).unwrap();
    fleet.tell(agent, 6).unwrap();
    let other = fleet.spawn(scribe(&notes)).unwrap();
    assert_eq!(fleet.ask(other, 7).unwrap().wait(), Outcome::Completed(8));
    assert_eq!((fleet.mailbox_len(agent), notes.lock().unwrap().len()), (Some(1), 3));
    assert_eq!(fleet.drain_agent(agent, LONG).unwrap().messages_handled, 1);
    finish(&fleet);
}

#[test]
fn a_drain_beside_a_kill_or_a_shutdown_ends_with_it_and_knows_what_came_back() {
    for kill in [true, false] {
        let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
        let gate = Gate::new();
        let agent = fleet.spawn(held(&gate)).unwrap();
        fleet.tell(agent, 0).unwrap();
        gate.await_arrivals(1);
        for message in 1..=10 {
            fleet.tell(agent, message).unwrap();
        }
        let task = fleet.submit(Task::new(11).to(agent)).unwrap();
        let drainer = drain(&fleet, agent, LONG);
        await_draining(&fleet, agent);
        if kill {
            fleet.kill(agent).unwrap();
        } else {
            assert_eq!(fleet.shutdown(Duration::ZERO).unwrap().workers_left, 1);
        }
        let drained = drainer.join().unwrap();
        assert!(drained.ended);
        assert_eq!((drained.messages_handled, drained.messages_returned), (0, 10));
        assert_eq!(task.wait().kind(), OutcomeKind::Returned);
        gate.open();
        let report = finish(&fleet);
        assert_eq!(report.messages_returned, 10);
    }
}

#[test]
fn two_threads_drain_one_agent_and_the_shorter_patience_decides() {
    for short in [false, true] {
        let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
        let agent = fleet.spawn(scribe(&Notes::default())).unwrap();
        let lease = fleet.try_allocate(&Request::any()).unwrap();
        for message in 0..20 {
            fleet.tell(agent, message).unwrap();
        }
        let patient = [0, 1].map(|_| {
            let fleet = fleet.clone();
            thread::spawn(move || fleet.drain_agent(agent, LONG))
        });
        await_draining(&fleet, agent);
        if short {
            // Both others may still be on their way, and then have nothing to report.
            let drained = fleet.drain_agent(agent, Duration::ZERO).unwrap();
            assert_eq!((drained.ended, drained.messages_returned), (false, 20));
        }
        drop(lease);
        for drainer in patient {
            let drained = match drainer.join().expect("no panic") {
                Ok(drained) => drained,
                // Who comes when the agent has ended is told so.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(wrong) => panic!("{wrong}"),
            };
            assert!(drained.ended);
            let seen = drained.messages_handled + drained.messages_returned;
            assert!(seen <= 20);
            assert_eq!(if short { drained.messages_handled } else { drained.messages_returned }, 0);
        }
        let report = finish(&fleet);
        assert_eq!(if short { report.messages_returned } else { report.messages_handled }, 20);
        assert_eq!(fleet.stats().agents_stopped, 1);
    }
}

#[test]
fn a_drain_waits_for_tasks_of_the_agent_that_wait_for_their_next_attempt_or_for_others() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<u64, u64>::builder().workers(1).clock(clock).build().unwrap();
    let failed = Mutex::new(false);
    let spec = AgentSpec::<u64, u64>::new("twice").handler_fn(move |task, _| {
        let first = *task.payload() == 1 && !std::mem::replace(&mut *failed.lock().unwrap(), true);
        if first { Err(TaskError::retryable("not yet")) } else { Ok(*task.payload()) }
    });
    let agent = fleet.spawn(spec).unwrap();
    let delay = Duration::from_secs(5);
    let retried = Task::new(1)
        .to(agent)
        .max_attempts(std::num::NonZeroU32::new(2).unwrap())
        .retry_backoff(Backoff::constant(delay));
    let retried = fleet.submit(retried).unwrap();
    let held = fleet.submit(Task::new(2).to(agent).after(&retried)).unwrap();
    eventually("it waits", || fleet.stats().tasks_queued == 2 && fleet.stats().leases_live == 0);
    let drainer = drain(&fleet, agent, LONG);
    eventually("both sleep", || hand.sleepers() == 2);
    assert!(!drainer.is_finished());
    hand.advance(delay);
    let drained = drainer.join().unwrap();
    assert!(drained.ended);
    let completed = |id| (id, OutcomeKind::Completed);
    assert_eq!(drained.tasks_ended, [retried.id(), held.id()].map(completed));
    finish(&fleet);
}

#[test]
fn a_drain_waits_for_an_agent_that_is_down_and_has_a_cold_one_made_ready() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<u64, u64>::builder().workers(1).clock(clock).build().unwrap();
    let delay = Duration::from_secs(5);
    let spec = AgentSpec::<u64, u64>::new("frail").handler_fn(|task, _| match *task.payload() {
        0 => panic!("it is meant to"),
        other => Ok(other),
    });
    let policy = RestartPolicy::new(Restart::OnFailure).backoff(Backoff::constant(delay));
    let agent = fleet.spawn(spec.clone().restart(policy)).unwrap();
    assert!(matches!(fleet.ask(agent, 0).unwrap().wait(), Outcome::Failed(_)));
    eventually("it is down", || fleet.stats().leases_live == 0);
    let reply = fleet.ask(agent, 3).unwrap();
    let drainer = drain(&fleet, agent, LONG);
    eventually("both sleep", || hand.sleepers() == 2);
    assert!(!drainer.is_finished());
    hand.advance(delay);
    let drained = drainer.join().unwrap();
    assert_eq!((drained.ended, drained.messages_handled), (true, 1));
    assert_eq!(reply.wait(), Outcome::Completed(3));

    // Nobody has been told to make its handler, as it drains from the first.
    let cold = fleet.spawn(spec.prewarmed().condition(Condition::Draining)).unwrap();
    fleet.tell(cold, 1).unwrap();
    let drained = fleet.drain_agent(cold, LONG).unwrap();
    assert_eq!((drained.ended, drained.messages_handled), (true, 1));
    assert_eq!(fleet.stats().agents_prewarmed, 1);
    finish(&fleet);
}

#[test]
fn an_agent_whose_handler_cannot_be_made_is_drained_without() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<u64, u64>::builder().workers(1).clock(clock).build().unwrap();
    let spec = AgentSpec::<u64, u64>::new("never").handler(|| -> Never { panic!("there is none") });
    let agent = fleet.spawn(spec.prewarmed().condition(Condition::Draining)).unwrap();
    fleet.tell(agent, 1).unwrap();
    let drainer = drain(&fleet, agent, Duration::from_secs(1));
    eventually("it was tried", || fleet.stats().prewarms_failed == 1);
    eventually("it sleeps", || hand.sleepers() == 1);
    hand.advance(Duration::from_secs(1));
    let drained = drainer.join().unwrap();
    assert_eq!((drained.ended, drained.messages_returned), (true, 1));
    assert_eq!(fleet.stats().prewarms_failed, 1, "once");
    finish(&fleet);
}

struct Never;

impl Agent<u64, u64> for Never {
    fn handle(&mut self, task: &Task<u64>, _cx: &mut TaskContext<'_>) -> Result<u64, TaskError> {
        Ok(*task.payload())
    }
}

#[test]
fn a_handler_is_refused_to_drain_an_agent_of_its_own_fleet() {
    let own: Arc<OnceLock<WeakFleet<u64, u64>>> = Arc::default();
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    own.set(fleet.downgrade()).unwrap();
    let spec = AgentSpec::<u64, u64>::new("bold").handler_fn(move |_, cx| {
        let fleet = own.get().and_then(WeakFleet::upgrade).expect("it runs this");
        let refused = fleet.drain_agent(cx.agent(), LONG).expect_err("it would wait for itself");
        Ok(u64::from(refused.kind() == ErrorKind::Unsupported))
    });
    let agent = fleet.spawn(spec).unwrap();
    assert_eq!(fleet.ask(agent, 0).unwrap().wait(), Outcome::Completed(1));
    eventually("it serves on", || fleet.agent(agent).unwrap().state == AgentState::Ready);
    finish(&fleet);
}

type Own = Arc<OnceLock<WeakFleet<u64, u64>>>;

/// An agent that tells itself something again and again, and counts; it does that at the tenth time.
fn ticker(
    own: &Own,
    ticks: &Arc<AtomicU64>,
    at_ten: impl Fn(&Fleet<u64, u64>) + Send + Sync + 'static,
) -> AgentSpec<u64, u64> {
    let (own, ticks) = (Arc::clone(own), Arc::clone(ticks));
    AgentSpec::new("ticker").handler_fn(move |task, _| {
        let fleet = own.get().expect("it is set").upgrade().expect("it lives");
        let ticks = ticks.fetch_add(1, Ordering::Relaxed) + 1;
        if ticks == 10 {
            at_ten(&fleet);
        }
        // So this ends even where the drain does not.
        if ticks < 100_000 {
            fleet.tell(fleet.agents()[0].id, *task.payload()).expect("there is room");
        }
        Ok(0)
    })
}

/// A driven fleet with a ticker that has begun, and how often it ticked.
fn with_a_ticker(
    at_ten: impl Fn(&Fleet<u64, u64>) + Send + Sync + 'static,
) -> (Fleet<u64, u64>, AgentId, Arc<AtomicU64>) {
    let (own, ticks) = (Own::default(), Arc::default());
    let (clock, _hand) = ManualClock::new();
    let fleet = Fleet::<u64, u64>::builder().driven().clock(clock).build();
    let fleet = fleet.expect("the values are valid");
    own.set(fleet.downgrade()).expect("it is set once");
    // The first, as it tells itself what it tells the first.
    let ticker = fleet.spawn(ticker(&own, &ticks, at_ten)).expect("there is room");
    fleet.tell(ticker, 0).expect("there is room");
    (fleet, ticker, ticks)
}

#[test]
fn a_drain_that_drives_is_over_with_its_agent_whatever_else_is_ready() {
    let (fleet, ticker, ticks) = with_a_ticker(|_| {});
    let agent = fleet.spawn(scribe(&Notes::default())).unwrap();
    fleet.tell(agent, 1).unwrap();
    let drained = fleet.drain_agent(agent, LONG).unwrap();
    assert_eq!((drained.ended, drained.messages_handled), (true, 1));
    assert!(ticks.load(Ordering::Relaxed) < 1000, "it went on with what is not asked for");
    fleet.kill(ticker).unwrap();
    finish(&fleet);
}

#[test]
fn a_drain_that_drives_is_over_once_its_agent_is_to_serve_whatever_else_is_ready() {
    let (fleet, ticker, ticks) = with_a_ticker(|fleet| {
        fleet.set_condition(fleet.agents()[1].id, Condition::Fit).expect("it lives");
    });
    let agent = fleet.spawn(scribe(&Notes::default())).unwrap();
    let lease = fleet.try_allocate(&Request::any().agent(agent)).unwrap();
    let drained = fleet.drain_agent(agent, LONG).unwrap();
    assert!(!drained.ended);
    assert!(ticks.load(Ordering::Relaxed) < 1000, "it went on with what is not asked for");
    drop(lease);
    fleet.kill(ticker).unwrap();
    finish(&fleet);
}
