//! One shard: an exact LRU order over its part of the keys, and its counters.
//!
//! Rules that hold here:
//!
//! 1. A key is hashed once, outside the lock, and the hash is kept beside it: neither eviction nor the
//!    growth of the table calls the key's `Hash`.
//! 2. Inside the lock the only code of the caller that runs is the key's `Eq`, in a lookup that has
//!    changed nothing yet. A panic there leaves the shard as it was.
//! 3. A stored [`Slot`] equals only itself (by address), so that the table's own comparisons while it
//!    inserts or evicts never call the key's `Eq`. This is sound because [`Shard::insert`] looks the
//!    key up first: no two slots of a shard hold equal keys.
//! 4. Keys and values that leave go into [`Departed`] and are dropped by whoever holds that, after the
//!    lock was released.
//! 5. `weight` is the sum of the weights of the entries.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, Hasher};

use lru::LruCache;

use super::ledger::{Claim, Room};

/// A key with its hash.
pub(super) struct Slot<K> {
    hash: u64,
    key: K,
}

impl<K> Hash for Slot<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl<K> PartialEq for Slot<K> {
    /// Rule 3.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl<K> Eq for Slot<K> {}

/// What a lookup compares by: a stored slot or a [`Wanted`] key.
pub(super) trait Lookup<Q: ?Sized> {
    fn hash(&self) -> u64;
    fn key(&self) -> &Q;
}

/// A borrowed key with its hash.
pub(super) struct Wanted<'a, Q: ?Sized> {
    pub(super) hash: u64,
    pub(super) key: &'a Q,
}

impl<K: Borrow<Q>, Q: ?Sized> Lookup<Q> for Slot<K> {
    #[inline]
    fn hash(&self) -> u64 {
        self.hash
    }
    #[inline]
    fn key(&self) -> &Q {
        self.key.borrow()
    }
}

impl<Q: ?Sized> Lookup<Q> for Wanted<'_, Q> {
    #[inline]
    fn hash(&self) -> u64 {
        self.hash
    }
    #[inline]
    fn key(&self) -> &Q {
        self.key
    }
}

impl<'a, K: Borrow<Q> + 'a, Q: ?Sized + 'a> Borrow<dyn Lookup<Q> + 'a> for Slot<K> {
    #[inline]
    fn borrow(&self) -> &(dyn Lookup<Q> + 'a) {
        self
    }
}

impl<Q: ?Sized> Hash for dyn Lookup<Q> + '_ {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(Lookup::hash(self));
    }
}

impl<Q: Eq + ?Sized> PartialEq for dyn Lookup<Q> + '_ {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        Lookup::hash(self) == Lookup::hash(other) && self.key() == other.key()
    }
}

impl<Q: Eq + ?Sized> Eq for dyn Lookup<Q> + '_ {}

/// Passes on the hash that is kept with the key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeptHash(u64);

impl BuildHasher for KeptHash {
    type Hasher = Self;
    #[inline]
    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl Hasher for KeptHash {
    #[inline]
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

/// A value with the weight it was admitted at.
pub(super) struct Held<V> {
    pub(super) value: V,
    weight: u64,
}

impl<V> Held<V> {
    fn room(&self) -> Room {
        Room { weight: self.weight, entries: 1 }
    }
}

/// What left the cache and is still to be dropped, outside every lock (rule 4).
pub(super) struct Departed<K, V> {
    // The common insert evicts one entry: it should not pay for a vector.
    first: Option<(Slot<K>, Held<V>)>,
    rest: Vec<(Slot<K>, Held<V>)>,
}

impl<K, V> Departed<K, V> {
    pub(super) fn new() -> Self {
        Self { first: None, rest: Vec::new() }
    }

    fn push(&mut self, slot: Slot<K>, held: Held<V>) {
        if self.first.is_none() {
            self.first = Some((slot, held));
        } else {
            self.rest.push((slot, held));
        }
    }
}

/// What a shard counts, under its lock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) inserted: u64,
    pub(super) replaced: u64,
    pub(super) evicted_for_weight: u64,
    pub(super) evicted_for_entries: u64,
    pub(super) removed: u64,
}

/// An entry on its way in.
pub(super) struct Newcomer<K, V> {
    pub(super) slot: Slot<K>,
    pub(super) held: Held<V>,
}

impl<K, V> Newcomer<K, V> {
    pub(super) fn new(hash: u64, key: K, value: V, weight: u64) -> Self {
        Self { slot: Slot { hash, key }, held: Held { value, weight } }
    }
}

/// One shard; its owner puts it behind a lock.
pub(super) struct Shard<K, V> {
    lru: LruCache<Slot<K>, Held<V>, KeptHash>,
    weight: u64,
    pub(super) counts: Counts,
}

impl<K, V> Shard<K, V> {
    pub(super) fn new() -> Self {
        Self {
            lru: LruCache::unbounded_with_hasher(KeptHash::default()),
            weight: 0,
            counts: Counts::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lru.len()
    }

    /// What a test compares with its model: key, value and weight, the youngest first.
    #[cfg(test)]
    pub(super) fn entries(&self) -> impl Iterator<Item = (&K, &V, u64)> {
        self.lru.iter().map(|(slot, held)| (&slot.key, &held.value, held.weight))
    }

    /// Rule 5, and that the table and the list hold the same.
    #[cfg(test)]
    pub(super) fn validate(&self) {
        assert_eq!(self.weight, self.entries().map(|(_, _, weight)| weight).sum::<u64>());
        assert_eq!(self.lru.len(), self.entries().count());
        assert!(self.entries().all(|(_, _, weight)| weight > 0));
    }

    /// Looks a key up, moves it to the young end, and counts a hit or a miss.
    #[inline]
    pub(super) fn get<Q>(&mut self, wanted: &Wanted<'_, Q>) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        match self.lru.get(wanted as &dyn Lookup<Q>) {
            Some(held) => {
                self.counts.hits += 1;
                Some(&held.value)
            }
            None => {
                self.counts.misses += 1;
                None
            }
        }
    }

