//! The event bus: many publish, everyone who cares sees it, and no loss goes unreported.
//!
//! An [`EventBus`] is a bounded ring in memory. Every [`Publisher`] writes each event once; every
//! [`Subscriber`] reads all of them in the same order, passing over what its [`Filter`] does not match. A
//! subscription that falls a full ring behind does what its [`Overflow`] says: it holds the publishers up, or
//! it loses the oldest events and is told how many and from which sequence.
//!
//! ```
//! use phalanx::bus::{EventBus, Filter, Overflow};
//!
//! let bus = EventBus::builder().capacity(1024).build()?;
//! let done = bus.topic("task/completed")?;
//! let mut tasks = bus.subscribe(Filter::topics(["task/*"])?, Overflow::Block);
//!
//! bus.publisher().publish(done, "index src/lib.rs")?;
//!
//! let event = tasks.recv()?;
//! assert_eq!((event.sequence, event.topic, event.payload), (0, done, "index src/lib.rs"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it guarantees
//!
//! - One order: all subscriptions see the events in the order of their sequences, and the events of one
//!   thread in the order in which that thread published them.
//! - Nothing silent: for each subscription, what was published since it began is what it was handed, what its
//!   filter skipped, what it lost and was told of, and what still lies before it.
//! - A handler, a waker, a `Clone` or a `Drop` of a payload that panics leaves the bus as usable as before. So does
//!   dropping a subscriber, a publisher or a future at any moment. The panic itself passes through.
//! - Who waits is parked, and uses no processor.
//! - When the bus is [closed](EventBus::close), or the last handle that could publish is dropped, readers get
//!   what was published before, and then the end.
//!
//! # What "lock-free" means here, and what it does not
//!
//! Publishing and receiving take no mutex while nobody is parked, and a mutex is never held while code of
//! the caller runs. A publisher claims a position with one compare-and-swap, after it knows that there is
//! room; if it loses, another one has won: among claimers the path is lock-free, not wait-free. A receive on
//! a blocking subscription takes a bounded number of steps (wait-free); on a drop-oldest one it may have to
//! report a loss instead, in as many.
//!
//! It does *not* mean that no thread can hold another up:
//!
//! - A publisher that the system stops between its claim and the end of its write (a move of the payload)
//!   holds up readers at that event, and publishers one lap later.
//! - A blocking subscription that is a full ring behind holds up publishers. That is what it is for.
//! - A drop-oldest subscription pins the event that it clones out. A publisher that wants just that slot waits
//!   for that one clone (and for a look at 64 topics at most), never for a handler; `try_publish` says `Full`.
//! - Parking, and waking those who are parked, takes a mutex for a few instructions; so do subscribing,
//!   ending a subscription, making a topic, a subscription's first sight of a topic, and reading the
//!   statistics of the bus.
//!
//! # Groups and dead letters
//!
//! A [`Group`] is one subscription for many [`Member`]s: each event goes to one of them, which
//! [acknowledges](Delivery::ack) it. What it promises:
//!
//! - At least once: an event that the group took is delivered until a member acknowledges it, or it is a dead
//!   letter, for a reason that is told.
//! - One member at a time: an event lies with one delivery, and once that is taken back it can no longer be
//!   acknowledged. It comes back when a member returns, drops or (if the group has a timeout) overstays it, or is
//!   gone, by a panic or not; then it goes to another member, before newer events.
//! - Nothing that a member does holds the ring. What was taken and not acknowledged lies in a list of bounded
//!   length; when that is full, members get nothing new, and the group falls behind like any subscription.
//! - It takes a lock for each delivery and each acknowledgement, which publishers never take but to wake a
//!   member that waits.
//!
//! Members are not ordered among each other: two events may be dealt with in any order. A group that is
//! built to drop the oldest events is told of its losses as [`Lagged`](RecvError::Lagged); what is lost there is
//! overwritten, and so no dead letter.
//!
//! ```
//! use phalanx::bus::{DeadLetterReason, EventBus, Filter, Overflow};
//!
//! let bus = EventBus::builder().capacity(1024).build()?;
//! let topic = bus.topic("task/submitted")?;
//! let mut dead = bus.dead_letters(100);
//! let group = bus.group(Filter::all(), Overflow::Block).attempts_max(2).build()?;
//! let (mut first, mut second) = (group.member(), group.member());
//! bus.publisher().publish(topic, "index")?;
//!
//! first.recv()?.nack();
//! let again = second.recv()?;
//! assert_eq!((again.attempt(), *again.payload()), (2, "index"));
//! drop(again);
//!
//! let letter = dead.recv()?;
//! assert_eq!(letter.reason(), DeadLetterReason::AttemptsExhausted { attempts: 2 });
//! assert_eq!((letter.event().payload, bus.stats().dead_letters), ("index", 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it is not
//!
//! It does not persist, does not cross processes, and keeps no event longer than a ring: that far back a
//! subscription may [start](Start), no further.

