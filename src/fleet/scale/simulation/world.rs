//! The fleet that is simulated: its load, its agents, and what is seen of them.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use super::super::{Backtest, Forecaster, Observation, Plan, ScalePolicy, ScaleState, Step, plan};
use super::Random;
use super::checks::{Checks, Run};
use crate::fleet::AgentId;
use crate::{Clock, ManualClock, Timestamp};

/// How finely time goes.
const MOMENT: Duration = Duration::from_millis(250);
/// How many moments there are between two plans, but for those on events.
const TICK: u32 = 4;

/// How the load goes until it stays as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shape {
    Steps { low: f64, high: f64 },
    Ramps { low: f64, high: f64 },
    Sine { mean: f64, swing: f64, period: f64 },
}

/// What the forecasts are worth.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Foresight {
    None,
    Honest,
    Huge,
    Alternating,
    Random,
    Contrary,
    Senseless,
}

/// All that a seed decides.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) shape: Shape,
    foresight: Foresight,
    pub(super) policy: ScalePolicy,
    /// How far measurements are off, as a share.
    pub(super) noise: f64,
    pub(super) leases_per_agent: u32,
    /// Whether work goes to the agent with the fewest leases, so that none is idle as long as there is some for each;
    /// else to the first with room.
    pub(super) spread: bool,
    service: Duration,
    /// How long one lease in ten is held instead, if some are held for long.
    pub(super) linger: Option<Duration>,
    pub(super) spawn: Duration,
    drain: Duration,
    /// How long a plan takes to be carried out.
    pub(super) delay: Duration,
    pub(super) deaths: bool,
    pub(super) memory_lies: bool,
    on_events: bool,
    /// How long the load changes, and how long the run is.
    pub(super) changing: Duration,
    pub(super) length: Duration,
}

impl Setting {
    fn new(random: &mut Random) -> Self {
        let per_agent = 1 + random.below(4);
        let seconds = |random: &mut Random, least, greatest| {
            Duration::from_secs_f64(random.between(least, greatest))
        };
        let service = seconds(random, 0.5, 3.0);
        let low = random.between(3.0, 12.0);
        let high = low * random.between(2.0, 5.0);
        let changing = Duration::from_secs(150);
        let shape = match random.below(3) {
            0 => Shape::Steps { low, high },
            1 => Shape::Ramps { low, high },
            _ => {
                let period = random.between(10.0, 120.0);
                Shape::Sine { mean: high, swing: random.between(0.1, 0.9) * high, period }
            }
        };
        let foresight = match random.below(7) {
            0 => Foresight::None,
            1 => Foresight::Honest,
            2 => Foresight::Huge,
            3 => Foresight::Alternating,
            4 => Foresight::Random,
            5 => Foresight::Contrary,
            _ => Foresight::Senseless,
        };
        let target = random.between(0.55, 0.75);
        let agents_at_peak = 2.0 * high / (target * f64::from(per_agent));
        let max = (agents_at_peak * random.between(0.4, 3.0)).ceil() as u32 + 1;
        let cap = |random: &mut Random, most| {
            NonZeroU32::new(2 + random.below(most)).expect("two and more")
        };
        let mut builder = ScalePolicy::builder()
            .min(random.below(3).min(max))
            .max(max)
            .burst(random.below(2) * random.below(10))
            .utilisation(target - random.between(0.25, 0.4), target, target + 0.2)
            .backlog_within(seconds(random, 2.0, 10.0))
            .up_window(random.below(4) * Duration::from_secs(1))
            .down_window(seconds(random, 15.0, 40.0))
            .up_cooldown(random.below(4) * Duration::from_secs(1))
            .down_cooldown(random.below(10) * Duration::from_secs(1))
            .reverse_after(random.below(20) * Duration::from_secs(1))
            .step_up(cap(random, 30), random.between(0.0, 1.0))
            .step_down(cap(random, 10), random.between(0.1, 0.5));
        if random.chance(0.3) {
            builder = builder.response_time(service.mul_f64(random.between(0.5, 4.0)));
        }
        let memory_lies = random.chance(0.2);
        if memory_lies {
            builder = builder.memory_ceiling(0.8).memory_shed(0.9);
        }
        let policy = builder.build().expect("the settings are within their ranges");
        let delay = if random.chance(0.3) { seconds(random, 0.0, 2.0) } else { Duration::ZERO };
        Self {
            shape,
            foresight,
            policy,
            noise: if random.chance(0.5) { random.between(0.0, 0.1) } else { 0.0 },
            leases_per_agent: per_agent,
            service,
            spawn: seconds(random, 0.0, 8.0),
            drain: seconds(random, 0.0, 8.0),
            delay,
            deaths: random.chance(0.15),
            memory_lies,
            on_events: random.chance(0.3),
            changing,
            length: changing * 2 + policy.down_window * 6 + Duration::from_secs(120),
            spread: random.chance(0.5),
            linger: random.chance(0.5).then(|| seconds(random, 20.0, 80.0)),
        }
    }

