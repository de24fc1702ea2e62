//! The host's own choice among the agents that would do.

use super::agent::AgentStatus;
use super::request::Request;

/// How many agents a [`Picker`] is shown at most.
pub const MAX_CANDIDATES: usize = 64;

/// Chooses an agent where none of the [strategies](super::Strategy) does; set by [`Request::picker`].
///
/// It is called on the thread that asks, or that polls, under no lock of the fleet: it may take its time and
/// use the fleet. What it is shown was true at one moment of each agent. If the agent that it chose has no
/// room any more it is asked again with what is true then, a few times, each of them counted in
/// [`FleetStats::picks_lost`](super::FleetStats::picks_lost). No agent is leased that it did not choose.
///
/// ```
/// use phalanx::fleet::{AgentSpec, AgentStatus, Fleet, Picker, Request};
/// use std::sync::Arc;
///
/// /// Takes an agent of the zone it is for, and no other.
/// struct Zone(&'static str);
///
/// impl Picker for Zone {
///     fn pick(&self, _request: &Request, candidates: &[AgentStatus]) -> Option<usize> {
///         let here = |agent: &AgentStatus| agent.label("zone") == Some(self.0);
///         candidates.iter().position(here)
///     }
/// }
///
/// let fleet = Fleet::<(), ()>::builder().build()?;
/// fleet.spawn(AgentSpec::new("worker").label("zone", "north"))?;
/// let south = fleet.spawn(AgentSpec::new("worker").label("zone", "south"))?;
/// let lease = fleet.try_allocate(&Request::any().picker(Arc::new(Zone("south"))))?;
/// assert_eq!(lease.agent(), south);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Picker: Send + Sync {
    /// The place of the agent to take, or `None` if none of them will do.
    ///
    /// All of them fit the request and had room. They are the best by the request's strategy, at most
    /// [`MAX_CANDIDATES`], roughly in its order: exactly in a [strict](super::FleetBuilder::strict) fleet. A
    /// request that waited is shown the one agent that came free for it. A place that does not exist, and a
    /// panic, fail the allocation.
    fn pick(&self, request: &Request, candidates: &[AgentStatus]) -> Option<usize>;
}
