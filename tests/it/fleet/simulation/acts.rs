//! What may happen in one step of the simulation.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::batches::Choosy;
use super::books::Spec;
use super::handlers::SKILLS;
use super::world::{Held, Waiter, World};
use phalanx::Timestamp;
use phalanx::fleet::{
    AgentId, AllocateError, Condition, Fit, GroupKey, Lease, LeaseOutcome, Priority, Request,
    TaskId,
};
use std::sync::atomic::Ordering;

/// What is asked for.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) request: Request,
    pub(super) needs: u8,
    pub(super) agent: Option<AgentId>,
    pub(super) ttl: Option<Duration>,
    pub(super) group: Option<GroupKey>,
    pub(super) picks: Option<Arc<Choosy>>,
}

impl World {
    pub(super) fn step(&mut self) {
        let choice = self.random.below(130);
        let few = self.core.books().agents.len() < 3;
        match choice {
            0..=5 => self.spawn(),
            6..=9 if few => self.spawn(),
            6..=8 => self.kill(),
            9 => self.retire(),
            10..=11 => self.change_condition(),
            12 => self.drain_agent(),
            13..=32 => self.submit(),
            33..=35 => self.submit_batch(),
            36..=38 => self.cancel(),
            39..=53 => {
                let limit = 1 + self.random.below(6);
                let ran = self.fleet.run_ready(limit);
                assert!(ran <= limit);
            }
            54..=55 => drop(self.poll_futures()),
            56 => self.poll_any_future(),
            57..=61 => {
                let time = self.random.below(200);
                self.core.hand.advance(Duration::from_millis(time as u64));
            }
            62..=64 => {
                let expired = self.fleet.tick();
                self.core.books().totals.counts_expired(expired);
            }
            65..=71 => self.allocate(),
            72 => self.allocate_batch(),
            73..=78 => self.wait(),
            79..=80 => drop(self.poll_woken() + self.poll_woken_crowds()),
            81 => self.drop_future(),
            82..=83 => self.poll_any(),
            84..=85 => self.drop_waiter(),
            86..=90 => self.end_lease(),
            91..=92 => self.renew(),
            93..=97 => self.tell(),
            98..=101 => self.change_budget(),
            102..=104 => self.beat(),
            105..=106 => self.report_failure(),
            107..=110 => self.wait_for_a_batch(),
            111 => self.drop_crowd(),
            112..=115 => self.submit_patiently(),
            116..=119 => self.drop_patient(),
            120 => drop(self.poll_woken_patients() + self.poll_woken_farewells()),
            121..=123 => self.drain_agent_patiently(),
            124 => self.drop_farewell(),
            125..=126 => self.submit_batch_patiently(),
            _ => self.read_reply(),
        }
    }

    fn kill(&mut self) {
        if let Some(agent) = self.any_agent() {
            self.core.kill(&self.fleet, agent);
            assert!(!self.core.kill(&self.fleet, agent), "it is dead for good");
        }
    }

    fn retire(&mut self) {
        let Some(agent) = self.any_agent() else { return };
        if self.fleet.retire(agent).is_ok() {
            self.is_retired(agent);
        }
    }

    pub(super) fn is_retired(&self, agent: AgentId) {
        let mut books = self.core.books();
        if let Some(body) = books.agents.remove(&agent) {
            books.dismiss(&body);
        }
        books.totals.count("retired");
        assert!(!books.is_asked(agent), "{agent} retired over its work");
    }

    fn change_condition(&mut self) {
        let Some(agent) = self.any_agent() else { return };
        let all = [
            Condition::Fit,
            Condition::Fit,
            Condition::Degraded,
            Condition::Draining,
            Condition::Failed,
            Condition::Starting,
        ];
        let condition = all[self.random.below(all.len())];
        let before = if condition == Condition::Draining {
            self.fleet.unroute(agent).map(|()| None)
        } else {
            self.fleet.set_condition(agent, condition).map(Some)
        };
        let wanted = self.is_wanted(agent, condition);
        let before = before.expect("it lives");
        assert!(before.is_none_or(|before| before == wanted), "{before:?}, and {wanted:?}");
    }

