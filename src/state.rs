//! The state manager.
