//! Checkpoints, a step at a time.
//!
//! Three drive them, with the same steps: a leader after its group, whoever wants a checkpoint now, and
//! [`StateManager::maintain`](crate::state::StateManager::maintain). Rules that hold here, beside the journal's:
//!
//! 1. A checkpoint is begun only by a leader, of the image it took along with its group, after that group was
//!    appended: so it is of what was appended last and of nothing that was not.
//! 2. There is one draft at most. Who prepares its next part, or writes it, has taken it out of the log, and puts it
//!    back (or ends it) whatever happens. It is prepared without the sink. It is written by whoever has the
//!    sink and finds it ready, one part at a time: the sink is put back after each.
//! 3. Whoever puts back the sink or a draft then wakes all who wait for either.
//! 4. What cannot be encoded has touched nothing that counts: the draft is abandoned, which is told, and groups go
//!    on. Only a failure of the sink ends the log, and only who has the sink ends it.
//! 5. `awaited` is the newest version that somebody has waited for. Where it is pending, whoever would do a step, or
//!    has done one, writes the group first: so who waits is overtaken by the one step that is under way, and no other,
//!    but for rule 6, and is woken when it is written rather than to look on.
//! 6. While there is a draft each group owes [`PACE`] times its bytes of steps, and its leader does them. While others
//!    are at it, it leaves up to [`debts::BYTES_MAX`] undone, together with what nobody is at, and waits
//!    for them where that is more. Where more than that is undone which no leader is at (of groups that were written for
//!    others under rule 5), steps come before groups, and half of what a leader does goes there: how much it has to do
//!    itself puts nobody off by more than that. So no thread brings a second group before the first is
//!    paid for, and what is owed has a bound at any time: that and the debt of one group which nobody is at, and of each
//!    leader that of its own.
//! 7. Once twice as much was appended as makes a checkpoint due, each leader goes on until the draft is done (that
//!    one: another may begin at once) or others are at it. So a process ends a checkpoint however short it lives, if
//!    it writes a few groups. While there is a server (rule 12 of the journal) on another thread it is that one which
//!    goes on: each group that finds the checkpoint overdue wakes it, and its leader does what the group owes and no more,
//!    until it is four times as much: so a server that is held up, or goes early, keeps no checkpoint from its end.
//! 8. Where the log ends, so does the draft: who finds that puts none back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use super::debts::{Debts, Leader};
use super::{Counts, Journal, Log, Sink, Status, engine};
use crate::state::Version;
use crate::state::contain::{contained, wake};
use crate::sync::{MutexGuard, Parker, left_out, me};
use crate::{Error, ErrorKind};

/// A checkpoint writes the state, and removes the one before it and what it covers: each at most about as large as the
/// groups after which the next one is due. So with this the next one finds all of that done as a rule. Where it does
/// not (the state shrank, an opening found much to remove, or commits make it due and not bytes), rule 7 does the rest.
const PACE: u64 = 3;

/// Rule 7: so many times as much as makes a checkpoint due, and where there is a server.
const OVERDUE: u64 = 2;
const OVERDUE_SERVED: u64 = 4;

/// A checkpoint that is being written.
pub(in crate::state) trait Draft: Send {
    type Image;

    fn version(&self) -> Version;
    /// Whether it holds its image, or some of it.
    fn has_image(&self) -> bool;
    /// Whether the sink can do a step with it.
    fn is_ready(&self) -> bool;
    /// Encodes so many bytes at least, for the next step; gives back the image with the last part.
    fn prepare(&mut self, bytes: usize) -> Result<Option<Self::Image>, Error>;
    /// Gives up what is not written. It is ready from then on, to remove what is.
    fn abandon(&mut self);
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum Step {
    More,
    /// With it the checkpoint became valid; there is more to do.
    Valid,
    Done,
}

/// A group: of which leader it is, unless it was written for others, and which one does the step after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) of: Option<Leader>,
    pub(super) by: Option<Leader>,
}

