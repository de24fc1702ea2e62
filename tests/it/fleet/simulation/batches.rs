//! Batches that wait in a simulated fleet, and pickers that do as they like.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::acts::Wanted;
use super::books::Core;
use super::handlers::quiet_panic;
use super::world::{Bell, World};
use phalanx::Timestamp;
use phalanx::fleet::{
    AgentId, AgentState, AgentStatus, AllocateError, BatchAllocation, Fit, Lease, Picker, Request,
};

/// A batch that waits.
pub(super) struct Crowd {
    future: Pin<Box<BatchAllocation>>,
    bell: Arc<Bell>,
    wanted: Wanted,
    count: usize,
    seen: (Timestamp, u64),
    /// How often the accounts had changed when it began to gather.
    began: u64,
    /// How many agents had been spawned when it last waited.
    spawned: u64,
}

impl Crowd {
    fn poll(&mut self) -> Poll<Result<Vec<Lease>, AllocateError>> {
        self.bell.rung.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.bell));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

impl World {
    pub(super) fn wait_for_a_batch(&mut self) {
        let mut wanted = self.want();
        wanted.request = wanted.request.fit(Fit::All);
        let count = 1 + self.random.below(4);
        let future = Box::pin(self.fleet.allocate_batch_async(&wanted.request, count));
        let (bell, seen) = (self.bell(), self.moment());
        let began = seen.1;
        let spawned = self.fleet.stats().agents_spawned;
        self.crowds.push(Crowd { future, bell, wanted, count, seen, began, spawned });
        self.poll_crowd(self.crowds.len() - 1);
    }

    /// Polls one; whether it was answered.
    fn poll_crowd(&mut self, at: usize) -> bool {
        let seen = self.crowds[at].seen;
        let result = match self.crowds[at].poll() {
            Poll::Pending => {
                self.crowds[at].seen = self.moment();
                self.crowds[at].spawned = self.fleet.stats().agents_spawned;
                return false;
            }
            Poll::Ready(result) => result,
        };
        let Crowd { wanted, count, future, began, spawned, .. } = self.crowds.swap_remove(at);
        // What it was refused for may have come since.
        let late = self.fleet.stats().agents_spawned != spawned;
        drop(future);
        let places = self.places_of(&wanted);
        match result {
            Ok(leases) => {
                assert_eq!(leases.len(), count, "all or none");
                let what =
                    if count > 1 && seen != self.moment() { "batch waited" } else { "batch" };
                self.core.books().totals.count(what);
                for lease in leases {
                    // It begins as it is collected.
                    self.keep(lease, &wanted, (self.now(), began));
                }
            }
            Err(AllocateError::TooFewPlaces) => {
                assert!(
                    places < count || late,
                    "there are {places} places, and {count} are wanted"
                );
                self.core.books().totals.count("batch without hope");
            }
            Err(AllocateError::NoSuchCapability) => assert!(places == 0 || late),
            Err(AllocateError::AgentGone) => {
                let named = wanted.agent.expect("it asked for one");
                assert!(!self.core.books().agents.contains_key(&named));
            }
            Err(AllocateError::PickerInBatch) => assert!(wanted.picks.is_some()),
            Err(AllocateError::TooManyWaiting) => {}
            Err(AllocateError::Closed) => assert!(self.core.books().closing),
            Err(other) => panic!("a batch got {other}"),
        }
        true
    }

    /// How many leases those that fit may hold.
    fn places_of(&self, wanted: &Wanted) -> usize {
        let books = self.core.books();
        let fitting = books.agents.iter().filter(|(id, body)| {
            wanted.agent.is_none_or(|named| named == **id) && body.has(wanted.needs)
        });
        fitting.map(|(_, body)| body.limit as usize).sum()
    }

    /// The same of those that have neither failed nor drain nor are on trial, or of the one that is named.
    fn places_counted_on(&self, wanted: &Wanted) -> usize {
        let down = |status: &AgentStatus| {
            matches!(status.state, AgentState::Failed | AgentState::Draining)
        };
        let agents = self.fleet.agents();
        let up = agents.iter().filter(|status| !down(status)).map(|status| status.id);
        let up = up.filter(|agent| wanted.agent.is_none_or(|named| named == *agent));
        let books = self.core.books();
        let up = up.filter(|agent| !books.is_on_trial(*agent));
        let bodies = up.filter_map(|id| books.agents.get(&id));
        let fitting = bodies.filter(|body| body.has(wanted.needs));
        fitting.map(|body| body.limit as usize).sum()
    }

