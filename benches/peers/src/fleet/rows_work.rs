//! The rows in which tasks are handed out, to whatever agent is free.
//!
//! Each is seen in two ways, and judged by its better one. *Together*, the sender and the workers have one
//! thread, which spares it all crossing over: so is this crate in its first column, driven by the sender, and
//! the peers whose names end in `-together`. *Apart*, the sender has a thread of its own and the workers have one,
//! or two where the name ends in `-2` or `-2-threads`: so are `self-apart` and the other peers. `dispatch-1000-apart`
//! holds the second way against the same targets, for hosts whose agents have workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use phalanx::fleet::{Fleet, Outcome, Task, TaskHandle};
use serde_json::json;

use super::actors::Threads;
use super::peers_dispatch::{
    self as dispatch, Dispatcher, KameoPool, Queuer, RactorFactory, RoundRobin, pipelined,
};
use super::{Lineup, ours};
use crate::Settings;
use crate::measure::{Contestant, Sample};
use crate::row::{OURS, Row, Time, Unit, median};

/// What was received in each unit, if it was the same in all of them.
#[derive(Default)]
struct Same(Option<u64>);

impl Same {
    fn unit(&mut self, received: u64) {
        let first = *self.0.get_or_insert(received);
        if first != received {
            self.0 = Some(!first);
        }
    }
}

// Tasks handed out.

const WORKERS: usize = 1000;
/// Tasks in a unit.
const TASKS: u64 = 10_000;
/// Tasks under way at once.
const WINDOW: usize = 256;

pub fn dispatch_1000(settings: &Settings) -> Row {
    Lineup::of(settings, ours_dispatching(OURS, None))
        .and(ours_dispatching("self-apart", Some(1)))
        .beside(ours_dispatching("self-2-threads", Some(2)))
        .and(dispatched::<RactorFactory<RoundRobin>>("ractor-factory-round-robin-together", None))
        .and(dispatched::<RactorFactory<Queuer>>("ractor-factory-together", None))
        .and(dispatched::<RactorFactory<Queuer>>("ractor-factory", Some(Threads::One)))
        .beside(dispatched::<RactorFactory<Queuer>>("ractor-factory-2", Some(Threads::Many(2))))
        .and(dispatched::<KameoPool>("kameo-pool-together", None))
        .and(dispatched::<KameoPool>("kameo-pool", Some(Threads::One)))
        .beside(dispatched::<KameoPool>("kameo-pool-2", Some(Threads::Many(2))))
        .measure(
            (Unit::PerSecond, Time::Wall),
            "dispatch-1000",
            "one sender hands each task to one of 1000 workers and takes its result (tasks)",
            json!({ "workers": WORKERS, "tasks_a_unit": TASKS, "under_way": WINDOW }),
            &[("best-ractor-factory", 5.0), ("best-kameo-pool", 5.0)],
        )
}

/// As [`dispatch_1000`], where the agents have a thread of their own.
pub fn dispatch_1000_apart(settings: &Settings) -> Row {
    Lineup::of(settings, ours_dispatching(OURS, Some(1)))
        .beside(ours_dispatching("self-2-threads", Some(2)))
        .and(dispatched::<RactorFactory<RoundRobin>>(
            "ractor-factory-round-robin",
            Some(Threads::One),
        ))
        .and(dispatched::<RactorFactory<Queuer>>("ractor-factory", Some(Threads::One)))
        .beside(dispatched::<RactorFactory<Queuer>>("ractor-factory-2", Some(Threads::Many(2))))
        .and(dispatched::<KameoPool>("kameo-pool", Some(Threads::One)))
        .beside(dispatched::<KameoPool>("kameo-pool-2", Some(Threads::Many(2))))
        .measure(
            (Unit::PerSecond, Time::Wall),
            "dispatch-1000-apart",
            "one sender hands each task to one of 1000 workers of another thread and takes its result (tasks)",
            json!({ "workers": WORKERS, "tasks_a_unit": TASKS, "under_way": WINDOW }),
            &[("best-ractor-factory", 5.0), ("best-kameo-pool", 5.0)],
        )
}

