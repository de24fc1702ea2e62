//! What holds for every sequence of observations and every policy.

use super::*;
use crate::fleet::scale::ScalePolicyBuilder;
use proptest::option;
use proptest::prelude::*;
use std::num::NonZeroU32;

const PER_AGENT: u32 = 4;

fn millis(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn some_policy() -> impl Strategy<Value = ScalePolicyBuilder> {
    let limits = (0..10_u32, 1..60_u32, 0..20_u32);
    let band = (0.05..0.9_f64, 0.05..0.9_f64, 0.05..0.9_f64);
    let windows = (millis(0..3000), millis(0..9000));
    let cooldowns = (millis(0..2000), millis(0..4000), millis(0..4000));
    let caps = (1..20_u32, 0.0..2.0_f64, 1..20_u32, 0.0..1.0_f64);
    let signals = (option::of(0.3..1.0_f64), option::of(millis(1..500)));
    (limits, band, windows, cooldowns, caps, signals).prop_map(
        |(limits, band, windows, cooldowns, caps, (ceiling, response))| {
            let mut edges = [band.0, band.1 + 0.01, band.2 + 0.02];
            edges.sort_by(f64::total_cmp);
            let cap = |agents| NonZeroU32::new(agents).expect("the range starts at one");
            let mut builder = ScalePolicy::builder()
                .min(limits.0.min(limits.1))
                .max(limits.1)
                .burst(limits.2)
                .utilisation(edges[0], edges[1], edges[2])
                .up_window(windows.0)
                .down_window(windows.1)
                .up_cooldown(cooldowns.0)
                .down_cooldown(cooldowns.1)
                .reverse_after(cooldowns.2)
                .step_up(cap(caps.0), caps.1)
                .step_down(cap(caps.2), caps.3);
            if let Some(share) = ceiling {
                builder = builder.cpu_ceiling(share).memory_ceiling(share).memory_shed(share);
            }
            if let Some(time) = response {
                builder = builder.response_time(time);
            }
            builder
        },
    )
}

fn built(builder: ScalePolicyBuilder) -> Result<ScalePolicy, TestCaseError> {
    // Two edges of a random band may be equal.
    builder.build().map_err(|error| TestCaseError::reject(error.to_string()))
}

/// A number of the kind that systems report, and of the kind that they should not.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => 0.0..1.2_f64,
        2 => 0.0..500.0_f64,
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(-1.0),
        1 => Just(f64::MAX),
    ]
}

#[derive(Clone, Debug)]
struct Moment {
    after: Duration,
    serving: u32,
    starting: u32,
    draining: u32,
    failed: u32,
    unmade: u32,
    next_trial: Option<Duration>,
    held_back: u32,
    circuit_open: bool,
    leases: u64,
    queued: u64,
    at_once: u64,
    idle: u32,
    busy: u32,
    leaving: u32,
    cpu: Option<f64>,
    memory: Option<f64>,
    forecast: Option<f64>,
    response: Option<Duration>,
    service: Option<Duration>,
}

fn moment() -> impl Strategy<Value = Moment> {
    let agents = (0..90_u32, 0..20_u32, 0..20_u32, 0..90_u32, 0..90_u32, 0..30_u32);
    let some = || prop_oneof![2 => Just(0_u32), 1 => 0..40_u32];
    let down = (some(), proptest::bool::weighted(0.2), some(), some(), option::of(millis(0..9000)));
    let at_once = prop_oneof![2 => Just(0_u64), 1 => 0..200_u64];
    let work = (0..400_u64, prop_oneof![3 => 0..200_u64, 1 => 0..u64::MAX], at_once);
    let readings = (option::of(number()), option::of(number()), option::of(number()));
    let times = (option::of(millis(0..1000)), option::of(millis(0..1000)));
    (millis(0..2000), agents, down, work, readings, times).prop_map(
        |(after, agents, down, work, readings, times)| Moment {
            after,
            serving: agents.0,
            starting: agents.1,
            draining: agents.2,
            failed: down.0,
            unmade: down.3,
            next_trial: down.4,
            held_back: if down.1 { down.2 } else { 0 },
            circuit_open: down.1,
            idle: agents.3.min(agents.0),
            busy: agents.4.min(agents.0 - agents.3.min(agents.0)),
            leaving: agents.5,
            leases: work.0,
            queued: work.1,
            at_once: work.2,
            cpu: readings.0,
            memory: readings.1,
            forecast: readings.2,
            response: times.0,
            service: times.1,
        },
    )
}

