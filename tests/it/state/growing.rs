//! A disk that fails while a store grows, in the ways in which disks do.
//!
//! What is new of its file is written ahead with zeros. Where there is no room for them the store goes on without; any
//! other call that fails poisons it, whether it was of zeros or not, and whether a part of a write was left behind or
//! none. With the variable `PHALANX_LONG_TESTS` set, every call fails in every way.

use std::collections::BTreeSet;

use phalanx::state::{Fault, FaultDisk, StateManager, Version};
use phalanx::{Error, ErrorKind};

use super::long::long;
use super::power::loss::{is_zeros, survivors};
use super::script::{Tables, commit_wide, wide_model_at};

const COMMITS: u64 = 6;
/// Of a row, in bytes: enough for several parts of the file that are written ahead.
const WIDTH: usize = 150_000;

fn open(disk: &FaultDisk) -> Result<StateManager, Error> {
    StateManager::builder().fault_disk(disk).checkpoint_every_commits(4).open()
}

/// What a run got to before it failed.
#[derive(Debug, Default)]
struct Reached {
    acknowledged: Version,
    committed: Version,
    zeros: u64,
    error: Option<Error>,
}

fn run(disk: &FaultDisk, reached: &mut Reached) -> Result<(), Error> {
    let state = open(disk)?;
    let tables = Tables::open(&state)?;
    for _ in 0..COMMITS {
        reached.committed = commit_wide(&state, &tables, WIDTH)?;
        let acknowledged = state.wait_durable(reached.committed);
        reached.acknowledged = state.durable_version();
        acknowledged?;
    }
    state.checkpoint()?;
    reached.zeros = state.stats().zeros_written;
    state.close()
}

fn attempt(disk: &FaultDisk) -> Reached {
    let mut reached = Reached::default();
    reached.error = run(disk, &mut reached).err();
    reached
}

#[track_caller]
fn recovers(disk: &FaultDisk, reached: &Reached, what: &str) {
    let state = open(disk).unwrap_or_else(|error| panic!("{what}: {error:?} after {reached:?}"));
    let version = state.version();
    let possible = reached.acknowledged..=reached.committed;
    assert!(possible.contains(&version), "{what}: {version} after {reached:?}");
    let tables = Tables::open(&state).expect("they have one type each");
    let found = tables.read(&state.snapshot());
    assert!(found == wide_model_at(version, WIDTH), "{what}: not the model at {version}");
    let next = commit_wide(&state, &tables, WIDTH).expect("nothing refuses it");
    state.wait_durable(next).expect("the disk works");
}

fn empty() -> Vec<u8> {
    let disk = FaultDisk::new();
    open(&disk).expect("the disk works").close().expect("the disk works");
    disk.bytes()
}

/// A run in which nothing fails.
fn whole(bytes: &[u8]) -> (FaultDisk, Reached) {
    let disk = FaultDisk::with_bytes(bytes.to_vec());
    disk.record();
    let reached = attempt(&disk);
    assert!(reached.error.is_none(), "{reached:?}");
    assert_eq!(reached.acknowledged, Version::from_u64(COMMITS));
    (disk, reached)
}

/// Which calls of a run wrote zeros ahead.
fn calls_of_zeros(disk: &FaultDisk) -> BTreeSet<u64> {
    let wrote_zeros = |call: &u64| {
        let disk = disk.rewound(*call, |_| false);
        disk.at_risk().last().is_some_and(|change| is_zeros(change, &disk.bytes()))
    };
    (1..=disk.calls()).filter(wrote_zeros).collect()
}

/// The engine says nothing of what fails as it closes its file, of which all is there by then.
fn is_told(kind: Option<ErrorKind>, reached: &Reached) -> bool {
    match kind {
        Some(kind) => matches!(kind, ErrorKind::Io | ErrorKind::Poisoned),
        None => reached.acknowledged == Version::from_u64(COMMITS),
    }
}

const FAULTS: [Fault; 8] = [
    Fault::Io,
    Fault::NoSpace,
    Fault::IoAfter(1),
    Fault::NoSpaceAfter(512),
    Fault::IoAfter(512),
    Fault::NoSpaceAfter(1),
    Fault::IoAfter(usize::MAX),
    Fault::NoSpaceAfter(4096),
];

