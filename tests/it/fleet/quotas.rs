//! Tasks and launches are charged to budgets: before they come in, from all or from none, and given back at their end.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use phalanx::ErrorKind;
use phalanx::fleet::{
    AgentSpec, Budgets, Exceeded, Fleet, FleetBuilder, FleetEvent, GroupKey, IdempotencyKey, Limit,
    Meter, Outcome, OutcomeKind, Quota, Scope, SubmitError, Task, TaskError, Unit,
};

use super::support::{Gate, SlowLog, Witness, finish};

const TEAM: GroupKey = GroupKey::new(7);

fn token_kind() -> Unit {
    Unit::new(0).expect("the first kind")
}

fn token_meter() -> Meter {
    Meter::Units(token_kind())
}

fn budgets(quotas: &[(Scope, Quota)]) -> Budgets {
    let budgets = Budgets::new(NonZeroUsize::new(100).unwrap());
    for (scope, quota) in quotas {
        budgets.set(scope.clone(), *quota).unwrap();
    }
    budgets
}

fn queued(most: u64) -> Quota {
    Quota::new().limit(Meter::QueuedTasks, Limit::hard(most))
}

fn used(budgets: &Budgets, scope: &Scope, meter: Meter) -> u64 {
    budgets.account(scope).unwrap().usage(meter).unwrap().used
}

fn builder(budgets: &Budgets) -> FleetBuilder<u64, u64> {
    Fleet::builder().workers(1).budgets(budgets.clone())
}

fn gated(gate: &Arc<Gate>) -> AgentSpec<u64, u64> {
    let gate = Arc::clone(gate);
    AgentSpec::new("gated").handler_fn(move |task, _| {
        gate.pass();
        match *task.payload() {
            0 => Err(TaskError::permanent("it fails")),
            number => Ok(number),
        }
    })
}

fn refusal<R>(refused: &SubmitError<R>) -> &Exceeded {
    match refused {
        SubmitError::OverBudget { exceeded, .. } => exceeded,
        other => panic!("not for want of a budget: {other:?}"),
    }
}

#[test]
fn a_task_takes_a_place_from_its_submission_to_its_end_however_it_ends() {
    let team = Scope::Group(TEAM);
    let budgets = budgets(&[(Scope::Fleet, queued(4)), (team.clone(), queued(3))]);
    let gate = Gate::new();
    let fleet = builder(&budgets).build().unwrap();
    fleet.spawn(gated(&gate)).unwrap();
    let mine = |number| Task::new(number).group(TEAM);
    let running = fleet.submit(mine(1)).unwrap();
    gate.await_arrivals(1);
    let fails = fleet.submit(mine(0)).unwrap();
    let cancelled = fleet.submit(mine(3)).unwrap();
    let refused = fleet.submit(mine(4)).unwrap_err();
    let exceeded = refusal(&refused);
    assert_eq!((&exceeded.scope, exceeded.meter, exceeded.used), (&team, Meter::QueuedTasks, 3));
    assert_eq!(*refused.into_inner().payload(), 4, "it is handed back");
    assert_eq!(
        used(&budgets, &Scope::Fleet, Meter::QueuedTasks),
        3,
        "of the fleet nothing was kept"
    );
    // One of no group pays to the fleet alone, and a plain one is charged like any.
    let plain = fleet.submit(Task::new(5)).unwrap();
    assert_eq!(refusal(&fleet.submit_wait(Task::new(6)).unwrap_err()).scope, Scope::Fleet);
    assert_eq!(fleet.stats().tasks_refused, 2);

    assert!(cancelled.cancel());
    assert_eq!(used(&budgets, &team, Meter::QueuedTasks), 2);
    gate.open();
    assert_eq!(*running.wait(), Outcome::Completed(1));
    assert_eq!(fails.wait().kind(), OutcomeKind::Failed);
    let _ = plain.wait();
    // Whoever sees the outcome finds the room.
    assert_eq!(used(&budgets, &team, Meter::QueuedTasks), 0);
    assert_eq!(used(&budgets, &Scope::Fleet, Meter::QueuedTasks), 0);
    finish(&fleet);
}

#[test]
fn units_are_used_up_by_tasks_that_ran_and_given_back_by_those_that_did_not() {
    let quota = Quota::new().limit(token_meter(), Limit::hard(100));
    let budgets = budgets(&[(Scope::Fleet, quota)]);
    let tokens = || used(&budgets, &Scope::Fleet, token_meter());
    let gate = Gate::new();
    let fleet = builder(&budgets).build().unwrap();
    fleet.spawn(gated(&gate)).unwrap();
    let costs = |number, tokens| Task::new(number).cost(token_kind(), 1).cost(token_kind(), tokens);
    let running = fleet.submit(costs(1, 40)).unwrap();
    gate.await_arrivals(1);
    let never = fleet.submit(costs(2, 30)).unwrap();
    assert_eq!(tokens(), 70);
    let refused = fleet.submit(costs(3, 31)).unwrap_err();
    assert_eq!((refusal(&refused).meter, refusal(&refused).requested), (token_meter(), 31));
    assert!(never.cancel());
    assert_eq!(tokens(), 40);
    gate.open();
    let _ = running.wait();
    let failed = fleet.submit(costs(0, 10)).unwrap();
    assert_eq!(failed.wait().kind(), OutcomeKind::Failed);
    let usage = budgets.account(&Scope::Fleet).unwrap().usage(token_meter()).unwrap();
    assert_eq!((usage.used, usage.spent), (50, 50), "what failed has used its own up too");
    finish(&fleet);
}

