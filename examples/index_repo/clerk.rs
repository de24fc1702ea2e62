//! The clerk: follows accepted tasks to their outcome, and tells it when it would survive a crash.
//!
//! 1. Nothing is told of a completed task before its commit is durable.
//! 2. One sync serves as many tasks as ended while the one before it was running.
//! 3. What it follows is bounded: who hands over tasks waits while it is behind.

use crate::model::{Answer, Failure};
use phalanx::Error;
use phalanx::fleet::{Outcome, TaskHandle};
use phalanx::state::{StateManager, Version};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

/// Tasks that may be on their way from the walk to the clerk.
const FOLLOWED_MAX: usize = 1024;

/// Outcomes told after one sync at most, so that acknowledgements do not wait for the end.
const TOLD_AT_ONCE_MAX: usize = 256;

/// A task to follow, and what it is about.
#[derive(Debug)]
pub struct Followed<J> {
    /// What the teller needs to know of it.
    pub about: J,
    /// Where its outcome appears.
    pub handle: TaskHandle<Answer>,
}

/// How a task ended, as far as the file is concerned.
pub type Verdict = Result<(), Failure>;

/// The way to the clerk.
pub fn desk<J>() -> (SyncSender<Followed<J>>, Receiver<Followed<J>>) {
    sync_channel(FOLLOWED_MAX)
}

/// Follows what comes in until nobody hands over any more, and tells each verdict once.
pub fn follow<J>(
    incoming: &Receiver<Followed<J>>,
    state: &StateManager,
    mut tell: impl FnMut(J, Verdict) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut ended: Vec<(J, Verdict)> = Vec::new();
    let mut newest = None;
    let mut next = incoming.recv().ok();
    while let Some(Followed { about, handle }) = next {
        ended.push((about, verdict(&handle)));
        newest = newest.max(handle.log_position());
        next = match incoming.try_recv() {
            // Wait for no task while there is something to tell.
            Ok(followed)
                if followed.handle.try_outcome().is_some() && ended.len() < TOLD_AT_ONCE_MAX =>
            {
                Some(followed)
            }
            other => {
                if let Some(position) = newest.take() {
                    state.wait_durable(Version::from_u64(position.0))?;
                }
                for (about, verdict) in ended.drain(..) {
                    tell(about, verdict)?;
                }
                match other {
                    Ok(followed) => Some(followed),
                    Err(TryRecvError::Empty) => incoming.recv().ok(),
                    Err(TryRecvError::Disconnected) => None,
                }
            }
        };
    }
    Ok(())
}

/// Waits for a task to end.
pub fn verdict(handle: &TaskHandle<Answer>) -> Verdict {
    match &*handle.wait() {
        Outcome::Completed(_) => Ok(()),
        Outcome::Failed(error) => Err(Failure::of_task(error)),
        // Nothing here cancels or returns a task that runs; it did not do its work, in any case.
        _ => Err(Failure::Agent),
    }
}
