//! Many threads at once, and the books balanced at every moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::support::{LONG, Ledger, Witness, balanced, finish};
use phalanx::fleet::{
    AgentSpec, Attempt, Fleet, FleetEvent, IdempotencyKey, IfDependencyFails, LeaseOutcome,
    OutcomeKind, Priority, Request, Task, TaskError, TaskHandle, TaskId,
};

const KINDS: [&str; 3] = ["rust", "python", "go"];

/// An agent under the name of its capability, so that an heir can be made like the victim.
fn spec(kind: usize) -> AgentSpec<u64, u64> {
    AgentSpec::<u64, u64>::new(KINDS[kind]).capability(KINDS[kind]).handler_fn(
        |task, cx| match task.payload() % 11 {
            3 => panic!("a handler panics"),
            5 if cx.attempt().get() < 2 => Err(TaskError::retryable("not the first time")),
            7 => Err(TaskError::permanent("never")),
            _ => {
                thread::yield_now();
                Ok(task.payload() * 2)
            }
        },
    )
}

/// What one thread of the storm does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Submit {
        kind: usize,
        priority: u8,
        payload: u64,
    },
    Batch {
        kind: usize,
        count: u64,
    },
    /// It is to end within so many milliseconds: at once, or soon.
    Timed {
        kind: usize,
        timeout: u64,
    },
    /// Another may have this key already.
    Keyed {
        kind: usize,
        key: u128,
        payload: u64,
    },
    /// It waits for some of the last that this thread has submitted.
    Dependent {
        kind: usize,
        on: usize,
        release: bool,
    },
    CancelLast,
    Kill {
        agent: usize,
    },
    Lease {
        kind: usize,
    },
    Stats,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0..3_usize, any::<u8>(), any::<u64>()).prop_map(|(kind, priority, payload)| {
            Act::Submit { kind, priority, payload: payload >> 8 }
        }),
        2 => (0..3_usize, 1..8_u64).prop_map(|(kind, count)| Act::Batch { kind, count }),
        2 => (0..3_usize, 0..3_u64).prop_map(|(kind, timeout)| Act::Timed { kind, timeout }),
        3 => (0..3_usize, 0..4_u128, 0..22_u64)
            .prop_map(|(kind, key, payload)| Act::Keyed { kind, key, payload }),
        4 => (0..3_usize, 1..4_usize, any::<bool>())
            .prop_map(|(kind, on, release)| Act::Dependent { kind, on, release }),
        1 => Just(Act::CancelLast),
        3 => any::<usize>().prop_map(|agent| Act::Kill { agent }),
        3 => (0..3_usize).prop_map(|kind| Act::Lease { kind }),
        1 => Just(Act::Stats),
    ]
}

/// What one thread knows of what it submitted.
#[derive(Debug, Default)]
struct Known {
    accepted: Vec<TaskId>,
    /// Those that were to end at once.
    late: Vec<TaskId>,
    keyed: Vec<(u128, TaskId)>,
    /// Those that wait for others, and whether they run though one of these fails.
    dependent: Vec<(TaskId, Vec<TaskId>, bool)>,
}

/// Plays one part.
fn play(fleet: &Fleet<u64, u64>, acts: &[Act]) -> Known {
    let mut handles: Vec<TaskHandle<u64>> = Vec::new();
    let mut known = Known::default();
    for act in acts {
        match *act {
            Act::Submit { kind, priority, payload } => {
                let task =
                    Task::new(payload).capability(KINDS[kind]).priority(Priority::new(priority));
                handles.extend(fleet.submit(task).ok());
            }
            Act::Batch { kind, count } => {
                let tasks = (0..count).map(|n| Task::new(n).capability(KINDS[kind])).collect();
                handles.extend(fleet.submit_batch(tasks).into_iter().flatten());
            }
            Act::Timed { kind, timeout } => {
                let task = Task::new(0).capability(KINDS[kind]);
                let handle = fleet.submit(task.timeout(Duration::from_millis(timeout))).ok();
                known.late.extend(handle.iter().filter(|_| timeout == 0).map(TaskHandle::id));
                handles.extend(handle);
            }
            Act::Keyed { kind, key, payload } => {
                let task = Task::new(payload).capability(KINDS[kind]);
                let handle = fleet.submit(task.idempotency_key(IdempotencyKey::new(key))).ok();
                known.keyed.extend(handle.iter().map(|handle| (key, handle.id())));
                handles.extend(handle);
            }
            Act::Dependent { kind, on, release } => {
                let on = &handles[handles.len().saturating_sub(on)..];
                let task = Task::new(0).capability(KINDS[kind]);
                let mut task = on.iter().fold(task, |task, other| task.after(other));
                if release {
                    task = task.if_dependency_fails(IfDependencyFails::Release);
                }
                if let Ok(handle) = fleet.submit(task) {
                    let on = on.iter().map(TaskHandle::id).collect();
                    known.dependent.push((handle.id(), on, release));
                    handles.push(handle);
                }
            }
            Act::CancelLast => {
                handles.last().map(|handle| handle.cancel());
            }
            Act::Kill { agent } => {
                let agents = fleet.agents();
                let victim = &agents[agent % agents.len()];
                // Another thread may have been faster; one is enough, and its heir has its skills.
                if fleet.kill(victim.id).is_ok() {
                    let kind = KINDS.iter().position(|kind| *kind == &*victim.name);
                    fleet.spawn(spec(kind.expect("all are named so"))).unwrap();
                }
            }
            Act::Lease { kind } => {
                let request = Request::any().capability(KINDS[kind]);
                if let Ok(lease) = fleet.try_allocate(&request) {
                    let agent = lease.agent();
                    thread::yield_now();
                    let alive = fleet.agent(agent).is_some();
                    if lease.complete(LeaseOutcome::Succeeded).is_ok() {
                        assert!(alive, "a dead agent does not come back");
                    }
                }
            }
            Act::Stats => balanced(&fleet.stats()),
        }
    }
    known.accepted = handles.iter().map(TaskHandle::id).collect();
    known
}

