//! Numbers and reports: what a fleet has done, and how its tasks ended.

use super::id::TaskId;
use super::task::{OutcomeKind, TaskError, TaskErrorKind};

/// What a fleet has done so far, read at one moment.
///
/// What concerns messages is read right after the rest; those accepted are counted where they lie, so a reading
/// takes a look at each mailbox that was ever made. In every reading `tasks_accepted` is the sum of `tasks_completed`, `tasks_failed`,
/// `tasks_returned`, `tasks_cancelled`, `tasks_queued` and `tasks_running`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FleetStats {
    /// Agents that were spawned.
    pub agents_spawned: u64,
    /// Agents that were killed.
    pub agents_killed: u64,
    /// Agents that were retired: taken out while they held no lease.
    pub agents_retired: u64,
    /// Agents that were drained, failed for good, stopped themselves, or ended with the fleet.
    pub agents_stopped: u64,
    /// Agents that ended because they failed and were not to be started again, or because they had exited and their
    /// budget was used up; they are among those stopped.
    pub agents_given_up: u64,
    /// Failures of supervised agents, those included that failed together with another one; and of agents that nobody
    /// supervises and whose handlers could not be made [ahead](super::AgentSpec::prewarmed).
    pub agent_failures: u64,
    /// Times that a handler [had its agent stop](super::TaskContext::stop_agent), started again or not.
    pub agent_exits: u64,
    /// Times that an agent was started again.
    pub agent_restarts: u64,
    /// Handlers that were made [before](super::AgentSpec::prewarmed) their agents served.
    pub agents_prewarmed: u64,
    /// Times that such a handler was to be made and what makes it panicked; it is a handler panic too.
    pub prewarms_failed: u64,
    /// Times that an agent was degraded for its silence.
    pub agents_degraded: u64,
    /// Times that a degraded agent was heard of.
    pub agents_recovered: u64,
    /// Times that the circuit of a type opened.
    pub circuits_opened: u64,
    /// Times that an agent was put on trial for its type.
    pub circuit_trials: u64,
    /// Times that the circuit of a type closed.
    pub circuits_closed: u64,
    /// Silences of attempts and messages that were [stuck](super::AgentSpec::stuck_after).
    pub attempts_stuck: u64,
    /// Failures of supervised agents that changed nothing: of an earlier incarnation, or of one that is down
    /// or gone.
    pub agent_failures_ignored: u64,
    /// Agents that live now.
    pub agents_live: u64,
    /// Tasks that were accepted.
    pub tasks_accepted: u64,
    /// Tasks that were handed back instead of accepted, for whatever reason.
    pub tasks_refused: u64,
    /// Submissions with the key of a task that was known already; they were neither accepted nor refused.
    pub tasks_repeated: u64,
    /// Tasks that ended as completed.
    pub tasks_completed: u64,
    /// Tasks that ended as failed.
    pub tasks_failed: u64,
    /// Tasks that ended as returned.
    pub tasks_returned: u64,
    /// Tasks that ended as cancelled.
    pub tasks_cancelled: u64,
    /// Accepted tasks that wait now: in the queue or in a mailbox, for other tasks, or for their next attempt.
    pub tasks_queued: u64,
    /// Accepted tasks that run, or whose outcome is being recorded, now.
    pub tasks_running: u64,
    /// Messages, told or asked, that were accepted. Never less than the sum of those handled, failed and
    /// returned; the rest lie in mailboxes or are being handled.
    pub messages_accepted: u64,
    /// Messages that were handed back instead of accepted, for whatever reason.
    pub messages_refused: u64,
    /// Messages that a handler handled.
    pub messages_handled: u64,
    /// Messages whose handler returned an error or panicked.
    pub messages_failed: u64,
    /// Messages that were accepted and came back, as their agent or the fleet ended first.
    pub messages_returned: u64,
    /// Attempts beyond a task's first.
    pub reruns: u64,
    /// Attempts whose output the verifier did not accept.
    pub attempts_rejected: u64,
    /// Results of struck attempts that were thrown away.
    pub late_completions_refused: u64,
    /// Errors and panics that were thrown away: of struck attempts, and of attempts that came back after the deadlines
    /// of their tasks.
    pub late_failures_ignored: u64,
    /// Outcomes that the log could not record.
    pub outcomes_not_recorded: u64,
    /// Outcomes that [streams](super::Outcomes) had no room for, each counted once for each of them.
    pub outcomes_missed: u64,
    /// Leases handed out, those of running tasks included; a place that a waiting batch gathers counts each time,
    /// whether it is passed on or collected.
    pub leases_granted: u64,
    /// Leases that are held now, those granted to requests that have not noticed yet included.
    pub leases_live: u64,
    /// Leases that the host completed as succeeded.
    pub leases_succeeded: u64,
    /// Leases that the host completed as failed, or that were dropped by a panic.
    pub leases_failed: u64,
    /// Leases that the host dropped without completing them, those that a picker declined after a wait included.
    pub leases_abandoned: u64,
    /// Leases that were given back when they were void: their agent was gone, or they had expired.
    pub leases_stale: u64,
    /// Leases that expired.
    pub leases_expired: u64,
    /// Requests for an agent that wait now.
    pub requests_waiting: u64,
    /// Requests that were refused because too many waited.
    pub requests_refused: u64,
    /// Choices of a [`Picker`](super::Picker) that others were faster to take; it was asked again, but
    /// for the last of so many that the allocation failed.
    pub picks_lost: u64,
    /// Allocations whose picker wanted none of the agents that it was shown.
    pub picks_declined: u64,
    /// Futures of async handlers that were dropped before they had resolved.
    pub futures_dropped: u64,
    /// Futures of async handlers that have neither resolved nor been dropped; with those whose outcome is being
    /// recorded now.
    pub futures_live: u64,
    /// Panics of handlers and factories that were caught.
    pub handler_panics: u64,
    /// Panics of the observer that were caught.
    pub observer_panics: u64,
    /// Panics of other user code (the log, the verifier, the picker, the [`Returned`](super::Returned) hook, the
    /// [`Spawner`](super::Spawner), wakers, destructors) that were caught.
    pub other_panics: u64,
}

