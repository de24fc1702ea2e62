//! Allocation: which agent is given to whom, across shards that each have a lock of their own.
//!
//! The pool knows agents and leases, and nothing of tasks. The path of a lease takes the lock of one shard
//! once to take an agent and once to give it back. What is seldom needed (names, who waits) lies on the
//! desk, under another lock. Locks are taken in this order: the desk, then shards, in the order of their
//! numbers if more than one is held. User code runs under none of them. Rules that hold:
//!
//! 1. An agent is allocated under the lock of its shard, so no place is given out twice.
//! 2. `attention` says whether somebody waits: twice the number of requests that wait for an agent and of
//!    threads that wait for one to be idle, and one more if workers starve. Who is going to wait says so there first and then looks into every shard under its
//!    lock; who gives back reads it under the lock of the shard. So either the one that waits sees the
//!    agent or the one that gives it back sees who waits.
//! 3. While somebody waits, an agent that comes free passes to whoever waits for it under both locks:
//!    nobody overtakes.
//! 4. `floors` says of each shard and strategy what its best agent is, or that there is none, and is
//!    written under the lock of the shard. A request trusts it for where to look first, and for where
//!    there is nothing to find: what happened before the request began is seen.
//! 5. A shard owns as many references to the pool as it says, for leases to come. They make a circle, which
//!    `close` breaks.

mod batches;
mod bits;
mod buy;
mod census;
mod charge;
mod counts;
mod desk;
mod disband;
mod expect;
mod find;
mod floors;
mod gather;
mod health;
mod heed;
mod index;
mod members;
mod pick;
mod returns;
mod score;
mod shard;
mod slot;
mod strategy;
mod take;
mod tasks;
mod timed;
mod view;
mod wait;
mod waiting;
mod wheel;

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use crossbeam::utils::CachePadded;

use super::agent::{Condition, Resources};
use super::budget::{Asking, Budgets, Relief, Warning};
use super::id::AgentId;
use super::id::GroupKey;
use super::lanes::Mask;
use super::request::{AllocateError, Fit, Priority, Request};
use super::wakers::guarded;
use crate::clock::Clock;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Biased, BiasedGuard, Mutex, OnceLock, biased};
use buy::Granted;
use charge::Dues;
use counts::Counts;
use desk::Desk;
use floors::Floors;
use pick::Picks;
use shard::Shard;

pub(super) use census::{ByGroup, NotIdle, Part};
pub(super) use charge::Charge;
pub(super) use desk::Promise;
pub(super) use health::{Fitness, Idler};
pub(super) use heed::OnCircuit;
pub(super) use strategy::Kept;
pub use strategy::{MAX_LEASES_PER_AGENT, Strategy};
pub(super) use tasks::{Lack, Taken};
pub(super) use waiting::{Place, Ticket};
pub(super) use wheel::Key;

/// How many different capability names the agents of one fleet may have in its lifetime.
pub const MAX_CAPABILITIES: usize = 127;

/// How many different sets of capabilities the live agents of one fleet may have. A request looks at each
/// set that a shard has.
pub const MAX_CAPABILITY_SETS: usize = 4096;

/// The most shards that a pool has.
pub(super) const MAX_SHARDS: usize = floors::WIDTH;

/// The capability of running tasks, which every agent with a handler has.
pub(super) const RUNS_TASKS: Mask = 1;

/// Agents that join.
#[derive(Debug)]
pub(super) struct Newcomers<'a> {
    pub(super) name: &'a Arc<str>,
    pub(super) capabilities: &'a [Arc<str>],
    pub(super) runs_tasks: bool,
    pub(super) priority: Priority,
    /// At most [`MAX_LEASES_PER_AGENT`].
    pub(super) limit: u16,
    pub(super) labels: &'a [(Arc<str>, Arc<str>)],
    pub(super) resources: Resources,
    pub(super) condition: Condition,
    /// The era of the circuit of their type, if there is one.
    pub(super) era: Option<u32>,
}

