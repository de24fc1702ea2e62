//! The line, what counts as occupied and active, and workers that sleep.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::fleet::{AgentSpec, Condition, Fleet, Request};
use crate::sync::thread;

fn agent(slot: u32) -> AgentId {
    AgentId { slot, generation: 0 }
}

fn schedule(runner: &Runner, agent: AgentId) {
    let roused = runner.schedule(agent).expect("it takes more");
    runner.rouse(roused);
}

fn one() -> (Runner, Seat) {
    let (runner, mut seats) = Runner::new(1, Clock::real());
    let seat = seats.pop().expect("one worker has one seat");
    (runner, seat)
}

#[test]
fn tasks_and_mailboxes_take_turns_in_the_order_in_which_they_became_ready() {
    let (runner, mut seat) = one();
    schedule(&runner, agent(1));
    runner.tasks_are_ready();
    runner.tasks_are_ready();
    schedule(&runner, agent(2));
    let mut next = || runner.next(&mut seat);
    assert_eq!(next(), Some(Ready::Mailbox(agent(1))));
    assert_eq!(next(), Some(Ready::Tasks));
    runner.tasks_are_ready();
    assert_eq!(next(), Some(Ready::Mailbox(agent(2))));
    assert_eq!(next(), Some(Ready::Tasks));
}

#[test]
fn a_worker_is_occupied_from_its_saying_so_to_its_next_question() {
    let (runner, mut seat) = one();
    schedule(&runner, agent(1));
    assert_eq!(runner.occupied(), 0);
    assert!(runner.next(&mut seat).is_some());
    assert_eq!(runner.occupied(), 0, "it looks what there is to do");
    runner.occupy(&mut seat);
    assert_eq!((runner.occupied(), runner.active()), (1, 1));
    assert!(!runner.retire(1), "nobody waits for that");
    runner.stop();
    assert_eq!(runner.next(&mut seat), None);
    assert_eq!((runner.occupied(), runner.active()), (0, 0));
}

#[test]
fn a_runner_that_drains_schedules_none_that_is_idle_and_tells_when_the_last_is() {
    let (runner, mut seat) = one();
    schedule(&runner, agent(1));
    runner.drain();
    assert_eq!(runner.schedule(agent(2)), Err(Ended));
    runner.reschedule(agent(1));
    assert!(runner.next(&mut seat).is_some());
    assert!(runner.retire(1));
    assert!(!runner.retire(0), "it was told already");
}

#[test]
fn sleeping_workers_are_roused_and_end_when_it_stops() {
    let (runner, seats) = Runner::new(3, Clock::real());
    let runner = Arc::new(runner);
    let workers: Vec<_> = seats
        .into_iter()
        .map(|mut seat| {
            let runner = Arc::clone(&runner);
            thread::spawn(move || std::iter::from_fn(|| runner.next(&mut seat)).count())
        })
        .collect();
    for slot in 0..300 {
        schedule(&runner, agent(slot));
        if slot % 10 == 0 {
            while runner.sleeping() < 3 {
                thread::yield_now();
            }
        }
    }
    while runner.sleeping() < 3 {
        thread::yield_now();
    }
    runner.stop();
    let given: usize = workers.into_iter().map(|worker| worker.join().expect("no panic")).sum();
    assert_eq!(given, 300);
}

#[test]
fn handlers_that_are_made_ahead_take_their_turn_and_keep_no_drain_waiting() {
    let (runner, mut seat) = one();
    schedule(&runner, agent(0));
    runner.prewarm(&[]);
    runner.prewarm(&[agent(1), agent(2)]);
    schedule(&runner, agent(3));
    assert_eq!(runner.active(), 2);
    runner.drain();
    let mut next = || runner.next(&mut seat);
    assert_eq!(next(), Some(Ready::Mailbox(agent(0))));
    assert_eq!(next(), Some(Ready::Prewarm(agent(1))));
    assert_eq!(next(), Some(Ready::Prewarm(agent(2))));
    assert_eq!(next(), Some(Ready::Mailbox(agent(3))));
    runner.prewarm(&[agent(4)]);
    assert!(runner.retire(2), "whoever drains is told");
    for slot in 5..10_000 {
        runner.prewarm(&[agent(slot)]);
        runner.forget(agent(slot));
        assert!(runner.shared.line.lock().ready.len() <= 2 * (GONE + 1), "the line grows");
    }
    assert_eq!(next(), Some(Ready::Prewarm(agent(4))));
}

#[test]
fn whoever_has_made_a_handler_is_given_the_next_if_that_is_next_in_line_and_nothing_is_to_be_looked_at()
 {
    let (runner, mut seat) = one();
    let next = |seat: &Seat| runner.next_to_prewarm(seat).map(|(next, _)| next);
    runner.prewarm(&[agent(1), agent(2)]);
    schedule(&runner, agent(3));
    runner.prewarm(&[agent(4), agent(5), agent(6)]);
    assert_eq!(runner.next(&mut seat), Some(Ready::Prewarm(agent(1))));
    assert_eq!(next(&seat), Some(agent(2)));
    assert_eq!(next(&seat), None, "a mailbox is next");
    assert_eq!(runner.next(&mut seat), Some(Ready::Mailbox(agent(3))));
    assert_eq!(next(&seat), Some(agent(4)));
    runner.set_alarm(Some(Timestamp::ZERO));
    assert_eq!(next(&seat), None, "nobody has looked at the time");
    assert_eq!(runner.next(&mut seat), Some(Ready::Tasks));
    assert_eq!(next(&seat), Some(agent(5)));
    runner.stop();
    assert_eq!(next(&seat), None);
}

