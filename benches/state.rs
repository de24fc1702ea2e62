//! The hot paths of the state manager: `cargo bench --bench state`.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use phalanx::state::{Collection, StateManager};

const ROWS: u64 = 10_000;

/// A state in memory with rows of some 100 bytes.
fn filled() -> (StateManager, Collection<u64, String>) {
    let state = StateManager::in_memory();
    let rows = fill(&state);
    (state, rows)
}

fn fill(state: &StateManager) -> Collection<u64, String> {
    let rows = state.collection("rows").expect("the name is free");
    let filled = state.transaction(|tx| {
        (0..ROWS).for_each(|row| tx.insert(&rows, row, format!("{row:0100}")));
        Ok(())
    });
    filled.expect("nothing conflicts");
    rows
}

fn in_memory(c: &mut Criterion) {
    let (state, rows) = filled();
    let value = "x".repeat(100);
    let mut group = c.benchmark_group("state");

    group.bench_function("snapshot", |b| b.iter(|| black_box(state.snapshot())));
    let mut row = 0;
    let snapshot = state.snapshot();
    group.bench_function("read in a snapshot", |b| {
        b.iter(|| {
            row = (row + 7919) % ROWS;
            black_box(snapshot.get_ref(&rows, &row).map(String::len))
        })
    });
    group.bench_function("read a clone of the newest", |b| {
        b.iter(|| {
            row = (row + 7919) % ROWS;
            black_box(rows.get(&row))
        })
    });
    group.bench_function("commit one row", |b| {
        b.iter_batched(
            || value.clone(),
            |value| {
                row = (row + 7919) % ROWS;
                rows.insert(row, value).expect("the state is open")
            },
            BatchSize::SmallInput,
        )
    });
    group.bench_function("commit one row, a snapshot before", |b| {
        let mut kept = state.snapshot();
        b.iter(|| {
            kept = state.snapshot();
            row = (row + 7919) % ROWS;
            rows.insert(row, value.clone()).expect("the state is open");
            kept.version()
        })
    });
    group.bench_function("read and write two rows", |b| {
        b.iter(|| {
            row = (row + 7919) % ROWS;
            let done = state.transaction(|tx| {
                let (one, two) = (row, (row + 1) % ROWS);
                let (a, b) = (tx.get(&rows, &one), tx.get(&rows, &two));
                tx.insert(&rows, one, b.unwrap_or_default());
                tx.insert(&rows, two, a.unwrap_or_default());
                Ok(())
            });
            done.expect("nothing conflicts")
        })
    });
    group.finish();

    let snapshot = state.snapshot();
    if let Ok(bytes) = snapshot.encoded_size_bytes() {
        let mut group = c.benchmark_group("state");
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function("encode a snapshot", |b| b.iter(|| snapshot.encoded_size_bytes()));
        group.finish();
    }
}

#[cfg(all(feature = "durable", feature = "bincode"))]
fn durable(c: &mut Criterion) {
    let mut group = c.benchmark_group("state, durable");
    group.sample_size(20);
    for size in [1u64, 100] {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let state = StateManager::builder().path(folder.path()).open().expect("the folder is new");
        let rows = fill(&state);
        let mut row = 0;
        group.throughput(Throughput::Elements(size));
        group.bench_function(format!("a group of {size} commits of 200 bytes"), |b| {
            b.iter(|| {
                for _ in 0..size {
                    row = (row + 7919) % ROWS;
                    rows.insert(row, "x".repeat(200)).expect("the state is open");
                }
                state.flush().expect("the disk works")
            })
        });
    }
    let folder = tempfile::tempdir().expect("a folder can be made");
    let state = StateManager::builder().path(folder.path()).open().expect("the folder is new");
    fill(&state);
    state.checkpoint().expect("the disk works");
    state.close().expect("the disk works");
    group.throughput(Throughput::Elements(ROWS));
    group.bench_function("recover and decode every row", |b| {
        b.iter(|| {
            let state =
                StateManager::builder().path(folder.path()).open().expect("the store is whole");
            state.collection::<u64, String>("rows").expect("the types are the same").len()
        })
    });
    group.finish();
}

#[cfg(not(all(feature = "durable", feature = "bincode")))]
fn durable(_: &mut Criterion) {}

criterion_group!(benches, in_memory, durable);
criterion_main!(benches);
