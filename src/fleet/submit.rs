//! How a task comes in: room is reserved, the log accepts, the task is queued.
//!
//! Rules that hold here:
//!
//! 1. What is refused is handed back whole; of a batch all is accepted or nothing.
//! 2. Budgets and the log are asked before the task is in the table, so a task that it refused was never accepted;
//!    from the moment it said yes, the task gets an outcome, even if the fleet was stopped meanwhile.
//! 3. Room goes to waiting submitters in the order in which they came; who does not wait does not
//!    overtake those who do.
//! 4. A worker waits for room only with a deadline: what it waits for may be made by workers alone.

use std::collections::HashSet;
use std::slice;
use std::task::Waker;

use super::dependencies::{Aliases, name_back, rename};
use super::handle::{OutcomeCell, TaskHandle};
use super::history::Known;
use super::id::{Attempt, TaskId};
use super::inner::{After, Inner, Phase, Record, State};
use super::lanes::{Mask, Place};
use super::log::FleetEvent;
use super::task::{Outcome, ReturnReason, SubmitError, Task};
use super::timers::Alarm;
use super::wakers::guarded;
use crate::clock::Timestamp;
use crate::sync::{Parker, Shared, left_out};
use crate::{Error, ErrorKind};

/// Whether a submitter waits for room, and how.
#[derive(Debug)]
pub(super) enum Patience<'a> {
    None,
    /// On its thread.
    Until(Option<Timestamp>),
    /// Not here: it comes again once its waker is called.
    Later(&'a mut Places, &'a Waker),
}

/// Where one stands in line that comes again.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Among those who wait for room.
    pub(super) room: Option<u64>,
    /// Among those who wait for progress: until it is known what becomes of its keys.
    pub(super) key: Option<u64>,
}

impl Patience<'_> {
    /// Whether one that was not let in is not refused, but waits.
    pub(super) fn waits(&self) -> bool {
        matches!(self, Self::Later(Places { room: Some(_), .. } | Places { key: Some(_), .. }, _))
    }
}

/// Why tasks do not come in.
pub(super) enum Refused {
    Error(SubmitError<()>),
    /// One with the same key came first.
    KeyTaken,
}

impl Refused {
    /// For tasks that have no keys.
    fn without_key(self) -> SubmitError<()> {
        match self {
            Self::Error(error) => error,
            Self::KeyTaken => unreachable!("no key, so none that is taken"),
        }
    }
}

impl From<SubmitError<()>> for Refused {
    fn from(error: SubmitError<()>) -> Self {
        Self::Error(error)
    }
}

