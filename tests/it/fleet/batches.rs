//! Several agents at once, waited for.

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use super::support::{LONG, poll, ready};
use phalanx::fleet::{
    AgentId, AgentSpec, AllocateError, BatchAllocation, Budgets, Condition, Fit, Fleet, FleetEvent,
    Lease, Observer, Priority, Request, Task, WeakFleet,
};
use phalanx::{ErrorKind, ManualClock};

fn fleet_of(agents: usize) -> (Fleet, Vec<AgentId>) {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let agents = fleet.spawn_batch(&AgentSpec::new("worker"), agents).unwrap();
    (fleet, agents)
}

fn take(fleet: &Fleet, agents: &[AgentId]) -> Vec<Lease> {
    let take = |agent: &AgentId| fleet.try_allocate(&Request::any().agent(*agent)).unwrap();
    agents.iter().map(take).collect()
}

fn is_pending(future: &mut BatchAllocation) -> bool {
    poll(future).is_pending()
}

#[test]
fn a_batch_that_waits_gathers_what_comes_free_and_gets_all_at_once() {
    let (fleet, agents) = fleet_of(3);
    let mut leases = take(&fleet, &agents);
    let mut batch = fleet.allocate_batch_async(&Request::any(), 3);
    assert!(is_pending(&mut batch));
    for _ in 0..2 {
        leases.pop();
        assert!(is_pending(&mut batch));
        // What was gathered is not to be had.
        assert_eq!(fleet.try_allocate(&Request::any()).unwrap_err(), AllocateError::NoneIdle);
    }
    assert_eq!((fleet.stats().requests_waiting, fleet.stats().leases_live), (1, 3));
    leases.pop();
    let mut taken: Vec<_> = ready(&mut batch).unwrap().iter().map(Lease::agent).collect();
    taken.sort_unstable();
    assert_eq!(taken, agents);
    assert_eq!((fleet.stats().requests_waiting, fleet.stats().leases_live), (0, 0));
}

#[test]
fn who_wants_one_and_comes_later_does_not_starve_a_batch_and_who_is_more_urgent_goes_first() {
    let (fleet, agents) = fleet_of(2);
    let mut leases = take(&fleet, &agents);
    let mut batch = fleet.allocate_batch_async(&Request::any(), 2);
    assert!(is_pending(&mut batch));
    let mut later = fleet.allocate_async(&Request::any());
    let mut urgent = fleet.allocate_async(&Request::any().priority(Priority::HIGH));
    assert!(poll(&mut later).is_pending() && poll(&mut urgent).is_pending());
    leases.pop();
    leases.push(ready(&mut urgent).unwrap());
    leases.pop();
    assert!(poll(&mut later).is_pending(), "the batch has that one");
    leases.pop();
    let both = ready(&mut batch).unwrap();
    assert!(poll(&mut later).is_pending());
    drop(both);
    assert!(ready(&mut later).is_ok());
}

#[test]
fn of_two_batches_for_the_same_agents_one_gathers_at_a_time_so_neither_keeps_the_other_out() {
    let (fleet, agents) = fleet_of(2);
    let mut leases = take(&fleet, &agents);
    let mut second = fleet.allocate_batch_async(&Request::any(), 2);
    assert!(is_pending(&mut second));
    leases.pop();
    // More urgent: what the other has gathered passes to it.
    let mut first = fleet.allocate_batch_async(&Request::any().priority(Priority::HIGH), 2);
    assert!(is_pending(&mut first));
    leases.pop();
    assert!(is_pending(&mut second));
    let both = ready(&mut first).unwrap();
    assert!(is_pending(&mut second));
    drop(both);
    assert_eq!(ready(&mut second).unwrap().len(), 2);
}

#[test]
fn batches_that_no_agent_is_common_to_do_not_wait_for_each_other() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let rust = fleet.spawn_batch(&AgentSpec::new("r").capability("rust"), 2).unwrap();
    let cobol = fleet.spawn_batch(&AgentSpec::new("c").capability("cobol"), 2).unwrap();
    let held_rust = take(&fleet, &rust);
    let mut held_cobol = take(&fleet, &cobol);
    let mut of_rust = fleet.allocate_batch_async(&Request::any().capability("rust"), 2);
    let mut of_cobol = fleet.allocate_batch_async(&Request::any().capability("cobol"), 2);
    let mut of_any = fleet.allocate_batch_async(&Request::any(), 3);
    assert!(is_pending(&mut of_rust) && is_pending(&mut of_cobol) && is_pending(&mut of_any));
    held_cobol.clear();
    let leases = ready(&mut of_cobol).unwrap();
    drop(leases);
    // It may gather only after those before it that share agents with it.
    assert!(is_pending(&mut of_any));
    let free = fleet.try_allocate(&Request::any().capability("cobol")).unwrap();
    drop((free, held_rust));
    drop(ready(&mut of_rust).unwrap());
    assert_eq!(ready(&mut of_any).unwrap().len(), 3);
}

