//! The hot paths of the fleet: lease and return, dispatch of tasks, spawning.
//!
//! Run with `cargo bench --bench fleet`.

use std::hint::black_box;
use std::num::NonZeroU32;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use phalanx::fleet::{AgentSpec, Fleet, LeaseOutcome, Request, Task};

const SIZES: [usize; 3] = [100, 1_000, 100_000];

fn lease_only(agents: usize) -> Fleet {
    let fleet = Fleet::builder().build().expect("the defaults are valid");
    let limit = NonZeroU32::new(4).expect("not zero");
    for (kind, share) in [("rust", 2), ("python", 4), ("go", 4)] {
        let spec = AgentSpec::new(kind).capability(kind).max_leases(limit);
        fleet.spawn_batch(&spec, agents / share).expect("there is room");
    }
    fleet
}

fn checkout(c: &mut Criterion) {
    let mut group = c.benchmark_group("fleet/allocate-complete");
    for size in SIZES {
        let fleet = lease_only(size);
        for (name, request) in
            [("any", Request::any()), ("capability", Request::any().capability("rust"))]
        {
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| {
                    let lease = fleet.try_allocate(black_box(&request)).expect("all are idle");
                    lease.complete(LeaseOutcome::Succeeded).expect("nobody is killed");
                });
            });
        }
    }
    group.finish();
}

fn dispatch(c: &mut Criterion) {
    const TASKS: u64 = 1_000;
    let mut group = c.benchmark_group("fleet/dispatch");
    group.throughput(Throughput::Elements(TASKS));
    for agents in [10, 1_000] {
        let fleet = Fleet::<u64, u64>::builder().workers(2).build().expect("threads start");
        let spec = AgentSpec::<u64, u64>::new("echo").handler_fn(|task, _| Ok(*task.payload()));
        fleet.spawn_batch(&spec, agents).expect("there is room");
        group.bench_function(BenchmarkId::new("batch-of-1000", agents), |b| {
            b.iter_batched(
                || (0..TASKS).map(Task::new).collect::<Vec<_>>(),
                |tasks| {
                    for handle in fleet.submit_batch(tasks).expect("there is room") {
                        black_box(handle.wait());
                    }
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn spawn(c: &mut Criterion) {
    const AGENTS: usize = 10_000;
    let mut group = c.benchmark_group("fleet/spawn");
    group.throughput(Throughput::Elements(AGENTS as u64));
    group.bench_function("batch-of-10000", |b| {
        let spec = AgentSpec::new("agent").capability("rust");
        b.iter_batched(
            || Fleet::<(), ()>::builder().build().expect("the defaults are valid"),
            |fleet| {
                fleet.spawn_batch(&spec, AGENTS).expect("there is room");
                fleet
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, checkout, dispatch, spawn);
criterion_main!(benches);
