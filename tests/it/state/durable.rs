//! What survives the process, on the default codec.

use std::path::Path;

use phalanx::ErrorKind;
use phalanx::state::{StateManager, Version};

fn open(folder: &Path) -> StateManager {
    StateManager::builder().path(folder).open().unwrap()
}

#[test]
fn what_was_acknowledged_is_there_again_and_versions_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let state = open(folder.path());
    assert!(state.recovery().created && state.is_durable());
    let rows = state.collection::<u32, String>("rows").unwrap();
    let other = state.collection::<String, u64>("other").unwrap();
    for i in 0..100 {
        rows.insert(i, format!("row {i}")).unwrap();
    }
    rows.remove(&3).unwrap();
    let version = other.insert("x".into(), 9).unwrap();
    assert_eq!(state.durable_version(), Version::ZERO);
    assert_eq!(state.stats().pending_commits, 102);
    state.wait_durable(version).unwrap();
    assert_eq!(state.durable_version(), version);
    assert_eq!(state.stats().groups, 1, "all of them in one group");
    drop((state, rows, other));

    let state = open(folder.path());
    let report = state.recovery();
    assert!(!report.created);
    assert_eq!((report.version, report.commits, report.groups), (version, 102, 1));
    assert_eq!(report.collections, [("other".into(), 1), ("rows".into(), 99)]);
    let before = state.snapshot();
    let rows = state.collection::<u32, String>("rows").unwrap();
    assert_eq!((rows.len(), rows.get(&3), rows.get(&99)), (99, None, Some("row 99".into())));
    assert_eq!(rows.insert(3, "again".into()).unwrap(), version_after(version));
    assert_eq!(before.get(&rows, &99), Some("row 99".into()), "opened after the snapshot");
    assert_eq!(before.get(&rows, &3), None);
    assert_eq!(before.total_len(), 100);
}

fn version_after(version: Version) -> Version {
    Version::from_u64(version.as_u64() + 1)
}

#[test]
fn what_nobody_waited_for_is_lost_by_a_drop_and_kept_by_a_close() {
    let folder = tempfile::tempdir().unwrap();
    let state = open(folder.path());
    let rows = state.collection::<u32, u32>("rows").unwrap();
    rows.insert(1, 1).unwrap();
    state.flush().unwrap();
    rows.insert(2, 2).unwrap();
    drop((state, rows));
    let state = open(folder.path());
    let rows = state.collection::<u32, u32>("rows").unwrap();
    assert_eq!((rows.get(&1), rows.get(&2)), (Some(1), None));
    rows.insert(3, 3).unwrap();
    state.close().unwrap();
    assert_eq!(rows.insert(4, 4).unwrap_err().kind(), ErrorKind::Closed);
    state.wait_durable(state.version()).unwrap();

    // The handles are still there; the folder is free even so.
    let again = open(folder.path());
    assert_eq!(again.collection::<u32, u32>("rows").unwrap().get(&3), Some(3));
    assert_eq!(rows.get(&3), Some(3));
}

#[test]
fn a_folder_has_one_holder() {
    let folder = tempfile::tempdir().unwrap();
    let state = open(folder.path());
    let error = StateManager::builder().path(folder.path()).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    drop(state);
    open(folder.path());
}
