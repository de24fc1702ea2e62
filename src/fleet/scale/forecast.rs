//! What the demand will be when agents spawned now are up: a moving average, a linear trend, and the choice.
//!
//! Rules that hold here:
//!
//! 1. A sample costs the same whatever came before, and no memory: sums are kept, and no samples.
//! 2. A forecast is a finite number and never negative, whatever the samples were.
//! 3. Samples that make no sense (not finite, negative, beyond 10^15) change nothing and are counted.
//! 4. Age counts by time and not by samples, so a host may sample as it likes.

mod backtest;

use std::fmt;
use std::time::Duration;

use crate::Timestamp;

pub use backtest::{Backtest, MAX_FORECASTERS};

/// The greatest sample that makes sense. Sums of squares of such numbers are far from any overflow.
const GREATEST: f64 = 1e15;

/// Foretells a value from those before it.
///
/// What it says is a hint: a [`plan`](super::plan) takes it for no more than the demand itself allows.
/// An implementation is called on the thread of whoever steps it, under no lock; its panics are theirs.
///
/// ```
/// use phalanx::Timestamp;
/// use phalanx::fleet::scale::{Forecaster, LinearTrend};
/// use std::time::Duration;
///
/// let at = |seconds| Timestamp::from_start(Duration::from_secs(seconds));
/// let mut trend = LinearTrend::new(Duration::from_secs(30));
/// for second in 0..60 {
///     trend.observe(at(second), 100.0 + 3.0 * second as f64);
/// }
/// let soon = trend.forecast(at(69)).ok_or("too few samples")?;
/// assert!((soon - 307.0).abs() < 1e-6);
/// # Ok::<(), &str>(())
/// ```
pub trait Forecaster: fmt::Debug + Send {
    /// What it is called where a choice is reported.
    fn name(&self) -> &str;

    /// Takes in what the value was at this time, which is no earlier than at the call before.
    fn observe(&mut self, at: Timestamp, value: f64);

    /// What the value will be at that time; `None` as long as it cannot tell.
    fn forecast(&self, at: Timestamp) -> Option<f64>;
}

fn makes_sense(value: f64) -> bool {
    (0.0..=GREATEST).contains(&value)
}

/// How much is left of a weight after some time. The last answer is kept, since hosts tick evenly.
#[derive(Clone, Copy, Debug)]
struct Decay {
    half_life: Duration,
    elapsed: Duration,
    seconds: f64,
    kept: f64,
}

impl Decay {
    fn new(half_life: Duration) -> Self {
        Self {
            half_life: half_life.max(Duration::from_nanos(1)),
            elapsed: Duration::ZERO,
            seconds: 0.0,
            kept: 1.0,
        }
    }

    #[inline]
    fn over(&mut self, elapsed: Duration) -> f64 {
        if elapsed != self.elapsed {
            self.reckon(elapsed);
        }
        self.kept
    }

    #[cold]
    fn reckon(&mut self, elapsed: Duration) {
        self.elapsed = elapsed;
        self.seconds = elapsed.as_secs_f64();
        self.kept = (-self.seconds / self.half_life.as_secs_f64()).exp2();
    }
}

/// Foretells that things stay as they were on average, where older samples count less.
///
/// It is never far off where demand is noise around a level, and late where demand has a direction.
#[derive(Clone, Debug)]
pub struct MovingAverage {
    decay: Decay,
    last: Option<(Timestamp, f64)>,
    ignored: u64,
}

impl MovingAverage {
    /// An average in which a sample counts half as much after each such time. At least a nanosecond.
    #[must_use]
    pub fn new(half_life: Duration) -> Self {
        Self { decay: Decay::new(half_life), last: None, ignored: 0 }
    }

    /// Samples that made no sense.
    #[must_use]
    pub const fn ignored(&self) -> u64 {
        self.ignored
    }
}

impl Forecaster for MovingAverage {
    fn name(&self) -> &str {
        "moving average"
    }

    fn observe(&mut self, at: Timestamp, value: f64) {
        if !makes_sense(value) {
            self.ignored += 1;
            return;
        }
        self.last = Some(match self.last {
            None => (at, value),
            Some((last, mean)) => {
                let kept = self.decay.over(at - last);
                (at.max(last), value + kept * (mean - value))
            }
        });
    }

    fn forecast(&self, _at: Timestamp) -> Option<f64> {
        self.last.map(|(_, mean)| mean)
    }
}

/// Foretells that things go on in the direction that they took, where older samples count less.
///
/// It is a least-squares line through all samples, weighted by age. It is right about ramps, and
/// overshoots where a ramp ends.
#[derive(Clone, Debug)]
pub struct LinearTrend {
    decay: Decay,
    last: Timestamp,
    samples: u64,
    ignored: u64,
    // Weighted sums, with x the time in seconds since the last sample: none of it is positive.
    weight: f64,
    x: f64,
    xx: f64,
    y: f64,
    xy: f64,
}

impl LinearTrend {
    /// A line in which a sample counts half as much after each such time. At least a nanosecond.
    #[must_use]
    pub fn new(half_life: Duration) -> Self {
        Self {
            decay: Decay::new(half_life),
            last: Timestamp::ZERO,
            samples: 0,
            ignored: 0,
            weight: 0.0,
            x: 0.0,
            xx: 0.0,
            y: 0.0,
            xy: 0.0,
        }
    }

    /// Samples that made no sense.
    #[must_use]
    pub const fn ignored(&self) -> u64 {
        self.ignored
    }
}

impl Forecaster for LinearTrend {
    fn name(&self) -> &str {
        "linear trend"
    }

    fn observe(&mut self, at: Timestamp, value: f64) {
        if !makes_sense(value) {
            self.ignored += 1;
            return;
        }
        let elapsed = at - self.last;
        if !elapsed.is_zero() {
            // The origin moves along, so that the numbers stay small however long this runs.
            let kept = self.decay.over(elapsed);
            let shift = self.decay.seconds;
            self.xy = kept * (self.xy - shift * self.y);
            self.xx = kept * (self.xx - 2.0 * shift * self.x + shift * shift * self.weight);
            self.x = kept * (self.x - shift * self.weight);
            self.y *= kept;
            self.weight *= kept;
            self.last = at;
        }
        self.weight += 1.0;
        self.y += value;
        self.samples += 1;
    }

    fn forecast(&self, at: Timestamp) -> Option<f64> {
        let spread = self.weight * self.xx - self.x * self.x;
        // Two moments make a line; of one, however often sampled, the spread is nothing but rounding.
        if self.samples < 3 || spread <= 1e-9 * self.weight * self.xx {
            return None;
        }
        let slope = (self.weight * self.xy - self.x * self.y) / spread;
        let level = (self.y - slope * self.x) / self.weight;
        let value = level + slope * (at - self.last).as_secs_f64();
        value.is_finite().then_some(value.max(0.0))
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;
