//! Group commit that needs no thread of its own: whoever waits first writes for all.
//!
//! Commits leave their deltas in memory. The first to wait for one takes the sink and with it the lead:
//! it writes all that is pending as one group with one sync, acknowledges, and wakes everybody. Rules that
//! hold here:
//!
//! 1. Who holds the sink leads, and nobody else does: `sink` is `None` exactly while there is a leader, or
//!    while it is closed and after that.
//! 2. Deltas enter `pending` in the order of their versions, without a gap, under the lock; a group is all
//!    of `pending`. So what is written is always a prefix of what was committed.
//! 3. `durable` grows only after the sink has reported its sync, and never once the log has ended.
//! 4. A leader always gives the sink back (or ends the log) and then wakes every waiter: a waiter that
//!    goes away takes nobody's wake-up along, and the next lead falls to whoever comes first. So while it
//!    holds the sink it lets nothing unwind: wakers and the engine run in [`contained`], and the image is
//!    dropped afterwards.
//! 5. A delta enters `pending` only while that holds less than `max_pending_bytes`, however large the delta
//!    is: a large one has no smaller chance than a small one, and there is at most one delta more.
//! 6. No code of the host runs under the lock: wakers and old images are taken out and used outside.
//! 7. Nothing enters `pending` once a close has begun, so it ends. Waits and leads go on until all that is
//!    pending is written; then the one who closes keeps the sink, and the log has ended.
//! 8. `wanted` is the newest version that somebody wants written whom nobody waits for. It only grows.
//! 9. `leader` is the number of the thread that has the sink, from before it runs anything of the host until it
//!    has given the sink back. One that would park there for its own sake is told so, and what it wanted to commit is
//!    not published.
//! 10. Of those who wait, the parkers of this crate are woken before the wakers of the host, which may wait for who
//!     is parked, for whatever: so the host's are woken only once the sink is put back.
//! 11. A leader that has the sink may wait for others to commit before it takes the group, for a limited time
//!     ([`gather`]), unless it polls: those others may be tasks of the same thread.
//! 12. While there is a `server`, who polls on another thread leaves the write to it: under one lock that is found, the
//!     version becomes wanted (rule 8) and the waker is left; then the server is woken, once a version. When it goes,
//!     all who wait are woken and look again.
//!
//! Those of checkpoints stand in [`steps`].

mod debts;
mod future;
mod gather;
mod steps;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use gather::Gather;

pub(super) use future::WaitDurable;
pub(super) use steps::{Advance, Draft, Step};

use super::contain::{contained, wake};
use super::{Durability, Version};
use steps::{Checkpoints, Group};

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, Parker, left_out, me, site};
use crate::{Error, ErrorKind};

/// Where groups go.
pub(super) trait Sink: Send {
    /// The state at one version, of which a checkpoint is made.
    type Image: Clone;
    type Draft: Draft<Image = Self::Image>;

    /// Writes the deltas from version `first` on and syncs; how many bytes that were.
    fn append(&mut self, first: Version, deltas: &[Vec<u8>]) -> Result<u64, Error>;
    /// How long a leader waits at most for others to be part of its group.
    fn patience(&self) -> Duration;
    /// The version of the newest valid checkpoint.
    fn checkpointed(&self) -> Version;
    /// Whether enough was appended since the last checkpoint.
    fn is_due(&self) -> bool;
    /// Whether so many times as much was.
    fn is_past(&self, times: u64) -> bool;
    /// About how many bytes of a checkpoint are written at once.
    fn step_bytes(&self) -> usize;
    /// Begins a checkpoint of the state as of what was appended last; none where that is there.
    fn begin(&mut self, image: &Self::Image) -> Option<Self::Draft>;
    /// What removes what others have left behind; none where nothing is.
    fn sweep(&mut self) -> Option<Self::Draft>;
    /// Does one step with a draft that is ready; how many bytes it wrote or removed.
    fn step(&mut self, draft: &mut Self::Draft) -> Result<(Step, u64), Error>;
    /// Lets go of the store.
    fn close(self) -> Result<(), Error>;
}

