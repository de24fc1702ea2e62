//! What scaling asks of the pool: how many agents of a sort there are, who of them is idle, and the end of
//! one that is.
//!
//! Rules that hold here:
//!
//! 1. A shard is locked for as long as it takes to look through it, and never two at once: allocation goes
//!    on in the others. What is told of a shard was true at one moment.
//! 2. An agent that is ended here held no lease and was granted none, and got none afterwards: it is looked
//!    at and taken out under one lock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::task::Waker;

use super::desk::Desk;
use super::slot::Stamp;
use super::{Ask, Mask, Pool, RUNS_TASKS};
use crate::fleet::agent::Condition;
use crate::fleet::id::{AgentId, GroupKey};
use crate::sync::left_out;

/// The agents of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::fleet) struct Census {
    /// Those that are in none of the other conditions: work may come to them, or they hold leases as they start.
    pub(in crate::fleet) serving: usize,
    /// Those that start, and hold no lease that was granted before.
    pub(in crate::fleet) starting: Vec<AgentId>,
    /// Those that are on their way out.
    pub(in crate::fleet) draining: usize,
    /// Those of them that scaling takes away, the ones first that hold most leases.
    pub(in crate::fleet) leaving: Vec<AgentId>,
    /// Those that have failed, for a while or for good, or that the circuit of their type holds back.
    pub(in crate::fleet) failed: Vec<AgentId>,
    /// The leases that those hold that serve, or that scaling takes away.
    pub(in crate::fleet) leases: u64,
    /// Those that serve and hold none, the ones first that have been idle for longest.
    pub(in crate::fleet) idle: Vec<AgentId>,
    /// Those that are given leases, hold some and can do no more than what was asked for, those with the fewest first, and
    /// none on trial.
    pub(in crate::fleet) busy: Vec<AgentId>,
    /// The requests that wait and that one more of them would serve, by whose budget they are on; a batch counts for
    /// the places that it has not gathered.
    pub(in crate::fleet) waiting: ByGroup,
    /// What each batch has gathered of them that waits, and what it lacks.
    pub(in crate::fleet) batches: Vec<(Option<GroupKey>, u64, u64)>,
    /// What one of them can do, as far as the pool has heard of it.
    pub(in crate::fleet) mask: Mask,
}

/// How much of something there is on the budget of each group, and on that of none.
pub(in crate::fleet) type ByGroup = BTreeMap<Option<GroupKey>, u64>;

/// Why an agent is not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fleet) enum NotIdle {
    /// It is gone, or never was.
    Gone,
    /// It holds leases, or there is work for it.
    Busy,
}

/// What an agent that is to end is among those that live or are expected.
#[derive(Clone, Copy)]
pub(in crate::fleet) struct Part<'a> {
    /// Whether it is the last with its set of capabilities, and none is expected that could do as much.
    pub(in crate::fleet) is_last: bool,
    /// Whether it alone can do this.
    pub(in crate::fleet) is_alone_for: &'a dyn Fn(Mask) -> bool,
}

impl Pool {
    /// Counts the agents of a name (rule 1), some of which are leaving. O(agents log agents).
    pub(in crate::fleet) fn census(
        &self,
        name: &str,
        capabilities: &[Arc<str>],
        runs_tasks: bool,
        leaving: &HashSet<AgentId>,
    ) -> Census {
        let mut census = Census::default();
        let (mut busy, mut leavers) = (Vec::new(), Vec::new());
        // An agent's place in the order of its shard is what compares between shards.
        let mut idle: Vec<(usize, AgentId)> = Vec::new();
        let desk = self.desk.lock();
        let (mask, _) = desk.mask_of(capabilities);
        census.mask = mask | if runs_tasks { RUNS_TASKS } else { 0 };
        for shard in &self.shards {
            let mut here: Vec<(Stamp, AgentId)> = Vec::new();
            let mut known: Option<(u32, bool)> = None;
            let shard = shard.lock();
            for agent in shard.ids() {
                let local = shard.find(agent).expect("it was just listed");
                let slot = shard.slot(local);
                // Neighbours are mostly of one sort.
                let is_one = match known {
                    Some((kind, is_one)) if kind == slot.kind => is_one,
                    _ => *desk.kind(slot.kind).name == *name,
                };
                known = Some((slot.kind, is_one));
                if !is_one {
                    continue;
                }
                match slot.standing.condition() {
                    Some(Condition::Starting) if slot.load == 0 => {
                        census.starting.push(agent);
                        continue;
                    }
                    Some(Condition::Draining) => {
                        census.draining += 1;
                        if leaving.contains(&agent) {
                            census.leases += u64::from(slot.load);
                            leavers.push((Reverse(slot.load), agent));
                        }
                        continue;
                    }
                    Some(Condition::Failed) => {
                        census.failed.push(agent);
                        continue;
                    }
                    _ => census.serving += 1,
                }
                census.leases += u64::from(slot.load);
                if slot.load == 0 {
                    here.push((slot.stamp, agent));
                } else if slot.standing.is_routed()
                    && !slot.standing.is_on_trial()
                    && shard.mask(local) & !census.mask == 0
                {
                    busy.push((slot.load, agent));
                }
            }
            drop(shard);
            here.sort_unstable();
            idle.extend(here.into_iter().enumerate().map(|(place, (_, agent))| (place, agent)));
        }
        desk.waiting.fitting(census.mask, &mut census.waiting);
        census.batches = desk.batches.parts(census.mask);
        for (group, _, missing) in &census.batches {
            *census.waiting.entry(*group).or_default() += missing;
        }
        drop(desk);
        idle.sort_unstable();
        census.idle = idle.into_iter().map(|(_, agent)| agent).collect();
        busy.sort_unstable();
        census.busy = busy.into_iter().map(|(_, agent)| agent).collect();
        leavers.sort_unstable();
        census.leaving = leavers.into_iter().map(|(_, agent)| agent).collect();
        census
    }

