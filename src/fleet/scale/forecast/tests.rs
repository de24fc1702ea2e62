//! Forecasts of known curves, and of samples and forecasters that cannot be trusted.

use super::*;
use crate::ErrorKind;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_start(Duration::from_secs_f64(seconds))
}

/// Feeds a second's sample of a curve for so long.
fn feed(forecaster: &mut dyn Forecaster, seconds: u32, curve: impl Fn(f64) -> f64) {
    for second in 0..seconds {
        forecaster.observe(at(f64::from(second)), curve(f64::from(second)));
    }
}

fn near(one: Option<f64>, other: f64) -> bool {
    one.is_some_and(|one| (one - other).abs() <= 1e-6 * other.abs().max(1.0))
}

#[test]
fn an_average_halves_what_is_one_half_life_old() {
    let mut average = MovingAverage::new(SECOND * 10);
    assert_eq!(average.forecast(at(0.0)), None);
    average.observe(at(0.0), 100.0);
    assert_eq!(average.forecast(at(99.0)), Some(100.0));
    average.observe(at(10.0), 0.0);
    assert!(near(average.forecast(at(10.0)), 50.0));
    average.observe(at(30.0), 0.0);
    assert!(near(average.forecast(at(30.0)), 12.5));
    average.observe(at(40.0), 100.0);
    assert!(near(average.forecast(at(40.0)), 56.25));
}

#[test]
fn an_average_counts_time_and_not_samples() {
    let (mut few, mut many) = (MovingAverage::new(SECOND), MovingAverage::new(SECOND));
    for average in [&mut few, &mut many] {
        average.observe(at(0.0), 100.0);
    }
    few.observe(at(2.0), 0.0);
    for step in 1..=16 {
        many.observe(at(f64::from(step) / 8.0), 0.0);
    }
    assert!(near(many.forecast(at(2.0)), few.forecast(at(2.0)).expect("it has samples")));
}

#[test]
fn a_trend_goes_on_along_a_line() {
    let mut trend = LinearTrend::new(SECOND * 20);
    feed(&mut trend, 100, |second| 50.0 + 2.0 * second);
    assert!(near(trend.forecast(at(99.0)), 248.0));
    assert!(near(trend.forecast(at(149.0)), 348.0));
    let mut falling = LinearTrend::new(SECOND * 20);
    feed(&mut falling, 100, |second| 200.0 - second);
    assert!(near(falling.forecast(at(150.0)), 50.0));
    assert_eq!(falling.forecast(at(1000.0)), Some(0.0), "demand is never negative");
}

#[test]
fn a_trend_fits_the_weighted_least_squares() {
    let samples = [(0.0, 3.0), (1.0, 9.0), (1.5, 4.0), (4.0, 12.0), (4.25, 10.0), (9.0, 30.0)];
    let mut trend = LinearTrend::new(SECOND * 3);
    for (second, value) in samples {
        trend.observe(at(second), value);
    }
    // The textbook's two-pass form.
    let weights = samples.map(|(second, _)| ((second - 9.0_f64) / 3.0).exp2());
    let mean = |of: fn(&(f64, f64)) -> f64| {
        let sum: f64 =
            samples.iter().zip(weights).map(|(sample, weight)| weight * of(sample)).sum();
        sum / weights.iter().sum::<f64>()
    };
    let (x, y) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let sum = |of: &dyn Fn(&(f64, f64)) -> f64| -> f64 {
        samples.iter().zip(weights).map(|(sample, weight)| weight * of(sample)).sum()
    };
    let slope =
        sum(&|sample| (sample.0 - x) * (sample.1 - y)) / sum(&|sample| (sample.0 - x).powi(2));
    assert!(near(trend.forecast(at(12.0)), y + slope * (12.0 - x)));
}

#[test]
fn a_trend_of_too_little_is_none() {
    let mut trend = LinearTrend::new(SECOND);
    assert_eq!(trend.forecast(at(1.0)), None);
    for _ in 0..50 {
        trend.observe(at(7.0), 5.0);
        assert_eq!(trend.forecast(at(8.0)), None, "one moment has no direction");
    }
    trend.observe(at(8.0), 6.0);
    assert!(near(trend.forecast(at(9.0)), 7.0));
    let mut two = LinearTrend::new(SECOND);
    two.observe(at(1.0), 1.0);
    two.observe(at(2.0), 2.0);
    assert_eq!(two.forecast(at(3.0)), None);
    two.observe(at(3.0), 3.0);
    assert!(near(two.forecast(at(4.0)), 4.0));
}

