//! What a host allows and asks of scaling: the policy, its builder, the defaults.
//!
//! Rules that hold for every policy that was built:
//!
//! 1. `0 < low < target < high <= 1`: a fleet that was brought to its target is outside both breaches.
//! 2. `min <= max`, `max >= 1`, and `max + burst` fits a `u32`.
//! 3. A step may always move at least one agent.
//! 4. Ceilings lie in `(0, 1]`, and memory is shed no earlier than growth is held.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::{Error, ErrorKind};

/// The defaults, in one place. [`ScalePolicyBuilder`] says what each one means.
const DEFAULT: ScalePolicy = ScalePolicy {
    min: 0,
    max: 64,
    burst: 0,
    low: 0.4,
    target: 0.7,
    high: 0.85,
    backlog_within: Duration::from_secs(5),
    response_time: None,
    cpu_ceiling: None,
    memory_ceiling: None,
    memory_shed: None,
    up_window: Duration::from_secs(1),
    down_window: Duration::from_secs(60),
    up_cooldown: Duration::from_secs(1),
    down_cooldown: Duration::from_secs(30),
    reverse_after: Duration::from_secs(5),
    step_up: StepCap { agents: NonZeroU32::new(16).expect("not zero"), share: 1.0 },
    step_down: StepCap { agents: NonZeroU32::new(4).expect("not zero"), share: 0.25 },
};

/// How many agents one step may move: so many, or such a share of those there are if that is more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StepCap {
    agents: NonZeroU32,
    share: f64,
}

impl StepCap {
    /// The most that one step may move with so many agents there.
    pub(super) fn of(self, current: u32) -> u32 {
        // A cast from a float saturates; the share is at most a thousand.
        self.agents.get().max((f64::from(current) * self.share) as u32)
    }
}

/// What scaling may do, and when: limits, thresholds, windows, cooldowns.
///
/// It is plain data: changing the policy of a running fleet is using another one at the next step. Two
/// ideas carry it:
///
/// - *The band.* Utilisation is the demand (leases held, and the slots it takes to work off the backlog
///   in time) as a share of the leases that the agents may hold. Below `low` there are too many agents,
///   above `high` too few, and either breach goes to `target`, which lies between the two and far from
///   both. Inside the band nothing is done.
/// - *Only demand moves the fleet out of its band.* Forecasts, response times and memory pressure move it
///   within, halfway from the target to the edge at most: they never ask for an agent that the band would
///   take down again, nor take one away that it would ask for, and leave room for noise. So none of them
///   can make it swing, however wrong it is.
///
/// CPU and memory are brakes. In one process more agents give no more CPU, so a busy processor is a
/// reason not to grow, and never one to grow.
///
/// ```
/// use phalanx::fleet::scale::ScalePolicy;
/// use std::time::Duration;
///
/// let policy = ScalePolicy::builder()
///     .min(2)
///     .max(200)
///     .utilisation(0.4, 0.7, 0.9)
///     .up_window(Duration::ZERO)
///     .memory_ceiling(0.9)
///     .build()?;
/// assert_eq!((policy.min(), policy.max()), (2, 200));
/// # Ok::<(), phalanx::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScalePolicy {
    pub(super) min: u32,
    pub(super) max: u32,
    pub(super) burst: u32,
    pub(super) low: f64,
    pub(super) target: f64,
    pub(super) high: f64,
    pub(super) backlog_within: Duration,
    pub(super) response_time: Option<Duration>,
    pub(super) cpu_ceiling: Option<f64>,
    pub(super) memory_ceiling: Option<f64>,
    pub(super) memory_shed: Option<f64>,
    pub(super) up_window: Duration,
    pub(super) down_window: Duration,
    pub(super) up_cooldown: Duration,
    pub(super) down_cooldown: Duration,
    pub(super) reverse_after: Duration,
    pub(super) step_up: StepCap,
    pub(super) step_down: StepCap,
}

impl ScalePolicy {
    /// Starts to set one up.
    pub const fn builder() -> ScalePolicyBuilder {
        ScalePolicyBuilder { policy: DEFAULT }
    }

