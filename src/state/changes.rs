//! What a commit changed, with and without its types.
//!
//! Rules that hold here:
//!
//! 1. The rows of a [`Changed`] are a `Vec<Change<K, V>>` of the types of its collection, and no row is in
//!    it twice; a row that was absent before and after is none.
//! 2. The parts of a commit are in the order of their collections' numbers, and none of them is empty.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::release::Release;
use super::{Collection, Key, Value, Version};

/// What a commit did to one row: `old` is what it replaced and `new` what it left, each none where there was
/// no row.
///
/// The values are those of the state itself, shared and not cloned. They stay in memory as long as this does.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Change<K, V> {
    /// The key of the row.
    pub key: K,
    /// The value before the commit; none for a row that is new.
    pub old: Option<Arc<V>>,
    /// The value since the commit; none for a row that was removed.
    pub new: Option<Arc<V>>,
}

/// The changed rows of one collection, all of one commit. Cheap to clone.
pub struct Changes<K, V> {
    version: Version,
    rows: Arc<Vec<Change<K, V>>>,
}

impl<K, V> Changes<K, V> {
    pub(super) fn new(version: Version, rows: Arc<Vec<Change<K, V>>>) -> Self {
        Self { version, rows }
    }

    /// The commit.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The rows, at least one, in no order; each key is there once.
    #[must_use]
    pub fn rows(&self) -> &[Change<K, V>] {
        &self.rows
    }
}

impl<'a, K, V> IntoIterator for &'a Changes<K, V> {
    type Item = &'a Change<K, V>;
    type IntoIter = std::slice::Iter<'a, Change<K, V>>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.iter()
    }
}

impl<K, V> Clone for Changes<K, V> {
    fn clone(&self) -> Self {
        Self { version: self.version, rows: Arc::clone(&self.rows) }
    }
}

impl<K, V> fmt::Debug for Changes<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes")
            .field("version", &self.version)
            .field("rows", &self.rows.len())
            .finish()
    }
}

/// What a commit changed in all collections. Cheap to clone. It is visible, which does not say that it is durable:
/// [`StateManager::wait_durable`](super::StateManager::wait_durable) does.
#[derive(Clone)]
pub struct Commit {
    owner: Arc<Release>,
    entry: Entry,
}

impl Commit {
    pub(super) fn new(owner: Arc<Release>, entry: Entry) -> Self {
        Self { owner, entry }
    }

    /// Its number.
    #[must_use]
    pub fn version(&self) -> Version {
        self.entry.version
    }

    /// How many rows it changed.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.entry.rows
    }

    /// The names of the collections in which it changed a row.
    pub fn collections(&self) -> impl Iterator<Item = &str> {
        self.entry.parts.iter().map(|part| &*part.name)
    }

    /// What it changed in this collection, in no order; nothing in one of another manager.
    #[must_use]
    pub fn changes<K: Key, V: Value>(&self, collection: &Collection<K, V>) -> &[Change<K, V>] {
        if !Arc::ptr_eq(collection.inner.owner(), &self.owner) {
            return &[];
        }
        let rows = self.entry.part(collection.id).and_then(|part| part.rows.downcast_ref());
        rows.map_or(&[], |rows: &Vec<Change<K, V>>| rows)
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit")
            .field("version", &self.entry.version)
            .field("collections", &self.collections().collect::<Vec<_>>())
            .field("rows", &self.entry.rows)
            .finish()
    }
}

/// What a commit changed in one collection, without its types (rule 1).
pub(super) struct Changed {
    pub(super) id: usize,
    pub(super) name: Cow<'static, str>,
    pub(super) len: usize,
    pub(super) rows: Arc<dyn Any + Send + Sync>,
}

impl Changed {
    /// None where no row changed.
    pub(super) fn of<K: Key, V: Value>(
        id: usize,
        name: Cow<'static, str>,
        rows: Vec<Change<K, V>>,
    ) -> Option<Self> {
        (!rows.is_empty()).then(|| Self { id, name, len: rows.len(), rows: Arc::new(rows) })
    }
}

/// A commit in the log.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) version: Version,
    /// Rule 2.
    pub(super) parts: Arc<[Changed]>,
    pub(super) rows: usize,
}

impl Entry {
    pub(super) fn new(version: Version, parts: Vec<Changed>) -> Self {
        debug_assert!(parts.is_sorted_by(|one, next| one.id < next.id), "rule 2");
        let rows = parts.iter().map(|part| part.len).sum();
        Self { version, parts: parts.into(), rows }
    }

    fn part(&self, id: usize) -> Option<&Changed> {
        let found = self.parts.binary_search_by_key(&id, |part| part.id).ok()?;
        self.parts.get(found)
    }

    /// The rows of one collection, or none where it has none.
    pub(super) fn rows_of<K: Key, V: Value>(&self, id: usize) -> Option<Arc<Vec<Change<K, V>>>> {
        Arc::clone(&self.part(id)?.rows).downcast().ok()
    }
}
