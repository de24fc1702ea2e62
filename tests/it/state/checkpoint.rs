//! Checkpoints are written beside the groups: they hold nobody up, and count only once they are whole.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::thread;

use phalanx::ErrorKind;
use phalanx::state::{Collection, Fault, FaultDisk, StateBuilder, StateManager, Version};

use super::hostile::{Gate, Gated};
use super::script::{Tables, check, commit_next, model_at};

/// Each row is larger, so that a step writes one.
const STEP_BYTES: usize = 1;

fn builder(disk: &FaultDisk) -> StateBuilder {
    StateManager::builder().fault_disk(disk).checkpoint_step_bytes(STEP_BYTES)
}

/// So many commits of the script, each durable.
fn commits(state: &StateManager, number: u64) -> Version {
    let tables = Tables::open(state).unwrap();
    for _ in 0..number {
        let version = commit_next(state, &tables).unwrap();
        state.wait_durable(version).unwrap();
    }
    state.version()
}

/// A state of one row that stops who encodes it.
fn gated(disk: &FaultDisk) -> (StateManager, Collection<u32, Gated>, Arc<Gate>, Ends) {
    let state = builder(disk).open().unwrap();
    let rows = state.collection::<u32, Gated>("rows").unwrap();
    let (gate, has_entered, leave) = Gate::open();
    rows.insert(1, Gated { gate: Some(Arc::clone(&gate)) }).unwrap();
    state.flush().unwrap();
    gate.shut.store(true, Ordering::SeqCst);
    (state, rows, gate, (has_entered, leave))
}

type Ends = (std::sync::mpsc::Receiver<()>, std::sync::mpsc::Sender<()>);

#[test]
fn a_wait_for_durability_during_a_checkpoint_needs_the_sync_of_its_own_group_alone() {
    let disk = FaultDisk::new();
    let (state, rows, gate, (has_entered, leave)) = gated(&disk);
    // The first part is encoded by who leads the group before it, the second in a later step.
    gate.shut.store(false, Ordering::SeqCst);
    rows.insert(2, Gated { gate: Some(Arc::clone(&gate)) }).unwrap();
    gate.shut.store(true, Ordering::SeqCst);
    let mut counted = Vec::new();
    thread::scope(|scope| {
        // Where something fails it goes, which lets whoever encodes go on.
        let leave = leave;
        let checkpoint = scope.spawn(|| state.checkpoint());
        for part in 0..2 {
            has_entered.recv().unwrap();
            gate.shut.store(part == 0, Ordering::SeqCst);
            // It encodes, and goes on to do so while others commit and wait.
            for key in 3..6 {
                let before = state.stats();
                let version = rows.insert(key, Gated { gate: None }).unwrap();
                // One look: it leads, or it would have to wait for somebody.
                let mut wait = pin!(state.wait_durable_async(version));
                let looked = wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                let survivor = disk.after_power_loss(|_, _| 0);
                counted.push((version, looked, before, state.stats(), survivor));
            }
            leave.send(()).unwrap();
        }
        assert_eq!(checkpoint.join().expect("it does not panic").unwrap(), Version::from_u64(2));
    });
    for (version, looked, before, after, survivor) in counted {
        assert!(matches!(looked, Poll::Ready(Ok(()))), "{version}: {looked:?}");
        assert_eq!((after.groups - before.groups, after.syncs - before.syncs), (1, 1));
        assert!(after.checkpoint_pending && after.checkpoints == 0, "{after:?}");
        assert_eq!(builder(&survivor).open().unwrap().version(), version);
    }
    assert_eq!(state.stats().checkpoints, 1);
    drop((state, rows));
    let state = builder(&disk).open().unwrap();
    let report = state.recovery();
    assert_eq!(report.checkpoint, Some(Version::from_u64(2)));
    assert_eq!((report.groups, report.checkpoint_rows, report.covered_groups), (6, 2, 0));
}

