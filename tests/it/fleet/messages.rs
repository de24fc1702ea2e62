//! Messages to named agents: order, bounds, the control lane, and what becomes of those that nobody handles.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use phalanx::ManualClock;
use phalanx::fleet::{
    AgentId, AgentSpec, Fleet, FleetEvent, Outcome, Request, ReturnReason, Task, TaskError,
    TaskErrorKind, TellError,
};

use super::support::{Gate, LONG, Witness, eventually, finish, held};

/// What came back, as the hook was told.
type GivenBack = Arc<Mutex<Vec<(AgentId, ReturnReason, Vec<u64>)>>>;

fn given_back() -> (GivenBack, impl Fn(AgentId, ReturnReason, Vec<u64>) + Send + Sync + 'static) {
    let all = GivenBack::default();
    let hook = {
        let all = Arc::clone(&all);
        move |agent, reason, payloads| all.lock().unwrap().push((agent, reason, payloads))
    };
    (all, hook)
}

/// An agent that writes down what it handles, in one place for all of them.
pub(super) fn scribe(notes: &Arc<Mutex<Vec<u64>>>) -> AgentSpec<u64, u64> {
    let notes = Arc::clone(notes);
    AgentSpec::new("scribe").handler_fn(move |task, cx| {
        assert_eq!((cx.task_id(), cx.attempt().get(), task.id()), (None, 0, None));
        notes.lock().unwrap().push(*task.payload());
        Ok(*task.payload() + 1)
    })
}

#[test]
fn messages_of_one_sender_are_handled_once_each_in_the_order_of_their_coming() {
    for workers in [1, 3] {
        let fleet = Fleet::<u64, u64>::builder().workers(workers).build().unwrap();
        let notes = Arc::default();
        let agent = fleet.spawn(scribe(&notes)).unwrap();
        let mut told = 0;
        while told < 20_000 {
            match fleet.tell(agent, told) {
                Ok(()) => told += 1,
                Err(TellError::Full(back)) => assert_eq!(back, told),
                Err(other) => panic!("{other:?}"),
            }
        }
        let report = fleet.drain(LONG).unwrap();
        assert!(report.is_complete(), "{report:?}");
        assert_eq!((report.messages_accepted, report.messages_handled), (20_000, 20_000));
        assert!(notes.lock().unwrap().iter().copied().eq(0..20_000));
        finish(&fleet);
    }
}

#[test]
fn no_agent_handles_two_messages_at_once_whoever_sends_them() {
    let fleet = Fleet::<u64, u64>::builder().workers(4).build().unwrap();
    let inside: [Arc<Mutex<()>>; 3] = std::array::from_fn(|_| Arc::default());
    let spec = |inside: &Arc<Mutex<()>>| {
        let inside = Arc::clone(inside);
        let many = NonZeroU32::new(4).unwrap();
        AgentSpec::<u64, u64>::new("alone").max_leases(many).handler_fn(move |_, _| {
            let _alone = inside.try_lock().expect("another message is being handled");
            std::thread::yield_now();
            Ok(0)
        })
    };
    let agents = [0, 1, 2].map(|which| fleet.spawn(spec(&inside[which])).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for message in 0..500 {
                    for agent in agents {
                        while fleet.tell(agent, message).is_err() {}
                    }
                }
            });
        }
    });
    let report = fleet.drain(LONG).unwrap();
    assert_eq!((report.messages_handled, report.messages_failed), (6_000, 0));
    finish(&fleet);
}

#[test]
fn a_full_mailbox_hands_the_payload_back_and_its_control_lane_still_takes_some() {
    let capacity = NonZeroU32::new(3).unwrap();
    let fleet = Fleet::<u64, u64>::builder().workers(1).mailbox_capacity(capacity).build().unwrap();
    let gate = Gate::new();
    let notes = Arc::default();
    let blocker = fleet.spawn(held(&gate)).unwrap();
    let agent = fleet.spawn(scribe(&notes)).unwrap();
    fleet.tell(blocker, 0).unwrap();
    gate.await_arrivals(1);
    for message in 0..3 {
        fleet.tell(agent, message).unwrap();
    }
    let full = fleet.tell(agent, 77).unwrap_err();
    assert!(matches!(full, TellError::Full(_)));
    assert_eq!(full.into_inner(), 77);
    for message in 100..116 {
        fleet.tell_control(agent, message).unwrap();
    }
    assert!(matches!(fleet.tell_control(agent, 5), Err(TellError::Full(5))));
    assert_eq!(fleet.mailbox_len(agent), Some(19));
    gate.open();
    assert!(fleet.drain(LONG).unwrap().is_complete());
    assert_eq!(*notes.lock().unwrap(), (100..116).chain(0..3).collect::<Vec<_>>());
    assert_eq!(fleet.stats().messages_refused, 2);
    finish(&fleet);
}

