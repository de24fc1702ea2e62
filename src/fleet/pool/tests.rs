//! The pool against a naive model that scans everything.

use std::cmp::Reverse;
use std::sync::atomic::AtomicBool;
use std::task::Wake;

use proptest::prelude::{Just, ProptestConfig, any, prop, prop_assert, prop_oneof, proptest};
use proptest::strategy::Strategy as Strategy_;

use super::*;
use crate::ErrorKind;
use crate::fleet::lease::LeaseOutcome;
use crate::fleet::pool::shard::NO_FLOOR;

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
        assert_eq!(self.attention.load(Ordering::Relaxed), desk.waiting.len() * 2, "rule 2");
        if shards.len() == 1 {
            return;
        }
        for (at, shard) in shards.iter().enumerate() {
            for strategy in [Strategy::LeastLoaded, Strategy::Priority] {
                let best = shard.best(&Ask::any(strategy));
                let floor = best.map_or(NO_FLOOR, |best| u64::from(best.rank));
                assert_eq!(self.floors.get(strategy, at), floor, "rule 4: {strategy:?}");
            }
            let line = shard.best(&Ask::any(Strategy::RoundRobin)).is_some();
            assert_eq!(self.floors.get(Strategy::RoundRobin, at) != NO_FLOOR, line, "rule 4");
        }
    }
}

#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    capabilities: u8,
    priority: u8,
    fit: Fit,
    strategy: Strategy,
    /// One of the agents that ever lived.
    named: Option<usize>,
}

#[derive(Clone, Debug)]
enum Step {
    Spawn { capabilities: u8, priority: u8, limit: u16, count: usize },
    Kill { agent: usize },
    TryAllocate { asked: Asked, elsewhere: bool },
    Wait { asked: Asked },
    Collect { waiter: usize },
    GiveUp { waiter: usize },
    Release { lease: usize },
    ReleaseStale { lease: usize },
}

fn asked() -> impl Strategy_<Value = Asked> {
    let fit =
        prop_oneof![4 => Just(Fit::All), 1 => Just(Fit::Tightest), 1 => Just(Fit::BestFraction)];
    let strategy = prop::sample::select(Strategy::ALL.to_vec());
    let named = prop_oneof![6 => Just(None), 1 => any::<usize>().prop_map(Some)];
    (0_u8..8, 0_u8..3, fit, strategy, named).prop_map(
        |(capabilities, priority, fit, strategy, named)| Asked {
            capabilities,
            priority,
            fit,
            strategy,
            named,
        },
    )
}

fn step() -> impl Strategy_<Value = Step> {
    prop_oneof![
        3 => (0_u8..8, any::<u8>(), 1_u16..4, 1_usize..4).prop_map(
            |(capabilities, priority, limit, count)| {
                Step::Spawn { capabilities, priority, limit, count }
            }
        ),
        2 => any::<usize>().prop_map(|agent| Step::Kill { agent }),
        6 => (asked(), prop::bool::weighted(0.3))
            .prop_map(|(asked, elsewhere)| Step::TryAllocate { asked, elsewhere }),
        6 => asked().prop_map(|asked| Step::Wait { asked }),
        3 => any::<usize>().prop_map(|waiter| Step::Collect { waiter }),
        2 => any::<usize>().prop_map(|waiter| Step::GiveUp { waiter }),
        7 => any::<usize>().prop_map(|lease| Step::Release { lease }),
        1 => any::<usize>().prop_map(|lease| Step::ReleaseStale { lease }),
    ]
}

fn names(capabilities: u8) -> Vec<Arc<str>> {
    let all = ["rust", "python", "network"];
    (0..3).filter(|bit| capabilities >> bit & 1 == 1).map(|bit| Arc::from(all[bit])).collect()
}

/// An agent as the model sees it.
#[derive(Clone, Debug)]
struct ModelAgent {
    id: AgentId,
    capabilities: u8,
    priority: u8,
    limit: u16,
    load: u16,
    changed: u64,
    turn: u64,
}

#[derive(Debug)]
struct ModelWaiter {
    ticket: Ticket,
    flag: Arc<Flag>,
    asked: Asked,
    agent: Option<AgentId>,
    /// `None` while it waits.
    answer: Option<Result<AgentId, AllocateError>>,
}

impl ModelWaiter {
    fn place(&self) -> (Reverse<u8>, u64) {
        (Reverse(self.asked.priority), self.ticket.place.sequence)
    }
}

