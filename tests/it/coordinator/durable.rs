//! Durable tasks with all that they may ask for, over the end of a process.

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LONG, crash_copy, doubler, doubling, on_disk};
use phalanx::ErrorKind;
use phalanx::coordinator::Coordinator;
use phalanx::fleet::{
    AgentSpec, Backoff, Fleet, GroupKey, IdempotencyKey, IfDependencyFails, Outcome, OutcomeKind,
    SubmitError, Task, TaskError, TaskErrorKind, TaskHandle, TaskId, Unit,
};
use phalanx::state::Collection;

type Doublings = Coordinator<super::Doubling>;

fn open(folder: &Path) -> (Doublings, Collection<u64, u64>) {
    let (builder, results) = doubling(on_disk(folder));
    (builder.durable_tasks().build().expect("it builds"), results)
}

/// What a crash at this moment leaves, with all that was committed so far.
fn crash(coordinator: &Doublings, folder: &Path) -> tempfile::TempDir {
    coordinator.state().flush().expect("the disk is sound");
    crash_copy(folder)
}

const fn key(number: u128) -> IdempotencyKey {
    IdempotencyKey::new(number)
}

/// What a refused submission says.
fn not_recorded(refused: Result<TaskHandle<u64>, SubmitError<Task<u64>>>) -> ErrorKind {
    match refused {
        Err(SubmitError::NotRecorded { error, .. }) => error.kind(),
        other => panic!("{other:?}"),
    }
}

/// An agent that handles nothing until the sender goes, and then fails odd payloads.
fn gated() -> (AgentSpec<u64, u64>, mpsc::Sender<()>) {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let spec = AgentSpec::new("gated").handler_fn(move |task: &Task<u64>, _| {
        let _ = held.lock().map(|held| held.recv());
        if task.payload() % 2 == 1 {
            return Err(TaskError::permanent("odd"));
        }
        Ok(task.payload() * 2)
    });
    (spec, release)
}

#[test]
fn what_was_recovered_is_resumed_as_agents_come_and_what_is_refused_waits_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (first, _results) = open(folder.path());
    let (spec, release) = gated();
    let gated = first.fleet().spawn(spec).expect("there is room");
    let any = first.fleet().submit(Task::new(10)).expect("there is room");
    let for_one = first.fleet().submit(Task::new(12).to(gated)).expect("there is room");
    let after_it = first.fleet().submit(Task::new(14).after(&for_one)).expect("there is room");
    let crashed = crash(&first, folder.path());
    assert_eq!((first.recovered_waiting(), first.resume_recovered().handles.len()), (0, 0));
    drop(release);
    assert_eq!(first.shutdown(LONG).expect("nothing fails").recovered_left, 0);

    let (second, results) = open(crashed.path());
    assert_eq!(second.recovered_waiting(), 3);
    let resumed = second.resume_recovered();
    assert_eq!(resumed.handles.len(), 0, "there is no agent");
    let refused: Vec<_> = resumed.refused.iter().map(|(id, _)| *id).collect();
    assert_eq!(refused, [any.id(), for_one.id(), after_it.id()]);
    assert!(matches!(resumed.refused[0].1, SubmitError::NoAgent(())), "{resumed:?}");

    second.fleet().spawn(doubler()).expect("there is room");
    let resumed = second.resume_recovered();
    let [handle] = &resumed.handles[..] else { panic!("{resumed:?}") };
    assert_eq!((handle.id(), handle.wait().completed()), (any.id(), Some(&20)));
    let [(one, SubmitError::NoAgent(())), (after, SubmitError::UnknownDependency(()))] =
        &resumed.refused[..]
    else {
        panic!("{resumed:?}")
    };
    assert_eq!((*one, *after), (for_one.id(), after_it.id()));

    // What waits is handed out in its order, and is what it was.
    assert_eq!(second.recovered_waiting(), 2);
    let mut taken = second.take_recovered().into_iter();
    assert_eq!((taken.len(), second.recovered_waiting()), (2, 0));
    let anywhere = taken.next().expect("two").to_any();
    assert_eq!(anywhere.id(), Some(for_one.id()));
    let handle = second.fleet().submit(anywhere).expect("there is room");
    assert_eq!(handle.wait().completed(), Some(&24));
    let last = taken.next().expect("two");
    let handle = second.fleet().submit(last).expect("what it waits for is known now");
    assert_eq!(handle.wait().completed(), Some(&28));
    assert_eq!(results.len(), 3);
    assert_eq!(second.shutdown(LONG).expect("nothing fails").recovered_left, 0);
}

