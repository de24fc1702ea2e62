//! A workload whose state at every version is known beforehand, and the check of what was recovered.

use std::collections::BTreeMap;

use phalanx::Error;
use phalanx::state::{Collection, Snapshot, StateManager, Transaction, Version};

/// What the store holds: rows of one collection, and in the other how often each was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    pub(super) rows: BTreeMap<u32, String>,
    pub(super) counts: BTreeMap<String, u64>,
}

pub(super) struct Tables {
    pub(super) rows: Collection<u32, String>,
    pub(super) counts: Collection<String, u64>,
}

impl Tables {
    pub(super) fn open(state: &StateManager) -> Result<Self, Error> {
        Ok(Self { rows: state.collection("rows")?, counts: state.collection("counts")? })
    }

    pub(super) fn read(&self, snapshot: &Snapshot) -> Model {
        let rows = snapshot.iter(&self.rows).map(|(k, v)| (*k, v.clone())).collect();
        let counts = snapshot.iter(&self.counts).map(|(k, v)| (k.clone(), *v)).collect();
        Model { rows, counts }
    }
}

/// What the commit with this number writes, into a row of `width` bytes at least.
fn step(number: u64, width: usize) -> (u32, String, u32, String) {
    let key = (number * 7 % 5) as u32;
    let text = format!("{number}:{}", "x".repeat(width + (number * 37 % 300) as usize));
    (key, text, (number * 3 % 5) as u32, format!("row {key}"))
}

/// The state that every store which ran the script has at this version.
pub(super) fn model_at(version: Version) -> Model {
    wide_model_at(version, 0)
}

/// The same with rows of so many bytes at least.
pub(super) fn wide_model_at(version: Version, width: usize) -> Model {
    let mut model = Model::default();
    for number in 1..=version.as_u64() {
        let (key, text, gone, name) = step(number, width);
        model.rows.insert(key, text);
        if gone != key {
            model.rows.remove(&gone);
        }
        *model.counts.entry(name).or_default() += 1;
    }
    model
}

/// Does the commit that is next.
pub(super) fn commit_next(state: &StateManager, tables: &Tables) -> Result<Version, Error> {
    commit_wide(state, tables, 0)
}

/// The same with rows of so many bytes at least.
pub(super) fn commit_wide(
    state: &StateManager,
    tables: &Tables,
    width: usize,
) -> Result<Version, Error> {
    commit_also(state, tables, width, |_| {})
}

/// The same with what else the commit is to write.
pub(super) fn commit_also(
    state: &StateManager,
    tables: &Tables,
    width: usize,
    also: impl Fn(&mut Transaction),
) -> Result<Version, Error> {
    let (key, text, gone, name) = step(state.version().as_u64() + 1, width);
    let ((), version) = state.transaction(|tx| {
        also(tx);
        tx.insert(&tables.rows, key, text.clone());
        if gone != key {
            tx.remove(&tables.rows, &gone);
        }
        let count = tx.get(&tables.counts, &name).unwrap_or(0);
        tx.insert(&tables.counts, name.clone(), count + 1);
        Ok(())
    })?;
    Ok(version)
}

/// Checks that a state is the model at its version, and that this is no older than what was acknowledged.
pub(super) fn check(state: &StateManager, acknowledged: Version, committed: Version) -> Version {
    let version = state.version();
    assert_eq!(version, state.recovery().version);
    assert_eq!(version, state.durable_version());
    assert!(version >= acknowledged, "{acknowledged} was acknowledged and {version} recovered");
    assert!(version <= committed, "{committed} was committed and {version} recovered");
    let tables = Tables::open(state).unwrap();
    assert_eq!(tables.read(&state.snapshot()), model_at(version), "at {version}");
    version
}