    /// Polls those whose wakers were called; how many there were.
    pub(super) fn poll_woken_crowds(&mut self) -> usize {
        let (mut polled, mut at) = (0, 0);
        while at < self.crowds.len() {
            if self.crowds[at].bell.rung.load(Ordering::Relaxed) {
                polled += 1;
                at += usize::from(!self.poll_crowd(at));
            } else {
                at += 1;
            }
        }
        polled
    }

    pub(super) fn drop_crowd(&mut self) {
        if !self.crowds.is_empty() {
            let at = self.random.below(self.crowds.len());
            let crowd = self.crowds.swap_remove(at);
            let woken = crowd.bell.rung.load(Ordering::Relaxed);
            drop(crowd);
            let what = if woken { "batch dropped after it was woken" } else { "batch dropped" };
            self.core.books().totals.count(what);
        }
    }

    /// How many places batches may have gathered, at most.
    pub(super) fn most_gathered(&self) -> u64 {
        let gather = self.crowds.iter().filter(|crowd| self.has_places(crowd));
        gather.map(|crowd| crowd.count as u64 - 1).sum()
    }

    /// Whether those that live could serve it together: others wait and gather nothing.
    fn has_places(&self, crowd: &Crowd) -> bool {
        self.places_of(&crowd.wanted) >= crowd.count
    }

    /// When nothing is ready: the batch whose turn it is has all that there is for it.
    pub(super) fn check_crowds(&self) {
        let mut loads = self.loads();
        // Its one place is not for a batch.
        let books = self.core.books();
        loads.retain(|agent, _| !books.is_on_trial(*agent));
        drop(books);
        let (mut gathers, mut some) = (false, false);
        for crowd in &self.crowds {
            assert!(!crowd.bell.rung.load(Ordering::Relaxed));
            if !self.has_places(crowd) {
                let places = self.places_of(&crowd.wanted);
                let hope = self.may_come(&crowd.wanted);
                assert!(hope, "it waits for {}, of {places}", crowd.count);
                self.core.books().totals.count("batch waits for agents");
                continue;
            }
            if self.places_counted_on(&crowd.wanted) < crowd.count {
                self.core.books().totals.count("batch waits for agents to be fit");
                continue;
            }
            some = true;
            gathers |= self.idle_agent(&loads, &crowd.wanted).is_none();
        }
        assert!(gathers || !some, "no batch gathers what there is for it");
    }

    /// After the end: all are told.
    pub(super) fn close_crowds(&mut self) {
        for crowd in &self.crowds {
            assert!(crowd.bell.rung.load(Ordering::Relaxed), "a batch sleeps for ever");
        }
        self.poll_woken_crowds();
        assert!(self.crowds.is_empty(), "who waits is told");
    }

    /// A picker for some requests.
    pub(super) fn picker(&mut self, needs: u8, named: Option<AgentId>) -> Option<Arc<Choosy>> {
        let core = Arc::clone(&self.core);
        self.random
            .percent(15)
            .then(|| Arc::new(Choosy { core, needs, named, chosen: Mutex::default() }))
    }
}

/// Takes whom it likes of those it is shown, or nobody.
pub(super) struct Choosy {
    core: Arc<Core>,
    needs: u8,
    named: Option<AgentId>,
    chosen: Mutex<Option<AgentId>>,
}

impl Choosy {
    /// Whom it chose last.
    pub(super) fn chosen(&self) -> Option<AgentId> {
        *self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Picker for Choosy {
    fn pick(&self, _request: &Request, candidates: &[AgentStatus]) -> Option<usize> {
        let core = &*self.core;
        let (choice, place) = {
            let mut books = core.books();
            books.must(!candidates.is_empty(), || "a choice among nobody".to_owned());
            for candidate in candidates {
                // What came free for one who waited may have failed since.
                let serves = candidates.len() == 1
                    || !matches!(
                        candidate.state,
                        AgentState::Starting | AgentState::Draining | AgentState::Failed
                    );
                let fits = books.agents.get(&candidate.id).is_some_and(|body| body.has(self.needs))
                    && self.named.is_none_or(|named| named == candidate.id)
                    && serves
                    && candidate.load <= candidate.max_leases;
                books.must(fits, || format!("{candidate:?} is no candidate for {}", self.needs));
            }
            let place = books.random.below(candidates.len().max(1));
            (books.random.below(100), place)
        };
        let chosen = candidates.get(place)?.id;
        *self.chosen.lock().unwrap_or_else(PoisonError::into_inner) = Some(chosen);
        match choice {
            0..=9 => return None,
            10..=14 => return Some(candidates.len()),
            15..=19 => quiet_panic(),
            20..=25 => {
                // It goes, or others take it, as it is being chosen.
                if let Some(fleet) = core.fleet() {
                    core.kill(&fleet, chosen);
                }
            }
            _ => {}
        }
        Some(place)
    }
}
