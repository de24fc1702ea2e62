//! A circuit breaker: after too many failures, nothing for a while, and then one trial.
//!
//! Rules that hold here:
//!
//! 1. Closed, all are admitted; open, nobody; half-open, one at a time.
//! 2. Only the outcome of what was admitted in the present state counts: what began before the circuit
//!    opened says nothing about how things are after it.
//! 3. A trial that is not heard of keeps others out for the timeout of trials, and no longer: then another
//!    one is admitted beside it. Its own outcome, should it come, counts still (rule 2), so that trials
//!    that take longer than the timeout close the circuit too.
//! 4. No moment is earlier than the latest one heard of.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::window::Window;
use crate::clock::Timestamp;
use crate::fleet::backoff::Backoff;

/// When a circuit opens, for how long, and what closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    failures: NonZeroU16,
    window: Duration,
    open_for: Backoff,
    trials: NonZeroU32,
    trial_timeout: Duration,
}

impl BreakerPolicy {
    /// Opens after so many failures within a window of this width; for 1 s at first, twice as long each
    /// time a trial fails, up to 60 s; one good trial closes it, and keeps others out for 60 s.
    ///
    /// A window of zero never fills, so such a circuit never opens. Costs 16 bytes for each failure.
    #[must_use]
    pub const fn new(failures: NonZeroU16, window: Duration) -> Self {
        Self {
            failures,
            window,
            open_for: Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60)),
            trials: NonZeroU32::MIN,
            trial_timeout: Duration::from_secs(60),
        }
    }

    /// Sets for how long it is open: the first delay when it opens, the next when a trial fails, and so
    /// on, until it has closed. Default: from 1 s to 60 s, doubled each time.
    #[must_use]
    pub const fn open_for(mut self, open_for: Backoff) -> Self {
        self.open_for = open_for;
        self
    }

    /// Sets how many trials in a row must succeed to close it. Default: 1.
    #[must_use]
    pub const fn trials(mut self, trials: NonZeroU32) -> Self {
        self.trials = trials;
        self
    }

    /// Sets for how long a trial that was not reported keeps others out. Default: 60 s. At least a
    /// nanosecond; better longer than a try takes, or several run at once.
    #[must_use]
    pub const fn trial_timeout(mut self, time: Duration) -> Self {
        self.trial_timeout = if time.is_zero() { Duration::from_nanos(1) } else { time };
        self
    }
}

impl BreakerPolicy {
    pub(in crate::fleet) const fn patience(&self) -> Duration {
        self.trial_timeout
    }
}

/// What a circuit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerState {
    /// It admits all.
    Closed,
    /// It admits nobody before this moment.
    Open {
        /// The moment of the first trial.
        until: Timestamp,
    },
    /// It admits one at a time.
    HalfOpen,
}

/// The right to one try, which is to be given back with what came of it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a trial that is not reported keeps others out until its timeout"]
pub struct Permit {
    /// The breaker that gave it.
    of: u64,
    /// The state it was given in (rule 2), and in half-open which trial (rule 3).
    era: u64,
}

#[derive(Clone, Debug)]
enum State {
    Closed,
    Open { until: Timestamp },
    HalfOpen { succeeded: u32, trial_until: Option<Timestamp> },
}

/// One circuit breaker: for a type of agents, or for something that they call.
///
/// ```
/// use phalanx::Timestamp;
/// use phalanx::fleet::supervise::{Breaker, BreakerPolicy, BreakerState};
/// use std::num::NonZeroU16;
/// use std::time::Duration;
///
/// let policy = BreakerPolicy::new(NonZeroU16::MIN, Duration::from_secs(10));
/// let mut breaker = Breaker::new(policy, 0);
/// let start = Timestamp::ZERO;
/// let permit = breaker.admit(start).expect("it is closed");
/// breaker.failed(permit, start);
/// assert_eq!(breaker.admit(start), Err(start + Duration::from_secs(1)));
///
/// let later = start + Duration::from_secs(1);
/// let trial = breaker.admit(later).expect("one may try");
/// assert!(breaker.admit(later).is_err(), "and only one");
/// breaker.succeeded(trial);
/// assert_eq!(breaker.state(later), BreakerState::Closed);
/// ```
#[derive(Clone, Debug)]
pub struct Breaker {
    /// Unlike that of any other, but for its clones.
    number: u64,
    /// Permits of others that were reported to it.
    foreign: u64,
    policy: BreakerPolicy,
    seed: u64,
    state: State,
    failures: Window,
    /// How often it opened since it was closed.
    opened: u32,
    /// Counts changes of state and trials: the era of the trial that keeps others out.
    era: u64,
    /// The era in which the present state began.
    since: u64,
    /// The latest moment heard of (rule 4).
    now: Timestamp,
}

