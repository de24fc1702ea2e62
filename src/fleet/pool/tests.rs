//! The pool against a naive model that scans everything.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use proptest::prelude::*;

use super::*;

impl Pool {
    /// Checks the rules of the file's head from scratch.
    pub(in crate::fleet) fn validate(&self) {
        let members = || {
            (0_u32..)
                .zip(&self.slots)
                .filter_map(|(index, slot)| Some((index, slot.member.as_ref()?)))
        };
        let mut available = 0;
        for (index, member) in members() {
            assert!(member.load <= member.limit, "an agent holds more than its limit");
            let class = &self.classes[&member.mask];
            let indexed = class.available.contains(&member.key(index));
            assert_eq!(indexed, member.load < member.limit, "rule 1, slot {index}");
            available += usize::from(indexed);
        }
        let indexed: usize = self.classes.values().map(|class| class.available.len()).sum();
        assert_eq!(indexed, available, "rule 1: a stale key");
        for (mask, class) in &self.classes {
            let live = members().filter(|(_, member)| member.mask == *mask).count();
            assert_eq!(class.live, live, "rule 2");
            assert!(live > 0, "rule 2");
        }
        assert_eq!(self.live, members().count());
        self.waiting.validate();
        for mask in self.waiting.masks() {
            assert!(!self.can_serve(mask), "rule 3");
            assert!(self.could_serve(mask), "rule 4");
        }
        let loads: u64 = members().map(|(_, member)| u64::from(member.load)).sum();
        assert_eq!(self.held, loads, "rule 6");
        for answer in self.answers.values() {
            if let Ok(grant) = answer.result {
                assert!(self.get(grant.agent).is_some(), "a grant of a removed agent");
            }
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

#[derive(Clone, Debug)]
enum Step {
    Spawn { capabilities: u8, priority: u8, limit: u32 },
    Kill { agent: usize },
    TryAllocate { capabilities: u8 },
    Wait { capabilities: u8, priority: u8 },
    Collect { waiter: usize },
    GiveUp { waiter: usize },
    Release { lease: usize },
    ReleaseStale { lease: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let capabilities = 0_u8..8;
    prop_oneof![
        3 => (capabilities.clone(), 0_u8..3, 1_u32..4).prop_map(|(capabilities, priority, limit)| {
            Step::Spawn { capabilities, priority, limit }
        }),
        2 => any::<usize>().prop_map(|agent| Step::Kill { agent }),
        4 => capabilities.clone().prop_map(|capabilities| Step::TryAllocate { capabilities }),
        6 => (capabilities, 0_u8..3)
            .prop_map(|(capabilities, priority)| Step::Wait { capabilities, priority }),
        3 => any::<usize>().prop_map(|waiter| Step::Collect { waiter }),
        2 => any::<usize>().prop_map(|waiter| Step::GiveUp { waiter }),
        6 => any::<usize>().prop_map(|lease| Step::Release { lease }),
        1 => any::<usize>().prop_map(|lease| Step::ReleaseStale { lease }),
    ]
}

fn names(capabilities: u8) -> Vec<Arc<str>> {
    let all = ["rust", "python", "network"];
    (0..3).filter(|bit| capabilities >> bit & 1 == 1).map(|bit| Arc::from(all[bit])).collect()
}

fn request(capabilities: u8, priority: u8) -> Request {
    names(capabilities)
        .iter()
        .fold(Request::any().priority(Priority::new(priority)), Request::capability)
}

/// An agent as the model sees it.
#[derive(Clone, Debug)]
struct ModelAgent {
    id: AgentId,
    capabilities: u8,
    priority: u8,
    limit: u32,
    load: u32,
    changed: u64,
}

#[derive(Debug)]
struct ModelWaiter {
    ticket: Ticket,
    flag: Arc<Flag>,
    capabilities: u8,
    priority: u8,
    /// `None` while it waits.
    answer: Option<Result<AgentId, AllocateError>>,
}

/// Agents in a list, waiters in a list, every question answered by looking at all of them.
#[derive(Debug, Default)]
struct Model {
    agents: Vec<ModelAgent>,
    waiters: Vec<ModelWaiter>,
    time: u64,
}

impl Model {
    fn fits(asked: u8, have: u8) -> bool {
        asked & have == asked
    }

    /// The rule that the documentation states.
    fn best(&self, capabilities: u8) -> Option<usize> {
        (0..self.agents.len())
            .filter(|&i| Self::fits(capabilities, self.agents[i].capabilities))
            .filter(|&i| self.agents[i].load < self.agents[i].limit)
            .min_by_key(|&i| {
                let agent = &self.agents[i];
                (agent.load, Reverse(agent.priority), agent.changed)
            })
    }

    fn possible(&self, capabilities: u8) -> bool {
        self.agents.iter().any(|agent| Self::fits(capabilities, agent.capabilities))
    }

    fn touch(&mut self, index: usize, load: u32) {
        self.agents[index].load = load;
        self.agents[index].changed = self.time;
        self.time += 1;
    }

    /// Gives the free places of an agent to those who wait.
    fn serve(&mut self, index: usize) {
        while self.agents[index].load < self.agents[index].limit {
            let next = (0..self.waiters.len())
                .filter(|&w| self.waiters[w].answer.is_none())
                .filter(|&w| {
                    Self::fits(self.waiters[w].capabilities, self.agents[index].capabilities)
                })
                .min_by_key(|&w| {
                    let waiter = &self.waiters[w];
                    (Reverse(waiter.priority), waiter.ticket.place.sequence)
                });
            let Some(next) = next else { return };
            self.touch(index, self.agents[index].load + 1);
            self.waiters[next].answer = Some(Ok(self.agents[index].id));
        }
    }

    fn release(&mut self, agent: AgentId) -> bool {
        let Some(index) = self.agents.iter().position(|known| known.id == agent) else {
            return false;
        };
        self.touch(index, self.agents[index].load - 1);
        self.serve(index);
        true
    }

    fn kill(&mut self, agent: AgentId) {
        self.agents.retain(|known| known.id != agent);
        let mut void: Vec<_> = (0..self.waiters.len())
            .filter(|&w| self.waiters[w].answer == Some(Ok(agent)))
            .collect();
        void.sort_by_key(|&w| {
            (Reverse(self.waiters[w].priority), self.waiters[w].ticket.place.sequence)
        });
        for w in void {
            let best = self.best(self.waiters[w].capabilities);
            self.waiters[w].answer = best.map(|index| {
                self.touch(index, self.agents[index].load + 1);
                Ok(self.agents[index].id)
            });
        }
        for w in 0..self.waiters.len() {
            if self.waiters[w].answer.is_none() && !self.possible(self.waiters[w].capabilities) {
                self.waiters[w].answer = Some(Err(AllocateError::NoSuchCapability));
            }
        }
    }
}

struct Both {
    pool: Pool,
    model: Model,
    leases: Vec<AgentId>,
    void: Vec<AgentId>,
}

impl Both {
    fn wake(wakes: Vec<Waker>) {
        for waker in wakes {
            waker.wake();
        }
    }

    fn apply(&mut self, step: Step) {
        let mut wakes = Vec::new();
        match step {
            Step::Spawn { capabilities, priority, limit } => {
                if self.pool.check_room(1).is_err() {
                    return;
                }
                let mask =
                    self.pool.intern(&names(capabilities)).expect("three names") & !RUNS_TASKS;
                let member = Member::new(Arc::from("agent"), mask, Priority::new(priority), limit);
                let id = self.pool.insert(member, &mut wakes);
                assert!(self.model.agents.iter().all(|known| known.id != id), "an id was reused");
                let changed = self.model.time;
                self.model.time += 1;
                self.model.agents.push(ModelAgent {
                    id,
                    capabilities,
                    priority,
                    limit,
                    load: 0,
                    changed,
                });
                self.model.serve(self.model.agents.len() - 1);
            }
            Step::Kill { agent } => {
                if self.model.agents.is_empty() {
                    return;
                }
                let id = self.model.agents[agent % self.model.agents.len()].id;
                assert!(self.pool.remove(id, &mut wakes).is_some());
                assert!(self.pool.remove(id, &mut wakes).is_none(), "a second kill found somebody");
                self.model.kill(id);
                let (void, leases) = self.leases.iter().partition(|held| **held == id);
                self.leases = leases;
                self.void.extend::<Vec<_>>(void);
            }
            Step::TryAllocate { capabilities } => {
                let result = self.pool.try_allocate(&request(capabilities, 0));
                let expected = if !self.model.possible(capabilities) {
                    Err(AllocateError::NoSuchCapability)
                } else if let Some(best) = self.model.best(capabilities) {
                    self.model.touch(best, self.model.agents[best].load + 1);
                    Ok(self.model.agents[best].id)
                } else {
                    Err(AllocateError::NoneIdle)
                };
                assert_eq!(result.map(|grant| grant.agent), expected);
                self.leases.extend(expected.ok());
            }
            Step::Wait { capabilities, priority } => {
                let flag = Arc::<Flag>::default();
                let mut waker = Some(Waker::from(Arc::clone(&flag)));
                let request = request(capabilities, priority);
                let waiting = self.model.waiters.len();
                match self.pool.allocate_or_wait(&request, &mut waker) {
                    Err(AllocateError::NoSuchCapability) => {
                        assert!(!self.model.possible(capabilities));
                    }
                    Err(error) => {
                        assert_eq!((error, waiting), (AllocateError::TooManyWaiting, 3));
                    }
                    Ok(Ok(grant)) => {
                        let best = self.model.best(capabilities).expect("the pool found one");
                        assert_eq!(grant.agent, self.model.agents[best].id);
                        self.model.touch(best, self.model.agents[best].load + 1);
                        self.leases.push(grant.agent);
                    }
                    Ok(Err(ticket)) => {
                        assert_eq!(self.model.best(capabilities), None);
                        self.model.waiters.push(ModelWaiter {
                            ticket,
                            flag,
                            capabilities,
                            priority,
                            answer: None,
                        });
                    }
                }
            }
            Step::Collect { waiter } => {
                if self.model.waiters.is_empty() {
                    return;
                }
                let index = waiter % self.model.waiters.len();
                let waiter = &self.model.waiters[index];
                let waker = Waker::from(Arc::clone(&waiter.flag));
                let (answer, _) = self.pool.collect(waiter.ticket, waker);
                assert_eq!(answer.map(|result| result.map(|grant| grant.agent)), waiter.answer);
                if answer.is_some() {
                    self.model.waiters.remove(index);
                    self.leases.extend(answer.and_then(Result::ok).map(|grant| grant.agent));
                }
            }
            Step::GiveUp { waiter } => {
                if self.model.waiters.is_empty() {
                    return;
                }
                let index = waiter % self.model.waiters.len();
                let waiter = self.model.waiters.remove(index);
                self.pool.give_up(waiter.ticket, &mut wakes);
                if let Some(Ok(agent)) = waiter.answer {
                    assert!(self.model.release(agent));
                }
            }
            Step::Release { lease } => {
                if self.leases.is_empty() {
                    return;
                }
                let agent = self.leases.swap_remove(lease % self.leases.len());
                assert_eq!(self.pool.release(agent, &mut wakes), Ok(()));
                assert!(self.model.release(agent));
            }
            Step::ReleaseStale { lease } => {
                if self.void.is_empty() {
                    return;
                }
                let agent = self.void.swap_remove(lease % self.void.len());
                assert_eq!(self.pool.release(agent, &mut wakes), Err(Gone));
            }
        }
        Self::wake(wakes);
    }

    fn compare(&self) {
        self.pool.validate();
        for agent in &self.model.agents {
            let status = self.pool.status(agent.id).expect("the model has it");
            assert_eq!((status.load, status.max_leases), (agent.load, agent.limit));
            assert_eq!(status.state == AgentState::Ready, agent.load == 0);
        }
        assert_eq!(self.pool.live(), self.model.agents.len());
        for waiter in &self.model.waiters {
            let answer = self.pool.answers.get(&waiter.ticket.place.sequence);
            let answer = answer.map(|answer| answer.result.map(|grant| grant.agent));
            assert_eq!(answer, waiter.answer);
            if answer.is_some() {
                assert!(waiter.flag.0.load(Ordering::Relaxed), "an answer without a wake-up");
            }
        }
        assert_eq!(
            self.leases.len()
                + self.model.waiters.iter().filter(|w| matches!(w.answer, Some(Ok(_)))).count(),
            usize::try_from(self.pool.leases_held()).expect("few leases")
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_choice_is_the_one_a_naive_scan_makes(steps in prop::collection::vec(step(), 1..80)) {
        let limit = |count| NonZeroUsize::new(count).expect("not zero");
        let pool = Pool::new(limit(6), limit(3));
        let mut both =
            Both { pool, model: Model::default(), leases: Vec::new(), void: Vec::new() };
        for step in steps {
            both.apply(step);
            both.compare();
        }
    }
}

#[test]
fn a_capability_beyond_the_last_is_refused_and_takes_nothing() {
    let limit = NonZeroUsize::MIN;
    let mut pool = Pool::new(limit, limit);
    let names: Vec<Arc<str>> = (0..MAX_CAPABILITIES).map(|n| Arc::from(n.to_string())).collect();
    let all = pool.intern(&names).expect("as many as there may be");
    assert_eq!(all, Mask::MAX & !RUNS_TASKS, "one bit each, and bit 0 left alone");
    let one_more = [Arc::from("one"), Arc::from("0")];
    assert_eq!(pool.intern(&one_more).map_err(|e| e.kind()), Err(ErrorKind::LimitReached));
    assert_eq!(pool.mask_of(&Request::any().capability("one")), None);
    assert_eq!(pool.mask_of(&Request::any().capability("0")), Some(2));
}
