//! A member of a group: how it asks for an event, and how it waits for one.
//!
//! The rules are those of [the module](super).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::super::dead_letters::attempt;
use super::super::error::{RecvError, RecvTimeoutError, TryRecvError};
use super::super::strategy::Patience;
use super::super::wait::{discard, first_of, pass_on};
use super::delivery::Delivery;
use super::waiters::Place;
use super::{Handle, Inner, Look};
use crate::sync::Parker;

/// One of those among whom the events of a [`Group`](super::Group) are shared out; dropping it leaves the group.
///
/// What a member was given and has not settled is taken back when the member is dropped, whoever holds the
/// [`Delivery`] by then, and goes to the other members. It goes to the member that it came back from
/// only if there is no other; so a member that exists is expected to receive.
pub struct Member<E> {
    id: u64,
    handle: Arc<Handle<E>>,
    /// Of the future that waits.
    place: Option<Place>,
    /// Made when it first parks.
    parker: Option<Parker>,
}

impl<E> Member<E> {
    pub(super) fn new(id: u64, handle: Arc<Handle<E>>) -> Self {
        Self { id, handle, place: None, parker: None }
    }

    /// Receives an event for this member alone; waits for it as the wait strategy of the bus says.
    ///
    /// Events that came back from others go before new ones, in the order in which they were published on their
    /// lane.
    ///
    /// # Errors
    ///
    /// [`RecvError::Lagged`] if the group fell behind and lost events, which are told of to one member;
    /// [`RecvError::Closed`] when the bus is closed, all was received, and nothing is pending that could still
    /// come back. A thread that waits here while it holds the last deliveries itself waits for ever, or until
    /// their time runs out: settle them first.
    ///
    /// # Panics
    ///
    /// If the payload's `Clone`, the filter's predicate or the waker of a publisher that waits for room panics, that
    /// panic passes through; the event is passed, and [`GroupStats::panicked`](super::GroupStats::panicked) counts
    /// it. A panic of a member's waker passes through too; then the event goes to another member.
    pub fn recv(&mut self) -> Result<Delivery<E>, RecvError>
    where
        E: Clone,
    {
        loop {
            if let Some(delivery) = self.wait(None)? {
                return Ok(delivery);
            }
        }
    }

    /// Receives an event if there is one that this member can have now. Never waits.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`], also when the pending list is full, while another member is taking an event, and
    /// after a run of 256 events that do not match; else as [`recv`](Self::recv).
    ///
    /// # Panics
    ///
    /// As [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Delivery<E>, TryRecvError>
    where
        E: Clone,
    {
        self.stop_waiting();
        match self.inner().look(self.id, false) {
            Look::Delivery(delivery) => Ok(delivery),
            Look::Error(error) => Err(error.into()),
            Look::Nothing => Err(TryRecvError::Empty),
        }
    }

    /// Receives an event; waits for it so long at most, by the clock of the bus.
    ///
    /// # Errors
    ///
    /// [`RecvTimeoutError::Timeout`]; else as [`recv`](Self::recv). A timeout of zero tries once.
    ///
    /// # Panics
    ///
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Delivery<E>, RecvTimeoutError>
    where
        E: Clone,
    {
        self.wait(Some(timeout))?.ok_or(RecvTimeoutError::Timeout)
    }

    /// Receives an event; the future is ready when there is one, on any executor.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    ///
    /// An event is taken in the poll that returns it and in no other: dropping the future loses nothing, and
    /// if it was woken, another member is woken in its place.
    ///
    /// # Panics
    ///
    /// As [`recv`](Self::recv), within the poll.
    pub fn recv_async(&mut self) -> RecvDelivery<'_, E>
    where
        E: Clone,
    {
        RecvDelivery { member: self }
    }

    fn inner(&self) -> &Arc<Inner<E>> {
        &self.handle.0
    }

    /// Leaves those who wait, to look; whether it was woken.
    fn leave_waiting(&mut self) -> bool {
        let place = self.place.take();
        place.is_some_and(|place| self.inner().waiters.leave(&place))
    }