#[test]
fn a_batch_dropped_at_any_moment_loses_neither_a_grant_nor_a_wakeup() {
    // Dropped unpolled, with nothing gathered, with some, with all, and never.
    for moment in 0..5 {
        let (fleet, agents) = fleet_of(2);
        let mut leases = take(&fleet, &agents);
        let mut batch = fleet.allocate_batch_async(&Request::any(), 2);
        let mut next = fleet.allocate_batch_async(&Request::any(), 2);
        let mut single = fleet.allocate_async(&Request::any());
        let mut batch = if moment == 0 {
            drop(batch);
            None
        } else {
            assert!(is_pending(&mut batch));
            Some(batch)
        };
        assert!(is_pending(&mut next) && poll(&mut single).is_pending());
        for at in 1..4 {
            if moment == at {
                batch = None;
            }
            leases.pop();
        }
        if let Some(mut batch) = batch {
            assert_eq!(ready(&mut batch).unwrap().len(), 2);
        }
        assert_eq!(ready(&mut next).unwrap().len(), 2, "dropped at {moment}");
        drop(ready(&mut single).unwrap());
        drop(single);
        let stats = fleet.stats();
        assert_eq!((stats.requests_waiting, stats.leases_live), (0, 0), "dropped at {moment}");
    }
}

/// Counts how often it is woken.
#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_batch_is_woken_once_it_is_complete_and_not_before() {
    let (fleet, agents) = fleet_of(3);
    let mut leases = take(&fleet, &agents);
    let wakes = Arc::<Wakes>::default();
    let waker = Waker::from(Arc::clone(&wakes));
    let mut batch = fleet.allocate_batch_async(&Request::any(), 3);
    assert!(Pin::new(&mut batch).poll(&mut Context::from_waker(&waker)).is_pending());
    while leases.pop().is_some() {
        assert_eq!(wakes.0.load(Ordering::SeqCst), usize::from(leases.is_empty()));
    }
    assert_eq!(ready(&mut batch).unwrap().len(), 3);
}

#[test]
fn a_kill_takes_back_what_was_gathered_and_a_newcomer_makes_up_for_it() {
    let (fleet, agents) = fleet_of(3);
    let mut leases = take(&fleet, &agents);
    let mut batch = fleet.allocate_batch_async(&Request::any(), 2);
    assert!(is_pending(&mut batch));
    leases.clear();
    // It is complete and has not noticed; one of its two and the third that is idle are left.
    assert_eq!(fleet.kill(agents[2]).unwrap().leases_revoked, 0);
    assert_eq!(fleet.kill(agents[1]).unwrap().leases_revoked, 0);
    let mut late = fleet.allocate_batch_async(&Request::any(), 2);
    assert_eq!(ready(&mut late).unwrap_err(), AllocateError::TooFewPlaces);
    assert_eq!(ready(&mut batch).unwrap_err(), AllocateError::TooFewPlaces);
    assert_eq!(fleet.stats().leases_live, 0);

    let more = fleet.spawn(AgentSpec::new("worker")).unwrap();
    let held = take(&fleet, &[more]);
    let mut batch = fleet.allocate_batch_async(&Request::any(), 2);
    assert!(is_pending(&mut batch));
    let newcomer = fleet.spawn(AgentSpec::new("worker")).unwrap();
    let taken: Vec<_> = ready(&mut batch).unwrap().iter().map(Lease::agent).collect();
    assert!(taken.contains(&newcomer) && taken.contains(&agents[0]), "{taken:?}");
    drop(held);
}

