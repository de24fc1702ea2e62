//! Agents that the host picks: what its picker is shown, what it may do, and what comes of its mistakes.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use super::support::poll;
use phalanx::ManualClock;
use phalanx::fleet::supervise::{Restart, RestartPolicy};
use phalanx::fleet::{
    AgentId, AgentSpec, AgentState, AgentStatus, AllocateError, Backoff, Condition, Fleet, Lease,
    MAX_CANDIDATES, Picker, Priority, Request, Strategy,
};

const DELAY: Duration = Duration::from_secs(5);

/// What a picker does, as a closure.
struct By<F>(F);

impl<F: Fn(&[AgentStatus]) -> Option<usize> + Send + Sync> Picker for By<F> {
    fn pick(&self, _request: &Request, candidates: &[AgentStatus]) -> Option<usize> {
        (self.0)(candidates)
    }
}

fn by(pick: impl Fn(&[AgentStatus]) -> Option<usize> + Send + Sync + 'static) -> Request {
    Request::any().picker(Arc::new(By(pick)))
}

fn ids(candidates: &[AgentStatus]) -> Vec<AgentId> {
    candidates.iter().map(|agent| agent.id).collect()
}

#[test]
fn a_picker_is_shown_who_fits_and_has_room_in_the_order_of_the_strategy() {
    let strategies = [Strategy::LeastLoaded, Strategy::Priority];
    let fleet = Fleet::<(), ()>::builder().strict().strategies(&strategies).build().unwrap();
    let rust =
        |name| AgentSpec::new(name).capability("rust").max_leases(NonZeroU32::new(2).unwrap());
    let low = fleet.spawn(rust("low").priority(Priority::LOW).label("zone", "south")).unwrap();
    let high = fleet.spawn(rust("high").priority(Priority::HIGH)).unwrap();
    let worn = fleet.spawn(rust("worn").condition(Condition::Degraded)).unwrap();
    fleet.spawn(rust("off").condition(Condition::Draining)).unwrap();
    let full = fleet.spawn(rust("full").max_leases(NonZeroU32::MIN)).unwrap();
    let full = fleet.try_allocate(&Request::any().agent(full)).unwrap();
    fleet.spawn(AgentSpec::new("cobol").capability("cobol")).unwrap();
    let busy = fleet.try_allocate(&Request::any().agent(high)).unwrap();

    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&seen);
    let request = by(move |candidates| {
        note.lock().unwrap().push(candidates.to_vec());
        candidates.iter().position(|agent| agent.label("zone") == Some("south"))
    });
    let request = request.capability("rust");
    let lease = fleet.try_allocate(&request).unwrap();
    assert_eq!(lease.agent(), low);
    drop(lease);
    let _again = fleet.try_allocate(&request.strategy(Strategy::Priority)).unwrap();

    let seen = seen.lock().unwrap();
    assert_eq!(ids(&seen[0]), [low, high, worn], "the least loaded first, the degraded last");
    assert_eq!(ids(&seen[1]), [high, low, worn], "the highest priority first");
    let shown = &seen[0][1];
    assert_eq!((&*shown.name, shown.load, shown.max_leases), ("high", 1, 2));
    assert_eq!(shown.state, AgentState::Busy);
    assert_eq!(seen[0][0].label("zone"), Some("south"));
    assert_eq!(shown.label("zone"), None);
    drop((full, busy));
}

#[test]
fn a_picker_is_shown_the_best_of_many_and_of_all_shards() {
    let builder = Fleet::<(), ()>::builder().shards(4.try_into().unwrap());
    let fleet = builder.strategies(&[Strategy::Priority]).build().unwrap();
    let count = 2 * MAX_CANDIDATES;
    for level in 0..count {
        let level = Priority::new(u8::try_from(level).unwrap());
        fleet.spawn(AgentSpec::new("worker").priority(level)).unwrap();
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&seen);
    let request = by(move |candidates| {
        note.lock().unwrap().extend(candidates.iter().map(|agent| agent.priority.level()));
        Some(candidates.len() - 1)
    });
    let lease = fleet.try_allocate(&request).unwrap();
    let expected: Vec<_> = (MAX_CANDIDATES..count).rev().map(|level| level as u8).collect();
    assert_eq!(*seen.lock().unwrap(), expected);
    let taken = fleet.agent(lease.agent()).unwrap();
    assert_eq!(usize::from(taken.priority.level()), MAX_CANDIDATES);
}

