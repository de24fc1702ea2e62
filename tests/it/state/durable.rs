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

#[test]
fn tasks_and_threads_that_wait_at_once_are_all_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let state = open(folder.path());
    let rows = state.collection::<u64, u64>("rows").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let (state, rows) = (state.clone(), rows.clone());
            runtime.spawn(async move {
                for step in 0..5 {
                    let version = rows.insert(task * 100 + step, step).unwrap();
                    // A wait that is given up changes nothing for the others.
                    drop(state.wait_durable_async(version));
                    state.wait_durable_async(version).await.unwrap();
                    assert!(state.durable_version() >= version);
                }
            })
        })
        .collect();
    for step in 0..5 {
        let version = rows.insert(1000 + step, step).unwrap();
        state.wait_durable(version).unwrap();
    }
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    let stats = state.stats();
    assert_eq!((stats.commits, stats.pending_commits, stats.waiters), (45, 0, 0));
    assert!(stats.groups <= 45);
    drop((state, rows, runtime));
    assert_eq!(open(folder.path()).recovery().version, Version::from_u64(45));
}

#[test]
fn waiting_for_what_was_never_committed_is_an_error_and_does_not_hang() {
    let folder = tempfile::tempdir().unwrap();
    let state = open(folder.path());
    let error = state.wait_durable(Version::from_u64(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    state.wait_durable(Version::ZERO).unwrap();
}

#[cfg(feature = "postcard")]
#[test]
fn a_store_that_was_written_with_the_other_codec_says_so_itself() {
    use phalanx::state::Codec;

    let folder = tempfile::tempdir().unwrap();
    let builder = StateManager::builder().path(folder.path()).codec(Codec::Postcard);
    let state = builder.open().unwrap();
    let rows = state.collection::<u64, (String, Vec<u64>)>("rows").unwrap();
    let row = |number: u64| (format!("row {number}"), vec![number << 40, 1, 0]);
    for number in 0..20 {
        rows.insert(number, row(number)).unwrap();
        if number == 9 {
            state.checkpoint().unwrap();
        }
    }
    rows.remove(&3).unwrap();
    state.flush().unwrap();
    drop((state, rows));

    // Whoever opens it does not have to know.
    let state = open(folder.path());
    assert_eq!((state.recovery().checkpoint_rows, state.recovery().commits), (10, 11));
    let error = state.collection::<u64, u64>("rows").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    let rows = state.collection::<u64, (String, Vec<u64>)>("rows").unwrap();
    assert_eq!((rows.len(), rows.get(&3)), (19, None));
    assert!((0..20).filter(|number| *number != 3).all(|n| rows.get(&n) == Some(row(n))));
    state.close().unwrap();
    let other = StateManager::builder().path(folder.path()).codec(Codec::Bincode).open();
    assert_eq!(other.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_folder_is_made_with_all_that_is_missing_above_it() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("one/two/three");
    open(&deep).close().unwrap();
    assert!(!open(&deep).recovery().created);
    std::fs::write(folder.path().join("file"), b"").unwrap();
    let error = StateManager::builder().path(folder.path().join("file/below")).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[test]
fn settings_out_of_range_are_refused_before_a_folder_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let builder = || StateManager::builder().path(&missing);
    for (what, builder) in [
        ("no path", StateManager::builder()),
        ("no bytes", builder().checkpoint_every_bytes(0)),
        ("no commits", builder().checkpoint_every_commits(0)),
        ("steps of nothing", builder().checkpoint_step_bytes(0)),
        ("too large steps", builder().checkpoint_step_bytes((1 << 30) + 1)),
        ("nothing pending", builder().max_pending_bytes(0)),
        ("too much pending", builder().max_pending_bytes(usize::MAX)),
    ] {
        assert_eq!(builder.open().unwrap_err().kind(), ErrorKind::InvalidArgument, "{what}");
    }
    assert!(!missing.exists());
}
