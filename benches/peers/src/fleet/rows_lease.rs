//! The rows in which an agent is taken and given back.
//!
//! In the rows of one strategy the agents differ in what the strategy looks at. After each sample some more
//! pairs are looked at one by one, outside the time: how many of them were the best choice is part of what
//! was received.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{array, thread};

use phalanx::Clock;
use phalanx::fleet::{AgentId, Fleet, Lease, LeaseOutcome, Priority, Request, Strategy};
use serde_json::json;

use super::ours::{
    charging_on, choosing, choosing_on, hold_unevenly, lease_only, spawn, spec, strict,
};
use super::peers_pool::{
    PAIRS, array_queue, bb8, deadpool_unmanaged, object_pool, pairs, probe_cas,
};
use super::{Lineup, Targets};
use crate::Settings;
use crate::measure::{Contestant, Sample, Span};
use crate::row::{OURS, Row, Time, Unit};

const PAIR: (Unit, Time) = (Unit::Nanoseconds, Time::Wall);

/// The agents that any one is taken of.
const AGENTS: usize = 1000;
const HUNDRED_THOUSAND: usize = 100_000;

/// The pairs that are looked at after a sample.
const LOOKED_AT: usize = 1000;

/// Takes an agent and gives it back, and says which it was.
#[inline(always)]
fn pair(fleet: &Fleet<(), ()>, request: &Request) -> Option<AgentId> {
    let lease = fleet.try_allocate(request).ok()?;
    let agent = lease.agent();
    lease.complete(LeaseOutcome::Succeeded).is_ok().then_some(agent)
}

pub fn checkout(settings: &Settings) -> Row {
    let (fleet, request) = (lease_only(), Request::any());
    spawn(&fleet, &spec(1), AGENTS);
    let ours = pairs(OURS, move || pair(&fleet, &request).is_some());
    let objects = AGENTS as u64;
    Lineup::of(settings, ours)
        .and(array_queue(objects))
        .and(deadpool_unmanaged(objects))
        .and(bb8(objects))
        .and(probe_cas())
        .beside(object_pool(objects))
        .measure(
            PAIR,
            "checkout",
            "one thread takes any one of 1000 agents and gives it back (ns a pair)",
            json!({ "agents": AGENTS, "pairs_a_unit": PAIRS, "threads": 1 }),
            &[("array-queue", 0.5), ("deadpool-unmanaged", 4.0), ("bb8", 8.0)],
        )
}

pub fn checkout_full(settings: &Settings) -> Row {
    let objects = AGENTS as u64;
    let request = Request::any().ttl(Duration::from_secs(60));
    let ours = |name, clock| {
        let (fleet, request) = (charging_on(clock), request.clone());
        spawn(&fleet, &spec(1), AGENTS);
        pairs(name, move || pair(&fleet, &request).is_some())
    };
    Lineup::of(settings, ours(OURS, Clock::coarse()))
        .and(ours("self-real-clock", Clock::real()))
        .and(deadpool_unmanaged(objects))
        .and(bb8(objects))
        .beside(object_pool(objects))
        .beside(array_queue(objects))
        .measure(
            PAIR,
            "checkout-full",
            "as checkout, with a quota, leases that expire, scores and counters, on the coarse clock (ns a pair)",
            json!({ "agents": AGENTS, "pairs_a_unit": PAIRS, "threads": 1 }),
            &[("deadpool-unmanaged", 1.5), ("bb8", 4.0)],
        )
}

/// How many of these choices were the best; with each is the number of its request.
type Best = dyn Fn(&[(usize, AgentId)]) -> usize;

/// A fleet, and what is asked of it by turns.
struct Asked<const N: usize> {
    fleet: Fleet<(), ()>,
    requests: [Request; N],
    best: Box<Best>,
    /// What lives as long.
    _held: Vec<Lease>,
}

