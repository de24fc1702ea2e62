//! Who sends dead letters, and the boxes that they are sent to.
//!
//! The rules are those of [the module](super).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

use super::super::event::Event;
use super::super::wait::{Panic, discard, first_of};
use super::{DeadLetter, DeadLetterReason};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// All that concerns the dead letters of one bus.
pub(in super::super) struct Letters<E> {
    sent: AtomicU64,
    office: Mutex<Office<E>>,
}

struct Office<E> {
    boxes: Vec<Arc<Mailbox<E>>>,
    /// How many may still send.
    pens: usize,
    is_closed: bool,
}

/// The right to send dead letters; what holds one keeps their end from coming (rule 4).
pub(in super::super) struct Pen<E>(Arc<Letters<E>>);

/// What a subscriber gets.
pub(super) enum Post<E> {
    Letter(DeadLetter<E>),
    Missed { missed: u64, from: u64 },
    None,
    End,
}

impl<E> Letters<E> {
    pub(in super::super) fn new() -> Self {
        let office = Office { boxes: Vec::new(), pens: 0, is_closed: false };
        Self { sent: AtomicU64::new(0), office: Mutex::new(office) }
    }

    /// How many letters were sent.
    pub(in super::super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The bus was closed.
    pub(in super::super) fn close(&self) -> Result<(), Panic> {
        self.office.lock().is_closed = true;
        self.wake_if_over()
    }

    pub(super) fn subscribe(&self, capacity: usize) -> Arc<Mailbox<E>> {
        let mailbox = Arc::new(Mailbox::new(capacity));
        self.office.lock().boxes.push(Arc::clone(&mailbox));
        mailbox
    }

    pub(super) fn unsubscribe(&self, mailbox: &Arc<Mailbox<E>>) {
        let mut office = self.office.lock();
        office.boxes.retain(|other| !Arc::ptr_eq(other, mailbox));
    }

    fn is_over(&self) -> bool {
        let office = self.office.lock();
        office.is_closed && office.pens == 0
    }

    fn wake_if_over(&self) -> Result<(), Panic> {
        if !self.is_over() {
            return Ok(());
        }
        let boxes = self.office.lock().boxes.clone();
        let mut first = Ok(());
        for mailbox in boxes {
            first = first_of(first, attempt(|| mailbox.wake()));
            // Its subscriber may be gone by now.
            first = first_of(first, attempt(|| drop(mailbox)));
        }
        first
    }
}

impl<E> Pen<E> {
    pub(in super::super) fn new(letters: &Arc<Letters<E>>) -> Self {
        letters.office.lock().pens += 1;
        Self(Arc::clone(letters))
    }

    /// The handler of an event panicked, and that panic unwinds.
    pub(in super::super) fn bury(&self, died: Died<E>) {
        match died.0 {
            // Two panics at once would end the process.
            Some(Ok(event)) => {
                discard(self.send(Arc::new(event), DeadLetterReason::HandlerPanicked));
            }
            Some(Err(panic)) => {
                self.count();
                discard(panic);
            }
            None => {}
        }
    }

    fn count(&self) {
        self.0.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a letter and sends it to all subscribers (rules 1, 3).
    pub(in super::super) fn send(
        &self,
        event: Arc<Event<E>>,
        reason: DeadLetterReason,
    ) -> Result<(), Panic> {
        self.count();
        let boxes = self.0.office.lock().boxes.clone();
        let letter = DeadLetter::new(event, reason);
        let mut first = Ok(());
        for mailbox in boxes {
            let oldest = mailbox.put(letter.clone());
            first = first_of(first, attempt(|| drop(oldest)));
            first = first_of(first, attempt(|| mailbox.wake()));
            // Its subscriber may be gone by now.
            first = first_of(first, attempt(|| drop(mailbox)));
        }
        first = first_of(first, attempt(|| drop(letter)));
        first
    }
}

impl<E> Drop for Pen<E> {
    fn drop(&mut self) {
        self.0.office.lock().pens -= 1;
        if let Err(panic) = self.0.wake_if_over() {
            // The pen goes with a subscription or a group, perhaps while another panic unwinds.
            discard(panic);
        }
    }
}

/// An event whose handler panicked: its clone, or what the clone panicked with; nothing if it cannot be cloned.
pub(in super::super) struct Died<E>(Option<Result<Event<E>, Panic>>);

impl<E> Died<E> {
    /// Clones the event while it is there. Does not panic.
    #[cold]
    pub(in super::super) fn of(event: Event<&E>, clone: Option<fn(&E) -> E>) -> Self {
        Self(clone.map(|clone| {
            let cloned = catch_unwind(AssertUnwindSafe(|| clone(event.payload)));
            cloned.map(|payload| event.with(payload))
        }))
    }
}

/// Runs the code of somebody else.
pub(in super::super) fn attempt(code: impl FnOnce()) -> Result<(), Panic> {
    catch_unwind(AssertUnwindSafe(code))
}

/// The letters of one subscriber.
pub(super) struct Mailbox<E> {
    capacity: usize,
    held: Mutex<Held<E>>,
}

struct Held<E> {
    letters: VecDeque<DeadLetter<E>>,
    /// The number of the first letter that is there, or will be.
    first: u64,
    missed: u64,
    waker: Option<Waker>,
}

impl<E> Mailbox<E> {
    fn new(capacity: usize) -> Self {
        let held = Held { letters: VecDeque::new(), first: 0, missed: 0, waker: None };
        Self { capacity, held: Mutex::new(held) }
    }

    pub(super) const fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn len(&self) -> usize {
        self.held.lock().letters.len()
    }

    /// Puts a letter in; the one that had to go for it comes back.
    fn put(&self, letter: DeadLetter<E>) -> Option<DeadLetter<E>> {
        let mut held = self.held.lock();
        held.letters.push_back(letter);
        if held.letters.len() <= self.capacity {
            return None;
        }
        held.first += 1;
        held.missed += 1;
        held.letters.pop_front()
    }

    pub(super) fn take(&self, letters: &Letters<E>) -> Post<E> {
        if let Some(post) = self.held.lock().take() {
            return post;
        }
        if !letters.is_over() {
            return Post::None;
        }
        // The last letter may have come between the two looks.
        self.held.lock().take().unwrap_or(Post::End)
    }

    /// Whom to wake; the one before is forgotten.
    pub(super) fn listen(&self, waker: Waker) {
        let before = self.held.lock().waker.replace(waker);
        drop(before);
    }

    pub(super) fn stop_listening(&self) {
        let waker = self.held.lock().waker.take();
        drop(waker);
    }

    fn wake(&self) {
        let waker = self.held.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<E> Held<E> {
    fn take(&mut self) -> Option<Post<E>> {
        if self.missed > 0 {
            let missed = std::mem::take(&mut self.missed);
            return Some(Post::Missed { missed, from: self.first - missed });
        }
        let letter = self.letters.pop_front()?;
        self.first += 1;
        Some(Post::Letter(letter))
    }
}
