//! What one step does to the engine's file, and what it leaves.

use super::*;
use crate::state::disk::{Counters, FileDisk};

/// A new store in a file without a name, and what goes through that.
fn store() -> (RedbStore, Arc<Counters>) {
    let file = tempfile::tempfile().expect("the system has room for it");
    let stage = Stage::new(Box::new(FileDisk::new(file))).expect("it is new");
    let (mut store, _) = RedbStore::open(stage.clone(), 1 << 20).expect("it is new");
    store.initialize(b"what it is").expect("the disk works");
    stage.go_live().expect("the disk works");
    (store, stage.counters())
}

fn v(number: u64) -> Version {
    Version::from_u64(number)
}

fn part(first: u64, rows: u64, bytes: usize) -> Part {
    (first..first + rows).map(|index| (index, vec![7; bytes])).collect()
}

/// Sweeps until nothing is left; the rows and bytes of each step.
fn sweeps(store: &mut RedbStore, version: Version, bytes: usize) -> Vec<(u64, u64)> {
    let mut steps = Vec::new();
    loop {
        let swept = store.sweep(version, bytes, false).expect("the disk works");
        steps.push((swept.rows, swept.bytes));
        if !swept.more {
            return steps;
        }
    }
}

#[test]
fn a_sweep_goes_on_where_the_last_one_stopped_after_so_many_rows_or_bytes() {
    let (mut store, _) = store();
    store.put(v(9), &part(0, 1000, 10), false).expect("the disk works");
    let rows = [(256, 2560), (256, 2560), (256, 2560), (232, 2320)];
    assert_eq!(sweeps(&mut store, Version::ZERO, 1 << 20), rows);
    store.put(v(9), &part(0, 8, 1000), false).expect("the disk works");
    // So many bytes, and a row more.
    let bytes = [(3, 3000), (3, 3000), (2, 2000)];
    assert_eq!(sweeps(&mut store, Version::ZERO, 2500), bytes);
    assert_eq!(sweeps(&mut store, Version::ZERO, 2500), [(0, 0)]);
}

/// The versions of what a store holds.
#[derive(Default)]
struct Held {
    chunks: Vec<(Version, u64)>,
    groups: Vec<Version>,
    covered: Vec<Version>,
    leftovers: Leftovers,
}

impl Load for Held {
    fn chunk(&mut self, version: Version, index: u64, _: &[u8]) -> Result<(), Error> {
        self.chunks.push((version, index));
        Ok(())
    }

    fn group(&mut self, first: Version, _: &[u8]) -> Result<(), Error> {
        self.groups.push(first);
        Ok(())
    }

    fn covered(&mut self, first: Version, _: &[u8]) -> Result<(), Error> {
        self.covered.push(first);
        Ok(())
    }

    fn leftovers(&mut self, leftovers: Leftovers) {
        self.leftovers = leftovers;
    }
}

fn held(store: &RedbStore) -> Held {
    let mut held = Held::default();
    store.load(&mut held).expect("it can be read");
    held
}

#[test]
fn a_sweep_takes_what_the_checkpoint_replaces_and_covers_and_nothing_else() {
    let (mut store, _) = store();
    for version in 1..=3 {
        store.append(v(version), &[1; 10]).expect("the disk works");
    }
    store.finish(v(2), &part(0, 2, 100)).expect("the disk works");
    let found = held(&store);
    assert_eq!((found.groups, found.covered), (vec![v(3)], vec![v(2)]));
    assert_eq!(found.leftovers, Leftovers { unfinished: None, covered: 2, any: true });
    assert_eq!(sweeps(&mut store, v(2), 1), [(1, 10), (1, 10)]);
    assert_eq!(held(&store).leftovers, Leftovers::default());

    store.put(v(3), &part(0, 1, 100), false).expect("the disk works");
    let unfinished = Leftovers { unfinished: Some(v(3)), covered: 0, any: true };
    assert_eq!(held(&store).leftovers, unfinished);
    store.finish(v(3), &part(1, 1, 100)).expect("the disk works");
    // Two chunks of the one before, and a group.
    assert_eq!(sweeps(&mut store, v(3), 1), [(1, 100), (1, 100), (1, 10)]);
    let found = held(&store);
    assert_eq!(found.chunks, [(v(3), 0), (v(3), 1)]);
    assert_eq!(
        (found.groups, found.covered, found.leftovers),
        (vec![], vec![], Leftovers::default())
    );
}

#[test]
fn a_step_syncs_where_it_is_asked_to_and_a_checkpoint_becomes_valid_with_a_sync() {
    let (mut store, counters) = store();
    let mut syncs = |step: &mut dyn FnMut(&mut RedbStore) -> Result<(), Error>| {
        let before = counters.syncs();
        step(&mut store).expect("the disk works");
        counters.syncs() - before
    };
    for sync in [false, true, false, true] {
        let put = syncs(&mut |store| store.put(v(9), &part(0, 4, 10), sync));
        assert_eq!(put, u64::from(sync));
        let swept = syncs(&mut |store| store.sweep(Version::ZERO, 15, sync).map(drop));
        assert_eq!(swept, u64::from(sync));
    }
    assert_eq!(syncs(&mut |store| store.append(v(1), &[1; 10])), 1);
    assert_eq!(syncs(&mut |store| store.finish(v(1), &part(0, 1, 10))), 1);
}
