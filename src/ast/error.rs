//! The error of the syntax engine: what stopped a parse or an analysis.
//!
//! Rules that hold here:
//!
//! 1. An error that reports a limit carries the limit and, where it is known, what was found.
//! 2. Only a deadline is worth a retry, and only alone: every other outcome depends on the source, the
//!    limits and the engine, not on the load of the machine.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::{Error, ErrorKind};

use super::language::Language;

/// What stopped a parse or an analysis, as a program would ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum AstErrorKind {
    /// No grammar for this language stands behind the engine.
    UnsupportedLanguage,
    /// The language can be parsed, but has no such analysis (outline, imports, references).
    UnsupportedAnalysis,
    /// The source is larger than [`Limits::max_source_bytes`](super::Limits::max_source_bytes).
    SourceTooLarge,
    /// The parse took longer than [`Limits::deadline`](super::Limits::deadline).
    DeadlineExceeded,
    /// The parser needed more memory than its sandbox may have.
    MemoryExceeded,
    /// The tree is deeper than [`Limits::max_depth`](super::Limits::max_depth).
    TooDeep,
    /// The tree has more nodes than [`Limits::max_nodes`](super::Limits::max_nodes).
    OutputTooLarge,
    /// The sandboxed parser crashed inside its sandbox.
    GuestTrapped,
    /// The sandboxed parser answered with something that cannot be.
    GuestMisbehaved,
    /// The bytes are not UTF-8.
    NotUtf8,
    /// Records, builder calls or tables do not form a tree.
    InvalidTree,
    /// The engine was shut down.
    EngineClosed,
    /// The engine could not be brought up, or failed for a reason of its own.
    EngineFailed,
}

impl AstErrorKind {
    /// A short stable name in snake case, for counters and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnsupportedLanguage => "unsupported_language",
            Self::UnsupportedAnalysis => "unsupported_analysis",
            Self::SourceTooLarge => "source_too_large",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::MemoryExceeded => "memory_exceeded",
            Self::TooDeep => "too_deep",
            Self::OutputTooLarge => "output_too_large",
            Self::GuestTrapped => "guest_trapped",
            Self::GuestMisbehaved => "guest_misbehaved",
            Self::NotUtf8 => "not_utf8",
            Self::InvalidTree => "invalid_tree",
            Self::EngineClosed => "engine_closed",
            Self::EngineFailed => "engine_failed",
        }
    }
}

impl fmt::Display for AstErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What stopped a parse or an analysis: a [kind](AstErrorKind), a message, and for limits the numbers.
///
/// It is one pointer wide and can be cloned, so that a loader can hand it to many waiters. An engine of
/// the host's own makes its errors with the same constructors.
///
/// ```
/// use phalanx::ast::{AstError, AstErrorKind};
///
/// let error = AstError::over_limit(AstErrorKind::TooDeep, "levels of the tree", 100, 250);
/// assert_eq!((error.limit(), error.found()), (Some(100), Some(250)));
/// assert_eq!(error.to_string(), "too_deep: levels of the tree: found 250, the limit is 100");
/// assert!(!error.is_retryable());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct AstError(Box<Inner>);

#[derive(Clone, PartialEq, Eq)]
struct Inner {
    kind: AstErrorKind,
    message: String,
    limit: Option<u64>,
    found: Option<u64>,
}

impl AstError {
    /// Makes an error that is not about a limit.
    #[must_use]
    pub fn new(kind: AstErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), limit: None, found: None }))
    }

    /// Makes an error that reports a limit: `what` names the quantity with its unit.
    ///
    /// `found` may be a lower bound where counting stopped at the limit.
    #[must_use]
    pub fn over_limit(kind: AstErrorKind, what: &str, limit: u64, found: u64) -> Self {
        Self(Box::new(Inner {
            kind,
            message: format!("{what}: found {found}, the limit is {limit}"),
            limit: Some(limit),
            found: Some(found),
        }))
    }

    /// The error for a language that the engine has no grammar for.
    #[must_use]
    pub fn unsupported_language(language: Language) -> Self {
        Self::new(
            AstErrorKind::UnsupportedLanguage,
            format!("this engine has no grammar for {language}; languages() lists what it parses"),
        )
    }

    /// The error for a parse that ran past its deadline; both numbers are reported in milliseconds.
    #[must_use]
    pub fn deadline_exceeded(limit: Duration, found: Duration) -> Self {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self::over_limit(
            AstErrorKind::DeadlineExceeded,
            "time to parse in ms",
            millis(limit),
            millis(found),
        )
    }

    pub(crate) fn invalid_tree(message: impl Into<String>) -> Self {
        Self::new(AstErrorKind::InvalidTree, message)
    }

    /// What stopped it, as a program would ask.
    #[must_use]
    pub fn kind(&self) -> AstErrorKind {
        self.0.kind
    }

    /// The limit that was reached, in the unit that the message names.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        self.0.limit
    }

    /// What was found instead, in the unit of [`limit`](Self::limit).
    #[must_use]
    pub fn found(&self) -> Option<u64> {
        self.0.found
    }

    /// The message without the kind.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether the same call may succeed on a quieter machine: true for a deadline, and for nothing else.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.kind == AstErrorKind::DeadlineExceeded
    }
}

impl fmt::Display for AstError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind, self.0.message)
    }
}

impl fmt::Debug for AstError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AstError")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("limit", &self.0.limit)
            .field("found", &self.0.found)
            .finish()
    }
}

impl StdError for AstError {}

/// For hosts that hold the errors of several parts as one type.
impl From<AstError> for Error {
    fn from(error: AstError) -> Self {
        let kind = match error.kind() {
            AstErrorKind::UnsupportedLanguage | AstErrorKind::UnsupportedAnalysis => {
                ErrorKind::Unsupported
            }
            // Not `LimitReached`, which promises that a later try may succeed.
            AstErrorKind::SourceTooLarge
            | AstErrorKind::MemoryExceeded
            | AstErrorKind::TooDeep
            | AstErrorKind::OutputTooLarge
            | AstErrorKind::NotUtf8
            | AstErrorKind::InvalidTree => ErrorKind::InvalidArgument,
            AstErrorKind::DeadlineExceeded => ErrorKind::Timeout,
            AstErrorKind::EngineClosed => ErrorKind::Closed,
            AstErrorKind::GuestTrapped
            | AstErrorKind::GuestMisbehaved
            | AstErrorKind::EngineFailed => ErrorKind::Internal,
        };
        let message = error.message().to_owned();
        Self::with_source(kind, message, error)
    }
}
