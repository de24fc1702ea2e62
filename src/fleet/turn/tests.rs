//! Messages that are handled one right after the other, with an error, a panic or a kill in their midst.

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Waker};
use std::time::Duration;

use super::TURN;
use crate::fleet::supervise::{Restart, RestartPolicy};
use crate::fleet::{
    Agent, AgentId, AgentSpec, Backoff, Budgets, Fleet, Limit, Meter, Outcome, Quota, Request,
    ReturnReason, Scope, Task, TaskContext, TaskError, WeakFleet,
};
use crate::sync::{Asymmetric, refusing_barriers};

/// More than a worker takes out at once.
const MANY: u64 = 150;
/// The first, some in the midst, and those about where a worker has to take more out.
const PLACES: [u64; 8] = [0, 1, 30, 62, 63, 64, 127, MANY - 1];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Fail,
    Panic,
    Kill,
    KillAndPanic,
    /// Where the system refuses what a kill needs to take messages out of the hand of a worker.
    KillInVain,
    /// The same for a control message.
    TellInVain,
    /// After it has told its own agent something by the control lane.
    TellAndFail,
}

/// What a handler saw: which one of its agent it was, its message, and how many had been handled and had failed.
type Seen = (usize, u64, u64, u64);

#[derive(Clone)]
struct Doer {
    number: usize,
    at: u64,
    deed: Deed,
    fleet: Arc<OnceLock<WeakFleet<u64, u64>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Agent<u64, u64> for Doer {
    fn handle(&mut self, task: &Task<u64>, cx: &mut TaskContext<'_>) -> Result<u64, TaskError> {
        let message = *task.payload();
        let fleet = self.fleet.get().and_then(WeakFleet::upgrade).expect("the test holds it");
        let stats = fleet.stats();
        let seen = (self.number, message, stats.messages_handled, stats.messages_failed);
        self.seen.lock().expect("it is not poisoned").push(seen);
        if message == self.at {
            if matches!(self.deed, Deed::Kill | Deed::KillAndPanic) {
                assert!(!cx.is_revoked());
                fleet.kill(cx.agent()).expect("it lives");
                assert!(cx.is_revoked());
            }
            if self.deed == Deed::KillInVain {
                refusing_barriers(|| fleet.kill(cx.agent())).expect("it lives");
            }
            if self.deed == Deed::TellInVain {
                refusing_barriers(|| fleet.tell_control(cx.agent(), MANY)).expect("it lives");
            }
            if self.deed == Deed::TellAndFail {
                fleet.tell_control(cx.agent(), MANY).expect("there is room");
            }
            match self.deed {
                Deed::Fail | Deed::TellAndFail => {
                    return Err(TaskError::permanent("as it was told"));
                }
                Deed::Panic | Deed::KillAndPanic => panic!("as it was told"),
                Deed::Kill | Deed::KillInVain | Deed::TellInVain => {}
            }
        }
        Ok(message + 1)
    }
}

/// A fleet with one agent that does something with its `at`th message.
struct Stage {
    fleet: Fleet<u64, u64>,
    agent: AgentId,
    seen: Arc<Mutex<Vec<Seen>>>,
    returned: Arc<Mutex<Vec<u64>>>,
}

impl Stage {
    fn new(at: u64, deed: Deed) -> Self {
        let returned = Arc::new(Mutex::new(Vec::new()));
        let hook = {
            let returned = Arc::clone(&returned);
            move |_: AgentId, reason: ReturnReason, mut payloads: Vec<u64>| {
                assert_eq!(reason, ReturnReason::AgentGone);
                returned.lock().expect("it is not poisoned").append(&mut payloads);
            }
        };
        let fleet = Fleet::builder().driven().returned(Arc::new(hook)).build();
        let fleet = fleet.expect("it is valid");
        let (seen, own) = (Arc::default(), Arc::new(OnceLock::new()));
        own.set(fleet.downgrade()).expect("it is set once");
        let doer = Doer { number: 0, at, deed, fleet: own, seen: Arc::clone(&seen) };
        let made = AtomicUsize::new(0);
        let spec = AgentSpec::new("doer")
            .handler(move || Doer { number: made.fetch_add(1, Ordering::Relaxed), ..doer.clone() });
        let agent = fleet.spawn(spec).expect("there is room");
        Self { fleet, agent, seen, returned }
    }

