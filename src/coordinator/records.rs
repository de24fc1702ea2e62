//! What the coordinator keeps in state of the tasks it accepted durably.
//!
//! Rules that hold here:
//!
//! 1. A task's row is there from before its acceptance is told until the transaction that commits its
//!    outcome, and never after that: so what is found after a crash is exactly what has no outcome.
//! 2. A task that is returned keeps its row: the next process finds it again.
//! 3. The history of outcomes holds the newest [`OUTCOMES_KEPT`] and takes no more room than that.
//! 4. An id is never given twice over the same state with durable tasks; without them, no id is given
//!    that the history still names. One coordinator at a time uses a state.
//! 5. What is kept of a reason is bounded, and says so where it was cut.
//! 6. A row names how each task that it waits for ended from the transaction on that ended it; until then,
//!    and no longer, the other one's row of dependants names it.
//! 7. A key names a task that has a row, or one that completed or failed by itself and whose outcome is in
//!    the history: there are no more keys than these.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::stored::{
    PlainOutcome, StoredBackoff, StoredDependants, StoredDependency, StoredKey, StoredOutcome,
    StoredTask, Terms, code_of, kind_of,
};
use crate::fleet::{
    AgentId, Attempt, Backoff, Ends, GroupKey, IdempotencyKey, IfDependencyFails, Outcome,
    OutcomeKind, Priority, Task, TaskErrorKind, TaskId, Unit,
};
use crate::state::{Collection, StateManager, Transaction};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{Error, ErrorKind};

/// How many outcomes the history keeps.
pub(super) const OUTCOMES_KEPT: u64 = 1024;
/// The collections that both files of rows open.
const OUTCOMES: &str = "phalanx.outcomes";
const KEYS: &str = "phalanx.task_keys";
/// How much of a reason the history keeps.
const REASON_BYTES_MAX: usize = 4096;

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

/// How the tasks ended that recovered ones wait for, as far as they have: kept in memory, for whoever submits
/// these again. It grows no more once the state was read.
#[derive(Debug, Default)]
pub(super) struct RecoveredEnds(Mutex<BTreeMap<TaskId, Option<OutcomeKind>>>);

impl RecoveredEnds {
    /// A task has ended.
    pub(super) fn tell(&self, task: TaskId, kind: OutcomeKind) {
        if let Some(known) = self.0.lock().get_mut(&task) {
            known.get_or_insert(kind);
        }
    }
}

/// A task that a recovered one waits for.
struct RecoveredEnd {
    ends: Arc<RecoveredEnds>,
    task: TaskId,
}

impl Ends for RecoveredEnd {
    fn ended(&self) -> Option<OutcomeKind> {
        self.ends.0.lock().get(&self.task).copied().flatten()
    }

    fn address(&self) -> *const () {
        std::ptr::null()
    }

    fn is_by_id(&self) -> bool {
        true
    }
}

/// A task whose row went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) key: Option<u128>,
}

/// Finds the name of an agent.
pub(super) type NameOf<'a> = &'a dyn Fn(AgentId) -> Option<Arc<str>>;

/// The rows of accepted tasks, without the type of their payload's encoding.
pub(super) trait Records<T>: Send + Sync {
    /// Why they cannot be accepted, if they cannot; the transaction is not to be committed then.
    fn accept(
        &self,
        tasks: &[(TaskId, &Task<T>)],
        name_of: NameOf<'_>,
        tx: &mut Transaction,
    ) -> Result<(), Error>;
    /// Takes the row out of a task that ends, if it has one, and tells those that wait for it.
    fn end(&self, task: TaskId, kind: OutcomeKind, tx: &mut Transaction) -> Option<Ended>;
    fn pending(&self, ends: &Arc<RecoveredEnds>) -> Result<Vec<Task<T>>, Error>;
    fn next_id(&self) -> TaskId;
}

