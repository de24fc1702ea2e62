//! The rows of taking snapshots: what one costs, and what taking many costs those who write.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use phalanx::state::StateManager;
use serde_json::{Value, json};

use super::folder::{Folder, file_system};
use super::maps::{Cut, Dash, Imbl, Ours, Papaya, Plain, Scc, Written};
use super::record::{self, Record, content, snapshot_content};
use super::{Lineup, Targets};
use crate::Settings;
use crate::measure::{Contestant, Sample};
use crate::row::{OURS, Row, Time, Unit};

pub fn snapshot_60k(settings: &Settings) -> Row {
    snapshot(
        settings,
        "snapshot-60k",
        "taking a snapshot of a state of 60 KB (ns a snapshot, dropping it not included)",
        60_000,
        16,
        &[("deep-clone", 100.0)],
    )
}

pub fn snapshot_1m(settings: &Settings) -> Row {
    snapshot(
        settings,
        "snapshot-1m",
        "taking a snapshot of a state of 1 MB (ns a snapshot, dropping it not included)",
        1_000_000,
        4,
        &[("deep-clone", 1000.0)],
    )
}

pub fn snapshot_100m(settings: &Settings) -> Row {
    snapshot(
        settings,
        "snapshot-100m",
        "taking a snapshot of a state of 100 MB (ns a snapshot, dropping it not included)",
        100_000_000,
        1,
        // At most twice what a snapshot of 60 KB takes.
        &[("deep-clone", 100_000.0), ("self-60k", 0.5)],
    )
}

/// How many snapshots that are pointers are taken before they are dropped.
const CHEAP: usize = 1024;

fn snapshot(
    settings: &Settings,
    id: &'static str,
    what: &'static str,
    bytes: u64,
    clones: usize,
    targets: Targets,
) -> Row {
    let folder = Folder::new(settings, id);
    let open =
        |name| StateManager::builder().path(folder.fresh(name)).open().expect("the folder is new");
    let filled = record::fill(open("state"), bytes);
    let imbl: imbl::HashMap<u64, Arc<Record>> =
        filled.map.iter().map(|(key, record)| (*key, Arc::new(record.clone()))).collect();
    let small = targets
        .iter()
        .any(|(against, _)| *against == "self-60k")
        .then(|| record::fill(open("state-60k"), 60_000));
    let work = json!({
        "rows": filled.map.len(), "encoded_bytes": filled.bytes,
        "store": "durable, nothing pending",
        "file_system": file_system(folder.path()),
        "snapshots_a_unit": { "ours": CHEAP, "imbl": CHEAP, "deep-clone": clones },
        "left_out": "dashmap, papaya and scc, which have no consistent cut",
    });
    let ours = taking(
        CHEAP,
        || filled.state.snapshot(),
        |snapshot| snapshot_content(snapshot, &filled.agents),
    );
    let cloned = taking(clones, || filled.map.clone(), |map| content(map.iter()));
    let alone = taking(
        CHEAP,
        || imbl.clone(),
        |map| content(map.iter().map(|(key, record)| (key, &**record))),
    );
    let mut lineup = Lineup::of(settings, Contestant::timed(OURS, ours))
        .and(Contestant::timed("deep-clone", cloned))
        .and(Contestant::timed("imbl", alone));
    if let Some(small) = &small {
        // It shows other rows than the others: its content is looked at by `fill` alone.
        let ours = taking(CHEAP, || small.state.snapshot(), |_| 0);
        lineup = lineup.and(Contestant::timed("self-60k", unseen(ours)));
    }
    lineup.measure((Unit::Nanoseconds, Time::Wall), id, what, work, targets)
}

/// Takes `batch` snapshots at a time and times the taking alone: dropping them is not part of it. The last
/// one is looked at.
fn taking<S>(
    batch: usize,
    take: impl Fn() -> S,
    content: impl Fn(&S) -> u64,
) -> impl FnMut(u64) -> Sample {
    let mut taken = Vec::with_capacity(batch);
    move |units| {
        let mut elapsed = Duration::ZERO;
        for unit in 0..units {
            let start = Instant::now();
            taken.extend((0..batch).map(|_| take()));
            elapsed += start.elapsed();
            if unit + 1 < units {
                taken.clear();
            }
        }
        let seen = taken.last().map(&content);
        taken.clear();
        Sample::new(elapsed, units * batch as u64, seen)
    }
}

fn unseen(mut run: impl FnMut(u64) -> Sample) -> impl FnMut(u64) -> Sample {
    move |units| Sample { checksum: None, ..run(units) }
}

// Writes meanwhile.

const WRITERS: u64 = 2;
const ROWS: u64 = 10_000;
/// What each writer writes in a unit: half of the rows.
const WRITES: u64 = ROWS / WRITERS;
/// How often a snapshot is taken.
const PERIOD: Duration = Duration::from_micros(100);
/// Of the snapshots that are due, how many this crate has to take for its sample to count. What each took is
/// part of the row.
const TAKEN_MIN: f64 = 0.9;
/// So many have to be due for that to be a rate, which they are not while units are counted out.
const DUE_MIN: f64 = 1000.0;

