//! Agents that are ready before they are asked for: how many of each type, and whose come first.
//!
//! Rules that hold here:
//!
//! 1. Sharing out is a pure function of what there is and what is wanted.
//! 2. While all agents together stay below the limit, each pool has at least `min` ready. Where there is
//!    not room for all of them, pools of a higher priority get theirs first, and then those that were
//!    named first.
//! 3. A pool keeps what is ready beyond `min` up to `max`, as long as nobody's `min` needs the room. So an
//!    agent that comes free is not ended only to be made again.
//! 4. Agents that hold leases, drain or have failed count towards the limit, and are never touched.
//! 5. Agents that are starting are coming: they count as ready where it is asked how many are to be made, and go
//!    before all that are ready where there are too many.
//! 6. Agents of a pool that is to have some are expected while the pools stand: what they could do waits where none lives.
//! 7. An agent that failed counts as one of those that are to be ready, so that what could not be made once is not made
//!    again unasked.

use std::collections::HashSet;
use std::fmt;

use super::super::{AgentId, AgentSpec, Expectation, Fleet, Priority, WeakFleet};
use crate::{Error, ErrorKind};

/// How many agents of one type are to be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WarmPool {
    /// The fewest that are to be ready, beside those that are busy; those that are about to be ready count.
    pub min: u32,
    /// The most that stay ready: beyond this, those that are not ready yet are retired, and then idle ones.
    pub max: u32,
    /// Whose agents come first where there is not room for all.
    pub priority: Priority,
}

impl WarmPool {
    /// So many ready agents at least, and so many at most, of ordinary priority.
    #[must_use]
    pub const fn new(min: u32, max: u32) -> Self {
        Self { min, max, priority: Priority::NORMAL }
    }

    /// Sets whose agents come first. Default: [`Priority::NORMAL`].
    #[must_use]
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }
}

/// What there is of one pool's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stock {
    /// Those that are about to be ready included (rule 5).
    ready: u32,
    /// All others.
    busy: u32,
}

/// How many agents of each pool are to be ready (rules 2 and 3).
fn share_out(pools: &[(WarmPool, Stock)], limit: u32) -> Vec<u32> {
    let busy = pools.iter().fold(0_u32, |sum, (_, stock)| sum.saturating_add(stock.busy));
    let mut room = limit.saturating_sub(busy);
    let mut order: Vec<usize> = (0..pools.len()).collect();
    // Stable: pools of one priority stay in the order in which they were named.
    order.sort_by_key(|index| std::cmp::Reverse(pools[*index].0.priority));
    let mut targets = vec![0; pools.len()];
    let mut give = |index: usize, wanted: u32, targets: &mut Vec<u32>| {
        let given = wanted.saturating_sub(targets[index]).min(room);
        targets[index] += given;
        room -= given;
    };
    for &index in &order {
        give(index, pools[index].0.min, &mut targets);
    }
    for &index in &order {
        let (pool, stock) = pools[index];
        give(index, stock.ready.min(pool.max), &mut targets);
    }
    targets
}

/// What a step of [`WarmPools`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warmed {
    /// The agents that were added.
    pub spawned: Vec<AgentId>,
    /// The agents that were retired.
    pub retired: Vec<AgentId>,
    /// The agents that were to be retired, and got work or ended in between.
    pub kept: Vec<AgentId>,
    /// How many agents below their `min` the pools are together, for want of room.
    pub missing: u32,
    /// How many agents of the pools have failed. They are not ready, and are not made up for until the host ends them or
    /// sets their condition anew: what could not be made once is not made again unasked.
    pub failed: u32,
}

