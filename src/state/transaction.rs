//! Transactions: read and write several rows of several collections, all or nothing.
//!
//! Optimistic: the closure runs on a snapshot and takes no lock; what it read is checked again when it
//! commits, in its turn. Rules that hold here:
//!
//! 1. A transaction reads one root, over which its own writes lie.
//! 2. It commits on a newer root only where everything that it read is there what it was: same value
//!    pointer or still absent, or for a scan the same table. So the order of versions is a serial order.
//! 3. Nothing of it is visible before it commits, and dropping it is all that an abort or a panic takes.

use std::any::Any;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

#[cfg(feature = "durable")]
use super::block::{put_bytes, put_len};
use super::changes::{Change, Changed};
#[cfg(feature = "durable")]
use super::codec::Codec;
use super::release::Held;
use super::root::{Content, Root, Rows, Table};
use super::validate::Rules;
use super::{Collection, Durability, Key, Value, Version};
use crate::{Error, ErrorKind};

/// Why a transaction's closure gave up.
///
/// Made with [`Abort::new`] or by `?` from any error. The host gets its reason back as the
/// [`source`](StdError::source) of an [`Error`] of kind [`ErrorKind::Aborted`].
///
/// ```
/// use phalanx::ErrorKind;
/// use phalanx::state::{Abort, StateManager};
///
/// let state = StateManager::in_memory();
/// let stock = state.collection::<String, u32>("stock")?;
/// let sold = state.transaction(|tx| {
///     let left = tx.get(&stock, &"apples".to_owned()).ok_or(Abort::new("no apples"))?;
///     tx.insert(&stock, "apples".to_owned(), left - 1);
///     Ok(left - 1)
/// });
/// assert_eq!(sold.unwrap_err().kind(), ErrorKind::Aborted);
/// # Ok::<(), phalanx::Error>(())
/// ```
pub struct Abort(Box<dyn StdError + Send + Sync>);

impl Abort {
    /// An abort with this reason: a text or an error of the host.
    #[must_use]
    pub fn new(reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(reason.into())
    }

