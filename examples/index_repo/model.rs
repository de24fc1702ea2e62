//! What the index holds, and what is asked of the agents.
//!
//! Most of it is stored, so its layout is a format: a change to it, or to how symbols and imports are read
//! out of a tree, raises [`INDEX_VERSION`], and an index of another version is refused.
//!
//! 1. A [`FileEntry`] and a [`FileReferences`] follow from bytes alone: the file's own, and for the
//!    references also those of the files it imports from. Nothing in them tells who made them, or when.

use phalanx::ast::{AstErrorKind, ContentHash, Language, SymbolKind};
use phalanx::fleet::TaskError;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The layout and meaning of what is stored.
pub const INDEX_VERSION: u32 = 1;

/// A digest of bytes, as blake3 makes it.
pub type Digest = [u8; 32];

/// One thing that a file defines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SymbolRow {
    /// What it is called.
    pub name: String,
    /// What it is: a function, a class.
    pub kind: SymbolKind,
    /// Where it stands, in bytes.
    pub start: u32,
    /// Where it ends, in bytes.
    pub end: u32,
    /// The place in the file's list of the symbol that encloses it.
    pub parent: Option<u32>,
    /// What other files call it, where that is not its name, such as `default`.
    pub export: Option<String>,
}

/// One import of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImportRow {
    /// The module as the file writes it: `./a`, `.pkg.a`, `crate::a`.
    pub module: String,
    /// What the module itself is called here, if it is called anything.
    pub alias: Option<String>,
    /// What is taken from it.
    pub names: Vec<ImportedName>,
    /// Whether everything is taken (`*`).
    pub wildcard: bool,
    /// Whether this declares a module of the same crate (`mod a;`) rather than using one.
    pub declares: bool,
    /// Where it stands, in bytes.
    pub start: u32,
}

/// One name that an import brings into the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImportedName {
    /// What it is called there.
    pub name: String,
    /// What it is called here.
    pub local: String,
}

/// A place where the parser had to guess.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SyntaxErrorRow {
    /// Where, in bytes.
    pub start: u32,
    /// Up to where, in bytes.
    pub end: u32,
    /// Whether something expected is missing, rather than something there unexpected.
    pub missing: bool,
}

/// What phase one stores about a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The hash of its language and bytes.
    pub content: ContentHash,
    /// Its language.
    pub language: Language,
    /// What it defines, in the order of the text.
    pub symbols: Vec<SymbolRow>,
    /// What it imports, in the order of the text.
    pub imports: Vec<ImportRow>,
    /// Where it does not parse.
    pub errors: Vec<SyntaxErrorRow>,
}

/// What a name refers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    /// The file that defines it.
    pub file: String,
    /// Its name there; none means the file as a whole.
    pub symbol: Option<String>,
}

/// One imported name, and what it turned out to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Binding {
    /// The module as the file writes it.
    pub module: String,
    /// What is imported from it. Empty: the module itself; `*`: everything.
    pub name: String,
    /// What it is called in the importing file; empty if it is not called anything.
    pub local: String,
    /// What it refers to; none if that lies outside the tree or is not there.
    pub target: Option<Target>,
}

/// A binding and where the importing file uses it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reference {
    /// The name and its meaning.
    pub binding: Binding,
    /// The byte offsets of its uses, ascending.
    pub uses: Vec<u32>,
}

/// What phase two stores about a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReferences {
    /// The digest of all that this was made from; another one means that it must be made again.
    pub inputs: Digest,
    /// One for each imported name, in the order of the text.
    pub references: Vec<Reference>,
}

/// What an agent is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Job {
    /// Phase one: parse a file and say what is in it.
    Index {
        /// The path under the root, `/` between its parts.
        path: String,
        /// What its bytes were when it was found.
        content: ContentHash,
        /// Its language.
        language: Language,
    },
    /// Phase two: find where a file uses what it imports.
    Resolve {
        /// The path under the root.
        path: String,
        /// The bytes that were indexed.
        content: ContentHash,
        /// Its language.
        language: Language,
        /// The digest of all that the answer depends on.
        inputs: Digest,
        /// What its imports refer to.
        bindings: Vec<Binding>,
    },
}

