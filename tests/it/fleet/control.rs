//! The control lane: work, leases and budgets do not hold its messages up.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::messages::scribe;
use super::support::{Gate, LONG, eventually, finish};
use phalanx::fleet::supervise::{Restart, RestartPolicy};
use phalanx::fleet::{
    AgentSpec, AgentState, Backoff, Budgets, Condition, Fleet, GroupKey, Limit, Meter, Outcome,
    Quota, Request, Scope, SpawnedFuture, Task,
};

/// An agent at a gate, which writes down what it handles before it comes there.
fn gated(gate: &Arc<Gate>, notes: &Arc<Mutex<Vec<u64>>>) -> AgentSpec<u64, u64> {
    let (gate, notes) = (Arc::clone(gate), Arc::clone(notes));
    AgentSpec::new("gated").handler_fn(move |task, _| {
        notes.lock().unwrap().push(*task.payload());
        gate.pass();
        Ok(*task.payload())
    })
}

#[test]
fn what_its_worker_has_in_hand_does_not_hold_a_control_message_up() {
    for asked in [false, true] {
        let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
        let (gate, notes) = (Gate::new(), Arc::default());
        let agent = fleet.spawn(gated(&gate, &notes)).unwrap();
        // So that all of them are there as the turn begins.
        let lease = fleet.try_allocate(&Request::any()).unwrap();
        let mut replies = Vec::new();
        for message in 0..200 {
            if asked && message % 7 == 3 {
                replies.push(fleet.ask(agent, message).unwrap());
            } else {
                fleet.tell(agent, message).unwrap();
            }
        }
        drop(lease);
        gate.await_arrivals(1);
        for (arrivals, control) in [(1, 1_000), (2, 1_001)] {
            gate.await_arrivals(arrivals);
            fleet.tell_control(agent, control).unwrap();
            fleet.tell_control(agent, control + 100).unwrap();
            gate.permit();
        }
        gate.open();
        assert!(fleet.drain(LONG).unwrap().is_complete());
        // The second pair comes while the first of the first is handled.
        let all = [0, 1_000, 1_100, 1_001, 1_101].into_iter().chain(1..200);
        assert_eq!(*notes.lock().unwrap(), all.collect::<Vec<_>>());
        assert!(replies.into_iter().all(|reply| matches!(reply.wait(), Outcome::Completed(_))));
        assert_eq!(finish(&fleet).messages_handled, 204);
    }
}

#[test]
fn leases_of_the_host_do_not_hold_a_control_message_up() {
    // One that has run nothing, and one that has a handler.
    for warm in [false, true] {
        let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
        let notes = Arc::default();
        let agent = fleet.spawn(scribe(&notes)).unwrap();
        if warm {
            assert_eq!(fleet.ask(agent, 0).unwrap().wait(), Outcome::Completed(1));
            notes.lock().unwrap().clear();
        }
        let lease = fleet.allocate(&Request::any()).unwrap();
        for message in 1..=3 {
            fleet.tell(agent, message).unwrap();
        }
        for control in 100..103 {
            fleet.tell_control(agent, control).unwrap();
        }
        eventually("they are handled", || notes.lock().unwrap().len() == 3);
        eventually("its place is given back", || fleet.agent(agent).unwrap().load == 1);
        assert_eq!(*notes.lock().unwrap(), [100, 101, 102]);
        assert_eq!(fleet.mailbox_len(agent), Some(3));
        assert!(fleet.try_allocate(&Request::any()).is_err(), "it has no more room than it had");
        drop(lease);
        eventually("the rest is handled", || notes.lock().unwrap().len() == 6);
        assert_eq!(finish(&fleet).messages_handled, 6 + u64::from(warm));
    }
}

