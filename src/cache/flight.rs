//! One load for many waiters.
//!
//! Rules that hold here:
//!
//! 1. A key has one flight at most, from [`Flights::join`] by its leader until its [`Leader`] is done or
//!    dropped. Whoever joins in between waits for it.
//! 2. A flight ends in every case, also by a panic (the leader's drop): its waiters are woken with the
//!    value, or with the news that there is none and they must join again.
//! 3. A leader looks into the cache once more before it loads: a flight that ended between its miss
//!    and its join has left the value there.
//! 4. No thread waits for itself. A thread that is about to wait follows the chain from the flight to
//!    its leader, to the flight which that one waits for, and so on; the chain is read and extended
//!    under one lock, so no cycle can close unseen.
//! 5. Under the lock of the table the only code of the caller that runs is the key's `Eq`, before
//!    anything is changed. A flight is taken out by its number, so that ending one calls none at all.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;

use super::shard::KeptHash;
use crate::sync::thread::{self, ThreadId};
use crate::sync::{Mutex, Parker};

/// What became of a flight, for those who wait.
enum Outcome<V> {
    UnderWay,
    Landed(V),
    /// The load came to nothing; join again.
    Abandoned,
}

struct Running<K, V> {
    key: K,
    number: u64,
    leader: ThreadId,
    outcome: Arc<Mutex<Outcome<V>>>,
    waiters: Vec<Waker>,
}

/// How loads ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LoadCounts {
    pub(super) loads: u64,
    pub(super) errors: u64,
    pub(super) panics: u64,
    pub(super) waits: u64,
    pub(super) reentrant: u64,
}

struct Table<K, V> {
    running: HashMap<u64, Vec<Running<K, V>>, KeptHash>,
    /// The flight (and its leader) that a thread waits for.
    blocked: HashMap<ThreadId, (u64, ThreadId)>,
    next_number: u64,
    counts: LoadCounts,
}

impl<K, V> Table<K, V> {
    fn take(&mut self, hash: u64, number: u64) -> Option<Running<K, V>> {
        // Those who wait for it wait for its leader no longer, whatever that one does next.
        self.blocked.retain(|_, (other, _)| *other != number);
        let same_hash = self.running.get_mut(&hash)?;
        let at = same_hash.iter().position(|running| running.number == number)?;
        let taken = same_hash.swap_remove(at);
        if same_hash.is_empty() {
            self.running.remove(&hash);
        }
        Some(taken)
    }
}

/// Rule 4: whether whoever waits for `leader` would wait for `me`. The chain has no cycle, so it ends.
fn leads_to(
    blocked: &HashMap<ThreadId, (u64, ThreadId)>,
    mut leader: ThreadId,
    me: ThreadId,
) -> bool {
    loop {
        if leader == me {
            return true;
        }
        match blocked.get(&leader) {
            Some((_, next)) => leader = *next,
            None => return false,
        }
    }
}

/// The loads under way.
pub(super) struct Flights<K, V>(Mutex<Table<K, V>>);

/// What a caller that missed is to do.
pub(super) enum Join<'a, K, V> {
    /// Load, and tell the [`Leader`] how it went.
    Lead(Leader<'a, K, V>),
    /// Somebody else loaded it.
    Landed(V),
    /// Somebody else's load came to nothing.
    Retry,
    /// The wait would never end.
    Reentrant,
}

impl<K, V> Flights<K, V> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Table {
            running: HashMap::with_hasher(KeptHash::default()),
            blocked: HashMap::new(),
            next_number: 0,
            counts: LoadCounts::default(),
        }))
    }

    pub(super) fn counts(&self) -> LoadCounts {
        self.0.lock().counts
    }

    /// Becomes the leader of a flight for the key, or waits for the one there is.
    pub(super) fn join(&self, hash: u64, key: K) -> Join<'_, K, V>
    where
        K: Eq,
        V: Clone,
    {
        let me = thread::current().id();
        let parker = Parker::new();
        let outcome = {
            let mut guard = self.0.lock();
            let table = &mut *guard;
            let same_hash = table.running.entry(hash).or_default();
            if let Some(running) = same_hash.iter_mut().find(|running| running.key == key) {
                if leads_to(&table.blocked, running.leader, me) {
                    table.counts.reentrant += 1;
                    return Join::Reentrant;
                }
                running.waiters.push(parker.waker());
                table.blocked.insert(me, (running.number, running.leader));
                table.counts.waits += 1;
                Arc::clone(&running.outcome)
            } else {
                let number = table.next_number;
                table.next_number += 1;
                let outcome = Arc::new(Mutex::new(Outcome::UnderWay));
                same_hash.push(Running {
                    key,
                    number,
                    leader: me,
                    outcome: Arc::clone(&outcome),
                    waiters: Vec::new(),
                });
                let waiters = Vec::new();
                let stage = Stage::Flying;
                return Join::Lead(Leader { flights: self, hash, number, outcome, waiters, stage });
            }
        };
        loop {
            parker.park();
            match &*outcome.lock() {
                Outcome::UnderWay => {}
                Outcome::Landed(value) => return Join::Landed(value.clone()),
                Outcome::Abandoned => return Join::Retry,
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// On the table.
    Flying,
    /// Off the table; the waiters do not know yet.
    Off,
    /// The waiters know.
    Settled,
}

/// The duty to end a flight. Dropping it ends it with nothing (rule 2).
pub(super) struct Leader<'a, K, V> {
    flights: &'a Flights<K, V>,
    hash: u64,
    number: u64,
    outcome: Arc<Mutex<Outcome<V>>>,
    waiters: Vec<Waker>,
    stage: Stage,
}

impl<K, V> Leader<'_, K, V> {
    /// The loader returned a value, which is in the cache by now if it fits.
    pub(super) fn loaded(mut self, value: &V)
    where
        V: Clone,
    {
        self.take_off(|counts| counts.loads += 1);
        self.land(value);
    }

    /// The value was in the cache after all (rule 3).
    pub(super) fn found(mut self, value: &V)
    where
        V: Clone,
    {
        self.take_off(|_| ());
        self.land(value);
    }

    /// The loader returned an error.
    pub(super) fn failed(mut self) {
        self.take_off(|counts| counts.errors += 1);
        self.settle(Outcome::Abandoned);
    }

    fn land(&mut self, value: &V)
    where
        V: Clone,
    {
        // Nobody can join any more, so nobody needs the value if nobody waits.
        if self.waiters.is_empty() {
            self.stage = Stage::Settled;
        } else {
            self.settle(Outcome::Landed(value.clone()));
        }
    }

    fn take_off(&mut self, count: impl FnOnce(&mut LoadCounts)) {
        self.stage = Stage::Off;
        let taken = {
            let mut table = self.flights.0.lock();
            count(&mut table.counts);
            table.take(self.hash, self.number)
        };
        // The key is dropped here, outside the lock.
        if let Some(taken) = taken {
            self.waiters = taken.waiters;
        }
    }

    fn settle(&mut self, outcome: Outcome<V>) {
        self.stage = Stage::Settled;
        *self.outcome.lock() = outcome;
        for waiter in self.waiters.drain(..) {
            waiter.wake();
        }
    }
}

impl<K, V> Drop for Leader<'_, K, V> {
    fn drop(&mut self) {
        if self.stage == Stage::Flying {
            self.take_off(|counts| counts.panics += 1);
        }
        if self.stage == Stage::Off {
            self.settle(Outcome::Abandoned);
        }
    }
}
