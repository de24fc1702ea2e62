//! How somebody waits: what is done between looking and looking again, before parking if ever.
//!
//! 1. A wait under [`SpinThenPark`](WaitStrategy::SpinThenPark) spins for about a microsecond, then yields for
//!    as many rounds as proved worth it of late, and then parks. Rounds that ended in an event make the next
//!    wait more patient, a park makes it less: so who is fed all the time hardly ever parks, and who is
//!    idle parks soon.
//! 2. Before it looks again for the first time, a wait dozes, unless it parks at once or spins:
//!    twice as long as the last time where one look was enough then, half as long where not, and hardly at
//!    all after a park. So a reader that keeps up does not chase the publisher's newest event, but finds a few.
//! 3. Under a model there is no spinning: a look again is a park.

use crate::sync::{hint, thread};

/// How those who wait on a bus, for an event or for room, spend the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitStrategy {
    /// Spin for about a microsecond (some tens at most, while each look finds something), yield the processor
    /// for a while that adapts to how often that was enough, then park. The default: close to the latency of
    /// spinning under load, no processor when idle.
    #[default]
    SpinThenPark,
    /// Park at once: the least processor time, and the price of a wake-up for every wait.
    Park,
    /// Look again and again, yielding the processor in between; never parks, so an idle reader keeps a core
    /// busy that nobody else wants.
    Yield,
    /// Look again and again without giving the processor up. The least latency, where each thread that
    /// waits has a core of its own; a collapse where not.
    Spin,
}

const MODEL: bool = cfg!(any(phalanx_loom, phalanx_shuttle));
/// For how long a wait spins, in spin hints.
const SPINS: u32 = if MODEL { 0 } else { 64 };
/// The longest doze, in spin hints.
const DOZE_MAX: u32 = if MODEL { 0 } else { 1024 };
/// Rounds of yielding before a park: where a wait starts, and the bounds.
const YIELDS_MIN: u32 = if MODEL { 0 } else { 4 };
const YIELDS_START: u32 = if MODEL { 0 } else { 64 };
const YIELDS_MAX: u32 = if MODEL { 0 } else { 256 };

/// What one who waits time and again remembers of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    strategy: WaitStrategy,
    yields: u32,
    doze: u32,
}

impl Patience {
    pub(super) const fn new(strategy: WaitStrategy) -> Self {
        Self { strategy, yields: YIELDS_START, doze: 1 }
    }

    /// A wait begins.
    pub(super) const fn begin(&self) -> Backoff {
        Backoff { strategy: self.strategy, looks: 0, spun: 0, doze: self.doze, yields: self.yields }
    }

    /// A wait ended without a park.
    pub(super) fn paid_off(&mut self, backoff: &Backoff) {
        if backoff.strategy == WaitStrategy::Spin {
            // The least latency was asked for, whatever it costs.
        } else if backoff.looks <= 1 {
            self.doze = (self.doze * 2).min(DOZE_MAX);
        } else {
            self.doze = (self.doze / 2).max(1);
            if backoff.spun >= SPINS {
                self.yields = (self.yields + 4).min(YIELDS_MAX);
            }
        }
    }

    /// A wait ended in a park.
    pub(super) fn in_vain(&mut self) {
        self.doze = 1;
        self.yields = (self.yields / 2).max(YIELDS_MIN);
    }
}

/// One wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    strategy: WaitStrategy,
    /// How often it looked again.
    looks: u32,
    /// Spin hints so far.
    spun: u32,
    /// Spin hints before the first look.
    doze: u32,
    /// Rounds of yielding that are left.
    yields: u32,
}

impl Backoff {
    /// Whether to look again, a moment having passed, rather than park.
    pub(super) fn again(&mut self) -> bool {
        match self.strategy {
            WaitStrategy::Park => return false,
            _ if MODEL => return false,
            WaitStrategy::Spin => self.spin(),
            _ if self.spun < SPINS => self.spin(),
            WaitStrategy::Yield => thread::yield_now(),
            WaitStrategy::SpinThenPark if self.yields > 0 => {
                self.yields -= 1;
                thread::yield_now();
            }
            WaitStrategy::SpinThenPark => return false,
        }
        self.looks = self.looks.saturating_add(1);
        true
    }

    fn spin(&mut self) {
        let hints = if self.looks == 0 { self.doze } else { 4 };
        for _ in 0..hints {
            hint::spin_loop();
        }
        self.spun = self.spun.saturating_add(4);
    }
}
