//! What changed between two snapshots, doing it again, and going back.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use phalanx::ErrorKind;
use phalanx::state::{Collection, Diff, FaultDisk, RowDiff, Snapshot, StateManager, Version};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::bomb::{Bomb, on_next_use};
use super::long::cases;

fn open(disk: &FaultDisk) -> StateManager {
    StateManager::builder().fault_disk(disk).open().expect("the disk is sound")
}

fn rows<'a>(diff: &'a Diff, of: &Collection<u32, String>) -> Vec<RowDiff<'a, u32, String>> {
    let mut rows: Vec<_> = diff.rows(of).collect();
    rows.sort_by_key(|row| match row {
        RowDiff::Added { key, .. } | RowDiff::Removed { key, .. } => **key,
        RowDiff::Changed { key, .. } => **key,
    });
    rows
}

#[test]
fn a_diff_shows_what_was_added_removed_and_changed_with_both_values() {
    let state = StateManager::in_memory();
    let names = state.collection::<u32, String>("names").unwrap();
    let other = state.collection::<u32, String>("other").unwrap();
    for key in 1..=3 {
        names.insert(key, format!("first {key}")).unwrap();
    }
    other.insert(1, "stays".into()).unwrap();
    let before = state.snapshot();
    names.insert(2, "second 2".into()).unwrap();
    names.remove(&3).unwrap();
    names.insert(4, "first 4".into()).unwrap();
    let later = state.collection::<u32, String>("later").unwrap();
    later.insert(9, "new".into()).unwrap();
    let after = state.snapshot();

    let diff = before.diff(&after).unwrap();
    assert_eq!((diff.from_version(), diff.to_version()), (before.version(), after.version()));
    let [first, second] = ["first 2", "second 2"].map(str::to_owned);
    let [removed, added] = ["first 3", "first 4"].map(str::to_owned);
    assert_eq!(
        rows(&diff, &names),
        [
            RowDiff::Changed { key: &2, before: &first, after: &second },
            RowDiff::Removed { key: &3, value: &removed },
            RowDiff::Added { key: &4, value: &added },
        ]
    );
    assert_eq!(rows(&diff, &other), []);
    assert_eq!(rows(&diff, &later).len(), 1);
    let counts: Vec<_> = diff
        .collections()
        .into_iter()
        .map(|found| (found.name, found.added, found.removed, found.changed))
        .collect();
    assert_eq!(counts, [("names".to_owned(), 1, 1, 1), ("later".to_owned(), 1, 0, 0)]);
    assert!(!diff.is_empty());

    let back = after.diff(&before).unwrap();
    assert_eq!(
        rows(&back, &names),
        [
            RowDiff::Changed { key: &2, before: &second, after: &first },
            RowDiff::Added { key: &3, value: &removed },
            RowDiff::Removed { key: &4, value: &added },
        ]
    );
    assert!(after.diff(&after).unwrap().is_empty());
}

/// Counts how often it is hashed on this thread.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Counted(u32);

thread_local! {
    static HASHES: Cell<u32> = const { Cell::new(0) };
}

impl Hash for Counted {
    fn hash<H: Hasher>(&self, state: &mut H) {
        HASHES.set(HASHES.get() + 1);
        self.0.hash(state);
    }
}

#[test]
fn a_collection_that_no_commit_touched_costs_a_diff_and_a_restore_nothing() {
    let state = StateManager::in_memory();
    let large = state.collection::<Counted, u32>("large").unwrap();
    let small = state.collection::<u32, u32>("small").unwrap();
    state
        .transaction(|tx| {
            (0..1000).for_each(|key| tx.insert(&large, Counted(key), key));
            Ok(())
        })
        .unwrap();
    let before = state.snapshot();
    small.insert(1, 1).unwrap();
    let diff = before.diff(&state.snapshot()).unwrap();
    HASHES.set(0);
    assert_eq!(diff.rows(&large).count(), 0);
    assert_eq!(diff.collections().len(), 1);
    state.restore(&before).unwrap();
    state.apply(&diff).unwrap();
    assert_eq!(HASHES.get(), 0);
    large.insert(Counted(5), 7).unwrap();
    HASHES.set(0);
    let diff = before.diff(&state.snapshot()).unwrap();
    assert_eq!(diff.rows(&large).count(), 1);
    assert!(HASHES.get() >= 1000, "a table that was touched is compared row by row");
}