#[test]
fn a_recovered_task_that_nobody_takes_is_told_of_and_found_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (first, _results) = open(folder.path());
    let (spec, release) = gated();
    first.fleet().spawn(spec).expect("there is room");
    let handle = first.fleet().submit(Task::new(10)).expect("there is room");
    let crashed = crash(&first, folder.path());
    drop(release);
    first.shutdown(LONG).expect("nothing fails");

    let (second, _results) = open(crashed.path());
    let report = second.shutdown(LONG).expect("nothing fails");
    assert_eq!(report.recovered_left, 1);
    drop((second, _results));
    let (third, _results) = open(crashed.path());
    assert_eq!(third.take_recovered().pop().and_then(|task| task.id()), Some(handle.id()));
}

#[test]
fn a_recovered_task_asks_for_all_that_it_asked_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (coordinator, _results) = open(folder.path());
    let (spec, release) = gated();
    let ann = coordinator.fleet().spawn(spec).expect("there is room");
    let backoff = Backoff::exponential(Duration::from_millis(5), LONG).factor(3).jitter_percent(9);
    let full = Task::new(10)
        .to(ann)
        .retry_backoff(backoff)
        .timeout(LONG)
        .idempotency_key(key(7))
        .if_dependency_fails(IfDependencyFails::Release)
        .group(GroupKey::new(77))
        .cost(Unit::new(3).expect("the last kind"), 300);
    let first = coordinator.fleet().submit(Task::new(8)).expect("there is room");
    let handle = coordinator.fleet().submit(full.after(&first)).expect("there is room");
    let crashed = crash(&coordinator, folder.path());
    drop(release);
    coordinator.shutdown(LONG).expect("nothing fails");

    let (second, _results) = open(crashed.path());
    let mut recovered = second.take_recovered();
    let [_, full] = &recovered[..] else { panic!("{recovered:?}") };
    assert_eq!(
        (full.id(), full.lost_agent(), full.agent()),
        (Some(handle.id()), Some("gated"), None)
    );
    let asked = format!("{full:?}");
    for part in [
        format!("backoff: {backoff:?}"),
        format!("timeout: Some({LONG:?})"),
        "key: Some(IdempotencyKey(7))".to_owned(),
        format!("dependencies: [{:?}]", first.id()),
        "if_dependency_fails: Release".to_owned(),
        "group: Some(GroupKey(77))".to_owned(),
        "costs: [(Unit(3), 300)]".to_owned(),
    ] {
        assert!(asked.contains(&part), "{part} is not in {asked}");
    }

    // It does not run just anywhere unless somebody says so.
    second.fleet().spawn(doubler()).expect("there is room");
    let full = recovered.pop().expect("two");
    let first = second.fleet().submit(recovered.pop().expect("two")).expect("there is room");
    let Err(SubmitError::NoAgent(full)) = second.fleet().submit(full) else { panic!("it ran") };
    let full = second.fleet().submit(full.to_any()).expect("there is room");
    assert_eq!((first.wait().completed(), full.wait().completed()), (Some(&16), Some(&20)));
    second.shutdown(LONG).expect("nothing fails");
}

