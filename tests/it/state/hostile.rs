//! Code of the host that panics where the state runs it.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::{panic, thread};

use phalanx::ErrorKind;
use phalanx::state::{FaultDisk, StateManager};
use serde::{Deserialize, Serialize, Serializer};

/// Stops whoever writes it, in the middle of a checkpoint, until it is told to go on.
#[derive(Clone, Deserialize)]
pub(super) struct Gated {
    #[serde(skip)]
    pub(super) gate: Option<Arc<Gate>>,
}

pub(super) struct Gate {
    pub(super) shut: AtomicBool,
    entered: mpsc::SyncSender<()>,
    leave: std::sync::Mutex<mpsc::Receiver<()>>,
}

impl Gate {
    /// It lets everybody pass; tells who has entered; lets them leave.
    pub(super) fn open() -> (Arc<Self>, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (entered, has_entered) = mpsc::sync_channel(1);
        let (leave, may_leave) = mpsc::channel();
        let leave_lock = std::sync::Mutex::new(may_leave);
        let gate = Self { shut: AtomicBool::new(false), entered, leave: leave_lock };
        (Arc::new(gate), has_entered, leave)
    }
}

impl Serialize for Gated {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(gate) = &self.gate
            && gate.shut.swap(false, Ordering::SeqCst)
        {
            gate.entered.send(()).unwrap();
            gate.leave.lock().unwrap().recv().unwrap();
        }
        serializer.serialize_unit_struct("Gated")
    }
}

struct Hostile(AtomicU32);

impl Wake for Hostile {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("a hostile waker");
    }
}

#[derive(Default)]
struct Counted(AtomicU32);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Lets whoever is held in a call of the disk go on, also where the test fails before it says so.
struct Holds<'a>(&'a FaultDisk);

impl Drop for Holds<'_> {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

/// Waits until somebody is held in a call of the disk.
fn until_held(disk: &FaultDisk) -> Holds<'_> {
    while !disk.is_held() {
        thread::yield_now();
    }
    Holds(disk)
}

