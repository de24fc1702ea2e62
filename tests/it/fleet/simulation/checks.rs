//! What must hold of a simulated fleet after each step, when nothing is ready, and when it has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::acts::Wanted;
use super::books::{Books, Spec, Totals};
use super::world::World;
use phalanx::Timestamp;
use phalanx::fleet::{AgentId, AgentState, AgentStatus, DrainReport, OutcomeKind, TaskId};

/// What a live agent holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) leases: u32,
    most: u32,
    pub(super) is_allocatable: bool,
}

impl Load {
    const fn is_free(self) -> bool {
        self.is_allocatable && self.leases < self.most
    }
}

/// What each live agent holds.
pub(super) type Loads = BTreeMap<AgentId, Load>;

impl Totals {
    pub(super) fn counts_expired(&mut self, leases: usize) {
        for _ in 0..leases {
            self.count("lease expired");
        }
    }
}

impl Books {
    pub(super) fn is_pending(&self, id: TaskId) -> bool {
        self.codes.get(&id).is_some_and(|code| self.specs[code].is_pending())
    }

    /// A task that has this key and cannot have been forgotten.
    pub(super) fn surely_known(&self, key: u128, remembered: usize) -> Option<TaskId> {
        let mut specs = self.specs.values().filter(|spec| spec.key == Some(key));
        let known = specs.find(|spec| match spec.ended {
            None => spec.id.is_some(),
            Some(OutcomeKind::Completed) => self.keyed_ended - spec.ended_as < remembered,
            Some(_) => false,
        });
        known.and_then(|spec| spec.id)
    }

    /// Whether a task waits for another one, or for its next attempt.
    fn is_parked(&self, spec: &Spec, now: Timestamp) -> bool {
        spec.after.iter().any(|on| self.is_pending(*on))
            || spec.lost_at.is_some_and(|lost| now < lost + spec.backoff)
    }
}

impl World {
    pub(super) fn loads(&self) -> Loads {
        let agents = self.fleet.agents();
        let books = self.core.books();
        let load = |agent: &AgentStatus| {
            let is_allocatable =
                matches!(agent.state, AgentState::Ready | AgentState::Busy | AgentState::Degraded);
            let most = if books.is_on_trial(agent.id) { 1 } else { agent.max_leases };
            (agent.id, Load { leases: agent.load, most, is_allocatable })
        };
        agents.iter().map(load).collect()
    }

    /// An agent that could be allocated for this now, and paid for.
    pub(super) fn idle_agent(&self, loads: &Loads, wanted: &Wanted) -> Option<AgentId> {
        let books = self.core.books();
        let mut agents = books.agents.iter();
        let idle = agents.find(|(id, body)| {
            wanted.agent.is_none_or(|named| named == **id)
                && body.has(wanted.needs)
                && books.can_pay(**id, wanted.group)
                && loads.get(id).is_some_and(|load| load.is_free())
        });
        idle.map(|(id, _)| *id)
    }

    pub(super) fn check_after_a_step(&mut self) {
        let agents = self.fleet.agents();
        let stats = self.fleet.stats();
        let mut books = self.core.books();
        assert!(books.wrong.is_empty(), "{:?}", books.wrong);
        let known: Vec<_> = books.agents.keys().copied().collect();
        let mut live: Vec<_> = agents.iter().map(|agent| agent.id).collect();
        live.sort_unstable();
        assert_eq!(live, known, "who lives");
        for agent in &agents {
            let body = &books.agents[&agent.id];
            assert!(agent.load <= agent.max_leases && agent.max_leases == body.limit, "{agent:?}");
        }
        let load: u64 = agents.iter().map(|agent| u64::from(agent.load)).sum();
        assert_eq!(load, stats.leases_live, "the sum of the loads");
        assert_eq!(stats.agents_live, agents.len() as u64);
        books.check_counts(&stats);
        books.check_purses();
        books.check_wards(&agents);
        for (code, handle) in &books.handles {
            let spec = &books.specs[code];
            let told = handle.try_outcome().map(|outcome| outcome.kind());
            assert_eq!(told, spec.ended, "task {} of {spec:?}", handle.id());
        }
        let (messages, returned) = (books.messages, books.messages_returned);
        assert_eq!(stats.messages_accepted, messages);
        assert_eq!(stats.messages_returned, returned);
        books.totals.note(stats.tasks_completed ^ stats.leases_granted << 20 ^ messages << 40);
        drop(books);
    }

    /// After nothing was ready any more, without a [tick](phalanx::fleet::Fleet::tick): time that has passed was
    /// noticed.
    pub(super) fn check_that_time_was_noticed(&self) {
        let now = self.now();
        let books = self.core.books();
        for spec in books.specs.values().filter(|spec| spec.is_pending()) {
            assert!(spec.deadline.is_none_or(|deadline| now < deadline), "it is late: {spec:?}");
        }
    }

