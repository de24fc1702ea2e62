//! How the fleet's own work comes to agents: workers that take one, mailboxes that want theirs.
//!
//! Rules that hold here, beside rule 2 of the pool:
//!
//! 1. A worker or a mailbox that finds no agent it can pay for has said that it waits before its last look, so
//!    it is told when room comes.

use std::collections::HashSet;
use std::task::Waker;
use std::time::Duration;

use super::buy::Granted;
use super::shard::Shard;
use super::{Ask, Charge, Gone, Mask, Pool, RUNS_TASKS, nanoseconds};
use crate::fleet::budget::{Asking, Budgets, Payer, Scope};
use crate::fleet::id::{AgentId, GroupKey};
use crate::fleet::request::{AllocateError, Request};
use crate::sync::atomic::Ordering;
use crate::sync::left_out;

/// An agent that was taken for the fleet's own work: to be [released](Pool::release) with what it was charged with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fleet) struct Taken {
    pub(in crate::fleet) agent: AgentId,
    pub(in crate::fleet) charge: Option<Charge>,
}

impl From<Granted> for Taken {
    #[inline]
    fn from(granted: Granted) -> Self {
        Self { agent: granted.grant.agent(), charge: granted.charge }
    }
}

/// The agents that were wanted and that budgets refused: each once, in the order in which they were refused first, as
/// long as they live.
#[derive(Debug, Default)]
pub(super) struct OverBudget {
    /// With some that have ended: no more than those that live, and a few.
    line: Vec<AgentId>,
    known: HashSet<AgentId>,
}

impl OverBudget {
    /// How many that have ended the line may have beside as many as live.
    const GONE: usize = 32;

    fn add(&mut self, agent: AgentId) {
        if self.known.insert(agent) {
            self.line.push(agent);
        }
    }

    /// Lets go of an agent that has ended. O(1) over many.
    fn forget(&mut self, agent: AgentId) {
        if self.known.remove(&agent) && self.line.len() > 2 * self.known.len() + Self::GONE {
            self.line.retain(|agent| self.known.contains(agent));
        }
    }

    /// Those that live.
    pub(super) fn into_line(self) -> impl Iterator<Item = AgentId> {
        let Self { line, known } = self;
        line.into_iter().filter(move |agent| known.contains(agent))
    }
}

/// What a task lacks that could not be given an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fleet) enum Lack {
    /// An agent that fits, is free and has room in its own budget.
    Agent,
    /// Room in the budget of the fleet or of its group.
    Room,
}

impl Pool {
    /// The same as [`take`](Self::take) in a fleet with budgets, for a task of some group.
    pub(in crate::fleet) fn take_for(
        &self,
        mask: Mask,
        group: Option<GroupKey>,
        thorough: bool,
    ) -> Result<Taken, Lack> {
        let ask = Ask { mask, group, ..Ask::any(self.kept.first()) };
        self.follow_accounts();
        let asking = if thorough { Asking::Waiting } else { Asking::Looking };
        match self.buy(&ask, asking, thorough) {
            Ok(Some(bought)) => Ok(bought.granted.into()),
            Err(AllocateError::OverBudget(exceeded))
                if matches!(exceeded.scope, Scope::Fleet | Scope::Group(_)) =>
            {
                Err(Lack::Room)
            }
            Ok(None) | Err(_) => Err(Lack::Agent),
        }
    }

    /// Says that tasks wait for room in the budgets of their groups, or that none does.
    pub(in crate::fleet) fn set_groups_wait(&self, wait: bool) {
        // Relaxed: it is set before word is left in the accounts, and whoever takes that word looks after.
        self.groups_wait.store(wait, Ordering::Relaxed);
    }

    /// Charges a task that a turn has come to to its group, if that has room; of an agent that has ended it is charged
    /// with nothing.
    pub(in crate::fleet) fn charge_mailed(
        &self,
        agent: AgentId,
        payer: &Payer,
        wakes: &mut Vec<Waker>,
    ) -> Result<Option<Charge>, Lack> {
        let mut shard = self.shards[self.shard_of(agent)].lock();
        let Some(local) = shard.find(agent) else { return Ok(None) };
        let charge = shard.charges.take_mailed(local, payer);
        self.owe_by(&mut shard, wakes);
        charge.map(Some).ok_or(Lack::Room)
    }

    /// Gives back what such a task was charged with, unless its agent has ended.
    pub(in crate::fleet) fn discharge_mailed(
        &self,
        agent: AgentId,
        charge: Charge,
        wakes: &mut Vec<Waker>,
    ) {
        let mut shard = self.shards[self.shard_of(agent)].lock();
        if let Some(local) = shard.find(agent) {
            shard.charges.give_back(local, charge);
            self.owe_by(&mut shard, wakes);
        }
    }

