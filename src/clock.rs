//! Time, injected: the real clock, a coarse one, and one that tests drive by hand.
//!
//! Whatever waits, expires or times out takes a [`Clock`]. Rules that hold here:
//!
//! 1. A clock never goes back.
//! 2. A wait with a deadline ends no earlier than its deadline on *its* clock, unless it is woken.
//! 3. With a manual clock no wait ends by itself: only [`ManualClock::advance`] and wakers end it, so a
//!    test that waits needs no sleep and no luck.

use std::fmt;
use std::ops::{Add, Sub};
#[cfg(feature = "test-util")]
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "test-util")]
use crate::sync::Mutex;
use crate::sync::Parker;

/// A moment on a [`Clock`]: the time since that clock was made.
///
/// Timestamps of different clocks do not compare in any useful way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(Duration);

impl Timestamp {
    /// The moment at which every clock starts.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// The time since the clock was made.
    #[must_use]
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// The moment so long after the clock was made.
    #[must_use]
    pub const fn from_start(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// The time from `earlier` to here, or zero when `earlier` is later.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    /// Saturates at the end of time.
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs))
    }
}

impl Sub for Timestamp {
    type Output = Duration;
    /// Saturates at zero.
    fn sub(self, rhs: Self) -> Duration {
        self.saturating_since(rhs)
    }
}

/// Where a part reads the time and waits for it. Cheap to clone; clones are the same clock.
///
/// The default is [`Clock::real`].
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    Real(Instant),
    /// When it was made, in nanoseconds.
    #[cfg(target_os = "linux")]
    Coarse(u64),
    #[cfg(feature = "test-util")]
    Manual(Arc<Manual>),
}

impl Clock {
    /// The monotonic clock of the system, exact to nanoseconds; a reading costs some 20 to 40 ns.
    #[must_use]
    pub fn real() -> Self {
        Self(Source::Real(Instant::now()))
    }

    /// The monotonic clock as of the last timer tick: 1 to 10 ms behind, for a few nanoseconds.
    ///
    /// Where the system has none, this is [`Clock::real`].
    #[must_use]
    pub fn coarse() -> Self {
        #[cfg(target_os = "linux")]
        {
            Self(Source::Coarse(coarse_ns()))
        }
        #[cfg(not(target_os = "linux"))]
        Self::real()
    }

    /// The time now.
    #[must_use]
    #[inline]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::Real(start) => Timestamp(start.elapsed()),
            #[cfg(target_os = "linux")]
            Source::Coarse(start) => {
                Timestamp(Duration::from_nanos(coarse_ns().saturating_sub(*start)))
            }
            #[cfg(feature = "test-util")]
            Source::Manual(manual) => manual.state.lock().now,
        }
    }

    /// The time since the clock was made, in nanoseconds: that of [`now`](Self::now).
    #[inline]
    pub(crate) fn elapsed_ns(&self) -> u64 {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Source::Coarse(start) => coarse_ns().saturating_sub(*start),
            _ => nanoseconds(self.now().0),
        }
    }

    /// Parks until a token arrives or the deadline passes; whether the token came.
    ///
    /// A deadline of `None` waits for the token alone.
    pub(crate) fn park_until(&self, parker: &Parker, deadline: Option<Timestamp>) -> bool {
        let Some(deadline) = deadline else {
            parker.park();
            return true;
        };
        match &self.0 {
            #[cfg(feature = "test-util")]
            Source::Manual(manual) => manual.park_until(parker, deadline),
            _ => loop {
                let left = deadline.saturating_since(self.now());
                if left.is_zero() {
                    return parker.park_timeout(Duration::ZERO);
                }
                if parker.park_timeout(left) {
                    return true;
                }
            },
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::real()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.0 {
            Source::Real(_) => "real",
            #[cfg(target_os = "linux")]
            Source::Coarse(_) => "coarse",
            #[cfg(feature = "test-util")]
            Source::Manual(_) => "manual",
        };
        f.debug_struct("Clock").field("source", &name).field("now", &self.now()).finish()
    }
}