#[test]
fn a_call_that_fails_while_the_store_grows_is_told_unless_zeros_found_no_room() {
    let bytes = empty();
    let (disk, reached) = whole(&bytes);
    let zeros = calls_of_zeros(&disk);
    assert!(zeros.len() >= 60, "{} of {} calls", zeros.len(), disk.calls());
    assert!(reached.zeros >= 60 * 4096, "{reached:?}");
    let (mut spared, mut told) = (0, 0);
    for call in 1..=disk.calls() {
        // Every call of the engine in some way; of the zeros a few.
        let ways = |way: &usize| {
            let turn = call as usize % (if zeros.contains(&call) { 12 } else { 1 } * FAULTS.len());
            long() || *way == turn
        };
        for fault in (0..FAULTS.len()).filter(ways).map(|way| FAULTS[way]) {
            let what = format!("{fault:?} at call {call}");
            let full = matches!(fault, Fault::NoSpace | Fault::NoSpaceAfter(_));
            let disk = FaultDisk::with_bytes(bytes.clone());
            disk.fail_at(call, fault);
            disk.record();
            let reached = attempt(&disk);
            let kind = reached.error.as_ref().map(Error::kind);
            if full && zeros.contains(&call) {
                assert_eq!(kind, None, "{what}: {reached:?}");
                spared += 1;
            } else {
                assert!(is_told(kind, &reached), "{what}: {reached:?}");
                let after = disk.syncs() - disk.rewound(call, |_| false).syncs();
                assert_eq!(after, 0, "{what}: after a failure nothing is synced");
                told += 1;
            }
            // The process lives on and all is there, or the power goes as well.
            for survivor in survivors(&disk, call, if long() { 12 } else { 1 }) {
                recovers(&survivor.disk, &reached, &format!("{what}, {}", survivor.what));
            }
        }
    }
    println!("{spared} spared, {told} told, {} of {} of zeros", zeros.len(), disk.calls());
    assert!(spared > 3 && told > 60, "{spared} spared, {told} told");
}

#[test]
fn a_read_that_fails_is_told_and_loses_nothing() {
    // As a crash leaves it: a checkpoint, deltas after it, and the mark of an engine that was not closed.
    let disk = FaultDisk::new();
    let state = open(&disk).expect("the disk works");
    let tables = Tables::open(&state).expect("they have one type each");
    for _ in 0..COMMITS {
        let version = commit_wide(&state, &tables, WIDTH).expect("nothing refuses it");
        state.wait_durable(version).expect("the disk works");
    }
    let bytes = disk.bytes();
    drop(state);
    let newest = Version::from_u64(COMMITS);
    let disk = FaultDisk::with_bytes(bytes.clone());
    let state = open(&disk).expect("the disk works");
    assert!(state.recovery().repaired);
    let of_opening = disk.reads();
    drop(state);
    assert!(of_opening > 10, "{of_opening} reads");
    // How many there are before it writes at all.
    let disk = FaultDisk::with_bytes(bytes.clone());
    disk.fail_at(1, Fault::Crash);
    open(&disk).expect_err("it could not write");
    let before_writes = disk.reads();
    assert!(before_writes > 10 && before_writes < of_opening, "{before_writes} of {of_opening}");
    for read in 1..=of_opening {
        let disk = FaultDisk::with_bytes(bytes.clone());
        disk.fail_read_at(read);
        let error = open(&disk).expect_err("it could not read");
        assert_eq!(error.kind(), ErrorKind::Io, "read {read}: {error:?}");
        assert!(disk.calls() == 0 || read > before_writes, "read {read}: it wrote before: {error}");
        // It may have failed as what was read was written again.
        assert!(disk.bytes() == bytes, "read {read}: a refused open changed the disk: {error}");
        // The same disk, in the same process.
        let state = open(&disk).expect("it can be read now");
        assert_eq!(state.version(), newest, "read {read}");
    }
    // Those of groups, checkpoints and the close.
    let bytes = empty();
    let (disk, _) = whole(&bytes);
    println!("{} reads of an opening, {} of a run", of_opening, disk.reads());
    for read in 1..=disk.reads() {
        let disk = FaultDisk::with_bytes(bytes.clone());
        disk.fail_read_at(read);
        let reached = attempt(&disk);
        let kind = reached.error.as_ref().map(Error::kind);
        assert!(is_told(kind, &reached), "read {read}: {reached:?}");
        recovers(&FaultDisk::with_bytes(disk.bytes()), &reached, &format!("read {read}"));
    }
}
