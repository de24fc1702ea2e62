//! Scaling: agents that come when work calls for them, go when nobody needs them, and never with a lease.

use std::future::Future;
use std::num::{NonZeroU32, NonZeroUsize};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use super::support::{self, Gate, LONG, Witness};
use phalanx::fleet::scale::{
    Autoscaler, Backtest, DownReason, Reading, Refusal, ScalePolicyBuilder, Step, SystemReader,
    UpReason, WarmPool, WarmPools,
};
use phalanx::fleet::{
    AgentSpec, AllocateError, Allocation, Fleet, FleetEvent, Lease, LeaseOutcome, Outcome,
    Priority, Request, Task, TellError,
};
use phalanx::{ErrorKind, ManualClock};

const SECOND: Duration = Duration::from_secs(1);

fn timed() -> (Fleet, ManualClock) {
    let (clock, hand) = ManualClock::new();
    (Fleet::builder().clock(clock).build().unwrap(), hand)
}

fn spec() -> AgentSpec<(), ()> {
    AgentSpec::new("one")
}

/// Acts on every observation at once.
fn eager() -> ScalePolicyBuilder {
    support::eager().max(100)
}

fn leases(fleet: &Fleet, count: usize) -> Vec<Lease> {
    (0..count).map(|_| fleet.try_allocate(&Request::any()).unwrap()).collect()
}

#[test]
fn agents_come_in_one_step_for_all_that_waits_and_not_one_at_a_time() {
    let gate = Gate::new();
    let (clock, _hand) = ManualClock::new();
    let fleet = Fleet::<usize, usize>::builder().workers(2).clock(clock).build().unwrap();
    let pass = Arc::clone(&gate);
    let worker = AgentSpec::new("one").handler_fn(move |task: &Task<usize>, _| {
        pass.pass();
        Ok(*task.payload())
    });
    let policy = eager().min(2).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, worker, policy);
    assert_eq!(scaler.step().unwrap().spawned.len(), 2);
    let handles: Vec<_> = (0..40).map(|task| fleet.submit(Task::new(task)).unwrap()).collect();
    gate.await_arrivals(2);
    let scaled = scaler.step().unwrap();
    assert_eq!(scaled.spawned.len(), 56, "40 leases at a target of 0.7 take 58 agents");
    assert_eq!(scaled.plan.step, Step::Spawn { agents: 56, reason: UpReason::Backlog });
    gate.open();
    for (task, handle) in handles.iter().enumerate() {
        assert_eq!(*handle.wait(), Outcome::Completed(task));
    }
    assert!(fleet.shutdown(LONG).unwrap().is_complete());
}

