//! One run: open the index, put the coordinator together, both phases, the summary.

use crate::agents::{Crew, IndexRepo, Timings, spawn};
use crate::args::{Options, UsageError};
use crate::classify::Taste;
use crate::meters::Meters;
use crate::model::{Answer, Failure, Job};
use crate::phase_one::{Indexed, PhaseOne};
use crate::place;
use crate::store::Store;
use crate::summary::{AgentCounts, CacheCounts, EventCounts, SnapshotFigures, Summary, TaskCounts};
use crate::{phase_two, report::Report};
use phalanx::Error;
use phalanx::ast::{AstEngine, Language, Limits, SyntaxTree};
use phalanx::cache::Cache;
use phalanx::coordinator::Coordinator;
use phalanx::fleet::{Fleet, Task};
use phalanx::state::{Abort, Transaction};
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};
use std::{fmt, thread};

/// Memory for trees, in bytes.
const CACHE_BYTES: u64 = 512 << 20;

/// Tasks that wait for an agent at most.
const QUEUE: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// Failed files that the summary for people names.
const FAILURES_NAMED_MAX: usize = 8;

/// How long a parse may take. The largest source that is taken needs a fraction of a second; the rest is for
/// machines that are busy with something else, so that load does not decide what becomes of a file.
const PARSE_DEADLINE: Duration = Duration::from_secs(20);

/// How long the last handlers may take once all work is done.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(60);

/// Why a run ended without a result.
#[derive(Debug)]
pub enum RunError {
    /// What was asked for makes no sense.
    Usage(UsageError),
    /// It could not be carried out.
    Failed(String),
}

impl From<UsageError> for RunError {
    fn from(error: UsageError) -> Self {
        Self::Usage(error)
    }
}

impl From<Error> for RunError {
    fn from(error: Error) -> Self {
        Self::Failed(chain(&error))
    }
}

/// Indexes the tree with this engine, and shows and writes what the options ask for.
pub fn run(options: &Options, engine: Arc<dyn AstEngine>) -> Result<Summary, RunError> {
    let start = Instant::now();
    let folder = place::state_folder(options)?;
    let (store, emptied) = Store::open(&folder, engine.languages()).map_err(|error| {
        RunError::Failed(format!(
            "cannot open the index in {}: {}",
            folder.display(),
            chain(&error)
        ))
    })?;
    let mut notes = Vec::new();
    if emptied {
        notes.push("the index was made by other grammars, and was made anew".to_owned());
    }

    let coordinator = coordinator(&store, Arc::clone(&engine))?;
    let crew = Arc::new(crew(options, engine, &coordinator));
    let meters = Meters::start(coordinator.bus(), options.quiet)?;
    spawn(&coordinator, &crew, options.agents.get())?;

    let phase_one = PhaseOne {
        coordinator: &coordinator,
        crew: &crew,
        store: &store,
        print_acks: options.print_acks,
    };
    let worked =
        phase_one.run().and_then(|indexed| Ok((indexed, phase_two::run(&coordinator, &store)?)));
    // Whatever came of the work: the fleet is stopped, the state flushed, the bus closed.
    let stopped = coordinator.shutdown(SHUTDOWN_PATIENCE);
    let allocation = meters.finish();
    let (indexed, resolved) = worked?;
    let stopped = stopped?;
    if !stopped.drain.is_complete() {
        let left = stopped.drain.unfinished.len();
        return Err(RunError::Failed(format!("{left} tasks did not end")));
    }

    let mut summary = Summary { allocation_ns: allocation, ..Summary::default() };
    name_failures(&indexed.entries.failed, &mut notes);
    measure(&mut summary, &coordinator, &crew, indexed);
    describe(&mut summary, &store)?;
    let elapsed = start.elapsed();
    summary.elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    summary.events.per_second = summary.events.published as f64 / elapsed.as_secs_f64();

    for (path, failure) in &resolved.failed {
        notes.push(format!("the references of {path} could not be made: {failure}"));
    }
    if summary.agents.killed < options.kill as u64 {
        let (killed, kill) = (summary.agents.killed, options.kill);
        notes.push(format!("{killed} of {kill} agents were struck: there was no work for more"));
    }
    show(options, &summary, &notes)?;
    if summary.files.balance() {
        Ok(summary)
    } else {
        Err(RunError::Failed(format!("files are not accounted for: {:?}", summary.files)))
    }
}

