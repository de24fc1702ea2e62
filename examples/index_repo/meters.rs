//! The two who listen on the bus: one measures and must miss nothing, one shows progress and may.

use crate::agents::Step;
use crate::summary::Latency;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use phalanx::Error;
use phalanx::bus::{EventBus, Filter, Overflow, RecvError};
use phalanx::coordinator::{Notice, topics};
use phalanx::fleet::FleetEvent;
use std::thread::{self, JoinHandle};

/// Both of them; they end when the bus is closed.
#[derive(Debug)]
pub struct Meters {
    allocation: JoinHandle<Histogram<u64>>,
    progress: JoinHandle<()>,
}

impl Meters {
    /// Begins to listen. With `quiet`, or without a terminal, progress is not shown.
    pub fn start(bus: &EventBus<Notice<Step>>, quiet: bool) -> Result<Self, Error> {
        let mut attempts = bus.subscribe(Filter::topics([topics::TASK_ATTEMPT])?, Overflow::Block);
        let allocation = thread::spawn(move || {
            // Up to an hour, to three digits.
            let mut latencies = Histogram::new_with_bounds(1, 3_600_000_000_000, 3)
                .expect("the bounds are in order");
            // A blocking subscription is never told that it lagged: any end is the end of the bus.
            while attempts.for_each_batch(|event| record(&mut latencies, event.payload)).is_ok() {}
            latencies
        });
        let mut steps = bus.subscribe(Filter::topics([topics::HOST])?, Overflow::DropOldest);
        let target =
            if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let progress = thread::spawn(move || {
            let bar = ProgressBar::with_draw_target(None, target);
            bar.set_style(ProgressStyle::default_spinner());
            loop {
                match steps.recv() {
                    Ok(event) => show(&bar, &event.payload),
                    // Each step carries the whole count, so what was missed is made up for by the next.
                    Err(RecvError::Lagged { .. }) => {}
                    Err(_) => break,
                }
            }
            bar.finish_and_clear();
        });
        Ok(Self { allocation, progress })
    }

    /// Waits for both, after the bus was closed; none if no agent was allocated.
    pub fn finish(self) -> Option<Latency> {
        let latencies = join(self.allocation);
        join(self.progress);
        (!latencies.is_empty()).then(|| Latency {
            p50: latencies.value_at_quantile(0.50),
            p99: latencies.value_at_quantile(0.99),
            max: latencies.max(),
        })
    }
}

fn record(latencies: &mut Histogram<u64>, notice: &Notice<Step>) {
    if let Notice::Fleet(FleetEvent::AttemptStarted { allocation, .. }) = notice {
        latencies.saturating_record(u64::try_from(allocation.as_nanos()).unwrap_or(u64::MAX));
    }
}

fn show(bar: &ProgressBar, notice: &Notice<Step>) {
    let Notice::Host(step) = notice else { return };
    match *step {
        Step::Seen(seen) if bar.length().is_none() => {
            bar.set_message(format!("{seen} files seen, {} done", bar.position()));
            bar.tick();
        }
        Step::Seen(_) => {}
        Step::Settled { settled, .. } | Step::Resolved { settled, .. } => bar.set_position(settled),
        Step::Walked(seen) => start_bar(bar, seen, "indexing"),
        Step::Resolving(files) => {
            start_bar(bar, files, "resolving");
            bar.set_position(0);
        }
    }
}

fn start_bar(bar: &ProgressBar, length: u64, what: &'static str) {
    bar.set_length(length);
    bar.set_message(what);
    let style = ProgressStyle::with_template("{msg:10} {bar:40} {pos}/{len} files, {elapsed}");
    bar.set_style(style.expect("the template is well formed"));
}

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
