//! Tasks and how they end: handlers, panics, kills, cancellation, the log.

use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use super::support::{Gate, LONG, Ledger, Witness, eventually, finish};
use phalanx::fleet::{
    Agent, AgentSpec, Attempt, Fleet, FleetEvent, LogPosition, Outcome, OutcomeKind, Priority,
    Request, RequeueReason, Task, TaskContext, TaskError, TaskErrorKind, TaskId, TaskLog,
};
use phalanx::{Error, ErrorKind};

fn fleet(workers: usize) -> Fleet<u64, u64> {
    Fleet::builder().workers(workers).build().unwrap()
}

fn doubling() -> AgentSpec<u64, u64> {
    AgentSpec::<u64, u64>::new("doubling").handler_fn(|task, _| Ok(task.payload() * 2))
}

/// An agent whose handler waits at a gate; a struck attempt and its rerun both do.
fn gated(gate: &Arc<Gate>) -> AgentSpec<u64, u64> {
    let gate = Arc::clone(gate);
    AgentSpec::<u64, u64>::new("gated").handler_fn(move |task, cx| {
        gate.pass();
        Ok(task.payload() * 10 + u64::from(cx.attempt().get()))
    })
}

#[test]
fn a_submitted_task_runs_and_its_handle_tells_the_outcome() {
    let fleet = fleet(2);
    fleet.spawn_batch(&doubling(), 3).unwrap();
    let handles: Vec<_> = (0..50).map(|n| fleet.submit(Task::new(n)).unwrap()).collect();
    for (n, handle) in (0..).zip(&handles) {
        assert_eq!(*handle.wait(), Outcome::Completed(n * 2));
    }
    assert_eq!(finish(&fleet).completed, 50);
}

#[test]
fn a_kill_from_outside_reruns_the_task_at_once_and_refuses_the_late_result() {
    let (ledger, witness, gate) = (Arc::<Ledger>::default(), Witness::new(), Gate::new());
    let fleet = Fleet::builder()
        .workers(2)
        .task_log(ledger.clone())
        .observer(witness.clone())
        .build()
        .unwrap();
    let struck = fleet.spawn(gated(&gate)).unwrap();
    let handle = fleet.submit(Task::new(7).max_attempts(NonZeroU32::MIN)).unwrap();
    gate.await_arrivals(1);
    fleet.spawn(doubling()).unwrap();

    let killed = fleet.kill(struck).unwrap();
    assert_eq!((killed.leases_revoked, killed.tasks_struck.len()), (1, 1));
    // The struck handler still stands at the gate, and the task is done elsewhere.
    assert_eq!(*handle.wait(), Outcome::Completed(14));
    assert_eq!(fleet.stats().late_completions_refused, 0);

    gate.open();
    let late = FleetEvent::LateCompletionRefused {
        task: handle.id(),
        attempt: Attempt::new(1),
        agent: struck,
    };
    witness.await_event(|event| *event == late);
    let stats = fleet.stats();
    assert_eq!((stats.late_completions_refused, stats.reruns), (1, 1));
    assert_eq!(
        *ledger.settled.lock().unwrap(),
        [(handle.id(), Attempt::new(2), OutcomeKind::Completed)]
    );
    assert_eq!(*ledger.outputs.lock().unwrap(), [14], "the struck attempt committed nothing");
    assert_eq!(handle.log_position(), Some(LogPosition(1)));
    assert_eq!(finish(&fleet).completed, 1);
}

#[test]
fn a_struck_attempt_that_returns_while_its_successor_runs_is_refused() {
    let (witness, gates) = (Witness::new(), [Gate::new(), Gate::new()]);
    let fleet = Fleet::builder().workers(2).observer(witness.clone()).build().unwrap();
    let held = gates.clone();
    let spec = AgentSpec::<u64, u64>::new("slow").handler_fn(move |_, cx| {
        let attempt = cx.attempt().get();
        held[attempt as usize - 1].pass();
        Ok(u64::from(attempt))
    });
    let agents = fleet.spawn_batch(&spec, 2).unwrap();
    let handle = fleet.submit(Task::new(0)).unwrap();
    gates[0].await_arrivals(1);
    let busy = agents.iter().find(|agent| fleet.agent(**agent).unwrap().load == 1).unwrap();
    fleet.kill(*busy).unwrap();
    gates[1].await_arrivals(1);

    gates[0].open();
    witness.await_event(|event| matches!(event, FleetEvent::LateCompletionRefused { .. }));
    assert!(handle.try_outcome().is_none(), "the struck attempt decided nothing");
    gates[1].open();
    assert_eq!(*handle.wait(), Outcome::Completed(2));
    finish(&fleet);
}