mod builder;
mod dead_letters;
mod error;
mod event;
mod exclusive;
mod filter;
mod group;
mod header;
mod lane;
#[cfg(all(test, phalanx_loom))]
mod loom_tests;
#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod model_tests;
mod pattern;
mod position;
mod publish;
mod publisher;
mod reader;
mod registry;
mod ring;
mod shared;
#[cfg(all(test, phalanx_shuttle))]
mod shuttle_tests;
mod slots;
mod source;
mod stats;
mod strategy;
mod stream;
mod subscriber;
mod topic;
mod turns;
mod wait;

use std::fmt;
use std::sync::Arc;

use crate::{Error, ErrorKind};

use self::lane::Lane;
use self::shared::{Owner, Shared};

pub use builder::EventBusBuilder;
pub use dead_letters::{DeadLetter, DeadLetterReason, DeadLetters, RecvDeadLetter};
pub use error::TryRecvError;
pub use error::{
    PublishBatchError, PublishError, PublishTimeoutError, RecvError, RecvTimeoutError,
    TryPublishError,
};
pub use event::Event;
pub use exclusive::ExclusivePublisher;
pub use filter::Filter;
pub use group::{Delivery, Group, GroupBuilder, GroupStats, Member, RecvDelivery, StaleDelivery};
pub use publish::Publish;
pub use publisher::Publisher;
pub use source::Source;
pub use stats::{BusStats, SubscriberStats};
pub use strategy::WaitStrategy;
pub use subscriber::{Overflow, Recv, Start, Subscriber};
pub use topic::Topic;

/// A bounded broadcast of events `E`; see [the module](self).
///
/// Cheap to clone; clones are the same bus. The bus closes when the last `EventBus` and [`Publisher`] of it
/// are dropped.
pub struct EventBus<E> {
    owner: Arc<Owner<E>>,
}

impl<E> EventBus<E> {
    /// Starts making a bus; each setting has a default.
    pub fn builder() -> EventBusBuilder<E> {
        EventBusBuilder::new()
    }

    fn shared(&self) -> &Arc<Shared<E>> {
        self.owner.shared()
    }

    /// A publisher to lane 0, of which there may be any number.
    #[must_use]
    pub fn publisher(&self) -> Publisher<E> {
        self.shared_publisher(&self.shared().lanes()[0])
    }

    /// A publisher to a lane; the higher its number, the more urgent. See [`EventBusBuilder::lanes`].
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the bus has no such lane.
    pub fn publisher_to(&self, lane: u8) -> Result<Publisher<E>, Error> {
        Ok(self.shared_publisher(self.lane(lane)?))
    }

    fn shared_publisher(&self, lane: &Arc<Lane<E>>) -> Publisher<E> {
        Publisher::new(Arc::clone(&self.owner), Arc::clone(lane), Source::UNNAMED)
    }

    /// The one publisher to lane 0, which publishes for less; see [`ExclusivePublisher`].
    ///
    /// # Errors
    ///
    /// [`InUse`](crate::ErrorKind::InUse) if the lane has a publisher; [`Closed`](crate::ErrorKind::Closed) if
    /// the bus is closed.
    pub fn exclusive_publisher(&self) -> Result<ExclusivePublisher<E>, Error> {
        self.exclusive_publisher_to(0)
    }

    /// The one publisher to a lane.
    ///
    /// # Errors
    ///
    /// As [`exclusive_publisher`](Self::exclusive_publisher) and [`publisher_to`](Self::publisher_to).
    pub fn exclusive_publisher_to(&self, lane: u8) -> Result<ExclusivePublisher<E>, Error> {
        ExclusivePublisher::new(Arc::clone(&self.owner), Arc::clone(self.lane(lane)?))
    }

    fn lane(&self, lane: u8) -> Result<&Arc<Lane<E>>, Error> {
        let lanes = self.shared().lanes();
        lanes.get(usize::from(lane)).ok_or_else(|| {
            let message =
                format!("there is no lane {lane}: the bus was built with {}", lanes.len());
            Error::new(ErrorKind::InvalidArgument, message)
        })
    }

