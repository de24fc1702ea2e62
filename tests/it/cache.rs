//! Behaviour of `cache`.

mod hostile;
mod loading;

use std::num::NonZeroU64;
use std::sync::Arc;

use phalanx::ErrorKind;
use phalanx::cache::{Cache, CacheBuilder, TooLarge};

fn strict(capacity: u64) -> Cache<u32, String> {
    Cache::builder()
        .capacity_weight(capacity)
        .weigher(|_: &u32, value: &String| value.len() as u64)
        .shards(1)
        .build()
        .expect("the configuration is valid")
}

fn text(length: usize) -> String {
    "x".repeat(length)
}

#[test]
fn a_cache_without_a_capacity_or_with_odd_shards_is_not_built() {
    let kind = |builder: CacheBuilder<u32, u32>| builder.build().expect_err("it is refused").kind();
    assert_eq!(kind(Cache::builder()), ErrorKind::InvalidArgument);
    assert_eq!(kind(Cache::builder().capacity_weight(0)), ErrorKind::InvalidArgument);
    for shards in [0, 3, 2048] {
        let builder = Cache::builder().capacity_weight(1).shards(shards);
        assert_eq!(kind(builder), ErrorKind::InvalidArgument, "{shards} shards");
    }
}

#[test]
fn the_least_recently_used_entries_make_room_for_a_heavier_one() {
    let cache = strict(10);
    for key in 0..5 {
        cache.insert(key, text(2)).expect("2 fit into 10");
    }
    assert!(cache.get(&0).is_some());
    assert!(cache.peek(&1).is_some(), "a peek is no use of it");
    cache.insert(9, text(4)).expect("4 fit into 10");
    let left: Vec<_> = (0..10).filter(|key| cache.contains(key)).collect();
    assert_eq!(left, [0, 3, 4, 9]);
    assert_eq!(cache.stats().evicted_for_weight, 2);
    assert_eq!(cache.weight(), 10);
}

#[test]
fn a_value_that_grows_evicts_others_and_not_itself() {
    let cache = strict(10);
    for key in 0..5 {
        cache.insert(key, text(2)).expect("2 fit into 10");
    }
    cache.insert(0, text(10)).expect("10 fit into 10");
    assert_eq!((cache.len(), cache.weight()), (1, 10));
    assert_eq!(cache.get(&0), Some(text(10)));
    let stats = cache.stats();
    assert_eq!((stats.replaced, stats.evicted_for_weight), (1, 4));
}

#[test]
fn what_outweighs_the_cache_comes_back_and_changes_nothing() {
    let cache = strict(10);
    cache.insert(1, text(3)).expect("3 fit into 10");
    let refused: TooLarge<String> = cache.insert(1, text(11)).expect_err("11 do not");
    assert_eq!((refused.weight(), refused.capacity_weight()), (11, 10));
    assert_eq!(refused.into_value(), text(11));
    assert_eq!(cache.get(&1), Some(text(3)));
    assert_eq!(cache.stats().rejected_too_large, 1);
}

#[test]
fn the_number_of_entries_is_bounded_beside_their_weight_and_told_apart() {
    let cache: Cache<u32, ()> = Cache::builder()
        .capacity_weight(1000)
        .weigher(|_: &u32, _: &()| 0)
        .max_entries(NonZeroU64::new(3).expect("3 is not 0"))
        .build()
        .expect("the configuration is valid");
    for key in 0..10 {
        cache.insert(key, ()).expect("it fits");
        assert!(cache.len() <= 3);
    }
    let stats = cache.stats();
    assert_eq!((stats.entries, stats.evicted_for_entries, stats.evicted_for_weight), (3, 7, 0));
    assert_eq!(stats.weight, 3, "an entry weighs at least 1");
}

#[test]
fn an_entry_as_heavy_as_the_whole_cache_empties_every_shard() {
    let cache: Cache<u32, u64> = Cache::builder()
        .capacity_weight(64)
        .weigher(|_: &u32, weight: &u64| *weight)
        .shards(16)
        .build()
        .expect("the configuration is valid");
    for key in 0..64 {
        cache.insert(key, 1).expect("1 fits into 64");
    }
    assert_eq!(cache.len(), 64);
    cache.insert(100, 64).expect("64 fit into 64");
    assert_eq!((cache.len(), cache.weight()), (1, 64));
    assert_eq!(cache.stats().evicted_for_weight, 64);
}

#[test]
fn a_key_is_looked_up_by_what_it_borrows_as() {
    let cache: Cache<String, u32> =
        Cache::builder().capacity_weight(10).build().expect("the configuration is valid");
    cache.insert("one".to_owned(), 1).expect("it fits");
    assert_eq!(cache.get("one"), Some(1));
    assert!(!cache.contains("two"));
    assert_eq!(cache.remove("one"), Some(1));
    assert!(cache.is_empty());
}

#[test]
fn every_lookup_is_a_hit_or_a_miss_and_peeks_are_neither() {
    let cache = strict(100);
    assert_eq!(cache.stats().hit_ratio(), None);
    cache.insert(1, text(1)).expect("it fits");
    assert_eq!(cache.get(&1), Some(text(1)));
    assert_eq!(cache.get(&2), None);
    assert_eq!(cache.peek(&2), None);
    assert_eq!(cache.get_or_load(&1, || Err(())), Ok(text(1)));
    assert_eq!(cache.get_or_load(&3, || Ok::<_, ()>(text(1))), Ok(text(1)));
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.lookups()), (2, 2, 4));
    assert_eq!(stats.hit_ratio(), Some(0.5));
}

#[test]
fn a_cleared_cache_has_its_whole_room_again() {
    let cache = strict(10);
    for key in 0..5 {
        cache.insert(key, text(2)).expect("it fits");
    }
    cache.clear();
    assert!(cache.is_empty());
    assert_eq!((cache.weight(), cache.stats().removed), (0, 5));
    cache.insert(1, text(10)).expect("it fits");
    assert_eq!(cache.stats().evicted(), 0);
}

#[test]
fn values_are_released_when_they_leave_and_when_the_last_handle_goes() {
    let value = Arc::new(());
    let cache: Cache<u32, Arc<()>> =
        Cache::builder().capacity_weight(2).shards(1).build().expect("the configuration is valid");
    for key in 0..3 {
        cache.insert(key, Arc::clone(&value)).expect("it fits");
    }
    assert_eq!(Arc::strong_count(&value), 3);
    cache.insert(2, Arc::clone(&value)).expect("it fits");
    assert_eq!(Arc::strong_count(&value), 3);
    let second = cache.clone();
    drop(cache);
    assert_eq!(Arc::strong_count(&value), 3);
    drop(second);
    assert_eq!(Arc::strong_count(&value), 1);
}

#[test]
fn handles_go_to_other_threads_and_say_what_they_are() {
    fn shared<T: Clone + Send + Sync + std::fmt::Debug>(_: &T) {}
    // A value that is not Sync does not make the cache so either.
    let cache: Cache<u32, std::cell::Cell<u8>> =
        Cache::builder().capacity_weight(1).build().expect("the configuration is valid");
    shared(&cache);
    assert!(format!("{cache:?}").contains("capacity_weight: 1"));
}
