//! A picture of the whole state at one version.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::codec::Codec;
use super::release::Held;
use super::root::Root;
use super::transfer::Rows;
use super::{Collection, Compression, Key, Value, Version, transfer};
use crate::{Error, ErrorKind};

/// The state at one version, over all collections, however writers go on. Cheap to clone.
///
/// It lives in memory alone and keeps alive what it shows, which is only what differs from the newest
/// state: values that no later commit touched are shared. Taking one costs two pointer copies. Giving the
/// last reference to a version up frees what only that version held, on the thread that does it, and that
/// takes time in proportion (some 90 ms for 100 MB): drop a large old snapshot where a pause does no harm, or
/// [release](Snapshot::release) it.
///
/// A collection of another manager has no rows in it.
///
/// ```
/// use phalanx::state::StateManager;
///
/// let state = StateManager::in_memory();
/// let ages = state.collection::<String, u32>("ages")?;
/// ages.insert("ada".to_owned(), 36)?;
/// let then = state.snapshot();
/// ages.insert("ada".to_owned(), 37)?;
/// assert_eq!(then.get(&ages, &"ada".to_owned()), Some(36));
/// assert_eq!(ages.get(&"ada".to_owned()), Some(37));
/// # Ok::<(), phalanx::Error>(())
/// ```
#[derive(Clone)]
pub struct Snapshot {
    pub(super) root: Arc<Root>,
    pub(super) codec: Option<Codec>,
    pub(super) schema_version: u32,
}

impl Snapshot {
    /// The version that it shows.
    #[must_use]
    pub fn version(&self) -> Version {
        self.root.version
    }

    /// A clone of the value of `key`.
    #[must_use]
    pub fn get<K: Key, V: Value>(&self, collection: &Collection<K, V>, key: &K) -> Option<V> {
        self.get_ref(collection, key).cloned()
    }

    /// The value of `key`, in place.
    #[must_use]
    pub fn get_ref<K: Key, V: Value>(&self, collection: &Collection<K, V>, key: &K) -> Option<&V> {
        if !collection.inner.owns(&self.root) {
            return None;
        }
        self.root.table::<K, V>(collection.id)?.map.get(key).map(|value| &**value)
    }

    /// The rows of a collection, in place, in no order.
    pub fn iter<K: Key, V: Value>(
        &self,
        collection: &Collection<K, V>,
    ) -> impl Iterator<Item = (&K, &V)> + use<'_, K, V> {
        let table = if collection.inner.owns(&self.root) {
            self.root.table::<K, V>(collection.id)
        } else {
            None
        };
        table.into_iter().flat_map(|table| &table.map).map(|(key, value)| (key, &**value))
    }

    /// How many rows a collection has.
    #[must_use]
    pub fn len<K: Key, V: Value>(&self, collection: &Collection<K, V>) -> usize {
        if !collection.inner.owns(&self.root) {
            return 0;
        }
        self.root.slots.get(collection.id).map_or(0, super::root::Slot::len)
    }

    /// How many rows all collections have together, those not opened in this process included.
    #[must_use]
    pub fn total_len(&self) -> usize {
        self.root.rows()
    }

    /// Writes the whole state as an export, which another machine can read with
    /// [`Import::read`](super::Import::read), and returns how many bytes that were.
    ///
    /// Costs one encoding of every row (some 230 ms for 100 MB, and what the compression takes) and holds
    /// no lock meanwhile; memory for one block of about 1 MiB at a time, or for the largest row. Whether
    /// all of it is there an export tells by itself: one that was cut off anywhere is an error to read.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] from the writer, [`ErrorKind::Codec`] from a value that cannot be encoded,
    /// [`ErrorKind::Unsupported`] in a build without a codec.
    pub fn export_to(
        &self,
        mut writer: impl io::Write,
        compression: Compression,
    ) -> Result<u64, Error> {
        transfer::export(&self.root, self.rows()?, compression, &mut writer)
    }

    /// [`Snapshot::export_to`] to a file, which is there whole or not at all, and survives a power loss
    /// once this has returned.
    ///
    /// It is written under another name in the same folder, synced and renamed over what may have the name
    /// already. What a crash in between leaves behind ends in `.new` and can be deleted.
    ///
    /// # Errors
    /// Those of [`Snapshot::export_to`], and `InvalidArgument` for a path that names no file; what had the name is then
    /// still there. Where the folder alone could not be synced the new file is there, and may be gone after a power loss.
    pub fn export_to_file(
        &self,
        path: impl AsRef<Path>,
        compression: Compression,
    ) -> Result<u64, Error> {
        transfer::export_file(&self.root, self.rows()?, compression, path.as_ref())
    }

    /// What its rows are written as.
    fn rows(&self) -> Result<Rows, Error> {
        let codec = self.codec.ok_or_else(no_codec)?;
        Ok(Rows { codec, schema_version: self.schema_version })
    }

    /// Gives it up like a writer does: where it is the last to show its version and much was replaced since,
    /// [`StateManager::maintain`](super::StateManager::maintain) frees that, and not this thread.
    pub fn release(self) {
        drop(Held::new(self.root));
    }

    /// How many bytes [`Snapshot::export_to`] would write without compression, for the same cost.
    ///
    /// # Errors
    /// Those of [`Snapshot::export_to`] but for the writer's.
    pub fn encoded_size_bytes(&self) -> Result<u64, Error> {
        transfer::size(&self.root, self.rows()?)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("root", &self.root).finish()
    }
}

pub(super) fn no_codec() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "this build has no codec; enable the feature `bincode` or `postcard`",
    )
}