#[test]
fn what_a_picker_chose_and_others_took_is_picked_anew_and_counted() {
    let fleet = Fleet::<(), ()>::builder().strict().build().unwrap();
    let agents = fleet.spawn_batch(&AgentSpec::new("worker"), 2).unwrap();
    let thief = fleet.clone();
    let loot: Arc<Mutex<Vec<Lease>>> = Arc::default();
    let hoard = Arc::clone(&loot);
    // The picker runs under no lock: it may allocate.
    let request = by(move |candidates| {
        let mut hoard = hoard.lock().unwrap();
        if hoard.is_empty() {
            hoard.push(thief.try_allocate(&Request::any().agent(candidates[0].id)).unwrap());
        }
        Some(0)
    });
    let lease = fleet.try_allocate(&request).unwrap();
    assert_eq!((loot.lock().unwrap()[0].agent(), lease.agent()), (agents[0], agents[1]));
    assert_eq!(fleet.stats().picks_lost, 1);
}

#[test]
fn a_picker_that_always_comes_too_late_gets_an_error_and_not_an_agent() {
    let fleet = Fleet::<(), ()>::builder().strict().build().unwrap();
    let spec = AgentSpec::new("worker");
    fleet.spawn_batch(&spec, 2).unwrap();
    let killer = fleet.clone();
    let request = by(move |candidates| {
        killer.kill(candidates[0].id).unwrap();
        killer.spawn(AgentSpec::new("worker")).unwrap();
        Some(0)
    });
    assert_eq!(fleet.try_allocate(&request).unwrap_err(), AllocateError::PickLost);
    assert_eq!(fleet.allocate(&request).unwrap_err(), AllocateError::PickLost);
    let stats = fleet.stats();
    assert_eq!((stats.picks_lost, stats.leases_granted, stats.requests_waiting), (16, 0, 0));
}

#[test]
fn mistakes_of_a_picker_fail_its_allocation_and_nothing_else() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let agent = fleet.spawn(AgentSpec::new("worker")).unwrap();
    let panics = by(|_| panic!("a picker"));
    let beyond = by(|candidates| Some(candidates.len()));
    let nobody = by(|_| None);
    for (request, error) in [
        (&panics, AllocateError::PickerFailed),
        (&beyond, AllocateError::PickerFailed),
        (&nobody, AllocateError::PickDeclined),
    ] {
        assert_eq!(fleet.try_allocate(request).unwrap_err(), error);
        // Nobody waits for what its picker would not take.
        assert_eq!(fleet.allocate(request).unwrap_err(), error);
        assert_eq!(fleet.try_allocate_batch(request, 1).unwrap_err(), AllocateError::PickerInBatch);
        assert_eq!(fleet.try_allocate_up_to(request, 1).unwrap_err(), AllocateError::PickerInBatch);
    }
    let stats = fleet.stats();
    assert_eq!((stats.other_panics, stats.picks_declined, stats.leases_granted), (2, 2, 0));
    assert_eq!(fleet.try_allocate(&Request::any()).unwrap().agent(), agent);
}

#[test]
fn a_picker_is_not_asked_where_there_is_nobody_to_show() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let never = by(|_| unreachable!("nobody is there"));
    let unknown = never.clone().capability("cobol");
    assert_eq!(fleet.try_allocate(&never).unwrap_err(), AllocateError::NoSuchCapability);
    let agent = fleet.spawn(AgentSpec::new("worker")).unwrap();
    assert_eq!(fleet.try_allocate(&unknown).unwrap_err(), AllocateError::NoSuchCapability);
    let lease = fleet.try_allocate(&Request::any()).unwrap();
    assert_eq!(fleet.try_allocate(&never).unwrap_err(), AllocateError::NoneIdle);
    drop(lease);
    fleet.kill(agent).unwrap();
    let named = never.clone().agent(agent);
    assert_eq!(fleet.try_allocate(&named).unwrap_err(), AllocateError::AgentGone);
    fleet.shutdown(Duration::ZERO).unwrap();
    assert_eq!(fleet.try_allocate(&never).unwrap_err(), AllocateError::Closed);
}

