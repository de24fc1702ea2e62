//! Agents that are expected: work waits for them where none lives, and is told once nobody promises any more.

use std::future::Future;
use std::num::{NonZeroU32, NonZeroUsize};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use super::support::{self, LONG, eventually, finish};
use phalanx::fleet::scale::{Autoscaler, ScalePolicy, WarmPool, WarmPools};
use phalanx::fleet::{
    AgentSpec, AllocateError, Backoff, BatchAllocation, Fit, Fleet, MAX_LEASES_PER_AGENT, Outcome,
    Priority, Request, SubmitError, Task, TaskContext, TaskError,
};
use phalanx::{ErrorKind, ManualClock};

const SECOND: Duration = Duration::from_secs(1);

/// Remembers that it was woken.
#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Bell {
    fn rang(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

fn doubling() -> AgentSpec<u32, u32> {
    AgentSpec::new("double").handler_fn(|task: &Task<u32>, _| Ok(task.payload() * 2))
}

/// Up at once and down at once, to none.
fn eager() -> ScalePolicy {
    support::eager().max(4).build().expect("the values are valid")
}

fn no_agents<T: Send + Sync + 'static, O: Send + Sync + 'static>(
    fleet: &Fleet<T, O>,
    scaler: &mut Autoscaler<T, O>,
) {
    eventually("nobody holds an agent", || fleet.stats().leases_live == 0);
    scaler.step().expect("the fleet is open");
    assert_eq!(fleet.stats().agents_live, 0, "an idle fleet goes down to its min, which is none");
}

#[test]
fn a_fleet_at_zero_has_work_wait_for_the_agents_that_its_autoscaler_brings() {
    let fleet = Fleet::<u32, u32>::builder().workers(1).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, doubling(), eager());
    let two = NonZeroU32::new(2).unwrap();
    // Twice each: from the start, and from an idle fleet that has gone down.
    for round in 0..2 {
        no_agents(&fleet, &mut scaler);
        let first = fleet.submit(Task::new(1)).unwrap();
        let others =
            fleet.submit_batch(vec![Task::new(2), Task::new(3).max_attempts(two)]).unwrap();
        assert_eq!(fleet.stats().tasks_queued, 3);
        assert_eq!(scaler.step().unwrap().spawned.len(), 4, "in round {round}");
        assert_eq!(*first.wait(), Outcome::Completed(2));
        assert!(others.iter().all(|handle| handle.wait().completed().is_some()));

        no_agents(&fleet, &mut scaler);
        assert_eq!(fleet.try_allocate(&Request::any()).unwrap_err(), AllocateError::NoneIdle);
        let mut waiting = pin!(fleet.allocate_async(&Request::any()));
        let bell = Arc::<Bell>::default();
        let waker = Waker::from(Arc::clone(&bell));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(!scaler.step().unwrap().spawned.is_empty());
        assert!(bell.rang());
        let Poll::Ready(lease) = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        else {
            panic!("an agent came")
        };
        drop(lease.unwrap());

        no_agents(&fleet, &mut scaler);
        thread::scope(|scope| {
            let asker = scope.spawn(|| fleet.allocate_timeout(&Request::any(), LONG));
            eventually("it waits", || fleet.stats().requests_waiting == 1);
            assert!(!scaler.step().unwrap().spawned.is_empty());
            drop(asker.join().unwrap().unwrap());
        });
    }
    no_agents(&fleet, &mut scaler);
    let handles: Vec<_> = (0..3).map(|task| fleet.submit(Task::new(task)).unwrap()).collect();
    thread::scope(|scope| {
        let drained = scope.spawn(|| fleet.drain(LONG).unwrap());
        eventually("it drains", || {
            matches!(fleet.submit(Task::new(9)), Err(SubmitError::Closed(_)))
        });
        assert!(!scaler.step().unwrap().spawned.is_empty());
        assert!(drained.join().unwrap().is_complete());
    });
    assert!(handles.iter().all(|handle| handle.try_outcome().is_some()));
    finish(&fleet);
}

