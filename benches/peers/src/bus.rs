//! The event bus beside its peers.
//!
//! Where things are: [`payload`] is what is published and what a reader makes of it, [`race`] how publishers
//! and readers are run and timed. The ends of the contestants are in [`ours`], [`peers_ring`] (disruptor),
//! [`peers_broadcast`] (the other broadcasts) and [`peers_channel`] (queues, alone and one for each reader).
//! The rows are in the files `rows_*`, in the order of [`ROWS`].
//!
//! Everybody loses nothing, and hands each reader every event, unless a row says otherwise. The peers have
//! rings of 65,536, ours the one that it comes with. Where a contestant has the means, events are read in
//! place and in batches; they are published one at a time but in the rows named after their batches.

mod ours;
mod payload;
mod peers_broadcast;
mod peers_channel;
mod peers_ring;
mod race;
mod rows_policy;
mod rows_throughput;
mod rows_wait;

use serde_json::{Map, Value};

use crate::measure::{Contestant, measure};
use crate::row::{Row, Spec, Time, Unit};
use crate::{RowFn, Settings};

pub const ROWS: &[(&str, RowFn)] = &[
    ("1to1-exclusive", rows_throughput::one_to_one_exclusive),
    ("1to1-shared", rows_throughput::one_to_one_shared),
    ("1to4", rows_throughput::one_to_four),
    ("4to1", rows_throughput::four_to_one),
    ("4to4", rows_throughput::four_to_four),
    ("100to1", rows_throughput::hundred_to_one),
    ("100to4", rows_throughput::hundred_to_four),
    ("1000to4", rows_throughput::thousand_to_four),
    ("batch256-4to4", rows_throughput::batch_256_four_to_four),
    ("batch32-100to4", rows_throughput::batch_32_hundred_to_four),
    ("arc500-1to4", rows_throughput::arc_500_one_to_four),
    ("topics-1to4", rows_policy::topics_one_to_four),
    ("stalled-reader", rows_policy::stalled_reader),
    ("async-1to4", rows_wait::async_one_to_four),
    ("zero-subscribers", rows_policy::zero_subscribers),
    ("no-match", rows_policy::no_match),
    ("pingpong", rows_wait::pingpong),
    ("parked-wake", rows_wait::parked_wake),
    ("idle-cpu", rows_wait::idle_cpu),
    ("oversubscribed", rows_policy::oversubscribed),
];

/// Who takes part in a row.
struct Lineup<'a> {
    settings: &'a Settings,
    contestants: Vec<Contestant<'static>>,
}

impl<'a> Lineup<'a> {
    fn of(settings: &'a Settings, ours: Contestant<'static>) -> Self {
        Self { settings, contestants: vec![ours] }
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
        id: &'static str,
        what: &'static str,
        work: Map<String, Value>,
        targets: &'static [(&'static str, f64)],
    ) -> Row {
        self.measure_in((Unit::PerSecond, Time::Wall), id, what, work, targets)
    }

    fn measure_in(
        self,
        (unit, time): (Unit, Time),
        id: &'static str,
        what: &'static str,
        work: Map<String, Value>,
        targets: &'static [(&'static str, f64)],
    ) -> Row {
        let spec = Spec { part: "bus", id, what, unit, time, work, targets };
        measure(self.settings, spec, self.contestants)
    }
}
