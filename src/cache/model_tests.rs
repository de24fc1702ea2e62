//! The cache against a naive one, step by step; and its limit as seen from another thread.

use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;

use proptest::prelude::*;

use super::*;
use crate::sync::atomic::AtomicBool;

/// A value that says what it weighs, and which insert it came from.
type Value = (u64, u32);
type Tested = Cache<u8, Value>;

impl<K, V> Cache<K, V> {
    /// Every rule that ties the shards and the shared count together, with nothing under way.
    fn validate(&self) {
        let shards: Vec<_> = self.inner.shards.iter().map(|shard| shard.lock()).collect();
        let held = Room {
            weight: shards.iter().flat_map(|shard| shard.entries()).map(|(_, _, w)| w).sum(),
            entries: shards.iter().map(|shard| shard.len() as u64).sum(),
        };
        shards.iter().for_each(|shard| shard.validate());
        drop(shards);
        assert_eq!(self.inner.ledger.reserved(), held);
        let limit = self.inner.ledger.limit();
        assert!(held.weight <= limit.weight && held.entries <= limit.entries, "{held:?}");
        let stats = self.stats();
        assert_eq!(stats.entries, held.entries);
        assert_eq!(stats.inserted, stats.entries + stats.evicted() + stats.removed);
    }
}

/// Entries from the oldest to the youngest, and the limits.
#[derive(Debug, Default)]
struct Naive {
    entries: Vec<(u8, Value)>,
    capacity: u64,
    most: u64,
    evicted: Vec<u8>,
    hits: u64,
    misses: u64,
    rejected: u64,
}

impl Naive {
    fn weight(&self) -> u64 {
        self.entries.iter().map(|(_, (weight, _))| (*weight).max(1)).sum()
    }
    fn peek(&self, key: u8) -> Option<Value> {
        self.entries.iter().find(|(k, _)| *k == key).map(|(_, value)| *value)
    }
    fn take(&mut self, key: u8) -> Option<Value> {
        let at = self.entries.iter().position(|(k, _)| *k == key)?;
        Some(self.entries.remove(at).1)
    }
    fn get(&mut self, key: u8) -> Option<Value> {
        let found = self.take(key);
        match found {
            Some(value) => {
                self.hits += 1;
                self.entries.push((key, value));
            }
            None => self.misses += 1,
        }
        found
    }
    fn insert(&mut self, key: u8, value: Value) -> bool {
        let weight = value.0.max(1);
        if weight > self.capacity {
            self.rejected += 1;
            return false;
        }
        self.take(key);
        while self.weight() + weight > self.capacity || self.entries.len() as u64 + 1 > self.most {
            self.evicted.push(self.entries.remove(0).0);
        }
        self.entries.push((key, value));
        true
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u8, u64),
    Get(u8),
    Peek(u8),
    Remove(u8),
    Load(u8, Result<u64, ()>),
    Clear,
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..12_u8;
    let weight = 0..14_u64;
    prop_oneof![
        6 => (key.clone(), weight.clone()).prop_map(|(key, weight)| Op::Insert(key, weight)),
        4 => key.clone().prop_map(Op::Get),
        1 => key.clone().prop_map(Op::Peek),
        2 => key.clone().prop_map(Op::Remove),
        3 => (key, prop_oneof![3 => weight.prop_map(Ok), 1 => Just(Err(()))])
            .prop_map(|(key, result)| Op::Load(key, result)),
        1 => Just(Op::Clear),
    ]
}

fn build(capacity: u64, most: u64, shards: usize) -> Tested {
    Cache::builder()
        .capacity_weight(capacity)
        .max_entries(NonZeroU64::new(most).expect("the tests ask for one at least"))
        .weigher(|_: &u8, value: &Value| value.0)
        .shards(shards)
        .build()
        .expect("the configuration is valid")
}

