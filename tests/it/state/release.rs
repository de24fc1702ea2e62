//! Large old states are freed off the writers' path.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use phalanx::state::{Collection, SnapshotPolicy, StateManager};
use serde::{Deserialize, Serialize, Serializer};

const MANY: u32 = 2000;

/// Counts where it is dropped.
#[derive(Clone, Deserialize)]
struct Counted {
    #[serde(skip)]
    dropped: Arc<AtomicUsize>,
    panics: bool,
}

type Hook = Box<dyn FnOnce()>;

thread_local! {
    /// What the next value that is encoded on this thread does.
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    static CALM: Cell<bool> = const { Cell::new(false) };
}

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hook = HOOK.take();
        if let Some(hook) = hook {
            hook();
        }
        serializer.serialize_bool(self.panics)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        assert!(!self.panics || CALM.get() || std::thread::panicking(), "a hostile drop");
    }
}

struct Fixture {
    state: StateManager,
    rows: Collection<u32, Counted>,
    dropped: Arc<AtomicUsize>,
}

impl Fixture {
    fn new(state: StateManager) -> Self {
        let rows = state.collection("rows").unwrap();
        Self { state, rows, dropped: Arc::default() }
    }

    fn in_memory() -> Self {
        Self::new(StateManager::in_memory())
    }

    fn value(&self, panics: bool) -> Counted {
        Counted { dropped: Arc::clone(&self.dropped), panics }
    }

    /// Writes so many rows in one commit.
    fn write(&self, rows: u32) {
        self.write_to(rows, false);
    }

    fn write_to(&self, rows: u32, panics: bool) {
        self.state
            .transaction(|tx| {
                (0..rows).for_each(|key| tx.insert(&self.rows, key, self.value(panics)));
                Ok(())
            })
            .unwrap();
    }

    /// Writes so many rows in as many commits.
    fn put_each(&self, rows: u32) {
        for key in 0..rows {
            self.rows.insert(key, self.value(false)).unwrap();
        }
    }