#[test]
fn batches_that_can_never_be_served_are_refused_and_what_they_held_goes_on() {
    let fleet = Fleet::<(), ()>::builder().max_waiting(NonZeroUsize::new(2).unwrap()).build();
    let fleet = fleet.unwrap();
    let two = AgentSpec::new("two").max_leases(2.try_into().unwrap());
    let agents = fleet.spawn_batch(&two, 2).unwrap();
    let allocate = |request: &Request, count| fleet.allocate_batch(request, count).map(drop);
    assert_eq!(allocate(&Request::any(), 0), Ok(()));
    assert_eq!(allocate(&Request::any(), 5), Err(AllocateError::TooFewPlaces));
    assert_eq!(allocate(&Request::any().agent(agents[0]), 3), Err(AllocateError::TooFewPlaces));
    assert_eq!(allocate(&Request::any().capability("x"), 1), Err(AllocateError::NoSuchCapability));
    assert_eq!(allocate(&Request::any().agent(agents[0]), 2), Ok(()));

    let held = take(&fleet, &[agents[0]]);
    let mut named = fleet.allocate_batch_async(&Request::any().agent(agents[0]), 2);
    assert!(is_pending(&mut named));
    let mut all = fleet.allocate_batch_async(&Request::any(), 4);
    assert!(is_pending(&mut all));
    assert_eq!(allocate(&Request::any(), 4), Err(AllocateError::TooManyWaiting));
    assert_eq!(fleet.stats().requests_refused, 1);
    fleet.kill(agents[0]).unwrap();
    assert_eq!(ready(&mut named).unwrap_err(), AllocateError::AgentGone);
    assert_eq!(ready(&mut all).unwrap_err(), AllocateError::TooFewPlaces);
    drop(held);

    let held = take(&fleet, &[agents[1]]);
    let mut last = fleet.allocate_batch_async(&Request::any(), 2);
    assert!(is_pending(&mut last));
    fleet.shutdown(Duration::ZERO).unwrap();
    assert_eq!(ready(&mut last).unwrap_err(), AllocateError::Closed);
    assert_eq!(allocate(&Request::any(), 2), Err(AllocateError::Closed));
    assert_eq!(fleet.stats().leases_live, 0);
    drop(held);
}

#[test]
fn a_batch_that_times_out_passes_on_what_it_gathered() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<(), ()>::builder().clock(clock).build().unwrap();
    let agents = fleet.spawn_batch(&AgentSpec::new("worker"), 2).unwrap();
    let mut leases = take(&fleet, &agents);
    leases.pop();
    let waits = fleet.clone();
    let waiter = thread::spawn(move || {
        waits.allocate_batch_timeout(&Request::any(), 2, Duration::from_secs(1)).map(drop)
    });
    while fleet.stats().requests_waiting == 0 {
        thread::yield_now();
    }
    assert_eq!(fleet.try_allocate(&Request::any()).unwrap_err(), AllocateError::NoneIdle);
    hand.advance(Duration::from_secs(1));
    assert_eq!(waiter.join().unwrap(), Err(AllocateError::Timeout));
    assert!(fleet.try_allocate(&Request::any()).is_ok());
}

#[test]
fn leases_of_a_batch_that_waited_expire_and_what_expires_is_gathered() {
    let (clock, hand) = ManualClock::new();
    let fleet = Fleet::<(), ()>::builder().clock(clock).build().unwrap();
    fleet.spawn_batch(&AgentSpec::new("worker"), 2).unwrap();
    let second = Duration::from_secs(1);
    let request = Request::any().ttl(second);
    let old = fleet.try_allocate_batch(&request, 2).unwrap();
    let mut batch = fleet.allocate_batch_async(&request, 2);
    assert!(is_pending(&mut batch));
    hand.advance(second);
    assert_eq!(fleet.tick(), 2);
    // Its time begins when it is collected.
    hand.advance(second);
    let leases = ready(&mut batch).unwrap();
    assert!(leases.iter().all(|lease| !lease.is_revoked()));
    assert!(old.iter().all(Lease::is_revoked));
    hand.advance(second);
    assert!(leases.iter().all(Lease::is_revoked));
    assert_eq!(fleet.tick(), 2);
}

#[test]
fn a_batch_waits_for_an_agent_that_is_not_fit_and_has_it_once_it_is() {
    let (fleet, agents) = fleet_of(2);
    fleet.set_condition(agents[1], Condition::Failed).unwrap();
    let mut batch = fleet.allocate_batch_async(&Request::any(), 2);
    assert!(is_pending(&mut batch));
    fleet.set_condition(agents[1], Condition::Fit).unwrap();
    assert_eq!(ready(&mut batch).unwrap().len(), 2);
}

