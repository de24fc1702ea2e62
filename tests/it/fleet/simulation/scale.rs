//! Autoscalers in a simulated fleet: one of each of two kinds, under a load of steps, ramps or waves, with forecasters
//! that lie.
//!
//! Their dice are their own, and only one seed in four has them: so what the others do does not depend on them. What is
//! checked at each of their steps:
//!
//! 1. What is observed is what a count of all agents says, and what is planned for it is what the pure function says.
//! 2. Who is retired held no lease and had no work waiting for it alone; nobody is added above the hard maximum. Who is
//!    unrouted keeps its leases and is nobody's but the autoscaler's until the host says something of it: it ends in the
//!    step in which it holds none, or serves again before others are added.
//! 3. While the load stands still, nobody is taken away after somebody was added; and once it has for long, nobody is
//!    added or taken away where nothing is foreseen: a forecast may change its mind at any time.
//! 4. Where tasks wait that they could do, there is somebody in the end who may do them, unless a budget does not let
//!    anybody come, or such as failed and drain have all the places.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Random;
use super::acts::Wanted;
use super::books::{Body, Spec, Token};
use super::handlers::{SKILLS, factory, handler};
use super::purses::KINDS;
use super::world::World;
use phalanx::fleet::scale::{
    Autoscaler, Backtest, Forecaster, Observation, Plan, Refusal, ScalePolicy, ScaleState, Step,
    UpReason, plan,
};
use phalanx::fleet::{AgentId, AgentSpec, AgentState, Condition, Request};
use phalanx::{ErrorKind, Timestamp};

/// One that nobody else spawns, and one that others spawn too and that a circuit breaker watches in some fleets.
const SCALED: [&str; 2] = ["drone", KINDS[1]];
/// One seed in so many has autoscalers.
const SEEDS_A_SCALED_ONE: u64 = 4;
/// How long the load has to stand still until nothing is to be done any more.
const STILL: Duration = Duration::from_secs(5);
const ROUND: Duration = Duration::from_millis(100);

/// How the load goes over the run.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Steps,
    Ramp,
    Waves(f64),
}

/// Tasks that come beside those of the other acts.
#[derive(Debug)]
struct Load {
    shape: Shape,
    /// Tasks a step at the peak.
    peak: f64,
    /// The part of a task that has not come.
    due: f64,
}

impl Load {
    fn new(dice: &mut Random) -> Self {
        let shape = match dice.below(3) {
            0 => Shape::Steps,
            1 => Shape::Ramp,
            _ => Shape::Waves(2.0 + dice.below(5) as f64),
        };
        Self { shape, peak: 0.5 + dice.below(5) as f64 * 0.5, due: 0.0 }
    }

    /// What comes in the step that lies so far within the run.
    fn come(&mut self, part: f64) -> usize {
        let height = match self.shape {
            Shape::Steps => f64::from(u8::from((0.2..0.6).contains(&part))),
            Shape::Ramp => 1.0 - (part - 0.5).abs() * 2.0,
            Shape::Waves(count) => (1.0 - (std::f64::consts::TAU * count * part).cos()) / 2.0,
        };
        self.due += height * self.peak;
        let come = self.due.floor();
        self.due -= come;
        come as usize
    }
}

/// A forecaster that says what it likes.
#[derive(Debug)]
struct Liar {
    dice: Random,
    lie: usize,
    last: f64,
}

impl Liar {
    fn new(dice: &mut Random) -> Self {
        Self { dice: Random(dice.next()), lie: dice.below(6), last: 0.0 }
    }
}

impl Forecaster for Liar {
    fn name(&self) -> &str {
        "liar"
    }

    fn observe(&mut self, _at: Timestamp, value: f64) {
        self.last = value;
    }

    fn forecast(&self, at: Timestamp) -> Option<f64> {
        let mut dice = self.dice.clone();
        dice.0 ^= at.since_start().as_nanos() as u64;
        match self.lie {
            0 => Some(1e12),
            1 => Some(if at.since_start().as_secs().is_multiple_of(2) { 0.0 } else { 1e6 }),
            2 => Some(self.last * dice.below(5) as f64),
            3 => Some((10.0 - self.last).max(0.0)),
            4 => dice.percent(50).then_some(f64::NAN),
            // The truth, now and then.
            _ => Some(self.last + dice.below(3) as f64 - 1.0),
        }
    }
}

