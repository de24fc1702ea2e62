//! Which forecaster to believe: the one whose forecasts came true of late, and none if none did.
//!
//! Rules that hold here:
//!
//! 1. At most `PENDING` forecasts wait for the time that they are about, at most `MAX_FORECASTERS` of one
//!    moment.
//! 2. Whoever is chosen was wrong less than "it stays as it is" on the same moments; nobody is chosen
//!    before `SCORES` of its forecasts were compared.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Forecaster, LinearTrend, MovingAverage, makes_sense};
use crate::{Error, ErrorKind, Timestamp};

/// How many forecasters one [`Backtest`] compares at most.
pub const MAX_FORECASTERS: usize = 8;

const PENDING: usize = 32;
/// How many comparisons make a judgement.
const SCORES: u32 = 8;
/// How much the newest comparison counts.
const NEWEST: f64 = 0.1;
/// How much better than what stands somebody has to be to take its place.
const BETTER: f64 = 0.9;

/// Compares forecasters by what they foretold, and forecasts as the best of them does.
///
/// Every sample is compared with what each of them said one horizon earlier; the mean of how far they
/// were off, the newest counting most, decides. Who is chosen has to beat the others, and the assumption
/// that all stays as it is, by a tenth; while nobody does, there is no forecast. A forecaster that begins
/// to lie is heard for one horizon, until its first lie comes due, and then as long as its mean takes to
/// show it: the greater the lie, the shorter.
///
/// It is a [`Forecaster`] itself. A sample is O(forecasters), without an allocation.
///
/// ```
/// use phalanx::Timestamp;
/// use phalanx::fleet::scale::{Backtest, Forecaster};
/// use std::time::Duration;
///
/// let mut forecast = Backtest::standard(Duration::from_secs(10))?;
/// for second in 0..60 {
///     forecast.observe(Timestamp::from_start(Duration::from_secs(second)), 5.0 * second as f64);
/// }
/// assert_eq!(forecast.chosen(), Some("linear trend"));
/// # Ok::<(), phalanx::Error>(())
/// ```
#[derive(Debug)]
pub struct Backtest {
    horizon: Duration,
    candidates: Vec<Candidate>,
    pending: VecDeque<Pending>,
    last: Option<(Timestamp, f64)>,
    chosen: Option<usize>,
    ignored: u64,
}

#[derive(Debug)]
struct Candidate {
    forecaster: Box<dyn Forecaster>,
    score: Score,
    /// How "it stays as it is" did on the same moments (rule 2).
    unchanged: Score,
}

impl Candidate {
    fn is_believed(&self) -> bool {
        self.score.beats(self.unchanged.error)
    }
}

