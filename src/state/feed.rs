//! The log of recent commits, and who waits for the next one.
//!
//! A commit leaves what it changed here, in the step that makes it visible; readers take it from here, each
//! from its own place. Rules that hold here:
//!
//! 1. `newest` is the version of the root: both change under the lock, in one step. `entries` are the last
//!    commits up to `newest`, without a gap.
//! 2. A track has the versions of all entries that changed its collection (or, for the track of all, any),
//!    in order. Of the commits that are no longer among the entries it knows the newest that did: `lost`,
//!    or `base` where that is not known. So a reader misses something exactly if one of the two is behind
//!    its place, and is told so before anything else.
//! 3. A reader that finds nothing leaves its waker in the same hold of the lock, and a commit takes the wakers of
//!    the collections that it changed in the one in which it enters: no commit falls between the two. It
//!    wakes all of them, so one that goes away takes nobody's wake-up along.
//! 4. No code of the host runs under the lock: wakers are cloned before it, called and dropped after it,
//!    and so are the rows that leave the log. Its holders do what is in proportion to the rows of a commit or to the
//!    logarithm of the entries.
//! 5. Versions are compared only with versions of the same log: a place says of which log it is. One that is of another
//!    (of the state before a restart, say) has missed something, whatever the numbers are.
//! 6. The log is empty until somebody watches. From then on it holds at most so many commits and rows, and
//!    a commit that is larger by itself is not kept at all.

#[cfg(all(test, phalanx_loom))]
mod loom_tests;

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::num::NonZeroU64;
use std::task::Waker;

use super::Version;
use super::changes::{Changed, Entry};
use super::contain::{contained, wake};
use crate::Clock;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, left_out};

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) commits: usize,
    pub(super) rows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { commits: 1024, rows: 8192 }
    }
}

/// What is in the log, and who reads it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) watchers: u64,
    pub(super) resyncs: u64,
    pub(super) commits: u64,
    pub(super) rows: u64,
    pub(super) caught_panics: u64,
}

/// Which log: a random number, so that no two are taken for each other, in whatever processes they are.
pub(super) type FeedId = NonZeroU64;

/// The log of one manager.
pub(super) struct Feed {
    id: FeedId,
    log: Mutex<Log>,
    /// A hint of `Log::on` for who is about to commit.
    on: AtomicBool,
    caught_panics: AtomicU64,
    limits: Limits,
    clock: Clock,
}

struct Log {
    on: bool,
    closed: bool,
    newest: Version,
    /// Nothing is known of the commits up to here.
    base: Version,
    entries: VecDeque<Entry>,
    /// Rows of all entries; one without any counts as one.
    rows: usize,
    all: Track,
    /// By the number of the collection.
    tracks: Vec<Track>,
    next_waiter: u64,
    watchers: u64,
    resyncs: u64,
}

/// The commits that changed one collection (rule 2).
#[derive(Default)]
struct Track {
    versions: VecDeque<Version>,
    lost: Version,
    waiters: BTreeMap<u64, Waker>,
}

/// The place of a reader.
#[derive(Debug)]
pub(super) struct Cursor {
    /// The collection, or none for all of them.
    track: Option<usize>,
    /// The newest version that it was told of.
    after: Version,
    /// The log of which that version is (rule 5), or none where no log has had it. If that is not the one that it
    /// reads it was not told so yet.
    of: Option<FeedId>,
    waiter: Option<u64>,
}

impl Cursor {
    pub(super) fn after(&self) -> Version {
        self.after
    }

    pub(super) fn of(&self) -> Option<FeedId> {
        self.of
    }

    /// The reader is done with the commit of this version.
    pub(super) fn pass(&mut self, version: Version) {
        self.after = version;
    }
}

/// What a reader finds.
pub(super) enum Look {
    Commit(Entry),
    /// Something is missing; the place is at this version now.
    Resync(Version),
    Nothing,
    /// Nothing will ever come.
    End,
}

/// What a commit owes once no lock is held any more.
#[must_use = "readers wait for it"]
#[derive(Default)]
pub(super) struct Receipt {
    waiters: Vec<BTreeMap<u64, Waker>>,
    evicted: Vec<Entry>,
}