/// What moves the number of agents, but for time and forecasts.
#[derive(Clone, Debug, PartialEq)]
struct Still {
    demand: f64,
    others: [u32; 3],
    circuit_open: bool,
    response: Option<Duration>,
}

/// What is known of an autoscaler.
pub(super) struct Scaler {
    kind: &'static str,
    skills: u8,
    limit: u32,
    prewarmed: bool,
    scaler: Autoscaler<Token, Token>,
    policy: ScalePolicy,
    backlog_within: Duration,
    /// What is believed whatever it says; others have to be right before they are.
    liar: Option<Liar>,
    /// Whether anything is foreseen.
    foresees: bool,
    /// The same plans, made beside it.
    beside: ScaleState,
    /// What stood still, since when, how many agents there were then and were added or taken away since, and whether any was
    /// added.
    still: Option<(Still, Timestamp, i64, bool)>,
    /// Whether the last step could add nobody for want of a budget.
    over_budget: bool,
    observed: Option<Observation>,
}

/// The scaling of a world.
pub(super) struct Scaling {
    dice: Random,
    load: Load,
    pub(super) scalers: Vec<Scaler>,
}

impl Scaling {
    /// None, of most seeds.
    pub(super) fn new(seed: u64) -> Option<Self> {
        let mut dice = Random(!seed);
        let load = Load::new(&mut dice);
        (seed % SEEDS_A_SCALED_ONE == 1).then(|| Self { dice, load, scalers: Vec::new() })
    }
}

impl Scaler {
    /// Whether it promises agents that could do this.
    fn promises(&self, needs: u8) -> bool {
        self.skills & needs == needs
    }
}

fn milliseconds(count: usize) -> Duration {
    Duration::from_millis(count as u64)
}

fn some_policy(dice: &mut Random, backlog_within: Duration) -> ScalePolicy {
    let some = |count: usize| NonZeroU32::new(1 + count as u32).expect("one and more");
    let max = 1 + dice.below(8) as u32;
    let target = 0.5 + dice.below(20) as f64 / 100.0;
    let mut builder = ScalePolicy::builder()
        .min((dice.below(4) as u32).saturating_sub(1).min(max))
        .max(max)
        .burst(dice.below(2) as u32 * dice.below(4) as u32)
        .utilisation(target - 0.3, target, target + 0.2)
        .backlog_within(backlog_within)
        .up_window(milliseconds(dice.below(3) * 50))
        .down_window(milliseconds(50 + dice.below(400)))
        .up_cooldown(milliseconds(dice.below(3) * 50))
        .down_cooldown(milliseconds(dice.below(4) * 50))
        .reverse_after(milliseconds(dice.below(3) * 100))
        .step_up(some(dice.below(4)), dice.below(100) as f64 / 100.0)
        .step_down(some(dice.below(3)), dice.below(50) as f64 / 100.0);
    if dice.percent(25) {
        builder = builder.response_time(milliseconds(10 + dice.below(300)));
    }
    builder.build().expect("the values are within their ranges")
}

fn some_forecast(dice: &mut Random) -> Backtest {
    let horizon = milliseconds(50 + dice.below(300));
    let forecast = if dice.percent(50) {
        Backtest::standard(horizon)
    } else {
        Backtest::new(horizon, vec![Box::new(Liar::new(dice))])
    };
    forecast.expect("the horizon is not zero")
}