#[test]
fn a_timeout_ends_the_wait_for_an_agent_that_does_not_come() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<(), ()>::builder().clock(clock).build().unwrap();
    let _expected = fleet.expect(&AgentSpec::new("late")).unwrap();
    thread::scope(|scope| {
        let asker = scope.spawn(|| fleet.allocate_timeout(&Request::any(), SECOND));
        eventually("it waits", || hand.sleepers() == 1);
        hand.advance(SECOND);
        assert_eq!(asker.join().unwrap().unwrap_err(), AllocateError::Timeout);
    });
    assert_eq!(fleet.stats().requests_waiting, 0);
}

#[test]
fn who_waits_for_an_agent_that_is_expected_no_more_is_told() {
    let fleet = Fleet::<u32, u32>::builder().workers(1).build().unwrap();
    let (one, other) = (fleet.expect(&doubling()).unwrap(), fleet.expect(&doubling()).unwrap());
    let accepted = fleet.submit(Task::new(1)).unwrap();
    let (single, several) = (Arc::<Bell>::default(), Arc::<Bell>::default());
    let request = Request::any();
    let mut waiting = pin!(fleet.allocate_async(&request));
    let mut batch = pin!(fleet.allocate_batch_async(&request, 3));
    let wakers = [&single, &several].map(|bell| Waker::from(Arc::clone(bell)));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&wakers[0])).is_pending());
    assert!(batch.as_mut().poll(&mut Context::from_waker(&wakers[1])).is_pending());

    drop(one);
    assert!(!single.rang() && !several.rang(), "the other one stands");
    let later = fleet.submit(Task::new(2)).unwrap();
    drop(other);
    assert!(single.rang() && several.rang());
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(told) = waiting.as_mut().poll(&mut context) else { panic!("it was told") };
    assert_eq!(told.unwrap_err(), AllocateError::NoSuchCapability);
    let Poll::Ready(told) = batch.as_mut().poll(&mut context) else { panic!("it was told") };
    assert_eq!(told.unwrap_err(), AllocateError::NoSuchCapability);
    let two = NonZeroU32::new(2).unwrap();
    // By the inbox and by the lock: the one that came before does not speak for those after.
    for task in [Task::new(3), Task::new(3).max_attempts(two)] {
        assert!(matches!(fleet.submit(task), Err(SubmitError::NoAgent(_))));
    }
    assert_eq!(fleet.try_allocate(&request).unwrap_err(), AllocateError::NoSuchCapability);

    // What was accepted stays, as it does when the last agent is killed.
    assert_eq!(fleet.stats().tasks_queued, 2);
    fleet.spawn(doubling()).unwrap();
    assert_eq!(*accepted.wait(), Outcome::Completed(2));
    assert_eq!(*later.wait(), Outcome::Completed(4));
    finish(&fleet);
}

#[test]
fn an_expectation_is_for_what_its_agents_could_do_and_for_nothing_else() {
    let fleet = Fleet::<u32, u32>::builder().workers(1).build().unwrap();
    let rust = AgentSpec::new("host").capability("rust").capability("net");
    let expected = fleet.expect(&rust).unwrap();
    let refusal = |request: &Request| fleet.try_allocate(request).unwrap_err();
    let named = |name: &str| Request::any().capability(name);
    assert_eq!(refusal(&named("rust")), AllocateError::NoneIdle);
    assert_eq!(refusal(&named("net").fit(Fit::Tightest)), AllocateError::NoneIdle);
    let some = named("net").capability("gpu").fit(Fit::BestFraction);
    assert_eq!(refusal(&some), AllocateError::NoneIdle);
    assert_eq!(refusal(&named("gpu")), AllocateError::NoSuchCapability);
    let task = Task::new(1).capability("rust");
    let refused = fleet.submit(task).unwrap_err();
    assert!(matches!(refused, SubmitError::NoAgent(_)), "it is to have no handler");
    let handled = fleet.expect(&doubling().capability("rust")).unwrap();
    let _queued = fleet.submit(refused.into_inner()).unwrap();
    drop((expected, handled));
    assert_eq!(refusal(&named("rust")), AllocateError::NoSuchCapability);
}