    /// The fewest agents there are to be.
    #[must_use]
    pub const fn min(&self) -> u32 {
        self.min
    }

    /// The most agents there are to be, but for a burst.
    #[must_use]
    pub const fn max(&self) -> u32 {
        self.max
    }

    /// The most agents there are ever planned to be: `max` and the burst.
    #[must_use]
    pub const fn hard_max(&self) -> u32 {
        // Rule 2.
        self.max + self.burst
    }
}

impl Default for ScalePolicy {
    /// The policy of a builder that nothing was set on.
    fn default() -> Self {
        DEFAULT
    }
}

/// Sets up a [`ScalePolicy`]; made by [`ScalePolicy::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it builds"]
pub struct ScalePolicyBuilder {
    policy: ScalePolicy,
}

impl ScalePolicyBuilder {
    /// Sets the fewest agents. Default: 0. With fewer than these, agents are planned at once: no window,
    /// cooldown, step cap or ceiling delays that.
    ///
    /// At 0 the fleet may go down to none. What comes then waits for as long as an
    /// [`Autoscaler`](super::Autoscaler) stands for such agents (see [`Fleet::expect`](super::super::Fleet::expect)),
    /// and the first agent comes by the window and the cooldown of scaling up.
    pub const fn min(mut self, agents: u32) -> Self {
        self.policy.min = agents;
        self
    }

    /// Sets the most agents, draining ones included. Default: 64. From 1, and `min` or more.
    pub const fn max(mut self, agents: u32) -> Self {
        self.policy.max = agents;
        self
    }

    /// Sets how many more than `max` there may be while the demand alone exceeds `high` at `max`.
    /// Default: 0. A forecast or a response time never starts a burst; it ends, through the window and the
    /// cooldown of scaling down, once `max` agents would meet the target.
    pub const fn burst(mut self, agents: u32) -> Self {
        self.policy.burst = agents;
        self
    }

    /// Sets the band of utilisation and the target inside it. Default: 0.4, 0.7, 0.85. In
    /// `0 < low < target < high <= 1`. The further `low` is from `target`, the more a forecast may do.
    pub const fn utilisation(mut self, low: f64, target: f64, high: f64) -> Self {
        (self.policy.low, self.policy.target, self.policy.high) = (low, target, high);
        self
    }

    /// Sets in which time a backlog is to be worked off. Default: 5 s. From zero, which asks for a slot
    /// for each task that waits; that is what counts too while no service time is known.
    pub const fn backlog_within(mut self, time: Duration) -> Self {
        self.policy.backlog_within = time;
        self
    }

    /// Sets the response time to keep to. Default: none. Above zero. It counts once it is exceeded by
    /// more than `high / target`, and as long as agents are not idle: slowness that agents do not cause
    /// is not cured by more of them.
    ///
    /// An [`Autoscaler`](super::Autoscaler) [knows](super::Autoscaler::observe) the average over the whole fleet by
    /// itself. A percentile, or that of one kind of agents, the host gives it by
    /// [`step_with`](super::Autoscaler::step_with).
    pub const fn response_time(mut self, time: Duration) -> Self {
        self.policy.response_time = Some(time);
        self
    }

    /// Sets the share of CPU from which on the fleet does not grow. Default: none. In `(0, 1]`. It grows
    /// again once the share is 0.05 below this, or below half of it if that is nearer.
    pub const fn cpu_ceiling(mut self, share: f64) -> Self {
        self.policy.cpu_ceiling = Some(share);
        self
    }

    /// Sets the share of memory from which on the fleet does not grow. Default: none. In `(0, 1]`. It
    /// grows again once the share is 0.05 below this, or below half of it if that is nearer.
    pub const fn memory_ceiling(mut self, share: f64) -> Self {
        self.policy.memory_ceiling = Some(share);
        self
    }

    /// Sets the share of memory from which on agents are taken away, idle ones first, as far as halfway between
    /// `target` and `high`. Default: none. In `(0, 1]`; it needs a `memory_ceiling`, and is no lower than that.
    pub const fn memory_shed(mut self, share: f64) -> Self {
        self.policy.memory_shed = Some(share);
        self
    }

