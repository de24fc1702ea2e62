//! What a plan is for given observations, at the edges of every threshold.

use super::*;
use crate::ErrorKind;
use crate::fleet::scale::ScalePolicyBuilder;
use std::num::NonZeroU32;

mod failed;
mod leaving;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_start(Duration::from_secs_f64(seconds))
}

fn ids(count: u32) -> Vec<AgentId> {
    (0..count).map(|slot| AgentId { slot, generation: 1 }).collect()
}

/// So many agents of ten leases each, so many of them idle, and so many leases held.
fn seen(serving: u32, leases: u64, idle: u32) -> Observation {
    Observation::new()
        .with_serving(serving)
        .with_leases_per_agent(10)
        .with_leases(leases)
        .with_idle(ids(idle))
}

/// Acts on every observation at once, within 10 to 100 agents and a band of 0.4, 0.5, 0.8.
fn eager() -> ScalePolicyBuilder {
    let all = NonZeroU32::new(1000).expect("not zero");
    ScalePolicy::builder()
        .min(10)
        .max(100)
        .utilisation(0.4, 0.5, 0.8)
        .up_window(Duration::ZERO)
        .down_window(Duration::ZERO)
        .up_cooldown(Duration::ZERO)
        .down_cooldown(Duration::ZERO)
        .reverse_after(Duration::ZERO)
        .step_up(all, 0.0)
        .step_down(all, 0.0)
}

fn built(builder: ScalePolicyBuilder) -> ScalePolicy {
    builder.build().expect("the tests' policies are valid")
}

fn first(observation: &Observation, builder: ScalePolicyBuilder) -> Plan {
    plan(observation, &built(builder), &mut ScaleState::new(), at(0.0))
}

fn spawned(plan: &Plan) -> (u32, UpReason) {
    match plan.step {
        Step::Spawn { agents, reason } => (agents, reason),
        ref other => panic!("no agents are added: {other:?}, {:?}", plan.refusals),
    }
}

fn retired(plan: &Plan) -> (u32, DownReason) {
    match &plan.step {
        Step::Retire { agents, reason } => (u32::try_from(agents.len()).expect("few"), *reason),
        other => panic!("no agents are taken away: {other:?}, {:?}", plan.refusals),
    }
}

fn held(plan: &Plan) -> &[Refusal] {
    assert_eq!(plan.step, Step::Hold);
    &plan.refusals
}

#[test]
fn inside_the_band_nothing_is_done() {
    for leases in [80, 100, 160] {
        assert_eq!(held(&first(&seen(20, leases, 20), eager())), [], "{leases} of 200");
    }
}

#[test]
fn a_breach_of_the_band_leads_to_the_target() {
    let plan = first(&seen(20, 161, 20), eager());
    assert_eq!((spawned(&plan), plan.wanted), ((13, UpReason::Utilisation), 33));
    let plan = first(&seen(20, 79, 20), eager());
    assert_eq!((retired(&plan), plan.wanted), ((4, DownReason::Utilisation), 16));
    assert_eq!(plan.current, 20);
    assert_eq!(plan.demand, 79.0);
}

#[test]
fn starting_agents_count_so_that_what_was_asked_for_is_not_asked_for_again() {
    assert_eq!(held(&first(&seen(20, 160, 0).with_starting(13), eager())), []);
    let first = first(&seen(0, 0, 0).with_queued(100).with_starting(10), eager());
    assert_eq!(spawned(&first), (10, UpReason::Backlog));
}

#[test]
fn below_min_is_filled_up_at_once_whatever_holds_the_rest_back() {
    let policy = built(
        eager()
            .up_window(SECOND)
            .up_cooldown(SECOND)
            .reverse_after(SECOND)
            .step_up(NonZeroU32::MIN, 0.0)
            .cpu_ceiling(0.5),
    );
    let mut state = ScaleState::new();
    let empty = Observation::new().with_cpu(1.0);
    for seconds in [0.0, 0.1] {
        let plan = plan(&empty, &policy, &mut state, at(seconds));
        assert_eq!(spawned(&plan), (10, UpReason::BelowMin));
    }
    let one_short = Observation::new().with_serving(9).with_cpu(1.0);
    assert_eq!(spawned(&plan(&one_short, &policy, &mut state, at(0.2))), (1, UpReason::BelowMin));
    let enough = Observation::new().with_serving(10).with_cpu(1.0);
    assert_eq!(plan(&enough, &policy, &mut state, at(0.3)).step, Step::Hold);
}