impl World {
    /// Has agents of some kinds be scaled, if this seed does.
    pub(super) fn begin_to_scale(&mut self) {
        let Some(mut scaling) = self.scaling.take() else { return };
        for kind in SCALED {
            let dice = &mut scaling.dice;
            let limit = 1 << dice.below(4);
            let skills = (dice.below(8) | dice.below(8)) as u8;
            let prewarmed = limit == 1 && dice.percent(50);
            let mut spec =
                AgentSpec::new(kind).max_leases(NonZeroU32::new(limit).expect("one and more"));
            for (bit, skill) in SKILLS.iter().enumerate() {
                if skills & (1 << bit) != 0 {
                    spec = spec.capability(skill);
                }
            }
            let spec = if prewarmed {
                spec.handler(factory(&self.core, kind)).prewarmed()
            } else {
                spec.handler_fn(handler(&self.core))
            };
            let backlog_within = milliseconds(50 + dice.below(2000));
            let policy = some_policy(dice, backlog_within);
            let mut scaler = Autoscaler::new(&self.fleet, spec, policy);
            let compares = dice.percent(40);
            if compares {
                scaler = scaler.forecast(some_forecast(dice));
            }
            let liar = dice.percent(50).then(|| Liar::new(dice));
            scaling.scalers.push(Scaler {
                kind,
                skills,
                limit,
                prewarmed,
                scaler,
                policy,
                backlog_within,
                foresees: compares || liar.is_some(),
                liar,
                beside: ScaleState::new(),
                still: None,
                over_budget: false,
                observed: None,
            });
        }
        self.scaling = Some(scaling);
    }

    /// Whether agents are expected that could do this.
    pub(super) fn is_expected(&self, needs: u8) -> bool {
        let scalers = self.scaling.iter().flat_map(|scaling| &scaling.scalers);
        scalers.into_iter().any(|scaler| scaler.promises(needs))
    }

    /// The same of a request.
    pub(super) fn may_come(&self, wanted: &Wanted) -> bool {
        wanted.agent.is_none() && self.is_expected(wanted.needs)
    }

    /// The load of this step of the run, and perhaps a step of the scaling.
    pub(super) fn load_and_scale(&mut self, part: f64) {
        let Some(mut scaling) = self.scaling.take() else { return };
        let come = scaling.load.come(part);
        let kinds: Vec<_> = scaling.scalers.iter().map(|scaler| scaler.skills).collect();
        let mut specs = Vec::new();
        for _ in 0..come {
            let skills = kinds[scaling.dice.below(kinds.len())];
            let needs = skills & scaling.dice.below(8) as u8;
            let attempts = 1 + scaling.dice.below(3) as u32;
            specs.push(Spec { needs, attempts, ..Spec::default() });
        }
        let (holds, lets_go) = (scaling.dice.percent(20), scaling.dice.percent(15));
        let comes_back = scaling.dice.percent(30);
        let scales = scaling.dice.percent(60);
        self.scaling = Some(scaling);
        if holds {
            self.hold(false);
        }
        let some_leave = self.core.books().agents.values().any(|body| body.leaving.is_some());
        if some_leave && comes_back {
            self.hold(true);
        }
        if lets_go {
            self.let_leavers_go();
        }
        for spec in specs {
            self.core.submit(&self.fleet, spec);
        }
        if scales {
            self.scale();
        }
    }

    /// Leases one place of each idle agent that is scaled and has several, or all places of each of these.
    fn hold(&mut self, all: bool) {
        let each: Vec<(AgentId, u32)> = {
            let books = self.core.books();
            let has_several = |body: &Body| body.limit > 1 && SCALED.contains(&body.kind);
            let each = books.agents.iter().filter(|(_, body)| has_several(body));
            each.map(|(agent, body)| (*agent, body.limit)).collect()
        };
        for (agent, limit) in each {
            let Some(status) = self.fleet.agent(agent) else { continue };
            let most = if all { limit } else { 1 };
            for _ in status.load..most {
                let request = Request::any().agent(agent);
                let (needs, agent, ttl, group, picks) = (0, Some(agent), None, None, None);
                self.allocate_for(&Wanted { request, needs, agent, ttl, group, picks });
            }
        }
    }

    /// Ends the leases of one that is unrouted to end.
    fn let_leavers_go(&mut self) {
        let leaver = {
            let books = self.core.books();
            let mut agents = books.agents.iter();
            agents.find(|(_, body)| body.leaving.is_some()).map(|(agent, _)| *agent)
        };
        let Some(leaver) = leaver else { return };
        while let Some(at) = self.leases.iter().position(|held| held.agent == leaver) {
            self.end_lease_at(at);
        }
    }

    /// A step of each autoscaler.
    pub(super) fn scale(&mut self) {
        let Some(mut scaling) = self.scaling.take() else { return };
        for scaler in &mut scaling.scalers {
            self.scale_one(scaler);
        }
        self.scaling = Some(scaling);
    }

