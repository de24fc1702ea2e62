//! The pure function from what is observed and allowed to what is to be done.
//!
//! Rules that hold for every plan, whatever is observed:
//!
//! 1. No plan takes agents away below `min`, adds some above `max + burst` (draining, failed and held back ones counted),
//!    or does both at once. While the circuit of their type is not closed, none adds any but up to `min`, failed ones
//!    counted, and one where there is none on whom it could be tried, once it is time to.
//! 2. Only agents listed as idle are retired. Those listed as busy are unrouted as far as idle ones do not suffice, and
//!    so that as many serve still as are wanted; those listed as leaving serve again before any is added. Those listed as
//!    unmade end as others are added in their places: while the circuit is not closed, for the one on whom it is tried
//!    alone.
//! 3. A step up comes `up_cooldown` or more after any step, a step down `down_cooldown` or more, and
//!    a step against the last one `reverse_after` or more. No step exceeds its cap, those that are unrouted and those
//!    that serve again counted. Filling up to `min` is
//!    exempt, but for those that make up for failed ones: they come `up_cooldown` or more after the last of these, and
//!    after any step before the failed ones were found missing.
//! 4. After a step within its cap the fleet is in neither breach for the demand it was made for, and as far
//!    from both as noise may be: the target lies inside the band, a forecast and a response time lead no
//!    further than halfway from there to `low`, and memory pressure no further than halfway to `high`. The demand is
//!    no less for the leases of those that are unrouted, so that this holds as they end too.
//! 5. More load, all else equal, never plans fewer agents.
//! 6. A plan without a step says what held it back, and when that ends if it is a matter of time.

mod say;

use std::time::Duration;

pub use say::{DownReason, Plan, Reading, Refusal, Step, UpReason};

use super::super::AgentId;
use super::observation::Observation;
use super::policy::ScalePolicy;
use super::window::Window;
use crate::Timestamp;

/// How far below its ceiling a share has to fall until growth goes on, or to half of it.
const RELEASE: f64 = 0.05;
/// What floats that should be equal may differ by, in leases.
const SLACK: f64 = 1e-6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// What a [`plan`] has to remember of those before it: three windows, the last step, two brakes.
///
/// A planned step counts as taken. It is of bounded size (some 6 KiB at most), and plain data: a clone plans
/// the same.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScaleState {
    now: Timestamp,
    /// Raised demand, over the window of scaling up.
    up: Window,
    /// Observed demand, over the window of scaling down.
    down: Window,
    /// Raised demand, over the window of scaling down.
    down_raised: Window,
    last_step: Option<(Timestamp, Direction)>,
    /// While failed ones are missing: the last step before that was found, or that made up for some.
    made_up: Option<Timestamp>,
    cpu_braked: bool,
    memory_braked: bool,
    /// Whether memory pressure took agents that no demand has asked back since.
    shed: bool,
}

impl ScaleState {
    /// Nothing observed and nothing done yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// When the last step was planned.
    #[must_use]
    pub fn last_step(&self) -> Option<Timestamp> {
        self.last_step.map(|(at, _)| at)
    }
}

