//! What carries plans out: it observes a fleet, plans, and adds or retires agents, on the host's thread.
//!
//! Rules that hold here:
//!
//! 1. Nothing happens between steps: there is no thread and no timer. The host steps, by tick, by event, or
//!    when the last plan said.
//! 2. An agent is retired only while it holds no lease and no work waits for it: one that got work since it
//!    was observed is kept, and counted as kept. One that could not be made and that others replace ends first, if
//!    nothing is asked of it alone still; as many fewer are added as lack its place.
//!    One that is unrouted while it holds leases ends in the first step in which it holds none, and nothing is done about
//!    them; if the host takes it over before, it is the host's. Whether more is asked of one that a plan names is seen in
//!    the step that would unroute it: the next of those that hold leases go in the places of such ones.
//! 3. An autoscaler keeps no fleet alive.
//! 4. While it stands, agents of its spec are expected: what they could do waits where none lives.
//! 5. As it goes, those that it unrouted and that live serve again: nobody else would end them.

use std::fmt;
use std::time::Duration;

#[cfg(doc)]
use super::super::FleetEvent;
use super::super::pool::NotIdle;
use super::super::stop::Unasked;
use super::super::{AgentId, AgentSpec, Expectation, Fleet, WeakFleet};
use super::forecast::{Backtest, Forecaster};
use super::observation::Observation;
use super::plan::{Plan, ScaleState, Step, plan};
use super::policy::ScalePolicy;
use super::system::SystemReader;
use crate::{Error, ErrorKind, Timestamp};

/// What a step of an [`Autoscaler`] did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Scaled {
    /// What was to be done, and why.
    pub plan: Plan,
    /// The agents that ended so that those that were added have their places: their handlers could not be made.
    pub replaced: Vec<AgentId>,
    /// The agents that were added.
    pub spawned: Vec<AgentId>,
    /// The agents that serve again, which a step before had unrouted.
    pub restored: Vec<AgentId>,
    /// The agents that were retired, those included that a step before had unrouted and that hold no lease any more.
    pub retired: Vec<AgentId>,
    /// The agents that were unrouted: they hold leases, and are retired once they hold none.
    pub unrouted: Vec<AgentId>,
    /// The agents that were to be retired or unrouted, and got work or ended in between, or of which more is asked than the
    /// leases that they hold.
    pub kept: Vec<AgentId>,
}

/// What an [`Autoscaler`] has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScaleStats {
    /// Steps that were made.
    pub steps: u64,
    /// Agents that were added.
    pub spawned: u64,
    /// Agents that ended so that others have their places: their handlers could not be made.
    pub replaced: u64,
    /// Agents that serve again after a step had unrouted them.
    pub restored: u64,
    /// Agents that were retired.
    pub retired: u64,
    /// Agents that were unrouted while they held leases.
    pub unrouted: u64,
    /// Agents that were to be retired or unrouted, and were [kept](Scaled::kept).
    pub kept: u64,
    /// Steps whose agents could not be added.
    pub spawns_failed: u64,
    /// Readings of the system that failed.
    pub readings_failed: u64,
}

