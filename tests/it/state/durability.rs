//! What each level of durability promises, and what it does not.

use std::error::Error as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Wake, Waker};
use std::thread;

use phalanx::state::{
    Collection, Compression, Durability, Fault, FaultDisk, Import, Snapshot, StateManager,
    Unacknowledged, Version,
};
use phalanx::{Error, ErrorKind};

use super::bomb::{Bomb, on_next_use};

type Rows = Collection<u32, u32>;

const LEVELS: [Durability; 3] = [Durability::Memory, Durability::Buffered, Durability::Synced];

fn v(number: u64) -> Version {
    Version::from_u64(number)
}

fn open(disk: &FaultDisk) -> (StateManager, Rows) {
    let state = StateManager::builder().fault_disk(disk).open().expect("the disk works");
    let rows = state.collection("rows").expect("its types are these");
    (state, rows)
}

/// The rows that a machine finds that loses power now, with nothing of what was not synced.
fn after_a_cut(disk: &FaultDisk) -> Vec<(u32, u32)> {
    let (state, rows) = open(&disk.after_power_loss(|_, _| 0));
    let mut found: Vec<_> = state.snapshot().iter(&rows).map(|(k, v)| (*k, *v)).collect();
    found.sort_unstable();
    found
}

#[test]
fn a_commit_in_memory_is_not_written_until_a_later_one_is() {
    let disk = FaultDisk::new();
    let (state, rows) = open(&disk);
    let calls = disk.calls();
    rows.with_durability(Durability::Memory).insert(1, 1).unwrap();
    let done = state.maintain();
    assert!(!done.written && !done.poisoned, "nobody wants it written");
    assert_eq!((disk.calls(), state.durable_version()), (calls, v(0)));
    assert_eq!(after_a_cut(&disk), []);

    let synced = rows.with_durability(Durability::Synced).insert(2, 2).unwrap();
    assert_eq!((synced, state.durable_version()), (v(2), v(2)));
    assert_eq!(after_a_cut(&disk), [(1, 1), (2, 2)], "what came before is never left out");
}

#[test]
fn each_thing_that_writes_takes_commits_in_memory_along() {
    type Writes = fn(&StateManager, &Rows) -> Result<(), Error>;
    let ways: [(&str, Writes); 6] = [
        ("a flush", |state, _| state.flush().map(drop)),
        ("a wait", |state, _| state.wait_durable(state.version())),
        ("a checkpoint", |state, _| state.checkpoint().map(drop)),
        ("a close", |state, _| state.close()),
        ("a buffered commit", |state, rows| {
            rows.with_durability(Durability::Buffered).insert(9, 9)?;
            state.maintain();
            Ok(())
        }),
        ("pending deltas at their limit", |_, rows| {
            for key in 10..14 {
                rows.with_durability(Durability::Memory).insert(key, key)?;
            }
            Ok(())
        }),
    ];
    for (what, write) in ways {
        let disk = FaultDisk::new();
        let builder = StateManager::builder().fault_disk(&disk).durability(Durability::Memory);
        let state = builder.max_pending_bytes(20).open().unwrap();
        let rows = state.collection("rows").unwrap();
        rows.insert(1, 1).unwrap();
        assert_eq!(after_a_cut(&disk), [], "{what}");
        write(&state, &rows).unwrap();
        assert_eq!(after_a_cut(&disk).first(), Some(&(1, 1)), "{what}");
    }
}

#[test]
fn a_buffered_commit_is_written_by_the_next_maintain_and_not_before() {
    let disk = FaultDisk::new();
    let (state, rows) = open(&disk);
    assert_eq!((state.durability(), rows.durability()), (LEVELS[1], LEVELS[1]));
    let calls = disk.calls();
    rows.insert(1, 1).unwrap();
    rows.with_durability(Durability::Memory).insert(2, 2).unwrap();
    assert_eq!((disk.calls(), after_a_cut(&disk)), (calls, vec![]), "its call does not wait");
    let groups = state.stats().groups;
    assert!(state.maintain().written);
    assert_eq!(after_a_cut(&disk), [(1, 1), (2, 2)]);
    assert_eq!((state.durable_version(), state.stats().groups), (v(2), groups + 1));
    assert!(!state.maintain().written, "there is nothing more");
}

