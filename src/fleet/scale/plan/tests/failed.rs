//! What is planned where agents have failed, could not be made, or are held back by their circuit.

use super::*;

#[test]
fn while_the_circuit_is_not_closed_one_comes_where_it_could_be_tried_on_none() {
    let open = |failed: u32, held_back: u32| {
        let seen = Observation::new().with_leases_per_agent(10).with_circuit_open(true);
        seen.with_failed(failed).with_held_back(held_back).with_queued(30)
    };
    let none = || eager().min(0).max(12);
    assert_eq!(held(&first(&open(3, 1), none())), [Refusal::CircuitOpen]);
    assert_eq!(spawned(&first(&open(3, 0), none())), (1, UpReason::Backlog));
    assert_eq!(spawned(&first(&open(11, 0), none())), (1, UpReason::Backlog));
    let full = first(&open(12, 0), none());
    let failed = Refusal::Failed { agents: 12 };
    assert!(held(&full).contains(&Refusal::AtMax), "{:?}", full.refusals);
    assert_eq!(held(&first(&open(3, 0).with_queued(0), none())), [], "for nobody");
    // Up to min those that failed count, and beyond it nobody comes but the one.
    let some = || eager().min(4).max(12).up_cooldown(SECOND);
    assert_eq!(spawned(&first(&open(3, 0), some())), (1, UpReason::BelowMin));
    assert_eq!(spawned(&first(&open(1, 1), some())), (2, UpReason::BelowMin));
    assert_eq!(held(&first(&open(4, 1), some())), [Refusal::CircuitOpen]);
    assert_eq!(held(&first(&open(4, 1).with_queued(0), some())), [], "nobody is asked for");
    for queued in [0, 100] {
        let seen = open(5, 0).with_queued(queued);
        let (policy, mut state) = (built(some().cpu_ceiling(0.5)), ScaleState::new());
        let step = |cpu: f64, seconds: f64, state: &mut ScaleState| {
            plan(&seen.clone().with_cpu(cpu), &policy, state, at(seconds))
        };
        assert_eq!(held(&step(0.9, 0.0, &mut state)), [Refusal::CpuCeiling]);
        assert_eq!(spawned(&step(0.1, 0.0, &mut state)), (1, UpReason::BelowMin));
        let until = at(1.0);
        assert_eq!(held(&step(0.1, 0.5, &mut state)), [Refusal::Cooldown { until }]);
        assert_eq!(spawned(&step(0.1, 1.0, &mut state)), (1, UpReason::BelowMin));
    }
    let full = first(&open(12, 0).with_queued(0), some());
    assert_eq!(held(&full), [Refusal::AtMax, failed]);
    // Once it is closed those that failed are no capacity, and keep their places.
    let closed = open(10, 0).with_circuit_open(false).with_queued(0);
    assert_eq!(spawned(&first(&closed, some())), (2, UpReason::BelowMin));
}

#[test]
fn nobody_is_brought_to_be_tried_before_it_is_time() {
    let open = Observation::new().with_leases_per_agent(10).with_circuit_open(true).with_failed(3);
    let open = open.with_next_trial(at(60.0));
    let until = at(60.0);
    for (min, queued, reason) in [(0, 30, UpReason::Backlog), (1, 0, UpReason::BelowMin)] {
        let seen = open.clone().with_queued(queued);
        let (policy, mut state) = (built(eager().min(min).max(12)), ScaleState::new());
        for seconds in [0.0, 59.9] {
            let early = plan(&seen, &policy, &mut state, at(seconds));
            assert_eq!(held(&early), [Refusal::NextTrial { until }]);
            assert_eq!(early.next_check, Some(until));
        }
        assert_eq!(spawned(&plan(&seen, &policy, &mut state, until)), (1, reason));
        // One that is there can be tried; a closed circuit tries nobody.
        let one = first(&seen.clone().with_held_back(1).with_queued(30), eager().min(min).max(12));
        assert_eq!(held(&one), [Refusal::CircuitOpen]);
        let closed = seen.with_circuit_open(false).with_queued(30);
        let closed = first(&closed, eager().min(min).max(12));
        assert!(matches!(closed.step, Step::Spawn { .. }), "{closed:?}");
    }
}

#[test]
fn those_that_could_not_be_made_give_their_places_to_those_that_are_added() {
    let unmade = |failed: u32, unmade: u32| {
        let seen = Observation::new().with_leases_per_agent(10).with_failed(failed);
        seen.with_unmade(ids(unmade)).with_queued(30)
    };
    let none = || eager().min(0).max(12);
    let open = unmade(12, 12).with_circuit_open(true);
    let tried = first(&open, none());
    assert_eq!((spawned(&tried), tried.replaced), ((1, UpReason::Backlog), ids(1)));
    let tried = first(&open.with_queued(0), eager().min(1).max(12));
    assert_eq!((spawned(&tried), tried.replaced), ((1, UpReason::BelowMin), ids(1)));
    let some = first(&unmade(12, 5), none());
    assert_eq!((spawned(&some), some.replaced), ((5, UpReason::Backlog), ids(5)));
    assert_eq!(some.refusals, [Refusal::AtMax, Refusal::Failed { agents: 7 }]);
    for (failed, listed, replaced) in [(3, 2, 2), (1, 4, 1), (9, 9, 6)] {
        let all = first(&unmade(failed, listed), none());
        assert_eq!((spawned(&all), all.replaced), ((6, UpReason::Backlog), ids(replaced)));
        assert_eq!(all.refusals, []);
    }
    // While the circuit is not closed those count towards min that failed, and there would be no end of it.
    for (draining, agents) in [(0, 2), (1, 1)] {
        let seen = unmade(2, 2).with_circuit_open(true).with_draining(draining);
        let filled = first(&seen, eager().min(4).max(4));
        assert_eq!((spawned(&filled), filled.replaced), ((agents, UpReason::BelowMin), vec![]));
    }
    let seen = unmade(2, 2).with_circuit_open(true).with_draining(2);
    assert_eq!(held(&first(&seen, eager().min(4).max(4))), [Refusal::AtMax]);
}

