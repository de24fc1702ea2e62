//! The rows of the files that a released format wrote.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use phalanx::state::{Snapshot, StateManager};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Stored {
    V1 { name: String, score: f64, tags: Vec<String> },
}

pub(super) fn row(number: u64) -> Stored {
    Stored::V1 {
        name: format!("agent {number}"),
        score: number as f64 / 7.0,
        tags: (0..number % 3).map(|tag| format!("tag {tag}")).collect(),
    }
}

/// Checks that the agents are these and that there is one leader, and shows the state.
pub(super) fn expect(state: &StateManager, agents: RangeInclusive<u64>) -> Snapshot {
    let rows = state.collection::<u64, Stored>("agents").expect("its types are these");
    let leaders = state.collection::<String, u64>("leaders").expect("its types are these");
    let snapshot = state.snapshot();
    let found: BTreeMap<_, _> = snapshot.iter(&rows).map(|(k, v)| (*k, v.clone())).collect();
    assert_eq!(found, agents.map(|number| (number, row(number))).collect());
    assert_eq!(snapshot.get(&leaders, &"north".into()), Some(6));
    snapshot
}
