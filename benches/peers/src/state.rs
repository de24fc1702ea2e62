//! The state manager beside its peers.
//!
//! Where things are: [`record`] is what is kept and how it is known that all of it is there, [`maps`] the
//! peers that keep it in memory, [`engines`] those that keep it on disk, [`group`] their group commit,
//! [`folder`] where files go, [`process`] how a contestant runs in a process of its own, [`heap`] counts what
//! is allocated there. The rows are in the files `rows_*`.

mod engines;
mod folder;
mod group;
mod heap;
mod maps;
mod process;
mod record;
mod rows_bytes;
mod rows_durable;
mod rows_kept;
mod rows_read;
mod rows_recover;
mod rows_snapshot;

use serde_json::{Map, Value};

use crate::measure::{Contestant, measure};
use crate::row::{Row, Spec, Time, Unit};
use crate::{RowFn, Settings};

pub const ROWS: &[(&str, RowFn)] = &[
    ("snapshot-60k", rows_snapshot::snapshot_60k),
    ("snapshot-1m", rows_snapshot::snapshot_1m),
    ("snapshot-100m", rows_snapshot::snapshot_100m),
    ("writes-under-snapshots", rows_snapshot::writes_under_snapshots),
    ("read-6k", rows_read::read_6k),
    ("read-700k", rows_read::read_700k),
    ("encode-60k", rows_read::encode_60k),
    ("encode-100k", rows_read::encode_100k),
    ("encode-1m", rows_read::encode_1m),
    ("sync-count", rows_bytes::sync_count),
    ("delta-bytes", rows_bytes::delta_bytes),
    ("durable-8", rows_durable::durable_8),
    ("durable-32", rows_durable::durable_32),
    ("recover-100k", rows_recover::recover_100k),
    ("recover-1m", rows_recover::recover_1m),
    ("kept-1000", rows_kept::kept_1000),
];

/// What a row has measured in a process of its own, whose working folder is the row's.
pub fn child(row: &str, name: &str) -> Result<(u64, u64), String> {
    let measured = match row {
        "sync-count" => rows_bytes::synced(name),
        "delta-bytes" => rows_bytes::written(name),
        "kept-1000" => rows_kept::child(name),
        _ => None,
    };
    measured.ok_or_else(|| format!("there is no {name} in the row {row}"))
}

type Targets = &'static [(&'static str, f64)];

/// Who takes part in a row.
struct Lineup<'a> {
    settings: &'a Settings,
    contestants: Vec<Contestant<'a>>,
}

impl<'a> Lineup<'a> {
    fn of(settings: &'a Settings, ours: Contestant<'a>) -> Self {
        Self { settings, contestants: vec![ours] }
    }

    /// One that the reach of the row names.
    fn and(mut self, peer: Contestant<'a>) -> Self {
        self.contestants.push(peer);
        self
    }

    /// One that is there to be seen: not in a quick run.
    fn beside(self, peer: impl FnOnce() -> Contestant<'a>) -> Self {
        if self.settings.quick { self } else { self.and(peer()) }
    }

    fn measure(
        self,
        (unit, time): (Unit, Time),
        id: &'static str,
        what: &'static str,
        work: Value,
        targets: Targets,
    ) -> Row {
        measure(self.settings, spec((unit, time), id, what, work, targets), self.contestants)
    }
}

fn spec(
    (unit, time): (Unit, Time),
    id: &'static str,
    what: &'static str,
    work: Value,
    targets: Targets,
) -> Spec {
    let work = if let Value::Object(work) = work { work } else { Map::new() };
    Spec { part: "state", id, what, unit, time, work, targets }
}
