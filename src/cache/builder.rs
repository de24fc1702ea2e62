//! How a cache is configured, with all its defaults.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU64;
use std::sync::Arc;

use super::Cache;
use super::ledger::Room;
use crate::{Error, ErrorKind};

/// Shards unless the builder is told otherwise.
const SHARDS_DEFAULT: usize = 16;
/// The most shards that are accepted.
const SHARDS_MAX: usize = 1024;

pub(super) type Weigher<K, V> = dyn Fn(&K, &V) -> u64 + Send + Sync;

/// Configures a [`Cache`]; made by [`Cache::builder`].
#[must_use = "a builder does nothing until it builds"]
pub struct CacheBuilder<K, V> {
    capacity_weight: u64,
    max_entries: Option<NonZeroU64>,
    weigher: Option<Arc<Weigher<K, V>>>,
    shards: usize,
}

impl<K, V> CacheBuilder<K, V> {
    pub(super) fn new() -> Self {
        Self { capacity_weight: 0, max_entries: None, weigher: None, shards: SHARDS_DEFAULT }
    }

    /// The most that all entries together may weigh, in the weigher's unit.
    ///
    /// There is no default: a cache without a limit is a leak. From 1 to `u64::MAX`. Costs nothing by
    /// itself; memory is taken as entries come in.
    pub fn capacity_weight(mut self, capacity: u64) -> Self {
        self.capacity_weight = capacity;
        self
    }

    /// The most entries, whatever they weigh. Unlimited by default; the capacity still bounds them, for
    /// an entry weighs at least 1.
    pub fn max_entries(mut self, most: NonZeroU64) -> Self {
        self.max_entries = Some(most);
        self
    }

    /// What an entry weighs, in a unit of the caller's choice (bytes, mostly). By default each weighs 1.
    ///
    /// It is called once for each entry put in, outside every lock; the answer is kept, so it need not
    /// be the same later. An answer of 0 counts as 1. A panic in it leaves the cache unchanged and
    /// reaches the caller of the insert.
    pub fn weigher(mut self, weigher: impl Fn(&K, &V) -> u64 + Send + Sync + 'static) -> Self {
        self.weigher = Some(Arc::new(weigher));
        self
    }

    /// Into how many locks the keys are divided: a power of two from 1 to 1024, 16 by default.
    ///
    /// The limits hold over all shards together; the order of use is kept in each. One shard gives the
    /// exact LRU order and one lock for everybody. Keep several hundred entries a shard.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// Builds the cache.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] when no capacity was set, or the number of shards is not a power
    /// of two from 1 to 1024.
    pub fn build(self) -> Result<Cache<K, V>, Error>
    where
        K: Hash + Eq,
    {
        if self.capacity_weight == 0 {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "a cache needs a capacity of at least 1; set `capacity_weight`",
            ));
        }
        if !self.shards.is_power_of_two() || self.shards > SHARDS_MAX {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "shards must be a power of two from 1 to {SHARDS_MAX}, found {}",
                    self.shards
                ),
            ));
        }
        let limit = Room {
            weight: self.capacity_weight,
            entries: self.max_entries.map_or(u64::MAX, NonZeroU64::get),
        };
        Ok(Cache::from_parts(limit, self.weigher, self.shards))
    }
}

impl<K, V> fmt::Debug for CacheBuilder<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBuilder")
            .field("capacity_weight", &self.capacity_weight)
            .field("max_entries", &self.max_entries)
            .field("weigher", &self.weigher.is_some())
            .field("shards", &self.shards)
            .finish()
    }
}
