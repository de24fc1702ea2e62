//! The syntax engine: source code read by structure.
