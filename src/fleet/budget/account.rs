//! The words of a meter, the account that holds them, and how a payer takes from several at once.
//!
//! The rules are those of [`budget`](super); this file is where they are kept:
//!
//! 1. Rule 1: [`Cell::take`] is the only place where `used` grows, in a compare-exchange with the value
//!    that was compared with the limit.
//! 2. Rule 2: `used` shrinks by what a reservation gives back ([`Cell::give_back`]) and by what was
//!    spent and is reset ([`Cell::reset_spent`]), which first takes it out of `spent`.
//! 3. An account's meters are fixed when it is made, so what was counted once is counted throughout.
//! 4. The word `used` also says whether somebody waits for room ([`WAITED_FOR`]): that is set in the very step
//!    that finds no room, so whoever gives back afterwards sees it, takes it and tells the watchers.

use std::fmt;
use std::sync::Arc;

use super::{
    Exceeded, GREATEST_LIMIT, Limit, MAX_SCOPES, METERS, Meter, Quota, Reservation, Scope, Usage,
    Warning, Watchers,
};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{left_out, site};
use crate::{Error, ErrorKind};

/// No soft line: usage never gets there.
const NO_LINE: u64 = u64::MAX;
/// The account does not have this meter.
const ABSENT: u8 = u8::MAX;
/// The bit of `used` that says that somebody waits for room (rule 4). No limit reaches it.
const WAITED_FOR: u64 = 1 << 63;

/// One meter. Its words change together, so they share a line, and with no other meter.
#[repr(align(64))]
struct Cell {
    used: AtomicU64,
    spent: AtomicU64,
    hard: AtomicU64,
    soft: AtomicU64,
    peak: AtomicU64,
    refused: AtomicU64,
    warnings: AtomicU64,
    rolled_back: AtomicU64,
}

/// A meter has no room.
struct Full {
    used: u64,
    hard: u64,
}

/// What becomes of somebody who is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fleet) enum Asking {
    /// It goes away; it is counted.
    Once,
    /// It may look elsewhere, or again: whoever refuses it in the end counts that.
    Looking,
    /// It waits to be told of room; it has been counted before.
    Waiting,
}

/// A reservation that was refused.
#[derive(Debug)]
pub(in crate::fleet) struct Refusal {
    pub(in crate::fleet) exceeded: Exceeded,
    /// Whether what was put back is waited for: the [watchers](Payer::tell_watchers) are to be told.
    pub(in crate::fleet) relieved: bool,
}

impl Cell {
    fn new(limit: Limit) -> Self {
        Self {
            used: AtomicU64::new(0),
            spent: AtomicU64::new(0),
            hard: AtomicU64::new(limit.hard),
            soft: AtomicU64::new(limit.soft.unwrap_or(NO_LINE)),
            peak: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            warnings: AtomicU64::new(0),
            rolled_back: AtomicU64::new(0),
        }
    }

    // Relaxed, here and for all words but `used`: they are read for themselves alone.
    fn adjust(&self, limit: Limit) -> bool {
        self.hard.store(limit.hard, Ordering::Relaxed);
        self.soft.store(limit.soft.unwrap_or(NO_LINE), Ordering::Relaxed);
        self.relieve()
    }

    /// Takes back that somebody waits; whether somebody did (rule 4).
    #[cold]
    fn relieve(&self) -> bool {
        // Ordering: release, for the acquire of who begins to wait later, which sees the new limit then.
        // Acquire, with its release if it came first: who it is that waits is seen.
        let order = site("budget.relieve", Ordering::AcqRel);
        self.used.fetch_and(!WAITED_FOR, order) & WAITED_FOR != 0
    }

    /// Whether so much would fit now. If not, and somebody waits for it, that is written down (rule 4).
    #[inline]
    fn room(&self, amount: u64, asking: Asking) -> Result<(), Full> {
        loop {
            let word = self.used.load(Ordering::Relaxed);
            let hard = self.hard.load(Ordering::Relaxed);
            let Err(full) = fits(word & !WAITED_FOR, amount, hard) else { return Ok(()) };
            if asking != Asking::Waiting {
                return Err(full);
            }
            if left_out("budget.wait-in-one-step") {
                self.used.fetch_or(WAITED_FOR, Ordering::Relaxed);
                return Err(full);
            }
            // Ordering: acquire, with the release of `relieve`: if the limit was raised first, and so
            // nobody was seen to wait, it is seen here. Release, for the acquire of `relieve`: whoever
            // takes the bit sees what says who waits. So it is written even where it is set already.
            let order = site("budget.wait", Ordering::AcqRel);
            let step =
                self.used.compare_exchange(word, word | WAITED_FOR, order, Ordering::Relaxed);
            if step.is_ok() && self.hard.load(Ordering::Relaxed) == hard {
                return Err(full);
            }
        }
    }