#[test]
fn a_batch_keeps_no_agents_from_others_while_one_that_it_needs_has_failed_or_drains() {
    for condition in [Condition::Failed, Condition::Draining] {
        let (fleet, agents) = fleet_of(2);
        let _promise = fleet.expect(&AgentSpec::new("worker")).unwrap();
        fleet.set_condition(agents[0], condition).unwrap();
        let mut batch = fleet.allocate_batch_async(&Request::any(), 2);
        assert!(is_pending(&mut batch));
        let other = fleet.try_allocate(&Request::any()).expect("nobody gathers it");
        // It gathers once both are fit, and gives back what it has as one is not any more.
        fleet.set_condition(agents[0], Condition::Fit).unwrap();
        assert!(fleet.try_allocate(&Request::any()).is_err(), "it is gathered");
        drop(other);
        fleet.set_condition(agents[0], condition).unwrap();
        assert!(is_pending(&mut batch));
        let mut single = fleet.allocate_async(&Request::any());
        assert_eq!(ready(&mut single).unwrap().agent(), agents[1]);
        fleet.set_condition(agents[0], Condition::Fit).unwrap();
        assert_eq!(ready(&mut batch).unwrap().len(), 2);
    }
}

#[test]
fn a_batch_that_names_an_agent_which_is_down_keeps_nobody_out() {
    for budgets in [false, true] {
        let builder = Fleet::<(), ()>::builder();
        let builder =
            if budgets { builder.budgets(Budgets::new(NonZeroUsize::MIN)) } else { builder };
        let fleet = builder.build().unwrap();
        let agents = fleet.spawn_batch(&AgentSpec::new("worker"), 3).unwrap();
        fleet.set_condition(agents[0], Condition::Failed).unwrap();
        let leases = take(&fleet, &agents[1..]);
        let urgent = Request::any().agent(agents[0]).priority(Priority::HIGHEST);
        let mut named = fleet.allocate_batch_async(&urgent, 1);
        let mut both = fleet.allocate_batch_async(&Request::any(), 2);
        assert!(is_pending(&mut named) && is_pending(&mut both));
        drop(leases);
        assert_eq!(ready(&mut both).expect("nobody else gathers").len(), 2);
        fleet.set_condition(agents[0], Condition::Fit).unwrap();
        assert_eq!(ready(&mut named).expect("it is fit")[0].agent(), agents[0]);
    }
}

#[test]
fn batches_that_name_different_agents_do_not_wait_for_each_other() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let two = AgentSpec::new("two").max_leases(2.try_into().unwrap());
    let agents = fleet.spawn_batch(&two, 2).unwrap();
    let [of_x, of_y] = [0, 1].map(|at| Request::any().agent(agents[at]));
    let x = fleet.try_allocate(&of_x).unwrap();
    let y = fleet.try_allocate(&of_y).unwrap();
    let mut first = fleet.allocate_batch_async(&of_x, 2);
    let mut second = fleet.allocate_batch_async(&of_y, 2);
    assert!(is_pending(&mut first) && is_pending(&mut second));
    // It shares its agent with the first, and this one shares agents with both.
    let mut third = fleet.allocate_batch_async(&of_x, 2);
    let mut any = fleet.allocate_batch_async(&Request::any(), 2);
    assert!(is_pending(&mut third) && is_pending(&mut any));
    drop(y);
    let of_second = ready(&mut second).unwrap();
    assert!(is_pending(&mut first) && is_pending(&mut any));
    drop(x);
    drop(ready(&mut first).unwrap());
    assert!(is_pending(&mut any));
    drop(ready(&mut third).unwrap());
    assert!(ready(&mut any).unwrap().iter().all(|lease| lease.agent() == agents[0]));
    drop(of_second);
}

#[test]
fn a_batch_that_is_complete_and_not_collected_keeps_nobody_out() {
    let (fleet, agents) = fleet_of(4);
    let mut held = take(&fleet, &agents);
    let mut first = fleet.allocate_batch_async(&Request::any(), 2);
    let mut second = fleet.allocate_batch_async(&Request::any(), 2);
    let mut late = fleet.allocate_async(&Request::any());
    assert!(is_pending(&mut first) && is_pending(&mut second) && poll(&mut late).is_pending());
    held.drain(..2);
    // The first has all, and the next that comes free is the second's, as it came before the last.
    held.pop();
    assert!(poll(&mut late).is_pending());
    held.pop();
    let both = ready(&mut second).unwrap();
    assert!(poll(&mut late).is_pending());
    drop(both);
    assert!(ready(&mut late).is_ok());
    // What a kill takes from it, it has again before those who came later.
    let mut third = fleet.allocate_batch_async(&Request::any(), 3);
    assert!(is_pending(&mut third));
    fleet.kill(agents[0]).unwrap();
    assert!(is_pending(&mut third));
    drop(ready(&mut first).unwrap());
    assert_eq!(ready(&mut third).unwrap().len(), 3);
}

