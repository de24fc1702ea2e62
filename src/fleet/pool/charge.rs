//! What leases have been charged with: who paid for each one, until it ends.
//!
//! Rules that hold between any two times the lock of the shard is held:
//!
//! 1. A lease that was paid for is counted in the row of its agent or has one entry in the list of it, from the step
//!    that granted it to the step in which it ends: given back, expired, withdrawn, or void as its agent ended. In
//!    that step, and in no other, what it paid is given back.
//! 2. An entry names the accounts that it was paid from; what becomes of a scope's account meanwhile is
//!    nothing to it. Whoever holds the lease knows its entry. A row counts leases that whoever asked paid alone, and
//!    names it as long as it counts any; leases of others on the same agent have entries.
//! 3. Who asked is written down once for all its leases, as long as the accounts are the same, counts them, and
//!    is forgotten when there is none and another one asked last. So a lease counts no references, and as many are
//!    written down as groups have leases, and one, for each version of the accounts that leases were paid by.
//! 4. A free place of an entry is in no list and names no payer; one of those who asked is in `vacant`.

use std::collections::HashMap;
use std::num::NonZeroU32;

use super::slot::NIL;
use crate::fleet::budget::{Account, Asking, Budgets, Exceeded, Meter, Payer, Refusal, Warning};
use crate::fleet::id::GroupKey;
use crate::fleet::request::AllocateError;

/// Names the entry of a lease, by its place from one, or is [`COUNTED`].
pub(in crate::fleet) type Charge = NonZeroU32;

/// What the row of its agent counts.
const COUNTED: Charge = NonZeroU32::MAX;

/// What is to be told outside the locks.
#[derive(Debug, Default)]
pub(super) struct Dues {
    pub(super) warnings: Vec<Warning>,
    /// Whether room came that somebody waits for.
    pub(super) relieved: bool,
    /// Whether an agent came free that somebody here waits for.
    pub(super) unserved: bool,
    /// Whether it is to be decided anew which batches gather.
    pub(super) unplanned: bool,
}

impl Dues {
    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.warnings.is_empty() && !self.relieved && !self.unserved && !self.unplanned
    }

    pub(super) fn add(&mut self, other: Self) {
        self.warnings.extend(other.warnings);
        self.relieved |= other.relieved;
        self.unserved |= other.unserved;
        self.unplanned |= other.unplanned;
    }
}

/// Whose account had no room.
#[derive(Debug)]
pub(super) enum Refused {
    /// That of the fleet or of the group: it is the same for every agent.
    Asker(Exceeded),
    /// That of the agent or its type.
    Agent(Exceeded),
}

impl Refused {
    pub(super) fn into_error(self) -> AllocateError {
        let (Self::Asker(exceeded) | Self::Agent(exceeded)) = self;
        AllocateError::OverBudget(Box::new(exceeded))
    }
}

#[derive(Debug)]
struct Entry {
    /// The place of the fleet and the group, or [`NIL`] if they pay nothing.
    asker: u32,
    /// The agent and its type, or the group of a task that a turn has come to.
    agent: Option<Payer>,
    local: u32,
    prev: u32,
    next: u32,
}

/// What an agent's leases were charged with.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// Who paid for those that are counted, if there are any.
    asker: u32,
    count: u32,
    /// The first entry.
    head: u32,
}

/// Who asked, while there are leases of it (rule 3).
#[derive(Debug)]
struct Asker {
    group: Option<GroupKey>,
    payer: Payer,
    /// The account that has the meter, if it is one alone.
    sole: Option<Account>,
    leases: usize,
}

