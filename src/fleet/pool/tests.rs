//! The pool against a naive model that scans everything.

mod model;
mod steps;

use proptest::prelude::{ProptestConfig, prop, prop_assert, proptest};

use self::model::{Asked, Flag, Model, ModelAgent, ModelWaiter};
use self::steps::{Step, names, step};
use super::*;
use crate::ErrorKind;
use crate::fleet::agent::AgentState;
use crate::fleet::budget::{Limit, Meter, Quota, Scope};
use crate::fleet::lease::{Lease, LeaseOutcome};
use crate::fleet::pool::shard::NO_FLOOR;

#[cfg(feature = "test-util")]
mod alone;
mod batches;
mod edges;
mod expected;
mod limits;
mod turns;

impl Pool {
    /// Checks the rules of all files from scratch.
    pub(in crate::fleet) fn validate(&self) {
        let desk = self.desk.lock();
        let shards = self.lock_all();
        let shards: Vec<&Shard> = shards.iter().map(|shard| &**shard).collect();
        for shard in &shards {
            shard.validate();
        }
        desk.validate(&shards);
        let waiting = desk.waiting.len() + desk.batches.waiting();
        assert_eq!(self.attention.load(Ordering::Relaxed), waiting * 2, "rule 2");
        if shards.len() == 1 {
            return;
        }
        for (at, shard) in shards.iter().enumerate() {
            for strategy in [Strategy::LeastLoaded, Strategy::Priority, Strategy::Performance] {
                if !self.kept.has(strategy) {
                    continue;
                }
                let best = shard.best(&Ask::any(strategy));
                let floor = best.map_or(NO_FLOOR, |best| best.floor());
                assert_eq!(self.floors.get(strategy, at), floor, "rule 4: {strategy:?}");
            }
            let line = shard.best(&Ask::any(Strategy::RoundRobin)).is_some();
            if self.kept.has(Strategy::RoundRobin) {
                assert_eq!(self.floors.get(Strategy::RoundRobin, at) != NO_FLOOR, line, "rule 4");
            }
        }
    }
}

/// The width of a bucket of the wheel, so that no lease is due between two ticks.
const TICK_NS: u64 = 1 << 20;

/// A clock that stands still but when a step moves it; without it no lease expires.
struct Hand {
    #[cfg(feature = "test-util")]
    hand: crate::ManualClock,
}

impl Hand {
    fn new() -> (Clock, Self) {
        #[cfg(feature = "test-util")]
        {
            let (clock, hand) = crate::ManualClock::new();
            (clock, Self { hand })
        }
        #[cfg(not(feature = "test-util"))]
        (Clock::real(), Self {})
    }

    #[cfg(feature = "test-util")]
    fn advance(&self, by: u64) {
        self.hand.advance(Duration::from_nanos(by));
    }

    #[cfg(not(feature = "test-util"))]
    fn advance(&self, _by: u64) {}
}

/// A lease that somebody holds, and when it is due.
struct Held {
    lease: Lease,
    due: Option<u64>,
}

struct Both {
    pool: Arc<Pool>,
    hand: Hand,
    now: u64,
    model: Model,
    leases: Vec<Held>,
    /// Leases that are void: their agent has ended, or somebody noticed that they had expired.
    void: Vec<Lease>,
}

impl Both {
    fn new(shards: usize, first: Strategy) -> Self {
        let mut strategies = vec![first];
        strategies.extend(Strategy::ALL);
        Self::of(shards, &strategies)
    }

    fn of(shards: usize, strategies: &[Strategy]) -> Self {
        let limit = |count| NonZeroUsize::new(count).expect("not zero");
        let kept = Kept::new(strategies).expect("one at least");
        let (clock, hand) = Hand::new();
        let (max_agents, max_waiting, ageing) = (limit(8), limit(3), None);
        let budgets = None;
        let pool =
            Pool::new(PoolConfig { max_agents, max_waiting, shards, kept, clock, budgets, ageing });
        let model = Model { strict: shards == 1, ..Model::default() };
        Self { pool, hand, now: 0, model, leases: Vec::new(), void: Vec::new() }
    }

