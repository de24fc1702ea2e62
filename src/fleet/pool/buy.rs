//! Allocation that is paid for: agents whose accounts have no room are passed over, and who waits for room is
//! told of it.
//!
//! Rules that hold here:
//!
//! 1. A lease is charged under the lock of its agent's shard in the step that grants it, to the fleet, the
//!    group, the type and the agent: all of them or none.
//! 2. Who begins to wait has left word in each account that it was refused by, in the step that found it full, and
//!    holds the desk's lock until it is among those who wait. Who gives back and finds the word comes
//!    to the desk afterwards and serves who waits there. So no room comes that nobody hears of.
//! 3. An agent or room that comes back goes to the most urgent of all who wait and can be served with it; a
//!    newcomer that comes in between the step that gives it back and the one that serves them may take it first.
//! 4. What is to be told (warnings, room that came) is owed under the locks and told outside of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Wake, Waker};

use super::charge::{Charge, Dues, Refused};
use super::desk::Desk;
use super::shard::Shard;
use super::{Ask, Grant, Held, Place, Pool};
use crate::fleet::budget::{Asking, Budgets, Exceeded, Meter, Payer, Relief, Scope};
use crate::fleet::id::AgentId;
use crate::fleet::request::AllocateError;
use crate::sync::atomic::Ordering;

/// A grant, and what it was charged with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) grant: Grant,
    pub(super) charge: Option<Charge>,
}

/// A grant that was just made, and the shard, which is locked still.
pub(super) struct Bought<'a> {
    pub(super) shard: Held<'a>,
    pub(super) granted: Granted,
}

