//! The coordinator: outcome and effects are one, nothing accepted is lost, everything is told.

mod durable;

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use phalanx::ErrorKind;
use phalanx::bus::{EventBus, Filter, Overflow, RecvError, Subscriber, TryRecvError};
use phalanx::coordinator::{Coordinator, CoordinatorBuilder, Domain, Notice, topics};
use phalanx::fleet::{
    AgentSpec, AllocateError, Fleet, FleetEvent, Outcome, OutcomeKind, Request, Task, TaskError,
    TaskErrorKind, TaskId, WeakFleet,
};
use phalanx::state::{Abort, Collection, StateManager};

const LONG: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Doubling;

impl Domain for Doubling {
    type Task = u64;
    type Output = u64;
    type Event = &'static str;
    type Key = ();
    type Value = ();
}

/// A coordinator whose tasks write their output under their payload.
fn doubling(state: StateManager) -> (CoordinatorBuilder<Doubling>, Collection<u64, u64>) {
    let results = state.collection::<u64, u64>("results").expect("the name is free");
    let written = results.clone();
    let builder = Coordinator::<Doubling>::builder()
        .fleet(Fleet::builder().workers(2))
        .state(state)
        .effects(move |task, output, tx| {
            tx.insert(&written, *task.payload(), *output);
            Ok(())
        });
    (builder, results)
}

fn doubler() -> AgentSpec<u64, u64> {
    AgentSpec::new("doubler").handler_fn(|task, _| Ok(task.payload() * 2))
}

fn on_disk(folder: &Path) -> StateManager {
    StateManager::builder().path(folder).open().expect("the folder is free and sound")
}

fn settled(subscriber: &mut Subscriber<Notice<&'static str>>) -> (TaskId, OutcomeKind, u64) {
    loop {
        match subscriber.recv().expect("the bus is open and blocks").payload {
            Notice::Fleet(FleetEvent::TaskSettled { task, outcome, position, .. }) => {
                return (task, outcome, position.expect("the state recorded it").0);
            }
            _ => continue,
        }
    }
}

#[test]
fn an_outcome_is_told_only_after_it_and_its_effects_are_committed_together() {
    let (builder, results) = doubling(StateManager::in_memory());
    let coordinator = builder.build().expect("it builds");
    let filter = Filter::topics([topics::TASK_SETTLED]).expect("a topic");
    let mut told = coordinator.bus().subscribe(filter, Overflow::Block);
    coordinator.fleet().spawn_batch(&doubler(), 4).expect("there is room");

    for payload in 0..100 {
        let handle = coordinator.fleet().submit(Task::new(payload)).expect("there is room");
        let (task, outcome, position) = settled(&mut told);
        let snapshot = coordinator.state().snapshot();
        assert_eq!((task, outcome), (handle.id(), OutcomeKind::Completed));
        assert!(snapshot.version().as_u64() >= position);
        assert_eq!(snapshot.get(&results, &payload), Some(payload * 2));
        let recorded = coordinator.outcome(task).expect("it is in the history");
        assert_eq!(recorded.kind, OutcomeKind::Completed);
        assert_eq!(recorded.attempt.get(), 1);
    }
}

#[test]
fn an_attempt_whose_agent_was_killed_commits_nothing_and_is_told() {
    let (builder, results) = doubling(StateManager::in_memory());
    let coordinator = builder.build().expect("it builds");
    let mut told = coordinator.bus().subscribe(Filter::all(), Overflow::Block);
    let fleet: WeakFleet<u64, u64> = coordinator.fleet().downgrade();
    let (struck, tell_struck) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (again, late) = (Arc::clone(&struck), Arc::clone(&tell_struck));
    let spec = AgentSpec::new("victim").handler_fn(move |_: &Task<u64>, cx| {
        if !again.swap(true, Ordering::SeqCst) {
            let fleet = fleet.upgrade().expect("the coordinator holds it");
            fleet.kill(cx.agent()).expect("it runs on a live agent");
            late.store(cx.attempt().get(), Ordering::SeqCst);
            return Ok(666);
        }
        Ok(7)
    });
    coordinator.fleet().spawn_batch(&spec, 2).expect("there is room");

    let handle = coordinator.fleet().submit(Task::new(1)).expect("there is room");
    assert_eq!(*handle.wait(), Outcome::Completed(7));
    let report = coordinator.shutdown(LONG).expect("nothing fails");
    assert_eq!(report.drain.completed, 1);
    assert_eq!(results.get(&1), Some(7));
    assert_eq!(tell_struck.load(Ordering::SeqCst), 1);
    assert_eq!(coordinator.fleet().stats().late_completions_refused, 1);

    let mut refused = 0;
    loop {
        match told.recv() {
            Ok(event) => {
                if let Notice::Fleet(FleetEvent::LateCompletionRefused { attempt, .. }) =
                    event.payload
                {
                    assert_eq!(attempt.get(), 1);
                    refused += 1;
                }
            }
            Err(RecvError::Closed) => break,
            Err(error) => panic!("a blocking subscription reads everything: {error}"),
        }
    }
    assert_eq!(refused, 1);
}