/// An agent as its shard takes it in.
#[derive(Clone, Copy, Debug)]
struct Entrant {
    kind: u32,
    mask: Mask,
    priority: Priority,
    limit: u16,
    condition: Condition,
    era: Option<u32>,
}

/// A request as the pool understands it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    mask: Mask,
    fit: Fit,
    strategy: Strategy,
    agent: Option<AgentId>,
    /// For how long the lease is, in nanoseconds.
    ttl: Option<u64>,
    /// Whose budget it is on, beside the fleet's.
    group: Option<GroupKey>,
    /// Whether it is for a batch that gathers, which is given no agent on trial.
    gathers: bool,
}

impl Ask {
    const fn any(strategy: Strategy) -> Self {
        let (agent, ttl, group) = (None, None, None);
        let gathers = false;
        Self { mask: 0, fit: Fit::All, strategy, agent, ttl, group, gathers }
    }

    /// How badly agents with these capabilities fit, the lesser the better; `None` if they do not.
    #[inline(always)]
    fn misfit(&self, have: Mask) -> Option<u32> {
        let others = || (have & !self.mask & !RUNS_TASKS).count_ones();
        match self.fit {
            Fit::All => (have & self.mask == self.mask).then_some(0),
            Fit::Tightest => (have & self.mask == self.mask).then(others),
            Fit::BestFraction => {
                let runs = have & RUNS_TASKS >= self.mask & RUNS_TASKS;
                let asked = self.mask & !RUNS_TASKS;
                let met = (have & asked).count_ones();
                let some = met > 0 || asked == 0;
                (runs && some).then(|| (asked.count_ones() - met) << 8 | others())
            }
        }
    }
}

/// A lease as the pool hands it out: two words, which a call returns without touching memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// The generation above the slot.
    agent: u64,
    /// Unlike that of any other lease of the pool.
    lease: NonZeroU64,
}

impl Grant {
    #[inline(always)]
    pub(super) const fn new(agent: AgentId, lease: NonZeroU64) -> Self {
        Self { agent: (agent.generation as u64) << 32 | agent.slot as u64, lease }
    }

    #[inline(always)]
    pub(super) const fn agent(self) -> AgentId {
        AgentId { slot: self.agent as u32, generation: (self.agent >> 32) as u32 }
    }

    #[inline(always)]
    pub(super) const fn lease(self) -> u64 {
        self.lease.get()
    }
}

/// What a lease is made of, beside the reference to the pool that comes with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) grant: Grant,
    /// Under which it expires, if it does.
    pub(super) key: Option<Key>,
    /// What it was charged with, if anything.
    pub(super) charge: Option<Charge>,
    /// When it was granted, in nanoseconds, or zero for one whose time does not matter.
    pub(super) since: u64,
}

/// The holder of a lease was too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// Its agent has ended.
    Ended,
    /// The lease has expired.
    Expired,
}

/// Who is to be told, outside the locks, of an agent that has a place more.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "a mailbox or a worker that is not told waits on"]
pub(super) struct Passed {
    /// The agent, if its mailbox waits for room and there is some.
    pub(super) freed: Option<AgentId>,
    /// Whether workers starve and there is room.
    pub(super) hungry: bool,
}

/// Who is told that an agent came free while workers starve.
pub(super) trait Feed: Send + Sync {
    fn feed(&self);
    /// An agent that was [wanted](Pool::take_agent) and had no room has some now. Called under locks of the pool.
    fn freed(&self, agent: AgentId);
    /// A lease is due before the fleet [looks](Pool::watch) for those that have expired.
    fn lease_due(&self);
    /// A lease of the host's that began in this era of the circuit of its agent's type went so, and is about to come
    /// back; `None` is neither well nor ill.
    fn lease_went(&self, agent: AgentId, era: Option<u32>, well: Option<bool>);
    /// An agent whose type has a circuit holds no lease any more, for a moment at least.
    fn lease_freed(&self, agent: AgentId);
    /// Leases took budgets up to their soft lines.
    fn warned(&self, warnings: Vec<Warning>);
    /// So many requests wait for an agent: some where none did, or twice as many.
    fn requests_wait(&self, requests: usize);
}