#[test]
fn a_control_message_waits_for_the_attempt_that_has_the_only_handler_and_not_for_the_next() {
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    let (gate, notes) = (Gate::new(), Arc::default());
    let agent = fleet.spawn(gated(&gate, &notes)).unwrap();
    let running = fleet.submit(Task::new(1)).unwrap();
    gate.await_arrivals(1);
    // Who waits for the agent is given it before its mailbox is.
    let mut waiting = std::pin::pin!(fleet.allocate_async(&Request::any().agent(agent)));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    fleet.tell_control(agent, 100).unwrap();
    fleet.tell(agent, 2).unwrap();
    // The other worker does nothing about it: there would be two handlers at once.
    let other = fleet.spawn(scribe(&Arc::default()).capability("other")).unwrap();
    assert_eq!(fleet.ask(other, 5).unwrap().wait(), Outcome::Completed(6));
    assert_eq!(*notes.lock().unwrap(), [1]);
    gate.permit();
    assert_eq!(*running.wait(), Outcome::Completed(1));
    gate.await_arrivals(2);
    assert_eq!(*notes.lock().unwrap(), [1, 100]);
    gate.open();
    let lease = loop {
        if let Poll::Ready(lease) = waiting.as_mut().poll(&mut cx) {
            break lease.unwrap();
        }
        std::thread::yield_now();
    };
    eventually("its place is given back", || fleet.agent(agent).unwrap().load == 1);
    assert_eq!(fleet.mailbox_len(agent), Some(1));
    drop(lease);
    assert!(fleet.drain(LONG).unwrap().is_complete());
    assert_eq!(*notes.lock().unwrap(), [1, 100, 2]);
    finish(&fleet);
}

#[test]
fn budgets_at_their_limits_do_not_hold_a_control_message_up() {
    let none = || Quota::new().limit(Meter::Leases, Limit::hard(0));
    for scope in [Scope::Fleet, Scope::Type("scribe".into())] {
        let budgets = Budgets::new(NonZeroUsize::new(4).unwrap());
        let account = budgets.set(scope.clone(), none()).unwrap();
        let fleet = Fleet::<u64, u64>::builder().workers(1).budgets(budgets).build().unwrap();
        let notes = Arc::default();
        let agent = fleet.spawn(scribe(&notes)).unwrap();
        fleet.tell(agent, 1).unwrap();
        fleet.tell_control(agent, 100).unwrap();
        eventually("it is handled", || *notes.lock().unwrap() == [100]);
        eventually("its place is given back", || fleet.agent(agent).unwrap().load == 0);
        assert_eq!(
            (account.usage(Meter::Leases).unwrap().used, fleet.mailbox_len(agent)),
            (0, Some(1))
        );
        assert!(fleet.shutdown(LONG).unwrap().is_complete());
        assert_eq!(fleet.stats().messages_returned, 1);
    }
}

#[test]
fn a_control_message_waits_for_an_attempt_that_panics_and_not_for_who_is_next() {
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    let (gate, notes) = (Gate::new(), Arc::<Mutex<Vec<u64>>>::default());
    let spec = {
        let (gate, notes) = (Arc::clone(&gate), Arc::clone(&notes));
        AgentSpec::<u64, u64>::new("frail").handler_fn(move |task, _| {
            notes.lock().unwrap().push(*task.payload());
            if *task.payload() == 1 {
                gate.pass();
                panic!("it is meant to");
            }
            Ok(*task.payload())
        })
    };
    let agent = fleet.spawn(spec).unwrap();
    let fails = fleet.submit(Task::new(1)).unwrap();
    gate.await_arrivals(1);
    let mut waiting = std::pin::pin!(fleet.allocate_async(&Request::any().agent(agent)));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    fleet.tell_control(agent, 100).unwrap();
    // A worker has looked: there may be no second handler.
    let other = fleet.spawn(scribe(&Arc::default()).capability("other")).unwrap();
    assert_eq!(fleet.ask(other, 5).unwrap().wait(), Outcome::Completed(6));
    assert_eq!(*notes.lock().unwrap(), [1]);
    gate.open();
    assert!(matches!(*fails.wait(), Outcome::Failed(_)));
    eventually("it is handled", || *notes.lock().unwrap() == [1, 100]);
    let lease = loop {
        if let Poll::Ready(lease) = waiting.as_mut().poll(&mut cx) {
            break lease.unwrap();
        }
        std::thread::yield_now();
    };
    drop(lease);
    finish(&fleet);
}

#[test]
fn a_control_message_is_handled_once_its_agent_serves_though_its_leases_are_held() {
    // One that is supervised is told how it stands by another way.
    for supervised in [false, true] {
        handled_once_its_agent_serves(supervised);
    }
}

fn handled_once_its_agent_serves(supervised: bool) {
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    let notes = Arc::default();
    let spec = scribe(&notes);
    let spec = if supervised { spec.restart(RestartPolicy::new(Restart::OnFailure)) } else { spec };
    let agent = fleet.spawn(spec).unwrap();
    let lease = fleet.allocate(&Request::any()).unwrap();
    fleet.unroute(agent).unwrap();
    fleet.tell(agent, 1).unwrap();
    fleet.tell_control(agent, 100).unwrap();
    // The worker has looked at it.
    let other = fleet.spawn(scribe(&Arc::default()).capability("other")).unwrap();
    assert_eq!(fleet.ask(other, 5).unwrap().wait(), Outcome::Completed(6));
    assert!(notes.lock().unwrap().is_empty());
    fleet.set_condition(agent, Condition::Fit).unwrap();
    eventually("it is handled", || *notes.lock().unwrap() == [100]);
    assert!(!lease.is_revoked());
    drop(lease);
    eventually("the rest is handled", || *notes.lock().unwrap() == [100, 1]);
    finish(&fleet);
}

