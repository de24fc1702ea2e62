//! Single-flight and the shared count, over every interleaving.

use std::sync::atomic::AtomicUsize as Count;

use super::*;
use crate::sync::weakened;

fn cache(capacity: u64, shards: usize) -> Cache<u8, u8> {
    Cache::builder()
        .capacity_weight(capacity)
        .weigher(|_: &u8, value: &u8| u64::from(*value))
        .shards(shards)
        .build()
        .expect("the configuration is valid")
}

/// Few pre-emptions find what there is to find here, and keep a model within seconds.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn two_callers_load_once() {
    explore(|| {
        let cache = cache(10, 1);
        let loads = Arc::new(Count::new(0));
        let call = {
            let (cache, loads) = (cache.clone(), Arc::clone(&loads));
            move || {
                let loaded = cache.get_or_load(&1, || {
                    loads.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, ()>(7)
                });
                assert_eq!(loaded, Ok(7));
            }
        };
        let other = thread::spawn(call.clone());
        call();
        other.join().expect("the other caller does not panic");
        assert_eq!(loads.load(Ordering::Relaxed), 1);
        assert_eq!(cache.stats().loads, 1);
    });
}

#[test]
fn loom_of_two_callers_one_loads() {
    two_callers_load_once();
}

#[test]
#[should_panic(expected = "assertion `left == right` failed")]
fn loom_twin_without_the_second_look_both_load() {
    weakened("flight-recheck", two_callers_load_once);
}

#[test]
fn loom_a_caller_whose_leader_fails_loads_by_itself() {
    explore(|| {
        let cache = cache(10, 1);
        let calls = Arc::new(Count::new(0));
        let call = {
            let (cache, calls) = (cache.clone(), Arc::clone(&calls));
            move || {
                cache.get_or_load(&1, || match calls.fetch_add(1, Ordering::Relaxed) {
                    0 => Err("the first load fails"),
                    _ => Ok(7),
                })
            }
        };
        let other = thread::spawn(call.clone());
        let results = [call(), other.join().expect("the other caller does not panic")];
        // Which of the two came first is open; that it alone failed is not.
        assert!(results.contains(&Ok(7)), "{results:?}");
        assert!(results.contains(&Err(LoadError::Failed("the first load fails"))), "{results:?}");
    });
}

fn two_loads_that_need_each_other() {
    explore(|| {
        let cache = cache(10, 1);
        let nested = |cache: &Cache<u8, u8>, outer: u8, inner: u8| {
            cache.get_or_load(&outer, || match cache.get_or_load(&inner, || Ok::<_, ()>(1)) {
                Ok(value) => Ok(value),
                Err(LoadError::Reentrant) => Ok(2),
                Err(LoadError::Failed(())) => Err(()),
            })
        };
        let other = {
            let cache = cache.clone();
            thread::spawn(move || nested(&cache, 1, 2))
        };
        assert!(nested(&cache, 2, 1).is_ok());
        assert!(other.join().expect("the other caller does not panic").is_ok());
    });
}

#[test]
fn loom_two_loads_that_need_each_other_both_end() {
    two_loads_that_need_each_other();
}

#[test]
fn loom_two_inserts_that_do_not_fit_together_never_stand_together() {
    explore(|| {
        let cache = cache(3, 2);
        let insert = |cache: &Cache<u8, u8>, key: u8| {
            // A shard each, so that one must evict from the other's.
            let hash = u64::from(key) << 40;
            assert!(cache.inner.insert(hash, key, 2).is_ok());
            assert!(cache.weight() <= 3);
        };
        let other = {
            let cache = cache.clone();
            thread::spawn(move || insert(&cache, 1))
        };
        insert(&cache, 0);
        other.join().expect("the other insert does not panic");
        assert_eq!((cache.weight(), cache.len()), (2, 1));
        assert_eq!(cache.stats().evicted_for_weight, 1);
    });
}
