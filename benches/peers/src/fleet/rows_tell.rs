//! The rows in which named agents are told something, asked something, and ended.
//!
//! One sender. What is told, and the end, is seen in two ways. *Together*, the sender and the agents have one
//! thread, which spares it all crossing over: so is this crate in its first column, driven by the sender, and
//! the peers whose names end in `-together`, the fastest of which are its measure. *Apart*, the sender has a
//! thread of its own and the agents have one, or two where the name ends in `-2` or `-2-threads`: so are
//! `self-apart` and the other peers; `-multi` is one thread of a runtime of many. A question crosses over. The rows
//! whose names end in `-apart` hold the second way against the same targets, for hosts whose agents have workers.

use std::future::Future;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use phalanx::fleet::{AgentId, AgentSpec, Fleet, Outcome};
use serde_json::{Value, json};

use super::actors::{Actors, Home, Threads, Tokio, wait_after};
use super::peers_actors::{
    self as peers, Actix, Asked, Bounded, Kameo, Ractor, RactorMessage, Unbounded, UnboundedBatch,
    Xtra,
};
use super::tally::{Counter, Tally, expected, message};
use super::{Lineup, Targets, ours};
use crate::Settings;
use crate::measure::{Contestant, Sample, Watch};
use crate::row::{OURS, Row, Time, Unit, median};

const RATE: (Unit, Time) = (Unit::PerSecond, Time::Wall);
const LATENCY: (Unit, Time) = (Unit::Nanoseconds, Time::Wall);
const PATIENCE: Duration = Duration::from_secs(10);

// Messages told.

#[derive(Clone, Copy)]
struct Shape {
    agents: usize,
    each: u64,
}

impl Shape {
    fn messages(self) -> u64 {
        self.agents as u64 * self.each
    }

    fn work(self) -> Value {
        json!({ "agents": self.agents, "messages_each": self.each, "order": "to each agent by turns" })
    }

    /// Tells every agent its messages, by turns.
    #[inline(always)]
    fn tell<A: Actors>(self, addresses: &[A::Address]) {
        for number in 0..self.each {
            for (agent, address) in addresses.iter().enumerate() {
                A::tell(address, message(agent, number));
            }
        }
    }
}

pub fn tell_1000x1000(settings: &Settings) -> Row {
    told(
        settings,
        Shape { agents: 1000, each: 1000 },
        "tell-1000x1000",
        "one sender tells 1000 agents 1000 messages each, all handled (messages)",
        &[("best-tokio", 1.3), ("best-ractor", 6.0), ("best-kameo", 6.0)],
    )
}

pub fn tell_100x100(settings: &Settings) -> Row {
    told(
        settings,
        Shape { agents: 100, each: 100 },
        "tell-100x100",
        "one sender tells 100 agents 100 messages each, all handled (messages)",
        &[("best-tokio", 1.2)],
    )
}

/// As [`tell_1000x1000`], where the agents have a thread of their own.
pub fn tell_1000x1000_apart(settings: &Settings) -> Row {
    told_apart(
        settings,
        Shape { agents: 1000, each: 1000 },
        "tell-1000x1000-apart",
        "one sender tells 1000 agents of another thread 1000 messages each, all handled (messages)",
        &[("best-tokio", 1.3), ("best-ractor", 6.0), ("best-kameo", 6.0)],
    )
}

/// As [`tell_100x100`], where the agents have a thread of their own.
pub fn tell_100x100_apart(settings: &Settings) -> Row {
    told_apart(
        settings,
        Shape { agents: 100, each: 100 },
        "tell-100x100-apart",
        "one sender tells 100 agents of another thread 100 messages each, all handled (messages)",
        &[("best-tokio", 1.2)],
    )
}