#[test]
fn a_picker_that_waited_judges_what_came_free_and_what_it_declines_passes_on() {
    let fleet = Fleet::<(), ()>::builder().strict().build().unwrap();
    let agents = fleet.spawn_batch(&AgentSpec::new("worker"), 2).unwrap();
    let first = fleet.try_allocate(&Request::any().agent(agents[0])).unwrap();
    let second = fleet.try_allocate(&Request::any().agent(agents[1])).unwrap();
    let wanted = agents[1];
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&seen);
    let request = by(move |candidates| {
        let shown = (ids(candidates), candidates[0].load, candidates[0].state);
        note.lock().unwrap().push(shown);
        candidates.iter().position(|agent| agent.id == wanted)
    });
    let mut declines = fleet.allocate_async(&request);
    let mut next = fleet.allocate_async(&Request::any());
    assert!(poll(&mut declines).is_pending() && poll(&mut next).is_pending());
    drop(first);
    // It was granted to the one that came first, and goes on once that has looked at it.
    assert!(poll(&mut next).is_pending());
    let Poll::Ready(Err(error)) = poll(&mut declines) else { panic!("it was granted an agent") };
    assert_eq!(error, AllocateError::PickDeclined);
    let Poll::Ready(Ok(passed)) = poll(&mut next) else { panic!("it was passed on") };
    assert_eq!(passed.agent(), agents[0]);
    let mut takes = fleet.allocate_async(&request);
    assert!(poll(&mut takes).is_pending());
    drop(second);
    let Poll::Ready(Ok(lease)) = poll(&mut takes) else { panic!("the wanted one is free") };
    assert_eq!(lease.agent(), wanted);
    assert_eq!(
        *seen.lock().unwrap(),
        [(vec![agents[0]], 0, AgentState::Ready), (vec![wanted], 0, AgentState::Ready)]
    );
    assert_eq!(fleet.stats().leases_live, 2);
}

#[test]
fn a_picker_that_panics_after_a_wait_fails_its_allocation_and_the_agent_goes_on() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let agent = fleet.spawn(AgentSpec::new("worker")).unwrap();
    let held = fleet.try_allocate(&Request::any()).unwrap();
    let mut fails = fleet.allocate_async(&by(|_| panic!("a picker")));
    let mut next = fleet.allocate_async(&Request::any());
    assert!(poll(&mut fails).is_pending() && poll(&mut next).is_pending());
    drop(held);
    let Poll::Ready(Err(error)) = poll(&mut fails) else { panic!("it was granted an agent") };
    assert_eq!(error, AllocateError::PickerFailed);
    let Poll::Ready(Ok(lease)) = poll(&mut next) else { panic!("it was passed on") };
    assert_eq!(lease.agent(), agent);
    let stats = fleet.stats();
    assert_eq!((stats.other_panics, stats.leases_abandoned, stats.leases_live), (1, 2, 1));
}

#[test]
fn a_picker_whose_agent_ends_as_it_thinks_gets_no_lease_that_would_expire() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let agent = fleet.spawn(AgentSpec::new("worker")).unwrap();
    let killer = fleet.clone();
    let kills = by(move |candidates| {
        killer.kill(candidates[0].id).unwrap();
        Some(0)
    });
    let held = fleet.try_allocate(&Request::any().agent(agent)).unwrap();
    let mut waits = fleet.allocate_async(&kills.ttl(Duration::from_secs(1)));
    assert!(poll(&mut waits).is_pending());
    drop(held);
    assert!(matches!(poll(&mut waits), Poll::Ready(Err(AllocateError::PickLost))));
    assert_eq!(fleet.stats().leases_live, 0);
}

