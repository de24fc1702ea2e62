//! Submissions, drains and stops that are waited for without a thread.

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::support::{Gate, LONG, eventually, held, poll, ready};
use phalanx::fleet::{
    AgentSpec, AgentState, Attempt, Condition, Fleet, IdempotencyKey, LogPosition, Outcome,
    OutcomeKind, Request, Submission, SubmitError, Task, TaskHandle, TaskId, TaskLog, WeakFleet,
};
use phalanx::{Error, ErrorKind};

/// Counts how often it was called.
#[derive(Debug, Default)]
struct Calls(AtomicUsize);

impl Calls {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll_by<F: Future + Unpin>(future: &mut F, calls: &Arc<Calls>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::clone(calls));
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}

fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
    poll(future).is_pending()
}

fn doubler() -> AgentSpec<u64, u64> {
    AgentSpec::new("doubler").handler_fn(|task: &Task<u64>, _| Ok(task.payload() * 2))
}

/// A driven fleet with one agent and room for so many tasks.
fn narrow(room: usize) -> Fleet<u64, u64> {
    let room = NonZeroUsize::new(room).expect("some room");
    let fleet = Fleet::builder().driven().queue_capacity(room).build().expect("it is valid");
    fleet.spawn(doubler()).expect("there is room");
    fleet
}

#[test]
fn room_goes_to_those_who_wait_in_the_order_of_coming() {
    let fleet = narrow(1);
    let first = fleet.submit(Task::new(1)).unwrap();
    let [one, two] = [0; 2].map(|_| Arc::<Calls>::default());
    let (mut second, mut third) =
        (fleet.submit_async(Task::new(2)), fleet.submit_async(Task::new(3)));
    assert!(poll_by(&mut second, &one).is_pending() && poll_by(&mut third, &two).is_pending());
    assert!(matches!(fleet.submit(Task::new(9)), Err(SubmitError::Full(_))));
    assert_eq!(fleet.run_ready(1), 1);
    assert_eq!((one.count(), two.count()), (1, 0), "it is the turn of one");
    assert!(matches!(fleet.submit(Task::new(9)), Err(SubmitError::Full(_))), "they came first");
    assert!(poll_by(&mut third, &two).is_pending(), "it is not its turn");
    let second = ready(&mut second).unwrap();
    assert!(poll_by(&mut third, &two).is_pending(), "there is no room");
    assert_eq!(fleet.run_ready(1), 1);
    assert_eq!(two.count(), 2, "as the one before left the line, and as there is room");
    let third = ready(&mut third).unwrap();
    assert_eq!(fleet.run_ready(9), 1);
    for (handle, output) in [(first, 2), (second, 4), (third, 6)] {
        assert_eq!(handle.try_outcome().as_deref(), Some(&Outcome::Completed(output)));
    }
    let stats = fleet.stats();
    assert_eq!((stats.tasks_accepted, stats.tasks_refused), (3, 2), "who waits is not refused");
}

#[test]
fn one_that_is_dropped_leaves_the_line_to_the_next_and_its_task_was_never_accepted() {
    let fleet = narrow(1);
    drop(fleet.submit(Task::new(1)).unwrap());
    let calls = Arc::<Calls>::default();
    let mut gone = fleet.submit_async(Task::new(2));
    let mut next = fleet.submit_async(Task::new(3));
    assert!(is_pending(&mut gone) && poll_by(&mut next, &calls).is_pending());
    assert_eq!(fleet.run_ready(1), 1);
    assert_eq!(calls.count(), 0, "it is the other's turn");
    drop(gone);
    assert_eq!(calls.count(), 1, "now it is this one's");
    assert!(ready(&mut next).is_ok());
    // One that never was in line has none to leave.
    drop(fleet.submit_async(Task::new(4)));
    assert_eq!(fleet.stats().tasks_accepted, 2);
}

#[test]
fn those_who_wait_get_their_tasks_back_when_the_fleet_takes_no_more() {
    for stops in [false, true] {
        let fleet = narrow(1);
        drop(fleet.submit(Task::new(1)).unwrap());
        let calls = Arc::<Calls>::default();
        let mut waits = fleet.submit_async(Task::new(7));
        assert!(poll_by(&mut waits, &calls).is_pending());
        let end = if stops { Fleet::shutdown } else { Fleet::drain };
        end(&fleet, Duration::ZERO).unwrap();
        assert_eq!(calls.count(), 1);
        let Err(SubmitError::Closed(task)) = ready(&mut waits) else { panic!("it is closed") };
        assert_eq!(task.into_payload(), 7);
        assert!(is_pending(&mut waits), "it has nothing to submit any more");
        assert_eq!(fleet.stats().tasks_refused, 1);
    }
}

