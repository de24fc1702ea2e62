//! Tasks that wait for other tasks.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::support::{Gate, Ledger, SlowLog, balanced, eventually, finish};
use phalanx::ManualClock;
use phalanx::fleet::{
    AgentSpec, Fleet, IfDependencyFails, MAX_DEPENDENCIES, Outcome, OutcomeKind, SubmitError, Task,
    TaskError, TaskErrorKind, TaskId,
};

/// Fails on odd payloads, and remembers what it ran.
fn spec(ran: &Arc<Mutex<Vec<u64>>>) -> AgentSpec<u64, u64> {
    let ran = Arc::clone(ran);
    AgentSpec::<u64, u64>::new("parity").handler_fn(move |task, _| {
        ran.lock().unwrap().push(*task.payload());
        if task.payload() % 2 == 0 { Ok(*task.payload()) } else { Err(TaskError::permanent("odd")) }
    })
}

/// An agent whose handler waits at a gate.
fn gated(gate: &Arc<Gate>) -> AgentSpec<u64, u64> {
    let gate = Arc::clone(gate);
    AgentSpec::<u64, u64>::new("gated").capability("gate").handler_fn(move |task, _| {
        gate.pass();
        Ok(*task.payload())
    })
}

struct Setting {
    fleet: Fleet<u64, u64>,
    gate: Arc<Gate>,
    ran: Arc<Mutex<Vec<u64>>>,
}

impl Setting {
    fn new() -> Self {
        Self::of(Fleet::builder().workers(2).build().unwrap())
    }

    fn of(fleet: Fleet<u64, u64>) -> Self {
        let setting = Self { fleet, gate: Gate::new(), ran: Arc::default() };
        setting.fleet.spawn(gated(&setting.gate)).unwrap();
        setting.fleet.spawn(spec(&setting.ran).capability("parity")).unwrap();
        setting
    }

    fn ran(&self) -> Vec<u64> {
        self.ran.lock().unwrap().clone()
    }
}

/// A task for the agent that remembers.
fn task(payload: u64) -> Task<u64> {
    Task::new(payload).capability("parity")
}

fn slow() -> Task<u64> {
    Task::new(0).capability("gate")
}

fn failed(outcome: &Outcome<u64>) -> Option<TaskErrorKind> {
    match outcome {
        Outcome::Failed(error) => Some(error.kind()),
        _ => None,
    }
}

const DEPENDENCY: Option<TaskErrorKind> = Some(TaskErrorKind::DependencyFailed);

#[test]
fn a_task_runs_once_all_that_it_waits_for_have_completed() {
    let setting = Setting::new();
    let fleet = &setting.fleet;
    let first = fleet.submit(slow()).unwrap();
    let second = fleet.submit(task(2).after(&first)).unwrap();
    let third = fleet.submit(task(4).after(&first).after(&second).after(&first)).unwrap();
    let free = fleet.submit(task(6)).unwrap();
    assert_eq!(*free.wait(), Outcome::Completed(6), "who waits for nothing overtakes");
    setting.gate.await_arrivals(1);
    assert_eq!((fleet.stats().tasks_queued, setting.ran()), (2, vec![6]));
    setting.gate.open();
    assert_eq!(*third.wait(), Outcome::Completed(4));
    assert_eq!(setting.ran(), [6, 2, 4]);
    assert_eq!(finish(fleet).completed, 4);
}

#[test]
fn a_task_that_has_ended_is_known_by_its_handle() {
    let setting = Setting::new();
    let fleet = &setting.fleet;
    let (good, bad) = (fleet.submit(task(2)).unwrap(), fleet.submit(task(1)).unwrap());
    drop((good.wait(), bad.wait()));
    let after_good = fleet.submit(task(4).after(&good)).unwrap();
    assert_eq!(*after_good.wait(), Outcome::Completed(4));
    let after_bad = fleet.submit(task(6).after(&good).after(&bad)).unwrap();
    assert_eq!(failed(&after_bad.wait()), DEPENDENCY);
    let Outcome::Failed(error) = &*after_bad.wait() else { unreachable!("it was just asked") };
    assert_eq!(error.message(), format!("task {}, which it waited for, failed", bad.id()));
    let released = task(8).after(&bad).if_dependency_fails(IfDependencyFails::Release);
    assert_eq!(*fleet.submit(released).unwrap().wait(), Outcome::Completed(8));
    assert_eq!(setting.ran(), [2, 1, 4, 8]);
    finish(fleet);
}