/// Keeps as many agents of one spec as the work calls for.
///
/// It is stepped by the host, on whatever thread: [`step`](Self::step) observes, plans and acts at once,
/// and never waits. Step it on a tick; or on events and when [`next_check`](Self::next_check) is due: on
/// [`TasksWait`](FleetEvent::TasksWait) and [`RequestsWait`](FleetEvent::RequestsWait) more is called for, once
/// agents [failed](FleetEvent::AgentFailed) or were [killed](FleetEvent::AgentKilled) or a
/// [circuit closed](FleetEvent::CircuitClosed) perhaps, and as tasks [end](FleetEvent::TaskSettled) perhaps less. Of the
/// end of a lease that the host holds no event tells, nor of a budget that is raised
/// ([`Budgets::set`](super::super::Budgets::set)), or that others give back to, for which work has waited: whoever has budgets
/// ticks too.
///
/// While it stands, agents of its spec are [expected](Fleet::expect): where none lives, work for them waits.
///
/// Where fewer agents are called for than there are, idle ones are retired. If those do not suffice, as where agents may
/// hold several leases each and none is ever idle, some that hold leases are unrouted, those with the fewest first:
/// never one that is on trial, or that can do more than its spec asks for, or of which a message, a task or a request of
/// its own is asked. As in a [drain](Fleet::drain_agent) they are allocated no more and take no new messages and tasks of
/// their own, whoever has a lease keeps it for as long as it likes, and each is retired in the first step in which it
/// holds none. If more agents are called for before that, they serve again before any are added. The host may have one
/// [serve again](Fleet::set_condition), unroute it for good, drain or kill it at any time: from then on it is the host's.
/// Agents that the host unrouted never serve again by an autoscaler. Dropping the autoscaler has those serve again that
/// it unrouted and that live still.
///
/// Agents that are [prewarmed](AgentSpec::prewarmed) and whose factory fails have failed for good, unless a restart
/// policy says otherwise. Such ones, of which nothing is asked, end as others are added in their places
/// ([`Scaled::replaced`]): so an outage leaves no type without room. With a
/// [breaker](super::super::FleetBuilder::breaker) one is added each time that the circuit is half-open, and as many
/// as are called for once it has closed; without one, at each step that is due.
///
/// ```
/// use phalanx::fleet::scale::{Autoscaler, ScalePolicy};
/// use phalanx::fleet::{AgentSpec, Fleet, Request};
/// use std::time::Duration;
///
/// let fleet = Fleet::<(), ()>::builder().build()?;
/// let policy = ScalePolicy::builder().min(2).max(10).up_window(Duration::ZERO).build()?;
/// let mut scaler = Autoscaler::new(&fleet, AgentSpec::new("crawler"), policy);
///
/// assert_eq!(scaler.step()?.spawned.len(), 2);
/// let _busy = [fleet.try_allocate(&Request::any())?, fleet.try_allocate(&Request::any())?];
/// let next = scaler.next_check();
/// # let _ = next;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Autoscaler<T = (), O = ()> {
    fleet: WeakFleet<T, O>,
    spec: AgentSpec<T, O>,
    /// Rule 4; none if the fleet refused it so far.
    expected: Option<Expectation>,
    policy: ScalePolicy,
    state: ScaleState,
    forecast: Option<Backtest>,
    system: Option<SystemReader>,
    flow: Flow,
    stats: ScaleStats,
    next_check: Option<Timestamp>,
    /// Those that it unrouted, until they end or somebody else has them.
    leaving: Vec<AgentId>,
}

/// How long leases are held and how long work takes with its waiting, by Little's law: those held, or there, on average,
/// by those that end in a time.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    last: Option<(Timestamp, Stock)>,
    service: Option<Duration>,
    response: Option<Duration>,
}

/// What is there of work at one moment.
#[derive(Clone, Copy, Debug)]
struct Stock {
    /// Leases that are held.
    held: u64,
    /// Tasks and requests that wait for one.
    waiting: u64,
    /// Leases that have ended.
    ended: u64,
}

impl Flow {
    /// The least time between two looks, so that enough leases end in between.
    const APART: Duration = Duration::from_millis(100);

