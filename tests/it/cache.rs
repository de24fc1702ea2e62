//! Behaviour of `cache`.