/// What the journal counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) groups: u64,
    pub(super) checkpoints: u64,
    pub(super) checkpoint_steps: u64,
    pub(super) checkpoint_pending: bool,
    pub(super) checkpoint_snapshot: Option<Version>,
    pub(super) checkpoints_failed: u64,
    /// Why the last one that was tried could not be encoded.
    pub(super) checkpoint_failure: Option<Arc<str>>,
    pub(super) stalls: u64,
    pub(super) pending_commits: u64,
    pub(super) pending_bytes: u64,
    pub(super) waiters: u64,
    pub(super) caught_panics: u64,
    pub(super) poisoned: bool,
}

enum Status {
    Open,
    /// Rule 7.
    Closing,
    /// A write failed; the reason.
    Poisoned(String),
    Closed,
}

impl Status {
    /// Whether there may be commits.
    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Closing if !left_out("state.journal.closing") => Self::Closed.check_waits(),
            other => other.check_waits(),
        }
    }

    /// Whether a write failed, whatever else ended the log.
    fn check_writes(&self) -> Result<(), Error> {
        match self {
            Self::Poisoned(_) => self.check_waits(),
            _ => Ok(()),
        }
    }

    /// Whether what is pending may still become durable.
    fn check_waits(&self) -> Result<(), Error> {
        match self {
            Self::Open | Self::Closing => Ok(()),
            Self::Closed => Err(Error::new(ErrorKind::Closed, "the state manager was closed")),
            Self::Poisoned(reason) => Err(Error::new(
                ErrorKind::Poisoned,
                format!(
                    "the store failed and takes no more commits ({reason}); reopen it to go on \
                     from what was acknowledged"
                ),
            )),
        }
    }
}

/// Whose a waker is, in the order in which they are woken (rule 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    /// A parker of this crate, on which the thread that looks will park.
    Parker,
    /// Any code.
    Host,
}

/// The place of a waiter among all of them.
pub(super) type WaiterKey = (Whose, u64);

/// A thread of this crate that writes for who polls.
struct Server {
    /// Its number.
    thread: usize,
    waker: Waker,
    /// The newest version that it was woken for.
    rung: Version,
}

struct Log<S: Sink> {
    /// Rule 1.
    sink: Option<S>,
    /// Whether the sink was let go of.
    ended: bool,
    checkpoints: Checkpoints<S::Draft>,
    status: Status,
    /// Rule 2.
    pending: Vec<Vec<u8>>,
    pending_bytes: usize,
    /// What a leader is writing at this moment.
    writing_bytes: usize,
    committed: Version,
    /// Rule 8.
    wanted: Version,
    image: S::Image,
    /// Rule 9; zero where nobody has the sink.
    leader: usize,
    waiters: BTreeMap<WaiterKey, Waker>,
    next_waiter: u64,
    gather: Gather,
    /// Rule 12.
    server: Option<Server>,
    counts: Counts,
}

/// The log of commits that wait to become durable.
pub(super) struct Journal<S: Sink> {
    log: Mutex<Log<S>>,
    /// Rule 3.
    durable: AtomicU64,
    max_pending_bytes: usize,
    /// About how many bytes of a checkpoint one step writes.
    step_bytes: usize,
}

impl<S: Sink> Journal<S> {
    pub(super) fn new(
        mut sink: S,
        recovered: Version,
        image: S::Image,
        max_pending_bytes: usize,
    ) -> Self {
        let step_bytes = sink.step_bytes();
        Self {
            log: Mutex::new(Log {
                checkpoints: Checkpoints::new(sink.checkpointed(), sink.sweep()),
                sink: Some(sink),
                ended: false,
                status: Status::Open,
                pending: Vec::new(),
                pending_bytes: 0,
                writing_bytes: 0,
                committed: recovered,
                wanted: recovered,
                image,
                leader: 0,
                waiters: BTreeMap::new(),
                next_waiter: 0,
                gather: Gather::default(),
                server: None,
                counts: Counts::default(),
            }),
            durable: AtomicU64::new(recovered.as_u64()),
            max_pending_bytes,
            step_bytes,
        }
    }

