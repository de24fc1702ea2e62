//! What somebody asks of the pool: capabilities, a priority, and the ways in which the answer is no.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::budget::Exceeded;
use super::id::AgentId;
use super::id::GroupKey;
use super::lanes::Mask;
use super::picker::Picker;
use super::pool::Strategy;
use crate::clock::Timestamp;
use crate::sync::OnceLock;

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
#[derive(Clone, Default)]
pub struct Request {
    capabilities: Vec<Arc<str>>,
    priority: Priority,
    fit: Fit,
    strategy: Option<Strategy>,
    agent: Option<AgentId>,
    time_to_live: Option<Duration>,
    deadline: Option<Timestamp>,
    picker: Option<Arc<dyn Picker>>,
    /// Whether there is a picker or a time to live: one look for what is seldom.
    special: bool,
    /// Whether it asks for more than any agent for some time.
    particular: bool,
    group: Option<GroupKey>,
    /// The pool that knew all the capabilities, and the mask it knows them by: a bit once given to a name
    /// stays with it, so whoever asks again need not look the names up.
    known: OnceLock<(u64, Mask)>,
}

/// How an agent's capabilities must match those that a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fit {
    /// The agent has all of them; the strategy decides among those that do.
    #[default]
    All,
    /// The agent has all of them and as few others as there are, so that the versatile stay free; the
    /// strategy decides among equals.
    Tightest,
    /// The agent has at least one of them and as many as any agent with room has, then as few others; the
    /// strategy decides among equals. A name that no agent had when the request began counts for nothing.
    BestFraction,
}

impl Request {
    /// Any agent at all, with normal priority.
    #[must_use]
    pub const fn any() -> Self {
        Self {
            capabilities: Vec::new(),
            priority: Priority::NORMAL,
            fit: Fit::All,
            strategy: None,
            agent: None,
            time_to_live: None,
            deadline: None,
            picker: None,
            special: false,
            particular: false,
            group: None,
            known: OnceLock::new(),
        }
    }

    /// Asks for one more capability; an agent must have all that are asked for, unless
    /// [`fit`](Self::fit) says otherwise.
    #[must_use]
    pub fn capability(mut self, name: impl AsRef<str>) -> Self {
        self.particular = true;
        self.known = OnceLock::new();
        add_capability(&mut self.capabilities, name.as_ref());
        self
    }

    /// Sets how urgent it is among those that wait. Default: [`Priority::NORMAL`].
    #[must_use]
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sets how capabilities must match. Default: [`Fit::All`]. The other ways look at every shard.
    #[must_use]
    pub fn fit(mut self, fit: Fit) -> Self {
        self.particular = true;
        self.fit = fit;
        self
    }

