//! An agent's mailbox: two bounded lanes, and the run flag that says who has to look into them.
//!
//! It is plain data; whoever shares one puts it behind a lock, so that a message and the flag change in
//! one step. Rules that hold between any two calls:
//!
//! 1. A lane never holds more than it may: what finds it full is handed back whole. Messages that were
//!    accepted before and come back ([`Mailbox::put_back`], [`Mailbox::restore`]) may exceed it.
//! 2. Idle: both lanes are empty. So a message that comes finds out from the flag, in the step that puts
//!    it in, whether somebody is to be told, and none lies there that nobody was told of.
//! 3. Scheduled: somebody was told, once, and has not begun. Running: one worker has the mailbox to itself;
//!    it stops being the one only by [`Mailbox::rest`] or because the mailbox was closed.
//! 4. Closed: both lanes are empty and nothing comes in. What was there was handed to whoever closed it.
//! 5. The control lane goes before the work lane; each is first in, first out. Whoever puts a message into the control
//!    lane of one that runs has what its worker has not begun put back, so this holds of that too.
//! 6. While it finishes, its capacity is zero, and no message comes in but those that were accepted before.
//! 7. A generation has one agent: who comes with another one is refused, so nothing reaches the agent that
//!    has the place later.

mod lanes;
#[cfg(all(test, phalanx_loom))]
mod loom_tests;
#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;

use std::collections::VecDeque;
use std::collections::vec_deque::Drain;
use std::num::NonZeroU32;

use crate::sync::left_out;
pub(super) use lanes::{Lanes, Letter};

/// How many messages the control lane holds.
pub(super) const CONTROL_CAPACITY: usize = 16;

/// A work lane with more room than this gives half of it back whenever the mailbox becomes idle and has used
/// less than a quarter since it last was: bursts find the room that the last one left.
const KEPT_ROOM: usize = 64;

/// Which of the two lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Work,
    Control,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The lane holds as many as it may.
    Full,
    /// It finishes what it has (rule 6).
    Finishing,
    /// The mailbox is closed, or another agent's by now.
    Gone,
}

/// What whoever put a message in has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a mailbox that nobody is told of is never looked into"]
pub(super) enum Told {
    /// Somebody was told before.
    Already,
    /// Tell somebody: the mailbox was idle and is scheduled now.
    Schedule,
}

/// What becomes of a mailbox at the end of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a mailbox that is to be run again has to be scheduled by the caller"]
pub(super) enum Rest {
    /// Nothing is left: it is idle.
    Idle,
    /// It is scheduled again, and the caller says so where it matters.
    Again,
    /// It was closed meanwhile.
    Closed,
}

/// See rules 2 to 4. The number is the worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flag {
    Idle,
    Scheduled,
    Running(u16),
    Closed,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Mailbox<M: Letter> {
    generation: u32,
    /// Of the work lane; see rule 6.
    capacity: u32,
    /// The most messages that a worker found in the work lane since the mailbox was last idle.
    peak: u32,
    flag: Flag,
    lanes: Lanes<M>,
}

/// What a mailbox held when it was closed.
#[derive(Debug)]
pub(super) struct Leftovers<M: Letter> {
    /// Those that no worker has taken out, as they lay there: there may be many, and locks are held.
    pub(super) messages: Lanes<M>,
    /// Whether it was not idle, and is now. One that is closed while it runs is idle once its worker rests.
    pub(super) active: bool,
}

impl<M: Letter> Mailbox<M> {
    /// A mailbox that no agent has yet.
    pub(super) const fn closed() -> Self {
        Self { generation: 0, capacity: 0, peak: 0, flag: Flag::Closed, lanes: Lanes::new() }
    }

    /// Gives it to an agent.
    pub(super) fn open(&mut self, generation: u32, capacity: NonZeroU32) {
        debug_assert_eq!(self.flag, Flag::Closed, "two agents of one place");
        self.generation = generation;
        self.capacity = capacity.get();
        self.flag = Flag::Idle;
    }

    pub(super) fn is_open(&self, generation: u32) -> bool {
        self.generation == generation && self.flag != Flag::Closed
    }

