//! Agents that are to go, and tasks that will need them.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use super::support::{SlowLog, eventually, finish};
use phalanx::fleet::{
    AgentSpec, AllocateError, Backoff, Condition, Fleet, FleetStats, Outcome, Request, Task,
    TaskContext, TaskError,
};
use phalanx::{ErrorKind, ManualClock};

#[test]
fn an_agent_stays_for_tasks_that_come_later() {
    let (clock, hand) = ManualClock::new();
    let builder = Fleet::<u64, u64>::builder().workers(1).clock(clock);
    let fleet = builder.build().unwrap();
    let failing = |task: &Task<u64>, cx: &mut TaskContext<'_>| {
        if cx.attempt().get() > 1 { Ok(*task.payload()) } else { Err(TaskError::retryable("once")) }
    };
    let spec = AgentSpec::new("one").capability("one").handler_fn(failing);
    let agents = fleet.spawn_batch(&spec, 2).unwrap();
    let backoff = Backoff::constant(Duration::from_secs(1));
    let in_use = |agent| fleet.retire(agent).unwrap_err().kind() == ErrorKind::InUse;
    let delayed = |stats: FleetStats, leases| {
        (stats.tasks_queued, stats.leases_granted, stats.leases_live) == (1, leases, 0)
    };

    // Waits for its next attempt on this agent alone, and others wait for it.
    let named = fleet.submit(Task::new(1).to(agents[0]).retry_backoff(backoff)).unwrap();
    eventually("it waits for its second attempt", || delayed(fleet.stats(), 1));
    assert!(in_use(agents[0]));
    let held = fleet.submit(Task::new(2).to(agents[1]).after(&named)).unwrap();
    assert!(in_use(agents[1]), "one waits for others that is for this agent alone");
    assert!(held.cancel());
    fleet.retire(agents[1]).unwrap();
    hand.advance(Duration::from_secs(1));
    let _ = named.wait();

    // Of its kind it is the last.
    let any = fleet.submit(Task::new(3).capability("one").retry_backoff(backoff)).unwrap();
    eventually("it waits for its second attempt", || delayed(fleet.stats(), 3));
    assert!(in_use(agents[0]));
    let second = fleet.spawn(spec).unwrap();
    fleet.retire(second).unwrap();
    hand.advance(Duration::from_secs(1));
    let _ = any.wait();
    eventually("the agent is given back", || fleet.stats().leases_live == 0);
    fleet.retire(agents[0]).unwrap();
    finish(&fleet);
}

#[test]
fn requests_that_name_an_agent_keep_it_unless_it_is_drained_and_tasks_keep_it_then_too() {
    let fleet = Fleet::<u64, u64>::builder().driven().build().unwrap();
    let spec = AgentSpec::new("one").handler_fn(|task: &Task<u64>, _| Ok(*task.payload()));
    let mut context = Context::from_waker(Waker::noop());
    for condition in [Condition::Starting, Condition::Failed, Condition::Draining] {
        let agent = fleet.spawn(spec.clone()).unwrap();
        fleet.set_condition(agent, condition).unwrap();
        let request = Request::any().agent(agent);
        let mut named = pin!(fleet.allocate_async(&request));
        let mut batch = pin!(fleet.allocate_batch_async(&request, 1));
        assert!(named.as_mut().poll(&mut context).is_pending());
        assert!(batch.as_mut().poll(&mut context).is_pending());
        let retired = fleet.retire(agent).map_err(|error| error.kind());
        if condition == Condition::Draining {
            retired.unwrap();
            let gone = Err(AllocateError::AgentGone);
            assert_eq!(
                named.as_mut().poll(&mut context).map(|got| got.map(drop)),
                Poll::Ready(gone)
            );
            let gone = Err(AllocateError::AgentGone);
            assert_eq!(
                batch.as_mut().poll(&mut context).map(|got| got.map(drop)),
                Poll::Ready(gone)
            );
        } else {
            assert_eq!(retired, Err(ErrorKind::InUse), "{condition:?}");
            fleet.set_condition(agent, Condition::Fit).unwrap();
            let Poll::Ready(Ok(lease)) = named.as_mut().poll(&mut context) else {
                panic!("it serves, and somebody waits for it")
            };
            drop(lease);
            let Poll::Ready(Ok(leases)) = batch.as_mut().poll(&mut context) else {
                panic!("it serves, and a batch waits for it")
            };
            drop(leases);
            fleet.retire(agent).unwrap();
        }
    }
    let agent = fleet.spawn(spec).unwrap();
    fleet.unroute(agent).unwrap();
    let task = fleet.submit(Task::new(1).to(agent)).unwrap();
    assert_eq!(fleet.retire(agent).unwrap_err().kind(), ErrorKind::InUse, "it was accepted");
    assert!(fleet.drain_agent(agent, Duration::ZERO).unwrap().ended);
    assert!(matches!(task.try_outcome().as_deref(), Some(Outcome::Returned(_))));
    finish(&fleet);
}

#[test]
fn an_agent_stays_while_the_log_accepts_a_task_for_it() {
    let log = SlowLog::new();
    let fleet = Fleet::<u64, u64>::builder().workers(1).task_log(log.clone()).build().unwrap();
    let spec = AgentSpec::new("one").handler_fn(|task: &Task<u64>, _| Ok(*task.payload()));
    let agents = fleet.spawn_batch(&spec, 2).unwrap();
    thread::scope(|scope| {
        let submitted = scope.spawn(|| fleet.submit(Task::new(1).to(agents[0])).unwrap());
        log.gate.await_arrivals(1);
        assert_eq!(fleet.retire(agents[0]).unwrap_err().kind(), ErrorKind::InUse);
        fleet.retire(agents[1]).expect("it is for the other one alone");
        log.gate.open();
        assert_eq!(*submitted.join().unwrap().wait(), Outcome::Completed(1));
    });
    finish(&fleet);
}