/// What became of an attempt to get on with a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum Advance {
    /// There is nothing to do.
    Idle,
    Stepped,
    /// Others have the sink or the draft; the waker is called when they have put it back.
    Busy,
}

/// Rule 2.
enum Job<D> {
    None,
    Resting(D),
    Taken {
        version: Version,
        has_image: bool,
        /// The number of the thread that has it.
        by: usize,
    },
}

/// What the log knows of its checkpoints.
pub(super) struct Checkpoints<D> {
    job: Job<D>,
    /// The newest valid one.
    valid: Version,
    /// The newest that could not be encoded, and why, until one is valid: rule 4.
    failed: Option<(Version, ErrorKind, Arc<str>)>,
    /// Rule 5.
    awaited: Version,
    /// Rule 6.
    pub(super) debts: Debts,
    /// How many drafts there were.
    drafts: u64,
    /// Whether the last group found that the checkpoint is overdue (rule 7).
    overdue: bool,
    /// Who waits to get on with the draft, or is to: parkers of this crate.
    steppers: Vec<Waker>,
}

impl<D: Draft> Checkpoints<D> {
    pub(super) fn new(valid: Version, leftovers: Option<D>) -> Self {
        Self {
            job: leftovers.map_or(Job::None, Job::Resting),
            valid,
            failed: None,
            awaited: Version::ZERO,
            debts: Debts::default(),
            drafts: 0,
            overdue: false,
            steppers: Vec::new(),
        }
    }

    /// Somebody waits for `version` (rule 5).
    pub(super) fn awaits(&mut self, version: Version) {
        self.awaited = self.awaited.max(version);
    }

    /// The draft, if `ready` is what it is.
    fn take(&mut self, ready: bool) -> Option<D> {
        let taken = match &self.job {
            Job::Resting(draft) if draft.is_ready() == ready => {
                Job::Taken { version: draft.version(), has_image: draft.has_image(), by: me() }
            }
            _ => return None,
        };
        let taken = if left_out("state.journal.taken") { Job::None } else { taken };
        match std::mem::replace(&mut self.job, taken) {
            Job::Resting(draft) => Some(draft),
            _ => None,
        }
    }

    /// The draft if nobody has it, as the log ends (rule 8).
    pub(super) fn end(&mut self) -> Option<D> {
        if matches!(self.job, Job::Taken { .. }) {
            return None;
        }
        match std::mem::replace(&mut self.job, Job::None) {
            Job::Resting(draft) => Some(draft),
            _ => None,
        }
    }

    fn version(&self) -> Option<Version> {
        match &self.job {
            Job::None => None,
            Job::Resting(draft) => Some(draft.version()),
            Job::Taken { version, .. } => Some(*version),
        }
    }

    /// The version whose image it holds.
    fn image(&self) -> Option<Version> {
        let has_image = match &self.job {
            Job::None => false,
            Job::Resting(draft) => draft.has_image(),
            Job::Taken { has_image, .. } => *has_image,
        };
        self.version().filter(|_| has_image)
    }

    fn is_idle(&self) -> bool {
        matches!(self.job, Job::None)
    }

    /// Whether this thread prepares the draft, or does a step with it.
    pub(super) fn is_mine(&self) -> bool {
        matches!(self.job, Job::Taken { by, .. } if by == me())
    }

    /// A group of so many bytes was written, of this leader or for others (rule 6).
    pub(super) fn owe(&mut self, leader: Option<Leader>, bytes: u64) {
        if !self.is_idle() {
            self.debts.owe(leader, PACE.saturating_mul(bytes));
        }
    }

    /// Whether steps come before groups, and there is one that whoever has the sink can do.
    pub(super) fn puts_off_groups(&self) -> bool {
        matches!(self.job, Job::Resting(_)) && self.debts.is_behind(None)
    }

    pub(super) fn take_steppers(&mut self) -> Vec<Waker> {
        if left_out("state.journal.steppers") {
            Vec::new()
        } else {
            std::mem::take(&mut self.steppers)
        }
    }

