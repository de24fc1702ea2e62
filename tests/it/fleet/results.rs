//! The outcomes of tasks as a stream: each once, in order, bounded, and over when nothing comes any more.

use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_core::Stream;

use super::support::{Gate, LONG, Ledger, SlowLog, finish};
use phalanx::fleet::{
    AgentSpec, Fleet, Outcome, OutcomeKind, ReturnReason, SubmitError, Task, TaskError,
};

fn capacity(outcomes: usize) -> NonZeroUsize {
    NonZeroUsize::new(outcomes).expect("not zero")
}

fn doubler() -> AgentSpec<u64, u64> {
    AgentSpec::new("doubler").handler_fn(|task, _| match *task.payload() {
        0 => Err(TaskError::permanent("nothing to double")),
        number => Ok(number * 2),
    })
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn every_stream_is_told_of_every_task_once_and_in_the_order_of_their_ends() {
    let ledger = Arc::<Ledger>::default();
    let fleet = Fleet::builder().workers(2).task_log(ledger.clone()).build().unwrap();
    fleet.spawn_batch(&doubler(), 4).unwrap();
    let mut streams = [fleet.outcomes(capacity(1000)), fleet.outcomes(capacity(1000))];
    let handles: Vec<_> = (0..200).map(|number| fleet.submit(Task::new(number)).unwrap()).collect();
    let report = fleet.drain(LONG).unwrap();
    assert_eq!((report.completed, report.failed), (199, 1));
    let [first, second] = streams.each_mut().map(|stream| stream.iter().collect::<Vec<_>>());
    assert_eq!(first.len(), 200);
    let key = |stream: &[phalanx::fleet::Ended<u64>]| -> Vec<_> {
        stream.iter().map(|ended| (ended.task, ended.position)).collect()
    };
    assert_eq!(key(&first), key(&second));
    for ended in &first {
        let handle = handles.iter().find(|handle| handle.id() == ended.task).expect("it is ours");
        assert!(Arc::ptr_eq(&ended.outcome, &handle.wait()));
        assert_eq!((ended.attempt.get(), ended.position), (1, handle.log_position()));
    }
    let mut ids: Vec<_> = first.iter().map(|ended| ended.task).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 200);
    assert!(streams.iter().all(|stream| stream.is_over() && stream.missed() == 0));
    finish(&fleet);
}

#[test]
fn who_does_not_keep_up_misses_the_oldest_and_is_told_how_many() {
    let fleet = Fleet::builder().workers(1).build().unwrap();
    fleet.spawn(doubler()).unwrap();
    let (mut slow, gone) = (fleet.outcomes(capacity(2)), fleet.outcomes(capacity(1)));
    drop(gone);
    for number in 1..=5 {
        let _ = fleet.submit(Task::new(number)).unwrap().wait();
    }
    assert_eq!((slow.missed(), fleet.stats().outcomes_missed), (3, 3));
    let next = slow.try_next().expect("two are there");
    assert_eq!(next.outcome.completed(), Some(&8));
    assert_eq!(slow.try_next().expect("one is there").outcome.completed(), Some(&10));
    assert!(slow.try_next().is_none() && !slow.is_over());
    finish(&fleet);
    assert!(slow.is_over() && slow.next_timeout(LONG).is_none());
}

#[test]
fn a_stream_wakes_whoever_waits_and_a_read_that_is_given_up_takes_nothing() {
    let gate = Gate::new();
    let fleet = Fleet::builder().workers(1).build().unwrap();
    let spec = {
        let gate = Arc::clone(&gate);
        AgentSpec::<u64, u64>::new("gated").handler_fn(move |task, _| {
            gate.pass();
            Ok(*task.payload())
        })
    };
    fleet.spawn(spec).unwrap();
    let mut outcomes = fleet.outcomes(capacity(8));
    let (first, second) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    for woken in [&first, &second] {
        let waker = Waker::from(Arc::clone(woken));
        let poll = Pin::new(&mut outcomes).poll_next(&mut Context::from_waker(&waker));
        assert!(poll.is_pending());
    }
    assert_eq!(Arc::strong_count(&first), 1, "the later waker took its place");
    let handle = fleet.submit(Task::new(1)).unwrap();
    gate.open();
    let _ = handle.wait();
    super::support::eventually("it is woken", || second.0.load(Ordering::SeqCst) == 1);
    assert_eq!(first.0.load(Ordering::SeqCst), 0);
    let mut reader = std::pin::pin!(poll_fn(|cx| Pin::new(&mut outcomes).poll_next(cx)));
    let Poll::Ready(Some(ended)) = reader.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    else {
        panic!("one task has ended")
    };
    assert_eq!(*ended.outcome, Outcome::Completed(1));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| outcomes.iter().count());
        let _ = fleet.submit(Task::new(2)).unwrap().wait();
        finish(&fleet);
        assert_eq!(waits.join().unwrap(), 1, "it ends with the fleet");
    });
}

#[test]
fn a_stream_is_over_when_the_log_refuses_the_last_task_of_a_fleet_that_stops() {
    let log = SlowLog::new();
    *log.ledger.refuse_accept.lock().unwrap() = true;
    let fleet = Fleet::<u64, u64>::builder().workers(1).task_log(log.clone()).build().unwrap();
    fleet.spawn(doubler()).unwrap();
    let mut outcomes = fleet.outcomes(capacity(8));
    std::thread::scope(|scope| {
        let refused = scope.spawn(|| fleet.submit(Task::new(1)));
        log.gate.await_arrivals(1);
        let _ = fleet.drain(Duration::ZERO).unwrap();
        assert!(!outcomes.is_over(), "one may come in yet");
        log.gate.open();
        let refused = refused.join().unwrap().unwrap_err();
        assert!(matches!(refused, SubmitError::NotRecorded { .. }));
        assert!(outcomes.next_timeout(LONG).is_none() && outcomes.is_over());
    });
    let mut late = fleet.outcomes(capacity(1));
    assert!(late.is_over() && late.iter().next().is_none());
    finish(&fleet);
}

#[test]
fn tasks_that_come_back_are_told_too() {
    let gate = Gate::new();
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    let spec = {
        let gate = Arc::clone(&gate);
        AgentSpec::new("gated").handler_fn(move |task: &Task<u64>, _| {
            gate.pass();
            Ok(*task.payload())
        })
    };
    fleet.spawn(spec).unwrap();
    let mut outcomes = fleet.outcomes(capacity(8));
    let running = fleet.submit(Task::new(1)).unwrap();
    gate.await_arrivals(1);
    let queued = fleet.submit(Task::new(2)).unwrap();
    let cancelled = fleet.submit(Task::new(3)).unwrap();
    assert!(cancelled.cancel());
    let report = std::thread::scope(|scope| {
        let stopped = scope.spawn(|| fleet.shutdown(LONG).unwrap());
        let _ = queued.wait();
        gate.open();
        stopped.join().unwrap()
    });
    assert!(report.is_complete());
    let ends: Vec<_> = outcomes
        .iter()
        .map(|ended| (ended.task, ended.attempt.get(), ended.outcome.kind()))
        .collect();
    let expected = [
        (cancelled.id(), 0, OutcomeKind::Cancelled),
        (queued.id(), 0, OutcomeKind::Returned),
        (running.id(), 1, OutcomeKind::Completed),
    ];
    assert_eq!(ends, expected);
    assert_eq!(*queued.wait(), Outcome::Returned(ReturnReason::Shutdown));
}
