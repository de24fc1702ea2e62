//! Attempts that are to say how they come on, and what the fleet does about those that do not.
//!
//! Rules that hold between any two times the state's lock is held:
//!
//! 1. An attempt, or a message, of an agent whose spec says so is in the table from before its handler is called
//!    until that has come back, unless its agent ends first.
//! 2. One in the table whose silence was not told yet has an alarm, no later than that silence has to be noticed:
//!    a checkpoint moves no alarm, and one that rings too soon is set anew. Only a checkpoint after a silence that
//!    was told sets one.
//! 3. Its watchdog has a lock of its own, the last to be taken; nothing is called under it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Supervision, Tenure};
use crate::clock::{Clock, Timestamp};
use crate::fleet::async_context::AsyncContext;
use crate::fleet::id::{AgentId, Attempt, TaskId};
use crate::fleet::inner::{After, Inner, State};
use crate::fleet::log::FleetEvent;
use crate::fleet::supervise::{Stuck, Watchdog};
use crate::fleet::task::TaskContext;
use crate::sync::Mutex;

/// What is done about an attempt that is [stuck](super::super::AgentSpec::stuck_after).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StuckAction {
    /// It is reported, and goes on.
    #[default]
    Report,
    /// It is reported, and in the same step its agent is taken out of service and
    /// [killed](super::super::Fleet::kill): what ran on it, the stuck attempt and others, runs elsewhere.
    Kill,
}

/// When an agent's attempts are stuck, and what follows.
pub(in crate::fleet) type StuckRule = (Duration, StuckAction);

/// What an attempt says of itself, and who hears it.
pub(in crate::fleet) struct Watch {
    agent: AgentId,
    incarnation: u32,
    /// Tells those of one fleet apart.
    number: u64,
    clock: Clock,
    fleet: Weak<dyn Hears>,
    /// `None` if it may be silent for as long as it likes.
    dog: Option<Mutex<Watchdog>>,
}

/// Who hears what attempts say.
pub(in crate::fleet) trait Hears: Send + Sync {
    /// An attempt says that its agent lives.
    fn beat(&self, agent: AgentId, incarnation: u32) -> bool;
    /// An attempt goes on whose silence was told.
    fn resume(&self, agent: AgentId, number: u64);
}

impl Watch {
    fn checkpoint(&self, name: &'static str) {
        let Some(dog) = &self.dog else { return };
        let now = self.clock.now();
        let was_told = {
            let mut dog = dog.lock();
            let was_told = dog.next_check().is_none();
            dog.checkpoint(name, now);
            was_told
        };
        // Rule 2.
        if was_told && let Some(fleet) = self.fleet.upgrade() {
            fleet.resume(self.agent, self.number);
        }
    }

    fn heartbeat(&self) -> bool {
        self.fleet.upgrade().is_some_and(|fleet| fleet.beat(self.agent, self.incarnation))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("agent", &self.agent)
            .field("number", &self.number)
            .field("dog", &self.dog)
            .finish_non_exhaustive()
    }
}

impl TaskContext<'_> {
    /// Says that this attempt comes on, and where it is: for an agent whose attempts may be
    /// [stuck](super::super::AgentSpec::stuck_after). For others it does nothing, at no cost.
    ///
    /// It reads the clock and takes one short lock of the attempt's own; the first after a silence that was
    /// reported takes that of the tasks too.
    pub fn checkpoint(&self, name: &'static str) {
        if let Some(watch) = self.watch {
            watch.checkpoint(name);
        }
    }

    /// Says that this agent lives, as [`Fleet::heartbeat`](super::super::Fleet::heartbeat) does. Whether it counts: not if
    /// the agent has failed meanwhile or has no [heartbeat](super::super::AgentSpec::heartbeat).
    pub fn heartbeat(&self) -> bool {
        self.watch.is_some_and(Watch::heartbeat)
    }
}

impl AsyncContext {
    /// As [`TaskContext::checkpoint`](super::super::TaskContext::checkpoint).
    pub fn checkpoint(&self, name: &'static str) {
        if let Some(watch) = &self.watch {
            watch.checkpoint(name);
        }
    }

    /// As [`TaskContext::heartbeat`](super::super::TaskContext::heartbeat).
    #[expect(clippy::must_use_candidate, reason = "most handlers do not care")]
    pub fn heartbeat(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.heartbeat())
    }
}

/// The attempts that may be stuck (rule 1).
#[derive(Debug, Default)]
pub(super) struct Watches {
    table: BTreeMap<(AgentId, u64), Watched>,
    alarms: BTreeSet<(Timestamp, AgentId, u64)>,
    last: u64,
}

#[derive(Debug)]
struct Watched {
    watch: Arc<Watch>,
    action: StuckAction,
    /// Rule 2.
    alarm: Option<Timestamp>,
}

impl Watched {
    /// Whether it is stuck, if that was not told yet; and when to look again.
    fn check(&self, now: Timestamp) -> (Option<Stuck>, Option<Timestamp>) {
        let Some(dog) = &self.watch.dog else { return (None, None) };
        let mut dog = dog.lock();
        (dog.check(now), dog.next_check())
    }
}

impl Watches {
    pub(super) fn first_alarm(&self) -> Option<Timestamp> {
        self.alarms.first().map(|(at, ..)| *at)
    }

