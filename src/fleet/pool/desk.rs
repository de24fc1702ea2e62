//! What allocations seldom need: names, sorts of agents, how many live where, who waits.
//!
//! It is plain data under a lock of its own, which is taken before that of a shard. Rules that hold
//! between any two times the lock is held:
//!
//! 1. `sets` counts the live agents by their capabilities, and the places of those that a batch may gather for; `spread`
//!    counts them by their shard, `kinds` by their sort. `expected` counts who promises agents, by their capabilities and
//!    by how many leases each may hold.
//! 2. No request waits that an agent with room fits and that can be paid for, unless it is owed that they are
//!    served; none waits that no agent fits that lives or is expected. The same of batches that gather, agents on trial
//!    apart, unless a plan of them is due. No batch waits that asks for more places than there are where none are expected,
//!    or than there could be if all agents that the fleet may have were of the most capable sort that lives or is expected.
//! 3. An answer that grants a lease names a live agent, and so does what a batch was granted.
//! 4. Who waits for the best fraction of several names, some of which nobody had when it began to, is a learner until
//!    it has looked at its answer or gives up. It waits under the mask of the names that are known now, which its own ticket may
//!    not know.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;

use super::batches::Batches;
use super::shard::Shard;
use super::slot::Slot;
use super::waiting::{Answer, Place, Ticket, Waiting};
use super::{Ask, Granted, MAX_CAPABILITIES, MAX_CAPABILITY_SETS};
use crate::fleet::agent::Resources;
use crate::fleet::backlog::Backlog;
use crate::fleet::id::AgentId;
use crate::fleet::lanes::Mask;
use crate::fleet::request::{AllocateError, Fit};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::left_out;
use crate::{Error, ErrorKind};

/// What agents of one sort have in common beside what their rows hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::fleet) struct Kind {
    pub(in crate::fleet) name: Arc<str>,
    pub(in crate::fleet) labels: Arc<[(Arc<str>, Arc<str>)]>,
    pub(in crate::fleet) resources: Resources,
    /// How many leases one may hold.
    pub(in crate::fleet) limit: u16,
}

/// What the desk is to know of an agent that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaver {
    pub(super) kind: u32,
    pub(super) mask: Mask,
    /// Whether a batch could gather for its places.
    pub(super) counted_on: bool,
}

/// The live agents with one set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Set {
    agents: usize,
    /// How many leases they may hold together.
    places: usize,
    /// Those of them that a batch may gather for.
    counted_on: usize,
}

/// What agents are promised to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::fleet) struct Promise {
    pub(super) mask: Mask,
    /// How many leases one may hold.
    pub(super) limit: u16,
}

/// One that waits and does not know all names that it asks for (rule 4).
#[derive(Debug)]
struct Learner {
    ticket: Ticket,
    names: Vec<Arc<str>>,
}

#[derive(Debug)]
struct KindEntry {
    kind: Arc<Kind>,
    live: usize,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Desk {
    pub(super) closed: bool,
    pub(super) live: usize,
    names: HashMap<Arc<str>, u32>,
    sets: HashMap<Mask, Set>,
    /// How many make one promise.
    expected: HashMap<Promise, usize>,
    max_agents: usize,
    kinds: Vec<KindEntry>,
    kind_of: HashMap<Arc<Kind>, u32>,
    vacant_kinds: Vec<u32>,
    spread: Vec<usize>,
    pub(super) waiting: Waiting,
    pub(super) batches: Batches,
    pub(super) answers: HashMap<u64, Answer>,
    /// Requests and batches that wait for the best fraction of names of which nobody knew some, by sequence.
    learners: HashMap<u64, Learner>,
    pub(super) tickets: u64,
    /// When it is told that requests wait.
    backlog: Backlog,
    /// Who waits for an agent to hold no lease any more.
    pub(super) idlers: Vec<(u64, AgentId, Waker)>,
}

impl Desk {
    pub(super) fn new(shards: usize, max_agents: usize) -> Self {
        Self { spread: vec![0; shards], max_agents, ..Self::default() }
    }

    /// The mask of an agent's capabilities, and how many names of it are new.
    fn check_names(&self, names: &[Arc<str>]) -> Result<(), Error> {
        let fresh = names.iter().filter(|name| !self.names.contains_key(*name)).count();
        if self.names.len() + fresh > MAX_CAPABILITIES {
            return Err(Error::new(
                ErrorKind::LimitReached,
                format!(
                    "a fleet knows at most {MAX_CAPABILITIES} capability names, and this needs {}",
                    self.names.len() + fresh
                ),
            ));
        }
        Ok(())
    }