    /// Takes so much if it fits; the soft line, if that crossed it.
    #[inline(always)]
    fn take(&self, amount: u64) -> Result<Option<u64>, Full> {
        let mut word = self.used.load(Ordering::Relaxed);
        let (used, new) = loop {
            let used = word & !WAITED_FOR;
            let new = fits(used, amount, self.hard.load(Ordering::Relaxed))?;
            if left_out("budget.one-step") {
                self.used.fetch_add(amount, Ordering::Relaxed);
                break (used, new);
            }
            // Ordering: acquire, with the release of those who gave back what is taken here: what they
            // did with it before happened before what is done with it now. The count itself needs none.
            let order = site("budget.take", Ordering::Acquire);
            match self.used.compare_exchange_weak(word, word + amount, order, Ordering::Relaxed) {
                Ok(_) => break (used, new),
                Err(now) => word = now,
            }
        };
        if new > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(new, Ordering::Relaxed);
        }
        let soft = self.soft.load(Ordering::Relaxed);
        if used < soft && soft <= new {
            self.warnings.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(soft));
        }
        Ok(None)
    }

    /// Whether somebody waits for it (rule 4).
    #[inline(always)]
    #[must_use = "whoever waits is to be told"]
    fn give_back(&self, amount: u64) -> bool {
        // Ordering: release, for the acquire of whoever takes it next.
        let before = self.used.fetch_sub(amount, site("budget.give-back", Ordering::Release));
        debug_assert!(before & !WAITED_FOR >= amount, "rule 2: only what was taken is given back");
        before & WAITED_FOR != 0 && self.relieve()
    }

    fn reset_spent(&self) -> (u64, bool) {
        let spent = if left_out("budget.reset-in-one-step") {
            let spent = self.spent.load(Ordering::Relaxed);
            self.spent.store(0, Ordering::Relaxed);
            spent
        } else {
            self.spent.swap(0, Ordering::Relaxed)
        };
        (spent, self.give_back(spent))
    }

    fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn usage(&self) -> Usage {
        // What was spent is part of `used`, and a reset or a spending between the two loads could make it
        // look like more than that.
        let used = self.used.load(Ordering::Relaxed) & !WAITED_FOR;
        let soft = self.soft.load(Ordering::Relaxed);
        Usage {
            used,
            spent: self.spent.load(Ordering::Relaxed).min(used),
            peak: self.peak.load(Ordering::Relaxed),
            hard: self.hard.load(Ordering::Relaxed),
            soft: (soft != NO_LINE).then_some(soft),
            refused: self.refused.load(Ordering::Relaxed),
            warnings: self.warnings.load(Ordering::Relaxed),
            rolled_back: self.rolled_back.load(Ordering::Relaxed),
        }
    }
}

/// The usage with so much more, if that is within the limit.
#[inline]
fn fits(used: u64, amount: u64, hard: u64) -> Result<u64, Full> {
    used.checked_add(amount).filter(|new| *new <= hard).ok_or(Full { used, hard })
}

/// The budget of one scope. Cheap to clone; clones are the same account.
#[derive(Clone)]
pub struct Account {
    shared: Arc<Shared>,
}

struct Shared {
    scope: Scope,
    /// Where the cell of each meter is.
    places: [u8; METERS],
    cells: Box<[Cell]>,
    watchers: Arc<Watchers>,
}

impl Account {
    pub(super) fn new(scope: Scope, quota: &Quota, watchers: Arc<Watchers>) -> Self {
        let mut places = [ABSENT; METERS];
        let mut cells = Vec::new();
        for (meter, limit) in quota.meters() {
            places[meter.index()] = cells.len() as u8;
            cells.push(Cell::new(limit));
        }
        Self { shared: Arc::new(Shared { scope, places, cells: cells.into(), watchers }) }
    }

