//! A disk that fails at every call in turn.
//!
//! The oracle: every acknowledged version is there, and what is recovered is the model at some version that
//! is not older.

use phalanx::state::{Fault, FaultDisk, StateManager, Version};
use phalanx::{Error, ErrorKind};

use super::script::{Tables, check, commit_next};

/// A row is larger, so that a checkpoint has as many steps as there are rows.
const STEP_BYTES: usize = 20;

fn open(disk: &FaultDisk) -> Result<StateManager, Error> {
    let builder = StateManager::builder().fault_disk(disk);
    builder.checkpoint_every_commits(4).checkpoint_step_bytes(STEP_BYTES).open()
}

/// What a run got to before it failed.
#[derive(Debug, Default)]
struct Reached {
    acknowledged: Version,
    committed: Version,
    error: Option<Error>,
}

/// Groups of one and of two commits, with automatic checkpoints a step after each; one asked for, and an orderly
/// end in the middle of another.
fn run(disk: &FaultDisk, reached: &mut Reached) -> Result<(), Error> {
    let state = open(disk)?;
    reached.acknowledged = state.durable_version();
    reached.committed = state.version();
    let tables = Tables::open(&state)?;
    for round in 0..7 {
        for _ in 0..1 + round % 2 {
            reached.committed = commit_next(&state, &tables)?;
        }
        let acknowledged = state.wait_durable(reached.committed);
        reached.acknowledged = state.durable_version();
        if let Err(error) = acknowledged {
            refuses_all(&state, &tables);
            return Err(error);
        }
        assert!(reached.acknowledged >= reached.committed);
        if round == 5
            && let Err(error) = state.checkpoint()
        {
            refuses_all(&state, &tables);
            return Err(error);
        }
    }
    state.close()
}

