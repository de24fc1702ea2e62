//! Tasks that are submitted more than once, and tasks that have ended: keys and the history.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::support::{Gate, eventually, finish};
use phalanx::fleet::{
    AgentSpec, Attempt, Backoff, Fleet, IdempotencyKey, LogPosition, Outcome, OutcomeKind,
    SubmitError, Task, TaskError, TaskHandle, TaskId, TaskLog,
};
use phalanx::{Error, ErrorKind};

/// Says how often it ran before, so that a second run shows.
fn counting(runs: &Arc<AtomicU64>) -> AgentSpec<u64, (u64, u64)> {
    let runs = Arc::clone(runs);
    AgentSpec::<u64, (u64, u64)>::new("counting")
        .handler_fn(move |task, _| Ok((*task.payload(), runs.fetch_add(1, Ordering::SeqCst))))
}

fn keyed(payload: u64, key: u128) -> Task<u64> {
    Task::new(payload).idempotency_key(IdempotencyKey::new(key))
}

fn ids<O>(handles: &[TaskHandle<O>]) -> Vec<TaskId> {
    handles.iter().map(TaskHandle::id).collect()
}

#[test]
fn a_task_with_a_known_key_is_done_once() {
    let fleet = Fleet::builder().workers(1).build().unwrap();
    let (runs, gate) = (Arc::default(), Gate::new());
    fleet.spawn(counting(&runs).capability("count")).unwrap();
    let blocked = {
        let gate = Arc::clone(&gate);
        AgentSpec::<u64, (u64, u64)>::new("gate").capability("gate").handler_fn(move |_, _| {
            gate.pass();
            Ok((0, 0))
        })
    };
    fleet.spawn(blocked).unwrap();
    let first = fleet.submit(Task::new(0).capability("gate")).unwrap();
    gate.await_arrivals(1);
    let queued = fleet.submit(keyed(1, 7).capability("count")).unwrap();
    let repeated = fleet.submit(keyed(2, 7).capability("count")).unwrap();
    let other = fleet.submit(keyed(3, 8).capability("count")).unwrap();
    assert_eq!(queued.id(), repeated.id());
    assert_ne!(queued.id(), other.id());
    gate.open();
    assert_eq!(*first.wait(), Outcome::Completed((0, 0)));
    assert_eq!(*repeated.wait(), Outcome::Completed((1, 0)), "the first one's payload");
    assert_eq!(*other.wait(), Outcome::Completed((3, 1)));
    let ended = fleet.submit(keyed(4, 7).capability("count")).unwrap();
    assert_eq!((ended.id(), ended.try_outcome()), (queued.id(), queued.try_outcome()));
    let stats = fleet.stats();
    assert_eq!((stats.tasks_accepted, stats.tasks_repeated, stats.tasks_refused), (3, 2, 0));
    finish(&fleet);
    assert_eq!(
        fleet.submit(keyed(5, 7).capability("count")).expect("it is known still").id(),
        queued.id()
    );
    assert!(matches!(fleet.submit(keyed(5, 9).capability("count")), Err(SubmitError::Closed(_))));
}

#[test]
fn a_key_is_forgotten_when_so_many_others_have_ended_since() {
    let fleet = Fleet::builder().workers(1).remembered_keys(2).build().unwrap();
    let runs = Arc::default();
    fleet.spawn(counting(&runs)).unwrap();
    let run = |key| fleet.submit(keyed(0, key)).unwrap().wait().completed().unwrap().1;
    assert_eq!([1, 2, 1, 3, 2, 1].map(run), [0, 1, 0, 2, 1, 3]);
    finish(&fleet);
}

#[test]
fn a_batch_is_answered_in_its_order_whatever_of_it_is_known() {
    let fleet = Fleet::builder().workers(1).build().unwrap();
    let runs = Arc::default();
    fleet.spawn(counting(&runs)).unwrap();
    let known = fleet.submit(keyed(10, 1)).unwrap();
    let batch = vec![keyed(20, 2), keyed(11, 1), Task::new(30), keyed(21, 2), keyed(40, 4)];
    let handles = fleet.submit_batch(batch).unwrap();
    let payloads: Vec<_> =
        handles.iter().map(|handle| handle.wait().completed().unwrap().0).collect();
    assert_eq!(payloads, [20, 10, 30, 20, 40]);
    assert_eq!((handles[1].id(), handles[3].id()), (known.id(), handles[0].id()));
    let again = fleet.submit_batch_wait(vec![keyed(0, 4), keyed(0, 2)]).unwrap();
    assert_eq!(ids(&again), [handles[4].id(), handles[0].id()]);
    let stats = fleet.stats();
    assert_eq!((stats.tasks_accepted, stats.tasks_repeated), (4, 4));
    finish(&fleet);
}