/// Who asked last, as of which version of the accounts.
#[derive(Debug)]
struct Last {
    version: u64,
    group: Option<GroupKey>,
    /// As in an [`Entry`].
    asker: u32,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Charges {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Those of the agents that had leases.
    rows: Vec<Row>,
    askers: Vec<Option<Asker>>,
    /// The free places of those who asked.
    vacant: Vec<u32>,
    /// Where those are who asked as of the version that the last one did.
    present: HashMap<Option<GroupKey>, u32>,
    last: Option<Last>,
    pub(super) dues: Dues,
}

impl Charges {
    /// Who pays for a group, or for nobody's; [`NIL`] if it costs nothing.
    #[inline]
    fn asker(&mut self, group: Option<GroupKey>, budgets: &Budgets) -> u32 {
        let version = budgets.version();
        match &self.last {
            Some(last) if last.version == version && last.group == group => last.asker,
            _ => self.look_up(version, group, budgets),
        }
    }

    #[cold]
    fn look_up(&mut self, version: u64, group: Option<GroupKey>, budgets: &Budgets) -> u32 {
        if self.last.as_ref().is_some_and(|last| last.version != version) {
            self.present.clear();
        }
        let known = self.present.get(&group).copied();
        let asker = known.unwrap_or_else(|| self.write_down(group, budgets));
        let before = self.last.replace(Last { version, group, asker });
        if let Some(before) = before {
            self.forget_if_done(before.asker);
        }
        asker
    }