#[test]
fn a_question_gets_what_the_handler_made_of_it() {
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    let agent = fleet
        .spawn(AgentSpec::new("strict").handler_fn(|task, _| match *task.payload() {
            0 => Err(TaskError::permanent("no zeros")),
            1 => panic!("no ones"),
            other => Ok(other * 2),
        }))
        .unwrap();
    assert_eq!(fleet.ask(agent, 21).unwrap().wait(), Outcome::Completed(42));
    let failed = fleet.ask(agent, 0).unwrap().wait();
    assert_eq!(failed, Outcome::Failed(TaskError::permanent("no zeros")));
    let Outcome::Failed(error) = fleet.ask(agent, 1).unwrap().wait() else { panic!("it panics") };
    assert_eq!(error.kind(), TaskErrorKind::Panicked);
    assert_eq!(fleet.ask(agent, 5).unwrap().wait(), Outcome::Completed(10), "a fresh handler");
    let stats = fleet.stats();
    assert_eq!((stats.messages_handled, stats.messages_failed), (2, 2));
    assert_eq!(stats.handler_panics, 1);
    finish(&fleet);
}

#[test]
fn a_reply_can_be_waited_for_with_a_timeout_polled_and_dropped() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<u64, u64>::builder().workers(1).clock(clock).build().unwrap();
    let gate = Gate::new();
    let agent = fleet.spawn(held(&gate)).unwrap();
    let mut reply = fleet.ask(agent, 1).unwrap();
    assert_eq!(reply.try_outcome(), None);
    let mut waiting = {
        let waiting = std::thread::spawn(move || {
            assert_eq!(reply.wait_timeout(Duration::from_secs(1)), None);
            reply
        });
        while hand.sleepers() == 0 {
            std::thread::yield_now();
        }
        hand.advance(Duration::from_secs(1));
        waiting.join().unwrap()
    };
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(std::pin::pin!(&mut waiting).poll(&mut cx), Poll::Pending);
    // Nobody wants to know of this one; it is handled all the same.
    drop(fleet.ask(agent, 2).unwrap());
    gate.open();
    assert_eq!(waiting.wait(), Outcome::Completed(1));
    eventually("both are handled", || fleet.stats().messages_handled == 2);
    finish(&fleet);
}

#[test]
fn a_killed_agent_gives_back_at_once_what_it_has_not_begun_while_its_handler_hangs() {
    let (all, hook) = given_back();
    let witness = Witness::new();
    let fleet = Fleet::<u64, u64>::builder()
        .workers(2)
        .returned(Arc::new(hook))
        .observer(witness.clone())
        .build()
        .unwrap();
    let gate = Gate::new();
    let agent = fleet.spawn(held(&gate)).unwrap();
    let running = fleet.ask(agent, 0).unwrap();
    gate.await_arrivals(1);
    for message in 1..100 {
        fleet.tell(agent, message).unwrap();
    }
    let queued = fleet.ask(agent, 100).unwrap();
    assert_eq!(fleet.kill(agent).unwrap().leases_revoked, 1);

    // The handler is still at the gate.
    let reason = ReturnReason::AgentGone;
    assert_eq!(queued.wait(), Outcome::Returned(reason));
    assert_eq!(running.wait(), Outcome::Returned(reason));
    assert_eq!(*all.lock().unwrap(), [(agent, reason, (1..=100).collect())]);
    witness.await_event(|event| {
        matches!(event, FleetEvent::MessagesReturned { agent: of, count: 100, .. } if *of == agent)
    });
    assert!(matches!(fleet.tell(agent, 7), Err(TellError::Gone(7))));
    let stats = fleet.stats();
    assert_eq!((stats.messages_accepted, stats.messages_returned), (101, 101));
    gate.open();
    eventually("the late answer is refused", || fleet.stats().late_completions_refused == 1);
    let report = finish(&fleet);
    assert_eq!((report.messages_handled, report.messages_returned), (0, 101));
}

