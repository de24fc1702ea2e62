//! The state manager beside its peers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use phalanx::state::StateManager;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::measure::{Contestant, Sample, measure};
use crate::row::{OURS, Row, Spec, Time, Unit};
use crate::{RowFn, Settings};

pub const ROWS: &[(&str, RowFn)] = &[("snapshot-60k", snapshot_60k)];

/// What is kept of an agent: some 240 bytes encoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    name: String,
    capabilities: Vec<String>,
    labels: Vec<(String, String)>,
    status: u8,
    tasks: [u64; 4],
    score: f64,
    note: Option<String>,
}

fn record(number: u64) -> Record {
    Record {
        name: format!("agent-{number:08}"),
        capabilities: ["rust", "typescript", "review"].map(str::to_owned).to_vec(),
        labels: vec![
            ("zone".to_owned(), format!("zone-{}", number % 7)),
            ("team".to_owned(), format!("a team with a longer name {}", number % 31)),
        ],
        status: (number % 5) as u8,
        tasks: [number, number * 3, number * 7, number * 11].map(|n| n + (1 << 40)),
        score: number as f64 / 3.0,
        note: Some(format!("{:-^70}", number * 1_000_003)),
    }
}

/// What is seen in a state, in whatever order its rows come.
fn content<'a>(rows: impl Iterator<Item = (&'a u64, &'a Record)>) -> u64 {
    rows.map(|(key, record)| {
        let text = record.name.bytes().chain(record.note.iter().flat_map(|note| note.bytes()));
        let text = text.fold(*key, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        text ^ record.tasks.iter().sum::<u64>()
    })
    .fold(0_u64, u64::wrapping_add)
}

/// A folder of this run, gone when it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("phalanx-peers-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Takes `batch` snapshots at a time and times the taking alone: dropping them is not part of it.
fn taking<S>(
    batch: usize,
    take: impl Fn() -> S,
    content: impl Fn(&S) -> u64,
) -> impl FnMut(u64) -> Sample {
    let mut taken = Vec::with_capacity(batch);
    move |units| {
        let mut elapsed = Duration::ZERO;
        let mut checksum = None;
        for _ in 0..units {
            let start = Instant::now();
            taken.extend((0..batch).map(|_| take()));
            elapsed += start.elapsed();
            checksum = taken.last().map(&content);
            taken.clear();
        }
        Sample::new(elapsed, units * batch as u64, checksum)
    }
}

fn snapshot_60k(settings: &Settings) -> Row {
    const BYTES: u64 = 60_000;
    let mut spec = Spec {
        part: "state",
        id: "snapshot-60k",
        what: "taking a snapshot of a state of 60 KB (ns a snapshot, dropping it not included)",
        unit: Unit::Nanoseconds,
        time: Time::Wall,
        work: Map::new(),
        targets: &[("deep-clone", 100.0)],
    };
    let folder = Folder::new(spec.id);
    let state = StateManager::builder().path(&folder.0).open().expect("the folder is new");
    let agents = state.collection::<u64, Record>("agents").expect("the name is new");
    let mut map = HashMap::new();
    for key in 0.. {
        agents.insert(key, record(key)).expect("the store is open");
        map.insert(key, record(key));
        if state.snapshot().encoded_size_bytes().is_ok_and(|bytes| bytes >= BYTES) {
            break;
        }
    }
    state.flush().expect("the store is open");
    let bytes = state.snapshot().encoded_size_bytes().expect("every record encodes");
    let imbl: imbl::HashMap<u64, Arc<Record>> =
        map.iter().map(|(key, record)| (*key, Arc::new(record.clone()))).collect();
    let Value::Object(work) = json!({
        "rows": map.len(), "encoded_bytes": bytes, "store": "durable, nothing pending",
        "snapshots_a_unit": { "ours": CHEAP, "imbl": CHEAP, "deep-clone": DEAR },
    }) else {
        return Row::not_run(spec, "the description of the work is no object");
    };
    spec.work = work;
    measure(
        settings,
        spec,
        vec![
            Contestant::timed(
                OURS,
                taking(CHEAP, || state.snapshot(), |snapshot| content(snapshot.iter(&agents))),
            ),
            Contestant::timed(
                "deep-clone",
                taking(DEAR, || map.clone(), |map| content(map.iter())),
            ),
            Contestant::timed(
                "imbl",
                taking(
                    CHEAP,
                    || imbl.clone(),
                    |map| content(map.iter().map(|(key, record)| (key, &**record))),
                ),
            ),
        ],
    )
}

/// How many snapshots are taken before they are dropped: of pointers, and of whole copies.
const CHEAP: usize = 1024;
const DEAR: usize = 16;
