//! Leases that expire, in a hierarchical timing wheel: to add, to take out and to find one that is due
//! costs the same however many there are.
//!
//! A level has 64 buckets; a bucket of the first level is a tick of about a millisecond wide, one of the
//! next level 64 times as wide, and so on. Rules that hold between any two calls:
//!
//! 1. An entry that a look has come across is in the bucket of its tick: at the lowest level at which that tick and
//!    the wheel's own time differ in no higher digit.
//! 2. A bucket's bit is set exactly if its list is not empty; neighbours in a list name each other.
//! 3. The serial of an entry changes when it ends, so a key of an entry that ended finds nothing.
//! 4. An entry that was found due lies in a bucket of its own until it is taken out: so the others of its tick
//!    are looked at once a look for what is due, and not once for each that is.
//! 5. An entry that no look has come across yet lies in a bucket of its own too: whoever looks first gives each its
//!    tick. Most leases end before, and cost no tick at all; to find that bucket was a tenth of what a lease with
//!    all its clocks and prices took.
//! 6. Free entries are in a list of their own, by `next`.

use std::num::NonZeroU64;

use super::charge::Charge;
use super::slot::NIL;
use crate::fleet::id::AgentId;

const DIGIT: u32 = 6;
const WIDTH: usize = 1 << DIGIT;
/// So many levels reach beyond two thousand years.
const LEVELS: usize = 8;
/// The bucket of those that were found due.
const FOUND: usize = WIDTH * LEVELS;
/// The bucket of those that no look has come across.
const FRESH: usize = FOUND + 1;
/// A tick is 2^20 ns.
const TICK_BITS: u32 = 20;

/// Names an entry: its place, from one, above its serial.
pub(in crate::fleet) type Key = NonZeroU64;

#[derive(Clone, Copy, Debug)]
struct Entry {
    agent: AgentId,
    /// What the lease was charged with.
    charge: Option<Charge>,
    /// Nanoseconds since the clock started.
    due: u64,
    tick: u64,
    prev: u32,
    next: u32,
    serial: u32,
    /// The era of the agent's circuit, if one heeds it.
    era: u32,
    /// The number of the bucket, or [`NIL`] for an entry that is free.
    bucket: u32,
}

/// A lease that has expired, and that nobody but the one who has this gives back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overdue {
    pub(super) agent: AgentId,
    pub(super) charge: Option<Charge>,
    /// The era of its agent's circuit in which it began or was renewed last.
    pub(super) era: u32,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Wheel {
    entries: Vec<Entry>,
    /// The first that is free.
    free: u32,
    heads: [u32; FRESH + 1],
    occupied: [u64; LEVELS],
    /// All ticks before this one have been dealt with.
    now: u64,
    len: usize,
}

