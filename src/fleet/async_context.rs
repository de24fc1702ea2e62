//! What a handler that is a future knows of the attempt it runs, and how it hears that it was struck.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::id::{AgentId, Attempt, TaskId};
use super::purse::{Purse, WeakTreasury};
use super::signal::{Signal, Word};
use super::supervision::Watch;

/// What an async handler knows of the attempt it runs; clones are of the same attempt.
#[derive(Clone, Debug)]
pub struct AsyncContext {
    pub(super) task: Option<TaskId>,
    pub(super) attempt: Attempt,
    pub(super) agent: AgentId,
    pub(super) signal: Arc<Signal>,
    /// Who hears what it says, if somebody does.
    pub(super) watch: Option<Arc<Watch>>,
    /// What it pays with, if there are budgets.
    pub(super) purse: Option<Purse<WeakTreasury>>,
}

impl AsyncContext {
    /// Which task; `None` for a message that was told or asked, which has no id.
    #[must_use]
    pub const fn task_id(&self) -> Option<TaskId> {
        self.task
    }

    /// Which run of it; [`Attempt::NONE`] for a message.
    #[must_use]
    pub const fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The agent it runs on.
    #[must_use]
    pub const fn agent(&self) -> AgentId {
        self.agent
    }

    /// As [`TaskContext::is_revoked`](super::TaskContext::is_revoked).
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.signal.is(Word::Revoked)
    }

    /// As [`TaskContext::is_cancelled`](super::TaskContext::is_cancelled).
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.signal.is(Word::Cancelled)
    }

    /// Resolves once the agent was killed, the task's deadline has passed or the fleet has ended, so that
    /// whatever comes of this attempt is refused.
    ///
    /// The fleet does not drop the handler's future: a handler that may take long waits for this beside what
    /// it does, and returns early.
    ///
    /// # Cancel safety
    /// It may be dropped at any time, and asked for anew.
    pub fn revoked(&self) -> Interruption {
        self.interruption(Word::Revoked)
    }

    /// Resolves once somebody has asked to cancel the task. An error returned then ends it as cancelled; a
    /// result still completes it.
    ///
    /// # Cancel safety
    /// As [`revoked`](Self::revoked).
    pub fn cancelled(&self) -> Interruption {
        self.interruption(Word::Cancelled)
    }

    fn interruption(&self, word: Word) -> Interruption {
        Interruption { signal: Arc::clone(&self.signal), word, key: None }
    }

    /// As [`TaskContext::stop_agent`](super::TaskContext::stop_agent): the attempt ends when its future resolves, panics
    /// or is dropped.
    pub fn stop_agent(&self) {
        self.signal.stop_agent();
    }

    /// As [`TaskContext::report_progress`](super::TaskContext::report_progress).
    pub fn report_progress(&self, fraction: f32, note: impl Into<Cow<'static, str>>) {
        if self.task.is_some() {
            self.signal.report_progress(self.attempt, fraction, note.into());
        }
    }
}

/// Waits for an attempt to be interrupted; made by [`AsyncContext::revoked`] and
/// [`AsyncContext::cancelled`]. It needs no particular runtime.
#[must_use = "a future does nothing unless it is polled"]
pub struct Interruption {
    signal: Arc<Signal>,
    word: Word,
    key: Option<u64>,
}

impl Future for Interruption {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let this = &mut *self;
        this.signal.poll(this.word, &mut this.key, waker)
    }
}

impl Drop for Interruption {
    fn drop(&mut self) {
        self.signal.forget(self.key.take());
    }
}

impl fmt::Debug for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interruption")
            .field("waits_for", &self.word)
            .field("heard", &self.signal.is(self.word))
            .finish()
    }
}
