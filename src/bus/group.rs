//! Groups: each event goes to one member, and comes back until it is acknowledged or dead.
//!
//! 1. A group reads the ring through one subscription, which one member at a time takes out, reads, and puts
//!    back. No lock is held meanwhile, so a `Clone`, a predicate or a waker that panics or takes its time leaves
//!    the group usable; a guard puts the subscription back whatever happens.
//! 2. An event leaves the ring as a clone, in the moment in which it becomes pending. So nothing that a member
//!    does or fails to do holds the ring's slot.
//! 3. An event is held by one delivery at most. One that was taken back cannot be acknowledged any more.
//! 4. While somebody waits, an event that a member could have is on its way to one: the subscription is armed
//!    with the waker of the group, or somebody was woken for it and has not looked yet, or it waits for room or
//!    for a member that is allowed to have it. Whoever takes an event out while others wait sees to the next.
//! 5. Whoever was woken and does not look passes the wake on; if a waker panics, who wakes does.
//! 6. The group ends with its last handle and member; a delivery does not keep it.

mod delivery;
#[cfg(all(test, phalanx_loom))]
mod loom_tests;
mod member;
#[cfg(all(test, feature = "test-util", not(any(phalanx_loom, phalanx_shuttle))))]
mod model_tests;
mod state;
mod waiters;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::dead_letters::{Pen, attempt};
use super::error::RecvError;
use super::filter::Filter;
use super::shared::Shared;
use super::subscriber::{Overflow, Start, Subscriber};
use super::wait::{Panic, discard, first_of, pass_on};
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Timestamp};

use self::state::{Aftermath, Begin, Handed, Limits, State};
use self::waiters::Waiters;

pub use self::delivery::{Delivery, StaleDelivery};
pub use self::member::{Member, RecvDelivery};

const DEFAULT_PENDING_MAX: usize = 1024;
const DEFAULT_ATTEMPTS_MAX: u32 = 5;

/// Makes a [`Group`]; see [`EventBus::group`](super::EventBus::group).
#[must_use]
pub struct GroupBuilder<E> {
    bus: Arc<Shared<E>>,
    filter: Filter<E>,
    overflow: Overflow,
    start: Start,
    limits: Limits,
}

impl<E> GroupBuilder<E> {
    pub(super) fn new(bus: Arc<Shared<E>>, filter: Filter<E>, overflow: Overflow) -> Self {
        let limits = Limits {
            pending_max: DEFAULT_PENDING_MAX,
            attempts_max: DEFAULT_ATTEMPTS_MAX,
            ack_timeout: None,
        };
        Self { bus, filter, overflow, start: Start::Now, limits }
    }

    /// How many events may be pending: taken from the ring and neither acknowledged nor dead. At least 1.
    /// Default: 1024.
    ///
    /// When so many are, members get none but those that came back, and the group's overflow policy says what
    /// happens at the ring. [`GroupStats::full`] counts it. Each takes the event and some 150 bytes.
    pub fn pending_max(mut self, events: usize) -> Self {
        self.limits.pending_max = events;
        self
    }

    /// How often an event is delivered at most, before it is a dead letter. At least 1. Default: 5.
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.limits.attempts_max = attempts;
        self
    }

    /// For how long a member may hold a delivery, by the clock of the bus, before it is taken back and counts as
    /// a failed attempt. More than zero. Default: for ever.
    ///
    /// No thread is started for that. Deliveries that are overdue are taken back by whoever receives next, and
    /// by threads that wait in [`Member::recv`] or [`Member::recv_timeout`], which look at least once in that
    /// time; where all members wait in futures, let a timer call [`Group::take_back_overdue`]. An
    /// acknowledgement that comes before anybody looked is in time.
    pub fn ack_timeout(mut self, timeout: Duration) -> Self {
        self.limits.ack_timeout = Some(timeout);
        self
    }

    /// Where it begins. Default: [`Start::Now`].
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Begins the group's subscription. What is published from here on waits for the first member.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for a limit or a timeout of zero, and as
    /// [`EventBus::subscribe_from`](super::EventBus::subscribe_from).
    pub fn build(self) -> Result<Group<E>, Error>
    where
        E: Clone,
    {
        let Self { bus, filter, overflow, start, limits } = self;
        let zero = [
            ("pending_max", limits.pending_max == 0),
            ("attempts_max", limits.attempts_max == 0),
            ("ack_timeout", limits.ack_timeout == Some(Duration::ZERO)),
        ];
        if let Some((name, _)) = zero.iter().find(|(_, is_zero)| *is_zero) {
            let message = format!("the {name} of a group is more than zero");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let subscriber =
            Subscriber::new(Arc::clone(&bus), filter, overflow, start, Some(E::clone))?;
        let pen = Pen::new(&bus.letters);
        let waiters = Arc::new(Waiters::new());
        let inner = Inner {
            state: Mutex::new(State::new(subscriber, pen, limits)),
            alarm: Waker::from(Arc::clone(&waiters)),
            waiters,
            bus,
            ack_timeout: limits.ack_timeout,
        };
        Ok(Group { handle: Arc::new(Handle(Arc::new(inner))) })
    }
}

