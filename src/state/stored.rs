//! The rows of a collection as they came from disk, until its types are known.
//!
//! Rules that hold here:
//!
//! 1. A row is a place in the block that it came in, which was verified and copied into memory once. So the rows
//!    of a checkpoint take what they take on disk (and eight bytes each while the store is opened); only what
//!    the deltas after it wrote has an entry each, some 60 bytes, beside the blocks of those deltas.
//! 2. The last write of a key counts: `changes` goes before the rows of the checkpoint, whose keys all differ.
//! 3. All sections were read once before, so that reading them again finds nothing wrong.

use std::collections::HashMap;
#[cfg(feature = "durable")]
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
#[cfg(feature = "durable")]
use std::ops::Range;
use std::sync::Arc;

use super::block::Reader;
#[cfg(feature = "durable")]
use super::codec::Codec;
#[cfg(feature = "durable")]
use super::root::{Cursor, RowPart};
use crate::Error;

/// Bytes of one of the blocks. Neither a block nor their number reaches 2^32.
#[derive(Clone, Copy)]
struct Place {
    block: u32,
    start: u32,
    end: u32,
}

/// The last write of a key.
struct Change {
    key: Place,
    /// None where it removed the row.
    value: Option<Place>,
    /// Whether the checkpoint has a row of this key.
    replaces: bool,
    /// Another one whose key has the same number: its place in `changes`.
    next: Option<u32>,
}

/// For what is a hash already.
#[derive(Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed with it");
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// Rows of the checkpoint that lie one behind the other.
struct Section {
    place: Place,
    rows: usize,
}

/// See the rules of the file.
#[cfg_attr(not(feature = "durable"), expect(dead_code, reason = "only a store recovers rows"))]
#[derive(Default)]
pub(super) struct StoredRows {
    blocks: Vec<Arc<[u8]>>,
    sections: Vec<Section>,
    /// How many rows are in them.
    section_rows: usize,
    changes: Vec<Change>,
    /// The newest change of those whose keys have this number.
    index: HashMap<u64, u32, BuildHasherDefault<Same>>,
    len: usize,
    /// A number for each key of the checkpoint, until all of them are there.
    prints: Vec<u64>,
    hasher: foldhash::quality::RandomState,
}

#[cfg(feature = "durable")]
impl StoredRows {
    /// The place of bytes of a block that rows are being read from.
    fn place(&mut self, block: &Arc<[u8]>, range: Range<usize>) -> Place {
        if self.blocks.last().is_none_or(|last| !Arc::ptr_eq(last, block)) {
            self.blocks.push(Arc::clone(block));
        }
        let block = self.blocks.len() as u32 - 1;
        Place { block, start: range.start as u32, end: range.end as u32 }
    }

    /// Adds the rows of a checkpoint that `reader` has next.
    pub(super) fn add_section(
        &mut self,
        block: &Arc<[u8]>,
        reader: &mut Reader<'_>,
        rows: usize,
    ) -> Result<(), Error> {
        let start = reader.at();
        for _ in 0..rows {
            self.prints.push(self.hasher.hash_one(reader.bytes()?));
            reader.bytes()?;
        }
        let place = self.place(block, start..reader.at());
        self.sections.push(Section { place, rows });
        self.section_rows += rows;
        self.len += rows;
        Ok(())
    }

    /// Whether two rows of the checkpoint have one key. To be asked once all its rows are there.
    pub(super) fn end_checkpoint(&mut self) -> Result<bool, Error> {
        let mut prints = std::mem::take(&mut self.prints);
        prints.sort_unstable();
        if prints.windows(2).all(|pair| pair[0] != pair[1]) {
            return Ok(false);
        }
        // Most likely two of one key, and else two keys whose numbers happen to be the same.
        let mut keys = HashSet::with_capacity(self.section_rows);
        let mut twice = false;
        self.each_of_sections(&mut |key, _| {
            twice |= !keys.insert(key);
            Ok(())
        })?;
        Ok(twice)
    }