#[test]
fn samples_that_make_no_sense_are_counted_and_change_nothing() {
    let mut average = MovingAverage::new(SECOND);
    let mut trend = LinearTrend::new(SECOND);
    let mut backtest = Backtest::standard(SECOND).expect("valid");
    for forecaster in [&mut average as &mut dyn Forecaster, &mut trend, &mut backtest] {
        feed(forecaster, 20, |second| second);
        let before = forecaster.forecast(at(30.0));
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1.1e15] {
            forecaster.observe(at(20.0), value);
        }
        assert_eq!(forecaster.forecast(at(30.0)), before);
        forecaster.observe(at(20.0), 1e15);
        assert!(forecaster.forecast(at(30.0)) != before || forecaster.name() == "none");
    }
    assert_eq!([average.ignored(), trend.ignored(), backtest.ignored()], [5, 5, 5]);
}

#[test]
fn a_backtest_believes_the_trend_on_a_ramp_and_the_average_in_noise() {
    let mut ramp = Backtest::standard(SECOND * 10).expect("valid");
    feed(&mut ramp, 100, |second| 10.0 + 5.0 * second);
    assert_eq!(ramp.chosen(), Some("linear trend"));
    assert!(near(ramp.forecast(at(109.0)), 555.0));

    let mut noise = Backtest::standard(SECOND * 10).expect("valid");
    feed(&mut noise, 200, |second| if (second * 7.3).sin() > 0.0 { 120.0 } else { 80.0 });
    assert_eq!(noise.chosen(), Some("moving average"));
    assert!(noise.forecast(at(210.0)).is_some_and(|value| (85.0..115.0).contains(&value)));
}

#[test]
fn a_backtest_believes_nobody_where_nothing_changes() {
    let mut level = Backtest::standard(SECOND * 10).expect("valid");
    feed(&mut level, 200, |_| 42.0);
    assert_eq!((level.chosen(), level.forecast(at(300.0)), level.name()), (None, None, "none"));
    assert!(level.errors().all(|(_, error, compared)| error < 1e-6 && compared > 100));
}

#[test]
fn a_backtest_waits_for_eight_comparisons() {
    let mut ramp = Backtest::standard(SECOND * 10).expect("valid");
    // A trend speaks from the third sample on, so its eighth forecast is due in second 2 + 7 + 10.
    feed(&mut ramp, 19, |second| 5.0 * second);
    assert_eq!(ramp.chosen(), None);
    ramp.observe(at(19.0), 95.0);
    assert_eq!(ramp.chosen(), Some("linear trend"));
}