#[test]
fn a_failure_reaches_all_that_wait_for_it_however_long_the_chain() {
    let setting = Setting::new();
    let fleet = &setting.fleet;
    let first = fleet.submit(slow()).unwrap();
    let mut chain = vec![fleet.submit(task(1).after(&first)).unwrap()];
    for payload in 1..=5000 {
        let last = chain.last().unwrap();
        chain.push(fleet.submit(task(2 * payload).after(last)).unwrap());
    }
    let end = chain.last().unwrap();
    let tail = task(2).after(end).if_dependency_fails(IfDependencyFails::Release);
    let tail = fleet.submit(tail).unwrap();
    setting.gate.open();
    assert_eq!(*tail.wait(), Outcome::Completed(2), "it goes on whatever came before");
    assert_eq!(failed(&chain[0].wait()), Some(TaskErrorKind::Handler));
    assert!(chain[1..].iter().all(|link| failed(&link.wait()) == DEPENDENCY));
    assert_eq!(setting.ran(), [1, 2]);
    assert_eq!(finish(fleet).failed, 5001);
}

fn unknown<R>(refused: Result<(), SubmitError<R>>) -> bool {
    matches!(refused, Err(SubmitError::UnknownDependency(_)))
}

#[test]
fn a_task_waits_for_so_many_others_and_is_handed_back_if_it_would_for_more() {
    let setting = Setting::new();
    let first = setting.fleet.submit(task(2).with_id(TaskId::new(1))).unwrap();
    let waiting = |count| (0..count).fold(task(4), |task, _| task.after(&first));
    let refused = setting.fleet.submit(waiting(MAX_DEPENDENCIES + 1)).map(drop).unwrap_err();
    assert!(matches!(refused, SubmitError::TooManyDependencies(_)), "{refused:?}");
    assert_eq!(*refused.into_inner().payload(), 4, "it is handed back");
    let batch = vec![task(6), waiting(MAX_DEPENDENCIES + 1)];
    let refused = setting.fleet.submit_batch(batch).map(drop).unwrap_err();
    assert!(matches!(refused, SubmitError::TooManyDependencies(_)), "{refused:?}");
    assert_eq!(refused.into_inner().len(), 2, "all or nothing");
    assert_eq!(setting.fleet.stats().tasks_refused, 3);
    let most = setting.fleet.submit(waiting(MAX_DEPENDENCIES)).unwrap();
    assert_eq!(*most.wait(), Outcome::Completed(4));
    assert_eq!(finish(&setting.fleet).completed, 2);
}

#[test]
fn nothing_waits_for_what_is_not_known_so_there_are_no_cycles() {
    let setting = Setting::new();
    let fleet = &setting.fleet;
    let own = |id: u64, on: u64| task(2).with_id(TaskId::new(id)).after_id(TaskId::new(on));
    assert!(unknown(fleet.submit(task(2).after_id(TaskId::new(77))).map(drop)));
    assert!(unknown(fleet.submit(own(100, 100)).map(drop)), "itself");
    let cycle = vec![own(101, 102), own(102, 101)];
    assert!(unknown(fleet.submit_batch(cycle).map(drop)));
    let backwards = vec![own(101, 102), task(2).with_id(TaskId::new(102))];
    assert!(unknown(fleet.submit_batch(backwards).map(drop)));

    let other = Setting::new();
    let blocked = other.fleet.submit(slow()).unwrap();
    assert!(unknown(fleet.submit(task(2).after(&blocked)).map(drop)), "another fleet's");
    other.gate.open();
    finish(&other.fleet);

    assert_eq!(fleet.stats().tasks_refused, 7);
    let forwards = vec![task(2).with_id(TaskId::new(101)), own(102, 101), own(103, 102)];
    let handles = fleet.submit_batch(forwards).unwrap();
    assert_eq!(*handles[2].wait(), Outcome::Completed(2));
    let forgotten = own(104, 103);
    assert!(unknown(fleet.submit(forgotten).map(drop)), "it ended, and there is no history");
    assert_eq!(finish(fleet).completed, 3);
}

#[test]
fn a_task_that_has_ended_is_known_by_its_id_as_long_as_the_history_has_it() {
    let setting = Setting::of(Fleet::builder().workers(2).history(1).build().unwrap());
    let fleet = &setting.fleet;
    let good = fleet.submit(task(2)).unwrap();
    drop(good.wait());
    let after = fleet.submit(task(4).after_id(good.id())).unwrap();
    assert_eq!(*after.wait(), Outcome::Completed(4));
    let refused = fleet.submit(task(4).after_id(good.id())).map(drop);
    assert!(matches!(refused, Err(SubmitError::UnknownDependency(_))));
    finish(fleet);
}

