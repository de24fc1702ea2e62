//! What travels on the coordinator's bus.
//!
//! 1. While the coordinator runs, a notice waits for a blocking subscription as long as it takes. A hint that work
//!    waits does not wait: whoever asks for an agent tells it, for a short time perhaps, or in a poll.
//! 2. From the start of a shutdown on, the notices of a thread wait for as long as that shutdown at most,
//!    all together: a subscription that is read slowly or not at all cannot hold up the end.
//! 3. A notice that is not published is counted.

use std::time::Duration;

use crate::bus::{EventBus, PublishTimeoutError, Publisher, Topic};
use crate::fleet::{FleetEvent, Observer};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{Clock, Error, ErrorKind};

/// An event on the coordinator's bus: the library's own, or the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice<E> {
    /// Something happened in the fleet. A settled task's outcome is already committed to state.
    Fleet(FleetEvent),
    /// The host published it.
    Host(E),
}

/// The topics of the coordinator's bus.
///
/// A subscriber that wants only outcomes filters on [`TASK_SETTLED`](topics::TASK_SETTLED): the rest is
/// passed over and never handed to it.
pub mod topics {
    /// An agent was spawned, killed or stopped, has failed or was started again; the circuit of a type has changed; or
    /// leases came up to the soft line of a budget.
    pub const AGENT: &str = "agent";
    /// A task was accepted.
    pub const TASK_ACCEPTED: &str = "task/accepted";
    /// Tasks or requests wait for agents. Such a hint waits for nobody: while a blocking subscription is a full ring behind
    /// it is not published, and counted as that. The next one comes before twice as much waits, so whoever scales by them
    /// ticks beside.
    pub const BACKLOG: &str = "backlog";
    /// An attempt started, is stuck, was lost, or came too late.
    pub const TASK_ATTEMPT: &str = "task/attempt";
    /// Messages to an agent failed or came back.
    pub const MESSAGE: &str = "message";
    /// A task got its outcome.
    pub const TASK_SETTLED: &str = "task/settled";
    /// Where the host's own events go unless it names a topic.
    pub const HOST: &str = "host";
}

/// Publishes what the fleet observes, and what the host says.
pub(super) struct Announcer<E> {
    publisher: Publisher<Notice<E>>,
    agent: Topic,
    accepted: Topic,
    backlog: Topic,
    attempt: Topic,
    message: Topic,
    settled: Topic,
    host: Topic,
    unpublished: AtomicU64,
    /// How long a notice may wait; `None` for as long as it takes (rules 1 and 2).
    patience: Mutex<Option<Duration>>,
    clock: Clock,
}

impl<E: Send + Sync + 'static> Announcer<E> {
    pub(super) fn new(bus: &EventBus<Notice<E>>) -> Result<Self, Error> {
        Ok(Self {
            publisher: bus.publisher(),
            agent: bus.topic(topics::AGENT)?,
            accepted: bus.topic(topics::TASK_ACCEPTED)?,
            backlog: bus.topic(topics::BACKLOG)?,
            attempt: bus.topic(topics::TASK_ATTEMPT)?,
            message: bus.topic(topics::MESSAGE)?,
            settled: bus.topic(topics::TASK_SETTLED)?,
            host: bus.topic(topics::HOST)?,
            unpublished: AtomicU64::new(0),
            patience: Mutex::new(None),
            clock: Clock::real(),
        })
    }

    /// A shutdown has begun that waits for so long at most (rule 2).
    pub(super) fn limit_patience(&self, limit: Duration) {
        let mut patience = self.patience.lock();
        *patience = Some(patience.map_or(limit, |known| known.min(limit)));
    }

    pub(super) fn host(&self, event: E) -> Result<(), Error> {
        self.publisher.publish(self.host, Notice::Host(event)).map_err(|_| {
            Error::new(ErrorKind::Closed, "the bus is closed; the coordinator was shut down")
        })?;
        Ok(())
    }

    pub(super) fn unpublished(&self) -> u64 {
        self.unpublished.load(Ordering::Relaxed)
    }

    fn topic_of(&self, event: &FleetEvent) -> Topic {
        match event {
            FleetEvent::AgentSpawned { .. }
            | FleetEvent::AgentPrewarmed { .. }
            | FleetEvent::AgentKilled { .. }
            | FleetEvent::AgentRetired { .. }
            | FleetEvent::AgentFailed { .. }
            | FleetEvent::AgentExited { .. }
            | FleetEvent::AgentRestarted { .. }
            | FleetEvent::AgentDegraded { .. }
            | FleetEvent::AgentRecovered { .. }
            | FleetEvent::CircuitOpened { .. }
            | FleetEvent::CircuitTried { .. }
            | FleetEvent::CircuitClosed { .. }
            | FleetEvent::AgentStopped { .. }
            | FleetEvent::BudgetWarning { .. } => self.agent,
            FleetEvent::TaskAccepted { .. } => self.accepted,
            FleetEvent::TasksWait { .. } | FleetEvent::RequestsWait { .. } => self.backlog,
            FleetEvent::AttemptStarted { .. }
            | FleetEvent::AttemptStuck { .. }
            | FleetEvent::TaskRequeued { .. }
            | FleetEvent::LateCompletionRefused { .. } => self.attempt,
            FleetEvent::MessageFailed { .. } | FleetEvent::MessagesReturned { .. } => self.message,
            FleetEvent::TaskSettled { .. } => self.settled,
        }
    }
}

impl<E: Send + Sync + 'static> Observer for Announcer<E> {
    fn notice(&self, event: &FleetEvent) {
        #[cfg(feature = "tracing")]
        super::trace::emit(event);
        let (topic, notice) = (self.topic_of(event), Notice::Fleet(event.clone()));
        // Rule 1.
        let is_hint = topic == self.backlog;
        let patience = if is_hint { None } else { *self.patience.lock() };
        let published = match patience {
            None if is_hint => self.publisher.try_publish(topic, notice).is_ok(),
            None => self.publisher.publish(topic, notice).is_ok(),
            Some(limit) => {
                let began = self.clock.now();
                let published = self.publisher.publish_timeout(topic, notice, limit);
                let left = match published {
                    // The bus may go by another clock than this one.
                    Err(PublishTimeoutError::Timeout(_)) => Duration::ZERO,
                    _ => limit.saturating_sub(self.clock.now() - began),
                };
                self.limit_patience(left);
                published.is_ok()
            }
        };
        if !published {
            self.unpublished.fetch_add(1, Ordering::Relaxed);
        }
    }
}
