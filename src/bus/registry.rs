//! The subscriptions of a bus: what publishers must look at before they overwrite, and the counters.
//!
//! Each subscription owns a [`Cell`]. Its *gate* is one word: set, it names the oldest event that this
//! subscription still needs, and no publisher may overwrite that event or a later one; clear, it holds
//! nothing back. A blocking subscription's gate is always set (its cursor); a drop-oldest one's only
//! while it clones an event out (its pin). Publishers do not tell the two apart.
//!
//! 1. Cells are never freed while the bus lives, only used again; so a scan needs no lock.
//! 2. A scan sees at least the first `used` cells; a cell that carries a gate is below `used`.
//! 3. Only the owner of a subscription writes its cell, between joining and leaving; so its counters are
//!    plain loads and stores.
//! 4. Joining, leaving and reading all counters take the lock; publishing and receiving never do.

use std::collections::BTreeSet;
use std::sync::Arc;

use crossbeam::utils::CachePadded;

use super::position::Position;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, OnceLock, fence_site, site};

/// Cells in the first segment; each further segment is twice as long.
const FIRST_SEGMENT: usize = if cfg!(phalanx_loom) { 2 } else { 8 };
/// With the lengths above: more cells than fit into memory.
const SEGMENTS: usize = 32;

/// What publishers and counters know of one subscription.
#[derive(Debug)]
pub(super) struct Cell {
    gate: AtomicU64,
    cursor: AtomicU64,
    delivered: AtomicU64,
    skipped: AtomicU64,
    lagged: AtomicU64,
}

pub(super) type SharedCell = Arc<CachePadded<Cell>>;

/// Counters of one subscription, or of several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) delivered: u64,
    pub(super) skipped: u64,
    pub(super) lagged: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.skipped += other.skipped;
        self.lagged += other.lagged;
    }
}

impl Cell {
    fn new() -> SharedCell {
        Arc::new(CachePadded::new(Self {
            gate: AtomicU64::new(0),
            cursor: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            lagged: AtomicU64::new(0),
        }))
    }

    /// The oldest event still needed, if any is.
    #[inline]
    pub(super) fn gate(&self) -> Option<Position> {
        // Ordering: Acquire, pairs with the Release of `hold_from` and `let_go`: weaker, and a publisher
        // would overwrite a payload while its reader is not done reading it.
        let word = self.gate.load(site("bus.gate.scan", Ordering::Acquire));
        Position::is_flagged(word).then(|| Position::of_word(word))
    }

    /// Holds everything from here on; what lies before is given up.
    #[inline]
    pub(super) fn hold_from(&self, position: Position) {
        // Ordering: Release, pairs with the Acquire of `gate`: the reads of what is given up come before.
        self.gate.store(position.flagged(), site("bus.gate.hold", Ordering::Release));
    }

    /// Whether the gate is set, as its owner sees it.
    #[inline]
    pub(super) fn is_held(&self) -> bool {
        Position::is_flagged(self.gate.load(Ordering::Relaxed))
    }

    /// Holds nothing any more.
    #[inline]
    pub(super) fn let_go(&self) {
        // Ordering: Release, pairs with the Acquire of `gate`: the reads under the pin come before.
        self.gate.store(0, site("bus.gate.let_go", Ordering::Release));
    }

    #[inline]
    pub(super) fn count(&self, counts: Counts, cursor: Position) {
        // Rule 3: nobody else writes, so a load and a store do not lose counts.
        let add = |counter: &AtomicU64, by: u64| {
            if by != 0 {
                counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
            }
        };
        add(&self.delivered, counts.delivered);
        add(&self.skipped, counts.skipped);
        add(&self.lagged, counts.lagged);
        self.cursor.store(cursor.word(), Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            delivered: self.delivered.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
            lagged: self.lagged.load(Ordering::Relaxed),
        }
    }

    /// Where the reader stands.
    pub(super) fn cursor(&self) -> Position {
        Position::of_word(self.cursor.load(Ordering::Relaxed))
    }
}

/// All subscriptions, past ones in sum.
#[derive(Debug)]
pub(super) struct Registry {
    used: AtomicUsize,
    segments: [OnceLock<Box<[SharedCell]>>; SEGMENTS],
    control: Mutex<Control>,
}

#[derive(Debug, Default)]
struct Control {
    free: BTreeSet<usize>,
    live: BTreeSet<usize>,
    retired: Counts,
}

impl Registry {
    pub(super) fn new() -> Self {
        Self {
            used: AtomicUsize::new(0),
            segments: [const { OnceLock::new() }; SEGMENTS],
            control: Mutex::new(Control::default()),
        }
    }

    /// The oldest event that any subscription still needs, looking back from `position`.
    ///
    /// `None` if none needs any. The caller fences before the scan where it matters that a gate is seen.
    #[inline]
    pub(super) fn oldest_gate(&self) -> Option<Position> {
        // Ordering: Acquire, pairs with the Release in `join`: the cells below `used` are made.
        let mut left = self.used.load(Ordering::Acquire);
        let mut oldest: Option<Position> = None;
        for segment in &self.segments {
            if left == 0 {
                break;
            }
            let cells = segment.get().expect("the cells below `used` are made (rule 2)");
            for gate in cells.iter().take(left).filter_map(|cell| cell.gate()) {
                oldest = Some(oldest.map_or(gate, |oldest| oldest.earlier(gate)));
            }
            left = left.saturating_sub(cells.len());
        }
        oldest
    }

