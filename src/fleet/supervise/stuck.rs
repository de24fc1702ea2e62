//! Whether an attempt is stuck, and where.
//!
//! Rules that hold here:
//!
//! 1. An attempt is stuck when it passed no checkpoint for so long; its start is one without a name.
//! 2. Each silence is told once; after the next checkpoint another one may be.
//! 3. No moment is earlier than the latest one heard of.

use std::borrow::Cow;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::fleet::id::{Attempt, TaskId};

/// An attempt that does not come on, and where it was heard of last.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stuck {
    /// Which task; `None` for a message, which has no id.
    pub task: Option<TaskId>,
    /// Which run of it.
    pub attempt: Attempt,
    /// The last checkpoint it passed; `None` if it passed none.
    pub checkpoint: Option<Cow<'static, str>>,
    /// How many it passed.
    pub checkpoints: u64,
    /// The time since that checkpoint, or since it began.
    pub silent: Duration,
    /// The time since it began.
    pub running: Duration,
}

/// Watches one attempt.
#[derive(Clone, Debug)]
pub struct Watchdog {
    task: Option<TaskId>,
    attempt: Attempt,
    stuck_after: Duration,
    /// The latest moment heard of (rule 3).
    now: Timestamp,
    began: Timestamp,
    last: Timestamp,
    checkpoint: Option<Cow<'static, str>>,
    checkpoints: u64,
    told: bool,
}

impl Watchdog {
    /// Watches an attempt that begins now and may pass no checkpoint for so long at most.
    #[must_use]
    pub const fn new(
        task: Option<TaskId>,
        attempt: Attempt,
        stuck_after: Duration,
        now: Timestamp,
    ) -> Self {
        Self {
            task,
            attempt,
            stuck_after,
            now,
            began: now,
            last: now,
            checkpoint: None,
            checkpoints: 0,
            told: false,
        }
    }

    /// The attempt passed a checkpoint of this name.
    pub fn checkpoint(&mut self, name: impl Into<Cow<'static, str>>, now: Timestamp) {
        self.checkpoint = Some(name.into());
        self.checkpoints += 1;
        self.now = self.now.max(now);
        self.last = self.now;
        self.told = false;
    }

    /// Whether it is stuck, if that was not told yet, and where.
    pub fn check(&mut self, now: Timestamp) -> Option<Stuck> {
        self.now = self.now.max(now);
        let silent = self.now - self.last;
        if self.told || silent < self.stuck_after {
            return None;
        }
        self.told = true;
        Some(Stuck {
            task: self.task,
            attempt: self.attempt,
            checkpoint: self.checkpoint.clone(),
            checkpoints: self.checkpoints,
            silent,
            running: self.now - self.began,
        })
    }

    /// When a [check](Self::check) will have something to tell if no checkpoint is passed until then;
    /// `None` if it was told.
    #[must_use]
    pub fn next_check(&self) -> Option<Timestamp> {
        (!self.told).then(|| self.last + self.stuck_after)
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(seconds))
    }

    fn watch() -> Watchdog {
        Watchdog::new(Some(TaskId::new(7)), Attempt::new(2), Duration::from_secs(10), at(100))
    }

    #[test]
    fn an_attempt_without_a_checkpoint_is_stuck_at_its_start() {
        let mut watch = watch();
        assert_eq!(watch.next_check(), Some(at(110)));
        assert_eq!(watch.check(at(109)), None);
        let stuck = watch.check(at(110)).expect("so long a silence");
        assert_eq!((stuck.task, stuck.attempt), (Some(TaskId::new(7)), Attempt::new(2)));
        assert_eq!((stuck.checkpoint, stuck.checkpoints), (None, 0));
        assert_eq!((stuck.silent.as_secs(), stuck.running.as_secs()), (10, 10));
    }

    #[test]
    fn it_says_where_and_says_it_once_for_each_silence() {
        let mut watch = watch();
        watch.checkpoint("parse", at(105));
        watch.checkpoint(format!("file {}", 3), at(108));
        assert_eq!(watch.check(at(117)), None);
        let stuck = watch.check(at(120)).expect("so long a silence");
        assert_eq!((stuck.checkpoint.as_deref(), stuck.checkpoints), (Some("file 3"), 2));
        assert_eq!((stuck.silent.as_secs(), stuck.running.as_secs()), (12, 20));
        assert_eq!((watch.check(at(500)), watch.next_check()), (None, None), "told");
        watch.checkpoint("file 4", at(500));
        assert_eq!((watch.check(at(509)), watch.next_check()), (None, Some(at(510))));
        assert_eq!(watch.check(at(510)).expect("silent again").checkpoints, 3);
    }

    #[test]
    fn a_checkpoint_from_the_past_lengthens_no_silence() {
        let mut watch = watch();
        watch.checkpoint("late", at(90));
        assert_eq!(watch.next_check(), Some(at(110)));
        assert_eq!(watch.check(at(109)), None);
    }

    #[test]
    fn time_that_goes_back_tells_no_silence_twice() {
        let mut watch = watch();
        assert!(watch.check(at(112)).is_some());
        assert_eq!(watch.check(at(95)), None);
        watch.checkpoint("late", at(90));
        assert_eq!((watch.check(at(112)), watch.next_check()), (None, Some(at(122))));
        assert_eq!(watch.check(at(122)).expect("silent again").silent.as_secs(), 10);
    }
}