/// One of each part, wired: what an agent finds is committed with the outcome of its task.
fn coordinator(store: &Store, engine: Arc<dyn AstEngine>) -> Result<Coordinator<IndexRepo>, Error> {
    let (files, references) = (store.files().clone(), store.references().clone());
    let commit = move |task: &Task<Job>, answer: &Answer, tx: &mut Transaction| {
        let path = task.payload().path().to_owned();
        match (task.payload(), answer) {
            (Job::Index { .. }, Answer::Indexed(entry)) => tx.insert(&files, path, entry.clone()),
            (Job::Resolve { .. }, Answer::Resolved(found)) => {
                tx.insert(&references, path, found.clone());
            }
            _ => return Err(Abort::new("the answer is to another question")),
        }
        Ok(())
    };
    let cache = Cache::builder()
        .capacity_weight(CACHE_BYTES)
        .weigher(|_, tree: &Arc<SyntaxTree>| tree.weight_bytes() as u64)
        .build()?;
    // As many as parse at once: more would only wait for each other.
    let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Coordinator::builder()
        .fleet(Fleet::builder().workers(workers).queue_capacity(QUEUE))
        .cache(cache)
        .state(store.state().clone())
        .engine(engine)
        .effects(commit)
        .durable_tasks()
        .build()
}

fn crew(
    options: &Options,
    engine: Arc<dyn AstEngine>,
    coordinator: &Coordinator<IndexRepo>,
) -> Crew {
    let limits = Limits::default().deadline(PARSE_DEADLINE);
    let languages: BTreeSet<Language> =
        engine.languages().iter().map(|info| info.language()).collect();
    Crew {
        root: options.root.clone(),
        taste: Taste {
            languages: languages.clone(),
            bytes_max: limits.source_bytes_limit().into(),
        },
        engine,
        limits,
        cache: coordinator.cache().clone(),
        fleet: coordinator.fleet().downgrade(),
        strikes_left: AtomicUsize::new(options.kill),
        parse_times: Timings::default(),
        awake: languages.into_iter().map(|language| (language, Once::new())).collect(),
    }
}

/// Which files failed: the first few by name, the others as a count.
fn name_failures(failed: &[(String, Failure)], notes: &mut Vec<String>) {
    let (named, others) = failed.split_at(failed.len().min(FAILURES_NAMED_MAX));
    notes.extend(named.iter().map(|(path, failure)| format!("{path} failed: {failure}")));
    if !others.is_empty() {
        notes.push(format!("{} more files failed", others.len()));
    }
}

/// What this run did.
fn measure(
    summary: &mut Summary,
    coordinator: &Coordinator<IndexRepo>,
    crew: &Crew,
    indexed: Indexed,
) {
    let fleet = coordinator.fleet().stats();
    summary.files = indexed.entries.files;
    summary.tasks = TaskCounts {
        accepted: fleet.tasks_accepted + indexed.cancelled,
        completed: fleet.tasks_completed,
        failed: fleet.tasks_failed,
        returned: fleet.tasks_returned,
        cancelled: fleet.tasks_cancelled + indexed.cancelled,
        rerun: fleet.reruns,
        late_completions_refused: fleet.late_completions_refused,
    };
    summary.agents = AgentCounts { spawned: fleet.agents_spawned, killed: fleet.agents_killed };
    let bus = coordinator.bus().stats();
    summary.events = EventCounts {
        published: bus.published,
        delivered: bus.delivered,
        dropped: bus.lagged,
        per_second: 0.0,
    };
    let cache = coordinator.cache().stats();
    summary.cache = CacheCounts { hits: cache.hits, misses: cache.misses, bytes: cache.weight };
    summary.parse_us = crew.parse_times.percentiles();
}

/// What the index holds now.
fn describe(summary: &mut Summary, store: &Store) -> Result<(), Error> {
    let start = Instant::now();
    let snapshot = store.state().snapshot();
    let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    store.describe(&snapshot, summary);
    summary.snapshot = Some(SnapshotFigures {
        version: snapshot.version().as_u64(),
        bytes: snapshot.encoded_size_bytes()?,
        ns,
    });
    Ok(())
}

fn show(options: &Options, summary: &Summary, notes: &[String]) -> Result<(), RunError> {
    if !options.quiet {
        let report = Report { summary, root: &options.root, kill: options.kill, notes };
        // Who closed our stdout does not want to read it.
        let _ = std::io::Write::write_all(&mut std::io::stdout(), report.to_string().as_bytes());
    }
    match &options.json {
        Some(file) => write_json(file, summary),
        None => Ok(()),
    }
}

fn write_json(file: &Path, summary: &Summary) -> Result<(), RunError> {
    let mut text = serde_json::to_string_pretty(summary).expect("the summary has a JSON form");
    text.push('\n');
    std::fs::write(file, text)
        .map_err(|error| RunError::Failed(format!("cannot write {}: {error}", file.display())))
}

/// An error with all that caused it, each said once: some messages end in what their source says.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            let _ = fmt::Write::write_fmt(&mut text, format_args!(": {cause}"));
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