#[test]
fn what_a_worker_took_out_and_has_not_begun_comes_back_too() {
    let (all, hook) = given_back();
    let fleet = Fleet::<u64, u64>::builder().workers(1).returned(Arc::new(hook)).build().unwrap();
    let gate = Gate::new();
    let blocker = fleet.spawn(held(&gate)).unwrap();
    let agent = fleet.spawn(held(&gate)).unwrap();
    fleet.tell(blocker, 0).unwrap();
    gate.await_arrivals(1);
    for message in 0..10 {
        fleet.tell(agent, message).unwrap();
    }
    gate.permit();
    gate.await_arrivals(2);
    assert_eq!(fleet.mailbox_len(agent), Some(0), "the worker took all of them out");
    fleet.kill(agent).unwrap();
    assert_eq!(*all.lock().unwrap(), [(agent, ReturnReason::AgentGone, (1..10).collect())]);
    gate.open();
    let report = finish(&fleet);
    assert_eq!((report.messages_handled, report.messages_returned), (2, 9));
}

#[test]
fn a_handler_that_kills_its_own_agent_handles_nothing_more() {
    let (all, hook) = given_back();
    let fleet = Fleet::<u64, u64>::builder().workers(1).returned(Arc::new(hook)).build().unwrap();
    let gate = Gate::new();
    let blocker = fleet.spawn(held(&gate)).unwrap();
    let weak = fleet.downgrade();
    let tired = fleet
        .spawn(AgentSpec::new("tired").handler_fn(move |task, cx| {
            if *task.payload() == 2 {
                let fleet = weak.upgrade().expect("the test holds it");
                fleet.kill(cx.agent()).expect("it lives");
                assert!(cx.is_revoked());
            }
            Ok(0)
        }))
        .unwrap();
    fleet.tell(blocker, 0).unwrap();
    gate.await_arrivals(1);
    for message in 0..5 {
        fleet.tell(tired, message).unwrap();
    }
    gate.open();
    eventually("three are done", || fleet.stats().messages_handled == 4);
    assert_eq!(*all.lock().unwrap(), [(tired, ReturnReason::AgentGone, vec![3, 4])]);
    finish(&fleet);
}

#[test]
fn a_shutdown_gives_back_what_lies_in_mailboxes_and_waits_for_what_runs() {
    let (all, hook) = given_back();
    let fleet = Fleet::<u64, u64>::builder().workers(1).returned(Arc::new(hook)).build().unwrap();
    let gate = Gate::new();
    let agents = fleet.spawn_batch(&held(&gate), 10).unwrap();
    let running = fleet.ask(agents[0], 0).unwrap();
    gate.await_arrivals(1);
    for agent in &agents {
        for message in 1..4 {
            fleet.tell(*agent, message).unwrap();
        }
    }
    let queued = fleet.ask(agents[5], 4).unwrap();
    let stopping = {
        let fleet = fleet.clone();
        std::thread::spawn(move || fleet.shutdown(LONG).unwrap())
    };
    assert_eq!(queued.wait(), Outcome::Returned(ReturnReason::Shutdown));
    assert!(matches!(fleet.tell(agents[0], 9), Err(TellError::Closed(9))));
    gate.open();
    assert_eq!(running.wait(), Outcome::Completed(0));
    let report = stopping.join().unwrap();
    assert_eq!((report.messages_accepted, report.messages_handled), (32, 1));
    assert_eq!((report.messages_returned, report.messages_unfinished), (31, 0));
    let mut returned = all.lock().unwrap().clone();
    returned.sort_by_key(|(agent, ..)| *agent);
    let mut expected: Vec<_> = (0..)
        .zip(&agents)
        .map(|(at, agent)| {
            let last = if at == 5 { 5 } else { 4 };
            (*agent, ReturnReason::Shutdown, (1..last).collect::<Vec<u64>>())
        })
        .collect();
    expected.sort_by_key(|(agent, ..)| *agent);
    assert_eq!(returned, expected);
}

#[test]
fn a_shutdown_that_runs_out_of_time_returns_the_question_that_hangs() {
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    let gate = Gate::new();
    let agent = fleet.spawn(held(&gate)).unwrap();
    let running = fleet.ask(agent, 0).unwrap();
    gate.await_arrivals(1);
    fleet.tell(agent, 1).unwrap();
    let report = fleet.shutdown(Duration::ZERO).unwrap();
    assert_eq!((report.messages_returned, report.workers_left), (2, 1));
    assert_eq!(running.wait(), Outcome::Returned(ReturnReason::Shutdown));
    gate.open();
    let report = finish(&fleet);
    assert_eq!((report.messages_handled, report.messages_returned), (0, 2));
}

