//! The one count that every shard's weight and entries are reserved on.
//!
//! Rules that hold here:
//!
//! 1. `reserved == (what the shards hold) + (what live claims hold)`, and `reserved <= limit`, at every
//!    instant and in both units. The count is raised before an entry goes in, never after.
//! 2. A [`Claim`] gives back what it still holds when it is dropped, by a panic as well.
//! 3. What an insert evicts goes into its own claim, not back to the count: no other insert can take
//!    the room away before it is used, so every eviction is progress.

use std::fmt;

use crossbeam::utils::CachePadded;

use crate::sync::atomic::{AtomicU64, Ordering};

/// An amount in both units of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) weight: u64,
    pub(super) entries: u64,
}

/// The limits and what is reserved of them.
pub(super) struct Ledger {
    reserved: CachePadded<Reserved>,
    limit: Room,
}

struct Reserved {
    weight: AtomicU64,
    entries: AtomicU64,
}

impl Ledger {
    pub(super) fn new(limit: Room) -> Self {
        let reserved = Reserved { weight: AtomicU64::new(0), entries: AtomicU64::new(0) };
        Self { reserved: CachePadded::new(reserved), limit }
    }

    pub(super) fn limit(&self) -> Room {
        self.limit
    }

    /// What is reserved now. The two units are read one after the other.
    pub(super) fn reserved(&self) -> Room {
        // The shards' locks order the entries themselves; these are counts and nothing is read through them.
        Room {
            weight: self.reserved.weight.load(Ordering::Relaxed),
            entries: self.reserved.entries.load(Ordering::Relaxed),
        }
    }

    /// Gives back room that left the shards with no claim to go into.
    pub(super) fn release(&self, room: Room) {
        if room.weight > 0 {
            self.reserved.weight.fetch_sub(room.weight, Ordering::Relaxed);
        }
        if room.entries > 0 {
            self.reserved.entries.fetch_sub(room.entries, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("reserved", &self.reserved())
            .field("limit", &self.limit)
            .finish()
    }
}

/// Raises `count` by `by` if that stays within `limit`; all or nothing.
fn raise(count: &AtomicU64, by: u64, limit: u64) -> bool {
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            now.checked_add(by).filter(|sum| *sum <= limit)
        })
        .is_ok()
}

/// Room reserved for one insert that is under way.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    ledger: &'a Ledger,
    held: Room,
}

impl<'a> Claim<'a> {
    pub(super) fn new(ledger: &'a Ledger) -> Self {
        Self { ledger, held: Room::default() }
    }

    /// Takes over the room of an entry that was just removed from its shard.
    pub(super) fn absorb(&mut self, room: Room) {
        self.held.weight += room.weight;
        self.held.entries += room.entries;
    }

    /// Reserves what is missing to `need`; whether the claim covers it now.
    pub(super) fn cover(&mut self, need: Room) -> bool {
        let reserved = &self.ledger.reserved;
        let missing = need.weight.saturating_sub(self.held.weight);
        if missing > 0 {
            if !raise(&reserved.weight, missing, self.ledger.limit.weight) {
                return false;
            }
            self.held.weight += missing;
        }
        let missing = need.entries.saturating_sub(self.held.entries);
        if missing > 0 {
            if !raise(&reserved.entries, missing, self.ledger.limit.entries) {
                return false;
            }
            self.held.entries += missing;
        }
        true
    }

    /// Whether it is weight, rather than the number of entries, that the claim lacks.
    pub(super) fn lacks_weight(&self, need: Room) -> bool {
        self.held.weight < need.weight
    }

    /// Hands `room` over to a shard: from here on the entry there accounts for it.
    pub(super) fn spend(&mut self, room: Room) {
        self.held.weight -= room.weight;
        self.held.entries -= room.entries;
    }

    /// Gives everything back.
    pub(super) fn give_back(&mut self) {
        self.ledger.release(std::mem::take(&mut self.held));
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    const LIMIT: Room = Room { weight: 10, entries: 2 };

    #[test]
    fn a_claim_takes_all_it_needs_or_nothing_and_gives_the_rest_back() {
        let ledger = Ledger::new(LIMIT);
        let mut first = Claim::new(&ledger);
        assert!(first.cover(Room { weight: 7, entries: 1 }));
        let mut second = Claim::new(&ledger);
        assert!(!second.cover(Room { weight: 4, entries: 1 }));
        assert!(second.lacks_weight(Room { weight: 4, entries: 1 }));
        assert_eq!(ledger.reserved(), Room { weight: 7, entries: 1 });
        first.spend(Room { weight: 5, entries: 1 });
        drop(first);
        assert_eq!(ledger.reserved(), Room { weight: 5, entries: 1 });
        assert!(second.cover(Room { weight: 4, entries: 1 }));
        drop(second);
        assert_eq!(ledger.reserved(), Room { weight: 5, entries: 1 });
    }

    #[test]
    fn a_count_at_the_end_of_its_range_does_not_wrap() {
        let ledger = Ledger::new(Room { weight: u64::MAX, entries: u64::MAX });
        let mut first = Claim::new(&ledger);
        assert!(first.cover(Room { weight: u64::MAX, entries: 1 }));
        assert!(!Claim::new(&ledger).cover(Room { weight: 1, entries: 1 }));
    }
}
