//! Waiting a little for those whom a leader expects, so that they are part of its group.
//!
//! Those who were woken by one group commit again shortly after. A leader that writes at once leaves them
//! out, and each waits for two syncs from then on. Rules that hold here:
//!
//! 1. A leader expects as many as waited when the last group ended, itself included.
//! 2. It waits for as long as [`Sink::patience`](super::Sink::patience) says at most, a part of what a sync
//!    takes, and no longer than until they are there. The last one to come wakes it.
//! 3. Where they did not come, the next groups are written at once: one after the first time, twice as many
//!    each time after, up to [`SKIPPED_MAX`]. So who waits in vain does it ever more rarely.

use std::task::Waker;

use crate::sync::left_out;

/// The most groups that are written at once after others were waited for in vain.
const SKIPPED_MAX: u32 = 64;

#[derive(Debug, Default)]
pub(super) struct Gather {
    /// Rule 1.
    expected: usize,
    /// The leader that waits.
    leader: Option<Waker>,
    /// Rule 3: how many groups are to be written at once, and how many it will be the next time.
    skip: u32,
    next_skip: u32,
}

impl Gather {
    /// Rule 1.
    pub(super) fn expect(&mut self, expected: usize) {
        self.expected = expected;
    }

    /// Whether a leader has somebody to wait for, with `others` there already.
    pub(super) fn begin(&mut self, others: usize, leader: impl FnOnce() -> Waker) -> bool {
        if others + 1 >= self.expected {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.leader = Some(leader());
        true
    }

    /// Somebody came: the leader where it waits for nobody else.
    pub(super) fn arrived(&mut self, others: usize) -> Option<Waker> {
        if others + 1 < self.expected || left_out("state.journal.gather.arrived") {
            return None;
        }
        self.leader.take()
    }

    /// The leader goes on, with all that it expected or without.
    pub(super) fn end(&mut self) {
        let came = self.leader.take().is_none();
        self.next_skip = if came { 0 } else { (2 * self.next_skip).clamp(1, SKIPPED_MAX) };
        self.skip = self.next_skip;
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_leader_waits_for_those_who_are_missing_and_the_last_of_them_wakes_it() {
        let mut gather = Gather::default();
        let waker = || Waker::noop().clone();
        assert!(!gather.begin(0, waker), "nobody is expected");
        gather.expect(3);
        assert!(!gather.begin(2, waker), "all are there");
        assert!(gather.begin(0, waker));
        assert!(gather.arrived(1).is_none());
        assert!(gather.arrived(2).is_some());
        assert!(gather.arrived(3).is_none(), "it is woken once");
        gather.end();
        assert!(gather.begin(1, waker), "they came, so they are waited for again");
    }

    #[test]
    fn who_is_waited_for_in_vain_is_waited_for_ever_more_rarely() {
        let mut gather = Gather::default();
        gather.expect(2);
        let mut at_once = || {
            let mut groups = 0;
            while !gather.begin(0, || Waker::noop().clone()) {
                groups += 1;
            }
            gather.end();
            groups
        };
        let groups: Vec<u32> = (0..9).map(|_| at_once()).collect();
        assert_eq!(groups, [0, 1, 2, 4, 8, 16, 32, 64, 64]);
        gather.skip = 0;
        assert!(gather.begin(0, || Waker::noop().clone()));
        assert!(gather.arrived(1).is_some());
        gather.end();
        assert!(gather.begin(0, || Waker::noop().clone()), "one who came is waited for");
    }
}