    fn dropped(&self) -> usize {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Nothing was freed yet, and `maintain` frees so many rows of one state.
    #[track_caller]
    fn waits(&self, rows: usize) {
        assert_eq!((self.dropped(), self.state.stats().pending_releases), (0, 1));
        let done = self.state.maintain();
        assert_eq!((done.released, done.pending_releases), (1, 0));
        assert!(done.released_rows_max >= rows as u64, "{done:?}");
        assert_eq!(self.dropped(), rows);
        assert_eq!(self.state.stats().releases, 1);
        assert_eq!(self.state.maintain().released, 0);
    }
}

#[test]
fn what_a_large_commit_replaces_waits_for_maintain() {
    let fixture = Fixture::in_memory();
    fixture.write(MANY);
    fixture.write(MANY);
    fixture.waits(MANY as usize);
}

#[test]
fn what_a_small_commit_replaces_goes_with_it() {
    let fixture = Fixture::in_memory();
    fixture.write(MANY);
    fixture.write(500);
    assert_eq!((fixture.dropped(), fixture.state.stats().pending_releases), (500, 0));
}

#[test]
fn what_a_transaction_had_read_and_others_replaced_meanwhile_waits_for_maintain() {
    let fixture = Fixture::in_memory();
    fixture.write(MANY);
    let other = fixture.state.collection::<u32, u32>("other").unwrap();
    for abort in [false, true] {
        let before = fixture.dropped();
        let result = fixture.state.transaction(|tx| {
            let _ = tx.contains_key(&other, &1);
            tx.insert(&other, 2, 2);
            fixture.put_each(MANY);
            if abort { Err(phalanx::state::Abort::new("enough")) } else { Ok(()) }
        });
        assert_eq!(result.is_err(), abort);
        assert_eq!(fixture.dropped(), before, "the end of the transaction frees nothing");
        assert_eq!(fixture.state.maintain().released, 1);
        assert_eq!(fixture.dropped(), before + MANY as usize);
    }
}

#[cfg(all(feature = "durable", feature = "bincode"))]
#[test]
fn what_whoever_writes_a_checkpoint_holds_waits_for_maintain() {
    let disk = phalanx::state::FaultDisk::new();
    let fixture = Fixture::new(StateManager::builder().fault_disk(&disk).open().unwrap());
    fixture.write(MANY);
    let hooked = Arc::new(AtomicUsize::new(0));
    {
        let (rows, dropped) = (fixture.rows.clone(), Arc::clone(&fixture.dropped));
        let hooked = Arc::clone(&hooked);
        HOOK.set(Some(Box::new(move || {
            // Each by itself is small.
            for key in 0..MANY {
                let value = Counted { dropped: Arc::clone(&dropped), panics: false };
                rows.insert(key, value).unwrap();
            }
            hooked.fetch_add(1, Ordering::Relaxed);
        })));
    }
    fixture.state.checkpoint().unwrap();
    assert_eq!(hooked.load(Ordering::Relaxed), 1);
    fixture.waits(MANY as usize);
}

#[test]
fn a_kept_snapshot_that_goes_waits_for_maintain_where_much_has_changed_since() {
    let policy = SnapshotPolicy::new().keep_last(1);
    let state = StateManager::builder().in_memory().snapshots(policy).open().unwrap();
    let fixture = Fixture::new(state);
    fixture.write(MANY);
    fixture.state.keep();
    fixture.put_each(MANY);
    fixture.state.keep();
    fixture.waits(MANY as usize);

    // What the next one shows too is not freed, so it goes at once, however old it is.
    let policy = SnapshotPolicy::new().keep_last(20).every_commits(100);
    let state = StateManager::builder().in_memory().snapshots(policy).open().unwrap();
    let fixture = Fixture::new(state);
    fixture.put_each(MANY * 2);
    fixture.put_each(MANY);
    let stats = fixture.state.stats();
    assert_eq!((stats.pending_releases, stats.releases_on_writers), (0, 0));
    assert_eq!((stats.snapshots_dropped_by_count, fixture.dropped()), (40, 100));
    fixture.state.drop_kept(41).unwrap();
    assert_eq!((fixture.state.stats().pending_releases, fixture.dropped()), (0, 200));
    // And so do 18 more; the last one shows nothing that is not there now.
    for number in 42..=60 {
        fixture.state.drop_kept(number).unwrap();
    }
    assert_eq!((fixture.state.stats().pending_releases, fixture.dropped()), (0, 2000));
}

#[test]
fn what_a_reader_holds_is_the_readers_to_free() {
    let fixture = Fixture::in_memory();
    fixture.write(MANY);
    let snapshot = fixture.state.snapshot();
    let given = fixture.state.snapshot();
    fixture.write(MANY);
    assert_eq!((fixture.dropped(), fixture.state.stats().pending_releases), (0, 0));
    drop(snapshot);
    assert_eq!(fixture.dropped(), 0);
    given.release();
    fixture.waits(MANY as usize);
    let snapshot = fixture.state.snapshot();
    fixture.write(MANY);
    drop(snapshot);
    assert_eq!(fixture.dropped(), 2 * MANY as usize);
}

#[test]
fn where_too_many_wait_the_writer_frees_and_that_is_counted() {
    let builder = StateManager::builder().in_memory().max_pending_releases(2);
    let fixture = Fixture::new(builder.open().unwrap());
    (0..5).for_each(|_| fixture.write(MANY));
    let stats = fixture.state.stats();
    assert_eq!((stats.pending_releases, stats.releases_on_writers, stats.releases), (2, 2, 0));
    assert_eq!(fixture.dropped(), 2 * MANY as usize);
    assert_eq!(fixture.state.maintain().released, 2, "4,000 rows are not too much for one call");
    assert_eq!(fixture.dropped(), 4 * MANY as usize);
}

#[test]
fn one_call_of_maintain_frees_about_a_hundred_thousand_rows() {
    let builder = StateManager::builder().in_memory().max_pending_releases(4);
    let fixture = Fixture::new(builder.open().unwrap());
    (0..4).for_each(|_| fixture.write(60_000));
    let done = fixture.state.maintain();
    assert_eq!((done.released, done.released_rows_max, done.pending_releases), (2, 120_000, 1));
    assert_eq!(fixture.state.maintain().released, 1);
    assert_eq!(fixture.dropped(), 3 * 60_000);
}

#[test]
fn a_value_that_panics_as_it_is_freed_harms_nobody() {
    let fixture = Fixture::in_memory();
    CALM.set(true);
    fixture.write_to(MANY, true);
    fixture.write(MANY);
    CALM.set(false);
    assert_eq!(fixture.state.maintain().released, 1);
    assert_eq!(fixture.state.stats().caught_panics, 1);

    // What retention lets go of is not the affair of who commits.
    let policy = SnapshotPolicy::new().keep_last(2).every_commits(1);
    let state = StateManager::builder().in_memory().snapshots(policy).open().unwrap();
    let fixture = Fixture::new(state);
    fixture.rows.insert(1, fixture.value(true)).unwrap();
    fixture.rows.insert(1, fixture.value(false)).unwrap();
    assert_eq!((fixture.dropped(), fixture.state.stats().caught_panics), (0, 0));
    fixture.rows.insert(1, fixture.value(false)).unwrap();
    assert_eq!((fixture.dropped(), fixture.state.stats().caught_panics), (1, 1));
    fixture.rows.insert(1, fixture.value(false)).unwrap();
    assert_eq!(fixture.state.version().as_u64(), 4);
}

#[test]
fn the_end_of_the_manager_frees_what_waits() {
    let fixture = Fixture::in_memory();
    fixture.write(MANY);
    fixture.write(MANY);
    let late = fixture.state.snapshot();
    fixture.state.keep();
    let Fixture { state, rows, dropped } = fixture;
    drop((state, rows));
    assert_eq!(dropped.load(Ordering::Relaxed), MANY as usize);
    late.release();
    assert_eq!(dropped.load(Ordering::Relaxed), 2 * MANY as usize);
}
