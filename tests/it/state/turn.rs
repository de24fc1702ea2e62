//! Commits take turns: what gets through, and what code of the host may do there.

use std::cell::{Cell, RefCell};
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::{Mutex, mpsc};
use std::{panic, thread};

use phalanx::ErrorKind;
use phalanx::state::{Collection, StateManager, Version};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Hash,
    Eq,
}

type Hook = Box<dyn FnMut(Call)>;

thread_local! {
    /// What the key [`HOOKED`] does on this thread where it is hashed or compared.
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

const HOOKED: u32 = 500;

fn hook(hook: impl FnMut(Call) + 'static) {
    HOOK.set(Some(Box::new(hook)));
}

fn unhook() {
    HOOK.take();
}

#[derive(Clone, Debug, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Hooked(u32);

impl Hooked {
    fn called(&self, call: Call) {
        // Taken out meanwhile: what the hook does is not hooked.
        if self.0 == HOOKED
            && let Some(mut hook) = HOOK.take()
        {
            hook(call);
            HOOK.set(Some(hook));
        }
    }
}

impl Hash for Hooked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.called(Call::Hash);
        self.0.hash(state);
    }
}

impl PartialEq for Hooked {
    fn eq(&self, other: &Self) -> bool {
        self.called(Call::Eq);
        self.0 == other.0
    }
}

fn hooked_state() -> (StateManager, Collection<Hooked, u32>) {
    let state = StateManager::in_memory();
    let rows = state.collection("rows").unwrap();
    (state, rows)
}

#[test]
fn a_large_transaction_gets_through_beside_a_stream_of_small_ones() {
    let (state, rows) = hooked_state();
    let (go, told) = mpsc::channel();
    let (looks, overtaken) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let small = thread::scope(|scope| {
        let rows = &rows;
        let small = scope.spawn(move || {
            told.iter().map(|key| rows.insert(Hooked(key), 0).unwrap()).collect::<Vec<_>>()
        });
        let go_on = go.clone();
        let ((), version) = state
            .transaction(|tx| {
                for key in 0..1000 {
                    tx.insert(rows, Hooked(key), 1);
                }
                // From here on the key is hashed where the writes are applied, and then a small commit
                // comes: it gets in between, or waits for its turn.
                let (state, go) = (state.clone(), go_on.clone());
                let (looks, overtaken) = (Rc::clone(&looks), Rc::clone(&overtaken));
                hook(move |_| {
                    let before = state.version();
                    if state.stats().waiting_commits == 0 {
                        assert!(looks.get() < 100, "it never gets through");
                        go.send(10_000 + looks.get()).unwrap();
                        looks.set(looks.get() + 1);
                    }
                    while state.version() == before && state.stats().waiting_commits == 0 {
                        thread::yield_now();
                    }
                    overtaken.set(overtaken.get() + u32::from(state.version() != before));
                });
                Ok(())
            })
            .unwrap();
        unhook();
        drop((go, go_on));
        assert_eq!(version, Version::from_u64(1));
        small.join().unwrap()
    });
    assert_eq!((looks.get(), overtaken.get()), (1, 0));
    assert_eq!(small, [Version::from_u64(2)], "who waited gets the next turn");
    assert_eq!((rows.len(), state.stats().reruns), (1001, 0));
    assert_eq!(state.stats().waiting_commits, 0);
}

#[test]
fn a_key_that_panics_under_the_turn_leaves_nothing_and_the_turn_free() {
    for call in [Call::Hash, Call::Eq] {
        let (state, rows) = hooked_state();
        rows.insert(Hooked(HOOKED), 0).unwrap();
        let thrown = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            state.transaction(|tx| {
                for key in 0..1000 {
                    tx.insert(&rows, Hooked(key), 1);
                }
                hook(move |made| assert!(made != call, "a hostile key"));
                Ok(())
            })
        }));
        unhook();
        assert!(thrown.is_err());
        assert_eq!((state.version(), rows.len()), (Version::from_u64(1), 1));
        thread::scope(|scope| {
            scope.spawn(|| rows.insert(Hooked(1), 1).unwrap());
        });
        rows.insert(Hooked(HOOKED), 2).unwrap();
        assert_eq!((state.version(), rows.len()), (Version::from_u64(3), 2));
    }
}