impl Feed {
    pub(super) fn new(newest: Version, limits: Limits, clock: Clock) -> Self {
        let log = Log {
            on: false,
            closed: false,
            newest,
            base: newest,
            entries: VecDeque::new(),
            rows: 0,
            all: Track::default(),
            tracks: Vec::new(),
            next_waiter: 0,
            watchers: 0,
            resyncs: 0,
        };
        Self {
            id: random_id(),
            log: Mutex::new(log),
            on: AtomicBool::new(false),
            caught_panics: AtomicU64::new(0),
            limits,
            clock,
        }
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether a commit has to say what it changes. Relaxed: whoever can tell that the first watch came before
    /// its commit sees it, and one that does not see it makes that reader start over.
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Makes a commit visible by `show` and enters what it changed, as far as that is known.
    ///
    /// One commit at a time is published, and versions have no gap.
    pub(super) fn publish<E>(
        &self,
        version: Version,
        parts: Option<Vec<Changed>>,
        show: impl FnOnce() -> Result<(), E>,
    ) -> Result<Receipt, E> {
        // Allocates before the lock.
        let entry = parts.map(|parts| Entry::new(version, parts));
        let mut receipt = Receipt::default();
        let mut log = self.log.lock();
        if left_out("state.feed.shown") {
            log.publish(version, entry, self.limits, &mut receipt);
            drop(log);
            show()?;
            return Ok(receipt);
        }
        show()?;
        log.publish(version, entry, self.limits, &mut receipt);
        Ok(receipt)
    }

    /// Does what a commit owes: wakes readers, and drops what left the log. Who calls it holds no lock.
    pub(super) fn settle(&self, receipt: Receipt) {
        let Receipt { waiters, evicted } = receipt;
        let mut panics = wake(waiters.into_iter().flat_map(BTreeMap::into_values));
        for entry in evicted {
            // It may be the last to hold values of the host.
            panics += u64::from(contained(|| drop(entry)).is_none());
        }
        if panics > 0 {
            self.caught_panics.fetch_add(panics, Ordering::Relaxed);
        }
    }

    /// Drops what may be the last to hold values of the host.
    pub(super) fn let_go(&self, entry: Entry) {
        if contained(|| drop(entry)).is_none() {
            self.caught_panics.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A place from the newest commit on.
    pub(super) fn subscribe(&self, track: Option<usize>) -> Cursor {
        let mut log = self.log.lock();
        log.on = true;
        self.on.store(true, Ordering::Relaxed);
        log.watchers += 1;
        if let Some(id) = track {
            log.reach(id);
        }
        Cursor { track, after: log.newest, of: Some(self.id), waiter: None }
    }

    /// Another place at the same version.
    pub(super) fn fork(&self, cursor: &Cursor) -> Cursor {
        self.log.lock().watchers += 1;
        Cursor { waiter: None, ..*cursor }
    }

    pub(super) fn unsubscribe(&self, cursor: &mut Cursor) {
        let _gone;
        let mut log = self.log.lock();
        log.watchers -= 1;
        _gone = log.forget(cursor);
    }

    /// Goes on behind `version` of this log, which may be before or beyond what it knows.
    pub(super) fn seek(&self, cursor: &mut Cursor, version: Version) {
        self.seek_to(cursor, Some(self.id), version);
    }

    /// Goes on behind `version` of whatever log.
    pub(super) fn seek_to(&self, cursor: &mut Cursor, of: Option<FeedId>, version: Version) {
        let newest = self.log.lock().newest;
        cursor.after = version;
        // It may get there later, with other commits than those that whoever asks has seen.
        cursor.of = of.filter(|_| version <= newest);
    }

    /// What comes next; with a waker, that is left behind where there is nothing yet.
    pub(super) fn look(&self, cursor: &mut Cursor, waker: Option<&Waker>) -> Look {
        // Both are the host's, so neither is cloned or dropped under the lock.
        let waker = waker.cloned();
        let _gone;
        let mut log = self.log.lock();
        let look = log.look(cursor, self.id, waker.is_some());
        _gone = match (&look, waker) {
            (Look::Nothing, Some(waker)) => log.register(cursor, waker),
            (Look::Nothing, None) => None,
            _ => log.forget(cursor),
        };
        look
    }

    /// The newest version that can be found.
    pub(super) fn newest(&self) -> Version {
        self.log.lock().newest
    }

    /// Takes the waker of a reader back that will not be polled again.
    pub(super) fn forget(&self, cursor: &mut Cursor) {
        if cursor.waiter.is_some() {
            let _gone;
            let mut log = self.log.lock();
            _gone = log.forget(cursor);
        }
    }

    /// Ends every wait: no commit comes after this.
    pub(super) fn close(&self) {
        let mut log = self.log.lock();
        log.closed = true;
        let mut receipt = Receipt::default();
        if !left_out("state.feed.close") {
            receipt.waiters.push(std::mem::take(&mut log.all.waiters));
            let tracks = log.tracks.iter_mut();
            receipt.waiters.extend(tracks.map(|track| std::mem::take(&mut track.waiters)));
        }
        drop(log);
        self.settle(receipt);
    }

    pub(super) fn counts(&self) -> Counts {
        let log = self.log.lock();
        Counts {
            watchers: log.watchers,
            resyncs: log.resyncs,
            commits: log.entries.len() as u64,
            rows: log.entries.iter().map(|entry| entry.rows as u64).sum(),
            caught_panics: self.caught_panics.load(Ordering::Relaxed),
        }
    }
}

impl Log {
    fn publish(
        &mut self,
        version: Version,
        entry: Option<Entry>,
        limits: Limits,
        receipt: &mut Receipt,
    ) {
        self.newest = version;
        if self.on {
            self.enter(entry, limits, receipt);
        } else {
            self.base = version;
        }
    }

    /// Enters the newest commit and lets go of what is too much.
    fn enter(&mut self, entry: Option<Entry>, limits: Limits, receipt: &mut Receipt) {
        let Some(entry) = entry else {
            // It was not known to be wanted: whoever reads starts over, all of them.
            while self.evict(receipt) {}
            self.base = self.newest;
            self.all.release(receipt);
            self.tracks.iter_mut().for_each(|track| track.release(receipt));
            return;
        };
        for part in entry.parts.iter() {
            self.reach(part.id);
            self.tracks[part.id].enter(entry.version, receipt);
        }
        if !entry.parts.is_empty() {
            self.all.enter(entry.version, receipt);
        }
        self.rows += entry.rows.max(1);
        self.entries.push_back(entry);
        while self.entries.len() > limits.commits || self.rows > limits.rows {
            self.evict(receipt);
        }
    }

    fn evict(&mut self, receipt: &mut Receipt) -> bool {
        let Some(entry) = self.entries.pop_front() else { return false };
        self.rows -= entry.rows.max(1);
        for part in entry.parts.iter() {
            self.tracks[part.id].lose();
        }
        if !entry.parts.is_empty() {
            self.all.lose();
        }
        receipt.evicted.push(entry);
        true
    }

    fn reach(&mut self, id: usize) {
        if self.tracks.len() <= id {
            self.tracks.resize_with(id + 1, Track::default);
        }
    }

    fn track(&mut self, track: Option<usize>) -> &mut Track {
        match track {
            Some(id) => &mut self.tracks[id],
            None => &mut self.all,
        }
    }

    fn look(&mut self, cursor: &mut Cursor, id: FeedId, again: bool) -> Look {
        let base = self.base;
        let track = self.track(cursor.track);
        if cursor.of != Some(id) || base.max(track.lost) > cursor.after {
            self.resyncs += 1;
            cursor.of = Some(id);
            cursor.after = self.newest;
            return Look::Resync(self.newest);
        }
        let next = track.versions.partition_point(|version| *version <= cursor.after);
        match track.versions.get(next).copied() {
            Some(version) if !(again && left_out("state.feed.look")) => {
                let behind = self.newest.as_u64() - version.as_u64();
                let place = self.entries.len() - 1 - behind as usize;
                Look::Commit(self.entries[place].clone())
            }
            _ if self.closed => Look::End,
            _ => Look::Nothing,
        }
    }

    /// Returns the waker that it replaced, to be dropped outside the lock.
    fn register(&mut self, cursor: &mut Cursor, waker: Waker) -> Option<Waker> {
        let key = *cursor.waiter.get_or_insert_with(|| {
            self.next_waiter += 1;
            self.next_waiter
        });
        self.track(cursor.track).waiters.insert(key, waker)
    }

    fn forget(&mut self, cursor: &mut Cursor) -> Option<Waker> {
        let key = cursor.waiter.take()?;
        self.track(cursor.track).waiters.remove(&key)
    }
}

impl Track {
    fn enter(&mut self, version: Version, receipt: &mut Receipt) {
        self.versions.push_back(version);
        self.release(receipt);
    }

    /// The oldest of its entries leaves the log.
    fn lose(&mut self) {
        if let Some(version) = self.versions.pop_front() {
            self.lost = version;
        }
    }

    fn release(&mut self, receipt: &mut Receipt) {
        if !self.waiters.is_empty() && !left_out("state.feed.wake") {
            receipt.waiters.push(std::mem::take(&mut self.waiters));
        }
    }
}

/// A number that nobody has drawn before, for all that is known: hash maps are seeded by the system. A process that was
/// forked off has the seeds of its parent, and a target without a source of randomness has the same ones in each run: so
/// who draws, and when, has a part in it.
fn random_id() -> FeedId {
    let seed = RandomState::new().build_hasher().finish();
    // There neither is known, and asking is a panic.
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    let (process, nanos) = (0, 0);
    #[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
    let (process, nanos) = {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        (std::process::id(), since.map_or(0, |since| since.as_nanos()))
    };
    id_of(seed, process, nanos)
}

fn id_of(seed: u64, process: u32, nanos: u128) -> FeedId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&process.to_le_bytes());
    hasher.update(&nanos.to_le_bytes());
    let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
    NonZeroU64::new(u64::from_le_bytes([a, b, c, d, e, f, g, h])).unwrap_or(NonZeroU64::MIN)
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    fn v(number: u64) -> Version {
        Version::from_u64(number)
    }

    fn commit(feed: &Feed, version: u64, parts: Option<Vec<Changed>>) {
        let published = feed.publish(v(version), parts, || Ok::<(), ()>(()));
        feed.settle(published.expect("it is shown"));
    }

    fn part(id: usize) -> Changed {
        Changed { id, name: "rows".into(), len: 1, rows: std::sync::Arc::new(()) }
    }

    #[test]
    fn who_draws_a_number_and_when_has_a_part_in_it_as_the_seed_has() {
        let drawn = id_of(1, 2, 3);
        assert_eq!(drawn, id_of(1, 2, 3));
        for other in [id_of(9, 2, 3), id_of(1, 9, 3), id_of(1, 2, 9), id_of(0, 0, 0)] {
            assert_ne!(drawn, other);
        }
        assert_ne!(random_id(), random_id());
    }

    #[test]
    fn a_commit_that_did_not_see_the_first_watch_has_all_readers_start_over() {
        let feed = Feed::new(v(5), Limits::default(), Clock::real());
        assert!(!feed.is_on());
        let mut cursors = [None, Some(0), Some(7)].map(|track| feed.subscribe(track));
        assert!(feed.is_on());
        for cursor in &mut cursors {
            assert!(matches!(feed.look(cursor, Some(Waker::noop())), Look::Nothing));
        }
        commit(&feed, 6, None);
        commit(&feed, 7, Some(vec![part(0)]));
        for cursor in &mut cursors {
            assert!(matches!(feed.look(cursor, None), Look::Resync(version) if version == v(7)));
            assert!(matches!(feed.look(cursor, None), Look::Nothing));
        }
        assert_eq!((feed.counts().commits, feed.counts().resyncs), (1, 3));
    }

    #[test]
    fn a_commit_that_is_not_shown_is_not_told_either() {
        let feed = Feed::new(v(0), Limits::default(), Clock::real());
        let mut cursor = feed.subscribe(None);
        assert!(feed.publish(v(1), Some(vec![part(0)]), || Err(())).is_err());
        assert!(matches!(feed.look(&mut cursor, None), Look::Nothing));
        assert_eq!(feed.newest(), v(0));
    }
}