    /// The time that a lease of this ask has, such that no two leases are due at the same moment: then the
    /// order in which they expire is no matter.
    fn ttl(&self, ttl: u64) -> Duration {
        let waiting = self.model.waiters.iter().filter_map(|waiter| waiter.asked.ttl);
        let taken: Vec<_> = self.leases.iter().filter_map(|held| held.due).collect();
        let free = |ttl: &u64| {
            !taken.contains(&(self.now + ttl * TICK_NS))
                && waiting.clone().all(|other| other != *ttl)
        };
        Duration::from_nanos((ttl..).find(free).expect("there are many") * TICK_NS)
    }

    fn hold(&mut self, lease: Lease, request: &Request) {
        let due = request.time_to_live().map(|ttl| self.now + nanoseconds(ttl));
        self.leases.push(Held { lease, due });
    }

    /// What whoever looks for expired leases brings about; there is one at most.
    fn notice(&mut self) {
        let due = self.leases.iter().position(|held| held.due.is_some_and(|due| due <= self.now));
        if let Some(due) = due {
            let held = self.leases.swap_remove(due);
            self.model.release(held.lease.agent(), false);
            self.void.push(held.lease);
        }
    }

    /// Has the model make the choice that the pool made.
    fn follow(&mut self, asked: &Asked, named: Option<AgentId>, choice: Option<AgentId>) {
        if self.model.best(asked, named).is_none() {
            self.notice();
        }
        self.model.follow(asked, named, choice);
    }

    /// Learns from the pool what its own rules leave to it.
    fn learn(&mut self, order: bool) {
        for agent in &mut self.model.agents {
            let shard = self.pool.shards[self.pool.shard_of(agent.id)].lock();
            let local = shard.find(agent.id).expect("the model has it");
            agent.past = shard.past(local);
            if order {
                agent.changed = shard.slot(local).stamp.age();
                agent.came_back = shard.slot(local).stamp.is_of_return();
                agent.turn = shard.slot(local).turn.age();
                self.model.time = self.model.time.max(agent.changed + 1);
            }
        }
    }

    fn wake(wakes: Vec<Waker>) {
        for waker in wakes {
            waker.wake();
        }
    }

    fn request(&self, asked: &Asked) -> (Request, Option<AgentId>) {
        let named = asked.named.filter(|_| !self.model.ever.is_empty());
        let named = named.map(|named| self.model.ever[named % self.model.ever.len()]);
        let request = names(asked.capabilities)
            .iter()
            .fold(Request::any(), Request::capability)
            .priority(Priority::new(asked.priority))
            .fit(asked.fit)
            .strategy(asked.strategy);
        let request = match asked.ttl {
            Some(ttl) => request.ttl(self.ttl(ttl)),
            None => request,
        };
        (named.map_or(request.clone(), |agent| request.agent(agent)), named)
    }

    /// Why a request can never be served as things are, if it cannot.
    fn hopeless(&self, asked: &Asked, named: Option<AgentId>) -> Option<AllocateError> {
        let no_capability = Some(AllocateError::NoSuchCapability);
        let known = names(asked.capabilities);
        let known =
            known.iter().filter(|name| self.pool.desk.lock().mask_of(&[(**name).clone()]).1);
        let known = known.count() as u32;
        let unknown = asked.capabilities.count_ones() - known;
        if unknown > 0 && (asked.fit != Fit::BestFraction || known == 0) {
            return no_capability;
        }
        let Some(named) = named else {
            return if self.model.possible(asked) { None } else { no_capability };
        };
        match self.model.agents.iter().find(|agent| agent.id == named) {
            None => Some(AllocateError::AgentGone),
            Some(agent) if Model::misfit(asked, agent).is_none() => no_capability,
            Some(_) => None,
        }
    }

