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
struct Gated {
    #[serde(skip)]
    gate: Option<Arc<Gate>>,
}

struct Gate {
    shut: AtomicBool,
    entered: mpsc::SyncSender<()>,
    leave: std::sync::Mutex<mpsc::Receiver<()>>,
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

#[test]
fn a_waker_that_panics_keeps_nobody_from_being_woken_and_the_log_goes_on() {
    let state = StateManager::builder().fault_disk(&FaultDisk::new()).open().unwrap();
    let rows = state.collection::<u32, Gated>("rows").unwrap();
    let (entered, has_entered) = mpsc::sync_channel(1);
    let (leave, may_leave) = mpsc::channel();
    let leave_lock = std::sync::Mutex::new(may_leave);
    let gate = Arc::new(Gate { shut: AtomicBool::new(false), entered, leave: leave_lock });
    rows.insert(1, Gated { gate: Some(Arc::clone(&gate)) }).unwrap();
    gate.shut.store(true, Ordering::SeqCst);
    let (hostile, counted) = (Arc::new(Hostile(AtomicU32::new(0))), Arc::new(Counted::default()));
    thread::scope(|scope| {
        let leader = scope.spawn(|| state.checkpoint());
        has_entered.recv().unwrap();
        // The leader is in its checkpoint: whoever comes now waits for it.
        let version = rows.insert(2, Gated { gate: None }).unwrap();
        let mut first = pin!(state.wait_durable_async(version));
        let mut second = pin!(state.wait_durable_async(version));
        let waker = Waker::from(Arc::clone(&hostile));
        assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let waker = Waker::from(Arc::clone(&counted));
        let mut context = Context::from_waker(&waker);
        assert!(second.as_mut().poll(&mut context).is_pending());
        leave.send(()).unwrap();
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
    let state = StateManager::builder().fault_disk(&FaultDisk::new()).open().unwrap();
    let rows = state.collection::<u32, Leaving>("rows").unwrap();
    let (entered, has_entered) = mpsc::sync_channel(1);
    let (leave, may_leave) = mpsc::channel();
    let leave_lock = std::sync::Mutex::new(may_leave);
    let gate = Arc::new(Gate { shut: AtomicBool::new(false), entered, leave: leave_lock });
    rows.insert(1, Leaving { gate: Some(Arc::clone(&gate)) }).unwrap();
    gate.shut.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let leader = scope.spawn(|| state.checkpoint().map(|_| ()));
        has_entered.recv().unwrap();
        let version = rows.insert(1, Leaving { gate: None }).unwrap();
        let mut wait = pin!(state.wait_durable_async(version));
        let counted = Arc::new(Counted::default());
        let waker = Waker::from(Arc::clone(&counted));
        let mut context = Context::from_waker(&waker);
        assert!(wait.as_mut().poll(&mut context).is_pending());
        leave.send(()).unwrap();
        leader.join().expect("the drop is not the leader's affair").unwrap();
        assert_eq!((counted.0.load(Ordering::SeqCst), state.stats().caught_panics), (1, 1));
        assert!(matches!(wait.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
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

#[test]
fn a_value_that_panics_in_a_checkpoint_poisons_the_store_and_reopening_works() {
    let disk = FaultDisk::new();
    let state = StateManager::builder().fault_disk(&disk).open().unwrap();
    let rows = state.collection::<u32, Unwritable>("rows").unwrap();
    let left = Some(Arc::new(AtomicU32::new(1)));
    let version = rows.insert(1, Unwritable { left }).unwrap();
    assert_eq!(state.checkpoint().unwrap_err().kind(), ErrorKind::Poisoned);
    state.wait_durable(version).expect("the group was written before the checkpoint");
    assert_eq!(state.close().unwrap_err().kind(), ErrorKind::Poisoned);
    let again = StateManager::builder().fault_disk(&disk).open().unwrap();
    assert_eq!(again.version(), version);
    assert_eq!(again.collection::<u32, Unwritable>("rows").unwrap().len(), 1);
}