#[test]
fn a_fleet_observes_its_agents_its_leases_and_who_waits() {
    let (fleet, _hand) = timed();
    let two = spec().max_leases(NonZeroU32::new(2).unwrap()).capability("rust");
    let agents = fleet.spawn_batch(&two, 3).unwrap();
    fleet.spawn(AgentSpec::new("other").capability("net")).unwrap();
    let rust = Request::any().capability("rust");
    let held: Vec<_> = (0..4).map(|_| fleet.try_allocate(&rust).unwrap()).collect();
    drop(held.into_iter().last());
    let seen = fleet.observe(&two);
    assert_eq!((seen.serving, seen.leases_per_agent), (3, 2));
    assert_eq!((seen.leases, seen.queued), (0, 0), "the leases were dropped");
    let mut idle = seen.idle.clone();
    idle.sort();
    assert_eq!(idle, agents);

    let _full: Vec<_> = (0..6).map(|_| fleet.try_allocate(&rust).unwrap()).collect();
    let mut waiting = pin!(fleet.allocate_async(&rust));
    let mut elsewhere = pin!(fleet.allocate_async(&Request::any().agent(agents[0])));
    for waiter in [waiting.as_mut(), elsewhere.as_mut()] {
        assert!(waiter.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let seen = fleet.observe(&two);
    assert_eq!((seen.leases, seen.queued), (6, 1), "nobody else can do for a named agent");
    assert_eq!(seen.idle, []);
    let mut batch = pin!(fleet.allocate_batch_async(&rust, 4));
    assert!(batch.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(fleet.observe(&two).queued, 5, "a batch waits for each of its places");
    let named = Request::any().agent(agents[1]);
    let mut apart = pin!(fleet.allocate_batch_async(&named, 2));
    assert!(apart.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(fleet.observe(&two).queued, 5, "nor for one that names an agent");
    let other = fleet.observe(&AgentSpec::new("other").capability("net"));
    assert_eq!(other.queued, 0, "nor what it is not fit for");
    assert_eq!(fleet.observe(&AgentSpec::new("none")).serving, 0);
}

#[test]
fn those_that_have_been_idle_for_longest_go_first() {
    // Across shards the order is by the place in each of them.
    let fleet = Fleet::<(), ()>::builder().strict().build().unwrap();
    let agents = fleet.spawn_batch(&spec(), 3).unwrap();
    for agent in [agents[2], agents[0]] {
        drop(fleet.try_allocate(&Request::any().agent(agent)).unwrap());
    }
    assert_eq!(fleet.observe(&spec()).idle, [agents[1], agents[2], agents[0]]);
}

#[test]
fn idle_agents_go_down_to_min_and_busy_ones_keep_their_leases() {
    let (fleet, hand) = timed();
    let policy = eager().min(2).down_window(SECOND * 10).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec(), policy);
    fleet.spawn_batch(&spec(), 20).unwrap();
    let held = leases(&fleet, 5);
    assert!(matches!(scaler.step().unwrap().plan.refusals[..], [Refusal::DownWindow { .. }]));
    hand.advance(SECOND * 10);
    let scaled = scaler.step().unwrap();
    assert_eq!(scaled.retired.len(), 12, "5 leases at a target of 0.7 take 8 agents");
    assert!(held.iter().all(|lease| !scaled.retired.contains(&lease.agent())));
    for lease in held {
        lease.complete(LeaseOutcome::Succeeded).unwrap();
    }
    hand.advance(SECOND * 10);
    scaler.step().unwrap();
    hand.advance(SECOND * 10);
    scaler.step().unwrap();
    let stats = fleet.stats();
    assert_eq!((stats.agents_live, stats.agents_retired, stats.leases_stale), (2, 18, 0));
    assert_eq!((scaler.stats().retired, scaler.stats().kept), (18, 0));
}

#[test]
fn an_agent_that_gets_work_after_it_was_observed_is_kept() {
    let (fleet, _hand) = timed();
    let mut scaler = Autoscaler::new(&fleet, spec(), eager().build().unwrap());
    fleet.spawn_batch(&spec(), 4).unwrap();
    let mut late = Vec::new();
    let scaled = scaler
        .step_with(|seen| {
            assert_eq!(seen.idle.len(), 4);
            late = leases(&fleet, 3);
            seen
        })
        .unwrap();
    assert_eq!((scaled.retired.len(), scaled.kept.len()), (1, 3));
    assert_eq!(scaler.stats().kept, 3);
    for lease in late {
        lease.complete(LeaseOutcome::Succeeded).unwrap();
    }
}

#[test]
fn an_agent_is_retired_only_when_nothing_is_asked_of_it() {
    let gate = Gate::new();
    let witness = Witness::new();
    let fleet =
        Fleet::<usize, usize>::builder().workers(1).observer(witness.clone()).build().unwrap();
    let pass = Arc::clone(&gate);
    let worker = AgentSpec::new("one").handler_fn(move |task: &Task<usize>, _| {
        pass.pass();
        Ok(*task.payload())
    });
    let agents = fleet.spawn_batch(&worker, 3).unwrap();
    let kind = |agent| fleet.retire(agent).unwrap_err().kind();
    let running = fleet.submit(Task::new(1)).unwrap();
    gate.await_arrivals(1);
    let busy = |agent| fleet.agent(agent).is_some_and(|status| status.load > 0);
    assert_eq!(agents.iter().filter(|agent| busy(**agent)).count(), 1);
    let waiting = fleet.submit(Task::new(2)).unwrap();
    for agent in &agents {
        assert_eq!(kind(*agent), ErrorKind::InUse, "a task waits that any of them could run");
    }
    gate.open();
    assert_eq!(*running.wait(), Outcome::Completed(1));
    assert_eq!(*waiting.wait(), Outcome::Completed(2));
    // The handle tells the outcome before the worker has given the agent back.
    while fleet.stats().leases_live > 0 {
        thread::yield_now();
    }
    for agent in &agents {
        fleet.retire(*agent).unwrap();
        assert_eq!(kind(*agent), ErrorKind::NotFound);
    }
    let stats = fleet.stats();
    assert_eq!((stats.agents_live, stats.agents_retired, stats.agents_killed), (0, 3, 0));
    let events = witness.events();
    for agent in agents {
        let retired = FleetEvent::AgentRetired { agent };
        assert_eq!(events.iter().filter(|event| **event == retired).count(), 1);
    }
}

#[test]
fn an_agent_with_messages_stays_and_one_that_is_retired_gets_none() {
    let gate = Gate::new();
    let fleet = Fleet::<u32, u32>::builder().workers(1).build().unwrap();
    let pass = Arc::clone(&gate);
    let worker = AgentSpec::new("one").handler_fn(move |task: &Task<u32>, _| {
        pass.pass();
        Ok(*task.payload())
    });
    let agents = fleet.spawn_batch(&worker, 2).unwrap();
    let first = fleet.ask(agents[0], 1).unwrap();
    gate.await_arrivals(1);
    // The only worker is busy, so this lies in the mailbox of an agent that holds no lease.
    let second = fleet.ask(agents[1], 2).unwrap();
    for agent in &agents {
        assert_eq!(fleet.retire(*agent).unwrap_err().kind(), ErrorKind::InUse);
    }
    gate.open();
    assert_eq!((first.wait(), second.wait()), (Outcome::Completed(1), Outcome::Completed(2)));
    for agent in &agents {
        // The answer comes before the worker has let the agent go.
        while fleet.retire(*agent).is_err_and(|error| error.kind() == ErrorKind::InUse) {
            thread::yield_now();
        }
        assert!(matches!(fleet.tell(*agent, 3), Err(TellError::Gone(3))));
    }
    let report = fleet.shutdown(LONG).unwrap();
    assert_eq!((report.messages_handled, report.messages_returned), (2, 0));
}

#[test]
fn who_waits_for_a_retired_agent_is_told() {
    let (fleet, _hand) = timed();
    let agent = fleet.spawn(spec().capability("rust")).unwrap();
    fleet.retire(agent).unwrap();
    let request = Request::any().capability("rust");
    assert_eq!(fleet.try_allocate(&request).unwrap_err(), AllocateError::NoSuchCapability);
    let named = Request::any().agent(agent);
    assert_eq!(fleet.try_allocate(&named).unwrap_err(), AllocateError::AgentGone);
}

#[test]
fn a_host_that_steps_by_events_is_told_when_to_step_again() {
    let (fleet, hand) = timed();
    let policy = eager().up_window(SECOND * 3).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec(), policy);
    fleet.spawn_batch(&spec(), 4).unwrap();
    let _held = leases(&fleet, 4);
    // The one event: no other will come, since everybody waits.
    let scaled = scaler.step().unwrap();
    assert_eq!(scaled.plan.step, Step::Hold);
    let next = scaler.next_check().unwrap();
    assert_eq!(next.since_start(), SECOND * 3);
    hand.advance(next.since_start());
    assert_eq!(scaler.step().unwrap().spawned.len(), 2);
    assert_eq!(scaler.next_check(), None, "time alone changes nothing");
}

#[test]
fn what_cannot_be_added_is_an_error_and_counted() {
    let (clock, _hand) = ManualClock::new();
    let builder = Fleet::<(), ()>::builder().clock(clock);
    let fleet = builder.max_agents(NonZeroUsize::new(3).unwrap()).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec(), eager().min(4).build().unwrap());
    assert_eq!(scaler.step().unwrap_err().kind(), ErrorKind::LimitReached);
    scaler.set_policy(eager().min(3).build().unwrap());
    assert_eq!(scaler.policy().min(), 3);
    assert_eq!(scaler.step().unwrap().spawned.len(), 3);
    assert_eq!((scaler.stats().steps, scaler.stats().spawns_failed), (2, 1));
    let _ = fleet.shutdown(LONG).unwrap();
    assert_eq!(scaler.step().unwrap_err().kind(), ErrorKind::Closed);
    drop(fleet);
    assert_eq!(scaler.step().unwrap_err().kind(), ErrorKind::Closed, "it kept no fleet alive");
    assert_eq!(scaler.observe().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn how_long_leases_are_held_follows_from_how_many_end() {
    let (fleet, hand) = timed();
    fleet.spawn_batch(&spec(), 10).unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec(), eager().min(10).build().unwrap());
    assert_eq!(scaler.observe().unwrap().service_time, None);
    // Six leases at a time, of which two end each second: each is held for three.
    let mut held = leases(&fleet, 6);
    scaler.observe().unwrap();
    for _ in 0..6 {
        hand.advance(SECOND);
        held.drain(..2);
        held.extend(leases(&fleet, 2));
        scaler.observe().unwrap();
    }
    let service = scaler.observe().unwrap().service_time.unwrap();
    assert_eq!(service, SECOND * 3);
    hand.advance(Duration::from_millis(99));
    held.clear();
    assert_eq!(scaler.observe().unwrap().service_time, Some(service), "too soon to tell");
}

#[test]
fn how_long_work_takes_with_its_waiting_follows_too() {
    let (fleet, hand) = timed();
    fleet.spawn_batch(&spec(), 6).unwrap();
    let policy = eager().min(6).response_time(SECOND * 4).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec(), policy);
    let unknown = scaler.step().unwrap().plan.refusals;
    assert!(unknown.contains(&Refusal::NotRead(Reading::ResponseTime)), "{unknown:?}");
    let request = Request::any();
    let poll = |waits: &mut Pin<Box<Allocation>>| {
        waits.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    };
    let wait = |count: usize| {
        let mut waiting: Vec<_> =
            (0..count).map(|_| Box::pin(fleet.allocate_async(&request))).collect();
        assert!(waiting.iter_mut().all(|waits| poll(waits).is_pending()));
        waiting
    };
    // Six leases, of which two end each second, and six that wait for one: each is held for three seconds, and ends
    // six after it was asked for.
    let mut held = leases(&fleet, 6);
    let mut waiting = wait(6);
    for _ in 0..6 {
        hand.advance(SECOND);
        held.drain(..2);
        for mut served in waiting.drain(..2) {
            let Poll::Ready(lease) = poll(&mut served) else {
                panic!("the first are served first")
            };
            held.push(lease.unwrap());
        }
        waiting.extend(wait(2));
        scaler.observe().unwrap();
    }
    let seen = scaler.observe().unwrap();
    assert_eq!((seen.service_time, seen.response_time), (Some(SECOND * 3), Some(SECOND * 6)));
    let refusals = scaler.step().unwrap().plan.refusals;
    assert!(!refusals.contains(&Refusal::NotRead(Reading::ResponseTime)), "{refusals:?}");
    let own = scaler.step_with(|seen| {
        assert_eq!(seen.response_time, Some(SECOND * 6));
        seen.with_response_time(SECOND)
    });
    drop(own.unwrap());
}

#[test]
fn an_agent_whose_lease_has_expired_is_idle() {
    let (fleet, hand) = timed();
    fleet.spawn_batch(&spec(), 4).unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec(), eager().build().unwrap());
    let lost = fleet.try_allocate(&Request::any().ttl(SECOND)).unwrap();
    assert_eq!(scaler.observe().unwrap().leases, 1);
    hand.advance(SECOND * 2);
    assert_eq!(scaler.step().unwrap().retired.len(), 4);
    assert!(lost.complete(LeaseOutcome::Succeeded).is_err(), "it came too late");
}

