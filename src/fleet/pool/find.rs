//! Looking for an agent across the shards: where first, and when elsewhere.
//!
//! Rules that hold here:
//!
//! 1. One lock is held at a time, and the one of the shard that has the agent when it is found.
//! 2. A request that runs alone gets an agent within the bound of its strategy: the shard it looks into
//!    first is near enough to the best by the floors, and where capabilities make its own best worse
//!    than that, all shards are looked into. How capabilities match is exact.
//! 3. A request finds nothing only if each shard, when it was looked at, had nothing for it.

use std::sync::Arc;

use super::charge::Refused;
use super::shard::{Best, NO_FLOOR};
use super::strategy::Strategy;
use super::{Ask, Granted, Held, Pool};
use crate::fleet::budget::{Asking, Exceeded};
use crate::fleet::id::AgentId;
use crate::fleet::lease::Lease;
use crate::fleet::request::{AllocateError, Fit, Request};
use crate::sync::first_place;

/// How often a request follows a better agent that somebody else then takes, before it takes any that fits.
const CHASES: usize = 3;

/// The shard of an agent that has room, locked; its number; and the place of the agent.
pub(super) type Found<'a> = (Held<'a>, usize, u32);

impl Pool {
    /// Looks for an agent with room, and holds the lock of its shard when it found one.
    #[inline(always)]
    pub(super) fn find(&self, ask: &Ask) -> Result<Option<Found<'_>>, AllocateError> {
        if let Some(agent) = ask.agent {
            return self.find_named(agent, ask);
        }
        if self.shards.len() == 1 {
            let shard = self.shards[0].lock();
            if shard.is_closed() {
                return Err(AllocateError::Closed);
            }
            let first = shard.first(ask);
            return Ok(first.map(|local| (shard, 0, local)));
        }
        if ask.fit == Fit::All {
            let at = self.floors.nearest(ask.strategy, first_place(), self.shards.len());
            let shard = self.shards[at].lock();
            if shard.is_closed() {
                return Err(AllocateError::Closed);
            }
            // Where all agents of the shard fit alike, its floor is theirs.
            if ask.mask == 0 || shard.is_uniform() {
                if let Some(local) = shard.first(ask) {
                    return Ok(Some((shard, at, local)));
                }
            } else if let Some(best) = shard.best(ask)
                && self.is_near_best(ask, at, &best)
            {
                return Ok(Some((shard, at, best.local)));
            }
        }
        self.find_widely(ask, true)
    }

    /// Whether no shard may have an agent that is better by more than the bound.
    fn is_near_best(&self, ask: &Ask, at: usize, best: &Best) -> bool {
        let strategy = ask.strategy;
        let own = match strategy {
            Strategy::RoundRobin => self.floors.get(strategy, at) | best.penalty(),
            _ => best.floor(),
        };
        strategy.is_good_enough(own)
            || !strategy.exceeds(own, self.floors.least(strategy, self.shards.len()))
    }

    /// Looks into every shard, or into those that have something by their floors (rule 4), for the best.
    #[cold]
    pub(super) fn find_widely(
        &self,
        ask: &Ask,
        trusting: bool,
    ) -> Result<Option<Found<'_>>, AllocateError> {
        let count = self.shards.len();
        let order = |step: usize| (first_place() + step) & (count - 1);
        let is_bare = |at: usize| trusting && self.floors.get(ask.strategy, at) == NO_FLOOR;
        for _ in 0..CHASES {
            let mut best: Option<(u32, u64, usize)> = None;
            for at in (0..count).map(order) {
                if is_bare(at) {
                    continue;
                }
                let mut shard = self.shards[at].lock();
                if shard.is_closed() {
                    return Err(AllocateError::Closed);
                }
                let Some(found) = shard.best(ask) else { continue };
                let floor = match ask.strategy {
                    Strategy::RoundRobin => shard.floor(ask.strategy, || None),
                    _ => found.floor(),
                };
                if best.is_none_or(|(misfit, rank, _)| (found.misfit, floor) < (misfit, rank)) {
                    best = Some((found.misfit, floor, at));
                }
            }
            let Some((_, _, at)) = best else { break };
            let shard = self.shards[at].lock();
            if let Some(found) = shard.best(ask) {
                return Ok(Some((shard, at, found.local)));
            }
        }
        // Either there is nothing, or others were faster each time: now any that fits will do.
        for at in (0..count).map(order) {
            if is_bare(at) {
                continue;
            }
            let shard = self.shards[at].lock();
            if shard.is_closed() {
                return Err(AllocateError::Closed);
            }
            if let Some(found) = shard.best(ask) {
                return Ok(Some((shard, at, found.local)));
            }
        }
        Ok(None)
    }

    /// Takes several agents under all locks, so that nobody takes them apart; all or none if `whole`.
    pub(in crate::fleet) fn try_allocate_batch(
        self: &Arc<Self>,
        request: &Request,
        count: usize,
        whole: bool,
    ) -> Result<Vec<Lease>, AllocateError> {
        if request.own_picker().is_some() {
            return Err(AllocateError::PickerInBatch);
        }
        let ask = self.resolve(request)?;
        self.expire_due();
        self.follow_accounts();
        let several = self.take_several(&ask, count, whole);
        self.settle_dues();
        let (grants, over_budget) = several?;
        if grants.len() < count && (whole || grants.is_empty()) {
            let over_budget =
                over_budget.map(|exceeded| AllocateError::OverBudget(exceeded.into()));
            return Err(self.refusing(over_budget.unwrap_or_else(|| self.why_none(&ask))));
        }
        let mut due = None;
        let leases = grants.into_iter().map(|grant| self.start(grant, &ask, &mut due)).collect();
        self.tell_of_start(due);
        Ok(leases)
    }

    fn take_several(
        &self,
        ask: &Ask,
        count: usize,
        whole: bool,
    ) -> Result<(Vec<Granted>, Option<Exceeded>), AllocateError> {
        let mut shards = self.lock_all();
        if shards[0].is_closed() {
            return Err(AllocateError::Closed);
        }
        let (mut grants, mut over_budget) = (Vec::new(), None);
        while grants.len() < count {
            let best = |(at, shard): (usize, &mut Held<'_>)| {
                let best = match ask.agent {
                    None => shard.best(ask)?,
                    Some(agent) if at == self.shard_of(agent) => shard.best_named(agent, ask)?,
                    Some(_) => return None,
                };
                let lap = match ask.strategy {
                    Strategy::RoundRobin => shard.floor(ask.strategy, || None),
                    _ => 0,
                };
                Some((best.misfit, lap, best.rank, at, best.local))
            };
            let Some((.., at, local)) = shards.iter_mut().enumerate().filter_map(best).min() else {
                break;
            };
            match shards[at].buy(local, ask, self.budgets.as_ref(), Asking::Looking) {
                Ok(granted) => grants.push(granted),
                // Its like are passed over now, unless it was asked for by name.
                Err(Refused::Agent(exceeded)) if ask.agent.is_none() => {
                    over_budget = Some(exceeded);
                }
                Err(Refused::Agent(exceeded) | Refused::Asker(exceeded)) => {
                    over_budget = Some(exceeded);
                    break;
                }
            }
        }
        if whole && grants.len() < count {
            for Granted { grant, charge } in grants.drain(..).rev() {
                shards[self.shard_of(grant.agent())].undo(grant.agent(), charge);
            }
        }
        for (at, shard) in shards.iter_mut().enumerate() {
            self.publish(at, shard);
            self.owe(shard);
        }
        Ok((grants, over_budget))
    }

    #[cold]
    pub(super) fn find_named(
        &self,
        agent: AgentId,
        ask: &Ask,
    ) -> Result<Option<Found<'_>>, AllocateError> {
        let at = self.shard_of(agent);
        let shard = self.shards[at].lock();
        if shard.is_closed() {
            return Err(AllocateError::Closed);
        }
        let local = shard.find(agent).ok_or(AllocateError::AgentGone)?;
        if ask.misfit(shard.mask(local)).is_none() {
            return Err(AllocateError::NoSuchCapability);
        }
        Ok(shard.slot(local).has_room_for(ask).then_some((shard, at, local)))
    }
}
