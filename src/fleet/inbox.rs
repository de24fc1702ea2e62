//! The lock of the tasks, and the inbox by which plain tasks come in without it.
//!
//! A plain task asks for nothing, and nothing is to be told of it: so all there is to its acceptance is that
//! there is room, that an agent could run it, and an id. Workers hold the lock of the tasks about as long as they
//! do not run handlers; a submitter that wanted it for each task would meet them there each time. Rules:
//!
//! 1. Credit is room in the queue and ids that are the inbox's alone: while it has any, nobody else fills that room
//!    or gives those ids. It is given and withdrawn under both locks, that of the tasks first.
//! 2. There is no credit while somebody waits for room, and none once the fleet drains or stops, nor where there is a
//!    log, an observer or a budget. So who comes to the inbox overtakes nobody, and nothing is accepted too late.
//! 3. Whoever takes the lock of the tasks takes in what came before, so that to all who look it is queued; a
//!    worker that has other tasks to run may leave it for later.
//! 4. Whoever puts a task into an empty inbox has the queue of tasks lined up after that. A worker that took the
//!    queue out of the line empties the inbox under its lock, whatever it has heard.
//! 5. The era changes whenever an agent was retired, while there is no credit. So a task comes in only if no
//!    agent was retired since one was found that could run it. That may have been for another plain task, as they
//!    all ask for the same, if none has left since.

use std::sync::Weak;

use crossbeam::utils::CachePadded;

use super::carried::Carried;
use super::handle::{Cancels, OutcomeCell, TaskHandle};
use super::id::{Attempt, TaskId};
use super::inner::{Inner, Phase, Record, State};
use super::lanes::Place;
use super::pool::RUNS_TASKS;
use super::request::Priority;
use super::task::Task;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Brief, Mutex, MutexGuard, Shared, left_out, prefetch_write};

#[cfg(all(test, phalanx_loom))]
mod loom_tests;

/// See the file's head.
pub(super) struct Tasks<T, O> {
    state: Mutex<State<T, O>>,
    inbox: CachePadded<Inbox<T, O>>,
    /// Rule 5.
    era: AtomicU64,
    /// One more than how many agents had left when one was found that could run plain tasks.
    known: AtomicU64,
}

struct Inbox<T, O> {
    arrivals: Brief<Arrivals<T, O>>,
    /// Whether something lies there: a hint.
    some: AtomicBool,
}

struct Arrivals<T, O> {
    tasks: Accepted<T, O>,
    credit: usize,
    /// The next id that the credit is good for.
    next: u64,
    /// References to the fleet that no task has, for those to come.
    links: Vec<Weak<dyn Cancels>>,
}

/// Accepted tasks, whose ids follow one another. Side by side, so that what is put in comes from registers.
struct Accepted<T, O> {
    tasks: Vec<Carried<T>>,
    cells: Vec<Shared<OutcomeCell<O>>>,
}

impl<T, O> Accepted<T, O> {
    const fn none() -> Self {
        Self { tasks: Vec::new(), cells: Vec::new() }
    }

    const fn len(&self) -> usize {
        self.tasks.len()
    }

    #[inline(always)]
    fn push(&mut self, task: Carried<T>, cell: Shared<OutcomeCell<O>>) {
        self.tasks.push(task);
        self.cells.push(cell);
    }
}

/// The state's part of the inbox.
pub(super) struct Lent<T, O> {
    /// The credit that the inbox has, and the tasks in it.
    room: usize,
    /// Room for the tasks that come next.
    spare: Accepted<T, O>,
    /// References to the fleet that tasks had which have ended.
    links: Vec<Weak<dyn Cancels>>,
}

/// How many references to the fleet are kept at each end.
const LINKS: usize = 256;

impl<T, O> Lent<T, O> {
    pub(super) const fn nothing() -> Self {
        Self { room: 0, spare: Accepted::none(), links: Vec::new() }
    }

