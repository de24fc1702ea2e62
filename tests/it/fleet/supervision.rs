//! Supervised agents: what fails is out of service at once, comes back as it should or not at all, and
//! loses nobody's work.

mod circuits;
mod exits;
mod groups;
mod heartbeats;
mod leases;
mod stuck;
mod turns;

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::support::{Gate, LONG, Witness, eventually, finish};
use phalanx::fleet::supervise::{Restart, RestartPolicy};
use phalanx::fleet::{
    AgentId, AgentSpec, AgentState, AllocateError, Backoff, Condition, FailureReason, Fleet,
    FleetEvent, Outcome, Request, ReturnReason, Task, TaskError, TaskErrorKind,
};
use phalanx::{ErrorKind, ManualClock};

const DELAY: Duration = Duration::from_secs(5);

/// Three restarts an hour, each after 5 s.
fn policy() -> RestartPolicy {
    RestartPolicy::new(Restart::OnFailure)
        .budget(3, Duration::from_secs(3600))
        .backoff(Backoff::constant(DELAY))
}

/// What a payload has the handler do.
const PANIC: u64 = 0;
const ERROR: u64 = 1;

/// A fleet on a clock of its own, with its observer.
fn fleet(workers: usize) -> (Fleet<u64, u64>, ManualClock, Arc<Witness>) {
    let (clock, hand) = ManualClock::new();
    let witness = Witness::new();
    let builder = Fleet::builder().workers(workers).clock(clock).observer(witness.clone());
    (builder.build().unwrap(), hand, witness)
}

/// Handlers that do what the payload says, and how many of them were made.
fn obedient(made: &Arc<AtomicUsize>) -> AgentSpec<u64, u64> {
    let made = Arc::clone(made);
    AgentSpec::new("obedient").handler(move || Obedient(made.fetch_add(1, Ordering::SeqCst) as u64))
}

/// Answers with its number, the first being zero.
struct Obedient(u64);

impl phalanx::fleet::Agent<u64, u64> for Obedient {
    fn handle(
        &mut self,
        task: &Task<u64>,
        cx: &mut phalanx::fleet::TaskContext<'_>,
    ) -> Result<u64, TaskError> {
        match *task.payload() {
            // The next attempt is allowed to succeed.
            PANIC if cx.attempt().get() <= 1 => panic!("as it was told"),
            ERROR if cx.attempt().get() <= 1 => Err(TaskError::retryable("as it was told")),
            _ => Ok(self.0),
        }
    }
}

fn failures(witness: &Witness) -> Vec<AgentId> {
    let agent = |event: FleetEvent| match event {
        FleetEvent::AgentFailed { agent, .. } => Some(agent),
        _ => None,
    };
    witness.events().into_iter().filter_map(agent).collect()
}

fn restarts(witness: &Witness) -> Vec<(AgentId, u32)> {
    let restart = |event: FleetEvent| match event {
        FleetEvent::AgentRestarted { agent, incarnation } => Some((agent, incarnation)),
        _ => None,
    };
    witness.events().into_iter().filter_map(restart).collect()
}

fn await_failure(witness: &Witness, of: AgentId) {
    witness.await_event(
        |event| matches!(event, FleetEvent::AgentFailed { agent, .. } if *agent == of),
    );
}

fn await_restart(witness: &Witness, of: AgentId) {
    witness.await_event(
        |event| matches!(event, FleetEvent::AgentRestarted { agent, .. } if *agent == of),
    );
}

fn state(fleet: &Fleet<u64, u64>, agent: AgentId) -> (AgentState, u32) {
    let status = fleet.agent(agent).unwrap();
    (status.state, status.incarnation)
}

/// Waits until what ran on an agent has come back.
fn idle(fleet: &Fleet<u64, u64>, agent: AgentId) {
    eventually("nothing runs on it", || fleet.agent(agent).unwrap().load == 0);
}