impl Moment {
    fn observation(&self) -> Observation {
        Observation {
            starting: self.starting,
            serving: self.serving,
            draining: self.draining,
            failed: self.failed,
            unmade: ids(self.unmade),
            next_trial: self.next_trial.map(Timestamp::from_start),
            held_back: self.held_back,
            circuit_open: self.circuit_open,
            leases_per_agent: PER_AGENT,
            leases: self.leases,
            queued: self.queued,
            at_once: self.at_once,
            service_time: self.service,
            response_time: self.response,
            cpu: self.cpu,
            memory: self.memory,
            forecast: self.forecast,
            idle: ids(self.idle),
            busy: ids_from(100, self.busy),
            leaving: ids_from(200, self.leaving),
        }
    }
}

fn ids(count: u32) -> Vec<AgentId> {
    ids_from(0, count)
}

fn ids_from(first: u32, count: u32) -> Vec<AgentId> {
    (first..first + count).map(|slot| AgentId { slot, generation: 7 }).collect()
}

/// How many agents a plan leads to.
fn after(plan: &Plan) -> i64 {
    i64::from(plan.current) + moved(plan)
}

/// How many agents more that are.
fn moved(plan: &Plan) -> i64 {
    let number = |agents: &[AgentId]| i64::try_from(agents.len()).expect("few");
    match &plan.step {
        Step::Hold => 0,
        Step::Spawn { agents, .. } => i64::from(*agents) + number(&plan.restored),
        Step::Retire { agents, .. } => -number(agents) - number(&plan.unrouted),
    }
}

