//! Leases are charged to budgets: never overshot, given back however a lease ends, and who waits is served.

use std::future::Future;
use std::num::{NonZeroU32, NonZeroUsize};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use phalanx::ManualClock;
use phalanx::fleet::{
    AgentSpec, AgentStatus, AllocateError, Budgets, Exceeded, Fleet, FleetEvent, GroupKey,
    LeaseOutcome, Limit, Meter, Observer, Outcome, Picker, Quota, Request, Scope, Task, Usage,
};

use super::support::{Gate, LONG};

const TEAM: GroupKey = GroupKey::new(7);
const OTHERS: GroupKey = GroupKey::new(8);

fn budgets() -> Budgets {
    Budgets::new(NonZeroUsize::new(1000).unwrap())
}

fn leases(most: u64) -> Quota {
    Quota::new().limit(Meter::Leases, Limit::hard(most))
}

fn usage(budgets: &Budgets, scope: &Scope) -> Usage {
    budgets.account(scope).unwrap().usage(Meter::Leases).unwrap()
}

fn used(budgets: &Budgets, scope: &Scope) -> u64 {
    usage(budgets, scope).used
}

fn named(name: &str) -> Scope {
    Scope::Type(Arc::from(name))
}

fn spec(name: &str, places: u32) -> AgentSpec<(), ()> {
    AgentSpec::new(name).max_leases(NonZeroU32::new(places).unwrap())
}

fn fleet(budgets: &Budgets) -> Fleet {
    Fleet::builder().strict().budgets(budgets.clone()).build().unwrap()
}

