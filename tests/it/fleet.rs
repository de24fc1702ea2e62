//! The fleet: leases, tasks, and nothing lost when agents die.

mod batches;
mod budgets;
mod claims;
mod dependencies;
mod driven;
mod expiry;
mod futures;
mod hangar;
mod health;
mod keys;
mod leases;
mod messages;
mod named;
mod picker;
mod quotas;
mod results;
mod retire;
mod scaling;
mod simulation;
mod stop;
mod storm;
mod submit;
mod supervision;
mod support;
mod tasks;
mod timing;