    /// The mask of a spec's capabilities, to which come those of `base`; new names get a bit. It changes
    /// nothing if it fails, which it does too if so many more agents may not join.
    pub(super) fn intern(
        &mut self,
        names: &[Arc<str>],
        base: Mask,
        count: usize,
        max_agents: usize,
    ) -> Result<Mask, Error> {
        self.check_names(names)?;
        let (known, complete) = self.mask_of(names);
        self.check_room(count, max_agents, complete.then_some(known | base))?;
        let (mut mask, before) = (base, self.names.len());
        for name in names {
            // Bit 0 is RUNS_TASKS.
            let next = u32::try_from(self.names.len() + 1).expect("at most 127 names");
            mask |= 1 << *self.names.entry(Arc::clone(name)).or_insert(next);
        }
        if self.names.len() > before && !self.learners.is_empty() {
            self.learn();
        }
        Ok(mask)
    }

    /// Has one that is about to wait learn the names of its request that are new to it, and those that nobody knows yet
    /// as agents bring them (rule 4).
    pub(super) fn learn_later(&mut self, ticket: &mut Ticket, names: &[Arc<str>]) {
        if ticket.ask.fit != Fit::BestFraction || names.is_empty() {
            return;
        }
        let (mask, complete) = self.mask_of(names);
        ticket.ask.mask = mask;
        if !complete {
            let learner = Learner { ticket: *ticket, names: names.to_vec() };
            self.learners.insert(ticket.place.sequence, learner);
        }
    }

    /// Has those who wait know the names that have just been brought.
    fn learn(&mut self) {
        let mut learners = std::mem::take(&mut self.learners);
        for learner in learners.values_mut() {
            let known = learner.ticket;
            let (mask, _) = self.mask_of(&learner.names);
            let ticket = Ticket { ask: Ask { mask, ..known.ask }, ..known };
            if mask == known.ask.mask {
                continue;
            }
            if let Some(waker) = self.waiting.remove(&known) {
                self.waiting.insert(ticket, waker);
                learner.ticket = ticket;
            } else if let Some(batch) = self.batches.get_mut(known.place) {
                batch.ask.mask = mask;
                learner.ticket = ticket;
            } else if let Some(answer) = self.answers.get_mut(&known.place.sequence) {
                // It waits again if the agent that it was granted goes before it has looked.
                answer.ticket = ticket;
                learner.ticket = ticket;
            }
        }
        self.learners = learners;
    }

    /// A ticket as it waits now.
    pub(super) fn as_known(&self, ticket: &Ticket) -> Ticket {
        self.learners.get(&ticket.place.sequence).map_or(*ticket, |learner| learner.ticket)
    }

    /// One that has looked at its answer, or has given up, learns no more.
    pub(super) fn forget_learner(&mut self, place: Place) {
        self.learners.remove(&place.sequence);
    }

    /// The mask that a request asks for, and whether all its names are known.
    pub(super) fn mask_of(&self, names: &[Arc<str>]) -> (Mask, bool) {
        let known = names.iter().filter_map(|name| self.names.get(name));
        let mask: Mask = known.fold(0, |all, bit| all | 1 << *bit);
        (mask, mask.count_ones() as usize == names.len())
    }

    /// Whether so many more agents with this set, or with one that is new, may join.
    fn check_room(&self, count: usize, max_agents: usize, mask: Option<Mask>) -> Result<(), Error> {
        if self.live.saturating_add(count) > max_agents {
            return Err(Error::new(
                ErrorKind::LimitReached,
                format!(
                    "the fleet may have {max_agents} agents and has {}: no room for {count} more",
                    self.live
                ),
            ));
        }
        let is_new = mask.is_none_or(|mask| !self.sets.contains_key(&mask));
        if is_new && self.sets.len() >= MAX_CAPABILITY_SETS {
            return Err(Error::new(
                ErrorKind::LimitReached,
                format!(
                    "the live agents have {MAX_CAPABILITY_SETS} different sets of capabilities"
                ),
            ));
        }
        Ok(())
    }

