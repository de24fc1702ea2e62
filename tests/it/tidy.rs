//! Behaviour of `tidy`.
