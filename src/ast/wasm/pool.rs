//! The worker threads, and the queue through which callers reach them.
//!
//! A wasmer store stays on the thread that made it, so each worker keeps its own sandboxes, one a
//! language, and a caller waits while a worker parses for it.
//!
//! Rules that hold here:
//!
//! 1. Every job that was accepted is answered exactly once: by the worker that took it, or, when it is
//!    dropped unanswered for whatever reason, by its own drop. No caller waits for ever.
//! 2. The queue holds so many jobs at most; a caller that finds it full waits for room and is counted.
//! 3. After a shutdown no job is accepted, those in the queue are answered with an error, those that run
//!    are told to stop, and every thread has ended when the shutdown returns.
//! 4. No lock is held while a guest runs. (A compilation holds the lock of its own language: that is what
//!    makes it happen once.)

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::ast::error::{AstError, AstErrorKind};
use crate::ast::grammar::Grammar;
use crate::ast::limits::Limits;
use crate::ast::tree::SyntaxTree;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, thread};
use crate::{Clock, Error, ErrorKind};

use super::decode::misbehaved;
use super::guests::Guest;
use super::sandbox::{CheckedModule, Sandbox};
use super::stats::{Counters, WasmStats};

pub(super) struct Config {
    pub(super) workers: NonZeroUsize,
    pub(super) queue_capacity: NonZeroUsize,
    pub(super) memory_limit_bytes: u64,
    pub(super) recycle_above_bytes: u64,
    pub(super) clock: Clock,
}

type Outcome = Result<Arc<SyntaxTree>, AstError>;

/// A parse on its way to a worker.
struct Job {
    /// The index of the guest.
    guest: usize,
    text: Arc<str>,
    limits: Limits,
    reply: Arc<Reply>,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.reply.answer(|| {
            Err(AstError::new(
                AstErrorKind::EngineClosed,
                "the engine was shut down before the parse was done",
            ))
        });
    }
}

/// Where the caller waits.
#[derive(Default)]
struct Reply {
    state: Mutex<ReplyState>,
    came: Condvar,
}

#[derive(Default)]
struct ReplyState {
    answered: bool,
    outcome: Option<Outcome>,
}

impl Reply {
    /// The first answer counts.
    fn answer(&self, outcome: impl FnOnce() -> Outcome) {
        let mut state = self.state.lock();
        if !std::mem::replace(&mut state.answered, true) {
            state.outcome = Some(outcome());
            self.came.notify_one();
        }
    }

    fn wait(&self) -> Outcome {
        let mut state = self.state.lock();
        loop {
            match state.outcome.take() {
                Some(outcome) => return outcome,
                None => self.came.wait(&mut state),
            }
        }
    }
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// A guest, and what all workers share of it once one of them has needed it.
struct Shelf {
    guest: Guest,
    loaded: Mutex<Option<Arc<Loaded>>>,
    counters: Counters,
}

struct Loaded {
    module: CheckedModule,
    grammar: Arc<Grammar>,
}

struct Shared {
    engine: wasmer::Engine,
    shelves: Vec<Shelf>,
    config: Config,
    queue: Mutex<Queue>,
    job_came: Condvar,
    room_came: Condvar,
    closing: Arc<AtomicBool>,
    queue_waits: AtomicU64,
    worker_panics: AtomicU64,
}

/// The workers. Dropping it shuts them down.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Pool {
    pub(super) fn start(
        engine: wasmer::Engine,
        guests: Vec<Guest>,
        config: Config,
    ) -> Result<Self, Error> {
        let workers = config.workers.get();
        let shelves = guests
            .into_iter()
            .map(|guest| Shelf { guest, loaded: Mutex::default(), counters: Counters::default() })
            .collect();
        let pool = Self {
            shared: Arc::new(Shared {
                engine,
                shelves,
                config,
                queue: Mutex::default(),
                job_came: Condvar::default(),
                room_came: Condvar::default(),
                closing: Arc::default(),
                queue_waits: AtomicU64::new(0),
                worker_panics: AtomicU64::new(0),
            }),
            threads: Mutex::default(),
        };
        for number in 0..workers {
            let shared = Arc::clone(&pool.shared);
            let thread = thread::Builder::new()
                .name(format!("phalanx-ast-{number}"))
                .spawn(move || work(&shared))
                .map_err(|error| {
                    // Dropping the pool ends the threads that did start.
                    Error::with_source(ErrorKind::Io, "could not start a parser thread", error)
                })?;
            pool.threads.lock().push(thread);
        }
        Ok(pool)
    }

    /// Parses on a worker; blocks until it is done.
    pub(super) fn parse(&self, guest: usize, text: &str, limits: &Limits) -> Outcome {
        let shared = &*self.shared;
        let counters = &shared.shelves[guest].counters;
        let reply = Arc::new(Reply::default());
        let job = Job { guest, text: text.into(), limits: *limits, reply: Arc::clone(&reply) };
        shared.submit(job);
        let outcome = reply.wait();
        if let Err(error) = &outcome {
            counters.failed(error);
        }
        outcome
    }

    pub(super) fn refused(&self, guest: usize, error: &AstError) {
        self.shared.shelves[guest].counters.failed(error);
    }