proptest! {
    // A failure prints its smallest case, which then becomes a test with a name; no seeds are kept.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn with_one_shard_every_step_is_that_of_a_naive_lru(
        ops in prop::collection::vec(op(), 1..120),
        capacity in 1..40_u64,
        most in 1..10_u64,
    ) {
        let cache = build(capacity, most, 1);
        let mut naive = Naive { capacity, most, ..Naive::default() };
        let (mut loads, mut errors) = (0, 0);
        for (tick, op) in (0_u32..).zip(ops) {
            match op {
                Op::Insert(key, weight) => {
                    let fits = naive.insert(key, (weight, tick));
                    match cache.insert(key, (weight, tick)) {
                        Ok(()) => prop_assert!(fits),
                        Err(refused) => {
                            prop_assert!(!fits);
                            prop_assert_eq!(refused.into_value(), (weight, tick));
                        }
                    }
                }
                Op::Get(key) => prop_assert_eq!(cache.get(&key), naive.get(key)),
                Op::Peek(key) => {
                    prop_assert_eq!(cache.peek(&key), naive.peek(key));
                    prop_assert_eq!(cache.contains(&key), naive.peek(key).is_some());
                }
                Op::Remove(key) => prop_assert_eq!(cache.remove(&key), naive.take(key)),
                Op::Load(key, result) => {
                    let loaded = cache.get_or_load(&key, || result.map(|weight| (weight, tick)));
                    match (naive.get(key), result) {
                        (Some(found), _) => prop_assert_eq!(loaded, Ok(found)),
                        (None, Ok(weight)) => {
                            loads += 1;
                            naive.insert(key, (weight, tick));
                            prop_assert_eq!(loaded, Ok((weight, tick)));
                        }
                        (None, Err(())) => {
                            errors += 1;
                            prop_assert_eq!(loaded, Err(LoadError::Failed(())));
                        }
                    }
                }
                Op::Clear => {
                    cache.clear();
                    naive.entries.clear();
                }
            }
            cache.validate();
            let order: Vec<_> = cache.inner.shards[0].lock().entries().map(|(k, v, _)| (*k, *v)).collect();
            let expected: Vec<_> = naive.entries.iter().rev().copied().collect();
            prop_assert_eq!(order, expected);
            let stats = cache.stats();
            prop_assert_eq!((stats.hits, stats.misses), (naive.hits, naive.misses));
            prop_assert_eq!(stats.evicted(), naive.evicted.len() as u64);
            prop_assert_eq!(stats.rejected_too_large, naive.rejected);
            prop_assert_eq!((stats.loads, stats.load_errors, stats.load_panics), (loads, errors, 0));
            prop_assert_eq!(stats.weight, naive.weight());
        }
    }

    #[test]
    fn with_many_shards_what_is_found_is_the_last_value_put_in_and_room_is_used_before_it_is_made(
        ops in prop::collection::vec(op(), 1..120),
        capacity in 1..60_u64,
        most in 1..12_u64,
        shards in prop::sample::select(vec![2_usize, 4, 8]),
    ) {
        let cache = build(capacity, most, shards);
        let mut last = std::collections::HashMap::new();
        for (tick, op) in (0_u32..).zip(ops) {
            let before = cache.stats();
            match op {
                Op::Insert(key, weight) => {
                    let fits = weight.max(1) <= capacity;
                    prop_assert_eq!(cache.insert(key, (weight, tick)).is_ok(), fits);
                    if fits {
                        last.insert(key, (weight, tick));
                        prop_assert_eq!(cache.peek(&key), Some((weight, tick)));
                        if before.weight + weight.max(1) <= capacity && before.entries < most {
                            prop_assert_eq!(cache.stats().evicted(), before.evicted());
                        }
                    }
                }
                Op::Get(key) | Op::Peek(key) => {
                    if let Some(found) = cache.get(&key) {
                        prop_assert_eq!(Some(&found), last.get(&key));
                    }
                }
                Op::Remove(key) => {
                    if let Some(found) = cache.remove(&key) {
                        prop_assert_eq!(Some(found), last.remove(&key));
                    }
                    prop_assert!(!cache.contains(&key));
                }
                Op::Load(key, result) => {
                    let found = cache.peek(&key);
                    let loaded = cache.get_or_load(&key, || result.map(|weight| (weight, tick)));
                    match (found, result) {
                        (Some(found), _) => prop_assert_eq!(loaded, Ok(found)),
                        (None, Ok(weight)) => {
                            prop_assert_eq!(loaded, Ok((weight, tick)));
                            last.insert(key, (weight, tick));
                        }
                        (None, Err(())) => prop_assert_eq!(loaded, Err(LoadError::Failed(()))),
                    }
                }
                Op::Clear => {
                    cache.clear();
                    prop_assert!(cache.is_empty());
                }
            }
            cache.validate();
        }
    }
}

