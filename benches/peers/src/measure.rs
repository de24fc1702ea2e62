//! How a row is sampled.
//!
//! A contestant does one fixed *unit* of work any number of times. How it is sampled depends on whether it times
//! its work in *laps*.
//!
//! **Calmly**, where every contestant of a row does: each in its turn, a different one first in each round, does units
//! for some [`TURN`], in laps of some [`LAP`], each between two probes of the machine. Only the laps that [`calm`]
//! says count do; the rounds go on until each contestant has enough of them, or the time for the row is over. The
//! laps that end within the first [`WARM_UP`] of a turn are to warm up and are not taken: whoever had the turn before
//! left the caches to nobody.
//!
//! **As they come**, in the other rows, and in all of them with `--calm off`: first each is timed to find how many
//! units take it long enough; then, in each round, all of them are sampled one after the other, a
//! different one first each time. Everybody does the same number of units, but for contestants so much
//! slower than the fastest that this would take a second and more; how many each did is part of the row.
//! A sample that turns out too short is taken again with more units. Only where what a sample is worth is no
//! time at all, as with memory, a sample is of one unit, however short.
//!
//! Each sample says what was received, folded into one number a unit. They must all be the same.

mod calm;
mod laps;
mod probe;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, json};

use crate::Settings;
use crate::row::{OURS, Row, Samples, Spec, Time, Unit};

pub use calm::{BOUND, Calmness, Lap, Laps, Probes};
pub use laps::Watch;
#[cfg(feature = "fleet")]
pub use probe::Span;

const SAMPLE_MIN: Duration = Duration::from_millis(200);
/// What is aimed at, so that noise does not bring a sample under the least.
const SAMPLE_AIM: Duration = Duration::from_millis(280);
/// Beyond this a contestant does fewer units than the fastest.
const SAMPLE_MAX: Duration = Duration::from_secs(1);
const SAMPLES: usize = 5;
const SAMPLES_QUICK: usize = 3;
/// How long a contestant works in its turn, where laps are timed.
const TURN: Duration = Duration::from_millis(30);
/// The time of the laps that make a sample, where they are not so long that it is one.
const CALM_AIM: Duration = Duration::from_millis(15);
/// More laps than this are not needed for a median.
const LAPS_MAX: usize = 40;
/// For how long a row goes on for each of its contestants, if the machine is not calm.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_QUICK: Duration = Duration::from_secs(4);
/// How often a sample is taken at most until it is long enough.
const ATTEMPTS: usize = 6;

/// What one sample came to.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub elapsed: Duration,
    pub operations: u64,
    /// What was received in each unit; `None` for who receives nothing, as a probe.
    pub checksum: Option<u64>,
    /// The value of the sample, where it is not the operations and the time that they took.
    pub value: Option<f64>,
}

impl Sample {
    pub fn new(elapsed: Duration, operations: u64, checksum: Option<u64>) -> Self {
        Self { elapsed, operations, checksum, value: None }
    }
}

/// Somebody who does the work of a row: this crate ([`OURS`]), a peer, a probe.
pub struct Contestant<'a> {
    name: &'static str,
    run: Box<dyn FnMut(&mut Watch<'_>) -> Sample + 'a>,
    /// Whether its samples are worth something else than the time that they took.
    timeless: bool,
    /// Whether it goes by the watch.
    in_laps: bool,
    /// How many cores it keeps busy.
    cores: usize,
}

impl<'a> Contestant<'a> {
    /// One that times itself; it is given the number of units.
    pub fn timed(name: &'static str, mut run: impl FnMut(u64) -> Sample + 'a) -> Self {
        let run = move |watch: &mut Watch<'_>| run(watch.units().end);
        Self { in_laps: false, ..Self::in_laps(name, run) }
    }

    /// One that times its pieces of work by the watch that it is given.
    pub fn in_laps(name: &'static str, run: impl FnMut(&mut Watch<'_>) -> Sample + 'a) -> Self {
        Self { name, run: Box::new(run), timeless: false, in_laps: true, cores: 1 }
    }

    /// The same, with threads of its own for which one core is not enough.
    pub fn on_two_cores(self) -> Self {
        Self { cores: 2, ..self }
    }

    /// One whose samples are of one unit and worth what it says, however long they took.
    pub fn timeless(name: &'static str, mut run: impl FnMut() -> Sample + 'a) -> Self {
        let run = move |_| {
            let sample = run();
            assert!(sample.value.is_some(), "a sample without a time has a value of its own");
            sample
        };
        Self { timeless: true, ..Self::timed(name, run) }
    }

    /// A bound that is known beforehand.
    pub fn limit(name: &'static str, value: f64) -> Self {
        Self::timeless(name, move || Sample {
            value: Some(value),
            ..Sample::new(Duration::ZERO, 1, None)
        })
    }

    /// One whose unit of `operations` runs on this thread, and returns what it received.
    pub fn unit(name: &'static str, operations: u64, mut unit: impl FnMut() -> u64 + 'a) -> Self {
        let probe = name.starts_with("probe-");
        Self::in_laps(name, move |watch| {
            let mut checksum = None;
            for _ in watch.units() {
                let next = watch.time(operations, &mut unit);
                if *checksum.get_or_insert(next) != next {
                    // Seen as a difference from everybody else's.
                    checksum = Some(!next);
                }
            }
            watch.sample(checksum.filter(|_| !probe))
        })
    }
}