    pub(super) fn count(&self, counts: &mut Counts, goes_on: bool) {
        counts.checkpoint_pending = goes_on && !self.is_idle();
        counts.checkpoint_snapshot = self.image().filter(|_| goes_on);
        counts.checkpoint_failure = self.failed.as_ref().map(|(.., reason)| Arc::clone(reason));
    }
}

impl<S: Sink> Journal<S> {
    /// Writes a checkpoint now, of all that was committed, and returns its version.
    pub(in crate::state) fn checkpoint(&self) -> Result<Version, Error> {
        let mut wanted = None;
        loop {
            let (wanted, valid) = self.with_sink(|log, sink| {
                // Commits may come meanwhile; the lead covers what is there before it.
                let committed = log.committed;
                let wanted = *wanted.get_or_insert(committed);
                let log = self.lead(log, sink, true);
                let checkpoints = &log.checkpoints;
                let done =
                    checkpoints.valid >= wanted && checkpoints.version() != Some(checkpoints.valid);
                Ok((wanted, done.then_some(checkpoints.valid)))
            })?;
            // There may be another one under way, which is older and has to be finished first.
            if let Some(version) = valid {
                return Ok(version);
            }
            if let Some(version) = self.finish(wanted)? {
                return Ok(version);
            }
        }
    }

    /// Gets on with the checkpoint that there is, up to its end; the newest if it is of `version` or later.
    fn finish(&self, version: Version) -> Result<Option<Version>, Error> {
        let parker = Parker::new();
        let waker = parker.waker();
        loop {
            let step = self.advance(Some(&waker));
            let log = self.log.lock();
            let checkpoints = &log.checkpoints;
            let valid = (checkpoints.valid >= version).then_some(checkpoints.valid);
            let step = match step {
                // Whatever became of the log since: it was written.
                Err(_) if valid.is_some() => return Ok(valid),
                step => step?,
            };
            if step == Advance::Idle || valid.is_some() && checkpoints.version() != valid {
                return match &checkpoints.failed {
                    Some((failed, kind, reason)) if valid.is_none() && *failed >= version => {
                        Err(Error::new(*kind, reason.to_string()))
                    }
                    _ => Ok(valid),
                };
            }
            drop(log);
            if step == Advance::Busy {
                parker.park();
            }
        }
    }

    /// Prepares the next part of a checkpoint, or writes it where the sink is free. With a waker it is an error to
    /// find that this thread has what it would wait for.
    pub(in crate::state) fn advance(&self, waker: Option<&Waker>) -> Result<Advance, Error> {
        self.advance_by(None, waker)
    }

    /// The same of a leader, which pays with what it does.
    fn advance_by(&self, by: Option<Leader>, waker: Option<&Waker>) -> Result<Advance, Error> {
        let mut log = self.log.lock();
        log.status.check()?;
        if let Some(draft) = log.checkpoints.take(false) {
            drop(log);
            self.prepare(draft);
            return Ok(Advance::Stepped);
        }
        if log.checkpoints.is_idle() {
            return Ok(Advance::Idle);
        }
        if let Some(sink) = log.sink.take() {
            if self.owes_a_group(&log) {
                // Nobody is at what it owes: rule 6.
                drop(self.write(log, sink, false, Group { of: None, by }).0);
                return Ok(Advance::Stepped);
            }
            if let Some(draft) = log.checkpoints.take(true) {
                self.step_alone(log, sink, draft, by);
                return Ok(Advance::Stepped);
            }
            log.sink = Some(sink);
        }
        if let Some(waker) = waker {
            if log.checkpoints.is_mine() {
                return Err(super::reentrant());
            }
            log.check_parks()?;
            log.checkpoints.steppers.push(waker.clone());
        }
        Ok(Advance::Busy)
    }