#[test]
fn a_key_is_known_again_after_the_process_while_its_task_waits_and_once_it_was_done() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (coordinator, _results) = open(folder.path());
    let fleet = coordinator.fleet();
    let agent = fleet.spawn(doubler()).expect("there is room");
    let done = fleet.submit(Task::new(1).idempotency_key(key(1))).expect("there is room");
    assert_eq!(done.wait().completed(), Some(&2));
    fleet.kill(agent).expect("it lives");
    let (spec, release) = gated();
    fleet.spawn(spec).expect("there is room");
    let waits = fleet.submit(Task::new(2).idempotency_key(key(2))).expect("there is room");
    let cancelled = fleet.submit(Task::new(3).idempotency_key(key(3))).expect("there is room");
    assert!(cancelled.cancel());
    assert_eq!(cancelled.wait().kind(), OutcomeKind::Cancelled);
    let crashed = crash(&coordinator, folder.path());
    drop(release);
    coordinator.shutdown(LONG).expect("nothing fails");

    let (second, results) = open(crashed.path());
    let fleet = second.fleet();
    fleet.spawn(doubler()).expect("there is room");
    let again = |number, payload| fleet.submit(Task::new(payload).idempotency_key(key(number)));
    assert_eq!(not_recorded(again(1, 11)), ErrorKind::AlreadyExists);
    assert_eq!(not_recorded(again(2, 12)), ErrorKind::AlreadyExists);
    assert_eq!(second.task_of(key(1)), Some(done.id()));
    assert_eq!(second.task_of(key(2)), Some(waits.id()));
    // What was cancelled was not done.
    assert_eq!(second.task_of(key(3)), None);
    assert_eq!(again(3, 13).expect("it is free").wait().completed(), Some(&26));

    let recovered = second.take_recovered().pop().expect("the one that waited");
    let first = fleet.submit(recovered).expect("it is its own key");
    // From now on the fleet knows it, and gives its handle.
    assert_eq!(again(2, 12).expect("it is known").id(), waits.id());
    assert_eq!(first.wait().completed(), Some(&4));
    assert_eq!((results.get(&12), results.get(&11)), (None, None));
    second.shutdown(LONG).expect("nothing fails");
}

#[test]
fn a_key_is_known_for_as_long_as_its_outcome_is_in_the_history() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (coordinator, _results) = open(folder.path());
    let fleet = coordinator.fleet();
    fleet.spawn(doubler()).expect("there is room");
    let first = fleet.submit(Task::new(1).idempotency_key(key(1))).expect("there is room");
    drop(first.wait());
    let many = |count| {
        let batch = (0..count).map(Task::new).collect();
        let handles = fleet.submit_batch(batch).expect("there is room");
        handles.iter().for_each(|handle| drop(handle.wait()));
    };
    many(1023);
    assert_eq!(coordinator.task_of(key(1)), Some(first.id()));
    many(1);
    assert_eq!((coordinator.task_of(key(1)), coordinator.outcome(first.id())), (None, None));
    coordinator.shutdown(LONG).expect("nothing fails");
}

#[test]
fn a_recovered_task_knows_how_those_ended_that_it_waited_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (coordinator, _results) = open(folder.path());
    let fleet = coordinator.fleet();
    let (spec, release) = gated();
    fleet.spawn(spec).expect("there is room");
    // One completes and one fails before the crash; one is on its way.
    let submit = |task: Task<u64>| fleet.submit(task).expect("there is room");
    let [good, bad, open_one] = [2, 3, 4].map(|payload| submit(Task::new(payload)));
    let after_good = submit(Task::new(20).after(&good).after(&open_one));
    let after_bad = submit(Task::new(30).after(&bad).after(&open_one));
    let released = Task::new(40).if_dependency_fails(IfDependencyFails::Release);
    let released = submit(released.after(&bad).after(&open_one));
    // As its id says before the one that it waits for.
    let early = submit(Task::new(50).with_id(TaskId::new(u64::MAX / 2)));
    let late = submit(Task::new(60).with_id(TaskId::new(77)).after(&early));
    release.send(()).expect("it is held");
    drop(good.wait());
    let before = crash(&coordinator, folder.path());
    release.send(()).expect("it is held");
    drop(bad.wait());
    assert_eq!(after_bad.wait().kind(), OutcomeKind::Failed);
    let after = crash(&coordinator, folder.path());
    drop(release);
    coordinator.shutdown(LONG).expect("nothing fails");

    // The failure is still to come: it reaches who waits in the second process.
    let (second, _results) = open(before.path());
    let fleet = second.fleet();
    fleet.spawn(gated().0).expect("there is room");
    let recovered = second.take_recovered();
    let ids: Vec<_> = recovered.iter().filter_map(Task::id).collect();
    let expected = [&bad, &open_one, &after_good, &after_bad, &released, &early, &late];
    assert_eq!(ids, expected.map(TaskHandle::id), "those that wait come after");
    // One at a time, so that some have ended before those that wait for them come.
    let mut ends = Vec::new();
    for task in recovered {
        let handle = fleet.submit(task).expect("what it waits for is known");
        if [bad.id(), open_one.id()].contains(&handle.id()) {
            drop(handle.wait());
        }
        ends.push(handle);
    }
    let failed = |handle: &TaskHandle<u64>| match &*handle.wait() {
        Outcome::Failed(error) => Some(error.kind()),
        _ => None,
    };
    let kinds: Vec<_> = ends.iter().map(failed).collect();
    let dependency = Some(TaskErrorKind::DependencyFailed);
    assert_eq!(kinds[0], Some(TaskErrorKind::Handler));
    assert_eq!(kinds[1..], [None, None, dependency, None, None, None]);
    second.shutdown(LONG).expect("nothing fails");

    // The failure came before: its row says so, though its own is gone.
    let (third, _results) = open(after.path());
    third.fleet().spawn(doubler()).expect("there is room");
    let recovered = third.take_recovered();
    let ids: Vec<_> = recovered.iter().filter_map(Task::id).collect();
    let expected = [&open_one, &after_good, &released, &early, &late];
    assert_eq!(ids, expected.map(TaskHandle::id));
    let handles = third.fleet().submit_batch(recovered).expect("all that they wait for is known");
    assert!(handles.iter().all(|handle| handle.wait().completed().is_some()));
    third.shutdown(LONG).expect("nothing fails");
}