#[test]
fn a_control_message_that_no_handler_is_free_for_is_not_looked_at_for_ever() {
    let budgets = Budgets::new(NonZeroUsize::new(4).unwrap());
    let quota = |most| Quota::new().limit(Meter::Leases, Limit::hard(most));
    budgets.set(Scope::Fleet, quota(1)).unwrap();
    let fleet = Fleet::<u64, u64>::builder().driven().budgets(budgets.clone());
    let fleet = fleet.spawner(Arc::new(|future: SpawnedFuture| drop(future))).build().unwrap();
    let other = fleet.spawn(scribe(&Arc::default()).capability("other")).unwrap();
    // It has all that the budget gives, and somebody waits for it: whatever comes back is told of.
    let lease = fleet.try_allocate(&Request::any().agent(other)).unwrap();
    let mut waiting = std::pin::pin!(fleet.allocate_async(&Request::any().agent(other)));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let spec = AgentSpec::<u64, u64>::new("flies");
    let agent = fleet.spawn(spec.handler_async(|task, _| async move { Ok(*task.payload()) }));
    let agent = agent.unwrap();
    fleet.tell_control(agent, 100).unwrap();
    // A mailbox that is looked at for ever keeps whoever drives the fleet for ever.
    fleet.run_ready(usize::MAX);
    assert_eq!(fleet.mailbox_len(agent), Some(1), "there is no lease for it");
    drop(lease);
    finish(&fleet);
}

#[test]
fn tasks_that_are_queued_do_not_hold_a_control_message_up() {
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    let (gate, notes) = (Gate::new(), Arc::default());
    let agent = fleet.spawn(gated(&gate, &notes)).unwrap();
    let tasks: Vec<_> = (1..=3).map(|task| fleet.submit(Task::new(task)).unwrap()).collect();
    gate.await_arrivals(1);
    fleet.tell_control(agent, 100).unwrap();
    gate.permit();
    gate.await_arrivals(2);
    assert_eq!(*notes.lock().unwrap(), [1, 100]);
    // One that comes as control is handled goes before them too.
    fleet.tell_control(agent, 101).unwrap();
    gate.open();
    assert!(tasks.iter().all(|task| matches!(&*task.wait(), Outcome::Completed(_))));
    assert_eq!(*notes.lock().unwrap(), [1, 100, 101, 2, 3]);
    finish(&fleet);
}

#[test]
fn a_queue_that_does_not_run_dry_holds_no_control_message_up_whoever_ends_what_runs() {
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    let (gates, notes) = ([Gate::new(), Gate::new()], [Arc::default(), Arc::default()]);
    let [agent, _] = [0, 1].map(|at| fleet.spawn(gated(&gates[at], &notes[at])).unwrap());
    let tasks: Vec<_> = (0..40).map(|task| fleet.submit(Task::new(task)).unwrap()).collect();
    gates[1].await_arrivals(1);
    for round in 0..10 {
        // A task is at each of the agents.
        gates[0].await_arrivals(2 * round + 1);
        fleet.tell_control(agent, 100 + round as u64).unwrap();
        for _ in 0..round % 3 {
            gates[1].permit();
        }
        gates[0].permit();
        gates[0].await_arrivals(2 * round + 2);
        assert_eq!(notes[0].lock().unwrap().last(), Some(&(100 + round as u64)));
        gates[0].permit();
    }
    gates.iter().for_each(|gate| gate.open());
    assert!(tasks.iter().all(|task| matches!(&*task.wait(), Outcome::Completed(_))));
    assert_eq!(finish(&fleet).messages_handled, 10);
}

