//! A store that a released format wrote is read by every later build.
//!
//! The files in `format-1` were written by the builds before checkpoints were written in steps, those in `format-2`
//! and `format-2-swept` by `write_the_golden_stores` (run it with the variable `PHALANX_WRITE_GOLDEN` set to an empty
//! folder); they are never written again.

use std::fs;
use std::path::Path;

use phalanx::state::{RecoveryReport, StateManager, Version};

use super::stored::{Stored, expect, row};

/// Stores of format 2: with a part of a checkpoint that was not finished, and with some of what a checkpoint has made
/// obsolete and covers.
#[derive(Clone, Copy)]
enum Stopped {
    Unfinished,
    Swept,
}

use Stopped::{Swept, Unfinished};

impl Stopped {
    fn name(self) -> &'static str {
        match self {
            Unfinished => "format-2",
            Swept => "format-2-swept",
        }
    }
}

/// Eight commits, of which a checkpoint covers four, and a part of another one; or one commit more, with which that one
/// was done and not all of what it replaces was removed.
fn write(folder: &Path, stopped: Stopped) {
    let builder = StateManager::builder().path(folder);
    let state = builder.checkpoint_every_bytes(u64::MAX).checkpoint_step_bytes(20).open().unwrap();
    let agents = state.collection::<u64, Stored>("agents").unwrap();
    let leaders = state.collection::<String, u64>("leaders").unwrap();
    for number in 1..=6 {
        let ((), version) = state
            .transaction(|tx| {
                tx.insert(&agents, number, row(number));
                if number > 4 {
                    tx.remove(&agents, &(number - 4));
                }
                tx.insert(&leaders, "north".into(), number);
                Ok(())
            })
            .unwrap();
        state.wait_durable(version).unwrap();
        if number == 4 {
            state.checkpoint().unwrap();
        }
    }
    state.close().unwrap();
    // One that is due with the next commit, of which the group of the last one writes some.
    let builder = StateManager::builder().path(folder).checkpoint_every_commits(3);
    let state = builder.checkpoint_step_bytes(20).open().unwrap();
    let leaders = state.collection::<String, u64>("leaders").unwrap();
    let next =
        |number| state.wait_durable(leaders.insert("north".into(), number).unwrap()).unwrap();
    next(7);
    next(6);
    let stats = state.stats();
    assert!(stats.checkpoint_pending && stats.checkpoint_steps > 0 && stats.checkpoints == 0);
    while matches!(stopped, Swept) && state.stats().checkpoints == 0 {
        next(6);
    }
    assert!(state.stats().checkpoint_pending, "there is something left to remove");
    state.close().unwrap();
}

#[cfg(feature = "postcard")]
#[test]
fn a_store_of_format_1_in_postcard_is_read() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/state/format-1-postcard");
    let folder = tempfile::tempdir().unwrap();
    for name in ["state.header", "state.redb"] {
        fs::copy(golden.join(name), folder.path().join(name)).unwrap();
    }
    let state = StateManager::builder().path(folder.path()).open().unwrap();
    let report = state.recovery();
    assert_eq!(report.version, Version::from_u64(6));
    assert_eq!(report.checkpoint, Some(Version::from_u64(4)));
    assert_eq!((report.checkpoint_rows, report.commits, report.repaired), (5, 2, false));
    expect(&state, 3..=6);
    let leaders = state.collection::<String, u64>("leaders").unwrap();
    state.wait_durable(leaders.insert("south".into(), 1).unwrap()).unwrap();
    assert_eq!(state.checkpoint().unwrap(), Version::from_u64(7));
    state.close().unwrap();
    expect(&StateManager::builder().path(folder.path()).open().unwrap(), 3..=6);
}

/// What an opening of such a store finds.
fn expect_report(report: &RecoveryReport, stopped: Stopped) {
    let v = Version::from_u64;
    match stopped {
        Unfinished => {
            assert_eq!((report.version, report.checkpoint), (v(8), Some(v(4))));
            assert_eq!(report.unfinished_checkpoint, Some(v(7)));
            assert_eq!((report.checkpoint_rows, report.commits), (5, 4));
            assert_eq!((report.groups, report.covered_groups), (4, 0));
        }
        Swept => {
            assert_eq!((report.version, report.checkpoint), (v(9), Some(v(7))));
            assert_eq!(report.unfinished_checkpoint, None);
            assert_eq!((report.checkpoint_rows, report.commits), (5, 2));
            assert_eq!((report.groups, report.covered_groups), (2, 3));
        }
    }
    assert!(!report.repaired);
}

#[test]
fn write_the_golden_stores() {
    let given = std::env::var_os("PHALANX_WRITE_GOLDEN");
    let spare = tempfile::tempdir().unwrap();
    for stopped in [Unfinished, Swept] {
        let folder = given.as_ref().map_or(spare.path(), Path::new).join(stopped.name());
        write(&folder, stopped);
        if given.is_none() {
            // What this build writes is what the golden files hold.
            let state = StateManager::builder().path(&folder).open().unwrap();
            expect_report(&state.recovery(), stopped);
            expect(&state, 3..=6);
        }
    }
}

/// A copy: the engine writes to its file while it is open, and the golden one stays as it is.
fn golden(name: &str) -> tempfile::TempDir {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/state").join(name);
    let folder = tempfile::tempdir().unwrap();
    for name in ["state.header", "state.redb"] {
        fs::copy(golden.join(name), folder.path().join(name)).unwrap();
    }
    folder
}

#[test]
fn a_store_of_format_2_is_read() {
    for stopped in [Unfinished, Swept] {
        let folder = golden(stopped.name());
        let state = StateManager::builder().path(folder.path()).open().unwrap();
        expect_report(&state.recovery(), stopped);
        expect(&state, 3..=6);
        assert_eq!(state.checkpoint().unwrap(), state.version());
        state.close().unwrap();
        let state = StateManager::builder().path(folder.path()).open().unwrap();
        expect(&state, 3..=6);
        let report = state.recovery();
        assert_eq!((report.commits, report.covered_groups), (0, 0));
        assert_eq!(report.unfinished_checkpoint, None);
    }
}

#[test]
fn a_store_of_format_1_is_read() {
    let folder = golden("format-1");
    let state = StateManager::builder().path(folder.path()).open().unwrap();
    let report = state.recovery();
    assert_eq!(report.version, Version::from_u64(6));
    assert_eq!(report.checkpoint, Some(Version::from_u64(4)));
    assert_eq!((report.checkpoint_rows, report.commits, report.repaired), (5, 2, false));
    let snapshot = expect(&state, 3..=6);
    assert_eq!(snapshot.total_len(), 5);
    // And it goes on in it.
    let leaders = state.collection::<String, u64>("leaders").unwrap();
    let version = leaders.insert("south".into(), 1).unwrap();
    assert_eq!(version, Version::from_u64(7));
    state.wait_durable(version).unwrap();
    // From the next checkpoint on in the newer one.
    assert_eq!(state.checkpoint().unwrap(), version);
    state.close().unwrap();
    let state = StateManager::builder().path(folder.path()).open().unwrap();
    assert_eq!((state.recovery().checkpoint, state.recovery().commits), (Some(version), 0));
}
