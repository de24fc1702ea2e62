//! Snapshots that the manager keeps: by name for as long as the host wants, or by number for as long as the
//! policy says.
//!
//! Rules that hold here:
//!
//! 1. Numbers only grow and are never given twice, and an older number shows no newer version: what is kept
//!    is looked up and put into the list under one lock.
//! 2. Whoever takes that lock to show something first lets go of what is too old by now, so nothing is shown that is.
//! 3. What is let go of is dropped outside the lock, through [`Held`], and counted.
//! 4. A commit does no more here than to put one pointer in and take two out, however many are too old. Two, so that
//!    what a burst has left becomes less with every commit that keeps one, also where nobody looks.
//! 5. What is due by a number of changes only who has the turn looks at and moves.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::manager::Inner;
use super::release::Held;
use super::root::Root;
use super::{Snapshot, StateManager, Version};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{Clock, Error, ErrorKind, Timestamp};

/// The most bytes that the name of a snapshot has.
const NAME_BYTES_MAX: usize = 255;
/// The most snapshots of a kind that a policy may ask for.
const KEPT_MAX: usize = 1 << 16;

/// Which snapshots a manager keeps by itself, and for how long; for
/// [`StateBuilder::snapshots`](super::StateBuilder::snapshots).
///
/// By default none is taken automatically, and of those kept by number the last 16 stay. Snapshots kept by
/// name stay until they are dropped by hand; only their number is limited. All of them are kept in memory: none survives
/// a restart, but what is [exported](Snapshot::export_to_file).
#[derive(Clone, Debug)]
#[must_use = "a policy does nothing until a builder has it"]
pub struct SnapshotPolicy {
    keep_last: usize,
    keep_for: Option<Duration>,
    max_named: usize,
    every_commits: Option<u64>,
    every_changes: Option<u64>,
    every: Option<Duration>,
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        Self::new()
    }
}

impl SnapshotPolicy {
    /// The default policy.
    pub fn new() -> Self {
        Self {
            keep_last: 16,
            keep_for: None,
            max_named: 64,
            every_commits: None,
            every_changes: None,
            every: None,
        }
    }

    /// How many numbered snapshots stay, automatic ones included. Default: 16; from 1 to 65,536.
    ///
    /// One more takes the place of the oldest, which
    /// [`StateStats::snapshots_dropped_by_count`](super::StateStats::snapshots_dropped_by_count) counts.
    /// Each costs the memory of what has changed since: 1,000 over 1 MB, with a row written between each,
    /// some 3 MB.
    pub fn keep_last(mut self, snapshots: usize) -> Self {
        self.keep_last = snapshots;
        self
    }

    /// How long a numbered snapshot stays at most, on the builder's clock. Default: as long as it is among
    /// the last; more than zero.
    ///
    /// One that is older is never shown again, and is let go of, and counted in
    /// [`StateStats::snapshots_dropped_by_age`](super::StateStats::snapshots_dropped_by_age), by the next
    /// call that keeps, lists or drops snapshots, or [`StateManager::maintain`]. A commit that keeps an automatic one
    /// lets go of two at most: until somebody looks, or as many such commits have come, those that are too old take
    /// their memory and places among the last.
    pub fn keep_for(mut self, age: Duration) -> Self {
        self.keep_for = Some(age);
        self
    }

    /// How many named snapshots there may be. Default: 64; up to 65,536. One more is refused.
    pub fn max_named(mut self, snapshots: usize) -> Self {
        self.max_named = snapshots;
        self
    }

    /// Keeps a snapshot of every version that this divides, by the commit that makes it, however many rows a commit
    /// has: see [`every_changes`](Self::every_changes). Default: none; at least 1. Costs that commit two pointers,
    /// whatever the state's size.
    pub fn every_commits(mut self, commits: u64) -> Self {
        self.every_commits = Some(commits);
        self
    }

    /// Keeps a snapshot once so many rows were changed since the last that was kept for this, or since the state was
    /// opened, by the commit that completes the number. Default: none; at least 1.
    ///
    /// A change is a row that a commit sets, also to what it was, or removes. A commit is one version, so one of a
    /// million rows is kept once: between two of these snapshots there are as many changes as this at least, and fewer
    /// than this and those of one commit. Costs that commit two pointers, whatever the state's size.
    ///
    /// ```
    /// use phalanx::state::{SnapshotPolicy, StateManager};
    ///
    /// let policy = SnapshotPolicy::new().every_changes(100);
    /// let state = StateManager::builder().in_memory().snapshots(policy).open()?;
    /// let rows = state.collection::<u32, u32>("rows")?;
    /// state.transaction(|tx| Ok((0..99).for_each(|key| tx.insert(&rows, key, 0))))?;
    /// assert!(state.kept().is_empty());
    /// let version = rows.insert(0, 1)?;
    /// assert_eq!(state.kept()[0].version, version);
    /// # Ok::<(), phalanx::Error>(())
    /// ```
    pub fn every_changes(mut self, rows: u64) -> Self {
        self.every_changes = Some(rows);
        self
    }