fn poll(batch: std::pin::Pin<&mut BatchAllocation>) -> Option<Result<usize, AllocateError>> {
    match batch.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => None,
        Poll::Ready(leases) => Some(leases.map(|leases| leases.len())),
    }
}

#[test]
fn a_batch_waits_for_more_places_than_there_are_while_more_may_come() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let spec = AgentSpec::new("one");
    let agent = fleet.spawn(spec.clone()).unwrap();
    let request = Request::any();
    let refused = fleet.try_allocate_batch(&request, 2).unwrap_err();
    assert_eq!(refused, AllocateError::NoneIdle);
    let mut early = pin!(fleet.allocate_batch_async(&request, 2));
    assert_eq!(poll(early.as_mut()), Some(Err(AllocateError::TooFewPlaces)));

    let expected = fleet.expect(&spec).unwrap();
    let mut served = pin!(fleet.allocate_batch_async(&request, 2));
    assert_eq!(poll(served.as_mut()), None);
    fleet.spawn(spec.clone()).unwrap();
    assert_eq!(poll(served.as_mut()), Some(Ok(2)));

    let held = fleet.try_allocate(&request.clone().agent(agent)).unwrap();
    let mut gathers = pin!(fleet.allocate_batch_async(&request, 2));
    assert_eq!(poll(gathers.as_mut()), None);
    let other = fleet.agents().into_iter().find(|status| status.id != agent).unwrap();
    assert_eq!(fleet.retire(other.id).unwrap_err().kind(), ErrorKind::InUse, "a part of it");
    drop(held);
    assert_eq!(poll(gathers.as_mut()), Some(Ok(2)));

    let mut refused = pin!(fleet.allocate_batch_async(&request, 3));
    assert_eq!(poll(refused.as_mut()), None);
    drop(expected);
    assert_eq!(poll(refused.as_mut()), Some(Err(AllocateError::TooFewPlaces)));
}

#[test]
fn a_batch_that_the_live_agents_cannot_serve_takes_no_place_from_others() {
    let fleet = Fleet::<u32, u32>::builder().workers(1).build().unwrap();
    let agents = fleet.spawn_batch(&doubling(), 2).unwrap();
    let _expected = fleet.expect(&doubling()).unwrap();
    let (any, urgent) = (Request::any(), Request::any().priority(Priority::HIGHEST));
    let mut waits = pin!(fleet.allocate_batch_async(&urgent, 3));
    assert_eq!(poll(waits.as_mut()), None);
    // Others go on: a request, a batch, tasks, messages.
    let first = fleet.try_allocate(&any).unwrap();
    drop(first);
    assert_eq!(fleet.try_allocate_batch(&any, 2).unwrap().len(), 2);
    assert_eq!(*fleet.submit(Task::new(1)).unwrap().wait(), Outcome::Completed(2));
    let reply = fleet.ask(agents[0], 2).unwrap();
    assert_eq!(reply.wait(), Outcome::Completed(4));
    eventually("the agents are given back", || fleet.stats().leases_live == 0);
    let held = fleet.try_allocate_batch(&any, 2).unwrap();
    let mut later = pin!(fleet.allocate_batch_async(&any, 2));
    assert_eq!(poll(later.as_mut()), None);
    drop(held);
    assert_eq!(poll(later.as_mut()), Some(Ok(2)), "it does not wait behind the more urgent one");
    assert_eq!(poll(waits.as_mut()), None);
    // Nor does it keep agents that are too few for it.
    fleet.retire(agents[1]).unwrap();

    let second = fleet.spawn(doubling()).unwrap();
    let single = fleet.try_allocate(&any.clone().agent(second)).unwrap();
    let mut less = pin!(fleet.allocate_async(&any.clone().agent(second)));
    assert!(less.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // As the third comes it has its turn: it gathers two, and gets the last before who wants it less.
    fleet.spawn(doubling()).unwrap();
    assert_eq!(fleet.try_allocate(&any).unwrap_err(), AllocateError::NoneIdle);
    drop(single);
    assert_eq!(poll(waits.as_mut()), Some(Ok(3)));
    let Poll::Ready(lease) = less.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("the batch was dropped")
    };
    drop(lease.unwrap());
    // If one ends what it gathered goes on to others.
    let single = fleet.try_allocate(&any.clone().agent(second)).unwrap();
    let mut waits = pin!(fleet.allocate_batch_async(&urgent, 3));
    assert_eq!(poll(waits.as_mut()), None);
    assert_eq!(fleet.stats().leases_live, 3);
    fleet.kill(second).unwrap();
    assert!(single.is_revoked());
    assert_eq!(fleet.stats().leases_live, 0);
    assert_eq!(fleet.try_allocate_batch(&any, 2).unwrap().len(), 2);
    finish(&fleet);
}