    fn apply(&mut self, step: Step) {
        let mut wakes = Vec::new();
        match step {
            Step::Spawn { capabilities, priority, limit, count, condition } => {
                let newcomers = Newcomers {
                    name: &Arc::from("agent"),
                    capabilities: &names(capabilities),
                    runs_tasks: false,
                    priority: Priority::new(priority),
                    limit,
                    labels: &[],
                    resources: Resources::default(),
                    condition,
                    era: None,
                };
                let room = self.model.agents.len() + count <= 8;
                let agents = self.pool.insert(&newcomers, count, &mut wakes);
                assert_eq!(agents.is_ok(), room);
                for id in agents.into_iter().flatten() {
                    assert!(!self.model.ever.contains(&id), "an id was used again");
                    self.model.ever.push(id);
                    let time = self.model.time;
                    self.model.time += 1;
                    self.model.agents.push(ModelAgent {
                        id,
                        capabilities,
                        priority,
                        limit,
                        load: 0,
                        changed: time,
                        came_back: false,
                        turn: time,
                        past: 0,
                        condition,
                    });
                    self.model.serve(self.model.agents.len() - 1);
                }
            }
            Step::SetCondition { agent, condition } if !self.model.agents.is_empty() => {
                let index = agent % self.model.agents.len();
                let agent = &mut self.model.agents[index];
                let old = self.pool.set_condition(agent.id, condition);
                assert_eq!(old, Some(agent.condition));
                agent.condition = condition;
                self.model.touch(index);
                self.model.agents[index].turn = self.model.agents[index].changed;
                self.model.serve(index);
            }
            Step::Kill { agent } => self.kill(agent, &mut wakes),
            Step::TryAllocate { asked, elsewhere } => {
                let (request, named) = self.request(&asked);
                // Another thread has another home.
                let result = if elsewhere {
                    let pool = &self.pool;
                    std::thread::scope(|scope| {
                        scope.spawn(|| pool.try_allocate(&request)).join().expect("no panic")
                    })
                } else {
                    self.pool.try_allocate(&request)
                };
                if let Some(error) = self.hopeless(&asked, named) {
                    assert_eq!(result.map(|lease| lease.agent()), Err(error));
                    self.pool.expire_due();
                    self.notice();
                    return;
                }
                match result {
                    Ok(lease) => {
                        self.follow(&asked, named, Some(lease.agent()));
                        self.hold(lease, &request);
                    }
                    Err(error) => {
                        assert_eq!(error, AllocateError::NoneIdle);
                        self.follow(&asked, named, None);
                    }
                }
            }
            Step::TryBatch { mut asked, count, whole } => {
                // Equal times would be due at the same moment.
                asked.ttl = None;
                let (request, named) = self.request(&asked);
                let result = self.pool.try_allocate_batch(&request, count, whole);
                self.pool.expire_due();
                self.notice();
                if let Some(error) = self.hopeless(&asked, named)
                    && count > 0
                {
                    assert_eq!(result.map(|leases| leases.len()), Err(error));
                    return;
                }
                let places: u32 = self
                    .model
                    .candidates(&asked, named)
                    .map(|i| u32::from(self.model.agents[i].limit - self.model.agents[i].load))
                    .sum();
                let expected = count.min(places as usize);
                match result {
                    Ok(leases) => {
                        assert_eq!(leases.len(), expected);
                        for lease in leases {
                            self.model.follow(&asked, named, Some(lease.agent()));
                            self.hold(lease, &request);
                        }
                    }
                    Err(error) => {
                        // A task's request may be hopeless, and nobody asked for anything.
                        assert!(error == AllocateError::NoneIdle || count == 0, "{error}");
                        assert!(if whole { expected < count } else { expected == 0 } || count == 0);
                        if self.model.strict {
                            self.model.take_in_vain(&asked, named, expected);
                        } else {
                            self.learn(true);
                        }
                    }
                }
            }
            Step::Advance { ticks } => {
                self.pool.expire_due();
                self.notice();
                let next = self.leases.iter().filter_map(|held| held.due).min();
                let by = next.map_or(ticks * TICK_NS, |next| {
                    if ticks % 2 == 0 {
                        next - self.now
                    } else {
                        (next - self.now).min(ticks * TICK_NS)
                    }
                });
                self.now += by;
                self.hand.advance(by);
                if let (Some(next), Some(due)) = (next, self.pool.next_due()) {
                    assert!(nanoseconds(due.since_start()) <= next, "who waits would oversleep");
                }
            }
            Step::Tick => {
                let due =
                    self.leases.iter().any(|held| held.due.is_some_and(|due| due <= self.now));
                assert_eq!(self.pool.expire_due(), usize::from(due));
                self.notice();
            }
            Step::Renew { lease, ticks }
                if !self.leases.is_empty() && cfg!(feature = "test-util") =>
            {
                let index = lease % self.leases.len();
                let ttl = self.ttl(ticks);
                let held = &mut self.leases[index];
                let void = held.due.is_some_and(|due| due <= self.now);
                assert_eq!(held.lease.is_revoked(), void);
                assert_eq!(held.lease.renew(ttl).is_err(), void);
                if !void {
                    held.due = Some(self.now + nanoseconds(ttl));
                }
            }
            Step::Wait { asked } => {
                let flag = Arc::<Flag>::default();
                let mut waker = Some(Waker::from(Arc::clone(&flag)));
                let (request, named) = self.request(&asked);
                let hopeless = self.hopeless(&asked, named);
                match self.pool.allocate_or_wait(&request, &mut waker) {
                    Err(AllocateError::TooManyWaiting) => {
                        assert_eq!(hopeless, None);
                        self.follow(&asked, named, None);
                        assert_eq!(self.model.waiters.len(), 3);
                    }
                    Err(error) => {
                        assert_eq!(Some(error), hopeless);
                        self.pool.expire_due();
                        self.notice();
                    }
                    Ok(Ok(lease)) => {
                        self.follow(&asked, named, Some(lease.agent()));
                        self.hold(lease, &request);
                    }
                    Ok(Err(ticket)) => {
                        assert_eq!(hopeless, None);
                        self.follow(&asked, named, None);
                        let mut asked = asked;
                        asked.ttl = request.time_to_live().map(|ttl| nanoseconds(ttl) / TICK_NS);
                        let waiter =
                            ModelWaiter { ticket, flag, asked, agent: named, answer: None };
                        self.model.waiters.push(waiter);
                    }
                }
            }
            Step::Collect { waiter } if !self.model.waiters.is_empty() => {
                let index = waiter % self.model.waiters.len();
                let waiter = &self.model.waiters[index];
                let due = waiter.asked.ttl.map(|ttl| self.now + ttl * TICK_NS);
                if due.is_some() && self.leases.iter().any(|held| held.due == due) {
                    // Another is due at that moment.
                    return;
                }
                let waker = Waker::from(Arc::clone(&waiter.flag));
                let (answer, _) = self.pool.collect(&waiter.ticket, waker);
                let agent = answer.as_ref().map(|result| result.as_ref().map(Lease::agent));
                assert_eq!(agent, waiter.answer.as_ref().map(|answer| answer.as_ref().copied()));
                if let Some(answer) = answer {
                    self.model.waiters.remove(index);
                    self.leases.extend(answer.ok().map(|lease| Held { lease, due }));
                }
            }
            Step::GiveUp { waiter } if !self.model.waiters.is_empty() => {
                let index = waiter % self.model.waiters.len();
                let waiter = self.model.waiters.remove(index);
                self.pool.give_up(&waiter.ticket);
                if let Some(Ok(agent)) = waiter.answer {
                    self.model.release(agent, false);
                }
            }
            Step::Release { lease, succeeded } if !self.leases.is_empty() => {
                let held = self.leases.swap_remove(lease % self.leases.len());
                let agent = held.lease.agent();
                let outcome =
                    if succeeded { LeaseOutcome::Succeeded } else { LeaseOutcome::Failed };
                let void = held.due.is_some_and(|due| due <= self.now);
                let result = held.lease.complete(outcome);
                assert_eq!(result.map_err(|stale| stale.expired).is_err_and(|late| late), void);
                self.learn(false);
                self.model.release(agent, succeeded && !void);
            }
            Step::ReleaseStale { lease } if !self.void.is_empty() => {
                let lease = self.void.swap_remove(lease % self.void.len());
                assert!(lease.is_revoked());
                assert!(lease.complete(LeaseOutcome::Succeeded).is_err());
            }
            Step::Expect { capabilities } => self.expect(capabilities),
            Step::ExpectNoMore { promise } => self.expect_no_more(promise),
            _ => {}
        }
        Self::wake(wakes);
    }

