//! The fleet: leases, tasks, and nothing lost when agents die.

mod support;
mod tasks;
