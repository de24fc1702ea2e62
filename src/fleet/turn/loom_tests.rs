//! Every interleaving of a turn and of control messages that come meanwhile, each with a twin.

use std::sync::Arc;

use crate::fleet::inner::After;
use crate::fleet::runner::{Ready, Seat};
use crate::fleet::work::{Next, ROUND};
use crate::fleet::{AgentId, AgentSpec, Fleet, Request, Task};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, thread, weakened};

const CONTROL: u32 = 9;

fn explore(body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 10_000;
    builder.check(body);
}

/// A fleet whose one worker is the model's, and that worker's seat.
fn staffed() -> (Fleet<u32, ()>, Seat) {
    let builder = Fleet::<u32, ()>::builder().workers(1);
    let fleet = Fleet::from_inner(builder.into_inner().expect("the values are valid"));
    let seat = fleet.inner().state.lock().workers.seats.pop().expect("there is one worker");
    (fleet, seat)
}

/// Gives an agent turns on a thread of its own, which hands its seat back.
fn turns(fleet: &Fleet<u32, ()>, agent: AgentId, mut seat: Seat) -> thread::JoinHandle<Seat> {
    let fleet = fleet.clone();
    thread::spawn(move || {
        fleet.inner().turn(agent, &mut seat);
        seat
    })
}

/// A control message comes while a worker has others in hand.
fn control_against_hand() {
    let (fleet, seat) = staffed();
    let handled = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&handled);
    let spec = AgentSpec::<u32, ()>::new("worker").handler_fn(move |task: &Task<u32>, _| {
        notes.lock().push(*task.payload());
        Ok(())
    });
    let agent = fleet.spawn(spec).expect("there is room");
    for message in 1..=2 {
        fleet.tell(agent, message).expect("there is room");
    }
    let worker = turns(&fleet, agent, seat);
    fleet.tell_control(agent, CONTROL).expect("there is room");
    let seen = handled.lock().len();
    let mut seat = worker.join().expect("a turn does not panic");
    // Where the message came after the turn.
    fleet.inner().turn(agent, &mut seat);
    let handled = handled.lock();
    let place = handled.iter().position(|message| *message == CONTROL);
    // One may have been at work and not have noted it.
    assert!(place.is_some_and(|place| place <= seen + 1), "work holds control up: {handled:?}");
    let work: Vec<_> = handled.iter().filter(|message| **message != CONTROL).copied().collect();
    assert_eq!(work, [1, 2], "each once, in its order");
}

#[test]
fn loom_what_a_worker_has_in_hand_does_not_hold_a_control_message_up() {
    explore(control_against_hand);
}

#[test]
#[should_panic(expected = "work holds control up")]
fn loom_twin_a_hand_that_is_left_to_its_worker_holds_a_control_message_up() {
    weakened("fleet.leave-what-is-in-hand", || explore(control_against_hand));
}

/// A control message comes while a worker has tasks of the queue before it.
fn control_against_queue() {
    let (fleet, mut seat) = staffed();
    let handled = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&handled);
    let spec = AgentSpec::<u32, ()>::new("worker").handler_fn(move |task: &Task<u32>, _| {
        notes.lock().push(*task.payload());
        Ok(())
    });
    let agent = fleet.spawn(spec).expect("there is room");
    let tasks = [1, 2].map(|task| fleet.submit(Task::new(task)).expect("there is room"));
    let worker = {
        let fleet = fleet.clone();
        thread::spawn(move || {
            for _ in 0..2 {
                fleet.inner().run_next(&mut seat, ROUND);
            }
            seat
        })
    };
    fleet.tell_control(agent, CONTROL).expect("there is room");
    let seen = handled.lock().len();
    let mut seat = worker.join().expect("a worker does not panic");
    // Where the message came after that, and where a turn took the place of an attempt.
    fleet.inner().turn(agent, &mut seat);
    fleet.inner().run_next(&mut seat, ROUND);
    let handled = handled.lock();
    let place = handled.iter().position(|message| *message == CONTROL);
    // One may have been at work and not have noted it.
    assert!(place.is_some_and(|place| place <= seen + 1), "tasks hold control up: {handled:?}");
    assert!(tasks.iter().all(|task| task.try_outcome().is_some()), "of {handled:?}");
    assert_eq!(fleet.stats().leases_live, 0);
}

