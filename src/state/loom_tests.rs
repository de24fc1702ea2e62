//! Interleavings of group commit.
//!
//! The sink is a cell that loom watches: a leader writes it, and whoever is told that a version is durable
//! reads it. So a model fails where an acknowledgement comes too early, where two lead at once, or where
//! what the leader did is not visible to the one who was told. A lost wake-up is a deadlock, which loom sees.

use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::journal::{self, Journal, Sink, Step};
use super::turn::Turn;
use super::{Durability, Version};
use crate::sync::{Mutex, Parker, UnsafeCell, thread, weakened};
use crate::{Error, ErrorKind};

/// How many deltas were written and synced, and whether it was closed.
struct Medium(UnsafeCell<u64>, UnsafeCell<bool>);

// Only a leader writes it, and it is read only after an acknowledgement; that is what the models check.
#[expect(unsafe_code, reason = "loom watches the cell")]
// SAFETY: loom reports every access that nothing orders.
unsafe impl Sync for Medium {}

/// What fails once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fails {
    #[default]
    Nothing,
    Encoding,
    Step,
}

struct Written {
    medium: Arc<Medium>,
    /// How long a leader waits for others; in a model a time does not end.
    patience: Duration,
    /// The newest valid checkpoint.
    checkpointed: Version,
    /// Whether there is a draft.
    drafts: bool,
    fails: Fails,
    /// What each group has: a step has 1.
    group_bytes: u64,
}

/// One part, and a step more once it is valid.
struct Draft {
    version: Version,
    encoded: bool,
    fails: bool,
    abandoned: bool,
}

impl journal::Draft for Draft {
    type Image = Version;

    fn version(&self) -> Version {
        self.version
    }

    fn has_image(&self) -> bool {
        !self.encoded
    }

    fn is_ready(&self) -> bool {
        self.encoded
    }

    fn prepare(&mut self, _: usize) -> Result<Option<Version>, Error> {
        assert!(!self.encoded, "it is prepared where it is not ready");
        if self.fails {
            return Err(Error::new(ErrorKind::Codec, "a row has no form"));
        }
        self.encoded = true;
        Ok(Some(self.version))
    }

    fn abandon(&mut self) {
        (self.encoded, self.abandoned) = (true, true);
    }
}

impl Sink for Written {
    type Image = Version;
    type Draft = Draft;

    #[expect(unsafe_code, reason = "loom watches the cell")]
    fn append(&mut self, first: Version, deltas: &[Vec<u8>]) -> Result<u64, Error> {
        self.medium.0.with_mut(|count| {
            // SAFETY: the leader alone holds the sink; loom reports it if not.
            let count = unsafe { &mut *count };
            assert_eq!(*count + 1, first.as_u64(), "a group starts where the last one ended");
            *count += deltas.len() as u64;
        });
        Ok(self.group_bytes)
    }

    fn patience(&self) -> Duration {
        self.patience
    }

    fn checkpointed(&self) -> Version {
        self.checkpointed
    }

    fn is_due(&self) -> bool {
        false
    }

    fn is_past(&self, _: u64) -> bool {
        false
    }

    fn step_bytes(&self) -> usize {
        1
    }

    #[expect(unsafe_code, reason = "loom watches the cell")]
    fn begin(&mut self, image: &Version) -> Option<Draft> {
        self.medium.0.with(|count| {
            // SAFETY: the leader alone holds the sink; loom reports it if not.
            let count = unsafe { *count };
            assert_eq!(image.as_u64(), count, "a checkpoint is of what was appended last");
        });
        if self.checkpointed == *image {
            return None;
        }
        assert!(!self.drafts, "there are two drafts");
        self.drafts = true;
        let fails = self.fails == Fails::Encoding;
        if fails {
            self.fails = Fails::Nothing;
        }
        Some(Draft { version: *image, encoded: false, fails, abandoned: false })
    }

    fn sweep(&mut self) -> Option<Draft> {
        None
    }

    #[expect(unsafe_code, reason = "loom watches the cell")]
    fn step(&mut self, draft: &mut Draft) -> Result<(Step, u64), Error> {
        // SAFETY: who does a step alone holds the sink; loom reports it if not.
        self.medium.0.with(|count| assert!(unsafe { *count } >= draft.version.as_u64()));
        assert!(draft.encoded, "a step is done where it is ready");
        if self.fails == Fails::Step {
            return Err(Error::new(ErrorKind::Io, "the disk is gone"));
        }
        if draft.abandoned || self.checkpointed == draft.version {
            self.drafts = false;
            return Ok((Step::Done, 1));
        }
        self.checkpointed = draft.version;
        Ok((Step::Valid, 1))
    }

    #[expect(unsafe_code, reason = "loom watches the cell")]
    fn close(self) -> Result<(), Error> {
        self.medium.1.with_mut(|closed| {
            // SAFETY: whoever closes alone holds the sink; loom reports it if not.
            let closed = unsafe { &mut *closed };
            assert!(!std::mem::replace(closed, true), "it is closed once");
        });
        Ok(())
    }
}

