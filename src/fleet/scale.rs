//! How many agents there should be: policies, plans, forecasts, and what the system says.
//!
//! The heart is a pure function, [`plan`]: what is [observed](Observation), what is
//! [allowed](ScalePolicy), what it [remembers](ScaleState) and the time go in, a [`Plan`] with its reasons
//! comes out. It waits for nothing, locks nothing and calls nobody, so a host can replay a day of its
//! fleet in a test within milliseconds.
//!
//! What it guarantees, each for any sequence of observations:
//!
//! 1. Never fewer than `min` are left, nor more than `max` and the burst made, those that failed or drain among them.
//! 2. No agent that holds a lease is ended. Where idle ones do not suffice, some that hold leases get no more, and end with
//!    the last of theirs, or serve again if the demand comes back before.
//! 3. Constant demand settles: a step leads into the band, and nothing but demand leads out of it.
//!    Forecasts that are wrong, slow answers and short memory move the fleet inside of it.
//! 4. Two steps are never closer than the policy says, and never more than it says at once; filling up to
//!    `min` alone waits for nothing.
//! 5. What it does not do it explains: each [`Plan`] lists its [`Refusal`]s.
//!
//! What it does not do: it does not know what an agent costs, and it does not scale across machines.

mod autoscaler;
mod forecast;
#[cfg(all(test, phalanx_loom))]
mod loom_tests;
mod observation;
mod observe;
mod plan;
mod policy;
#[cfg(all(test, feature = "test-util", not(any(phalanx_loom, phalanx_shuttle))))]
mod simulation;
mod system;
mod warm;
mod waves;
mod window;

pub use autoscaler::{Autoscaler, ScaleStats, Scaled};
pub use forecast::{Backtest, Forecaster, LinearTrend, MAX_FORECASTERS, MovingAverage};
pub use observation::Observation;
pub use plan::{DownReason, Plan, Reading, Refusal, ScaleState, Step, UpReason, plan};
pub use policy::{ScalePolicy, ScalePolicyBuilder};
pub use system::{SystemReader, SystemReading};
pub use warm::{WarmPool, WarmPools, Warmed};
pub use waves::Waves;