/// It reaches beyond five hundred years.
#[inline]
fn nanoseconds(time: Duration) -> u64 {
    let whole = time.as_secs().saturating_mul(1_000_000_000);
    whole.saturating_add(u64::from(time.subsec_nanos()))
}

/// The coarse time of the system since it was booted.
#[cfg(target_os = "linux")]
#[inline]
fn coarse_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    // A monotonic clock starts at boot and not before it, and 64 bits reach beyond five hundred years.
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// The hand that drives a manual [`Clock`].
///
/// ```
/// use phalanx::ManualClock;
/// use std::time::Duration;
///
/// let (clock, hand) = ManualClock::new();
/// let before = clock.now();
/// hand.advance(Duration::from_secs(3600));
/// assert_eq!(clock.now() - before, Duration::from_secs(3600));
/// ```
#[cfg(feature = "test-util")]
#[derive(Clone)]
pub struct ManualClock(Arc<Manual>);

#[cfg(feature = "test-util")]
#[derive(Default)]
struct Manual {
    state: Mutex<ManualState>,
}

#[cfg(feature = "test-util")]
#[derive(Default)]
struct ManualState {
    now: Timestamp,
    next_key: u64,
    sleepers: Vec<(u64, Timestamp, std::task::Waker)>,
}

#[cfg(feature = "test-util")]
impl ManualClock {
    /// A clock that stands still, and the hand that moves it.
    #[must_use]
    pub fn new() -> (Clock, Self) {
        let manual = Arc::new(Manual::default());
        (Clock(Source::Manual(Arc::clone(&manual))), Self(manual))
    }

    /// Moves the clock on and wakes every wait whose deadline has come.
    pub fn advance(&self, by: Duration) {
        let due: Vec<_> = {
            let mut state = self.0.state.lock();
            state.now = state.now + by;
            let now = state.now;
            let (due, rest) =
                state.sleepers.drain(..).partition(|(_, deadline, _)| *deadline <= now);
            state.sleepers = rest;
            due
        };
        for (_, _, waker) in due {
            waker.wake();
        }
    }

    /// How many waits with a deadline stand on this clock now.
    ///
    /// A test polls this to know that the other thread has reached its wait before it moves the clock.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        self.0.state.lock().sleepers.len()
    }
}

#[cfg(feature = "test-util")]
impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualClock").field("now", &self.0.state.lock().now).finish()
    }
}

#[cfg(feature = "test-util")]
impl Manual {
    fn park_until(&self, parker: &Parker, deadline: Timestamp) -> bool {
        let key = {
            let mut state = self.state.lock();
            if deadline <= state.now {
                drop(state);
                return parker.park_timeout(Duration::ZERO);
            }
            let key = state.next_key;
            state.next_key += 1;
            state.sleepers.push((key, deadline, parker.waker()));
            key
        };
        parker.park();
        // The clock took the entry out if it was what woke: a token of another waker leaves it behind.
        let mut state = self.state.lock();
        let before = state.sleepers.len();
        state.sleepers.retain(|(other, ..)| *other != key);
        state.sleepers.len() < before
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn no_clock_goes_back() {
        for clock in [Clock::real(), Clock::coarse()] {
            let mut last = clock.now();
            for _ in 0..1000 {
                let now = clock.now();
                assert!(now >= last, "{clock:?}");
                last = now;
            }
        }
    }

    #[test]
    fn a_deadline_in_the_past_does_not_wait() {
        assert!(!Clock::real().park_until(&Parker::new(), Some(Timestamp::ZERO)));
    }

    #[cfg(feature = "test-util")]
    #[test]
    fn a_wait_on_a_manual_clock_ends_when_the_clock_is_moved_past_it() {
        let (clock, hand) = ManualClock::new();
        let waiting = clock.clone();
        let thread = crate::sync::thread::spawn(move || {
            waiting.park_until(&Parker::new(), Some(Timestamp::from_start(Duration::from_secs(10))))
        });
        while hand.sleepers() == 0 {
            crate::sync::thread::yield_now();
        }
        hand.advance(Duration::from_secs(9));
        assert_eq!(hand.sleepers(), 1);
        hand.advance(Duration::from_secs(1));
        assert!(!thread.join().expect("the waiting thread does not panic"));
    }
}
