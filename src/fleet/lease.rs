//! Leases: the right to use one agent, held by a value and given back by its drop.
//!
//! Rules that hold here:
//!
//! 1. A lease is given back exactly once: by [`Lease::complete`] or by its drop.
//! 2. A pending [`Allocation`] holds one ticket. It is spent by the answer or given up by the drop,
//!    and whatever was granted to a ticket given up goes on to the next who waits.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::id::AgentId;
use super::pool::{Charge, Gone, Grant, Key, Pool, Terms, Ticket};
use super::request::{AllocateError, Request};
use crate::clock::Clock;
use crate::clock::Timestamp;
use crate::sync::{Parker, thread};

/// How the use of an agent went, as the host judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LeaseOutcome {
    /// The work was done.
    Succeeded,
    /// The work was not done.
    Failed,
}

/// How a lease comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    Outcome(LeaseOutcome),
    Abandoned,
}

impl Release {
    /// Whether the work was not done although it was tried.
    #[inline(always)]
    pub(super) const fn has_failed(self) -> bool {
        matches!(self, Self::Outcome(LeaseOutcome::Failed))
    }
}

/// A lease was void before it was completed: somebody else may have done the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("the lease on agent {agent} {}", if *.expired { "had expired" } else { "was void: the agent is gone" })]
#[non_exhaustive]
pub struct Stale {
    /// The agent that it was on.
    pub agent: AgentId,
    /// Whether the lease had expired; otherwise the agent is gone.
    pub expired: bool,
}

impl Stale {
    fn new(agent: AgentId, why: Gone) -> Self {
        Self { agent, expired: why == Gone::Expired }
    }
}

/// Names a lease among all that its fleet ever granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(u64);

impl LeaseId {
    /// The number. No two grants of a fleet have the same; in what order they were made it does not say.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The right to use one agent until this is completed or dropped.
///
/// While it lives, the agent has one place less; no two leases share a place. Dropping it gives the
/// agent back as abandoned, or as failed if the drop is part of a panic. When the agent is killed the
/// lease is void: [`complete`](Self::complete) says so, and the drop does nothing but count it.
#[must_use = "dropping a lease gives the agent back at once"]
pub struct Lease {
    grant: Grant,
    pool: Option<Arc<Pool>>,
    /// Under which it expires, if it does.
    key: Option<Key>,
    /// What it was charged with, if anything.
    charge: Option<Charge>,
    /// When it was granted, in nanoseconds, or zero for one whose time does not matter.
    since: u64,
}

impl Lease {
    #[inline]
    pub(super) const fn new(grant: Grant, pool: Arc<Pool>) -> Self {
        Self { grant, pool: Some(pool), key: None, charge: None, since: 0 }
    }

    /// Takes it apart; the reference to the pool goes with the grant.
    pub(super) fn into_terms(mut self) -> Terms {
        std::mem::forget(self.pool.take());
        Terms { grant: self.grant, key: self.key, charge: self.charge, since: self.since }
    }

    #[inline]
    pub(super) const fn with_charge(mut self, charge: Option<Charge>) -> Self {
        self.charge = charge;
        self
    }

    #[inline]
    pub(super) const fn with_clock(mut self, key: Option<Key>, since: u64) -> Self {
        self.key = key;
        self.since = since;
        self
    }

    /// The agent that it is for.
    #[must_use]
    pub const fn agent(&self) -> AgentId {
        self.grant.agent()
    }

    /// Which lease it is.
    #[must_use]
    pub const fn id(&self) -> LeaseId {
        LeaseId(self.grant.lease())
    }

    /// Whether it is void: the agent has ended, or the lease has expired. Right after it said no, it may
    /// become true.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.is_void(self.grant, self.key))
    }

    /// Has it expire so long from now, whenever it would have expired before, if ever.
    ///
    /// # Errors
    /// [`Stale`] if it is void already.
    pub fn renew(&mut self, time_to_live: Duration) -> Result<(), Stale> {
        let pool =
            self.pool.as_ref().expect("only complete and drop take it, and each ends the lease");
        let stale = |why| Stale::new(self.grant.agent(), why);
        let renewed = pool.renew(self.grant, self.key, self.charge, time_to_live);
        self.key = Some(renewed.map_err(stale)?);
        Ok(())
    }

    /// Gives the agent back and says how it went.
    ///
    /// # Errors
    /// [`Stale`] if the agent is gone or the lease has expired: the outcome is refused and counted.
    #[inline]
    pub fn complete(mut self, outcome: LeaseOutcome) -> Result<(), Stale> {
        let pool =
            self.pool.take().expect("only complete and drop take it, and each ends the lease");
        let (grant, key, charge, since) = (self.grant, self.key, self.charge, self.since);
        // There is nothing left to drop, and a lease that nobody needs to find stays in registers.
        std::mem::forget(self);
        let how = Release::Outcome(outcome);
        end(pool, grant, key, charge, since, how).map_err(|why| Stale::new(grant.agent(), why))
    }
}

