//! Every interleaving of the hand-offs: complete against kill, grant against cancel, attempt against
//! kill. Each has a twin with the rule that makes it right switched off, which must fail.

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::budget::Warning;
use super::pool::{Feed, Kept, Pool, PoolConfig, RUNS_TASKS};
use super::*;
use crate::clock::Clock;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, thread, weakened};

const TWO_SHARDS: NonZeroUsize = NonZeroUsize::new(2).expect("not zero");

fn lease_only() -> Fleet {
    Fleet::builder().build().expect("the defaults are valid")
}

/// Every interleaving there is.
fn model(body: impl Fn() + Send + Sync + 'static) {
    explore(None, body);
}

fn explore(preemptions: Option<usize>, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 10_000;
    builder.check(body);
}

/// What decides in the models of leases that are cheap.
const BY: [Strategy; 4] =
    [Strategy::LeastLoaded, Strategy::Priority, Strategy::RoundRobin, Strategy::Performance];

/// A holder completes while somebody kills the agent and another takes its slot.
fn complete_against_kill(by: Strategy) {
    let fleet = Fleet::<(), ()>::builder().strategies(&[by]).build().expect("it is valid");
    let agent = fleet.spawn(AgentSpec::new("first")).expect("there is room");
    let lease = fleet.try_allocate(&Request::any()).expect("it is idle");
    let holder = thread::spawn(move || lease.complete(LeaseOutcome::Succeeded));
    let killed = fleet.kill(agent).expect("nobody else kills it");
    let next = fleet.spawn(AgentSpec::new("second")).expect("there is room");
    let held = fleet.try_allocate(&Request::any()).expect("it is idle");
    let completed = holder.join().expect("the holder does not panic");

    assert_eq!((next.slot(), held.agent()), (agent.slot(), next));
    assert_eq!(killed.leases_revoked, u32::from(completed.is_err()), "one of the two was first");
    let stats = fleet.stats();
    assert_eq!((stats.leases_live, stats.leases_succeeded + stats.leases_stale), (1, 1));
    assert!(fleet.try_allocate(&Request::any()).is_err(), "two holders of one agent");
}

#[test]
fn loom_a_lease_is_completed_or_revoked_and_never_both() {
    for by in BY {
        model(move || complete_against_kill(by));
    }
}

#[test]
#[should_panic(expected = "one of the two was first")]
fn loom_twin_without_the_generation_check_a_dead_lease_frees_a_living_agent() {
    weakened("fleet.release-unchecked", || {
        model(|| complete_against_kill(Strategy::LeastLoaded));
    });
}

fn poll_once(request: &mut Allocation) -> Option<Result<Lease, AllocateError>> {
    match Pin::new(request).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// An agent comes free while the first who waits gives up and a second comes to wait for it.
fn grant_against_cancel() {
    let fleet = lease_only();
    fleet.spawn(AgentSpec::new("only")).expect("there is room");
    let lease = fleet.try_allocate(&Request::any()).expect("it is idle");
    let mut first = fleet.allocate_async(&Request::any());
    assert!(poll_once(&mut first).is_none());
    let cancel = thread::spawn(move || drop(first));
    let second = {
        let mut request = fleet.allocate_async(&Request::any());
        thread::spawn(move || {
            let early = poll_once(&mut request);
            (early, request)
        })
    };
    drop(lease);
    cancel.join().expect("a drop does not panic");
    let (early, mut request) = second.join().expect("a poll does not panic");
    let served = early.or_else(|| poll_once(&mut request)).expect("the grant was passed on");
    drop(served.expect("the agent lives"));
    assert_eq!(fleet.stats().leases_live, 0);
}

#[test]
fn loom_a_cancelled_waiter_passes_its_grant_on() {
    model(grant_against_cancel);
}

#[test]
#[should_panic(expected = "the grant was passed on")]
fn loom_twin_a_grant_that_is_not_passed_on_is_lost() {
    weakened("fleet.grant-not-passed-on", || model(grant_against_cancel));
}

/// An agent comes free while a batch that gathers it gives up and a request comes to wait for it.
fn gather_against_cancel() {
    let fleet = lease_only();
    fleet.spawn(AgentSpec::new("only")).expect("there is room");
    let lease = fleet.try_allocate(&Request::any()).expect("it is idle");
    let mut batch = fleet.allocate_batch_async(&Request::any(), 1);
    let mut context = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut batch).poll(&mut context).is_pending());
    let cancel = thread::spawn(move || drop(batch));
    let mut request = fleet.allocate_async(&Request::any());
    drop(lease);
    let early = poll_once(&mut request);
    cancel.join().expect("a drop does not panic");
    let served = early.or_else(|| poll_once(&mut request)).expect("the place was passed on");
    drop(served.expect("the agent lives"));
    assert_eq!(fleet.stats().leases_live, 0);
}

