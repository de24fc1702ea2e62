//! Agents that are promised: while somebody says that they may come, what they could do waits.
//!
//! Rules that hold here, beside those of the desk:
//!
//! 1. The end of the last promise of a set of capabilities is one step with the refusal of those who wait and whom
//!    nothing fits any more. So nobody waits for nobody, whichever comes first.
//! 2. It is counted with the agents that left, so that who knew of somebody that can do a task looks again.

use std::sync::Arc;

use super::{Pool, Promise, RUNS_TASKS};
use crate::sync::atomic::Ordering;
use crate::sync::left_out;
use crate::{Error, ErrorKind};

impl Pool {
    /// Has agents with these capabilities be expected, with so many leases each; as what they are counted.
    pub(in crate::fleet) fn expect(
        &self,
        capabilities: &[Arc<str>],
        runs_tasks: bool,
        limit: u16,
    ) -> Result<Promise, Error> {
        let mut desk = self.desk.lock();
        if desk.closed {
            return Err(Error::new(ErrorKind::Closed, "the fleet was shut down"));
        }
        let base = if runs_tasks { RUNS_TASKS } else { 0 };
        desk.expect(capabilities, base, limit)
    }

    /// Has one promise less of such agents.
    pub(in crate::fleet) fn expect_no_more(&self, promise: Promise) {
        let mut wakes = Vec::new();
        {
            let mut desk = self.desk.lock();
            if !desk.expect_no_more(promise) {
                return;
            }
            // Relaxed: see `Pool::left` (rule 2).
            self.left.fetch_add(1, Ordering::Relaxed);
            if !left_out("fleet.refuse-who-expects") {
                desk.refuse_hopeless(None, &mut wakes);
            }
            self.plan_by(&mut desk, &mut wakes);
            self.say_who_waits(&desk);
        }
        self.wake_all(wakes);
    }
}
