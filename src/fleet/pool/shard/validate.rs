//! Checks the rules of a [shard](super) from scratch, for the tests of the pool.

use std::collections::HashSet;

use super::*;

impl Shard {
    pub(in crate::fleet::pool) fn past(&self, local: u32) -> u32 {
        self.scores.get(local as usize).map_or(0, Score::class)
    }

    /// Has the slot of the next newcomer, which is vacant, be in the last of its generations.
    pub(in crate::fleet::pool) fn age_the_next(&mut self) {
        let local = *self.vacant.last().expect("somebody has ended");
        self.slots[local as usize].generation = u32::MAX;
    }

    /// Checks the rules from scratch.
    pub(in crate::fleet::pool) fn validate(&self) {
        let mut live = vec![0; self.classes.len()];
        let mut held = 0;
        for slot in self.slots.iter().filter(|slot| slot.standing != Standing::VACANT) {
            assert!(slot.load <= slot.limit, "an agent holds more than its limit");
            live[slot.class as usize] += 1;
            held += u64::from(slot.load);
        }
        assert_eq!(self.counts.held(), held, "rule 4");
        let alike = self.classes.len() == 1 && self.classes[0].payer.is_none();
        let simple = alike && !self.classes[0].degraded && !self.is_closed();
        assert_eq!(self.sole, self.kept.sole().filter(|_| simple), "rule 6");
        let most = if self.is_closed() { 0 } else { SPARE_MAX };
        assert_eq!(self.spare_max, most, "no references to keep once it is closed");
        assert!(self.spare <= most, "more references than it may own");
        assert!(self.charges.len() as u64 <= held, "rule 1 of the charges");
        self.charges.validate();
        if let Some(wheel) = &self.timed {
            wheel.validate();
        }
        assert_eq!(self.live, live.iter().sum::<u32>());
        let used = self.classes.iter().skip(1).next_back().is_none_or(|class| class.live > 0);
        assert!(used, "rule 2: one at the end that counts nobody");
        let lacking: Vec<_> = self.classes.iter().map(|class| sketch(!class.mask)).collect();
        assert_eq!(self.lacking, lacking, "rule 7");
        assert_eq!(self.only, self.kept.sole(), "rule 6");
        let mut masks = HashSet::new();
        for (place, class) in self.classes.iter().enumerate() {
            assert_eq!(class.live, live[place], "rule 2");
            let set = (class.mask, class.degraded, class.on_trial);
            let is_new = class.payer.is_some() || masks.insert(set);
            assert!(class.live == 0 || is_new, "rule 2: a set twice");
            for strategy in Strategy::ALL {
                let members = class.index[strategy.index()].validate(&self.slots, strategy.index());
                let mut ages = Vec::new();
                for (rank, local) in &members {
                    let slot = &self.slots[*local as usize];
                    assert!(slot.has_room() && slot.class as usize == place, "rule 1");
                    let past = || lists::past(slot, &self.scores[*local as usize]);
                    assert_eq!(strategy.rank(slot, past), *rank, "rule 1");
                    ages.push((*rank, strategy.age(slot)));
                }
                assert!(ages.is_sorted(), "rule 1: {strategy:?} is out of order");
                let room = |slot: &&Slot| slot.has_room() && slot.class as usize == place;
                let expected = self.slots.iter().filter(room).count();
                let expected = if self.kept.has(strategy) { expected } else { 0 };
                assert_eq!(members.len(), expected, "rule 1: somebody is missing");
            }
        }
        for fit in [Fit::All, Fit::Tightest, Fit::BestFraction] {
            for strategy in self.kept.iter() {
                let ask = Ask { fit, ..Ask::any(strategy) };
                let naive = (0_u32..).zip(&self.slots).filter(|(_, slot)| slot.has_room());
                let naive = naive.map(|(local, slot)| {
                    let misfit = ask.misfit(self.mask(local)).expect("nothing is asked for");
                    let misfit = misfit | self.classes[slot.class as usize].penalty();
                    let past = || lists::past(slot, &self.scores[local as usize]);
                    (misfit, strategy.rank(slot, past), strategy.age(slot), local)
                });
                let plain = |best: Best| (best.misfit, best.rank, best.age, best.local);
                let mut naive: Vec<_> = naive.collect();
                naive.sort_unstable();
                assert_eq!(self.best(&ask).map(plain), naive.first().copied(), "rule 1: {ask:?}");
                for limit in [usize::MAX, 3, 1] {
                    naive.truncate(limit.min(naive.len()));
                    let mut several = Vec::new();
                    self.several_best(&ask, limit, &mut several);
                    let several: Vec<_> = several.into_iter().map(plain).collect();
                    assert_eq!(several, naive, "rule 1: {limit} for {ask:?}");
                }
            }
        }
    }
}
