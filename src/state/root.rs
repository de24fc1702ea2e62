//! The state at one version: a table for each collection.
//!
//! Rules that hold here:
//!
//! 1. A [`Root`] never changes once it is shared. A commit makes the next one, which shares all that it
//!    did not touch.
//! 2. The place of a collection in `slots` is its number; slots are only ever added at the end, so a
//!    number that is beyond an older root names a collection that was empty then.
//! 3. A recovered collection has the rows that its typed table has: only a commit can change them, and a
//!    commit needs the typed table.

use std::any::Any;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

use super::block::{put_bytes, put_written};
use super::codec::Codec;
use super::diff::Compare;
use super::release::Release;
#[cfg(feature = "durable")]
use super::stored::StoredCursor;
use super::stored::StoredRows;
use super::{Key, Value, Version};
use crate::Error;
use crate::sync::{Mutex, OnceLock};

/// Is told that a row was appended.
pub(super) type RowEnd<'a> = dyn FnMut(&mut Vec<u8>) -> Result<(), Error> + 'a;

/// Takes the encoded key and value of a row; whether it takes another one now.
#[cfg(feature = "durable")]
pub(super) type RowPart<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool, Error> + 'a;

/// The rows of one collection at one version, handed over in as many parts as one likes. It holds what it has
/// not handed over yet, and no lock.
#[cfg(feature = "durable")]
pub(super) trait Cursor: Send {
    /// Hands over rows until `sink` takes no more or there are none left; whether it was `sink` that ended it.
    fn encode(&mut self, codec: Codec, sink: &mut RowPart<'_>) -> Result<bool, Error>;
}

/// A table without its types.
pub(super) trait Rows: Any + Compare + Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn len(&self) -> usize;
    /// Appends the encoded key and value of each row to `out`, each behind its length.
    fn append(&self, codec: Codec, out: &mut Vec<u8>, end: &mut RowEnd<'_>) -> Result<(), Error>;
    /// The rows for a checkpoint, in parts, each whenever one likes. Clones each key.
    #[cfg(feature = "durable")]
    fn cursor(&self) -> Box<dyn Cursor>;
}

/// The map of a table. Its hash is keyed with a seed of its own, which nobody outside learns.
type Map<K, V> = imbl::GenericHashMap<
    K,
    Arc<V>,
    foldhash::quality::RandomState,
    imbl::shared_ptr::DefaultSharedPtr,
>;

/// The rows of one collection: a persistent map, so a clone is a pointer copy.
///
/// Values stand behind an `Arc`: a commit after a snapshot then copies pointers and never a value, and
/// whether a row changed is told by the pointer.
pub(super) struct Table<K, V> {
    pub(super) map: Map<K, V>,
}

impl<K: Key, V: Value> Table<K, V> {
    pub(super) fn new() -> Self {
        Self { map: Map::default() }
    }

    /// Rows in this order lie one behind the other in the map, which goes by five bits of a hash after the other,
    /// from the lowest on. Nothing but speed depends on it.
    pub(super) fn place_of(&self, key: &K) -> u32 {
        let hash = self.map.hasher().hash_one(key);
        let levels = (0..4).map(|level| ((hash >> (5 * level)) as u32 & 31) << (27 - 5 * level));
        levels.sum::<u32>() | (hash >> 20) as u32 & 0xfff
    }
}

impl<K: Key, V: Value> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self { map: self.map.clone() }
    }
}

impl<K: Key, V: Value> Rows for Table<K, V> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn len(&self) -> usize {
        self.map.len()
    }

    fn append(&self, codec: Codec, out: &mut Vec<u8>, end: &mut RowEnd<'_>) -> Result<(), Error> {
        // As wide as that of the row before.
        let (mut key_width, mut value_width) = (1, 1);
        for (key, value) in &self.map {
            key_width = put_written(out, key_width, |out| codec.encode(key, out))?;
            value_width = put_written(out, value_width, |out| codec.encode(&**value, out))?;
            end(out)?;
        }
        Ok(())
    }

    #[cfg(feature = "durable")]
    fn cursor(&self) -> Box<dyn Cursor> {
        Box::new(TableCursor { rows: self.map.clone().into_iter(), row: Vec::new() })
    }
}

#[cfg(feature = "durable")]
struct TableCursor<K: Key, V: Value> {
    rows: <Map<K, V> as IntoIterator>::IntoIter,
    row: Vec<u8>,
}