    /// Counts agents that join, and says how many go to each shard: where the fewest are.
    pub(super) fn enter(
        &mut self,
        kind: Kind,
        mask: Mask,
        count: usize,
        counted_on: bool,
    ) -> (u32, Vec<usize>) {
        self.live += count;
        self.batches.agents_come();
        let set = self.sets.entry(mask).or_default();
        set.agents += count;
        let places = count * usize::from(kind.limit);
        set.places += places;
        set.counted_on += if counted_on { places } else { 0 };
        let kind = self.enter_kind(kind, count);
        let shares = deal(&self.spread, count);
        for (live, share) in self.spread.iter_mut().zip(&shares) {
            *live += share;
        }
        (kind, shares)
    }

    fn enter_kind(&mut self, kind: Kind, count: usize) -> u32 {
        if let Some(&known) = self.kind_of.get(&kind) {
            self.kinds[known as usize].live += count;
            return known;
        }
        let kind = Arc::new(kind);
        let entry = KindEntry { kind: Arc::clone(&kind), live: count };
        let place = match self.vacant_kinds.pop() {
            Some(place) => {
                self.kinds[place as usize] = entry;
                place
            }
            None => {
                self.kinds.push(entry);
                u32::try_from(self.kinds.len() - 1).expect("no more sorts than agents")
            }
        };
        self.kind_of.insert(kind, place);
        place
    }

    /// Counts agents of one sort that went, for those without the desk's lock too.
    pub(super) fn leave(&mut self, leaver: Leaver, shard: usize, count: usize, left: &AtomicU64) {
        let Leaver { kind, mask, counted_on } = leaver;
        if !left_out("desk.count-who-leaves") {
            // Relaxed: see `Pool::left`.
            left.fetch_add(count as u64, Ordering::Relaxed);
        }
        self.live -= count;
        self.spread[shard] -= count;
        let set = self.sets.get_mut(&mask).expect("rule 1");
        let entry = &mut self.kinds[kind as usize];
        set.agents -= count;
        let places = usize::from(entry.kind.limit) * count;
        set.places -= places;
        set.counted_on -= if counted_on { places } else { 0 };
        if set.agents == 0 {
            self.sets.remove(&mask);
        }
        entry.live -= count;
        if entry.live == 0 {
            self.kind_of.remove(&entry.kind);
            self.vacant_kinds.push(kind);
        }
    }

    /// Counts what became of an agent that was counted on or was not (rule 1): who gathers may be others now.
    pub(super) fn recount(&mut self, shard: &Shard, local: u32, was_counted_on: bool) {
        let slot = shard.slot(local);
        let is_counted_on = slot.standing.is_counted_on();
        if is_counted_on == was_counted_on {
            return;
        }
        let places = usize::from(self.kind(slot.kind).limit);
        let set = self.sets.get_mut(&shard.mask(local)).expect("rule 1");
        if is_counted_on {
            set.counted_on += places;
            self.batches.agents_come();
        } else {
            set.counted_on -= places;
            self.batches.agents_fail();
        }
    }

    /// How many places of an agent a batch may gather.
    pub(super) fn places_counted_on(&self, slot: &Slot) -> usize {
        let is_counted_on = slot.standing.is_counted_on();
        if is_counted_on { usize::from(self.kind(slot.kind).limit) } else { 0 }
    }

    pub(super) fn kind(&self, kind: u32) -> &Arc<Kind> {
        &self.kinds[kind as usize].kind
    }

    /// Whether a single live agent has this set of capabilities, and none is expected that can do as much.
    pub(super) fn is_last_of(&self, mask: Mask) -> bool {
        self.sets.get(&mask).is_some_and(|set| set.agents == 1)
            && !self.expected.keys().any(|promise| promise.mask & mask == mask)
    }

    /// Whether something can be done by one agent that has these capabilities alone, of all that live or are expected.
    pub(super) fn is_alone(&self, have: Mask, can: impl Fn(Mask) -> bool) -> bool {
        let others = self.sets.iter().filter(|(mask, set)| **mask != have || set.agents > 1);
        let promised = self.expected.keys().map(|promise| promise.mask);
        can(have) && !others.map(|(mask, _)| *mask).chain(promised).any(can)
    }

    /// Counts one who promises agents with these capabilities beside those of `base`, with so many leases each. It
    /// changes nothing if it fails.
    pub(super) fn expect(
        &mut self,
        names: &[Arc<str>],
        base: Mask,
        limit: u16,
    ) -> Result<Promise, Error> {
        let (known, complete) = self.mask_of(names);
        let is_known =
            complete && self.expected.contains_key(&Promise { mask: known | base, limit });
        if self.expected.len() >= MAX_CAPABILITY_SETS && !is_known {
            return Err(Error::new(
                ErrorKind::LimitReached,
                format!("agents of {MAX_CAPABILITY_SETS} different sorts are expected"),
            ));
        }
        let promise = Promise { mask: self.intern(names, base, 0, self.max_agents)?, limit };
        *self.expected.entry(promise).or_default() += 1;
        Ok(promise)
    }

