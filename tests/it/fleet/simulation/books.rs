//! What is known of a simulated fleet beside the fleet: kept by all that it calls, and asked by the checks.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::Random;
use super::purses::Purse;
use super::wards::{Guard, Heart, Wards};
use super::world::Bell;
use phalanx::fleet::{
    AgentId, Attempt, Condition, GroupKey, LogPosition, Outcome, OutcomeKind, ReturnReason,
    SpawnedFuture, TaskError, TaskErrorKind, TaskHandle, TaskId, WeakFleet,
};
use phalanx::{Clock, ManualClock, Timestamp};

/// A payload or an output; the world knows how many there are.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) code: u64,
    living: Arc<AtomicI64>,
}

impl Token {
    pub(super) fn new(code: u64, living: &Arc<AtomicI64>) -> Self {
        living.fetch_add(1, Ordering::Relaxed);
        Self { code, living: Arc::clone(living) }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.living.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What all parts of a world share.
pub(super) struct Core {
    pub(super) books: Mutex<Books>,
    pub(super) clock: Clock,
    pub(super) hand: ManualClock,
    pub(super) fleet: OnceLock<WeakFleet<Token, Token>>,
    pub(super) living: Arc<AtomicI64>,
    /// The futures of the host's executor, each with the bell that is rung when it can go on.
    pub(super) executor: Mutex<Vec<(SpawnedFuture, Arc<Bell>)>>,
}

impl Core {
    /// Never held while the fleet is called.
    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn token(&self, code: u64) -> Token {
        Token::new(code, &self.living)
    }
}

/// An agent that lives.
#[derive(Clone, Debug)]
pub(super) struct Body {
    pub(super) kind: &'static str,
    pub(super) skills: u8,
    pub(super) limit: u32,
    pub(super) runs: bool,
    pub(super) condition: Condition,
    /// Whether it takes nothing new, as it was drained and is not to serve again.
    pub(super) drained: bool,
    /// What it serves again as, if an autoscaler unrouted it and nobody has said what it is fit for since.
    pub(super) leaving: Option<Condition>,
    /// Who decides what follows as it fails; `None` if it cannot.
    pub(super) guard: Option<Guard>,
    /// When it is started again, while it is down.
    pub(super) down: Option<Timestamp>,
    /// Whether it is about to end.
    pub(super) is_doomed: bool,
    pub(super) incarnation: u32,
    pub(super) heart: Option<Heart>,
    /// Whether its handler is made before it serves, and whether it is still to be made.
    pub(super) prewarmed: bool,
    pub(super) cold: bool,
}

impl Body {
    pub(super) const fn has(&self, needs: u8) -> bool {
        self.skills & needs == needs
    }
}

/// What an attempt that was not struck brought.
#[derive(Clone, Debug)]
pub(super) struct Brought {
    pub(super) attempt: Attempt,
    pub(super) at: Timestamp,
    pub(super) ok: bool,
    /// Of an error, whether the task may be tried again.
    pub(super) retryable: bool,
}

/// A task that was submitted, accepted or not.
#[derive(Clone, Debug, Default)]
pub(super) struct Spec {
    pub(super) needs: u8,
    pub(super) agent: Option<AgentId>,
    pub(super) attempts: u32,
    pub(super) deadline: Option<Timestamp>,
    pub(super) backoff: Duration,
    pub(super) after: Vec<TaskId>,
    pub(super) release: bool,
    pub(super) key: Option<u128>,
    pub(super) group: Option<GroupKey>,
    pub(super) cost: u64,
    /// The places of the accounts that it is charged to.
    pub(super) paid_by: Vec<usize>,
    pub(super) id: Option<TaskId>,
    /// Whether somebody asked to cancel it, and was told that it matters.
    pub(super) cancelled: bool,
    pub(super) begun: u32,
    pub(super) running: Option<(Attempt, AgentId)>,
    pub(super) lost: u32,
    pub(super) lost_at: Option<Timestamp>,
    pub(super) brought: Option<Brought>,
    /// How it ended, for everybody but the log if that failed.
    pub(super) ended: Option<OutcomeKind>,
    /// How many tasks with keys had ended when it did.
    pub(super) ended_as: usize,
    /// Whether the observer was told.
    pub(super) told: bool,
}

impl Spec {
    pub(super) fn is_pending(&self) -> bool {
        self.id.is_some() && self.ended.is_none()
    }
}

/// A message that an agent accepted.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) to: AgentId,
    pub(super) control: bool,
    pub(super) asked: bool,
}

/// A handler that has not come back.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) agent: AgentId,
    /// Whether somebody waits for its answer.
    pub(super) asked: bool,
    /// Whether the fleet has counted it, or counts it among the tasks.
    pub(super) counted: bool,
    /// At which change of the accounts it got its lease.
    pub(super) granted: u64,
    /// The task and the attempt, unless it is a message.
    pub(super) attempt: Option<(u64, Attempt)>,
    /// Whether it does nothing else, and wakes when it is struck.
    pub(super) waits_to_be_struck: bool,
}

