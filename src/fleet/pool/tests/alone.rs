//! Pools in which one strategy decides alone among agents that are alike, with budgets and leases that expire, against
//! a scan.

use super::limits::{join, pool_of};
use super::steps::{Step, step};
use super::*;
use crate::fleet::lease::Stale;

struct Row {
    id: AgentId,
    load: u16,
    changed: u64,
    came_back: bool,
    turn: u64,
}

struct Taken {
    lease: Lease,
    due: Option<u64>,
    grouped: bool,
}

/// What to do, with which of the leases, for the group, and for some time.
type Deed = (u8, usize, bool, bool);

fn run(by: Strategy, places: u16, deeds: Vec<Deed>) {
    let limit = |count| NonZeroUsize::new(count).expect("not zero");
    let (clock, hand) = Hand::new();
    let budgets = Budgets::new(limit(2));
    let quota = |hard| Quota::new().limit(Meter::Leases, Limit::hard(hard));
    let group = GroupKey::new(1);
    let all = budgets.set(Scope::Fleet, quota(5)).expect("there is room");
    let own = budgets.set(Scope::Group(group), quota(3)).expect("there is room");
    let pool = Pool::new(PoolConfig {
        max_agents: limit(4),
        max_waiting: limit(1),
        shards: 1,
        kept: Kept::new(&[by]).expect("one strategy"),
        clock,
        budgets: Some(budgets),
        ageing: None,
    });
    let agents = join(&pool, &[], places, 4).expect("there is room");
    let row = |(id, changed)| Row { id, load: 0, changed, came_back: false, turn: changed };
    let mut rows: Vec<_> = agents.into_iter().zip(0..).map(row).collect();
    let (mut count, mut now, mut serial) = (rows.len() as u64, 0, 0);
    let mut taken: Vec<Taken> = Vec::new();
    // Up, or down after it went well or not.
    let mut change = |rows: &mut Vec<Row>, agent: AgentId, up: bool, well: bool| {
        let row = rows.iter_mut().find(|row| row.id == agent).expect("nobody leaves");
        let was_full = row.load == places;
        row.load = if up { row.load + 1 } else { row.load - 1 };
        row.turn = if up || was_full { count } else { row.turn };
        (row.changed, row.came_back, count) = (count, !up && well, count + 1);
    };
    for (what, which, grouped, timed) in deeds {
        let next = taken.iter().filter_map(|taken| taken.due).min();
        match what {
            0..4 => {
                let rank = |row: &Row| match by {
                    Strategy::LeastLoaded => u32::from(row.load),
                    Strategy::Performance => pool.shards[0].lock().past(row.id.slot),
                    Strategy::Priority | Strategy::RoundRobin => 0,
                };
                let free = rows.iter().filter(|row| row.load < places);
                let age = |row: &Row| match by {
                    Strategy::LeastLoaded if row.came_back => (0, u64::MAX - row.changed),
                    Strategy::RoundRobin => (1, row.turn),
                    _ => (1, row.changed),
                };
                let best = free.min_by_key(|row| (rank(row), age(row))).map(|row| row.id);
                let of_group = taken.iter().filter(|taken| taken.grouped).count();
                let room = taken.len() < 5 && (!grouped || of_group < 3);
                let mut request = Request::any();
                if grouped {
                    request = request.group(group);
                }
                // No two are due at the same moment.
                let due = timed.then(|| {
                    serial += 1;
                    let ttl = 64 * TICK_NS * serial;
                    request = std::mem::take(&mut request).ttl(Duration::from_nanos(ttl));
                    now + ttl
                });
                match pool.try_allocate(&request) {
                    Ok(lease) => {
                        assert_eq!((Some(lease.agent()), true), (best, room));
                        change(&mut rows, lease.agent(), true, true);
                        taken.push(Taken { lease, due, grouped });
                    }
                    Err(AllocateError::NoneIdle) => assert_eq!(best, None),
                    Err(AllocateError::OverBudget(_)) => assert!(!room),
                    Err(error) => panic!("{error}"),
                }
            }
            4 | 5 if !taken.is_empty() => {
                let ended = taken.swap_remove(which % taken.len());
                let fails = what == 5 && timed;
                change(&mut rows, ended.lease.agent(), false, !fails);
                match what {
                    4 => ended.lease.complete(LeaseOutcome::Succeeded).expect("it is good"),
                    _ if fails => ended.lease.complete(LeaseOutcome::Failed).expect("it is good"),
                    _ => drop(ended.lease),
                }
            }
            6 if next.is_some() => {
                let due = next.expect("just seen");
                hand.advance(due - now);
                now = due;
                let at = taken.iter().position(|taken| taken.due == next).expect("just seen");
                let lease = taken.swap_remove(at).lease;
                change(&mut rows, lease.agent(), false, false);
                if grouped {
                    assert_eq!(pool.expire_due(), 1);
                }
                let late = lease.complete(LeaseOutcome::Succeeded);
                assert!(matches!(late, Err(Stale { expired: true, .. })), "{late:?}");
            }
            _ => {}
        }
        pool.validate();
        for row in &rows {
            assert_eq!(pool.status(row.id).expect("nobody leaves").load, u32::from(row.load));
        }
        let of_group = taken.iter().filter(|taken| taken.grouped).count();
        let used = |account: &crate::fleet::Account| {
            account.usage(Meter::Leases).expect("it is metered").used as usize
        };
        assert_eq!((used(&all), used(&own)), (taken.len(), of_group));
    }
}

