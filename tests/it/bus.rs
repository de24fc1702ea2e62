//! Behaviour of `bus`.
