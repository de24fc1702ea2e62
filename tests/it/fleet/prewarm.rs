//! Agents whose handlers are made before they are in service.

mod batches;

use std::collections::VecDeque;
use std::future::Future;
use std::num::{NonZeroU16, NonZeroU32};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::support::{Gate, LONG, Witness, eventually, finish};
use phalanx::fleet::scale::{WarmPool, WarmPools};
use phalanx::fleet::supervise::{BreakerPolicy, BreakerState, Restart, RestartPolicy};
use phalanx::fleet::{
    Agent, AgentId, AgentSpec, AgentState, AllocateError, Backoff, Condition, FailureReason, Fleet,
    FleetBuilder, FleetEvent, Outcome, Request, SpawnedFuture, StuckAction, Task, TaskContext,
    TaskError, TaskErrorKind,
};
use phalanx::{ErrorKind, ManualClock};

const SECOND: Duration = Duration::from_secs(1);

/// What becomes of the handlers of a test.
#[derive(Debug, Default)]
struct Workshop {
    /// Factories that were called.
    calls: AtomicUsize,
    /// Handlers that were made and not dropped.
    live: AtomicUsize,
    /// What the next factories do.
    orders: Mutex<VecDeque<Order>>,
    /// What was handled.
    handled: Mutex<Vec<u64>>,
    /// Where handlers wait that are given [`HELD`].
    hold: Gate,
}

const HELD: u64 = 100;

#[derive(Debug)]
enum Order {
    Make,
    Panic,
    Pass(Arc<Gate>),
}

/// A handler that is counted, and that panics when it is given 13.
#[derive(Debug)]
struct Counted(Arc<Workshop>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Agent<u64, u64> for Counted {
    fn handle(&mut self, task: &Task<u64>, _cx: &mut TaskContext<'_>) -> Result<u64, TaskError> {
        let number = *task.payload();
        assert_ne!(number, 13, "it is unlucky");
        if number == HELD {
            self.0.hold.pass();
        }
        self.0.handled.lock().unwrap().push(number);
        Ok(number * 2)
    }
}

impl Workshop {
    fn new(orders: impl IntoIterator<Item = Order>) -> Arc<Self> {
        let orders = Mutex::new(orders.into_iter().collect());
        Arc::new(Self { orders, ..Self::default() })
    }

    fn make(self: &Arc<Self>) -> Counted {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let order = self.orders.lock().unwrap().pop_front();
        match order {
            Some(Order::Panic) => panic!("the model did not load"),
            Some(Order::Pass(gate)) => gate.pass(),
            Some(Order::Make) | None => {}
        }
        self.live.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self))
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    fn handled(&self) -> Vec<u64> {
        self.handled.lock().unwrap().clone()
    }
}

fn spec(workshop: &Arc<Workshop>) -> AgentSpec<u64, u64> {
    let workshop = Arc::clone(workshop);
    AgentSpec::new("model").handler(move || workshop.make()).prewarmed()
}

fn driven() -> FleetBuilder<u64, u64> {
    Fleet::builder().driven()
}

fn state(fleet: &Fleet<u64, u64>, agent: AgentId) -> AgentState {
    fleet.agent(agent).expect("it lives").state
}

fn on_failure(budget: u16) -> RestartPolicy {
    RestartPolicy::new(Restart::OnFailure)
        .budget(budget, Duration::from_secs(3600))
        .backoff(Backoff::constant(SECOND))
}