    /// The reason.
    #[must_use]
    pub fn into_reason(self) -> Box<dyn StdError + Send + Sync> {
        self.0
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Abort {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Debug for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Abort").field(&self.0).finish()
    }
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A running transaction: what the closure of [`StateManager::transaction`](super::StateManager::transaction) reads and writes through.
///
/// It reads the state as of one version, and its own writes over it. A collection of another manager has
/// no rows in it; writing to one fails the transaction.
pub struct Transaction {
    parts: Vec<Option<Box<dyn Part>>>,
    // After the parts, whose tables it has too: so nothing large goes with them.
    base: Held,
    /// A write that cannot be done; it outlives whatever the closure returns.
    refused: Option<Error>,
    /// Whether it holds on no other version than that of its base.
    whole: bool,
    asked: Option<Durability>,
    /// The strongest level of the handles that it wrote through.
    strongest: Option<Durability>,
}

impl Transaction {
    pub(super) fn new(base: Arc<Root>) -> Self {
        Self::of_parts(Vec::new(), base, false)
    }

    /// Writes that were worked out on `base`; `whole` where they are right on no other version.
    pub(super) fn of_writes(
        base: Arc<Root>,
        writes: impl IntoIterator<Item = Box<dyn Part>>,
        whole: bool,
    ) -> Self {
        let mut writes: Vec<_> = writes.into_iter().collect();
        // In the order in which a commit tells them.
        writes.sort_unstable_by_key(|part| part.id());
        Self::of_parts(writes.into_iter().map(Some).collect(), base, whole)
    }

    fn of_parts(parts: Vec<Option<Box<dyn Part>>>, base: Arc<Root>, whole: bool) -> Self {
        let base = Held::new(base);
        Self { parts, base, refused: None, whole, asked: None, strongest: None }
    }

    /// Has this commit be of this level, whatever the state and the handles that it writes through say. What
    /// is asked for last holds, in each run of the closure anew.
    ///
    /// A transaction that writes nothing is no commit and waits for nothing. Another level than
    /// [`Durability::Memory`] needs a store; without one the commit fails with
    /// [`ErrorKind::Unsupported`].
    pub fn set_durability(&mut self, level: Durability) {
        self.asked = Some(level);
    }

    /// The level that it asks for in whatever way.
    pub(super) fn level(&self) -> Option<Durability> {
        self.asked.or(self.strongest)
    }

    fn wrote_at(&mut self, level: Durability) {
        self.strongest = self.strongest.max(Some(level));
    }

    /// The version that it reads.
    #[must_use]
    pub fn base_version(&self) -> Version {
        self.base.version
    }

    /// A clone of the value of `key`.
    #[must_use]
    pub fn get<K: Key, V: Value>(&mut self, collection: &Collection<K, V>, key: &K) -> Option<V> {
        self.part(collection)?.read(key).map(|value| V::clone(&value))
    }

    /// Whether there is a value for `key`.
    #[must_use]
    pub fn contains_key<K: Key, V: Value>(
        &mut self,
        collection: &Collection<K, V>,
        key: &K,
    ) -> bool {
        self.part(collection).is_some_and(|part| part.read(key).is_some())
    }

    /// Clones of all rows, in no order. It conflicts with every other write to the collection.
    #[must_use]
    pub fn rows<K: Key, V: Value>(&mut self, collection: &Collection<K, V>) -> Vec<(K, V)> {
        self.part(collection).map_or_else(Vec::new, TablePart::scan)
    }

    /// How many rows there are. It conflicts with every other write to the collection.
    #[must_use]
    pub fn len<K: Key, V: Value>(&mut self, collection: &Collection<K, V>) -> usize {
        self.part(collection).map_or(0, TablePart::len)
    }

    /// Sets the value of `key`. It reads nothing, so by itself it conflicts with nothing.
    pub fn insert<K: Key, V: Value>(&mut self, collection: &Collection<K, V>, key: K, value: V) {
        if let Some(part) = self.writable(collection) {
            part.writes.insert(key, Some(Arc::new(value)));
            self.wrote_at(collection.durability());
        }
    }

    /// Removes the row of `key` and returns what it was, which counts as a read.
    ///
    /// Removing what is not there is no write.
    pub fn remove<K: Key, V: Value>(
        &mut self,
        collection: &Collection<K, V>,
        key: &K,
    ) -> Option<V> {
        let part = self.writable(collection)?;
        let value = part.read(key)?;
        part.writes.insert(key.clone(), None);
        self.wrote_at(collection.durability());
        Some(V::clone(&value))
    }

    /// The value of `key` as the state has it, or as this transaction has set it.
    pub(super) fn shared<K: Key, V: Value>(
        &mut self,
        collection: &Collection<K, V>,
        key: &K,
    ) -> Option<Arc<V>> {
        self.part(collection)?.read(key)
    }

    /// Sets the row of `key`; none removes it, and removing what is not there is no write.
    pub(super) fn put<K: Key, V: Value>(
        &mut self,
        collection: &Collection<K, V>,
        key: &K,
        value: Option<Arc<V>>,
    ) {
        if let Some(part) = self.writable(collection)
            && (value.is_some() || part.read(key).is_some())
        {
            part.writes.insert(key.clone(), value);
            self.wrote_at(collection.durability());
        }
    }

    fn writable<K: Key, V: Value>(
        &mut self,
        collection: &Collection<K, V>,
    ) -> Option<&mut TablePart<K, V>> {
        if !collection.inner.owns(&self.base) {
            self.refused.get_or_insert_with(|| {
                Error::new(
                    ErrorKind::InvalidArgument,
                    format!(
                        "the collection {:?} belongs to another state manager",
                        collection.name()
                    ),
                )
            });
        }
        self.part(collection)
    }

    fn part<K: Key, V: Value>(
        &mut self,
        collection: &Collection<K, V>,
    ) -> Option<&mut TablePart<K, V>> {
        if !collection.inner.owns(&self.base) {
            return None;
        }
        let id = collection.id;
        if self.parts.len() <= id {
            self.parts.resize_with(id + 1, || None);
        }
        let base = &self.base;
        let part = self.parts[id].get_or_insert_with(|| {
            let base = base.table::<K, V>(id).cloned().unwrap_or_else(Table::new);
            Box::new(TablePart::<K, V> {
                id,
                name: Cow::Borrowed(collection.name),
                base,
                reads: HashSet::new(),
                scanned: false,
                writes: HashMap::new(),
            })
        });
        // One number has one pair of types: the registry of the manager sees to it.
        part.as_any_mut().downcast_mut()
    }

    pub(super) fn take_refusal(&mut self) -> Option<Error> {
        self.refused.take()
    }

    fn written(&self) -> impl Iterator<Item = &dyn Part> {
        self.parts.iter().flatten().map(|part| &**part).filter(|part| part.writes() > 0)
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.written().next().is_none()
    }

    /// Rule 2 of the file.
    pub(super) fn holds_on(&self, root: &Arc<Root>) -> bool {
        if self.whole {
            // A collection that was made since changes the root and not the version.
            return root.version == self.base.version;
        }
        Arc::ptr_eq(root, &self.base) || self.parts.iter().flatten().all(|part| part.holds_on(root))
    }

    /// The root that comes after `root` with the writes done, unless a rule refuses one of them, and what
    /// they change if that is wanted.
    pub(super) fn apply(
        &self,
        root: &Root,
        rules: &Rules,
        wanted: bool,
    ) -> Result<(Root, Option<Vec<Changed>>), Error> {
        let mut next = root.clone();
        next.version = root.version.next();
        let mut changes = wanted.then(Vec::new);
        for part in self.written() {
            let Applied { rows, changed, replaced, written } = part.apply(root, rules, wanted)?;
            next.slots[part.id()].content = Content::Typed(rows);
            next.replaced += replaced;
            next.changed += written;
            if let Some(changes) = &mut changes {
                changes.extend(changed);
            }
        }
        Ok((next, changes))
    }

    /// The writes as bytes: `collections | (name | writes | (tag | key | value?)*)*`.
    #[cfg(feature = "durable")]
    pub(super) fn encode(&self, codec: Codec) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        put_len(&mut out, self.written().count());
        self.written().try_for_each(|part| part.encode(codec, &mut out))?;
        Ok(out)
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("base_version", &self.base.version)
            .finish_non_exhaustive()
    }
}

/// The tags of a write in a delta.
#[cfg(feature = "durable")]
pub(super) const REMOVE: u8 = 0;
#[cfg(feature = "durable")]
pub(super) const PUT: u8 = 1;

/// A collection with the writes of a transaction done.
pub(super) struct Applied {
    rows: Arc<dyn Rows>,
    /// What they change, if that is wanted and anything.
    changed: Option<Changed>,
    /// How many rows are not there any more as they were.
    replaced: u64,
    /// How many rows are set or removed.
    written: u64,
}

/// What a transaction did to one collection, without its types.
pub(super) trait Part: Any {
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn id(&self) -> usize;
    /// How many rows it writes.
    fn writes(&self) -> usize;
    fn holds_on(&self, root: &Root) -> bool;
    /// The table with the writes done, and what they change if that is wanted and anything.
    fn apply(&self, root: &Root, rules: &Rules, wanted: bool) -> Result<Applied, Error>;
    #[cfg(feature = "durable")]
    fn encode(&self, codec: Codec, out: &mut Vec<u8>) -> Result<(), Error>;
}

pub(super) struct TablePart<K, V> {
    id: usize,
    name: Cow<'static, str>,
    base: Table<K, V>,
    reads: HashSet<K>,
    scanned: bool,
    writes: HashMap<K, Option<Arc<V>>>,
}

impl<K: Key, V: Value> TablePart<K, V> {
    /// Writes that were worked out without a closure; what each replaces counts as read.
    pub(super) fn of_writes(
        id: usize,
        name: &str,
        base: Table<K, V>,
        writes: HashMap<K, Option<Arc<V>>>,
    ) -> Self {
        Self {
            id,
            name: Cow::Owned(name.to_owned()),
            base,
            reads: writes.keys().cloned().collect(),
            scanned: false,
            writes,
        }
    }

