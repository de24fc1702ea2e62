//! A thread that maintains a state, on a clock that the test moves.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread, ThreadId};
use std::time::{Duration, Instant};

use phalanx::state::{
    Collection, Fault, FaultDisk, Maintainer, SnapshotPolicy, StateBuilder, StateManager,
    Transaction,
};
use phalanx::{Clock, ErrorKind, ManualClock};
use serde::{Deserialize, Serialize, Serializer};

const INTERVAL: Duration = Duration::from_millis(100);

struct Fixture {
    state: StateManager,
    rows: Collection<u32, u32>,
    hand: ManualClock,
}

impl Fixture {
    fn new(builder: impl FnOnce(StateBuilder) -> StateBuilder) -> Self {
        let (clock, hand) = ManualClock::new();
        let state = builder(StateManager::builder().clock(clock)).open().expect("it is new");
        let rows = state.collection("rows").expect("it has one type");
        Self { state, rows, hand }
    }

    fn on(disk: &FaultDisk) -> Self {
        Self::new(|builder| builder.fault_disk(disk))
    }

    fn maintained(&self) -> Maintainer {
        let maintainer = self.state.maintain_every(INTERVAL).expect("it is the first");
        self.until_it_sleeps();
        maintainer
    }

    /// One that ends by itself gives its place up then.
    fn maintained_in_the_end(&self) -> Maintainer {
        loop {
            match self.state.maintain_every(INTERVAL) {
                Ok(maintainer) => return maintainer,
                Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists),
            }
            thread::yield_now();
        }
    }

    /// Until the thread has done a round, or begun.
    fn until_it_sleeps(&self) {
        while self.hand.sleepers() == 0 {
            thread::yield_now();
        }
    }

    fn round(&self, by: Duration) {
        self.hand.advance(by);
        self.until_it_sleeps();
    }
}

/// Wakes a thread, and tells which one did.
struct Woken(Thread, Mutex<Option<ThreadId>>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        *self.1.lock().expect("nothing panics under it") = Some(thread::current().id());
        self.0.unpark();
    }
}

#[test]
fn a_buffered_commit_is_written_an_interval_later_and_not_before() {
    let disk = FaultDisk::new();
    let fixture = Fixture::on(&disk);
    let maintainer = fixture.maintained();
    let version = fixture.rows.insert(1, 1).expect("it is open");
    fixture.round(INTERVAL - Duration::from_nanos(1));
    assert!(fixture.state.durable_version() < version);
    fixture.round(Duration::from_nanos(1));
    assert_eq!(fixture.state.durable_version(), version);
    assert!(maintainer.last_round().written);
    fixture.round(INTERVAL);
    assert!(!maintainer.last_round().written, "there was nothing more");
    assert_eq!(fixture.state.stats().groups, 1);
}

#[test]
fn the_thread_ends_a_checkpoint_that_is_overdue_without_its_interval() {
    let disk = FaultDisk::new();
    let fixture = Fixture::new(|builder| {
        builder.fault_disk(&disk).checkpoint_every_commits(3).checkpoint_step_bytes(1)
    });
    let (state, rows) = (&fixture.state, &fixture.rows);
    let many = state.transaction(|tx| {
        (0..3000).for_each(|key| tx.insert(rows, key, 0));
        Ok(())
    });
    many.expect("nothing refuses it");
    let maintainer = fixture.maintained();
    let sync = |key| {
        let version = rows.insert(key, 1).expect("it is open");
        state.wait_durable(version).expect("the disk works");
        state.stats()
    };
    // Due with the third commit, overdue with the sixth; the clock stands still.
    (0..4).for_each(|key| drop(sync(key)));
    let before = sync(4);
    assert!(before.checkpoint_pending && before.checkpoints == 0, "{before:?}");
    sync(5);
    let since = Instant::now();
    while state.stats().checkpoints == 0 {
        assert!(since.elapsed() < Duration::from_secs(120), "nobody ends it");
        thread::yield_now();
    }
    drop(maintainer);
}

#[test]
fn who_ends_it_finds_all_that_was_buffered_durable() {
    let fixture = Fixture::on(&FaultDisk::new());
    for key in 1..3 {
        let maintainer = fixture.maintained();
        let version = fixture.rows.insert(key, key).expect("it is open");
        drop(maintainer);
        assert_eq!(fixture.state.durable_version(), version);
        assert_eq!(fixture.hand.sleepers(), 0);
        assert!(!fixture.state.stats().maintained);
    }
}

#[test]
fn one_that_ends_before_its_first_round_does_one() {
    let fixture = Fixture::on(&FaultDisk::new());
    let version = fixture.rows.insert(1, 1).expect("it is open");
    drop(fixture.state.maintain_every(Duration::MAX).expect("it is the first"));
    assert_eq!(fixture.state.durable_version(), version);
}