/// Says what it is told to.
#[derive(Debug)]
struct Oracle(&'static str, fn(f64) -> Option<f64>);

impl Forecaster for Oracle {
    fn name(&self) -> &str {
        self.0
    }
    fn observe(&mut self, _at: Timestamp, _value: f64) {}
    fn forecast(&self, at: Timestamp) -> Option<f64> {
        (self.1)(at.since_start().as_secs_f64())
    }
}

fn sine(second: f64) -> f64 {
    100.0 + 50.0 * (second / 20.0).sin()
}

fn oracles(list: Vec<Oracle>) -> Backtest {
    let boxed = list.into_iter().map(|oracle| Box::new(oracle) as Box<dyn Forecaster>);
    Backtest::new(SECOND * 10, boxed.collect()).expect("valid")
}

#[test]
fn liars_are_never_believed() {
    let mut backtest = oracles(vec![
        Oracle("not a number", |_| Some(f64::NAN)),
        Oracle("huge", |_| Some(f64::MAX)),
        Oracle("negative", |_| Some(-1.0)),
        Oracle("silent", |_| None),
        Oracle("alternating", |second| Some(if second % 2.0 == 0.0 { 0.0 } else { 1e9 })),
        Oracle("upside down", |second| Some(200.0 - sine(second))),
    ]);
    for second in 0..500 {
        backtest.observe(at(f64::from(second)), sine(f64::from(second)));
        assert_eq!(backtest.chosen(), None);
    }
}

#[test]
fn a_forecaster_that_speaks_where_nothing_changes_is_judged_by_that() {
    // Flat for 20 s, up for 20 s, and again; a forecast of the flat is off by one where none is needed.
    let curve = |second: f64| 100.0 + 10.0 * (second % 40.0 - 20.0).max(0.0);
    let mut backtest = oracles(vec![Oracle("flat", |second| {
        (10.0..20.0).contains(&(second % 40.0)).then_some(101.0)
    })]);
    for second in 0..400 {
        backtest.observe(at(f64::from(second)), curve(f64::from(second)));
        assert_eq!(backtest.chosen(), None, "{second}");
    }
    assert!(backtest.errors().all(|(_, error, compared)| error <= 1.0 && compared > 50));
}

#[test]
fn a_forecaster_that_begins_to_lie_is_dropped_within_a_horizon() {
    let mut backtest = oracles(vec![Oracle("turncoat", |second| {
        Some(if second < 200.0 { sine(second) } else { 1e6 })
    })]);
    feed(&mut backtest, 200, sine);
    assert_eq!(backtest.chosen(), Some("turncoat"));
    backtest.observe(at(200.0), sine(200.0));
    assert_eq!(backtest.chosen(), None, "what it said for second 200 was a lie");
}

#[test]
fn the_better_of_two_is_believed_and_one_that_is_hardly_better_changes_nothing() {
    let mut backtest = oracles(vec![
        Oracle("fair", |second| Some(sine(second) + 2.0)),
        Oracle("good", |second| Some(sine(second) + 1.0)),
    ]);
    feed(&mut backtest, 100, sine);
    assert_eq!(backtest.chosen(), Some("good"));

    let mut worse = oracles(vec![
        Oracle("first", |second| Some(sine(second) + if second < 100.0 { 0.5 } else { 5.0 })),
        Oracle("second", |second| Some(sine(second) + 2.0)),
    ]);
    feed(&mut worse, 100, sine);
    assert_eq!(worse.chosen(), Some("first"));
    for second in 100..400 {
        worse.observe(at(f64::from(second)), sine(f64::from(second)));
    }
    assert_eq!(worse.chosen(), Some("second"), "the first still beats that all stays as it is");

    let mut close = oracles(vec![
        Oracle("first", |second| Some(sine(second) + if second < 100.0 { 1.0 } else { 1.05 })),
        Oracle("second", |second| Some(sine(second) + if second < 100.0 { 1.2 } else { 1.0 })),
    ]);
    feed(&mut close, 400, sine);
    assert_eq!(close.chosen(), Some("first"), "a twentieth is not worth a change");
}

#[test]
fn a_backtest_holds_a_bounded_number_of_forecasts() {
    let mut backtest = Backtest::standard(SECOND * 10).expect("valid");
    for step in 0..50_000 {
        backtest.observe(at(f64::from(step) / 1000.0), f64::from(step));
        assert!(backtest.pending() <= 32);
    }
    assert!(backtest.pending() >= 30, "it compares as finely as it may");

    // Samples that come exactly as far apart as forecasts are kept: each makes one.
    let mut exact = Backtest::standard(SECOND * 31).expect("valid");
    for second in 0..31 {
        exact.observe(at(f64::from(second)), 1.0);
        assert_eq!(exact.pending(), second as usize + 1);
    }

    // And a hair less far apart: every other one.
    let mut close = Backtest::standard(SECOND * 31).expect("valid");
    for step in 0..20 {
        close.observe(at(0.99 * f64::from(step)), 1.0);
        assert_eq!(close.pending(), step as usize / 2 + 1);
    }
}

#[test]
fn a_comparison_between_two_samples_is_made_on_the_line_between_them() {
    let mut backtest = oracles(vec![Oracle("exact", Some)]);
    // Due at seconds 10, 23, 36 and so on, and sampled at 0, 13, 26.
    for step in 0..40 {
        backtest.observe(at(f64::from(step) * 13.0), f64::from(step) * 13.0);
    }
    let (_, error, compared) = backtest.errors().next().expect("one forecaster");
    assert!(error < 1e-9 && compared > 30, "{error} in {compared}");
}

#[test]
fn a_backtest_of_nothing_is_refused() {
    let refused = |result: Result<Backtest, crate::Error>| {
        let error = result.expect_err("it makes no sense");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    };
    refused(Backtest::new(SECOND, Vec::new()));
    refused(Backtest::standard(Duration::ZERO));
    let many = |count| {
        let average = || Box::new(MovingAverage::new(SECOND)) as Box<dyn Forecaster>;
        Backtest::new(SECOND, (0..count).map(|_| average()).collect())
    };
    refused(many(MAX_FORECASTERS + 1));
    let full = many(MAX_FORECASTERS).expect("that many are allowed");
    assert_eq!(full.horizon(), SECOND);
    assert_eq!(full.errors().count(), MAX_FORECASTERS);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn forecasts_are_finite_and_not_negative_whatever_the_samples(
        half_life in 0..100_000_u64,
        samples in proptest::collection::vec((0..u64::MAX, prop_oneof![
            4 => 0.0..1000.0_f64, 1 => any::<f64>(), 1 => Just(1e15)
        ], 0..4_u32), 1..80),
        ahead in any::<u64>(),
    ) {
        let half_life = Duration::from_millis(half_life);
        let mut backtest = Backtest::standard(half_life.max(SECOND)).expect("valid");
        let mut average = MovingAverage::new(half_life);
        let mut trend = LinearTrend::new(half_life);
        let mut now = Timestamp::ZERO;
        for (after, value, scale) in samples {
            let nanos = match scale {
                0 => 0,
                1 => after % 1000,
                2 => after % 10_000_000_000,
                _ => after,
            };
            now = now + Duration::from_nanos(nanos);
            for forecaster in [&mut average as &mut dyn Forecaster, &mut trend, &mut backtest] {
                forecaster.observe(now, value);
                for at in [now, now + Duration::from_nanos(ahead), Timestamp::ZERO] {
                    let forecast = forecaster.forecast(at);
                    prop_assert!(forecast.is_none_or(|value| value.is_finite() && value >= 0.0));
                }
            }
        }
    }
}
