//! The naive model: agents in a list, requests in a list, every question answered by looking at all.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use super::super::{Promise, Strategy, Ticket};
use crate::fleet::agent::Condition;
use crate::fleet::id::AgentId;
use crate::fleet::request::{AllocateError, Fit};

#[derive(Debug, Default)]
pub(super) struct Flag(pub(super) AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) capabilities: u8,
    pub(super) priority: u8,
    pub(super) fit: Fit,
    pub(super) strategy: Strategy,
    /// One of the agents that ever lived.
    pub(super) named: Option<usize>,
    pub(super) ttl: Option<u64>,
}

/// An agent as the model sees it.
#[derive(Clone, Debug)]
pub(super) struct ModelAgent {
    pub(super) id: AgentId,
    pub(super) capabilities: u8,
    pub(super) priority: u8,
    pub(super) limit: u16,
    pub(super) load: u16,
    pub(super) changed: u64,
    /// Whether what changed then is that a lease came back.
    pub(super) came_back: bool,
    pub(super) turn: u64,
    /// Of how it did, the class; the unit tests of the scores say that it is right.
    pub(super) past: u32,
    pub(super) condition: Condition,
}

impl ModelAgent {
    fn has_room(&self) -> bool {
        let routed = matches!(self.condition, Condition::Fit | Condition::Degraded);
        routed && self.load < self.limit
    }
}

#[derive(Debug)]
pub(super) struct ModelWaiter {
    pub(super) ticket: Ticket,
    pub(super) flag: Arc<Flag>,
    pub(super) asked: Asked,
    pub(super) agent: Option<AgentId>,
    /// `None` while it waits.
    pub(super) answer: Option<Result<AgentId, AllocateError>>,
}

impl ModelWaiter {
    pub(super) fn place(&self) -> (Reverse<u8>, u64) {
        (Reverse(self.asked.priority), self.ticket.place.sequence)
    }
}

/// Agents in a list, waiters in a list, every question answered by looking at all of them.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) strict: bool,
    pub(super) agents: Vec<ModelAgent>,
    pub(super) ever: Vec<AgentId>,
    pub(super) waiters: Vec<ModelWaiter>,
    /// What is promised, and as what.
    pub(super) expected: Vec<(u8, Promise)>,
    pub(super) time: u64,
}

impl Model {
    /// How badly an agent fits: what the documentation of [`Fit`] states.
    pub(super) fn misfit(asked: &Asked, agent: &ModelAgent) -> Option<(bool, u32, u32)> {
        let have = agent.capabilities;
        let degraded = agent.condition == Condition::Degraded;
        let missing = (asked.capabilities & !have).count_ones();
        let others = (have & !asked.capabilities).count_ones();
        match asked.fit {
            Fit::All => (missing == 0).then_some((degraded, 0, 0)),
            Fit::Tightest => (missing == 0).then_some((degraded, 0, others)),
            Fit::BestFraction => {
                let some = asked.capabilities == 0 || asked.capabilities & have != 0;
                some.then_some((degraded, missing, others))
            }
        }
    }

    /// What the documentation of [`Strategy`] states.
    pub(super) fn rank(strategy: Strategy, agent: &ModelAgent) -> (u32, u8) {
        match strategy {
            Strategy::LeastLoaded => (agent.load.into(), 7 - agent.priority / 32),
            Strategy::Priority => (0, 255 - agent.priority),
            Strategy::RoundRobin => (0, 0),
            Strategy::Performance => (agent.past, 0),
        }
    }

    pub(super) fn candidates(
        &self,
        asked: &Asked,
        named: Option<AgentId>,
    ) -> impl Iterator<Item = usize> {
        (0..self.agents.len()).filter(move |&i| {
            let agent = &self.agents[i];
            named.is_none_or(|named| named == agent.id)
                && agent.has_room()
                && Self::misfit(asked, agent).is_some()
        })
    }

    pub(super) fn best(&self, asked: &Asked, named: Option<AgentId>) -> Option<usize> {
        self.candidates(asked, named).min_by_key(|&i| {
            let agent = &self.agents[i];
            let age = match asked.strategy {
                Strategy::RoundRobin => (0, agent.turn),
                Strategy::LeastLoaded if agent.came_back => (0, u64::MAX - agent.changed),
                Strategy::LeastLoaded => (1, agent.changed),
                Strategy::Priority | Strategy::Performance => (0, agent.changed),
            };
            let misfit = Self::misfit(asked, agent);
            (misfit, Self::rank(asked.strategy, agent), age)
        })
    }

    /// Whether the pool's choice is right, or good enough where it is not strict; takes it.
    pub(super) fn follow(
        &mut self,
        asked: &Asked,
        named: Option<AgentId>,
        choice: Option<AgentId>,
    ) {
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
            let misfit = |agent: &ModelAgent| Self::misfit(asked, agent);
            assert_eq!(misfit(chosen), misfit(best_one), "how it fits is exact across shards");
            match asked.strategy {
                Strategy::LeastLoaded => assert!(chosen.load <= best_one.load + 1, "the bound"),
                Strategy::Priority => assert_eq!(chosen.priority, best_one.priority, "the bound"),
                Strategy::Performance => assert_eq!(chosen.past, best_one.past, "the bound"),
                Strategy::RoundRobin => {}
            }
        }
        self.take(index);
    }

    pub(super) fn touch(&mut self, index: usize) {
        self.agents[index].changed = self.time;
        self.agents[index].came_back = false;
        self.time += 1;
    }

    pub(super) fn take(&mut self, index: usize) {
        self.agents[index].load += 1;
        self.touch(index);
        self.agents[index].turn = self.agents[index].changed;
    }

    /// Takes so many for a batch that is to have more, and takes them back.
    pub(super) fn take_in_vain(&mut self, asked: &Asked, named: Option<AgentId>, count: usize) {
        let mut taken = Vec::new();
        for _ in 0..count {
            let best = self.best(asked, named).expect("there are so many places");
            self.take(best);
            taken.push(best);
        }
        for index in taken.into_iter().rev() {
            self.give_back(index, true);
        }
    }

    pub(super) fn possible(&self, asked: &Asked) -> bool {
        self.is_expected(asked)
            || self.agents.iter().any(|agent| Self::misfit(asked, agent).is_some())
    }

    /// Gives the free places of an agent to those who wait.
    pub(super) fn serve(&mut self, index: usize) {
        while self.agents[index].has_room() {
            let next = (0..self.waiters.len())
                .filter(|&w| self.waiters[w].answer.is_none())
                .filter(|&w| {
                    let waiter = &self.waiters[w];
                    let agent = &self.agents[index];
                    waiter.agent.is_none_or(|named| named == agent.id)
                        && Self::misfit(&waiter.asked, agent).is_some()
                })
                .min_by_key(|&w| self.waiters[w].place());
            let Some(next) = next else { return };
            self.take(index);
            self.waiters[next].answer = Some(Ok(self.agents[index].id));
        }
    }

    pub(super) fn release(&mut self, agent: AgentId, well: bool) {
        let index = self.agents.iter().position(|known| known.id == agent);
        let index = index.expect("the lease was not void");
        self.give_back(index, well);
        self.serve(index);
    }

    fn give_back(&mut self, index: usize, well: bool) {
        let was_full = !self.agents[index].has_room();
        self.agents[index].load -= 1;
        self.touch(index);
        self.agents[index].came_back = well;
        if was_full {
            self.agents[index].turn = self.agents[index].changed;
        }
    }
}