#[test]
fn a_batch_for_more_places_than_the_fleet_could_ever_have_is_refused() {
    let three = NonZeroUsize::new(3).unwrap();
    let fleet = Fleet::<(), ()>::builder().max_agents(three).build().unwrap();
    let leases = |count| AgentSpec::new("one").max_leases(NonZeroU32::new(count).unwrap());
    let expected = fleet.expect(&leases(2)).unwrap();
    let any = Request::any();
    let mut most = pin!(fleet.allocate_batch_async(&any, 6));
    assert_eq!(poll(most.as_mut()), None);
    let mut beyond = pin!(fleet.allocate_batch_async(&any, 7));
    assert_eq!(poll(beyond.as_mut()), Some(Err(AllocateError::TooFewPlaces)));
    // With one that lives and may hold more there may be more.
    let able = fleet.spawn(leases(4)).unwrap();
    let mut more = pin!(fleet.allocate_batch_async(&any, 12));
    assert_eq!(poll(more.as_mut()), None);
    fleet.kill(able).unwrap();
    assert_eq!(poll(more.as_mut()), Some(Err(AllocateError::TooFewPlaces)));
    // And with such as are expected, until they are no more.
    let better = fleet.expect(&leases(5)).unwrap();
    let mut more = pin!(fleet.allocate_batch_async(&any, 15));
    assert_eq!(poll(more.as_mut()), None);
    drop(better);
    assert_eq!(poll(more.as_mut()), Some(Err(AllocateError::TooFewPlaces)));
    assert_eq!(poll(most.as_mut()), None);
    drop(expected);
    assert_eq!(poll(most.as_mut()), Some(Err(AllocateError::NoSuchCapability)));
}

#[test]
fn agents_come_for_a_batch_however_short_the_work_is() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<(), ()>::builder().clock(clock).build().unwrap();
    let spec = AgentSpec::new("one");
    fleet.spawn(spec.clone()).unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec.clone(), eager());
    scaler.observe().unwrap();
    // Thousands of leases of no length to speak of.
    for _ in 0..1000 {
        drop(fleet.try_allocate(&Request::any()).unwrap());
    }
    hand.advance(SECOND);
    let seen = scaler.observe().unwrap();
    assert!(seen.service_time.unwrap() < Duration::from_millis(1));
    let any = Request::any();
    let mut waits = pin!(fleet.allocate_batch_async(&any, 3));
    assert_eq!(poll(waits.as_mut()), None);
    let seen = fleet.observe(&spec);
    assert_eq!((seen.leases, seen.queued, seen.at_once), (0, 3, 3));
    assert_eq!(
        scaler.step().unwrap().spawned.len(),
        3,
        "three at a target of 0.7, and four at most"
    );
    assert_eq!(poll(waits.as_mut()), Some(Ok(3)));
}