    fn kill(&mut self, agent: usize, wakes: &mut Vec<Waker>) {
        if self.model.agents.is_empty() {
            return;
        }
        let id = self.model.agents[agent % self.model.agents.len()].id;
        let revoked = self.pool.remove(id, wakes).expect("it lives");
        assert!(self.pool.remove(id, wakes).is_none(), "a second kill found somebody");
        self.model.agents.retain(|known| known.id != id);
        let leases = std::mem::take(&mut self.leases);
        let (void, leases): (Vec<_>, _) =
            leases.into_iter().partition(|held| held.lease.agent() == id);
        assert_eq!(revoked as usize, void.len());
        self.leases = leases;
        self.void.extend(void.into_iter().map(|held| held.lease));

        let mut withdrawn: Vec<_> = (0..self.model.waiters.len())
            .filter(|&w| self.model.waiters[w].answer == Some(Ok(id)))
            .collect();
        withdrawn.sort_by_key(|&w| self.model.waiters[w].place());
        for w in withdrawn {
            let waiter = &self.model.waiters[w];
            let (asked, named) = (waiter.asked, waiter.agent);
            let answer = self
                .pool
                .desk
                .lock()
                .answers
                .get(&waiter.ticket.place.sequence)
                .and_then(|answer| Some(answer.result.as_ref().ok()?.grant.agent()));
            if named == Some(id) {
                self.model.waiters[w].answer = Some(Err(AllocateError::AgentGone));
                continue;
            }
            self.model.follow(&asked, named, answer);
            self.model.waiters[w].answer = answer.map(Ok);
        }
        for w in 0..self.model.waiters.len() {
            let waiter = &self.model.waiters[w];
            if waiter.answer.is_none() {
                let gone = waiter.agent == Some(id);
                let answer = if gone {
                    Some(Err(AllocateError::AgentGone))
                } else if !self.model.possible(&waiter.asked) {
                    Some(Err(AllocateError::NoSuchCapability))
                } else {
                    None
                };
                self.model.waiters[w].answer = answer;
            }
        }
    }