    #[inline(always)]
    fn cell(&self, meter: Meter) -> Option<&Cell> {
        // `ABSENT` lies behind the last cell.
        self.shared.cells.get(usize::from(self.shared.places[meter.index()]))
    }

    /// Takes one of a meter for somebody who does not wait and pays from this account alone; the soft line, if that
    /// crossed it. `None`, uncounted, if there is no room: whoever says so to the host counts it.
    #[inline(always)]
    pub(in crate::fleet) fn take_one(&self, meter: Meter) -> Option<Option<Warning>> {
        match self.cell(meter)?.take(1) {
            Ok(None) => Some(None),
            Ok(Some(soft)) => Some(Some(self.warning(meter, soft))),
            Err(_) => None,
        }
    }

    /// Gives back what was [taken](Self::take_one); whether the [watchers](Payer::tell_watchers) are to be told.
    #[inline(always)]
    #[must_use = "whoever waits is to be told"]
    pub(in crate::fleet) fn give_back_one(&self, meter: Meter) -> bool {
        self.cell(meter).is_some_and(|cell| cell.give_back(1))
    }

    /// Whether it has this meter.
    pub(in crate::fleet) fn has(&self, meter: Meter) -> bool {
        self.cell(meter).is_some()
    }

    /// Rule 3. Whether somebody waited for room.
    pub(super) fn adjust(&self, quota: &Quota) -> Result<bool, Error> {
        let same = |place: &u8, limit: &Option<_>| (*place == ABSENT) == limit.is_none();
        if !self.shared.places.iter().zip(&quota.limits).all(|(place, limit)| same(place, limit)) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the budget of {} has other meters: remove it first", self.shared.scope),
            ));
        }
        let mut relieved = false;
        for (meter, limit) in quota.meters() {
            if let Some(cell) = self.cell(meter) {
                relieved |= cell.adjust(limit);
            }
        }
        Ok(relieved)
    }

    /// Whose budget it is.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.shared.scope
    }

    /// How a meter stands; `None` if the account does not have it.
    ///
    /// Each figure is true of some moment during the call, and the moments may differ; what was spent is
    /// never told as more than what is used.
    #[must_use]
    pub fn usage(&self, meter: Meter) -> Option<Usage> {
        self.cell(meter).map(Cell::usage)
    }

    /// Gives back all that was spent, as at the turn of a month; how much that was.
    ///
    /// What is reserved and not spent stays reserved. 0 for a meter that the account does not have.
    pub fn reset_spent(&self, meter: Meter) -> u64 {
        let Some((spent, relieved)) = self.cell(meter).map(Cell::reset_spent) else { return 0 };
        if relieved {
            self.shared.watchers.tell();
        }
        spent
    }

    #[cold]
    fn warning(&self, meter: Meter, soft: u64) -> Warning {
        Warning { scope: self.shared.scope.clone(), meter, soft }
    }

    /// Counts that it refused somebody who had [looked](Asking::Looking).
    pub(super) fn count_refusal(&self, meter: Meter) {
        if let Some(cell) = self.cell(meter) {
            cell.refuse();
        }
    }

    /// Refuses, and counts that if it was not yet and is not to be later.
    #[cold]
    fn exceeded(&self, meter: Meter, requested: u64, full: &Full, asking: Asking) -> Exceeded {
        if asking == Asking::Once
            && let Some(cell) = self.cell(meter)
        {
            cell.refuse();
        }
        Exceeded {
            scope: self.shared.scope.clone(),
            meter,
            requested,
            used: full.used,
            hard: full.hard,
            warnings: Vec::new(),
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("scope", &self.shared.scope)
            .field("meters", &self.shared.cells.len())
            .finish_non_exhaustive()
    }
}

/// The accounts that a request pays from: at most one of each kind of scope.
///
/// Made by [`Budgets::payer`](super::Budgets::payer). It holds the accounts as they were found: a scope
/// that got its first quota later is not among them. To clone it costs one reference count.
#[derive(Clone)]
pub struct Payer {
    accounts: Arc<[Option<Account>; MAX_SCOPES]>,
}