#[test]
fn effects_that_abort_or_panic_fail_the_task_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    {
        let state = on_disk(folder.path());
        let results = state.collection::<u64, u64>("results").expect("the name is free");
        let written = results.clone();
        let coordinator = Coordinator::<Doubling>::builder()
            .fleet(Fleet::builder().workers(1))
            .state(state)
            .durable_tasks()
            .effects(move |task, output, tx| {
                tx.insert(&written, *task.payload(), *output);
                match task.payload() {
                    0 => Err(Abort::new("zero is refused")),
                    1 => panic!("one panics"),
                    _ => Ok(()),
                }
            })
            .build()
            .expect("it builds");
        coordinator.fleet().spawn(doubler()).expect("there is room");
        let tasks = (0..3).map(Task::new).collect();
        let handles = coordinator.fleet().submit_batch(tasks).expect("there is room");
        let outcomes: Vec<_> = handles.iter().map(|handle| handle.wait()).collect();
        for (handle, outcome) in handles.iter().zip(&outcomes).take(2) {
            let Outcome::Failed(error) = &**outcome else { panic!("found {outcome:?}") };
            assert_eq!(error.kind(), TaskErrorKind::NotRecorded);
            let recorded = coordinator.outcome(handle.id()).expect("it is in the history");
            assert_eq!(recorded.kind, OutcomeKind::Failed);
        }
        assert_eq!(*outcomes[2], Outcome::Completed(4));
        let zero = coordinator.outcome(handles[0].id()).expect("it is in the history");
        assert_eq!(zero.reason.as_deref(), Some("zero is refused"));
        assert_eq!((results.get(&0), results.get(&1), results.get(&2)), (None, None, Some(4)));
        coordinator.shutdown(LONG).expect("nothing fails");
    }
    let (builder, _) = doubling(on_disk(folder.path()));
    let coordinator = builder.durable_tasks().build().expect("it builds");
    assert_eq!(coordinator.take_recovered().len(), 0, "each of the three has its outcome");
}

/// Copies a folder as a crash would leave it: what is on disk at this moment.
fn crash_copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a temporary folder");
    for entry in std::fs::read_dir(from).expect("the folder is there") {
        let entry = entry.expect("it can be read");
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).expect("it can be copied");
    }
    to
}

#[test]
fn a_task_accepted_durably_is_found_after_a_crash_and_never_after_its_outcome() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (builder, _) = doubling(on_disk(folder.path()));
    let coordinator = builder.durable_tasks().build().expect("it builds");
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let spec = AgentSpec::new("slow").handler_fn(move |task: &Task<u64>, _| {
        let _ = held.lock().map(|held| held.recv());
        Ok(task.payload() * 2)
    });
    coordinator.fleet().spawn(spec).expect("there is room");
    let tasks =
        (10..13).map(|n| Task::new(n).max_attempts(2.try_into().expect("not zero"))).collect();
    let handles = coordinator.fleet().submit_batch(tasks).expect("there is room");
    let ids: Vec<_> = handles.iter().map(|handle| Some(handle.id())).collect();

    let crashed = crash_copy(folder.path());
    drop(release);
    coordinator.shutdown(LONG).expect("nothing fails");

    let (builder, results) = doubling(on_disk(crashed.path()));
    let second = builder.durable_tasks().build().expect("it builds");
    let recovered = second.take_recovered();
    assert_eq!(recovered.iter().map(Task::id).collect::<Vec<_>>(), ids);
    assert_eq!(recovered.iter().map(|task| *task.payload()).collect::<Vec<_>>(), [10, 11, 12]);
    assert!(recovered.iter().all(|task| task.attempts().get() == 2));
    assert_eq!(second.take_recovered().len(), 0, "they are handed out once");

    // One runs again, one is cancelled, one is left.
    second.fleet().spawn(doubler()).expect("there is room");
    let mut recovered = recovered.into_iter();
    let again = second.fleet().submit(recovered.next().expect("three")).expect("there is room");
    assert_eq!(*again.wait(), Outcome::Completed(20));
    let cancelled = recovered.next().expect("three");
    second.cancel_recovered(vec![cancelled]).expect("the state is sound");
    let fresh = second.fleet().submit(Task::new(99)).expect("there is room");
    assert!(ids.iter().all(|id| *id != Some(fresh.id())), "an id is given once");
    assert_eq!(*fresh.wait(), Outcome::Completed(198));
    assert_eq!(results.get(&10), Some(20));
    second.shutdown(LONG).expect("nothing fails");
    drop(second);
    drop(results);

    let (builder, _) = doubling(on_disk(crashed.path()));
    let third = builder.durable_tasks().build().expect("it builds");
    let left: Vec<_> = third.take_recovered().iter().map(|task| *task.payload()).collect();
    assert_eq!(left, [12]);
    let kinds = ids.iter().flatten().map(|id| third.outcome(*id).map(|recorded| recorded.kind));
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        [Some(OutcomeKind::Completed), Some(OutcomeKind::Cancelled), None]
    );
}

