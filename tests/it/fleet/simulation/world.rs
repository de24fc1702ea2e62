//! One simulated fleet and all who use it, from the first step to the last.

use std::future::Future;
use std::num::{NonZeroU32, NonZeroUsize};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::Random;
use super::acts::Wanted;
use super::batches::Crowd;
use super::books::{Body, Books, Core, Token, Totals};
use super::farewells::Farewell;
use super::handlers::{SKILLS, factory, handler, handler_async, spawner};
use super::patience::Patient;
use super::purses::KINDS;
use super::scale::Scaling;
use super::wards::{Guard, breaker, teams};
use phalanx::fleet::SupervisionGroup;
use phalanx::fleet::{
    AgentId, AgentSpec, Allocation, Condition, Fleet, GroupKey, Lease, Outcomes, Priority, Reply,
    SpawnedFuture, Strategy, set_first_shard,
};
use phalanx::{ErrorKind, ManualClock, Timestamp};

/// A lease that the host holds.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) agent: AgentId,
    /// Between these two it expires, if it does.
    pub(super) expires: Option<(Timestamp, Timestamp)>,
    pub(super) group: Option<GroupKey>,
    /// Between these two changes of the accounts it was granted.
    pub(super) granted: (u64, u64),
}

/// A waker that remembers.
#[derive(Debug, Default)]
pub(super) struct Bell {
    pub(super) rung: AtomicBool,
    panics: bool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::Relaxed);
        if self.panics {
            std::panic::resume_unwind(Box::new("a simulated panic of a waker"));
        }
    }
}

/// A request that waits.
pub(super) struct Waiter {
    pub(super) future: Pin<Box<Allocation>>,
    pub(super) bell: Arc<Bell>,
    pub(super) wanted: Wanted,
    /// When it was last seen to wait, and how often the accounts had changed.
    pub(super) seen: (Timestamp, u64),
}

