//! Agents whose handlers have them stop: a normal exit, and what their policies make of it.

use super::*;
use phalanx::fleet::{
    Agent, FleetBuilder, Observer, OutcomeKind, SpawnedFuture, Spawner, TaskContext,
};
use std::thread;

/// Has the agent stop, and answers.
const STOP: u64 = 7;
/// Has the agent stop, and panics.
const STOP_AND_PANIC: u64 = 8;

struct Stopper(u64);

impl Agent<u64, u64> for Stopper {
    fn handle(&mut self, task: &Task<u64>, cx: &mut TaskContext<'_>) -> Result<u64, TaskError> {
        if (STOP..=STOP_AND_PANIC).contains(task.payload()) {
            cx.stop_agent();
        }
        assert!(*task.payload() != STOP_AND_PANIC, "as it was told");
        Ok(self.0)
    }
}

/// As `obedient`, and stops when it is told to.
fn stopper(made: &Arc<AtomicUsize>) -> AgentSpec<u64, u64> {
    let made = Arc::clone(made);
    AgentSpec::new("stopper").handler(move || Stopper(made.fetch_add(1, Ordering::SeqCst) as u64))
}

fn driven() -> (FleetBuilder<u64, u64>, ManualClock, Arc<Witness>) {
    let (clock, hand) = ManualClock::new();
    let witness = Witness::new();
    (Fleet::builder().driven().clock(clock).observer(witness.clone()), hand, witness)
}

/// Agents that exited, and whether they were to be made anew.
fn exits(witness: &Witness) -> Vec<(AgentId, bool)> {
    let exit = |event: FleetEvent| match event {
        FleetEvent::AgentExited { agent, restart_at } => Some((agent, restart_at.is_some())),
        _ => None,
    };
    witness.events().into_iter().filter_map(exit).collect()
}

fn run(fleet: &Fleet<u64, u64>) {
    fleet.run_ready(usize::MAX);
}

#[test]
fn an_agent_without_a_policy_ends_after_the_task_in_which_it_stops() {
    for never in [false, true] {
        let (builder, _hand, witness) = driven();
        let fleet = builder.build().unwrap();
        let spec = stopper(&Arc::default()).max_leases(2.try_into().unwrap());
        let spec = if never { spec.restart(RestartPolicy::new(Restart::Never)) } else { spec };
        let agent = fleet.spawn(spec).unwrap();
        let tasks = [STOP, 9].map(|payload| fleet.submit(Task::new(payload)).unwrap());
        let own = fleet.submit(Task::new(9).to(agent)).unwrap();
        assert_eq!(fleet.run_ready(1), 1);
        assert_eq!(*tasks[0].wait(), Outcome::Completed(0), "its own work counts");
        assert_eq!((fleet.agent(agent), exits(&witness)), (None, vec![(agent, false)]));
        assert_eq!(*own.wait(), Outcome::Returned(ReturnReason::AgentGone));
        assert!(tasks[1].try_outcome().is_none(), "it waits for another agent");
        fleet.spawn(stopper(&Arc::default())).unwrap();
        run(&fleet);
        assert_eq!(*tasks[1].wait(), Outcome::Completed(0));
        let stats = fleet.stats();
        assert_eq!((stats.agent_exits, stats.agents_stopped, stats.agents_given_up), (1, 1, 0));
        assert_eq!((stats.agent_failures, stats.tasks_completed), (0, 2));
        finish(&fleet);
    }
}

#[test]
fn what_is_left_in_the_mailbox_of_an_agent_that_stops_comes_back() {
    // The first message makes the handler; those after it are handled in a row.
    for before in [0, 3] {
        let (clock, _hand) = ManualClock::new();
        let fleet = Fleet::<u64, u64>::builder().driven().clock(clock).build().unwrap();
        let agent = fleet.spawn(stopper(&Arc::default())).unwrap();
        (0..before).for_each(|_| fleet.tell(agent, 9).unwrap());
        fleet.tell(agent, STOP).unwrap();
        fleet.tell(agent, 9).unwrap();
        let asked = fleet.ask(agent, 9).unwrap();
        run(&fleet);
        assert_eq!(asked.wait(), Outcome::Returned(ReturnReason::AgentGone));
        let stats = fleet.stats();
        assert_eq!((stats.messages_handled, stats.messages_returned), (before + 1, 2));
        assert_eq!((stats.agents_live, stats.agent_exits, stats.leases_live), (0, 1, 0));
        finish(&fleet);
    }
}

