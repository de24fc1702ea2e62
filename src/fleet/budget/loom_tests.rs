//! Every interleaving of reservations that meet at a limit, each with a twin that must fail.

use std::num::NonZeroUsize;
use std::sync::Arc;

use super::*;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{explore, thread, weakened};

const LEASES: Meter = Meter::Leases;
const PREEMPTIONS: usize = 3;

fn leases(limit: Limit) -> Quota {
    Quota::new().limit(LEASES, limit)
}

fn usage(budgets: &Budgets, scope: &Scope) -> Usage {
    let account = budgets.account(scope).expect("it was set");
    account.usage(LEASES).expect("it has the meter")
}

/// Two take the last unit of a limit of one; a third looks on.
fn two_take_the_last() {
    let budgets = Budgets::new(NonZeroUsize::MIN);
    budgets.set(Scope::Fleet, leases(Limit::hard(1).warn_at(1))).expect("it is valid");
    let takers: Vec<_> = (0..2)
        .map(|_| {
            let payer = budgets.payer(&[]);
            thread::spawn(move || payer.reserve(LEASES, 1).ok())
        })
        .collect();
    assert!(usage(&budgets, &Scope::Fleet).used <= 1, "overshot");
    let held: Vec<_> = takers.into_iter().filter_map(|taker| taker.join().ok()?).collect();
    assert_eq!(held.len(), 1, "one of two");
    let now = usage(&budgets, &Scope::Fleet);
    assert_eq!((now.used, now.peak, now.warnings, now.refused), (1, 1, 1, 1));
    drop(held);
    assert_eq!(usage(&budgets, &Scope::Fleet).used, 0);
}

#[test]
fn loom_the_last_unit_goes_to_one_and_the_crossing_is_told_once() {
    explore(PREEMPTIONS, two_take_the_last);
}

#[test]
#[should_panic(expected = "one of two")]
fn loom_twin_a_check_apart_from_the_step_overshoots() {
    weakened("budget.one-step", || explore(PREEMPTIONS, two_take_the_last));
}