#[test]
fn a_handler_may_kill_its_own_agent_and_a_second_kill_finds_nobody() {
    let kills = Arc::new(Mutex::new(Vec::new()));
    let fleet = fleet(2);
    let weak = fleet.downgrade();
    let seen = Arc::clone(&kills);
    let spec = AgentSpec::<u64, u64>::new("suicidal").handler_fn(move |task, cx| {
        if cx.attempt() == Attempt::new(1) {
            let fleet = weak.upgrade().expect("the test holds it");
            assert!(!cx.is_revoked());
            let first = fleet.kill(cx.agent()).map(|killed| killed.tasks_struck);
            let second = fleet.kill(cx.agent()).map(|killed| killed.tasks_struck);
            assert!(cx.is_revoked());
            seen.lock().unwrap().push((first.unwrap(), second.unwrap_err().kind()));
        }
        Ok(*task.payload())
    });
    fleet.spawn_batch(&spec, 2).unwrap();
    let handle = fleet.submit(Task::new(3)).unwrap();
    assert_eq!(*handle.wait(), Outcome::Completed(3));
    let report = finish(&fleet);
    assert_eq!(report.completed, 1);
    assert_eq!(*kills.lock().unwrap(), [(vec![handle.id()], ErrorKind::NotFound)]);
    let stats = fleet.stats();
    assert_eq!((stats.agents_killed, stats.reruns, stats.late_completions_refused), (1, 1, 1));
}

/// Counts itself, and does what the payload says: 0 works, 1 panics, 2 asks for another attempt, 3 fails.
struct Moody {
    tasks_seen: u64,
}

impl Agent<u64, u64> for Moody {
    fn handle(&mut self, task: &Task<u64>, cx: &mut TaskContext<'_>) -> Result<u64, TaskError> {
        self.tasks_seen += 1;
        match task.payload() {
            0 => Ok(self.tasks_seen),
            1 => panic!("attempt {} panics", cx.attempt()),
            2 => Err(TaskError::retryable("not now")),
            _ => Err(TaskError::permanent("never")),
        }
    }
}

/// One moody agent, and how many handlers were made for it.
fn moody() -> (Fleet<u64, u64>, Arc<AtomicUsize>) {
    let made = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&made);
    let fleet = fleet(1);
    let spec = AgentSpec::new("moody").handler(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Moody { tasks_seen: 0 }
    });
    fleet.spawn(spec).unwrap();
    (fleet, made)
}

fn run(fleet: &Fleet<u64, u64>, task: Task<u64>) -> Arc<Outcome<u64>> {
    fleet.submit(task).unwrap().wait()
}

#[test]
fn a_panic_loses_the_attempt_and_the_handler_and_nothing_else() {
    let (fleet, made) = moody();
    assert_eq!(*run(&fleet, Task::new(0)), Outcome::Completed(1));
    assert_eq!(*run(&fleet, Task::new(0)), Outcome::Completed(2), "the handler is kept");
    let outcome = run(&fleet, Task::new(1));
    let Outcome::Failed(error) = &*outcome else { panic!("{outcome:?}") };
    assert_eq!(error.kind(), TaskErrorKind::Panicked);
    assert_eq!(error.message(), "the handler panicked: attempt 3 panics");
    assert!(error.is_retryable(), "it had no attempts left");
    assert_eq!(made.load(Ordering::SeqCst), 3, "each panic costs a handler");
    assert_eq!(*run(&fleet, Task::new(0)), Outcome::Completed(1), "nobody meets a broken handler");
    let stats = fleet.stats();
    assert_eq!((stats.handler_panics, stats.reruns, stats.tasks_failed), (3, 2, 1));
    finish(&fleet);
}

#[test]
fn a_retryable_error_runs_again_until_the_attempts_are_used_up() {
    let (fleet, made) = moody();
    let two = NonZeroU32::new(2).unwrap();
    let outcome = run(&fleet, Task::new(2).max_attempts(two));
    assert_eq!(*outcome, Outcome::Failed(TaskError::retryable("not now")));
    assert_eq!(fleet.stats().reruns, 1);
    assert_eq!(made.load(Ordering::SeqCst), 1, "an error is an answer, and the handler stays");
    finish(&fleet);
}

