//! The events of work that waits: a host that steps its autoscaler by them and never ticks.

use std::future::Future;
use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use super::support::{Gate, Witness, finish};
use phalanx::fleet::scale::{Autoscaler, ScalePolicy};
use phalanx::fleet::{AgentSpec, Fleet, FleetEvent, Observer, Request, Task, WeakFleet};

/// Tells a thread that work waits.
struct Caller(Mutex<Sender<()>>);

impl Caller {
    fn new() -> (Arc<Self>, Receiver<()>) {
        let (sender, receiver) = mpsc::channel();
        (Arc::new(Self(Mutex::new(sender))), receiver)
    }
}

impl Observer for Caller {
    fn notice(&self, event: &FleetEvent) {
        if matches!(event, FleetEvent::TasksWait { .. } | FleetEvent::RequestsWait { .. }) {
            // Nobody steps any more.
            let _ = self.0.lock().expect("nobody panics").send(());
        }
    }
}

fn policy() -> ScalePolicy {
    ScalePolicy::builder()
        .min(1)
        .max(4)
        .up_window(Duration::ZERO)
        .up_cooldown(Duration::ZERO)
        .build()
        .expect("the values are valid")
}

fn gated(gate: &Arc<Gate>) -> AgentSpec<u32, u32> {
    let pass = Arc::clone(gate);
    AgentSpec::new("one").handler_fn(move |task: &Task<u32>, _| {
        pass.pass();
        Ok(*task.payload())
    })
}

#[test]
fn work_that_waits_has_a_host_step_that_never_ticks() {
    let gate = Gate::new();
    let (caller, called) = Caller::new();
    let fleet = Fleet::<u32, u32>::builder().workers(2).observer(caller).build().unwrap();
    let mut scaler = Autoscaler::new(&fleet, gated(&gate), policy());
    scaler.step().unwrap();
    let first = fleet.submit(Task::new(1)).unwrap();
    gate.await_arrivals(1);
    while called.try_recv().is_ok() {}
    let steps = thread::spawn(move || {
        while called.recv().is_ok() {
            if scaler.step().is_err() {
                break;
            }
        }
    });
    // The only agent is busy, and nothing but the event has anybody step.
    let second = fleet.submit(Task::new(2)).unwrap();
    gate.await_arrivals(2);
    gate.open();
    assert!([first, second].iter().all(|handle| handle.wait().completed().is_some()));
    let mut held: Vec<_> = Vec::new();
    for _ in 0..8 {
        // Beyond the agents that there are, each time until there are as many as there may be.
        if fleet.stats().agents_live == 4 {
            break;
        }
        held.push(fleet.allocate(&Request::any()).unwrap());
    }
    assert_eq!(fleet.stats().agents_live, 4);
    drop(held);
    finish(&fleet);
    drop(fleet);
    steps.join().unwrap();
}

/// What it is told, and what is observed as it is.
struct Looker {
    fleet: OnceLock<(WeakFleet<u32, u32>, AgentSpec<u32, u32>)>,
    seen: Mutex<Vec<(FleetEvent, u64)>>,
}

impl Observer for Looker {
    fn notice(&self, event: &FleetEvent) {
        if matches!(event, FleetEvent::TasksWait { .. } | FleetEvent::RequestsWait { .. })
            && let Some((fleet, spec)) = self.fleet.get()
            && let Some(fleet) = fleet.upgrade()
        {
            let queued = fleet.observe(spec).queued;
            self.seen.lock().expect("nobody panics").push((event.clone(), queued));
        }
    }
}

#[test]
fn what_is_told_to_wait_is_seen_to_wait() {
    let looker = Arc::new(Looker { fleet: OnceLock::new(), seen: Mutex::new(Vec::new()) });
    let fleet = Fleet::<u32, u32>::builder().driven().observer(looker.clone()).build().unwrap();
    let spec = AgentSpec::new("one").handler_fn(|task: &Task<u32>, _| Ok(*task.payload()));
    fleet.spawn(spec.clone()).unwrap();
    assert!(looker.fleet.set((fleet.downgrade(), spec)).is_ok());
    let seen = || std::mem::take(&mut *looker.seen.lock().expect("nobody panics"));
    let tasks = |tasks| FleetEvent::TasksWait { tasks };
    let requests = |requests| FleetEvent::RequestsWait { requests };

    let three: Vec<_> = (0..3).map(|_| fleet.submit(Task::new(1)).unwrap()).collect();
    assert_eq!(seen(), [(tasks(1), 1), (tasks(2), 2)], "not before there are twice as many");
    let more = fleet.submit_batch((0..97).map(Task::new).collect()).unwrap();
    assert_eq!(seen(), [(tasks(64), 100)], "once for all that came in one step");
    while fleet.run_ready(usize::MAX) > 0 {}
    let named = fleet.agents()[0].id;
    let alone = fleet.submit(Task::new(1).to(named)).unwrap();
    assert!(seen().is_empty(), "more agents do not help it");
    while fleet.run_ready(usize::MAX) > 0 {}
    assert!(three.iter().chain(&more).chain([&alone]).all(|handle| handle.try_outcome().is_some()));

    let held = fleet.try_allocate(&Request::any()).unwrap();
    let poll = |waits: Pin<&mut dyn Future<Output = _>>| {
        waits.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    };
    let request = Request::any();
    let mut waiting: Vec<_> = (0..5).map(|_| Box::pin(fleet.allocate_async(&request))).collect();
    assert!(waiting.iter_mut().all(|waits| poll(waits.as_mut())));
    assert_eq!(seen(), [(requests(1), 1), (requests(2), 2), (requests(4), 4)]);
    // They gave up, and it begins anew.
    waiting.clear();
    let mut batch = pin!(fleet.allocate_batch_async(&request, 1));
    assert!(batch.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(seen(), [(requests(1), 1)]);
    drop(held);
    let Poll::Ready(leases) = batch.poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("an agent is free")
    };
    drop(leases);
    assert_eq!(fleet.stats().observer_panics, 0);
    finish(&fleet);
}

#[test]
fn a_task_that_is_queued_again_is_told_to_wait() {
    let gate = Gate::new();
    let witness = Witness::new();
    let fleet = Fleet::<u32, u32>::builder().workers(1).observer(witness.clone()).build().unwrap();
    let agent = fleet.spawn(gated(&gate)).unwrap();
    let two = NonZeroU32::new(2).unwrap();
    let handle = fleet.submit(Task::new(1).max_attempts(two)).unwrap();
    gate.await_arrivals(1);
    let told = || {
        let waits = |event: &&FleetEvent| matches!(event, FleetEvent::TasksWait { tasks: 1 });
        witness.events().iter().filter(waits).count()
    };
    let before = told();
    let _expected = fleet.expect(&gated(&gate)).unwrap();
    fleet.kill(agent).unwrap();
    assert_eq!((before, told()), (1, 2));
    gate.open();
    fleet.spawn(gated(&gate)).unwrap();
    assert!(handle.wait().completed().is_some());
    finish(&fleet);
}
