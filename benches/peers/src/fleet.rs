//! The fleet beside pools: an agent is taken and given back.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use phalanx::fleet::{AgentSpec, Fleet, LeaseOutcome, Request};
use serde_json::{Map, Value, json};

use crate::measure::{Contestant, measure};
use crate::row::{OURS, Row, Spec, Time, Unit};
use crate::{RowFn, Settings};

pub const ROWS: &[(&str, RowFn)] = &[("checkout", checkout)];

const AGENTS: usize = 1000;
/// Pairs of taking and giving back in a unit of work.
const PAIRS: u64 = 100_000;

fn work() -> Map<String, Value> {
    let Value::Object(work) = json!({ "agents": AGENTS, "pairs_a_unit": PAIRS, "threads": 1 })
    else {
        return Map::new();
    };
    work
}

/// Does the pairs; what it received is how often it was given an agent that there is.
fn pairs(mut pair: impl FnMut() -> bool) -> u64 {
    (0..PAIRS).map(|_| u64::from(pair())).sum()
}

/// Takes agents out of a bb8 pool that makes no check of its own.
struct Numbered(AtomicU64);

impl bb8::ManageConnection for Numbered {
    type Connection = u64;
    type Error = std::convert::Infallible;

    async fn connect(&self) -> Result<u64, Self::Error> {
        Ok(self.0.fetch_add(1, Ordering::Relaxed))
    }
    async fn is_valid(&self, _: &mut u64) -> Result<(), Self::Error> {
        Ok(())
    }
    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }
}

fn checkout(settings: &Settings) -> Row {
    let spec = Spec {
        part: "fleet",
        id: "checkout",
        what: "one thread takes any one of 1000 agents and gives it back (ns a pair)",
        unit: Unit::Nanoseconds,
        time: Time::Wall,
        work: work(),
        targets: &[("array-queue", 0.5), ("deadpool-unmanaged", 4.0), ("bb8", 8.0)],
    };
    let fleet = Fleet::<(), ()>::builder().workers(0).build().expect("the defaults are valid");
    let agents = fleet.spawn_batch(&AgentSpec::new("agent"), AGENTS).expect("there is room");
    assert_eq!(agents.len(), AGENTS);
    let request = Request::any();

    let queue = ArrayQueue::new(AGENTS);
    let deadpool = deadpool::unmanaged::Pool::new(AGENTS);
    for agent in 0..AGENTS as u64 {
        queue.push(agent).expect("there is room");
        deadpool.try_add(agent).map_err(|(_, error)| error).expect("there is room");
    }

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime starts");
    let bb8 = runtime
        .block_on(
            bb8::Pool::builder()
                .max_size(AGENTS as u32)
                .min_idle(Some(AGENTS as u32))
                .test_on_check_out(false)
                .idle_timeout(None)
                .max_lifetime(None)
                .build(Numbered(AtomicU64::new(0))),
        )
        .expect("a pool without connections to make starts");

    let probe = AtomicU64::new(0);
    fn one<'a>(name: &'static str, unit: impl FnMut() -> u64 + 'a) -> Contestant<'a> {
        Contestant::unit(name, Time::Wall, PAIRS, unit)
    }
    let contestants = vec![
        one(OURS, || {
            pairs(|| {
                let lease = fleet.try_allocate(&request).expect("an agent is idle");
                lease.complete(LeaseOutcome::Succeeded).is_ok()
            })
        }),
        one("array-queue", || {
            pairs(|| {
                let agent = queue.pop().expect("an agent is idle");
                queue.push(agent).is_ok()
            })
        }),
        one("deadpool-unmanaged", || {
            pairs(|| {
                let agent = deadpool.try_get().expect("an agent is idle");
                *agent < AGENTS as u64
            })
        }),
        one("bb8", || {
            runtime.block_on(async {
                let mut received = 0;
                for _ in 0..PAIRS {
                    let agent = bb8.get().await.expect("an agent is idle");
                    received += u64::from(*agent < AGENTS as u64);
                }
                received
            })
        }),
        one("probe-cas", || {
            pairs(|| {
                let swap = |from, to| {
                    probe.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
                };
                swap(0, 1) && swap(1, 0)
            })
        }),
    ];
    measure(settings, spec, contestants)
}