#[test]
fn an_attempt_lost_to_a_kill_is_not_counted_against_the_task() {
    let fleet = fleet(1);
    let weak = fleet.downgrade();
    let spec =
        AgentSpec::<u64, u64>::new("unlucky").handler_fn(move |_, cx| match cx.attempt().get() {
            1 => weak
                .upgrade()
                .expect("the test holds it")
                .kill(cx.agent())
                .map(|_| 0)
                .map_err(|error| TaskError::permanent(error.to_string())),
            2 => Err(TaskError::retryable("the first that counts")),
            attempt => Ok(u64::from(attempt)),
        });
    fleet.spawn_batch(&spec, 2).unwrap();
    let task = Task::new(0).max_attempts(NonZeroU32::new(2).unwrap());
    assert_eq!(*run(&fleet, task), Outcome::Completed(3));
    finish(&fleet);
}

#[test]
fn a_permanent_error_fails_at_once() {
    let (fleet, _) = moody();
    assert_eq!(*run(&fleet, Task::new(3)), Outcome::Failed(TaskError::permanent("never")));
    assert_eq!(fleet.stats().reruns, 0);
    finish(&fleet);
}

#[test]
fn a_factory_that_panics_loses_attempts_and_not_the_worker() {
    let fleet = fleet(1);
    let calls = AtomicUsize::new(0);
    let spec = AgentSpec::<u64, u64>::new("late").handler(move || {
        assert!(calls.fetch_add(1, Ordering::SeqCst) >= 2, "the model is still loading");
        Moody { tasks_seen: 0 }
    });
    fleet.spawn(spec).unwrap();
    assert_eq!(*run(&fleet, Task::new(0)), Outcome::Completed(1));
    let stats = fleet.stats();
    assert_eq!((stats.reruns, stats.handler_panics), (2, 2));
    finish(&fleet);
}

#[test]
fn a_task_that_runs_again_keeps_its_place_in_the_queue() {
    let (order, gate) = (Arc::new(Mutex::new(Vec::new())), Gate::new());
    let (seen, held) = (Arc::clone(&order), Arc::clone(&gate));
    let fleet = fleet(1);
    let spec = AgentSpec::<u64, u64>::new("retrying").handler_fn(move |task, cx| {
        held.pass();
        seen.lock().unwrap().push((*task.payload(), cx.attempt().get()));
        if *task.payload() == 1 && cx.attempt() == Attempt::new(1) {
            return Err(TaskError::retryable("once more"));
        }
        Ok(0)
    });
    fleet.spawn(spec).unwrap();
    let handles = [1, 2].map(|n| fleet.submit(Task::new(n)).unwrap());
    gate.open();
    assert!(handles.map(|handle| handle.wait().kind()) == [OutcomeKind::Completed; 2]);
    assert_eq!(*order.lock().unwrap(), [(1, 1), (1, 2), (2, 1)]);
    finish(&fleet);
}

#[test]
fn cancelling_a_queued_task_ends_it_before_the_call_returns() {
    let (ledger, gate) = (Arc::<Ledger>::default(), Gate::new());
    let fleet = Fleet::builder().workers(1).task_log(ledger.clone()).build().unwrap();
    fleet.spawn(gated(&gate)).unwrap();
    let running = fleet.submit(Task::new(1)).unwrap();
    gate.await_arrivals(1);
    let queued = fleet.submit(Task::new(2)).unwrap();
    assert!(queued.cancel());
    assert_eq!(queued.try_outcome().as_deref(), Some(&Outcome::Cancelled));
    assert!(!queued.cancel(), "it has ended");
    assert_eq!(
        *ledger.settled.lock().unwrap(),
        [(queued.id(), Attempt::NONE, OutcomeKind::Cancelled)]
    );
    gate.open();
    assert_eq!(*running.wait(), Outcome::Completed(11));
    assert_eq!(finish(&fleet).cancelled, 1);
}

