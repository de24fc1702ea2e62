//! Bounds in a circle: agents with full mailboxes that tell each other, workers that all want room in the queue.
//!
//! Where whoever finds a bound reached waits for those behind it, two that send to each other wait for ever. Here a
//! full mailbox is an answer, and a worker does not wait for room without a bound.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::support::{Gate, LONG, eventually, finish};
use phalanx::fleet::{
    AgentId, AgentSpec, Fleet, FleetBuilder, Outcome, SubmitError, Task, TellError, WeakFleet,
};

/// How many messages of a test are answered.
const ROUNDS: u64 = 300;

type Own = Arc<OnceLock<WeakFleet<u64, u64>>>;

fn fleet(builder: FleetBuilder<u64, u64>) -> (Fleet<u64, u64>, Own) {
    let (fleet, own) = (builder.build().unwrap(), Own::default());
    own.set(fleet.downgrade()).unwrap();
    (fleet, own)
}

fn upgrade(own: &Own) -> Fleet<u64, u64> {
    own.get().and_then(WeakFleet::upgrade).expect("it runs this handler")
}

#[test]
fn agents_with_full_mailboxes_that_tell_each_other_are_told_so_and_go_on() {
    for workers in [1, 2] {
        let builder = Fleet::builder().workers(workers).mailbox_capacity(NonZeroU32::MIN);
        let (fleet, own) = fleet(builder);
        let pair: Arc<OnceLock<[AgentId; 2]>> = Arc::default();
        let [handled, refused] = [0, 0].map(|none| Arc::new(AtomicU64::new(none)));
        let agents = [1, 0].map(|other| {
            let (own, pair) = (Arc::clone(&own), Arc::clone(&pair));
            let (handled, refused) = (Arc::clone(&handled), Arc::clone(&refused));
            let spec = AgentSpec::<u64, u64>::new("peer").handler_fn(move |task, _| {
                let fleet = upgrade(&own);
                let other = pair.get().expect("it is set before anybody is told")[other];
                let payload = *task.payload();
                if handled.fetch_add(1, Ordering::Relaxed) < ROUNDS {
                    // More than the other has room for, whatever it is doing.
                    for _ in 0..3 {
                        match fleet.tell(other, payload) {
                            Ok(()) => {}
                            Err(TellError::Full(_)) => _ = refused.fetch_add(1, Ordering::Relaxed),
                            Err(wrong) => panic!("{wrong:?}"),
                        }
                    }
                }
                Ok(payload)
            });
            fleet.spawn(spec).expect("there is room")
        });
        pair.set(agents).unwrap();
        // It fills the mailbox of the other, which does so in turn.
        fleet.tell(agents[0], 1).unwrap();
        eventually("all rounds are made", || handled.load(Ordering::Relaxed) >= ROUNDS);
        assert!(fleet.drain(LONG).unwrap().is_complete());
        assert!(refused.load(Ordering::Relaxed) > 0, "nobody found a full mailbox");
        assert_eq!(fleet.stats().messages_failed, 0);
        finish(&fleet);
    }
}

#[test]
fn workers_that_all_want_room_are_told_that_there_is_none() {
    let builder = Fleet::builder().workers(2).queue_capacity(NonZeroUsize::MIN);
    let (fleet, own) = fleet(builder);
    let gate = Gate::new();
    let spec = {
        let gate = Arc::clone(&gate);
        AgentSpec::<u64, u64>::new("greedy").handler_fn(move |task, _| {
            let fleet = upgrade(&own);
            if *task.payload() == 0 {
                return Ok(0);
            }
            gate.pass();
            let one = fleet.submit_wait(Task::new(0).capability("slow"));
            let many = fleet.submit_batch_wait(vec![Task::new(0).capability("slow")]);
            let bounded = fleet.submit_timeout(Task::new(0).capability("slow"), Duration::ZERO);
            assert!(matches!(one, Err(SubmitError::Full(task)) if *task.payload() == 0));
            assert!(matches!(many, Err(SubmitError::Full(tasks)) if tasks.len() == 1));
            assert!(matches!(bounded, Err(SubmitError::Full(_))));
            Ok(*task.payload())
        })
    };
    let slow = fleet.spawn(spec.clone().capability("slow")).unwrap();
    let agents = fleet.spawn_batch(&spec, 2).unwrap();
    // So the one task in the queue stays there.
    fleet.unroute(slow).unwrap();
    let mut replies = agents.iter().map(|agent| fleet.ask(*agent, 7).unwrap()).collect::<Vec<_>>();
    gate.await_arrivals(2);
    let queued = fleet.submit(Task::new(0).capability("slow")).unwrap();
    gate.open();
    for reply in &mut replies {
        assert_eq!(reply.wait_timeout(LONG), Some(Outcome::Completed(7)));
    }
    fleet.set_condition(slow, phalanx::fleet::Condition::Fit).unwrap();
    assert_eq!(*queued.wait(), Outcome::Completed(0));
    finish(&fleet);
}

#[test]
fn a_worker_finds_room_where_there_is_some_and_others_wait_for_it() {
    let (fleet, own) = fleet(Fleet::builder().driven().queue_capacity(NonZeroUsize::MIN));
    let spec = AgentSpec::<u64, u64>::new("modest").handler_fn(move |task, _| {
        if *task.payload() > 0 {
            let task = Task::new(*task.payload() - 1);
            drop(upgrade(&own).submit_wait(task).expect("the queue is empty while this runs"));
        }
        Ok(*task.payload())
    });
    fleet.spawn(spec).unwrap();
    let first = fleet.submit(Task::new(3)).unwrap();
    assert_eq!(fleet.run_ready(usize::MAX), 4);
    assert_eq!(*first.wait(), Outcome::Completed(3));

    let queued = fleet.submit(Task::new(0)).unwrap();
    let waits = {
        let fleet = fleet.clone();
        std::thread::spawn(move || fleet.submit_wait(Task::new(0)).map(|handle| handle.id()))
    };
    let waiting = || format!("{fleet:?}").contains("submitters_waiting: 1");
    eventually("it waits, as it is no worker", waiting);
    fleet.run_ready(1);
    assert_eq!(*queued.wait(), Outcome::Completed(0));
    assert!(waits.join().unwrap().is_ok());
    fleet.run_ready(usize::MAX);
    finish(&fleet);
}
