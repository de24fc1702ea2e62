//! The places of a shard, for whoever goes through them one by one.

use super::{Shard, Standing};

impl Shard {
    /// How many places there are, vacant ones included.
    pub(in crate::fleet::pool) fn places(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("max_agents fits in 32 bits")
    }

    /// Whether a place is somebody's.
    pub(in crate::fleet::pool) fn lives(&self, local: u32) -> bool {
        self.slots[local as usize].standing != Standing::VACANT
    }
}
