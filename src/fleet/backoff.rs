//! How long to wait before the next try: exponential, capped, spread out by a seeded jitter.
//!
//! Rules that hold here:
//!
//! 1. A delay is a pure function of the policy, the number of the try and the seed.
//! 2. No delay exceeds the cap, and none is shorter than the undisturbed one less the jitter.
//! 3. No number overflows: what is too large is the cap.

use std::time::Duration;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// How long to wait before each further try.
///
/// ```
/// use phalanx::fleet::Backoff;
/// use std::time::Duration;
///
/// let backoff = Backoff::exponential(Duration::from_millis(100), Duration::from_secs(5));
/// let delays = [1, 2, 3, 7].map(|retry| backoff.delay(retry, 0).as_millis());
/// assert_eq!(delays, [100, 200, 400, 5000]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    initial: Duration,
    cap: Duration,
    factor: u32,
    jitter_percent: u8,
}

impl Backoff {
    /// No waiting at all.
    pub const NONE: Self = Self::constant(Duration::ZERO);

    /// The same delay each time.
    #[must_use]
    pub const fn constant(delay: Duration) -> Self {
        Self { initial: delay, cap: delay, factor: 1, jitter_percent: 0 }
    }

    /// Starts with one delay and doubles it each time, up to the cap. No jitter.
    #[must_use]
    pub const fn exponential(initial: Duration, cap: Duration) -> Self {
        Self { initial, cap, factor: 2, jitter_percent: 0 }
    }

    /// Sets what each delay is multiplied with for the next. Default: 2 for an exponential backoff.
    /// With 0 the first delay is the only one that is not zero.
    #[must_use]
    pub const fn factor(mut self, factor: u32) -> Self {
        self.factor = factor;
        self
    }

    /// Sets how much of each delay is left to chance, in percent: with 25, a delay of 100 ms becomes one
    /// of 75 to 100 ms. Default: 0. More than 100 is 100.
    ///
    /// It keeps those that failed together from coming back together.
    #[must_use]
    pub const fn jitter_percent(mut self, percent: u8) -> Self {
        self.jitter_percent = if percent > 100 { 100 } else { percent };
        self
    }

    /// What it was made of, for a record: the first delay, the cap, the factor, the jitter in percent.
    pub(crate) const fn parts(&self) -> (Duration, Duration, u32, u8) {
        (self.initial, self.cap, self.factor, self.jitter_percent)
    }

    /// What has these [parts](Self::parts).
    pub(crate) const fn from_parts(
        initial: Duration,
        cap: Duration,
        factor: u32,
        percent: u8,
    ) -> Self {
        Self::exponential(initial, cap).factor(factor).jitter_percent(percent)
    }

    /// The delay before a retry; 1 is the first. Before the first try (0) there is none.
    ///
    /// The seed decides the jitter: the same seed and retry give the same delay.
    #[must_use]
    pub const fn delay(&self, retry: u32, seed: u64) -> Duration {
        let Some(exponent) = retry.checked_sub(1) else { return Duration::ZERO };
        let cap = self.cap.as_nanos();
        let grown = match (self.factor as u128).checked_pow(exponent) {
            Some(times) => self.initial.as_nanos().checked_mul(times),
            None => None,
        };
        let full = match grown {
            Some(grown) if grown < cap => grown,
            _ if self.initial.is_zero() => 0,
            _ => cap,
        };
        let spread = full / 100 * self.jitter_percent as u128;
        // 32 bits of chance: a spread is below 2^95, so the product does not overflow.
        let chance = (mix(seed ^ mix(retry as u64)) >> 32) as u128;
        from_nanos(full - ((spread * chance) >> 32))
    }
}

/// Spreads what differs in few bits over all of them (the finalizer of `SplitMix64`).
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// At most the cap, which was made of a duration, so the seconds fit.
const fn from_nanos(nanos: u128) -> Duration {
    Duration::new((nanos / NANOS_PER_SECOND) as u64, (nanos % NANOS_PER_SECOND) as u32)
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn delays_grow_by_the_factor_up_to_the_cap() {
        let backoff = Backoff::exponential(ms(10), ms(200)).factor(3);
        let delays = [0, 1, 2, 3, 4, 5].map(|retry| backoff.delay(retry, 7));
        assert_eq!(delays, [ms(0), ms(10), ms(30), ms(90), ms(200), ms(200)]);
        assert_eq!([1, 2, 9].map(|retry| Backoff::constant(ms(5)).delay(retry, 7)), [ms(5); 3]);
        assert_eq!(Backoff::NONE.delay(u32::MAX, 7), Duration::ZERO);
        assert_eq!([1, 2].map(|retry| backoff.factor(0).delay(retry, 7)), [ms(10), ms(0)]);
    }

    #[test]
    fn an_initial_delay_over_the_cap_is_the_cap() {
        let backoff = Backoff::exponential(ms(10), ms(4));
        assert_eq!([1, 2].map(|retry| backoff.delay(retry, 7)), [ms(4); 2]);
    }

    #[test]
    fn the_greatest_numbers_give_the_cap() {
        let backoff = Backoff::exponential(Duration::MAX, Duration::MAX).factor(u32::MAX);
        assert_eq!(backoff.delay(1, 0), Duration::MAX);
        assert_eq!(backoff.delay(u32::MAX, u64::MAX), Duration::MAX);
        assert!(backoff.jitter_percent(100).delay(2, 1) < Duration::MAX);
        let small = Backoff::exponential(Duration::from_nanos(1), ms(1)).factor(u32::MAX);
        assert_eq!(small.delay(u32::MAX, 0), ms(1));
        assert_eq!(Backoff::exponential(Duration::ZERO, ms(1)).delay(u32::MAX, 0), Duration::ZERO);
    }

    #[test]
    fn a_jitter_spreads_the_delays_over_its_range_and_repeats_with_its_seed() {
        let backoff = Backoff::exponential(ms(100), ms(100)).jitter_percent(40);
        let delays: Vec<_> = (0..1000).map(|seed| backoff.delay(1, seed)).collect();
        assert_eq!(delays, (0..1000).map(|seed| backoff.delay(1, seed)).collect::<Vec<_>>());
        let (least, most) = (
            delays.iter().min().expect("there are some"),
            delays.iter().max().expect("there are some"),
        );
        assert!(*least >= ms(60) && *least < ms(62), "{least:?}");
        assert!(*most <= ms(100) && *most > ms(98), "{most:?}");
        assert_ne!(backoff.delay(1, 5), backoff.delay(2, 5), "each retry has a chance of its own");
        assert_eq!(backoff.jitter_percent(255), backoff.jitter_percent(100));
    }

    proptest! {
        #[test]
        fn no_delay_leaves_its_range(
            initial in any::<u64>(), cap in any::<u64>(), factor in any::<u32>(),
            percent in 0..=100_u8, retry in any::<u32>(), seed in any::<u64>(),
        ) {
            let (initial, cap) = (Duration::from_nanos(initial), Duration::from_nanos(cap));
            let plain = Backoff::exponential(initial, cap).factor(factor);
            let full = plain.delay(retry, seed);
            let delay = plain.jitter_percent(percent).delay(retry, seed);
            prop_assert!(delay <= full && full <= cap);
            prop_assert!(delay.as_nanos() >= full.as_nanos() - full.as_nanos() * u128::from(percent) / 100);
        }
    }
}