fn dispatched<D: Dispatcher>(name: &'static str, apart: Option<Threads>) -> Contestant<'static> {
    let contestant = Contestant::in_laps(name, move |watch| {
        let mut same = Same::default();
        let each = |sum| same.unit(sum);
        match apart {
            Some(threads) => dispatch::apart::<D>((WORKERS, threads), (TASKS, WINDOW), watch, each),
            None => dispatch::together::<D>(WORKERS, (TASKS, WINDOW), watch, each),
        }
        watch.sample(same.0)
    });
    if apart.is_some() { contestant.on_two_cores() } else { contestant }
}

/// This crate, with so many threads for its agents; `None`: with the sender's.
fn ours_dispatching(name: &'static str, threads: Option<usize>) -> Contestant<'static> {
    let contestant = Contestant::in_laps(name, move |watch| {
        let fleet = match threads {
            Some(threads) => answering(threads, WORKERS),
            None => driven(WORKERS),
        };
        let mut same = Same::default();
        for _ in watch.units() {
            same.unit(watch.time(TASKS, || match threads {
                Some(_) => ours_pipelined(&fleet, TASKS, |handle| handle.wait()),
                None => ours_pipelined(&fleet, TASKS, |handle| drive_for(&fleet, &handle)),
            }));
        }
        fleet.shutdown(Duration::from_secs(10)).expect("it is no worker that ends it");
        watch.sample(same.0)
    });
    if threads.is_some() { contestant.on_two_cores() } else { contestant }
}

fn answering(threads: usize, agents: usize) -> Fleet<u64, u64> {
    let fleet = Fleet::builder().workers(threads).build().expect("the defaults are valid");
    ours::spawn(&fleet, &ours::answering(), agents);
    fleet
}

/// The same without threads.
fn driven(agents: usize) -> Fleet<u64, u64> {
    let fleet = Fleet::builder().driven().build().expect("the defaults are valid");
    ours::spawn(&fleet, &ours::answering(), agents);
    fleet
}

/// Has this thread do what there is to do until a task has ended.
fn drive_for(fleet: &Fleet<u64, u64>, handle: &TaskHandle<u64>) -> Arc<Outcome<u64>> {
    loop {
        if let Some(outcome) = handle.try_outcome() {
            return outcome;
        }
        assert!(fleet.run_ready(usize::MAX) > 0, "a task that has not ended is there to be run");
    }
}

fn ours_pipelined(
    fleet: &Fleet<u64, u64>,
    tasks: u64,
    wait: impl Fn(TaskHandle<u64>) -> Arc<Outcome<u64>>,
) -> u64 {
    let result = |handle: TaskHandle<u64>| match &*wait(handle) {
        Outcome::Completed(output) => *output,
        _ => panic!("a task does not fail"),
    };
    let submit = |number| fleet.submit(Task::new(number)).map_err(|_| ()).expect("there is room");
    pipelined(tasks, WINDOW, submit, result)
}

// The same work with more agents.

pub fn efficiency(settings: &Settings) -> Row {
    let ours = Contestant::in_laps(OURS, |watch| {
        let (few, many) = (answering(1, 10), answering(1, 1000));
        let (mut same, mut ratios) = (Same::default(), Vec::new());
        for unit in watch.units() {
            let mut times = [Duration::ZERO; 2];
            watch.begin();
            // A different one first each time.
            for at in [unit % 2, (unit + 1) % 2].map(|at| at as usize) {
                let start = Instant::now();
                same.unit(ours_pipelined([&few, &many][at], TASKS, |handle| handle.wait()));
                times[at] = start.elapsed();
            }
            let ratio = times[0].as_secs_f64() / times[1].as_secs_f64();
            watch.end_worth(2 * TASKS, || ratio);
            ratios.push(ratio);
        }
        for fleet in [few, many] {
            fleet.shutdown(Duration::from_secs(10)).expect("it is no worker that ends it");
        }
        // The median, as units in which the machine did something else are beside the point.
        Sample { value: Some(median(&ratios)), ..watch.sample(same.0) }
    })
    .on_two_cores();
    Lineup::of(settings, ours).and(Contestant::limit("limit-even", 1.0)).measure(
        (Unit::Number, Time::Wall),
        "efficiency",
        "tasks handled in a time at 1000 agents by those at 10 (median of the units)",
        json!({ "agents": [10, 1000], "tasks_a_unit": TASKS, "under_way": WINDOW, "limit-even": 1 }),
        &[("limit-even", 0.9)],
    )
}
