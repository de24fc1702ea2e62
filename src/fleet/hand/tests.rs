//! Runs by example, against a plain queue, and with threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::sync::thread;

fn taken<T>(hand: &Hand<T, ()>, taker: &mut Taker) -> Vec<T> {
    std::iter::from_fn(|| hand.take(taker)).collect()
}

fn cut<T>(hand: &Hand<T, ()>) -> Vec<T> {
    let mut into = VecDeque::new();
    hand.lock().cut(&mut into);
    into.into()
}

#[test]
fn a_cut_takes_what_is_not_begun_and_a_second_one_nothing() {
    let (hand, mut taker) = Hand::new(());
    hand.lock().fill(&mut taker, 0..5);
    assert_eq!((hand.take(&mut taker), hand.take(&mut taker)), (Some(0), Some(1)));
    assert_eq!(cut(&hand), [2, 3, 4]);
    assert!(cut(&hand).is_empty(), "they are taken");
    assert_eq!(hand.take(&mut taker), None);
    hand.lock().fill(&mut taker, 5..7);
    assert_eq!(taken(&hand, &mut taker), [5, 6], "a run that is filled anew is not cut");
}

#[test]
fn what_the_taker_puts_down_is_not_taken_nor_cut() {
    let (hand, mut taker) = Hand::new(());
    hand.lock().fill(&mut taker, 0..4);
    assert_eq!(hand.take(&mut taker), Some(0));
    let mut back = VecDeque::new();
    hand.lock().take_back(&mut taker, &mut back);
    assert_eq!(back, [1, 2, 3]);
    assert_eq!((hand.take(&mut taker), cut(&hand)), (None, vec![]));
}

#[test]
#[should_panic(expected = "each hand has one taker")]
fn the_taker_of_another_hand_takes_nothing() {
    let (hand, mut own) = Hand::new(());
    let (_other, mut taker) = Hand::<i32, ()>::new(());
    hand.lock().fill(&mut own, 0..4);
    hand.take(&mut taker);
}

#[test]
#[should_panic(expected = "rule 1")]
fn a_hand_is_not_filled_before_it_is_empty() {
    let (hand, mut taker) = Hand::new(());
    hand.lock().fill(&mut taker, 0..4);
    hand.lock().fill(&mut taker, 0..4);
}

/// Counts how often it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn every_payload_is_dropped_once_whoever_has_it_last() {
    let count = Arc::new(AtomicUsize::new(0));
    let payloads = |n| {
        let payloads: Vec<_> = (0..n).map(|_| Dropped(Arc::clone(&count))).collect();
        payloads.into_iter()
    };
    for (begun, ends) in [(0, "with the hand"), (2, "with the hand"), (2, "cut"), (5, "taken")] {
        count.store(0, Ordering::Relaxed);
        let (hand, mut taker) = Hand::new(());
        hand.lock().fill(&mut taker, payloads(5));
        (0..begun).for_each(|_| drop(hand.take(&mut taker)));
        if ends == "cut" {
            assert_eq!(cut(&hand).len(), 3);
        }
        drop(hand);
        assert_eq!(count.load(Ordering::Relaxed), 5, "{begun} begun, {ends}");
    }
}

#[test]
fn threads_that_take_and_cut_have_every_payload_once_between_them() {
    const ROUNDS: usize = if cfg!(phalanx_tsan) { 300 } else { 3_000 };
    let (hand, mut taker) = Hand::new(());
    let hand = &hand;
    let (filled, ended) = (&AtomicUsize::new(0), &AtomicUsize::new(0));
    thread::scope(|scope| {
        let cutting = scope.spawn(move || {
            let mut cuts = Vec::new();
            for round in 1..=ROUNDS {
                while filled.load(Ordering::Acquire) < round {
                    thread::yield_now();
                }
                cuts.push(cut(hand));
                ended.store(round, Ordering::Release);
            }
            cuts
        });
        let mut runs = Vec::new();
        for round in 1..=ROUNDS {
            hand.lock().fill(&mut taker, 0..RUN);
            filled.store(round, Ordering::Release);
            runs.push(taken(hand, &mut taker));
            while ended.load(Ordering::Acquire) < round {
                thread::yield_now();
            }
        }
        let cuts = cutting.join().expect("a cut does not panic");
        for (mut run, cut) in runs.into_iter().zip(cuts) {
            run.extend(cut);
            assert!(run.into_iter().eq(0..RUN), "the one has the first, the other the rest");
        }
    });
}

#[derive(Clone, Debug)]
enum Step {
    Fill(usize),
    Take,
    Cut,
    PutDown,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..8_usize).prop_map(Step::Fill),
        6 => Just(Step::Take),
        1 => Just(Step::Cut),
        1 => Just(Step::PutDown),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_hand_does_what_a_plain_queue_does(steps in prop::collection::vec(step(), 0..200)) {
        let (hand, mut taker) = Hand::new(());
        let mut oracle = VecDeque::new();
        let mut next = 0;
        for step in steps {
            match step {
                Step::Fill(count) => {
                    prop_assert_eq!(taken(&hand, &mut taker), oracle.drain(..).collect::<Vec<_>>());
                    hand.lock().fill(&mut taker, next..next + count);
                    oracle.extend(next..next + count);
                    next += count;
                }
                Step::Take => prop_assert_eq!(hand.take(&mut taker), oracle.pop_front()),
                Step::Cut => prop_assert_eq!(cut(&hand), oracle.drain(..).collect::<Vec<_>>()),
                Step::PutDown => {
                    let mut back = VecDeque::new();
                    hand.lock().take_back(&mut taker, &mut back);
                    prop_assert_eq!(back, std::mem::take(&mut oracle));
                }
            }
        }
    }
}
