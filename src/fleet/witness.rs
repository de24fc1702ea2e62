//! What ends while somebody drains or stops: each such call is told of it.
//!
//! It is part of the state, under its lock. Rules that hold between any two times that is held:
//!
//! 1. A call is told of each task that ends from when it begins until it is over, in the order in which they do, once:
//!    of all tasks, or of those for its one agent. It begins in the step from which on nothing new is taken, so those are
//!    no more than were there, or were being accepted, as it began.
//! 2. A call that is about one agent knows how many tasks for that agent alone were accepted and have not ended,
//!    wherever they wait.
//! 3. It knows how many messages of that agent's mailbox came back. They are counted in the step that takes them out.
//! 4. It is told no more once it is called off: what is new to the agent from then on is none of its concern.
//! 5. Whoever begins a call has a [`Listening`], and with that gone the call is over: nobody is told in vain.

use super::id::{AgentId, TaskId};
use super::inner::{Inner, State};
use super::task::OutcomeKind;
use crate::sync::left_out;

/// Which call.
pub(super) type Call = u64;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Witnesses {
    calls: Vec<(Call, Witness)>,
    last: Call,
}

/// What one call was told.
#[derive(Debug)]
pub(super) struct Witness {
    agent: Option<AgentId>,
    /// Rule 2.
    tasks_left: usize,
    pub(super) messages_returned: u64,
    pub(super) ended: Vec<(TaskId, OutcomeKind)>,
    /// Once it is called off (rule 4): how many messages of the agent no handler had begun then.
    called_off: Option<u64>,
}

impl Witness {
    /// Whether it is told of what concerns an agent; of what concerns none, if that is `None`.
    fn hears(&self, agent: Option<AgentId>) -> bool {
        self.called_off.is_none() && (self.agent.is_none() || self.agent == agent)
    }

    /// How many messages no handler had begun as it was called off; zero if it was not.
    pub(super) fn messages_left(&self) -> u64 {
        self.called_off.unwrap_or(0)
    }
}

impl Witnesses {
    /// Begins a call about all tasks, or about one agent that so many tasks are for.
    fn begin(&mut self, about: Option<(AgentId, usize)>) -> Call {
        self.last += 1;
        let (agent, tasks_left) = about.map_or((None, 0), |(agent, tasks)| (Some(agent), tasks));
        let (ended, called_off) = (Vec::new(), None);
        let witness = Witness { agent, tasks_left, messages_returned: 0, ended, called_off };
        self.calls.push((self.last, witness));
        self.last
    }

    /// Ends a call; what it was told.
    fn end(&mut self, call: Call) -> Option<Witness> {
        let at = self.calls.iter().position(|(known, _)| *known == call)?;
        Some(self.calls.swap_remove(at).1)
    }

    fn get(&self, call: Call) -> Option<&Witness> {
        self.calls.iter().find(|(known, _)| *known == call).map(|(_, witness)| witness)
    }

    /// The calls about one agent are over, as it is to serve on, with so many messages that no handler has begun.
    /// Whether there were any.
    pub(super) fn call_off(&mut self, agent: AgentId, messages_left: usize) -> bool {
        let mut any = false;
        for (_, witness) in &mut self.calls {
            if witness.agent == Some(agent) && witness.called_off.is_none() {
                witness.called_off = Some(messages_left as u64);
                any = true;
            }
        }
        any
    }

    /// A task for this agent alone was accepted.
    pub(super) fn task_accepted(&mut self, agent: Option<AgentId>) {
        for (_, witness) in &mut self.calls {
            if witness.agent.is_some() && witness.hears(agent) {
                witness.tasks_left += 1;
            }
        }
    }

    /// A task has ended. Whether somebody waits for the last one of an agent, which this was.
    #[inline]
    pub(super) fn task_ended(
        &mut self,
        id: TaskId,
        agent: Option<AgentId>,
        kind: OutcomeKind,
    ) -> bool {
        !self.calls.is_empty() && self.tell(id, agent, kind)
    }

    #[cold]
    fn tell(&mut self, id: TaskId, agent: Option<AgentId>, kind: OutcomeKind) -> bool {
        let mut last = false;
        for (_, witness) in self.calls.iter_mut().filter(|(_, witness)| witness.hears(agent)) {
            witness.ended.push((id, kind));
            if witness.agent.is_some() {
                debug_assert!(witness.tasks_left > 0, "rule 2");
                witness.tasks_left -= 1;
                last |= witness.tasks_left == 0 && !left_out("witness.tell-of-the-last");
            }
        }
        last
    }

    /// Messages of an agent came back.
    pub(super) fn messages_returned(&mut self, agent: AgentId, count: usize) {
        for (_, witness) in &mut self.calls {
            if witness.agent.is_some() && witness.hears(Some(agent)) {
                witness.messages_returned += count as u64;
            }
        }
    }
}