struct Model {
    journal: Journal<Written>,
    medium: Arc<Medium>,
    turn: Turn,
    newest: Mutex<u64>,
}

impl Model {
    fn new() -> Arc<Self> {
        Self::with(Duration::ZERO, Fails::Nothing, 0)
    }

    fn patient(patience: Duration) -> Arc<Self> {
        Self::with(patience, Fails::Nothing, 0)
    }

    fn failing(fails: Fails) -> Arc<Self> {
        Self::with(Duration::ZERO, fails, 0)
    }

    fn of_large_groups(fails: Fails) -> Arc<Self> {
        Self::with(Duration::ZERO, fails, 100 << 20)
    }

    fn with(patience: Duration, fails: Fails, group_bytes: u64) -> Arc<Self> {
        let medium = Arc::new(Medium(UnsafeCell::new(0), UnsafeCell::new(false)));
        let written = Written {
            medium: Arc::clone(&medium),
            patience,
            checkpointed: Version::ZERO,
            drafts: false,
            fails,
            group_bytes,
        };
        let journal = Journal::new(written, Version::ZERO, Version::ZERO, 1 << 10);
        Arc::new(Self { journal, medium, turn: Turn::new(), newest: Mutex::new(0) })
    }

    /// The turn has a model of its own, without waits: with it in each of these they would take hours.
    fn commit(&self) -> Version {
        self.try_commit().expect("it is open")
    }

    /// None where it is closed.
    fn try_commit(&self) -> Option<Version> {
        let mut version = Version::ZERO;
        let published = self.journal.publish(&mut vec![0], Durability::Memory, || {
            let mut newest = self.newest.lock();
            *newest += 1;
            version = Version::from_u64(*newest);
            (version, version)
        });
        published.ok()?.expect("there is room");
        Some(version)
    }

    fn commit_in_turn(&self) -> Version {
        let _turn = self.turn.take().expect("nothing of this thread has the turn");
        // As with the root of a manager: read first, and the next one made of it under no lock.
        let next = *self.newest.lock() + 1;
        let version = Version::from_u64(next);
        let published = self.journal.publish(&mut vec![0], Durability::Memory, || {
            *self.newest.lock() = next;
            (version, version)
        });
        assert!(matches!(published, Ok(Some(_))));
        version
    }

    /// Closes it, and is told that the sink is closed.
    #[expect(unsafe_code, reason = "loom watches the cell")]
    fn close(&self) {
        self.journal.close().expect("the sink does not fail");
        self.medium.1.with(|closed| {
            // SAFETY: whoever was told that it is closed reads after it was; loom reports it if not.
            assert!(unsafe { *closed }, "told of a close that is not done");
        });
    }

    #[expect(unsafe_code, reason = "loom watches the cell")]
    fn acknowledged(&self, version: Version) {
        self.medium.0.with(|count| {
            // SAFETY: whoever was told of a version reads after its leader wrote; loom reports it if not.
            let count = unsafe { *count };
            assert!(count >= version.as_u64(), "{version} was acknowledged and {count} written");
        });
    }
}

fn two_commit_and_wait() {
    loom::model(|| {
        let model = Model::new();
        let other = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                let version = model.commit();
                model.journal.wait(version).expect("the sink does not fail");
            })
        };
        let version = model.commit();
        model.journal.wait(version).expect("the sink does not fail");
        other.join().expect("the other does not panic");
        model.acknowledged(Version::from_u64(2));
    });
}

/// Two commit and wait, and whoever leads expects the other.
fn two_are_gathered() {
    loom::model(|| {
        let model = Model::patient(Duration::MAX);
        model.journal.expect(2);
        let other = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                let version = model.commit();
                model.journal.wait(version).expect("the sink does not fail");
            })
        };
        let version = model.commit();
        model.journal.wait(version).expect("the sink does not fail");
        other.join().expect("the other does not panic");
        model.acknowledged(Version::from_u64(2));
        assert_eq!(model.journal.counts().groups, 1);
    });
}

/// Two make the next version of the newest, each in its turn.
fn two_commit() {
    loom::model(|| {
        let model = Model::new();
        let other = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.commit_in_turn())
        };
        let mine = model.commit_in_turn();
        let others = other.join().expect("the other does not panic");
        assert_eq!(mine.as_u64() + others.as_u64(), 3, "a version was lost");
    });
}

/// One leads; the other only looks at what is durable, as one does who has been told by it.
fn one_leads_and_one_looks() {
    loom::model(|| {
        let model = Model::new();
        let version = model.commit();
        let looker = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                if model.journal.durable() >= version {
                    model.acknowledged(version);
                }
            })
        };
        model.journal.wait(version).expect("the sink does not fail");
        looker.join().expect("the looker does not panic");
    });
}

#[test]
fn loom_two_waiters_are_both_acknowledged_after_their_write() {
    two_commit_and_wait();
}