impl<T, O> State<T, O> {
    /// Finds out whether these tasks may come in now, and if so holds their places and names them.
    fn reserve(
        &mut self,
        inner: &Inner<T, O>,
        tasks: &[Task<T>],
        aliases: &Aliases<O>,
        turn: Option<u64>,
    ) -> Result<Vec<(TaskId, Mask)>, Refused> {
        inner.state.withdraw(self);
        // Before all else: a task that is known needs no room and no agent.
        let keys = &self.ledger.keys;
        if tasks.iter().filter_map(Task::key).any(|key| keys.get(key).is_some()) {
            return Err(Refused::KeyTaken);
        }
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        if self.draining || self.stopping {
            return Err(SubmitError::Closed(()).into());
        }
        let mut own_ids = HashSet::new();
        let mut masks = Vec::with_capacity(tasks.len());
        for task in tasks {
            let mask = match task.agent() {
                Some(agent) => inner.takes_tasks(agent).then_some(0),
                None if task.lost_agent().is_some() => None,
                None => self.pool.task_mask(task.request()),
            };
            let Some(mask) = mask else {
                return Err(SubmitError::NoAgent(()).into());
            };
            masks.push(mask);
            if let Some(id) = task.id()
                && (self.tasks.contains_key(&id)
                    || self.reserved_ids.contains_key(&id)
                    || !own_ids.insert(id))
            {
                return Err(SubmitError::Duplicate(()).into());
            }
        }
        self.check_dependencies(tasks, aliases)?;
        let my_turn = self.room.first().is_none_or(|first| Some(first) == turn);
        if !my_turn || self.room(inner.queue_capacity) < tasks.len() {
            return Err(SubmitError::Full(()).into());
        }

        let mut next = self.next_task;
        if let Some(highest) = own_ids.iter().max() {
            next = next.and_then(|next| Some(next.max(highest.get().checked_add(1)?)));
        }
        let mut named = Vec::with_capacity(tasks.len());
        for (task, mask) in tasks.iter().zip(masks) {
            let id = match (task.id(), next) {
                (Some(id), _) => id,
                (None, Some(number)) => {
                    next = number.checked_add(1);
                    TaskId::new(number)
                }
                (None, None) => {
                    let error = Error::new(ErrorKind::LimitReached, "the task ids are used up");
                    return Err(SubmitError::NotRecorded { returned: (), error }.into());
                }
            };
            named.push((id, mask));
        }
        self.next_task = next;
        self.reserved += tasks.len();
        // Those that the fleet gave, too: a caller may come with one of them before its task is queued.
        let with_agents = named.iter().zip(tasks).map(|((id, _), task)| (*id, task.agent()));
        self.reserved_ids.extend(with_agents);
        for key in tasks.iter().filter_map(Task::key) {
            self.ledger.keys.set(key, Known::Pending);
        }
        for (task, (id, _)) in tasks.iter().zip(&named) {
            self.hold(*id, task, &named, aliases);
        }
        Ok(named)
    }