#[test]
fn no_poll_writes_while_there_is_one_and_the_thread_does_so_at_once() {
    let fixture = Fixture::on(&FaultDisk::new());
    let maintainer = fixture.maintained();
    let version = fixture.rows.insert(1, 1).expect("it is open");
    let woken = Arc::new(Woken(thread::current(), Mutex::new(None)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut wait = pin!(fixture.state.wait_durable_async(version));
    let mut polls = 0;
    // The clock stands still.
    while wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        polls += 1;
        thread::park();
    }
    assert!(polls > 0, "the first poll wrote");
    let waking = *woken.1.lock().expect("nothing panics under it");
    assert_ne!(waking, Some(thread::current().id()));
    assert_eq!(fixture.state.durable_version(), version);
    drop(maintainer);
    let version = fixture.rows.insert(2, 2).expect("it is open");
    let mut wait = pin!(fixture.state.wait_durable_async(version));
    let poll = wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(poll, Poll::Ready(Ok(()))), "there is nobody else to write");
}

#[test]
fn it_frees_old_states_and_keeps_snapshots_on_time() {
    let policy = SnapshotPolicy::new().every(INTERVAL).keep_last(1);
    let fixture = Fixture::new(|builder| builder.in_memory().snapshots(policy));
    let maintainer = fixture.maintained();
    let all = |value| {
        let rows = &fixture.rows;
        let insert = |tx: &mut Transaction| {
            (0..2000).for_each(|key| tx.insert(rows, key, value));
            Ok(())
        };
        fixture.state.transaction(insert).expect("it is open")
    };
    all(1);
    all(2);
    assert_eq!(fixture.state.stats().pending_releases, 1);
    fixture.round(INTERVAL);
    let stats = fixture.state.stats();
    assert_eq!((stats.pending_releases, stats.releases), (0, 1));
    assert_eq!(stats.automatic_snapshots, 1);
    drop(maintainer);
}

#[test]
fn there_is_one_at_a_time_and_none_of_a_closed_state() {
    for fixture in [Fixture::on(&FaultDisk::new()), Fixture::new(StateBuilder::in_memory)] {
        let kind = |interval| {
            let refused = fixture.state.maintain_every(interval).expect_err("it is refused");
            refused.kind()
        };
        let short = Duration::from_millis(1) - Duration::from_nanos(1);
        assert_eq!(kind(short), ErrorKind::InvalidArgument);
        let first = fixture.maintained();
        assert_eq!(kind(INTERVAL), ErrorKind::AlreadyExists);
        drop(first);
        let second = fixture.maintained();
        assert!(fixture.state.stats().maintained);
        fixture.state.close().expect("the disk works");
        // Whoever closes it ends the thread, and nobody moves the clock.
        while fixture.state.stats().maintained {
            thread::yield_now();
        }
        drop(second);
        assert_eq!(kind(INTERVAL), ErrorKind::Closed);
    }
}

#[test]
fn a_store_that_fails_in_the_background_says_so() {
    let disk = FaultDisk::new();
    let fixture = Fixture::on(&disk);
    let maintainer = fixture.maintained();
    let version = fixture.rows.insert(1, 1).expect("it is open");
    disk.fail_at(disk.calls() + 1, Fault::Io);
    fixture.round(INTERVAL);
    assert!(maintainer.last_round().poisoned);
    let refused = fixture.rows.insert(2, 2).expect_err("nothing can be written");
    assert_eq!(refused.kind(), ErrorKind::Poisoned);
    let wait = fixture.state.wait_durable_async(version);
    let mut wait = pin!(wait);
    let poll = wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(poll, Poll::Ready(Err(error)) if error.kind() == ErrorKind::Poisoned));
    drop(maintainer);
}

/// Drops a maintainer when it is woken.
struct Drops(Mutex<Option<Maintainer>>, Thread);

impl Wake for Drops {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().expect("nothing panics under it").take());
        self.1.unpark();
    }
}

#[test]
fn who_drops_it_in_its_own_round_does_not_wait_for_it() {
    let fixture = Fixture::on(&FaultDisk::new());
    let maintainer = fixture.maintained();
    let drops = Arc::new(Drops(Mutex::new(Some(maintainer)), thread::current()));
    let waker = Waker::from(Arc::clone(&drops));
    let version = fixture.rows.insert(1, 1).expect("it is open");
    let mut wait = pin!(fixture.state.wait_durable_async(version));
    while wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        thread::park();
    }
    assert!(drops.0.lock().expect("nothing panics under it").is_none());
    let again = fixture.maintained_in_the_end();
    assert_eq!(fixture.state.stats().caught_panics, 0);
    drop(again);
}

type Hook = Box<dyn FnOnce() + Send>;

/// Runs what it holds when it is dropped.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Hooked {
    #[serde(skip)]
    hook: Slot,
}

#[derive(Clone, Default)]
struct Slot(Arc<Mutex<Option<Hook>>>);