#[test]
fn snapshots_and_diffs_of_another_manager_are_refused() {
    let disk = FaultDisk::new();
    let state = open(&disk);
    let numbers = state.collection::<u32, u32>("numbers").unwrap();
    let before = state.snapshot();
    numbers.insert(1, 1).unwrap();
    state.flush().unwrap();
    let after = state.snapshot();
    state.close().unwrap();
    let again = open(&disk);
    let same = again.collection::<u32, u32>("numbers").unwrap();
    let invalid = |result: Result<Version, phalanx::Error>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidArgument);
    };
    invalid(again.restore(&before));
    invalid(again.apply(&before.diff(&after).unwrap()));
    invalid(again.snapshot().diff(&after).map(|diff| diff.to_version()));
    assert_eq!(before.diff(&after).unwrap().rows(&same).count(), 0);
    assert_eq!((again.version(), same.get(&1)), (after.version(), Some(1)));
    // The manager of before was closed.
    assert_eq!(state.restore(&before).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_diff_is_refused_where_a_row_is_no_longer_what_it_starts_from() {
    let state = StateManager::in_memory();
    let numbers = state.collection::<u32, u32>("numbers").unwrap();
    numbers.insert(1, 10).unwrap();
    let before = state.snapshot();
    numbers.insert(1, 11).unwrap();
    numbers.insert(2, 20).unwrap();
    let diff = before.diff(&state.snapshot()).unwrap();
    let refused = || {
        let version = state.version();
        let error = state.apply(&diff).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("v1"), "{error}");
        assert_eq!(state.version(), version);
    };
    refused();
    state.restore(&before).unwrap();
    numbers.insert(3, 30).unwrap();
    let version = state.apply(&diff).unwrap();
    assert_eq!(version, state.version());
    assert_eq!([1, 2, 3].map(|key| numbers.get(&key)), [Some(11), Some(20), Some(30)]);
    // Equal is not the same: it was written in between.
    state.restore(&before).unwrap();
    numbers.insert(1, 10).unwrap();
    refused();
    state.restore(&before).unwrap();
    numbers.insert(2, 19).unwrap();
    refused();
}

#[test]
fn going_back_writes_only_the_rows_that_differ_and_nothing_where_none_does() {
    let state = open(&FaultDisk::new());
    let texts = state.collection::<u32, String>("texts").unwrap();
    state
        .transaction(|tx| {
            (0..1000).for_each(|key| tx.insert(&texts, key, "x".repeat(100)));
            Ok(())
        })
        .unwrap();
    let before = state.snapshot();
    texts.insert(500, "other".into()).unwrap();
    texts.remove(&501).unwrap();
    let later = state.collection::<u32, u32>("later").unwrap();
    later.insert(1, 1).unwrap();
    state.flush().unwrap();
    let version = state.restore(&before).unwrap();
    assert_eq!(version.as_u64(), 5);
    let pending = state.stats().pending_bytes;
    assert!((200..400).contains(&pending), "{pending} bytes for two rows of 100, and one removed");
    assert!(before.diff(&state.snapshot()).unwrap().is_empty());
    assert!(later.is_empty(), "what was made since has no rows");
    assert_eq!(state.restore(&before).unwrap(), version);
    assert_eq!(state.version(), version);
}