#[test]
fn who_waits_for_a_recovered_task_that_is_cancelled_learns_of_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (coordinator, _results) = open(folder.path());
    let fleet = coordinator.fleet();
    let (spec, release) = gated();
    fleet.spawn(spec).expect("there is room");
    let first = fleet.submit(Task::new(2)).expect("there is room");
    let _waits = fleet.submit(Task::new(4).after(&first)).expect("there is room");
    let goes_on = Task::new(6).if_dependency_fails(IfDependencyFails::Release);
    let goes_on = fleet.submit(goes_on.after(&first)).expect("there is room");
    let crashed = crash(&coordinator, folder.path());
    drop(release);
    coordinator.shutdown(LONG).expect("nothing fails");

    {
        let (second, _results) = open(crashed.path());
        second.fleet().spawn(doubler()).expect("there is room");
        let mut recovered = second.take_recovered().into_iter();
        let first = recovered.next().expect("three");
        let waits = recovered.next().expect("three");
        // Neither submitted nor cancelled: nobody knows whether it will end.
        let Err(SubmitError::UnknownDependency(waits)) = second.fleet().submit(waits) else {
            panic!("it waits for what is not there")
        };
        second.cancel_recovered(vec![first]).expect("the state is sound");
        let waits = second.fleet().submit(waits).expect("it is known now");
        let Outcome::Failed(error) = &*waits.wait() else { panic!("its dependency was cancelled") };
        assert_eq!(error.kind(), TaskErrorKind::DependencyFailed);
        second.shutdown(LONG).expect("nothing fails");
        second.state().close().expect("the disk is sound");
    }

    // The last one was dropped, and its row says what became of the first.
    let (third, _results) = open(crashed.path());
    third.fleet().spawn(doubler()).expect("there is room");
    let recovered = third.take_recovered();
    assert_eq!(recovered.iter().map(Task::id).collect::<Vec<_>>(), [Some(goes_on.id())]);
    let handles = third.fleet().submit_batch(recovered).expect("it is known");
    assert_eq!(handles[0].wait().completed(), Some(&12));
    third.shutdown(LONG).expect("nothing fails");
}