#[test]
fn an_agent_is_starting_until_its_handler_is_there_and_then_serves_whoever_waits() {
    let (workshop, witness) = (Workshop::new([]), Witness::new());
    let fleet = driven().observer(Arc::clone(&witness) as _).build().unwrap();
    let agent = fleet.spawn(spec(&workshop)).unwrap();
    assert_eq!((state(&fleet, agent), workshop.calls()), (AgentState::Starting, 0));
    assert_eq!(fleet.try_allocate(&Request::any()).unwrap_err(), AllocateError::NoneIdle);
    let task = fleet.submit(Task::new(1)).unwrap();
    fleet.tell(agent, 2).unwrap();
    let asked = fleet.ask(agent, 3).unwrap();
    let request = Request::any();
    let mut waiting = pin!(fleet.allocate_async(&request));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    assert_eq!(fleet.observe(&spec(&workshop)).starting, 1);

    // Whatever else is ready cannot run before it.
    while state(&fleet, agent) == AgentState::Starting {
        assert_eq!((fleet.stats().agents_prewarmed, workshop.handled().len()), (0, 0));
        fleet.run_ready(1);
    }
    assert_eq!((workshop.calls(), workshop.live()), (1, 1));
    assert_eq!(state(&fleet, agent), AgentState::Busy, "in one step it is taken");
    let Poll::Ready(Ok(lease)) = waiting.as_mut().poll(&mut cx) else { panic!("it was granted") };
    assert_eq!(workshop.handled(), [0_u64; 0]);
    drop(lease);
    fleet.run_ready(usize::MAX);
    assert_eq!(*task.wait(), Outcome::Completed(2));
    assert_eq!(asked.wait(), Outcome::Completed(6));
    let mut handled = workshop.handled();
    handled.sort_unstable();
    assert_eq!(handled, [1, 2, 3]);
    assert_eq!((workshop.calls(), fleet.stats().agents_prewarmed), (1, 1));
    let seen = fleet.observe(&spec(&workshop));
    assert_eq!((seen.starting, seen.serving, seen.idle), (0, 1, vec![agent]));
    let is_told = |event: &FleetEvent| matches!(event, FleetEvent::AgentPrewarmed { agent: of, .. } if *of == agent);
    assert_eq!(witness.events().iter().filter(|event| is_told(event)).count(), 1);
    finish(&fleet);
    assert_eq!(workshop.live(), 0);
}

#[test]
fn workers_make_the_handlers_of_a_batch_without_being_asked_for_anything() {
    let workshop = Workshop::new([]);
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    let agents = fleet.spawn_batch(&spec(&workshop), 1000).unwrap();
    let killed = agents.iter().step_by(3).filter(|agent| fleet.kill(**agent).is_ok()).count();
    eventually("all are ready", || fleet.observe(&spec(&workshop)).starting == 0);
    let ready = fleet.agents().iter().filter(|agent| agent.state == AgentState::Ready).count();
    assert_eq!(ready, agents.len() - killed);
    eventually("what was made too late is dropped", || workshop.live() == ready);
    finish(&fleet);
    assert_eq!(workshop.live(), 0);
}

#[test]
fn of_several_leases_one_finds_a_handler() {
    let workshop = Workshop::new([]);
    let fleet = driven().build().unwrap();
    fleet.spawn(spec(&workshop).max_leases(NonZeroU32::new(4).unwrap())).unwrap();
    assert_eq!(fleet.run_ready(usize::MAX), 1);
    assert_eq!(workshop.calls(), 1);
    drop(fleet.submit(Task::new(1)).unwrap());
    fleet.run_ready(usize::MAX);
    assert_eq!(workshop.calls(), 1);
    finish(&fleet);
}

#[test]
fn agents_with_nothing_to_make_are_ready_at_once() {
    let spawner = Arc::new(|_: SpawnedFuture| {});
    let fleet = driven().spawner(spawner).build().unwrap();
    let leased = fleet.spawn(AgentSpec::new("leased").prewarmed()).unwrap();
    let future = AgentSpec::new("future").handler_async(|_, _| async { Ok(1) }).prewarmed();
    let future = fleet.spawn(future).unwrap();
    assert_eq!([leased, future].map(|agent| state(&fleet, agent)), [AgentState::Ready; 2]);
    assert_eq!((fleet.run_ready(usize::MAX), fleet.stats().agents_prewarmed), (0, 0));
    finish(&fleet);
}

