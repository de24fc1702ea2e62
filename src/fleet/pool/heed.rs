//! Leases of the host's on agents whose type has a circuit breaker: the circuit is told how each of them went.
//!
//! Rules that hold here:
//!
//! 1. A circuit hears of a lease once: as it is completed or dropped, or as somebody finds that it has
//!    expired, whichever comes first. Whoever is going to tell has made sure of that under the lock of the shard,
//!    by taking the lease out of the wheel. Of a lease whose agent has ended nobody hears.
//! 2. It hears before the place goes to anybody else: who is given an agent in turn is given none that the
//!    lease before has taken out of service.
//! 3. A lease counts for the era of the circuit in which it began, and one that expires for that in which it began
//!    or was renewed last. One that began before is told of as that of no era.
//! 4. The circuit is told outside the locks of the pool: its own come before them.

use std::sync::{Arc, Weak};

use super::shard::Shard;
use super::wheel::Overdue;
use super::{Feed, Grant, Key, Pool};
use crate::fleet::id::AgentId;
use crate::fleet::lease::{LeaseOutcome, Release};

/// The era of its circuit in which an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Era {
    pub(super) number: u32,
    /// How many leases its shard had granted when the era began.
    pub(super) since: u64,
}

/// What the circuit of an agent says of it to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fleet) struct OnCircuit {
    /// How many leases it may hold.
    pub(in crate::fleet) limit: u16,
    pub(in crate::fleet) on_trial: bool,
    pub(in crate::fleet) era: u32,
}

/// A lease that is about to come back.
enum Claim {
    /// There is nothing to tell.
    Unheard,
    /// It is good, will not expire any more, and began in this era of its circuit, or before there was one.
    Good(Option<u32>),
    /// It has expired, and nobody has noticed.
    Overdue,
}

impl Shard {
    /// Begins another era of an agent's circuit (rule 3).
    pub(super) fn enter_era(&mut self, local: u32, circuit: OnCircuit) {
        let since = self.counts.granted;
        let fresh = Era { number: circuit.era, since };
        let era = self.eras.entry(local).or_insert(fresh);
        if era.number != circuit.era {
            *era = fresh;
        }
    }

    /// In which era of its circuit an agent is; of no meaning for one that has none.
    pub(super) fn era(&self, local: u32) -> u32 {
        if self.slot(local).standing.is_heeded() {
            self.eras.get(&local).map_or(0, |era| era.number)
        } else {
            0
        }
    }

    fn is_heeded(&self, agent: AgentId) -> bool {
        self.find(agent).is_some_and(|local| self.slot(local).standing.is_heeded())
    }

    /// Looks at a lease that is about to come back, and sees to it that nobody else ends it (rule 1).
    fn claim(&mut self, grant: Grant, key: Option<Key>, now: u64) -> Claim {
        let agent = grant.agent();
        let Some(local) = self.find(agent) else { return Claim::Unheard };
        if !self.slot(local).standing.is_heeded() {
            return Claim::Unheard;
        }
        if let (Some(key), Some(wheel)) = (key, &mut self.timed) {
            match wheel.due(key) {
                None => return Claim::Unheard,
                Some(due) if due <= now => return Claim::Overdue,
                Some(_) => drop(wheel.remove(key)),
            }
        }
        let era = self.eras.get(&local).filter(|era| self.number_of(grant) > era.since);
        Claim::Good(era.map(|era| era.number))
    }

    /// The next lease that has expired by now.
    pub(super) fn pop_overdue(&mut self, now: u64) -> Option<Overdue> {
        self.timed.as_mut()?.pop_due(now)
    }
}

impl Pool {
    pub(super) fn feed(&self) -> Option<Arc<dyn Feed>> {
        self.feed.get().and_then(Weak::upgrade)
    }

    /// Tells the circuit of an agent, if it has one, how a lease went that is about to come back (rule 2). Its key,
    /// if it may still expire.
    pub(super) fn hear(
        &self,
        at: usize,
        grant: Grant,
        key: Option<Key>,
        now: u64,
        how: Release,
    ) -> Option<Key> {
        let claim = self.shards[at].lock().claim(grant, key, now);
        match claim {
            Claim::Unheard => key,
            Claim::Overdue => {
                self.expire_due();
                key
            }
            Claim::Good(era) => {
                let well = match how {
                    Release::Outcome(outcome) => Some(outcome == LeaseOutcome::Succeeded),
                    Release::Abandoned => None,
                };
                if let Some(feed) = self.feed() {
                    feed.lease_went(grant.agent(), era, well);
                }
                None
            }
        }
    }

    /// The agent of a lease that has come back, if its circuit is to look at it.
    pub(super) fn heeded(shard: &Shard, local: u32) -> Option<AgentId> {
        let slot = shard.slot(local);
        (slot.standing.is_heeded() && slot.load == 0).then(|| shard.id(local))
    }

    /// Has the circuit of an agent that holds no lease any more look at it. Outside the locks.
    pub(super) fn tell_idle(&self, idle: Option<AgentId>) {
        if let Some(agent) = idle
            && let Some(feed) = self.feed()
        {
            feed.lease_freed(agent);
        }
    }

    /// Whether a circuit is to hear of a lease that has expired before it is given back.
    pub(super) fn must_hear(shard: &Shard, overdue: &Overdue) -> bool {
        shard.is_heeded(overdue.agent)
    }

    /// Gives back a lease that has expired, and that its circuit is to hear of; whether its agent was still there.
    #[cold]
    pub(super) fn expire_heeded(&self, overdue: Overdue) -> bool {
        let Overdue { agent, charge, era } = overdue;
        if let Some(feed) = self.feed() {
            feed.lease_went(agent, Some(era), Some(false));
        }
        let mut wakes = Vec::new();
        let (passed, idle) = {
            let mut desk = self.desk.lock();
            let at = self.shard_of(agent);
            let mut shard = self.shards[at].lock();
            let Some(local) = shard.expire(agent, charge) else { return false };
            let passed = self.pass_on(&mut desk, &mut shard, at, local, &mut wakes);
            (passed, Self::heeded(&shard, local))
        };
        self.wake_all(wakes);
        self.tell_freed(passed.freed);
        if passed.hungry {
            self.tell_workers();
        }
        self.tell_idle(idle);
        true
    }
}
