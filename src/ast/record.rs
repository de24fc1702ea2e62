//! The flat form of a tree: one small record a node, in pre-order.

/// A node as engines hand it over: fixed in size, in pre-order (a node, then its first child with all
/// that is below it, then the next).
///
/// Byte positions count from the start of the source. See [`SyntaxTree::from_records`] for the rules
/// that a list of them has to keep.
///
/// [`SyntaxTree::from_records`]: super::SyntaxTree::from_records
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeRecord {
    /// The first byte.
    pub start: u32,
    /// One past the last byte; equal to `start` for an empty node.
    pub end: u32,
    /// How many of the records that follow lie below this one.
    pub descendants: u32,
    /// The kind: an index into [`Grammar::kinds`](super::Grammar::kinds).
    pub kind: u16,
    /// The field that it fills in its parent, from 1, or 0 for none.
    pub field: u16,
    /// The sum of the flags below; other bits have to be 0.
    pub flags: u8,
}

impl NodeRecord {
    /// The node is a rule of the grammar, not a literal token.
    pub const NAMED: u8 = 1 << 0;
    /// The node holds text that the parser could not understand.
    pub const ERROR: u8 = 1 << 1;
    /// The node is not in the text: the parser put it there to go on. It is empty.
    pub const MISSING: u8 = 1 << 2;
    /// The node may stand anywhere, such as a comment.
    pub const EXTRA: u8 = 1 << 3;
    /// The node is, or has below it, an error or a missing node. Worked out anew from the other flags
    /// when a tree is made, so that engines need not set it.
    pub const HAS_ERROR: u8 = 1 << 4;

    pub(super) const ALL_FLAGS: u8 =
        Self::NAMED | Self::ERROR | Self::MISSING | Self::EXTRA | Self::HAS_ERROR;

    #[inline]
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}
