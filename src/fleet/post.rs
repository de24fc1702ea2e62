//! Where the agents' mailboxes are, and what the workers took out of them.
//!
//! Rules that hold here:
//!
//! 1. A place is made when the first agent with a handler comes near it, and stays: it is found without a
//!    lock, and a mailbox in it belongs to whichever agent its generation names.
//! 2. While a mailbox says that a worker runs it, the hand of that worker holds messages of that mailbox
//!    alone, and both are changed together under the lock of the mailbox. So whoever closes it hands back
//!    every message that no handler has begun, at once, whatever the handler is doing. So does whoever sweeps it,
//!    and leaves it to its worker.
//! 3. The order of locks: the tasks' state, then a mailbox, then a hand or the runner.
//! 4. A mailbox stands in the workers' line once at most. Who lines it up says so under its lock, and leaves it at that
//!    if it stands there; who has come to its entry takes that back under the lock under which it begins a turn, or before it
//!    looks whether there may be one. So what came before that is seen, and what comes later lines it up again.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use crossbeam::utils::CachePadded;

use super::agent::Handler;
use super::crew::{Crew, Hired};
use super::flight::Flights;
use super::hand::{Hand, Held, RUN, Taker};
use super::id::TaskId;
use super::mailbox::{Leftovers, Letter, Mailbox};
use super::reply::ReplyCell;
use super::signal::Signal;
use super::supervision::Tenure;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Brief, BriefGuard, OnceLock, prefetch_write};

/// How many mailboxes are made at once.
const CHUNK: u32 = 64;
/// Enough for every slot there can be, as each bucket has twice the chunks of the one before.
const BUCKETS: usize = 27;

/// What lies in a mailbox.
#[derive(Debug)]
pub(super) enum Message<T, O> {
    Told(T),
    Asked(T, Arc<ReplyCell<O>>),
    /// A task in the table, which says whether it is still to be done.
    Task(TaskId),
}

impl<T, O> Message<T, O> {
    /// The task that it is, if it is one.
    pub(super) const fn task(&self) -> Option<TaskId> {
        match self {
            Self::Task(id) => Some(*id),
            Self::Told(_) | Self::Asked(..) => None,
        }
    }
}

impl<T, O> Letter for Message<T, O> {
    type Payload = T;

    #[inline(always)]
    fn open(self) -> Result<T, Self> {
        match self {
            Self::Told(payload) => Ok(payload),
            other => Err(other),
        }
    }

    #[inline(always)]
    fn with(payload: T) -> Self {
        Self::Told(payload)
    }

    /// A task is counted as such.
    fn counts(&self) -> bool {
        !matches!(self, Self::Task(_))
    }
}

/// What an agent that runs something has beside its row in the pool.
#[derive(Debug)]
pub(super) struct Home<T, O> {
    pub(super) mailbox: Letters<T, O>,
    pub(super) crew: Crew<T, O>,
}

impl<T, O> Home<T, O> {
    const fn vacant() -> Self {
        Self { mailbox: Mailbox::closed(), crew: Crew::none() }
    }

    /// Gives it to an agent, whose handlers work from now on as its crew does.
    pub(super) fn open(&mut self, generation: u32, capacity: NonZeroU32, crew: Crew<T, O>) {
        self.mailbox.open(generation, capacity);
        self.crew = crew;
    }

    /// Closes it, and gives out what was in it and what the agent ran; `None` if it was closed or another's.
    pub(super) fn close(&mut self, generation: u32) -> Option<(Messages<T, O>, Crew<T, O>)> {
        let left = self.mailbox.close(generation)?;
        Some((left, std::mem::replace(&mut self.crew, Crew::none())))
    }

    /// Whether the caller is to line it up, as it does not stand in line (rule 4).
    pub(super) fn lines_up(&mut self, generation: u32) -> bool {
        self.mailbox.is_open(generation) && self.crew.lines_up()
    }

    /// Its entry was taken out of the line.
    pub(super) fn leave_line(&mut self, generation: u32) {
        if self.mailbox.is_open(generation) {
            self.crew.leave_line();
        }
    }

    /// A handler for one who leased the agent; `None` if it is gone.
    pub(super) fn hire(&mut self, generation: u32) -> Option<Hired<T, O>> {
        if self.mailbox.is_open(generation) { self.crew.hire() } else { None }
    }