#[test]
fn a_batch_waits_for_room_for_all_of_it_and_is_refused_if_that_can_never_be() {
    let fleet = narrow(2);
    let batch = |payloads: &[u64]| payloads.iter().copied().map(Task::new).collect::<Vec<_>>();
    let mut never = fleet.submit_batch_async(batch(&[1, 2, 3]));
    let Err(SubmitError::Full(back)) = ready(&mut never) else { panic!("it never fits") };
    assert_eq!(back.len(), 3);
    drop(fleet.submit(Task::new(1)).unwrap());
    let mut both = fleet.submit_batch_async(batch(&[2, 3]));
    assert!(is_pending(&mut both));
    assert_eq!(fleet.run_ready(1), 1);
    assert_eq!(ready(&mut both).unwrap().len(), 2);
    assert!(ready(&mut fleet.submit_batch_async(Vec::new())).unwrap().is_empty());
}

/// Polls a submission while it accepts another, once, and then says what it was told to.
#[derive(Default)]
struct Nosy {
    submission: Mutex<Option<Submission<u64, u64>>>,
    calls: Arc<Calls>,
    refuses: Mutex<bool>,
}

impl TaskLog<u64, u64> for Nosy {
    fn accept(&self, _: &[(TaskId, &Task<u64>)]) -> Result<(), Error> {
        if let Some(submission) = &mut *self.submission.lock().expect("nobody panics") {
            assert!(poll_by(submission, &self.calls).is_pending(), "its key is being accepted");
        }
        let refuses = std::mem::take(&mut *self.refuses.lock().expect("nobody panics"));
        if refuses { Err(Error::new(ErrorKind::Io, "the disk is full")) } else { Ok(()) }
    }

    fn settle(
        &self,
        _: TaskId,
        _: Attempt,
        _: &Task<u64>,
        _: &Outcome<u64>,
    ) -> Result<Option<LogPosition>, Error> {
        Ok(None)
    }
}

#[test]
fn one_with_a_key_that_is_being_accepted_waits_for_what_becomes_of_it() {
    for refuses in [false, true] {
        let log = Arc::<Nosy>::default();
        let fleet = Fleet::builder().driven().task_log(Arc::clone(&log) as _).build().unwrap();
        fleet.spawn(doubler()).unwrap();
        let keyed = |payload| Task::new(payload).idempotency_key(IdempotencyKey::new(1));
        *log.submission.lock().unwrap() = Some(fleet.submit_async(keyed(2)));
        *log.refuses.lock().unwrap() = refuses;
        let first = fleet.submit(keyed(1));
        assert_eq!(first.is_err(), refuses);
        assert!(log.calls.count() > 0, "it is known now");
        let mut second = log.submission.lock().unwrap().take().expect("it was not taken");
        let second = ready(&mut second).unwrap();
        if let Ok(first) = &first {
            assert_eq!(second.id(), first.id(), "the first one's task");
        }
        assert_eq!(fleet.run_ready(9), 1, "once");
        let output = if refuses { 4 } else { 2 };
        assert_eq!(second.try_outcome().as_deref(), Some(&Outcome::Completed(output)));
        assert_eq!(fleet.stats().tasks_repeated, u64::from(!refuses));
    }
}

