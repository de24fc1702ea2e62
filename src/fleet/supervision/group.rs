//! How an agent is supervised: by itself, or with others.

use crate::fleet::supervise::RestartPolicy;
use crate::sync::unique;

/// Agents that are supervised together, with one budget of restarts.
///
/// Each agent whose spec names it ([`AgentSpec::supervised_by`](crate::fleet::AgentSpec::supervised_by)) is a
/// member as long as it lives. With [`RestartStrategy::OneForAll`](crate::fleet::supervise::RestartStrategy)
/// the failure of one has all of them started again together, and if the budget is used up all of them end;
/// with `OneForOne` each is started again, and ends, by itself. The budget begins anew once the last member is gone.
/// It is a handle: clones are the same group. A
/// group that several fleets know has members of its own, and a budget, in each.
#[derive(Clone, Debug)]
pub struct SupervisionGroup {
    id: u64,
    policy: RestartPolicy,
}

impl SupervisionGroup {
    /// A group without members.
    #[must_use]
    pub fn new(policy: RestartPolicy) -> Self {
        Self { id: unique(), policy }
    }

    pub(in crate::fleet) const fn id(&self) -> u64 {
        self.id
    }

    pub(in crate::fleet) const fn policy(&self) -> RestartPolicy {
        self.policy
    }
}

/// Who supervises the agents of a spec.
#[derive(Clone, Debug)]
pub(in crate::fleet) enum Supervised {
    /// Each for itself.
    Alone(RestartPolicy),
    /// All of them, and those of other specs.
    Together(SupervisionGroup),
}
