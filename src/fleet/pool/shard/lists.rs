//! The lists of a [shard](super) that its agents stand in, one for each strategy kept, and when they move in them
//! (rule 1).

use super::*;

/// Which of its lists an agent joins or leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lists {
    All,
    /// All but the line for turns: who has room before and after keeps its place there.
    AllButLine,
}

/// What becomes of an agent in its lists.
#[derive(Clone, Copy)]
enum Step {
    Join,
    Leave,
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
            Self::Join => {
                let end = by.end(slots[agent as usize].stamp);
                index.join(slots, by.index(), rank, agent, end)
            }
            Self::Leave => index.leave(slots, by.index(), rank, agent),
        }
    }
}

/// What counts as the class of an agent's past: whoever is on trial comes before all, or its circuit would learn nothing
/// by it as long as others did better.
#[inline(always)]
pub(super) fn past(slot: &Slot, score: &Score) -> u32 {
    if slot.standing.is_on_trial() { 0 } else { score.class() }
}

impl Shard {
    /// Marks an agent that is in no list as changed: by a lease that came back, or otherwise.
    #[inline(always)]
    pub(super) fn touch(&mut self, local: u32, came_back: bool) {
        let now = self.clock;
        self.slots[local as usize].stamp = if came_back { now.of_return() } else { now };
        self.clock = now.next();
    }

    /// Gives an agent the last turn; it is in no line.
    #[inline(always)]
    pub(super) fn line_up(&mut self, local: u32) {
        let slot = &mut self.slots[local as usize];
        slot.turn = slot.stamp;
    }

    /// Has an agent with room join its lists. It is the last that was [marked](Self::touch), so it comes first or last
    /// among its equals.
    #[inline(always)]
    pub(super) fn join(&mut self, local: u32, lists: Lists) {
        self.change(local, lists, Step::Join);
    }

    #[inline(always)]
    pub(super) fn leave(&mut self, local: u32, lists: Lists) {
        self.change(local, lists, Step::Leave);
    }

    #[inline(always)]
    fn change(&mut self, local: u32, lists: Lists, step: Step) {
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
                if lists == Lists::AllButLine {
                    continue;
                }
                // Turns pass without a change of the best rank.
                self.stirred = true;
            }
            let slot = &self.slots[local as usize];
            let rank = strategy.rank(slot, || past(slot, &self.scores[local as usize]));
            let index = &mut class.index[strategy.index()];
            self.stirred |= step.take(strategy, index, &mut self.slots, rank, local);
        }
    }
}
