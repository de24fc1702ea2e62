//! The fleet beside its peers.
//!
//! Where things are: [`tally`] is what is told and how it is known that all of it was handled, [`actors`] the
//! one door to the actors of the peers and where they run, [`peers_actors`] those actors, [`peers_dispatch`]
//! the pools that hand out tasks and [`peers_pool`] those that hand out objects, [`ours`] this crate's fleet.
//! The rows are in the files `rows_*`, in the order of [`ROWS`].
//!
//! A row that this crate has no API for yet shows its peers alone, says why, and fails.

mod actors;
mod ours;
mod peers_actors;
mod peers_dispatch;
mod peers_pool;
mod rows_lease;
mod rows_size;
mod rows_tell;
mod rows_work;
mod tally;

use serde_json::{Map, Value};

use crate::measure::{Contestant, measure_or};
use crate::row::{Row, Spec, Time, Unit};
use crate::{RowFn, Settings};

pub use rows_size::child;

pub const ROWS: &[(&str, RowFn)] = &[
    ("checkout", rows_lease::checkout),
    ("checkout-full", rows_lease::checkout_full),
    ("least-loaded-1k", rows_lease::least_loaded_1k),
    ("least-loaded-100k", rows_lease::least_loaded_100k),
    ("priority-1k", rows_lease::priority_1k),
    ("priority-100k", rows_lease::priority_100k),
    ("round-robin-1k", rows_lease::round_robin_1k),
    ("round-robin-100k", rows_lease::round_robin_100k),
    ("capability-1k", rows_lease::capability_1k),
    ("capability-100k", rows_lease::capability_100k),
    ("performance-1k", rows_lease::performance_1k),
    ("performance-100k", rows_lease::performance_100k),
    ("two-threads", rows_lease::two_threads),
    ("dispatch-1000", rows_work::dispatch_1000),
    ("dispatch-1000-apart", rows_work::dispatch_1000_apart),
    ("spawn-100k", rows_size::spawn_100k),
    ("bytes-idle", rows_size::bytes_idle),
    ("tell-1000x1000", rows_tell::tell_1000x1000),
    ("tell-1000x1000-apart", rows_tell::tell_1000x1000_apart),
    ("tell-100x100", rows_tell::tell_100x100),
    ("tell-100x100-apart", rows_tell::tell_100x100_apart),
    ("ask", rows_tell::ask),
    ("stop-1000", rows_tell::stop_1000),
    ("efficiency", rows_work::efficiency),
    ("spike", rows_size::spike),
    ("million", rows_size::million),
];

type Targets = &'static [(&'static str, f64)];

/// Who takes part in a row.
struct Lineup<'a> {
    settings: &'a Settings,
    contestants: Vec<Contestant<'static>>,
    /// Why this crate does not take part, if it does not.
    absent: &'static str,
}

impl<'a> Lineup<'a> {
    fn of(settings: &'a Settings, ours: Contestant<'static>) -> Self {
        Self { settings, contestants: vec![ours], absent: "" }
    }

    /// One that this crate does not take part in yet, and why.
    fn without_ours(settings: &'a Settings, absent: &'static str) -> Self {
        Self { settings, contestants: Vec::new(), absent }
    }

    /// One that the reach of the row names, or may turn out to mean.
    fn and(mut self, peer: Contestant<'static>) -> Self {
        self.contestants.push(peer);
        self
    }

    /// One that is there to be seen: not in a quick run.
    fn beside(self, peer: Contestant<'static>) -> Self {
        if self.settings.quick { self } else { self.and(peer) }
    }

    fn measure(
        self,
        (unit, time): (Unit, Time),
        id: &'static str,
        what: &'static str,
        work: Value,
        targets: Targets,
    ) -> Row {
        let work = if let Value::Object(work) = work { work } else { Map::new() };
        let spec = Spec { part: "fleet", id, what, unit, time, work, targets };
        measure_or(self.settings, spec, self.contestants, self.absent)
    }
}