#[test]
fn a_collection_that_nobody_has_opened_is_the_same_on_both_sides() {
    let disk = FaultDisk::new();
    let state = open(&disk);
    state.collection::<u32, String>("asleep").unwrap().insert(1, "dream".into()).unwrap();
    state.collection::<u32, u32>("awake").unwrap().insert(1, 1).unwrap();
    state.flush().unwrap();
    drop(state);

    let state = open(&disk);
    let before = state.snapshot();
    let awake = state.collection::<u32, u32>("awake").unwrap();
    awake.insert(1, 2).unwrap();
    let diff = before.diff(&state.snapshot()).unwrap();
    assert_eq!(diff.collections().len(), 1);
    let rows: Vec<_> = diff.rows(&awake).collect();
    assert_eq!(rows, [RowDiff::Changed { key: &1, before: &1, after: &2 }]);
    state.restore(&before).unwrap();
    assert_eq!(awake.get(&1), Some(1));

    // Opened after the snapshot was taken, and changed since.
    let asleep = state.collection::<u32, String>("asleep").unwrap();
    asleep.insert(2, "wake".into()).unwrap();
    asleep.remove(&1).unwrap();
    let diff = before.diff(&state.snapshot()).unwrap();
    assert_eq!(diff.rows(&asleep).count(), 2);
    state.restore(&before).unwrap();
    assert_eq!((asleep.get(&1).as_deref(), asleep.len()), (Some("dream"), 1));
    state.flush().unwrap();
    drop((state, awake, asleep, before, diff));
    let state = open(&disk);
    let asleep = state.collection::<u32, String>("asleep").unwrap();
    assert_eq!((asleep.get(&1).as_deref(), asleep.len()), (Some("dream"), 1));
}

/// While it is hashed on the thread that says so, somebody else commits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Meddled(u32);

type Meddler = Box<dyn FnMut()>;

thread_local! {
    static MEDDLER: Cell<Option<Meddler>> = const { Cell::new(None) };
}

impl Hash for Meddled {
    fn hash<H: Hasher>(&self, state: &mut H) {
        if let Some(mut meddler) = MEDDLER.take() {
            meddler();
            MEDDLER.set(Some(meddler));
        }
        self.0.hash(state);
    }
}

