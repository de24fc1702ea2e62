//! The number of a commit.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a commit: one counter over all collections of a [`StateManager`](super::StateManager).
///
/// The first commit of a new store is version 1; [`Version::ZERO`] is the empty store before it. Versions
/// of one store have no gaps and go on counting after a recovery, from the newest that was recovered. So a version that
/// was not durable when its process ended is given again, to another commit: what leaves the process (a fencing token, the
/// place of a reader) is sent out once [`wait_durable`](super::StateManager::wait_durable) has returned for it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Version(u64);

impl Version {
    /// The empty store, before any commit.
    pub const ZERO: Self = Self(0);

    /// The version with this number, for a host that stored one.
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Whether a store can have come to it: so many commits that counting on never overflows, and that none has made.
    pub(super) const fn is_possible(self) -> bool {
        self.0 <= 1 << 62
    }

    pub(super) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}
