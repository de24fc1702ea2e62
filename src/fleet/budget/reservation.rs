//! What was reserved, given back when it is dropped.
//!
//! The rules are those of [`budget`](super). `left` is what this reservation has taken and neither given
//! back nor spent; only its owner changes it.

use std::fmt;

use super::{Exceeded, Meter, Payer, Warning};

/// So much of a meter, held in all accounts of a [`Payer`]; dropped, it is given back.
///
/// What is counted over time (launches, tokens) is [spent](Self::spend) when it is used up: it stays in
/// use after the drop.
#[must_use = "it is given back when it is dropped"]
pub struct Reservation {
    payer: Payer,
    meter: Meter,
    left: u64,
    warnings: Vec<Warning>,
}

impl Reservation {
    pub(super) const fn new(payer: Payer, meter: Meter, left: u64, warnings: Vec<Warning>) -> Self {
        Self { payer, meter, left, warnings }
    }

    /// Which meter.
    #[must_use]
    pub const fn meter(&self) -> Meter {
        self.meter
    }

    /// What is held: reserved, and neither given back nor spent.
    #[must_use]
    pub const fn amount(&self) -> u64 {
        self.left
    }

    /// The soft lines that it crossed when it was made, each told once: a second call has no more. Those
    /// that it crossed when it grew were told then.
    pub fn take_warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.warnings)
    }

    /// Reserves so much more, in all accounts or in none. The warnings are those of this step; those of
    /// an earlier one that were not taken yet stay.
    ///
    /// # Errors
    /// [`Exceeded`]; what was held before is held still.
    pub fn grow(&mut self, more: u64) -> Result<Vec<Warning>, Exceeded> {
        let warnings = self.payer.take_and_tell(self.meter, more)?;
        // Without a meter in any account there is no limit; the number itself has one.
        self.left = self.left.saturating_add(more);
        Ok(warnings)
    }

    /// Gives so much of it back now, or all that is left if that is less; how much it was.
    pub fn give_back(&mut self, amount: u64) -> u64 {
        let amount = amount.min(self.left);
        self.left -= amount;
        if self.payer.give_back(self.meter, amount) {
            self.payer.tell_watchers();
        }
        amount
    }

    /// Uses so much up: it stays in use until [`Account::reset_spent`](super::Account::reset_spent). If it is more than what is held,
    /// the difference is reserved first; the warnings are those of that step.
    ///
    /// # Errors
    /// [`Exceeded`] if the difference does not fit; then nothing is spent.
    pub fn spend(&mut self, amount: u64) -> Result<Vec<Warning>, Exceeded> {
        let missing = amount.saturating_sub(self.left);
        let warnings = if missing > 0 { self.grow(missing)? } else { Vec::new() };
        self.left -= amount;
        self.payer.spend(self.meter, amount);
        Ok(warnings)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back(self.left);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("meter", &self.meter)
            .field("amount", &self.left)
            .finish_non_exhaustive()
    }
}
