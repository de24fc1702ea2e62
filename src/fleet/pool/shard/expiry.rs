//! What a [shard](super) does of leases that expire: their times lie in its wheel, with what is charged for each.

use super::*;
use crate::fleet::pool::returns::Ending;

impl Shard {
    /// Has a lease expire, unless its agent has ended.
    pub(in crate::fleet::pool) fn arm(
        &mut self,
        agent: AgentId,
        charge: Option<Charge>,
        due: u64,
    ) -> Option<Key> {
        let local = self.find(agent)?;
        let era = self.era(local);
        Some(self.wheel().insert(agent, charge, due, era))
    }

    /// The wheel, which the first lease that expires makes.
    #[inline]
    pub(in crate::fleet::pool) fn wheel(&mut self) -> &mut Wheel {
        self.timed.get_or_insert_with(|| Box::new(Wheel::new()))
    }

    /// Whether a lease is good.
    pub(in crate::fleet::pool) fn check(
        &self,
        agent: AgentId,
        key: Option<Key>,
        now: u64,
    ) -> Result<(), Gone> {
        self.find(agent).ok_or(Gone::Ended)?;
        let Some(key) = key else { return Ok(()) };
        let due = self.timed.as_ref().and_then(|wheel| wheel.due(key));
        due.filter(|due| now < *due).map(drop).ok_or(Gone::Expired)
    }

    /// Ends a lease that may have expired; the place of its agent if that has a place more.
    #[inline(never)]
    pub(in crate::fleet::pool) fn end(
        &mut self,
        ending: &Ending,
    ) -> (Result<(), Gone>, Option<u32>) {
        let Ending { grant, key, charge, now, how, went } = *ending;
        let well = !how.has_failed();
        let agent = grant.agent();
        let Some(key) = key else {
            let local = self.release(agent, charge, went, well);
            return (local.map(drop), local.ok());
        };
        let wheel = self.timed.as_mut().expect("a lease that expires made one");
        let Some(due) = wheel.due(key) else {
            // Somebody else found that it had expired, and gave the agent back.
            let gone = if self.find(agent).is_some() { Gone::Expired } else { Gone::Ended };
            return (Err(gone), None);
        };
        wheel.remove(key);
        if now < due {
            let local = self.release(agent, charge, went, well);
            return (local.map(drop), local.ok());
        }
        match self.expire(agent, charge) {
            Some(local) => (Err(Gone::Expired), Some(local)),
            None => (Err(Gone::Ended), None),
        }
    }

    /// Gives back a lease that has expired; the place of its agent, if that has not ended.
    pub(in crate::fleet::pool) fn expire(
        &mut self,
        agent: AgentId,
        charge: Option<Charge>,
    ) -> Option<u32> {
        // Who did not come back in time may hang: others come before it.
        let local = self.release(agent, charge, None, false).ok()?;
        self.counts.expired += 1;
        Some(local)
    }
}