impl<const N: usize> Asked<N> {
    /// One where a choice is the best or is not, whatever was chosen before.
    fn new(
        fleet: Fleet<(), ()>,
        requests: [Request; N],
        best: impl Fn(usize, AgentId) -> bool + 'static,
    ) -> Self {
        let best = move |chosen: &[(usize, AgentId)]| {
            chosen.iter().filter(|(request, agent)| best(*request, *agent)).count()
        };
        Self { fleet, requests, best: Box::new(best), _held: Vec::new() }
    }

    /// Does the pairs, and looks at some more.
    fn contestant(self, name: &'static str) -> Contestant<'static> {
        Contestant::in_laps(name, move |watch| {
            // All of it, what is held included.
            let asked = &self;
            let mut received = 0_u64;
            for _ in watch.units() {
                watch.begin();
                for _ in 0..PAIRS / N as u64 {
                    for request in &asked.requests {
                        received += u64::from(pair(&asked.fleet, request).is_some());
                    }
                }
                watch.end(PAIRS / N as u64 * N as u64);
            }
            let sample = watch.sample(None);
            assert_eq!(received, sample.operations, "an agent is idle");
            let choose = |at| Some((at, pair(&asked.fleet, &asked.requests[at])?));
            let chosen: Vec<_> = (0..LOOKED_AT).filter_map(|at| choose(at % N)).collect();
            Sample { checksum: Some((asked.best)(&chosen) as u64), ..sample }
        })
    }
}

impl Asked<1> {
    /// The same with so many leases out at any time: each pair takes one and gives back the one that was taken so many
    /// pairs before.
    fn with_leases_out(self, name: &'static str, out: usize) -> Contestant<'static> {
        let request = self.requests[0].clone();
        let take = move |fleet: &Fleet<(), ()>| fleet.try_allocate(&request).expect("one is idle");
        let mut held: Vec<_> = (0..out).map(|_| take(&self.fleet)).collect();
        let mut oldest = 0;
        Contestant::in_laps(name, move |watch| {
            let asked = &self;
            let mut received = 0_u64;
            for _ in watch.units() {
                watch.begin();
                for _ in 0..PAIRS {
                    let ended = std::mem::replace(&mut held[oldest], take(&asked.fleet));
                    received += u64::from(ended.complete(LeaseOutcome::Succeeded).is_ok());
                    oldest = if oldest + 1 == out { 0 } else { oldest + 1 };
                }
                watch.end(PAIRS);
            }
            let sample = watch.sample(None);
            assert_eq!(received, sample.operations, "each lease is good until it is given back");
            let choose = |_| Some((0, pair(&asked.fleet, &asked.requests[0])?));
            let chosen: Vec<_> = (0..LOOKED_AT).filter_map(choose).collect();
            Sample { checksum: Some((asked.best)(&chosen) as u64), ..sample }
        })
    }
}

/// What a strategy is asked, for so many agents.
type Open<const N: usize> = fn(usize) -> Asked<N>;

/// A row of 1000 agents beside two compare-and-swaps.
fn beside_cas<const N: usize>(
    settings: &Settings,
    open: Open<N>,
    id: &'static str,
    what: &'static str,
    targets: Targets,
) -> Row {
    Lineup::of(settings, open(AGENTS).contestant(OURS)).and(probe_cas()).measure(
        PAIR,
        id,
        what,
        strategy_work(AGENTS),
        targets,
    )
}

/// A row of 100,000 agents beside one of 1000.
fn beside_1k<const N: usize>(
    settings: &Settings,
    open: Open<N>,
    id: &'static str,
    what: &'static str,
    targets: Targets,
) -> Row {
    Lineup::of(settings, open(HUNDRED_THOUSAND).contestant(OURS))
        .and(open(AGENTS).contestant("self-1k"))
        .measure(PAIR, id, what, strategy_work(HUNDRED_THOUSAND), targets)
}

fn strategy_work(agents: usize) -> serde_json::Value {
    json!({ "agents": agents, "pairs_a_unit": PAIRS, "looked_at": LOOKED_AT, "threads": 1 })
}

// Least loaded.

/// A third of the agents hold nothing, a third one lease and a third two: the first are the best.
fn least_loaded(agents: usize) -> Asked<1> {
    let fleet = strict();
    let agents = spawn(&fleet, &spec(4), agents);
    let held = hold_unevenly(&fleet, &agents);
    let idle: HashSet<_> = agents.into_iter().step_by(3).collect();
    let asked = Asked::new(fleet, [Request::any()], move |_, agent| idle.contains(&agent));
    Asked { _held: held, ..asked }
}

pub fn least_loaded_1k(settings: &Settings) -> Row {
    beside_cas(
        settings,
        least_loaded,
        "least-loaded-1k",
        "the least loaded of 1000 agents, exactly, and back (ns a pair)",
        &[("probe-cas", 1.0 / 8.0)],
    )
}

/// How many leases are out where not one at a time is.
const OUT: usize = 1000;

/// Who takes and gives back one lease at a time has the same agent each time, whatever the number of agents: the one
/// that came back last. With many out each pair is of another one.
pub fn least_loaded_100k(settings: &Settings) -> Row {
    let many_out = least_loaded(HUNDRED_THOUSAND).with_leases_out("self-1000-out", OUT);
    let mut work = strategy_work(HUNDRED_THOUSAND);
    work["self-1000-out"] = json!("1000 leases are out, and the oldest is given back each time");
    Lineup::of(settings, least_loaded(HUNDRED_THOUSAND).contestant(OURS))
        .and(least_loaded(AGENTS).contestant("self-1k"))
        .and(many_out)
        .measure(
            PAIR,
            "least-loaded-100k",
            "the least loaded of 100,000 agents, exactly, and back, one lease at a time (ns a pair)",
            work,
            &[("self-1k", 1.0 / 1.8)],
        )
}

// By priority.

/// The levels of priority, of which as many agents have each.
const LEVELS: usize = 8;

fn priority(agents: usize) -> Asked<1> {
    let fleet = choosing(Strategy::Priority);
    let mut highest = HashSet::new();
    for level in 0..LEVELS {
        let spec = spec(4).priority(Priority::new(level as u8 * 32));
        let agents = spawn(&fleet, &spec, agents / LEVELS);
        if level == LEVELS - 1 {
            highest.extend(agents);
        }
    }
    Asked::new(fleet, [Request::any()], move |_, agent| highest.contains(&agent))
}

pub fn priority_1k(settings: &Settings) -> Row {
    beside_cas(
        settings,
        priority,
        "priority-1k",
        "the agent of the highest priority of 1000, and back (ns a pair)",
        &[("probe-cas", 1.0 / 6.0)],
    )
}

pub fn priority_100k(settings: &Settings) -> Row {
    beside_1k(
        settings,
        priority,
        "priority-100k",
        "the agent of the highest priority of 100,000, and back (ns a pair)",
        &[("self-1k", 0.5)],
    )
}

// In turn.

/// Agents of which none is two turns behind another.
fn round_robin(agents: usize) -> Asked<1> {
    let fleet = choosing(Strategy::RoundRobin);
    spawn(&fleet, &spec(4), agents);
    let best = |chosen: &[(usize, AgentId)]| {
        let mut turns = HashMap::new();
        chosen.iter().for_each(|(_, agent)| *turns.entry(*agent).or_insert(0) += 1);
        assert!(chosen.len() <= AGENTS, "nobody has a second turn within a lap but by the bound");
        turns.values().filter(|turns| **turns <= 2).sum()
    };
    let asked = Asked::new(fleet, [Request::any()], |_, _| true);
    Asked { best: Box::new(best), ..asked }
}

pub fn round_robin_1k(settings: &Settings) -> Row {
    beside_cas(
        settings,
        round_robin,
        "round-robin-1k",
        "the next of 1000 agents, and back (ns a pair)",
        &[("probe-cas", 1.0 / 6.0)],
    )
}

pub fn round_robin_100k(settings: &Settings) -> Row {
    beside_1k(
        settings,
        round_robin,
        "round-robin-100k",
        "the next of 100,000 agents, and back (ns a pair)",
        &[("self-1k", 0.5)],
    )
}

// By performance.

/// How often each of the agents that fail does so beforehand.
const FAILURES: usize = 32;

/// Every other agent has failed and the rest have not: any of those is better than all of these. On the coarse clock.
fn performance(agents: usize) -> Asked<1> {
    performance_of(choosing_on(Strategy::Performance, Clock::coarse()), agents)
}

fn performance_of(fleet: Fleet<(), ()>, agents: usize) -> Asked<1> {
    let agents = spawn(&fleet, &spec(4), agents);
    let mut good = HashSet::new();
    for (at, agent) in agents.into_iter().enumerate() {
        let (outcome, times) = if at % 2 == 0 {
            good.insert(agent);
            (LeaseOutcome::Succeeded, 1)
        } else {
            (LeaseOutcome::Failed, FAILURES)
        };
        for _ in 0..times {
            let lease = fleet.try_allocate(&Request::any().agent(agent)).expect("it is idle");
            lease.complete(outcome).expect("it is there");
        }
    }
    Asked::new(fleet, [Request::any()], move |_, agent| good.contains(&agent))
}

pub fn performance_1k(settings: &Settings) -> Row {
    let on_real_clock = performance_of(choosing(Strategy::Performance), AGENTS);
    Lineup::of(settings, performance(AGENTS).contestant(OURS))
        .and(probe_cas())
        .and(on_real_clock.contestant("self-real-clock"))
        .measure(
            PAIR,
            "performance-1k",
            "the agent of the best record of 1000, and back, on the coarse clock (ns a pair)",
            strategy_work(AGENTS),
            &[("probe-cas", 1.0 / 6.0)],
        )
}

pub fn performance_100k(settings: &Settings) -> Row {
    beside_1k(
        settings,
        performance,
        "performance-100k",
        "the agent of the best record of 100,000, and back, on the coarse clock (ns a pair)",
        &[("self-1k", 0.5)],
    )
}

// By capability.

/// Of the languages and tiers, an agent has one each; each pair of them is asked for by turns.
const LANGUAGES: usize = 8;
const TIERS: usize = 2;
const SETS: usize = LANGUAGES * TIERS;

fn names(set: usize) -> [String; 2] {
    [format!("language-{}", set % LANGUAGES), format!("tier-{}", set / LANGUAGES)]
}

fn capability(agents: usize) -> Asked<16> {
    const { assert!(SETS == 16) }
    let fleet = lease_only();
    let mut sets = HashMap::new();
    for set in 0..SETS {
        let [language, tier] = names(set);
        let spec = spec(4).capability("text").capability(language).capability(tier);
        // The first sets have one agent more, so that there are as many as it says.
        let count = agents / SETS + usize::from(set < agents % SETS);
        sets.extend(spawn(&fleet, &spec, count).into_iter().map(|agent| (agent, set)));
    }
    let requests = array::from_fn(|set| {
        let [language, tier] = names(set);
        Request::any().capability(language).capability(tier)
    });
    Asked::new(fleet, requests, move |set, agent| sets.get(&agent) == Some(&set))
}

pub fn capability_1k(settings: &Settings) -> Row {
    beside_cas(
        settings,
        capability,
        "capability-1k",
        "one of 1000 agents that has both of two capabilities, and back (ns a pair)",
        &[("probe-cas", 1.0 / 6.0)],
    )
}

pub fn capability_100k(settings: &Settings) -> Row {
    beside_1k(
        settings,
        capability,
        "capability-100k",
        "one of 100,000 agents that has both of two capabilities, and back (ns a pair)",
        &[("self-1k", 0.5)],
    )
}

// Two threads.

pub fn two_threads(settings: &Settings) -> Row {
    Lineup::of(settings, on_threads(OURS, 2, 1))
        .and(on_threads("self-one-thread", 1, 1))
        .and(on_threads("self-two-fleets", 2, 2))
        .measure(
            (Unit::PerSecond, Time::Wall),
            "two-threads",
            "two threads take any one of 1000 agents and give it back (pairs of both)",
            json!({
                "agents": AGENTS,
                "pairs_a_unit": { "each_thread": PAIRS_EACH },
                "threads": 2,
                "self-one-thread": "one thread",
                "self-two-fleets": "each thread has a fleet of its own: what the machine can do",
            }),
            &[("self-one-thread", 1.4)],
        )
}

/// Pairs of each thread in a unit.
const PAIRS_EACH: u64 = 20_000;

/// What a thread did in a unit: when, and what it read of its core before and after.
struct Turn {
    taken: u64,
    start: Instant,
    end: Instant,
    probes: Option<[Span; 2]>,
}

/// The same pairs, by so many threads that share so many fleets.
fn on_threads(name: &'static str, threads: usize, fleets: usize) -> Contestant<'static> {
    let fleets: Vec<_> = (0..fleets).map(|_| lease_only()).collect();
    for fleet in &fleets {
        spawn(fleet, &spec(1), AGENTS);
    }
    let request = Request::any();
    let take = move |fleet: &Fleet<(), ()>| {
        (0..PAIRS_EACH).filter(|_| pair(fleet, &request).is_some()).count() as u64
    };
    let contestant = Contestant::in_laps(name, move |watch| {
        if threads == 1 {
            for _ in watch.units() {
                assert_eq!(watch.time(PAIRS_EACH, || take(&fleets[0])), PAIRS_EACH, "one is idle");
            }
            return watch.sample(Some(PAIRS_EACH));
        }
        // Each looks at its own core, all at the same time.
        let (gate, units, probed) = (Gate::default(), watch.units(), watch.probing().is_some());
        let turns = |at: usize| {
            let fleet = &fleets[at % fleets.len()];
            let turn = |_| {
                gate.wait(threads);
                let before = probed.then(Span::here);
                gate.wait(threads);
                let (start, taken, end) = (Instant::now(), take(fleet), Instant::now());
                gate.wait(threads);
                let after = probed.then(Span::here);
                let probes = before.zip(after).map(|(before, after)| [before, after]);
                Turn { taken, start, end, probes }
            };
            units.clone().map(turn).collect::<Vec<_>>()
        };
        let turns: Vec<_> = thread::scope(|scope| {
            let turns = &turns;
            let others: Vec<_> = (1..threads).map(|at| scope.spawn(move || turns(at))).collect();
            let own = turns(0);
            let others = others.into_iter().map(|one| one.join().expect("it does not panic"));
            std::iter::once(own).chain(others).collect()
        });
        for unit in units.map(|unit| unit as usize) {
            let turns = || turns.iter().map(|turns| &turns[unit]);
            let first = turns().map(|turn| turn.start).min().expect("there are threads");
            let last = turns().map(|turn| turn.end).max().expect("there are threads");
            let taken: u64 = turns().map(|turn| turn.taken).sum();
            assert_eq!(taken, threads as u64 * PAIRS_EACH, "an agent is idle");
            let read = |at: usize| {
                let spans = turns().filter_map(|turn| turn.probes.map(|probes| probes[at]));
                spans.reduce(Span::with).map_or(f64::NAN, Span::read)
            };
            watch.lap(last - first, taken, (read(0), read(1)));
        }
        watch.sample(Some(PAIRS_EACH))
    });
    if threads == 1 { contestant } else { contestant.on_two_cores() }
}

/// Where threads wait for each other without sleeping, which would have one begin late.
#[derive(Default)]
struct Gate(AtomicUsize);

impl Gate {
    fn wait(&self, threads: usize) {
        let arrived = self.0.fetch_add(1, Ordering::AcqRel);
        let all = (arrived / threads + 1) * threads;
        while self.0.load(Ordering::Acquire) < all {
            // There may be one core for all.
            thread::yield_now();
        }
    }
}
