//! Pools that hand out objects: deadpool without a manager, bb8, object-pool, and a queue of what is idle.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::measure::Contestant;

/// Pairs of taking and giving back in a unit of work: few, so that the laps of a slow pool are not longer than those of
/// a fast one.
pub const PAIRS: u64 = 1000;

/// One whose unit is the pairs; what it received is how often it was given an object that there is.
pub fn pairs(name: &'static str, mut pair: impl FnMut() -> bool + 'static) -> Contestant<'static> {
    unit(name, move || (0..PAIRS).map(|_| u64::from(pair())).sum())
}

fn unit(name: &'static str, unit: impl FnMut() -> u64 + 'static) -> Contestant<'static> {
    Contestant::unit(name, PAIRS, unit)
}

pub fn array_queue(objects: u64) -> Contestant<'static> {
    let queue = ArrayQueue::new(objects as usize);
    (0..objects).for_each(|object| queue.push(object).expect("there is room"));
    pairs("array-queue", move || {
        let object = queue.pop().expect("one is idle");
        queue.push(object).is_ok()
    })
}

pub fn deadpool_unmanaged(objects: u64) -> Contestant<'static> {
    let pool = deadpool::unmanaged::Pool::from((0..objects).collect::<Vec<_>>());
    pairs("deadpool-unmanaged", move || {
        let object = pool.try_get().expect("one is idle");
        *object < objects
    })
}

pub fn object_pool(objects: u64) -> Contestant<'static> {
    let pool = object_pool::Pool::from_vec((0..objects).collect());
    pairs("object-pool", move || {
        let object = pool.try_pull().expect("one is idle");
        *object < objects
    })
}

/// Makes objects for a bb8 pool, and checks none of them.
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

pub fn bb8(objects: u64) -> Contestant<'static> {
    let runtime = super::actors::one_thread();
    let pool = runtime
        .block_on(
            bb8::Pool::builder()
                .max_size(objects as u32)
                .min_idle(Some(objects as u32))
                .test_on_check_out(false)
                .idle_timeout(None)
                .max_lifetime(None)
                .build(Numbered(AtomicU64::new(0))),
        )
        .expect("a pool without connections to make starts");
    unit("bb8", move || {
        runtime.block_on(async {
            let mut received = 0;
            for _ in 0..PAIRS {
                let object = pool.get().await.expect("one is idle");
                received += u64::from(*object < objects);
            }
            received
        })
    })
}

/// Two compare-and-swaps that nobody contends.
pub fn probe_cas() -> Contestant<'static> {
    let word = Arc::new(AtomicU64::new(0));
    pairs("probe-cas", move || {
        let word = black_box(&word);
        let swap =
            |from, to| word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok();
        swap(0, 1) && swap(1, 0)
    })
}
