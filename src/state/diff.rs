//! What changed from one snapshot to another.
//!
//! Rules that hold here:
//!
//! 1. Whether a row changed is told by the pointer of its value, never by comparing values: a row that was
//!    written again with an equal value has changed, and one that [`StateManager::restore`] brought back
//!    has not.
//! 2. A collection that no commit touched in between is one table in both snapshots, and costs nothing. One
//!    that nobody has opened in this process was not touched: only a commit can, and needs its types.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::codec::Codec;
use super::registry::{two_rows, undecodable};
use super::root::{Content, Root, Rows, Slot, Table};
use super::transaction::{Part, TablePart};
use super::transfer::EncodedRows;
use super::{Collection, Key, Snapshot, Value, Version};
use crate::{Error, ErrorKind};

/// What changed from one [`Snapshot`] to another of the same manager; from [`Snapshot::diff`].
///
/// It holds both snapshots, and works out the rows when it is asked for them. [`StateManager::apply`]
/// does to the newest state what this diff shows. It lives in memory alone.
///
/// ```
/// use phalanx::state::{RowDiff, StateManager};
///
/// let state = StateManager::in_memory();
/// let ages = state.collection::<String, u32>("ages")?;
/// ages.insert("ada".to_owned(), 36)?;
/// let before = state.snapshot();
/// ages.insert("ada".to_owned(), 37)?;
/// let diff = before.diff(&state.snapshot())?;
/// let changes: Vec<_> = diff.rows(&ages).collect();
/// assert_eq!(changes, [RowDiff::Changed { key: &"ada".to_owned(), before: &36, after: &37 }]);
/// # Ok::<(), phalanx::Error>(())
/// ```
///
/// [`StateManager::apply`]: super::StateManager::apply
#[derive(Clone)]
pub struct Diff {
    pub(super) from: Snapshot,
    pub(super) to: Snapshot,
}

/// What became of one row, in a [`Diff`].
#[derive(Debug, PartialEq, Eq)]
pub enum RowDiff<'a, K, V> {
    /// It is in the second snapshot alone.
    Added {
        /// Its key.
        key: &'a K,
        /// Its value.
        value: &'a V,
    },
    /// It is in the first snapshot alone.
    Removed {
        /// Its key.
        key: &'a K,
        /// The value that it had.
        value: &'a V,
    },
    /// It was written in between, with another value or an equal one.
    Changed {
        /// Its key.
        key: &'a K,
        /// Its value in the first snapshot.
        before: &'a V,
        /// Its value in the second snapshot.
        after: &'a V,
    },
}

impl<K, V> Clone for RowDiff<'_, K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for RowDiff<'_, K, V> {}

/// How much of one collection changed, in a [`Diff`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectionDiff {
    /// Its name.
    pub name: String,
    /// Rows that are in the second snapshot alone.
    pub added: usize,
    /// Rows that are in the first snapshot alone.
    pub removed: usize,
    /// Rows that were written in between.
    pub changed: usize,
}

impl Snapshot {
    /// What changed from this snapshot to `to`, which may be the older of the two.
    ///
    /// O(1) itself. What is then asked of it takes nothing for a collection that no commit touched in
    /// between, and a lookup for each row of one that was touched: no value is compared, so none needs
    /// `PartialEq`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] where the two are of different managers, which the same store before
    /// and after a recovery are as well: compare those by their exports.
    pub fn diff(&self, to: &Self) -> Result<Diff, Error> {
        if !Arc::ptr_eq(&self.root.owner, &to.root.owner) {
            return Err(foreign());
        }
        Ok(Diff { from: self.clone(), to: to.clone() })
    }
}

/// What a snapshot of another manager gets.
pub(super) fn foreign() -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        "the snapshot is of another state manager, or of this store before it was opened again; \
         export it and import that",
    )
}

impl Diff {
    /// The version of the first snapshot.
    #[must_use]
    pub fn from_version(&self) -> Version {
        self.from.version()
    }

    /// The version of the second snapshot.
    #[must_use]
    pub fn to_version(&self) -> Version {
        self.to.version()
    }

    /// The first snapshot.
    #[must_use]
    pub fn before(&self) -> &Snapshot {
        &self.from
    }

    /// The second snapshot.
    #[must_use]
    pub fn after(&self) -> &Snapshot {
        &self.to
    }