/// What a poisoned store does from then on.
fn refuses_all(state: &StateManager, tables: &Tables) {
    let before = state.durable_version();
    let kind = |result: Result<Version, Error>| result.unwrap_err().kind();
    assert!(state.stats().poisoned);
    assert_eq!(kind(commit_next(state, tables)), ErrorKind::Poisoned);
    assert_eq!(kind(state.checkpoint()), ErrorKind::Poisoned);
    if state.version() > before {
        assert_eq!(kind(state.flush()), ErrorKind::Poisoned);
    }
    assert_eq!(state.close().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(state.durable_version(), before, "nothing is acknowledged after a failure");
}

fn attempt(disk: &FaultDisk) -> Reached {
    let mut reached = Reached::default();
    reached.error = run(disk, &mut reached).err();
    reached
}

/// Recovers, checks, and goes on from there for one commit, a checkpoint, and another recovery.
fn recovers(disk: &FaultDisk, reached: &Reached) {
    let state = open(disk).unwrap_or_else(|error| panic!("{error:?} after {reached:?}"));
    let version = check(&state, reached.acknowledged, reached.committed);
    let next = commit_next(&state, &Tables::open(&state).unwrap()).unwrap();
    assert_eq!(next.as_u64(), version.as_u64() + 1);
    state.wait_durable(next).unwrap();
    let state_again = open(&disk.after_power_loss(|_, _| 0)).unwrap();
    check(&state_again, next, next);
    // Whatever an earlier one has left: this one is valid and alone.
    assert_eq!(state.checkpoint().unwrap(), next);
    state.close().unwrap();
    let state = open(&disk.after_power_loss(|_, _| 0)).unwrap();
    check(&state, next, next);
    let report = state.recovery();
    assert_eq!((report.checkpoint, report.unfinished_checkpoint), (Some(next), None));
    assert_eq!((report.groups, report.covered_groups), (0, 0));
}

/// An empty store, and how many calls the workload makes on it.
fn prepared() -> (Vec<u8>, u64) {
    let disk = FaultDisk::new();
    open(&disk).unwrap().close().unwrap();
    let bytes = disk.bytes();
    let disk = FaultDisk::with_bytes(bytes.clone());
    let reached = attempt(&disk);
    assert!(reached.error.is_none(), "{reached:?}");
    assert_eq!(reached.committed, Version::from_u64(10));
    (bytes, disk.calls())
}

/// Which of the unsynced bytes a power loss leaves, as a test would choose them.
fn survivors(disk: &FaultDisk, call: u64) -> Vec<FaultDisk> {
    let mut random = call.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let last = disk.unsynced().saturating_sub(1);
    vec![
        disk.after_power_loss(|_, _| 0),
        disk.after_power_loss(|_, size| size),
        // Each as likely as not, whatever their order.
        disk.after_power_loss(|_, size| if draw() % 2 == 0 { size } else { 0 }),
        // All but the first; the first alone torn at a sector.
        disk.after_power_loss(|index, size| if index == 0 { size.min(512) } else { size }),
        // All, and the last torn at a byte.
        disk.after_power_loss(|index, size| if index == last { size / 2 } else { size }),
    ]
}

#[test]
fn a_power_loss_at_any_call_loses_nothing_that_was_acknowledged() {
    let (bytes, calls) = prepared();
    assert!(calls > 50, "{calls} calls");
    for call in 1..=calls {
        let disk = FaultDisk::with_bytes(bytes.clone());
        disk.fail_at(call, Fault::Crash);
        let reached = attempt(&disk);
        for survivor in survivors(&disk, call) {
            recovers(&survivor, &reached);
        }
    }
}

#[test]
fn a_power_loss_at_any_call_of_a_recovery_loses_nothing() {
    let (bytes, calls) = prepared();
    let disk = FaultDisk::with_bytes(bytes);
    disk.fail_at(calls / 2, Fault::Crash);
    let reached = attempt(&disk);
    assert!(reached.acknowledged > Version::ZERO);
    let wreck = disk.after_power_loss(|_, size| size).bytes();
    let whole = FaultDisk::with_bytes(wreck.clone());
    let state = open(&whole).unwrap();
    assert!(state.recovery().repaired, "the wreck needs a repair");
    state.close().unwrap();
    for call in 1..=whole.calls() {
        let disk = FaultDisk::with_bytes(wreck.clone());
        disk.fail_at(call, Fault::Crash);
        if let Ok(state) = open(&disk) {
            check(&state, reached.acknowledged, reached.committed);
            drop(state);
        }
        for survivor in survivors(&disk, call) {
            recovers(&survivor, &reached);
        }
    }
}

#[test]
fn a_failed_call_poisons_the_store_and_reopening_works() {
    let (bytes, calls) = prepared();
    let mut poisoned = 0;
    for fault in [Fault::Io, Fault::NoSpace] {
        for call in 1..=calls {
            let disk = FaultDisk::with_bytes(bytes.clone());
            disk.fail_at(call, fault);
            disk.record();
            let reached = attempt(&disk);
            let after = disk.syncs() - disk.rewound(call, |_| false).syncs();
            assert_eq!(after, 0, "call {call}: after a failure nothing is synced: {reached:?}");
            let kind = reached.error.as_ref().map(Error::kind);
            assert!(
                matches!(kind, None | Some(ErrorKind::Poisoned | ErrorKind::Io)),
                "call {call}: {reached:?}"
            );
            poisoned += u64::from(kind == Some(ErrorKind::Poisoned));
            // The process lives on, and what it wrote is in the page cache or lost.
            recovers(&disk.rewound(disk.calls(), |_| false), &reached);
            recovers(&disk.after_power_loss(|_, _| 0), &reached);
        }
    }
    // All but those of opening and of closing.
    assert!(poisoned > calls, "{poisoned} of {calls} twice");
}

/// Runs in each of which one sync fails and loses what it was to make durable.
fn lost_syncs() -> Vec<(FaultDisk, Reached)> {
    let (bytes, calls) = prepared();
    let lost = (1..=calls).filter_map(|call| {
        let disk = FaultDisk::with_bytes(bytes.clone());
        disk.fail_at(call, Fault::LostSync);
        disk.record();
        let reached = attempt(&disk);
        let before = disk.rewound(call - 1, |_| false);
        // What other calls failed lost nothing.
        let was_sync = before.unsynced() > 0 && disk.rewound(call, |_| false).unsynced() == 0;
        was_sync.then_some((disk, reached))
    });
    lost.collect()
}

#[test]
fn what_a_failed_sync_has_lost_is_durable_again_before_anything_after_it() {
    let lost = lost_syncs();
    assert!(lost.len() > 10, "{} syncs", lost.len());
    for (disk, reached) in lost {
        // All that was written can be read, and is not on the disk.
        recovers(&disk.rewound(disk.calls(), |_| false), &reached);
        recovers(&disk.after_power_loss(|_, size| size), &reached);
    }
}

#[test]
fn a_power_loss_at_any_call_of_a_recovery_from_what_a_sync_has_lost_loses_nothing() {
    let lost = lost_syncs();
    let groups = lost.iter().filter(|(_, reached)| reached.committed > reached.acknowledged);
    let (mut tried, mut more) = (0, 0);
    for (disk, reached) in groups.step_by(3) {
        tried += 1;
        for call in 1.. {
            let disk = disk.rewound(disk.calls(), |_| false);
            disk.fail_at(disk.calls() + call, Fault::Crash);
            let opened = open(&disk).is_ok();
            for survivor in survivors(&disk, call) {
                recovers(&survivor, reached);
            }
            if opened {
                break;
            }
            more += 1;
        }
    }
    assert!(tried > 1 && more > 20, "{tried} recoveries, of {more} calls");
}

#[test]
fn a_sync_of_a_recovery_that_loses_what_it_was_to_make_durable_loses_nothing() {
    let lost = lost_syncs();
    let groups = lost.iter().filter(|(_, reached)| reached.committed > reached.acknowledged);
    let mut refused = 0;
    for (disk, reached) in groups.step_by(3) {
        for call in 1.. {
            let disk = disk.rewound(disk.calls(), |_| false);
            let at = disk.calls() + call;
            disk.fail_at(at, Fault::LostSync);
            let opened = open(&disk);
            if disk.calls() < at {
                break;
            }
            assert_eq!(opened.map(drop).map_err(|error| error.kind()), Err(ErrorKind::Io));
            refused += 1;
            // The same disk, in the same process.
            recovers(&disk, reached);
        }
    }
    assert!(refused > 20, "{refused} calls");
}

/// The bytes of a store with ten commits: a checkpoint, and deltas after it.
fn closed() -> Vec<u8> {
    let disk = FaultDisk::with_bytes(prepared().0);
    let reached = attempt(&disk);
    assert!(reached.error.is_none(), "{reached:?}");
    disk.bytes()
}

/// Opens damaged bytes of a store that was closed: it must be refused without a change to the disk, or show
/// the newest version all the same. Whether it was refused.
fn refuses_or_is_right(bytes: Vec<u8>, what: &str) -> bool {
    let disk = FaultDisk::with_bytes(bytes);
    match open(&disk) {
        Ok(state) => {
            let newest = Version::from_u64(10);
            check(&state, newest, newest);
            false
        }
        Err(error) => {
            let kind = error.kind();
            assert!(
                matches!(kind, ErrorKind::Corrupt | ErrorKind::UnsupportedVersion),
                "{what}: {error:?}"
            );
            assert_eq!(disk.calls(), 0, "{what}: a refused open changed the disk: {error}");
            true
        }
    }
}

#[test]
fn a_cut_file_is_refused() {
    let good = closed();
    // A sample, or with the variable set all of them.
    let step = if std::env::var_os("PHALANX_LONG_TESTS").is_some() { 1 } else { 509 };
    for len in (1..good.len()).step_by(step).chain([9, 63, 64, 319, 320, good.len() - 1]) {
        assert!(refuses_or_is_right(good[..len].to_vec(), "cut"), "cut to {len}");
    }
}

#[test]
fn a_flipped_bit_is_refused_or_does_no_harm() {
    let good = closed();
    // A sample, or with the variable set all of them.
    let step = if std::env::var_os("PHALANX_LONG_TESTS").is_some() { 1 } else { 20_011 };
    let header = (0..320 * 8).step_by(if step == 1 { 1 } else { 9 });
    let (mut flips, mut refusals) = (0, 0);
    for bit in header.chain((320 * 8..good.len() * 8).step_by(step)) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        flips += 1;
        refusals += u32::from(refuses_or_is_right(bad, &format!("bit {bit}")));
    }
    // The rest hit pages that are free and fields that nobody reads.
    assert!(refusals > flips / 10, "{refusals} of {flips} flips were noticed");
}

