//! The handle: collections, transactions, snapshots, and the wait for durability.
//!
//! Rules that hold here:
//!
//! 1. `root` is replaced only by who has the turn: by [`Inner::commit`] in `commit.rs` (the next version) and by `register`
//!    in `registry.rs` (a new empty collection, the same version).
//! 2. Under the turn a commit checks what was read, applies and publishes. Of the host's code only `Hash`,
//!    `Eq`, `Clone` and `Drop` of keys and the rules of collections run there; a panic of theirs ends the turn
//!    and leaves nothing behind.
//!    A restore that others got ahead of several times is worked out there too, and encoded: see
//!    `restore.rs`.
//! 3. No code of the host (closures, keys, values, serde) runs under any other lock, and values are
//!    neither cloned nor dropped under the turn: an old root outlives it.
//! 4. Locks are taken in the order turn, journal, registry, log of changes, root, `maintained`, and all but the turn only for a few
//!    pointer writes. Whoever holds one of them never waits for the disk.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::builder::Settings;
use super::codec::Codec;
#[cfg(feature = "durable")]
use super::disk::Counters;
use super::feed::Feed;
#[cfg(feature = "durable")]
use super::journal::{Journal, WaitDurable};
use super::keep::Kept;
use super::registry::Entry;
use super::release::{Held, Release};
use super::root::Root;
#[cfg(feature = "durable")]
use super::store::Keeper;
use super::turn::Turn;
use super::validate::Rules;
use super::{
    Abort, Collection, Durability, Key, RecoveryReport, Snapshot, StateBuilder, StateStats,
    Transaction, Value, Version,
};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};
use crate::{Error, ErrorKind};

/// How often a transaction's closure runs before it gives up.
const RUNS_MAX: u32 = 1000;

/// A handle of the state. Cheap to clone; clones are the same state.
///
/// All of it is in memory; a restart it survives as far as the store has it, which the
/// [levels of durability](Durability) say, and without a store not at all.
///
/// Reads never wait for the disk. A commit does at [`Durability::Synced`], and at any level where it finds the
/// pending deltas at their limit. The store's folder is held until the last handle, the last [`Collection`] and the
/// [`Maintainer`](super::Maintainer) are dropped, or until [`StateManager::close`]; dropping them does *not* write what nobody waited for.
///
/// ```
/// use phalanx::state::StateManager;
///
/// let state = StateManager::in_memory();
/// let accounts = state.collection::<String, i64>("accounts")?;
/// accounts.insert("ada".to_owned(), 100)?;
/// let (left, version) = state.transaction(|tx| {
///     let ada = tx.get(&accounts, &"ada".to_owned()).unwrap_or(0);
///     tx.insert(&accounts, "ada".to_owned(), ada - 30);
///     tx.insert(&accounts, "bob".to_owned(), 30);
///     Ok(ada - 30)
/// })?;
/// assert_eq!((left, state.version()), (70, version));
/// # Ok::<(), phalanx::Error>(())
/// ```
#[derive(Clone)]
pub struct StateManager {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) owner: Arc<Release>,
    pub(super) root: RwLock<Arc<Root>>,
    pub(super) turn: Turn,
    pub(super) feed: Open,
    pub(super) rules: Rules,
    pub(super) kept: Kept,
    pub(super) registry: Mutex<HashMap<Arc<str>, Entry>>,
    pub(super) codec: Option<Codec>,
    /// Of the host.
    pub(super) schema_version: u32,
    /// The level of commits that ask for no other.
    pub(super) durability: Durability,
    pub(super) closed: AtomicBool,
    /// The thread that maintains it, if there is one.
    pub(super) maintained: Mutex<Option<Waker>>,
    pub(super) commits: AtomicU64,
    pub(super) reruns: AtomicU64,
    aborts: AtomicU64,
    recovery: RecoveryReport,
    /// Rows that were decoded since, and for how many nanoseconds.
    pub(super) decoded_rows: AtomicU64,
    pub(super) decoding_ns: AtomicU64,
    #[cfg(feature = "durable")]
    pub(super) durable: Option<Durable>,
}