#[test]
fn of_a_batch_all_are_charged_or_none_and_known_keys_are_free() {
    let budgets = budgets(&[(Scope::Fleet, queued(3))]);
    let in_use = || used(&budgets, &Scope::Fleet, Meter::QueuedTasks);
    let gate = Gate::new();
    let fleet = builder(&budgets).build().unwrap();
    fleet.spawn(gated(&gate)).unwrap();
    let key = |number: u64| Task::new(number).idempotency_key(IdempotencyKey::new(number.into()));
    let first = fleet.submit(key(1)).unwrap();
    let batch = |numbers: &[u64]| numbers.iter().map(|number| key(*number)).collect::<Vec<_>>();
    let refused = fleet.submit_batch(batch(&[1, 2, 3, 4])).unwrap_err();
    assert_eq!((refusal(&refused).used, in_use()), (3, 1));
    assert_eq!(refused.into_inner().len(), 4);
    let handles = fleet.submit_batch(batch(&[1, 2, 3])).unwrap();
    assert_eq!((handles[0].id(), in_use()), (first.id(), 3));
    assert!(fleet.submit(key(2)).is_ok(), "it is known, and costs nothing");
    gate.open();
    for handle in &handles {
        let _ = handle.wait();
    }
    assert_eq!(in_use(), 0);
    finish(&fleet);
}

#[test]
fn a_task_for_one_agent_is_charged_to_it_and_to_its_type() {
    let gate = Gate::new();
    let kind = Scope::Type(Arc::from("gated"));
    let budgets = budgets(&[(kind.clone(), queued(2))]);
    let fleet = builder(&budgets).build().unwrap();
    let agents = fleet.spawn_batch(&gated(&gate), 2).unwrap();
    budgets.set(Scope::Agent(agents[0]), queued(1)).unwrap();
    let to = |agent| fleet.submit(Task::new(1).to(agents[agent]));
    let first = to(0).unwrap();
    assert_eq!(refusal(&to(0).unwrap_err()).scope, Scope::Agent(agents[0]));
    let second = to(1).unwrap();
    assert_eq!(refusal(&to(1).unwrap_err()).scope, kind);
    let any = fleet.submit(Task::new(1)).unwrap();
    gate.open();
    for handle in [first, second, any] {
        assert_eq!(*handle.wait(), Outcome::Completed(1));
    }
    assert_eq!(used(&budgets, &kind, Meter::QueuedTasks), 0);
    finish(&fleet);
}

#[test]
fn what_is_refused_after_it_was_charged_gives_back_all() {
    let quota = queued(9).limit(token_meter(), Limit::hard(9));
    let budgets = budgets(&[(Scope::Fleet, quota)]);
    let log = SlowLog::new();
    log.gate.open();
    let fleet = builder(&budgets)
        .task_log(log.clone())
        .queue_capacity(NonZeroUsize::new(1).unwrap())
        .build()
        .unwrap();
    let task = || Task::new(1).cost(token_kind(), 3);
    assert!(matches!(fleet.submit(task()), Err(SubmitError::NoAgent(_))));
    fleet.spawn(gated(&Gate::new())).unwrap();
    *log.ledger.refuse_accept.lock().unwrap() = true;
    assert!(matches!(fleet.submit(task()), Err(SubmitError::NotRecorded { .. })));
    assert!(matches!(fleet.submit_batch(vec![task(), task()]), Err(SubmitError::Full(_))));
    for meter in [Meter::QueuedTasks, token_meter()] {
        assert_eq!(used(&budgets, &Scope::Fleet, meter), 0);
    }
    finish(&fleet);
}

