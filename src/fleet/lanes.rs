//! A queue by priority, then first come first served, split by what its entries ask for.
//!
//! Entries that ask for the same capabilities share a lane, so that the first entry that something
//! can serve is found by looking at the head of each lane, not at each entry. Rules that hold here:
//!
//! 1. No lane is empty.
//! 2. A place is used once: no two entries are equal in both rank and sequence.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::request::Priority;

/// A set of capabilities, one bit each.
pub(super) type Mask = u128;

/// Where an entry stands: before all that are less urgent, and before the equally urgent that came later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    rank: Reverse<Priority>,
    pub(super) sequence: u64,
}

impl Place {
    pub(super) const fn new(priority: Priority, sequence: u64) -> Self {
        Self { rank: Reverse(priority), sequence }
    }
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Lanes<V> {
    lanes: BTreeMap<Mask, BTreeMap<Place, V>>,
    len: usize,
}

impl<V> Lanes<V> {
    pub(super) const fn new() -> Self {
        Self { lanes: BTreeMap::new(), len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, mask: Mask, place: Place, value: V) {
        let old = self.lanes.entry(mask).or_default().insert(place, value);
        debug_assert!(old.is_none(), "rule 2");
        self.len += 1;
    }

    pub(super) fn remove(&mut self, mask: Mask, place: Place) -> Option<V> {
        let lane = self.lanes.get_mut(&mask)?;
        let value = lane.remove(&place)?;
        if lane.is_empty() {
            self.lanes.remove(&mask);
        }
        self.len -= 1;
        Some(value)
    }

    /// The first entry in whose lane `take` finds something, and what it found. The lanes are asked in
    /// the order of their first entries.
    pub(super) fn first<F>(
        &self,
        mut take: impl FnMut(Mask) -> Option<F>,
    ) -> Option<(Mask, Place, F)> {
        let mut asked = None;
        // Nearly always the first lane has something; where it has not, the next is looked for.
        for _ in 0..self.lanes.len() {
            let heads = self.lanes.iter().filter_map(|(mask, lane)| {
                let (place, _) = lane.first_key_value()?;
                Some((*place, *mask))
            });
            let (place, mask) = heads.filter(|(place, _)| Some(*place) > asked).min()?;
            if let Some(found) = take(mask) {
                return Some((mask, place, found));
            }
            asked = Some(place);
        }
        None
    }

    /// How many entries something with these capabilities can serve.
    pub(super) fn fitting(&self, have: Mask) -> usize {
        let fits = |(mask, _): &(&Mask, _)| have & **mask == **mask;
        self.lanes.iter().filter(fits).map(|(_, lane)| lane.len()).sum()
    }

    /// Takes out every entry whose lane `fits`.
    pub(super) fn take(&mut self, mut fits: impl FnMut(Mask) -> bool) -> Vec<(Mask, Place, V)> {
        let mut taken = Vec::new();
        self.lanes.retain(|mask, lane| {
            if !fits(*mask) {
                return true;
            }
            taken.extend(std::mem::take(lane).into_iter().map(|(place, v)| (*mask, place, v)));
            false
        });
        self.len -= taken.len();
        taken
    }
}
