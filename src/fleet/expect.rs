//! Agents that are to come: work waits for them rather than being refused.
//!
//! Rules that hold here:
//!
//! 1. While an [`Expectation`] stands, what an agent of its spec could do waits as if one lived and were busy.
//! 2. Once the last one that fits has ended, requests that wait for nobody are refused, as if the last agent had ended;
//!    tasks stay queued, as then.
//! 3. An expectation keeps no fleet alive.
//! 4. What could never be spawned is not expected.

use std::fmt;
use std::sync::{Arc, Weak};

use super::agent::Maker;
use super::pool::{MAX_LEASES_PER_AGENT, Pool, Promise};
use super::{AgentSpec, Fleet};
use crate::{Error, ErrorKind};

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Fleet<T, O> {
    /// Has work wait for agents of this spec, be there any or none, for as long as what comes back lives.
    ///
    /// A fleet refuses what no live agent could ever do. Where agents come when there is work for them, and go down to
    /// none when there is not, that would refuse the very work that they come for. While an expectation stands,
    /// tasks that an agent of its spec could do are accepted and queue, and requests wait ([`Fleet::try_allocate`] says
    /// `NoneIdle`). So do batches for more places than there are: they wait for agents to come, and gather nothing before
    /// the live ones have places enough, so that others go on. One for more than there could be if the fleet had all the
    /// agents that it [may have](super::FleetBuilder::max_agents) is refused. Bringing the agents is up to whoever holds the
    /// expectation: work waits for as long as nobody does.
    ///
    /// An [`Autoscaler`](super::scale::Autoscaler) holds one of its spec, and [`WarmPools`](super::scale::WarmPools) hold
    /// one of each pool that is to have agents. Any number of them may stand for equal specs; what counts of a
    /// spec are its capabilities, whether it has a handler, and how many leases an agent may hold.
    ///
    /// O(1), under a short lock. It takes no room from agents. Its capability names count among the
    /// [127](super::MAX_CAPABILITIES) that the fleet may know in its life, as those of an agent do.
    ///
    /// # Errors
    /// What [`spawn_batch`](Self::spawn_batch) would say of this spec however many agents there are: `LimitReached` for
    /// too many capability names or sets of them, expected ones included, `InvalidArgument` for too many leases an agent, `Unsupported` for a
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
        let limit = self.check_spec(spec)?;
        let pool = &self.core.inner.pool;
        let promise = pool.expect(&spec.capabilities, spec.factory.is_some(), limit)?;
        Ok(Expectation { pool: Arc::downgrade(pool), name: Arc::clone(&spec.name), promise })
    }

    /// Whether agents of this spec could ever be spawned, and how many leases one may hold.
    pub(super) fn check_spec(&self, spec: &AgentSpec<T, O>) -> Result<u16, Error> {
        let inner = self.inner();
        if spec.factory.is_some() && !inner.runs_tasks {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "agent {:?} has a handler, and this fleet has no workers to run it: \
                     build it with workers(1) or more",
                    spec.name
                ),
            ));
        }
        let needs_spawner = matches!(spec.factory.as_deref(), Some(Maker::Async(_)));
        if needs_spawner && inner.launcher.is_none() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the handler of agent {:?} is a future, and this fleet has no executor to run it: \
                     build it with spawner(..)",
                    spec.name
                ),
            ));
        }
        let limit = spec.max_leases.get();
        let limit = u16::try_from(limit).ok().filter(|_| limit <= MAX_LEASES_PER_AGENT);
        limit.ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "agent {:?} may hold {} leases at once, and {MAX_LEASES_PER_AGENT} is the most",
                    spec.name, spec.max_leases
                ),
            )
        })
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
    promise: Promise,
}

impl Drop for Expectation {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.expect_no_more(self.promise);
        }
    }
}

impl fmt::Debug for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expectation").field("name", &self.name).finish_non_exhaustive()
    }
}
