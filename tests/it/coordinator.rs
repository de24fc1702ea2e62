//! Behaviour of `coordinator`.