#[test]
fn loom_a_leader_that_waits_for_another_is_woken_by_it() {
    two_are_gathered();
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_one_who_comes_and_wakes_no_leader_leaves_it_waiting() {
    weakened("state.journal.gather.arrived", two_are_gathered);
}

#[test]
fn loom_commits_in_their_turns_lose_none() {
    two_commit();
}

#[test]
#[should_panic(expected = "a version was lost")]
fn loom_twin_commits_without_a_turn_lose_one() {
    weakened("state.turn.take", two_commit);
}

#[test]
fn loom_who_sees_a_version_durable_sees_it_written() {
    one_leads_and_one_looks();
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_twin_a_relaxed_store_of_the_durable_version_is_caught() {
    weakened("state.journal.durable.store", one_leads_and_one_looks);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_twin_a_relaxed_load_of_the_durable_version_is_caught() {
    weakened("state.journal.durable.load", one_leads_and_one_looks);
}

#[test]
fn loom_a_waiter_that_goes_away_takes_no_wake_up_along() {
    loom::model(|| {
        let model = Model::new();
        let version = model.commit();
        let waiter = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.journal.wait(version).expect("the sink does not fail"))
        };
        // A future that is polled once and dropped: before the other leads, meanwhile, or as the leader.
        let mut key = None;
        let polled = model.journal.poll(version, &mut key, Waker::noop());
        assert!(!matches!(polled, Poll::Ready(Err(_))));
        model.journal.forget(&mut key);
        waiter.join().expect("the waiter does not panic");
        assert_eq!(model.journal.counts().waiters, 0);
        model.acknowledged(version);
    });
}

#[test]
fn loom_a_close_writes_what_is_pending_and_ends_every_wait() {
    loom::model(|| {
        let model = Model::new();
        let version = model.commit();
        let waiter = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.journal.wait(version).expect("a close writes it first"))
        };
        model.journal.close().expect("the sink does not fail");
        waiter.join().expect("the waiter does not panic");
        model.acknowledged(version);
    });
}

/// One commits and waits while the other closes: it is refused, or written.
fn one_commits_and_one_closes() {
    loom::model(|| {
        let model = Model::new();
        let committer = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                let version = model.try_commit()?;
                model.journal.wait(version).expect("a close writes what was taken");
                model.acknowledged(version);
                Some(version)
            })
        };
        model.close();
        let last = model.journal.durable();
        let taken = committer.join().expect("the committer does not panic");
        assert_eq!(taken.unwrap_or(Version::ZERO), last, "nothing comes after the end");
        assert!(model.try_commit().is_none());
    });
}

/// Two close; what is pending is the affair of the model above.
fn two_close() {
    // Kept from being dropped where a twin ends in a deadlock: loom cannot run destructors then.
    loom::model(|| {
        let model = std::mem::ManuallyDrop::new(Model::new());
        let other = {
            let model = std::mem::ManuallyDrop::new(Arc::clone(&model));
            thread::spawn(move || model.close())
        };
        model.close();
        other.join().expect("the other does not panic");
        drop(std::mem::ManuallyDrop::into_inner(model));
    });
}

#[test]
fn loom_a_commit_during_a_close_is_written_or_refused() {
    one_commits_and_one_closes();
}

#[test]
#[should_panic(expected = "a close writes what was taken")]
fn loom_twin_a_close_that_goes_on_taking_commits_loses_one() {
    weakened("state.journal.closing", one_commits_and_one_closes);
}

#[test]
fn loom_two_closes_both_return_when_it_is_closed() {
    two_close();
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_a_close_that_wakes_nobody_leaves_another_waiting() {
    weakened("state.journal.close", two_close);
}

/// One polls for the disk, and a server writes for it, or goes before it is asked to.
fn one_polls_and_one_serves(serves: bool) {
    // Kept from being dropped where a twin ends in a deadlock: loom cannot run destructors then.
    loom::model(move || {
        let model = std::mem::ManuallyDrop::new(Model::new());
        let rung = std::mem::ManuallyDrop::new(Parker::new());
        let version = model.commit();
        model.journal.serve(rung.waker());
        let polls = {
            let model = std::mem::ManuallyDrop::new(Arc::clone(&model));
            thread::spawn(move || {
                let parker = std::mem::ManuallyDrop::new(Parker::new());
                let waker = std::mem::ManuallyDrop::new(parker.waker());
                let mut key = None;
                while model.journal.poll(version, &mut key, &waker).is_pending() {
                    parker.park();
                }
                model.acknowledged(version);
                drop(std::mem::ManuallyDrop::into_inner(model));
            })
        };
        if serves {
            rung.park();
            assert_eq!(model.journal.write_wanted(), (true, false));
        }
        model.journal.unserve();
        polls.join().expect("who polls does not panic");
        drop(std::mem::ManuallyDrop::into_inner(model));
    });
}

#[test]
fn loom_who_polls_is_served_or_told_that_the_server_went() {
    one_polls_and_one_serves(true);
    one_polls_and_one_serves(false);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_a_server_that_is_not_rung_sleeps_on() {
    weakened("state.journal.ring", || one_polls_and_one_serves(true));
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_a_server_that_goes_in_silence_leaves_who_polls_waiting() {
    weakened("state.journal.unserve", || one_polls_and_one_serves(false));
}

mod checkpoints;
