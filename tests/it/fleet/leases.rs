//! Leases: who is chosen, who waits, what a kill, a panic and a dropped future leave behind.

use std::future::Future;
use std::num::{NonZeroU32, NonZeroUsize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use super::support::LONG;
use phalanx::fleet::{
    AgentSpec, AgentState, AllocateError, Fleet, Lease, LeaseOutcome, MAX_CAPABILITIES, Priority,
    Request,
};
use phalanx::{ErrorKind, ManualClock};

fn fleet() -> Fleet {
    Fleet::builder().build().unwrap()
}

fn agent(name: &str) -> AgentSpec<(), ()> {
    AgentSpec::new(name)
}

/// Counts how often it is woken.
#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Wakes {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

fn poll<F: Future + Unpin>(future: &mut F, wakes: &Arc<Wakes>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::clone(wakes));
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}

#[test]
fn an_agent_without_every_capability_asked_for_is_never_chosen() {
    let fleet = fleet();
    let both = fleet.spawn(agent("both").capability("rust").capability("net")).unwrap();
    fleet.spawn(agent("rust").capability("rust")).unwrap();
    let request = Request::any().capability("net").capability("rust");
    let lease = fleet.try_allocate(&request).unwrap();
    assert_eq!(lease.agent(), both);
    assert_eq!(fleet.try_allocate(&request).unwrap_err(), AllocateError::NoneIdle);
    let unknown = Request::any().capability("cobol");
    assert_eq!(fleet.try_allocate(&unknown).unwrap_err(), AllocateError::NoSuchCapability);
    assert_eq!(fleet.allocate(&unknown).unwrap_err(), AllocateError::NoSuchCapability);
}

#[test]
fn the_least_loaded_is_chosen_then_the_highest_priority_then_the_one_that_came_back_last() {
    let fleet = Fleet::<(), ()>::builder().strict().build().unwrap();
    let three = NonZeroU32::new(3).unwrap();
    let first = fleet.spawn(agent("a").max_leases(three)).unwrap();
    let second = fleet.spawn(agent("b").max_leases(three)).unwrap();
    let high = fleet.spawn(agent("c").priority(Priority::HIGH).max_leases(three)).unwrap();
    let six =
        || -> Vec<_> { (0..6).map(|_| fleet.try_allocate(&Request::any()).unwrap()).collect() };
    let order = |leases: &[Lease]| leases.iter().map(Lease::agent).collect::<Vec<_>>();
    let leases = six();
    assert_eq!(order(&leases), [high, first, second, high, first, second]);
    assert_eq!(fleet.agent(high).map(|status| status.load), Some(2));
    drop(leases);
    let leases = six();
    assert_eq!(order(&leases), [high, second, first, high, second, first], "second came back last");
    let [.., last_of_second, _] = <[_; 6]>::try_from(leases).unwrap();
    // The others are back, and this one holds a lease.
    let next = fleet.try_allocate(&Request::any()).unwrap();
    let after = fleet.try_allocate(&Request::any()).unwrap();
    assert_eq!([next.agent(), after.agent()], [high, first]);
    drop((last_of_second, next, after));
    assert_eq!(fleet.agent(high).map(|status| status.state), Some(AgentState::Ready));
}