impl Pool {
    /// Takes an agent that can be paid for. A `thorough` look trusts no floor.
    pub(super) fn buy(
        &self,
        ask: &Ask,
        asking: Asking,
        thorough: bool,
    ) -> Result<Option<Bought<'_>>, AllocateError> {
        loop {
            let found = if thorough && ask.agent.is_none() {
                self.find_widely(ask, false)?
            } else {
                self.find(ask)?
            };
            let Some((mut shard, at, local)) = found else {
                return match self.none_for(ask, asking) {
                    None => Ok(None),
                    Some(Err(exceeded)) => Err(AllocateError::OverBudget(Box::new(exceeded))),
                    // It came meanwhile.
                    Some(Ok(())) => continue,
                };
            };
            let granted = shard.buy(local, ask, self.budgets.as_ref(), asking);
            self.publish(at, &mut shard);
            self.owe(&mut shard);
            match granted {
                Ok(granted) => return Ok(Some(Bought { shard, granted })),
                // The others that fit are as good, those of its type excepted, which are passed over now.
                Err(Refused::Agent(_)) if ask.agent.is_none() => {}
                Err(Refused::Agent(exceeded) | Refused::Asker(exceeded)) => {
                    return Err(AllocateError::OverBudget(Box::new(exceeded)));
                }
            }
        }
    }

    /// Counts a request that is refused, if it is for want of room in a budget.
    pub(super) fn refusing(&self, error: AllocateError) -> AllocateError {
        if let (AllocateError::OverBudget(exceeded), Some(budgets)) = (&error, &self.budgets) {
            budgets.count_refusal(exceeded);
        }
        error
    }

    /// Whether some agent has room that only its accounts have not: which it is, or that they have some now.
    pub(super) fn none_for(&self, ask: &Ask, asking: Asking) -> Option<Result<(), Exceeded>> {
        // A named one was refused by its accounts if it has room.
        if self.budgets.is_none() || ask.agent.is_some() {
            return None;
        }
        let mut first = None;
        for shard in &self.shards {
            match shard.lock().full_class(ask, asking) {
                Some(Err(exceeded)) => first = first.or(Some(Err(exceeded))),
                Some(Ok(())) => return Some(Ok(())),
                None => {}
            }
        }
        first
    }

    /// Notes what a shard has to tell (rule 4).
    #[inline]
    pub(super) fn owe(&self, shard: &mut Shard) {
        if !shard.charges.dues.is_empty() {
            self.owe_dues(std::mem::take(&mut shard.charges.dues));
        }
    }

    #[cold]
    fn owe_dues(&self, dues: Dues) {
        self.dues.lock().add(dues);
        self.owing.store(true, Ordering::Relaxed);
    }

    /// The same where wakers are collected: what is owed is told when they are called.
    #[inline]
    pub(super) fn owe_by(&self, shard: &mut Shard, wakes: &mut Vec<Waker>) {
        self.owe(shard);
        self.tell_by(wakes);
    }

    /// Has what is owed told by whoever calls these wakers.
    #[inline]
    pub(in crate::fleet) fn tell_by(&self, wakes: &mut Vec<Waker>) {
        if self.owing.load(Ordering::Relaxed) {
            wakes.extend(self.me.upgrade().map(Waker::from));
        }
    }

    /// Has it decided anew who gathers by whoever calls these wakers, before anybody else is called.
    pub(super) fn plan_by(&self, desk: &mut Desk, wakes: &mut Vec<Waker>) {
        if desk.batches.len() > 0 && desk.batches.begin_to_owe() {
            self.owe_dues(Dues { unplanned: true, ..Dues::default() });
            wakes.splice(..0, self.me.upgrade().map(Waker::from));
        }
    }

    /// Tells what is owed, outside the locks.
    #[inline]
    pub(in crate::fleet) fn settle_dues(&self) {
        if self.owing.load(Ordering::Relaxed) {
            self.settle_dues_now();
        }
    }

    #[cold]
    fn settle_dues_now(&self) {
        self.owing.store(false, Ordering::Relaxed);
        let dues = std::mem::take(&mut *self.dues.lock());
        if dues.unplanned {
            self.settle_batches();
        }
        if !dues.warnings.is_empty()
            && let Some(feed) = self.feed.get().and_then(std::sync::Weak::upgrade)
        {
            feed.warned(dues.warnings);
        }
        match &self.budgets {
            // This pool is one of them.
            Some(budgets) if dues.relieved => budgets.tell_watchers(),
            _ if dues.unserved => self.relieve(),
            _ => {}
        }
    }

    /// Has the agents pay from the accounts that their types and they themselves have now. O(agents), when
    /// such an account came or went.
    #[inline]
    pub(super) fn follow_accounts(&self) {
        if let Some(budgets) = &self.budgets
            && budgets.kinds_version() != self.kinds_seen.load(Ordering::Relaxed)
        {
            self.assign_accounts(&mut self.desk.lock(), budgets);
        }
    }

    /// The same for who holds the desk's lock, and no shard's.
    #[inline]
    pub(super) fn follow_accounts_at(&self, desk: &mut Desk) {
        if let Some(budgets) = &self.budgets
            && budgets.kinds_version() != self.kinds_seen.load(Ordering::Relaxed)
        {
            self.assign_accounts(desk, budgets);
        }
    }

    #[cold]
    fn assign_accounts(&self, desk: &mut Desk, budgets: &Budgets) {
        let version = budgets.kinds_version();
        let accounts = KindAccounts::of(budgets);
        for (at, shard) in self.shards.iter().enumerate() {
            let mut shard = shard.lock();
            let agents: Vec<_> = shard.ids().collect();
            for agent in agents {
                let local = shard.find(agent).expect("it was just listed");
                let kind = shard.slot(local).kind;
                let counted_on = shard.slot(local).standing.is_counted_on();
                shard.set_payer(local, accounts.payer(&desk.kind(kind).name, agent));
                desk.recount(&shard, local, counted_on);
            }
            self.publish(at, &mut shard);
        }
        self.kinds_seen.store(version, Ordering::Relaxed);
    }

    /// Grants what is free and can be paid for to those who wait for it, the most urgent first, until a batch is complete
    /// and others may gather in its place.
    pub(super) fn serve_in_turn(&self, desk: &mut Desk, wakes: &mut Vec<Waker>) {
        let mut after = None;
        let mut batches = desk.batches.gathering();
        batches.sort_unstable_by_key(|(place, _)| std::cmp::Reverse(*place));
        while !desk.batches.is_unplanned() {
            let ticket = desk.waiting.head_after(after);
            let is_next =
                |(place, _): &mut (Place, Ask)| ticket.is_none_or(|ticket| *place < ticket.place);
            if let Some((place, ask)) = batches.pop_if(is_next) {
                self.fill(desk, place, &ask, wakes);
                continue;
            }
            let Some(ticket) = ticket else { return };
            after = Some(ticket.place);
            if let Ok(Some(bought)) = self.buy(&ticket.ask, Asking::Waiting, true) {
                let granted = bought.granted;
                drop(bought);
                let waker = desk.waiting.remove(&ticket).flatten();
                desk.answer(ticket, Ok(granted), waker, wakes);
            }
        }
    }

    /// Grants what can be paid for now to those who wait for it.
    fn serve_waiting(&self, desk: &mut Desk, wakes: &mut Vec<Waker>) {
        self.serve_in_turn(desk, wakes);
        if desk.batches.is_unplanned() {
            // The next that may gather has its turn before the less urgent.
            self.plan_by(desk, wakes);
            self.owe_dues(Dues { unserved: true, ..Dues::default() });
        }
        self.say_who_waits(desk);
    }
}