    /// After its group, for a leader that has put the sink back: prepares the next part if nobody does, and sees to it
    /// that what its group owes is done (rule 6), or all of the draft (rule 7).
    pub(super) fn pay<'a>(
        &'a self,
        mut log: MutexGuard<'a, Log<S>>,
        leader: Leader,
        all: bool,
    ) -> MutexGuard<'a, Log<S>> {
        if log.status.check().is_err() {
            log.checkpoints.debts.leave(leader);
            return log;
        }
        if let Some(draft) = log.checkpoints.take(false) {
            drop(log);
            self.prepare(draft);
            log = self.log.lock();
        }
        log.checkpoints.debts.take_on(leader);
        let draft = log.checkpoints.drafts;
        let mut parker = None;
        loop {
            let checkpoints = &log.checkpoints;
            // The draft that was there when it began: of the next one, which may begin in a step of this thread, others
            // have to see to the end.
            let all = all && checkpoints.drafts == draft;
            let paid = checkpoints.debts.left(leader) == 0 && !all;
            if paid || checkpoints.is_idle() || log.status.check().is_err() {
                break;
            }
            let waits = checkpoints.debts.is_behind(Some(leader));
            drop(log);
            let waker = waits.then(|| parker.get_or_insert_with(Parker::new).waker());
            let advanced = self.advance_by(Some(leader), waker.as_ref());
            if waits
                && let Some(parker) = &parker
                && matches!(advanced, Ok(Advance::Busy))
            {
                parker.park();
            }
            log = self.log.lock();
            if !waits && matches!(advanced, Ok(Advance::Busy)) || advanced.is_err() {
                break;
            }
        }
        log.checkpoints.debts.leave(leader);
        log
    }

    /// Without the sink.
    fn prepare(&self, mut draft: S::Draft) {
        let prepared = engine(|| draft.prepare(self.step_bytes));
        let mut panics = 0;
        let failed = match prepared {
            Ok(image) => {
                // It may be the last reference to values of the host.
                panics += u64::from(contained(|| drop(image)).is_none());
                None
            }
            Err(error) => {
                panics += u64::from(contained(|| draft.abandon()).is_none());
                Some(error)
            }
        };
        let mut log = self.log.lock();
        if let Some(error) = failed {
            // Rule 4.
            log.counts.checkpoints_failed += 1;
            let reason = format!("a checkpoint could not be encoded, and was given up: {error}");
            log.checkpoints.failed = Some((draft.version(), error.kind(), reason.into()));
        }
        let gone = log.rest(draft);
        let steppers = log.checkpoints.take_steppers();
        drop(log);
        panics += wake(steppers) + u64::from(contained(|| drop(gone)).is_none());
        if panics > 0 {
            self.log.lock().counts.caught_panics += panics;
        }
    }

    /// For a leader after its group: does one step if the draft is ready. See [`Journal::step`].
    pub(super) fn step_after(
        &self,
        sink: &mut S,
        by: Option<Leader>,
    ) -> (Result<(), Error>, Option<S::Draft>) {
        let mut log = self.log.lock();
        if log.status.check().is_err() {
            return (Ok(()), None);
        }
        // Others may be preparing it, so it is taken under the lock and the lock let go of.
        let ready = log.checkpoints.take(true);
        drop(log);
        ready.map_or((Ok(()), None), |draft| self.step(sink, draft, by))
    }

    /// Whether there is a checkpoint that is overdue, for the server to go on with (rule 7).
    pub(in crate::state) fn is_overdue(&self) -> bool {
        let checkpoints = &self.log.lock().checkpoints;
        checkpoints.overdue && !checkpoints.is_idle()
    }

    /// Begins a checkpoint of `image` where that is to be.
    pub(super) fn begin(log: &mut Log<S>, sink: &mut S, image: &S::Image, asked: bool) {
        let begins = log.status.check().is_ok() && log.checkpoints.is_idle();
        if !begins || !asked && !sink.is_due() {
            return;
        }
        // Rule 1.
        let newest = left_out("state.journal.image").then(|| log.image.clone());
        let Some(draft) = sink.begin(newest.as_ref().unwrap_or(image)) else { return };
        let checkpoints = &mut log.checkpoints;
        checkpoints.job = Job::Resting(draft);
        // Every group so far came before it.
        checkpoints.debts.forgive();
        checkpoints.drafts += 1;
    }

    /// Does a step with a draft that is ready and was taken; who calls it has the sink. Gives back the draft if that
    /// ended with it, to be dropped once the sink is put back: it may hold values of the host.
    fn step(
        &self,
        sink: &mut S,
        mut draft: S::Draft,
        by: Option<Leader>,
    ) -> (Result<(), Error>, Option<S::Draft>) {
        let stepped = engine(|| sink.step(&mut draft));
        let mut log = self.log.lock();
        log.counts.checkpoint_steps += 1;
        let step = match stepped {
            Ok((step, bytes)) => {
                log.checkpoints.debts.pay(by, bytes);
                step
            }
            Err(error) => {
                log.checkpoints.job = Job::None;
                return (Err(error), Some(draft));
            }
        };
        if step == Step::Valid {
            log.checkpoints.valid = draft.version();
            log.checkpoints.failed = None;
            log.counts.checkpoints += 1;
        }
        let gone = if step == Step::Done {
            log.checkpoints.job = Job::None;
            Some(draft)
        } else {
            log.rest(draft)
        };
        (Ok(()), gone)
    }

    /// Whether a group comes before the next step (rule 5).
    fn owes_a_group(&self, log: &Log<S>) -> bool {
        self.durable() < log.checkpoints.awaited && !log.checkpoints.debts.is_behind(None)
    }

    /// Takes the sink for one step and a group that somebody waits for, and puts it back or ends the log.
    fn step_alone(
        &self,
        mut log: MutexGuard<'_, Log<S>>,
        mut sink: S,
        draft: S::Draft,
        by: Option<Leader>,
    ) {
        log.leader = me();
        drop(log);
        let (written, done) = self.step(&mut sink, draft, by);
        let mut log = self.log.lock();
        if written.is_ok() && log.status.check().is_ok() && self.owes_a_group(&log) {
            let (log, _) = self.write(log, sink, false, Group { of: None, by });
            drop(log);
            if contained(|| drop(done)).is_none() {
                self.log.lock().counts.caught_panics += 1;
            }
            return;
        }
        log.sink = Some(sink);
        log.leader = 0;
        let gone = written.err().and_then(|error| log.poison(&error));
        let waiters = if left_out("state.journal.step.waiters") {
            BTreeMap::new()
        } else {
            log.take_waiters()
        };
        let steppers = log.checkpoints.take_steppers();
        drop(log);
        let mut panics = wake(steppers.into_iter().chain(waiters.into_values()));
        panics += u64::from(contained(|| drop((gone, done))).is_none());
        if panics > 0 {
            self.log.lock().counts.caught_panics += panics;
        }
    }
}

