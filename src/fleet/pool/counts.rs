//! What a shard counts of its leases. All of it only grows.

use crate::fleet::lease::{LeaseOutcome, Release};

/// What a shard counts, all as sums over its life.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::fleet) struct Counts {
    /// Those that were undone included.
    pub(super) granted: u64,
    /// Those that ended with their agents included, and those that were undone.
    pub(super) taken_back: u64,
    /// Grants that were withdrawn in the step that made them.
    pub(super) undone: u64,
    pub(in crate::fleet) succeeded: u64,
    pub(in crate::fleet) failed: u64,
    pub(in crate::fleet) abandoned: u64,
    pub(in crate::fleet) stale: u64,
    pub(in crate::fleet) expired: u64,
}

impl Counts {
    pub(super) const fn add(&mut self, other: &Self) {
        self.granted += other.granted;
        self.taken_back += other.taken_back;
        self.undone += other.undone;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.abandoned += other.abandoned;
        self.stale += other.stale;
        self.expired += other.expired;
    }

    /// How many leases there were.
    pub(in crate::fleet) const fn granted(&self) -> u64 {
        self.granted - self.undone
    }

    /// How many leases are held.
    pub(in crate::fleet) const fn held(&self) -> u64 {
        self.granted - self.taken_back
    }

    /// Counts the end of a lease.
    #[inline(always)]
    pub(super) const fn count(&mut self, released: bool, how: Release) {
        match how {
            _ if !released => self.stale += 1,
            Release::Outcome(LeaseOutcome::Succeeded) => self.succeeded += 1,
            Release::Outcome(LeaseOutcome::Failed) => self.failed += 1,
            Release::Abandoned => self.abandoned += 1,
        }
    }
}