    /// Sets for how long every observation must call for more agents before there are more. Default: 1 s.
    /// From zero, which acts on a single observation.
    pub const fn up_window(mut self, window: Duration) -> Self {
        self.policy.up_window = window;
        self
    }

    /// Sets for how long every observation must call for fewer agents before there are fewer. Default:
    /// 60 s. From zero. A window longer than the period of the load keeps the fleet at the peak of it.
    pub const fn down_window(mut self, window: Duration) -> Self {
        self.policy.down_window = window;
        self
    }

    /// Sets how long after any step the next step up may come. Default: 1 s. From zero.
    pub const fn up_cooldown(mut self, time: Duration) -> Self {
        self.policy.up_cooldown = time;
        self
    }

    /// Sets how long after any step the next step down may come. Default: 30 s. From zero.
    pub const fn down_cooldown(mut self, time: Duration) -> Self {
        self.policy.down_cooldown = time;
        self
    }

    /// Sets how far apart two steps of opposite directions are at least. Default: 5 s. From zero. Filling
    /// up to `min` does not wait for it.
    pub const fn reverse_after(mut self, time: Duration) -> Self {
        self.policy.reverse_after = time;
        self
    }

    /// Sets the most agents that one step adds: so many, or this share of those there are if that is more.
    /// Default: 16 or a share of 1.0, so that growth doubles. The share lies in `[0, 1000]`.
    pub const fn step_up(mut self, agents: NonZeroU32, share: f64) -> Self {
        self.policy.step_up = StepCap { agents, share };
        self
    }

    /// Sets the most agents that one step takes down: so many, or this share of those there are if that is
    /// more. Default: 4 or a share of 0.25. The share lies in `[0, 1]`.
    pub const fn step_down(mut self, agents: NonZeroU32, share: f64) -> Self {
        self.policy.step_down = StepCap { agents, share };
        self
    }

