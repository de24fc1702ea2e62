//! What must hold of every run.
//!
//! At every plan: the limits, the cooldowns, that only idle agents are retired and others unrouted only as far as these do
//! not suffice, and that those that leave serve again before any is added. At the end, once the load has
//! stood still (or has swung evenly) for long: no more steps, the demand met, and no more turns of
//! direction than the load made.

use std::time::Duration;

use super::super::{DownReason, Observation, Plan, Refusal, Step, UpReason};
use super::world::{Setting, Shape};
use crate::Timestamp;
use crate::fleet::AgentId;

/// A step that was planned: when, and by how many agents.
pub(super) type Moved = (Timestamp, i64);

/// What a run came to.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) steps: Vec<Moved>,
    settled: bool,
    burst: bool,
    foreseen: bool,
    shed: bool,
    beyond: bool,
    unrouted: bool,
    restored: bool,
}

/// What all runs came to, so that a simulation in which nothing happens does not pass.
#[derive(Debug, Default)]
pub(super) struct Totals {
    runs: u64,
    ups: u64,
    downs: u64,
    settled: u64,
    bursts: u64,
    foreseen: u64,
    shed: u64,
    beyond: u64,
    unrouted: u64,
    restored: u64,
}

impl Totals {
    pub(super) fn add(&mut self, run: &Run) {
        self.runs += 1;
        self.ups += run.steps.iter().filter(|(_, by)| *by > 0).count() as u64;
        self.downs += run.steps.iter().filter(|(_, by)| *by < 0).count() as u64;
        self.settled += u64::from(run.settled);
        self.bursts += u64::from(run.burst);
        self.foreseen += u64::from(run.foreseen);
        self.shed += u64::from(run.shed);
        self.beyond += u64::from(run.beyond);
        self.unrouted += u64::from(run.unrouted);
        self.restored += u64::from(run.restored);
    }

    pub(super) fn assert_something_happened(&self) {
        let runs = self.runs;
        assert!(self.ups > 2 * runs && self.downs > runs, "{self:?}");
        assert!(self.settled > runs / 2, "{self:?}");
        for rare in
            [self.bursts, self.foreseen, self.shed, self.beyond, self.unrouted, self.restored]
        {
            assert!(rare > runs / 100, "{self:?}");
        }
    }
}

/// What is remembered between plans.
pub(super) struct Checks {
    steps: Vec<Moved>,
    burst: bool,
    foreseen: bool,
    shed: bool,
    beyond: bool,
    unrouted: bool,
    restored: bool,
    /// The time from which on there are to be no more steps.
    quiet_from: Timestamp,
}

impl Checks {
    pub(super) fn new(setting: &Setting) -> Self {
        // The load stands still after `changing`; then a backlog is worked off, and the fleet comes down
        // in as many steps as its caps and cooldowns make of it.
        let quiet_from = setting.length - setting.policy.down_window * 2 - Duration::from_secs(30);
        Self {
            steps: Vec::new(),
            burst: false,
            foreseen: false,
            shed: false,
            beyond: false,
            unrouted: false,
            restored: false,
            quiet_from: Timestamp::from_start(quiet_from),
        }
    }

    /// Checks one plan.
    pub(super) fn plan(
        &mut self,
        setting: &Setting,
        seen: &Observation,
        plan: &Plan,
        now: Timestamp,
    ) {
        let policy = &setting.policy;
        let beyond = |refusal: &Refusal| matches!(refusal, Refusal::BeyondBand(_));
        self.beyond |= plan.refusals.iter().any(beyond);
        let number = |agents: &[AgentId]| i64::try_from(agents.len()).expect("few agents");
        self.unrouted |= !plan.unrouted.is_empty();
        self.restored |= !plan.restored.is_empty();
        let (by, cooldown) = match &plan.step {
            Step::Hold => return,
            Step::Spawn { agents, reason } => {
                let all = seen.current() + seen.draining + agents;
                assert!(all <= policy.hard_max(), "{all} agents are too many");
                let all_serve = plan.restored == seen.leaving;
                assert!(*agents == 0 || all_serve, "{plan:?} of {seen:?}");
                assert!(plan.restored.iter().all(|agent| seen.leaving.contains(agent)));
                self.burst |= *reason == UpReason::Burst;
                self.foreseen |= *reason == UpReason::Forecast;
                let filling = *reason == UpReason::BelowMin;
                let cooldown = if filling { Duration::ZERO } else { policy.up_cooldown };
                let by = i64::from(*agents) + number(&plan.restored);
                (by, Some(cooldown).filter(|_| !filling))
            }
            Step::Retire { agents, reason } => {
                let by = number(agents) + number(&plan.unrouted);
                let left = i64::from(seen.current()) - by;
                assert!(left >= i64::from(policy.min()), "{left} agents are too few");
                assert!(agents.iter().all(|agent| seen.idle.contains(agent)));
                assert!(plan.unrouted.iter().all(|agent| seen.busy.contains(agent)));
                assert!(plan.unrouted.is_empty() || *agents == seen.idle, "an idle one stays");
                self.shed |= *reason == DownReason::Memory;
                (-by, Some(policy.down_cooldown))
            }
        };
        if let (Some(cooldown), Some((last, before))) = (cooldown, self.steps.last()) {
            assert!(now - *last >= cooldown, "a step came {:?} after another", now - *last);
            let turned = (by > 0) != (*before > 0);
            assert!(!turned || now - *last >= policy.reverse_after, "it turned too soon");
        }
        self.steps.push((now, by));
    }

