//! The pool at its limits: names, sets, leases; and what it says of those who starve.

use super::*;
use crate::Error;

/// Agents without capabilities, or with those named.
pub(super) fn join(
    pool: &Pool,
    capabilities: &[Arc<str>],
    limit: u16,
    count: usize,
) -> Result<Vec<AgentId>, Error> {
    let newcomers = Newcomers {
        name: &Arc::from("agent"),
        capabilities,
        runs_tasks: false,
        priority: Priority::NORMAL,
        limit,
        labels: &[],
        resources: Resources::default(),
        condition: Condition::Fit,
        era: None,
    };
    let mut wakes = Vec::new();
    let joined = pool.insert(&newcomers, count, &mut wakes);
    Both::wake(wakes);
    joined
}

pub(super) fn pool_of(max_agents: usize, shards: usize, strategy: Strategy) -> Arc<Pool> {
    let limit = |count| NonZeroUsize::new(count).expect("not zero");
    let kept = Kept::new(&[strategy]).expect("one strategy");
    Pool::new(PoolConfig {
        max_agents: limit(max_agents),
        max_waiting: limit(8),
        shards,
        kept,
        clock: Clock::real(),
        budgets: None,
        ageing: None,
    })
}

#[test]
fn a_capability_beyond_the_last_is_refused_and_takes_nothing() {
    let mut desk = Desk::new(1, 1);
    let names: Vec<Arc<str>> = (0..MAX_CAPABILITIES).map(|n| Arc::from(n.to_string())).collect();
    let all = desk.intern(&names, 0, 1, 1).expect("as many as there may be");
    assert_eq!(all, Mask::MAX & !RUNS_TASKS, "one bit each, and bit 0 left alone");
    let one_more = [Arc::from("one"), Arc::from("0")];
    assert_eq!(desk.intern(&one_more, 0, 1, 1).map_err(|e| e.kind()), Err(ErrorKind::LimitReached));
    assert_eq!(desk.mask_of(&[Arc::from("one")]), (0, false));
    assert_eq!(desk.mask_of(&[Arc::from("0")]), (2, true));
}

#[test]
fn agents_that_are_refused_use_up_no_capability_names() {
    let pool = pool_of(1, 1, Strategy::LeastLoaded);
    join(&pool, &[], 1, 1).expect("there is room");
    let name = |n: usize| -> Arc<str> { Arc::from(n.to_string()) };
    let lost: Vec<_> = (0..100).map(name).collect();
    assert_eq!(join(&pool, &lost, 1, 1).map_err(|e| e.kind()), Err(ErrorKind::LimitReached));
    let agent = pool.ids()[0];
    pool.remove(agent, &mut Vec::new()).expect("it lives");
    let others: Vec<_> = (100..100 + MAX_CAPABILITIES).map(name).collect();
    join(&pool, &others, 1, 1).expect("nobody has any of the names");
}

#[test]
fn live_agents_have_as_many_sets_of_capabilities_as_there_may_be_and_no_more() {
    let pool = pool_of(MAX_CAPABILITY_SETS + 1, 2, Strategy::LeastLoaded);
    let names: Vec<Arc<str>> = (0..13).map(|n: u8| Arc::from(n.to_string())).collect();
    let set = |bits: usize| -> Vec<Arc<str>> {
        (0..13).filter(|bit| bits >> bit & 1 == 1).map(|bit| Arc::clone(&names[bit])).collect()
    };
    let agents: Vec<_> = (0..MAX_CAPABILITY_SETS)
        .map(|bits| join(&pool, &set(bits), 1, 1).expect("there is room")[0])
        .collect();
    let one_more = set(MAX_CAPABILITY_SETS);
    assert_eq!(join(&pool, &one_more, 1, 1).map_err(|e| e.kind()), Err(ErrorKind::LimitReached));
    for bits in [0, 1, MAX_CAPABILITY_SETS - 1] {
        let request = set(bits).iter().fold(Request::any(), Request::capability);
        let lease = pool.try_allocate(&request.fit(Fit::Tightest)).expect("it is idle");
        assert_eq!(lease.agent(), agents[bits], "the last class is found as the first is");
    }
    pool.remove(agents[7], &mut Vec::new()).expect("it lives");
    join(&pool, &one_more, 1, 1).expect("a set is free again");
}