/// What was foretold at one moment for another.
#[derive(Debug)]
struct Pending {
    made: Timestamp,
    due: Timestamp,
    unchanged: f64,
    forecasts: [Option<f64>; MAX_FORECASTERS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Score {
    compared: u32,
    error: f64,
}

impl Score {
    fn compare(&mut self, foretold: f64, happened: f64) {
        let error = (foretold - happened).abs();
        let weight = if self.compared == 0 { 1.0 } else { NEWEST };
        self.error += weight * (error - self.error);
        self.compared = self.compared.saturating_add(1);
    }

    fn beats(self, error: f64) -> bool {
        self.compared >= SCORES && self.error < BETTER * error
    }
}

impl Backtest {
    /// Compares these by how well they see so far ahead; that is best the time it takes an agent to come up.
    ///
    /// # Errors
    /// `InvalidArgument` for a horizon of zero, no forecaster, or more than [`MAX_FORECASTERS`].
    pub fn new(horizon: Duration, forecasters: Vec<Box<dyn Forecaster>>) -> Result<Self, Error> {
        if horizon.is_zero() {
            let message = "the horizon is zero: what is now needs no forecast";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if forecasters.is_empty() || forecasters.len() > MAX_FORECASTERS {
            let message = format!(
                "there are {} forecasters: it has to be 1 to {MAX_FORECASTERS}",
                forecasters.len()
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let candidates = forecasters
            .into_iter()
            .map(|forecaster| Candidate {
                forecaster,
                score: Score::default(),
                unchanged: Score::default(),
            })
            .collect();
        Ok(Self {
            horizon,
            candidates,
            pending: VecDeque::with_capacity(PENDING),
            last: None,
            chosen: None,
            ignored: 0,
        })
    }

    /// Compares a [`LinearTrend`] and a [`MovingAverage`] with half-lives that fit the horizon.
    ///
    /// # Errors
    /// `InvalidArgument` for a horizon of zero.
    pub fn standard(horizon: Duration) -> Result<Self, Error> {
        Self::new(
            horizon,
            vec![Box::new(LinearTrend::new(horizon)), Box::new(MovingAverage::new(horizon))],
        )
    }

    /// How far ahead it looks.
    #[must_use]
    pub const fn horizon(&self) -> Duration {
        self.horizon
    }

    /// The name of the one that is believed now.
    #[must_use]
    pub fn chosen(&self) -> Option<&str> {
        self.chosen.map(|index| self.candidates[index].forecaster.name())
    }

    /// How far each was off of late, on average, and how many of its forecasts were compared.
    pub fn errors(&self) -> impl Iterator<Item = (&str, f64, u32)> {
        let errors = self.candidates.iter();
        errors.map(|one| (one.forecaster.name(), one.score.error, one.score.compared))
    }

    /// Samples that made no sense.
    #[must_use]
    pub const fn ignored(&self) -> u64 {
        self.ignored
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Compares what was foretold for the time up to here with what happened.
    fn compare(&mut self, at: Timestamp, value: f64) {
        let (before, earlier) = self.last.unwrap_or((at, value));
        while self.pending.front().is_some_and(|pending| pending.due <= at) {
            let pending = self.pending.pop_front().expect("it was just there");
            // Between two samples the value lies on the line through them.
            let gap = (at - before).as_secs_f64();
            let share = if gap > 0.0 { (pending.due - before).as_secs_f64() / gap } else { 1.0 };
            let happened = earlier + share * (value - earlier);
            for (candidate, forecast) in self.candidates.iter_mut().zip(pending.forecasts) {
                if let Some(forecast) = forecast {
                    candidate.score.compare(forecast, happened);
                    candidate.unchanged.compare(pending.unchanged, happened);
                }
            }
        }
    }

    fn choose(&mut self) {
        let best = (0..self.candidates.len())
            .filter(|index| self.candidates[*index].is_believed())
            .min_by(|one, other| {
                let error = |index: usize| self.candidates[index].score.error;
                error(*one).total_cmp(&error(*other))
            });
        let Some(best) = best else {
            self.chosen = None;
            return;
        };
        self.chosen = match self.chosen {
            // One that is better by a hair is not worth a change.
            Some(chosen)
                if self.candidates[chosen].is_believed()
                    && !self.candidates[best].score.beats(self.candidates[chosen].score.error) =>
            {
                Some(chosen)
            }
            _ => Some(best),
        };
    }

    fn foretell(&mut self, at: Timestamp, value: f64) {
        let due = at + self.horizon;
        let apart = self.horizon / (PENDING as u32 - 1);
        let newest = self.pending.back();
        if newest.is_some_and(|newest| at - newest.made < apart) || self.pending.len() == PENDING {
            return;
        }
        let mut forecasts = [None; MAX_FORECASTERS];
        for (forecast, candidate) in forecasts.iter_mut().zip(&self.candidates) {
            *forecast = candidate.forecaster.forecast(due).filter(|value| makes_sense(*value));
        }
        self.pending.push_back(Pending { made: at, due, unchanged: value, forecasts });
    }
}

impl Forecaster for Backtest {
    fn name(&self) -> &str {
        self.chosen().unwrap_or("none")
    }

    fn observe(&mut self, at: Timestamp, value: f64) {
        if !makes_sense(value) {
            self.ignored += 1;
            return;
        }
        let at = self.last.map_or(at, |(last, _)| at.max(last));
        self.compare(at, value);
        self.choose();
        for candidate in &mut self.candidates {
            candidate.forecaster.observe(at, value);
        }
        self.last = Some((at, value));
        self.foretell(at, value);
    }

    fn forecast(&self, at: Timestamp) -> Option<f64> {
        let chosen = self.chosen?;
        self.candidates[chosen].forecaster.forecast(at).filter(|value| makes_sense(*value))
    }
}
