//! The state manager: typed collections under one version counter, consistent snapshots, transactions, and
//! on disk what was acknowledged.
//!
//! Memory is what is read; a store of [redb](https://docs.rs/redb) is what survives. A commit changes
//! memory at once and gives its [`Version`]; [`StateManager::wait_durable`] returns when that version would
//! survive `kill -9` and power loss. Between the two a crash loses the commit, so a host acknowledges
//! nothing before the wait returns. How soon a commit is written without anybody who waits, and whether its
//! call waits by itself, is its level of [`Durability`]: that of the state, of the handle that it is written
//! through, or its own.
//!
//! | | in memory | survives the process |
//! |---|---|---|
//! | [`StateManager::in_memory`] | all | nothing |
//! | `StateManager::builder().path(..).open()` | all | every version up to [`StateManager::durable_version`] |
//! | a commit at [`Durability::Memory`] | at once | from when a later commit is written, or a checkpoint, a flush, a wait or a close writes it |
//! | one at [`Durability::Buffered`] | at once | so, and from the next [`StateManager::maintain`] at the latest |
//! | one at [`Durability::Synced`] | at once | from before its call returns |
//! | a [`Snapshot`] | what it shows, as long as it lives | nothing by itself; [`Snapshot::export_to_file`] writes it out, [`Import`] reads it on any machine |
//! | a [`KeptSnapshot`] | what it shows, until it is dropped or the [`SnapshotPolicy`] lets go of it | nothing: opened again, a state keeps none |
//! | a [`Watch`] | the latest commits, within limits | nothing: opened again, a state has it start over from what it recovered |
//! | a [`Diff`] | what it shows, as long as it lives | nothing; [`StateManager::apply`] and [`StateManager::restore`] make commits of it |
//!
//! What it guarantees:
//!
//! 1. Transactions are serializable and all or nothing, in memory and on disk.
//! 2. A snapshot shows all collections at one version.
//! 3. What `wait_durable` acknowledged is there after a crash; what is recovered is the state at some
//!    version not older than that.
//! 4. Damage is an error and never wrong data; an open that is refused leaves the folder as it was. (In a store
//!    that was not closed, damage to what was written last cannot be told from a write that was cut off:
//!    what is recovered may then be an older version, and [`RecoveryReport::repaired`] is set.)
//! 5. A checkpoint is written beside the groups, a step at a time, and counts from one atomic step on. Who waits for
//!    durability waits for one group before its own and one step; whoever wrote a group does steps in proportion to it
//!    after that, and where many write large groups, steps come first until they have kept up.
//! 6. No thread is started unasked: what no call has to wait for is done by [`StateManager::maintain`], which the
//!    host calls, by the thread of [`StateManager::maintain_every`] where it asks for one, or where it falls.
//! 7. A [`Watch`] tells every commit that changed what it watches, in order and once, or that something is
//!    missing.
//! 8. A level of durability never leaves a commit out: what survives is all up to one version.
//! 9. No change that the rule of a collection refuses is committed.
//! 10. A store or an export that a newer [version](StateBuilder::schema_version) of the host's schema has written is
//!     refused, and an older build of the host is let in to no row of a newer form.
//!
//! What it is not: a database larger than memory, shared between processes, or one that queries.

#[cfg(feature = "durable")]
mod assemble;
mod block;
mod builder;
mod changes;
mod codec;
mod collection;
mod commit;
mod compare;
mod contain;
mod diff;
#[cfg(feature = "durable")]
mod disk;
mod durability;
#[cfg(feature = "durable")]
mod export;
mod feed;
#[cfg(feature = "durable")]
mod folder;
#[cfg(feature = "durable")]
mod journal;
mod keep;
#[cfg(all(feature = "durable", test, phalanx_loom))]
mod loom_tests;
mod maintain;
mod maintainer;
mod manager;
#[cfg(feature = "durable")]
mod recover;
mod registry;
mod release;
mod restore;
mod root;
mod schema;
mod snapshot;
mod stats;
#[cfg(feature = "durable")]
mod store;
mod stored;
mod transaction;
mod transfer;
mod turn;
mod validate;
mod version;
mod watch;

pub use builder::StateBuilder;
pub use changes::{Change, Changes, Commit};
pub use codec::Codec;
pub use collection::{Collection, Key, Value};
pub use compare::CompareAndSetError;
pub use diff::{CollectionDiff, Diff, RowDiff};
#[cfg(all(feature = "durable", feature = "test-util"))]
pub use disk::fault::{AtRisk, Fault, FaultDisk};
pub use durability::{Durability, Unacknowledged};
pub use keep::{KeptSnapshot, SnapshotId, SnapshotPolicy};
pub use maintain::Maintenance;
pub use maintainer::Maintainer;
pub use manager::StateManager;
pub use snapshot::Snapshot;
pub use stats::{RecoveryReport, StateStats};
pub use transaction::{Abort, Transaction};
pub use transfer::{Compression, ExportHeader, Import, ImportOptions};
pub use version::Version;
pub use watch::{Watch, WatchError, WatchEvent, WatchPosition};
