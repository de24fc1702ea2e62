//! Tasks that run hold leases of their groups: a group without room waits and holds up nobody, and goes on with the room.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use phalanx::ManualClock;
use phalanx::fleet::{
    AgentSpec, Budgets, Fleet, FleetBuilder, FleetEvent, GroupKey, Limit, Meter, Outcome, Priority,
    Quota, Request, ReturnReason, Scope, Task, TaskHandle,
};

use super::hangar::{Door, Hangar, builder as flying, doubler, leases as places};
use super::support::{Gate, Witness, eventually, finish};

const TEAM: GroupKey = GroupKey::new(7);
const OTHERS: GroupKey = GroupKey::new(8);

fn leases(most: u64) -> Quota {
    Quota::new().limit(Meter::Leases, Limit::hard(most))
}

fn budgets(quotas: &[(Scope, u64)]) -> Budgets {
    let budgets = Budgets::new(NonZeroUsize::new(100).unwrap());
    for (scope, most) in quotas {
        budgets.set(scope.clone(), leases(*most)).unwrap();
    }
    budgets
}

fn team(most: u64) -> Budgets {
    budgets(&[(Scope::Group(TEAM), most)])
}

/// What the team uses, and the most that it ever used.
fn used(budgets: &Budgets) -> (u64, u64) {
    let account = budgets.account(&Scope::Group(TEAM)).unwrap();
    let usage = account.usage(Meter::Leases).unwrap();
    (usage.used, usage.peak)
}

fn builder(budgets: &Budgets) -> FleetBuilder<u64, u64> {
    Fleet::builder().workers(3).budgets(budgets.clone())
}

/// An agent whose handler waits at the gate with odd payloads.
fn gated(gate: &Arc<Gate>) -> AgentSpec<u64, u64> {
    let gate = Arc::clone(gate);
    let spec = AgentSpec::new("gated").max_leases(NonZeroU32::new(8).unwrap());
    spec.handler_fn(move |task, _| {
        if task.payload() % 2 == 1 {
            gate.pass();
        }
        Ok(*task.payload())
    })
}

fn of_team(payload: u64) -> Task<u64> {
    Task::new(payload).group(TEAM)
}

fn ended(handle: &TaskHandle<u64>) -> Outcome<u64> {
    eventually("the task ends", || handle.try_outcome().is_some());
    (*handle.wait()).clone()
}

#[test]
fn a_group_runs_no_more_tasks_than_it_has_leases_and_lets_the_others_pass() {
    let (budgets, gate) = (team(1), Gate::new());
    let fleet = builder(&budgets).build().unwrap();
    fleet.spawn(gated(&gate)).unwrap();
    let urgent = |payload| fleet.submit(of_team(payload).priority(Priority::HIGH)).unwrap();
    let mine = [1, 3, 5].map(urgent);
    gate.await_arrivals(1);
    let others = [2, 4, 6].map(|payload| fleet.submit(Task::new(payload).group(OTHERS)).unwrap());
    let plain = fleet.submit(Task::new(8)).unwrap();
    for handle in others.iter().chain([&plain]) {
        assert!(matches!(ended(handle), Outcome::Completed(_)), "it was not held up");
    }
    for arrived in 1..=3 {
        gate.await_arrivals(arrived);
        assert_eq!(used(&budgets), (1, 1));
        gate.permit();
    }
    assert_eq!(mine.each_ref().map(ended), [1, 3, 5].map(Outcome::Completed), "in their order");
    finish(&fleet);
    assert_eq!(used(&budgets), (0, 1));
}

