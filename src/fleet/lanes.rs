//! A queue by priority, then first come first served, split by what its entries ask for.
//!
//! Entries that ask for the same capabilities share a lane, so that the first entry that something
//! can serve is found by looking at the head of each lane, not at each entry. Rules that hold here:
//!
//! 1. No lane is empty.
//! 2. A place is used once: no two entries are equal in both rank and sequence.
//! 3. In a lane, the line is in the order of places and neither begins nor ends with a vacant one; no more than
//!    half of it is vacant. What comes in its order goes there, and what comes out of it among the rest.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use super::id::GroupKey;
use super::request::Priority;

/// A set of capabilities, one bit each.
pub(super) type Mask = u128;

/// What the entries of a lane ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sort {
    pub(super) mask: Mask,
    /// Whose budget pays for them, where there are budgets: one group without room holds up no other.
    pub(super) group: Option<GroupKey>,
}

impl From<Mask> for Sort {
    fn from(mask: Mask) -> Self {
        Self { mask, group: None }
    }
}

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

    /// Whether it is before any that comes later with this priority.
    pub(super) fn is_before_later(self, priority: Priority) -> bool {
        self.rank <= Reverse(priority)
    }
}

/// The entries that ask for the same.
#[derive(Debug)]
struct Lane<V> {
    line: VecDeque<(Place, Option<V>)>,
    vacant: usize,
    rest: BTreeMap<Place, V>,
}

impl<V> Lane<V> {
    const fn new(line: VecDeque<(Place, Option<V>)>) -> Self {
        Self { line, vacant: 0, rest: BTreeMap::new() }
    }

    fn len(&self) -> usize {
        self.line.len() - self.vacant + self.rest.len()
    }

    fn is_empty(&self) -> bool {
        self.line.is_empty() && self.rest.is_empty()
    }

    #[inline]
    fn first(&self) -> Option<Place> {
        let line = self.line.front().map(|(place, _)| *place);
        let rest = self.rest.first_key_value().map(|(place, _)| *place);
        match (line, rest) {
            (Some(line), Some(rest)) => Some(line.min(rest)),
            (line, rest) => line.or(rest),
        }
    }

    #[inline]
    fn insert(&mut self, place: Place, value: V) {
        if self.line.back().is_none_or(|(last, _)| *last < place) {
            self.line.push_back((place, Some(value)));
        } else {
            let old = self.rest.insert(place, value);
            debug_assert!(old.is_none(), "rule 2");
        }
    }

    #[inline]
    fn remove(&mut self, place: Place) -> Option<V> {
        let at = match self.line.front() {
            // As most go, from a line that has no vacant places.
            Some((first, _)) if *first == place && self.vacant == 0 => {
                return self.line.pop_front()?.1;
            }
            Some((first, _)) if *first == place => Ok(0),
            _ => self.line.binary_search_by_key(&place, |(place, _)| *place),
        };
        // Who comes back finds its old place vacant, or gone, and is among the rest.
        let value = at.ok().and_then(|at| self.line[at].1.take());
        let Some(value) = value else { return self.rest.remove(&place) };
        self.vacant += 1;
        // Rule 3.
        while self.line.front().is_some_and(|(_, value)| value.is_none()) {
            self.line.pop_front();
            self.vacant -= 1;
        }
        while self.line.back().is_some_and(|(_, value)| value.is_none()) {
            self.line.pop_back();
            self.vacant -= 1;
        }
        if self.vacant > self.line.len() / 2 {
            self.line.retain(|(_, value)| value.is_some());
            self.vacant = 0;
        }
        Some(value)
    }

    /// All there are, in their order.
    fn into_entries(self) -> Vec<(Place, V)> {
        let line = self.line.into_iter().filter_map(|(place, value)| Some((place, value?)));
        let mut entries: Vec<_> = line.chain(self.rest).collect();
        entries.sort_unstable_by_key(|(place, _)| *place);
        entries
    }
}

/// A line with more room than this is not kept for the next lane.
const KEPT_ROOM: usize = 1024;