#[test]
fn a_refused_batch_is_handed_back_whole_and_its_keys_stay_free() {
    let builder = Fleet::builder().workers(1).queue_capacity(2.try_into().unwrap());
    let fleet = builder.build().unwrap();
    let (runs, gate) = (Arc::default(), Gate::new());
    let passing = Arc::clone(&gate);
    let spec = AgentSpec::<u64, (u64, u64)>::new("gate").handler_fn(move |task, _| {
        passing.pass();
        Ok((*task.payload(), 0))
    });
    fleet.spawn(spec).unwrap();
    fleet.submit(keyed(1, 1)).map(drop).unwrap();
    gate.await_arrivals(1);
    let batch = vec![keyed(2, 2), keyed(3, 1), keyed(4, 4), keyed(5, 2), keyed(6, 6)];
    let refused = fleet.submit_batch(batch).unwrap_err();
    assert!(matches!(refused, SubmitError::Full(_)), "three are new, and there is room for two");
    let payloads: Vec<_> = refused.into_inner().iter().map(|task| *task.payload()).collect();
    assert_eq!(payloads, [2, 3, 4, 5, 6]);
    let handle = fleet.submit(keyed(7, 4)).expect("the key is free");
    gate.open();
    assert_eq!(handle.wait().completed(), Some(&(7, 0)));
    assert_eq!(fleet.stats().tasks_refused, 5);
    fleet.spawn(counting(&runs)).unwrap();
    finish(&fleet);
}

/// Holds the first acceptance at a gate, and then refuses it.
#[derive(Default)]
struct Refusing {
    gate: Gate,
    asked: Mutex<u32>,
}

impl TaskLog<u64, (u64, u64)> for Refusing {
    fn accept(&self, _tasks: &[(TaskId, &Task<u64>)]) -> Result<(), Error> {
        let asked = {
            let mut asked = self.asked.lock().unwrap();
            *asked += 1;
            *asked
        };
        if asked == 1 {
            self.gate.pass();
            return Err(Error::new(ErrorKind::Io, "the disk is full"));
        }
        Ok(())
    }
    fn settle(
        &self,
        _task: TaskId,
        _attempt: Attempt,
        _payload: &Task<u64>,
        _outcome: &Outcome<(u64, u64)>,
    ) -> Result<Option<LogPosition>, Error> {
        Ok(None)
    }
}

#[test]
fn nobody_gets_a_handle_of_a_task_that_the_log_then_refuses() {
    let log = Arc::new(Refusing::default());
    let fleet = Fleet::builder().workers(1).task_log(log.clone()).build().unwrap();
    let runs = Arc::default();
    fleet.spawn(counting(&runs)).unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| fleet.submit(keyed(1, 7)));
        log.gate.await_arrivals(1);
        let second = scope.spawn(|| fleet.submit_wait(keyed(2, 7)));
        let never_waits = fleet.submit(keyed(4, 7)).unwrap_err();
        assert!(matches!(never_waits, SubmitError::KeyPending(_)));
        assert_eq!(*never_waits.into_inner().payload(), 4);
        let late = fleet.submit_timeout(keyed(5, 7), Duration::from_millis(1)).unwrap_err();
        assert!(matches!(late, SubmitError::KeyPending(_)));
        let other = fleet.submit(keyed(3, 8)).expect("other keys do not wait");
        assert_eq!(other.wait().completed(), Some(&(3, 0)));
        log.gate.open();
        let refused = first.join().unwrap().unwrap_err();
        assert_eq!(*refused.into_inner().payload(), 1);
        let accepted = second.join().unwrap().expect("it is submitted in the first one's place");
        assert_eq!(accepted.wait().completed(), Some(&(2, 1)));
    });
    assert_eq!(*log.asked.lock().unwrap(), 3);
    finish(&fleet);
}