    fn scale_one(&mut self, scaler: &mut Scaler) {
        // An observation notices what has expired, and all that follows from that.
        let expired = self.fleet.tick();
        self.core.books().totals.counts_expired(expired);
        let counted = self.count_agents(scaler.kind);
        let now = self.now();
        let mut observed = None;
        let Scaler { kind, scaler: autoscaler, policy, beside, liar, backlog_within, .. } =
            &mut *scaler;
        let scaled = autoscaler.step_with(|mut seen| {
            if let Some(liar) = liar {
                liar.observe(now, seen.demand(*backlog_within));
                seen.forecast = liar.forecast(now);
            }
            // What it costs is known before anybody comes.
            let planned = plan(&seen, policy, beside, now);
            let paid = match planned.step {
                Step::Spawn { agents, .. } if agents > 0 => {
                    self.core.books().launch(kind, agents as usize)
                }
                _ => true,
            };
            observed = Some((seen.clone(), planned, paid));
            seen
        });
        let (seen, planned, paid) = observed.expect("the fleet is there");
        counted.check(&seen, scaler);
        // Where nobody can be added it does not tell of these.
        self.serve_again(&planned.restored);
        let left = self.have_left(&counted, &planned.restored);
        let (spawned, retired, unrouted) = match scaled {
            Ok(scaled) => {
                assert_eq!(scaled.plan, planned, "another plan than the pure function makes");
                if let Step::Retire { agents, .. } = &planned.step {
                    let named = [agents.as_slice(), &planned.unrouted].concat();
                    let all = [scaled.retired.clone(), scaled.unrouted.clone(), scaled.kept];
                    let all = all.concat();
                    assert!(named.iter().all(|agent| all.contains(agent)), "{planned:?}");
                }
                assert_eq!(scaled.restored, planned.restored, "nobody else has them");
                assert!(scaled.unrouted.len() <= planned.unrouted.len(), "{planned:?}");
                let (gone, retired): (Vec<_>, Vec<_>) =
                    scaled.retired.into_iter().partition(|agent| left.contains(agent));
                assert_eq!(gone.len(), left.len(), "{left:?} ended, and it tells of {gone:?}");
                (scaled.spawned, retired, scaled.unrouted)
            }
            Err(refused) => {
                let Step::Spawn { agents, .. } = planned.step else {
                    panic!("{refused}, and nobody was to come: {planned:?}");
                };
                assert_eq!(refused.kind(), ErrorKind::LimitReached, "{refused}");
                assert!(!paid, "{refused}, and there is room for {agents}");
                scaler.over_budget = true;
                scaler.observed = Some(seen);
                return;
            }
        };
        assert!(paid, "there was no room for {planned:?}");
        scaler.over_budget = false;
        for agent in &retired {
            assert!(counted.idle.contains(agent), "{agent} was retired, and held leases");
            self.is_retired(*agent);
        }
        self.are_unrouted(&unrouted, &counted);
        self.are_scaled_up(scaler, &spawned, &planned);
        self.count_scaling(scaler, &planned, &counted, retired.len());
        let up = spawned.len() + planned.restored.len();
        let down = retired.len() + unrouted.len();
        self.check_for_flapping(scaler, &seen, &planned, (up, down), now);
        scaler.observed = Some(seen);
    }

    /// Some that an autoscaler had unrouted serve as they did before.
    fn serve_again(&self, agents: &[AgentId]) {
        for agent in agents {
            let before = self.core.books().agents.get(agent).and_then(|body| body.leaving);
            let before =
                before.unwrap_or_else(|| panic!("{agent} serves again, and is the host's"));
            self.is_wanted(*agent, before);
            self.core.books().totals.count("scaled up by those that left");
        }
    }

    /// Those that left and have ended: they held no lease, and of the others nobody who held none is there still.
    fn have_left(&self, counted: &Counted, restored: &[AgentId]) -> Vec<AgentId> {
        let mut ended = Vec::new();
        for (agent, load) in counted.leaving.iter().chain(&counted.leaving_failed) {
            if self.fleet.agent(*agent).is_some() {
                continue;
            }
            assert!(*load == 0 && !restored.contains(agent), "{agent} ended over {load} leases");
            self.is_retired(*agent);
            self.core.books().totals.count("scaled down by a drain");
            ended.push(*agent);
        }
        ended
    }

