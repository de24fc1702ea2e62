//! One recorded run, and the power lost at every call of it.
//!
//! A run is recorded with what it was told, and after which call: that a version is durable, that a checkpoint
//! was written, that the store was closed. The disk can then be had as it was after any call, and of the writes
//! that were not synced any pieces in any order. Rules of the oracle:
//!
//! 1. Once the store was opened for the first time, it opens again after every loss of power.
//! 2. What is recovered is the model at its version, which is not older than what was acknowledged and not newer
//!    than what was committed.
//! 3. A checkpoint that was asked for and reported is the one that recovery starts from, or an older one of a
//!    later one's.
//! 4. A store that was closed is opened without a repair.
//! 5. When an opening returns, all that it wrote was synced.
//!
//! Of the zeros that go ahead of what is written some calls are left out. With the variable `PHALANX_LONG_TESTS` set
//! none is, and every prefix and many more pieces are tried.

pub(super) mod loss;
mod run;
mod twins;

use super::long::long;
use super::script::{Tables, wide_model_at};
use loss::{survivors, went_on_with_zeros};
use run::{Promise, Recorded, open};

use phalanx::ErrorKind;
use phalanx::state::FaultDisk;

/// Whether a disk holds what was promised. It may be written to.
fn examine(disk: &FaultDisk, promise: &Promise, width: usize) -> Result<(), String> {
    let state = match open(disk) {
        Ok(state) => state,
        Err(error) if !promise.exists && error.kind() == ErrorKind::Corrupt => return Ok(()),
        Err(error) => return Err(format!("rule 1: {error:?}")),
    };
    let (version, report) = (state.version(), state.recovery());
    if version < promise.acknowledged || version > promise.committed {
        return Err(format!("rule 2: {version} was recovered"));
    }
    let tables = Tables::open(&state).map_err(|error| format!("rule 2: {error:?}"))?;
    if tables.read(&state.snapshot()) != wide_model_at(version, width) {
        return Err(format!("rule 2: what was recovered is not the model at {version}"));
    }
    if report.checkpoint < promise.checkpointed {
        return Err(format!("rule 3: recovery started from {:?}", report.checkpoint));
    }
    if promise.closed && report.repaired {
        return Err("rule 4: it had to be repaired".to_owned());
    }
    Ok(())
}

/// Rule 5, of a disk to which nothing has happened since.
fn at_rest(disk: &FaultDisk, promise: &Promise) -> Result<(), String> {
    match disk.unsynced() {
        changes @ 1.. if promise.opened => Err(format!("rule 5: {changes} changes are at risk")),
        _ => Ok(()),
    }
}

/// Loses the power after every call for which `chosen` says so. How many different disks were found.
fn lose_power(recorded: &Recorded, effort: usize, chosen: impl Fn(u64) -> bool) -> usize {
    let mut found = 0;
    for call in (0..=recorded.calls()).filter(|call| chosen(*call)) {
        let promise = recorded.promise(call);
        let disk = recorded.disk.rewound(call, |_| false);
        if !long() && call % 16 != 0 && went_on_with_zeros(&disk) {
            continue;
        }
        if let Err(broken) = at_rest(&disk, &promise) {
            panic!("{broken}; after call {call}, where {promise:?}");
        }
        for survivor in survivors(&disk, call, effort) {
            found += 1;
            if let Err(broken) = examine(&survivor.disk, &promise, recorded.width) {
                panic!("{broken}; after call {call}, {}, where {promise:?}", survivor.what);
            }
        }
    }
    found
}

#[test]
fn whatever_a_power_loss_leaves_of_unsynced_writes_nothing_acknowledged_is_lost() {
    let recorded = Recorded::run(0);
    assert!(recorded.calls() > 100, "{} calls", recorded.calls());
    let found = lose_power(&recorded, if long() { 200 } else { 6 }, |_| true);
    println!("{found} disks after {} calls", recorded.calls());
    assert!(found as u64 > 2 * recorded.calls(), "{found} disks");
}

/// Its checkpoints have several chunks.
#[test]
fn whatever_a_power_loss_leaves_of_large_checkpoints_nothing_acknowledged_is_lost() {
    let recorded = Recorded::run(60_000);
    let every = if long() { 1 } else { 17 };
    let found = lose_power(&recorded, if long() { 30 } else { 2 }, |call| call % every == 0);
    println!("{found} disks after {} calls", recorded.calls());
    assert!(found > 20, "{found} disks");
    assert!(recorded.zeros > 1 << 19, "{} zeros went ahead", recorded.zeros);
}

/// What steps of a checkpoint have written is on the disk, or a part of it, before any group syncs it.
#[test]
fn whatever_a_power_loss_leaves_of_steps_that_reached_the_disk_unsynced_nothing_is_lost() {
    let recorded = Recorded::crowded(3000);
    let early = recorded.unsynced_steps();
    assert!(early > 3, "{early} steps wrote to the disk and did not sync");
    let every = if long() { 1 } else { 3 };
    let found = lose_power(&recorded, if long() { 60 } else { 4 }, |call| call % every == 0);
    println!("{found} disks after {} calls", recorded.calls());
    assert!(found as u64 > recorded.calls(), "{found} disks");
}

#[test]
fn whatever_a_power_loss_leaves_of_an_import_it_is_there_in_whole_or_not_at_all() {
    let recorded = Recorded::import();
    let found = lose_power(&recorded, if long() { 200 } else { 12 }, |_| true);
    assert!(found as u64 > recorded.calls(), "{found} disks");
}
