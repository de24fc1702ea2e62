//! Agents that are drained without a thread, for as long as it takes, and fleets that are shut down so.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::books::{Spec, Token};
use super::checks::Loads;
use super::world::{Bell, World};
use phalanx::fleet::{AgentDraining, AgentId, Condition, DrainReport, FleetShutdown, TaskId};

/// An agent that is drained.
pub(super) struct Farewell {
    agent: AgentId,
    future: Pin<Box<AgentDraining<Token, Token>>>,
    bell: Arc<Bell>,
    /// How often the host had it serve before.
    services: u64,
}

impl World {
    pub(super) fn drain_agent_patiently(&mut self) {
        let Some(agent) = self.any_agent() else { return };
        let (future, bell) = (Box::pin(self.fleet.drain_agent_async(agent)), self.bell());
        let services = {
            // Whoever is told on the way finds that it takes nothing new.
            let mut books = self.core.books();
            let body = books.agents.get_mut(&agent).expect("it was just listed");
            (body.condition, body.drained) = (Condition::Draining, true);
            body.leaving = None;
            books.services.get(&agent).copied()
        };
        let services = services.unwrap_or(0);
        self.farewells.push(Farewell { agent, future, bell, services });
        if !self.poll_farewell(self.farewells.len() - 1) {
            self.core.books().totals.count("drain of an agent waits");
        }
    }

    /// Polls one; whether it is over.
    fn poll_farewell(&mut self, at: usize) -> bool {
        let Farewell { future, bell, .. } = &mut self.farewells[at];
        bell.rung.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(bell));
        let Poll::Ready(drain) = future.as_mut().poll(&mut Context::from_waker(&waker)) else {
            return false;
        };
        let Farewell { agent, services, .. } = self.farewells.swap_remove(at);
        let drain = drain.expect("no handler asks for it, and it lived as it began");
        let lives = self.fleet.agent(agent).is_some();
        assert_eq!(drain.ended, !lives, "{drain:?}");
        let mut books = self.core.books();
        if drain.ended {
            // Of one that was killed meanwhile, what waited for its next attempt is told later.
            if let Some(body) = books.agents.remove(&agent) {
                books.dismiss(&body);
                books.totals.count("agent drained with patience");
                assert!(!books.is_asked(agent), "{agent} ended over its work");
            }
        } else {
            let served = books.services.get(&agent).is_some_and(|count| *count > services);
            assert!(served, "nobody has {agent} serve again");
            books.totals.count("drain of an agent called off");
        }
        for (id, kind) in drain.tasks_ended {
            let spec = &books.specs[&books.codes[&id]];
            assert_eq!((spec.agent, spec.ended), (Some(agent), Some(kind)));
        }
        true
    }

    /// Polls those whose wakers were called; how many there were.
    pub(super) fn poll_woken_farewells(&mut self) -> usize {
        let (mut polled, mut at) = (0, 0);
        while at < self.farewells.len() {
            if self.farewells[at].bell.rung.load(Ordering::Relaxed) {
                polled += 1;
                at += usize::from(!self.poll_farewell(at));
            } else {
                at += 1;
            }
        }
        polled
    }

    /// Somebody drains an agent no more, which takes nothing new all the same.
    pub(super) fn drop_farewell(&mut self) {
        if !self.farewells.is_empty() {
            let at = self.random.below(self.farewells.len());
            drop(self.farewells.swap_remove(at));
            self.core.books().totals.count("drain of an agent dropped");
        }
    }

    /// When nothing is ready: a drain that is not over waits for something, and that is the agent's.
    pub(super) fn check_farewells(&self, loads: &Loads) {
        let books = self.core.books();
        for Farewell { agent, bell, .. } in &self.farewells {
            assert!(!bell.rung.load(Ordering::Relaxed));
            let holds = loads.get(agent).is_some_and(|load| load.leases > 0);
            let mut flights = books.flights.values();
            let flies = flights.any(|flight| flight.agent == *agent);
            assert!(
                holds || flies || books.is_asked(*agent),
                "the drain of {agent} waits for nothing"
            );
            assert!(books.agents[agent].drained, "{agent} serves, and is drained");
        }
    }

    /// After the end: all are told.
    pub(super) fn close_farewells(&mut self) {
        for Farewell { agent, bell, .. } in &self.farewells {
            assert!(bell.rung.load(Ordering::Relaxed), "the drain of {agent} sleeps for ever");
        }
        self.poll_woken_farewells();
        assert!(self.farewells.is_empty(), "who drains is told");
    }

    /// Shuts down without striking what runs; `None` if that does not end.
    pub(super) fn shut_down_patiently(&mut self) -> DrainReport {
        let mut stop = self.fleet.shutdown_async();
        let bell = self.bell();
        let mut report = poll_the_stop(&mut stop, &bell);
        if report.is_none() {
            self.core.books().totals.count("shutdown waits");
        }
        for _ in 0..1_000 {
            if report.is_some() {
                break;
            }
            self.come_to_rest();
            if bell.rung.load(Ordering::Relaxed) {
                report = poll_the_stop(&mut stop, &bell);
                continue;
            }
            {
                let books = self.core.books();
                assert!(!books.flights.is_empty(), "it waits for nothing");
                let mut specs = books.specs.values();
                assert!(
                    specs.all(|spec| !spec.is_pending() || spec.running.is_some()),
                    "it is stopped, and something waits"
                );
            }
            // Some hang.
            self.drop_future();
        }
        report.expect("what hung is gone")
    }

    /// The tasks that have no outcome.
    pub(super) fn pending(&self) -> BTreeSet<TaskId> {
        let books = self.core.books();
        let pending = books.specs.values().filter(|spec| spec.is_pending());
        pending.filter_map(|spec: &Spec| spec.id).collect()
    }
}

fn poll_the_stop(stop: &mut FleetShutdown<Token, Token>, bell: &Arc<Bell>) -> Option<DrainReport> {
    bell.rung.store(false, Ordering::Relaxed);
    let waker = Waker::from(Arc::clone(bell));
    match Pin::new(stop).poll(&mut Context::from_waker(&waker)) {
        Poll::Ready(report) => Some(report.expect("no handler asks for it")),
        Poll::Pending => None,
    }
}
