//! Behaviour of `index_repo`.