#[test]
fn a_group_goes_on_with_every_room_that_comes_whoever_gives_it() {
    let (budgets, gate) = (team(1), Gate::new());
    let fleet = builder(&budgets).build().unwrap();
    fleet.spawn(gated(&gate)).unwrap();
    let request = Request::any().group(TEAM);
    let lease = fleet.try_allocate(&request).unwrap();
    let first = fleet.submit(of_team(2)).unwrap();
    // Something else runs meanwhile, so that no worker waits for an agent.
    assert_eq!(ended(&fleet.submit(Task::new(4)).unwrap()), Outcome::Completed(4));
    assert_eq!(first.try_outcome(), None);
    drop(lease);
    assert_eq!(ended(&first), Outcome::Completed(2), "a lease came back");

    let lease = fleet.try_allocate(&request).unwrap();
    let second = fleet.submit(of_team(6)).unwrap();
    assert_eq!(ended(&fleet.submit(Task::new(4)).unwrap()), Outcome::Completed(4));
    budgets.set(Scope::Group(TEAM), leases(2)).unwrap();
    assert_eq!(ended(&second), Outcome::Completed(6), "the limit was raised");

    budgets.set(Scope::Group(TEAM), leases(1)).unwrap();
    let third = fleet.submit(of_team(8)).unwrap();
    assert_eq!(ended(&fleet.submit(Task::new(4)).unwrap()), Outcome::Completed(4));
    let account = budgets.remove(&Scope::Group(TEAM)).unwrap();
    assert_eq!(ended(&third), Outcome::Completed(8), "there is no limit any more");
    drop(lease);
    finish(&fleet);
    assert_eq!(account.usage(Meter::Leases).unwrap().used, 0);
}

#[test]
fn a_task_of_a_group_whose_agent_is_killed_gives_its_lease_back_and_runs_again() {
    let (budgets, gate) = (team(1), Gate::new());
    let fleet = builder(&budgets).build().unwrap();
    let agents = fleet.spawn_batch(&gated(&gate), 2).unwrap();
    let task = fleet.submit(of_team(1)).unwrap();
    gate.await_arrivals(1);
    let running = agents.iter().find(|agent| fleet.agent(**agent).unwrap().load == 1).unwrap();
    fleet.kill(*running).unwrap();
    gate.await_arrivals(2);
    assert_eq!(used(&budgets), (1, 1));
    gate.open();
    assert_eq!(ended(&task), Outcome::Completed(1));
    finish(&fleet);
    assert_eq!(used(&budgets).0, 0);
}

#[test]
fn what_waits_for_its_group_can_be_cancelled_expires_and_is_returned() {
    let (clock, hand) = ManualClock::new();
    let budgets = team(1);
    let fleet = builder(&budgets).clock(clock).build().unwrap();
    let agent = fleet.spawn(gated(&Gate::new())).unwrap();
    let lease = fleet.try_allocate(&Request::any().group(TEAM)).unwrap();
    let late = Duration::from_millis(10);
    for task in [of_team(2), of_team(2).to(agent)] {
        let cancelled = fleet.submit(task.clone()).unwrap();
        let expires = fleet.submit(task.timeout(late)).unwrap();
        assert_eq!(ended(&fleet.submit(Task::new(4).to(agent)).unwrap()), Outcome::Completed(4));
        assert_eq!(ended(&fleet.submit(Task::new(4)).unwrap()), Outcome::Completed(4));
        assert!(cancelled.cancel());
        assert_eq!(ended(&cancelled), Outcome::Cancelled);
        hand.advance(late);
        fleet.tick();
        assert!(matches!(ended(&expires), Outcome::Failed(_)));
    }
    let returned = [of_team(2), of_team(2).to(agent)].map(|task| fleet.submit(task).unwrap());
    assert_eq!(ended(&fleet.submit(Task::new(4).to(agent)).unwrap()), Outcome::Completed(4));
    finish(&fleet);
    for handle in &returned {
        assert_eq!(ended(handle), Outcome::Returned(ReturnReason::Shutdown));
    }
    drop(lease);
    assert_eq!(used(&budgets).0, 0);
}

#[test]
fn a_task_for_one_agent_waits_for_its_group_and_lets_the_rest_of_the_mailbox_pass() {
    let (budgets, gate) = (team(1), Gate::new());
    let fleet = builder(&budgets).build().unwrap();
    let [one, two] = fleet.spawn_batch(&gated(&gate), 2).unwrap()[..] else { panic!("two") };
    let first = fleet.submit(of_team(1).to(one)).unwrap();
    gate.await_arrivals(1);
    assert_eq!(used(&budgets), (1, 1));
    let waits = [2, 4].map(|payload| fleet.submit(of_team(payload).to(two)).unwrap());
    let passes = fleet.submit(Task::new(6).to(two)).unwrap();
    assert_eq!(ended(&passes), Outcome::Completed(6));
    assert!(waits.iter().all(|handle| handle.try_outcome().is_none()));
    assert!(fleet.retire(two).is_err(), "tasks wait for it");
    gate.open();
    assert_eq!(ended(&first), Outcome::Completed(1));
    assert_eq!(waits.each_ref().map(ended), [2, 4].map(Outcome::Completed));
    eventually("all is given back", || used(&budgets).0 == 0);

    let lease = fleet.try_allocate(&Request::any().group(TEAM)).unwrap();
    let lost = fleet.submit(of_team(2).to(two)).unwrap();
    assert_eq!(ended(&fleet.submit(Task::new(6).to(two)).unwrap()), Outcome::Completed(6));
    fleet.kill(two).unwrap();
    assert_eq!(ended(&lost), Outcome::Returned(ReturnReason::AgentGone));
    drop(lease);
    finish(&fleet);
    assert_eq!(used(&budgets), (0, 1));
}

