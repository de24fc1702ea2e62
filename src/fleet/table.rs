//! The tasks that have not ended, by id.
//!
//! The fleet gives its ids one after the other, and most tasks end in about the order in which they came: so
//! those that came last stand in a ring, where an id is a place. Rules that hold here:
//!
//! 1. The entry of place `n` in the ring is that of the id `base + n`.
//! 2. An id that the ring has no place for is among the others: one of the caller's own that is far off, and
//!    that of a task which outlives most that came after it. An id is in one of the two.
//! 3. The ring is long if it has more than [`SLACK`] places beside two for each entry in it. No entry makes it
//!    so. Whoever takes an entry out of the table takes places off the front of the ring that are vacant, or,
//!    of one that is long, not vacant: so many at a time that no one step is long, and that the ring has at
//!    most [`SLACK`] places beside four for each entry of the table, which takes no more room than those pay for.

use std::collections::{HashMap, VecDeque};

use super::id::TaskId;

/// How many vacant places the ring may have whatever it holds.
const SLACK: usize = 64;
/// How many places go off the front of the ring at a time.
const PLACES: usize = 64;
/// How many of them may have entries, which go to the others.
const SPILLED: usize = 4;

/// See the file's head.
#[derive(Debug)]
pub(super) struct Table<V> {
    base: u64,
    ring: VecDeque<Option<V>>,
    /// How many places of the ring are not vacant.
    held: usize,
    others: HashMap<TaskId, V>,
}

