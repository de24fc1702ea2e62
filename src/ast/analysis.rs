//! What this crate can tell about the trees of a language beyond their nodes.
//!
//! Each grammar carries a table that says, for every kind of node, which analysis looks at it; a walk
//! then skips all other nodes at the cost of one load. Kinds are known by their names, those of the
//! tree-sitter grammars: an engine with other names for a known language gets no analysis, and says so.

use super::error::{AstError, AstErrorKind};
use super::grammar::KindInfo;
use super::language::{Capabilities, Language};
use super::tree::SyntaxTree;
use super::{imports, outline, references};

/// The outline looks at nodes of this kind.
pub(super) const OUTLINE: u8 = 1 << 0;
/// The imports do.
pub(super) const IMPORT: u8 = 1 << 1;
/// A name that may refer to something.
pub(super) const NAME: u8 = 1 << 2;

/// The most text that the answer of one analysis may hold, in bytes.
///
/// An answer repeats parts of the source (a path in each name taken from it, a signature for each variable
/// that it declares); a source written to make much of little is refused rather than paid for in memory.
pub(super) const MAX_TEXT_BYTES: usize = 32 << 20;

/// A family of languages whose trees are read by the same rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Rust,
    /// JavaScript, TypeScript and TSX: the grammars of the latter two extend that of the first.
    Ecma,
    Python,
}

impl Dialect {
    fn of(language: Language) -> Option<Self> {
        match language {
            Language::RUST => Some(Self::Rust),
            Language::JAVASCRIPT | Language::TYPESCRIPT | Language::TSX => Some(Self::Ecma),
            Language::PYTHON => Some(Self::Python),
            _ => None,
        }
    }

    /// The kind of the root, by which a grammar is recognised.
    fn root(self) -> &'static str {
        match self {
            Self::Rust => "source_file",
            Self::Ecma => "program",
            Self::Python => "module",
        }
    }
}

/// Which analyses look at which kinds of a grammar.
#[derive(Debug)]
pub(super) struct Analysis {
    pub(super) dialect: Dialect,
    interest: Box<[u8]>,
}

impl Analysis {
    /// The table for a grammar, or nothing when the language or its kinds are not known here.
    pub(super) fn of(language: Language, kinds: &[KindInfo]) -> Option<Self> {
        let dialect = Dialect::of(language)?;
        let root = dialect.root();
        kinds.iter().find(|kind| kind.named && kind.name == root)?;
        let interest = kinds.iter().map(|kind| match kind.named {
            true => {
                outline::interest(dialect, &kind.name)
                    | imports::interest(dialect, &kind.name)
                    | references::interest(dialect, &kind.name)
            }
            false => 0,
        });
        Some(Self { dialect, interest: interest.collect() })
    }

    /// Whether one of the analyses in `mask` looks at nodes of this kind.
    #[inline]
    pub(super) fn wants(&self, kind: u16, mask: u8) -> bool {
        self.interest[usize::from(kind)] & mask != 0
    }
}

impl SyntaxTree {
    /// The table of this tree's grammar, or the error that says what cannot be answered.
    pub(super) fn analysis(&self, what: &str) -> Result<&Analysis, AstError> {
        self.grammar().analysis().ok_or_else(|| {
            AstError::new(
                AstErrorKind::UnsupportedAnalysis,
                format!(
                    "this crate has no {what} for {} as this engine parses it",
                    self.language()
                ),
            )
        })
    }
}

/// Refuses an answer that holds more text than one may.
pub(super) fn check_text(what: &str, bytes: usize) -> Result<(), AstError> {
    if bytes <= MAX_TEXT_BYTES {
        return Ok(());
    }
    let what = format!("bytes of text in {what}");
    let (limit, found) = (MAX_TEXT_BYTES as u64, bytes as u64);
    Err(AstError::over_limit(AstErrorKind::OutputTooLarge, &what, limit, found))
}

/// The analyses that exist for a language.
pub(super) fn capabilities(language: Language) -> Capabilities {
    let known = Dialect::of(language).is_some();
    Capabilities { outline: known, imports: known, references: known }
}