    /// Keeps what a task knew its fleet by for the next ones.
    pub(super) fn keep(&mut self, link: Option<Weak<dyn Cancels>>) {
        if self.links.len() < LINKS {
            self.links.extend(link);
        }
    }

    /// The room in the queue that is the inbox's.
    pub(super) const fn room(&self) -> usize {
        self.room
    }
}

impl<T, O> Tasks<T, O> {
    pub(super) fn new(state: State<T, O>) -> Self {
        let arrivals = Arrivals { tasks: Accepted::none(), credit: 0, next: 0, links: Vec::new() };
        let inbox = Inbox { arrivals: Brief::new(arrivals), some: AtomicBool::new(false) };
        let inbox = CachePadded::new(inbox);
        Self { state: Mutex::new(state), inbox, era: AtomicU64::new(0), known: AtomicU64::new(0) }
    }

    /// Takes the lock, and what came in (rule 3).
    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, State<T, O>> {
        let mut state = self.state.lock();
        // Relaxed: who knows of an acceptance knows of this, and of each one that its worker is to find it is
        // told by the line.
        if self.inbox.some.load(Ordering::Relaxed) {
            self.take_in(&mut state);
        }
        state
    }

    /// As [`lock`](Self::lock), for a worker that has the queue of tasks to look at (rule 4).
    pub(super) fn lock_to_look(&self) -> MutexGuard<'_, State<T, O>> {
        let mut state = self.state.lock();
        self.take_in(&mut state);
        state
    }

    /// Takes the lock and leaves the inbox for later; only for a worker that says how an attempt ended.
    pub(super) fn lock_for_attempt(&self) -> MutexGuard<'_, State<T, O>> {
        self.state.lock()
    }

    /// Whether something came that the state does not know of, for all that is known here.
    pub(super) fn has_arrivals(&self) -> bool {
        self.inbox.some.load(Ordering::Relaxed)
    }

    /// Takes in what came.
    pub(super) fn take_in(&self, state: &mut State<T, O>) {
        let mut tasks = std::mem::replace(&mut state.lent.spare, Accepted::none());
        let next = {
            let mut arrivals = self.inbox.arrivals.lock();
            std::mem::swap(&mut arrivals.tasks, &mut tasks);
            if arrivals.links.is_empty() {
                std::mem::swap(&mut arrivals.links, &mut state.lent.links);
            }
            self.inbox.some.store(false, Ordering::Relaxed);
            arrivals.next
        };
        self.queue(state, tasks, next);
    }

    /// Queues tasks, the last of which has the id before this one.
    fn queue(&self, state: &mut State<T, O>, mut accepted: Accepted<T, O>, next: u64) {
        let count = accepted.len() as u64;
        state.lent.room -= accepted.len();
        state.counts.tasks_accepted += count;
        // The submitter's processor has them. They are fetched while the first are run.
        for (task, cell) in accepted.tasks.iter().zip(&accepted.cells) {
            prefetch((&raw const **task).cast());
            prefetch(cell.as_ptr().cast());
        }
        let (first, sequence) = (next - count, state.sequence);
        state.sequence += count;
        let id = |number: usize| TaskId::new(first + number as u64);
        let place = |number: usize| Place::new(Priority::NORMAL, sequence + number as u64);
        let entries = (0..accepted.len()).map(|number| (place(number), id(number)));
        state.queue.extend(RUNS_TASKS.into(), entries);
        let tasks = accepted.tasks.drain(..).zip(accepted.cells.drain(..));
        for (number, (task, cell)) in tasks.enumerate() {
            let record = Record {
                task,
                cell,
                mask: RUNS_TASKS,
                place: place(number),
                attempt: Attempt::NONE,
                attempts_lost: 0,
                deadline: None,
                cancelled: false,
                phase: Phase::Queued,
            };
            state.tasks.insert(id(number), record);
        }
        state.lent.spare = accepted;
    }

    /// Takes in what came and all credit back (rule 1).
    pub(super) fn withdraw(&self, state: &mut State<T, O>) {
        if state.lent.room == 0 {
            return;
        }
        let mut tasks = std::mem::replace(&mut state.lent.spare, Accepted::none());
        let (credit, next) = {
            let mut arrivals = self.inbox.arrivals.lock();
            std::mem::swap(&mut arrivals.tasks, &mut tasks);
            self.inbox.some.store(false, Ordering::Relaxed);
            (std::mem::take(&mut arrivals.credit), arrivals.next)
        };
        self.queue(state, tasks, next);
        state.lent.room -= credit;
        debug_assert_eq!(state.lent.room, 0, "rule 1");
        state.next_task = Some(next);
    }

    /// An agent was retired, after all credit was withdrawn (rule 5).
    pub(super) fn begin_era(&self) {
        // Ordering: Release, pairs with the Acquire of `submit_plain`: who sees the new era looks for an agent
        // after this one was taken out.
        if !left_out("inbox.begin-era") {
            self.era.fetch_add(1, Ordering::Release);
        }
    }
}

