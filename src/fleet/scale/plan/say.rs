//! What a plan says: what is to be done, why, and what was not done.

use super::super::super::AgentId;
#[cfg(doc)]
use super::{super::observation::Observation, plan};
use crate::Timestamp;

/// What a [`plan`] says to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Nothing now.
    Hold,
    /// Add agents, beside those that [serve again](Plan::restored).
    Spawn {
        /// How many: none if those that serve again are enough.
        agents: u32,
        /// What for.
        reason: UpReason,
    },
    /// Take agents out of service, let them finish what they were given meanwhile, and stop them; beside those that
    /// [hold leases](Plan::unrouted).
    Retire {
        /// Which ones: agents that were observed idle. None if there are none of these.
        agents: Vec<AgentId>,
        /// What for.
        reason: DownReason,
    },
}

/// Why agents are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UpReason {
    /// There are fewer than `min`.
    BelowMin,
    /// The leases held are above the band.
    Utilisation,
    /// More waits than the agents work off in time.
    Backlog,
    /// Demand is expected to leave the band.
    Forecast,
    /// Work takes longer than it may.
    ResponseTime,
    /// Demand exceeds what `max` agents can do.
    Burst,
}

/// Why agents are taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DownReason {
    /// There are more than `max + burst`.
    AboveMax,
    /// The demand is below the band.
    Utilisation,
    /// The demand of a burst is over.
    BurstOver,
    /// Memory is short.
    Memory,
}

/// What was measured, where a [`Refusal`] speaks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reading {
    /// [`Observation::cpu`].
    Cpu,
    /// [`Observation::memory`].
    Memory,
    /// [`Observation::forecast`].
    Forecast,
    /// [`Observation::response_time`].
    ResponseTime,
}

/// Why a plan does not do something, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// More agents are called for, and not for long enough yet.
    UpWindow {
        /// When it will have been long enough.
        until: Timestamp,
    },
    /// Fewer agents are called for, and not for long enough yet.
    DownWindow {
        /// When it will have been long enough.
        until: Timestamp,
    },
    /// The last step is too recent.
    Cooldown {
        /// When it no longer is.
        until: Timestamp,
    },
    /// The last step went the other way, and is too recent.
    Reversal {
        /// When it no longer is.
        until: Timestamp,
    },
    /// One step may not move this many.
    StepCap {
        /// How many are left for later steps.
        left: u32,
        /// When the next step may come.
        until: Timestamp,
    },
    /// There are as many as there may be, draining, failed and held back ones counted.
    AtMax,
    /// Agents that failed have the places of those that are called for.
    Failed {
        /// How many failed.
        agents: u32,
    },
    /// The circuit of their type is not closed: agents that are added would take no work.
    CircuitOpen,
    /// The circuit of their type is open, and there is none on whom it could be tried: one is added once it is time to.
    NextTrial {
        /// When it will be.
        until: Timestamp,
    },
    /// There are as few as there may be.
    AtMin,
    /// The share of CPU is at its ceiling.
    CpuCeiling,
    /// The share of memory is at its ceiling.
    MemoryCeiling,
    /// The agents that are to go hold leases and are not listed as [busy](Observation::busy), or would leave fewer that
    /// serve than are wanted, as others are starting.
    Busy {
        /// How many stay for that.
        agents: u32,
    },
    /// A forecast or a response time asks for more agents than it may: those that the demand would keep
    /// even if it were somewhat less.
    BeyondBand(Reading),
    /// A forecast or a response time asks for agents after memory pressure took some: only a step that the
    /// demand asks for ends that, or the two would work against each other for ever.
    Shed(Reading),
    /// The policy asks for a reading that there is none of.
    NotRead(Reading),
    /// A reading makes no sense, and counts as none.
    Senseless(Reading),
    /// The time given is earlier than the last one, which was used in its place.
    ClockWentBack,
}

impl Refusal {
    /// When this refusal ends by itself, if it is a matter of time.
    #[must_use]
    pub const fn until(self) -> Option<Timestamp> {
        match self {
            Self::UpWindow { until }
            | Self::DownWindow { until }
            | Self::Cooldown { until }
            | Self::Reversal { until }
            | Self::NextTrial { until }
            | Self::StepCap { until, .. } => Some(until),
            _ => None,
        }
    }
}

/// What is to be done about the number of agents now, and why.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// What to do.
    pub step: Step,
    /// The agents that are to end first, so that those that are added have their places: some that were observed
    /// [unmade](Observation::unmade), as many as are added, and as there are too many.
    pub replaced: Vec<AgentId>,
    /// The agents that are to serve again, first of all in a step up: some that were observed
    /// [leaving](Observation::leaving). With those that are added they make the step.
    pub restored: Vec<AgentId>,
    /// The agents that are to be unrouted in a step down, and stopped once their leases have ended, which nothing is done
    /// about: some that were observed [busy](Observation::busy), as many as idle ones do not suffice. With those that are
    /// retired they make the step.
    pub unrouted: Vec<AgentId>,
    /// How many of those that are replaced may stay though all are added.
    pub(in crate::fleet::scale) spare: u32,
    /// What was not done, and why.
    pub refusals: Vec<Refusal>,
    /// The leases that counted as called for, forecast and response time included.
    pub demand: f64,
    /// The agents that there were, starting ones included.
    pub current: u32,
    /// The agents that would meet the target for that demand, within `min` and `max + burst`.
    pub wanted: u32,
    /// When to plan again even if nothing happens before; `None` if time alone changes nothing.
    pub next_check: Option<Timestamp>,
}