    /// Counts one less; whether nobody promises such agents any more.
    pub(super) fn expect_no_more(&mut self, promise: Promise) -> bool {
        let promises = self.expected.get_mut(&promise).expect("rule 1");
        *promises -= 1;
        let none = *promises == 0;
        if none {
            self.expected.remove(&promise);
        }
        none
    }

    /// Whether a live agent, with room or not, fits.
    pub(super) fn could_serve(&self, ask: &Ask) -> bool {
        self.sets.keys().any(|have| ask.misfit(*have).is_some())
    }

    /// Whether an agent that is expected fits.
    pub(super) fn is_expected(&self, ask: &Ask) -> bool {
        self.expected.keys().any(|promise| ask.misfit(promise.mask).is_some())
    }

    /// Whether an agent fits that lives or is expected.
    pub(super) fn may_serve(&self, ask: &Ask) -> bool {
        self.could_serve(ask) || self.is_expected(ask)
    }

    /// Why a batch can never be served as things are, if it cannot.
    pub(super) fn hopeless_batch(&self, ask: &Ask, count: usize) -> Option<AllocateError> {
        let fitting = self.expected.keys().filter(|promise| ask.misfit(promise.mask).is_some());
        let promised = fitting.map(|promise| promise.limit).max();
        if promised.is_none() && !self.could_serve(ask) {
            return Some(AllocateError::NoSuchCapability);
        }
        // Of an agent that is named the batch knew how many it has when it began to wait.
        if ask.agent.is_some() {
            return None;
        }
        let most =
            promised.map_or_else(|| self.places_for(ask, false), |limit| self.most(limit, count));
        (most < count).then_some(AllocateError::TooFewPlaces)
    }

    /// How many leases all agents that the fleet may have could hold together if such came that may hold so many each;
    /// no more exactly than it takes to know whether that is less than `count`.
    fn most(&self, limit: u16, count: usize) -> usize {
        let with = |limit: u16| self.max_agents.saturating_mul(usize::from(limit));
        if with(limit) >= count {
            return with(limit);
        }
        // Some of those that live may hold more. Which of them fit is not asked: it would refuse a little more.
        let live = self.kinds.iter().filter(|entry| entry.live > 0);
        with(live.map(|entry| entry.kind.limit).fold(limit, u16::max))
    }

    /// Whether a request or a batch waits that names an agent.
    pub(super) fn is_named(&self, agent: AgentId) -> bool {
        let is_own = |(ask, _): (&Ask, usize)| ask.agent == Some(agent);
        self.waiting.is_named(agent) || self.batches.waiting_rows().any(is_own)
    }

    /// How many leases the live agents that fit, or those that are counted on, may hold together.
    pub(super) fn places_for(&self, ask: &Ask, counted: bool) -> usize {
        let fitting = self.sets.iter().filter(|(have, _)| ask.misfit(**have).is_some());
        fitting.map(|(_, set)| if counted { set.counted_on } else { set.places }).sum()
    }

    /// Whether anybody may take what comes free.
    pub(super) fn has_askers(&self) -> bool {
        self.waiting.len() > 0 || self.batches.waiting() > 0
    }

    /// Takes notice that another request or batch waits; how many do, if that is to be told.
    pub(super) fn grows(&mut self) -> Option<usize> {
        let waiting = self.waiting.len() + self.batches.waiting();
        self.backlog.grows_to(waiting).then_some(waiting)
    }

    /// How many wait or have not noticed their answer: one that is withdrawn puts its request back among
    /// those who wait.
    pub(super) fn asking(&self) -> usize {
        self.waiting.len() + self.answers.len() + self.batches.len()
    }

    /// Decides anew which batches gather, or which one if they do it `alone`, where so many places are counted on of an
    /// agent that is asked for; what that withdraws is the caller's to pass on.
    pub(super) fn plan_batches(
        &mut self,
        places_of: impl Fn(AgentId) -> usize,
        alone: bool,
    ) -> Vec<Granted> {
        let sets = self.sets.iter().map(|(have, set)| (*have, set.counted_on));
        self.batches.plan(sets, places_of, alone)
    }