/// The first form of a row, as an older version wrote it.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Old {
    V1 { payload: u64, capabilities: Vec<String>, priority: u8, max_attempts: u32 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum OldOutcome {
    V1 { sequence: u64, task: u64, attempt: u32, kind: u8, reason: Option<String> },
}

#[test]
fn rows_of_the_first_form_are_recovered_run_and_followed_by_newer_ones() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    {
        let state = on_disk(folder.path());
        let rows = state.collection::<u64, Old>("phalanx.tasks").expect("the name is free");
        let capabilities = vec!["double".to_owned()];
        let row = Old::V1 { payload: 21, capabilities, priority: 192, max_attempts: 2 };
        rows.insert(5, row).expect("the disk is sound");
        let ends = state.collection::<u64, OldOutcome>("phalanx.outcomes").expect("it is free");
        let (sequence, task, attempt, kind) = (0, 4, 1, 3);
        let end = OldOutcome::V1 { sequence, task, attempt, kind, reason: None };
        ends.insert(0, end).expect("the disk is sound");
        state.close().expect("the disk is sound");
    }
    let (coordinator, results) = open(folder.path());
    let recorded = coordinator.outcome(TaskId::new(4)).expect("it is in the history");
    assert_eq!((recorded.kind, recorded.attempt.get()), (OutcomeKind::Cancelled, 1));
    let task = coordinator.take_recovered().pop().expect("the old row");
    assert_eq!((task.id(), *task.payload(), task.attempts().get()), (Some(TaskId::new(5)), 21, 2));
    assert_eq!(task.request().urgency().level(), 192);
    assert_eq!(task.request().capabilities().collect::<Vec<_>>(), ["double"]);
    assert_eq!(task.lost_agent(), None);
    let agent = doubler().capability("double");
    coordinator.fleet().spawn(agent).expect("there is room");
    let first = coordinator.fleet().submit(task).expect("there is room");
    let next = Task::new(1).idempotency_key(key(1)).after(&first);
    let next = coordinator.fleet().submit(next).expect("there is room");
    assert_eq!((first.wait().completed(), next.wait().completed()), (Some(&42), Some(&2)));
    assert_eq!(coordinator.outcome(first.id()).map(|end| end.kind), Some(OutcomeKind::Completed));
    assert_eq!(results.get(&21), Some(42));
    coordinator.shutdown(LONG).expect("nothing fails");
    let left = Arc::new(coordinator.take_recovered());
    assert!(left.is_empty());
}

#[test]
fn a_kind_of_end_that_is_not_known_is_refused_and_not_taken_for_another() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    {
        let state = on_disk(folder.path());
        let ends = state.collection::<u64, OldOutcome>("phalanx.outcomes").expect("it is free");
        let end = OldOutcome::V1 { sequence: 0, task: 4, attempt: 1, kind: 9, reason: None };
        ends.insert(0, end).expect("the disk is sound");
        state.close().expect("the disk is sound");
    }
    let (builder, _results) = doubling(on_disk(folder.path()));
    let refused = builder.durable_tasks().build().expect_err("nobody knows what 9 means");
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(refused.to_string().contains("task 4"), "{refused}");
}

#[test]
fn the_record_names_the_task_of_a_key_where_a_batch_names_one_that_repeats_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (coordinator, _results) = open(folder.path());
    let fleet = coordinator.fleet();
    let (spec, release) = gated();
    fleet.spawn(spec).expect("there is room");
    let first = fleet.submit(Task::new(2).idempotency_key(key(1))).expect("there is room");
    let known = Task::new(2).with_id(TaskId::new(1_000)).idempotency_key(key(1));
    let new = Task::new(4).idempotency_key(key(2));
    let repeated = Task::new(4).with_id(TaskId::new(2_000)).idempotency_key(key(2));
    let after_known = Task::new(6).after_id(TaskId::new(1_000));
    let after_repeated = Task::new(8).after_id(TaskId::new(2_000));
    let batch = vec![known, new, repeated, after_known, after_repeated];
    let handles = fleet.submit_batch(batch).expect("all that they wait for is known");
    let crashed = crash(&coordinator, folder.path());
    drop(release);
    coordinator.shutdown(LONG).expect("nothing fails");

    let (second, _results) = open(crashed.path());
    let recovered = second.take_recovered();
    let of = |handle: &TaskHandle<u64>| {
        let task = recovered.iter().find(|task| task.id() == Some(handle.id()));
        format!("{:?}", task.expect("it has no outcome"))
    };
    assert_eq!((handles[0].id(), handles[2].id()), (first.id(), handles[1].id()));
    let (third, fourth) = (of(&handles[3]), of(&handles[4]));
    assert!(third.contains(&format!("dependencies: [{:?}]", first.id())), "{third}");
    assert!(fourth.contains(&format!("dependencies: [{:?}]", handles[1].id())), "{fourth}");
    second.shutdown(LONG).expect("nothing fails");
}