#[test]
fn a_synced_commit_survives_whatever_operation_it_is_of() {
    let disk = FaultDisk::new();
    let (state, plain) = open(&disk);
    let rows = plain.with_durability(Durability::Synced);
    let check = |what: &str, version: Version, expected: &[(u32, u32)]| {
        assert_eq!((state.version(), state.durable_version()), (version, version), "{what}");
        assert_eq!(after_a_cut(&disk), expected, "{what}");
    };
    check("insert", rows.insert(1, 1).unwrap(), &[(1, 1)]);
    check("update", rows.update(&1, |old| old.map(|old| old + 1)).unwrap(), &[(1, 2)]);
    let set = rows.compare_and_set(&1, Some(&2), Some(3)).unwrap();
    check("compare_and_set", set.unwrap(), &[(1, 3)]);
    let snapshot = state.snapshot();
    let set = rows.set_if_unchanged(&snapshot, &1, Some(4)).unwrap();
    check("set_if_unchanged", set.unwrap(), &[(1, 4)]);
    check("insert_new", rows.insert_new(&2, 5).unwrap().unwrap(), &[(1, 4), (2, 5)]);
    let (_, version) = rows.get_or_insert_with(&3, || 6).unwrap();
    check("get_or_insert_with", version, &[(1, 4), (2, 5), (3, 6)]);
    check("remove", rows.remove(&2).unwrap().1, &[(1, 4), (3, 6)]);

    // What it only finds is no commit and waits for nothing.
    plain.insert(4, 4).unwrap();
    let (found, version) = rows.get_or_insert_with(&4, || 7).unwrap();
    assert!(found == 4 && state.durable_version() < version);
    assert!(rows.insert_new(&4, 7).unwrap().is_err());
    assert_eq!(rows.remove(&5).unwrap(), (None, version));
    assert_eq!(after_a_cut(&disk), [(1, 4), (3, 6)]);
}

/// The levels of the store, of the handles that are written through and of those that are only read through, what the
/// closure asks for, and the level that comes of it.
type Case<'a> = (usize, &'a [Option<usize>], &'a [Option<usize>], Option<usize>, usize);

#[test]
fn a_transaction_commits_at_what_it_asks_for_or_the_strongest_level_it_writes_through() {
    let cases: [Case<'_>; 9] = [
        (1, &[None], &[], None, 1),
        (1, &[Some(0)], &[Some(2)], None, 0),
        (1, &[Some(0), None], &[], None, 1),
        (0, &[None, Some(0)], &[], None, 0),
        (0, &[Some(2), Some(1)], &[], None, 2),
        (2, &[Some(0), Some(1)], &[], None, 1),
        (2, &[Some(0), None], &[], None, 2),
        (2, &[Some(2), None], &[], Some(0), 0),
        (0, &[Some(0)], &[], Some(2), 2),
    ];
    for case @ (default, writes, reads, asked, expected) in cases {
        let disk = FaultDisk::new();
        let builder = StateManager::builder().fault_disk(&disk).durability(LEVELS[default]);
        let state = builder.open().unwrap();
        let handle = |number: usize, level: Option<usize>| {
            let names = ["a", "b", "c"];
            let rows: Rows = state.collection(names[number]).expect("its types are these");
            level.map_or(rows.clone(), |level| rows.with_durability(LEVELS[level]))
        };
        let ((), version) = state
            .transaction(|tx| {
                for (number, level) in writes.iter().enumerate() {
                    tx.insert(&handle(number, *level), 1, 1);
                }
                for level in reads {
                    assert_eq!(tx.remove(&handle(2, *level), &1), None);
                }
                if let Some(level) = asked {
                    tx.set_durability(LEVELS[0]);
                    tx.set_durability(LEVELS[level]);
                }
                Ok(())
            })
            .unwrap();
        let synced = state.durable_version() == version;
        let level = if synced { 2 } else { usize::from(state.maintain().written) };
        assert_eq!(level, expected, "{case:?}");
    }
}