fn told_apart(
    settings: &Settings,
    shape: Shape,
    id: &'static str,
    what: &'static str,
    targets: Targets,
) -> Row {
    Lineup::of(settings, ours_told(OURS, Some(1), shape))
        .beside(ours_told("self-2-threads", Some(2), shape))
        .and(apart::<Unbounded>("tokio", Threads::One, shape))
        .and(apart::<UnboundedBatch>("tokio-batch", Threads::One, shape))
        .and(apart::<Bounded>("tokio-bounded", Threads::One, shape))
        .and(apart::<Unbounded>("tokio-multi", Threads::Many(1), shape))
        .beside(apart::<Actix>("actix", Threads::One, shape))
        .beside(apart::<Xtra>("xtra", Threads::One, shape))
        .and(apart::<Kameo>("kameo", Threads::One, shape))
        .and(apart::<Ractor>("ractor", Threads::One, shape))
        .measure(RATE, id, what, shape.work(), targets)
}

fn told(
    settings: &Settings,
    shape: Shape,
    id: &'static str,
    what: &'static str,
    targets: Targets,
) -> Row {
    Lineup::of(settings, ours_told(OURS, None, shape))
        .and(ours_told("self-apart", Some(1), shape))
        .beside(ours_told("self-2-threads", Some(2), shape))
        .and(apart::<Unbounded>("tokio", Threads::One, shape))
        .and(apart::<UnboundedBatch>("tokio-batch", Threads::One, shape))
        .and(together::<Unbounded>("tokio-together", shape))
        .and(together::<UnboundedBatch>("tokio-batch-together", shape))
        .and(apart::<Bounded>("tokio-bounded", Threads::One, shape))
        .and(together::<Bounded>("tokio-bounded-together", shape))
        .beside(apart::<Unbounded>("tokio-multi", Threads::Many(1), shape))
        .beside(apart::<Unbounded>("tokio-multi-2", Threads::Many(2), shape))
        .beside(apart::<Actix>("actix", Threads::One, shape))
        .beside(together::<Actix>("actix-together", shape))
        .beside(apart::<Xtra>("xtra", Threads::One, shape))
        .beside(together::<Xtra>("xtra-together", shape))
        .and(apart::<Kameo>("kameo", Threads::One, shape))
        .and(together::<Kameo>("kameo-together", shape))
        .and(apart::<Ractor>("ractor", Threads::One, shape))
        .and(together::<Ractor>("ractor-together", shape))
        .measure(RATE, id, what, shape.work(), targets)
}

/// This crate's agents, which count what they are told.
/// With so many threads; `None`: driven by the sender's.
fn ours_counting(
    threads: Option<usize>,
    agents: usize,
    tally: &Arc<Tally>,
) -> (Fleet<u64>, Vec<AgentId>) {
    ours_of(&ours::counting(tally), threads, agents)
}

fn ours_of(
    spec: &AgentSpec<u64, ()>,
    threads: Option<usize>,
    agents: usize,
) -> (Fleet<u64>, Vec<AgentId>) {
    let fleet = ours::fleet(threads);
    let agents = ours::spawn(&fleet, spec, agents);
    (fleet, agents)
}

#[inline(always)]
fn ours_tell(fleet: &Fleet<u64>, agent: AgentId, message: u64) {
    fleet.tell(agent, message).map_err(|_| ()).expect("the agent is there, and has room");
}

impl Shape {
    /// As [`tell`](Self::tell).
    #[inline(always)]
    fn tell_ours(self, fleet: &Fleet<u64>, agents: &[AgentId]) {
        for number in 0..self.each {
            for (at, agent) in agents.iter().enumerate() {
                ours_tell(fleet, *agent, message(at, number));
            }
        }
    }
}