#[test]
fn a_key_that_commits_under_the_turn_is_refused_and_may_read() {
    for call in [Call::Hash, Call::Eq] {
        let (state, rows) = hooked_state();
        let other = state.collection::<u32, u32>("other").unwrap();
        other.insert(1, 7).unwrap();
        rows.insert(Hooked(HOOKED), 0).unwrap();
        let (state_too, other_too) = (state.clone(), other.clone());
        let refused = Rc::new(Cell::new(0));
        let counted = Rc::clone(&refused);
        let ((), version) = state
            .transaction(|tx| {
                tx.insert(&rows, Hooked(HOOKED), 1);
                let (state, other, refused) =
                    (state_too.clone(), other_too.clone(), Rc::clone(&counted));
                hook(move |made| {
                    if made == call {
                        let kind = other.insert(1, 8).unwrap_err().kind();
                        assert_eq!(kind, ErrorKind::Reentrant);
                        let kind = state.collection::<u8, u8>("new").unwrap_err().kind();
                        assert_eq!(kind, ErrorKind::Reentrant);
                        assert!(state.collection::<u32, u32>("other").is_ok(), "it is there");
                        assert_eq!(
                            (other.get(&1), state.snapshot().get(&other, &1)),
                            (Some(7), Some(7))
                        );
                        refused.set(refused.get() + 1);
                    }
                });
                Ok(())
            })
            .unwrap();
        unhook();
        assert!(refused.get() > 0);
        assert_eq!((version, rows.get(&Hooked(HOOKED))), (Version::from_u64(3), Some(1)));
        other.insert(1, 9).expect("the turn is over");
        assert!(state.collection::<u8, u8>("new").is_ok());
    }
}

/// Commits when it is dropped.
#[derive(Clone, Serialize, Deserialize)]
struct Committing {
    #[serde(skip)]
    to: Option<Collection<u32, u32>>,
}

static COMMITTED: Mutex<Vec<Version>> = Mutex::new(Vec::new());

impl Drop for Committing {
    fn drop(&mut self) {
        if let Some(rows) = &self.to {
            COMMITTED.lock().unwrap().push(rows.insert(1, 1).expect("no turn is held"));
        }
    }
}

#[test]
fn a_value_that_commits_in_its_drop_is_dropped_after_the_turn() {
    let state = StateManager::in_memory();
    let (rows, other) = (state.collection("rows").unwrap(), state.collection("other").unwrap());
    state
        .transaction(|tx| {
            // A commit in between, of which only the root that is replaced next has the value.
            rows.insert(1u32, Committing { to: Some(other.clone()) })?;
            tx.insert(&rows, 1, Committing { to: None });
            Ok(())
        })
        .unwrap();
    assert_eq!(*COMMITTED.lock().unwrap(), [Version::from_u64(3)]);
    assert_eq!(other.get(&1), Some(1));
}

#[cfg(all(feature = "durable", feature = "bincode"))]
#[test]
fn a_commit_that_finds_no_room_waits_for_those_before_it_whatever_its_size() {
    use phalanx::state::FaultDisk;

    let disk = FaultDisk::new();
    let state = StateManager::builder().fault_disk(&disk).max_pending_bytes(50).open().unwrap();
    let rows = state.collection::<u32, String>("rows").unwrap();
    let first = rows.insert(1, "a".to_owned()).unwrap();
    let large = rows.insert(2, "b".repeat(1000)).unwrap();
    assert_eq!((state.stats().stalls, state.durable_version()), (0, Version::ZERO));
    assert!(state.stats().pending_bytes > 1000);
    let third = rows.insert(3, "c".to_owned()).unwrap();
    assert_eq!((state.stats().stalls, state.durable_version()), (1, large));
    assert_eq!(state.stats().pending_commits, 1);
    state.close().unwrap();
    let again = StateManager::builder().fault_disk(&disk).open().unwrap();
    assert_eq!((first.as_u64(), again.version()), (1, third));
}
