//! Every interleaving of those who put messages in, run a mailbox, and close it, each with a twin.

use std::sync::Arc;

use super::*;
use crate::sync::{Mutex, UnsafeCell, thread, weakened};

impl Letter for u32 {
    type Payload = Self;

    fn open(self) -> Result<Self, Self> {
        Ok(self)
    }

    fn with(payload: Self) -> Self {
        payload
    }

    fn counts(&self) -> bool {
        true
    }
}

const ROOM: NonZeroU32 = NonZeroU32::new(4).expect("not zero");

/// A mailbox, how often somebody was told of it, and what its handler saw.
struct Post {
    mailbox: Mutex<Mailbox<u32>>,
    told: Mutex<usize>,
    /// Nothing but the run flag keeps two workers out of it; loom sees them if it does not.
    handler: UnsafeCell<()>,
    handled: Mutex<Vec<u32>>,
}

impl Post {
    fn new(told: usize) -> Arc<Self> {
        let mut mailbox = Mailbox::closed();
        mailbox.open(1, ROOM);
        Arc::new(Self {
            mailbox: Mutex::new(mailbox),
            told: Mutex::new(told),
            handler: UnsafeCell::new(()),
            handled: Mutex::new(Vec::new()),
        })
    }

    fn put(&self, message: u32) -> Result<(), u32> {
        let told = self.mailbox.lock().push(1, Lane::Work, message).map_err(|(_, m)| m)?;
        if told == Told::Schedule {
            *self.told.lock() += 1;
        }
        Ok(())
    }

    /// Runs turns of one message until nobody is told of any.
    fn work(&self, worker: u16) {
        loop {
            let told = {
                let mut told = self.told.lock();
                let some = *told > 0;
                *told -= usize::from(some);
                some
            };
            if !told {
                return;
            }
            self.turn(worker);
        }
    }

    fn turn(&self, worker: u16) {
        let mut claimed = VecDeque::new();
        {
            let mut mailbox = self.mailbox.lock();
            if !mailbox.begin(1, worker) {
                return;
            }
            mailbox.claim(1, &mut claimed);
        }
        self.handler.with_mut(|_| self.handled.lock().extend(claimed));
        if self.mailbox.lock().rest(1, worker) == Rest::Again {
            *self.told.lock() += 1;
        }
    }
}

fn model(body: impl Fn() + Send + Sync + 'static) {
    loom::model(body);
}

/// Messages come while the worker finds the mailbox empty and goes.
fn push_against_rest() {
    let post = Post::new(0);
    let sender = {
        let post = Arc::clone(&post);
        thread::spawn(move || {
            post.put(1).expect("there is room");
            post.put(2).expect("there is room");
        })
    };
    post.work(0);
    sender.join().expect("a push does not panic");
    post.work(0);
    assert_eq!(*post.handled.lock(), [1, 2], "a message that nobody was told of");
}

#[test]
fn loom_a_message_that_races_with_the_end_of_a_turn_is_run() {
    model(push_against_rest);
}

#[test]
#[should_panic(expected = "a message that nobody was told of")]
fn loom_twin_without_a_last_look_a_message_is_left_lying() {
    weakened("mailbox.rest-without-a-look", || model(push_against_rest));
}

/// Two workers were told of one message, as happens when a place changes agents.
fn two_workers() {
    let post = Post::new(1);
    post.put(1).expect("there is room");
    let other = {
        let post = Arc::clone(&post);
        thread::spawn(move || post.work(1))
    };
    post.put(2).expect("there is room");
    post.work(0);
    other.join().expect("a turn does not panic");
    post.work(0);
    assert_eq!(*post.handled.lock(), [1, 2]);
}

#[test]
fn loom_two_workers_never_run_one_mailbox_at_once() {
    model(two_workers);
}

#[test]
#[should_panic(expected = "Concurrent write accesses to `UnsafeCell`")]
fn loom_twin_without_the_run_flag_two_workers_run_one_mailbox() {
    weakened("mailbox.begin-unchecked", || model(two_workers));
}

/// The agent ends while messages come and are run.
fn close_against_all() {
    let post = Post::new(0);
    let sender = {
        let post = Arc::clone(&post);
        thread::spawn(move || [1, 2].map(|message| post.put(message).err()))
    };
    let worker = {
        let post = Arc::clone(&post);
        thread::spawn(move || post.work(0))
    };
    let leftovers = post.mailbox.lock().close(1).expect("nobody else closes it");
    let refused = sender.join().expect("a push does not panic");
    worker.join().expect("a turn does not panic");
    let mut all: Vec<_> =
        refused.into_iter().flatten().chain(leftovers.messages.into_messages()).collect();
    all.extend(&*post.handled.lock());
    all.sort_unstable();
    assert_eq!(all, [1, 2], "each is refused, handed back or run");
    assert_eq!(post.mailbox.lock().len(), 0);
}

#[test]
fn loom_a_closed_mailbox_hands_every_message_back_once() {
    model(close_against_all);
}

#[test]
#[should_panic(expected = "each is refused, handed back or run")]
fn loom_twin_a_mailbox_that_is_not_marked_closed_swallows_what_comes_later() {
    weakened("mailbox.close-unmarked", || model(close_against_all));
}
