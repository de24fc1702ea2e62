//! Drains and stops that are waited for without a thread.
//!
//! Rules that hold here:
//!
//! 1. What has begun by a future goes on without it: a fleet or an agent that drains drains on, one that stops
//!    stops. With the future nobody is told of what ends any more.
//! 2. The host's wakers are behind a [`Relay`]: those that are cloned and dropped under locks are this crate's own.

use std::fmt;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Fleet;
use super::drain::{AgentDrain, Draining, Suspended};
use super::id::AgentId;
use super::inner::State;
use super::stats::DrainReport;
use super::wakers::Relay;
use super::witness::{Call, Listening};
use crate::Error;

/// Waits for what others bring about.
struct Watch<T: Send + Sync + 'static, O: Send + Sync + 'static> {
    fleet: Fleet<T, O>,
    relay: Arc<Relay>,
    /// Among those who wait for progress.
    key: Option<u64>,
    /// The call that is told of what ends.
    call: Option<Call>,
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Watch<T, O> {
    fn new(fleet: &Fleet<T, O>) -> Self {
        Self { fleet: fleet.clone(), relay: Relay::new(), key: None, call: None }
    }

    /// Has this task be woken from now on.
    fn arm(&self, cx: &Context<'_>) {
        // Before it looks, so that nobody who wakes it is missed.
        self.fleet.inner().discard(self.relay.set(Some(cx.waker().clone())));
    }

    /// Whether something holds; if not, it is woken when there is something to look at.
    fn sees(&mut self, holds: impl FnOnce(&State<T, O>) -> bool) -> bool {
        let mut state = self.fleet.inner().state.lock();
        let done = holds(&state);
        if !done {
            let key = *self.key.get_or_insert_with(|| state.progress.key());
            state.progress.register(key, self.relay.waker());
        }
        done
    }

    fn listen(&mut self, listening: Option<Call>) {
        self.call = listening;
    }

    /// What came of it.
    fn report(&mut self) -> DrainReport {
        let inner = self.fleet.inner();
        let report = inner.report(self.call.take().map(|call| Listening::resume(inner, call)));
        inner.discard(self.relay.set(None));
        report
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Drop for Watch<T, O> {
    fn drop(&mut self) {
        let inner = self.fleet.inner();
        inner.discard(self.relay.set(None));
        if let Some(key) = self.key {
            inner.state.lock().progress.remove(key);
        }
        drop(self.call.take().map(|call| Listening::resume(inner, call)));
    }
}

/// Lets go of a call, to take it up at the next poll.
fn kept<T, O>(listening: Listening<'_, T, O>) -> Call {
    ManuallyDrop::new(listening).call()
}

/// A fleet that is drained; made by [`Fleet::drain_async`].
///
/// It keeps the fleet running, as a handle does.
///
/// # Cancel safety
/// It begins at the first poll. Dropped, the fleet takes no more tasks and drains on, and what ended until then is told
/// to nobody. Polled after it was ready it looks, and is ready, again.
#[must_use = "futures do nothing unless polled"]
pub struct FleetDrain<T: Send + Sync + 'static, O: Send + Sync + 'static> {
    watch: Watch<T, O>,
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Future for FleetDrain<T, O> {
    type Output = Result<DrainReport, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let watch = &mut self.watch;
        if watch.call.is_none() {
            watch.fleet.inner().refuse_on_worker("drain")?;
            let call = kept(watch.fleet.inner().begin_to_drain());
            watch.listen(Some(call));
        }
        watch.arm(cx);
        let inner = Arc::clone(&watch.fleet.core.inner);
        if watch.sees(|state| inner.has_ended(state)) {
            return Poll::Ready(Ok(watch.report()));
        }
        Poll::Pending
    }
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    /// What runs is waited for.
    Finishing,
    /// The threads are.
    Leaving,
    /// Those whom somebody else joins are.
    Joining,
}

/// A fleet that is shut down; made by [`Fleet::shutdown_async`].
///
/// It keeps the fleet's memory, as a handle does.
///
/// # Cancel safety
/// It begins at the first poll. Dropped, the fleet has stopped taking anything, and its agents end by another shutdown
/// or with the last handle. Polled after it was ready it stops the fleet again, which is done at once.
#[must_use = "futures do nothing unless polled"]
pub struct FleetShutdown<T: Send + Sync + 'static, O: Send + Sync + 'static> {
    watch: Watch<T, O>,
    stage: Stage,
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Future for FleetShutdown<T, O> {
    type Output = Result<DrainReport, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { watch, stage } = &mut *self;
        let inner = Arc::clone(&watch.fleet.core.inner);
        if *stage == Stage::New {
            inner.refuse_on_worker("shut down")?;
            let call = inner.stop_taking(true).map(kept);
            watch.listen(call);
            *stage = Stage::Finishing;
        }
        watch.arm(cx);
        if *stage == Stage::Finishing {
            if !watch.sees(|state| inner.has_ended(state)) {
                return Poll::Pending;
            }
            inner.stop_agents();
            *stage = Stage::Leaving;
        }
        if *stage == Stage::Leaving {
            if !watch.sees(|state| state.workers.alive == 0) {
                return Poll::Pending;
            }
            inner.join_own_share();
            *stage = Stage::Joining;
        }
        if !watch.sees(|state| state.workers.joining.is_empty()) {
            return Poll::Pending;
        }
        *stage = Stage::New;
        Poll::Ready(Ok(watch.report()))
    }
}

/// An agent that is drained; made by [`Fleet::drain_agent_async`].
///
/// It keeps the fleet running, as a handle does.
///
/// # Cancel safety
/// It begins at the first poll. Dropped, the agent takes nothing new and handles what it has; it is ended by
/// [`drain_agent`](Fleet::drain_agent), [`retire`](Fleet::retire) or [`kill`](Fleet::kill), or
/// [serves again](Fleet::set_condition).
#[must_use = "futures do nothing unless polled"]
pub struct AgentDraining<T: Send + Sync + 'static, O: Send + Sync + 'static> {
    watch: Watch<T, O>,
    agent: AgentId,
    suspended: Option<Suspended>,
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Future for AgentDraining<T, O> {
    type Output = Result<AgentDrain, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { watch, agent, suspended } = &mut *self;
        let inner = watch.fleet.inner();
        let own = match suspended.take() {
            Some(own) => own,
            None => inner.begin_suspended(*agent)?,
        };
        watch.arm(cx);
        match inner.look_after(own, &watch.relay.waker()) {
            Ok(drain) => {
                inner.discard(watch.relay.set(None));
                Poll::Ready(Ok(drain))
            }
            Err(own) => {
                *suspended = Some(own);
                Poll::Pending
            }
        }
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Drop for AgentDraining<T, O> {
    fn drop(&mut self) {
        let inner = self.watch.fleet.inner();
        drop(self.suspended.take().map(|suspended| Draining::resume(inner, suspended)));
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> fmt::Debug for FleetDrain<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetDrain")
            .field("begun", &self.watch.call.is_some())
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> fmt::Debug for FleetShutdown<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetShutdown").field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> fmt::Debug for AgentDraining<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begun = self.suspended.is_some();
        let mut debug = f.debug_struct("AgentDraining");
        debug.field("agent", &self.agent).field("begun", &begun).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Fleet<T, O> {
    /// [Drains](Self::drain) the fleet without a thread: for async hosts. It is ready once all accepted tasks have ended
    /// and no message is left.
    ///
    /// It has no deadline: race it with a timer of your runtime, and drop it or call [`shutdown`](Self::shutdown) then.
    /// It drives nothing: in a [driven](super::FleetBuilder::driven) fleet something else has to. In an async handler
    /// of this fleet it would wait for itself, for ever.
    ///
    /// # Errors
    /// As [`drain`](Self::drain).
    pub fn drain_async(&self) -> FleetDrain<T, O> {
        FleetDrain { watch: Watch::new(self) }
    }

    /// [Shuts the fleet down](Self::shutdown) without waiting on a thread for what runs, for as long as that takes.
    ///
    /// What [`drain_async`](Self::drain_async) says of deadlines, driven fleets and handlers is true of it:
    /// `shutdown(Duration::ZERO)` strikes what still runs. Its last poll joins the threads, which have left their loop
    /// by then; but not its own, if a waker polls it on one of them: that one ends by itself, right after.
    ///
    /// # Errors
    /// As [`shutdown`](Self::shutdown).
    pub fn shutdown_async(&self) -> FleetShutdown<T, O> {
        FleetShutdown { watch: Watch::new(self), stage: Stage::New }
    }

    /// [Drains an agent](Self::drain_agent) without a thread, for as long as it takes.
    ///
    /// What [`drain_async`](Self::drain_async) says of deadlines, driven fleets and handlers is true of it:
    /// `drain_agent(agent, Duration::ZERO)` returns what waits still.
    ///
    /// # Errors
    /// As [`drain_agent`](Self::drain_agent).
    pub fn drain_agent_async(&self, agent: AgentId) -> AgentDraining<T, O> {
        AgentDraining { watch: Watch::new(self), agent, suspended: None }
    }
}
