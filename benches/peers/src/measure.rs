//! How a row is sampled.
//!
//! A contestant does one fixed *unit* of work any number of times. First each is timed to find how many
//! units take it long enough; then, in each round, all of them are sampled one after the other, a
//! different one first each time. Everybody does the same number of units, but for contestants so much
//! slower than the fastest that this would take a second and more; how many each did is part of the row.
//!
//! A sample that turns out too short is taken again with more units. Only where what a sample is worth is no
//! time at all, as with memory, a sample is of one unit, however short.
//!
//! Each sample says what was received, folded into one number a unit. They must all be the same.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, json};

use crate::Settings;
use crate::row::{OURS, Row, Samples, Spec, Time, Unit};

const SAMPLE_MIN: Duration = Duration::from_millis(200);
/// What is aimed at, so that noise does not bring a sample under the least.
const SAMPLE_AIM: Duration = Duration::from_millis(280);
/// Beyond this a contestant does fewer units than the fastest.
const SAMPLE_MAX: Duration = Duration::from_secs(1);
const SAMPLES: usize = 5;
const SAMPLES_QUICK: usize = 3;
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
    run: Box<dyn FnMut(u64) -> Sample + 'a>,
    /// Whether its samples are worth something else than the time that they took.
    timeless: bool,
}

impl<'a> Contestant<'a> {
    /// One that times itself; it is given the number of units.
    pub fn timed(name: &'static str, run: impl FnMut(u64) -> Sample + 'a) -> Self {
        Self { name, run: Box::new(run), timeless: false }
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
    pub fn unit(
        name: &'static str,
        time: Time,
        operations: u64,
        mut unit: impl FnMut() -> u64 + 'a,
    ) -> Self {
        let probe = name.starts_with("probe-");
        Self::timed(name, move |units| {
            let start = now(time);
            let mut checksum = unit();
            for _ in 1..units {
                let next = unit();
                if next != checksum {
                    // Seen as a difference from everybody else's.
                    checksum = !next;
                }
            }
            let elapsed = now(time) - start;
            Sample::new(elapsed, units * operations, (!probe).then_some(checksum))
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
    let sampled = catch_unwind(AssertUnwindSafe(|| sample(settings, &mut spec, &mut contestants)));
    match sampled {
        Ok(Ok(mut samples)) => match samples.iter().position(|s| s.name == OURS) {
            Some(at) => {
                let ours = samples.remove(at).values;
                Row::measured(spec, ours, samples)
            }
            None => Row::without_ours(spec, samples, absent),
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

fn sample(
    settings: &Settings,
    spec: &mut Spec,
    contestants: &mut [Contestant<'_>],
) -> Result<Vec<Samples>, String> {
    let rounds = if settings.quick { SAMPLES_QUICK } else { SAMPLES };
    let mut units = share(contestants);
    let mut taken: Vec<_> =
        contestants.iter().map(|one| Samples { name: one.name, values: Vec::new() }).collect();
    let mut received = None;
    for round in 0..rounds {
        for turn in 0..contestants.len() {
            let at = (round + turn) % contestants.len();
            let one = &mut contestants[at];
            let sample = long_enough(one, &mut units[at])?;
            if let Some(checksum) = sample.checksum {
                let (name, first) = *received.get_or_insert((one.name, checksum));
                if checksum != first {
                    return Err(format!(
                        "{} received {checksum:#x}, but {name} received {first:#x}",
                        one.name
                    ));
                }
            }
            taken[at].values.push(value(spec.unit, sample));
        }
    }
    let units: Map<_, _> =
        contestants.iter().zip(&units).map(|(one, n)| (one.name.to_owned(), json!(n))).collect();
    spec.work.insert("units".to_owned(), json!(units));
    if let Some((_, checksum)) = received {
        spec.work.insert("checksum".to_owned(), json!(format!("{checksum:016x}")));
    }
    Ok(taken)
}

/// Takes a sample; with more units, and again, as long as it is too short.
fn long_enough(one: &mut Contestant<'_>, units: &mut u64) -> Result<Sample, String> {
    for _ in 0..ATTEMPTS {
        let sample = (one.run)(*units);
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
fn share(contestants: &mut [Contestant<'_>]) -> Vec<u64> {
    let own: Vec<_> = contestants.iter_mut().map(calibrate).collect();
    let most = own.iter().copied().max().unwrap_or(1);
    // Each takes about as long for its own units, so the most takes it longer by as much as it is more.
    let too_long =
        |own: &u64| SAMPLE_AIM.as_millis() as u64 * most / own > SAMPLE_MAX.as_millis() as u64;
    own.into_iter().map(|own| if too_long(&own) { own } else { most }).collect()
}

/// How many units take a contestant long enough. Warms it up, too.
fn calibrate(one: &mut Contestant<'_>) -> u64 {
    if one.timeless {
        return 1;
    }
    let mut units = 1;
    loop {
        let elapsed = (one.run)(units).elapsed;
        if elapsed * 4 >= SAMPLE_AIM {
            let aim = SAMPLE_AIM.as_nanos() * u128::from(units);
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