impl<V> Table<V> {
    pub(super) fn new() -> Self {
        Self { base: 0, ring: VecDeque::new(), held: 0, others: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.held + self.others.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The place of an id in the ring, if there is one.
    #[inline]
    fn place(&self, id: TaskId) -> Option<usize> {
        let place = usize::try_from(id.get().checked_sub(self.base)?).ok()?;
        (place < self.ring.len()).then_some(place)
    }

    #[inline]
    pub(super) fn get(&self, id: &TaskId) -> Option<&V> {
        let in_ring = self.place(*id).and_then(|place| self.ring[place].as_ref());
        in_ring.or_else(|| if self.others.is_empty() { None } else { self.others.get(id) })
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: &TaskId) -> Option<&mut V> {
        match self.place(*id) {
            Some(place) if self.ring[place].is_some() => self.ring[place].as_mut(),
            _ if self.others.is_empty() => None,
            _ => self.others.get_mut(id),
        }
    }

    pub(super) fn contains_key(&self, id: &TaskId) -> bool {
        self.get(id).is_some()
    }

    /// Puts an entry in under an id that has none.
    #[inline]
    pub(super) fn insert(&mut self, id: TaskId, value: V) {
        debug_assert!(!self.contains_key(&id), "rule 2");
        if self.ring.is_empty() {
            self.base = id.get();
        }
        let place = id.get().checked_sub(self.base).and_then(|place| usize::try_from(place).ok());
        let longest = SLACK + 2 * (self.held + 1);
        let Some(place) = place.filter(|place| *place < longest) else {
            self.others.insert(id, value);
            return;
        };
        if place == self.ring.len() {
            self.ring.push_back(Some(value));
        } else {
            while self.ring.len() <= place {
                self.ring.push_back(None);
            }
            self.ring[place] = Some(value);
        }
        self.held += 1;
    }

    #[inline]
    pub(super) fn remove(&mut self, id: &TaskId) -> Option<V> {
        let found = self.place(*id).and_then(|place| self.ring[place].take());
        let found = if found.is_some() {
            self.held -= 1;
            found
        } else if self.others.is_empty() {
            None
        } else {
            self.others.remove(id)
        };
        if found.is_some() {
            self.shorten();
        }
        found
    }

    /// Rule 3.
    fn shorten(&mut self) {
        let mut spilled = 0;
        for _ in 0..PLACES {
            let is_long = self.ring.len() > SLACK + 2 * self.held;
            match self.ring.front() {
                None => return,
                Some(Some(_)) if !is_long || spilled == SPILLED => return,
                Some(_) => {}
            }
            if let Some(Some(old)) = self.ring.pop_front() {
                self.others.insert(TaskId::new(self.base), old);
                self.held -= 1;
                spilled += 1;
            }
            // Past the last id the ring is empty, and its base means nothing.
            self.base = self.base.wrapping_add(1);
        }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = TaskId> {
        let in_ring = self.ring.iter().enumerate().filter(|(_, entry)| entry.is_some());
        let id = |(place, _)| TaskId::new(self.base + place as u64);
        in_ring.map(id).chain(self.others.keys().copied())
    }

    #[cfg(all(test, phalanx_loom))]
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.ring.iter().flatten().chain(self.others.values())
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl<V> Table<V> {
        fn validate(&self) {
            assert_eq!(self.ring.iter().flatten().count(), self.held);
            let vacant = |id: &TaskId| self.place(*id).is_none_or(|at| self.ring[at].is_none());
            assert!(self.others.keys().all(vacant), "rule 2");
            assert!(self.ring.len() <= SLACK + 4 * self.len(), "rule 3");
        }
    }

    #[test]
    fn a_task_that_outlives_those_after_it_does_not_keep_their_places() {
        let mut table = Table::new();
        for id in 1..=100_000_u64 {
            table.insert(TaskId::new(id), id);
            if id > 1 {
                assert_eq!(table.remove(&TaskId::new(id)), Some(id));
            }
            table.validate();
        }
        assert!(table.ring.capacity() <= 4 * SLACK, "{}", table.ring.capacity());
        assert_eq!(table.ids().collect::<Vec<_>>(), [TaskId::new(1)]);
        assert_eq!(table.remove(&TaskId::new(1)), Some(1));
        assert!(table.is_empty());
    }

    #[test]
    fn no_end_of_a_task_moves_many_others_however_long_the_backlog() {
        const BACKLOG: u64 = 40_000;
        let mut table = Table::new();
        for id in 1..=BACKLOG {
            table.insert(TaskId::new(id), id);
        }
        // The last first; what is left of the backlog goes over to the others.
        let (mut longest, mut before) = (0, 0);
        for id in (1..=BACKLOG).rev() {
            let places = table.ring.len();
            assert_eq!(table.remove(&TaskId::new(id)), Some(id));
            assert!(places - table.ring.len() <= PLACES, "places at a time");
            assert!(table.others.len() <= before + SPILLED, "entries at a time");
            before = table.others.len();
            longest = longest.max(before);
            assert!(table.ring.len() <= SLACK + 4 * table.len(), "rule 3");
        }
        assert!(longest > 1_000, "{longest}");
        assert!(table.is_empty() && table.ring.len() <= SLACK, "{}", table.ring.len());
    }

    #[test]
    fn the_last_id_there_is_finds_a_place() {
        let mut table = Table::new();
        for id in [u64::MAX, u64::MAX - 1, 0] {
            table.insert(TaskId::new(id), id);
            assert_eq!(table.get(&TaskId::new(id)), Some(&id));
        }
        table.validate();
        for id in [0, u64::MAX, u64::MAX - 1] {
            assert_eq!(table.remove(&TaskId::new(id)), Some(id));
            table.validate();
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// The id after the greatest so far.
        Next,
        /// An id of the caller's own.
        Own(u64),
        /// The end of one of those there.
        End(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Next),
            1 => (0_u64..2_000).prop_map(Step::Own),
            4 => any::<prop::sample::Index>().prop_map(Step::End),
        ];
        prop::collection::vec(step, 0..400)
    }

    proptest! {
        #[test]
        fn the_table_is_a_map(steps in steps()) {
            let mut table = Table::new();
            let mut oracle = std::collections::BTreeMap::new();
            let mut greatest = 0;
            for (step, value) in steps.into_iter().zip(0..) {
                match step {
                    Step::Next | Step::Own(_) => {
                        let id = if let Step::Own(id) = step { id } else { greatest + 1 };
                        if oracle.contains_key(&TaskId::new(id)) {
                            continue;
                        }
                        greatest = greatest.max(id);
                        table.insert(TaskId::new(id), value);
                        oracle.insert(TaskId::new(id), value);
                    }
                    Step::End(index) if !oracle.is_empty() => {
                        let id = *index.get(&oracle.keys().copied().collect::<Vec<_>>());
                        prop_assert_eq!(table.remove(&id), oracle.remove(&id));
                        prop_assert_eq!(table.remove(&id), None);
                    }
                    Step::End(_) => {}
                }
                table.validate();
                prop_assert_eq!(table.len(), oracle.len());
                let mut ids: Vec<_> = table.ids().collect();
                ids.sort_unstable();
                prop_assert!(ids.iter().eq(oracle.keys()));
                for (id, value) in &mut oracle {
                    prop_assert_eq!(table.get(id), Some(&*value));
                    prop_assert_eq!(table.get_mut(id), Some(value));
                }
            }
        }
    }
}
