//! What is told, what an agent makes of it, and how it is known that all of it was handled.
//!
//! Every agent folds what it is told into a sum of its own, and says so once, when it has everything of a
//! unit: so what is shared costs next to nothing beside the messages, and the same for everybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, Thread};

use tokio::sync::Notify;

/// What has been reported, and by how many it has not been yet.
#[derive(Debug)]
pub struct Tally {
    /// The messages of an agent in a unit; none if it reports at its end alone.
    unit: u32,
    left: AtomicUsize,
    count: AtomicU64,
    sum: AtomicU64,
    thread: Thread,
    task: Notify,
}

impl Tally {
    /// One that this thread, or a task on it, is to wait for. Agents report after so many messages, if any, and
    /// at their end.
    pub fn new(unit: u32) -> Arc<Self> {
        Arc::new(Self {
            unit,
            left: AtomicUsize::new(0),
            count: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            thread: thread::current(),
            task: Notify::new(),
        })
    }

    /// Begins anew, with so many reports to come. Nobody reports meanwhile.
    pub fn begin(&self, reports: usize) {
        self.count.store(0, Ordering::Relaxed);
        self.sum.store(0, Ordering::Relaxed);
        self.left.store(reports, Ordering::Release);
    }

    pub fn report(&self, count: u64, sum: u64) {
        self.count.fetch_add(count, Ordering::Relaxed);
        self.sum.fetch_add(sum, Ordering::Relaxed);
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.thread.unpark();
            self.task.notify_one();
        }
    }

    /// Waits on the thread that made it for all reports: how many messages there were, and their sum.
    pub fn wait(&self) -> (u64, u64) {
        while self.left.load(Ordering::Acquire) > 0 {
            thread::park();
        }
        self.reported()
    }

    /// As [`wait`](Self::wait), in a task.
    pub async fn wait_async(&self) -> (u64, u64) {
        while self.left.load(Ordering::Acquire) > 0 {
            self.task.notified().await;
        }
        self.reported()
    }

    fn reported(&self) -> (u64, u64) {
        (self.count.load(Ordering::Relaxed), self.sum.load(Ordering::Relaxed))
    }
}

/// The message of a number to an agent.
#[inline(always)]
pub fn message(agent: usize, number: u64) -> u64 {
    ((agent as u64) << 32) | number
}

/// What one message adds to a sum.
#[inline(always)]
fn worth(message: u64) -> u64 {
    let odd = message.wrapping_mul(2).wrapping_add(1);
    odd.wrapping_mul(odd)
}

/// What is reported when each of so many agents was told the same number of messages.
pub fn expected(agents: usize, each: u64) -> (u64, u64) {
    let sum = (0..agents)
        .flat_map(|agent| (0..each).map(move |number| worth(message(agent, number))))
        .fold(0_u64, u64::wrapping_add);
    (agents as u64 * each, sum)
}

/// One agent: what it was told in this unit. It is small: agents are weighed with it.
#[derive(Debug)]
pub struct Counter {
    tally: Arc<Tally>,
    sum: u64,
    agent: u32,
    count: u32,
}

impl Counter {
    pub fn new(tally: &Arc<Tally>) -> Self {
        Self { tally: Arc::clone(tally), sum: 0, agent: 0, count: 0 }
    }

    /// Says that it is there.
    pub fn started(&self) {
        self.tally.report(0, 0);
    }

    /// Takes a message. One that is not the next one, or not for the agent that the first was for, spoils the sum.
    #[inline(always)]
    pub fn handle(&mut self, message: u64) {
        if self.count == 0 {
            self.agent = (message >> 32) as u32;
        }
        self.sum = self.sum.wrapping_add(worth(message));
        if message != (u64::from(self.agent) << 32) | u64::from(self.count) {
            self.sum = self.sum.wrapping_add(1 << 20);
        }
        self.handled();
    }

    /// The same, where messages need not come in their order.
    #[inline(always)]
    pub fn handle_whenever(&mut self, message: u64) {
        self.sum = self.sum.wrapping_add(worth(message));
        self.handled();
    }

    #[inline(always)]
    fn handled(&mut self) {
        self.count += 1;
        if self.count == self.tally.unit {
            self.report();
        }
    }

    /// Reports what there is, and begins anew.
    pub fn report(&mut self) {
        self.tally.report(u64::from(self.count), self.sum);
        (self.count, self.sum) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(messages: &[u64]) -> (u64, u64) {
        let tally = Tally::new(3);
        tally.begin(1);
        let mut counter = Counter::new(&tally);
        messages.iter().for_each(|message| counter.handle(*message));
        tally.wait()
    }

    #[test]
    fn the_messages_of_an_agent_in_their_order_are_what_is_expected() {
        let of = |agent| told(&[message(agent, 0), message(agent, 1), message(agent, 2)]);
        let (one, two) = (of(0), of(1));
        assert_eq!((one.0 + two.0, one.1.wrapping_add(two.1)), expected(2, 3));
    }

    #[test]
    fn an_agent_is_weighed_with_24_bytes_of_its_own() {
        assert_eq!(size_of::<Counter>(), 24);
    }

    #[test]
    fn a_message_of_another_place_or_another_agent_spoils_the_sum() {
        let right = told(&[message(7, 0), message(7, 1), message(7, 2)]);
        assert_ne!(told(&[message(7, 0), message(7, 2), message(7, 1)]), right);
        assert_ne!(told(&[message(7, 0), message(7, 1), message(7, 1)]), right);
        assert_ne!(told(&[message(7, 0), message(6, 1), message(7, 2)]), right);
    }
}
