//! From stored blocks to the newest state: the checkpoint, then the deltas after it.
//!
//! Rules that hold here:
//!
//! 1. Versions have no gap: a checkpoint is whole, and every group starts right after what lies before it.
//!    Whatever is missing in between is an error, never a state.
//! 2. Names, keys and values are copied only after the block they lie in was verified.

use std::collections::HashMap;

use super::RecoveryReport;
use super::Version;
use super::block::{self, Kind, Reader, corrupt};
use super::codec::Codec;
use super::root::RawRows;
use super::store::{Load, Progress};
use super::transaction::{PUT, REMOVE};
use crate::{Error, ErrorKind};

/// Builds the newest state from the blocks of a store.
#[derive(Debug)]
pub(super) struct Recovery {
    codec: Codec,
    version: Version,
    chunks: Option<Chunks>,
    pub(super) collections: HashMap<String, RawRows>,
    pub(super) report: RecoveryReport,
    pub(super) progress: Progress,
}

#[derive(Debug)]
struct Chunks {
    version: Version,
    next: u64,
    complete: bool,
}

impl Recovery {
    pub(super) fn new(codec: Codec) -> Self {
        Self {
            codec,
            version: Version::ZERO,
            chunks: None,
            collections: HashMap::new(),
            report: RecoveryReport::default(),
            progress: Progress::default(),
        }
    }

    /// Checks that nothing is missing at the end.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.end_checkpoint()?;
        self.report.version = self.version;
        let sizes = self.collections.iter();
        self.report.collections =
            sizes.map(|(name, rows)| (name.clone(), rows.len() as u64)).collect();
        self.report.collections.sort();
        Ok(())
    }

    fn open<'b>(&mut self, kind: Kind, block: &'b [u8]) -> Result<&'b [u8], Error> {
        let (codec, payload) = block::open(kind, block)?;
        if codec != self.codec {
            return Err(corrupt(format!(
                "a block was written with codec {}, the store with {}",
                codec.name(),
                self.codec.name()
            )));
        }
        self.report.bytes += block.len() as u64;
        Ok(payload)
    }

    fn end_checkpoint(&self) -> Result<(), Error> {
        match &self.chunks {
            Some(Chunks { complete: false, version, next }) => Err(corrupt(format!(
                "the checkpoint of {version} ends after {next} chunks without its last"
            ))),
            _ => Ok(()),
        }
    }

    fn rows(&mut self, name: &str) -> &mut RawRows {
        if !self.collections.contains_key(name) {
            self.collections.insert(name.to_owned(), RawRows::new());
        }
        self.collections.get_mut(name).expect("the collection was put there above")
    }

    fn delta(&mut self, delta: &[u8]) -> Result<(), Error> {
        let mut reader = Reader::new(delta);
        for _ in 0..reader.len()? {
            let name = reader.str()?;
            let writes = reader.len()?;
            let rows = self.rows(name);
            for _ in 0..writes {
                match reader.u8()? {
                    PUT => {
                        let key = reader.bytes()?;
                        rows.insert(key.into(), reader.bytes()?.into());
                    }
                    REMOVE => {
                        rows.remove(reader.bytes()?);
                    }
                    tag => return Err(corrupt(format!("a write has the unknown tag {tag}"))),
                }
            }
        }
        end(&reader)
    }
}

impl Load for Recovery {
    fn chunk(&mut self, version: Version, index: u64, block: &[u8]) -> Result<(), Error> {
        let payload = self.open(Kind::Chunk, block)?;
        let mut reader = Reader::new(payload);
        let said = (reader.version()?, reader.u64()?);
        let last = reader.u8()? != 0;
        let total = reader.u64()?;
        let expected = match &self.chunks {
            None => (version, 0),
            Some(chunks) if !chunks.complete => (chunks.version, chunks.next),
            Some(_) => return Err(corrupt("a checkpoint goes on after its last chunk")),
        };
        if said != (version, index) || said != expected {
            return Err(corrupt(format!(
                "chunk {} of {} stands where chunk {} of {} belongs",
                said.1, said.0, expected.1, expected.0
            )));
        }
        while !reader.is_empty() {
            let name = reader.str()?;
            let count = reader.len()?;
            let rows = self.rows(name);
            for _ in 0..count {
                let key = reader.bytes()?;
                if rows.insert(key.into(), reader.bytes()?.into()).is_some() {
                    return Err(corrupt(format!(
                        "a checkpoint has two rows of one key in {name:?}"
                    )));
                }
            }
            self.report.checkpoint_rows += count as u64;
        }
        if self.report.checkpoint_rows != total {
            return Err(corrupt(format!(
                "a checkpoint has {} rows up to here where it says {total}",
                self.report.checkpoint_rows
            )));
        }
        self.progress.checkpoint_bytes += block.len() as u64;
        self.chunks = Some(Chunks { version, next: index + 1, complete: last });
        if last {
            self.version = version;
            self.report.checkpoint = Some(version);
            self.progress.checkpointed = Some(version);
        }
        Ok(())
    }

    fn group(&mut self, first: Version, block: &[u8]) -> Result<(), Error> {
        self.end_checkpoint()?;
        let payload = self.open(Kind::Group, block)?;
        let mut reader = Reader::new(payload);
        let said = reader.version()?;
        let expected = self.version.next();
        if said != first || said != expected {
            return Err(corrupt(format!(
                "a group that starts at {said} stands where {expected} belongs"
            )));
        }
        if reader.is_empty() {
            return Err(corrupt(format!("the group at {said} is empty")));
        }
        while !reader.is_empty() {
            let delta = reader.bytes()?;
            self.version = self.version.next();
            self.delta(delta).map_err(|error| {
                let message = format!("the delta of {} is damaged: {error}", self.version);
                Error::with_source(ErrorKind::Corrupt, message, error)
            })?;
            self.report.commits += 1;
            self.progress.delta_commits += 1;
        }
        self.report.groups += 1;
        self.progress.delta_bytes += block.len() as u64;
        Ok(())
    }
}

fn end(reader: &Reader<'_>) -> Result<(), Error> {
    if reader.is_empty() { Ok(()) } else { Err(corrupt("bytes are left over at its end")) }
}
