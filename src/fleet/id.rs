//! The names of things: agents, tasks, attempts, groups. Numbers that mean nothing but themselves.

use std::fmt;

/// Defines a name that the host may give: a number in a type of its own.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $of:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            #[doc = concat!("The ", $of, " of this number.")]
            #[must_use]
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

number! {
    /// Names a task for as long as its log lives.
    TaskId, "id"
}

number! {
    /// Names a group that shares a budget: a swarm, a tenant, a job. The fleet reads nothing into it.
    GroupKey, "group"
}

/// Which run of a task: the first is 1. Together with the [`TaskId`] it tells repeats apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub(super) u32);

impl Attempt {
    /// The attempt of a task that never ran.
    pub const NONE: Self = Self(0);

    /// The attempt of this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number: 1 for the first run, 0 for a task that never ran.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attempt({})", self.0)
    }
}

/// One agent of one fleet: a slot and its generation, so that the name of a dead agent never
/// comes to mean a living one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl AgentId {
    /// The place in the fleet's table; it is used again after the agent is gone.
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// Which of the agents that had this slot.
    #[must_use]
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentId({self})")
    }
}
