//! Submission: room, order, batches, ids, and what the log says.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::support::{Gate, LONG, Ledger, eventually, finish};
use phalanx::fleet::{
    AgentSpec, Attempt, Fleet, FleetBuilder, LogPosition, Outcome, OutcomeKind, Priority,
    SubmitError, Task, TaskErrorKind, TaskId, TaskLog,
};
use phalanx::{Error, ErrorKind, ManualClock};

/// What the handlers ran, in order.
type Order = Arc<Mutex<Vec<u64>>>;

/// An agent that waits at a gate and notes what it ran.
fn noting(gate: &Arc<Gate>, order: &Order) -> AgentSpec<u64, u64> {
    let (gate, order) = (Arc::clone(gate), Arc::clone(order));
    AgentSpec::<u64, u64>::new("noting").handler_fn(move |task, _| {
        gate.pass();
        order.lock().unwrap().push(*task.payload());
        Ok(*task.payload())
    })
}

fn echo() -> AgentSpec<u64, u64> {
    AgentSpec::<u64, u64>::new("echo").handler_fn(|task, _| Ok(*task.payload()))
}

/// A fleet of one worker whose one agent is busy until the gate opens.
fn busy(builder: FleetBuilder<u64, u64>) -> (Fleet<u64, u64>, Arc<Gate>, Order) {
    let (gate, order) = (Gate::new(), Order::default());
    let fleet = builder.workers(1).build().unwrap();
    fleet.spawn(noting(&gate, &order)).unwrap();
    drop(fleet.submit(Task::new(0)).unwrap());
    gate.await_arrivals(1);
    (fleet, gate, order)
}

fn capacity(tasks: usize) -> NonZeroUsize {
    NonZeroUsize::new(tasks).unwrap()
}

#[test]
fn tasks_run_by_priority_and_then_in_order_of_submission() {
    let (fleet, gate, order) = busy(Fleet::builder());
    let priorities =
        [Priority::LOW, Priority::NORMAL, Priority::HIGH, Priority::NORMAL, Priority::HIGH];
    for (n, priority) in (1..).zip(priorities) {
        drop(fleet.submit(Task::new(n).priority(priority)).unwrap());
    }
    gate.open();
    assert!(fleet.drain(LONG).unwrap().is_complete(), "dropping a handle cancels nothing");
    assert_eq!(*order.lock().unwrap(), [0, 3, 5, 2, 4, 1]);
    finish(&fleet);
}

#[test]
fn a_task_that_no_idle_agent_fits_does_not_hold_up_those_behind_it() {
    let (fleet, gate, _) = busy(Fleet::<u64, u64>::builder());
    // The worker is at the gate: a second one is needed to see who goes first.
    let second = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    second.spawn(noting(&gate, &Order::default()).capability("slow")).unwrap();
    second.spawn(echo().capability("fast")).unwrap();
    drop(second.submit(Task::new(1).capability("slow")).unwrap());
    gate.await_arrivals(2);
    let blocked = second.submit(Task::new(2).capability("slow").priority(Priority::HIGH)).unwrap();
    let quick = second.submit(Task::new(3).capability("fast")).unwrap();
    assert_eq!(*quick.wait(), Outcome::Completed(3));
    assert!(blocked.try_outcome().is_none());
    gate.open();
    assert_eq!(*blocked.wait(), Outcome::Completed(2));
    finish(&second);
    finish(&fleet);
}

#[test]
fn a_full_queue_gives_the_task_back_and_has_room_again_when_one_is_taken_out() {
    let (fleet, gate, _) = busy(Fleet::builder().queue_capacity(capacity(2)));
    let queued = [1, 2].map(|n| fleet.submit(Task::new(n)).unwrap());
    let Err(SubmitError::Full(task)) = fleet.submit(Task::new(3)) else { panic!("it was full") };
    assert_eq!(task.into_payload(), 3);
    assert_eq!(fleet.stats().tasks_refused, 1);
    assert!(queued[0].cancel());
    let third = fleet.submit(Task::new(3)).unwrap();
    gate.open();
    assert_eq!(*third.wait(), Outcome::Completed(3));
    assert_eq!(finish(&fleet).accepted, 4);
}

