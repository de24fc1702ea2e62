//! Handlers that are futures: on the host's executor, without a worker, and ended once whatever becomes of them.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use phalanx::fleet::{
    AgentSpec, AsyncContext, Attempt, Fleet, FleetEvent, Outcome, Reply, ReturnReason,
    SpawnedFuture, Spawner, Task, TaskError, TaskErrorKind, TaskId, WeakFleet,
};
use phalanx::{ErrorKind, ManualClock};

use super::hangar::{Door, Flag, Hangar, builder, doubler, leases};
use super::support::{LONG, Witness, eventually, finish};

#[test]
fn futures_hold_leases_and_no_worker_until_they_resolve() {
    let (hangar, door) = (Hangar::new(), Door::default());
    let fleet = builder(&hangar).build().unwrap();
    let agent = fleet.spawn(doubler("slow", &door).max_leases(leases(3))).unwrap();
    let quick =
        AgentSpec::new("quick").capability("quick").handler_fn(|task, _| Ok(*task.payload()));
    fleet.spawn(quick).unwrap();
    // Both agents would fit, so they ask for the one.
    let slow: Vec<_> =
        (1..=4).map(|number| fleet.submit(Task::new(number).to(agent)).unwrap()).collect();
    hangar.await_len(3);
    assert_eq!(fleet.agent(agent).unwrap().load, 3);
    assert_eq!(
        *fleet.submit(Task::new(7).capability("quick")).unwrap().wait(),
        Outcome::Completed(7)
    );
    hangar.run();
    assert_eq!((hangar.len(), fleet.stats().futures_live), (3, 3), "the fourth waits for a lease");
    assert!(slow.iter().all(|handle| handle.try_outcome().is_none()));

    door.open();
    hangar.run();
    hangar.await_len(1);
    hangar.run();
    for (handle, number) in slow.iter().zip(1..) {
        assert_eq!(*handle.wait(), Outcome::Completed(2 * number));
    }
    eventually("the lease comes back", || fleet.agent(agent).unwrap().load == 0);
    assert_eq!(finish(&fleet).futures_left, 0);
}

#[test]
fn tasks_of_the_queue_run_on_agents_with_futures() {
    let (hangar, door) = (Hangar::new(), Door::default());
    let fleet = builder(&hangar).build().unwrap();
    fleet.spawn_batch(&doubler("many", &door), 3).unwrap();
    door.open();
    let handles: Vec<_> = (0..10).map(|number| fleet.submit(Task::new(number)).unwrap()).collect();
    eventually("all have ended", || {
        hangar.run();
        handles.iter().all(|handle| handle.try_outcome().is_some())
    });
    for (handle, number) in handles.iter().zip(0..) {
        assert_eq!(*handle.wait(), Outcome::Completed(2 * number));
    }
    assert_eq!(finish(&fleet).completed, 10);
}

