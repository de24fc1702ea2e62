//! What a circuit breaker hears of the leases that the host holds itself.

use super::circuits::{breaker, tried};
use super::*;
use phalanx::fleet::supervise::BreakerState;
use phalanx::fleet::{Lease, LeaseOutcome, Observer, Strategy};
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;

/// A fleet without workers, and agents for so many leases whose type has a circuit.
fn leased_fleet(
    agents: usize,
    places: u32,
) -> (Fleet<u64, u64>, ManualClock, Arc<Witness>, Vec<AgentId>) {
    let (clock, hand) = ManualClock::new();
    let witness = Witness::new();
    let builder = Fleet::builder().strategies(&[Strategy::RoundRobin]).strict();
    let builder = builder.clock(clock).observer(witness.clone()).breaker("obedient", breaker());
    let fleet = builder.build().unwrap();
    let spec = AgentSpec::new("obedient").max_leases(NonZeroU32::new(places).unwrap());
    let agents = fleet.spawn_batch(&spec, agents).unwrap();
    (fleet, hand, witness, agents)
}

fn take(fleet: &Fleet<u64, u64>) -> Lease {
    fleet.try_allocate(&Request::any()).expect("an agent is free")
}

fn fail(fleet: &Fleet<u64, u64>) {
    take(fleet).complete(LeaseOutcome::Failed).unwrap();
}

fn opened(fleet: &Fleet<u64, u64>) -> bool {
    matches!(fleet.circuit("obedient"), Some(BreakerState::Open { .. }))
}

/// Has the circuit be half-open.
fn half_open(fleet: &Fleet<u64, u64>, hand: &ManualClock) {
    (0..3).for_each(|_| fail(fleet));
    assert!(opened(fleet));
    hand.advance(DELAY);
    fleet.tick();
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::HalfOpen));
}

#[test]
fn leases_that_fail_panic_or_expire_open_the_circuit_and_others_do_not() {
    let (fleet, hand, witness, agents) = leased_fleet(1, 1);
    for _ in 0..4 {
        take(&fleet).complete(LeaseOutcome::Succeeded).unwrap();
        drop(take(&fleet));
    }
    fail(&fleet);
    let lease = take(&fleet);
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        let _held = lease;
        panic!("as it was told");
    }));
    assert!(panicked.is_err());
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::Closed), "that were two");
    let request = Request::any().ttl(Duration::from_secs(1));
    let expires = fleet.try_allocate(&request).unwrap();
    hand.advance(Duration::from_secs(1));
    assert_eq!(fleet.tick(), 1);
    assert!(opened(&fleet));
    assert!(expires.complete(LeaseOutcome::Failed).unwrap_err().expired);
    assert_eq!(state(&fleet, agents[0]).0, AgentState::Failed);
    assert_eq!(fleet.try_allocate(&request).unwrap_err(), AllocateError::NoneIdle);
    let opened = |event: &FleetEvent| matches!(event, FleetEvent::CircuitOpened { .. });
    assert_eq!(witness.events().iter().filter(|event| opened(event)).count(), 1);
    let stats = fleet.stats();
    assert_eq!((stats.leases_failed, stats.leases_expired, stats.circuits_opened), (2, 1, 1));
    finish(&fleet);
}

#[test]
fn an_expired_lease_counts_once_whoever_finds_it() {
    let (fleet, hand, _, _) = leased_fleet(1, 3);
    let request = Request::any().ttl(Duration::from_secs(1));
    let leases: Vec<_> = (0..2).map(|_| fleet.try_allocate(&request).unwrap()).collect();
    hand.advance(Duration::from_secs(1));
    for lease in leases {
        // The first one finds that both are void.
        assert!(lease.complete(LeaseOutcome::Failed).unwrap_err().expired);
    }
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::Closed), "those were two");
    assert_eq!((fleet.stats().leases_expired, fleet.stats().leases_live), (2, 0));
    fail(&fleet);
    assert!(opened(&fleet));
    finish(&fleet);
}

#[test]
fn who_waits_is_not_given_an_agent_that_the_lease_before_has_taken_out_of_service() {
    for expires in [false, true] {
        let (fleet, hand, _, _) = leased_fleet(1, 1);
        fail(&fleet);
        fail(&fleet);
        let request = Request::any().ttl(Duration::from_secs(1));
        let last = fleet.try_allocate(&request).unwrap();
        let mut waits = fleet.allocate_async(&Request::any());
        let mut poll = || Pin::new(&mut waits).poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending());
        if expires {
            hand.advance(Duration::from_secs(1));
            fleet.tick();
        } else {
            last.complete(LeaseOutcome::Failed).unwrap();
        }
        assert!(opened(&fleet));
        assert!(poll().is_pending());
        hand.advance(DELAY);
        fleet.tick();
        let Poll::Ready(Ok(trial)) = poll() else { panic!("it is the trial") };
        trial.complete(LeaseOutcome::Succeeded).unwrap();
        assert_eq!(fleet.circuit("obedient"), Some(BreakerState::Closed));
        finish(&fleet);
    }
}

#[test]
fn a_lease_on_trial_closes_the_circuit_or_opens_it_and_one_that_is_dropped_passes_the_trial_on() {
    let (fleet, hand, witness, agents) = leased_fleet(2, 2);
    half_open(&fleet, &hand);
    let first = tried(&witness)[0];
    let trial = take(&fleet);
    assert_eq!(trial.agent(), first);
    assert_eq!(fleet.try_allocate(&Request::any()).unwrap_err(), AllocateError::NoneIdle);
    drop(trial);
    assert_eq!(tried(&witness).len(), 2, "the next trial begins as this one comes to nothing");
    fail(&fleet);
    assert!(opened(&fleet));
    hand.advance(DELAY);
    fleet.tick();
    take(&fleet).complete(LeaseOutcome::Succeeded).unwrap();
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::Closed));
    let stats = fleet.stats();
    assert_eq!((stats.circuits_opened, stats.circuits_closed, stats.circuit_trials), (2, 1, 3));
    assert!(agents.iter().all(|agent| state(&fleet, *agent).0 == AgentState::Ready));
    finish(&fleet);
}