    /// Begins a subscription at the present; publishing goes on meanwhile.
    ///
    /// It starts with the next event claimed after this call began, and at the latest with the first whose
    /// publication begins after it returned. On a closed bus it is at its end at once.
    ///
    /// A bus has as many subscriptions as are made; each takes some 500 bytes, and room for the largest
    /// number at any one time is kept until the bus is gone. Publishers look at all of them once in a
    /// sixteenth of the ring (256 events at most), more often while they are held up.
    pub fn subscribe(&self, filter: Filter<E>, overflow: Overflow) -> Subscriber<E>
    where
        E: Clone,
    {
        self.begin(filter, overflow, Some(E::clone))
    }

    /// Begins a subscription at the present, the past, or a sequence.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a [`Start::Sequence`] that is beyond the next
    /// event, or on a bus of several lanes.
    pub fn subscribe_from(
        &self,
        filter: Filter<E>,
        overflow: Overflow,
        start: Start,
    ) -> Result<Subscriber<E>, Error>
    where
        E: Clone,
    {
        Subscriber::new(Arc::clone(self.shared()), filter, overflow, start, Some(E::clone))
    }

    /// Begins an [`Overflow::Block`] subscription to payloads that need not be `Clone`: they are read in
    /// place, by [`Subscriber::for_each_batch`].
    pub fn subscribe_in_place(&self, filter: Filter<E>) -> Subscriber<E> {
        self.begin(filter, Overflow::Block, None)
    }

    fn begin(
        &self,
        filter: Filter<E>,
        overflow: Overflow,
        clone: Option<fn(&E) -> E>,
    ) -> Subscriber<E> {
        Subscriber::new(Arc::clone(self.shared()), filter, overflow, Start::Now, clone)
            .expect("the present is where every subscription may start")
    }

    /// Starts making a group: a subscription whose events are shared out among members, each event to one,
    /// which acknowledges it. See [the section above](self#groups-and-dead-letters).
    ///
    /// The overflow policy says what happens when the group falls a full ring behind, which a full list of
    /// pending events may bring about.
    pub fn group(&self, filter: Filter<E>, overflow: Overflow) -> GroupBuilder<E> {
        GroupBuilder::new(Arc::clone(self.shared()), filter, overflow)
    }

    /// Begins a subscription to dead letters that holds so many at most. See
    /// [the section above](self#groups-and-dead-letters).
    ///
    /// One of capacity zero holds none, and is told how many there were.
    #[must_use]
    pub fn dead_letters(&self, capacity: usize) -> DeadLetters<E> {
        let shared = self.shared();
        DeadLetters::new(Arc::clone(&shared.letters), shared.clock.clone(), capacity)
    }

    /// The topic of a name, made if it is new. Takes a lock; keep the topic rather than ask again.
    ///
    /// A name is one or more segments parted by slashes, as in `task/completed`; 255 bytes at most.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for an empty or too long name, an empty segment,
    /// or a star, which only filters take; [`LimitReached`](crate::ErrorKind::LimitReached) if the bus has
    /// as many topics as it was [built for](EventBusBuilder::topics_max).
    pub fn topic(&self, name: &str) -> Result<Topic, Error> {
        self.shared().intern(name)
    }

    /// The name of a topic of this bus. Takes a lock.
    #[must_use]
    pub fn topic_name(&self, topic: Topic) -> Option<Arc<str>> {
        self.shared().topics.name(topic)
    }

    /// Ends publishing: publishers get `Closed`, those that wait included; readers get what was published
    /// before, and then `Closed`. Again on a closed bus it does nothing.
    ///
    /// # Panics
    ///
    /// If the waker of a future that waits panics, that panic passes through once everybody was woken.
    pub fn close(&self) {
        if let Err(panic) = self.shared().close() {
            std::panic::resume_unwind(panic);
        }
    }

    /// Whether the bus was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared().is_closed()
    }

    /// How many events the ring of each lane holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared().lanes()[0].ring.capacity() as usize
    }

    /// How many lanes there are.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.shared().lanes().len()
    }

    /// The counters of the whole bus, past subscriptions included.
    ///
    /// Disturbs neither publishers nor readers; takes the lock of those who begin and end subscriptions.
    /// O(subscriptions).
    #[must_use]
    pub fn stats(&self) -> BusStats {
        self.shared().stats()
    }

    /// The counters of each present subscription; as [`stats`](Self::stats).
    #[must_use]
    pub fn subscriber_stats(&self) -> Vec<SubscriberStats> {
        self.shared().subscriber_stats()
    }
}

impl<E> Clone for EventBus<E> {
    fn clone(&self) -> Self {
        Self { owner: Arc::clone(&self.owner) }
    }
}

impl<E> fmt::Debug for EventBus<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBus").field("lanes", &self.shared().lanes()).finish_non_exhaustive()
    }
}