    /// Whether an agent that runs tasks fits, be it alive, with room or not, or expected; and what to ask for on its behalf.
    pub(in crate::fleet) fn task_mask(&self, request: &Request) -> Option<Mask> {
        let mask = self.resolve(request).ok()?.mask | RUNS_TASKS;
        let ask = Ask { mask, ..Ask::any(self.kept.first()) };
        self.desk.lock().may_serve(&ask).then_some(mask)
    }

    /// How many agents have left, and how many are expected no more. Whoever knows of a kill, of a retirement or of the
    /// end of an expectation finds it counted.
    pub(in crate::fleet) fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Takes an agent that runs tasks. A `thorough` look trusts no floor: see rule 2.
    pub(in crate::fleet) fn take(&self, mask: Mask, thorough: bool) -> Option<Taken> {
        let ask = Ask { mask, ..Ask::any(self.kept.first()) };
        if self.budgets.is_none() && !thorough {
            // As below, where nothing is paid or owed.
            let (mut shard, at, local) = self.find(&ask).ok()??;
            let agent = shard.lease(local).agent();
            self.publish(at, &mut shard);
            return Some(Taken { agent, charge: None });
        }
        self.follow_accounts();
        let asking = if thorough { Asking::Waiting } else { Asking::Looking };
        self.take_asked(&ask, asking, thorough).map(Taken::from)
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

    /// Gives back a lease that a [`take`](Self::take) granted, and passes the place on to whoever waits; whether
    /// starving workers should be told.
    pub(in crate::fleet) fn release(
        &self,
        taken: Taken,
        well: bool,
        wakes: &mut Vec<Waker>,
    ) -> Result<bool, Gone> {
        let Taken { agent, charge } = taken;
        let at = self.shard_of(agent);
        if !self.is_watched() {
            let mut shard = self.shards[at].lock();
            // Rule 2: read under the lock.
            if !self.is_watched() && !shard.is_wanted(agent) {
                shard.release(agent, charge, None, well)?;
                self.publish(at, &mut shard);
                self.owe_by(&mut shard, wakes);
                return Ok(false);
            }
        }
        let passed = {
            let mut desk = self.desk.lock();
            let mut shard = self.shards[at].lock();
            let local = shard.release(agent, charge, None, well)?;
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
    pub(in crate::fleet) fn take_agent(&self, agent: AgentId) -> Option<Taken> {
        self.follow_accounts();
        let at = self.shard_of(agent);
        let mut shard = self.shards[at].lock();
        let local = shard.find(agent)?;
        if !shard.slot(local).has_room_for_a_turn() {
            if !left_out("fleet.want") {
                shard.want(local);
            }
            return None;
        }
        let grant = match &self.budgets {
            None => Some(Taken { agent: shard.lease(local).agent(), charge: None }),
            Some(budgets) => self.buy_here(&mut shard, agent, local, budgets),
        };
        self.publish(at, &mut shard);
        self.owe(&mut shard);
        grant
    }

    /// Has an agent that has ended be told of no room any more. Whoever put it in line did so under the lock of its shard,
    /// before that.
    pub(super) fn forget_over_budget(&self, agent: AgentId) {
        if self.budgets.is_some() {
            self.over_budget.lock().forget(agent);
        }
    }

    /// How many agents are remembered as to be told of room in a budget.
    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(in crate::fleet) fn over_budget(&self) -> usize {
        self.over_budget.lock().line.len()
    }

    /// How many leases this agent may hold, if it has a place [beside](Self::take_beside) those.
    pub(in crate::fleet) fn limit_beside(&self, agent: AgentId) -> Option<u16> {
        let shard = self.shards[self.shard_of(agent)].lock();
        let slot = shard.slot(shard.find(agent)?);
        slot.has_place_beside().then_some(slot.limit)
    }

    /// Takes this agent for what is in its control lane: a place beside the leases that it may hold, of which there is
    /// one, and which nobody pays for. `None` if that is taken, or it is not in service.
    pub(in crate::fleet) fn take_beside(&self, agent: AgentId) -> Option<Taken> {
        let at = self.shard_of(agent);
        let mut shard = self.shards[at].lock();
        let local = shard.find(agent)?;
        let has_place = shard.slot(local).has_place_beside();
        let taken = has_place.then(|| Taken { agent: shard.lease(local).agent(), charge: None })?;
        self.publish(at, &mut shard);
        Some(taken)
    }

    /// Takes this agent, which has room, if it can be paid for.
    #[cold]
    fn buy_here(
        &self,
        shard: &mut Shard,
        agent: AgentId,
        local: u32,
        budgets: &Budgets,
    ) -> Option<Taken> {
        let ask = Ask { agent: Some(agent), ..Ask::any(self.kept.first()) };
        let mut granted = shard.buy(local, &ask, Some(budgets), Asking::Looking);
        if granted.is_err() {
            // Rule 1. If it can be paid for after all, it is told of room in vain.
            self.over_budget.lock().add(agent);
            granted = shard.buy(local, &ask, Some(budgets), Asking::Waiting);
        }
        granted.ok().map(Taken::from)
    }
}