    /// The host wants that of an agent; what it wanted before.
    pub(super) fn is_wanted(&self, agent: AgentId, condition: Condition) -> Condition {
        let (mut books, now) = (self.core.books(), self.now());
        let body = books.agents.get_mut(&agent).expect("it was just listed");
        let before = std::mem::replace(&mut body.condition, condition);
        body.leaving = None;
        let is_down = matches!(condition, Condition::Draining | Condition::Failed);
        body.drained &= is_down;
        body.revive(now);
        if !is_down {
            *books.services.entry(agent).or_default() += 1;
        }
        before
    }

    fn drain_agent(&mut self) {
        let Some(agent) = self.any_agent() else { return };
        // A drain notices what has expired.
        let expired = self.fleet.tick();
        self.core.books().totals.counts_expired(expired);
        // It may have been silent for too long, and have ended by that.
        let Some(status) = self.fleet.agent(agent) else { return };
        let load = status.load;
        if !self.crowds.is_empty() {
            // What a batch has gathered goes back, and nobody knows what that is.
            return;
        }
        {
            // Whoever is told on the way finds it gone already, or drained.
            let mut books = self.core.books();
            if load == 0 {
                books.bury(agent);
            } else if let Some(body) = books.agents.get_mut(&agent) {
                (body.condition, body.drained) = (Condition::Draining, true);
                body.leaving = None;
            }
        }
        let waiting = self.fleet.mailbox_len(agent).unwrap_or(0);
        let drain = self.fleet.drain_agent(agent, Duration::ZERO).expect("no handler runs");
        let mut books = self.core.books();
        assert_eq!(drain.ended, load == 0, "{agent} holds {load} leases");
        assert_eq!(drain.messages_handled, 0, "there was no time for that");
        assert!(drain.messages_returned <= waiting as u64, "{drain:?}");
        assert_eq!(self.fleet.mailbox_len(agent).unwrap_or(0), 0, "{agent} keeps some");
        books.totals.count(if drain.ended { "drained agent" } else { "drained agent stays" });
        let keeps =
            |spec: &&Spec| spec.agent == Some(agent) && spec.is_pending() && spec.running.is_none();
        if let Some(spec) = books.specs.values().find(keeps) {
            panic!("{agent} keeps {spec:?}");
        }
        for (id, kind) in drain.tasks_ended {
            let spec = &books.specs[&books.codes[&id]];
            assert_eq!((spec.agent, spec.ended), (Some(agent), Some(kind)));
        }
    }

    pub(super) fn describe(&mut self) -> Spec {
        let mut spec = Spec { attempts: 1 + self.random.below(4) as u32, ..Spec::default() };
        if self.random.percent(50) {
            spec.needs = 1 << self.random.below(3);
        }
        if self.random.percent(20) {
            spec.agent = self.any_agent();
            spec.needs = 0;
        }
        if self.random.percent(25) {
            let timeout = Duration::from_millis(1 + self.random.below(600) as u64);
            spec.deadline = Some(self.now() + timeout);
        }
        if self.random.percent(35) {
            spec.backoff = Duration::from_millis(1 + self.random.below(300) as u64);
        }
        if self.random.percent(15) {
            spec.key = Some(self.random.below(6) as u128);
        }
        if self.random.percent(25) {
            let known: Vec<TaskId> =
                self.core.books().handles.iter().map(|(_, handle)| handle.id()).collect();
            for _ in 0..1 + self.random.below(3) {
                let latest = known.len().saturating_sub(8);
                spec.after.extend(self.random.pick(&known[latest..]));
            }
            spec.release = self.random.percent(40);
        }
        spec.group = self.random.group();
        if self.random.percent(30) {
            spec.cost = self.random.below(12) as u64;
        }
        spec
    }

    fn submit(&mut self) {
        let spec = self.describe();
        let held = spec.after.iter().any(|id| self.core.books().is_pending(*id));
        let (named, key) = (spec.agent.is_some(), spec.key);
        let first = key.and_then(|key| self.core.books().surely_known(key, self.remembered_keys));
        if self.core.submit(&self.fleet, spec).is_some() {
            let mut books = self.core.books();
            assert!(first.is_none(), "a second task of key {key:?}: the first is {first:?}");
            if held {
                books.totals.count("held");
            }
            if named {
                books.totals.count("named");
            }
        }
    }

