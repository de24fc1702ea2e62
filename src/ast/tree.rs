//! The syntax tree: validated records over a source text.
//!
//! Invariants of every [`SyntaxTree`], established by `from_records` and relied on by all that walks:
//!
//! 1. There is a root, record 0, and `descendants` of each record counts exactly what lies below it: the
//!    subtree of record `i` is `i ..= i + descendants(i)`, inside that of its parent.
//! 2. `parents[i] < i` is the index of the parent of record `i`; that of the root is 0.
//! 3. Ranges lie inside the text, on character boundaries, inside the parent's, and siblings do not overlap
//!    and stand in order.
//! 4. Kinds and fields are numbers of the grammar's tables; the root fills no field.
//! 5. `HAS_ERROR` is set exactly where the node or one below it is an error or missing.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::AstError;
use super::grammar::Grammar;
use super::language::Language;
use super::limits::Limits;
use super::node::Node;
use super::record::NodeRecord;

/// A place in a text as editors show it, both counted from 0.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
pub struct Point {
    /// The line, counted by line feeds: a carriage return before one belongs to its line.
    pub row: u32,
    /// The byte within the line.
    pub column: u32,
}

/// A concrete syntax tree and the text that it stands for. Immutable; share it by `Arc`.
///
/// It holds 24 bytes a node, 4 a line, and the text. Walking it allocates nothing and never recurses.
pub struct SyntaxTree {
    grammar: Arc<Grammar>,
    text: Arc<str>,
    records: Box<[NodeRecord]>,
    parents: Box<[u32]>,
    line_starts: Box<[u32]>,
}

impl SyntaxTree {
    /// Makes a tree of records in pre-order, after checking all that walking relies on.
    ///
    /// The rules: the first record is the root and has all others below it; `descendants` nest; ranges lie in
    /// the text, on character boundaries, inside the parent's, in order and without overlap among siblings;
    /// kinds and fields are in the grammar's tables; a missing node is empty and has nothing below it; no
    /// unknown flag is set.
    ///
    /// O(records + bytes); allocates in proportion to the records that it was given, whatever they say.
    ///
    /// # Errors
    ///
    /// [`SourceTooLarge`], [`OutputTooLarge`] and [`TooDeep`] by `limits`, and [`InvalidTree`] with the first
    /// rule that is broken and where.
    ///
    /// [`SourceTooLarge`]: super::AstErrorKind::SourceTooLarge
    /// [`OutputTooLarge`]: super::AstErrorKind::OutputTooLarge
    /// [`TooDeep`]: super::AstErrorKind::TooDeep
    /// [`InvalidTree`]: super::AstErrorKind::InvalidTree
    pub fn from_records(
        grammar: Arc<Grammar>,
        text: Arc<str>,
        mut records: Vec<NodeRecord>,
        limits: &Limits,
    ) -> Result<Self, AstError> {
        limits.check_source_bytes(text.len())?;
        limits.check_nodes(records.len())?;
        let parents = parents_of_valid(&grammar, &text, &records, limits)?;
        mark_errors(&mut records, &parents);
        let line_starts = std::iter::once(0)
            // The text is no longer than `u32::MAX` bytes: its limit is a `u32`.
            .chain(text.match_indices('\n').map(|(at, _)| at as u32 + 1))
            .collect();
        Ok(Self {
            grammar,
            text,
            records: records.into_boxed_slice(),
            parents: parents.into_boxed_slice(),
            line_starts,
        })
    }

    /// The node that spans the whole tree. O(1).
    #[must_use]
    pub fn root(&self) -> Node<'_> {
        Node::new(self, 0)
    }

    /// The node with this [id](Node::id), if there is one. O(1).
    #[must_use]
    pub fn node(&self, id: u32) -> Option<Node<'_>> {
        ((id as usize) < self.records.len()).then(|| Node::new(self, id))
    }

    /// The text that was parsed.
    #[must_use]
    pub fn source(&self) -> &Arc<str> {
        &self.text
    }

    /// The language.
    #[must_use]
    pub fn language(&self) -> Language {
        self.grammar.language()
    }

    /// The tables that kinds and fields are numbered by.
    #[must_use]
    pub fn grammar(&self) -> &Arc<Grammar> {
        &self.grammar
    }

    /// How many nodes it has, at least one.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.records.len()
    }

    /// Whether any node is an error or missing. O(1).
    #[must_use]
    pub fn has_error(&self) -> bool {
        self.root().has_error()
    }

    /// The memory that this tree holds, in bytes, the text included and the shared grammar not.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        size_of::<Self>()
            + self.text.len()
            + size_of_val(&*self.records)
            + size_of_val(&*self.parents)
            + size_of_val(&*self.line_starts)
    }

    /// The place of a byte; one past the end stands for the end. O(log lines).
    #[must_use]
    pub fn point_at(&self, byte: usize) -> Point {
        let byte = byte.min(self.text.len()) as u32;
        let row = self.line_starts.partition_point(|&start| start <= byte) - 1;
        Point { row: row as u32, column: byte - self.line_starts[row] }
    }

    /// The byte of a place, if the text has such a line and the line such a byte. O(1).
    ///
    /// The place of a line's end (before its line feed) counts as being in the line.
    #[must_use]
    pub fn byte_at(&self, point: Point) -> Option<usize> {
        let row = point.row as usize;
        let start = *self.line_starts.get(row)? as usize;
        let end = match self.line_starts.get(row + 1) {
            Some(&next) => next as usize - 1,
            None => self.text.len(),
        };
        let byte = start.checked_add(point.column as usize)?;
        (byte <= end).then_some(byte)
    }

    /// The tree as an S-expression of its named nodes, for tests and people.
    ///
    /// The form is that of tree-sitter: `(source_file (function_item name: (identifier)))`. O(nodes).
    #[must_use]
    pub fn to_sexp(&self) -> String {
        let mut out = String::new();
        // How many closing brackets are due before the record with that index.
        let mut open: Vec<usize> = Vec::new();
        for (index, record) in self.records.iter().enumerate() {
            while open.last().is_some_and(|&past| past <= index) {
                open.pop();
                out.push(')');
            }
            if !record.has(NodeRecord::NAMED | NodeRecord::MISSING) {
                continue;
            }
            if index > 0 {
                out.push(' ');
            }
            if let Some(field) = self.grammar.field_name(record.field) {
                out.push_str(field);
                out.push_str(": ");
            }
            let kind = &self.kind_of(record).name;
            match (record.has(NodeRecord::MISSING), record.has(NodeRecord::NAMED)) {
                (true, true) => out.push_str(&format!("(MISSING {kind}")),
                (true, false) => out.push_str(&format!("(MISSING {kind:?}")),
                (false, _) => out.push_str(&format!("({kind}")),
            }
            open.push(index + 1 + record.descendants as usize);
        }
        out.extend(open.iter().map(|_| ')'));
        out
    }

    pub(super) fn records(&self) -> &[NodeRecord] {
        &self.records
    }

    pub(super) fn parent_index(&self, index: u32) -> u32 {
        self.parents[index as usize]
    }

    pub(super) fn kind_of(&self, record: &NodeRecord) -> &super::grammar::KindInfo {
        &self.grammar.kinds()[usize::from(record.kind)]
    }
}

