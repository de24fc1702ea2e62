//! What the fleet does when an agent fails: it takes it out of service, and puts it back or ends it.

use std::time::Duration;

use super::prewarm::has_work_left;
use super::{FIRST, Standing, Tenure, Verdict, serves};
use crate::clock::Timestamp;
use crate::fleet::Fleet;
use crate::fleet::agent::{AgentSpec, Condition};
use crate::fleet::id::AgentId;
use crate::fleet::inner::{After, Inner, State};
use crate::fleet::log::FleetEvent;
use crate::fleet::pool::Fitness;
use crate::fleet::post::Home;
use crate::fleet::stop::gone;
use crate::fleet::supervise::Exit;
use crate::fleet::task::{TaskError, TaskErrorKind};
use crate::{Error, ErrorKind};

/// What its mailbox says of an agent that is told how it stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Appointed {
    /// Whether it finishes what it has.
    drained: bool,
    /// Whether workers are to make its handler.
    calls: bool,
    /// Whether something waits in its control lane that nobody has begun.
    is_urgent: bool,
}

/// Why an agent is taken to have failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureReason {
    /// Its handler, or what makes it, panicked; or returned an error, where those count.
    Attempt(TaskError),
    /// The host said so, and why.
    Reported(String),
    /// It was not heard of for so long.
    Silent(Duration),
    /// This other agent of its group failed, and all are started again or end together.
    Together(AgentId),
}

impl<T: Send + Sync + 'static, O: Send + Sync + 'static> Fleet<T, O> {
    /// Says that an agent that is supervised has failed: a process behind it has died, say. What follows is
    /// what its [restart policy](super::super::AgentSpec::restart) says; `reason` goes into the event. Returns
    /// whether that was news: not if the agent is down already.
    ///
    /// It means the agent as it is now. If it may have been started again since the host saw it fail, as when it
    /// panicked too, [`report_failure_of`](Self::report_failure_of) does not have it start twice. After a shutdown has
    /// begun nothing follows, as all agents are about to end, and it is no news.
    ///
    /// # Errors
    /// `NotFound` if the agent is gone, `Unsupported` if it is not supervised.
    pub fn report_failure(&self, agent: AgentId, reason: impl Into<String>) -> Result<bool, Error> {
        self.inner().report_failure(agent, None, FailureReason::Reported(reason.into()))
    }

    /// The same of one [incarnation](super::super::AgentStatus::incarnation) of the agent: nothing follows if that has ended, which
    /// is counted as `agent_failures_ignored`, and is no news.
    ///
    /// # Errors
    /// As [`report_failure`](Self::report_failure).
    pub fn report_failure_of(
        &self,
        agent: AgentId,
        incarnation: u32,
        reason: impl Into<String>,
    ) -> Result<bool, Error> {
        let reason = FailureReason::Reported(reason.into());
        self.inner().report_failure(agent, Some(incarnation), reason)
    }
}

impl<T, O> Inner<T, O> {
    fn report_failure(
        &self,
        agent: AgentId,
        incarnation: Option<u32>,
        reason: FailureReason,
    ) -> Result<bool, Error> {
        let mut after = After::new();
        let news = {
            let mut state = self.state.lock();
            let Some(current) = state.supervision.can_fail(agent) else {
                drop(state);
                return Err(if self.pool.lives(agent) {
                    let message =
                        format!("agent {agent} is not supervised: its spec has no policy");
                    Error::new(ErrorKind::Unsupported, message)
                } else {
                    gone(agent)
                });
            };
            let incarnation = incarnation.unwrap_or(current);
            let news =
                incarnation == current && !state.supervision.is_down(agent) && !state.stopping;
            self.agent_failed(&mut state, agent, incarnation, reason, &mut after);
            self.try_circuits(&mut state, None, &mut after);
            self.publish_alarm(&mut state);
            news
        };
        self.finish(after);
        Ok(news)
    }

    /// Takes notice of how an attempt of that tenure went, before its lease is given back.
    pub(in crate::fleet) fn take_notice(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        tenure: Tenure,
        error: Option<&TaskError>,
        cancelled: bool,
        after: &mut After<T, O>,
    ) {
        if !tenure.is_supervised() {
            return;
        }
        // An error of one that was asked to give up says nothing.
        let gave_up = |error: &TaskError| cancelled && error.kind() != TaskErrorKind::Panicked;
        let well = match error {
            None => Some(true),
            Some(error) if gave_up(error) => None,
            Some(_) => Some(false),
        };
        let known = state.supervision.known(agent);
        if known == Some(tenure.incarnation) {
            self.heard_of(state, agent, after);
        }
        self.attempt_went(state, agent, tenure, well, after);
        let Some(error) = error.filter(|error| !gave_up(error)) else { return };
        let supervision = &state.supervision;
        // One that has gone is told apart from one that nobody starts again: its failure came too late.
        let could_fail = supervision.can_fail(agent).is_some() || !supervision.is_ward(agent);
        let counts = error.kind() == TaskErrorKind::Panicked || supervision.counts_errors(agent);
        if could_fail && counts {
            let reason = FailureReason::Attempt(error.clone());
            self.agent_failed(state, agent, tenure.incarnation, reason, after);
        }
    }

