//! The rows of how long agents take to make, and how much memory they take.
//!
//! Memory is what the system says that a process holds (`Rss`), measured in a process of its own for each
//! sample: so what an allocator adds is counted, and what somebody else left behind is not.

use std::fs;
use std::num::NonZeroU32;
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use phalanx::fleet::scale::{Autoscaler, ScalePolicy};
use phalanx::fleet::{AgentSpec, AgentState, Fleet, LeaseOutcome, Outcome, Request, Task};
use serde_json::json;

use super::Lineup;
use super::actors::{Actors, Home, Threads};
use super::ours;
use super::peers_actors::{Actix, Bounded, Kameo, Ractor, Unbounded, Xtra};
use super::tally::{Counter, Tally, expected, message};
use crate::Settings;
use crate::measure::{Contestant, Sample};
use crate::row::{OURS, Row, Time, Unit};

const AGENTS: usize = 100_000;

// Time.

pub fn spawn_100k(settings: &Settings) -> Row {
    Lineup::of(settings, ours_spawned(OURS, Some(1)))
        .and(ours_spawned("self-together", None))
        .beside(ours_one_by_one())
        .beside(ours_lazy())
        .and(spawned::<Xtra>("xtra"))
        .and(spawned_apart::<Xtra>("xtra-apart", Threads::One))
        .beside(spawned_apart::<Xtra>("xtra-apart-2", Threads::Many(2)))
        .beside(spawned::<Unbounded>("tokio"))
        .beside(spawned::<Actix>("actix"))
        .beside(spawned::<Kameo>("kameo"))
        .beside(spawned::<Ractor>("ractor"))
        .measure(
            (Unit::Nanoseconds, Time::Wall),
            "spawn-100k",
            "100,000 agents with a handler are made, until each has started (ns an agent)",
            json!({
                "agents": AGENTS,
                "ours": "prewarmed, by one worker; by the thread that makes them (`-together`); \
                    without, so that handlers are made when they are first needed (`-lazy`)",
                "peers": "on one thread, or started from another (`-apart`)",
            }),
            &[("best-xtra", 3.0)],
        )
}

/// By so many workers, or by the thread that makes them.
fn ours_spawned(name: &'static str, workers: Option<usize>) -> Contestant<'static> {
    spawned_by(name, workers, |fleet, spec| {
        ours::spawn(fleet, spec, AGENTS);
    })
}

fn ours_one_by_one() -> Contestant<'static> {
    spawned_by("self-one-by-one", Some(1), |fleet, spec| {
        for _ in 0..AGENTS {
            fleet.spawn(spec.clone()).expect("there is room");
        }
    })
}

fn spawned_by(
    name: &'static str,
    workers: Option<usize>,
    spawn: impl Fn(&Fleet<u64>, &AgentSpec<u64, ()>) + 'static,
) -> Contestant<'static> {
    let contestant = Contestant::in_laps(name, move |watch| {
        for _ in watch.units() {
            let (fleet, tally) = (ours::fleet(workers), Tally::new(1));
            let spec = ours::starting(&tally);
            tally.begin(AGENTS);
            watch.begin();
            spawn(&fleet, &spec);
            // Of a fleet with threads it runs nothing.
            fleet.run_ready(usize::MAX);
            tally.wait();
            watch.end(AGENTS as u64);
            assert_eq!(fleet.stats().agents_live, AGENTS as u64);
        }
        watch.sample(Some(AGENTS as u64))
    });
    if workers.is_some() { contestant.on_two_cores() } else { contestant }
}

/// Agents whose handlers are made when they are first needed: what this takes the peers have no like of.
fn ours_lazy() -> Contestant<'static> {
    Contestant::in_laps("self-lazy", move |watch| {
        for _ in watch.units() {
            let fleet = ours::fleet(Some(1));
            let spec = ours::counting(&Tally::new(1));
            watch.begin();
            ours::spawn(&fleet, &spec, AGENTS);
            watch.end(AGENTS as u64);
            assert_eq!(fleet.stats().agents_live, AGENTS as u64);
        }
        watch.sample(Some(AGENTS as u64))
    })
}

