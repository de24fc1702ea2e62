//! The cache beside its peers: `u64` keys, `Arc<[u8]>` values, capacities in which every key fits.

use std::num::NonZeroUsize;
use std::sync::Arc;

use phalanx::cache::Cache;
use serde_json::{Map, Value, json};

use crate::measure::{Contestant, measure};
use crate::row::{OURS, Row, Spec, Time, Unit};
use crate::{RowFn, Settings};

pub const ROWS: &[(&str, RowFn)] = &[("get-1", get_1)];

const KEYS: usize = 100_000;
const VALUE_BYTES: usize = 16;
/// Lookups in a unit of work.
const LOOKUPS: usize = 1_000_000;
/// How much larger than needed a cache is, so that none evicts, however it divides its capacity.
const SLACK: usize = 2;

/// The key at each place of the trace, drawn with Zipf's law by inverting its distribution.
fn zipf_trace(exponent: f64) -> Vec<u64> {
    let mut sum = 0.0;
    let cumulative: Vec<f64> = (1..=KEYS)
        .map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        })
        .collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..LOOKUPS)
        .map(|_| {
            // SplitMix64, so that the trace is the same in every run.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            let at = (mixed >> 11) as f64 / (1_u64 << 53) as f64 * sum;
            cumulative.partition_point(|below| *below < at) as u64
        })
        .collect()
}

fn value_of(key: u64) -> Arc<[u8]> {
    let mut bytes = [0; VALUE_BYTES];
    bytes[..8].copy_from_slice(&key.to_le_bytes());
    Arc::from(bytes)
}

/// What a lookup received, so that a miss or a wrong value shows.
fn received(value: Option<&Arc<[u8]>>) -> u64 {
    value.map_or(u64::MAX, |value| u64::from(value[0]) + 256 * u64::from(value[1]))
}

fn walk<V: std::borrow::Borrow<Arc<[u8]>>>(
    trace: &[u64],
    mut get: impl FnMut(u64) -> Option<V>,
) -> u64 {
    trace.iter().fold(0_u64, |sum, key| {
        sum.wrapping_mul(31).wrapping_add(received(get(*key).as_ref().map(|value| value.borrow())))
    })
}

fn work() -> Map<String, Value> {
    let Value::Object(work) = json!({
        "keys": KEYS, "value_bytes": VALUE_BYTES, "zipf_exponent": 0.99, "lookups_a_unit": LOOKUPS,
    }) else {
        return Map::new();
    };
    work
}

fn get_1(settings: &Settings) -> Row {
    let spec = Spec {
        part: "cache",
        id: "get-1",
        what: "one thread gets 100,000 resident keys, Zipf 0.99, cloning an Arc<[u8]>",
        unit: Unit::PerSecond,
        time: Time::Wall,
        work: work(),
        targets: &[("quick-cache", 0.85), ("moka", 4.0)],
    };
    let trace = zipf_trace(0.99);
    let ours = Cache::<u64, Arc<[u8]>>::builder()
        .capacity_weight((SLACK * KEYS * VALUE_BYTES) as u64)
        .weigher(|_: &u64, value: &Arc<[u8]>| value.len() as u64)
        .build()
        .expect("the configuration is valid");
    let quick = quick_cache::sync::Cache::<u64, Arc<[u8]>>::new(SLACK * KEYS);
    let moka = moka::sync::Cache::<u64, Arc<[u8]>>::new((SLACK * KEYS) as u64);
    for key in 0..KEYS as u64 {
        ours.insert(key, value_of(key)).expect("every entry fits");
        quick.insert(key, value_of(key));
        moka.insert(key, value_of(key));
    }
    moka.run_pending_tasks();
    // The same order of use with one lock, its table as large as it will be.
    let lru = parking_lot::Mutex::new(lru::LruCache::new(
        NonZeroUsize::new(SLACK * KEYS).expect("there are keys"),
    ));
    for key in 0..KEYS as u64 {
        lru.lock().put(key, value_of(key));
    }
    fn one<'a>(name: &'static str, unit: impl FnMut() -> u64 + 'a) -> Contestant<'a> {
        Contestant::unit(name, LOOKUPS as u64, unit)
    }
    measure(
        settings,
        spec,
        vec![
            one(OURS, || walk(&trace, |key| ours.get(&key))),
            one("quick-cache", || walk(&trace, |key| quick.get(&key))),
            one("lru", || walk(&trace, |key| lru.lock().get(&key).cloned())),
            one("moka", || walk(&trace, |key| moka.get(&key))),
        ],
    )
}