    /// Whether no row changed.
    ///
    /// Costs as much as finding the first row that did.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.touched().all(|(from, to)| counts(from, to).is_none())
    }

    /// The collections of which rows changed, and how many; needs no types.
    ///
    /// Costs a lookup for each row of every collection that was touched.
    #[must_use]
    pub fn collections(&self) -> Vec<CollectionDiff> {
        self.touched()
            .filter_map(|(from, to)| {
                let name = from.or(to)?.name.to_string();
                let Counts { added, removed, changed } = counts(from, to)?;
                Some(CollectionDiff { name, added, removed, changed })
            })
            .collect()
    }

    /// The rows of a collection that changed, in no order. A collection of another manager has none.
    ///
    /// Costs a lookup for each row that the collection has or had, but nothing where it was not touched.
    pub fn rows<K: Key, V: Value>(
        &self,
        collection: &Collection<K, V>,
    ) -> impl Iterator<Item = RowDiff<'_, K, V>> + use<'_, K, V> {
        let owned = collection.inner.owns(&self.from.root);
        let [from, to] = [&self.from, &self.to]
            .map(|side| if owned { side.root.table::<K, V>(collection.id) } else { None });
        changed_rows(from, to).filter_map(|(key, before, after)| {
            match (before.map(Arc::as_ref), after.map(Arc::as_ref)) {
                (Some(before), Some(after)) => Some(RowDiff::Changed { key, before, after }),
                (Some(value), None) => Some(RowDiff::Removed { key, value }),
                (None, Some(value)) => Some(RowDiff::Added { key, value }),
                (None, None) => None,
            }
        })
    }

    /// The two sides of each collection that may have changed (rule 2).
    fn touched(&self) -> impl Iterator<Item = (Option<&Slot>, Option<&Slot>)> {
        touched(&self.from.root, &self.to.root).map(|(_, from, to)| (from, to))
    }
}

impl fmt::Debug for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Diff")
            .field("from", &self.from_version())
            .field("to", &self.to_version())
            .finish_non_exhaustive()
    }
}

/// The collections that are not one table in both roots (rule 2): the number, and the two sides.
pub(super) fn touched<'a>(
    from: &'a Root,
    to: &'a Root,
) -> impl Iterator<Item = (usize, Option<&'a Slot>, Option<&'a Slot>)> {
    let slots = from.slots.len().max(to.slots.len());
    let sides = (0..slots).map(|id| (id, from.slots.get(id), to.slots.get(id)));
    sides.filter(|(_, from, to)| match (from, to) {
        (Some(from), Some(to)) => !is_same(&from.content, &to.content),
        _ => true,
    })
}

fn is_same(a: &Content, b: &Content) -> bool {
    match (a, b) {
        (Content::Typed(a), Content::Typed(b)) => Arc::ptr_eq(a, b),
        (Content::Recovered(a), Content::Recovered(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    added: usize,
    removed: usize,
    changed: usize,
}

/// None where nothing changed.
fn counts(from: Option<&Slot>, to: Option<&Slot>) -> Option<Counts> {
    let (from, to) = (from.and_then(Slot::rows), to.and_then(Slot::rows));
    let counts = match (from, to) {
        (Some(from), Some(to)) => from.counts_to(to),
        (Some(from), None) => from.counts_to(&*from.empty()),
        (None, Some(to)) => to.empty().counts_to(to),
        // Neither was ever opened, so they are the same.
        (None, None) => return None,
    };
    (counts != Counts { added: 0, removed: 0, changed: 0 }).then_some(counts)
}

/// What has to be written to make one side of a collection equal to the other; none where it is already.
pub(super) fn writes(id: usize, from: Option<&Slot>, to: Option<&Slot>) -> Option<Box<dyn Part>> {
    let name = &from.or(to)?.name;
    let (from, to) = (from.and_then(Slot::rows), to.and_then(Slot::rows));
    match (from, to) {
        (Some(from), Some(to)) => from.writes_to(to, id, name),
        (Some(from), None) => from.writes_to(&*from.empty(), id, name),
        (None, Some(to)) => to.empty().writes_to(to, id, name),
        // Neither was ever opened, so they are the same.
        (None, None) => None,
    }
}

/// Comparing tables without their types; both have the same ones.
pub(super) trait Compare {
    fn empty(&self) -> Box<dyn Rows>;
    fn counts_to(&self, to: &dyn Rows) -> Counts;
    fn writes_to(&self, to: &dyn Rows, id: usize, name: &Arc<str>) -> Option<Box<dyn Part>>;
    /// What has to be written to make this table hold the rows that were encoded with `codec`.
    fn writes_to_encoded(
        &self,
        to: &EncodedRows,
        codec: Codec,
        id: usize,
        name: &Arc<str>,
    ) -> Result<Option<Box<dyn Part>>, Error>;
}

type ChangedRow<'a, K, V> = (&'a K, Option<&'a Arc<V>>, Option<&'a Arc<V>>);

/// The rows whose pointers differ, with both sides (rule 1). A missing table is empty.
fn changed_rows<'a, K: Key, V: Value>(
    from: Option<&'a Table<K, V>>,
    to: Option<&'a Table<K, V>>,
) -> impl Iterator<Item = ChangedRow<'a, K, V>> {
    let same = matches!((from, to), (Some(from), Some(to)) if from.map.ptr_eq(&to.map));
    let (from, to) = if same { (None, None) } else { (from, to) };
    let find = |table: Option<&'a Table<K, V>>, key: &K| table.and_then(|table| table.map.get(key));
    let written = to.into_iter().flat_map(|to| &to.map).filter_map(move |(key, after)| {
        let before = find(from, key);
        let changed = before.is_none_or(|before| !Arc::ptr_eq(before, after));
        changed.then_some((key, before, Some(after)))
    });
    let removed = from
        .into_iter()
        .flat_map(|from| &from.map)
        .filter(move |(key, _)| find(to, key).is_none())
        .map(|(key, before)| (key, Some(before), None));
    written.chain(removed)
}