/// The log of changes, which takes none any more once this is gone.
pub(super) struct Open(pub(super) Arc<Feed>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(feature = "durable")]
pub(super) struct Durable {
    pub(super) journal: Journal<Keeper>,
    counters: Arc<Counters>,
}

impl StateManager {
    /// A state that lives in memory alone and ends with its last handle, with the default settings.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::of_memory(&Settings::default())
    }

    /// Configures a state: one that survives the process, or one in memory.
    pub fn builder() -> StateBuilder {
        StateBuilder::new()
    }

    pub(super) fn of_memory(settings: &Settings) -> Self {
        let owner = Release::new(settings.max_pending_releases);
        let root =
            Root { owner, version: Version::ZERO, replaced: 0, changed: 0, slots: Vec::new() };
        let recovery = RecoveryReport {
            created: true,
            schema_version: settings.schema_version,
            ..RecoveryReport::default()
        };
        Self::of_root(root, settings, recovery)
    }

    /// A state in memory that starts with these collections.
    pub(super) fn of_root(root: Root, settings: &Settings, recovery: RecoveryReport) -> Self {
        let feed = Feed::new(root.version, settings.change_log, settings.clock.clone());
        let registry = registry_of(&root);
        Self {
            inner: Arc::new(Inner {
                owner: Arc::clone(&root.owner),
                root: RwLock::new(Arc::new(root)),
                turn: Turn::new(),
                feed: Open(Arc::new(feed)),
                rules: Rules::default(),
                kept: Kept::new(settings.snapshots.clone(), settings.clock.clone()),
                registry: Mutex::new(registry),
                codec: settings.codec.or(Codec::preferred()),
                schema_version: settings.schema_version,
                durability: Durability::Memory,
                closed: AtomicBool::new(false),
                maintained: Mutex::new(None),
                commits: AtomicU64::new(0),
                reruns: AtomicU64::new(0),
                aborts: AtomicU64::new(0),
                recovery,
                decoded_rows: AtomicU64::new(0),
                decoding_ns: AtomicU64::new(0),
                #[cfg(feature = "durable")]
                durable: None,
            }),
        }
    }

    #[cfg(feature = "durable")]
    pub(super) fn recovered(
        root: Root,
        codec: Codec,
        keeper: Keeper,
        settings: &Settings,
        recovery: RecoveryReport,
    ) -> Self {
        let owner = Arc::clone(&root.owner);
        let registry = registry_of(&root);
        let root = Arc::new(root);
        let counters = keeper.counters();
        let journal = Journal::new(
            keeper,
            root.version,
            Held::new(Arc::clone(&root)),
            settings.max_pending_bytes,
        );
        let feed = Feed::new(root.version, settings.change_log, settings.clock.clone());
        Self {
            inner: Arc::new(Inner {
                owner,
                root: RwLock::new(root),
                turn: Turn::new(),
                feed: Open(Arc::new(feed)),
                rules: Rules::default(),
                kept: Kept::new(settings.snapshots.clone(), settings.clock.clone()),
                registry: Mutex::new(registry),
                codec: Some(codec),
                schema_version: settings.schema_version,
                durability: settings.durability.unwrap_or(Durability::Buffered),
                closed: AtomicBool::new(false),
                maintained: Mutex::new(None),
                commits: AtomicU64::new(0),
                reruns: AtomicU64::new(0),
                aborts: AtomicU64::new(0),
                recovery,
                decoded_rows: AtomicU64::new(0),
                decoding_ns: AtomicU64::new(0),
                durable: Some(Durable { journal, counters }),
            }),
        }
    }

    /// The collection of this name, which is made if there is none yet. It is no commit.
    ///
    /// On a recovered store the rows of the collection are decoded at the first call for it. Making a new one
    /// takes its turn among the commits; the handle of one that is there waits for none.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] where this process has opened the name with other types;
    /// [`ErrorKind::Codec`] where a stored row does not decode to these types (the message names it, and
    /// nothing is dropped); [`ErrorKind::Corrupt`] where two stored rows have one key;
    /// [`ErrorKind::InvalidArgument`] for a name that is empty or longer than 255 bytes;
    /// [`ErrorKind::LimitReached`] beyond 4096 collections; [`ErrorKind::Reentrant`] where a new one is
    /// asked for from within a commit of the same thread, by the code of a key.
    pub fn collection<K: Key, V: Value>(
        &self,
        name: &'static str,
    ) -> Result<Collection<K, V>, Error> {
        let id = self.inner.register::<K, V>(name)?;
        let inner = Arc::clone(&self.inner);
        Ok(Collection { inner, id, name, types: PhantomData, level: None })
    }

    /// Runs `f` and commits what it wrote, all or nothing; returns what it returned, and the version.
    ///
    /// Transactions are serializable, in the order of their versions. `f` runs without any lock held, on
    /// one version; where another commit changed what it had read, it runs again, so it should do nothing
    /// but read and write through the [`Transaction`]. Somebody's commit succeeds for each such rerun;
    /// reruns are counted in [`StateStats::reruns`]. A transaction that wrote nothing is no commit and
    /// returns the version that it read. A panic in `f` goes to the caller and leaves nothing behind.
    ///
    /// The commit is visible at once. Its [`Durability`] says what else this waits for: at
    /// [`Durability::Synced`] for the disk, and otherwise it is durable only when
    /// [`StateManager::wait_durable`] says so.
    ///
    /// A transaction that only writes never conflicts, however large it is. One that reads what others
    /// change faster than `f` runs may lose every time and ends with [`ErrorKind::Conflict`]: it should read
    /// less, or the host should have those who write the same rows take turns. The state does not hold the
    /// others back while `f` runs, since `f` may wait for one of them (a lock of the host's that somebody
    /// holds while committing), and then none would go on.
    ///
    /// # Blocking
    /// Commits take turns to check what they read and to apply what they wrote, in time proportional to those
    /// rows; this waits for those before it, in fair order. Reads and snapshots wait for none of it. Where the
    /// pending deltas are at their limit it waits until they are written, and others take their turns
    /// meanwhile.
    ///
    /// Keys are hashed, compared, cloned and dropped in the turn, and rules are asked. A key or a rule whose
    /// code waits there for another thread that commits waits for ever.
    ///
    /// # Errors
    /// [`ErrorKind::Aborted`] with the host's reason as its source; [`ErrorKind::Conflict`] after 1000
    /// reruns; [`ErrorKind::Closed`]; [`ErrorKind::Poisoned`] after a failed write;
    /// [`ErrorKind::Unsupported`] for a level of durability that needs a store where there is none;
    /// [`ErrorKind::Codec`] or [`ErrorKind::LimitReached`] for what cannot be stored;
    /// [`ErrorKind::InvalidArgument`] for a write to another manager's collection;
    /// [`ErrorKind::Rejected`] with the host's reason as its source where a
    /// [rule](Collection::validate_with) refuses a change;
    /// [`ErrorKind::Reentrant`] where the code of a key commits within a commit of the same thread.
    ///
    /// After an error nothing was committed, but for one: a commit at [`Durability::Synced`] that took place and could
    /// not be written ends with [`ErrorKind::Poisoned`] whose source is an
    /// [`Unacknowledged`](super::Unacknowledged), which [`Unacknowledged::of`](super::Unacknowledged::of) finds. It is
    /// visible in memory, was not acknowledged, and whether it survives
    /// is open; nothing can be committed after it.
    pub fn transaction<R>(
        &self,
        mut f: impl FnMut(&mut Transaction) -> Result<R, Abort>,
    ) -> Result<(R, Version), Error> {
        let inner = &*self.inner;
        for _ in 0..RUNS_MAX {
            inner.check_open()?;
            let base = inner.current();
            let version = base.version;
            let mut tx = Transaction::new(base);
            let result = match f(&mut tx) {
                Ok(result) => result,
                Err(abort) => {
                    inner.aborts.fetch_add(1, Ordering::Relaxed);
                    let reason = abort.into_reason();
                    let message = format!("the transaction gave up: {reason}");
                    return Err(Error::with_source(ErrorKind::Aborted, message, reason));
                }
            };
            if let Some(refused) = tx.take_refusal() {
                return Err(refused);
            }
            if tx.is_read_only() {
                return Ok((result, version));
            }
            if let Some(version) = inner.commit(tx)? {
                return Ok((result, version));
            }
            inner.reruns.fetch_add(1, Ordering::Relaxed);
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("other commits changed what the transaction reads {RUNS_MAX} times"),
        ))
    }

    /// The state as it is now, over all collections.
    ///
    /// O(1): takes a lock for as long as a pointer copy.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.inner.snapshot()
    }

    /// The newest commit.
    #[must_use]
    pub fn version(&self) -> Version {
        self.inner.root.read().version
    }

    /// Whether there is a store under it.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.inner.has_store()
    }

    /// The newest version that survives the process; [`Version::ZERO`] where there is no store.
    #[must_use]
    pub fn durable_version(&self) -> Version {
        #[cfg(feature = "durable")]
        if let Some(durable) = &self.inner.durable {
            return durable.journal.durable();
        }
        Version::ZERO
    }

    /// Blocks until `version` survives the process.
    ///
    /// It is a version of this opening: one that was not durable when an earlier process ended may be another commit by
    /// now, for which this would return at once. See [`Version`].
    ///
    /// The first that waits writes all pending commits as one group
    /// with one sync, for itself and everybody else, tells them, and does its part of a checkpoint if one is due:
    /// a [step](StateBuilder::checkpoint_step_bytes), or more after a group of more bytes. Where more
    /// waited for the last group than are there yet, it first waits for them to commit again, for half of what
    /// a write with its sync takes by the builder's clock and 5 ms at most, and ever more rarely where they do not
    /// come.
    ///
    /// # Errors
    /// [`ErrorKind::Poisoned`] where a write or sync failed, now or earlier: the commit is *not*
    /// acknowledged and whether it survives is open. [`ErrorKind::InvalidArgument`] for a version that
    /// was never committed, [`ErrorKind::Closed`], and [`ErrorKind::Unsupported`] where there is no store.
    pub fn wait_durable(&self, version: Version) -> Result<(), Error> {
        self.inner.wait_durable(version)
    }

    /// [`StateManager::wait_durable`] as a future of no particular runtime.
    ///
    /// Its waker is called once the group is written and, where a checkpoint is under way, one step of it is done.
    ///
    /// Its `poll` may be the one that leads, and then *blocks for the group, its write and its sync* (0.1 to
    /// 15 ms, and what it does of a checkpoint): on a runtime where that matters, have
    /// [`StateManager::maintain_every`] run.
    /// While it does, its thread writes for who polls, and no `poll` waits for the disk but on that thread itself.
    ///
    /// Cancel safe: a dropped wait takes nobody's wake-up along, and the commit stays committed.
    ///
    /// # Errors
    /// Those of [`StateManager::wait_durable`].
    pub fn wait_durable_async(
        &self,
        version: Version,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        #[cfg(feature = "durable")]
        let wait = self
            .inner
            .durable
            .is_some()
            .then(|| WaitDurable::new(DurableHandle(Arc::clone(&self.inner)), version));
        #[cfg(not(feature = "durable"))]
        let _ = version;
        async move {
            #[cfg(feature = "durable")]
            if let Some(wait) = wait {
                return wait.await;
            }
            Err(not_durable())
        }
    }

    /// Blocks until all that is committed now survives the process, and returns that version.
    ///
    /// # Errors
    /// Those of [`StateManager::wait_durable`].
    pub fn flush(&self) -> Result<Version, Error> {
        let version = self.version();
        self.wait_durable(version)?;
        Ok(version)
    }

    /// Writes the whole state as a checkpoint now and removes the deltas before it; returns its version.
    ///
    /// It happens by itself as the builder says. It blocks for the time of encoding and writing all rows and of
    /// removing what they replace, and twice that where another one is under way, which has to be finished first.
    /// Reads and commits go on, and who waits for durability meanwhile is held up as
    /// [`checkpoint_step_bytes`](StateBuilder::checkpoint_step_bytes) says. A close does not wait for it: a checkpoint
    /// that is under way then ends with [`ErrorKind::Closed`], and counts for nothing unless it was valid already.
    ///
    /// Until all of it is encoded, it keeps the version in memory that it is of, as a
    /// [`Snapshot`] does; so does one that was begun by itself and rests until the next group or
    /// [`StateManager::maintain`]. [`StateStats::checkpoint_snapshot`](super::StateStats::checkpoint_snapshot) says which.
    ///
    /// # Errors
    /// Those of [`StateManager::wait_durable`]. Where a row cannot be encoded, because the code of a key or value
    /// fails or panics, an error with the reason, and [`ErrorKind::Internal`] for a panic: the checkpoint is given
    /// up, what was valid before stays so, and the store goes on. [`ErrorKind::Reentrant`] from within the encoding of
    /// that very checkpoint, by the `Serialize` of a value: it would wait for itself.
    pub fn checkpoint(&self) -> Result<Version, Error> {
        #[cfg(feature = "durable")]
        if let Some(durable) = &self.inner.durable {
            return durable.journal.checkpoint();
        }
        Err(not_durable())
    }

    /// Ends the commits, makes all of them durable and lets go of the folder, whatever handles are left.
    ///
    /// From its beginning on commits are refused with [`ErrorKind::Closed`], so it ends however many others
    /// commit. Reads go on from memory. A second call, at the same time or later, returns when the first
    /// is done. The thread of [`StateManager::maintain_every`] ends soon after, and is not waited for.
    ///
    /// # Errors
    /// [`ErrorKind::Poisoned`] where the store has failed, now or earlier, in every call; the folder is let go of even
    /// so. What is durable [`StateManager::durable_version`] says.
    pub fn close(&self) -> Result<(), Error> {
        #[cfg(feature = "durable")]
        if let Some(durable) = &self.inner.durable {
            durable.journal.check_parks()?;
        }
        // In memory the flag alone ends the commits; the journal has its own, under its lock. It changes
        // under the lock of the root, where commits look at it.
        let root = self.inner.root.write();
        self.inner.closed.store(true, Ordering::Relaxed);
        drop(root);
        #[cfg(feature = "durable")]
        let closed = self.inner.durable.as_ref().map_or(Ok(()), |durable| durable.journal.close());
        #[cfg(not(feature = "durable"))]
        let closed = Ok(());
        // After the last commit: each enters the log in the step in which it is found to be open.
        self.inner.feed.0.close();
        self.inner.end_maintenance();
        // They may hold this state, which would then never go. In the turn, so that none is set after this, and
        // none is left to a commit that is under way, which would drop it. Whoever closes within a commit has it.
        let turn = self.inner.turn.take();
        let rules = self.inner.rules.end();
        drop(turn);
        self.inner.owner.let_go(rules);
        closed
    }

    /// What opening found, and what decoding it has taken up to now.
    #[must_use]
    pub fn recovery(&self) -> RecoveryReport {
        RecoveryReport {
            decoded_rows: self.inner.decoded_rows.load(Ordering::Relaxed),
            decoding: Duration::from_nanos(self.inner.decoding_ns.load(Ordering::Relaxed)),
            ..self.inner.recovery.clone()
        }
    }

    /// The counters at this moment.
    #[must_use]
    pub fn stats(&self) -> StateStats {
        let inner = &*self.inner;
        let watched = inner.feed.0.counts();
        let mut stats = StateStats {
            durable_version: self.durable_version(),
            version: self.version(),
            commits: inner.commits.load(Ordering::Relaxed),
            reruns: inner.reruns.load(Ordering::Relaxed),
            aborts: inner.aborts.load(Ordering::Relaxed),
            waiting_commits: inner.turn.waiting(),
            rejected: inner.rules.rejected(),
            watchers: watched.watchers,
            resyncs: watched.resyncs,
            change_log_commits: watched.commits,
            change_log_rows: watched.rows,
            caught_panics: watched.caught_panics,
            maintained: inner.maintained.lock().is_some(),
            ..StateStats::default()
        };
        let kept = inner.kept.counts();
        stats.kept_snapshots = kept.kept;
        stats.automatic_snapshots = kept.automatic;
        stats.snapshots_dropped_by_count = kept.by_count;
        stats.snapshots_dropped_by_age = kept.by_age;
        let release = inner.owner.counts();
        stats.pending_releases = release.waiting;
        stats.releases = release.released;
        stats.releases_on_writers = release.on_writers;
        stats.caught_panics += release.caught_panics;
        #[cfg(feature = "durable")]
        if let Some(durable) = &inner.durable {
            let counts = durable.journal.counts();
            stats.groups = counts.groups;
            stats.checkpoints = counts.checkpoints;
            stats.checkpoint_steps = counts.checkpoint_steps;
            stats.checkpoint_pending = counts.checkpoint_pending;
            stats.checkpoint_snapshot = counts.checkpoint_snapshot;
            stats.checkpoints_failed = counts.checkpoints_failed;
            stats.checkpoint_failure = counts.checkpoint_failure.map(|reason| reason.to_string());
            stats.stalls = counts.stalls;
            stats.pending_commits = counts.pending_commits;
            stats.pending_bytes = counts.pending_bytes;
            stats.waiters = counts.waiters;
            stats.caught_panics += counts.caught_panics;
            stats.poisoned = counts.poisoned;
            stats.syncs = durable.counters.syncs();
            stats.bytes_written = durable.counters.bytes_written();
            stats.zeros_written = durable.counters.zeros_written();
        }
        stats
    }
}

