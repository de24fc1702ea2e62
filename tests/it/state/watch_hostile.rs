//! Watches beside hostile code of the host, restarts, and many threads.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Wake, Waker};
use std::thread;

use phalanx::state::{Collection, FaultDisk, StateManager, Version, Watch, WatchError, WatchEvent};

use super::bomb::{Bomb, goes_off_in};

fn v(number: u64) -> Version {
    Version::from_u64(number)
}

#[derive(Default)]
struct Counted(AtomicU32);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Hostile;

impl Wake for Hostile {
    fn wake(self: Arc<Self>) {
        panic!("a hostile waker");
    }
}

#[test]
fn a_waker_that_panics_is_counted_and_keeps_nobody_from_being_woken() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let woken = Arc::new(Counted::default());
    let (good, bad) = (Waker::from(Arc::clone(&woken)), Waker::from(Arc::new(Hostile)));
    let mut watches: Vec<_> = (0..3).map(|_| rows.watch()).collect();
    for close in [false, true] {
        let waits = watches.iter_mut().map(|watch| Box::pin(watch.recv_async()));
        let mut waits: Vec<_> = waits.collect();
        for (wait, waker) in waits.iter_mut().zip([&bad, &good, &bad]) {
            assert!(wait.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        }
        if close {
            state.close().unwrap();
        } else {
            assert_eq!(rows.insert(1, 1).unwrap(), v(1), "whoever commits is not concerned");
        }
        let count = 1 + u32::from(close);
        assert_eq!(woken.0.load(Ordering::SeqCst), count);
        assert_eq!(state.stats().caught_panics, 2 * u64::from(count));
        for wait in &mut waits {
            assert!(wait.as_mut().poll(&mut Context::from_waker(&good)).is_ready());
        }
    }
}

/// Reads, watches and commits where it is woken.
struct Busy(StateManager, Collection<u32, u32>);

impl Wake for Busy {
    fn wake(self: Arc<Self>) {
        let version = self.0.version();
        assert_eq!(self.1.get(&1), Some(1));
        assert!(self.1.watch().try_recv().is_err());
        assert!(self.1.insert(2, 2).unwrap() > version);
    }
}

#[test]
fn a_waker_may_read_watch_and_commit() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let waker = Waker::from(Arc::new(Busy(state.clone(), rows.clone())));
    let mut watch = rows.watch();
    {
        let mut wait = Box::pin(watch.recv_async());
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(rows.insert(1, 1).unwrap(), v(1));
    }
    assert_eq!((state.version(), state.stats().caught_panics), (v(2), 0));
    assert!(watch.try_recv().is_ok() && watch.try_recv().is_ok() && watch.try_recv().is_err());
}

#[test]
fn a_condition_that_panics_keeps_the_watch_before_that_commit() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let mut watch = rows.watch_where(|key| {
        assert!(*key != 2, "a hostile condition");
        true
    });
    for key in 1..=3 {
        rows.insert(key, 0).unwrap();
    }
    assert!(watch.try_recv().is_ok());
    for _ in 0..2 {
        assert!(catch_unwind(AssertUnwindSafe(|| watch.try_recv())).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| watch.recv())).is_err());
        assert_eq!(watch.version(), v(1));
    }
    watch.seek(v(2));
    let Ok(WatchEvent::Changed(changes)) = watch.recv() else { panic!("there is one more") };
    assert_eq!((changes.version(), changes.rows()[0].key), (v(3), 3));
}

#[test]
fn a_condition_may_read_and_commit() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let other = state.collection::<u32, u32>("other").unwrap();
    let inner = (rows.clone(), other.clone());
    let mut watch = rows.watch_where(move |key| {
        inner.1.insert(*key, inner.0.len() as u32).unwrap();
        true
    });
    rows.insert(5, 5).unwrap();
    assert!(watch.try_recv().is_ok());
    assert_eq!(other.get(&5), Some(1));
}

