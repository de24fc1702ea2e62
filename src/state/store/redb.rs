//! The store on redb.
//!
//! Tables: `meta` (the identity: `identity.rs`), `deltas` (first version of a group -> block), `checkpoint`
//! ((version, index) -> chunk), and two like the last: `unfinished`, of a checkpoint that is not valid yet, and
//! `obsolete`, of the one before the valid one. A checkpoint becomes valid as the tables change their names.
//! Commits use redb's default: checksummed roots, one phase, one sync. After a crash redb then verifies the
//! checksums of the whole file, which an opening here does anyway.
//!
//! Most steps of a checkpoint are commits that redb does not sync (`Durability::None`): they are there for later
//! transactions, and survive together with the next commit that is synced, or with a close; after a crash
//! before that none of them is there. redb syncs within one only where its file grows.
//!
//! A newer identity is written in the transaction of the first group or valid checkpoint that follows: there is no
//! moment in which the one is durable without the other.

use ::redb::{
    CommitError, Database, DatabaseError, Durability, Key, ReadTransaction, ReadableDatabase,
    ReadableTable, ReadableTableMetadata, SetDurabilityError, StorageError, Table, TableDefinition,
    TableError, TransactionError, WriteTransaction,
};
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;

use super::draft::Part;
use super::{Leftovers, Load, Store, Swept};
use crate::state::Version;
use crate::state::disk::Stage;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::{Error, ErrorKind};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const DELTAS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("deltas");
const CHECKPOINT: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("checkpoint");
const UNFINISHED: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("unfinished");
const OBSOLETE: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("obsolete");
const IDENTITY: &str = "identity";

/// So many rows are removed in one step, or fewer where they have too many bytes.
const SWEEP_ROWS_MAX: u64 = 256;

#[derive(Debug)]
pub(in crate::state) struct RedbStore {
    db: Database,
    /// The identity that goes with what is written next.
    rises_to: Option<Vec<u8>>,
}

impl RedbStore {
    /// Opens or makes the engine's file; whether it had to repair it. State is read from memory, so the engine's
    /// cache only serves opening and checkpoints.
    pub(in crate::state) fn open(stage: Stage, cache_bytes: usize) -> Result<(Self, bool), Error> {
        let repaired = Arc::new(AtomicBool::new(false));
        let noticed = Arc::clone(&repaired);
        let staged = stage.clone();
        let mut db = Database::builder()
            .set_cache_size(cache_bytes)
            .set_repair_callback(move |_| noticed.store(true, Ordering::Relaxed))
            .create_with_backend(stage)
            .map_err(opening)?;
        let repaired = repaired.load(Ordering::Relaxed);
        if !repaired {
            staged.was_closed();
        }
        // A repair verifies every checksum, and so reads all that is in use; a file that was closed in order is opened without a look at
        // them. Nothing but damage can make such a file need a repair, and repairing would quietly fall
        // back to an older commit.
        if !repaired && !db.check_integrity().map_err(opening)? {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the engine's file was closed in order and does not verify",
            ));
        }
        Ok((Self { db, rises_to: None }, repaired))
    }

    /// Makes the tables of a new store.
    pub(in crate::state) fn initialize(&mut self, identity: &[u8]) -> Result<(), Error> {
        let tx = self.db.begin_write().map_err(writing)?;
        {
            let mut meta = tx.open_table(META).map_err(writing)?;
            meta.insert(IDENTITY, identity).map_err(writing)?;
            tx.open_table(DELTAS).map_err(writing)?;
            tx.open_table(CHECKPOINT).map_err(writing)?;
        }
        tx.commit().map_err(writing)
    }

    /// Gives it this identity with the first group or checkpoint that becomes durable from here on.
    pub(in crate::state) fn rise(&mut self, identity: Vec<u8>) {
        self.rises_to = Some(identity);
    }

    /// Commits a transaction that is synced, with the identity that waits for one.
    fn commit(&mut self, tx: WriteTransaction) -> Result<(), Error> {
        if let Some(identity) = &self.rises_to {
            let mut meta = tx.open_table(META).map_err(writing)?;
            meta.insert(IDENTITY, identity.as_slice()).map_err(writing)?;
        }
        tx.commit().map_err(writing)?;
        self.rises_to = None;
        Ok(())
    }

    /// A transaction that is lost in a crash, where it is not synced, unless one that is follows.
    fn begin(&self, sync: bool) -> Result<WriteTransaction, Error> {
        let mut tx = self.db.begin_write().map_err(writing)?;
        if !sync {
            tx.set_durability(Durability::None).map_err(writing)?;
        }
        Ok(tx)
    }
}

