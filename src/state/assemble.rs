//! Opening: lock, look, rehearse, verify, and only then write.
//!
//! Rules that hold here:
//!
//! 1. Up to [`Stage::go_live`] nothing in the folder is written; an error before it leaves every byte as it
//!    was.
//! 2. The header is read before the engine sees its file, so a newer format is told from a damaged file even
//!    where its engine is another.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use super::block::corrupt;
use super::builder::Settings;
use super::codec::Codec;
#[cfg(feature = "test-util")]
use super::disk::fault::FaultDisk;
use super::disk::{Disk, FileDisk, Stage};
use super::folder::Folder;
use super::recover::Recovery;
use super::release::Release;
use super::root::{Content, Recovered, Root, Slot};
use super::snapshot::no_codec;
use super::store::identity::Identity;
use super::store::redb::RedbStore;
use super::store::{self, Keeper, Load, Store};
use super::{Import, StateManager, Version, export, schema};
use crate::{Error, ErrorKind, Timestamp};

#[cfg(feature = "test-util")]
pub(super) fn open_fault(
    disk: &FaultDisk,
    settings: Settings,
    started: Timestamp,
) -> Result<StateManager, Error> {
    let new = disk.bytes().is_empty();
    let opened = Opened::rehearse(Box::new(disk.clone()), new, None, &settings)?;
    opened.live()?.finish(None, settings, None, started)
}

pub(super) fn open_folder(
    path: &Path,
    settings: Settings,
    started: Timestamp,
) -> Result<StateManager, Error> {
    if Codec::preferred().is_none() {
        return Err(no_codec());
    }
    let folder = Folder::lock(path)?;
    let found = folder.look()?;
    let header = found.header.as_deref().map(|block| header(block, &settings)).transpose()?;
    match (header, found.data) {
        (None, None) => {
            let file = folder.new_data()?;
            let disk = FileDisk::new(file);
            let opened = Opened::rehearse(Box::new(disk), true, None, &settings)?;
            let opened = opened.live()?;
            folder.sync_path()?;
            folder.name_data()?;
            folder.write_header(&opened.identity.seal()?)?;
            opened.finish(Some(folder), settings, Some(path), started)
        }
        (Some(_), None) => Err(corrupt(format!(
            "the state folder {} has its header but not its data",
            path.display()
        ))),
        (header, Some(file)) => {
            let disk = FileDisk::new(file);
            let opened = Opened::rehearse(Box::new(disk), false, header, &settings)?;
            // A creation that was cut short has no commits; anything else has lost its header.
            if header.is_none() && opened.recovery.report.version != Version::ZERO {
                return Err(corrupt(format!(
                    "the state folder {} has its data but not its header",
                    path.display()
                )));
            }
            folder.sync_path()?;
            folder.sync_found(found.header_file.as_ref())?;
            let opened = opened.live()?;
            // It follows what the store says.
            if header != Some(opened.identity) {
                folder.write_header(&opened.identity.seal()?)?;
            }
            opened.finish(Some(folder), settings, Some(path), started)
        }
    }
}

/// A state in memory that starts as an export.
pub(super) fn open_memory(
    import: &Import,
    settings: &Settings,
    started: Timestamp,
) -> Result<StateManager, Error> {
    let nowhere = |_: Version, chunks: &mut store::Chunks<'_>| chunks(&mut |_, _| Ok(()));
    let mut recovery = fill(import, nowhere)?;
    recovery.report.created = true;
    let root = root(&mut recovery, settings);
    recovery.report.elapsed = settings.clock.now() - started;
    Ok(StateManager::of_root(root, settings, recovery.report))
}