#[test]
fn going_back_gets_through_beside_a_stream_of_commits() {
    let state = StateManager::in_memory();
    let rows = state.collection::<Meddled, u32>("rows").unwrap();
    let stream = state.collection::<u32, u32>("stream").unwrap();
    rows.insert(Meddled(1), 1).unwrap();
    stream.insert(1, 0).unwrap();
    let before = state.snapshot();
    rows.insert(Meddled(1), 2).unwrap();
    let (tried, committed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let meddler = {
        let (tried, committed) = (Rc::clone(&tried), Rc::clone(&committed));
        let stream = stream.clone();
        move || {
            tried.set(tried.get() + 1);
            let number = tried.get();
            match stream.insert(1, number) {
                Ok(_) => committed.set(committed.get() + 1),
                // In the turn of the restore: nobody can commit, and this thread is told why.
                Err(error) => assert_eq!(error.kind(), ErrorKind::Reentrant),
            }
        }
    };
    MEDDLER.set(Some(Box::new(meddler)));
    let version = state.restore(&before).unwrap();
    drop(MEDDLER.take());
    assert!(committed.get() >= 3 && tried.get() > committed.get(), "{tried:?} {committed:?}");
    assert_eq!(state.stats().reruns, 3);
    assert_eq!(version, state.version());
    assert_eq!((rows.get(&Meddled(1)), stream.get(&1)), (Some(1), Some(0)));
    assert!(before.diff(&state.snapshot()).unwrap().is_empty());
}

/// Counts the encodings of a value, and has another commit take place in each of the first three.
fn meddle(encoded: Rc<Cell<u32>>, stream: Collection<u32, u32>) {
    on_next_use(move || {
        encoded.set(encoded.get() + 1);
        if encoded.get() <= 3 {
            stream.insert(1, encoded.get()).expect("it is open");
        }
        meddle(encoded, stream);
    });
}

#[test]
fn going_back_that_holds_others_up_looks_for_room_before_its_work() {
    let builder = StateManager::builder().fault_disk(&FaultDisk::new()).max_pending_bytes(1);
    let state = builder.open().unwrap();
    let rows = state.collection::<u32, Bomb>("rows").unwrap();
    let stream = state.collection::<u32, u32>("stream").unwrap();
    rows.insert(1, Bomb(false)).unwrap();
    let before = state.snapshot();
    rows.remove(&1).unwrap();
    state.flush().unwrap();
    let encoded = Rc::new(Cell::new(0));
    meddle(Rc::clone(&encoded), stream.clone());
    // Of what the third one left there is no room as the restore holds the others up.
    state.restore(&before).unwrap();
    on_next_use(|| ());
    assert_eq!((encoded.get(), state.stats().reruns), (4, 3), "it is worked out once in its turn");
    assert!(rows.contains_key(&1) && stream.is_empty());
}

/// The value of each row, and by which commit it was written.
type Rows = BTreeMap<u8, (u16, u64)>;
type Model = [Rows; 2];

#[derive(Clone, Debug)]
enum Op {
    Commit(Vec<(bool, u8, Option<u16>)>),
    Snapshot,
    Restore(usize),
    Diff(usize, usize),
    Apply(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let write = (any::<bool>(), 0..8u8, proptest::option::weighted(0.7, 0..4u16));
    let pair = || (any::<usize>(), any::<usize>());
    prop_oneof![
        6 => vec(write, 1..5).prop_map(Op::Commit),
        4 => Just(Op::Snapshot),
        2 => any::<usize>().prop_map(Op::Restore),
        3 => pair().prop_map(|(from, to)| Op::Diff(from, to)),
        3 => pair().prop_map(|(from, to)| Op::Apply(from, to)),
    ]
}

fn naive_diff(from: &Rows, to: &Rows) -> BTreeMap<u8, (Option<u16>, Option<u16>)> {
    let keys = from.keys().chain(to.keys()).filter(|key| from.get(key) != to.get(key));
    let value = |rows: &Rows, key| rows.get(key).map(|(value, _)| *value);
    keys.map(|key| (*key, (value(from, key), value(to, key)))).collect()
}

struct Run {
    disk: FaultDisk,
    state: StateManager,
    tables: [Collection<u8, u16>; 2],
    model: Model,
    version: u64,
    kept: Vec<(Snapshot, Model)>,
}

impl Run {
    fn new() -> Self {
        let disk = FaultDisk::new();
        let state = open(&disk);
        let tables = ["a", "b"].map(|name| state.collection(name).unwrap());
        let kept = vec![(state.snapshot(), Model::default())];
        Self { disk, state, tables, model: Model::default(), version: 0, kept }
    }

    fn commit(&mut self, writes: &[(bool, u8, Option<u16>)]) {
        let tables = &self.tables;
        let mut model = self.model.clone();
        for &(which, key, value) in writes {
            match value {
                Some(value) => model[usize::from(which)].insert(key, (value, self.version + 1)),
                None => model[usize::from(which)].remove(&key),
            };
        }
        let ((), version) = self
            .state
            .transaction(|tx| {
                for &(which, key, value) in writes {
                    let table = &tables[usize::from(which)];
                    match value {
                        Some(value) => tx.insert(table, key, value),
                        None => drop(tx.remove(table, &key)),
                    }
                }
                Ok(())
            })
            .unwrap();
        self.version = version.as_u64();
        self.model = model;
    }

    fn apply(&mut self, op: &Op) {
        let kept = |index: &usize| &self.kept[index % self.kept.len()];
        match op {
            Op::Commit(writes) => self.commit(writes),
            Op::Snapshot => self.kept.push((self.state.snapshot(), self.model.clone())),
            Op::Restore(index) => {
                let (snapshot, model) = kept(index);
                let version = self.state.restore(snapshot).unwrap();
                self.version += u64::from(*model != self.model);
                assert_eq!(version.as_u64(), self.version);
                self.model = model.clone();
            }
            Op::Diff(from, to) => {
                let ((from, then), (to, now)) = (kept(from), kept(to));
                let diff = from.diff(to).unwrap();
                let mut counts = Vec::new();
                for (at, table) in self.tables.iter().enumerate() {
                    let expected = naive_diff(&then[at], &now[at]);
                    let found: BTreeMap<_, _> = diff.rows(table).map(sides).collect();
                    assert_eq!(found, expected);
                    assert_eq!(diff.rows(table).count(), expected.len(), "each row once");
                    let count = |of: fn(&(Option<u16>, Option<u16>)) -> bool| {
                        expected.values().filter(|sides| of(sides)).count()
                    };
                    if !expected.is_empty() {
                        counts.push((
                            table.name().to_owned(),
                            count(|(before, _)| before.is_none()),
                            count(|(_, after)| after.is_none()),
                            count(|(before, after)| before.is_some() && after.is_some()),
                        ));
                    }
                }
                let found = diff.collections().into_iter();
                let found: Vec<_> =
                    found.map(|of| (of.name, of.added, of.removed, of.changed)).collect();
                assert_eq!(found, counts);
                assert_eq!(diff.is_empty(), counts.is_empty());
            }
            Op::Apply(from, to) => {
                let ((from, then), (to, now)) = (kept(from), kept(to));
                let (mut expected, mut holds, mut changes) = (self.model.clone(), true, false);
                for at in 0..2 {
                    for key in naive_diff(&then[at], &now[at]).keys() {
                        changes = true;
                        holds &= self.model[at].get(key) == then[at].get(key);
                        match now[at].get(key) {
                            Some(row) => expected[at].insert(*key, *row),
                            None => expected[at].remove(key),
                        };
                    }
                }
                match self.state.apply(&from.diff(to).unwrap()) {
                    Ok(version) => {
                        assert!(holds);
                        self.version += u64::from(changes);
                        assert_eq!(version.as_u64(), self.version);
                        if then == &self.model {
                            assert_eq!(&expected, now, "from the first side to the second");
                        }
                        self.model = expected;
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Conflict);
                        assert!(!holds);
                    }
                }
            }
        }
    }

    fn validate(&self) {
        assert_eq!(self.state.version().as_u64(), self.version);
        let now = self.state.snapshot();
        assert_eq!(read(&now, &self.tables), values(&self.model));
        for (snapshot, model) in &self.kept {
            assert_eq!(read(snapshot, &self.tables), values(model));
        }
    }
}

fn sides(row: RowDiff<'_, u8, u16>) -> (u8, (Option<u16>, Option<u16>)) {
    match row {
        RowDiff::Added { key, value } => (*key, (None, Some(*value))),
        RowDiff::Removed { key, value } => (*key, (Some(*value), None)),
        RowDiff::Changed { key, before, after } => (*key, (Some(*before), Some(*after))),
    }
}

fn read(snapshot: &Snapshot, tables: &[Collection<u8, u16>; 2]) -> [BTreeMap<u8, u16>; 2] {
    tables.each_ref().map(|table| snapshot.iter(table).map(|(key, value)| (*key, *value)).collect())
}

fn values(model: &Model) -> [BTreeMap<u8, u16>; 2] {
    model.each_ref().map(|rows| rows.iter().map(|(key, (value, _))| (*key, *value)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(96), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_diff_is_the_models_and_applying_or_going_back_leads_to_its_other_side(
        ops in vec(op(), 1..40),
    ) {
        let mut run = Run::new();
        for op in &ops {
            run.apply(op);
            run.validate();
        }
        // And so it is on disk.
        run.state.flush().unwrap();
        let Run { disk, state, tables, model, version, kept } = run;
        drop((state, tables, kept));
        let state = open(&disk);
        let tables = ["a", "b"].map(|name| state.collection(name).unwrap());
        prop_assert_eq!(state.version().as_u64(), version);
        prop_assert_eq!(read(&state.snapshot(), &tables), values(&model));
    }
}