    fn compare(&self) {
        self.pool.validate();
        for agent in &self.model.agents {
            let status = self.pool.status(agent.id).expect("the model has it");
            assert_eq!((status.load, status.max_leases), (agent.load.into(), agent.limit.into()));
            assert_eq!(status.state, AgentState::of(agent.condition, agent.load.into()));
        }
        for ever in &self.model.ever {
            let live = self.model.agents.iter().find(|agent| agent.id == *ever);
            let state = live.map(|agent| AgentState::of(agent.condition, agent.load.into()));
            assert_eq!(self.pool.state(*ever), Some(state.unwrap_or(AgentState::Stopped)));
        }
        let tally = self.pool.tally();
        assert_eq!(tally.live as usize, self.model.agents.len());
        let desk = self.pool.desk.lock();
        for waiter in &self.model.waiters {
            let answer = desk.answers.get(&waiter.ticket.place.sequence);
            let answer = answer.map(|answer| answer.result.clone());
            let answer = answer.map(|result| result.map(|granted| granted.grant.agent()));
            assert_eq!(answer, waiter.answer);
            if answer.is_some() {
                assert!(waiter.flag.0.load(Ordering::Relaxed), "an answer without a wake-up");
            }
        }
        let granted = self.model.waiters.iter().filter(|w| matches!(w.answer, Some(Ok(_)))).count();
        assert_eq!(self.leases.len() + granted, tally.leases.held() as usize);
    }

    fn run(shards: usize, first: Strategy, steps: Vec<Step>) {
        Self::new(shards, first).run_to_its_end(steps);
    }

    fn run_to_its_end(self, steps: Vec<Step>) {
        let mut both = self;
        for step in steps {
            both.apply(step);
            both.compare();
        }
        let mut wakes = Vec::new();
        both.pool.close(&mut wakes);
        let refused = both.pool.try_allocate(&Request::any());
        assert_eq!(refused.map(drop), Err(AllocateError::Closed));
        both.pool.validate();
        let late = |held: &&Held| held.due.is_some_and(|due| due <= both.now);
        let held = both.leases.len() - both.leases.iter().filter(late).count();
        both.leases.clear();
        assert_eq!(both.pool.tally().leases.abandoned() as usize, held);
        both.void.clear();
        assert_eq!(Arc::strong_count(&both.pool), 1, "rule 5: references are left");
    }
}

