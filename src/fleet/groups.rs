//! Leases of tasks on the budgets of their groups: who is passed over for want of room, and until when.
//!
//! Rules that hold here:
//!
//! 1. A task of a group that runs holds a lease of that group. One of the queue pays for it as it takes its agent;
//!    one for a single agent pays as the turn of the mailbox comes to it, and for its group alone, as the turn has
//!    paid for the fleet and the agent.
//! 2. Who finds no room says to the pool that groups wait, then leaves word in the account that it found full, in the
//!    step that finds it full, and is kept here, all under the lock of the state. Whoever gives back and finds that
//!    word tells the fleet, which has those go on that have room, under the same lock. So no room comes that
//!    nobody hears of.
//! 3. The queue has a lane for each group, and passes over those that are kept here: they hold up nobody, and
//!    nobody looks at them until room comes. A worker does not starve for their sake.
//! 4. A task for a single agent that is kept here is on its way back to the mailbox, by the rules of that. It leaves
//!    with the room, with its agent, or with the fleet. It is put here only while its agent lives, under the lock
//!    under which agents end; whoever ends one takes out its tasks once that is told. Room that comes as an agent
//!    ends sends none of them on, so that nobody hears of them before.
//! 5. Whoever ends a task that is put aside takes it out in the same step: it takes no place in the queue any more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::task::Waker;

use super::budget::{Asking, Budgets, Meter, Payer, Scope};
use super::id::{AgentId, GroupKey, TaskId};
use super::inner::{After, Inner, Record, State};
use super::lanes::{Lanes, Place, Sort};
use super::pool::{Charge, Lack, Pool, Taken};
use super::task::ReturnReason;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Groups whose tasks in the queue are passed over, and who pays for them.
    over: HashMap<GroupKey, Payer>,
    aside: PutAside,
    /// As of which version of the accounts the first of them was kept, or a later one.
    version: u64,
}

/// Tasks for one agent alone, in the order in which they were put aside.
#[derive(Debug, Default)]
struct PutAside {
    line: BTreeMap<u64, (AgentId, TaskId, Payer)>,
    places: HashMap<TaskId, u64>,
    next: u64,
}

impl PutAside {
    fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    fn push(&mut self, agent: AgentId, id: TaskId, payer: Payer) {
        let place = self.next;
        self.next += 1;
        self.line.insert(place, (agent, id, payer));
        let old = self.places.insert(id, place);
        debug_assert!(old.is_none(), "rule 5");
    }

    /// Takes one out; whether it was there.
    fn remove(&mut self, id: TaskId) -> bool {
        let place = self.places.remove(&id);
        place.is_some_and(|place| self.line.remove(&place).is_some())
    }

    /// Takes out those that go, in their order.
    fn extract(&mut self, mut goes: impl FnMut(AgentId, &Payer) -> bool) -> Vec<(AgentId, TaskId)> {
        let gone = self.line.extract_if(.., |_, (agent, _, payer)| goes(*agent, payer));
        let gone: Vec<_> = gone.map(|(_, (agent, id, _))| (agent, id)).collect();
        for (_, id) in &gone {
            self.places.remove(id);
        }
        gone
    }
}

impl Groups {
    /// Whether tasks of this sort wait for room (rule 3).
    pub(super) fn waits(&self, sort: Sort) -> bool {
        sort.group.is_some_and(|group| self.over.contains_key(&group))
    }

    /// The first entry of the queue for which there is an agent that can be paid for, and that agent. O(groups
    /// with queued tasks).
    pub(super) fn first(
        &mut self,
        queue: &Lanes<TaskId>,
        pool: &Pool,
        budgets: &Budgets,
        thorough: bool,
    ) -> Option<(Sort, Place, Taken)> {
        // What no agent could be found for once is not looked for again for the next group.
        let mut lacking = Vec::new();
        let found = queue.first(|sort| {
            if lacking.contains(&sort.mask) || self.waits(sort) {
                return None;
            }
            loop {
                match (pool.take_for(sort.mask, sort.group, thorough), sort.group) {
                    (Ok(taken), _) => return Some(taken),
                    (Err(Lack::Agent), _) => {
                        lacking.push(sort.mask);
                        return None;
                    }
                    (Err(Lack::Room), Some(group)) if self.pass_over(pool, budgets, group) => {
                        return None;
                    }
                    // It came meanwhile.
                    (Err(Lack::Room), Some(_)) => {}
                    // It has left word if this look is thorough.
                    (Err(Lack::Room), None) => return None,
                }
            }
        });
        // Those of groups whose tasks were cancelled or expired.
        if self.over.len() > 2 * queue.lanes() + 64 {
            let queued: HashSet<_> = queue.sorts().filter_map(|sort| sort.group).collect();
            self.over.retain(|group, _| queued.contains(group));
        }
        found
    }

