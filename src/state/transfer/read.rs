//! Reading an export; the form of one is told at the head of `transfer.rs`.
//!
//! Rules that hold here:
//!
//! 1. A frame is verified before anything but its lengths is believed, and no memory is reserved for a
//!    length: it grows with the bytes that come.
//! 2. Every length has a limit, and all of them together have one: a small file cannot claim all memory. Nothing of a
//!    block is kept that would go beyond it.
//! 3. What is read is all there and nothing more: the end frame comes, its totals are those that were
//!    found, and no byte follows it.

use std::io::Read;

use super::pack::Compression;
use super::{
    BLOCK_BYTES_MAX, END, EncodedRows, ExportHeader, FORMAT, HEADER_BYTES_MAX, MAGIC,
    ROW_COST_BYTES, ROWS, Totals,
};
use crate::state::Version;
use crate::state::block::{Reader, corrupt};
use crate::state::codec::ROW_BYTES_MAX;
use crate::state::registry::{COLLECTIONS_MAX, NAME_BYTES_MAX};
use crate::{Error, ErrorKind};

const HEAD: usize = 16;

/// Reads no more than the header.
pub(super) fn header(reader: &mut dyn Read) -> Result<ExportHeader, Error> {
    In::new(reader).header()
}

/// Reads and verifies all of it: the header, and for each collection that it names the encoded rows.
pub(super) fn import(
    reader: &mut dyn Read,
    max_bytes: u64,
) -> Result<(ExportHeader, Vec<EncodedRows>), Error> {
    let mut input = In::new(reader);
    let header = input.header()?;
    let (_, compression) = header.readable()?;
    let mut rows: Vec<_> = header.collections.iter().map(|_| EncodedRows::new()).collect();
    let mut totals = Totals::default();
    let mut cost = 0u64;
    let mut unpacked = Vec::new();
    loop {
        let mut mark = [0];
        input.exact(&mut mark)?;
        if mark == [END] {
            break;
        }
        if mark != [ROWS] {
            return Err(corrupt(format!("an export has the unknown mark {}", mark[0])));
        }
        let raw = input.block(compression, &mut unpacked, max_bytes.saturating_sub(cost))?;
        totals.blocks += 1;
        totals.bytes += raw.len() as u64;
        cost = cost.saturating_add(raw.len() as u64);
        let left = max_bytes.saturating_sub(cost);
        let found = sections(raw, &header, &mut rows, left / ROW_COST_BYTES)?;
        totals.rows += found;
        cost = cost.saturating_add(found.saturating_mul(ROW_COST_BYTES));
    }
    input.end(totals)?;
    for ((name, announced), rows) in header.collections.iter().zip(&rows) {
        if rows.len() as u64 != *announced {
            return Err(corrupt(format!(
                "an export announces {announced} rows of the collection {name:?} and has {}",
                rows.len()
            )));
        }
    }
    Ok((header, rows))
}

/// Takes the rows out of a block; how many there were.
fn sections(
    raw: &[u8],
    header: &ExportHeader,
    rows: &mut [EncodedRows],
    rows_max: u64,
) -> Result<u64, Error> {
    let mut reader = Reader::new(raw);
    let mut found = 0;
    while !reader.is_empty() {
        let number = reader.len()?;
        let count = reader.len()?;
        let (Some(rows), Some((name, announced))) =
            (rows.get_mut(number), header.collections.get(number))
        else {
            return Err(corrupt(format!("an export has rows of an unknown collection {number}")));
        };
        for _ in 0..count {
            found += 1;
            if found > rows_max {
                return Err(too_large());
            }
            let (key, value) = (reader.bytes()?, reader.bytes()?);
            if key.len() > ROW_BYTES_MAX || value.len() > ROW_BYTES_MAX {
                return Err(corrupt(format!("a row of {name:?} is longer than a row may be")));
            }
            if rows.insert(key.into(), value.into()).is_some() {
                return Err(corrupt(format!("an export has two rows of one key in {name:?}")));
            }
            if rows.len() as u64 > *announced {
                return Err(corrupt(format!(
                    "an export has more rows of {name:?} than the {announced} that it announces"
                )));
            }
        }
    }
    Ok(found)
}

fn too_large() -> Error {
    Error::new(
        ErrorKind::LimitReached,
        "the export takes more memory than allowed; raise `ImportOptions::max_bytes` if it is trusted",
    )
}

/// Frames, each verified.
struct In<'a> {
    reader: &'a mut dyn Read,
    /// Over what was read of the frame so far.
    frame: blake3::Hasher,
    /// Over the checksums of all frames so far.
    sums: blake3::Hasher,
    stored: Vec<u8>,
}

impl<'a> In<'a> {
    fn new(reader: &'a mut dyn Read) -> Self {
        let (frame, sums) = (blake3::Hasher::new(), blake3::Hasher::new());
        Self { reader, frame, sums, stored: Vec::new() }
    }

    fn exact(&mut self, out: &mut [u8]) -> Result<(), Error> {
        self.read(out)?;
        self.frame.update(out);
        Ok(())
    }