    /// Keeps a snapshot so long after the last that was kept for this, on the builder's clock. Default:
    /// none; more than zero.
    ///
    /// There is no timer: the first commit after that time keeps it, or [`StateManager::maintain`], called by the host
    /// or by [`StateManager::maintain_every`], where there were commits since. Each commit reads the clock for it.
    pub fn every(mut self, period: Duration) -> Self {
        self.every = Some(period);
        self
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidArgument, message));
        if self.keep_last == 0 || self.keep_last > KEPT_MAX || self.max_named > KEPT_MAX {
            return invalid(format!(
                "a policy keeps the last 1 to {KEPT_MAX} snapshots and up to {KEPT_MAX} by name"
            ));
        }
        if self.every_commits == Some(0) || self.every_changes == Some(0) {
            return invalid(
                "automatic snapshots are at least 1 commit or 1 change apart".to_owned(),
            );
        }
        if self.every == Some(Duration::ZERO) || self.keep_for == Some(Duration::ZERO) {
            return invalid("the times of a policy are more than zero".to_owned());
        }
        Ok(())
    }
}

/// What is known of a kept snapshot. The snapshot itself is [`StateManager::kept_snapshot`].
///
/// Kept snapshots live in memory alone: when the state is opened again there are none, whatever was
/// durable. What has to survive goes into a file by [`Snapshot::export_to_file`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptSnapshot {
    /// Its number, from 1 on. No other one of this manager has it, ever.
    pub number: u64,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The version that it shows.
    pub version: Version,
    /// When it was taken, on the clock of the builder.
    pub taken: Timestamp,
    /// Whether the policy asked for it.
    pub automatic: bool,
}

/// Names a kept snapshot: made of a number, a name or a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotId<'a> {
    /// The one with this number.
    Number(u64),
    /// The one with this name.
    Name(&'a str),
    /// The newest one that shows this version.
    Version(Version),
}

impl From<u64> for SnapshotId<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl<'a> From<&'a str> for SnapshotId<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

impl<'a> From<&'a String> for SnapshotId<'a> {
    fn from(name: &'a String) -> Self {
        Self::Name(name)
    }
}

impl From<Version> for SnapshotId<'_> {
    fn from(version: Version) -> Self {
        Self::Version(version)
    }
}

impl fmt::Display for SnapshotId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "number {number}"),
            Self::Name(name) => write!(f, "the name {name:?}"),
            Self::Version(version) => version.fmt(f),
        }
    }
}

struct Entry {
    info: KeptSnapshot,
    root: Held,
}

/// What a manager keeps.
pub(super) struct Kept {
    policy: SnapshotPolicy,
    clock: Clock,
    list: Mutex<List>,
    /// When the next automatic one is due, in nanoseconds of the clock.
    due_ns: AtomicU64,
    /// At how many changes the next automatic one is due (rule 5).
    due_changes: AtomicU64,
    automatic: AtomicU64,
    by_count: AtomicU64,
    by_age: AtomicU64,
}

#[derive(Default)]
struct List {
    last_number: u64,
    /// The newest version of which there is or was one.
    newest: Version,
    /// Without names, in the order of their numbers.
    numbered: VecDeque<Entry>,
    named: BTreeMap<String, Entry>,
}

impl List {
    fn find(&self, id: SnapshotId<'_>) -> Option<&Entry> {
        match id {
            SnapshotId::Name(name) => self.named.get(name),
            SnapshotId::Number(number) => self.all().find(|entry| entry.info.number == number),
            SnapshotId::Version(version) => self
                .all()
                .filter(|entry| entry.info.version == version)
                .max_by_key(|entry| entry.info.number),
        }
    }

