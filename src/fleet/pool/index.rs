//! One order over the agents of one class, the best rank first; among equals who joins comes last, or first.
//!
//! An index is lists through the agents' own slots, one list a rank, so that joining, leaving and finding
//! the best cost a few words each, however many agents there are. Rules that hold between any two calls:
//!
//! 1. An agent is in at most one list of an index, that of the rank it joined with, behind all that were there or
//!    before them, as it joined; `next` and `prev` of neighbours name each other.
//! 2. The set of ranks holds exactly those whose list is not empty, and `best` is the least of them.

use super::bits::Bits;
use super::slot::{Link, NIL, Slot};

/// The rank of an index in which nobody is.
pub(super) const NOBODY: u32 = u32::MAX;

/// Where an agent comes in the list that it joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    First,
    Last,
}

/// One list.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    head: u32,
    tail: u32,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Index {
    best: u32,
    buckets: Vec<Bucket>,
    ranks: Bits,
}

impl Index {
    pub(super) fn new() -> Self {
        Self { best: NOBODY, buckets: Vec::new(), ranks: Bits::default() }
    }

    /// The best rank that somebody has, or [`NOBODY`].
    #[inline(always)]
    pub(super) const fn best(&self) -> u32 {
        self.best
    }

    /// Who is first in the list of the best rank.
    #[inline(always)]
    pub(super) fn first(&self) -> u32 {
        self.buckets.get(self.best as usize).map_or(NIL, |bucket| bucket.head)
    }

    /// The ranks and the agents, the best first.
    pub(super) fn in_order<'a>(
        &'a self,
        slots: &'a [Slot],
        link: usize,
    ) -> impl Iterator<Item = (u32, u32)> + 'a {
        let ranks = std::iter::successors(self.ranks.first(), |rank| self.ranks.next(*rank));
        ranks.flat_map(move |rank| {
            let head = Some(self.buckets[rank as usize].head);
            let next = move |at: &u32| {
                let next = slots[*at as usize].links[link].next;
                (next != NIL).then_some(next)
            };
            std::iter::successors(head, next).map(move |agent| (rank, agent))
        })
    }

    /// Puts an agent that is in no list of this index into one, before all others there or behind them; whether `best`
    /// changed.
    #[inline(always)]
    pub(super) fn join(
        &mut self,
        slots: &mut [Slot],
        link: usize,
        rank: u32,
        agent: u32,
        end: End,
    ) -> bool {
        // Where it is not known beforehand one branch decides, not each step.
        match end {
            End::First => self.put(slots, link, rank, agent, End::First),
            End::Last => self.put(slots, link, rank, agent, End::Last),
        }
    }

    #[inline(always)]
    fn put(&mut self, slots: &mut [Slot], link: usize, rank: u32, agent: u32, end: End) -> bool {
        let bucket = self.bucket(rank);
        let place = match end {
            End::First => &mut bucket.head,
            End::Last => &mut bucket.tail,
        };
        let other = std::mem::replace(place, agent);
        slots[agent as usize].links[link] = match end {
            End::First => Link { prev: NIL, next: other },
            End::Last => Link { prev: other, next: NIL },
        };
        if other != NIL {
            let links = &mut slots[other as usize].links[link];
            match end {
                End::First => links.prev = agent,
                End::Last => links.next = agent,
            }
            return false;
        }
        match end {
            End::First => bucket.tail = agent,
            End::Last => bucket.head = agent,
        }
        self.open(rank)
    }

    #[inline(always)]
    fn open(&mut self, rank: u32) -> bool {
        self.ranks.insert(rank);
        let better = rank < self.best;
        if better {
            self.best = rank;
        }
        better
    }

    /// Takes an agent out of the list it is in; whether `best` changed.
    #[inline(always)]
    pub(super) fn leave(&mut self, slots: &mut [Slot], link: usize, rank: u32, agent: u32) -> bool {
        let own = slots[agent as usize].links[link];
        let bucket = &mut self.buckets[rank as usize];
        if own.next == NIL {
            bucket.tail = own.prev;
        } else {
            slots[own.next as usize].links[link].prev = own.prev;
        }
        if own.prev == NIL {
            bucket.head = own.next;
        } else {
            slots[own.prev as usize].links[link].next = own.next;
            return false;
        }
        if own.next != NIL {
            return false;
        }
        self.shut(rank)
    }

    /// Takes the [first](Self::first) out, and says which it was, of which rank, and whether `best` changed.
    #[inline(always)]
    pub(super) fn pop(&mut self, slots: &mut [Slot], link: usize) -> Option<(u32, u32, bool)> {
        let rank = self.best;
        let bucket = self.buckets.get_mut(rank as usize)?;
        let agent = bucket.head;
        let next = slots.get(agent as usize)?.links[link].next;
        bucket.head = next;
        let changed = match slots.get_mut(next as usize) {
            Some(next) => {
                next.links[link].prev = NIL;
                false
            }
            None => {
                bucket.tail = NIL;
                self.shut(rank)
            }
        };
        Some((agent, rank, changed))
    }

    #[inline(never)]
    fn shut(&mut self, rank: u32) -> bool {
        self.ranks.remove(rank);
        let was_best = rank == self.best;
        if was_best {
            self.best = self.ranks.first().unwrap_or(NOBODY);
        }
        was_best
    }

    /// The list of a rank that may be new.
    #[inline(always)]
    fn bucket(&mut self, rank: u32) -> &mut Bucket {
        if (rank as usize) < self.buckets.len() {
            &mut self.buckets[rank as usize]
        } else {
            self.grow(rank)
        }
    }

    #[cold]
    fn grow(&mut self, rank: u32) -> &mut Bucket {
        self.buckets.resize(rank as usize + 1, Bucket { head: NIL, tail: NIL });
        &mut self.buckets[rank as usize]
    }

    /// Checks the rules, and gives out who is in, by rank and then in order.
    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn validate(&self, slots: &[Slot], link: usize) -> Vec<(u32, u32)> {
        let mut members = Vec::new();
        for (rank, bucket) in (0_u32..).zip(&self.buckets) {
            let (mut prev, mut at) = (NIL, bucket.head);
            while at != NIL {
                let links = slots[at as usize].links[link];
                assert_eq!(links.prev, prev, "rule 1");
                assert!(members.len() <= slots.len(), "rule 1: a circle");
                members.push((rank, at));
                (prev, at) = (at, links.next);
            }
            assert_eq!(bucket.tail, prev, "rule 1");
            assert_eq!(self.ranks.contains(rank), bucket.head != NIL, "rule 2, rank {rank}");
        }
        self.ranks.validate();
        assert_eq!(self.best, self.ranks.first().unwrap_or(NOBODY), "rule 2");
        members
    }
}
