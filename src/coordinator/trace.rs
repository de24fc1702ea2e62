//! The fleet's events as `tracing` events, for hosts that collect those (feature `tracing`).
//!
//! What somebody may have to act on is a warning, the rest is debug output.

use crate::fleet::{FleetEvent, OutcomeKind};

pub(super) fn emit(event: &FleetEvent) {
    match event {
        FleetEvent::AgentKilled { agent, leases_revoked } => {
            tracing::warn!(target: "phalanx::fleet", %agent, leases_revoked, "agent killed");
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
        other => tracing::debug!(target: "phalanx::fleet", event = ?other, "fleet event"),
    }
}