#[test]
fn the_last_agent_may_go_before_a_task_that_comes_later_if_another_is_expected() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<u64, u64>::builder().workers(1).clock(clock).build().unwrap();
    let failing = |task: &Task<u64>, cx: &mut TaskContext<'_>| {
        if cx.attempt().get() > 1 { Ok(*task.payload()) } else { Err(TaskError::retryable("once")) }
    };
    let spec = AgentSpec::new("one").handler_fn(failing);
    let agent = fleet.spawn(spec.clone()).unwrap();
    let again = fleet.submit(Task::new(1).retry_backoff(Backoff::constant(SECOND))).unwrap();
    eventually("it waits for its second attempt", || {
        let stats = fleet.stats();
        (stats.tasks_queued, stats.leases_granted, stats.leases_live) == (1, 1, 0)
    });
    assert_eq!(fleet.retire(agent).unwrap_err().kind(), ErrorKind::InUse);
    let mut scaler = Autoscaler::new(&fleet, spec.clone(), eager());
    assert_eq!(scaler.step().unwrap().retired, [agent]);
    hand.advance(SECOND);
    // Nobody is there who could notice it but a worker.
    eventually("it is queued again", || {
        fleet.tick();
        fleet.observe(&spec).queued == 1
    });
    assert!(!scaler.step().unwrap().spawned.is_empty());
    assert_eq!(*again.wait(), Outcome::Completed(1));
    finish(&fleet);
}

#[test]
fn work_waits_for_pools_that_are_to_have_agents() {
    let fleet = Fleet::<u32, u32>::builder().workers(1).build().unwrap();
    let submit = |name: &str| fleet.submit(Task::new(3).capability(name));
    let pools = WarmPools::new(&fleet, 10)
        .pool(doubling().capability("warm"), WarmPool::new(1, 2))
        .and_then(|pools| {
            pools.pool(AgentSpec::new("cold").capability("cold"), WarmPool::new(0, 2))
        });
    let mut pools = pools.unwrap();
    let handle = submit("warm").unwrap();
    assert!(matches!(submit("cold"), Err(SubmitError::NoAgent(_))), "it brings none");
    assert_eq!(pools.step().unwrap().spawned.len(), 1);
    assert_eq!(*handle.wait(), Outcome::Completed(6));
    drop(pools);
    for status in fleet.agents() {
        fleet.kill(status.id).unwrap();
    }
    assert!(matches!(submit("warm"), Err(SubmitError::NoAgent(_))), "they stand no more");
    finish(&fleet);
}

#[test]
fn what_cannot_come_is_not_expected() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let kind = |spec: AgentSpec<(), ()>| fleet.expect(&spec).map(drop).unwrap_err().kind();
    let handled = || AgentSpec::<(), ()>::new("handled").handler_fn(|_, _| Ok(()));
    assert_eq!(kind(handled()), ErrorKind::Unsupported);
    let greedy = NonZeroU32::new(MAX_LEASES_PER_AGENT + 1).unwrap();
    assert_eq!(kind(AgentSpec::new("greedy").max_leases(greedy)), ErrorKind::InvalidArgument);
    let able = (0..200).fold(AgentSpec::new("able"), |spec, n| spec.capability(n.to_string()));
    assert_eq!(kind(able), ErrorKind::LimitReached);
    let mut scaler = Autoscaler::new(&fleet, handled(), eager());
    assert_eq!(scaler.step().unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(fleet.try_allocate(&Request::any()).unwrap_err(), AllocateError::NoSuchCapability);

    let expected = fleet.expect(&AgentSpec::new("late")).unwrap();
    let report = fleet.shutdown(LONG).unwrap();
    assert!(report.is_complete());
    assert_eq!(fleet.try_allocate(&Request::any()).unwrap_err(), AllocateError::Closed);
    assert_eq!(kind(AgentSpec::new("late")), ErrorKind::Closed);
    drop(fleet);
    drop(expected);
}

#[test]
fn agents_that_are_expected_take_no_room() {
    let fleet = Fleet::<(), ()>::builder().max_agents(NonZeroUsize::MIN).build().unwrap();
    let spec = AgentSpec::new("only").capability("rust");
    let early = fleet.expect(&spec).unwrap();
    fleet.spawn(spec.clone()).unwrap();
    let late = fleet.expect(&spec).unwrap();
    assert_eq!((fleet.stats().agents_live, fleet.agents().len()), (1, 1));
    assert_eq!(fleet.spawn(spec).unwrap_err().kind(), ErrorKind::LimitReached);
    drop((early, late));
}