#[test]
fn a_task_that_a_shutdown_returns_is_found_by_the_next_process() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (builder, results) = doubling(on_disk(folder.path()));
    let coordinator = builder.durable_tasks().build().expect("it builds");
    let (started, starts) = mpsc::channel::<()>();
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let spec = AgentSpec::new("slow").handler_fn(move |task: &Task<u64>, _| {
        let _ = started.send(());
        let _ = held.lock().map(|held| held.recv());
        Ok(task.payload() * 2)
    });
    coordinator.fleet().spawn(spec).expect("there is room");
    let handles =
        coordinator.fleet().submit_batch((0..2).map(Task::new).collect()).expect("there is room");
    starts.recv().expect("the first one starts");
    let report = coordinator.shutdown(Duration::ZERO).expect("nothing fails");
    assert_eq!(handles[1].wait().kind(), OutcomeKind::Returned);
    assert_eq!((report.drain.returned, report.drain.workers_left), (2, 1));
    assert_eq!(handles[0].wait().kind(), OutcomeKind::Returned, "it was struck");
    drop(release);
    let report = coordinator.shutdown(LONG).expect("nothing fails");
    assert_eq!((report.drain.returned, report.drain.workers_left), (2, 0));
    assert_eq!(results.len(), 0, "the late result was refused");
    coordinator.state().close().expect("the disk is sound");
    drop((coordinator, results));

    let (builder, _) = doubling(on_disk(folder.path()));
    let second = builder.durable_tasks().build().expect("it builds");
    let left: Vec<_> = second.take_recovered().iter().map(|task| *task.payload()).collect();
    assert_eq!(left, [0, 1]);
}

#[test]
fn the_history_of_outcomes_is_bounded() {
    let (builder, _) = doubling(StateManager::in_memory());
    let coordinator = builder.build().expect("it builds");
    coordinator.fleet().spawn_batch(&doubler(), 4).expect("there is room");
    let mut ids = Vec::new();
    for payload in 0..1100 {
        let handle = coordinator.fleet().submit(Task::new(payload)).expect("there is room");
        assert_eq!(*handle.wait(), Outcome::Completed(payload * 2));
        ids.push(handle.id());
    }
    let known = ids.iter().filter(|id| coordinator.outcome(**id).is_some()).count();
    assert_eq!(known, 1024);
    assert_eq!(coordinator.outcome(ids[0]), None);
    assert!(coordinator.outcome(ids[1099]).is_some());
}

