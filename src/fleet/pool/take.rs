//! How a request that does not wait gets an agent: in one step where it asks for any and one strategy decides alone, and
//! by what it asks for otherwise.

use std::sync::Arc;

use super::{Ask, Grant, Pool, Terms};
use crate::fleet::lease::Lease;
use crate::fleet::request::{AllocateError, Request};

impl Pool {
    /// Takes an agent, or says why there is none.
    #[inline(always)]
    pub(in crate::fleet) fn try_allocate(
        self: &Arc<Self>,
        request: &Request,
    ) -> Result<Lease, AllocateError> {
        if request.is_for_any()
            && self.is_plain
            && let Some(grant) = self.grant_any()
        {
            return Ok(self.lease(grant));
        }
        if self.is_plain && !request.is_special() {
            return Ok(self.lease(self.grant_resolved(request)?));
        }
        // Taken apart and put together again, a lease stays in the caller's registers.
        let terms = if request.is_for_any() && self.is_timed_alone {
            let (grant, now) = self.grant_any_now();
            if let Some(grant) = grant {
                return Ok(self.lease(grant).with_clock(None, now.max(1)));
            }
            self.grant_timed(request, Some(now))?
        } else {
            self.grant_on_terms(request)?
        };
        Ok(self.lease(terms.grant).with_clock(terms.key, terms.since).with_charge(terms.charge))
    }

    /// Takes an agent for a lease that has a clock or a price, or that is picked, or says why there is none.
    #[inline(never)]
    fn grant_on_terms(self: &Arc<Self>, request: &Request) -> Result<Terms, AllocateError> {
        let mut read = None;
        if request.is_for_any_time()
            && let Some(terms) = self.grant_any_timed(request, &mut read)
        {
            return Ok(terms);
        }
        self.grant_timed(request, read)
    }

    /// Takes an agent for a lease without a clock or a price, or says why there is none.
    #[inline(never)]
    fn grant_resolved(self: &Arc<Self>, request: &Request) -> Result<Grant, AllocateError> {
        let ask = self.resolve(request)?;
        match self.grant_asked(&ask) {
            Some(grant) => Ok(grant),
            None => self.grant_again(&ask),
        }
    }

    /// Takes an agent if there is one, with a reference for the lease to be made of it.
    #[inline(always)]
    fn grant_asked(self: &Arc<Self>, ask: &Ask) -> Option<Grant> {
        let (mut shard, at, local) = self.find(ask).ok()??;
        let grant = shard.lease_found(local);
        self.publish(at, &mut shard);
        self.lend_reference(&mut shard);
        Some(grant)
    }

    /// Looks once more if a lease has expired, and says why there is none.
    #[cold]
    fn grant_again(self: &Arc<Self>, ask: &Ask) -> Result<Grant, AllocateError> {
        let again = if self.expire_due() > 0 { self.grant_asked(ask) } else { None };
        again.ok_or_else(|| self.why_none(ask))
    }
}
