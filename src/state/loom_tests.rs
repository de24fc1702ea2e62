//! Interleavings of group commit.