#[test]
fn a_batch_that_would_wait_takes_no_picker() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    fleet.spawn(AgentSpec::new("worker")).unwrap();
    let never = by(|_| unreachable!("a batch has none"));
    assert_eq!(fleet.allocate_batch(&never, 1).unwrap_err(), AllocateError::PickerInBatch);
    let mut batch = fleet.allocate_batch_async(&never, 2);
    assert!(matches!(poll(&mut batch), Poll::Ready(Err(AllocateError::PickerInBatch))));
    assert_eq!(fleet.stats().leases_live, 0);
}

#[test]
fn the_time_of_a_lease_that_was_waited_for_begins_once_its_picker_has_chosen() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<(), ()>::builder().clock(clock).build().unwrap();
    fleet.spawn(AgentSpec::new("worker")).unwrap();
    let second = Duration::from_secs(1);
    let held = fleet.try_allocate(&Request::any()).unwrap();
    let time = hand.clone();
    let slow = by(move |_| {
        time.advance(second);
        Some(0)
    });
    let mut waits = fleet.allocate_async(&slow.ttl(second));
    assert!(poll(&mut waits).is_pending());
    drop(held);
    let Poll::Ready(Ok(lease)) = poll(&mut waits) else { panic!("it came free") };
    let instant = Duration::from_nanos(1);
    hand.advance(second - instant);
    assert!(!lease.is_revoked());
    hand.advance(instant);
    assert!(lease.is_revoked());
    assert_eq!(fleet.tick(), 1);
}

#[test]
fn a_lease_that_was_picked_expires() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<(), ()>::builder().clock(clock).build().unwrap();
    let agent = fleet.spawn(AgentSpec::new("worker")).unwrap();
    let request = by(|_| Some(0)).ttl(Duration::from_secs(1));
    let lease = fleet.try_allocate(&request).unwrap();
    assert_eq!(fleet.try_allocate(&request).unwrap_err(), AllocateError::NoneIdle);
    hand.advance(Duration::from_secs(1));
    // Nobody ticked: the look that found nobody notices it.
    assert_eq!(fleet.try_allocate(&request).unwrap().agent(), agent);
    assert!(lease.is_revoked());
}

#[test]
fn requests_are_equal_only_with_the_same_picker() {
    let one = by(|_| Some(0));
    assert_eq!(one, one.clone());
    assert_ne!(one, by(|_| Some(0)));
    assert_ne!(one, Request::any());
    assert!(format!("{one:?}").contains("picker: true"));
}

#[test]
fn a_picker_sees_which_incarnation_an_agent_is_of_and_what_its_spec_allows_it() {
    let (clock, hand) = ManualClock::new();
    let builder = Fleet::<(), ()>::builder().clock(clock).strict();
    let fleet = builder.build().unwrap();
    let policy = RestartPolicy::new(Restart::OnFailure).backoff(Backoff::constant(DELAY));
    let spec = AgentSpec::new("fails").max_leases(NonZeroU32::new(3).unwrap()).restart(policy);
    let agents = fleet.spawn_batch(&spec, 2).unwrap();
    fleet.report_failure(agents[0], "it was seen to").unwrap();
    hand.advance(DELAY);
    fleet.tick();
    let request = by(move |candidates| {
        let mut seen: Vec<_> = candidates
            .iter()
            .map(|agent| (agent.id, agent.incarnation, agent.max_leases))
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, [(agents[0], 2, 3), (agents[1], 1, 3)]);
        candidates.iter().position(|agent| agent.incarnation == 2)
    });
    let lease = fleet.try_allocate(&request).unwrap();
    let status = fleet.agent(lease.agent()).unwrap();
    assert_eq!((status.incarnation, status.load), (2, 1));
    fleet.kill(lease.agent()).unwrap();
    let next = fleet.spawn(AgentSpec::new("next")).unwrap();
    assert_eq!(fleet.agent(next).unwrap().incarnation, 1, "a new agent in an old place");
}
