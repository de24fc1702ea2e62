//! A sharded LRU cache with a hard limit on weight, and loading once for many waiters.
//!
//! What it guarantees:
//!
//! - The weight of all entries never exceeds the capacity, at no instant, not even while an entry grows
//!   or is replaced: room is reserved on one shared count before an entry goes in.
//! - Nothing is refused, evicted or discarded without a count in [`CacheStats`]; what does not fit at
//!   all is handed back.
//! - Among callers of [`Cache::get_or_load`] for one key, one loads and the others wait for it. No panic
//!   and no error of a loader leaves a waiter behind, and no load waits for itself.
//!
//! What it does not do: it is no store (an entry may be gone at any time), it has no expiry, and with
//! more than one shard the order of use is exact within a shard, not between them.
//!
//! # Code of the caller
//!
//! The weigher, loaders, the key's `Hash`, and the `Drop` of keys and values run outside every lock.
//! Two things run under a lock: the key's `Eq`, inside a lookup, and the `Clone` of a value that was found
//! or waited for (make it cheap: an `Arc`). Those two must not call back into the same cache. A
//! panic in any of them reaches the caller whose call ran it, and leaves locks, order and counts intact.
//!
//! # Blocking and cost
//!
//! Every operation is O(1) expected, and takes the lock of one shard for as long as a lookup; an insert
//! takes that of others too when its own shard has nothing left to evict. Only `get_or_load` waits for
//! anything else: another caller's loader.
//!
//! ```
//! use phalanx::cache::Cache;
//! use std::sync::Arc;
//!
//! let cache: Cache<String, Arc<[u8]>> = Cache::builder()
//!     .capacity_weight(1 << 20)
//!     .weigher(|key: &String, value: &Arc<[u8]>| (key.len() + value.len()) as u64)
//!     .build()?;
//! cache.insert("a".to_owned(), Arc::from(*b"bytes")).expect("6 bytes fit into a megabyte");
//! assert_eq!(cache.get("a").as_deref(), Some(&b"bytes"[..]));
//! assert_eq!(cache.weight(), 6);
//! # Ok::<(), phalanx::Error>(())
//! ```

mod builder;
mod error;
mod flight;
mod ledger;
mod shard;
mod stats;

#[cfg(all(test, phalanx_loom))]
mod loom_tests;
#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod model_tests;

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use crossbeam::utils::CachePadded;

pub use self::builder::CacheBuilder;
use self::builder::Weigher;
pub use self::error::{LoadError, TooLarge};
use self::flight::{Flights, Join, Leader};
use self::ledger::{Claim, Ledger, Room};
use self::shard::{Departed, Newcomer, Shard, Wanted};
pub use self::stats::CacheStats;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, site, thread};

/// A cache that many threads share. Clones are the same cache.
///
/// See the [module](self) for what it guarantees.
pub struct Cache<K, V> {
    inner: Arc<Inner<K, V>>,
}

/// On a cache line of its own, so that the locks of two shards do not share one.
type PaddedShard<K, V> = CachePadded<Mutex<Shard<K, V>>>;

struct Inner<K, V> {
    shards: Box<[PaddedShard<K, V>]>,
    ledger: Ledger,
    hasher: lru::DefaultHasher,
    weigher: Option<Arc<Weigher<K, V>>>,
    flights: Flights<K, V>,
    rejected_too_large: AtomicU64,
    /// Inserts that found nothing to evict anywhere take turns here (see `Inner::admit`).
    starved: Mutex<()>,
}

impl<K, V> Cache<K, V> {
    /// Starts to configure a cache.
    pub fn builder() -> CacheBuilder<K, V> {
        CacheBuilder::new()
    }

    fn from_parts(limit: Room, weigher: Option<Arc<Weigher<K, V>>>, shards: usize) -> Self {
        let shards = (0..shards).map(|_| CachePadded::new(Mutex::new(Shard::new()))).collect();
        Self {
            inner: Arc::new(Inner {
                shards,
                ledger: Ledger::new(limit),
                hasher: lru::DefaultHasher::default(),
                weigher,
                flights: Flights::new(),
                rejected_too_large: AtomicU64::new(0),
                starved: Mutex::new(()),
            }),
        }
    }