    /// A batch of plain tasks: all or none.
    fn submit_batch(&mut self) {
        let count = 1 + self.random.below(4);
        let mut specs = Vec::new();
        for _ in 0..count {
            let spec = Spec { key: None, ..self.describe() };
            specs.push(spec);
        }
        let (codes, tasks): (Vec<_>, Vec<_>) =
            specs.into_iter().map(|spec| self.core.write_down(spec)).unzip();
        match self.fleet.submit_batch(tasks) {
            Ok(handles) => {
                let mut books = self.core.books();
                assert_eq!(handles.len(), codes.len());
                for (code, handle) in codes.into_iter().zip(handles) {
                    assert_eq!(books.codes.get(&handle.id()), Some(&code));
                    books.handles.push((code, handle));
                }
            }
            Err(refused) => {
                let mut books = self.core.books();
                for code in &codes {
                    let spec = books.specs.remove(code).expect("it was written down");
                    assert!(spec.id.is_none(), "half a batch was accepted");
                }
                drop(books);
                assert_eq!(refused.into_inner().len(), codes.len());
            }
        }
    }

    fn cancel(&mut self) {
        let handles = self.core.books().handles.clone();
        let latest = handles.len().saturating_sub(10);
        if let Some((_, handle)) = self.random.pick(&handles[latest..]) {
            self.core.cancel(handle.id(), || handle.cancel());
            let books = self.core.books();
            let spec = &books.specs[&books.codes[&handle.id()]];
            assert!(!spec.is_pending() || spec.running.is_some(), "cancelled: {spec:?}");
        }
    }

    /// The time, and how often the accounts have changed.
    pub(super) fn moment(&self) -> (Timestamp, u64) {
        (self.now(), self.core.books().turn)
    }

    pub(super) fn want(&mut self) -> Wanted {
        let needs = if self.random.percent(60) { 1 << self.random.below(3) } else { 0 };
        let agent = if self.random.percent(15) { self.any_agent() } else { None };
        let short = Duration::from_millis(1 + self.random.below(400) as u64);
        let ttl = self.random.percent(40).then_some(short);
        let mut request = Request::any().priority(Priority::new(self.random.next() as u8));
        for (bit, skill) in SKILLS.iter().enumerate() {
            if needs & (1 << bit) != 0 {
                request = request.capability(skill);
            }
        }
        if let Some(agent) = agent {
            request = request.agent(agent);
        } else if self.random.percent(20) {
            request = request.fit(Fit::Tightest);
        }
        if let Some(ttl) = ttl {
            request = request.ttl(ttl);
        }
        let group = self.random.group();
        if let Some(group) = group {
            request = request.group(group);
        }
        let picks = self.picker(needs, agent);
        if let Some(picker) = &picks {
            request = request.picker(Arc::clone(picker) as _);
        }
        Wanted { request, needs, agent, ttl, group, picks }
    }

    /// Looks at a lease that was granted since then, and keeps it.
    pub(super) fn keep(&mut self, lease: Lease, wanted: &Wanted, seen: (Timestamp, u64)) {
        let agent = lease.agent();
        let (now, turn) = self.moment();
        let (since, earliest) = seen;
        let Wanted { needs, agent: named, ttl, group, .. } = *wanted;
        {
            let mut books = self.core.books();
            books.totals.count("lease granted");
            let expired = ttl.is_some_and(|ttl| since + ttl <= now);
            match books.agents.get(&agent) {
                Some(body) => {
                    assert!(body.has(needs), "{agent} cannot do that");
                    assert!(named.is_none_or(|named| named == agent), "it is another one");
                }
                // It was granted, and then its agent ended.
                None => assert!(
                    lease.is_revoked() && since < now || lease.is_revoked(),
                    "{agent} is gone"
                ),
            }
            assert!(expired || !lease.is_revoked() || !books.agents.contains_key(&agent));
        }
        if let Some(picker) = &wanted.picks {
            assert_eq!(picker.chosen(), Some(agent), "it is not the one that was chosen");
            self.core.books().totals.count("picked");
        }
        if ttl.is_some() {
            self.core.books().lease_expires(agent, true);
        }
        let expires = ttl.map(|ttl| (since + ttl, now + ttl));
        self.leases.push(Held { lease, agent, expires, group, granted: (earliest, turn) });
    }

    fn allocate(&mut self) {
        let wanted = self.want();
        self.allocate_for(&wanted);
    }

