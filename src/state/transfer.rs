//! Exports: a whole state in one file that another machine can read, and reading one.
//!
//! A file is a row of frames, each with its blake3 checksum (32 bytes) behind it. Numbers are
//! little-endian, lengths inside a payload LEB128; nothing in it depends on the machine, and it names no
//! path.
//!
//! - The header: `magic (8) | format (2) | codec (1) | compression (1) | payload length (4) | payload`; the
//!   payload is `version (8) | schema version (4) | collections | (name | rows)*` of those that have rows. In
//!   format 1, which is written where it is zero, there is no schema version.
//! - Blocks: `'R' | bytes unpacked (4) | bytes stored (4) | stored`; unpacked it is
//!   `(number of the collection | rows | (key | value)*)*`. Where both lengths are equal it is not packed.
//! - The end: `'E' | blocks (8) | rows (8) | bytes unpacked (8) | checksum of all checksums before (32)`.
//!
//! Rules that hold here:
//!
//! 1. The first sixteen bytes and the checksum of the header keep their places in every format to come, so
//!    that an older build can tell a newer file from a damaged one.
//! 2. A block ends at the first row that takes it past [`BLOCK_BYTES`], so it is bounded by that and one row.

mod file;
mod pack;
mod read;
mod write;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::sync::Arc;

use super::Version;
use super::codec::{Codec, ROW_BYTES_MAX};
use super::root::Root;
use super::schema;
use crate::Error;

#[cfg(feature = "durable")]
pub(super) use file::sync_folder;
pub use pack::Compression;

/// The newest format, which this build writes, unless the one before has room for all. It reads both.
const FORMAT: u16 = 2;
/// Its first byte is none of a text, and what changes the ends of lines changes it.
const MAGIC: [u8; 8] = *b"\x89PHXE\r\n\x1a";
const ROWS: u8 = b'R';
const END: u8 = b'E';
/// Where a block ends (rule 2).
const BLOCK_BYTES: usize = 1 << 20;
/// What rule 2 comes to, with the lengths of that row.
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES + 2 * ROW_BYTES_MAX + 64;
/// Room for as many names as there may be, as long as they may be.
const HEADER_BYTES_MAX: usize = 2 << 20;
/// What a row takes in memory beside its bytes, roughly, so that many tiny rows count for what they are.
const ROW_COST_BYTES: u64 = 64;
/// The default of [`ImportOptions::max_bytes`].
const MAX_BYTES: u64 = 16 << 30;

/// The rows of one collection: the encoded value of each encoded key.
pub(super) type EncodedRows = HashMap<Box<[u8]>, Box<[u8]>>;

/// What the end of an export says of all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    blocks: u64,
    rows: u64,
    bytes: u64,
}

/// How rows are encoded, and in which of the host's forms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    pub(super) codec: Codec,
    pub(super) schema_version: u32,
}

/// Writes a root; see [`Snapshot::export_to`](super::Snapshot::export_to).
pub(super) fn export(
    root: &Root,
    rows: Rows,
    compression: Compression,
    writer: &mut dyn Write,
) -> Result<u64, Error> {
    write::export(root, rows, compression, writer)
}

/// Writes a root to a file that is there whole or not at all.
pub(super) fn export_file(
    root: &Root,
    rows: Rows,
    compression: Compression,
    path: &Path,
) -> Result<u64, Error> {
    file::replace(path, |writer| write::export(root, rows, compression, writer))
}

/// What the header of an export says. Every build reads it, whatever its features are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportHeader {
    format: u16,
    codec: u8,
    compression: u8,
    version: Version,
    schema_version: u32,
    collections: Vec<(String, u64)>,
}

impl ExportHeader {
    /// Reads the header of an export and nothing after it. It is verified; the rest is not.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) for what is damaged or no export,
    /// [`ErrorKind::UnsupportedVersion`](crate::ErrorKind::UnsupportedVersion) for a newer format, and
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) from the reader.
    pub fn read(mut reader: impl Read) -> Result<Self, Error> {
        read::header(&mut reader)
    }

    /// [`ExportHeader::read`] of a file.
    ///
    /// # Errors
    /// Those of [`ExportHeader::read`].
    pub fn read_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::read(BufReader::new(open(path.as_ref())?))
    }

    /// The number of the format.
    #[must_use]
    pub fn format(&self) -> u16 {
        self.format
    }

    /// The version of the state that was exported.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The [version of the schema](super::StateBuilder::schema_version) of the host that wrote it.
    #[must_use]
    pub fn schema_version(&self) -> u32 {
        self.schema_version
    }

    /// The name of the codec of its rows, or `number N` for one that no build of this version has.
    #[must_use]
    pub fn codec_name(&self) -> String {
        Codec::name_of(self.codec)
    }

    /// The name of the compression of its rows, or `number N` for one that no build of this version has.
    #[must_use]
    pub fn compression_name(&self) -> String {
        Compression::name_of(self.compression)
    }

    /// The collections that have rows, by name, and how many.
    #[must_use]
    pub fn collections(&self) -> &[(String, u64)] {
        &self.collections
    }

    /// How many rows all collections have together.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.collections.iter().fold(0, |sum, (_, rows)| sum.saturating_add(*rows))
    }

    /// Whether this build can read the rows.
    ///
    /// # Errors
    /// [`ErrorKind::UnsupportedVersion`](crate::ErrorKind::UnsupportedVersion), and the message names the
    /// codec or compression that is missing, and the feature that would bring it.
    pub fn check(&self) -> Result<(), Error> {
        self.readable().map(|_| ())
    }

    fn readable(&self) -> Result<(Codec, Compression), Error> {
        Ok((Codec::from_id(self.codec)?, Compression::from_id(self.compression)?))
    }
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|error| file::failed("open", path, error))
}