    /// Commits: `swap` makes the new state the current one, under the lock that orders the deltas. Returns
    /// the image before it, for the caller to drop; none where there is no room (rule 5), and then nothing
    /// happened. One that is `Buffered` is to be written soon (rule 8); one that is `Synced` will be waited for, so
    /// where that cannot be (rule 9) it is an error and nothing happened.
    ///
    /// One thread at a time calls it.
    pub(super) fn publish(
        &self,
        delta: &mut Vec<u8>,
        level: Durability,
        swap: impl FnOnce() -> (Version, S::Image),
    ) -> Result<Option<S::Image>, Error> {
        let mut log = self.log.lock();
        log.status.check()?;
        if level == Durability::Synced {
            log.check_parks()?;
        }
        if log.pending_bytes >= self.max_pending_bytes {
            return Ok(None);
        }
        let (version, image) = swap();
        log.committed = version;
        if level == Durability::Buffered {
            log.wanted = version;
        }
        log.pending_bytes += delta.len();
        log.pending.push(std::mem::take(delta));
        Ok(Some(std::mem::replace(&mut log.image, image)))
    }

    /// Blocks until what is pending now is written, which makes room; `first` where this commit has not
    /// waited for room before.
    pub(super) fn make_room(&self, first: bool) -> Result<(), Error> {
        let mut log = self.log.lock();
        log.counts.stalls += u64::from(first);
        let behind = log.committed;
        drop(log);
        self.wait(behind)
    }

    /// Whether there would be room for a delta now (rule 5).
    pub(super) fn has_room(&self) -> Result<bool, Error> {
        let log = self.log.lock();
        log.status.check()?;
        Ok(log.pending_bytes < self.max_pending_bytes)
    }

    /// Blocks until all that was wanted when it was called is written: whether there was anything that is
    /// written now, and whether the log has failed, now or earlier, wanted or not.
    pub(super) fn write_wanted(&self) -> (bool, bool) {
        let wanted = self.log.lock().wanted;
        let behind = self.durable() < wanted;
        let written = self.wait(wanted).is_ok() && behind;
        (written, matches!(self.log.lock().status, Status::Poisoned(_)))
    }

    pub(super) fn durable(&self) -> Version {
        // Ordering: Acquire, pairs with the Release store in `lead`: whoever sees a version durable also
        // sees all that its leader did to make it so. Relaxed would let it act on the acknowledgement
        // without that.
        Version::from_u64(self.durable.load(site("state.journal.durable.load", Ordering::Acquire)))
    }

    /// As if so many had waited for the last group.
    #[cfg(all(test, phalanx_loom))]
    pub(super) fn expect(&self, waiters: usize) {
        self.log.lock().gather.expect(waiters);
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        self.log.lock().status.check()
    }

    /// Whether this thread may park here (rule 9). It stays so while it does nothing else.
    pub(super) fn check_parks(&self) -> Result<(), Error> {
        self.log.lock().check_parks()
    }

    /// Whether others may wait for this thread here: it has the sink (rule 9), or a checkpoint.
    pub(super) fn may_be_waited_for(&self) -> bool {
        let log = self.log.lock();
        log.check_parks().is_err() || log.checkpoints.is_mine()
    }

    pub(super) fn counts(&self) -> Counts {
        let log = self.log.lock();
        let mut counts = Counts {
            pending_commits: log.committed.as_u64() - self.durable().as_u64(),
            pending_bytes: (log.pending_bytes + log.writing_bytes) as u64,
            waiters: log.waiters.len() as u64,
            poisoned: matches!(log.status, Status::Poisoned(_)),
            ..log.counts.clone()
        };
        // Where the log has ended nobody gets on with it.
        log.checkpoints.count(&mut counts, log.status.check().is_ok());
        counts
    }