    /// Leaves those who wait, not to look.
    fn stop_waiting(&mut self) {
        if self.leave_waiting() {
            self.inner().pass_on_wake();
        }
    }

    /// Looks until there is something to return; `None` if the time ran out first.
    fn wait(&mut self, timeout: Option<Duration>) -> Result<Option<Delivery<E>>, RecvError>
    where
        E: Clone,
    {
        self.stop_waiting();
        let inner = Arc::clone(self.inner());
        let mut backoff = Patience::new(inner.bus.strategy).begin();
        let mut deadline = None;
        let mut woken = false;
        loop {
            match self.look() {
                Look::Delivery(delivery) => return Ok(Some(delivery)),
                Look::Error(error) => return Err(error),
                Look::Nothing => {}
            }
            if let Some(timeout) = timeout {
                let now = inner.bus.clock.now();
                if now >= *deadline.get_or_insert(now + timeout) {
                    if woken {
                        inner.pass_on_wake();
                    }
                    return Ok(None);
                }
            }
            if backoff.again() {
                continue;
            }
            let waker = self.parker.get_or_insert_default().waker();
            match self.look_entered(&waker) {
                Look::Delivery(delivery) => return Ok(Some(delivery)),
                Look::Error(error) => return Err(error),
                Look::Nothing => {}
            }
            let parker = self.parker.get_or_insert_default();
            inner.bus.clock.park_until(parker, inner.look_again_at(deadline));
            woken = self.leave_waiting();
            backoff = Patience::new(inner.bus.strategy).begin();
        }
    }

    /// Looks, not being among those who wait.
    fn look(&mut self) -> Look<E>
    where
        E: Clone,
    {
        let looking = Looking(self);
        let look = looking.0.inner().look(looking.0.id, false);
        std::mem::forget(looking);
        look
    }

    /// Enters those who wait, and looks once more.
    fn look_entered(&mut self, waker: &Waker) -> Look<E>
    where
        E: Clone,
    {
        let looking = Looking(self);
        let waker = waker.clone();
        looking.0.place = Some(looking.0.inner().waiters.enter(looking.0.id, waker));
        let look = looking.0.inner().look(looking.0.id, true);
        std::mem::forget(looking);
        if !matches!(look, Look::Nothing) {
            self.stop_waiting();
        }
        look
    }
}

impl<E> Drop for Member<E> {
    fn drop(&mut self) {
        // If the drop of its waker panics, it may have been woken.
        let mut woken = true;
        let left = attempt(|| woken = self.leave_waiting());
        let inner = self.inner();
        let ((), done) = inner.change(|state, after| {
            state.leave(self.id, after, &inner.waiters);
            if woken {
                state.pass_on(after, &inner.waiters);
            }
        });
        pass_on(first_of(left, done));
    }
}

impl<E> fmt::Debug for Member<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A look that a panic may cut short: then others look for what this member was woken for, or will be.
struct Looking<'a, E>(&'a mut Member<E>);

impl<E> Drop for Looking<'_, E> {
    fn drop(&mut self) {
        // Two panics at once would end the process.
        discard(attempt(|| _ = self.0.leave_waiting()));
        self.0.inner().pass_on_wake();
    }
}

/// The future of [`Member::recv_async`].
#[must_use = "futures do nothing unless polled"]
pub struct RecvDelivery<'a, E> {
    member: &'a mut Member<E>,
}

impl<E: Clone> Future for RecvDelivery<'_, E> {
    type Output = Result<Delivery<E>, RecvError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let member = &mut *self.get_mut().member;
        member.leave_waiting();
        let mut look = member.look();
        if matches!(look, Look::Nothing) {
            look = member.look_entered(cx.waker());
        }
        match look {
            Look::Delivery(delivery) => Poll::Ready(Ok(delivery)),
            Look::Error(error) => Poll::Ready(Err(error)),
            Look::Nothing => Poll::Pending,
        }
    }
}

impl<E> Drop for RecvDelivery<'_, E> {
    fn drop(&mut self) {
        self.member.stop_waiting();
    }
}

impl<E> fmt::Debug for RecvDelivery<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvDelivery").field("member", &self.member).finish_non_exhaustive()
    }
}