impl<E> fmt::Debug for GroupBuilder<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupBuilder")
            .field("filter", &self.filter)
            .field("overflow", &self.overflow)
            .field("start", &self.start)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Counters of a group; see [`Group::stats`].
///
/// `delivered - redelivered` events left the ring; as many are acknowledged, dead or pending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStats {
    /// Deliveries to members.
    pub delivered: u64,
    /// Of those, deliveries of an event that had been delivered before.
    pub redelivered: u64,
    /// Events that a member acknowledged.
    pub acknowledged: u64,
    /// Events that became dead letters.
    pub dead_lettered: u64,
    /// Events that were taken from the ring and are neither acknowledged nor dead.
    pub pending: usize,
    /// Members at present.
    pub members: usize,
    /// Deliveries that were taken back because their time ran out.
    pub timed_out: u64,
    /// Acknowledgements and rejections refused because their delivery had been taken back.
    pub stale: u64,
    /// Events that the group lost because it fell behind; each loss was told to one member.
    pub lagged: u64,
    /// Receives in which the payload's `Clone`, the filter's predicate or the waker of a publisher panicked, which
    /// passes the event.
    pub panicked: u64,
    /// Times that a member began to wait because the pending list was full.
    pub full: u64,
}

/// A subscription whose events are shared out among members; see [`EventBus::group`](super::EventBus::group).
///
/// Cheap to clone; clones are the same group. It ends when its last handle and member are dropped: what is
/// pending then becomes dead letters ([`Unacknowledged`](super::DeadLetterReason::Unacknowledged)), and the ring
/// owes it nothing any more. A group without members still holds its place in the ring.
pub struct Group<E> {
    handle: Arc<Handle<E>>,
}

impl<E> Group<E> {
    /// A further member.
    #[must_use]
    pub fn member(&self) -> Member<E> {
        let id = self.handle.0.state.lock().join();
        Member::new(id, Arc::clone(&self.handle))
    }

    /// The counters of this group.
    #[must_use]
    pub fn stats(&self) -> GroupStats {
        self.handle.0.state.lock().stats()
    }

    /// Takes back the deliveries whose time ran out; says how many. O(log pending) for each.
    ///
    /// For hosts whose members all wait in futures: see [`GroupBuilder::ack_timeout`].
    ///
    /// # Panics
    ///
    /// A panic of somebody's waker passes through once everything is done.
    pub fn take_back_overdue(&self) -> usize {
        let inner = &self.handle.0;
        let now = inner.now();
        let (overdue, done) =
            inner.change(|state, after| state.take_back_overdue(now, after, &inner.waiters));
        pass_on(done);
        overdue
    }

    /// In how long the next delivery is overdue; `None` if no delivery has a deadline.
    #[must_use]
    pub fn next_overdue(&self) -> Option<Duration> {
        let deadline = self.handle.0.state.lock().next_deadline();
        deadline.map(|deadline| deadline - self.handle.0.now())
    }
}

impl<E> Clone for Group<E> {
    fn clone(&self) -> Self {
        Self { handle: Arc::clone(&self.handle) }
    }
}

impl<E> fmt::Debug for Group<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Ends the group with the last of its handles and members.
struct Handle<E>(Arc<Inner<E>>);

impl<E> Drop for Handle<E> {
    fn drop(&mut self) {
        let mut last = None;
        let (_, mut done) = self.0.change(|state, after| {
            let source = state.end(after);
            after.complete(state);
            last = Some((source, state.pen.take()));
        });
        // The subscription's end may wake publishers.
        done = first_of(done, attempt(|| drop(last)));
        pass_on(done);
    }
}

struct Inner<E> {
    state: Mutex<State<E>>,
    waiters: Arc<Waiters>,
    /// The waiters as the waker of the subscription.
    alarm: Waker,
    bus: Arc<Shared<E>>,
    ack_timeout: Option<Duration>,
}

/// What a member found.
enum Look<E> {
    Delivery(Delivery<E>),
    Error(RecvError),
    Nothing,
}

impl<E> Inner<E> {
    /// Makes a change under the lock, and runs what it brings about without.
    fn change<R>(
        &self,
        change: impl FnOnce(&mut State<E>, &mut Aftermath<E>) -> R,
    ) -> (R, Result<(), Panic>) {
        let mut after = Aftermath::new();
        let result = {
            let mut state = self.state.lock();
            let result = change(&mut state, &mut after);
            after.complete(&state);
            #[cfg(test)]
            state.validate();
            result
        };
        (result, self.run(after))
    }

    /// Runs what a change brings about; others are woken for those whose wakers panic (rule 5 of the file).
    fn run(&self, after: Aftermath<E>) -> Result<(), Panic> {
        let mut done = after.run();
        let mut is_complete = done.is_ok();
        while !is_complete {
            let mut after = Aftermath::new();
            self.state.lock().pass_on(&mut after, &self.waiters);
            let again = after.run();
            is_complete = again.is_ok();
            done = first_of(done, again);
        }
        done
    }

