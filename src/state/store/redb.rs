//! The store on redb.
//!
//! Tables: `meta` (the identity), `deltas` (first version of a group -> block), `checkpoint`
//! ((version, index) -> chunk). Commits use redb's default: checksummed roots, one phase, one sync. After a
//! crash redb then verifies the checksums of the whole file, which an opening here does anyway.

use ::redb::{
    CommitError, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition, TableError, TransactionError,
};
use std::io;
use std::sync::Arc;

use super::{Chunks, Load, Store};
use crate::state::Version;
use crate::state::disk::Stage;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::{Error, ErrorKind};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const DELTAS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("deltas");
const CHECKPOINT: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("checkpoint");
const IDENTITY: &str = "identity";

/// The engine's cache. State is read from memory, so it only serves opening and checkpoints.
const CACHE_BYTES: usize = 16 << 20;

#[derive(Debug)]
pub(in crate::state) struct RedbStore {
    db: Database,
}

impl RedbStore {
    /// Opens or makes the engine's file; whether it had to repair it.
    pub(in crate::state) fn open(stage: Stage) -> Result<(Self, bool), Error> {
        let repaired = Arc::new(AtomicBool::new(false));
        let noticed = Arc::clone(&repaired);
        let mut db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_repair_callback(move |_| noticed.store(true, Ordering::Relaxed))
            .create_with_backend(stage)
            .map_err(opening)?;
        let repaired = repaired.load(Ordering::Relaxed);
        // A repair verifies every checksum; a file that was closed in order is opened without a look at
        // them. Nothing but damage can make such a file need a repair, and repairing would quietly fall
        // back to an older commit.
        if !repaired && !db.check_integrity().map_err(opening)? {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the engine's file was closed in order and does not verify",
            ));
        }
        Ok((Self { db }, repaired))
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
        for row in chunks.iter().map_err(reading)? {
            let (key, block) = row.map_err(reading)?;
            let (version, index) = key.value();
            load.chunk(Version::from_u64(version), index, block.value())?;
        }
        let deltas = tx.open_table(DELTAS).map_err(reading)?;
        for row in deltas.iter().map_err(reading)? {
            let (first, block) = row.map_err(reading)?;
            load.group(Version::from_u64(first.value()), block.value())?;
        }
        Ok(())
    }

    fn append(&mut self, first: Version, group: &[u8]) -> Result<(), Error> {
        let tx = self.db.begin_write().map_err(writing)?;
        {
            let mut deltas = tx.open_table(DELTAS).map_err(writing)?;
            deltas.insert(first.as_u64(), group).map_err(writing)?;
        }
        tx.commit().map_err(writing)
    }

    fn checkpoint(&mut self, version: Version, chunks: &mut Chunks<'_>) -> Result<(), Error> {
        let tx = self.db.begin_write().map_err(writing)?;
        tx.delete_table(CHECKPOINT).map_err(writing)?;
        // Every group is covered: a checkpoint is of what was appended last.
        tx.delete_table(DELTAS).map_err(writing)?;
        {
            let mut table = tx.open_table(CHECKPOINT).map_err(writing)?;
            chunks(&mut |index, block| {
                table.insert((version.as_u64(), index), block).map_err(writing)?;
                Ok(())
            })?;
            tx.open_table(DELTAS).map_err(writing)?;
        }
        tx.commit().map_err(writing)
    }
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

fn writing(error: impl WriteError) -> Error {
    let error = error.into();
    let kind = match &error {
        ::redb::Error::Io(_) | ::redb::Error::PreviousIo => ErrorKind::Io,
        ::redb::Error::Corrupted(_) => ErrorKind::Corrupt,
        _ => ErrorKind::Internal,
    };
    Error::with_source(kind, format!("could not write to the engine's file: {error}"), error)
}