    /// Gives back what [`State::reserve`] held.
    fn unreserve(&mut self, named: &[(TaskId, Mask)]) {
        self.reserved -= named.len();
        for (id, _) in named {
            self.reserved_ids.remove(id);
        }
    }
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Inner<T, O> {
    pub(super) fn submit_one(
        &self,
        mut task: Task<T>,
        mut patience: Patience<'_>,
    ) -> Result<TaskHandle<O>, SubmitError<Task<T>>> {
        if task.id().is_none() && task.options.is_none() {
            match self.submit_plain(task) {
                Ok(handle) => return Ok(handle),
                Err(back) => task = back,
            }
        }
        if task.key().is_some() {
            return match self.submit_keyed(vec![task], patience) {
                Ok(mut handles) => Ok(handles.pop().expect("each task gets a handle")),
                Err(refused) => {
                    Err(refused.map(|mut tasks| tasks.pop().expect("it is handed back whole")))
                }
            };
        }
        let mut handle = None;
        let aliases = Aliases::new();
        match self
            .accept(slice::from_mut(&mut task), &aliases, &mut patience)
            .map_err(Refused::without_key)
        {
            Err(refused) => {
                self.count_refused(1, &patience);
                Err(refused.map(|()| task))
            }
            Ok(named) => {
                self.enqueue(std::iter::once(task), &named, |accepted| handle = Some(accepted));
                Ok(handle.expect("each task gets a handle"))
            }
        }
    }

    pub(super) fn submit_many(
        &self,
        mut tasks: Vec<Task<T>>,
        mut patience: Patience<'_>,
    ) -> Result<Vec<TaskHandle<O>>, SubmitError<Vec<Task<T>>>> {
        let mut handles = Vec::with_capacity(tasks.len());
        if tasks.is_empty() {
            return Ok(handles);
        }
        if tasks.iter().any(|task| task.key().is_some()) {
            return self.submit_keyed(tasks, patience);
        }
        let accepted = self.accept(&mut tasks, &Aliases::new(), &mut patience);
        match accepted.map_err(Refused::without_key) {
            Err(refused) => {
                self.count_refused(tasks.len(), &patience);
                Err(refused.map(|()| tasks))
            }
            Ok(named) => {
                self.enqueue(tasks, &named, |handle| handles.push(handle));
                Ok(handles)
            }
        }
    }

    /// Counts tasks that were not accepted, unless they wait.
    pub(super) fn count_refused(&self, tasks: usize, patience: &Patience<'_>) {
        if !patience.waits() {
            self.state.lock().counts.tasks_refused += tasks as u64;
        }
    }

    /// Reserves room, waiting for it if asked, and has the log accept.
    pub(super) fn accept(
        &self,
        tasks: &mut [Task<T>],
        aliases: &Aliases<O>,
        patience: &mut Patience<'_>,
    ) -> Result<Vec<(TaskId, Mask)>, Refused> {
        let named = match patience {
            Patience::None => self.state.lock().reserve(self, tasks, aliases, None)?,
            Patience::Until(deadline) => self.wait_for_room(tasks, aliases, *deadline)?,
            Patience::Later(places, waker) => {
                self.room_or_place(tasks, aliases, &mut places.room, waker, |_| true)?
            }
        };
        // After their keys are known: whoever comes with one of them is not refused for want of what this takes.
        match self.charge(tasks) {
            Ok(dues) if dues.is_empty() => {}
            Ok(dues) => self.state.lock().hold_dues(named.iter().map(|(id, _)| *id), dues),
            Err(error) => {
                self.take_back(tasks, &named);
                return Err(error.into());
            }
        }
        let accepted = match &self.log {
            None => Ok(()),
            // All of them are known already.
            Some(_) if tasks.is_empty() => Ok(()),
            Some(log) => {
                let renamed = rename(tasks, aliases, &named);
                let list: Vec<_> =
                    named.iter().zip(&*tasks).map(|((id, _), task)| (*id, task)).collect();
                let accepted = guarded(|| log.accept(&list)).unwrap_or_else(|what| {
                    Err(Error::new(ErrorKind::Internal, format!("the log panicked: {what}")))
                });
                if accepted.is_err() {
                    name_back(tasks, renamed);
                }
                accepted
            }
        };
        if let Err(error) = accepted {
            self.take_back(tasks, &named);
            return Err(SubmitError::NotRecorded { returned: (), error }.into());
        }
        for (id, _) in &named {
            self.notice(&FleetEvent::TaskAccepted { task: *id });
        }
        Ok(named)
    }

    /// Gives back what tasks hold that were not accepted after all.
    fn take_back(&self, tasks: &[Task<T>], named: &[(TaskId, Mask)]) {
        let mut wakes = Vec::new();
        {
            let mut state = self.state.lock();
            state.unreserve(named);
            for key in tasks.iter().filter_map(Task::key) {
                let pending = state.ledger.keys.withdraw(key);
                debug_assert!(matches!(pending, Some(Known::Pending)), "it was just reserved");
            }
            for (id, _) in named {
                state.settle_dues(*id, Attempt::NONE);
                state.ledger.graph.forget(*id);
            }
            state.wake_for_room(&mut wakes);
            state.progress.take_into(&mut wakes);
            state.end_streams_if_over(&mut wakes);
        }
        self.wake_all(wakes);
    }

    fn wait_for_room(
        &self,
        tasks: &[Task<T>],
        aliases: &Aliases<O>,
        deadline: Option<Timestamp>,
    ) -> Result<Vec<(TaskId, Mask)>, Refused> {
        let parker = Parker::new();
        let mut place = None;
        let mut late = false;
        loop {
            // Rule 4.
            let may_wait =
                |state: &State<T, O>| !late && (deadline.is_some() || !state.on_worker());
            match self.room_or_place(tasks, aliases, &mut place, &parker.waker(), may_wait) {
                Err(Refused::Error(SubmitError::Full(()))) if place.is_some() => {
                    late = !self.clock.park_until(&parker, deadline);
                }
                result => return result,
            }
        }
    }

    /// Gives up a place in the line for room.
    pub(super) fn leave_line(&self, place: &mut Option<u64>) {
        let Some(key) = place.take() else { return };
        let mut wakes = Vec::new();
        {
            let mut state = self.state.lock();
            state.room.remove(key);
            if !left_out("submission.leave-in-silence") {
                state.wake_for_room(&mut wakes);
            }
        }
        self.wake_all(wakes);
    }

    /// Reserves room if there is some and nobody else's turn is first; if not, and it may wait, it has a place in line
    /// then, and its waker is called once it is its turn. The waker is this crate's own.
    fn room_or_place(
        &self,
        tasks: &[Task<T>],
        aliases: &Aliases<O>,
        place: &mut Option<u64>,
        waker: &Waker,
        may_wait: impl FnOnce(&State<T, O>) -> bool,
    ) -> Result<Vec<(TaskId, Mask)>, Refused> {
        let mut wakes = Vec::new();
        let result = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let result = state.reserve(self, tasks, aliases, *place);
            let is_full = matches!(result, Err(Refused::Error(SubmitError::Full(()))));
            // What can never fit is refused at once, not waited for.
            if is_full && tasks.len() <= self.queue_capacity.get() && may_wait(state) {
                let key = *place.get_or_insert_with(|| state.room.key());
                state.room.register(key, waker.clone());
            } else {
                // Whoever leaves the line wakes the next, who may have room now.
                if let Some(key) = place.take() {
                    state.room.remove(key);
                }
                state.wake_for_room(&mut wakes);
            }
            result
        };
        self.wake_all(wakes);
        result
    }

