//! Snapshots that the manager keeps: by name, by number, by itself, and for how long.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use phalanx::state::{
    Collection, KeptSnapshot, SnapshotId, SnapshotPolicy, StateBuilder, StateManager, Version,
};
use phalanx::{ErrorKind, ManualClock};
use proptest::collection::vec;
use proptest::prelude::*;

use super::long::cases;

fn open(policy: SnapshotPolicy) -> (StateManager, Collection<u32, u64>, ManualClock) {
    let (clock, hand) = ManualClock::new();
    let builder = StateManager::builder().in_memory().clock(clock);
    let state = builder.snapshots(policy).open().unwrap();
    let numbers = state.collection("numbers").unwrap();
    (state, numbers, hand)
}

fn numbers(kept: &[KeptSnapshot]) -> Vec<u64> {
    kept.iter().map(|info| info.number).collect()
}

fn not_found<'a>(state: &StateManager, id: impl Into<SnapshotId<'a>> + Copy) {
    assert_eq!(state.kept_snapshot(id).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(state.drop_kept(id).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_kept_snapshot_is_found_by_number_name_and_version_until_it_is_dropped() {
    let (state, table, hand) = open(SnapshotPolicy::new());
    table.insert(1, 10).unwrap();
    let first = state.keep();
    hand.advance(Duration::from_secs(5));
    let named = state.keep_as("here").unwrap();
    table.insert(1, 20).unwrap();
    let last = state.keep();
    assert_eq!(numbers(&state.kept()), [1, 2, 3]);
    assert_eq!(state.kept(), [first.clone(), named.clone(), last]);
    assert_eq!((first.number, first.name, first.automatic), (1, None, false));
    assert_eq!((named.number, named.name.as_deref()), (2, Some("here")));
    assert_eq!(named.taken - first.taken, Duration::from_secs(5));
    assert_eq!(state.kept_snapshot(1).unwrap().get(&table, &1), Some(10));
    assert_eq!(state.kept_snapshot("here").unwrap().version(), Version::from_u64(1));
    assert_eq!(state.kept_snapshot(3).unwrap().get(&table, &1), Some(20));
    assert_eq!(state.kept_snapshot(Version::from_u64(2)).unwrap().get(&table, &1), Some(20));
    not_found(&state, 4);
    not_found(&state, "there");
    not_found(&state, Version::from_u64(3));

    // The newest of a version goes first; what is held lives on.
    let held = state.kept_snapshot("here").unwrap();
    assert_eq!(state.drop_kept(Version::from_u64(1)).unwrap().number, 2);
    assert_eq!(state.drop_kept(Version::from_u64(1)).unwrap().number, 1);
    not_found(&state, Version::from_u64(1));
    not_found(&state, "here");
    assert_eq!(held.get(&table, &1), Some(10));
    assert_eq!((numbers(&state.kept()), state.stats().kept_snapshots), (vec![3], 1));
    // Its number is not given again.
    assert_eq!(state.keep().number, 4);
}

#[test]
fn a_name_is_given_once_and_names_are_limited() {
    let (state, table, _) = open(SnapshotPolicy::new().max_named(2));
    state.keep_as("a").unwrap();
    table.insert(1, 1).unwrap();
    let error = state.keep_as("a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("v0"), "{error}");
    assert_eq!(state.kept_snapshot("a").unwrap().version(), Version::ZERO);
    state.keep_as("b").unwrap();
    assert_eq!(state.keep_as("c").unwrap_err().kind(), ErrorKind::LimitReached);
    state.drop_kept("a").unwrap();
    assert_eq!(state.keep_as("a").unwrap().version, Version::from_u64(1));
    for name in ["", &*"x".repeat(256)] {
        assert_eq!(state.keep_as(name).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    assert_eq!(numbers(&state.kept()), [2, 3], "what was refused has no number");
}

#[test]
fn a_policy_out_of_range_is_refused() {
    let refused = |policy| {
        let opened = StateManager::builder().in_memory().snapshots(policy).open();
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::InvalidArgument);
    };
    refused(SnapshotPolicy::new().keep_last(0));
    refused(SnapshotPolicy::new().keep_last(1 << 17));
    refused(SnapshotPolicy::new().max_named(1 << 17));
    refused(SnapshotPolicy::new().every_commits(0));
    refused(SnapshotPolicy::new().every_changes(0));
    refused(SnapshotPolicy::new().every(Duration::ZERO));
    refused(SnapshotPolicy::new().keep_for(Duration::ZERO));
    let builder: StateBuilder = StateManager::builder().in_memory().max_pending_releases(1025);
    assert_eq!(builder.open().unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn the_commit_that_completes_a_number_keeps_its_own_version_whoever_else_commits() {
    let (state, table, _) = open(SnapshotPolicy::new().keep_last(1000).every_commits(10));
    let barrier = Barrier::new(4);
    thread::scope(|scope| {
        for writer in 0..4 {
            let (table, barrier) = (&table, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for number in 0..250 {
                    table.insert(writer, number).unwrap();
                }
            });
        }
    });
    let kept = state.kept();
    let versions: Vec<_> = kept.iter().map(|info| info.version.as_u64()).collect();
    assert_eq!(versions, (1..=100).map(|tenth| tenth * 10).collect::<Vec<_>>());
    assert!(kept.iter().all(|info| info.automatic));
    assert_eq!(state.stats().automatic_snapshots, 100);
    for info in kept {
        let snapshot = state.kept_snapshot(info.number).unwrap();
        assert_eq!(snapshot.version(), info.version);
        let commits: u64 = snapshot.iter(&table).map(|(_, number)| number + 1).sum();
        assert_eq!(commits, info.version.as_u64(), "as many writes as commits");
    }
}

#[test]
fn a_change_is_a_row_that_is_set_or_removed_whatever_commit_it_is_of() {
    let (state, table, _) = open(SnapshotPolicy::new().keep_last(1000).every_changes(10));
    let versions = || state.kept().iter().map(|info| info.version.as_u64()).collect::<Vec<_>>();
    let set = |keys: std::ops::Range<u32>| {
        let set = state.transaction(|tx| {
            keys.clone().for_each(|key| tx.insert(&table, key, 0));
            // Of a row that is not there: no change.
            assert_eq!(tx.remove(&table, &u32::MAX), None);
            // A row is changed once by a commit.
            tx.insert(&table, keys.start, 1);
            Ok(())
        });
        set.unwrap().1.as_u64()
    };
    let before = state.snapshot();
    assert_eq!((set(0..9), versions()), (1, vec![]));
    // Set to what it is: the tenth.
    assert_eq!((set(0..1), versions()), (2, vec![2]));
    for key in 0..9 {
        table.remove(&key).unwrap();
    }
    assert_eq!((state.version().as_u64(), versions()), (11, vec![2]));
    assert!(table.remove(&0).unwrap().0.is_none());
    // However many it is of, a commit is one version, and the next one is due ten changes later.
    assert_eq!((set(0..95), versions()), (12, vec![2, 12]));
    assert_eq!((set(0..9), versions()), (13, vec![2, 12]));
    let refused: Result<((), Version), _> = state.transaction(|tx| {
        tx.insert(&table, 1, 1);
        Err(phalanx::state::Abort::new("no"))
    });
    assert_eq!((refused.unwrap_err().kind(), versions()), (ErrorKind::Aborted, vec![2, 12]));
    // Going back is a commit like any, here of 95 rows.
    assert_eq!((state.restore(&before).unwrap().as_u64(), versions()), (14, vec![2, 12, 14]));
    assert_eq!((set(0..9), versions()), (15, vec![2, 12, 14]));
    assert_eq!((set(0..1), versions()), (16, vec![2, 12, 14, 16]));
    assert!(state.kept().iter().all(|info| info.automatic));
    assert_eq!(state.stats().automatic_snapshots, 4);
}

#[test]
fn the_commit_that_completes_a_number_of_changes_keeps_its_own_version_whoever_else_commits() {
    const EVERY: u64 = 10;
    let (state, table, _) = open(SnapshotPolicy::new().keep_last(10_000).every_changes(EVERY));
    let barrier = Barrier::new(4);
    let mut sizes = thread::scope(|scope| {
        let writers: Vec<_> = (0..4_u32)
            .map(|writer| {
                let (state, table, barrier) = (&state, &table, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let commit = |number: u32| {
                        let rows = 1 + number % (3 + 5 * writer);
                        let set = state.transaction(|tx| {
                            (0..rows).for_each(|key| tx.insert(table, key, number.into()));
                            Ok(u64::from(rows))
                        });
                        let (rows, version) = set.unwrap();
                        (version, rows)
                    };
                    (0..250).map(commit).collect::<Vec<_>>()
                })
            })
            .collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    sizes.sort_unstable();
    let mut since = 0;
    let mut expected = Vec::new();
    for (version, rows) in sizes {
        since += rows;
        if since >= EVERY {
            expected.push(version);
            since = 0;
        }
    }
    let kept: Vec<_> = state.kept().into_iter().map(|info| info.version).collect();
    assert_eq!(kept, expected);
    assert!(kept.len() > 100 && state.stats().automatic_snapshots == kept.len() as u64);
}

#[test]
fn a_commit_lets_go_of_two_that_are_too_old_and_whoever_looks_of_all() {
    let minute = Duration::from_secs(60);
    let policy = SnapshotPolicy::new().keep_last(10_000).keep_for(minute).every_commits(1);
    let (state, table, hand) = open(policy);
    for number in 0..1000 {
        table.insert(1, number).unwrap();
    }
    hand.advance(minute);
    let counts = || (state.stats().snapshots_dropped_by_age, state.stats().kept_snapshots);
    assert_eq!(counts(), (0, 1000));
    table.insert(1, 1000).unwrap();
    assert_eq!(counts(), (2, 999));
    table.insert(1, 1001).unwrap();
    assert_eq!(counts(), (4, 998));
    assert_eq!(numbers(&state.kept()), [1001, 1002]);
    assert_eq!(counts(), (1000, 2));
    hand.advance(minute);
    assert_eq!(state.maintain().snapshots_dropped, 2);
    assert_eq!(counts(), (1002, 0));

    // What a burst has left goes with the commits that come after it, where nobody ever looks.
    for number in 0..1000 {
        table.insert(1, number).unwrap();
    }
    hand.advance(minute);
    for number in 0..1000 {
        table.insert(1, number).unwrap();
        hand.advance(Duration::from_secs(1));
    }
    assert_eq!(state.stats().kept_snapshots, 60);
}

#[test]
fn a_period_is_noticed_by_the_next_commit_or_by_maintain_where_something_changed() {
    let (state, table, hand) = open(SnapshotPolicy::new().every(Duration::from_secs(10)));
    table.insert(1, 1).unwrap();
    assert!(!state.maintain().snapshot_kept);
    hand.advance(Duration::from_secs(10));
    assert_eq!(state.kept(), []);
    table.insert(1, 2).unwrap();
    table.insert(1, 3).unwrap();
    let kept = state.kept();
    assert_eq!((kept.len(), kept[0].version, kept[0].automatic), (1, Version::from_u64(2), true));
    hand.advance(Duration::from_secs(9));
    assert!(!state.maintain().snapshot_kept);
    hand.advance(Duration::from_secs(1));
    assert!(state.maintain().snapshot_kept, "version 3 came after the last one");
    hand.advance(Duration::from_secs(100));
    assert!(!state.maintain().snapshot_kept, "nothing has changed since");
    table.insert(1, 4).unwrap();
    assert_eq!(state.kept().last().unwrap().version, Version::from_u64(4), "it was due already");
    assert_eq!(state.stats().automatic_snapshots, 3);
}

#[cfg(all(feature = "durable", feature = "bincode"))]
#[test]
fn kept_snapshots_do_not_survive_the_manager() {
    let disk = phalanx::state::FaultDisk::new();
    let state = StateManager::builder().fault_disk(&disk).open().unwrap();
    let table = state.collection::<u32, u32>("numbers").unwrap();
    table.insert(1, 1).unwrap();
    state.keep();
    state.keep_as("here").unwrap();
    state.close().unwrap();
    assert_eq!(state.kept_snapshot("here").unwrap().get(&table, &1), Some(1), "as long as it is");
    let again = StateManager::builder().fault_disk(&disk).open().unwrap();
    assert_eq!(again.kept(), []);
    assert_eq!(again.version(), Version::from_u64(1));
}

#[derive(Clone, Debug)]
enum Op {
    /// Of so many rows.
    Commit(u32),
    Keep,
    KeepAs(u8),
    Drop(u64),
    DropName(u8),
    Advance(u64),
    Maintain,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1..7u32).prop_map(Op::Commit),
        3 => Just(Op::Keep),
        2 => (0..4u8).prop_map(Op::KeepAs),
        1 => (1..20u64).prop_map(Op::Drop),
        1 => (0..4u8).prop_map(Op::DropName),
        3 => (1..8u64).prop_map(Op::Advance),
        2 => Just(Op::Maintain),
    ]
}

/// A policy, in the simplest form: number, name, version, when, automatic.
#[derive(Default)]
struct Model {
    kept: Vec<(u64, Option<u8>, u64, u64, bool)>,
    given: u64,
    newest: u64,
    version: u64,
    now: u64,
    due: u64,
    changes: u64,
    by_count: u64,
    by_age: u64,
}

const LAST: usize = 3;
const AGE: u64 = 12;
const NAMED: usize = 2;
const COMMITS: u64 = 7;
const CHANGES: u64 = 10;
const PERIOD: u64 = 9;

impl Model {
    fn keep(&mut self, name: Option<u8>, automatic: bool) {
        self.given += 1;
        self.newest = self.version;
        self.kept.push((self.given, name, self.version, self.now, automatic));
    }

    fn trim(&mut self) {
        let before = self.kept.len();
        let now = self.now;
        self.kept.retain(|(_, name, _, taken, _)| name.is_some() || taken + AGE > now);
        self.by_age += (before - self.kept.len()) as u64;
        while self.kept.iter().filter(|(_, name, ..)| name.is_none()).count() > LAST {
            let oldest = self.kept.iter().position(|(_, name, ..)| name.is_none()).unwrap();
            self.kept.remove(oldest);
            self.by_count += 1;
        }
    }

    fn named(&self, name: u8) -> Option<usize> {
        self.kept.iter().position(|(_, found, ..)| *found == Some(name))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(128), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_kept_is_what_a_naive_policy_keeps(ops in vec(op(), 1..60)) {
        let seconds = Duration::from_secs;
        let policy = SnapshotPolicy::new().keep_last(LAST).keep_for(seconds(AGE)).max_named(NAMED);
        let policy = policy.every_commits(COMMITS).every_changes(CHANGES);
        let (state, table, hand) = open(policy.every(seconds(PERIOD)));
        let mut model = Model { due: PERIOD, ..Model::default() };
        let mut values = BTreeMap::from([(0, None)]);
        for op in &ops {
            match op {
                Op::Commit(rows) => {
                    model.version += 1;
                    let set = state.transaction(|tx| {
                        (1..=*rows).for_each(|key| tx.insert(&table, key, model.version));
                        Ok(())
                    });
                    set.unwrap();
                    values.insert(model.version, Some(model.version));
                    let timed = model.now >= model.due;
                    if timed {
                        model.due = model.now + PERIOD;
                    }
                    model.changes += u64::from(*rows);
                    let changed = model.changes >= CHANGES;
                    if changed {
                        model.changes = 0;
                    }
                    if timed || changed || model.version.is_multiple_of(COMMITS) {
                        model.keep(None, true);
                        model.trim();
                    }
                }
                Op::Keep => {
                    model.trim();
                    model.keep(None, false);
                    prop_assert_eq!(state.keep().number, model.given);
                }
                Op::KeepAs(name) => {
                    let named = model.kept.iter().filter(|(_, name, ..)| name.is_some()).count();
                    let fits = model.named(*name).is_none() && named < NAMED;
                    if fits {
                        model.keep(Some(*name), false);
                    }
                    prop_assert_eq!(state.keep_as(&name.to_string()).is_ok(), fits);
                }
                Op::Drop(number) => {
                    model.trim();
                    let at = model.kept.iter().position(|(found, ..)| found == number);
                    at.map(|at| model.kept.remove(at));
                    prop_assert_eq!(state.drop_kept(*number).is_ok(), at.is_some());
                }
                Op::DropName(name) => {
                    let at = model.named(*name);
                    at.map(|at| model.kept.remove(at));
                    prop_assert_eq!(state.drop_kept(&name.to_string()).is_ok(), at.is_some());
                }
                Op::Advance(by) => {
                    hand.advance(seconds(*by));
                    model.now += by;
                }
                Op::Maintain => {
                    let due = model.now >= model.due && model.version > model.newest;
                    model.trim();
                    if due {
                        model.due = model.now + PERIOD;
                        model.keep(None, true);
                    }
                    prop_assert_eq!(state.maintain().snapshot_kept, due);
                }
            }
            model.trim();
            let expected: Vec<_> = model.kept.clone();
            let found: Vec<_> = state
                .kept()
                .into_iter()
                .map(|info| {
                    let name = info.name.map(|name| name.parse().unwrap());
                    let taken = info.taken.since_start().as_secs();
                    (info.number, name, info.version.as_u64(), taken, info.automatic)
                })
                .collect();
            prop_assert_eq!(found, expected);
            for (number, _, version, ..) in &model.kept {
                let snapshot = state.kept_snapshot(*number).unwrap();
                prop_assert_eq!(snapshot.version().as_u64(), *version);
                prop_assert_eq!(snapshot.get(&table, &1), values[version]);
            }
            let stats = state.stats();
            prop_assert_eq!(stats.snapshots_dropped_by_count, model.by_count);
            prop_assert_eq!(stats.snapshots_dropped_by_age, model.by_age);
            prop_assert_eq!(stats.kept_snapshots, model.kept.len() as u64);
        }
    }
}
