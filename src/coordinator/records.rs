//! What the coordinator keeps in state of the tasks it accepted durably.
//!
//! Rules that hold here:
//!
//! 1. A task's row is there from before its acceptance is told until the transaction that commits its
//!    outcome, and never after that: so what is found after a crash is exactly what has no outcome.
//! 2. A task that a shutdown returns keeps its row: the next process finds it again.
//! 3. The history of outcomes holds the newest [`OUTCOMES_KEPT`] and takes no more room than that.
//! 4. An id is never given twice over the same state with durable tasks; without them, no id is given
//!    that the history still names. One coordinator at a time uses a state.
//! 5. What is kept of a reason is bounded, and says so where it was cut.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::fleet::{Attempt, Outcome, OutcomeKind, Priority, Task, TaskId};
use crate::state::{Collection, StateManager, Transaction};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{Error, ErrorKind};

/// How many outcomes the history keeps.
pub(super) const OUTCOMES_KEPT: u64 = 1024;
/// How much of a reason the history keeps.
const REASON_BYTES_MAX: usize = 4096;

/// A task as it is stored. A new form is a new variant; the old ones stay readable.
#[derive(Clone, Serialize, Deserialize)]
enum StoredTask<T> {
    V1 { payload: T, capabilities: Vec<String>, priority: u8, max_attempts: u32 },
}

/// An outcome as it is stored.
#[derive(Clone, Serialize, Deserialize)]
enum StoredOutcome {
    V1 { sequence: u64, task: u64, attempt: u32, kind: u8, reason: Option<String> },
}

/// What the history says of a task that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedOutcome {
    /// Which task.
    pub task: TaskId,
    /// The attempt that won, counted within the process that ran it; [`Attempt::NONE`] for a task that
    /// never ran.
    pub attempt: Attempt,
    /// How it ended.
    pub kind: OutcomeKind,
    /// Why, where it failed. Of a longer one the first 4096 bytes, and how many there were.
    pub reason: Option<String>,
}

/// The rows of accepted tasks, without the type of their payload's encoding.
pub(super) trait Records<T>: Send + Sync {
    fn accept(&self, tasks: &[(TaskId, &Task<T>)], tx: &mut Transaction);
    /// Whether the task had a row.
    fn forget(&self, task: TaskId, tx: &mut Transaction) -> bool;
    fn pending(&self) -> Result<Vec<Task<T>>, Error>;
    fn next_id(&self) -> TaskId;
}

pub(super) struct TaskRows<T> {
    tasks: Collection<u64, StoredTask<T>>,
    // One row: the least id that was never given.
    next_id: Collection<(), u64>,
    state: StateManager,
}

impl<T> TaskRows<T>
where
    T: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    pub(super) fn open(state: &StateManager) -> Result<Self, Error> {
        Ok(Self {
            tasks: state.collection("phalanx.tasks")?,
            next_id: state.collection("phalanx.next_task_id")?,
            state: state.clone(),
        })
    }
}

impl<T> Records<T> for TaskRows<T>
where
    T: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    fn accept(&self, tasks: &[(TaskId, &Task<T>)], tx: &mut Transaction) {
        let mut next = tx.get(&self.next_id, &()).unwrap_or(0);
        for (id, task) in tasks {
            next = next.max(id.get().saturating_add(1));
            let stored = StoredTask::V1 {
                payload: task.payload().clone(),
                capabilities: task.request().capabilities().map(str::to_owned).collect(),
                priority: task.request().urgency().level(),
                max_attempts: task.attempts().get(),
            };
            tx.insert(&self.tasks, id.get(), stored);
        }
        tx.insert(&self.next_id, (), next);
    }

    fn forget(&self, task: TaskId, tx: &mut Transaction) -> bool {
        tx.remove(&self.tasks, &task.get()).is_some()
    }

    fn pending(&self) -> Result<Vec<Task<T>>, Error> {
        let snapshot = self.state.snapshot();
        let mut pending = Vec::with_capacity(snapshot.len(&self.tasks));
        for (&id, stored) in snapshot.iter(&self.tasks) {
            let StoredTask::V1 { payload, capabilities, priority, max_attempts } = stored;
            let max_attempts = (*max_attempts).try_into().map_err(|_| {
                Error::new(ErrorKind::Corrupt, format!("the stored task {id} has no attempts"))
            })?;
            let task = Task::new(payload.clone())
                .priority(Priority::new(*priority))
                .max_attempts(max_attempts)
                .with_id(TaskId::new(id));
            pending.push(capabilities.iter().fold(task, Task::capability));
        }
        pending.sort_by_key(Task::id);
        Ok(pending)
    }

    fn next_id(&self) -> TaskId {
        TaskId::new(self.next_id.get(&()).unwrap_or(0))
    }
}