    fn look(&mut self, now: Timestamp, stock: Stock) {
        let Some((at, then)) = self.last else {
            self.last = Some((now, stock));
            return;
        };
        if now - at < Self::APART {
            return;
        }
        self.last = Some((now, stock));
        let ended = stock.ended.saturating_sub(then.ended);
        if ended > 0 {
            let each = (now - at).as_secs_f64() / ended as f64;
            let time = |then: u64, now: u64| {
                Duration::try_from_secs_f64((then as f64 + now as f64) / 2.0 * each).ok()
            };
            self.service = time(then.held, stock.held);
            self.response = time(then.held + then.waiting, stock.held + stock.waiting);
        }
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Autoscaler<T, O> {
    /// One that keeps agents of this spec in this fleet. Agents of the spec's name that are there already
    /// count, whoever spawned them.
    ///
    /// From now on until it is dropped agents of the spec are [expected](Fleet::expect): where none lives, work for them
    /// waits rather than being refused. If the fleet refuses that, each step tries it again and says so.
    #[must_use]
    pub fn new(fleet: &Fleet<T, O>, spec: AgentSpec<T, O>, policy: ScalePolicy) -> Self {
        Self {
            fleet: fleet.downgrade(),
            expected: fleet.expect(&spec).ok(),
            spec,
            policy,
            state: ScaleState::new(),
            forecast: None,
            system: None,
            flow: Flow::default(),
            stats: ScaleStats::default(),
            next_check: None,
            leaving: Vec::new(),
        }
    }

    /// Has it look ahead. Default: it does not. Each observation is a sample of demand.
    #[must_use]
    pub fn forecast(mut self, forecast: Backtest) -> Self {
        self.forecast = Some(forecast);
        self
    }

    /// Has it read CPU and memory from the system at each step. Default: it does not. Each reading
    /// opens some ten small files.
    #[must_use]
    pub fn system(mut self, system: SystemReader) -> Self {
        self.system = Some(system);
        self
    }

    /// What it may do.
    #[must_use]
    pub const fn policy(&self) -> &ScalePolicy {
        &self.policy
    }

    /// Sets what it may do from the next step on; windows and cooldowns go on.
    pub const fn set_policy(&mut self, policy: ScalePolicy) {
        self.policy = policy;
    }

    /// When to step again even if nothing happens before, by the fleet's clock; `None` if time alone
    /// changes nothing.
    #[must_use]
    pub const fn next_check(&self) -> Option<Timestamp> {
        self.next_check
    }

    /// What it has done so far.
    #[must_use]
    pub const fn stats(&self) -> ScaleStats {
        self.stats
    }

    /// Observes the fleet: its agents, its work, how long leases are held, and what forecast and system say.
    ///
    /// How long leases are held, and how long work takes from its acceptance to its end, it knows as averages over the
    /// whole fleet between this observation and one at least 100 ms earlier, by Little's law: what there was of them
    /// at both, by how many leases ended in between. So nothing is measured for each task; and where agents of several
    /// kinds do work of very different length, the host knows better, and sets
    /// [its own](Self::step_with). Tasks that wait for others, for a time or in a mailbox do not count as waiting. A
    /// reading of the system that fails is counted and left out, and a policy that asks for it says so in its plan.
    ///
    /// # Errors
    /// `Closed` if the fleet is gone.
    pub fn observe(&mut self) -> Result<Observation, Error> {
        let fleet = self.fleet()?;
        let now = fleet.inner().clock.now();
        // A lease that has expired is no load.
        fleet.tick();
        let queued = fleet.inner().state.lock().queue.len() as u64;
        let tally = fleet.inner().pool.tally();
        let (held, waiting) = (tally.leases.held(), queued + tally.waiting);
        self.flow.look(now, Stock { held, waiting, ended: tally.leases.granted() - held });
        let mut seen = fleet.observe(&self.spec);
        seen.service_time = self.flow.service;
        seen.response_time = self.flow.response;
        if let Some(system) = &mut self.system {
            match system.read() {
                Ok(reading) => seen = reading.observe(seen),
                Err(_) => self.stats.readings_failed += 1,
            }
        }
        if let Some(forecast) = &mut self.forecast {
            forecast.observe(now, seen.demand(self.policy.backlog_within));
            seen.forecast = forecast.forecast(now + forecast.horizon());
        }
        Ok(seen)
    }

    /// Observes, plans, and does what the plan says.
    ///
    /// # Errors
    /// As [`step_with`](Self::step_with).
    pub fn step(&mut self) -> Result<Scaled, Error> {
        self.step_with(|seen| seen)
    }

    /// The same, with an observation that the host completes: by a percentile of the response times in place of
    /// their average, by readings of its own.
    ///
    /// # Errors
    /// `Closed` if the fleet is gone or was shut down, and whatever [`Fleet::spawn_batch`] says. The step
    /// counts as taken: the next one comes after its cooldown. Agents that were to be replaced have ended then, those that
    /// were to serve again do, and those that had been unrouted and hold no lease any more have ended, all of which
    /// [`ScaleStats`] counts. Whatever [`Fleet::expect`] says, if that was refused so far; nothing is planned then.
    pub fn step_with(
        &mut self,
        complete: impl FnOnce(Observation) -> Observation,
    ) -> Result<Scaled, Error> {
        let fleet = self.fleet()?;
        if self.expected.is_none() {
            self.expected = Some(fleet.expect(&self.spec)?);
        }
        let seen = complete(self.observe()?);
        let plan = plan(&seen, &self.policy, &mut self.state, fleet.inner().clock.now());
        self.stats.steps += 1;
        self.next_check = plan.next_check;
        let (mut replaced, mut spawned) = (Vec::new(), Vec::new());
        let (mut unrouted, mut kept) = (Vec::new(), Vec::new());
        // Before they would end.
        let restored = fleet.inner().serve_again(&plan.restored);
        self.stats.restored += restored.len() as u64;
        self.leaving.retain(|agent| !restored.contains(agent));
        let mut retired = self.end_leavers(&fleet);
        match &plan.step {
            Step::Hold => {}
            Step::Spawn { agents, .. } => {
                // Rule 2.
                let ends = |agent: &&AgentId| {
                    fleet.inner().end_unasked(**agent, Unasked::Replaced).is_ok()
                };
                replaced.extend(plan.replaced.iter().filter(ends));
                self.stats.replaced += replaced.len() as u64;
                let kept = plan.replaced.len() - replaced.len();
                let lacking = kept.saturating_sub(plan.spare as usize);
                let agents = (*agents as usize).saturating_sub(lacking);
                if agents > 0 {
                    let added = fleet.spawn_batch(&self.spec, agents);
                    self.stats.spawns_failed += u64::from(added.is_err());
                    spawned = added?;
                }
            }
            Step::Retire { agents, .. } => {
                for agent in agents {
                    // Rule 2.
                    let is_retired = fleet.retire(*agent).is_ok();
                    self.stats.retired += u64::from(is_retired);
                    (if is_retired { &mut retired } else { &mut kept }).push(*agent);
                }
                if !plan.unrouted.is_empty() {
                    let leavers = fleet.inner().let_leave(&seen.busy, plan.unrouted.len());
                    unrouted = leavers.unrouted;
                    kept.extend(leavers.kept);
                    self.leaving.extend(&unrouted);
                }
            }
        }
        self.stats.spawned += spawned.len() as u64;
        self.stats.unrouted += unrouted.len() as u64;
        self.stats.kept += kept.len() as u64;
        Ok(Scaled { plan, replaced, spawned, restored, retired, unrouted, kept })
    }

    /// Ends those that it unrouted and that hold no lease any more (rule 2); which those are.
    fn end_leavers(&mut self, fleet: &Fleet<T, O>) -> Vec<AgentId> {
        let mut ended = Vec::new();
        self.leaving.retain(|agent| match fleet.inner().end_unasked(*agent, Unasked::Left) {
            Ok(()) => {
                ended.push(*agent);
                false
            }
            Err(why) => why == NotIdle::Busy,
        });
        self.stats.retired += ended.len() as u64;
        ended
    }

    fn fleet(&self) -> Result<Fleet<T, O>, Error> {
        let gone = || Error::new(ErrorKind::Closed, "the fleet that is scaled is gone");
        self.fleet.upgrade().ok_or_else(gone)
    }
}

impl<T, O> Drop for Autoscaler<T, O> {
    fn drop(&mut self) {
        // Rule 5.
        if let (false, Some(fleet)) = (self.leaving.is_empty(), self.fleet.upgrade()) {
            fleet.core.inner.serve_again(&self.leaving);
        }
    }
}

impl<T, O> fmt::Debug for Autoscaler<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Autoscaler")
            .field("spec", &self.spec)
            .field("policy", &self.policy)
            .field("forecast", &self.forecast)
            .field("system", &self.system)
            .field("stats", &self.stats)
            .field("next_check", &self.next_check)
            .finish_non_exhaustive()
    }
}