impl Waiter {
    pub(super) fn poll(&mut self) -> Poll<Result<Lease, phalanx::fleet::AllocateError>> {
        self.bell.rung.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.bell));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) core: Arc<Core>,
    pub(super) fleet: Fleet<Token, Token>,
    pub(super) leases: Vec<Held>,
    pub(super) waiters: Vec<Waiter>,
    pub(super) crowds: Vec<Crowd>,
    pub(super) patients: Vec<Patient>,
    pub(super) farewells: Vec<Farewell>,
    pub(super) replies: Vec<(u64, Reply<Token>)>,
    pub(super) teams: [SupervisionGroup; 2],
    pub(super) remembered_keys: usize,
    /// How many tasks the queue holds.
    pub(super) room: usize,
    /// All ends of tasks.
    pub(super) outcomes: Outcomes<Token>,
    pub(super) scaling: Option<Scaling>,
    steps: usize,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        // What it does is a matter of the seed, and not of the thread.
        set_first_shard(Some(random.below(4)));
        let (clock, hand) = ManualClock::new();
        let mut books = Books::new(Random(random.next()));
        books.faulty = random.percent(60);
        let core = Arc::new(Core {
            books: Mutex::new(books),
            clock: clock.clone(),
            hand,
            fleet: OnceLock::new(),
            living: Arc::new(AtomicI64::new(0)),
            executor: Mutex::new(Vec::new()),
        });
        let (remembered_keys, room) = (random.below(12), 5 + random.below(40));
        let some = |count: usize| NonZeroUsize::new(count + 1).expect("one more than something");
        let mut builder = Fleet::builder()
            .driven()
            .clock(clock)
            .queue_capacity(some(room - 1))
            .max_waiting(some(random.below(16)))
            .mailbox_capacity(NonZeroU32::new(1 + random.next() as u32 % 8).expect("one or more"))
            .history(random.below(30))
            .remembered_keys(remembered_keys)
            .task_log(Arc::clone(&core) as _)
            .observer(Arc::clone(&core) as _)
            .returned(Arc::clone(&core) as _)
            .spawner(Arc::new(spawner(&core)));
        if let Some((kind, policy)) = breaker(&mut random) {
            builder = builder.breaker(kind, policy);
        }
        if let Some(budgets) = Self::purse_strings(&mut random) {
            builder = builder.budgets(budgets);
        }
        if random.percent(40) {
            builder = builder.verifier(Arc::clone(&core) as _);
        }
        let all = [
            Strategy::LeastLoaded,
            Strategy::Priority,
            Strategy::RoundRobin,
            Strategy::Performance,
        ];
        // Mostly one alone, and several by turns of whoever asks for nothing else.
        let kept = &all[random.below(all.len())..];
        builder = builder.strategies(if random.percent(80) { &kept[..1] } else { kept });
        builder = match random.below(3) {
            0 => builder.shards(some(random.below(4))),
            _ => builder.strict(),
        };
        let fleet = builder.build().expect("the values are valid");
        let outcomes = fleet.outcomes(some(10_000));
        core.fleet.set(fleet.downgrade()).expect("it is set once");
        Self {
            random,
            core,
            fleet,
            leases: Vec::new(),
            waiters: Vec::new(),
            crowds: Vec::new(),
            patients: Vec::new(),
            farewells: Vec::new(),
            replies: Vec::new(),
            teams: teams(),
            remembered_keys,
            room,
            outcomes,
            scaling: Scaling::new(seed),
            steps: 0,
        }
    }

    /// Plays until the end.
    pub(super) fn run(mut self) -> Totals {
        for _ in 0..self.random.below(5) {
            self.change_budget();
        }
        for _ in 0..1 + self.random.below(3) {
            self.spawn();
        }
        self.begin_to_scale();
        self.steps = 20 + self.random.below(100);
        for step in 0..self.steps {
            self.step();
            self.load_and_scale(step as f64 / self.steps as f64);
            self.check_after_a_step();
            if self.random.percent(12) {
                self.settle_down();
                self.check_when_nothing_is_ready();
            }
        }
        self.end()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.core.clock.now()
    }

    pub(super) fn any_agent(&mut self) -> Option<AgentId> {
        let agents: Vec<_> = self.core.books().agents.keys().copied().collect();
        self.random.pick(&agents).copied()
    }

    pub(super) fn bell(&mut self) -> Arc<Bell> {
        let panics = self.core.books().faulty && self.random.percent(5);
        Arc::new(Bell { rung: AtomicBool::new(false), panics })
    }

    pub(super) fn spawn(&mut self) {
        let skills = (self.random.below(8) | self.random.below(8)) as u8;
        let limit = 1 + self.random.below(3) as u32;
        let runs = self.random.percent(85);
        let starting = self.random.percent(5);
        let condition = if starting { Condition::Starting } else { Condition::Fit };
        let kind = KINDS[self.random.below(KINDS.len())];
        let mut spec = AgentSpec::new(kind)
            .max_leases(NonZeroU32::new(limit).expect("one or more"))
            .priority(Priority::new(self.random.next() as u8))
            .condition(condition);
        for (bit, skill) in SKILLS.iter().enumerate() {
            if skills & (1 << bit) != 0 {
                spec = spec.capability(skill);
            }
        }
        let (spec, supervised) = self.supervise(spec);
        let (mut spec, heart) = self.give_heart(spec);
        // With one lease there is one handler, and a panic leaves none.
        let prewarmed = runs && limit == 1 && heart.is_none() && self.random.percent(50);
        if runs && !prewarmed && self.random.percent(35) {
            spec = spec.handler_async(handler_async(&self.core));
        } else if prewarmed {
            spec = spec.handler(factory(&self.core, kind)).prewarmed();
        } else if runs {
            spec = spec.handler_fn(handler(&self.core));
        }
        let count = 1 + self.random.below(2);
        let paid = self.core.books().launch(kind, count);
        let agents = match self.fleet.spawn_batch(&spec, count) {
            Ok(agents) if paid => agents,
            Err(refused) if !paid && refused.kind() == ErrorKind::LimitReached => return,
            other => panic!("{other:?}, and there is room: {paid}"),
        };
        for agent in agents {
            let guard = supervised.map(|team| team.map_or(Guard::Alone(agent), Guard::Team));
            let (down, is_doomed, incarnation) = (None, false, 1);
            let body = Body {
                kind,
                skills,
                limit,
                runs,
                condition,
                drained: false,
                leaving: None,
                guard,
                down,
                is_doomed,
                incarnation,
                heart,
                prewarmed,
                cold: prewarmed,
            };
            let before = self.core.books().agents.insert(agent, body);
            assert!(before.is_none(), "{agent} lives twice");
        }
    }

    /// Lets the fleet do all there is to do, without any time passing but what handlers take.
    pub(super) fn settle_down(&mut self) {
        while self.fleet.run_ready(usize::MAX) > 0 {}
        self.check_that_time_was_noticed();
        self.come_to_rest();
    }

    /// The same where nobody drives any more.
    pub(super) fn come_to_rest(&mut self) {
        for _ in 0..10_000 {
            let expired = self.fleet.tick();
            self.core.books().totals.counts_expired(expired);
            let ran = self.fleet.run_ready(usize::MAX);
            let polled = self.poll_woken()
                + self.poll_woken_crowds()
                + self.poll_woken_patients()
                + self.poll_woken_farewells();
            let flown = self.poll_futures();
            if ran == 0 && polled == 0 && flown == 0 {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// Polls the futures that can go on; how many there were.
    pub(super) fn poll_futures(&mut self) -> usize {
        let woken = {
            let mut futures = self.core.executor.lock().unwrap_or_else(PoisonError::into_inner);
            let is_woken = |(_, bell): &(_, Arc<Bell>)| bell.rung.load(Ordering::Relaxed);
            let (woken, asleep): (Vec<_>, Vec<_>) = futures.drain(..).partition(is_woken);
            *futures = asleep;
            woken
        };
        let count = woken.len();
        for (future, bell) in woken {
            self.poll_future(future, bell);
        }
        count
    }

    fn poll_future(&mut self, mut future: SpawnedFuture, bell: Arc<Bell>) {
        bell.rung.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&bell));
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            let mut futures = self.core.executor.lock().unwrap_or_else(PoisonError::into_inner);
            futures.push((future, bell));
        }
    }

    /// Polls a future that need not have been woken.
    pub(super) fn poll_any_future(&mut self) {
        if let Some((future, bell)) = self.take_future() {
            self.poll_future(future, bell);
        }
    }

    pub(super) fn take_future(&mut self) -> Option<(SpawnedFuture, Arc<Bell>)> {
        let mut futures = self.core.executor.lock().unwrap_or_else(PoisonError::into_inner);
        if futures.is_empty() {
            return None;
        }
        let at = self.random.below(futures.len());
        Some(futures.swap_remove(at))
    }

    /// The executor lets go of a future.
    pub(super) fn drop_future(&mut self) {
        if let Some(future) = self.take_future() {
            drop(future);
            self.core.books().totals.count("future dropped");
        }
    }

    pub(super) fn drop_all_futures(&mut self) {
        while let Some(future) = self.take_future() {
            drop(future);
        }
    }

    /// The end: with patience or without.
    fn end(mut self) -> Totals {
        self.stand_still();
        let drained = self.fleet.drain(Duration::ZERO).expect("no handler runs");
        self.core.books().closing = true;
        if self.random.percent(50) {
            self.wait_for_the_rest();
        } else {
            self.core.books().totals.count("shut down with work left");
        }
        self.shut_down(&drained)
    }

    /// Gives all that was accepted the chance to end.
    fn wait_for_the_rest(&mut self) {
        for held in std::mem::take(&mut self.leases) {
            drop(held);
        }
        self.waiters.clear();
        self.crowds.clear();
        self.relax_budgets();
        for agent in self.fleet.agents() {
            let _ = self.fleet.set_condition(agent.id, Condition::Fit);
            self.is_wanted(agent.id, Condition::Fit);
        }
        self.stir();
        let mut drain = self.drain_patiently();
        let mut drained = false;
        for _ in 0..100 {
            self.beat_for_all();
            self.scale();
            self.settle_down();
            self.check_when_nothing_is_ready();
            drained = drained || self.check_the_drain(&mut drain);
            self.core.hand.advance(Duration::from_millis(100));
            // Some hang.
            self.drop_future();
        }
        self.drop_all_futures();
        self.settle_down();
        self.check_that_only_the_impossible_is_left();
        if drained || self.check_the_drain(&mut drain) {
            self.core.books().totals.count("drained to the end");
        }
        self.check_that_somebody_came();
        self.core.books().totals.count("waits out of patience");
    }
}