#[test]
fn a_waker_that_panics_keeps_nobody_from_being_woken_and_the_log_goes_on() {
    let disk = FaultDisk::new();
    let state = StateManager::builder().fault_disk(&disk).open().unwrap();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let first = rows.insert(1, 1).unwrap();
    let (hostile, counted) = (Arc::new(Hostile(AtomicU32::new(0))), Arc::new(Counted::default()));
    disk.hold_at(disk.calls() + 1);
    thread::scope(|scope| {
        let leader = scope.spawn(|| state.wait_durable(first));
        let held = until_held(&disk);
        // The leader writes: whoever comes now waits for it.
        let version = rows.insert(2, 2).unwrap();
        let mut first = pin!(state.wait_durable_async(version));
        let mut second = pin!(state.wait_durable_async(version));
        let waker = Waker::from(Arc::clone(&hostile));
        assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let waker = Waker::from(Arc::clone(&counted));
        let mut context = Context::from_waker(&waker);
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(held);
        leader.join().expect("a waker of somebody else is not the leader's affair").unwrap();
        assert_eq!(hostile.0.load(Ordering::SeqCst), 1);
        assert_eq!(counted.0.load(Ordering::SeqCst), 1, "the other is woken all the same");
        assert_eq!(state.stats().caught_panics, 1);
        assert!(matches!(second.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
    });
    state.close().unwrap();
}

/// While it is written, another commit replaces it, so that the leader has the last reference.
#[derive(Clone, Deserialize)]
struct Leaving {
    #[serde(skip)]
    gate: Option<Arc<Gate>>,
}

impl Serialize for Leaving {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Gated { gate: self.gate.clone() }.serialize(serializer)
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if self.gate.is_some() && !thread::panicking() {
            panic!("a hostile drop");
        }
    }
}

#[test]
fn a_leader_that_drops_a_hostile_value_gives_the_lead_back() {
    let disk = FaultDisk::new();
    let state = StateManager::builder().fault_disk(&disk).open().unwrap();
    let rows = state.collection::<u32, Leaving>("rows").unwrap();
    let gate = Gate::open().0;
    let first = rows.insert(1, Leaving { gate: Some(gate) }).unwrap();
    disk.hold_at(disk.calls() + 1);
    thread::scope(|scope| {
        let leader = scope.spawn(|| state.wait_durable(first));
        let held = until_held(&disk);
        let version = rows.insert(1, Leaving { gate: None }).unwrap();
        let mut wait = pin!(state.wait_durable_async(version));
        let counted = Arc::new(Counted::default());
        let waker = Waker::from(Arc::clone(&counted));
        let mut context = Context::from_waker(&waker);
        assert!(wait.as_mut().poll(&mut context).is_pending());
        drop(held);
        leader.join().expect("the drop is not the leader's affair").unwrap();
        assert_eq!(counted.0.load(Ordering::SeqCst), 1);
        assert_eq!(state.stats().caught_panics, 1);
        assert!(matches!(wait.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
    });
    state.close().unwrap();
}

#[test]
fn a_checkpoint_that_drops_a_hostile_value_is_done_all_the_same() {
    let state = StateManager::builder().fault_disk(&FaultDisk::new()).open().unwrap();
    let rows = state.collection::<u32, Leaving>("rows").unwrap();
    let (gate, has_entered, leave) = Gate::open();
    rows.insert(1, Leaving { gate: Some(Arc::clone(&gate)) }).unwrap();
    gate.shut.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        // Where something fails it goes, which lets whoever encodes go on.
        let leave = leave;
        let checkpoint = scope.spawn(|| state.checkpoint());
        has_entered.recv().unwrap();
        // Nobody but the checkpoint has the value any more.
        let version = rows.insert(1, Leaving { gate: None }).unwrap();
        state.wait_durable(version).expect("the checkpoint holds nobody up");
        assert_eq!(state.stats().caught_panics, 0);
        leave.send(()).unwrap();
        let checkpointed = checkpoint.join().expect("the drop is not its affair").unwrap();
        assert_eq!((checkpointed.as_u64(), version.as_u64()), (1, 2));
        let stats = state.stats();
        assert_eq!((stats.caught_panics, stats.checkpoints), (1, 1));
    });
    state.close().unwrap();
}

/// Panics when it is written once too often, with something that panics again.
#[derive(Clone, Deserialize)]
struct Unwritable {
    #[serde(skip)]
    left: Option<Arc<AtomicU32>>,
}

struct Again;

impl Drop for Again {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("what was thrown panics too");
        }
    }
}

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(left) = &self.left
            && left.fetch_sub(1, Ordering::SeqCst) == 0
        {
            panic::panic_any(Again);
        }
        serializer.serialize_unit_struct("Unwritable")
    }
}

/// A key whose clone panics where it is told to.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
struct Clumsy {
    number: u32,
    #[serde(skip)]
    left: Left,
}

/// Of no concern to what the key is.
#[derive(Clone, Debug, Default)]
struct Left(Option<Arc<AtomicBool>>);

