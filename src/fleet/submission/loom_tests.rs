//! Every interleaving of a submission that waits with the room that comes, and with one before it that gives up, each with
//! a twin.

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::Submission;
use crate::fleet::{AgentSpec, Fleet, Task};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{thread, weakened};

/// Whether somebody called it.
struct Called(AtomicBool);

impl Wake for Called {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn explore(body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 10_000;
    builder.check(body);
}

fn poll(submission: &mut Submission<(), ()>, called: &Arc<Called>) -> bool {
    let waker = Waker::from(Arc::clone(called));
    match Pin::new(submission).poll(&mut Context::from_waker(&waker)) {
        Poll::Ready(submitted) => {
            drop(submitted.expect("there is room"));
            true
        }
        Poll::Pending => false,
    }
}

/// A fleet with room for one task, which it has.
fn full() -> (Fleet<(), ()>, crate::fleet::TaskHandle<()>) {
    let room = NonZeroUsize::new(1).expect("it is not zero");
    let fleet = Fleet::<(), ()>::builder().driven().queue_capacity(room).build();
    let fleet = fleet.expect("it is valid");
    fleet.spawn(AgentSpec::new("any").handler_fn(|_, _| Ok(()))).expect("there is room");
    let handle = fleet.submit(Task::new(())).expect("there is room");
    (fleet, handle)
}

/// Room comes while one begins to wait for it.
fn room_against_wait() {
    let (fleet, handle) = full();
    let called = Arc::new(Called(AtomicBool::new(false)));
    let other = thread::spawn(move || assert!(handle.cancel()));
    let mut submission = fleet.submit_async(Task::new(()));
    let submitted = poll(&mut submission, &called);
    other.join().expect("no panic");
    if !submitted {
        assert!(called.0.load(Ordering::SeqCst), "nobody told it");
        assert!(poll(&mut submission, &called), "there is room");
    }
}

#[test]
fn loom_who_begins_to_wait_for_room_is_told_of_it() {
    explore(room_against_wait);
}

#[test]
#[should_panic(expected = "nobody told it")]
fn loom_twin_who_looks_for_room_before_it_says_whom_to_wake_is_not_told() {
    weakened("submission.arm-late", || explore(room_against_wait));
}

/// Room comes while the first in line gives up.
fn room_against_drop() {
    let (fleet, handle) = full();
    let called = Arc::new(Called(AtomicBool::new(false)));
    let unheard = Arc::new(Called(AtomicBool::new(false)));
    let mut first = fleet.submit_async(Task::new(()));
    let mut next = fleet.submit_async(Task::new(()));
    assert!(!poll(&mut first, &unheard) && !poll(&mut next, &called));
    let other = thread::spawn(move || assert!(handle.cancel()));
    drop(first);
    other.join().expect("no panic");
    assert!(called.0.load(Ordering::SeqCst), "nobody told it");
    assert!(poll(&mut next, &called), "there is room");
}

#[test]
fn loom_the_next_in_line_is_told_of_room_whether_the_one_before_was_or_is_gone() {
    explore(room_against_drop);
}

#[test]
#[should_panic(expected = "nobody told it")]
fn loom_twin_who_leaves_the_line_without_a_word_takes_the_room_along() {
    weakened("submission.leave-in-silence", || explore(room_against_drop));
}
