//! Interleavings of checkpoints with groups, closes and failures.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use super::{Fails, Model};
use crate::ErrorKind;
use crate::state::Version;
use crate::sync::{explore, thread, weakened};

/// Runs `mine` and `others` at once. The model is kept from being dropped where a twin ends in a deadlock: loom cannot
/// run destructors then.
fn beside<A, B: 'static>(
    model: Arc<Model>,
    mine: impl FnOnce(&Model) -> A,
    others: impl FnOnce(&Model) -> B + 'static,
) -> (A, B, Arc<Model>) {
    let model = ManuallyDrop::new(model);
    let other = {
        let model = ManuallyDrop::new(Arc::clone(&model));
        thread::spawn(move || {
            let other = others(&model);
            drop(ManuallyDrop::into_inner(model));
            other
        })
    };
    let mine = mine(&model);
    let other = other.join().expect("the other does not panic");
    (mine, other, ManuallyDrop::into_inner(model))
}

fn commits_and_waits(model: &Model) {
    let version = model.commit();
    model.journal.wait(version).expect("the sink does not fail");
    model.acknowledged(version);
}

fn checkpoints(model: &Model) -> Version {
    model.journal.checkpoint().expect("the sink does not fail")
}

/// One writes a checkpoint; the other commits and waits, and so does the steps that it finds ready.
fn a_checkpoint_beside_a_group() {
    let model = Model::new();
    model.commit();
    let (version, (), model) = beside(model, checkpoints, commits_and_waits);
    assert!(version.as_u64() >= 1);
    let counts = model.journal.counts();
    assert!(!counts.checkpoint_pending && counts.checkpoints == 1, "{counts:?}");
}

/// The same with a group that owes more than may be left undone: who wrote it waits for whoever has the draft.
fn a_checkpoint_beside_a_large_group(fails: Fails) {
    let model = Model::of_large_groups(fails);
    model.commit();
    let (ended, waited, model) = beside(
        model,
        |model| model.journal.checkpoint().map_err(|error| error.kind()),
        |model| {
            let waited = model.try_commit().map(|version| model.journal.wait(version));
            waited.is_some_and(|waited| waited.is_ok())
        },
    );
    let expected = match fails {
        Fails::Nothing => ended.is_ok() && waited,
        Fails::Encoding => ended == Err(ErrorKind::Codec) && waited,
        Fails::Step => ended == Err(ErrorKind::Poisoned),
    };
    assert!(expected, "{ended:?}, {waited}");
    let counts = model.journal.counts();
    assert!(!counts.checkpoint_pending, "{counts:?}");
}

/// Two want one, of which the later may have to wait for that of the other and write another.
fn two_checkpoints() {
    let model = Model::new();
    model.commit();
    let (_, (), model) = beside(model, checkpoints, |model| {
        let committed = model.commit();
        assert!(checkpoints(model) >= committed);
    });
    let counts = model.journal.counts();
    assert!(!counts.checkpoint_pending && counts.checkpoints >= 1, "{counts:?}");
}

/// One writes a checkpoint; the other closes: it is valid, or was not finished.
fn a_checkpoint_beside_a_close() {
    let model = Model::new();
    let version = model.commit();
    let checkpoints = |model: &Model| model.journal.checkpoint().map_err(|error| error.kind());
    let (ended, (), model) = beside(model, checkpoints, Model::close);
    assert!(matches!(ended, Ok(_) | Err(ErrorKind::Closed)), "{ended:?}");
    let counts = model.journal.counts();
    assert!(counts.checkpoints == 1 || ended.is_err(), "{counts:?}");
    assert!(!counts.checkpoint_pending, "{counts:?}");
    model.acknowledged(version);
}

/// One writes a checkpoint; the other does what steps it finds and waits for nothing.
fn a_checkpoint_beside_maintenance() {
    let model = Model::new();
    model.commit();
    let (version, (), model) = beside(model, checkpoints, |model| {
        for _ in 0..2 {
            model.journal.advance(None).expect("the sink does not fail");
        }
    });
    assert_eq!(version.as_u64(), 1);
    let counts = model.journal.counts();
    assert!(counts.checkpoints == 1 && counts.checkpoint_steps == 2, "{counts:?}");
}

