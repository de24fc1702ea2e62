//! The wards, cold and warm, against a naive account of them.

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::prewarm::has_work_left;
use super::*;
use crate::ErrorKind;
use crate::fleet::inner::After;
use crate::fleet::supervise::{Restart, RestartPolicy};
use crate::fleet::{
    AgentSpec, Backoff, Expectation, Fleet, Outcome, OutcomeKind, Request, Task, TaskHandle, TaskId,
};

/// What one agent is, as it was told step by step.
#[derive(Clone, Copy, Debug)]
struct Naive {
    group: bool,
    incarnation: u32,
    down: Option<u64>,
    wanted: Condition,
    /// Whether it is prewarmed, and whether its handler is still to be made.
    prewarmed: bool,
    cold: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Spawn { group: bool, prewarmed: bool },
    End(usize),
    Fail { which: usize, earlier: bool },
    Want(usize, Condition),
    Warm(usize),
    Cool(usize),
    GiveUp(usize),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let condition = prop::sample::select(vec![
        Condition::Fit,
        Condition::Starting,
        Condition::Degraded,
        Condition::Draining,
        Condition::Failed,
    ]);
    let step = prop_oneof![
        2 => any::<(bool, bool)>().prop_map(|(group, prewarmed)| Step::Spawn { group, prewarmed }),
        1 => (0..8_usize).prop_map(Step::End),
        4 => (0..8_usize, prop::bool::weighted(0.2))
            .prop_map(|(which, earlier)| Step::Fail { which, earlier }),
        2 => (0..8_usize, condition).prop_map(|(which, wanted)| Step::Want(which, wanted)),
        4 => (0..8_usize).prop_map(Step::Warm),
        1 => (0..8_usize).prop_map(Step::Cool),
        1 => (0..8_usize).prop_map(Step::GiveUp),
        3 => (0..6_u64).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..80)
}