/// A call that is told of what ends, until it is over (rule 5).
pub(super) struct Listening<'a, T, O> {
    inner: &'a Inner<T, O>,
    call: Call,
}

impl<T, O> Inner<T, O> {
    /// Begins a call about all tasks, or about one agent that so many tasks are for. The last thing that is done under
    /// the lock, which what it gives out takes as it goes.
    pub(super) fn listen_in(
        &self,
        state: &mut State<T, O>,
        about: Option<(AgentId, usize)>,
    ) -> Listening<'_, T, O> {
        Listening { inner: self, call: state.ledger.witnesses.begin(about) }
    }
}

impl<'a, T, O> Listening<'a, T, O> {
    /// Which call it is. Whoever lets go of it without its end [takes it up](Self::resume) again, once.
    pub(super) const fn call(&self) -> Call {
        self.call
    }

    pub(super) const fn resume(inner: &'a Inner<T, O>, call: Call) -> Self {
        Self { inner, call }
    }

    /// How many tasks for its agent have not ended.
    pub(super) fn tasks_left(&self, state: &State<T, O>) -> usize {
        state.ledger.witnesses.get(self.call).map_or(0, |witness| witness.tasks_left)
    }

    /// Whether it was called off (rule 4).
    pub(super) fn is_called_off(&self, state: &State<T, O>) -> bool {
        state.ledger.witnesses.get(self.call).is_some_and(|witness| witness.called_off.is_some())
    }

    /// Ends it; what it was told.
    pub(super) fn end_in(&self, state: &mut State<T, O>) -> Option<Witness> {
        state.ledger.witnesses.end(self.call)
    }
}

impl<T, O> Drop for Listening<'_, T, O> {
    fn drop(&mut self) {
        drop(self.inner.state.lock().ledger.witnesses.end(self.call));
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::Witnesses;
    use crate::fleet::{AgentId, AgentSpec, Fleet, OutcomeKind, TaskId};

    const AGENT: AgentId = AgentId { slot: 1, generation: 1 };

    #[test]
    fn a_call_about_an_agent_is_told_of_that_one_alone_and_until_it_is_called_off() {
        let mut witnesses = Witnesses::default();
        let all = witnesses.begin(None);
        let [first, second] = [0; 2].map(|tasks| witnesses.begin(Some((AGENT, tasks))));
        let other = AgentId { slot: 2, ..AGENT };
        let ended = |witnesses: &mut Witnesses, id, agent| {
            witnesses.task_accepted(agent);
            witnesses.task_ended(TaskId::new(id), agent, OutcomeKind::Completed)
        };
        assert!(!ended(&mut witnesses, 1, None) && !ended(&mut witnesses, 2, Some(other)));
        assert!(ended(&mut witnesses, 3, Some(AGENT)), "it was the last");
        witnesses.messages_returned(other, 9);
        witnesses.messages_returned(AGENT, 5);
        assert!(!witnesses.call_off(other, 1) && witnesses.call_off(AGENT, 7));
        assert!(!witnesses.call_off(AGENT, 8), "each once");
        let third = witnesses.begin(Some((AGENT, 0)));
        witnesses.messages_returned(AGENT, 2);
        assert!(ended(&mut witnesses, 4, Some(AGENT)));
        let ids = |witnesses: &mut Witnesses, call| {
            let witness = witnesses.end(call).expect("it is not over");
            let ids = witness.ended.iter().map(|(id, _)| id.get()).collect::<Vec<_>>();
            (ids, witness.messages_returned, witness.messages_left())
        };
        assert_eq!(ids(&mut witnesses, all), (vec![1, 2, 3, 4], 0, 0));
        for call in [first, second] {
            assert_eq!(ids(&mut witnesses, call), (vec![3], 5, 7));
        }
        assert_eq!(ids(&mut witnesses, third), (vec![4], 2, 0));
        assert!(witnesses.end(third).is_none());
    }

    #[test]
    fn a_call_whose_wait_unwinds_is_told_of_nothing_any_more() {
        let fleet = Fleet::<(), ()>::builder().driven().build().expect("it is valid");
        let agent = fleet.spawn(AgentSpec::new("any")).expect("there is room");
        let inner = fleet.inner();
        for about in [None, Some((agent, 0))] {
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                let _listening = inner.listen_in(&mut inner.state.lock(), about);
                assert_eq!(inner.state.lock().ledger.witnesses.calls.len(), 1, "it listens");
                panic!("as its wait may");
            }));
            assert!(unwound.is_err());
            assert!(inner.state.lock().ledger.witnesses.calls.is_empty(), "it is over");
        }
    }
}