#[test]
fn a_forecast_adds_agents_before_the_load_calls_for_them() {
    let run = |with_forecast: bool| {
        let (fleet, hand) = timed();
        fleet.spawn_batch(&spec(), 60).unwrap();
        let policy = eager().min(60).max(200).build().unwrap();
        let mut scaler = Autoscaler::new(&fleet, spec(), policy);
        if with_forecast {
            scaler = scaler.forecast(Backtest::standard(SECOND * 5).unwrap());
        }
        let mut held = Vec::new();
        for second in 1_u64.. {
            held.extend(leases(&fleet, 1));
            let scaled = scaler.step().unwrap();
            if let Step::Spawn { reason, .. } = scaled.plan.step {
                return (second, reason);
            }
            hand.advance(SECOND);
        }
        unreachable!("the load grows until there have to be more agents");
    };
    assert_eq!(run(false), (52, UpReason::Utilisation), "above 0.85 of 60");
    let (second, reason) = run(true);
    assert_eq!(reason, UpReason::Forecast);
    assert!(second < 50, "in second {second}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_system_is_read_at_each_step() {
    let (fleet, _hand) = timed();
    let policy = eager().min(1).memory_ceiling(1.0).cpu_ceiling(1.0).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec(), policy).system(SystemReader::new().unwrap());
    let seen = scaler.observe().unwrap();
    assert!(seen.memory.is_some_and(|share| share > 0.0 && share <= 1.0), "{seen:?}");
    assert_eq!(scaler.stats().readings_failed, 0);
}

