//! What is true of a fleet at one moment, as far as scaling asks.

use std::time::Duration;

use super::super::AgentId;
use crate::Timestamp;

/// What is true of the agents of one kind, and of what is asked of them, at one moment.
///
/// It is plain data with a setter for each field, so that a host can make one from its own numbers. What
/// is not known is left out, and a plan says where it had to do without. Shares and counts that make no
/// sense (a NaN, a negative number) count as not known, and the plan says that too.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Observation {
    /// Agents that are coming up and take no work yet. They count as there: what was asked for once is not
    /// asked for again.
    pub starting: u32,
    /// Agents that take work, idle ones included.
    pub serving: u32,
    /// Agents that take no more work and are on their way out, those that are [leaving](Self::leaving) included. They
    /// count towards the greatest number there may be, and towards nothing else.
    pub draining: u32,
    /// Agents that have failed and take no work now, whether they will be started again or not, those apart that are
    /// [held back](Self::held_back). They count towards the greatest number there may be, and towards nothing else, but
    /// for where [`circuit_open`](Self::circuit_open) says so.
    pub failed: u32,
    /// Those of the [failed](Self::failed) that never could be made ready, that hold no lease and of which nothing is
    /// asked. Each gives its place to one that is added, so that what could not be made uses up no place for good.
    pub unmade: Vec<AgentId>,
    /// Agents that take no work because the circuit of their type is not closed, and those that are started again while
    /// it is not: one of them can be tried. They count as there.
    pub held_back: u32,
    /// Whether the circuit of their type is not closed, so that new agents would take no work either. None is added
    /// then but up to the fewest there are to be, those that have failed included, and one where there is none that could
    /// be tried, once [it is time](Self::next_trial): a circuit closes by trying one.
    pub circuit_open: bool,
    /// When somebody can be tried next, where the circuit is open still; `None` where it is half-open and
    /// somebody can be tried now, or closed.
    pub next_trial: Option<Timestamp>,
    /// The leases that one agent may hold. Zero counts as one.
    pub leases_per_agent: u32,
    /// Leases held on agents that serve, or that are [leaving](Self::leaving): what is asked for is no less because some
    /// of it is still done by those, and the others will be asked for it next.
    pub leases: u64,
    /// Tasks and requests that wait for an agent, and for nothing else.
    pub queued: u64,
    /// The places that a batch needs at one time: of those that wait, the one that needs most of them. However short the
    /// work is, fewer would never serve it.
    pub at_once: u64,
    /// How long a lease is held, on average.
    pub service_time: Option<Duration>,
    /// How long it takes from asking to the end of the work, by the percentile that the host cares about; what an
    /// [`Autoscaler`](super::Autoscaler) observes is the average.
    pub response_time: Option<Duration>,
    /// The share of CPU in use, in `[0, 1]`.
    pub cpu: Option<f64>,
    /// The share of memory in use, in `[0, 1]`.
    pub memory: Option<f64>,
    /// The [demand](Self::demand) that is expected by the time at which agents spawned now would serve.
    pub forecast: Option<f64>,
    /// Serving agents that hold no lease, those first that are to go first. Only these are ever planned to be retired, so
    /// a host may list just some.
    pub idle: Vec<AgentId>,
    /// Serving agents that hold leases, those first that are to go first: with the fewest leases, as a rule. Only these
    /// are ever planned to be [unrouted](super::Plan::unrouted), so a host may list just some, or none.
    pub busy: Vec<AgentId>,
    /// Those of the [draining](Self::draining) that plans had unrouted, those first that are to serve again first. No
    /// others are ever planned to be [restored](super::Plan::restored).
    pub leaving: Vec<AgentId>,
}

impl Observation {
    /// Nothing observed yet: no agents and no work.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`starting`](Self::starting).
    #[must_use]
    pub fn with_starting(mut self, agents: u32) -> Self {
        self.starting = agents;
        self
    }

    /// Sets [`serving`](Self::serving).
    #[must_use]
    pub fn with_serving(mut self, agents: u32) -> Self {
        self.serving = agents;
        self
    }

    /// Sets [`draining`](Self::draining).
    #[must_use]
    pub fn with_draining(mut self, agents: u32) -> Self {
        self.draining = agents;
        self
    }

    /// Sets [`failed`](Self::failed).
    #[must_use]
    pub fn with_failed(mut self, agents: u32) -> Self {
        self.failed = agents;
        self
    }

    /// Sets [`unmade`](Self::unmade).
    #[must_use]
    pub fn with_unmade(mut self, agents: Vec<AgentId>) -> Self {
        self.unmade = agents;
        self
    }

    /// Sets [`held_back`](Self::held_back).
    #[must_use]
    pub fn with_held_back(mut self, agents: u32) -> Self {
        self.held_back = agents;
        self
    }

    /// Sets [`circuit_open`](Self::circuit_open).
    #[must_use]
    pub fn with_circuit_open(mut self, open: bool) -> Self {
        self.circuit_open = open;
        self
    }

    /// Sets [`next_trial`](Self::next_trial).
    #[must_use]
    pub fn with_next_trial(mut self, at: Timestamp) -> Self {
        self.next_trial = Some(at);
        self
    }

    /// Sets [`leases_per_agent`](Self::leases_per_agent).
    #[must_use]
    pub fn with_leases_per_agent(mut self, leases: u32) -> Self {
        self.leases_per_agent = leases;
        self
    }

