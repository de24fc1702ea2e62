//! What an attempt and its handler share with whoever kills or cancels.
//!
//! Rules that hold here:
//!
//! 1. The flags that say something to the handler are hints. What decides is the phase of the task, under the lock of the fleet. An
//!    attempt is told that it is revoked in the step that takes its task away, so one that was told has lost.
//! 2. Whoever leaves a waker looks at the flag under the lock under which wakers are taken, and a flag is set
//!    before they are taken: so no wake-up is lost.
//! 3. Wakers are taken out under locks, and called and dropped outside of them.
//! 4. A worker has a signal of its own, for the tasks that it takes from the queue one after the other: the next one is
//!    given to it under the lock of the fleet, after the attempt before has come back or lost its task. Whoever says
//!    something by it holds that lock too, and has it from the phase of a task: so it says it to that attempt.

use std::sync::Arc;
use std::task::{Poll, Waker};

use crossbeam::utils::CachePadded;

use super::progress::Progress;
use super::wakers::WakerSet;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Signal {
    revoked: AtomicBool,
    cancelled: AtomicBool,
    /// Whether there is a talk: a hint, which who has the signal alone trusts.
    talked: AtomicBool,
    /// The other way: the handler has its agent stop once this attempt has ended.
    stops: AtomicBool,
    /// Made when first needed: most attempts report nothing and wait for nothing.
    talk: Mutex<Option<Box<Talk>>>,
}

#[derive(Debug, Default)]
struct Talk {
    progress: Option<Progress>,
    listeners: WakerSet,
}

/// What a handler may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Revoked,
    Cancelled,
}

impl Signal {
    pub(super) fn report(&self, progress: Progress) {
        // Relaxed: the handler returns, or joins those that it had report, before anybody trusts it.
        self.talked.store(true, Ordering::Relaxed);
        let before = self.talk.lock().get_or_insert_default().progress.replace(progress);
        drop(before);
    }

    pub(super) fn progress(&self) -> Option<Progress> {
        self.talk.lock().as_ref()?.progress.clone()
    }

    const fn flag(&self, word: Word) -> &AtomicBool {
        match word {
            Word::Revoked => &self.revoked,
            Word::Cancelled => &self.cancelled,
        }
    }

    pub(super) fn is(&self, word: Word) -> bool {
        // Relaxed: a hint (rule 1).
        self.flag(word).load(Ordering::Relaxed)
    }

    /// Says so to a handler that does not wait to hear it: one that is no future.
    pub(super) fn revoke(&self) {
        // Relaxed: a hint (rule 1).
        self.revoked.store(true, Ordering::Relaxed);
    }

    /// Says so, and has whoever waits to hear it woken.
    pub(super) fn say(&self, word: Word, wakes: &mut Vec<Waker>) {
        // Relaxed: a hint (rule 1); the lock orders it for those who wait (rule 2).
        self.flag(word).store(true, Ordering::Relaxed);
        if let Some(talk) = self.talk.lock().as_mut() {
            talk.listeners.take_into(wakes);
        }
    }

    /// Has the agent stop once this attempt has ended.
    pub(super) fn stop_agent(&self) {
        // Relaxed: read by whoever ends the attempt, after the handler has returned or the future has resolved.
        self.stops.store(true, Ordering::Relaxed);
    }

    /// Whether the handler has its agent stop.
    #[inline]
    pub(super) fn stops_agent(&self) -> bool {
        self.stops.load(Ordering::Relaxed)
    }

    /// The agent is stopped, or not any more this one.
    pub(super) fn reset_stop(&self) {
        self.stops.store(false, Ordering::Relaxed);
    }

    /// For the next who has it; a mailbox has no more than one handler at a time.
    pub(super) fn reset(&self) {
        // Relaxed: under the lock of the mailbox, as is the revoking of a turn.
        self.revoked.store(false, Ordering::Relaxed);
    }

    /// Waits to be told.
    pub(super) fn poll(&self, word: Word, key: &mut Option<u64>, waker: Waker) -> Poll<()> {
        let replaced = {
            let mut talk = self.talk.lock();
            if self.is(word) {
                drop(talk);
                drop(waker);
                return Poll::Ready(());
            }
            let listeners = &mut talk.get_or_insert_default().listeners;
            let key = *key.get_or_insert_with(|| listeners.key());
            listeners.register(key, waker)
        };
        drop(replaced);
        Poll::Pending
    }

    /// Waits no longer.
    pub(super) fn forget(&self, key: Option<u64>) {
        let Some(key) = key else { return };
        let waker = self.talk.lock().as_mut().and_then(|talk| talk.listeners.remove(key));
        drop(waker);
    }
}

/// By which signal an attempt is told.
#[derive(Clone, Debug)]
pub(super) enum Whose {
    /// That of the worker that runs it.
    Worker(usize),
    /// Its own, which its future and others have as long as they like.
    Own(Arc<Signal>),
}

/// The signals of the workers (rule 4).
#[derive(Clone, Debug)]
pub(super) struct Signals(Arc<[CachePadded<Signal>]>);

impl Signals {
    pub(super) fn new(workers: u16) -> Self {
        Self((0..workers).map(|_| CachePadded::new(Signal::default())).collect())
    }

    /// The signal by which an attempt is told.
    #[inline]
    pub(super) fn of<'a>(&'a self, whose: &'a Whose) -> &'a Signal {
        match whose {
            Whose::Worker(worker) => &self.0[*worker],
            Whose::Own(signal) => signal,
        }
    }

    /// Gives the signal of a worker to its next attempt.
    #[inline]
    pub(super) fn renew(&self, worker: usize) -> Whose {
        let signal = &self.0[worker];
        // Relaxed, all: under the lock of the fleet, as is what is said by it; and see `report`.
        signal.revoked.store(false, Ordering::Relaxed);
        signal.cancelled.store(false, Ordering::Relaxed);
        signal.stops.store(false, Ordering::Relaxed);
        if signal.talked.load(Ordering::Relaxed) {
            signal.talked.store(false, Ordering::Relaxed);
            // No listeners are in it: handlers that are no futures have none.
            drop(signal.talk.lock().take());
        }
        Whose::Worker(worker)
    }
}
