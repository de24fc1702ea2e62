//! Threads that do operations and write them down.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use phalanx::state::{Collection, StateManager, Version};

use super::KEYS;

/// A row and its value; none where there is no row.
pub(super) type Row = (u8, Option<u64>);

#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) thread: u64,
    pub(super) invoked: u64,
    pub(super) returned: u64,
    pub(super) what: &'static str,
    /// What it found before its own writes.
    pub(super) found: Vec<Row>,
    pub(super) writes: Vec<Row>,
    /// Where it was told one.
    pub(super) version: Option<Version>,
}

impl Operation {
    pub(super) fn wrote(&self) -> bool {
        !self.writes.is_empty()
    }
}

/// What an operation comes to.
type Outcome = (&'static str, Vec<Row>, Vec<Row>, Option<Version>);

pub(super) fn record(
    state: &StateManager,
    seed: u64,
    threads: u64,
    operations: u64,
) -> Vec<Operation> {
    let rows = state.collection::<u8, u64>("rows").expect("it has one type");
    let (clock, start) = (AtomicU64::new(0), Barrier::new(threads as usize));
    // SeqCst: one order of all numbers, and what was seen before one is seen after a larger one.
    let now = || clock.fetch_add(1, Ordering::SeqCst);
    let one = |thread: u64| {
        let mut random = (seed * 1000 + thread + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut done = Vec::new();
        start.wait();
        for number in 0..operations {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let fresh = thread * operations + number + 1;
            let invoked = now();
            // So that others come in between, also on one core.
            if random >> 60 < 4 {
                thread::yield_now();
            }
            let (what, found, writes, version) = operation(state, &rows, random >> 16, fresh);
            if random >> 60 > 11 {
                thread::yield_now();
            }
            let returned = now();
            done.push(Operation { thread, invoked, returned, what, found, writes, version });
            if let Some(version) = version
                && state.is_durable()
                && number % 16 == 0
            {
                state.wait_durable(version).expect("the disk works");
            }
        }
        done
    };
    thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it does not panic")).collect()
    })
}

fn operation(state: &StateManager, rows: &Collection<u8, u64>, random: u64, fresh: u64) -> Outcome {
    let key = (random % u64::from(KEYS)) as u8;
    let other = (key + 1 + (random >> 8) as u8 % (KEYS - 1)) % KEYS;
    match (random >> 24) % 8 {
        0 | 1 => ("get", vec![(key, rows.get(&key))], vec![], None),
        2 => {
            let version = rows.insert(key, fresh).expect("nothing refuses it");
            ("insert", vec![], vec![(key, Some(fresh))], Some(version))
        }
        3 => {
            let (found, version) = rows.remove(&key).expect("nothing refuses it");
            let writes = found.map(|_| (key, None)).into_iter().collect();
            ("remove", vec![(key, found)], writes, Some(version))
        }
        4 => {
            // As a client that looked before.
            let expected = rows.get(&key);
            let set = rows.compare_and_set(&key, expected.as_ref(), Some(fresh));
            match set.expect("nothing refuses it") {
                Ok(version) => {
                    ("set", vec![(key, expected)], vec![(key, Some(fresh))], Some(version))
                }
                Err(refused) => ("refused set", vec![(key, refused.current)], vec![], None),
            }
        }
        5 => {
            // Moves a row's value to another.
            let moved = state.transaction(|tx| {
                let (from, to) = (tx.get(rows, &key), tx.get(rows, &other));
                thread::yield_now();
                match from {
                    Some(value) => tx.insert(rows, other, value),
                    None => tx.insert(rows, other, fresh),
                }
                tx.insert(rows, key, fresh);
                Ok((from, to))
            });
            let ((from, to), version) = moved.expect("nothing refuses it");
            let writes = vec![(other, from.or(Some(fresh))), (key, Some(fresh))];
            ("move", vec![(key, from), (other, to)], writes, Some(version))
        }
        6 => {
            let read = state.transaction(|tx| Ok([tx.get(rows, &key), tx.get(rows, &other)]));
            let ([one, two], version) = read.expect("nothing refuses it");
            ("read", vec![(key, one), (other, two)], vec![], Some(version))
        }
        _ => {
            let snapshot = state.snapshot();
            let found = (0..KEYS).map(|key| (key, snapshot.get(rows, &key))).collect();
            ("snapshot", found, vec![], Some(snapshot.version()))
        }
    }
}