    /// Blocks until `version` is durable, leading where nobody else does.
    pub(super) fn wait(&self, version: Version) -> Result<(), Error> {
        if self.durable() >= version {
            return Ok(());
        }
        let parker = Parker::new();
        let waker = parker.waker();
        let mut key = None;
        loop {
            match self.look(version, &mut key, &waker, Whose::Parker) {
                Poll::Ready(result) => return result,
                Poll::Pending => parker.park(),
            }
        }
    }

    /// Leaves the writes for who polls to this thread, which is woken for them (rule 12) by a waker of this crate,
    /// until [`Journal::unserve`].
    pub(super) fn serve(&self, waker: Waker) {
        self.log.lock().server = Some(Server { thread: me(), waker, rung: Version::ZERO });
    }

    /// The server goes (rule 12).
    pub(super) fn unserve(&self) {
        let (server, waiters) = {
            let mut log = self.log.lock();
            (log.server.take(), log.take_waiters())
        };
        drop(server);
        if !left_out("state.journal.unserve") {
            let panics = wake(waiters.into_values());
            self.log.lock().counts.caught_panics += panics;
        }
    }

    /// Takes a waiter back that will not be polled again.
    pub(super) fn forget(&self, key: &mut Option<WaiterKey>) {
        if key.is_some() {
            let gone = self.log.lock().forget(key);
            drop(gone);
        }
    }

    /// One look: leads if nobody does, else leaves the waker under `key`.
    pub(super) fn poll(
        &self,
        version: Version,
        key: &mut Option<WaiterKey>,
        waker: &Waker,
    ) -> Poll<Result<(), Error>> {
        self.look(version, key, waker, Whose::Host)
    }

    fn look(
        &self,
        version: Version,
        key: &mut Option<WaiterKey>,
        waker: &Waker,
        whose: Whose,
    ) -> Poll<Result<(), Error>> {
        let mut mine = Some(waker.clone());
        let mut log = self.log.lock();
        loop {
            let result = if self.durable() >= version {
                Ok(())
            } else if let Err(error) = log.status.check_waits() {
                Err(error)
            } else if version > log.committed {
                Err(Error::new(
                    ErrorKind::InvalidArgument,
                    format!("{version} was never committed; the newest is {}", log.committed),
                ))
            } else if !(whose == Whose::Host && log.is_served())
                && log.sink.is_some()
                && log.status.check().is_ok()
                && log.checkpoints.puts_off_groups()
            {
                drop(log);
                // An error is found by the next look.
                let _ = self.advance(None);
                log = self.log.lock();
                continue;
            } else if !(whose == Whose::Host && log.is_served())
                && let Some(sink) = log.sink.take()
            {
                // Who polls may keep those from coming whom it would wait for.
                if whose == Whose::Parker {
                    log = self.gather(log, sink.patience());
                }
                log = self.lead(log, sink, false);
                continue;
            } else if whose == Whose::Parker
                && let Err(error) = log.check_parks()
            {
                Err(error)
            } else {
                let server = log.ask(version, whose).filter(|_| !left_out("state.journal.ring"));
                log.checkpoints.awaits(version);
                let old = log.register(key, &mut mine, whose);
                let others = log.waiters.len();
                let leader = log.gather.arrived(others);
                drop(log);
                // Both are parkers': no code of the host.
                server.into_iter().chain(leader).for_each(Waker::wake);
                drop(old);
                return Poll::Pending;
            };
            let gone = log.forget(key);
            drop(log);
            drop(gone);
            return Poll::Ready(result);
        }
    }

