//! What the data path returns when it does not do what was asked.

use std::error::Error as StdError;
use std::fmt;

/// A value that weighs more than the whole cache may hold. It comes back with this error.
///
/// ```
/// use phalanx::cache::Cache;
///
/// let cache = Cache::builder().capacity_weight(4).weigher(|_: &u32, v: &String| v.len() as u64).build()?;
/// let refused = cache.insert(1, "too long".to_owned()).unwrap_err();
/// assert_eq!((refused.weight(), refused.capacity_weight()), (8, 4));
/// assert_eq!(refused.into_value(), "too long");
/// # Ok::<(), phalanx::Error>(())
/// ```
pub struct TooLarge<V> {
    value: V,
    weight: u64,
    capacity_weight: u64,
}

impl<V> TooLarge<V> {
    pub(super) fn new(value: V, weight: u64, capacity_weight: u64) -> Self {
        Self { value, weight, capacity_weight }
    }

    /// Hands the refused value back.
    #[must_use]
    pub fn into_value(self) -> V {
        self.value
    }

    /// What the weigher made of it, in its own unit.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// What the whole cache may hold, in the weigher's unit.
    #[must_use]
    pub fn capacity_weight(&self) -> u64 {
        self.capacity_weight
    }
}

impl<V> fmt::Debug for TooLarge<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TooLarge")
            .field("weight", &self.weight)
            .field("capacity_weight", &self.capacity_weight)
            .finish_non_exhaustive()
    }
}

impl<V> fmt::Display for TooLarge<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an entry of weight {} does not fit a cache of capacity {}; raise the capacity or split it",
            self.weight, self.capacity_weight
        )
    }
}

impl<V> StdError for TooLarge<V> {}

/// Why [`get_or_load`](super::Cache::get_or_load) has no value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError<E> {
    /// The loader of this very call failed. A caller never sees the error of another one's loader.
    #[error("the loader failed: {0}")]
    Failed(E),
    /// The load would have waited for itself: its loader asked for its own key, or for a key whose load
    /// waits, directly or through others, for this thread.
    #[error("the load would wait for itself; load what it depends on first")]
    Reentrant,
}