fn ours_told(name: &'static str, threads: Option<usize>, shape: Shape) -> Contestant<'static> {
    let expected = expected(shape.agents, shape.each);
    let contestant = Contestant::in_laps(name, move |watch| {
        let tally = Tally::new(shape.each as u32);
        let (fleet, agents) = ours_counting(threads, shape.agents, &tally);
        for _ in watch.units() {
            watch.begin();
            tally.begin(shape.agents);
            shape.tell_ours(&fleet, &agents);
            if threads.is_none() {
                fleet.run_ready(usize::MAX);
            }
            let reported = tally.wait();
            watch.end(shape.messages());
            checked(reported, expected);
        }
        fleet.shutdown(PATIENCE).expect("it is no worker that ends it");
        watch.sample(Some(expected.1))
    });
    if threads.is_some() { contestant.on_two_cores() } else { contestant }
}

/// Starts so many actors at home, and waits until all are there.
async fn start<A: Actors>(agents: usize, tally: Arc<Tally>) -> Vec<A::Address> {
    let mut addresses = Vec::with_capacity(agents);
    for _ in 0..agents {
        addresses.push(A::start(Counter::new(&tally)).await);
    }
    addresses
}

fn start_apart<A: Actors>(home: &A::Home, tally: &Arc<Tally>, agents: usize) -> Vec<A::Address> {
    tally.begin(agents);
    let reports = Arc::clone(tally);
    let addresses = home.run(move || start::<A>(agents, reports));
    tally.wait();
    addresses
}

async fn start_together<A: Actors>(tally: &Arc<Tally>, agents: usize) -> Vec<A::Address> {
    tally.begin(agents);
    let addresses = start::<A>(agents, Arc::clone(tally)).await;
    tally.wait_async().await;
    addresses
}

/// The sum of what was reported, if it is what is expected.
fn checked(reported: (u64, u64), expected: (u64, u64)) -> u64 {
    assert_eq!(reported.0, expected.0, "messages were lost");
    assert_eq!(reported.1, expected.1, "messages were out of order, or with another agent");
    reported.1
}

fn apart<A: Actors>(name: &'static str, threads: Threads, shape: Shape) -> Contestant<'static> {
    let expected = expected(shape.agents, shape.each);
    Contestant::in_laps(name, move |watch| {
        let (home, tally) = (A::Home::apart(threads), Tally::new(shape.each as u32));
        let addresses = start_apart::<A>(&home, &tally, shape.agents);
        for _ in watch.units() {
            watch.begin();
            tally.begin(shape.agents);
            shape.tell::<A>(&addresses);
            let reported = tally.wait();
            watch.end(shape.messages());
            checked(reported, expected);
        }
        // They report once more as they end.
        tally.begin(shape.agents);
        home.run(move || async move { addresses.into_iter().for_each(A::stop) });
        tally.wait();
        watch.sample(Some(expected.1))
    })
    .on_two_cores()
}

fn together<A: Actors>(name: &'static str, shape: Shape) -> Contestant<'static> {
    let expected = expected(shape.agents, shape.each);
    Contestant::in_laps(name, move |watch| {
        A::Home::together(async {
            let tally = Tally::new(shape.each as u32);
            let addresses = start_together::<A>(&tally, shape.agents).await;
            for _ in watch.units() {
                watch.begin();
                tally.begin(shape.agents);
                shape.tell::<A>(&addresses);
                let reported = tally.wait_async().await;
                watch.end(shape.messages());
                checked(reported, expected);
            }
            tally.begin(shape.agents);
            addresses.into_iter().for_each(A::stop);
            tally.wait_async().await;
        });
        watch.sample(Some(expected.1))
    })
}

// Questions asked.

/// Questions in a unit.
const QUESTIONS: u64 = 256;

/// How often our asker looks before it sleeps: one of the peers' does as well.
const WATCHED: usize = 50;

pub fn ask(settings: &Settings) -> Row {
    Lineup::of(settings, ours_asked())
        .and(asked_apart("tokio", Threads::One, || async { peers::answering() }, ask_tokio))
        .and(asked_apart(
            "tokio-bounded",
            Threads::One,
            || async { peers::answering_bounded() },
            ask_tokio_bounded,
        ))
        .and(asked_by(
            WATCHED,
            "tokio-watched",
            Threads::One,
            || async { peers::answering_bounded() },
            ask_tokio_bounded,
        ))
        .and(asked_apart(
            "tokio-multi",
            Threads::Many(1),
            || async { peers::answering() },
            ask_tokio,
        ))
        .beside(asked_together::<Tokio, _, _, _>(
            "together-tokio",
            || async { peers::answering() },
            ask_tokio,
        ))
        .beside(asked_together::<Tokio, _, _, _>("together-xtra", lonely::<Xtra>, ask_xtra))
        .beside(asked_apart("kameo", Threads::One, lonely::<Kameo>, ask_kameo))
        .beside(asked_together::<Tokio, _, _, _>("together-kameo", lonely::<Kameo>, ask_kameo))
        .beside(asked_apart("ractor", Threads::One, lonely::<Ractor>, ask_ractor))
        .beside(asked_together::<Tokio, _, _, _>("together-ractor", lonely::<Ractor>, ask_ractor))
        .beside(asked_together::<<Actix as Actors>::Home, _, _, _>(
            "together-actix",
            lonely::<Actix>,
            ask_actix,
        ))
        .measure(
            LATENCY,
            "ask",
            "a thread asks an agent, whose thread is another, and waits for the answer (p50)",
            json!({
                "questions_a_unit": QUESTIONS,
                "together": "asker and agent on one thread: another topology, no target",
            }),
            &[("best-tokio", 0.9)],
        )
}

fn ours_asked() -> Contestant<'static> {
    Contestant::in_laps(OURS, move |watch| {
        let fleet = Fleet::builder().workers(1).build().expect("the defaults are valid");
        let agent = ours::spawn(&fleet, &ours::answering(), 1)[0];
        let mut answers = Answers::default();
        for _ in watch.units() {
            answers.begin(watch);
            for number in 0..QUESTIONS {
                let reply = fleet.ask(agent, number).map_err(|_| ());
                match reply.expect("the agent is there, and has room").wait() {
                    Outcome::Completed(answer) => answers.answer(answer),
                    _ => panic!("an agent answers"),
                }
            }
            answers.end(watch);
        }
        fleet.shutdown(PATIENCE).expect("it is no worker that ends it");
        answers.sample(watch)
    })
    .on_two_cores()
}

async fn lonely<A: Actors>() -> A::Address {
    let tally = Tally::new(0);
    tally.begin(2);
    A::start(Counter::new(&tally)).await
}

async fn ask_tokio(address: &tokio::sync::mpsc::UnboundedSender<peers::Question>, n: u64) -> u64 {
    let (answer, pending) = tokio::sync::oneshot::channel();
    address.send((n, answer)).map_err(|_| ()).expect("the task is there");
    pending.await.expect("the task answers")
}

async fn ask_tokio_bounded(address: &tokio::sync::mpsc::Sender<peers::Question>, n: u64) -> u64 {
    let (answer, pending) = tokio::sync::oneshot::channel();
    address.try_send((n, answer)).map_err(|_| ()).expect("the task is there, and has room");
    pending.await.expect("the task answers")
}

async fn ask_xtra(address: &<Xtra as Actors>::Address, number: u64) -> u64 {
    address.send(Asked(number)).await.expect("the actor answers")
}

async fn ask_kameo(address: &<Kameo as Actors>::Address, number: u64) -> u64 {
    address.ask(Asked(number)).send().await.map_err(|_| ()).expect("the actor answers")
}

async fn ask_ractor(address: &<Ractor as Actors>::Address, number: u64) -> u64 {
    let (answer, pending) = ractor::concurrency::oneshot();
    let question = RactorMessage::Asked(number, answer.into());
    address.send_message(question).map_err(|_| ()).expect("the actor is there");
    pending.await.expect("the actor answers")
}

async fn ask_actix(address: &<Actix as Actors>::Address, number: u64) -> u64 {
    address.send(Asked(number)).await.expect("the actor answers")
}

/// What came of the questions of a sample.
#[derive(Default)]
struct Answers {
    nanos: Vec<f64>,
    sum: u64,
    before: Option<Instant>,
}

impl Answers {
    fn begin(&mut self, watch: &mut Watch<'_>) {
        self.nanos.reserve(QUESTIONS as usize);
        watch.begin();
        self.before = Some(Instant::now());
    }

    fn answer(&mut self, number: u64) {
        let after = Instant::now();
        let before = self.before.replace(after).expect("a unit has begun");
        self.nanos.push((after - before).as_nanos() as f64);
        self.sum += number;
    }

    fn end(&self, watch: &mut Watch<'_>) {
        let unit = &self.nanos[self.nanos.len() - QUESTIONS as usize..];
        watch.end_worth(QUESTIONS, || median(unit));
    }

    fn sample(self, watch: &Watch<'_>) -> Sample {
        let unit = QUESTIONS * (QUESTIONS + 1) / 2;
        let all = unit * watch.units().end;
        let checksum = if self.sum == all { unit } else { !self.sum };
        Sample { value: Some(median(&self.nanos)), ..watch.sample(Some(checksum)) }
    }
}

fn asked_apart<P: Send + Sync + 'static, S: Future<Output = P> + 'static>(
    name: &'static str,
    threads: Threads,
    open: fn() -> S,
    ask: impl AsyncFn(&P, u64) -> u64 + 'static,
) -> Contestant<'static> {
    asked_by(0, name, threads, open, ask)
}

/// The asker looks so many times before it sleeps.
fn asked_by<P: Send + Sync + 'static, S: Future<Output = P> + 'static>(
    looks: usize,
    name: &'static str,
    threads: Threads,
    open: fn() -> S,
    ask: impl AsyncFn(&P, u64) -> u64 + 'static,
) -> Contestant<'static> {
    Contestant::in_laps(name, move |watch| {
        let home = Tokio::apart(threads);
        let address = home.run(open);
        let mut answers = Answers::default();
        for _ in watch.units() {
            answers.begin(watch);
            for number in 0..QUESTIONS {
                answers.answer(wait_after(looks, ask(&address, number)));
            }
            answers.end(watch);
        }
        answers.sample(watch)
    })
    .on_two_cores()
}