#[test]
fn nothing_is_added_above_max_and_draining_agents_count() {
    let plan = first(&seen(90, 900, 0), eager());
    assert_eq!(spawned(&plan), (10, UpReason::Utilisation));
    assert!(plan.refusals.contains(&Refusal::AtMax), "{:?}", plan.refusals);
    let plan = first(&seen(90, 900, 0).with_draining(7), eager());
    assert_eq!(spawned(&plan), (3, UpReason::Utilisation));
    let plan = first(&seen(90, 900, 0).with_draining(10), eager());
    assert_eq!(held(&plan), [Refusal::AtMax]);
    let plan = first(&seen(30, 250, 0).with_draining(60), eager());
    assert_eq!(spawned(&plan), (10, UpReason::Utilisation));
    assert_eq!(plan.refusals, [Refusal::AtMax], "it wants 20, and there is room for 10");
    let plan = first(&seen(30, 250, 0).with_draining(50), eager());
    assert_eq!((spawned(&plan).0, plan.refusals.as_slice()), (20, &[] as &[Refusal]));
    let plan = first(&seen(60, 500, 0), eager());
    assert_eq!(
        (spawned(&plan).0, plan.refusals.as_slice()),
        (40, &[] as &[Refusal]),
        "all it wants"
    );
    let plan = first(&seen(60, 500, 0).with_draining(10), eager());
    assert_eq!((spawned(&plan).0, plan.refusals.as_slice()), (30, &[Refusal::AtMax] as &[Refusal]));
    assert_eq!(held(&first(&seen(100, 1000, 0), eager())), [Refusal::AtMax]);
    let plan = first(&seen(5, 0, 0).with_draining(95), eager());
    assert_eq!(held(&plan), [Refusal::AtMax], "min gives way to max");
    assert_eq!(spawned(&first(&seen(5, 0, 0).with_draining(93), eager())).0, 2);
}

#[test]
fn above_the_greatest_number_idle_agents_go_whatever_the_demand() {
    let plan = first(&seen(105, 1050, 3), eager().down_window(SECOND));
    assert_eq!(retired(&plan), (3, DownReason::AboveMax));
    assert_eq!(plan.refusals, [Refusal::Busy { agents: 2 }]);
    assert_eq!(retired(&first(&seen(105, 1050, 9), eager())), (5, DownReason::AboveMax));
    assert_eq!(held(&first(&seen(105, 1050, 9), eager().burst(5))), [Refusal::AtMax]);
}

#[test]
fn a_burst_takes_demand_that_max_agents_cannot_bear() {
    let policy = || eager().burst(20);
    // 100 agents bear 800 leases inside the band.
    assert_eq!(spawned(&first(&seen(90, 800, 0), policy())), (10, UpReason::Utilisation));
    assert_eq!(held(&first(&seen(100, 800, 0), policy())), []);
    let plan = first(&seen(100, 801, 0), policy());
    assert_eq!(spawned(&plan), (20, UpReason::Burst));
    assert!(plan.refusals.contains(&Refusal::AtMax));
    assert_eq!(plan.wanted, 120);
    assert_eq!(spawned(&first(&seen(50, 801, 0), policy())), (70, UpReason::Burst));
    // A backlog of a millionth of a lease is the very edge.
    let edge = seen(90, 800, 0).with_queued(1).with_service_time(Duration::from_micros(1));
    assert_eq!(spawned(&first(&edge, policy().backlog_within(SECOND))).0, 10);
    assert_eq!(held(&first(&seen(120, 1200, 0), policy())), [Refusal::AtMax]);
}

