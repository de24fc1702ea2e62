//! Budgets against a naive model, at the edges of the numbers, and from many threads.

use std::num::NonZeroUsize;
use std::sync::Barrier;

use proptest::prelude::*;

use super::*;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::thread;

const LEASES: Meter = Meter::Leases;
const TOKENS: Meter = Meter::Units(Unit(0));

fn budgets() -> Budgets {
    Budgets::new(NonZeroUsize::MAX)
}

fn leases(limit: Limit) -> Quota {
    Quota::new().limit(LEASES, limit)
}

fn group(number: u64) -> Scope {
    Scope::Group(GroupKey::new(number))
}

fn used(account: &Account, meter: Meter) -> u64 {
    account.usage(meter).expect("the account has the meter").used
}

#[test]
fn a_reservation_pays_from_all_accounts_or_from_none() {
    let budgets = budgets();
    let fleet = budgets.set(Scope::Fleet, leases(Limit::hard(10))).expect("it is valid");
    let team = budgets.set(group(1), leases(Limit::hard(3))).expect("it is valid");
    let payer = budgets.payer(&[group(1)]);
    let held = payer.reserve(LEASES, 2).expect("it fits");
    assert_eq!((used(&fleet, LEASES), used(&team, LEASES)), (2, 2));

    let refused = payer.reserve(LEASES, 2).expect_err("it does not fit");
    assert_eq!(
        refused.to_string(),
        "group 1 may have 3 leases, has 2 and cannot have 2 more",
        "the group refuses, and the fleet has paid nothing"
    );
    assert_eq!((used(&fleet, LEASES), used(&team, LEASES)), (2, 2));
    assert_eq!(team.usage(LEASES).expect("it has the meter").refused, 1);
    assert_eq!(fleet.usage(LEASES).expect("it has the meter").refused, 0);
    drop(held);
    assert_eq!((used(&fleet, LEASES), used(&team, LEASES)), (0, 0));
}

#[test]
fn a_scope_or_a_meter_without_a_limit_is_free() {
    let budgets = budgets();
    let fleet = budgets.set(Scope::Fleet, leases(Limit::hard(0))).expect("it is valid");
    assert!(fleet.usage(TOKENS).is_none());
    let payer = budgets.payer(&[group(1)]);
    assert!(payer.is_metered(LEASES) && !payer.is_metered(TOKENS));
    let mut free = payer.reserve(TOKENS, u64::MAX).expect("it fits");
    assert!(free.grow(u64::MAX).expect("it fits").is_empty());
    assert!(free.spend(u64::MAX).expect("it fits").is_empty());
    assert!(payer.reserve(LEASES, 1).is_err(), "nothing is a limit too");
    assert_eq!(payer.reserve(LEASES, 0).expect("it fits").amount(), 0, "nothing fits everywhere");
}

#[test]
fn the_greatest_numbers_neither_wrap_nor_overshoot() {
    let budgets = budgets();
    let fleet = budgets.set(Scope::Fleet, leases(Limit::hard(u64::MAX))).expect("it is valid");
    let payer = budgets.payer(&[]);
    let one = payer.reserve(LEASES, 1).expect("it fits");
    assert!(payer.reserve(LEASES, u64::MAX).is_err());
    assert!(payer.reserve(LEASES, GREATEST_LIMIT).is_err());
    let most = payer.reserve(LEASES, GREATEST_LIMIT - 1).expect("it fits");
    assert_eq!(used(&fleet, LEASES), GREATEST_LIMIT);
    assert!(payer.reserve(LEASES, 1).is_err());
    drop((one, most));
    assert_eq!(used(&fleet, LEASES), 0);
    assert_eq!(fleet.usage(LEASES).expect("it has the meter").peak, GREATEST_LIMIT);
}

