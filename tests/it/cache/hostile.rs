//! Keys, values and weighers that panic: the caller gets the panic, the cache stays whole.

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use phalanx::cache::Cache;

thread_local! {
    /// How many more calls go well before one panics. A test has its own, as it has its own thread.
    static FUSE: Cell<Option<usize>> = const { Cell::new(None) };
}

fn burn(what: &str) {
    match FUSE.get() {
        Some(0) => {
            FUSE.set(None);
            panic!("{what} panics")
        }
        left => FUSE.set(left.map(|left| left - 1)),
    }
}

/// Runs `f` with the fuse lit; whether it panicked.
fn explodes<R>(after: usize, f: impl FnOnce() -> R) -> bool {
    FUSE.set(Some(after));
    let exploded = catch_unwind(AssertUnwindSafe(|| drop(f()))).is_err();
    FUSE.set(None);
    exploded
}

/// All keys have the same hash, so that every lookup compares.
#[derive(Clone, Debug)]
struct Key(u32);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        burn("Eq");
        self.0 == other.0
    }
}
impl Eq for Key {}
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        burn("Hash");
        state.write_u8(0);
    }
}

/// Counts how many are alive.
#[derive(Debug)]
struct Value {
    weight: u64,
    alive: Arc<AtomicUsize>,
    drop_panics: bool,
    clone_panics: bool,
}

impl Clone for Value {
    fn clone(&self) -> Self {
        assert!(!self.clone_panics, "Clone panics");
        self.alive.fetch_add(1, Ordering::Relaxed);
        Self {
            weight: self.weight,
            alive: Arc::clone(&self.alive),
            drop_panics: self.drop_panics,
            clone_panics: false,
        }
    }
}

impl Value {
    fn drop_panics(mut self, panics: bool) -> Self {
        self.drop_panics = panics;
        self
    }
    fn clone_panics(mut self) -> Self {
        self.clone_panics = true;
        self
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
        if self.drop_panics && !std::thread::panicking() {
            panic!("Drop panics");
        }
    }
}

#[derive(Default)]
struct Maker(Arc<AtomicUsize>);