#[test]
fn what_leases_have_paid_comes_back_when_the_pool_ends_before_them() {
    let limit = NonZeroUsize::MIN;
    let budgets = Budgets::new(limit);
    let quota = Quota::new().limit(Meter::Leases, Limit::hard(1));
    let account = budgets.set(Scope::Fleet, quota).expect("it is valid");
    let pool = Pool::new(PoolConfig {
        max_agents: limit,
        max_waiting: limit,
        shards: 1,
        kept: Kept::new(&[Strategy::LeastLoaded]).expect("one"),
        clock: Clock::real(),
        budgets: Some(budgets.clone()),
        ageing: None,
    });
    let newcomers = Newcomers {
        name: &Arc::from("agent"),
        capabilities: &[],
        runs_tasks: true,
        priority: Priority::NORMAL,
        limit: 1,
        labels: &[],
        resources: Resources::default(),
        condition: Condition::Fit,
        era: None,
    };
    pool.insert(&newcomers, 1, &mut Vec::new()).expect("there is room");
    pool.take(RUNS_TASKS, false).expect("it is idle and there is room");
    let used = || account.usage(Meter::Leases).expect("it is metered").used;
    assert_eq!(used(), 1);
    drop(pool);
    assert_eq!(used(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_choice_of_a_strict_pool_is_the_one_a_naive_scan_makes(
        first in prop::sample::select(Strategy::ALL.to_vec()),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        Both::run(1, first, steps);
    }

    #[test]
    fn every_choice_across_shards_is_as_near_to_that_of_a_naive_scan_as_is_stated(
        shards in prop::sample::select(vec![2_usize, 4, 16]),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        Both::run(shards, Strategy::LeastLoaded, steps);
    }
}

#[test]
fn a_waiter_whose_agent_goes_before_it_looks_gets_one_that_can_do_what_nobody_could_when_it_began()
{
    let fit = Fit::BestFraction;
    let strategy = Strategy::LeastLoaded;
    let asked =
        |capabilities| Asked { capabilities, priority: 0, fit, strategy, named: None, ttl: None };
    let spawn = |capabilities| {
        let condition = Condition::Fit;
        Step::Spawn { capabilities, priority: 0, limit: 1, count: 1, condition }
    };
    // It is told of the one that is free again, and of the other's capability once there is one that has it.
    let steps = vec![
        spawn(1),
        Step::TryAllocate { asked: asked(0), elsewhere: false },
        Step::Wait { asked: asked(3) },
        Step::Release { lease: 0, succeeded: true },
        spawn(2),
        Step::Kill { agent: 0 },
        Step::Collect { waiter: 0 },
    ];
    Both::run(1, strategy, steps);
}

#[test]
fn a_lease_that_ends_leaves_its_reference_for_the_next() {
    let both = Both::new(2, Strategy::LeastLoaded);
    let newcomers = Newcomers {
        name: &Arc::from("agent"),
        capabilities: &[],
        runs_tasks: false,
        priority: Priority::NORMAL,
        limit: 1,
        labels: &[],
        resources: Resources::default(),
        condition: Condition::Fit,
        era: None,
    };
    both.pool.insert(&newcomers, 2, &mut Vec::new()).expect("there is room");
    let before = Arc::strong_count(&both.pool);
    for _ in 0..3 {
        let lease = both.pool.try_allocate(&Request::any()).expect("it is idle");
        assert_eq!(Arc::strong_count(&both.pool), before + 1);
        let pool = Arc::clone(&both.pool);
        drop(lease);
        drop(pool);
        assert_eq!(Arc::strong_count(&both.pool), before + 1, "it is kept");
    }
    let late = both.pool.try_allocate(&Request::any()).expect("it is idle");
    both.pool.close(&mut Vec::new());
    drop(late);
    assert_eq!(Arc::strong_count(&both.pool), before, "and let go at the end");
}