/// Hands the chunks of an export to `put`, and returns what a recovery of them finds.
fn fill(
    import: &Import,
    put: impl FnOnce(Version, &mut store::Chunks<'_>) -> Result<(), Error>,
) -> Result<Recovery, Error> {
    let mut recovery = Recovery::new(import.codec()?);
    // The state before any commit has no rows, and no checkpoint either.
    if import.header().rows() > 0 {
        let version = import.header().version().max(Version::ZERO.next());
        put(version, &mut |sink| {
            export::chunks_of(version, import, &mut |index, block| {
                recovery.chunk(version, index, &block)?;
                sink(index, block)
            })
        })?;
    }
    recovery.finish()?;
    let report = &mut recovery.report;
    report.schema_version = import.header().schema_version();
    report.imported = Some(import.header().version());
    // These chunks were made of it just now, and nothing was read from a store.
    report.imported_rows = std::mem::take(&mut report.checkpoint_rows);
    (report.checkpoint, report.bytes) = (None, 0);
    Ok(recovery)
}

fn root(recovery: &mut Recovery, settings: &Settings) -> Root {
    let version = recovery.report.version;
    let collections = std::mem::take(&mut recovery.collections);
    let mut collections: Vec<_> = collections.into_iter().collect();
    collections.sort_by(|(a, _), (b, _)| a.cmp(b));
    let slots = collections
        .into_iter()
        .map(|(name, rows)| Slot {
            name: name.into(),
            content: Content::Recovered(Arc::new(Recovered::new(rows))),
        })
        .collect();
    Root {
        owner: Release::new(settings.max_pending_releases),
        version,
        replaced: 0,
        changed: 0,
        slots,
    }
}

fn unread(error: io::Error) -> Error {
    Error::with_source(ErrorKind::Io, "could not read the store", error)
}

fn header(header: &[u8], settings: &Settings) -> Result<Identity, Error> {
    let header = Identity::open(header).map_err(|error| {
        let message = format!("the header of the state folder: {error}");
        Error::with_source(error.kind(), message, error)
    })?;
    schema::check("the state folder", header.schema, settings.schema_version)?;
    Ok(header)
}

/// A store whose contents were verified, and which may not be live yet.
struct Opened {
    store: RedbStore,
    stage: Stage,
    identity: Identity,
    recovery: Recovery,
}

impl Opened {
    /// Opens the engine without touching the disk, and reads everything.
    fn rehearse(
        disk: Box<dyn Disk>,
        new: bool,
        header: Option<Identity>,
        settings: &Settings,
    ) -> Result<Self, Error> {
        if !new && disk.len().map_err(unread)? == 0 {
            // The engine would take it for a new file.
            return Err(corrupt("the engine's file is empty"));
        }
        let stage = Stage::new(disk).map_err(unread)?;
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let (mut store, repaired) = RedbStore::open(stage.clone(), settings.cache_bytes)?;
            if new {
                let codec = settings.codec.or(Codec::preferred()).ok_or_else(no_codec)?;
                let identity = Identity { codec, schema: settings.schema_version };
                store.initialize(&identity.seal()?)?;
            }
            let identity = store.identity()?;
            let identity = identity.ok_or_else(|| corrupt("the store does not say what it is"))?;
            let identity = Identity::open(&identity)?;
            schema::check("the store", identity.schema, settings.schema_version)?;
            let Identity { codec, schema } = identity;
            if header.is_some_and(|header| header.codec != codec) {
                return Err(corrupt("the header and the data name different codecs"));
            }
            if let Some(header) = header
                && header.schema > schema
            {
                return Err(corrupt(format!(
                    "the header names schema version {} and the data {schema}",
                    header.schema
                )));
            }
            if let Some(asked) = settings.codec
                && asked != codec
            {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    format!(
                        "the store was written with codec {}; it was asked for with {}",
                        codec.name(),
                        asked.name()
                    ),
                ));
            }
            let mut recovery = Recovery::new(codec);
            store.load(&mut recovery)?;
            recovery.finish()?;
            if settings.import.is_some() && recovery.report.version != Version::ZERO {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!(
                        "the store is at {} already; open it and import into the state",
                        recovery.report.version
                    ),
                ));
            }
            recovery.report.created = new;
            recovery.report.repaired = repaired;
            recovery.report.schema_version = schema;
            Ok((store, identity, recovery))
        }));
        let (store, identity, recovery) = opened.unwrap_or_else(|_| {
            Err(corrupt("the engine panicked while it read its file, which is damaged"))
        })?;
        Ok(Self { store, stage, identity, recovery })
    }

    /// Rule 1 of the file: from here on there are writes.
    fn live(mut self) -> Result<Self, Error> {
        let again = self.stage.go_live().map_err(|error| {
            Error::with_source(ErrorKind::Io, "could not write while opening the store", error)
        })?;
        self.recovery.report.rewritten_bytes = again;
        Ok(self)
    }

    fn finish(
        self,
        folder: Option<Folder>,
        settings: Settings,
        path: Option<&Path>,
        started: Timestamp,
    ) -> Result<StateManager, Error> {
        let Self { mut store, stage, identity, mut recovery } = self;
        let Identity { codec, schema } = identity;
        if settings.schema_version > schema {
            store.rise(Identity { codec, schema: settings.schema_version }.seal()?);
        }
        if let Some(import) = &settings.import {
            let filled = fill(import, |version, chunks| store::fill(&mut store, version, chunks))?;
            let found = std::mem::replace(&mut recovery, filled);
            recovery.report.created = found.report.created;
            recovery.report.repaired = found.report.repaired;
            recovery.report.unfinished_checkpoint = found.report.unfinished_checkpoint;
            recovery.report.bytes = found.report.bytes;
            recovery.report.rewritten_bytes = found.report.rewritten_bytes;
            recovery.progress.leftovers = found.progress.leftovers;
        }
        let root = root(&mut recovery, &settings);
        let Recovery { mut report, progress, .. } = recovery;
        let keeper =
            Keeper::new(Box::new(store), folder, codec, stage.counters(), &settings, progress);
        report.folder = path.map(Path::to_owned);
        report.elapsed = settings.clock.now() - started;
        Ok(StateManager::recovered(root, codec, keeper, &settings, report))
    }
}
