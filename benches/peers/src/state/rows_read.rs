//! The rows of reading one row, and of encoding all of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use phalanx::state::{Compression, Import, StateManager};
use serde_json::json;

use super::maps::{Dash, Ours, Papaya, Plain, Scc};
use super::record::{self, Record, content, put, snapshot_content};
use super::{Lineup, Targets};
use crate::Settings;
use crate::measure::{Contestant, Sample};
use crate::row::{OURS, Row, Time, Unit};

// Reading.

/// At most four times what a map takes.
const READ: Targets = &[("hashmap", 0.25)];

pub fn read_6k(settings: &Settings) -> Row {
    let what = "reading a row of 6,000 by its key, on one thread (ns a read)";
    read(settings, "read-6k", what, 6000)
}

pub fn read_700k(settings: &Settings) -> Row {
    let what = "reading a row of 700,000 by its key, on one thread (ns a read)";
    read(settings, "read-700k", what, 700_000)
}

fn read(settings: &Settings, id: &'static str, what: &'static str, rows: u64) -> Row {
    let values = || (0..rows).map(|key| (key, Plain::new(key, 1)));
    let ours = Ours::new();
    put(&ours.state, &ours.rows, rows, |key| Plain::new(key, 1));
    let snapshot = ours.state.snapshot();
    let map: HashMap<u64, Plain> = values().collect();
    let work = json!({
        "rows": rows, "row_bytes": size_of::<Plain>(), "order": "every row once, 7919 apart",
        "read": "the newest commit's value, copied; by self-snapshot from a snapshot",
        "hasher": "the default one of each",
    });
    // They are made only if they take part.
    let full = !settings.quick;
    let locked = RwLock::new(if full { map.clone() } else { HashMap::new() });
    let (dash, papaya, scc) = (Dash::new(), Papaya::new(), Scc::new());
    let mut imbl = imbl::HashMap::new();
    for (key, value) in values().filter(|_| full) {
        dash.insert(key, value);
        papaya.pin().insert(key, value);
        scc.upsert_sync(key, value);
        imbl.insert(key, Arc::new(value));
    }
    let by_lock = |key: &u64| locked.read().expect("nobody panics").get(key).copied();
    Lineup::of(settings, all(OURS, rows, |key| ours.rows.get(key)))
        .and(all("self-snapshot", rows, |key| snapshot.get_ref(&ours.rows, key).copied()))
        .and(all("hashmap", rows, |key| map.get(key).copied()))
        .beside(|| all("hashmap-rwlock", rows, by_lock))
        .beside(|| all("dashmap", rows, |key| dash.get(key).map(|value| *value)))
        .beside(|| all("papaya", rows, |key| papaya.pin().get(key).copied()))
        .beside(|| all("scc", rows, |key| scc.read_sync(key, |_, value| *value)))
        .beside(|| all("imbl", rows, |key| imbl.get(key).map(|value| **value)))
        .measure((Unit::Nanoseconds, Time::Wall), id, what, work, READ)
}

/// Reads every row once a unit.
fn all<'a>(
    name: &'static str,
    rows: u64,
    read: impl Fn(&u64) -> Option<Plain> + 'a,
) -> Contestant<'a> {
    let step = 7919 % rows;
    Contestant::unit(name, rows, move || {
        let (mut key, mut seen) = (0, 0_u64);
        for _ in 0..rows {
            // All of it is copied.
            let value = black_box(read(&key)).expect("the row is there");
            seen = seen.wrapping_add(value.word());
            key += step;
            if key >= rows {
                key -= rows;
            }
        }
        seen
    })
}

// Encoding.

const ENCODE: Targets = &[("bincode", 0.7)];

pub fn encode_60k(settings: &Settings) -> Row {
    let what = "encoding a whole state of 60 KB into a buffer (ns a state)";
    encode(settings, "encode-60k", what, 60_000)
}

pub fn encode_100k(settings: &Settings) -> Row {
    let what = "encoding a whole state of 100 KB into a buffer (ns a state)";
    encode(settings, "encode-100k", what, 100_000)
}

pub fn encode_1m(settings: &Settings) -> Row {
    let what = "encoding a whole state of 1 MB into a buffer (ns a state)";
    encode(settings, "encode-1m", what, 1_000_000)
}

fn encode(settings: &Settings, id: &'static str, what: &'static str, bytes: u64) -> Row {
    let filled = record::fill(StateManager::in_memory(), bytes);
    let snapshot = filled.state.snapshot();
    let record_bytes = record::encode(&filled.map).len();
    let work = json!({
        "rows": filled.map.len(), "bytes_ours": filled.bytes, "bytes_bincode": record_bytes,
        "ours": "with a checksum of every block and its collection's name",
        "buffer": "the same for every state, and large enough",
    });
    let export = RefCell::new(Vec::with_capacity(2 * filled.bytes as usize));
    let ours = encoding(
        || {
            let mut export = export.borrow_mut();
            export.clear();
            snapshot.export_to(&mut *export, Compression::None).expect("every record encodes");
            black_box(export.as_slice());
        },
        || {
            let import = Import::read(export.borrow().as_slice()).expect("it is whole");
            let state = StateManager::in_memory();
            let agents = state.collection::<u64, Record>("agents").expect("the name is new");
            state.import(&import).expect("the types are the same");
            snapshot_content(&state.snapshot(), &agents)
        },
    );
    let buffer = RefCell::new(vec![0; 2 * record_bytes]);
    let alone = encoding(
        || {
            let mut buffer = buffer.borrow_mut();
            let configuration = bincode::config::standard();
            let encoded =
                bincode::serde::encode_into_slice(&filled.map, &mut buffer, configuration);
            assert_eq!(encoded.expect("every record encodes"), record_bytes);
            black_box(buffer.as_slice());
        },
        || {
            let map: HashMap<u64, Record> = record::decode(&buffer.borrow());
            content(map.iter())
        },
    );
    Lineup::of(settings, Contestant::timed(OURS, ours))
        .and(Contestant::timed("bincode", alone))
        .measure((Unit::Nanoseconds, Time::Wall), id, what, work, ENCODE)
}

/// Encodes as often as there are units, and looks at the last one outside the time.
fn encoding(mut encode: impl FnMut(), content: impl Fn() -> u64) -> impl FnMut(u64) -> Sample {
    move |units| {
        let start = Instant::now();
        (0..units).for_each(|_| encode());
        let elapsed: Duration = start.elapsed();
        Sample::new(elapsed, units, Some(content()))
    }
}