    /// Sets which strategy chooses. Default: the first of the
    /// [fleet's](super::FleetBuilder::strategies); one that the fleet does not keep is an error of the
    /// allocation.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.particular = true;
        self.strategy = Some(strategy);
        self
    }

    /// Asks for this agent and no other.
    #[must_use]
    pub fn agent(mut self, agent: AgentId) -> Self {
        self.particular = true;
        self.agent = Some(agent);
        self
    }

    /// Has the lease expire so long after it was granted, unless it is [renewed](super::Lease::renew).
    /// Default: never. When it expires the agent is free for others and the holder cannot complete it;
    /// that is noticed by its holder, by an allocation that finds nothing, by threads that wait for an
    /// agent, by the fleet's workers, between attempts and as they sleep, by whoever
    /// [drives](super::Fleet::run_ready) it, and by [`Fleet::tick`](super::Fleet::tick). Costs two readings of the
    /// clock.
    #[must_use]
    pub fn ttl(mut self, time_to_live: Duration) -> Self {
        self.time_to_live = Some(time_to_live);
        self.special = true;
        self
    }

    /// Sets who chooses among the agents that fit and have room. Default: nobody but the strategy, which
    /// with a picker says which agents it is shown. Costs the desk's lock, and in every shard, under its lock, a
    /// look at each set of capabilities that its agents have, at [`MAX_CANDIDATES`](super::MAX_CANDIDATES)
    /// agents of each set at most as long as they are among the best so far, and a copy of what is true of
    /// the best; and the picker's own time.
    ///
    /// If it has to wait, it waits as any other request, and the picker is then shown the one agent that came
    /// free for it; declining that ends the wait with [`AllocateError::PickDeclined`]. It does not wait while
    /// there is somebody to choose: if others take what it chose, time and again, that is
    /// [`AllocateError::PickLost`] for an allocation that may wait too; so it is if what came free for it has ended
    /// before it chose. It does not work for batches ([`AllocateError::PickerInBatch`]), and tasks have none: workers take agents for them.
    #[must_use]
    pub fn picker(mut self, picker: Arc<dyn Picker>) -> Self {
        self.particular = true;
        self.picker = Some(picker);
        self.special = true;
        self
    }

    /// Sets by when it is needed, on the fleet's clock: of requests that wait and are equally urgent, the
    /// one that is needed first is served first. It does not end the wait. Default: none.
    #[must_use]
    pub fn deadline(mut self, at: Timestamp) -> Self {
        self.deadline = Some(at);
        self
    }

    /// Whether it asks for any agent, in whatever order of urgency, and for as long as the holder likes.
    #[inline(always)]
    pub(super) const fn is_for_any(&self) -> bool {
        !self.particular && !self.special
    }

    /// Whether it asks for any agent, for however long.
    #[inline(always)]
    pub(super) const fn is_for_any_time(&self) -> bool {
        !self.particular
    }

    /// Whether its lease takes more than an agent.
    #[inline(always)]
    pub(super) const fn is_special(&self) -> bool {
        self.special
    }

    pub(super) const fn own_picker(&self) -> Option<&Arc<dyn Picker>> {
        self.picker.as_ref()
    }

    /// Sets whose budget the lease is charged to, beside those of the fleet, of the agent's type and of the
    /// agent. Default: nobody's. It matters in a fleet with [budgets](super::FleetBuilder::budgets).
    #[must_use]
    pub const fn group(mut self, group: GroupKey) -> Self {
        self.group = Some(group);
        self
    }

    /// The group whose budget it is on.
    #[must_use]
    pub const fn named_group(&self) -> Option<GroupKey> {
        self.group
    }

    pub(super) const fn time_to_live(&self) -> Option<Duration> {
        self.time_to_live
    }

    pub(super) const fn due(&self) -> Option<Timestamp> {
        self.deadline
    }

    pub(super) const fn fits(&self) -> Fit {
        self.fit
    }

    pub(super) const fn named_strategy(&self) -> Option<Strategy> {
        self.strategy
    }

    pub(super) const fn named_agent(&self) -> Option<AgentId> {
        self.agent
    }

    /// The mask that the capabilities have in a pool, if it is remembered.
    pub(super) fn remembered(&self, pool: u64) -> Option<Mask> {
        self.known.get().filter(|(known, _)| *known == pool).map(|(_, mask)| *mask)
    }

    pub(super) fn remember(&self, pool: u64, mask: Mask) {
        // The first pool stays; a request that goes to several is looked up by the others.
        let _ = self.known.set((pool, mask));
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
            .field("fit", &self.fit)
            .field("strategy", &self.strategy)
            .field("agent", &self.agent)
            .field("ttl", &self.time_to_live)
            .field("deadline", &self.deadline)
            .field("picker", &self.picker.is_some())
            .field("group", &self.group)
            .finish()
    }
}

impl PartialEq for Request {
    /// What is asked for; what a fleet remembers of it does not count.
    fn eq(&self, other: &Self) -> bool {
        self.capabilities == other.capabilities
            && self.priority == other.priority
            && self.fit == other.fit
            && self.strategy == other.strategy
            && self.agent == other.agent
            && self.time_to_live == other.time_to_live
            && self.deadline == other.deadline
            && same_picker(self.picker.as_ref(), other.picker.as_ref())
            && self.group == other.group
    }
}

impl Eq for Request {}

fn same_picker(one: Option<&Arc<dyn Picker>>, other: Option<&Arc<dyn Picker>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other)),
        (one, other) => one.is_none() && other.is_none(),
    }
}