/// Keeps agents of several types ready, within a limit for all of them together.
///
/// Like an [`Autoscaler`](super::Autoscaler) it is stepped by the host, on whatever thread: a step looks,
/// adds what is missing and retires what is too much, and never waits. It asks for no load and no window:
/// what is taken is made up for at the next step.
///
/// Agents of each pool whose `min` is above zero are [expected](Fleet::expect) for as long as the pools stand: where none
/// lives, work for them waits rather than being refused.
///
/// An agent whose spec says no more has no handler yet when it is ready, and its first task pays for what the handler
/// loads. A pool of specs that are [prewarmed](AgentSpec::prewarmed) is warm in truth: its agents are ready once their
/// handlers are there, and until then they are coming, as all that are
/// [`Starting`](super::super::AgentState::Starting). They are not asked for again, and go first where there
/// are too many.
///
/// ```
/// use phalanx::fleet::scale::{WarmPool, WarmPools};
/// use phalanx::fleet::{AgentSpec, Fleet, Priority, Request};
///
/// let fleet = Fleet::<(), ()>::builder().build()?;
/// let mut warm = WarmPools::new(&fleet, 100)
///     .pool(AgentSpec::new("rust").capability("rust"), WarmPool::new(2, 4))?
///     .pool(AgentSpec::new("any"), WarmPool::new(8, 16).priority(Priority::LOW))?;
/// assert_eq!(warm.step()?.spawned.len(), 10);
///
/// let _lease = fleet.try_allocate(&Request::any().capability("rust"))?;
/// assert_eq!(warm.step()?.spawned.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct WarmPools<T = (), O = ()> {
    fleet: WeakFleet<T, O>,
    pools: Vec<(AgentSpec<T, O>, WarmPool)>,
    /// Rule 6.
    expected: Vec<Expectation>,
    limit: u32,
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> WarmPools<T, O> {
    /// No pool yet, and so many agents of all pools together at most, busy ones included.
    #[must_use]
    pub fn new(fleet: &Fleet<T, O>, limit: u32) -> Self {
        Self { fleet: fleet.downgrade(), pools: Vec::new(), expected: Vec::new(), limit }
    }

    /// Adds a pool. Agents of the spec's name that are there already count, whoever spawned them.
    ///
    /// # Errors
    /// `InvalidArgument` for a `min` above `max`, `AlreadyExists` for a second pool of a name, `Closed` if the fleet is
    /// gone, and whatever [`Fleet::expect`] says.
    pub fn pool(mut self, spec: AgentSpec<T, O>, pool: WarmPool) -> Result<Self, Error> {
        if pool.min > pool.max {
            let message =
                format!("min is {} and max {}: min has to be max at most", pool.min, pool.max);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if self.pools.iter().any(|(known, _)| known.name == spec.name) {
            let message = format!("there is a pool of {:?} already", spec.name);
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        if pool.min.min(self.limit) > 0 {
            self.expected.push(self.fleet()?.expect(&spec)?);
        }
        self.pools.push((spec, pool));
        Ok(self)
    }

    /// Retires what is too much and adds what is missing, those of the highest priority first. O(agents) a
    /// pool.
    ///
    /// # Errors
    /// `Closed` if the fleet is gone or was shut down, and whatever [`Fleet::spawn_batch`] says; what was
    /// added before it stays.
    pub fn step(&mut self) -> Result<Warmed, Error> {
        let fleet = self.fleet()?;
        let look = |spec: &AgentSpec<T, O>| {
            let runs = spec.factory.is_some();
            fleet.inner().pool.census(&spec.name, &spec.capabilities, runs, &HashSet::new())
        };
        let seen: Vec<_> = self.pools.iter().map(|(spec, _)| look(spec)).collect();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let stocks: Vec<_> = self
            .pools
            .iter()
            .zip(&seen)
            .map(|((_, pool), seen)| {
                let ready = number(seen.idle.len() + seen.starting.len());
                let busy = seen.serving - seen.idle.len() + seen.draining + seen.failed.len();
                // Rule 7.
                let min = pool.min.saturating_sub(number(seen.failed.len()));
                (WarmPool { min, ..*pool }, Stock { ready, busy: number(busy) })
            })
            .collect();
        let targets = share_out(&stocks, self.limit);
        let failed = number(seen.iter().map(|seen| seen.failed.len()).sum());
        let mut warmed = Warmed { failed, ..Warmed::default() };
        for ((pool, stock), target) in stocks.iter().zip(&targets) {
            warmed.missing += pool.min.saturating_sub(*target);
            debug_assert!(
                *target <= stock.ready.max(pool.min),
                "nobody gets more than it asks for"
            );
        }
        // Those that go first, so that there is room in the fleet for those that come.
        for ((seen, (_, stock)), target) in seen.iter().zip(&stocks).zip(&targets) {
            let surplus = stock.ready.saturating_sub(*target) as usize;
            // Rule 5.
            for agent in seen.starting.iter().chain(&seen.idle).take(surplus) {
                let list = if fleet.retire(*agent).is_ok() {
                    &mut warmed.retired
                } else {
                    &mut warmed.kept
                };
                list.push(*agent);
            }
        }
        // What could not be retired leaves as much less room.
        let mut late = u32::try_from(warmed.kept.len()).unwrap_or(u32::MAX);
        let mut order: Vec<usize> = (0..self.pools.len()).collect();
        order.sort_by_key(|index| self.pools[*index].1.priority);
        let mut missing: Vec<u32> = stocks
            .iter()
            .zip(&targets)
            .map(|((_, stock), target)| target.saturating_sub(stock.ready))
            .collect();
        for index in &order {
            let less = missing[*index].min(late);
            missing[*index] -= less;
            late -= less;
            warmed.missing += less;
        }
        for index in order.into_iter().rev().filter(|index| missing[*index] > 0) {
            let spec = &self.pools[index].0;
            warmed.spawned.extend(fleet.spawn_batch(spec, missing[index] as usize)?);
        }
        Ok(warmed)
    }

    fn fleet(&self) -> Result<Fleet<T, O>, Error> {
        let gone = || Error::new(ErrorKind::Closed, "the fleet that is kept warm is gone");
        self.fleet.upgrade().ok_or_else(gone)
    }
}

impl<T, O> fmt::Debug for WarmPools<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WarmPools")
            .field("pools", &self.pools)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(min: u32, max: u32, ready: u32, busy: u32) -> (WarmPool, Stock) {
        (WarmPool::new(min, max), Stock { ready, busy })
    }

    fn high(mut pool: (WarmPool, Stock)) -> (WarmPool, Stock) {
        pool.0.priority = Priority::HIGH;
        pool
    }

    #[test]
    fn each_pool_has_its_min_and_keeps_what_it_has_up_to_its_max() {
        let pools = [pool(2, 4, 0, 9), pool(2, 4, 3, 0), pool(2, 4, 9, 0), pool(0, 0, 1, 0)];
        assert_eq!(share_out(&pools, 100), [2, 3, 4, 0]);
    }

    #[test]
    fn short_room_goes_to_the_highest_priority_and_then_to_the_first_named() {
        let pools = [pool(4, 9, 0, 0), pool(4, 9, 0, 0), high(pool(4, 9, 0, 1))];
        assert_eq!(share_out(&pools, 13), [4, 4, 4]);
        assert_eq!(share_out(&pools, 12), [4, 3, 4]);
        assert_eq!(share_out(&pools, 8), [3, 0, 4]);
        assert_eq!(share_out(&pools, 3), [0, 0, 2]);
        assert_eq!(share_out(&pools, 0), [0, 0, 0]);
    }

    #[test]
    fn what_others_keep_beyond_their_min_makes_room_for_a_min() {
        let pools = [high(pool(1, 9, 6, 0)), pool(3, 9, 0, 0)];
        assert_eq!(share_out(&pools, 6), [3, 3]);
        assert_eq!(share_out(&pools, 9), [6, 3]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_limit_holds_and_nobody_gives_way_to_a_lower_priority(
            pools in proptest::collection::vec((0..9_u32, 0..9_u32, 0..12_u32, 0..12_u32, 0..3_u8), 1..6),
            limit in 0..60_u32,
        ) {
            let pools: Vec<_> = pools
                .into_iter()
                .map(|(min, more, ready, busy, priority)| {
                    let warm = WarmPool::new(min, min + more).priority(Priority::new(priority));
                    (warm, Stock { ready, busy })
                })
                .collect();
            let targets = share_out(&pools, limit);
            let busy: u32 = pools.iter().map(|(_, stock)| stock.busy).sum();
            let all = busy + targets.iter().sum::<u32>();
            prop_assert!(all <= limit.max(busy));
            for ((pool, stock), target) in pools.iter().zip(&targets) {
                prop_assert!(*target <= pool.max && *target <= stock.ready.max(pool.min));
                if *target < pool.min {
                    // Then the room is used up, and nobody of a lower priority has any.
                    prop_assert!(all >= limit);
                    for ((other, _), theirs) in pools.iter().zip(&targets) {
                        prop_assert!(other.priority >= pool.priority || *theirs == 0);
                        prop_assert!(*theirs <= other.min);
                    }
                }
            }
            let after: Vec<_> = pools
                .iter()
                .zip(&targets)
                .map(|((pool, stock), target)| (*pool, Stock { ready: *target, busy: stock.busy }))
                .collect();
            prop_assert_eq!(share_out(&after, limit), targets, "a second step changes nothing");
        }
    }
}