#[test]
fn an_agent_with_room_for_several_serves_the_next_batch_in_the_step_that_completes_the_first() {
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    let four = AgentSpec::new("four").max_leases(4.try_into().unwrap());
    let agent = fleet.spawn(four).unwrap();
    let mut first = fleet.allocate_batch_async(&Request::any(), 2);
    fleet.set_condition(agent, Condition::Failed).unwrap();
    let mut second = fleet.allocate_batch_async(&Request::any(), 2);
    let mut late = fleet.allocate_async(&Request::any());
    assert!(is_pending(&mut first) && is_pending(&mut second) && poll(&mut late).is_pending());
    fleet.set_condition(agent, Condition::Fit).unwrap();
    assert!(poll(&mut late).is_pending(), "both batches came before it");
    assert_eq!(ready(&mut second).unwrap().len(), 2);
    assert_eq!(ready(&mut first).unwrap().len(), 2);
    assert!(ready(&mut late).is_ok());
}

#[test]
fn what_a_batch_gathered_goes_back_as_its_agent_fails_or_is_drained() {
    let (fleet, agents) = fleet_of(4);
    let mut held = take(&fleet, &agents);
    let mut batch = fleet.allocate_batch_async(&Request::any(), 2);
    assert!(is_pending(&mut batch));
    drop(held.remove(0));
    assert!(fleet.drain_agent(agents[0], Duration::ZERO).unwrap().ended, "nobody uses it");
    // Two are gathered and not collected: one fails, and another that comes free makes up for it.
    held.drain(..2);
    fleet.set_condition(agents[1], Condition::Failed).unwrap();
    assert_eq!(fleet.agent(agents[1]).unwrap().load, 0);
    assert!(is_pending(&mut batch));
    held.clear();
    let leases: Vec<_> = ready(&mut batch).unwrap().iter().map(Lease::agent).collect();
    assert_eq!(leases, [agents[2], agents[3]]);
    assert_eq!(fleet.stats().leases_live, 0);
}

#[test]
fn an_agent_that_a_waiting_batch_needs_is_not_retired() {
    let (fleet, agents) = fleet_of(3);
    let mut held = take(&fleet, &agents);
    let urgent = Request::any().priority(Priority::HIGH);
    let mut first = fleet.allocate_batch_async(&urgent, 3);
    let mut all = fleet.allocate_batch_async(&Request::any(), 3);
    assert!(is_pending(&mut first) && is_pending(&mut all));
    held.drain(1..);
    drop(first);
    // The second has gathered two of three. A fourth that is idle is one too many.
    let spare = fleet.spawn(AgentSpec::new("spare").condition(Condition::Failed)).unwrap();
    fleet.retire(spare).unwrap();
    fleet.set_condition(agents[1], Condition::Failed).unwrap();
    assert_eq!(fleet.agent(agents[1]).unwrap().load, 0);
    assert_eq!(fleet.retire(agents[1]).unwrap_err().kind(), ErrorKind::InUse);
    assert!(is_pending(&mut all));
    held.clear();
    fleet.set_condition(agents[1], Condition::Fit).unwrap();
    assert_eq!(ready(&mut all).unwrap().len(), 3);
}

