//! The seam between this crate and whatever parses.

use std::fmt::Debug;
use std::sync::Arc;

use super::error::AstError;
use super::language::LanguageInfo;
use super::limits::Limits;
use super::source::Source;
use super::tree::SyntaxTree;

/// Something that turns sources into trees: the sandboxed engine, or one of the host's own.
///
/// It is object-safe; everything that needs an engine takes an `Arc<dyn AstEngine>`. An implementation
///
/// - parses whatever text it is given into a tree, marking what it could not understand as error and
///   missing nodes: broken code is no error;
/// - returns an error only for what [`AstErrorKind`](super::AstErrorKind) lists, and never panics on a source;
/// - honours every limit, [`Limits::check_source`] first;
/// - gives equal trees for equal sources, whatever ran before and on which thread.
pub trait AstEngine: Send + Sync + Debug {
    /// The languages that it parses, in no particular order.
    fn languages(&self) -> &[LanguageInfo];

    /// Parses a source; blocks until the tree stands or a limit stopped it.
    ///
    /// # Errors
    ///
    /// An [`AstError`] whose kind says what stopped it. Those of limits name the limit and what was found;
    /// only [`is_retryable`](AstError::is_retryable) ones depend on the moment.
    fn parse(&self, source: &Source<'_>, limits: &Limits) -> Result<Arc<SyntaxTree>, AstError>;
}