/// Agents in a list, waiters in a list, every question answered by looking at all of them.
#[derive(Debug, Default)]
struct Model {
    strict: bool,
    agents: Vec<ModelAgent>,
    ever: Vec<AgentId>,
    waiters: Vec<ModelWaiter>,
    time: u64,
}

impl Model {
    /// How badly an agent fits: what the documentation of [`Fit`] states.
    fn misfit(asked: &Asked, have: u8) -> Option<(u32, u32)> {
        let missing = (asked.capabilities & !have).count_ones();
        let others = (have & !asked.capabilities).count_ones();
        match asked.fit {
            Fit::All => (missing == 0).then_some((0, 0)),
            Fit::Tightest => (missing == 0).then_some((0, others)),
            Fit::BestFraction => {
                let some = asked.capabilities == 0 || asked.capabilities & have != 0;
                some.then_some((missing, others))
            }
        }
    }

    /// What the documentation of [`Strategy`] states.
    fn rank(strategy: Strategy, agent: &ModelAgent) -> (u32, u8) {
        match strategy {
            Strategy::LeastLoaded => (agent.load.into(), 7 - agent.priority / 32),
            Strategy::Priority => (0, 255 - agent.priority),
            Strategy::RoundRobin => (0, 0),
        }
    }

    fn candidates(&self, asked: &Asked, named: Option<AgentId>) -> impl Iterator<Item = usize> {
        (0..self.agents.len()).filter(move |&i| {
            let agent = &self.agents[i];
            named.is_none_or(|named| named == agent.id)
                && agent.load < agent.limit
                && Self::misfit(asked, agent.capabilities).is_some()
        })
    }

    fn best(&self, asked: &Asked, named: Option<AgentId>) -> Option<usize> {
        self.candidates(asked, named).min_by_key(|&i| {
            let agent = &self.agents[i];
            let age = match asked.strategy {
                Strategy::RoundRobin => agent.turn,
                _ => agent.changed,
            };
            let misfit = Self::misfit(asked, agent.capabilities);
            (misfit, Self::rank(asked.strategy, agent), age)
        })
    }

    /// Whether the pool's choice is right, or good enough where it is not strict; takes it.
    fn follow(&mut self, asked: &Asked, named: Option<AgentId>, choice: Option<AgentId>) {
        let best = self.best(asked, named);
        let Some(choice) = choice else {
            assert_eq!(best, None, "the pool overlooked somebody");
            return;
        };
        let best = best.expect("the pool took an agent where the scan finds none");
        let index = self.agents.iter().position(|agent| agent.id == choice);
        let index = index.expect("the pool took an agent that is gone");
        let (chosen, best_one) = (&self.agents[index], &self.agents[best]);
        assert!(self.candidates(asked, named).any(|i| i == index), "it does not fit");
        if self.strict {
            assert_eq!(chosen.id, best_one.id, "{asked:?}");
        } else {
            let misfit = |agent: &ModelAgent| Self::misfit(asked, agent.capabilities);
            assert_eq!(misfit(chosen), misfit(best_one), "how it fits is exact across shards");
            match asked.strategy {
                Strategy::LeastLoaded => assert!(chosen.load <= best_one.load + 1, "the bound"),
                Strategy::Priority => assert_eq!(chosen.priority, best_one.priority, "the bound"),
                Strategy::RoundRobin => {}
            }
        }
        self.take(index);
    }

    fn touch(&mut self, index: usize) {
        self.agents[index].changed = self.time;
        self.time += 1;
    }

    fn take(&mut self, index: usize) {
        self.agents[index].load += 1;
        self.touch(index);
        self.agents[index].turn = self.agents[index].changed;
    }

    fn possible(&self, asked: &Asked) -> bool {
        self.agents.iter().any(|agent| Self::misfit(asked, agent.capabilities).is_some())
    }

    /// Gives the free places of an agent to those who wait.
    fn serve(&mut self, index: usize) {
        while self.agents[index].load < self.agents[index].limit {
            let next = (0..self.waiters.len())
                .filter(|&w| self.waiters[w].answer.is_none())
                .filter(|&w| {
                    let waiter = &self.waiters[w];
                    let agent = &self.agents[index];
                    waiter.agent.is_none_or(|named| named == agent.id)
                        && Self::misfit(&waiter.asked, agent.capabilities).is_some()
                })
                .min_by_key(|&w| self.waiters[w].place());
            let Some(next) = next else { return };
            self.take(index);
            self.waiters[next].answer = Some(Ok(self.agents[index].id));
        }
    }

