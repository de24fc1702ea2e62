//! The sandboxed engine: tree-sitter grammars compiled to WebAssembly, run by wasmer.
//!
//! Each language is a module of its own that comes with the crate; each worker thread holds an instance of
//! those it needed. A guest sees the source that it parses and nothing else: it has no files, no clock, no
//! randomness, and two functions to call, one that tells it to stop and one that reports that its memory
//! is used up.
//!
//! # What is contained
//!
//! Whatever a source makes a grammar do inside its sandbox (trap, run out of memory or stack, answer
//! nonsense, go on for long) ends that parse with an error that says so, and the instance is replaced. The
//! trees depend on the source alone, not on what was parsed before.
//!
//! # What is not
//!
//! - A deadline is looked at between the operations of a parser, and one token is one operation, however
//!   long it is: a source of 2 MiB that is a single token is past its deadline by some tenths of a second.
//! - A guest that neither returns nor asks whether it should stop is not interrupted. Tree-sitter asks after
//!   every hundred operations and the modules are fixed at build time, so only a grammar's own scanner that
//!   loops for ever could do so; then its worker is lost, its caller waits, and
//!   [`shutdown`](WasmEngine::shutdown) and the last drop wait for it.
//! - wasmer is trusted: the containment is as good as its compiler.
//! - With `panic = "abort"` a panic in this crate or in wasmer ends the process instead of one parse. A trap
//!   of a guest is no panic and stays contained.
//!
//! # What it does to the process
//!
//! - wasmer installs process-wide handlers for SIGSEGV and SIGILL, on x86 for SIGFPE and on ARM and Apple systems
//!   for SIGBUS, when the first module is compiled or run; signals that are not its own it passes on to the
//!   handlers that stood there before. A handler that the host installs later has to do the same.
//! - Each instance reserves some 8 GiB of address space (not memory). Under a limit on address space
//!   (`ulimit -v`) instances cannot be made.
//! - Compiling a grammar, once a language at its first use, runs on threads of the `rayon` crate, whose
//!   process-wide pool then stays.

mod decode;
mod guests;
mod pool;
mod sandbox;
mod stats;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod hostile;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use wasmer::sys::{Cranelift, EngineBuilder, Features};

use crate::sync::thread;
use crate::{Clock, Error, ErrorKind};

use super::engine::AstEngine;
use super::error::AstError;
use super::language::LanguageInfo;
use super::limits::Limits;
use super::source::Source;
use super::tree::SyntaxTree;
use guests::Guest;
use pool::{Config, Pool};
pub use stats::{LanguageStats, WasmStats};

const MIB: u64 = 1 << 20;

/// An [`AstEngine`] whose parsers run in a WebAssembly sandbox. See the [module](self) for what that
/// contains and what it does not.
///
/// A handle: clones are cheap and share the workers, which end with the last of them (or at a
/// [`shutdown`](Self::shutdown)). A parse blocks its caller while a worker runs it; as many run at once as
/// there are workers.
///
/// ```
/// use phalanx::ast::wasm::WasmEngine;
/// use phalanx::ast::{AstEngine, Language, Limits, Source};
///
/// let engine = WasmEngine::builder().build()?;
/// let source = Source::new(Language::PYTHON, "def f(x):\n    return x\n");
/// let tree = engine.parse(&source, &Limits::default())?;
/// assert_eq!(tree.root().kind(), "module");
/// assert!(!tree.has_error());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct WasmEngine {
    inner: Arc<Inner>,
}

struct Inner {
    languages: Vec<LanguageInfo>,
    pool: Pool,
}

impl WasmEngine {
    /// Starts to build an engine.
    #[must_use]
    pub fn builder() -> WasmEngineBuilder {
        WasmEngineBuilder::default()
    }

    /// What it did so far. Cheap; never waits for a parse.
    #[must_use]
    pub fn stats(&self) -> WasmStats {
        self.inner.pool.stats()
    }

    /// Ends the workers: parses that run or wait end with [`EngineClosed`], later ones at once.
    ///
    /// Blocks until the threads have ended, which is soon (but see the [module](self)) unless one is just
    /// compiling a grammar. Calling it again does nothing.
    ///
    /// [`EngineClosed`]: super::AstErrorKind::EngineClosed
    pub fn shutdown(&self) {
        self.inner.pool.shut_down();
    }