#[test]
fn a_line_that_was_long_gives_its_room_back() {
    let (runner, mut seat) = one();
    let agents: Vec<_> = (0..100_000).map(agent).collect();
    let room = || runner.shared.line.lock().ready.capacity();
    runner.prewarm(&agents);
    assert!(room() >= agents.len());
    assert_eq!(runner.next(&mut seat), Some(Ready::Prewarm(agent(0))));
    while runner.next_to_prewarm(&seat).is_some() {
        let length = runner.shared.line.lock().ready.len();
        assert!(room() <= KEPT_ROOM.max(100_000.min(16 * length + 16)), "{} of {length}", room());
    }
    assert!(room() <= KEPT_ROOM);
    runner.prewarm(&agents);
    for _ in &agents {
        assert!(runner.try_next(&mut seat).is_some());
    }
    assert!(room() <= KEPT_ROOM, "it does so whoever takes from it");
}

#[test]
fn agents_that_end_before_their_turn_leave_no_line_behind_them() {
    let (runner, mut seat) = one();
    schedule(&runner, agent(0));
    runner.tasks_are_ready();
    for slot in 1..10_000 {
        schedule(&runner, agent(slot));
        runner.forget(agent(slot));
        assert!(!runner.retire(1), "nobody waits for that");
        assert!(runner.shared.line.lock().ready.len() <= 2 * (GONE + 1), "the line grows");
    }
    assert_eq!(runner.active(), 1);
    let mut next = || runner.next(&mut seat);
    assert_eq!(next(), Some(Ready::Mailbox(agent(0))));
    assert_eq!(next(), Some(Ready::Tasks));
}

#[test]
fn agents_that_are_drained_late_before_their_turn_leave_no_line_behind_them() {
    let fleet = Fleet::<(), ()>::builder().driven().build().expect("the values are valid");
    for _ in 0..1000 {
        let agent = fleet.spawn(AgentSpec::new("brief").handler_fn(|_, _| Ok(())));
        let agent = agent.expect("there is room");
        fleet.tell(agent, ()).expect("there is room");
        let drained = fleet.drain_agent(agent, Duration::ZERO).expect("it lives");
        assert_eq!((drained.ended, drained.messages_returned), (true, 1));
        let length = fleet.inner().runner.shared.line.lock().ready.len();
        assert!(length <= 2 * (GONE + 1), "the line grows");
    }
}

#[test]
fn a_mailbox_stands_in_line_once_whatever_its_control_lane_is_told() {
    let fleet = Fleet::<(), ()>::builder().driven().build().expect("the values are valid");
    let length = || fleet.inner().runner.shared.line.lock().ready.len();
    for round in 0..1000 {
        let agent = fleet.spawn(AgentSpec::new("brief").handler_fn(|_, _| Ok(())));
        let agent = agent.expect("there is room");
        let before = length();
        fleet.tell(agent, ()).expect("there is room");
        for _ in 0..16 {
            fleet.tell_control(agent, ()).expect("there is room");
        }
        assert_eq!(length(), before + 1);
        if round % 3 == 0 {
            fleet.run_ready(1);
        }
        if round % 2 == 0 {
            let drained = fleet.drain_agent(agent, Duration::ZERO).expect("it lives");
            assert!(drained.ended);
        } else {
            fleet.kill(agent).expect("it lives");
        }
        assert!(length() <= 2 * (GONE + 1), "the line grows");
    }
}

#[test]
fn an_agent_that_is_drained_and_serves_again_leaves_no_line_behind_it() {
    let fleet = Fleet::<(), ()>::builder().driven().build().expect("the values are valid");
    let agent = fleet.spawn(AgentSpec::new("stays").handler_fn(|_, _| Ok(())));
    let agent = agent.expect("there is room");
    let lease = fleet.try_allocate(&Request::any()).expect("it is free");
    for _ in 0..10 {
        fleet.tell(agent, ()).expect("there is room");
        let drained = fleet.drain_agent(agent, Duration::ZERO).expect("it lives");
        assert_eq!((drained.ended, drained.messages_returned), (false, 1), "its lease is held");
        fleet.set_condition(agent, Condition::Fit).expect("it lives");
    }
    assert_eq!(fleet.inner().runner.shared.line.lock().ready.len(), 1);
    fleet.tell(agent, ()).expect("there is room");
    drop(lease);
    assert_eq!(fleet.run_ready(usize::MAX), 1);
    assert_eq!(fleet.stats().messages_handled, 1);
    assert!(fleet.drain(Duration::ZERO).expect("it is driven here").is_complete());
}
