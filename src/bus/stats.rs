//! What the counters of a bus say.
//!
//! 1. Reading them disturbs nobody: publishers and readers write words of their own, relaxed, and never
//!    wait for whoever reads them.
//! 2. Every event that a subscription has passed is in exactly one of delivered, skipped and lagged; what lay
//!    before one when it ended is dropped.

use std::time::Duration;

use super::lane::LaneStats;
use super::registry::Counts;

/// Counters of a whole bus, since it was built; see [`EventBus::stats`](super::EventBus::stats).
///
/// While events flow, the counters are read one after another, not at one moment. At rest they are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BusStats {
    /// Events published (an event about to be written counts, and so does a tombstone).
    pub published: u64,
    /// Events handed to subscriptions, each counted once for each subscription.
    pub delivered: u64,
    /// Events that subscriptions passed because their filters did not match.
    pub skipped: u64,
    /// Events that drop-oldest subscriptions lost, or that were gone when a replay asked for them.
    pub lagged: u64,
    /// Events that still lay before subscriptions when they ended.
    pub dropped: u64,
    /// Publications that panicked before their event was made.
    pub tombstones: u64,
    /// Publications that found the ring full, or the slot's last writer not done, and waited.
    pub blocked_publishes: u64,
    /// For how long they waited, in sum; a future from the poll that found no room until it is ready or dropped.
    pub blocked_time: Duration,
    /// Publications refused because the ring was full: to `try_publish`, when a timeout passed, or in whatever way
    /// to the publisher that a [failing](super::Overflow::Fail) subscription fails. A batch counts once.
    pub refused_publishes: u64,
    /// Subscriptions that ended because a handler of theirs panicked.
    pub handler_panics: u64,
    /// Events that became dead letters, whether or not somebody subscribes to those.
    pub dead_letters: u64,
    /// Subscriptions at present.
    pub subscribers: usize,
    /// How far the slowest subscription is behind, in events of one lane. For a drop-oldest one that is more
    /// than the capacity once events were lost that it was not told of yet.
    pub depth_max: u64,
    /// How many events the ring holds; of all lanes together.
    pub capacity: usize,
}

impl BusStats {
    pub(super) fn add(&mut self, counts: &Counts, lane: &LaneStats) {
        self.delivered += counts.delivered;
        self.skipped += counts.skipped;
        self.lagged += counts.lagged;
        self.dropped += counts.dropped;
        self.tombstones += lane.tombstones;
        self.blocked_publishes += lane.blocked;
        self.blocked_time += Duration::from_nanos(lane.blocked_ns);
        self.refused_publishes += lane.refused;
    }
}

/// Counters of one subscription; see [`Subscriber::stats`](super::Subscriber::stats).
///
/// `delivered + skipped + lagged + dropped + depth` is what was published since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriberStats {
    /// The subscription's number on its bus. The number of one that ended is given out again.
    pub id: usize,
    /// Events handed to the subscriber's code; one whose handler or `Clone` panicked counts.
    pub delivered: u64,
    /// Events passed because the filter did not match, or because their publication panicked.
    pub skipped: u64,
    /// Events lost, and reported as [`Lagged`](super::RecvError::Lagged).
    pub lagged: u64,
    /// Events that still lay before it when a handler's panic ended it.
    pub dropped: u64,
    /// For how long publishers waited that found it a full ring behind, in sum.
    pub blocked_time: Duration,
    /// How far it is behind the newest event, in events; of all lanes together.
    pub depth: u64,
}

impl SubscriberStats {
    pub(super) fn add(&mut self, counts: &Counts, depth: u64) {
        self.delivered += counts.delivered;
        self.skipped += counts.skipped;
        self.lagged += counts.lagged;
        self.blocked_time += Duration::from_nanos(counts.blocked_ns);
        self.depth += depth;
    }
}
