//! Rules for how rows may change.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use phalanx::ErrorKind;
use phalanx::state::{Abort, Collection, StateManager, Version, WatchEvent};

fn v(number: u64) -> Version {
    Version::from_u64(number)
}

/// A task goes forward only: 0 to 1 to 2, and is never removed before 2.
fn forward(_: &u32, old: Option<&u32>, new: Option<&u32>) -> Result<(), Abort> {
    match (old, new) {
        (None, Some(0)) | (Some(2), None) => Ok(()),
        (Some(old), Some(new)) if *new == old + 1 => Ok(()),
        _ => Err(Abort::new(format!("{old:?} to {new:?}"))),
    }
}

fn tasks() -> (StateManager, Collection<u32, u32>) {
    let state = StateManager::in_memory();
    let tasks = state.collection::<u32, u32>("tasks").unwrap();
    tasks.validate_with(forward).unwrap();
    (state, tasks)
}

#[test]
fn a_change_that_the_rule_refuses_is_no_commit_through_whatever_call() {
    let (state, tasks) = tasks();
    let mut watch = tasks.watch();
    let refused = tasks.insert(1, 1).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Rejected);
    assert!(!refused.is_retryable());
    assert!(refused.to_string().contains("\"tasks\""), "{refused}");
    let reason = std::error::Error::source(&refused).unwrap().to_string();
    assert_eq!(reason, "None to Some(1)");
    tasks.insert(1, 0).unwrap();
    let rejected = |result: Result<Version, phalanx::Error>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Rejected);
        assert_eq!((tasks.get(&1), state.version()), (Some(0), v(1)));
    };
    rejected(tasks.insert(1, 2));
    rejected(tasks.remove(&1).map(|(_, version)| version));
    rejected(tasks.update(&1, |_| Some(7)));
    rejected(tasks.insert_new(&2, 1).map(|done| done.unwrap()));
    rejected(tasks.compare_and_set(&1, Some(&0), None).map(|done| done.unwrap()));
    tasks.insert(1, 1).unwrap();
    tasks.insert(1, 2).unwrap();
    tasks.remove(&1).unwrap();
    assert_eq!(state.stats().rejected, 6);
    let told = std::iter::from_fn(|| watch.try_recv().ok()).count();
    assert_eq!(told, 4, "what was refused is not told");
}

#[test]
fn one_refused_row_refuses_the_whole_transaction() {
    let (state, tasks) = tasks();
    let other = state.collection::<u32, u32>("other").unwrap();
    let result = state.transaction(|tx| {
        tx.insert(&other, 1, 1);
        tx.insert(&tasks, 1, 0);
        tx.insert(&tasks, 2, 5);
        Ok(())
    });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Rejected);
    assert_eq!((other.len(), tasks.len(), state.version()), (0, 0, v(0)));
    // What counts is the row before and after the commit, not what the transaction did in between.
    state
        .transaction(|tx| {
            tx.insert(&tasks, 3, 9);
            tx.insert(&tasks, 3, 0);
            tx.insert(&tasks, 4, 9);
            tx.remove(&tasks, &4);
            Ok(())
        })
        .unwrap();
    assert_eq!((tasks.get(&3), tasks.get(&4)), (Some(0), None));
}

#[test]
fn the_rule_sees_what_the_commit_replaces_and_not_what_the_transaction_read() {
    let (state, tasks) = tasks();
    tasks.insert(1, 0).unwrap();
    let mut runs = 0;
    // It reads nothing, so it commits on whatever is there: 1 by then, to which 1 is no step.
    let result = state.transaction(|tx| {
        runs += 1;
        tx.insert(&tasks, 1, 1);
        if runs == 1 {
            tasks.insert(1, 1).unwrap();
        }
        Ok(())
    });
    assert_eq!((result.unwrap_err().kind(), runs), (ErrorKind::Rejected, 1));
    assert_eq!((tasks.get(&1), state.version()), (Some(1), v(2)));
}

