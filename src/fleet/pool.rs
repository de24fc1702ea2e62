//! The agents' table and its index: who lives, what each holds, who is taken next, who waits.
//!
//! It is plain data under the fleet's one lock; nothing here blocks, wakes or calls user code. Rules
//! that hold between any two calls:
//!
//! 1. An agent is in its class's `available` set exactly if its load is below its limit, under the
//!    key (load, priority, stamp) that it has now. So who is taken is exact: the least load, then the
//!    highest priority, then the one whose load changed longest ago.
//! 2. A class exists exactly if a live agent has its set of capabilities.
//! 3. No request waits that an available agent fits: a place that comes free is granted at once, to
//!    the most urgent request that it fits.
//! 4. No request waits that no live agent fits.
//! 5. The generation of a slot goes up when its agent is removed, so a lease of a removed agent
//!    matches no slot and cannot be given back twice.
//! 6. The sum of the loads is the number of live leases, grants not yet collected included.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::task::Waker;

use super::agent::{AgentId, AgentState, AgentStatus};
use super::lanes::{Lanes, Mask, Place};
use super::request::{AllocateError, Priority, Request};
use crate::{Error, ErrorKind};

/// How many different capability names the agents of one fleet may have in its lifetime.
pub const MAX_CAPABILITIES: usize = 127;

/// The capability of running tasks, which every agent with a handler has.
pub(super) const RUNS_TASKS: Mask = 1;

/// What the pool knows of an agent.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: Arc<str>,
    pub(super) mask: Mask,
    pub(super) priority: Priority,
    pub(super) limit: u32,
    load: u32,
    stamp: u64,
    /// Whether its mailbox waits for room.
    wanted: bool,
}

impl Member {
    pub(super) const fn new(name: Arc<str>, mask: Mask, priority: Priority, limit: u32) -> Self {
        Self { name, mask, priority, limit, load: 0, stamp: 0, wanted: false }
    }

    pub(super) const fn load(&self) -> u32 {
        self.load
    }

    const fn key(&self, slot: u32) -> Key {
        Key { load: self.load, rank: Reverse(self.priority), stamp: self.stamp, slot }
    }
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    member: Option<Member>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    load: u32,
    rank: Reverse<Priority>,
    stamp: u64,
    slot: u32,
}

/// The agents with one set of capabilities.
#[derive(Debug, Default)]
struct Class {
    available: BTreeSet<Key>,
    live: usize,
}

/// A lease as the pool hands it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) agent: AgentId,
    pub(super) lease: u64,
}

/// A waiting request's claim to its place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    mask: Mask,
    place: Place,
}

#[derive(Debug)]
struct Answer {
    ticket: Ticket,
    result: Result<Grant, AllocateError>,
}

/// The holder of a lease was too late: its agent is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// See the file's head.
#[derive(Debug)]
pub(super) struct Pool {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    live: usize,
    classes: BTreeMap<Mask, Class>,
    capabilities: HashMap<Arc<str>, u32>,
    waiting: Lanes<Option<Waker>>,
    answers: HashMap<u64, Answer>,
    stamp: u64,
    tickets: u64,
    leases: u64,
    held: u64,
    max_agents: usize,
    max_waiting: usize,
    closed: bool,
    /// Agents that somebody [wanted](Pool::take_agent) and that have room now.
    pub(super) freed: Vec<AgentId>,
}

impl Pool {
    pub(super) fn new(max_agents: NonZeroUsize, max_waiting: NonZeroUsize) -> Self {
        Self {
            slots: Vec::new(),
            vacant: Vec::new(),
            live: 0,
            classes: BTreeMap::new(),
            capabilities: HashMap::new(),
            waiting: Lanes::new(),
            answers: HashMap::new(),
            stamp: 0,
            tickets: 0,
            leases: 0,
            held: 0,
            max_agents: max_agents.get(),
            max_waiting: max_waiting.get(),
            closed: false,
            freed: Vec::new(),
        }
    }

    pub(super) const fn live(&self) -> usize {
        self.live
    }

    pub(super) const fn leases_granted(&self) -> u64 {
        self.leases
    }

    pub(super) const fn leases_held(&self) -> u64 {
        self.held
    }

