//! Requests whose agent the host picks.
//!
//! Rules that hold here:
//!
//! 1. The picker runs under no lock, and on what was copied under them.
//! 2. An agent that was picked is looked at again under the lock of its shard before it is taken.
//! 3. A request that waits is granted what comes free, as any other; its picker has the last word once the
//!    grant is noticed, and an agent that it declines passes on. The request is not put back among those
//!    who wait: with nothing changed it would be granted the same again.

use std::sync::Arc;

use super::shard::Best;
use super::view::status;
use super::{Ask, Pool};
use crate::fleet::agent::{AgentState, AgentStatus};
use crate::fleet::budget::Asking;
use crate::fleet::id::AgentId;
use crate::fleet::lease::Lease;
use crate::fleet::picker::{MAX_CANDIDATES, Picker};
use crate::fleet::request::{AllocateError, Request};
use crate::fleet::wakers::guarded;
use crate::sync::atomic::{AtomicU64, Ordering};

/// How often a picker is asked for one allocation.
pub(super) const PICKS: usize = 8;

/// What became of the choices of pickers.
pub(super) struct Picks {
    pub(super) lost: AtomicU64,
    pub(super) declined: AtomicU64,
}

impl Picks {
    pub(super) fn new() -> Self {
        Self { lost: AtomicU64::new(0), declined: AtomicU64::new(0) }
    }
}

impl Pool {
    /// Takes the agent that a picker chooses, or says why there is none.
    pub(super) fn try_allocate_picked(
        self: &Arc<Self>,
        request: &Request,
        picker: &dyn Picker,
    ) -> Result<Lease, AllocateError> {
        let ask = self.resolve(request)?;
        self.follow_accounts();
        for _ in 0..PICKS {
            let mut candidates = self.candidates(&ask)?;
            if candidates.is_empty() && self.expire_due() > 0 {
                candidates = self.candidates(&ask)?;
            }
            if candidates.is_empty() {
                return Err(self.refusing(self.why_none(&ask)));
            }
            let agent = self.ask_picker(picker, request, &candidates)?;
            // Rule 2.
            match self.find_named(agent, &ask) {
                Ok(Some((mut shard, at, local))) => {
                    let bought = shard.buy(local, &ask, self.budgets.as_ref(), Asking::Looking);
                    self.publish(at, &mut shard);
                    self.owe(&mut shard);
                    drop(shard);
                    self.settle_dues();
                    let granted = bought.map_err(|refused| self.refusing(refused.into_error()))?;
                    let mut due = None;
                    let lease = self.start(granted, &ask, &mut due);
                    self.tell_of_start(due);
                    return Ok(lease);
                }
                Err(AllocateError::Closed) => return Err(AllocateError::Closed),
                Ok(None) | Err(_) => self.picks.lost.fetch_add(1, Ordering::Relaxed),
            };
        }
        Err(AllocateError::PickLost)
    }

    /// Has the picker of a request that waited, if it has one, judge what came free (rule 3).
    pub(in crate::fleet) fn judged(
        &self,
        request: &Request,
        mut lease: Lease,
    ) -> Result<Lease, AllocateError> {
        let Some(picker) = request.own_picker() else { return Ok(lease) };
        let gone = || {
            if request.named_agent().is_some() {
                return AllocateError::AgentGone;
            }
            self.picks.lost.fetch_add(1, Ordering::Relaxed);
            AllocateError::PickLost
        };
        // It sees every agent that it gives.
        let mut status = self.status(lease.agent()).ok_or_else(gone)?;
        // It is shown as it is without this lease.
        status.load = status.load.saturating_sub(1);
        if status.state == AgentState::Busy && status.load == 0 {
            status.state = AgentState::Ready;
        }
        self.ask_picker(&**picker, request, &[status])?;
        if let Some(ttl) = request.time_to_live() {
            // Its time begins now, however long the picker took; it is void only if its agent has ended.
            lease.renew(ttl).map_err(|_| gone())?;
        }
        Ok(lease)
    }

    fn ask_picker(
        &self,
        picker: &dyn Picker,
        request: &Request,
        candidates: &[AgentStatus],
    ) -> Result<AgentId, AllocateError> {
        let Ok(picked) = guarded(|| picker.pick(request, candidates)) else {
            self.panics.fetch_add(1, Ordering::Relaxed);
            return Err(AllocateError::PickerFailed);
        };
        let Some(place) = picked else {
            self.picks.declined.fetch_add(1, Ordering::Relaxed);
            return Err(AllocateError::PickDeclined);
        };
        candidates.get(place).map(|agent| agent.id).ok_or(AllocateError::PickerFailed)
    }

    /// The best agents for a request, each as it was when its shard was looked at.
    fn candidates(&self, ask: &Ask) -> Result<Vec<AgentStatus>, AllocateError> {
        let mut found: Vec<(Best, AgentStatus)> = Vec::new();
        // Nothing is allocated for it under the lock of a shard.
        let mut best: Vec<Best> = Vec::with_capacity(2 * MAX_CANDIDATES);
        // Held, so that the sorts of agents are those of the agents.
        let desk = self.desk.lock();
        for (at, shard) in self.shards.iter().enumerate() {
            found.reserve(MAX_CANDIDATES);
            let shard = shard.lock();
            if shard.is_closed() {
                return Err(AllocateError::Closed);
            }
            match ask.agent {
                None => shard.several_best(ask, MAX_CANDIDATES, &mut best),
                Some(agent) if at == self.shard_of(agent) => {
                    best.clear();
                    best.extend(shard.best_named(agent, ask));
                }
                Some(_) => continue,
            }
            found.extend(best.iter().map(|best| {
                let kind = desk.kind(shard.slot(best.local).kind);
                (*best, status(&shard, best.local, kind))
            }));
            drop(shard);
            found.sort_by_key(|(best, _)| *best);
            found.truncate(MAX_CANDIDATES);
        }
        drop(desk);
        Ok(found.into_iter().map(|(_, status)| status).collect())
    }
}
