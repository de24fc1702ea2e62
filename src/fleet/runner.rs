//! Who works next: the agents whose mailboxes are scheduled, the queue of tasks, and the sleeping workers.
//!
//! Rules that hold here:
//!
//! 1. What is ready stands in line once for each time somebody was told, first come first served. The queue
//!    of tasks stands in line like an agent. Who has it runs one task after the other while nothing else is in
//!    line, and so many at most; then it goes to the end. So neither starves the other.
//! 2. An entry is a hint: the mailbox, or the queue, says whether there is something to do.
//! 3. No worker sleeps while something is ready and nobody is on the way to it: whoever lines something up
//!    rouses a sleeper unless one is searching, and the last to stop searching rouses another if more is ready.
//! 4. `active` is the number of mailboxes that are not idle; handlers that are made ahead do not count. While the fleet takes no more, none becomes
//!    active: so a fleet that drains and has none active has handled every message it accepted.
//! 5. A worker that says it is occupied, which it does before it runs the host's code, is so until it asks for
//!    the next thing; once the fleet stops, none is given anything.
//! 6. While an alarm is set and a worker sleeps, one of those that sleep sleeps only until then: the keeper of the
//!    watch. While none sleeps, whoever takes something from the line looks at the time first. Whoever sets an earlier alarm rouses it, and when it leaves for something else another one is roused.
//! 7. A worker that has made a handler may take the next that is to be made, if that stands first in line: it takes no
//!    other out of its turn, and does not look at the time, so it takes none where rule 6 has whoever takes something do so.

use std::collections::VecDeque;
use std::task::Waker;

use crossbeam::utils::CachePadded;

use super::hand::Taker;
use super::id::AgentId;
use crate::clock::{Clock, Timestamp};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Brief, Parker, left_out, watch};

#[cfg(all(test, phalanx_loom))]
mod loom_tests;
#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;

/// How many entries of agents that have ended may stand in line whatever its length.
const GONE: usize = 64;

/// How many entries ahead of a handler that is made next that one is which is fetched meanwhile.
const AHEAD: usize = 6;

/// How many entries the line has room for whatever its length.
const KEPT_ROOM: usize = 1024;

/// What a worker is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// Give the mailbox of this agent a turn.
    Mailbox(AgentId),
    /// Make the handler of this agent.
    Prewarm(AgentId),
    /// Look into the queue of tasks.
    Tasks,
}

/// Nothing new is taken any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended;

/// A sleeper that is to be roused, outside the locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a worker that is not roused sleeps on"]
pub(super) struct Roused(Option<u16>);

/// See the file's head.
pub(super) struct Runner {
    shared: CachePadded<Shared>,
    /// Whether nothing new is taken: a hint, so that most who come too late need no lock.
    closed: AtomicBool,
    /// Which workers are occupied.
    occupied: Box<[CachePadded<AtomicBool>]>,
    clock: Clock,
    /// How to rouse each worker.
    wakers: Box<[Waker]>,
}

/// What changes with every entry, on one line of the cache: who lines something up has it for both.
#[derive(Debug)]
struct Shared {
    line: Brief<Line>,
    /// How many entries are in line; what a worker that searches watches.
    length: AtomicUsize,
    /// Whether the queue of tasks is one of them.
    tasks: AtomicBool,
}

#[derive(Debug)]
struct Line {
    ready: VecDeque<Ready>,
    /// Agents that ended while their mailboxes were scheduled, and that may still be in line.
    gone: Vec<AgentId>,
    /// Whether the queue of tasks is in line.
    tasks: bool,
    /// Workers that sleep; the last to lie down is the first to be roused.
    sleeping: Vec<u16>,
    /// Workers that look for something to do, those roused and not up yet included.
    searching: usize,
    active: usize,
    /// When the queue of tasks is to be looked at, whatever else happens.
    alarm: Option<Timestamp>,
    /// Who keeps the watch, and until when it sleeps.
    keeper: Option<(u16, Timestamp)>,
    draining: bool,
    stopping: bool,
}

/// A worker's own end of the runner.
#[derive(Debug)]
pub(super) struct Seat {
    parker: Parker,
    worker: u16,
    searching: bool,
    occupied: bool,
    /// What takes messages out of the worker's hand.
    pub(super) taker: Taker,
}