impl Maker {
    fn plain(&self, weight: u64) -> Value {
        self.0.fetch_add(1, Ordering::Relaxed);
        Value { weight, alive: Arc::clone(&self.0), drop_panics: false, clone_panics: false }
    }
    fn alive(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn cache(capacity: u64, shards: usize) -> Cache<Key, Value> {
    Cache::builder()
        .capacity_weight(capacity)
        .weigher(|_: &Key, value: &Value| value.weight)
        .shards(shards)
        .build()
        .expect("the configuration is valid")
}

fn consistent(cache: &Cache<Key, Value>, maker: &Maker) {
    let stats = cache.stats();
    assert_eq!(stats.entries, stats.inserted - stats.evicted() - stats.removed, "{stats:?}");
    assert_eq!(maker.alive() as u64, stats.entries, "{stats:?}");
    let weight: u64 = (0..100).filter_map(|key| cache.peek(&Key(key))).map(|v| v.weight).sum();
    assert_eq!(weight, stats.weight, "{stats:?}");
}

#[test]
fn a_hash_or_eq_that_panics_at_any_call_of_any_operation_leaves_the_cache_whole() {
    type Operation = fn(&Cache<Key, Value>, &Maker);
    let operations: [(&str, Operation); 7] = [
        ("get", |cache, _| drop(cache.get(&Key(1)))),
        ("contains", |cache, _| assert!(cache.contains(&Key(1)))),
        ("insert of a new key that evicts", |cache, maker| {
            cache.insert(Key(50), maker.plain(3)).expect("it fits");
        }),
        ("insert that grows an old one", |cache, maker| {
            cache.insert(Key(1), maker.plain(5)).expect("it fits");
        }),
        ("remove", |cache, _| drop(cache.remove(&Key(2)))),
        ("load of a new key", |cache, maker| {
            cache.get_or_load(&Key(60), || Ok::<_, ()>(maker.plain(3))).expect("it loads");
        }),
        ("load that fails", |cache, _| {
            cache.get_or_load(&Key(70), || Err::<Value, _>(())).expect_err("it does not load");
        }),
    ];
    for (name, operation) in operations {
        let mut explosions = 0;
        for after in 0.. {
            let (cache, maker) = (cache(10, 1), Maker::default());
            for key in 0..5 {
                cache.insert(Key(key), maker.plain(2)).expect("it fits");
            }
            let exploded = explodes(after, || operation(&cache, &maker));
            consistent(&cache, &maker);
            // And it goes on: the same again works, and so does all else.
            operation(&cache, &maker);
            cache.insert(Key(80), maker.plain(10)).expect("it fits");
            assert_eq!((cache.len(), cache.weight()), (1, 10), "{name}, after {after}");
            consistent(&cache, &maker);
            if !exploded {
                break;
            }
            explosions += 1;
        }
        assert!(explosions >= 2, "{name}: hash and eq were both to panic once");
    }
}

#[test]
fn a_value_that_panics_as_it_is_evicted_or_replaced_is_out_and_the_new_one_is_in() {
    let (cache, maker) = (cache(4, 1), Maker::default());
    cache.insert(Key(1), maker.plain(2).drop_panics(true)).expect("it fits");
    cache.insert(Key(2), maker.plain(2)).expect("it fits");
    let evicting = catch_unwind(AssertUnwindSafe(|| cache.insert(Key(3), maker.plain(2))));
    assert!(evicting.is_err());
    assert!(!cache.contains(&Key(1)) && cache.contains(&Key(3)));
    consistent(&cache, &maker);

    cache.insert(Key(3), maker.plain(2).drop_panics(true)).expect("it fits");
    let replacing = catch_unwind(AssertUnwindSafe(|| cache.insert(Key(3), maker.plain(1))));
    assert!(replacing.is_err());
    assert_eq!(cache.weight(), 3);
    consistent(&cache, &maker);
}

#[test]
fn values_that_panic_as_they_are_dropped_do_not_keep_the_others_alive() {
    for dropped_with_the_cache in [false, true] {
        let (cache, maker) = (cache(100, 4), Maker::default());
        for key in 0..20 {
            let drop_panics = key == 7;
            cache.insert(Key(key), maker.plain(1).drop_panics(drop_panics)).expect("it fits");
        }
        let explosion = if dropped_with_the_cache {
            catch_unwind(AssertUnwindSafe(move || drop(cache)))
        } else {
            let explosion = catch_unwind(AssertUnwindSafe(|| cache.clear()));
            // The clear stopped at the panic; what was in that shard is gone and counted.
            consistent(&cache, &maker);
            cache.clear();
            assert_eq!(cache.weight(), 0);
            explosion
        };
        assert!(explosion.is_err());
        assert_eq!(maker.alive(), 0);
    }
}

#[test]
fn a_clone_that_panics_reaches_the_reader_alone() {
    let (cache, maker) = (cache(10, 1), Maker::default());
    cache.insert(Key(1), maker.plain(1).clone_panics()).expect("it fits");
    assert!(catch_unwind(AssertUnwindSafe(|| cache.get(&Key(1)))).is_err());
    assert!(cache.contains(&Key(1)));
    let loading = || cache.get_or_load(&Key(2), || Ok::<_, ()>(maker.plain(1).clone_panics()));
    assert!(catch_unwind(AssertUnwindSafe(loading)).is_err());
    assert_eq!(cache.stats().load_panics, 1);
    assert!(cache.get_or_load(&Key(2), || Ok::<_, ()>(maker.plain(1))).is_ok());
    assert!(cache.remove(&Key(1)).is_some());
    consistent(&cache, &maker);
}

#[test]
fn a_value_may_use_the_cache_as_it_is_dropped() {
    struct Reinserting(Option<Cache<u32, Arc<Reinserting>>>);
    impl Drop for Reinserting {
        fn drop(&mut self) {
            if let Some(cache) = &self.0 {
                assert!(cache.insert(9, Arc::new(Self(None))).is_ok());
            }
        }
    }
    let cache = Cache::builder().capacity_weight(2).shards(1).build().expect("it is valid");
    for key in 0..3 {
        assert!(cache.insert(key, Arc::new(Reinserting(Some(cache.clone())))).is_ok());
    }
    assert!(cache.contains(&9), "the drop of an evicted value ran outside the lock");
    // The values hold the cache that holds them.
    cache.clear();
}
