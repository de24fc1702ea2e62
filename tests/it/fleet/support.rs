//! What the tests of the fleet share: gates, a log and an observer that remember.

use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use phalanx::fleet::scale::{ScalePolicy, ScalePolicyBuilder};
use phalanx::fleet::{
    AgentSpec, Attempt, DrainReport, Fleet, FleetEvent, FleetStats, LogPosition, Observer, Outcome,
    OutcomeKind, Task, TaskId, TaskLog,
};
use phalanx::{Error, ErrorKind};

/// Longer than any test takes: a test that waits so long has failed.
pub(super) const LONG: Duration = Duration::from_secs(60);

/// Holds handlers until the test opens it, and tells the test who has come.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    arrived: usize,
    permits: usize,
    open: bool,
}

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Arrives, and waits to be let through.
    pub(super) fn pass(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.arrived += 1;
        self.changed.notify_all();
        while !state.open && state.permits == 0 {
            // A test that failed may never open its gate, and its fleet waits for its handlers.
            let (next, timeout) =
                self.changed.wait_timeout(state, LONG).unwrap_or_else(PoisonError::into_inner);
            assert!(!timeout.timed_out(), "nobody opened the gate");
            state = next;
        }
        state.permits = state.permits.saturating_sub(1);
    }

    /// Waits until so many have arrived, in all.
    pub(super) fn await_arrivals(&self, count: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.arrived < count {
            let (next, timeout) =
                self.changed.wait_timeout(state, LONG).unwrap_or_else(PoisonError::into_inner);
            assert!(!timeout.timed_out(), "only {} of {count} arrived", next.arrived);
            state = next;
        }
    }

    /// Lets one through.
    pub(super) fn permit(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).permits += 1;
        self.changed.notify_all();
    }

    /// Lets everybody through from now on.
    pub(super) fn open(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).open = true;
        self.changed.notify_all();
    }
}

/// A log that remembers all it was told, and refuses what it is asked to refuse.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) accepted: Mutex<Vec<Vec<TaskId>>>,
    pub(super) settled: Mutex<Vec<(TaskId, Attempt, OutcomeKind)>>,
    /// The outputs that were committed.
    pub(super) outputs: Mutex<Vec<u64>>,
    pub(super) refuse_accept: Mutex<bool>,
    pub(super) refuse_settle: Mutex<bool>,
}

impl TaskLog<u64, u64> for Ledger {
    fn accept(&self, tasks: &[(TaskId, &Task<u64>)]) -> Result<(), Error> {
        if *self.refuse_accept.lock().unwrap() {
            return Err(Error::new(ErrorKind::Io, "the disk is full"));
        }
        self.accepted.lock().unwrap().push(tasks.iter().map(|(id, _)| *id).collect());
        Ok(())
    }

    fn settle(
        &self,
        task: TaskId,
        attempt: Attempt,
        _payload: &Task<u64>,
        outcome: &Outcome<u64>,
    ) -> Result<Option<LogPosition>, Error> {
        if *self.refuse_settle.lock().unwrap() {
            return Err(Error::new(ErrorKind::Io, "the disk is full"));
        }
        let mut settled = self.settled.lock().unwrap();
        settled.push((task, attempt, outcome.kind()));
        self.outputs.lock().unwrap().extend(outcome.completed());
        Ok(Some(LogPosition(settled.len() as u64)))
    }
}

/// A log that waits at a gate before it accepts.
#[derive(Debug)]
pub(super) struct SlowLog {
    pub(super) gate: Arc<Gate>,
    pub(super) ledger: Ledger,
}

impl SlowLog {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { gate: Gate::new(), ledger: Ledger::default() })
    }
}

impl TaskLog<u64, u64> for SlowLog {
    fn accept(&self, tasks: &[(TaskId, &Task<u64>)]) -> Result<(), Error> {
        self.gate.pass();
        self.ledger.accept(tasks)
    }

    fn settle(
        &self,
        task: TaskId,
        attempt: Attempt,
        payload: &Task<u64>,
        outcome: &Outcome<u64>,
    ) -> Result<Option<LogPosition>, Error> {
        self.ledger.settle(task, attempt, payload, outcome)
    }
}

/// An observer that remembers, and that a test can wait on.
#[derive(Debug, Default)]
pub(super) struct Witness {
    events: Mutex<Vec<FleetEvent>>,
    changed: Condvar,
}

impl Witness {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn events(&self) -> Vec<FleetEvent> {
        self.events.lock().unwrap().clone()
    }

    /// Waits until some event is of the sort.
    pub(super) fn await_event(&self, is: impl Fn(&FleetEvent) -> bool) {
        let mut events = self.events.lock().unwrap();
        while !events.iter().any(&is) {
            let (next, timeout) = self.changed.wait_timeout(events, LONG).unwrap();
            assert!(!timeout.timed_out(), "the event did not come");
            events = next;
        }
    }
}

impl Observer for Witness {
    fn notice(&self, event: &FleetEvent) {
        self.events.lock().unwrap().push(event.clone());
        self.changed.notify_all();
    }
}

/// An agent that waits at a gate with what it handles.
pub(super) fn held(gate: &Arc<Gate>) -> AgentSpec<u64, u64> {
    let gate = Arc::clone(gate);
    AgentSpec::new("held").handler_fn(move |task, _| {
        gate.pass();
        Ok(*task.payload())
    })
}

/// A policy that acts on every observation at once, and by as much as is wanted.
pub(super) fn eager() -> ScalePolicyBuilder {
    let many = NonZeroU32::new(1000).expect("it is not zero");
    ScalePolicy::builder()
        .up_window(Duration::ZERO)
        .down_window(Duration::ZERO)
        .up_cooldown(Duration::ZERO)
        .down_cooldown(Duration::ZERO)
        .reverse_after(Duration::ZERO)
        .step_up(many, 0.0)
        .step_down(many, 0.0)
}

/// Stops a fleet and checks that its books balance.
pub(super) fn finish<T, O>(fleet: &Fleet<T, O>) -> DrainReport
where
    T: Send + Sync + 'static,
    O: Send + Sync + 'static,
{
    let report = fleet.shutdown(LONG).expect("a test thread is no worker");
    balanced(&fleet.stats());
    assert_eq!(report.workers_left, 0);
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(
        report.accepted,
        report.completed + report.failed + report.returned + report.cancelled
    );
    report
}

pub(super) fn balanced(stats: &FleetStats) {
    assert_eq!(
        stats.tasks_accepted,
        stats.tasks_completed
            + stats.tasks_failed
            + stats.tasks_returned
            + stats.tasks_cancelled
            + stats.tasks_queued
            + stats.tasks_running,
        "{stats:?}"
    );
}

/// Polls once, for somebody who comes again without being called.
pub(super) fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// What a future that does not wait any more brings.
pub(super) fn ready<F: Future + Unpin>(future: &mut F) -> F::Output {
    match poll(future) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

/// Waits for something that another thread brings about.
pub(super) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "it did not come about: {what}");
        std::thread::yield_now();
    }
}