#[test]
fn a_drain_is_ready_once_all_has_ended_and_says_how() {
    let fleet = narrow(9);
    let handles: Vec<TaskHandle<u64>> =
        (0..3).map(|payload| fleet.submit(Task::new(payload)).unwrap()).collect();
    let calls = Arc::<Calls>::default();
    let mut drain = fleet.drain_async();
    assert!(fleet.submit(Task::new(3)).is_ok(), "it begins at the first poll");
    assert!(poll_by(&mut drain, &calls).is_pending());
    assert!(matches!(fleet.submit(Task::new(4)), Err(SubmitError::Closed(_))));
    assert_eq!(fleet.run_ready(2), 2);
    assert!(is_pending(&mut drain));
    assert!(poll_by(&mut drain, &calls).is_pending());
    assert_eq!(fleet.run_ready(9), 2);
    assert!(calls.count() > 0);
    let report = ready(&mut drain).unwrap();
    let completed = |handle: &TaskHandle<u64>| (handle.id(), OutcomeKind::Completed);
    assert_eq!(report.ended.len(), 4);
    assert!(handles.iter().map(completed).all(|ended| report.ended.contains(&ended)));
    assert!(ready(&mut drain).unwrap().ended.is_empty(), "nothing has ended since");
}

#[test]
fn a_drain_that_is_dropped_leaves_a_fleet_that_drains() {
    let fleet = narrow(9);
    let handle = fleet.submit(Task::new(1)).unwrap();
    let mut drain = fleet.drain_async();
    assert!(is_pending(&mut drain));
    drop(drain);
    assert!(matches!(fleet.submit(Task::new(2)), Err(SubmitError::Closed(_))));
    assert_eq!(fleet.run_ready(9), 1);
    assert!(handle.try_outcome().is_some());
    assert!(ready(&mut fleet.drain_async()).unwrap().unfinished.is_empty());
}

#[test]
fn a_shutdown_is_ready_once_no_thread_is_left() {
    let gate = Gate::new();
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    let agent = fleet.spawn(held(&gate)).unwrap();
    let handle = fleet.submit(Task::new(1)).unwrap();
    gate.await_arrivals(1);
    let queued = fleet.submit(Task::new(2).to(agent)).unwrap();
    let calls = Arc::<Calls>::default();
    let mut shutdown = fleet.shutdown_async();
    assert!(poll_by(&mut shutdown, &calls).is_pending());
    assert!(matches!(*queued.wait(), Outcome::Returned(_)));
    assert_eq!(calls.count(), 0);
    gate.open();
    // It is woken once for each stage that it waits in.
    let mut seen = 0;
    let report = loop {
        eventually("it is woken", || calls.count() > seen);
        seen = calls.count();
        if let Poll::Ready(report) = poll_by(&mut shutdown, &calls) {
            break report.unwrap();
        }
    };
    assert_eq!((report.workers_left, report.completed, report.returned), (0, 1, 1));
    assert_eq!(report.ended.len(), 2);
    assert!(matches!(*handle.wait(), Outcome::Completed(_)));
    assert!(ready(&mut shutdown).is_ok(), "again");
}

#[test]
fn an_agent_is_drained_and_ends_once_it_has_handled_what_it_has() {
    let fleet = narrow(9);
    let agent = fleet.agents()[0].id;
    for message in 0..3 {
        fleet.tell(agent, message).unwrap();
    }
    let calls = Arc::<Calls>::default();
    let mut drain = fleet.drain_agent_async(agent);
    assert!(poll_by(&mut drain, &calls).is_pending());
    assert!(fleet.tell(agent, 9).is_err(), "it takes no newcomer");
    assert_eq!(calls.count(), 0);
    assert!(fleet.run_ready(9) > 0);
    assert!(calls.count() > 0);
    let drained = ready(&mut drain).unwrap();
    assert_eq!((drained.ended, drained.messages_handled, drained.messages_returned), (true, 3, 0));
    assert_eq!(fleet.agent_state(agent), Some(AgentState::Stopped));
    assert_eq!(ready(&mut drain).unwrap_err().kind(), ErrorKind::NotFound, "it is gone");
}

#[test]
fn a_drain_of_an_agent_is_over_when_the_host_has_it_serve_again_and_when_it_is_dropped() {
    let fleet = narrow(9);
    let agent = fleet.agents()[0].id;
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    let calls = Arc::<Calls>::default();
    let mut drain = fleet.drain_agent_async(agent);
    assert!(poll_by(&mut drain, &calls).is_pending());
    fleet.set_condition(agent, Condition::Fit).unwrap();
    assert!(calls.count() > 0);
    let Poll::Ready(drained) = poll_by(&mut drain, &calls) else { panic!("it is over") };
    assert!(!drained.unwrap().ended, "it serves on");
    assert_eq!(Arc::strong_count(&calls), 1, "what is over keeps nobody's waker");
    assert!(is_pending(&mut drain), "polled again it drains again");
    drop(drain);
    assert_eq!(fleet.agent(agent).unwrap().state, AgentState::Draining);
    drop(lease);
    assert_eq!(fleet.agent(agent).unwrap().state, AgentState::Draining, "nobody waits to end it");
    assert!(ready(&mut fleet.drain_agent_async(agent)).unwrap().ended);
}

