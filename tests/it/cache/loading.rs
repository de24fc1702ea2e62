//! `get_or_load`: one load for many waiters, however it ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;

use phalanx::cache::{Cache, LoadError};

fn cache(capacity: u64) -> Cache<u32, u64> {
    Cache::builder()
        .capacity_weight(capacity)
        .weigher(|_: &u32, value: &u64| *value)
        .build()
        .expect("the configuration is valid")
}

/// Waits until so many callers stand behind somebody else's load.
fn until_waiting(cache: &Cache<u32, u64>, waits: u64) {
    while cache.stats().load_waits < waits {
        thread::yield_now();
    }
}

#[test]
fn of_many_callers_of_one_key_one_loads_and_all_get_its_value() {
    const CALLERS: u64 = 32;
    let cache = cache(100);
    let loads = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                let loaded = cache.get_or_load(&1, || {
                    // Not before all the others wait for this very load.
                    until_waiting(&cache, CALLERS - 1);
                    loads.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, ()>(7)
                });
                assert_eq!(loaded, Ok(7));
            });
        }
    });
    assert_eq!(loads.into_inner(), 1);
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.load_waits, stats.misses), (1, CALLERS - 1, CALLERS));
}

#[test]
fn after_a_failed_load_a_waiter_runs_its_own_and_sees_no_error_but_its_own() {
    let cache = cache(100);
    let leading = Barrier::new(2);
    let (failing, waiting) = thread::scope(|scope| {
        let failing = scope.spawn(|| {
            cache.get_or_load(&1, || {
                leading.wait();
                until_waiting(&cache, 1);
                Err("the source is down")
            })
        });
        let waiting = scope.spawn(|| {
            leading.wait();
            cache.get_or_load(&1, || Ok::<_, &str>(7))
        });
        (failing.join().expect("no panic"), waiting.join().expect("no panic"))
    });
    assert_eq!(waiting, Ok(7));
    assert_eq!(failing, Err(LoadError::Failed("the source is down")));
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.load_errors), (1, 1));
}

#[test]
fn a_loader_that_panics_takes_no_waiter_with_it() {
    const WAITERS: u64 = 8;
    let cache = cache(100);
    let leading = Barrier::new(1 + WAITERS as usize);
    let loads = AtomicUsize::new(0);
    thread::scope(|scope| {
        let leader = scope.spawn(|| {
            catch_unwind(AssertUnwindSafe(|| {
                cache.get_or_load(&1, || -> Result<u64, ()> {
                    leading.wait();
                    until_waiting(&cache, WAITERS);
                    panic!("the loader is broken")
                })
            }))
        });
        for _ in 0..WAITERS {
            scope.spawn(|| {
                leading.wait();
                let loaded = cache.get_or_load(&1, || {
                    loads.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, ()>(7)
                });
                assert_eq!(loaded, Ok(7));
            });
        }
        assert!(leader.join().expect("the panic was caught inside").is_err());
    });
    assert_eq!(loads.into_inner(), 1);
    assert_eq!((cache.stats().load_panics, cache.stats().loads), (1, 1));
}

#[test]
fn a_loader_that_asks_for_its_own_key_is_refused_and_not_hung() {
    let cache = cache(100);
    let loaded = cache.get_or_load(&1, || {
        assert_eq!(cache.get_or_load(&1, || Ok::<_, ()>(2)), Err(LoadError::Reentrant));
        let through_another = cache.get_or_load(&2, || {
            assert_eq!(cache.get_or_load(&1, || Ok::<_, ()>(3)), Err(LoadError::Reentrant));
            Ok::<_, ()>(4)
        });
        assert_eq!(through_another, Ok(4));
        Ok::<_, ()>(1)
    });
    assert_eq!(loaded, Ok(1));
    assert_eq!((cache.get(&1), cache.get(&2)), (Some(1), Some(4)));
    assert_eq!(cache.stats().load_reentrant, 2);
}

#[test]
fn loads_of_several_threads_in_a_ring_do_not_wait_for_each_other_for_ever() {
    const RING: u32 = 3;
    let cache = cache(100);
    let all_lead = Barrier::new(RING as usize);
    let refused = AtomicUsize::new(0);
    thread::scope(|scope| {
        for key in 0..RING {
            let (cache, all_lead, refused) = (&cache, &all_lead, &refused);
            scope.spawn(move || {
                let loaded = cache.get_or_load(&key, || {
                    all_lead.wait();
                    match cache.get_or_load(&((key + 1) % RING), || Ok::<_, ()>(99)) {
                        Err(LoadError::Reentrant) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                            Ok(1)
                        }
                        waited => waited.map_err(|_| ()),
                    }
                });
                assert_eq!(loaded, Ok(1));
            });
        }
    });
    assert_eq!(refused.into_inner(), 1);
}

#[test]
fn a_leader_that_went_on_to_another_load_is_not_mistaken_for_one_that_waits() {
    // The waiter of a finished load may not have run yet; its old place in line must not count.
    let cache = cache(100);
    for round in 0..200 {
        let (first, second) = (2 * round, 2 * round + 1);
        let waits = cache.stats().load_waits;
        let leading = Barrier::new(2);
        thread::scope(|scope| {
            let (cache, leading) = (&cache, &leading);
            scope.spawn(move || {
                let loaded = cache.get_or_load(&first, || {
                    leading.wait();
                    until_waiting(cache, waits + 1);
                    Ok::<_, ()>(1)
                });
                assert_eq!(loaded, Ok(1));
                assert!(cache.get_or_load(&second, || Ok::<_, ()>(1)).is_ok());
            });
            scope.spawn(move || {
                let loaded = cache.get_or_load(&second, || {
                    leading.wait();
                    cache.get_or_load(&first, || Ok::<_, ()>(1)).map_err(|_| ())
                });
                assert_eq!(loaded, Ok(1));
            });
        });
    }
    assert_eq!(cache.stats().load_reentrant, 0);
}

#[test]
fn a_loaded_value_too_large_to_keep_reaches_the_caller_and_the_waiters() {
    let cache = cache(10);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let loaded = cache.get_or_load(&1, || {
                    until_waiting(&cache, 1);
                    Ok::<_, ()>(11)
                });
                assert_eq!(loaded, Ok(11));
            });
        }
    });
    assert!(cache.is_empty());
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.load_waits, stats.rejected_too_large), (1, 1, 1));
}

#[test]
fn loads_of_different_keys_do_not_wait_for_each_other() {
    let cache = cache(100);
    let (started, first_runs) = mpsc::channel();
    let (finish, may_finish) = mpsc::channel();
    thread::scope(|scope| {
        let cache = &cache;
        scope.spawn(move || {
            cache.get_or_load(&1, || {
                started.send(()).map_err(|_| ())?;
                may_finish.recv().map_err(|_| ())?;
                Ok::<_, ()>(1)
            })
        });
        first_runs.recv().expect("the first load runs");
        assert_eq!(cache.get_or_load(&2, || Ok::<_, ()>(2)), Ok(2));
        assert!(!cache.contains(&1));
        finish.send(()).expect("the first load still runs");
    });
    assert_eq!(cache.get(&1), Some(1));
}