#[cfg(feature = "durable")]
impl<K: Key, V: Value> Cursor for TableCursor<K, V> {
    fn encode(&mut self, codec: Codec, sink: &mut RowPart<'_>) -> Result<bool, Error> {
        for (key, value) in &mut self.rows {
            self.row.clear();
            let split = codec.encode(&key, &mut self.row)?;
            codec.encode(&*value, &mut self.row)?;
            let (key, value) = self.row.split_at(split);
            if !sink(key, value)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Rows that came from disk, and their table once their types are known (rule 3).
pub(super) struct Recovered {
    raw: Mutex<Option<Arc<StoredRows>>>,
    typed: OnceLock<Arc<dyn Rows>>,
}

impl Recovered {
    #[cfg(feature = "durable")]
    pub(super) fn new(raw: StoredRows) -> Self {
        Self { raw: Mutex::new(Some(Arc::new(raw))), typed: OnceLock::new() }
    }

    /// The encoded rows, or none once the table is known.
    pub(super) fn raw(&self) -> Option<Arc<StoredRows>> {
        self.raw.lock().clone()
    }

    /// Makes the table known and gives the encoded rows back to be dropped.
    pub(super) fn resolve(&self, table: Arc<dyn Rows>) -> Option<Arc<StoredRows>> {
        // A second table can only be equal to the first (rule 3), so it does not matter which stays.
        let _ = self.typed.set(table);
        self.raw.lock().take()
    }

    fn len(&self) -> usize {
        match self.typed.get() {
            Some(table) => table.len(),
            // The table became known between the two looks if there are no encoded rows.
            None => self
                .raw()
                .map_or_else(|| self.typed.get().map_or(0, |table| table.len()), |raw| raw.len()),
        }
    }

    fn append(&self, codec: Codec, out: &mut Vec<u8>, end: &mut RowEnd<'_>) -> Result<(), Error> {
        if self.typed.get().is_none()
            && let Some(raw) = self.raw()
        {
            return raw.each(|key, value| {
                put_bytes(out, key);
                put_bytes(out, value);
                end(out)
            });
        }
        self.typed.get().map_or(Ok(()), |table| table.append(codec, out, end))
    }

    #[cfg(feature = "durable")]
    fn cursor(&self) -> Option<Box<dyn Cursor>> {
        if self.typed.get().is_none()
            && let Some(raw) = self.raw()
        {
            return Some(Box::new(StoredCursor::new(raw)));
        }
        self.typed.get().map(|table| table.cursor())
    }
}

#[derive(Clone)]
pub(super) enum Content {
    Typed(Arc<dyn Rows>),
    #[cfg_attr(not(feature = "durable"), expect(dead_code, reason = "only a store recovers rows"))]
    Recovered(Arc<Recovered>),
}

/// One collection at one version.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) name: Arc<str>,
    pub(super) content: Content,
}

impl Slot {
    /// The table, or none where its types are not known yet.
    pub(super) fn rows(&self) -> Option<&dyn Rows> {
        match &self.content {
            Content::Typed(rows) => Some(&**rows),
            Content::Recovered(recovered) => recovered.typed.get().map(|rows| &**rows),
        }
    }

    pub(super) fn len(&self) -> usize {
        match &self.content {
            Content::Typed(rows) => rows.len(),
            Content::Recovered(recovered) => recovered.len(),
        }
    }

    /// See [`Rows::append`].
    pub(super) fn append(
        &self,
        codec: Codec,
        out: &mut Vec<u8>,
        end: &mut RowEnd<'_>,
    ) -> Result<(), Error> {
        match &self.content {
            Content::Typed(rows) => rows.append(codec, out, end),
            Content::Recovered(recovered) => recovered.append(codec, out, end),
        }
    }

    /// None where there are no rows.
    #[cfg(feature = "durable")]
    pub(super) fn cursor(&self) -> Option<Box<dyn Cursor>> {
        match &self.content {
            Content::Typed(rows) => Some(rows.cursor()),
            Content::Recovered(recovered) => recovered.cursor(),
        }
    }
}

/// The state at one version (rule 1).
#[derive(Clone)]
pub(super) struct Root {
    /// Which manager this is of: collections of another one have nothing here.
    pub(super) owner: Arc<Release>,
    pub(super) version: Version,
    /// How many rows all commits up to this one replaced or removed, in this process.
    pub(super) replaced: u64,
    /// How many rows they set or removed.
    pub(super) changed: u64,
    pub(super) slots: Vec<Slot>,
}

impl Root {
    /// The table of a collection, or none where it was empty at this version (rule 2).
    pub(super) fn table<K: Key, V: Value>(&self, id: usize) -> Option<&Table<K, V>> {
        let rows = match &self.slots.get(id)?.content {
            Content::Typed(rows) => rows,
            Content::Recovered(recovered) => recovered.typed.get()?,
        };
        rows.as_any().downcast_ref()
    }

    pub(super) fn rows(&self) -> usize {
        self.slots.iter().map(Slot::len).sum()
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = self.slots.iter().map(|slot| (&*slot.name, slot.len()));
        f.debug_struct("Root")
            .field("version", &self.version)
            .field("collections", &sizes.collect::<Vec<_>>())
            .finish()
    }
}
