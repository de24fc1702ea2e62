//! Changes of one row that depend on what it is: compare-and-set, update, insert if absent.
//!
//! Each is a transaction that reads the row and writes it, so it commits on exactly what it looked at. A row
//! has no version of its own: eight bytes more for each, in memory and in every checkpoint, would pay for
//! little that the pointer to its value does not tell. A snapshot has that pointer, so
//! [`Collection::set_if_unchanged`] takes one in place of a version.

use std::sync::Arc;

use thiserror::Error;

use super::{Collection, Key, Snapshot, Value, Version};
use crate::{Error, ErrorKind};

/// What was found instead of what was expected; nothing was committed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the row is not what was expected")]
#[non_exhaustive]
pub struct CompareAndSetError<V> {
    /// The value of the row; none where there is no row.
    pub current: Option<V>,
    /// What was to be set, back again.
    pub proposed: Option<V>,
}

impl<K: Key, V: Value> Collection<K, V> {
    /// Sets the value of `key` to `new` if it is `expected`, as a commit of its own; none is no row, in both.
    ///
    /// Values are compared by `PartialEq`, under no lock. To replace none by none is no commit, and the
    /// version is that of the look.
    ///
    /// ```
    /// use phalanx::state::StateManager;
    ///
    /// let state = StateManager::in_memory();
    /// let leaders = state.collection::<String, u32>("leaders")?;
    /// let shard = "shard-1".to_owned();
    /// assert!(leaders.compare_and_set(&shard, None, Some(7))?.is_ok());
    /// let lost = leaders.compare_and_set(&shard, None, Some(8))?.unwrap_err();
    /// assert_eq!((lost.current, lost.proposed), (Some(7), Some(8)));
    /// assert!(leaders.compare_and_set(&shard, Some(&7), None)?.is_ok());
    /// # Ok::<(), phalanx::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`CompareAndSetError`] within, where the row is something else; outside, those of
    /// [`StateManager::transaction`](super::StateManager::transaction).
    pub fn compare_and_set(
        &self,
        key: &K,
        expected: Option<&V>,
        new: Option<V>,
    ) -> Result<Result<Version, CompareAndSetError<V>>, Error>
    where
        V: PartialEq,
    {
        self.set_if(key, new, |current| current.map(|current| &**current) == expected)
    }

    /// Sets the value of `key` to `new` if no commit has written the row since `snapshot`, as a commit of its
    /// own; none is no row.
    ///
    /// It compares no values, so a row that was changed and changed back is not what it was. (One that was
    /// absent both times is, and one that a [restore](super::StateManager::restore) brought back.)
    ///
    /// # Errors
    /// [`CompareAndSetError`] within, where the row was written; outside, [`ErrorKind::InvalidArgument`] for a
    /// snapshot of another manager, and those of
    /// [`StateManager::transaction`](super::StateManager::transaction).
    pub fn set_if_unchanged(
        &self,
        snapshot: &Snapshot,
        key: &K,
        new: Option<V>,
    ) -> Result<Result<Version, CompareAndSetError<V>>, Error> {
        if !self.inner.owns(&snapshot.root) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("the snapshot is not of the manager of the collection {:?}", self.name),
            ));
        }
        let then = snapshot.root.table::<K, V>(self.id).and_then(|table| table.map.get(key));
        self.set_if(key, new, |now| match (now, then) {
            (Some(now), Some(then)) => Arc::ptr_eq(now, then),
            (now, then) => now.is_none() && then.is_none(),
        })
    }

    /// Sets the value of a `key` that has none, as a commit of its own.
    ///
    /// # Errors
    /// [`CompareAndSetError`] within, where there is one; outside, those of
    /// [`StateManager::transaction`](super::StateManager::transaction).
    pub fn insert_new(
        &self,
        key: &K,
        value: V,
    ) -> Result<Result<Version, CompareAndSetError<V>>, Error> {
        self.set_if(key, Some(value), |current| current.is_none())
    }

    /// A clone of the value of `key`; where there is none, that of `make` is set first, as a commit of its
    /// own. The version is that of the commit, or of the look.
    ///
    /// `make` runs again where another commit came first and has removed the row since.
    ///
    /// # Errors
    /// Those of [`StateManager::transaction`](super::StateManager::transaction).
    pub fn get_or_insert_with(
        &self,
        key: &K,
        mut make: impl FnMut() -> V,
    ) -> Result<(V, Version), Error> {
        self.manager().transaction(|tx| {
            let value = match tx.shared(self, key) {
                Some(value) => value,
                None => {
                    let value = Arc::new(make());
                    tx.put(self, key, Some(Arc::clone(&value)));
                    value
                }
            };
            Ok(V::clone(&value))
        })
    }

    /// Sets the value of `key` to what `f` makes of it, as a commit of its own; none is no row.
    ///
    /// `f` runs again where another commit changed the row meanwhile.
    ///
    /// ```
    /// use phalanx::state::StateManager;
    ///
    /// let state = StateManager::in_memory();
    /// let hits = state.collection::<String, u64>("hits")?;
    /// for _ in 0..3 {
    ///     hits.update(&"/".to_owned(), |count| Some(count.unwrap_or(&0) + 1))?;
    /// }
    /// assert_eq!(hits.get(&"/".to_owned()), Some(3));
    /// # Ok::<(), phalanx::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`StateManager::transaction`](super::StateManager::transaction).
    pub fn update(
        &self,
        key: &K,
        mut f: impl FnMut(Option<&V>) -> Option<V>,
    ) -> Result<Version, Error> {
        let ((), version) = self.manager().transaction(|tx| {
            let current = tx.shared(self, key);
            let new = f(current.as_deref()).map(Arc::new);
            tx.put(self, key, new);
            Ok(())
        })?;
        Ok(version)
    }

    fn set_if(
        &self,
        key: &K,
        new: Option<V>,
        holds: impl Fn(Option<&Arc<V>>) -> bool,
    ) -> Result<Result<Version, CompareAndSetError<V>>, Error> {
        let new = new.map(Arc::new);
        let (found, version) = self.manager().transaction(|tx| {
            let current = tx.shared(self, key);
            if !holds(current.as_ref()) {
                return Ok(Err(current));
            }
            tx.put(self, key, new.clone());
            Ok(Ok(()))
        })?;
        let owned = |value| Arc::try_unwrap(value).unwrap_or_else(|value| V::clone(&value));
        Ok(match found {
            Ok(()) => Ok(version),
            Err(current) => {
                let proposed = new.map(owned);
                let error = CompareAndSetError { current: current.as_deref().cloned(), proposed };
                // Another commit may have replaced it meanwhile.
                self.inner.owner().let_go(current);
                Err(error)
            }
        })
    }
}
