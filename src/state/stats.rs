//! What a state manager counted, and what an opening found.

#[cfg(feature = "durable")]
use std::path::PathBuf;
use std::time::Duration;

use super::Version;

/// Counters and gauges of a [`StateManager`](super::StateManager), read at one moment.
///
/// Each number is true by itself; two of them may be a few commits apart. Counters begin at zero with each opening.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateStats {
    /// The newest commit.
    pub version: Version,
    /// The newest commit that survives the process; zero where there is no store.
    pub durable_version: Version,
    /// Commits since the manager was made.
    pub commits: u64,
    /// Times a transaction's closure ran again because what it had read had changed.
    pub reruns: u64,
    /// Transactions that their closure aborted.
    pub aborts: u64,
    /// Threads that wait for their turn to commit at this moment.
    pub waiting_commits: u64,
    /// Commits that the rule of a collection refused.
    pub rejected: u64,
    /// Watches at this moment.
    pub watchers: u64,
    /// Times that a watch was told to start over.
    pub resyncs: u64,
    /// Commits that are kept in memory for who watches.
    pub change_log_commits: u64,
    /// Changed rows that are kept in memory for who watches.
    pub change_log_rows: u64,
    /// Groups of commits that were made durable, each with one sync.
    pub groups: u64,
    /// Syncs of the store's file, those of opening and of checkpoints included.
    pub syncs: u64,
    /// Bytes written to the store's file, without the zeros that go ahead of them.
    pub bytes_written: u64,
    /// Zeros written to new parts of the store's file ahead of what goes there, in bytes: at most 256 KiB for each
    /// 256 KiB by which it grows.
    pub zeros_written: u64,
    /// Commits that are not durable yet.
    pub pending_commits: u64,
    /// Bytes of deltas that wait in memory to be written.
    pub pending_bytes: u64,
    /// Commits that had to wait for room among the pending bytes.
    pub stalls: u64,
    /// Waiters for a durable version at this moment, blocked threads and pending futures alike.
    pub waiters: u64,
    /// Checkpoints that became valid since the manager was made.
    pub checkpoints: u64,
    /// Steps of checkpoints since the manager was made: each writes a part of one, makes it valid, or removes some
    /// of what it replaces.
    pub checkpoint_steps: u64,
    /// Whether steps are left to do: of a checkpoint, or of removing what one replaces.
    pub checkpoint_pending: bool,
    /// The version of which a checkpoint is being written, until all of it is encoded. What was replaced or
    /// removed since is kept in memory for it meanwhile, as by a [`Snapshot`](super::Snapshot).
    pub checkpoint_snapshot: Option<Version>,
    /// Checkpoints that were given up because a row could not be encoded: the code of a key or value failed
    /// or panicked. The store goes on without them, and tries again after as many commits or bytes as make one due.
    pub checkpoints_failed: u64,
    /// Why the last of these was given up, unless one has become valid since. While it stays so the commits since the
    /// newest valid checkpoint are all kept and replayed by a recovery, however many they become.
    pub checkpoint_failure: Option<String>,
    /// Snapshots that are kept at this moment, by name and by number.
    pub kept_snapshots: u64,
    /// Snapshots that the [`SnapshotPolicy`](super::SnapshotPolicy) asked for and that were kept.
    pub automatic_snapshots: u64,
    /// Numbered snapshots that went because there were more than the policy keeps.
    pub snapshots_dropped_by_count: u64,
    /// Numbered snapshots that went because they were older than the policy keeps.
    pub snapshots_dropped_by_age: u64,
    /// Large old states that wait to be freed by [`StateManager::maintain`](super::StateManager::maintain).
    pub pending_releases: u64,
    /// Large old states that were freed off the writers' path.
    pub releases: u64,
    /// Large old states that a writer had to free because
    /// [`StateBuilder::max_pending_releases`](super::StateBuilder::max_pending_releases) others waited.
    pub releases_on_writers: u64,
    /// Panics of wakers and of values' drops that whoever wrote a group, committed, read, watched, let go of a kept
    /// snapshot or freed an old state caught, so that they end neither its work nor anybody else's.
    pub caught_panics: u64,
    /// Whether a failed write or sync ended the store.
    pub poisoned: bool,
    /// Whether the thread of [`StateManager::maintain_every`](super::StateManager::maintain_every) runs.
    pub maintained: bool,
}

/// What opening a state found, from where and how long it took, from
/// [`StateManager::recovery`](super::StateManager::recovery).
///
/// Opening verifies what is stored and leaves it encoded: the rows of a collection are decoded by the first call of
/// [`StateManager::collection`](super::StateManager::collection) for its name. So what a restart takes is `elapsed`
/// and what `decoding` has come to once all collections are open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The folder of the store, as it was given to the builder; none where the state lives in memory.
    #[cfg(feature = "durable")]
    pub folder: Option<PathBuf>,
    /// Whether there was nothing yet and an empty store was made.
    pub created: bool,
    /// The version of the [export](super::StateBuilder::import) that the state was made of, if it was.
    pub imported: Option<Version>,
    /// Rows that came from the export. None of them is among `checkpoint_rows`: a store has them in a checkpoint from
    /// now on, but recovered nothing.
    pub imported_rows: u64,
    /// The [version of the schema](super::StateBuilder::schema_version) that the store had, which may be older than that
    /// of the host; of an import that of the export, and of a new store that of the host.
    pub schema_version: u32,
    /// The version that was recovered: every acknowledged commit is in it.
    pub version: Version,
    /// The checkpoint that recovery started from, if there was one.
    pub checkpoint: Option<Version>,
    /// Rows read from the checkpoint.
    pub checkpoint_rows: u64,
    /// The version of a checkpoint that was not finished, if there was one. Nothing of it counts: what was recovered
    /// comes from the one before it and the commits since, and it is removed step by step later on.
    pub unfinished_checkpoint: Option<Version>,
    /// Groups of commits that were passed over because the checkpoint covers them. They are removed step by step
    /// later on.
    pub covered_groups: u64,
    /// Groups of commits replayed on top.
    pub groups: u64,
    /// Commits replayed on top.
    pub commits: u64,
    /// Bytes of the store's blocks that were read and verified. An export is read and verified before, as an
    /// [`Import`](super::Import) is made.
    pub bytes: u64,
    /// Whether the store had not been closed and the engine repaired its own bookkeeping.
    pub repaired: bool,
    /// Bytes of such a store that were written again as they were read, since they need not have been on the disk.
    pub rewritten_bytes: u64,
    /// Rows of each collection, by name.
    pub collections: Vec<(String, u64)>,
    /// How long opening took, on the clock of the builder: all of
    /// [`StateBuilder::open`](super::StateBuilder::open), from the lock of the folder to what is written before it
    /// returns.
    pub elapsed: Duration,
    /// Rows of the collections that were opened since, which are decoded.
    pub decoded_rows: u64,
    /// How long decoding them took, on the same clock, together with what led to an error, or was done by two threads
    /// at once.
    pub decoding: Duration,
}