fn asked_together<H: Home, P, S, A>(
    name: &'static str,
    open: fn() -> S,
    ask: A,
) -> Contestant<'static>
where
    P: 'static,
    S: Future<Output = P> + 'static,
    A: AsyncFn(&P, u64) -> u64 + 'static,
{
    Contestant::in_laps(name, move |watch| {
        H::together(async {
            let address = open().await;
            let mut answers = Answers::default();
            for _ in watch.units() {
                answers.begin(watch);
                for number in 0..QUESTIONS {
                    answers.answer(ask(&address, number).await);
                }
                answers.end(watch);
            }
            answers.sample(watch)
        })
    })
}

// The end.

const STOPPED: Shape = Shape { agents: 1000, each: 10 };

pub fn stop_1000(settings: &Settings) -> Row {
    Lineup::of(settings, ours_stopped_together())
        .beside(ours_stopped())
        .and(stopped_together::<Unbounded>("tokio-together"))
        .and(stopped_together::<UnboundedBatch>("tokio-batch-together"))
        .and(stopped_apart::<Unbounded>("tokio"))
        .and(stopped_apart::<UnboundedBatch>("tokio-batch"))
        .beside(stopped_together::<Actix>("actix-together"))
        .beside(stopped_together::<Xtra>("xtra-together"))
        .beside(stopped_apart::<Xtra>("xtra"))
        .beside(stopped_together::<Kameo>("kameo-together"))
        .beside(stopped_apart::<Kameo>("kameo"))
        .beside(stopped_together::<Ractor>("ractor-together"))
        .beside(stopped_apart::<Ractor>("ractor"))
        .measure(
            LATENCY,
            "stop-1000",
            "1000 agents with 10 messages each are ended: all handled and reported (ns for all)",
            STOPPED.work(),
            &[("best-tokio", 1.0)],
        )
}

