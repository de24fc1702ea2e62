//! What a [shard](super) publishes of itself: its floors, of which that of the turns is its lap (rule 5).

use super::*;

impl Shard {
    /// The best that a strategy finds here, or [`NO_FLOOR`]. For the round robin it is the lap, which is the latest of
    /// the `others`, if they are in any, when somebody comes into an empty line.
    pub(in crate::fleet::pool) fn floor(
        &mut self,
        strategy: Strategy,
        others: impl FnOnce() -> Option<u64>,
    ) -> u64 {
        let link = strategy.index();
        if strategy != Strategy::RoundRobin {
            let somebody = |class: &&Class| class.index[link].best() != NOBODY;
            let floor = |class: &Class| u64::from(class.index[link].best()) | class.floor_penalty();
            return self.classes.iter().filter(somebody).map(floor).min().unwrap_or(NO_FLOOR);
        }
        let heads = self.classes.iter().filter_map(|class| {
            let head = class.index[link].first();
            (head != NIL).then(|| (class.floor_penalty(), self.slots[head as usize].turn))
        });
        let Some((penalty, turn)) = heads.min() else {
            self.lap_end = Stamp::FIRST;
            return NO_FLOOR;
        };
        if self.lap_end == Stamp::FIRST {
            self.lap = others().unwrap_or(self.lap);
            (self.lap_end, self.lap_since) = (self.clock, self.counts.granted);
        } else {
            self.count_lap(turn);
        }
        self.lap | penalty
    }

    /// Ends the lap if whoever is first in line now came there since it began (rule 5).
    #[inline(always)]
    pub(super) fn count_lap(&mut self, first: Stamp) {
        if self.counts.granted == self.lap_since {
            self.lap_end = self.clock;
        } else if first >= self.lap_end {
            self.lap += 1;
            (self.lap_end, self.lap_since) = (self.clock, self.counts.granted);
        }
    }
}