#[test]
fn short_memory_retires_idle_agents_and_says_so() {
    let (fleet, _hand) = timed();
    fleet.spawn_batch(&spec(), 10).unwrap();
    let policy = eager().memory_ceiling(0.8).memory_shed(0.9).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec(), policy);
    let held = leases(&fleet, 6);
    let scaled = scaler.step_with(|seen| seen.with_memory(0.95)).unwrap();
    let Step::Retire { reason, .. } = scaled.plan.step else { panic!("{scaled:?}") };
    assert_eq!((reason, scaled.retired.len()), (DownReason::Memory, 1));
    for lease in held {
        lease.complete(LeaseOutcome::Succeeded).unwrap();
    }
}

#[test]
fn no_lease_is_ever_lost_while_agents_come_and_go() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let completed = Arc::new(AtomicUsize::new(0));
    let users: Vec<_> = (0..3)
        .map(|_| {
            let (fleet, done) = (fleet.clone(), Arc::clone(&done));
            let completed = Arc::clone(&completed);
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let Ok(lease) = fleet.try_allocate(&Request::any()) else {
                        thread::yield_now();
                        continue;
                    };
                    thread::yield_now();
                    lease.complete(LeaseOutcome::Succeeded).expect("no agent goes with a lease");
                    completed.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let policy = eager().min(1).max(8).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, spec(), policy);
    let (mut steps, mut moved) = (0_u64, 0);
    while moved < 400 || completed.load(Ordering::Relaxed) < 400 {
        // Every other observation says that everything is busy.
        let busy = steps % 2 == 0;
        let scaled = scaler
            .step_with(|seen| if busy { seen.with_leases(8) } else { seen.with_leases(0) })
            .unwrap();
        moved += scaled.spawned.len() + scaled.restored.len();
        moved += scaled.retired.len() + scaled.unrouted.len();
        steps += 1;
    }
    done.store(true, Ordering::Relaxed);
    for user in users {
        user.join().expect("no lease was lost");
    }
    let stats = fleet.stats();
    assert_eq!((stats.leases_stale, stats.leases_live), (0, 0));
    assert_eq!(stats.agents_spawned - stats.agents_retired, stats.agents_live);
    assert_eq!(scaler.stats().steps, steps);
}

