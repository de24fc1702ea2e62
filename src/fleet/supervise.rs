//! Policies of supervision: when to start an agent again, when to stop trying, when it is too quiet.
//!
//! They decide and do nothing: a host, or the fleet, tells them what happened and does what they say.
//! Rules that hold here:
//!
//! 1. Each is a state machine of its own: time is passed in, nothing waits, locks or calls back, and the
//!    same calls give the same answers.
//! 2. Each takes bounded memory, however long it runs.
//! 3. Time that stands still or goes back is treated as if no time had passed: each remembers the latest
//!    moment that it heard of, so threads may bring theirs in any order.

mod breaker;
mod heartbeat;
mod restart;
mod stuck;
mod window;

pub use breaker::{Breaker, BreakerPolicy, BreakerState, Permit};
pub use heartbeat::{Health, Heartbeat, HeartbeatPolicy};
pub use restart::{Exit, Restart, RestartDecision, RestartPolicy, RestartStrategy, Supervisor};
pub use stuck::{Stuck, Watchdog};
