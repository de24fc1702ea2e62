//! Values that panic as they are dropped, by whoever happens to be the last to hold them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use phalanx::ErrorKind;
use phalanx::state::{Abort, Collection, Durability, FaultDisk, StateManager};

use super::bomb::{Bomb, arm, goes_off_in, is_armed, on_next_use};

type Rows = Collection<u32, Bomb>;

/// A state whose row 1 goes off as it goes.
fn armed_row() -> (StateManager, Rows) {
    let state = StateManager::builder().fault_disk(&FaultDisk::new()).open().expect("it works");
    let rows: Rows = state.collection("rows").expect("its types are these");
    rows.insert(1, Bomb(true)).expect("it is open");
    (state, rows)
}

/// Replaces row 1.
fn replace(rows: &Rows) {
    rows.insert(1, Bomb(false)).expect("it is open");
}

#[test]
fn a_commit_that_drops_what_it_replaced_is_told_as_a_commit() {
    for level in [Durability::Memory, Durability::Synced] {
        let (state, rows) = armed_row();
        let rows = rows.with_durability(level);
        let version = goes_off_in(&state, "a commit", || rows.insert(1, Bomb(false)).unwrap());
        assert_eq!((version, state.stats().commits), (state.version(), 2));
        assert_eq!(state.durable_version() == version, level == Durability::Synced);
        rows.insert(2, Bomb(false)).unwrap();
        state.close().unwrap();
    }
}

#[test]
fn a_transaction_that_drops_what_others_replaced_ends_as_it_would() {
    let (state, rows) = armed_row();
    let version = goes_off_in(&state, "a commit", || {
        let ((), version) = state
            .transaction(|tx| {
                replace(&rows);
                tx.insert(&rows, 2, Bomb(false));
                Ok(())
            })
            .unwrap();
        version
    });
    assert_eq!((version.as_u64(), rows.len()), (3, 2));

    let (state, rows) = armed_row();
    let error = goes_off_in(&state, "an abort", || {
        let aborted = state.transaction(|_| {
            replace(&rows);
            Err::<(), _>(Abort::new("enough"))
        });
        aborted.unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::Aborted);
}

/// Replaces row 1 of what it is given, once.
struct Replaces(Rows, AtomicBool);

impl Wake for Replaces {
    fn wake(self: Arc<Self>) {
        if !self.1.swap(true, Ordering::SeqCst) {
            replace(&self.0);
        }
    }
}

#[test]
fn a_commit_whose_own_value_is_replaced_before_it_ends_is_told_as_a_commit() {
    let builder = StateManager::builder().fault_disk(&FaultDisk::new()).change_log_commits(0);
    let state = builder.open().unwrap();
    let rows: Rows = state.collection("rows").unwrap();
    let mut watch = rows.watch();
    let waker = Waker::from(Arc::new(Replaces(rows.clone(), AtomicBool::new(false))));
    let mut wait = Box::pin(watch.recv_async());
    assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let rows = rows.with_durability(Durability::Synced);
    let version = goes_off_in(&state, "a commit", || rows.insert(1, Bomb(true)).unwrap());
    assert_eq!((version.as_u64(), state.version().as_u64()), (1, 2));
    assert!(state.durable_version() >= version);
}

#[test]
fn a_reader_that_drops_what_others_replaced_reads_what_it_would() {
    let (state, rows) = armed_row();
    let other = rows.clone();
    on_next_use(move || replace(&other));
    let read = goes_off_in(&state, "a read", || rows.get(&1));
    assert!(read.is_some_and(|bomb| bomb.0), "as it was when it looked");

    let (state, rows) = armed_row();
    let other = rows.clone();
    on_next_use(move || replace(&other));
    let lost = goes_off_in(&state, "a comparison", || rows.insert_new(&1, Bomb(false)).unwrap());
    let lost = lost.expect_err("there is a row");
    assert!(lost.current.as_ref().is_some_and(|bomb| bomb.0));
}

#[test]
fn going_back_drops_what_others_replaced_meanwhile_and_goes_on() {
    let state = StateManager::builder().fault_disk(&FaultDisk::new()).open().unwrap();
    let rows: Rows = state.collection("rows").unwrap();
    rows.insert(2, Bomb(false)).unwrap();
    let before = state.snapshot();
    rows.remove(&2).unwrap();
    rows.insert(1, Bomb(true)).unwrap();
    let other = rows.clone();
    // As the restore is encoded, so it has to be worked out again.
    on_next_use(move || replace(&other));
    goes_off_in(&state, "a restore", || state.restore(&before).unwrap());
    assert_eq!(state.stats().reruns, 1);
    assert!(rows.contains_key(&2) && !rows.contains_key(&1));
}

#[test]
fn a_watch_that_drops_what_it_does_not_watch_goes_on() {
    let state = StateManager::builder().in_memory().change_log_commits(1).open().unwrap();
    let rows: Rows = state.collection("rows").unwrap();
    rows.insert(1, Bomb(true)).unwrap();
    let other = rows.clone();
    let pushed = AtomicBool::new(false);
    let mut watch = rows.watch_where(move |key| {
        // The next commit takes the place of the one that is looked at.
        if *key == 1 && !pushed.swap(true, Ordering::SeqCst) {
            other.insert(3, Bomb(false)).expect("it is open");
        }
        *key == 3
    });
    replace(&rows);
    let event = goes_off_in(&state, "a watch", || watch.try_recv());
    assert!(event.is_ok(), "it goes on to the next commit");
}

/// What the host holds itself is its own to drop.
#[test]
fn who_drops_the_last_snapshot_of_a_value_meets_its_panic() {
    let (state, rows) = armed_row();
    let snapshot = state.snapshot();
    replace(&rows);
    arm();
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(snapshot)));
    assert!(dropped.is_err() && !is_armed());
    assert_eq!(state.stats().caught_panics, 0);

    let (state, rows) = armed_row();
    let snapshot = state.snapshot();
    replace(&rows);
    goes_off_in(&state, "a release", || snapshot.release());
}

#[test]
fn going_back_holds_nothing_of_what_it_replaced_while_it_writes() {
    let builder = StateManager::builder().fault_disk(&FaultDisk::new()).change_log_commits(0);
    let builder = builder.durability(Durability::Synced).checkpoint_every_commits(1);
    let state = builder.open().unwrap();
    let rows: Rows = state.collection("rows").unwrap();
    rows.insert(1, Bomb(false)).unwrap();
    let then = state.snapshot();
    rows.insert(2, Bomb(true)).unwrap();
    let held = Arc::new(AtomicBool::new(true));
    let seen = Arc::clone(&held);
    // The delta has only the key of what goes, so this is the checkpoint after it.
    on_next_use(move || seen.store(is_armed(), Ordering::SeqCst));
    let version = goes_off_in(&state, "a restore", || state.restore(&then).unwrap());
    assert_eq!((version, state.durable_version()), (state.version(), state.version()));
    assert!(!held.load(Ordering::SeqCst), "the old state was held while the disk was waited for");
}