    /// Looks a key up and changes nothing.
    pub(super) fn peek<Q>(&self, wanted: &Wanted<'_, Q>) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        self.lru.peek(wanted as &dyn Lookup<Q>).map(|held| &held.value)
    }

    /// Takes an entry out. Its room is to be released by the caller.
    pub(super) fn remove<Q>(&mut self, wanted: &Wanted<'_, Q>) -> Option<(Slot<K>, V, Room)>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let (slot, held) = self.lru.pop_entry(wanted as &dyn Lookup<Q>)?;
        self.weight -= held.weight;
        self.counts.removed += 1;
        let room = held.room();
        Some((slot, held.value, room))
    }

    /// Takes every entry out; the entries, and the room to be released.
    pub(super) fn clear(&mut self) -> (Self, Room) {
        let removed = self.lru.len() as u64;
        let mut empty = Self::new();
        empty.counts = self.counts;
        empty.counts.removed += removed;
        let room = Room { weight: self.weight, entries: removed };
        (std::mem::replace(self, empty), room)
    }

    /// Puts the newcomer in, evicting from the old end of this shard while there is not enough room.
    ///
    /// `Err` says how much room it takes when this shard has nothing more to give: the claim then holds
    /// all that was freed so far, and the newcomer stays where it was. It is borrowed, so that a panic
    /// of `Eq` does not drop it in here (rule 4).
    pub(super) fn insert(
        &mut self,
        newcomer: &mut Option<Newcomer<K, V>>,
        claim: &mut Claim<'_>,
        departed: &mut Departed<K, V>,
    ) -> Result<(), Room>
    where
        K: Eq,
    {
        loop {
            let Some(Newcomer { slot, held: new }) = newcomer.as_ref() else { return Ok(()) };
            let wanted = Wanted { hash: slot.hash, key: &slot.key };
            if let Some(held) = self.lru.get_mut(&wanted as &dyn Lookup<K>) {
                let (old, new) = (held.weight, new.weight);
                let need = Room { weight: new.saturating_sub(old), entries: 0 };
                if claim.cover(need) {
                    let Some(newcomer) = newcomer.take() else { return Ok(()) };
                    claim.spend(need);
                    claim.absorb(Room { weight: old.saturating_sub(new), entries: 0 });
                    self.weight = self.weight - old + new;
                    self.counts.replaced += 1;
                    let replaced = std::mem::replace(held, newcomer.held);
                    departed.push(newcomer.slot, replaced);
                    claim.give_back();
                    return Ok(());
                }
                // What is to be replaced is the youngest by now: all but the last may be evicted for it.
                while !claim.cover(need) {
                    if self.lru.len() == 1 || !self.evict_oldest(claim, need, departed) {
                        return Err(need);
                    }
                }
            } else {
                let need = new.room();
                while !claim.cover(need) {
                    if !self.evict_oldest(claim, need, departed) {
                        return Err(need);
                    }
                }
                let Some(newcomer) = newcomer.take() else { return Ok(()) };
                claim.spend(need);
                self.weight += need.weight;
                self.counts.inserted += 1;
                self.lru.put(newcomer.slot, newcomer.held);
                // Under the lock, so that the next insert here does not evict for what is about to be free.
                claim.give_back();
                return Ok(());
            }
        }
    }

    /// Evicts the least recently used entry into the claim; whether there was one.
    pub(super) fn evict_oldest(
        &mut self,
        claim: &mut Claim<'_>,
        need: Room,
        departed: &mut Departed<K, V>,
    ) -> bool {
        let Some((slot, held)) = self.lru.pop_lru() else { return false };
        if claim.lacks_weight(need) {
            self.counts.evicted_for_weight += 1;
        } else {
            self.counts.evicted_for_entries += 1;
        }
        self.weight -= held.weight;
        claim.absorb(held.room());
        departed.push(slot, held);
        true
    }
}

impl<K, V> Drop for Shard<K, V> {
    /// Drops every entry even when the `Drop` of one panics, as a vector does and the table does not.
    fn drop(&mut self) {
        let mut all = Vec::with_capacity(self.lru.len());
        while let Some(entry) = self.lru.pop_lru() {
            all.push(entry);
        }
    }
}
