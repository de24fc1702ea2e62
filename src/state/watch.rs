//! Readers of the changes of commits, as they come.
//!
//! Rules that hold here:
//!
//! 1. A watch goes past a commit only once it has handed it out, or found that it has nothing to do with it.
//! 2. What the log no longer has is told before anything that came after it.
//! 3. The host's code (a predicate, the `Eq` and `Clone` of keys) runs in the reader, under no lock.
//! 4. A watch holds the log and not the manager: it keeps neither the store's folder nor the state.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::changes::{Changes, Commit, Entry};
use super::feed::{Cursor, Feed, FeedId, Look};
use super::{Collection, Key, StateManager, Value, Version};
use crate::sync::Parker;

/// How many commits one poll looks at that have nothing to do with the watch, before it lets others run.
const LOOKS_MAX: u32 = 256;

/// What a [`Watch`] tells: of commits in memory, which a crash may still undo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent<E> {
    /// What a commit changed of what is watched.
    Changed(E),
    /// Changes up to `version` can no longer be told: take a [snapshot](StateManager::snapshot), which is of
    /// this version or a later one, and [`seek`](Watch::seek) to the version that it is of.
    Resync {
        /// The newest commit at that moment. Events go on behind it.
        version: Version,
    },
}

/// Why a [`Watch`] has nothing to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WatchError {
    /// Nothing yet; from [`Watch::try_recv`] alone.
    #[error("nothing has changed yet")]
    Empty,
    /// The time ran out; from [`Watch::recv_timeout`] alone.
    #[error("nothing changed in that time")]
    Timeout,
    /// The manager was closed, or its last handle dropped, and all that it committed was told.
    #[error("the state manager was closed")]
    Closed,
}

/// The place of a [`Watch`]: the version up to which it has told all, and of which opening of the state that version is.
///
/// It is what a reader of another process, or one that outlives this process, keeps to come back with
/// ([`Watch::seek_to`]); it can be written down and read again. The opening is a random number of 64 bits, drawn as a
/// manager is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WatchPosition {
    of: Option<FeedId>,
    version: Version,
}

impl WatchPosition {
    /// The version up to which all was told.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }
}

/// A reader of what commits change: of a whole state ([`StateManager::watch`]), of one collection
/// ([`Collection::watch`]), of one row or of some of them.
///
/// It tells every commit that changed something of what it watches, once, in the order of versions, with
/// all such rows of the commit together. A commit is told when it is visible, durable or not;
/// see [`StateManager::wait_durable`].
///
/// The changes are read from a log of recent commits in memory, whose limits are set in the
/// [builder](super::StateBuilder::change_log_commits). A reader that falls further behind, or that asks for what was
/// before the log began, gets [`WatchEvent::Resync`] in place of what it missed. The log begins with the first
/// watch of a manager, so one to come back to begins before it is needed.
///
/// Watching slows no commit down: it leaves its rows in the log and wakes who waits for that collection.
/// It lives in memory alone: after a restart only its [position](Self::position) is left, if the host kept that, and a
/// watch that begins there starts over.
///
/// A watch keeps neither the manager nor its folder open. Dropping it ends it. A clone is another reader at
/// the same place.
///
/// It is also a [`Stream`] of its events, which ends where [`Watch::recv`] would say [`WatchError::Closed`].
///
/// # Panics
/// Where it receives, as what the host watches by: a predicate, or the `Eq` and `Clone` of keys. The watch then stays
/// before that commit; [`seek`](Watch::seek) takes it past it.
///
/// ```
/// use std::collections::HashMap;
/// use phalanx::state::{StateManager, WatchEvent};
///
/// let state = StateManager::in_memory();
/// let ages = state.collection::<String, u32>("ages")?;
/// let mut watch = ages.watch();
/// let mut copy = HashMap::new();
/// ages.insert("ada".to_owned(), 36)?;
/// ages.remove(&"ada".to_owned())?;
/// state.close()?;
/// while let Ok(event) = watch.recv() {
///     match event {
///         WatchEvent::Changed(changes) => {
///             for change in &changes {
///                 match &change.new {
///                     Some(age) => copy.insert(change.key.clone(), **age),
///                     None => copy.remove(&change.key),
///                 };
///             }
///         }
///         WatchEvent::Resync { .. } => {
///             let now = state.snapshot();
///             copy = now.iter(&ages).map(|(name, age)| (name.clone(), *age)).collect();
///             watch.seek(now.version());
///         }
///     }
/// }
/// assert!(copy.is_empty());
/// # Ok::<(), phalanx::Error>(())
/// ```
pub struct Watch<E> {
    feed: Arc<Feed>,
    cursor: Cursor,
    select: Arc<Select<E>>,
}

