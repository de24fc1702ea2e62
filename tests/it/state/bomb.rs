//! A value whose drop panics, and that does something else first where it is cloned or written.

use std::cell::{Cell, RefCell};
use std::thread;

use phalanx::state::StateManager;
use serde::{Deserialize, Serialize, Serializer};

/// Where it holds `true`, it panics when it is dropped on a thread that has [armed](arm) it; once.
#[derive(Deserialize)]
pub(super) struct Bomb(pub(super) bool);

type Hook = Box<dyn FnOnce()>;

thread_local! {
    static ARMED: Cell<bool> = const { Cell::new(false) };
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// The next drop of one that holds `true` on this thread panics.
pub(super) fn arm() {
    ARMED.set(true);
}

pub(super) fn is_armed() -> bool {
    ARMED.get()
}

/// What the next clone or encoding of any of them on this thread does first.
pub(super) fn on_next_use(hook: impl FnOnce() + 'static) {
    HOOK.set(Some(Box::new(hook)));
}

fn used() {
    if let Some(hook) = HOOK.take() {
        hook();
    }
}

/// Runs `f`, in which one goes off: that is caught and counted, and `f` returns.
pub(super) fn goes_off_in<R>(state: &StateManager, what: &str, f: impl FnOnce() -> R) -> R {
    let before = state.stats().caught_panics;
    arm();
    let result = f();
    assert!(!is_armed(), "{what}: nothing was dropped");
    assert_eq!(state.stats().caught_panics, before + 1, "{what}");
    result
}

impl Clone for Bomb {
    fn clone(&self) -> Self {
        used();
        Self(self.0)
    }
}

impl Serialize for Bomb {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        used();
        serializer.serialize_newtype_struct("Bomb", &self.0)
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 && ARMED.get() && !thread::panicking() {
            ARMED.set(false);
            panic!("a hostile drop");
        }
    }
}