pub(super) struct TaskRows<T> {
    tasks: Collection<u64, StoredTask<T>>,
    dependants: Collection<u64, StoredDependants>,
    keys: Collection<u128, StoredKey>,
    outcomes: Collection<u64, StoredOutcome>,
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
            dependants: state.collection("phalanx.task_dependants")?,
            keys: state.collection(KEYS)?,
            outcomes: state.collection(OUTCOMES)?,
            next_id: state.collection("phalanx.next_task_id")?,
            state: state.clone(),
        })
    }

    /// The dependencies of a task as they are stored (rule 6).
    fn link(
        &self,
        id: TaskId,
        dependencies: &[(TaskId, Option<OutcomeKind>)],
        history: &mut Option<BTreeMap<u64, u8>>,
        tx: &mut Transaction,
    ) -> Result<Vec<StoredDependency>, Error> {
        let mut stored = Vec::with_capacity(dependencies.len());
        for (dependency, known) in dependencies {
            let (task, known) = (dependency.get(), known.map(code_of));
            let outcome = if tx.contains_key(&self.tasks, &task) {
                let row = tx.get(&self.dependants, &task);
                let mut tasks = row.map_or(Vec::new(), |StoredDependants::V1 { tasks }| tasks);
                if !tasks.contains(&id.get()) {
                    tasks.push(id.get());
                    tx.insert(&self.dependants, task, StoredDependants::V1 { tasks });
                }
                None
            } else {
                // It ended before this one was recorded.
                let mut recorded =
                    || history.get_or_insert_with(|| self.recorded(tx)).get(&task).copied();
                let outcome = known.or_else(&mut recorded);
                Some(outcome.ok_or_else(|| {
                    let message = format!(
                        "task {id} waits for task {task}, whose outcome is not recorded any more: \
                         name it by its handle"
                    );
                    Error::new(ErrorKind::Unsupported, message)
                })?)
            };
            stored.push(StoredDependency { task, outcome });
        }
        Ok(stored)
    }

    /// How each task ended last, by the history.
    fn recorded(&self, tx: &mut Transaction) -> BTreeMap<u64, u8> {
        let mut rows: Vec<_> =
            tx.rows(&self.outcomes).into_iter().map(|(_, outcome)| outcome).collect();
        rows.sort_unstable_by_key(StoredOutcome::sequence);
        rows.iter().map(|outcome| (outcome.task(), outcome.kind())).collect()
    }

    /// Has a key stand for a task, unless it stands for another or for one that was done (rule 7).
    fn claim_key(&self, id: TaskId, key: u128, tx: &mut Transaction) -> Result<(), Error> {
        if let Some(StoredKey::V1 { task, ended }) = tx.get(&self.keys, &key)
            && (task != id.get() || ended.is_some())
        {
            let stands = if ended.is_some() { "has ended" } else { "was accepted before" };
            let message = format!("the key of task {id} is that of task {task}, which {stands}");
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        tx.insert(&self.keys, key, StoredKey::V1 { task: id.get(), ended: None });
        Ok(())
    }
}

impl<T> Records<T> for TaskRows<T>
where
    T: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    fn accept(
        &self,
        tasks: &[(TaskId, &Task<T>)],
        name_of: NameOf<'_>,
        tx: &mut Transaction,
    ) -> Result<(), Error> {
        let mut next = tx.get(&self.next_id, &()).unwrap_or(0);
        // Read only if it is asked for, and then once: whoever reads it meets every outcome that is committed.
        let mut history = None;
        for (id, task) in tasks {
            next = next.max(id.get().saturating_add(1));
            let record = task.record();
            let key = record.key.map(IdempotencyKey::get);
            if let Some(key) = key {
                self.claim_key(*id, key, tx)?;
            }
            let name = |agent| name_of(agent).map_or(String::new(), |name| name.to_string());
            let terms = Terms {
                agent: record.agent.map(name),
                backoff: StoredBackoff::of(&record.backoff),
                timeout: record.timeout,
                key,
                dependencies: self.link(*id, &record.dependencies, &mut history, tx)?,
                released_by_failure: record.if_dependency_fails == IfDependencyFails::Release,
                group: record.group.map(GroupKey::get),
                costs: record.costs.iter().map(|(unit, amount)| (unit.get(), *amount)).collect(),
            };
            let stored = StoredTask::V2 {
                payload: task.payload().clone(),
                capabilities: task.request().capabilities().map(str::to_owned).collect(),
                priority: task.request().urgency().level(),
                max_attempts: task.attempts().get(),
                terms,
            };
            tx.insert(&self.tasks, id.get(), stored);
        }
        tx.insert(&self.next_id, (), next);
        Ok(())
    }

    fn end(&self, task: TaskId, kind: OutcomeKind, tx: &mut Transaction) -> Option<Ended> {
        let id = task.get();
        let row = tx.remove(&self.tasks, &id)?;
        // Those that it waited for need not tell it any more.
        for dependency in row.terms().map_or(&[][..], |terms| &terms.dependencies) {
            if let Some(StoredDependants::V1 { mut tasks }) =
                tx.get(&self.dependants, &dependency.task)
            {
                tasks.retain(|dependant| *dependant != id);
                if tasks.is_empty() {
                    tx.remove(&self.dependants, &dependency.task);
                } else {
                    tx.insert(&self.dependants, dependency.task, StoredDependants::V1 { tasks });
                }
            }
        }
        // Those that wait for it learn how it ended.
        if let Some(StoredDependants::V1 { tasks }) = tx.remove(&self.dependants, &id) {
            for dependant in tasks {
                let Some(mut waiting) = tx.get(&self.tasks, &dependant) else { continue };
                if let Some(terms) = waiting.terms_mut() {
                    let own = |dependency: &&mut StoredDependency| dependency.task == id;
                    for dependency in terms.dependencies.iter_mut().filter(own) {
                        dependency.outcome = Some(code_of(kind));
                    }
                    tx.insert(&self.tasks, dependant, waiting);
                }
            }
        }
        Some(Ended { key: row.terms().and_then(|terms| terms.key) })
    }

    fn pending(&self, ends: &Arc<RecoveredEnds>) -> Result<Vec<Task<T>>, Error> {
        let snapshot = self.state.snapshot();
        let rows: BTreeMap<u64, &StoredTask<T>> =
            snapshot.iter(&self.tasks).map(|(id, stored)| (*id, stored)).collect();
        let mut pending = Vec::with_capacity(rows.len());
        for id in in_order(&rows) {
            pending.push(restored(id, rows[&id], ends)?);
        }
        Ok(pending)
    }

    fn next_id(&self) -> TaskId {
        TaskId::new(self.next_id.get(&()).unwrap_or(0))
    }
}