#[test]
fn a_running_task_that_is_cancelled_ends_as_what_its_handler_made_of_it() {
    for (payload, expected) in [(0, Outcome::Completed(1)), (1, Outcome::Cancelled)] {
        let gate = Gate::new();
        let held = Arc::clone(&gate);
        let fleet = fleet(1);
        let spec = AgentSpec::<u64, u64>::new("polite").handler_fn(move |task, cx| {
            assert!(!cx.is_cancelled());
            held.pass();
            assert!(cx.is_cancelled());
            assert!(!cx.is_revoked());
            if *task.payload() == 0 { Ok(1) } else { Err(TaskError::retryable("was told to stop")) }
        });
        fleet.spawn(spec).unwrap();
        let handle = fleet.submit(Task::new(payload)).unwrap();
        gate.await_arrivals(1);
        assert!(handle.cancel());
        assert!(handle.try_outcome().is_none(), "the handler decides");
        gate.open();
        assert_eq!(*handle.wait(), expected);
        assert_eq!(fleet.stats().reruns, 0);
        finish(&fleet);
    }
}

#[test]
fn a_cancelled_task_whose_agent_is_killed_does_not_run_again() {
    let gate = Gate::new();
    let fleet = fleet(2);
    let agents = fleet.spawn_batch(&gated(&gate), 2).unwrap();
    let handle = fleet.submit(Task::new(1)).unwrap();
    gate.await_arrivals(1);
    assert!(handle.cancel());
    let busy = agents.iter().find(|agent| fleet.agent(**agent).unwrap().load == 1).unwrap();
    fleet.kill(*busy).unwrap();
    assert_eq!(handle.try_outcome().as_deref(), Some(&Outcome::Cancelled));
    gate.open();
    assert_eq!(finish(&fleet).cancelled, 1);
    assert_eq!(fleet.stats().late_completions_refused, 1);
}

/// A log whose commits wait at a gate.
struct GatedLog(Arc<Gate>, AtomicUsize);

impl TaskLog<u64, u64> for GatedLog {
    fn accept(&self, _: &[(TaskId, &Task<u64>)]) -> Result<(), Error> {
        Ok(())
    }
    fn settle(
        &self,
        _: TaskId,
        attempt: Attempt,
        _: &Task<u64>,
        _: &Outcome<u64>,
    ) -> Result<Option<LogPosition>, Error> {
        assert_eq!(attempt, Attempt::new(1));
        self.0.pass();
        self.1.fetch_add(1, Ordering::SeqCst);
        Ok(None)
    }
}

#[test]
fn an_attempt_that_is_being_recorded_has_won_and_a_kill_cannot_take_it_back() {
    let gate = Gate::new();
    let log = Arc::new(GatedLog(Arc::clone(&gate), AtomicUsize::new(0)));
    let fleet = Fleet::builder().workers(2).task_log(log.clone()).build().unwrap();
    let agents = fleet.spawn_batch(&doubling(), 2).unwrap();
    let handle = fleet.submit(Task::new(4)).unwrap();
    gate.await_arrivals(1);
    for agent in agents {
        assert!(fleet.kill(agent).unwrap().tasks_struck.is_empty());
    }
    assert!(!handle.cancel(), "it is too late for that too");
    assert!(handle.try_outcome().is_none(), "the outcome is not visible before it is recorded");
    fleet.spawn(doubling()).unwrap();
    gate.open();
    assert_eq!(*handle.wait(), Outcome::Completed(8));
    assert_eq!(log.1.load(Ordering::SeqCst), 1);
    assert_eq!(fleet.stats().reruns, 0);
    finish(&fleet);
}

#[test]
fn an_agent_with_two_places_runs_two_tasks_at_once_on_two_handlers() {
    let gate = Gate::new();
    let made = Arc::<AtomicUsize>::default();
    let (held, counted) = (Arc::clone(&gate), Arc::clone(&made));
    let fleet = fleet(3);
    struct Waiting(Arc<Gate>);
    impl Agent<u64, u64> for Waiting {
        fn handle(&mut self, task: &Task<u64>, _: &mut TaskContext<'_>) -> Result<u64, TaskError> {
            self.0.pass();
            Ok(*task.payload())
        }
    }
    let spec = AgentSpec::new("wide").max_leases(NonZeroU32::new(2).unwrap()).handler(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Waiting(Arc::clone(&held))
    });
    let agent = fleet.spawn(spec).unwrap();
    let handles = [1, 2, 3].map(|n| fleet.submit(Task::new(n)).unwrap());
    gate.await_arrivals(2);
    assert_eq!(fleet.agent(agent).map(|status| status.load), Some(2));
    let stats = fleet.stats();
    assert_eq!((stats.tasks_running, stats.tasks_queued), (2, 1));
    gate.open();
    assert_eq!(handles.map(|handle| handle.wait().kind()), [OutcomeKind::Completed; 3]);
    assert_eq!(made.load(Ordering::SeqCst), 2);
    finish(&fleet);
}

