//! What handlers spend is charged as they say so, to all whose budget it is or to none, and stays used.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, mpsc};

use phalanx::ErrorKind;
use phalanx::fleet::{
    AgentSpec, AsyncContext, Budgets, Exceeded, Fleet, FleetEvent, GroupKey, Limit, Meter, Outcome,
    OutcomeKind, Quota, Scope, Task, TaskContext, TaskError, Unit, Usage,
};

use super::hangar::{Hangar, builder};
use super::support::{Witness, finish};

const TEAM: GroupKey = GroupKey::new(7);

fn token_kind() -> Unit {
    Unit::new(0).expect("the first kind")
}

fn token_meter() -> Meter {
    Meter::Units(token_kind())
}

fn budgets(quotas: &[(Scope, Quota)]) -> Budgets {
    let budgets = Budgets::new(NonZeroUsize::new(100).expect("it is not zero"));
    for (scope, quota) in quotas {
        budgets.set(scope.clone(), *quota).expect("there is room");
    }
    budgets
}

fn tokens(most: u64) -> Quota {
    Quota::new().limit(token_meter(), Limit::hard(most))
}

fn usage(budgets: &Budgets, scope: &Scope) -> Usage {
    let account = budgets.account(scope).expect("it has one");
    account.usage(token_meter()).expect("it is metered")
}

fn kind() -> Scope {
    Scope::Type(Arc::from("writer"))
}

/// The first scope that had no room, for an error that a handler returns.
fn failed(exceeded: &Exceeded) -> TaskError {
    TaskError::permanent(exceeded.scope.to_string())
}

fn why(outcome: &Outcome<u64>) -> String {
    match outcome {
        Outcome::Failed(error) => error.to_string(),
        other => panic!("it did not fail: {other:?}"),
    }
}

/// Agents that spend what they are told to.
fn writer() -> AgentSpec<u64, u64> {
    AgentSpec::new("writer").handler_fn(|task: &Task<u64>, cx: &mut TaskContext<'_>| {
        cx.spend(token_kind(), *task.payload()).map_err(|exceeded| failed(&exceeded))?;
        Ok(*task.payload())
    })
}

#[test]
fn a_handler_spends_from_all_whose_budget_it_is_or_from_none() {
    let team = Scope::Group(TEAM);
    let budgets =
        budgets(&[(Scope::Fleet, tokens(100)), (team.clone(), tokens(80)), (kind(), tokens(60))]);
    let fleet = Fleet::builder().driven().budgets(budgets.clone()).build().unwrap();
    let agent = fleet.spawn(writer()).unwrap();
    let one = Scope::Agent(agent);
    budgets.set(one.clone(), tokens(40)).unwrap();
    let run = |task: Task<u64>| {
        let handle = fleet.submit(task).unwrap();
        fleet.run_ready(usize::MAX);
        handle.wait()
    };
    let all = || [&Scope::Fleet, &team, &kind(), &one].map(|scope| usage(&budgets, scope).used);

    assert_eq!(*run(Task::new(30).group(TEAM)), Outcome::Completed(30));
    assert_eq!(all(), [30, 30, 30, 30], "no account of the task's own word was asked");
    assert_eq!(why(&run(Task::new(11).group(TEAM))), one.to_string());
    assert_eq!(all(), [30, 30, 30, 30]);
    // Nobody's group, and a message, which has none.
    assert_eq!(*run(Task::new(5)), Outcome::Completed(5));
    let reply = fleet.ask(agent, 4).unwrap();
    fleet.run_ready(usize::MAX);
    assert_eq!(reply.wait(), Outcome::Completed(4));
    fleet.tell(agent, 1).unwrap();
    fleet.run_ready(usize::MAX);
    assert_eq!(all(), [40, 30, 40, 40]);

    // Another agent of the type, which has a budget of its own for less.
    let second = fleet.spawn(writer()).unwrap();
    assert_eq!(why(&run(Task::new(21).to(second))), kind().to_string());
    assert_eq!(*run(Task::new(20).to(second)), Outcome::Completed(20));
    // What it said before and what it used are charged both.
    let stranger = fleet.spawn(AgentSpec::new("reader").handler_fn(|task: &Task<u64>, cx| {
        let spent = cx.spend(token_kind(), *task.payload());
        spent.map_err(|exceeded| failed(&exceeded)).map(|()| 0)
    }));
    let costs = Task::new(30).to(stranger.unwrap()).group(TEAM).cost(token_kind(), 10);
    assert_eq!(*run(costs), Outcome::Completed(0));
    assert_eq!(all(), [100, 70, 60, 40]);
    assert_eq!(usage(&budgets, &Scope::Fleet).spent, 100);
    assert_eq!(why(&run(Task::new(1).to(second))), Scope::Fleet.to_string());
    assert_eq!(*run(Task::new(0).to(second)), Outcome::Completed(0));
    finish(&fleet);
}

/// Handlers that work on several threads share what they know of the attempt.
#[test]
fn contexts_are_shared_between_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<TaskContext<'static>>();
    is_shared::<AsyncContext>();
}