#[test]
fn the_room_of_a_burst_is_for_its_demand_alone() {
    let policy = || eager().burst(20);
    let plan = first(&seen(90, 730, 0).with_draining(10), policy());
    assert_eq!(held(&plan), [Refusal::AtMax], "draining ones count towards max");
    assert_eq!(spawned(&first(&seen(90, 801, 0).with_draining(10), policy())).0, 20);
    assert_eq!(held(&first(&seen(5, 0, 0).with_draining(95), policy())), [Refusal::AtMax]);
}

#[test]
fn a_burst_ends_when_max_agents_meet_the_target() {
    let policy = || eager().burst(20);
    assert_eq!(held(&first(&seen(120, 500, 120), policy())), [], "100 agents just meet it");
    assert_eq!(retired(&first(&seen(120, 499, 120), policy())), (20, DownReason::BurstOver));
    assert_eq!(held(&first(&seen(100, 499, 120), policy())), [], "max is no burst");
}

#[test]
fn a_burst_far_above_max_leaves_its_band_first() {
    // The band of 200 agents ends at 800 leases, where 100 agents would be short of the target.
    let policy = || eager().burst(100);
    assert_eq!(held(&first(&seen(200, 800, 200), policy())), []);
    assert_eq!(retired(&first(&seen(200, 799, 200), policy())), (40, DownReason::BurstOver));
}

#[test]
fn forecasts_and_slow_answers_start_no_burst() {
    let policy = || eager().burst(20).response_time(SECOND);
    let plan =
        first(&seen(90, 700, 0).with_forecast(1e9).with_response_time(SECOND * 99), policy());
    assert_eq!(held(&plan).len(), 2, "the target of 100 agents is in the band of 90");
    let plan = first(&seen(60, 480, 0).with_forecast(1e9).with_response_time(SECOND), policy());
    assert_eq!(spawned(&plan), (40, UpReason::Forecast));
}

#[test]
fn more_agents_take_a_breach_that_lasts() {
    let policy = built(eager().up_window(SECOND * 2));
    let mut state = ScaleState::new();
    let mut step = |leases, seconds| plan(&seen(20, leases, 0), &policy, &mut state, at(seconds));
    assert_eq!(held(&step(170, 0.0)), [Refusal::UpWindow { until: at(2.0) }]);
    assert_eq!(step(170, 1.0).next_check, Some(at(2.0)));
    assert_eq!(held(&step(160, 1.5)), [], "one observation inside the band starts it anew");
    assert_eq!(held(&step(170, 1.6)), [Refusal::UpWindow { until: at(3.6) }]);
    assert_eq!(held(&step(170, 3.5)), [Refusal::UpWindow { until: at(3.6) }]);
    assert_eq!(spawned(&step(200, 3.6)), (14, UpReason::Utilisation));
}

#[test]
fn more_agents_are_sized_by_the_least_demand_of_the_window() {
    let policy = built(eager().up_window(SECOND * 2));
    let mut state = ScaleState::new();
    let mut step = |leases, seconds| plan(&seen(20, leases, 0), &policy, &mut state, at(seconds));
    step(190, 0.0);
    step(165, 1.0);
    assert_eq!(spawned(&step(200, 2.0)), (13, UpReason::Utilisation));
}

#[test]
fn fewer_agents_take_a_breach_that_lasts_and_are_sized_by_the_greatest_demand() {
    let policy = built(eager().down_window(SECOND * 60));
    let mut state = ScaleState::new();
    let mut step = |leases, seconds| plan(&seen(40, leases, 40), &policy, &mut state, at(seconds));
    assert_eq!(held(&step(10, 0.0)), [Refusal::DownWindow { until: at(60.0) }]);
    assert_eq!(held(&step(160, 30.0)), []);
    assert_eq!(held(&step(110, 40.0)), [Refusal::DownWindow { until: at(100.0) }]);
    assert_eq!(held(&step(0, 99.0)), [Refusal::DownWindow { until: at(100.0) }]);
    let plan = step(0, 100.0);
    assert_eq!(retired(&plan), (18, DownReason::Utilisation), "110 leases want 22 agents");
    assert_eq!(plan.wanted, 10);
}