    /// Sets an alarm in place of the one before.
    fn set(&mut self, (agent, number): (AgentId, u64), alarm: Option<Timestamp>) {
        let Some(watched) = self.table.get_mut(&(agent, number)) else { return };
        if let Some(before) = std::mem::replace(&mut watched.alarm, alarm) {
            self.alarms.remove(&(before, agent, number));
        }
        self.alarms.extend(alarm.map(|at| (at, agent, number)));
    }

    fn remove(&mut self, (agent, number): (AgentId, u64)) {
        self.set((agent, number), None);
        self.table.remove(&(agent, number));
    }

    /// Lets go of those of an agent that ends.
    pub(super) fn dismiss(&mut self, agent: AgentId) {
        while let Some((key, _)) = self.table.range((agent, 0)..=(agent, u64::MAX)).next() {
            let key = *key;
            self.remove(key);
        }
    }

    /// The next that is stuck by now.
    fn next_stuck(&mut self, now: Timestamp) -> Option<(AgentId, Stuck, StuckAction)> {
        while let Some(&(at, agent, number)) = self.alarms.first()
            && at <= now
        {
            let watched = self.table.get(&(agent, number)).expect("rule 2");
            let ((stuck, alarm), action) = (watched.check(now), watched.action);
            self.set((agent, number), alarm);
            if let Some(stuck) = stuck {
                return Some((agent, stuck, action));
            }
        }
        None
    }
}

impl Supervision {
    /// Begins to watch an attempt; `None` if its agent has ended.
    fn begin_watch(
        &mut self,
        agent: AgentId,
        incarnation: u32,
        (task, attempt): (Option<TaskId>, Attempt),
        (clock, fleet): (&Clock, &Weak<dyn Hears>),
    ) -> Option<Arc<Watch>> {
        let rule = self.wards.get(&agent)?.stuck;
        let mut watch = Watch {
            agent,
            incarnation,
            number: 0,
            clock: clock.clone(),
            fleet: Weak::clone(fleet),
            dog: None,
        };
        let Some((after, action)) = rule else { return Some(Arc::new(watch)) };
        self.watches.last += 1;
        let dog = Watchdog::new(task, attempt, after, clock.now());
        let alarm = dog.next_check();
        (watch.number, watch.dog) = (self.watches.last, Some(Mutex::new(dog)));
        let (key, watch) = ((agent, watch.number), Arc::new(watch));
        let watched = Watched { watch: Arc::clone(&watch), action, alarm: None };
        self.watches.table.insert(key, watched);
        self.watches.set(key, alarm);
        Some(watch)
    }
}

impl<T, O> Inner<T, O> {
    /// Begins to watch an attempt, if its agent's are watched; to be [ended](Self::unwatch).
    #[inline]
    pub(in crate::fleet) fn watch(
        &self,
        agent: AgentId,
        tenure: Tenure,
        task: Option<TaskId>,
        attempt: Attempt,
    ) -> Option<Arc<Watch>> {
        if tenure.watched { self.begin_watch(agent, tenure, task, attempt) } else { None }
    }

    #[cold]
    fn begin_watch(
        &self,
        agent: AgentId,
        tenure: Tenure,
        task: Option<TaskId>,
        attempt: Attempt,
    ) -> Option<Arc<Watch>> {
        let mut state = self.state.lock();
        let fleet = (&self.clock, &self.hears);
        let of = (task, attempt);
        let watch = state.supervision.begin_watch(agent, tenure.incarnation, of, fleet)?;
        self.publish_alarm(&mut state);
        Some(watch)
    }

    /// The handler of an attempt has come back.
    #[inline]
    pub(in crate::fleet) fn unwatch(&self, watch: Option<Arc<Watch>>) {
        if let Some(watch) = watch {
            self.end_watch(&watch);
        }
    }

    #[cold]
    fn end_watch(&self, watch: &Watch) {
        if watch.dog.is_some() {
            let mut state = self.state.lock();
            state.supervision.watches.remove((watch.agent, watch.number));
            self.publish_alarm(&mut state);
        }
    }

    /// Notices attempts that are stuck.
    pub(super) fn ring_watches(
        &self,
        state: &mut State<T, O>,
        now: Timestamp,
        after: &mut After<T, O>,
    ) {
        while let Some((agent, stuck, action)) = state.supervision.watches.next_stuck(now) {
            state.counts.attempts_stuck += 1;
            after.events.push(FleetEvent::AttemptStuck { agent, stuck: Box::new(stuck) });
            if action == StuckAction::Kill {
                let ended = self.end_in_step(state, agent, true, after);
                debug_assert!(ended.is_some(), "those of agents that have ended are not watched");
            }
        }
    }
}

impl<T: Send + Sync, O: Send + Sync> Hears for Inner<T, O> {
    fn beat(&self, agent: AgentId, incarnation: u32) -> bool {
        let mut after = After::new();
        let counts = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let known = state.supervision.known(agent);
            let is_own = known == Some(incarnation);
            let counts = is_own && self.heard_of(state, agent, &mut after) == Some(true);
            // It may have been on trial, and be silent for too long.
            self.try_circuits(state, None, &mut after);
            self.publish_alarm(state);
            counts
        };
        self.finish(after);
        counts
    }

    fn resume(&self, agent: AgentId, number: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let watches = &mut state.supervision.watches;
        let Some(watched) = watches.table.get(&(agent, number)) else { return };
        let next = watched.watch.dog.as_ref().and_then(|dog| dog.lock().next_check());
        watches.set((agent, number), next);
        self.publish_alarm(state);
    }
}