#[test]
fn what_was_spent_stays_used_however_the_attempt_ends_and_is_told_at_the_soft_line() {
    let quota = Quota::new().limit(token_meter(), Limit::hard(100).warn_at(30));
    let budgets = budgets(&[(Scope::Fleet, quota), (kind(), tokens(100))]);
    let witness = Witness::new();
    let fleet = Fleet::<u64, u64>::builder()
        .driven()
        .budgets(budgets.clone())
        .observer(witness.clone())
        .build()
        .unwrap();
    let agent = fleet
        .spawn(AgentSpec::new("writer").handler_fn({
            let fleet = fleet.downgrade();
            move |task: &Task<u64>, cx: &mut TaskContext<'_>| {
                cx.spend(token_kind(), 10).expect("there is room");
                match *task.payload() {
                    0 => Err(TaskError::permanent("it fails")),
                    1 => panic!("it panics"),
                    _ => {
                        let killed = fleet.upgrade().expect("it runs").kill(cx.agent());
                        killed.expect("it lives");
                        assert!(cx.is_revoked());
                        // The type of an agent that is gone is not known.
                        cx.spend(token_kind(), 10).expect("there is room");
                        Ok(0)
                    }
                }
            }
        }))
        .unwrap();
    let kinds = [0, 1, 2].map(|number| {
        let task = Task::new(number).to(agent).max_attempts(NonZeroU32::MIN);
        let handle = fleet.submit(task).unwrap();
        fleet.run_ready(usize::MAX);
        handle.wait().kind()
    });
    assert_eq!(kinds, [OutcomeKind::Failed, OutcomeKind::Failed, OutcomeKind::Returned]);
    let of_fleet = usage(&budgets, &Scope::Fleet);
    assert_eq!((of_fleet.used, of_fleet.spent, usage(&budgets, &kind()).used), (40, 40, 30));
    let told = |event: &&FleetEvent| matches!(event, FleetEvent::BudgetWarning { .. });
    assert_eq!(witness.events().iter().filter(told).count(), 1);
    finish(&fleet);
}

#[test]
fn futures_spend_too_and_nothing_once_their_fleet_is_gone() {
    let budgets = budgets(&[(Scope::Group(TEAM), tokens(50))]);
    let hangar = Hangar::new();
    let (lend, lent) = mpsc::channel::<AsyncContext>();
    let fleet = builder(&hangar).budgets(budgets.clone()).build().unwrap();
    let spec = AgentSpec::new("writer").handler_async(move |task: Arc<Task<u64>>, cx| {
        let lend = lend.clone();
        async move {
            cx.spend(token_kind(), *task.payload()).map_err(|exceeded| failed(&exceeded))?;
            lend.send(cx).expect("the test listens");
            Ok(*task.payload())
        }
    });
    fleet.spawn(spec).unwrap();
    let run = |amount| {
        let handle = fleet.submit(Task::new(amount).group(TEAM)).unwrap();
        hangar.await_len(1);
        hangar.run();
        handle.wait()
    };
    assert_eq!(*run(40), Outcome::Completed(40));
    assert_eq!(why(&run(11)), Scope::Group(TEAM).to_string());
    let kept = lent.recv().unwrap();
    assert_eq!(kept.spend(token_kind(), 11).unwrap_err().used, 40, "also after its end");
    finish(&fleet);
    drop(fleet);
    assert!(kept.spend(token_kind(), 11).is_ok(), "nobody is there to charge it");
    assert_eq!(usage(&budgets, &Scope::Group(TEAM)).used, 40);
}

#[test]
fn without_a_budget_of_that_kind_nothing_is_charged() {
    let leases = Quota::new().limit(Meter::Leases, Limit::hard(9));
    for budgets in [None, Some(budgets(&[(Scope::Fleet, leases)]))] {
        let builder = Fleet::builder().driven();
        let builder = match &budgets {
            Some(budgets) => builder.budgets(budgets.clone()),
            None => builder,
        };
        let fleet = builder.build().unwrap();
        fleet.spawn(writer()).unwrap();
        let handle = fleet.submit(Task::new(u64::MAX)).unwrap();
        fleet.run_ready(usize::MAX);
        assert_eq!(*handle.wait(), Outcome::Completed(u64::MAX));
        finish(&fleet);
    }
}

#[test]
fn handlers_that_spend_at_once_never_overshoot() {
    let budgets = budgets(&[(kind(), tokens(100))]);
    let fleet = Fleet::builder().workers(4).budgets(budgets.clone()).build().unwrap();
    fleet.spawn_batch(&writer(), 8).unwrap();
    let handles = fleet.submit_batch((0..200).map(|n| Task::new(1 + n % 3)).collect()).unwrap();
    let written: u64 =
        handles.iter().map(|handle| handle.wait().completed().copied().unwrap_or(0)).sum();
    let usage = usage(&budgets, &kind());
    assert_eq!((usage.used, usage.spent), (written, written));
    // The last ones were for 1 at least, so it was spent to the end.
    assert_eq!((written, usage.peak), (100, 100));
    finish(&fleet);
}

#[test]
fn launches_are_charged_to_the_group_of_the_spec() {
    let launches = |most| Quota::new().limit(Meter::Launches, Limit::hard(most));
    let team = Scope::Group(TEAM);
    let budgets = budgets(&[(Scope::Fleet, launches(9)), (team.clone(), launches(3))]);
    let fleet = Fleet::<u64, u64>::builder().driven().budgets(budgets.clone()).build().unwrap();
    let used = |scope: &Scope| {
        let account = budgets.account(scope).expect("it has one");
        account.usage(Meter::Launches).expect("it is metered").used
    };
    fleet.spawn_batch(&writer().group(TEAM), 2).unwrap();
    fleet.spawn(writer()).unwrap();
    assert_eq!((used(&Scope::Fleet), used(&team)), (3, 2));
    let refused = fleet.spawn_batch(&writer().group(TEAM), 2).unwrap_err();
    assert_eq!((refused.kind(), used(&Scope::Fleet), used(&team)), (ErrorKind::LimitReached, 3, 2));
    fleet.spawn(writer().group(TEAM)).unwrap();
    assert_eq!((used(&Scope::Fleet), used(&team)), (4, 3));
    finish(&fleet);
}
