//! The summary of a run: what `--json` writes, field by field.
//!
//! 1. A figure is measured or it is absent (`null`, or a missing key of a map); none is made up.
//! 2. [`FileCounts::balance`] holds at the end of every run that exits with 0.

use crate::model::{Failure, Skip};
use serde::Serialize;
use std::collections::BTreeMap;

/// All of it. `symbols`, `references` and `syntax_errors` describe the final index, the rest this run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// What became of each file.
    pub files: FileCounts,
    /// Symbols in the index.
    pub symbols: u64,
    /// Imported names in the index.
    pub references: ReferenceCounts,
    /// Places in the index where the parser had to guess.
    pub syntax_errors: u64,
    /// How the tasks ended.
    pub tasks: TaskCounts,
    /// The fleet.
    pub agents: AgentCounts,
    /// From a task's turn to its lease.
    pub allocation_ns: Option<Latency>,
    /// The bus.
    pub events: EventCounts,
    /// The cache of trees.
    pub cache: CacheCounts,
    /// The parses of this run, by language.
    pub parse_us: BTreeMap<String, ParseTimes>,
    /// A snapshot of the final state.
    pub snapshot: Option<SnapshotFigures>,
    /// The digest of the final index.
    pub state_digest: String,
    /// From start to summary.
    pub elapsed_ms: u64,
}

/// What became of each file that the walk yielded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileCounts {
    /// Yielded by the walk.
    pub seen: u64,
    /// Parsed and committed in this run.
    pub indexed: u64,
    /// Indexed earlier, same bytes.
    pub unchanged: u64,
    /// Left out by choice, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Left out because something went wrong, by reason.
    pub failed: BTreeMap<&'static str, u64>,
}

impl FileCounts {
    /// Counts a file that was left out by choice.
    pub fn skip(&mut self, reason: Skip) {
        *self.skipped.entry(reason.name()).or_default() += 1;
    }

    /// Counts a file that could not be indexed.
    pub fn fail(&mut self, reason: Failure) {
        *self.failed.entry(reason.name()).or_default() += 1;
    }

    /// All that were left out by choice.
    pub fn skipped_total(&self) -> u64 {
        self.skipped.values().sum()
    }

    /// All that could not be indexed.
    pub fn failed_total(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Whether every file seen is accounted for, exactly once.
    pub fn balance(&self) -> bool {
        self.seen == self.indexed + self.unchanged + self.skipped_total() + self.failed_total()
    }
}

/// Imported names, by whether what they refer to was found in the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReferenceCounts {
    /// Found.
    pub resolved: u64,
    /// Not found: packages from elsewhere, and what is not there.
    pub unresolved: u64,
}

/// How the tasks of this run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TaskCounts {
    /// Accepted, those recovered from an interrupted run included.
    pub accepted: u64,
    /// Done.
    pub completed: u64,
    /// Ended by an error of their handler.
    pub failed: u64,
    /// Given back undone.
    pub returned: u64,
    /// Called off.
    pub cancelled: u64,
    /// Attempts beyond a task's first.
    pub rerun: u64,
    /// Attempts that came to complete after their lease had been revoked.
    pub late_completions_refused: u64,
}

/// The fleet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AgentCounts {
    /// Started.
    pub spawned: u64,
    /// Struck while they held a lease.
    pub killed: u64,
}

/// A latency, in the unit that the field it stands in names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

/// The bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct EventCounts {
    /// Published.
    pub published: u64,
    /// Delivered, each once for each subscriber that took it.
    pub delivered: u64,
    /// Lost to subscribers that lagged.
    pub dropped: u64,
    /// Published in a second, over the whole run.
    pub per_second: f64,
}

/// The cache of trees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CacheCounts {
    /// Found.
    pub hits: u64,
    /// Not found, and loaded.
    pub misses: u64,
    /// Held at the end.
    pub bytes: u64,
}

/// How long parses took, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ParseTimes {
    /// How many there were.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// The 95th percentile.
    pub p95: u64,
    /// The 99th percentile.
    pub p99: u64,
}

/// A snapshot of the final state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotFigures {
    /// The version it shows.
    pub version: u64,
    /// What it takes, encoded.
    pub bytes: u64,
    /// What taking it took.
    pub ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_for_machines_have_the_names_that_are_promised() {
        let mut summary = Summary::default();
        summary.files.skip(Skip::Binary);
        summary.files.fail(Failure::Deadline);
        let times = ParseTimes { count: 1, p50: 2, p95: 3, p99: 4 };
        summary.parse_us.insert("rust".to_owned(), times);
        summary.allocation_ns = Some(Latency { p50: 1, p99: 2, max: 3 });
        summary.snapshot = Some(SnapshotFigures { version: 1, bytes: 2, ns: 3 });
        let json = serde_json::to_value(&summary).expect("a form");
        let keys = |value: &serde_json::Value| -> String {
            let mut keys: Vec<&str> =
                value.as_object().expect("an object").keys().map(String::as_str).collect();
            keys.sort_unstable();
            keys.join(" ")
        };
        assert_eq!(
            keys(&json),
            "agents allocation_ns cache elapsed_ms events files parse_us references snapshot \
             state_digest symbols syntax_errors tasks"
        );
        assert_eq!(keys(&json["files"]), "failed indexed seen skipped unchanged");
        assert_eq!(json["files"]["skipped"]["binary"], 1);
        assert_eq!(json["files"]["failed"]["deadline"], 1);
        assert_eq!(keys(&json["references"]), "resolved unresolved");
        assert_eq!(
            keys(&json["tasks"]),
            "accepted cancelled completed failed late_completions_refused rerun returned"
        );
        assert_eq!(keys(&json["agents"]), "killed spawned");
        assert_eq!(keys(&json["allocation_ns"]), "max p50 p99");
        assert_eq!(keys(&json["events"]), "delivered dropped per_second published");
        assert_eq!(keys(&json["cache"]), "bytes hits misses");
        assert_eq!(keys(&json["parse_us"]["rust"]), "count p50 p95 p99");
        assert_eq!(keys(&json["snapshot"]), "bytes ns version");
    }

    #[test]
    fn a_file_that_is_not_accounted_for_shows() {
        let mut files = FileCounts { seen: 4, indexed: 1, unchanged: 1, ..FileCounts::default() };
        files.skip(Skip::Empty);
        assert!(!files.balance());
        files.fail(Failure::Vanished);
        assert!(files.balance());
        files.fail(Failure::Vanished);
        assert!(!files.balance());
    }
}