/// Gives back what a lease was made of.
#[inline]
fn end(
    pool: Arc<Pool>,
    grant: Grant,
    key: Option<Key>,
    charge: Option<Charge>,
    since: u64,
    how: Release,
) -> Result<(), Gone> {
    if key.is_none() && since == 0 && charge.is_none() {
        pool.give_back(grant, how)
    } else {
        pool.give_back_timed(grant, key, charge, since, how)
    }
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            abandon(pool, self.grant, self.key, self.charge, self.since);
        }
    }
}

/// Gives back a lease that was dropped. Out of line and by value: so the glue that drops a result with a lease in it
/// is small enough to be inlined, and a lease that is completed is not put into memory for its sake. The stalled reload
/// of that was 17 of the 41 ns that an allocation and its end took.
#[inline(never)]
fn abandon(pool: Arc<Pool>, grant: Grant, key: Option<Key>, charge: Option<Charge>, since: u64) {
    let how = if thread::panicking() {
        Release::Outcome(LeaseOutcome::Failed)
    } else {
        Release::Abandoned
    };
    // A stale lease is counted by the fleet, and a drop has nobody to tell.
    let _ = end(pool, grant, key, charge, since, how);
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("agent", &self.grant.agent())
            .field("id", &self.grant.lease())
            .finish()
    }
}

/// A request for an agent under way; made by [`Fleet::allocate_async`](super::Fleet::allocate_async).
///
/// # Cancel safety
/// It asks when it is first polled. Dropping it gives up its place; an agent that was granted to it
/// meanwhile goes on to the next who waits.
#[must_use = "futures do nothing unless polled"]
pub struct Allocation {
    request: Request,
    pool: Arc<Pool>,
    ticket: Option<Ticket>,
}

impl Allocation {
    pub(super) const fn new(request: Request, pool: Arc<Pool>) -> Self {
        Self { request, pool, ticket: None }
    }

    fn step(&mut self, waker: Waker) -> Poll<Result<Lease, AllocateError>> {
        // The waker is given away by value; where it is not kept, it is dropped outside the lock. A
        // panic of that drop would take the lease along.
        let (step, spare) = match &self.ticket {
            None => {
                let mut spare = Some(waker);
                let step = match self.pool.allocate_or_wait(&self.request, &mut spare) {
                    Ok(Err(ticket)) => {
                        self.ticket = Some(ticket);
                        Poll::Pending
                    }
                    Ok(Ok(lease)) => Poll::Ready(Ok(lease)),
                    Err(error) => Poll::Ready(Err(error)),
                };
                (step, spare)
            }
            Some(ticket) => {
                let (answer, spare) = self.pool.collect(ticket, waker);
                let step = answer.map_or(Poll::Pending, Poll::Ready);
                if step.is_ready() {
                    self.ticket = None;
                }
                let judged = |answer: Result<Lease, AllocateError>| {
                    answer.and_then(|lease| self.pool.judged(&self.request, lease))
                };
                (step.map(judged), spare)
            }
        };
        self.pool.discard(spare);
        step
    }

    /// Waits on this thread. A grant that comes with the deadline is taken.
    pub(super) fn wait(
        mut self,
        clock: &Clock,
        deadline: Option<Timestamp>,
    ) -> Result<Lease, AllocateError> {
        let pool = Arc::clone(&self.pool);
        wait_on_this_thread(&pool, clock, deadline, |waker| self.step(waker))
    }
}

/// Polls on this thread until there is an answer.
pub(super) fn wait_on_this_thread<R>(
    pool: &Pool,
    clock: &Clock,
    deadline: Option<Timestamp>,
    mut step: impl FnMut(Waker) -> Poll<Result<R, AllocateError>>,
) -> Result<R, AllocateError> {
    let parker = Parker::new();
    let mut late = false;
    loop {
        if let Poll::Ready(result) = step(parker.waker()) {
            return result;
        }
        if late {
            return Err(AllocateError::Timeout);
        }
        // A lease that expires meanwhile wakes nobody by itself.
        let until = [deadline, pool.next_due()].into_iter().flatten().min();
        if !clock.park_until(&parker, until) {
            late = deadline.is_some_and(|deadline| clock.now() >= deadline);
            pool.expire_due();
        }
    }
}

impl Future for Allocation {
    type Output = Result<Lease, AllocateError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let waker = cx.waker().clone();
        self.step(waker)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.pool.give_up(&ticket);
        }
    }
}

impl fmt::Debug for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allocation")
            .field("request", &self.request)
            .field("waiting", &self.ticket.is_some())
            .finish()
    }
}
