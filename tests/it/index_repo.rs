//! The main job, run as a program: what it counts, what it survives, what it refuses.
//!
//! Each test has a tree and a state folder of its own. The program is built once, by the cargo that runs
//! the tests.
#![cfg(all(feature = "wasm", feature = "durable", feature = "bincode"))]

mod bad_input;
mod change;
mod crash;
mod output;
mod program;
mod refusal;
mod strike;
mod tree;