impl Payer {
    /// Of two accounts of one kind of scope the later one pays.
    pub(super) fn new<'a>(found: impl Iterator<Item = &'a Account>) -> Self {
        let mut accounts = [const { None }; MAX_SCOPES];
        for account in found {
            accounts[account.scope().place()] = Some(account.clone());
        }
        Self { accounts: Arc::new(accounts) }
    }

    pub(in crate::fleet) fn of(accounts: &[&Account]) -> Self {
        Self::new(accounts.iter().copied())
    }

    /// Whether one of the accounts has this meter; otherwise a reservation is free.
    #[must_use]
    pub fn is_metered(&self, meter: Meter) -> bool {
        self.cells(meter).next().is_some()
    }

    /// Reserves so much of a meter in all accounts, or in none.
    ///
    /// Lock-free. It takes one atomic step for each account that has the meter, none for others, and a
    /// reference count of this payer.
    /// A reservation that loses the race for the last room of one account puts back what it had taken
    /// from those before it; whoever asked those in between may have been refused for want of just that.
    /// It is counted in [`Usage::rolled_back`], and nothing else is refused for want of room there is.
    ///
    /// # Errors
    /// [`Exceeded`] names the first account without room.
    pub fn reserve(&self, meter: Meter, amount: u64) -> Result<Reservation, Exceeded> {
        let warnings = self.take_and_tell(meter, amount)?;
        Ok(Reservation::new(self.clone(), meter, amount, warnings))
    }

    /// Takes so much for somebody who does not wait. Tells the watchers of what was put back.
    pub(super) fn take_and_tell(
        &self,
        meter: Meter,
        amount: u64,
    ) -> Result<Vec<Warning>, Exceeded> {
        self.take(meter, amount, Asking::Once).map_err(|refusal| {
            if refusal.relieved {
                self.tell_watchers();
            }
            refusal.exceeded
        })
    }

    /// Tells whoever waits that there may be room, outside all locks.
    pub(in crate::fleet) fn tell_watchers(&self) {
        if let Some(account) = self.accounts.iter().flatten().next() {
            account.shared.watchers.tell();
        }
    }

    /// Whether all accounts have room for so much of a meter now.
    #[inline]
    pub(in crate::fleet) fn has_room(&self, meter: Meter, amount: u64) -> bool {
        self.cells(meter).all(|(_, cell)| cell.room(amount, Asking::Looking).is_ok())
    }

    /// Has somebody wait for room, unless there is some.
    pub(in crate::fleet) fn wait_for_room(
        &self,
        meter: Meter,
        amount: u64,
        asking: Asking,
    ) -> Result<(), Exceeded> {
        self.cells(meter).try_for_each(|(account, cell)| {
            let room = cell.room(amount, asking);
            room.map_err(|full| account.exceeded(meter, amount, &full, asking))
        })
    }

    /// The account that has a meter, if it is one alone.
    pub(in crate::fleet) fn sole_account(&self, meter: Meter) -> Option<&Account> {
        let mut with = self.cells(meter).map(|(account, _)| account);
        with.next().filter(|_| with.next().is_none())
    }

    /// Whether these are the same accounts.
    pub(in crate::fleet) fn is_same(&self, other: &Self) -> bool {
        self.accounts.iter().zip(other.accounts.iter()).all(|pair| match pair {
            (Some(one), Some(other)) => Arc::ptr_eq(&one.shared, &other.shared),
            (None, None) => true,
            _ => false,
        })
    }

    #[inline]
    fn cells(&self, meter: Meter) -> impl Iterator<Item = (&Account, &Cell)> {
        let accounts = self.accounts.iter().flatten();
        accounts.filter_map(move |account| Some((account, account.cell(meter)?)))
    }

    /// [`reserve`](Self::reserve) without the guard: who takes gives back (rule 2 of the module).
    #[inline]
    pub(in crate::fleet) fn take(
        &self,
        meter: Meter,
        amount: u64,
        asking: Asking,
    ) -> Result<Vec<Warning>, Refusal> {
        let mut warnings = Vec::new();
        if amount == 0 {
            return Ok(warnings);
        }
        for (account, cell) in self.cells(meter) {
            cell.room(amount, asking).map_err(|full| Refusal {
                exceeded: account.exceeded(meter, amount, &full, asking),
                relieved: false,
            })?;
        }
        for (taken, (account, cell)) in self.cells(meter).enumerate() {
            match cell.take(amount) {
                Ok(None) => {}
                Ok(Some(soft)) => warnings.push(account.warning(meter, soft)),
                Err(full) => {
                    let mut relieved = false;
                    let taken = if left_out("budget.put-back") { 0 } else { taken };
                    for (_, cell) in self.cells(meter).take(taken) {
                        relieved |= cell.give_back(amount);
                        cell.rolled_back.fetch_add(1, Ordering::Relaxed);
                    }
                    // Who waits has to find the meter full as it says that it waits (rule 4).
                    if asking == Asking::Waiting && cell.room(amount, asking).is_ok() {
                        relieved = true;
                    }
                    let mut exceeded = account.exceeded(meter, amount, &full, asking);
                    exceeded.warnings = warnings;
                    return Err(Refusal { exceeded, relieved });
                }
            }
        }
        Ok(warnings)
    }

    /// Gives back what was [taken](Self::take); whether the [watchers](Self::tell_watchers) are to be told.
    #[inline]
    #[must_use = "whoever waits is to be told"]
    pub(in crate::fleet) fn give_back(&self, meter: Meter, amount: u64) -> bool {
        let mut relieved = false;
        if amount > 0 {
            for (_, cell) in self.cells(meter) {
                relieved |= cell.give_back(amount);
            }
        }
        relieved
    }

    /// Makes so much of what was taken stay used.
    pub(super) fn spend(&self, meter: Meter, amount: u64) {
        for (_, cell) in self.cells(meter) {
            cell.spent.fetch_add(amount, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Payer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.accounts.iter().flatten().map(Account::scope)).finish()
    }
}

