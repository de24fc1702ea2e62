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
//!    plain loads and stores. All but one: for how long publishers waited for it they add themselves.
//! 4. Joining, leaving and reading all counters take the lock; publishing and receiving never do.

use std::collections::BTreeSet;
use std::sync::Arc;

use crossbeam::utils::CachePadded;

use super::position::{BUSY, FLAG, Position};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, OnceLock, site};

/// Cells in the first segment; each further segment is twice as long.
const FIRST_SEGMENT: usize = if cfg!(phalanx_loom) { 2 } else { 8 };
/// With the lengths above: more cells than fit into memory.
const SEGMENTS: usize = 32;

/// What a subscription holds back between its receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nothing: publishers overwrite what it has not read.
    Nothing,
    /// What it has not read: publishers wait for it.
    Waiting,
    /// What it has not read: publishers fail.
    Failing,
}

/// In the word of a gate: publishers are not to wait for it.
const FAILING: u64 = BUSY;

/// What publishers and counters know of one subscription.
#[derive(Debug)]
pub(super) struct Cell {
    gate: AtomicU64,
    start: AtomicU64,
    delivered: AtomicU64,
    skipped: AtomicU64,
    lagged: AtomicU64,
    /// For how long publishers waited for it.
    blocked_ns: AtomicU64,
}

pub(super) type SharedCell = Arc<CachePadded<Cell>>;

/// A subscription that entered: its number, its cell, where it begins and what it missed before.
pub(super) type Joined = (usize, SharedCell, Position, u64);

/// Counters of one subscription, or of several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) delivered: u64,
    pub(super) skipped: u64,
    pub(super) lagged: u64,
    pub(super) blocked_ns: u64,
    /// What still lay before subscriptions when they ended.
    pub(super) dropped: u64,
}

impl Counts {
    /// What was passed, one way or another.
    #[inline]
    pub(super) const fn passed(&self) -> u64 {
        self.delivered.wrapping_add(self.skipped).wrapping_add(self.lagged)
    }

    pub(super) fn add(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.skipped += other.skipped;
        self.lagged += other.lagged;
        self.blocked_ns += other.blocked_ns;
        self.dropped += other.dropped;
    }
}

impl Cell {
    fn new() -> SharedCell {
        let zero = || AtomicU64::new(0);
        Arc::new(CachePadded::new(Self {
            gate: zero(),
            start: zero(),
            delivered: zero(),
            skipped: zero(),
            lagged: zero(),
            blocked_ns: zero(),
        }))
    }

    #[inline]
    fn gate_word(&self) -> Option<u64> {
        // Ordering: Acquire, pairs with the Release of `hold_from` and `let_go`: weaker, and a publisher
        // would overwrite a payload while its reader is not done reading it.
        let word = self.gate.load(site("bus.gate.scan", Ordering::Acquire));
        (word & FLAG != 0).then_some(word)
    }

    /// Holds everything from here on; what lies before is given up.
    #[inline]
    pub(super) fn hold_from(&self, position: Position, hold: Hold) {
        let flags = if hold == Hold::Failing { FAILING } else { 0 };
        // Ordering: Release, pairs with the Acquire of `gate_word`: the reads of what is given up come before.
        self.gate.store(position.flagged() | flags, site("bus.gate.hold", Ordering::Release));
    }

    /// Whether the gate is set, as its owner sees it.
    #[inline]
    pub(super) fn is_held(&self) -> bool {
        self.gate.load(Ordering::Relaxed) & FLAG != 0
    }

    /// Holds nothing any more.
    #[inline]
    pub(super) fn let_go(&self) {
        // Ordering: Release, pairs with the Acquire of `gate_word`: the reads under the pin come before.
        self.gate.store(0, site("bus.gate.let_go", Ordering::Release));
    }

