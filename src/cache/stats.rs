//! The numbers of a cache.

/// What a cache did and holds, as of one call of [`stats`](super::Cache::stats).
///
/// Each count is exact and none is ever reset; a call that runs at the same time is in some of them and
/// not yet in others. With the cache at rest these hold:
///
/// - `lookups() == hits + misses`, one for each `get` and each `get_or_load`;
/// - `entries == inserted - evicted_for_weight - evicted_for_entries - removed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Lookups that found their key.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: u64,
    /// Loaders that returned a value.
    pub loads: u64,
    /// Loaders that returned an error.
    pub load_errors: u64,
    /// Loads that ended in a panic: of the loader, the weigher, or a `Clone`, `Hash` or `Eq` on its way.
    pub load_panics: u64,
    /// Waits for a load already under way. A miss waits again if that load came to nothing.
    pub load_waits: u64,
    /// Calls refused because they would have waited for themselves.
    pub load_reentrant: u64,
    /// Entries put in under a key that was not there.
    pub inserted: u64,
    /// Entries put in over one of the same key.
    pub replaced: u64,
    /// Entries evicted because the capacity in weight was reached.
    pub evicted_for_weight: u64,
    /// Entries evicted because the most entries allowed were reached.
    pub evicted_for_entries: u64,
    /// Entries taken out by `remove` and `clear`.
    pub removed: u64,
    /// Entries refused, by `insert` or after a load, because they outweigh the whole cache.
    pub rejected_too_large: u64,
    /// Entries held now.
    pub entries: u64,
    /// Weight reserved now: that of the entries, and of inserts on their way in.
    pub weight: u64,
    /// The most weight the cache may hold.
    pub capacity_weight: u64,
}

impl CacheStats {
    /// How many lookups there were.
    #[must_use]
    pub fn lookups(&self) -> u64 {
        self.hits + self.misses
    }

    /// Hits in every 1.0 lookups, or `None` before the first.
    #[must_use]
    pub fn hit_ratio(&self) -> Option<f64> {
        (self.lookups() > 0).then(|| self.hits as f64 / self.lookups() as f64)
    }

    /// Entries evicted for whatever reason.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted_for_weight + self.evicted_for_entries
    }
}