/// Whether a worker sleeps.
enum Bed {
    /// There is something to do.
    None,
    /// It sleeps, until then if that is said.
    Until(Option<Timestamp>),
}

impl Seat {
    pub(super) const fn worker(&self) -> u16 {
        self.worker
    }

    /// Rouses the worker, or has its next sleep end at once.
    pub(super) fn waker(&self) -> Waker {
        self.parker.waker()
    }
}

impl Runner {
    /// The runner of so many workers, and their seats.
    pub(super) fn new(workers: u16, clock: Clock) -> (Self, Vec<Seat>) {
        let seats: Vec<_> = (0..workers)
            .map(|worker| Seat {
                parker: Parker::new(),
                worker,
                searching: false,
                occupied: false,
                taker: Taker::none(),
            })
            .collect();
        let line = Line {
            ready: VecDeque::new(),
            gone: Vec::new(),
            tasks: false,
            sleeping: Vec::with_capacity(seats.len()),
            searching: 0,
            active: 0,
            alarm: None,
            keeper: None,
            draining: false,
            stopping: false,
        };
        let runner = Self {
            shared: CachePadded::new(Shared {
                line: Brief::new(line),
                length: AtomicUsize::new(0),
                tasks: AtomicBool::new(false),
            }),
            closed: AtomicBool::new(false),
            occupied: seats.iter().map(|_| CachePadded::new(AtomicBool::new(false))).collect(),
            clock,
            wakers: seats.iter().map(|seat| seat.parker.waker()).collect(),
        };
        (runner, seats)
    }

    /// Lines up a mailbox that was idle.
    #[inline]
    pub(super) fn schedule(&self, agent: AgentId) -> Result<Roused, Ended> {
        let mut line = self.shared.line.lock();
        if (line.draining || line.stopping) && !left_out("runner.schedule-while-draining") {
            return Err(Ended);
        }
        line.active += 1;
        Ok(self.line_up(&mut line, Ready::Mailbox(agent)))
    }

    /// Lines up a mailbox that was idle, for a task that was accepted before.
    pub(super) fn schedule_accepted(&self, agent: AgentId) -> Roused {
        let mut line = self.shared.line.lock();
        line.active += 1;
        self.line_up(&mut line, Ready::Mailbox(agent))
    }

    /// The same for one that stands in line from before it was idle.
    #[cold]
    pub(super) fn activate(&self, accepted: bool) -> Result<(), Ended> {
        let mut line = self.shared.line.lock();
        if (line.draining || line.stopping) && !accepted {
            return Err(Ended);
        }
        line.active += 1;
        Ok(())
    }