/// What a pool is made of.
#[derive(Clone, Debug)]
pub(super) struct PoolConfig {
    pub(super) max_agents: NonZeroUsize,
    pub(super) max_waiting: NonZeroUsize,
    /// A power of two, at most [`MAX_SHARDS`].
    pub(super) shards: usize,
    pub(super) kept: Kept,
    pub(super) clock: Clock,
    /// What leases are charged to.
    pub(super) budgets: Option<Budgets>,
    /// How long a request waits for what a level of priority is worth.
    pub(super) ageing: Option<Duration>,
}

/// See the file's head.
pub(super) struct Pool {
    /// Tells pools apart, for what requests remember.
    number: u64,
    kept: Kept,
    clock: Clock,
    ageing_ns: Option<u64>,
    /// Whether each lease is timed, for the pasts of the agents.
    keeps_pasts: bool,
    /// Whether a lease is an agent and nothing more: neither timed nor paid for.
    is_plain: bool,
    /// Whether it is timed for those pasts, and not paid for.
    is_timed_alone: bool,
    /// The strategy that alone decides where agents are alike, if there is one.
    sole: Option<Strategy>,
    budgets: Option<Budgets>,
    /// Which of the accounts of types and agents the shards have heard of.
    kinds_seen: AtomicU64,
    /// What is to be told outside the locks, and whether there is something.
    dues: Mutex<Dues>,
    owing: AtomicBool,
    /// Whether tasks wait for room in the budgets of their groups.
    groups_wait: AtomicBool,
    /// The agents that were wanted and that budgets refused.
    over_budget: Mutex<tasks::OverBudget>,
    me: Weak<Self>,
    /// Whether there was a lease that expires.
    expires: AtomicBool,
    max_agents: usize,
    max_waiting: usize,
    shards: Box<[CachePadded<Biased<Shard>>]>,
    floors: Floors,
    attention: CachePadded<AtomicUsize>,
    desk: Mutex<Desk>,
    /// When the first of those who sleep as they wait looks for leases that have expired.
    look_at: AtomicU64,
    /// When the fleet looks for leases that have expired, whoever waits or does not.
    watch_at: AtomicU64,
    /// How many agents have left, and how many are expected no more: while it stays the same, what some agent could
    /// do some agent can.
    left: AtomicU64,
    /// Requests that were refused because too many waited.
    refused: AtomicU64,
    /// Panics of wakers and of their destructors, and of pickers.
    panics: AtomicU64,
    picks: Picks,
    feed: OnceLock<Weak<dyn Feed>>,
}

/// What the pool counts, read at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) live: u64,
    pub(super) waiting: u64,
    pub(super) refused: u64,
    pub(super) panics: u64,
    pub(super) picks_lost: u64,
    pub(super) picks_declined: u64,
    pub(super) leases: Counts,
}

/// A shard, locked.
type Held<'a> = BiasedGuard<'a, Shard>;

impl Pool {
    pub(super) fn new(config: PoolConfig) -> Arc<Self> {
        let bits = config.shards.trailing_zeros();
        let shard = |number| CachePadded::new(biased(Shard::new(number, bits, config.kept)));
        let pool = Arc::new_cyclic(|me| Self {
            number: crate::sync::unique(),
            kept: config.kept,
            keeps_pasts: config.kept.has(Strategy::Performance),
            is_plain: !config.kept.has(Strategy::Performance) && config.budgets.is_none(),
            is_timed_alone: config.kept.has(Strategy::Performance) && config.budgets.is_none(),
            sole: config.kept.sole(),
            budgets: config.budgets,
            kinds_seen: AtomicU64::new(0),
            dues: Mutex::new(Dues::default()),
            owing: AtomicBool::new(false),
            groups_wait: AtomicBool::new(false),
            over_budget: Mutex::new(tasks::OverBudget::default()),
            me: me.clone(),
            expires: AtomicBool::new(false),
            ageing_ns: config.ageing.map(|step| nanoseconds(step).max(1)),
            clock: config.clock,
            max_agents: config.max_agents.get(),
            max_waiting: config.max_waiting.get(),
            shards: (0_u32..).take(config.shards).map(shard).collect(),
            floors: Floors::new(),
            attention: CachePadded::new(AtomicUsize::new(0)),
            desk: Mutex::new(Desk::new(config.shards, config.max_agents.get())),
            look_at: AtomicU64::new(u64::MAX),
            watch_at: AtomicU64::new(u64::MAX),
            left: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            picks: Picks::new(),
            feed: OnceLock::new(),
        });
        if let Some(budgets) = &pool.budgets {
            let watcher: Weak<dyn Relief> = pool.me.clone();
            budgets.watch(watcher);
        }
        pool
    }

