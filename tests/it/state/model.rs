//! Random histories against a naive model.

use std::collections::BTreeMap;

use phalanx::state::{Abort, Collection, Durability, FaultDisk, Snapshot, StateManager, Version};
use proptest::collection::vec;
use proptest::prelude::*;

use super::long::cases;

type Rows = BTreeMap<u8, u16>;
/// Two collections.
type Model = [Rows; 2];

#[derive(Clone, Debug)]
enum Op {
    /// Which collection, which key, what value or none to remove.
    Commit(Vec<(bool, u8, Option<u16>)>, Durability),
    Abort(Vec<(bool, u8, Option<u16>)>),
    Snapshot,
    Forget(usize),
    Flush,
    Checkpoint,
    Maintain,
    Close,
    /// The handles are dropped without a flush.
    Drop,
    /// Power loss: so much of what is not synced stays.
    Crash(u8),
}

fn writes() -> impl Strategy<Value = Vec<(bool, u8, Option<u16>)>> {
    vec((any::<bool>(), 0..12u8, proptest::option::weighted(0.7, any::<u16>())), 0..6)
}

fn level() -> impl Strategy<Value = Durability> {
    prop_oneof![
        3 => Just(Durability::Memory),
        2 => Just(Durability::Buffered),
        1 => Just(Durability::Synced),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (writes(), level()).prop_map(|(writes, level)| Op::Commit(writes, level)),
        1 => writes().prop_map(Op::Abort),
        4 => Just(Op::Snapshot),
        1 => any::<usize>().prop_map(Op::Forget),
        3 => Just(Op::Flush),
        1 => Just(Op::Checkpoint),
        2 => Just(Op::Maintain),
        1 => Just(Op::Close),
        1 => Just(Op::Drop),
        1 => any::<u8>().prop_map(Op::Crash),
    ]
}

type Kept = (Snapshot, [Collection<u8, u16>; 2], Model);

struct Run {
    disk: FaultDisk,
    state: StateManager,
    collections: [Collection<u8, u16>; 2],
    /// The state at every version, from zero on.
    models: Vec<Model>,
    /// The newest version that a call of `maintain` has to write.
    wanted: Version,
    /// What each shows for as long as it lives, through handles of the manager it is of, even once that
    /// manager was closed or its versions were lost in a crash.
    snapshots: Vec<Kept>,
}

fn open(disk: &FaultDisk) -> (StateManager, [Collection<u8, u16>; 2]) {
    let builder = StateManager::builder().fault_disk(disk);
    let builder = builder.checkpoint_every_commits(5).max_pending_bytes(100);
    let state = builder.checkpoint_step_bytes(1).open().unwrap();
    let collections = ["a", "b"].map(|name| state.collection(name).unwrap());
    (state, collections)
}

fn rows(snapshot: &Snapshot, collections: &[Collection<u8, u16>; 2]) -> Model {
    collections.each_ref().map(|collection| {
        let rows: Rows = snapshot.iter(collection).map(|(k, v)| (*k, *v)).collect();
        assert_eq!(rows.len(), snapshot.len(collection));
        rows
    })
}

impl Run {
    fn new() -> Self {
        let disk = FaultDisk::new();
        let (state, collections) = open(&disk);
        let (models, snapshots) = (vec![Model::default()], Vec::new());
        Self { disk, state, collections, models, wanted: Version::ZERO, snapshots }
    }

    fn version(&self) -> Version {
        Version::from_u64(self.models.len() as u64 - 1)
    }

    fn transact(&mut self, writes: &[(bool, u8, Option<u16>)], level: Option<Durability>) {
        let abort = level.is_none();
        let before = (self.state.durable_version(), self.state.stats().stalls);
        let mut model = self.models.last().unwrap().clone();
        let mut written = false;
        let (collections, expected) = (&self.collections, &mut model);
        let result = self.state.transaction(|tx| {
            for &(which, key, value) in writes {
                let (collection, rows) =
                    (&collections[usize::from(which)], &mut expected[usize::from(which)]);
                assert_eq!(tx.get(collection, &key), rows.get(&key).copied());
                match value {
                    Some(value) => {
                        tx.insert(collection, key, value);
                        rows.insert(key, value);
                        written = true;
                    }
                    None => {
                        let gone = rows.remove(&key);
                        assert_eq!(tx.remove(collection, &key), gone);
                        written |= gone.is_some();
                    }
                }
                assert_eq!(tx.len(collection), rows.len());
            }
            level.map(|level| tx.set_durability(level)).ok_or(Abort::new("asked to"))
        });
        assert_eq!(result.is_err(), abort);
        if !abort && written {
            self.models.push(model);
        }
        if let Ok(((), version)) = result {
            assert_eq!(version, self.version());
        }
        let durable = self.state.durable_version();
        match level {
            Some(Durability::Synced) if written => assert_eq!(durable, self.version()),
            // It waits for the disk only where there was no room.
            _ if self.state.stats().stalls == before.1 => assert_eq!(durable, before.0),
            _ => {}
        }
        if written && level == Some(Durability::Buffered) {
            self.wanted = self.version();
        }
    }