#[test]
fn a_synced_commit_that_cannot_be_written_says_that_it_took_place() {
    for fault in [Fault::Io, Fault::NoSpace] {
        let disk = FaultDisk::new();
        let (state, rows) = open(&disk);
        let rows = rows.with_durability(Durability::Synced);
        rows.insert(1, 1).unwrap();
        disk.fail_at(disk.calls() + 1, fault);
        let error = rows.insert(2, 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned);
        let message = error.to_string();
        for says in ["v2", "visible in memory", "not acknowledged", "is open"] {
            assert!(message.contains(says), "{message}");
        }
        let source = error.source().and_then(|source| source.downcast_ref());
        assert!(matches!(source, Some(Unacknowledged { version, .. }) if *version == v(2)));
        assert_eq!((rows.get(&2), state.durable_version()), (Some(2), v(1)));

        // What comes after it did not take place.
        let error = rows.insert(3, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned);
        assert!(error.source().is_none(), "{error:?}");
        assert_eq!((rows.get(&3), state.version()), (None, v(2)));
        assert_eq!(after_a_cut(&disk), [(1, 1)]);
        assert_eq!(state.close().unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(state.close().unwrap_err().kind(), ErrorKind::Poisoned, "in every call");
    }
}

#[test]
fn a_maintain_that_cannot_write_says_so() {
    let disk = FaultDisk::new();
    let (state, rows) = open(&disk);
    rows.insert(1, 1).unwrap();
    disk.fail_at(disk.calls() + 1, Fault::Io);
    for _ in 0..2 {
        let done = state.maintain();
        assert!(done.poisoned && !done.written);
    }
    assert!(state.stats().poisoned);
    assert_eq!(after_a_cut(&disk), []);
}

/// Notes what was durable when it was woken.
struct Notes(StateManager, AtomicU64);

impl Wake for Notes {
    fn wake(self: Arc<Self>) {
        let behind = self.0.version().as_u64() - self.0.durable_version().as_u64();
        self.1.store(behind, Ordering::SeqCst);
    }
}

#[test]
fn a_synced_commit_is_seen_before_it_is_durable() {
    let (state, rows) = open(&FaultDisk::new());
    let mut watch = rows.watch();
    let notes = Arc::new(Notes(state.clone(), AtomicU64::new(0)));
    let waker = Waker::from(Arc::clone(&notes));
    let mut wait = Box::pin(watch.recv_async());
    assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    rows.with_durability(Durability::Synced).insert(1, 1).unwrap();
    assert_eq!(notes.1.load(Ordering::SeqCst), 1, "one commit was not durable when it was told");
    assert_eq!(state.durable_version(), v(1));
}

#[test]
fn going_back_and_imports_commit_at_the_level_of_the_state() {
    let mut export = Vec::new();
    for level in LEVELS {
        let disk = FaultDisk::new();
        let state = StateManager::builder().fault_disk(&disk).durability(level).open().unwrap();
        let rows: Rows = state.collection("rows").unwrap();
        let empty = state.snapshot();
        rows.with_durability(Durability::Memory).insert(1, 1).unwrap();
        let one = state.snapshot();
        if export.is_empty() {
            one.export_to(&mut export, Compression::None).unwrap();
        }
        let check = |version: Version| {
            let synced = state.durable_version() == version;
            assert_eq!(synced, level == Durability::Synced, "{level:?} at {version}");
            assert_eq!(state.maintain().written, level == Durability::Buffered, "{level:?}");
        };
        check(state.restore(&empty).unwrap());
        check(state.apply(&empty.diff(&one).unwrap()).unwrap());
        state.restore(&empty).unwrap();
        state.maintain();
        check(state.import(&Import::read(export.as_slice()).unwrap()).unwrap());
        assert_eq!(rows.get(&1), Some(1));
    }
}

#[test]
fn going_back_and_imports_commit_at_the_level_that_they_are_told() {
    let mut export = Vec::new();
    for (of_state, level) in LEVELS.into_iter().flat_map(|of| LEVELS.map(|level| (of, level))) {
        let disk = FaultDisk::new();
        let state = StateManager::builder().fault_disk(&disk).durability(of_state).open().unwrap();
        let rows: Rows = state.collection("rows").unwrap();
        let empty = state.snapshot();
        rows.with_durability(Durability::Memory).insert(1, 1).unwrap();
        let one = state.snapshot();
        if export.is_empty() {
            one.export_to(&mut export, Compression::None).unwrap();
        }
        let check = |version: Version| {
            let synced = state.durable_version() == version;
            assert_eq!(synced, level == Durability::Synced, "{of_state:?}, {level:?} at {version}");
            assert_eq!(state.maintain().written, level == Durability::Buffered, "{level:?}");
        };
        check(state.restore_with(&empty, level).unwrap());
        check(state.apply_with(&empty.diff(&one).unwrap(), level).unwrap());
        check(state.restore_with(&empty, level).unwrap());
        check(state.import_with(&Import::read(export.as_slice()).unwrap(), level).unwrap());
        assert_eq!(rows.get(&1), Some(1));
        // Where nothing differs there is no commit, and what is there is durable all the same if that was asked for.
        rows.with_durability(Durability::Memory).insert(1, 2).unwrap();
        let version = state.version();
        let same = state.snapshot();
        assert_eq!(state.restore_with(&same, level).unwrap(), version);
        assert_eq!(state.apply_with(&same.diff(&same).unwrap(), level).unwrap(), version);
        assert_eq!(state.durable_version() == version, level == Durability::Synced, "{level:?}");
    }
    let state = StateManager::in_memory();
    let rows: Rows = state.collection("rows").unwrap();
    let empty = state.snapshot();
    rows.insert(1, 1).unwrap();
    let error = state.restore_with(&empty, Durability::Synced).unwrap_err();
    assert_eq!((error.kind(), rows.get(&1)), (ErrorKind::Unsupported, Some(1)));
}

#[test]
fn without_a_store_every_level_but_memory_is_refused() {
    for level in [Durability::Buffered, Durability::Synced] {
        let builder = StateManager::builder().in_memory().durability(level);
        assert_eq!(builder.open().unwrap_err().kind(), ErrorKind::InvalidArgument);
        let state = StateManager::in_memory();
        let rows: Rows = state.collection("rows").unwrap();
        assert_eq!(rows.durability(), Durability::Memory);
        let error = rows.with_durability(level).insert(1, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let asked = state.transaction(|tx| {
            tx.insert(&rows, 1, 1);
            tx.set_durability(level);
            Ok(())
        });
        assert_eq!(asked.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!((rows.len(), state.version()), (0, v(0)));
    }
    let builder = StateManager::builder().in_memory().durability(Durability::Memory);
    let state = builder.open().unwrap();
    let rows: Rows = state.collection("rows").unwrap();
    rows.with_durability(Durability::Memory).insert(1, 1).unwrap();
    assert!(!state.maintain().written);
}

#[test]
fn synced_commits_of_many_threads_are_all_there() {
    const THREADS: u32 = 4;
    const EACH: u32 = 8;
    let disk = FaultDisk::new();
    let (state, rows) = open(&disk);
    let rows = rows.with_durability(Durability::Synced);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (state, rows) = (&state, &rows);
            scope.spawn(move || {
                for step in 0..EACH {
                    let version = rows.insert(thread * EACH + step, step).expect("the disk works");
                    assert!(state.durable_version() >= version);
                }
            });
        }
    });
    assert_eq!(after_a_cut(&disk).len() as u32, THREADS * EACH);
}

