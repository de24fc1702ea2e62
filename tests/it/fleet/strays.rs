//! Tasks for one agent that end before it has come to them: nothing of them is left that anybody waits for.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use phalanx::ManualClock;
use phalanx::fleet::supervise::{Restart, RestartPolicy};
use phalanx::fleet::{
    AgentId, AgentSpec, Budgets, Condition, Fleet, FleetBuilder, GroupKey, Limit, Meter, Outcome,
    OutcomeKind, Quota, Scope, SubmitError, Task, TaskHandle,
};

use super::hangar::{Door, Hangar, builder as flying, doubler as waiting};
use super::support::{Gate, finish, held, poll, ready};

const TEAM: GroupKey = GroupKey::new(7);
const PATIENCE: Duration = Duration::from_secs(5);

fn doubler() -> AgentSpec<u64, u64> {
    AgentSpec::new("doubler").handler_fn(|task: &Task<u64>, _| Ok(task.payload() * 2))
}

fn with_room(room: usize) -> FleetBuilder<u64, u64> {
    Fleet::builder().driven().queue_capacity(NonZeroUsize::new(room).expect("some room"))
}

/// So many leases for the team.
fn team(most: u64) -> Quota {
    Quota::new().limit(Meter::Leases, Limit::hard(most))
}

/// A fleet with room for one task, whose team has no room; two agents, and a task that is kept for the first of them
/// until the team has.
fn with_a_task_put_aside() -> (Fleet<u64, u64>, Budgets, AgentId, TaskHandle<u64>) {
    let budgets = Budgets::new(NonZeroUsize::MIN);
    budgets.set(Scope::Group(TEAM), team(0)).unwrap();
    let fleet = with_room(1).budgets(budgets.clone()).build().unwrap();
    let [agent, _] = [(); 2].map(|()| fleet.spawn(doubler()).unwrap());
    let handle = fleet.submit(Task::new(1).to(agent).group(TEAM)).unwrap();
    fleet.run_ready(usize::MAX);
    assert!(handle.try_outcome().is_none(), "its group has no room");
    assert!(is_full(&fleet));
    (fleet, budgets, agent, handle)
}

fn is_full(fleet: &Fleet<u64, u64>) -> bool {
    match fleet.submit(Task::new(9)) {
        Ok(handle) => !handle.cancel(),
        Err(SubmitError::Full(_)) => true,
        Err(other) => panic!("neither accepted nor refused for want of room: {other:?}"),
    }
}

#[test]
fn a_task_that_waits_for_its_group_gives_its_place_back_as_it_is_cancelled() {
    let (fleet, budgets, agent, handle) = with_a_task_put_aside();
    assert!(handle.cancel());
    assert!(!is_full(&fleet), "its group has no room yet");
    fleet.retire(agent).expect("nothing waits for it");
    budgets.set(Scope::Group(TEAM), team(9)).unwrap();
    fleet.run_ready(usize::MAX);
    assert!(!is_full(&fleet));
    assert_eq!(fleet.shutdown(PATIENCE).unwrap().cancelled, 3);
}

#[test]
fn who_waits_for_room_is_told_of_what_is_cancelled_while_it_waits_for_its_group() {
    let (fleet, _budgets, _, handle) = with_a_task_put_aside();
    let mut next = fleet.submit_async(Task::new(2));
    assert!(poll(&mut next).is_pending());
    assert!(handle.cancel());
    let next = ready(&mut next).expect("there is room");
    fleet.run_ready(usize::MAX);
    assert_eq!(*next.wait(), Outcome::Completed(4));
}

#[test]
fn nothing_of_a_task_put_aside_is_left_where_its_agent_is_drained_at_once() {
    let (fleet, _budgets, agent, handle) = with_a_task_put_aside();
    let drained = fleet.drain_agent(agent, Duration::ZERO).unwrap();
    assert!(drained.ended);
    assert_eq!(handle.wait().kind(), OutcomeKind::Returned);
    assert!(!is_full(&fleet));
}