impl Relief for Pool {
    fn relieve(&self) {
        let mut wakes = Vec::new();
        {
            let mut desk = self.desk.lock();
            self.follow_accounts_at(&mut desk);
            self.serve_waiting(&mut desk, &mut wakes);
        }
        self.wake_all(wakes);
        let wanted = std::mem::take(&mut *self.over_budget.lock());
        wanted.into_line().for_each(|agent| self.tell_freed(Some(agent)));
        // Relaxed, both: who waits said so before it left the word that was found.
        let starving = self.attention.load(Ordering::Relaxed) & 1 == 1;
        if starving || self.groups_wait.load(Ordering::Relaxed) {
            self.tell_workers();
        }
        self.settle_dues();
    }
}

/// Gives back what leases have paid that nobody gave back: their agents ended with the pool, and the accounts
/// may be those of other fleets too.
impl Drop for Pool {
    fn drop(&mut self) {
        let Some(budgets) = &self.budgets else { return };
        let mut relieved = self.dues.lock().relieved;
        for shard in &mut self.shards {
            // Whoever had a section of it has let go of its count of the pool since: no lock, and no favour taken away.
            let shard = shard.get_mut();
            shard.charges.give_back_rest();
            relieved |= shard.charges.dues.relieved;
        }
        if relieved {
            budgets.tell_watchers();
        }
    }
}

/// Tells what is owed (rule 4).
impl Wake for Pool {
    fn wake(self: Arc<Self>) {
        self.settle_dues();
    }
}

/// The accounts of types and of agents that meter leases.
pub(super) struct KindAccounts {
    types: HashMap<Arc<str>, crate::fleet::budget::Account>,
    agents: HashMap<AgentId, crate::fleet::budget::Account>,
}

impl KindAccounts {
    pub(super) fn of(budgets: &Budgets) -> Self {
        let (mut types, mut agents) = (HashMap::new(), HashMap::new());
        for account in budgets.metered_kinds() {
            match account.scope().clone() {
                Scope::Type(name) => drop(types.insert(name, account)),
                Scope::Agent(agent) => drop(agents.insert(agent, account)),
                Scope::Fleet | Scope::Group(_) => {}
            }
        }
        Self { types, agents }
    }

    /// Who pays beside the fleet and the group.
    pub(super) fn payer(&self, name: &str, agent: AgentId) -> Option<Payer> {
        let accounts: Vec<_> =
            [self.types.get(name), self.agents.get(&agent)].into_iter().flatten().collect();
        (!accounts.is_empty()).then(|| Payer::of(&accounts))
    }
}

impl Shard {
    /// Grants a lease on an agent that has room, and charges it (rule 1).
    #[inline]
    pub(super) fn buy(
        &mut self,
        local: u32,
        ask: &Ask,
        budgets: Option<&Budgets>,
        asking: Asking,
    ) -> Result<Granted, Refused> {
        let charge = match budgets {
            None => None,
            Some(budgets) => self.charge(local, ask, budgets, asking)?,
        };
        Ok(Granted { grant: self.lease(local), charge })
    }

    /// Of the agents that fit and have room: that the accounts of some have none, or that they have.
    fn full_class(&self, ask: &Ask, asking: Asking) -> Option<Result<(), Exceeded>> {
        let mut first = None;
        for payer in self.payers_of_fitting(ask) {
            match payer.wait_for_room(Meter::Leases, 1, asking) {
                Err(exceeded) => first = first.or(Some(Err(exceeded))),
                Ok(()) => return Some(Ok(())),
            }
        }
        first
    }
}
