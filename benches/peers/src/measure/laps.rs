//! The watch by which a contestant times its work, piece by piece.
//!
//! What is not between [`Watch::begin`] and [`Watch::end`] is not timed. Pieces follow each other into a lap until it
//! is long enough; a piece that is longer is a lap of its own. Where laps do not matter, all pieces are one sample.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::calm::{Lap, Probes};
use super::probe::Waits;
use super::{Sample, now, value};
use crate::row::{Time, Unit};

/// How long a lap is at least. Neighbours come and go within milliseconds.
pub const LAP: Duration = Duration::from_micros(300);
/// Laps that end earlier than this after the first begin of a turn are not taken.
pub const WARM_UP: Duration = Duration::from_millis(1);
/// A probe so fresh is the one before the next lap, too.
const FRESH: Duration = Duration::from_micros(10);

/// Whom to ask about the machine, and about how many of its cores.
pub type Probing<'a> = Option<(&'a Probes, usize)>;

pub struct Watch<'a> {
    units: u64,
    unit: Unit,
    time: Time,
    probing: Probing<'a>,
    /// Of all pieces.
    elapsed: Duration,
    operations: u64,
    /// Of the lap that is under way: its time and operations, and what was read before it.
    lap: (Duration, u64, f64),
    /// How long this thread had waited for a core before that lap.
    waited: Duration,
    /// In rows of one core: on two, whoever is woken by another thread waits for a core by the system's count, too.
    waits: Option<Waits>,
    /// When the piece that is under way began, or the last one did.
    began: Duration,
    /// The last probe, and when it ended.
    probe: Option<(Instant, f64)>,
    laps: Vec<Lap>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(units: u64, (unit, time): (Unit, Time), probing: Probing<'a>) -> Self {
        Self {
            units,
            unit,
            time,
            probing,
            elapsed: Duration::ZERO,
            operations: 0,
            lap: (Duration::ZERO, 0, f64::NAN),
            waited: Duration::ZERO,
            waits: probing.filter(|(_, cores)| *cores == 1).map(|_| Waits::of_this_thread()),
            began: Duration::ZERO,
            probe: None,
            laps: Vec::new(),
        }
    }

    /// The units to do.
    pub fn units(&self) -> Range<u64> {
        0..self.units
    }

    /// Whom else to ask, for who has threads of its own that probe by themselves.
    pub fn probing(&self) -> Probing<'a> {
        self.probing
    }

    /// Times a piece of so many operations.
    #[inline(always)]
    pub fn time<R>(&mut self, operations: u64, work: impl FnOnce() -> R) -> R {
        self.begin();
        let result = work();
        self.end(operations);
        result
    }

    #[inline]
    pub fn begin(&mut self) {
        if self.lap.0.is_zero() && self.probing.is_some() {
            self.lap.2 = match self.probe {
                Some((ended, read)) if ended.elapsed() < FRESH => read,
                _ => self.read(),
            };
            self.waited = self.waited_so_far();
        }
        self.began = now(self.time);
    }

    #[inline]
    pub fn end(&mut self, operations: u64) {
        self.ended(now(self.time), operations, None::<fn() -> f64>);
    }

    /// The same, of a piece that is worth something else than the time that it took: a lap of its own.
    pub fn end_worth(&mut self, operations: u64, value: impl FnOnce() -> f64) {
        self.ended(now(self.time), operations, Some(value));
    }

    fn ended(&mut self, at: Duration, operations: u64, worth: Option<impl FnOnce() -> f64>) {
        let elapsed = at - self.began;
        self.elapsed += elapsed;
        self.operations += operations;
        if self.probing.is_none() {
            return;
        }
        self.lap.0 += elapsed;
        self.lap.1 += operations;
        if worth.is_some() || self.lap.0 >= LAP {
            let waited = self.waited_so_far() - self.waited;
            let after = self.read();
            self.close(after, waited, worth.map(|worth| worth()));
        }
    }

    /// A lap that somebody else has timed and probed.
    pub fn lap(&mut self, elapsed: Duration, operations: u64, (before, after): (f64, f64)) {
        self.elapsed += elapsed;
        self.operations += operations;
        if let Some((probes, cores)) = self.probing {
            probes.saw(cores, before.min(after));
            self.lap = (elapsed, operations, before);
            self.close(after, Duration::ZERO, None);
        }
    }

    fn read(&mut self) -> f64 {
        let Some((probes, cores)) = self.probing else { return f64::NAN };
        let read = probes.read(cores);
        self.probe = Some((Instant::now(), read));
        read
    }

    fn waited_so_far(&self) -> Duration {
        self.waits.as_ref().map_or(Duration::ZERO, Waits::total)
    }

    fn close(&mut self, after: f64, waited: Duration, worth: Option<f64>) {
        let (elapsed, operations, before) = self.lap;
        self.lap = (Duration::ZERO, 0, f64::NAN);
        if self.elapsed >= WARM_UP {
            let sample = Sample { value: worth, ..Sample::new(elapsed, operations, None) };
            let waited = waited.as_secs_f64() / elapsed.as_secs_f64();
            self.laps.push(Lap { value: value(self.unit, sample), before, after, waited });
        }
    }

    /// All of it, as one sample.
    pub fn sample(&self, checksum: Option<u64>) -> Sample {
        Sample::new(self.elapsed, self.operations, checksum)
    }

    /// The laps, those that were to warm up left out. What is over is less than a lap, and left out, too.
    pub(super) fn into_laps(self) -> Vec<Lap> {
        self.laps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NANOS: (Unit, Time) = (Unit::Nanoseconds, Time::Wall);

    /// Ends a piece that took so long.
    fn piece(watch: &mut Watch<'_>, elapsed: Duration, operations: u64) {
        watch.begin();
        watch.ended(watch.began + elapsed, operations, None::<fn() -> f64>);
    }

    #[test]
    fn pieces_follow_each_other_into_a_lap_until_it_is_long_enough() {
        let probes = Probes::new();
        let mut watch = Watch::new(9, NANOS, Some((&probes, 1)));
        piece(&mut watch, WARM_UP, 1);
        for _ in 0..5 {
            piece(&mut watch, LAP / 3, 1000);
        }
        piece(&mut watch, 2 * LAP, 1000);
        let sample = watch.sample(Some(7));
        assert_eq!((sample.operations, sample.checksum), (6001, Some(7)));
        assert_eq!(sample.elapsed, WARM_UP + LAP / 3 * 5 + 2 * LAP);
        let laps: Vec<_> = watch.into_laps().iter().map(|lap| lap.value).collect();
        let each = LAP.as_nanos() as f64 / 3000.0;
        let longest = (LAP / 3 * 2 + 2 * LAP).as_nanos() as f64 / 3000.0;
        assert_eq!(laps, [WARM_UP.as_nanos() as f64, each, longest]);
    }

    #[test]
    fn laps_that_end_too_early_are_to_warm_up() {
        let probes = Probes::new();
        let mut watch = Watch::new(9, NANOS, Some((&probes, 1)));
        for operations in 1..=4 {
            piece(&mut watch, WARM_UP / 3 + Duration::from_nanos(1), operations);
        }
        assert_eq!(watch.into_laps().len(), 2);
    }

    #[test]
    fn without_probes_there_are_no_laps_but_one_sample() {
        let mut watch = Watch::new(9, NANOS, None);
        for _ in 0..3 {
            piece(&mut watch, 10 * LAP, 5);
        }
        let sample = watch.sample(None);
        assert_eq!((sample.elapsed, sample.operations), (30 * LAP, 15));
        assert!(watch.into_laps().is_empty());
    }

    #[test]
    fn the_time_in_wait_is_a_part_of_the_lap() {
        let probes = Probes::new();
        let mut watch = Watch::new(9, NANOS, Some((&probes, 1)));
        watch.elapsed = WARM_UP;
        watch.lap = (LAP, 1, 1.0);
        watch.close(1.0, LAP / 4, None);
        assert_eq!(watch.into_laps().iter().map(|lap| lap.waited).collect::<Vec<_>>(), [0.25]);
    }

    #[test]
    fn the_time_in_wait_counts_in_rows_of_one_core() {
        let probes = Probes::new();
        let waits = |cores| Watch::new(9, NANOS, Some((&probes, cores))).waits.is_some();
        assert!(waits(1) && !waits(2));
    }

    #[test]
    fn a_piece_with_a_worth_of_its_own_is_a_lap_with_both_probes() {
        let probes = Probes::new();
        let mut watch = Watch::new(9, NANOS, Some((&probes, 1)));
        piece(&mut watch, WARM_UP, 1);
        watch.begin();
        watch.end_worth(256, || 4.5);
        let laps = watch.into_laps();
        assert_eq!(laps.last().map(|lap| lap.value), Some(4.5));
        assert!(laps.iter().all(|lap| lap.before > 0.0 && lap.after > 0.0), "{laps:?}");
    }
}