#[test]
fn a_drain_handles_what_was_accepted_and_refuses_what_comes() {
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    let gate = Gate::new();
    let agent = fleet.spawn(held(&gate)).unwrap();
    for message in 0..10 {
        fleet.tell(agent, message).unwrap();
    }
    gate.await_arrivals(1);
    let report = fleet.drain(Duration::ZERO).unwrap();
    assert_eq!((report.messages_unfinished, report.is_complete()), (10, false));
    assert!(matches!(fleet.tell(agent, 1), Err(TellError::Closed(1))));
    gate.open();
    let report = fleet.drain(LONG).unwrap();
    assert_eq!((report.messages_handled, report.is_complete()), (10, true));
    finish(&fleet);
}

#[test]
fn a_drain_that_finds_nothing_left_knows_what_became_of_every_message() {
    let fleet = Arc::new(std::sync::OnceLock::<Fleet<u64, u64>>::new());
    let seen = Arc::new(Mutex::new(None));
    let observer = {
        let (fleet, seen) = (Arc::clone(&fleet), Arc::clone(&seen));
        move |event: &FleetEvent| {
            if matches!(event, FleetEvent::AgentKilled { .. }) {
                let report = fleet.get().unwrap().drain(Duration::ZERO).unwrap();
                *seen.lock().unwrap() = Some(report);
            }
        }
    };
    let built = Fleet::builder().workers(1).observer(Arc::new(observer)).build().unwrap();
    let fleet = fleet.get_or_init(|| built);
    let agent = fleet.spawn(scribe(&Arc::default())).unwrap();
    // Nothing begins, as the host holds the agent.
    let _lease = fleet.try_allocate(&Request::any()).unwrap();
    fleet.tell(agent, 1).unwrap();
    fleet.tell(agent, 2).unwrap();
    fleet.kill(agent).unwrap();
    let report = seen.lock().unwrap().take().unwrap();
    assert_eq!((report.messages_returned, report.messages_unfinished), (2, 0));
    finish(fleet);
}

#[test]
fn an_agent_whose_leases_are_held_handles_its_messages_once_one_comes_back() {
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    let notes = Arc::default();
    let agent = fleet.spawn(scribe(&notes)).unwrap();
    let other = fleet.spawn(scribe(&Arc::default()).capability("other")).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    let second = fleet.try_allocate(&Request::any()).unwrap();
    let (lease, second) = if lease.agent() == agent { (lease, second) } else { (second, lease) };
    fleet.tell(agent, 1).unwrap();
    // The workers are not stuck with it.
    drop(second);
    assert_eq!(fleet.ask(other, 5).unwrap().wait(), Outcome::Completed(6));
    assert!(notes.lock().unwrap().is_empty());
    drop(lease);
    eventually("it is handled", || *notes.lock().unwrap() == [1]);
    finish(&fleet);
}

#[test]
fn messages_and_tasks_share_an_agent_and_neither_starves_the_other() {
    let capacity = NonZeroUsize::new(10_000).unwrap();
    let fleet = Fleet::<u64, u64>::builder().workers(1).queue_capacity(capacity).build().unwrap();
    let notes = Arc::new(Mutex::new(Vec::new()));
    let spec = {
        let notes = Arc::clone(&notes);
        AgentSpec::<u64, u64>::new("both").capability("both").handler_fn(move |task, cx| {
            notes.lock().unwrap().push(cx.task_id().is_some());
            Ok(*task.payload())
        })
    };
    let gate = Gate::new();
    let blocker = fleet.spawn(held(&gate)).unwrap();
    let agent = fleet.spawn(spec).unwrap();
    fleet.tell(blocker, 0).unwrap();
    gate.await_arrivals(1);
    for message in 0..1_000 {
        fleet.tell(agent, message).unwrap();
    }
    let task = |number| Task::new(number).capability("both");
    let tasks: Vec<_> = (0..100).map(|number| fleet.submit(task(number)).unwrap()).collect();
    gate.open();
    for task in tasks {
        assert!(task.wait().completed().is_some());
    }
    assert!(fleet.drain(LONG).unwrap().is_complete());
    let notes = notes.lock().unwrap().clone();
    let changes = notes.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes >= 3, "one of them waited for all of the other: {changes}");
    finish(&fleet);
}