/// Whoever holds the one unit adds to what the one before has left.
fn a_limit_of_one_is_a_lock() {
    let budgets = Budgets::new(NonZeroUsize::MIN);
    budgets.set(Scope::Fleet, leases(Limit::hard(1))).expect("it is valid");
    let left = Arc::new(AtomicU32::new(0));
    let add = |payer: &Payer, left: &AtomicU32| {
        let Ok(held) = payer.reserve(LEASES, 1) else { return 0 };
        // Relaxed, and in two steps: only the reservation can order it.
        left.store(left.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        drop(held);
        1
    };
    let other = {
        let (payer, left) = (budgets.payer(&[]), Arc::clone(&left));
        thread::spawn(move || add(&payer, &left))
    };
    let mine = add(&budgets.payer(&[]), &left);
    let granted = mine + other.join().expect("a reservation does not panic");
    assert_eq!(left.load(Ordering::Relaxed), granted, "one did not see the other");
}

#[test]
fn loom_what_was_done_under_a_reservation_is_seen_under_the_next() {
    explore(PREEMPTIONS, a_limit_of_one_is_a_lock);
}

#[test]
#[should_panic(expected = "one did not see the other")]
fn loom_twin_a_take_that_does_not_acquire_races() {
    weakened("budget.take", || explore(PREEMPTIONS, a_limit_of_one_is_a_lock));
}

#[test]
#[should_panic(expected = "one did not see the other")]
fn loom_twin_a_give_back_that_does_not_release_races() {
    weakened("budget.give-back", || explore(PREEMPTIONS, a_limit_of_one_is_a_lock));
}

/// Two that share the fleet's account race for the last unit of a group; what one puts back is there.
fn two_for_the_last_unit() {
    let budgets = Budgets::new(NonZeroUsize::MAX);
    let team = Scope::Group(GroupKey::new(1));
    budgets.set(Scope::Fleet, leases(Limit::hard(2).warn_at(2))).expect("it is valid");
    budgets.set(team.clone(), leases(Limit::hard(1))).expect("it is valid");
    let takers: Vec<_> = (0..2)
        .map(|_| {
            let payer = budgets.payer(std::slice::from_ref(&team));
            thread::spawn(move || payer.reserve(LEASES, 1))
        })
        .collect();
    let results: Vec<_> = takers.into_iter().map(|taker| taker.join().expect("no panic")).collect();
    let fleet = usage(&budgets, &Scope::Fleet);
    assert_eq!((fleet.used, usage(&budgets, &team).used), (1, 1), "one got both units");
    let told: usize = results
        .iter()
        .map(|result| result.as_ref().map_or_else(|refused| refused.warnings.len(), |_| 0))
        .sum();
    let mut held: Vec<_> = results.into_iter().filter_map(Result::ok).collect();
    assert_eq!(held.len(), 1);
    let told = told + held[0].take_warnings().len();
    assert_eq!(told as u64, fleet.warnings, "each crossing is told once");
    assert_eq!(fleet.rolled_back > 0, fleet.peak > 1);
    drop(held);
    assert_eq!((usage(&budgets, &Scope::Fleet).used, usage(&budgets, &team).used), (0, 0));
}

#[test]
fn loom_what_was_taken_for_a_reservation_that_failed_is_put_back() {
    explore(PREEMPTIONS, two_for_the_last_unit);
}

#[test]
#[should_panic(expected = "one got both units")]
fn loom_twin_what_a_reservation_that_failed_does_not_put_back_is_lost() {
    weakened("budget.put-back", || explore(PREEMPTIONS, two_for_the_last_unit));
}

/// What one spends while two others reset is given back by one of them, or stays spent.
fn two_resets_and_a_spending() {
    let budgets = Budgets::new(NonZeroUsize::MIN);
    let fleet = budgets.set(Scope::Fleet, leases(Limit::hard(9))).expect("it is valid");
    let mut held = budgets.payer(&[]).reserve(LEASES, 7).expect("it fits");
    held.spend(4).expect("it is held");
    let resets = [fleet.clone(), fleet.clone()]
        .map(|fleet| thread::spawn(move || fleet.reset_spent(LEASES)));
    held.spend(2).expect("it is held");
    let seen = usage(&budgets, &Scope::Fleet);
    assert!(seen.spent <= seen.used, "what was spent is part of what is used");
    let reset: u64 = resets.map(|reset| reset.join().expect("no panic")).iter().sum();
    let usage = usage(&budgets, &Scope::Fleet);
    assert_eq!((reset + usage.spent, usage.used), (6, 7 - reset), "each once");
    drop(held);
    assert_eq!(fleet.reset_spent(LEASES), 6 - reset);
    assert_eq!(fleet.usage(LEASES).expect("it has the meter").used, 0);
}

#[test]
fn loom_what_was_spent_is_given_back_once() {
    explore(PREEMPTIONS, two_resets_and_a_spending);
}

#[test]
#[should_panic(expected = "each once")]
fn loom_twin_a_reset_in_two_steps_gives_back_twice() {
    weakened("budget.reset-in-one-step", || explore(PREEMPTIONS, two_resets_and_a_spending));
}

/// One waits for the only unit while its holder gives it back. Whoever is told sees who waits.
fn a_wait_against_a_return() {
    let budgets = Budgets::new(NonZeroUsize::MIN);
    budgets.set(Scope::Fleet, leases(Limit::hard(1))).expect("it is valid");
    let holder = budgets.payer(&[]);
    holder.take(LEASES, 1, Asking::Once).expect("it is free");
    wait_against(&budgets, || holder.give_back(LEASES, 1));
}

/// One waits for a unit while the limit is raised.
fn a_wait_against_a_higher_limit() {
    let budgets = Budgets::new(NonZeroUsize::MIN);
    let account = budgets.set(Scope::Fleet, leases(Limit::hard(0))).expect("it is valid");
    let higher = leases(Limit::hard(1));
    wait_against(&budgets, || account.adjust(&higher).expect("it has the same meters"));
}

fn wait_against(budgets: &Budgets, give: impl FnOnce() -> bool) {
    let said = Arc::new(AtomicU32::new(0));
    let waiter = {
        let (payer, said) = (budgets.payer(&[]), Arc::clone(&said));
        thread::spawn(move || {
            // Relaxed: only the word in the account can order it.
            said.store(1, Ordering::Relaxed);
            payer.take(LEASES, 1, Asking::Waiting).is_ok()
        })
    };
    let told = give();
    let seen = said.load(Ordering::Relaxed);
    let taken = waiter.join().expect("a reservation does not panic");
    assert!(taken || told, "nobody hears of the room");
    assert!(!told || seen == 1, "it is not seen who waits");
}

#[test]
fn loom_who_waits_for_room_has_it_or_is_told_of_it() {
    explore(PREEMPTIONS, a_wait_against_a_return);
    explore(PREEMPTIONS, a_wait_against_a_higher_limit);
}

#[test]
#[should_panic(expected = "nobody hears of the room")]
fn loom_twin_a_wait_that_is_written_down_later_is_missed() {
    weakened("budget.wait-in-one-step", || explore(PREEMPTIONS, a_wait_against_a_return));
}

#[test]
#[should_panic(expected = "nobody hears of the room")]
fn loom_twin_a_limit_that_is_raised_without_release_is_not_seen() {
    weakened("budget.relieve", || explore(PREEMPTIONS, a_wait_against_a_higher_limit));
}

#[test]
#[should_panic(expected = "it is not seen who waits")]
fn loom_twin_word_that_is_left_without_release_hides_who_waits() {
    weakened("budget.wait", || explore(PREEMPTIONS, a_wait_against_a_return));
}
