//! What a shard counts of its leases. All but those held only grow.

use crate::fleet::lease::{LeaseOutcome, Release};

/// What a shard counts. All are sums over its life, but for `held`.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::fleet) struct Counts {
    pub(in crate::fleet) granted: u64,
    pub(in crate::fleet) held: u64,
    pub(in crate::fleet) succeeded: u64,
    pub(in crate::fleet) failed: u64,
    pub(in crate::fleet) abandoned: u64,
    pub(in crate::fleet) stale: u64,
    pub(in crate::fleet) expired: u64,
}

impl Counts {
    pub(super) const fn add(&mut self, other: &Self) {
        self.granted += other.granted;
        self.held += other.held;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.abandoned += other.abandoned;
        self.stale += other.stale;
        self.expired += other.expired;
    }

    /// Counts the end of a lease.
    pub(super) const fn count(&mut self, released: bool, how: Release) {
        match how {
            _ if !released => self.stale += 1,
            Release::Outcome(LeaseOutcome::Succeeded) => self.succeeded += 1,
            Release::Outcome(LeaseOutcome::Failed) => self.failed += 1,
            Release::Abandoned => self.abandoned += 1,
        }
    }
}