#[test]
fn two_threads_never_hold_the_same_place() {
    let fleet = fleet();
    let agents = fleet.spawn_batch(&agent("pool"), 3).unwrap();
    let holders: Arc<Vec<AtomicU32>> = Arc::new(agents.iter().map(|_| AtomicU32::new(0)).collect());
    let start = Arc::new(Barrier::new(6));
    let threads: Vec<_> = (0..6)
        .map(|_| {
            let (fleet, holders, start) = (fleet.clone(), Arc::clone(&holders), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                for _ in 0..200 {
                    let lease = fleet.allocate(&Request::any()).unwrap();
                    let holder = &holders[lease.agent().slot() as usize];
                    assert_eq!(holder.fetch_add(1, Ordering::SeqCst), 0, "two holders");
                    thread::yield_now();
                    holder.fetch_sub(1, Ordering::SeqCst);
                    lease.complete(LeaseOutcome::Succeeded).unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let stats = fleet.stats();
    assert_eq!((stats.leases_granted, stats.leases_succeeded), (1200, 1200));
    assert_eq!((stats.leases_live, stats.requests_waiting), (0, 0));
}

#[test]
fn a_dropped_lease_is_abandoned_and_one_dropped_by_a_panic_has_failed() {
    let fleet = fleet();
    let id = fleet.spawn(agent("only")).unwrap();
    drop(fleet.try_allocate(&Request::any()).unwrap());
    assert_eq!(fleet.stats().leases_abandoned, 1);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _lease = fleet.try_allocate(&Request::any()).unwrap();
        panic!("the host's own work went wrong");
    }));
    assert!(panicked.is_err());
    fleet.try_allocate(&Request::any()).unwrap().complete(LeaseOutcome::Failed).unwrap();
    let stats = fleet.stats();
    assert_eq!((stats.leases_abandoned, stats.leases_failed, stats.leases_live), (1, 2, 0));
    assert_eq!(fleet.agent(id).map(|status| status.state), Some(AgentState::Ready));
}

#[test]
fn a_lease_of_a_killed_agent_is_stale_and_frees_nobody() {
    let fleet = fleet();
    let dead = fleet.spawn(agent("dead")).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    assert!(!lease.is_revoked());
    assert_eq!(fleet.kill(dead).unwrap().leases_revoked, 1);
    assert!(lease.is_revoked());
    assert_eq!(fleet.agent(dead), None);
    assert_eq!(fleet.kill(dead).unwrap_err().kind(), ErrorKind::NotFound);

    let heir = fleet.spawn(agent("heir")).unwrap();
    assert_eq!(heir.slot(), dead.slot(), "the slot is used again");
    assert_ne!(heir, dead);
    let held = fleet.try_allocate(&Request::any()).unwrap();
    assert_eq!(lease.complete(LeaseOutcome::Succeeded).unwrap_err().agent, dead);
    assert_eq!(fleet.agent(heir).map(|status| status.load), Some(1));
    assert_eq!(fleet.try_allocate(&Request::any()).unwrap_err(), AllocateError::NoneIdle);
    drop(held);
    let stats = fleet.stats();
    assert_eq!((stats.leases_stale, stats.leases_succeeded, stats.agents_killed), (1, 0, 1));
}

#[test]
fn those_who_wait_are_served_by_priority_then_in_order_of_coming() {
    let fleet = fleet();
    fleet.spawn(agent("only")).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    let mut waiting: Vec<_> = [Priority::LOW, Priority::NORMAL, Priority::HIGH, Priority::NORMAL]
        .map(|priority| {
            let wakes = Arc::<Wakes>::default();
            let mut request = fleet.allocate_async(&Request::any().priority(priority));
            assert!(poll(&mut request, &wakes).is_pending());
            (request, wakes)
        })
        .into();
    assert_eq!(fleet.stats().requests_waiting, 4);
    let mut held = lease;
    for (served, next) in [2, 1, 3, 0].into_iter().enumerate() {
        drop(held);
        let woken: usize = waiting.iter().map(|(_, wakes)| wakes.count()).sum();
        assert_eq!(woken, served + 1, "one agent came free and one request was woken");
        let (request, wakes) = &mut waiting[next];
        let Poll::Ready(Ok(lease)) = poll(request, wakes) else { panic!("{next} was not next") };
        held = lease;
    }
}

#[test]
fn a_waiting_thread_is_woken_when_an_agent_comes_free_or_is_spawned() {
    let fleet = fleet();
    fleet.spawn(agent("only")).unwrap();
    for round in 0..2 {
        let lease = fleet.try_allocate(&Request::any()).unwrap();
        let waiter = {
            let fleet = fleet.clone();
            thread::spawn(move || fleet.allocate(&Request::any()).map(|lease| lease.agent()))
        };
        while fleet.stats().requests_waiting == 0 {
            thread::yield_now();
        }
        let served = if round == 0 {
            let served = lease.agent();
            drop(lease);
            served
        } else {
            fleet.spawn(agent("another")).unwrap()
        };
        assert_eq!(waiter.join().unwrap(), Ok(served));
    }
}

#[test]
fn a_timeout_ends_on_the_fleets_clock_and_leaves_no_waiter() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<(), ()>::builder().clock(clock).build().unwrap();
    fleet.spawn(agent("only")).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    let waiter = {
        let fleet = fleet.clone();
        thread::spawn(move || {
            fleet.allocate_timeout(&Request::any(), Duration::from_secs(10)).map(drop)
        })
    };
    while hand.sleepers() == 0 {
        thread::yield_now();
    }
    hand.advance(Duration::from_secs(9));
    assert_eq!(fleet.stats().requests_waiting, 1);
    hand.advance(Duration::from_secs(1));
    assert_eq!(waiter.join().unwrap(), Err(AllocateError::Timeout));
    assert_eq!(fleet.stats().requests_waiting, 0);
    drop(lease);
    assert_eq!(fleet.stats().leases_live, 0, "nobody was granted what came free");
    assert!(fleet.try_allocate(&Request::any()).is_ok());
}

