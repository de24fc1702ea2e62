//! Agents whose handlers are made before they are in service.
//!
//! Rules that hold between any two times the state's lock is held:
//!
//! 1. An agent whose spec asks for it is cold from the step in which it joins, in which an incarnation of it ends, or
//!    in which it is known to have lost its last idle handler to a panic, until a handler made in its present
//!    incarnation lies in its crew. `cold` has those agents and no others, and none that has ended.
//! 2. One that is cold is not allocated: it is starting where it would serve otherwise, and nothing of its mailbox
//!    begins, but for one claim of a worker that was taking it as the handler of another attempt was lost. What the
//!    host wants besides, draining or failed, holds at once, and is never undone by a handler that comes.
//! 3. Of one that is cold and starting, or is drained and would finish what it has, workers were told, once, or one of
//!    them makes the handler. For any other none is begun, such as one that is drained and has nothing. Its crew says
//!    which it is: so one that ends takes that along, and what stands in line for it is taken out as for a mailbox.
//! 4. In one step the handler lies in the crew, the agent is what is wanted of it, and whoever waits is served.
//! 5. The making holds no lease and is no active mailbox: a drain, a kill and a retirement find an idle agent. What
//!    was made for an agent or an incarnation that is over, or for a fleet that stops, is dropped outside the locks.
//!    One whose making failed for good is `unmade`, until it is made or the host says what it wants of it.
//! 6. It is begun under the locks of the tasks and of the mailbox, which a stop takes before it counts who is
//!    occupied; and by [`Inner::make_by`], which calls the factory outside them and catches its panics.
//! 7. Whoever has made one begins the next in the step that takes the first in, if that is next in line and nobody is to
//!    be told of anything first. So each is in service as soon as it is made, whoever makes one has no other in hand,
//!    and those that are not begun stand in line for everybody, in their order with all else.

use std::collections::HashSet;
use std::sync::Arc;

use super::{FailureReason, Standing, Supervision, Tenure, serves};
use crate::fleet::agent::{Condition, Factory, Handler};
use crate::fleet::id::{AgentId, Attempt};
use crate::fleet::inner::{After, Inner, State};
use crate::fleet::log::FleetEvent;
use crate::fleet::post::Home;
use crate::fleet::runner::Seat;
use crate::fleet::task::TaskError;

/// What a cold agent is fit for of which this is wanted (rule 2).
pub(super) const fn until_warm(wanted: Condition) -> Condition {
    match wanted {
        Condition::Fit | Condition::Degraded => Condition::Starting,
        other => other,
    }
}

impl Supervision {
    /// Whether the handler of an agent is to be made now, which is drained and has work left, or not (rule 3).
    fn calls(&self, agent: AgentId, drained: bool) -> bool {
        self.standing(agent).is_some_and(|standing| standing.calls_if(drained))
    }

    /// Has an agent be cold of which the pool says this, unless it is already (rule 1). A trial goes on: it ends as the
    /// attempt does that lost the handler, of which the circuit hears in a moment.
    pub(super) fn cool(&mut self, agent: AgentId, condition: Condition) {
        let wanted = self.wards.get(&agent).map_or(condition, |ward| ward.wanted);
        self.cold.get_or_insert(agent, wanted);
    }

    /// Has an agent be cold no more; how it stands then.
    pub(super) fn warm(&mut self, agent: AgentId) -> Option<Standing> {
        let wanted = self.cold.remove(agent)?;
        self.unmade.remove(&agent);
        if !self.is_ward(agent) {
            return Some(Standing::unsupervised(wanted, false));
        }
        self.may_try(agent);
        self.standing(agent)
    }

    /// Whether the making of an agent's handler failed for good (rule 5).
    pub(in crate::fleet) fn is_unmade(&self, agent: AgentId) -> bool {
        self.unmade.contains(&agent)
    }

    /// Has an agent that would serve, or is drained, be failed, and cold, until the host wants it otherwise.
    pub(super) fn give_up_warming(&mut self, agent: AgentId, drained: bool) {
        self.unmade.insert(agent);
        let ward = self.wards.get_mut(&agent).map(|ward| &mut ward.wanted);
        let cold = self.cold.get_or_insert(agent, Condition::Failed);
        for wanted in ward.into_iter().chain([cold]) {
            if serves(*wanted) || drained && *wanted == Condition::Draining {
                *wanted = Condition::Failed;
            }
        }
    }
}

impl Standing {
    /// Whether its handler is to be made now, which is drained and has [work left](has_work_left), or not.
    pub(super) fn calls_if(&self, drained: bool) -> bool {
        self.calls || self.cold && drained && self.finishes
    }
}