#[test]
fn each_crossing_of_the_soft_line_is_told_once() {
    let budgets = budgets();
    let fleet = budgets.set(Scope::Fleet, leases(Limit::hard(4).warn_at(2))).expect("it is valid");
    let payer = budgets.payer(&[]);
    let mut first = payer.reserve(LEASES, 1).expect("it fits");
    assert_eq!(first.take_warnings(), []);
    let mut second = payer.reserve(LEASES, 1).expect("it fits");
    let warning = Warning { scope: Scope::Fleet, meter: LEASES, soft: 2 };
    assert_eq!(second.take_warnings(), std::slice::from_ref(&warning));
    assert_eq!(second.take_warnings(), [], "told already");
    assert_eq!(
        payer.reserve(LEASES, 1).expect("it fits").take_warnings(),
        [],
        "over it before and after"
    );
    drop(second);
    assert_eq!(first.grow(1).expect("it fits"), [warning], "it came down and up again");
    let usage = fleet.usage(LEASES).expect("it has the meter");
    assert_eq!((usage.warnings, usage.soft), (2, Some(2)));
}

#[test]
fn a_warning_names_the_line_that_was_crossed_even_if_it_was_moved_since() {
    let budgets = budgets();
    budgets.set(Scope::Fleet, leases(Limit::hard(4).warn_at(2))).expect("it is valid");
    let mut held = budgets.payer(&[]).reserve(LEASES, 2).expect("it fits");
    budgets.set(Scope::Fleet, leases(Limit::hard(4))).expect("it is valid");
    assert_eq!(held.take_warnings(), [Warning { scope: Scope::Fleet, meter: LEASES, soft: 2 }]);
}

#[test]
fn a_payer_is_cloned_for_one_reference_count() {
    assert_eq!(size_of::<Payer>(), size_of::<usize>());
}

#[test]
fn what_is_spent_stays_used_until_it_is_reset() {
    let budgets = budgets();
    let quota = Quota::new().limit(TOKENS, Limit::hard(100).warn_at(95));
    let fleet = budgets.set(Scope::Fleet, quota).expect("it is valid");
    let payer = budgets.payer(&[]);
    let mut call = payer.reserve(TOKENS, 50).expect("it fits");
    assert_eq!(call.spend(30), Ok(vec![]));
    assert_eq!(call.amount(), 20);
    assert_eq!(call.give_back(5), 5);
    assert_eq!(
        call.spend(80).expect_err("it does not fit").requested,
        65,
        "15 are held, and 65 are not there"
    );
    assert_eq!(call.amount(), 15, "a refused spending spends nothing");
    assert_eq!(call.spend(70).expect("it fits").len(), 1, "55 more are reserved, over the line");
    assert_eq!(call.give_back(u64::MAX), 0);
    drop(call);
    let usage = fleet.usage(TOKENS).expect("it has the meter");
    assert_eq!((usage.used, usage.spent, usage.peak), (100, 100, 100));
    let held = payer.reserve(TOKENS, 0).expect("it fits");
    assert!(payer.reserve(TOKENS, 1).is_err());
    assert_eq!(fleet.reset_spent(TOKENS), 100);
    assert_eq!(fleet.reset_spent(TOKENS), 0);
    assert!(payer.reserve(TOKENS, 100).is_ok());
    drop(held);
    assert_eq!(used(&fleet, TOKENS), 0);
}

#[test]
fn a_limit_may_be_moved_and_takes_nothing_away() {
    let budgets = budgets();
    let fleet = budgets.set(Scope::Fleet, leases(Limit::hard(4))).expect("it is valid");
    let payer = budgets.payer(&[]);
    let held = payer.reserve(LEASES, 3).expect("it fits");
    budgets.set(Scope::Fleet, leases(Limit::hard(2).warn_at(1))).expect("it is valid");
    assert_eq!(used(&fleet, LEASES), 3);
    assert!(payer.reserve(LEASES, 1).is_err());
    drop(held);
    assert_eq!(payer.reserve(LEASES, 2).expect("it fits").take_warnings().len(), 1);
    assert!(payer.reserve(LEASES, 3).is_err());

    let other = budgets.set(Scope::Fleet, Quota::new().limit(TOKENS, Limit::hard(1)));
    assert_eq!(other.expect_err("it is refused").kind(), ErrorKind::Conflict);
    assert_eq!(
        fleet.usage(LEASES).expect("it has the meter").hard,
        2,
        "what was refused changed nothing"
    );
}

