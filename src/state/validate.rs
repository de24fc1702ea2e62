//! Rules of the host for how a row may change.
//!
//! 1. A collection has at most one rule, from when it is set until nothing can be committed any more; it is
//!    set under the turn, so every commit is wholly before it or wholly under it.
//! 2. A rule runs under the turn and no other lock, on exactly what the commit replaces.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use super::{Abort, Collection, Key, Value};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::{Error, ErrorKind};

type Judge<K, V> = dyn Fn(&K, Option<&V>, Option<&V>) -> Result<(), Abort> + Send + Sync;

/// The rule of one collection.
pub(super) struct Rule<K, V> {
    judge: Box<Judge<K, V>>,
    /// Commits that rules of the manager refused.
    rejected: Arc<AtomicU64>,
}

impl<K, V> Rule<K, V> {
    pub(super) fn check(
        &self,
        name: &str,
        key: &K,
        old: Option<&V>,
        new: Option<&V>,
    ) -> Result<(), Error> {
        (self.judge)(key, old, new).map_err(|refusal| {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            let reason = refusal.into_reason();
            let message = format!("the rule of the collection {name:?} refuses a change: {reason}");
            Error::with_source(ErrorKind::Rejected, message, reason)
        })
    }
}

/// The rules of one manager.
#[derive(Default)]
pub(super) struct Rules {
    /// Whether there is any. It changes under the turn, under which commits look.
    any: AtomicBool,
    of: Mutex<HashMap<usize, Arc<dyn Any + Send + Sync>>>,
    rejected: Arc<AtomicU64>,
}

impl Rules {
    pub(super) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Gives all of them up, to be dropped under no lock. Who calls it has the turn, and has closed the state: no
    /// commit and no rule comes after this.
    pub(super) fn end(&self) -> impl Sized + use<> {
        std::mem::take(&mut *self.of.lock())
    }

    /// The rule of a collection. Who calls it has the turn.
    pub(super) fn of<K: Key, V: Value>(&self, id: usize) -> Option<Arc<Rule<K, V>>> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let rule = self.of.lock().get(&id).cloned();
        rule?.downcast().ok()
    }
}

impl<K: Key, V: Value> Collection<K, V> {
    /// Sets the rule for how the rows of this collection may change: a function of the key, the value that is
    /// replaced and the new one, each none where there is no row. A commit in which it refuses any change fails
    /// as a whole.
    ///
    /// It holds for every commit of this manager from now on, through whatever call: a diff that is applied, a
    /// snapshot that is restored and an import too. Rows that are there are not looked at, nor those that an
    /// opening recovers. A state that is opened anew has no
    /// rules: set them before it is used. There is one rule for a collection, and it stays until
    /// [`StateManager::close`](super::StateManager::close).
    ///
    /// The state holds the rule. One that captures a handle of the same state (a manager, a collection, what
    /// has one) therefore keeps the state and its folder until `close`, however many handles are dropped: close
    /// it, or capture what does not hold it, as an `Arc` of what the rule has to look up.
    ///
    /// It runs in the thread that commits, on exactly what the commit replaces, while other commits wait, so it
    /// should be short. It runs again where a commit has to wait for room. It may read the state; a commit from
    /// within it fails with [`ErrorKind::Reentrant`]. A panic in it goes to who commits, and nothing was
    /// committed.
    ///
    /// ```
    /// use phalanx::ErrorKind;
    /// use phalanx::state::{Abort, StateManager};
    ///
    /// let state = StateManager::in_memory();
    /// let tasks = state.collection::<u32, String>("tasks")?;
    /// tasks.validate_with(|task, old, new| match (old.map(String::as_str), new) {
    ///     (Some("failed"), Some(new)) if new == "completed" => {
    ///         Err(Abort::new(format!("task {task} has failed already")))
    ///     }
    ///     _ => Ok(()),
    /// })?;
    /// tasks.insert(1, "failed".to_owned())?;
    /// let refused = tasks.insert(1, "completed".to_owned()).unwrap_err();
    /// assert_eq!(refused.kind(), ErrorKind::Rejected);
    /// # Ok::<(), phalanx::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] where the collection has a rule; [`ErrorKind::Closed`];
    /// [`ErrorKind::Reentrant`] from within a commit of the same thread.
    pub fn validate_with(
        &self,
        rule: impl Fn(&K, Option<&V>, Option<&V>) -> Result<(), Abort> + Send + Sync + 'static,
    ) -> Result<(), Error> {
        // It outlives the locks if it is not taken.
        let rules = self.inner.rules();
        let rejected = Arc::clone(&rules.rejected);
        let rule: Arc<dyn Any + Send + Sync> =
            Arc::new(Rule::<K, V> { judge: Box::new(rule), rejected });
        let _turn = self.inner.turn.take()?;
        self.inner.check_open()?;
        let mut of = rules.of.lock();
        if of.contains_key(&self.id) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("the collection {:?} has a rule, and has it until the end", self.name),
            ));
        }
        of.insert(self.id, Arc::clone(&rule));
        rules.any.store(true, Ordering::Relaxed);
        Ok(())
    }
}