#[test]
fn of_many_who_come_at_once_with_one_key_one_submits() {
    let fleet = Fleet::builder().workers(2).build().unwrap();
    let runs = Arc::<AtomicU64>::default();
    fleet.spawn_batch(&counting(&runs), 2).unwrap();
    let submit = |thread: u64| {
        let fleet = &fleet;
        move || {
            let submit = |key: u64| {
                let task = keyed(thread, key.into());
                if thread == 0 {
                    return fleet.submit_wait(task).expect("it waits");
                }
                let mut task = task;
                loop {
                    match fleet.submit(task) {
                        Ok(handle) => return handle,
                        Err(SubmitError::KeyPending(back)) => task = back,
                        Err(refused) => panic!("{refused:?}"),
                    }
                }
            };
            (0..200).map(submit).collect::<Vec<_>>()
        }
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(submit(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for handles in &all {
        assert_eq!(ids(handles), ids(&all[0]));
        assert!(handles.iter().all(|handle| handle.wait().completed().is_some()));
    }
    assert_eq!(runs.load(Ordering::SeqCst), 200);
    assert_eq!(fleet.stats().tasks_repeated, 600);
    finish(&fleet);
}

#[test]
fn a_task_is_found_by_its_id_while_it_lives_and_for_as_long_as_it_is_remembered() {
    let fleet = Fleet::builder().workers(1).history(2).build().unwrap();
    let (runs, gate) = (Arc::default(), Gate::new());
    fleet.spawn(counting(&runs)).unwrap();
    let passing = Arc::clone(&gate);
    let spec = AgentSpec::<u64, (u64, u64)>::new("gate").capability("gate");
    let gated = spec.handler_fn(move |_, _| {
        passing.pass();
        Ok((9, 9))
    });
    fleet.spawn(gated).unwrap();
    let live = fleet.submit(Task::new(0).capability("gate")).unwrap();
    gate.await_arrivals(1);
    let found = fleet.task(live.id()).expect("it runs");
    assert_eq!(found.try_outcome(), None);
    gate.open();
    assert_eq!(found.wait().completed(), Some(&(9, 9)));
    let ended: Vec<_> = (1..=2).map(|n| fleet.submit(Task::new(n)).unwrap()).collect();
    ended.iter().for_each(|handle| drop(handle.wait()));
    assert!(fleet.task(live.id()).is_none(), "two others have ended since");
    let again = fleet.task(ended[0].id()).expect("it is remembered");
    assert_eq!(again.try_outcome(), ended[0].try_outcome());
    assert!(fleet.task(TaskId::new(u64::MAX)).is_none());
    finish(&fleet);

    let forgetful = Fleet::builder().workers(1).build().unwrap();
    forgetful.spawn(counting(&runs)).unwrap();
    let handle = forgetful.submit(Task::new(1)).unwrap();
    drop(handle.wait());
    assert!(forgetful.task(handle.id()).is_none(), "the default remembers none");
    finish(&forgetful);
}

/// An output whose drop panics goes wherever it is forgotten.
#[test]
fn what_is_forgotten_is_dropped_where_a_panic_does_no_harm() {
    struct Loud;
    impl Drop for Loud {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let fleet = Fleet::<u64, Loud>::builder().workers(1).history(1).build().unwrap();
    fleet.spawn(AgentSpec::new("loud").handler_fn(|_, _| Ok(Loud))).unwrap();
    for payload in 0..3 {
        let handle = fleet.submit(Task::new(payload)).unwrap();
        let id = handle.id();
        // The history has the last of it, so this drop is none.
        drop(handle);
        eventually("it is remembered", || fleet.stats().tasks_completed == payload + 1);
        drop(fleet.task(id));
    }
    eventually("two are forgotten", || fleet.stats().other_panics == 2);
    assert_eq!(finish(&fleet).completed, 3);
    // The last one goes with the fleet, where nobody would catch it.
    std::mem::forget(fleet);
}

#[test]
fn the_key_of_a_task_that_was_not_done_is_free_again() {
    let fleet = Fleet::builder().workers(1).history(8).build().unwrap();
    let runs = Arc::<AtomicU64>::default();
    let gate = Gate::new();
    let held = {
        let gate = Arc::clone(&gate);
        AgentSpec::<u64, (u64, u64)>::new("held").capability("held").handler_fn(move |_, _| {
            gate.pass();
            Err(TaskError::permanent("it fails"))
        })
    };
    fleet.spawn(held).unwrap();
    let agent = fleet.spawn(counting(&runs)).unwrap();
    let first = fleet.submit(Task::new(0).capability("held")).unwrap();
    gate.await_arrivals(1);

    let cancelled = fleet.submit(keyed(1, 1).to(agent)).unwrap();
    assert!(cancelled.cancel());
    let doomed = fleet.submit(keyed(2, 2).after(&first)).unwrap();
    let returned = fleet.submit(keyed(3, 3).to(agent)).unwrap();
    fleet.kill(agent).unwrap();
    assert_eq!(returned.wait().kind(), OutcomeKind::Returned);
    gate.open();
    assert_eq!(doomed.wait().kind(), OutcomeKind::Failed);

    fleet.spawn(counting(&runs).capability("count")).unwrap();
    let again: Vec<_> =
        (1..=3).map(|key| fleet.submit(keyed(0, key).capability("count")).unwrap()).collect();
    for handle in &again {
        assert_eq!(handle.wait().kind(), OutcomeKind::Completed);
    }
    let firsts = [cancelled.id(), doomed.id(), returned.id()];
    assert!(again.iter().all(|handle| !firsts.contains(&handle.id())), "each is a new task");
    // What failed may have been done in part.
    let failed = fleet.submit(keyed(0, 4).capability("held")).unwrap();
    assert_eq!(failed.wait().kind(), OutcomeKind::Failed);
    assert_eq!(fleet.submit(keyed(0, 4).capability("held")).unwrap().id(), failed.id());
    assert_eq!((runs.load(Ordering::SeqCst), fleet.stats().tasks_repeated), (3, 1));
    finish(&fleet);
}

#[test]
fn a_task_of_a_batch_may_wait_for_one_whose_key_is_known() {
    let fleet = Fleet::builder().workers(1).build().unwrap();
    let runs = Arc::default();
    fleet.spawn(counting(&runs)).unwrap();
    let known = fleet.submit(keyed(1, 1)).unwrap();
    let _ = known.wait();
    let own = |number, key| keyed(number, key).with_id(TaskId::new(number));
    let after = |number: u64, id| Task::new(number).after_id(TaskId::new(id));
    let handles = fleet
        .submit_batch(vec![own(100, 1), after(0, 100), keyed(3, 2), own(101, 2), after(1, 101)])
        .unwrap();
    assert_eq!((handles[0].id(), handles[3].id()), (known.id(), handles[2].id()));
    let order: Vec<_> = handles.iter().map(|handle| handle.wait().completed().unwrap().1).collect();
    assert!(order[4] > order[2], "it ran after the one that its id meant: {order:?}");
    // One that stands behind is not meant.
    let batch = vec![after(2, 102), keyed(4, 3), own(102, 3)];
    let refused = fleet.submit_batch(batch).unwrap_err();
    assert!(matches!(refused, SubmitError::UnknownDependency(_)));
    assert_eq!(refused.into_inner().len(), 3);
    // Nor is one that is the same as itself.
    let batch = vec![keyed(4, 3).after_id(TaskId::new(102)), own(102, 3)];
    let refused = fleet.submit_batch(batch).unwrap_err();
    assert!(matches!(refused, SubmitError::UnknownDependency(_)));
    finish(&fleet);
}

#[test]
fn a_handle_does_nothing_to_a_later_task_of_the_same_id() {
    let fleet = Fleet::builder().workers(1).build().unwrap();
    let gate = Gate::new();
    let waits = {
        let gate = Arc::clone(&gate);
        AgentSpec::<u64, ()>::new("waits").handler_fn(move |task, cx| {
            cx.report_progress(0.5, "half");
            if *task.payload() == 2 {
                gate.pass();
            }
            Ok(())
        })
    };
    fleet.spawn(waits).unwrap();
    let id = TaskId::new(7);
    let first = fleet.submit(Task::new(1).with_id(id)).unwrap();
    let _ = first.wait();
    let second = fleet.submit(Task::new(2).with_id(id)).unwrap();
    gate.await_arrivals(1);
    assert!(first.progress().is_none() && second.progress().is_some());
    assert!(!first.cancel());
    gate.open();
    assert_eq!(*second.wait(), Outcome::Completed(()));
    let third = fleet.submit(Task::new(2).with_id(id).retry_backoff(Backoff::NONE)).unwrap();
    let _ = third.wait();
    assert!(!second.cancel() && !third.cancel());
    finish(&fleet);
}
