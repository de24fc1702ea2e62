//! Every interleaving of a taker and of one who cuts its run, each with a twin.

use std::sync::Arc;

use super::*;
use crate::sync::{thread, weakened};

/// A run is cut while it is taken, and filled anew after that.
fn take_against_cut() {
    let (hand, mut taker) = Hand::new(());
    let hand = Arc::new(hand);
    hand.lock().fill(&mut taker, 0..2);
    let cutting = {
        let hand = Arc::clone(&hand);
        thread::spawn(move || {
            let mut cut = VecDeque::new();
            hand.lock().cut(&mut cut);
            cut
        })
    };
    let mut taken: Vec<_> = std::iter::from_fn(|| hand.take(&mut taker)).collect();
    let again = {
        let mut held = hand.lock();
        held.fill(&mut taker, [7].into_iter());
        drop(held);
        hand.take(&mut taker)
    };
    let cut = cutting.join().expect("a cut does not panic");
    // A cut that came late has taken from the second run.
    let late = cut == [7];
    assert_eq!(again, (!late).then_some(7), "each is taken or cut: {taken:?} {cut:?}");
    if !late {
        taken.extend(cut);
    }
    assert_eq!(taken, [0, 1], "each is taken or cut");
    let mut left = VecDeque::new();
    hand.lock().cut(&mut left);
    assert!(left.is_empty(), "each is taken or cut");
}

#[test]
fn loom_a_run_that_is_cut_is_taken_once_between_the_two() {
    loom::model(take_against_cut);
}

#[test]
#[should_panic(expected = "each is taken or cut")]
fn loom_twin_a_taker_that_does_not_fence_misses_the_cut() {
    weakened("hand.begin", || loom::model(take_against_cut));
}

#[test]
#[should_panic(expected = "each is taken or cut")]
fn loom_twin_a_cut_that_does_not_fence_misses_what_is_begun() {
    weakened("hand.cut", || loom::model(take_against_cut));
}

#[test]
#[should_panic(expected = "each is taken or cut")]
fn loom_twin_a_taker_that_does_not_ask_when_it_sees_a_cut_loses_what_it_began() {
    weakened("hand.ask-who-cut", || loom::model(take_against_cut));
}