#[test]
fn observations_far_apart_still_make_a_window() {
    let policy = built(eager().up_window(SECOND));
    let mut state = ScaleState::new();
    assert_eq!(plan(&seen(20, 200, 0), &policy, &mut state, at(0.0)).step, Step::Hold);
    let second = plan(&seen(20, 200, 0), &policy, &mut state, at(3600.0));
    assert_eq!(spawned(&second), (20, UpReason::Utilisation));
}

#[test]
fn cooldowns_count_from_any_step() {
    let policy = built(eager().up_cooldown(SECOND * 3).down_cooldown(SECOND * 9));
    let mut state = ScaleState::new();
    let mut step = |leases, seconds| plan(&seen(20, leases, 20), &policy, &mut state, at(seconds));
    spawned(&step(200, 0.0));
    assert_eq!(held(&step(200, 2.9)), [Refusal::Cooldown { until: at(3.0) }]);
    spawned(&step(200, 3.0));
    assert_eq!(held(&step(0, 11.9)), [Refusal::Cooldown { until: at(12.0) }]);
    assert_eq!(retired(&step(0, 12.0)), (10, DownReason::Utilisation));
    assert_eq!(held(&step(0, 20.9)), [Refusal::Cooldown { until: at(21.0) }]);
    retired(&step(0, 21.0));
    assert_eq!(held(&step(200, 23.9)), [Refusal::Cooldown { until: at(24.0) }]);
    spawned(&step(200, 24.0));
}

#[test]
fn a_step_against_the_last_one_waits_longer() {
    let policy = built(eager().reverse_after(SECOND * 5));
    let mut state = ScaleState::new();
    let mut step = |leases, seconds| plan(&seen(20, leases, 20), &policy, &mut state, at(seconds));
    spawned(&step(200, 0.0));
    spawned(&step(200, 0.0));
    let plan = step(0, 4.9);
    assert_eq!(held(&plan), [Refusal::Reversal { until: at(5.0) }]);
    assert_eq!(plan.next_check, Some(at(5.0)));
    retired(&step(0, 5.0));
    retired(&step(0, 5.0));
    assert_eq!(held(&step(200, 9.9)), [Refusal::Reversal { until: at(10.0) }]);
    spawned(&step(200, 10.0));
}

#[test]
fn a_step_is_capped_and_says_what_is_left() {
    let cap = |agents| NonZeroU32::new(agents).expect("not zero");
    let policy = eager().step_up(cap(5), 0.5).step_down(cap(3), 0.1);
    let policy = built(policy.up_cooldown(SECOND).down_cooldown(SECOND * 2));
    let fresh = |observation| plan(&observation, &policy, &mut ScaleState::new(), at(7.0));
    let up = fresh(seen(20, 200, 0));
    assert_eq!(spawned(&up), (10, UpReason::Utilisation));
    assert_eq!(up.refusals, [Refusal::StepCap { left: 10, until: at(8.0) }]);
    assert_eq!(up.next_check, Some(at(8.0)));
    let down = fresh(seen(20, 60, 20));
    assert_eq!(retired(&down), (3, DownReason::Utilisation));
    assert_eq!(down.refusals, [Refusal::StepCap { left: 5, until: at(9.0) }]);
    assert_eq!(fresh(seen(40, 400, 0)).refusals[0].until(), Some(at(8.0)));
    assert_eq!(spawned(&fresh(seen(40, 330, 0))).0, 20);
    let all = fresh(seen(13, 50, 10));
    assert_eq!((retired(&all).0, all.refusals.as_slice()), (3, &[] as &[Refusal]), "all of it");
}

#[test]
fn only_idle_agents_are_taken_and_in_the_order_given() {
    let plan = first(&seen(20, 50, 4), eager());
    assert_eq!(plan.step, Step::Retire { agents: ids(4), reason: DownReason::Utilisation });
    assert_eq!(plan.refusals, [Refusal::Busy { agents: 6 }]);
    assert_eq!(held(&first(&seen(20, 50, 0), eager())), [Refusal::Busy { agents: 10 }]);
    let plan = first(&seen(20, 50, 15), eager());
    assert_eq!(plan.step, Step::Retire { agents: ids(10), reason: DownReason::Utilisation });
    assert_eq!(first(&seen(20, 50, 10), eager()).refusals, [], "just enough");
}

