//! Agents that are unrouted while they hold leases, and those that serve again.

use super::*;

fn listed_from(first: u32, count: u32) -> Vec<AgentId> {
    (first..first + count).map(|slot| AgentId { slot, generation: 1 }).collect()
}

fn busy(count: u32) -> Vec<AgentId> {
    listed_from(1000, count)
}

fn leaving(count: u32) -> Vec<AgentId> {
    listed_from(2000, count)
}

/// How many are retired and unrouted, the first that are listed.
fn taken(plan: &Plan) -> (u32, u32) {
    let (retired, _) = retired(plan);
    let unrouted = u32::try_from(plan.unrouted.len()).expect("few");
    assert!(matches!(&plan.step, Step::Retire { agents, .. } if *agents == ids(retired)));
    assert_eq!((&plan.unrouted, &plan.restored), (&busy(unrouted), &Vec::new()));
    (retired, unrouted)
}

/// How many are added and serve again, the first that are listed.
fn brought(plan: &Plan) -> (u32, u32) {
    let (spawned, _) = spawned(plan);
    let restored = u32::try_from(plan.restored.len()).expect("few");
    assert_eq!((&plan.restored, &plan.unrouted), (&leaving(restored), &Vec::new()));
    (spawned, restored)
}

#[test]
fn busy_agents_are_unrouted_only_as_far_as_idle_ones_do_not_suffice() {
    let plan = first(&seen(20, 50, 4).with_busy(busy(16)), eager());
    assert_eq!((taken(&plan), plan.refusals.as_slice()), ((4, 6), &[] as &[Refusal]));
    assert_eq!(retired(&plan).1, DownReason::Utilisation);
    assert_eq!(taken(&first(&seen(20, 50, 0).with_busy(busy(20)), eager())), (0, 10));
    assert_eq!(taken(&first(&seen(20, 50, 10).with_busy(busy(10)), eager())), (10, 0));
    assert_eq!(taken(&first(&seen(20, 50, 12).with_busy(busy(8)), eager())), (10, 0));
    let plan = first(&seen(20, 50, 1).with_busy(busy(3)), eager());
    assert_eq!(
        (taken(&plan), plan.refusals.as_slice()),
        ((1, 3), &[Refusal::Busy { agents: 6 }] as &[_])
    );
    assert_eq!(held(&first(&seen(20, 80, 0).with_busy(busy(20)), eager())), [], "in the band");
}

#[test]
fn min_agents_serve_on_however_little_they_do() {
    assert_eq!(taken(&first(&seen(12, 1, 0).with_busy(busy(12)), eager())), (0, 2));
    assert_eq!(taken(&first(&seen(12, 1, 1).with_busy(busy(11)), eager())), (1, 1));
    let plan = first(&seen(10, 1, 0).with_busy(busy(10)), eager());
    assert_eq!((held(&plan), &plan.unrouted), (&[Refusal::AtMin] as &[_], &Vec::new()));
}

#[test]
fn as_many_serve_on_as_are_wanted_while_others_start() {
    let plan = first(&seen(12, 20, 0).with_starting(8).with_busy(busy(12)), eager());
    assert_eq!(
        (taken(&plan), plan.refusals.as_slice()),
        ((0, 2), &[Refusal::Busy { agents: 8 }] as &[_])
    );
    let plan = first(&seen(10, 20, 0).with_starting(8).with_busy(busy(10)), eager());
    assert_eq!(held(&plan), [Refusal::Busy { agents: 8 }]);
    let plan = first(&seen(12, 20, 1).with_starting(8).with_busy(busy(11)), eager());
    assert_eq!(taken(&plan), (1, 1), "idle ones go first");
}

#[test]
fn those_that_are_unrouted_count_towards_the_cap_and_for_the_cooldown() {
    let cap = NonZeroU32::new(3).expect("not zero");
    let policy = built(eager().step_down(cap, 0.0).down_cooldown(SECOND * 2));
    let mut state = ScaleState::new();
    let mut step = |seconds| {
        let observation = seen(20, 50, 1).with_busy(busy(19));
        plan(&observation, &policy, &mut state, at(seconds))
    };
    let plan = step(0.0);
    assert_eq!(taken(&plan), (1, 2));
    assert_eq!(plan.refusals, [Refusal::StepCap { left: 7, until: at(2.0) }]);
    assert_eq!(held(&step(1.9)), [Refusal::Cooldown { until: at(2.0) }]);
    assert_eq!(taken(&step(2.0)), (1, 2));
}

#[test]
fn above_the_greatest_number_and_for_memory_busy_ones_go_too() {
    let plan = first(&seen(105, 1050, 3).with_busy(busy(102)), eager());
    assert_eq!((taken(&plan), retired(&plan).1), ((3, 2), DownReason::AboveMax));
    let shed = eager().memory_ceiling(0.5).memory_shed(0.6);
    let plan = first(&seen(20, 100, 0).with_busy(busy(20)).with_memory(0.9), shed);
    assert_eq!((taken(&plan), retired(&plan).1), ((0, 3), DownReason::Memory), "17 are kept");
}