    /// Gives the free places of an agent to those who wait, the most urgent first (rule 2). Where leases are
    /// `paid` for, room in a budget may come with them for somebody more urgent whom this agent does not
    /// fit: all who wait are to be served then, outside the locks. Whether the rest of them is deferred
    /// until it was decided anew which batches gather.
    pub(super) fn offer(
        &mut self,
        shard: &mut Shard,
        local: u32,
        paid: bool,
        wakes: &mut Vec<Waker>,
    ) -> bool {
        if paid {
            shard.charges.dues.unserved |= self.has_askers();
            return false;
        }
        if !self.has_askers() {
            return false;
        }
        let (agent, have) = (shard.id(local), shard.mask(local));
        while self.has_askers() && shard.slot(local).has_room() {
            if self.batches.is_unplanned() {
                self.batches.defer(agent);
                return true;
            }
            let single = self.waiting.first_for(agent, have);
            // The one place of an agent on trial would wait with a batch for its other places.
            let gives = !shard.slot(local).standing.is_on_trial();
            let batch = gives.then(|| self.batches.first_for(agent, have)).flatten();
            match (single, batch) {
                (Some(ticket), batch) if batch.is_none_or(|batch| ticket.place < batch) => {
                    let waker = self.waiting.remove(&ticket).expect("it was just found");
                    let granted = Granted { grant: shard.lease(local), charge: None };
                    self.answer(ticket, Ok(granted), waker, wakes);
                }
                (_, Some(place)) => {
                    let granted = Granted { grant: shard.lease(local), charge: None };
                    self.batches.grant(place, granted, wakes);
                }
                (_, None) => return false,
            }
        }
        false
    }

    /// Wakes those who wait for an agent to hold no lease: it holds none, or is gone.
    pub(super) fn tell_idlers(&mut self, agent: AgentId, wakes: &mut Vec<Waker>) {
        if !self.idlers.is_empty() {
            let waits = self.idlers.extract_if(.., |(_, of, _)| *of == agent);
            wakes.extend(waits.map(|(.., waker)| waker));
        }
    }

    pub(super) fn answer(
        &mut self,
        ticket: Ticket,
        result: Result<Granted, AllocateError>,
        waker: Option<Waker>,
        wakes: &mut Vec<Waker>,
    ) {
        self.answers.insert(ticket.place.sequence, Answer { ticket, result });
        wakes.extend(waker);
    }

    /// Takes back the grants of an agent that is gone, the most urgent first. Their waiters were woken
    /// and have not looked yet.
    pub(super) fn void_grants(&mut self, agent: AgentId) -> Vec<Ticket> {
        let is_on = |granted: &Granted| granted.grant.agent() == agent;
        let void = |answer: &&Answer| answer.result.as_ref().is_ok_and(is_on);
        let mut tickets: Vec<_> =
            self.answers.values().filter(void).map(|answer| answer.ticket).collect();
        tickets.sort_unstable_by_key(|ticket| ticket.place);
        for ticket in &tickets {
            self.answers.remove(&ticket.place.sequence);
        }
        tickets
    }

    /// Refuses those who wait for an agent that is gone, or for what no agent can do that lives or is expected (rule 2).
    pub(super) fn refuse_hopeless(&mut self, gone: Option<AgentId>, wakes: &mut Vec<Waker>) {
        if self.waiting.len() == 0 && self.batches.len() == 0 {
            return;
        }
        let is_gone = |ask: &Ask| ask.agent.is_some() && ask.agent == gone;
        for (ticket, waker) in self.waiting.take(is_gone) {
            self.answer(ticket, Err(AllocateError::AgentGone), waker, wakes);
        }
        let (sets, expected) = (&self.sets, &self.expected);
        let fits = |ask: &Ask, have: &Mask| ask.misfit(*have).is_some();
        let may_serve = |ask: &Ask| {
            let promised = expected.keys().map(|promise| &promise.mask);
            sets.keys().chain(promised).any(|have| fits(ask, have))
        };
        let hopeless = self.waiting.take(|ask| !may_serve(ask));
        for (ticket, waker) in hopeless {
            self.answer(ticket, Err(AllocateError::NoSuchCapability), waker, wakes);
        }
        let mut batches = std::mem::take(&mut self.batches);
        let why = |ask: &Ask, count| {
            if is_gone(ask) {
                return Some(AllocateError::AgentGone);
            }
            self.hopeless_batch(ask, count)
        };
        batches.refuse(why, wakes);
        self.batches = batches;
    }

