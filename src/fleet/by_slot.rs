//! What is known of some of the agents, found by their slots without a hash.
//!
//! It is plain data. Rules that hold between any two calls:
//!
//! 1. Of the agents that had one slot after the other, one at most is in it: whoever ends is taken out before the next
//!    one has the slot.
//! 2. A chunk of it is there exactly while an agent of its slots is in it; so it is no larger than those pay for who are,
//!    but for a word a chunk up to the greatest slot that ever was.

use super::id::AgentId;

/// How many slots have their memory together.
const CHUNK: usize = 64;

/// See the file's head.
#[derive(Debug)]
pub(super) struct BySlot<V> {
    chunks: Vec<Option<Box<Chunk<V>>>>,
    len: usize,
}

#[derive(Debug)]
struct Chunk<V> {
    held: usize,
    /// With the generation whose it is.
    rows: [Option<(u32, V)>; CHUNK],
}

impl<V> Default for BySlot<V> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

/// The chunk of a slot, and the place in it.
#[inline]
const fn locate(agent: AgentId) -> (usize, usize) {
    let slot = agent.slot as usize;
    (slot / CHUNK, slot % CHUNK)
}

impl<V> BySlot<V> {
    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub(super) fn get(&self, agent: AgentId) -> Option<&V> {
        let (chunk, place) = locate(agent);
        let (generation, value) = self.chunks.get(chunk)?.as_ref()?.rows[place].as_ref()?;
        (*generation == agent.generation).then_some(value)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, agent: AgentId) -> Option<&mut V> {
        let (chunk, place) = locate(agent);
        let (generation, value) = self.chunks.get_mut(chunk)?.as_mut()?.rows[place].as_mut()?;
        (*generation == agent.generation).then_some(value)
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn contains(&self, agent: AgentId) -> bool {
        self.get(agent).is_some()
    }

    /// What is known of an agent, which is this from now on if nothing was.
    pub(super) fn get_or_insert(&mut self, agent: AgentId, value: V) -> &mut V {
        self.get_or_insert_with(agent, || value)
    }

    /// The same, with what is made for it. O(1), but for the growth.
    #[inline]
    pub(super) fn get_or_insert_with(
        &mut self,
        agent: AgentId,
        make: impl FnOnce() -> V,
    ) -> &mut V {
        let (chunk, place) = locate(agent);
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let chunk = self.chunks[chunk]
            .get_or_insert_with(|| Box::new(Chunk { held: 0, rows: [const { None }; CHUNK] }));
        let row = &mut chunk.rows[place];
        if row.is_none() {
            chunk.held += 1;
            self.len += 1;
        }
        let (generation, value) = row.get_or_insert_with(|| (agent.generation, make()));
        debug_assert_eq!(*generation, agent.generation, "rule 1");
        value
    }

    pub(super) fn insert(&mut self, agent: AgentId, value: V)
    where
        V: Copy,
    {
        *self.get_or_insert(agent, value) = value;
    }

    #[inline]
    pub(super) fn remove(&mut self, agent: AgentId) -> Option<V> {
        let (at, place) = locate(agent);
        let chunk = self.chunks.get_mut(at)?.as_mut()?;
        let row = &mut chunk.rows[place];
        let (_, value) = row.take_if(|(generation, _)| *generation == agent.generation)?;
        chunk.held -= 1;
        self.len -= 1;
        if chunk.held == 0 {
            // Rule 2.
            self.chunks[at] = None;
        }
        Some(value)
    }

    /// The agents in it, in the order of their slots.
    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn agents(&self) -> impl Iterator<Item = AgentId> {
        let rows = |(at, chunk): (usize, &Option<Box<Chunk<V>>>)| {
            let rows = chunk.iter().flat_map(|chunk| chunk.rows.iter().enumerate());
            let agent = |(place, row): (usize, &Option<(u32, V)>)| {
                let slot = u32::try_from(at * CHUNK + place).expect("it was an agent's");
                row.as_ref().map(|(generation, _)| AgentId { slot, generation: *generation })
            };
            rows.filter_map(agent).collect::<Vec<_>>()
        };
        self.chunks.iter().enumerate().flat_map(rows)
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    fn chunks(&self) -> usize {
        self.chunks.iter().flatten().count()
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn agent(slot: u32, generation: u32) -> AgentId {
        AgentId { slot, generation }
    }

    proptest! {
        #[test]
        fn it_knows_what_a_map_knows_and_keeps_no_chunk_that_nobody_is_in(
            steps in prop::collection::vec((0..4_u8, 0..300_u32, any::<bool>()), 1..200)
        ) {
            // The present agent of each slot.
            let mut generations = BTreeMap::<u32, u32>::new();
            let (mut map, mut known) = (BTreeMap::new(), BySlot::default());
            for (number, (step, slot, present)) in (0_u32..).zip(steps) {
                let generation = generations.entry(slot).or_default();
                let named = agent(slot, if present { *generation } else { *generation + 1 });
                match step {
                    0 if present => {
                        prop_assert_eq!(known.get_or_insert(named, number), map.entry(named).or_insert(number));
                    }
                    1 if present => {
                        known.insert(named, number);
                        map.insert(named, number);
                    }
                    2 => prop_assert_eq!(known.remove(named), map.remove(&named)),
                    _ => {
                        // It ends.
                        let ended = agent(slot, *generation);
                        prop_assert_eq!(known.remove(ended), map.remove(&ended));
                        *generation += 1;
                    }
                }
                prop_assert_eq!(known.get(named), map.get(&named));
                prop_assert_eq!(known.get_mut(named), map.get_mut(&named));
                prop_assert_eq!(known.contains(named), map.contains_key(&named));
                prop_assert!(known.agents().eq(map.keys().copied()));
                prop_assert_eq!((known.is_empty(), known.len), (map.is_empty(), map.len()));
                let mut chunks: Vec<_> = map.keys().map(|agent| agent.slot as usize / CHUNK).collect();
                chunks.dedup();
                prop_assert_eq!(known.chunks(), chunks.len(), "rule 2");
            }
        }
    }

    #[test]
    fn a_row_of_a_small_value_takes_a_word() {
        use crate::fleet::agent::Condition;
        assert_eq!(size_of::<Option<(u32, Condition)>>(), 8);
    }
}
