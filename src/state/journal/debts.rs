//! What groups owe of a checkpoint, and who is at it.
//!
//! Rules that hold here:
//!
//! 1. A byte is owed by one leader that is at it, or by nobody. What a leader leaves when it goes is nobody's.
//! 2. A step pays what there is, whoever does it: that of a leader its own debt, then what is nobody's, then that of
//!    others; any other step what is nobody's first.
//! 3. While more than [`BYTES_MAX`] is nobody's, half of a leader's step goes there. So groups that wait for that are
//!    put off by twice their due at most, and the leader is held up by twice its own, however much either is.

/// What may be nobody's before steps come before groups, and what a leader may leave to who has the checkpoint.
pub(super) const BYTES_MAX: u64 = 8 << 20;

/// A leader, from before its group until it has paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leader(u64);

/// See the rules of the file.
#[derive(Debug, Default)]
pub(super) struct Debts {
    nobodys: u64,
    /// Each with what is left of its own. As many as there are threads that lead, at most.
    leaders: Vec<(Leader, u64)>,
    last: u64,
}

impl Debts {
    pub(super) fn enter(&mut self) -> Leader {
        self.last += 1;
        let leader = Leader(self.last);
        self.leaders.push((leader, 0));
        leader
    }

    /// What it leaves is nobody's.
    pub(super) fn leave(&mut self, leader: Leader) {
        if let Some(at) = self.leaders.iter().position(|(other, _)| *other == leader) {
            self.owe(None, self.leaders[at].1);
            self.leaders.swap_remove(at);
        }
    }

    pub(super) fn owe(&mut self, by: Option<Leader>, bytes: u64) {
        let owes = match self.own(by) {
            Some(left) => left,
            None => &mut self.nobodys,
        };
        *owes = owes.saturating_add(bytes);
    }

    /// It is at what was nobody's, too.
    pub(super) fn take_on(&mut self, leader: Leader) {
        let nobodys = std::mem::take(&mut self.nobodys);
        self.owe(Some(leader), nobodys);
    }

    /// A step of so many bytes was done (rules 2 and 3).
    pub(super) fn pay(&mut self, by: Option<Leader>, bytes: u64) {
        let mut bytes = bytes;
        if self.own(by).is_some() {
            let others = if self.nobodys > BYTES_MAX { bytes / 2 } else { 0 };
            let others = take_from(&mut self.nobodys, others);
            bytes -= others;
            if let Some(own) = self.own(by) {
                bytes -= take_from(own, bytes);
            }
        }
        bytes -= take_from(&mut self.nobodys, bytes);
        for (_, left) in &mut self.leaders {
            bytes -= take_from(left, bytes);
        }
    }

    /// What is left of its own.
    pub(super) fn left(&self, leader: Leader) -> u64 {
        self.leaders.iter().find(|(other, _)| *other == leader).map_or(0, |(_, left)| *left)
    }

    /// There is nothing to do any more, or something else.
    pub(super) fn forgive(&mut self) {
        self.nobodys = 0;
        self.leaders.iter_mut().for_each(|(_, left)| *left = 0);
    }

    /// Whether more is nobody's than may be, or would be if this leader went.
    pub(super) fn is_behind(&self, but_for: Option<Leader>) -> bool {
        let mine = but_for.map_or(0, |leader| self.left(leader));
        self.nobodys.saturating_add(mine) > BYTES_MAX
    }

    fn own(&mut self, leader: Option<Leader>) -> Option<&mut u64> {
        let leader = leader?;
        self.leaders.iter_mut().find(|(other, _)| *other == leader).map(|(_, left)| left)
    }
}

/// Takes up to so many bytes off; how many it took.
fn take_from(left: &mut u64, bytes: u64) -> u64 {
    let taken = bytes.min(*left);
    *left -= taken;
    taken
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    impl Debts {
        pub(in super::super) fn nobodys(&self) -> u64 {
            self.nobodys
        }

        fn undone(&self) -> u64 {
            self.nobodys + self.leaders.iter().map(|(_, left)| left).sum::<u64>()
        }
    }

    #[test]
    fn a_step_pays_its_leader_then_nobody_then_others_and_nothing_twice() {
        let mut debts = Debts::default();
        let (one, other) = (debts.enter(), debts.enter());
        debts.owe(Some(one), 10);
        debts.owe(Some(other), 10);
        debts.owe(None, 10);
        debts.pay(Some(one), 4);
        assert_eq!((debts.left(one), debts.left(other), debts.undone()), (6, 10, 26));
        debts.pay(None, 4);
        assert_eq!((debts.left(one), debts.left(other), debts.undone()), (6, 10, 22));
        debts.pay(Some(one), 14);
        assert_eq!((debts.left(one), debts.left(other), debts.undone()), (0, 8, 8));
        debts.pay(Some(one), 3);
        assert_eq!((debts.left(other), debts.undone()), (5, 5));
        // More than there is counts for nothing later on.
        debts.pay(None, 100);
        debts.owe(Some(one), 7);
        assert_eq!(debts.undone(), 7);
        debts.leave(one);
        debts.leave(one);
        debts.pay(Some(one), 2);
        assert_eq!((debts.left(one), debts.undone()), (0, 5), "what it left is nobody's");
        debts.take_on(other);
        assert_eq!((debts.left(other), debts.undone()), (5, 5));
        debts.forgive();
        assert_eq!(debts.undone(), 0);
    }

    #[test]
    fn who_owes_much_and_who_is_put_off_share_the_steps() {
        let mut debts = Debts::default();
        let leader = debts.enter();
        debts.owe(Some(leader), 100 * MIB);
        debts.owe(None, BYTES_MAX);
        assert!(!debts.is_behind(None) && debts.is_behind(Some(leader)));
        debts.pay(Some(leader), MIB);
        assert_eq!(debts.left(leader), 99 * MIB, "nobody is put off");
        debts.owe(None, 3 * MIB);
        let mut steps = 0;
        while debts.is_behind(None) {
            debts.pay(Some(leader), MIB);
            steps += 1;
        }
        assert_eq!((steps, debts.left(leader)), (6, 96 * MIB));
    }
}