#[test]
fn a_value_that_panics_as_it_leaves_the_log_is_counted_and_ends_no_commit() {
    let state = StateManager::builder().in_memory().change_log_commits(1).open().unwrap();
    let rows = state.collection::<u32, Bomb>("rows").unwrap();
    let watch = rows.watch();
    rows.insert(1, Bomb(true)).unwrap();
    rows.insert(1, Bomb(false)).unwrap();
    let version = goes_off_in(&state, "the log", || rows.insert(2, Bomb(false)).unwrap());
    assert_eq!(version, v(3));
    drop(watch);
}

fn open(disk: &FaultDisk) -> (StateManager, Collection<u32, u32>) {
    let state = StateManager::builder().fault_disk(disk).open().expect("the disk is sound");
    let rows = state.collection("rows").unwrap();
    (state, rows)
}

#[track_caller]
fn is_resync<E>(watch: &mut Watch<E>, version: u64) {
    let told = watch.try_recv();
    let told = told.map(|event| match event {
        WatchEvent::Resync { version } => Some(version),
        WatchEvent::Changed(_) => None,
    });
    assert_eq!(told, Ok(Some(v(version))));
}

#[test]
fn a_watch_across_a_restart_goes_on_from_what_was_recovered_or_starts_over() {
    let disk = FaultDisk::new();
    let (state, rows) = open(&disk);
    let mut watch = rows.watch();
    for value in 0..3 {
        rows.insert(1, value).unwrap();
    }
    state.flush().unwrap();
    assert_eq!(state.durable_version(), v(3));
    // Seen, and lost: it is not waited for.
    rows.insert(1, 3).unwrap();
    for _ in 0..4 {
        assert!(watch.try_recv().is_ok());
    }
    let seen = watch.version();
    drop((state, rows));
    assert_eq!(watch.recv().unwrap_err(), WatchError::Closed);

    let (state, rows) = open(&disk);
    assert_eq!((state.version(), seen), (v(3), v(4)));
    let mut lost = rows.watch().from_version(seen);
    let mut behind = state.watch_from(v(2));
    let mut exact = rows.watch().from_version(v(3));
    rows.insert(1, 30).unwrap();
    rows.insert(1, 40).unwrap();
    is_resync(&mut lost, 5);
    is_resync(&mut behind, 5);
    let Ok(WatchEvent::Changed(changes)) = exact.try_recv() else { panic!("nothing is missing") };
    assert_eq!(changes.version(), v(4));
    assert_eq!(changes.rows()[0].old.as_deref(), Some(&2), "a row that was recovered");
    state.close().unwrap();
}

#[test]
fn a_version_that_was_lost_and_given_again_is_not_taken_for_the_one_that_was_seen() {
    let disk = FaultDisk::new();
    let (state, rows) = open(&disk);
    let mut watch = rows.watch();
    rows.insert(1, 1).unwrap();
    state.flush().unwrap();
    let durable = watch.position();
    // Seen, and lost: they are not waited for.
    for value in 2..5 {
        rows.insert(1, value).unwrap();
        while watch.try_recv().is_ok() {}
    }
    let seen = watch.position();
    assert_eq!((durable.version(), seen.version()), (v(0), v(4)));
    drop((state, rows, watch));

    for watched_from in 1..6 {
        let disk = FaultDisk::with_bytes(disk.bytes());
        let (state, rows) = open(&disk);
        assert_eq!(state.version(), v(1));
        let mut first = None;
        for version in 2..7 {
            // As of when the log knows everything.
            if version == watched_from + 1 {
                first = Some(state.watch());
            }
            rows.insert(1, version * 10).unwrap();
        }
        let written = serde_json::to_string(&seen).unwrap();
        let read = serde_json::from_str(&written).unwrap();
        let mut back = rows.watch().from_position(read);
        assert_eq!(back.position(), seen, "it was not told yet");
        let mut again = rows.watch().from_position(back.position());
        is_resync(&mut back, 6);
        is_resync(&mut again, 6);
        let mut from_durable = rows.watch().from_position(durable);
        is_resync(&mut from_durable, 6);
        // Told once, it is of this opening.
        let here = back.position();
        rows.insert(1, 1).unwrap();
        let mut here = rows.watch().from_position(here);
        for mut watch in [back, here.clone()] {
            let Ok(WatchEvent::Changed(changes)) = watch.try_recv() else {
                panic!("nothing is missing")
            };
            assert_eq!(changes.version(), v(7));
        }
        here.seek(v(9));
        let beyond = here.position();
        for value in 0..3 {
            rows.insert(1, value).unwrap();
        }
        is_resync(&mut rows.watch().from_position(beyond), 10);
        is_resync(&mut here, 10);
        drop(first);
        state.close().unwrap();
    }
}

