//! Workers share a cache of documents: each is fetched once, however many ask for it, and all of them
//! together stay within a budget of bytes.
//!
//! `cargo run --example cache_with_loader`

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use phalanx::cache::{Cache, LoadError};

const BUDGET_BYTES: u64 = 64 * 1024;

/// The slow source that the cache stands in front of.
fn fetch(name: &str) -> Result<Arc<str>, String> {
    match name {
        "missing" => Err(format!("no document is called {name}")),
        // Larger than the whole budget: served, but not kept.
        "atlas" => Ok("map ".repeat(20_000).into()),
        name => Ok(format!("{name}: ").repeat(1_000).into()),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A handle is an `Arc` inside: clones are the same cache.
    let cache: Cache<String, Arc<str>> = Cache::builder()
        .capacity_weight(BUDGET_BYTES)
        .weigher(|name: &String, text: &Arc<str>| (name.len() + text.len()) as u64)
        .build()?;

    // Eight workers want the same ten documents at the same time.
    let fetched = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for number in 0..10 {
                    let name = format!("page-{}", number % 5);
                    let text = cache.get_or_load(&name, || {
                        fetched.fetch_add(1, Ordering::Relaxed);
                        fetch(&name)
                    });
                    assert!(text.is_ok_and(|text| text.starts_with(&name)));
                }
            });
        }
    });
    println!("80 requests for 5 documents: {} fetched", fetched.into_inner());

    // What a loader fails with reaches the one who asked, as it is.
    match cache.get_or_load(&"missing".to_owned(), || fetch("missing")) {
        Err(LoadError::Failed(reason)) => println!("missing: {reason}"),
        other => println!("unexpected: {other:?}"),
    }

    // A document that does not fit is handed out and counted, and pushes nobody out.
    let atlas = cache.get_or_load(&"atlas".to_owned(), || fetch("atlas"))?;
    println!("atlas: {} bytes, kept: {}", atlas.len(), cache.contains("atlas"));

    // More documents than the budget holds: the least recently used leave.
    for number in 0..20 {
        let name = format!("page-{number}");
        cache.get_or_load(&name, || fetch(&name))?;
        assert!(cache.weight() <= BUDGET_BYTES);
    }
    let stats = cache.stats();
    println!("{} of {BUDGET_BYTES} bytes in {} entries", stats.weight, stats.entries);
    println!(
        "{} hits, {} misses, {} loads, {} failed, {} evicted, {} too large",
        stats.hits,
        stats.misses,
        stats.loads,
        stats.load_errors,
        stats.evicted(),
        stats.rejected_too_large
    );
    Ok(())
}
