//! Batches and single requests that wait for the same agents, against what they were promised.

use std::collections::BTreeSet;

use proptest::prelude::{Just, ProptestConfig, Strategy as _, any, prop, prop_oneof, proptest};

use super::super::waiting::Place;
use super::limits::{join, pool_of};
use super::*;
use crate::fleet::supervision::FIRST;

#[derive(Clone, Debug)]
enum Step {
    Join { capabilities: u8, limit: u16, count: usize },
    Kill { agent: usize },
    SetCondition { agent: usize, condition: Condition },
    Ask { capabilities: u8, priority: u8, named: Option<usize>, count: Option<usize> },
    TryAllocate { capabilities: u8 },
    Collect { waiter: usize },
    GiveUp { waiter: usize },
    Release { lease: usize },
    Expect { capabilities: u8, limit: u16 },
    ExpectNoMore { promise: usize },
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    let conditions =
        vec![Condition::Fit, Condition::Starting, Condition::Draining, Condition::Failed];
    let named = prop_oneof![6 => Just(None), 1 => any::<usize>().prop_map(Some)];
    let counts = prop_oneof![6 => 1..7_usize, 1 => 7..50_usize];
    let count = prop_oneof![1 => Just(None), 2 => counts.prop_map(Some)];
    prop_oneof![
        3 => (0..4_u8, 1..4_u16, 1..4_usize)
            .prop_map(|(capabilities, limit, count)| Step::Join { capabilities, limit, count }),
        1 => any::<usize>().prop_map(|agent| Step::Kill { agent }),
        2 => (any::<usize>(), prop::sample::select(conditions))
            .prop_map(|(agent, condition)| Step::SetCondition { agent, condition }),
        6 => (0..4_u8, 0..3_u8, named, count).prop_map(|(capabilities, priority, named, count)| {
            Step::Ask { capabilities, priority, named, count }
        }),
        2 => (0..4_u8).prop_map(|capabilities| Step::TryAllocate { capabilities }),
        3 => any::<usize>().prop_map(|waiter| Step::Collect { waiter }),
        2 => any::<usize>().prop_map(|waiter| Step::GiveUp { waiter }),
        6 => any::<usize>().prop_map(|lease| Step::Release { lease }),
        2 => (0..4_u8, 1..4_u16)
            .prop_map(|(capabilities, limit)| Step::Expect { capabilities, limit }),
        1 => any::<usize>().prop_map(|promise| Step::ExpectNoMore { promise }),
    ]
}

const MAX_AGENTS: usize = 12;

enum Claim {
    Single(Ticket),
    Batch(Place, usize),
}

struct Waiter {
    claim: Claim,
    flag: Arc<Flag>,
    capabilities: u8,
    named: Option<AgentId>,
    /// The agents that it was granted, as the desk says.
    grants: Vec<AgentId>,
    answered: bool,
    /// Whether it was before the last step.
    was_answered: bool,
}

impl Waiter {
    fn place(&self) -> Place {
        match &self.claim {
            Claim::Single(ticket) => ticket.place,
            Claim::Batch(place, _) => *place,
        }
    }
}

struct World {
    pool: Arc<Pool>,
    /// With their capabilities and how many leases each may hold.
    agents: Vec<(AgentId, u8, u16)>,
    /// Those that have failed or drain.
    down: BTreeSet<AgentId>,
    ever: Vec<(AgentId, u8)>,
    waiters: Vec<Waiter>,
    leases: Vec<Lease>,
    /// What is promised, and as what.
    promises: Vec<(u8, u16, Promise)>,
    /// The batches that gathered after the last step.
    gathered: Vec<Place>,
}

impl World {
    fn new(shards: usize) -> Self {
        let pool = pool_of(MAX_AGENTS, shards, Strategy::LeastLoaded);
        let (agents, ever, waiters) = (Vec::new(), Vec::new(), Vec::new());
        let (leases, promises, down) = (Vec::new(), Vec::new(), BTreeSet::new());
        let gathered = Vec::new();
        Self { pool, agents, down, ever, waiters, leases, promises, gathered }
    }

