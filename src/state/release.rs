//! The last references to old states, kept off the path of writers.
//!
//! Giving up the last reference to a version frees what only that version held, and where commits have
//! replaced much since, that takes long. Rules that hold here:
//!
//! 1. What a writer holds of an old state (the root that it replaced, the base of a transaction, the image
//!    of a group, what retention drops) it gives up through [`Held`]. Where others hold it too that is
//!    nothing; where few rows can go with it they go at once; otherwise it waits here for
//!    [`StateManager::maintain`](super::StateManager::maintain).
//! 2. How many rows can go is told by [`Root::replaced`]: what a root does not share with a newer one that
//!    stays was replaced or removed in between.
//! 3. At most `limit` states wait. One more is dropped where it falls, and counted.
//! 4. Nothing of the host's is dropped under the lock, and a panic of a drop stays in [`contained`] and is
//!    counted: what is freed is not the affair of who happens to be the last to let go.
//! 5. A root that waits here holds this queue alive; the end of the manager empties it for good.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::contain::contained;
use super::root::Root;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// So many rows are freed at once (rule 1), in some 50 us; freeing a million takes some 100 ms.
const AT_ONCE_ROWS_MAX: u64 = 512;
/// About so many rows are freed by one call of `maintain`.
const MAINTAIN_ROWS: u64 = 100_000;

/// The old states of one manager that wait to be freed. It is also the identity of the manager.
pub(super) struct Release {
    limit: usize,
    /// Rows that all commits so far replaced or removed.
    replaced: AtomicU64,
    queue: Mutex<Queue>,
    released: AtomicU64,
    on_writers: AtomicU64,
    caught_panics: AtomicU64,
}

struct Queue {
    waiting: VecDeque<(Root, u64)>,
    /// Rule 5.
    ended: bool,
}

/// What the queue counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    pub(super) waiting: u64,
    pub(super) released: u64,
    pub(super) on_writers: u64,
    pub(super) caught_panics: u64,
}

impl Release {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            replaced: AtomicU64::new(0),
            queue: Mutex::new(Queue { waiting: VecDeque::new(), ended: false }),
            released: AtomicU64::new(0),
            on_writers: AtomicU64::new(0),
            caught_panics: AtomicU64::new(0),
        })
    }

    /// Who has the turn tells how much was replaced up to the root that is the newest now.
    pub(super) fn published(&self, newest: &Root) {
        self.replaced.store(newest.replaced, Ordering::Relaxed);
    }

    /// Rules 1 and 3.
    fn take(&self, root: Root, newer: u64) {
        let newer = newer.min(self.replaced.load(Ordering::Relaxed));
        let rows = newer.saturating_sub(root.replaced);
        if rows <= AT_ONCE_ROWS_MAX {
            return;
        }
        let mut queue = self.queue.lock();
        if queue.waiting.len() < self.limit && !queue.ended {
            queue.waiting.push_back((root, rows));
            return;
        }
        drop(queue);
        self.on_writers.fetch_add(1, Ordering::Relaxed);
    }

    /// Frees what waits, up to about [`MAINTAIN_ROWS`] and one state at least: how many states and at most
    /// how many rows.
    pub(super) fn run(&self) -> (usize, u64) {
        let (mut states, mut rows_max) = (0, 0u64);
        while rows_max < MAINTAIN_ROWS {
            let Some((root, rows)) = self.queue.lock().waiting.pop_front() else { break };
            self.free(root);
            states += 1;
            rows_max = rows_max.saturating_add(rows);
        }
        (states, rows_max)
    }

    /// Drops what may be the last to hold values of the host (rule 4).
    pub(super) fn let_go<T>(&self, of: T) {
        if contained(|| drop(of)).is_none() {
            self.caught_panics.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn free(&self, root: Root) {
        self.let_go(root);
        self.released.fetch_add(1, Ordering::Relaxed);
    }

    /// Rule 5.
    pub(super) fn end(&self) {
        let mut queue = self.queue.lock();
        queue.ended = true;
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        waiting.into_iter().for_each(|(root, _)| self.free(root));
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            waiting: self.queue.lock().waiting.len() as u64,
            released: self.released.load(Ordering::Relaxed),
            on_writers: self.on_writers.load(Ordering::Relaxed),
            caught_panics: self.caught_panics.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts().fmt(f)
    }
}

/// A reference to a root that a writer gives up (rule 1).
#[derive(Clone, Debug)]
pub(super) struct Held {
    root: Option<Arc<Root>>,
    newer: u64,
}

impl Held {
    pub(super) fn new(root: Arc<Root>) -> Self {
        Self { root: Some(root), newer: u64::MAX }
    }

    /// Says that somebody holds the newer root of which this is [`Root::replaced`]: what they share stays.
    pub(super) fn beside(mut self, newer: u64) -> Self {
        self.newer = newer;
        self
    }
}

impl Deref for Held {
    type Target = Arc<Root>;

    fn deref(&self) -> &Arc<Root> {
        self.root.as_ref().expect("it is taken out only as this is dropped")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Where others hold it too, it is theirs to free.
        if let Some(root) = self.root.take().and_then(Arc::into_inner) {
            let release = Arc::clone(&root.owner);
            let newer = self.newer;
            // Rule 4.
            if contained(|| release.take(root, newer)).is_none() {
                release.caught_panics.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