pub fn writes_under_snapshots(settings: &Settings) -> Row {
    let rates = RefCell::new(HashMap::<&str, Vec<f64>>::new());
    let under = |name: &'static str, map: &dyn Fn(u64) -> (Sample, u64), units| {
        let (sample, taken) = map(units);
        let due = sample.elapsed.as_secs_f64() / PERIOD.as_secs_f64();
        if due >= DUE_MIN {
            let rate = taken as f64 / due;
            assert!(name != OURS || rate >= TAKEN_MIN, "it took {taken} of {due:.0} snapshots");
            rates.borrow_mut().entry(name).or_default().push(rate);
        }
        sample
    };
    let without = |run: (Sample, u64)| run.0;
    let (ours, imbl) = (Ours::new(), Imbl::default());
    let (dash, papaya, scc) = (Dash::new(), Papaya::new(), Scc::new());
    let ours_under = |units| written(&ours, Some(&|| ours.cut()), units);
    let imbl_under = |units| written(&imbl, Some(&|| imbl.cut()), units);
    let row = Lineup::of(
        settings,
        Contestant::timed(OURS, |units| under(OURS, &ours_under, units)),
    )
    .and(Contestant::timed("self-without", |units| without(written(&ours, NO_CUT, units))))
    .beside(|| {
        Contestant::timed("imbl-16-locks", |units| under("imbl-16-locks", &imbl_under, units))
    })
    .beside(|| {
        Contestant::timed("imbl-16-locks-without", |units| without(written(&imbl, NO_CUT, units)))
    })
    .beside(|| Contestant::timed("dashmap-without", |units| without(written(&dash, NO_CUT, units))))
    .beside(|| {
        Contestant::timed("papaya-without", |units| without(written(&papaya, NO_CUT, units)))
    })
    .beside(|| Contestant::timed("scc-without", |units| without(written(&scc, NO_CUT, units))))
    .measure(
        (Unit::PerSecond, Time::Wall),
        "writes-under-snapshots",
        "2 writers, a commit a row, while 10,000 snapshots a second are taken (writes/s of both)",
        json!({
            "rows": ROWS, "row_bytes": size_of::<Plain>(), "writers": WRITERS,
            "snapshots_a_second": 1.0 / PERIOD.as_secs_f64(), "kept": "each until the next",
            "store": "in memory",
            "without": "no snapshots are taken; dashmap, papaya and scc have no consistent cut",
        }),
        &[("self-without", 0.85)],
    );
    let mut row = row;
    let taken = rates.into_inner().into_iter().map(|(name, rates)| {
        (name.to_owned(), json!(rates.into_iter().fold(f64::INFINITY, f64::min)))
    });
    row.spec.work.insert("taken_of_due_at_least".to_owned(), Value::Object(taken.collect()));
    row
}

const NO_CUT: Option<&(dyn Fn() + Sync)> = None;

/// Both writers go over their rows as often as there are units, while snapshots are taken if there is a way
/// to; returns how many were.
///
/// The last time they write the same whatever the units, so that everybody ends with the same rows.
fn written<S>(
    map: &impl Written,
    cut: Option<&(dyn Fn() -> S + Sync)>,
    units: u64,
) -> (Sample, u64) {
    let (together, done) = (Barrier::new(WRITERS as usize + 2), AtomicBool::new(false));
    let (elapsed, taken) = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let together = &together;
                scope.spawn(move || {
                    together.wait();
                    for pass in (0..units).rev() {
                        for at in 0..WRITES {
                            let key = (at * WRITERS + writer) * 7919 % ROWS;
                            map.put(key, Plain::new(key, pass));
                        }
                    }
                })
            })
            .collect();
        let snapshots = scope.spawn(|| {
            together.wait();
            cut.map_or(0, |cut| taken_until(cut, &done))
        });
        together.wait();
        let start = Instant::now();
        for writer in writers {
            writer.join().expect("it does not panic");
        }
        let elapsed = start.elapsed();
        done.store(true, Ordering::Relaxed);
        (elapsed, snapshots.join().expect("it does not panic"))
    });
    (Sample::new(elapsed, units * WRITERS * WRITES, Some(map.content())), taken)
}

/// Takes one each period and keeps it until the next; what it is late for it makes up.
fn taken_until<S>(cut: &(dyn Fn() -> S + Sync), done: &AtomicBool) -> u64 {
    let mut kept = None;
    let (mut taken, mut due) = (0, Instant::now());
    while !done.load(Ordering::Relaxed) {
        drop(kept.replace(cut()));
        taken += 1;
        due += PERIOD;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    taken
}