#[test]
fn who_waits_does_one_step_of_a_checkpoint_after_each_small_group_and_no_sync_for_it() {
    let disk = FaultDisk::new();
    let steps = StateManager::builder().fault_disk(&disk).checkpoint_step_bytes(1000);
    let state = steps.checkpoint_every_commits(24).open().unwrap();
    let rows = state.collection::<u32, Vec<u8>>("rows").unwrap();
    for key in 0..6 {
        rows.insert(key, vec![key as u8; 1000]).unwrap();
    }
    // A group of these has less than a third of a step.
    let counts = state.collection::<u32, u32>("counts").unwrap();
    let count = || state.wait_durable(counts.insert(1, 1).unwrap()).unwrap();
    count();
    assert_eq!((state.stats().checkpoint_steps, state.stats().checkpoint_pending), (0, false));
    for group in 1..=120 {
        let before = state.stats();
        count();
        let after = state.stats();
        // The step that makes it valid is synced as well, and may have fewer bytes than the group.
        let valid = after.checkpoints - before.checkpoints;
        let steps = after.checkpoint_steps - before.checkpoint_steps;
        assert!(steps <= 1 + valid, "group {group}: {steps} steps");
        assert_eq!(after.syncs - before.syncs, 1 + valid, "group {group}");
    }
    // A row a step, and as many to remove.
    let stats = state.stats();
    assert!((3..8).contains(&stats.checkpoints) && stats.checkpoint_steps > 30, "{stats:?}");
    let again = builder(&disk.after_power_loss(|_, _| 0)).open().unwrap();
    assert_eq!(again.version(), state.version());
    assert!(again.recovery().checkpoint > Some(Version::from_u64(24)));
}

#[test]
fn what_a_recovery_finds_stays_bounded_under_groups_larger_than_a_step() {
    const STEP: usize = 4 << 10;
    const GROUP: usize = 4 * STEP;
    const STATE: usize = 4 * GROUP;
    let disk = FaultDisk::new();
    let builder = || StateManager::builder().fault_disk(&disk).checkpoint_step_bytes(STEP);
    let state = builder().checkpoint_every_bytes(STATE as u64).open().unwrap();
    let rows = state.collection::<u32, Vec<u8>>("rows").unwrap();
    let mut most = 0;
    for number in 0..400u32 {
        // A quarter of the state.
        let ((), version) = state
            .transaction(|tx| {
                for key in 0..8 {
                    let key = (number % 4) * 8 + key;
                    tx.insert(&rows, key, vec![number as u8; GROUP / 8]);
                }
                Ok(())
            })
            .unwrap();
        state.wait_durable(version).unwrap();
        if number % 16 == 15 {
            let survivor = disk.after_power_loss(|_, _| 0);
            let survivor = StateManager::builder().fault_disk(&survivor).open().unwrap();
            assert_eq!(survivor.version(), version);
            let report = survivor.recovery();
            most = most.max(report.groups + report.covered_groups);
        }
    }
    assert!(state.stats().checkpoints > 50, "{:?}", state.stats());
    // Four until one is due, a few more until it is valid, and those that the one before covers.
    assert!(most <= 12, "{most} groups");
}

#[test]
fn maintain_goes_on_with_a_checkpoint_where_no_groups_come() {
    let disk = FaultDisk::new();
    let state = builder(&disk).checkpoint_every_commits(4).open().unwrap();
    commits(&state, 4);
    let before = state.stats();
    assert!(before.checkpoint_pending && before.checkpoints == 0);
    assert_eq!(before.checkpoint_snapshot, Some(state.version()), "it rests, and holds its image");
    let mut steps = 0;
    loop {
        let done = state.maintain();
        steps += done.checkpoint_advances;
        if !done.checkpoint_more {
            break;
        }
        assert!(done.checkpoint_advances > 0, "nobody else has it");
    }
    let after = state.stats();
    assert_eq!((after.checkpoints, after.syncs - before.syncs), (1, 1));
    assert_eq!((after.checkpoint_pending, after.checkpoint_snapshot), (false, None));
    assert!(steps as u64 > after.checkpoint_steps, "{steps} with those that encode");
    assert_eq!(state.maintain().checkpoint_advances, 0);
    state.close().unwrap();
    let again = builder(&disk).open().unwrap();
    let report = again.recovery();
    assert_eq!(report.checkpoint, Some(Version::from_u64(4)));
    assert_eq!((report.commits, report.covered_groups, report.unfinished_checkpoint), (0, 0, None));
}

