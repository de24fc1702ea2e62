//! The forms in which the coordinator's rows are stored.
//!
//! Rules that hold here:
//!
//! 1. A new form is a new variant at the end of its `enum`; the old ones stay readable, as what they meant.
//! 2. The bytes of each form are pinned by a test. Rows are written in the newest form.
//! 3. The stored numbers of outcomes are part of the format: append, never renumber.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fleet::{Backoff, OutcomeKind};

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum StoredTask<T> {
    V1 { payload: T, capabilities: Vec<String>, priority: u8, max_attempts: u32 },
    V2 { payload: T, capabilities: Vec<String>, priority: u8, max_attempts: u32, terms: Terms },
}

impl<T> StoredTask<T> {
    /// What it asks for beyond the first form.
    pub(super) fn terms(&self) -> Option<&Terms> {
        match self {
            Self::V1 { .. } => None,
            Self::V2 { terms, .. } => Some(terms),
        }
    }

    pub(super) fn terms_mut(&mut self) -> Option<&mut Terms> {
        match self {
            Self::V1 { .. } => None,
            Self::V2 { terms, .. } => Some(terms),
        }
    }
}

/// What a task of the second form asks for beside what the first one held; that one asks for none of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Terms {
    /// The name of the agent that it is for alone; empty if that was gone.
    pub(super) agent: Option<String>,
    pub(super) backoff: StoredBackoff,
    pub(super) timeout: Option<Duration>,
    pub(super) key: Option<u128>,
    pub(super) dependencies: Vec<StoredDependency>,
    /// Whether it runs even if one that it waits for does not complete.
    pub(super) released_by_failure: bool,
    /// Whose budget it is charged to.
    pub(super) group: Option<u64>,
    /// So much of each of the host's kinds of units.
    pub(super) costs: Vec<(u8, u64)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredBackoff {
    initial: Duration,
    cap: Duration,
    factor: u32,
    jitter_percent: u8,
}

impl StoredBackoff {
    pub(super) fn of(backoff: &Backoff) -> Self {
        let (initial, cap, factor, jitter_percent) = backoff.parts();
        Self { initial, cap, factor, jitter_percent }
    }

    pub(super) const fn backoff(&self) -> Backoff {
        Backoff::from_parts(self.initial, self.cap, self.factor, self.jitter_percent)
    }
}

/// A task that another one waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredDependency {
    pub(super) task: u64,
    /// How it ended, once it has.
    pub(super) outcome: Option<u8>,
}

/// The tasks that wait for the one whose row this is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum StoredDependants {
    V1 { tasks: Vec<u64> },
}

/// The task that a key stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum StoredKey {
    /// With the place of its outcome in the history, once it has one.
    V1 { task: u64, ended: Option<u64> },
}

/// An outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum StoredOutcome {
    V1 { sequence: u64, task: u64, attempt: u32, kind: u8, reason: Option<String> },
    V2 { outcome: PlainOutcome, key: Option<u128> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PlainOutcome {
    pub(super) sequence: u64,
    pub(super) task: u64,
    pub(super) attempt: u32,
    pub(super) kind: u8,
    pub(super) reason: Option<String>,
}

impl StoredOutcome {
    pub(super) const fn sequence(&self) -> u64 {
        match self {
            Self::V1 { sequence, .. } => *sequence,
            Self::V2 { outcome, .. } => outcome.sequence,
        }
    }

    pub(super) const fn task(&self) -> u64 {
        match self {
            Self::V1 { task, .. } => *task,
            Self::V2 { outcome, .. } => outcome.task,
        }
    }

    pub(super) const fn kind(&self) -> u8 {
        match self {
            Self::V1 { kind, .. } => *kind,
            Self::V2 { outcome, .. } => outcome.kind,
        }
    }

    pub(super) const fn key(&self) -> Option<u128> {
        match self {
            Self::V1 { .. } => None,
            Self::V2 { key, .. } => *key,
        }
    }

    /// In the newest form.
    pub(super) fn into_plain(self) -> PlainOutcome {
        match self {
            Self::V1 { sequence, task, attempt, kind, reason } => {
                PlainOutcome { sequence, task, attempt, kind, reason }
            }
            Self::V2 { outcome, .. } => outcome,
        }
    }
}

pub(super) fn code_of(kind: OutcomeKind) -> u8 {
    match kind {
        OutcomeKind::Completed => 0,
        OutcomeKind::Failed => 1,
        OutcomeKind::Returned => 2,
        OutcomeKind::Cancelled => 3,
    }
}

/// `None` for a number of a later version.
pub(super) fn kind_of(code: u8) -> Option<OutcomeKind> {
    match code {
        0 => Some(OutcomeKind::Completed),
        1 => Some(OutcomeKind::Failed),
        2 => Some(OutcomeKind::Returned),
        3 => Some(OutcomeKind::Cancelled),
        _ => None,
    }
}

#[cfg(all(
    test,
    any(feature = "bincode", feature = "postcard"),
    not(any(phalanx_loom, phalanx_shuttle))
))]
mod tests;