/// An agent that gives its mailbox no turns, as it is unrouted or failed.
fn without_turns(fleet: &Fleet<u64, u64>, condition: Condition) -> AgentId {
    let agent = fleet.spawn(doubler()).unwrap();
    fleet.set_condition(agent, condition).unwrap();
    agent
}

#[test]
fn a_drain_does_not_wait_for_what_was_cancelled_in_a_mailbox_that_has_no_turns() {
    for condition in [Condition::Draining, Condition::Failed] {
        let fleet = with_room(2).build().unwrap();
        let agent = without_turns(&fleet, condition);
        let tasks = [1, 2].map(|number| fleet.submit(Task::new(number).to(agent)).unwrap());
        fleet.run_ready(usize::MAX);
        let mut drain = fleet.drain_async();
        assert!(poll(&mut drain).is_pending());
        assert!(tasks[1].cancel() && poll(&mut drain).is_pending() && tasks[0].cancel());
        let report = ready(&mut drain).unwrap();
        assert_eq!((report.accepted, report.cancelled), (2, 2));
        fleet.retire(agent).expect("nothing is left in its mailbox");
    }
}

#[test]
fn a_drain_of_one_agent_ends_as_the_last_of_its_tasks_is_cancelled_or_expires() {
    for cancel in [false, true] {
        let (clock, hand) = ManualClock::new();
        let fleet = with_room(2).clock(clock).build().unwrap();
        let agent = without_turns(&fleet, Condition::Failed);
        let second = Duration::from_secs(1);
        let task = fleet.submit(Task::new(1).to(agent).timeout(second)).unwrap();
        let mut drain = fleet.drain_agent_async(agent);
        assert!(poll(&mut drain).is_pending());
        if cancel {
            assert!(task.cancel());
        } else {
            hand.advance(second);
            fleet.tick();
        }
        assert!(ready(&mut drain).unwrap().ended);
        assert!(fleet.agent(agent).is_none());
    }
}

#[test]
fn what_is_cancelled_lets_the_rest_of_its_mailbox_go_on_in_its_order() {
    let fleet = with_room(8).build().unwrap();
    let agent = fleet.spawn(doubler()).unwrap();
    let mut tasks = Vec::new();
    for number in 0..6 {
        fleet.tell(agent, 100 + number).unwrap();
        tasks.push(fleet.submit(Task::new(number).to(agent)).unwrap());
    }
    for at in [0, 3, 5] {
        assert!(tasks[at].cancel());
    }
    fleet.run_ready(usize::MAX);
    let kinds: Vec<_> = tasks.iter().map(|task| task.wait().kind()).collect();
    let (done, not) = (OutcomeKind::Completed, OutcomeKind::Cancelled);
    assert_eq!(kinds, [not, done, done, not, done, not]);
    assert_eq!(fleet.shutdown(PATIENCE).unwrap().messages_handled, 6);
}

#[test]
fn an_id_that_is_used_again_at_once_is_run() {
    let fleet = with_room(8).build().unwrap();
    let agent = fleet.spawn(doubler()).unwrap();
    let first = fleet.submit(Task::new(1).to(agent)).unwrap();
    assert!(first.cancel());
    let again = fleet.submit(Task::new(2).to(agent).with_id(first.id())).unwrap();
    fleet.run_ready(usize::MAX);
    assert_eq!(*again.wait(), Outcome::Completed(4));
    assert_eq!(*first.wait(), Outcome::Cancelled);
    assert_eq!(fleet.stats().tasks_queued, 0);
}

