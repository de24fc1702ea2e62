//! The one error of the control path.
//!
//! Data paths (publish, submit, insert) have small typed errors of their own that hand the payload
//! back; everything else (opening, building, configuring, committing) returns [`Error`]. It is one
//! type so that a host can hold results of several parts without a conversion for each, and its
//! [`kind`](Error::kind) is what a program decides by: the message is for people and may change.

use std::error::Error as StdError;
use std::fmt;

/// What went wrong, as a program would ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A value that the caller passed is outside what is allowed.
    InvalidArgument,
    /// What was named does not exist (any more).
    NotFound,
    /// What was to be made exists already.
    AlreadyExists,
    /// The part was shut down.
    Closed,
    /// Something else holds it: another process, another owner.
    InUse,
    /// A limit was reached: a count, a size, a depth.
    LimitReached,
    /// A deadline passed first.
    Timeout,
    /// The caller's own closure asked to stop.
    Aborted,
    /// A rule that the host set refused it.
    Rejected,
    /// A condition that the caller named did not hold.
    Conflict,
    /// What is stored is damaged.
    Corrupt,
    /// What is stored was written by a version or codec that this build does not know.
    UnsupportedVersion,
    /// An earlier failure made this part refuse to go on; reopen it.
    Poisoned,
    /// The operating system reported a failure.
    Io,
    /// A value could not be encoded or decoded.
    Codec,
    /// This build or platform cannot do it.
    Unsupported,
    /// A call from within what it would have to wait for, by the same thread.
    Reentrant,
    /// A bug in this crate, reported rather than hidden.
    Internal,
}

impl ErrorKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid argument",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::Closed => "closed",
            Self::InUse => "in use",
            Self::LimitReached => "limit reached",
            Self::Timeout => "timed out",
            Self::Aborted => "aborted",
            Self::Rejected => "rejected",
            Self::Conflict => "conflict",
            Self::Corrupt => "corrupt",
            Self::UnsupportedVersion => "unsupported version",
            Self::Poisoned => "poisoned",
            Self::Io => "i/o error",
            Self::Codec => "codec error",
            Self::Unsupported => "unsupported",
            Self::Reentrant => "reentrant call",
            Self::Internal => "internal error",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error of the control path: a [kind](ErrorKind), a message, and where there is one its source.
///
/// It is one pointer wide, so that a `Result<(), Error>` costs no more than a reference.
///
/// ```
/// use phalanx::{Error, ErrorKind};
///
/// fn explain(error: &Error) -> &'static str {
///     match error.kind() {
///         ErrorKind::InUse => "another process holds the folder",
///         kind if error.is_retryable() => "try again",
///         _ => "give up",
///     }
/// }
/// let error = Error::new(ErrorKind::InUse, "the folder is locked");
/// assert_eq!(explain(&error), "another process holds the folder");
/// assert_eq!(error.to_string(), "in use: the folder is locked");
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Makes an error without a source.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    /// Makes an error that another one caused.
    #[must_use]
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: Some(source.into()) }))
    }

    /// What went wrong, as a program would ask.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later without anything being repaired first.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::InUse | ErrorKind::LimitReached | ErrorKind::Timeout | ErrorKind::Conflict
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind, self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_kind_message_and_source() {
        let io = std::io::Error::other("disk on fire");
        let error = Error::with_source(ErrorKind::Io, "could not write the log", io);
        assert_eq!(error.kind(), ErrorKind::Io);
        assert_eq!(error.to_string(), "i/o error: could not write the log");
        assert_eq!(error.source().map(ToString::to_string), Some("disk on fire".to_owned()));
        assert!(!error.is_retryable());
    }

    #[test]
    fn an_error_is_one_pointer_wide() {
        assert_eq!(size_of::<Result<(), Error>>(), size_of::<usize>());
    }
}