impl<S: Sink> Log<S> {
    /// After a group: whether its leader goes on to the end of the draft (rule 7). A server that is there for it is woken
    /// with those who wait for the draft.
    pub(super) fn is_left_to_leaders(&mut self, sink: &S) -> bool {
        let served = self.is_served();
        self.checkpoints.overdue = sink.is_past(OVERDUE);
        if let Some(server) = self.server.as_ref().filter(|_| served && self.checkpoints.overdue) {
            self.checkpoints.steppers.push(server.waker.clone());
        }
        sink.is_past(if served { OVERDUE_SERVED } else { OVERDUE })
    }

    /// Puts a draft back; gives it back instead where the log has ended, to be dropped under no lock (rule 8).
    fn rest(&mut self, draft: S::Draft) -> Option<S::Draft> {
        if self.status.check().is_err() {
            self.checkpoints.job = Job::None;
            return Some(draft);
        }
        self.checkpoints.job = Job::Resting(draft);
        None
    }

    /// Ends the log. The first failure is the reason. Gives back the draft, to be dropped under no lock (rule 8).
    pub(super) fn poison(&mut self, error: &Error) -> Option<S::Draft> {
        self.status.check_waits().ok()?;
        self.status = Status::Poisoned(error.to_string());
        self.checkpoints.end()
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;