/// This crate's agents as the peers' are when they are told something: each of those has reported that it has started,
/// so its state is there. A fleet makes the handler of an agent when it first needs it, unless the agent's spec asks for
/// it to be made before; so these ask, and are ready before they are told anything.
fn ours_ready(threads: Option<usize>, tally: &Arc<Tally>) -> (Fleet<u64>, Vec<AgentId>) {
    let spec = ours::counting(tally).prewarmed();
    let (fleet, agents) = ours_of(&spec, threads, STOPPED.agents);
    while fleet.observe(&spec).starting > 0 {
        // Of a fleet with threads it runs nothing.
        fleet.run_ready(usize::MAX);
        std::thread::yield_now();
    }
    (fleet, agents)
}

fn ours_stopped_together() -> Contestant<'static> {
    let expected = expected(STOPPED.agents, STOPPED.each);
    Contestant::in_laps(OURS, move |watch| {
        let tally = Tally::new(STOPPED.each as u32);
        for _ in watch.units() {
            let (fleet, agents) = ours_ready(None, &tally);
            tally.begin(STOPPED.agents);
            STOPPED.tell_ours(&fleet, &agents);
            watch.begin();
            fleet.drain(PATIENCE).expect("it is no worker that ends it");
            let report = fleet.shutdown(PATIENCE).expect("it is no worker that ends it");
            watch.end(1);
            assert!(report.is_complete(), "each message is reported");
            assert_eq!(report.messages_handled, STOPPED.messages(), "and was handled");
            checked(tally.wait(), expected);
        }
        watch.sample(Some(expected.1))
    })
}