    /// Takes a handler back that was [hired](Self::hire): as [`dismiss`](Self::dismiss), and it counts no more if it is
    /// of another incarnation.
    pub(super) fn take_back(
        &mut self,
        generation: u32,
        tenure: Tenure,
        handler: Handler<T, O>,
    ) -> Option<Handler<T, O>> {
        let stale = self.dismiss(generation, tenure, handler);
        if stale.is_some() && self.mailbox.is_open(generation) {
            self.crew.lost();
        }
        stale
    }

    /// Takes a handler in, if the agent lives in the incarnation that it was made for; otherwise it is to be
    /// dropped outside the lock.
    pub(super) fn dismiss(
        &mut self,
        generation: u32,
        tenure: Tenure,
        handler: Handler<T, O>,
    ) -> Option<Handler<T, O>> {
        if !self.mailbox.is_open(generation) || self.crew.tenure().incarnation != tenure.incarnation
        {
            return Some(handler);
        }
        self.crew.dismiss(handler);
        None
    }
}

/// What was left in a mailbox.
pub(super) type Messages<T, O> = Leftovers<Message<T, O>>;
/// A mailbox of the fleet.
pub(super) type Letters<T, O> = Mailbox<Message<T, O>>;

/// A place of one agent after the other.
pub(super) struct Post<T, O> {
    home: Brief<Home<T, O>>,
    /// The messages that its mailboxes have taken. Whoever has the lock writes it, and anybody reads it.
    accepted: AtomicU64,
}

impl<T, O> Post<T, O> {
    #[inline]
    pub(super) fn lock(&self) -> BriefGuard<'_, Home<T, O>> {
        self.home.lock()
    }

    /// Fetches it, to be written soon.
    #[inline]
    pub(super) fn prefetch(&self) {
        let address = std::ptr::from_ref(self).cast::<u8>();
        prefetch_write(address);
        // It takes two lines of the cache.
        prefetch_write(address.wrapping_add(64));
    }

    /// Counts a message that the mailbox took, while its lock is held.
    #[inline]
    pub(super) fn accept(&self) {
        // Relaxed: the lock of the mailbox brings it to whoever ends the message.
        let count = self.accepted.load(Ordering::Relaxed) + 1;
        self.accepted.store(count, Ordering::Relaxed);
    }
}

type Chunk<T, O> = OnceLock<Box<[Post<T, O>]>>;
type Bucket<T, O> = OnceLock<Box<[Chunk<T, O>]>>;

/// The mailboxes by slot (rule 1).
pub(super) struct Posts<T, O> {
    buckets: [Bucket<T, O>; BUCKETS],
}

/// The bucket of a slot, the chunk in it, and the place in that.
#[inline]
const fn locate(slot: u32) -> (usize, usize, usize) {
    let chunk = slot / CHUNK + 1;
    let bucket = chunk.ilog2();
    (bucket as usize, (chunk - (1 << bucket)) as usize, (slot % CHUNK) as usize)
}

impl<T, O> Posts<T, O> {
    pub(super) const fn new() -> Self {
        Self { buckets: [const { OnceLock::new() }; BUCKETS] }
    }

    /// The mailbox of a slot, if an agent with a handler ever came near it.
    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&Post<T, O>> {
        let (bucket, chunk, place) = locate(slot);
        self.buckets[bucket].get()?[chunk].get()?.get(place)
    }

    /// The mailbox of a slot.
    pub(super) fn get_or_make(&self, slot: u32) -> &Post<T, O> {
        let (bucket, chunk, place) = locate(slot);
        let chunks = self.buckets[bucket]
            .get_or_init(|| (0..1_usize << bucket).map(|_| OnceLock::new()).collect());
        let vacant = || Post { home: Brief::new(Home::vacant()), accepted: AtomicU64::new(0) };
        let posts = chunks[chunk].get_or_init(|| (0..CHUNK).map(|_| vacant()).collect());
        &posts[place]
    }

