//! Behaviour, seen from outside, in one binary.

mod ast;
#[cfg(feature = "wasm")]
mod ast_wasm;
mod bus;
mod cache;
mod coordinator;
mod fleet;
mod index_repo;
mod resident;
mod state;
mod tidy;