    /// After the fleet came to rest (see [`World::settle_down`]): nobody waits for what is there.
    pub(super) fn check_when_nothing_is_ready(&mut self) {
        self.check_after_a_step();
        let now = self.now();
        let loads = self.loads();
        let stats = self.fleet.stats();
        let held = |unsure: bool| {
            let books = self.core.books();
            let flying =
                books.flights.values().filter(|flight| books.agents.contains_key(&flight.agent));
            let held = self.leases.iter().filter(|held| {
                let until =
                    held.expires.map(|(earliest, latest)| if unsure { latest } else { earliest });
                books.agents.contains_key(&held.agent) && until.is_none_or(|until| now < until)
            });
            (held.count() + flying.count()) as u64
        };
        let sure = held(false);
        assert!(
            (sure..=held(true) + self.most_gathered()).contains(&stats.leases_live),
            "{} leases live, and {sure} are held",
            stats.leases_live
        );
        self.check_paid_leases();
        self.check_circuit();
        self.check_crowds();
        self.check_patients();
        self.check_farewells(&loads);
        self.core.books().check_wards_in_time(now, &self.fleet.agents());
        for waiter in &self.waiters {
            assert!(!waiter.bell.rung.load(Ordering::Relaxed));
            let idle = self.idle_agent(&loads, &waiter.wanted);
            assert!(idle.is_none(), "{idle:?} is free, and somebody waits for it");
            let books = self.core.books();
            let mut able = books.agents.iter().filter(|(id, body)| {
                waiter.wanted.agent.is_none_or(|named| named == **id)
                    && body.has(waiter.wanted.needs)
            });
            let hope = able.next().is_some() || self.may_come(&waiter.wanted);
            assert!(hope, "somebody waits for nobody");
        }
        let books = self.core.books();
        let pending = books.specs.values().filter(|spec| spec.is_pending());
        let running = pending.clone().filter(|spec| spec.running.is_some());
        assert_eq!(stats.tasks_running, running.count() as u64, "{:?}", books.specs);
        let free = |id: &AgentId| loads.get(id).is_some_and(|load| load.is_free());
        for spec in pending {
            assert!(spec.deadline.is_none_or(|deadline| now < deadline), "it is late: {spec:?}");
            if spec.running.is_some() {
                continue;
            }
            assert!(!spec.cancelled, "it was cancelled: {spec:?}");
            if books.is_parked(spec, now) {
                continue;
            }
            let mut agents = books.agents.iter();
            let could_run = agents.any(|(id, body)| {
                let fits = match spec.agent {
                    Some(agent) => agent == *id,
                    None => body.has(spec.needs),
                };
                fits && body.runs && free(id) && books.can_pay(*id, spec.group)
            });
            assert!(!could_run, "nobody runs {spec:?}");
            if let Some(agent) = spec.agent {
                assert!(books.agents.contains_key(&agent), "its agent is gone: {spec:?}");
            }
        }
        for flight in books.flights.values().filter(|flight| flight.waits_to_be_struck) {
            let struck = match flight.attempt {
                Some((code, attempt)) => {
                    books.specs[&code].running != Some((attempt, flight.agent))
                }
                None => !books.agents.contains_key(&flight.agent),
            };
            assert!(!struck, "nobody woke {flight:?}");
        }
        for (code, letter) in &books.letters {
            let lives = books.agents.contains_key(&letter.to);
            assert!(lives, "message {code} lies in the box of a dead");
            let idle = free(&letter.to) && books.can_pay(letter.to, None);
            assert!(!idle, "nobody reads message {code} to {}", letter.to);
        }
        let flying = books.flights.values().filter(|flight| !flight.counted);
        let open = books.letters.len() + flying.count();
        let handled = books.messages - books.messages_returned - open as u64;
        assert_eq!(stats.messages_handled + stats.messages_failed, handled);
        for (id, code) in &books.codes {
            if books.specs[code].is_pending() {
                assert!(self.fleet.task(*id).is_some(), "task {id} is not found");
            }
        }
    }

    /// The stream has told each end once, and is over.
    fn check_the_stream(&mut self) {
        let mut told = BTreeMap::new();
        while let Some(ended) = self.outcomes.try_next() {
            let before = told.insert(ended.task, ended.outcome.kind());
            assert!(before.is_none(), "task {} was streamed twice", ended.task);
        }
        assert_eq!(self.outcomes.missed(), 0);
        assert!(self.outcomes.is_over());
        let books = self.core.books();
        for (id, code) in &books.codes {
            assert_eq!(told.remove(id), books.specs[code].ended, "task {id}");
        }
        assert!(told.is_empty(), "never accepted: {told:?}");
    }

    /// After long patience: only what no agent can do is left.
    pub(super) fn check_that_only_the_impossible_is_left(&self) {
        let loads = self.loads();
        let books = self.core.books();
        for spec in books.specs.values().filter(|spec| spec.is_pending()) {
            let waits = spec.after.iter().any(|on| books.is_pending(*on));
            let in_service = |id: &AgentId| loads.get(id).is_some_and(|load| load.is_allocatable);
            let mut agents = books.agents.iter();
            let able = agents.any(|(id, body)| body.runs && body.has(spec.needs) && in_service(id));
            assert!(waits || !able || spec.agent.is_some(), "nobody has done {spec:?}");
            let its_own = spec.agent.filter(in_service);
            assert!(its_own.is_none() || waits, "it was for one agent: {spec:?}");
        }
        for letter in books.letters.values() {
            let in_service = loads.get(&letter.to).is_some_and(|load| load.is_allocatable);
            assert!(!in_service, "nobody has read {letter:?}");
        }
    }