#[test]
fn those_who_wait_for_room_get_it_in_order_and_nobody_overtakes_them() {
    let (fleet, gate, order) = busy(Fleet::builder().queue_capacity(capacity(1)));
    drop(fleet.submit(Task::new(1)).unwrap());
    let mut waiting = Vec::new();
    for n in [2, 3] {
        let waiter = fleet.clone();
        waiting.push(thread::spawn(move || waiter.submit_wait(Task::new(n)).unwrap().wait()));
        while !format!("{fleet:?}").contains(&format!("submitters_waiting: {}", n - 1)) {
            thread::yield_now();
        }
    }
    gate.permit();
    gate.await_arrivals(2);
    // There was room for one, and it went to the first who waited, so there is none for this one.
    assert!(matches!(fleet.submit(Task::new(9)), Err(SubmitError::Full(_))));
    gate.open();
    for (n, waiter) in (2..).zip(waiting) {
        assert_eq!(*waiter.join().unwrap(), Outcome::Completed(n));
    }
    finish(&fleet);
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
}

#[test]
fn a_batch_that_waits_is_overtaken_by_nobody_and_gives_way_when_it_gives_up() {
    let (clock, hand) = ManualClock::new();
    let (fleet, gate, _) = busy(Fleet::builder().clock(clock).queue_capacity(capacity(2)));
    let waiting = |count| {
        let text = format!("submitters_waiting: {count}");
        eventually(&text, || format!("{fleet:?}").contains(&text));
    };
    drop(fleet.submit(Task::new(1)).unwrap());
    let batch = {
        let (fleet, tasks) = (fleet.clone(), vec![Task::new(2), Task::new(3)]);
        thread::spawn(move || fleet.submit_batch_timeout(tasks, Duration::from_secs(1)).map(drop))
    };
    waiting(1);
    // There is room for one, and the batch that wants two has its turn first.
    assert!(matches!(fleet.submit(Task::new(4)), Err(SubmitError::Full(_))));
    let single = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.submit_wait(Task::new(5)).unwrap().wait())
    };
    waiting(2);
    eventually("the batch sleeps", || hand.sleepers() > 0);
    hand.advance(Duration::from_secs(1));
    assert!(matches!(batch.join().unwrap(), Err(SubmitError::Full(tasks)) if tasks.len() == 2));
    waiting(0);
    assert_eq!(fleet.stats().handler_panics, 0, "it was the batch, not a gate that gave up");
    gate.open();
    assert_eq!(*single.join().unwrap(), Outcome::Completed(5));
    finish(&fleet);
}

#[test]
fn a_wait_for_room_ends_at_its_timeout_and_hands_the_task_back() {
    let (clock, hand) = ManualClock::new();
    let (fleet, gate, _) = busy(Fleet::builder().clock(clock).queue_capacity(capacity(1)));
    drop(fleet.submit(Task::new(1)).unwrap());
    let waiter = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.submit_timeout(Task::new(2), Duration::from_secs(1)))
    };
    while hand.sleepers() == 0 {
        thread::yield_now();
    }
    hand.advance(Duration::from_secs(1));
    let Err(SubmitError::Full(task)) = waiter.join().unwrap() else { panic!("there was no room") };
    assert_eq!(*task.payload(), 2);
    gate.open();
    while fleet.stats().tasks_queued > 0 {
        thread::yield_now();
    }
    let handle = fleet.submit(task).expect("the one who gave up does not stand in line any more");
    assert_eq!(*handle.wait(), Outcome::Completed(2));
    finish(&fleet);
}

#[test]
fn a_drain_sends_those_who_wait_for_room_away() {
    let (fleet, gate, _) = busy(Fleet::builder().queue_capacity(capacity(1)));
    drop(fleet.submit(Task::new(1)).unwrap());
    let waiter = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.submit_wait(Task::new(2)).map(drop))
    };
    while !format!("{fleet:?}").contains("submitters_waiting: 1") {
        thread::yield_now();
    }
    assert!(!fleet.drain(Duration::ZERO).unwrap().is_complete());
    assert!(matches!(waiter.join().unwrap(), Err(SubmitError::Closed(_))));
    assert_eq!(fleet.stats().handler_panics, 0, "it was the drain, not a gate that gave up");
    gate.open();
    finish(&fleet);
}

#[test]
fn a_batch_is_accepted_whole_with_one_call_to_the_log_or_handed_back_whole() {
    let ledger = Arc::<Ledger>::default();
    let builder = Fleet::builder().queue_capacity(capacity(3)).task_log(ledger.clone());
    let (fleet, gate, _) = busy(builder);
    let batch = |n: u64| (1..=n).map(Task::new).collect::<Vec<_>>();
    let Err(SubmitError::Full(back)) = fleet.submit_batch(batch(4)) else { panic!("4 > 3") };
    assert_eq!(back.iter().map(Task::payload).sum::<u64>(), 10);
    let Err(SubmitError::Full(_)) = fleet.submit_batch_wait(batch(4)) else { panic!("never fits") };
    let mut mixed = batch(2);
    mixed.push(Task::new(3).capability("nobody has it"));
    let Err(SubmitError::NoAgent(_)) = fleet.submit_batch(mixed) else { panic!("nobody") };
    assert_eq!(fleet.stats().tasks_accepted, 1);

    let handles = fleet.submit_batch(batch(3)).unwrap();
    let ids: Vec<_> = handles.iter().map(|handle| handle.id()).collect();
    assert_eq!(*ledger.accepted.lock().unwrap(), [vec![TaskId::new(1)], ids]);
    assert!(fleet.submit_batch(Vec::new()).unwrap().is_empty());
    gate.open();
    for (n, handle) in (1..).zip(handles) {
        assert_eq!(*handle.wait(), Outcome::Completed(n));
    }
    assert_eq!(finish(&fleet).completed, 4);
}