#[test]
fn a_soft_line_that_nothing_could_cross_is_refused() {
    let budgets = budgets();
    for limit in [Limit::hard(5).warn_at(0), Limit::hard(5).warn_at(6)] {
        let refused = budgets.set(Scope::Fleet, leases(limit)).expect_err("it is refused");
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    }
    assert!(budgets.is_empty());
    assert!(budgets.set(Scope::Fleet, leases(Limit::hard(5).warn_at(5))).is_ok());
}

#[test]
fn there_are_no_more_accounts_than_there_may_be() {
    let budgets = Budgets::new(NonZeroUsize::MIN);
    budgets.set(group(1), leases(Limit::hard(1))).expect("it is valid");
    let refused = budgets.set(group(2), leases(Limit::hard(1))).expect_err("it is refused");
    assert_eq!(refused.kind(), ErrorKind::LimitReached);
    budgets.set(group(1), leases(Limit::hard(2))).expect("that one is there already");
    assert!(budgets.remove(&group(1)).is_some());
    assert!(budgets.account(&group(1)).is_none());
    budgets.set(group(2), leases(Limit::hard(1))).expect("there is room again");
    assert_eq!(budgets.len(), 1);
    let scopes: Vec<_> = budgets.accounts().iter().map(|one| one.scope().clone()).collect();
    assert_eq!(scopes, [group(2)]);
}

#[test]
fn no_more_types_and_agents_than_there_may_be_have_a_limit_on_leases() {
    let budgets = budgets();
    let kind = |number: usize| Scope::Type(number.to_string().into());
    // Neither a group, nor a type whose leases are not limited, is one of them.
    budgets.set(group(1), leases(Limit::hard(1))).expect("it is valid");
    let tokens = Quota::new().limit(TOKENS, Limit::hard(1));
    budgets.set(kind(MAX_METERED_KINDS), tokens).expect("it is valid");
    assert!(budgets.metered_kinds().is_empty());
    for number in 0..MAX_METERED_KINDS {
        budgets.set(kind(number), leases(Limit::hard(1))).expect("there is room");
    }
    assert_eq!(budgets.metered_kinds().len(), MAX_METERED_KINDS);
    let agent = Scope::Agent(AgentId { slot: 0, generation: 0 });
    let refused = budgets.set(agent.clone(), leases(Limit::hard(1))).expect_err("they are all");
    assert_eq!(refused.kind(), ErrorKind::LimitReached);
    budgets.set(group(2), leases(Limit::hard(1))).expect("a group is no such kind");
    budgets.remove(&kind(0)).expect("it has an account");
    budgets.set(agent, leases(Limit::hard(1))).expect("there is room again");
}

/// Counts how often it was told of room.
struct Told(AtomicU64);