#[test]
fn loom_tasks_that_are_queued_do_not_hold_a_control_message_up() {
    explore(control_against_queue);
}

#[test]
#[should_panic(expected = "tasks hold control up")]
fn loom_twin_a_worker_that_does_not_look_gives_the_agent_to_a_task_before_control() {
    weakened("work.tasks-before-control", || explore(control_against_queue));
}

/// A task is given the only lease of an agent while a control message wants its handler.
fn control_against_task() {
    let (fleet, seat) = staffed();
    let (inside, both) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let spec = {
        let (inside, both) = (Arc::clone(&inside), Arc::clone(&both));
        AgentSpec::<u32, ()>::new("worker").handler_fn(move |_, _| {
            // Relaxed: loom gives each order of the two.
            if inside.swap(true, Ordering::Relaxed) {
                both.store(true, Ordering::Relaxed);
            }
            inside.store(false, Ordering::Relaxed);
            Ok(())
        })
    };
    let agent = fleet.spawn(spec).expect("there is room");
    let task = fleet.submit(Task::new(1)).expect("there is room");
    fleet.tell_control(agent, CONTROL).expect("there is room");
    let worker = turns(&fleet, agent, seat);
    let mut after = After::new();
    let job = fleet.inner().state.lock().next_job(&fleet.inner().posts, false, 0, &mut after);
    fleet.inner().finish(after);
    let ran = matches!(job, Some(Next::Job(_)));
    match job {
        Some(Next::Job(job)) => {
            assert!(fleet.inner().run(job, false).is_none(), "no other was wanted");
        }
        // The turn is the other worker's, unless it comes later than this.
        Some(Next::Control(taken)) => fleet.inner().release(taken, true),
        None => {}
    }
    let mut seat = worker.join().expect("a turn does not panic");
    // It may have found the handler at work.
    fleet.inner().turn(agent, &mut seat);
    assert!(!both.load(Ordering::Relaxed), "two handlers of one agent at once");
    assert_eq!(ran, task.try_outcome().is_some());
    assert_eq!(fleet.stats().messages_handled, 1);
    assert_eq!(fleet.stats().leases_live, 0);
}

#[test]
fn loom_a_control_message_and_a_task_never_have_two_handlers_of_one_agent() {
    explore(control_against_task);
}

#[test]
#[should_panic(expected = "two handlers of one agent at once")]
fn loom_twin_without_the_lock_of_the_tasks_a_control_message_has_a_second_handler() {
    weakened("turn.take-beside-unlocked", || explore(control_against_task));
}

/// The only lease of an agent comes back while a worker looks whether its mailbox may have a turn.
fn room_against_look() {
    let (fleet, seat) = staffed();
    let spec = AgentSpec::<u32, ()>::new("worker").handler_fn(|_: &Task<u32>, _| Ok(()));
    let agent = fleet.spawn(spec).expect("there is room");
    let lease = fleet.try_allocate(&Request::any()).expect("it is free");
    fleet.tell(agent, 1).expect("there is room");
    let worker = works(&fleet, seat);
    drop(lease);
    let seat = worker.join().expect("a turn does not panic");
    // What stands in line after that.
    let seat = works(&fleet, seat).join().expect("a turn does not panic");
    assert_eq!(fleet.stats().messages_handled, 1, "a mailbox that has room is not in line");
    drop(seat);
}

/// Runs the mailboxes that stand in line on a thread of its own, which hands its seat back.
fn works(fleet: &Fleet<u32, ()>, mut seat: Seat) -> thread::JoinHandle<Seat> {
    let fleet = fleet.clone();
    thread::spawn(move || {
        while let Some(ready) = fleet.inner().runner.try_next(&mut seat) {
            if let Ready::Mailbox(agent) = ready {
                fleet.inner().turn(agent, &mut seat);
            }
        }
        seat
    })
}

#[test]
fn loom_a_mailbox_that_is_looked_at_as_room_comes_has_a_turn() {
    explore(room_against_look);
}

#[test]
#[should_panic(expected = "a mailbox that has room is not in line")]
fn loom_twin_a_worker_that_looks_once_misses_the_room_that_comes_meanwhile() {
    weakened("turn.look-once", || explore(room_against_look));
}
