//! Building a tree node by node, for engines that hold no records.

use std::ops::Range;
use std::sync::Arc;

use super::error::AstError;
use super::grammar::Grammar;
use super::limits::Limits;
use super::record::NodeRecord;
use super::tree::SyntaxTree;

/// What a [`TreeBuilder`] is told about a node besides its place: the kind, the field, the marks.
///
/// A bare kind number converts into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct NodeSpec {
    kind: u16,
    field: u16,
    flags: u8,
}

impl NodeSpec {
    /// A node of a kind, as [`Grammar::kind_id`] numbers it.
    pub fn new(kind: u16) -> Self {
        Self { kind, field: 0, flags: 0 }
    }

    /// It fills a field of its parent, as [`Grammar::field_id`] numbers it.
    pub fn in_field(mut self, field: u16) -> Self {
        self.field = field;
        self
    }

    /// It holds text that the parser could not understand.
    pub fn error(mut self) -> Self {
        self.flags |= NodeRecord::ERROR;
        self
    }

    /// It is not in the text; the parser put it there to go on. It has to be empty.
    pub fn missing(mut self) -> Self {
        self.flags |= NodeRecord::MISSING;
        self
    }

    /// It may stand anywhere, such as a comment.
    pub fn extra(mut self) -> Self {
        self.flags |= NodeRecord::EXTRA;
        self
    }
}

impl From<u16> for NodeSpec {
    fn from(kind: u16) -> Self {
        Self::new(kind)
    }
}

/// Builds a [`SyntaxTree`] in the order in which a parser meets its nodes: open, what is inside, close.
///
/// Limits are checked at each step, so that a hostile source is stopped when it reaches one; the rest is
/// checked when the tree is finished, as by [`SyntaxTree::from_records`]. After an error the builder may
/// be dropped or used on; the call that failed has changed nothing.
///
/// ```
/// use phalanx::ast::{Grammar, KindInfo, Language, Limits, NodeSpec, TreeBuilder};
/// use std::sync::Arc;
///
/// let words = Language::new("words").expect("a valid id");
/// let kinds = vec![KindInfo::named("text"), KindInfo::named("word")];
/// let grammar = Arc::new(Grammar::new(words, kinds, vec!["first".to_owned()])?);
///
/// let mut builder = TreeBuilder::new(grammar, "to be", &Limits::default())?;
/// builder.open(0, 0)?;
/// builder.leaf(NodeSpec::new(1).in_field(1), 0..2)?;
/// builder.leaf(1, 3..5)?;
/// builder.close(5)?;
/// let tree = builder.finish()?;
/// assert_eq!(tree.to_sexp(), "(text first: (word) (word))");
/// assert_eq!(tree.root().children().map(|word| word.text()).collect::<Vec<_>>(), ["to", "be"]);
/// # Ok::<(), phalanx::ast::AstError>(())
/// ```
#[derive(Debug)]
pub struct TreeBuilder {
    grammar: Arc<Grammar>,
    text: Arc<str>,
    limits: Limits,
    records: Vec<NodeRecord>,
    open: Vec<u32>,
}

impl TreeBuilder {
    /// Starts a tree over a text.
    ///
    /// # Errors
    ///
    /// [`SourceTooLarge`](super::AstErrorKind::SourceTooLarge) by `limits`.
    pub fn new(
        grammar: Arc<Grammar>,
        text: impl Into<Arc<str>>,
        limits: &Limits,
    ) -> Result<Self, AstError> {
        let text = text.into();
        limits.check_source_bytes(text.len())?;
        Ok(Self { grammar, text, limits: *limits, records: Vec::new(), open: Vec::new() })
    }

    /// Opens a node that starts at a byte; what follows lies inside it until it is closed.
    ///
    /// # Errors
    ///
    /// [`TooDeep`](super::AstErrorKind::TooDeep) and [`OutputTooLarge`](super::AstErrorKind::OutputTooLarge) by the limits;
    /// [`InvalidTree`](super::AstErrorKind::InvalidTree) for a kind that the grammar lacks or a place outside the text.
    pub fn open(&mut self, node: impl Into<NodeSpec>, start: usize) -> Result<(), AstError> {
        self.limits.check_nodes(self.records.len() + 1)?;
        self.limits.check_depth(self.open.len() + 1)?;
        let NodeSpec { kind, field, mut flags } = node.into();
        let Some(info) = self.grammar.kinds().get(usize::from(kind)) else {
            return Err(AstError::invalid_tree(format!("the grammar has no kind {kind}")));
        };
        if info.named {
            flags |= NodeRecord::NAMED;
        }
        let start = self.place(start)?;
        self.open.push(self.records.len() as u32);
        self.records.push(NodeRecord { start, end: start, descendants: 0, kind, field, flags });
        Ok(())
    }

    /// Closes the node that was opened last and is still open; `end` is one past its last byte.
    ///
    /// # Errors
    ///
    /// [`InvalidTree`](super::AstErrorKind::InvalidTree) when none is open or the place is outside the text.
    pub fn close(&mut self, end: usize) -> Result<(), AstError> {
        let end = self.place(end)?;
        let Some(index) = self.open.pop() else {
            return Err(AstError::invalid_tree("expected an open node to close, found none"));
        };
        let below = self.records.len() as u32 - 1 - index;
        let record = &mut self.records[index as usize];
        record.end = end;
        record.descendants = below;
        Ok(())
    }

    /// Adds a node with nothing below it.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open) and [`close`](Self::close).
    pub fn leaf(&mut self, node: impl Into<NodeSpec>, range: Range<usize>) -> Result<(), AstError> {
        self.place(range.end)?;
        self.open(node, range.start)?;
        self.close(range.end)
    }

    /// How many nodes are open.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.open.len()
    }

    /// Checks the whole and makes the tree.
    ///
    /// # Errors
    ///
    /// [`InvalidTree`](super::AstErrorKind::InvalidTree) when a node is still open or a rule of
    /// [`SyntaxTree::from_records`] is broken.
    pub fn finish(self) -> Result<SyntaxTree, AstError> {
        if !self.open.is_empty() {
            return Err(AstError::invalid_tree(format!(
                "expected every node to be closed, found {} open",
                self.open.len()
            )));
        }
        SyntaxTree::from_records(self.grammar, self.text, self.records, &self.limits)
    }

    fn place(&self, byte: usize) -> Result<u32, AstError> {
        if byte > self.text.len() {
            return Err(AstError::invalid_tree(format!(
                "expected a place in the text of {} bytes, found {byte}",
                self.text.len()
            )));
        }
        // The length of the text is within its limit, a `u32`.
        Ok(byte as u32)
    }
}