#[test]
fn agents_are_told_apart_by_what_more_than_64_capabilities_come_to() {
    let names: Vec<Arc<str>> = (0..70).map(|n: u8| Arc::from(n.to_string())).collect();
    let others = [&names[..66], &names[67..]].concat();
    for shards in [1, 2] {
        let pool = pool_of(2, shards, Strategy::LeastLoaded);
        let has_all = join(&pool, &names, 1, 1).expect("there is room")[0];
        let lacks_one = join(&pool, &others, 1, 1).expect("there is room")[0];
        // All that one after the other are found for a request.
        let found = |fit, asked: &[usize]| -> Vec<AgentId> {
            let asked = asked.iter().map(|at| &names[*at]);
            let request = asked.fold(Request::any().fit(fit), Request::capability);
            let mut held = Vec::new();
            while let Ok(lease) = pool.try_allocate(&request) {
                held.push(lease);
            }
            held.iter().map(Lease::agent).collect()
        };
        for fit in [Fit::All, Fit::Tightest, Fit::BestFraction] {
            assert_eq!(found(fit, &[66]), [has_all], "{fit:?}");
        }
        for fit in [Fit::All, Fit::Tightest] {
            assert_eq!(found(fit, &[3, 66]), [has_all], "{fit:?}");
        }
        assert_eq!(found(Fit::All, &[3, 65]).len(), 2);
        assert_eq!(found(Fit::Tightest, &[3]), [lacks_one, has_all], "it has one less");
        assert_eq!(found(Fit::BestFraction, &[3, 66]), [has_all, lacks_one]);
        pool.validate();
        // Where all are alike it is not known from that either.
        pool.remove(has_all, &mut Vec::new()).expect("it lives");
        for fit in [Fit::All, Fit::Tightest, Fit::BestFraction] {
            assert_eq!(found(fit, &[66]), [], "{fit:?}");
        }
        assert_eq!(found(Fit::BestFraction, &[3, 66]), [lacks_one]);
    }
}

#[test]
fn an_agent_gives_as_many_leases_as_any_may_and_takes_them_all_back() {
    let pool = pool_of(1, 1, Strategy::LeastLoaded);
    let most = u16::try_from(MAX_LEASES_PER_AGENT).expect("it fits in a row");
    join(&pool, &[], most, 1).expect("there is room");
    let mut leases: Vec<_> = (0..most).map(|_| pool.try_allocate(&Request::any())).collect();
    assert!(leases.iter().all(Result::is_ok));
    let one_more = pool.try_allocate(&Request::any()).map(drop);
    assert_eq!(one_more, Err(AllocateError::NoneIdle));
    pool.validate();
    drop(leases.pop());
    pool.validate();
    drop(leases);
    pool.validate();
    assert_eq!(pool.tally().leases.held(), 0);
    pool.close(&mut Vec::new());
}

#[test]
fn nobody_is_told_that_workers_starve_once_what_they_starved_for_is_cancelled() {
    use crate::fleet::{AgentSpec, Fleet, Task};

    let fleet = Fleet::<(), ()>::builder().workers(1).build().expect("the thread starts");
    fleet.spawn(AgentSpec::new("worker").handler_fn(|_, _| Ok(()))).expect("there is room");
    let lease = fleet.try_allocate(&Request::any()).expect("it is idle");
    let handle = fleet.submit(Task::new(())).expect("there is room");
    let attention = || fleet.inner().pool.attention.load(Ordering::Relaxed);
    while attention() == 0 {
        std::thread::yield_now();
    }
    assert!(handle.cancel());
    drop(lease);
    assert_eq!(attention(), 0, "each lease that comes back would tell workers in vain");
}