/// What a commit means to a watch.
type Select<E> = dyn Fn(Entry) -> Option<E> + Send + Sync;

impl StateManager {
    /// Watches all collections, from now on.
    #[must_use]
    pub fn watch(&self) -> Watch<Commit> {
        let owner = Arc::clone(self.inner.owner());
        Watch::new(self.inner.feed(), None, move |entry| {
            Some(Commit::new(Arc::clone(&owner), entry))
        })
    }

    /// Watches all collections, from this version on: what was committed after it. See [`Watch::seek`].
    #[must_use]
    pub fn watch_from(&self, version: Version) -> Watch<Commit> {
        self.watch().from_version(version)
    }
}

impl<K: Key, V: Value> Collection<K, V> {
    /// Watches all rows, from now on.
    #[must_use]
    pub fn watch(&self) -> Watch<Changes<K, V>> {
        let id = self.id;
        Watch::new(self.inner.feed(), Some(id), move |entry| {
            Some(Changes::new(entry.version, entry.rows_of(id)?))
        })
    }

    /// Watches the row of one key, from now on, whether it is there or not.
    #[must_use]
    pub fn watch_key(&self, key: K) -> Watch<Changes<K, V>> {
        self.watch_where(move |other| *other == key)
    }

    /// Watches the rows whose key starts with these bytes, from now on: keys are strings (whose bytes are
    /// UTF-8) or byte strings.
    ///
    /// ```
    /// use phalanx::state::StateManager;
    ///
    /// let state = StateManager::in_memory();
    /// let tasks = state.collection::<String, u32>("tasks")?;
    /// let mut of_ada = tasks.watch_prefix("ada/");
    /// tasks.insert("bob/1".to_owned(), 1)?;
    /// assert!(of_ada.try_recv().is_err());
    /// tasks.insert("ada/1".to_owned(), 1)?;
    /// assert!(of_ada.try_recv().is_ok());
    /// # Ok::<(), phalanx::Error>(())
    /// ```
    #[must_use]
    pub fn watch_prefix(&self, prefix: impl AsRef<[u8]>) -> Watch<Changes<K, V>>
    where
        K: AsRef<[u8]>,
    {
        let prefix: Box<[u8]> = prefix.as_ref().into();
        self.watch_where(move |key| key.as_ref().starts_with(&prefix))
    }

    /// Watches the rows whose key is such, from now on.
    ///
    /// The predicate runs where the watch receives, for every changed row of the collection, and should
    /// depend on nothing but the key.
    #[must_use]
    pub fn watch_where(
        &self,
        is_watched: impl Fn(&K) -> bool + Send + Sync + 'static,
    ) -> Watch<Changes<K, V>> {
        let id = self.id;
        Watch::new(self.inner.feed(), Some(id), move |entry| {
            let rows = entry.rows_of::<K, V>(id)?;
            let rows: Vec<_> = rows.iter().filter(|row| is_watched(&row.key)).cloned().collect();
            (!rows.is_empty()).then(|| Changes::new(entry.version, Arc::new(rows)))
        })
    }
}