impl Wheel {
    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: NIL,
            heads: [NIL; FRESH + 1],
            occupied: [0; LEVELS],
            now: 0,
            len: 0,
        }
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Adds a lease on an agent that is due at a moment.
    #[inline(always)]
    pub(super) fn insert(
        &mut self,
        agent: AgentId,
        charge: Option<Charge>,
        due: u64,
        era: u32,
    ) -> Key {
        if self.free == NIL {
            self.add_entry();
        }
        let (place, head) = (self.free, self.heads[FRESH]);
        let entry = &mut self.entries[place as usize];
        self.free = entry.next;
        (entry.agent, entry.charge, entry.due, entry.era) = (agent, charge, due, era);
        (entry.prev, entry.next, entry.bucket) = (NIL, head, FRESH as u32);
        let key = (u64::from(place) + 1) << 32 | u64::from(entry.serial);
        if head != NIL {
            self.entries[head as usize].prev = place;
        }
        self.heads[FRESH] = place;
        self.len += 1;
        NonZeroU64::new(key).expect("places count from one")
    }

    #[cold]
    fn add_entry(&mut self) {
        let place =
            u32::try_from(self.entries.len()).expect("leases are bounded by agents and limits");
        self.entries.push(Entry {
            agent: AgentId { slot: 0, generation: 0 },
            charge: None,
            due: 0,
            tick: 0,
            prev: NIL,
            next: self.free,
            serial: 0,
            era: 0,
            bucket: NIL,
        });
        self.free = place;
    }

    #[inline(always)]
    fn find(&self, key: Key) -> Option<u32> {
        let place = u32::try_from((key.get() >> 32) - 1).expect("a key is of two halves");
        let entry = self.entries.get(place as usize)?;
        let lives = entry.serial == key.get() as u32 && entry.bucket != NIL;
        lives.then_some(place)
    }

    /// When a lease is due, if it has not ended.
    pub(super) fn due(&self, key: Key) -> Option<u64> {
        self.find(key).map(|place| self.entries[place as usize].due)
    }

    /// Takes out a lease that is not due by now; whether it was in, and is not.
    #[inline(always)]
    pub(super) fn remove_before(&mut self, key: Key, now: u64) -> bool {
        let Some(place) = self.find(key) else { return false };
        let is_good = now < self.entries[place as usize].due;
        if is_good {
            self.unlink(place);
            self.end(place);
        }
        is_good
    }

    /// Takes a lease out; whether it was in.
    pub(super) fn remove(&mut self, key: Key) -> bool {
        let Some(place) = self.find(key) else { return false };
        self.unlink(place);
        self.end(place);
        true
    }

    #[inline(always)]
    fn end(&mut self, place: u32) {
        let entry = &mut self.entries[place as usize];
        entry.serial = entry.serial.wrapping_add(1);
        entry.bucket = NIL;
        entry.next = self.free;
        self.free = place;
        self.len -= 1;
    }

    /// Takes out a lease that is due, if there is one.
    pub(super) fn pop_due(&mut self, now: u64) -> Option<Overdue> {
        let tick = now >> TICK_BITS;
        self.come_across_fresh();
        loop {
            let found = self.heads[FOUND];
            if found != NIL {
                let Entry { agent, charge, era, .. } = self.entries[found as usize];
                self.unlink(found);
                self.end(found);
                return Some(Overdue { agent, charge, era });
            }
            let Some((level, bucket, starts)) = self.next_bucket() else {
                self.now = self.now.max(tick);
                return None;
            };
            if starts > tick {
                self.now = self.now.max(tick);
                return None;
            }
            self.now = self.now.max(starts);
            if level == 0 {
                // Of a tick that is not over yet some may be due and some not.
                self.find_due(bucket, now);
                if self.heads[FOUND] == NIL {
                    return None;
                }
                continue;
            }
            // The digit of this bucket has come: all in it go to the levels below (rule 1).
            while self.heads[bucket] != NIL {
                let place = self.heads[bucket];
                self.unlink(place);
                self.link(place);
            }
        }
    }

    /// Gives those that no look has come across the buckets of their ticks (rule 5).
    fn come_across_fresh(&mut self) {
        while self.heads[FRESH] != NIL {
            let place = self.heads[FRESH];
            self.unlink(place);
            let entry = &mut self.entries[place as usize];
            entry.tick = (entry.due >> TICK_BITS).max(self.now);
            self.link(place);
        }
    }

    /// Moves those of a bucket that are due to the ones found (rule 4).
    fn find_due(&mut self, bucket: usize, now: u64) {
        let mut at = self.heads[bucket];
        while at != NIL {
            let Entry { due, next, .. } = self.entries[at as usize];
            if due <= now {
                self.unlink(at);
                self.push(at, FOUND);
            }
            at = next;
        }
    }

    fn in_bucket(&self, bucket: usize) -> impl Iterator<Item = u32> {
        let next =
            |place: &u32| Some(self.entries[*place as usize].next).filter(|next| *next != NIL);
        std::iter::successors(Some(self.heads[bucket]).filter(|head| *head != NIL), next)
    }

    /// A moment no later than the first lease is due, and that moment itself if it is near; `None` if there
    /// is none.
    pub(super) fn next_due(&mut self) -> Option<u64> {
        self.come_across_fresh();
        let first_of =
            |bucket| self.in_bucket(bucket).map(|at| self.entries[at as usize].due).min();
        let next = self.next_bucket().and_then(|(level, bucket, starts)| match level {
            0 => first_of(bucket),
            _ => Some(starts << TICK_BITS),
        });
        [first_of(FOUND), next].into_iter().flatten().min()
    }

    /// The level, the number and the first tick of the first bucket that is not empty.
    fn next_bucket(&self) -> Option<(usize, usize, u64)> {
        for (level, occupied) in self.occupied.into_iter().enumerate() {
            if occupied == 0 {
                continue;
            }
            let shift = DIGIT * level as u32;
            // By rule 1 no bucket of a level lies before the wheel's own.
            let digit = u64::from(occupied.trailing_zeros());
            let above = self.now >> shift >> DIGIT << DIGIT << shift;
            let starts = above | digit << shift;
            return Some((level, level * WIDTH + digit as usize, starts));
        }
        None
    }

    fn link(&mut self, place: u32) {
        let tick = self.entries[place as usize].tick;
        let differ = (tick ^ self.now) | 1;
        let level = ((63 - differ.leading_zeros()) / DIGIT).min(LEVELS as u32 - 1);
        let digit = (tick >> (DIGIT * level)) as usize % WIDTH;
        self.push(place, level as usize * WIDTH + digit);
        self.occupied[level as usize] |= 1 << digit;
    }

    fn push(&mut self, place: u32, bucket: usize) {
        let head = self.heads[bucket];
        let entry = &mut self.entries[place as usize];
        (entry.prev, entry.next) = (NIL, head);
        entry.bucket = bucket as u32;
        if head != NIL {
            self.entries[head as usize].prev = place;
        }
        self.heads[bucket] = place;
    }

    #[inline(always)]
    fn unlink(&mut self, place: u32) {
        let Entry { prev, next, bucket, .. } = self.entries[place as usize];
        if next != NIL {
            self.entries[next as usize].prev = prev;
        }
        if prev == NIL {
            self.heads[bucket as usize] = next;
        } else {
            self.entries[prev as usize].next = next;
        }
        if self.heads[bucket as usize] == NIL && (bucket as usize) < FOUND {
            self.occupied[bucket as usize / WIDTH] &= !(1 << (bucket as usize % WIDTH));
        }
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn validate(&self) {
        let mut found = 0;
        for (bucket, head) in self.heads.iter().enumerate() {
            let counted = bucket < FOUND;
            let set = counted && self.occupied[bucket / WIDTH] >> (bucket % WIDTH) & 1 == 1;
            assert!(!counted || set == (*head != NIL), "rule 2");
            let (mut prev, mut at) = (NIL, *head);
            while at != NIL {
                let entry = &self.entries[at as usize];
                assert_eq!((entry.prev, entry.bucket as usize), (prev, bucket), "rule 2");
                if counted {
                    let shift = DIGIT * (bucket / WIDTH) as u32;
                    assert_eq!((entry.tick >> shift) as usize % WIDTH, bucket % WIDTH, "rule 1");
                    assert_eq!(entry.tick >> shift >> DIGIT, self.now >> shift >> DIGIT, "rule 1");
                    assert!(entry.tick >= self.now, "rule 1: its tick has been dealt with");
                }
                assert!(bucket == FRESH || entry.tick >= entry.due >> TICK_BITS, "rule 1");
                found += 1;
                (prev, at) = (at, entry.next);
            }
        }
        assert_eq!(found, self.len);
        let next = |place: &u32| Some(self.entries[*place as usize].next).filter(|at| *at != NIL);
        let free = std::iter::successors(Some(self.free).filter(|at| *at != NIL), next);
        let free = free.inspect(|at| assert_eq!(self.entries[*at as usize].bucket, NIL, "rule 6"));
        assert_eq!(self.entries.len() - free.count(), self.len, "rule 6");
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_the_wheel_gives_out_is_what_a_sorted_list_finds_due(
            steps in prop::collection::vec((0..6_u8, 0..45_u32, any::<u64>(), any::<bool>()), 1..120),
        ) {
            let mut wheel = Wheel::new();
            let (mut now, mut next_slot) = (0_u64, 0_u32);
            let mut entries: BTreeMap<Key, (u32, u64)> = BTreeMap::new();
            let (mut ended, mut behind) = (Vec::new(), false);
            for (what, width, number, asks) in steps {
                let number = number % (1 << width);
                match what {
                    0..=2 => {
                        let agent = AgentId { slot: next_slot, generation: 0 };
                        // Another thread may have looked since the time of a lease was read.
                        let due = if what < 2 { now + number } else { now.saturating_sub(number) };
                        let key = wheel.insert(agent, None, due, 0);
                        prop_assert!(!ended.contains(&key), "rule 3");
                        entries.insert(key, (next_slot, due));
                        next_slot += 1;
                    }
                    3 => {
                        let key = entries.keys().nth(number as usize % entries.len().max(1)).copied();
                        if let Some(key) = key {
                            prop_assert_eq!(wheel.due(key), Some(entries[&key].1));
                            prop_assert!(wheel.remove(key));
                            prop_assert!(!wheel.remove(key));
                            entries.remove(&key);
                            ended.push(key);
                        }
                    }
                    4 => {
                        // Others may be added and taken out before the rest is.
                        now += number;
                        behind = true;
                        if let Some(Overdue { agent, .. }) = wheel.pop_due(now) {
                            let own = entries.iter().find(|(_, entry)| entry.0 == agent.slot);
                            let (key, due) = own.map(|(key, entry)| (*key, entry.1)).expect("in");
                            prop_assert!(due <= now);
                            entries.remove(&key);
                            ended.push(key);
                        } else {
                            prop_assert!(entries.values().all(|entry| entry.1 > now));
                        }
                    }
                    _ => {
                        now += number;
                        behind = false;
                        let mut popped = Vec::new();
                        while let Some(Overdue { agent, .. }) = wheel.pop_due(now) {
                            popped.push(agent.slot);
                        }
                        popped.sort_unstable();
                        let gone = entries.iter().filter(|(_, entry)| entry.1 <= now);
                        let (keys, mut slots): (Vec<_>, Vec<_>) =
                            gone.map(|(key, entry)| (*key, entry.0)).unzip();
                        slots.sort_unstable();
                        prop_assert_eq!(popped, slots);
                        for key in keys {
                            entries.remove(&key);
                            prop_assert_eq!(wheel.due(key), None);
                            ended.push(key);
                        }
                    }
                }
                wheel.validate();
                prop_assert_eq!(wheel.len(), entries.len());
                if !asks {
                    continue;
                }
                let first = entries.values().map(|entry| entry.1).min();
                prop_assert_eq!(wheel.next_due().is_some(), first.is_some());
                if let (Some(next), Some(first)) = (wheel.next_due(), first) {
                    prop_assert!(next <= first, "it would be overslept");
                    // Whoever takes one out goes on until there is none.
                    prop_assert!(next == first || next > now || behind, "it would be waited for for ever");
                }
            }
        }
    }
}