/// Stops in the middle of a checkpoint of version 8, of which some is on the disk: the next group is small.
fn unfinished(disk: &FaultDisk) -> Version {
    let state = builder(disk).checkpoint_every_commits(8).open().unwrap();
    let last = commits(&state, 9);
    assert!(state.stats().checkpoint_steps > 0 && state.stats().checkpoints == 0);
    state.close().unwrap();
    last
}

#[test]
fn an_unfinished_checkpoint_is_reported_and_ignored_and_removed_before_the_next() {
    let disk = FaultDisk::new();
    let last = unfinished(&disk);
    for _ in 0..2 {
        // Without commits it stays.
        let state = builder(&disk).open().unwrap();
        check(&state, last, last);
        let report = state.recovery();
        assert_eq!(report.unfinished_checkpoint, Some(Version::from_u64(8)));
        assert_eq!((report.checkpoint, report.groups, report.covered_groups), (None, 9, 0));
        assert!(state.stats().checkpoint_pending);
        state.close().unwrap();
    }
    let state = builder(&disk).open().unwrap();
    // Of the same version as its own, so that what was left would be taken for a part of it.
    let next = commits(&state, 1);
    assert_eq!(state.checkpoint().unwrap(), next);
    state.close().unwrap();
    let state = builder(&disk).open().unwrap();
    check(&state, next, next);
    let report = state.recovery();
    assert_eq!((report.checkpoint, report.unfinished_checkpoint), (Some(next), None));
    assert_eq!((report.groups, report.covered_groups), (0, 0));
}

#[test]
fn groups_that_a_checkpoint_covers_are_passed_over_until_they_are_removed() {
    let disk = FaultDisk::new();
    let state = builder(&disk).checkpoint_every_commits(4).open().unwrap();
    let tables = Tables::open(&state).unwrap();
    while state.stats().checkpoints == 0 {
        let version = commit_next(&state, &tables).unwrap();
        state.wait_durable(version).unwrap();
    }
    let last = state.version();
    let wreck = disk.after_power_loss(|_, _| 0);
    drop((state, tables));
    let state = builder(&wreck).open().unwrap();
    check(&state, last, last);
    let report = state.recovery();
    assert_eq!((report.checkpoint, report.covered_groups), (Some(Version::from_u64(4)), 4));
    assert_eq!(report.groups, last.as_u64() - 4);
    while state.maintain().checkpoint_more {}
    assert!(!state.stats().checkpoint_pending, "nobody else has it");
    state.close().unwrap();
    let state = builder(&wreck).open().unwrap();
    check(&state, last, last);
    assert_eq!((state.recovery().covered_groups, state.recovery().groups), (0, report.groups));
}

#[test]
fn rows_that_nobody_has_opened_are_carried_along_part_by_part() {
    let disk = FaultDisk::new();
    let state = builder(&disk).open().unwrap();
    commits(&state, 12);
    state.checkpoint().unwrap();
    // Over what the checkpoint has, and beside it.
    let last = commits(&state, 5);
    state.close().unwrap();
    let state = builder(&disk).open().unwrap();
    let other = state.collection::<u32, u32>("other").unwrap();
    let next = other.insert(1, 1).unwrap();
    assert_eq!(state.checkpoint().unwrap(), next);
    assert!(state.stats().checkpoint_steps > 5);
    state.close().unwrap();
    let state = builder(&disk).open().unwrap();
    assert_eq!((state.recovery().checkpoint, state.recovery().commits), (Some(next), 0));
    let tables = Tables::open(&state).unwrap();
    assert_eq!(tables.read(&state.snapshot()), model_at(last));
}

