//! The work that no call has to wait for, done when the host has time for it.

use super::StateManager;
#[cfg(feature = "durable")]
use super::journal::Advance;

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
    /// How often it went on with a checkpoint: encoded a part, did a step, or wrote a group before one.
    pub checkpoint_advances: usize,
    /// Whether there is more of that, and nobody else is at it: call it again.
    pub checkpoint_more: bool,
    /// Whether the last checkpoint that was tried, in whatever call, was given up because a row could not be encoded:
    /// [`StateStats::checkpoint_failure`](super::StateStats::checkpoint_failure) is the reason. The store goes on
    /// and tries again, but until a checkpoint is valid what a recovery replays grows, without a bound.
    pub checkpoint_failed: bool,
}

/// So many steps of a checkpoint are done by one call.
#[cfg(feature = "durable")]
const STEPS_MAX: usize = 16;

impl StateManager {
    /// Does what no call had to wait for, as far as that is bounded, and returns what it did.
    ///
    /// It writes the commits at [`Durability::Buffered`](super::Durability::Buffered) that are not durable yet, as
    /// one group with one sync: those that were there when it was called are durable when it returns, unless
    /// [`Maintenance::poisoned`] says otherwise. It keeps the automatic snapshot that is due by time, lets go of those
    /// that are too old, and frees old states that writers left behind: one at least, and more until about 100,000
    /// rows went. One state is freed in one go, whatever its size (some 90 ms for 100 MB), and no lock is held
    /// meanwhile. Then it goes on up to 16 times with a [checkpoint](StateManager::checkpoint) that is under way, as
    /// long as nobody else has it: it encodes or does a step, or first writes a group for which somebody waits.
    /// Like anybody who writes a group it does
    /// [steps in proportion to it](super::StateBuilder::checkpoint_step_bytes), besides.
    ///
    /// A host calls it every second or so from a thread that may be held up, and again at once where
    /// [`Maintenance::pending_releases`] or [`Maintenance::checkpoint_more`] say that there is more, or has
    /// [`StateManager::maintain_every`] do that. Nothing goes wrong without it: whoever writes groups then does the
    /// steps of checkpoints, a checkpoint that is under way rests where no groups come and keeps
    /// [its version](super::StateStats::checkpoint_snapshot) in memory, and old states keep theirs up to
    /// [`StateBuilder::max_pending_releases`](super::StateBuilder::max_pending_releases), and after that
    /// writers free them.
    pub fn maintain(&self) -> Maintenance {
        let inner = &*self.inner;
        let (written, mut poisoned) = inner.write_wanted();
        let (snapshot_kept, snapshots_dropped) = inner.kept.run(inner);
        let (released, released_rows_max) = inner.owner.run();
        let pending_releases = inner.owner.counts().waiting;
        let checkpoint = self.maintain_checkpoint(&mut poisoned);
        Maintenance {
            written,
            poisoned,
            released,
            released_rows_max,
            pending_releases: usize::try_from(pending_releases).unwrap_or(usize::MAX),
            snapshot_kept,
            snapshots_dropped,
            ..checkpoint
        }
    }

    /// Only what concerns checkpoints is filled in.
    fn maintain_checkpoint(&self, poisoned: &mut bool) -> Maintenance {
        #[cfg(feature = "durable")]
        if let Some(journal) = self.inner.journal() {
            let step = |_: &usize| matches!(journal.advance(None), Ok(Advance::Stepped));
            let steps = (0..STEPS_MAX).take_while(step).count();
            let counts = journal.counts();
            *poisoned = counts.poisoned;
            return Maintenance {
                checkpoint_advances: steps,
                // Otherwise there is nothing to do, or others have it.
                checkpoint_more: steps == STEPS_MAX && counts.checkpoint_pending,
                checkpoint_failed: counts.checkpoint_failure.is_some(),
                ..Maintenance::default()
            };
        }
        let _ = poisoned;
        Maintenance::default()
    }
}