/// Where a future is dropped: before the first poll, while it waits, after its grant, after its result.
#[test]
fn a_future_dropped_at_any_poll_loses_neither_a_grant_nor_a_wakeup() {
    for polls_before_grant in 0..4 {
        for polled_after_grant in [false, true] {
            let fleet = fleet();
            fleet.spawn(agent("only")).unwrap();
            let lease = fleet.try_allocate(&Request::any()).unwrap();
            let (first, second) = (Arc::<Wakes>::default(), Arc::<Wakes>::default());
            let mut dropped = fleet.allocate_async(&Request::any());
            for _ in 0..polls_before_grant {
                assert!(poll(&mut dropped, &first).is_pending());
            }
            let mut patient = fleet.allocate_async(&Request::any());
            assert!(poll(&mut patient, &second).is_pending());
            drop(lease);
            if polls_before_grant > 0 {
                assert_eq!((first.count(), second.count()), (1, 0), "the first was first");
            }
            let got = polled_after_grant.then(|| poll(&mut dropped, &first));
            drop(dropped);
            drop(got);
            assert_eq!(second.count(), 1, "the grant was passed on");
            let Poll::Ready(Ok(lease)) = poll(&mut patient, &second) else {
                panic!("the grant was lost")
            };
            drop(lease);
            let stats = fleet.stats();
            assert_eq!((stats.leases_live, stats.requests_waiting), (0, 0));
        }
    }
}

#[test]
fn the_waker_of_the_last_poll_is_the_one_that_is_woken() {
    let fleet = fleet();
    fleet.spawn(agent("only")).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    let (old, new) = (Arc::<Wakes>::default(), Arc::<Wakes>::default());
    let mut request = fleet.allocate_async(&Request::any());
    assert!(poll(&mut request, &old).is_pending());
    assert!(poll(&mut request, &new).is_pending());
    drop(lease);
    assert_eq!((old.count(), new.count()), (0, 1));
}

#[test]
fn a_grant_of_an_agent_that_dies_before_it_is_noticed_goes_back_to_waiting() {
    let fleet = fleet();
    let doomed = fleet.spawn(agent("doomed")).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    let other = fleet.spawn(agent("other")).unwrap();
    let held = fleet.try_allocate(&Request::any()).unwrap();
    let wakes = Arc::<Wakes>::default();
    let mut request = fleet.allocate_async(&Request::any());
    assert!(poll(&mut request, &wakes).is_pending());
    drop(lease);
    assert_eq!(wakes.count(), 1);
    assert_eq!(fleet.kill(doomed).unwrap().leases_revoked, 0, "nobody held it yet");
    assert!(poll(&mut request, &wakes).is_pending());
    drop(held);
    let Poll::Ready(Ok(lease)) = poll(&mut request, &wakes) else { panic!("it was forgotten") };
    assert_eq!(lease.agent(), other);
}

#[test]
fn a_request_that_no_live_agent_can_serve_any_more_stops_waiting() {
    let fleet = fleet();
    let only = fleet.spawn(agent("only").capability("rust")).unwrap();
    fleet.spawn(agent("other")).unwrap();
    let request = Request::any().capability("rust");
    let _lease = fleet.try_allocate(&request).unwrap();
    let wakes = Arc::<Wakes>::default();
    let mut waiting = fleet.allocate_async(&request);
    assert!(poll(&mut waiting, &wakes).is_pending());
    fleet.kill(only).unwrap();
    assert_eq!(wakes.count(), 1);
    let Poll::Ready(Err(error)) = poll(&mut waiting, &wakes) else { panic!("it waits for nobody") };
    assert_eq!(error, AllocateError::NoSuchCapability);
}