#[test]
fn an_agent_whose_handler_panics_is_down_for_its_delay_and_comes_back_with_a_new_handler() {
    let (fleet, hand, witness) = fleet(1);
    let made = Arc::default();
    let agent = fleet.spawn(obedient(&made).restart(policy())).unwrap();
    assert_eq!(state(&fleet, agent), (AgentState::Ready, 1));
    assert_eq!(*fleet.submit(Task::new(9)).unwrap().wait(), Outcome::Completed(0));
    let handle = fleet.submit(Task::new(PANIC)).unwrap();
    await_failure(&witness, agent);
    assert_eq!(state(&fleet, agent), (AgentState::Failed, 2));
    assert_eq!(fleet.try_allocate(&Request::any()).unwrap_err(), AllocateError::NoneIdle);
    hand.advance(DELAY - Duration::from_nanos(1));
    fleet.tick();
    assert_eq!(state(&fleet, agent).0, AgentState::Failed, "not before its time");
    assert!(handle.try_outcome().is_none());
    hand.advance(Duration::from_nanos(1));
    assert_eq!(*handle.wait(), Outcome::Completed(1), "a handler was made anew");
    let reason = witness.events().into_iter().find_map(|event| match event {
        FleetEvent::AgentFailed { reason: FailureReason::Attempt(error), restart_at, .. } => {
            Some((error.kind(), restart_at.map(|at| at.since_start())))
        }
        _ => None,
    });
    assert_eq!(reason, Some((TaskErrorKind::Panicked, Some(DELAY))));
    assert_eq!(restarts(&witness), [(agent, 2)]);
    let stats = fleet.stats();
    let counts = (stats.agent_failures, stats.agent_restarts, stats.agent_failures_ignored);
    assert_eq!((counts, stats.agents_given_up, stats.handler_panics), ((1, 1, 0), 0, 1));
    finish(&fleet);
}

#[test]
fn nobody_who_waits_is_given_an_agent_that_has_just_failed() {
    let (fleet, hand, witness) = fleet(1);
    let gate = Gate::new();
    let spec = AgentSpec::<u64, u64>::new("watched").restart(policy());
    let passed = Arc::clone(&gate);
    let agent = fleet
        .spawn(spec.handler_fn(move |_, _| {
            passed.pass();
            panic!("at the gate")
        }))
        .unwrap();
    let task = fleet.submit(Task::new(9).max_attempts(1.try_into().unwrap())).unwrap();
    gate.await_arrivals(1);
    let mut waiting = fleet.allocate_async(&Request::any());
    let mut poll =
        || std::pin::Pin::new(&mut waiting).poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending());
    gate.permit();
    assert_eq!(task.wait().kind(), phalanx::fleet::OutcomeKind::Failed);
    await_failure(&witness, agent);
    assert!(poll().is_pending(), "its lease came back, and it has failed");
    hand.advance(DELAY);
    fleet.tick();
    let Poll::Ready(Ok(lease)) = poll() else { panic!("it was started again") };
    assert_eq!(lease.agent(), agent);
    drop(lease);
    finish(&fleet);
}

#[test]
fn messages_wait_in_their_order_for_the_agent_to_be_started_again() {
    let (fleet, hand, witness) = fleet(1);
    let (gate, seen) = (Gate::new(), Arc::new(Mutex::new(Vec::new())));
    let spec = {
        let (gate, seen) = (Arc::clone(&gate), Arc::clone(&seen));
        AgentSpec::<u64, u64>::new("reader").handler_fn(move |task, _| {
            let payload = *task.payload();
            seen.lock().unwrap().push(payload);
            if payload == 10 {
                gate.pass();
            }
            assert_ne!(payload, 11, "as it was told");
            Ok(payload)
        })
    };
    let agent = fleet.spawn(spec.restart(policy())).unwrap();
    fleet.tell(agent, 10).unwrap();
    gate.await_arrivals(1);
    // All of these are in one claim of the worker, as it comes back for more.
    let failing = fleet.ask(agent, 11).unwrap();
    fleet.tell(agent, 12).unwrap();
    let task = fleet.submit(Task::new(13).to(agent)).unwrap();
    let mut asked = fleet.ask(agent, 14).unwrap();
    gate.open();
    let Outcome::Failed(error) = failing.wait() else { panic!("its handler panicked") };
    assert_eq!(error.kind(), TaskErrorKind::Panicked);
    await_failure(&witness, agent);
    fleet.tell(agent, 15).unwrap();
    idle(&fleet, agent);
    assert_eq!(*seen.lock().unwrap(), [10, 11], "nothing runs on an agent that is down");
    assert!(asked.try_outcome().is_none() && task.try_outcome().is_none());
    hand.advance(DELAY);
    assert_eq!((*task.wait()).clone(), Outcome::Completed(13));
    assert_eq!(asked.wait(), Outcome::Completed(14));
    let report = fleet.drain(LONG).unwrap();
    assert_eq!(*seen.lock().unwrap(), [10, 11, 12, 13, 14, 15]);
    let counts = (report.messages_accepted, report.messages_handled, report.messages_failed);
    assert_eq!(counts, (5, 4, 1));
    assert_eq!(restarts(&witness), [(agent, 2)]);
    finish(&fleet);
}

