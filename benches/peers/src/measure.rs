//! How a row is sampled.
//!
//! A contestant does one fixed *unit* of work any number of times. First each is timed to find how many
//! units take it long enough; then, in each round, all of them are sampled one after the other, a
//! different one first each time. Everybody does the same number of units, but for contestants so much
//! slower than the fastest that this would take minutes; how many each did is part of the row.
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
const SAMPLE_MAX: Duration = Duration::from_secs(3);
const SAMPLES: usize = 5;
const SAMPLES_QUICK: usize = 3;
/// How often a row is measured again, with more units, when a sample was too short.
const ATTEMPTS: usize = 4;

/// What one sample came to.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub elapsed: Duration,
    pub operations: u64,
    /// What was received in each unit; `None` for a probe, which receives nothing.
    pub checksum: Option<u64>,
}

/// Somebody who does the work of a row: this crate ([`OURS`]), a peer, a probe.
pub struct Contestant<'a> {
    name: &'static str,
    run: Box<dyn FnMut(u64) -> Sample + 'a>,
}

impl<'a> Contestant<'a> {
    /// One that times itself; it is given the number of units.
    pub fn timed(name: &'static str, run: impl FnMut(u64) -> Sample + 'a) -> Self {
        Self { name, run: Box::new(run) }
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
            Sample {
                elapsed,
                operations: units * operations,
                checksum: (!probe).then_some(checksum),
            }
        })
    }
}

/// Reads the clock that a row goes by, as the time since some moment.
pub fn now(time: Time) -> Duration {
    match time {
        Time::Wall => {
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
pub fn measure(settings: &Settings, mut spec: Spec, mut contestants: Vec<Contestant<'_>>) -> Row {
    let sampled = catch_unwind(AssertUnwindSafe(|| sample(settings, &mut spec, &mut contestants)));
    match sampled {
        Ok(Ok(mut samples)) => match samples.iter().position(|s| s.name == OURS) {
            Some(at) => {
                let ours = samples.remove(at).values;
                Row::measured(spec, ours, samples)
            }
            None => Row::not_run(spec, "this crate is not among the contestants"),
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
    for _ in 0..ATTEMPTS {
        let mut taken: Vec<_> =
            contestants.iter().map(|one| Samples { name: one.name, values: Vec::new() }).collect();
        let mut received = None;
        let mut shortest = vec![Duration::MAX; contestants.len()];
        for round in 0..rounds {
            for turn in 0..contestants.len() {
                let at = (round + turn) % contestants.len();
                let one = &mut contestants[at];
                let sample = (one.run)(units[at]);
                if let Some(checksum) = sample.checksum {
                    let (_, first) = *received.get_or_insert((one.name, checksum));
                    if checksum != first {
                        let (name, _) = received.unwrap_or((OURS, first));
                        return Err(format!(
                            "{} received {checksum:#x}, but {name} received {first:#x}",
                            one.name
                        ));
                    }
                }
                shortest[at] = shortest[at].min(sample.elapsed);
                taken[at].values.push(value(spec.unit, sample));
            }
        }
        if shortest.iter().all(|elapsed| *elapsed >= SAMPLE_MIN) {
            let units: Map<_, _> = contestants
                .iter()
                .zip(&units)
                .map(|(one, n)| (one.name.to_owned(), json!(n)))
                .collect();
            spec.work.insert("units".to_owned(), json!(units));
            if let Some((_, checksum)) = received {
                spec.work.insert("checksum".to_owned(), json!(format!("{checksum:016x}")));
            }
            return Ok(taken);
        }
        for units in &mut units {
            *units += units.div_ceil(2);
        }
    }
    Err(format!("a sample stayed under {} ms", SAMPLE_MIN.as_millis()))
}

fn value(unit: Unit, sample: Sample) -> f64 {
    let operations = sample.operations as f64;
    match unit {
        Unit::PerSecond => operations / sample.elapsed.as_secs_f64(),
        Unit::Nanoseconds => sample.elapsed.as_secs_f64() * 1e9 / operations,
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
        Contestant::timed(name, move |units| Sample {
            elapsed: Duration::from_millis(units),
            operations: units,
            checksum: Some(checksum),
        })
    }

    fn settings() -> Settings {
        Settings { quick: true, commit: String::new() }
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
    fn everybody_does_the_same_number_of_units_within_reason() {
        let slow = Contestant::timed("slow", |units| Sample {
            elapsed: Duration::from_secs(units),
            operations: units,
            checksum: Some(1),
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