/// Whether an agent that takes nothing new has something that its handler is to be made for: in its mailbox, or on the
/// way there. One that begins nothing more has nothing. O(tasks that are parked) if its mailbox is empty.
pub(super) fn has_work_left<T, O>(state: &State<T, O>, home: &Home<T, O>, agent: AgentId) -> bool {
    let begins = !state.ledger.overdue.bars(Some(agent));
    begins && (!home.mailbox.is_idle() || state.expects(agent))
}

/// A handler that a worker is about to make.
struct Order<T, O> {
    agent: AgentId,
    tenure: Tenure,
    /// Unless it is the same as before.
    by: Option<Factory<T, O>>,
}

impl<T, O> Inner<T, O> {
    /// Has workers make the handlers of agents that were just made, whose mailboxes are open. O(agents), with one lock
    /// of the workers' line.
    pub(in crate::fleet) fn call_to_prewarm(&self, state: &State<T, O>, agents: &[AgentId]) {
        let calls = agents.iter().copied().filter(|agent| {
            let post = self.posts.get(agent.slot).expect("it has a handler, and so a mailbox");
            state.supervision.calls(*agent, false) && post.lock().crew.call()
        });
        // The lock of the line is the last to be taken.
        let calls: Vec<_> = calls.collect();
        self.runner.prewarm(&calls);
    }

    /// Makes the handler of an agent, if that is to be done, and of those that are next in line (rule 7), so many at
    /// most in all; how many were made, or were tried to make. A worker does that.
    pub(in crate::fleet) fn prewarm(&self, agent: AgentId, seat: &mut Seat, most: usize) -> usize {
        let mut order = self.begin_to_prewarm(&self.state.lock(), agent, seat, None);
        let (mut factory, mut after, mut count) = (None, After::new(), 0);
        while let Some(Order { agent, tenure, by }) = order {
            count += 1;
            if by.is_some() {
                // The last one of agents that were killed meanwhile, it may be.
                self.discard(std::mem::replace(&mut factory, by));
            }
            let began = self.time_if_observed();
            let watch = self.watch(agent, tenure, None, Attempt::NONE);
            let made = self.make_by(factory.as_ref().expect("the first order has it"));
            self.unwatch(watch);
            let took = began.map(|began| self.clock.now() - began);
            let spare = {
                let mut guard = self.state.lock();
                let state = &mut *guard;
                // What becomes of one that nobody supervises has no part in an alarm or a circuit.
                let is_alone = made.is_ok() && !tenure.is_supervised();
                let spare = match made {
                    Ok(handler) => {
                        let spare = self.prewarmed(state, agent, tenure, handler, &mut after);
                        if let (None, Some(took)) = (&spare, took) {
                            after.events.push(FleetEvent::AgentPrewarmed { agent, took });
                        }
                        spare
                    }
                    Err(error) => {
                        self.not_prewarmed(state, agent, tenure, error, &mut after);
                        None
                    }
                };
                if !is_alone {
                    self.try_circuits(state, None, &mut after);
                    self.publish_alarm(state);
                }
                let goes_on = count < most && spare.is_none() && after.is_empty();
                let next = if goes_on { self.runner.next_to_prewarm(seat) } else { None };
                let known = factory.as_ref();
                order = next.and_then(|(next, later)| {
                    if let Some(post) = later.and_then(|later| self.posts.get(later.slot)) {
                        post.prefetch();
                    }
                    self.begin_to_prewarm(state, next, seat, known)
                });
                spare
            };
            if !after.is_empty() {
                self.finish(std::mem::replace(&mut after, After::new()));
            }
            if spare.is_some() {
                self.discard(spare);
            }
        }
        self.discard(factory);
        count
    }

    /// Rule 6. The factory is left out if it is the one that is known.
    fn begin_to_prewarm(
        &self,
        state: &State<T, O>,
        agent: AgentId,
        seat: &mut Seat,
        known: Option<&Factory<T, O>>,
    ) -> Option<Order<T, O>> {
        let mut home = self.posts.get(agent.slot)?.lock();
        if !home.mailbox.is_open(agent.generation) {
            return None;
        }
        let finishes =
            home.mailbox.is_finishing(agent.generation) && has_work_left(state, &home, agent);
        let calls = !state.stopping && state.supervision.calls(agent, finishes);
        let factory = home.crew.begin_to_warm(calls)?;
        let is_known = known.is_some_and(|known| Arc::ptr_eq(known, factory));
        let by = if is_known { None } else { Some(Arc::clone(factory)) };
        self.runner.occupy(seat);
        Some(Order { agent, tenure: home.crew.tenure(), by })
    }