pub(super) fn add_capability(names: &mut Vec<Arc<str>>, name: &str) {
    if !names.iter().any(|known| &**known == name) {
        names.push(Arc::from(name));
    }
}

/// Why no agent was allocated.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum AllocateError {
    /// Agents that fit exist, and all of them have as many leases as they may.
    #[error("every agent that fits is busy")]
    NoneIdle,
    /// A budget has no room for another lease: that of the fleet or the group, or those of all agents that fit
    /// and are not busy. It names one of them.
    #[error("no budget for a lease: {0}")]
    OverBudget(#[source] Box<Exceeded>),
    /// No live agent has the capabilities asked for, and none that has is [expected](super::Fleet::expect), so waiting
    /// would not help.
    #[error("no live agent has the capabilities asked for")]
    NoSuchCapability,
    /// The live agents that fit may not hold as many leases together as a batch asked for, and no others are
    /// [expected](super::Fleet::expect), so waiting would not help.
    #[error("the live agents that fit may not hold so many leases together")]
    TooFewPlaces,
    /// The agent that was asked for by name has ended.
    #[error("the agent asked for is gone")]
    AgentGone,
    /// The fleet keeps no order for the strategy asked for; its builder names those that it does.
    #[error("the fleet does not keep the strategy asked for")]
    StrategyNotKept,
    /// The timeout passed first.
    #[error("no agent became free in time")]
    Timeout,
    /// The request's picker wants none of the agents that it was shown.
    #[error("the picker declined every agent that it was shown")]
    PickDeclined,
    /// Others took what the request's picker chose, each time it was asked, or what came free for it has ended. Asking
    /// again may help.
    #[error("others took each agent that the picker chose, or it ended")]
    PickLost,
    /// The request's picker panicked, or chose what it was not shown.
    #[error("the picker panicked or chose what it was not shown")]
    PickerFailed,
    /// A picker chooses one agent at a time, and several were asked for at once.
    #[error("a picker chooses one agent at a time, and several were asked for at once")]
    PickerInBatch,
    /// As many requests wait already as the fleet allows.
    #[error("too many requests wait already")]
    TooManyWaiting,
    /// The fleet was shut down.
    #[error("the fleet was shut down")]
    Closed,
}

impl AllocateError {
    /// Whether it is about a picker, so that waiting for an agent does not mend it.
    pub(super) const fn is_picking(&self) -> bool {
        matches!(self, Self::PickDeclined | Self::PickLost | Self::PickerFailed)
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;
    use crate::fleet::agent::AgentStatus;

    struct First;

    impl Picker for First {
        fn pick(&self, _: &Request, _: &[AgentStatus]) -> Option<usize> {
            Some(0)
        }
    }

    #[test]
    fn requests_are_the_same_if_all_that_is_asked_for_is() {
        let own: Arc<dyn Picker> = Arc::new(First);
        let at = Timestamp::from_start(Duration::from_secs(1));
        let agent = AgentId { slot: 1, generation: 1 };
        let full = || {
            Request::any()
                .capability("rust")
                .priority(Priority::HIGH)
                .fit(Fit::Tightest)
                .strategy(Strategy::Priority)
                .agent(agent)
                .ttl(Duration::from_secs(2))
                .deadline(at)
                .picker(Arc::clone(&own))
                .group(GroupKey::new(3))
        };
        let remembered = full();
        remembered.remember(1, 1);
        assert_eq!(remembered, full(), "what a fleet remembers does not count");
        assert_eq!(Request::any(), Request::any());
        for other in [
            full().capability("go"),
            full().priority(Priority::LOW),
            full().fit(Fit::All),
            full().strategy(Strategy::RoundRobin),
            full().agent(AgentId { slot: 2, ..agent }),
            full().ttl(Duration::from_secs(1)),
            full().deadline(Timestamp::ZERO),
            full().picker(Arc::new(First)),
            Request { picker: None, ..full() },
            full().group(GroupKey::new(4)),
        ] {
            assert_ne!(other, full());
            assert_ne!(full(), other);
        }
    }
}
