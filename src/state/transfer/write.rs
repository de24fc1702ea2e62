//! Writing an export; the form of one is told at the head of `transfer.rs`.

use std::io::Write;

use super::pack::Compression;
use super::{BLOCK_BYTES, END, FORMAT, HEADER_BYTES_MAX, MAGIC, ROWS, Rows, Totals};
use crate::state::block::{LEN_WIDTH_MAX, len_width, patch_len, put_bytes, put_len};
use crate::state::root::Root;
use crate::{Error, ErrorKind};

/// Writes all of a root and returns how many bytes that were.
pub(in crate::state) fn export(
    root: &Root,
    rows: Rows,
    compression: Compression,
    writer: &mut dyn Write,
) -> Result<u64, Error> {
    let mut out = Out { writer, written: 0, sums: blake3::Hasher::new() };
    out.put(&mut header(root, rows, compression)?, 0)?;
    let (start, section) = (FRONT_BYTES, FRONT_BYTES);
    let totals = Totals::default();
    let mut blocks = Blocks { out, compression, start, section, rows: 0, totals };
    let mut frame = vec![0; FRONT_BYTES];
    let filled = root.slots.iter().filter(|slot| slot.len() > 0).enumerate();
    for (number, slot) in filled {
        let mut left = slot.len();
        slot.append(rows.codec, &mut frame, &mut |frame| {
            left = left.saturating_sub(1);
            blocks.end_row(frame, number, left)
        })?;
        blocks.end_section(&mut frame, number);
    }
    blocks.end(frame)
}

/// `magic (8) | format (2) | codec (1) | compression (1) | length (4) | payload`.
fn header(root: &Root, rows: Rows, compression: Compression) -> Result<Vec<u8>, Error> {
    let Rows { codec, schema_version } = rows;
    let format = if schema_version == 0 { 1 } else { FORMAT };
    let filled = root.slots.iter().filter(|slot| slot.len() > 0);
    let mut payload = root.version.as_u64().to_le_bytes().to_vec();
    if schema_version != 0 {
        payload.extend_from_slice(&schema_version.to_le_bytes());
    }
    put_len(&mut payload, filled.clone().count());
    for slot in filled {
        put_bytes(&mut payload, slot.name.as_bytes());
        put_len(&mut payload, slot.len());
    }
    let len = u32::try_from(payload.len()).ok().filter(|len| *len as usize <= HEADER_BYTES_MAX);
    let len = len.ok_or_else(|| {
        Error::new(ErrorKind::Internal, "the names of the collections do not fit into a header")
    })?;
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&format.to_le_bytes());
    header.extend_from_slice(&[codec.id(), compression.id()]);
    header.extend_from_slice(&len.to_le_bytes());
    header.append(&mut payload);
    Ok(header)
}

/// Frames, each with its checksum behind it.
struct Out<'a> {
    writer: &'a mut dyn Write,
    written: u64,
    /// Over the checksums of all frames so far.
    sums: blake3::Hasher,
}

impl Out<'_> {
    /// Writes the frame that starts there, to which it adds the checksum.
    fn put(&mut self, frame: &mut Vec<u8>, start: usize) -> Result<(), Error> {
        let sum = blake3::hash(&frame[start..]);
        self.sums.update(sum.as_bytes());
        frame.extend_from_slice(sum.as_bytes());
        let frame = &frame[start..];
        self.writer.write_all(frame).map_err(|error| {
            Error::with_source(ErrorKind::Io, format!("could not write the export: {error}"), error)
        })?;
        self.written += frame.len() as u64;
        Ok(())
    }
}

/// What a frame of rows begins with: its kind and two lengths.
const FRAME_HEAD_BYTES: usize = 9;
/// Room for that and for the head of the first section, which are known when all of it is there. So that what
/// is hashed and written is in one piece, and rows stay where they were encoded.
const FRONT_BYTES: usize = FRAME_HEAD_BYTES + 2 * LEN_WIDTH_MAX;

struct Blocks<'a> {
    out: Out<'a>,
    compression: Compression,
    /// Where the sections of the block begin in the frame.
    start: usize,
    /// Where the rows of the section that is being filled begin.
    section: usize,
    rows: usize,
    totals: Totals,
}

impl Blocks<'_> {
    /// Called after each row of a collection, of which `left` are to come.
    fn end_row(&mut self, frame: &mut Vec<u8>, number: usize, left: usize) -> Result<(), Error> {
        self.rows += 1;
        if frame.len() - self.start >= BLOCK_BYTES {
            self.end_section(frame, number);
            return self.end_block(frame);
        }
        if self.rows == 1 {
            // Rows of one collection are about as long; growing by and by would copy all that is there.
            let row = frame.len() - self.section;
            frame.reserve((row + row / 8).saturating_mul(left).min(BLOCK_BYTES));
        }
        Ok(())
    }

    fn end_section(&mut self, frame: &mut Vec<u8>, number: usize) {
        if self.rows == 0 {
            return;
        }
        let head = len_width(number) + len_width(self.rows);
        let mut at = self.section;
        if at == FRONT_BYTES {
            self.start = at - head;
            at = self.start;
        } else {
            drop(frame.splice(at..at, std::iter::repeat_n(0, head)));
        }
        let (first, second) = frame[at..at + head].split_at_mut(len_width(number));
        patch_len(first, number);
        patch_len(second, self.rows);
        self.section = frame.len();
        self.totals.rows += self.rows as u64;
        self.rows = 0;
    }

    fn end_block(&mut self, frame: &mut Vec<u8>) -> Result<(), Error> {
        let raw = &frame[self.start..];
        let raw_bytes = raw.len();
        let packed = self.compression.pack(raw)?;
        // What does not get smaller is stored as it is, which its two equal lengths say.
        let packed = packed.filter(|packed| packed.len() < raw_bytes);
        let stored_bytes = packed.as_ref().map_or(raw_bytes, Vec::len);
        let len = |bytes: usize| u32::try_from(bytes).map(u32::to_le_bytes);
        let (Ok(raw_len), Ok(stored_len)) = (len(raw_bytes), len(stored_bytes)) else {
            return Err(Error::new(ErrorKind::Internal, "a block of an export is beyond 4 GiB"));
        };
        if let Some(packed) = packed {
            frame.truncate(self.start);
            frame.extend_from_slice(&packed);
        }
        let start = self.start - FRAME_HEAD_BYTES;
        frame[start] = ROWS;
        frame[start + 1..start + 5].copy_from_slice(&raw_len);
        frame[start + 5..start + 9].copy_from_slice(&stored_len);
        self.out.put(frame, start)?;
        self.totals.blocks += 1;
        self.totals.bytes += raw_bytes as u64;
        frame.truncate(FRONT_BYTES);
        (self.start, self.section) = (FRONT_BYTES, FRONT_BYTES);
        Ok(())
    }

    fn end(mut self, mut frame: Vec<u8>) -> Result<u64, Error> {
        if frame.len() > FRONT_BYTES {
            self.end_block(&mut frame)?;
        }
        let Totals { blocks, rows, bytes } = self.totals;
        frame.clear();
        frame.push(END);
        frame.extend([blocks, rows, bytes].iter().flat_map(|total| total.to_le_bytes()));
        frame.extend_from_slice(self.out.sums.finalize().as_bytes());
        self.out.put(&mut frame, 0)?;
        self.out.writer.flush().map_err(|error| {
            Error::with_source(ErrorKind::Io, "could not write the export to its end", error)
        })?;
        Ok(self.out.written)
    }
}