#[test]
fn a_subscription_that_nobody_reads_cannot_hold_up_a_shutdown() {
    let bus = EventBus::builder().capacity(2).build().expect("a power of two");
    let (builder, results) = doubling(StateManager::in_memory());
    let coordinator = builder.bus(bus).build().expect("it builds");
    let mut unread = coordinator.bus().subscribe(Filter::all(), Overflow::Block);
    // Spawned and accepted: the ring is full, and the worker waits to tell that the attempt starts.
    coordinator.fleet().spawn(doubler()).expect("there is room");
    let handle = coordinator.fleet().submit(Task::new(1)).expect("there is room");
    while coordinator.bus().stats().blocked_publishes == 0 {
        thread::yield_now();
    }
    let (tell, told) = mpsc::channel();
    let stopping = coordinator.clone();
    thread::spawn(move || {
        let first = stopping.shutdown(Duration::ZERO).expect("nothing fails");
        let second = stopping.shutdown(LONG).expect("nothing fails");
        let _ = tell.send((first.drain, second.drain));
    });
    let (first, second) = told.recv_timeout(LONG).expect("the shutdown ends");
    assert_eq!((first.returned, first.workers_left), (1, 1));
    assert_eq!((second.returned, second.workers_left), (1, 0), "the close let it go on");
    assert_eq!(handle.wait().kind(), OutcomeKind::Returned);
    assert_eq!(results.len(), 0, "the late result was refused");
    // The hint that a task waits, the attempt that started, the settled task, the stopped agent, the late completion.
    assert_eq!(coordinator.notices_unpublished(), 5);
    assert!(unread.recv().is_ok() && unread.recv().is_ok(), "what was published is there");
    assert_eq!(unread.recv().map(|event| event.payload), Err(RecvError::Closed));
}

#[test]
fn who_waits_for_an_agent_waits_for_no_subscription() {
    let bus = EventBus::builder().capacity(2).build().expect("a power of two");
    let (builder, _) = doubling(StateManager::in_memory());
    let coordinator = builder.bus(bus).build().expect("it builds");
    let mut unread = coordinator.bus().subscribe(Filter::all(), Overflow::Block);
    coordinator.fleet().spawn_batch(&doubler(), 2).expect("there is room");
    // That was published, and the ring is full of it.
    let held = coordinator.fleet().try_allocate_batch(&Request::any(), 2);
    let _held = held.expect("they are free");
    let (tell, told) = mpsc::channel();
    let waiting = coordinator.clone();
    let waits = move || {
        let fleet = waiting.fleet();
        let in_time = fleet.allocate_timeout(&Request::any(), Duration::from_millis(10));
        let any = Request::any();
        let mut polled = pin!(fleet.allocate_async(&any));
        let is_pending = polled.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
        let mut batch = pin!(fleet.allocate_batch_async(&any, 1));
        let batch = batch.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
        let _ = tell.send((in_time.map(drop), is_pending, batch));
    };
    thread::spawn(waits);
    let answer = told.recv_timeout(LONG).expect("it waits for the agent alone");
    assert_eq!(answer, (Err(AllocateError::Timeout), true, true));
    // The first that waited, the first after it had gone, and as many again.
    assert_eq!(coordinator.notices_unpublished(), 3);
    assert!(unread.try_recv().is_ok() && unread.try_recv().is_ok());
    assert_eq!(unread.try_recv().map(|event| event.payload), Err(TryRecvError::Empty));

    let hints = Filter::topics([topics::BACKLOG]).expect("a topic");
    let mut hints = coordinator.bus().subscribe(hints, Overflow::Block);
    let any = Request::any();
    let mut polled = pin!(coordinator.fleet().allocate_async(&any));
    assert!(polled.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let hint = hints.try_recv().map(|event| event.payload);
    assert_eq!(hint, Ok(Notice::Fleet(FleetEvent::RequestsWait { requests: 1 })));
}

#[test]
fn a_handler_that_shuts_its_coordinator_down_is_told_that_it_cannot() {
    let (builder, _) = doubling(StateManager::in_memory());
    let coordinator = builder.build().expect("it builds");
    let slot = Arc::new(std::sync::Mutex::new(Some(coordinator.clone())));
    let spec = AgentSpec::new("confused").handler_fn(move |_: &Task<u64>, _| {
        let own = slot.lock().expect("nobody panics").take();
        let refused = own.map(|own| own.shutdown(Duration::ZERO).map_err(|error| error.kind()));
        assert!(matches!(refused, Some(Err(ErrorKind::Unsupported))));
        Ok(7)
    });
    coordinator.fleet().spawn(spec).expect("there is room");
    let handle = coordinator.fleet().submit(Task::new(1)).expect("there is room");
    assert_eq!(*handle.wait(), Outcome::Completed(7));
    assert!(!coordinator.bus().is_closed());
}

#[test]
fn effects_that_the_state_refuses_fail_the_task_for_good() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let elsewhere = StateManager::in_memory().collection::<u64, u64>("elsewhere");
    let elsewhere = elsewhere.expect("the name is free");
    {
        let coordinator = Coordinator::<Doubling>::builder()
            .fleet(Fleet::builder().workers(1))
            .state(on_disk(folder.path()))
            .durable_tasks()
            .effects(move |task, output, tx| {
                tx.insert(&elsewhere, *task.payload(), *output);
                Ok(())
            })
            .build()
            .expect("it builds");
        coordinator.fleet().spawn(doubler()).expect("there is room");
        let handle = coordinator.fleet().submit(Task::new(1)).expect("there is room");
        assert_eq!(handle.wait().kind(), OutcomeKind::Failed);
        let recorded = coordinator.outcome(handle.id()).expect("what is told is recorded");
        assert_eq!(recorded.kind, OutcomeKind::Failed);
        coordinator.shutdown(LONG).expect("nothing fails");
    }
    let (builder, _) = doubling(on_disk(folder.path()));
    let coordinator = builder.durable_tasks().build().expect("it builds");
    assert_eq!(coordinator.take_recovered().len(), 0, "it has its outcome");
}