#[test]
fn a_failure_of_an_earlier_incarnation_restarts_nobody() {
    let (fleet, hand, witness) = fleet(4);
    let gates = [Gate::new(), Gate::new(), Gate::new()];
    let made = Arc::new(AtomicUsize::new(0));
    let spec = {
        let (gates, made) = (gates.clone(), Arc::clone(&made));
        AgentSpec::<u64, u64>::new("wide").max_leases(4.try_into().unwrap()).handler(move || {
            let (gates, number) = (gates.clone(), made.fetch_add(1, Ordering::SeqCst) as u64);
            Closure(move |task: &Task<u64>| {
                let payload = *task.payload() as usize;
                let Some(gate) = gates.get(payload) else { return Ok(number) };
                gate.pass();
                if payload == 2 {
                    return Ok(number);
                }
                panic!("as it was told")
            })
        })
    };
    let agent = fleet.spawn(spec.restart(policy())).unwrap();
    let once = |payload| Task::new(payload).max_attempts(1.try_into().unwrap());
    let tasks = [0, 1, 2].map(|payload| {
        let task = fleet.submit(once(payload)).unwrap();
        gates[payload as usize].await_arrivals(1);
        task
    });
    let [first, late, well] = tasks;
    gates[0].open();
    assert!(matches!(*first.wait(), Outcome::Failed(_)));
    hand.advance(DELAY);
    await_restart(&witness, agent);
    assert_eq!(fleet.agent(agent).unwrap().incarnation, 2);
    gates[1].open();
    assert!(matches!(*late.wait(), Outcome::Failed(_)));
    gates[2].open();
    assert_eq!(*well.wait(), Outcome::Completed(2), "what ran on it goes on");
    idle(&fleet, agent);
    assert_eq!(state(&fleet, agent), (AgentState::Ready, 2));
    assert_eq!(*fleet.submit(once(9)).unwrap().wait(), Outcome::Completed(3), "no old handler");
    let stats = fleet.stats();
    let counts = (stats.agent_failures, stats.agent_restarts, stats.agent_failures_ignored);
    assert_eq!(counts, (1, 1, 1));
    finish(&fleet);
}

/// A closure that the factory makes anew.
struct Closure<F>(F);

impl<F: FnMut(&Task<u64>) -> Result<u64, TaskError> + Send> phalanx::fleet::Agent<u64, u64>
    for Closure<F>
{
    fn handle(
        &mut self,
        task: &Task<u64>,
        _cx: &mut phalanx::fleet::TaskContext<'_>,
    ) -> Result<u64, TaskError> {
        (self.0)(task)
    }
}

#[test]
fn two_that_fail_together_are_one_failure() {
    let (fleet, hand, witness) = fleet(2);
    let gate = Gate::new();
    let passed = Arc::clone(&gate);
    let spec = AgentSpec::<u64, u64>::new("wide").max_leases(2.try_into().unwrap());
    let agent = fleet
        .spawn(spec.restart(policy().budget(1, LONG)).handler_fn(move |_, _| {
            passed.pass();
            panic!("both of them")
        }))
        .unwrap();
    let once = || Task::new(9).max_attempts(1.try_into().unwrap());
    let tasks = [fleet.submit(once()).unwrap(), fleet.submit(once()).unwrap()];
    gate.await_arrivals(2);
    gate.open();
    for task in tasks {
        assert!(matches!(*task.wait(), Outcome::Failed(_)));
    }
    idle(&fleet, agent);
    assert_eq!(state(&fleet, agent), (AgentState::Failed, 2), "the budget is one, and lasts");
    hand.advance(DELAY);
    fleet.tick();
    assert_eq!((failures(&witness), restarts(&witness)), (vec![agent], vec![(agent, 2)]));
    let stats = fleet.stats();
    assert_eq!((stats.agent_failures, stats.agent_failures_ignored), (1, 1));
    finish(&fleet);
}