    /// Has an agent be down, or end, because it failed in that incarnation.
    pub(super) fn agent_failed(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        incarnation: u32,
        reason: FailureReason,
        after: &mut After<T, O>,
    ) {
        if state.stopping {
            // All agents are about to end, and none is started any more.
            return;
        }
        let now = self.clock.now();
        let mut reason = Some(reason);
        let mut why = || reason.take().unwrap_or(FailureReason::Together(agent));
        match state.supervision.exited(agent, incarnation, Exit::Failed, now).0 {
            Verdict::Nothing => state.counts.agent_failures_ignored += 1,
            Verdict::Down(agents, until) => {
                for agent in agents {
                    state.counts.agent_failures += 1;
                    let restart_at = Some(until);
                    after.events.push(FleetEvent::AgentFailed { agent, reason: why(), restart_at });
                    self.apply(state, agent, after);
                }
                if until <= now {
                    // Who has been silent for too long is left to whoever rings: of them there may be many.
                    self.rise_those_due(state, now, after);
                }
            }
            Verdict::End(agents) => {
                for agent in agents {
                    state.counts.agent_failures += 1;
                    state.counts.agents_given_up += 1;
                    let (reason, restart_at) = (why(), None);
                    after.events.push(FleetEvent::AgentFailed { agent, reason, restart_at });
                    let ended = self.end_in_step(state, agent, false, after);
                    debug_assert!(ended.is_some(), "a ward is a live agent");
                }
            }
        }
    }

    /// Has an agent end, or be made anew, because its handler had it stop in an attempt of that tenure.
    #[cold]
    pub(in crate::fleet) fn agent_exited(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        tenure: Tenure,
        after: &mut After<T, O>,
    ) {
        if state.stopping || !self.pool.lives(agent) {
            return;
        }
        let now = self.clock.now();
        let (verdict, gives_up) = match state.supervision.can_fail(agent) {
            None => (Verdict::End(vec![agent]), false),
            Some(_) => state.supervision.exited(agent, tenure.incarnation, Exit::Normal, now),
        };
        let exits = |after: &mut After<T, O>, state: &mut State<T, O>, other, restart_at| {
            after.events.push(if other == agent {
                state.counts.agent_exits += 1;
                FleetEvent::AgentExited { agent, restart_at }
            } else {
                state.counts.agent_failures += 1;
                let reason = FailureReason::Together(agent);
                FleetEvent::AgentFailed { agent: other, reason, restart_at }
            });
        };
        match verdict {
            // It has failed with this attempt, or before.
            Verdict::Nothing => {}
            Verdict::Down(agents, until) => {
                for other in agents {
                    exits(after, state, other, Some(until));
                    self.apply(state, other, after);
                }
                if until <= now {
                    self.rise_those_due(state, now, after);
                }
            }
            Verdict::End(agents) => {
                for other in agents {
                    exits(after, state, other, None);
                    state.counts.agents_given_up += u64::from(gives_up);
                    let ended = self.end_in_step(state, other, false, after);
                    debug_assert!(ended.is_some(), "a ward is a live agent");
                }
            }
        }
    }

    /// The same for one who holds no lock.
    #[cold]
    pub(in crate::fleet) fn stop_agent(&self, agent: AgentId, tenure: Tenure) {
        let mut after = After::new();
        {
            let mut state = self.state.lock();
            self.agent_exited(&mut state, agent, tenure, &mut after);
            self.publish_alarm(&mut state);
        }
        self.finish(after);
    }

    /// Takes in agents that were just made; how all of them stand if nobody supervises them.
    pub(in crate::fleet) fn enrol(
        &self,
        state: &mut State<T, O>,
        agents: &[AgentId],
        spec: &AgentSpec<T, O>,
    ) -> Option<Standing> {
        let alike = state.supervision.standing_alike(spec);
        match alike {
            Some(Standing { cold: false, .. }) => {}
            Some(_) => state.supervision.enrol_alone(agents, spec.condition),
            None => {
                let now = if spec.heartbeat.is_some() { self.clock.now() } else { Timestamp::ZERO };
                for agent in agents {
                    state.supervision.enrol(*agent, spec, now);
                }
            }
        }
        alike
    }

    /// Has the pool and the mailbox know how an agent stands that is supervised, or cold (rules 3 to 6).
    pub(super) fn apply(&self, state: &State<T, O>, agent: AgentId, after: &mut After<T, O>) {
        if let Some(standing) = state.supervision.standing(agent) {
            self.stand(state, agent, standing, after);
        }
    }

    pub(super) fn stand(
        &self,
        state: &State<T, O>,
        agent: AgentId,
        standing: Standing,
        after: &mut After<T, O>,
    ) {
        let appointed = self.posts.get(agent.slot).map(|post| {
            let mut home = post.lock();
            Self::appoint(state, &mut home, agent, standing, after)
        });
        self.stand_appointed(state, agent, standing, appointed.unwrap_or_default(), after);
    }