#[test]
fn a_task_that_was_done_is_not_done_again_under_its_own_id_and_key() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let own = || Task::new(1).with_id(TaskId::new(7)).idempotency_key(key(1));
    {
        let (coordinator, _results) = open(folder.path());
        coordinator.fleet().spawn(doubler()).expect("there is room");
        let done = coordinator.fleet().submit(own()).expect("there is room");
        assert_eq!(done.wait().completed(), Some(&2));
        coordinator.shutdown(LONG).expect("nothing fails");
        coordinator.state().close().expect("the disk is sound");
    }
    let (second, _results) = open(folder.path());
    second.fleet().spawn(doubler()).expect("there is room");
    assert_eq!(not_recorded(second.fleet().submit(own())), ErrorKind::AlreadyExists);
    second.shutdown(LONG).expect("nothing fails");
}

#[cfg(feature = "test-util")]
#[test]
fn an_outcome_that_took_place_and_could_not_be_written_is_not_told_as_a_failure() {
    use phalanx::state::{Durability, Fault, FaultDisk, StateManager, Unacknowledged};
    let disk = FaultDisk::new();
    let builder = StateManager::builder().fault_disk(&disk).durability(Durability::Synced);
    let (builder, results) = doubling(builder.open().expect("the disk works"));
    let coordinator = builder.durable_tasks().build().expect("it builds");
    let fleet = coordinator.fleet();
    let (spec, release) = gated();
    fleet.spawn(spec).expect("there is room");
    let handle = fleet.submit(Task::new(8)).expect("there is room");
    disk.fail_at(disk.calls() + 1, Fault::Io);
    drop(release);
    assert_eq!(handle.wait().completed(), Some(&16), "its effects are there");
    assert_eq!(results.get(&8), Some(16));
    let told = coordinator.outcome(handle.id()).expect("it is in the history");
    assert_eq!((told.kind, told.reason), (OutcomeKind::Completed, None));
    assert!(coordinator.state().stats().poisoned);
    assert_eq!(coordinator.fleet().stats().outcomes_not_recorded, 0);

    // What comes after it did not take place, and says so.
    let refused = results.insert(9, 9).expect_err("the store has failed");
    assert_eq!(Unacknowledged::of(&refused), None);
    assert_eq!(results.get(&9), None);
    let shutdown = coordinator.shutdown(LONG).expect_err("it cannot be made durable");
    assert_eq!(shutdown.kind(), ErrorKind::Poisoned);
}

#[cfg(feature = "test-util")]
#[test]
fn a_cancellation_that_took_place_and_could_not_be_written_says_so() {
    use phalanx::state::{Durability, Fault, FaultDisk, StateManager, Unacknowledged};
    let disk = FaultDisk::new();
    let open = |disk: &FaultDisk| {
        let builder = StateManager::builder().fault_disk(disk).durability(Durability::Synced);
        let (builder, _) = doubling(builder.open().expect("the disk works"));
        builder.durable_tasks().build().expect("it builds")
    };
    let first = open(&disk);
    let (spec, release) = gated();
    first.fleet().spawn(spec).expect("there is room");
    let waited_for = first.fleet().submit(Task::new(2)).expect("there is room");
    let waits = first.fleet().submit(Task::new(4).after(&waited_for)).expect("there is room");
    let disk = disk.after_power_loss(|_, _| 0);
    drop(release);

    let second = open(&disk);
    second.fleet().spawn(doubler()).expect("there is room");
    let mut recovered = second.take_recovered();
    assert_eq!(recovered.len(), 2);
    let waiting = recovered.pop().expect("there are two");
    assert_eq!(waiting.id(), Some(waits.id()));
    disk.fail_at(disk.calls() + 1, Fault::Io);
    let refused = second.cancel_recovered(recovered).expect_err("it cannot be written");
    assert!(Unacknowledged::of(&refused).is_some(), "{refused:?}");
    let told = second.outcome(waited_for.id()).expect("it is in the history");
    assert_eq!(told.kind, OutcomeKind::Cancelled);
    // Who waits for it learns of that, wherever it is submitted.
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().expect("it builds");
    fleet.spawn(doubler()).expect("there is room");
    let handle = fleet.submit(waiting).expect("what it waits for has ended");
    assert_ne!(handle.wait().kind(), OutcomeKind::Completed);
}
