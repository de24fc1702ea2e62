//! Agents that scaling takes away though they hold leases: each is unrouted, drained, and ended.
//!
//! Rules that hold here:
//!
//! 1. It begins in one step, and only with an agent that work may come to, that is not on trial and of which nothing is
//!    asked beside the leases that it holds: no message, no task and no request of its own, and no batch that needs it or
//!    has gathered of it. From then on it is allocated no more and its mailbox takes no newcomer, as in a
//!    [drain](super::drain). What it holds lives on.
//! 2. It leaves until it has ended, or scaling has it serve again, as what the host wanted of it before, which is no new
//!    word of the host: what has failed meanwhile has failed. Or until the host says what it is fit for, or drains it.
//!    From then on it is the host's: scaling neither ends it nor has it serve.
//! 3. It is ended in a step in which it holds no lease, its mailbox is idle, and no task for it alone is left. That others
//!    could do what waits, who are there or expected, keeps it no longer; who begins to wait for this one alone is told as
//!    it ends, as in any drain.

use std::collections::{HashMap, HashSet};

use super::agent::Condition;
use super::id::AgentId;
use super::inner::{After, Inner};

/// Those that leave, with what they serve again as (rule 2). It is part of the state, under its lock.
#[derive(Debug, Default)]
pub(super) struct Leaving(HashMap<AgentId, Condition>);

impl Leaving {
    pub(super) fn has(&self, agent: AgentId) -> bool {
        self.0.contains_key(&agent)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = AgentId> {
        self.0.keys().copied()
    }

    /// It has ended, or is the host's.
    pub(super) fn forget(&mut self, agent: AgentId) {
        if !self.0.is_empty() {
            self.0.remove(&agent);
        }
    }
}

/// Which of some agents leave from now on, and which do not.
#[derive(Debug, Default)]
pub(super) struct Leavers {
    pub(super) unrouted: Vec<AgentId>,
    pub(super) kept: Vec<AgentId>,
}

impl<T, O> Inner<T, O> {
    /// Has so many of these agents leave, the first that may (rule 1). One that serves no more is one of so many: as many
    /// fewer are to leave. O(agents that may not, with the batches that wait for each, and tasks that are parked).
    pub(super) fn let_leave(&self, agents: &[AgentId], count: usize) -> Leavers {
        let mut leavers = Leavers::default();
        let mut after = After::new();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let expected: HashSet<_> = state.expected().collect();
            let mut left = count;
            for agent in agents {
                if left == 0 {
                    break;
                }
                let Some(may_leave) = self.pool.may_leave(*agent) else {
                    left -= 1;
                    leavers.kept.push(*agent);
                    continue;
                };
                let is_free = may_leave
                    && !state.stopping
                    && !expected.contains(agent)
                    && self.mailbox_is_idle(*agent);
                let before = is_free.then(|| {
                    self.refuse_newcomers(*agent);
                    self.want(state, *agent, Condition::Draining, &mut after)
                });
                if let Some(before) = before.flatten() {
                    left -= 1;
                    state.ledger.leaving.0.insert(*agent, before);
                    leavers.unrouted.push(*agent);
                } else {
                    leavers.kept.push(*agent);
                }
            }
        }
        self.finish(after);
        leavers
    }

    /// Has those of these agents serve again that leave (rule 2); which those are.
    pub(super) fn serve_again(&self, agents: &[AgentId]) -> Vec<AgentId> {
        let mut restored = Vec::new();
        let mut after = After::new();
        if !agents.is_empty() {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            for agent in agents {
                let Some(before) = state.ledger.leaving.0.remove(agent) else { continue };
                self.call_off_drains(state, *agent, &mut after);
                if self.want_back(state, *agent, before, &mut after).is_some() {
                    restored.push(*agent);
                }
            }
        }
        self.finish(after);
        restored
    }
}