#[test]
fn agents_without_a_handler_and_agents_that_are_gone_refuse_messages() {
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    let bare = fleet.spawn(AgentSpec::new("bare")).unwrap();
    assert!(matches!(fleet.tell(bare, 1), Err(TellError::NoMailbox(1))));
    let gone = fleet.spawn(scribe(&Arc::default())).unwrap();
    fleet.kill(gone).unwrap();
    assert!(matches!(fleet.ask(gone, 2), Err(TellError::Gone(2))));
    let notes = Arc::default();
    let next = fleet.spawn(scribe(&notes)).unwrap();
    assert_eq!(next.slot(), gone.slot(), "the place is used again");
    assert!(matches!(fleet.tell(gone, 3), Err(TellError::Gone(3))));
    assert_eq!(fleet.ask(next, 4).unwrap().wait(), Outcome::Completed(5));
    assert_eq!(*notes.lock().unwrap(), [4]);
    assert_eq!(fleet.stats().messages_refused, 3);
    finish(&fleet);
}

#[test]
fn a_panic_in_the_hook_or_in_a_payload_that_is_dropped_is_counted_and_harms_nobody() {
    struct Touchy(bool);
    impl Drop for Touchy {
        fn drop(&mut self) {
            if self.0 && !std::thread::panicking() {
                panic!("do not drop me");
            }
        }
    }
    let fleet = Fleet::<Touchy, ()>::builder().workers(1).build().unwrap();
    let agent = fleet.spawn(AgentSpec::new("careful").handler_fn(|_, _| Ok(()))).unwrap();
    fleet.tell(agent, Touchy(true)).unwrap();
    fleet.tell(agent, Touchy(false)).unwrap();
    assert_eq!(fleet.drain(LONG).unwrap().messages_handled, 2);
    assert_eq!(fleet.stats().other_panics, 1);
    finish(&fleet);

    let hook = |_, _, _: Vec<u64>| panic!("I take nothing back");
    let fleet = Fleet::<u64, u64>::builder().workers(1).returned(Arc::new(hook)).build().unwrap();
    let gate = Gate::new();
    let agent = fleet.spawn(held(&gate)).unwrap();
    fleet.tell(agent, 1).unwrap();
    gate.await_arrivals(1);
    let queued = fleet.ask(agent, 2).unwrap();
    fleet.kill(agent).unwrap();
    assert_eq!(queued.wait(), Outcome::Returned(ReturnReason::AgentGone));
    assert_eq!(fleet.stats().other_panics, 1);
    gate.open();
    finish(&fleet);
}

#[test]
fn tells_kills_and_spawns_at_once_lose_no_message_and_invent_none() {
    let (all, hook) = given_back();
    let fleet = Fleet::<u64, u64>::builder().workers(3).returned(Arc::new(hook)).build().unwrap();
    let notes = Arc::new(Mutex::new(Vec::new()));
    let agents = Mutex::new(fleet.spawn_batch(&scribe(&notes), 8).unwrap());
    let accepted = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for sender in 0..3_u64 {
            let (fleet, agents, accepted) = (&fleet, &agents, &accepted);
            scope.spawn(move || {
                for message in 0..2_000 {
                    let number = sender * 1_000_000 + message;
                    let agent = {
                        let agents = agents.lock().unwrap();
                        agents[number as usize % agents.len()]
                    };
                    if fleet.tell(agent, number).is_ok() {
                        accepted.lock().unwrap().push(number);
                    }
                }
            });
        }
        scope.spawn(|| {
            for round in 0..100 {
                let victim = agents.lock().unwrap()[round % 8];
                fleet.kill(victim).unwrap();
                let next = fleet.spawn(scribe(&notes)).unwrap();
                agents.lock().unwrap()[round % 8] = next;
            }
        });
    });
    let report = fleet.drain(LONG).unwrap();
    assert!(report.is_complete(), "{report:?}");
    let mut ended = notes.lock().unwrap().clone();
    ended.extend(all.lock().unwrap().iter().flat_map(|(_, _, payloads)| payloads));
    ended.sort_unstable();
    let mut accepted = accepted.into_inner().unwrap();
    accepted.sort_unstable();
    assert_eq!(ended, accepted);
    assert_eq!(report.messages_accepted, accepted.len() as u64);
    finish(&fleet);
}
