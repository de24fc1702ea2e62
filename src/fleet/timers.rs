//! What is due later: tasks that wait for their next attempt, and the deadlines of tasks.
//!
//! Rules that hold here:
//!
//! 1. There is an alarm for each task whose phase is delayed, at the end of its delay, and for each task
//!    that has a deadline and is not being settled. Whoever claims a task takes its alarms out.
//! 2. No thread keeps the time. One of the workers that sleep wakes for the first alarm, which is published to
//!    them whenever it changes. The alarms that are due ring before a worker takes a
//!    task, so no attempt begins after its deadline.
//!    The first lease of the host's that may expire is an alarm like those of tasks; it rings outside the lock, before a
//!    worker looks at the tasks.
//! 3. An attempt that comes back after its deadline has lost, whether the alarm has rung or not.

use std::collections::BTreeSet;

use super::id::TaskId;
use super::inner::{After, Inner, Phase, State};
use super::log::RequeueReason;
use super::runner::Seat;
use super::signal::Word;
use super::task::TaskError;
use crate::clock::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    Retry,
    Deadline,
}

/// The alarms, by time.
#[derive(Debug, Default)]
pub(super) struct Timers {
    alarms: BTreeSet<(Timestamp, TaskId, Alarm)>,
    /// The first of them, as the workers know it.
    published: Option<Timestamp>,
    delayed: usize,
}

impl Timers {
    pub(super) fn first(&self) -> Option<Timestamp> {
        self.alarms.first().map(|(at, ..)| *at)
    }

    /// How many tasks are delayed.
    pub(super) const fn delayed(&self) -> usize {
        self.delayed
    }

    pub(super) fn delayed_ids(&self) -> impl Iterator<Item = TaskId> {
        let retries = self.alarms.iter().filter(|(.., alarm)| *alarm == Alarm::Retry);
        retries.map(|(_, id, _)| *id)
    }

    pub(super) fn set(&mut self, at: Timestamp, task: TaskId, alarm: Alarm) {
        if self.alarms.insert((at, task, alarm)) {
            self.delayed += usize::from(alarm == Alarm::Retry);
        }
    }

    pub(super) fn remove(&mut self, at: Timestamp, task: TaskId, alarm: Alarm) {
        if self.alarms.remove(&(at, task, alarm)) {
            self.delayed -= usize::from(alarm == Alarm::Retry);
        }
    }

    fn pop_due(&mut self, now: Timestamp) -> Option<(TaskId, Alarm)> {
        let (at, task, alarm) = *self.alarms.first().filter(|(at, ..)| *at <= now)?;
        self.remove(at, task, alarm);
        Some((task, alarm))
    }
}

impl<T, O> State<T, O> {
    /// Puts a task whose attempt was lost aside until its backoff is over.
    pub(super) fn delay(&mut self, id: TaskId, until: Timestamp) {
        let record = self.tasks.get_mut(&id).expect("the caller found the task");
        record.phase = Phase::Delayed { until };
        self.timers.set(until, id, Alarm::Retry);
    }

    /// Does what is due of tasks.
    fn ring(&mut self, now: Timestamp, after: &mut After<T, O>) {
        while let Some((id, alarm)) = self.timers.pop_due(now) {
            match alarm {
                Alarm::Deadline => self.expire(id, after),
                Alarm::Retry => {
                    self.line_up(id, after);
                }
            }
        }
    }

    /// Ends a task that is past its deadline.
    fn expire(&mut self, id: TaskId, after: &mut After<T, O>) {
        let record = self.tasks.get_mut(&id).expect("rule 1");
        match &record.phase {
            Phase::Committing => return,
            // The claim takes its alarm out.
            Phase::Mailed | Phase::Delayed { .. } | Phase::Held => {}
            Phase::Queued => {
                let (sort, place) = (record.sort(&self.pool), record.place);
                self.queue.remove(sort, place).expect("rule 4 of the shared state");
            }
            Phase::Running { signal, .. } => {
                self.signals.of(signal).say(Word::Revoked, &mut after.wakes);
                self.leave_agent(id);
            }
        }
        self.leaves_a_stray(id, after);
        let claim = self.fail(id, TaskError::deadline_exceeded());
        after.claims.push(claim);
        self.wake_for_room(&mut after.wakes);
    }

    /// The tasks that are delayed.
    pub(super) fn delayed(&self) -> Vec<TaskId> {
        self.timers.delayed_ids().collect()
    }
}

impl<T, O> State<T, O> {
    /// When something is due next: of a task, of an agent or of a lease.
    pub(super) fn first_alarm(&self) -> Option<Timestamp> {
        let own = match (self.timers.first(), self.supervision.first_alarm()) {
            (Some(task), Some(agent)) => Some(task.min(agent)),
            (task, agent) => task.or(agent),
        };
        match self.pool.watch() {
            Some(lease) => Some(own.map_or(lease, |own| own.min(lease))),
            None => own,
        }
    }
}

impl<T, O> Inner<T, O> {
    /// Gives back the leases that have expired, if any may have. Outside the locks.
    #[inline]
    pub(super) fn look_for_expired(&self, seat: &mut Seat) {
        if self.pool.watch().is_some_and(|at| at <= self.clock.now()) {
            self.give_back_expired(seat);
        }
    }

    #[cold]
    fn give_back_expired(&self, seat: &mut Seat) {
        {
            let state = self.state.lock();
            if state.stopping {
                return;
            }
            // Those who are told of it are the host's code.
            self.runner.occupy(seat);
        }
        self.pool.keep_watch();
        let mut state = self.state.lock();
        // The alarm that led here is used up, and the next may be for the same moment.
        state.timers.published = None;
        self.publish_alarm(&mut state);
    }

    /// Does what is due.
    pub(super) fn ring(&self, state: &mut State<T, O>, now: Timestamp, after: &mut After<T, O>) {
        self.start_those_due(state, now, after);
        self.ring_circuits(state, now, after);
        state.ring(now, after);
    }

    /// The time now, if there is an alarm that may be due.
    pub(super) fn time_if_alarmed(&self, state: &State<T, O>) -> Option<Timestamp> {
        state.first_alarm().map(|_| self.clock.now())
    }

    /// Has a worker wake for the first alarm, after the alarms have changed.
    pub(super) fn publish_alarm(&self, state: &mut State<T, O>) {
        let first = state.first_alarm();
        if std::mem::replace(&mut state.timers.published, first) != first {
            self.runner.set_alarm(first);
        }
    }

    /// Does what is due.
    pub(super) fn tick(&self) {
        let mut after = After::new();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            self.ring(state, self.clock.now(), &mut after);
            self.notify_workers(state);
            self.publish_alarm(state);
        }
        self.finish(after);
    }
}

impl<T, O> State<T, O> {
    /// Queues a task whose attempt was lost again: at once, or after its backoff.
    pub(super) fn try_again(
        &mut self,
        id: TaskId,
        error: TaskError,
        now: Timestamp,
        after: &mut After<T, O>,
    ) {
        let record = self.tasks.get_mut(&id).expect("the caller found the task");
        let backoff = record.task.options.as_ref().map(|options| options.backoff);
        let delay = backoff.map(|backoff| backoff.delay(record.attempts_lost, id.get()));
        let reason = RequeueReason::AttemptFailed(error);
        match delay.filter(|delay| !delay.is_zero()) {
            None => self.requeue(id, reason, after),
            Some(delay) => {
                after.requeued(id, record.attempt, reason);
                self.delay(id, now + delay);
            }
        }
    }
}