    /// Makes the policy.
    ///
    /// # Errors
    /// `InvalidArgument`, naming what is outside its range.
    pub fn build(self) -> Result<ScalePolicy, Error> {
        let policy = self.policy;
        let ScalePolicy { min, max, burst, low, target, high, .. } = policy;
        if max == 0 || min > max || max.checked_add(burst).is_none() {
            return Err(invalid(format!(
                "min is {min}, max {max} and burst {burst}: they need min <= max, max >= 1, and \
                 max + burst of {} at most",
                u32::MAX
            )));
        }
        // A NaN fails the comparisons that it takes part in.
        if !(low > 0.0 && low < target && target < high && high <= 1.0) {
            return Err(invalid(format!(
                "utilisation is low {low}, target {target}, high {high}: it needs 0 < low < target < \
                 high <= 1"
            )));
        }
        if policy.response_time.is_some_and(|time| time.is_zero()) {
            return Err(invalid("response_time is zero: it has to be longer".to_owned()));
        }
        let ceilings = [
            ("cpu_ceiling", policy.cpu_ceiling),
            ("memory_ceiling", policy.memory_ceiling),
            ("memory_shed", policy.memory_shed),
        ];
        for (name, ceiling) in ceilings {
            if let Some(share) = ceiling
                && !(share > 0.0 && share <= 1.0)
            {
                return Err(invalid(format!("{name} is {share}: it has to lie in (0, 1]")));
            }
        }
        if let Some(shed) = policy.memory_shed
            && policy.memory_ceiling.is_none_or(|ceiling| ceiling > shed)
        {
            return Err(invalid(format!(
                "memory_shed is {shed}: it needs a memory_ceiling, of {shed} at most"
            )));
        }
        let shares = [("step_up", policy.step_up, 1000.0), ("step_down", policy.step_down, 1.0)];
        for (name, cap, most) in shares {
            if !(cap.share >= 0.0 && cap.share <= most) {
                let share = cap.share;
                return Err(invalid(format!(
                    "the share of {name} is {share}: it has to lie in [0, {most}]"
                )));
            }
        }
        Ok(policy)
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    fn refused(builder: ScalePolicyBuilder) -> String {
        let error = builder.build().expect_err("it is outside its range");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        error.to_string()
    }

    const ONE: NonZeroU32 = NonZeroU32::MIN;

    #[test]
    fn the_defaults_are_a_valid_policy() {
        assert_eq!(ScalePolicy::builder().build().expect("valid"), ScalePolicy::default());
    }

    #[test]
    fn limits_that_contradict_each_other_are_refused() {
        let builder = ScalePolicy::builder;
        assert!(refused(builder().min(2).max(1)).contains("min <= max"));
        assert!(refused(builder().max(0)).contains("max >= 1"));
        assert!(refused(builder().max(u32::MAX).burst(1)).contains("burst 1"));
        let policy = builder().min(1).max(1).build().expect("both may be equal");
        assert_eq!((policy.min(), policy.hard_max()), (1, 1));
        let policy = builder().max(u32::MAX - 1).burst(1).build().expect("it just fits");
        assert_eq!((policy.max(), policy.hard_max()), (u32::MAX - 1, u32::MAX));
    }

    #[test]
    fn a_band_that_is_no_band_is_refused() {
        let nan = f64::NAN;
        for (low, target, high) in [
            (0.0, 0.5, 0.9),
            (-0.1, 0.5, 0.9),
            (0.5, 0.5, 0.9),
            (0.6, 0.5, 0.9),
            (0.1, 0.9, 0.9),
            (0.1, 0.95, 0.9),
            (0.1, 0.5, 1.01),
            (nan, 0.5, 0.9),
            (0.1, nan, 0.9),
            (0.1, 0.5, nan),
        ] {
            let builder = ScalePolicy::builder().utilisation(low, target, high);
            assert!(refused(builder).contains("low < target"), "{low} {target} {high}");
        }
        let whole = ScalePolicy::builder().utilisation(f64::MIN_POSITIVE, 0.5, 1.0);
        assert!(whole.build().is_ok());
    }

    #[test]
    fn ceilings_shares_and_times_outside_their_range_are_refused() {
        let builder = ScalePolicy::builder;
        for share in [0.0, -0.5, 1.01, f64::NAN, f64::INFINITY] {
            assert!(refused(builder().cpu_ceiling(share)).contains("cpu_ceiling"));
            assert!(refused(builder().memory_ceiling(share)).contains("memory_ceiling"));
            assert!(refused(builder().memory_ceiling(0.5).memory_shed(share)).contains("shed"));
        }
        for share in [-0.1, f64::NAN, f64::INFINITY] {
            assert!(refused(builder().step_up(ONE, share)).contains("step_up"));
            assert!(refused(builder().step_down(ONE, share)).contains("step_down"));
        }
        assert!(refused(builder().step_down(ONE, 1.01)).contains("[0, 1]"));
        assert!(refused(builder().step_up(ONE, 1001.0)).contains("[0, 1000]"));
        assert!(refused(builder().memory_shed(0.9)).contains("memory_ceiling"));
        assert!(refused(builder().memory_shed(0.8).memory_ceiling(0.9)).contains("0.8"));
        assert!(refused(builder().response_time(Duration::ZERO)).contains("response_time"));
        let full = builder().cpu_ceiling(1.0).memory_ceiling(0.9).memory_shed(0.9);
        assert!(full.step_up(ONE, 1000.0).step_down(ONE, 1.0).build().is_ok());
        assert!(builder().step_up(ONE, 0.0).step_down(ONE, 0.0).build().is_ok());
    }

    #[test]
    fn a_step_moves_the_greater_of_its_two_caps() {
        let cap = StepCap { agents: NonZeroU32::new(4).expect("not zero"), share: 0.25 };
        assert_eq!([0, 15, 16, 20, 23, 24].map(|agents| cap.of(agents)), [4, 4, 4, 5, 5, 6]);
        let most = StepCap { agents: ONE, share: 1000.0 };
        assert_eq!(most.of(u32::MAX), u32::MAX);
    }
}