    /// What leases are charged to.
    pub(super) const fn budgets(&self) -> Option<&Budgets> {
        self.budgets.as_ref()
    }

    /// Sets who is told that an agent came free while workers starve. Once, before anybody is.
    pub(super) fn set_feed(&self, feed: Weak<dyn Feed>) {
        // A second one would be a second fleet on the same pool, and there is none.
        let _ = self.feed.set(feed);
    }

    fn shard_of(&self, agent: AgentId) -> usize {
        agent.slot as usize & (self.shards.len() - 1)
    }

    /// Publishes what became of a shard's floors (rule 4).
    #[inline(always)]
    fn publish(&self, at: usize, shard: &mut Shard) {
        if shard.is_stirred() && self.shards.len() > 1 {
            match shard.sole_floor() {
                Some((by, floor)) => self.floors.set(by, at, floor),
                None => self.publish_floors(at, shard),
            }
        }
    }

    #[inline(never)]
    fn publish_floors(&self, at: usize, shard: &mut Shard) {
        for strategy in self.kept.iter() {
            let floor = shard.floor(strategy, || self.floors.greatest(strategy));
            self.floors.set(strategy, at, floor);
        }
    }

    /// What a request asks for, in the pool's terms.
    #[inline(always)]
    pub(super) fn resolve(&self, request: &Request) -> Result<Ask, AllocateError> {
        let strategy = match request.named_strategy() {
            None => self.kept.first(),
            Some(strategy) if self.kept.has(strategy) => strategy,
            Some(_) => return Err(AllocateError::StrategyNotKept),
        };
        let mask = if request.names().is_empty() { 0 } else { self.mask_of(request)? };
        let ttl = request.time_to_live().map(nanoseconds);
        let (agent, group) = (request.named_agent(), request.named_group());
        let (fit, gathers) = (request.fits(), false);
        Ok(Ask { mask, fit, strategy, agent, ttl, group, gathers })
    }

    /// The mask of a request's names, which the request remembers once all of them are known.
    #[inline(always)]
    fn mask_of(&self, request: &Request) -> Result<Mask, AllocateError> {
        match request.remembered(self.number) {
            Some(mask) => Ok(mask),
            None => self.look_up_mask(request),
        }
    }

    #[inline(never)]
    fn look_up_mask(&self, request: &Request) -> Result<Mask, AllocateError> {
        let (mask, complete) = self.desk.lock().mask_of(request.names());
        if complete {
            request.remember(self.number, mask);
        } else if mask == 0 || request.fits() != Fit::BestFraction {
            return Err(AllocateError::NoSuchCapability);
        }
        Ok(mask)
    }

    #[cold]
    fn why_none(&self, ask: &Ask) -> AllocateError {
        let desk = self.desk.lock();
        if desk.closed {
            return AllocateError::Closed;
        }
        if let Some(agent) = ask.agent
            && let Err(error) = self.find_named(agent, ask)
        {
            return error;
        }
        if let Some(Err(exceeded)) = self.none_for(ask, Asking::Looking) {
            return AllocateError::OverBudget(Box::new(exceeded));
        }
        if desk.may_serve(ask) { AllocateError::NoneIdle } else { AllocateError::NoSuchCapability }
    }