/// Waits until somebody waits for whoever writes.
fn somebody_waits(state: &StateManager) {
    while state.stats().waiters == 0 {
        thread::yield_now();
    }
}

#[test]
fn a_close_refuses_commits_from_its_beginning_and_writes_what_was_there() {
    let disk = FaultDisk::new();
    let (state, rows) = open(&disk);
    rows.insert(0, 0).unwrap();
    disk.hold_at(disk.calls() + 1);
    thread::scope(|scope| {
        let leader = scope.spawn(|| state.flush());
        while !disk.is_held() {
            thread::yield_now();
        }
        // The store is busy, and takes commits all the same.
        let version = rows.with_durability(Durability::Memory).insert(1, 1).unwrap();
        let closing = scope.spawn(|| state.close());
        somebody_waits(&state);
        let refused = rows.insert(2, 2);
        let again = scope.spawn(|| state.close());
        disk.let_go();
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Closed);
        leader.join().unwrap().unwrap();
        closing.join().unwrap().unwrap();
        again.join().unwrap().unwrap();
        assert_eq!(state.durable_version(), version);
    });
    assert_eq!((after_a_cut(&disk), rows.get(&2)), (vec![(0, 0), (1, 1)], None));
}

/// Opens a store in which the call after so many more fails, and every group has a checkpoint.
fn failing(call: u64) -> (FaultDisk, StateManager, Rows) {
    let disk = FaultDisk::new();
    let builder = StateManager::builder().fault_disk(&disk).checkpoint_every_commits(1);
    let state = builder.open().expect("the disk works");
    let rows = state.collection("rows").expect("its types are these");
    disk.fail_at(disk.calls() + call, Fault::Io);
    (disk, state, rows)
}

#[test]
fn a_maintain_says_that_the_store_has_failed_whatever_call_it_failed_in() {
    let mut checkpoints = 0;
    for call in 1..20 {
        let (_disk, state, rows) = failing(call);
        rows.insert(1, 1).unwrap();
        let done = state.maintain();
        assert_eq!(done.poisoned, state.stats().poisoned, "call {call}");
        assert_eq!(done.written, state.durable_version() == v(1), "call {call}");
        checkpoints += u32::from(done.written && done.poisoned);
        let again = state.maintain();
        assert_eq!((again.written, again.poisoned), (false, state.stats().poisoned), "{call}");
    }
    assert!(checkpoints > 0, "a checkpoint failed after its group");

    // Nobody wanted it written, and it failed all the same.
    let (_disk, state, rows) = failing(1);
    rows.with_durability(Durability::Synced).insert(1, 1).unwrap_err();
    for _ in 0..2 {
        assert!(state.maintain().poisoned);
    }
}