/// Removes rows of the range until so many bytes were removed in this step, from whatever table; whether there are more.
fn sweep<K: Key, R: for<'k> std::borrow::Borrow<K::SelfType<'k>>>(
    swept: &mut Swept,
    bytes: u64,
    table: &mut Table<'_, K, &'static [u8]>,
    range: impl RangeBounds<R> + Clone + 'static,
) -> Result<bool, Error> {
    let mut rows = table.extract_from_if(range.clone(), |_, _| true).map_err(writing)?;
    while swept.rows < SWEEP_ROWS_MAX
        && swept.bytes < bytes
        && let Some(row) = rows.next()
    {
        let (_, block) = row.map_err(writing)?;
        swept.rows += 1;
        swept.bytes += block.value().len() as u64;
    }
    drop(rows);
    let left = table.range(range).map_err(writing)?.next().is_some();
    Ok(left)
}

/// A table of chunks; none in a store that never had it.
fn first_chunk(
    tx: &ReadTransaction,
    table: TableDefinition<'_, (u64, u64), &'static [u8]>,
) -> Result<Option<Version>, Error> {
    match tx.open_table(table) {
        Ok(table) => {
            let first = table.first().map_err(reading)?;
            Ok(first.map(|(key, _)| Version::from_u64(key.value().0)))
        }
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(reading(error)),
    }
}

impl Store for RedbStore {
    fn identity(&self) -> Result<Option<Vec<u8>>, Error> {
        let tx = self.db.begin_read().map_err(reading)?;
        let meta = match tx.open_table(META) {
            Ok(meta) => meta,
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(reading(error)),
        };
        let identity = meta.get(IDENTITY).map_err(reading)?;
        Ok(identity.map(|block| block.value().to_vec()))
    }

    fn load(&self, load: &mut dyn Load) -> Result<(), Error> {
        let tx = self.db.begin_read().map_err(reading)?;
        let chunks = tx.open_table(CHECKPOINT).map_err(reading)?;
        let mut covered = 0;
        for row in chunks.iter().map_err(reading)? {
            let (key, block) = row.map_err(reading)?;
            let (version, index) = key.value();
            load.chunk(Version::from_u64(version), index, block.value())?;
            covered = version;
        }
        let deltas = tx.open_table(DELTAS).map_err(reading)?;
        let mut left = deltas.len().map_err(reading)?;
        let mut below = deltas.range(..=covered).map_err(reading)?;
        if let Some(row) = below.next_back() {
            let (first, block) = row.map_err(reading)?;
            load.covered(Version::from_u64(first.value()), block.value())?;
        }
        for row in deltas.range(covered.saturating_add(1)..).map_err(reading)? {
            let (first, block) = row.map_err(reading)?;
            load.group(Version::from_u64(first.value()), block.value())?;
            left = left.saturating_sub(1);
        }
        let unfinished = first_chunk(&tx, UNFINISHED)?;
        let any = left > 0 || unfinished.is_some() || first_chunk(&tx, OBSOLETE)?.is_some();
        load.leftovers(Leftovers { unfinished, covered: left, any });
        Ok(())
    }

