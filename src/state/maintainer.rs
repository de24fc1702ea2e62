//! A thread that maintains a state, where the host asks for one.
//!
//! Rules that hold here:
//!
//! 1. There is one at most. It has its place from before it is started until it has ended, however it ends; with
//!    the place it gives up that polls leave their writes to it.
//! 2. It ends when its [`Maintainer`] is dropped or the state is closed, after one whole round that begins after that.
//! 3. Who drops the [`Maintainer`] waits for that end, but for a thread that the last round may wait for: itself, one
//!    that has the turn of commits, and one that has the sink or a checkpoint.
//! 4. Woken to write, it writes and does nothing else, so that who is polled for waits for no more than the round that
//!    was under way. Where a checkpoint is overdue, which leaders leave to it, that comes next, in whole rounds.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "durable")]
use super::journal::Advance;
use super::manager::Inner;
use super::{Maintenance, StateManager};
use crate::clock::Timestamp;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, Parker, thread};
use crate::{Error, ErrorKind};

const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// A thread that calls [`StateManager::maintain`]; from [`StateManager::maintain_every`].
///
/// It runs until this is dropped, or until the state is closed, and holds the state and its folder so long.
///
/// # Blocking
/// Dropping it waits for the round that is under way and for a last one, which writes what was committed at
/// [`Durability::Buffered`](super::Durability::Buffered) until then; so a task of an async runtime drops it on a
/// thread for blocking work. Nobody should drop it under a lock that the drop of a value or a waker takes: the last
/// round may run those. Where it is dropped within a round of its own, within a commit or within a write of the
/// state (by a waker, the drop of a value, the code of a key, a rule, a `Serialize`) that does not wait: the thread
/// goes on to its last round by itself, and holds the folder until that is over.
#[must_use = "the thread ends when this is dropped; bind it to a name"]
pub struct Maintainer {
    shared: Arc<Shared>,
    /// None once it was waited for.
    thread: Option<thread::JoinHandle<()>>,
    state: StateManager,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    parker: Parker,
    last: Mutex<Maintenance>,
}

impl StateManager {
    /// Starts a thread, named `phalanx-state`, that calls [`StateManager::maintain`] every `interval` on the builder's
    /// clock, and again at once while there is more to do. It ends with what is returned.
    ///
    /// With it a commit at [`Durability::Buffered`](super::Durability::Buffered) is written an `interval` after it at
    /// the latest, or when the round under way is over; automatic snapshots are kept and old ones let go of on time,
    /// and large old states are freed off the writers' path. Who awaits [`StateManager::wait_durable_async`] does not
    /// wait for the interval: the thread writes at once, or when its round is over (which may have 100,000 rows to
    /// free, or steps of a checkpoint to do), and no `poll` blocks for the disk. Threads that wait
    /// ([`StateManager::wait_durable`], commits at [`Durability::Synced`](super::Durability::Synced)) write for
    /// themselves as without it, but a checkpoint that is
    /// [overdue](super::StateBuilder::checkpoint_every_bytes) is ended by this thread, which is woken for that, and not
    /// by who writes a group.
    ///
    /// 100 ms suits most hosts, and 1 ms is the least. A state that lives in memory alone may be maintained so too.
    ///
    /// Rounds run code of the host: wakers, drops of values, `Serialize` within a checkpoint. A panic there is caught,
    /// and counted in [`StateStats::caught_panics`](super::StateStats::caught_panics). What such code waits for must
    /// not await the durability of a commit: it would be this thread that had to write it. (On the thread itself, who
    /// polls for the disk writes.)
    ///
    /// A store that fails in the background says so wherever it is asked: every later commit and wait gets
    /// [`ErrorKind::Poisoned`], and [`StateStats::poisoned`](super::StateStats::poisoned) and
    /// [`Maintainer::last_round`] say so. That the thread runs is
    /// [`StateStats::maintained`](super::StateStats::maintained).
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] while another one runs; [`ErrorKind::Closed`]; [`ErrorKind::Poisoned`] after a
    /// failed write; [`ErrorKind::InvalidArgument`] for an interval of less than 1 ms; [`ErrorKind::Io`] where the
    /// system starts no thread.
    ///
    /// ```
    /// use phalanx::state::StateManager;
    /// use std::time::Duration;
    ///
    /// # #[cfg(all(feature = "durable", any(feature = "bincode", feature = "postcard")))]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// let state = StateManager::builder().path(folder).open()?;
    /// let maintainer = state.maintain_every(Duration::from_millis(100))?;
    /// let ages = state.collection::<String, u32>("ages")?;
    /// let version = ages.insert("ada".to_owned(), 36)?;
    /// drop(maintainer);
    /// assert_eq!(state.durable_version(), version);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(all(feature = "durable", any(feature = "bincode", feature = "postcard"))))]
    /// # fn main() {}
    /// ```
    pub fn maintain_every(&self, interval: Duration) -> Result<Maintainer, Error> {
        if interval < INTERVAL_MIN {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "a state is maintained at intervals of at least 1 ms",
            ));
        }
        let shared = Arc::new(Shared::default());
        let place = Place::take(self, &shared)?;
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("phalanx-state".to_owned())
            .spawn(move || run(&place, &theirs, interval))
            .map_err(|error| {
                Error::with_source(
                    ErrorKind::Io,
                    "could not start the thread that maintains",
                    error,
                )
            })?;
        Ok(Maintainer { shared, thread: Some(thread), state: self.clone() })
    }
}

