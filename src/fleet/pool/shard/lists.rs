//! The lists of a [shard](super) that its agents stand in, one for each strategy kept, and when they move in them
//! (rule 1).

use super::*;

/// What becomes of an agent in the lists that it belongs to.
#[derive(Clone, Copy)]
enum Step {
    Leave,
    Join,
    /// It joins as a lease comes back from it that went well.
    Return,
}

impl Step {
    /// Does it in one list; whether the best rank changed.
    #[inline(always)]
    fn take(
        self,
        by: Strategy,
        index: &mut Index,
        slots: &mut [Slot],
        rank: u32,
        agent: u32,
    ) -> bool {
        match self {
            Self::Leave => index.leave(slots, by.index(), rank, agent),
            Self::Return if by.prefers_last_returned() => {
                index.join_first(slots, by.index(), rank, agent)
            }
            Self::Join | Self::Return => index.join(slots, by.index(), rank, agent),
        }
    }
}

impl Shard {
    #[inline(always)]
    pub(super) fn touch(&mut self, local: u32) {
        self.slots[local as usize].stamp = self.clock;
        self.clock = self.clock.next();
    }

    /// Gives an agent the last turn; it is in no line.
    #[inline(always)]
    pub(super) fn line_up(&mut self, local: u32) {
        let slot = &mut self.slots[local as usize];
        slot.turn = slot.stamp;
    }

    #[inline(always)]
    pub(super) fn join(&mut self, local: u32) {
        self.change(local, true, Step::Join);
    }

    #[inline(always)]
    pub(super) fn join_but_line(&mut self, local: u32) {
        self.change(local, false, Step::Join);
    }

    /// Marks it as changed and joins as a lease comes back, well or not. Who had no room goes to the end of the line.
    #[inline(always)]
    pub(super) fn join_as_it_returns(&mut self, local: u32, was_full: bool, well: bool) {
        self.touch(local);
        let slot = &mut self.slots[local as usize];
        let step = if well {
            slot.stamp = slot.stamp.of_return();
            Step::Return
        } else {
            Step::Join
        };
        if was_full {
            self.line_up(local);
        }
        self.change(local, was_full, step);
    }

    #[inline(always)]
    pub(super) fn leave(&mut self, local: u32) {
        self.change(local, true, Step::Leave);
    }

    #[inline(always)]
    pub(super) fn leave_but_line(&mut self, local: u32) {
        self.change(local, false, Step::Leave);
    }

    /// Has an agent with room join or leave its lists (rule 1), the line for turns too or not.
    #[inline(always)]
    fn change(&mut self, local: u32, line: bool, step: Step) {
        let slot = &self.slots[local as usize];
        if !slot.has_room() {
            return;
        }
        let class = &mut self.classes[slot.class as usize];
        if self.kept.is_by_load_alone() {
            // The same as below, with what is known of the strategy.
            let rank = Strategy::LeastLoaded.rank(slot, || 0);
            let by = Strategy::LeastLoaded;
            let index = &mut class.index[by.index()];
            self.stirred |= step.take(by, index, &mut self.slots, rank, local);
            return;
        }
        for strategy in self.kept.iter() {
            if strategy == Strategy::RoundRobin {
                if !line {
                    continue;
                }
                // Turns pass without a change of the best rank.
                self.stirred = true;
            }
            let past = || self.scores[local as usize].class();
            let rank = strategy.rank(&self.slots[local as usize], past);
            let index = &mut class.index[strategy.index()];
            self.stirred |= step.take(strategy, index, &mut self.slots, rank, local);
        }
    }
}