    /// The time, if it matters.
    fn now(&self) -> Timestamp {
        self.ack_timeout.map_or(Timestamp::ZERO, |_| self.bus.clock.now())
    }

    fn delivery(self: &Arc<Self>, handed: Handed<E>) -> Delivery<E> {
        Delivery::new(Arc::clone(self), handed)
    }

    /// Takes what there is for a member. One that is going to wait arms the subscription, or is woken when it
    /// is back.
    fn look(self: &Arc<Self>, member: u64, waits: bool) -> Look<E>
    where
        E: Clone,
    {
        let now = self.now();
        let (begin, done) = self.change(|state, after| {
            state.take_back_overdue(now, after, &self.waiters);
            let begin = state.begin(member, waits, now);
            if matches!(begin, Begin::Take(_)) {
                // It may have been woken for an event in the ring.
                after.wakers.extend(self.waiters.first());
            }
            begin
        });
        match begin {
            Begin::Take(handed) => {
                let delivery = self.delivery(handed);
                pass_on(done);
                Look::Delivery(delivery)
            }
            Begin::Read(subscriber, room) => {
                let subscriber = Some(subscriber);
                let reading = Reading { group: self, subscriber, has_begun: false };
                pass_on(done);
                reading.read(member, waits, room)
            }
            Begin::Nothing => {
                pass_on(done);
                Look::Nothing
            }
            Begin::Closed => {
                pass_on(done);
                Look::Error(RecvError::Closed)
            }
        }
    }

    /// When a thread that waits has to look again, unless it is woken.
    fn look_again_at(&self, deadline: Option<Timestamp>) -> Option<Timestamp> {
        let Some(timeout) = self.ack_timeout else { return deadline };
        let overdue = self.state.lock().next_deadline();
        // What is delivered later is overdue later than this.
        let idle = self.bus.clock.now() + timeout;
        let again = overdue.map_or(idle, |overdue| overdue.min(idle));
        Some(deadline.map_or(again, |deadline| deadline.min(again)))
    }

    /// Somebody who was woken does not look (rule 5 of the file).
    fn pass_on_wake(&self) {
        let ((), done) = self.change(|state, after| state.pass_on(after, &self.waiters));
        pass_on(done);
    }
}

/// The group's subscription, taken out (rule 1 of the file).
struct Reading<'a, E> {
    group: &'a Arc<Inner<E>>,
    subscriber: Option<Box<Subscriber<E>>>,
    has_begun: bool,
}

impl<E> Reading<'_, E> {
    /// Reads one event, and puts the subscription back; `room` says whether another one may follow.
    fn read(mut self, member: u64, waits: bool, room: bool) -> Look<E>
    where
        E: Clone,
    {
        let group = self.group;
        self.has_begun = true;
        let subscriber = self.subscriber.as_mut().expect("it is put back once, at the end");
        let polled = if waits {
            subscriber.poll(&mut Context::from_waker(&group.alarm), Subscriber::take_cloned)
        } else {
            subscriber.poll_now()
        };
        let read = match polled {
            Poll::Pending => None,
            Poll::Ready(Ok(event)) => Some(Ok(Arc::new(event))),
            Poll::Ready(Err(error)) => Some(Err(error)),
        };
        let may_follow = match &read {
            Some(Ok(_)) => room,
            // A loss takes no room.
            Some(Err(RecvError::Lagged { .. })) => true,
            _ => false,
        };
        let follows = may_follow && !group.waiters.is_empty() && !subscriber.arm(&group.alarm);
        let now = group.now();
        let subscriber = self.subscriber.take();
        let ((found, ended), mut done) = group.change(|state, after| {
            let mut is_end = false;
            let found = match read {
                None => Ok(None),
                Some(Ok(event)) => Ok(Some(state.taken(event, member, now))),
                Some(Err(error)) => {
                    match error {
                        RecvError::Lagged { missed, .. } => state.stats.lagged += missed,
                        _ => is_end = true,
                    }
                    Err(error)
                }
            };
            let ended = state.put_back(subscriber, is_end, follows, after, &group.waiters);
            // What is pending may still come back.
            let waits_on = is_end && !state.is_over();
            (if waits_on { Ok(None) } else { found }, ended)
        });
        let look = match found {
            Ok(Some(handed)) => Look::Delivery(group.delivery(handed)),
            Ok(None) => Look::Nothing,
            Err(error) => Look::Error(error),
        };
        // Its end may wake publishers.
        done = first_of(done, attempt(|| drop(ended)));
        pass_on(done);
        look
    }
}

impl<E> Drop for Reading<'_, E> {
    /// A `Clone`, a predicate or a waker panicked.
    fn drop(&mut self) {
        if let Some(subscriber) = self.subscriber.take() {
            let (_, done) = self.group.change(|state, after| {
                state.stats.panicked += u64::from(self.has_begun);
                state.put_back(Some(subscriber), false, true, after, &self.group.waiters)
            });
            // Two panics at once would end the process.
            discard(done);
        }
    }
}