    #[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
    pub(super) fn validate(&self, shards: &[&Shard]) {
        use super::strategy::Strategy;

        let mut sets: HashMap<Mask, Set> = HashMap::new();
        let mut kinds: HashMap<u32, usize> = HashMap::new();
        for (shard, spread) in shards.iter().zip(&self.spread) {
            assert_eq!(shard.live() as usize, *spread, "rule 1");
            for id in shard.ids() {
                let local = shard.find(id).expect("it was just listed");
                let set = sets.entry(shard.mask(local)).or_default();
                set.agents += 1;
                let places = usize::from(shard.slot(local).limit);
                set.places += places;
                let counted_on = shard.slot(local).standing.is_counted_on();
                set.counted_on += if counted_on { places } else { 0 };
                *kinds.entry(shard.slot(local).kind).or_default() += 1;
            }
        }
        assert_eq!(self.live, self.spread.iter().sum::<usize>(), "rule 1");
        assert_eq!(self.sets, sets, "rule 1");
        for (kind, live) in kinds {
            assert_eq!(self.kinds[kind as usize].live, live, "rule 1");
        }
        self.waiting.validate();
        let sets: Vec<_> = self.sets.iter().map(|(have, set)| (*have, set.counted_on)).collect();
        let places_of = |agent| {
            let has = |shard: &&&Shard| shard.ids().any(|id| id == agent);
            let shard = shards.iter().find(has)?;
            Some(self.places_counted_on(shard.slot(shard.find(agent)?)))
        };
        self.batches.validate(&sets, |agent| places_of(agent).unwrap_or(0));
        for (_, batch) in self.batches.rows() {
            let hopeless = self.hopeless_batch(&batch.ask, batch.count);
            assert!(!batch.waits() || hopeless.is_none(), "rule 2: {hopeless:?}");
            for grant in &batch.grants {
                let lives =
                    shards.iter().any(|shard| shard.ids().any(|id| id == grant.grant.agent()));
                assert!(lives, "rule 3");
            }
        }
        let gathering = self.batches.gathering();
        for ask in self.waiting.asks().chain(gathering.iter().map(|(_, ask)| ask)) {
            let ask = Ask { strategy: Strategy::LeastLoaded, ..*ask };
            assert!(self.may_serve(&ask), "rule 2: hopeless");
            for shard in shards {
                let can_serve = match ask.agent {
                    None => shard.best(&ask).is_some(),
                    Some(agent) => {
                        let here = shard.ids().find(|id| *id == agent);
                        let local = here.and_then(|agent| shard.find(agent));
                        local.is_some_and(|local| shard.slot(local).has_room_for(&ask))
                    }
                };
                assert!(!can_serve, "rule 2: {ask:?} waits");
            }
        }
        for answer in self.answers.values() {
            if let Ok(granted) = &answer.result {
                let agent = granted.grant.agent();
                assert!(shards.iter().any(|shard| shard.ids().any(|id| id == agent)), "rule 3");
            }
        }
    }
}

/// Shares out newcomers so that the shards come as close to even as they can; the first shards first.
fn deal(spread: &[usize], count: usize) -> Vec<usize> {
    let below = |level: usize| spread.iter().map(|live| level.saturating_sub(*live)).sum::<usize>();
    // The highest level to which all newcomers together can raise every shard.
    let (mut low, mut high) = (0, spread.iter().copied().max().unwrap_or(0) + count + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if below(middle) <= count {
            low = middle;
        } else {
            high = middle;
        }
    }
    let mut left = count - below(low);
    spread
        .iter()
        .map(|live| {
            let more = usize::from(left > 0 && *live <= low);
            left -= more;
            low.saturating_sub(*live) + more
        })
        .collect()
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use proptest::prelude::*;

    use super::deal;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn newcomers_are_dealt_as_one_by_one_to_the_emptiest_shard(
            spread in prop::collection::vec(0..20_usize, 1..17),
            count in 0..100_usize,
        ) {
            let mut naive = spread.clone();
            for _ in 0..count {
                let least = *naive.iter().min().expect("there is a shard");
                let first = naive.iter().position(|live| *live == least).expect("it was just found");
                naive[first] += 1;
            }
            let dealt = deal(&spread, count);
            let sums: Vec<_> = spread.iter().zip(&dealt).map(|(live, share)| live + share).collect();
            prop_assert_eq!(sums, naive);
        }
    }
}