    /// How many leases the live agents may hold that can do this.
    fn places(&self, capabilities: u8) -> usize {
        let able = self.agents.iter().filter(|(_, have, _)| have & capabilities == capabilities);
        able.map(|(.., limit)| usize::from(*limit)).sum()
    }

    /// The same of those that have neither failed nor drain, or of the one that is named.
    fn places_counted_on(&self, capabilities: u8, named: Option<AgentId>) -> usize {
        let able = self.agents.iter().filter(|(_, have, _)| have & capabilities == capabilities);
        let able = able.filter(|(id, ..)| named.is_none_or(|named| named == *id));
        let up = able.filter(|(id, ..)| !self.down.contains(id));
        up.map(|(.., limit)| usize::from(*limit)).sum()
    }

    /// How many could be held if the fleet were full of agents that may hold most, of those that live and those that are
    /// promised and can do this; none if none is promised that can.
    fn places_promised(&self, capabilities: u8) -> usize {
        let able = |(have, ..): &&(u8, u16, Promise)| have & capabilities == capabilities;
        let promised = self.promises.iter().filter(able).map(|(_, limit, _)| *limit).max();
        let live = self.agents.iter().map(|(.., limit)| *limit).max().unwrap_or(0);
        promised.map_or(0, |limit| MAX_AGENTS * usize::from(limit.max(live)))
    }