    /// All mailboxes that were made.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Post<T, O>)> {
        let chunks = self.buckets.iter().enumerate().filter_map(|(bucket, chunks)| {
            let first = (1_u32 << bucket) - 1;
            Some((first..).zip(chunks.get()?))
        });
        chunks
            .flatten()
            .filter_map(|(chunk, posts)| Some((chunk * CHUNK.., posts.get()?)))
            .flat_map(|(slots, posts)| slots.zip(posts.iter()))
    }
}

/// What one worker has before it, on lines of its own.
pub(super) struct Station<T, O> {
    /// What the worker took out of the mailbox that it runs (rule 2).
    pub(super) hand: CachePadded<Hand<T, Beside<T, O>>>,
    /// Tells the handler that runs for a mailbox that its agent is gone.
    pub(super) signal: Signal,
    pub(super) handled: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// What lies in a hand beside what was told.
pub(super) struct Beside<T, O> {
    /// What comes after the run.
    messages: VecDeque<Message<T, O>>,
    /// How many of them, the first, are of the control lane: then the run is empty.
    control: usize,
    /// Who asked what is being handled now.
    pub(super) asker: Option<Arc<ReplyCell<O>>>,
}

impl<T, O> Station<T, O> {
    /// A station, and what takes messages out of its hand.
    pub(super) fn new() -> (Self, Taker) {
        let beside = Beside { messages: VecDeque::new(), control: 0, asker: None };
        let (hand, taker) = Hand::new(beside);
        let station = Self {
            hand: CachePadded::new(hand),
            signal: Signal::default(),
            handled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        };
        (station, taker)
    }

    /// How many messages the worker has ended. For itself alone: others may see too few.
    pub(super) fn ended(&self) -> u64 {
        self.handled.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
    }

    /// Counts one of the worker's own messages; only that worker does.
    #[inline]
    pub(super) fn count(counter: &AtomicU64) {
        let count = counter.load(Ordering::Relaxed) + 1;
        // Ordering: Release, pairs with the Acquire of `Counters::read`, so that no message is seen as
        // ended that is not seen as accepted.
        counter.store(count, Ordering::Release);
    }

    /// Takes messages out of the mailbox that the worker runs, whose lock is held, into its hand, which is empty.
    pub(super) fn claim(&self, mailbox: &mut Letters<T, O>, taker: &mut Taker, most: usize) {
        let mut hand = self.hand.lock();
        let payloads = mailbox.claim_payloads(most.min(RUN));
        let count = payloads.len();
        hand.fill(taker, payloads);
        if count < most && !mailbox.is_empty() {
            hand.control = mailbox.claim(most - count, &mut hand.messages);
        }
        taker.has_more = !hand.messages.is_empty() || hand.asker.is_some();
    }

    /// The next message, whose asker is remembered until the one after.
    #[inline]
    pub(super) fn take(&self, taker: &mut Taker) -> Option<Message<T, O>> {
        match self.hand.take(taker) {
            Some(payload) => Some(Message::Told(payload)),
            None if taker.has_more => self.take_beside(taker),
            None => None,
        }
    }

    /// Puts a task back that was just taken, under the lock of the mailbox: what the run held is begun by then.
    pub(super) fn take_back(&self, taker: &mut Taker, id: TaskId) {
        self.hand.lock().messages.push_front(Message::Task(id));
        taker.has_more = true;
    }

    fn take_beside(&self, taker: &mut Taker) -> Option<Message<T, O>> {
        let mut hand = self.hand.lock();
        let message = hand.messages.pop_front();
        hand.control = hand.control.saturating_sub(1);
        let asker = match &message {
            Some(Message::Asked(_, cell)) => Some(Arc::clone(cell)),
            _ => None,
        };
        let before = std::mem::replace(&mut hand.asker, asker);
        taker.has_more = message.is_some();
        drop(hand);
        // It may be the last that knows of the question.
        drop(before);
        message
    }
}

impl<T, O> Held<'_, T, Beside<T, O>> {
    /// Takes away all that the worker has not begun, in its order.
    pub(super) fn strip(&mut self) -> VecDeque<Message<T, O>> {
        let mut run = VecDeque::new();
        self.cut(&mut run);
        self.join(run)
    }

    /// The same but for what is of the control lane, which stays: the worker goes on with that, whoever tells more.
    pub(super) fn strip_work(&mut self) -> VecDeque<Message<T, O>> {
        let mut run = VecDeque::new();
        self.cut(&mut run);
        let kept = self.control;
        let control: VecDeque<_> = self.messages.drain(..kept).collect();
        let work = self.join(run);
        (self.messages, self.control) = (control, kept);
        work
    }