    /// Sets [`leases`](Self::leases).
    #[must_use]
    pub fn with_leases(mut self, leases: u64) -> Self {
        self.leases = leases;
        self
    }

    /// Sets [`queued`](Self::queued).
    #[must_use]
    pub fn with_queued(mut self, queued: u64) -> Self {
        self.queued = queued;
        self
    }

    /// Sets [`at_once`](Self::at_once).
    #[must_use]
    pub fn with_at_once(mut self, leases: u64) -> Self {
        self.at_once = leases;
        self
    }

    /// Sets [`service_time`](Self::service_time).
    #[must_use]
    pub fn with_service_time(mut self, time: Duration) -> Self {
        self.service_time = Some(time);
        self
    }

    /// Sets [`response_time`](Self::response_time).
    #[must_use]
    pub fn with_response_time(mut self, time: Duration) -> Self {
        self.response_time = Some(time);
        self
    }

    /// Sets [`cpu`](Self::cpu).
    #[must_use]
    pub fn with_cpu(mut self, share: f64) -> Self {
        self.cpu = Some(share);
        self
    }

    /// Sets [`memory`](Self::memory).
    #[must_use]
    pub fn with_memory(mut self, share: f64) -> Self {
        self.memory = Some(share);
        self
    }

    /// Sets [`forecast`](Self::forecast).
    #[must_use]
    pub fn with_forecast(mut self, demand: f64) -> Self {
        self.forecast = Some(demand);
        self
    }

    /// Sets [`idle`](Self::idle).
    #[must_use]
    pub fn with_idle(mut self, agents: Vec<AgentId>) -> Self {
        self.idle = agents;
        self
    }

    /// Sets [`busy`](Self::busy).
    #[must_use]
    pub fn with_busy(mut self, agents: Vec<AgentId>) -> Self {
        self.busy = agents;
        self
    }

    /// Sets [`leaving`](Self::leaving).
    #[must_use]
    pub fn with_leaving(mut self, agents: Vec<AgentId>) -> Self {
        self.leaving = agents;
        self
    }

    /// The agents that serve or are about to.
    #[must_use]
    pub const fn current(&self) -> u32 {
        self.starting.saturating_add(self.serving)
    }

    /// The leases that work calls for now: those held, and as many as it takes to work off what waits
    /// `within` this time.
    ///
    /// By Little's law that is what waits times the service time, divided by `within`; never more than a
    /// lease for each that waits, which is also what counts while the service time is not known. A service
    /// time of zero counts as a nanosecond: what waits is never nothing. It is no less than what a batch needs
    /// [at once](Self::at_once). It is what a forecaster of demand is fed.
    #[must_use]
    pub fn demand(&self, within: Duration) -> f64 {
        let queued = self.queued as f64;
        let share = match self.service_time {
            Some(time) if time < within => {
                time.max(Duration::from_nanos(1)).as_secs_f64() / within.as_secs_f64()
            }
            _ => 1.0,
        };
        (self.leases as f64 + queued * share).max(self.at_once as f64)
    }

    pub(super) fn slots_of(&self, agents: u32) -> f64 {
        f64::from(agents) * self.slots_per_agent()
    }

    pub(super) fn slots_per_agent(&self) -> f64 {
        f64::from(self.leases_per_agent.max(1))
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_backlog_asks_for_the_slots_that_work_it_off_in_time() {
        let seen = Observation::new().with_leases(10).with_queued(100);
        let known = seen.clone().with_service_time(SECOND);
        assert_eq!(known.demand(SECOND * 5), 30.0);
    }

    #[test]
    fn a_backlog_never_asks_for_more_than_a_slot_each() {
        let seen = Observation::new().with_leases(10).with_queued(100);
        assert_eq!(seen.demand(SECOND), 110.0, "an unknown service time");
        assert_eq!(seen.clone().with_service_time(SECOND * 9).demand(SECOND), 110.0);
        assert_eq!(seen.clone().with_service_time(SECOND).demand(Duration::ZERO), 110.0);
        assert_eq!(seen.with_service_time(Duration::ZERO).demand(Duration::ZERO), 110.0);
    }

    #[test]
    fn a_batch_asks_for_what_it_needs_at_one_time_however_short_the_work_is() {
        let seen = Observation::new().with_queued(5).with_service_time(SECOND / 1000);
        assert_eq!(seen.demand(SECOND), 0.005);
        let seen = seen.with_at_once(5);
        assert_eq!(seen.demand(SECOND), 5.0);
        assert_eq!(
            seen.with_leases(7).demand(SECOND),
            7.005,
            "those that are held come back to it"
        );
    }

    #[test]
    fn numbers_of_any_size_are_taken() {
        let most = Observation::new()
            .with_starting(u32::MAX)
            .with_serving(u32::MAX)
            .with_leases_per_agent(u32::MAX)
            .with_leases(u64::MAX)
            .with_queued(u64::MAX)
            .with_at_once(u64::MAX);
        assert_eq!(most.current(), u32::MAX);
        assert!(most.demand(Duration::MAX).is_finite());
        assert!(most.slots_of(u32::MAX).is_finite());
        assert_eq!(Observation::new().slots_of(3), 3.0, "zero leases count as one");
    }
}