    fn capable(&self, agent: AgentId) -> u8 {
        self.ever.iter().find(|(id, _)| *id == agent).expect("it was spawned").1
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Join { capabilities, limit, count } => {
                if let Ok(ids) = join(&self.pool, &names(capabilities), limit, count) {
                    self.agents.extend(ids.iter().map(|id| (*id, capabilities, limit)));
                    self.ever.extend(ids.iter().map(|id| (*id, capabilities)));
                }
            }
            Step::Kill { agent } if !self.agents.is_empty() => {
                let (id, ..) = self.agents.swap_remove(agent % self.agents.len());
                let mut wakes = Vec::new();
                let revoked = self.pool.remove(id, &mut wakes).expect("it lives") as usize;
                Both::wake(wakes);
                let before = self.leases.len();
                self.leases.retain(|lease| lease.agent() != id);
                assert_eq!(revoked, before - self.leases.len(), "leases that somebody has");
            }
            Step::SetCondition { agent, condition } if !self.agents.is_empty() => {
                let (id, ..) = self.agents[agent % self.agents.len()];
                if matches!(condition, Condition::Draining | Condition::Failed) {
                    self.down.insert(id);
                } else {
                    self.down.remove(&id);
                }
                self.pool.set_condition(id, condition).expect("it lives");
            }
            Step::Ask { capabilities, priority, named, count } => {
                self.ask(capabilities, priority, named, count);
            }
            Step::TryAllocate { capabilities } => {
                let request = names(capabilities).iter().fold(Request::any(), Request::capability);
                self.leases.extend(self.pool.try_allocate(&request));
            }
            Step::Collect { waiter } if !self.waiters.is_empty() => {
                self.collect(waiter % self.waiters.len());
            }
            Step::GiveUp { waiter } if !self.waiters.is_empty() => {
                match self.waiters.swap_remove(waiter % self.waiters.len()).claim {
                    Claim::Single(ticket) => self.pool.give_up(&ticket),
                    Claim::Batch(place, _) => self.pool.give_up_batch(place),
                }
            }
            Step::Release { lease } if !self.leases.is_empty() => {
                drop(self.leases.swap_remove(lease % self.leases.len()));
            }
            Step::Expect { capabilities, limit } => {
                let promise = self.pool.expect(&names(capabilities), false, limit);
                let promise = promise.expect("two names");
                self.promises.push((capabilities, limit, promise));
            }
            Step::ExpectNoMore { promise } if !self.promises.is_empty() => {
                let (.., promise) = self.promises.swap_remove(promise % self.promises.len());
                self.pool.expect_no_more(promise);
            }
            _ => {}
        }
    }

    fn ask(&mut self, capabilities: u8, priority: u8, named: Option<usize>, count: Option<usize>) {
        let named = named.filter(|_| !self.ever.is_empty());
        let named = named.map(|named| self.ever[named % self.ever.len()].0);
        let request = names(capabilities).iter().fold(Request::any(), Request::capability);
        let request = request.priority(Priority::new(priority));
        let request = named.map_or(request.clone(), |named| request.agent(named));
        let flag = Arc::<Flag>::default();
        let mut waker = Some(Waker::from(Arc::clone(&flag)));
        let claim = match count {
            None => match self.pool.allocate_or_wait(&request, &mut waker) {
                Ok(Ok(lease)) => return self.leases.push(lease),
                Ok(Err(ticket)) => Claim::Single(ticket),
                Err(_) => return,
            },
            Some(count) => match self.pool.batch_or_wait(&request, count, &mut waker) {
                Ok(Ok(leases)) => {
                    assert_eq!(leases.len(), count);
                    return self.leases.extend(leases);
                }
                Ok(Err(place)) => Claim::Batch(place, count),
                Err(AllocateError::TooFewPlaces) if named.is_none() => {
                    let most = self.places(capabilities).max(self.places_promised(capabilities));
                    assert!(count > most, "{count} of {most}");
                    return;
                }
                Err(_) => return,
            },
        };
        if let (Claim::Batch(_, count), None) = (&claim, named) {
            let most = self.places(capabilities).max(self.places_promised(capabilities));
            assert!(*count <= most, "{count} of {most} wait for ever");
        }
        let grants = Vec::new();
        let (answered, was_answered) = (false, false);
        self.waiters.push(Waiter {
            claim,
            flag,
            capabilities,
            named,
            grants,
            answered,
            was_answered,
        });
    }

    /// Whether it had been answered.
    fn collect(&mut self, index: usize) -> bool {
        let waiter = &self.waiters[index];
        let waker = Waker::from(Arc::clone(&waiter.flag));
        let leases = match &waiter.claim {
            Claim::Single(ticket) => {
                self.pool.collect(ticket, waker).0.map(|answer| answer.map(|lease| vec![lease]))
            }
            Claim::Batch(place, count) => {
                let (batched, _) = self.pool.collect_batch(*place, waker);
                if let Some(Ok(leases)) = &batched {
                    assert_eq!(leases.len(), *count, "all or none");
                }
                batched
            }
        };
        assert_eq!(leases.is_some(), waiter.answered);
        let Some(leases) = leases else { return false };
        self.waiters.swap_remove(index);
        self.leases.extend(leases.into_iter().flatten());
        true
    }

    /// Reads what each was granted, and checks what was promised. After a kill a grant that it withdrew is made
    /// up for, in whatever order. A batch that gathers only since this step kept nobody out before it did: what the
    /// step set free may have gone to others while it was another's turn. And so may what it had, where one before it
    /// that had been answered lost an agent in this step, and gathered again before it did.
    fn check(&mut self, after_a_kill: bool) {
        self.pool.validate();
        let desk = self.pool.desk.lock();
        let gathering: Vec<Place> =
            desk.batches.gathering().into_iter().map(|(place, _)| place).collect();
        for waiter in &self.waiters {
            let Claim::Batch(place, count) = &waiter.claim else { continue };
            if self.places_counted_on(waiter.capabilities, waiter.named) < *count {
                assert!(!gathering.contains(place), "it keeps what will not do for it");
                let mut rows = desk.batches.rows().filter(|(known, _)| known == place);
                assert!(rows.all(|(_, row)| row.grants.is_empty() || !row.waits()));
            }
        }
        let (mut fresh, mut again) = (Vec::new(), Vec::new());
        let mut granted = 0;
        for (index, waiter) in self.waiters.iter_mut().enumerate() {
            let grants = match &waiter.claim {
                Claim::Single(ticket) => {
                    let answer = desk.answers.get(&ticket.place.sequence);
                    waiter.answered = answer.is_some();
                    answer.and_then(|answer| answer.result.clone().ok()).into_iter().collect()
                }
                Claim::Batch(place, _) => {
                    let mut rows = desk.batches.rows();
                    let (_, row) = rows.find(|(known, _)| known == place).expect("not collected");
                    waiter.answered = !row.waits();
                    row.grants.clone()
                }
            };
            let grants: Vec<_> = grants.into_iter().map(|granted| granted.grant.agent()).collect();
            granted += grants.len();
            if waiter.was_answered && grants != waiter.grants {
                again.push(waiter.place());
            }
            waiter.was_answered = waiter.answered;
            if grants.len() > waiter.grants.len() {
                fresh.extend(grants.iter().map(|agent| (index, *agent)));
            }
            waiter.grants = grants;
            if waiter.answered {
                assert!(waiter.flag.0.load(Ordering::Relaxed), "an answer without a wake-up");
            }
        }
        drop(desk);
        assert_eq!(self.leases.len() + granted, self.pool.tally().leases.held() as usize);
        for (index, agent) in fresh.into_iter().filter(|_| !after_a_kill) {
            for envious in self.waiters.iter().filter(|waiter| !waiter.answered) {
                let serves = match &envious.claim {
                    Claim::Single(_) => true,
                    Claim::Batch(place, _) => {
                        let throughout = again.iter().all(|other| other > place);
                        gathering.contains(place) && self.gathered.contains(place) && throughout
                    }
                };
                let fits = self.capable(agent) & envious.capabilities == envious.capabilities
                    && envious.named.is_none_or(|named| named == agent);
                let first = envious.place() < self.waiters[index].place();
                // What a batch holds already may have come before the more urgent did.
                let new = matches!(self.waiters[index].claim, Claim::Single(_));
                assert!(!(serves && fits && first && new), "somebody was overtaken");
            }
        }
        self.gathered = gathering;
    }

    /// Everybody who can be served is, once all agents are fit and all leases come back.
    fn come_to_rest(&mut self) {
        for (.., promise) in std::mem::take(&mut self.promises) {
            self.pool.expect_no_more(promise);
            self.check(false);
        }
        for (id, ..) in self.agents.clone() {
            self.pool.set_condition(id, Condition::Fit).expect("it lives");
            self.down.remove(&id);
            self.check(false);
        }
        loop {
            // One at a time: what is in order after each may look like overtaking after several.
            while let Some(lease) = self.leases.pop() {
                drop(lease);
                self.check(false);
            }
            let answered = self.waiters.iter().position(|waiter| waiter.answered);
            let Some(answered) = answered else { break };
            assert!(self.collect(answered));
        }
        assert!(self.waiters.is_empty(), "somebody waits for ever");
        assert_eq!(self.pool.tally().leases.held(), 0);
    }
}

