//! Tests of the biased lock on the real primitives: who is favoured, by its words, and sums under contention.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::super::{refusing_barriers, thread};
use super::*;

/// Words that favour threads here, if there are any.
fn words() -> Option<Words> {
    Asymmetric::detect().is_free().then(Words::new)
}

fn section(words: &Words, me: usize) -> Hold {
    let hold = words.lock(me);
    words.free(hold);
    hold
}

/// How many sections it takes to be favoured.
fn sections_until_favoured(words: &Words, me: usize) -> usize {
    let most = 2 * PATIENCE_MAX as usize;
    (1..most).find(|_| section(words, me) != Hold::ByWord).unwrap_or(most)
}

fn favoured(words: &Words) -> usize {
    words.bias.favoured.load(Ordering::Relaxed)
}

#[test]
fn a_thread_alone_is_favoured_and_loses_it_to_another_and_wins_it_back() {
    let Some(words) = words() else { return };
    let patience = PATIENCE as usize;
    (0..PATIENCE).for_each(|_| assert_eq!(section(&words, 7), Hold::ByWord));
    assert_eq!(section(&words, 8), Hold::ByWord);
    assert_eq!(sections_until_favoured(&words, 7), patience + 1, "in a row");
    assert_eq!(section(&words, 7), Hold::Favoured(0));
    assert_eq!(words.try_lock(), None);
    assert!(!words.word.is_taken());
    assert_eq!(section(&words, 8), Hold::ByWord);
    assert_eq!(favoured(&words), NOBODY);
    assert_eq!(words.try_lock(), Some(Hold::ByWord));
    words.free(Hold::ByWord);
    assert_eq!(sections_until_favoured(&words, 7), 2 * patience + 1, "rule 5");
    // Another one is favoured in its own place.
    assert_eq!(sections_until_favoured(&words, 8), 4 * patience + 1);
    assert_eq!(section(&words, 8), Hold::Favoured(1));
    for me in [7, 8, 7, 8] {
        section(&words, me);
    }
    assert_eq!(words.patience.load(Ordering::Relaxed), 8 * PATIENCE);
}

#[test]
fn an_owner_keeps_its_place_and_one_that_comes_when_all_are_taken_is_never_favoured() {
    let Some(words) = words() else { return };
    let most = 2 * PATIENCE_MAX as usize;
    for _ in 0..2 {
        for me in 1..=OWNERS {
            assert!(sections_until_favoured(&words, me) < most);
            assert_eq!(section(&words, me), Hold::Favoured(me as u8 - 1), "rule 2");
        }
    }
    assert_eq!(sections_until_favoured(&words, 9), most);
}

#[test]
fn threads_that_have_no_number_are_never_favoured() {
    let Some(words) = words() else { return };
    let most = 2 * PATIENCE_MAX as usize;
    assert_eq!(sections_until_favoured(&words, super::super::home::SHARED), most);
}

#[test]
fn a_late_store_of_one_that_was_favoured_does_not_let_others_in_beside_the_one_that_is() {
    let Some(words) = words() else { return };
    sections_until_favoured(&words, 7);
    let first = favoured(&words);
    // Here 7 finds itself favoured, and is stopped before it says that it is inside.
    sections_until_favoured(&words, 8);
    let held = words.lock(8);
    words.inside(first).store(true, Ordering::Relaxed);
    assert_ne!(favoured(&words), first);
    Words::go_out(words.inside(first));
    thread::scope(|scope| {
        let waits = scope.spawn(|| section(&words, 9));
        while favoured(&words) != NOBODY {
            thread::yield_now();
        }
        let inside = words.bias.inside.iter().filter(|inside| inside.load(Ordering::Relaxed));
        assert_eq!(inside.count(), 1);
        assert!(!waits.is_finished());
        words.free(held);
        assert_eq!(waits.join().expect("it does not panic"), Hold::ByWord);
    });
}

#[test]
#[cfg(debug_assertions)]
fn in_a_debug_build_one_that_is_favoured_cannot_take_the_lock_twice() {
    let Some(words) = words() else { return };
    let fails_to_take_it_again = |held| {
        assert_eq!(held, Hold::Favoured(0));
        assert!(!words.word.is_taken());
        assert!(catch_unwind(AssertUnwindSafe(|| words.lock(7))).is_err());
        words.free(held);
    };
    for _ in 0..PATIENCE {
        assert_eq!(section(&words, 7), Hold::ByWord);
    }
    // The section that makes it the owner is one of them.
    fails_to_take_it_again(words.lock(7));
    fails_to_take_it_again(words.lock(7));
}

#[test]
fn a_barrier_that_fails_leaves_the_favour_and_frees_the_word() {
    let Some(words) = words() else { return };
    sections_until_favoured(&words, 7);
    let before = favoured(&words);
    let other = || refusing_barriers(|| words.lock(8));
    assert!(catch_unwind(AssertUnwindSafe(other)).is_err());
    assert_eq!(favoured(&words), before);
    assert!(!words.word.is_taken());
    assert_eq!(section(&words, 7), Hold::Favoured(0));
    assert_eq!(section(&words, 8), Hold::ByWord);
}

#[test]
fn one_that_finds_the_favour_put_back_while_it_waited_holds_the_lock_by_the_word_alone() {
    let Some(words) = words() else { return };
    sections_until_favoured(&words, 7);
    let held = words.lock_by_word(7);
    assert_eq!(held, Hold::ByWord);
    assert_eq!(favoured(&words), NOBODY, "rule 6: a second take waits");
    words.free(held);
    assert_eq!(words.patience.load(Ordering::Relaxed), PATIENCE);
}

#[test]
fn threads_that_take_the_favour_from_its_owner_lose_no_step() {
    let sum = Arc::new(biased(0_u64));
    let steps = |rounds: u32, pause: bool| {
        let sum = Arc::clone(&sum);
        move || {
            for round in 0..rounds {
                *sum.lock() += 1;
                if pause && round % 16 == 0 {
                    thread::yield_now();
                }
            }
        }
    };
    // Whatever the threads below come to, there is an owner that loses the favour.
    steps(2 * PATIENCE, false)();
    assert_eq!(real::is_biased(&sum), Asymmetric::detect().is_free());
    let threads = [
        thread::spawn(steps(400_000, false)),
        thread::spawn(steps(2_000, true)),
        thread::spawn(steps(2_000, true)),
    ];
    for thread in threads {
        thread.join().expect("adding does not panic");
    }
    assert_eq!(*sum.lock(), 404_000 + u64::from(2 * PATIENCE));
}

#[test]
fn threads_that_come_one_after_the_other_lose_no_step() {
    let sum = Arc::new(biased(0_u64));
    let rounds = 16;
    for _ in 0..rounds {
        let add = {
            let sum = Arc::clone(&sum);
            move || (0..2 * PATIENCE).for_each(|_| *sum.lock() += 1)
        };
        // To join a thread is to wait for what it drops as it ends, too: its number is free by then.
        thread::spawn(add).join().expect("adding does not panic");
    }
    assert_eq!(*sum.lock(), rounds * u64::from(2 * PATIENCE));
}

#[test]
fn a_panic_frees_the_lock_however_it_is_held() {
    let value = Arc::new(biased(0_u64));
    for sections in [0, 2 * PATIENCE] {
        let other = Arc::clone(&value);
        let panicked = thread::spawn(move || {
            (0..sections).for_each(|_| *other.lock() += 1);
            let _held = other.lock();
            panic!("under the lock");
        });
        assert!(panicked.join().is_err());
    }
    assert_eq!(*value.lock(), u64::from(2 * PATIENCE));
}