#[test]
fn room_that_comes_as_an_agent_ends_tells_of_none_of_its_tasks_before_that() {
    let (budgets, witness) = (team(1), Witness::new());
    let built =
        Fleet::builder().driven().budgets(budgets.clone()).observer(witness.clone()).build();
    let fleet = built.unwrap();
    let spec = AgentSpec::new("echo").max_leases(NonZeroU32::new(2).unwrap());
    let agent = fleet.spawn(spec.handler_fn(|task: &Task<u64>, _cx| Ok(*task.payload()))).unwrap();
    let lease = fleet.try_allocate(&Request::any().agent(agent).group(TEAM)).unwrap();
    let handle = fleet.submit(of_team(1).to(agent)).unwrap();
    fleet.run_ready(usize::MAX);
    assert!(handle.try_outcome().is_none(), "it waits for its group");
    fleet.kill(agent).unwrap();
    assert_eq!(ended(&handle), Outcome::Returned(ReturnReason::AgentGone));
    let events = witness.events();
    let place = |is: fn(&FleetEvent) -> bool| events.iter().position(is).unwrap();
    let killed = place(|event| matches!(event, FleetEvent::AgentKilled { .. }));
    let settled = place(|event| matches!(event, FleetEvent::TaskSettled { .. }));
    assert!(killed < settled, "{events:?}");
    assert_eq!(used(&budgets).0, 0);
    drop(lease);
    finish(&fleet);
}

#[test]
fn a_future_holds_the_lease_of_its_group_until_it_resolves() {
    let (hangar, door) = (Hangar::new(), Door::default());
    let budgets = team(1);
    let fleet = flying(&hangar).budgets(budgets.clone()).build().unwrap();
    let agent = fleet.spawn(doubler("slow", &door).max_leases(places(4))).unwrap();
    let tasks = [of_team(1), of_team(2), of_team(3).to(agent), of_team(4).to(agent)];
    let handles = tasks.map(|task| fleet.submit(task).unwrap());
    let plain = fleet.submit(Task::new(5)).unwrap();
    hangar.await_len(2);
    hangar.run();
    assert_eq!((used(&budgets), fleet.stats().futures_live), ((1, 1), 2));
    door.open();
    eventually("all have ended", || {
        hangar.run();
        handles.iter().chain([&plain]).all(|handle| handle.try_outcome().is_some())
    });
    assert_eq!(handles.each_ref().map(ended), [2, 4, 6, 8].map(Outcome::Completed));
    finish(&fleet);
    assert_eq!(used(&budgets), (0, 1));
}

#[test]
fn many_groups_at_their_limits_share_the_agents_and_all_get_through() {
    let scopes: Vec<_> = (0..40).map(|group| (Scope::Group(GroupKey::new(group)), 2)).collect();
    let mut all = scopes.clone();
    all.push((Scope::Fleet, 5));
    let budgets = budgets(&all);
    let fleet = builder(&budgets).workers(4).build().unwrap();
    let agents = fleet.spawn_batch(&gated(&Gate::new()), 3).unwrap();
    let task = |number: u64| {
        let task = Task::new(2 * number).group(GroupKey::new(number % 40));
        if number.is_multiple_of(5) { task.to(agents[number as usize % 3]) } else { task }
    };
    let handles: Vec<_> = (0..800).map(|number| fleet.submit(task(number)).unwrap()).collect();
    for (handle, number) in handles.iter().zip(0..) {
        assert_eq!(ended(handle), Outcome::Completed(2 * number));
    }
    finish(&fleet);
    for (scope, limit) in all {
        let usage = budgets.account(&scope).unwrap().usage(Meter::Leases).unwrap();
        assert_eq!(usage.used, 0, "{scope}");
        assert!(usage.peak <= limit, "{scope}: {}", usage.peak);
    }
}