    /// Writes a row over what is there; removes it where there is no value.
    pub(super) fn change(
        &mut self,
        block: &Arc<[u8]>,
        key: Range<usize>,
        value: Option<Range<usize>>,
    ) {
        let value = value.map(|value| self.place(block, value));
        let print = self.hasher.hash_one(&block[key.clone()]);
        let head = self.index.get(&print).copied();
        if let Some(found) = self.find_from(head, &block[key.clone()]) {
            self.changes[found as usize].value = value;
            return;
        }
        let key = self.place(block, key);
        // Each takes two bytes of a block at least, and a collection has no 2^33 of them in memory.
        self.index.insert(print, self.changes.len() as u32);
        self.changes.push(Change { key, value, replaces: false, next: head });
    }

    /// Counts the rows, once all changes are there.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let mut replaced = Vec::new();
        self.each_of_sections(&mut |key, _| {
            replaced.extend(self.find(key));
            Ok(())
        })?;
        for change in &replaced {
            self.changes[*change as usize].replaces = true;
        }
        let written = self.changes.iter().filter(|change| change.value.is_some()).count();
        self.len = self.section_rows - replaced.len() + written;
        Ok(())
    }
}

impl StoredRows {
    fn bytes(&self, place: Place) -> &[u8] {
        &self.blocks[place.block as usize][place.start as usize..place.end as usize]
    }

    fn find(&self, key: &[u8]) -> Option<u32> {
        let head = self.index.get(&self.hasher.hash_one(key)).copied();
        self.find_from(head, key)
    }

    fn find_from(&self, head: Option<u32>, key: &[u8]) -> Option<u32> {
        let mut next = head;
        while let Some(at) = next {
            let change = &self.changes[at as usize];
            if self.bytes(change.key) == key {
                return Some(at);
            }
            next = change.next;
        }
        None
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Hands over each row's encoded key and value, in no order.
    pub(super) fn each<'a>(
        &'a self,
        mut row: impl FnMut(&'a [u8], &'a [u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let changed = self.changes.iter().any(|change| change.replaces);
        self.each_of_sections(&mut |key, value| {
            if changed && self.find(key).is_some() { Ok(()) } else { row(key, value) }
        })?;
        for change in &self.changes {
            if let Some(value) = change.value {
                row(self.bytes(change.key), self.bytes(value))?;
            }
        }
        Ok(())
    }

    fn each_of_sections<'a>(
        &'a self,
        row: &mut dyn FnMut(&'a [u8], &'a [u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for section in &self.sections {
            let mut reader = Reader::new(self.bytes(section.place));
            for _ in 0..section.rows {
                row(reader.bytes()?, reader.bytes()?)?;
            }
        }
        Ok(())
    }
}

/// The rows of [`StoredRows::each`] in as many parts as one likes.
#[cfg(feature = "durable")]
pub(super) struct StoredCursor {
    rows: Arc<StoredRows>,
    /// Of the sections, and how many bytes and rows of that one were handed over.
    section: usize,
    bytes: usize,
    taken: usize,
    /// Of the changes, which come after all sections.
    change: usize,
    /// Whether one of them replaces a row of a section.
    replaces: bool,
}

#[cfg(feature = "durable")]
impl StoredCursor {
    pub(super) fn new(rows: Arc<StoredRows>) -> Self {
        let replaces = rows.changes.iter().any(|change| change.replaces);
        Self { rows, section: 0, bytes: 0, taken: 0, change: 0, replaces }
    }
}

#[cfg(feature = "durable")]
impl Cursor for StoredCursor {
    fn encode(&mut self, _: Codec, sink: &mut RowPart<'_>) -> Result<bool, Error> {
        let rows = &*self.rows;
        while let Some(section) = rows.sections.get(self.section) {
            let mut reader = Reader::new(&rows.bytes(section.place)[self.bytes..]);
            let before = self.bytes;
            while self.taken < section.rows {
                let (key, value) = (reader.bytes()?, reader.bytes()?);
                self.bytes = before + reader.at();
                self.taken += 1;
                let replaced = self.replaces && rows.find(key).is_some();
                if !replaced && !sink(key, value)? {
                    return Ok(true);
                }
            }
            (self.section, self.bytes, self.taken) = (self.section + 1, 0, 0);
        }
        while let Some(change) = rows.changes.get(self.change) {
            self.change += 1;
            if let Some(value) = change.value
                && !sink(rows.bytes(change.key), rows.bytes(value))?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl fmt::Debug for StoredRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredRows")
            .field("len", &self.len)
            .field("changes", &self.changes.len())
            .finish_non_exhaustive()
    }
}