    /// Ends the workers (rule 3 of the file). Once it has returned to anybody, all of them have ended.
    pub(super) fn shut_down(&self) {
        let shared = &*self.shared;
        // Ordering: Relaxed; the flag only hurries running parses, the queue's lock does the rest.
        shared.closing.store(true, Ordering::Relaxed);
        let left = {
            let mut queue = shared.queue.lock();
            queue.closed = true;
            std::mem::take(&mut queue.jobs)
        };
        shared.job_came.notify_all();
        shared.room_came.notify_all();
        drop(left);
        let mut threads = self.threads.lock();
        for thread in threads.drain(..) {
            // A worker catches what panics under it; had it died all the same, there is nothing to do.
            let _ = thread.join();
        }
    }

    pub(super) fn stats(&self) -> WasmStats {
        let shared = &*self.shared;
        WasmStats {
            languages: shared
                .shelves
                .iter()
                .map(|shelf| shelf.counters.read(shelf.guest.language()))
                .collect(),
            queue_waits: shared.queue_waits.load(Ordering::Relaxed),
            worker_panics: shared.worker_panics.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl Shared {
    fn submit(&self, job: Job) {
        let mut queue = self.queue.lock();
        let mut waited = false;
        loop {
            if queue.closed {
                // Answers it, outside the lock.
                drop(queue);
                drop(job);
                return;
            }
            if queue.jobs.len() < self.config.queue_capacity.get() {
                break;
            }
            if !std::mem::replace(&mut waited, true) {
                self.queue_waits.fetch_add(1, Ordering::Relaxed);
            }
            self.room_came.wait(&mut queue);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.job_came.notify_one();
    }

    /// Waits for a job; `None` after a shutdown.
    fn take(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                self.room_came.notify_one();
                return Some(job);
            }
            self.job_came.wait(&mut queue);
        }
    }

    fn sandbox(&self, shelf: &Shelf, module: &CheckedModule) -> Result<Sandbox, AstError> {
        let config = &self.config;
        let sandbox = Sandbox::new(
            &self.engine,
            module,
            config.memory_limit_bytes,
            &config.clock,
            &self.closing,
        )?;
        shelf.counters.instance_created();
        Ok(sandbox)
    }

    /// The compiled module and the grammar, made by the first worker that asks while others wait.
    fn load(&self, shelf: &Shelf) -> Result<Arc<Loaded>, AstError> {
        let mut slot = shelf.loaded.lock();
        if let Some(loaded) = &*slot {
            return Ok(Arc::clone(loaded));
        }
        let started = self.config.clock.now();
        let module = CheckedModule::compile(&self.engine, &shelf.guest.module)?;
        shelf.counters.compiled(self.config.clock.now() - started);
        let grammar = self.sandbox(shelf, &module)?.grammar(shelf.guest.language())?;
        let loaded = Arc::new(Loaded { module, grammar: Arc::new(grammar) });
        *slot = Some(Arc::clone(&loaded));
        Ok(loaded)
    }
}

/// A sandbox of one worker.
struct Seat {
    loaded: Arc<Loaded>,
    sandbox: Sandbox,
}

fn work(shared: &Shared) {
    let mut seats: Vec<Option<Seat>> = shared.shelves.iter().map(|_| None).collect();
    while let Some(job) = shared.take() {
        let outcome = catch_unwind(AssertUnwindSafe(|| parse(shared, &mut seats, &job)));
        let outcome = outcome.unwrap_or_else(|_| {
            shared.worker_panics.fetch_add(1, Ordering::Relaxed);
            seats.iter_mut().for_each(|seat| *seat = None);
            Err(AstError::new(AstErrorKind::EngineFailed, "the engine panicked during the parse"))
        });
        job.reply.answer(|| outcome);
    }
}

fn parse(shared: &Shared, seats: &mut [Option<Seat>], job: &Job) -> Outcome {
    let shelf = &shared.shelves[job.guest];
    let slot = &mut seats[job.guest];
    let seat = match slot {
        Some(seat) => seat,
        None => {
            let loaded = shared.load(shelf)?;
            let sandbox = shared.sandbox(shelf, &loaded.module)?;
            slot.insert(Seat { loaded, sandbox })
        }
    };
    let clock = &shared.config.clock;
    let started = clock.now();
    let parsed = seat.sandbox.parse(&job.text, &job.limits).and_then(|records| {
        let grammar = Arc::clone(&seat.loaded.grammar);
        let tree = SyntaxTree::from_records(grammar, Arc::clone(&job.text), records, &job.limits);
        tree.map_err(|error| match error.kind() {
            AstErrorKind::InvalidTree => misbehaved(format_args!("wrote no tree: {error}")),
            _ => error,
        })
    });
    let spent = seat.sandbox.is_spent()
        || matches!(&parsed, Err(error) if error.kind() == AstErrorKind::GuestMisbehaved);
    if spent {
        shelf.counters.instance_discarded();
        *slot = None;
    } else if seat.sandbox.memory_bytes() > shared.config.recycle_above_bytes {
        shelf.counters.instance_recycled();
        *slot = None;
    }
    let tree = Arc::new(parsed?);
    shelf.counters.parsed(job.text.len(), clock.now() - started);
    Ok(tree)
}