impl Relief for Told {
    fn relieve(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn who_waits_for_room_is_told_for_as_long_as_it_lives_and_forgotten_then() {
    let budgets = budgets();
    let watcher = || Arc::new(Told(AtomicU64::new(0)));
    let (gone, first, second) = (watcher(), watcher(), watcher());
    for one in [&gone, &first] {
        budgets.watch(Arc::downgrade(one) as Weak<dyn Relief>);
    }
    drop(gone);
    budgets.watch(Arc::downgrade(&second) as Weak<dyn Relief>);
    assert_eq!(budgets.shared.watchers.0.read().len(), 2);
    budgets.tell_watchers();
    assert_eq!([&first, &second].map(|one| one.0.load(Ordering::Relaxed)), [1, 1]);
}

#[test]
fn an_account_that_was_removed_is_settled_by_those_who_hold_it() {
    let budgets = budgets();
    let old = budgets.set(group(1), leases(Limit::hard(2))).expect("it is valid");
    let payer = budgets.payer(&[group(1)]);
    let held = payer.reserve(LEASES, 2).expect("it fits");
    budgets.remove(&group(1));
    let new = budgets.set(group(1), leases(Limit::hard(1))).expect("it is valid");
    assert_eq!((used(&old, LEASES), used(&new, LEASES)), (2, 0));
    drop(held);
    assert_eq!((used(&old, LEASES), used(&new, LEASES)), (0, 0));
}

#[test]
fn a_payer_has_one_account_of_each_kind() {
    let budgets = budgets();
    let agent = |slot| Scope::Agent(AgentId { slot, generation: 0 });
    let scopes = [Scope::Fleet, group(1), Scope::Type("coder".into()), agent(1)];
    for scope in &scopes {
        budgets.set(scope.clone(), leases(Limit::hard(9))).expect("it is valid");
    }
    let used = |scope| used(&budgets.account(scope).expect("it has an account"), LEASES);
    let held = budgets.payer(&scopes).reserve(LEASES, 4).expect("it fits");
    assert_eq!(scopes.each_ref().map(used), [4; 4], "the fleet pays once");
    drop(held);
    assert_eq!(scopes.each_ref().map(used), [0; 4]);
    budgets.set(group(2), leases(Limit::hard(9))).expect("it is valid");
    let held = budgets.payer(&[group(1), group(2)]).reserve(LEASES, 2).expect("it fits");
    assert_eq!((used(&group(1)), used(&group(2))), (0, 2), "the later one pays");
    drop(held);
}

#[test]
fn a_sole_account_is_the_only_one_of_a_payer_that_has_the_meter() {
    let budgets = budgets();
    let both = leases(Limit::hard(9)).limit(TOKENS, Limit::hard(9));
    budgets.set(Scope::Fleet, both).expect("it is valid");
    budgets.set(group(1), leases(Limit::hard(9))).expect("it is valid");
    let payer = budgets.payer(&[group(1)]);
    assert!(payer.sole_account(LEASES).is_none(), "two have it");
    assert_eq!(payer.sole_account(TOKENS).map(Account::scope), Some(&Scope::Fleet));
    assert!(payer.sole_account(Meter::QueuedTasks).is_none(), "none has it");
}

#[test]
fn the_kinds_of_units_are_those_that_have_a_place() {
    assert_eq!(Unit::new(UNIT_KINDS), None);
    assert_eq!(Unit::new(2).map(Unit::get), Some(2));
    assert_eq!(Unit::new(UNIT_KINDS - 1).map(Meter::Units).map(Meter::index), Some(METERS - 1));
}

/// Threads that take and give back at random never see more in use than there may be.
#[test]
fn from_many_threads_no_limit_is_overshot_and_every_unit_comes_back() {
    let budgets = budgets();
    let limits = [7, 5, 3];
    let scopes = [Scope::Fleet, group(1), Scope::Type("coder".into())];
    let accounts: Vec<_> = std::iter::zip(&scopes, limits)
        .map(|(scope, hard)| {
            budgets.set(scope.clone(), leases(Limit::hard(hard))).expect("it is valid")
        })
        .collect();
    let start = Barrier::new(4);
    let done = AtomicBool::new(false);
    thread::scope(|threads| {
        let workers: Vec<_> = (0..3_u64)
            .map(|number| {
                let (budgets, scopes, start) = (&budgets, &scopes, &start);
                threads.spawn(move || {
                    let payer = match number {
                        0 => budgets.payer(&scopes[1..2]),
                        1 => budgets.payer(&scopes[2..]),
                        _ => budgets.payer(scopes),
                    };
                    start.wait();
                    let mut held = Vec::new();
                    let mut granted = 0;
                    for round in 0..4_000_u64 {
                        match payer.reserve(LEASES, 1 + (round + number) % 3) {
                            Ok(reservation) => {
                                granted += 1;
                                held.push(reservation);
                            }
                            Err(refused) => {
                                assert!(refused.used <= refused.hard);
                                thread::yield_now();
                            }
                        }
                        if held.len() > 1 || round % 3 == 0 {
                            held.pop();
                        }
                    }
                    granted
                })
            })
            .collect();
        threads.spawn(|| {
            start.wait();
            while !done.load(Ordering::Relaxed) {
                for (account, hard) in accounts.iter().zip(limits) {
                    assert!(used(account, LEASES) <= hard);
                }
            }
        });
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        // Before anything here may panic: the scope waits for the one that looks on.
        done.store(true, Ordering::Relaxed);
        let granted: u64 =
            ended.into_iter().map(|granted| granted.expect("no worker panics")).sum();
        assert!(granted > 0);
    });
    for (account, hard) in accounts.iter().zip(limits) {
        let usage = account.usage(LEASES).expect("it has the meter");
        assert_eq!(usage.used, 0);
        assert!(usage.peak <= hard, "{usage:?}");
    }
}

/// What a naive reader of the rules would keep.
#[derive(Clone, Debug, Default)]
struct Oracle {
    reserved: u128,
    spent: u128,
    hard: u128,
    soft: Option<u128>,
    warnings: u64,
    refused: u64,
    peak: u128,
}

impl Oracle {
    fn used(&self) -> u128 {
        self.reserved + self.spent
    }
}

#[derive(Clone, Debug)]
enum Step {
    Reserve { payer: usize, amount: u64 },
    Grow { which: usize, amount: u64 },
    Spend { which: usize, amount: u64 },
    GiveBack { which: usize, amount: u64 },
    Drop { which: usize },
    Reset { account: usize },
    Adjust { account: usize, hard: u64, soft: Option<u64> },
}

fn amounts() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..12_u64,
        1 => Just(u64::MAX),
        1 => Just(u64::MAX - 1),
        1 => Just(u64::MAX / 2),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let which = 0..8_usize;
    prop_oneof![
        6 => (0..8_usize, amounts()).prop_map(|(payer, amount)| Step::Reserve { payer, amount }),
        2 => (which.clone(), amounts()).prop_map(|(which, amount)| Step::Grow { which, amount }),
        3 => (which.clone(), amounts()).prop_map(|(which, amount)| Step::Spend { which, amount }),
        2 => (which.clone(), amounts()).prop_map(|(which, amount)| Step::GiveBack { which, amount }),
        4 => which.prop_map(|which| Step::Drop { which }),
        1 => (0..4_usize).prop_map(|account| Step::Reset { account }),
        1 => (0..4_usize, amounts(), proptest::option::of(amounts()))
            .prop_map(|(account, hard, soft)| Step::Adjust { account, hard, soft }),
    ]
}

/// All of the accounts of a payer take so much, or none; the lines they cross.
fn naive_take(oracles: &mut [Oracle; 4], members: &[usize], amount: u64) -> Option<Vec<usize>> {
    if amount == 0 {
        return Some(Vec::new());
    }
    let amount = u128::from(amount);
    let full = members.iter().find(|member| {
        let oracle = &oracles[**member];
        oracle.used() + amount > oracle.hard
    });
    if let Some(full) = full {
        oracles[*full].refused += 1;
        return None;
    }
    let mut crossed = Vec::new();
    for member in members {
        let oracle = &mut oracles[*member];
        let before = oracle.used();
        oracle.reserved += amount;
        oracle.peak = oracle.peak.max(oracle.used());
        if oracle.soft.is_some_and(|soft| before < soft && soft <= oracle.used()) {
            oracle.warnings += 1;
            crossed.push(*member);
        }
    }
    Some(crossed)
}

fn lines(warnings: &[Warning]) -> Vec<usize> {
    warnings.iter().map(|warning| warning.scope.place()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_books_agree_with_a_naive_model(
        hards in proptest::array::uniform4(amounts()),
        script in proptest::collection::vec(steps(), 1..80),
    ) {
        let budgets = budgets();
        let agent = Scope::Agent(AgentId { slot: 3, generation: 1 });
        let scopes = [Scope::Fleet, group(1), Scope::Type("coder".into()), agent];
        let quota = |limit| Quota::new().limit(TOKENS, limit);
        let mut oracles: [Oracle; 4] = std::array::from_fn(|index| {
            let limit = Limit::hard(hards[index]);
            budgets.set(scopes[index].clone(), quota(limit)).expect("it is valid");
            Oracle { hard: u128::from(limit.hard), ..Oracle::default() }
        });
        // The fleet always pays; bits say who else.
        let payers: Vec<(Payer, Vec<usize>)> = (0..8_usize)
            .map(|bits| {
                let others: Vec<_> = (1..4).filter(|place| bits & (1 << (place - 1)) != 0).collect();
                let scopes: Vec<_> = others.iter().map(|place| scopes[*place].clone()).collect();
                (budgets.payer(&scopes), std::iter::once(0).chain(others).collect())
            })
            .collect();
        let mut held: Vec<(Reservation, Vec<usize>)> = Vec::new();
        for step in script {
            match step {
                Step::Reserve { payer, amount } => {
                    let (payer, members) = &payers[payer];
                    let expected = naive_take(&mut oracles, members, amount);
                    match payer.reserve(TOKENS, amount) {
                        Ok(mut reservation) => {
                            prop_assert_eq!(Some(lines(&reservation.take_warnings())), expected);
                            held.push((reservation, members.clone()));
                        }
                        Err(refused) => {
                            prop_assert_eq!(expected, None);
                            prop_assert!(refused.warnings.is_empty());
                        }
                    }
                }
                Step::Grow { which, amount } if which < held.len() => {
                    let (reservation, members) = &mut held[which];
                    let expected = naive_take(&mut oracles, members, amount);
                    let grown = reservation.grow(amount).ok();
                    prop_assert_eq!(grown.map(|warnings| lines(&warnings)), expected);
                }
                Step::Spend { which, amount } if which < held.len() => {
                    let (reservation, members) = &mut held[which];
                    let missing = amount.saturating_sub(reservation.amount());
                    let expected = naive_take(&mut oracles, members, missing);
                    if expected.is_some() {
                        for member in members.iter() {
                            oracles[*member].reserved -= u128::from(amount);
                            oracles[*member].spent += u128::from(amount);
                        }
                    }
                    let spent = reservation.spend(amount).ok();
                    prop_assert_eq!(spent.map(|warnings| lines(&warnings)), expected);
                }
                Step::GiveBack { which, amount } if which < held.len() => {
                    let (reservation, members) = &mut held[which];
                    let expected = amount.min(reservation.amount());
                    prop_assert_eq!(reservation.give_back(amount), expected);
                    for member in members.iter() {
                        oracles[*member].reserved -= u128::from(expected);
                    }
                }
                Step::Drop { which } if which < held.len() => {
                    let (reservation, members) = held.swap_remove(which);
                    for member in members {
                        oracles[member].reserved -= u128::from(reservation.amount());
                    }
                }
                Step::Reset { account } => {
                    let there = budgets.account(&scopes[account]).expect("it has an account");
                    let spent = std::mem::take(&mut oracles[account].spent);
                    prop_assert_eq!(u128::from(there.reset_spent(TOKENS)), spent);
                }
                Step::Adjust { account, hard, soft } => {
                    let mut limit = Limit::hard(hard);
                    limit.soft = soft;
                    let adjusted = budgets.set(scopes[account].clone(), quota(limit)).is_ok();
                    prop_assert_eq!(adjusted, soft.is_none_or(|soft| (1..=limit.hard).contains(&soft)));
                    if adjusted {
                        oracles[account].hard = u128::from(limit.hard);
                        oracles[account].soft = soft.map(u128::from);
                    }
                }
                _ => {}
            }
            for (scope, oracle) in scopes.iter().zip(&oracles) {
                let usage = budgets.account(scope).expect("it has an account").usage(TOKENS).expect("it has the meter");
                prop_assert_eq!(u128::from(usage.used), oracle.used());
                prop_assert_eq!(u128::from(usage.spent), oracle.spent);
                prop_assert_eq!(u128::from(usage.peak), oracle.peak);
                prop_assert_eq!(usage.warnings, oracle.warnings);
                prop_assert_eq!(usage.refused, oracle.refused);
                prop_assert_eq!(usage.rolled_back, 0);
            }
        }
        held.clear();
        for (scope, oracle) in scopes.iter().zip(&oracles) {
            let usage = budgets.account(scope).expect("it has an account").usage(TOKENS).expect("it has the meter");
            prop_assert_eq!(u128::from(usage.used), oracle.spent, "all but what was spent is back");
        }
    }
}