fn spawned<A: Actors>(name: &'static str) -> Contestant<'static> {
    Contestant::in_laps(name, move |watch| {
        for _ in watch.units() {
            A::Home::together(async {
                let tally = Tally::new(1);
                watch.begin();
                let addresses = all_started::<A>(&tally).await;
                watch.end(AGENTS as u64);
                end::<A>(&tally, addresses).await;
            });
        }
        watch.sample(Some(AGENTS as u64))
    })
}

/// The same from another thread than theirs.
fn spawned_apart<A: Actors>(name: &'static str, threads: Threads) -> Contestant<'static> {
    Contestant::in_laps(name, move |watch| {
        for _ in watch.units() {
            let (home, tally) = (A::Home::apart(threads), Tally::new(1));
            let started = Arc::clone(&tally);
            watch.begin();
            let addresses = home.run(move || async move { all_started::<A>(&started).await });
            watch.end(AGENTS as u64);
            home.run(move || async move { end::<A>(&tally, addresses).await });
        }
        watch.sample(Some(AGENTS as u64))
    })
    .on_two_cores()
}

/// Starts the agents, and waits until all are there.
async fn all_started<A: Actors>(tally: &Arc<Tally>) -> Vec<A::Address> {
    tally.begin(AGENTS);
    let mut addresses = Vec::with_capacity(AGENTS);
    for _ in 0..AGENTS {
        addresses.push(A::start(Counter::new(tally)).await);
    }
    tally.wait_async().await;
    addresses
}

/// Has each handle one message, to show that it can, and ends all.
async fn end<A: Actors>(tally: &Tally, addresses: Vec<A::Address>) {
    tally.begin(AGENTS);
    for (agent, address) in addresses.iter().enumerate() {
        A::tell(address, message(agent, 0));
    }
    assert_eq!(tally.wait_async().await, expected(AGENTS, 1), "each handles its message");
    tally.begin(AGENTS);
    addresses.into_iter().for_each(A::stop);
    tally.wait_async().await;
}

// Memory.

pub fn bytes_idle(settings: &Settings) -> Row {
    let weighed = |name| weighed("bytes-idle", name, AGENTS as f64);
    Lineup::of(settings, weighed(OURS))
        .beside(weighed("self-lazy"))
        .and(weighed("xtra"))
        .beside(weighed("tokio"))
        .beside(weighed("tokio-bounded"))
        .beside(weighed("actix"))
        .beside(weighed("kameo"))
        .beside(weighed("ractor"))
        .measure(
            (Unit::Bytes, Time::None),
            "bytes-idle",
            "what each of 100,000 idle agents with a handler takes, its address included",
            json!({
                "agents": AGENTS,
                "measured": "Rss of a process of its own, before and after",
                "ours": "each has its handler, as the peers have; without those (`-lazy`)",
            }),
            &[("xtra", 3.0)],
        )
}

const MILLION: usize = 1_000_000;
/// The most that a million agents may take.
const MILLION_MAX_MB: f64 = 256.0;

pub fn million(settings: &Settings) -> Row {
    Lineup::of(settings, weighed("million", OURS, 1e6))
        .and(Contestant::limit("limit-million", MILLION_MAX_MB))
        .measure(
            (Unit::Megabytes, Time::None),
            "million",
            "what 1,000,000 agents that are only leased take, their ids included (10^6 bytes)",
            json!({
                "agents": MILLION,
                "measured": "Rss of a process of its own, before and after",
                "limit-million": MILLION_MAX_MB,
            }),
            &[("limit-million", 1.0)],
        )
}

/// What a process of its own says, in units of so many bytes.
fn weighed(row: &'static str, name: &'static str, unit: f64) -> Contestant<'static> {
    Contestant::timeless(name, move || {
        let start = Instant::now();
        let this = std::env::current_exe().expect("this program has a path");
        let output = Command::new(this)
            .args(["--child", "fleet", row, name])
            .output()
            .expect("this program starts once more");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (bytes, ready) = text.trim().split_once(' ').expect("it says two numbers");
        let bytes: f64 = bytes.parse().expect("it says how many bytes");
        let ready = ready.parse().expect("it says how many are ready");
        Sample { value: Some(bytes / unit), ..Sample::new(start.elapsed(), 1, Some(ready)) }
    })
}

/// What one of them in a row takes: the bytes of all agents, and how many showed that they are ready.
pub fn child(row: &str, name: &str) -> Result<(u64, u64), String> {
    match (row, name) {
        ("bytes-idle", OURS) => Ok(ours_idle(true)),
        ("bytes-idle", "self-lazy") => Ok(ours_idle(false)),
        ("bytes-idle", "tokio") => Ok(idle::<Unbounded>()),
        ("bytes-idle", "tokio-bounded") => Ok(idle::<Bounded>()),
        ("bytes-idle", "actix") => Ok(idle::<Actix>()),
        ("bytes-idle", "xtra") => Ok(idle::<Xtra>()),
        ("bytes-idle", "kameo") => Ok(idle::<Kameo>()),
        ("bytes-idle", "ractor") => Ok(idle::<Ractor>()),
        ("million", OURS) => Ok(ours_million()),
        _ => Err(format!("there is no {name} in the row {row}")),
    }
}

/// What this process holds of the memory.
fn resident_bytes() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("the system says it");
    let line = rollup.lines().find(|line| line.starts_with("Rss:")).expect("it says Rss");
    let kilobytes: u64 =
        line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("it is a number");
    kilobytes * 1024
}