const _: () = assert!(GREATEST_LIMIT < WAITED_FOR, "no usage reaches the bit for who waits");
const _: () = assert!(GREATEST_LIMIT < NO_LINE, "no usage reaches the line that stands for none");
const _: () = assert!(METERS < ABSENT as usize, "no meter's place is the one that stands for none");

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::super::Budgets;
    use super::*;
    use std::num::NonZeroUsize;

    /// An account, and a payer that takes from it twice: so it takes the last room between its own look and its own
    /// second step, as another one might.
    fn racing(limit: Limit) -> (Account, Payer) {
        let budgets = Budgets::new(NonZeroUsize::MIN);
        let quota = Quota::new().limit(Meter::Leases, limit);
        let account = budgets.set(Scope::Fleet, quota).expect("there is room for one");
        let twice = [Some(account.clone()), Some(account.clone()), None, None];
        (account, Payer { accounts: Arc::new(twice) })
    }

    fn figures(account: &Account) -> (u64, u64, u64) {
        let usage = account.usage(Meter::Leases).expect("it has that meter");
        (usage.used, usage.refused, usage.rolled_back)
    }

    #[test]
    fn who_loses_the_race_for_the_last_room_puts_back_what_it_had_taken_and_says_what_it_crossed() {
        let (account, payer) = racing(Limit::hard(1).warn_at(1));
        let refusal = payer.take(Meter::Leases, 1, Asking::Once).expect_err("there is one alone");
        assert_eq!((refusal.exceeded.used, refusal.exceeded.hard), (1, 1), "as it lost");
        assert_eq!(refusal.exceeded.warnings.len(), 1);
        assert!(!refusal.relieved, "nobody waits for what was put back");
        assert_eq!(figures(&account), (0, 1, 1));
        payer.take(Meter::Leases, 1, Asking::Looking).expect_err("there is one alone");
        assert_eq!(figures(&account), (0, 1, 2), "whoever looks is counted by whoever refuses it");
    }

    #[test]
    fn what_a_loser_puts_back_is_told_to_those_who_wait_and_to_itself_if_it_waits() {
        let (account, payer) = racing(Limit::hard(1));
        let cell = account.cell(Meter::Leases).expect("it has that meter");
        assert!(cell.room(2, Asking::Waiting).is_err(), "somebody waits for more than there is");
        let refusal = payer.take(Meter::Leases, 1, Asking::Once).expect_err("there is one alone");
        assert!(refusal.relieved);
        let refusal = payer.take(Meter::Leases, 1, Asking::Once).expect_err("there is one alone");
        assert!(!refusal.relieved, "those who waited have been told");
        // Who waits must find it full in the step in which it says so, and there is room again.
        let refusal =
            payer.take(Meter::Leases, 1, Asking::Waiting).expect_err("there is one alone");
        assert!(refusal.relieved);
        assert_eq!(figures(&account), (0, 2, 3));
    }
}
