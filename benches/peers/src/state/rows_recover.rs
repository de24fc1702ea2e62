//! The rows of opening what is on disk and reading all of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use phalanx::state::StateManager;
use serde_json::json;

use super::engines::{Engine, Fjall, Redb, Sqlite};
use super::folder::{Folder, file_system};
use super::record::{
    ROWS_A_TRANSACTION, Record, content, decode, encode, put, record, snapshot_content,
};
use super::{Lineup, Targets};
use crate::Settings;
use crate::measure::{Contestant, Sample};
use crate::row::{OURS, Row, Time, Unit};

const TARGETS: Targets = &[("redb", 0.5)];

pub fn recover_100k(settings: &Settings) -> Row {
    let what = "opening a store of 100,000 rows and reading every one of them (ms)";
    recover(settings, "recover-100k", what, 100_000)
}

pub fn recover_1m(settings: &Settings) -> Row {
    let what = "opening a store of 1,000,000 rows and reading every one of them (ms)";
    recover(settings, "recover-1m", what, 1_000_000)
}

fn recover(settings: &Settings, id: &'static str, what: &'static str, rows: u64) -> Row {
    let folder = Folder::new(settings, id);
    let ours = folder.fresh("ours");
    make(&ours, rows);
    let found = StateManager::builder().path(&ours).open().expect("it was closed in order");
    let report = found.recovery();
    let work = json!({
        "rows": rows, "rows_a_transaction": ROWS_A_TRANSACTION,
        "file_system": file_system(folder.path()),
        "closed": "in order", "files": "in the system's cache",
        "peers": "the same rows, encoded by the same codec, and decoded one by one",
        "ours": {
            "checkpoint_rows": report.checkpoint_rows, "commits_after_it": report.commits,
            "bytes": report.bytes,
        },
    });
    drop(found);
    let engine = |name, path: PathBuf, run: fn(&Path) -> (Duration, u64)| opened(name, path, run);
    Lineup::of(settings, opened(OURS, ours, read_ours))
        .and(engine("redb", filled::<Redb>(folder.fresh("redb"), rows), read::<Redb>))
        .beside(|| engine("fjall", filled::<Fjall>(folder.fresh("fjall"), rows), read::<Fjall>))
        .beside(|| {
            engine("sqlite-full", filled::<Sqlite>(folder.fresh("sqlite"), rows), read::<Sqlite>)
        })
        .measure((Unit::Milliseconds, Time::Wall), id, what, work, TARGETS)
}

/// A store with its defaults, each transaction durable before the next.
fn make(path: &Path, rows: u64) {
    let state = StateManager::builder().path(path).open().expect("the folder is new");
    let agents = state.collection::<u64, Record>("agents").expect("the name is new");
    put(&state, &agents, rows, record);
    state.close().expect("the disk works");
}

fn filled<E: Engine>(path: PathBuf, rows: u64) -> PathBuf {
    let engine = E::open(&path);
    for first in (0..rows).step_by(ROWS_A_TRANSACTION as usize) {
        let keys = first..rows.min(first + ROWS_A_TRANSACTION);
        engine.put(&keys.map(|key| (key, encode(&record(key)))).collect::<Vec<_>>());
    }
    path
}

fn opened(
    name: &'static str,
    path: PathBuf,
    read: fn(&Path) -> (Duration, u64),
) -> Contestant<'static> {
    Contestant::timed(name, move |units| {
        let (mut elapsed, mut seen) = (Duration::ZERO, 0);
        for _ in 0..units {
            let took;
            (took, seen) = read(&path);
            elapsed += took;
        }
        Sample::new(elapsed, units, Some(seen))
    })
}

/// How long it took, and what was read. Closing is not part of it.
fn read_ours(path: &Path) -> (Duration, u64) {
    let start = Instant::now();
    let state = StateManager::builder().path(path).open().expect("it was closed in order");
    let agents = state.collection::<u64, Record>("agents").expect("the types are the same");
    let seen = snapshot_content(&state.snapshot(), &agents);
    let elapsed = start.elapsed();
    state.close().expect("the disk works");
    (elapsed, seen)
}

fn read<E: Engine>(path: &Path) -> (Duration, u64) {
    let start = Instant::now();
    let engine = E::open(path);
    let mut seen = 0_u64;
    engine.each(|key, value| {
        let record: Record = decode(value);
        seen = seen.wrapping_add(content(std::iter::once((&key, &record))));
    });
    (start.elapsed(), seen)
}