    /// The part of it that is done under the lock of its mailbox.
    #[inline(always)]
    pub(super) fn appoint(
        state: &State<T, O>,
        home: &mut Home<T, O>,
        agent: AgentId,
        standing: Standing,
        after: &mut After<T, O>,
    ) -> Appointed {
        if !home.mailbox.is_open(agent.generation) {
            return Appointed::default();
        }
        let stale = home.crew.appoint(standing.tenure, standing.is_down());
        if !stale.is_empty() {
            after.aside().handlers.extend(stale);
        }
        let drained = home.mailbox.is_finishing(agent.generation);
        let finishes = drained && standing.cold && has_work_left(state, home, agent);
        let calls = standing.calls_if(finishes) && home.crew.call();
        let is_urgent = home.mailbox.is_urgent(agent.generation);
        Appointed { drained, calls, is_urgent }
    }

    /// The rest of it.
    #[inline(always)]
    pub(super) fn stand_appointed(
        &self,
        state: &State<T, O>,
        agent: AgentId,
        standing: Standing,
        appointed: Appointed,
        after: &mut After<T, O>,
    ) {
        let Appointed { drained, calls, is_urgent } = appointed;
        if calls {
            self.runner.prewarm(&[agent]);
        }
        // One that nobody supervises is of the first.
        let incarnation = standing.tenure.incarnation.max(FIRST);
        let finishes = drained && standing.finishes && !standing.cold;
        let Standing { condition, circuit, .. } = standing;
        let fitness = Fitness { condition, finishes, circuit, incarnation };
        self.change_condition(state, agent, fitness, after)
            .expect("a ward is a live agent, and so is one that is cold");
        // That needs no room. What comes into its control lane after it was looked at finds the agent as it is now.
        if is_urgent {
            self.line_up(agent);
        }
    }

    /// Has the pool know what an agent is fit for, and tells whom that concerns; what it was fit for before.
    fn change_condition(
        &self,
        state: &State<T, O>,
        agent: AgentId,
        fitness: Fitness,
        after: &mut After<T, O>,
    ) -> Option<Condition> {
        let (before, passed) = self.pool.change_condition(agent, fitness, &mut after.wakes)?;
        if let Some(agent) = passed.freed {
            self.line_up(agent);
        }
        if passed.hungry {
            self.notify_workers(state);
        }
        Some(before)
    }

    /// Starts those whose delay is over.
    pub(in crate::fleet) fn start_those_due(
        &self,
        state: &mut State<T, O>,
        now: Timestamp,
        after: &mut After<T, O>,
    ) {
        self.ring_watches(state, now, after);
        self.ring_hearts(state, now, after);
        self.rise_those_due(state, now, after);
    }

    fn rise_those_due(&self, state: &mut State<T, O>, now: Timestamp, after: &mut After<T, O>) {
        while !state.stopping
            && let Some((agent, incarnation)) = state.supervision.rise(now)
        {
            state.counts.agent_restarts += 1;
            after.events.push(FleetEvent::AgentRestarted { agent, incarnation });
            self.apply(state, agent, after);
        }
    }

    /// Sets what the host wants an agent to be fit for; what it wanted before.
    pub(in crate::fleet) fn set_condition(
        &self,
        agent: AgentId,
        condition: Condition,
    ) -> Option<Condition> {
        let mut after = After::new();
        let before = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            if !self.pool.lives(agent) {
                return None;
            }
            // Whatever it says of an agent that scaling takes away: it is the host's again.
            state.ledger.leaving.forget(agent);
            if serves(condition) {
                self.call_off_drains(state, agent, &mut after);
            }
            self.want(state, agent, condition, &mut after)?
        };
        self.finish(after);
        Some(before)
    }

    /// The part of it that is one step.
    pub(in crate::fleet) fn want(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        condition: Condition,
        after: &mut After<T, O>,
    ) -> Option<Condition> {
        let before = state.supervision.want(agent, condition, self.clock.now());
        self.see_to(state, agent, condition, before, after)
    }

    /// Has what the host wanted before be wanted again: a heart that has failed meanwhile has failed still.
    pub(in crate::fleet) fn want_back(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        condition: Condition,
        after: &mut After<T, O>,
    ) -> Option<Condition> {
        let before = state.supervision.want_back(agent, condition);
        self.see_to(state, agent, condition, before, after)
    }

    /// Has an agent be what is wanted of it; what was wanted `before`, if supervision knows of it.
    fn see_to(
        &self,
        state: &mut State<T, O>,
        agent: AgentId,
        condition: Condition,
        before: Option<Condition>,
        after: &mut After<T, O>,
    ) -> Option<Condition> {
        let Some(before) = before else {
            // In the same step: what the host wants of an agent that is about to be cold is to be known.
            let finishes = condition == Condition::Draining && self.is_finishing(agent);
            let fitness = Fitness { condition, finishes, circuit: None, incarnation: FIRST };
            let before = self.change_condition(state, agent, fitness, after);
            // That needs no room.
            self.look_for_control(agent);
            return before;
        };
        self.apply(state, agent, after);
        self.try_circuits(state, None, after);
        self.publish_alarm(state);
        Some(before)
    }
}