#[test]
fn who_drives_wakes_nobody_who_waits_for_something_else() {
    let fleet = Fleet::<u64, u64>::builder().driven().build().unwrap();
    let agent = fleet.spawn(doubler()).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    let task = fleet.submit(Task::new(1)).unwrap();
    let (mut of_agent, mut of_fleet) = (fleet.drain_agent_async(agent), fleet.drain_async());
    let calls = Arc::new(Calls::default());
    assert!(poll_by(&mut of_agent, &calls).is_pending());
    assert!(poll_by(&mut of_fleet, &calls).is_pending());
    let before = calls.count();
    for _ in 0..3 {
        fleet.run_ready(usize::MAX);
    }
    assert_eq!(calls.count(), before, "a loop that drives and polls would never rest");
    drop(lease);
    assert!(calls.count() > before);
    assert!(ready(&mut of_agent).unwrap().ended);
    assert!(task.cancel());
    assert!(ready(&mut of_fleet).is_ok());
}

/// Has a future polled there and then whenever it is woken.
#[derive(Debug)]
struct AtOnce<F: Future> {
    future: Mutex<Option<F>>,
    /// Whether it was, since somebody began to poll it.
    called: AtomicBool,
    output: Mutex<Option<F::Output>>,
}

impl<F: Future<Output: Send> + Send + Unpin + 'static> AtOnce<F> {
    /// Polled once.
    fn begin(future: F) -> Arc<Self> {
        let begun = Arc::new(Self {
            future: Mutex::new(Some(future)),
            called: AtomicBool::new(false),
            output: Mutex::new(None),
        });
        Arc::clone(&begun).wake();
        begun
    }

    fn is_ready(&self) -> bool {
        self.output.lock().expect("nobody panics").is_some()
    }

    fn take(&self) -> Option<F::Output> {
        self.output.lock().expect("nobody panics").take()
    }
}