    fn with_guests(guests: Vec<Guest>, config: Config) -> Result<Self, Error> {
        let mut compiler = Cranelift::new();
        compiler.num_threads(config.workers);
        let mut features = Features::none();
        features.bulk_memory(true);
        let engine: wasmer::Engine =
            EngineBuilder::new(compiler).set_features(Some(features)).engine().into();
        let languages = guests.iter().map(|guest| guest.info.clone()).collect();
        let pool = Pool::start(engine, guests, config)?;
        Ok(Self { inner: Arc::new(Inner { languages, pool }) })
    }
}

impl AstEngine for WasmEngine {
    fn languages(&self) -> &[LanguageInfo] {
        &self.inner.languages
    }

    /// Parses on a worker. The deadline counts from when a worker starts the parse: neither the wait for one
    /// nor the compilation at a language's first use is held against a source.
    fn parse(&self, source: &Source<'_>, limits: &Limits) -> Result<Arc<SyntaxTree>, AstError> {
        let inner = &*self.inner;
        let language = source.language();
        let guest = inner.languages.iter().position(|info| info.language() == language);
        let guest = guest.ok_or_else(|| AstError::unsupported_language(language))?;
        if let Err(error) = limits.check_source(source) {
            inner.pool.refused(guest, &error);
            return Err(error);
        }
        inner.pool.parse(guest, source.text(), limits)
    }
}

impl fmt::Debug for WasmEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WasmEngine")
            .field("languages", &self.inner.languages)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Builds a [`WasmEngine`].
#[derive(Clone, Debug)]
pub struct WasmEngineBuilder {
    workers: Option<NonZeroUsize>,
    queue_capacity: NonZeroUsize,
    memory_limit_bytes: u64,
    recycle_above_bytes: u64,
    clock: Clock,
}

impl Default for WasmEngineBuilder {
    fn default() -> Self {
        Self {
            workers: None,
            queue_capacity: NonZeroUsize::new(64).expect("64 is not zero"),
            memory_limit_bytes: 512 * MIB,
            recycle_above_bytes: 64 * MIB,
            clock: Clock::real(),
        }
    }
}

impl WasmEngineBuilder {
    /// How many threads parse: by default as many as the machine runs at once; 1 to 1,024.
    ///
    /// Each holds an instance of every language it was asked for, some MiB each.
    #[must_use]
    pub fn workers(mut self, workers: NonZeroUsize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// How many parses may wait for a worker: by default 64. A caller that finds no room waits for it.
    ///
    /// Each holds a copy of its source.
    #[must_use]
    pub fn queue_capacity(mut self, jobs: NonZeroUsize) -> Self {
        self.queue_capacity = jobs;
        self
    }

    /// The most memory that an instance may have, in bytes: by default 512 MiB; 4 MiB to 1 GiB.
    ///
    /// Rounded down to pages of 64 KiB. Usual sources need some tens of times their size, hostile ones a
    /// hundred times. The sum over all instances is this times workers times languages at the worst.
    #[must_use]
    pub fn memory_limit_bytes(mut self, bytes: u64) -> Self {
        self.memory_limit_bytes = bytes;
        self
    }

    /// Above how many bytes of memory an instance is thrown away after a parse: by default 64 MiB, any value.
    ///
    /// The memory of an instance never shrinks; a new one costs a fraction of a millisecond.
    #[must_use]
    pub fn recycle_above_bytes(mut self, bytes: u64) -> Self {
        self.recycle_above_bytes = bytes;
        self
    }

    /// The clock that deadlines and statistics are read from: by default [`Clock::real`].
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Starts the workers. Nothing is compiled yet: that happens at a language's first parse.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for a value outside its range, [`Io`](ErrorKind::Io) when a
    /// thread cannot be started.
    pub fn build(self) -> Result<WasmEngine, Error> {
        let config = self.into_config()?;
        WasmEngine::with_guests(guests::built_in(), config)
    }

    fn into_config(self) -> Result<Config, Error> {
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidArgument, message));
        let workers = self
            .workers
            .unwrap_or_else(|| thread::available_parallelism().unwrap_or(NonZeroUsize::MIN));
        if workers.get() > 1_024 {
            return invalid(format!("expected 1 to 1024 workers, found {workers}"));
        }
        if !(4 * MIB..=1024 * MIB).contains(&self.memory_limit_bytes) {
            return invalid(format!(
                "expected a memory limit of 4 MiB to 1 GiB, found {} bytes",
                self.memory_limit_bytes
            ));
        }
        Ok(Config {
            workers,
            queue_capacity: self.queue_capacity,
            memory_limit_bytes: self.memory_limit_bytes,
            recycle_above_bytes: self.recycle_above_bytes,
            clock: self.clock,
        })
    }
}
