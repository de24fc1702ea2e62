//! What agents say of their work: progress while it runs, and outputs that a verifier looks at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::support::{Gate, LONG, Ledger, finish};
use phalanx::fleet::{
    AgentSpec, Attempt, Fleet, MAX_NOTE_BYTES, Outcome, OutcomeKind, Task, TaskError, TaskErrorKind,
};

/// Returns the number of its attempt, whatever was asked for.
fn boasting() -> AgentSpec<u64, u64> {
    AgentSpec::<u64, u64>::new("boasting").handler_fn(|_, cx| Ok(cx.attempt().get().into()))
}

fn kind(outcome: &Outcome<u64>) -> Option<TaskErrorKind> {
    match outcome {
        Outcome::Failed(error) => Some(error.kind()),
        _ => None,
    }
}

#[test]
fn an_output_that_is_not_accepted_completes_nothing() {
    let (ledger, seen) = (Arc::<Ledger>::default(), Arc::<AtomicU64>::default());
    let asked = Arc::clone(&seen);
    let verifier = move |task: &Task<u64>, attempt: Attempt, output: &u64| {
        asked.fetch_add(1, Ordering::SeqCst);
        assert_eq!(*output, u64::from(attempt.get()));
        match *task.payload() {
            wanted if wanted == *output => Ok(()),
            0 => Err(TaskError::permanent("nothing will do")),
            _ => Err(TaskError::retryable("not that one")),
        }
    };
    let builder = Fleet::builder().workers(1).task_log(ledger.clone());
    let fleet = builder.verifier(Arc::new(verifier)).build().unwrap();
    fleet.spawn(boasting()).unwrap();
    let second = fleet.submit(Task::new(2)).unwrap();
    assert_eq!(*second.wait(), Outcome::Completed(2), "the first one was rejected");
    let never = fleet.submit(Task::new(9)).unwrap();
    assert_eq!(kind(&never.wait()), Some(TaskErrorKind::Rejected), "three attempts, three claims");
    let hopeless = fleet.submit(Task::new(0)).unwrap();
    assert_eq!(kind(&hopeless.wait()), Some(TaskErrorKind::Rejected));
    assert_eq!(*ledger.outputs.lock().unwrap(), [2]);
    assert_eq!(fleet.stats().attempts_rejected, 5);
    assert_eq!(seen.load(Ordering::SeqCst), 6);
    let report = finish(&fleet);
    assert_eq!((report.completed, report.failed), (1, 2));
}

#[test]
fn a_verifier_that_panics_rejects_and_a_failed_attempt_is_not_shown_to_it() {
    let verifier = |task: &Task<u64>, attempt: Attempt, _: &u64| {
        assert!(*task.payload() == 0 || attempt.get() > 1, "it does not like the first");
        Ok(())
    };
    let fleet = Fleet::builder().workers(1).verifier(Arc::new(verifier)).build().unwrap();
    let spec = AgentSpec::<u64, u64>::new("failing once").handler_fn(|task, cx| {
        if *task.payload() == 0 && cx.attempt().get() == 1 {
            return Err(TaskError::retryable("not yet"));
        }
        Ok(cx.attempt().get().into())
    });
    let agent = fleet.spawn(spec).unwrap();
    assert_eq!(*fleet.submit(Task::new(1)).unwrap().wait(), Outcome::Completed(2));
    assert_eq!(*fleet.submit(Task::new(0)).unwrap().wait(), Outcome::Completed(2));
    let stats = fleet.stats();
    assert_eq!((stats.other_panics, stats.handler_panics, stats.attempts_rejected), (1, 0, 1));
    let reply = fleet.ask(agent, 1).unwrap();
    assert_eq!(reply.wait(), Outcome::Completed(0), "messages are not verified");
    finish(&fleet);
}

/// What is thrown away is dropped where a panic does no harm.
#[test]
fn a_rejected_output_may_panic_as_it_goes() {
    struct Loud(bool);
    impl Drop for Loud {
        fn drop(&mut self) {
            assert!(!self.0, "dropped");
        }
    }
    let verifier = |_: &Task<()>, _: Attempt, output: &Loud| {
        if output.0 { Err(TaskError::retryable("too loud")) } else { Ok(()) }
    };
    let fleet = Fleet::<(), Loud>::builder().workers(1).verifier(Arc::new(verifier));
    let fleet = fleet.build().unwrap();
    fleet
        .spawn(AgentSpec::new("loud").handler_fn(|_, cx| Ok(Loud(cx.attempt().get() < 3))))
        .unwrap();
    let handle = fleet.submit(Task::new(())).unwrap();
    assert_eq!(handle.wait().kind(), OutcomeKind::Completed);
    assert_eq!(fleet.stats().other_panics, 2);
    finish(&fleet);
}