/// One writes a checkpoint whose first step fails; the other commits and waits: both are told, and nothing is
/// acknowledged that was not written.
fn a_step_that_fails_beside_a_group() {
    let model = Model::failing(Fails::Step);
    model.commit();
    let checkpoints = |model: &Model| model.journal.checkpoint().map_err(|error| error.kind());
    let (ended, waited, model) = beside(model, checkpoints, |model| {
        let version = model.try_commit()?;
        Some((version, model.journal.wait(version).map_err(|error| error.kind())))
    });
    assert_eq!(ended, Err(ErrorKind::Poisoned));
    if let Some((version, waited)) = waited {
        let durable = model.journal.durable() >= version;
        assert_eq!(waited, if durable { Ok(()) } else { Err(ErrorKind::Poisoned) });
    }
    model.acknowledged(model.journal.durable());
    assert!(model.journal.counts().poisoned && model.try_commit().is_none());
}

/// One writes a checkpoint that cannot be encoded; the other commits and waits, which goes on.
fn an_encoding_that_fails_beside_a_group() {
    let model = Model::failing(Fails::Encoding);
    model.commit();
    let checkpoints = |model: &Model| model.journal.checkpoint().map_err(|error| error.kind());
    let (ended, (), model) = beside(model, checkpoints, commits_and_waits);
    assert_eq!(ended, Err(ErrorKind::Codec));
    let counts = model.journal.counts();
    assert!(!counts.poisoned && counts.checkpoints_failed == 1, "{counts:?}");
    assert_eq!(checkpoints(&model).expect("it failed once").as_u64(), 2);
}

#[test]
fn loom_a_checkpoint_beside_a_group_is_done_and_of_what_was_appended() {
    explore(3, a_checkpoint_beside_a_group);
}

#[test]
fn loom_who_wrote_a_large_group_waits_for_its_steps_and_no_longer() {
    explore(2, || a_checkpoint_beside_a_large_group(Fails::Nothing));
    explore(2, || a_checkpoint_beside_a_large_group(Fails::Encoding));
    explore(2, || a_checkpoint_beside_a_large_group(Fails::Step));
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_who_wrote_a_large_group_and_is_not_woken_waits_for_ever() {
    weakened("state.journal.steppers", || {
        explore(2, || a_checkpoint_beside_a_large_group(Fails::Nothing));
    });
}

#[test]
fn loom_two_who_want_a_checkpoint_both_get_one() {
    explore(2, two_checkpoints);
}

#[test]
fn loom_a_checkpoint_and_a_close_both_end() {
    explore(3, a_checkpoint_beside_a_close);
}

#[test]
fn loom_a_checkpoint_is_done_once_whoever_does_its_steps() {
    explore(3, a_checkpoint_beside_maintenance);
}

#[test]
fn loom_a_step_that_fails_is_told_to_all_and_acknowledges_nothing() {
    explore(3, a_step_that_fails_beside_a_group);
}

#[test]
fn loom_an_encoding_that_fails_is_told_and_no_group_is_concerned() {
    explore(2, an_encoding_that_fails_beside_a_group);
}

#[test]
#[should_panic(expected = "a checkpoint is of what was appended last")]
fn loom_twin_a_checkpoint_of_the_newest_image_covers_what_was_not_appended() {
    weakened("state.journal.image", || explore(3, a_checkpoint_beside_a_group));
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_who_waits_for_a_draft_and_is_not_woken_waits_for_ever() {
    weakened("state.journal.steppers", || explore(2, two_checkpoints));
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_twin_who_waits_for_the_sink_and_is_not_woken_by_a_step_waits_for_ever() {
    weakened("state.journal.step.waiters", || explore(2, two_checkpoints));
}

#[test]
#[should_panic(expected = "there are two drafts")]
fn loom_twin_a_draft_that_is_taken_and_not_missed_gets_a_second_one() {
    weakened("state.journal.taken", || explore(2, two_checkpoints));
}