    /// The oldest without a name; what it shares with the next one stays.
    fn pop_oldest(&mut self) -> Option<Held> {
        let root = self.numbered.pop_front()?.root;
        match self.numbered.front() {
            Some(next) => Some(root.beside(next.root.replaced)),
            None => Some(root),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.numbered.iter().chain(self.named.values())
    }

    fn add(
        &mut self,
        root: &Arc<Root>,
        name: Option<&str>,
        now: Timestamp,
        automatic: bool,
    ) -> KeptSnapshot {
        self.last_number += 1;
        self.newest = self.newest.max(root.version);
        let info = KeptSnapshot {
            number: self.last_number,
            name: name.map(str::to_owned),
            version: root.version,
            taken: now,
            automatic,
        };
        let entry = Entry { info: info.clone(), root: Held::new(Arc::clone(root)) };
        match name {
            Some(name) => drop(self.named.insert(name.to_owned(), entry)),
            None => self.numbered.push_back(entry),
        }
        info
    }
}

/// What the policy let go of: to be dropped outside every lock.
pub(super) type LetGo = Vec<Held>;

impl Kept {
    pub(super) fn new(policy: SnapshotPolicy, clock: Clock) -> Self {
        let due_changes = AtomicU64::new(policy.every_changes.unwrap_or(u64::MAX));
        let kept = Self {
            policy,
            clock,
            list: Mutex::new(List::default()),
            due_ns: AtomicU64::new(u64::MAX),
            due_changes,
            automatic: AtomicU64::new(0),
            by_count: AtomicU64::new(0),
            by_age: AtomicU64::new(0),
        };
        kept.put_off();
        kept
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The next automatic one is due a period from now.
    fn put_off(&self) {
        if let Some(period) = self.policy.every {
            let due = (self.clock.now() + period).since_start().as_nanos();
            self.due_ns.store(u64::try_from(due).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    fn is_time(&self) -> bool {
        self.policy.every.is_some()
            && self.clock.elapsed_ns() >= self.due_ns.load(Ordering::Relaxed)
    }

    /// Called under the turn, with the root that a commit has just made the newest (rule 4).
    pub(super) fn committed(&self, root: &Arc<Root>) -> LetGo {
        let every = self.policy.every_commits;
        let counted = every.is_some_and(|every| root.version.as_u64().is_multiple_of(every));
        let changed = root.changed >= self.due_changes.load(Ordering::Relaxed);
        let timed = self.is_time();
        if !counted && !changed && !timed {
            return LetGo::new();
        }
        if changed && let Some(every) = self.policy.every_changes {
            self.due_changes.store(root.changed.saturating_add(every), Ordering::Relaxed);
        }
        if timed {
            self.put_off();
        }
        let mut list = self.list.lock();
        list.add(root, None, self.clock.now(), true);
        self.automatic.fetch_add(1, Ordering::Relaxed);
        // Rule 4.
        self.trim(&mut list, 2)
    }

    /// Of those that are too old so many at most, and of those beyond the last all; what it returns is dropped when the
    /// lock is not held any more.
    fn trim(&self, list: &mut List, old: usize) -> LetGo {
        let mut gone = LetGo::new();
        if let Some(age) = self.policy.keep_for {
            let now = self.clock.now();
            while gone.len() < old
                && list.numbered.front().is_some_and(|entry| entry.info.taken + age <= now)
            {
                gone.extend(list.pop_oldest());
                self.by_age.fetch_add(1, Ordering::Relaxed);
            }
        }
        while list.numbered.len() > self.policy.keep_last {
            gone.extend(list.pop_oldest());
            self.by_count.fetch_add(1, Ordering::Relaxed);
        }
        gone
    }

    /// Runs `f` on the list after what is too old went, and drops outside the lock.
    fn with<R>(&self, f: impl FnOnce(&mut List) -> R) -> R {
        let mut list = self.list.lock();
        // Rule 2.
        let old = self.trim(&mut list, usize::MAX);
        let result = f(&mut list);
        let more = self.trim(&mut list, usize::MAX);
        drop(list);
        drop((old, more));
        result
    }

    /// Does what is due by time: whether a snapshot was kept, and how many went.
    pub(super) fn run(&self, inner: &Inner) -> (bool, usize) {
        let before = self.by_age.load(Ordering::Relaxed);
        let timed = self.is_time();
        let (kept, _root) = self.with(|list| {
            let root = Held::new(inner.current());
            let kept = timed && root.version > list.newest;
            if kept {
                self.put_off();
                list.add(&root, None, self.clock.now(), true);
                self.automatic.fetch_add(1, Ordering::Relaxed);
            }
            // It may be the last to hold it by now, so it goes outside of the lock.
            (kept, root)
        });
        let gone = self.by_age.load(Ordering::Relaxed).saturating_sub(before);
        (kept, usize::try_from(gone).unwrap_or(usize::MAX))
    }

    pub(super) fn counts(&self) -> Counts {
        let list = self.list.lock();
        Counts {
            kept: (list.numbered.len() + list.named.len()) as u64,
            automatic: self.automatic.load(Ordering::Relaxed),
            by_count: self.by_count.load(Ordering::Relaxed),
            by_age: self.by_age.load(Ordering::Relaxed),
        }
    }
}

/// What was counted of kept snapshots.
pub(super) struct Counts {
    pub(super) kept: u64,
    pub(super) automatic: u64,
    pub(super) by_count: u64,
    pub(super) by_age: u64,
}

impl StateManager {
    /// Keeps the state as it is now as a snapshot with a number, for as long as the
    /// [policy](SnapshotPolicy) says. O(1) and in memory alone.
    ///
    /// ```
    /// use phalanx::state::StateManager;
    ///
    /// let state = StateManager::in_memory();
    /// let ages = state.collection::<String, u32>("ages")?;
    /// ages.insert("ada".to_owned(), 36)?;
    /// let kept = state.keep();
    /// let named = state.keep_as("before the birthday")?;
    /// ages.insert("ada".to_owned(), 37)?;
    /// assert_eq!(state.kept_snapshot(kept.number)?.get(&ages, &"ada".to_owned()), Some(36));
    /// state.restore(&state.kept_snapshot("before the birthday")?)?;
    /// assert_eq!(ages.get(&"ada".to_owned()), Some(36));
    /// assert_eq!(state.kept(), [kept, named]);
    /// # Ok::<(), phalanx::Error>(())
    /// ```
    pub fn keep(&self) -> KeptSnapshot {
        let kept = &self.inner.kept;
        kept.with(|list| list.add(&self.inner.current(), None, kept.clock.now(), false))
    }

    /// Keeps the state as it is now as a snapshot with a name (and a number), until
    /// [`StateManager::drop_kept`]. O(log names) and in memory alone.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] where the name is taken: drop that one first;
    /// [`ErrorKind::LimitReached`] beyond [`SnapshotPolicy::max_named`];
    /// [`ErrorKind::InvalidArgument`] for a name that is empty or longer than 255 bytes.
    pub fn keep_as(&self, name: &str) -> Result<KeptSnapshot, Error> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("the name of a snapshot has 1 to {NAME_BYTES_MAX} bytes, not {name:?}"),
            ));
        }
        let kept = &self.inner.kept;
        let max_named = kept.policy.max_named;
        kept.with(|list| {
            if let Some(entry) = list.named.get(name) {
                let message = format!(
                    "a snapshot of {} has the name {name:?} already; drop it first",
                    entry.info.version
                );
                return Err(Error::new(ErrorKind::AlreadyExists, message));
            }
            if list.named.len() >= max_named {
                let message = format!("{max_named} snapshots have names, which is the limit");
                return Err(Error::new(ErrorKind::LimitReached, message));
            }
            Ok(list.add(&self.inner.current(), Some(name), kept.clock.now(), false))
        })
    }

