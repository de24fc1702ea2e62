//! How the fleet's own work comes to agents: workers that take one, mailboxes that want theirs.
//!
//! Rules that hold here, beside rule 2 of the pool:
//!
//! 1. A worker or a mailbox that finds no agent it can pay for has said that it waits before its last look, so
//!    it is told when room comes.

use std::task::Waker;
use std::time::Duration;

use super::buy::Granted;
use super::charge::OF_A_TASK;
use super::{Ask, Gone, Grant, Mask, Pool, nanoseconds};
use crate::fleet::budget::Asking;
use crate::fleet::id::AgentId;
use crate::sync::atomic::Ordering;
use crate::sync::left_out;

impl Pool {
    /// Takes an agent that runs tasks. A `thorough` look trusts no floor: see rule 2.
    pub(in crate::fleet) fn take(&self, mask: Mask, thorough: bool) -> Option<Grant> {
        let ask = Ask { mask, is_task: true, ..Ask::any(self.kept.first()) };
        self.follow_accounts();
        let asking = if thorough { Asking::Waiting } else { Asking::Once };
        self.take_asked(&ask, asking, thorough).map(|granted| granted.grant)
    }

    /// Takes an agent if there is one that can be paid for.
    pub(super) fn take_asked(&self, ask: &Ask, asking: Asking, thorough: bool) -> Option<Granted> {
        // Closed, or a named agent that is gone: nothing can be taken.
        self.buy(ask, asking, thorough).ok().flatten().map(|bought| bought.granted)
    }

    /// Says that workers starve, or that they do not (rule 2).
    pub(in crate::fleet) fn set_starving(&self, starving: bool) {
        if starving && !left_out("fleet.say-who-starves") {
            self.attention.fetch_or(1, Ordering::Relaxed);
        } else {
            self.attention.fetch_and(!1, Ordering::Relaxed);
        }
    }

    /// Gives back a lease that a [`take`](Self::take) granted, and passes the place on to whoever waits;
    /// whether starving workers should be told.
    pub(in crate::fleet) fn release(
        &self,
        agent: AgentId,
        wakes: &mut Vec<Waker>,
    ) -> Result<bool, Gone> {
        let at = self.shard_of(agent);
        if !self.is_watched() {
            let mut shard = self.shards[at].lock();
            // Rule 2: read under the lock.
            if !self.is_watched() && !shard.is_wanted(agent) {
                shard.release(agent, Some(OF_A_TASK), None)?;
                self.publish(at, &mut shard);
                self.owe_by(&mut shard, wakes);
                return Ok(false);
            }
        }
        let passed = {
            let mut desk = self.desk.lock();
            let mut shard = self.shards[at].lock();
            let local = shard.release(agent, Some(OF_A_TASK), None)?;
            self.pass_on(&mut desk, &mut shard, at, local, wakes)
        };
        self.tell_freed(passed.freed);
        Ok(passed.hungry)
    }

    /// Whether how attempts and leases go becomes part of their agents' pasts.
    pub(in crate::fleet) const fn keeps_pasts(&self) -> bool {
        self.keeps_pasts
    }

    /// Takes in how an attempt went, before its lease is given back.
    #[cold]
    pub(in crate::fleet) fn attempt_went(&self, agent: AgentId, well: bool, latency: Duration) {
        let at = self.shard_of(agent);
        let mut shard = self.shards[at].lock();
        shard.remember(agent, well, nanoseconds(latency));
        self.publish(at, &mut shard);
    }

    /// Takes this agent. If it has no room, whoever [feeds](Feed::freed) on the pool is told once it has;
    /// requests that wait go first.
    pub(in crate::fleet) fn take_agent(&self, agent: AgentId) -> Option<Grant> {
        self.follow_accounts();
        let at = self.shard_of(agent);
        let mut shard = self.shards[at].lock();
        let local = shard.find(agent)?;
        if !shard.slot(local).has_room() {
            shard.want(local);
            drop(shard);
            // Of the leases that it has, some may have run out.
            self.expire_due();
            return None;
        }
        if self.budgets.is_some() {
            drop(shard);
            return self.buy_agent(agent);
        }
        let grant = shard.lease(local);
        self.publish(at, &mut shard);
        Some(grant)
    }

    /// Takes this agent, which has room, if it can be paid for.
    #[cold]
    fn buy_agent(&self, agent: AgentId) -> Option<Grant> {
        let ask = Ask { agent: Some(agent), is_task: true, ..Ask::any(self.kept.first()) };
        if let Some(granted) = self.take_asked(&ask, Asking::Once, false) {
            return Some(granted.grant);
        }
        // Rule 1. If it can be paid for after all, it is told of room in vain.
        self.over_budget.lock().push(agent);
        self.take_asked(&ask, Asking::Waiting, false).map(|granted| granted.grant)
    }
}
