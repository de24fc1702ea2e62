//! Coordination for a host that runs thousands of agents in its own process.
//!
//! # What it guarantees
//!
//! - *Every accepted task gets exactly one outcome*: completed, failed, returned or cancelled. With durable
//!   tasks that holds across the death of the process for every task whose submission returned.
//! - *Never two holders where one is allowed.* A killed agent's leases are void in the same step, its tasks
//!   run elsewhere, and what a struck attempt brings back late is refused and counted.
//! - *An outcome and its effects are one transaction*, and nobody is told before it is committed.
//! - *What was acknowledged as durable is there after a crash*; damage is an error and never wrong data.
//! - *A snapshot is one version* of everything, and taking it costs the same at any size.
//! - *A reader of the bus sees every event in one order of its lane, or is told how many it lost and where.*
//! - *The weight of a cache never exceeds its limit*, at no instant.
//! - *Nothing is silent.* What is dropped, refused, retried or evicted shows in a counter; what does not fit
//!   is handed back to the caller.
//!
//! Each promise and the test that bears it: [`docs::guarantees`].
//!
//! # What it does not
//!
//! - It is no cluster, runtime, model client, planner or database: one process on one machine.
//! - A handler may run more than once; what it does outside of the outcome's transaction may happen twice.
//! - A handler that does not return cannot be ended, only struck and reported.
//! - A commit survives a crash once [`wait_durable`](state::StateManager::wait_durable) has returned, or the commit
//!   itself at [`Durability::Synced`](state::Durability::Synced), and not before.
//! - It starts no thread but the workers of a fleet that was given some, one that maintains a state where the
//!   host asks for it, and those of a sandboxed engine that was built (whose compiler uses the process-wide pool of
//!   `rayon`); it never prints, and never reads the environment.
//!
//! What else to know, and what was not checked: [`docs::limitations`].
//!
//! # Parts
//!
//! Each is useful alone and knows nothing of the others; the [`coordinator`] owns one of each and wires them.
//!
//! | | |
//! |---|---|
//! | [`fleet`] | agents, allocation, leases, tasks and their outcomes |
//! | [`bus`] | events to everyone who cares |
//! | [`cache`] | what agents share, within a limit |
//! | [`state`] | transactions, snapshots, recovery |
//! | [`ast`] | source code, read by structure; with feature `wasm` inside a sandbox |
//! | [`coordinator`] | one of each, from a task's acceptance to its outcome on the bus |
//!
//! ```
//! use phalanx::coordinator::{Coordinator, Domain};
//! use phalanx::fleet::{AgentSpec, Fleet, Task};
//!
//! struct Words;
//! impl Domain for Words {
//!     type Task = String;
//!     type Output = usize;
//!     type Event = ();
//!     type Key = ();
//!     type Value = ();
//! }
//!
//! let words = Coordinator::<Words>::builder().fleet(Fleet::builder().workers(2)).build()?;
//! let counter = AgentSpec::new("counter")
//!     .handler_fn(|task: &Task<String>, _| Ok(task.payload().split_whitespace().count()));
//! words.fleet().spawn_batch(&counter, 1000)?;
//! let handle = words.fleet().submit(Task::new("any of a thousand agents".to_owned()))?;
//! assert_eq!(handle.wait().completed(), Some(&5));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! How it is built: [`docs::architecture`]. How to use it well: [`docs::patterns`]. What it costs:
//! [`docs::performance`].
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