/// After a crash damage to what was written last looks like a write that was cut off, so an older version may
/// be what is found; but it is one that was.
#[test]
fn a_flipped_bit_in_a_store_that_was_not_closed_is_never_wrong_data() {
    let disk = FaultDisk::with_bytes(prepared().0);
    let state = open(&disk).unwrap();
    let tables = Tables::open(&state).unwrap();
    // The last thing synced is a group, in the middle of a checkpoint.
    let newest = Version::from_u64(6);
    while state.version() < newest {
        let version = commit_next(&state, &tables).unwrap();
        state.wait_durable(version).unwrap();
    }
    let good = disk.bytes();
    let blocks = (0..good.len() - 4).filter(|at| &good[*at..at + 4] == b"PHXS").map(|at| at + 20);
    let heads = (0..good.len()).step_by(4096).filter(|page| good[*page] != 0);
    let places = blocks.chain(heads.flat_map(|page| [page, page + 2])).chain(64..320);
    let (mut refused, mut older) = (0, 0);
    for place in places {
        let mut bad = good.clone();
        bad[place] ^= 1;
        let disk = FaultDisk::with_bytes(bad);
        match open(&disk) {
            Ok(state) => {
                assert!(state.recovery().repaired);
                older += u32::from(check(&state, Version::ZERO, newest) < newest);
            }
            Err(error) => {
                let kind = error.kind();
                assert!(
                    matches!(kind, ErrorKind::Corrupt | ErrorKind::UnsupportedVersion),
                    "{place}: {error:?}"
                );
                assert_eq!(disk.calls(), 0, "{place}: a refused open changed the disk: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && older > 0, "{refused} refused, {older} older");
}

/// Where the engine says what a page is and how many rows it has: without a look at its checksums a row at
/// the end could go missing unseen.
#[test]
fn a_flipped_bit_in_the_head_of_any_page_is_refused_or_does_no_harm() {
    let good = closed();
    let mut refusals = 0;
    for page in (0..good.len()).step_by(4096).filter(|page| good[*page] != 0) {
        for bit in [0, 1, 16, 17, 18, 24, 32] {
            let mut bad = good.clone();
            bad[page + bit / 8] ^= 1 << (bit % 8);
            refusals += u32::from(refuses_or_is_right(bad, &format!("bit {bit} at {page}")));
        }
    }
    assert!(refusals > 0);
}

#[test]
fn a_flipped_bit_in_any_block_in_use_is_refused() {
    let good = closed();
    let state = open(&FaultDisk::with_bytes(good.clone())).unwrap();
    let blocks = 2 + state.recovery().groups;
    drop(state);
    let starts: Vec<_> = (0..good.len() - 4).filter(|at| &good[*at..at + 4] == b"PHXS").collect();
    let mut noticed = 0;
    for start in starts {
        // Past the head, in the payload.
        let mut bad = good.clone();
        bad[start + 20] ^= 0x10;
        noticed += u64::from(refuses_or_is_right(bad, "a block"));
    }
    assert!(noticed >= blocks, "{noticed} of {blocks} blocks in use are verified");
}

#[test]
fn a_group_is_one_sync_and_many_commits_are_one_group() {
    let disk = FaultDisk::new();
    let state = open(&disk).unwrap();
    let tables = Tables::open(&state).unwrap();
    commit_next(&state, &tables).unwrap();
    state.flush().unwrap();
    let before = state.stats();
    commit_next(&state, &tables).unwrap();
    let version = commit_next(&state, &tables).unwrap();
    state.wait_durable(version).unwrap();
    let after = state.stats();
    assert_eq!((after.groups - before.groups, after.syncs - before.syncs), (1, 1));
    assert!(after.bytes_written > before.bytes_written);
    assert_eq!((after.pending_commits, after.pending_bytes, after.waiters), (0, 0, 0));
    assert_eq!(disk.unsynced(), 0);
}