/// The ids in their order, but for tasks that wait for a later one: these come right after it. At the end come
/// those that wait for each other: a task that was returned, and keeps its row, may have been submitted anew, to
/// wait for one that waited for it. None of them is accepted as it is, and each can be cancelled.
fn in_order<T>(rows: &BTreeMap<u64, &StoredTask<T>>) -> Vec<u64> {
    let mut waits: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    let mut waited_for: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (id, row) in rows {
        let dependencies = row.terms().map_or(&[][..], |terms| &terms.dependencies);
        let open = dependencies.iter().filter(|dependency| dependency.outcome.is_none());
        let open = open.map(|dependency| dependency.task);
        let open: BTreeSet<u64> = open.filter(|task| rows.contains_key(task)).collect();
        for dependency in &open {
            waited_for.entry(*dependency).or_default().push(*id);
        }
        waits.insert(*id, open);
    }
    let mut ready: BTreeSet<u64> =
        waits.iter().filter(|(_, open)| open.is_empty()).map(|(id, _)| *id).collect();
    let mut order = Vec::with_capacity(rows.len());
    while let Some(id) = ready.pop_first() {
        order.push(id);
        for dependant in waited_for.remove(&id).into_iter().flatten() {
            let open = waits.get_mut(&dependant).expect("each row has its entry");
            open.remove(&id);
            if open.is_empty() {
                ready.insert(dependant);
            }
        }
    }
    order.extend(waits.into_iter().filter(|(_, open)| !open.is_empty()).map(|(id, _)| id));
    order
}

/// The task of a row.
fn restored<T: Clone>(
    id: u64,
    stored: &StoredTask<T>,
    ends: &Arc<RecoveredEnds>,
) -> Result<Task<T>, Error> {
    let (StoredTask::V1 { payload, capabilities, priority, max_attempts }
    | StoredTask::V2 { payload, capabilities, priority, max_attempts, .. }) = stored;
    let max_attempts = (*max_attempts).try_into().map_err(|_| {
        Error::new(ErrorKind::Corrupt, format!("the stored task {id} has no attempts"))
    })?;
    let task = Task::new(payload.clone())
        .priority(Priority::new(*priority))
        .max_attempts(max_attempts)
        .with_id(TaskId::new(id));
    let mut task = capabilities.iter().fold(task, Task::capability);
    let Some(terms) = stored.terms() else { return Ok(task) };
    if let Some(name) = &terms.agent {
        task = task.with_lost_agent(name);
    }
    if let Some(timeout) = terms.timeout {
        task = task.timeout(timeout);
    }
    if let Some(key) = terms.key {
        task = task.idempotency_key(IdempotencyKey::new(key));
    }
    if terms.backoff.backoff() != Backoff::NONE {
        task = task.retry_backoff(terms.backoff.backoff());
    }
    if terms.released_by_failure {
        task = task.if_dependency_fails(IfDependencyFails::Release);
    }
    if let Some(group) = terms.group {
        task = task.group(GroupKey::new(group));
    }
    for (unit, amount) in &terms.costs {
        let unit = Unit::new(*unit).ok_or_else(|| {
            let message = format!("the stored task {id} costs units of kind {unit}, which is none");
            Error::new(ErrorKind::Corrupt, message)
        })?;
        task = task.cost(unit, *amount);
    }
    for StoredDependency { task: other, outcome } in &terms.dependencies {
        let other = TaskId::new(*other);
        let end = RecoveredEnd { ends: Arc::clone(ends), task: other };
        let outcome = outcome.map(|code| known_kind(code, other)).transpose()?;
        ends.0.lock().insert(other, outcome);
        task = task.after_recorded(other, Arc::new(end));
    }
    Ok(task)
}