fn refused<T>(result: Result<T, AllocateError>) -> Exceeded {
    match result {
        Err(AllocateError::OverBudget(exceeded)) => *exceeded,
        Err(error) => panic!("refused for another reason: {error}"),
        Ok(_) => panic!("it was granted"),
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A future, and whether it was woken.
struct Waiting<F> {
    future: F,
    flag: Arc<Flag>,
}

impl<F: Future + Unpin> Waiting<F> {
    fn begin(mut future: F) -> Self {
        let flag = Arc::<Flag>::default();
        let waker = Waker::from(Arc::clone(&flag));
        assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
        Self { future, flag }
    }

    fn is_woken(&self) -> bool {
        self.flag.0.load(Ordering::SeqCst)
    }

    fn answer(mut self) -> F::Output {
        assert!(self.is_woken(), "nobody woke it");
        match Pin::new(&mut self.future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => answer,
            Poll::Pending => panic!("woken for nothing"),
        }
    }
}

#[test]
fn a_lease_is_charged_to_all_of_its_accounts_or_to_none() {
    let budgets = budgets();
    let fleet = fleet(&budgets);
    let agent = fleet.spawn(spec("scout", 10)).unwrap();
    let scopes = [Scope::Fleet, Scope::Group(TEAM), named("scout"), Scope::Agent(agent)];
    for scope in &scopes {
        budgets.set(scope.clone(), leases(2)).unwrap();
    }
    let request = Request::any().group(TEAM);
    let first = fleet.try_allocate(&request).unwrap();
    let second = fleet.try_allocate(&request).unwrap();
    for scope in &scopes {
        assert_eq!(used(&budgets, scope), 2);
    }
    // Each of them alone stands in the way, and then none of the others is charged.
    for (full, scope) in scopes.iter().enumerate() {
        for (at, scope) in scopes.iter().enumerate() {
            budgets.set(scope.clone(), leases(if at == full { 2 } else { 3 })).unwrap();
        }
        let exceeded = refused(fleet.try_allocate(&request));
        assert_eq!((&exceeded.scope, exceeded.meter), (scope, Meter::Leases));
        assert!(scopes.iter().all(|scope| used(&budgets, scope) == 2));
    }
    // Somebody of another group pays for the rest of them.
    budgets.set(Scope::Agent(agent), leases(3)).unwrap();
    let third = fleet.try_allocate(&Request::any().group(OTHERS)).unwrap();
    assert_eq!(used(&budgets, &Scope::Group(TEAM)), 2);
    assert_eq!(used(&budgets, &Scope::Fleet), 3);
    drop((first, second, third));
    assert!(scopes.iter().all(|scope| used(&budgets, scope) == 0));
}

#[test]
fn a_lease_gives_back_what_it_paid_once_however_it_ends() {
    let budgets = budgets();
    budgets.set(Scope::Fleet, leases(3)).unwrap();
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<(), ()>::builder().clock(clock).budgets(budgets.clone()).build().unwrap();
    let used = || used(&budgets, &Scope::Fleet);
    let agent = fleet.spawn(spec("scout", 8)).unwrap();

    fleet.try_allocate(&Request::any()).unwrap().complete(LeaseOutcome::Succeeded).unwrap();
    assert_eq!(used(), 0);
    drop(fleet.try_allocate(&Request::any()).unwrap());
    assert_eq!(used(), 0);

    // It expires, and its holder comes back late.
    let timed = Request::any().ttl(Duration::from_secs(1));
    let (noticed, unnoticed) =
        (fleet.try_allocate(&timed).unwrap(), fleet.try_allocate(&timed).unwrap());
    assert_eq!(used(), 2);
    hand.advance(Duration::from_secs(2));
    unnoticed.complete(LeaseOutcome::Succeeded).unwrap_err();
    assert_eq!(used(), 1);
    assert_eq!(fleet.tick(), 1);
    assert_eq!(used(), 0);
    noticed.complete(LeaseOutcome::Succeeded).unwrap_err();
    assert_eq!(used(), 0);

    // One that was renewed pays until it expires then.
    let mut renewed = fleet.try_allocate(&timed).unwrap();
    renewed.renew(Duration::from_secs(5)).unwrap();
    hand.advance(Duration::from_secs(4));
    assert_eq!((fleet.tick(), used()), (0, 1));
    hand.advance(Duration::from_secs(2));
    assert_eq!((fleet.tick(), used()), (1, 0));

    // Its agent is killed; the next agent of the slot owes nothing to it.
    let held: Vec<_> = (0..3).map(|_| fleet.try_allocate(&timed).unwrap()).collect();
    assert_eq!(used(), 3);
    fleet.kill(agent).unwrap();
    assert_eq!(used(), 0);
    fleet.spawn(spec("scout", 8)).unwrap();
    let again = fleet.try_allocate(&Request::any()).unwrap();
    drop(held);
    assert_eq!(used(), 1);
    drop(again);

    // A batch that does not fit is not charged, and one that does is.
    let over = refused(fleet.try_allocate_batch(&Request::any(), 4));
    assert_eq!((over.scope, used()), (Scope::Fleet, 0));
    let batch = fleet.try_allocate_up_to(&Request::any(), 4).unwrap();
    assert_eq!((batch.len(), used()), (3, 3));
    drop(batch);
    assert_eq!(used(), 0);

    // The fleet ends.
    let last = fleet.try_allocate(&Request::any()).unwrap();
    fleet.shutdown(LONG).unwrap();
    assert_eq!(used(), 0);
    drop(last);
    assert_eq!(used(), 0);
}

#[test]
fn agents_whose_type_has_no_budget_are_passed_over_for_others_that_fit() {
    for shards in [1, 4] {
        let budgets = budgets();
        let shards = NonZeroUsize::new(shards).unwrap();
        let builder = Fleet::<(), ()>::builder().shards(shards).budgets(budgets.clone());
        let fleet = builder.build().unwrap();
        fleet.spawn_batch(&spec("dear", 2), 4).unwrap();
        // After they were spawned, and before the others are.
        budgets.set(named("dear"), leases(3)).unwrap();
        let cheap = fleet.spawn_batch(&spec("cheap", 2), 4).unwrap();
        let held: Vec<_> = (0..11).map(|_| fleet.try_allocate(&Request::any()).unwrap()).collect();
        assert_eq!(used(&budgets, &named("dear")), 3);
        let by_cheap = held.iter().filter(|lease| cheap.contains(&lease.agent())).count();
        assert_eq!(by_cheap, 8);
        assert_eq!(refused(fleet.try_allocate(&Request::any())).scope, named("dear"));
        // Without the account there is no limit.
        budgets.remove(&named("dear")).unwrap();
        let more: Vec<_> = (0..5).map(|_| fleet.try_allocate(&Request::any()).unwrap()).collect();
        assert_eq!(fleet.try_allocate(&Request::any()).map(drop), Err(AllocateError::NoneIdle));
        drop((held, more));
        assert_eq!(fleet.stats().leases_live, 0);
    }
}

#[test]
fn a_request_refused_by_a_budget_is_served_when_there_is_room_in_it() {
    let budgets = budgets();
    for scope in [Scope::Fleet, Scope::Group(TEAM), named("scout")] {
        budgets.set(scope.clone(), leases(1)).unwrap();
        let fleet = fleet(&budgets);
        fleet.spawn(spec("scout", 9)).unwrap();
        let request = Request::any().group(TEAM);
        let held = fleet.try_allocate(&request).unwrap();
        let waits = Waiting::begin(fleet.allocate_async(&request));
        let gives_up = Waiting::begin(fleet.allocate_async(&request));
        let next = Waiting::begin(fleet.allocate_async(&request));
        drop(held);
        let granted = waits.answer().unwrap();
        assert_eq!(used(&budgets, &scope), 1);
        // One that was granted and gives up passes on the budget too.
        drop(granted);
        assert!(gives_up.is_woken());
        drop(gives_up);
        let granted = next.answer().unwrap();
        assert_eq!(used(&budgets, &scope), 1);
        drop(granted);
        assert_eq!(used(&budgets, &scope), 0);

        // What the host holds counts as well, and a limit that is raised.
        let account = match &scope {
            Scope::Fleet => budgets.payer(&[]),
            other => budgets.payer(std::slice::from_ref(other)),
        };
        let reserved = account.reserve(Meter::Leases, 1).unwrap();
        let (first, second) = (
            Waiting::begin(fleet.allocate_async(&request)),
            Waiting::begin(fleet.allocate_async(&request)),
        );
        drop(reserved);
        let first = first.answer().unwrap();
        assert!(!second.is_woken());
        budgets.set(scope.clone(), leases(2)).unwrap();
        let second = second.answer().unwrap();
        let third = Waiting::begin(fleet.allocate_async(&request));
        budgets.remove(&scope).unwrap();
        drop((first, second, third.answer().unwrap()));
    }
}

#[test]
fn a_full_budget_of_one_group_keeps_no_other_group_waiting() {
    let budgets = budgets();
    budgets.set(Scope::Group(TEAM), leases(1)).unwrap();
    let fleet = fleet(&budgets);
    fleet.spawn(spec("scout", 2)).unwrap();
    let ours = fleet.try_allocate(&Request::any().group(TEAM)).unwrap();
    let theirs = fleet.try_allocate(&Request::any().group(OTHERS)).unwrap();
    let first = Waiting::begin(fleet.allocate_async(&Request::any().group(TEAM)));
    let second = Waiting::begin(fleet.allocate_async(&Request::any().group(OTHERS)));
    drop(theirs);
    assert!(!first.is_woken(), "its group has a lease");
    let theirs = second.answer().unwrap();
    drop(ours);
    let ours = first.answer().unwrap();
    assert_eq!(used(&budgets, &Scope::Group(TEAM)), 1);
    drop((ours, theirs));
}

#[test]
fn batches_wait_for_a_budget_and_none_holds_what_the_other_waits_for() {
    let budgets = budgets();
    budgets.set(Scope::Fleet, leases(2)).unwrap();
    let fleet = fleet(&budgets);
    fleet.spawn(spec("scout", 2).capability("look")).unwrap();
    fleet.spawn(spec("smith", 2).capability("make")).unwrap();
    let held = [
        fleet.try_allocate(&Request::any()).unwrap(),
        fleet.try_allocate(&Request::any()).unwrap(),
    ];
    let look = Request::any().capability("look");
    let make = Request::any().capability("make");
    let first = Waiting::begin(fleet.allocate_batch_async(&look, 2));
    let second = Waiting::begin(fleet.allocate_batch_async(&make, 2));
    let single = Waiting::begin(fleet.allocate_async(&make));
    let [one, other] = held;
    drop(one);
    assert!(!first.is_woken() && !second.is_woken() && !single.is_woken());
    drop(other);
    let leases = first.answer().unwrap();
    assert_eq!((leases.len(), used(&budgets, &Scope::Fleet)), (2, 2));
    drop(leases);
    drop(second.answer().unwrap());
    drop(single.answer().unwrap());
    assert_eq!(used(&budgets, &Scope::Fleet), 0);
}

#[test]
fn what_a_batch_gathers_is_charged_to_the_accounts_that_there_are_as_it_is_gathered() {
    let budgets = budgets();
    let fleet = fleet(&budgets);
    fleet.spawn(spec("worker", 3)).unwrap();
    let held = [(); 3].map(|()| fleet.try_allocate(&Request::any()).unwrap());
    let batch = Waiting::begin(fleet.allocate_batch_async(&Request::any(), 3));
    let [one, other, third] = held;
    drop(one);
    // One place is gathered, and there was no account; the next two find them.
    budgets.set(Scope::Fleet, leases(2)).unwrap();
    assert_eq!(used(&budgets, &Scope::Fleet), 0, "what is held already is not charged");
    drop(other);
    assert_eq!(used(&budgets, &Scope::Fleet), 1);
    budgets.set(named("worker"), leases(1)).unwrap();
    assert!(!batch.is_woken());
    drop(third);
    let paid = || (used(&budgets, &Scope::Fleet), used(&budgets, &named("worker")));
    assert_eq!(paid(), (2, 1));
    let mut leases = batch.answer().unwrap();
    assert_eq!((leases.len(), paid()), (3, (2, 1)), "it is collected at no further charge");
    // In whatever order they go, each gives back what it paid itself.
    for left in [(2, 1), (1, 1), (0, 0)] {
        drop(leases.remove(0));
        assert_eq!(paid(), left);
    }
}

#[test]
fn who_is_served_as_others_leave_pays_from_accounts_that_came_while_it_waited() {
    let budgets = budgets();
    let fleet = fleet(&budgets);
    fleet.spawn(spec("scout", 2).capability("look")).unwrap();
    fleet.spawn(spec("smith", 2).capability("make")).unwrap();
    let (look, make) = (Request::any().capability("look"), Request::any().capability("make"));
    let _held = fleet.try_allocate(&look).unwrap();
    let made = fleet.try_allocate(&make).unwrap();
    // The first gathers, and the second has to wait for it.
    let first = Waiting::begin(fleet.allocate_batch_async(&look, 2));
    let second = Waiting::begin(fleet.allocate_batch_async(&make, 2));
    drop(made);
    assert!(!second.is_woken());
    budgets.set(named("smith"), leases(1)).unwrap();
    drop(first);
    assert!(!second.is_woken(), "it may have one of two");
    assert_eq!(used(&budgets, &named("smith")), 1);
    budgets.set(named("smith"), leases(2)).unwrap();
    let leases = second.answer().unwrap();
    assert_eq!((leases.len(), used(&budgets, &named("smith"))), (2, 2));
}

#[test]
fn a_grant_that_is_made_anew_as_its_agent_ends_pays_from_accounts_that_came_meanwhile() {
    let budgets = budgets();
    let fleet = fleet(&budgets);
    let first = fleet.spawn(spec("worker", 1)).unwrap();
    let held = fleet.try_allocate(&Request::any()).unwrap();
    let waits = Waiting::begin(fleet.allocate_async(&Request::any()));
    drop(held);
    assert!(waits.is_woken());
    fleet.spawn(spec("worker", 1)).unwrap();
    budgets.set(named("worker"), leases(1)).unwrap();
    fleet.kill(first).unwrap();
    assert_eq!(used(&budgets, &named("worker")), 1);
    drop(waits.answer().unwrap());
    assert_eq!(used(&budgets, &named("worker")), 0);
}

#[test]
fn a_queued_task_pays_from_the_account_of_a_type_that_came_after_its_agent() {
    let budgets = budgets();
    let seen = budgets.clone();
    let fleet = Fleet::<(), u64>::builder().driven().budgets(budgets.clone()).build().unwrap();
    let spec = AgentSpec::new("worker");
    fleet.spawn(spec.handler_fn(move |_, _| Ok(used(&seen, &named("worker"))))).unwrap();
    let mut before = None;
    for _ in 0..2 {
        budgets.set(named("worker"), leases(1)).unwrap();
        let task = fleet.submit(Task::new(())).unwrap();
        assert_eq!(fleet.run_ready(usize::MAX), 1);
        assert_eq!(task.try_outcome().as_deref(), Some(&Outcome::Completed(1)));
        assert_eq!(used(&budgets, &named("worker")), 0);
        // The next one's agent knows this account still.
        let account = budgets.remove(&named("worker")).unwrap();
        assert_eq!(account.usage(Meter::Leases).unwrap().peak, 1);
        assert!(
            before.replace(account).is_none_or(|of| of.usage(Meter::Leases).unwrap().used == 0)
        );
    }
}

#[test]
fn two_fleets_share_a_budget_and_serve_each_other() {
    let budgets = budgets();
    budgets.set(Scope::Fleet, leases(1)).unwrap();
    let (one, other) = (fleet(&budgets), fleet(&budgets));
    one.spawn(spec("scout", 1)).unwrap();
    other.spawn(spec("scout", 1)).unwrap();
    let held = one.try_allocate(&Request::any()).unwrap();
    let waits = Waiting::begin(other.allocate_async(&Request::any()));
    drop(held);
    drop(waits.answer().unwrap());
    assert_eq!(used(&budgets, &Scope::Fleet), 0);
}

#[test]
fn tasks_and_messages_wait_for_the_budget_and_use_no_more() {
    let budgets = budgets();
    budgets.set(Scope::Fleet, leases(1)).unwrap();
    let gate = Gate::new();
    let pass = Arc::clone(&gate);
    let fleet = Fleet::<u32, u32>::builder().workers(3).budgets(budgets.clone()).build().unwrap();
    let agent = AgentSpec::new("worker").max_leases(NonZeroU32::new(4).unwrap());
    let agent = agent.handler_fn(move |task, _| {
        pass.pass();
        Ok(*task.payload())
    });
    let agent = fleet.spawn(agent).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    let mut tasks: Vec<_> = (0..6).map(|n| fleet.submit(Task::new(n)).unwrap()).collect();
    tasks.push(fleet.submit(Task::new(6).to(agent)).unwrap());
    drop(lease);
    for n in 1..=7 {
        gate.await_arrivals(n);
        assert_eq!(used(&budgets, &Scope::Fleet), 1);
        gate.permit();
    }
    let outcomes: Vec<_> = tasks.iter().map(|task| (*task.wait()).clone()).collect();
    assert_eq!(outcomes, (0..7).map(Outcome::Completed).collect::<Vec<_>>());
    fleet.shutdown(LONG).unwrap();
    let usage = usage(&budgets, &Scope::Fleet);
    assert_eq!((usage.used, usage.peak), (0, 1));
}

#[derive(Default)]
struct Heard(Mutex<Vec<(Scope, u64)>>);

impl Observer for Heard {
    fn notice(&self, event: &FleetEvent) {
        if let FleetEvent::BudgetWarning { warning } = event {
            self.0.lock().unwrap().push((warning.scope.clone(), warning.soft));
        }
    }
}

#[test]
fn a_soft_line_is_told_once_each_time_it_is_crossed() {
    let budgets = budgets();
    let quota = Quota::new().limit(Meter::Leases, Limit::hard(3).warn_at(2));
    budgets.set(Scope::Group(TEAM), quota).unwrap();
    let heard = Arc::<Heard>::default();
    let observer: Arc<dyn Observer> = Arc::<Heard>::clone(&heard);
    let fleet = Fleet::<(), ()>::builder().budgets(budgets).observer(observer).build().unwrap();
    fleet.spawn(spec("scout", 4)).unwrap();
    let request = Request::any().group(TEAM);
    let told = || heard.0.lock().unwrap().len();
    let first = fleet.try_allocate(&request).unwrap();
    assert_eq!(told(), 0);
    let second = fleet.try_allocate(&request).unwrap();
    let third = fleet.try_allocate(&request).unwrap();
    assert_eq!(told(), 1);
    drop((second, third));
    let waited = fleet.allocate(&request).unwrap();
    assert_eq!(*heard.0.lock().unwrap(), vec![(Scope::Group(TEAM), 2); 2]);
    drop((first, waited));
}

#[test]
fn threads_that_meet_at_a_limit_never_overshoot_it_and_each_gets_its_turn() {
    const THREADS: usize = 4;
    const TURNS: usize = 200;
    let budgets = budgets();
    budgets.set(Scope::Fleet, leases(3)).unwrap();
    budgets.set(named("dear"), leases(1)).unwrap();
    budgets.set(Scope::Group(TEAM), leases(1)).unwrap();
    let fleet = Fleet::<(), ()>::builder().budgets(budgets.clone()).build().unwrap();
    fleet.spawn_batch(&spec("dear", 2), 2).unwrap();
    fleet.spawn_batch(&spec("cheap", 2), 2).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let fleet = &fleet;
            scope.spawn(move || {
                let group = if thread % 2 == 0 { TEAM } else { OTHERS };
                for turn in 0..TURNS {
                    let request = Request::any().group(group);
                    if turn % 7 == 0 {
                        let _ = fleet.try_allocate(&request);
                    }
                    drop(fleet.allocate_timeout(&request, LONG).unwrap());
                }
            });
        }
    });
    for scope in [Scope::Fleet, named("dear"), Scope::Group(TEAM)] {
        let usage = usage(&budgets, &scope);
        assert!(usage.used == 0 && usage.peak <= usage.hard, "{scope}: {usage:?}");
    }
    assert_eq!(fleet.stats().leases_live, 0);
}

