//! Models of dead letters under loom: the last letter, and the end behind it.
//!
//! A lost wake-up is a deadlock, which loom sees. All that is shared here goes through locks, so there is no
//! ordering to weaken.

use std::sync::Arc;

use super::super::event::Event;
use super::super::source::Source;
use super::super::topic::Topic;
use super::{DeadLetterReason, DeadLetters, Letters, Pen, RecvError, TryRecvError};
use crate::Clock;
use crate::sync::{explore, thread};

const PREEMPTIONS: usize = 3;

/// Sends a letter of a bus that is closed, with the last pen that there is.
fn last_letter(letters: &Arc<Letters<u64>>) -> thread::JoinHandle<()> {
    let pen = Pen::new(letters);
    letters.close().expect("no waker panics");
    thread::spawn(move || {
        let (topic, source) = (Topic::from_id(0), Source::UNNAMED);
        let event = Event { sequence: 0, topic, source, lane: 0, payload: 7 };
        pen.send(Arc::new(event), DeadLetterReason::Rejected).expect("no waker panics");
    })
}

#[test]
fn loom_the_last_letter_comes_before_the_end() {
    explore(PREEMPTIONS, || {
        let letters = Arc::new(Letters::new());
        let mut subscriber = DeadLetters::new(Arc::clone(&letters), Clock::default(), 1);
        let sending = last_letter(&letters);
        let mut received = 0;
        loop {
            match subscriber.try_recv() {
                Ok(letter) => received += letter.into_event().payload,
                Err(TryRecvError::Closed) => break,
                Err(_) => thread::yield_now(),
            }
        }
        sending.join().expect("no panic");
        assert_eq!(received, 7, "the letter is lost");
    });
}

#[test]
fn loom_a_subscriber_that_parks_is_woken_by_a_letter_and_by_the_end() {
    explore(PREEMPTIONS, || {
        let letters = Arc::new(Letters::new());
        let mut subscriber = DeadLetters::new(Arc::clone(&letters), Clock::default(), 1);
        let sending = last_letter(&letters);
        assert_eq!(subscriber.recv().expect("a letter").event().payload, 7);
        assert_eq!(subscriber.recv().err(), Some(RecvError::Closed));
        sending.join().expect("no panic");
    });
}
