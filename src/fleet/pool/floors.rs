//! What each shard has to offer, where every thread can read it without a lock.
//!
//! A floor is the best rank of a shard by one strategy (for the round robin, its lap). It is written only
//! when it changes, which in a large shard is seldom, so the line stays with those who read it. Floors are
//! `Relaxed`: whoever must not miss a change looks under the lock of the shard.

use crossbeam::utils::CachePadded;

use super::shard::{FLOOR_PENALTY, NO_FLOOR};
use super::strategy::{STRATEGIES, Strategy};
use crate::sync::atomic::{AtomicU64, Ordering};

/// How many shards there may be.
pub(super) const WIDTH: usize = 16;

/// See the file's head.
pub(super) struct Floors([CachePadded<[AtomicU64; WIDTH]>; STRATEGIES]);

impl Floors {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| {
            CachePadded::new(std::array::from_fn(|_| AtomicU64::new(NO_FLOOR)))
        }))
    }

    #[inline(always)]
    pub(super) fn get(&self, strategy: Strategy, at: usize) -> u64 {
        self.0[strategy.index()][at].load(Ordering::Relaxed)
    }

    /// Under the lock of the shard.
    #[inline(always)]
    pub(super) fn set(&self, strategy: Strategy, at: usize, floor: u64) {
        let word = &self.0[strategy.index()][at];
        if word.load(Ordering::Relaxed) != floor {
            word.store(floor, Ordering::Relaxed);
        }
    }

    /// The best of all shards.
    #[inline]
    pub(super) fn least(&self, strategy: Strategy, shards: usize) -> u64 {
        let floors = self.0[strategy.index()].iter().take(shards);
        floors.map(|floor| floor.load(Ordering::Relaxed)).min().unwrap_or(NO_FLOOR)
    }

    /// The greatest of the shards that have anything.
    pub(super) fn greatest(&self, strategy: Strategy) -> Option<u64> {
        let floors = (0..WIDTH).map(|at| self.get(strategy, at));
        floors.filter(|floor| *floor != NO_FLOOR).map(|floor| floor & !FLOOR_PENALTY).max()
    }

    /// The shard to look at first: the one at `home`, unless another is better by more than the bound.
    #[inline]
    pub(super) fn nearest(&self, strategy: Strategy, home: usize, shards: usize) -> usize {
        let home = home & (shards - 1);
        let own = self.get(strategy, home);
        if strategy.is_good_enough(own) {
            return home;
        }
        let floors = &self.0[strategy.index()][..shards.min(WIDTH)];
        let is_better = |floor: &AtomicU64| strategy.exceeds(own, floor.load(Ordering::Relaxed));
        if floors.iter().any(is_better) { self.best(strategy, home, shards) } else { home }
    }

    /// The first shard from `home` on with the best floor, or `home` if that has gone meanwhile.
    #[cold]
    fn best(&self, strategy: Strategy, home: usize, shards: usize) -> usize {
        let floor = self.least(strategy, shards);
        let mut others = (1..shards).map(|step| (home + step) & (shards - 1));
        others.find(|at| self.get(strategy, *at) <= floor).unwrap_or(home)
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_is_that_of_any_shard_which_has_something_fit_or_not() {
        let floors = Floors::new();
        let greatest = || floors.greatest(Strategy::RoundRobin);
        assert_eq!(greatest(), None);
        for (at, lap) in [3, 7 | FLOOR_PENALTY, 5].into_iter().enumerate() {
            floors.set(Strategy::RoundRobin, at + 1, lap);
        }
        assert_eq!(greatest(), Some(7));
        floors.set(Strategy::RoundRobin, 2, NO_FLOOR);
        assert_eq!(greatest(), Some(5));
    }
}
