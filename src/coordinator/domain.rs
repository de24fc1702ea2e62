//! The types that are the host's own, in one place.

/// Names the types that a host puts into its coordinator.
///
/// One trait instead of five parameters: `Coordinator<MyHost>` says it all.
///
/// ```
/// use phalanx::coordinator::Domain;
/// use std::sync::Arc;
///
/// struct Crawler;
/// impl Domain for Crawler {
///     type Task = String; // a url
///     type Output = usize; // bytes fetched
///     type Event = (); // nothing of its own on the bus
///     type Key = String;
///     type Value = Arc<str>;
/// }
/// ```
pub trait Domain: 'static {
    /// What an agent is asked to do. Durable tasks need serde's traits as well.
    type Task: Clone + Send + Sync + 'static;
    /// What comes of it.
    type Output: Clone + Send + Sync + 'static;
    /// What the host itself publishes; it rides the bus beside the library's own notices.
    type Event: Clone + Send + Sync + 'static;
    /// The keys of the shared cache; `()` where there is none to share.
    type Key: Clone + Eq + std::hash::Hash + Send + Sync + 'static;
    /// The values of the shared cache: cheap to clone, so an `Arc` for anything large.
    type Value: Clone + Send + Sync + 'static;
}