    pub(super) const fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The mask of a spec's capabilities; new names get a bit.
    pub(super) fn intern(&mut self, names: &[Arc<str>]) -> Result<Mask, Error> {
        let fresh = names.iter().filter(|name| !self.capabilities.contains_key(*name)).count();
        if self.capabilities.len() + fresh > MAX_CAPABILITIES {
            return Err(Error::new(
                ErrorKind::LimitReached,
                format!(
                    "a fleet knows at most {MAX_CAPABILITIES} capability names, and this needs {}",
                    self.capabilities.len() + fresh
                ),
            ));
        }
        let mut mask = 0;
        for name in names {
            // Bit 0 is RUNS_TASKS.
            let next = u32::try_from(self.capabilities.len() + 1).expect("at most 127 names");
            mask |= 1 << *self.capabilities.entry(Arc::clone(name)).or_insert(next);
        }
        Ok(mask)
    }

    /// The mask that a request asks for; `None` if no agent ever had one of the names.
    pub(super) fn mask_of(&self, request: &Request) -> Option<Mask> {
        let names = request.names().iter();
        names
            .map(|name| self.capabilities.get(name).map(|bit| 1 << bit))
            .try_fold(0, |all, bit| bit.map(|bit: Mask| all | bit))
    }

    /// Whether a live agent, idle or not, fits.
    pub(super) fn could_serve(&self, mask: Mask) -> bool {
        self.classes.keys().any(|have| have & mask == mask)
    }

    /// Whether an agent that fits can be taken now.
    pub(super) fn can_serve(&self, mask: Mask) -> bool {
        self.fitting(mask).any(|class| !class.available.is_empty())
    }

    fn fitting(&self, mask: Mask) -> impl Iterator<Item = &Class> {
        self.classes.iter().filter(move |(have, _)| *have & mask == mask).map(|(_, class)| class)
    }

    /// Whether so many more agents may join.
    pub(super) fn check_room(&self, count: usize) -> Result<(), Error> {
        if self.live.saturating_add(count) > self.max_agents {
            return Err(Error::new(
                ErrorKind::LimitReached,
                format!(
                    "the fleet may have {} agents and has {}: no room for {count} more",
                    self.max_agents, self.live
                ),
            ));
        }
        Ok(())
    }

