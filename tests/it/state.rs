//! Behaviour of `state`.