#[test]
fn ids_count_on_from_the_first_and_from_those_that_hosts_give() {
    let fleet =
        Fleet::<u64, u64>::builder().workers(1).first_task_id(TaskId::new(100)).build().unwrap();
    let (gate, order) = (Gate::new(), Order::default());
    fleet.spawn(noting(&gate, &order)).unwrap();
    let id = |task: Task<u64>| fleet.submit(task).unwrap().id().get();
    assert_eq!(id(Task::new(0)), 100);
    assert_eq!(id(Task::new(0).with_id(TaskId::new(7))), 7);
    assert_eq!(id(Task::new(0)), 101);
    assert_eq!(id(Task::new(0).with_id(TaskId::new(500))), 500);
    assert_eq!(id(Task::new(0)), 501);
    let twice = fleet.submit(Task::new(0).with_id(TaskId::new(500)));
    assert!(matches!(twice, Err(SubmitError::Duplicate(task)) if task.id().is_some()));
    let twins =
        vec![Task::new(0).with_id(TaskId::new(600)), Task::new(0).with_id(TaskId::new(600))];
    assert!(matches!(fleet.submit_batch(twins), Err(SubmitError::Duplicate(_))));

    assert_eq!(id(Task::new(0).with_id(TaskId::new(u64::MAX))), u64::MAX);
    let Err(SubmitError::NotRecorded { error, .. }) = fleet.submit(Task::new(0)) else {
        panic!("there is no id left")
    };
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    gate.open();
    assert_eq!(finish(&fleet).accepted, 6);
}

#[test]
fn a_task_that_no_agent_could_take_is_handed_back() {
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    assert!(matches!(fleet.submit(Task::new(1)), Err(SubmitError::NoAgent(_))));
    fleet.spawn(AgentSpec::new("for leases alone").capability("rust")).unwrap();
    let task = Task::new(1).capability("rust");
    let Err(SubmitError::NoAgent(task)) = fleet.submit(task) else { panic!("it has no handler") };
    fleet.spawn(echo().capability("rust")).unwrap();
    assert_eq!(*fleet.submit(task).unwrap().wait(), Outcome::Completed(1));
    finish(&fleet);
}

#[test]
fn a_task_that_comes_after_others_is_handed_back_once_the_last_agent_has_left() {
    let fleet = Fleet::<u64, u64>::builder().driven().build().unwrap();
    let run = || {
        let handles = [1, 2, 3].map(|number| fleet.submit(Task::new(number)).unwrap());
        assert_eq!(fleet.run_ready(usize::MAX), 3);
        assert!(handles.iter().all(|handle| handle.try_outcome().is_some()));
    };
    let refused = || matches!(fleet.submit(Task::new(4)), Err(SubmitError::NoAgent(_)));
    let agents = [echo(), echo()].map(|spec| fleet.spawn(spec).unwrap());
    run();
    fleet.kill(agents[0]).unwrap();
    run();
    fleet.kill(agents[1]).unwrap();
    assert!(refused(), "it was killed");
    let agent = fleet.spawn(echo()).unwrap();
    run();
    fleet.retire(agent).unwrap();
    assert!(refused(), "it was retired");
    finish(&fleet);
}

#[test]
fn a_task_whose_last_agent_dies_waits_for_a_new_one() {
    let (fleet, gate, _) = busy(Fleet::builder());
    let queued = fleet.submit(Task::new(1)).unwrap();
    fleet.kill(fleet.agents()[0].id).unwrap();
    assert_eq!(fleet.stats().tasks_queued, 2);
    gate.open();
    fleet.spawn(echo()).unwrap();
    assert_eq!(*queued.wait(), Outcome::Completed(1));
    assert_eq!(finish(&fleet).completed, 2);
}