#[test]
fn steps_that_many_threads_try_are_each_done_once() {
    let (state, tasks) = tasks();
    let done = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for task in 0..100 {
                    for step in 0..=2 {
                        let result = tasks.insert(task, step);
                        done.fetch_add(u32::from(result.is_ok()), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(done.into_inner(), 300);
    assert!((0..100).all(|task| tasks.get(&task) == Some(2)));
    assert_eq!(state.version(), v(300));
}

#[test]
fn a_collection_has_one_rule_and_rows_from_before_it_are_left_alone() {
    let state = StateManager::in_memory();
    let tasks = state.collection::<u32, u32>("tasks").unwrap();
    let other = state.collection::<u32, u32>("other").unwrap();
    tasks.insert(1, 7).unwrap();
    tasks.validate_with(forward).unwrap();
    let again = state.collection::<u32, u32>("tasks").unwrap();
    let held = Arc::new(());
    let inner = Arc::clone(&held);
    let refused = again.validate_with(move |_, _, _| {
        let _ = &inner;
        Ok(())
    });
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(Arc::strong_count(&held), 1, "a rule that is not taken is dropped");
    assert_eq!(again.insert(1, 7).unwrap_err().kind(), ErrorKind::Rejected);
    tasks.insert(1, 8).unwrap();
    other.insert(1, 7).unwrap();
}

#[test]
fn a_rule_that_panics_leaves_nothing_behind_and_the_state_usable() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    rows.validate_with(|_, _, new| {
        assert!(new != Some(&13), "a hostile rule");
        Ok(())
    })
    .unwrap();
    let thrown = catch_unwind(AssertUnwindSafe(|| rows.insert(1, 13)));
    assert!(thrown.is_err());
    assert_eq!((rows.len(), state.version()), (0, v(0)));
    assert_eq!(thread::scope(|s| s.spawn(|| rows.insert(1, 1)).join().unwrap()).unwrap(), v(1));
}

#[test]
fn a_rule_may_read_the_state_but_not_change_it() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let limits = state.collection::<u32, u32>("limits").unwrap();
    limits.insert(0, 5).unwrap();
    let (inner, manager) = (rows.clone(), state.clone());
    rows.validate_with(move |key, _, new| {
        let limit = manager.snapshot().get(&limits, &0).unwrap_or(0);
        let changed = inner.insert(*key + 1, 0);
        assert_eq!(changed.unwrap_err().kind(), ErrorKind::Reentrant);
        if new.is_some_and(|new| *new > limit) {
            return Err(Abort::new("over the limit"));
        }
        Ok(())
    })
    .unwrap();
    rows.insert(1, 5).unwrap();
    assert_eq!(rows.insert(1, 6).unwrap_err().kind(), ErrorKind::Rejected);
    assert_eq!(state.version(), v(2));
}

#[test]
fn a_restore_and_a_diff_are_judged_and_told_like_any_commit() {
    let (state, tasks) = tasks();
    let other = state.collection::<u32, u32>("other").unwrap();
    other.insert(1, 1).unwrap();
    tasks.insert(1, 0).unwrap();
    let before = state.snapshot();
    other.insert(1, 2).unwrap();
    let middle = state.snapshot();
    let mut watch = state.watch();
    state.restore(&before).unwrap();
    state.apply(&before.diff(&middle).unwrap()).unwrap();
    for (old, new) in [(2, 1), (1, 2)] {
        let Ok(WatchEvent::Changed(commit)) = watch.try_recv() else { panic!("it is a commit") };
        let [change] = commit.changes(&other) else { panic!("one row of it has changed") };
        assert_eq!((change.old.as_deref(), change.new.as_deref()), (Some(&old), Some(&new)));
        assert_eq!(commit.collections().collect::<Vec<_>>(), ["other"]);
    }
    tasks.insert(1, 1).unwrap();
    other.insert(1, 3).unwrap();
    let after = state.snapshot();
    let version = state.version();
    let back = state.restore(&before).unwrap_err();
    assert_eq!(back.kind(), ErrorKind::Rejected, "a task does not go back");
    let undone = state.apply(&after.diff(&before).unwrap()).unwrap_err();
    assert_eq!(undone.kind(), ErrorKind::Rejected);
    assert_eq!((tasks.get(&1), other.get(&1), state.version()), (Some(1), Some(3), version));
}

#[cfg(all(feature = "durable", feature = "bincode"))]
#[test]
fn an_import_is_judged_like_any_commit() {
    use phalanx::state::{Compression, Import};
    let (state, tasks) = tasks();
    tasks.insert(1, 0).unwrap();
    let mut bytes = Vec::new();
    state.snapshot().export_to(&mut bytes, Compression::None).unwrap();
    tasks.insert(1, 1).unwrap();
    let import = Import::read(&*bytes).unwrap();
    assert_eq!(state.import(&import).unwrap_err().kind(), ErrorKind::Rejected);
    assert_eq!((tasks.get(&1), state.version()), (Some(1), v(2)));
}

#[test]
fn a_rule_that_holds_its_own_state_goes_with_a_close() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let held = Arc::new(());
    let is_held = Arc::downgrade(&held);
    let own = rows.clone();
    rows.validate_with(move |key, _, _| {
        let _ = &held;
        if own.contains_key(&(key + 1)) { Err(Abort::new("the next one is there")) } else { Ok(()) }
    })
    .unwrap();
    rows.insert(2, 2).unwrap();
    assert_eq!(rows.insert(1, 1).unwrap_err().kind(), ErrorKind::Rejected);
    assert!(is_held.upgrade().is_some());
    state.close().unwrap();
    assert!(is_held.upgrade().is_none(), "nothing can be committed any more");
    let late = rows.validate_with(|_, _, _| Ok(()));
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Closed);
}

/// Panics when it is dropped.
struct Hostile;

impl Drop for Hostile {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("a hostile drop");
        }
    }
}

#[test]
fn a_commit_that_a_close_comes_upon_is_refused_and_drops_no_rule() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let (enter, entered) = mpsc::channel();
    let (captured, own) = (Hostile, state.clone());
    rows.validate_with(move |_, _, _| {
        let _ = &captured;
        enter.send(()).expect("the test waits for it");
        while own.transaction(|_| Ok(())).is_ok() {
            thread::yield_now();
        }
        // The close is under way, and would be done if it did not wait for this commit.
        for _ in 0..10_000 {
            thread::yield_now();
        }
        Ok(())
    })
    .unwrap();
    thread::scope(|scope| {
        let committer = scope.spawn(|| rows.insert(1, 1));
        entered.recv().unwrap();
        state.close().unwrap();
        let refused = committer.join().expect("the rule is not its affair");
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Closed);
    });
    assert_eq!(state.stats().caught_panics, 1, "the close dropped the rule");
}

#[cfg(all(feature = "durable", feature = "bincode"))]
#[test]
fn a_rule_that_holds_its_own_state_keeps_the_folder_until_a_close() {
    for closes in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let open = || StateManager::builder().path(folder.path()).open();
        let state = open().unwrap();
        let rows = state.collection::<u32, u32>("rows").unwrap();
        let own = rows.clone();
        rows.validate_with(move |key, _, _| {
            if own.contains_key(key) { Err(Abort::new("it is there")) } else { Ok(()) }
        })
        .unwrap();
        if closes {
            state.close().unwrap();
        }
        drop((rows, state));
        let again = open().err().map(|error| error.kind());
        assert_eq!(again, (!closes).then_some(ErrorKind::InUse));
    }
}