#[test]
fn a_waker_that_panics_harms_nobody_else() {
    struct Bomb;
    impl Wake for Bomb {
        fn wake(self: Arc<Self>) {
            panic!("the host's waker panics");
        }
    }
    let fleet = fleet();
    fleet.spawn(agent("only").max_leases(NonZeroU32::new(2).unwrap())).unwrap();
    let leases = [0, 1].map(|_| fleet.try_allocate(&Request::any()).unwrap());
    let (bomb, wakes) = (Waker::from(Arc::new(Bomb)), Arc::<Wakes>::default());
    let mut first = fleet.allocate_async(&Request::any());
    assert!(Pin::new(&mut first).poll(&mut Context::from_waker(&bomb)).is_pending());
    let mut second = fleet.allocate_async(&Request::any());
    assert!(poll(&mut second, &wakes).is_pending());
    drop(leases);
    assert_eq!(wakes.count(), 1);
    assert!(poll(&mut second, &wakes).is_ready());
    assert_eq!(fleet.stats().other_panics, 1);
}

#[test]
fn more_requests_than_may_wait_are_refused_and_counted() {
    let fleet = Fleet::<(), ()>::builder().max_waiting(NonZeroUsize::MIN).build().unwrap();
    fleet.spawn(agent("only")).unwrap();
    let _lease = fleet.try_allocate(&Request::any()).unwrap();
    let wakes = Arc::<Wakes>::default();
    let mut first = fleet.allocate_async(&Request::any());
    assert!(poll(&mut first, &wakes).is_pending());
    let refused = fleet.allocate_timeout(&Request::any(), LONG);
    assert_eq!(refused.unwrap_err(), AllocateError::TooManyWaiting);
    assert_eq!(fleet.stats().requests_refused, 1);
}

#[test]
fn a_batch_of_agents_is_spawned_whole_or_not_at_all() {
    let fleet =
        Fleet::<(), ()>::builder().max_agents(NonZeroUsize::new(3).unwrap()).build().unwrap();
    fleet.spawn_batch(&agent("a"), 2).unwrap();
    let refused = fleet.spawn_batch(&agent("b"), 2);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::LimitReached);
    assert_eq!(fleet.agents().len(), 2);
    fleet.spawn(agent("b")).unwrap();
    assert_eq!(fleet.stats().agents_spawned, 3);

    let names = (0..=MAX_CAPABILITIES).map(|n| n.to_string());
    fleet.kill(fleet.agents()[0].id).unwrap();
    let greedy = names.fold(agent("greedy"), AgentSpec::capability);
    assert_eq!(fleet.spawn(greedy).unwrap_err().kind(), ErrorKind::LimitReached);
}

#[test]
fn a_fleet_without_workers_refuses_what_only_workers_can_run() {
    let fleet = fleet();
    let spec = AgentSpec::<(), ()>::new("runner").handler_fn(|_, _| Ok(()));
    assert_eq!(fleet.spawn(spec).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_shutdown_refuses_those_who_wait_and_voids_what_is_held() {
    let fleet = fleet();
    fleet.spawn(agent("only")).unwrap();
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    let waiter = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.allocate(&Request::any()).map(drop))
    };
    while fleet.stats().requests_waiting == 0 {
        thread::yield_now();
    }
    fleet.shutdown(LONG).unwrap();
    assert_eq!(waiter.join().unwrap(), Err(AllocateError::Closed));
    assert!(lease.complete(LeaseOutcome::Succeeded).is_err());
    assert_eq!(fleet.try_allocate(&Request::any()).unwrap_err(), AllocateError::Closed);
    assert_eq!(fleet.spawn(agent("late")).unwrap_err().kind(), ErrorKind::Closed);
    let stats = fleet.stats();
    assert_eq!((stats.agents_live, stats.agents_stopped, stats.leases_live), (0, 1, 0));
}
