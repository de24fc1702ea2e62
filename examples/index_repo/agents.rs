//! The agents: what they are asked, how they answer, and how `--kill` strikes them.
//!
//! Every agent speaks every language that the engine parses, as one capability each, and a task asks for
//! that of its file. So a tree that is all one language can use all of them, and as long as one is alive
//! no language is without.
//!
//! 1. An agent changes nothing: what it found is committed by the coordinator, for the attempt that won.
//! 2. A strike falls between the parse and the commit, on an agent that holds a lease.

use crate::classify::{Kind, Taste, classify};
use crate::extract;
use crate::ledger::Fate;
use crate::model::{Answer, Failure, Job};
use crate::summary::ParseTimes;
use hdrhistogram::Histogram;
use phalanx::ast::{AstEngine, ContentHash, Language, Limits, Source, SyntaxTree};
use phalanx::cache::{Cache, LoadError};
use phalanx::coordinator::{Coordinator, Domain};
use phalanx::fleet::{AgentSpec, Task, TaskContext, WeakFleet};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// So often may one task lose its agent to `--kill`: a small tree can still use up many strikes, and no
/// task is put off for ever.
const STRIKES_A_TASK_MAX: u32 = 3;

/// The types of this host.
pub enum IndexRepo {}

impl Domain for IndexRepo {
    type Task = Job;
    type Output = Answer;
    type Event = Step;
    type Key = ContentHash;
    type Value = Arc<SyntaxTree>;
}

/// What this host tells on the bus, beside what its fleet tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The walk has yielded so many files.
    Seen(u64),
    /// Phase one has said the last word on a file, and so on so many.
    Settled {
        /// Which file.
        path: Arc<str>,
        /// What became of it.
        fate: Fate,
        /// How many that makes.
        settled: u64,
    },
    /// The walk is done, and so many files it was.
    Walked(u64),
    /// Phase two begins, over so many files.
    Resolving(u64),
    /// Phase two has seen to a file, and so to so many.
    Resolved {
        /// Which file.
        path: Arc<str>,
        /// How many that makes.
        settled: u64,
    },
}

/// The capability that a task about a file of this language asks for.
pub fn capability(language: Language) -> String {
    format!("language:{language}")
}

/// What all agents share.
#[derive(Debug)]
pub struct Crew {
    /// The tree.
    pub root: PathBuf,
    /// What the engine takes.
    pub taste: Taste,
    /// What parses.
    pub engine: Arc<dyn AstEngine>,
    /// What a parse may cost.
    pub limits: Limits,
    /// Trees by content.
    pub cache: Cache<ContentHash, Arc<SyntaxTree>>,
    /// The fleet, for whoever has to be struck.
    pub fleet: WeakFleet<Job, Answer>,
    /// Agents that are still to be struck.
    pub strikes_left: AtomicUsize,
    /// How long the parses took.
    pub parse_times: Timings,
    /// Which languages were parsed before.
    pub awake: BTreeMap<Language, Once>,
}

/// Spawns the agents.
pub fn spawn(
    coordinator: &Coordinator<IndexRepo>,
    crew: &Arc<Crew>,
    count: usize,
) -> Result<(), phalanx::Error> {
    let mut spec = AgentSpec::new("indexer");
    for &language in &crew.taste.languages {
        spec = spec.capability(capability(language));
    }
    let crew = Arc::clone(crew);
    let spec = spec.handler_fn(move |task: &Task<Job>, cx: &mut TaskContext<'_>| {
        crew.handle(task.payload(), cx).map_err(Failure::into_task_error)
    });
    coordinator.fleet().spawn_batch(&spec, count)?;
    Ok(())
}

impl Crew {
    fn handle(&self, job: &Job, cx: &TaskContext<'_>) -> Result<Answer, Failure> {
        match job {
            Job::Index { content, .. } => {
                let tree = self.tree(job)?;
                // Struck here, an attempt goes on all the same and tries to complete; the fleet refuses it.
                self.strike(cx);
                let entry = extract::entry(*content, &tree);
                Ok(Answer::Indexed(entry.map_err(|error| Failure::of_parse(error.kind()))?))
            }
            Job::Resolve { inputs, bindings, .. } => {
                let tree = self.tree(job)?;
                let references = extract::references(*inputs, bindings.clone(), &tree);
                Ok(Answer::Resolved(references.map_err(|error| Failure::of_parse(error.kind()))?))
            }
        }
    }

    /// The tree of the file, from the cache or else from its bytes.
    fn tree(&self, job: &Job) -> Result<Arc<SyntaxTree>, Failure> {
        self.cache.get_or_load(&job.content(), || self.load(job)).map_err(|error| match error {
            LoadError::Failed(failure) => failure,
            _ => Failure::Engine,
        })
    }

    fn load(&self, job: &Job) -> Result<Arc<SyntaxTree>, Failure> {
        let text = match classify(&self.root.join(job.path()), &self.taste) {
            Kind::Source { text, content, .. } if content == job.content() => text,
            Kind::Failed(failure) => return Err(failure),
            // Something else than when the walk came by; the next run will see what.
            Kind::Source { .. } | Kind::Skipped(_) => return Err(Failure::Changed),
        };
        self.wake(job.language());
        let source = Source::new(job.language(), &text).named(job.path());
        let start = Instant::now();
        let parsed = self.engine.parse(&source, &self.limits);
        self.parse_times.record(job.language(), start.elapsed());
        parsed.map_err(|error| Failure::of_parse(error.kind()))
    }

    /// Has the grammar compiled, if nobody did before: that is no part of how long a parse takes.
    fn wake(&self, language: Language) {
        if let Some(awake) = self.awake.get(&language) {
            // What is wrong with the grammar the first real source will tell as well.
            awake.call_once(|| drop(self.engine.parse(&Source::new(language, ""), &self.limits)));
        }
    }

    /// Kills the agent that runs this attempt, if there are strikes left.
    fn strike(&self, cx: &TaskContext<'_>) {
        if cx.attempt().get() > STRIKES_A_TASK_MAX || cx.is_revoked() {
            return;
        }
        let take = |left: usize| left.checked_sub(1);
        let taken = self.strikes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        if taken.is_ok()
            && let Some(fleet) = self.fleet.upgrade()
            && fleet.kill(cx.agent()).is_err()
        {
            // It was gone already: this strike is still to be made.
            self.strikes_left.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// How long parses took, by language.
#[derive(Debug, Default)]
pub struct Timings(Mutex<BTreeMap<Language, Histogram<u64>>>);

impl Timings {
    fn record(&self, language: Language, elapsed: Duration) {
        let mut timings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let histogram = timings.entry(language).or_insert_with(microseconds);
        histogram.saturating_record(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
    }

    /// The percentiles so far.
    pub fn percentiles(&self) -> BTreeMap<String, ParseTimes> {
        let timings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |(language, histogram): (&Language, &Histogram<u64>)| {
            let times = ParseTimes {
                count: histogram.len(),
                p50: histogram.value_at_quantile(0.50),
                p95: histogram.value_at_quantile(0.95),
                p99: histogram.value_at_quantile(0.99),
            };
            (language.to_string(), times)
        };
        timings.iter().map(row).collect()
    }
}

/// Up to an hour, to three digits.
fn microseconds() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are in order")
}
