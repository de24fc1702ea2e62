//! Writing an export; the form of one is told at the head of `transfer.rs`.

use std::io::Write;

use super::pack::Compression;
use super::{BLOCK_BYTES, END, FORMAT, HEADER_BYTES_MAX, MAGIC, ROWS, Totals};
use crate::state::block::{put_bytes, put_len};
use crate::state::codec::Codec;
use crate::state::root::Root;
use crate::{Error, ErrorKind};

/// Writes all of a root and returns how many bytes that were.
pub(in crate::state) fn export(
    root: &Root,
    codec: Codec,
    compression: Compression,
    writer: &mut dyn Write,
) -> Result<u64, Error> {
    let mut out = Out { writer, written: 0, sums: blake3::Hasher::new() };
    out.put(&[&header(root, codec, compression)?])?;
    let mut blocks = Blocks {
        out,
        compression,
        section: Vec::new(),
        raw: Vec::new(),
        rows: 0,
        totals: Totals::default(),
    };
    let filled = root.slots.iter().filter(|slot| slot.len() > 0).enumerate();
    for (number, slot) in filled {
        slot.encode(codec, &mut |key, value| {
            put_bytes(&mut blocks.section, key);
            put_bytes(&mut blocks.section, value);
            blocks.rows += 1;
            if blocks.raw.len() + blocks.section.len() >= BLOCK_BYTES {
                blocks.end_section(number);
                blocks.end_block()?;
            }
            Ok(())
        })?;
        blocks.end_section(number);
    }
    blocks.end()
}

/// `magic (8) | format (2) | codec (1) | compression (1) | length (4) | payload`.
fn header(root: &Root, codec: Codec, compression: Compression) -> Result<Vec<u8>, Error> {
    let filled = root.slots.iter().filter(|slot| slot.len() > 0);
    let mut payload = root.version.as_u64().to_le_bytes().to_vec();
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
    header.extend_from_slice(&FORMAT.to_le_bytes());
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
    fn put(&mut self, parts: &[&[u8]]) -> Result<(), Error> {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(part);
            self.write(part)?;
        }
        let sum = hasher.finalize();
        self.sums.update(sum.as_bytes());
        self.write(sum.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.writer.write_all(bytes).map_err(|error| {
            Error::with_source(ErrorKind::Io, format!("could not write the export: {error}"), error)
        })?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

struct Blocks<'a> {
    out: Out<'a>,
    compression: Compression,
    /// The rows of the section that is being filled.
    section: Vec<u8>,
    /// The sections of the block that is being filled.
    raw: Vec<u8>,
    rows: usize,
    totals: Totals,
}

impl Blocks<'_> {
    fn end_section(&mut self, number: usize) {
        if self.rows == 0 {
            return;
        }
        put_len(&mut self.raw, number);
        put_len(&mut self.raw, self.rows);
        self.raw.append(&mut self.section);
        self.totals.rows += self.rows as u64;
        self.rows = 0;
    }

    fn end_block(&mut self) -> Result<(), Error> {
        let raw = &self.raw;
        let packed = self.compression.pack(raw)?;
        // What does not get smaller is stored as it is, which its two equal lengths say.
        let stored = packed.as_ref().filter(|packed| packed.len() < raw.len()).unwrap_or(raw);
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).map(u32::to_le_bytes);
        let (Ok(raw_len), Ok(stored_len)) = (len(raw), len(stored)) else {
            return Err(Error::new(ErrorKind::Internal, "a block of an export is beyond 4 GiB"));
        };
        self.out.put(&[&[ROWS], &raw_len, &stored_len, stored])?;
        self.totals.blocks += 1;
        self.totals.bytes += raw.len() as u64;
        self.raw.clear();
        Ok(())
    }

    fn end(mut self) -> Result<u64, Error> {
        if !self.raw.is_empty() {
            self.end_block()?;
        }
        let Totals { blocks, rows, bytes } = self.totals;
        let totals = [blocks, rows, bytes].map(u64::to_le_bytes);
        let sums = *self.out.sums.finalize().as_bytes();
        self.out.put(&[&[END], totals.as_flattened(), &sums])?;
        self.out.writer.flush().map_err(|error| {
            Error::with_source(ErrorKind::Io, "could not write the export to its end", error)
        })?;
        Ok(self.out.written)
    }
}