impl fmt::Debug for StateManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateManager")
            .field("root", &*Held::new(self.inner.current()))
            .field("durable", &self.is_durable())
            .finish_non_exhaustive()
    }
}

/// The collections of a root, whose types nobody has named yet.
fn registry_of(root: &Root) -> HashMap<Arc<str>, Entry> {
    let slots = root.slots.iter().enumerate();
    slots.map(|(id, slot)| (Arc::clone(&slot.name), Entry { id, types: None })).collect()
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.owner.end();
    }
}

impl Inner {
    pub(super) fn owns(&self, root: &Root) -> bool {
        Arc::ptr_eq(&self.owner, &root.owner)
    }

    pub(super) fn owner(&self) -> &Arc<Release> {
        &self.owner
    }

    pub(super) fn feed(&self) -> &Arc<Feed> {
        &self.feed.0
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    #[cfg(feature = "durable")]
    pub(super) fn journal(&self) -> Option<&Journal<Keeper>> {
        self.durable.as_ref().map(|durable| &durable.journal)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.snapshot_of(self.current())
    }

    pub(super) fn snapshot_of(&self, root: Arc<Root>) -> Snapshot {
        Snapshot { root, codec: self.codec, schema_version: self.schema_version }
    }

    pub(super) fn current(&self) -> Arc<Root> {
        Arc::clone(&self.root.read())
    }

    pub(super) fn check_open(&self) -> Result<(), Error> {
        #[cfg(feature = "durable")]
        if let Some(durable) = &self.durable {
            return durable.journal.check();
        }
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Closed, "the state manager was closed"));
        }
        Ok(())
    }

    pub(super) fn has_store(&self) -> bool {
        #[cfg(feature = "durable")]
        return self.durable.is_some();
        #[cfg(not(feature = "durable"))]
        false
    }

    pub(super) fn wait_durable(&self, version: Version) -> Result<(), Error> {
        #[cfg(feature = "durable")]
        if let Some(durable) = &self.durable {
            return durable.journal.wait(version);
        }
        let _ = version;
        Err(not_durable())
    }
}

pub(super) fn not_durable() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "this state manager lives in memory alone; open one with a path to make commits durable",
    )
}

/// Lets a future hold the manager and see its journal.
#[cfg(feature = "durable")]
struct DurableHandle(Arc<Inner>);

#[cfg(feature = "durable")]
impl AsRef<Journal<Keeper>> for DurableHandle {
    fn as_ref(&self) -> &Journal<Keeper> {
        let durable = self.0.durable.as_ref();
        &durable.expect("a durable handle is only made of a durable manager").journal
    }
}
