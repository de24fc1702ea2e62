//! The two lanes of a mailbox.
//!
//! Most messages are of one sort, told and no more, and they lie in the work lane with nothing but their
//! payloads: so a line of the cache has room for many. The others lie beside them, and each says how many of
//! the first sort come before it. Rules that hold between any two calls:
//!
//! 1. What came first into a lane is taken out of it first, whatever its sort.
//! 2. The numbers that the messages beside say, of those that come between one and the one before it, are in
//!    sum `covered`; and that is at most how many payloads there are.
//! 3. Of the messages beside, `apart` are not counted as messages; none such is in the control lane.

use std::collections::VecDeque;
use std::collections::vec_deque::Drain;
use std::fmt;

use super::Lane;

/// What lies in a mailbox.
pub(in crate::fleet) trait Letter: Sized {
    /// What is kept of those of the most frequent sort.
    type Payload;

    /// The payload of one of that sort, and any other itself.
    fn open(self) -> Result<Self::Payload, Self>;

    /// One of that sort.
    fn with(payload: Self::Payload) -> Self;

    /// Whether it is counted as a message, as all of that sort are.
    fn counts(&self) -> bool;
}

/// See the file's head.
pub(in crate::fleet) struct Lanes<M: Letter> {
    payloads: VecDeque<M::Payload>,
    /// Made with the first message that needs it, as most mailboxes never see one.
    beside: Option<Box<Beside<M>>>,
}

struct Beside<M> {
    control: VecDeque<M>,
    /// The others of the work lane, each with how many payloads come between it and the one before it.
    others: VecDeque<(usize, M)>,
    covered: usize,
    /// See rule 3.
    apart: usize,
}

impl<M> Default for Beside<M> {
    fn default() -> Self {
        Self { control: VecDeque::new(), others: VecDeque::new(), covered: 0, apart: 0 }
    }
}

impl<M: Letter> fmt::Debug for Lanes<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<M: Letter> Lanes<M> {
    pub(in crate::fleet) const fn new() -> Self {
        Self { payloads: VecDeque::new(), beside: None }
    }

    #[inline]
    pub(super) fn work_len(&self) -> usize {
        self.payloads.len() + self.beside.as_ref().map_or(0, |beside| beside.others.len())
    }

    #[inline]
    pub(super) fn control_len(&self) -> usize {
        self.beside.as_ref().map_or(0, |beside| beside.control.len())
    }

    pub(in crate::fleet) fn len(&self) -> usize {
        self.work_len() + self.control_len()
    }

    /// How many of them are counted as messages. O(1), as is the length.
    pub(in crate::fleet) fn counted(&self) -> usize {
        self.len() - self.beside.as_ref().map_or(0, |beside| beside.apart)
    }

    pub(in crate::fleet) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub(super) fn push_work(&mut self, message: M) {
        match message.open() {
            Ok(payload) => self.payloads.push_back(payload),
            Err(other) => self.push_other(other),
        }
    }

    fn push_other(&mut self, other: M) {
        let beside = self.beside.get_or_insert_default();
        let before = self.payloads.len() - beside.covered;
        beside.covered = self.payloads.len();
        beside.apart += usize::from(!other.counts());
        beside.others.push_back((before, other));
    }

    pub(super) fn push_control(&mut self, message: M) {
        debug_assert!(message.counts(), "rule 3");
        self.beside.get_or_insert_default().control.push_back(message);
    }

    /// Takes out the only message there is, which is in this lane.
    pub(super) fn pop_only(&mut self, lane: Lane) -> Option<M> {
        match lane {
            Lane::Work => self.pop_work(),
            Lane::Control => self.pop_control(),
        }
    }

    fn pop_control(&mut self) -> Option<M> {
        self.beside.as_mut()?.control.pop_front()
    }

    fn pop_work(&mut self) -> Option<M> {
        if let Some(beside) = &mut self.beside
            && let Some((before, _)) = beside.others.front_mut()
        {
            if *before == 0 {
                let (_, other) = beside.others.pop_front()?;
                beside.apart -= usize::from(!other.counts());
                return Some(other);
            }
            *before -= 1;
            beside.covered -= 1;
        }
        self.payloads.pop_front().map(M::with)
    }

