//! Interleavings of commits with those who look: the whole of a state in memory, not a model of it.
//!
//! A commit changes two collections alike. Whoever takes a snapshot finds both as of one commit, whose version the
//! snapshot has, never an older one than before; and whoever was told of a commit finds it.

use super::super::{Collection, Snapshot, StateManager, WatchEvent};
use crate::sync::{thread, weakened};

type Rows = Collection<u8, u64>;

fn state() -> (StateManager, Rows, Rows) {
    let state = StateManager::in_memory();
    let [left, right] = ["left", "right"].map(|name| state.collection(name));
    (state, left.expect("it is open"), right.expect("it is open"))
}

fn commit(state: &StateManager, left: &Rows, right: &Rows) {
    let committed = state.transaction(|tx| {
        let next = tx.get(left, &0).unwrap_or(0) + 1;
        tx.insert(left, 0, next);
        tx.insert(right, 0, next);
        Ok(())
    });
    committed.expect("it is open");
}

/// The version, which the rows must agree with.
fn whole(snapshot: &Snapshot, left: &Rows, right: &Rows) -> u64 {
    let version = snapshot.version().as_u64();
    let rows = [left, right].map(|rows| snapshot.get(rows, &0).unwrap_or(0));
    assert_eq!(rows, [version; 2], "a torn cut");
    version
}

fn one_commits_and_one_looks() {
    loom::model(|| {
        let (state, left, right) = state();
        let committer = {
            let (state, left, right) = (state.clone(), left.clone(), right.clone());
            thread::spawn(move || {
                commit(&state, &left, &right);
                commit(&state, &left, &right);
            })
        };
        let first = whole(&state.snapshot(), &left, &right);
        let second = whole(&state.snapshot(), &left, &right);
        assert!(first <= second, "back in time");
        committer.join().expect("the committer does not panic");
        assert_eq!(whole(&state.snapshot(), &left, &right), 2);
    });
}

fn two_commit_and_one_looks() {
    loom::model(|| {
        let (state, left, right) = state();
        let committer = {
            let (state, left, right) = (state.clone(), left.clone(), right.clone());
            thread::spawn(move || commit(&state, &left, &right))
        };
        commit(&state, &left, &right);
        let seen = whole(&state.snapshot(), &left, &right);
        assert!((1..=2).contains(&seen), "{seen}");
        committer.join().expect("the committer does not panic");
        assert_eq!(whole(&state.snapshot(), &left, &right), 2);
    });
}

fn one_commits_and_one_is_told() {
    loom::model(|| {
        let (state, left, right) = state();
        let mut watch = left.watch();
        let committer = {
            let (state, left, right) = (state.clone(), left.clone(), right.clone());
            thread::spawn(move || commit(&state, &left, &right))
        };
        let told = watch.try_recv();
        let seen = whole(&state.snapshot(), &left, &right);
        match told {
            Ok(WatchEvent::Changed(changes)) => {
                assert_eq!((changes.version().as_u64(), seen), (1, 1))
            }
            Ok(WatchEvent::Resync { .. }) => panic!("it watched from the beginning"),
            Err(_) => {}
        }
        committer.join().expect("the committer does not panic");
    });
}

#[test]
fn loom_a_snapshot_is_a_cut_at_one_version() {
    one_commits_and_one_looks();
}

#[test]
#[should_panic(expected = "a torn cut")]
fn loom_twin_a_commit_that_becomes_visible_in_two_steps_is_caught() {
    weakened("state.commit.cut", one_commits_and_one_looks);
}

#[test]
fn loom_a_commit_beside_another_is_not_lost() {
    two_commit_and_one_looks();
}

#[test]
#[should_panic(expected = "a torn cut")]
fn loom_twin_a_commit_on_what_is_no_longer_the_newest_is_caught() {
    weakened("state.commit.holds", two_commit_and_one_looks);
}

#[test]
fn loom_who_is_told_of_a_commit_finds_it() {
    one_commits_and_one_is_told();
}
