//! The agent pool.