impl<K: Key, V: Value> Table<K, V> {
    fn same_types(rows: &dyn Rows) -> &Self {
        let table = rows.as_any().downcast_ref();
        table.expect("one number of a collection has one pair of types: the registry sees to it")
    }

    fn part(
        &self,
        writes: HashMap<K, Option<Arc<V>>>,
        id: usize,
        name: &Arc<str>,
    ) -> Option<Box<dyn Part>> {
        if writes.is_empty() {
            return None;
        }
        Some(Box::new(TablePart::of_writes(id, name, self.clone(), writes)))
    }
}

impl<K: Key, V: Value> Compare for Table<K, V> {
    fn empty(&self) -> Box<dyn Rows> {
        Box::new(Self::new())
    }

    fn counts_to(&self, to: &dyn Rows) -> Counts {
        let to = Self::same_types(to);
        let mut counts = Counts { added: 0, removed: 0, changed: 0 };
        if self.map.ptr_eq(&to.map) {
            return counts;
        }
        for (key, after) in &to.map {
            match self.map.get(key) {
                None => counts.added += 1,
                Some(before) if !Arc::ptr_eq(before, after) => counts.changed += 1,
                Some(_) => {}
            }
        }
        // All others that were there are still.
        counts.removed = self.map.len() + counts.added - to.map.len();
        counts
    }

    fn writes_to(&self, to: &dyn Rows, id: usize, name: &Arc<str>) -> Option<Box<dyn Part>> {
        let rows = changed_rows(Some(self), Some(Self::same_types(to)));
        let writes = rows.map(|(key, _, after)| (key.clone(), after.cloned())).collect();
        self.part(writes, id, name)
    }

    fn writes_to_encoded(
        &self,
        to: &EncodedRows,
        codec: Codec,
        id: usize,
        name: &Arc<str>,
    ) -> Result<Option<Box<dyn Part>>, Error> {
        let mut seen = HashSet::with_capacity(to.len());
        let mut writes = HashMap::new();
        let mut now = Vec::new();
        for (key, value) in to {
            let bad = |part, error| undecodable(part, name, key, error);
            let decoded = codec.decode::<K>(key).map_err(|error| bad("key", error))?;
            if let Some(there) = self.map.get(&decoded) {
                now.clear();
                codec.encode(&**there, &mut now)?;
            }
            if !self.map.contains_key(&decoded) || now[..] != value[..] {
                let value = codec.decode::<V>(value).map_err(|error| bad("value", error))?;
                writes.insert(decoded.clone(), Some(Arc::new(value)));
            }
            if !seen.insert(decoded) {
                return Err(two_rows(name, key));
            }
        }
        let gone = self.map.keys().filter(|key| !seen.contains(*key));
        writes.extend(gone.map(|key| (key.clone(), None)));
        Ok(self.part(writes, id, name))
    }
}