#[test]
fn loom_a_cancelled_batch_passes_on_what_it_gathered() {
    model(gather_against_cancel);
}

#[test]
#[should_panic(expected = "the place was passed on")]
fn loom_twin_what_a_batch_gathered_and_does_not_pass_on_is_lost() {
    weakened("fleet.batch-not-passed-on", || model(gather_against_cancel));
}

/// A request comes to wait for agents that are promised while the promise ends.
fn wait_against_the_end_of_a_promise() {
    let fleet = lease_only();
    let expected = fleet.expect(&AgentSpec::new("late")).expect("the fleet is open");
    let end = thread::spawn(move || drop(expected));
    let mut request = fleet.allocate_async(&Request::any());
    let early = poll_once(&mut request);
    end.join().expect("a drop does not panic");
    let told = early.or_else(|| poll_once(&mut request)).expect("somebody waits for nobody");
    assert_eq!(told.map(drop), Err(AllocateError::NoSuchCapability));
    assert_eq!(fleet.stats().requests_waiting, 0);
}

#[test]
fn loom_nobody_waits_for_what_is_expected_no_more() {
    model(wait_against_the_end_of_a_promise);
}

#[test]
#[should_panic(expected = "somebody waits for nobody")]
fn loom_twin_a_promise_that_ends_in_silence_leaves_somebody_waiting() {
    weakened("fleet.refuse-who-expects", || model(wait_against_the_end_of_a_promise));
}

fn free_against_sleep() {
    let fleet = lease_only();
    fleet.spawn(AgentSpec::new("only")).expect("there is room");
    let lease = fleet.try_allocate(&Request::any()).expect("it is idle");
    let waiter = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.allocate(&Request::any()).map(drop))
    };
    drop(lease);
    assert_eq!(waiter.join().expect("waiting does not panic"), Ok(()));
}

