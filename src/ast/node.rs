//! A node of a tree, and the iterators that walk from it.
//!
//! What makes the walk cheap and sound are the invariants of [`tree`](super::tree): the subtree of a node
//! is a contiguous run of records, so the next sibling is one addition away.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;

use super::record::NodeRecord;
use super::tree::{Point, SyntaxTree};

/// A node of a [`SyntaxTree`]: a reference and an index, `Copy`.
///
/// Unless an item says otherwise it costs O(1), allocates nothing and does not recurse.
#[derive(Clone, Copy)]
pub struct Node<'t> {
    tree: &'t SyntaxTree,
    index: u32,
}

impl<'t> Node<'t> {
    /// `index` is that of a record of `tree`.
    pub(super) fn new(tree: &'t SyntaxTree, index: u32) -> Self {
        Self { tree, index }
    }

    #[inline]
    fn record(self) -> &'t NodeRecord {
        &self.tree.records()[self.index as usize]
    }

    /// One past the last record of the subtree.
    #[inline]
    pub(super) fn past(self) -> u32 {
        self.index + 1 + self.record().descendants
    }

    /// The tree that it is a node of.
    #[must_use]
    pub fn tree(self) -> &'t SyntaxTree {
        self.tree
    }

    /// Its place in pre-order, from 0 for the root: [`SyntaxTree::node`] finds it again.
    #[must_use]
    pub fn id(self) -> u32 {
        self.index
    }

    /// The name of its kind, such as `function_item`.
    #[must_use]
    pub fn kind(self) -> &'t str {
        &self.tree.kind_of(self.record()).name
    }

    /// The number of its kind in [`Grammar::kinds`](super::Grammar::kinds).
    #[must_use]
    pub fn kind_id(self) -> u16 {
        self.record().kind
    }

    /// The name of the field that it fills in its parent.
    #[must_use]
    pub fn field(self) -> Option<&'t str> {
        self.tree.grammar().field_name(self.record().field)
    }

    /// Whether it is a rule of the grammar rather than a literal token.
    #[must_use]
    pub fn is_named(self) -> bool {
        self.record().has(NodeRecord::NAMED)
    }

    /// Whether it holds text that the parser could not understand.
    #[must_use]
    pub fn is_error(self) -> bool {
        self.record().has(NodeRecord::ERROR)
    }

    /// Whether the parser put it there although the text lacks it; it is empty then.
    #[must_use]
    pub fn is_missing(self) -> bool {
        self.record().has(NodeRecord::MISSING)
    }

    /// Whether it may stand anywhere, such as a comment.
    #[must_use]
    pub fn is_extra(self) -> bool {
        self.record().has(NodeRecord::EXTRA)
    }

    /// Whether it, or a node below it, is an error or missing.
    #[must_use]
    pub fn has_error(self) -> bool {
        self.record().has(NodeRecord::HAS_ERROR)
    }

    /// The bytes of the source that it spans.
    #[must_use]
    pub fn byte_range(self) -> Range<usize> {
        let record = self.record();
        record.start as usize..record.end as usize
    }

    /// The text that it spans.
    #[must_use]
    pub fn text(self) -> &'t str {
        &self.tree.source()[self.byte_range()]
    }

    /// Where it starts; O(log lines).
    #[must_use]
    pub fn start_point(self) -> Point {
        self.tree.point_at(self.record().start as usize)
    }

    /// Where it ends (the place after its last byte); O(log lines).
    #[must_use]
    pub fn end_point(self) -> Point {
        self.tree.point_at(self.record().end as usize)
    }

    /// The node that it is a child of; `None` for the root.
    #[must_use]
    pub fn parent(self) -> Option<Self> {
        (self.index != 0).then(|| Self::new(self.tree, self.tree.parent_index(self.index)))
    }

    /// Its children in order, tokens included; O(1) a step.
    #[must_use]
    pub fn children(self) -> Children<'t> {
        Children { tree: self.tree, next: self.index + 1, past: self.past() }
    }

    /// Its children that are rules of the grammar, in order; O(children) in all.
    pub fn named_children(self) -> impl FusedIterator<Item = Node<'t>> + Clone + use<'t> {
        self.children().filter(|child| child.is_named())
    }

    /// The first child that fills the field; O(fields + children).
    #[must_use]
    pub fn child_by_field(self, field: &str) -> Option<Self> {
        let field = self.tree.grammar().field_id(field)?;
        self.children().find(|child| child.record().field == field)
    }

    /// All children that fill the field, in order; O(fields + children) in all.
    pub fn children_by_field(self, field: &str) -> impl FusedIterator<Item = Node<'t>> + use<'t> {
        let field = self.tree.grammar().field_id(field);
        self.children().filter(move |child| Some(child.record().field) == field)
    }

    /// The child of its parent that comes after it.
    #[must_use]
    pub fn next_sibling(self) -> Option<Self> {
        let next = self.past();
        (next < self.parent()?.past()).then(|| Self::new(self.tree, next))
    }

    /// The child of its parent that comes before it; O(siblings before it).
    #[must_use]
    pub fn prev_sibling(self) -> Option<Self> {
        self.parent()?.children().take_while(|child| child.index < self.index).last()
    }

    /// All nodes below it, itself not included, in pre-order; O(1) a step.
    #[must_use]
    pub fn descendants(self) -> Descendants<'t> {
        Descendants { tree: self.tree, next: self.index + 1, past: self.past() }
    }

    /// How many nodes are below it.
    #[must_use]
    pub fn descendant_count(self) -> usize {
        self.record().descendants as usize
    }

    /// The smallest node that spans the byte range, starting from this one; O(children) a level.
    ///
    /// `None` when this node itself does not span it.
    #[must_use]
    pub fn descendant_for(self, range: Range<usize>) -> Option<Self> {
        let spans = |node: Self| {
            let own = node.byte_range();
            own.start <= range.start && range.end <= own.end
        };
        let mut found = spans(self).then_some(self)?;
        while let Some(child) = found.children().find(|&child| spans(child)) {
            found = child;
        }
        Some(found)
    }
}

/// The same node of the same tree (not of an equal one).
impl PartialEq for Node<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.tree, other.tree) && self.index == other.index
    }
}

impl Eq for Node<'_> {}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind(), self.byte_range())
    }
}

/// The children of a [`Node`], in order.
#[derive(Clone, Debug)]
pub struct Children<'t> {
    tree: &'t SyntaxTree,
    next: u32,
    past: u32,
}

impl<'t> Iterator for Children<'t> {
    type Item = Node<'t>;

    fn next(&mut self) -> Option<Node<'t>> {
        if self.next == self.past {
            return None;
        }
        let node = Node::new(self.tree, self.next);
        self.next = node.past();
        Some(node)
    }
}

impl FusedIterator for Children<'_> {}

/// The nodes below a [`Node`], in pre-order.
#[derive(Clone, Debug)]
pub struct Descendants<'t> {
    tree: &'t SyntaxTree,
    next: u32,
    past: u32,
}

impl<'t> Iterator for Descendants<'t> {
    type Item = Node<'t>;

    fn next(&mut self) -> Option<Node<'t>> {
        if self.next == self.past {
            return None;
        }
        let node = Node::new(self.tree, self.next);
        self.next += 1;
        Some(node)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.past - self.next) as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Descendants<'_> {}
impl FusedIterator for Descendants<'_> {}
