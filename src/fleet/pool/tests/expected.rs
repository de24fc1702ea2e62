//! The steps of the state machine by which agents are promised, and promised no more.

use super::*;

impl Model {
    /// Whether an agent with these capabilities could serve it.
    fn could(asked: &Asked, have: u8) -> bool {
        match asked.fit {
            Fit::All | Fit::Tightest => asked.capabilities & !have == 0,
            Fit::BestFraction => asked.capabilities == 0 || asked.capabilities & have != 0,
        }
    }

    pub(super) fn is_expected(&self, asked: &Asked) -> bool {
        self.expected.iter().any(|(have, _)| Self::could(asked, *have))
    }
}

impl Both {
    pub(super) fn expect(&mut self, capabilities: u8) {
        let promise =
            self.pool.expect(&names(capabilities), false, 1).expect("three names at most");
        self.model.expected.push((capabilities, promise));
    }

    pub(super) fn expect_no_more(&mut self, promise: usize) {
        if self.model.expected.is_empty() {
            return;
        }
        let promise = promise % self.model.expected.len();
        let (_, promise) = self.model.expected.swap_remove(promise);
        self.pool.expect_no_more(promise);
        for w in 0..self.model.waiters.len() {
            let waiter = &self.model.waiters[w];
            if waiter.answer.is_none() && !self.model.possible(&waiter.asked) {
                self.model.waiters[w].answer = Some(Err(AllocateError::NoSuchCapability));
            }
        }
    }
}