#[test]
fn messages_of_an_agent_with_one_lease_run_one_after_the_other() {
    let hangar = Hangar::new();
    let fleet = builder(&hangar).build().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let spec = AgentSpec::new("scribe").handler_async(move |task: Arc<Task<u64>>, cx| {
        let log = Arc::clone(&log);
        assert_eq!((cx.task_id(), cx.attempt().get()), (None, 0));
        log.lock().unwrap().push(("begins", *task.payload()));
        async move {
            let mut yielded = false;
            std::future::poll_fn(|cx| {
                if std::mem::replace(&mut yielded, true) {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            log.lock().unwrap().push(("ends", *task.payload()));
            Ok(*task.payload())
        }
    });
    let agent = fleet.spawn(spec).unwrap();
    for number in 0..5 {
        fleet.tell(agent, number).unwrap();
    }
    let mut reply = fleet.ask(agent, 5).unwrap();
    eventually("the question is answered", || {
        hangar.run();
        fleet.stats().messages_handled == 6
    });
    assert_eq!(reply.try_outcome(), Some(Outcome::Completed(5)));
    let expected: Vec<_> =
        (0..6).flat_map(|number| [("begins", number), ("ends", number)]).collect();
    assert_eq!(*seen.lock().unwrap(), expected);
    finish(&fleet);
}

#[test]
fn a_kill_wakes_who_waits_for_it_and_refuses_what_comes_late() {
    let hangar = Hangar::new();
    let witness = Witness::new();
    let fleet = builder(&hangar).observer(witness.clone()).build().unwrap();
    let heard = Arc::new(AtomicUsize::new(0));
    let spec = {
        let heard = Arc::clone(&heard);
        AgentSpec::new("patient").handler_async(move |task: Arc<Task<u64>>, cx: AsyncContext| {
            let heard = Arc::clone(&heard);
            async move {
                if *task.payload() == 1 && cx.attempt().get() <= 1 {
                    cx.revoked().await;
                    assert!(cx.is_revoked());
                    heard.fetch_add(1, Ordering::SeqCst);
                }
                Ok(*task.payload())
            }
        })
    };
    let first = fleet.spawn(spec.clone().max_leases(leases(2))).unwrap();
    let handle = fleet.submit(Task::new(1)).unwrap();
    let mut reply = fleet.ask(first, 1).unwrap();
    hangar.await_len(2);
    hangar.run();
    assert_eq!(hangar.len(), 2, "nothing happens before the kill");
    let killed = fleet.kill(first).unwrap();
    assert_eq!((killed.leases_revoked, killed.tasks_struck.len()), (2, 1));
    assert_eq!(reply.try_outcome(), Some(Outcome::Returned(ReturnReason::AgentGone)));
    hangar.run();
    assert_eq!(heard.load(Ordering::SeqCst), 2);
    assert_eq!(fleet.stats().late_completions_refused, 2);
    assert_eq!(fleet.stats().futures_live, 0);
    assert!(handle.try_outcome().is_none(), "it waits for another agent");
    fleet.spawn(spec).unwrap();
    hangar.await_len(1);
    hangar.run();
    assert_eq!(*handle.wait(), Outcome::Completed(1));
    witness.await_event(|event| matches!(event, FleetEvent::LateCompletionRefused { .. }));
    let report = finish(&fleet);
    assert_eq!((report.messages_returned, report.messages_handled), (1, 0));
}

#[test]
fn a_deadline_ends_the_task_and_tells_the_future() {
    let hangar = Hangar::new();
    let (clock, hand) = ManualClock::new();
    let fleet = builder(&hangar).clock(clock).build().unwrap();
    let spec =
        AgentSpec::new("late").handler_async(|task: Arc<Task<u64>>, cx: AsyncContext| async move {
            cx.revoked().await;
            Ok(*task.payload())
        });
    let agent = fleet.spawn(spec).unwrap();
    let handle = fleet.submit(Task::new(1).timeout(Duration::from_secs(1))).unwrap();
    hangar.await_len(1);
    hangar.run();
    hand.advance(Duration::from_secs(1));
    fleet.tick();
    let outcome = handle.wait();
    assert!(
        matches!(&*outcome, Outcome::Failed(error) if error.kind() == TaskErrorKind::DeadlineExceeded)
    );
    assert_eq!(fleet.agent(agent).unwrap().load, 1, "the future has the agent still");
    hangar.run();
    assert_eq!((hangar.len(), fleet.stats().late_completions_refused), (0, 1));
    assert_eq!(fleet.agent(agent).unwrap().load, 0);
    finish(&fleet);
}

/// Its first attempt returns once it is revoked, the others once the door is open.
fn patient(door: &Door) -> AgentSpec<u64, u64> {
    let door = door.clone();
    AgentSpec::new("patient").handler_async(move |task: Arc<Task<u64>>, cx: AsyncContext| {
        let door = door.clone();
        async move {
            if cx.attempt().get() == 1 {
                cx.revoked().await;
            } else {
                door.pass().await;
            }
            Ok(*task.payload())
        }
    })
}

#[test]
fn a_late_result_of_a_killed_agent_leaves_the_next_one_in_its_slot_what_it_runs() {
    let (hangar, door) = (Hangar::new(), Door::default());
    let fleet = builder(&hangar).build().unwrap();
    let first = fleet.spawn(patient(&door)).unwrap();
    let handle = fleet.submit(Task::new(1)).unwrap();
    hangar.await_len(1);
    hangar.run();
    fleet.kill(first).unwrap();
    let second = fleet.spawn(patient(&door)).unwrap();
    assert_eq!(first.slot(), second.slot(), "the slot is used again");
    hangar.await_len(2);
    hangar.run();
    assert_eq!(fleet.stats().late_completions_refused, 1);
    assert_eq!(fleet.kill(second).unwrap().tasks_struck, [handle.id()]);
    assert_eq!(fleet.stats().tasks_queued, 1);
    let report = fleet.shutdown(Duration::ZERO).unwrap();
    assert!(report.unfinished.is_empty());
    assert_eq!(*handle.wait(), Outcome::Returned(ReturnReason::Shutdown));
}

#[test]
fn a_late_result_of_a_killed_agent_leaves_the_deadline_of_its_task_to_the_next_attempt() {
    let (hangar, door) = (Hangar::new(), Door::default());
    let (clock, hand) = ManualClock::new();
    let fleet = builder(&hangar).clock(clock).build().unwrap();
    let first = fleet.spawn(patient(&door)).unwrap();
    let handle = fleet.submit(Task::new(1).timeout(Duration::from_secs(5))).unwrap();
    hangar.await_len(1);
    hangar.run();
    fleet.kill(first).unwrap();
    let second = fleet.spawn(patient(&door)).unwrap();
    hangar.await_len(2);
    hangar.run();
    fleet.kill(second).unwrap();
    hand.advance(Duration::from_secs(6));
    fleet.tick();
    assert!(
        matches!(&*handle.wait(), Outcome::Failed(error) if error.kind() == TaskErrorKind::DeadlineExceeded)
    );
    finish(&fleet);
}

#[test]
fn an_attempt_past_its_deadline_does_not_end_the_next_task_of_its_id() {
    let hangar = Hangar::new();
    let (clock, hand) = ManualClock::new();
    let fleet = builder(&hangar).clock(clock).build().unwrap();
    let doors: Arc<Mutex<Vec<Door>>> = Arc::default();
    let spec = {
        let doors = Arc::clone(&doors);
        AgentSpec::new("late").handler_async(move |task: Arc<Task<u64>>, _cx| {
            let door = Door::default();
            doors.lock().unwrap().push(door.clone());
            async move {
                door.pass().await;
                Ok(*task.payload())
            }
        })
    };
    fleet.spawn(spec.max_leases(leases(2))).unwrap();
    let task = |payload| Task::new(payload).with_id(TaskId::new(7));
    let first = fleet.submit(task(1).timeout(Duration::from_secs(1))).unwrap();
    hangar.await_len(1);
    hangar.run();
    hand.advance(Duration::from_secs(1));
    fleet.tick();
    assert!(matches!(&*first.wait(), Outcome::Failed(_)));
    let second = fleet.submit(task(2)).unwrap();
    hangar.await_len(2);
    hangar.run();
    doors.lock().unwrap()[0].open();
    hangar.run();
    assert_eq!((second.try_outcome(), fleet.stats().late_completions_refused), (None, 1));
    doors.lock().unwrap()[1].open();
    hangar.run();
    assert_eq!(*second.wait(), Outcome::Completed(2));
    finish(&fleet);
}

#[test]
fn a_kill_takes_away_what_still_runs_in_whatever_order_other_attempts_end() {
    let hangar = Hangar::new();
    let fleet = builder(&hangar).build().unwrap();
    let doors: Vec<_> = (0..6).map(|_| Door::default()).collect();
    let spec = {
        let doors = doors.clone();
        AgentSpec::new("wide").handler_async(move |task: Arc<Task<u64>>, _cx| {
            let door = doors[*task.payload() as usize].clone();
            async move {
                door.pass().await;
                Ok(*task.payload())
            }
        })
    };
    let agent = fleet.spawn(spec.max_leases(leases(6))).unwrap();
    let handles: Vec<_> = (0..6).map(|number| fleet.submit(Task::new(number)).unwrap()).collect();
    hangar.await_len(6);
    hangar.run();
    for number in [1, 5, 0, 4] {
        doors[number].open();
        hangar.run();
        assert_eq!(*handles[number].wait(), Outcome::Completed(number as u64));
    }
    let mut struck = fleet.kill(agent).unwrap().tasks_struck;
    struck.sort_unstable();
    assert_eq!(struck, [handles[2].id(), handles[3].id()]);
    finish(&fleet);
}

#[test]
fn a_cancelled_task_tells_its_future_and_may_end_as_cancelled() {
    let hangar = Hangar::new();
    let fleet = builder(&hangar).build().unwrap();
    let spec = AgentSpec::new("obedient").handler_async(
        |_task: Arc<Task<u64>>, cx: AsyncContext| async move {
            cx.cancelled().await;
            assert!(cx.is_cancelled() && !cx.is_revoked());
            Err(TaskError::retryable("stopped"))
        },
    );
    fleet.spawn(spec).unwrap();
    let handle = fleet.submit(Task::new(1)).unwrap();
    hangar.await_len(1);
    hangar.run();
    assert!(handle.cancel());
    hangar.run();
    assert_eq!(*handle.wait(), Outcome::Cancelled);
    finish(&fleet);
}

#[test]
fn progress_is_that_of_the_future_which_runs() {
    let (hangar, door) = (Hangar::new(), Door::default());
    let fleet = builder(&hangar).build().unwrap();
    let spec = {
        let door = door.clone();
        AgentSpec::new("worker").handler_async(move |task: Arc<Task<u64>>, cx: AsyncContext| {
            let door = door.clone();
            async move {
                cx.report_progress(0.5, "half");
                door.pass().await;
                Ok(*task.payload())
            }
        })
    };
    fleet.spawn(spec).unwrap();
    let handle = fleet.submit(Task::new(1)).unwrap();
    hangar.await_len(1);
    assert!(handle.progress().is_none(), "it was not polled");
    hangar.run();
    let progress = handle.progress().expect("it runs");
    assert_eq!((progress.attempt.get(), &*progress.note), (1, "half"));
    door.open();
    hangar.run();
    finish(&fleet);
}

#[test]
fn panics_and_dropped_futures_lose_attempts_and_nothing_else() {
    let hangar = Hangar::new();
    let fleet = builder(&hangar).build().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let spec = {
        let calls = Arc::clone(&calls);
        AgentSpec::new("clumsy").handler_async(move |task: Arc<Task<u64>>, _cx| {
            let call = calls.fetch_add(1, Ordering::SeqCst);
            assert_ne!(call, 0, "the function");
            async move {
                assert_ne!(call, 1, "the future");
                Ok(*task.payload())
            }
        })
    };
    let agent = fleet.spawn(spec).unwrap();
    let handle = fleet.submit(Task::new(9).max_attempts(leases(4))).unwrap();
    eventually("the function has panicked", || calls.load(Ordering::SeqCst) >= 2);
    hangar.await_len(1);
    hangar.run();
    eventually("it runs again", || calls.load(Ordering::SeqCst) >= 3);
    hangar.await_len(1);
    hangar.burn();
    hangar.await_len(1);
    hangar.run();
    assert_eq!(*handle.wait(), Outcome::Completed(9));
    let stats = fleet.stats();
    assert_eq!((stats.handler_panics, stats.futures_dropped, stats.reruns), (2, 1, 3));
    eventually("the lease comes back", || fleet.agent(agent).unwrap().load == 0);
    finish(&fleet);
}

#[test]
fn an_executor_that_refuses_or_panics_loses_attempts_until_none_is_left() {
    let hangar = Hangar::new();
    hangar.refuses.store(true, Ordering::SeqCst);
    let fleet = builder(&hangar).build().unwrap();
    let agent = fleet.spawn(doubler("idle", &Door::default())).unwrap();
    let outcome = fleet.submit(Task::new(1)).unwrap().wait();
    assert!(matches!(&*outcome, Outcome::Failed(error) if error.kind() == TaskErrorKind::Dropped));
    assert_eq!(fleet.stats().futures_dropped, 3);
    let outcome = fleet.ask(agent, 1).unwrap().wait();
    assert!(matches!(outcome, Outcome::Failed(error) if error.kind() == TaskErrorKind::Dropped));
    finish(&fleet);

    let panics: Arc<dyn Spawner> = Arc::new(|_future: SpawnedFuture| panic!("no executor"));
    let fleet = Fleet::<u64, u64>::builder().workers(1).spawner(panics).build().unwrap();
    fleet.spawn(doubler("idle", &Door::default())).unwrap();
    let outcome = fleet.submit(Task::new(1)).unwrap().wait();
    assert!(matches!(&*outcome, Outcome::Failed(error) if error.kind() == TaskErrorKind::Dropped));
    eventually("all panics are counted", || fleet.stats().other_panics == 3);
    assert_eq!(finish(&fleet).failed, 1);
}

#[test]
fn a_fleet_without_an_executor_refuses_agents_with_futures() {
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    let refused = fleet.spawn(doubler("idle", &Door::default())).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert_eq!(fleet.stats().agents_spawned, 0);
}

#[test]
fn a_drain_waits_for_messages_in_flight_and_is_told_when_they_land() {
    let (hangar, door) = (Hangar::new(), Door::default());
    let (clock, hand) = ManualClock::new();
    let fleet = builder(&hangar).clock(clock).build().unwrap();
    let agent = fleet.spawn(doubler("slow", &door)).unwrap();
    fleet.tell(agent, 1).unwrap();
    hangar.await_len(1);
    hangar.run();
    let report = fleet.drain(Duration::ZERO).unwrap();
    assert_eq!((report.messages_unfinished, report.futures_left), (1, 1));
    let drained = {
        let fleet = fleet.clone();
        std::thread::spawn(move || fleet.drain(LONG).unwrap())
    };
    // The time stands, so nothing but the word of the message's end wakes it.
    eventually("the drain waits", || hand.sleepers() == 1);
    door.open();
    hangar.run();
    eventually("the drain has ended", || drained.is_finished());
    assert!(drained.join().unwrap().is_complete());
    finish(&fleet);
}

#[test]
fn a_future_that_has_ended_is_live_no_more_when_its_outcome_is_looked_at() {
    let hangar = Hangar::new();
    let own: Arc<OnceLock<WeakFleet<u64, u64>>> = Arc::default();
    let looks = {
        let own = Arc::clone(&own);
        Arc::new(move |_task: &Task<u64>, _attempt: Attempt, _output: &u64| {
            let fleet = own.get().and_then(WeakFleet::upgrade).expect("it runs this");
            match fleet.stats().futures_live {
                0 => Ok(()),
                live => Err(TaskError::permanent(format!("{live} futures are live"))),
            }
        })
    };
    let door = Door::default();
    door.open();
    let fleet = builder(&hangar).verifier(looks).build().unwrap();
    own.set(fleet.downgrade()).unwrap();
    fleet.spawn(doubler("quick", &door)).unwrap();
    let handle = fleet.submit(Task::new(1)).unwrap();
    hangar.await_len(1);
    assert_eq!(fleet.stats().futures_live, 1);
    hangar.run();
    assert_eq!(*handle.wait(), Outcome::Completed(2));
    finish(&fleet);
}

#[test]
fn a_kill_returns_the_questions_in_flight_of_its_own_agent_alone() {
    let (hangar, door) = (Hangar::new(), Door::default());
    let fleet = builder(&hangar).build().unwrap();
    let spec = doubler("slow", &door).max_leases(leases(2));
    let agents = fleet.spawn_batch(&spec, 3).unwrap();
    let mut replies: Vec<_> =
        (0..6).map(|number| fleet.ask(agents[number % 3], number as u64).unwrap()).collect();
    hangar.await_len(6);
    hangar.run();
    fleet.kill(agents[1]).unwrap();
    let returned: Vec<_> = replies.iter_mut().map(Reply::try_outcome).collect();
    let gone = Some(Outcome::Returned(ReturnReason::AgentGone));
    assert_eq!(returned, [None, gone.clone(), None, None, gone, None]);
    door.open();
    hangar.run();
    let answered: Vec<_> = replies.iter_mut().map(Reply::try_outcome).collect();
    let four = [0, 4, 6, 10].map(|output| Some(Outcome::Completed(output)));
    assert_eq!([&answered[0], &answered[2], &answered[3], &answered[5]], four.each_ref());
    assert_eq!((&answered[1], &answered[4]), (&None, &None));
    finish(&fleet);
}

#[test]
fn a_shutdown_strikes_futures_that_hang_and_says_how_many_are_left() {
    let (hangar, door) = (Hangar::new(), Door::default());
    let fleet = builder(&hangar).build().unwrap();
    let agent = fleet.spawn(doubler("slow", &door).max_leases(leases(3))).unwrap();
    let handle = fleet.submit(Task::new(1)).unwrap();
    fleet.tell(agent, 1).unwrap();
    let mut reply = fleet.ask(agent, 2).unwrap();
    hangar.await_len(3);
    hangar.run();
    let report = fleet.shutdown(Duration::ZERO).unwrap();
    assert_eq!((report.returned, report.futures_left, report.workers_left), (1, 3, 0));
    assert_eq!(report.messages_unfinished, 1, "what was told is in its handler");
    assert_eq!(*handle.wait(), Outcome::Returned(ReturnReason::Shutdown));
    assert_eq!(reply.try_outcome(), Some(Outcome::Returned(ReturnReason::Shutdown)));
    door.open();
    hangar.run();
    assert_eq!(fleet.stats().late_completions_refused, 2);
    let report = finish(&fleet);
    assert_eq!((report.futures_left, report.messages_handled, report.messages_returned), (0, 1, 1));
}

#[test]
fn the_last_handle_may_be_dropped_where_its_futures_would_run() {
    let (hangar, door) = (Hangar::new(), Door::default());
    let fleet = builder(&hangar).build().unwrap();
    let agent = fleet.spawn(doubler("slow", &door).max_leases(leases(2))).unwrap();
    let handle = fleet.submit(Task::new(1)).unwrap();
    let mut reply = fleet.ask(agent, 2).unwrap();
    hangar.await_len(2);
    hangar.run();
    drop(fleet);
    assert_eq!(*handle.wait(), Outcome::Returned(ReturnReason::Shutdown));
    assert_eq!(reply.try_outcome(), Some(Outcome::Returned(ReturnReason::Shutdown)));
    door.open();
    hangar.run();
    assert_eq!(hangar.len(), 0);
}

#[test]
fn an_interruption_that_is_dropped_is_not_woken_and_can_be_asked_for_again() {
    let hangar = Hangar::new();
    let fleet = builder(&hangar).build().unwrap();
    let kept: Arc<Mutex<Vec<AsyncContext>>> = Arc::default();
    let spec = {
        let kept = Arc::clone(&kept);
        AgentSpec::new("keeper").handler_async(move |task: Arc<Task<u64>>, cx: AsyncContext| {
            kept.lock().unwrap().push(cx.clone());
            async move {
                cx.revoked().await;
                Ok(*task.payload())
            }
        })
    };
    let agent = fleet.spawn(spec).unwrap();
    let handle = fleet.submit(Task::new(1).to(agent)).unwrap();
    hangar.await_len(1);
    hangar.run();
    let cx = kept.lock().unwrap().pop().expect("the handler was called");
    let (dropped, live) = (Arc::new(Flag::default()), Arc::new(Flag::default()));
    {
        let waker = Waker::from(Arc::clone(&dropped));
        let mut gone = pin!(cx.revoked());
        assert!(gone.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(Arc::strong_count(&dropped), 1, "its waker is gone with it");
    let waker = Waker::from(Arc::clone(&live));
    let mut waits = pin!(cx.revoked());
    assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    fleet.kill(agent).unwrap();
    assert!(live.0.load(Ordering::SeqCst) && !dropped.0.load(Ordering::SeqCst));
    assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    assert!(pin!(cx.revoked()).poll(&mut Context::from_waker(&waker)).is_ready());
    hangar.run();
    assert_eq!(*handle.wait(), Outcome::Returned(ReturnReason::AgentGone));
    finish(&fleet);
}

#[test]
fn futures_on_threads_that_come_and_go_end_each_task_once() {
    let queue: Arc<Mutex<VecDeque<SpawnedFuture>>> = Arc::default();
    let spawner: Arc<dyn Spawner> = {
        let queue = Arc::clone(&queue);
        Arc::new(move |future: SpawnedFuture| queue.lock().unwrap().push_back(future))
    };
    let fleet = Fleet::<u64, u64>::builder().workers(2).spawner(spawner).build().unwrap();
    let door = Door::default();
    door.open();
    let spec = doubler("swarm", &door).max_leases(leases(2));
    fleet.spawn_batch(&spec, 4).unwrap();
    let over = AtomicBool::new(false);
    let handles = std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            let (queue, over) = (&queue, &over);
            scope.spawn(move || {
                let mut turn = thread;
                while !over.load(Ordering::SeqCst) || !queue.lock().unwrap().is_empty() {
                    let next = queue.lock().unwrap().pop_front();
                    let Some(mut future) = next else {
                        std::thread::yield_now();
                        continue;
                    };
                    turn += 1;
                    // Every seventh is dropped by its executor.
                    if turn % 7 != 0 {
                        let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                        assert!(polled.is_ready());
                    }
                }
            });
        }
        let handles: Vec<_> = (0..300)
            .map(|number| {
                if number % 50 == 49 {
                    let victim = fleet.agents()[0].id;
                    fleet.spawn(spec.clone()).unwrap();
                    fleet.kill(victim).unwrap();
                }
                let attempts = NonZeroU32::new(20).expect("not zero");
                fleet.submit_wait(Task::new(number).max_attempts(attempts)).unwrap()
            })
            .collect();
        for (handle, number) in handles.iter().zip(0..) {
            assert_eq!(*handle.wait(), Outcome::Completed(2 * number));
        }
        over.store(true, Ordering::SeqCst);
        handles
    });
    assert_eq!(finish(&fleet).completed, handles.len() as u64);
}