    fn read(&mut self, out: &mut [u8]) -> Result<(), Error> {
        self.reader.read_exact(out).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                return cut_off();
            }
            Error::with_source(ErrorKind::Io, format!("could not read the export: {error}"), error)
        })
    }

    /// Fills `stored` with so many bytes (rule 1).
    fn store(&mut self, len: usize) -> Result<(), Error> {
        self.stored.clear();
        let mut limited = (&mut *self.reader).take(len as u64);
        limited.read_to_end(&mut self.stored).map_err(|error| {
            Error::with_source(ErrorKind::Io, format!("could not read the export: {error}"), error)
        })?;
        if self.stored.len() < len {
            return Err(cut_off());
        }
        self.frame.update(&self.stored);
        Ok(())
    }

    /// Reads the checksum of a frame and compares it.
    fn verify(&mut self, what: &str) -> Result<(), Error> {
        let sum = self.frame.finalize();
        let mut stored = [0; blake3::OUT_LEN];
        self.read(&mut stored)?;
        if sum != stored {
            return Err(corrupt(format!("the checksum of the {what} of an export does not match")));
        }
        self.sums.update(&stored);
        self.frame.reset();
        Ok(())
    }

    fn header(&mut self) -> Result<ExportHeader, Error> {
        let mut head = [0; HEAD];
        self.exact(&mut head)?;
        let [magic @ .., f0, f1, codec, compression, l0, l1, l2, l3] = head;
        if magic != MAGIC {
            return Err(corrupt("this is not an export: it does not start with the mark of one"));
        }
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if len > HEADER_BYTES_MAX {
            return Err(corrupt(format!("an export has a header of {len} bytes")));
        }
        self.store(len)?;
        let payload = std::mem::take(&mut self.stored);
        self.verify("header")?;
        let format = u16::from_le_bytes([f0, f1]);
        if format == 0 || format > FORMAT {
            return Err(Error::new(
                ErrorKind::UnsupportedVersion,
                format!("the export has format {format}; this build reads formats 1 to {FORMAT}"),
            ));
        }
        let mut reader = Reader::new(&payload);
        let version = Version::from_u64(reader.u64()?);
        if !version.is_possible() {
            return Err(corrupt(format!("an export is of the impossible version {version}")));
        }
        let schema_version = if format == 1 { 0 } else { reader.u32()? };
        let count = reader.len()?;
        if count > COLLECTIONS_MAX {
            return Err(corrupt(format!("an export names {count} collections")));
        }
        let mut collections: Vec<(String, u64)> = Vec::new();
        for _ in 0..count {
            let name = reader.str()?.to_owned();
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                return Err(corrupt(format!("an export has a collection of the name {name:?}")));
            }
            collections.push((name, reader.len()? as u64));
        }
        let mut names: Vec<_> = collections.iter().map(|(name, _)| name).collect();
        names.sort();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(corrupt("an export names a collection twice"));
        }
        if !reader.is_empty() {
            return Err(corrupt("the header of an export has bytes left over at its end"));
        }
        Ok(ExportHeader { format, codec, compression, version, schema_version, collections })
    }

    /// Reads a frame of rows, whose mark is read already.
    fn block<'b>(
        &'b mut self,
        compression: Compression,
        unpacked: &'b mut Vec<u8>,
        left: u64,
    ) -> Result<&'b [u8], Error> {
        let (mut raw, mut stored) = ([0; 4], [0; 4]);
        self.exact(&mut raw)?;
        self.exact(&mut stored)?;
        let (raw, stored) = (u32::from_le_bytes(raw) as usize, u32::from_le_bytes(stored) as usize);
        if raw > BLOCK_BYTES_MAX || stored > raw {
            return Err(corrupt(format!("an export has a block of {stored} bytes for {raw}")));
        }
        if raw as u64 > left {
            return Err(too_large());
        }
        self.store(stored)?;
        self.verify("block")?;
        if stored == raw {
            return Ok(&self.stored);
        }
        compression.unpack(&self.stored, unpacked, raw)?;
        Ok(unpacked)
    }

    /// Reads the frame of the end, whose mark is read already (rule 3).
    fn end(&mut self, found: Totals) -> Result<(), Error> {
        let sums = *self.sums.finalize().as_bytes();
        let mut totals = [[0; 8]; 3];
        self.exact(totals.as_flattened_mut())?;
        let mut stored = [0; blake3::OUT_LEN];
        self.exact(&mut stored)?;
        self.verify("end")?;
        let [blocks, rows, bytes] = totals.map(u64::from_le_bytes);
        let announced = Totals { blocks, rows, bytes };
        if announced != found {
            return Err(corrupt(format!(
                "an export ends with the totals {announced:?} where {found:?} was found"
            )));
        }
        if stored != sums {
            return Err(corrupt("the checksum of all of an export does not match"));
        }
        match self.reader.read_exact(&mut [0]) {
            Ok(()) => Err(corrupt("bytes follow the end of an export")),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => {
                Err(Error::with_source(ErrorKind::Io, "could not read past the export", error))
            }
        }
    }
}

fn cut_off() -> Error {
    corrupt("an export ends before what it announces: it was cut off")
}
