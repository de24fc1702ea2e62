//! The main job: a fleet of agents indexes a source tree.
//!
//! ```console
//! cargo run --release --features wasm --example index_repo -- [PATH]
//! ```
//!
//! Phase one ([`phase_one`]) walks the tree ([`walk`], [`classify`]) and makes each file that is new or
//! changed a durably accepted task ([`dispatch`]). An agent that speaks its language parses it in the
//! engine's sandbox ([`agents`]), and what is in it ([`extract`]) is committed to the index ([`store`]) in one
//! transaction with the task's outcome. Phase two ([`phase_two`]) works out what the imports of each file
//! refer to ([`resolve`]) and has agents find where they are used, reading trees back through the cache.
//!
//! A second run does again only what changed. A run that is killed loses nothing that it acknowledged
//! ([`clerk`]), and the run after it ends with the same index ([`digest`]) as if nothing had happened.

#![expect(unreachable_pub, reason = "in a program every item is the program's own")]

mod agents;
mod args;
mod classify;
mod clerk;
mod digest;
mod dispatch;
mod extract;
mod ledger;
mod meters;
mod model;
mod phase_one;
mod phase_two;
mod place;
mod report;
mod resolve;
mod run;
mod store;
mod summary;
mod walk;

use crate::args::{Command, Options, UsageError};
use crate::run::RunError;
use phalanx::ast::wasm::WasmEngine;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let options = match args::parse(std::env::args_os().skip(1)) {
        Ok(Command::Run(options)) => options,
        Ok(Command::Help) => {
            // Who closed our stdout does not want to read it.
            let _ = writeln!(std::io::stdout(), "{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => return usage(&error),
    };
    match index(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(RunError::Usage(error)) => usage(&error),
        Err(RunError::Failed(message)) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn index(options: &Options) -> Result<(), RunError> {
    let engine = WasmEngine::builder().build()?;
    run::run(options, Arc::new(engine)).map(drop)
}

fn usage(error: &UsageError) -> ExitCode {
    eprintln!("error: {error}\n{}", args::USAGE);
    ExitCode::from(2)
}