#[test]
fn who_is_told_of_an_end_finds_what_it_freed() {
    struct Looks(OnceLock<WeakFleet<(), ()>>, AtomicUsize);
    impl Observer for Looks {
        fn notice(&self, event: &FleetEvent) {
            if matches!(event, FleetEvent::AgentKilled { .. } | FleetEvent::AgentRetired { .. }) {
                let fleet = self.0.get().and_then(WeakFleet::upgrade).unwrap();
                drop(fleet.try_allocate(&Request::any()).unwrap());
                self.1.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    let looks = Arc::new(Looks(OnceLock::new(), AtomicUsize::new(0)));
    let fleet = Fleet::<(), ()>::builder().observer(Arc::clone(&looks) as _).build().unwrap();
    looks.0.set(fleet.downgrade()).ok().unwrap();
    let agents = fleet.spawn_batch(&AgentSpec::new("worker"), 2).unwrap();
    let mut held = take(&fleet, &agents);
    let mut batch = fleet.allocate_batch_async(&Request::any(), 2);
    assert!(is_pending(&mut batch));
    drop(held.remove(0));
    // With this one gone it is hopeless, and the one that it gathered is free for others.
    fleet.kill(agents[1]).unwrap();
    assert_eq!(looks.1.load(Ordering::SeqCst), 1);
    assert_eq!(ready(&mut batch).unwrap_err(), AllocateError::TooFewPlaces);
}

#[test]
fn a_batch_that_loses_an_agent_to_a_shutdown_is_told_that_it_is_closed() {
    let (fleet, agents) = fleet_of(2);
    let held = take(&fleet, &agents);
    let mut batch = fleet.allocate_batch_async(&Request::any(), 2);
    assert!(is_pending(&mut batch));
    drop(held);
    fleet.shutdown(Duration::ZERO).unwrap();
    assert_eq!(ready(&mut batch).unwrap_err(), AllocateError::Closed);
}

#[test]
fn what_a_batch_gives_up_runs_the_tasks_and_messages_that_waited_for_it() {
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    let echo = AgentSpec::new("echo").handler_fn(|task, _| Ok(*task.payload()));
    let agents = fleet.spawn_batch(&echo, 2).unwrap();
    let held = fleet.try_allocate(&Request::any().agent(agents[0])).unwrap();
    let mut batch = fleet.allocate_batch_async(&Request::any(), 2);
    assert!(poll(&mut batch).is_pending());
    // Nobody has room: one is held, the other gathered.
    let queued = fleet.submit(Task::new(1)).unwrap();
    let asked = fleet.ask(agents[1], 2).unwrap();
    drop(batch);
    assert_eq!(queued.wait_timeout(LONG).unwrap().completed(), Some(&1));
    assert_eq!(asked.wait().completed(), Some(&2));
    drop(held);
}

#[test]
fn threads_that_want_several_of_the_same_agents_all_get_them() {
    const THREADS: usize = 4;
    let fleet = Fleet::<(), ()>::builder().build().unwrap();
    fleet.spawn_batch(&AgentSpec::new("worker"), 5).unwrap();
    let start = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (fleet, start) = (fleet.clone(), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                for turn in 0..200 {
                    let count = 1 + (thread + turn) % 5;
                    let leases = if count == 1 {
                        vec![fleet.allocate_timeout(&Request::any(), LONG).unwrap()]
                    } else {
                        fleet.allocate_batch_timeout(&Request::any(), count, LONG).unwrap()
                    };
                    assert_eq!(leases.len(), count);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let stats = fleet.stats();
    assert_eq!((stats.leases_live, stats.requests_waiting), (0, 0));
}

#[test]
fn who_waits_for_the_best_fraction_learns_the_names_that_agents_bring_who_join() {
    let (fleet, agents) = fleet_of(0);
    assert_eq!(agents, []);
    let old = fleet.spawn(AgentSpec::new("old").capability("old")).unwrap();
    let held = take(&fleet, &[old]);
    let wanted = |names: [&str; 3]| {
        names.into_iter().fold(Request::any().fit(Fit::BestFraction), Request::capability)
    };
    let request = wanted(["old", "new", "newest"]);
    let mut first = fleet.allocate_async(&request);
    let mut second = fleet.allocate_async(&request);
    let mut given_up = fleet.allocate_async(&request);
    let mut batch = fleet.allocate_batch_async(&request, 1);
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
    assert!(poll(&mut given_up).is_pending() && is_pending(&mut batch));
    let new = fleet.spawn(AgentSpec::new("new").capability("new")).unwrap();
    let got = ready(&mut first).unwrap();
    assert_eq!(got.agent(), new);
    // Under the names that it knows now it is found again, and gives up its place.
    assert!(poll(&mut given_up).is_pending());
    drop(given_up);
    assert_eq!(fleet.stats().requests_waiting, 2);
    drop(got);
    assert_eq!(ready(&mut second).unwrap().agent(), new, "it is at once given back");
    let got = ready(&mut batch).unwrap();
    assert_eq!(got[0].agent(), new);
    // One after the other.
    let mut late = fleet.allocate_async(&request);
    assert!(poll(&mut late).is_pending());
    fleet.spawn(AgentSpec::new("other").capability("other")).unwrap();
    assert!(poll(&mut late).is_pending());
    let newest = fleet.spawn(AgentSpec::new("newest").capability("newest")).unwrap();
    assert_eq!(ready(&mut late).unwrap().agent(), newest);
    drop(held);
    assert_eq!(fleet.stats().requests_waiting, 0);
}