#[test]
fn an_agent_whose_budget_is_used_up_ends_and_its_work_runs_elsewhere() {
    let (fleet, _hand, witness) = fleet(1);
    let at_once = policy().budget(1, Duration::from_secs(3600)).backoff(Backoff::NONE);
    let bad = AgentSpec::<u64, u64>::new("bad").priority(phalanx::fleet::Priority::HIGH);
    let bad = fleet.spawn(bad.restart(at_once).handler_fn(|_, _| panic!("always"))).unwrap();
    let gate = Gate::new();
    let passed = Arc::clone(&gate);
    // Holds the worker until everything is in place.
    let good = AgentSpec::<u64, u64>::new("good").handler_fn(move |task, _| {
        if *task.payload() == 7 {
            passed.pass();
        }
        Ok(*task.payload())
    });
    let good = fleet.spawn(good).unwrap();
    fleet.tell(good, 7).unwrap();
    gate.await_arrivals(1);
    let anybody = fleet.submit(Task::new(30)).unwrap();
    let named = fleet.submit(Task::new(31).to(bad)).unwrap();
    let asked = [32, 33, 34].map(|payload| fleet.ask(bad, payload).unwrap());
    gate.open();
    // Whatever its attempts met, they were two on the bad one at most.
    assert_eq!(*anybody.wait(), Outcome::Completed(30));
    let gone = Outcome::Returned(ReturnReason::AgentGone);
    // It has three attempts, and the agent has two failures.
    assert_eq!(*named.wait(), gone);
    let outcomes = asked.map(|reply| reply.wait());
    assert_eq!(outcomes[2], gone);
    witness.await_event(
        |event| matches!(event, FleetEvent::AgentStopped { agent, .. } if *agent == bad),
    );
    assert_eq!(fleet.agent(bad), None);
    assert_eq!(failures(&witness), [bad, bad]);
    assert_eq!(restarts(&witness), [(bad, 2)]);
    let stats = fleet.stats();
    assert_eq!((stats.agents_given_up, stats.agents_stopped, stats.agents_live), (1, 1, 1));
    assert_eq!(
        stats.messages_accepted,
        stats.messages_handled + stats.messages_failed + stats.messages_returned
    );
    finish(&fleet);
}

#[test]
fn a_policy_says_whether_errors_count_and_whether_there_is_a_restart_at_all() {
    let (fleet, hand, witness) = fleet(1);
    let made = Arc::default();
    let spec = |policy| obedient(&made).restart(policy);
    let lenient = fleet.spawn(spec(policy())).unwrap();
    let ask = |agent, payload| fleet.ask(agent, payload).unwrap().wait();
    assert!(matches!(ask(lenient, ERROR), Outcome::Failed(_)));
    idle(&fleet, lenient);
    assert_eq!(state(&fleet, lenient), (AgentState::Ready, 1));
    let strict = fleet.spawn(spec(policy().on_errors(true))).unwrap();
    assert!(matches!(ask(strict, ERROR), Outcome::Failed(_)));
    await_failure(&witness, strict);
    assert_eq!(state(&fleet, strict), (AgentState::Failed, 2));
    let never = fleet.spawn(spec(RestartPolicy::new(Restart::Never))).unwrap();
    assert!(matches!(ask(never, PANIC), Outcome::Failed(_)));
    eventually("it has ended", || fleet.agent(never).is_none());
    hand.advance(DELAY);
    await_restart(&witness, strict);
    assert_eq!(failures(&witness), [strict, never]);
    assert_eq!(restarts(&witness), [(strict, 2)]);
    // One that nobody supervises goes on as if nothing had been.
    let free = fleet.spawn(obedient(&made)).unwrap();
    assert!(matches!(ask(free, PANIC), Outcome::Failed(_)));
    assert!(matches!(ask(free, 9), Outcome::Completed(_)));
    idle(&fleet, free);
    assert_eq!(state(&fleet, free), (AgentState::Ready, 1));
    finish(&fleet);
}

#[test]
fn a_task_for_one_agent_waits_for_it_to_be_started_and_a_factory_that_panics_uses_up_the_budget() {
    let (fleet, hand, witness) = fleet(1);
    let made = Arc::default();
    let agent = fleet.spawn(obedient(&made).restart(policy())).unwrap();
    let handle = fleet.submit(Task::new(PANIC).to(agent)).unwrap();
    await_failure(&witness, agent);
    assert!(handle.try_outcome().is_none());
    hand.advance(DELAY);
    assert_eq!(*handle.wait(), Outcome::Completed(1));
    let broken =
        AgentSpec::<u64, u64>::new("broken").handler(|| -> Obedient { panic!("no parts") });
    let at_once = policy().backoff(Backoff::NONE);
    let broken = fleet.spawn(broken.restart(at_once)).unwrap();
    let handle = fleet.submit(Task::new(9).to(broken).max_attempts(9.try_into().unwrap())).unwrap();
    assert_eq!(*handle.wait(), Outcome::Returned(ReturnReason::AgentGone));
    assert_eq!(failures(&witness), [agent, broken, broken, broken, broken]);
    assert_eq!(restarts(&witness), [(agent, 2), (broken, 2), (broken, 3), (broken, 4)]);
    finish(&fleet);
}