#[test]
fn workers_that_starve_for_room_in_the_account_of_a_type_are_told_as_there_is_some() {
    use crate::fleet::{AgentSpec, Budgets, Fleet, Limit, Meter, Quota, Scope, Task};

    let budgets = Budgets::new(NonZeroUsize::MIN);
    let scope = Scope::Type("worker".into());
    let quota = Quota::new().limit(Meter::Leases, Limit::hard(1));
    budgets.set(scope.clone(), quota).expect("the limit is valid");
    let elsewhere = budgets.payer(&[scope]).reserve(Meter::Leases, 1).expect("there is room");
    let fleet = Fleet::<u64, u64>::builder().workers(1).budgets(budgets).build();
    let fleet = fleet.expect("the thread starts");
    let spec = AgentSpec::new("worker").handler_fn(|task, _| Ok(*task.payload()));
    fleet.spawn(spec).expect("there is room");
    let handle = fleet.submit(Task::new(7)).expect("there is room");
    while fleet.inner().pool.attention.load(Ordering::Relaxed) == 0 {
        std::thread::yield_now();
    }
    drop(elsewhere);
    assert_eq!(handle.wait().completed(), Some(&7));
}

#[test]
fn workers_do_not_starve_for_what_no_live_agent_could_do() {
    use crate::fleet::{AgentSpec, Fleet, Task};

    let fleet = Fleet::<u64, u64>::builder().driven().build().expect("the values are valid");
    let runs =
        |name| AgentSpec::new(name).capability(name).handler_fn(|task, _| Ok(*task.payload()));
    let rust = fleet.spawn(runs("rust")).expect("there is room");
    let handle = fleet.submit(Task::new(7).capability("rust")).expect("there is room");
    let lease = fleet.try_allocate(&Request::any()).expect("it is idle");
    let attention = || fleet.inner().pool.attention.load(Ordering::Relaxed);
    assert_eq!((fleet.run_ready(1), attention()), (0, 1), "it is busy, and may come back");
    fleet.kill(rust).expect("it lives");
    fleet.spawn(runs("cobol")).expect("there is room");
    assert_eq!((fleet.run_ready(1), attention()), (0, 0), "nobody who could comes back");
    drop(lease);
    fleet.spawn(runs("rust")).expect("there is room");
    fleet.run_ready(1);
    assert_eq!(handle.wait().completed(), Some(&7));
}

#[test]
fn as_many_sets_of_capabilities_are_expected_as_there_may_be_and_no_more() {
    let mut desk = Desk::new(1, 1);
    let name = |n: usize| -> Arc<str> { Arc::from(n.to_string()) };
    let set = |bits: usize| -> Vec<Arc<str>> {
        (0..12).filter(|bit| bits >> bit & 1 == 1).map(name).collect()
    };
    let all: Vec<_> = (0..MAX_CAPABILITY_SETS).map(|bits| desk.expect(&set(bits), 0, 1)).collect();
    let all: Vec<_> = all.into_iter().map(|promise| promise.expect("as many as may be")).collect();
    let mut refusal =
        |names: &[Arc<str>], limit| desk.expect(names, 0, limit).map_err(|error| error.kind());
    assert_eq!(refusal(&[name(12)], 1), Err(ErrorKind::LimitReached));
    assert_eq!(refusal(&set(7), 2), Err(ErrorKind::LimitReached), "a sort of its own");
    assert_eq!(refusal(&set(0), 1), Ok(all[0]), "it is no other sort");
    assert_eq!(desk.mask_of(&[name(12)]), (0, false), "what is refused uses up no name");
    assert!(!desk.expect_no_more(all[0]), "once is left");
    assert!(desk.expect_no_more(all[0]));
    desk.expect(&[name(12)], 0, 1).expect("there is one less");
}
