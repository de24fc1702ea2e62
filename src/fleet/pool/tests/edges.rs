//! Edges that the models come to too seldom: ties, and the last that somebody waits for.

use super::super::census::NotIdle;
use super::super::waiting::Place;
use super::limits::{join, pool_of};
use super::*;
use crate::fleet::agent::AgentStatus;
use crate::fleet::picker::Picker;
use crate::fleet::supervision::FIRST;
use crate::sync::home;

#[test]
fn of_shards_with_agents_alike_the_one_at_home_is_taken_from() {
    for shards in [2, 4] {
        let pool = pool_of(8, shards, Strategy::LeastLoaded);
        join(&pool, &[], 1, shards).expect("there is room");
        let lease = pool.try_allocate(&Request::any().fit(Fit::Tightest)).expect("all are idle");
        assert_eq!(pool.shard_of(lease.agent()), home() & (shards - 1));
    }
}

#[test]
fn a_thorough_look_trusts_no_floor() {
    let pool = pool_of(2, 2, Strategy::LeastLoaded);
    join(&pool, &[], 1, 2).expect("there is room");
    assert!(pool.take(0, false).is_some(), "the shard at home is looked into");
    // As another thread may see the other one still.
    (0..2).for_each(|at| pool.floors.set(Strategy::LeastLoaded, at, NO_FLOOR));
    assert!(pool.take(0, false).is_none());
    assert!(pool.take(0, true).is_some());
}

#[test]
fn an_idle_agent_is_not_ended_while_a_batch_that_names_it_waits() {
    let pool = pool_of(2, 1, Strategy::LeastLoaded);
    let agents = join(&pool, &[], 2, 2).expect("there is room");
    pool.set_condition(agents[0], Condition::Starting).expect("it lives");
    let mut waker = Some(Waker::noop().clone());
    let batch = pool.batch_or_wait(&Request::any().agent(agents[0]), 2, &mut waker);
    let Ok(Err(place)) = batch else { panic!("it may hold as many, and gets none as it starts") };
    let end = |agent: AgentId| {
        let mut wakes = Vec::new();
        let ended = pool.remove_idle(agent, false, |_, _| false, &mut wakes);
        Both::wake(wakes);
        ended
    };
    assert_eq!(end(agents[0]), Err(NotIdle::Busy));
    assert_eq!(end(agents[1]), Ok(()));
    pool.give_up_batch(place);
    assert_eq!(end(agents[0]), Ok(()));
}

#[test]
fn busy_agents_may_leave_unless_they_are_on_trial_do_not_serve_or_can_do_more() {
    let pool = pool_of(5, 2, Strategy::LeastLoaded);
    let able = [Arc::from("able")];
    let agents = join(&pool, &[], 2, 4).expect("there is room");
    let other = join(&pool, &able, 2, 1).expect("there is room")[0];
    let lease = |agent| pool.try_allocate(&Request::any().agent(agent)).expect("it is free");
    let _held: Vec<_> =
        agents.iter().chain([&other, &agents[0]]).map(|agent| lease(*agent)).collect();
    let circuit = Some(OnCircuit { limit: 1, on_trial: true, era: 1 });
    let fitness =
        Fitness { condition: Condition::Fit, finishes: false, circuit, incarnation: FIRST };
    let mut wakes = Vec::new();
    let _ = pool.change_condition(agents[2], fitness, &mut wakes).expect("it lives");
    pool.set_condition(agents[3], Condition::Starting).expect("it lives");
    let look = |capabilities: &[Arc<str>], leaving: &[AgentId]| {
        pool.census("agent", capabilities, false, &leaving.iter().copied().collect())
    };
    let seen = look(&[], &[]);
    assert_eq!((seen.serving, seen.leases), (5, 6));
    assert_eq!(seen.busy, [agents[1], agents[0]], "the one with fewer leases first");
    let mut busy = look(&able, &[]).busy;
    assert_eq!(busy.pop(), Some(agents[0]));
    busy.sort_unstable_by_key(|agent| *agent == other);
    assert_eq!(busy, [agents[1], other]);
    let may = agents.iter().map(|agent| pool.may_leave(*agent));
    assert_eq!(may.collect::<Vec<_>>(), [Some(true), Some(true), Some(false), None]);

    for agent in &agents[..2] {
        pool.set_condition(*agent, Condition::Draining).expect("it lives");
    }
    let seen = look(&[], &agents[1..2]);
    assert_eq!((seen.draining, seen.leases, seen.leaving), (2, 4, vec![agents[1]]));
    let seen = look(&[], &agents);
    assert_eq!((seen.draining, seen.leases, seen.leaving), (2, 6, agents[..2].to_vec()));
    pool.remove(agents[0], &mut wakes).expect("it lives");
    assert_eq!(pool.may_leave(agents[0]), None);
    Both::wake(wakes);
}