fn policy(strategy: RestartStrategy) -> RestartPolicy {
    RestartPolicy::new(Restart::OnFailure)
        .strategy(strategy)
        .budget(3, Duration::from_secs(20))
        .backoff(Backoff::exponential(Duration::from_secs(2), Duration::from_secs(8)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn wards_go_down_once_for_each_failure_and_come_up_once_when_it_is_time(
        steps in steps(),
        for_all in any::<bool>(),
    ) {
        let at = |seconds| Timestamp::from_start(Duration::from_secs(seconds));
        let together = if for_all { RestartStrategy::OneForAll } else { RestartStrategy::OneForOne };
        let group = SupervisionGroup::new(policy(together));
        let spec = |name: &str| AgentSpec::<(), ()>::new(name).handler_fn(|_, _| Ok(()));
        let own = spec("own").restart(policy(RestartStrategy::OneForOne));
        let member = spec("member").max_leases(NonZeroU32::MIN).supervised_by(&group);
        let mut supervision = Supervision::default();
        let mut naive: Vec<(AgentId, Naive)> = Vec::new();
        let (mut now, mut slots) = (0, 0);
        // When all of the group are to be started.
        let mut all_at: Option<Timestamp> = None;
        for step in steps {
            let place = |which: usize| (!naive.is_empty()).then(|| which % naive.len());
            match step {
                Step::Spawn { group, prewarmed } => {
                    let agent = AgentId { slot: slots, generation: 0 };
                    slots += 1;
                    let spec = if group { &member } else { &own };
                    let warm = spec.clone().prewarmed();
                    supervision.enrol(agent, if prewarmed { &warm } else { spec }, at(now));
                    let (incarnation, down, wanted) = (1, None, Condition::Fit);
                    let cold = prewarmed;
                    naive.push((agent, Naive { group, incarnation, down, wanted, prewarmed, cold }));
                }
                Step::End(which) => if let Some(place) = place(which) {
                    supervision.dismiss(naive.remove(place).0);
                },
                Step::Want(which, wanted) => if let Some(place) = place(which) {
                    let (agent, known) = &mut naive[place];
                    let before = std::mem::replace(&mut known.wanted, wanted);
                    prop_assert_eq!(supervision.want(*agent, wanted, at(now)), Some(before));
                },
                Step::Warm(which) => if let Some(place) = place(which) {
                    let (agent, known) = &mut naive[place];
                    prop_assert_eq!(supervision.warm(*agent).is_some(), known.cold);
                    known.cold = false;
                },
                Step::Cool(which) => if let Some(place) = place(which) {
                    let (agent, known) = &mut naive[place];
                    supervision.cool(*agent, Condition::Fit);
                    known.cold = true;
                },
                Step::GiveUp(which) => if let Some(place) = place(which) {
                    let (agent, known) = &mut naive[place];
                    supervision.give_up_warming(*agent, false);
                    known.cold = true;
                    if serves(known.wanted) {
                        known.wanted = Condition::Failed;
                    }
                },
                Step::Fail { which, earlier } => if let Some(place) = place(which) {
                    let (agent, known) = naive[place];
                    let incarnation = known.incarnation - u32::from(earlier);
                    let (verdict, _) =
                        supervision.exited(agent, incarnation, Exit::Failed, at(now));
                    let concerned = |of: &(AgentId, Naive)| {
                        of.0 == agent || (for_all && known.group && of.1.group)
                    };
                    match verdict {
                        Verdict::Nothing => prop_assert!(earlier || known.down.is_some()),
                        Verdict::Down(agents, until) => {
                            prop_assert!(!earlier && known.down.is_none());
                            let together = for_all && known.group;
                            let covered = all_at.filter(|due| together && at(now) < *due);
                            let mut expected = vec![agent];
                            if let Some(due) = covered {
                                // One that came late to a group goes down with it, alone.
                                prop_assert_eq!(until, due);
                            } else {
                                let all = naive.iter().filter(|of| concerned(of)).map(|of| of.0);
                                expected.extend(all.filter(|other| *other != agent));
                                all_at = if together { Some(until) } else { all_at };
                            }
                            prop_assert_eq!(&agents, &expected);
                            for (agent, known) in &mut naive {
                                if agents.contains(agent) {
                                    known.incarnation += 1;
                                    known.cold |= known.prewarmed;
                                    known.down = Some((until - Timestamp::ZERO).as_secs());
                                }
                            }
                        }
                        Verdict::End(agents) => {
                            prop_assert!(!earlier && known.down.is_none());
                            let all = naive.iter().filter(|of| concerned(of)).map(|of| of.0);
                            let others = all.filter(|other| *other != agent);
                            let expected: Vec<_> = std::iter::once(agent).chain(others).collect();
                            prop_assert_eq!(&agents, &expected);
                            for agent in &agents {
                                supervision.dismiss(*agent);
                            }
                            naive.retain(|(known, _)| !agents.contains(known));
                        }
                    }
                },
                Step::Pass(seconds) => {
                    now += seconds;
                    let due = |known: &Naive| known.down.is_some_and(|until| until <= now);
                    let mut expected: Vec<_> = naive.iter().filter(|(_, known)| due(known)).map(|of| of.0).collect();
                    let mut risen = Vec::new();
                    while let Some((agent, incarnation)) = supervision.rise(at(now)) {
                        let known = naive.iter_mut().find(|of| of.0 == agent);
                        let known = &mut known.expect("it is gone").1;
                        prop_assert_eq!(known.incarnation, incarnation);
                        known.down = None;
                        risen.push(agent);
                    }
                    risen.sort_unstable();
                    expected.sort_unstable();
                    prop_assert_eq!(risen, expected);
                }
            }
            if !naive.iter().any(|(_, known)| known.group) {
                all_at = None;
            }
            supervision.validate();
            for (agent, known) in &naive {
                let serves = !matches!(known.wanted, Condition::Draining | Condition::Failed);
                let expected = match known.wanted {
                    _ if serves && known.down.is_some() => Condition::Failed,
                    _ if serves && known.cold => Condition::Starting,
                    wanted => wanted,
                };
                let standing = supervision.standing(*agent).expect("it is a ward");
                prop_assert_eq!(standing.condition, expected, "rule 3");
                // One that is drained while it is down begins nothing before it is up.
                let drains = expected == Condition::Draining;
                let waits = expected == Condition::Failed || drains && known.down.is_some();
                prop_assert_eq!(standing.is_down(), known.cold || waits);
                prop_assert_eq!(standing.finishes, drains && known.down.is_none());
                prop_assert_eq!(standing.calls, known.cold && expected == Condition::Starting);
                prop_assert_eq!(supervision.is_down(*agent), known.down.is_some());
            }
        }
    }
}

#[test]
fn a_drained_agent_that_has_nothing_is_made_no_handler() {
    for has_task in [false, true] {
        let fleet = Fleet::<(), ()>::builder().driven().build().expect("the values are valid");
        let spec = AgentSpec::new("cold").prewarmed().handler_fn(|_, _| Ok(()));
        let agent = fleet.spawn(spec).expect("there is room");
        fleet.set_condition(agent, Condition::Draining).expect("it lives");
        if has_task {
            fleet.tell(agent, ()).expect("there is room");
        }
        let inner = fleet.inner();
        let mut seat = inner.state.lock().workers.seats.pop().expect("nobody drives");
        let draining = inner.begin_drain(agent, false).expect("it lives");
        assert_eq!(inner.prewarm(agent, &mut seat, 1), usize::from(has_task));
        inner.state.lock().workers.seats.push(seat);
        let drained =
            inner.see_out(draining, Some(inner.clock.now() + Duration::from_secs(1000)), false);
        assert_eq!((drained.ended, drained.messages_handled), (true, u64::from(has_task)));
    }
}

/// Has a task be on its way to the mailbox of its agent, which it gets to as what is given out is finished.
fn send_out(fleet: &Fleet<(), ()>, agent: AgentId) -> (TaskHandle<()>, After<(), ()>) {
    let inner = fleet.inner();
    let first = fleet.submit(Task::new(()).capability("none is ready")).expect("it is expected");
    let task = fleet.submit(Task::new(()).to(agent).after(&first)).expect("there is room");
    let mut after = After::new();
    let mut state = inner.state.lock();
    inner.release_dependants(&mut state, first.id(), OutcomeKind::Completed, &mut after);
    assert_eq!((after.mail.as_slice(), state.mailed.len()), (&[(agent, task.id())][..], 1));
    drop(state);
    assert!(first.cancel());
    (task, after)
}

fn cold() -> (Fleet<(), ()>, AgentId, Expectation) {
    let fleet = Fleet::<(), ()>::builder().driven().build().expect("the values are valid");
    let spec = AgentSpec::new("cold").prewarmed().handler_fn(|_, _| Ok(()));
    let other = AgentSpec::new("other").capability("none is ready").handler_fn(|_, _| Ok(()));
    let expected = fleet.expect(&other).expect("there is room");
    let agent = fleet.spawn(spec).expect("there is room");
    (fleet, agent, expected)
}

#[test]
fn a_drained_agent_is_made_ready_for_a_task_that_is_on_its_way() {
    // Workers were told before, or they are told by the drain.
    for told in [true, false] {
        for mailed in [false, true] {
            let (fleet, agent, _expected) = cold();
            let inner = fleet.inner();
            let mut seat = inner.state.lock().workers.seats.pop().expect("nobody drives");
            if !told {
                fleet.set_condition(agent, Condition::Draining).expect("it lives");
                assert_eq!(inner.prewarm(agent, &mut seat, 1), 0, "it has nothing");
            }
            let (task, mut after) = send_out(&fleet, agent);
            let draining = inner.begin_drain(agent, false).expect("it lives");
            if mailed {
                inner.finish(std::mem::replace(&mut after, After::new()));
            }
            let made = inner.prewarm(agent, &mut seat, 1);
            inner.finish(after);
            inner.state.lock().workers.seats.push(seat);
            assert_eq!(made, 1, "told: {told}, mailed: {mailed}");
            let until = inner.clock.now() + Duration::from_secs(1000);
            let drained = inner.see_out(draining, Some(until), false);
            assert_eq!(
                (drained.ended, task.try_outcome().as_deref()),
                (true, Some(&Outcome::Completed(())))
            );
        }
    }
}

#[test]
fn an_agent_that_begins_nothing_more_is_made_no_handler() {
    let (fleet, agent, _expected) = cold();
    let inner = fleet.inner();
    let lease = {
        fleet.run_ready(usize::MAX);
        fleet.try_allocate(&Request::any()).expect("it is ready")
    };
    let mut state = inner.state.lock();
    // As a submission has it whose task the log is accepting.
    state.reserved_ids.insert(TaskId::new(u64::MAX), Some(agent));
    let post = inner.posts.get(agent.slot).expect("it has a mailbox");
    assert!(has_work_left(&state, &post.lock(), agent));
    drop(state);
    assert!(!fleet.drain_agent(agent, Duration::ZERO).expect("it lives").ended, "it is leased");
    let mut state = inner.state.lock();
    assert!(!has_work_left(&state, &post.lock(), agent));
    state.reserved_ids.clear();
    drop((state, lease));
}

#[test]
fn an_agent_that_a_task_is_on_its_way_to_is_not_retired() {
    let (fleet, agent, _expected) = cold();
    fleet.run_ready(usize::MAX);
    let (task, after) = send_out(&fleet, agent);
    let refused = fleet.retire(agent).map_err(|error| error.kind());
    fleet.inner().finish(after);
    assert_eq!(refused, Err(ErrorKind::InUse), "a task is on its way");
    fleet.run_ready(usize::MAX);
    assert_eq!(*task.wait(), Outcome::Completed(()));
    fleet.retire(agent).expect("it has nothing left");
}