impl PartialEq for Left {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Left {}

impl std::hash::Hash for Left {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl PartialOrd for Left {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Left {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl Clone for Clumsy {
    fn clone(&self) -> Self {
        if self.left.0.as_ref().is_some_and(|armed| armed.load(Ordering::SeqCst)) {
            panic::panic_any(Again);
        }
        Self { number: self.number, left: self.left.clone() }
    }
}

/// A checkpoint of a state ends in a panic of its values or keys, others go on, and one that has none is written.
fn ends_alone(disk: &FaultDisk, state: &StateManager, disarm: impl Fn()) {
    let other = state.collection::<u32, u32>("other").unwrap();
    let durable = |number| state.wait_durable(other.insert(number, number).unwrap());
    durable(1).unwrap();
    let version = state.version();
    assert_eq!(state.checkpoint().unwrap_err().kind(), ErrorKind::Internal);
    let stats = state.stats();
    assert_eq!((stats.checkpoints_failed, stats.checkpoints, stats.poisoned), (1, 0, false));
    assert!(state.maintain().checkpoint_failed);
    let reason = stats.checkpoint_failure.expect("none is valid since");
    assert!(reason.contains("panicked"), "{reason}");
    assert_eq!((stats.checkpoint_pending, stats.checkpoint_snapshot), (false, None));
    assert_eq!(state.durable_version(), version);
    durable(2).unwrap();
    let survivor = StateManager::builder().fault_disk(&disk.after_power_loss(|_, _| 0));
    let survivor = survivor.open().unwrap();
    assert_eq!((survivor.version(), survivor.recovery().checkpoint), (state.version(), None));
    disarm();
    assert_eq!(state.checkpoint().unwrap(), state.version());
    assert!(!state.maintain().checkpoint_failed);
    assert_eq!(state.stats().checkpoint_failure, None);
    state.close().unwrap();
    let again = StateManager::builder().fault_disk(disk).open().unwrap();
    let report = again.recovery();
    assert_eq!((report.checkpoint, report.unfinished_checkpoint), (Some(state.version()), None));
}

#[test]
fn a_value_or_key_that_panics_in_a_checkpoint_ends_it_and_nothing_else() {
    // Some of it is written before that.
    let open = |disk| {
        let state = StateManager::builder().fault_disk(disk).checkpoint_step_bytes(1).open();
        let state = state.unwrap();
        let before = state.collection::<u32, String>("before").unwrap();
        for key in 0..4 {
            before.insert(key, "x".repeat(100)).unwrap();
        }
        state
    };
    let disk = FaultDisk::new();
    let state = open(&disk);
    let rows = state.collection::<u32, Unwritable>("rows").unwrap();
    let left = Arc::new(AtomicU32::new(1));
    rows.insert(1, Unwritable { left: Some(Arc::clone(&left)) }).unwrap();
    ends_alone(&disk, &state, || left.store(u32::MAX, Ordering::SeqCst));

    let disk = FaultDisk::new();
    let state = open(&disk);
    let rows = state.collection::<Clumsy, u32>("rows").unwrap();
    let armed = Arc::new(AtomicBool::new(false));
    rows.insert(Clumsy { number: 1, left: Left(Some(Arc::clone(&armed))) }, 1).unwrap();
    armed.store(true, Ordering::SeqCst);
    ends_alone(&disk, &state, || armed.store(false, Ordering::SeqCst));
}

#[test]
fn a_checkpoint_that_fails_by_itself_is_tried_again_after_as_much_again() {
    let disk = FaultDisk::new();
    let builder = StateManager::builder().fault_disk(&disk).checkpoint_every_commits(4);
    let state = builder.open().unwrap();
    let rows = state.collection::<u32, Unwritable>("rows").unwrap();
    let left = Arc::new(AtomicU32::new(1));
    rows.insert(1, Unwritable { left: Some(Arc::clone(&left)) }).unwrap();
    let other = state.collection::<u32, u32>("other").unwrap();
    let mut failed = Vec::new();
    for number in 2..=20 {
        state.wait_durable(other.insert(1, number).unwrap()).expect("the store goes on");
        failed.push(state.stats().checkpoints_failed);
        // Each is tried once.
        left.store(if number < 16 { 0 } else { u32::MAX }, Ordering::SeqCst);
    }
    let stats = state.stats();
    assert!((2..=4).contains(&stats.checkpoints_failed), "{failed:?}");
    assert!(stats.checkpoints > 0, "{stats:?}");
    state.close().unwrap();
    let again = StateManager::builder().fault_disk(&disk).open().unwrap();
    assert_eq!(again.version(), state.version());
}