#[test]
fn a_task_waits_for_an_agent_that_the_host_holds_and_runs_when_it_is_given_back() {
    let fleet = fleet(1);
    let agent = fleet.spawn(doubling()).unwrap();
    for _ in 0..20 {
        let lease = fleet.try_allocate(&Request::any()).unwrap();
        let handle = fleet.submit(Task::new(2)).unwrap();
        assert_eq!(fleet.stats().tasks_queued, 1);
        // Nobody but the returned lease can wake the worker now.
        while !format!("{fleet:?}").contains("sleeping: 1") {
            std::thread::yield_now();
        }
        assert_eq!(fleet.agent(agent).map(|status| status.load), Some(1));
        drop(lease);
        assert_eq!(*handle.wait(), Outcome::Completed(4));
        while fleet.agent(agent).is_some_and(|status| status.load > 0) {
            std::thread::yield_now();
        }
    }
    finish(&fleet);
}

#[test]
fn an_observer_that_panics_is_counted_and_changes_nothing() {
    let observer = Arc::new(|_: &FleetEvent| panic!("the observer panics"));
    let fleet = Fleet::<u64, u64>::builder().workers(1).observer(observer).build().unwrap();
    fleet.spawn(doubling()).unwrap();
    assert_eq!(*run(&fleet, Task::new(1)), Outcome::Completed(2));
    finish(&fleet);
    // Spawned, accepted, told to wait, started, settled, stopped.
    assert_eq!(fleet.stats().observer_panics, 6);
}

#[test]
fn the_observer_is_told_each_step_of_a_task() {
    let witness = Witness::new();
    let fleet = Fleet::builder().workers(1).observer(witness.clone()).build().unwrap();
    let agent = fleet.spawn(AgentSpec::new("moody").handler(|| Moody { tasks_seen: 0 })).unwrap();
    let handle = fleet.submit(Task::new(2).max_attempts(NonZeroU32::new(2).unwrap())).unwrap();
    let _ = handle.wait();
    let (task, [first, second]) = (handle.id(), [1, 2].map(Attempt::new));
    let mut events = witness.events();
    // It is told beside the worker's, as the task is queued and queued again.
    events.retain(|event| !matches!(event, FleetEvent::TasksWait { .. }));
    for event in &mut events {
        if let FleetEvent::AttemptStarted { allocation, .. } = event {
            *allocation = std::time::Duration::ZERO;
        }
    }
    let started = |attempt| FleetEvent::AttemptStarted {
        task,
        attempt,
        agent,
        allocation: std::time::Duration::ZERO,
    };
    assert_eq!(
        events,
        [
            FleetEvent::AgentSpawned { agent },
            FleetEvent::TaskAccepted { task },
            started(first),
            FleetEvent::TaskRequeued {
                task,
                attempt: first,
                reason: RequeueReason::AttemptFailed(TaskError::retryable("not now")),
            },
            started(second),
            FleetEvent::TaskSettled {
                task,
                attempt: second,
                outcome: OutcomeKind::Failed,
                position: None,
            },
        ]
    );
    finish(&fleet);
}

/// Panics when it is dropped, unless it is told not to.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a destructor of the host's panics");
        }
    }
}

#[test]
fn destructors_that_panic_wedge_nothing() {
    struct Fragile {
        _bomb: Bomb,
    }
    impl Agent<Bomb, Bomb> for Fragile {
        fn handle(&mut self, _: &Task<Bomb>, cx: &mut TaskContext<'_>) -> Result<Bomb, TaskError> {
            match cx.attempt().get() {
                1 => panic!("so that the handler is dropped"),
                _ => Ok(Bomb),
            }
        }
    }
    let fleet = Fleet::<Bomb, Bomb>::builder().workers(1).build().unwrap();
    fleet.spawn(AgentSpec::new("fragile").handler(|| Fragile { _bomb: Bomb })).unwrap();
    let mut caught_here = 0;
    for _ in 0..3 {
        let handle = fleet.submit(Task::new(Bomb)).unwrap();
        let outcome = handle.wait();
        assert_eq!(outcome.kind(), OutcomeKind::Completed);
        // The last owner of the output is this test, or the fleet that is just letting go of it.
        let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            drop(handle);
            drop(outcome);
        }));
        caught_here += u64::from(dropped.is_err());
    }
    let report = finish(&fleet);
    assert_eq!(report.completed, 3);
    // Three outputs, three payloads, three handlers after their panics, one that lived to the end.
    assert_eq!(fleet.stats().other_panics + caught_here, 3 + 3 + 3 + 1);
}