/// A pool of one agent with so many places, and budgets for two groups.
fn with_two_groups(places: u16) -> (Arc<Pool>, Budgets, [GroupKey; 2]) {
    let limit = |count| NonZeroUsize::new(count).expect("not zero");
    let budgets = Budgets::new(limit(8));
    let groups = [GroupKey::new(1), GroupKey::new(2)];
    for group in groups {
        budgets.set(Scope::Group(group), ample()).expect("there is room");
    }
    let pool = Pool::new(PoolConfig {
        max_agents: limit(1),
        max_waiting: limit(1),
        shards: 1,
        kept: Kept::new(&[Strategy::LeastLoaded]).expect("one strategy"),
        clock: Clock::real(),
        budgets: Some(budgets.clone()),
        ageing: None,
    });
    join(&pool, &[], places, 1).expect("there is room");
    (pool, budgets, groups)
}

fn ample() -> Quota {
    Quota::new().limit(Meter::Leases, Limit::hard(1_000))
}

#[test]
fn groups_that_ask_in_turn_are_each_written_down_once_for_all_their_leases() {
    let (pool, budgets, groups) = with_two_groups(200);
    let askers = || pool.shards[0].lock().charges.askers();
    let in_turn = |count: usize| -> Vec<Lease> {
        let request = |n: usize| Request::any().group(groups[n % 2]);
        (0..count).map(|n| pool.try_allocate(&request(n)).expect("there is room")).collect()
    };
    let held = in_turn(60);
    pool.validate();
    assert_eq!(askers(), (2, 2), "one for each group");
    budgets.set(Scope::Group(GroupKey::new(3)), ample()).expect("there is room");
    let later = in_turn(60);
    pool.validate();
    assert_eq!(askers(), (4, 4), "and one for each version of the accounts");
    drop(held);
    pool.validate();
    assert_eq!(askers(), (2, 4), "those of the accounts as they were have no leases");
    drop(in_turn(4));
    assert_eq!(askers(), (2, 4), "those who took their places are known");
    drop(later);
    pool.validate();
    assert_eq!(askers(), (1, 4), "who asked last is kept");
    for group in 4..100 {
        let group = GroupKey::new(group % 4 + 3);
        budgets.remove(&Scope::Group(group));
        budgets.set(Scope::Group(group), ample()).expect("there is room");
        drop(in_turn(4));
        pool.validate();
    }
    assert_eq!(askers(), (1, 4), "places are used again");
}

#[test]
fn each_group_gets_back_what_it_paid_for_an_agent_that_several_lease() {
    let (pool, budgets, groups) = with_two_groups(16);
    let used = |group: usize| {
        let account = budgets.account(&Scope::Group(groups[group])).expect("it was set");
        account.usage(Meter::Leases).expect("it has the meter").used
    };
    let lease = |group: usize| {
        let request = Request::any().group(groups[group]);
        let lease = pool.try_allocate(&request).expect("there is room");
        pool.validate();
        lease
    };
    // The first is counted by the agent's row, those of the other group have entries.
    let mut held: Vec<_> = [0, 1, 0, 1, 1].map(lease).into();
    assert_eq!((used(0), used(1)), (2, 3));
    drop(held.remove(3));
    drop(held.remove(0));
    pool.validate();
    assert_eq!((used(0), used(1)), (1, 2));
    drop(held.remove(1));
    pool.validate();
    assert_eq!((used(0), used(1)), (0, 2));
    // The row counts nobody's now, and the next one's from here on.
    held.extend([1, 0, 1].map(lease));
    pool.validate();
    assert_eq!((used(0), used(1)), (1, 4));
    let agent = held[0].agent();
    assert_eq!(pool.remove(agent, &mut Vec::new()), Some(5));
    pool.validate();
    assert_eq!((used(0), used(1)), (0, 0), "they are void as it ends");
    for lease in held {
        lease.complete(LeaseOutcome::Succeeded).expect_err("it is void");
    }
    assert_eq!((used(0), used(1)), (0, 0), "and give nothing back");
}