#[test]
fn one_that_is_killed_or_retired_while_it_is_down_is_not_started_again() {
    let (fleet, hand, witness) = fleet(1);
    let made = Arc::default();
    let spec = obedient(&made).restart(policy());
    let [killed, retired] = [0, 1].map(|_| fleet.spawn(spec.clone()).unwrap());
    for agent in [killed, retired] {
        assert!(matches!(fleet.ask(agent, PANIC).unwrap().wait(), Outcome::Failed(_)));
        await_failure(&witness, agent);
    }
    eventually("nothing runs", || fleet.stats().leases_live == 0);
    assert_eq!(fleet.kill(killed).unwrap().leases_revoked, 0);
    fleet.retire(retired).unwrap();
    // They may have the slots of those that are gone.
    let others = [0, 1].map(|_| fleet.spawn(spec.clone()).unwrap());
    hand.advance(DELAY);
    fleet.tick();
    for other in others {
        assert_eq!(state(&fleet, other), (AgentState::Ready, 1));
    }
    assert_eq!(restarts(&witness), []);
    finish(&fleet);
}

#[test]
fn what_the_host_wants_of_an_agent_that_is_down_holds_once_it_is_started() {
    let (fleet, hand, witness) = fleet(0);
    let spec = AgentSpec::<u64, u64>::new("remote").restart(policy());
    let [unrouted, pushed, drained] = [0, 1, 2].map(|_| fleet.spawn(spec.clone()).unwrap());
    for agent in [unrouted, pushed, drained] {
        assert!(fleet.report_failure(agent, "its process has died").unwrap());
        assert!(!fleet.report_failure(agent, "it is still dead").unwrap());
    }
    fleet.unroute(unrouted).unwrap();
    assert_eq!(state(&fleet, unrouted).0, AgentState::Draining);
    assert_eq!(fleet.set_condition(pushed, Condition::Fit).unwrap(), Condition::Fit);
    assert_eq!(state(&fleet, pushed).0, AgentState::Failed, "it is down whatever the host says");
    assert_eq!(fleet.try_allocate(&Request::any()).unwrap_err(), AllocateError::NoneIdle);
    assert!(fleet.drain_agent(drained, LONG).unwrap().ended);
    hand.advance(DELAY);
    assert_eq!(fleet.tick(), 0);
    assert_eq!(restarts(&witness), [(unrouted, 2), (pushed, 2)]);
    assert_eq!(state(&fleet, unrouted), (AgentState::Draining, 2));
    assert_eq!(state(&fleet, pushed), (AgentState::Ready, 2));
    assert_eq!(fleet.set_condition(unrouted, Condition::Degraded).unwrap(), Condition::Draining);
    assert_eq!(fleet.agents().into_iter().map(|status| status.incarnation).max(), Some(2));
    let kind = |agent| fleet.report_failure(agent, "").unwrap_err().kind();
    assert_eq!(kind(drained), ErrorKind::NotFound);
    assert_eq!(kind(fleet.spawn(AgentSpec::new("free")).unwrap()), ErrorKind::Unsupported);
    finish(&fleet);
}

#[test]
fn a_drain_waits_for_the_restart_and_a_shutdown_does_not() {
    for drains in [true, false] {
        let (fleet, hand, witness) = fleet(1);
        let made = Arc::default();
        let agent = fleet.spawn(obedient(&made).restart(policy())).unwrap();
        let task = fleet.submit(Task::new(PANIC)).unwrap();
        await_failure(&witness, agent);
        fleet.tell(agent, 9).unwrap();
        if drains {
            let drain = {
                let fleet = fleet.clone();
                std::thread::spawn(move || fleet.drain(LONG).unwrap())
            };
            eventually("it drains", || hand.sleepers() == 2);
            hand.advance(DELAY);
            let report = drain.join().unwrap();
            assert!(report.is_complete(), "{report:?}");
            assert_eq!((report.completed, report.messages_handled), (1, 1));
            finish(&fleet);
        } else {
            let report = finish(&fleet);
            assert_eq!((report.returned, report.messages_returned), (1, 1));
            assert_eq!(*task.wait(), Outcome::Returned(ReturnReason::Shutdown));
            hand.advance(DELAY);
            fleet.tick();
            assert_eq!(restarts(&witness), []);
        }
    }
}
