//! What leases have been charged with: who paid for each one, until it ends.
//!
//! Rules that hold between any two times the lock of the shard is held:
//!
//! 1. A lease that was paid for has one entry, in the list of its agent, from the step that granted it to the
//!    step in which it ends: given back, expired, withdrawn, or void as its agent ended. In that step,
//!    and in no other, what it paid is given back.
//! 2. An entry names the accounts that it was paid from; what becomes of a scope's account meanwhile is
//!    nothing to it. Whoever holds the lease knows its entry.

use std::num::NonZeroU32;

use super::slot::NIL;
use crate::fleet::budget::{Asking, Budgets, Exceeded, Meter, Payer, Refusal, Warning};
use crate::fleet::id::GroupKey;
use crate::fleet::request::AllocateError;

/// Names the entry of a lease, by its place from one.
pub(in crate::fleet) type Charge = NonZeroU32;

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
    /// The fleet and the group.
    asker: Option<Payer>,
    /// The agent and its type.
    agent: Option<Payer>,
    local: u32,
    prev: u32,
    next: u32,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Charges {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// The first entry of each agent.
    heads: Vec<u32>,
    /// Who paid last, as of which version of the accounts.
    last: Option<(u64, Option<GroupKey>, Option<Payer>)>,
    pub(super) dues: Dues,
}

impl Charges {
    /// Who pays for a group, or for nobody's; `None` if it costs nothing.
    #[inline]
    fn asker(&mut self, group: Option<GroupKey>, budgets: &Budgets) -> Option<&Payer> {
        let version = budgets.version();
        let known = matches!(&self.last, Some((of, last, _)) if *of == version && *last == group);
        if !known {
            let payer = budgets.payer_of(group);
            let payer = payer.is_metered(Meter::Leases).then_some(payer);
            self.last = Some((version, group, payer));
        }
        self.last.as_ref().and_then(|(.., payer)| payer.as_ref())
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
        let asker = self.asker(group, budgets).cloned();
        if let Some(asker) = &asker {
            let taken = asker.take(Meter::Leases, 1, asking);
            self.note(taken).map_err(Refused::Asker)?;
        }
        if let Some(agent) = agent {
            let taken = agent.take(Meter::Leases, 1, asking);
            if let Err(exceeded) = self.note(taken) {
                if let Some(asker) = &asker {
                    self.dues.relieved |= asker.give_back(Meter::Leases, 1);
                }
                return Err(Refused::Agent(exceeded));
            }
        }
        if asker.is_none() && agent.is_none() {
            return Ok(None);
        }
        Ok(Some(self.enter(local, asker, agent.cloned())))
    }

    /// Takes what one more lease costs a group, for a task of a mailbox whose turn has paid the rest.
    pub(super) fn take_mailed(&mut self, local: u32, payer: &Payer) -> Option<Charge> {
        let taken = self.note(payer.take(Meter::Leases, 1, Asking::Looking));
        taken.ok().map(|()| self.enter(local, Some(payer.clone()), None))
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

    fn enter(&mut self, local: u32, asker: Option<Payer>, agent: Option<Payer>) -> Charge {
        if self.heads.len() <= local as usize {
            self.heads.resize(local as usize + 1, NIL);
        }
        let next = self.heads[local as usize];
        let entry = Entry { asker, agent, local, prev: NIL, next };
        let place = match self.free.pop() {
            Some(place) => {
                self.entries[place as usize] = entry;
                place
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1)
                    .expect("leases are bounded by agents and limits")
            }
        };
        if next != NIL {
            self.entries[next as usize].prev = place;
        }
        self.heads[local as usize] = place;
        NonZeroU32::new(place + 1).expect("places count from one")
    }

    /// Gives back what an entry's lease has paid, as it ends (rule 1).
    pub(super) fn give_back(&mut self, charge: Charge) {
        self.end(charge.get() - 1);
    }

    /// Gives back what all leases on an agent have paid, as it ends (rule 1).
    pub(super) fn give_back_all(&mut self, local: u32) {
        while let Some(place) = self.heads.get(local as usize).copied().filter(|head| *head != NIL)
        {
            self.end(place);
        }
    }

    /// Gives back what all leases have paid, as the pool ends.
    pub(super) fn give_back_rest(&mut self) {
        for local in (0_u32..).take(self.heads.len()) {
            self.give_back_all(local);
        }
    }

    fn end(&mut self, place: u32) {
        let entry = &mut self.entries[place as usize];
        let (prev, next, local) = (entry.prev, entry.next, entry.local);
        for payer in [entry.asker.take(), entry.agent.take()].into_iter().flatten() {
            self.dues.relieved |= payer.give_back(Meter::Leases, 1);
        }
        match prev {
            NIL => self.heads[local as usize] = next,
            prev => self.entries[prev as usize].next = next,
        }
        if next != NIL {
            self.entries[next as usize].prev = prev;
        }
        self.free.push(place);
    }

    /// How many leases have an entry.
    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}