#[test]
fn min_agents_stay_however_idle() {
    assert_eq!(retired(&first(&seen(12, 0, 12), eager())), (2, DownReason::Utilisation));
    assert_eq!(held(&first(&seen(10, 0, 10), eager())), [Refusal::AtMin]);
    assert_eq!(first(&seen(10, 0, 10), eager()).wanted, 10);
}

#[test]
fn an_empty_fleet_wakes_up_for_the_first_task() {
    let policy = || eager().min(0);
    let none = Observation::new();
    assert_eq!(held(&first(&none, policy())), []);
    assert_eq!(spawned(&first(&none.with_queued(1), policy())), (2, UpReason::Backlog));
    assert_eq!(held(&first(&seen(1, 1, 0), policy())), [], "one agent is what one lease takes");
    let last = Observation::new().with_serving(1).with_idle(ids(1));
    assert_eq!(retired(&first(&last, policy())), (1, DownReason::Utilisation));
}

#[test]
fn an_empty_fleet_wakes_up_for_work_of_any_shortness() {
    let policy = || eager().min(0).backlog_within(SECOND * 5);
    for time in [Duration::ZERO, Duration::from_nanos(1), Duration::from_micros(50)] {
        for per_agent in [1, 16, u32::MAX] {
            let one = Observation::new().with_leases_per_agent(per_agent).with_queued(1);
            let short = one.clone().with_service_time(time);
            assert_eq!(spawned(&first(&short, policy())), (1, UpReason::Backlog), "{time:?}");
            assert_eq!(held(&first(&short.with_serving(1).with_idle(ids(1)), policy())), []);
            let wanted = first(&one, policy()).wanted;
            assert_eq!(wanted, if per_agent == 1 { 2 } else { 1 }, "{per_agent}");
        }
    }
}

#[test]
fn a_backlog_counts_by_the_time_it_takes() {
    let policy = || eager().backlog_within(SECOND * 10);
    let backlog = seen(20, 150, 0).with_queued(100);
    assert_eq!(held(&first(&backlog.clone().with_service_time(SECOND), policy())), []);
    let plan = first(&backlog.with_service_time(SECOND * 2), policy());
    assert_eq!(spawned(&plan), (14, UpReason::Backlog));
}

#[test]
fn a_forecast_adds_agents_well_within_what_the_demand_would_keep() {
    // 120 leases are well inside the band of 26 agents, and 26 agents are the target of 130 leases.
    let plan = first(&seen(20, 120, 0).with_forecast(1e9), eager());
    assert_eq!(held(&plan), [Refusal::BeyondBand(Reading::Forecast)]);
    assert_eq!(plan.demand, 130.0);
    let plan = first(&seen(20, 158, 0).with_forecast(170.0), eager());
    assert_eq!(spawned(&plan), (14, UpReason::Forecast));
    assert_eq!(plan.refusals, []);
    let plan = first(&seen(20, 158, 0).with_forecast(176.0), eager());
    assert_eq!(spawned(&plan), (15, UpReason::Forecast), "35 are kept");
    assert_eq!(plan.refusals, [Refusal::BeyondBand(Reading::Forecast)]);
    let exact = first(&seen(20, 158, 0).with_forecast(175.0), eager());
    assert_eq!((spawned(&exact).0, exact.refusals.as_slice()), (15, &[] as &[Refusal]));
}

#[test]
fn agents_of_a_wrong_forecast_are_not_taken_down_again() {
    let plan = first(&seen(20, 158, 0).with_forecast(1e9), eager());
    let (added, _) = spawned(&plan);
    assert_eq!(added, 15);
    for leases in [158, 149, 140] {
        assert_eq!(held(&first(&seen(20 + added, leases, 20), eager())), [], "a tenth is noise");
    }
}

#[test]
fn a_low_forecast_takes_nobody_away() {
    assert_eq!(held(&first(&seen(20, 100, 20).with_forecast(0.0), eager())), []);
    assert_eq!(retired(&first(&seen(20, 79, 20).with_forecast(0.0), eager())).0, 4);
}

