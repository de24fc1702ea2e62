//! How agents come into a [shard](super), change their class and end (rules 2 and 3).

use super::*;

impl Shard {
    /// Makes room for so many more agents in one step.
    pub(in crate::fleet::pool) fn reserve(&mut self, count: usize) {
        self.slots.reserve(count.saturating_sub(self.vacant.len()));
    }

    /// Adds an agent, for which the desk found room.
    pub(in crate::fleet::pool) fn insert(&mut self, entrant: &Entrant) -> AgentId {
        let class = self.class_of(entrant.mask, Standing::new(entrant.condition), None);
        let class = class.expect("the desk bounds the sets of capabilities");
        self.classes[class as usize].live += 1;
        self.live += 1;
        let local = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot::vacant());
            u32::try_from(self.slots.len() - 1).expect("max_agents fits in 32 bits")
        });
        let slot = &mut self.slots[local as usize];
        slot.kind = entrant.kind;
        slot.limit = entrant.limit;
        slot.priority = entrant.priority;
        slot.class = class;
        slot.load = 0;
        slot.standing = Standing::new(entrant.condition).heeded(entrant.era.is_some());
        if let Some(era) = entrant.era {
            // It is new, so all its leases are of this era.
            self.eras.insert(local, Era { number: era, since: 0 });
        }
        if self.kept.has(Strategy::Performance) {
            if self.scores.len() <= local as usize {
                self.scores.resize(local as usize + 1, Score::default());
            }
            self.scores[local as usize] = Score::default();
        }
        self.touch(local, false);
        self.line_up(local);
        self.join(local, Lists::All);
        self.id(local)
    }

    /// The class of a set of capabilities, new or used again if there is none (rule 2).
    fn class_of(&mut self, mask: Mask, standing: Standing, payer: Option<&Payer>) -> Option<u16> {
        let (degraded, on_trial) = standing.sort();
        // Most fleets have one.
        if let Some(first) = self.classes.first()
            && first.live > 0
            && first.is_like(mask, (degraded, on_trial), payer)
        {
            return Some(0);
        }
        let same = |class: &Class| class.is_like(mask, (degraded, on_trial), payer);
        if let Some(known) = self.classes.iter().position(|class| class.live > 0 && same(class)) {
            return u16::try_from(known).ok();
        }
        let place = self.classes.iter().position(|class| class.live == 0);
        let place = u16::try_from(place.unwrap_or(self.classes.len())).ok()?;
        if usize::from(place) == self.classes.len() {
            let index = std::array::from_fn(|_| Index::new());
            self.classes.push(Class { mask, degraded, on_trial, payer: None, live: 0, index });
            self.lacking.push(0);
        }
        self.lacking[usize::from(place)] = !sketch(mask);
        let class = &mut self.classes[usize::from(place)];
        (class.mask, class.degraded, class.on_trial) = (mask, degraded, on_trial);
        class.payer = payer.cloned();
        self.see_whether_simple();
        Some(place)
    }

    /// Sets who pays for an agent beside who asks. Where there are too many sorts of agents to tell one more
    /// apart, it is taken for failed: nobody could see to its budget.
    pub(in crate::fleet::pool) fn set_payer(&mut self, local: u32, payer: Option<Payer>) {
        let class = &self.classes[self.slots[local as usize].class as usize];
        let standing = self.slots[local as usize].standing;
        if class.is_like(class.mask, standing.sort(), payer.as_ref()) {
            return;
        }
        let mask = class.mask;
        match self.class_of(mask, standing, payer.as_ref()) {
            Some(class) => self.reclass(local, class, standing),
            None => self.set_condition(local, Condition::Failed, false),
        }
    }

    /// Sets how many leases a live agent may hold. More of them may be held already.
    pub(in crate::fleet::pool) fn set_limit(&mut self, local: u32, limit: u16) {
        self.leave(local, Lists::All);
        self.slots[local as usize].limit = limit;
        self.join(local, Lists::All);
    }

    /// Sets what a live agent is fit for, and whether it is on trial.
    pub(in crate::fleet::pool) fn set_condition(
        &mut self,
        local: u32,
        condition: Condition,
        on_trial: bool,
    ) {
        let (mask, standing) = (self.mask(local), Standing::new(condition).tried(on_trial));
        let class = &self.classes[self.slots[local as usize].class as usize];
        if (class.degraded, class.on_trial) == standing.sort() {
            // It stays in its class, though not where it is in that.
            self.leave(local, Lists::All);
            let slot = &mut self.slots[local as usize];
            slot.standing = standing.noted_as(slot.standing);
            return self.come_last(local);
        }
        let payer = self.classes[self.slots[local as usize].class as usize].payer.clone();
        match self.class_of(mask, standing, payer.as_ref()) {
            Some(class) => self.reclass(local, class, standing),
            // There is a class for its set and its payer, and who has failed may be in any of them.
            None => {
                let failed = Standing::new(Condition::Failed);
                self.reclass(local, self.slots[local as usize].class, failed);
            }
        }
    }

    fn reclass(&mut self, local: u32, class: u16, standing: Standing) {
        self.leave(local, Lists::All);
        let old = self.slots[local as usize].class;
        self.classes[old as usize].live -= 1;
        self.classes[class as usize].live += 1;
        let slot = &mut self.slots[local as usize];
        slot.class = class;
        slot.standing = standing.noted_as(slot.standing);
        self.drop_empty_classes();
        self.come_last(local);
    }

    /// Has an agent that is in no list come after its equals.
    fn come_last(&mut self, local: u32) {
        self.touch(local, false);
        self.line_up(local);
        self.join(local, Lists::All);
    }

    /// Ends a live agent: its leases are void.
    pub(in crate::fleet::pool) fn remove(&mut self, local: u32) -> Removed {
        self.leave(local, Lists::All);
        let slot = &mut self.slots[local as usize];
        let load = slot.load;
        let counted_on = slot.standing.is_counted_on();
        if slot.standing.is_heeded() {
            self.eras.remove(&local);
        }
        slot.standing = Standing::VACANT;
        slot.load = 0;
        if !self.incarnations.is_empty() {
            self.incarnations.remove(&local);
        }
        self.charges.give_back_all(local);
        let slot = &mut self.slots[local as usize];
        // Rule 3.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.vacant.push(local);
        }
        self.live -= 1;
        self.counts.taken_back += u64::from(load);
        let class = &mut self.classes[slot.class as usize];
        class.live -= 1;
        let (kind, mask) = (slot.kind, class.mask);
        self.drop_empty_classes();
        Removed { load: u32::from(load), leaver: Leaver { kind, mask, counted_on } }
    }
}