/// Says what is to be done about the number of agents.
///
/// The same arguments give the same plan: it reads no clock, asks nobody and remembers only in `state`.
/// The rules are in [`ScalePolicy`]; a plan holds one step at most, retires no agent that is not listed as
/// [idle](Observation::idle), and unroutes none that is not listed as [busy](Observation::busy).
///
/// It may be called as often as the host likes, on a tick or on an event: windows and cooldowns count
/// time, not calls. "For so long" means that every observation of that time agreed, however many there
/// were; [`Plan::next_check`] says when to call again if nothing happens before. Deciding takes
/// the same time for any number of agents; the ids of those that are to go are copied.
///
/// ```
/// use phalanx::Timestamp;
/// use phalanx::fleet::scale::{Observation, ScalePolicy, ScaleState, Step, UpReason, plan};
/// use std::time::Duration;
///
/// let policy = ScalePolicy::builder().min(1).max(100).up_window(Duration::from_secs(2)).build()?;
/// let mut state = ScaleState::new();
/// let start = Timestamp::ZERO;
/// let overrun = Observation::new().with_serving(10).with_leases(10).with_queued(4);
///
/// // Fourteen leases are called for and ten can be held; but not for long enough yet.
/// let first = plan(&overrun, &policy, &mut state, start);
/// assert_eq!(first.step, Step::Hold);
/// assert_eq!(first.next_check, Some(start + Duration::from_secs(2)));
///
/// let second = plan(&overrun, &policy, &mut state, start + Duration::from_secs(2));
/// assert_eq!(second.step, Step::Spawn { agents: 10, reason: UpReason::Backlog });
/// # Ok::<(), phalanx::Error>(())
/// ```
pub fn plan(
    observation: &Observation,
    policy: &ScalePolicy,
    state: &mut ScaleState,
    now: Timestamp,
) -> Plan {
    let mut planner = Planner {
        seen: observation,
        policy,
        current: observation.current(),
        now: now.max(state.now),
        replaced: 0,
        restored: 0,
        unrouted: 0,
        spare: 0,
        refusals: Vec::new(),
    };
    if now < state.now {
        planner.refusals.push(Refusal::ClockWentBack);
    }
    let now = planner.now;
    state.now = now;
    let demand = planner.demand(state.shed);
    state.up.push(now, demand.total, policy.up_window);
    state.down.push(now, demand.observed, policy.down_window);
    state.down_raised.push(now, demand.total, policy.down_window);
    planner.set_brakes(state);
    let step = planner.step(state, &demand);
    match step {
        Step::Spawn { .. } => state.last_step = Some((now, Direction::Up)),
        Step::Retire { .. } => state.last_step = Some((now, Direction::Down)),
        Step::Hold => {}
    }
    match step {
        Step::Retire { reason: DownReason::Memory, .. } => state.shed = true,
        Step::Spawn { .. } | Step::Retire { .. } => state.shed = false,
        Step::Hold => {}
    }
    Plan {
        step,
        replaced: listed(&observation.unmade, planner.replaced),
        restored: listed(&observation.leaving, planner.restored),
        unrouted: listed(&observation.busy, planner.unrouted),
        spare: planner.spare,
        demand: demand.total,
        current: planner.current,
        wanted: planner.agents_for(demand.total).clamp(policy.min, policy.hard_max()),
        next_check: planner.refusals.iter().filter_map(|refusal| refusal.until()).min(),
        refusals: planner.refusals,
    }
}

/// The first of those that are listed.
fn listed(agents: &[AgentId], count: u32) -> Vec<AgentId> {
    agents[..count as usize].to_vec()
}

fn count(agents: &[AgentId]) -> u32 {
    u32::try_from(agents.len()).unwrap_or(u32::MAX)
}

struct Demand {
    /// What leases and backlog call for.
    observed: f64,
    /// That, raised by forecast and response time.
    total: f64,
    /// What raised it.
    raised_by: Option<UpReason>,
    /// Whether nothing may raise it.
    shed: bool,
}

struct Planner<'a> {
    seen: &'a Observation,
    policy: &'a ScalePolicy,
    current: u32,
    now: Timestamp,
    /// How many that could not be made give their places to those that are added.
    replaced: u32,
    /// How many of those that leave are to serve again.
    restored: u32,
    /// How many of those that are busy are to leave.
    unrouted: u32,
    /// How many of those that are replaced need not.
    spare: u32,
    refusals: Vec<Refusal>,
}

