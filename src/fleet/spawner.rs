//! The seam to the host's executor, for handlers that are futures.

use std::future::Future;
use std::pin::Pin;

/// A future that an executor is given to run.
pub type SpawnedFuture = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// Runs futures: the host's executor, as the fleet sees it. A closure is one.
///
/// It is called outside the fleet's locks, by the worker that begins an attempt, and should not wait.
/// Whatever it does with the future, the attempt ends once: an executor that refuses drops it, which loses the
/// attempt ([`TaskErrorKind::Dropped`](super::TaskErrorKind::Dropped)) and leaves the task another one if it
/// has any left; if it panics, the panic is caught and counted, and the attempt is lost if the future was
/// dropped. One that keeps a future and never polls it keeps the agent's lease until a
/// [kill](super::Fleet::kill): the task's [timeout](super::Task::timeout) ends the task, not the future.
///
/// What comes of an attempt is recorded by the thread that polls or drops its future: the verifier, the log
/// and the observer are called there.
///
/// ```
/// use phalanx::fleet::{Spawner, SpawnedFuture};
///
/// struct OnTokio(tokio::runtime::Handle);
///
/// impl Spawner for OnTokio {
///     fn spawn(&self, future: SpawnedFuture) {
///         self.0.spawn(future);
///     }
/// }
/// ```
pub trait Spawner: Send + Sync {
    /// Takes a future, and polls it until it is ready.
    fn spawn(&self, future: SpawnedFuture);
}

impl<F: Fn(SpawnedFuture) + Send + Sync> Spawner for F {
    fn spawn(&self, future: SpawnedFuture) {
        self(future);
    }
}