    /// Checks the whole run.
    pub(super) fn finish(self, setting: &Setting, serving: usize, waiting: usize) -> Run {
        let late: Vec<_> = self.steps.iter().filter(|(at, _)| *at >= self.quiet_from).collect();
        // Agents that die are replaced, which is no swinging.
        let steady = !setting.deaths;
        if steady {
            let turns = turns(&self.steps);
            let allowed = turns_allowed(setting);
            assert!(
                turns <= allowed,
                "{turns} turns, and {allowed} are allowed: {:?} {setting:?}",
                self.steps
            );
            if is_still(setting) {
                // A demand at the very edge of the band may cross it once, late. Waves of which some work is held for
                // long lie on each other otherwise each time, and the highest may come late.
                let is_even =
                    setting.linger.is_none() || !matches!(setting.shape, Shape::Sine { .. });
                if is_even {
                    assert!(late.len() <= 1, "it does not settle: {late:?} {setting:?}");
                    assert_met(setting, serving, waiting);
                }
            }
        }
        Run {
            settled: steady && late.is_empty(),
            steps: self.steps,
            burst: self.burst,
            foreseen: self.foreseen,
            shed: self.shed,
            beyond: self.beyond,
            unrouted: self.unrouted,
            restored: self.restored,
        }
    }
}

/// Whether the load is such that the fleet comes to rest: it stands still, or swings within a window.
fn is_still(setting: &Setting) -> bool {
    match setting.shape {
        Shape::Steps { .. } | Shape::Ramps { .. } => true,
        Shape::Sine { period, .. } => period * 1.2 < setting.policy.down_window.as_secs_f64(),
    }
}

/// How often the number of agents went from growing to shrinking or back.
fn turns(steps: &[Moved]) -> usize {
    steps.windows(2).filter(|pair| (pair[0].1 > 0) != (pair[1].1 > 0)).count()
}

/// How often the load turns, and once more for the backlog that is worked off after each rise; and once more there and back
/// where some work is held for long, of which there is more and more long after the rise.
fn turns_allowed(setting: &Setting) -> usize {
    let late = if setting.linger.is_some() { 2 } else { 0 };
    // Where some work is held for long, a step is a rise as well, as long as that.
    let rises = setting.linger.is_some() || matches!(setting.shape, Shape::Ramps { .. });
    late + match setting.shape {
        // What memory pressure takes during a rise comes back with the rise.
        Shape::Steps { .. } | Shape::Ramps { .. } => {
            if setting.memory_lies && rises {
                8
            } else {
                4
            }
        }
        // There are some thirty periods in a run: a few turns follow none of them.
        Shape::Sine { .. } if is_still(setting) => 4,
        Shape::Sine { period, .. } => {
            let turns = if setting.memory_lies { 4 } else { 2 };
            2 + turns * (setting.length.as_secs_f64() / period).ceil() as usize
        }
    }
}

/// The agents there are do the work that comes, if there may be so many.
fn assert_met(setting: &Setting, serving: usize, waiting: usize) {
    let load = setting.load(setting.length.as_secs_f64());
    let slots = serving as f64 * f64::from(setting.leases_per_agent);
    let policy = &setting.policy;
    let most = f64::from(policy.max()) * f64::from(setting.leases_per_agent);
    if load < 0.8 * most {
        assert!(slots > load, "{slots} slots for {load}: {setting:?}");
        assert!((waiting as f64) < load * 4.0 + 8.0, "{waiting} wait: {setting:?}");
    }
}