#[test]
fn a_fleet_without_workers_takes_no_agent_whose_handler_nobody_could_make() {
    let fleet = Fleet::<u64, u64>::builder().workers(0).build().unwrap();
    let error = fleet.spawn(spec(&Workshop::new([]))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    finish(&fleet);
}

#[test]
fn a_factory_that_panics_leaves_an_unsupervised_agent_failed_until_the_host_says_otherwise() {
    let (workshop, witness) = (Workshop::new([Order::Panic]), Witness::new());
    let fleet = driven().observer(Arc::clone(&witness) as _).build().unwrap();
    let agent = fleet.spawn(spec(&workshop)).unwrap();
    fleet.tell(agent, 1).unwrap();
    fleet.run_ready(usize::MAX);
    assert_eq!((state(&fleet, agent), workshop.calls()), (AgentState::Failed, 1));
    let stats = fleet.stats();
    assert_eq!((stats.prewarms_failed, stats.agents_prewarmed), (1, 0));
    assert_eq!((stats.agent_failures, stats.handler_panics), (1, 1));
    let is_told = |event: &FleetEvent| match event {
        FleetEvent::AgentFailed {
            agent: of,
            reason: FailureReason::Attempt(error),
            restart_at,
        } => (*of, error.kind(), *restart_at) == (agent, TaskErrorKind::Panicked, None),
        _ => false,
    };
    assert_eq!(witness.events().iter().filter(|event| is_told(event)).count(), 1);
    fleet.tick();
    assert_eq!((fleet.run_ready(usize::MAX), workshop.calls()), (0, 1), "nothing is tried again");
    assert_eq!(fleet.mailbox_len(agent), Some(1));

    assert_eq!(fleet.set_condition(agent, Condition::Fit).unwrap(), Condition::Failed);
    assert_eq!(state(&fleet, agent), AgentState::Starting);
    fleet.run_ready(usize::MAX);
    assert_eq!((state(&fleet, agent), workshop.calls()), (AgentState::Ready, 2));
    assert_eq!(workshop.handled(), [1]);
    finish(&fleet);
}

#[test]
fn a_factory_that_panics_is_a_failure_of_a_supervised_agent_with_backoff_and_budget() {
    let workshop = Workshop::new([Order::Panic, Order::Panic]);
    let (clock, hand) = ManualClock::new();
    let fleet = driven().clock(clock).build().unwrap();
    let agent = fleet.spawn(spec(&workshop).restart(on_failure(2))).unwrap();
    fleet.run_ready(usize::MAX);
    assert_eq!((state(&fleet, agent), workshop.calls()), (AgentState::Failed, 1));
    assert_eq!((fleet.run_ready(usize::MAX), workshop.calls()), (0, 1), "its delay is not over");
    hand.advance(SECOND);
    fleet.tick();
    assert_eq!((state(&fleet, agent), workshop.calls()), (AgentState::Starting, 1));
    fleet.run_ready(usize::MAX);
    assert_eq!((state(&fleet, agent), workshop.calls()), (AgentState::Failed, 2));
    hand.advance(SECOND);
    fleet.run_ready(usize::MAX);
    assert_eq!((state(&fleet, agent), workshop.calls()), (AgentState::Ready, 3));
    assert_eq!(fleet.agent(agent).unwrap().incarnation, 3);
    let stats = fleet.stats();
    assert_eq!((stats.agent_failures, stats.agent_restarts, stats.prewarms_failed), (2, 2, 2));

    // The budget is used up, and with the third failure the agent ends.
    fleet.tell(agent, 13).unwrap();
    fleet.run_ready(usize::MAX);
    assert_eq!(fleet.agent(agent), None);
    assert_eq!(fleet.stats().agents_given_up, 1);
    finish(&fleet);
    assert_eq!(workshop.live(), 0);
}

#[test]
fn an_incarnation_after_a_failure_is_made_ready_before_it_serves() {
    let workshop = Workshop::new([]);
    let (clock, hand) = ManualClock::new();
    let fleet = driven().clock(clock).build().unwrap();
    let agent = fleet.spawn(spec(&workshop).restart(on_failure(9))).unwrap();
    fleet.run_ready(usize::MAX);
    for number in [1, 13, 2] {
        fleet.tell(agent, number).unwrap();
    }
    fleet.run_ready(usize::MAX);
    assert_eq!((state(&fleet, agent), workshop.handled()), (AgentState::Failed, vec![1]));
    hand.advance(SECOND);
    fleet.tick();
    assert_eq!((state(&fleet, agent), workshop.calls()), (AgentState::Starting, 1));
    assert!(fleet.report_failure(agent, "it is gone").unwrap(), "it may fail before it is ready");
    assert_eq!(state(&fleet, agent), AgentState::Failed);
    assert_eq!((fleet.run_ready(usize::MAX), workshop.calls()), (0, 1));
    hand.advance(SECOND);
    fleet.run_ready(usize::MAX);
    assert_eq!((workshop.calls(), workshop.handled()), (2, vec![1, 2]));
    assert_eq!((state(&fleet, agent), workshop.live()), (AgentState::Ready, 1));
    finish(&fleet);
}

#[test]
fn an_agent_whose_handler_panicked_is_made_ready_anew_and_its_messages_wait_for_that() {
    let workshop = Workshop::new([]);
    let fleet = driven().build().unwrap();
    let agent = fleet.spawn(spec(&workshop)).unwrap();
    fleet.run_ready(usize::MAX);
    let again = Workshop::new([Order::Panic]);
    workshop.orders.lock().unwrap().append(&mut again.orders.lock().unwrap());
    for number in [1, 13, 2, 3] {
        fleet.tell(agent, number).unwrap();
    }
    fleet.run_ready(usize::MAX);
    // The second factory panicked: nothing was handled by one that was made lazily.
    assert_eq!((workshop.calls(), workshop.handled()), (2, vec![1]));
    assert_eq!((state(&fleet, agent), fleet.mailbox_len(agent)), (AgentState::Failed, Some(2)));
    fleet.set_condition(agent, Condition::Fit).unwrap();
    fleet.run_ready(usize::MAX);
    assert_eq!((workshop.calls(), workshop.handled()), (3, vec![1, 2, 3]));

    // So it is after an attempt of a task, and after a question.
    let task = fleet.submit(Task::new(13).max_attempts(NonZeroU32::MIN)).unwrap();
    fleet.run_ready(1);
    assert!(matches!(*task.wait(), Outcome::Failed(_)));
    assert_eq!((state(&fleet, agent), workshop.calls()), (AgentState::Starting, 3));
    fleet.run_ready(usize::MAX);
    let asked = [13, 4].map(|number| fleet.ask(agent, number).unwrap());
    fleet.run_ready(1);
    assert_eq!((state(&fleet, agent), workshop.calls()), (AgentState::Starting, 4));
    fleet.run_ready(usize::MAX);
    let [unlucky, lucky] = asked;
    assert!(matches!(unlucky.wait(), Outcome::Failed(_)));
    assert_eq!(lucky.wait(), Outcome::Completed(8));
    assert_eq!((workshop.calls(), workshop.live()), (5, 1));
    finish(&fleet);
}

#[test]
fn an_agent_of_several_leases_that_has_another_handler_goes_on_with_it() {
    let workshop = Workshop::new([]);
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    let agent = fleet.spawn(spec(&workshop).max_leases(NonZeroU32::new(2).unwrap())).unwrap();
    let both = [HELD, HELD].map(|number| fleet.submit(Task::new(number)).unwrap());
    workshop.hold.await_arrivals(2);
    workshop.hold.open();
    assert!(both.iter().all(|handle| matches!(*handle.wait(), Outcome::Completed(_))));
    assert_eq!((workshop.calls(), workshop.live()), (2, 2));
    let gate = Gate::new();
    workshop.orders.lock().unwrap().push_back(Order::Pass(Arc::clone(&gate)));
    for (live, then) in [(1, AgentState::Ready), (0, AgentState::Starting)] {
        let unlucky = fleet.submit(Task::new(13).max_attempts(NonZeroU32::MIN)).unwrap();
        assert!(matches!(*unlucky.wait(), Outcome::Failed(_)));
        assert_eq!((workshop.live(), state(&fleet, agent)), (live, then));
    }
    gate.open();
    eventually("it is ready again", || state(&fleet, agent) == AgentState::Ready);
    assert_eq!((workshop.calls(), workshop.live()), (3, 1));
    finish(&fleet);
    assert_eq!(workshop.live(), 0);
}

#[test]
fn the_hosts_word_holds_while_an_agent_is_made_ready() {
    for (wanted, stands) in [
        (Condition::Draining, AgentState::Draining),
        (Condition::Failed, AgentState::Failed),
        (Condition::Starting, AgentState::Starting),
        (Condition::Degraded, AgentState::Degraded),
    ] {
        // Before it is begun.
        let workshop = Workshop::new([]);
        let fleet = driven().build().unwrap();
        let agent = fleet.spawn(spec(&workshop)).unwrap();
        assert_eq!(fleet.set_condition(agent, wanted).unwrap(), Condition::Fit);
        fleet.run_ready(usize::MAX);
        assert_eq!(state(&fleet, agent), stands, "{wanted:?}");
        let is_made = matches!(wanted, Condition::Starting | Condition::Degraded);
        assert_eq!(workshop.calls(), usize::from(is_made), "{wanted:?}");
        assert_eq!(fleet.set_condition(agent, Condition::Fit).unwrap(), wanted);
        fleet.run_ready(usize::MAX);
        assert_eq!((state(&fleet, agent), workshop.calls()), (AgentState::Ready, 1));
        finish(&fleet);

        // In the midst of it, supervised or not.
        for supervised in [false, true] {
            let gate = Gate::new();
            let workshop = Workshop::new([Order::Pass(Arc::clone(&gate))]);
            let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
            let mut spec = spec(&workshop);
            if supervised {
                spec = spec.restart(on_failure(3));
            }
            let agent = fleet.spawn(spec).unwrap();
            gate.await_arrivals(1);
            fleet.set_condition(agent, wanted).unwrap();
            fleet.set_condition(agent, Condition::Fit).unwrap();
            assert_eq!(state(&fleet, agent), AgentState::Starting);
            fleet.set_condition(agent, wanted).unwrap();
            gate.open();
            eventually("it is made", || fleet.stats().agents_prewarmed == 1);
            assert_eq!((state(&fleet, agent), workshop.calls()), (stands, 1), "{wanted:?}");
            // Nothing of it is left once the host wants it to serve.
            fleet.set_condition(agent, Condition::Fit).unwrap();
            fleet.tell(agent, 1).unwrap();
            eventually("it is handled", || workshop.handled() == [1]);
            finish(&fleet);
        }
    }
}

#[test]
fn an_agent_that_ends_before_its_handler_is_made_costs_none() {
    let workshop = Workshop::new([]);
    let fleet = driven().build().unwrap();
    let agents = fleet.spawn_batch(&spec(&workshop), 300).unwrap();
    for (at, agent) in agents.iter().enumerate() {
        match at % 3 {
            0 => drop(fleet.kill(*agent).unwrap()),
            1 => fleet.retire(*agent).unwrap(),
            _ => assert!(fleet.drain_agent(*agent, Duration::ZERO).unwrap().ended),
        }
    }
    assert_eq!((fleet.run_ready(usize::MAX), workshop.calls()), (0, 0));
    fleet.spawn_batch(&spec(&workshop), 3).unwrap();
    finish(&fleet);
    assert_eq!((workshop.calls(), workshop.live()), (0, 0));
}

#[test]
fn an_agent_that_ends_while_its_handler_is_made_leaves_none() {
    type End = fn(&Fleet<u64, u64>, AgentId);
    let ends: [End; 4] = [
        |fleet, agent| drop(fleet.kill(agent).unwrap()),
        |fleet, agent| fleet.retire(agent).unwrap(),
        |fleet, agent| assert!(fleet.drain_agent(agent, LONG).unwrap().ended),
        // The deadline is over at once, and the thread is told of as left.
        |fleet, _| assert_eq!(fleet.shutdown(Duration::ZERO).unwrap().workers_left, 1),
    ];
    for end in ends {
        for order in [None, Some(Order::Panic)] {
            let gate = Gate::new();
            let workshop = Workshop::new([Order::Pass(Arc::clone(&gate))]);
            let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
            let panics = order.is_some();
            let made = Arc::clone(&workshop);
            let spec = AgentSpec::new("model").prewarmed().handler(move || {
                let handler = made.make();
                assert!(!panics, "the model did not load");
                handler
            });
            let agent = fleet.spawn(spec).unwrap();
            gate.await_arrivals(1);
            end(&fleet, agent);
            assert_eq!(fleet.agent(agent), None);
            gate.open();
            finish(&fleet);
            assert_eq!((workshop.calls(), workshop.live()), (1, 0));
            let stats = fleet.stats();
            assert_eq!((stats.agents_prewarmed, stats.agent_failures), (0, 0));
            assert_eq!(stats.prewarms_failed, u64::from(panics));
        }
    }
}

#[test]
fn a_drain_waits_for_no_factory_that_nobody_needs() {
    let gate = Gate::new();
    let workshop = Workshop::new([Order::Pass(Arc::clone(&gate))]);
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    fleet.spawn(spec(&workshop)).unwrap();
    gate.await_arrivals(1);
    assert!(fleet.drain(LONG).unwrap().is_complete(), "the factory has not come back");
    gate.open();
    finish(&fleet);

    // Whoever drives a drain looks before each.
    let workshop = Workshop::new([]);
    let fleet = driven().build().unwrap();
    let agents = fleet.spawn_batch(&spec(&workshop), 100).unwrap();
    assert!(fleet.drain(LONG).unwrap().is_complete());
    assert_eq!(workshop.calls(), 0);
    fleet.run_ready(1);
    // What was accepted is waited for, and leases are still granted.
    assert_eq!(state(&fleet, agents[0]), AgentState::Ready);
    drop(fleet.try_allocate(&Request::any()).unwrap());
    finish(&fleet);

    let workshop = Workshop::new([]);
    let fleet = driven().build().unwrap();
    let agents = fleet.spawn_batch(&spec(&workshop), 10).unwrap();
    fleet.tell(agents[9], 1).unwrap();
    let task = fleet.submit(Task::new(2).to(agents[8])).unwrap();
    assert!(fleet.drain(LONG).unwrap().is_complete());
    assert_eq!((workshop.handled().len(), &*task.wait()), (2, &Outcome::Completed(4)));
    finish(&fleet);
}

#[test]
fn a_factory_that_does_not_come_back_is_told_of_and_its_agent_killed() {
    let (clock, hand) = ManualClock::new();
    let gate = Gate::new();
    let workshop = Workshop::new([Order::Pass(Arc::clone(&gate))]);
    let fleet = Fleet::<u64, u64>::builder().workers(1).clock(clock).build().unwrap();
    let agent = fleet.spawn(spec(&workshop).stuck_after(SECOND, StuckAction::Kill)).unwrap();
    gate.await_arrivals(1);
    hand.advance(SECOND);
    fleet.tick();
    assert_eq!((fleet.agent(agent), fleet.stats().attempts_stuck), (None, 1));
    gate.open();
    finish(&fleet);
    assert_eq!(workshop.live(), 0);
}

#[test]
fn a_circuit_hears_of_factories_that_panic_and_finds_somebody_to_try() {
    // Somebody is there as it looks for one, or is made ready later.
    for late in [false, true] {
        let workshop = Workshop::new([Order::Panic, Order::Panic]);
        let (clock, hand) = ManualClock::new();
        let policy = BreakerPolicy::new(NonZeroU16::new(2).unwrap(), SECOND * 9)
            .open_for(Backoff::constant(SECOND));
        let fleet = driven().clock(clock).breaker("model", policy).build().unwrap();
        let agents = fleet.spawn_batch(&spec(&workshop), 2).unwrap();
        fleet.run_ready(usize::MAX);
        assert!(matches!(fleet.circuit("model"), Some(BreakerState::Open { .. })));
        let healthy = fleet.spawn(spec(&workshop)).unwrap();
        assert_eq!(state(&fleet, healthy), AgentState::Failed, "it is held back, as all are");
        let task = fleet.submit(Task::new(1)).unwrap();
        if !late {
            fleet.run_ready(usize::MAX);
            assert_eq!(
                (workshop.calls(), workshop.handled().len()),
                (3, 0),
                "it is made all the same"
            );
        }
        hand.advance(SECOND);
        fleet.tick();
        assert_eq!(workshop.calls(), if late { 2 } else { 3 });
        fleet.run_ready(usize::MAX);
        let done = task.try_outcome().map(|outcome| outcome.completed().copied());
        assert_eq!(done, Some(Some(2)), "{late}");
        assert_eq!(fleet.circuit("model"), Some(BreakerState::Closed));
        assert!(agents.iter().all(|agent| state(&fleet, *agent) == AgentState::Failed));
        finish(&fleet);
    }
}

#[test]
fn a_circuit_hears_of_a_trial_that_loses_its_handler() {
    let workshop = Workshop::new([]);
    let (clock, hand) = ManualClock::new();
    let policy = BreakerPolicy::new(NonZeroU16::new(2).unwrap(), SECOND * 9)
        .open_for(Backoff::constant(SECOND));
    let fleet = driven().clock(clock).breaker("model", policy).build().unwrap();
    fleet.spawn(spec(&workshop)).unwrap();
    let unlucky = || Task::new(13).max_attempts(NonZeroU32::MIN);
    for _ in 0..2 {
        drop(fleet.submit(unlucky()).unwrap());
        fleet.run_ready(usize::MAX);
    }
    // The one that is on trial panics too: the circuit is open again, and waits.
    for calls in [3, 4] {
        assert!(matches!(fleet.circuit("model"), Some(BreakerState::Open { .. })), "{calls}");
        drop(fleet.submit(unlucky()).unwrap());
        fleet.run_ready(usize::MAX);
        assert_eq!(workshop.calls(), calls, "it is made ready anew and then held back");
        hand.advance(SECOND);
        fleet.tick();
        fleet.run_ready(usize::MAX);
    }
    assert!(matches!(fleet.circuit("model"), Some(BreakerState::Open { .. })));
    hand.advance(SECOND);
    fleet.tick();
    drop(fleet.submit(Task::new(1)).unwrap());
    fleet.run_ready(usize::MAX);
    assert_eq!(fleet.circuit("model"), Some(BreakerState::Closed));
    finish(&fleet);
}

#[test]
fn a_warm_pool_counts_agents_that_are_coming_and_retires_them_first() {
    let workshop = Workshop::new([]);
    let fleet = driven().build().unwrap();
    let mut pools = WarmPools::new(&fleet, 10).pool(spec(&workshop), WarmPool::new(3, 4)).unwrap();
    assert_eq!(pools.step().unwrap().spawned.len(), 3);
    let second = pools.step().unwrap();
    assert_eq!((second.spawned.len(), second.missing), (0, 0), "they are coming");
    fleet.run_ready(2);
    assert_eq!(fleet.observe(&spec(&workshop)).starting, 1);
    // One more that is coming than may stay.
    let late = fleet.spawn_batch(&spec(&workshop), 2).unwrap();
    let retired = pools.step().unwrap().retired;
    assert_eq!(retired.len(), 1);
    let coming = fleet.agents().iter().filter(|one| one.state == AgentState::Starting).count();
    assert_eq!(coming, 2, "none that is ready was retired: {retired:?}, {late:?}");
    fleet.run_ready(usize::MAX);
    assert_eq!((workshop.live(), workshop.calls()), (4, 4));

    // A task finds a handler, and what cannot be made is told.
    let task = fleet.submit(Task::new(1)).unwrap();
    fleet.run_ready(usize::MAX);
    assert_eq!((&*task.wait(), workshop.calls()), (&Outcome::Completed(2), 4));
    workshop.orders.lock().unwrap().push_back(Order::Panic);
    let busy = fleet.try_allocate_up_to(&Request::any(), 4).unwrap();
    assert_eq!(pools.step().unwrap().spawned.len(), 3);
    fleet.run_ready(usize::MAX);
    let step = pools.step().unwrap();
    assert_eq!((step.spawned.len(), step.failed), (0, 1));
    drop(busy);
    finish(&fleet);
}
