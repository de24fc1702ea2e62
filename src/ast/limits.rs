//! The limits of a parse, with their defaults in one place.

use std::time::Duration;

use super::error::{AstError, AstErrorKind};
use super::source::Source;

/// What a parse may cost before it is stopped with an error that names the limit.
///
/// The setters take and return the value: `Limits::default().max_depth(100)`. Memory is a limit of the
/// engine, which knows its own sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    max_source_bytes: u32,
    max_depth: u32,
    max_nodes: u32,
    deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_source_bytes: 2 << 20,
            max_depth: 10_000,
            max_nodes: 4 << 20,
            deadline: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// The largest source, in bytes: default 2 MiB, any value.
    ///
    /// Hostile sources can make a parser need a hundred times their size.
    #[must_use]
    pub fn max_source_bytes(mut self, bytes: u32) -> Self {
        self.max_source_bytes = bytes;
        self
    }

    /// The deepest tree, in levels, the root being the first: default 10,000, any value.
    ///
    /// Each level costs a few bytes while a tree is checked or walked, never stack.
    #[must_use]
    pub fn max_depth(mut self, levels: u32) -> Self {
        self.max_depth = levels;
        self
    }

    /// The most nodes of a tree: default 4,194,304, any value; each costs 24 bytes.
    #[must_use]
    pub fn max_nodes(mut self, nodes: u32) -> Self {
        self.max_nodes = nodes;
        self
    }

    /// The longest time that a parse may take, counted from when it starts running: default 5 s.
    ///
    /// [`Duration::MAX`] stands for no deadline. This is the one limit whose error depends on the load of
    /// the machine, hence the one that is [worth a retry](AstError::is_retryable).
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The largest source, in bytes.
    #[must_use]
    pub fn source_bytes_limit(&self) -> u32 {
        self.max_source_bytes
    }

    /// The deepest tree, in levels.
    #[must_use]
    pub fn depth_limit(&self) -> u32 {
        self.max_depth
    }

    /// The most nodes of a tree.
    #[must_use]
    pub fn nodes_limit(&self) -> u32 {
        self.max_nodes
    }

    /// The longest time that a parse may take.
    #[must_use]
    pub fn deadline_limit(&self) -> Duration {
        self.deadline
    }

    /// Checks what can be known before a parse; every engine starts with it.
    ///
    /// # Errors
    ///
    /// [`AstErrorKind::SourceTooLarge`].
    pub fn check_source(&self, source: &Source<'_>) -> Result<(), AstError> {
        self.check_source_bytes(source.text().len())
    }

    pub(super) fn check_source_bytes(&self, found: usize) -> Result<(), AstError> {
        Self::check(AstErrorKind::SourceTooLarge, "bytes of source", self.max_source_bytes, found)
    }

    pub(super) fn check_depth(&self, found: usize) -> Result<(), AstError> {
        Self::check(AstErrorKind::TooDeep, "levels of the tree", self.max_depth, found)
    }

    pub(super) fn check_nodes(&self, found: usize) -> Result<(), AstError> {
        Self::check(AstErrorKind::OutputTooLarge, "nodes of the tree", self.max_nodes, found)
    }

    #[inline]
    fn check(kind: AstErrorKind, what: &str, limit: u32, found: usize) -> Result<(), AstError> {
        // `u32` fits into `usize` on every platform that this crate builds for.
        if found <= limit as usize {
            return Ok(());
        }
        Err(AstError::over_limit(kind, what, u64::from(limit), found as u64))
    }
}