#[test]
fn a_batch_keeps_no_agent_from_others_for_one_that_is_on_trial() {
    let pool = pool_of(MAX_AGENTS, 1, Strategy::LeastLoaded);
    let agents = join(&pool, &names(0), 1, 2).expect("there is room");
    let tried = |on_trial, era| {
        let circuit = Some(OnCircuit { limit: 1, on_trial, era });
        let fitness =
            Fitness { condition: Condition::Fit, finishes: false, circuit, incarnation: FIRST };
        let mut wakes = Vec::new();
        let _ = pool.change_condition(agents[1], fitness, &mut wakes).expect("it lives");
        Both::wake(wakes);
    };
    tried(true, 1);
    let held = pool.try_allocate(&Request::any().agent(agents[0])).expect("it is free");
    let mut waker = Some(Waker::noop().clone());
    let batch = pool.batch_or_wait(&Request::any(), 2, &mut waker).expect("it waits");
    let place = batch.expect_err("one of them is held");
    drop(held);
    pool.validate();
    let single = pool.try_allocate(&Request::any().agent(agents[0])).expect("nobody keeps it");
    tried(false, 2);
    pool.validate();
    drop(single);
    let (answer, _) = pool.collect_batch(place, Waker::noop().clone());
    assert_eq!(answer.expect("both are free").expect("both are fit").len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn batches_and_single_requests_share_agents_in_turn_and_none_waits_for_ever(
        shards in prop::sample::select(vec![1_usize, 2, 4]),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new(shards);
        for step in steps {
            let kill = matches!(step, Step::Kill { .. });
            world.apply(step);
            world.check(kill);
        }
        world.come_to_rest();
    }
}