/// Fetches what a reference points to, with its counts: a line and a bit.
fn prefetch(address: *const u8) {
    prefetch_write(address.wrapping_sub(16));
    prefetch_write(address.wrapping_add(48));
}

impl<T, O> Inner<T, O> {
    /// Gives the inbox the room that there is, if it has none and may have some (rule 2).
    pub(super) fn lend(&self, state: &mut State<T, O>) {
        let open = !state.draining && !state.stopping && state.room_is_free();
        let charged = self.pool.budgets().is_some();
        if state.lent.room > 0 || !open || self.log.is_some() || self.observer.is_some() || charged
        {
            return;
        }
        let Some(next) = state.next_task else { return };
        // The last id is left to those who come by the lock.
        let ids = usize::try_from(u64::MAX - next).unwrap_or(usize::MAX);
        let credit = state.room(self.queue_capacity).min(ids);
        if credit == 0 {
            return;
        }
        state.lent.room = credit;
        // What is not used of them comes back with the credit.
        state.next_task = Some(next + credit as u64);
        let mut arrivals = self.state.inbox.arrivals.lock();
        arrivals.credit = credit;
        arrivals.next = next;
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Inner<T, O> {
    /// Accepts a plain task, or hands it back to come in by the lock.
    pub(super) fn submit_plain(&self, mut task: Task<T>) -> Result<TaskHandle<O>, Task<T>> {
        // Ordering: Acquire, pairs with the Release of `begin_era`.
        let era = self.state.era.load(Ordering::Acquire);
        // Relaxed: whoever has seen an era has seen who was retired before it, and whoever knows of a kill sees it.
        let left = self.pool.left();
        if self.state.known.load(Ordering::Relaxed) != left + 1 {
            if self.pool.task_mask(task.request()) != Some(RUNS_TASKS) {
                return Err(task);
            }
            self.state.known.store(left + 1, Ordering::Relaxed);
        }
        let inbox = &self.state.inbox;
        let (cell, first) = {
            let mut arrivals = inbox.arrivals.lock();
            // Relaxed: the lock shows each era that began before its credit was given.
            let same_era = self.state.era.load(Ordering::Relaxed) == era;
            if arrivals.credit == 0 || !same_era {
                return Err(task);
            }
            let id = TaskId::new(arrivals.next);
            task.id = Some(id);
            arrivals.next += 1;
            arrivals.credit -= 1;
            let link = arrivals.links.pop().unwrap_or_else(|| self.me.clone());
            let (cell, seen) = Shared::pair(OutcomeCell::new(id, self.clock.clone(), link));
            let first = arrivals.tasks.len() == 0;
            arrivals.tasks.push(self.carry(task), cell);
            if first {
                inbox.some.store(true, Ordering::Relaxed);
            }
            (seen, first)
        };
        if first && !left_out("inbox.line-up") {
            self.runner.tasks_are_ready();
        }
        Ok(TaskHandle::new(cell))
    }
}
