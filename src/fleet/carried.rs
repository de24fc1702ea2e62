//! A task as those have it who keep it, run it and end it.
//!
//! It is counted by [`Shared`], but for the tasks of a fleet that has an executor: a handler that makes futures is
//! given an `Arc`, and which agent runs a task is not known as it comes in.

use std::ops::Deref;
use std::sync::Arc;

use super::task::Task;
use crate::sync::Shared;

/// See the file's head.
pub(super) enum Carried<T> {
    Counted(Shared<Task<T>>),
    Lent(Arc<Task<T>>),
}

impl<T> Carried<T> {
    /// A task, which an async handler may be given if it is `lent`.
    #[inline(always)]
    pub(super) fn new(task: Task<T>, lent: bool) -> Self {
        if lent { Self::Lent(Arc::new(task)) } else { Self::Counted(Shared::new(task)) }
    }

    /// Another reference; without a locked instruction if this is the only one and is not lent.
    #[inline(always)]
    pub(super) fn split(&mut self) -> Self {
        match self {
            Self::Counted(task) => Self::Counted(task.split()),
            Self::Lent(task) => Self::Lent(Arc::clone(task)),
        }
    }

    /// Lets go of two references; without a locked instruction if they are the last and not lent.
    #[inline(always)]
    pub(super) fn let_go_of(one: Self, other: Self) {
        if let (Self::Counted(one), Self::Counted(other)) = (one, other) {
            Shared::let_go_of(one, other);
        }
    }

    /// Whether both are to the same task.
    #[inline(always)]
    pub(super) fn is_same(one: &Self, other: &Self) -> bool {
        std::ptr::eq(&raw const **one, &raw const **other)
    }

    /// For an async handler.
    pub(super) fn to_lend(&self) -> Arc<Task<T>> {
        let Self::Lent(task) = self else {
            unreachable!("no async agent without an executor, and with one all tasks are lent")
        };
        Arc::clone(task)
    }
}

impl<T> Clone for Carried<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Counted(task) => Self::Counted(task.clone()),
            Self::Lent(task) => Self::Lent(Arc::clone(task)),
        }
    }
}

impl<T> Deref for Carried<T> {
    type Target = Task<T>;

    #[inline(always)]
    fn deref(&self) -> &Task<T> {
        match self {
            Self::Counted(task) => task,
            Self::Lent(task) => task,
        }
    }
}