    /// Enters a subscription that starts at the end of what is claimed, and says where that is.
    ///
    /// With `holds`, its gate is set; a publisher that looked at the gates before it saw this one had
    /// read a tail no later than where the subscription starts, so what it overwrites lies before it.
    pub(super) fn join(&self, tail: &AtomicU64, holds: bool) -> (usize, SharedCell, Position) {
        let mut control = self.control.lock();
        let index = control.free.pop_first().unwrap_or(control.live.len());
        control.live.insert(index);
        let cell = Arc::clone(self.cell(index));
        if holds {
            cell.hold_from(Position::of_word(tail.load(Ordering::Relaxed)));
        }
        if self.used.load(Ordering::Relaxed) <= index {
            // Ordering: Release, pairs with the Acquire in `oldest_gate`: the cell is made.
            self.used.store(index + 1, Ordering::Release);
        }
        // Ordering: SeqCst, pairs with the fence of `Ring::refresh`: either that scan sees the gate, or the
        // tail read below is no earlier than the one it started from.
        fence_site("bus.join.fence", Ordering::SeqCst);
        let start = Position::of_word(tail.load(Ordering::Relaxed));
        if holds {
            cell.hold_from(start);
        }
        cell.cursor.store(start.word(), Ordering::Relaxed);
        (index, cell, start)
    }

    /// Takes a subscription out; its counts go to the retired ones.
    pub(super) fn leave(&self, index: usize) {
        let mut control = self.control.lock();
        let cell = self.cell(index);
        cell.let_go();
        control.retired.add(cell.counts());
        for counter in [&cell.delivered, &cell.skipped, &cell.lagged] {
            counter.store(0, Ordering::Relaxed);
        }
        control.live.remove(&index);
        control.free.insert(index);
        // The scan gets shorter again when the last ones leave.
        let mut used = self.used.load(Ordering::Relaxed);
        while used > 0 && control.free.remove(&(used - 1)) {
            used -= 1;
        }
        // Ordering: Release, as in `join`.
        self.used.store(used, Ordering::Release);
    }

    /// The counts of all subscriptions together, past ones included, and each live one's cursor.
    pub(super) fn totals(&self, mut visit: impl FnMut(usize, Counts, Position)) -> Counts {
        let control = self.control.lock();
        let mut totals = control.retired;
        for &index in &control.live {
            let cell = self.cell(index);
            totals.add(cell.counts());
            visit(index, cell.counts(), cell.cursor());
        }
        totals
    }

    fn cell(&self, index: usize) -> &SharedCell {
        let segment = (index / FIRST_SEGMENT + 1).ilog2() as usize;
        let first = FIRST_SEGMENT * ((1 << segment) - 1);
        let cells = self.segments[segment]
            .get_or_init(|| (0..FIRST_SEGMENT << segment).map(|_| Cell::new()).collect());
        &cells[index - first]
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gate_is_found_over_all_segments() {
        let registry = Registry::new();
        let tail = AtomicU64::new(Position::from_sequence(100).word());
        assert_eq!(registry.oldest_gate(), None);
        let cells: Vec<_> = (0..50).map(|i| registry.join(&tail, i % 2 == 0)).collect();
        assert_eq!(registry.oldest_gate(), Some(Position::from_sequence(100)));
        for (index, cell, start) in &cells {
            assert_eq!(*start, Position::from_sequence(100));
            if index % 2 == 0 {
                cell.hold_from(start.forward(10 + *index as u64));
            }
        }
        cells[49].1.hold_from(Position::from_sequence(105));
        assert_eq!(registry.oldest_gate(), Some(Position::from_sequence(105)));
        cells[49].1.let_go();
        assert_eq!(registry.oldest_gate(), Some(Position::from_sequence(110)));
    }

    #[test]
    fn a_cell_is_used_again_and_its_counts_are_kept_in_sum() {
        let registry = Registry::new();
        let tail = AtomicU64::new(0);
        let indices: Vec<_> = (0..20).map(|_| registry.join(&tail, true)).collect();
        for (index, cell, start) in &indices {
            cell.count(Counts { delivered: 1, skipped: 2, lagged: 3 }, *start);
            if *index != 3 {
                registry.leave(*index);
            }
        }
        assert_eq!(registry.used.load(Ordering::Relaxed), 4);
        let mut live = Vec::new();
        let totals = registry.totals(|index, counts, _| live.push((index, counts)));
        assert_eq!(totals, Counts { delivered: 20, skipped: 40, lagged: 60 });
        assert_eq!(live, [(3, Counts { delivered: 1, skipped: 2, lagged: 3 })]);
        assert_eq!(registry.join(&tail, false).0, 0, "the lowest free cell");
        for (index, ..) in (0..3).map(|_| registry.join(&tail, false)) {
            assert!(index < 5, "no gaps are left: {index}");
        }
    }
}
