//! Every interleaving of workers that go to sleep with those who line something up, each with a twin.

use std::sync::Arc;

use super::*;
use crate::sync::{explore, thread, weakened};

fn agent(slot: u32) -> AgentId {
    AgentId { slot, generation: 0 }
}

fn schedule(runner: &Runner, agent: AgentId) {
    let roused = runner.schedule(agent).expect("it takes more");
    runner.rouse(roused);
}

/// Two things become ready while two workers, each of which does one, search and lie down.
fn two_workers() {
    let (runner, seats) = Runner::new(2, Clock::real());
    let runner = Arc::new(runner);
    let workers: Vec<_> = seats
        .into_iter()
        .map(|mut seat| {
            let runner = Arc::clone(&runner);
            thread::spawn(move || runner.next(&mut seat).expect("it does not stop"))
        })
        .collect();
    schedule(&runner, agent(1));
    runner.tasks_are_ready();
    let mut given = workers.into_iter().map(|worker| worker.join().expect("no panic"));
    let both = [given.next(), given.next()];
    assert!(both.contains(&Some(Ready::Tasks)), "{both:?}");
    assert!(both.contains(&Some(Ready::Mailbox(agent(1)))), "{both:?}");
}

#[test]
fn loom_every_ready_thing_reaches_a_worker() {
    explore(3, two_workers);
}

#[test]
#[should_panic]
fn loom_twin_a_worker_that_lies_down_without_a_look_sleeps_for_ever() {
    weakened("runner.lie-down-without-a-look", || explore(3, two_workers));
}

#[test]
#[should_panic]
fn loom_twin_a_worker_that_passes_nothing_on_leaves_the_other_asleep() {
    weakened("runner.pass-it-on", || explore(3, two_workers));
}

#[test]
fn loom_a_stop_reaches_a_worker_that_lies_down() {
    explore(3, || {
        let (runner, mut seats) = Runner::new(1, Clock::real());
        let runner = Arc::new(runner);
        let mut seat = seats.pop().expect("one worker has one seat");
        let worker = {
            let runner = Arc::clone(&runner);
            thread::spawn(move || runner.next(&mut seat))
        };
        runner.stop();
        assert_eq!(worker.join().expect("no panic"), None);
    });
}

/// A mailbox becomes active while somebody drains and finds none that is.
fn drain_against_schedule() {
    let (runner, _seats) = Runner::new(1, Clock::real());
    let runner = Arc::new(runner);
    let sender = {
        let runner = Arc::clone(&runner);
        thread::spawn(move || runner.schedule(agent(1)).map(drop))
    };
    runner.drain();
    let drained = runner.active() == 0;
    // What it said shows in `active` below.
    let _ = sender.join().expect("no panic");
    assert!(!drained || runner.active() == 0, "work came after the drain had ended");
}

#[test]
fn loom_a_drain_that_has_ended_stays_ended() {
    loom::model(drain_against_schedule);
}

#[test]
#[should_panic(expected = "work came after the drain had ended")]
fn loom_twin_a_mailbox_that_is_scheduled_after_all_is_missed_by_the_drain() {
    weakened("runner.schedule-while-draining", || loom::model(drain_against_schedule));
}