/// Waits at the gate of its number.
fn at_gates(gates: &[Arc<Gate>]) -> AgentSpec<u64, u64> {
    let gates = gates.to_vec();
    let spec = AgentSpec::new("gated").max_leases(NonZeroU32::new(8).unwrap());
    spec.handler_fn(move |task, _| {
        gates[*task.payload() as usize].pass();
        Ok(*task.payload())
    })
}

#[test]
fn what_ran_before_there_was_an_account_gives_back_nothing_of_it() {
    let budgets = budgets(&[]);
    let fleet = builder(&budgets).build().unwrap();
    let gates = [Gate::new(), Gate::new()];
    fleet.spawn(at_gates(&gates)).unwrap();
    let before = fleet.submit(of_team(0)).unwrap();
    gates[0].await_arrivals(1);
    budgets.set(Scope::Group(TEAM), leases(1)).unwrap();
    let after = fleet.submit(of_team(1)).unwrap();
    gates[1].await_arrivals(1);
    assert_eq!(used(&budgets), (1, 1));
    gates[0].open();
    assert_eq!(*before.wait(), Outcome::Completed(0));
    assert_eq!(used(&budgets), (1, 1), "the other one runs still");
    // A third has a new account, and gives that back.
    let old = budgets.remove(&Scope::Group(TEAM)).unwrap();
    budgets.set(Scope::Group(TEAM), leases(1)).unwrap();
    let third = fleet.submit(of_team(0)).unwrap();
    assert_eq!(*third.wait(), Outcome::Completed(0));
    assert_eq!((used(&budgets), old.usage(Meter::Leases).unwrap().used), ((0, 1), 1));
    gates[1].open();
    assert_eq!(*after.wait(), Outcome::Completed(1));
    assert_eq!((used(&budgets).0, old.usage(Meter::Leases).unwrap().used), (0, 0));
    finish(&fleet);
}

#[test]
fn a_turn_and_a_task_of_one_agent_give_back_each_its_own() {
    let budgets = budgets(&[]);
    let fleet = builder(&budgets).build().unwrap();
    let gates = [Gate::new(), Gate::new()];
    let agent = fleet.spawn(at_gates(&gates)).unwrap();
    let task = fleet.submit(Task::new(0)).unwrap();
    gates[0].await_arrivals(1);
    let account = budgets.set(Scope::Agent(agent), leases(1)).unwrap();
    let used = || account.usage(Meter::Leases).unwrap().used;
    let asked = fleet.ask(agent, 1).unwrap();
    gates[1].await_arrivals(1);
    assert_eq!(used(), 1, "the turn was charged");
    gates[0].open();
    assert_eq!(*task.wait(), Outcome::Completed(0));
    assert_eq!(used(), 1);
    gates[1].open();
    assert_eq!(asked.wait(), Outcome::Completed(1));
    eventually("the turn ends", || used() == 0);
    finish(&fleet);
}

#[test]
fn a_future_for_one_agent_gives_back_what_it_was_charged_with_itself() {
    let budgets = budgets(&[]);
    let hangar = Hangar::new();
    let fleet = flying(&hangar).budgets(budgets.clone()).build().unwrap();
    let doors = [Door::default(), Door::default()];
    let spec = AgentSpec::<u64, u64>::new("flying").max_leases(places(2)).handler_async({
        let doors = doors.clone();
        move |task, _| {
            let door = doors[*task.payload() as usize].clone();
            async move {
                door.pass().await;
                Ok(*task.payload())
            }
        }
    });
    let agent = fleet.spawn(spec).unwrap();
    let before = fleet.submit(of_team(0).to(agent)).unwrap();
    hangar.await_len(1);
    budgets.set(Scope::Group(TEAM), leases(1)).unwrap();
    let after = fleet.submit(of_team(1).to(agent)).unwrap();
    hangar.await_len(2);
    assert_eq!(used(&budgets), (1, 1));
    hangar.run();
    doors[0].open();
    hangar.run();
    assert_eq!(*before.wait(), Outcome::Completed(0));
    assert_eq!(used(&budgets), (1, 1), "the other one flies still");
    doors[1].open();
    hangar.run();
    assert_eq!(*after.wait(), Outcome::Completed(1));
    assert_eq!((used(&budgets), fleet.stats().leases_live), ((0, 1), 0));
    finish(&fleet);
}