#[test]
fn the_handle_tells_what_the_running_attempt_reported_last() {
    let fleet = Fleet::<u64, u64>::builder().workers(2).build().unwrap();
    let (gate, later) = (Gate::new(), Gate::new());
    let gates = [Arc::clone(&gate), Arc::clone(&later)];
    let spec = AgentSpec::<u64, u64>::new("reporting").handler_fn(move |_, cx| {
        let steps =
            [(0.25, "reading"), (7.0, "too much"), (-1.0, "too little"), (f32::NAN, "what")];
        let passing = &gates[cx.attempt().get() as usize - 1];
        if cx.attempt().get() == 1 {
            for (fraction, note) in steps {
                cx.report_progress(fraction, note);
                passing.pass();
            }
        }
        passing.pass();
        cx.report_progress(0.5, format!("attempt {}", cx.attempt()));
        passing.pass();
        Ok(0)
    });
    let agent = fleet.spawn(spec.clone()).unwrap();
    let handle = fleet.submit(Task::new(0)).unwrap();
    let told = || handle.progress().map(|progress| (progress.fraction, progress.note.into_owned()));
    let expected = [(0.25, "reading"), (1.0, "too much"), (0.0, "too little"), (0.0, "what")];
    for (arrivals, (fraction, note)) in (1..).zip(expected) {
        gate.await_arrivals(arrivals);
        assert_eq!(told(), Some((fraction, note.to_owned())));
        gate.permit();
    }
    gate.await_arrivals(5);
    fleet.kill(agent).unwrap();
    assert_eq!(told(), None, "the task is queued again");
    fleet.spawn(spec).unwrap();
    later.await_arrivals(1);
    assert_eq!(told(), None, "a new attempt has reported nothing");
    gate.permit();
    gate.await_arrivals(6);
    assert_eq!(told(), None, "the struck attempt reported to nobody");
    later.permit();
    later.await_arrivals(2);
    assert_eq!(handle.progress().map(|progress| progress.attempt.get()), Some(2));
    assert_eq!(told(), Some((0.5, "attempt 2".to_owned())));
    gate.open();
    later.open();
    assert!(handle.wait_timeout(LONG).is_some());
    assert_eq!(told(), None, "it has ended");
    finish(&fleet);
}

#[test]
fn a_struck_attempt_is_not_shown_to_the_verifier() {
    let (gate, seen) = (Gate::new(), Arc::<AtomicU64>::default());
    let asked = Arc::clone(&seen);
    let verifier = move |_: &Task<u64>, _: Attempt, _: &u64| {
        asked.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    let fleet = Fleet::builder().workers(1).verifier(Arc::new(verifier)).build().unwrap();
    let spec = {
        let gate = Arc::clone(&gate);
        AgentSpec::<u64, u64>::new("slow").handler_fn(move |task, _| {
            gate.pass();
            Ok(*task.payload())
        })
    };
    let first = fleet.spawn(spec.clone()).unwrap();
    let handle = fleet.submit(Task::new(1)).unwrap();
    gate.await_arrivals(1);
    fleet.kill(first).unwrap();
    gate.open();
    fleet.spawn(spec).unwrap();
    assert_eq!(*handle.wait(), Outcome::Completed(1));
    assert_eq!(fleet.stats().late_completions_refused, 1);
    assert_eq!(seen.load(Ordering::SeqCst), 1, "only the second attempt was");
    finish(&fleet);
}

#[test]
fn a_note_is_cut_where_it_ends_in_a_whole_character() {
    let gate = Gate::new();
    let fleet = Fleet::<u64, u64>::builder().workers(1).build().unwrap();
    let spec = {
        let gate = Arc::clone(&gate);
        AgentSpec::<u64, u64>::new("talker").handler_fn(move |task, cx| {
            // Three bytes each.
            let most = MAX_NOTE_BYTES / 3;
            cx.report_progress(0.1, "\u{20ac}".repeat(most + usize::from(*task.payload() == 1)));
            gate.pass();
            Ok(0)
        })
    };
    fleet.spawn(spec).unwrap();
    for (payload, is_cut) in [(0, false), (1, true)] {
        let handle = fleet.submit(Task::new(payload)).unwrap();
        gate.await_arrivals(usize::try_from(payload).unwrap() + 1);
        let progress = handle.progress().expect("it has reported");
        assert_eq!((progress.note.len(), progress.is_cut), (MAX_NOTE_BYTES / 3 * 3, is_cut));
        gate.permit();
        let _ = handle.wait();
    }
    finish(&fleet);
}