/// What rules 1, 2 and 6 say of a single plan.
fn validate(
    plan: &Plan,
    seen: &Observation,
    policy: &ScalePolicy,
    now: Timestamp,
) -> Result<(), TestCaseError> {
    let replaced = u32::try_from(plan.replaced.len()).expect("few");
    prop_assert!(seen.unmade.starts_with(&plan.replaced) && replaced <= seen.failed);
    prop_assert!(replaced == 0 || matches!(plan.step, Step::Spawn { .. }), "it adds none");
    prop_assert!(seen.leaving.starts_with(&plan.restored) && seen.busy.starts_with(&plan.unrouted));
    prop_assert!(plan.restored.is_empty() || moved(plan) > 0, "it serves again in a step down");
    prop_assert!(plan.unrouted.is_empty() || moved(plan) < 0, "it is unrouted in a step up");
    match &plan.step {
        Step::Hold => {}
        Step::Spawn { agents, .. } => {
            let restored = u32::try_from(plan.restored.len()).expect("few");
            prop_assert!(restored <= seen.draining && moved(plan) > 0);
            let all_serve = restored == count(&seen.leaving).min(seen.draining);
            let none_could_be_tried = seen.circuit_open && restored == 0;
            prop_assert!(
                *agents == 0 || all_serve || none_could_be_tried,
                "some leave, and others are added"
            );
            prop_assert!(*agents > 0 || replaced == 0);
            let there = seen.current() + seen.held_back;
            let all = there + seen.draining + seen.failed - replaced + agents;
            prop_assert!(
                *agents == 0 || all <= policy.hard_max(),
                "{all} of {}",
                policy.hard_max()
            );
            if seen.circuit_open {
                let is_time = seen.next_trial.is_none_or(|at| at <= now);
                let to_try = there == 0 && *agents + restored == 1 && is_time;
                let filled = there + seen.failed + agents + restored;
                let fills = filled <= policy.min() && replaced == 0;
                prop_assert!(to_try || fills, "{filled}, and the circuit is open");
            }
        }
        Step::Retire { agents, .. } => {
            prop_assert!(moved(plan) < 0);
            let (retired, unrouted) = (count(agents), count(&plan.unrouted));
            prop_assert!(unrouted == 0 || agents.len() == seen.idle.len(), "an idle one stays");
            let serving = seen.serving - retired - unrouted;
            prop_assert!(unrouted == 0 || serving >= policy.min(), "{serving} serve");
            prop_assert!(after(plan) >= i64::from(policy.min()));
            prop_assert!(agents.iter().all(|agent| seen.idle.contains(agent)));
            let mut once = agents.clone();
            once.dedup();
            prop_assert_eq!(once.len(), agents.len());
        }
    }
    prop_assert!(plan.demand.is_finite());
    prop_assert!((policy.min()..=policy.hard_max()).contains(&plan.wanted));
    let until = plan.refusals.iter().filter_map(|refusal| refusal.until()).min();
    prop_assert_eq!(plan.next_check, until);
    let out_of_band = plan.wanted != plan.current
        && (plan.demand > policy.high * seen.slots_of(plan.current) + SLACK
            || plan.current < policy.min() && !seen.circuit_open);
    if out_of_band && plan.step == Step::Hold {
        prop_assert!(!plan.refusals.is_empty(), "it neither acts nor says why");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn limits_caps_and_cooldowns_hold_for_any_sequence(
        builder in some_policy(),
        moments in proptest::collection::vec(moment(), 1..60),
    ) {
        let policy = built(builder)?;
        let mut state = ScaleState::new();
        let mut now = Timestamp::ZERO;
        let mut last: Option<(Timestamp, bool)> = None;
        for moment in &moments {
            now = now + moment.after;
            let seen = moment.observation();
            let plan = plan(&seen, &policy, &mut state, now);
            validate(&plan, &seen, &policy, now)?;
            let moves = usize::try_from(moved(&plan).unsigned_abs()).expect("few");
            let (up, cap, cooldown) = match &plan.step {
                Step::Hold => {
                    prop_assert!(plan.next_check.is_none_or(|next| next > now));
                    continue;
                }
                Step::Spawn { reason: UpReason::BelowMin, .. } => {
                    last = Some((now, true));
                    continue;
                }
                Step::Spawn { .. } => (true, policy.step_up, policy.up_cooldown),
                Step::Retire { .. } => (false, policy.step_down, policy.down_cooldown),
            };
            prop_assert!(moves <= cap.of(plan.current) as usize);
            if let Some((at, was_up)) = last {
                prop_assert!(now - at >= cooldown);
                prop_assert!(was_up == up || now - at >= policy.reverse_after);
            }
            last = Some((now, up));
            prop_assert_eq!(state.last_step(), Some(now));
        }
    }

    #[test]
    fn more_load_never_plans_fewer_agents(
        builder in some_policy(),
        moments in proptest::collection::vec(moment(), 1..20),
        more_leases in 0..300_u64,
        more_queued in 0..300_u64,
    ) {
        let policy = built(builder)?;
        let mut state = ScaleState::new();
        let mut now = Timestamp::ZERO;
        for moment in &moments {
            now = now + moment.after;
            let less = moment.observation();
            let mut more = less.clone();
            more.leases += more_leases;
            more.queued = more.queued.saturating_add(more_queued);
            let busier = plan(&more, &policy, &mut state.clone(), now);
            let calmer = plan(&less, &policy, &mut state, now);
            prop_assert!(busier.wanted >= calmer.wanted);
            prop_assert!(after(&busier) >= after(&calmer), "{calmer:?} and {busier:?}");
        }
    }

    /// Rule 4, whatever forecast, response time and memory say. These may add agents late, to a fleet that
    /// came down to its target before; what they added stays.
    #[test]
    fn constant_demand_never_takes_away_what_was_added(
        builder in some_policy(),
        serving in 0..90_u32,
        leases in 0..400_u64,
        idle_in_four in 0..5_u32,
        noise in proptest::collection::vec((number(), number(), 0..900_u64), 150),
    ) {
        let policy = built(builder)?;
        let mut state = ScaleState::new();
        let mut now = Timestamp::ZERO;
        let mut agents = i64::from(serving);
        let mut leaving = 0;
        let mut directions = Vec::new();
        for (forecast, memory, response) in noise {
            now = now + Duration::from_secs(2);
            let serving = u32::try_from(agents).expect("rule 1");
            let idle = serving * idle_in_four / 4;
            // Some have ended.
            leaving -= u32::try_from(response).expect("short").min(leaving);
            let seen = Observation::new()
                .with_serving(serving)
                .with_leases_per_agent(PER_AGENT)
                .with_leases(leases)
                .with_forecast(forecast)
                .with_memory(memory)
                .with_response_time(Duration::from_millis(response))
                .with_idle(ids(idle))
                .with_busy(ids_from(100, serving - idle))
                .with_draining(leaving)
                .with_leaving(ids_from(200, leaving));
            let plan = plan(&seen, &policy, &mut state, now);
            agents = after(&plan);
            leaving = leaving + count(&plan.unrouted) - count(&plan.restored);
            match &plan.step {
                Step::Hold => {}
                // Memory that comes and goes moves the fleet inside its band, and no further.
                Step::Retire { reason: DownReason::Memory, .. } => directions.clear(),
                Step::Spawn { .. } => directions.push(true),
                Step::Retire { .. } => directions.push(false),
            }
        }
        directions.dedup();
        prop_assert!(!matches!(directions[..], [true, false, ..]), "{directions:?}");
        prop_assert!(directions.len() <= 2, "{directions:?}");
        let slots = agents as f64 * f64::from(PER_AGENT);
        let demand = leases as f64;
        let target = (demand / (policy.target * f64::from(PER_AGENT))).ceil() as i64;
        let fewest = agents <= target.max(i64::from(policy.min()));
        prop_assert!(fewest || demand >= policy.low * slots - SLACK, "{agents} agents for {leases} leases");
        let met = agents >= i64::from(policy.max()) || demand <= policy.high * slots + SLACK;
        prop_assert!(met || policy.cpu_ceiling.is_some(), "{agents} agents for {leases} leases");
    }
}