#[test]
fn a_task_that_is_held_can_be_cancelled_expired_and_returned() {
    let (clock, hand) = ManualClock::new();
    let builder = Fleet::builder().workers(3).clock(clock);
    let setting = Setting::of(builder.queue_capacity(4.try_into().unwrap()).build().unwrap());
    let fleet = &setting.fleet;
    let first = fleet.submit(slow()).unwrap();
    setting.gate.await_arrivals(1);
    let cancelled = fleet.submit(task(2).after(&first)).unwrap();
    let behind = fleet.submit(task(4).after(&cancelled)).unwrap();
    let expired = fleet.submit(task(6).after(&first).timeout(Duration::from_secs(1))).unwrap();
    let returned = fleet.submit(task(8).after(&first)).unwrap();
    let full = fleet.submit(task(10).after(&first)).map(drop);
    assert!(matches!(full, Err(SubmitError::Full(_))), "who is held takes a place");

    assert!(cancelled.cancel());
    assert_eq!(*cancelled.wait(), Outcome::Cancelled);
    assert_eq!(failed(&behind.wait()), DEPENDENCY);
    eventually("a worker keeps the time", || hand.sleepers() == 1);
    hand.advance(Duration::from_secs(1));
    assert_eq!(failed(&expired.wait()), Some(TaskErrorKind::DeadlineExceeded));
    let room = fleet.submit(task(10).after(&first)).expect("there is room again");
    let report = fleet.shutdown(Duration::ZERO).unwrap();
    assert_eq!((report.cancelled, report.failed, report.returned), (1, 2, 3));
    for handle in [&returned, &room, &first] {
        assert_eq!(handle.wait().kind(), OutcomeKind::Returned);
    }
    balanced(&fleet.stats());
    assert!(setting.ran().is_empty(), "nobody ran");
    setting.gate.open();
    finish(fleet);
}

/// Somebody waits for room in a queue of one place, which a task has that waits for another one.
fn waiting_for_room(setting: &Setting, held: Task<u64>) -> std::thread::JoinHandle<u64> {
    setting.fleet.submit(held).map(drop).unwrap();
    let fleet = setting.fleet.clone();
    let full = setting.fleet.submit(task(8));
    assert!(matches!(full, Err(SubmitError::Full(_))));
    let waiting = std::thread::spawn(move || {
        let handle = fleet.submit_wait(task(10)).expect("there is room at last");
        *handle.wait().completed().expect("it is even")
    });
    let line = || format!("{:?}", setting.fleet).contains("submitters_waiting: 1");
    eventually("it waits", line);
    waiting
}

fn one_place() -> (Setting, ManualClock) {
    let (clock, hand) = ManualClock::new();
    let builder = Fleet::builder().workers(2).clock(clock).queue_capacity(NonZeroUsize::MIN);
    (Setting::of(builder.build().unwrap()), hand)
}

#[test]
fn a_dependant_that_fails_makes_room_for_who_waits() {
    let (setting, _hand) = one_place();
    let first = setting.fleet.submit(slow()).unwrap();
    setting.gate.await_arrivals(1);
    let odd = setting.fleet.submit(task(1)).unwrap();
    let _ = odd.wait();
    let waiting = waiting_for_room(&setting, task(2).after(&first));
    let agent = setting.fleet.agents()[0].id;
    setting.fleet.kill(agent).unwrap();
    // The first cannot run any more: cancelled, it takes the one behind it along.
    first.cancel();
    setting.gate.open();
    assert_eq!(waiting.join().unwrap(), 10);
    finish(&setting.fleet);
}

#[test]
fn a_held_task_that_expires_makes_room_for_who_waits() {
    let (setting, hand) = one_place();
    let first = setting.fleet.submit(slow()).unwrap();
    setting.gate.await_arrivals(1);
    let held = task(2).after(&first).timeout(Duration::from_secs(1));
    let waiting = waiting_for_room(&setting, held);
    hand.advance(Duration::from_secs(1));
    setting.fleet.tick();
    assert_eq!(waiting.join().unwrap(), 10);
    setting.gate.open();
    finish(&setting.fleet);
}

#[test]
fn a_dependant_whose_acceptance_is_under_way_when_the_fleet_stops_ends_once() {
    for then in [IfDependencyFails::Fail, IfDependencyFails::Release] {
        let log = SlowLog::new();
        let builder = Fleet::builder().workers(1).task_log(log.clone());
        let fleet: Fleet<u64, u64> = builder.build().unwrap();
        fleet.spawn(spec(&Arc::default()).capability("parity")).unwrap();
        let submit = {
            let fleet = fleet.clone();
            std::thread::spawn(move || {
                let first = task(0).with_id(TaskId::new(1));
                let second = task(2).with_id(TaskId::new(2)).after_id(TaskId::new(1));
                let handles =
                    fleet.submit_batch(vec![first, second.if_dependency_fails(then)]).unwrap();
                handles.iter().map(|handle| handle.wait().kind()).collect::<Vec<_>>()
            })
        };
        log.gate.await_arrivals(1);
        fleet.shutdown(Duration::ZERO).unwrap();
        log.gate.open();
        assert_eq!(submit.join().unwrap(), [OutcomeKind::Returned; 2]);
        finish(&fleet);
        assert_eq!(log.ledger.settled.lock().unwrap().len(), 2, "each was settled once");
    }
}