#[test]
fn a_synced_commit_ends_well_where_only_the_checkpoint_after_it_fails() {
    let mut checkpoints = 0;
    for call in 1..20 {
        let disk = FaultDisk::new();
        let builder = StateManager::builder().fault_disk(&disk).checkpoint_every_commits(1);
        let state = builder.durability(Durability::Synced).open().unwrap();
        let rows: Rows = state.collection("rows").unwrap();
        // After this one a checkpoint waits for the next group.
        rows.insert(1, 1).unwrap();
        assert!(state.stats().checkpoint_pending);
        disk.fail_at(disk.calls() + call, Fault::Io);
        let ended = rows.insert(2, 2);
        let durable = state.durable_version() == v(2);
        assert_eq!(ended.is_ok(), durable, "call {call}: {ended:?}");
        let unacknowledged = ended.err().as_ref().and_then(Unacknowledged::of);
        assert_eq!(unacknowledged, (!durable).then_some(v(2)), "call {call}");
        if durable && state.stats().poisoned {
            checkpoints += 1;
            assert_eq!(after_a_cut(&disk), [(1, 1), (2, 2)], "call {call}");
            let refused = rows.insert(3, 3).unwrap_err();
            assert_eq!((refused.kind(), Unacknowledged::of(&refused)), (ErrorKind::Poisoned, None));
            assert_eq!((rows.get(&3), state.version()), (None, v(2)), "it never happened");
            assert_eq!(state.close().unwrap_err().kind(), ErrorKind::Poisoned);
        }
    }
    assert!(checkpoints > 0, "a checkpoint failed after its group");
}

#[test]
fn going_back_and_imports_that_cannot_be_written_say_that_they_took_place() {
    type Goes = fn(&StateManager, &Snapshot, &Snapshot, &Import) -> Result<Version, Error>;
    let ways: [(&str, Goes); 3] = [
        ("restore", |state, then, _, _| state.restore(then)),
        ("apply", |state, then, now, _| state.apply(&now.diff(then)?)),
        ("import", |state, _, _, import| state.import(import)),
    ];
    for (what, goes) in ways {
        let disk = FaultDisk::new();
        let builder = StateManager::builder().fault_disk(&disk).durability(Durability::Synced);
        let state = builder.open().unwrap();
        let rows: Rows = state.collection("rows").unwrap();
        rows.insert(1, 1).unwrap();
        let then = state.snapshot();
        let mut export = Vec::new();
        then.export_to(&mut export, Compression::None).unwrap();
        rows.insert(1, 2).unwrap();
        let now = state.snapshot();
        disk.fail_at(disk.calls() + 1, Fault::Io);
        let import = Import::read(export.as_slice()).unwrap();
        let error = goes(&state, &then, &now, &import).unwrap_err();
        assert_eq!(Unacknowledged::of(&error), Some(v(3)), "{what}: {error:?}");
        assert_eq!((rows.get(&1), state.version()), (Some(1), v(3)), "{what}");
        let wrapped = Error::with_source(ErrorKind::Internal, "of the host", error);
        assert_eq!(Unacknowledged::of(&wrapped), Some(v(3)), "{what}");
    }
}

#[test]
fn a_reason_is_told_once_in_each_place_where_somebody_looks_for_it() {
    let (_disk, _state, rows) = failing(1);
    let error = rows.with_durability(Durability::Synced).insert(1, 1).unwrap_err();
    let source = error.source().expect("it took place");
    let reason = source.source().expect("why it could not be written").to_string();
    assert_eq!(error.to_string().matches(&reason).count(), 1, "{error}");
    assert!(!source.to_string().contains(&reason), "{source}");
}

#[test]
fn going_back_makes_room_before_it_is_worked_out() {
    let disk = FaultDisk::new();
    let builder = StateManager::builder().fault_disk(&disk).durability(Durability::Memory);
    let state = builder.max_pending_bytes(1).open().unwrap();
    let rows = state.collection::<u32, Bomb>("rows").unwrap();
    rows.insert(1, Bomb(false)).unwrap();
    let then = state.snapshot();
    rows.insert(1, Bomb(false)).unwrap();
    let full = state.version();
    assert!(state.durable_version() < full, "the last one is pending");
    let durable = Arc::new(OnceLock::new());
    let (seen, looks) = (Arc::clone(&durable), state.clone());
    on_next_use(move || {
        let _ = seen.set(looks.durable_version());
    });
    assert_eq!(state.restore(&then).unwrap(), v(3));
    assert_eq!(durable.get(), Some(&full), "what is encoded without room is thrown away");
}
