//! The fleet: leases, tasks, and nothing lost when agents die.

mod expiry;
mod leases;
mod stop;
mod storm;
mod submit;
mod support;
mod tasks;