/// See the file's head.
#[derive(Debug)]
pub(super) struct Lanes<V> {
    lanes: BTreeMap<Sort, Lane<V>>,
    len: usize,
    /// The room of a lane that became empty, for the next.
    spare: VecDeque<(Place, Option<V>)>,
}

impl<V> Lanes<V> {
    pub(super) const fn new() -> Self {
        Self { lanes: BTreeMap::new(), len: 0, spare: VecDeque::new() }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// How many lanes there are.
    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// The place of the first entry of all.
    pub(super) fn head(&self) -> Option<Place> {
        self.lanes.values().filter_map(Lane::first).min()
    }

    /// What the lanes have in common, each once.
    pub(super) fn sorts(&self) -> impl Iterator<Item = Sort> {
        self.lanes.keys().copied()
    }

    pub(super) fn insert(&mut self, sort: Sort, place: Place, value: V) {
        self.extend(sort, std::iter::once((place, value)));
    }

    /// Inserts some that ask for the same.
    pub(super) fn extend(
        &mut self,
        sort: Sort,
        entries: impl ExactSizeIterator<Item = (Place, V)>,
    ) {
        // Rule 1.
        if entries.len() == 0 {
            return;
        }
        self.len += entries.len();
        let spare = &mut self.spare;
        let lane = self.lanes.entry(sort).or_insert_with(|| Lane::new(std::mem::take(spare)));
        for (place, value) in entries {
            lane.insert(place, value);
        }
    }

    pub(super) fn remove(&mut self, sort: Sort, place: Place) -> Option<V> {
        let lane = self.lanes.get_mut(&sort)?;
        let value = lane.remove(place)?;
        if lane.is_empty()
            && let Some(lane) = self.lanes.remove(&sort)
        {
            self.keep(lane);
        }
        self.len -= 1;
        Some(value)
    }

    /// The first entry in whose lane `take` finds something, and what it found. The lanes are asked in
    /// the order of their first entries. O(lanes), and O(lanes * log(lanes)) if the first has nothing.
    pub(super) fn first<F>(
        &self,
        mut take: impl FnMut(Sort) -> Option<F>,
    ) -> Option<(Sort, Place, F)> {
        if self.lanes.len() == 1 {
            let (sort, lane) = self.lanes.first_key_value()?;
            let place = lane.first()?;
            return take(*sort).map(|found| (*sort, place, found));
        }
        let heads = || self.lanes.iter().filter_map(|(sort, lane)| Some((lane.first()?, *sort)));
        // Nearly always the first lane has something; where it has not, the others are put in order.
        let (first, sort) = heads().min()?;
        if let Some(found) = take(sort) {
            return Some((sort, first, found));
        }
        let mut rest: Vec<_> = heads().filter(|(place, _)| *place != first).collect();
        rest.sort_unstable();
        rest.into_iter().find_map(|(place, sort)| Some((sort, place, take(sort)?)))
    }

    /// As [`first`](Self::first), and takes that entry out.
    #[inline]
    pub(super) fn take_first<F>(
        &mut self,
        mut take: impl FnMut(Sort) -> Option<F>,
    ) -> Option<(V, F)> {
        if self.lanes.len() == 1 {
            let mut only = self.lanes.first_entry()?;
            let found = take(*only.key())?;
            let lane = only.get_mut();
            let value = lane.first().and_then(|place| lane.remove(place)).expect("rule 1");
            self.len -= 1;
            if lane.is_empty() {
                let lane = only.remove();
                self.keep(lane);
            }
            return Some((value, found));
        }
        let (sort, place, found) = self.first(take)?;
        Some((self.remove(sort, place).expect("it was just found"), found))
    }

    /// Keeps the room of a lane that has become empty.
    fn keep(&mut self, lane: Lane<V>) {
        if lane.line.capacity() <= KEPT_ROOM {
            self.spare = lane.line;
        }
    }

    /// How many entries something with these capabilities can serve.
    pub(super) fn fitting(&self, have: Mask) -> usize {
        let fits = |(sort, _): &(&Sort, _)| have & sort.mask == sort.mask;
        self.lanes.iter().filter(fits).map(|(_, lane)| lane.len()).sum()
    }

    /// As [`fitting`](Self::fitting), by whose budget pays.
    pub(super) fn count_fitting(&self, have: Mask, counts: &mut BTreeMap<Option<GroupKey>, u64>) {
        for (sort, lane) in &self.lanes {
            if have & sort.mask == sort.mask {
                *counts.entry(sort.group).or_default() += lane.len() as u64;
            }
        }
    }

    /// Takes out every entry whose lane `fits`.
    pub(super) fn take(&mut self, mut fits: impl FnMut(Sort) -> bool) -> Vec<(Sort, Place, V)> {
        let mut taken = Vec::new();
        self.lanes.retain(|sort, lane| {
            if !fits(*sort) {
                return true;
            }
            let lane = std::mem::replace(lane, Lane::new(VecDeque::new()));
            taken.extend(lane.into_entries().into_iter().map(|(place, v)| (*sort, place, v)));
            false
        });
        self.len -= taken.len();
        taken
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use std::collections::btree_map::Entry;

    use super::*;
    use proptest::prelude::*;

    impl<V> Lanes<V> {
        fn validate(&self) {
            assert_eq!(self.lanes.values().map(Lane::len).sum::<usize>(), self.len);
            for lane in self.lanes.values() {
                assert!(!lane.is_empty(), "rule 1");
                assert!(lane.line.iter().is_sorted_by(|(a, _), (b, _)| a < b), "rule 3");
                let ends = [lane.line.front(), lane.line.back()];
                assert!(ends.into_iter().flatten().all(|(_, value)| value.is_some()), "rule 3");
                let vacant = lane.line.iter().filter(|(_, value)| value.is_none()).count();
                assert_eq!(vacant, lane.vacant);
                assert!(vacant <= lane.line.len() / 2, "rule 3");
            }
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert(u8, u8),
        /// One that was there before, at its place.
        Again(prop::sample::Index),
        /// The first that a lane of this set has.
        First(u8),
        Remove(prop::sample::Index),
    }

    /// The third differs from the first in its group alone.
    fn sort(number: u8) -> Sort {
        let group = (number > 1).then_some(GroupKey::new(7));
        Sort { mask: Mask::from(number % 2), group }
    }

    fn number(sort: Sort) -> u8 {
        sort.mask as u8 + if sort.group.is_some() { 2 } else { 0 }
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_u8..3, 0_u8..3).prop_map(|(mask, rank)| Step::Insert(mask, rank)),
            1 => any::<prop::sample::Index>().prop_map(Step::Again),
            2 => (0_u8..8).prop_map(Step::First),
            2 => any::<prop::sample::Index>().prop_map(Step::Remove),
        ];
        prop::collection::vec(step, 0..300)
    }

    fn place(sequence: u64) -> Place {
        Place::new(Priority::NORMAL, sequence)
    }

    #[test]
    fn a_place_is_before_what_comes_later_with_no_higher_priority() {
        assert!(place(5).is_before_later(Priority::LOW));
        assert!(place(5).is_before_later(Priority::NORMAL));
        assert!(!place(5).is_before_later(Priority::HIGH));
    }

    #[test]
    fn a_line_closes_up_once_more_than_half_of_its_places_are_vacant() {
        let mut lanes = Lanes::new();
        (0..10).for_each(|number| lanes.insert(sort(0), place(number), number));
        for (number, places, vacant) in
            [(1, 10, 1), (2, 10, 2), (3, 10, 3), (4, 10, 4), (5, 10, 5), (6, 4, 0)]
        {
            assert_eq!(lanes.remove(sort(0), place(number)), Some(number));
            let lane = &lanes.lanes[&sort(0)];
            assert_eq!((lane.line.len(), lane.vacant), (places, vacant), "{number} has gone");
        }
    }

    #[test]
    fn the_room_of_a_lane_that_became_empty_is_kept_unless_it_is_large() {
        let mut lanes = Lanes::new();
        let mut pass = |count: u64| {
            (0..count).for_each(|number| lanes.insert(sort(0), place(number), number));
            let room = lanes.lanes[&sort(0)].line.capacity();
            (0..count).for_each(|_| assert!(lanes.take_first(|_| Some(())).is_some()));
            (room, lanes.spare.capacity())
        };
        let (room, kept) = pass(KEPT_ROOM as u64);
        assert_eq!((room, kept), (KEPT_ROOM, KEPT_ROOM));
        let (room, kept) = pass(KEPT_ROOM as u64 + 1);
        assert!(room > KEPT_ROOM);
        assert_eq!(kept, 0, "it was used, and has grown too large");
    }

    proptest! {
        #[test]
        fn the_lanes_are_one_order_split_by_what_is_asked_for(steps in steps()) {
            let mut lanes = Lanes::new();
            // All there were, and those that are there.
            let (mut ever, mut oracle) = (Vec::new(), BTreeMap::new());
            for (step, sequence) in steps.into_iter().zip(0..) {
                match step {
                    Step::Insert(mask, rank) => {
                        let rank = [Priority::LOW, Priority::NORMAL, Priority::HIGH][rank as usize];
                        let (mask, place) = (sort(mask), Place::new(rank, sequence));
                        lanes.insert(mask, place, sequence);
                        oracle.insert(place, (mask, sequence));
                        ever.push((mask, place, sequence));
                    }
                    Step::Again(index) if !ever.is_empty() => {
                        let (mask, place, value) = *index.get(&ever);
                        if let Entry::Vacant(vacant) = oracle.entry(place) {
                            lanes.insert(mask, place, value);
                            vacant.insert((mask, value));
                        }
                    }
                    Step::First(served) => {
                        let is_served = |sort: Sort| served >> number(sort) & 1 == 1;
                        let found = lanes.first(|sort| is_served(sort).then_some(()));
                        let mut fit = oracle.iter().filter(|(_, (sort, _))| is_served(*sort));
                        let expected = fit.next().map(|(place, (mask, _))| (*mask, *place, ()));
                        prop_assert_eq!(found, expected);
                        let value = found.and_then(|(_, place, ())| oracle.remove(&place));
                        let taken = lanes.take_first(|sort| is_served(sort).then_some(()));
                        prop_assert_eq!(taken, value.map(|(_, value)| (value, ())));
                    }
                    Step::Remove(index) if !ever.is_empty() => {
                        let (mask, place, _) = *index.get(&ever);
                        let expected = oracle.remove(&place).map(|(_, value)| value);
                        prop_assert_eq!(lanes.remove(mask, place), expected);
                    }
                    Step::Again(_) | Step::Remove(_) => {}
                }
                lanes.validate();
                prop_assert_eq!(lanes.len(), oracle.len());
                prop_assert_eq!(lanes.head(), oracle.keys().next().copied());
            }
            let odd = |sort: Sort| sort.mask % 2 == 1;
            let fitting = oracle.values().filter(|(sort, _)| sort.mask & 2 == sort.mask).count();
            prop_assert_eq!(lanes.fitting(2), fitting);
            let mut counts = BTreeMap::new();
            lanes.count_fitting(2, &mut counts);
            prop_assert_eq!(counts.values().sum::<u64>(), fitting as u64);
            let in_group = oracle.values().filter(|(sort, _)| 2 & sort.mask == sort.mask && sort.group.is_some());
            let counted = counts.get(&Some(GroupKey::new(7))).copied().unwrap_or(0);
            prop_assert_eq!(counted, in_group.count() as u64);
            let mut taken = lanes.take(odd);
            lanes.validate();
            taken.sort_unstable_by_key(|(_, place, _)| *place);
            let expected: Vec<_> = oracle
                .iter()
                .filter(|(_, (mask, _))| odd(*mask))
                .map(|(place, (mask, value))| (*mask, *place, *value))
                .collect();
            prop_assert_eq!(taken, expected);
        }
    }
}