#[test]
fn an_expected_rise_keeps_agents_that_would_go_as_far_as_the_band_does() {
    assert_eq!(retired(&first(&seen(20, 79, 20).with_forecast(79.0), eager())).0, 4);
    assert_eq!(retired(&first(&seen(20, 79, 20).with_forecast(82.0), eager())).0, 3);
    assert_eq!(retired(&first(&seen(20, 79, 20).with_forecast(1e9), eager())).0, 3);
}

#[test]
fn an_expected_rise_of_any_time_in_the_window_keeps_agents() {
    let policy = built(eager().down_window(SECOND * 10));
    let mut state = ScaleState::new();
    let quiet = seen(20, 70, 20);
    plan(&quiet.clone().with_forecast(80.0), &policy, &mut state, at(0.0));
    assert_eq!(retired(&plan(&quiet, &policy, &mut state, at(10.0))).0, 5, "or it would be 6");
}

#[test]
fn slow_answers_add_agents_that_are_busy() {
    let policy = || eager().response_time(SECOND);
    let slow = |leases, time| seen(20, leases, 0).with_response_time(time);
    assert_eq!(held(&first(&slow(150, SECOND), policy())), []);
    assert_eq!(held(&first(&slow(150, SECOND * 8 / 5), policy())), [], "high / target is 1.6");
    let plan = first(&slow(150, SECOND * 17 / 10), policy());
    assert_eq!(spawned(&plan), (13, UpReason::ResponseTime));
    let plan = first(&slow(100, SECOND * 60), policy());
    assert_eq!(held(&plan), [Refusal::BeyondBand(Reading::ResponseTime)]);
    assert_eq!(
        held(&first(&seen(20, 150, 0), policy())),
        [Refusal::NotRead(Reading::ResponseTime)]
    );
    assert_eq!(held(&first(&slow(150, SECOND * 60), eager())), [], "nobody asked for it");
}

#[test]
fn an_answer_within_its_time_counts_for_nothing() {
    let policy = || eager().response_time(SECOND * 2);
    let answer = |time| first(&seen(20, 99, 0).with_response_time(time), policy()).demand;
    assert_eq!(answer(SECOND * 2), 99.0);
    assert_eq!(answer(SECOND * 21 / 10), 105.0, "a tenth more is 21 agents at their target");
}

#[test]
fn a_signal_at_the_very_edge_is_no_breach_and_no_reason() {
    let edge = 0.8 * 200.0 + SLACK;
    assert_eq!(held(&first(&seen(20, 150, 0).with_forecast(edge), eager())), []);
    let same = first(&seen(20, 170, 0).with_forecast(170.0), eager());
    assert_eq!(spawned(&same).1, UpReason::Utilisation);
}

#[test]
fn the_greater_of_forecast_and_response_time_is_the_reason() {
    let policy = || eager().response_time(SECOND);
    let both = |forecast| {
        let slow = seen(20, 158, 0).with_response_time(SECOND * 17 / 10);
        spawned(&first(&slow.with_forecast(forecast), policy()))
    };
    assert_eq!(both(180.0), (15, UpReason::Forecast));
    assert_eq!(both(165.0), (14, UpReason::ResponseTime));
}

#[test]
fn a_busy_processor_holds_growth_until_it_is_well_below_its_ceiling() {
    let policy = built(eager().cpu_ceiling(0.8));
    let mut state = ScaleState::new();
    let mut step = |cpu| plan(&seen(20, 200, 20).with_cpu(cpu), &policy, &mut state, at(0.0));
    spawned(&step(0.799));
    assert_eq!(held(&step(0.8)), [Refusal::CpuCeiling]);
    assert_eq!(held(&step(0.76)), [Refusal::CpuCeiling]);
    spawned(&step(0.749));
    spawned(&step(0.76));
    assert_eq!(held(&step(0.9)), [Refusal::CpuCeiling]);
    let mut state = ScaleState::new();
    let idle = seen(20, 0, 20).with_cpu(1.0);
    assert_eq!(retired(&plan(&idle, &policy, &mut state, at(0.0))).0, 10);
}

