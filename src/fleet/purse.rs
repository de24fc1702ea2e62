//! What a handler spends while it runs.
//!
//! Rules that hold here:
//!
//! 1. What is spent is charged in the call that says so: to the accounts of the fleet, of the task's group, of the
//!    agent's type and of the agent, as they are at that moment. To all of them, or to none and the handler is told.
//! 2. It stays used, whatever becomes of the attempt.
//! 3. A context keeps no fleet alive: it names it weakly.

use std::fmt;
use std::sync::Weak;

use super::async_context::AsyncContext;
use super::budget::{Exceeded, Meter, Scope, Unit};
use super::id::{AgentId, GroupKey};
use super::inner::Inner;
use super::task::TaskContext;

/// Who charges for the attempts of a fleet.
pub(super) trait Treasury {
    fn spend(
        &self,
        agent: AgentId,
        group: Option<GroupKey>,
        unit: Unit,
        amount: u64,
    ) -> Result<(), Exceeded>;
}

/// The same for whoever may outlive it.
pub(super) type WeakTreasury = Weak<dyn Treasury + Send + Sync>;

/// How an attempt pays; by reference while its handler runs, or weakly for a future.
#[derive(Clone)]
pub(super) struct Purse<F> {
    fleet: F,
    group: Option<GroupKey>,
}

impl<F> fmt::Debug for Purse<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Purse").field("group", &self.group).finish_non_exhaustive()
    }
}

impl TaskContext<'_> {
    /// Spends so many of the host's units, tokens say, as they turn out to be used: they are charged to the fleet, the
    /// task's [group](super::Task::group), the agent's type and the agent, as far as these have an account that
    /// meters them, and stay used until [`Account::reset_spent`](super::Account::reset_spent).
    ///
    /// What a task [costs](super::Task::cost) by its own word is charged when it is submitted, and this comes on
    /// top: say there what is known before, and here what is not. Without [budgets](super::FleetBuilder::budgets), or
    /// where nobody meters that kind, it does nothing. It may be called for an attempt that was struck meanwhile: what
    /// was used was used; the type of an agent that is gone pays nothing then.
    ///
    /// Waits for nothing. O(1): a look at each account, and a short lock of the agent's shard.
    ///
    /// # Errors
    /// [`Exceeded`] says whose budget has no room for all of it. Nothing was charged then: a handler that asks before
    /// it uses anything stops at the limit.
    ///
    /// ```
    /// use phalanx::fleet::{AgentSpec, Budgets, Fleet, Limit, Meter, Quota, Scope, Task, TaskError, Unit};
    /// use std::num::NonZeroUsize;
    ///
    /// const TOKENS: Unit = Unit::new(0).unwrap();
    /// let budgets = Budgets::new(NonZeroUsize::MIN);
    /// let of_writers = Scope::Type("writer".into());
    /// budgets.set(of_writers, Quota::new().limit(Meter::Units(TOKENS), Limit::hard(100)))?;
    ///
    /// let fleet = Fleet::<u64, u64>::builder().driven().budgets(budgets).build()?;
    /// fleet.spawn(AgentSpec::new("writer").handler_fn(|task: &Task<u64>, cx| {
    ///     cx.spend(TOKENS, *task.payload()).map_err(|over| TaskError::permanent(over.to_string()))?;
    ///     Ok(*task.payload())
    /// }))?;
    /// let handles = fleet.submit_batch([60, 50, 40].map(Task::new).into())?;
    /// fleet.run_ready(usize::MAX);
    /// let written = handles.iter().map(|handle| handle.wait().completed().copied());
    /// assert_eq!(written.collect::<Vec<_>>(), [Some(60), None, Some(40)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn spend(&self, unit: Unit, amount: u64) -> Result<(), Exceeded> {
        match &self.purse {
            Some(purse) => spend(purse.fleet, purse.group, self.agent, unit, amount),
            None => Ok(()),
        }
    }
}

impl AsyncContext {
    /// As [`TaskContext::spend`]. Once the fleet is gone nothing is charged.
    ///
    /// # Errors
    /// As [`TaskContext::spend`].
    pub fn spend(&self, unit: Unit, amount: u64) -> Result<(), Exceeded> {
        match &self.purse {
            Some(purse) => spend(&purse.fleet, purse.group, self.agent, unit, amount),
            None => Ok(()),
        }
    }
}

fn spend(
    fleet: &WeakTreasury,
    group: Option<GroupKey>,
    agent: AgentId,
    unit: Unit,
    amount: u64,
) -> Result<(), Exceeded> {
    fleet.upgrade().map_or(Ok(()), |fleet| fleet.spend(agent, group, unit, amount))
}

impl<T, O> Inner<T, O> {
    /// What the attempts of this group pay with; none where there are no budgets.
    #[inline]
    pub(super) fn purse(&self, group: Option<GroupKey>) -> Option<Purse<&WeakTreasury>> {
        self.pool.budgets().map(|_| Purse { fleet: &self.treasury, group })
    }

    /// The same for one that is a future.
    pub(super) fn weak_purse(&self, group: Option<GroupKey>) -> Option<Purse<WeakTreasury>> {
        self.pool.budgets().map(|_| Purse { fleet: Weak::clone(&self.treasury), group })
    }
}

impl<T, O> Treasury for Inner<T, O> {
    fn spend(
        &self,
        agent: AgentId,
        group: Option<GroupKey>,
        unit: Unit,
        amount: u64,
    ) -> Result<(), Exceeded> {
        let Some(budgets) = self.pool.budgets() else { return Ok(()) };
        let mut scopes = Vec::with_capacity(3);
        scopes.extend(group.map(Scope::Group));
        scopes.extend(self.pool.status(agent).map(|status| Scope::Type(status.name)));
        scopes.push(Scope::Agent(agent));
        let payer = budgets.payer(&scopes);
        let meter = Meter::Units(unit);
        if !payer.is_metered(meter) {
            return Ok(());
        }
        let mut reserved = payer.reserve(meter, amount).map_err(|mut exceeded| {
            self.tell_warnings(std::mem::take(&mut exceeded.warnings));
            exceeded
        })?;
        self.tell_warnings(reserved.take_warnings());
        let warnings = reserved.spend(amount)?;
        self.tell_warnings(warnings);
        Ok(())
    }
}