#[test]
fn agents_that_are_alike_again_are_leased_in_one_step_again() {
    let pool = pool_of(3, 1, Strategy::LeastLoaded);
    let agents = join(&pool, &[], 1, 2).expect("there is room");
    let is_simple = || pool.shards[0].lock().first_plain(Strategy::LeastLoaded).is_some();
    assert!(is_simple());
    for agent in &agents {
        let set = |to| pool.shards[0].lock().set_condition(agent.slot, to, false);
        set(Condition::Degraded);
        assert!(!is_simple(), "one comes after the other");
        set(Condition::Fit);
        pool.validate();
        assert!(is_simple(), "as they were before");
    }
    let other = join(&pool, &[Arc::from("rust")], 1, 1).expect("there is room")[0];
    assert!(!is_simple(), "they are of two sorts");
    pool.remove(other, &mut Vec::new()).expect("it lives");
    pool.validate();
    assert!(is_simple(), "those who are left are alike");
}

/// What it was told of, in order.
#[derive(Default)]
struct Told(Mutex<Vec<&'static str>>);

impl Feed for Told {
    fn feed(&self) {}

    fn freed(&self, _agent: AgentId) {}

    fn lease_due(&self) {
        self.0.lock().push("due");
    }

    fn lease_went(&self, _agent: AgentId, _era: Option<u32>, _well: Option<bool>) {}

    fn lease_freed(&self, _agent: AgentId) {}

    fn requests_wait(&self, _requests: usize) {}

    fn warned(&self, _warnings: Vec<Warning>) {
        self.0.lock().push("cost");
    }
}

#[test]
fn when_a_lease_is_due_is_told_before_what_it_cost() {
    let (pool, budgets, groups) = with_two_groups(4);
    let told = Arc::new(Told::default());
    let feed: Arc<dyn Feed> = Arc::clone(&told) as _;
    pool.set_feed(Arc::downgrade(&feed));
    let near = || Quota::new().limit(Meter::Leases, Limit::hard(9).warn_at(1));
    let lease = |group, secs| {
        budgets.set(Scope::Group(group), near()).expect("there is room");
        let request = Request::any().group(group).ttl(Duration::from_secs(secs));
        pool.try_allocate(&request).expect("there is room")
    };
    let _first = lease(groups[0], 10_000);
    assert_eq!(*told.0.lock(), ["due", "cost"], "one account pays");
    told.0.lock().clear();
    budgets.set(Scope::Fleet, ample()).expect("there is room");
    let _second = lease(groups[1], 1_000);
    assert_eq!(*told.0.lock(), ["due", "cost"], "two do");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn where_one_strategy_is_kept_every_choice_is_the_one_that_a_naive_scan_makes(
        only in prop::sample::select(Strategy::ALL.to_vec()),
        alike in proptest::bool::ANY,
        mut steps in prop::collection::vec(step(), 1..80),
    ) {
        steps.iter_mut().filter_map(Step::asked_mut).for_each(|asked| asked.strategy = only);
        if alike {
            steps.iter_mut().for_each(Step::make_alike);
        }
        Both::of(1, &[only]).run_to_its_end(steps);
    }

    #[test]
    fn where_one_strategy_is_kept_every_choice_across_shards_is_as_near_as_is_stated(
        only in prop::sample::select(Strategy::ALL.to_vec()),
        shards in prop::sample::select(vec![2_usize, 4, 16]),
        alike in proptest::bool::ANY,
        mut steps in prop::collection::vec(step(), 1..80),
    ) {
        steps.iter_mut().filter_map(Step::asked_mut).for_each(|asked| asked.strategy = only);
        if alike {
            steps.iter_mut().for_each(Step::make_alike);
        }
        Both::of(shards, &[only]).run_to_its_end(steps);
    }

    #[test]
    fn where_one_strategy_decides_alone_each_lease_is_the_one_that_a_scan_finds_and_budgets_count_it(
        by in prop::sample::select(Strategy::ALL.to_vec()),
        places in 1..3_u16,
        deeds in prop::collection::vec((0..7_u8, 0..8_usize, proptest::bool::ANY, proptest::bool::ANY), 1..80),
    ) {
        run(by, places, deeds);
    }
}