impl Slot {
    fn set(&self, hook: impl FnOnce() + Send + 'static) {
        *self.0.lock().expect("nothing panics under it") = Some(Box::new(hook));
    }

    fn run(&self) {
        let hook = self.0.lock().expect("nothing panics under it").take();
        hook.into_iter().for_each(|hook| hook());
    }
}

impl Drop for Hooked {
    fn drop(&mut self) {
        self.hook.run();
    }
}

impl Fixture {
    /// What the next round that frees an old state runs.
    fn in_a_release(&self, hook: impl FnOnce() + Send + 'static) {
        let slot = Slot::default();
        let values = self.state.collection("values").expect("it has one type");
        // As many as make the state before the second time a large one, which waits for a round.
        let replace = |first: Slot| {
            let rows = |tx: &mut Transaction| {
                (1..2000).for_each(|key| tx.insert(&values, key, Hooked::default()));
                tx.insert(&values, 0, Hooked { hook: first.clone() });
                Ok(())
            };
            self.state.transaction(rows).expect("it is open");
        };
        replace(slot.clone());
        replace(Slot::default());
        assert_eq!(self.state.stats().pending_releases, 1);
        slot.set(hook);
    }
}

#[test]
fn a_value_that_its_round_frees_may_drop_it() {
    let fixture = Fixture::new(StateBuilder::in_memory);
    let maintainer = fixture.maintained();
    fixture.in_a_release(|| drop(maintainer));
    fixture.hand.advance(INTERVAL);
    let again = fixture.maintained_in_the_end();
    let stats = fixture.state.stats();
    assert_eq!((stats.releases, stats.caught_panics), (1, 0));
    drop(again);
}

#[test]
fn its_own_thread_may_wait_for_the_disk() {
    let fixture = Fixture::on(&FaultDisk::new());
    let maintainer = fixture.maintained();
    let (state, rows) = (fixture.state.clone(), fixture.rows.clone());
    fixture.in_a_release(move || {
        let version = rows.insert(1, 1).expect("it is open");
        let mut wait = pin!(state.wait_durable_async(version));
        let poll = wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(poll, Poll::Ready(Ok(()))), "who else would write");
    });
    fixture.round(INTERVAL);
    let stats = fixture.state.stats();
    assert_eq!((stats.releases, stats.caught_panics), (1, 0));
    drop(maintainer);
}

#[test]
fn a_rule_may_drop_it_within_a_commit() {
    let fixture = Fixture::new(StateBuilder::in_memory);
    let maintainer = fixture.maintained();
    let rows = fixture.rows.clone();
    // Its last round waits for the turn, which the commit has.
    fixture.in_a_release(move || drop(rows.insert(2, 2)));
    let slot = Mutex::new(Some(maintainer));
    let rule = fixture.rows.validate_with(move |_, _, _| {
        drop(slot.lock().expect("nothing panics under it").take());
        Ok(())
    });
    rule.expect("it is the first");
    fixture.rows.insert(1, 1).expect("nothing refuses it");
    drop(fixture.maintained_in_the_end());
    assert_eq!(fixture.rows.get(&2), Some(2));
}

/// Runs what it holds when it is encoded.
#[derive(Clone, Deserialize)]
struct Encoded(#[serde(skip)] Slot, u32);

impl Serialize for Encoded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.run();
        serializer.serialize_newtype_struct("Encoded", &self.1)
    }
}

#[test]
fn who_drops_it_within_a_checkpoint_does_not_wait_for_it() {
    let fixture = Fixture::on(&FaultDisk::new());
    let encoded = fixture.state.collection("encoded").expect("it has one type");
    let slot = Slot::default();
    encoded.insert(1, Encoded(slot.clone(), 1)).expect("it is open");
    fixture.state.flush().expect("the disk works");
    let maintainer = fixture.maintained();
    let rows = fixture.state.collection("large").expect("it has one type");
    let large = rows.clone();
    slot.set(move || {
        // So the thread's last round has something to write, and then has to wait for the checkpoint.
        large.insert(1, vec![0u8; 4 << 20]).expect("it is open");
        drop(maintainer);
    });
    fixture.state.checkpoint().expect("the disk works");
    assert_eq!(rows.len(), 1, "it was encoded");
    drop(fixture.maintained_in_the_end());
    assert_eq!(fixture.state.durable_version(), fixture.state.version());
}

#[test]
fn the_folder_is_free_when_the_last_handle_went_after_it() {
    let folder = tempfile::tempdir().expect("a folder");
    for _ in 0..3 {
        let builder = StateManager::builder().path(folder.path()).clock(Clock::real());
        let state = builder.open().expect("nobody holds it");
        let maintainer = state.maintain_every(Duration::from_millis(1)).expect("it is the first");
        let rows: Collection<u32, u32> = state.collection("rows").expect("it has one type");
        rows.insert(1, 1).expect("it is open");
        drop((state, rows));
        drop(maintainer);
    }
}