#[test]
fn waves_come_one_pause_apart() {
    let (fleet, hand) = timed();
    let spawning = fleet.clone();
    let thread = thread::spawn(move || {
        spawning.spawn_waves(&spec(), 10, NonZeroUsize::new(4).unwrap(), SECOND)
    });
    for (live, more) in [(4, true), (8, true), (10, false)] {
        while fleet.stats().agents_live < live || (more && hand.sleepers() == 0) {
            thread::yield_now();
        }
        assert_eq!(fleet.stats().agents_live, live);
        if more {
            hand.advance(SECOND - Duration::from_nanos(1));
            assert_eq!((hand.sleepers(), fleet.stats().agents_live), (1, live));
            hand.advance(Duration::from_nanos(1));
        }
    }
    let waves = thread.join().unwrap();
    assert_eq!(waves.into_result().unwrap().len(), 10);
}

#[test]
fn a_shutdown_ends_waves_and_what_was_added_is_told() {
    let (fleet, hand) = timed();
    let spawning = fleet.clone();
    let thread = thread::spawn(move || {
        spawning.spawn_waves(&spec(), 10, NonZeroUsize::new(4).unwrap(), SECOND)
    });
    while hand.sleepers() == 0 {
        thread::yield_now();
    }
    let _ = fleet.shutdown(LONG).unwrap();
    let waves = thread.join().unwrap();
    assert_eq!(waves.spawned.len(), 4);
    assert_eq!(waves.ended_by.as_ref().map(phalanx::Error::kind), Some(ErrorKind::Closed));
    assert_eq!(waves.into_result().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn waves_by_a_future_use_the_hosts_own_sleep_and_end_when_it_is_dropped() {
    /// Is pending once.
    struct Once(bool);
    impl Future for Once {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    let (fleet, _hand) = timed();
    let size = NonZeroUsize::new(3).unwrap();
    let (one, mut pauses) = (spec(), Vec::new());
    {
        let sleep = |pause| {
            pauses.push(pause);
            Once(false)
        };
        let mut waves = pin!(fleet.spawn_waves_async(&one, 7, size, SECOND, sleep));
        let mut poll = || waves.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending());
        assert_eq!(fleet.stats().agents_live, 3);
        assert!(poll().is_pending());
        let Poll::Ready(waves) = poll() else { panic!("all three waves came") };
        assert_eq!(waves.into_result().unwrap().len(), 7);
    }
    assert_eq!(pauses, [SECOND, SECOND]);
    for polls in 0..3 {
        let before = fleet.stats().agents_live;
        {
            let waves = fleet.spawn_waves_async(&one, 9, size, SECOND, |_| Once(false));
            let mut waves = pin!(waves);
            for _ in 0..polls {
                let _ = waves.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            }
        }
        assert_eq!(fleet.stats().agents_live, before + 3 * polls);
    }
    let none = fleet.spawn_waves(&one, 0, size, SECOND);
    assert_eq!(none.into_result().unwrap(), []);
}

#[test]
fn pools_are_kept_warm_and_made_up_for() {
    let (fleet, _hand) = timed();
    let rust = || AgentSpec::new("rust").capability("rust");
    let mut warm = WarmPools::new(&fleet, 12)
        .pool(AgentSpec::new("any"), WarmPool::new(4, 6))
        .unwrap()
        .pool(rust(), WarmPool::new(3, 3).priority(Priority::HIGH))
        .unwrap();
    assert_eq!(warm.step().unwrap().spawned.len(), 7);
    let wanted = Request::any().capability("rust");
    let held: Vec<_> = (0..3).map(|_| fleet.try_allocate(&wanted).unwrap()).collect();
    let warmed = warm.step().unwrap();
    assert_eq!((warmed.spawned.len(), warmed.missing), (3, 0));
    let more: Vec<_> = (0..3).map(|_| fleet.try_allocate(&wanted).unwrap()).collect();
    // Twelve at most, six of them busy: the three of the higher priority come first.
    let warmed = warm.step().unwrap();
    assert_eq!((warmed.spawned.len(), warmed.retired.len(), warmed.missing), (3, 1, 1));
    assert_eq!(fleet.stats().agents_live, 12);
    for lease in held.into_iter().chain(more) {
        lease.complete(LeaseOutcome::Succeeded).unwrap();
    }
    let warmed = warm.step().unwrap();
    assert_eq!((warmed.spawned.len(), warmed.retired.len(), warmed.missing), (1, 6, 0));
    let again = warm.step().unwrap();
    assert_eq!((again.spawned.len(), again.retired.len()), (0, 0));
    assert_eq!((fleet.observe(&rust()).serving, fleet.stats().agents_live), (3, 7));
    drop(fleet);
    assert_eq!(warm.step().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn warm_pools_that_make_no_sense_are_refused() {
    let (fleet, _hand) = timed();
    let refused = |result: Result<WarmPools, phalanx::Error>| result.unwrap_err().kind();
    let pools = || WarmPools::new(&fleet, 5);
    assert_eq!(refused(pools().pool(spec(), WarmPool::new(3, 2))), ErrorKind::InvalidArgument);
    let one = pools().pool(spec(), WarmPool::new(1, 2)).unwrap();
    assert_eq!(refused(one.pool(spec(), WarmPool::new(1, 2))), ErrorKind::AlreadyExists);
}