#[test]
fn a_task_whose_acceptance_is_not_recorded_was_never_accepted() {
    let ledger = Arc::<Ledger>::default();
    let fleet = Fleet::builder()
        .workers(1)
        .queue_capacity(NonZeroUsize::MIN)
        .task_log(ledger.clone())
        .build()
        .unwrap();
    fleet.spawn(echo()).unwrap();
    *ledger.refuse_accept.lock().unwrap() = true;
    for _ in 0..3 {
        let task = Task::new(5).with_id(TaskId::new(9));
        let Err(SubmitError::NotRecorded { returned, error }) = fleet.submit(task) else {
            panic!("the log refused")
        };
        assert_eq!((*returned.payload(), error.kind()), (5, ErrorKind::Io));
    }
    assert_eq!(fleet.stats().tasks_accepted, 0);
    *ledger.refuse_accept.lock().unwrap() = false;
    let handle = fleet.submit(Task::new(5).with_id(TaskId::new(9))).expect("room was given back");
    assert_eq!(*handle.wait(), Outcome::Completed(5));
    assert_eq!(finish(&fleet).accepted, 1);
}

#[test]
fn work_that_is_not_recorded_is_never_seen_as_completed() {
    let ledger = Arc::<Ledger>::default();
    let fleet = Fleet::builder().workers(1).task_log(ledger.clone()).build().unwrap();
    fleet.spawn(echo()).unwrap();
    *ledger.refuse_settle.lock().unwrap() = true;
    let handle = fleet.submit(Task::new(5)).unwrap();
    let outcome = handle.wait();
    let Outcome::Failed(error) = &*outcome else { panic!("{outcome:?}") };
    assert_eq!((error.kind(), error.is_retryable()), (TaskErrorKind::NotRecorded, false));
    assert_eq!(error.message(), "i/o error: the disk is full");
    assert_eq!(handle.log_position(), None);
    assert_eq!(fleet.stats().outcomes_not_recorded, 1);
    assert_eq!(finish(&fleet).failed, 1);
}

#[test]
fn a_log_that_panics_counts_as_one_that_refuses() {
    struct Bomb(Mutex<bool>);
    impl TaskLog<u64, u64> for Bomb {
        fn accept(&self, _: &[(TaskId, &Task<u64>)]) -> Result<(), Error> {
            assert!(*self.0.lock().unwrap(), "the log panics");
            Ok(())
        }
        fn settle(
            &self,
            _: TaskId,
            _: Attempt,
            _: &Task<u64>,
            _: &Outcome<u64>,
        ) -> Result<Option<LogPosition>, Error> {
            panic!("the log panics again");
        }
    }
    let log = Arc::new(Bomb(Mutex::new(false)));
    let fleet = Fleet::builder().workers(1).task_log(log.clone()).build().unwrap();
    fleet.spawn(echo()).unwrap();
    let Err(SubmitError::NotRecorded { error, .. }) = fleet.submit(Task::new(1)) else {
        panic!("the log panicked")
    };
    assert_eq!(error.kind(), ErrorKind::Internal);
    log.0.clear_poison();
    *log.0.lock().unwrap() = true;
    let outcome = fleet.submit(Task::new(1)).unwrap().wait();
    assert_eq!(outcome.kind(), OutcomeKind::Failed);
    assert_eq!(finish(&fleet).failed, 1);
}

#[test]
fn an_id_that_the_fleet_is_about_to_give_is_refused_to_others() {
    struct SlowLog(Arc<Gate>);
    impl TaskLog<u64, u64> for SlowLog {
        fn accept(&self, tasks: &[(TaskId, &Task<u64>)]) -> Result<(), Error> {
            if *tasks[0].1.payload() == 1 {
                self.0.pass();
            }
            Ok(())
        }
        fn settle(
            &self,
            _: TaskId,
            _: Attempt,
            _: &Task<u64>,
            _: &Outcome<u64>,
        ) -> Result<Option<LogPosition>, Error> {
            Ok(None)
        }
    }
    let gate = Gate::new();
    let fleet =
        Fleet::builder().workers(1).task_log(Arc::new(SlowLog(Arc::clone(&gate)))).build().unwrap();
    fleet.spawn(echo()).unwrap();
    let first = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.submit(Task::new(1)).unwrap())
    };
    gate.await_arrivals(1);
    // The first task is being recorded under the first id, and is in no table yet.
    let same = Task::new(2).with_id(TaskId::new(1));
    let Err(SubmitError::Duplicate(same)) = fleet.submit(same) else { panic!("it is taken") };
    gate.open();
    let first = first.join().unwrap();
    assert_eq!(first.id(), TaskId::new(1));
    assert_eq!(*first.wait(), Outcome::Completed(1));
    assert_eq!(*fleet.submit(same).unwrap().wait(), Outcome::Completed(2), "it is free again");
    assert_eq!(finish(&fleet).completed, 2);
}
