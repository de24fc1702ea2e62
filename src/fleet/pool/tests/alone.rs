//! Pools in which one strategy decides alone among agents that are alike, with budgets and leases that expire, against
//! a scan.

use super::limits::join;
use super::*;
use crate::fleet::lease::Stale;

struct Row {
    id: AgentId,
    load: u16,
    changed: u64,
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
    let row = |(id, changed)| Row { id, load: 0, changed };
    let mut rows: Vec<_> = agents.into_iter().zip(0..).map(row).collect();
    let (mut count, mut now, mut serial) = (rows.len() as u64, 0, 0);
    let mut taken: Vec<Taken> = Vec::new();
    let mut change = |rows: &mut Vec<Row>, agent: AgentId, up: bool| {
        let row = rows.iter_mut().find(|row| row.id == agent).expect("nobody leaves");
        row.load = if up { row.load + 1 } else { row.load - 1 };
        (row.changed, count) = (count, count + 1);
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
                let best = free.min_by_key(|row| (rank(row), row.changed)).map(|row| row.id);
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
                        change(&mut rows, lease.agent(), true);
                        taken.push(Taken { lease, due, grouped });
                    }
                    Err(AllocateError::NoneIdle) => assert_eq!(best, None),
                    Err(AllocateError::OverBudget(_)) => assert!(!room),
                    Err(error) => panic!("{error}"),
                }
            }
            4 | 5 if !taken.is_empty() => {
                let ended = taken.swap_remove(which % taken.len());
                change(&mut rows, ended.lease.agent(), false);
                match what {
                    4 => ended.lease.complete(LeaseOutcome::Succeeded).expect("it is good"),
                    _ => drop(ended.lease),
                }
            }
            6 if next.is_some() => {
                let due = next.expect("just seen");
                hand.advance(due - now);
                now = due;
                let at = taken.iter().position(|taken| taken.due == next).expect("just seen");
                let lease = taken.swap_remove(at).lease;
                change(&mut rows, lease.agent(), false);
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn where_one_strategy_decides_alone_each_lease_is_the_one_that_a_scan_finds_and_budgets_count_it(
        by in prop::sample::select(vec![Strategy::LeastLoaded, Strategy::Priority, Strategy::Performance]),
        places in 1..3_u16,
        deeds in prop::collection::vec((0..7_u8, 0..8_usize, proptest::bool::ANY, proptest::bool::ANY), 1..80),
    ) {
        run(by, places, deeds);
    }
}