fn idle<A: Actors>() -> (u64, u64) {
    A::Home::together(async {
        let tally = Tally::new(1);
        let before = resident_bytes();
        let addresses = all_started::<A>(&tally).await;
        let bytes = resident_bytes() - before;
        end::<A>(&tally, addresses).await;
        (bytes, AGENTS as u64)
    })
}

/// Agents whose handlers have been made, or not yet.
fn ours_idle(started: bool) -> (u64, u64) {
    let tally = Tally::new(1);
    let fleet = ours::fleet(Some(1));
    let before = resident_bytes();
    let spec = if started { ours::starting(&tally) } else { ours::counting(&tally) };
    tally.begin(if started { AGENTS } else { 0 });
    let agents = ours::spawn(&fleet, &spec, AGENTS);
    tally.wait();
    let bytes = resident_bytes() - before;
    // Each handles one message, to show that it can.
    tally.begin(AGENTS);
    for (at, agent) in agents.into_iter().enumerate() {
        fleet.tell(agent, message(at, 0)).map_err(|_| ()).expect("the agent is there");
    }
    assert_eq!(tally.wait(), expected(AGENTS, 1), "each handles its message");
    (bytes, AGENTS as u64)
}

fn ours_million() -> (u64, u64) {
    let fleet = ours::lease_only();
    let before = resident_bytes();
    let agents = fleet.spawn_batch(&ours::spec(1), MILLION).expect("there is room");
    let bytes = resident_bytes() - before;
    assert_eq!(agents.len(), MILLION);
    // Each is taken once, to show that it can be.
    let leases: Vec<_> =
        (0..MILLION).map(|_| fleet.try_allocate(&Request::any()).expect("one is idle")).collect();
    let ready = leases.into_iter().filter_map(|lease| lease.complete(LeaseOutcome::Succeeded).ok());
    (bytes, ready.count() as u64)
}

// Scaling.

/// The most that it may take.
const SPIKE_MAX_MS: f64 = 250.0;

/// The agents before, and after.
const SPIKE: (u32, u32) = (10, 100);
/// The tasks that come at once: more than all of the agents take.
const BURST: u64 = 200;

pub fn spike(settings: &Settings) -> Row {
    let ours = Contestant::timed(OURS, |units| {
        let elapsed = (0..units).map(|_| spiked()).sum();
        Sample::new(elapsed, units, Some(u64::from(SPIKE.1)))
    });
    Lineup::of(settings, ours).and(Contestant::limit("limit-spike", SPIKE_MAX_MS)).measure(
        (Unit::Milliseconds, Time::Wall),
        "spike",
        "from a burst of tasks until 10 agents have become 100 that are ready",
        json!({
            "agents": [SPIKE.0, SPIKE.1],
            "burst": BURST,
            "breach_window_ns": 0,
            "stepped": "by the thread that sent the burst, until all are ready",
            "limit-spike": SPIKE_MAX_MS,
        }),
        &[("limit-spike", 1.0)],
    )
}

/// How long it took, the submission of the burst included.
fn spiked() -> Duration {
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().expect("the defaults are valid");
    // No task ends before all agents are there.
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let spec = AgentSpec::new("agent").handler_fn(move |task: &Task<u64>, _| {
        gate.lock().expect("it does not panic").recv().expect_err("it is opened by dropping it");
        Ok(task.payload() + 1)
    });
    let policy = ScalePolicy::builder()
        .min(SPIKE.0)
        .max(SPIKE.1)
        .up_window(Duration::ZERO)
        .up_cooldown(Duration::ZERO)
        .step_up(NonZeroU32::new(SPIKE.1).expect("it is not zero"), 0.0)
        .build()
        .expect("it is valid");
    let mut scaler = Autoscaler::new(&fleet, spec, policy);
    scaler.step().expect("it scales");
    assert_eq!(fleet.stats().agents_live, u64::from(SPIKE.0));

    let start = Instant::now();
    let tasks: Vec<_> = (0..BURST)
        .map(|number| fleet.submit(Task::new(number)).map_err(|_| ()).expect("there is room"))
        .collect();
    while ready(&fleet) < SPIKE.1 as usize {
        scaler.step().expect("it scales");
    }
    let elapsed = start.elapsed();

    drop(open);
    for (number, task) in (0..).zip(tasks) {
        assert!(matches!(*task.wait(), Outcome::Completed(done) if done == number + 1));
    }
    fleet.shutdown(Duration::from_secs(10)).expect("it is no worker that ends it");
    elapsed
}

fn ready(fleet: &Fleet<u64, u64>) -> usize {
    let ready = |state| matches!(state, AgentState::Ready | AgentState::Busy);
    fleet.agents().iter().filter(|agent| ready(agent.state)).count()
}