#[test]
fn a_request_that_is_refused_counts_once_however_many_agents_it_looked_at() {
    let budgets = budgets();
    let scope = named("dear");
    budgets.set(scope.clone(), leases(1)).unwrap();
    let shards = NonZeroUsize::new(8).unwrap();
    let fleet: Fleet = Fleet::builder().shards(shards).budgets(budgets.clone()).build().unwrap();
    // In each shard two sets of capabilities.
    fleet.spawn_batch(&spec("dear", 2), 8).unwrap();
    fleet.spawn_batch(&spec("dear", 2).capability("more"), 8).unwrap();
    let held = fleet.try_allocate(&Request::any()).unwrap();
    let counted = || usage(&budgets, &scope).refused;
    assert_eq!(counted(), 0);
    refused(fleet.try_allocate(&Request::any()));
    assert_eq!(counted(), 1);
    refused(fleet.try_allocate(&Request::any().agent(held.agent())));
    refused(fleet.try_allocate_batch(&Request::any(), 3));
    assert_eq!(counted(), 3);
    let first: Arc<dyn Picker> = Arc::new(First);
    refused(fleet.try_allocate(&Request::any().picker(first)));
    assert_eq!(counted(), 4);
    let waits = Waiting::begin(fleet.allocate_async(&Request::any()));
    assert_eq!(counted(), 5, "it found no room, and waits for some");
    drop(held);
    drop(waits);
    assert_eq!((counted(), used(&budgets, &scope)), (5, 0));
    let fleet_wide = budgets.set(Scope::Fleet, leases(0)).unwrap();
    refused(fleet.try_allocate(&Request::any()));
    assert_eq!(fleet_wide.usage(Meter::Leases).unwrap().refused, 1);
}

struct First;

impl Picker for First {
    fn pick(&self, _: &Request, _: &[AgentStatus]) -> Option<usize> {
        Some(0)
    }
}