impl<F: Future<Output: Send> + Send + Unpin + 'static> Wake for AtOnce<F> {
    fn wake(self: Arc<Self>) {
        self.called.store(true, Ordering::SeqCst);
        loop {
            let taken = self.future.lock().expect("nobody panics").take();
            // Whoever polls it sees that it was called.
            let Some(mut future) = taken else { return };
            self.called.store(false, Ordering::SeqCst);
            let waker = Waker::from(Arc::clone(&self));
            match Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(output) => {
                    *self.output.lock().expect("nobody panics") = Some(output);
                    return;
                }
                Poll::Pending => *self.future.lock().expect("nobody panics") = Some(future),
            }
            if !self.called.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

#[test]
fn a_stop_that_is_polled_on_the_last_worker_waits_for_no_thread_that_polls_it() {
    for workers in [1, 3] {
        let gate = Gate::new();
        let fleet = Fleet::<u64, u64>::builder().workers(workers).build().unwrap();
        fleet.spawn(held(&gate)).unwrap();
        let handle = fleet.submit(Task::new(1)).unwrap();
        gate.await_arrivals(1);
        let at_once = AtOnce::begin(fleet.shutdown_async());
        assert!(!at_once.is_ready(), "an attempt runs");
        gate.open();
        // The worker calls the waker as the attempt ends, and as it leaves itself.
        eventually("it is ready", || at_once.is_ready());
        let report = at_once.take().expect("it is ready").expect("it began on no worker");
        assert_eq!((report.workers_left, report.completed), (0, 1));
        assert!(matches!(*handle.wait(), Outcome::Completed(_)));
        assert_eq!(fleet.stats().other_panics, 0);
        fleet.shutdown(LONG).unwrap();
    }
}

#[test]
fn an_agent_that_is_drained_as_its_fleet_stops_waits_for_no_handler_of_another() {
    let gate = Gate::new();
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    let pass = Arc::clone(&gate);
    let busy = fleet.spawn(AgentSpec::new("busy").handler_fn(move |_, _| {
        pass.pass();
        Ok(0)
    }));
    fleet.tell(busy.unwrap(), 0).unwrap();
    gate.await_arrivals(1);
    let agent = fleet.spawn(doubler()).unwrap();
    fleet.tell(agent, 1).unwrap();
    let at_once = AtOnce::begin(fleet.drain_agent_async(agent));
    assert!(!at_once.is_ready(), "it has a message");
    let mut shutdown = fleet.shutdown_async();
    assert!(is_pending(&mut shutdown), "it waits for the handler");
    let drained = at_once.take().expect("nothing is left of the agent").expect("it lives");
    assert_eq!((drained.ended, drained.messages_handled, drained.messages_returned), (true, 0, 1));
    gate.open();
    assert_eq!(fleet.shutdown(LONG).unwrap().messages_handled, 1);
}

#[test]
fn a_handler_is_refused_what_would_wait_for_itself() {
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    let weak = fleet.downgrade();
    let spec = AgentSpec::<u64, u64>::new("self").handler_fn(move |_, cx| {
        let fleet = weak.upgrade().expect("it lives");
        let errors = [
            ready(&mut fleet.drain_async()).unwrap_err(),
            ready(&mut fleet.shutdown_async()).unwrap_err(),
            ready(&mut fleet.drain_agent_async(cx.agent())).unwrap_err(),
        ];
        assert!(errors.iter().all(|error| error.kind() == ErrorKind::Unsupported));
        Ok(1)
    });
    fleet.spawn(spec).unwrap();
    let handle = fleet.submit(Task::new(0)).unwrap();
    assert_eq!(*handle.wait(), Outcome::Completed(1));
    fleet.shutdown(LONG).unwrap();
}

/// Takes the locks of the fleet as it is called and as it is dropped.
struct Prying(WeakFleet<u64, u64>);

impl Prying {
    fn pry(&self) {
        if let Some(fleet) = self.0.upgrade() {
            drop((fleet.stats(), fleet.agents()));
        }
    }
}

impl Wake for Prying {
    fn wake(self: Arc<Self>) {
        self.pry();
    }
}

impl Drop for Prying {
    fn drop(&mut self) {
        self.pry();
    }
}

#[test]
fn wakers_of_the_host_are_called_and_dropped_under_no_lock() {
    let fleet = narrow(1);
    let agent = fleet.agents()[0].id;
    fleet.tell(agent, 0).unwrap();
    drop(fleet.submit(Task::new(1)).unwrap());
    let mut submission = fleet.submit_async(Task::new(2));
    let mut batch = fleet.submit_batch_async(vec![Task::new(3)]);
    let mut drain = fleet.drain_agent_async(agent);
    let mut whole = fleet.drain_async();
    let mut step = || {
        let waker = Waker::from(Arc::new(Prying(fleet.downgrade())));
        let mut cx = Context::from_waker(&waker);
        (
            Pin::new(&mut submission).poll(&mut cx).is_pending(),
            Pin::new(&mut batch).poll(&mut cx).is_pending(),
            Pin::new(&mut drain).poll(&mut cx).is_pending(),
            Pin::new(&mut whole).poll(&mut cx).is_pending(),
        )
    };
    assert_eq!(step(), (true, true, true, true));
    // Another waker takes the place of each; those who waited for room are refused since the fleet drains.
    assert_eq!(step(), (false, false, true, true));
    fleet.set_condition(agent, Condition::Fit).unwrap();
    assert_eq!(fleet.run_ready(9), 2);
    assert_eq!(
        step(),
        (true, true, false, false),
        "they had their answers, and have nothing to submit"
    );
    drop((submission, batch, drain, whole));
}

/// Panics as it is called.
struct Bad;

impl Wake for Bad {
    fn wake(self: Arc<Self>) {
        panic!("a bad waker");
    }
}

#[test]
fn a_waker_that_panics_is_counted_and_harms_nobody() {
    let fleet = narrow(1);
    drop(fleet.submit(Task::new(1)).unwrap());
    let mut submission = fleet.submit_async(Task::new(2));
    let waker = Waker::from(Arc::new(Bad));
    assert!(Pin::new(&mut submission).poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(fleet.run_ready(9), 1);
    assert_eq!(fleet.stats().other_panics, 1);
    assert!(ready(&mut submission).is_ok());
}