    /// Takes no more commits, makes those that are there durable, and lets go of the store. Whoever else
    /// closes it returns when that is done.
    pub(super) fn close(&self) -> Result<(), Error> {
        let parker = Parker::new();
        let waker = parker.waker();
        let mut key = None;
        // The waker is a parker's: no code of the host.
        loop {
            let mut log = self.log.lock();
            log.check_parks()?;
            if matches!(log.status, Status::Open) {
                log.status = Status::Closing;
            }
            if log.ended {
                log.forget(&mut key);
                return log.status.check_writes();
            }
            let Some(sink) = log.sink.take() else {
                log.register(&mut key, &mut Some(waker.clone()), Whose::Parker);
                drop(log);
                parker.park();
                continue;
            };
            let poisoned = log.status.check_waits();
            if poisoned.is_ok() && !log.pending.is_empty() {
                drop(self.lead(log, sink, false));
                continue;
            }
            log.forget(&mut key);
            let draft = log.checkpoints.end();
            log.leader = me();
            drop(log);
            let dropped = contained(|| drop(draft));
            // All is written by now, so a panic of the engine as it goes takes nothing along.
            let closed = contained(|| sink.close());
            let mut log = self.log.lock();
            log.ended = true;
            log.leader = 0;
            if poisoned.is_ok() {
                log.status = Status::Closed;
            }
            let (waiters, steppers) = (log.take_waiters(), log.checkpoints.take_steppers());
            drop(log);
            if !left_out("state.journal.close") {
                let panics = wake(steppers.into_iter().chain(waiters.into_values()))
                    + u64::from(dropped.is_none())
                    + u64::from(closed.is_none());
                self.log.lock().counts.caught_panics += panics;
            }
            return poisoned.and(closed.unwrap_or(Ok(())));
        }
    }

    /// Runs `f` with the sink, once it is free.
    fn with_sink<R>(
        &self,
        f: impl FnOnce(MutexGuard<'_, Log<S>>, S) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let parker = Parker::new();
        let waker = parker.waker();
        let mut key = None;
        // The waker is a parker's: no code of the host.
        loop {
            let mut log = self.log.lock();
            if let Err(error) = log.status.check() {
                log.forget(&mut key);
                return Err(error);
            }
            if let Some(sink) = log.sink.take() {
                log.forget(&mut key);
                return f(log, sink);
            }
            log.check_parks()?;
            log.register(&mut key, &mut Some(waker.clone()), Whose::Parker);
            drop(log);
            parker.park();
        }
    }

    /// Waits for those who are expected to be part of the group, while this thread has the sink.
    fn gather<'a>(
        &'a self,
        mut log: MutexGuard<'a, Log<S>>,
        patience: Duration,
    ) -> MutexGuard<'a, Log<S>> {
        let parker = Parker::new();
        let others = log.waiters.len();
        if patience.is_zero() || !log.gather.begin(others, || parker.waker()) {
            return log;
        }
        drop(log);
        parker.park_timeout(patience);
        let mut log = self.log.lock();
        log.gather.end();
        log
    }

    /// Writes what is pending as one group, and does what it owes of a checkpoint.
    fn lead<'a>(
        &'a self,
        mut log: MutexGuard<'a, Log<S>>,
        sink: S,
        asked: bool,
    ) -> MutexGuard<'a, Log<S>> {
        let leader = log.checkpoints.debts.enter();
        let group = Group { of: Some(leader), by: Some(leader) };
        let (log, all) = self.write(log, sink, asked, group);
        self.pay(log, leader, all)
    }

    /// Writes what is pending as one group, and after it does a step of a checkpoint that is ready; begins one where
    /// it is due or `asked` for. Whether the leader has to go on until all of it is done, where there is one.
    fn write<'a>(
        &'a self,
        mut log: MutexGuard<'a, Log<S>>,
        mut sink: S,
        asked: bool,
        whose: Group,
    ) -> (MutexGuard<'a, Log<S>>, bool) {
        let group = std::mem::take(&mut log.pending);
        let image = log.image.clone();
        let last = log.committed;
        log.writing_bytes = std::mem::take(&mut log.pending_bytes);
        log.leader = me();
        drop(log);

        let first = Version::from_u64(last.as_u64() + 1 - group.len() as u64);
        let (mut panics, mut all) = (0, false);
        // Without a group there is nothing to make durable: what is not so then was lost (rule 3).
        let mut written = if group.is_empty() {
            Ok(())
        } else {
            engine(|| sink.append(first, &group)).map(|bytes| {
                let mut log = self.log.lock();
                log.counts.groups += 1;
                log.checkpoints.owe(whose.of, bytes);
                let expected = log.waiters.len() + 1;
                log.gather.expect(expected);
                // Ordering: Release, pairs with the Acquire load in `durable`; see there.
                self.durable
                    .store(last.as_u64(), site("state.journal.durable.store", Ordering::Release));
                let parkers = log.take_parkers();
                drop(log);
                // Acknowledged before anything else; the others after one step (rule 10).
                panics += wake(parkers.into_values());
            })
        };
        let mut done = None;
        if written.is_ok() {
            (written, done) = self.step_after(&mut sink, whose.by);
        }

        let mut log = self.log.lock();
        if written.is_ok() {
            all = log.is_left_to_leaders(&sink);
            Self::begin(&mut log, &mut sink, &image, asked);
        }
        log.sink = Some(sink);
        log.leader = 0;
        log.writing_bytes = 0;
        let gone = written.err().and_then(|error| log.poison(&error));
        let (waiters, steppers) = (log.take_waiters(), log.checkpoints.take_steppers());
        drop(log);
        panics += wake(steppers.into_iter().chain(waiters.into_values()));
        // They may be the last references to values of the host.
        panics += u64::from(contained(|| drop((gone, done))).is_none());
        panics += u64::from(contained(|| drop(image)).is_none());
        let mut log = self.log.lock();
        log.counts.caught_panics += panics;
        (log, all)
    }
}