#[test]
fn a_policy_that_restarts_failures_alone_lets_an_agent_end_that_stops() {
    let (builder, _hand, witness) = driven();
    let fleet = builder.build().unwrap();
    let agent = fleet.spawn(stopper(&Arc::default()).restart(policy())).unwrap();
    let asked = fleet.ask(agent, STOP).unwrap();
    run(&fleet);
    assert_eq!(asked.wait(), Outcome::Completed(0), "the asker is told");
    assert_eq!((fleet.agent(agent), exits(&witness)), (None, vec![(agent, false)]));
    assert_eq!(failures(&witness), []);
    finish(&fleet);
}

#[test]
fn a_policy_that_restarts_always_makes_an_agent_anew_until_its_budget_is_used_up() {
    let (builder, hand, witness) = driven();
    let fleet = builder.build().unwrap();
    let made = Arc::default();
    let always = RestartPolicy::new(Restart::Always).budget(2, Duration::from_secs(3600));
    let spec = stopper(&made).restart(always.backoff(Backoff::constant(DELAY)));
    let agent = fleet.spawn(spec).unwrap();
    let task = fleet.submit(Task::new(STOP)).unwrap();
    run(&fleet);
    assert_eq!(*task.wait(), Outcome::Completed(0));
    assert_eq!(state(&fleet, agent), (AgentState::Failed, 2));
    assert_eq!(fleet.try_allocate(&Request::any()).unwrap_err(), AllocateError::NoneIdle);
    // Its mailbox stays, and takes more.
    let asked = [9, STOP, 9].map(|payload| fleet.ask(agent, payload).unwrap());
    run(&fleet);
    assert_eq!(fleet.mailbox_len(agent), Some(3));
    hand.advance(DELAY);
    run(&fleet);
    assert_eq!(
        (state(&fleet, agent), fleet.mailbox_len(agent)),
        ((AgentState::Failed, 3), Some(1))
    );
    hand.advance(DELAY);
    run(&fleet);
    let answers = asked.map(|asked| asked.wait());
    assert_eq!(answers, [1, 1, 2].map(Outcome::Completed), "each incarnation has its handler");
    assert_eq!(state(&fleet, agent), (AgentState::Ready, 3));
    fleet.tell(agent, STOP).unwrap();
    run(&fleet);
    assert_eq!(fleet.agent(agent), None);
    assert_eq!(exits(&witness), [(agent, true), (agent, true), (agent, false)]);
    let stats = fleet.stats();
    assert_eq!((stats.agent_exits, stats.agent_restarts, stats.agents_given_up), (3, 2, 1));
    assert_eq!(stats.agent_failures, 0);
    finish(&fleet);
}

#[test]
fn without_a_delay_an_agent_is_made_anew_in_the_step_in_which_it_fails_or_stops() {
    let (builder, _hand, _witness) = driven();
    let fleet = builder.build().unwrap();
    let always = RestartPolicy::new(Restart::Always).budget(2, Duration::from_secs(3600));
    let spec = stopper(&Arc::default()).restart(always.backoff(Backoff::constant(Duration::ZERO)));
    let agent = fleet.spawn(spec).unwrap();
    assert!(fleet.report_failure(agent, "as it was told").unwrap());
    assert_eq!(state(&fleet, agent), (AgentState::Ready, 2), "nobody has rung since");
    let task = fleet.submit(Task::new(STOP)).unwrap();
    assert_eq!(fleet.run_ready(1), 1);
    assert_eq!(state(&fleet, agent), (AgentState::Ready, 3));
    assert_eq!(task.wait().kind(), OutcomeKind::Completed);
    finish(&fleet);
}

#[test]
fn an_agent_that_stops_and_panics_has_failed() {
    let (builder, hand, witness) = driven();
    let fleet = builder.build().unwrap();
    let agent = fleet.spawn(stopper(&Arc::default()).restart(policy())).unwrap();
    fleet.tell(agent, STOP_AND_PANIC).unwrap();
    run(&fleet);
    assert_eq!(state(&fleet, agent), (AgentState::Failed, 2));
    assert_eq!((failures(&witness), exits(&witness)), (vec![agent], vec![]));
    hand.advance(DELAY);
    let next = fleet.ask(agent, 9).unwrap();
    run(&fleet);
    assert_eq!(next.wait(), Outcome::Completed(1));
    assert_eq!(state(&fleet, agent), (AgentState::Ready, 2), "it was no wish of this one");
    finish(&fleet);
}

