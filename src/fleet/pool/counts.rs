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
    /// Those that came back, by how: a lookup, where a choice among fields takes several instructions.
    ended: [u64; 3],
    pub(in crate::fleet) stale: u64,
    pub(in crate::fleet) expired: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.granted += other.granted;
        self.taken_back += other.taken_back;
        self.undone += other.undone;
        for (own, other) in self.ended.iter_mut().zip(other.ended) {
            *own += other;
        }
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

    pub(in crate::fleet) const fn succeeded(&self) -> u64 {
        self.ended[place(Release::Outcome(LeaseOutcome::Succeeded))]
    }

    pub(in crate::fleet) const fn failed(&self) -> u64 {
        self.ended[place(Release::Outcome(LeaseOutcome::Failed))]
    }

    pub(in crate::fleet) const fn abandoned(&self) -> u64 {
        self.ended[place(Release::Abandoned)]
    }

    /// Counts the end of a lease.
    #[inline(always)]
    pub(super) const fn count(&mut self, released: bool, how: Release) {
        if released {
            self.ended[place(how)] += 1;
        } else {
            self.stale += 1;
        }
    }
}

/// Where leases that end so are counted.
#[inline(always)]
const fn place(how: Release) -> usize {
    match how {
        Release::Outcome(LeaseOutcome::Succeeded) => 0,
        Release::Outcome(LeaseOutcome::Failed) => 1,
        Release::Abandoned => 2,
    }
}