    /// Takes out the first message of the work lane that it is, of those that are no payloads. O(those).
    pub(super) fn remove_other(&mut self, is_it: impl Fn(&M) -> bool) -> Option<M> {
        let beside = self.beside.as_mut()?;
        let at = beside.others.iter().position(|(_, other)| is_it(other))?;
        let (before, other) = beside.others.remove(at)?;
        // Rule 2.
        match beside.others.get_mut(at) {
            Some((next, _)) => *next += before,
            None => beside.covered -= before,
        }
        beside.apart -= usize::from(!other.counts());
        Some(other)
    }

    /// Takes out the payloads that are before all else, so many at most.
    #[inline]
    pub(super) fn take_payloads(&mut self, most: usize) -> Drain<'_, M::Payload> {
        let mut count = most.min(self.payloads.len());
        if let Some(beside) = &mut self.beside {
            if !beside.control.is_empty() {
                count = 0;
            } else if let Some((before, _)) = beside.others.front_mut() {
                count = count.min(*before);
                *before -= count;
                beside.covered -= count;
            }
        }
        self.payloads.drain(..count)
    }

    /// Takes out so many messages at most, those of the control lane first; how many those are.
    pub(super) fn take_into(&mut self, most: usize, into: &mut VecDeque<M>) -> usize {
        let mut control = 0;
        if let Some(beside) = &mut self.beside {
            control = most.min(beside.control.len());
            into.extend(beside.control.drain(..control));
        }
        into.extend(std::iter::from_fn(|| self.pop_work()).take(most - control));
        control
    }

    /// Puts a message in before all others of a lane.
    pub(super) fn put_first(&mut self, lane: Lane, message: M) {
        if lane == Lane::Control {
            return self.beside.get_or_insert_default().control.push_front(message);
        }
        match message.open() {
            Ok(payload) => {
                self.payloads.push_front(payload);
                if let Some(beside) = &mut self.beside
                    && let Some((before, _)) = beside.others.front_mut()
                {
                    *before += 1;
                    beside.covered += 1;
                }
            }
            Err(other) => {
                let beside = self.beside.get_or_insert_default();
                beside.apart += usize::from(!other.counts());
                beside.others.push_front((0, other));
            }
        }
    }

    /// All of them, in the order in which they would be taken out.
    pub(in crate::fleet) fn into_messages(mut self) -> impl Iterator<Item = M> {
        std::iter::from_fn(move || self.pop_control().or_else(|| self.pop_work()))
    }

    /// Gives half of its room back where that is more than so much and than four times what was used.
    #[inline]
    pub(super) fn give_room_back(&mut self, kept: usize, used: usize) {
        let is_ample = |room: usize| room > kept && used <= room / 4;
        if is_ample(self.payloads.capacity()) {
            self.payloads.shrink_to(self.payloads.capacity() / 2);
        }
        if let Some(beside) = &mut self.beside
            && is_ample(beside.others.capacity())
        {
            beside.others.shrink_to(beside.others.capacity() / 2);
        }
    }

    /// How many messages of the work lane there is room for.
    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn room(&self) -> usize {
        let others = self.beside.as_ref().map_or(0, |beside| beside.others.capacity());
        self.payloads.capacity() + others
    }

    /// Where the first payload lies.
    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn lies(&self) -> Option<*const M::Payload> {
        self.payloads.front().map(std::ptr::from_ref)
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn validate(&self) {
        if let Some(beside) = &self.beside {
            let covered: usize = beside.others.iter().map(|(before, _)| before).sum();
            assert_eq!(beside.covered, covered, "rule 2");
            assert!(covered <= self.payloads.len(), "rule 2");
            let apart = beside.others.iter().filter(|(_, other)| !other.counts()).count();
            assert_eq!(beside.apart, apart, "rule 3");
            assert!(beside.control.iter().all(Letter::counts), "rule 3");
        }
    }
}