/// How often things happened in all runs, so that a simulation in which nothing does is noticed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    counts: BTreeMap<&'static str, u64>,
    /// A digest of all steps.
    pub(super) digest: u64,
}

impl Totals {
    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(super) fn note(&mut self, number: u64) {
        self.digest = (self.digest ^ number).wrapping_mul(0x0100_0000_01b3);
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }

    pub(super) fn assert_something_happened(&self) {
        for what in MUST_HAPPEN {
            let count = self.counts.get(what).copied().unwrap_or(0);
            assert!(count >= 5, "{what} happened {count} times: {:?}", self.counts);
        }
    }
}

/// What a simulation of some hundreds of seeds cannot do without. The seeds decide how often it is, whatever the machine.
const MUST_HAPPEN: [&str; 98] = [
    "accepted",
    "acceptance not recorded",
    "attempt",
    "batch",
    "batch dropped",
    "batch submission accepted",
    "batch submission waits",
    "batch waited",
    "batch waits for agents",
    "batch waits for agents to be fit",
    "batch without hope",
    "attempt after its agent was killed",
    "budget below its use",
    "budget changed",
    "budget removed",
    "budget reset",
    "budget set",
    "budget used up",
    "budget warning",
    "agent degraded",
    "agent drained with patience",
    "agent failed",
    "agent failed meanwhile",
    "agent failed together",
    "agent recovered",
    "agent replaced",
    "agent restarted",
    "agent silent",
    "agent stopped by its supervisor",
    "cancelled",
    "cancelled while it ran",
    "circuit closed",
    "circuit opened",
    "circuit tried",
    "cold after a panic",
    "completed",
    "deadline exceeded",
    "delayed",
    "dependency failed",
    "drain of an agent called off",
    "drain of an agent dropped",
    "drain of an agent waits",
    "drained agent",
    "drained agent stays",
    "drained to the end",
    "failure reported",
    "future dropped",
    "future refused",
    "future resolved",
    "future struck",
    "heartbeat",
    "held",
    "key repeated",
    "killed",
    "launch over budget",
    "lease expired",
    "lease granted",
    "lease over budget",
    "lease void",
    "message",
    "message failed",
    "message returned",
    "named",
    "not recorded",
    "out of attempts",
    "pick declined",
    "picked",
    "picker failed",
    "prewarm failed",
    "prewarmed",
    "question struck",
    "rejected",
    "reply",
    "retired",
    "returned at shutdown",
    "returned by a kill",
    "scaled down",
    "scaled down by a drain",
    "scaled down over leases",
    "scaled for a forecast",
    "scaled from none",
    "scaled past failed ones",
    "scaled to none",
    "scaled to the greatest number",
    "scaled up",
    "scaled up by those that left",
    "scaling held by a circuit",
    "scaling stood still",
    "shutdown waits",
    "submission accepted",
    "submission dropped",
    "submission waits",
    "task over budget",
    "waiter closed",
    "waiter dropped",
    "waiter dropped after it was woken",
    "waiter granted",
    "waits out of patience",
];

/// See the file's head.
pub(super) struct Books {
    pub(super) random: Random,
    pub(super) specs: BTreeMap<u64, Spec>,
    pub(super) codes: HashMap<TaskId, u64>,
    pub(super) agents: BTreeMap<AgentId, Body>,
    /// How often the host had an agent serve, or serve again.
    pub(super) services: HashMap<AgentId, u64>,
    pub(super) handles: Vec<(u64, TaskHandle<Token>)>,
    /// Messages that have not ended, by code.
    pub(super) letters: BTreeMap<u64, Letter>,
    /// What handlers are at: attempts and messages that have begun and whose handlers have not come back.
    pub(super) flights: BTreeMap<u64, Flight>,
    pub(super) messages: u64,
    pub(super) messages_returned: u64,
    pub(super) last_told: HashMap<(AgentId, bool), u64>,
    pub(super) next_code: u64,
    pub(super) keyed_ended: usize,
    pub(super) closing: bool,
    /// Whether the log, the verifier, the observer and wakers may fail.
    pub(super) faulty: bool,
    pub(super) wards: Wards,
    /// All accounts that there are and were.
    pub(super) purses: Vec<Purse>,
    /// How often an account came or went.
    pub(super) turn: u64,
    /// How many crossings of soft lines the observer was told of.
    pub(super) warned: u64,
    /// What was seen that may not be.
    pub(super) wrong: Vec<String>,
    pub(super) totals: Totals,
}