    fn read(&mut self, key: &K) -> Option<Arc<V>> {
        if let Some(written) = self.writes.get(key) {
            return written.clone();
        }
        if !self.reads.contains(key) {
            self.reads.insert(key.clone());
        }
        self.base.map.get(key).cloned()
    }

    fn scan(&mut self) -> Vec<(K, V)> {
        self.scanned = true;
        let mut rows = Vec::with_capacity(self.base.map.len());
        for (key, value) in &self.base.map {
            if !self.writes.contains_key(key) {
                rows.push((key.clone(), V::clone(value)));
            }
        }
        for (key, value) in &self.writes {
            if let Some(value) = value {
                rows.push((key.clone(), V::clone(value)));
            }
        }
        rows
    }

    fn len(&mut self) -> usize {
        self.scanned = true;
        self.writes.iter().fold(self.base.map.len(), |len, (key, value)| {
            match (self.base.map.contains_key(key), value.is_some()) {
                (true, false) => len - 1,
                (false, true) => len + 1,
                _ => len,
            }
        })
    }
}

impl<K: Key, V: Value> Part for TablePart<K, V> {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn id(&self) -> usize {
        self.id
    }

    fn writes(&self) -> usize {
        self.writes.len()
    }

    fn holds_on(&self, root: &Root) -> bool {
        let Some(now) = root.table::<K, V>(self.id) else {
            // Only a collection that was empty at the base can be missing.
            return self.base.map.is_empty();
        };
        if now.map.ptr_eq(&self.base.map) {
            return true;
        }
        !self.scanned
            && self.reads.iter().all(|key| match (now.map.get(key), self.base.map.get(key)) {
                (Some(now), Some(then)) => Arc::ptr_eq(now, then),
                (None, None) => true,
                _ => false,
            })
    }

