//! The hot paths of the event bus, each alone on one thread.
//!
//! Throughput between threads is measured against peers in the peers package, where ratios mean something.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use phalanx::bus::{EventBus, Filter, Overflow, Publisher, Topic};

type Payload = [u64; 8];

const PAYLOAD: Payload = [7; 8];
const BATCH: u64 = 64;

fn bus() -> (EventBus<Payload>, Publisher<Payload>, Topic) {
    let bus = EventBus::builder().build().expect("the defaults are valid");
    let topic = bus.topic("bench/topic").expect("a valid name");
    let publisher = bus.publisher();
    (bus, publisher, topic)
}

fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bus/publish");
    group.throughput(Throughput::Elements(1));
    let (bus, publisher, topic) = bus();
    group.bench_function("nobody subscribed", |bencher| {
        bencher.iter(|| publisher.publish(topic, black_box(PAYLOAD)));
    });
    let lagging = bus.subscribe(Filter::all(), Overflow::DropOldest);
    group.bench_function("one drop-oldest reader asleep", |bencher| {
        bencher.iter(|| publisher.publish(topic, black_box(PAYLOAD)));
    });
    drop(lagging);
    let behind = bus.subscribe(Filter::all(), Overflow::Block);
    while publisher.try_publish(topic, PAYLOAD).is_ok() {}
    group.bench_function("refused by a full ring", |bencher| {
        bencher.iter(|| publisher.try_publish(topic, black_box(PAYLOAD)).is_err());
    });
    drop(behind);
    group.finish();
}

fn receive(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bus/publish and receive");
    group.throughput(Throughput::Elements(BATCH));
    for (name, overflow) in [("block", Overflow::Block), ("drop-oldest", Overflow::DropOldest)] {
        let (bus, publisher, topic) = bus();
        let mut reader = bus.subscribe(Filter::all(), overflow);
        group.bench_function(format!("{name}, one by one"), |bencher| {
            bencher.iter(|| {
                for _ in 0..BATCH {
                    publisher.publish(topic, black_box(PAYLOAD)).expect("open");
                }
                for _ in 0..BATCH {
                    black_box(reader.try_recv().expect("there"));
                }
            });
        });
        group.bench_function(format!("{name}, in a batch"), |bencher| {
            bencher.iter(|| {
                for _ in 0..BATCH {
                    publisher.publish(topic, black_box(PAYLOAD)).expect("open");
                }
                reader.try_for_each_batch(|event| {
                    black_box(event.payload);
                })
            });
        });
    }
    group.finish();
}

fn filter(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bus/filter");
    group.throughput(Throughput::Elements(BATCH));
    let (bus, publisher, topic) = bus();
    let other = Filter::topics(["other/**"]).expect("a valid pattern");
    let mut reader = bus.subscribe(other, Overflow::Block);
    group.bench_function("no event matches", |bencher| {
        bencher.iter(|| {
            for _ in 0..BATCH {
                publisher.publish(topic, black_box(PAYLOAD)).expect("open");
            }
            reader.try_recv().is_err()
        });
    });
    group.finish();
}

criterion_group!(benches, publish, receive, filter);
criterion_main!(benches);