    /// Queues tasks that the log has accepted.
    pub(super) fn enqueue(
        &self,
        tasks: impl IntoIterator<Item = Task<T>>,
        named: &[(TaskId, Mask)],
        mut hand_out: impl FnMut(TaskHandle<O>),
    ) {
        let mut records = Vec::with_capacity(named.len());
        let timed = |task: &Task<T>| task.options.as_ref().and_then(|options| options.timeout);
        for (mut task, (id, mask)) in tasks.into_iter().zip(named) {
            task.id = Some(*id);
            let priority = task.request().urgency();
            let cell = OutcomeCell::new(*id, self.clock.clone(), self.me.clone());
            let (cell, seen) = Shared::pair(cell);
            hand_out(TaskHandle::new(seen));
            let deadline = timed(&task).map(|timeout| self.clock.now() + timeout);
            let record = Record {
                task: self.carry(task),
                cell,
                mask: *mask,
                place: Place::new(priority, 0),
                attempt: Attempt::NONE,
                attempts_lost: 0,
                deadline,
                cancelled: false,
                phase: Phase::Queued,
            };
            records.push((*id, priority, record));
        }
        let mut after = After::new();
        let mut keyed = false;
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            state.unreserve(named);
            state.counts.tasks_accepted += records.len() as u64;
            for (id, priority, mut record) in records {
                record.place = Place::new(priority, state.sequence);
                state.sequence += 1;
                if let Some(deadline) = record.deadline {
                    state.timers.set(deadline, id, Alarm::Deadline);
                }
                if let Some(key) = record.task.key() {
                    state.ledger.keys.set(key, Known::Task(id, record.cell.clone()));
                    keyed = true;
                }
                state.ledger.witnesses.task_accepted(record.task.agent());
                state.tasks.insert(id, record);
                if state.stopping {
                    // Rule 2: the stop did not see this task in the queue, so it ends here.
                    let claim = state.claim(id, Outcome::Returned(ReturnReason::Shutdown));
                    after.claims.push(claim);
                } else {
                    state.queue_or_park(id, &mut after);
                }
            }
            self.lend(state);
            self.notify_workers(state);
            self.publish_alarm(state);
            if keyed {
                // Those who wait to learn of it.
                state.progress.take_into(&mut after.wakes);
            }
        }
        self.finish(after);
    }
}
