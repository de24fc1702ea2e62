//! The public hot paths of the cache: hits, inserts that evict, and a load that hits.
//!
//! `cargo bench --bench cache`. How it stands against its peers is measured by `benches/peers`.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use phalanx::cache::Cache;

const KEYS: u64 = 100_000;
/// How many operations a measurement makes, over keys in an order without a pattern.
const OPERATIONS: u64 = 10_000;

fn full(shards: usize) -> Cache<u64, Arc<[u8]>> {
    let cache = Cache::builder()
        .capacity_weight(KEYS * 16)
        .weigher(|_: &u64, value: &Arc<[u8]>| value.len() as u64)
        .shards(shards)
        .build()
        .expect("the configuration is valid");
    let value: Arc<[u8]> = Arc::from([0_u8; 16]);
    for key in 0..KEYS {
        cache.insert(key, Arc::clone(&value)).expect("16 bytes fit");
    }
    cache
}

/// Walks all keys with a stride that visits each once.
fn keys() -> impl Iterator<Item = u64> {
    (0..OPERATIONS).map(|step| step * 48_271 % KEYS)
}

fn hits(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache");
    group.throughput(Throughput::Elements(OPERATIONS));
    for shards in [1, 16] {
        let cache = full(shards);
        group.bench_function(format!("get/{shards}-shards"), |b| {
            b.iter(|| keys().filter(|key| black_box(cache.get(key)).is_some()).count());
        });
    }
    let cache = full(16);
    group.bench_function("get_or_load/hit", |b| {
        b.iter(|| keys().filter(|key| cache.get_or_load(key, || Err(())).is_ok()).count());
    });
    group.finish();
}

fn inserts(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache");
    group.throughput(Throughput::Elements(OPERATIONS));
    let cache = full(16);
    let value: Arc<[u8]> = Arc::from([1_u8; 16]);
    group.bench_function("insert/replace", |b| {
        b.iter(|| keys().for_each(|key| drop(cache.insert(key, Arc::clone(&value)))));
    });
    let mut fresh = KEYS;
    group.bench_function("insert/evict", |b| {
        b.iter(|| {
            for _ in 0..OPERATIONS {
                fresh += 1;
                drop(black_box(cache.insert(fresh, Arc::clone(&value))));
            }
        });
    });
    group.finish();
}

fn loads(c: &mut Criterion) {
    let cache = full(16);
    let value: Arc<[u8]> = Arc::from([2_u8; 16]);
    let mut fresh = KEYS;
    c.bench_function("cache/get_or_load/miss", |b| {
        b.iter(|| {
            fresh += 1;
            cache.get_or_load(&fresh, || Ok::<_, ()>(Arc::clone(&value)))
        });
    });
}

criterion_group!(benches, hits, inserts, loads);
criterion_main!(benches);