    /// A shutdown says of every task that was there how it ended, once.
    fn check_what_ended(&self, pending: &BTreeSet<TaskId>, report: &DrainReport) {
        let books = self.core.books();
        let ended: BTreeMap<_, _> = report.ended.iter().copied().collect();
        assert_eq!(ended.len(), report.ended.len(), "told of twice: {report:?}");
        assert!(ended.keys().eq(pending), "{report:?}, and there were {pending:?}");
        for (id, kind) in ended {
            assert_eq!(books.specs[&books.codes[&id]].ended, Some(kind), "task {id}");
        }
    }

    fn bury_all(&self) {
        let mut books = self.core.books();
        let agents: Vec<_> = books.agents.keys().copied().collect();
        for agent in agents {
            books.bury(agent);
        }
    }

    /// The end, after which nothing is left.
    pub(super) fn shut_down(mut self, drained: &DrainReport) -> Totals {
        let early = self.random.percent(50);
        if early {
            self.drop_all_futures();
        }
        let pending = self.pending();
        let report = if self.random.percent(40) {
            let report = self.shut_down_patiently();
            self.bury_all();
            assert!(report.is_complete(), "{report:?}");
            report
        } else {
            self.bury_all();
            let report = self.fleet.shutdown(Duration::ZERO).expect("no handler runs");
            assert!(report.is_complete() || !early, "{report:?}");
            report
        };
        self.check_what_ended(&pending, &report);
        assert!(report.unfinished.is_empty(), "{report:?}");
        assert_eq!((report.workers_left, report.accepted), (0, drained.accepted));
        self.poll_futures();
        self.drop_all_futures();
        let report = self.fleet.shutdown(Duration::ZERO).expect("no handler runs");
        assert!(report.is_complete(), "{report:?}");
        assert_eq!(self.fleet.run_ready(usize::MAX), 0);
        self.check_after_a_step();
        for waiter in &self.waiters {
            assert!(waiter.bell.rung.load(Ordering::Relaxed), "a waiter sleeps for ever");
        }
        self.poll_woken();
        assert!(self.waiters.is_empty(), "who waits is told");
        self.close_crowds();
        self.close_patients();
        self.close_farewells();
        for held in self.leases.drain(..) {
            assert!(held.lease.is_revoked(), "a lease outlived its fleet");
        }
        {
            let books = self.core.books();
            for spec in books.specs.values() {
                assert!(!spec.is_pending() && spec.running.is_none(), "left behind: {spec:?}");
                assert!(spec.id.is_none() || spec.told, "nobody was told: {spec:?}");
            }
            assert!(books.letters.is_empty(), "left behind: {:?}", books.letters);
        }
        for (code, mut reply) in self.replies.drain(..) {
            assert!(reply.try_outcome().is_some(), "question {code} was never answered");
        }
        self.check_that_all_is_paid_back();
        self.check_the_stream();
        let stats = self.fleet.stats();
        assert_eq!((stats.leases_live, stats.agents_live, stats.requests_waiting), (0, 0, 0));
        assert_eq!((stats.tasks_queued, stats.tasks_running), (0, 0));
        assert_eq!(
            stats.agents_spawned,
            stats.agents_killed + stats.agents_stopped + stats.agents_retired
        );
        let given_back = stats.leases_succeeded
            + stats.leases_failed
            + stats.leases_abandoned
            + stats.leases_stale;
        let core = Arc::clone(&self.core);
        let totals = {
            let mut books = core.books();
            books.handles.clear();
            books.totals.note(given_back);
            books.totals.clone()
        };
        drop(self);
        assert!(core.fleet.get().is_some_and(|fleet| fleet.upgrade().is_none()));
        assert_eq!(core.living.load(Ordering::Relaxed), 0, "payloads or outputs leak");
        assert_eq!(Arc::strong_count(&core), 1, "handlers leak");
        totals
    }
}

impl Books {
    fn check_counts(&self, stats: &phalanx::fleet::FleetStats) {
        let ended = |kind| {
            let specs = self.specs.values();
            specs.filter(|spec| spec.id.is_some() && spec.ended == kind).count() as u64
        };
        let counted = [
            (None, stats.tasks_queued + stats.tasks_running),
            (Some(OutcomeKind::Completed), stats.tasks_completed),
            (Some(OutcomeKind::Failed), stats.tasks_failed),
            (Some(OutcomeKind::Returned), stats.tasks_returned),
            (Some(OutcomeKind::Cancelled), stats.tasks_cancelled),
        ];
        for (kind, count) in counted {
            assert_eq!(count, ended(kind), "{kind:?}");
        }
        assert_eq!(stats.tasks_accepted, self.codes.len() as u64);
    }
}