#[test]
fn the_history_never_tells_of_an_older_task_under_a_new_ones_id() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut ids = Vec::new();
    for first_task_id in [1, 1, 50] {
        let fleet = Fleet::builder().workers(1).first_task_id(TaskId::new(first_task_id));
        let (builder, _) = doubling(on_disk(folder.path()));
        let coordinator = builder.fleet(fleet).build().expect("it builds");
        coordinator.fleet().spawn(doubler()).expect("there is room");
        let handle = coordinator.fleet().submit(Task::new(1)).expect("there is room");
        assert_eq!(*handle.wait(), Outcome::Completed(2));
        ids.push(handle.id().get());
        coordinator.shutdown(LONG).expect("nothing fails");
    }
    assert_eq!(ids, [1, 2, 50]);
}

#[test]
fn a_reason_of_any_length_takes_bounded_room_in_the_history() {
    let (builder, _) = doubling(StateManager::in_memory());
    let coordinator = builder.build().expect("it builds");
    let spec = AgentSpec::new("verbose")
        .handler_fn(|_: &Task<u64>, _| Err(TaskError::permanent("\u{20ac}".repeat(10_000))));
    coordinator.fleet().spawn(spec).expect("there is room");
    let handle = coordinator.fleet().submit(Task::new(1)).expect("there is room");
    assert_eq!(handle.wait().kind(), OutcomeKind::Failed);
    let reason = coordinator.outcome(handle.id()).and_then(|recorded| recorded.reason);
    let reason = reason.expect("it failed");
    assert!(reason.starts_with(&"\u{20ac}".repeat(1365)) && reason.len() < 4200);
    assert!(reason.ends_with("(cut; 30000 bytes in all)"), "{}", &reason[4000..]);
}

#[test]
fn durable_tasks_over_a_state_in_memory_are_refused() {
    let refused = Coordinator::<Doubling>::builder().durable_tasks().build();
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::InvalidArgument));
}

#[test]
fn a_recovered_task_has_an_id_or_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (builder, _) = doubling(on_disk(folder.path()));
    let coordinator = builder.durable_tasks().build().expect("it builds");
    let refused = coordinator.cancel_recovered(vec![Task::new(1)]);
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::InvalidArgument));
    let ended = Task::new(1).with_id(TaskId::new(4));
    let refused = coordinator.cancel_recovered(vec![ended]);
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::NotFound));
    assert_eq!(coordinator.outcome(TaskId::new(4)), None, "nothing was recorded");
}

#[test]
fn the_hosts_events_travel_beside_the_librarys_until_the_shutdown() {
    let coordinator: Coordinator<Doubling> = Coordinator::builder().build().expect("it builds");
    let filter = Filter::topics([topics::HOST]).expect("a topic");
    let mut host = coordinator.bus().subscribe(filter, Overflow::Block);
    coordinator.publish("hello").expect("the bus is open");
    assert_eq!(host.recv().map(|event| event.payload), Ok(Notice::Host("hello")));
    let first = coordinator.shutdown(LONG).expect("nothing fails");
    let second = coordinator.shutdown(LONG).expect("nothing fails");
    assert_eq!((first.drain.accepted, second.drain.accepted), (0, 0));
    assert_eq!(first.durable, None);
    let refused = coordinator.publish("too late").map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::Closed));
    assert_eq!(host.recv().map(|event| event.payload), Err(RecvError::Closed));
}

#[test]
fn without_settings_no_thread_is_started_and_no_engine_is_there() {
    let coordinator: Coordinator<Doubling> = Coordinator::builder().build().expect("it builds");
    assert!(coordinator.engine().is_none());
    let refused = coordinator.fleet().spawn(doubler()).map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::Unsupported), "a fleet without workers runs no handlers");
}
