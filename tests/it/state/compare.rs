//! Changes of one row that depend on what it is.

use std::cell::Cell;
use std::sync::Barrier;
use std::thread;

use phalanx::ErrorKind;
use phalanx::state::{CompareAndSetError, StateManager, Version};
use serde::{Deserialize, Serialize};

fn v(number: u64) -> Version {
    Version::from_u64(number)
}

#[test]
fn a_row_is_set_only_where_it_is_what_was_expected() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, String>("rows").unwrap();
    let (a, b) = ("a".to_owned(), "b".to_owned());
    let set = |expected: Option<&String>, new: Option<&String>| {
        let result = rows.compare_and_set(&1, expected, new.cloned()).unwrap();
        result.map_err(|CompareAndSetError { current, proposed, .. }| {
            assert_eq!(proposed.as_ref(), new, "what was to be set comes back");
            current
        })
    };
    assert_eq!(set(Some(&a), Some(&b)), Err(None));
    assert_eq!(set(Some(&a), None), Err(None));
    assert_eq!(set(None, None), Ok(v(0)), "nothing by nothing is no commit");
    assert_eq!(set(None, Some(&a)), Ok(v(1)));
    assert_eq!(set(None, Some(&b)), Err(Some(a.clone())));
    assert_eq!(set(None, None), Err(Some(a.clone())));
    assert_eq!(set(Some(&b), Some(&b)), Err(Some(a.clone())));
    assert_eq!(set(Some(&a), Some(&b)), Ok(v(2)));
    assert_eq!(rows.get(&1), Some(b.clone()));
    assert_eq!(set(Some(&b), None), Ok(v(3)));
    assert_eq!((rows.get(&1), state.version(), state.stats().commits), (None, v(3), 3));
}

/// Its comparison lets another commit in between, once.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Slow(u32);

thread_local! {
    static BETWEEN: Cell<Option<Box<dyn FnOnce()>>> = const { Cell::new(None) };
}

impl PartialEq for Slow {
    fn eq(&self, other: &Self) -> bool {
        if let Some(between) = BETWEEN.take() {
            between();
        }
        self.0 == other.0
    }
}

#[test]
fn a_row_that_changes_after_it_was_compared_is_compared_again() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, Slow>("rows").unwrap();
    rows.insert(1, Slow(1)).unwrap();
    let other = rows.clone();
    BETWEEN.set(Some(Box::new(move || assert_eq!(other.insert(1, Slow(2)).unwrap(), v(2)))));
    let lost = rows.compare_and_set(&1, Some(&Slow(1)), Some(Slow(3))).unwrap().unwrap_err();
    assert_eq!(lost.current.map(|row| row.0), Some(2));
    assert_eq!(lost.proposed.map(|row| row.0), Some(3));
    assert_eq!((state.stats().reruns, state.version()), (1, v(2)));
}

#[test]
fn of_those_who_set_one_row_at_once_each_value_is_won_by_one() {
    const THREADS: u32 = 4;
    const ROUNDS: u32 = 50;
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let barrier = Barrier::new(THREADS as usize);
    let won: u32 = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let mut won = 0;
                    for round in 0..ROUNDS {
                        barrier.wait();
                        let expected = (round > 0).then_some(round);
                        let new = Some(round + 1);
                        let set = rows.compare_and_set(&0, expected.as_ref(), new).unwrap();
                        won += u32::from(set.is_ok());
                        barrier.wait();
                    }
                    won
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!((won, rows.get(&0)), (ROUNDS, Some(ROUNDS)));
    assert_eq!(state.version(), v(ROUNDS.into()));
}

#[test]
fn a_row_is_unchanged_since_a_snapshot_only_if_nobody_wrote_it() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let empty = state.snapshot();
    rows.insert(1, 10).unwrap();
    rows.insert(2, 20).unwrap();
    let then = state.snapshot();
    rows.insert(2, 21).unwrap();
    assert_eq!(rows.set_if_unchanged(&then, &1, Some(11)).unwrap(), Ok(v(4)));
    let lost = rows.set_if_unchanged(&then, &1, Some(12)).unwrap().unwrap_err();
    assert_eq!((lost.current, lost.proposed), (Some(11), Some(12)), "that write was one too");
    // Back at the same value, and yet another row.
    rows.insert(2, 20).unwrap();
    assert!(rows.set_if_unchanged(&then, &2, None).unwrap().is_err());
    let now = state.snapshot();
    assert_eq!(rows.set_if_unchanged(&now, &2, None).unwrap(), Ok(v(6)));
    assert!(rows.set_if_unchanged(&now, &2, Some(1)).unwrap().is_err(), "it is gone");
    assert!(rows.set_if_unchanged(&empty, &1, None).unwrap().is_err(), "it was not there");
    assert_eq!(rows.set_if_unchanged(&empty, &3, Some(30)).unwrap(), Ok(v(7)));
    let foreign = StateManager::in_memory().snapshot();
    let refused = rows.set_if_unchanged(&foreign, &3, None).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_new_row_is_inserted_once_and_given_to_whoever_asks_later() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, String>("rows").unwrap();
    assert_eq!(rows.insert_new(&1, "a".into()).unwrap(), Ok(v(1)));
    let taken = rows.insert_new(&1, "b".into()).unwrap().unwrap_err();
    assert_eq!((taken.current, taken.proposed), (Some("a".into()), Some("b".into())));
    let never = || -> String { panic!("it is there") };
    assert_eq!(rows.get_or_insert_with(&1, never).unwrap(), ("a".into(), v(1)));
    assert_eq!(rows.get_or_insert_with(&2, || "c".into()).unwrap(), ("c".into(), v(2)));
    assert_eq!(rows.get(&2), Some("c".into()));
}

#[test]
fn an_update_makes_changes_and_removes_a_row() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let count = |old: Option<&u32>| match old.copied() {
        Some(2) => None,
        other => Some(other.unwrap_or(0) + 1),
    };
    assert_eq!(rows.update(&1, |_| None).unwrap(), v(0), "nothing by nothing is no commit");
    for (version, value) in [(1, Some(1)), (2, Some(2)), (3, None), (4, Some(1))] {
        assert_eq!(rows.update(&1, count).unwrap(), v(version));
        assert_eq!(rows.get(&1), value);
    }
}

#[test]
fn updates_of_one_row_by_many_threads_all_count() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u64>("rows").unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..250 {
                    rows.update(&0, |count| Some(count.unwrap_or(&0) + 1)).unwrap();
                }
            });
        }
    });
    assert_eq!((rows.get(&0), state.version()), (Some(1000), v(1000)));
}