    /// How many are not begun and counted as messages, for all that is known here.
    pub(super) fn counted(&self) -> usize {
        self.left() + self.messages.iter().filter(|message| message.counts()).count()
    }

    /// As [`strip`](Self::strip), for the worker itself; and how many, the first, are of the control lane.
    pub(super) fn put_down(&mut self, taker: &mut Taker) -> (usize, VecDeque<Message<T, O>>) {
        let (mut run, control) = (VecDeque::new(), self.control);
        self.take_back(taker, &mut run);
        debug_assert!(
            control == 0 || run.is_empty(),
            "control goes first, and is not told in a run"
        );
        (control, self.join(run))
    }

    fn join(&mut self, run: VecDeque<T>) -> VecDeque<Message<T, O>> {
        self.control = 0;
        let mut messages: VecDeque<_> = run.into_iter().map(Message::Told).collect();
        messages.append(&mut self.messages);
        messages
    }
}

/// How many messages went back.
pub(super) struct Counters {
    pub(super) returned: AtomicU64,
    pub(super) refused: AtomicU64,
}

/// A reading of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MessageCounts {
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) handled: u64,
    pub(super) failed: u64,
    pub(super) returned: u64,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self { returned: AtomicU64::new(0), refused: AtomicU64::new(0) }
    }

    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self, count: usize) {
        // Ordering: Release, pairs with the Acquire of `read`, as in `Station::count`.
        self.returned.fetch_add(count as u64, Ordering::Release);
    }

    /// O(mailboxes that were made).
    pub(super) fn read<T, O>(
        &self,
        posts: &Posts<T, O>,
        stations: &[Station<T, O>],
        flights: &Flights<O>,
    ) -> MessageCounts {
        // Ordering: Acquire, pairs with the Release of those who count an end. Those who ended are read
        // before those accepted: `accepted` is never less than the sum of the others.
        let sum = |of: fn(&Station<T, O>) -> &AtomicU64| {
            stations.iter().map(|station| of(station).load(Ordering::Acquire)).sum::<u64>()
        };
        // Ordering: Acquire, as above, for those in flight.
        let flown = [&flights.handled, &flights.failed].map(|of| of.load(Ordering::Acquire));
        let handled = sum(|station| &station.handled) + flown[0];
        let failed = sum(|station| &station.failed) + flown[1];
        let returned = self.returned.load(Ordering::Acquire);
        let accepted = posts.iter().map(|(_, post)| post.accepted.load(Ordering::Relaxed)).sum();
        let refused = self.refused.load(Ordering::Relaxed);
        MessageCounts { accepted, refused, handled, failed, returned }
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_a_place_of_its_own() {
        let mut last = None;
        for slot in (0..100_000).chain([u32::MAX - 1, u32::MAX]) {
            let place = locate(slot);
            assert!(Some(place) > last && place.0 < BUCKETS && place.1 < 1 << place.0);
            last = Some(place);
        }
    }

    #[test]
    fn a_slot_finds_the_mailbox_that_was_made_for_it() {
        let posts = Posts::<u32, ()>::new();
        for slot in [0, 63, 64, 10_000] {
            let made = std::ptr::from_ref(posts.get_or_make(slot));
            assert!(std::ptr::eq(made, posts.get(slot).expect("it was made")));
        }
        assert!(posts.get(5_000).is_none(), "nobody came near");
        let slots: Vec<_> = posts.iter().map(|(slot, _)| slot).collect();
        let near = [0..64, 64..128, 9_984..10_048];
        assert_eq!(slots, near.into_iter().flatten().collect::<Vec<_>>());
        for (slot, post) in posts.iter() {
            assert!(std::ptr::eq(post, posts.get(slot).expect("it was listed")));
        }
    }

    #[test]
    fn a_place_takes_two_lines_of_the_cache() {
        assert!(size_of::<Post<u64, u64>>() <= 128);
    }

    #[test]
    fn a_small_message_takes_three_words() {
        assert!(size_of::<Message<u64, u64>>() <= 24);
    }
}
