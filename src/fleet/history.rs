//! What is remembered of tasks that have ended, and by which keys tasks are known.
//!
//! Rules that hold here:
//!
//! 1. No more than the capacity is remembered; the oldest goes first. What is forgotten is handed out, to be
//!    dropped outside the lock.
//! 2. A key stands for one task from its acceptance until that task is forgotten, or has ended without being
//!    done: cancelled, returned, or failed since one that it waited for failed. While the acceptance is
//!    being recorded, whoever comes with the same key waits to learn whether there is such a task.

use std::collections::{HashMap, VecDeque};

use super::handle::OutcomeCell;
use super::id::TaskId;
use crate::sync::Shared;

/// Names what is to be done, so that it is done once however often it is submitted.
///
/// The host makes it of whatever tells two submissions apart: an id of the request, a hash of its contents.
/// 128 bits of a good hash do not meet by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(u128);

impl IdempotencyKey {
    /// The key of this number.
    #[must_use]
    pub const fn new(number: u128) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.0
    }
}

/// The outcomes of the tasks that ended last.
pub(super) struct History<O> {
    capacity: usize,
    order: VecDeque<(TaskId, u64)>,
    ended: HashMap<TaskId, (u64, Shared<OutcomeCell<O>>)>,
    sequence: u64,
}

impl<O> History<O> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, order: VecDeque::new(), ended: HashMap::new(), sequence: 0 }
    }

    /// Whether there is one.
    pub(super) const fn is_kept(&self) -> bool {
        self.capacity > 0
    }

    pub(super) fn get(&self, id: TaskId) -> Option<&Shared<OutcomeCell<O>>> {
        self.ended.get(&id).map(|(_, cell)| cell)
    }

    /// Remembers how a task ended; what is forgotten for it.
    pub(super) fn push(
        &mut self,
        id: TaskId,
        cell: &Shared<OutcomeCell<O>>,
    ) -> [Option<Shared<OutcomeCell<O>>>; 2] {
        if self.capacity == 0 {
            return [None, None];
        }
        self.sequence += 1;
        // An id of the caller's own may come back; then the later task is meant.
        let replaced = self.ended.insert(id, (self.sequence, cell.clone()));
        self.order.push_back((id, self.sequence));
        let mut forgotten = None;
        if self.order.len() > self.capacity
            && let Some((oldest, sequence)) = self.order.pop_front()
            && self.ended.get(&oldest).is_some_and(|(current, _)| *current == sequence)
        {
            forgotten = self.ended.remove(&oldest);
        }
        [replaced, forgotten].map(|entry| entry.map(|(_, cell)| cell))
    }
}

/// What is known of a key.
pub(super) enum Known<O> {
    /// Its task is being accepted.
    Pending,
    /// Its task.
    Task(TaskId, Shared<OutcomeCell<O>>),
}

impl<O> Clone for Known<O> {
    fn clone(&self) -> Self {
        match self {
            Self::Pending => Self::Pending,
            Self::Task(id, cell) => Self::Task(*id, cell.clone()),
        }
    }
}

/// The keys of tasks that have not ended, and of those that ended last.
pub(super) struct Keys<O> {
    capacity: usize,
    known: HashMap<IdempotencyKey, Known<O>>,
    ended: VecDeque<IdempotencyKey>,
}

impl<O> Keys<O> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, known: HashMap::new(), ended: VecDeque::new() }
    }

    pub(super) fn get(&self, key: IdempotencyKey) -> Option<&Known<O>> {
        self.known.get(&key)
    }

    pub(super) fn set(&mut self, key: IdempotencyKey, known: Known<O>) {
        self.known.insert(key, known);
    }

    /// Its task was not accepted, or ended without being done: the next one with this key is a new task.
    pub(super) fn withdraw(&mut self, key: IdempotencyKey) -> Option<Known<O>> {
        self.known.remove(&key)
    }

    /// Its task has ended; what is forgotten for it.
    pub(super) fn ended(&mut self, key: IdempotencyKey) -> Option<Known<O>> {
        self.ended.push_back(key);
        if self.ended.len() <= self.capacity {
            return None;
        }
        self.known.remove(&self.ended.pop_front()?)
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::clock::Clock;
    use crate::fleet::handle::Nobody;

    fn cell() -> Shared<OutcomeCell<()>> {
        Shared::pair(OutcomeCell::new(TaskId::new(1), Clock::real(), Weak::<Nobody>::new())).0
    }

    fn ids(history: &History<()>) -> Vec<u64> {
        let mut ids: Vec<_> = history.ended.keys().map(|id| id.get()).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn the_oldest_is_forgotten_first_and_handed_out() {
        let mut history = History::new(2);
        let first = cell();
        assert!(history.push(TaskId::new(1), &first).iter().all(Option::is_none));
        history.push(TaskId::new(2), &cell());
        let [replaced, forgotten] = history.push(TaskId::new(3), &cell());
        assert!(replaced.is_none());
        assert!(forgotten.is_some_and(|forgotten| forgotten.address() == first.address()));
        assert_eq!(ids(&history), [2, 3]);
    }

    #[test]
    fn an_id_that_comes_back_means_the_later_task() {
        let mut history = History::new(2);
        let (first, second) = (cell(), cell());
        history.push(TaskId::new(1), &first);
        let [replaced, forgotten] = history.push(TaskId::new(1), &second);
        assert!(replaced.is_some_and(|replaced| replaced.address() == first.address()));
        assert!(forgotten.is_none());
        history.push(TaskId::new(2), &cell());
        assert_eq!(ids(&history), [1, 2], "the entry of the first one went, not the second");
        assert!(
            history.get(TaskId::new(1)).is_some_and(|found| found.address() == second.address())
        );
        history.push(TaskId::new(3), &cell());
        assert_eq!(ids(&history), [2, 3]);
    }

    #[test]
    fn a_history_of_none_remembers_nothing() {
        assert!(History::<()>::new(1).is_kept() && !History::<()>::new(0).is_kept());
        let mut history = History::new(0);
        assert!(history.push(TaskId::new(1), &cell()).iter().all(Option::is_none));
        assert!(ids(&history).is_empty() && history.order.is_empty());
    }

    #[test]
    fn the_keys_of_ended_tasks_are_forgotten_in_their_order() {
        let mut keys = Keys::new(1);
        let key = IdempotencyKey::new;
        for number in 1..=3 {
            keys.set(key(number), Known::Task(TaskId::new(1), cell()));
        }
        assert!(keys.ended(key(2)).is_none());
        assert!(keys.ended(key(1)).is_some());
        assert!(keys.get(key(2)).is_none(), "the first to end");
        assert!(keys.get(key(1)).is_some() && keys.get(key(3)).is_some());

        let mut none = Keys::new(0);
        none.set(key(1), Known::Task(TaskId::new(1), cell()));
        assert!(none.ended(key(1)).is_some());
        assert!(none.get(key(1)).is_none() && none.ended.is_empty());
    }
}
