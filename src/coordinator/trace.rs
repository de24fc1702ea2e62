//! The fleet's events as `tracing` events, for hosts that collect those (feature `tracing`).
//!
//! What somebody may have to act on is a warning, the rest is debug output.

use crate::fleet::{FleetEvent, OutcomeKind};

pub(super) fn emit(event: &FleetEvent) {
    match event {
        FleetEvent::AgentKilled { agent, leases_revoked } => {
            tracing::warn!(target: "phalanx::fleet", %agent, leases_revoked, "agent killed");
        }
        FleetEvent::AgentFailed { agent, reason, restart_at } => {
            tracing::warn!(target: "phalanx::fleet", %agent, ?reason, ?restart_at, "agent failed");
        }
        FleetEvent::AgentDegraded { agent, silent } => {
            tracing::warn!(target: "phalanx::fleet", %agent, ?silent, "agent degraded");
        }
        FleetEvent::CircuitOpened { agent_type, until } => {
            tracing::warn!(target: "phalanx::fleet", %agent_type, ?until, "circuit opened");
        }
        FleetEvent::AttemptStuck { agent, stuck } => {
            tracing::warn!(target: "phalanx::fleet", %agent, ?stuck, "attempt stuck");
        }
        FleetEvent::TaskRequeued { task, attempt, reason } => {
            tracing::warn!(target: "phalanx::fleet", %task, %attempt, ?reason, "task runs again");
        }
        FleetEvent::LateCompletionRefused { task, attempt, agent } => {
            tracing::warn!(target: "phalanx::fleet", %task, %attempt, %agent, "late completion refused");
        }
        FleetEvent::TaskSettled {
            task, attempt, outcome: outcome @ OutcomeKind::Failed, ..
        } => {
            tracing::warn!(target: "phalanx::fleet", %task, %attempt, ?outcome, "task settled");
        }
        FleetEvent::MessageFailed { agent, error } => {
            tracing::warn!(target: "phalanx::fleet", %agent, %error, "message failed");
        }
        FleetEvent::MessagesReturned { agent, count, reason } => {
            tracing::warn!(target: "phalanx::fleet", %agent, count, ?reason, "messages returned");
        }
        other => tracing::debug!(target: "phalanx::fleet", event = ?other, "fleet event"),
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    //! Here and not among the behaviour tests: whether anybody collects is remembered for a whole process, and
    //! a test beside this one that does not would be heard first now and then.

    use std::sync::Arc;

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    use crate::coordinator::{Coordinator, Domain};
    use crate::fleet::AgentSpec;
    use crate::sync::Mutex;

    struct Nothing;

    impl Domain for Nothing {
        type Task = ();
        type Output = ();
        type Event = ();
        type Key = ();
        type Value = ();
    }

    /// Keeps level and target of each event of this crate.
    struct Collector(Arc<Mutex<Vec<(Level, String)>>>);

    impl Subscriber for Collector {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target().starts_with("phalanx")
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            let metadata = event.metadata();
            self.0.lock().push((*metadata.level(), metadata.target().to_owned()));
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn a_killed_agent_is_a_warning_to_whoever_collects_traces() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let coordinator: Coordinator<Nothing> = Coordinator::builder().build().expect("it builds");
        tracing::subscriber::with_default(Collector(Arc::clone(&seen)), || {
            let agent = coordinator.fleet().spawn(AgentSpec::new("a")).expect("there is room");
            coordinator.fleet().kill(agent).expect("it lives");
        });
        let fleet = "phalanx::fleet".to_owned();
        assert_eq!(*seen.lock(), [(Level::DEBUG, fleet.clone()), (Level::WARN, fleet)]);
    }
}
