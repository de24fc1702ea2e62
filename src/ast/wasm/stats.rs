//! What the engine counted, per language.

use std::time::Duration;

use crate::ast::error::{AstError, AstErrorKind};
use crate::ast::language::Language;
use crate::sync::atomic::{AtomicU64, Ordering};

/// What a [`WasmEngine`](super::WasmEngine) did since it was built.
///
/// The numbers are read one after the other while the engine goes on, so they need not add up to the
/// last unit; each of them only grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WasmStats {
    /// One entry a language, in the order of [`languages`](crate::ast::AstEngine::languages).
    pub languages: Vec<LanguageStats>,
    /// Calls that had to wait for room in the queue of jobs.
    pub queue_waits: u64,
    /// Panics of the engine's own code that a worker caught. Each is a bug in this crate.
    pub worker_panics: u64,
}

impl WasmStats {
    /// The entry of a language, if the engine has it.
    #[must_use]
    pub fn language(&self, language: Language) -> Option<&LanguageStats> {
        self.languages.iter().find(|stats| stats.language == language)
    }
}

/// What a [`WasmEngine`](super::WasmEngine) did in one language.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LanguageStats {
    /// The language.
    pub language: Language,
    /// Parses that gave a tree.
    pub parses: u64,
    /// Bytes of source that these parsed.
    pub parsed_bytes: u64,
    /// Time that these took in the worker, copying and checking included, waiting excluded.
    pub parse_time: Duration,
    /// Parses that ran into their deadline.
    pub deadline_hits: u64,
    /// Parses that needed more memory than the sandbox may have.
    pub memory_hits: u64,
    /// Parses refused or ended by another limit: size, depth, nodes.
    pub other_limit_hits: u64,
    /// Parses in which the guest trapped.
    pub traps: u64,
    /// Parses in which the guest answered something that does not check.
    pub misbehaviours: u64,
    /// Parses that ended in any other error, a shutdown among them.
    pub other_failures: u64,
    /// How often the module was compiled.
    pub compiles: u64,
    /// How long that took.
    pub compile_time: Duration,
    /// Instances brought to life.
    pub instances_created: u64,
    /// Instances thrown away after a failure.
    pub instances_discarded: u64,
    /// Instances thrown away because their memory had grown past the watermark.
    pub instances_recycled: u64,
}

/// The counters behind [`LanguageStats`]. All relaxed: they order nothing.
#[derive(Debug, Default)]
pub(super) struct Counters {
    parses: AtomicU64,
    parsed_bytes: AtomicU64,
    parse_ns: AtomicU64,
    deadline_hits: AtomicU64,
    memory_hits: AtomicU64,
    other_limit_hits: AtomicU64,
    traps: AtomicU64,
    misbehaviours: AtomicU64,
    other_failures: AtomicU64,
    compiles: AtomicU64,
    compile_ns: AtomicU64,
    instances_created: AtomicU64,
    instances_discarded: AtomicU64,
    instances_recycled: AtomicU64,
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Counters {
    pub(super) fn parsed(&self, bytes: usize, took: Duration) {
        add(&self.parses, 1);
        add(&self.parsed_bytes, bytes as u64);
        add(&self.parse_ns, nanos(took));
    }

    pub(super) fn failed(&self, error: &AstError) {
        let counter = match error.kind() {
            AstErrorKind::DeadlineExceeded => &self.deadline_hits,
            AstErrorKind::MemoryExceeded => &self.memory_hits,
            AstErrorKind::SourceTooLarge | AstErrorKind::TooDeep | AstErrorKind::OutputTooLarge => {
                &self.other_limit_hits
            }
            AstErrorKind::GuestTrapped => &self.traps,
            AstErrorKind::GuestMisbehaved => &self.misbehaviours,
            _ => &self.other_failures,
        };
        add(counter, 1);
    }

    pub(super) fn compiled(&self, took: Duration) {
        add(&self.compiles, 1);
        add(&self.compile_ns, nanos(took));
    }

    pub(super) fn instance_created(&self) {
        add(&self.instances_created, 1);
    }

    pub(super) fn instance_discarded(&self) {
        add(&self.instances_discarded, 1);
    }

    pub(super) fn instance_recycled(&self) {
        add(&self.instances_recycled, 1);
    }

    pub(super) fn read(&self, language: Language) -> LanguageStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LanguageStats {
            language,
            parses: get(&self.parses),
            parsed_bytes: get(&self.parsed_bytes),
            parse_time: Duration::from_nanos(get(&self.parse_ns)),
            deadline_hits: get(&self.deadline_hits),
            memory_hits: get(&self.memory_hits),
            other_limit_hits: get(&self.other_limit_hits),
            traps: get(&self.traps),
            misbehaviours: get(&self.misbehaviours),
            other_failures: get(&self.other_failures),
            compiles: get(&self.compiles),
            compile_time: Duration::from_nanos(get(&self.compile_ns)),
            instances_created: get(&self.instances_created),
            instances_discarded: get(&self.instances_discarded),
            instances_recycled: get(&self.instances_recycled),
        }
    }
}
