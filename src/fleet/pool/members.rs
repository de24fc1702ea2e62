//! Agents that join and agents that end, and what that means for those who wait.

use std::sync::Arc;
use std::task::Waker;

use super::buy::KindAccounts;
use super::desk::Kind;
use super::shard::Removed;
use super::slot::Standing;
use super::{Entrant, Newcomers, NotIdle, Pool, RUNS_TASKS};
use crate::Error;
use crate::fleet::budget::Asking;
use crate::fleet::id::AgentId;
use crate::fleet::request::AllocateError;
use crate::sync::left_out;

/// The agents of several runs, one of each in turn.
fn in_turn(agents: &[AgentId], is_one_run: impl FnMut(&AgentId, &AgentId) -> bool) -> Vec<AgentId> {
    let mut runs: Vec<_> = agents.chunk_by(is_one_run).map(<[_]>::iter).collect();
    let mut in_turn = Vec::with_capacity(agents.len());
    while in_turn.len() < agents.len() {
        in_turn.extend(runs.iter_mut().filter_map(Iterator::next));
    }
    in_turn
}

impl Pool {
    /// Adds agents, all or none, and grants them to those who wait.
    pub(in crate::fleet) fn insert(
        &self,
        newcomers: &Newcomers<'_>,
        count: usize,
        wakes: &mut Vec<Waker>,
    ) -> Result<Vec<AgentId>, Error> {
        let mut desk = self.desk.lock();
        let base = if newcomers.runs_tasks { RUNS_TASKS } else { 0 };
        let mask = desk.intern(newcomers.capabilities, base, count, self.max_agents)?;
        let mut agents = Vec::with_capacity(count);
        if count == 0 {
            return Ok(agents);
        }
        let kind = Kind {
            name: Arc::clone(newcomers.name),
            labels: Arc::from(newcomers.labels),
            resources: newcomers.resources,
            limit: newcomers.limit,
        };
        let condition = newcomers.condition;
        let counted_on = Standing::new(condition).is_counted_on();
        let (kind, shares) = desk.enter(kind, mask, count, counted_on);
        let Newcomers { priority, limit, era, .. } = *newcomers;
        let entrant = Entrant { kind, mask, priority, limit, condition, era };
        let accounts = self.budgets.as_ref().map(KindAccounts::of);
        for (at, share) in shares.into_iter().enumerate().filter(|(_, share)| *share > 0) {
            let mut shard = self.shards[at].lock();
            shard.reserve(share);
            for _ in 0..share {
                let agent = shard.insert(&entrant);
                let local = shard.find(agent).expect("it was just added");
                if let Some(accounts) = &accounts {
                    shard.set_payer(local, accounts.payer(newcomers.name, agent));
                    desk.recount(&shard, local, counted_on);
                }
                if desk.has_askers() {
                    desk.offer(&mut shard, local, self.budgets.is_some(), wakes);
                }
                agents.push(agent);
            }
            self.publish(at, &mut shard);
            self.owe_by(&mut shard, wakes);
        }
        self.plan_by(&mut desk, wakes);
        self.say_who_waits(&desk);
        Ok(agents)
    }

    /// Agents that have just been [added](Self::insert) together, one of each shard in turn: where their slots are new, in
    /// the order of those, in which what there is of them beside their rows lies in memory.
    pub(in crate::fleet) fn in_turn(&self, agents: Vec<AgentId>) -> Vec<AgentId> {
        if agents.len() <= self.shards.len() {
            return agents;
        }
        in_turn(&agents, |one, next| self.shard_of(*one) == self.shard_of(*next))
    }

    /// Ends an agent: it is not allocated any more, and its leases are void. How many were held.
    pub(in crate::fleet) fn remove(&self, agent: AgentId, wakes: &mut Vec<Waker>) -> Option<u32> {
        self.remove_if(agent, |_| true, wakes).ok()
    }

    /// The same of an agent that holds no lease, which is looked at in the step that ends it. One for whom somebody waits
    /// ends too.
    pub(in crate::fleet) fn remove_unleased(
        &self,
        agent: AgentId,
        wakes: &mut Vec<Waker>,
    ) -> Result<(), NotIdle> {
        let holds_none = |load| load == 0 || left_out("fleet.end-the-leased");
        self.remove_if(agent, holds_none, wakes).map(drop)
    }

    fn remove_if(
        &self,
        agent: AgentId,
        may_end: impl FnOnce(u16) -> bool,
        wakes: &mut Vec<Waker>,
    ) -> Result<u32, NotIdle> {
        let mut desk = self.desk.lock();
        let at = self.shard_of(agent);
        let Removed { load, leaver } = {
            let mut shard = self.shards[at].lock();
            let local = shard.find(agent).ok_or(NotIdle::Gone)?;
            if !may_end(shard.slot(local).load) {
                return Err(NotIdle::Busy);
            }
            let removed = shard.remove(local);
            self.publish(at, &mut shard);
            self.owe_by(&mut shard, wakes);
            removed
        };
        self.forget_over_budget(agent);
        desk.leave(leaver, at, 1, &self.left);
        // A grant that nobody has noticed yet is not a lease that somebody loses.
        let withdrawn = desk.void_grants(agent);
        let void = withdrawn.len() + desk.batches.withdraw(agent).len();
        let load = load - u32::try_from(void).expect("no more than the agent's load");
        self.follow_accounts_at(&mut desk);
        for ticket in withdrawn {
            if ticket.ask.agent == Some(agent) {
                desk.answer(ticket, Err(AllocateError::AgentGone), None, wakes);
            } else if let Some(granted) = self.take_asked(&ticket.ask, Asking::Waiting, true) {
                // The waiter was woken for the first grant and has not looked yet.
                desk.answer(ticket, Ok(granted), None, wakes);
            } else if desk.closed {
                desk.answer(ticket, Err(AllocateError::Closed), None, wakes);
            } else {
                desk.waiting.insert(ticket, None);
                self.say_who_waits(&desk);
                // Rule 2: what came free between the look and the word.
                if let Some(granted) = self.take_asked(&ticket.ask, Asking::Waiting, true) {
                    desk.waiting.remove(&ticket);
                    desk.answer(ticket, Ok(granted), None, wakes);
                }
            }
        }
        if desk.closed {
            desk.batches.refuse(|_, _| Some(AllocateError::Closed), wakes);
        }
        desk.refuse_hopeless(Some(agent), wakes);
        desk.tell_idlers(agent, wakes);
        self.plan_by(&mut desk, wakes);
        self.say_who_waits(&desk);
        self.tell_by(wakes);
        Ok(load)
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn agents_of_several_runs_come_one_of_each_in_turn_until_there_are_no_more_of_it() {
        let agents: Vec<_> = (0..8).map(|slot| AgentId { slot, generation: 0 }).collect();
        let run = |agent: &AgentId| [3, 4, 8].iter().position(|end| agent.slot < *end);
        let order = in_turn(&agents, |one, next| run(one) == run(next));
        let slots: Vec<_> = order.into_iter().map(|agent| agent.slot).collect();
        assert_eq!(slots, [0, 3, 4, 1, 5, 2, 6, 7]);
        assert!(in_turn(&[], |_, _| true).is_empty());
    }
}