#[test]
fn leases_that_began_before_the_circuit_opened_say_nothing_of_it() {
    let (fleet, hand, witness, agents) = leased_fleet(2, 3);
    let request = |ttl| Request::any().agent(agents[0]).ttl(Duration::from_secs(ttl));
    let forever = Request::any().agent(agents[0]);
    let fails = fleet.try_allocate(&forever).unwrap();
    let expires = fleet.try_allocate(&request(6)).unwrap();
    let mut renewed = fleet.try_allocate(&request(7)).unwrap();
    half_open(&fleet, &hand);
    assert_eq!(tried(&witness), [agents[1]]);
    // The trial of the other one closes it.
    take(&fleet).complete(LeaseOutcome::Succeeded).unwrap();
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::Closed));
    renewed.renew(Duration::from_secs(2)).unwrap();
    fail(&fleet);
    fails.complete(LeaseOutcome::Failed).unwrap();
    hand.advance(Duration::from_secs(1));
    assert_eq!(fleet.tick(), 1);
    assert!(expires.is_revoked());
    fail(&fleet);
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::Closed), "two are of this era");
    hand.advance(Duration::from_secs(1));
    assert_eq!(fleet.tick(), 1);
    assert!(opened(&fleet), "who renews a lease vouches for it anew");
    finish(&fleet);
}

#[test]
fn a_lease_whose_agent_is_killed_says_nothing() {
    let (fleet, hand, witness, _) = leased_fleet(3, 1);
    half_open(&fleet, &hand);
    let trial = take(&fleet);
    fleet.kill(trial.agent()).unwrap();
    let next = tried(&witness)[1];
    assert!(!trial.complete(LeaseOutcome::Failed).unwrap_err().expired);
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::HalfOpen));
    let trial = take(&fleet);
    assert_eq!(trial.agent(), next);
    trial.complete(LeaseOutcome::Succeeded).unwrap();
    assert_eq!(fleet.circuit("obedient"), Some(BreakerState::Closed));
    finish(&fleet);
}

/// Waits at a gate as it is told that a circuit opened.
#[derive(Debug)]
struct Slow(Arc<Gate>);

impl Observer for Slow {
    fn notice(&self, event: &FleetEvent) {
        if matches!(event, FleetEvent::CircuitOpened { .. }) {
            self.0.pass();
        }
    }
}

#[test]
fn a_shutdown_waits_no_longer_than_it_may_for_an_observer_that_is_told_of_an_expired_lease() {
    let (clock, hand) = ManualClock::new();
    let gate = Gate::new();
    let builder =
        Fleet::<u64, u64>::builder().workers(1).clock(clock).breaker("obedient", breaker());
    let fleet = builder.observer(Arc::new(Slow(Arc::clone(&gate)))).build().unwrap();
    fleet.spawn(AgentSpec::new("obedient")).unwrap();
    (0..2).for_each(|_| fail(&fleet));
    let lease = fleet.try_allocate(&Request::any().ttl(Duration::from_secs(1))).unwrap();
    hand.advance(Duration::from_secs(1));
    gate.await_arrivals(1);
    let report = fleet.shutdown(Duration::ZERO).unwrap();
    assert_eq!(report.workers_left, 1, "it is in the observer");
    gate.open();
    assert!(lease.complete(LeaseOutcome::Succeeded).is_err());
    finish(&fleet);
}

#[test]
fn an_agent_on_trial_is_not_kept_waiting_by_others_that_do_well() {
    let taken_first = [Strategy::LeastLoaded, Strategy::Performance];
    let taken_in_turn = [Strategy::Priority, Strategy::RoundRobin];
    for strategy in taken_first.into_iter().chain(taken_in_turn) {
        let (clock, hand) = ManualClock::new();
        let builder = Fleet::<u64, u64>::builder().strategies(&[strategy]).strict();
        let fleet = builder.clock(clock).breaker("obedient", breaker()).build().unwrap();
        let guarded = fleet.spawn(AgentSpec::new("obedient")).unwrap();
        let others = fleet.spawn_batch(&AgentSpec::new("other"), 2).unwrap();
        let lease = |agent| fleet.try_allocate(&Request::any().agent(agent)).unwrap();
        for other in &others {
            lease(*other).complete(LeaseOutcome::Succeeded).unwrap();
        }
        (0..3).for_each(|_| lease(guarded).complete(LeaseOutcome::Failed).unwrap());
        assert!(opened(&fleet), "{strategy:?}");
        let held = lease(others[0]);
        hand.advance(DELAY);
        fleet.tick();
        // It comes back after the other one went on trial.
        held.complete(LeaseOutcome::Succeeded).unwrap();
        // One lease after the other: there are always others that could have it.
        let comes_to_guarded = |_: &usize| {
            let lease = take(&fleet);
            let agent = lease.agent();
            lease.complete(LeaseOutcome::Succeeded).unwrap();
            agent == guarded
        };
        let came = (1..=3).find(comes_to_guarded);
        assert!(came.is_some(), "{strategy:?}: nobody comes to it");
        assert!(came == Some(1) || taken_in_turn.contains(&strategy), "{strategy:?}: {came:?}");
        assert_eq!(fleet.circuit("obedient"), Some(BreakerState::Closed), "{strategy:?}");
        finish(&fleet);
    }
}
