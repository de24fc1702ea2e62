//! Threads that do operations and write them down.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use phalanx::state::{Collection, Snapshot, StateManager, Version};

use super::KEYS;

/// Which collection, and which of its rows.
pub(super) type Key = (u8, u8);

/// A row and its value; none where there is no row.
pub(super) type Row = (Key, Option<u64>);

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

/// Those that write, at least now and then.
pub(super) const KINDS: &[&str] = &[
    "insert",
    "remove",
    "set",
    "set unchanged",
    "insert new",
    "update",
    "move",
    "copy",
    "sum",
    "restore",
];

/// What an operation comes to.
type Outcome = (&'static str, Vec<Row>, Vec<Row>, Option<Version>);

pub(super) fn record(
    state: &StateManager,
    seed: u64,
    threads: u64,
    operations: u64,
) -> Vec<Operation> {
    let open = |name| state.collection::<u8, u64>(name).expect("it has one type");
    let sides = [open("rows"), open("others")];
    let (clock, start) = (AtomicU64::new(0), Barrier::new(threads as usize));
    // SeqCst: one order of all numbers, and what was seen before one is seen after a larger one.
    let now = || clock.fetch_add(1, Ordering::SeqCst);
    let one = |thread: u64| {
        let mut random = (seed * 1000 + thread + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut done = Vec::new();
        let mut kept = state.snapshot();
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
            let (what, found, writes, version) =
                operation(state, &sides, &mut kept, random >> 16, fresh);
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
    let mut history: Vec<_> = thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it does not panic")).collect()
    });
    tell_restores_apart(&mut history);
    history
}

/// One that found all of it as it was to be has made no version, but was told the newest: it has read all of it there.
/// Of several that were told one version which nobody else has, the first to be invoked may be the one that made it,
/// since the others were told it later than it was made.
fn tell_restores_apart(history: &mut [Operation]) {
    history.sort_by_key(|done| done.invoked);
    let made = |done: &&Operation| done.wrote() && done.what != "restore";
    let mut taken: Vec<_> = history.iter().filter(made).map(|done| done.version).collect();
    taken.push(Some(Version::ZERO));
    for done in history.iter_mut().filter(|done| done.what == "restore") {
        if taken.contains(&done.version) {
            done.found = std::mem::take(&mut done.writes);
        } else {
            taken.push(done.version);
        }
    }
}

fn all(snapshot: &Snapshot, sides: &[Collection<u8, u64>; 2]) -> Vec<Row> {
    let rows = |side: u8| {
        (0..KEYS).map(move |key| ((side, key), snapshot.get(&sides[usize::from(side)], &key)))
    };
    rows(0).chain(rows(1)).collect()
}

fn operation(
    state: &StateManager,
    sides: &[Collection<u8, u64>; 2],
    kept: &mut Snapshot,
    random: u64,
    fresh: u64,
) -> Outcome {
    let (side, key) = ((random >> 40 & 1) as u8, (random % u64::from(KEYS)) as u8);
    let (rows, others) = (&sides[usize::from(side)], &sides[usize::from(1 - side)]);
    let (this, that) = ((side, key), (1 - side, (random >> 8) as u8 % KEYS));
    let other = that.1;
    let refused = |current| ("refused", vec![(this, current)], vec![], None);
    match (random >> 24) % 16 {
        0 => ("get", vec![(this, rows.get(&key))], vec![], None),
        1 | 2 => {
            let version = rows.insert(key, fresh).expect("nothing refuses it");
            ("insert", vec![], vec![(this, Some(fresh))], Some(version))
        }
        3 => {
            let (found, version) = rows.remove(&key).expect("nothing refuses it");
            let writes = found.map(|_| (this, None)).into_iter().collect();
            ("remove", vec![(this, found)], writes, Some(version))
        }
        4 => {
            // As a client that looked before.
            let expected = rows.get(&key);
            thread::yield_now();
            let set = rows.compare_and_set(&key, expected.as_ref(), Some(fresh));
            match set.expect("nothing refuses it") {
                Ok(version) => {
                    ("set", vec![(this, expected)], vec![(this, Some(fresh))], Some(version))
                }
                Err(error) => refused(error.current),
            }
        }
        5 => {
            let snapshot = state.snapshot();
            thread::yield_now();
            let set = rows.set_if_unchanged(&snapshot, &key, Some(fresh));
            match set.expect("nothing refuses it") {
                Ok(version) => {
                    let expected = snapshot.get(rows, &key);
                    let writes = vec![(this, Some(fresh))];
                    ("set unchanged", vec![(this, expected)], writes, Some(version))
                }
                Err(error) => refused(error.current),
            }
        }
        6 => match rows.insert_new(&key, fresh).expect("nothing refuses it") {
            Ok(version) => {
                ("insert new", vec![(this, None)], vec![(this, Some(fresh))], Some(version))
            }
            Err(error) => refused(error.current),
        },
        7 => {
            let mut found = None;
            let made = |current: Option<&u64>| {
                found = current.copied();
                thread::yield_now();
                Some(found.unwrap_or(0).wrapping_add(fresh))
            };
            let version = rows.update(&key, made).expect("nothing refuses it");
            let writes = vec![(this, Some(found.unwrap_or(0).wrapping_add(fresh)))];
            ("update", vec![(this, found)], writes, Some(version))
        }
        8 => {
            // Moves a row's value to another.
            let moved = state.transaction(|tx| {
                let (from, to) = (tx.get(rows, &key), tx.get(others, &other));
                thread::yield_now();
                tx.insert(others, other, from.unwrap_or(fresh));
                tx.insert(rows, key, fresh);
                Ok((from, to))
            });
            let ((from, to), version) = moved.expect("nothing refuses it");
            let writes = vec![(that, from.or(Some(fresh))), (this, Some(fresh))];
            ("move", vec![(this, from), (that, to)], writes, Some(version))
        }
        9 | 10 => {
            // Writes none of the rows that it reads.
            let copied = state.transaction(|tx| {
                let from = tx.get(rows, &key);
                thread::yield_now();
                tx.insert(others, other, from.unwrap_or(fresh));
                Ok(from)
            });
            let (from, version) = copied.expect("nothing refuses it");
            ("copy", vec![(this, from)], vec![(that, from.or(Some(fresh)))], Some(version))
        }
        11 | 12 => {
            let summed = state.transaction(|tx| {
                let mut found = tx.rows(rows);
                thread::yield_now();
                found.sort_unstable();
                tx.insert(others, other, sum(&found, fresh));
                Ok(found)
            });
            let (found, version) = summed.expect("nothing refuses it");
            assert!(found.iter().all(|(key, _)| *key < KEYS), "nobody writes others");
            let value = |key| found.iter().find(|(row, _)| *row == key).map(|(_, value)| *value);
            let rows = (0..KEYS).map(|key| ((side, key), value(key))).collect();
            ("sum", rows, vec![(that, Some(sum(&found, fresh)))], Some(version))
        }
        13 => {
            // Of a snapshot that this thread took, or went back to, some time ago.
            let version = state.restore(kept).expect("nothing refuses it");
            let writes = all(kept, sides);
            *kept = state.snapshot();
            ("restore", vec![], writes, Some(version))
        }
        14 => {
            let read = state.transaction(|tx| Ok([tx.get(rows, &key), tx.get(others, &other)]));
            let ([one, two], version) = read.expect("nothing refuses it");
            ("read", vec![(this, one), (that, two)], vec![], Some(version))
        }
        _ => {
            let snapshot = state.snapshot();
            let found = all(&snapshot, sides);
            let version = snapshot.version();
            *kept = snapshot;
            ("snapshot", found, vec![], Some(version))
        }
    }
}

/// Different for each operation, so that nothing is what it was before by chance.
fn sum(rows: &[(u8, u64)], fresh: u64) -> u64 {
    rows.iter().fold(fresh << 32, |sum, (_, value)| sum.wrapping_add(*value))
}
