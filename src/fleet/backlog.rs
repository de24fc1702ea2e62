//! How tasks come to wait, and when it is told that work does: often enough to act on, and seldom enough to cost nothing.
//!
//! Rules that hold here:
//!
//! 1. It is told as the first begins to wait, and again whenever twice as many wait as when it was told last, or as
//!    waited since, if those were no more than half. So whoever acts on each of them never acts on less than half of
//!    what waits.

use super::id::TaskId;
use super::inner::{After, Phase, State};
use super::log::FleetEvent;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// How many waited when it was told last, or fewer since.
    mark: usize,
}

impl Backlog {
    /// Takes notice that another one waits, with which so many do; whether to tell.
    pub(super) fn grows_to(&mut self, now: usize) -> bool {
        let before = now - 1;
        if before <= self.mark / 2 {
            self.mark = before;
        }
        let tells = now >= 2 * self.mark;
        if tells {
            self.mark = now;
        }
        tells
    }
}

impl<T, O> State<T, O> {
    /// Puts a task where it waits for its next attempt: into the queue, or, outside the lock, into the mailbox
    /// of its agent.
    pub(super) fn line_up(&mut self, id: TaskId, after: &mut After<T, O>) {
        let record = self.tasks.get_mut(&id).expect("the caller found the task");
        if let Some(agent) = record.task.agent() {
            self.send(id, agent, after);
        } else {
            record.phase = Phase::Queued;
            let (sort, place) = (record.sort(&self.pool), record.place);
            self.queue.insert(sort, place, id);
            let waiting = self.queue.len();
            if self.backlog.as_mut().is_some_and(|backlog| backlog.grows_to(waiting)) {
                after.tasks_wait(waiting);
            }
        }
    }
}

impl<T, O> After<T, O> {
    /// Has it be told that so many tasks wait, once for all that come in one step.
    fn tasks_wait(&mut self, waiting: usize) {
        match self.events.last_mut() {
            Some(FleetEvent::TasksWait { tasks }) => *tasks = waiting,
            _ => self.events.push(FleetEvent::TasksWait { tasks: waiting }),
        }
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    fn told(backlog: &mut Backlog, growth: std::ops::RangeInclusive<usize>) -> Vec<usize> {
        growth.filter(|now| backlog.grows_to(*now)).collect()
    }

    #[test]
    fn it_is_told_at_first_and_then_as_it_doubles() {
        let mut backlog = Backlog::default();
        assert_eq!(told(&mut backlog, 1..=20), [1, 2, 4, 8, 16]);
        assert!(told(&mut backlog, 13..=31).is_empty(), "it went down a little");
        assert_eq!(told(&mut backlog, 32..=32), [32]);
    }

    #[test]
    fn it_is_told_anew_after_it_went_down() {
        let mut backlog = Backlog::default();
        assert_eq!(told(&mut backlog, 1..=64), [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(told(&mut backlog, 4..=30), [6, 12, 24], "from the three that were left");
        assert_eq!(told(&mut backlog, 1..=3), [1, 2], "from none");
    }
}