    /// Goes on with another manager on a disk, which has to be at a version that is durable at least.
    fn reopen(&mut self, disk: FaultDisk, at_least: Version, at_most: Version) {
        let (state, collections) = open(&disk);
        let version = state.version();
        assert!(at_least <= version && version <= at_most, "{at_least} {version} {at_most}");
        self.models.truncate(version.as_u64() as usize + 1);
        self.wanted = version;
        (self.disk, self.state, self.collections) = (disk, state, collections);
    }

    fn apply(&mut self, op: &Op) {
        let durable = self.state.durable_version();
        match op {
            Op::Commit(writes, level) => self.transact(writes, Some(*level)),
            Op::Abort(writes) => self.transact(writes, None),
            Op::Snapshot => self.snapshots.push((
                self.state.snapshot(),
                self.collections.clone(),
                self.models.last().unwrap().clone(),
            )),
            Op::Forget(which) => {
                if !self.snapshots.is_empty() {
                    self.snapshots.swap_remove(which % self.snapshots.len());
                }
            }
            Op::Flush => assert_eq!(self.state.flush().unwrap(), self.version()),
            Op::Checkpoint => assert_eq!(self.state.checkpoint().unwrap(), self.version()),
            Op::Maintain => {
                let wanted = self.wanted > durable;
                assert_eq!(self.state.maintain().written, wanted);
                let expected = if wanted { self.version() } else { durable };
                assert_eq!(self.state.durable_version(), expected);
            }
            Op::Close => {
                self.state.close().unwrap();
                let (disk, version) = (self.disk.clone(), self.version());
                self.reopen(disk, version, version);
            }
            Op::Drop => {
                let other = StateManager::in_memory();
                let spare = ["a", "b"].map(|name| other.collection(name).unwrap());
                let old = std::mem::replace(&mut self.collections, spare);
                // They hold handles, and this is about the last handle.
                self.snapshots.clear();
                drop((std::mem::replace(&mut self.state, other), old));
                let disk = self.disk.clone();
                self.reopen(disk, durable, durable);
            }
            Op::Crash(seed) => {
                let mut bits = u32::from(*seed) * 0x0101_0101;
                let disk = self.disk.after_power_loss(|_, size| {
                    bits = bits.rotate_left(3) ^ 0x55;
                    if bits & 1 == 0 { size } else { 0 }
                });
                let version = self.version();
                self.reopen(disk, durable, version);
            }
        }
    }

    fn validate(&self) {
        assert_eq!(self.state.version(), self.version());
        assert!(self.state.durable_version() <= self.version());
        let stats = self.state.stats();
        // What may be there when a commit finds room, and the largest delta there can be.
        assert!(stats.pending_bytes < 100 + 50, "{stats:?}");
        assert!(!stats.poisoned);
        let now = self.state.snapshot();
        assert_eq!(&rows(&now, &self.collections), self.models.last().unwrap());
        for (collection, rows) in self.collections.iter().zip(self.models.last().unwrap()) {
            assert_eq!(collection.len(), rows.len());
            for key in 0..12 {
                assert_eq!(collection.get(&key), rows.get(&key).copied());
            }
        }
        for (snapshot, collections, model) in &self.snapshots {
            assert_eq!(&rows(snapshot, collections), model, "at {}", snapshot.version());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(48), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_snapshot_and_every_recovery_is_the_model_at_its_version(ops in vec(op(), 1..60)) {
        let mut run = Run::new();
        for op in &ops {
            run.apply(op);
            run.validate();
        }
    }
}