    /// A subscription begins here, with nothing counted.
    pub(super) fn begin(&self, start: Position) {
        self.start.store(start.word(), Ordering::Relaxed);
        for counter in [&self.delivered, &self.skipped, &self.lagged, &self.blocked_ns] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// The owner's counts so far (rule 3: nobody else writes them).
    #[inline]
    pub(super) fn publish_counts(&self, counts: &Counts) {
        self.delivered.store(counts.delivered, Ordering::Relaxed);
        self.skipped.store(counts.skipped, Ordering::Relaxed);
        self.lagged.store(counts.lagged, Ordering::Relaxed);
    }

    /// A publisher waited for it.
    pub(super) fn blocked(&self, nanoseconds: u64) {
        self.blocked_ns.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            delivered: self.delivered.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
            lagged: self.lagged.load(Ordering::Relaxed),
            blocked_ns: self.blocked_ns.load(Ordering::Relaxed),
            dropped: 0,
        }
    }

    /// Where the subscription began.
    pub(super) fn start(&self) -> Position {
        Position::of_word(self.start.load(Ordering::Relaxed))
    }

    /// Where the reader stands: behind all that it passed.
    pub(super) fn cursor(&self) -> Position {
        self.start().forward(self.counts().passed())
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

    /// The oldest event that any subscription still needs.
    ///
    /// `None` if none needs any. The caller fences before the scan where it matters that a gate is seen.
    #[inline]
    pub(super) fn oldest_gate(&self) -> Option<Position> {
        let mut oldest: Option<Position> = None;
        self.scan(|cell| {
            if let Some(word) = cell.gate_word() {
                let gate = Position::of_word(word);
                oldest = Some(oldest.map_or(gate, |oldest| oldest.earlier(gate)));
            }
        });
        oldest
    }

    /// Whether a gate that publishers are not to wait for is at this position or before.
    pub(super) fn is_any_failing_at(&self, position: Position) -> bool {
        let mut any = false;
        self.scan(|cell| {
            any |= cell.gate_word().is_some_and(|word| {
                word & FAILING != 0 && !position.is_before(Position::of_word(word))
            });
        });
        any
    }

    /// The subscription with the oldest gate, if that is at this position or before, and where it began.
    pub(super) fn oldest_holder(&self, position: Position) -> Option<(SharedCell, Position)> {
        let mut oldest: Option<(Position, &SharedCell)> = None;
        self.scan(|cell| {
            if let Some(word) = cell.gate_word() {
                let gate = Position::of_word(word);
                if !position.is_before(gate)
                    && oldest.is_none_or(|(oldest, _)| gate.is_before(oldest))
                {
                    oldest = Some((gate, cell));
                }
            }
        });
        oldest.map(|(_, cell)| (Arc::clone(cell), cell.start()))
    }

    #[inline]
    fn scan<'a>(&'a self, mut visit: impl FnMut(&'a SharedCell)) {
        // Ordering: Acquire, pairs with the Release in `enter`: the cells below `used` are made.
        let mut left = self.used.load(Ordering::Acquire);
        for segment in &self.segments {
            if left == 0 {
                break;
            }
            let cells = segment.get().expect("the cells below `used` are made (rule 2)");
            for cell in cells.iter().take(left) {
                visit(cell);
            }
            left = left.saturating_sub(cells.len());
        }
    }

    /// Enters a subscription: `join` sets the gate of the cell it is given, and says where it begins.
    ///
    /// The cell is below `used` before its gate is set.
    pub(super) fn enter(&self, join: impl FnOnce(&Cell) -> (Position, u64)) -> Joined {
        let mut control = self.control.lock();
        let index = control.free.first().copied().unwrap_or(control.live.len());
        let cell = Arc::clone(self.cell(index));
        if self.used.load(Ordering::Relaxed) <= index {
            // Ordering: Release, pairs with the Acquire in `scan`: the cell is made.
            self.used.store(index + 1, Ordering::Release);
        }
        let (first, missed) = join(&cell);
        control.free.remove(&index);
        control.live.insert(index);
        (index, cell, first, missed)
    }

    /// Takes a subscription out that is at `tail` events of its lane; its counts go to the retired ones.
    pub(super) fn leave(&self, index: usize, tail: Position) {
        let mut control = self.control.lock();
        let cell = self.cell(index);
        let mut counts = cell.counts();
        let cursor = cell.cursor();
        counts.dropped = if cursor.is_before(tail) { tail.since(cursor) } else { 0 };
        cell.let_go();
        control.retired.add(counts);
        control.live.remove(&index);
        control.free.insert(index);
        // The scan gets shorter again when the last ones leave.
        let mut used = self.used.load(Ordering::Relaxed);
        while used > 0 && control.free.remove(&(used - 1)) {
            used -= 1;
        }
        // Ordering: Release, as in `enter`.
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

    fn at(sequence: u64) -> Position {
        Position::from_sequence(sequence)
    }

    fn join(registry: &Registry, first: Position, hold: Hold) -> (usize, SharedCell) {
        let (index, cell, start, missed) = registry.enter(|cell| {
            cell.begin(first);
            if hold != Hold::Nothing {
                cell.hold_from(first, hold);
            }
            (first, 0)
        });
        assert_eq!((start, missed), (first, 0));
        (index, cell)
    }

    fn counts(delivered: u64, skipped: u64, lagged: u64) -> Counts {
        Counts { delivered, skipped, lagged, ..Counts::default() }
    }

    #[test]
    fn the_oldest_gate_is_found_over_all_segments() {
        let registry = Registry::new();
        assert_eq!(registry.oldest_gate(), None);
        let holds = |index| if index % 2 == 0 { Hold::Waiting } else { Hold::Nothing };
        let cells: Vec<_> = (0..50).map(|i| join(&registry, at(100), holds(i))).collect();
        assert_eq!(registry.oldest_gate(), Some(at(100)));
        for (index, cell) in &cells {
            if index % 2 == 0 {
                cell.hold_from(at(110 + *index as u64), Hold::Waiting);
            }
        }
        cells[49].1.hold_from(at(105), Hold::Waiting);
        assert_eq!(registry.oldest_gate(), Some(at(105)));
        cells[49].1.let_go();
        assert_eq!(registry.oldest_gate(), Some(at(110)));
    }

    #[test]
    fn a_gate_that_fails_counts_from_where_it_stands() {
        let registry = Registry::new();
        join(&registry, at(3), Hold::Waiting);
        assert!(!registry.is_any_failing_at(at(9)));
        let (_, failing) = join(&registry, at(5), Hold::Failing);
        assert!(!registry.is_any_failing_at(at(4)));
        assert!(registry.is_any_failing_at(at(5)) && registry.is_any_failing_at(at(6)));
        assert_eq!(registry.oldest_gate(), Some(at(3)), "it holds like any other");
        failing.hold_from(at(7), Hold::Failing);
        assert!(!registry.is_any_failing_at(at(6)));
    }

    #[test]
    fn the_oldest_holder_is_told_of_the_time_that_publishers_wait() {
        let registry = Registry::new();
        assert!(registry.oldest_holder(at(9)).is_none());
        let (_, newer) = join(&registry, at(5), Hold::Waiting);
        let (_, older) = join(&registry, at(4), Hold::Waiting);
        assert!(registry.oldest_holder(at(3)).is_none(), "nobody is in the way");
        let (holder, start) = registry.oldest_holder(at(9)).expect("two hold");
        assert_eq!(start, at(4));
        holder.blocked(9);
        assert_eq!((newer.counts().blocked_ns, older.counts().blocked_ns), (0, 9));
    }

    #[test]
    fn a_cell_is_used_again_and_its_counts_are_kept_in_sum() {
        let registry = Registry::new();
        let cells: Vec<_> = (0..20).map(|_| join(&registry, at(0), Hold::Waiting)).collect();
        for (index, cell) in &cells {
            cell.publish_counts(&counts(1, 2, 3));
            assert_eq!(cell.cursor(), at(6));
            if *index != 3 {
                registry.leave(*index, at(10));
            }
        }
        assert_eq!(registry.used.load(Ordering::Relaxed), 4);
        let mut live = Vec::new();
        let totals = registry.totals(|index, counts, _| live.push((index, counts)));
        assert_eq!(totals, Counts { dropped: 19 * 4, ..counts(20, 40, 60) });
        assert_eq!(live, [(3, counts(1, 2, 3))]);
        assert_eq!(join(&registry, at(0), Hold::Nothing).0, 0, "the lowest free cell");
        for (index, _) in (0..3).map(|_| join(&registry, at(0), Hold::Nothing)) {
            assert!(index < 5, "no gaps are left: {index}");
        }
    }
}