    fn apply(&self, root: &Root, rules: &Rules, wanted: bool) -> Result<Applied, Error> {
        let mut table = root.table::<K, V>(self.id).cloned().unwrap_or_else(Table::new);
        let rule = rules.of::<K, V>(self.id);
        let (mut replaced, mut written) = (0, 0);
        let mut changes = Vec::with_capacity(if wanted { self.writes.len() } else { 0 });
        for (key, new) in &self.writes {
            let old = match new {
                Some(new) => table.map.insert(key.clone(), Arc::clone(new)),
                None => table.map.remove(key),
            };
            if old.is_none() && new.is_none() {
                continue;
            }
            replaced += u64::from(old.is_some());
            written += 1;
            if let Some(rule) = &rule {
                rule.check(&self.name, key, old.as_deref(), new.as_deref())?;
            }
            if wanted {
                changes.push(Change { key: key.clone(), old, new: new.clone() });
            }
        }
        let changed = Changed::of(self.id, self.name.clone(), changes);
        Ok(Applied { rows: Arc::new(table), changed, replaced, written })
    }

    #[cfg(feature = "durable")]
    fn encode(&self, codec: Codec, out: &mut Vec<u8>) -> Result<(), Error> {
        put_bytes(out, self.name.as_bytes());
        put_len(out, self.writes.len());
        let mut field = Vec::new();
        for (key, value) in &self.writes {
            out.push(if value.is_some() { PUT } else { REMOVE });
            field.clear();
            codec.encode(key, &mut field)?;
            put_bytes(out, &field);
            if let Some(value) = value {
                field.clear();
                codec.encode(&**value, &mut field)?;
                put_bytes(out, &field);
            }
        }
        Ok(())
    }
}