/// What the log has of tasks that were late, had keys or waited for others.
fn check_order(recorded: &[(TaskId, Attempt, OutcomeKind)], known: &[Known]) {
    let places = recorded.iter().zip(0..).map(|((task, _, kind), at)| (*task, (at, *kind)));
    let ended: HashMap<TaskId, (usize, OutcomeKind)> = places.collect();
    let completed = |task: &TaskId| ended[task].1 == OutcomeKind::Completed;
    for late in known.iter().flat_map(|known| &known.late) {
        assert!(!completed(late), "{late} was late from the beginning");
    }
    let mut done: HashMap<u128, TaskId> = HashMap::new();
    for (key, task) in known.iter().flat_map(|known| &known.keyed).filter(|of| completed(&of.1)) {
        let first = *done.entry(*key).or_insert(*task);
        assert_eq!(first, *task, "both were done, of key {key}");
    }
    for (task, on, release) in known.iter().flat_map(|known| &known.dependent) {
        for other in on.iter().filter(|_| completed(task)) {
            assert!(ended[other].0 < ended[task].0, "{task} was done before {other}");
            assert!(*release || completed(other), "{task} was done, and {other} was not");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// However submissions, kills, cancellations, leases, panics and a stop fall together.
    #[test]
    fn every_accepted_task_gets_exactly_one_outcome(
        parts in prop::collection::vec(prop::collection::vec(act(), 1..40), 1..4),
        agents in 1..4_usize,
        drains in any::<bool>(),
    ) {
        let (ledger, witness) = (Arc::<Ledger>::default(), Witness::new());
        let fleet = Fleet::builder()
            .workers(2)
            .task_log(ledger.clone())
            .observer(witness.clone())
            .remembered_keys(10_000)
            .build()
            .unwrap();
        for kind in 0..KINDS.len() {
            fleet.spawn_batch(&spec(kind), agents).unwrap();
        }
        let threads: Vec<_> = parts
            .into_iter()
            .map(|acts| {
                let fleet = fleet.clone();
                thread::spawn(move || play(&fleet, &acts))
            })
            .collect();
        let known: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let mut accepted: Vec<_> = known.iter().flat_map(|known| known.accepted.clone()).collect();
        if drains {
            let report = fleet.drain(LONG).unwrap();
            assert!(report.is_complete(), "{report:?}");
            assert_eq!(report.returned, 0);
        }
        let report = finish(&fleet);
        accepted.sort_unstable();
        // Several may have submitted one key.
        accepted.dedup();

        let recorded = ledger.settled.lock().unwrap().clone();
        let mut settled: Vec<_> = recorded.iter().map(|(task, ..)| *task).collect();
        settled.sort_unstable();
        assert_eq!(settled, accepted, "the log has each once");
        let told: HashMap<_, _> = witness
            .events()
            .into_iter()
            .filter_map(|event| match event {
                FleetEvent::TaskSettled { task, attempt, outcome, .. } => {
                    Some((task, (attempt, outcome)))
                }
                _ => None,
            })
            .collect();
        assert_eq!(told.len(), accepted.len());
        for (task, attempt, outcome) in &recorded {
            assert_eq!(told[task], (*attempt, *outcome), "the log and the event agree");
        }
        check_order(&recorded, &known);
        let count = |kind| recorded.iter().filter(|(.., outcome)| *outcome == kind).count() as u64;
        assert_eq!(report.completed, count(OutcomeKind::Completed));
        assert_eq!(report.failed, count(OutcomeKind::Failed));
        assert_eq!(report.returned, count(OutcomeKind::Returned));
        assert_eq!(report.cancelled, count(OutcomeKind::Cancelled));
        let stats = fleet.stats();
        assert_eq!((stats.leases_live, stats.agents_live), (0, 0));
        assert_eq!(stats.agents_spawned, stats.agents_killed + stats.agents_stopped);
    }
}

#[test]
fn the_books_balance_at_every_reading() {
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    fleet.spawn_batch(&spec(0), 2).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let auditor = {
        let (fleet, done) = (fleet.clone(), Arc::clone(&done));
        thread::spawn(move || {
            let mut readings = 0_u64;
            while !done.load(Ordering::SeqCst) {
                balanced(&fleet.stats());
                readings += 1;
                thread::yield_now();
            }
            readings
        })
    };
    for n in 0..300 {
        drop(fleet.submit(Task::new(n).capability("rust")).unwrap());
        if n % 50 == 0 {
            let victim = fleet.agents()[0].id;
            fleet.spawn(spec(0)).unwrap();
            fleet.kill(victim).unwrap();
        }
    }
    fleet.drain(LONG).unwrap();
    done.store(true, Ordering::SeqCst);
    assert!(auditor.join().unwrap() > 0);
    assert_eq!(finish(&fleet).accepted, 300);
}