    /// Rule 2; `false` if there is room after all.
    fn pass_over(&mut self, pool: &Pool, budgets: &Budgets, group: GroupKey) -> bool {
        self.begin(pool, budgets);
        let payer = budgets.payer_of(Some(group));
        let full = payer.wait_for_room(Meter::Leases, 1, Asking::Waiting).is_err();
        if full {
            self.over.insert(group, payer);
        }
        full
    }

    fn begin(&mut self, pool: &Pool, budgets: &Budgets) {
        if self.over.is_empty() && self.aside.is_empty() {
            self.version = budgets.version();
        }
        pool.set_groups_wait(true);
    }

    /// Has those go on that have room; the tasks that go back to the mailboxes of their agents. O(groups and
    /// tasks that are kept here).
    fn admit(&mut self, pool: &Pool) -> Vec<(AgentId, TaskId)> {
        let Some(budgets) = pool.budgets() else { return Vec::new() };
        let version = budgets.version();
        // Where accounts came or went, everybody finds out anew who pays.
        let same = version == self.version;
        self.version = version;
        let waits =
            |payer: &Payer| same && payer.wait_for_room(Meter::Leases, 1, Asking::Waiting).is_err();
        self.over.retain(|_, payer| waits(payer));
        // Rule 4.
        let freed = self.aside.extract(|of, payer| pool.lives(of) && !waits(payer));
        pool.set_groups_wait(!self.over.is_empty() || !self.aside.is_empty());
        freed
    }

    /// Takes out the tasks for an agent, or all.
    pub(super) fn take(&mut self, agent: Option<AgentId>) -> Vec<(AgentId, TaskId)> {
        self.aside.extract(|of, _| agent.is_none_or(|agent| agent == of))
    }

    /// Whether a task for a single agent is put aside.
    pub(super) fn keeps(&self, id: TaskId) -> bool {
        self.aside.places.contains_key(&id)
    }

    /// Takes out a task for a single agent that somebody ends (rule 5); whether it was put aside. O(log(those)).
    pub(super) fn forget(&mut self, id: TaskId) -> bool {
        self.aside.remove(id)
    }
}

/// What an attempt gives back as it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paid {
    /// The lease that is for this attempt alone.
    pub(super) lease: Option<Taken>,
    /// What a task of a mailbox was charged with for its group.
    pub(super) group: Option<Charge>,
}

impl<T, O> Record<T, O> {
    /// The lane of the queue that it belongs in.
    pub(super) fn sort(&self, pool: &Pool) -> Sort {
        let paid = pool.budgets().is_some();
        let group = if paid { self.task.request().named_group() } else { None };
        Sort { mask: self.mask, group }
    }
}

impl<T, O> State<T, O> {
    /// Gives back what an attempt held: its lease, if that was its own, and that of its group (rule 1).
    #[inline]
    pub(super) fn end_lease(&self, agent: AgentId, paid: Paid, well: bool, wakes: &mut Vec<Waker>) {
        if let Some(charge) = paid.group {
            self.pool.discharge_mailed(agent, charge, wakes);
        }
        if let Some(taken) = paid.lease {
            // Of an agent that is gone it is void already.
            let _ = self.pool.release(taken, well, wakes);
        }
    }

    /// Charges a task that a turn has come to to its group, or puts it aside, which is an error.
    pub(super) fn charge_mailed(
        &mut self,
        id: TaskId,
        agent: AgentId,
        wakes: &mut Vec<Waker>,
    ) -> Result<Option<Charge>, Lack> {
        let pool = &self.pool;
        let Some(budgets) = pool.budgets() else { return Ok(None) };
        let record = self.tasks.get(&id).expect("the caller found the task");
        let Some(group) = record.task.request().named_group() else { return Ok(None) };
        let groups = &mut self.ledger.groups;
        loop {
            groups.begin(pool, budgets);
            let Some(account) = budgets.account(&Scope::Group(group)) else { return Ok(None) };
            let payer = Payer::of(&[&account]);
            if let Ok(charge) = pool.charge_mailed(agent, &payer, wakes) {
                return Ok(charge);
            }
            if payer.wait_for_room(Meter::Leases, 1, Asking::Waiting).is_err() {
                groups.aside.push(agent, id, payer);
                return Err(Lack::Room);
            }
        }
    }

    /// Has tasks of groups go on that have room now.
    pub(super) fn admit_groups(&mut self, after: &mut After<T, O>) {
        let pool = Arc::clone(&self.pool);
        after.mail.extend(self.ledger.groups.admit(&pool));
    }
}

impl<T, O> Inner<T, O> {
    /// Ends the tasks that wait for room and for an agent that has ended, or for any as the fleet stops.
    pub(super) fn return_aside(&self, agent: Option<AgentId>, reason: ReturnReason) {
        if self.pool.budgets().is_none() {
            return;
        }
        let taken = self.state.lock().ledger.groups.take(agent);
        for (agent, id) in taken {
            self.return_tasks(agent, &[id], reason);
        }
    }
}