impl Job {
    /// The file it is about.
    pub fn path(&self) -> &str {
        match self {
            Self::Index { path, .. } | Self::Resolve { path, .. } => path,
        }
    }

    /// The language that the agent must speak.
    pub fn language(&self) -> Language {
        match self {
            Self::Index { language, .. } | Self::Resolve { language, .. } => *language,
        }
    }

    /// The source it is about.
    pub fn content(&self) -> ContentHash {
        match self {
            Self::Index { content, .. } | Self::Resolve { content, .. } => *content,
        }
    }
}

/// What an agent answers when it could do the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What is in the file.
    Indexed(FileEntry),
    /// Where it uses what it imports.
    Resolved(FileReferences),
}

/// Why a file was looked at and left out, by choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// A symbolic link; what it points at is indexed where it lies.
    Symlink,
    /// A pipe, socket or device.
    NotRegular,
    /// No bytes.
    Empty,
    /// More bytes than the engine takes.
    TooLarge,
    /// A NUL byte in it.
    Binary,
    /// Bytes that are not UTF-8.
    NotUtf8,
    /// A name that is not UTF-8.
    NameNotUtf8,
    /// Text in a language that has no grammar here.
    UnsupportedLanguage,
}

impl Skip {
    /// The name in the summary.
    pub fn name(self) -> &'static str {
        match self {
            Self::Symlink => "symlink",
            Self::NotRegular => "not_regular",
            Self::Empty => "empty",
            Self::TooLarge => "too_large",
            Self::Binary => "binary",
            Self::NotUtf8 => "not_utf8",
            Self::NameNotUtf8 => "name_not_utf8",
            Self::UnsupportedLanguage => "unsupported_language",
        }
    }
}

/// Why a file should have been indexed and was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The system would not let it be read.
    Unreadable,
    /// It was gone when its turn came.
    Vanished,
    /// Its bytes changed while the run was on.
    Changed,
    /// Parsing took longer than the deadline, twice, the second time alone.
    Deadline,
    /// Parsing needed more memory than an instance may have.
    Memory,
    /// Its tree is deeper than is allowed.
    TooDeep,
    /// Its tree has more nodes than are allowed.
    TreeTooLarge,
    /// The guest trapped.
    Trap,
    /// The guest answered with something that cannot be.
    Guest,
    /// The engine failed in another way.
    Engine,
    /// The agent's handler failed.
    Agent,
}

impl Failure {
    const ALL: [Self; 11] = [
        Self::Unreadable,
        Self::Vanished,
        Self::Changed,
        Self::Deadline,
        Self::Memory,
        Self::TooDeep,
        Self::TreeTooLarge,
        Self::Trap,
        Self::Guest,
        Self::Engine,
        Self::Agent,
    ];

    /// The name in the summary.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Vanished => "vanished",
            Self::Changed => "changed",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::TooDeep => "too_deep",
            Self::TreeTooLarge => "tree_too_large",
            Self::Trap => "trap",
            Self::Guest => "guest",
            Self::Engine => "engine",
            Self::Agent => "agent",
        }
    }

    /// The reason that an error of the engine gives.
    pub fn of_parse(kind: AstErrorKind) -> Self {
        match kind {
            AstErrorKind::DeadlineExceeded => Self::Deadline,
            AstErrorKind::MemoryExceeded => Self::Memory,
            AstErrorKind::TooDeep => Self::TooDeep,
            AstErrorKind::OutputTooLarge => Self::TreeTooLarge,
            AstErrorKind::GuestTrapped => Self::Trap,
            AstErrorKind::GuestMisbehaved => Self::Guest,
            _ => Self::Engine,
        }
    }

    /// The task error that carries this reason out of a handler.
    pub fn into_task_error(self) -> TaskError {
        TaskError::permanent(self.name())
    }

    /// The reason that a task error carries; one that is not from [`Self::into_task_error`] is a panic.
    pub fn of_task(error: &TaskError) -> Self {
        Self::ALL
            .into_iter()
            .find(|failure| failure.name() == error.message())
            .unwrap_or(Self::Agent)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_its_way_through_a_task() {
        for failure in Failure::ALL {
            assert_eq!(Failure::of_task(&failure.into_task_error()), failure);
        }
        assert_eq!(Failure::of_task(&TaskError::permanent("a panic")), Failure::Agent);
    }
}