#[test]
fn a_dependency_that_runs_again_is_waited_for() {
    let setting = Setting::new();
    let fleet = &setting.fleet;
    let agent = fleet.agents()[0].id;
    let first = fleet.submit(slow()).unwrap();
    let second = fleet.submit(task(2).after(&first)).unwrap();
    setting.gate.await_arrivals(1);
    fleet.kill(agent).unwrap();
    assert_eq!(fleet.stats().tasks_queued, 2);
    fleet.spawn(gated(&setting.gate)).unwrap();
    setting.gate.await_arrivals(2);
    assert_eq!(second.try_outcome(), None);
    setting.gate.open();
    assert_eq!(*second.wait(), Outcome::Completed(2));
    finish(fleet);
}

#[test]
fn a_batch_that_the_log_refuses_leaves_nobody_waiting() {
    let ledger = Arc::<Ledger>::default();
    let fleet = Fleet::builder().workers(2).task_log(ledger.clone()).build().unwrap();
    let setting = Setting::of(fleet);
    let fleet = &setting.fleet;
    let first = fleet.submit(slow()).unwrap();
    let second = fleet.submit(slow()).unwrap();
    let own = |id: u64| task(id).with_id(TaskId::new(id));
    let batch = vec![own(100).after(&first), own(102).after_id(TaskId::new(100)).after(&first)];
    *ledger.refuse_accept.lock().unwrap() = true;
    assert!(matches!(fleet.submit_batch(batch), Err(SubmitError::NotRecorded { .. })));
    *ledger.refuse_accept.lock().unwrap() = false;
    // They wait for another one now, and the end of the first is nothing to them.
    let handles = fleet.submit_batch(vec![own(100).after(&second), own(102).after(&second)]);
    setting.gate.await_arrivals(1);
    setting.gate.permit();
    let _ = first.wait();
    let behind = fleet.submit(task(104)).unwrap();
    assert_eq!(*behind.wait(), Outcome::Completed(104));
    assert_eq!(setting.ran(), [104]);
    setting.gate.open();
    for handle in handles.unwrap() {
        assert_eq!(handle.wait().kind(), OutcomeKind::Completed);
    }
    assert_eq!(setting.ran(), [104, 100, 102]);
    assert_eq!(finish(fleet).accepted, 5);
}

#[derive(Clone, Debug)]
struct Node {
    fails: bool,
    release: bool,
    /// Which of those before it, by the remainder.
    on: Vec<usize>,
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let node = (any::<bool>(), any::<bool>(), proptest::collection::vec(any::<usize>(), 0..4));
    let node = node.prop_map(|(fails, release, on)| Node { fails, release, on });
    proptest::collection::vec(node, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However tasks wait for each other, and whether those before have ended or not.
    #[test]
    fn every_task_ends_as_those_that_it_waits_for_say(nodes in nodes()) {
        let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
        let ran = Arc::default();
        fleet.spawn_batch(&spec(&ran), 3).unwrap();
        let mut handles = Vec::new();
        let mut expected: Vec<OutcomeKind> = Vec::new();
        let mut runs = 0;
        for (index, node) in nodes.iter().enumerate() {
            let payload = index as u64 * 2 + u64::from(node.fails);
            let mut task = Task::new(payload);
            let mut held_back = false;
            for on in node.on.iter().filter_map(|on| on.checked_rem(index)) {
                task = task.after(&handles[on]);
                held_back |= expected[on] != OutcomeKind::Completed;
            }
            if node.release {
                task = task.if_dependency_fails(IfDependencyFails::Release);
            }
            let runs_at_all = node.release || !held_back;
            runs += usize::from(runs_at_all);
            let completes = runs_at_all && !node.fails;
            expected.push(if completes { OutcomeKind::Completed } else { OutcomeKind::Failed });
            handles.push(fleet.submit(task).unwrap());
        }
        let outcomes: Vec<_> = handles.iter().map(|handle| handle.wait().kind()).collect();
        prop_assert_eq!(outcomes, expected);
        finish(&fleet);
        prop_assert_eq!(ran.lock().unwrap().len(), runs);
    }
}