/// What reading an export may take; from [`Import::options`].
#[derive(Clone, Debug)]
#[must_use = "options do nothing until something is read with them"]
pub struct ImportOptions {
    max_bytes: u64,
}

impl ImportOptions {
    /// How much an export may come to in memory: the bytes of its rows once they are unpacked, and 64 more
    /// for each row. What they become once they are decoded is for their types. Default: 16 GiB; any number.
    ///
    /// A few megabytes of a compressed file can claim thousands of times as much: set it to what the
    /// machine has to spare where the file comes from somebody else. What a block would take is looked at before it is
    /// read, and so before its checksum is: where this is about what the export takes, damage to a length may be told as
    /// [`ErrorKind::LimitReached`](crate::ErrorKind::LimitReached) and not as damage.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// [`Import::read`] within these limits.
    ///
    /// # Errors
    /// Those of [`Import::read`].
    pub fn read(self, mut reader: impl Read) -> Result<Import, Error> {
        let (header, rows) = read::import(&mut reader, self.max_bytes)?;
        Ok(Import(Arc::new(Content { header, rows })))
    }

    /// [`Import::read_file`] within these limits.
    ///
    /// # Errors
    /// Those of [`Import::read`].
    pub fn read_file(self, path: impl AsRef<Path>) -> Result<Import, Error> {
        self.read(BufReader::with_capacity(1 << 16, open(path.as_ref())?))
    }
}

/// An export that was read and verified to its last byte. Cheap to clone.
///
/// It lives in memory alone, with all of its rows in their encoded form.
/// [`StateManager::import`](super::StateManager::import) makes a state equal to it;
/// [`StateBuilder::import`](super::StateBuilder::import) makes a new state of it.
///
/// ```
/// use phalanx::state::{Compression, Import, StateManager};
///
/// # #[cfg(any(feature = "bincode", feature = "postcard"))]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("export");
/// let here = StateManager::in_memory();
/// here.collection::<String, u32>("ages")?.insert("ada".to_owned(), 36)?;
/// here.snapshot().export_to_file(&file, Compression::None)?;
///
/// // On another machine:
/// let import = Import::read_file(&file)?;
/// assert_eq!(import.header().collections(), [("ages".to_owned(), 1)]);
/// let there = StateManager::in_memory();
/// let ages = there.collection::<String, u32>("ages")?;
/// there.import(&import)?;
/// assert_eq!(ages.get(&"ada".to_owned()), Some(36));
/// # Ok(())
/// # }
/// # #[cfg(not(any(feature = "bincode", feature = "postcard")))]
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct Import(Arc<Content>);

struct Content {
    header: ExportHeader,
    /// In the order of the header's collections.
    rows: Vec<EncodedRows>,
}

impl Import {
    /// Reads an export to its end, verifies it, and keeps its rows in memory.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) for what is damaged, cut off, followed by more or
    /// no export; [`ErrorKind::UnsupportedVersion`](crate::ErrorKind::UnsupportedVersion) for a newer
    /// format, or a codec or compression that this build lacks;
    /// [`ErrorKind::LimitReached`](crate::ErrorKind::LimitReached) beyond [`ImportOptions::max_bytes`];
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) from the reader.
    pub fn read(reader: impl Read) -> Result<Self, Error> {
        Self::options().read(reader)
    }

    /// [`Import::read`] of a file.
    ///
    /// # Errors
    /// Those of [`Import::read`].
    pub fn read_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::options().read_file(path)
    }

    /// Reading with other limits than the default ones.
    pub fn options() -> ImportOptions {
        ImportOptions { max_bytes: MAX_BYTES }
    }

    /// What its header says.
    #[must_use]
    pub fn header(&self) -> &ExportHeader {
        &self.0.header
    }

    /// It was found when this was read.
    pub(super) fn codec(&self) -> Result<Codec, Error> {
        Codec::from_id(self.0.header.codec)
    }

    /// Whether a host of this version can read its rows.
    pub(super) fn check_schema(&self, asked: u32) -> Result<(), Error> {
        schema::check("the export", self.0.header.schema_version, asked)
    }

    pub(super) fn collections(&self) -> impl Iterator<Item = (&str, &EncodedRows)> {
        self.0.header.collections.iter().map(|(name, _)| &**name).zip(&self.0.rows)
    }
}

impl fmt::Debug for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Import").field("header", &self.0.header).finish_non_exhaustive()
    }
}

/// How many bytes an export has that is not compressed.
pub(super) fn size(root: &Root, rows: Rows) -> Result<u64, Error> {
    write::export(root, rows, Compression::None, &mut io::sink())
}
