//! A whole state as a row of checksummed chunks: a checkpoint.
//!
//! The payload of a chunk is `version (8) | index (8) | last (1) | rows in all chunks (8) | sections`; a
//! section is `name | rows | (key | value)*` with LEB128 lengths. Rules that hold here:
//!
//! 1. A chunk ends at the first row that takes it past its limit, [`CHUNK_BYTES`] at most, so it is bounded by
//!    that and one row.
//! 2. The last chunk says so and tells the number of rows, so a missing chunk is never a shorter state.
//! 3. What is encoded in parts holds no lock between them, nor while it encodes one.

use super::block::{self, Kind, put_bytes, put_len};
use super::codec::Codec;
use super::release::Held;
use super::root::Cursor;
use super::{Import, Version};
use crate::Error;

/// Where a chunk ends (rule 1). The engine gives a chunk a power of two: so it fits into 128 KiB with the marks
/// around it and a last row of up to 4 KiB, where one just beyond would take as much again, to be read as well.
pub(super) const CHUNK_BYTES: usize = (124 << 10) - 256;

/// Takes the number of a chunk and its block.
pub(super) type ChunkSink<'a> = dyn FnMut(u64, Vec<u8>) -> Result<(), Error> + 'a;

/// Encodes a root in parts, each whenever one likes.
pub(super) struct Parts {
    // Before the root, which keeps its values from being freed here.
    cursor: Option<Box<dyn Cursor>>,
    root: Held,
    codec: Codec,
    slot: usize,
    writer: Writer,
}

impl Parts {
    /// There is at least one chunk, and each ends past so many bytes.
    pub(super) fn new(root: Held, codec: Codec, chunk_bytes: usize) -> Self {
        let writer = Writer::new(root.version, chunk_bytes.min(CHUNK_BYTES));
        Self { cursor: None, root, codec, slot: 0, writer }
    }

    /// Hands over chunks of so many bytes together at least, or all that are left; whether there are more.
    pub(super) fn next(&mut self, bytes: usize, sink: &mut ChunkSink<'_>) -> Result<bool, Error> {
        let mut done = 0;
        let mut sink = |index, block: Vec<u8>| {
            done += block.len();
            sink(index, block)?;
            Ok(done < bytes)
        };
        while let Some(slot) = self.root.slots.get(self.slot) {
            if self.cursor.is_none() {
                self.cursor = slot.cursor();
            }
            let (writer, codec) = (&mut self.writer, self.codec);
            let more = match &mut self.cursor {
                Some(cursor) => cursor.encode(codec, &mut |key, value| {
                    writer.row(codec, &slot.name, (key, value), &mut sink)
                })?,
                None => false,
            };
            if more {
                return Ok(true);
            }
            self.writer.end_section(&slot.name);
            self.cursor = None;
            self.slot += 1;
        }
        self.writer.end_chunk(self.codec, true, &mut sink)?;
        Ok(false)
    }

    /// The image again, once nothing more of it is needed.
    pub(super) fn into_root(self) -> Held {
        self.root
    }
}

/// The chunks of rows that are encoded already.
pub(super) fn chunks_of(
    version: Version,
    import: &Import,
    sink: &mut ChunkSink<'_>,
) -> Result<(), Error> {
    let mut writer = Writer::new(version, CHUNK_BYTES);
    let codec = import.codec()?;
    let mut sink = |index, block| sink(index, block).map(|()| true);
    for (name, rows) in import.collections() {
        for (key, value) in rows {
            writer.row(codec, name, (key, value), &mut sink)?;
        }
        writer.end_section(name);
    }
    writer.end_chunk(codec, true, &mut sink)?;
    Ok(())
}

/// Takes a chunk; whether it takes another one now.
type Sink<'a> = dyn FnMut(u64, Vec<u8>) -> Result<bool, Error> + 'a;

struct Writer {
    version: Version,
    chunk_bytes: usize,
    index: u64,
    total: u64,
    sections: Vec<u8>,
    rows: Vec<u8>,
    count: usize,
}

impl Writer {
    fn new(version: Version, chunk_bytes: usize) -> Self {
        let (sections, rows) = (Vec::new(), Vec::new());
        Self { version, chunk_bytes, index: 0, total: 0, sections, rows, count: 0 }
    }

    /// Whether the sink takes another chunk.
    fn row(
        &mut self,
        codec: Codec,
        name: &str,
        (key, value): (&[u8], &[u8]),
        sink: &mut Sink<'_>,
    ) -> Result<bool, Error> {
        put_bytes(&mut self.rows, key);
        put_bytes(&mut self.rows, value);
        self.count += 1;
        if self.sections.len() + self.rows.len() < self.chunk_bytes {
            return Ok(true);
        }
        self.end_section(name);
        self.end_chunk(codec, false, sink)
    }

    fn end_section(&mut self, name: &str) {
        if self.count == 0 {
            return;
        }
        put_bytes(&mut self.sections, name.as_bytes());
        put_len(&mut self.sections, self.count);
        self.sections.append(&mut self.rows);
        self.total += self.count as u64;
        self.count = 0;
    }

    fn end_chunk(&mut self, codec: Codec, last: bool, sink: &mut Sink<'_>) -> Result<bool, Error> {
        let mut payload = Vec::with_capacity(self.sections.len() + 25);
        payload.extend_from_slice(&self.version.as_u64().to_le_bytes());
        payload.extend_from_slice(&self.index.to_le_bytes());
        payload.push(u8::from(last));
        payload.extend_from_slice(&self.total.to_le_bytes());
        payload.append(&mut self.sections);
        let block = block::seal(Kind::Chunk, codec, &payload)?;
        let more = sink(self.index, block)?;
        self.index += 1;
        Ok(more)
    }
}
