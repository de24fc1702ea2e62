//! What somebody asks of the pool: capabilities, a priority, and the ways in which the answer is no.

use std::fmt;
use std::sync::Arc;

/// How much something matters: the higher goes first.
///
/// Priorities order waiting requests and queued tasks, and decide between agents of equal load.
///
/// ```
/// use phalanx::fleet::Priority;
///
/// assert!(Priority::HIGH > Priority::default());
/// assert!(Priority::new(129) > Priority::NORMAL);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// Goes after everything else.
    pub const LOWEST: Self = Self(0);
    /// Goes after the ordinary.
    pub const LOW: Self = Self(64);
    /// The ordinary, and the default.
    pub const NORMAL: Self = Self(128);
    /// Goes before the ordinary.
    pub const HIGH: Self = Self(192);
    /// Goes before everything else.
    pub const HIGHEST: Self = Self(255);

    /// A priority between the named ones.
    #[must_use]
    pub const fn new(level: u8) -> Self {
        Self(level)
    }

    /// The level as a number.
    #[must_use]
    pub const fn level(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::NORMAL
    }
}

/// Which agents would do, and how urgent it is.
///
/// ```
/// use phalanx::fleet::{Priority, Request};
///
/// let request = Request::any().capability("rust").priority(Priority::HIGH);
/// assert_eq!(request.capabilities().collect::<Vec<_>>(), ["rust"]);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Request {
    capabilities: Vec<Arc<str>>,
    priority: Priority,
}

impl Request {
    /// Any agent at all, with normal priority.
    #[must_use]
    pub const fn any() -> Self {
        Self { capabilities: Vec::new(), priority: Priority::NORMAL }
    }

    /// Asks for one more capability; an agent must have all that are asked for.
    #[must_use]
    pub fn capability(mut self, name: impl AsRef<str>) -> Self {
        add_capability(&mut self.capabilities, name.as_ref());
        self
    }

    /// Sets how urgent it is among those that wait. Default: [`Priority::NORMAL`].
    #[must_use]
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The capabilities asked for, without repeats.
    pub fn capabilities(&self) -> impl Iterator<Item = &str> {
        self.capabilities.iter().map(|name| &**name)
    }

    pub(super) fn names(&self) -> &[Arc<str>] {
        &self.capabilities
    }

    /// How urgent it is.
    #[must_use]
    pub const fn urgency(&self) -> Priority {
        self.priority
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("capabilities", &self.capabilities)
            .field("priority", &self.priority.0)
            .finish()
    }
}

pub(super) fn add_capability(names: &mut Vec<Arc<str>>, name: &str) {
    if !names.iter().any(|known| &**known == name) {
        names.push(Arc::from(name));
    }
}

/// Why no agent was allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum AllocateError {
    /// Agents that fit exist, and all of them have as many leases as they may.
    #[error("every agent that fits is busy")]
    NoneIdle,
    /// No live agent has all the capabilities asked for, so waiting would not help.
    #[error("no live agent has the capabilities asked for")]
    NoSuchCapability,
    /// The timeout passed first.
    #[error("no agent became free in time")]
    Timeout,
    /// As many requests wait already as the fleet allows.
    #[error("too many requests wait already")]
    TooManyWaiting,
    /// The fleet was shut down.
    #[error("the fleet was shut down")]
    Closed,
}