#[test]
fn agents_that_are_launched_use_up_launches_and_those_that_are_not_do_not() {
    let launches = Quota::new().limit(Meter::Launches, Limit::hard(5).warn_at(4));
    let kind = Scope::Type(Arc::from("gated"));
    let budgets = budgets(&[(Scope::Fleet, launches), (kind.clone(), launches)]);
    let witness = Witness::new();
    let most = NonZeroUsize::new(4).unwrap();
    let fleet = builder(&budgets).max_agents(most).observer(witness.clone()).build().unwrap();
    let spec = gated(&Gate::new());
    let agents = fleet.spawn_batch(&spec, 3).unwrap();
    fleet.kill(agents[0]).unwrap();
    let refused = fleet.spawn_batch(&spec, 3).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LimitReached);
    assert_eq!(used(&budgets, &kind, Meter::Launches), 3, "what ended stays used");
    // There is a budget for two, and no room for so many agents.
    fleet.spawn(spec.clone()).unwrap();
    fleet.spawn(AgentSpec::new("other")).unwrap();
    assert_eq!(used(&budgets, &Scope::Fleet, Meter::Launches), 5);
    assert_eq!(used(&budgets, &kind, Meter::Launches), 4);
    assert_eq!(fleet.spawn(AgentSpec::new("other")).unwrap_err().kind(), ErrorKind::LimitReached);
    assert_eq!(used(&budgets, &Scope::Fleet, Meter::Launches), 5);
    let told = |event: &&FleetEvent| matches!(event, FleetEvent::BudgetWarning { .. });
    assert_eq!(witness.events().iter().filter(told).count(), 2, "one for each account");
    finish(&fleet);
}

#[test]
fn a_launch_that_fails_gives_its_budget_back() {
    let launches = Quota::new().limit(Meter::Launches, Limit::hard(9));
    let budgets = budgets(&[(Scope::Fleet, launches)]);
    let fleet = builder(&budgets).max_agents(NonZeroUsize::new(2).unwrap()).build().unwrap();
    let refused = fleet.spawn_batch(&gated(&Gate::new()), 3).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LimitReached);
    assert_eq!(used(&budgets, &Scope::Fleet, Meter::Launches), 0);
}

#[test]
fn threads_that_submit_at_a_limit_never_overshoot_it() {
    let budgets = budgets(&[(Scope::Fleet, queued(5)), (Scope::Group(TEAM), queued(3))]);
    let fleet = Fleet::builder().workers(2).budgets(budgets.clone()).build().unwrap();
    let quick = AgentSpec::<u64, u64>::new("quick").handler_fn(|task, _| Ok(*task.payload()));
    fleet.spawn_batch(&quick.max_leases(NonZeroU32::new(2).unwrap()), 2).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let (fleet, over) = (&fleet, &over);
            scope.spawn(move || {
                let mut done = 0;
                while done < 200 {
                    let task = Task::new(thread);
                    let task = if thread == 0 { task } else { task.group(TEAM) };
                    match fleet.submit(task) {
                        Ok(handle) => {
                            done += 1;
                            if done % 3 == 0 {
                                let _ = handle.cancel();
                            }
                        }
                        Err(SubmitError::OverBudget { .. }) => std::thread::yield_now(),
                        Err(other) => panic!("{other:?}"),
                    }
                }
                over.store(true, Ordering::SeqCst);
            });
        }
    });
    assert!(over.load(Ordering::SeqCst));
    let report = finish(&fleet);
    assert_eq!(report.accepted, 600);
    for (scope, most) in [(Scope::Fleet, 5), (Scope::Group(TEAM), 3)] {
        let usage = budgets.account(&scope).unwrap().usage(Meter::QueuedTasks).unwrap();
        assert_eq!(usage.used, 0);
        assert!(usage.peak <= most, "{usage:?}");
    }
}

#[test]
fn of_two_with_one_new_key_and_room_for_one_the_second_gets_the_task_of_the_first() {
    let quota = Quota::new().limit(Meter::QueuedTasks, Limit::hard(1).warn_at(1));
    let budgets = budgets(&[(Scope::Fleet, quota)]);
    let (charged, gate) = (Gate::new(), Gate::new());
    let observer = {
        let charged = Arc::clone(&charged);
        Arc::new(move |event: &FleetEvent| {
            if matches!(event, FleetEvent::BudgetWarning { .. }) {
                charged.pass();
            }
        })
    };
    let fleet = builder(&budgets).observer(observer).build().unwrap();
    fleet.spawn(gated(&gate)).unwrap();
    let keyed = |number| Task::new(number).idempotency_key(IdempotencyKey::new(7));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| fleet.submit(keyed(1)).unwrap());
        // It has taken the last room, and nobody has its handle yet.
        charged.await_arrivals(1);
        let never_waits = fleet.submit(keyed(2)).unwrap_err();
        assert!(matches!(never_waits, SubmitError::KeyPending(_)), "{never_waits:?}");
        let second = scope.spawn(|| fleet.submit_wait(keyed(3)).unwrap());
        charged.open();
        let (first, second) = (first.join().unwrap(), second.join().unwrap());
        assert_eq!(first.id(), second.id());
        let other = Task::new(4).idempotency_key(IdempotencyKey::new(8));
        let refused = fleet.submit(other).unwrap_err();
        refusal(&refused);
        gate.open();
        assert_eq!(*second.wait(), Outcome::Completed(1));
        let again = fleet.submit(refused.into_inner()).expect("its key stayed free");
        assert_eq!(*again.wait(), Outcome::Completed(4));
    });
    let stats = fleet.stats();
    assert_eq!((stats.tasks_accepted, stats.tasks_refused, stats.tasks_repeated), (2, 2, 1));
    finish(&fleet);
}
