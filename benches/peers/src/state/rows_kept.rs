//! The row of what kept snapshots take.

use std::collections::HashMap;
use std::sync::Arc;

use phalanx::state::StateManager;
use serde_json::json;

use super::folder::Folder;
use super::record::{TEXT_BYTES, put, text, text_content};
use super::{Lineup, heap, process};
use crate::Settings;
use crate::measure::Contestant;
use crate::row::{OURS, Row, Time, Unit};

/// A state of 1 MB.
const ROWS: u64 = 5000;
const SNAPSHOTS: u64 = 1000;
/// The most that they may take.
const KEPT_MAX_MB: f64 = 4.0;

pub fn kept_1000(settings: &Settings) -> Row {
    let folder = Folder::new(settings, "kept-1000");
    let own = |name| process::measured("kept-1000", name, 1e6, folder.path());
    Lineup::of(settings, own(OURS))
        .and(Contestant::limit("limit-kept", KEPT_MAX_MB))
        .beside(|| own("imbl"))
        .beside(|| own("deep-clone"))
        .measure(
            (Unit::Megabytes, Time::None),
            "kept-1000",
            "what 1000 kept snapshots of 1 MB take over it, a row changed between each (10^6 bytes)",
            json!({
                "rows": ROWS, "row_bytes": TEXT_BYTES, "snapshots": SNAPSHOTS,
                "measured": "by a counting allocator in a process of its own, new values included",
                "limit-kept": KEPT_MAX_MB, "store": "in memory",
            }),
            &[("limit-kept", 1.0)],
        )
}

/// The bytes over the state, and what the snapshots show.
pub fn child(name: &str) -> Option<(u64, u64)> {
    match name {
        OURS => Some(ours()),
        "imbl" => Some(imbl()),
        "deep-clone" => Some(deep_clone()),
        _ => None,
    }
}

/// The row that changes after a snapshot.
fn changed(snapshot: u64) -> u64 {
    snapshot * 7919 % ROWS
}

/// Takes each snapshot and makes the change after it; then looks at what each shows of three rows: the one
/// that was changed after it, the one that was changed before it, and one that never was.
fn kept<S>(
    mut take: impl FnMut() -> S,
    mut change: impl FnMut(u64, String),
    show: impl Fn(&S, u64) -> String,
) -> (u64, u64) {
    let (snapshots, bytes) = heap::growth(|| {
        let mut snapshots = Vec::with_capacity(SNAPSHOTS as usize);
        for snapshot in 0..SNAPSHOTS {
            snapshots.push(take());
            change(changed(snapshot), text(snapshot, 1));
        }
        snapshots
    });
    let shown = (0..).zip(&snapshots).flat_map(|(number, snapshot)| {
        let keys = [number, u64::saturating_sub(number, 1), SNAPSHOTS + 1].map(changed);
        let show = &show;
        keys.into_iter().map(move |key| (number, show(snapshot, key)))
    });
    (bytes.try_into().expect("more is allocated than before"), text_content(shown))
}

fn ours() -> (u64, u64) {
    let state = StateManager::in_memory();
    let rows = state.collection::<u64, String>("rows").expect("the name is new");
    put(&state, &rows, ROWS, |key| text(key, 0));
    kept(
        || state.snapshot(),
        |key, value| {
            rows.insert(key, value).expect("the state is open");
        },
        |snapshot, key| snapshot.get(&rows, &key).expect("the row is there"),
    )
}

fn imbl() -> (u64, u64) {
    let map: imbl::HashMap<u64, Arc<String>> =
        (0..ROWS).map(|key| (key, Arc::new(text(key, 0)))).collect();
    let map = std::cell::RefCell::new(map);
    kept(
        || map.borrow().clone(),
        |key, value| {
            map.borrow_mut().insert(key, Arc::new(value));
        },
        |snapshot, key| snapshot.get(&key).expect("the row is there").to_string(),
    )
}

fn deep_clone() -> (u64, u64) {
    let map: HashMap<u64, String> = (0..ROWS).map(|key| (key, text(key, 0))).collect();
    let map = std::cell::RefCell::new(map);
    kept(
        || map.borrow().clone(),
        |key, value| {
            map.borrow_mut().insert(key, value);
        },
        |snapshot, key| snapshot.get(&key).expect("the row is there").clone(),
    )
}
