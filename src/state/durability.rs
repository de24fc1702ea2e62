//! What gives a commit a reason to be written, and what its call waits for.
//!
//! Rules that hold here:
//!
//! 1. A level never leaves a commit out: what is recovered is the state at one version, with every commit up to
//!    it, whatever their levels.
//! 2. Where there is no store the only level is [`Durability::Memory`]. Another is refused before anything is
//!    committed, and never lowered.
//! 3. A call at [`Durability::Synced`] returns `Ok` only once its version is durable. It waits under no lock
//!    and holds no old state meanwhile.

use std::error::Error as _;

use thiserror::Error as ThisError;

use super::manager::{Inner, not_durable};
use super::{Collection, Key, StateManager, Transaction, Value, Version};
use crate::{Error, ErrorKind};

/// When a commit is written, and whether its call waits for that: of a whole state
/// ([`StateBuilder::durability`](super::StateBuilder::durability)), of the writes through one handle
/// ([`Collection::with_durability`]), or of one commit ([`Transaction::set_durability`]).
///
/// | level | is written | its call waits for the disk | power is lost right after the call |
/// |---|---|---|---|
/// | `Memory` | with any commit after it that is written; by a checkpoint, [`flush`](StateManager::flush), [`close`](StateManager::close), and a [`wait_durable`](StateManager::wait_durable) for it or a later one | no | it may be lost, and so it stays until one of these |
/// | `Buffered` | so, and by the next [`maintain`](StateManager::maintain) in any case | no | it may be lost, and so it stays until that |
/// | `Synced` | before the call returns | yes, for the one sync of its group | it is there |
///
/// At every level a commit that finds the pending deltas at
/// [their limit](super::StateBuilder::max_pending_bytes) first waits until they are written. Reads and
/// watches see a commit of every level at once, so of a `Synced` one before it is durable: who must not act on
/// what may be lost asks [`StateManager::durable_version`], or waits for it.
///
/// A level says what is a *reason* to write. What is written is always all that was committed so far: a
/// `Synced` commit makes those before it durable with it, whatever their levels, and what is recovered is
/// the state at one version and never has a later commit without an earlier one.
///
/// `Memory` is for what can be made again; `Buffered` for a host that acknowledges nothing, or waits for
/// itself where it does; `Synced` where the call is the acknowledgement. Commits at `Synced` that come at
/// once share one sync. It blocks the thread for 0.1 to 10 ms, and for
/// [what it does of a checkpoint](super::StateBuilder::checkpoint_step_bytes) where one is due, so a task of an async
/// runtime commits at `Buffered` and awaits [`wait_durable_async`](StateManager::wait_durable_async), with
/// [`maintain_every`](StateManager::maintain_every) under way. Code of the host never runs within a write: a waker
/// that is woken, the drop of a value, and the `Serialize` of one that is in a checkpoint may wait for one. (Only for
/// the very checkpoint that it is in a `Serialize` must not: [`ErrorKind::Reentrant`]. Nor should it wait for another
/// thread that waits for durability, which may wait
/// [for that checkpoint](super::StateBuilder::checkpoint_step_bytes).)
///
/// A later level is stronger than an earlier one, which is their order.
///
/// ```
/// use phalanx::state::{Durability, StateManager};
///
/// # #[cfg(all(feature = "durable", any(feature = "bincode", feature = "postcard")))]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// let state = StateManager::builder().path(folder).open()?;
/// assert_eq!(state.durability(), Durability::Buffered);
/// let load = state.collection::<String, u32>("load")?.with_durability(Durability::Memory);
/// let votes = state.collection::<u64, String>("votes")?.with_durability(Durability::Synced);
///
/// load.insert("a".to_owned(), 7)?;
/// assert!(state.durable_version() < state.version());
/// // Durable when it returns, and with it what came before.
/// let version = votes.insert(1, "ada".to_owned())?;
/// assert_eq!(state.durable_version(), version);
/// # Ok(())
/// # }
/// # #[cfg(not(all(feature = "durable", any(feature = "bincode", feature = "postcard"))))]
/// # fn main() {}
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// Nothing writes it on its account. The only level of a state in memory, and its default.
    Memory,
    /// The next [`maintain`](StateManager::maintain) writes it, or any later commit that is written, and nobody
    /// waits for it. By itself nothing writes it: a host that never calls `maintain` has
    /// [`maintain_every`](StateManager::maintain_every) call it, waits or flushes. The default of a state with a
    /// store.
    Buffered,
    /// It is durable when its call returns.
    Synced,
}