#[test]
fn a_store_that_failed_in_the_middle_of_a_checkpoint_has_no_steps_left_to_do() {
    let disk = FaultDisk::new();
    let state = builder(&disk).checkpoint_every_commits(4).open().unwrap();
    let tables = Tables::open(&state).unwrap();
    commits(&state, 5);
    assert!(state.stats().checkpoint_pending);
    let version = commit_next(&state, &tables).unwrap();
    disk.fail_at(disk.calls() + 1, Fault::Io);
    assert_eq!(state.wait_durable(version).unwrap_err().kind(), ErrorKind::Poisoned);
    // A host that calls it until nothing is left would never end.
    let done = state.maintain();
    assert_eq!((done.checkpoint_advances, done.checkpoint_more), (0, false));
}

#[test]
fn a_close_in_the_middle_of_a_checkpoint_ends_it() {
    let disk = FaultDisk::new();
    let (state, rows, _gate, (has_entered, leave)) = gated(&disk);
    thread::scope(|scope| {
        // Where something fails it goes, which lets whoever encodes go on.
        let leave = leave;
        let checkpoint = scope.spawn(|| state.checkpoint());
        has_entered.recv().unwrap();
        rows.insert(2, Gated { gate: None }).unwrap();
        state.close().expect("it waits for nobody who encodes");
        leave.send(()).unwrap();
        let ended = checkpoint.join().expect("it does not panic").unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::Closed);
    });
    assert!(!state.stats().checkpoint_pending);
    let again = builder(&disk).open().unwrap();
    assert_eq!((again.version(), again.recovery().checkpoint), (Version::from_u64(2), None));
}

#[test]
fn a_checkpoint_that_is_asked_for_during_another_one_is_of_all_that_was_committed_before() {
    let disk = FaultDisk::new();
    let (state, rows, _gate, (has_entered, leave)) = gated(&disk);
    thread::scope(|scope| {
        // Where something fails it goes, which lets whoever encodes go on.
        let leave = leave;
        let first = scope.spawn(|| state.checkpoint());
        has_entered.recv().unwrap();
        // A host that calls it until nothing is left does not spin while another one encodes.
        let done = state.maintain();
        assert_eq!((done.checkpoint_advances, done.checkpoint_more), (0, false));
        assert_eq!(state.stats().checkpoint_snapshot, Some(state.version()));
        let version = rows.insert(2, Gated { gate: None }).unwrap();
        let second = scope.spawn(|| state.checkpoint());
        let start = std::time::Instant::now();
        while state.durable_version() < version {
            assert!(start.elapsed() < std::time::Duration::from_secs(120), "it is not written");
            thread::yield_now();
        }
        leave.send(()).unwrap();
        // Whatever was valid when it was told so.
        assert!(first.join().expect("it does not panic").unwrap() >= Version::from_u64(1));
        assert_eq!(second.join().expect("it does not panic").unwrap(), version);
    });
    assert_eq!(state.stats().checkpoints, 2);
    assert_eq!(state.checkpoint().unwrap(), state.version(), "there is nothing to do");
    assert_eq!(state.stats().checkpoints, 2);
    state.close().unwrap();
    let again = builder(&disk).open().unwrap();
    assert_eq!(again.recovery().checkpoint, Some(again.version()));
}

#[test]
fn checkpoints_are_done_however_short_the_lives_of_a_process_are() {
    for closes in [true, false] {
        let mut disk = FaultDisk::new();
        let (mut most, mut last) = (0, 0);
        for life in 0..60u32 {
            let steps = StateManager::builder().fault_disk(&disk).checkpoint_step_bytes(1000);
            let state = steps.checkpoint_every_commits(30).open().unwrap();
            let report = state.recovery();
            assert_eq!(report.version.as_u64(), last);
            most = most.max(report.commits + report.covered_groups);
            let rows = state.collection::<u32, Vec<u8>>("rows").unwrap();
            let counts = state.collection::<u32, u32>("counts").unwrap();
            for key in 0..if life == 0 { 20 } else { 0 } {
                rows.insert(key, vec![key as u8; 1000]).unwrap();
            }
            for number in 0..10 {
                state.wait_durable(counts.insert(1, number).unwrap()).unwrap();
            }
            last = state.version().as_u64();
            if closes {
                state.close().unwrap();
            } else {
                disk = disk.after_power_loss(|_, _| 0);
            }
        }
        assert!(last > 600 && most < 150, "{most} of {last} commits");
    }
}
