//! The members of a group that wait for a delivery.
//!
//! 1. Whoever waits enters first, looks then, and only then sleeps. Whoever changes what is waited for makes the
//!    change first and wakes then. Both go through the lock of the queue, so one of the two sees the other, and
//!    no wake-up is lost.
//! 2. A waker is the code of somebody else: it is cloned, called and dropped outside the lock.
//! 3. An entry leaves by its owner or by whoever wakes it, and the owner learns which it was: one that was woken
//!    and does not look passes the wake on.
//! 4. Whose waker panics may not look, so that another one is woken in its place.
//! 5. The set knows nothing of events and of the bus. So it may be the waker of the group's subscription, which
//!    lies in the bus, without the two keeping each other alive.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Wake, Waker};

use super::super::dead_letters::attempt;
use super::super::wait::{first_of, pass_on};
use crate::sync::Mutex;

#[derive(Debug)]
pub(super) struct Waiters {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    next_key: u64,
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    key: u64,
    member: u64,
    waker: Waker,
}

/// Names an entry for its owner.
#[derive(Debug)]
pub(super) struct Place(u64);

impl Waiters {
    pub(super) fn new() -> Self {
        Self { queue: Mutex::new(Queue::default()) }
    }

    pub(super) fn enter(&self, member: u64, waker: Waker) -> Place {
        let mut queue = self.queue.lock();
        let key = queue.next_key;
        queue.next_key = key.wrapping_add(1);
        queue.entries.push_back(Entry { key, member, waker });
        Place(key)
    }

    /// Leaves; whether it was woken before.
    pub(super) fn leave(&self, place: &Place) -> bool {
        let mut queue = self.queue.lock();
        let found = queue.entries.iter().position(|entry| entry.key == place.0);
        let entry = found.and_then(|index| queue.entries.remove(index));
        drop(queue);
        entry.is_none()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.lock().entries.is_empty()
    }

    /// Takes out the first who waits, for the caller to wake.
    pub(super) fn first(&self) -> Option<Waker> {
        self.queue.lock().entries.pop_front().map(|entry| entry.waker)
    }

    /// Takes out the first who waits and is not this member.
    pub(super) fn first_but(&self, member: u64) -> Option<Waker> {
        let mut queue = self.queue.lock();
        let found = queue.entries.iter().position(|entry| entry.member != member)?;
        queue.entries.remove(found).map(|entry| entry.waker)
    }

    /// Takes out everybody.
    pub(super) fn all(&self) -> impl Iterator<Item = Waker> {
        let entries = std::mem::take(&mut self.queue.lock().entries);
        entries.into_iter().map(|entry| entry.waker)
    }
}

/// What the group's subscription calls when an event may be there: one who waits is woken.
impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut done = Ok(());
        while let Some(waker) = self.first() {
            let woken = attempt(|| waker.wake());
            let is_woken = woken.is_ok();
            done = first_of(done, woken);
            if is_woken {
                break;
            }
        }
        pass_on(done);
    }
}