    pub(super) fn allocate_for(&mut self, wanted: &Wanted) {
        let before = self.idle_agent(&self.loads(), wanted);
        let seen = self.moment();
        match self.fleet.try_allocate(&wanted.request) {
            Ok(lease) => {
                let agent = lease.agent();
                let able = self.loads().get(&agent).is_some_and(|load| load.is_allocatable);
                assert!(able, "{agent} is not to be allocated");
                self.keep(lease, wanted, seen);
            }
            Err(refused @ (AllocateError::NoneIdle | AllocateError::OverBudget(_))) => {
                // What has expired was noticed, and went to those who wait.
                let idle = self.idle_agent(&self.loads(), wanted);
                assert!(idle.is_none() || before.is_none(), "{idle:?} was free: {refused}");
                if matches!(refused, AllocateError::OverBudget(_)) {
                    self.core.books().totals.count("lease over budget");
                }
            }
            Err(AllocateError::NoSuchCapability) => {
                let books = self.core.books();
                let able = books.agents.iter().find(|(id, body)| {
                    wanted.agent.is_none_or(|named| named == **id) && body.has(wanted.needs)
                });
                assert!(able.is_none(), "{able:?} could serve it");
            }
            Err(AllocateError::AgentGone) => {
                let named = wanted.agent.expect("it asked for one");
                assert!(!self.core.books().agents.contains_key(&named));
            }
            Err(other) => self.check_pick(wanted, &other),
        }
    }

    /// What may come of a picker.
    fn check_pick(&self, wanted: &Wanted, refused: &AllocateError) {
        let mut books = self.core.books();
        let what = match refused {
            AllocateError::PickDeclined => "pick declined",
            AllocateError::PickLost => "pick lost",
            AllocateError::PickerFailed => "picker failed",
            other => panic!("{other}"),
        };
        assert!(wanted.picks.is_some(), "nobody picks: {refused}");
        books.totals.count(what);
    }

    fn allocate_batch(&mut self) {
        let mut wanted = self.want();
        wanted.request = wanted.request.fit(Fit::All);
        let count = 1 + self.random.below(4);
        let seen = self.moment();
        let all = self.random.percent(50);
        let leases = if all {
            self.fleet.try_allocate_batch(&wanted.request, count)
        } else {
            self.fleet.try_allocate_up_to(&wanted.request, count)
        };
        if let Ok(leases) = leases {
            assert!(leases.len() == count || (!all && leases.len() < count && !leases.is_empty()));
            for lease in leases {
                self.keep(lease, &wanted, seen);
            }
        }
    }

    fn wait(&mut self) {
        let wanted = self.want();
        let future = Box::pin(self.fleet.allocate_async(&wanted.request));
        let (bell, seen) = (self.bell(), self.moment());
        self.waiters.push(Waiter { future, bell, wanted, seen });
        let last = self.waiters.len() - 1;
        self.poll_waiter(last);
    }

    /// Polls one; whether it was answered.
    fn poll_waiter(&mut self, at: usize) -> bool {
        let seen = self.waiters[at].seen;
        let result = match self.waiters[at].poll() {
            Poll::Pending => {
                self.waiters[at].seen = self.moment();
                return false;
            }
            Poll::Ready(result) => result,
        };
        let Waiter { wanted, future, .. } = self.waiters.swap_remove(at);
        drop(future);
        match result {
            Ok(lease) => {
                self.core.books().totals.count("waiter granted");
                self.keep(lease, &wanted, seen);
            }
            Err(AllocateError::NoSuchCapability) => {
                self.core.books().totals.count("waiter without hope");
            }
            Err(AllocateError::AgentGone) => {
                let named = wanted.agent.expect("it asked for one");
                assert!(!self.core.books().agents.contains_key(&named));
            }
            Err(AllocateError::TooManyWaiting) => {
                self.core.books().totals.count("too many waiting");
            }
            Err(AllocateError::Closed) => {
                assert!(self.core.books().closing);
                self.core.books().totals.count("waiter closed");
            }
            Err(other) => self.check_pick(&wanted, &other),
        }
        true
    }

    /// Polls those whose wakers were called, and no others; how many there were.
    pub(super) fn poll_woken(&mut self) -> usize {
        let mut polled = 0;
        let mut at = 0;
        while at < self.waiters.len() {
            if self.waiters[at].bell.rung.load(Ordering::Relaxed) {
                polled += 1;
                at += usize::from(!self.poll_waiter(at));
            } else {
                at += 1;
            }
        }
        polled
    }

