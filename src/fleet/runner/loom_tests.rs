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

/// A worker that looks for one thing to do, and lies down.
fn one_worker() -> (Arc<Runner>, thread::JoinHandle<Option<Ready>>) {
    let (runner, mut seats) = Runner::new(1, Clock::real());
    let runner = Arc::new(runner);
    let mut seat = seats.pop().expect("one worker has one seat");
    let worker = {
        let runner = Arc::clone(&runner);
        thread::spawn(move || runner.next(&mut seat))
    };
    (runner, worker)
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
#[should_panic(expected = "deadlock")]
fn loom_twin_a_worker_that_lies_down_without_a_look_sleeps_for_ever() {
    weakened("runner.lie-down-without-a-look", || explore(3, two_workers));
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_a_worker_that_passes_nothing_on_leaves_the_other_asleep() {
    weakened("runner.pass-it-on", || explore(3, two_workers));
}

fn stop_against_lying_down() {
    let (runner, worker) = one_worker();
    runner.stop();
    assert_eq!(worker.join().expect("no panic"), None);
}

#[test]
fn loom_a_stop_reaches_a_worker_that_lies_down() {
    explore(3, stop_against_lying_down);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_a_worker_that_lies_down_over_a_stop_sleeps_for_ever() {
    weakened("runner.lie-down-over-a-stop", || explore(3, stop_against_lying_down));
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

/// No model gets there.
const NEVER: Timestamp = Timestamp::from_start(std::time::Duration::from_secs(1 << 30));

/// A thread that drives, and sleeps as one that would do so for so long: it takes one thing, or gives up, and leaves.
fn drive(runner: &Runner, seat: &mut Seat, deadline: Timestamp) -> Option<Ready> {
    let mut ready = runner.try_next(seat);
    while ready.is_none() {
        runner.doze(seat, deadline);
        if deadline < NEVER {
            // It is late, and does not look once more.
            break;
        }
        ready = runner.try_next(seat);
    }
    runner.leave(seat);
    ready
}

/// A runner, the seat of a thread that drives, and a worker that takes one thing.
fn driver_and_worker() -> (Arc<Runner>, Seat, thread::JoinHandle<Option<Ready>>) {
    let (runner, mut seats) = Runner::new(2, Clock::real());
    let runner = Arc::new(runner);
    let (own, mut other) = (seats.remove(0), seats.remove(0));
    let worker = {
        let runner = Arc::clone(&runner);
        thread::spawn(move || runner.next(&mut other))
    };
    (runner, own, worker)
}

/// Two things become ready while a worker and a thread that drives, each of which does one, lie down.
fn a_driver_beside_a_worker() {
    let (runner, mut own, worker) = driver_and_worker();
    let sender = {
        let runner = Arc::clone(&runner);
        thread::spawn(move || {
            schedule(&runner, agent(1));
            runner.tasks_are_ready();
        })
    };
    let both = [drive(&runner, &mut own, NEVER), worker.join().expect("no panic")];
    sender.join().expect("no panic");
    assert!(both.contains(&Some(Ready::Tasks)), "{both:?}");
    assert!(both.contains(&Some(Ready::Mailbox(agent(1)))), "{both:?}");
}

#[test]
fn loom_every_ready_thing_reaches_a_worker_or_a_thread_that_drives() {
    explore(2, a_driver_beside_a_worker);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_a_thread_that_drives_and_passes_nothing_on_leaves_the_worker_asleep() {
    weakened("runner.pass-it-on", || explore(2, a_driver_beside_a_worker));
}

/// Something becomes ready while a thread that drives gives up and leaves: it, or the worker, has it.
fn a_driver_that_leaves() {
    let (runner, mut own, worker) = driver_and_worker();
    let sender = {
        let runner = Arc::clone(&runner);
        thread::spawn(move || schedule(&runner, agent(1)))
    };
    let here = drive(&runner, &mut own, Timestamp::ZERO);
    if here.is_some() {
        runner.stop();
    }
    let there = worker.join().expect("no panic");
    sender.join().expect("no panic");
    assert!(here.is_some() != there.is_some(), "{here:?} and {there:?}");
}

#[test]
fn loom_what_a_thread_that_leaves_was_roused_for_reaches_the_worker() {
    explore(2, a_driver_that_leaves);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_a_thread_that_leaves_without_passing_on_leaves_the_worker_asleep() {
    weakened("runner.leave-without-a-word", || explore(2, a_driver_that_leaves));
}

/// An alarm is set, and then an earlier one, while the worker lies down.
fn alarms_against_sleep() {
    let (runner, worker) = one_worker();
    runner.set_alarm(Some(NEVER));
    runner.set_alarm(Some(Timestamp::ZERO));
    assert_eq!(worker.join().expect("no panic"), Some(Ready::Tasks));
}

#[test]
fn loom_an_alarm_is_kept_by_a_worker_that_sleeps() {
    explore(3, alarms_against_sleep);
}

#[test]
fn loom_twins_of_the_alarm_fail() {
    for site in ["runner.rouse-the-keeper", "runner.rouse-for-the-alarm"] {
        let twin = || weakened(site, || explore(3, alarms_against_sleep));
        let panicked = std::panic::catch_unwind(twin).expect_err(site);
        let what = panicked.downcast_ref::<String>().map_or("", String::as_str);
        assert!(what.contains("deadlock"), "{site}: {what}");
    }
}

/// An alarm is set as a mailbox becomes ready, which one of two workers takes: the other keeps the watch if it sleeps.
fn an_alarm_beside_a_mailbox() {
    let (runner, seats) = Runner::new(2, Clock::real());
    let runner = Arc::new(runner);
    let taken = Parker::new();
    let workers: Vec<_> = seats
        .into_iter()
        .map(|mut seat| {
            let (runner, taken) = (Arc::clone(&runner), taken.waker());
            thread::spawn(move || {
                if runner.next(&mut seat).is_some() {
                    taken.wake();
                }
            })
        })
        .collect();
    schedule(&runner, agent(1));
    runner.set_alarm(Some(NEVER));
    taken.park();
    {
        let line = runner.shared.line.lock();
        let kept = line.sleeping.is_empty() || line.keeper.is_some() || line.searching > 0;
        assert!(kept, "nobody keeps the watch");
    }
    runner.stop();
    for worker in workers {
        worker.join().expect("no panic");
    }
}

#[test]
fn loom_the_watch_is_passed_on_by_who_leaves_it_for_something_else() {
    explore(2, an_alarm_beside_a_mailbox);
}

#[test]
#[should_panic(expected = "nobody keeps the watch")]
fn loom_twin_a_watch_that_is_not_passed_on_is_kept_by_nobody() {
    weakened("runner.pass-the-watch-on", || explore(2, an_alarm_beside_a_mailbox));
}
