//! Drain, shutdown and the drop of the last handle: how each task ended, and no thread left.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::support::{Gate, LONG, Ledger, SlowLog, Witness, balanced, finish};
use phalanx::fleet::{
    AgentSpec, Attempt, Fleet, FleetEvent, Outcome, OutcomeKind, ReturnReason, SubmitError, Task,
};
use phalanx::{ErrorKind, ManualClock};

thread_local! {
    /// Set by a handler; dropped when its thread ends.
    static ON_EXIT: RefCell<Option<CountOnDrop>> = const { RefCell::new(None) };
}

struct CountOnDrop(Arc<AtomicUsize>);

impl Drop for CountOnDrop {
    fn drop(&mut self) {
        // Time for those who do not join this thread to be seen going on without it.
        for _ in 0..2_000 {
            thread::yield_now();
        }
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// An agent that waits at a gate, on a thread whose end is counted.
fn marked(gate: &Arc<Gate>, ended: &Arc<AtomicUsize>) -> AgentSpec<u64, u64> {
    let (gate, ended) = (Arc::clone(gate), Arc::clone(ended));
    AgentSpec::<u64, u64>::new("marked").handler_fn(move |task, _| {
        ON_EXIT.with_borrow_mut(|mark| {
            mark.get_or_insert_with(|| CountOnDrop(Arc::clone(&ended)));
        });
        gate.pass();
        Ok(*task.payload())
    })
}

fn fleet(workers: usize) -> Fleet<u64, u64> {
    Fleet::builder().workers(workers).build().unwrap()
}

#[test]
fn a_drain_waits_for_what_was_accepted_and_takes_no_more() {
    let (gate, ended) = (Gate::new(), Arc::default());
    let fleet = fleet(2);
    fleet.spawn_batch(&marked(&gate, &ended), 2).unwrap();
    let handles: Vec<_> = (0..5).map(|n| fleet.submit(Task::new(n)).unwrap()).collect();
    gate.await_arrivals(2);
    let drain = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.drain(LONG).unwrap())
    };
    let refused = loop {
        match fleet.submit(Task::new(99).capability("nobody has it")) {
            Err(SubmitError::NoAgent(_)) => thread::yield_now(),
            Err(refused) => break refused,
            Ok(_) => panic!("nobody can do it"),
        }
    };
    assert!(matches!(refused, SubmitError::Closed(task) if *task.payload() == 99));
    assert!(!drain.is_finished());
    gate.open();
    let report = drain.join().unwrap();
    assert_eq!((report.accepted, report.completed, report.unfinished.len()), (5, 5, 0));
    let mut told = report.ended;
    told.sort_unstable_by_key(|(id, _)| *id);
    let completed = handles.iter().map(|handle| (handle.id(), OutcomeKind::Completed));
    assert!(told.into_iter().eq(completed));
    for (n, handle) in (0..).zip(handles) {
        assert_eq!(*handle.try_outcome().expect("it was drained"), Outcome::Completed(n));
    }
    finish(&fleet);
    assert_eq!(ended.load(Ordering::SeqCst), 2, "both threads were joined");
}

#[test]
fn a_drain_that_times_out_lists_what_has_not_ended() {
    let (clock, hand) = ManualClock::new();
    let gate = Gate::new();
    let fleet = Fleet::<u64, u64>::builder().workers(1).clock(clock).build().unwrap();
    fleet.spawn(marked(&gate, &Arc::default())).unwrap();
    let running = fleet.submit(Task::new(1)).unwrap();
    let queued = fleet.submit(Task::new(2)).unwrap();
    gate.await_arrivals(1);
    let drain = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.drain(Duration::from_secs(3)).unwrap())
    };
    while hand.sleepers() == 0 {
        thread::yield_now();
    }
    hand.advance(Duration::from_secs(3));
    let report = drain.join().unwrap();
    assert_eq!(report.unfinished, [running.id(), queued.id()]);
    assert!(!report.is_complete());
    gate.open();
    assert_eq!(*queued.wait(), Outcome::Completed(2));
    assert_eq!(finish(&fleet).completed, 2);
}