#[test]
fn what_a_closure_owns_may_panic_when_it_goes_with_its_agent() {
    let fleet = fleet(1);
    let (weak, bomb) = (fleet.downgrade(), Bomb);
    let doomed = AgentSpec::<u64, u64>::new("doomed").priority(Priority::HIGH);
    let doomed = doomed.handler_fn(move |_, cx| {
        let _armed = &bomb;
        weak.upgrade().expect("the test holds it").kill(cx.agent()).expect("it lives");
        Ok(0)
    });
    fleet.spawn(doomed).unwrap();
    fleet.spawn(doubling()).unwrap();
    let handle = fleet.submit(Task::new(1)).unwrap();
    let outcome = handle.wait_timeout(LONG).expect("the one worker is still there");
    assert_eq!(*outcome, Outcome::Completed(2));
    finish(&fleet);
    assert_eq!(fleet.stats().other_panics, 1);
}

#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_handle_is_a_future_whose_drop_at_any_poll_disturbs_no_other() {
    for polls in 0..3 {
        let gate = Gate::new();
        let fleet = fleet(1);
        fleet.spawn(gated(&gate)).unwrap();
        let mut handle = fleet.submit(Task::new(1)).unwrap();
        let mut other = handle.clone();
        gate.await_arrivals(1);
        let (mine, others) = (Arc::<Wakes>::default(), Arc::<Wakes>::default());
        let (my_waker, other_waker) =
            (Waker::from(Arc::clone(&mine)), Waker::from(Arc::clone(&others)));
        for _ in 0..polls {
            let poll = Pin::new(&mut handle).poll(&mut Context::from_waker(&my_waker));
            assert!(poll.is_pending());
        }
        let poll = Pin::new(&mut other).poll(&mut Context::from_waker(&other_waker));
        assert!(poll.is_pending());
        drop(handle);
        assert_eq!(Arc::strong_count(&mine), 2, "no waker of a dropped handle is kept");
        gate.open();
        let outcome = other.wait();
        let poll = Pin::new(&mut other).poll(&mut Context::from_waker(&other_waker));
        let Poll::Ready(polled) = poll else { panic!("it has ended") };
        assert_eq!(polled, outcome);
        // Only now: an outcome is seen before the wakers are called.
        finish(&fleet);
        assert_eq!((mine.0.load(Ordering::SeqCst), others.0.load(Ordering::SeqCst)), (0, 1));
    }
}

#[test]
fn a_late_attempt_leaves_alone_the_one_that_runs_on_the_next_agent_of_its_place() {
    let gates = [Gate::new(), Gate::new(), Gate::new()];
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    let passing = gates.clone();
    let spec = AgentSpec::new("gated").handler_fn(move |_task: &Task<u64>, cx| {
        let attempt = cx.attempt().get();
        passing[attempt as usize - 1].pass();
        Ok(u64::from(attempt))
    });
    let first = fleet.spawn(spec.clone()).unwrap();
    let handle = fleet.submit(Task::new(0)).unwrap();
    gates[0].await_arrivals(1);
    fleet.kill(first).unwrap();
    let second = fleet.spawn(spec.clone()).unwrap();
    assert_eq!(second.slot(), first.slot(), "it has the place of the one that was killed");
    gates[1].await_arrivals(1);
    gates[0].open();
    eventually("the first comes late", || fleet.stats().late_completions_refused == 1);
    let killed = fleet.kill(second).unwrap();
    assert_eq!(killed.tasks_struck, [handle.id()]);
    gates[2].open();
    fleet.spawn(spec).unwrap();
    assert_eq!(*handle.wait(), Outcome::Completed(3));
    gates[1].open();
    finish(&fleet);
}
