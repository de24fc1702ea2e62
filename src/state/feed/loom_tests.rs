//! Interleavings of readers that wait and commits that come.
//!
//! A wake-up that is lost is a deadlock, which loom sees; what is told twice, out of order or not at all fails
//! an assertion.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::*;
use crate::state::watch::{Watch, WatchEvent};
use crate::sync::{Parker, thread, weakened};

struct Model {
    feed: Arc<Feed>,
}

impl Model {
    fn new(commits: usize) -> Self {
        let feed = Feed::new(Version::ZERO, Limits { commits, rows: 100 }, Clock::real());
        Self { feed: Arc::new(feed) }
    }

    /// Tells versions, and a resync as its version times a thousand.
    fn watch(&self, track: Option<usize>) -> Watch<u64> {
        Watch::new(&self.feed, track, |entry| Some(entry.version.as_u64()))
    }
}

fn commit(feed: &Feed, version: u64) {
    let part = Changed { id: 0, name: "rows".into(), len: 1, rows: Arc::new(()) };
    let show = || Ok::<(), ()>(());
    let published = feed.publish(Version::from_u64(version), Some(vec![part]), show);
    feed.settle(published.expect("it is shown"));
}

fn told(event: Option<WatchEvent<u64>>) -> u64 {
    match event {
        Some(WatchEvent::Changed(version)) => version,
        Some(WatchEvent::Resync { version }) => version.as_u64() * 1000,
        None => 0,
    }
}

/// As [`Watch::recv`] waits, but for what is done as the wait ends: where the twin comes to a deadlock, loom
/// ends this thread, and its destructors can take no lock any more.
fn recv(watch: &mut Watch<u64>) -> u64 {
    let parker = Parker::new();
    let waker = parker.waker();
    loop {
        match watch.poll(&waker) {
            Poll::Ready(event) => return told(event.ok()),
            Poll::Pending => parker.park(),
        }
    }
}

fn one_waits_while_one_commits() {
    loom::model(|| {
        let model = Model::new(10);
        let mut watch = ManuallyDrop::new(model.watch(Some(0)));
        let reader = thread::spawn(move || {
            let seen = [recv(&mut watch), recv(&mut watch)];
            drop(ManuallyDrop::into_inner(watch));
            seen
        });
        commit(&model.feed, 1);
        commit(&model.feed, 2);
        assert_eq!(reader.join().expect("the reader does not panic"), [1, 2]);
    });
}

fn one_waits_while_it_closes() {
    loom::model(|| {
        let model = Model::new(10);
        let mut watch = model.watch(None);
        let reader = thread::spawn(move || [watch.recv().ok(), watch.recv().ok()].map(told));
        commit(&model.feed, 1);
        model.feed.close();
        assert_eq!(reader.join().expect("the reader does not panic"), [1, 0]);
    });
}

#[test]
fn loom_a_reader_that_waits_is_told_each_commit_once() {
    one_waits_while_one_commits();
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_a_commit_that_wakes_nobody_is_caught() {
    weakened("state.feed.wake", one_waits_while_one_commits);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_a_reader_that_does_not_look_as_it_leaves_its_waker_is_caught() {
    weakened("state.feed.look", one_waits_while_one_commits);
}

#[test]
fn loom_a_close_ends_a_wait_after_all_is_told() {
    one_waits_while_it_closes();
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_a_close_that_wakes_nobody_is_caught() {
    weakened("state.feed.close", one_waits_while_it_closes);
}

#[test]
fn loom_a_reader_behind_a_short_log_is_told_all_or_to_start_over() {
    loom::model(|| {
        let model = Model::new(1);
        let mut watch = model.watch(Some(0));
        let reader = thread::spawn(move || {
            let first = told(watch.recv().ok());
            if first == 2000 { [first, 0] } else { [first, told(watch.recv().ok())] }
        });
        commit(&model.feed, 1);
        commit(&model.feed, 2);
        let seen = reader.join().expect("the reader does not panic");
        assert!([[1, 2], [2000, 0]].contains(&seen), "{seen:?}");
    });
}

#[test]
fn loom_a_reader_that_goes_away_takes_no_wake_up_along() {
    loom::model(|| {
        let model = Model::new(10);
        let mut watch = model.watch(Some(0));
        let mut other = model.feed.subscribe(Some(0));
        let reader = thread::spawn(move || told(watch.recv().ok()));
        let feed = Arc::clone(&model.feed);
        let committer = thread::spawn(move || commit(&feed, 1));
        // One look, given up: before the commit, meanwhile, or after it.
        let _ = model.feed.look(&mut other, Some(Waker::noop()));
        model.feed.unsubscribe(&mut other);
        assert_eq!(reader.join().expect("the reader does not panic"), 1);
        committer.join().expect("the committer does not panic");
        assert_eq!(model.feed.counts().watchers, 0);
    });
}