#[test]
fn control_goes_before_the_task_that_its_agent_was_taken_for() {
    // Each future is ready as it is made.
    let spawner = Arc::new(|mut future: SpawnedFuture| {
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    });
    for (with_budgets, is_async) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut builder = Fleet::<u64, u64>::builder().driven().spawner(spawner.clone());
        let budgets = Budgets::new(NonZeroUsize::new(4).unwrap());
        let quota = Quota::new().limit(Meter::Leases, Limit::hard(1));
        let account = budgets.set(Scope::Fleet, quota).unwrap();
        if with_budgets {
            builder = builder.budgets(budgets);
        }
        let fleet = builder.build().unwrap();
        let notes = Arc::<Mutex<Vec<u64>>>::default();
        let spec = AgentSpec::<u64, u64>::new("any");
        let spec = {
            let notes = Arc::clone(&notes);
            let note = move |task: &Task<u64>| {
                notes.lock().unwrap().push(*task.payload());
                Ok(*task.payload())
            };
            if is_async {
                spec.handler_async(move |task, _| std::future::ready(note(&task)))
            } else {
                spec.handler_fn(move |task, _| note(task))
            }
        };
        let agent = fleet.spawn(spec).unwrap();
        // The queue stands in line before the mailbox, which has something before it is urgent.
        let tasks = [1, 2].map(|task| fleet.submit(Task::new(task)).unwrap());
        fleet.tell(agent, 50).unwrap();
        for control in 100..102 {
            fleet.tell_control(agent, control).unwrap();
        }
        fleet.run_ready(usize::MAX);
        let handled = notes.lock().unwrap().clone();
        assert_eq!(handled[..2], [100, 101], "of {handled:?}");
        assert_eq!(handled.len(), 5);
        assert!(tasks.iter().all(|task| task.try_outcome().is_some()));
        assert_eq!(account.usage(Meter::Leases).unwrap().used, 0);
        assert_eq!(fleet.agent(agent).unwrap().load, 0);
        finish(&fleet);
    }
}

#[test]
fn a_handler_that_outlives_its_incarnation_is_the_only_one_that_runs_where_there_may_be_one() {
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    let (gate, notes) = (Gate::new(), Arc::default());
    let policy = RestartPolicy::new(Restart::OnFailure).backoff(Backoff::NONE);
    let agent = fleet.spawn(gated(&gate, &notes).restart(policy)).unwrap();
    let task = fleet.submit(Task::new(1)).unwrap();
    gate.await_arrivals(1);
    let other = fleet.spawn(scribe(&Arc::default()).capability("other")).unwrap();
    assert!(fleet.report_failure(agent, "as it is told").unwrap());
    eventually("it is up again", || fleet.agent(agent).unwrap().state == AgentState::Busy);
    fleet.tell_control(agent, 100).unwrap();
    // The other worker has looked.
    assert_eq!(fleet.ask(other, 5).unwrap().wait(), Outcome::Completed(6));
    assert_eq!((*notes.lock().unwrap()).as_slice(), [1], "it runs still");
    gate.open();
    eventually("control is handled", || notes.lock().unwrap().get(1) == Some(&100));
    drop(task);
    finish(&fleet);
}

#[test]
fn a_control_message_that_flies_is_not_paid_for_by_the_group_of_the_task_that_it_goes_before() {
    let team = GroupKey::new(7);
    let budgets = Budgets::new(NonZeroUsize::new(4).unwrap());
    let quota = || Quota::new().limit(Meter::Leases, Limit::hard(5));
    let [all, group] =
        [Scope::Fleet, Scope::Group(team)].map(|scope| budgets.set(scope, quota()).unwrap());
    let used = || [&all, &group].map(|account| account.usage(Meter::Leases).unwrap().used);
    let flying = Arc::<Mutex<Vec<SpawnedFuture>>>::default();
    let spawner = {
        let flying = Arc::clone(&flying);
        Arc::new(move |future: SpawnedFuture| flying.lock().unwrap().push(future))
    };
    let fleet = Fleet::<u64, u64>::builder().driven().budgets(budgets).spawner(spawner);
    let fleet = fleet.build().unwrap();
    let spec = AgentSpec::<u64, u64>::new("flies");
    let agent = fleet.spawn(spec.handler_async(|_, _| std::future::pending())).unwrap();
    let task = fleet.submit(Task::new(1).group(team)).unwrap();
    fleet.tell_control(agent, 100).unwrap();
    let land = || {
        let future = flying.lock().unwrap().pop();
        drop(future.expect("one flies"));
    };
    fleet.run_ready(usize::MAX);
    assert_eq!((fleet.mailbox_len(agent), flying.lock().unwrap().len()), (Some(0), 1));
    assert_eq!(used(), [1, 0], "control flies");
    land();
    fleet.run_ready(usize::MAX);
    assert_eq!(used(), [1, 1], "the task does");
    land();
    finish(&fleet);
    assert!(task.try_outcome().is_some());
    assert_eq!(used(), [0, 0]);
}