impl fmt::Debug for SyntaxTree {
    /// Names the language and the sizes; [`to_sexp`](Self::to_sexp) shows the nodes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyntaxTree")
            .field("language", &self.language())
            .field("source_bytes", &self.text.len())
            .field("nodes", &self.records.len())
            .field("has_error", &self.has_error())
            .finish_non_exhaustive()
    }
}

/// A node whose subtree the check is in.
struct Open {
    index: u32,
    /// One past the last record of its subtree.
    past: usize,
    /// Where its next child may start at the earliest.
    floor: u32,
    /// Where its children have to end.
    ceiling: u32,
}

/// Checks every rule of `from_records` and gives the parent of each record.
fn parents_of_valid(
    grammar: &Grammar,
    text: &str,
    records: &[NodeRecord],
    limits: &Limits,
) -> Result<Vec<u32>, AstError> {
    let mut parents = Vec::with_capacity(records.len());
    let mut open: Vec<Open> = Vec::new();
    let Some(root) = records.first() else {
        return Err(AstError::invalid_tree("expected a root, found no record at all"));
    };
    if root.field != 0 {
        return Err(broken(0, "fills a field although it is the root"));
    }
    if root.descendants as usize != records.len() - 1 {
        return Err(broken(0, "is the root but does not have all other records below it"));
    }
    for (index, record) in records.iter().enumerate() {
        while open.last().is_some_and(|node| node.past == index) {
            open.pop();
        }
        limits.check_depth(open.len() + 1)?;
        let (parent, floor, ceiling, most) = match open.last_mut() {
            Some(node) => {
                let floor = std::mem::replace(&mut node.floor, record.end);
                (node.index, floor, node.ceiling, node.past)
            }
            // Only the root is met with nothing open: its subtree is the whole list.
            None => (0, 0, text.len() as u32, records.len()),
        };
        if let Some(rule) = broken_rule(grammar, text, record, floor, ceiling) {
            return Err(broken(index, rule));
        }
        let past = (index + 1).saturating_add(record.descendants as usize);
        if past > most {
            return Err(broken(index, "claims more descendants than its parent has room for"));
        }
        parents.push(parent);
        if record.descendants > 0 {
            let index = index as u32;
            open.push(Open { index, past, floor: record.start, ceiling: record.end });
        }
    }
    Ok(parents)
}

#[inline]
fn broken_rule(
    grammar: &Grammar,
    text: &str,
    record: &NodeRecord,
    floor: u32,
    ceiling: u32,
) -> Option<&'static str> {
    if record.start > record.end {
        return Some("ends before it starts");
    }
    if record.start < floor {
        return Some("starts before its parent does or the sibling before it ends");
    }
    if record.end > ceiling {
        return Some("ends after its parent or the text");
    }
    // An index past the end is no boundary either.
    if !text.is_char_boundary(record.start as usize) || !text.is_char_boundary(record.end as usize)
    {
        return Some("cuts a character in two");
    }
    if usize::from(record.kind) >= grammar.kinds().len() {
        return Some("has a kind that the grammar does not list");
    }
    if usize::from(record.field) > grammar.fields().len() {
        return Some("has a field that the grammar does not list");
    }
    if record.flags & !NodeRecord::ALL_FLAGS != 0 {
        return Some("has an unknown flag");
    }
    if record.has(NodeRecord::MISSING) && (record.start != record.end || record.descendants != 0) {
        return Some("is missing but not empty");
    }
    None
}

#[cold]
fn broken(index: usize, rule: &str) -> AstError {
    AstError::invalid_tree(format!("record {index} {rule}"))
}

/// Establishes invariant 5: children come after their parents, so one pass from the end suffices.
fn mark_errors(records: &mut [NodeRecord], parents: &[u32]) {
    for record in records.iter_mut() {
        record.flags &= !NodeRecord::HAS_ERROR;
        if record.has(NodeRecord::ERROR | NodeRecord::MISSING) {
            record.flags |= NodeRecord::HAS_ERROR;
        }
    }
    for index in (1..records.len()).rev() {
        if records[index].has(NodeRecord::HAS_ERROR) {
            records[parents[index] as usize].flags |= NodeRecord::HAS_ERROR;
        }
    }
}
