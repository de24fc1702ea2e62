//! Several agents at once, waited for.
//!
//! Rule: a pending [`BatchAllocation`] holds one place in the line. It is spent by the answer or given up by the
//! drop, and whatever was gathered for a place given up goes on to those who wait.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::lease::{Lease, wait_on_this_thread};
use super::pool::{Place, Pool};
use super::request::{AllocateError, Request};
use crate::clock::{Clock, Timestamp};

/// A request for several agents under way; made by
/// [`Fleet::allocate_batch_async`](super::Fleet::allocate_batch_async).
///
/// # Cancel safety
/// It asks when it is first polled. Dropping it gives up its place; what was gathered for it meanwhile goes on
/// to those who wait.
#[must_use = "futures do nothing unless polled"]
pub struct BatchAllocation {
    request: Request,
    count: usize,
    pool: Arc<Pool>,
    place: Option<Place>,
}

impl BatchAllocation {
    pub(super) const fn new(request: Request, count: usize, pool: Arc<Pool>) -> Self {
        Self { request, count, pool, place: None }
    }

    fn step(&mut self, waker: Waker) -> Poll<Result<Vec<Lease>, AllocateError>> {
        let (step, spare) = match self.place {
            None => {
                let mut spare = Some(waker);
                let step = match self.pool.batch_or_wait(&self.request, self.count, &mut spare) {
                    Ok(Err(place)) => {
                        self.place = Some(place);
                        Poll::Pending
                    }
                    Ok(Ok(leases)) => Poll::Ready(Ok(leases)),
                    Err(error) => Poll::Ready(Err(error)),
                };
                (step, spare)
            }
            Some(place) => {
                let (answer, spare) = self.pool.collect_batch(place, waker);
                let step = answer.map_or(Poll::Pending, Poll::Ready);
                if step.is_ready() {
                    self.place = None;
                }
                (step, spare)
            }
        };
        // Outside the lock, and where its panic does no harm.
        self.pool.discard(spare);
        step
    }

    /// Waits on this thread. What is complete with the deadline is taken.
    pub(super) fn wait(
        mut self,
        clock: &Clock,
        deadline: Option<Timestamp>,
    ) -> Result<Vec<Lease>, AllocateError> {
        let pool = Arc::clone(&self.pool);
        wait_on_this_thread(&pool, clock, deadline, |waker| self.step(waker))
    }
}

impl Future for BatchAllocation {
    type Output = Result<Vec<Lease>, AllocateError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let waker = cx.waker().clone();
        self.step(waker)
    }
}

impl Drop for BatchAllocation {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.pool.give_up_batch(place);
        }
    }
}

impl fmt::Debug for BatchAllocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchAllocation")
            .field("request", &self.request)
            .field("count", &self.count)
            .field("waiting", &self.place.is_some())
            .finish()
    }
}