#[test]
fn futures_have_their_agents_stop_as_they_end() {
    let (builder, hand, witness) = driven();
    let runs: Arc<dyn Spawner> = Arc::new(|mut future: SpawnedFuture| {
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    });
    let fleet = builder.spawner(runs).build().unwrap();
    let spec = AgentSpec::<u64, u64>::new("stopper").handler_async(|task, cx| async move {
        cx.stop_agent();
        Ok(*task.payload())
    });
    let always = policy_of(Restart::Always);
    let [once, again] = [spec.clone(), spec.restart(always)].map(|spec| fleet.spawn(spec).unwrap());
    let asked = [once, again].map(|agent| fleet.ask(agent, 9).unwrap());
    run(&fleet);
    assert_eq!(asked.map(|asked| asked.wait()), [Outcome::Completed(9), Outcome::Completed(9)]);
    assert_eq!((fleet.agent(once), state(&fleet, again)), (None, (AgentState::Failed, 2)));
    let task = fleet.submit(Task::new(3)).unwrap();
    hand.advance(DELAY);
    run(&fleet);
    assert_eq!(*task.wait(), Outcome::Completed(3));
    assert_eq!(exits(&witness), [(once, false), (again, true), (again, true)]);
    assert_eq!((fleet.stats().leases_live, fleet.stats().futures_live), (0, 0));
    finish(&fleet);
}

fn policy_of(when: Restart) -> RestartPolicy {
    let policy = RestartPolicy::new(when).budget(3, Duration::from_secs(3600));
    policy.backoff(Backoff::constant(DELAY))
}

#[test]
fn members_of_a_group_are_made_anew_with_one_that_exits_where_all_are() {
    let (builder, hand, witness) = driven();
    let fleet = builder.build().unwrap();
    let together =
        policy_of(Restart::Always).strategy(phalanx::fleet::supervise::RestartStrategy::OneForAll);
    let group = phalanx::fleet::SupervisionGroup::new(together);
    let made = Arc::default();
    let spec = stopper(&made).supervised_by(&group);
    let agents = fleet.spawn_batch(&spec, 2).unwrap();
    fleet.tell(agents[0], STOP).unwrap();
    run(&fleet);
    assert_eq!(exits(&witness), [(agents[0], true)]);
    assert_eq!(failures(&witness), [agents[1]], "with the other one");
    hand.advance(DELAY);
    fleet.tick();
    assert!(agents.iter().all(|agent| state(&fleet, *agent) == (AgentState::Ready, 2)));
    finish(&fleet);
}

/// Says that the fleet stops as the first task comes back, and waits for what it is to wait for.
#[derive(Debug)]
struct Doorman {
    stopping: Arc<Gate>,
    handled: Arc<Gate>,
}

impl Observer for Doorman {
    fn notice(&self, event: &FleetEvent) {
        if matches!(event, FleetEvent::TaskSettled { outcome: OutcomeKind::Returned, .. }) {
            self.stopping.open();
            self.handled.await_arrivals(1);
        }
    }
}

#[test]
fn messages_in_hand_are_seen_to_when_their_agent_would_stop_as_the_fleet_does() {
    let (begun, stopping, handled) = (Gate::new(), Gate::new(), Gate::new());
    handled.open();
    let doorman = Doorman { stopping: Arc::clone(&stopping), handled: Arc::clone(&handled) };
    let builder = Fleet::<u64, u64>::builder().workers(1).observer(Arc::new(doorman));
    let fleet = builder.build().unwrap();
    let spec = {
        let begun = Arc::clone(&begun);
        AgentSpec::<u64, u64>::new("stopper").handler_fn(move |task, cx| {
            match *task.payload() {
                ERROR => begun.pass(),
                STOP => {
                    stopping.pass();
                    cx.stop_agent();
                }
                _ => handled.pass(),
            }
            Ok(*task.payload())
        })
    };
    let agent = fleet.spawn(spec).unwrap();
    fleet.tell(agent, ERROR).unwrap();
    begun.await_arrivals(1);
    fleet.tell(agent, STOP).unwrap();
    fleet.tell(agent, 9).unwrap();
    let reply = fleet.ask(agent, 10).unwrap();
    let queued = fleet.submit(Task::new(11)).unwrap();
    let shutdown = {
        let fleet = fleet.clone();
        thread::spawn(move || fleet.shutdown(LONG).unwrap())
    };
    begun.open();
    assert_eq!(*queued.wait(), Outcome::Returned(ReturnReason::Shutdown));
    assert!(matches!(reply.wait(), Outcome::Completed(10) | Outcome::Returned(_)));
    let report = shutdown.join().unwrap();
    assert_eq!((report.messages_unfinished, report.workers_left), (0, 0));
    finish(&fleet);
}
