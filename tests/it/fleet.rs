//! Behaviour of `fleet`.