impl Breaker {
    /// A closed circuit. The seed decides the jitter of the time it is open.
    #[must_use]
    pub fn new(policy: BreakerPolicy, seed: u64) -> Self {
        Self {
            number: crate::sync::unique(),
            foreign: 0,
            policy,
            seed,
            state: State::Closed,
            failures: Window::new(policy.window),
            opened: 0,
            era: 0,
            since: 0,
            now: Timestamp::ZERO,
        }
    }

    /// What it would do now.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> BreakerState {
        let now = self.now.max(now);
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { until } if now < until => BreakerState::Open { until },
            State::Open { .. } | State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Asks for a try.
    ///
    /// # Errors
    /// When to ask again, at the latest: the moment of the next trial, or the one at which the present
    /// trial keeps others out no longer.
    pub fn admit(&mut self, now: Timestamp) -> Result<Permit, Timestamp> {
        let now = self.advance(now);
        match self.state {
            State::Closed => {}
            State::Open { until } if now < until => return Err(until),
            State::HalfOpen { trial_until: Some(until), .. } if now < until => return Err(until),
            State::Open { .. } => {
                let trial_until = Some(now + self.policy.trial_timeout);
                self.enter(State::HalfOpen { succeeded: 0, trial_until });
            }
            State::HalfOpen { ref mut trial_until, .. } => {
                self.era += 1;
                *trial_until = Some(now + self.policy.trial_timeout);
            }
        }
        Ok(Permit { of: self.number, era: self.era })
    }

    /// How many permits of other breakers were reported to this one. Each was ignored; the breaker that gave it
    /// knows nothing of the report, and treats the try as one that was never heard of.
    #[must_use]
    pub const fn foreign_permits(&self) -> u64 {
        self.foreign
    }

    /// Whether it gave this permit; otherwise that is counted.
    fn gave(&mut self, permit: &Permit) -> bool {
        let own = permit.of == self.number;
        self.foreign += u64::from(!own);
        own
    }

    /// Rule 4.
    fn advance(&mut self, now: Timestamp) -> Timestamp {
        self.now = self.now.max(now);
        self.now
    }

    fn enter(&mut self, state: State) {
        self.era += 1;
        self.since = self.era;
        self.state = state;
    }

    /// Reports that a try succeeded.
    #[expect(clippy::needless_pass_by_value, reason = "a permit is used up")]
    pub fn succeeded(&mut self, permit: Permit) {
        if !self.gave(&permit) || permit.era < self.since {
            return;
        }
        if let State::HalfOpen { succeeded, trial_until } = &mut self.state {
            *succeeded += 1;
            if *succeeded >= self.policy.trials.get() {
                self.failures.clear();
                self.opened = 0;
                self.enter(State::Closed);
            } else if permit.era == self.era {
                *trial_until = None;
            }
        }
    }

    /// Reports that a try failed; whether that opened the circuit.
    #[expect(clippy::needless_pass_by_value, reason = "a permit is used up")]
    pub fn failed(&mut self, permit: Permit, now: Timestamp) -> bool {
        let now = self.advance(now);
        if !self.gave(&permit) || permit.era < self.since {
            return false;
        }
        if matches!(self.state, State::Closed) {
            self.failures.record(now);
            if self.failures.count(now) < usize::from(self.policy.failures.get()) {
                return false;
            }
        }
        self.opened = self.opened.saturating_add(1);
        self.enter(State::Open { until: now + self.policy.open_for.delay(self.opened, self.seed) });
        true
    }