/// A commit took place and was not acknowledged: the [source](std::error::Error::source) of an [`Error`] of
/// kind [`ErrorKind::Poisoned`] that a commit at [`Durability::Synced`] ends with where it could not be written.
/// [`Unacknowledged::of`] finds it.
///
/// It is visible in memory, in this process. Whether it is there after the next opening is open.
///
/// ```
/// # #[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use phalanx::state::{Durability, Fault, FaultDisk, StateManager, Unacknowledged};
///
/// let disk = FaultDisk::new();
/// let state = StateManager::builder().fault_disk(&disk).durability(Durability::Synced).open()?;
/// let rows = state.collection::<u32, u32>("rows")?;
/// disk.fail_at(disk.calls() + 1, Fault::Io);
/// let first = rows.insert(1, 1).unwrap_err();
/// assert_eq!(Unacknowledged::of(&first), Some(state.version()));
/// let second = rows.insert(2, 2).unwrap_err();
/// assert_eq!(Unacknowledged::of(&second), None);
/// assert_eq!((rows.get(&1), rows.get(&2)), (Some(1), None));
/// # Ok(())
/// # }
/// # #[cfg(not(all(feature = "durable", feature = "bincode", feature = "test-util")))]
/// # fn main() {}
/// ```
#[derive(Debug, ThisError)]
#[error(
    "{version} is visible in memory and was not acknowledged; whether it survives is open until the \
     store is opened again"
)]
#[non_exhaustive]
pub struct Unacknowledged {
    /// Its version.
    pub version: Version,
    #[source]
    reason: Error,
}

impl Unacknowledged {
    /// The version of the commit that took place although its call ended with `error`; none where nothing was
    /// committed.
    ///
    /// Of all that [`ErrorKind::Poisoned`] says, this tells what is visible from what never happened. It looks
    /// through the sources of `error`, so also where the host has wrapped it into another [`Error`].
    #[must_use]
    pub fn of(error: &Error) -> Option<Version> {
        let mut source = error.source();
        while let Some(cause) = source {
            if let Some(unacknowledged) = cause.downcast_ref::<Self>() {
                return Some(unacknowledged.version);
            }
            source = cause.source();
        }
        None
    }
}

impl StateManager {
    /// The level of commits that ask for no other: what the builder was told, or its default.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.inner.durability
    }
}

impl<K: Key, V: Value> Collection<K, V> {
    /// A handle of the same collection whose writes are commits of this level.
    ///
    /// Each of its own operations that writes commits at it. A [transaction](StateManager::transaction)
    /// commits at the strongest level of the handles that it writes through, of which one without a level has
    /// that of the state, unless [`Transaction::set_durability`] says another. What an operation only
    /// reads or finds is no commit, so it waits for nothing: that a row is there already, say, may not
    /// be durable yet.
    ///
    /// Another level than [`Durability::Memory`] needs a store; without one its commits fail with
    /// [`ErrorKind::Unsupported`].
    #[must_use]
    pub fn with_durability(&self, level: Durability) -> Self {
        Self { level: Some(level), ..self.clone() }
    }

    /// The level of the commits of this handle: its own, or that of the state.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.level.unwrap_or(self.inner.durability)
    }
}

impl Inner {
    /// The level that a transaction commits at (rule 2).
    pub(super) fn level_of(&self, tx: &Transaction) -> Result<Durability, Error> {
        let level = tx.level().unwrap_or(self.durability);
        if level > Durability::Memory && !self.has_store() {
            return Err(not_durable());
        }
        Ok(level)
    }

    /// Waits as far as the level asks for it (rule 3).
    pub(super) fn acknowledge(&self, version: Version, level: Durability) -> Result<(), Error> {
        if level < Durability::Synced {
            return Ok(());
        }
        self.wait_durable(version).map_err(|reason| {
            let message = reason.to_string();
            let unacknowledged = Unacknowledged { version, reason };
            let message = format!("{unacknowledged} ({message})");
            Error::with_source(ErrorKind::Poisoned, message, unacknowledged)
        })
    }
}