#[test]
fn a_low_ceiling_lets_growth_go_on_too() {
    let policy = built(eager().cpu_ceiling(0.04));
    let mut state = ScaleState::new();
    let mut step = |cpu| plan(&seen(20, 200, 20).with_cpu(cpu), &policy, &mut state, at(0.0));
    assert_eq!(held(&step(0.04)), [Refusal::CpuCeiling]);
    assert_eq!(held(&step(0.02)), [Refusal::CpuCeiling]);
    spawned(&step(0.019));
}

#[test]
fn short_memory_holds_growth_and_then_sheds_what_the_band_can_spare() {
    let policy = built(eager().memory_ceiling(0.8).memory_shed(0.9));
    let step = |leases, memory| {
        let observation = seen(20, leases, 20).with_memory(memory);
        plan(&observation, &policy, &mut ScaleState::new(), at(0.0))
    };
    assert_eq!(held(&step(200, 0.8)), [Refusal::MemoryCeiling]);
    assert_eq!(held(&step(100, 0.899)), []);
    assert_eq!(retired(&step(100, 0.9)), (3, DownReason::Memory), "16 bear 100 leases");
    assert_eq!(held(&step(123, 1.0)), [], "19 bear 123");
    assert_eq!(retired(&step(117, 1.0)), (1, DownReason::Memory));
    assert_eq!(retired(&step(0, 1.0)), (10, DownReason::Memory));
    assert_eq!(held(&step(200, 1.0)), [Refusal::MemoryCeiling]);
}

#[test]
fn memory_is_shed_by_the_greatest_demand_of_the_window() {
    let policy = eager().memory_ceiling(0.8).memory_shed(0.9).down_window(SECOND * 60);
    let policy = built(policy.down_cooldown(SECOND));
    let mut state = ScaleState::new();
    let short = |leases| seen(20, leases, 20).with_memory(0.95);
    assert_eq!(
        plan(&short(117), &policy, &mut state, at(0.0)).step,
        Step::Retire { agents: ids(1), reason: DownReason::Memory }
    );
    assert_eq!(
        held(&plan(&short(20), &policy, &mut state, at(0.5))),
        [Refusal::Cooldown { until: at(1.0) }]
    );
    assert_eq!(retired(&plan(&short(20), &policy, &mut state, at(1.0))).0, 1);
}

#[test]
fn what_memory_pressure_took_only_demand_brings_back() {
    let policy = built(eager().memory_ceiling(0.8).memory_shed(0.9).response_time(SECOND));
    let mut state = ScaleState::new();
    let mut step = |serving, leases, memory| {
        let slow = seen(serving, leases, 20).with_memory(memory).with_response_time(SECOND * 2);
        plan(&slow.with_forecast(170.0), &policy, &mut state, at(0.0))
    };
    assert_eq!(retired(&step(20, 117, 0.9)), (1, DownReason::Memory));
    let shed = [Refusal::Shed(Reading::Forecast), Refusal::Shed(Reading::ResponseTime)];
    let after = step(19, 150, 0.1);
    assert!(shed.iter().all(|refusal| held(&after).contains(refusal)), "{after:?}");
    assert_eq!(spawned(&step(19, 160, 0.1)).0, 13, "that is a breach without them");
    assert_eq!(spawned(&step(20, 158, 0.1)), (15, UpReason::ResponseTime), "and ends it");
    assert_eq!(retired(&step(20, 117, 0.9)), (1, DownReason::Memory));
    assert_eq!(retired(&step(20, 70, 0.1)), (6, DownReason::Utilisation));
    assert_eq!(spawned(&step(20, 158, 0.1)), (15, UpReason::ResponseTime), "so does a step down");
}

#[test]
fn a_signal_that_asks_for_no_more_than_the_demand_is_not_refused_after_a_shedding() {
    let policy = built(eager().memory_ceiling(0.8).memory_shed(0.9));
    let mut state = ScaleState::new();
    let seen = seen(20, 117, 20).with_forecast(117.0);
    retired(&plan(&seen.clone().with_memory(0.9), &policy, &mut state, at(0.0)));
    assert_eq!(held(&plan(&seen.with_memory(0.5), &policy, &mut state, at(0.0))), []);
}