#[test]
fn loom_a_waiting_thread_is_woken_whenever_the_agent_comes_free() {
    model(free_against_sleep);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_a_thread_that_does_not_say_that_it_waits_sleeps_for_ever() {
    weakened("fleet.say-who-waits", || model(free_against_sleep));
}

/// An agent of another shard than that of the waiter comes free while the waiter begins to wait.
fn free_against_wait(by: Strategy) {
    let builder = Fleet::<(), ()>::builder().shards(TWO_SHARDS).strategies(&[by]);
    let fleet = builder.build().expect("the values are valid");
    let agents = fleet.spawn_batch(&AgentSpec::new("one of two"), 2).expect("there is room");
    let hold = |agent| fleet.try_allocate(&Request::any().agent(agent)).expect("it is idle");
    let _first = hold(agents[0]);
    let held = hold(agents[1]);
    let mut request = fleet.allocate_async(&Request::any());
    let holder = thread::spawn(move || drop(held));
    let early = poll_once(&mut request);
    holder.join().expect("a drop does not panic");
    let served = early.or_else(|| poll_once(&mut request)).expect("it saw or was seen");
    drop(served.expect("the agents live"));
}

#[test]
fn loom_who_waits_sees_the_agent_or_is_seen_by_who_gives_it_back() {
    for by in BY {
        model(move || free_against_wait(by));
    }
}

#[test]
#[should_panic(expected = "it saw or was seen")]
fn loom_twin_who_does_not_say_that_it_waits_sleeps_beside_a_free_agent() {
    weakened("fleet.say-who-waits", || model(|| free_against_wait(Strategy::LeastLoaded)));
}

/// How often somebody was told of an agent.
#[derive(Default)]
struct Told(AtomicUsize);

impl Feed for Told {
    fn feed(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn freed(&self, _: AgentId) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn warned(&self, _: Vec<Warning>) {}
    fn requests_wait(&self, _: usize) {}
    fn lease_went(&self, _: AgentId, _: Option<u32>, _: Option<bool>) {}
    fn lease_freed(&self, _: AgentId) {}
    fn lease_due(&self) {}
}

/// A pool of one agent, and who is told of it.
fn pool_of_one(budgets: Option<Budgets>) -> (Arc<Pool>, AgentId, Arc<Told>) {
    let limit = NonZeroUsize::MIN;
    let kept = Kept::new(&[Strategy::LeastLoaded]).expect("one strategy");
    let pool = Pool::new(PoolConfig {
        max_agents: limit,
        max_waiting: limit,
        shards: 1,
        kept,
        clock: Clock::real(),
        budgets,
        ageing: None,
    });
    let told = Arc::<Told>::default();
    let weak = Arc::downgrade(&told);
    pool.set_feed(weak);
    let newcomers = Newcomers {
        name: &Arc::from("runner"),
        capabilities: &[],
        runs_tasks: true,
        priority: Priority::NORMAL,
        limit: 1,
        labels: &[],
        resources: Resources::default(),
        condition: Condition::Fit,
        era: None,
    };
    let agents = pool.insert(&newcomers, 1, &mut Vec::new()).expect("there is room");
    (pool, agents[0], told)
}

/// The host gives back the only agent while a worker looks for one and, finding none, goes to sleep.
fn lease_against_hunger() {
    let (pool, _, told) = pool_of_one(None);
    let lease = pool.try_allocate(&Request::any()).expect("it is idle");
    let holder = thread::spawn(move || drop(lease));
    let found = pool.take(RUNS_TASKS, false).is_some() || {
        pool.set_starving(true);
        pool.take(RUNS_TASKS, true).is_some()
    };
    holder.join().expect("a drop does not panic");
    assert!(found || told.0.load(Ordering::Relaxed) > 0, "the worker sleeps on");
    pool.close(&mut Vec::new());
}

#[test]
fn loom_a_worker_that_starves_is_told_of_an_agent_that_the_host_gives_back() {
    model(lease_against_hunger);
}

#[test]
#[should_panic(expected = "the worker sleeps on")]
fn loom_twin_a_worker_that_does_not_say_that_it_starves_sleeps_on() {
    weakened("fleet.say-who-starves", || model(lease_against_hunger));
}

/// The host takes the only agent and gives it back while a worker comes to its mailbox.
fn lease_against_turn() {
    let (pool, agent, told) = pool_of_one(Some(Budgets::new(NonZeroUsize::MIN)));
    let host = {
        let pool = Arc::clone(&pool);
        thread::spawn(move || drop(pool.try_allocate(&Request::any())))
    };
    let taken = pool.take_agent(agent).is_some();
    host.join().expect("a lease does not panic");
    assert!(taken || told.0.load(Ordering::Relaxed) > 0, "nobody comes back to the mailbox");
    pool.close(&mut Vec::new());
}

#[test]
fn loom_a_turn_that_finds_no_room_is_told_of_it_in_a_fleet_with_budgets() {
    explore(Some(3), lease_against_turn);
}

#[test]
#[should_panic(expected = "nobody comes back to the mailbox")]
fn loom_twin_a_turn_that_does_not_say_what_it_wants_is_lost() {
    weakened("fleet.want", || explore(Some(3), lease_against_turn));
}

#[derive(Default)]
struct Settled(Mutex<Vec<Attempt>>);

impl TaskLog<(), u32> for Settled {
    fn accept(&self, _tasks: &[(TaskId, &Task<()>)]) -> Result<(), Error> {
        Ok(())
    }
    fn settle(
        &self,
        _task: TaskId,
        attempt: Attempt,
        _payload: &Task<()>,
        outcome: &Outcome<u32>,
    ) -> Result<Option<LogPosition>, Error> {
        assert_eq!(outcome.completed(), Some(&attempt.get()), "another attempt's output");
        self.0.lock().push(attempt);
        Ok(None)
    }
}

fn running() -> AgentSpec<(), u32> {
    AgentSpec::<(), u32>::new("worker").handler_fn(|_, cx| Ok(cx.attempt().get()))
}

/// Runs a task if one can run; whether one did. The model brings its own thread for this, so that a
/// broken rule shows as a failed assertion: loom cannot unwind a panic across threads or locks.
fn work_once(fleet: &Fleet<(), u32>) -> bool {
    let mut after = After::new();
    let job = fleet.inner().state.lock().next_job(&fleet.inner().posts, false, 0, &mut after);
    let Some(work::Next::Job(job)) = job else { return false };
    fleet.inner().finish(after);
    let next = fleet.inner().run(job, false);
    assert!(next.is_none(), "none was wanted");
    true
}

/// Rule 4 of the shared state: the queue holds exactly the tasks whose phase is queued.
fn queue_is_true(fleet: &Fleet<(), u32>) -> bool {
    let state = fleet.inner().state.lock();
    let queued = |record: &inner::Record<(), u32>| matches!(record.phase, inner::Phase::Queued);
    state.tasks.values().filter(|record| queued(record)).count() == state.queue.len()
}

/// An agent is killed while it is told something and while its mailbox is run.
fn tell_against_kill() {
    let returned = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let returned = Arc::clone(&returned);
        move |_, _, payloads: Vec<u32>| returned.lock().extend(payloads)
    };
    let builder = Fleet::<u32, ()>::builder().workers(1).returned(Arc::new(hook));
    let fleet = Fleet::from_inner(builder.into_inner().expect("the values are valid"));
    let handled = Arc::new(Mutex::new(Vec::new()));
    let spec = {
        let handled = Arc::clone(&handled);
        AgentSpec::<u32, ()>::new("worker").handler_fn(move |task, _| {
            handled.lock().push(*task.payload());
            Ok(())
        })
    };
    let agent = fleet.spawn(spec).expect("there is room");
    fleet.tell(agent, 1).expect("it is idle");
    let worker = {
        let fleet = fleet.clone();
        thread::spawn(move || {
            let mut seats = std::mem::take(&mut fleet.inner().state.lock().workers.seats);
            let mut seat = seats.pop().expect("there is one worker");
            fleet.inner().turn(agent, &mut seat);
        })
    };
    let sender = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.tell(agent, 2).is_ok())
    };
    fleet.kill(agent).expect("nobody else kills it");
    worker.join().expect("a turn does not panic");
    let accepted = 1 + u64::from(sender.join().expect("telling does not panic"));
    let mut ended: Vec<_> = handled.lock().iter().chain(&*returned.lock()).copied().collect();
    ended.sort_unstable();
    assert_eq!(ended.len() as u64, accepted, "each is handled or comes back: {ended:?}");
    assert!(ended.windows(2).all(|pair| pair[0] != pair[1]), "one ended twice: {ended:?}");
    let stats = fleet.stats();
    assert_eq!(stats.messages_accepted, accepted);
    assert_eq!(stats.messages_handled + stats.messages_returned, accepted);
    assert_eq!((fleet.inner().runner.active(), stats.leases_live), (0, 0));
}