    /// What is kept at this moment, by number. Costs a copy of each entry, and no snapshot.
    #[must_use]
    pub fn kept(&self) -> Vec<KeptSnapshot> {
        let mut all: Vec<_> =
            self.inner.kept.with(|list| list.all().map(|entry| entry.info.clone()).collect());
        all.sort_by_key(|info| info.number);
        all
    }

    /// A kept snapshot, by its number, its name or its version.
    ///
    /// It lives on for as long as it is held, whatever becomes of the kept one.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn kept_snapshot<'a>(&self, id: impl Into<SnapshotId<'a>>) -> Result<Snapshot, Error> {
        let id = id.into();
        let root = self.inner.kept.with(|list| list.find(id).map(|entry| Arc::clone(&entry.root)));
        let root = root.ok_or_else(|| not_kept(id))?;
        Ok(self.inner.snapshot_of(root))
    }

    /// Lets go of one kept snapshot, and returns what it was.
    ///
    /// What only it held is freed here where that is little, and by [`StateManager::maintain`] otherwise.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn drop_kept<'a>(&self, id: impl Into<SnapshotId<'a>>) -> Result<KeptSnapshot, Error> {
        let id = id.into();
        let entry = self.inner.kept.with(|list| {
            let KeptSnapshot { number, name, .. } = list.find(id)?.info.clone();
            match name {
                Some(name) => list.named.remove(&name),
                None => {
                    let at = list.numbered.iter().position(|entry| entry.info.number == number)?;
                    let entry = list.numbered.remove(at)?;
                    let next = list.numbered.get(at).map_or(u64::MAX, |next| next.root.replaced);
                    Some(Entry { info: entry.info, root: entry.root.beside(next) })
                }
            }
        });
        entry.map(|entry| entry.info).ok_or_else(|| not_kept(id))
    }
}

fn not_kept(id: SnapshotId<'_>) -> Error {
    Error::new(ErrorKind::NotFound, format!("no snapshot is kept under {id}"))
}