#[test]
fn what_failed_is_made_up_for_after_the_cooldown_and_what_is_new_at_once() {
    let policy = built(eager().min(5).max(12).up_cooldown(SECOND));
    let mut state = ScaleState::new();
    let mut step = |failed: u32, unmade: u32, seconds: f64| {
        let seen = Observation::new().with_failed(failed).with_unmade(ids(unmade));
        plan(&seen, &policy, &mut state, at(seconds))
    };
    let filled = step(3, 3, 0.0);
    assert_eq!((spawned(&filled), filled.replaced), ((5, UpReason::BelowMin), ids(3)));
    let early = step(3, 3, 0.5);
    assert_eq!((spawned(&early), early.replaced), ((2, UpReason::BelowMin), vec![]));
    assert_eq!(early.refusals, [Refusal::Cooldown { until: at(1.0) }]);
    let until = at(1.0);
    assert_eq!(held(&step(9, 0, 0.9)), [Refusal::Cooldown { until }], "by the step at 0");
    let late = step(9, 0, 1.0);
    assert_eq!((spawned(&late), late.replaced), ((3, UpReason::BelowMin), vec![]));
    let until = at(2.0);
    assert_eq!(held(&step(9, 0, 1.5)), [Refusal::Cooldown { until }], "by that one");
    let new = step(0, 0, 1.6);
    assert_eq!((spawned(&new), new.refusals), ((5, UpReason::BelowMin), vec![]), "none failed");
}

#[test]
fn what_failed_is_made_up_for_though_others_are_killed_all_the_time() {
    let policy = built(eager().min(5).max(12).up_cooldown(SECOND));
    let mut state = ScaleState::new();
    let mut step = |serving: u32, failed: u32, seconds: f64| {
        let seen = Observation::new().with_serving(serving).with_failed(failed);
        plan(&seen, &policy, &mut state, at(seconds))
    };
    assert_eq!(spawned(&step(0, 0, 0.0)), (5, UpReason::BelowMin));
    // Two fail, and one of the others is killed every half a second.
    let until = at(1.0);
    assert_eq!(held(&step(3, 2, 0.4)), [Refusal::Cooldown { until }]);
    let filled = step(2, 2, 0.9);
    assert_eq!(spawned(&filled), (1, UpReason::BelowMin), "for the one that was killed");
    assert_eq!(filled.refusals, [Refusal::Cooldown { until }]);
    assert_eq!(spawned(&step(2, 2, 1.4)), (3, UpReason::BelowMin), "for all three");
    // Others fail after that: what is new to them is the time since.
    assert_eq!(step(5, 2, 1.5).step, Step::Hold);
    let until = at(2.4);
    assert_eq!(held(&step(3, 4, 2.3)), [Refusal::Cooldown { until }]);
    assert_eq!(spawned(&step(3, 4, 2.4)), (2, UpReason::BelowMin));
}

#[test]
fn where_there_are_too_many_more_end_that_could_not_be_made_than_are_added() {
    let seen = Observation::new().with_failed(9).with_unmade(ids(9)).with_queued(1);
    let seen = seen.with_leases_per_agent(10);
    let added = first(&seen, eager().min(0).max(4));
    assert_eq!((spawned(&added), added.replaced), ((1, UpReason::Backlog), ids(6)));
    let tried = seen.with_circuit_open(true).with_queued(0);
    let tried = first(&tried, eager().min(1).max(4));
    assert_eq!((spawned(&tried), tried.replaced), ((1, UpReason::BelowMin), ids(6)));
    // Those that are new have no place of theirs, and what drains has some.
    let seen = Observation::new().with_failed(2).with_unmade(ids(2)).with_draining(3);
    let (policy, mut state) = (built(eager().min(5).max(5).up_cooldown(SECOND)), ScaleState::new());
    let filled = plan(&seen, &policy, &mut state, at(0.0));
    assert_eq!((spawned(&filled), filled.replaced), ((2, UpReason::BelowMin), ids(2)));
    let early = plan(&seen, &policy, &mut state, at(0.5));
    assert_eq!((early.step, early.replaced), (Step::Hold, vec![]));
    assert!(early.refusals.contains(&Refusal::AtMax), "{:?}", early.refusals);
}