impl Books {
    pub(super) fn new(random: Random) -> Self {
        Self {
            random,
            specs: BTreeMap::new(),
            codes: HashMap::new(),
            agents: BTreeMap::new(),
            services: HashMap::new(),
            handles: Vec::new(),
            letters: BTreeMap::new(),
            flights: BTreeMap::new(),
            messages: 0,
            messages_returned: 0,
            last_told: HashMap::new(),
            next_code: 0,
            keyed_ended: 0,
            closing: false,
            faulty: false,
            wards: Wards::default(),
            purses: Vec::new(),
            turn: 0,
            warned: 0,
            wrong: Vec::new(),
            totals: Totals::default(),
        }
    }

    /// Notes a fault: an assertion in a handler would be taken for one of its panics.
    pub(super) fn must(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(what());
        }
    }

    pub(super) fn fails(&mut self, percent: usize) -> bool {
        self.faulty && self.random.percent(percent)
    }

    pub(super) fn code(&mut self) -> u64 {
        self.next_code += 1;
        self.next_code
    }

    fn spec(&mut self, id: TaskId) -> Option<(u64, &mut Spec)> {
        let code = *self.codes.get(&id)?;
        Some((code, self.specs.get_mut(&code)?))
    }

    /// An agent ends; what runs on it is struck.
    pub(super) fn bury(&mut self, agent: AgentId) -> bool {
        for spec in self.specs.values_mut() {
            if spec.running.is_some_and(|(_, on)| on == agent) {
                spec.running = None;
                self.totals.count("attempt struck");
            }
        }
        // Who asked is told at once, whatever the handler brings.
        for flight in self.flights.values_mut().filter(|flight| flight.agent == agent) {
            if std::mem::take(&mut flight.asked) {
                flight.counted = true;
                self.messages_returned += 1;
                self.totals.count("question struck");
            }
        }
        let body = self.agents.remove(&agent);
        if let Some(body) = &body {
            self.dismiss(body);
        }
        body.is_some()
    }

    /// Whether messages or tasks wait for an agent alone.
    pub(super) fn is_asked(&self, agent: AgentId) -> bool {
        let has_tasks = |spec: &Spec| spec.is_pending() && spec.agent == Some(agent);
        self.letters.values().any(|letter| letter.to == agent) || self.specs.values().any(has_tasks)
    }

    /// The log accepts a task.
    pub(super) fn accept(&mut self, id: TaskId, code: u64) {
        let known = self.codes.insert(id, code).is_some();
        self.must(!known, || format!("task {id} was accepted twice"));
        let spec = self.specs.get_mut(&code).expect("it was written down before");
        spec.id = Some(id);
        self.totals.count("accepted");
    }

    /// An attempt begins.
    pub(super) fn begin(
        &mut self,
        id: TaskId,
        code: u64,
        attempt: Attempt,
        agent: AgentId,
        now: Timestamp,
    ) -> u64 {
        let at = format!("attempt {attempt:?} of task {id} on {agent} at {now:?}");
        let is_alive = self.agents.contains_key(&agent);
        let skilled = {
            let needs = self.specs[&code].needs;
            self.agents.get(&agent).is_some_and(|body| body.runs && body.has(needs))
        };
        let spec = self.specs[&code].clone();
        let ended = |id: &TaskId| self.codes.get(id).and_then(|code| self.specs[code].ended);
        let ready = spec.after.iter().all(|on| match ended(on) {
            None => false,
            Some(kind) => spec.release || kind == OutcomeKind::Completed,
        });
        self.must(is_alive, || format!("{at}: the agent is gone"));
        self.check_circuit(agent);
        self.must(skilled || spec.agent.is_some(), || format!("{at}: it cannot do that"));
        self.must(spec.id == Some(id), || format!("{at}: it is {:?}", spec.id));
        self.must(spec.ended.is_none(), || format!("{at}: it had ended as {:?}", spec.ended));
        self.must(spec.running.is_none(), || format!("{at}: it runs as {:?}", spec.running));
        self.must(attempt.get() == spec.begun + 1, || format!("{at}: {} had begun", spec.begun));
        self.must(!spec.cancelled, || format!("{at}: it was cancelled"));
        self.must(ready, || format!("{at}: it waits for {:?}", spec.after));
        let named = spec.agent.is_none_or(|named| named == agent);
        self.must(named, || format!("{at}: it was for {:?}", spec.agent));
        let in_time = spec.deadline.is_none_or(|deadline| now < deadline);
        self.must(in_time, || format!("{at}: its deadline was {:?}", spec.deadline));
        self.must(spec.lost < spec.attempts, || format!("{at}: {} are lost", spec.lost));
        let rested = spec.lost_at.is_none_or(|lost| lost + spec.backoff <= now);
        self.must(rested, || format!("{at}: lost one at {:?}", spec.lost_at));
        let spec = self.specs.get_mut(&code).expect("it was just read");
        spec.begun = attempt.get();
        spec.running = Some((attempt, agent));
        let number = self.code();
        let flight = Flight {
            agent,
            asked: false,
            counted: true,
            granted: self.turn,
            attempt: Some((code, attempt)),
            waits_to_be_struck: false,
        };
        self.flights.insert(number, flight);
        self.totals.count("attempt");
        number
    }

    /// A handler is about to return, or to panic. Whether its word counts.
    pub(super) fn bring(
        &mut self,
        code: u64,
        attempt: Attempt,
        agent: AgentId,
        now: Timestamp,
        result: Result<(), bool>,
    ) -> bool {
        let spec = self.specs.get_mut(&code).expect("it was written down before");
        if spec.running != Some((attempt, agent)) {
            self.totals.count("attempt after its agent was killed");
            return false;
        }
        // An output is in the verifier's hands first.
        if let Err(retryable) = result {
            spec.lose(attempt, now, retryable);
            if retryable && !spec.backoff.is_zero() && spec.lost < spec.attempts {
                self.totals.count("delayed");
            }
        } else {
            spec.brought = Some(Brought { attempt, at: now, ok: true, retryable: true });
            spec.running = None;
        }
        true
    }

    /// The verifier rejects what was brought.
    pub(super) fn reject(&mut self, code: u64, attempt: Attempt, retryable: bool, now: Timestamp) {
        let spec = self.specs.get_mut(&code).expect("it was written down before");
        if spec.brought.as_ref().is_some_and(|brought| brought.attempt == attempt && brought.ok) {
            spec.lose(attempt, now, retryable);
            self.circuit_hears_of_a_failure();
            self.totals.count("rejected");
        }
    }

    /// The log is told of an outcome; whether it records it.
    pub(super) fn settle(
        &mut self,
        id: TaskId,
        attempt: Attempt,
        code: u64,
        outcome: &Outcome<Token>,
        now: Timestamp,
    ) -> Option<LogPosition> {
        let at = format!("task {id} at {now:?} ends as {:?}", outcome.kind());
        let Some((known, spec)) = self.spec(id).map(|(code, spec)| (code, spec.clone())) else {
            self.wrong.push(format!("{at}: it was not accepted"));
            return None;
        };
        self.must(known == code, || format!("{at}: it is {known}, not {code}"));
        self.must(spec.ended.is_none(), || format!("{at}: it had ended as {:?}", spec.ended));
        self.must(attempt.get() == spec.begun, || {
            format!("{at}: by attempt {attempt:?} of {}", spec.begun)
        });
        match outcome {
            Outcome::Completed(token) => {
                let won = spec.brought.as_ref().is_some_and(|brought| {
                    brought.ok
                        && brought.attempt == attempt
                        && spec.deadline.is_none_or(|deadline| brought.at < deadline)
                });
                self.must(won && token.code == code, || format!("{at}: {:?}", spec.brought));
            }
            Outcome::Failed(error) => self.check_failure(&at, &spec, attempt, error, now),
            Outcome::Returned(ReturnReason::AgentGone) => {
                let lives = |agent| self.agents.get(&agent).is_some_and(|body| !body.drained);
                let gone = spec.agent.is_some_and(|agent| !lives(agent));
                self.must(gone, || format!("{at}: its agent {:?} lives", spec.agent));
                self.totals.count("returned by a kill");
            }
            Outcome::Returned(_) => {
                let closing = self.closing;
                self.must(closing, || format!("{at}: nobody stops the fleet"));
                self.totals.count("returned at shutdown");
            }
            Outcome::Cancelled => {
                self.must(spec.cancelled, || format!("{at}: nobody asked"));
                self.totals.count("cancelled");
            }
            _ => self.wrong.push(format!("{at}: what is that?")),
        }
        let refuses = self.fails(3);
        let kind = match outcome.kind() {
            OutcomeKind::Completed if refuses => OutcomeKind::Failed,
            kind => kind,
        };
        if kind == OutcomeKind::Completed {
            self.totals.count("completed");
        }
        if refuses {
            self.totals.count("not recorded");
        }
        if spec.key.is_some() {
            self.keyed_ended += 1;
        }
        let (ended_as, counted) = (self.keyed_ended, self.codes.len());
        let spec = self.specs.get_mut(&known).expect("it was just read");
        spec.ended = Some(kind);
        spec.ended_as = ended_as;
        spec.running = None;
        if refuses { None } else { Some(LogPosition(counted as u64)) }
    }

    fn check_failure(
        &mut self,
        at: &str,
        spec: &Spec,
        attempt: Attempt,
        error: &TaskError,
        now: Timestamp,
    ) {
        match error.kind() {
            TaskErrorKind::Handler
            | TaskErrorKind::Panicked
            | TaskErrorKind::Dropped
            | TaskErrorKind::Rejected => {
                let last = spec.brought.as_ref().is_some_and(|brought| {
                    !brought.ok
                        && brought.attempt == attempt
                        && (!brought.retryable || spec.lost == spec.attempts)
                });
                self.must(last, || format!("{at}: {error} after {spec:?}"));
                self.totals.count("out of attempts");
            }
            TaskErrorKind::DeadlineExceeded => {
                let late = spec.deadline.is_some_and(|deadline| deadline <= now);
                self.must(late, || format!("{at}: its deadline is {:?}", spec.deadline));
                self.totals.count("deadline exceeded");
            }
            TaskErrorKind::DependencyFailed => {
                let ended = |id: &TaskId| self.codes.get(id).map(|code| self.specs[code].ended);
                let failed = spec.after.iter().any(|on| {
                    ended(on)
                        .is_some_and(|kind| kind.is_some_and(|kind| kind != OutcomeKind::Completed))
                });
                self.must(failed && !spec.release, || format!("{at}: {error}"));
                self.totals.count("dependency failed");
            }
            kind => self.wrong.push(format!("{at}: {kind:?}")),
        }
    }

    /// The observer is told of an outcome.
    pub(super) fn told(&mut self, id: TaskId, outcome: OutcomeKind) {
        let Some((_, spec)) = self.spec(id) else {
            return self.wrong.push(format!("task {id} ended, which was not accepted"));
        };
        let (ended, told) = (spec.ended, std::mem::replace(&mut spec.told, true));
        self.must(ended == Some(outcome), || format!("task {id}: {ended:?} and {outcome:?}"));
        self.must(!told, || format!("the end of task {id} was told twice"));
    }

    /// A message is being handled.
    pub(super) fn open_letter(&mut self, code: u64, agent: AgentId) {
        let is_alive = self.agents.contains_key(&agent);
        self.must(is_alive, || format!("message {code} to {agent}, which is gone"));
        self.check_circuit(agent);
        let Some(letter) = self.letters.remove(&code) else {
            return self.wrong.push(format!("message {code} was handled, and had ended"));
        };
        self.must(letter.to == agent, || format!("message {code} came to {agent}"));
        let flight = Flight {
            agent,
            asked: letter.asked,
            counted: false,
            granted: self.turn,
            attempt: None,
            waits_to_be_struck: false,
        };
        self.flights.insert(code, flight);
        let last = self.last_told.insert((agent, letter.control), code);
        self.must(last < Some(code), || format!("message {code} to {agent} after {last:?}"));
        self.totals.count("message");
    }

    /// A message comes back.
    pub(super) fn return_letter(&mut self, code: u64, agent: AgentId) {
        let lives = self.agents.get(&agent).is_some_and(|body| !body.drained);
        let gone = self.closing || !lives;
        self.must(gone, || format!("message {code} comes back from {agent}, which lives"));
        let was_open = self.letters.remove(&code).is_some_and(|letter| letter.to == agent);
        self.must(was_open, || format!("message {code} comes back, and had ended"));
        self.messages_returned += 1;
        self.totals.count("message returned");
    }
}

impl Spec {
    fn lose(&mut self, attempt: Attempt, at: Timestamp, retryable: bool) {
        self.brought = Some(Brought { attempt, at, ok: false, retryable });
        self.running = None;
        self.lost += 1;
        self.lost_at = Some(at);
    }
}