/// Rounds, until it is told to end or the state is closed.
fn run(place: &Place, shared: &Shared, interval: Duration) {
    let inner = &*place.0.inner;
    inner.serve(&shared.parker);
    let clock = inner.kept.clock();
    // Ordering: Relaxed, both. What was committed before the end is seen by the round below all the same: a load that
    // sees the store cannot come before a commit that the store comes after, in the order of the journal's lock,
    // which each of them takes next to it. What is committed before a close the close writes. A close that came before
    // the place was taken left no token, and is seen by the first look: both took the lock of the place.
    let is_over = || shared.ended.load(Ordering::Relaxed) || inner.closed.load(Ordering::Relaxed);
    let mut next = clock.now() + interval;
    loop {
        let rung = !is_over() && shared.sleep(inner, next);
        let last = is_over();
        if rung && !last && clock.now() < next {
            // Rule 4.
            inner.write_wanted();
            if !inner.is_checkpoint_overdue() {
                continue;
            }
        }
        let begun = clock.now();
        let done = place.0.maintain();
        *shared.last.lock() = done;
        if last {
            return;
        }
        let more =
            done.pending_releases > 0 || done.checkpoint_more || inner.goes_on(&shared.parker);
        next = if more { begun } else { begun + interval };
    }
}

impl Shared {
    /// Until the next round is due; whether something came before that.
    fn sleep(&self, inner: &Inner, next: Timestamp) -> bool {
        inner.kept.clock().park_until(&self.parker, Some(next))
    }
}

impl Maintainer {
    /// What the last round did; nothing before the first one. Rounds that only wrote for who polls are none.
    #[must_use]
    pub fn last_round(&self) -> Maintenance {
        *self.shared.last.lock()
    }
}

impl Drop for Maintainer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.shared.parker.waker().wake();
        let Some(thread) = self.thread.take() else { return };
        if thread.thread().id() != thread::current().id() && self.state.inner.may_wait() {
            // Rounds let nothing unwind. What could is the drop of a state that this is not the last to hold.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Maintainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maintainer")
            .field("state", &self.state)
            .field("last_round", &self.last_round())
            .finish_non_exhaustive()
    }
}

/// The place of the one thread (rule 1).
struct Place(StateManager);

impl Place {
    fn take(state: &StateManager, shared: &Shared) -> Result<Self, Error> {
        state.inner.check_open()?;
        let mut maintained = state.inner.maintained.lock();
        if maintained.is_some() {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "a thread maintains this state already",
            ));
        }
        *maintained = Some(shared.parker.waker());
        Ok(Self(state.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let inner = &*self.0.inner;
        #[cfg(feature = "durable")]
        if let Some(durable) = &inner.durable {
            durable.journal.unserve();
        }
        *inner.maintained.lock() = None;
    }
}

impl Inner {
    /// Has the thread look whether the state was closed, if there is one.
    pub(super) fn end_maintenance(&self) {
        let thread = self.maintained.lock().clone();
        if let Some(thread) = thread {
            thread.wake();
        }
    }

    /// From now on polls leave their writes to this thread.
    fn serve(&self, parker: &Parker) {
        #[cfg(feature = "durable")]
        if let Some(durable) = &self.durable {
            durable.journal.serve(parker.waker());
        }
        #[cfg(not(feature = "durable"))]
        let _ = parker;
    }

    fn is_checkpoint_overdue(&self) -> bool {
        #[cfg(feature = "durable")]
        if let Some(durable) = &self.durable {
            return durable.journal.is_overdue();
        }
        false
    }

    /// Gets on with a checkpoint that is overdue; where others have it, this thread is woken when they have put it
    /// back.
    fn goes_on(&self, parker: &Parker) -> bool {
        #[cfg(feature = "durable")]
        if let Some(durable) = &self.durable
            && durable.journal.is_overdue()
        {
            let waker = parker.waker();
            return matches!(durable.journal.advance(Some(&waker)), Ok(Advance::Stepped));
        }
        let _ = parker;
        false
    }

    /// Whether this thread has nothing that a round waits for (rule 3).
    fn may_wait(&self) -> bool {
        #[cfg(feature = "durable")]
        if let Some(durable) = &self.durable
            && durable.journal.may_be_waited_for()
        {
            return false;
        }
        !self.turn.is_mine()
    }
}