#[test]
fn no_other_thread_ever_sees_more_than_the_capacity_while_entries_grow_and_are_replaced() {
    const CAPACITY: u64 = 64;
    let cache = build(CAPACITY, 24, 4);
    let done = AtomicBool::new(false);
    let start = Barrier::new(4);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3_u64)
            .map(|seed| {
                let (cache, start) = (&cache, &start);
                scope.spawn(move || {
                    start.wait();
                    let mut state = seed + 1;
                    for tick in 0..20_000_u32 {
                        state = state
                            .wrapping_mul(6364136223846793005)
                            .wrapping_add(1442695040888963407);
                        let key = (state >> 60) as u8;
                        match (state >> 56) & 15 {
                            0 => drop(cache.remove(&key)),
                            1 => drop(cache.get(&key)),
                            // Mostly light, sometimes as heavy as the whole cache: its own shard is not enough.
                            2 => assert!(cache.insert(key, (CAPACITY, tick)).is_ok()),
                            _ => assert!(cache.insert(key, ((state >> 50) & 15, tick)).is_ok()),
                        }
                    }
                })
            })
            .collect();
        let (cache, done, start) = (&cache, &done, &start);
        let sampler = scope.spawn(move || {
            start.wait();
            let mut samples = 0_u64;
            while !done.load(Ordering::Relaxed) {
                assert!(cache.weight() <= CAPACITY);
                // All locks at once: what is really in there, not what the count says.
                let shards: Vec<_> = cache.inner.shards.iter().map(|shard| shard.lock()).collect();
                let held: u64 =
                    shards.iter().flat_map(|shard| shard.entries()).map(|(_, _, w)| w).sum();
                let entries: usize = shards.iter().map(|shard| shard.len()).sum();
                let reserved = cache.inner.ledger.reserved();
                drop(shards);
                assert!(held <= CAPACITY && entries <= 24, "{held} in {entries}");
                assert!(held <= reserved.weight, "{held} held, {reserved:?} reserved");
                samples += 1;
            }
            samples
        });
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        for result in results {
            result.expect("no writer panics");
        }
        assert!(sampler.join().expect("the sampler sees no excess") > 0);
    });
    cache.validate();
}

#[test]
fn a_value_that_grows_takes_room_from_other_shards_rather_than_evict_itself_first() {
    let cache = build(10, 10, 2);
    let insert = |shard: u64, key, weight| {
        assert!(cache.inner.insert(shard << 40, key, (weight, 0)).is_ok());
        cache.validate();
    };
    insert(0, 1, 4);
    insert(1, 2, 6);
    insert(0, 1, 9);
    let stats = cache.stats();
    assert_eq!((stats.entries, stats.weight), (1, 9));
    assert_eq!((stats.replaced, stats.evicted_for_weight), (1, 1));
}

#[test]
fn an_insert_that_finds_all_room_claimed_by_others_waits_for_them_and_then_goes_in() {
    let cache = build(10, 10, 2);
    let mut claim = Claim::new(&cache.inner.ledger);
    assert!(claim.cover(Room { weight: 8, entries: 1 }));
    thread::scope(|scope| {
        let insert = scope.spawn(|| cache.insert(1, (5, 0)));
        while cache.inner.starved.try_lock().is_some() {
            thread::yield_now();
        }
        assert!(!cache.contains(&1));
        drop(claim);
        assert!(insert.join().expect("the insert does not panic").is_ok());
    });
    assert_eq!(cache.peek(&1), Some((5, 0)));
    cache.validate();
}

#[test]
fn a_weigher_that_panics_leaves_nothing_reserved() {
    let cache: Cache<u8, u8> = Cache::builder()
        .capacity_weight(10)
        .weigher(|_: &u8, value: &u8| if *value == 13 { panic!("unlucky") } else { 1 })
        .build()
        .expect("the configuration is valid");
    assert!(catch_unwind(AssertUnwindSafe(|| cache.insert(1, 13))).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| cache.get_or_load(&1, || Ok::<_, ()>(13)))).is_err());
    assert_eq!(cache.stats().load_panics, 1);
    assert_eq!(cache.get_or_load(&1, || Ok::<_, ()>(1)), Ok(1));
    cache.validate();
}