    /// Writes down who asks (rule 3), unless it costs nothing.
    fn write_down(&mut self, group: Option<GroupKey>, budgets: &Budgets) -> u32 {
        let payer = budgets.payer_of(group);
        if !payer.is_metered(Meter::Leases) {
            return NIL;
        }
        let sole = payer.sole_account(Meter::Leases).cloned();
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.askers.push(None);
            u32::try_from(self.askers.len() - 1).expect("no more than leases, and one")
        });
        self.askers[place as usize] = Some(Asker { group, payer, sole, leases: 0 });
        self.present.insert(group, place);
        place
    }

    /// Rule 3.
    #[cold]
    fn forget_if_done(&mut self, asker: u32) {
        if self.last.as_ref().is_some_and(|last| last.asker == asker) {
            return;
        }
        if let Some(slot) = self.askers.get_mut(asker as usize)
            && let Some(done) = slot.take_if(|asker| asker.leases == 0)
        {
            self.vacant.push(asker);
            // Who asked of the accounts as they were has another one in its place.
            if self.present.get(&done.group) == Some(&asker) {
                self.present.remove(&done.group);
            }
        }
    }

    fn payer_at(&self, asker: u32) -> Option<&Payer> {
        Some(&self.askers.get(asker as usize)?.as_ref()?.payer)
    }

    /// Takes what a lease costs from all accounts or from none, and enters it; `None` if it costs nothing.
    pub(super) fn take(
        &mut self,
        local: u32,
        group: Option<GroupKey>,
        agent: Option<&Payer>,
        budgets: &Budgets,
        asking: Asking,
    ) -> Result<Option<Charge>, Refused> {
        let asker = self.asker(group, budgets);
        if let Some(payer) = self.payer_at(asker) {
            let taken = payer.take(Meter::Leases, 1, asking);
            self.note(taken).map_err(Refused::Asker)?;
        }
        if let Some(agent) = agent {
            let taken = agent.take(Meter::Leases, 1, asking);
            if let Err(exceeded) = self.note(taken) {
                if let Some(payer) = self.payer_at(asker) {
                    self.dues.relieved |= payer.give_back(Meter::Leases, 1);
                }
                return Err(Refused::Agent(exceeded));
            }
        }
        if asker == NIL && agent.is_none() {
            return Ok(None);
        }
        Ok(Some(self.enter(local, asker, agent.cloned())))
    }

    /// The same for a lease of somebody's who does not wait, on an agent that pays nothing; `None`, and nothing is
    /// done, if that takes more than a look at one account that has room.
    #[inline(always)]
    pub(super) fn take_simply(
        &mut self,
        local: u32,
        group: Option<GroupKey>,
        budgets: &Budgets,
    ) -> Option<Option<Charge>> {
        let asker = self.asker(group, budgets);
        if asker == NIL {
            return Some(None);
        }
        let account = self.askers.get(asker as usize)?.as_ref()?.sole.as_ref()?;
        if let Some(warning) = account.take_one(Meter::Leases)? {
            self.dues.warnings.push(warning);
        }
        Some(Some(self.enter(local, asker, None)))
    }

    /// Takes what one more lease costs a group, for a task of a mailbox whose turn has paid the rest.
    pub(super) fn take_mailed(&mut self, local: u32, payer: &Payer) -> Option<Charge> {
        let taken = self.note(payer.take(Meter::Leases, 1, Asking::Looking));
        taken.ok().map(|()| self.enter(local, NIL, Some(payer.clone())))
    }

    /// Keeps what is to be told.
    fn note(&mut self, taken: Result<Vec<Warning>, Refusal>) -> Result<(), Exceeded> {
        match taken {
            Ok(warnings) => {
                self.dues.warnings.extend(warnings);
                Ok(())
            }
            Err(refusal) => {
                self.dues.relieved |= refusal.relieved;
                Err(refusal.exceeded)
            }
        }
    }

    #[inline(always)]
    fn enter(&mut self, local: u32, asker: u32, agent: Option<Payer>) -> Charge {
        if self.rows.len() <= local as usize {
            self.add_rows(local);
        }
        if let Some(Some(asker)) = self.askers.get_mut(asker as usize) {
            asker.leases += 1;
        }
        let row = &mut self.rows[local as usize];
        if row.count == 0 {
            row.asker = asker;
        }
        if agent.is_some() || row.asker != asker {
            return self.enter_apart(local, asker, agent);
        }
        row.count += 1;
        COUNTED
    }

    #[cold]
    fn add_rows(&mut self, local: u32) {
        let row = Row { asker: NIL, count: 0, head: NIL };
        self.rows.resize(local as usize + 1, row);
    }

    #[inline(never)]
    fn enter_apart(&mut self, local: u32, asker: u32, agent: Option<Payer>) -> Charge {
        let next = self.rows[local as usize].head;
        let place = match self.free.pop() {
            Some(place) => place,
            None => self.add_entry(),
        };
        self.entries[place as usize] = Entry { asker, agent, local, prev: NIL, next };
        if next != NIL {
            self.entries[next as usize].prev = place;
        }
        self.rows[local as usize].head = place;
        NonZeroU32::new(place + 1).expect("places count from one")
    }

    #[cold]
    fn add_entry(&mut self) -> u32 {
        let entry = Entry { asker: NIL, agent: None, local: 0, prev: NIL, next: NIL };
        self.entries.push(entry);
        let place = u32::try_from(self.entries.len() - 1).ok().filter(|place| *place < NIL - 1);
        place.expect("leases are bounded by agents and limits")
    }

    /// Gives back what a lease on a live agent has paid, as it ends (rule 1).
    #[inline(always)]
    pub(super) fn give_back(&mut self, local: u32, charge: Charge) {
        if charge == COUNTED {
            self.end_counted(local);
        } else {
            self.end(charge.get() - 1);
        }
    }

    /// Gives back what all leases on an agent have paid, as it ends (rule 1).
    pub(super) fn give_back_all(&mut self, local: u32) {
        while self.rows.get(local as usize).is_some_and(|row| row.count > 0) {
            self.end_counted(local);
        }
        while let Some(place) = self.rows.get(local as usize).map(|row| row.head)
            && place != NIL
        {
            self.end(place);
        }
    }

    /// Gives back what all leases have paid, as the pool ends.
    pub(super) fn give_back_rest(&mut self) {
        for local in (0_u32..).take(self.rows.len()) {
            self.give_back_all(local);
        }
    }

    #[inline(always)]
    fn end_counted(&mut self, local: u32) {
        let row = &mut self.rows[local as usize];
        row.count -= 1;
        let asker = row.asker;
        self.pay_back_asker(asker);
    }

    #[inline(never)]
    fn end(&mut self, place: u32) {
        let entry = &mut self.entries[place as usize];
        let (prev, next, local, asker) = (entry.prev, entry.next, entry.local, entry.asker);
        if let Some(agent) = entry.agent.take() {
            self.dues.relieved |= agent.give_back(Meter::Leases, 1);
        }
        self.pay_back_asker(asker);
        match prev {
            NIL => self.rows[local as usize].head = next,
            prev => self.entries[prev as usize].next = next,
        }
        if next != NIL {
            self.entries[next as usize].prev = prev;
        }
        self.free.push(place);
    }

    /// Gives back what whoever asked has paid for a lease, if that is anything.
    #[inline(always)]
    fn pay_back_asker(&mut self, asker: u32) {
        let Some(Some(payer)) = self.askers.get_mut(asker as usize) else { return };
        let relieved = match &payer.sole {
            Some(account) => account.give_back_one(Meter::Leases),
            None => payer.payer.give_back(Meter::Leases, 1),
        };
        payer.leases -= 1;
        let is_done = payer.leases == 0;
        if relieved {
            self.dues.relieved = true;
        }
        if is_done && self.last.as_ref().is_none_or(|last| last.asker != asker) {
            self.forget_if_done(asker);
        }
    }

    /// Checks rules 2 to 4, and the lists.
    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn validate(&self) {
        let mut counts = vec![0; self.askers.len()];
        let mut listed = vec![false; self.entries.len()];
        for (local, row) in (0_u32..).zip(&self.rows) {
            if row.count > 0 {
                counts[row.asker as usize] += row.count as usize;
            }
            let (mut before, mut place) = (NIL, row.head);
            while place != NIL {
                let entry = &self.entries[place as usize];
                assert_eq!((entry.local, entry.prev), (local, before), "a list");
                assert!(!std::mem::replace(&mut listed[place as usize], true), "rule 1: twice");
                if entry.asker != NIL {
                    counts[entry.asker as usize] += 1;
                }
                (before, place) = (place, entry.next);
            }
        }
        for place in &self.free {
            assert!(!std::mem::replace(&mut listed[*place as usize], true), "rule 4: in a list");
            assert!(self.entries[*place as usize].agent.is_none(), "rule 4: it names a payer");
        }
        assert!(listed.iter().all(|listed| *listed), "an entry is lost");
        let last = self.last.as_ref().map_or(NIL, |last| last.asker);
        for ((place, asker), count) in (0_u32..).zip(&self.askers).zip(counts) {
            assert_eq!(asker.is_none(), self.vacant.contains(&place), "rule 4: who asked");
            match asker {
                Some(asker) => {
                    assert_eq!(asker.leases, count, "rule 3");
                    assert!(count > 0 || place == last, "rule 3: one that nobody needs");
                    let alone = asker.payer.sole_account(Meter::Leases).map(Account::scope);
                    assert_eq!(asker.sole.as_ref().map(Account::scope), alone, "its one account");
                }
                None => assert_eq!(count, 0, "rule 3: one that somebody needs"),
            }
        }
        let vacant = self.askers.iter().filter(|asker| asker.is_none()).count();
        assert_eq!(self.vacant.len(), vacant, "rule 4: a place twice");
        for (group, place) in &self.present {
            let asker = self.askers[*place as usize].as_ref();
            assert_eq!(asker.map(|asker| asker.group), Some(*group), "rule 3: another's");
        }
    }

    /// How many who asked are written down, and how many places there are for them.
    #[cfg(all(test, feature = "test-util", not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn askers(&self) -> (usize, usize) {
        (self.askers.len() - self.vacant.len(), self.askers.len())
    }

    /// How many leases are counted or have an entry.
    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn len(&self) -> usize {
        let counted: usize = self.rows.iter().map(|row| row.count as usize).sum();
        counted + self.entries.len() - self.free.len()
    }
}
