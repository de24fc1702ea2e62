//! Coordination for a host that runs thousands of agents in its own process.
#![deny(unsafe_code, missing_docs)]
#![warn(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

pub mod ast;
pub mod bus;
pub mod cache;
mod clock;
pub mod coordinator;
pub mod docs;
mod error;
pub mod fleet;
pub mod state;
mod sync;

#[cfg(feature = "test-util")]
pub use clock::ManualClock;
pub use clock::{Clock, Timestamp};
pub use error::{Error, ErrorKind};
