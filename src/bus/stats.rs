//! What the counters of a bus say.
//!
//! 1. Reading them disturbs nobody: publishers and readers write words of their own, relaxed, and never
//!    wait for whoever reads them.
//! 2. Every event that a subscription has passed is in exactly one of delivered, skipped and lagged.

/// Counters of a whole bus, since it was built; see [`EventBus::stats`](super::EventBus::stats).
///
/// While events flow, the counters are read one after another, not at one moment. At rest they are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BusStats {
    /// Events published (an event about to be written counts).
    pub published: u64,
    /// Events handed to subscriptions, each counted once for each subscription.
    pub delivered: u64,
    /// Events that subscriptions passed because their filters did not match.
    pub skipped: u64,
    /// Events that drop-oldest subscriptions lost.
    pub lagged: u64,
    /// Calls of `publish` and `publish_timeout` that found the ring full and waited.
    pub blocked_publishes: u64,
    /// Events handed back because the ring was full: to `try_publish`, or when a timeout passed.
    pub refused_publishes: u64,
    /// Subscriptions at present.
    pub subscribers: usize,
    /// How far the slowest subscription is behind, in events. For a drop-oldest one that is more than
    /// the capacity once events were lost that it was not told of yet.
    pub depth_max: u64,
    /// How many events the ring holds.
    pub capacity: usize,
}

/// Counters of one subscription; see [`Subscriber::stats`](super::Subscriber::stats).
///
/// `delivered + skipped + lagged + depth` is what was published since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriberStats {
    /// The subscription's number on its bus. The number of one that ended is given out again.
    pub id: usize,
    /// Events handed to the subscriber's code; one whose handler or `Clone` panicked counts.
    pub delivered: u64,
    /// Events passed because the filter did not match.
    pub skipped: u64,
    /// Events lost, and reported as [`Lagged`](super::RecvError::Lagged).
    pub lagged: u64,
    /// How far it is behind the newest event, in events.
    pub depth: u64,
}