    fn append(&mut self, first: Version, group: &[u8]) -> Result<(), Error> {
        let tx = self.db.begin_write().map_err(writing)?;
        {
            let mut deltas = tx.open_table(DELTAS).map_err(writing)?;
            deltas.insert(first.as_u64(), group).map_err(writing)?;
        }
        self.commit(tx)
    }

    fn put(&mut self, version: Version, part: &Part, sync: bool) -> Result<(), Error> {
        let tx = self.begin(sync)?;
        put(&tx, version, part)?;
        tx.commit().map_err(writing)
    }

    fn finish(&mut self, version: Version, part: &Part) -> Result<(), Error> {
        let tx = self.db.begin_write().map_err(writing)?;
        put(&tx, version, part)?;
        // It is empty: nothing is put before all is swept.
        tx.delete_table(OBSOLETE).map_err(writing)?;
        tx.rename_table(CHECKPOINT, OBSOLETE).map_err(writing)?;
        tx.rename_table(UNFINISHED, CHECKPOINT).map_err(writing)?;
        self.commit(tx)
    }

    fn sweep(&mut self, version: Version, bytes: usize, sync: bool) -> Result<Swept, Error> {
        let tx = self.begin(sync)?;
        let (mut swept, bytes) = (Swept::default(), bytes as u64);
        for table in [UNFINISHED, OBSOLETE] {
            if !swept.more {
                let mut chunks = tx.open_table(table).map_err(writing)?;
                swept.more = sweep(&mut swept, bytes, &mut chunks, (0u64, 0u64)..)?;
            }
        }
        if !swept.more {
            let mut deltas = tx.open_table(DELTAS).map_err(writing)?;
            swept.more = sweep(&mut swept, bytes, &mut deltas, ..=version.as_u64())?;
        }
        tx.commit().map_err(writing)?;
        Ok(swept)
    }
}

fn put(tx: &WriteTransaction, version: Version, part: &Part) -> Result<(), Error> {
    let mut table = tx.open_table(UNFINISHED).map_err(writing)?;
    for (index, block) in part {
        table.insert((version.as_u64(), *index), block.as_slice()).map_err(writing)?;
    }
    Ok(())
}

fn opening(error: DatabaseError) -> Error {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            Error::with_source(ErrorKind::InUse, "the engine's file is open elsewhere", error)
        }
        DatabaseError::UpgradeRequired(version) => Error::with_source(
            ErrorKind::UnsupportedVersion,
            format!("the engine's file has format {version}, which this build does not read"),
            error,
        ),
        other => read_error(other.into()),
    }
}

fn reading(error: impl Into<::redb::Error>) -> Error {
    read_error(error.into())
}

/// While opening nothing has been written yet: what is not a failure of the disk is damage.
fn read_error(error: ::redb::Error) -> Error {
    match &error {
        // The engine tells a wrong mark as invalid data, and a file that is too short as an early end.
        ::redb::Error::Io(io)
            if !matches!(io.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) =>
        {
            let message = format!("could not read the engine's file: {io}");
            Error::with_source(ErrorKind::Io, message, error)
        }
        _ => {
            let message = format!("the engine's file is damaged: {error}");
            Error::with_source(ErrorKind::Corrupt, message, error)
        }
    }
}

/// The errors of redb that a write can end with.
trait WriteError: Into<::redb::Error> {}
impl WriteError for TransactionError {}
impl WriteError for TableError {}
impl WriteError for StorageError {}
impl WriteError for CommitError {}
impl WriteError for SetDurabilityError {}

fn writing(error: impl WriteError) -> Error {
    let error = error.into();
    let kind = match &error {
        ::redb::Error::Io(_) | ::redb::Error::PreviousIo => ErrorKind::Io,
        ::redb::Error::Corrupted(_) => ErrorKind::Corrupt,
        _ => ErrorKind::Internal,
    };
    Error::with_source(kind, format!("could not write to the engine's file: {error}"), error)
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;
