//! The fleet's log over state: acceptance before it is told, outcome and effects in one transaction.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::Domain;
use super::records::{Ended, History, Records, RecoveredEnds};
use crate::fleet::{
    AgentId, Attempt, LogPosition, Outcome, OutcomeKind, Task, TaskId, TaskLog, WeakFleet,
};
use crate::state::{Abort, StateManager, Transaction, Unacknowledged, Version};
use crate::sync::OnceLock;
use crate::{Error, ErrorKind};

/// What a completed task changes in state.
pub(super) type Effects<D> = Arc<
    dyn Fn(
            &Task<<D as Domain>::Task>,
            &<D as Domain>::Output,
            &mut Transaction,
        ) -> Result<(), Abort>
        + Send
        + Sync,
>;

pub(super) struct StateLog<D: Domain> {
    pub(super) state: StateManager,
    pub(super) effects: Option<Effects<D>>,
    pub(super) records: Option<Arc<dyn Records<D::Task>>>,
    pub(super) history: Arc<History>,
    pub(super) ends: Arc<RecoveredEnds>,
    /// For the names of agents; set once the fleet is there.
    pub(super) fleet: Arc<OnceLock<WeakFleet<D::Task, D::Output>>>,
}

impl<D: Domain> StateLog<D> {
    /// Ends a task whose outcome is decided here and not by the fleet: its effects were refused.
    fn fail(&self, task: TaskId, attempt: Attempt, reason: &str) -> Result<Version, Error> {
        let sequence = self.history.next_sequence();
        let version = took_place(self.state.transaction(|tx| {
            let ended = self.end(task, OutcomeKind::Failed, tx);
            self.history.record::<D::Output>(sequence, task, attempt, Err(reason), ended, tx);
            Ok(())
        }))?;
        self.ends.tell(task, OutcomeKind::Failed);
        Ok(version)
    }

    fn end(&self, task: TaskId, kind: OutcomeKind, tx: &mut Transaction) -> Option<Ended> {
        self.records.as_ref().and_then(|records| records.end(task, kind, tx))
    }

    fn name_of(&self, agent: AgentId) -> Option<Arc<str>> {
        let fleet = self.fleet.get().and_then(WeakFleet::upgrade)?;
        fleet.agent(agent).map(|status| status.name)
    }
}

impl<D: Domain> TaskLog<D::Task, D::Output> for StateLog<D> {
    fn accept(&self, tasks: &[(TaskId, &Task<D::Task>)]) -> Result<(), Error> {
        let Some(records) = &self.records else {
            return Ok(());
        };
        // What would be lost in a crash is not promised.
        let mut refused = None;
        let committed = self.state.transaction(|tx| {
            refused = records.accept(tasks, &|agent| self.name_of(agent), tx).err();
            match &refused {
                None => Ok(()),
                Some(_) => Err(Abort::new("a task cannot be accepted")),
            }
        });
        match refused {
            None => self.state.wait_durable(committed?.1),
            Some(refused) => Err(refused),
        }
    }

    fn settle(
        &self,
        id: TaskId,
        attempt: Attempt,
        task: &Task<D::Task>,
        outcome: &Outcome<D::Output>,
    ) -> Result<Option<LogPosition>, Error> {
        let sequence = self.history.next_sequence();
        let commit = |tx: &mut Transaction| {
            if let (Some(effects), Outcome::Completed(output)) = (&self.effects, outcome) {
                effects(task, output, tx)?;
            }
            let ended = match outcome.kind() {
                OutcomeKind::Returned => None,
                kind => self.end(id, kind, tx),
            };
            self.history.record(sequence, id, attempt, Ok(outcome), ended, tx);
            Ok(())
        };
        // A panic is a refusal: what was written so far is dropped with the transaction.
        let committed = catch_unwind(AssertUnwindSafe(|| self.state.transaction(commit)))
            .unwrap_or_else(|_| {
                let message =
                    "the effects of the task panicked, or the encoding of what they wrote";
                Err(Error::new(ErrorKind::Aborted, message))
            });
        match took_place(committed) {
            Ok(version) => {
                if outcome.kind() != OutcomeKind::Returned {
                    self.ends.tell(id, outcome.kind());
                }
                Ok(Some(LogPosition(version.as_u64())))
            }
            Err(error) => {
                // The effects cannot be committed, and the fleet tells the task as failed: that is its
                // outcome, and it does not run again. A store that takes this neither keeps the row, and
                // the next process finds the task.
                if matches!(outcome, Outcome::Completed(_)) {
                    self.fail(id, attempt, &reason_of(&error))?;
                }
                Err(error)
            }
        }
    }
}

/// The version of what is in the state now. A commit that took place and was not acknowledged is there like any
/// other that nobody waited for: its outcome and its effects are visible, and to call it failed would have the host
/// do again what was done.
fn took_place(committed: Result<((), Version), Error>) -> Result<Version, Error> {
    match committed {
        Ok(((), version)) => Ok(version),
        Err(error) => Unacknowledged::of(&error).ok_or(error),
    }
}

/// The host's own reason where it gave one.
fn reason_of(error: &Error) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(reason) if error.kind() == ErrorKind::Aborted => reason.to_string(),
        _ => error.to_string(),
    }
}