/// Queues a batch of two, for which there is no room.
fn batch_of_two(pool: &Arc<Pool>, request: &Request) -> Place {
    match pool.batch_or_wait(request, 2, &mut Some(Waker::noop().clone())) {
        Ok(Err(place)) => place,
        other => panic!("it does not wait: {:?}", other.map(|_| ())),
    }
}

#[test]
fn what_a_batch_lets_go_of_goes_to_a_request_that_is_more_urgent_than_the_next_batch() {
    let pool = pool_of(1, 1, Strategy::LeastLoaded);
    join(&pool, &[], 2, 1).expect("there is room");
    let _held = pool.try_allocate(&Request::any()).expect("it is idle");
    let ask = |priority| Request::any().priority(priority);
    batch_of_two(&pool, &ask(Priority::LOW));
    let mut waker = Some(Waker::noop().clone());
    let Ok(Err(single)) = pool.allocate_or_wait(&ask(Priority::HIGH), &mut waker) else {
        panic!("the batch has gathered the place")
    };
    batch_of_two(&pool, &ask(Priority::NORMAL));
    let (answer, _) = pool.collect(&single, Waker::noop().clone());
    assert!(answer.is_some_and(|lease| lease.is_ok()));
}

#[test]
fn what_one_group_pays_for_a_batch_is_not_handed_to_a_batch_of_another() {
    let limit = |count| NonZeroUsize::new(count).expect("not zero");
    let budgets = Budgets::new(limit(8));
    let groups = [1, 2].map(GroupKey::new);
    for group in groups {
        let quota = Quota::new().limit(Meter::Leases, Limit::hard(9));
        budgets.set(Scope::Group(group), quota).expect("there is room");
    }
    let pool = Pool::new(PoolConfig {
        max_agents: limit(1),
        max_waiting: limit(8),
        shards: 1,
        kept: Kept::new(&[Strategy::LeastLoaded]).expect("one strategy"),
        clock: Clock::real(),
        budgets: Some(budgets.clone()),
        ageing: None,
    });
    join(&pool, &[], 2, 1).expect("there is room");
    let used = || {
        groups.map(|group| {
            let account = budgets.account(&Scope::Group(group)).expect("it was set");
            account.usage(Meter::Leases).expect("it is metered").used
        })
    };
    let _held = pool.try_allocate(&Request::any()).expect("it is idle");
    let first = batch_of_two(&pool, &Request::any().group(groups[0]));
    assert_eq!(used(), [1, 0], "it has gathered the other place");
    let urgent = Request::any().group(groups[1]).priority(Priority::HIGH);
    let second = batch_of_two(&pool, &urgent);
    assert_eq!(used(), [0, 1], "the more urgent gathers it, and pays for it");
    pool.give_up_batch(second);
    assert_eq!(used(), [1, 0]);
    pool.give_up_batch(first);
    assert_eq!(used(), [0, 0]);
}

#[test]
fn a_name_has_ended_once_somebody_had_it_and_is_gone() {
    let pool = pool_of(1, 1, Strategy::LeastLoaded);
    let joined = || join(&pool, &[], 1, 1).expect("there is room")[0];
    let ended = |agent: AgentId, generation: u32| {
        pool.shards[0].lock().has_ended(AgentId { generation, ..agent })
    };
    let remove = |agent| pool.remove(agent, &mut Vec::new()).expect("it lives");
    let first = joined();
    let own = first.generation;
    assert_eq!([own, own + 1].map(|generation| ended(first, generation)), [false, false]);
    remove(first);
    assert_eq!([own, own + 1].map(|generation| ended(first, generation)), [true, false]);
    // The last of all generations stays that of the slot.
    pool.shards[0].lock().age_the_next();
    let last = joined();
    assert_eq!((last.slot, last.generation), (first.slot, u32::MAX));
    assert_eq!([u32::MAX - 1, u32::MAX].map(|generation| ended(last, generation)), [true, false]);
    remove(last);
    assert_eq!([own, u32::MAX].map(|generation| ended(last, generation)), [true, true]);
    assert_ne!(joined().slot, last.slot, "it is used up");
}

/// Takes what it is shown, and remembers it.
#[derive(Default)]
struct Looks(std::sync::Mutex<Vec<(AgentState, u32)>>);

impl Picker for Looks {
    fn pick(&self, _: &Request, candidates: &[AgentStatus]) -> Option<usize> {
        let shown = candidates.iter().map(|agent| (agent.state, agent.load));
        self.0.lock().expect("nobody panicked").extend(shown);
        Some(0)
    }
}

#[test]
fn who_waited_is_shown_an_agent_as_it_is_without_the_lease_that_came_free() {
    let pool = pool_of(1, 1, Strategy::LeastLoaded);
    let agent = join(&pool, &[], 2, 1).expect("there is room")[0];
    let looks = Arc::new(Looks::default());
    let request = Request::any().picker(looks.clone());
    let shown = || {
        let lease = pool.try_allocate(&Request::any()).expect("it has room");
        let lease = pool.judged(&request, lease).expect("the picker takes it");
        (lease, looks.0.lock().expect("nobody panicked").pop())
    };
    let (held, alone) = shown();
    assert_eq!(alone, Some((AgentState::Ready, 0)));
    assert_eq!(shown().1, Some((AgentState::Busy, 1)));
    drop(held);
    pool.set_condition(agent, Condition::Degraded).expect("it lives");
    assert_eq!(shown().1, Some((AgentState::Degraded, 0)));
}