#[test]
fn a_shutdown_returns_what_is_queued_through_the_log_and_finishes_what_runs() {
    let (ledger, gate, ended) = (Arc::<Ledger>::default(), Gate::new(), Arc::default());
    let fleet = Fleet::builder().workers(1).task_log(ledger.clone()).build().unwrap();
    fleet.spawn(marked(&gate, &ended)).unwrap();
    let running = fleet.submit(Task::new(1)).unwrap();
    gate.await_arrivals(1);
    let queued = fleet.submit(Task::new(2)).unwrap();
    let shutdown = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.shutdown(LONG).unwrap())
    };
    assert_eq!(*queued.wait(), Outcome::Returned(ReturnReason::Shutdown));
    assert!(running.try_outcome().is_none());
    gate.open();
    let report = shutdown.join().unwrap();
    assert_eq!((report.completed, report.returned, report.workers_left), (1, 1, 0));
    assert_eq!(ended.load(Ordering::SeqCst), 1, "the thread was joined");
    assert_eq!(
        *ledger.settled.lock().unwrap(),
        [
            (queued.id(), Attempt::NONE, OutcomeKind::Returned),
            (running.id(), Attempt::new(1), OutcomeKind::Completed),
        ]
    );
    let ended = [(queued.id(), OutcomeKind::Returned), (running.id(), OutcomeKind::Completed)];
    assert_eq!(report.ended, ended);
    let mut again = finish(&fleet);
    assert!(again.ended.is_empty(), "they had ended before it began");
    again.ended = ended.to_vec();
    assert_eq!(again, report, "a second shutdown changes nothing");
}

#[test]
fn a_handler_that_does_not_return_in_time_loses_its_task_and_is_reported() {
    let (ledger, witness, gate) = (Arc::<Ledger>::default(), Witness::new(), Gate::new());
    let ended = Arc::default();
    let fleet = Fleet::builder()
        .workers(1)
        .task_log(ledger.clone())
        .observer(witness.clone())
        .build()
        .unwrap();
    let agent = fleet.spawn(marked(&gate, &ended)).unwrap();
    let handle = fleet.submit(Task::new(1)).unwrap();
    gate.await_arrivals(1);
    let report = fleet.shutdown(Duration::ZERO).unwrap();
    assert_eq!((report.returned, report.workers_left), (1, 1));
    assert!(report.is_complete());
    assert_eq!(*handle.wait(), Outcome::Returned(ReturnReason::Shutdown));
    gate.open();
    let report = finish(&fleet);
    assert_eq!((report.returned, report.completed), (1, 0));
    assert_eq!(ended.load(Ordering::SeqCst), 1, "the thread was joined after all");
    assert_eq!(fleet.stats().late_completions_refused, 1);
    assert!(ledger.outputs.lock().unwrap().is_empty());
    let stopped = FleetEvent::AgentStopped { agent, leases_revoked: 1 };
    assert!(witness.events().contains(&stopped));
}

#[test]
fn any_number_of_threads_may_shut_down_the_same_fleet() {
    let (gate, ended) = (Gate::new(), Arc::default());
    let fleet = fleet(2);
    fleet.spawn_batch(&marked(&gate, &ended), 2).unwrap();
    let handles: Vec<_> = (0..10).map(|n| fleet.submit(Task::new(n)).unwrap()).collect();
    gate.await_arrivals(2);
    let stops: Vec<_> = (0..3)
        .map(|_| {
            let (fleet, ended) = (fleet.clone(), Arc::clone(&ended));
            thread::spawn(move || {
                let report = fleet.shutdown(LONG).unwrap();
                assert_eq!(ended.load(Ordering::SeqCst), 2, "no thread is left for any caller");
                report
            })
        })
        .collect();
    gate.open();
    for stop in stops {
        let report = stop.join().unwrap();
        assert_eq!(report.accepted, report.completed + report.returned);
        assert!(report.is_complete());
    }
    assert!(handles.iter().all(|handle| handle.try_outcome().is_some()));
    finish(&fleet);
}

