//! The end of all agents at once, as a fleet ends.
//!
//! Rules that hold here:
//!
//! 1. It ends the same agents as ending them one by one, with the same leases revoked. Where somebody asks for an
//!    agent or has not collected one, it does just that; otherwise nobody is to be answered, and agents go
//!    by the hundred under one lock of their shard.

use std::task::Waker;

use super::Pool;
use super::desk::Desk;
use super::shard::Removed;
use crate::fleet::id::AgentId;

/// How many places of a shard are looked at under one lock: others want it too.
const AT_ONCE: u32 = 256;

impl Pool {
    /// Ends all agents; which those were, in the order of their slots, and how many leases of each were held.
    pub(in crate::fleet) fn remove_all(&self, wakes: &mut Vec<Waker>) -> Vec<(AgentId, u32)> {
        let mut removed = Vec::new();
        let mut desk = self.desk.lock();
        // Rule 1.
        if desk.asking() > 0 {
            drop(desk);
            let one = |agent: AgentId| Some((agent, self.remove(agent, wakes)?));
            return self.ids().into_iter().filter_map(one).collect();
        }
        removed.reserve(desk.live);
        for at in 0..self.shards.len() {
            let mut first = 0;
            while self.remove_some(&mut desk, at, first, &mut removed) {
                first += AT_ONCE;
            }
        }
        wakes.extend(desk.idlers.drain(..).map(|(.., waker)| waker));
        self.say_who_waits(&desk);
        self.tell_by(wakes);
        drop(desk);
        // Those of each shard are in their order already.
        removed.sort_by_key(|(agent, _)| *agent);
        removed
    }

    /// Ends those of a shard that have some places, from this one on; whether there are more places.
    fn remove_some(
        &self,
        desk: &mut Desk,
        at: usize,
        first: u32,
        removed: &mut Vec<(AgentId, u32)>,
    ) -> bool {
        let mut shard = self.shards[at].lock();
        // Neighbours are mostly of one sort.
        let mut several = None;
        for local in first..shard.places().min(first + AT_ONCE) {
            if !shard.lives(local) {
                continue;
            }
            let agent = shard.id(local);
            let Removed { load, leaver } = shard.remove(local);
            removed.push((agent, load));
            several = match several {
                Some((of, count)) if of == leaver => Some((of, count + 1)),
                before => {
                    if let Some((leaver, count)) = before {
                        desk.leave(leaver, at, count, &self.left);
                    }
                    Some((leaver, 1))
                }
            };
        }
        if let Some((leaver, count)) = several {
            desk.leave(leaver, at, count, &self.left);
        }
        self.publish(at, &mut shard);
        self.owe(&mut shard);
        shard.places() > first + AT_ONCE
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use crate::fleet::{AgentId, AgentSpec, Fleet, Lease, Request};

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// More agents of each shard than are ended under one lock, of three sorts, some of which are leased or gone.
    fn fleet() -> (Fleet<(), ()>, Vec<AgentId>, Vec<Lease>) {
        let shards = NonZeroUsize::new(2).expect("it is not zero");
        let fleet = Fleet::builder().shards(shards).build().expect("it is valid");
        let mut agents = Vec::new();
        for (name, count) in [("one", 900), ("other", 900), ("one", 900)] {
            let spec = AgentSpec::new(name).capability(name);
            agents.extend(fleet.spawn_batch(&spec, count).expect("there is room"));
        }
        let leases = agents
            .iter()
            .step_by(7)
            .map(|agent| fleet.try_allocate(&Request::any().agent(*agent)).expect("it is free"));
        let leases = leases.collect();
        for gone in agents.iter().step_by(10) {
            fleet.kill(*gone).expect("it lives");
        }
        let mut place = 0..;
        agents.retain(|_| place.next().is_some_and(|place| place % 10 != 0));
        (fleet, agents, leases)
    }

    #[test]
    fn all_agents_end_as_they_would_one_by_one() {
        let ended = [false, true].map(|at_once| {
            let (fleet, mut agents, leases) = fleet();
            let pool = Arc::clone(&fleet.inner().pool);
            agents.sort_unstable();
            let mut wakes = Vec::new();
            // Two that somebody waits to be idle, one of which may be leased.
            let woken = Arc::new(Woken::default());
            for (key, at) in [(1, 0), (2, agents.len() - 1)] {
                let idler = (key, agents[at], Waker::from(Arc::clone(&woken)));
                pool.desk.lock().idlers.push(idler);
            }
            let removed = if at_once {
                pool.remove_all(&mut wakes)
            } else {
                let one =
                    |agent: &AgentId| (*agent, pool.remove(*agent, &mut wakes).expect("it lives"));
                agents.iter().map(one).collect()
            };
            pool.validate();
            wakes.drain(..).for_each(Waker::wake);
            assert_eq!(woken.0.load(Ordering::Relaxed), 2, "they learn that it is gone");
            assert!(removed.iter().map(|(agent, _)| agent).eq(&agents), "in their order");
            assert!(removed.iter().any(|(_, leases)| *leases == 1));
            assert_eq!((pool.ids().len(), pool.tally().live), (0, 0));
            drop(leases);
            let tally = pool.tally();
            assert_eq!((tally.leases.held(), tally.leases.stale), (0, 2_700_u64.div_ceil(7)));
            removed
        });
        assert_eq!(ended[0], ended[1]);
    }

    #[test]
    fn a_grant_that_nobody_has_noticed_is_not_counted_as_lost() {
        let fleet = Fleet::<(), ()>::builder().build().expect("it is valid");
        let agent = fleet.spawn(AgentSpec::new("only")).expect("there is room");
        let held = fleet.try_allocate(&Request::any()).expect("it is free");
        let request = Request::any();
        let mut waits = Box::pin(fleet.allocate_async(&request));
        let mut context = std::task::Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        drop(held);
        let pool = Arc::clone(&fleet.inner().pool);
        let mut wakes = Vec::new();
        pool.close(&mut wakes);
        assert_eq!(pool.remove_all(&mut wakes), [(agent, 0)]);
        pool.validate();
        drop(waits);
    }
}
