//! The rows of durable updates: how many a second.

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use phalanx::state::{Collection, StateManager};
use serde_json::json;

use super::engines::{Engine, Fjall, Redb, Sqlite};
use super::folder::{Folder, file_system, not_a_disk};
use super::group::Group;
use super::record::{TEXT_BYTES, put, text, text_content};
use super::{Lineup, Targets, spec};
use crate::Settings;
use crate::measure::{Contestant, Sample};
use crate::row::{OURS, Row, Time, Unit, median};

const ROWS: u64 = 10_000;
/// What each writer updates in a unit.
const UPDATES: u64 = 8;
const TARGETS: Targets = &[("limit-sync", 0.6), ("redb-grouped", 0.9)];

pub fn durable_8(settings: &Settings) -> Row {
    let what = "8 writers, each waits until its update of 200 bytes is durable (updates/s of all)";
    durable(settings, "durable-8", what, 8)
}

pub fn durable_32(settings: &Settings) -> Row {
    let what = "32 writers, each waits until its update of 200 bytes is durable (updates/s of all)";
    durable(settings, "durable-32", what, 32)
}

/// Where rows are updated, each by a call that returns when it is durable.
pub trait Durable: Sync {
    fn update(&self, key: u64, value: String);
    fn content(&self) -> u64;

    /// How many updates there were for each sync, where they are grouped.
    fn updates_a_group(&self) -> Option<f64> {
        None
    }
}

pub struct Ours {
    pub state: StateManager,
    rows: Collection<u64, String>,
}

impl Ours {
    /// As it is opened by default, filled and checked.
    pub fn filled(path: &Path, rows: u64) -> Self {
        let state = StateManager::builder().path(path).open().expect("the folder is new");
        let collection = state.collection("rows").expect("the name is new");
        put(&state, &collection, rows, |key| text(key, 0));
        Self { state, rows: collection }
    }
}

impl Durable for Ours {
    fn update(&self, key: u64, value: String) {
        let version = self.rows.insert(key, value).expect("the store is open");
        self.state.wait_durable(version).expect("the disk works");
    }

    fn content(&self) -> u64 {
        text_content(self.state.snapshot().iter(&self.rows).map(|(key, value)| (*key, value)))
    }

    fn updates_a_group(&self) -> Option<f64> {
        // The rows were put there by one commit in a group of its own.
        let stats = self.state.stats();
        Some((stats.commits - 1) as f64 / (stats.groups - 1) as f64)
    }
}

/// A transaction for each update.
pub struct Single<E>(pub E);

impl<E: Engine> Single<E> {
    pub fn filled(path: &Path, rows: u64) -> Self {
        let engine = E::open(path);
        engine.put(&(0..rows).map(|key| (key, text(key, 0))).collect::<Vec<_>>());
        Self(engine)
    }
}

fn engine_content(engine: &impl Engine) -> u64 {
    let mut sum = 0_u64;
    engine.each(|key, value| {
        sum = sum.wrapping_add(text_content(std::iter::once((key, value))));
    });
    sum
}

impl<E: Engine> Durable for Single<E> {
    fn update(&self, key: u64, value: String) {
        self.0.put(&[(key, value)]);
    }

    fn content(&self) -> u64 {
        engine_content(&self.0)
    }
}

impl<E: Engine> Durable for Group<E> {
    fn update(&self, key: u64, value: String) {
        self.put(key, value);
    }

    fn content(&self) -> u64 {
        engine_content(&self.engine)
    }

    fn updates_a_group(&self) -> Option<f64> {
        Some(self.rows_a_group())
    }
}

