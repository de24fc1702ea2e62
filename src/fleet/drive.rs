//! A fleet without threads of its own: the host's threads run the handlers, when it lets them.
//!
//! Rules that hold here:
//!
//! 1. Whoever drives has a seat, as a worker thread has one for its life, and gives it back before it
//!    returns, whatever happens. There are as many seats as threads may drive at once.
//! 2. A thread that drives is a worker of the fleet meanwhile: it cannot drive once more, drain or stop the
//!    fleet, from within a handler.
//! 3. A drain drives by itself as long as it finds a seat, and sleeps on that seat, where whoever lines
//!    something up rouses it.
//! 4. A drain looks at the clock, and whether it is over, after every turn, but for a few at once of those that follow
//!    upon short ones.

use std::task::Waker;
use std::time::Duration;

use super::Fleet;
use super::inner::{Inner, State};
use super::runner::{Ready, Seat};
use super::work::ROUND;
use crate::clock::Timestamp;
use crate::sync::thread;

/// How many messages a drain handles at most before it looks at the clock, and how long those of the time before
/// may have taken for it to handle more than one. Within a turn, which may have more of them, it cannot look.
const LOOK: u64 = 16;
const SHORT: Duration = Duration::from_micros(50);

/// A thread that drives (rule 1).
struct Driver<'a, T, O> {
    inner: &'a Inner<T, O>,
    /// Always there, until the drop.
    seat: Option<Seat>,
    /// Whether it has made a handler ahead since that was looked at.
    prewarmed: bool,
}

impl<T, O> Drop for Driver<'_, T, O> {
    fn drop(&mut self) {
        let mut seat = self.seat.take().expect("it is taken here alone");
        self.inner.runner.leave(&mut seat);
        let current = thread::current().id();
        let mut wakes = Vec::new();
        {
            let mut state = self.inner.state.lock();
            state.workers.seats.push(seat);
            state.workers.driving.retain(|thread| *thread != current);
            state.workers.alive -= 1;
            // Of others, each would be woken by who drives on its behalf, for ever.
            if state.workers.wait_for_seat > 0 || state.stopping {
                state.progress.take_into(&mut wakes);
            }
        }
        self.inner.wake_all(wakes);
    }
}

/// Why a thread has ceased to drive.
enum Driven {
    /// All has ended, or it is late.
    Done,
    /// The fleet stops.
    Stopped,
}

impl<T, O> Driver<'_, T, O> {
    fn seat(&mut self) -> &mut Seat {
        self.seat.as_mut().expect("it is there until the drop")
    }

    /// Runs mailboxes that are ready until so many messages have been handled, or something else was run; whether
    /// there may be more.
    fn run_some(&mut self, most: u64) -> bool {
        let station = usize::from(self.seat().worker());
        let ended = || self.inner.stations[station].ended();
        let until = ended() + most;
        loop {
            let before = ended();
            if self.step(1).is_none() {
                return false;
            }
            if ended() == before || ended() >= until {
                return true;
            }
        }
    }

    /// Runs the next thing that is ready: `None` if there is none, and otherwise how often agents ran, up to so
    /// often.
    fn step(&mut self, most: usize) -> Option<usize> {
        let inner = self.inner;
        let seat = self.seat();
        Some(match inner.runner.try_next(seat)? {
            Ready::Mailbox(agent) => usize::from(inner.turn(agent, seat)),
            Ready::Prewarm(agent) => {
                let prewarmed = inner.prewarm(agent, seat, most);
                self.prewarmed |= prewarmed > 0;
                prewarmed
            }
            Ready::Tasks => inner.run_next(seat, most),
        })
    }
}

