//! The cache against a naive one.