#[test]
fn a_handler_that_shuts_down_its_own_fleet_is_told_that_it_cannot() {
    let fleet = fleet(1);
    let weak = fleet.downgrade();
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&kinds);
    let spec = AgentSpec::<u64, u64>::new("confused").handler_fn(move |_, _| {
        let fleet = weak.upgrade().expect("the test holds it");
        let mut kinds = seen.lock().unwrap();
        kinds.push(fleet.shutdown(LONG).unwrap_err().kind());
        kinds.push(fleet.drain(LONG).unwrap_err().kind());
        Ok(0)
    });
    fleet.spawn(spec).unwrap();
    assert_eq!(*fleet.submit(Task::new(1)).unwrap().wait(), Outcome::Completed(0));
    assert_eq!(*kinds.lock().unwrap(), [ErrorKind::Unsupported; 2]);
    assert_eq!(finish(&fleet).completed, 1);
}

#[test]
fn dropping_the_last_handle_returns_what_is_queued_and_leaves_no_thread() {
    let (gate, ended) = (Gate::new(), Arc::<AtomicUsize>::default());
    let fleet = fleet(2);
    fleet.spawn(marked(&gate, &ended)).unwrap();
    let running = fleet.submit(Task::new(1)).unwrap();
    gate.await_arrivals(1);
    let queued = fleet.submit(Task::new(2)).unwrap();
    let other = fleet.clone();
    drop(fleet);
    assert_eq!(queued.try_outcome(), None, "another handle is still there");
    let dropping = thread::spawn(move || drop(other));
    assert_eq!(*queued.wait(), Outcome::Returned(ReturnReason::Shutdown));
    gate.open();
    dropping.join().unwrap();
    assert_eq!(*running.try_outcome().expect("it ran to its end"), Outcome::Completed(1));
    assert_eq!(ended.load(Ordering::SeqCst), 1, "the thread was joined");
    assert!(!queued.cancel());
}

#[test]
fn a_last_handle_dropped_on_a_worker_thread_does_not_wait_for_itself() {
    let (gate, ended) = (Gate::new(), Arc::<AtomicUsize>::default());
    let slot: Arc<Mutex<Option<Fleet<u64, u64>>>> = Arc::default();
    let fleet = fleet(1);
    let mark = marked(&gate, &ended);
    let taken = Arc::clone(&slot);
    let spec = AgentSpec::<u64, u64>::new("last").capability("last").handler_fn(move |_, _| {
        drop(taken.lock().unwrap().take());
        Ok(7)
    });
    fleet.spawn(spec).unwrap();
    fleet.spawn(mark).unwrap();
    gate.open();
    let task = || Task::new(1).capability("last");
    assert_eq!(*fleet.submit(task()).unwrap().wait(), Outcome::Completed(7));
    let handle = {
        // The task cannot see the slot before the handle is in it.
        let mut slot = slot.lock().unwrap();
        let handle = fleet.submit(task()).unwrap();
        *slot = Some(fleet);
        handle
    };
    assert_eq!(*handle.wait(), Outcome::Completed(7));
}

#[test]
fn an_acceptance_under_way_when_the_fleet_stops_still_gets_its_outcome() {
    let log = SlowLog::new();
    let fleet = Fleet::builder().workers(1).task_log(log.clone()).build().unwrap();
    fleet
        .spawn(AgentSpec::<u64, u64>::new("any").handler_fn(|task, _| Ok(*task.payload())))
        .unwrap();
    let submit = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.submit(Task::new(1)).map(|handle| handle.wait()))
    };
    log.gate.await_arrivals(1);
    fleet.shutdown(Duration::ZERO).unwrap();
    log.gate.open();
    let outcome = submit.join().unwrap().expect("the log accepted it");
    assert_eq!(*outcome, Outcome::Returned(ReturnReason::Shutdown));
    let report = finish(&fleet);
    assert_eq!((report.accepted, report.returned), (1, 1));
    balanced(&fleet.stats());
}