impl<T, O> Inner<T, O> {
    /// A seat for this thread, if there is one, it has none, and the fleet does not stop.
    fn sit_down(&self) -> Option<Driver<'_, T, O>> {
        if !self.driven {
            return None;
        }
        let current = thread::current().id();
        let mut state = self.state.lock();
        if state.stopping || state.workers.driving.contains(&current) {
            return None;
        }
        let seat = state.workers.seats.pop()?;
        state.workers.driving.push(current);
        state.workers.alive += 1;
        Some(Driver { inner: self, seat: Some(seat), prewarmed: false })
    }

    fn run_ready(&self, limit: usize) -> usize {
        let mut ran = 0;
        if limit > 0
            && let Some(mut driver) = self.sit_down()
        {
            while ran < limit {
                let Some(handled) = driver.step(ROUND.min(limit - ran)) else { break };
                ran += handled;
            }
        }
        ran
    }

    /// Drives until something holds, or the deadline passes (rule 3). Whoever brings that about tells those who wait for
    /// progress, or calls the waker that it is asked with.
    pub(super) fn drive_until(
        &self,
        deadline: Timestamp,
        mut holds: impl FnMut(&State<T, O>, &Waker) -> bool,
    ) {
        loop {
            if let Some(driver) = self.sit_down() {
                match self.drive_on(driver, deadline, &mut holds) {
                    Driven::Done => return,
                    Driven::Stopped => {}
                }
            }
            // Others have all the seats, and whoever leaves one tells; or the fleet stops, and nobody drives.
            let mut seat_free = false;
            self.state.lock().workers.wait_for_seat += 1;
            self.wait_until_told(Some(deadline), |state, waker| {
                seat_free = !state.stopping && !state.workers.seats.is_empty();
                seat_free || holds(state, waker)
            });
            self.state.lock().workers.wait_for_seat -= 1;
            if !seat_free {
                return;
            }
        }
    }

    fn drive_on(
        &self,
        mut driver: Driver<'_, T, O>,
        deadline: Timestamp,
        holds: &mut impl FnMut(&State<T, O>, &Waker) -> bool,
    ) -> Driven {
        let mut key = None;
        loop {
            // It is late by one turn, or by some that were short a moment ago (rule 4).
            let (mut most, mut now) = (1, self.clock.now());
            // A factory may take long, and nobody may wait for it.
            let waker = driver.seat().waker();
            let mut is_over = holds(&self.state.lock(), &waker);
            while !is_over && now < deadline && driver.run_some(most) {
                let began = std::mem::replace(&mut now, self.clock.now());
                most = if now - began < SHORT { LOOK.min(2 * most) } else { 1 };
                // Nobody may have waited for that, and for what comes next.
                if std::mem::take(&mut driver.prewarmed) {
                    break;
                }
                // What is ready may be of others, who never come to an end.
                is_over = holds(&self.state.lock(), &waker);
            }
            let seat = driver.seat();
            self.runner.vacate(seat);
            {
                let mut guard = self.state.lock();
                let state = &mut *guard;
                // What is ready and was left is so because it is late, or not waited for.
                let done = holds(state, &waker) || self.clock.now() >= deadline;
                if done || state.stopping {
                    if let Some(key) = key {
                        state.progress.remove(key);
                    }
                    return if done { Driven::Done } else { Driven::Stopped };
                }
                let key = *key.get_or_insert_with(|| state.progress.key());
                state.progress.register(key, seat.waker());
            }
            self.runner.doze(seat, deadline);
        }
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Fleet<T, O> {
    /// Runs what is ready on this thread, in a [driven](super::FleetBuilder::driven) fleet; returns how often
    /// agents ran.
    ///
    /// It takes turns of mailboxes, of up to 256 messages each, attempts of tasks, and handlers that are to be
    /// [made ahead](super::AgentSpec::prewarmed), each of which counts as one, until so many have run or none is ready. What becomes ready meanwhile is run too. It never
    /// waits for anything but the locks and the handlers. Tasks that are past their deadlines are ended,
    /// those whose backoff is over are run, and leases that have expired come back, by the fleet's clock; a host sees to it that time which passes is
    /// noticed, by calling this or [`tick`](Self::tick) now and then.
    ///
    /// Several threads may drive at once, as many as [`workers`](super::FleetBuilder::workers) says. It runs
    /// nothing and returns 0 if as many do already, in a handler of this fleet, in a fleet that has threads
    /// of its own, and after a shutdown.
    ///
    /// ```
    /// use phalanx::fleet::{AgentSpec, Fleet, Outcome, Task};
    ///
    /// let fleet = Fleet::<u32, u32>::builder().driven().build()?;
    /// fleet.spawn(AgentSpec::new("doubler").handler_fn(|task: &Task<u32>, _cx| Ok(task.payload() * 2)))?;
    /// let handle = fleet.submit(Task::new(21))?;
    /// assert!(handle.try_outcome().is_none());
    /// assert_eq!(fleet.run_ready(usize::MAX), 1);
    /// assert_eq!(*handle.wait(), Outcome::Completed(42));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run_ready(&self, limit: usize) -> usize {
        self.inner().run_ready(limit)
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> super::FleetBuilder<T, O> {
    /// Starts no threads: handlers run on the host's, in [`Fleet::run_ready`]. Default: not. Then
    /// [`workers`](Self::workers) says how many threads may drive at once, at least 1.
    ///
    /// [`Fleet::drain`] drives by itself; all other waits, for an outcome, a reply, room or an agent, are for
    /// what other threads bring about, and last for ever on the only thread that drives.
    ///
    /// A drain looks at the time between two turns, so it ends as late as the one that it is in; of turns that follow
    /// upon such as took microseconds, with 16 messages in all, it looks after the last.
    ///
    /// It makes handlers [ahead](super::AgentSpec::prewarmed) that stand in line before what it waits for.
    ///
    /// A drain does not drive the host's executor: what an async handler has in flight on one that the draining
    /// thread alone runs, or an agent that a future of that thread holds or waits for, keeps the drain until
    /// its deadline.
    pub const fn driven(mut self) -> Self {
        self.driven = true;
        self
    }
}
