//! The coordinator: one of each part, wired.
