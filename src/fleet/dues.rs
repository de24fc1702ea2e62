//! What tasks and launches are charged with.
//!
//! Rules that hold here:
//!
//! 1. A task is charged before it is accepted: one of the queued tasks and so many of the host's units as it
//!    [costs](Task::cost), from the accounts of the fleet and of its group, and, if it is for one agent alone, from
//!    those of that agent's type and of the agent. From all of them or from none; of a batch, for all or for none.
//! 2. Whatever becomes of it, it gives back its place once, as it ends. Units are spent if an attempt of it ever
//!    began, and given back otherwise.
//! 3. Reservations are made outside the locks, as they tell of crossings. They are given back under the lock under
//!    which outcomes become visible: who sees the outcome finds the room. Nobody waits for these meters, so nobody
//!    is told.

use super::budget::{Budgets, Exceeded, Meter, Payer, Reservation, Scope, Unit, Warning};
use super::id::{Attempt, GroupKey, TaskId};
use super::inner::{Inner, State};
use super::log::FleetEvent;
use super::task::{SubmitError, Task};
use crate::{Error, ErrorKind};

/// What a task holds (rule 1): its place, and units.
pub(super) struct Dues(Vec<Reservation>);

impl Dues {
    /// Ends what is held (rule 2).
    fn settle(self, ran: bool) {
        for mut reservation in self.0 {
            if ran && matches!(reservation.meter(), Meter::Units(_)) {
                let held = reservation.amount();
                let spent = reservation.spend(held);
                debug_assert!(spent.is_ok(), "what is held fits");
            }
        }
    }
}

impl<T> Task<T> {
    /// Sets whose budget it is charged to, beside the fleet's. Default: nobody's. It matters in a fleet with
    /// [budgets](super::FleetBuilder::budgets).
    ///
    /// An attempt holds a lease of its group while it runs. A task whose group has no room for one waits in its place
    /// and holds up no other: those of other groups go on. One that is [for one agent](Self::to) lets the others of the
    /// mailbox pass and comes behind them then. It goes on as soon as a lease of its group comes back. To find the
    /// next task costs a step for each group that has tasks in the queue.
    #[must_use]
    pub fn group(self, group: GroupKey) -> Self {
        self.set(|options| {
            options.request = std::mem::take(&mut options.request).group(group);
        })
    }

    /// Sets how many of the host's units it costs; in place of what was set for that kind. Default: none.
    ///
    /// They are reserved when it is submitted, from the fleet and the [group](Self::group), and of a task
    /// [for one agent](Self::to) from that agent and its type too; what a handler finds out that it uses it
    /// [spends](super::TaskContext::spend). Once an attempt of it has begun they are used up, however it ends:
    /// they stay in use until [`Account::reset_spent`](super::Account::reset_spent). A task that never ran gives
    /// them back. It matters in a fleet with [budgets](super::FleetBuilder::budgets).
    #[must_use]
    pub fn cost(self, unit: Unit, amount: u64) -> Self {
        self.set(|options| {
            options.costs.retain(|(known, _)| *known != unit);
            options.costs.push((unit, amount));
        })
    }

    fn costs(&self) -> &[(Unit, u64)] {
        self.options.as_ref().map_or(&[], |options| &options.costs)
    }
}

impl<T, O> Inner<T, O> {
    /// Charges tasks with what they hold while they are there: one entry for each, or none without budgets.
    pub(super) fn charge(&self, tasks: &[Task<T>]) -> Result<Vec<Dues>, SubmitError<()>> {
        let Some(budgets) = self.pool.budgets() else { return Ok(Vec::new()) };
        let mut all = Vec::with_capacity(tasks.len());
        let mut warnings = Vec::new();
        let mut exceeded = None;
        'tasks: for task in tasks {
            let payer = self.payer(budgets, task);
            let costs = task.costs().iter().map(|(unit, amount)| (Meter::Units(*unit), *amount));
            let mut dues = Dues(Vec::new());
            for (meter, amount) in std::iter::once((Meter::QueuedTasks, 1)).chain(costs) {
                if !payer.is_metered(meter) {
                    continue;
                }
                match payer.reserve(meter, amount) {
                    Ok(mut reservation) => {
                        warnings.append(&mut reservation.take_warnings());
                        dues.0.push(reservation);
                    }
                    Err(refused) => {
                        exceeded = Some(refused);
                        // What was taken so far goes back.
                        all.clear();
                        break 'tasks;
                    }
                }
            }
            all.push(dues);
        }
        match exceeded {
            None => {
                self.tell_warnings(warnings);
                Ok(all)
            }
            Some(mut exceeded) => {
                warnings.append(&mut exceeded.warnings);
                self.tell_warnings(warnings);
                let exceeded = Box::new(exceeded);
                Err(SubmitError::OverBudget { returned: (), exceeded })
            }
        }
    }

    pub(super) fn tell_warnings(&self, warnings: Vec<Warning>) {
        for warning in warnings {
            self.notice(&FleetEvent::BudgetWarning { warning });
        }
    }

    fn payer(&self, budgets: &Budgets, task: &Task<T>) -> Payer {
        let mut scopes = Vec::new();
        scopes.extend(task.request().named_group().map(Scope::Group));
        if let Some(agent) = task.agent() {
            // Of an agent that is gone the task is refused in a moment.
            scopes.extend(self.pool.status(agent).map(|status| Scope::Type(status.name)));
            scopes.push(Scope::Agent(agent));
        }
        budgets.payer(&scopes)
    }

    /// Reserves the launch of so many agents of a type, for their group. They are to be spent once they are there.
    pub(super) fn charge_launches(
        &self,
        name: &std::sync::Arc<str>,
        group: Option<GroupKey>,
        count: usize,
    ) -> Result<Option<Reservation>, Error> {
        let Some(budgets) = self.pool.budgets() else { return Ok(None) };
        let mut scopes = vec![Scope::Type(std::sync::Arc::clone(name))];
        scopes.extend(group.map(Scope::Group));
        let payer = budgets.payer(&scopes);
        if !payer.is_metered(Meter::Launches) {
            return Ok(None);
        }
        match payer.reserve(Meter::Launches, count as u64) {
            Ok(mut reservation) => {
                self.tell_warnings(reservation.take_warnings());
                Ok(Some(reservation))
            }
            Err(mut exceeded) => {
                self.tell_warnings(std::mem::take(&mut exceeded.warnings));
                let message = format!("no budget to launch {count} agents of type {name:?}");
                Err(Error::with_source(ErrorKind::LimitReached, message, exceeded))
            }
        }
    }
}

impl<T, O> State<T, O> {
    /// Has tasks that come in hold what they were charged with.
    pub(super) fn hold_dues(&mut self, ids: impl Iterator<Item = TaskId>, dues: Vec<Dues>) {
        self.ledger.dues.extend(ids.zip(dues));
    }

    /// A task has ended, or was not accepted (rule 3).
    pub(super) fn settle_dues(&mut self, id: TaskId, last: Attempt) {
        if !self.ledger.dues.is_empty()
            && let Some(dues) = self.ledger.dues.remove(&id)
        {
            dues.settle(last != Attempt::NONE);
        }
    }
}

/// What a launch that is there has used up.
pub(super) fn spend_launches(launches: Option<Reservation>) {
    if let Some(mut launches) = launches {
        let held = launches.amount();
        let spent: Result<_, Exceeded> = launches.spend(held);
        debug_assert!(spent.is_ok(), "what is held fits");
    }
}
