//! Interleavings of commits with those who look: the whole of a state, not a model of it. Commits become visible in one
//! of two ways, in memory alone and together with the log of a store, and the first model is of both; the store itself
//! is one that keeps nothing, as nobody waits for it here.
//!
//! A commit changes two collections alike. Whoever takes a snapshot finds both as of one commit, whose version the
//! snapshot has, never an older one than before; and whoever was told of a commit finds it.

use std::sync::Arc;

use super::super::builder::Settings;
use super::super::release::Release;
use super::super::root::Root;
use super::super::store::draft::Part;
use super::super::store::{Keeper, Load, Progress, Store, Swept};
use super::super::{
    Codec, Collection, RecoveryReport, Snapshot, StateManager, Version, WatchError, WatchEvent,
};
use crate::Error;
use crate::sync::{thread, weakened};

/// A store of which nothing is asked.
struct Nowhere;

impl Store for Nowhere {
    fn identity(&self) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }

    fn load(&self, _: &mut dyn Load) -> Result<(), Error> {
        Ok(())
    }

    fn append(&mut self, _: Version, _: &[u8]) -> Result<(), Error> {
        panic!("nobody waits for a group")
    }

    fn put(&mut self, _: Version, _: &Part, _: bool) -> Result<(), Error> {
        panic!("no checkpoint is due")
    }

    fn finish(&mut self, _: Version, _: &Part) -> Result<(), Error> {
        panic!("no checkpoint is due")
    }

    fn sweep(&mut self, _: Version, _: usize, _: bool) -> Result<Swept, Error> {
        panic!("nothing is left of one")
    }
}

fn in_memory() -> StateManager {
    StateManager::in_memory()
}

fn over_a_log() -> StateManager {
    let settings = Settings::default();
    let codec = Codec::preferred().expect("this build has one");
    let (store, counters) = (Box::new(Nowhere), Arc::default());
    let keeper = Keeper::new(store, None, codec, counters, &settings, Progress::default());
    let owner = Release::new(settings.max_pending_releases);
    let root = Root { owner, version: Version::ZERO, replaced: 0, changed: 0, slots: Vec::new() };
    StateManager::recovered(root, codec, keeper, &settings, RecoveryReport::default())
}

type Rows = Collection<u8, u64>;

fn with_rows(state: StateManager) -> (StateManager, Rows, Rows) {
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

fn one_commits_and_one_looks(state: fn() -> StateManager) {
    loom::model(move || {
        let (state, left, right) = with_rows(state());
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
        let (state, left, right) = with_rows(in_memory());
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
        let (state, left, right) = with_rows(in_memory());
        let mut watch = left.watch();
        let committer = {
            let (state, left, right) = (state.clone(), left.clone(), right.clone());
            thread::spawn(move || commit(&state, &left, &right))
        };
        let told = watch.try_recv();
        let seen = whole(&state.snapshot(), &left, &right);
        let is_told = match told {
            Ok(WatchEvent::Changed(changes)) => {
                assert_eq!(changes.version().as_u64(), 1);
                assert_eq!(seen, 1, "told of what is not there");
                true
            }
            Ok(WatchEvent::Resync { .. }) => panic!("it watched from the beginning"),
            Err(error) => {
                assert_eq!(error, WatchError::Empty);
                false
            }
        };
        committer.join().expect("the committer does not panic");
        assert_eq!(watch.try_recv().is_ok(), !is_told, "it is told once");
    });
}

#[test]
fn loom_a_snapshot_is_a_cut_at_one_version() {
    one_commits_and_one_looks(in_memory);
}

#[test]
fn loom_a_snapshot_is_a_cut_beside_a_log_too() {
    one_commits_and_one_looks(over_a_log);
}

#[test]
#[should_panic(expected = "a torn cut")]
fn loom_twin_a_logged_commit_that_becomes_visible_in_two_steps_is_caught() {
    weakened("state.commit.cut", || one_commits_and_one_looks(over_a_log));
}

#[test]
#[should_panic(expected = "a torn cut")]
fn loom_twin_a_commit_that_becomes_visible_in_two_steps_is_caught() {
    weakened("state.commit.cut", || one_commits_and_one_looks(in_memory));
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

#[test]
#[should_panic(expected = "told of what is not there")]
fn loom_twin_a_commit_that_is_told_before_it_is_visible_is_caught() {
    weakened("state.feed.shown", one_commits_and_one_is_told);
}