/// The newest outcomes, in a ring of rows (rule 3 of the file).
pub(super) struct History {
    rows: Collection<u64, StoredOutcome>,
    state: StateManager,
    next: AtomicU64,
    next_id: TaskId,
}

impl History {
    pub(super) fn open(state: &StateManager) -> Result<Self, Error> {
        let rows: Collection<u64, StoredOutcome> = state.collection("phalanx.outcomes")?;
        let snapshot = state.snapshot();
        let (mut next, mut next_id) = (0, 0);
        for (_, StoredOutcome::V1 { sequence, task, .. }) in snapshot.iter(&rows) {
            next = next.max(sequence.saturating_add(1));
            next_id = next_id.max(task.saturating_add(1));
        }
        let (next, next_id) = (AtomicU64::new(next), TaskId::new(next_id));
        Ok(Self { rows, state: state.clone(), next, next_id })
    }

    /// The least id behind all that it named when it was opened (rule 4 of the file).
    pub(super) fn next_id(&self) -> TaskId {
        self.next_id
    }

    /// The place of the next outcome; it is taken once, however often its transaction runs.
    pub(super) fn next_sequence(&self) -> u64 {
        // Relaxed: only the number must be unique; the transaction orders the rows.
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Records the end of a task that nobody will run.
    pub(super) fn cancelled(&self, sequence: u64, task: TaskId, tx: &mut Transaction) {
        self.record(sequence, task, Attempt::NONE, Ok(&Outcome::<()>::Cancelled), tx);
    }

    pub(super) fn record<O>(
        &self,
        sequence: u64,
        task: TaskId,
        attempt: Attempt,
        outcome: Result<&Outcome<O>, &str>,
        tx: &mut Transaction,
    ) {
        let (kind, reason) = match outcome {
            Ok(Outcome::Failed(error)) => (OutcomeKind::Failed, Some(error.message())),
            Ok(outcome) => (outcome.kind(), None),
            Err(reason) => (OutcomeKind::Failed, Some(reason)),
        };
        let stored = StoredOutcome::V1 {
            sequence,
            task: task.get(),
            attempt: attempt.get(),
            kind: code_of(kind),
            reason: reason.map(bounded),
        };
        tx.insert(&self.rows, sequence % OUTCOMES_KEPT, stored);
    }

    pub(super) fn of(&self, wanted: TaskId) -> Option<RecordedOutcome> {
        let snapshot = self.state.snapshot();
        // A task that a shutdown returned may have a second outcome in a later process: the newest counts.
        let newest = snapshot
            .iter(&self.rows)
            .map(|(_, stored)| stored)
            .filter(|StoredOutcome::V1 { task, .. }| *task == wanted.get())
            .max_by_key(|StoredOutcome::V1 { sequence, .. }| *sequence);
        newest.map(|StoredOutcome::V1 { task, attempt, kind, reason, .. }| RecordedOutcome {
            task: TaskId::new(*task),
            attempt: Attempt::new(*attempt),
            kind: kind_of(*kind),
            reason: reason.clone(),
        })
    }
}

/// Rule 5 of the file.
fn bounded(reason: &str) -> String {
    if reason.len() <= REASON_BYTES_MAX {
        return reason.to_owned();
    }
    let head = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
    format!("{head}... (cut; {} bytes in all)", reason.len())
}

// The stored numbers are part of the format: append, never renumber.
fn code_of(kind: OutcomeKind) -> u8 {
    match kind {
        OutcomeKind::Completed => 0,
        OutcomeKind::Failed => 1,
        OutcomeKind::Returned => 2,
        OutcomeKind::Cancelled => 3,
    }
}

fn kind_of(code: u8) -> OutcomeKind {
    match code {
        0 => OutcomeKind::Completed,
        2 => OutcomeKind::Returned,
        3 => OutcomeKind::Cancelled,
        // Written by this file alone, and checksummed below it.
        _ => OutcomeKind::Failed,
    }
}
