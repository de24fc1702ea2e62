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
use crate::Error;

/// Where a chunk ends (rule 1).
pub(super) const CHUNK_BYTES: usize = 1 << 20;

/// Takes the number of a chunk and its block.
pub(super) type ChunkSink<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Error> + 'a;

/// Encodes a root and hands each block to `sink`; there is at least one.
pub(super) fn chunks(root: &Root, codec: Codec, sink: &mut ChunkSink<'_>) -> Result<(), Error> {
    let mut writer = Writer {
        root,
        codec,
        index: 0,
        total: 0,
        sections: Vec::new(),
        rows: Vec::new(),
        count: 0,
    };
    for slot in &root.slots {
        slot.encode(codec, &mut |key, value| {
            put_bytes(&mut writer.rows, key);
            put_bytes(&mut writer.rows, value);
            writer.count += 1;
            if writer.sections.len() + writer.rows.len() >= CHUNK_BYTES {
                writer.end_section(&slot.name);
                writer.end_chunk(false, sink)?;
            }
            Ok(())
        })?;
        writer.end_section(&slot.name);
    }
    writer.end_chunk(true, sink)
}

struct Writer<'a> {
    root: &'a Root,
    codec: Codec,
    index: u64,
    total: u64,
    sections: Vec<u8>,
    rows: Vec<u8>,
    count: usize,
}

impl Writer<'_> {
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

    fn end_chunk(&mut self, last: bool, sink: &mut ChunkSink<'_>) -> Result<(), Error> {
        let mut payload = Vec::with_capacity(self.sections.len() + 25);
        payload.extend_from_slice(&self.root.version.as_u64().to_le_bytes());
        payload.extend_from_slice(&self.index.to_le_bytes());
        payload.push(u8::from(last));
        payload.extend_from_slice(&self.total.to_le_bytes());
        payload.append(&mut self.sections);
        let block = block::seal(Kind::Chunk, self.codec, &payload)?;
        sink(self.index, &block)?;
        self.index += 1;
        Ok(())
    }
}