#[test]
fn the_next_check_is_when_the_first_refusal_ends() {
    let policy = eager().up_window(SECOND * 5).down_cooldown(SECOND * 3);
    let policy = policy.memory_ceiling(0.8).memory_shed(0.9).utilisation(0.1, 0.5, 0.6);
    let policy = built(policy);
    let mut state = ScaleState::new();
    let short = seen(20, 95, 20).with_memory(0.95);
    spawned(&plan(&seen(9, 0, 0), &policy, &mut state, at(0.0)));
    let plan = plan(&short.with_forecast(150.0), &policy, &mut state, at(1.0));
    let (window, cooldown) =
        (Refusal::UpWindow { until: at(6.0) }, Refusal::Cooldown { until: at(3.0) });
    assert_eq!(held(&plan), [window, cooldown]);
    assert_eq!(plan.next_check, Some(at(3.0)));
}

#[test]
fn readings_that_are_missing_or_make_no_sense_are_reported_and_brake_nothing() {
    let policy = || eager().cpu_ceiling(0.5).memory_ceiling(0.5).memory_shed(0.5);
    let plan = first(&seen(20, 200, 0), policy());
    spawned(&plan);
    let missing = [Refusal::NotRead(Reading::Cpu), Refusal::NotRead(Reading::Memory)];
    assert_eq!(plan.refusals, missing);
    for bad in [f64::NAN, f64::INFINITY, -0.1] {
        let observation = seen(20, 100, 20).with_cpu(bad).with_memory(bad).with_forecast(bad);
        let plan = first(&observation, policy());
        assert_eq!(plan.demand, 100.0);
        let held = held(&plan);
        assert!(held.contains(&Refusal::Senseless(Reading::Cpu)), "{bad}: {held:?}");
        assert!(held.contains(&Refusal::Senseless(Reading::Memory)), "{bad}: {held:?}");
        assert!(held.contains(&Refusal::Senseless(Reading::Forecast)), "{bad}: {held:?}");
    }
    let zero = seen(20, 100, 20).with_cpu(0.0).with_memory(0.0).with_forecast(0.0);
    assert_eq!(held(&first(&zero, policy())), []);
}

#[test]
fn a_clock_that_goes_back_shortens_no_window() {
    let policy = built(eager().up_window(SECOND * 2));
    let mut state = ScaleState::new();
    plan(&seen(20, 200, 0), &policy, &mut state, at(10.0));
    let back = plan(&seen(20, 200, 0), &policy, &mut state, at(1.0));
    assert_eq!(held(&back), [Refusal::ClockWentBack, Refusal::UpWindow { until: at(12.0) }]);
    let same = plan(&seen(20, 200, 0), &policy, &mut state, at(10.0));
    assert_eq!(held(&same), [Refusal::UpWindow { until: at(12.0) }]);
    spawned(&plan(&seen(20, 200, 0), &policy, &mut state, at(12.0)));
    assert_eq!(state.last_step(), Some(at(12.0)));
}

#[test]
fn the_same_arguments_give_the_same_plan() {
    let policy = built(eager().up_window(SECOND));
    let mut state = ScaleState::new();
    plan(&seen(20, 200, 0), &policy, &mut state, at(0.0));
    let mut copy = state.clone();
    let observation = seen(20, 190, 3).with_queued(5);
    let one = plan(&observation, &policy, &mut state, at(1.0));
    let other = plan(&observation, &policy, &mut copy, at(1.0));
    assert_eq!((one, state), (other, copy));
}

#[test]
fn a_policy_may_change_between_two_plans() {
    let mut state = ScaleState::new();
    let long = built(eager().up_window(SECOND * 3600));
    for seconds in 0..200 {
        plan(&seen(20, 200, 0), &long, &mut state, at(f64::from(seconds)));
    }
    let plan = plan(&seen(20, 200, 0), &built(eager()), &mut state, at(200.0));
    assert_eq!(spawned(&plan), (20, UpReason::Utilisation));
    let error = ScalePolicy::builder().max(0).build().expect_err("max is zero");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}