    fn tell(&self, messages: std::ops::Range<u64>) {
        for message in messages {
            self.fleet.tell(self.agent, message).expect("there is room");
        }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("it is not poisoned").clone()
    }
}

/// What handlers see of messages of which that one fails, and has a new handler made if it panics.
fn expected(at: u64, deed: Deed, messages: std::ops::Range<u64>) -> Vec<Seen> {
    let one = |message| {
        let failed = u64::from(message > at);
        let handler = if deed == Deed::Panic { failed as usize } else { 0 };
        (handler, message, message - failed, failed)
    };
    messages.map(one).collect()
}

#[test]
fn an_error_or_a_panic_in_the_midst_loses_its_message_alone_and_each_is_counted_before_the_next() {
    for (at, deed) in PLACES.into_iter().flat_map(|at| [(at, Deed::Fail), (at, Deed::Panic)]) {
        let stage = Stage::new(at, deed);
        stage.tell(0..MANY);
        assert_eq!(stage.fleet.run_ready(usize::MAX), 1);
        assert_eq!(stage.seen(), expected(at, deed, 0..MANY), "{deed:?} at {at}");
        let stats = stage.fleet.stats();
        assert_eq!((stats.messages_handled, stats.messages_failed), (MANY - 1, 1));
        assert_eq!(stats.handler_panics, u64::from(deed == Deed::Panic));
    }
}

#[test]
fn a_kill_in_the_midst_gives_back_all_that_is_not_begun_and_in_its_order() {
    for (at, deed) in PLACES.into_iter().flat_map(|at| [(at, Deed::Kill), (at, Deed::KillAndPanic)])
    {
        let stage = Stage::new(at, deed);
        stage.tell(0..MANY);
        assert_eq!(stage.fleet.run_ready(usize::MAX), 1);
        assert_eq!(stage.seen(), expected(at, deed, 0..at + 1), "{deed:?} at {at}");
        let returned = stage.returned.lock().expect("it is not poisoned").clone();
        assert!(returned.iter().copied().eq(at + 1..MANY), "{deed:?} at {at}");
        let stats = stage.fleet.stats();
        let panics = u64::from(deed == Deed::KillAndPanic);
        assert_eq!((stats.messages_handled, stats.messages_failed), (at + 1 - panics, panics));
        assert_eq!(stats.messages_returned, MANY - at - 1);
        // The worker's next agent finds its hand empty.
        let next = Stage { agent: stage.fleet.spawn(doubling()).expect("there is room"), ..stage };
        next.tell(0..MANY);
        assert_eq!(next.fleet.run_ready(usize::MAX), 1);
        let stats = next.fleet.stats();
        assert_eq!(stats.messages_handled, at + 1 - panics + MANY);
    }
}

fn doubling() -> AgentSpec<u64, u64> {
    AgentSpec::new("doubler").handler_fn(|task: &Task<u64>, _cx| Ok(task.payload() * 2))
}

#[test]
fn questions_tasks_and_control_among_what_is_told_keep_their_order() {
    for deed in [Deed::Fail, Deed::Panic] {
        let stage = Stage::new(40, deed);
        let (fleet, agent) = (&stage.fleet, stage.agent);
        let (mut replies, mut tasks) = (Vec::new(), Vec::new());
        for message in 1..MANY {
            match message % 10 {
                3 => replies.push((message, fleet.ask(agent, message).expect("there is room"))),
                7 => {
                    let task = fleet.submit(Task::new(message).to(agent));
                    tasks.push((message, task.expect("there is room")));
                }
                _ => fleet.tell(agent, message).expect("there is room"),
            }
        }
        fleet.tell_control(agent, 0).expect("there is room");
        assert_eq!(fleet.run_ready(usize::MAX), 1);
        let seen: Vec<_> = stage.seen().into_iter().map(|(_, message, ..)| message).collect();
        assert!(seen.into_iter().eq(0..MANY), "{deed:?}");
        for (message, reply) in replies {
            assert_eq!(reply.wait(), Outcome::Completed(message + 1));
        }
        for (message, task) in tasks {
            assert_eq!(*task.wait(), Outcome::Completed(message + 1));
        }
        assert_eq!(fleet.stats().messages_failed, 1);
    }
}

#[test]
fn a_turn_ends_after_its_messages_whatever_became_of_them() {
    for deed in [Deed::Fail, Deed::Panic] {
        for at in [0, 100, TURN as u64 - 1, TURN as u64] {
            let stage = Stage::new(at, deed);
            stage.tell(0..TURN as u64 + 1);
            assert_eq!(stage.fleet.run_ready(1), 1);
            assert_eq!(stage.seen().len(), TURN, "{deed:?} at {at}");
            assert_eq!(stage.fleet.run_ready(usize::MAX), 1);
            assert_eq!(stage.seen().len(), TURN + 1);
        }
    }
}

#[test]
fn a_supervised_agent_that_is_killed_in_the_midst_leaves_the_hand_of_its_worker_empty() {
    let stage = Stage::new(2, Deed::Kill);
    let own = Arc::new(OnceLock::new());
    own.set(stage.fleet.downgrade()).expect("it is set once");
    let seen = Arc::clone(&stage.seen);
    let doer = Doer { number: 0, at: 2, deed: Deed::Kill, fleet: own, seen };
    let policy = RestartPolicy::new(Restart::OnFailure);
    let spec = AgentSpec::new("supervised").handler(move || doer.clone()).restart(policy);
    let agent = stage.fleet.spawn(spec).expect("there is room");
    let stage = Stage { agent, ..stage };
    stage.tell(0..10);
    assert_eq!(stage.fleet.run_ready(usize::MAX), 1);
    assert_eq!(stage.seen().len(), 3);
    assert!(stage.returned.lock().expect("it is not poisoned").iter().copied().eq(3..10));
    let next = Stage { agent: stage.fleet.spawn(doubling()).expect("there is room"), ..stage };
    next.tell(0..MANY);
    assert_eq!(next.fleet.run_ready(usize::MAX), 1);
    assert_eq!(next.fleet.stats().messages_handled, 3 + MANY);
}

#[test]
fn what_an_agent_that_failed_had_in_hand_of_control_goes_before_what_was_told_there_meanwhile() {
    for at in [0, 1, 2, 4] {
        let stage = Stage::new(at, Deed::TellAndFail);
        let own = Arc::new(OnceLock::new());
        own.set(stage.fleet.downgrade()).expect("it is set once");
        let seen = Arc::clone(&stage.seen);
        let doer = Doer { number: 0, at, deed: Deed::TellAndFail, fleet: own, seen };
        let policy = RestartPolicy::new(Restart::OnFailure).on_errors(true);
        let spec = AgentSpec::new("supervised")
            .handler(move || doer.clone())
            .restart(policy.backoff(Backoff::NONE));
        let agent = stage.fleet.spawn(spec).expect("there is room");
        let stage = Stage { agent, ..stage };
        for message in 0..3 {
            stage.fleet.tell_control(agent, message).expect("there is room");
        }
        stage.tell(3..6);
        stage.fleet.run_ready(usize::MAX);
        let seen: Vec<_> = stage.seen().into_iter().map(|(_, message, ..)| message).collect();
        let mut expected: Vec<_> = (0..6).collect();
        // What fails is not tried again, and what is told during work goes before the rest of it.
        expected.insert(if at < 3 { 3 } else { at as usize + 1 }, MANY);
        assert_eq!(seen, expected, "the one that fails is {at}");
    }
}

#[test]
fn what_the_system_refuses_takes_no_message_out_of_the_world_and_brings_none_into_it() {
    if !Asymmetric::detect().is_free() {
        return;
    }
    for deed in [Deed::KillInVain, Deed::TellInVain] {
        let stage = Stage::new(1, deed);
        stage.tell(0..MANY);
        assert_eq!(stage.fleet.run_ready(1), 1);
        let stats = stage.fleet.stats();
        assert_eq!((stats.messages_failed, stats.handler_panics), (1, 1), "{deed:?} has panicked");
        let ended = stats.messages_handled + stats.messages_failed + stats.messages_returned;
        assert_eq!((stats.messages_accepted, ended), (MANY, MANY), "{deed:?}");
    }
}

#[test]
fn a_mailbox_that_a_budget_refuses_is_remembered_once_however_often_it_is_looked_at() {
    let budgets = Budgets::new(NonZeroUsize::MIN);
    budgets
        .set(Scope::Fleet, Quota::new().limit(Meter::Leases, Limit::hard(0)))
        .expect("there is room");
    let fleet = Fleet::<u64, u64>::builder().driven().budgets(budgets).build();
    let fleet = fleet.expect("it is valid");
    let agent = fleet.spawn(doubling()).expect("there is room");
    // Each lease that comes back has those looked at for which there was no room.
    let mut waiting = std::pin::pin!(fleet.allocate_async(&Request::any()));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    fleet.tell(agent, 1).expect("there is room");
    for control in 0..100 {
        fleet.tell_control(agent, control).expect("there is room");
        fleet.run_ready(usize::MAX);
        assert_eq!(fleet.inner().pool.over_budget(), 1);
    }
    let stats = fleet.stats();
    assert_eq!((stats.messages_handled, fleet.mailbox_len(agent)), (100, Some(1)));
}

#[test]
fn agents_that_a_budget_refused_and_that_ended_are_not_remembered() {
    let budgets = Budgets::new(NonZeroUsize::MIN);
    let limit = |limit| {
        let quota = Quota::new().limit(Meter::Leases, Limit::hard(limit));
        budgets.set(Scope::Fleet, quota).expect("there is room");
    };
    limit(0);
    let fleet = Fleet::<u64, u64>::builder().driven().budgets(budgets.clone()).build();
    let fleet = fleet.expect("it is valid");
    let refused = || {
        let agent = fleet.spawn(doubling()).expect("there is room");
        fleet.tell(agent, 1).expect("there is room");
        fleet.run_ready(usize::MAX);
        agent
    };
    let lives = [refused(), refused()];
    for round in 0..1000 {
        let agent = refused();
        if round % 2 == 0 {
            fleet.kill(agent).expect("it lives");
        } else {
            fleet.drain_agent(agent, Duration::ZERO).expect("this is no worker");
        }
        let remembered = fleet.inner().pool.over_budget();
        assert!((2..64).contains(&remembered), "{remembered} after {round}");
    }
    limit(9);
    fleet.run_ready(usize::MAX);
    assert_eq!(lives.map(|agent| fleet.mailbox_len(agent)), [Some(0); 2], "they were told");
}