#[test]
fn a_watch_does_not_hold_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateManager::builder().path(folder.path()).open().unwrap();
    let mut watch = state.watch();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    rows.insert(1, 1).unwrap();
    drop((rows, state));
    let again = StateManager::builder().path(folder.path()).open();
    assert!(again.is_ok(), "{again:?}");
    assert!(matches!(watch.recv(), Ok(WatchEvent::Changed(_))));
    assert_eq!(watch.recv().unwrap_err(), WatchError::Closed);
}

const WRITERS: u32 = 3;
const WRITES: u32 = 400;

/// Copies a collection as it is told, until the end; returns the copy and how often it started over.
fn copy(
    mut watch: Watch<phalanx::state::Changes<u32, u32>>,
    snapshot: impl Fn() -> (Version, BTreeMap<u32, u32>),
) -> (BTreeMap<u32, u32>, u32) {
    let (mut rows, mut resyncs, mut last) = (BTreeMap::new(), 0, watch.version());
    loop {
        match watch.recv() {
            Ok(WatchEvent::Changed(changes)) => {
                assert!(changes.version() > last, "{} after {last}", changes.version());
                last = changes.version();
                for change in &changes {
                    let old = match change.new.as_deref() {
                        Some(value) => rows.insert(change.key, *value),
                        None => rows.remove(&change.key),
                    };
                    assert_eq!(old, change.old.as_deref().copied(), "at {last}");
                }
            }
            Ok(WatchEvent::Resync { version }) => {
                assert!(version > last, "{version} after {last}");
                let (at, now) = snapshot();
                assert!(at >= version, "a snapshot of {at} after a resync at {version}");
                watch.seek(at);
                (rows, last) = (now, at);
                resyncs += 1;
            }
            Err(_) => return (rows, resyncs),
        }
    }
}

#[test]
fn copies_made_of_what_many_threads_commit_end_as_what_they_are_copies_of() {
    for commits in [3, 100_000] {
        let builder = StateManager::builder().in_memory().change_log_commits(commits);
        let state = builder.open().unwrap();
        let rows = state.collection::<u32, u32>("rows").unwrap();
        thread::scope(|scope| {
            let copies: Vec<_> = (0..2)
                .map(|_| {
                    let (watch, state, rows) = (rows.watch(), &state, &rows);
                    scope.spawn(move || {
                        copy(watch, || {
                            let now = state.snapshot();
                            (now.version(), now.iter(rows).map(|(k, v)| (*k, *v)).collect())
                        })
                    })
                })
                .collect();
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let rows = &rows;
                    scope.spawn(move || {
                        for step in 0..WRITES {
                            let key = (step * 7 + writer) % 11;
                            rows.update(&key, |old| match old {
                                Some(value) if value % 3 == 0 => None,
                                other => Some(other.copied().unwrap_or(0) + 1),
                            })
                            .unwrap();
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.join().unwrap();
            }
            state.close().unwrap();
            let end = state.snapshot();
            let end: BTreeMap<u32, u32> = end.iter(&rows).map(|(k, v)| (*k, *v)).collect();
            for copied in copies {
                let (copy, resyncs) = copied.join().unwrap();
                assert_eq!(copy, end);
                assert!(commits == 3 || resyncs == 0, "the log holds all of it");
            }
        });
    }
}
