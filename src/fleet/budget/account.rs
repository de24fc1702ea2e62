//! The words of a meter, the account that holds them, and how a payer takes from several at once.
//!
//! The rules are those of [`budget`](super); this file is where they are kept:
//!
//! 1. Rule 1: [`Cell::take`] is the only place where `used` grows, in a compare-exchange with the value
//!    that was compared with the limit.
//! 2. Rule 2: `used` shrinks by what a reservation gives back ([`Cell::give_back`]) and by what was
//!    spent and is reset ([`Cell::reset_spent`]), which first takes it out of `spent`.
//! 3. An account's meters are fixed when it is made, so what was counted once is counted throughout.

use std::fmt;
use std::sync::Arc;

use super::{
    Exceeded, GREATEST_LIMIT, Limit, MAX_SCOPES, METERS, Meter, Quota, Reservation, Scope, Usage,
    Warning,
};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{left_out, site};
use crate::{Error, ErrorKind};

/// No soft line: usage never gets there.
const NO_LINE: u64 = u64::MAX;
/// The account does not have this meter.
const ABSENT: u8 = u8::MAX;

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
    fn adjust(&self, limit: Limit) {
        self.hard.store(limit.hard, Ordering::Relaxed);
        self.soft.store(limit.soft.unwrap_or(NO_LINE), Ordering::Relaxed);
    }

    /// Whether so much would fit now.
    fn room(&self, amount: u64) -> Result<u64, Full> {
        let (used, hard) = (self.used.load(Ordering::Relaxed), self.hard.load(Ordering::Relaxed));
        fits(used, amount, hard)
    }

    /// Takes so much if it fits; the soft line, if that crossed it.
    #[inline]
    fn take(&self, amount: u64) -> Result<Option<u64>, Full> {
        let mut used = self.used.load(Ordering::Relaxed);
        let new = loop {
            let new = fits(used, amount, self.hard.load(Ordering::Relaxed))?;
            if left_out("budget.one-step") {
                self.used.fetch_add(amount, Ordering::Relaxed);
                break new;
            }
            // Ordering: acquire, with the release of those who gave back what is taken here: what they
            // did with it before happened before what is done with it now. The count itself needs none.
            let order = site("budget.take", Ordering::Acquire);
            match self.used.compare_exchange_weak(used, new, order, Ordering::Relaxed) {
                Ok(_) => break new,
                Err(now) => used = now,
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

    #[inline]
    fn give_back(&self, amount: u64) {
        // Ordering: release, for the acquire of whoever takes it next.
        let before = self.used.fetch_sub(amount, site("budget.give-back", Ordering::Release));
        debug_assert!(before >= amount, "rule 2: only what was taken is given back");
    }

    fn reset_spent(&self) -> u64 {
        let spent = self.spent.swap(0, Ordering::Relaxed);
        self.give_back(spent);
        spent
    }

    fn usage(&self) -> Usage {
        // What was spent is part of `used`, and a reset or a spending between the two loads could make it
        // look like more than that.
        let used = self.used.load(Ordering::Relaxed);
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
}

impl Account {
    pub(super) fn new(scope: Scope, quota: &Quota) -> Self {
        let mut places = [ABSENT; METERS];
        let mut cells = Vec::new();
        for (meter, limit) in quota.meters() {
            places[meter.index()] = cells.len() as u8;
            cells.push(Cell::new(limit));
        }
        Self { shared: Arc::new(Shared { scope, places, cells: cells.into() }) }
    }

    #[inline]
    fn cell(&self, meter: Meter) -> Option<&Cell> {
        // `ABSENT` lies behind the last cell.
        self.shared.cells.get(usize::from(self.shared.places[meter.index()]))
    }

    /// Rule 3.
    pub(super) fn adjust(&self, quota: &Quota) -> Result<(), Error> {
        let same = |place: &u8, limit: &Option<_>| (*place == ABSENT) == limit.is_none();
        if !self.shared.places.iter().zip(&quota.limits).all(|(place, limit)| same(place, limit)) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the budget of {} has other meters: remove it first", self.shared.scope),
            ));
        }
        for (meter, limit) in quota.meters() {
            if let Some(cell) = self.cell(meter) {
                cell.adjust(limit);
            }
        }
        Ok(())
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
        self.cell(meter).map_or(0, Cell::reset_spent)
    }

    fn warning(&self, meter: Meter, soft: u64) -> Warning {
        Warning { scope: self.shared.scope.clone(), meter, soft }
    }

    /// Refuses, and counts that.
    fn exceeded(&self, meter: Meter, requested: u64, full: &Full) -> Exceeded {
        if let Some(cell) = self.cell(meter) {
            cell.refused.fetch_add(1, Ordering::Relaxed);
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
        let warnings = self.take(meter, amount)?;
        Ok(Reservation::new(self.clone(), meter, amount, warnings))
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
    ) -> Result<Vec<Warning>, Exceeded> {
        let mut warnings = Vec::new();
        if amount == 0 {
            return Ok(warnings);
        }
        for (account, cell) in self.cells(meter) {
            cell.room(amount).map_err(|full| account.exceeded(meter, amount, &full))?;
        }
        for (taken, (account, cell)) in self.cells(meter).enumerate() {
            match cell.take(amount) {
                Ok(None) => {}
                Ok(Some(soft)) => warnings.push(account.warning(meter, soft)),
                Err(full) => {
                    for (_, cell) in self.cells(meter).take(taken) {
                        cell.give_back(amount);
                        cell.rolled_back.fetch_add(1, Ordering::Relaxed);
                    }
                    let mut exceeded = account.exceeded(meter, amount, &full);
                    exceeded.warnings = warnings;
                    return Err(exceeded);
                }
            }
        }
        Ok(warnings)
    }

    /// Gives back what was [taken](Self::take).
    #[inline]
    pub(in crate::fleet) fn give_back(&self, meter: Meter, amount: u64) {
        if amount > 0 {
            for (_, cell) in self.cells(meter) {
                cell.give_back(amount);
            }
        }
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

const _: () = assert!(GREATEST_LIMIT < NO_LINE, "no usage reaches the line that stands for none");
const _: () = assert!(METERS < ABSENT as usize, "no meter's place is the one that stands for none");