    /// Whether it drains or stops, for all that is known here.
    #[inline]
    pub(super) fn takes_no_more(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Lines up a mailbox that is active already.
    pub(super) fn reschedule(&self, agent: AgentId) {
        let roused = self.line_up(&mut self.shared.line.lock(), Ready::Mailbox(agent));
        self.rouse(roused);
    }

    /// Lines up agents whose handlers are to be made. A drain does not wait for that: they are not active by it.
    pub(super) fn prewarm(&self, agents: &[AgentId]) {
        if agents.is_empty() {
            return;
        }
        let roused = {
            let mut line = self.shared.line.lock();
            line.ready.extend(agents.iter().copied().map(Ready::Prewarm));
            self.publish(&line);
            line.rouse_one()
        };
        self.rouse(roused);
    }

    /// The next handler to be made, for a worker that has made one, if that is what stands in line next. It looks for
    /// nothing else meanwhile: rules 3 and 6 are kept by whoever does.
    ///
    /// With it comes the one that will be next in a while, if that is known: to fetch what there is of it.
    pub(super) fn next_to_prewarm(&self, seat: &Seat) -> Option<(AgentId, Option<AgentId>)> {
        debug_assert!(!seat.searching, "it has found something");
        let mut line = self.shared.line.lock();
        let unkept = line.alarm.is_some() && line.keeper.is_none();
        let Some(&Ready::Prewarm(agent)) = line.ready.front() else { return None };
        if unkept || line.stopping {
            return None;
        }
        line.ready.pop_front();
        line.give_room_back();
        self.publish(&line);
        match line.ready.get(AHEAD) {
            Some(&Ready::Prewarm(later)) => Some((agent, Some(later))),
            _ => Some((agent, None)),
        }
    }

    /// Lines up the queue of tasks, if it is not in line. Under the lock under which the queue is looked at.
    pub(super) fn tasks_are_ready(&self) {
        // Relaxed: whoever takes the queue out of the line looks into it after that, under the lock that the
        // caller has. If it has looked before the caller came, that it was taken out is seen here.
        if self.shared.tasks.load(Ordering::Relaxed) {
            return;
        }
        let roused = {
            let mut line = self.shared.line.lock();
            if std::mem::replace(&mut line.tasks, true) {
                return;
            }
            self.line_up(&mut line, Ready::Tasks)
        };
        self.rouse(roused);
    }

    /// Sets when the queue of tasks is to be looked at next, if nothing has it looked at before.
    pub(super) fn set_alarm(&self, alarm: Option<Timestamp>) {
        let roused = {
            let mut line = self.shared.line.lock();
            line.alarm = alarm;
            match (alarm, line.keeper) {
                (Some(alarm), Some((_, until))) if alarm < until => {
                    if left_out("runner.rouse-the-keeper") {
                        Roused(None)
                    } else {
                        line.rouse_keeper()
                    }
                }
                (Some(_), None)
                    if line.searching == 0 && !left_out("runner.rouse-for-the-alarm") =>
                {
                    line.rouse()
                }
                // It looks when it wakes, or those who search look when they lie down.
                _ => Roused(None),
            }
        };
        self.rouse(roused);
    }

    /// Whether only the queue of tasks is in line, or nothing, for all that is known here.
    #[inline]
    pub(super) fn has_only_tasks(&self) -> bool {
        // Relaxed: a hint; who is told too late goes on with tasks for one more.
        let tasks = self.shared.tasks.load(Ordering::Relaxed);
        self.shared.length.load(Ordering::Relaxed) <= usize::from(tasks)
    }

    fn line_up(&self, line: &mut Line, ready: Ready) -> Roused {
        line.ready.push_back(ready);
        self.publish(line);
        line.rouse_one()
    }

    fn publish(&self, line: &Line) {
        // Relaxed: a hint to those who search; they take the lock before they sleep.
        self.shared.length.store(line.ready.len(), Ordering::Relaxed);
        self.shared.tasks.store(line.tasks, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn rouse(&self, roused: Roused) {
        if let Roused(Some(worker)) = roused {
            self.wakers[usize::from(worker)].wake_by_ref();
        }
    }

    /// A mailbox has become idle, or was closed while it was not. `true` means that it was the last and
    /// that somebody may be waiting for that.
    pub(super) fn retire(&self, count: usize) -> bool {
        let mut line = self.shared.line.lock();
        line.active -= count;
        count > 0 && line.active == 0 && (line.draining || line.stopping)
    }

    /// An agent has ended that may stand in line. What does is taken out before such entries are more than all others
    /// and [`GONE`].
    pub(super) fn forget(&self, agent: AgentId) {
        let mut line = self.shared.line.lock();
        if !line.stopping {
            line.gone.push(agent);
            if line.gone.len() > GONE.max(line.ready.len() / 2) {
                line.sweep();
                self.publish(&line);
            }
        }
    }

    /// Takes nothing more in.
    pub(super) fn drain(&self) {
        self.shared.line.lock().draining = true;
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Takes nothing more in and gives nothing more out.
    pub(super) fn stop(&self) {
        let sleeping = {
            let mut line = self.shared.line.lock();
            line.stopping = true;
            self.closed.store(true, Ordering::Relaxed);
            line.keeper = None;
            // All that are roused search.
            line.searching += line.sleeping.len();
            std::mem::take(&mut line.sleeping)
        };
        for worker in sleeping {
            self.rouse(Roused(Some(worker)));
        }
    }

    pub(super) fn active(&self) -> usize {
        self.shared.line.lock().active
    }

    /// Says that the worker is going to run the host's code. Under the lock under which it learns that there
    /// is something to do: that of the tasks, or that of the mailbox.
    pub(super) fn occupy(&self, seat: &mut Seat) {
        seat.occupied = true;
        // Relaxed: a stop takes each of those locks once before it reads this.
        self.occupied[usize::from(seat.worker)].store(true, Ordering::Relaxed);
    }

    /// How many workers run the host's code, or have just done so.
    pub(super) fn occupied(&self) -> usize {
        self.occupied.iter().filter(|occupied| occupied.load(Ordering::Relaxed)).count()
    }

    pub(super) fn sleeping(&self) -> usize {
        self.shared.line.lock().sleeping.len()
    }

    /// Takes back that the worker is occupied.
    pub(super) fn vacate(&self, seat: &mut Seat) {
        if std::mem::take(&mut seat.occupied) {
            // Relaxed: who reads too much waits for the thread to end, which wakes it.
            self.occupied[usize::from(seat.worker)].store(false, Ordering::Relaxed);
        }
    }

    /// The next thing to do, if there is one and the fleet does not stop. Never waits.
    pub(super) fn try_next(&self, seat: &mut Seat) -> Option<Ready> {
        self.vacate(seat);
        self.look(seat, false).flatten()
    }

    /// Leaves the seat to the next one.
    pub(super) fn leave(&self, seat: &mut Seat) {
        self.vacate(seat);
        if seat.searching && !left_out("runner.leave-without-a-word") {
            let roused = self.shared.line.lock().end_search(seat);
            self.rouse(roused);
        }
    }

    /// Sleeps until there is something to do, an alarm is due, the fleet stops, its waker is called, or
    /// the deadline passes. Whoever does so looks for the next thing or leaves its seat, which passes on
    /// what it was roused for.
    pub(super) fn doze(&self, seat: &mut Seat, deadline: Timestamp) {
        debug_assert!(!seat.searching, "it found nothing before");
        let watch = {
            let mut line = self.shared.line.lock();
            if !line.ready.is_empty() || line.stopping {
                return;
            }
            line.go_to_sleep(seat)
        };
        let until = watch.map_or(deadline, |alarm| alarm.min(deadline));
        self.clock.park_until(&seat.parker, Some(until));
        let mut line = self.shared.line.lock();
        if let Some(at) = line.sleeping.iter().position(|worker| *worker == seat.worker) {
            line.sleeping.remove(at);
            if line.keeper.is_some_and(|(worker, _)| worker == seat.worker) {
                line.keeper = None;
            }
            // As one that was roused.
            line.searching += 1;
        }
    }

    /// The next thing for this worker to do, waiting for it; `None` when the fleet stops.
    pub(super) fn next(&self, seat: &mut Seat) -> Option<Ready> {
        self.vacate(seat);
        loop {
            if let Some(answer) = self.look(seat, true) {
                return answer;
            }
            if !self.search() {
                match self.lie_down(seat) {
                    Bed::None => {}
                    Bed::Until(None) => {
                        seat.parker.park();
                        // A token of an earlier rousing that met the end of a watch is not for this sleep.
                        while self.is_asleep(seat) {
                            seat.parker.park();
                        }
                    }
                    Bed::Until(Some(alarm)) => self.keep_watch(seat, alarm),
                }
            }
        }
    }

    /// Whether nobody has roused this worker since it lay down.
    fn is_asleep(&self, seat: &Seat) -> bool {
        self.shared.line.lock().sleeping.contains(&seat.worker)
    }

    /// Sleeps until the alarm, unless it is roused.
    fn keep_watch(&self, seat: &Seat, alarm: Timestamp) {
        loop {
            let due = !self.clock.park_until(&seat.parker, Some(alarm));
            let mut line = self.shared.line.lock();
            if !line.sleeping.contains(&seat.worker) {
                return;
            }
            if due {
                line.keeper = None;
                line.sleeping.retain(|worker| *worker != seat.worker);
                // As one that was roused (see `lie_down`).
                line.searching += 1;
                if line.alarm == Some(alarm) {
                    line.alarm = None;
                }
                if !std::mem::replace(&mut line.tasks, true) {
                    line.ready.push_back(Ready::Tasks);
                    self.publish(&line);
                }
                return;
            }
        }
    }

    /// `Some` is the answer; `None` means that there is nothing to do, and that the worker searches if it
    /// stays.
    fn look(&self, seat: &mut Seat, stays: bool) -> Option<Option<Ready>> {
        let (ready, roused) = {
            let mut line = self.shared.line.lock();
            if line.stopping {
                return Some(None);
            }
            // Where nobody lies down, nobody keeps the watch.
            let unkept = line.alarm.filter(|_| line.keeper.is_none() && !line.tasks);
            if unkept.is_some_and(|alarm| alarm <= self.clock.now()) {
                line.alarm = None;
                line.tasks = true;
                line.ready.push_front(Ready::Tasks);
            }
            let Some(ready) = line.ready.pop_front() else {
                if stays && !seat.searching {
                    seat.searching = true;
                    line.searching += 1;
                } else if !stays {
                    let roused = line.end_search(seat);
                    drop(line);
                    self.rouse(roused);
                }
                return None;
            };
            line.tasks &= ready != Ready::Tasks;
            line.give_room_back();
            self.publish(&line);
            (ready, line.end_search(seat))
        };
        self.rouse(roused);
        Some(Some(ready))
    }

    /// Watches the line for a moment; whether something came.
    fn search(&self) -> bool {
        watch(|| self.shared.length.load(Ordering::Relaxed) > 0)
    }

    /// Ends the search; whether to sleep, and until when.
    fn lie_down(&self, seat: &mut Seat) -> Bed {
        let mut line = self.shared.line.lock();
        let work = !line.ready.is_empty() && !left_out("runner.lie-down-without-a-look");
        let stops = line.stopping && !left_out("runner.lie-down-over-a-stop");
        if work || stops {
            return Bed::None;
        }
        line.searching -= 1;
        Bed::Until(line.go_to_sleep(seat))
    }
}

impl Line {
    /// Counts a worker among those that sleep; until when it keeps the watch, if it does.
    fn go_to_sleep(&mut self, seat: &mut Seat) -> Option<Timestamp> {
        self.sleeping.push(seat.worker);
        let watch = if self.keeper.is_none() { self.alarm } else { None };
        self.keeper = watch.map(|alarm| (seat.worker, alarm)).or(self.keeper);
        // Whoever rouses it counts it as searching from then on.
        seat.searching = true;
        watch
    }

    /// Ends the search of a worker, if it searches: rule 3.
    fn end_search(&mut self, seat: &mut Seat) -> Roused {
        if std::mem::take(&mut seat.searching) {
            self.searching -= 1;
            let unwatched = self.alarm.is_some()
                && self.keeper.is_none()
                && !left_out("runner.pass-the-watch-on");
            let more = !self.ready.is_empty() || unwatched;
            if self.searching == 0 && more && !left_out("runner.pass-it-on") {
                return self.rouse();
            }
        }
        Roused(None)
    }

    /// Gives half of the room of the line back where less than an eighth of it is used: it has been longer by far.
    #[inline]
    fn give_room_back(&mut self) {
        let room = self.ready.capacity();
        if room > KEPT_ROOM && self.ready.len() < room / 8 {
            self.ready.shrink_to(room / 2);
        }
    }

    /// Takes out what stands in line for agents that have ended: no agent has their ids again.
    fn sweep(&mut self) {
        let mut gone = std::mem::take(&mut self.gone);
        gone.sort_unstable();
        self.ready.retain(|ready| match ready {
            Ready::Mailbox(agent) | Ready::Prewarm(agent) => gone.binary_search(agent).is_err(),
            Ready::Tasks => true,
        });
    }

    /// Takes a sleeper out, unless somebody searches (rule 3).
    #[inline]
    fn rouse_one(&mut self) -> Roused {
        if self.searching > 0 { Roused(None) } else { self.rouse() }
    }

    /// Takes a sleeper out, which searches from now on; the keeper of the watch only if it is alone.
    fn rouse(&mut self) -> Roused {
        let keeper = self.keeper.map(|(worker, _)| worker);
        let last = self.sleeping.len().checked_sub(1);
        let Some(last) = last else { return Roused(None) };
        if last > 0 && keeper == Some(self.sleeping[last]) {
            self.sleeping.swap(last - 1, last);
        }
        let worker = self.sleeping.pop();
        if worker == keeper {
            self.keeper = None;
        }
        self.searching += 1;
        Roused(worker)
    }

    /// Takes the keeper of the watch out, which searches from now on.
    fn rouse_keeper(&mut self) -> Roused {
        let Some((keeper, _)) = self.keeper.take() else { return Roused(None) };
        self.sleeping.retain(|worker| *worker != keeper);
        self.searching += 1;
        Roused(Some(keeper))
    }
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("line", &self.shared.line).finish_non_exhaustive()
    }
}
