//! An agent's mailbox: two bounded lanes, and the run flag that says who has to look into them.
//!
//! It is plain data; whoever shares one puts it behind a lock, so that a message and the flag change in
//! one step. Rules that hold between any two calls:
//!
//! 1. A lane never holds more than it may: what finds it full is handed back whole. Messages that were
//!    accepted before and come back ([`Mailbox::put_back`]) may exceed it.
//! 2. Idle: both lanes are empty. So a message that comes finds out from the flag, in the step that puts
//!    it in, whether somebody is to be told, and none lies there that nobody was told of.
//! 3. Scheduled: somebody was told, once, and has not begun. Running: one worker has the mailbox to itself;
//!    it stops being the one only by [`Mailbox::rest`] or because the mailbox was closed.
//! 4. Closed: both lanes are empty and nothing comes in. What was there was handed to whoever closed it.
//! 5. The control lane goes before the work lane; each is first in, first out.
//! 6. A generation has one agent: who comes with another one is refused, so nothing reaches the agent that
//!    has the place later.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use crate::sync::left_out;

#[cfg(all(test, phalanx_loom))]
mod loom_tests;
#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;

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
pub(super) struct Mailbox<M> {
    generation: u32,
    capacity: u32,
    /// The most messages that a worker found in the work lane since the mailbox was last idle.
    peak: u32,
    flag: Flag,
    work: VecDeque<M>,
    /// Made with the first message of its kind, as most mailboxes never see one.
    #[expect(clippy::box_collection, reason = "it keeps the mailbox on one line of the cache")]
    control: Option<Box<VecDeque<M>>>,
}

/// What a mailbox held when it was closed.
#[derive(Debug)]
pub(super) struct Leftovers<M> {
    /// Those that nobody has begun, in the order in which they would have been.
    pub(super) messages: VecDeque<M>,
    /// The worker that has the mailbox, with what it took out of it and has not finished.
    pub(super) worker: Option<u16>,
    /// Whether it was not idle.
    pub(super) active: bool,
}

impl<M> Mailbox<M> {
    /// A mailbox that no agent has yet.
    pub(super) const fn closed() -> Self {
        Self {
            generation: 0,
            capacity: 0,
            peak: 0,
            flag: Flag::Closed,
            work: VecDeque::new(),
            control: None,
        }
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
        self.work.len() + self.control.as_ref().map_or(0, |lane| lane.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
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
            Lane::Work => {
                if self.work.len() >= self.capacity as usize {
                    return Err((Refusal::Full, message));
                }
                self.work.push_back(message);
            }
            Lane::Control => {
                let control = self.control.get_or_insert_default();
                if control.len() >= CONTROL_CAPACITY {
                    return Err((Refusal::Full, message));
                }
                control.push_back(message);
            }
        }
        Ok(self.tell())
    }

    /// Puts a message in that was accepted before, whether there is room or not.
    pub(super) fn put_back(&mut self, generation: u32, message: M) -> Result<Told, M> {
        if !self.is_open(generation) {
            return Err(message);
        }
        self.work.push_back(message);
        Ok(self.tell())
    }

    /// Takes back the message that [`Mailbox::push`] put in with the answer to schedule it.
    pub(super) fn take_back(&mut self, lane: Lane) -> Option<M> {
        debug_assert_eq!((self.flag, self.len()), (Flag::Scheduled, 1), "it was idle");
        self.flag = Flag::Idle;
        match lane {
            Lane::Work => self.work.pop_back(),
            Lane::Control => self.control.as_mut().and_then(|lane| lane.pop_back()),
        }
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

    /// Takes out so many messages at most, by rule 5. Only for the worker that has the mailbox.
    pub(super) fn claim(&mut self, most: usize, into: &mut VecDeque<M>) {
        let mut left = most;
        self.peak = self.peak.max(u32::try_from(self.work.len()).unwrap_or(u32::MAX));
        if let Some(control) = &mut self.control {
            let count = left.min(control.len());
            into.extend(control.drain(..count));
            left -= count;
        }
        if left >= self.work.len() {
            into.append(&mut self.work);
        } else {
            into.extend(self.work.drain(..left));
        }
    }

    /// Puts back what a worker took out and did not begin, before all else. Only for the worker that has the
    /// mailbox.
    pub(super) fn restore(&mut self, from: &mut VecDeque<M>) {
        from.append(&mut self.work);
        self.work = std::mem::take(from);
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
        self.flag = Flag::Idle;
        let room = self.work.capacity();
        if room > KEPT_ROOM && std::mem::take(&mut self.peak) as usize <= room / 4 {
            self.work.shrink_to(room / 2);
        }
        Rest::Idle
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
        let mut messages = self.control.take().map_or_else(VecDeque::new, |lane| *lane);
        if messages.is_empty() {
            messages = std::mem::take(&mut self.work);
        } else {
            messages.append(&mut self.work);
            self.work = VecDeque::new();
        }
        Some(Leftovers {
            messages,
            worker: match before {
                Flag::Running(worker) => Some(worker),
                _ => None,
            },
            active: before != Flag::Idle,
        })
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn validate(&self) {
        if matches!(self.flag, Flag::Idle | Flag::Closed) {
            assert_eq!(self.len(), 0, "rules 2 and 4");
        }
        if self.flag == Flag::Scheduled {
            assert!(!self.is_empty(), "nobody is told of nothing");
        }
    }
}