impl FleetStats {
    /// Counts what an attempt or a message was lost to, if it was more than an error.
    pub(super) fn attempt_lost(&mut self, error: &TaskError) {
        match error.kind() {
            TaskErrorKind::Panicked => self.handler_panics += 1,
            TaskErrorKind::Dropped => self.futures_dropped += 1,
            _ => {}
        }
    }
}

/// How the accepted tasks of a fleet ended: counts over its whole life, each task that ended meanwhile, and what has not
/// ended.
///
/// `accepted` is the sum of the four outcomes and the length of `unfinished`; the messages' numbers add up
/// likewise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Tasks that were accepted.
    pub accepted: u64,
    /// Tasks that ended as completed.
    pub completed: u64,
    /// Tasks that ended as failed.
    pub failed: u64,
    /// Tasks that ended as returned.
    pub returned: u64,
    /// Tasks that ended as cancelled.
    pub cancelled: u64,
    /// The tasks that ended during the call, in the order in which they did, and how: with `unfinished` those that were
    /// there, or were being accepted, as it began.
    pub ended: Vec<(TaskId, OutcomeKind)>,
    /// Tasks that have not ended: queued, running, or being recorded.
    pub unfinished: Vec<TaskId>,
    /// Messages, told or asked, that were accepted.
    pub messages_accepted: u64,
    /// Messages that a handler handled.
    pub messages_handled: u64,
    /// Messages whose handler returned an error or panicked.
    pub messages_failed: u64,
    /// Messages that came back unhandled.
    pub messages_returned: u64,
    /// Messages that have not ended: in a mailbox or a handler.
    pub messages_unfinished: u64,
    /// Futures of async handlers that have neither resolved nor been dropped; after a shutdown, those that did not in
    /// time. The executor has them, and what comes of them is refused.
    pub futures_left: usize,
    /// Worker threads that have not ended, or threads that drive; after a shutdown, those whose handler did not return in time.
    pub workers_left: usize,
}

impl DrainReport {
    /// Whether every accepted task and message has ended.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.unfinished.is_empty() && self.messages_unfinished == 0
    }
}
