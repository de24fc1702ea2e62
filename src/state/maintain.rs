//! The work that no call has to wait for, done when the host has time for it.

use super::StateManager;

/// What one call of [`StateManager::maintain`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Maintenance {
    /// Whether commits at [`Durability::Buffered`](super::Durability::Buffered) waited to be written, and were.
    pub written: bool,
    /// Whether the store has failed, now or earlier, in whatever call, so that every commit is refused: see
    /// [`StateManager::wait_durable`]. It stays so.
    pub poisoned: bool,
    /// Large old states that were freed.
    pub released: usize,
    /// At most so many rows were freed with them.
    pub released_rows_max: u64,
    /// Large old states that still wait: call it again.
    pub pending_releases: usize,
    /// Whether an automatic snapshot was due, and is kept.
    pub snapshot_kept: bool,
    /// Kept snapshots that went because of their age.
    pub snapshots_dropped: usize,
}

impl StateManager {
    /// Does what no call had to wait for, as far as that is bounded, and returns what it did.
    ///
    /// It writes the commits at [`Durability::Buffered`](super::Durability::Buffered) that are not durable yet, as
    /// one group with one sync, and the checkpoint after it if one is due: those that were there when it
    /// was called are durable when it returns, unless [`Maintenance::poisoned`] says otherwise. Then it keeps the
    /// automatic snapshot that is due by time, lets go of those that are too old, and frees old states that
    /// writers left behind: one at least, and more until about 100,000 rows went. One state
    /// is freed in one go, whatever its size (some 90 ms for 100 MB), and no lock is held meanwhile. A
    /// host calls it every second or so from a thread that may be held up, and again at once where
    /// [`Maintenance::pending_releases`] says that there is more, or has
    /// [`StateManager::maintain_every`] do that. Nothing goes wrong without it: old states
    /// then keep their memory up to
    /// [`StateBuilder::max_pending_releases`](super::StateBuilder::max_pending_releases), and after that
    /// writers free them.
    pub fn maintain(&self) -> Maintenance {
        let inner = &*self.inner;
        let (written, poisoned) = inner.write_wanted();
        let (snapshot_kept, snapshots_dropped) = inner.kept.run(inner);
        let (released, released_rows_max) = inner.owner.run();
        let pending_releases = inner.owner.counts().waiting;
        Maintenance {
            written,
            poisoned,
            released,
            released_rows_max,
            pending_releases: usize::try_from(pending_releases).unwrap_or(usize::MAX),
            snapshot_kept,
            snapshots_dropped,
        }
    }
}