    /// How long a lease is held on average.
    fn mean(&self) -> Duration {
        self.linger.map_or(self.service, |long| self.service.mul_f64(0.9) + long.mul_f64(0.1))
    }

    /// The leases that the load keeps busy at a time, were there agents enough.
    pub(super) fn load(&self, seconds: f64) -> f64 {
        let part = (seconds / self.changing.as_secs_f64()).min(1.0);
        match self.shape {
            Shape::Steps { high, .. } if part > 0.3 && part < 0.7 => high,
            Shape::Steps { low, .. } => low,
            Shape::Ramps { low, high } => {
                // Up, along, and half of the way down again.
                let height = (part * 3.0).min(1.0).min(1.0 - (part - 0.75).max(0.0) * 2.0);
                low + (high - low) * height
            }
            Shape::Sine { mean, swing, period } => {
                mean + swing * (std::f64::consts::TAU * seconds / period).sin()
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Starting {
        until: Timestamp,
    },
    Serving,
    /// It is unrouted, and holds leases.
    Leaving,
    Draining {
        until: Timestamp,
    },
}

#[derive(Clone, Debug)]
struct Agent {
    id: AgentId,
    phase: Phase,
    /// When each of its leases ends.
    leases: Vec<Timestamp>,
}

/// A fleet, its load, and its scaling.
pub(super) struct World {
    setting: Setting,
    random: Random,
    clock: Clock,
    hand: ManualClock,
    agents: Vec<Agent>,
    spawned: u32,
    /// Leases that have begun.
    begun: u64,
    waiting: VecDeque<Timestamp>,
    /// The part of an arrival that has not arrived.
    arriving: f64,
    waited: f64,
    state: ScaleState,
    honest: Backtest,
    /// Plans that are still to be carried out.
    due: VecDeque<(Timestamp, Plan)>,
    checks: Checks,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let setting = Setting::new(&mut random);
        let (clock, hand) = ManualClock::new();
        let horizon = (setting.spawn + setting.policy.up_window).max(Duration::from_secs(1));
        Self {
            honest: Backtest::standard(horizon).expect("the horizon is not zero"),
            checks: Checks::new(&setting),
            setting,
            random,
            clock,
            hand,
            agents: Vec::new(),
            spawned: 0,
            begun: 0,
            waiting: VecDeque::new(),
            arriving: 0.0,
            waited: 0.0,
            state: ScaleState::new(),
            due: VecDeque::new(),
        }
    }

    pub(super) fn run(mut self) -> Run {
        let moments = (self.setting.length.as_millis() / MOMENT.as_millis()) as u32;
        for moment in 0..moments {
            let before = self.waiting.len();
            self.work();
            let event = self.setting.on_events && self.waiting.len() > before;
            if moment % TICK == 0 || event {
                self.scale();
            }
            self.carry_out();
            self.hand.advance(MOMENT);
        }
        let agents = self.agents.iter().filter(|agent| agent.phase == Phase::Serving).count();
        self.checks.finish(&self.setting, agents, self.waiting.len())
    }

    /// Lets a moment's work arrive, end and begin.
    fn work(&mut self) {
        let now = self.clock.now();
        let setting = &self.setting;
        for agent in &mut self.agents {
            agent.leases.retain(|end| *end > now);
            if matches!(agent.phase, Phase::Starting { until } if until <= now) {
                agent.phase = Phase::Serving;
            }
        }
        self.agents
            .retain(|agent| !matches!(agent.phase, Phase::Draining { until } if until <= now));
        if setting.deaths && self.random.chance(0.01) && !self.agents.is_empty() {
            let index = self.random.next() as usize % self.agents.len();
            self.agents.remove(index);
        }
        let rate = setting.load(now.since_start().as_secs_f64()) / setting.mean().as_secs_f64();
        let unevenness = 1.0 + setting.noise * self.random.between(-1.0, 1.0);
        self.arriving += rate * MOMENT.as_secs_f64() * unevenness;
        while self.arriving >= 1.0 {
            self.arriving -= 1.0;
            self.waiting.push_back(now);
        }
        while let Some(came) = self.waiting.front().copied() {
            let has_room = |agent: &&mut Agent| {
                agent.phase == Phase::Serving
                    && agent.leases.len() < setting.leases_per_agent as usize
            };
            let mut free = self.agents.iter_mut().filter(has_room);
            let taken = if setting.spread {
                free.min_by_key(|agent| agent.leases.len())
            } else {
                free.next()
            };
            let Some(agent) = taken else { break };
            let lingers = setting.linger.filter(|_| self.begun.is_multiple_of(10));
            agent.leases.push(now + lingers.unwrap_or(setting.service));
            self.begun += 1;
            self.waiting.pop_front();
            self.waited += 0.1 * ((now - came).as_secs_f64() - self.waited);
        }
    }

    fn noisy(&mut self, value: f64) -> f64 {
        value * (1.0 + self.setting.noise * self.random.between(-1.0, 1.0))
    }

    fn observe(&mut self, now: Timestamp) -> Observation {
        let count = |of: fn(&Phase) -> bool| {
            let agents = self.agents.iter().filter(|agent| of(&agent.phase)).count();
            u32::try_from(agents).expect("few agents")
        };
        let mut seen = Observation::new()
            .with_starting(count(|phase| matches!(phase, Phase::Starting { .. })))
            .with_serving(count(|phase| matches!(phase, Phase::Serving)))
            .with_draining(count(|phase| matches!(phase, Phase::Leaving | Phase::Draining { .. })))
            .with_leases_per_agent(self.setting.leases_per_agent);
        // What was planned and is not done yet is known to whoever planned it.
        let number = |agents: &[AgentId]| u32::try_from(agents.len()).expect("few agents");
        for (_, plan) in &self.due {
            let (back, mut gone) = (number(&plan.restored), number(&plan.unrouted));
            match &plan.step {
                Step::Spawn { agents, .. } => seen.starting += agents,
                Step::Retire { agents, .. } => gone += number(agents),
                Step::Hold => {}
            }
            seen.serving = (seen.serving + back).saturating_sub(gone);
            seen.draining = (seen.draining + gone).saturating_sub(back);
        }
        let leases: usize = self.agents.iter().map(|agent| agent.leases.len()).sum();
        seen.leases = self.noisy(leases as f64).round() as u64;
        seen.queued = self.noisy(self.waiting.len() as f64).round() as u64;
        let service = self.noisy(self.setting.mean().as_secs_f64());
        seen.service_time = Some(Duration::from_secs_f64(service));
        let answer = self.noisy(self.setting.mean().as_secs_f64() + self.waited);
        seen.response_time = Some(Duration::from_secs_f64(answer));
        let planned: Vec<AgentId> = self.due.iter().flat_map(|(_, plan)| named(plan)).collect();
        // Work goes to the first agent with room, so the last ones have been idle for longest.
        let serving = || {
            let serving = self.agents.iter().rev().filter(|agent| agent.phase == Phase::Serving);
            serving.filter(|agent| !planned.contains(&agent.id))
        };
        let id = |agent: &Agent| agent.id;
        seen.idle = serving().filter(|agent| agent.leases.is_empty()).map(id).collect();
        let mut busy: Vec<_> = serving().filter(|agent| !agent.leases.is_empty()).collect();
        busy.sort_by_key(|agent| agent.leases.len());
        seen.busy = busy.into_iter().map(id).collect();
        let leaving = self.agents.iter().filter(|agent| agent.phase == Phase::Leaving).map(id);
        seen.leaving = leaving.filter(|agent| !planned.contains(agent)).collect();
        if self.setting.memory_lies {
            seen.memory = Some(self.random.between(0.5, 1.0));
        }
        let demand = seen.demand(self.setting.policy.backlog_within);
        self.honest.observe(now, demand);
        seen.forecast = self.foresee(now, demand);
        seen
    }

    fn foresee(&mut self, now: Timestamp, demand: f64) -> Option<f64> {
        let ahead = self.honest.horizon();
        match self.setting.foresight {
            Foresight::None => None,
            Foresight::Honest => self.honest.forecast(now + ahead),
            Foresight::Huge => Some(1e12),
            Foresight::Alternating => {
                Some(if now.since_start().as_secs() % 14 < 7 { 0.0 } else { 1e6 })
            }
            Foresight::Random => Some(demand * self.random.between(0.0, 4.0)),
            Foresight::Contrary => {
                let peak = self.setting.load(0.5 * self.setting.changing.as_secs_f64());
                Some((2.0 * peak - demand).max(0.0))
            }
            Foresight::Senseless => {
                let numbers = [f64::NAN, f64::NEG_INFINITY, f64::INFINITY, -5.0, f64::MAX];
                Some(numbers[self.random.below(5) as usize])
            }
        }
    }

    fn scale(&mut self) {
        let now = self.clock.now();
        let seen = self.observe(now);
        let plan = plan(&seen, &self.setting.policy, &mut self.state, now);
        self.checks.plan(&self.setting, &seen, &plan, now);
        if plan.step != Step::Hold {
            self.due.push_back((now + self.setting.delay, plan));
        }
        // Those that are to serve again do not end.
        let restored = self.due.iter().flat_map(|(_, plan)| &plan.restored).copied();
        let restored: Vec<_> = restored.collect();
        for agent in &mut self.agents {
            if agent.phase == Phase::Leaving
                && agent.leases.is_empty()
                && !restored.contains(&agent.id)
            {
                agent.phase = Phase::Draining { until: now + self.setting.drain };
            }
        }
    }

    fn carry_out(&mut self) {
        let now = self.clock.now();
        while self.due.front().is_some_and(|(due, _)| *due <= now) {
            let (_, plan) = self.due.pop_front().expect("it was just there");
            for agent in &mut self.agents {
                if agent.phase == Phase::Leaving && plan.restored.contains(&agent.id) {
                    agent.phase = Phase::Serving;
                } else if agent.phase == Phase::Serving && plan.unrouted.contains(&agent.id) {
                    agent.phase = Phase::Leaving;
                }
            }
            match plan.step {
                Step::Hold => {}
                Step::Spawn { agents, .. } => {
                    for _ in 0..agents {
                        self.spawned += 1;
                        self.agents.push(Agent {
                            id: AgentId { slot: self.spawned, generation: 1 },
                            phase: Phase::Starting { until: now + self.setting.spawn },
                            leases: Vec::new(),
                        });
                    }
                }
                Step::Retire { agents, .. } => {
                    for agent in &mut self.agents {
                        if agents.contains(&agent.id) {
                            // Work may have come meanwhile, but only while the plan lay about.
                            assert!(
                                agent.leases.is_empty() || self.setting.delay > Duration::ZERO,
                                "a busy agent was planned away"
                            );
                            if agent.leases.is_empty() {
                                let until = now + self.setting.drain;
                                agent.phase = Phase::Draining { until };
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Those that are retired, unrouted or to serve again.
fn named(plan: &Plan) -> Vec<AgentId> {
    let retired = match &plan.step {
        Step::Retire { agents, .. } => agents.as_slice(),
        _ => &[],
    };
    [retired, &plan.unrouted, &plan.restored].concat()
}