/// Reads the clock that a row goes by, as the time since some moment.
pub fn now(time: Time) -> Duration {
    match time {
        Time::Wall | Time::None => {
            static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
            START.get_or_init(Instant::now).elapsed()
        }
        Time::Cpu => {
            let now = clock_gettime(ClockId::ProcessCPUTime);
            let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
            Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
        }
    }
}

/// Samples every contestant and judges the result. A panic of one is the reason of a row that did not run.
pub fn measure(settings: &Settings, spec: Spec, contestants: Vec<Contestant<'_>>) -> Row {
    measure_or(settings, spec, contestants, "this crate is not among the contestants")
}

/// As [`measure`]; says why this crate is not among the contestants, if it is not.
pub fn measure_or(
    settings: &Settings,
    mut spec: Spec,
    mut contestants: Vec<Contestant<'_>>,
    absent: &str,
) -> Row {
    if let Some(units) = settings.units {
        return done(spec, contestants, units);
    }
    let sampled = catch_unwind(AssertUnwindSafe(|| {
        let Some(probing) = probing(settings, &spec, &contestants) else {
            let samples = as_they_come(settings, &mut spec, &mut contestants)?;
            return Ok::<_, String>((samples, None));
        };
        let (rounds, patience) =
            if settings.quick { (SAMPLES_QUICK, PATIENCE_QUICK) } else { (SAMPLES, PATIENCE) };
        let patience = patience * contestants.len() as u32;
        let (samples, calmness) = calmly((rounds, patience), &mut spec, &mut contestants, probing)?;
        Ok((samples, Some(calmness)))
    }));
    match sampled {
        Ok(Ok((mut samples, calmness))) => match samples.iter().position(|s| s.name == OURS) {
            Some(at) => {
                let ours = samples.remove(at).values;
                Row::measured(spec, ours, samples, calmness)
            }
            None => Row { calmness, ..Row::without_ours(spec, samples, absent) },
        },
        Ok(Err(reason)) => Row::not_run(spec, reason),
        Err(panic) => {
            let said = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Row::not_run(spec, format!("a contestant panicked: {}", said.unwrap_or("no message")))
        }
    }
}

/// Has this crate do so many units that nobody times.
fn done(spec: Spec, contestants: Vec<Contestant<'_>>, units: u64) -> Row {
    let how = (spec.unit, spec.time);
    let ours = contestants.into_iter().find(|one| one.name == OURS);
    let reason = match ours {
        Some(mut ours) => {
            (ours.run)(&mut Watch::new(units, how, None));
            format!("{units} units were done, and not timed")
        }
        None => "this crate does not take part".to_owned(),
    };
    Row::not_run(spec, reason)
}

/// Whom to ask whether the machine is calm, where that matters: in rows of which everybody times laps by the clock on
/// the wall.
fn probing<'a>(
    settings: &'a Settings,
    spec: &Spec,
    contestants: &[Contestant<'_>],
) -> Option<(&'a Probes, usize)> {
    let mut timed = contestants.iter().filter(|one| !one.timeless).peekable();
    timed.peek()?;
    let cores = timed.clone().map(|one| one.cores).max()?;
    let in_laps = spec.time == Time::Wall && timed.all(|one| one.in_laps);
    settings.probes.as_ref().filter(|_| in_laps).map(|probes| (probes, cores))
}