    /// Adds an agent, for which [`Pool::check_room`] found room, and grants it to those who wait.
    pub(super) fn insert(&mut self, member: Member, wakes: &mut Vec<Waker>) -> AgentId {
        let class = self.classes.entry(member.mask).or_default();
        class.live += 1;
        self.live += 1;
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, member: None });
            u32::try_from(self.slots.len() - 1).expect("max_agents fits in 32 bits")
        });
        self.slots[slot as usize].member = Some(member);
        self.make_available(slot);
        self.offer(slot, wakes);
        AgentId { slot, generation: self.slots[slot as usize].generation }
    }

    /// Takes an agent out of the table: it is not allocated any more, and its leases are void.
    pub(super) fn remove(&mut self, agent: AgentId, wakes: &mut Vec<Waker>) -> Option<Member> {
        self.get(agent)?;
        let slot = &mut self.slots[agent.slot as usize];
        let mut member = slot.member.take()?;
        // A slot whose generations are used up is never filled again: an old id stays dead for good.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.vacant.push(agent.slot);
        }
        self.live -= 1;
        let class = self.classes.get_mut(&member.mask).expect("rule 2");
        class.available.remove(&member.key(agent.slot));
        class.live -= 1;
        if class.live == 0 {
            self.classes.remove(&member.mask);
        }
        self.held -= u64::from(member.load);
        // A grant that nobody has noticed yet is not a lease that somebody loses.
        member.load -= self.withdraw_grants(agent, wakes);
        self.refuse_hopeless(wakes);
        Some(member)
    }

    /// Puts requests that were granted this agent, and do not know it yet, back to their places.
    fn withdraw_grants(&mut self, agent: AgentId, wakes: &mut Vec<Waker>) -> u32 {
        let void = |answer: &&Answer| answer.result.is_ok_and(|grant| grant.agent == agent);
        let mut tickets: Vec<_> =
            self.answers.values().filter(void).map(|answer| answer.ticket).collect();
        // The most urgent chooses again first.
        tickets.sort_unstable_by_key(|ticket| ticket.place);
        let withdrawn = u32::try_from(tickets.len()).expect("no more than the agent's load");
        for ticket in tickets {
            self.answers.remove(&ticket.place.sequence);
            match self.take(ticket.mask) {
                // The waiter was woken for the first grant and has not looked yet.
                Some(grant) => self.answer(ticket, Ok(grant), None, wakes),
                None if self.closed => {
                    self.answer(ticket, Err(AllocateError::Closed), None, wakes);
                }
                None => self.waiting.insert(ticket.mask, ticket.place, None),
            }
        }
        withdrawn
    }

    /// Keeps rule 4 after an agent went.
    fn refuse_hopeless(&mut self, wakes: &mut Vec<Waker>) {
        let classes = &self.classes;
        let hopeless = self.waiting.take(|mask| !classes.keys().any(|have| have & mask == mask));
        for (mask, place, waker) in hopeless {
            let ticket = Ticket { mask, place };
            self.answer(ticket, Err(AllocateError::NoSuchCapability), waker, wakes);
        }
    }

    fn answer(
        &mut self,
        ticket: Ticket,
        result: Result<Grant, AllocateError>,
        waker: Option<Waker>,
        wakes: &mut Vec<Waker>,
    ) {
        self.answers.insert(ticket.place.sequence, Answer { ticket, result });
        wakes.extend(waker);
    }

    pub(super) fn get(&self, agent: AgentId) -> Option<&Member> {
        let slot = self.slots.get(agent.slot as usize)?;
        if slot.generation == agent.generation { slot.member.as_ref() } else { None }
    }

    pub(super) fn status(&self, agent: AgentId) -> Option<AgentStatus> {
        self.get(agent).map(|member| AgentStatus {
            id: agent,
            name: Arc::clone(&member.name),
            state: if member.load == 0 { AgentState::Ready } else { AgentState::Busy },
            load: member.load,
            max_leases: member.limit,
            priority: member.priority,
            has_handler: member.mask & RUNS_TASKS != 0,
        })
    }

    /// The live agents, by slot.
    pub(super) fn ids(&self) -> impl Iterator<Item = AgentId> {
        (0_u32..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.member.is_some())
            .map(|(index, slot)| AgentId { slot: index, generation: slot.generation })
    }

    /// Takes the best agent that fits (rule 1). O(classes + log agents).
    pub(super) fn take(&mut self, mask: Mask) -> Option<Grant> {
        let best = *self.fitting(mask).filter_map(|class| class.available.first()).min()?;
        Some(self.lease(best.slot))
    }

    fn lease(&mut self, slot: u32) -> Grant {
        self.change_load(slot, |load| load + 1);
        let lease = self.leases;
        self.leases += 1;
        self.held += 1;
        Grant { agent: AgentId { slot, generation: self.slots[slot as usize].generation }, lease }
    }

    /// Gives a lease back, and grants the place to whoever waits for it.
    pub(super) fn release(&mut self, agent: AgentId, wakes: &mut Vec<Waker>) -> Result<(), Gone> {
        // The recheck under the lock: a kill that came first made the lease void (rule 5).
        if self.get(agent).is_none() && !broken("fleet.release-unchecked") {
            return Err(Gone);
        }
        self.change_load(agent.slot, |load| load - 1);
        self.held -= 1;
        self.offer(agent.slot, wakes);
        let member = self.slots[agent.slot as usize].member.as_mut();
        if let Some(member) = member
            && member.wanted
            && member.load < member.limit
        {
            member.wanted = false;
            self.freed.push(agent);
        }
        Ok(())
    }

    /// Takes this agent. If it has no room, it is among those `freed` once it has.
    pub(super) fn take_agent(&mut self, agent: AgentId) -> Option<Grant> {
        self.get(agent)?;
        let member = self.slots[agent.slot as usize].member.as_mut()?;
        if member.load < member.limit {
            return Some(self.lease(agent.slot));
        }
        member.wanted = true;
        None
    }

    fn change_load(&mut self, slot: u32, change: impl FnOnce(u32) -> u32) {
        let member = self.slots[slot as usize].member.as_mut().expect("the caller found it alive");
        let class = self.classes.get_mut(&member.mask).expect("rule 2");
        class.available.remove(&member.key(slot));
        member.load = change(member.load);
        self.make_available(slot);
    }

    /// Keeps rule 1 for an agent that is not in the set.
    fn make_available(&mut self, slot: u32) {
        let member = self.slots[slot as usize].member.as_mut().expect("the caller found it alive");
        member.stamp = self.stamp;
        self.stamp += 1;
        if member.load < member.limit {
            let class = self.classes.get_mut(&member.mask).expect("rule 2");
            class.available.insert(member.key(slot));
        }
    }

    /// Keeps rule 3 for an agent that has places free.
    fn offer(&mut self, slot: u32, wakes: &mut Vec<Waker>) {
        while self.waiting.len() > 0 {
            let Some(member) = &self.slots[slot as usize].member else { return };
            if member.load >= member.limit {
                return;
            }
            let have = member.mask;
            let Some((mask, place)) = self.waiting.first(|mask| have & mask == mask) else {
                return;
            };
            let waker = self.waiting.remove(mask, place).expect("it was just found");
            let grant = self.lease(slot);
            self.answer(Ticket { mask, place }, Ok(grant), waker, wakes);
        }
    }

    /// Takes an agent, or says why there is none.
    pub(super) fn try_allocate(&mut self, request: &Request) -> Result<Grant, AllocateError> {
        let mask = self.check(request)?;
        self.take(mask).ok_or(AllocateError::NoneIdle)
    }

    fn check(&self, request: &Request) -> Result<Mask, AllocateError> {
        if self.closed {
            return Err(AllocateError::Closed);
        }
        let mask = self.mask_of(request).ok_or(AllocateError::NoSuchCapability)?;
        if self.could_serve(mask) { Ok(mask) } else { Err(AllocateError::NoSuchCapability) }
    }

    /// Takes an agent, or queues the request. A grant comes as an answer to the ticket. The waker is
    /// taken if it is needed; otherwise the caller drops it outside the lock.
    pub(super) fn allocate_or_wait(
        &mut self,
        request: &Request,
        waker: &mut Option<Waker>,
    ) -> Result<Result<Grant, Ticket>, AllocateError> {
        let mask = self.check(request)?;
        if let Some(grant) = self.take(mask) {
            return Ok(Ok(grant));
        }
        // Answers count too: a grant that is withdrawn puts its request back among those who wait.
        if self.waiting.len() + self.answers.len() >= self.max_waiting {
            return Err(AllocateError::TooManyWaiting);
        }
        let place = Place::new(request.urgency(), self.tickets);
        self.tickets += 1;
        self.waiting.insert(mask, place, waker.take());
        Ok(Err(Ticket { mask, place }))
    }

    /// The answer to a ticket, if it has come; otherwise `waker` is who is told. The waker that is
    /// not needed any more comes back, to be dropped outside the lock.
    pub(super) fn collect(
        &mut self,
        ticket: Ticket,
        waker: Waker,
    ) -> (Option<Result<Grant, AllocateError>>, Option<Waker>) {
        if let Some(answer) = self.answers.remove(&ticket.place.sequence) {
            return (Some(answer.result), Some(waker));
        }
        match self.waiting.get_mut(ticket.mask, ticket.place) {
            Some(known) => (None, known.replace(waker)),
            None => (Some(Err(AllocateError::Closed)), Some(waker)),
        }
    }

    /// Gives up a ticket. What was granted to it meanwhile is passed on.
    pub(super) fn give_up(&mut self, ticket: Ticket, wakes: &mut Vec<Waker>) -> Option<Waker> {
        if let Some(waker) = self.waiting.remove(ticket.mask, ticket.place) {
            return waker;
        }
        if let Some(Answer { result: Ok(grant), .. }) = self.answers.remove(&ticket.place.sequence)
            && !broken("fleet.grant-not-passed-on")
        {
            // A grant to a waiter is void once its agent is gone, and then it was withdrawn.
            self.release(grant.agent, wakes).expect("grants of removed agents were withdrawn");
        }
        None
    }

    /// Refuses everybody who waits, now and later.
    pub(super) fn close(&mut self, wakes: &mut Vec<Waker>) {
        self.closed = true;
        for (mask, place, waker) in self.waiting.take(|_| true) {
            self.answer(Ticket { mask, place }, Err(AllocateError::Closed), waker, wakes);
        }
    }
}

/// Switches a rule off for the twin of a loom test, which must fail without it.
#[cfg(not(phalanx_loom))]
#[inline(always)]
pub(super) const fn broken(_rule: &'static str) -> bool {
    false
}

#[cfg(phalanx_loom)]
pub(super) fn broken(rule: &'static str) -> bool {
    use crate::sync::{atomic::Ordering, site};
    // A weakened site answers Relaxed for whatever ordering it is asked.
    site(rule, Ordering::SeqCst) == Ordering::Relaxed
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;
