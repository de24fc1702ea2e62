//! The handle of one typed collection.

use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::manager::Inner;
use super::release::Held;
use super::root::Slot;
use super::{Durability, StateManager, Version};
use crate::Error;

/// What the key of a collection must be; implemented for every type that is all of it.
///
/// Its `Hash`, `Eq`, `Clone` and `Drop` run within commits, one commit at a time: they may read the state and
/// may panic, which ends that commit and leaves nothing of it; a commit of theirs is refused as
/// [`ErrorKind::Reentrant`](crate::ErrorKind::Reentrant).
///
/// Equal keys must encode to equal bytes, which a key that holds a `HashMap` does not; and different keys to
/// different bytes, which a key with a field that serde skips does not. A store of keys that break this loses
/// rows or refuses to open the collection.
pub trait Key:
    Clone + Eq + Hash + Ord + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

impl<T: Clone + Eq + Hash + Ord + Serialize + DeserializeOwned + Send + Sync + 'static> Key for T {}

/// What the value of a collection must be; implemented for every type that is all of it.
///
/// A type that may ever change is stored as an enum of its forms: see the [patterns](crate::docs::patterns). What serde
/// reads from formats alone that describe themselves (untagged and tagged enums, fields that are skipped at times) can be
/// written here and never read again: see [`Codec`](super::Codec). Keys too.
pub trait Value: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: Clone + Serialize + DeserializeOwned + Send + Sync + 'static> Value for T {}

/// A typed map of a [`StateManager`], from [`StateManager::collection`]. Cheap to clone.
///
/// Reads see the newest commit, durable or not. Each write is a transaction of its own, at the
/// [level of durability](Collection::with_durability) of the handle; several that belong together go into
/// one [`StateManager::transaction`].
///
/// In memory it has every commit; a restart it survives as far as commits were written, which their level of
/// durability says.
///
/// ```
/// use phalanx::state::StateManager;
///
/// let state = StateManager::in_memory();
/// let ages = state.collection::<String, u32>("ages")?;
/// ages.insert("ada".to_owned(), 36)?;
/// assert_eq!(ages.get(&"ada".to_owned()), Some(36));
/// # Ok::<(), phalanx::Error>(())
/// ```
pub struct Collection<K, V> {
    pub(super) inner: Arc<Inner>,
    pub(super) id: usize,
    pub(super) name: &'static str,
    pub(super) types: PhantomData<fn(K) -> V>,
    /// None where it is that of the state.
    pub(super) level: Option<Durability>,
}

impl<K: Key, V: Value> Collection<K, V> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The manager it belongs to.
    #[must_use]
    pub fn manager(&self) -> StateManager {
        StateManager { inner: Arc::clone(&self.inner) }
    }

    /// Commits may make a reader the last to hold what it reads, so it lets go of that as a writer does.
    fn now(&self) -> Held {
        Held::new(self.inner.current())
    }

    /// A clone of the value of `key` in the newest commit.
    ///
    /// Takes a lock for as long as a pointer copy; the lookup and the clone run outside it.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<V> {
        self.now().table::<K, V>(self.id)?.map.get(key).map(|value| V::clone(value))
    }

    /// Whether the newest commit has a value for `key`.
    #[must_use]
    pub fn contains_key(&self, key: &K) -> bool {
        self.now().table::<K, V>(self.id).is_some_and(|table| table.map.contains_key(key))
    }

    /// How many rows the newest commit has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.now().slots.get(self.id).map_or(0, Slot::len)
    }

    /// Whether the newest commit has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets the value of `key`, as a commit of its own.
    ///
    /// # Errors
    /// Those of [`StateManager::transaction`].
    pub fn insert(&self, key: K, value: V) -> Result<Version, Error> {
        let mut row = Some((key, value));
        let ((), version) = self.manager().transaction(|tx| {
            // It reads nothing, so it never conflicts and the closure runs once.
            if let Some((key, value)) = row.take() {
                tx.insert(self, key, value);
            }
            Ok(())
        })?;
        Ok(version)
    }

    /// Removes the row of `key`, as a commit of its own, and returns what it was.
    ///
    /// Where there was none nothing is committed, and the version is that of the look.
    ///
    /// # Errors
    /// Those of [`StateManager::transaction`].
    pub fn remove(&self, key: &K) -> Result<(Option<V>, Version), Error> {
        self.manager().transaction(|tx| Ok(tx.remove(self, key)))
    }
}

impl<K, V> Clone for Collection<K, V> {
    fn clone(&self) -> Self {
        let inner = Arc::clone(&self.inner);
        Self { inner, id: self.id, name: self.name, types: PhantomData, level: self.level }
    }
}

impl<K, V> fmt::Debug for Collection<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collection").field("name", &self.name).finish_non_exhaustive()
    }
}
