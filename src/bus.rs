//! The event bus: many publish, everyone who cares sees it, and no loss goes unreported.
//!
//! An [`EventBus`] is a bounded ring in memory. Every publisher writes each event once; every [`Subscriber`]
//! reads all of them in the same order, passing over what its [`Filter`] does not match. A subscription that
//! falls a full ring behind does what its [`Overflow`] says: it holds the publishers up, it loses the oldest
//! events and is told how many and from which sequence, or it fails the publication.
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
//! # Publishing
//!
//! A [`Publisher`] is shared: cloned, sent about, used by many threads at once. An [`ExclusivePublisher`] has a
//! lane to itself and costs less; while it lives, shared ones are refused, and it cannot be made beside them.
//! Both publish in the same ways, and whatever is not published is handed back:
//!
//! | way | if a [blocking](Overflow::Block) subscription is a full ring behind | if a [failing](Overflow::Fail) one is |
//! |---|---|---|
//! | [`publish`](Publisher::publish) | waits | `Full` |
//! | [`try_publish`](Publisher::try_publish) | `Full` | `Full` |
//! | [`publish_timeout`](Publisher::publish_timeout) | waits that long, then `Timeout` | `Full` |
//! | [`publish_async`](Publisher::publish_async) | is pending | `Full` |
//! | [`publish_with`](Publisher::publish_with), which makes the event in its place | waits | `Full` |
//! | [`publish_batch`](Publisher::publish_batch), which claims many places at a time | waits | `Full`, the rest left in the iterator |
//!
//! Publishers that wait are woken in the order in which they came. One that comes just then may still be faster.
//!
//! # Subscribing
//!
//! A subscription begins [now, at the oldest event of the ring, or at a sequence](Start), and ends when it is
//! dropped; publishing goes on meanwhile. What [`Start::Sequence`] asks for and the ring has lost is reported
//! first, whatever the policy.
//!
//! A [`Filter`] goes by topic (`task/*` is one further segment, `task/**` any number of them), by [`Source`], and
//! last by a predicate over the payload; topic and source are decided without a look at the payload. The
//! predicate runs on the reader's thread: in the ring for a subscription that publishers wait for or that
//! fails them, on a clone that nothing is pinned for in one that drops the oldest.
//!
//! A subscriber takes events as clones ([`recv`](Subscriber::recv), `try_`, `_timeout`, `_async`, or as a
//! stream), or many at a time by reference ([`for_each_batch`](Subscriber::for_each_batch), `try_`, `_async`).
//! A payload that is not `Clone` is
//! for [`subscribe_in_place`](EventBus::subscribe_in_place). Who waits does so by a [`WaitStrategy`], that of the bus
//! or [its own](Subscriber::with_wait_strategy): spin shortly and then park (the default), park, yield or spin. A
//! future parks by its waker and needs no particular executor.
//!
//! # Order and lanes
//!
//! - Within a lane there is one order, that of the sequences, and every subscription sees it. Events that one
//!   thread published on one lane stand in it in the order in which that thread published them.
//! - A bus has one lane unless it is [built with more](EventBusBuilder::lanes); each is a ring with sequences of its
//!   own. A subscription takes what lies on a more urgent lane (of a higher number) first, but not for ever: after
//!   64 events in a row another lane is asked first.
//! - Between lanes, and between threads that do not wait for each other, there is no other order.
//!
//! # What it guarantees
//!
//! - Nothing silent: for each subscription, what was published since it began is what it was handed, what its
//!   filter skipped, what it lost and was told of, and what still lies before it (see [`SubscriberStats`]).
//! - What is full says so, waits, or drops by the policy of the subscription; each of these has a counter.
//! - When the bus is [closed](EventBus::close), or the last handle that could publish is dropped, readers get
//!   what was published before, and then the end.
//! - Who waits is parked, and uses no processor, unless its strategy is to yield or to spin.
//! - Dropping a subscriber, a publisher or a future, at any moment, loses no wake-up of another.
//!
//! # Panics of the caller's code
//!
//! A panic passes through to whoever made the call, unless another one unwinds there already, and the bus is as
//! usable as before.
//!
//! | where | what becomes of it |
//! |---|---|
//! | the closure of `publish_with`, the iterator of a batch | its place becomes a tombstone: readers pass over it, the sequence is missing, [`BusStats::tombstones`] counts it |
//! | a handler of `for_each_batch` | ends that subscription, which from then on says [`HandlerPanicked`](RecvError::HandlerPanicked) and holds nobody up; the event becomes a dead letter; [`BusStats::handler_panics`] counts it |
//! | a payload's `Clone`, a predicate | the event is passed, counted as delivered or skipped |
//! | a payload's `Drop` in a publisher, whose event takes the place | the event is published all the same |
//! | a waker | everybody else is woken first |
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
//! [`DeadLetters`] receives what nobody could make use of, with the [reason](DeadLetterReason). It is bounded: when
//! it is full it loses its oldest letter and is told so, and nobody waits for it. [`BusStats::dead_letters`] counts
//! letters whether or not anybody receives them.
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
//! # What "lock-free" means here, and what it does not
//!
//! Publishing and receiving take no mutex while nobody is parked (groups apart), and a mutex is never held
//! while code of the caller runs. A shared publisher claims a place with one compare-and-swap, after it knows that
//! there is room; if it loses, another one has won: among claimers the path is lock-free, not wait-free. An
//! exclusive one is wait-free while there is room. A receive on a blocking subscription takes a bounded number
//! of steps (wait-free); on a drop-oldest one it may have to report a loss instead, in as many.
//!
//! It does *not* mean that no thread can hold another up:
//!
//! - A publisher that the system stops between its claim and the end of its write (a move of the payload, the
//!   closure of `publish_with`, what is left of a batch) holds up readers at that event, and publishers one lap later.
//! - A blocking subscription that is a full ring behind holds up publishers. That is what it is for.
//! - A drop-oldest subscription pins what it clones out: one event for a receive, up to 32 in a row for a
//!   batch, and what it passes between them, up to 256 headers for each. A publisher that wants a pinned slot waits
//!   for these clones, never for a handler or a predicate; `try_publish` says `Full`.
//! - Parking, and waking those who are parked, takes a mutex for a few instructions; so do subscribing,
//!   ending a subscription, making a topic, a subscription's first sight of a topic, and reading the
//!   statistics of the bus.
//!
//! # How it works, in short
//!
//! Each slot has a header of eight bytes (lap, topic, source) apart from its payload, and is published by one
//! release store of it. Each subscription has a gate: the oldest event that it still needs, if any. A publisher
//! looks at the gates once in a stride (a sixteenth of the ring, 256 events at most), with one fence, and not at
//! each event. A reader of a batch in place moves its gate every few events (an eighth of the ring, 64 at most).
//!
//! Who parks leaves a mark, has the kernel fence every thread of the process that runs (`membarrier`), and looks once
//! more; so a publisher learns of it by an ordinary load, without a fence of its own. Where the kernel does not lend
//! that barrier, both sides make ordinary fences, which costs a publication one (an exclusive one two), and a
//! reader one whenever its gate moves.
//!
//! A parked subscription is woken for the topics that it is for, by the last bits of their numbers (so now and
//! then in vain, as its sources and its predicate are not asked), and four times a lap whatever was published: so
//! one that nothing matches still moves on and holds nobody up for long.
//!
//! # What it is not
//!
//! It does not persist, does not cross processes, and keeps no event longer than a ring: that far back a
//! subscription may [start](Start), no further. It ends with its process, pending deliveries and dead letters
//! included.

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
pub use subscriber::{ForEachBatch, Overflow, Recv, Start, Subscriber};
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
    ///
    /// # Panics
    ///
    /// If this finds that a future that publishes may go on, and its waker panics, that panic passes through; the
    /// subscription has not begun then. Dropping a subscription may meet such a waker too; it has ended then.
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
    ///
    /// # Panics
    ///
    /// As [`subscribe`](Self::subscribe).
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
    ///
    /// # Panics
    ///
    /// As [`subscribe`](Self::subscribe).
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