#[test]
fn loom_a_message_is_handled_or_comes_back_whatever_a_kill_meets() {
    explore(Some(2), tell_against_kill);
}

#[test]
#[should_panic(expected = "each is handled or comes back")]
fn loom_twin_what_a_worker_holds_in_its_hand_is_lost_if_a_kill_does_not_look_there() {
    weakened("fleet.leave-the-hand", || explore(Some(2), tell_against_kill));
}

/// An attempt comes back while its agent is killed.
fn attempt_against_kill() {
    let settled = Arc::new(Settled::default());
    let builder = Fleet::<(), u32>::builder().workers(1).task_log(settled.clone());
    let fleet = Fleet::from_inner(builder.into_inner().expect("the values are valid"));
    let agents = fleet.spawn_batch(&running(), 2).expect("there is room");
    let handle = fleet.submit(Task::new(())).expect("there is room");
    let worker = {
        let fleet = fleet.clone();
        thread::spawn(move || work_once(&fleet))
    };
    fleet.kill(agents[0]).expect("nobody else kills it");
    worker.join().expect("an attempt does not panic");
    if !queue_is_true(&fleet) {
        // The drop of the fleet would meet the broken table and panic while this panic unwinds.
        std::mem::forget(fleet.clone());
        panic!("a struck attempt ended its task");
    }
    while work_once(&fleet) {}

    assert_eq!(settled.0.lock().len(), 1, "settled once");
    let won = settled.0.lock()[0];
    assert_eq!(*handle.wait(), Outcome::Completed(won.get()));
    let stats = fleet.stats();
    assert_eq!(stats.reruns, stats.late_completions_refused);
    assert_eq!((stats.tasks_completed, stats.tasks_queued, stats.tasks_running), (1, 0, 0));
}

