//! A whole state as a row of checksummed chunks: a checkpoint.
//!
//! The payload of a chunk is `version (8) | index (8) | last (1) | rows in all chunks (8) | sections`; a
//! section is `name | rows | (key | value)*` with LEB128 lengths. Rules that hold here:
//!
//! 1. A chunk ends at the first row that takes it past [`CHUNK_BYTES`], so it is bounded by that and one row.
//! 2. The last chunk says so and tells the number of rows, so a missing chunk is never a shorter state.

use super::block::{self, Kind, put_bytes, put_len};
use super::codec::Codec;
use super::root::Root;
use super::{Import, Version};
use crate::Error;

/// Where a chunk ends (rule 1). The engine gives a chunk a power of two: so it fits into 128 KiB with the marks
/// around it and a last row of up to 4 KiB, where one just beyond would take as much again, to be read as well.
pub(super) const CHUNK_BYTES: usize = (124 << 10) - 256;

/// Takes the number of a chunk and its block.
pub(super) type ChunkSink<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Error> + 'a;

/// Encodes a root and hands each block to `sink`; there is at least one.
pub(super) fn chunks(root: &Root, codec: Codec, sink: &mut ChunkSink<'_>) -> Result<(), Error> {
    let mut writer = Writer::new(root.version);
    for slot in &root.slots {
        slot.encode(codec, &mut |key, value| writer.row(codec, &slot.name, (key, value), sink))?;
        writer.end_section(&slot.name);
    }
    writer.end_chunk(codec, true, sink)
}

/// The same of rows that are encoded already.
pub(super) fn chunks_of(
    version: Version,
    import: &Import,
    sink: &mut ChunkSink<'_>,
) -> Result<(), Error> {
    let codec = import.codec()?;
    let mut writer = Writer::new(version);
    for (name, rows) in import.collections() {
        for (key, value) in rows {
            writer.row(codec, name, (key, value), sink)?;
        }
        writer.end_section(name);
    }
    writer.end_chunk(codec, true, sink)
}

struct Writer {
    version: Version,
    index: u64,
    total: u64,
    sections: Vec<u8>,
    rows: Vec<u8>,
    count: usize,
}

impl Writer {
    fn new(version: Version) -> Self {
        let (sections, rows) = (Vec::new(), Vec::new());
        Self { version, index: 0, total: 0, sections, rows, count: 0 }
    }

    fn row(
        &mut self,
        codec: Codec,
        name: &str,
        (key, value): (&[u8], &[u8]),
        sink: &mut ChunkSink<'_>,
    ) -> Result<(), Error> {
        put_bytes(&mut self.rows, key);
        put_bytes(&mut self.rows, value);
        self.count += 1;
        if self.sections.len() + self.rows.len() >= CHUNK_BYTES {
            self.end_section(name);
            self.end_chunk(codec, false, sink)?;
        }
        Ok(())
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

    fn end_chunk(
        &mut self,
        codec: Codec,
        last: bool,
        sink: &mut ChunkSink<'_>,
    ) -> Result<(), Error> {
        let mut payload = Vec::with_capacity(self.sections.len() + 25);
        payload.extend_from_slice(&self.version.as_u64().to_le_bytes());
        payload.extend_from_slice(&self.index.to_le_bytes());
        payload.push(u8::from(last));
        payload.extend_from_slice(&self.total.to_le_bytes());
        payload.append(&mut self.sections);
        let block = block::seal(Kind::Chunk, codec, &payload)?;
        sink(self.index, &block)?;
        self.index += 1;
        Ok(())
    }
}