fn ours_stopped() -> Contestant<'static> {
    let expected = expected(STOPPED.agents, STOPPED.each);
    Contestant::in_laps("self-apart", move |watch| {
        let tally = Tally::new(STOPPED.each as u32);
        for _ in watch.units() {
            let (fleet, agents) = ours_ready(Some(1), &tally);
            // Its one thread is kept from handling anything until the end begins.
            let (open, gate) = mpsc::channel::<()>();
            let (there, held) = mpsc::channel();
            let gate = Mutex::new((there, gate));
            let holder = AgentSpec::new("holder").handler_fn(move |_, _| {
                let (there, gate) = &*gate.lock().expect("it does not panic");
                there.send(()).expect("who stops waits");
                gate.recv().expect_err("the gate is opened by dropping it");
                Ok(())
            });
            ours_tell(&fleet, fleet.spawn(holder).expect("there is room"), 0);
            held.recv().expect("the thread says that it is held");
            tally.begin(STOPPED.agents);
            STOPPED.tell_ours(&fleet, &agents);
            watch.begin();
            drop(open);
            fleet.drain(PATIENCE).expect("it is no worker that ends it");
            let report = fleet.shutdown(PATIENCE).expect("it is no worker that ends it");
            watch.end(1);
            assert!(report.is_complete(), "each message is reported");
            assert_eq!(report.messages_handled, STOPPED.messages() + 1, "and was handled");
            checked(tally.wait(), expected);
        }
        watch.sample(Some(expected.1))
    })
    .on_two_cores()
}

fn stopped_together<A: Actors>(name: &'static str) -> Contestant<'static> {
    let expected = expected(STOPPED.agents, STOPPED.each);
    Contestant::in_laps(name, move |watch| {
        A::Home::together(async {
            let tally = Tally::new(0);
            for _ in watch.units() {
                // They report at their end alone.
                let addresses = start_together::<A>(&tally, STOPPED.agents).await;
                STOPPED.tell::<A>(&addresses);
                tally.begin(STOPPED.agents);
                watch.begin();
                addresses.into_iter().for_each(A::stop);
                let reported = tally.wait_async().await;
                watch.end(1);
                checked(reported, expected);
            }
        });
        watch.sample(Some(expected.1))
    })
}

fn stopped_apart<A: Actors>(name: &'static str) -> Contestant<'static> {
    let expected = expected(STOPPED.agents, STOPPED.each);
    Contestant::in_laps(name, move |watch| {
        let (home, tally) = (A::Home::apart(Threads::One), Tally::new(0));
        for _ in watch.units() {
            let addresses = start_apart::<A>(&home, &tally, STOPPED.agents);
            // Its one thread is kept from handling anything until the end begins.
            let (open, gate) = mpsc::channel::<()>();
            let (there, held) = mpsc::channel();
            home.run(move || async move {
                tokio::spawn(async move {
                    there.send(()).expect("who stops waits");
                    gate.recv().expect_err("the gate is opened by dropping it");
                });
            });
            held.recv().expect("the thread says that it is held");
            STOPPED.tell::<A>(&addresses);
            tally.begin(STOPPED.agents);
            watch.begin();
            drop(open);
            addresses.into_iter().for_each(A::stop);
            let reported = tally.wait();
            watch.end(1);
            checked(reported, expected);
        }
        watch.sample(Some(expected.1))
    })
    .on_two_cores()
}