    /// Some are unrouted that hold leases, and hold them still.
    fn are_unrouted(&self, agents: &[AgentId], counted: &Counted) {
        for agent in agents {
            let before = counted.busy.iter().find(|(busy, _)| busy == agent);
            let (_, load) = before.unwrap_or_else(|| panic!("{agent} was unrouted, and idle"));
            let status = self.fleet.agent(*agent).expect("it lives");
            assert_eq!((status.load, status.state), (*load, AgentState::Draining));
            let mut books = self.core.books();
            let body = books.agents.get_mut(agent).expect("it lives");
            body.leaving = Some(std::mem::replace(&mut body.condition, Condition::Draining));
            body.drained = true;
            books.totals.count("scaled down over leases");
        }
    }

    fn are_scaled_up(&self, scaler: &Scaler, spawned: &[AgentId], planned: &Plan) {
        if spawned.is_empty() {
            return;
        }
        let mut books = self.core.books();
        let asked = match planned.step {
            Step::Spawn { agents, .. } => agents as usize,
            _ => 0,
        };
        assert_eq!(spawned.len(), asked, "all or none");
        for agent in spawned {
            let body = Body {
                kind: scaler.kind,
                skills: scaler.skills,
                limit: scaler.limit,
                runs: true,
                condition: Condition::Fit,
                guard: None,
                down: None,
                is_doomed: false,
                drained: false,
                leaving: None,
                incarnation: 1,
                heart: None,
                prewarmed: scaler.prewarmed,
                cold: scaler.prewarmed,
            };
            let before = books.agents.insert(*agent, body);
            assert!(before.is_none(), "{agent} lives twice");
        }
        let live = books.agents.values().filter(|body| body.kind == scaler.kind).count();
        let most = scaler.policy.hard_max() as usize;
        assert!(live <= most, "{live} agents, and at most {most} may be: {planned:?}");
        if live == most {
            books.totals.count("scaled to the greatest number");
        }
    }

    fn count_scaling(&self, scaler: &Scaler, planned: &Plan, counted: &Counted, retired: usize) {
        let mut books = self.core.books();
        let live = books.agents.values().filter(|body| body.kind == scaler.kind).count();
        match &planned.step {
            Step::Spawn { reason, .. } => {
                books.totals.count("scaled up");
                if counted.all == 0 {
                    books.totals.count("scaled from none");
                }
                if *reason == UpReason::Forecast {
                    books.totals.count("scaled for a forecast");
                }
                if counted.failed > 0 {
                    books.totals.count("scaled past failed ones");
                }
            }
            Step::Retire { .. } => {
                books.totals.count("scaled down");
                if live == 0 && retired > 0 {
                    books.totals.count("scaled to none");
                }
            }
            _ => {}
        }
        if planned.refusals.contains(&Refusal::CircuitOpen) {
            books.totals.count("scaling held by a circuit");
        }
    }

    /// See rule 3.
    fn check_for_flapping(
        &self,
        scaler: &mut Scaler,
        seen: &Observation,
        planned: &Plan,
        (up, down): (usize, usize),
        now: Timestamp,
    ) {
        let still = Still {
            demand: seen.demand(scaler.backlog_within),
            others: [seen.draining, seen.failed, seen.held_back],
            circuit_open: seen.circuit_open,
            response: seen.response_time,
        };
        let current = i64::from(seen.current());
        let known = scaler.still.take();
        let (since, mut agents, mut grew) = match known {
            Some((known, since, agents, grew)) if known == still && agents == current => {
                (since, agents, grew)
            }
            _ => (now, current, false),
        };
        let did = up + down > 0;
        let long = now - since >= STILL && !scaler.foresees;
        assert!(!(long && did), "it does not settle: {seen:?} {planned:?}");
        assert!(!grew || down == 0, "it flaps: {seen:?} {planned:?}");
        if long {
            self.core.books().totals.count("scaling stood still");
        }
        grew |= up > 0;
        agents += up as i64 - down as i64;
        scaler.still = Some((still, since, agents, grew));
    }

