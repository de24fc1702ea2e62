//! Agents that are to come: work waits for them rather than being refused.
//!
//! Rules that hold here:
//!
//! 1. While an [`Expectation`] stands, what an agent of its spec could do waits as if one lived and were busy.
//! 2. Once the last one that fits has ended, requests that wait for nobody are refused, as if the last agent had ended;
//!    tasks stay queued, as then.
//! 3. An expectation keeps no fleet alive.

use std::fmt;
use std::sync::{Arc, Weak};

use super::lanes::Mask;
use super::pool::Pool;
use super::{AgentSpec, Fleet};
use crate::Error;

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Fleet<T, O> {
    /// Has work wait for agents of this spec, be there any or none, for as long as what comes back lives.
    ///
    /// A fleet refuses what no live agent could ever do. Where agents come when there is work for them, and go down to
    /// none when there is not, that would refuse the very work that they come for. While an expectation stands,
    /// tasks that an agent of its spec could do are accepted and queue, and requests wait ([`Fleet::try_allocate`] says
    /// `NoneIdle`). A batch waits for however many places it asks for. Bringing the agents is up to whoever holds
    /// the expectation: work waits for as long as nobody does.
    ///
    /// An [`Autoscaler`](super::scale::Autoscaler) holds one of its spec, and [`WarmPools`](super::scale::WarmPools) hold
    /// one of each pool that is to have agents. Any number of them may stand for equal specs; what counts of a
    /// spec are its capabilities and whether it has a handler.
    ///
    /// O(1), under a short lock. It takes no room from agents.
    ///
    /// # Errors
    /// What [`spawn_batch`](Self::spawn_batch) would say of this spec however many agents there are: `LimitReached` for
    /// too many capability names or sets of them, `InvalidArgument` for too many leases an agent, `Unsupported` for a
    /// handler that this fleet cannot run; and `Closed` after a shutdown.
    ///
    /// ```
    /// use phalanx::fleet::{AgentSpec, Fleet, Outcome, Task};
    ///
    /// let fleet = Fleet::<u32, u32>::builder().workers(1).build()?;
    /// let spec = AgentSpec::new("double").handler_fn(|task: &Task<u32>, _| Ok(task.payload() * 2));
    /// assert!(fleet.submit(Task::new(1)).is_err(), "nobody could do it");
    ///
    /// let expected = fleet.expect(&spec)?;
    /// let handle = fleet.submit(Task::new(4))?;
    /// fleet.spawn(spec)?;
    /// assert_eq!(*handle.wait(), Outcome::Completed(8));
    /// # drop(expected);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn expect(&self, spec: &AgentSpec<T, O>) -> Result<Expectation, Error> {
        self.check_spec(spec)?;
        let pool = &self.core.inner.pool;
        let mask = pool.expect(&spec.capabilities, spec.factory.is_some())?;
        Ok(Expectation { pool: Arc::downgrade(pool), name: Arc::clone(&spec.name), mask })
    }
}

/// Has work wait for agents of a spec for as long as it lives; made by [`Fleet::expect`].
///
/// When the last one is dropped that fits, requests that wait and that no live agent fits get
/// [`NoSuchCapability`](super::AllocateError::NoSuchCapability), and batches that wait for more places than there are
/// [`TooFewPlaces`](super::AllocateError::TooFewPlaces), as they do when the last agent that fits ends. Tasks that were
/// accepted stay queued, as they do then, and run once somebody can. The drop takes a short lock and calls the wakers of
/// those that are refused.
#[must_use = "work waits for as long as it lives"]
pub struct Expectation {
    pool: Weak<Pool>,
    name: Arc<str>,
    mask: Mask,
}

impl Drop for Expectation {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.expect_no_more(self.mask);
        }
    }
}

impl fmt::Debug for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expectation").field("name", &self.name).finish_non_exhaustive()
    }
}