    fn release(&mut self, agent: AgentId) {
        let index = self.agents.iter().position(|known| known.id == agent);
        let index = index.expect("the lease was not void");
        let was_full = self.agents[index].load == self.agents[index].limit;
        self.agents[index].load -= 1;
        self.touch(index);
        if was_full {
            self.agents[index].turn = self.agents[index].changed;
        }
        self.serve(index);
    }
}

struct Both {
    pool: Arc<Pool>,
    model: Model,
    leases: Vec<Lease>,
    void: Vec<Lease>,
}

impl Both {
    fn new(shards: usize, first: Strategy) -> Self {
        let limit = |count| NonZeroUsize::new(count).expect("not zero");
        let mut strategies = vec![first];
        strategies.extend(Strategy::ALL);
        let kept = Kept::new(&strategies).expect("one at least");
        let pool =
            Pool::new(PoolConfig { max_agents: limit(8), max_waiting: limit(3), shards, kept });
        let model = Model { strict: shards == 1, ..Model::default() };
        Self { pool, model, leases: Vec::new(), void: Vec::new() }
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
            Some(agent) if Model::misfit(asked, agent.capabilities).is_none() => no_capability,
            Some(_) => None,
        }
    }

    fn apply(&mut self, step: Step) {
        let mut wakes = Vec::new();
        match step {
            Step::Spawn { capabilities, priority, limit, count } => {
                let newcomers = Newcomers {
                    name: &Arc::from("agent"),
                    capabilities: &names(capabilities),
                    runs_tasks: false,
                    priority: Priority::new(priority),
                    limit,
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
                        turn: time,
                    });
                    self.model.serve(self.model.agents.len() - 1);
                }
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
                    return;
                }
                match &result {
                    Ok(lease) => self.model.follow(&asked, named, Some(lease.agent())),
                    Err(error) => {
                        assert_eq!(*error, AllocateError::NoneIdle);
                        self.model.follow(&asked, named, None);
                    }
                }
                self.leases.extend(result);
            }
            Step::Wait { asked } => {
                let flag = Arc::<Flag>::default();
                let mut waker = Some(Waker::from(Arc::clone(&flag)));
                let (request, named) = self.request(&asked);
                let hopeless = self.hopeless(&asked, named);
                match self.pool.allocate_or_wait(&request, &mut waker) {
                    Err(AllocateError::TooManyWaiting) => {
                        assert_eq!((hopeless, self.model.waiters.len()), (None, 3));
                        self.model.follow(&asked, named, None);
                    }
                    Err(error) => assert_eq!(Some(error), hopeless),
                    Ok(Ok(lease)) => {
                        self.model.follow(&asked, named, Some(lease.agent()));
                        self.leases.push(lease);
                    }
                    Ok(Err(ticket)) => {
                        assert_eq!(hopeless, None);
                        self.model.follow(&asked, named, None);
                        let waiter =
                            ModelWaiter { ticket, flag, asked, agent: named, answer: None };
                        self.model.waiters.push(waiter);
                    }
                }
            }
            Step::Collect { waiter } if !self.model.waiters.is_empty() => {
                let index = waiter % self.model.waiters.len();
                let waiter = &self.model.waiters[index];
                let waker = Waker::from(Arc::clone(&waiter.flag));
                let (answer, _) = self.pool.collect(&waiter.ticket, waker);
                let agent = answer.as_ref().map(|result| result.as_ref().map(Lease::agent));
                assert_eq!(agent, waiter.answer.as_ref().map(|answer| answer.as_ref().copied()));
                if let Some(answer) = answer {
                    self.model.waiters.remove(index);
                    self.leases.extend(answer);
                }
            }
            Step::GiveUp { waiter } if !self.model.waiters.is_empty() => {
                let index = waiter % self.model.waiters.len();
                let waiter = self.model.waiters.remove(index);
                self.pool.give_up(&waiter.ticket);
                if let Some(Ok(agent)) = waiter.answer {
                    self.model.release(agent);
                }
            }
            Step::Release { lease } if !self.leases.is_empty() => {
                let lease = self.leases.swap_remove(lease % self.leases.len());
                let agent = lease.agent();
                assert_eq!(lease.complete(LeaseOutcome::Succeeded), Ok(()));
                self.model.release(agent);
            }
            Step::ReleaseStale { lease } if !self.void.is_empty() => {
                let lease = self.void.swap_remove(lease % self.void.len());
                assert!(lease.is_revoked());
                assert!(lease.complete(LeaseOutcome::Succeeded).is_err());
            }
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
        let (void, leases): (Vec<_>, _) = leases.into_iter().partition(|held| held.agent() == id);
        assert_eq!(revoked as usize, void.len());
        self.leases = leases;
        self.void.extend(void);

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
                .map(|answer| answer.result.map(|grant| grant.agent));
            if named == Some(id) {
                self.model.waiters[w].answer = Some(Err(AllocateError::AgentGone));
                continue;
            }
            self.model.follow(&asked, named, answer.and_then(Result::ok));
            self.model.waiters[w].answer = answer.and_then(Result::ok).map(Ok);
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
            assert_eq!(status.state == AgentState::Ready, agent.load == 0);
        }
        let tally = self.pool.tally();
        assert_eq!(tally.live as usize, self.model.agents.len());
        let desk = self.pool.desk.lock();
        for waiter in &self.model.waiters {
            let answer = desk.answers.get(&waiter.ticket.place.sequence);
            let answer = answer.map(|answer| answer.result.map(|grant| grant.agent));
            assert_eq!(answer, waiter.answer);
            if answer.is_some() {
                assert!(waiter.flag.0.load(Ordering::Relaxed), "an answer without a wake-up");
            }
        }
        let granted = self.model.waiters.iter().filter(|w| matches!(w.answer, Some(Ok(_)))).count();
        assert_eq!(self.leases.len() + granted, tally.leases.held as usize);
    }

    fn run(shards: usize, first: Strategy, steps: Vec<Step>) {
        let mut both = Self::new(shards, first);
        for step in steps {
            both.apply(step);
            both.compare();
        }
        let mut wakes = Vec::new();
        both.pool.close(&mut wakes);
        let refused = both.pool.try_allocate(&Request::any());
        assert_eq!(refused.map(drop), Err(AllocateError::Closed));
        let held = both.leases.len();
        both.leases.clear();
        assert_eq!(both.pool.tally().leases.abandoned as usize, held);
        both.void.clear();
        assert_eq!(Arc::strong_count(&both.pool), 1, "rule 5: references are left");
    }
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

    /// Agents that always have room, taken by threads with different homes.
    #[test]
    fn no_agent_that_always_has_room_is_two_turns_behind_another(
        shards in prop::sample::select(vec![1_usize, 2, 4, 8]),
        count in 1..20_usize,
        threads in prop::collection::vec(1..30_usize, 1..6),
    ) {
        let limit = NonZeroUsize::new(64).expect("not zero");
        let kept = Kept::new(&[Strategy::RoundRobin]).expect("one");
        let pool = Pool::new(PoolConfig { max_agents: limit, max_waiting: limit, shards, kept });
        let newcomers = Newcomers {
            name: &Arc::from("agent"),
            capabilities: &[],
            runs_tasks: false,
            priority: Priority::NORMAL,
            limit: 1000,
        };
        let agents = pool.insert(&newcomers, count, &mut Vec::new()).expect("there is room");
        let mut turns: std::collections::HashMap<_, u32> =
            agents.into_iter().map(|agent| (agent, 0)).collect();
        for taken in threads {
            let leases: Vec<_> = std::thread::scope(|scope| {
                let take = || (0..taken).map(|_| pool.try_allocate(&Request::any())).collect();
                scope.spawn(take).join().expect("no panic")
            });
            for lease in leases {
                let agent = lease.expect("there is room").agent();
                *turns.get_mut(&agent).expect("it lives") += 1;
                let most = turns.values().max().expect("there are agents");
                let fewest = turns.values().min().expect("there are agents");
                prop_assert!(most - fewest <= 1, "{turns:?}");
            }
        }
    }
}

#[test]
fn a_capability_beyond_the_last_is_refused_and_takes_nothing() {
    let mut desk = Desk::new(1);
    let names: Vec<Arc<str>> = (0..MAX_CAPABILITIES).map(|n| Arc::from(n.to_string())).collect();
    let all = desk.intern(&names).expect("as many as there may be");
    assert_eq!(all, Mask::MAX & !RUNS_TASKS, "one bit each, and bit 0 left alone");
    let one_more = [Arc::from("one"), Arc::from("0")];
    assert_eq!(desk.intern(&one_more).map_err(|e| e.kind()), Err(ErrorKind::LimitReached));
    assert_eq!(desk.mask_of(&[Arc::from("one")]), (0, false));
    assert_eq!(desk.mask_of(&[Arc::from("0")]), (2, true));
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