    /// Whose it is, if it is open.
    pub(super) fn generation(&self) -> Option<u32> {
        self.is_open(self.generation).then_some(self.generation)
    }

    /// Whether nothing lies there and nobody runs it; a closed one is idle.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.flag, Flag::Idle | Flag::Closed)
    }

    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// How many lie in the control lane.
    #[inline]
    pub(super) fn control_len(&self) -> usize {
        self.lanes.control_len()
    }

    /// Whether a message of the control lane waits for a worker.
    #[inline]
    pub(super) fn is_urgent(&self, generation: u32) -> bool {
        self.flag == Flag::Scheduled && self.generation == generation && self.control_len() > 0
    }

    /// Puts a message in, and says whether somebody is to be told.
    #[inline]
    pub(super) fn push(
        &mut self,
        generation: u32,
        lane: Lane,
        message: M,
    ) -> Result<Told, (Refusal, M)> {
        if !self.is_open(generation) {
            return Err((Refusal::Gone, message));
        }
        match lane {
            Lane::Work if self.lanes.work_len() >= self.capacity as usize => {
                let full = if self.capacity == 0 { Refusal::Finishing } else { Refusal::Full };
                return Err((full, message));
            }
            Lane::Work => self.lanes.push_work(message),
            Lane::Control if self.capacity == 0 => return Err((Refusal::Finishing, message)),
            Lane::Control if self.lanes.control_len() >= CONTROL_CAPACITY => {
                return Err((Refusal::Full, message));
            }
            Lane::Control => self.lanes.push_control(message),
        }
        Ok(self.tell())
    }

    /// Puts a message in that was accepted before, whether there is room or not.
    pub(super) fn put_back(&mut self, generation: u32, message: M) -> Result<Told, M> {
        if !self.is_open(generation) {
            return Err(message);
        }
        self.lanes.push_work(message);
        Ok(self.tell())
    }

    /// Takes out a message that nobody is to begin any more, if it lies in the work lane and is no mere payload; and
    /// whether the mailbox was scheduled for it alone, and is idle now. O(such messages).
    pub(super) fn withdraw(
        &mut self,
        generation: u32,
        is_it: impl Fn(&M) -> bool,
    ) -> Option<(M, bool)> {
        if !self.is_open(generation) {
            return None;
        }
        let message = self.lanes.remove_other(is_it)?;
        let idles = self.flag == Flag::Scheduled && self.is_empty();
        if idles {
            // Whoever was told finds nothing to begin.
            self.become_idle();
        }
        Some((message, idles))
    }

    /// Takes back the message that [`Mailbox::push`] put in with the answer to schedule it.
    pub(super) fn take_back(&mut self, lane: Lane) -> Option<M> {
        debug_assert_eq!((self.flag, self.len()), (Flag::Scheduled, 1), "it was idle");
        self.flag = Flag::Idle;
        self.lanes.pop_only(lane)
    }

    #[inline]
    const fn tell(&mut self) -> Told {
        if matches!(self.flag, Flag::Idle) {
            self.flag = Flag::Scheduled;
            Told::Schedule
        } else {
            Told::Already
        }
    }

    /// Begins a turn. `false` means that there is none to begin: it runs, or is idle or another's.
    pub(super) fn begin(&mut self, generation: u32, worker: u16) -> bool {
        let scheduled = self.generation == generation && self.flag == Flag::Scheduled;
        if scheduled || (left_out("mailbox.begin-unchecked") && self.flag != Flag::Closed) {
            self.flag = Flag::Running(worker);
            return true;
        }
        false
    }

    /// Whether this worker has the mailbox now.
    pub(super) fn is_run_by(&self, generation: u32, worker: u16) -> bool {
        self.generation == generation && self.flag == Flag::Running(worker)
    }

    /// The worker that has the mailbox now, with what it took out of it and has not finished.
    pub(super) fn worker(&self, generation: u32) -> Option<u16> {
        match self.flag {
            Flag::Running(worker) if self.generation == generation => Some(worker),
            _ => None,
        }
    }

    /// Takes out the payloads that come before all else, so many at most, by rule 5. Only for the worker that has
    /// the mailbox.
    #[inline]
    pub(super) fn claim_payloads(&mut self, most: usize) -> Drain<'_, M::Payload> {
        self.remember_peak();
        self.lanes.take_payloads(most)
    }

    /// Takes out so many messages at most, by rule 5; how many of them, the first, are of the control lane. Only
    /// for the worker that has the mailbox.
    pub(super) fn claim(&mut self, most: usize, into: &mut VecDeque<M>) -> usize {
        self.remember_peak();
        self.lanes.take_into(most, into)
    }

    #[inline]
    fn remember_peak(&mut self) {
        let waiting = u32::try_from(self.lanes.work_len()).unwrap_or(u32::MAX);
        self.peak = self.peak.max(waiting);
    }

    /// Puts back what a worker took out and did not begin, before all else in the lane that it came from: so many
    /// of the control lane, and then those of the other. O(what is put back). Only for the worker that has
    /// the mailbox, and for whoever took it out of that one's hand.
    pub(super) fn restore(&mut self, control: usize, messages: VecDeque<M>) {
        for (at, message) in messages.into_iter().enumerate().rev() {
            let lane = if at < control { Lane::Control } else { Lane::Work };
            self.lanes.put_first(lane, message);
        }
    }

    /// Ends a turn of the worker that began it.
    pub(super) fn rest(&mut self, generation: u32, worker: u16) -> Rest {
        if !self.is_run_by(generation, worker) {
            return Rest::Closed;
        }
        if !self.is_empty() && !left_out("mailbox.rest-without-a-look") {
            self.flag = Flag::Scheduled;
            return Rest::Again;
        }
        self.become_idle();
        Rest::Idle
    }

    #[inline]
    fn become_idle(&mut self) {
        self.flag = Flag::Idle;
        let peak = std::mem::take(&mut self.peak) as usize;
        self.lanes.give_room_back(KEPT_ROOM, peak);
    }

    /// Has it take nothing new (rule 6).
    pub(super) fn finish(&mut self, generation: u32) {
        if self.is_open(generation) {
            self.capacity = 0;
        }
    }

    /// Has it take new messages again, if it did not.
    pub(super) fn go_on(&mut self, generation: u32, capacity: NonZeroU32) {
        if self.is_finishing(generation) {
            self.capacity = capacity.get();
        }
    }

    pub(super) fn is_finishing(&self, generation: u32) -> bool {
        self.is_open(generation) && self.capacity == 0
    }

    /// How many of those that nobody has taken out are counted as messages.
    pub(super) fn counted(&self) -> usize {
        self.lanes.counted()
    }

    /// Takes out all that nobody has begun, and leaves it open; whoever runs it goes on. `None` if it is closed or
    /// another's.
    pub(super) fn sweep(&mut self, generation: u32) -> Option<Leftovers<M>> {
        if !self.is_open(generation) {
            return None;
        }
        let active = self.flag == Flag::Scheduled;
        if active {
            // Whoever was told finds nothing to begin.
            self.flag = Flag::Idle;
        }
        Some(Leftovers { messages: std::mem::replace(&mut self.lanes, Lanes::new()), active })
    }

    /// Closes it, and hands back what nobody has begun. `None` if it was closed or another's.
    pub(super) fn close(&mut self, generation: u32) -> Option<Leftovers<M>> {
        if !self.is_open(generation) {
            return None;
        }
        let before = self.flag;
        if !left_out("mailbox.close-unmarked") {
            self.flag = Flag::Closed;
        }
        Some(Leftovers {
            messages: std::mem::replace(&mut self.lanes, Lanes::new()),
            active: before != Flag::Idle,
        })
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn validate(&self) {
        self.lanes.validate();
        if matches!(self.flag, Flag::Idle | Flag::Closed) {
            assert_eq!(self.len(), 0, "rules 2 and 4");
        }
        if self.flag == Flag::Scheduled {
            assert!(!self.is_empty(), "nobody is told of nothing");
        }
    }
}