/// What a stored number means, of what this version knows.
fn known_kind(code: u8, task: TaskId) -> Result<OutcomeKind, Error> {
    kind_of(code).ok_or_else(|| {
        let message = format!("task {task} is stored as ended in a way, {code}, that is not known");
        Error::new(ErrorKind::Corrupt, message)
    })
}

/// The newest outcomes, in a ring of rows (rule 3 of the file). Each names a kind that is known: that was
/// looked at when it was opened.
pub(super) struct History {
    rows: Collection<u64, StoredOutcome>,
    keys: Collection<u128, StoredKey>,
    state: StateManager,
    next: AtomicU64,
    next_id: TaskId,
}

impl History {
    pub(super) fn open(state: &StateManager) -> Result<Self, Error> {
        let rows: Collection<u64, StoredOutcome> = state.collection(OUTCOMES)?;
        let keys = state.collection(KEYS)?;
        let snapshot = state.snapshot();
        let (mut next, mut next_id) = (0, 0);
        for (_, outcome) in snapshot.iter(&rows) {
            next = next.max(outcome.sequence().saturating_add(1));
            next_id = next_id.max(outcome.task().saturating_add(1));
            known_kind(outcome.kind(), TaskId::new(outcome.task()))?;
        }
        let (next, next_id) = (AtomicU64::new(next), TaskId::new(next_id));
        Ok(Self { rows, keys, state: state.clone(), next, next_id })
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
    pub(super) fn cancelled(
        &self,
        sequence: u64,
        task: TaskId,
        ended: Option<Ended>,
        tx: &mut Transaction,
    ) {
        let outcome = &Outcome::<()>::Cancelled;
        self.record(sequence, task, Attempt::NONE, Ok(outcome), ended, tx);
    }

    pub(super) fn record<O>(
        &self,
        sequence: u64,
        task: TaskId,
        attempt: Attempt,
        outcome: Result<&Outcome<O>, &str>,
        ended: Option<Ended>,
        tx: &mut Transaction,
    ) {
        let (kind, reason) = match outcome {
            Ok(Outcome::Failed(error)) => (OutcomeKind::Failed, Some(error.message())),
            Ok(outcome) => (outcome.kind(), None),
            Err(reason) => (OutcomeKind::Failed, Some(reason)),
        };
        // Rule 7: what was not done may be asked for again.
        let was_tried = match outcome {
            Ok(Outcome::Failed(error)) => error.kind() != TaskErrorKind::DependencyFailed,
            Ok(outcome) => outcome.completed().is_some(),
            Err(_) => true,
        };
        let place = sequence % OUTCOMES_KEPT;
        let old = tx.get(&self.rows, &place);
        // It took its place so long ago that a newer one has it by now.
        let is_kept = old.as_ref().is_none_or(|old| old.sequence() <= sequence);
        let key = ended.and_then(|ended| ended.key);
        if let Some(key) = key {
            if was_tried && is_kept {
                let stored = StoredKey::V1 { task: task.get(), ended: Some(sequence) };
                tx.insert(&self.keys, key, stored);
            } else {
                tx.remove(&self.keys, &key);
            }
        }
        if !is_kept {
            return;
        }
        let outcome = PlainOutcome {
            sequence,
            task: task.get(),
            attempt: attempt.get(),
            kind: code_of(kind),
            reason: reason.map(bounded),
        };
        let key = key.filter(|_| was_tried);
        if let Some(old) = old
            && let Some(old_key) = old.key()
            && let Some(StoredKey::V1 { ended, .. }) = tx.get(&self.keys, &old_key)
            && ended == Some(old.sequence())
        {
            tx.remove(&self.keys, &old_key);
        }
        tx.insert(&self.rows, place, StoredOutcome::V2 { outcome, key });
    }

    pub(super) fn of(&self, wanted: TaskId) -> Option<RecordedOutcome> {
        let snapshot = self.state.snapshot();
        // A task that a shutdown returned may have a second outcome in a later process: the newest counts.
        let newest = snapshot
            .iter(&self.rows)
            .map(|(_, stored)| stored)
            .filter(|stored| stored.task() == wanted.get())
            .max_by_key(|stored| stored.sequence())?;
        let PlainOutcome { task, attempt, kind, reason, .. } = newest.clone().into_plain();
        Some(RecordedOutcome {
            task: TaskId::new(task),
            attempt: Attempt::new(attempt),
            kind: kind_of(kind)?,
            reason,
        })
    }

    /// The task that a key stands for (rule 7).
    pub(super) fn task_of(&self, key: IdempotencyKey) -> Option<TaskId> {
        let StoredKey::V1 { task, .. } = self.keys.get(&key.get())?;
        Some(TaskId::new(task))
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

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use std::time::Duration;

    use super::*;

    fn row(open: &[u64], costs: Vec<(u8, u64)>) -> StoredTask<u64> {
        let open = open.iter().map(|task| StoredDependency { task: *task, outcome: None });
        let terms = Terms {
            agent: None,
            backoff: StoredBackoff::of(&Backoff::NONE),
            timeout: Some(Duration::from_secs(1)),
            key: None,
            dependencies: open.collect(),
            released_by_failure: false,
            group: None,
            costs,
        };
        StoredTask::V2 { payload: 0, capabilities: Vec::new(), priority: 0, max_attempts: 1, terms }
    }

    fn ordered(rows: &[(u64, &[u64])]) -> Vec<u64> {
        let rows: Vec<_> = rows.iter().map(|(id, open)| (*id, row(open, Vec::new()))).collect();
        in_order(&rows.iter().map(|(id, row)| (*id, row)).collect())
    }

    #[test]
    fn rows_come_behind_those_that_they_wait_for_and_none_is_left_out() {
        assert_eq!(ordered(&[(1, &[3]), (2, &[]), (3, &[2])]), [2, 3, 1]);
        // The first waits for a circle and is not in it; the second is outside altogether.
        assert_eq!(
            ordered(&[(1, &[3]), (2, &[]), (3, &[4]), (4, &[5]), (5, &[3])]),
            [2, 1, 3, 4, 5]
        );
        assert_eq!(ordered(&[(1, &[1])]), [1]);
    }

    #[test]
    fn a_row_with_a_kind_of_units_that_is_none_is_corrupt() {
        let ends = Arc::new(RecoveredEnds::default());
        let of = |kind| restored(4, &row(&[], vec![(kind, 9)]), &ends);
        assert!(of(3).is_ok());
        assert_eq!(of(4).expect_err("there are four").kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn an_outcome_that_comes_after_a_newer_one_has_its_place_leaves_that_and_its_key_alone() {
        let state = StateManager::in_memory();
        let history = History::open(&state).expect("it is empty");
        let record = |sequence, task, key| {
            let ended = Some(Ended { key: Some(key) });
            let outcome = Outcome::Completed(());
            let write = |tx: &mut Transaction| {
                let id = TaskId::new(task);
                history.record(sequence, id, Attempt::new(1), Ok(&outcome), ended, tx);
                Ok(())
            };
            state.transaction(write).expect("nothing is refused");
        };
        let task_of = |key| history.task_of(IdempotencyKey::new(key)).map(TaskId::get);
        record(6 + OUTCOMES_KEPT, 2, 20);
        record(6, 1, 10);
        assert_eq!(history.of(TaskId::new(2)).map(|it| it.kind), Some(OutcomeKind::Completed));
        assert_eq!(history.of(TaskId::new(1)), None);
        // Rule 7: a key whose outcome is not in the history is free.
        assert_eq!((task_of(20), task_of(10)), (Some(2), None));
        record(6 + 2 * OUTCOMES_KEPT, 3, 30);
        assert_eq!((task_of(20), task_of(30)), (None, Some(3)));
    }
}