    /// Reports that nothing came of a try, good or bad: it was cancelled, or its agent was killed.
    ///
    /// In half-open the next one may try.
    #[expect(clippy::needless_pass_by_value, reason = "a permit is used up")]
    pub fn abandoned(&mut self, permit: Permit) {
        if self.gave(&permit)
            && permit.era == self.era
            && let State::HalfOpen { trial_until, .. } = &mut self.state
        {
            *trial_until = None;
        }
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(seconds))
    }

    /// Opens at 3 failures within 10 s, for 4, 8, 10, 10, ... s; a trial keeps others out for 5 s.
    fn policy() -> BreakerPolicy {
        let open_for = Backoff::exponential(Duration::from_secs(4), Duration::from_secs(10));
        BreakerPolicy::new(NonZeroU16::new(3).expect("it is not zero"), Duration::from_secs(10))
            .open_for(open_for)
            .trial_timeout(Duration::from_secs(5))
    }

    fn breaker() -> Breaker {
        Breaker::new(policy(), 0)
    }

    fn fail(breaker: &mut Breaker, now: Timestamp) -> bool {
        let permit = breaker.admit(now).expect("it admits");
        breaker.failed(permit, now)
    }

    fn open(breaker: &mut Breaker, now: Timestamp) {
        assert!(!fail(breaker, now));
        assert!(!fail(breaker, now));
        assert!(fail(breaker, now));
    }

    #[test]
    fn it_opens_at_so_many_failures_within_the_window() {
        let mut breaker = breaker();
        assert!(!fail(&mut breaker, at(0)));
        assert!(!fail(&mut breaker, at(1)));
        assert!(!fail(&mut breaker, at(10)), "the first has left the window");
        assert_eq!(breaker.state(at(10)), BreakerState::Closed);
        assert!(fail(&mut breaker, at(10)), "that at 1 s is still within it");
        assert_eq!(breaker.state(at(10)), BreakerState::Open { until: at(14) });
    }

    #[test]
    fn a_success_while_closed_forgives_no_failure() {
        let mut breaker = breaker();
        fail(&mut breaker, at(0));
        fail(&mut breaker, at(0));
        let permit = breaker.admit(at(0)).expect("it admits");
        breaker.succeeded(permit);
        assert!(fail(&mut breaker, at(0)));
    }

    #[test]
    fn open_it_admits_nobody_and_half_open_one_at_a_time() {
        let mut breaker = breaker();
        open(&mut breaker, at(0));
        assert_eq!(breaker.admit(at(3)), Err(at(4)));
        assert_eq!(breaker.state(at(3)), BreakerState::Open { until: at(4) });
        assert_eq!(breaker.state(at(4)), BreakerState::HalfOpen);
        let trial = breaker.admit(at(4)).expect("it admits");
        assert_eq!(breaker.admit(at(4)), Err(at(9)), "until its timeout");
        breaker.succeeded(trial);
        assert_eq!(breaker.state(at(5)), BreakerState::Closed);
        open(&mut breaker, at(5));
        assert_eq!(
            breaker.state(at(5)),
            BreakerState::Open { until: at(9) },
            "the first delay again"
        );
    }

    #[test]
    fn a_permit_of_another_breaker_changes_nothing_and_is_counted() {
        let (mut one, mut other) = (breaker(), breaker());
        for _ in 0..3 {
            let foreign = other.admit(at(0)).expect("it admits");
            assert!(!one.failed(foreign, at(0)));
        }
        assert_eq!(one.state(at(0)), BreakerState::Closed);
        open(&mut one, at(0));
        let trial = one.admit(at(4)).expect("it admits");
        for _ in 0..9 {
            // Of the same era as the trial, it may be.
            open(&mut other, at(0));
            let foreign = other.admit(at(10)).expect("it admits");
            one.succeeded(foreign);
            other = breaker();
            let foreign = other.admit(at(0)).expect("it admits");
            one.abandoned(foreign);
        }
        assert_eq!(one.state(at(4)), BreakerState::HalfOpen);
        assert_eq!(one.admit(at(4)), Err(at(9)), "the trial is still on");
        assert_eq!((one.foreign_permits(), other.foreign_permits()), (21, 0));
        one.succeeded(trial);
        assert_eq!(one.state(at(4)), BreakerState::Closed);
    }

    #[test]
    fn a_failed_trial_opens_it_for_longer() {
        let mut breaker = breaker();
        open(&mut breaker, at(0));
        assert!(fail(&mut breaker, at(4)), "one failure is enough");
        assert_eq!(breaker.admit(at(11)), Err(at(12)));
        assert!(fail(&mut breaker, at(12)));
        assert_eq!(breaker.admit(at(12)), Err(at(22)));
    }

    #[test]
    fn as_many_trials_in_a_row_as_asked_for_close_it() {
        let mut breaker =
            Breaker::new(policy().trials(NonZeroU32::new(2).expect("it is not zero")), 0);
        open(&mut breaker, at(0));
        let trial = breaker.admit(at(4)).expect("it admits");
        breaker.succeeded(trial);
        assert_eq!(breaker.state(at(4)), BreakerState::HalfOpen);
        let trial = breaker.admit(at(4)).expect("the next may try at once");
        assert!(breaker.admit(at(4)).is_err());
        breaker.succeeded(trial);
        assert_eq!(breaker.state(at(4)), BreakerState::Closed);
    }

    #[test]
    fn a_trial_that_failed_starts_the_row_again() {
        let mut breaker =
            Breaker::new(policy().trials(NonZeroU32::new(2).expect("it is not zero")), 0);
        open(&mut breaker, at(0));
        let trial = breaker.admit(at(4)).expect("it admits");
        breaker.succeeded(trial);
        assert!(fail(&mut breaker, at(4)));
        let trial = breaker.admit(at(12)).expect("it admits");
        breaker.succeeded(trial);
        assert_eq!(breaker.state(at(12)), BreakerState::HalfOpen);
    }

    #[test]
    fn what_began_before_a_change_of_state_does_not_count_after_it() {
        let mut breaker = breaker();
        let (early, slow) =
            (breaker.admit(at(0)).expect("it admits"), breaker.admit(at(0)).expect("it admits"));
        let late = breaker.admit(at(0)).expect("it admits");
        open(&mut breaker, at(0));
        breaker.succeeded(early);
        assert!(!breaker.failed(slow, at(1)));
        assert_eq!(breaker.state(at(1)), BreakerState::Open { until: at(4) });
        let trial = breaker.admit(at(4)).expect("it admits");
        breaker.abandoned(late);
        assert!(breaker.admit(at(4)).is_err(), "the trial is still on its way");
        breaker.succeeded(trial);
        assert_eq!(breaker.state(at(4)), BreakerState::Closed);
    }

    #[test]
    fn a_trial_that_is_not_heard_of_keeps_others_out_until_its_timeout() {
        let mut breaker = breaker();
        open(&mut breaker, at(0));
        let _lost = breaker.admit(at(4)).expect("it admits");
        assert_eq!(breaker.admit(at(8)), Err(at(9)));
        let next = breaker.admit(at(9)).expect("the first has had its time");
        assert_eq!(breaker.admit(at(9)), Err(at(14)), "and again one at a time");
        breaker.succeeded(next);
        assert_eq!(breaker.state(at(9)), BreakerState::Closed);
    }

    #[test]
    fn a_late_trial_counts_and_makes_no_room_beside_the_next() {
        let trials = NonZeroU32::new(3).expect("it is not zero");
        let mut breaker = Breaker::new(policy().trials(trials), 0);
        open(&mut breaker, at(0));
        let late = breaker.admit(at(4)).expect("it admits");
        let later = breaker.admit(at(9)).expect("it admits");
        let next = breaker.admit(at(14)).expect("it admits");
        breaker.succeeded(late);
        assert_eq!(breaker.admit(at(15)), Err(at(19)), "the next one is on its way");
        breaker.abandoned(later);
        assert_eq!(breaker.admit(at(15)), Err(at(19)));
        breaker.succeeded(next);
        let last = breaker.admit(at(15)).expect("it admits");
        breaker.succeeded(last);
        assert_eq!(breaker.state(at(15)), BreakerState::Closed, "three have succeeded");

        open(&mut breaker, at(15));
        let late = breaker.admit(at(19)).expect("it admits");
        let _next = breaker.admit(at(24)).expect("it admits");
        assert!(breaker.failed(late, at(25)));
        assert_eq!(breaker.state(at(25)), BreakerState::Open { until: at(33) });
    }

    #[test]
    fn trials_that_take_longer_than_their_timeout_close_it_still() {
        let mut breaker = breaker();
        open(&mut breaker, at(0));
        // Each takes 9 s, which is more than the timeout of 5 s.
        let mut trials = std::collections::VecDeque::new();
        for now in 4..100 {
            if let Ok(trial) = breaker.admit(at(now)) {
                trials.push_back((trial, now + 9));
            }
            if trials.front().is_some_and(|(_, done)| *done == now) {
                let (trial, _) = trials.pop_front().expect("it is there");
                breaker.succeeded(trial);
            }
            if breaker.state(at(now)) == BreakerState::Closed {
                return;
            }
        }
        panic!("it never closed");
    }

    #[test]
    fn a_circuit_that_is_open_for_no_time_has_one_trial_too() {
        let mut breaker =
            Breaker::new(policy().open_for(Backoff::NONE).trial_timeout(Duration::ZERO), 0);
        open(&mut breaker, at(0));
        let _trial = breaker.admit(at(0)).expect("it admits");
        assert!(breaker.admit(at(0)).is_err());
    }

    #[test]
    fn time_that_goes_back_opens_it_for_no_less() {
        let mut breaker = breaker();
        let early = breaker.admit(at(90)).expect("it admits");
        assert!(!fail(&mut breaker, at(100)));
        assert!(!fail(&mut breaker, at(100)));
        assert!(fail(&mut breaker, at(50)));
        assert_eq!(breaker.state(at(100)), BreakerState::Open { until: at(104) });
        assert!(!breaker.failed(early, at(104)));
        assert_eq!(breaker.state(at(99)), BreakerState::HalfOpen, "104 has been");
        let _trial = breaker.admit(at(104)).expect("it admits");
        assert_eq!(breaker.admit(at(60)), breaker.admit(at(104)));
    }

    #[test]
    fn a_trial_without_an_outcome_makes_room_for_the_next() {
        let mut breaker = breaker();
        open(&mut breaker, at(0));
        let trial = breaker.admit(at(4)).expect("it admits");
        breaker.abandoned(trial);
        assert_eq!(breaker.state(at(4)), BreakerState::HalfOpen);
        let next = breaker.admit(at(4)).expect("it admits");
        assert!(breaker.admit(at(4)).is_err());
        breaker.succeeded(next);
        let closed = breaker.admit(at(4)).expect("it admits");
        breaker.abandoned(closed);
        assert_eq!(breaker.state(at(4)), BreakerState::Closed);
    }

    proptest! {
        /// Whatever is reported when: half-open, never two trials; open, none.
        #[test]
        fn there_is_never_more_than_one_trial(
            script in proptest::collection::vec((0..5_u8, 0..6_u64), 1..200),
        ) {
            let mut breaker = breaker();
            let mut permits = Vec::new();
            let mut now = at(0);
            // The trial that was admitted last, and until when it stands.
            let mut trial: Option<Timestamp> = None;
            for (what, pass) in script {
                let before = breaker.state(now);
                match what {
                    0 | 1 => match breaker.admit(now) {
                        Ok(permit) => {
                            let admitting = !matches!(before, BreakerState::Open { .. });
                            prop_assert!(admitting, "open");
                            if before == BreakerState::HalfOpen {
                                prop_assert!(trial.is_none_or(|until| until <= now), "two trials");
                                trial = breaker.admit(now).err();
                                prop_assert!(trial.is_some_and(|until| until > now));
                            }
                            permits.push(permit);
                        }
                        Err(again) => {
                            prop_assert!(again > now);
                            prop_assert!(before != BreakerState::Closed);
                        }
                    },
                    _ if permits.is_empty() => now = now + Duration::from_secs(pass),
                    what => {
                        let permit = permits.swap_remove(pass as usize % permits.len());
                        let (counts, current) =
                            (permit.era >= breaker.since, permit.era == breaker.era);
                        match what {
                            2 => breaker.succeeded(permit),
                            3 => drop(breaker.failed(permit, now)),
                            _ => breaker.abandoned(permit),
                        }
                        if !counts {
                            prop_assert_eq!(breaker.state(now), before, "an old permit moved it");
                        }
                        if current || breaker.state(now) != before {
                            trial = None;
                        }
                        now = now + Duration::from_secs(pass / 2);
                    }
                }
                prop_assert!(breaker.failures.len() <= 3, "memory is bounded");
            }
        }
    }
}