#[test]
fn a_drain_does_not_wait_for_the_future_of_a_question_that_was_struck() {
    let (hangar, door) = (Hangar::new(), Door::default());
    let fleet = flying(&hangar).build().unwrap();
    let agent = fleet.spawn(waiting("waits", &door)).unwrap();
    let mut reply = fleet.ask(agent, 1).unwrap();
    hangar.await_len(1);
    hangar.run();
    let mut drain = fleet.drain_async();
    assert!(poll(&mut drain).is_pending());
    fleet.kill(agent).unwrap();
    assert_eq!(reply.try_outcome().map(|outcome| outcome.kind()), Some(OutcomeKind::Returned));
    let report = ready(&mut drain).unwrap();
    assert_eq!((report.messages_accepted, report.messages_returned), (1, 1));
    assert_eq!(report.futures_left, 1, "it is not dropped yet");
    door.open();
    hangar.run();
    assert!(fleet.shutdown(PATIENCE).unwrap().is_complete());
}

#[test]
fn an_id_that_a_worker_has_in_hand_and_that_is_used_again_is_put_aside_once() {
    let budgets = Budgets::new(NonZeroUsize::MIN);
    budgets.set(Scope::Group(TEAM), team(0)).unwrap();
    let capacity = NonZeroUsize::new(3).unwrap();
    let fleet = Fleet::<u64, u64>::builder().workers(1).budgets(budgets.clone());
    let fleet = fleet.queue_capacity(capacity).build().unwrap();
    let (before, gate) = (Gate::new(), Gate::new());
    let [blocks, agent] = [&before, &gate].map(|gate| fleet.spawn(held(gate)).unwrap());
    let first = fleet.submit(Task::new(0).to(blocks)).unwrap();
    before.await_arrivals(1);
    let of_team = |payload| Task::new(payload).to(agent).group(TEAM);
    let second = fleet.submit(Task::new(1).to(agent)).unwrap();
    let third = fleet.submit(of_team(2)).unwrap();
    before.open();
    // The worker has both in its hand now, and comes to the other one once the gate opens.
    gate.await_arrivals(1);
    assert!(third.cancel());
    let again = fleet.submit(of_team(3).with_id(third.id())).unwrap();
    let last = fleet.submit(Task::new(4).to(agent)).unwrap();
    gate.open();
    for handle in [first, second, last] {
        assert_eq!(handle.wait().kind(), OutcomeKind::Completed);
    }
    assert!(again.cancel(), "its group has no room");
    let waiting = [5, 6, 7].map(|payload| fleet.submit(of_team(payload)).expect("there is room"));
    budgets.set(Scope::Group(TEAM), team(9)).unwrap();
    for handle in waiting {
        assert_eq!(handle.wait().kind(), OutcomeKind::Completed);
    }
    finish(&fleet);
}

#[test]
fn what_goes_back_from_the_hand_of_a_worker_leaves_nothing_that_has_ended() {
    for by_control in [false, true] {
        let fleet = with_room(1).build().unwrap();
        let task = Arc::<Mutex<Option<TaskHandle<u64>>>>::default();
        let (weak, in_hand) = (fleet.downgrade(), Arc::clone(&task));
        let spec = AgentSpec::new("fails").handler_fn(move |_: &Task<u64>, cx| {
            let fleet = weak.upgrade().expect("it drives");
            let in_hand = in_hand.lock().expect("nobody panics").take();
            if let Some(in_hand) = in_hand {
                assert!(in_hand.cancel());
                if by_control {
                    fleet.tell_control(cx.agent(), 9).expect("there is room");
                }
                fleet.set_condition(cx.agent(), Condition::Failed).expect("it lives");
            }
            Ok(0)
        });
        let spec = spec.restart(RestartPolicy::new(Restart::OnFailure));
        let agent = fleet.spawn(spec).unwrap();
        fleet.tell(agent, 0).unwrap();
        *task.lock().unwrap() = Some(fleet.submit(Task::new(1).to(agent)).unwrap());
        fleet.run_ready(usize::MAX);
        assert!(task.lock().unwrap().is_none(), "it was handled, and both were in hand");
        assert!(!is_full(&fleet), "by control: {by_control}");
        let is_over = poll(&mut fleet.drain_async()).is_ready();
        assert!(is_over || fleet.mailbox_len(agent) == Some(1), "by control: {by_control}");
    }
}
