//! Behaviour of `ast`.
