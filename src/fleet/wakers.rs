//! Who is to be woken, and user code run where it can do no harm.
//!
//! Wakers are user code: they are cloned before a lock is taken, called and dropped after it is given
//! back, and a panic in one does not keep the next from being called.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Wake, Waker};

use crate::sync::Mutex;

/// The wakers of those who wait for the same thing, each under a key of its own.
#[derive(Debug, Default)]
pub(super) struct WakerSet {
    entries: Vec<(u64, Waker)>,
    keys: u64,
}

impl WakerSet {
    /// A key for somebody who is going to wait.
    pub(super) const fn key(&mut self) -> u64 {
        self.keys += 1;
        self.keys
    }

    /// Registers a waker and gives back the one it replaces.
    pub(super) fn register(&mut self, key: u64, waker: Waker) -> Option<Waker> {
        match self.entries.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => Some(std::mem::replace(known, waker)),
            None => {
                self.entries.push((key, waker));
                None
            }
        }
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<Waker> {
        let index = self.entries.iter().position(|(known, _)| *known == key)?;
        // Not swap_remove: those who wait for room are woken in the order in which they came.
        Some(self.entries.remove(index).1)
    }

    pub(super) const fn len(&self) -> usize {
        self.entries.len()
    }

    /// The first to come, who stays registered.
    pub(super) fn first(&self) -> Option<u64> {
        self.entries.first().map(|(key, _)| *key)
    }

    /// The waker of the first to come. Only for sets of this crate's own wakers: it clones.
    pub(super) fn first_waker(&self) -> Option<Waker> {
        self.entries.first().map(|(_, waker)| waker.clone())
    }

    /// Takes all out, to be woken.
    pub(super) fn take_into(&mut self, wakes: &mut Vec<Waker>) {
        if !self.entries.is_empty() {
            wakes.extend(self.entries.drain(..).map(|(_, waker)| waker));
        }
    }
}

/// A waker of this crate's own in front of one of the host's, for a future: it may be cloned and dropped under locks.
///
/// It calls the one that it was given last, once. Who polls gives it a waker first, and looks after that.
pub(super) struct Relay {
    to: Mutex<Option<Waker>>,
}

impl Relay {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { to: Mutex::new(None) })
    }

    /// What is to be called from now on. The one before, if it was not called, is the caller's to drop.
    pub(super) fn set(&self, waker: Option<Waker>) -> Option<Waker> {
        std::mem::replace(&mut *self.to.lock(), waker)
    }

    pub(super) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(waker) = self.set(None) {
            waker.wake();
        }
    }
}

/// Runs user code; what it panicked with, if it did.
pub(super) fn guarded<R>(code: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        let message = describe(&*payload);
        // What is thrown may panic again when it is dropped.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(again);
        }
        message
    })
}

fn describe(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}