impl<E> Watch<E> {
    pub(super) fn new(
        feed: &Arc<Feed>,
        track: Option<usize>,
        select: impl Fn(Entry) -> Option<E> + Send + Sync + 'static,
    ) -> Self {
        let feed = Arc::clone(feed);
        let cursor = feed.subscribe(track);
        Self { feed, cursor, select: Arc::new(select) }
    }

    /// The same from this version on; see [`Watch::seek`].
    #[must_use]
    pub fn from_version(mut self, version: Version) -> Self {
        self.seek(version);
        self
    }

    /// Goes to this version, forward or back: what was committed after it is told, and nothing before.
    ///
    /// Where the log no longer has all of that, as before the first watch, the next event is a
    /// [`WatchEvent::Resync`]. So it is for a version that is newer than the state.
    ///
    /// It is for versions of this manager: those of its snapshots and commits. A version that was seen before
    /// a restart may have been lost in a crash and be another commit now, which a number alone does not tell; to come
    /// back from there is what [`seek_to`](Self::seek_to) is for.
    pub fn seek(&mut self, version: Version) {
        self.feed.seek(&mut self.cursor, version);
    }

    /// Goes to a place of which it, or any other watch of any opening of this state, once
    /// [said](Self::position) that it was there: what was committed after it is told, and nothing before.
    ///
    /// A place of another opening, as from before a restart, gets a [`WatchEvent::Resync`], whether what was
    /// seen there has survived or not: what came after it is not known. So does one of another state.
    ///
    /// ```
    /// use phalanx::state::{StateManager, WatchEvent};
    ///
    /// let state = StateManager::in_memory();
    /// let rows = state.collection::<u32, u32>("rows")?;
    /// let mut watch = rows.watch();
    /// rows.insert(1, 1)?;
    /// let seen = watch.position();
    /// assert!(matches!(watch.recv()?, WatchEvent::Changed(_)));
    /// watch.seek_to(seen);
    /// assert!(matches!(watch.recv()?, WatchEvent::Changed(_)), "again");
    ///
    /// // Another state, which has come to the same version.
    /// let other = StateManager::in_memory();
    /// let mut watch = other.watch();
    /// other.collection::<u32, u32>("rows")?.insert(1, 2)?;
    /// watch.seek_to(seen);
    /// assert!(matches!(watch.recv()?, WatchEvent::Resync { .. }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn seek_to(&mut self, position: WatchPosition) {
        self.feed.seek_to(&mut self.cursor, position.of, position.version);
    }

    /// The same from this place on; see [`Watch::seek_to`].
    #[must_use]
    pub fn from_position(mut self, position: WatchPosition) -> Self {
        self.seek_to(position);
        self
    }

    /// The version up to which it has told all that it watches.
    #[must_use]
    pub fn version(&self) -> Version {
        self.cursor.after()
    }

    /// Where it is: what to come back with, also to the same state opened again.
    #[must_use]
    pub fn position(&self) -> WatchPosition {
        WatchPosition { of: self.cursor.of(), version: self.cursor.after() }
    }

    /// Blocks until there is an event.
    ///
    /// # Errors
    /// [`WatchError::Closed`], once all is told.
    pub fn recv(&mut self) -> Result<WatchEvent<E>, WatchError> {
        self.recv_until(None)
    }

    /// Blocks until there is an event, for so long at most on the clock of the builder.
    ///
    /// # Errors
    /// [`WatchError::Timeout`], and [`WatchError::Closed`] once all is told.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<WatchEvent<E>, WatchError> {
        self.recv_until(Some(timeout))
    }

    fn recv_until(&mut self, timeout: Option<Duration>) -> Result<WatchEvent<E>, WatchError> {
        let deadline = timeout.map(|timeout| self.feed.clock().now() + timeout);
        let parker = Parker::new();
        let waker = parker.waker();
        let waiting = Waiting(self);
        loop {
            if let Poll::Ready(event) = waiting.0.poll(&waker) {
                return event;
            }
            let clock = waiting.0.feed.clock();
            // Asked for by itself: what is not watched may wake it again and again.
            let is_late = deadline.is_some_and(|deadline| clock.now() >= deadline);
            if is_late || !clock.park_until(&parker, deadline) {
                return Err(WatchError::Timeout);
            }
        }
    }

    /// An event if there is one; never blocks.
    ///
    /// # Errors
    /// [`WatchError::Empty`], and [`WatchError::Closed`] once all is told.
    pub fn try_recv(&mut self) -> Result<WatchEvent<E>, WatchError> {
        // However fast commits come, it ends at what there is now.
        let newest = self.feed.newest();
        loop {
            match self.step(None) {
                Step::Event(event) => return Ok(event),
                Step::End => return Err(WatchError::Closed),
                Step::Passed if self.cursor.after() <= newest => {}
                Step::Passed | Step::Nothing => return Err(WatchError::Empty),
            }
        }
    }

    /// [`Watch::recv`] as a future of no particular runtime.
    ///
    /// Cancel safe: an event is taken in the poll that is ready with it, and in no other.
    ///
    /// # Errors
    /// Those of [`Watch::recv`].
    pub fn recv_async(
        &mut self,
    ) -> impl Future<Output = Result<WatchEvent<E>, WatchError>> + Send + use<'_, E> {
        Waiting(self)
    }

    /// One look; leaves the waker behind where there is nothing.
    pub(super) fn poll(&mut self, waker: &Waker) -> Poll<Result<WatchEvent<E>, WatchError>> {
        for _ in 0..LOOKS_MAX {
            let step = match self.step(None) {
                Step::Nothing => self.step(Some(waker)),
                step => step,
            };
            match step {
                Step::Event(event) => return Poll::Ready(Ok(event)),
                Step::End => return Poll::Ready(Err(WatchError::Closed)),
                Step::Nothing => return Poll::Pending,
                Step::Passed => {}
            }
        }
        waker.wake_by_ref();
        Poll::Pending
    }

    fn step(&mut self, waker: Option<&Waker>) -> Step<E> {
        match self.feed.look(&mut self.cursor, waker) {
            Look::Commit(entry) => {
                let version = entry.version;
                let whole = entry.clone();
                let selected = (self.select)(entry);
                self.cursor.pass(version);
                // The log may have let go of it meanwhile, and not all of it is what is watched.
                self.feed.let_go(whole);
                selected.map_or(Step::Passed, |event| Step::Event(WatchEvent::Changed(event)))
            }
            Look::Resync(version) => Step::Event(WatchEvent::Resync { version }),
            Look::Nothing => Step::Nothing,
            Look::End => Step::End,
        }
    }
}

/// What one look came to.
enum Step<E> {
    Event(WatchEvent<E>),
    /// A commit that has nothing of what is watched.
    Passed,
    Nothing,
    End,
}

impl<E> Stream for Watch<E> {
    type Item = WatchEvent<E>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx.waker()).map(Result::ok)
    }
}

impl<E> Clone for Watch<E> {
    fn clone(&self) -> Self {
        let feed = Arc::clone(&self.feed);
        let cursor = feed.fork(&self.cursor);
        Self { feed, cursor, select: Arc::clone(&self.select) }
    }
}

impl<E> Drop for Watch<E> {
    fn drop(&mut self) {
        self.feed.unsubscribe(&mut self.cursor);
    }
}

impl<E> fmt::Debug for Watch<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("version", &self.version()).finish_non_exhaustive()
    }
}

/// One wait; what it left behind goes with it.
struct Waiting<'a, E>(&'a mut Watch<E>);

impl<E> Future for Waiting<'_, E> {
    type Output = Result<WatchEvent<E>, WatchError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().0.poll(cx.waker())
    }
}

impl<E> Drop for Waiting<'_, E> {
    fn drop(&mut self) {
        self.0.feed.forget(&mut self.0.cursor);
    }
}