impl Planner<'_> {
    /// The agents that meet the target for so many leases.
    fn agents_for(&self, leases: f64) -> u32 {
        // The cast saturates. Work that is less than the slack needs an agent too.
        let agents = leases / (self.policy.target * self.seen.slots_per_agent()) - SLACK;
        (agents.ceil() as u32).max(u32::from(leases > 0.0))
    }

    /// The leases above which there are too few agents.
    fn too_many_leases_for(&self, agents: u32) -> f64 {
        if agents == 0 { 0.0 } else { self.policy.high * self.seen.slots_of(agents) + SLACK }
    }

    /// A share or a count that can be reckoned with.
    fn usable(&mut self, value: Option<f64>, reading: Reading) -> Option<f64> {
        let value = value?;
        if value.is_finite() && value >= 0.0 {
            return Some(value);
        }
        self.refusals.push(Refusal::Senseless(reading));
        None
    }

    fn demand(&mut self, shed: bool) -> Demand {
        let policy = self.policy;
        let observed = self.seen.demand(policy.backlog_within);
        let mut demand = Demand { observed, total: observed, raised_by: None, shed };
        // Rule 4: the most agents that are well inside the band, and the leases that call for them.
        let halfway = (policy.low + policy.target) / 2.0;
        let kept = (observed / (halfway * self.seen.slots_per_agent())).floor() as u32;
        let most = policy.target * self.seen.slots_of(kept.min(policy.max));
        let forecast = self.usable(self.seen.forecast, Reading::Forecast);
        self.raise(&mut demand, most, forecast, Reading::Forecast, UpReason::Forecast);
        if let Some(allowed) = policy.response_time {
            let slow = match self.seen.response_time {
                None => {
                    self.refusals.push(Refusal::NotRead(Reading::ResponseTime));
                    None
                }
                Some(time) if time > allowed => {
                    let times = time.as_secs_f64() / allowed.as_secs_f64();
                    Some(policy.target * self.seen.slots_of(self.current) * times)
                }
                Some(_) => None,
            };
            self.raise(&mut demand, most, slow, Reading::ResponseTime, UpReason::ResponseTime);
        }
        demand
    }

    fn raise(
        &mut self,
        demand: &mut Demand,
        most: f64,
        asked: Option<f64>,
        reading: Reading,
        reason: UpReason,
    ) {
        let Some(asked) = asked else { return };
        if asked > most.max(demand.observed) {
            self.refusals.push(Refusal::BeyondBand(reading));
        }
        let raised = asked.min(most);
        if raised > demand.total && demand.shed {
            self.refusals.push(Refusal::Shed(reading));
        } else if raised > demand.total {
            demand.total = raised;
            demand.raised_by = Some(reason);
        }
    }

    fn set_brakes(&mut self, state: &mut ScaleState) {
        let policy = self.policy;
        let cpu = self.usable(self.seen.cpu, Reading::Cpu);
        let memory = self.usable(self.seen.memory, Reading::Memory);
        state.cpu_braked = self.brake(policy.cpu_ceiling, cpu, Reading::Cpu, state.cpu_braked);
        state.memory_braked =
            self.brake(policy.memory_ceiling, memory, Reading::Memory, state.memory_braked);
    }

    fn brake(
        &mut self,
        ceiling: Option<f64>,
        share: Option<f64>,
        reading: Reading,
        braked: bool,
    ) -> bool {
        let Some(ceiling) = ceiling else { return false };
        let Some(share) = share else {
            self.refusals.push(Refusal::NotRead(reading));
            return false;
        };
        share >= if braked { (ceiling - RELEASE).max(ceiling / 2.0) } else { ceiling }
    }

    fn step(&mut self, state: &mut ScaleState, demand: &Demand) -> Step {
        // Who failed is not made up for unasked while nobody new could take work.
        let failed = if self.seen.circuit_open { self.seen.failed } else { 0 };
        let there = self.there().saturating_add(failed);
        if there < self.policy.min {
            return self.fill_up(state, self.policy.min - there);
        }
        state.made_up = None;
        if self.current > self.policy.hard_max() {
            return self.retire(state, self.policy.hard_max(), DownReason::AboveMax);
        }
        // Some are to be there, and only ones that failed are: whatever waits, one is to be tried.
        if self.seen.circuit_open && self.there() == 0 && self.policy.min > 0 {
            return self.bring_one_to_try(state);
        }
        // Both cannot be: the least of a window that ends now is no more than the greatest of the other.
        match self.step_up(state, demand) {
            Step::Hold => self.step_down(state),
            step => step,
        }
    }

    /// The agents that serve, are about to, or wait for their circuit to let them.
    const fn there(&self) -> u32 {
        self.current.saturating_add(self.seen.held_back)
    }

    /// Those that failed and give their places to others.
    fn unmade(&self) -> u32 {
        count(&self.seen.unmade).min(self.seen.failed)
    }

    /// Those that leave and could serve again. While the circuit is not closed, none as long as there is room for others:
    /// it is tried on no agent that holds a lease.
    fn leaving(&self) -> u32 {
        if self.seen.circuit_open && self.room(self.policy.max) > 0 {
            return 0;
        }
        count(&self.seen.leaving).min(self.seen.draining)
    }

    /// How many more there may be, draining, failed and held back ones counted, if so many may be there.
    fn room(&self, limit: u32) -> u32 {
        let seen = self.seen;
        let others = seen.draining.saturating_add(seen.failed - self.unmade());
        limit.saturating_sub(self.there().saturating_add(others))
    }

    fn refuse_for_room(&mut self) {
        self.refusals.push(Refusal::AtMax);
        let agents = self.seen.failed - self.unmade();
        if agents > 0 {
            self.refusals.push(Refusal::Failed { agents });
        }
    }

    /// Adds agents, which take the places of so many at most of those that could not be made; as many fewer as there are
    /// that leave and could serve again.
    fn spawn(&mut self, agents: u32, most: u32, limit: u32, reason: UpReason) -> Step {
        self.restored = agents.min(self.leaving());
        let agents = agents - self.restored;
        if agents == 0 {
            return Step::Spawn { agents, reason };
        }
        // Those that serve again have their places already.
        let others = self.seen.draining.saturating_add(self.seen.failed);
        let all = self.there().saturating_add(others).saturating_add(agents);
        self.replaced = agents.max(all.saturating_sub(limit)).min(most).min(self.unmade());
        self.spare = limit.saturating_sub(all - self.replaced);
        Step::Spawn { agents, reason }
    }

    fn fill_up(&mut self, state: &mut ScaleState, missing: u32) -> Step {
        let restored = missing.min(self.leaving());
        let (agents, again) = self.count_to_fill_up(state, missing - restored);
        if agents + restored == 0 {
            return Step::Hold;
        }
        self.spawn(agents + restored, again, self.policy.max, UpReason::BelowMin)
    }

    /// How many are added of so many that are missing, and how many of those make up for failed ones.
    fn count_to_fill_up(&mut self, state: &mut ScaleState, missing: u32) -> (u32, u32) {
        // While the circuit is not closed those that failed are not missing. Or there would be no end of it.
        let failed = if self.seen.circuit_open { 0 } else { self.seen.failed };
        let mut again = missing.min(failed);
        let first = missing - again;
        // Rule 3. Those that fill up what was killed meanwhile do not put it off.
        state.made_up = state.made_up.or(state.last_step()).filter(|_| again > 0);
        let until = |at| self.ends_later(Some(at), self.policy.up_cooldown);
        if let Some(until) = state.made_up.and_then(until) {
            self.refusals.push(Refusal::Cooldown { until });
            again = 0;
        }
        if first + again == 0 {
            return (0, 0);
        }
        let kept = self.unmade().saturating_sub(again);
        let agents = (first + again).min(self.room(self.policy.max).saturating_sub(kept));
        if agents == 0 {
            self.refuse_for_room();
            return (0, 0);
        }
        state.made_up = if again > 0 { Some(self.now) } else { state.made_up };
        (agents, again)
    }

    fn step_up(&mut self, state: &ScaleState, demand: &Demand) -> Step {
        let policy = self.policy;
        let too_many = self.too_many_leases_for(self.current);
        if demand.total <= too_many {
            return Step::Hold;
        }
        let since = state.up.above_since(too_many);
        if let Some(until) = self.ends_later(since, policy.up_window) {
            self.refusals.push(Refusal::UpWindow { until });
            return Step::Hold;
        }
        let least = state.up.least();
        let bursts = least > self.too_many_leases_for(policy.max);
        let limit = if bursts { policy.hard_max() } else { policy.max };
        let wanted = self.agents_for(least);
        if wanted > limit {
            self.refusals.push(Refusal::AtMax);
        }
        let missing = wanted.min(limit).saturating_sub(self.current);
        let room = self.room(limit).saturating_add(self.leaving());
        if missing > room && wanted <= limit {
            self.refuse_for_room();
        }
        // One is enough for the circuit to be tried.
        let missing = missing.min(room).min(if self.seen.circuit_open { 1 } else { u32::MAX });
        if missing == 0 || self.is_braked(state) {
            return Step::Hold;
        }
        if self.is_too_soon(state, Direction::Up) {
            return Step::Hold;
        }
        let agents = self.capped(missing, policy.step_up.of(self.current), policy.up_cooldown);
        let reason = match demand.raised_by {
            Some(reason) => reason,
            None if self.current + agents > policy.max => UpReason::Burst,
            None if self.seen.queued > 0 => UpReason::Backlog,
            None => UpReason::Utilisation,
        };
        self.spawn(agents, u32::MAX, limit, reason)
    }

    /// Adds one on whom the circuit can be tried.
    fn bring_one_to_try(&mut self, state: &ScaleState) -> Step {
        if self.leaving() == 0 && self.room(self.policy.max) == 0 {
            self.refuse_for_room();
            return Step::Hold;
        }
        if self.is_braked(state) || self.is_too_soon(state, Direction::Up) {
            return Step::Hold;
        }
        self.spawn(1, u32::MAX, self.policy.max, UpReason::BelowMin)
    }

    fn is_braked(&mut self, state: &ScaleState) -> bool {
        if state.cpu_braked {
            self.refusals.push(Refusal::CpuCeiling);
        }
        if state.memory_braked {
            self.refusals.push(Refusal::MemoryCeiling);
        }
        // It is tried on one of those that are there. Who has failed for good is none of them.
        let held_back = self.seen.circuit_open && self.there() > 0;
        if held_back {
            self.refusals.push(Refusal::CircuitOpen);
        }
        // Who comes before it can be tried would be made for nothing, and fails as the others did.
        let is_early = |at: &Timestamp| self.seen.circuit_open && !held_back && *at > self.now;
        let trial = self.seen.next_trial.filter(is_early);
        if let Some(until) = trial {
            self.refusals.push(Refusal::NextTrial { until });
        }
        state.cpu_braked || state.memory_braked || held_back || trial.is_some()
    }

    fn step_down(&mut self, state: &ScaleState) -> Step {
        let policy = self.policy;
        if let (Some(shed), Some(memory)) = (policy.memory_shed, self.seen.memory)
            && memory.is_finite()
            && memory >= shed
        {
            // Rule 4: no fewer than keep the demand of the whole window well inside the band, and one to
            // spare: in a small fleet a single lease is a large share.
            let halfway = (policy.target + policy.high) / 2.0;
            let fewest = state.down.greatest() / (halfway * self.seen.slots_per_agent());
            let fewest = (fewest.ceil() as u32).saturating_add(1);
            if fewest < self.current {
                return self.retire(state, fewest, DownReason::Memory);
            }
        }
        let band = policy.low * self.seen.slots_of(self.current);
        let (too_few, reason) = if self.current > policy.max {
            let over = policy.target * self.seen.slots_of(policy.max);
            (band.max(over), DownReason::BurstOver)
        } else {
            (band, DownReason::Utilisation)
        };
        let too_few = too_few - SLACK;
        let Some(since) = state.down.below_since(too_few) else { return Step::Hold };
        // Raised or not, that is no more than the band keeps, and so less than there are.
        let wanted = self.agents_for(state.down_raised.greatest());
        if wanted >= self.current {
            return Step::Hold;
        }
        if let Some(until) = self.ends_later(Some(since), policy.down_window) {
            self.refusals.push(Refusal::DownWindow { until });
            return Step::Hold;
        }
        self.retire(state, wanted, reason)
    }

    fn retire(&mut self, state: &ScaleState, wanted: u32, reason: DownReason) -> Step {
        let policy = self.policy;
        let kept = wanted.max(policy.min);
        let surplus = self.current - kept.min(self.current);
        if surplus == 0 {
            self.refusals.push(Refusal::AtMin);
            return Step::Hold;
        }
        if self.is_too_soon(state, Direction::Down) {
            return Step::Hold;
        }
        let idle = count(&self.seen.idle);
        // Rule 2: those that start do no work yet.
        let serving = self.seen.serving.saturating_sub(idle);
        let busy = count(&self.seen.busy).min(serving.saturating_sub(kept));
        let all = idle.saturating_add(busy);
        if all < surplus {
            self.refusals.push(Refusal::Busy { agents: surplus - all });
        }
        let cap = policy.step_down.of(self.current);
        let agents = self.capped(surplus.min(all), cap, policy.down_cooldown);
        if agents == 0 {
            return Step::Hold;
        }
        let retired = agents.min(idle);
        self.unrouted = agents - retired;
        Step::Retire { agents: listed(&self.seen.idle, retired), reason }
    }

    /// So many of them as a step may move; the rest is said to be left.
    fn capped(&mut self, agents: u32, cap: u32, cooldown: Duration) -> u32 {
        if agents > cap {
            let until = self.now + cooldown;
            self.refusals.push(Refusal::StepCap { left: agents - cap, until });
        }
        agents.min(cap)
    }

    /// When what began then will have lasted so long, if it has not.
    fn ends_later(&self, since: Option<Timestamp>, window: Duration) -> Option<Timestamp> {
        let until = since.unwrap_or(self.now) + window;
        (self.now < until).then_some(until)
    }

    fn is_too_soon(&mut self, state: &ScaleState, direction: Direction) -> bool {
        let Some((at, last)) = state.last_step else { return false };
        let policy = self.policy;
        let cooldown = match direction {
            Direction::Up => policy.up_cooldown,
            Direction::Down => policy.down_cooldown,
        };
        if let Some(until) = self.ends_later(Some(at), cooldown) {
            self.refusals.push(Refusal::Cooldown { until });
            return true;
        }
        if last != direction
            && let Some(until) = self.ends_later(Some(at), policy.reverse_after)
        {
            self.refusals.push(Refusal::Reversal { until });
            return true;
        }
        false
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod properties;
#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;