    /// Nobody submits anything, and nothing fails: once nobody leases anything either, scaling comes to rest.
    pub(super) fn stand_still(&mut self) {
        let Some(scaling) = &mut self.scaling else { return };
        if scaling.dice.percent(50) {
            return;
        }
        let mut dice = Random(scaling.dice.next());
        self.core.books().faulty = false;
        let restless = if dice.percent(70) { 90 } else { 0 };
        for round in 0..120 {
            if round < restless {
                match dice.below(16) {
                    0 => self.hold(true),
                    1 => self.hold(false),
                    2..=8 => self.end_lease(),
                    _ => {}
                }
            }
            self.beat_for_all();
            self.settle_down();
            self.scale();
            self.check_after_a_step();
            self.core.hand.advance(ROUND);
        }
    }

    /// Nothing stands still any more: what was held, or waited for agents, lets go of them.
    pub(super) fn stir(&mut self) {
        for scaler in self.scaling.iter_mut().flat_map(|scaling| &mut scaling.scalers) {
            scaler.still = None;
        }
    }

    /// See rule 4; after long patience.
    pub(super) fn check_that_somebody_came(&self) {
        let scalers = self.scaling.iter().flat_map(|scaling| &scaling.scalers);
        for scaler in scalers {
            let Some(seen) = &scaler.observed else { continue };
            let there = seen.current() + seen.held_back;
            let taken = seen.draining + seen.failed - seen.unmade.len() as u32;
            let is_full = taken >= scaler.policy.max();
            let waits = seen.queued > 0 && there == 0 && !is_full && !scaler.over_budget;
            assert!(!waits, "nobody comes for what waits: {seen:?}");
        }
    }

    fn count_agents(&self, kind: &str) -> Counted {
        let mut counted = Counted::default();
        let books = self.core.books();
        for agent in self.fleet.agents() {
            if books.agents.get(&agent.id).is_none_or(|body| body.kind != kind) {
                continue;
            }
            counted.all += 1;
            match agent.state {
                AgentState::Starting if agent.load == 0 => counted.starting += 1,
                AgentState::Draining => {
                    counted.draining += 1;
                    let body = &books.agents[&agent.id];
                    if body.leaving.is_some() && body.could_serve() {
                        counted.leases += u64::from(agent.load);
                        counted.leaving.push((agent.id, agent.load));
                    } else if body.leaving.is_some() {
                        counted.leaving_failed.push((agent.id, agent.load));
                    }
                }
                AgentState::Failed => counted.failed += 1,
                _ => {
                    counted.serving += 1;
                    counted.leases += u64::from(agent.load);
                    if agent.load == 0 {
                        counted.idle.push(agent.id);
                    } else {
                        counted.busy.push((agent.id, agent.load));
                    }
                }
            }
        }
        counted
    }
}

/// What a count of all agents of a kind says.
#[derive(Clone, Debug, Default)]
struct Counted {
    all: u32,
    starting: u32,
    serving: u32,
    draining: u32,
    failed: u32,
    leases: u64,
    idle: Vec<AgentId>,
    /// Those that serve and hold leases, and those that leave, with how many they hold.
    busy: Vec<(AgentId, u32)>,
    leaving: Vec<(AgentId, u32)>,
    /// The same, of those that have failed meanwhile.
    leaving_failed: Vec<(AgentId, u32)>,
}

impl Counted {
    fn check(&self, seen: &Observation, scaler: &Scaler) {
        let down = seen.failed + seen.held_back;
        let agents = (seen.starting, seen.serving, seen.draining, down, seen.leases);
        let own = (self.starting, self.serving, self.draining, self.failed, self.leases);
        assert_eq!(agents, own, "{}: {seen:?}", scaler.kind);
        let mut idle = [self.idle.clone(), seen.idle.clone()];
        idle.iter_mut().for_each(|idle| idle.sort_unstable());
        assert_eq!(idle[0], idle[1], "{}: who is idle", scaler.kind);
        let sorted = |mut agents: Vec<AgentId>| {
            agents.sort_unstable();
            agents
        };
        let leaving = self.leaving.iter().map(|(agent, _)| *agent).collect();
        assert_eq!(sorted(leaving), sorted(seen.leaving.clone()), "{}: who leaves", scaler.kind);
        let is_busy = |agent: &AgentId| self.busy.iter().any(|(busy, _)| busy == agent);
        assert!(seen.busy.iter().all(is_busy), "{}: who is busy", scaler.kind);
        assert!(seen.circuit_open || seen.held_back == 0, "{seen:?}");
    }
}