    fn poll_any(&mut self) {
        if !self.waiters.is_empty() {
            let at = self.random.below(self.waiters.len());
            // With another waker, perhaps.
            if self.random.percent(50) {
                let rung = self.waiters[at].bell.rung.load(Ordering::Relaxed);
                let bell = self.bell();
                bell.rung.store(rung, Ordering::Relaxed);
                self.waiters[at].bell = bell;
            }
            self.poll_waiter(at);
        }
    }

    fn drop_waiter(&mut self) {
        if !self.waiters.is_empty() {
            let at = self.random.below(self.waiters.len());
            let waiter = self.waiters.swap_remove(at);
            let woken = waiter.bell.rung.load(Ordering::Relaxed);
            drop(waiter);
            let what = if woken { "waiter dropped after it was woken" } else { "waiter dropped" };
            self.core.books().totals.count(what);
        }
    }

    pub(super) fn end_lease(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let at = self.random.below(self.leases.len());
        self.end_lease_at(at);
    }

    pub(super) fn end_lease_at(&mut self, at: usize) {
        let Held { lease, agent, expires, .. } = self.leases.swap_remove(at);
        let now = self.now();
        let lives = self.core.books().agents.contains_key(&agent);
        if expires.is_some() {
            self.core.books().lease_expires(agent, false);
            // It may have expired already.
            self.core.books().circuit_hears_of_a_failure();
        }
        let outcome = match self.random.below(3) {
            0 => LeaseOutcome::Succeeded,
            1 => LeaseOutcome::Failed,
            _ => return drop(lease),
        };
        if outcome == LeaseOutcome::Failed {
            self.core.books().circuit_hears_of_a_failure();
        }
        let ended = lease.complete(outcome);
        if !lives {
            assert!(ended.is_err(), "a lease on {agent}, which is gone, was good");
            self.core.books().totals.count("lease void");
        } else if expires.is_none_or(|(earliest, _)| now < earliest) {
            assert!(ended.is_ok(), "{ended:?} at {now:?}, and it expires {expires:?}");
        } else if expires.is_some_and(|(_, latest)| latest <= now) {
            let late = ended.as_ref().is_err_and(|stale| stale.expired);
            assert!(late, "{agent} at {now:?}: {ended:?}, and it expired {expires:?}");
        }
    }

    fn renew(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let at = self.random.below(self.leases.len());
        let now = self.now();
        let ttl = Duration::from_millis(1 + self.random.below(400) as u64);
        let held = &mut self.leases[at];
        let lives = self.core.books().agents.contains_key(&held.agent);
        let renewed = held.lease.renew(ttl);
        if !lives {
            assert!(renewed.is_err(), "a lease on {}, which is gone, was renewed", held.agent);
        } else if held.expires.is_none_or(|(earliest, _)| now < earliest) {
            assert!(renewed.is_ok(), "{renewed:?}");
        } else if held.expires.is_some_and(|(_, latest)| latest <= now) {
            assert!(renewed.is_err(), "{now:?}: it had expired {:?}", held.expires);
        }
        if renewed.is_ok() {
            if held.expires.is_none() {
                self.core.books().lease_expires(held.agent, true);
            }
            held.expires = Some((now + ttl, now + ttl));
        }
    }

    fn tell(&mut self) {
        if let Some(to) = self.any_agent() {
            let sort = self.random.below(4);
            let reply = self.core.write_letter(&self.fleet, to, sort);
            self.replies.extend(reply);
        }
    }

    fn read_reply(&mut self) {
        if !self.replies.is_empty() {
            let at = self.random.below(self.replies.len());
            let (code, mut reply) = self.replies.swap_remove(at);
            if self.random.percent(30) {
                return;
            }
            match reply.try_outcome() {
                Some(outcome) => {
                    let ended = !self.core.books().letters.contains_key(&code);
                    assert!(ended, "question {code} was answered, and nobody asked");
                    assert!(outcome.completed().is_none_or(|token| token.code == code));
                    self.core.books().totals.count("reply");
                }
                None => self.replies.push((code, reply)),
            }
        }
    }
}