impl<S: Sink> Log<S> {
    /// Returns the waker that it replaced, to be dropped outside the lock.
    fn register(
        &mut self,
        key: &mut Option<WaiterKey>,
        waker: &mut Option<Waker>,
        whose: Whose,
    ) -> Option<Waker> {
        let key = *key.get_or_insert_with(|| {
            self.next_waiter += 1;
            (whose, self.next_waiter)
        });
        self.waiters.insert(key, waker.take()?)
    }

    /// Whether another thread writes for who polls on this one.
    fn is_served(&self) -> bool {
        self.server.as_ref().is_some_and(|server| server.thread != me())
    }

    /// Has the server, if there is one for who looks, write a version; its waker unless it was woken for that.
    fn ask(&mut self, version: Version, whose: Whose) -> Option<Waker> {
        if whose == Whose::Parker || !self.is_served() {
            return None;
        }
        self.wanted = self.wanted.max(version);
        let server = self.server.as_mut().filter(|server| server.rung < version)?;
        server.rung = version;
        Some(server.waker.clone())
    }

    /// Rule 9.
    fn check_parks(&self) -> Result<(), Error> {
        if self.leader == me() { Err(reentrant()) } else { Ok(()) }
    }

    fn forget(&mut self, key: &mut Option<WaiterKey>) -> Option<Waker> {
        self.waiters.remove(&key.take()?)
    }

    /// Those that are no code of the host's.
    fn take_parkers(&mut self) -> BTreeMap<WaiterKey, Waker> {
        let others = self.waiters.split_off(&(Whose::Host, 0));
        std::mem::replace(&mut self.waiters, others)
    }

    fn take_waiters(&mut self) -> BTreeMap<WaiterKey, Waker> {
        std::mem::take(&mut self.waiters)
    }
}

fn reentrant() -> Error {
    Error::new(
        ErrorKind::Reentrant,
        "a checkpoint was to be waited for from within its own encoding, as by the `Serialize` of a value, or \
         the disk from within a write by the same thread; do that outside of it",
    )
}

/// A panic of the engine, or of what a checkpoint encodes, is a failure of the store like any other.
fn engine<R>(f: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    contained(f).unwrap_or_else(|| {
        Err(Error::new(ErrorKind::Internal, "the storage engine or the encoding of a row panicked"))
    })
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod scripted_tests;

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;