    /// How many entries there are. Shards are counted one after the other.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.shards.iter().all(|shard| shard.lock().len() == 0)
    }

    /// The weight reserved now: that of every entry, and of inserts on their way in. Wait-free.
    ///
    /// Never more than [`capacity_weight`](Self::capacity_weight).
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.inner.ledger.reserved().weight
    }

    /// The most weight that the cache holds.
    #[must_use]
    pub fn capacity_weight(&self) -> u64 {
        self.inner.ledger.limit().weight
    }

    /// Takes every entry out. Loads under way are not stopped, and will put their values in.
    pub fn clear(&self) {
        for shard in &self.inner.shards {
            let taken = {
                let mut shard = shard.lock();
                let (taken, room) = shard.clear();
                self.inner.ledger.release(room);
                taken
            };
            drop(taken);
        }
    }

    /// The counts so far. Shards are read one after the other.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let loads = self.inner.flights.counts();
        let mut stats = CacheStats {
            loads: loads.loads,
            load_errors: loads.errors,
            load_panics: loads.panics,
            load_waits: loads.waits,
            load_reentrant: loads.reentrant,
            rejected_too_large: self.inner.rejected_too_large.load(Ordering::Relaxed),
            weight: self.weight(),
            capacity_weight: self.capacity_weight(),
            ..CacheStats::default()
        };
        for shard in &self.inner.shards {
            let (counts, entries) = {
                let shard = shard.lock();
                (shard.counts, shard.len())
            };
            stats.hits += counts.hits;
            stats.misses += counts.misses;
            stats.inserted += counts.inserted;
            stats.replaced += counts.replaced;
            stats.evicted_for_weight += counts.evicted_for_weight;
            stats.evicted_for_entries += counts.evicted_for_entries;
            stats.removed += counts.removed;
            stats.entries += entries as u64;
        }
        stats
    }
}

impl<K: Hash + Eq, V> Cache<K, V> {
    /// A clone of the value, which becomes the most recently used of its shard. Counts a hit or a miss.
    #[must_use]
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        let wanted = self.inner.wanted(key);
        self.inner.shard(wanted.hash).lock().get(&wanted).cloned()
    }

    /// A clone of the value; changes neither the order of use nor any count.
    #[must_use]
    pub fn peek<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        let wanted = self.inner.wanted(key);
        self.inner.shard(wanted.hash).lock().peek(&wanted).cloned()
    }

    /// Whether the key is there; changes neither the order of use nor any count.
    #[must_use]
    pub fn contains<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let wanted = self.inner.wanted(key);
        self.inner.shard(wanted.hash).lock().peek(&wanted).is_some()
    }

    /// Puts an entry in, as the most recently used of its shard, evicting the least recently used ones
    /// while the limits ask for it: of its own shard first, then of the others in turn.
    ///
    /// A value already there is replaced; only the difference in weight is then asked for.
    ///
    /// # Errors
    ///
    /// [`TooLarge`] hands the value back when the entry outweighs the whole cache. Nothing has changed
    /// then: an older value of the key is still there.
    pub fn insert(&self, key: K, value: V) -> Result<(), TooLarge<V>> {
        let hash = self.inner.hasher.hash_one(&key);
        self.inner.insert(hash, key, value)
    }

    /// Takes an entry out and hands its value over. A load of the key under way is not stopped, and will
    /// put its value in.
    pub fn remove<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let wanted = self.inner.wanted(key);
        let (_slot, value) = {
            let mut shard = self.inner.shard(wanted.hash).lock();
            let (slot, value, room) = shard.remove(&wanted)?;
            self.inner.ledger.release(room);
            (slot, value)
        };
        Some(value)
    }

    /// The value of the key, from the cache or else from `load`, which is then put in.
    ///
    /// Of all calls that miss the same key at the same time one runs its loader; the others wait, and
    /// return clones of its value. Counts one hit or one miss.
    ///
    /// - When the loader fails or panics, those who waited do not share that: one of them runs its own
    ///   loader next, and the rest wait for that one. So every error that a call returns is its own;
    ///   with a source that is down, `n` callers try one after the other.
    /// - A value too large for the cache is returned all the same, to the waiters too. It is not kept,
    ///   and counted as `rejected_too_large`.
    /// - The loader may use this cache, and load other keys. If it asks for its own key, or for one
    ///   whose load waits for it, that inner call fails as [`LoadError::Reentrant`] instead of hanging.
    ///   Only threads that wait in this cache are seen, not a loader that hands over to another thread
    ///   and waits there.
    /// - What was inserted under the key while the loader ran is replaced by what it loaded.
    ///
    /// # Errors
    ///
    /// [`LoadError::Failed`] with the error of this call's own loader; [`LoadError::Reentrant`].
    ///
    /// # Blocking
    ///
    /// For as long as another caller's loader runs. No lock is held while a loader runs.
    ///
    /// ```
    /// use phalanx::cache::Cache;
    ///
    /// let cache: Cache<u32, String> = Cache::builder().capacity_weight(100).build()?;
    /// let load = |text: &str| text.parse::<u32>().map(|n| n.to_string());
    /// assert_eq!(cache.get_or_load(&7, || load("7")), Ok("7".to_owned()));
    /// assert_eq!(cache.get_or_load(&7, || load("never run")), Ok("7".to_owned()));
    /// assert!(cache.get_or_load(&8, || load("eight")).is_err());
    /// # Ok::<(), phalanx::Error>(())
    /// ```
    pub fn get_or_load<E>(
        &self,
        key: &K,
        load: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        K: Clone,
        V: Clone,
    {
        let wanted = self.inner.wanted(key);
        if let Some(value) = self.inner.shard(wanted.hash).lock().get(&wanted) {
            return Ok(value.clone());
        }
        loop {
            match self.inner.flights.join(wanted.hash, key.clone()) {
                Join::Lead(leader) => return self.inner.lead(leader, &wanted, load),
                Join::Landed(value) => return Ok(value),
                Join::Retry => {}
                Join::Reentrant => return Err(LoadError::Reentrant),
            }
        }
    }
}