#[test]
fn what_was_unrouted_calls_for_nothing_while_its_leases_last() {
    let left = seen(10, 50, 0).with_busy(busy(10)).with_draining(10).with_leaving(leaving(10));
    assert_eq!(held(&first(&left, eager().min(0))), []);
}

#[test]
fn a_step_up_has_those_that_leave_serve_again_before_it_adds_any() {
    let some = |count| seen(10, 90, 0).with_draining(6).with_leaving(leaving(count));
    assert_eq!(brought(&first(&some(0), eager())), (8, 0));
    assert_eq!(brought(&first(&some(4), eager())), (4, 4));
    assert_eq!(brought(&first(&some(9), eager())), (2, 6), "no more than drain");
    let many = seen(10, 90, 0).with_draining(20).with_leaving(leaving(20));
    let plan = first(&many, eager());
    assert_eq!((brought(&plan), spawned(&plan).1), ((0, 8), UpReason::Utilisation));
    let cap = NonZeroU32::new(5).expect("not zero");
    assert_eq!(brought(&first(&some(4), eager().step_up(cap, 0.0))), (1, 4));
    assert_eq!(brought(&first(&some(6), eager().step_up(cap, 0.0))), (0, 5));
    let hot = some(6).with_cpu(1.0);
    assert_eq!(held(&first(&hot, eager().cpu_ceiling(0.9))), [Refusal::CpuCeiling]);
}

#[test]
fn those_that_serve_again_have_their_places_already() {
    let full = |count| seen(90, 900, 0).with_draining(10).with_leaving(leaving(count));
    assert_eq!(brought(&first(&full(10), eager())), (0, 10));
    let plan = first(&full(2), eager());
    assert_eq!((brought(&plan), plan.refusals.as_slice()), ((0, 2), &[Refusal::AtMax] as &[_]));
    let plan = first(&seen(60, 500, 0).with_draining(10).with_leaving(leaving(10)), eager());
    assert_eq!((brought(&plan), plan.refusals.as_slice()), ((30, 10), &[] as &[_]), "all it wants");
    let plan = first(&seen(60, 500, 0).with_draining(10).with_leaving(leaving(9)), eager());
    assert_eq!((brought(&plan), plan.refusals.as_slice()), ((30, 9), &[Refusal::AtMax] as &[_]));
    let unmade = full(10).with_failed(1).with_unmade(ids(1));
    let plan = first(&unmade, eager());
    assert_eq!((brought(&plan), plan.replaced), ((0, 10), Vec::new()), "nobody takes its place");
}

#[test]
fn those_that_leave_fill_up_to_min_first_and_at_once() {
    let policy = built(eager().up_cooldown(SECOND * 9).max(12));
    let mut state = ScaleState::new();
    let mut step = |serving, failed, draining, seconds| {
        let observation = seen(serving, 0, 0).with_failed(failed).with_draining(draining);
        let plan =
            plan(&observation.with_leaving(leaving(draining)), &policy, &mut state, at(seconds));
        (brought(&plan), plan.refusals)
    };
    assert_eq!(step(4, 0, 3, 0.0), ((3, 3), vec![]));
    assert_eq!(step(8, 0, 3, 0.1), ((0, 2), vec![]));
    // Failed ones that are missing are made up for no sooner than the cooldown says, and need not be if others are back.
    assert_eq!(step(5, 2, 5, 0.2), ((0, 5), vec![]));
    let until = at(9.2);
    assert_eq!(step(6, 2, 3, 0.3), ((0, 3), vec![Refusal::Cooldown { until: at(9.2) }]));
    assert_eq!(step(6, 2, 3, 9.1), ((0, 3), vec![Refusal::Cooldown { until }]));
    assert_eq!(step(6, 2, 3, 9.2), ((1, 3), vec![]));
}

#[test]
fn a_circuit_is_tried_on_one_that_leaves_if_there_is_no_room_for_one_that_holds_no_lease() {
    let none = seen(0, 0, 0).with_failed(1).with_draining(1).with_circuit_open(true);
    let policy = || eager().min(1).max(2);
    let plan = first(&none, policy());
    assert_eq!(held(&plan), [Refusal::AtMax, Refusal::Failed { agents: 1 }]);
    let one = none.with_leaving(leaving(1));
    let plan = first(&one, policy());
    assert_eq!((brought(&plan), spawned(&plan).1), ((0, 1), UpReason::BelowMin));
    let plan = first(&one, eager().min(1).max(3));
    assert_eq!((brought(&plan), spawned(&plan).1), ((1, 0), UpReason::BelowMin));
}