#[test]
fn loom_a_task_is_settled_once_whether_its_attempt_or_a_kill_comes_first() {
    model(attempt_against_kill);
}

#[test]
#[should_panic(expected = "a struck attempt ended its task")]
fn loom_twin_without_the_phase_check_a_struck_attempt_commits() {
    weakened("fleet.claim-unchecked", || model(attempt_against_kill));
}

/// A worker thread and a shutdown: too many interleavings for all of them. Its twins are those of the runner: a worker
/// of a whole fleet that sleeps for good cannot be unwound here, as that ends its fleet, which waits for it.
fn a_task_and_a_shutdown() {
    let fleet = Fleet::<(), u32>::builder().workers(1).build().expect("the thread starts");
    fleet.spawn(running()).expect("there is room");
    let handle = fleet.submit(Task::new(())).expect("there is room");
    assert_eq!(*handle.wait(), Outcome::Completed(1));
    let report = fleet.shutdown(Duration::MAX).expect("this is no worker");
    assert_eq!((report.completed, report.workers_left), (1, 0));
}

#[test]
fn loom_a_worker_wakes_for_a_task_and_ends_with_its_fleet() {
    explore(Some(3), a_task_and_a_shutdown);
}

/// An agent with a handler joins while somebody allocates it and tells it something.
fn join_against_tell() {
    let fleet = Fleet::<(), ()>::builder().driven().shards(NonZeroUsize::MIN);
    let fleet = fleet.build().expect("the values are valid");
    let spawner = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.spawn(AgentSpec::new("late").handler_fn(|_, _| Ok(()))))
    };
    if let Ok(lease) = fleet.try_allocate(&Request::any()) {
        fleet.tell(lease.agent(), ()).expect("who can be allocated can be told");
        drop(lease);
    }
    spawner.join().expect("a spawn does not panic").expect("there is room");
}

#[test]
fn loom_who_can_be_allocated_can_be_told() {
    model(join_against_tell);
}

#[test]
#[should_panic(expected = "who can be allocated can be told")]
fn loom_twin_without_the_wait_a_newcomer_is_told_to_have_no_mailbox() {
    weakened("fleet.wait-for-the-mailbox", || model(join_against_tell));
}