impl<K: Hash + Eq, V> Inner<K, V> {
    #[inline]
    fn wanted<'a, Q: Hash + ?Sized>(&self, key: &'a Q) -> Wanted<'a, Q> {
        Wanted { hash: self.hasher.hash_one(key), key }
    }

    fn index(&self, hash: u64) -> usize {
        // The table inside a shard takes its place from the low bits and its tag from the highest.
        (hash >> 40) as usize & (self.shards.len() - 1)
    }

    #[inline]
    fn shard(&self, hash: u64) -> &Mutex<Shard<K, V>> {
        &self.shards[self.index(hash)]
    }

    fn insert(&self, hash: u64, key: K, value: V) -> Result<(), TooLarge<V>> {
        let weight = self.weigher.as_ref().map_or(1, |weigh| weigh(&key, &value)).max(1);
        let capacity = self.ledger.limit().weight;
        if weight > capacity {
            self.rejected_too_large.fetch_add(1, Ordering::Relaxed);
            return Err(TooLarge::new(value, weight, capacity));
        }
        self.admit(hash, Newcomer::new(hash, key, value, weight));
        Ok(())
    }

    /// Makes room for an entry that fits the limits, and puts it in.
    ///
    /// What is evicted stays in the claim, so each eviction brings it nearer. Only when nothing is left
    /// to evict anywhere, because other inserts hold the room between reserving it and putting their
    /// entry in, it gives back what it has and queues for the right to insist. Those others never wait
    /// while they hold room, so it comes free.
    fn admit(&self, hash: u64, newcomer: Newcomer<K, V>) {
        // Dropped in reverse: the turn, the room that is left over, then what belongs to the caller.
        let mut departed = Departed::new();
        let mut newcomer = Some(newcomer);
        let mut claim = Claim::new(&self.ledger);
        let mut turn = None;
        let home = self.index(hash);
        loop {
            let inserted =
                self.shards[home].lock().insert(&mut newcomer, &mut claim, &mut departed);
            let Err(need) = inserted else { return };
            if !self.evict_elsewhere(home, need, &mut claim, &mut departed) {
                if turn.is_some() {
                    thread::yield_now();
                } else {
                    claim.give_back();
                    turn = Some(self.starved.lock());
                }
            }
        }
    }

    /// Evicts one entry of each other shard in turn until the claim covers the need; whether that got
    /// anywhere.
    fn evict_elsewhere(
        &self,
        home: usize,
        need: Room,
        claim: &mut Claim<'_>,
        departed: &mut Departed<K, V>,
    ) -> bool {
        let mut any = false;
        loop {
            let mut evicted = false;
            for step in 1..self.shards.len() {
                if claim.cover(need) {
                    return true;
                }
                let next = (home + step) & (self.shards.len() - 1);
                evicted |= self.shards[next].lock().evict_oldest(claim, need, departed);
            }
            if claim.cover(need) {
                return true;
            }
            if !evicted {
                return any;
            }
            any = true;
        }
    }

    /// Loads for everybody who waits. A panic anywhere in here drops the leader, which tells them.
    fn lead<E>(
        &self,
        leader: Leader<'_, K, V>,
        wanted: &Wanted<'_, K>,
        load: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        K: Clone,
        V: Clone,
    {
        // Rule 3 of `flight`. The name lets a loom test leave the step out and see two loads.
        if site("flight-recheck", Ordering::AcqRel) != Ordering::Relaxed {
            let found = self.shard(wanted.hash).lock().peek(wanted).cloned();
            if let Some(value) = found {
                leader.found(&value);
                return Ok(value);
            }
        }
        match load() {
            Ok(value) => {
                // Refused as too large, it is counted, and still returned.
                let _ = self.insert(wanted.hash, wanted.key.clone(), value.clone());
                leader.loaded(&value);
                Ok(value)
            }
            Err(error) => {
                leader.failed();
                Err(LoadError::Failed(error))
            }
        }
    }
}

impl<K, V> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("shards", &self.inner.shards.len())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
