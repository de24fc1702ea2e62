//! From files to tasks: submitted in batches, followed by the clerk.
//!
//! 1. What is under way is bounded by the fleet's queue and the clerk's desk; whoever finds them full waits.
//! 2. A task is accepted durably before it runs; a batch costs one sync.

use crate::agents::{IndexRepo, capability};
use crate::clerk::{self, Followed, Verdict};
use crate::model::{Answer, Failure, Job};
use phalanx::coordinator::Coordinator;
use phalanx::fleet::{Fleet, SubmitError, Task, TaskHandle};
use phalanx::state::Version;
use phalanx::{Error, ErrorKind};
use std::panic::resume_unwind;
use std::sync::mpsc::SyncSender;
use std::thread;

/// Tasks accepted with one sync.
const BATCH: usize = 64;

/// Takes tasks, and sees that they are submitted and followed.
pub struct Dispatcher<'a> {
    fleet: &'a Fleet<Job, Answer>,
    desk: SyncSender<Followed<Job>>,
    batch: Vec<Task<Job>>,
}

/// The task of a job: for an agent that speaks its language.
pub fn task(job: Job) -> Task<Job> {
    let language = capability(job.language());
    Task::new(job).capability(language)
}

/// Runs `feed`, which finds the tasks, beside the clerk, who tells how each of them ended.
pub fn dispatch<R>(
    coordinator: &Coordinator<IndexRepo>,
    tell: impl FnMut(Job, Verdict) -> Result<(), Error> + Send,
    feed: impl FnOnce(&mut Dispatcher<'_>) -> Result<R, Error>,
) -> Result<R, Error> {
    thread::scope(|scope| {
        let (desk, incoming) = clerk::desk();
        let state = coordinator.state();
        let clerk = scope.spawn(move || clerk::follow(&incoming, state, tell));
        let mut dispatcher =
            Dispatcher { fleet: coordinator.fleet(), desk, batch: Vec::with_capacity(BATCH) };
        let fed = feed(&mut dispatcher).and_then(|fed| dispatcher.flush().map(|()| fed));
        // Without the dispatcher nobody hands over anything, and the clerk comes to an end.
        drop(dispatcher);
        clerk.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        fed
    })
}

impl Dispatcher<'_> {
    /// Takes a task; submits those so far if they make a batch.
    pub fn push(&mut self, task: Task<Job>) -> Result<(), Error> {
        self.batch.push(task);
        if self.batch.len() < BATCH { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let tasks = std::mem::take(&mut self.batch);
        let jobs: Vec<Job> = tasks.iter().map(|task| task.payload().clone()).collect();
        let handles = submit(self.fleet, tasks)?;
        for (about, handle) in jobs.into_iter().zip(handles) {
            let gone = |_| Error::new(ErrorKind::Closed, "the clerk left early");
            self.desk.send(Followed { about, handle }).map_err(gone)?;
        }
        Ok(())
    }
}

/// Runs one job with nothing else running, to its durable end.
pub fn run_alone(coordinator: &Coordinator<IndexRepo>, job: Job) -> Result<Verdict, Error> {
    let handles = submit(coordinator.fleet(), vec![task(job)])?;
    let Some(handle) = handles.first() else { return Ok(Err(Failure::Agent)) };
    let verdict = clerk::verdict(handle);
    if let Some(position) = handle.log_position() {
        coordinator.state().wait_durable(Version::from_u64(position.0))?;
    }
    Ok(verdict)
}

fn submit(
    fleet: &Fleet<Job, Answer>,
    tasks: Vec<Task<Job>>,
) -> Result<Vec<TaskHandle<Answer>>, Error> {
    fleet.submit_batch_wait(tasks).map_err(|refused| match refused {
        SubmitError::NotRecorded { error, .. } => error,
        refused => Error::new(ErrorKind::Internal, format!("the fleet took no tasks: {refused}")),
    })
}
