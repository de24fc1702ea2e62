//! A call that fails while a store is opened, recovered or filled by an import.
//!
//! The process is told, nothing is synced after a failure, and whoever opens the store again, in the same machine or
//! after a loss of power, finds what was acknowledged. (Commits, checkpoints and closes are in `faults.rs`.)

use phalanx::ErrorKind;
use phalanx::state::{Compression, Fault, FaultDisk, Import, StateBuilder, StateManager, Version};

use super::script::{Tables, check, commit_next};

const NEWEST: Version = Version::from_u64(10);

fn builder(disk: &FaultDisk) -> StateBuilder {
    // A row a step, so that what fails finds a checkpoint in part.
    StateManager::builder().fault_disk(disk).checkpoint_every_commits(4).checkpoint_step_bytes(20)
}

fn commit_ten(state: &StateManager) {
    let tables = Tables::open(state).expect("they have one type each");
    while state.version() < NEWEST {
        commit_next(state, &tables).expect("nothing refuses it");
    }
}

/// Opens `bytes` once for each of the calls that opening makes, each time with that call failing, and hands what it
/// left to `after`: the error is told, and all that was written, or all that was synced, is still there.
fn each_call_fails(
    bytes: &[u8],
    open: impl Fn(&FaultDisk) -> Result<StateManager, phalanx::Error>,
    after: impl Fn(FaultDisk),
) -> u64 {
    let whole = FaultDisk::with_bytes(bytes.to_vec());
    let state = open(&whole).expect("the disk works");
    let calls = whole.calls();
    drop(state);
    for fault in [Fault::Io, Fault::NoSpace] {
        for call in 1..=calls {
            let disk = FaultDisk::with_bytes(bytes.to_vec());
            disk.record();
            disk.fail_at(call, fault);
            let error = open(&disk).err().unwrap_or_else(|| panic!("call {call} failed unnoticed"));
            assert_eq!(error.kind(), ErrorKind::Io, "call {call}: {error:?}");
            let syncs = disk.syncs() - disk.rewound(call, |_| false).syncs();
            assert_eq!(syncs, 0, "call {call}: after a failure nothing is synced");
            after(FaultDisk::with_bytes(disk.bytes()));
            after(disk.after_power_loss(|_, _| 0));
        }
    }
    calls
}

#[test]
fn a_recovery_in_which_a_call_fails_says_so_and_the_next_finds_everything() {
    let disk = FaultDisk::new();
    let state = builder(&disk).open().expect("the disk works");
    commit_ten(&state);
    state.flush().expect("the disk works");
    // As a crash leaves it.
    let calls = each_call_fails(
        &disk.bytes(),
        |disk| builder(disk).open(),
        |disk| {
            let state = builder(&disk).open().expect("nothing is lost");
            check(&state, NEWEST, NEWEST);
        },
    );
    assert!(calls > 5, "{calls} calls");
}

#[test]
fn an_import_in_which_a_call_fails_leaves_nothing_or_all_and_can_be_done_again() {
    let here = StateManager::in_memory();
    commit_ten(&here);
    let mut export = Vec::new();
    here.snapshot().export_to(&mut export, Compression::None).expect("it is written to memory");
    let import = Import::read(&export[..]).expect("it is whole");
    let disk = FaultDisk::new();
    builder(&disk).open().expect("the disk works").close().expect("the disk works");
    let filled = |disk: &FaultDisk| builder(disk).import(import.clone()).open();
    let calls = each_call_fails(&disk.bytes(), filled, |disk| {
        let state = builder(&disk).open().expect("the store was made before");
        let version = check(&state, Version::ZERO, NEWEST);
        state.close().expect("the disk works");
        if version == Version::ZERO {
            check(&filled(&disk).expect("it is empty"), NEWEST, NEWEST);
        } else {
            assert_eq!(version, NEWEST);
        }
    });
    assert!(calls > 10, "{calls} calls");
}