#[cfg(feature = "test-util")]
#[test]
fn what_several_agents_have_kept_for_a_plan_is_given_as_the_strategy_says() {
    let limit = |count| NonZeroUsize::new(count).expect("not zero");
    let (clock, hand) = crate::ManualClock::new();
    let pool = Pool::new(PoolConfig {
        max_agents: limit(2),
        max_waiting: limit(8),
        shards: 1,
        kept: Kept::new(&[Strategy::LeastLoaded]).expect("one strategy"),
        clock,
        budgets: None,
        ageing: None,
    });
    let full = join(&pool, &[], 3, 1).expect("there is room")[0];
    let free = join(&pool, &[], 2, 1).expect("there is room")[0];
    let lease = |agent, ttl: u64| {
        let request = Request::any().agent(agent);
        let request = if ttl == 0 { request } else { request.ttl(Duration::from_millis(10 * ttl)) };
        pool.try_allocate(&request).expect("it has room")
    };
    let _held = [lease(full, 0), lease(full, 1), lease(full, 2), lease(free, 3), lease(free, 4)];
    let waker = || Some(Waker::noop().clone());
    let ask = |priority| Request::any().priority(priority);
    let first = pool.batch_or_wait(&ask(Priority::HIGH), 1, &mut waker());
    let single = pool.allocate_or_wait(&ask(Priority::NORMAL), &mut waker());
    let last = pool.batch_or_wait(&ask(Priority::LOW), 5, &mut waker());
    let (Ok(Err(_)), Ok(Err(single)), Ok(Err(_))) = (first, single, last) else {
        panic!("no place is free")
    };
    // The first place completes the first batch, and the others are kept until it is known who gathers next.
    hand.advance(Duration::from_secs(1));
    assert_eq!(pool.expire_due(), 4);
    let (answer, _) = pool.collect(&single, Waker::noop().clone());
    let answer = answer.expect("there is a place").expect("nothing has ended");
    assert_eq!(answer.agent(), free, "the other one has two leases");
}

#[cfg(feature = "test-util")]
#[test]
fn how_long_a_lease_was_held_counts_whenever_it_began_and_however_it_was_asked_for() {
    let limit = |count| NonZeroUsize::new(count).expect("not zero");
    let hour = Duration::from_secs(3600);
    let (any, tight) = (Request::any(), Request::any().fit(Fit::Tightest));
    let requests = [any.clone(), any.ttl(hour), tight.clone(), tight.ttl(hour)];
    for (request, paid, batch) in requests.iter().flat_map(|request| {
        [(false, false), (false, true), (true, false), (true, true)]
            .map(|(paid, batch)| (request, paid, batch))
    }) {
        let past = |began: u64| {
            let (clock, hand) = crate::ManualClock::new();
            let pool = Pool::new(PoolConfig {
                max_agents: limit(1),
                max_waiting: limit(1),
                shards: 1,
                kept: Kept::new(&[Strategy::Performance]).expect("one strategy"),
                clock,
                budgets: paid.then(|| Budgets::new(limit(1))),
                ageing: None,
            });
            join(&pool, &[], 1, 1).expect("there is room");
            hand.advance(Duration::from_secs(began));
            let lease = if batch {
                pool.try_allocate_batch(request, 1, true).expect("it is idle").remove(0)
            } else {
                pool.try_allocate(request).expect("it is idle")
            };
            hand.advance(Duration::from_micros(10));
            lease.complete(LeaseOutcome::Succeeded).expect("it is not due");
            pool.shards[0].lock().past(0)
        };
        assert!(past(0) > 0, "it has a past");
        assert_eq!(past(0), past(1000), "{request:?}, {paid}, {batch}");
    }
}

#[cfg(feature = "test-util")]
#[test]
fn of_leases_that_begin_together_the_first_that_is_due_is_told() {
    let pool = pool_of(2, 1, Strategy::LeastLoaded);
    join(&pool, &[], 1, 2).expect("there is room");
    let start = |first: &mut Option<u64>| {
        let ask = pool.resolve(&Request::any().ttl(Duration::from_secs(1))).expect("it is known");
        let (mut shard, _, local) = pool.find(&ask).expect("it is open").expect("it is idle");
        let granted = Granted { grant: shard.lease(local), charge: None };
        drop(shard);
        pool.start(granted, &ask, first)
    };
    let mut first = None;
    let _held = start(&mut first);
    assert!(first.is_some_and(|due| due >= 1_000_000_000));
    first = Some(5);
    let _other = start(&mut first);
    assert_eq!(first, Some(5), "another is due before");
}