    /// Takes in a handler that was made (rule 4); if it is not wanted any more it is handed back.
    fn prewarmed(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        tenure: Tenure,
        handler: Handler<T, O>,
        after: &mut After<T, O>,
    ) -> Option<Handler<T, O>> {
        let post = self.posts.get(agent.slot).expect("its handler was made");
        let mut home = post.lock();
        // Rule 5.
        let spare = home.dismiss(agent.generation, tenure, handler);
        if spare.is_some() {
            return spare;
        }
        home.crew.end_warming(true);
        state.counts.agents_prewarmed += 1;
        let warm = |state: &mut State<T, O>| {
            state.supervision.warm(agent).expect("rule 1: its incarnation goes on")
        };
        if tenure.is_supervised() {
            drop(home);
            self.heard_of(state, agent, after);
            let standing = warm(state);
            self.stand(state, agent, standing, after);
        } else {
            let standing = warm(state);
            let appointed = Self::appoint(state, &mut home, agent, standing, after);
            drop(home);
            self.stand_appointed(state, agent, standing, appointed, after);
        }
        None
    }

    /// Takes notice that a factory panicked.
    fn not_prewarmed(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        tenure: Tenure,
        error: TaskError,
        after: &mut After<T, O>,
    ) {
        state.counts.attempt_lost(&error);
        state.counts.prewarms_failed += 1;
        self.circuit_misses(state, agent, tenure.era, after);
        self.take_notice(state, agent, tenure, Some(&error), false, after);
        let drained = {
            let post = self.posts.get(agent.slot).expect("its handler was to be made");
            let mut home = post.lock();
            let lives = home.mailbox.is_open(agent.generation);
            if !lives || home.crew.tenure().incarnation != tenure.incarnation {
                // It has ended, or a policy says what follows.
                return;
            }
            home.crew.end_warming(false);
            home.mailbox.is_finishing(agent.generation)
        };
        if state.stopping {
            return;
        }
        state.supervision.give_up_warming(agent, drained);
        state.counts.agent_failures += 1;
        let reason = FailureReason::Attempt(error);
        after.events.push(FleetEvent::AgentFailed { agent, reason, restart_at: None });
        self.apply(state, agent, after);
    }

    /// Those of these agents whose making failed for good (rule 5), and of which nothing is asked. O(agents), and
    /// O(tasks that are mailed or parked) if there is one.
    pub(in crate::fleet) fn unmade(&self, state: &State<T, O>, agents: &[AgentId]) -> Vec<AgentId> {
        if state.supervision.unmade.is_empty() {
            return Vec::new();
        }
        let expected: HashSet<_> = state.expected().collect();
        let has_messages = |agent: AgentId| {
            let post = self.posts.get(agent.slot).expect("its handler was to be made");
            !post.lock().mailbox.is_idle()
        };
        let unmade = agents.iter().copied().filter(|agent| {
            state.supervision.is_unmade(*agent)
                && !expected.contains(agent)
                && !has_messages(*agent)
                && self.pool.is_unasked(*agent)
        });
        unmade.collect()
    }

    /// A handler of an agent was lost to a panic in an attempt of that tenure, whose lease is held still: if its spec
    /// asks for it, and no policy is about to say what follows, the agent is made ready anew.
    #[cold]
    pub(in crate::fleet) fn handler_lost(&self, agent: AgentId, tenure: Tenure) {
        if let Some(post) = self.posts.get(agent.slot) {
            let mut home = post.lock();
            if home.mailbox.is_open(agent.generation) {
                home.crew.lost();
            }
        }
        let mut after = After::new();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let (Some(post), false) = (self.posts.get(agent.slot), state.stopping) else { return };
            // Who can fail has failed by this, which is told in a moment.
            if state.supervision.can_fail(agent).is_some() {
                return;
            }
            {
                let mut home = post.lock();
                let lives = home.mailbox.is_open(agent.generation);
                let is_same = home.crew.tenure().incarnation == tenure.incarnation;
                if !lives || !is_same || !home.crew.cools() {
                    return;
                }
            }
            let condition = self.pool.condition(agent).expect("its mailbox is open");
            state.supervision.cool(agent, condition);
            self.apply(state, agent, &mut after);
            self.try_circuits(state, None, &mut after);
            self.publish_alarm(state);
        }
        self.finish(after);
    }
}