/// What all have received in each unit, and who did first.
#[derive(Default)]
struct Received(Option<(&'static str, u64)>);

impl Received {
    fn look(&mut self, name: &'static str, sample: Sample) -> Result<(), String> {
        let Some(checksum) = sample.checksum else { return Ok(()) };
        let (first_name, first) = *self.0.get_or_insert((name, checksum));
        if checksum == first {
            return Ok(());
        }
        Err(format!("{name} received {checksum:#x}, but {first_name} received {first:#x}"))
    }

    /// Has the row say how many units each did, and what was received.
    fn describe(self, spec: &mut Spec, contestants: &[Contestant<'_>], units: &[u64]) {
        let units: Map<_, _> =
            contestants.iter().zip(units).map(|(one, n)| (one.name.to_owned(), json!(n))).collect();
        spec.work.insert("units".to_owned(), json!(units));
        if let Some((_, checksum)) = self.0 {
            spec.work.insert("checksum".to_owned(), json!(format!("{checksum:016x}")));
        }
    }
}

/// So many samples of the laps that count, or as many as there are when patience ends.
fn calmly(
    (rounds, patience): (usize, Duration),
    spec: &mut Spec,
    contestants: &mut [Contestant<'_>],
    (probes, cores): (&Probes, usize),
) -> Result<(Vec<Samples>, Calmness), String> {
    let how = (spec.unit, spec.time);
    probes.settle(cores);
    let mut units: Vec<_> = contestants.iter_mut().map(|one| calibrate(one, how, TURN)).collect();
    let mut taken: Vec<Taken> = contestants.iter().map(|_| Taken::default()).collect();
    let mut received = Received::default();
    let end = Instant::now() + patience;
    for round in 0.. {
        for turn in 0..contestants.len() {
            let at = (round + turn) % contestants.len();
            let (one, taken) = (&mut contestants[at], &mut taken[at]);
            let mut watch = Watch::new(units[at], how, Some((probes, cores)));
            let sample = (one.run)(&mut watch);
            received.look(one.name, sample)?;
            if one.timeless {
                taken.values.push(value(spec.unit, sample));
            } else {
                taken.elapsed += sample.elapsed;
                taken.laps.append(&mut watch.into_laps());
                units[at] = fitting(units[at], sample.elapsed);
            }
        }
        let best = probes.best(cores);
        let mut all = contestants.iter().zip(&taken);
        let enough =
            all.all(|(one, taken)| one.timeless || taken.kept(best) >= taken.wanted(rounds));
        if round + 1 >= rounds && enough || Instant::now() >= end {
            break;
        }
    }
    received.describe(spec, contestants, &units);
    let best = probes.best(cores);
    let mut calmness = Calmness { cores, best, laps: Vec::new() };
    let mut samples = Vec::new();
    for (one, taken) in contestants.iter().zip(taken) {
        let (name, mut values) = (one.name, taken.values.clone());
        if one.timeless {
            values.truncate(rounds);
        } else {
            let (kept, wanted) = (calm::kept(&taken.laps, best), taken.wanted(rounds));
            // If none counts, all of them are shown, and nothing is decided.
            let all = || taken.laps.iter().map(|lap| lap.value).collect();
            let shown = if kept.is_empty() { all() } else { kept.clone() };
            values = calm::samples(&shown, rounds);
            calmness.laps.push(Laps { name, laps: taken.laps, kept: kept.len(), wanted });
        }
        if values.is_empty() {
            return Err(format!("{name} did not come to a lap in {patience:?}"));
        }
        samples.push(Samples { name, values });
    }
    Ok((samples, calmness))
}

/// The units of the next turn, by how long those of the last one took: the time for which they were counted out may have
/// been an odd one.
fn fitting(units: u64, elapsed: Duration) -> u64 {
    match elapsed {
        short if short < TURN / 2 => units * 2,
        long if long > TURN * 2 => units.div_ceil(2),
        _ => units,
    }
}

/// What was taken of one contestant.
#[derive(Default)]
struct Taken {
    /// Where there are no laps.
    values: Vec<f64>,
    laps: Vec<Lap>,
    /// Of all laps, as good as.
    elapsed: Duration,
}

impl Taken {
    fn kept(&self, best: f64) -> usize {
        calm::kept(&self.laps, best).len()
    }

    /// How many laps are to be kept for so many samples: of each, so many that they take long enough.
    fn wanted(&self, samples: usize) -> usize {
        let laps = CALM_AIM.as_nanos() * self.laps.len() as u128 / self.elapsed.as_nanos().max(1);
        samples * (laps as usize).clamp(1, LAPS_MAX)
    }
}

/// Samples as they come.
fn as_they_come(
    settings: &Settings,
    spec: &mut Spec,
    contestants: &mut [Contestant<'_>],
) -> Result<Vec<Samples>, String> {
    let rounds = if settings.quick { SAMPLES_QUICK } else { SAMPLES };
    let how = (spec.unit, spec.time);
    let mut units = share(contestants, how);
    let mut taken: Vec<_> =
        contestants.iter().map(|one| Samples { name: one.name, values: Vec::new() }).collect();
    let mut received = Received::default();
    for round in 0..rounds {
        for turn in 0..contestants.len() {
            let at = (round + turn) % contestants.len();
            let one = &mut contestants[at];
            let sample = long_enough(one, how, &mut units[at])?;
            received.look(one.name, sample)?;
            taken[at].values.push(value(spec.unit, sample));
        }
    }
    received.describe(spec, contestants, &units);
    Ok(taken)
}

/// Takes a sample; with more units, and again, as long as it is too short.
fn long_enough(
    one: &mut Contestant<'_>,
    how: (Unit, Time),
    units: &mut u64,
) -> Result<Sample, String> {
    for _ in 0..ATTEMPTS {
        let sample = (one.run)(&mut Watch::new(*units, how, None));
        if one.timeless || sample.elapsed >= SAMPLE_MIN {
            return Ok(sample);
        }
        let fitting = u128::from(*units) * SAMPLE_AIM.as_nanos() / sample.elapsed.as_nanos().max(1);
        *units = u64::try_from(fitting).unwrap_or(u64::MAX).max(*units + units.div_ceil(2));
    }
    Err(format!("the samples of {} stayed under {} ms", one.name, SAMPLE_MIN.as_millis()))
}

fn value(unit: Unit, sample: Sample) -> f64 {
    if let Some(value) = sample.value {
        return value;
    }
    let (operations, seconds) = (sample.operations as f64, sample.elapsed.as_secs_f64());
    match unit {
        Unit::PerSecond => operations / seconds,
        Unit::Nanoseconds => seconds * 1e9 / operations,
        Unit::Milliseconds => seconds * 1e3 / operations,
        Unit::Cores | Unit::Bytes | Unit::Megabytes | Unit::Number | Unit::Syncs => f64::NAN,
    }
}

/// How many units each does in a sample.
fn share(contestants: &mut [Contestant<'_>], how: (Unit, Time)) -> Vec<u64> {
    let own: Vec<_> = contestants.iter_mut().map(|one| calibrate(one, how, SAMPLE_AIM)).collect();
    let most = own.iter().copied().max().unwrap_or(1);
    // Each takes about as long for its own units, so the most takes it longer by as much as it is more.
    let too_long =
        |own: &u64| SAMPLE_AIM.as_millis() as u64 * most / own > SAMPLE_MAX.as_millis() as u64;
    own.into_iter().map(|own| if too_long(&own) { own } else { most }).collect()
}

/// How many units take a contestant as long as is aimed at. Warms it up, too.
fn calibrate(one: &mut Contestant<'_>, how: (Unit, Time), aim: Duration) -> u64 {
    if one.timeless {
        return 1;
    }
    let mut units = 1;
    loop {
        let elapsed = (one.run)(&mut Watch::new(units, how, None)).elapsed;
        if elapsed * 4 >= aim {
            let aim = aim.as_nanos() * u128::from(units);
            return u64::try_from(aim.div_ceil(elapsed.as_nanos())).unwrap_or(u64::MAX).max(1);
        }
        units *= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: fn() -> Spec = || Spec {
        part: "part",
        id: "id",
        what: "what",
        unit: Unit::PerSecond,
        time: Time::Wall,
        work: Map::new(),
        targets: &[("peer", 1.0)],
    };

    /// One who takes a millisecond a unit by its own account.
    fn steady<'a>(name: &'static str, checksum: u64) -> Contestant<'a> {
        Contestant::timed(name, move |units| {
            Sample::new(Duration::from_millis(units), units, Some(checksum))
        })
    }

    fn settings() -> Settings {
        Settings { quick: true, ..Settings::default() }
    }

    #[test]
    fn contestants_that_received_different_things_are_not_compared() {
        let row = measure(&settings(), SPEC(), vec![steady(OURS, 1), steady("peer", 2)]);
        assert!(row.reason.is_some_and(|reason| reason.contains("peer received 0x2")));
        assert!(row.ours.is_empty());
    }

    #[test]
    fn a_panic_is_the_reason_of_a_row_that_did_not_run() {
        let broken = Contestant::timed("peer", |_| panic!("out of luck"));
        let row = measure(&settings(), SPEC(), vec![steady(OURS, 1), broken]);
        assert!(row.reason.is_some_and(|reason| reason.ends_with("out of luck")));
    }

    /// One that works for a tenth of a millisecond a unit.
    fn busy<'a>(name: &'static str) -> Contestant<'a> {
        Contestant::unit(name, 1, || {
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(100) {}
            7
        })
    }

    #[test]
    fn laps_are_what_counts_where_everybody_times_them() {
        let settings = Settings { probes: Some(Probes::new()), ..settings() };
        let row = measure(&settings, SPEC(), vec![busy(OURS), busy("peer")]);
        let calmness = row.calmness.expect("both time laps");
        let laps = |name| calmness.of(name).map_or(0, |one| one.laps.len());
        assert!(laps(OURS) >= SAMPLES_QUICK && laps("peer") >= SAMPLES_QUICK, "{calmness:?}");
        assert_eq!(row.spec.work["checksum"], json!("0000000000000007"));

        // Here one does not.
        let row = measure(&settings, SPEC(), vec![steady(OURS, 7), busy("peer")]);
        assert!(row.calmness.is_none());
        assert_eq!((row.reason, row.ours.len()), (None, SAMPLES_QUICK));
    }

    #[test]
    fn on_a_machine_that_is_never_calm_again_nothing_counts_and_nothing_is_decided() {
        let probes = Probes::new();
        // A core a million times as fast, which nobody sees once more.
        probes.saw(1, probes.best(1) / 1e6);
        let (mut spec, mut contestants) = (SPEC(), vec![busy(OURS), busy("peer")]);
        let long = (SAMPLES_QUICK, Duration::from_millis(100));
        let (mut samples, calmness) =
            calmly(long, &mut spec, &mut contestants, (&probes, 1)).expect("both ran");
        assert!(calmness.laps.iter().all(|one| one.kept == 0 && !one.laps.is_empty()));
        let ours = samples.remove(0).values;
        assert!(!ours.is_empty(), "all laps are shown");
        let row = Row::measured(spec, ours, samples, Some(calmness));
        assert_eq!(row.targets[0].verdict, crate::row::Verdict::Inconclusive);
    }

    #[test]
    fn the_units_of_a_turn_follow_what_the_last_one_took() {
        assert_eq!(fitting(8, TURN / 3), 16);
        assert_eq!(fitting(8, TURN), 8);
        assert_eq!((fitting(8, TURN * 3), fitting(1, TURN * 3)), (4, 1));
    }

    #[test]
    fn a_sample_that_is_too_short_is_taken_again_with_more_units() {
        let mut calls = 0;
        let hasty = Contestant::timed(OURS, |units| {
            calls += 1;
            // Fast but for the calibration.
            let millis = if calls <= 5 { units } else { units / 20 };
            Sample::new(Duration::from_millis(millis), units, Some(1))
        });
        let row = measure(&settings(), SPEC(), vec![hasty]);
        assert_eq!((row.reason, row.ours.len()), (None, SAMPLES_QUICK));
        assert_eq!(row.spec.work["units"][OURS], json!(5600));
    }

    #[test]
    fn a_value_of_its_own_is_what_a_sample_is_worth() {
        let idle = Contestant::timed(OURS, |units| {
            let sample = Sample::new(Duration::from_millis(units), units, None);
            Sample { value: Some(0.25), ..sample }
        });
        assert_eq!(measure(&settings(), SPEC(), vec![idle]).ours, [0.25; SAMPLES_QUICK]);
    }

    #[test]
    fn who_has_no_time_does_one_unit_however_short() {
        let small = Contestant::timeless(OURS, || Sample {
            value: Some(4.0),
            ..Sample::new(Duration::ZERO, 1, Some(7))
        });
        let row = measure(&settings(), SPEC(), vec![small, Contestant::limit("limit-x", 8.0)]);
        assert_eq!((row.reason, row.ours), (None, vec![4.0; SAMPLES_QUICK]));
        assert_eq!(row.peers[0].values, [8.0; SAMPLES_QUICK]);
    }

    #[test]
    fn a_row_without_this_crate_says_why_and_shows_the_others() {
        let row = measure_or(&settings(), SPEC(), vec![steady("peer", 1)], "not there yet");
        assert_eq!((row.reason.as_deref(), row.peers.len()), (Some("not there yet"), 1));
        assert!(row.ours.is_empty());
    }

    #[test]
    fn everybody_does_the_same_number_of_units_within_reason() {
        let slow = Contestant::timed("slow", |units| {
            Sample::new(Duration::from_secs(units), units, Some(1))
        });
        let row = measure(&settings(), SPEC(), vec![steady(OURS, 1), steady("peer", 1), slow]);
        let units = &row.spec.work["units"];
        assert_eq!(
            (&units[OURS], &units["peer"], &units["slow"]),
            (&json!(280), &json!(280), &json!(1))
        );
        assert!(row.ours.iter().all(|rate| (rate - 1000.0).abs() < 1e-6), "{:?}", row.ours);
    }
}
