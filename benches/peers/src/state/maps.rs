//! The peers that keep a state in memory, and this crate beside them, as a row writes them.

use std::sync::{Arc, RwLock};

use phalanx::state::{Collection, Snapshot, StateManager};
use serde::{Deserialize, Serialize};

/// A value of 144 bytes that is copied, not cloned piece by piece.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plain([u64; 18]);

impl Plain {
    pub fn new(key: u64, pass: u64) -> Self {
        Self(std::array::from_fn(|at| (key << 20) ^ (pass << 8) ^ at as u64))
    }

    /// One word of it.
    pub fn word(&self) -> u64 {
        self.0[17]
    }

    pub fn print(&self) -> u64 {
        self.0.iter().fold(0, |print: u64, word| print.wrapping_mul(31).wrapping_add(*word))
    }
}

/// What is seen in all rows, in whatever order they come.
fn content<'a>(rows: impl Iterator<Item = (u64, &'a Plain)>) -> u64 {
    rows.fold(0, |sum: u64, (key, value)| sum.wrapping_add(value.print().wrapping_mul(2 * key + 1)))
}

/// A map that threads write.
pub trait Written: Sync {
    fn put(&self, key: u64, value: Plain);
    fn content(&self) -> u64;
}

/// One whose rows can be seen as they all were at one moment.
pub trait Cut: Written {
    type Snapshot: Send;
    fn cut(&self) -> Self::Snapshot;
}

/// This crate, in memory, with its defaults.
pub struct Ours {
    pub state: StateManager,
    pub rows: Collection<u64, Plain>,
}

impl Ours {
    pub fn new() -> Self {
        let state = StateManager::in_memory();
        let rows = state.collection("rows").expect("the name is new");
        Self { state, rows }
    }
}

impl Written for Ours {
    fn put(&self, key: u64, value: Plain) {
        self.rows.insert(key, value).expect("the state is open");
    }

    fn content(&self) -> u64 {
        content(self.state.snapshot().iter(&self.rows).map(|(key, value)| (*key, value)))
    }
}

impl Cut for Ours {
    type Snapshot = Snapshot;

    fn cut(&self) -> Snapshot {
        self.state.snapshot()
    }
}

/// The persistent map alone, in shards with a lock each; a cut takes all of their locks in order.
#[derive(Default)]
pub struct Imbl([RwLock<imbl::HashMap<u64, Arc<Plain>>>; 16]);

impl Imbl {
    fn shard(&self, key: u64) -> &RwLock<imbl::HashMap<u64, Arc<Plain>>> {
        &self.0[(key % 16) as usize]
    }
}

impl Written for Imbl {
    fn put(&self, key: u64, value: Plain) {
        let value = Arc::new(value);
        let old = self.shard(key).write().expect("nobody panics").insert(key, value);
        drop(old);
    }

    fn content(&self) -> u64 {
        let shards = self.cut();
        content(shards.iter().flatten().map(|(key, value)| (*key, &**value)))
    }
}

impl Cut for Imbl {
    type Snapshot = [imbl::HashMap<u64, Arc<Plain>>; 16];

    fn cut(&self) -> Self::Snapshot {
        let shards = self.0.each_ref().map(|shard| shard.read().expect("nobody panics"));
        shards.each_ref().map(|shard| (**shard).clone())
    }
}

pub type Dash = dashmap::DashMap<u64, Plain>;

impl Written for Dash {
    fn put(&self, key: u64, value: Plain) {
        self.insert(key, value);
    }

    fn content(&self) -> u64 {
        self.iter().fold(0, |sum, row| {
            sum.wrapping_add(content(std::iter::once((*row.key(), row.value()))))
        })
    }
}

pub type Papaya = papaya::HashMap<u64, Plain>;

impl Written for Papaya {
    fn put(&self, key: u64, value: Plain) {
        self.pin().insert(key, value);
    }

    fn content(&self) -> u64 {
        content(self.pin().iter().map(|(key, value)| (*key, value)))
    }
}

pub type Scc = scc::HashMap<u64, Plain>;

impl Written for Scc {
    fn put(&self, key: u64, value: Plain) {
        self.upsert_sync(key, value);
    }

    fn content(&self) -> u64 {
        let mut sum = 0_u64;
        self.iter_sync(|key, value| {
            sum = sum.wrapping_add(content(std::iter::once((*key, value))));
            true
        });
        sum
    }
}