    /// Whether an agent may be unrouted to leave: it is not on trial, nobody waits who names it, and no batch needs it or
    /// has gathered of it. `None` of one that is given no leases, or is gone.
    pub(in crate::fleet) fn may_leave(&self, agent: AgentId) -> Option<bool> {
        let desk = self.desk.lock();
        let shard = self.shards[self.shard_of(agent)].lock();
        let local = shard.find(agent)?;
        let (mask, slot) = (shard.mask(local), shard.slot(local));
        let limit = usize::from(desk.kind(slot.kind).limit);
        let is_asked = || {
            desk.is_named(agent)
                || desk.is_needed_by_batch(agent, (mask, limit), true, |_| true)
                || desk.batches.have_gathered(agent)
        };
        slot.standing.is_routed().then(|| !slot.standing.is_on_trial() && !is_asked())
    }

    /// Ends an agent that holds no lease (rule 2), unless somebody waits who names it, or there is work for agents that can
    /// do what it can; of that `has_work` is told, and what the agent is to it. Of one that is `replaced` requests and
    /// batches that others may serve too are no such work, and of one that is drained none are that wait: they are told.
    pub(in crate::fleet) fn remove_idle(
        &self,
        agent: AgentId,
        replaced: bool,
        has_work: impl FnOnce(Mask, Part<'_>) -> bool,
        wakes: &mut Vec<Waker>,
    ) -> Result<(), NotIdle> {
        let mut desk = self.desk.lock();
        let at = self.shard_of(agent);
        let (mask, places, condition) = {
            let shard = self.shards[at].lock();
            let local = shard.find(agent).ok_or(NotIdle::Gone)?;
            let (mask, slot) = (shard.mask(local), shard.slot(local));
            (mask, (mask, usize::from(desk.kind(slot.kind).limit)), slot.standing.condition())
        };
        // The desk is held, so the agent lives on, and nobody begins to wait.
        let is_alone_for = |need: Mask| desk.is_alone(mask, |have| have & need == need);
        let is_needed = if replaced {
            let is_alone = |ask: &Ask| desk.is_alone(mask, |have| ask.misfit(have).is_some());
            desk.is_named(agent)
                || desk.waiting.kinds().any(|ask| ask.agent.is_none() && is_alone(ask))
                || desk.is_needed_by_batch(agent, places, false, |ask| !desk.is_expected(ask))
        } else {
            let is_drained = condition == Some(Condition::Draining);
            let is_in_batch = || desk.is_needed_by_batch(agent, places, false, |_| true);
            !is_drained && (desk.is_named(agent) || is_in_batch())
        };
        let part = Part { is_last: desk.is_last_of(mask), is_alone_for: &is_alone_for };
        let leaver = {
            let mut shard = self.shards[at].lock();
            let local = shard.find(agent).ok_or(NotIdle::Gone)?;
            let holds = shard.slot(local).load > 0 && !left_out("fleet.retire-the-busy");
            if holds || is_needed || has_work(mask, part) {
                return Err(NotIdle::Busy);
            }
            let removed = shard.remove(local);
            self.publish(at, &mut shard);
            removed.leaver
        };
        self.forget_over_budget(agent);
        desk.leave(leaver, at, 1, &self.left);
        desk.refuse_hopeless(Some(agent), wakes);
        desk.tell_idlers(agent, wakes);
        self.plan_by(&mut desk, wakes);
        self.say_who_waits(&desk);
        Ok(())
    }
}

impl Desk {
    /// Whether a batch that waits, and is one of these if it names nobody, could be served with an agent that has these
    /// capabilities and may hold so many leases, and not without it: by all that live, or those `counted` on. One that
    /// lacks places with it too waits for others.
    fn is_needed_by_batch(
        &self,
        agent: AgentId,
        (have, limit): (Mask, usize),
        counted: bool,
        is_one: impl Fn(&Ask) -> bool,
    ) -> bool {
        self.batches.waiting_rows().any(|(ask, count)| match ask.agent {
            Some(named) => named == agent,
            None => {
                let is_short = || (count..count + limit).contains(&self.places_for(ask, counted));
                ask.misfit(have).is_some() && is_one(ask) && is_short()
            }
        })
    }
}