    /// Gives the free places of an agent to those who wait (rule 3); who else is to be told.
    fn pass_on(
        &self,
        desk: &mut Desk,
        shard: &mut Shard,
        at: usize,
        local: u32,
        wakes: &mut Vec<Waker>,
    ) -> Passed {
        let is_deferred = desk.offer(shard, local, self.budgets.is_some(), wakes);
        if shard.slot(local).load == 0 {
            desk.tell_idlers(shard.id(local), wakes);
        }
        self.say_who_waits(desk);
        self.publish(at, shard);
        self.owe_by(shard, wakes);
        if desk.batches.is_unplanned() {
            self.plan_by(desk, wakes);
        }
        if is_deferred {
            return Passed::default();
        }
        let starving = self.attention.load(Ordering::Relaxed) & 1 == 1;
        Passed {
            freed: shard.meet_want(local).then(|| shard.id(local)),
            hungry: starving && shard.slot(local).has_room(),
        }
    }

    #[inline(always)]
    fn is_watched(&self) -> bool {
        self.attention.load(Ordering::Relaxed) != 0
    }

    /// Has the mailbox of an agent that has room again lined up. Outside the locks: what feeds on the pool may
    /// end with this call.
    fn tell_freed(&self, freed: Option<AgentId>) {
        if let Some(agent) = freed
            && let Some(feed) = self.feed.get().and_then(Weak::upgrade)
        {
            feed.freed(agent);
        }
    }

    /// Has it be told that so many requests wait, if that is to be. Outside the locks.
    fn tell_who_waits(&self, requests: Option<usize>) {
        if let Some(requests) = requests
            && let Some(feed) = self.feed.get().and_then(Weak::upgrade)
        {
            feed.requests_wait(requests);
        }
    }

    fn tell_workers(&self) {
        if let Some(feed) = self.feed.get().and_then(Weak::upgrade) {
            feed.feed();
        }
    }

    fn wake_all(&self, wakes: Vec<Waker>) {
        for waker in wakes {
            if guarded(|| waker.wake()).is_err() {
                self.panics.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Drops a waker of the host's where a panic does no harm.
    pub(super) fn discard(&self, waker: Option<Waker>) {
        if waker.is_some() && guarded(|| drop(waker)).is_err() {
            self.panics.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn lock_all(&self) -> Vec<Held<'_>> {
        self.shards.iter().map(|shard| shard.lock()).collect()
    }

    pub(super) fn tally(&self) -> Tally {
        let desk = self.desk.lock();
        let mut leases = Counts::default();
        for shard in self.lock_all() {
            leases.add(&shard.counts);
        }
        Tally {
            live: desk.live as u64,
            waiting: (desk.waiting.len() + desk.batches.waiting()) as u64,
            refused: self.refused.load(Ordering::Relaxed),
            panics: self.panics.load(Ordering::Relaxed),
            picks_lost: self.picks.lost.load(Ordering::Relaxed),
            picks_declined: self.picks.declined.load(Ordering::Relaxed),
            leases,
        }
    }

    /// Refuses everybody who waits, now and later, and breaks the circle of rule 5.
    pub(super) fn close(self: &Arc<Self>, wakes: &mut Vec<Waker>) {
        let mut desk = self.desk.lock();
        desk.closed = true;
        for shard in &self.shards {
            self.settle_references(&mut shard.lock());
        }
        for (ticket, waker) in desk.waiting.take(|_| true) {
            desk.answer(ticket, Err(AllocateError::Closed), waker, wakes);
        }
        desk.batches.refuse(|_, _| Some(AllocateError::Closed), wakes);
        self.plan_by(&mut desk, wakes);
        self.say_who_waits(&desk);
    }
}

#[inline]
fn nanoseconds(duration: Duration) -> u64 {
    let whole = duration.as_secs().saturating_mul(1_000_000_000);
    whole.saturating_add(u64::from(duration.subsec_nanos()))
}

/// Switches a rule off for the twin of a loom test, which must fail without it.
#[cfg(not(phalanx_loom))]
#[inline(always)]
pub(super) const fn broken(_rule: &'static str) -> bool {
    false
}

#[cfg(phalanx_loom)]
pub(super) fn broken(rule: &'static str) -> bool {
    crate::sync::left_out(rule)
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;