fn durable(settings: &Settings, id: &'static str, what: &'static str, writers: u64) -> Row {
    let measured = (Unit::PerSecond, Time::Wall);
    let work = json!({
        "rows": ROWS, "row_bytes": TEXT_BYTES, "writers": writers,
        "updates_a_unit": writers * UPDATES,
        "file_system": file_system(&settings.folder),
        "probe-sync": "1 / median fdatasync of an appended 4096 bytes",
        "limit-sync": "writers x probe-sync",
        "grouped": "whoever finds nobody writing writes all that wait, in one transaction",
        "others": "a transaction for each update",
    });
    if let Some(reason) = not_a_disk(settings) {
        return Row::not_run(spec(measured, id, what, work, TARGETS), reason);
    }
    let folder = Folder::new(settings, id);
    let sync = Cell::new(f64::NAN);
    let ours = Rc::new(Ours::filled(&folder.fresh("ours"), ROWS));
    let updated = |name, to| updated(name, writers, to);
    let grouped = Single::<Redb>::filled(&folder.fresh("redb-grouped"), ROWS).0;
    let grouped = Rc::new(Group::of(grouped));
    let mut lineup = Lineup::of(settings, updated(OURS, Rc::clone(&ours) as _))
        .and(updated("redb-grouped", Rc::clone(&grouped) as _))
        .and(probe_sync(&sync, &folder.fresh("probe")))
        .and(Contestant::timeless("limit-sync", || Sample {
            value: Some(writers as f64 * sync.get()),
            ..Sample::new(Duration::ZERO, 1, None)
        }));
    lineup = lineup
        .beside(|| {
            updated("redb-in-place", Rc::new(Single::<Redb>::filled(&folder.fresh("redb"), ROWS)))
        })
        .beside(|| {
            let engine = Single::<Fjall>::filled(&folder.fresh("fjall-grouped"), ROWS).0;
            updated("fjall-grouped", Rc::new(Group::of(engine)))
        })
        .beside(|| updated("fjall", Rc::new(Single::<Fjall>::filled(&folder.fresh("fjall"), ROWS))))
        .beside(|| {
            let engine = Single::<Sqlite>::filled(&folder.fresh("sqlite-grouped"), ROWS).0;
            updated("sqlite-full-grouped", Rc::new(Group::of(engine)))
        })
        .beside(|| {
            updated("sqlite-full", Rc::new(Single::<Sqlite>::filled(&folder.fresh("sqlite"), ROWS)))
        });
    let mut row = lineup.measure(measured, id, what, work, TARGETS);
    let groups = json!({ OURS: ours.updates_a_group(), "redb-grouped": grouped.updates_a_group() });
    row.spec.work.insert("updates_a_group".to_owned(), groups);
    row
}

fn updated<'a>(name: &'static str, writers: u64, to: Rc<dyn Durable + 'a>) -> Contestant<'a> {
    Contestant::timed(name, move |units| {
        let elapsed = update(&*to, writers, ROWS, units);
        Sample::new(elapsed, units * writers * UPDATES, Some(to.content()))
    })
}

/// Every writer updates its rows as often as there are units, all of them at the same time.
///
/// The last time they write the same whatever the units, so that everybody ends with the same rows.
pub fn update(to: &dyn Durable, writers: u64, rows: u64, units: u64) -> Duration {
    let together = Barrier::new(writers as usize + 1);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|writer| {
                let together = &together;
                scope.spawn(move || {
                    together.wait();
                    for pass in (0..units).rev() {
                        for at in 0..UPDATES {
                            let key = (at * writers + writer) * 7919 % rows;
                            to.update(key, text(key, pass + 1));
                        }
                    }
                })
            })
            .collect();
        together.wait();
        let start = Instant::now();
        for thread in threads {
            thread.join().expect("it does not panic");
        }
        start.elapsed()
    })
}

/// How often a second 4 KB that were appended can be synced: by the median, which it also leaves in `sync`.
fn probe_sync<'a>(sync: &'a Cell<f64>, path: &Path) -> Contestant<'a> {
    let mut file = File::create(path).expect("the folder can be written");
    Contestant::timed("probe-sync", move |units| {
        let mut took = Vec::with_capacity(units as usize);
        let start = Instant::now();
        for _ in 0..units {
            file.write_all(&[7; 4096]).expect("the disk works");
            let start = Instant::now();
            file.sync_data().expect("the disk works");
            took.push(start.elapsed().as_secs_f64());
        }
        let elapsed = start.elapsed();
        sync.set(1.0 / median(&took));
        Sample { value: Some(sync.get()), ..Sample::new(elapsed, units, None) }
    })
}
